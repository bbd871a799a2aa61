/* partition_dp: the best partition of a column by dynamic programming over labels. Exact, and no
 * solver: the referee of the ILP, its fallback, and the way to list all partitions below a cutoff.
 *
 * From the last stage to the first, for each layer at which a stage can begin, the labels (bound.h)
 * of all ways to fill the stages from there on are kept, but for those that another one dominates
 * (no larger in any element). Labels are compared only where the last stage holds the same, as one
 * row takes its T away again; so the whole is done once per pattern of the last stage.
 */
#ifndef HLM_PLANNER_PARTITION_DP_H
#define HLM_PLANNER_PARTITION_DP_H

#include "planner/bound.h"

struct hlm_partition {
    double bound_s;
    int32_t *ends; /* [num_stages]: the caller's */
};

/* The partition of least bound among those with bound <= the windows' cutoff; false: there is none.
 * Sets out->bound_s and fills out->ends. Ties: the first found, stages from the last taking more
 * layers last (deterministic). Labels live in `scratch` and are gone on return; it must not be the
 * arena of the set, which keeps the patterns that are made on the way. */
bool hlm_partition_dp(struct hlm_arena *scratch, struct hlm_pattern_set *set,
                      const struct hlm_bound_windows *windows, struct hlm_partition *out);

/* Calls visit for partitions with bound <= cutoff, each once, cutoff being what the last visit
 * returned (at first that of the windows): a visitor that improves its incumbent returns a smaller
 * one, -INFINITY to stop. No dead ends: the tables of hlm_partition_dp give the exact least bound
 * of every prefix. */
typedef double hlm_partition_visit(void *context, const struct hlm_partition *partition);
void hlm_partition_list(struct hlm_arena *scratch, struct hlm_pattern_set *set,
                        const struct hlm_bound_windows *windows, hlm_partition_visit *visit,
                        void *context);

#endif
