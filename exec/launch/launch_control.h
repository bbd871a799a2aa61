/* launch_control: the launcher's end of the control channel (exec/launch/control.h): the private
 * folder of a run, the listening socket and the text of HLM_CONTROL. */
#ifndef HLM_EXEC_LAUNCH_CONTROL_H
#define HLM_EXEC_LAUNCH_CONTROL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"

struct hlm_control {
    const char *folder; /* hlmplan-<pid>-..., mode 0700; release removes it with all its content */
    const char *shared; /* the same in /dev/shm, for MPI's shared memory, or NULL */
    const char *word;   /* 32 hexadecimal digits */
    const char *variable; /* "HLM_CONTROL=..." for the environment of the ranks */
    int listener;         /* non-blocking */
};

/* remote: listens on TCP at all addresses of this machine, else on a Unix-domain socket. HLM_ENV
 * when the folder (under TMPDIR or /tmp) or the socket can't be made; then nothing is left. */
HLM_MUST_CHECK enum hlm_status hlm_control_init(struct hlm_control *out, struct hlm_arena *arena,
                                                bool mpi, bool remote, struct hlm_err *err);
void hlm_control_release(struct hlm_control *control);

/* The parsed form of "host:slots,..." and what follows from it. An IPv6 address stands in brackets.
 * HLM_USAGE names the piece that is wrong or says that the slots are fewer than num_ranks. */
struct hlm_launch_hosts {
    const char *hostfile; /* content for mpirun's --hostfile */
    bool remote;          /* some host is not this machine */
    /* The hosts that have ranks, and how many each: [num], in order. */
    const char *const *names;
    const int32_t *num_ranks;
    int32_t num;
};
HLM_MUST_CHECK enum hlm_status hlm_launch_hosts_parse(struct hlm_launch_hosts *out,
                                                      struct hlm_arena *arena, const char *text,
                                                      int32_t num_ranks, struct hlm_err *err);

#endif
