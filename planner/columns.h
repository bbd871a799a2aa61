/* columns: all legal ways to train, apart from the placement of layers.
 *
 * A strategy column is (dp, tp, pp, microbatch_size, schedule, zero, sp, ep) with dp * tp * pp =
 * devices of the cluster, any divisors, not powers of two only; tp may reach beyond a node; cp =
 * vpp = 1. It is legal when hlm_strategy_check takes it (and, where asked, the executor too). Left
 * out, as nothing is lost: gpipe with pp = 1   the same actions as 1f1b in another order, with all
 * activations held at once zero = 1 with dp = 1, sp with tp = 1, ep > 1 without experts   the same
 * as without All others are listed and counted, however hopeless: the certificate is about them
 * all.
 */
#ifndef HLM_PLANNER_COLUMNS_H
#define HLM_PLANNER_COLUMNS_H

#include "planner/search.h"

/* In ascending order of tp, pp, microbatch_size, sp, ep, zero, schedule. HLM_NO: there is none; the
 * message is that of the rule that the last candidate broke. */
HLM_MUST_CHECK enum hlm_status hlm_columns_list(struct hlm_arena *arena,
                                                const struct hlm_search_problem *problem,
                                                const struct hlm_strategy **out, int32_t *out_num,
                                                struct hlm_err *err);

#endif
