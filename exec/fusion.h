/* fusion: a block's operators, arranged for backends that run neighbours as one (launch_list of
 * exec/backend.h), and which operands die where.
 *
 * The lists mean what the block's do and any backend can run them, one by one too. They differ in
 * one thing: where only gelu's operators read a product, all with the same bias, the bias is added
 * to the product at once (an operator bias_add behind it) instead of inside of each of them. Then
 * what is kept of the forward is what cuBLASLt's epilogues keep: the product with its bias. So the
 * lists of a forward and of its backward belong together; never mix them with the block's own.
 */
#ifndef HLM_EXEC_FUSION_H
#define HLM_EXEC_FUSION_H

#include <stdint.h>

#include "base/arena.h"
#include "costmodel/op.h"

/* dies[i]: the bits of struct hlm_launch for operator i, right for a full backward as well as for
 * one in halves (hlm_op_part), for lists cut at collectives, and for forwards that are repeated:
 * bit k is set where operand k is an activation that operator i reads and no operator that may run
 * after it does, before it is written anew. */
struct hlm_fusion {
    const struct hlm_op *forward, *backward;
    int32_t num_forward, num_backward;
    const uint32_t *forward_dies, *backward_dies;
};

/* From the arena; operands index the block's tensors, which stay as they are. */
void hlm_fusion_init(struct hlm_arena *arena, const struct hlm_block *block,
                     struct hlm_fusion *out);

#endif
