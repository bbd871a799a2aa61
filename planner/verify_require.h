/* verify_require: whether a plan is as its certificate says that all plans had to be. */
#ifndef HLM_PLANNER_VERIFY_REQUIRE_H
#define HLM_PLANNER_VERIFY_REQUIRE_H

#include "planner/plan.h"

/* HLM_NO with the first requirement that strategy and stages do not meet; `what` is whose they are
 * ("points[2]"). Of several device groups tp is the largest. */
HLM_MUST_CHECK enum hlm_status hlm_verify_require(const struct hlm_search_require *require,
                                                  const struct hlm_strategy *strategy,
                                                  const struct hlm_plan_stage *stages,
                                                  int32_t num_stages, const char *what,
                                                  struct hlm_err *err);

#endif
