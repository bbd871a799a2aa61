#include "exec/rank_messages.h"

#include <stdlib.h>
#include <string.h>

#include "exec/profiler/profiler_link.h"

enum { NUM_REPEATS = 9 };

static enum hlm_status measure_replica(const struct hlm_plan *plan, int32_t dp,
                                       struct hlm_comm *comm, void *data, int64_t bytes,
                                       double *out, struct hlm_err *err)
{
    for (int32_t stage = 0; stage + 1 < plan->num_stages; stage++) {
        const struct hlm_coords from = {.dp = dp,
                                        .pp = hlm_layout_stage_rank(&plan->strategy, stage)};
        const struct hlm_coords to = {.dp = dp,
                                      .pp = hlm_layout_stage_rank(&plan->strategy, stage + 1)};
        if (from.pp != to.pp) {
            HLM_TRY(hlm_profiler_message_measure(comm, hlm_layout_rank(&plan->strategy, from),
                                                 hlm_layout_rank(&plan->strategy, to), data, bytes,
                                                 NUM_REPEATS, &out[stage], err));
        }
    }
    return HLM_OK;
}

enum hlm_status hlm_rank_messages_measure(struct hlm_arena *arena, const struct hlm_plan *plan,
                                          struct hlm_comm *comm, int64_t bytes, const double **out,
                                          struct hlm_err *err)
{
    const int32_t dp = plan->strategy.dp;
    if (comm->ops->stream_ordered) {
        return hlm_fail(err, HLM_ENV,
                        "messages can't be measured by themselves over %s, only over thread and "
                        "mpi",
                        comm->ops->name);
    }
    double *seconds = HLM_ARENA_ARRAY(arena, double, (int64_t)dp * plan->num_stages);
    void *data = malloc((size_t)bytes);
    if (data == NULL) {
        return hlm_fail(err, HLM_ENV, "no memory for a message of %lld bytes", (long long)bytes);
    }
    memset(data, 0, (size_t)bytes); /* no page fault while it is timed */
    enum hlm_status status = HLM_OK;
    for (int32_t i = 0; i < dp && status == HLM_OK; i++) {
        status = measure_replica(plan, i, comm, data, bytes, seconds + i * plan->num_stages, err);
    }
    free(data);
    if (status == HLM_OK) {
        *out = seconds;
    }
    return status;
}
