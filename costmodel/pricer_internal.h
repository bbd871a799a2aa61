/* pricer_internal: what the files behind stage_cost.h share.
 *
 *   pass_cost    seconds of a pass, from a walk over the operators of a block
 *   block_share  what ZeRO-2 and 3 add to a block
 *   pricer       prices of all blocks of a strategy (hlm_pricer_*)
 *   stage_cost   sums of these over a stage, and its memory
 *   stage_link   messages between stages, and where all ranks meet
 */
#ifndef HLM_COSTMODEL_PRICER_INTERNAL_H
#define HLM_COSTMODEL_PRICER_INTERNAL_H

#include <math.h>

#include "costmodel/shards.h"
#include "costmodel/stage_cost.h"

/* Up to a multiple of HLM_ALIGNMENT_BYTES. */
static inline int64_t hlm_align_bytes(double bytes)
{
    const int64_t whole = (int64_t)ceil(bytes);
    return (whole + HLM_ALIGNMENT_BYTES - 1) / HLM_ALIGNMENT_BYTES * HLM_ALIGNMENT_BYTES;
}

/* What an operator takes in whatever pass: a collective its seconds; a kernel its seconds and
 * launches, and by how much a ring of context parallelism beside it takes longer. */
struct hlm_op_price {
    double seconds, ring_s;
    int64_t launches;
};

/* Of all operators of a block, in their order. */
struct hlm_block_prices {
    struct hlm_op_price *forward, *backward;
};
struct hlm_block_prices hlm_block_prices_new(struct hlm_arena *arena,
                                             const struct hlm_pricer *pricer,
                                             const struct hlm_block *block);

/* The same for a strategy whose groups have the sizes that they had, but lie on other nodes. */
void hlm_block_prices_move(const struct hlm_pricer *pricer, const struct hlm_block *block,
                           struct hlm_block_prices *prices);

/* Sets the passes of a block and their launches, as its operators alone have them. */
void hlm_price_passes(const struct hlm_pricer *pricer, const struct hlm_block *block,
                      const struct hlm_block_prices *prices, struct hlm_block_cost *out);

/* Adds what sharing does to a block that has its passes, elements and transient bytes. `units`: of
 * sets that share in turn, not padded. */
void hlm_price_sharing(const struct hlm_pricer *pricer, const struct hlm_block_shards *units,
                       struct hlm_block_cost *out);

/* Seconds of an elementwise operator over a slab of elements; 0 over none. */
double hlm_slab_op_s(const struct hlm_device *device, const struct hlm_strategy *strategy,
                     enum hlm_op_kind kind, double num_elements, double bytes_per_element,
                     double flops_per_element);

/* Seconds of a collective of the group of stage `stage`; 0 of no elements. */
double hlm_slab_collective_s(const struct hlm_pricer *pricer, enum hlm_group group,
                             enum hlm_collective op, int64_t num_elements, double element_bytes,
                             int32_t stage);

#endif
