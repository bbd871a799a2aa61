/* rank_partition_internal: what a partition takes stage by stage, between rank_partition.c (one
 * partition) and rank_list.c, rank_options.c (all of them). */
#ifndef HLM_PLANNER_RANK_PARTITION_INTERNAL_H
#define HLM_PLANNER_RANK_PARTITION_INTERNAL_H

#include "planner/rank_partition.h"

/* What a stage takes with its layers and its choice of recompute. */
struct hlm_rank_take {
    bool allowed;
    double seconds[HLM_SIM_NUM_KINDS];
    int64_t slot_bytes, transient_bytes;
};
struct hlm_rank_take hlm_rank_take_stage(const struct hlm_rank_problem *problem, int32_t stage,
                                         int32_t begin, int32_t end, int32_t full,
                                         int32_t selective);

/* First layer of a stage. */
int32_t hlm_rank_stage_begin(const struct hlm_rank_partition *partition, int32_t stage);

/* Bytes of a rank that are free; negative: it does not fit. takes: [num_stages]. */
int64_t hlm_rank_slack(const struct hlm_rank_problem *problem, int32_t rank,
                       const struct hlm_rank_partition *partition,
                       const struct hlm_rank_take *takes);

/* Costs of all stages, and what they are made from. */
struct hlm_rank_costs {
    double *seconds[HLM_SIM_NUM_KINDS]; /* [num_stages] each */
    double *reduce_s, *optimizer_s, *send_backward_s;
    struct hlm_sim_costs sim; /* of these */
};
struct hlm_rank_costs hlm_rank_costs_new(struct hlm_arena *arena,
                                         const struct hlm_rank_problem *problem);
void hlm_rank_costs_set_times(const struct hlm_rank_costs *costs, int32_t stage,
                              const double *seconds);
/* Reduction and optimizer of a stage of the partition. */
void hlm_rank_costs_set_holding(const struct hlm_rank_problem *problem,
                                const struct hlm_rank_costs *costs,
                                const struct hlm_rank_partition *partition, int32_t stage);

#endif
