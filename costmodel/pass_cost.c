/* What a pass of a block takes: a walk over its operators. */
#include <math.h>

#include "costmodel/data_parallel.h"
#include "costmodel/pricer_internal.h"

static const char *const part_texts[] = {
#define X(name, text) text,
    HLM_PART_MAP(X)
#undef X
        NULL};

const char *hlm_part_text(enum hlm_part part)
{
    HLM_ASSERT(part >= 0 && part < HLM_NUM_PARTS);
    return part_texts[part];
}

static enum hlm_part op_part(const struct hlm_op *op)
{
    if (op->recompute) {
        return HLM_PART_RECOMPUTE;
    }
    switch (op->kind) {
    case HLM_OP_GEMM:
    case HLM_OP_GROUPED_GEMM:
        return HLM_PART_GEMM;
    case HLM_OP_ATTENTION_FWD:
    case HLM_OP_ATTENTION_BWD:
        return HLM_PART_ATTENTION;
    default:
        return HLM_PART_MEMORY_BOUND;
    }
}

static enum hlm_collective op_collective(enum hlm_op_kind kind)
{
    switch (kind) {
    case HLM_OP_ALL_GATHER:
        return HLM_ALL_GATHER;
    case HLM_OP_REDUCE_SCATTER:
        return HLM_REDUCE_SCATTER;
    case HLM_OP_ALL_TO_ALL:
        return HLM_ALL_TO_ALL;
    default:
        return HLM_ALL_REDUCE;
    }
}

/* What a pass has added up so far. A hidden collective ends at hidden_until on the time line of the
 * pass; `hides` is the tensor that it writes. */
struct pass_walk {
    const struct hlm_pricer *pricer;
    const struct hlm_device *device;
    struct hlm_pass_cost cost;
    double now_s;
    double hidden_until_s;
    enum hlm_part hidden_part;
    int32_t hidden_tensor; /* -1: none */
    int64_t launches;
};

static void walk_expose_hidden(struct pass_walk *walk)
{
    if (walk->hidden_tensor >= 0 && walk->hidden_until_s > walk->now_s) {
        walk->cost.part[walk->hidden_part] += walk->hidden_until_s - walk->now_s;
        walk->now_s = walk->hidden_until_s;
    }
    walk->hidden_tensor = -1;
}

static bool op_touches(const struct hlm_op *op, int32_t tensor)
{
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        if (op->operands[i] == tensor) {
            return true;
        }
    }
    return false;
}

static double op_collective_s(const struct hlm_pricer *pricer, const struct hlm_op *op)
{
    const struct hlm_group_shape shape =
        hlm_layout_shape(pricer->strategy, op->group, pricer->cluster, pricer->stage);
    if (op->group == HLM_GROUP_EP &&
        hlm_lowering_framework(pricer->strategy->lowering)->sends_rows_once) {
        return hlm_collective_dispatch_seconds(pricer->cluster, pricer->device_group, op->bytes,
                                               (int32_t)op->k, shape);
    }
    return hlm_collective_seconds(pricer->cluster, pricer->device_group, op_collective(op->kind),
                                  op->bytes, shape);
}

static void walk_collective(struct pass_walk *walk, const struct hlm_op *op, double seconds)
{
    const enum hlm_part part = op->group == HLM_GROUP_EP   ? HLM_PART_EP_COMM
                               : op->group == HLM_GROUP_CP ? HLM_PART_CP_COMM
                                                           : HLM_PART_TP_COMM;
    walk_expose_hidden(walk); /* collectives of one stream run one behind the other */
    if (op->overlaps_next) {
        walk->hidden_until_s = walk->now_s + seconds;
        walk->hidden_part = part;
        walk->hidden_tensor = op->operands[op->kind == HLM_OP_ALL_REDUCE ? 0 : 1];
        return;
    }
    walk->cost.part[part] += seconds;
    walk->now_s += seconds;
}

/* Ring attention: keys and values pass round the cp group beside attention, in the backward with
 * their gradients. Other forms have collectives of their own in the list. */
static double op_ring_s(const struct hlm_pricer *pricer, const struct hlm_op *op,
                        double attention_s)
{
    const bool backward = op->kind == HLM_OP_ATTENTION_BWD;
    if (op->context_ranks <= 1 || (op->kind != HLM_OP_ATTENTION_FWD && !backward) ||
        hlm_op_gathers_context(op)) {
        return 0.0;
    }
    const struct hlm_group_shape shape =
        hlm_layout_shape(pricer->strategy, HLM_GROUP_CP, pricer->cluster, pricer->stage);
    const double bytes = (double)op->batch * (double)op->seq_len * (double)op->kv_heads *
                         (double)(op->head_dim + op->v_head_dim) * hlm_dtype_bytes(op->dtype);
    const double round_s =
        hlm_collective_seconds(pricer->cluster, pricer->device_group, HLM_ALL_GATHER, bytes, shape);
    return hlm_dp_exposed_s(attention_s, (backward ? 2.0 : 1.0) * round_s);
}

static struct hlm_op_price price_op(const struct hlm_pricer *pricer, const struct hlm_op *op)
{
    const struct hlm_device *device = &pricer->cluster->groups[pricer->device_group].device;
    if (hlm_op_is_collective(op->kind)) {
        return (struct hlm_op_price){.seconds = op_collective_s(pricer, op)};
    }
    const double seconds = hlm_kernel_seconds(device, op);
    return (struct hlm_op_price){seconds, op_ring_s(pricer, op, seconds),
                                 hlm_kernel_launches(device, op)};
}

static struct hlm_op_price *price_ops(struct hlm_arena *arena, const struct hlm_pricer *pricer,
                                      const struct hlm_op *ops, int32_t num_ops)
{
    struct hlm_op_price *prices = HLM_ARENA_ARRAY(arena, struct hlm_op_price, num_ops);
    for (int32_t i = 0; i < num_ops; i++) {
        prices[i] = price_op(pricer, &ops[i]);
    }
    return prices;
}

struct hlm_block_prices hlm_block_prices_new(struct hlm_arena *arena,
                                             const struct hlm_pricer *pricer,
                                             const struct hlm_block *block)
{
    return (struct hlm_block_prices){
        price_ops(arena, pricer, block->forward, block->num_forward),
        price_ops(arena, pricer, block->backward, block->num_backward)};
}

static void move_ops(const struct hlm_pricer *pricer, const struct hlm_op *ops, int32_t num_ops,
                     struct hlm_op_price *prices)
{
    for (int32_t i = 0; i < num_ops; i++) {
        if (hlm_op_is_collective(ops[i].kind)) {
            prices[i].seconds = op_collective_s(pricer, &ops[i]);
        } else {
            prices[i].ring_s = op_ring_s(pricer, &ops[i], prices[i].seconds);
        }
    }
}

void hlm_block_prices_move(const struct hlm_pricer *pricer, const struct hlm_block *block,
                           struct hlm_block_prices *prices)
{
    move_ops(pricer, block->forward, block->num_forward, prices->forward);
    move_ops(pricer, block->backward, block->num_backward, prices->backward);
}

static void walk_op(struct pass_walk *walk, const struct hlm_op *op,
                    const struct hlm_op_price *price)
{
    if (walk->hidden_tensor >= 0 && op_touches(op, walk->hidden_tensor)) {
        walk_expose_hidden(walk);
    }
    if (hlm_op_is_collective(op->kind)) {
        walk_collective(walk, op, price->seconds);
        return;
    }
    walk->cost.part[HLM_PART_CP_COMM] += price->ring_s;
    walk->cost.part[op_part(op)] += price->seconds;
    walk->now_s += price->ring_s + price->seconds;
    walk->launches += price->launches;
}

/* Prices the operators of one pass whose part is wanted (mask of 1 << hlm_op_part). */
static struct hlm_pass_cost price_pass(const struct hlm_pricer *pricer, const struct hlm_op *ops,
                                       const struct hlm_op_price *prices, int32_t num_ops,
                                       unsigned parts, int64_t *out_launches)
{
    struct pass_walk walk = {.pricer = pricer,
                             .device = &pricer->cluster->groups[pricer->device_group].device,
                             .hidden_tensor = -1};
    for (int32_t i = 0; i < num_ops; i++) {
        if ((parts & (1U << ops[i].part)) != 0) {
            walk_op(&walk, &ops[i], &prices[i]);
        }
    }
    walk_expose_hidden(&walk);
    const double host_s = (double)walk.launches * walk.device->launch_overhead_s *
                          hlm_lowering_framework(pricer->strategy->lowering)->host_per_launch;
    walk.cost.part[HLM_PART_HOST] = fmax(0.0, host_s - walk.now_s);
    for (int32_t part = 0; part < HLM_NUM_PARTS; part++) {
        walk.cost.seconds += walk.cost.part[part];
    }
    *out_launches = walk.launches;
    return walk.cost;
}

void hlm_price_passes(const struct hlm_pricer *pricer, const struct hlm_block *block,
                      const struct hlm_block_prices *prices, struct hlm_block_cost *out)
{
    const unsigned input = 1U << HLM_PART_INPUT_GRAD, weight = 1U << HLM_PART_WEIGHT_GRAD;
    const unsigned forward = 1U << HLM_PART_FORWARD;
    const struct hlm_op_price *up = prices->backward;
    int64_t unused = 0;
    out->forward = price_pass(pricer, block->forward, prices->forward, block->num_forward, forward,
                              &out->num_kernels_forward);
    out->backward = price_pass(pricer, block->backward, up, block->num_backward,
                               forward | input | weight, &out->num_kernels_backward);
    out->input_grad =
        price_pass(pricer, block->backward, up, block->num_backward, forward | input, &unused);
    out->weight_grad =
        price_pass(pricer, block->backward, up, block->num_backward, weight, &unused);
}
