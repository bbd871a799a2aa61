/* validate_price: step time and peak memory of a validate problem, whatever its schedule. */
#ifndef HLM_COMPARE_VALIDATE_PRICE_H
#define HLM_COMPARE_VALIDATE_PRICE_H

#include "compare/validate.h"

struct hlm_validate_price {
    double step_s, peak_bytes; /* of the fullest rank */
    const struct hlm_time_node *parts;
};

/* One stage a rank: a plan's price. Several: the same blocks, each rank with the stages that the
 * schedule gives it, simulated exactly; where a set overlaps data parallelism, the gradients of a
 * chunk are reduced beside the compute behind its last backward. Layers are spread evenly;
 * recompute -1: the least that fits into a tenth more than the devices' memory (selective before
 * full, the same number of layers on each stage). Else the time does not depend on whether it fits.
 * HLM_NO: the schedule is not legal for these numbers. */
HLM_MUST_CHECK enum hlm_status hlm_validate_price(struct hlm_arena *arena,
                                                  const struct hlm_validate_problem *problem,
                                                  struct hlm_validate_price *out,
                                                  struct hlm_err *err);

#endif
