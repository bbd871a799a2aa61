/* verify_share_plans: all plans of one column of replicas with given shares, simulated one by one.
 * Shares no code with the search: every split of layers and choice of recompute is tried, but for
 * stages that alone take the claim on some group, microbatch by microbatch.
 */
#ifndef HLM_PLANNER_VERIFY_SHARE_PLANS_H
#define HLM_PLANNER_VERIFY_SHARE_PLANS_H

#include "planner/verify_prices.h"

/* strategy: with its shares, located. Returns the least simulated step of plans that may be below
 * goal_s, INFINITY: none may; takes what it tries from *left, and is no answer where that becomes
 * negative. */
double hlm_verify_share_plans(struct hlm_verify_prices *prices, const struct hlm_model *model,
                              const struct hlm_strategy *strategy, int32_t recompute, double goal_s,
                              int64_t *left);

#endif
