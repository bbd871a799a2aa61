/* infeasible: why no plan fits, in one sentence. */
#ifndef HLM_PLANNER_INFEASIBLE_H
#define HLM_PLANNER_INFEASIBLE_H

#include "planner/search.h"

/* Writes to err, and returns HLM_NO: of all columns the one with the smallest excess of memory
 * (stage, bytes missing, largest memory kind), and the first of these changes that lets some plan
 * fit: leaving out one of the requirements, or 2, 4, .. times as many nodes. */
enum hlm_status hlm_infeasible_explain(const struct hlm_search_problem *problem,
                                       const struct hlm_strategy *strategies,
                                       int32_t num_strategies, struct hlm_err *err);

#endif
