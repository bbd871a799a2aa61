/* comm_thread_internal: what the ranks of the thread transport share (comm_thread.c makes it and
 * holds the collectives, comm_thread_message.c the messages). One lock guards all of it; it is held
 * for list work and small copies only. */
#ifndef HLM_EXEC_COMM_THREAD_INTERNAL_H
#define HLM_EXEC_COMM_THREAD_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "exec/comm/comm_internal.h"

enum { HLM_THREAD_NOBODY = -1 };

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

struct hlm_thread_member {
    pthread_cond_t wake; /* the rank sleeps on it, nobody else */
    bool left;
};

struct hlm_thread_shared {
    pthread_mutex_t lock;
    int32_t world_size, num_open, aborted_by;
    bool spins; /* every rank has a core: look a while before sleeping */
    double timeout_s;
    struct hlm_thread_member *members; /* [world_size] */
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

/* For the lock's holder. What: "a message from", "the arrival of". */
struct timespec hlm_thread_deadline(double seconds);
/* Sleeps until another rank wakes this one; false after the deadline. */
bool hlm_thread_sleep(struct hlm_thread_comm *self, const struct timespec *deadline);
void hlm_thread_wake(struct hlm_thread_shared *shared, int32_t rank);
/* HLM_FAILED when a wait for `peer` would be in vain: it has left, or somebody has ended the run.
 */
HLM_MUST_CHECK enum hlm_status hlm_thread_check_peer(const struct hlm_thread_comm *self,
                                                     int32_t peer, const char *what,
                                                     struct hlm_err *err);
enum hlm_status hlm_thread_fail_late(const struct hlm_thread_comm *self, int32_t peer,
                                     const char *what, struct hlm_err *err);

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
