/* What the two parts of profiler_link_queue share: profiler_link_world.c knows ranks, devices and
 * groups, profiler_link_queue.c times transfers. */
#ifndef HLM_EXEC_PROFILER_LINK_QUEUE_INTERNAL_H
#define HLM_EXEC_PROFILER_LINK_QUEUE_INTERNAL_H

#include "exec/profiler/profiler_link_queue.h"

struct hlm_link_bench {
    struct hlm_arena *arena;
    const struct hlm_profiler_queue_links_config *config;
    struct hlm_comm *comm;
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    struct hlm_event *begin, *end;
    char *data;
    int32_t *nodes;
    double deadline_s;
    bool stopped; /* the same on all ranks */
    struct hlm_profiler_queue_links *out;
};

/* A group kind as rank 0 sees it. */
struct hlm_link_shape {
    enum hlm_group group;
    int32_t num_ranks, num_nodes, num_groups; /* num_groups: of this kind in the world */
    bool is_mine;                             /* this rank is in rank 0's group */
};

/* Makes queue, events and data (zeros), and puts the transport on the queue. */
HLM_MUST_CHECK enum hlm_status hlm_link_bench_init(struct hlm_link_bench *links,
                                                   struct hlm_err *err);
/* Of what there is. After a failure (status) it aborts the transport first. */
void hlm_link_bench_release(struct hlm_link_bench *links, enum hlm_status status);

/* Until the queue is empty; then the time of `end` stands. HLM_FAILED: a peer left. */
HLM_MUST_CHECK enum hlm_status hlm_link_bench_wait(struct hlm_link_bench *links,
                                                   struct hlm_err *err);

/* Sets `stopped` on all ranks: whether rank 0's budget is over. collective over the world */
HLM_MUST_CHECK enum hlm_status hlm_link_bench_agree(struct hlm_link_bench *links,
                                                    struct hlm_err *err);

/* `bytes` of each rank, 64 at most, from `own`, to all of them. collective over the world */
HLM_MUST_CHECK enum hlm_status hlm_link_bench_gather(struct hlm_link_bench *links, const void *own,
                                                     int64_t bytes, void *all, struct hlm_err *err);

/* Sets nodes, and those of *out that tell of ranks. collective over the world */
HLM_MUST_CHECK enum hlm_status hlm_link_bench_find_nodes(struct hlm_link_bench *links,
                                                         struct hlm_err *err);

/* Behind find_nodes. */
struct hlm_link_shape hlm_link_bench_shape(const struct hlm_link_bench *links,
                                           enum hlm_group group);

#endif
