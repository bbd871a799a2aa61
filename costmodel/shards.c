#include "costmodel/shards.h"

#include <string.h>

#include "costmodel/data_parallel.h"
#include "costmodel/lowering.h"
#include "costmodel/memory.h"

bool hlm_shards_apply(const struct hlm_strategy *strategy)
{
    return strategy->zero >= 2 && hlm_lowering_framework(strategy->lowering)->shares_in_turn;
}

/* --- units --- */

static bool writes_tensor(const struct hlm_op *op, int32_t tensor)
{
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        if (op->operands[i] == tensor && hlm_op_writes(op, i)) {
            return true;
        }
    }
    return false;
}

static bool is_made_by_input_half(const struct hlm_block *block, int32_t grad)
{
    for (int32_t o = 0; o < block->num_backward; o++) {
        const struct hlm_op *op = &block->backward[o];
        if (op->part != HLM_PART_WEIGHT_GRAD && writes_tensor(op, grad)) {
            return true;
        }
    }
    return false;
}

static enum hlm_shard_kind shard_of_param(const struct hlm_block *block, bool split, bool tied,
                                          int32_t param)
{
    const struct hlm_param *what = &block->params[param];
    const bool token = block->kind == HLM_BLOCK_EMBEDDING && strcmp(what->name, "token") == 0;
    if (what->expert) {
        return HLM_SHARD_EXPERT;
    }
    if (what->tied || (tied && token)) {
        return HLM_SHARD_TABLE;
    }
    return split && is_made_by_input_half(block, what->grad) ? HLM_SHARD_EARLY : HLM_SHARD_DENSE;
}

enum hlm_shard_kind hlm_shard_of_param(const struct hlm_block *block,
                                       const struct hlm_strategy *strategy, bool tied,
                                       int32_t param)
{
    return shard_of_param(block, hlm_schedule_splits(strategy->schedule), tied, param);
}

static void pad(struct hlm_shard_unit *unit, const struct hlm_strategy *strategy)
{
    unit->num_shards = hlm_dp_shards(strategy, unit->group);
    unit->num_own = (unit->num_elements + unit->num_shards - 1) / unit->num_shards;
    unit->num_padded = unit->num_own * unit->num_shards;
}

static bool is_borrowed(const struct hlm_tensor *tensor)
{
    return tensor->role == HLM_TENSOR_PARAM && tensor->param < 0;
}

static void find_units(const struct hlm_block *block, bool split, bool tied,
                       struct hlm_block_shards *out)
{
    for (int32_t p = 0; p < block->num_params; p++) {
        const struct hlm_param *param = &block->params[p];
        struct hlm_shard_unit *unit = &out->units[shard_of_param(block, split, tied, p)];
        unit->num_elements += param->rows * param->cols;
        unit->num_sum_over_tp += param->sum_over_tp ? param->rows * param->cols : 0;
    }
    for (int32_t t = 0; t < block->num_tensors; t++) {
        if (is_borrowed(&block->tensors[t])) {
            out->units[HLM_SHARD_TABLE].num_elements =
                block->tensors[t].rows * block->tensors[t].cols;
            out->borrows_table = true;
        }
    }
    for (int32_t kind = 0; kind < HLM_NUM_SHARD_KINDS; kind++) {
        out->units[kind].group = kind == HLM_SHARD_EXPERT ? HLM_GROUP_EDP : HLM_GROUP_DP;
    }
}

/* --- passes --- */

/* The bit of the unit of a parameter or gradient; 0: another tensor. */
static uint32_t unit_bit(const struct hlm_block *block, bool split, bool tied, int32_t tensor,
                         enum hlm_tensor_role role)
{
    if (tensor < 0 || block->tensors[tensor].role != role) {
        return 0U;
    }
    const int32_t param = block->tensors[tensor].param;
    return 1U << (param < 0 ? HLM_SHARD_TABLE : shard_of_param(block, split, tied, param));
}

struct pass {
    const struct hlm_op *ops;
    int32_t num_ops;
    unsigned parts;
};

static void find_touched(const struct hlm_block *block, bool split, bool tied,
                         const struct pass *pass, uint32_t *read, uint32_t *written)
{
    for (int32_t o = 0; o < pass->num_ops; o++) {
        const struct hlm_op *op = &pass->ops[o];
        if ((pass->parts & (1U << op->part)) == 0) {
            continue;
        }
        for (int32_t i = 0; i < hlm_op_num_operands(op->kind); i++) {
            *read |= unit_bit(block, split, tied, op->operands[i], HLM_TENSOR_PARAM);
            *written |= unit_bit(block, split, tied, op->operands[i], HLM_TENSOR_GRAD);
        }
    }
}

void hlm_block_units(const struct hlm_block *block, bool split, bool tied,
                     struct hlm_block_shards *out)
{
    const unsigned weight = 1U << HLM_PART_WEIGHT_GRAD;
    const struct pass passes[HLM_NUM_SHARD_PASSES] = {
        [HLM_SHARD_FORWARD] = {block->forward, block->num_forward, ~0U},
        [HLM_SHARD_BACKWARD] = {block->backward, block->num_backward, split ? ~weight : ~0U},
        [HLM_SHARD_WEIGHT_GRAD] = {block->backward, block->num_backward, split ? weight : 0U}};
    *out = (struct hlm_block_shards){0};
    find_units(block, split, tied, out);
    for (int32_t i = 0; i < HLM_NUM_SHARD_PASSES; i++) {
        find_touched(block, split, tied, &passes[i], &out->read[i], &out->written[i]);
    }
}

void hlm_shards_pad(struct hlm_block_shards *shards, const struct hlm_strategy *strategy)
{
    HLM_ASSERT(hlm_shards_apply(strategy));
    for (int32_t kind = 0; kind < HLM_NUM_SHARD_KINDS; kind++) {
        pad(&shards->units[kind], strategy);
    }
}

void hlm_block_shards(const struct hlm_block *block, const struct hlm_strategy *strategy, bool tied,
                      struct hlm_block_shards *out)
{
    hlm_block_units(block, hlm_schedule_splits(strategy->schedule), tied, out);
    hlm_shards_pad(out, strategy);
}

/* --- memory --- */

static int64_t align(int64_t bytes)
{
    return (bytes + HLM_ALIGNMENT_BYTES - 1) / HLM_ALIGNMENT_BYTES * HLM_ALIGNMENT_BYTES;
}

struct hlm_shards_whole hlm_shards_whole(const struct hlm_block_shards *shards,
                                         const struct hlm_strategy *strategy)
{
    const double param_bytes =
        strategy->zero >= 3 ? hlm_dtype_bytes(hlm_dtype_storage(strategy->dtype)) : 0.0;
    int64_t num_elements = 0;
    for (int32_t kind = 0; kind < HLM_NUM_SHARD_KINDS; kind++) {
        num_elements += shards->units[kind].num_padded;
    }
    return (struct hlm_shards_whole){
        .params_bytes = align((int64_t)((double)num_elements * param_bytes)),
        .grads_bytes =
            align((int64_t)((double)num_elements * hlm_dtype_bytes(strategy->grad_dtype)))};
}
