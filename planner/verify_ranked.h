/* verify_ranked: the verifier's answer about one column whose schedule is bounded by paths.
 *
 * The loads and rows are those of rank_set.h, which the search uses too; what is checked here is
 * what it made of them. Every partition that the rows leave below the claim is simulated from the
 * schedule's lists by hlm_simulate, not by the search's simulator.
 */
#ifndef HLM_PLANNER_VERIFY_RANKED_H
#define HLM_PLANNER_VERIFY_RANKED_H

#include "planner/column_placement.h"
#include "planner/verify_column.h"

enum hlm_verdict hlm_verify_ranked(struct hlm_pricer_cache *cache,
                                   const struct hlm_strategy *strategy, double goal_s,
                                   double *out_step_s);

#endif
