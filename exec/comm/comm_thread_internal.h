/* comm_thread_internal: what the ranks of the thread transport share (comm_thread.c makes it and
 * holds the collectives, comm_thread_message.c the messages). One lock guards all of it; it is held
 * for list work and small copies only. */
#ifndef HLM_EXEC_COMM_THREAD_INTERNAL_H
#define HLM_EXEC_COMM_THREAD_INTERNAL_H

#include <stdatomic.h>

#include "exec/comm/comm_internal.h"
#include "exec/comm/crew.h"

struct hlm_thread_queue {
    struct hlm_request *first, *last;
};

/* A group's meeting place for small collectives. Each meeting uses the half of `data` that the last
 * did not; nobody can be two meetings ahead, so what is read is never written over. */
struct hlm_thread_cell {
    int32_t size, num_arrived;
    _Atomic(uint64_t) generation;
    uint64_t *arrived;   /* [size]: meetings that the member has come to */
    unsigned char *data; /* [2][size][HLM_RING_MIN_BYTES] */
};

struct hlm_thread_shared {
    struct hlm_crew crew;
    bool spins;                      /* every rank has a core: look a while before sleeping */
    struct hlm_thread_queue *queues; /* [world_size], by receiver: posted, the other side is not */
    struct hlm_thread_cell *cells;   /* [HLM_NUM_GROUPS][world_size], by the group's first member */
    struct hlm_request *all, *unused;
};

struct hlm_thread_comm {
    struct hlm_comm base;
    struct hlm_thread_shared *shared;
    struct hlm_comm_groups groups;
    struct hlm_ring ring;
};

/* The message operations of struct hlm_comm_ops. */
enum hlm_status hlm_thread_send(struct hlm_comm *comm, int32_t peer, int32_t channel,
                                const void *data, int64_t bytes, struct hlm_request **out,
                                struct hlm_err *err);
enum hlm_status hlm_thread_receive(struct hlm_comm *comm, int32_t peer, int32_t channel, void *data,
                                   int64_t bytes, struct hlm_request **out, struct hlm_err *err);
enum hlm_status hlm_thread_wait(struct hlm_comm *comm, struct hlm_request *request,
                                struct hlm_err *err);
/* Withdraws the messages of a rank that leaves, so that nobody touches its buffers after it; for
 * the lock's holder. */
void hlm_thread_withdraw(struct hlm_thread_comm *self);
void hlm_thread_requests_free(struct hlm_thread_shared *shared);

#endif
