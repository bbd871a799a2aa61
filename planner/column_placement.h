/* column_placement: from a strategy column to its placement problem (stage_pattern.h), and back to
 * the stages of a plan.
 *
 * Prices of blocks depend on few of a column's degrees, so pricers are shared: by tp,
 * microbatch_size, sp, ep, etp, whether pp is 1, and how the tp and ep groups lie on the nodes.
 */
#ifndef HLM_PLANNER_COLUMN_PLACEMENT_H
#define HLM_PLANNER_COLUMN_PLACEMENT_H

#include "planner/plan.h"
#include "planner/search.h"
#include "planner/stage_pattern.h"

struct hlm_pricer_cache;
struct hlm_pricer_cache *hlm_pricer_cache_new(struct hlm_arena *arena,
                                              const struct hlm_search_problem *problem);

/* A column with what it costs. `pricer` is its own copy: strategy points to `strategy`. */
struct hlm_column {
    struct hlm_strategy strategy;
    struct hlm_pricer pricer;
    struct hlm_placement placement;
    bool *both_sides; /* [pp] */
};

/* The times of a column, without anything about memory: enough for hlm_bound_closed_form (hold,
 * slot and static bytes are not set). HLM_NO: the cost model refuses it. */
HLM_MUST_CHECK enum hlm_status hlm_column_init(struct hlm_arena *arena,
                                               struct hlm_pricer_cache *cache,
                                               const struct hlm_strategy *strategy,
                                               struct hlm_column *out, struct hlm_err *err);

/* Adds memory, reductions and optimizer times, so that patterns can be made. `column` must not
 * move. */
void hlm_column_complete(struct hlm_arena *arena, struct hlm_column *column);

/* The stages of a plan that gives [ends[s-1], ends[s]) to stage s, each with the recompute of its
 * pattern (which must exist). */
const struct hlm_plan_stage *hlm_column_stages(struct hlm_arena *arena, struct hlm_pattern_set *set,
                                               const struct hlm_column *column,
                                               const int32_t *ends);

/* The simulated step of these stages: the same bits as hlm_plan_price. */
double hlm_column_simulate(struct hlm_arena *scratch, const struct hlm_column *column,
                           const struct hlm_plan_stage *stages);

/* How far the column is from fitting: the largest excess of any stage when layers are spread
 * evenly, every stage in the recompute mode (of those allowed) that takes the least. <= 0: it fits.
 */
struct hlm_column_excess {
    int64_t bytes;
    struct hlm_stage_memory memory; /* of that stage */
};
struct hlm_column_excess hlm_column_find_excess(const struct hlm_column *column);

#endif
