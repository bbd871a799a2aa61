/* verify_ranked: the verifier's answer about one column whose schedule is bounded by paths.
 *
 * Loads, rows and listing are those of the search (rank_set.h, rank_list.h); what is checked here
 * is what it made of them. Every partition that the rows leave below the claim is simulated by
 * hlm_sim_order_step; what comes within a thousandth of the claim is priced again from its operator
 * lists, by hlm_simulate.
 */
#ifndef HLM_PLANNER_VERIFY_RANKED_H
#define HLM_PLANNER_VERIFY_RANKED_H

#include "planner/column_placement.h"
#include "planner/verify_column.h"

enum hlm_verdict hlm_verify_ranked(struct hlm_pricer_cache *cache,
                                   const struct hlm_strategy *strategy, double goal_s,
                                   double *out_step_s);

#endif
