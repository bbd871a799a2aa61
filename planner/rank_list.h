/* rank_list: all partitions of a rank_set's problem that can be as good as wanted, by branch and
 * bound.
 *
 * Ranks get loads (rank_set.h) one after the other. A node is bounded by every path row: what the
 * loads so far take in it, and the least that the ranks still open can take with the layers that
 * are left. Where all ranks have loads, these are spread over their stages in every way, with
 * every choice of recompute, and what the rows do not exclude is simulated. A simulation above the
 * cutoff leaves its longest paths as further rows: they exclude most of what is alike, so that few
 * of many partitions are looked at.
 */
#ifndef HLM_PLANNER_RANK_LIST_H
#define HLM_PLANNER_RANK_LIST_H

#include "planner/rank_partition.h"

/* Calls visit for every partition that is within the caps and has path rows below cutoff, with
 * every choice of recompute that no other beats in the backward of all stages, and its simulated
 * step; cutoff being what the last visit returned (at first that of the caps). *work: simulated
 * actions and other steps that may be made still, counted down. False: it ran out. */
typedef double hlm_rank_visit(void *context, const struct hlm_rank_partition *partition,
                              double step_s);
bool hlm_rank_list(struct hlm_arena *scratch, const struct hlm_rank_problem *problem,
                   const struct hlm_rank_caps *caps, double *work, hlm_rank_visit *visit,
                   void *context);

#endif
