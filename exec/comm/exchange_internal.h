/* exchange_internal: what the parts of the exchange share: exchange.c is what callers see, and does
 * what is the same for both kinds of transport; exchange_host.c and exchange_queue.c are the two
 * kinds, a table of functions each. Arguments are checked and groups of one rank are dealt with
 * before a kind is called; errors get the action's name behind it. */
#ifndef HLM_EXEC_EXCHANGE_INTERNAL_H
#define HLM_EXEC_EXCHANGE_INTERNAL_H

#include "exec/comm/comm_internal.h"
#include "exec/comm/exchange.h"
#include "exec/comm/hostcopy.h"

/* A collective operator as a transport takes it. */
struct hlm_exchange_op {
    enum hlm_op_kind kind;
    enum hlm_group group;
    enum hlm_wire type;
    enum hlm_reduce reduce;
    int64_t whole, part; /* elements: of the group's buffer, of one rank's share */
    void *in, *out;      /* out NULL: in place */
    int64_t in_bytes, out_bytes;
    const int64_t *sent_bytes, *received_bytes; /* ALL_TO_ALL: [group size] */
};

struct hlm_transfer {
    struct hlm_transfer *next; /* in the pool */
    const char *operation;
    struct hlm_request *request; /* messages */
    bool receives;
    enum hlm_channel channel;
    int32_t peer;
    void *data;
    int64_t bytes;
    char *staging; /* host kind: in the arena, NULL where the host reaches the data */
    int64_t capacity;
    struct hlm_exchange_mark *mark; /* queue kind: of a collective beside computing, else NULL */
};

/* A stretch of a queue that may stand still for the sake of others: the queue has come to it when
 * `begin` has run and is through when `end` has. */
struct hlm_exchange_mark {
    struct hlm_exchange_mark *next, *next_all;
    struct hlm_event *begin, *end;
    const char *action, *operation;
    enum hlm_group group;
    int32_t peer;    /* of a message; -1: all of the group */
    double *seconds; /* where its length is added, NULL: nowhere */
};

/* The queues beside the compute queue. */
enum hlm_lane {
    HLM_LANE_BESIDE,
    HLM_LANE_SEND,
    HLM_LANE_RECEIVE = HLM_LANE_SEND + HLM_NUM_CHANNELS,
    HLM_NUM_LANES = HLM_LANE_RECEIVE + HLM_NUM_CHANNELS
};

struct hlm_exchange_lanes {
    struct hlm_queue *queues[HLM_NUM_LANES];
    struct hlm_event *tie;                 /* orders one queue behind another */
    struct hlm_event *last;                /* of a sync */
    struct hlm_exchange_mark *first, *end; /* on the compute queue, in order; not harvested yet */
    struct hlm_exchange_mark *watched;     /* the first of them that is not through */
    struct hlm_exchange_mark *unused, *all;
    double reached_s; /* when the compute queue was seen to stand at `watched`, 0: not yet */
    void *scratch;    /* device memory for values of the host */
    int64_t scratch_bytes;
    void *sums; /* host memory, for a share of the scratch */
};

struct hlm_exchange {
    struct hlm_exchange_config config;
    const struct hlm_exchange_kind *kind;
    struct hlm_arena *arena;
    struct hlm_comm_groups groups;
    struct hlm_exchange_times *times; /* [num_slots] */
    const char *action;
    const char *blamed; /* the action that a failure is about, where it is an earlier one */
    int32_t slot;
    bool failed;
    struct hlm_transfer *unused;
    int64_t *sizes;     /* of all_to_all: bytes to, then from, each rank of the largest group */
    int32_t *counts[2]; /* what the device says of it, [num_counts] */
    int64_t num_counts;
    struct hlm_hostcopy host;        /* host kind */
    struct hlm_exchange_lanes lanes; /* queue kind */
};

struct hlm_exchange_kind {
    enum hlm_status (*init)(struct hlm_exchange *exchange, struct hlm_err *err);
    void (*release)(struct hlm_exchange *exchange); /* also what init made half */
    enum hlm_status (*collective)(struct hlm_exchange *exchange,
                                  const struct hlm_exchange_op *collective, struct hlm_err *err);
    /* *done: nothing has to be waited for. */
    enum hlm_status (*start)(struct hlm_exchange *exchange,
                             const struct hlm_exchange_op *collective,
                             struct hlm_transfer *transfer, bool *done, struct hlm_err *err);
    enum hlm_status (*post)(struct hlm_exchange *exchange, struct hlm_transfer *message,
                            struct hlm_err *err);
    enum hlm_status (*wait)(struct hlm_exchange *exchange, struct hlm_transfer *transfer,
                            struct hlm_err *err);
    enum hlm_status (*host_sum)(struct hlm_exchange *exchange, enum hlm_group group, double *values,
                                int32_t count, const char *operation, struct hlm_err *err);
    enum hlm_status (*host_gather)(struct hlm_exchange *exchange, enum hlm_group group,
                                   const void *in, void *out, int64_t bytes, struct hlm_err *err);
    enum hlm_status (*barrier)(struct hlm_exchange *exchange, enum hlm_group group,
                               struct hlm_err *err);
    enum hlm_status (*sync)(struct hlm_exchange *exchange, struct hlm_err *err);
};
extern const struct hlm_exchange_kind hlm_exchange_host, hlm_exchange_queue;

double hlm_exchange_wall_s(void);
void hlm_exchange_tell(const struct hlm_exchange *exchange, const char *operation, bool waiting);

/* The transport's function for the collective, over addresses that it can use. */
HLM_MUST_CHECK enum hlm_status hlm_exchange_call(struct hlm_exchange *exchange,
                                                 const struct hlm_exchange_op *collective, void *in,
                                                 void *out, struct hlm_err *err);

/* Where seconds of the running action are counted; NULL without a slot. */
double *hlm_exchange_collective_s(struct hlm_exchange *exchange);
double *hlm_exchange_message_s(struct hlm_exchange *exchange);
double *hlm_exchange_beside_s(struct hlm_exchange *exchange);

#endif
