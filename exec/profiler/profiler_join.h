/* profiler_join: the profile of a mixed cluster. Each kind of its nodes was profiled by itself; now
 * a rank stands on a node of each, the links between them are measured, and the joined cluster is
 * written.
 */
#ifndef HLM_EXEC_PROFILER_JOIN_H
#define HLM_EXEC_PROFILER_JOIN_H

#include "base/arena.h"
#include "exec/backend.h"
#include "exec/comm/comm.h"
#include "exec/launch/heartbeat.h"

struct hlm_profiler_join_config {
    const char *directory; /* rank 0 writes its cluster.json; made where it does not exist */
    const char *parts;     /* as hlm_cluster_load_parts takes them, as many as ranks, in their
                              order; rank 0 reads them */
    bool quick;            /* a third of the repetitions */
};

/* heartbeat may be NULL. HLM_INPUT: the parts; HLM_ENV: no memory; HLM_FAILED: a peer left, or the
 * folder can't be written. collective over the world */
HLM_MUST_CHECK enum hlm_status
hlm_profiler_join_run(struct hlm_arena *arena, const struct hlm_profiler_join_config *config,
                      struct hlm_backend *backend, struct hlm_comm *comm,
                      struct hlm_heartbeat *heartbeat, struct hlm_err *err);

#endif
