/* share_column_internal: what the files behind share_column.h share.
 *
 *   share_column   columns, and what is refused of them
 *   share_split    one split of layers: recompute that all groups can share, the simulated step
 *   share_plan     plans: a good one, and all of them
 */
#ifndef HLM_PLANNER_SHARE_COLUMN_INTERNAL_H
#define HLM_PLANNER_SHARE_COLUMN_INTERNAL_H

#include "planner/column_internal.h"
#include "planner/share_column.h"

/* The replicas of one group: their column with times alone, and with memory for so many
 * microbatches (in_flight does not change with more). */
struct hlm_share_group {
    struct hlm_strategy seen;
    struct hlm_column times;
    struct hlm_arena *arena; /* of what follows; NULL: not made */
    int64_t made_for;
    struct hlm_strategy made_seen;
    struct hlm_column column;
    struct hlm_pattern_set *set;
};

struct hlm_share_column {
    struct hlm_arena *arena, *scratch;
    struct hlm_pricer_cache *cache;
    struct hlm_strategy strategy;
    int64_t total;
    int32_t num_groups;
    struct hlm_share_group groups[HLM_MAX_MIXED_GROUPS];
};

static inline int32_t hlm_share_dp(const struct hlm_strategy *strategy, int32_t g)
{
    return strategy->replicas[g].dp;
}

/* --- share_column.c --- */

/* Whether nothing of the group with so many microbatches is below goal_s, by the closed form, or by
 * rows with exact memory. */
typedef bool hlm_share_refuses_fn(struct hlm_share_column *column, int32_t g,
                                  int64_t num_microbatches, double goal_s);
bool hlm_share_group_form_refuses(struct hlm_share_column *column, int32_t g,
                                  int64_t num_microbatches, double goal_s);
bool hlm_share_group_rows_refuse(struct hlm_share_column *column, int32_t g,
                                 int64_t num_microbatches, double goal_s);

/* Fills most [num_groups] with the most that are not refused; false: their sum is short of the
 * total, or one has none. */
bool hlm_share_find_most(struct hlm_share_column *column, double goal_s,
                         hlm_share_refuses_fn *refuses, int64_t *most);

/* The group's column with memory; its placement is that of num_microbatches until the next call. */
struct hlm_share_group *hlm_share_complete(struct hlm_share_column *column, int32_t g,
                                           int64_t num_microbatches);

/* --- share_split.c --- */

/* A split of layers: the groups' own choices of recompute, and what they share (the same for all).
 * [pp] each. */
struct hlm_share_split {
    struct hlm_plan_stage *own[HLM_MAX_MIXED_GROUPS], *shared[HLM_MAX_MIXED_GROUPS];
};

/* In the column's scratch memory. */
struct hlm_share_split hlm_share_new_split(struct hlm_share_column *column);

/* The simulated step of the split at `ends` [pp] with these shares, whose choice of recompute is
 * then in split->shared; INFINITY: no choice fits all groups. *out_least_s: what no plan of this
 * split is below, the same where all choices were tried. *out_slowest: the group; may be NULL. */
double hlm_share_try_split(struct hlm_share_column *column, const struct hlm_share_split *split,
                           const int32_t *ends, const int64_t *shares, double *out_least_s,
                           int32_t *out_slowest);

#endif
