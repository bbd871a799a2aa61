/* launch_meeting: where ranks of separate processes meet: rank 0 listens on a TCP port, the others
 * come to it (exec/bootstrap/bootstrap.h). Here are its numbers and the listening socket, which the
 * launcher opens for the ranks that it starts itself and rank 0 where another launcher started it.
 *
 * The port is
 *   - MASTER_PORT + HLM_MEETING_PORT_OFFSET (minus it, where the sum is above 65535), since
 *     torchrun's own store may hold MASTER_PORT itself;
 *   - in a Slurm step without MASTER_PORT: HLM_MEETING_SLURM_BASE + (8 * job + step) modulo
 *     HLM_MEETING_SLURM_PORTS, which keeps clear of the ports that Linux gives to outgoing
 *     connections (from 32768) and lets eight steps of a job meet at once.
 */
#ifndef HLM_EXEC_LAUNCH_MEETING_H
#define HLM_EXEC_LAUNCH_MEETING_H

#include <stdint.h>

#include "base/err.h"

enum {
    HLM_MEETING_PORT_OFFSET = 17,
    HLM_MEETING_SLURM_BASE = 20000,
    HLM_MEETING_SLURM_PORTS = 12000
};

/* The listening socket that rank 0 inherits from our launcher: its descriptor's number. */
#define HLM_MEETING_VARIABLE "HLM_MEETING"

int32_t hlm_meeting_port_of_master(int64_t master_port);
int32_t hlm_meeting_port_of_slurm(int64_t job, int64_t step);

/* Listens on `port` (0: any that is free): only this machine can come where the address is a
 * loopback one, else everybody. The descriptor is non-blocking and closes on exec. HLM_ENV: "port
 * 29517: Address already in use". */
HLM_MUST_CHECK enum hlm_status hlm_meeting_listen(const char *address, int32_t port, int *out_fd,
                                                  struct hlm_err *err);
/* The port that a listening socket has. */
int32_t hlm_meeting_port(int fd);

#endif
