/* comm_queue_internal: what the ranks of the queue transport share: comm_queue.c makes it and holds
 * the collectives, comm_queue_meet.c the meetings before and after them, comm_queue_message.c the
 * messages. One lock guards all that is shared; under it only lists and numbers are changed, and
 * events are asked whether they are done. */
#ifndef HLM_EXEC_COMM_QUEUE_INTERNAL_H
#define HLM_EXEC_COMM_QUEUE_INTERNAL_H

#include "exec/comm/comm_internal.h"
#include "exec/comm/comm_queue.h"
#include "exec/comm/crew.h"

enum { HLM_QUEUE_MAX_QUEUES = 16 };

/* What a member calls; all members of a meeting must agree. */
struct hlm_queue_call {
    const char *name;
    int64_t count;
    enum hlm_wire type;
    enum hlm_reduce reduce;
};

/* What a member shows to the others: its data, and the event behind which it may be read (or, in a
 * later meeting of the call, behind which it is no longer read). */
struct hlm_queue_show {
    struct hlm_queue_call call;
    const unsigned char *data;
    struct hlm_event *event; /* NULL: nothing to wait for */
};

/* A group's meeting place. Each meeting uses the half of `shows` and of the members' events that
 * the last did not; nobody can be two meetings ahead, so what is read is never written over. */
struct hlm_queue_cell {
    int32_t size, num_arrived;
    uint64_t generation;
    uint64_t *arrived;            /* [size]: meetings that the member has come to */
    struct hlm_queue_show *shows; /* [2][size] */
    bool broken;                  /* a member has given up: no meeting comes about any more */
    int32_t broken_by;            /* its rank */
    char clash[300];              /* two calls that don't agree, "": none */
};

/* A rank as the others see it. */
struct hlm_queue_member {
    const char *waits_in;      /* NULL: it does not wait */
    enum hlm_group waits_over; /* NONE: for a message */
    struct hlm_request
        *posted; /* messages to it or from it whose other side is missing, in order */
    struct hlm_request *unused, *all;
};

struct hlm_queue_shared {
    struct hlm_crew crew;
    int64_t chunk_bytes;
    struct hlm_queue_member *members; /* [world_size]; posted: by receiver */
    struct hlm_queue_cell *cells; /* [HLM_NUM_GROUPS][world_size], by the group's first member */
};

/* Two chunks of device memory for the sums on one queue. */
struct hlm_queue_scratch {
    const struct hlm_queue *queue;
    void *memory;
};

struct hlm_queue_comm {
    struct hlm_comm base;
    struct hlm_queue_shared *shared;
    struct hlm_comm_groups groups;
    struct hlm_backend *backend;
    struct hlm_queue *queue; /* in use */
    struct hlm_event *events[HLM_NUM_GROUPS][2];
    struct hlm_queue_scratch scratch[HLM_QUEUE_MAX_QUEUES];
    int32_t num_scratch;
};

/* --- waiting; for the lock's holder --- */

/* Also says what the peer waits for. */
enum hlm_status hlm_queue_fail_late(const struct hlm_queue_comm *self, int32_t peer,
                                    const char *what, struct hlm_err *err);

/* Waits until the event is done, not longer than the deadline; not under the lock. */
bool hlm_queue_settle(const struct hlm_queue_comm *self, struct hlm_event *event,
                      const struct timespec *deadline);

/* --- meetings --- */

/* Records where the queue in use stands, shows `data` to the group, blocks until all members have
 * shown theirs (*out [group size], until the next meeting but one), and puts the queue behind all
 * of them. After a failure no meeting of the group comes about any more. collective over the group
 */
HLM_MUST_CHECK enum hlm_status hlm_queue_meet(struct hlm_queue_comm *self,
                                              const struct hlm_comm_group *group,
                                              const struct hlm_queue_call *call, const void *data,
                                              const struct hlm_queue_show **out,
                                              struct hlm_err *err);
/* After a failure behind the first meeting of a call, whose data peers may be reading: returns when
 * they no longer do (or after timeout_s). */
void hlm_queue_give_up(struct hlm_queue_comm *self, const struct hlm_comm_group *group);
/* Without data and queue. */
HLM_MUST_CHECK enum hlm_status hlm_queue_meet_hosts(struct hlm_queue_comm *self,
                                                    const struct hlm_comm_group *group,
                                                    struct hlm_err *err);

/* --- messages: the operations of struct hlm_comm_ops --- */

enum hlm_status hlm_queue_send(struct hlm_comm *comm, int32_t peer, int32_t channel,
                               const void *data, int64_t bytes, struct hlm_request **out,
                               struct hlm_err *err);
enum hlm_status hlm_queue_receive(struct hlm_comm *comm, int32_t peer, int32_t channel, void *data,
                                  int64_t bytes, struct hlm_request **out, struct hlm_err *err);
enum hlm_status hlm_queue_wait(struct hlm_comm *comm, struct hlm_request *request,
                               struct hlm_err *err);

/* Withdraws the rank's messages and waits for those whose copy is on a queue, so that nobody
 * touches its buffers after it; frees their events. Not under the lock. */
void hlm_queue_messages_release(struct hlm_queue_comm *self);
/* Frees the requests themselves, when no rank is left. */
void hlm_queue_requests_free(struct hlm_queue_shared *shared);

#endif
