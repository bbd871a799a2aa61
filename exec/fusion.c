#include "exec/fusion.h"

/* --- biases --- */

/* A list with room for one more operator behind each. */
struct list {
    struct hlm_op *ops;
    int32_t num;
};

static bool reads(const struct hlm_op *op, int32_t tensor)
{
    for (int32_t i = 0; i < hlm_op_num_operands(op->kind); i++) {
        if (op->operands[i] == tensor && hlm_op_reads(op, i)) {
            return true;
        }
    }
    return false;
}

static bool writes(const struct hlm_op *op, int32_t tensor)
{
    for (int32_t i = 0; i < hlm_op_num_operands(op->kind); i++) {
        if (op->operands[i] == tensor && hlm_op_writes(op, i)) {
            return true;
        }
    }
    return false;
}

static bool is_gelu(const struct hlm_op *op)
{
    return (op->kind == HLM_OP_ACTIVATION_FWD || op->kind == HLM_OP_ACTIVATION_BWD) &&
           op->activation == HLM_ACTIVATION_GELU;
}

/* Whether an operator leaves the bias of this product to be moved: -1 in *bias means that no reader
 * was met yet. */
static bool agrees(const struct hlm_op *op, int32_t product, int32_t *bias)
{
    if (writes(op, product) && (op->kind != HLM_OP_GEMM || op->accumulate)) {
        return false;
    }
    if (!reads(op, product)) {
        return true;
    }
    const bool fits = is_gelu(op) && op->operands[0] == product && op->operands[1] >= 0 &&
                      (*bias < 0 || *bias == op->operands[1]);
    *bias = op->operands[1];
    return fits;
}

/* The bias that can be added to this tensor where it is made, -1: none. */
static int32_t movable_bias(const struct hlm_block *block, int32_t tensor)
{
    int32_t bias = -1;
    if (block->tensors[tensor].role != HLM_TENSOR_ACTIVATION) {
        return -1;
    }
    for (int32_t i = 0; i < block->num_forward; i++) {
        if (!agrees(&block->forward[i], tensor, &bias)) {
            return -1;
        }
    }
    for (int32_t i = 0; i < block->num_backward; i++) {
        if (!agrees(&block->backward[i], tensor, &bias)) {
            return -1;
        }
    }
    return bias;
}

/* Belongs to the product: same part, same repetition. */
static struct hlm_op bias_add(const struct hlm_block *block, const struct hlm_op *product,
                              int32_t bias)
{
    struct hlm_op op = *product;
    op.kind = HLM_OP_BIAS_ADD;
    op.dtype = block->tensors[product->operands[2]].dtype;
    op.k = 0;
    op.overlaps_next = false;
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        op.operands[i] = -1;
    }
    op.operands[0] = bias;
    op.operands[1] = product->operands[2];
    op.flops = hlm_op_flops(&op);
    op.bytes = hlm_op_bytes(&op, block->tensors);
    return op;
}

static struct list move_biases(struct hlm_arena *arena, const struct hlm_block *block,
                               const struct hlm_op *ops, int32_t num)
{
    struct list list = {HLM_ARENA_ARRAY(arena, struct hlm_op, 2 * num), 0};
    for (int32_t i = 0; i < num; i++) {
        struct hlm_op *op = &list.ops[list.num++];
        *op = ops[i];
        const int32_t made = op->kind == HLM_OP_GEMM ? op->operands[2] : -1;
        const int32_t bias = made >= 0 ? movable_bias(block, made) : -1;
        if (bias >= 0) {
            list.ops[list.num++] = bias_add(block, op, bias);
        } else if (is_gelu(op) && movable_bias(block, op->operands[0]) >= 0) {
            op->operands[1] = -1;
            op->bytes = hlm_op_bytes(op, block->tensors);
        }
    }
    return list;
}

/* --- deaths --- */

/* Whether the backward makes the tensor again before it reads it. */
static bool is_made_again(const struct list *backward, int32_t tensor)
{
    for (int32_t i = 0; i < backward->num; i++) {
        if (reads(&backward->ops[i], tensor)) {
            return false;
        }
        if (writes(&backward->ops[i], tensor)) {
            return true;
        }
    }
    return false;
}

static bool is_read_from(const struct list *list, int32_t first, int32_t tensor)
{
    for (int32_t i = first; i < list->num; i++) {
        if (reads(&list->ops[i], tensor)) {
            return true;
        }
    }
    return false;
}

/* With the backward in halves, all of W runs behind all of I. */
static bool is_read_by_later_half(const struct list *list, int32_t at, int32_t tensor)
{
    for (int32_t i = 0; i < at; i++) {
        if (list->ops[at].part == HLM_PART_INPUT_GRAD &&
            list->ops[i].part == HLM_PART_WEIGHT_GRAD && reads(&list->ops[i], tensor)) {
            return true;
        }
    }
    return false;
}

/* after: the backward for the forward's list, NULL for the backward's. */
static const uint32_t *find_deaths(struct hlm_arena *arena, const struct hlm_block *block,
                                   const struct list *list, const struct list *after)
{
    uint32_t *dies = HLM_ARENA_ARRAY(arena, uint32_t, list->num);
    for (int32_t i = 0; i < list->num; i++) {
        dies[i] = 0;
        for (int32_t k = 0; k < hlm_op_num_operands(list->ops[i].kind); k++) {
            const int32_t tensor = list->ops[i].operands[k];
            if (tensor < 0 || block->tensors[tensor].role != HLM_TENSOR_ACTIVATION ||
                !hlm_op_reads(&list->ops[i], k) || is_read_from(list, i + 1, tensor) ||
                is_read_by_later_half(list, i, tensor)) {
                continue;
            }
            const bool later =
                after != NULL && !is_made_again(after, tensor) && is_read_from(after, 0, tensor);
            dies[i] |= later ? 0U : 1U << k;
        }
    }
    return dies;
}

void hlm_fusion_init(struct hlm_arena *arena, const struct hlm_block *block, struct hlm_fusion *out)
{
    const struct list forward = move_biases(arena, block, block->forward, block->num_forward);
    const struct list backward = move_biases(arena, block, block->backward, block->num_backward);
    *out = (struct hlm_fusion){
        .forward = forward.ops,
        .backward = backward.ops,
        .num_forward = forward.num,
        .num_backward = backward.num,
        .forward_dies = find_deaths(arena, block, &forward, &backward),
        .backward_dies = find_deaths(arena, block, &backward, NULL),
    };
}
