/* plan_pricers: the pricer of every pipeline rank of a strategy, one for each pair of device group
 * and tp (costmodel/strategy.h: places). Where all are alike, they share one.
 */
#ifndef HLM_PLANNER_PLAN_PRICERS_H
#define HLM_PLANNER_PLAN_PRICERS_H

#include "costmodel/stage_cost.h"

/* *out: [strategy->pp], in the arena; `strategy` must outlive them. Errors as hlm_pricer_init. */
HLM_MUST_CHECK enum hlm_status
hlm_plan_pricers_new(struct hlm_arena *arena, const struct hlm_model *model,
                     const struct hlm_cluster *cluster, const struct hlm_strategy *strategy,
                     const struct hlm_pricer *const **out, struct hlm_err *err);

#endif
