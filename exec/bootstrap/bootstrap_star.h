/* bootstrap_star: the star of the TCP meeting (exec/bootstrap/bootstrap.h), shared by
 * bootstrap_meeting.c, where ranks come together, and bootstrap_tcp.c, what they say after that. */
#ifndef HLM_EXEC_BOOTSTRAP_STAR_H
#define HLM_EXEC_BOOTSTRAP_STAR_H

#include <poll.h>

#include "exec/bootstrap/bootstrap_frame.h"
#include "exec/bootstrap/bootstrap_internal.h"

enum { HLM_STAR_STRANGERS = 64 };

/* How much later than rank 0 the others give up, so that its words reach them. */
#define HLM_STAR_MARGIN_S 5.0

struct hlm_star_peer {
    int fd; /* -1: none */
    double since_s;
    struct hlm_hello hello;
    struct hlm_frame frame; /* that is arriving */
};

struct hlm_star {
    struct hlm_bootstrap base;
    struct hlm_hello hello;
    double timeout_s;
    char place[300];                 /* "node1 port 29517" */
    struct hlm_star_peer *peers;     /* rank 0: [world_size], by rank; others: one, rank 0 */
    struct hlm_star_peer *strangers; /* rank 0, before their hello: [HLM_STAR_STRANGERS] */
    struct pollfd *polls;            /* as many as both together, and the listener */
    int listener;
};

int32_t hlm_star_num_peers(const struct hlm_star *star);
void hlm_star_close(struct hlm_star_peer *peer);

/* Tells all who are connected of a failure, and waits a second at most until they have heard it. */
void hlm_star_tell_all(struct hlm_star *star, const struct hlm_err *failure);

/* On rank 0: "2, 5-7", the ranks of which it is true; cut to the room. */
void hlm_star_name(const struct hlm_star *star, bool (*is_one)(const struct hlm_star_peer *peer),
                   char *text, size_t size);

/* The meeting. The star is released by the caller, also where it fails. collective */
HLM_MUST_CHECK enum hlm_status
hlm_star_meet(struct hlm_star *star, const struct hlm_meeting *meeting, struct hlm_err *err);

#endif
