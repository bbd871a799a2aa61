/* rank_partition: partitions of a rank_set's problem as they are: layers on stages, recompute
 * chosen, memory exact, simulated.
 */
#ifndef HLM_PLANNER_RANK_PARTITION_H
#define HLM_PLANNER_RANK_PARTITION_H

#include "planner/rank_set.h"

/* Stage s holds layers [ends[s-1], ends[s]); the first full[s] of them recompute fully, the next
 * selective[s] selectively. [num_stages] each, the caller's. */
struct hlm_rank_partition {
    int32_t *ends, *full, *selective;
};

struct hlm_rank_partition hlm_rank_partition_new(struct hlm_arena *arena, int32_t num_stages);
void hlm_rank_partition_copy(struct hlm_rank_partition *to, const struct hlm_rank_partition *from,
                             int32_t num_stages);

/* The simulated step; INFINITY when a rank does not fit, a stage that may not be empty is, or a
 * mode is not allowed. */
double hlm_rank_simulate(struct hlm_arena *scratch, const struct hlm_rank_problem *problem,
                         const struct hlm_rank_partition *partition);

/* Fills ends so that each rank has totals[rank] layers, spread evenly over its stages. firsts:
 * NULL, or of ranks with two stages, where not negative, those on the first. */
void hlm_rank_spread(const struct hlm_rank_problem *problem, const int32_t *totals,
                     const int32_t *firsts, struct hlm_rank_partition *out);

/* A choice of recompute for given ends, rank by rank: of those that recompute only selectively,
 * only fully, or all layers in either way, as few layers as memory allows, the first stages of the
 * rank first; the one with the least backward. False: a rank does not fit. A guess: others may be
 * better where a rank has several stages. */
bool hlm_rank_choose_recompute(struct hlm_arena *scratch, const struct hlm_rank_problem *problem,
                               struct hlm_rank_partition *partition);

#endif
