/* rank_options: the choices of recompute of one rank whose layers are given. */
#ifndef HLM_PLANNER_RANK_OPTIONS_H
#define HLM_PLANNER_RANK_OPTIONS_H

#include "planner/rank_partition_internal.h"

/* [num_chunks] each, of the stages of the rank, ascending. */
struct hlm_rank_option {
    int32_t *full, *selective;
    double *seconds; /* [num_chunks][HLM_SIM_NUM_KINDS] */
    struct hlm_rank_option *next;
};

/* All choices that fit but those that another is as fast as in every action of every stage; NULL:
 * none fits. partition->ends is read, its full, selective and takes ([num_stages]) are overwritten
 * for the stages of the rank. *work: counted down by the steps; at 0 it stops with what it has. */
struct hlm_rank_option *hlm_rank_options_find(struct hlm_arena *arena,
                                              const struct hlm_rank_problem *problem, int32_t rank,
                                              const struct hlm_rank_partition *partition,
                                              struct hlm_rank_take *takes, double *work);

/* What each stage of the rank takes at the least in any choice that fits, without looking at all:
 * its own choice fits beside the leanest of the others. seconds: [num_chunks][HLM_SIM_NUM_KINDS].
 * False: a stage has none. Reads and overwrites as above. */
bool hlm_rank_options_least(const struct hlm_rank_problem *problem, int32_t rank,
                            const struct hlm_rank_partition *partition, struct hlm_rank_take *takes,
                            double *work, double *seconds);

#endif
