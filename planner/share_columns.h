/* share_columns: all ways to train with replicas that have shares of their own.
 *
 * On a cluster of several device groups replicas of the whole pipeline may stand on each of some
 * groups, at least two: dp_g * tp * pp devices of group g, all it has. All replicas share tp, pp,
 * microbatch_size, sp, schedule, ZeRO stage, the split of layers and recompute; how many
 * microbatches each has is found by the search, as the split is. Schedules gpipe (pp > 1) and 1f1b,
 * ZeRO 0 and 1, cp 1, models without experts, no offload (costmodel/strategy.h). Such a column is
 * legal where whole shares of at least one microbatch exist: sum_g dp_g m_g = global_batch_size /
 * microbatch_size.
 */
#ifndef HLM_PLANNER_SHARE_COLUMNS_H
#define HLM_PLANNER_SHARE_COLUMNS_H

#include "planner/columns_places.h"
#include "planner/search.h"

/* Columns that differ in schedule and ZeRO stage alone. */
struct hlm_share_family {
    struct hlm_strategy strategy; /* 1f1b, zero 0; replicas located, with shares that are whole */
    int64_t total;                /* sum of dp_g * m_g */
    int32_t num_members;          /* > 0 */
};
enum { HLM_MAX_SHARE_MEMBERS = 4 };

/* None is fine. In ascending order of sets of groups, tp, pp, microbatch_size, sp. */
void hlm_share_families(struct hlm_arena *arena, const struct hlm_search_problem *problem,
                        const struct hlm_share_family **out, int32_t *out_num);

/* The columns of a family; returns num_members. */
int32_t hlm_share_members(const struct hlm_search_problem *problem,
                          const struct hlm_share_family *family,
                          struct hlm_strategy out[HLM_MAX_SHARE_MEMBERS]);

#endif
