/* infeasible: why no plan fits, as numbers and in one sentence. */
#ifndef HLM_PLANNER_INFEASIBLE_H
#define HLM_PLANNER_INFEASIBLE_H

#include "planner/column_placement.h"

/* Whether any legal strategy has a partition that fits (of schedules other than gpipe and 1f1b:
 * even layers); a problem without a legal one has none. */
bool hlm_infeasible_fits(const struct hlm_search_problem *problem);

/* Of these strategies the one with the smallest excess of memory when layers are spread evenly
 * (hlm_column_find_excess); of gpipe and 1f1b where there are any. False: the cost model refuses
 * all of them. */
struct hlm_infeasible_closest {
    struct hlm_strategy strategy;
    struct hlm_column_excess excess;
};
bool hlm_infeasible_find_closest(const struct hlm_search_problem *problem,
                                 const struct hlm_strategy *strategies, int32_t num_strategies,
                                 struct hlm_infeasible_closest *out);

/* Writes to err, and returns HLM_NO: of all columns the one with the smallest excess of memory
 * (stage, bytes missing, largest memory kind), and what lets some plan fit:
 * leaving out the first requirement that helps, or else an offload, and 2, 4, .. times as many
 * nodes. */
enum hlm_status hlm_infeasible_explain(const struct hlm_search_problem *problem,
                                       const struct hlm_strategy *strategies,
                                       int32_t num_strategies, struct hlm_err *err);

#endif
