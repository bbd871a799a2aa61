/* verify_shares: the verifier's own answer about replicas with shares of their own.
 *
 * It lists the columns of share_columns.h by loops of its own and prices each group's replicas by
 * themselves. A column is out when, for the most microbatches with which hlm_verify_column leaves
 * each group something below the claim, the shares do not sum to the batch (share_column.h has the
 * argument; none of its code, nor of the search's, is used). Where they do, all shares within these
 * are tried with all plans (verify_share_plans.h), as far as there are not too many: such columns
 * are left unchecked, and counted.
 */
#ifndef HLM_PLANNER_VERIFY_SHARES_H
#define HLM_PLANNER_VERIFY_SHARES_H

#include "planner/verify.h"
#include "planner/verify_prices.h"

/* Adds to the counts of *report, and to num_columns of it. goal_s: the claim, less what sums may
 * differ by. HLM_NO: a plan is faster. */
HLM_MUST_CHECK enum hlm_status hlm_verify_shares(const struct hlm_plan *plan,
                                                 struct hlm_verify_prices *prices, double goal_s,
                                                 struct hlm_verify_report *report,
                                                 struct hlm_err *err);

#endif
