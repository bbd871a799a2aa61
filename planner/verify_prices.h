/* verify_prices: the pricers of the strategies that the verifier looks at, one after the other.
 *
 * Pricing the operators of all blocks takes most of the time of a pricer, and most strategies share
 * them: what differs in dp, pp, schedule, chunks, ZeRO stage and the number of microbatches alone
 * has the same operators (hlm_pricer_reuse says when). They are priced once. The search has such a
 * store of its own, with other code (column_cache.c): neither can hide an error of the other.
 */
#ifndef HLM_PLANNER_VERIFY_PRICES_H
#define HLM_PLANNER_VERIFY_PRICES_H

#include "costmodel/stage_cost.h"

/* All of it lives in the arena. */
struct hlm_verify_prices;
struct hlm_verify_prices *hlm_verify_prices_new(struct hlm_arena *arena,
                                                const struct hlm_model *model,
                                                const struct hlm_cluster *cluster);

/* The pricer of each pipeline rank, equal to those of hlm_plan_pricers_new. *out: [strategy->pp],
 * in `arena`, with one pricer for ranks that are alike; `strategy` must outlive them. HLM_NO as
 * hlm_pricer_init. */
HLM_MUST_CHECK enum hlm_status hlm_verify_prices_get(struct hlm_verify_prices *prices,
                                                     struct hlm_arena *arena,
                                                     const struct hlm_strategy *strategy,
                                                     const struct hlm_pricer *const **out,
                                                     struct hlm_err *err);

#endif
