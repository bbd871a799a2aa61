/* context: which positions of a sequence each rank of the cp group has.
 *
 * A sequence is cut into ranks * chunks pieces of equal length and rank r has `chunks` of them:
 * one, piece r; or, under a causal mask, two, r and 2 ranks - 1 - r. A query of a causal model
 * meets the keys in front of it only, so that an early and a late piece together are as much work
 * on every rank (Dubey et al. 2024, arXiv 2407.21783, section 3.3.2; Megatron-Core does the same).
 * A rank's rows of a sequence are those of its pieces in ascending order.
 */
#ifndef HLM_COSTMODEL_CONTEXT_H
#define HLM_COSTMODEL_CONTEXT_H

#include <stdint.h>

#include "costmodel/strategy.h"
#include "profiles/model.h"

struct hlm_context {
    int32_t ranks, rank;
    int32_t chunks; /* 1 or 2 */
};

/* Of rank `rank` of a cp group. */
struct hlm_context hlm_context_of(const struct hlm_model *model,
                                  const struct hlm_strategy *strategy, int32_t rank);

/* Positions of a sequence that a rank has, and of one of its pieces. ranks * chunks divides
 * seq_len. */
int64_t hlm_context_own_len(const struct hlm_context *context, int64_t seq_len);
int64_t hlm_context_chunk_len(const struct hlm_context *context, int64_t seq_len);

/* The position, 0 .. seq_len - 1, of the rank's row `place` of a sequence, 0 .. own_len - 1. */
int64_t hlm_context_position(const struct hlm_context *context, int64_t seq_len, int64_t place);

#endif
