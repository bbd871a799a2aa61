/* From ZeRO-2 on: whole parameters and gradients of a block around its passes, and what a step does
 * once for the shards of a stage. */
#include "exec/runner/runner_internal.h"

/* One unit of a block in a pass. */
struct unit_pass {
    const struct hlm_state_block *block;
    const struct hlm_state_unit *unit;
    enum hlm_shard_kind kind;
};

static struct unit_pass unit_of(const struct hlm_state_binding *binding, int32_t block,
                                int32_t kind)
{
    const struct hlm_state_block *placed = &binding->stage->blocks[block];
    return (struct unit_pass){placed, placed->units[kind], (enum hlm_shard_kind)kind};
}

static bool in_mask(uint32_t mask, int32_t kind)
{
    return (mask & (1U << kind)) != 0;
}

static struct hlm_op collective_of(const struct hlm_state_unit *unit, enum hlm_op_kind kind,
                                   enum hlm_dtype dtype)
{
    return (struct hlm_op){
        .kind = kind, .group = unit->group, .dtype = dtype, .m = unit->num_padded, .n = 1};
}

/* --- around the passes of a block --- */

static enum hlm_status gather_unit(struct hlm_runner *runner, const struct unit_pass *pass,
                                   struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    const struct hlm_state_unit *unit = pass->unit;
    const struct hlm_op op = collective_of(unit, HLM_OP_ALL_GATHER, state->dtype);
    return hlm_exchange_collective(runner->exchange, &op,
                                   hlm_state_param_address(state, unit->stage, unit->own_first),
                                   hlm_state_whole_params(state, pass->block, pass->kind), err);
}

/* Operators add to gradients. */
static enum hlm_status clear_unit(struct hlm_runner *runner, const struct unit_pass *pass,
                                  struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    const struct hlm_op zero = {
        .kind = HLM_OP_FILL_ZERO, .dtype = HLM_DTYPE_FP32, .m = pass->unit->num_padded, .n = 1};
    void *const operands[HLM_OP_MAX_OPERANDS] = {
        hlm_state_whole_grads(state, pass->block, pass->kind)};
    const struct hlm_op_scalars scalars = {0};
    return state->backend->ops->launch(state->queue, &zero, operands, &scalars, err);
}

/* The sum over the group comes to where this rank's part of the whole stood, and is added to what
 * the microbatches before have left in the shard. */
static enum hlm_status reduce_unit(struct hlm_runner *runner, const struct unit_pass *pass,
                                   struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    const struct hlm_state_unit *unit = pass->unit;
    float *whole = hlm_state_whole_grads(state, pass->block, pass->kind);
    float *own = whole + (unit->own_first - unit->first);
    float *shard = hlm_state_grad_address(unit->stage, unit->own_first);
    const struct hlm_op op = collective_of(unit, HLM_OP_REDUCE_SCATTER, HLM_DTYPE_FP32);
    HLM_TRY(unit->own_count == unit->num_padded
                ? HLM_OK
                : hlm_exchange_collective(runner->exchange, &op, whole, own, err));
    return state->backend->ops->combine(state->queue, shard, shard, own, unit->own_count,
                                        HLM_WIRE_F32, HLM_REDUCE_SUM, err);
}

enum hlm_status hlm_runner_open_shards(struct hlm_runner *runner, int32_t block,
                                       const struct hlm_state_binding *binding, struct hlm_err *err)
{
    const struct hlm_block_shards *shards = binding->stage->blocks[block].shards;
    if (shards == NULL) {
        return HLM_OK;
    }
    HLM_TRY(hlm_runner_cut_pass(runner, err));
    for (int32_t kind = 0; kind < HLM_NUM_SHARD_KINDS; kind++) {
        const struct unit_pass pass = unit_of(binding, block, kind);
        if (in_mask(shards->read[binding->pass], kind) && runner->state->strategy.zero >= 3) {
            HLM_TRY(gather_unit(runner, &pass, err));
        }
        if (in_mask(shards->written[binding->pass], kind)) {
            HLM_TRY(clear_unit(runner, &pass, err));
        }
    }
    return HLM_OK;
}

enum hlm_status hlm_runner_close_shards(struct hlm_runner *runner, int32_t block,
                                        const struct hlm_state_binding *binding,
                                        struct hlm_err *err)
{
    const struct hlm_block_shards *shards = binding->stage->blocks[block].shards;
    if (shards == NULL || shards->written[binding->pass] == 0) {
        return HLM_OK;
    }
    HLM_TRY(hlm_runner_cut_pass(runner, err));
    for (int32_t kind = 0; kind < HLM_NUM_SHARD_KINDS; kind++) {
        const struct unit_pass pass = unit_of(binding, block, kind);
        if (in_mask(shards->written[binding->pass], kind)) {
            HLM_TRY(reduce_unit(runner, &pass, err));
        }
    }
    return HLM_OK;
}

/* --- once a step --- */

static enum hlm_status sum_shard(struct hlm_runner *runner, const struct hlm_state_unit *unit,
                                 enum hlm_group group, int64_t count, struct hlm_err *err)
{
    const struct hlm_op op = {
        .kind = HLM_OP_ALL_REDUCE, .group = group, .dtype = HLM_DTYPE_FP32, .m = count, .n = 1};
    return hlm_exchange_collective(runner->exchange, &op,
                                   hlm_state_grad_address(unit->stage, unit->own_first), NULL, err);
}

/* The ranks of a tp group have the same shards, of which the sum needs the leading elements. */
static enum hlm_status sum_over_tp(struct hlm_runner *runner, const struct hlm_state_unit *unit,
                                   struct hlm_err *err)
{
    const int64_t left = unit->first + unit->num_sum_over_tp - unit->own_first;
    const int64_t count = left < unit->own_count ? left : unit->own_count;
    return count > 0 && hlm_runner_group_size(runner, HLM_GROUP_TP) > 1
               ? sum_shard(runner, unit, HLM_GROUP_TP, count, err)
               : HLM_OK;
}

enum hlm_status hlm_runner_reduce_shards(struct hlm_runner *runner,
                                         const struct hlm_state_stage *stage, bool copies,
                                         struct hlm_err *err)
{
    for (int32_t i = 0; i < stage->num_units; i++) {
        HLM_TRY(sum_over_tp(runner, &stage->units[i], err));
    }
    if (!copies) {
        return HLM_OK;
    }
    const struct hlm_state_unit *table = hlm_state_find_unit(stage, runner->state->tied_offset);
    return sum_shard(runner, table, HLM_GROUP_EMBEDDING, table->own_count, err);
}

enum hlm_status hlm_runner_gather_shards(struct hlm_runner *runner,
                                         const struct hlm_state_stage *stage, struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    for (int32_t i = 0; i < stage->num_units && state->strategy.zero < 3; i++) {
        const struct hlm_state_unit *unit = &stage->units[i];
        const struct hlm_op op = collective_of(unit, HLM_OP_ALL_GATHER, state->dtype);
        if (unit->own_count < unit->num_padded) {
            HLM_TRY(hlm_exchange_collective(
                runner->exchange, &op, hlm_state_param_address(state, stage, unit->own_first),
                hlm_state_param_address(state, stage, unit->first), err));
        }
    }
    return HLM_OK;
}
