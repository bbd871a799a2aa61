/* comm_nccl_internal: the NCCL transport's own parts: a rank's communicators, how they are made and
 * given up (comm_nccl_links.c), the operations over them (comm_nccl.c), and how these are watched
 * while a queue is synced (comm_nccl_watch.c). */
#ifndef HLM_EXEC_CUDA_COMM_NCCL_INTERNAL_H
#define HLM_EXEC_CUDA_COMM_NCCL_INTERNAL_H

#include <nccl.h>
#include <pthread.h>
#include <stdatomic.h>

#include "exec/cuda/comm_nccl.h"
#include "exec/cuda/host.h"

/* Communicators in the order in which all ranks make them. A group whose members are those of an
 * earlier one uses that one's (MODEL is TP without pipeline and WORLD without data parallelism).
 * The four of messages are over the world, since messages go between any two ranks; a message uses
 * that of its channel and of the parity of its sender's pipeline stage. Operations of one
 * communicator run one after the other, whatever queues they are on, so a receive that was posted
 * early would hold up a send on the same one. Neighbouring stages differ in parity: a stage sends
 * on one communicator and receives on another (but for the step from the last to the first of an
 * odd number of stages). */
#define HLM_NCCL_LINK_MAP(X)                                                                       \
    X(WORLD, HLM_GROUP_WORLD)                                                                      \
    X(TP, HLM_GROUP_TP)                                                                            \
    X(DP, HLM_GROUP_DP)                                                                            \
    X(FORWARD_EVEN, HLM_GROUP_WORLD)                                                               \
    X(FORWARD_ODD, HLM_GROUP_WORLD)                                                                \
    X(BACKWARD_EVEN, HLM_GROUP_WORLD)                                                              \
    X(BACKWARD_ODD, HLM_GROUP_WORLD)                                                               \
    X(PP, HLM_GROUP_PP)                                                                            \
    X(EMBEDDING, HLM_GROUP_EMBEDDING)                                                              \
    X(MODEL, HLM_GROUP_MODEL)                                                                      \
    X(CP, HLM_GROUP_CP)                                                                            \
    X(EP, HLM_GROUP_EP)                                                                            \
    X(EDP, HLM_GROUP_EDP)
enum hlm_nccl_link {
#define X(name, group) HLM_NCCL_LINK_##name,
    HLM_NCCL_LINK_MAP(X)
#undef X
        HLM_NCCL_NUM_LINKS
};

enum { HLM_NCCL_NUM_CHANNELS = 2, HLM_NCCL_MAX_QUEUES = 16, HLM_NCCL_NOBODY = -1 };

/* An operation that may not have run yet. */
struct hlm_nccl_pending {
    struct hlm_nccl_pending *next; /* a later one, or in the pool */
    cudaEvent_t done;
    const char *name;
    enum hlm_group group;
    int32_t peer; /* HLM_NCCL_NOBODY: all of the group */
};

struct hlm_request {
    cudaEvent_t done;
    struct hlm_request *next; /* in the pool */
};

struct hlm_nccl_comm {
    struct hlm_comm base;
    double timeout_s;
    struct hlm_queue *queue;                       /* in use */
    struct hlm_queue *queues[HLM_NCCL_MAX_QUEUES]; /* that were in use: their syncs are watched */
    int32_t num_queues;
    int32_t *stages;                             /* [world_size]: pipeline stage of each rank */
    ncclComm_t links[HLM_NCCL_NUM_LINKS];        /* NULL: none of its own */
    enum hlm_nccl_link of_group[HLM_NUM_GROUPS]; /* HLM_NCCL_NUM_LINKS: alone, or no member */
    struct hlm_nccl_pending *oldest, *newest, *unused;
    double progress_s; /* when the oldest pending operation became the oldest */
    struct hlm_request *pool;
    void *scratch; /* of barriers */
    pthread_t owner;
    atomic_bool stopped; /* by abort */
    bool failed;         /* the communicators are gone */
};

/* Notes the operation that was put on the queue in use last. */
HLM_MUST_CHECK enum hlm_status hlm_nccl_follow(struct hlm_nccl_comm *self, const char *name,
                                               enum hlm_group group, int32_t peer,
                                               struct hlm_err *err);
/* From now on a sync of the queue looks for errors, aborts and operations that make no progress. */
void hlm_nccl_watch(struct hlm_nccl_comm *self, struct hlm_queue *queue);
void hlm_nccl_unwatch_all(struct hlm_nccl_comm *self);
void hlm_nccl_pending_free(struct hlm_nccl_comm *self);

/* Makes all communicators; timeout_s, rank and world_size must be set. collective */
HLM_MUST_CHECK enum hlm_status hlm_nccl_links_make(struct hlm_nccl_comm *self,
                                                   const struct hlm_cuda_comm_config *config,
                                                   struct hlm_err *err);

/* Lets what is under way finish; communicators whose peers don't come along are aborted. */
void hlm_nccl_links_close(struct hlm_nccl_comm *self);

/* Aborts all communicators: whoever waits for them goes on with an error. */
void hlm_nccl_links_abort(struct hlm_nccl_comm *self);

/* HLM_FAILED after an abort, from wherever it came. */
HLM_MUST_CHECK enum hlm_status hlm_nccl_check_alive(struct hlm_nccl_comm *self,
                                                    struct hlm_err *err);

/* HLM_FAILED when a communicator tells an error that came up in the background; aborts then. */
HLM_MUST_CHECK enum hlm_status hlm_nccl_links_check(struct hlm_nccl_comm *self,
                                                    struct hlm_err *err);

/* A call on a non-blocking communicator may go on in the background: waits until it is through.
 * result: what the call returned. An error aborts all. */
HLM_MUST_CHECK enum hlm_status hlm_nccl_settle(struct hlm_nccl_comm *self, ncclComm_t link,
                                               ncclResult_t result, const char *what,
                                               struct hlm_err *err);

#endif
