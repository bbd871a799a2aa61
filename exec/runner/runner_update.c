/* Reduction of gradients, their norm, and the optimizer. */
#include <math.h>

#include "exec/runner/runner_internal.h"

static enum hlm_status reduce_slab(struct hlm_runner *runner, enum hlm_op_kind kind,
                                   enum hlm_group group, float *in, float *out, int64_t whole,
                                   struct hlm_err *err)
{
    if (whole == 0 || hlm_runner_group_size(runner, group) == 1) {
        return HLM_OK;
    }
    const struct hlm_op op = {
        .kind = kind, .group = group, .dtype = HLM_DTYPE_FP32, .m = whole, .n = 1};
    return hlm_exchange_collective(runner->exchange, &op, in, out, err);
}

/* The token table, where embedding and head share it: two ranks have a copy each, or one rank has
 * it for both stages. */
static bool shares_table(const struct hlm_state *state)
{
    return state->plan->model.tied_embeddings && state->plan->num_stages > 1 &&
           state->tied_stage >= 0;
}

static bool has_copy(const struct hlm_state *state, const struct hlm_state_stage *stage)
{
    return shares_table(state) && hlm_layout_ends_apart(&state->strategy) &&
           stage == &state->stages[state->tied_stage];
}

static enum hlm_status reduce_copies(struct hlm_runner *runner, const struct hlm_state_stage *stage,
                                     struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    return has_copy(state, stage) ? reduce_slab(runner, HLM_OP_ALL_REDUCE, HLM_GROUP_EMBEDDING,
                                                stage->grads_slab + state->tied_offset, NULL,
                                                state->tied_elements, err)
                                  : HLM_OK;
}

/* Gradients of dense parameters over dp, of experts over edp: whole or scattered. */
static enum hlm_status reduce_parts(struct hlm_runner *runner, const struct hlm_state_stage *stage,
                                    bool scatters, struct hlm_err *err)
{
    const enum hlm_op_kind kind = scatters ? HLM_OP_REDUCE_SCATTER : HLM_OP_ALL_REDUCE;
    float *grads = stage->grads_slab;
    HLM_TRY(reduce_slab(runner, kind, HLM_GROUP_DP, grads,
                        scatters ? grads + stage->own_first : NULL, stage->expert_first, err));
    return reduce_slab(runner, kind, HLM_GROUP_EDP, grads + stage->expert_first,
                       scatters ? grads + stage->own_expert_first : NULL,
                       stage->num_padded - stage->expert_first, err);
}

/* Sharded states need the sum of the table's copies before the slab is scattered; otherwise the
 * order does not matter and the reduction over dp goes first, as the simulator has it. */
static enum hlm_status reduce_stage(struct hlm_runner *runner, const struct hlm_state_stage *stage,
                                    struct hlm_err *err)
{
    if (stage->num_units > 0) {
        return hlm_runner_reduce_shards(runner, stage, has_copy(runner->state, stage), err);
    }
    HLM_TRY(reduce_slab(runner, HLM_OP_ALL_REDUCE, HLM_GROUP_TP, stage->grads_slab, NULL,
                        stage->num_sum_over_tp, err));
    if (runner->state->strategy.zero > 0) {
        HLM_TRY(reduce_copies(runner, stage, err));
        return reduce_parts(runner, stage, true, err);
    }
    HLM_TRY(reduce_parts(runner, stage, false, err));
    return reduce_copies(runner, stage, err);
}

/* The stage with the shared table goes last: the other stage that uses it, here or on another rank
 * that may still wait for this one's backwards, has then finished too. */
enum hlm_status hlm_runner_reduce(struct hlm_runner *runner, struct hlm_action action,
                                  struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    const int32_t postponed = shares_table(state) ? state->tied_stage : -1;
    const int32_t index = hlm_state_find_stage(state, action.stage);
    runner->num_reduced++;
    if (index != postponed) {
        HLM_TRY(reduce_stage(runner, &state->stages[index], err));
    }
    return postponed >= 0 && runner->num_reduced == state->num_stages
               ? reduce_stage(runner, &state->stages[postponed], err)
               : HLM_OK;
}

/* The part of a parameter that this rank updates: elements [first, first + count) of the slab. */
static int64_t own_part(const struct hlm_state_stage *stage, const struct hlm_state_param *param,
                        int64_t *first)
{
    const struct hlm_state_unit *unit = hlm_state_find_unit(stage, param->offset);
    int64_t own_first = 0;
    const int32_t range = unit != NULL ? (int32_t)(unit - stage->units) : param->param->expert;
    const int64_t own_end = hlm_state_range(stage, range, &own_first) + own_first;
    const int64_t end = param->offset + param->num_elements;
    *first = param->offset > own_first ? param->offset : own_first;
    return (end < own_end ? end : own_end) - *first;
}

/* Whose squares make the gradient norm: one replica's where every replica has all gradients. Those
 * of experts may be spread over replicas, and sharded ones are spread over all. */
static enum hlm_group norm_group(const struct hlm_state *state)
{
    const bool spread = state->strategy.zero > 0 || state->plan->model.moe.num_experts > 0;
    return spread ? HLM_GROUP_WORLD : HLM_GROUP_MODEL;
}

/* Does this rank count the parameter in the gradient norm? Each parameter of the model counts once.
 */
static bool counts_in_norm(const struct hlm_state *state, const struct hlm_param *param)
{
    const bool whole = state->strategy.zero == 0 && norm_group(state) == HLM_GROUP_WORLD;
    const int32_t copy = param->expert ? state->edp_rank : state->coords.dp + state->coords.cp;
    return !(param->replicated && state->coords.tp > 0) && !param->tied && !(whole && copy > 0);
}

static enum hlm_status add_squares(struct hlm_runner *runner, const struct hlm_state_stage *stage,
                                   struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    const struct hlm_op_scalars scalars = {0};
    for (int32_t i = 0; i < stage->num_params; i++) {
        int64_t first = 0;
        const int64_t count = own_part(stage, &stage->params[i], &first);
        if (count <= 0 || !counts_in_norm(state, stage->params[i].param)) {
            continue;
        }
        const struct hlm_op op = {
            .kind = HLM_OP_SUM_SQUARES, .dtype = HLM_DTYPE_FP32, .m = count, .n = 1};
        void *const operands[HLM_OP_MAX_OPERANDS] = {hlm_state_grad_address(stage, first),
                                                     state->sum};
        HLM_TRY(state->backend->ops->launch(state->queue, &op, operands, &scalars, err));
    }
    return HLM_OK;
}

static enum hlm_status sum_squares(struct hlm_runner *runner, double *out, struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    const struct hlm_backend_ops *ops = state->backend->ops;
    HLM_TRY(
        ops->upload(state->queue, state->sum, &hlm_runner_no_sum, sizeof(hlm_runner_no_sum), err));
    for (int32_t s = 0; s < state->num_stages; s++) {
        HLM_TRY(add_squares(runner, &state->stages[s], err));
    }
    HLM_TRY(ops->download(state->queue, out, state->sum, sizeof(double), err));
    return hlm_exchange_sync(runner->exchange, err);
}

static enum hlm_status reduce_norm(struct hlm_runner *runner, double *norm, struct hlm_err *err)
{
    double squares = 0.0;
    HLM_TRY(sum_squares(runner, &squares, err));
    HLM_TRY(hlm_exchange_host_sum(runner->exchange, norm_group(runner->state), &squares, 1,
                                  "all_reduce of the gradient norm", err));
    *norm = sqrt(squares);
    return HLM_OK;
}

/* Neighbouring elements of one stage with the same weight decay. */
struct update {
    const struct hlm_state_stage *stage;
    int64_t first, count;
    bool decay;
};

static enum hlm_status launch_adamw(struct hlm_runner *runner, const struct update *update,
                                    double grad_scale, struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    const struct hlm_state_stage *stage = update->stage;
    const struct hlm_optimizer *optimizer = &runner->optimizer;
    const struct hlm_op_scalars scalars = {.learning_rate = optimizer->learning_rate,
                                           .beta1 = optimizer->beta1,
                                           .beta2 = optimizer->beta2,
                                           .adam_eps = optimizer->eps,
                                           .weight_decay =
                                               update->decay ? optimizer->weight_decay : 0.0,
                                           .grad_scale = grad_scale,
                                           .step = runner->step + 1};
    const struct hlm_op op = {
        .kind = HLM_OP_ADAMW, .dtype = state->dtype, .m = update->count, .n = 1};
    const int64_t own = hlm_state_moment(stage, update->first);
    void *const operands[HLM_OP_MAX_OPERANDS] = {
        hlm_state_grad_address(stage, update->first),
        hlm_state_param_address(state, stage, update->first), stage->exp_avg + own,
        stage->exp_avg_sq + own, stage->master != NULL ? stage->master + own : NULL};
    return state->backend->ops->launch(state->queue, &op, operands, &scalars, err);
}

/* One launch per run of neighbouring parameters with the same decay. */
static enum hlm_status update_params(struct hlm_runner *runner, const struct hlm_state_stage *stage,
                                     double grad_scale, struct hlm_err *err)
{
    struct update update = {.stage = stage};
    for (int32_t i = 0; i < stage->num_params; i++) {
        int64_t first = 0;
        const int64_t count = own_part(stage, &stage->params[i], &first);
        const bool decay = stage->params[i].param->decay;
        if (count <= 0) {
            continue;
        }
        if (update.count > 0 && (decay != update.decay || first != update.first + update.count)) {
            HLM_TRY(launch_adamw(runner, &update, grad_scale, err));
            update.count = 0;
        }
        if (update.count == 0) {
            update.first = first;
            update.decay = decay;
        }
        update.count += count;
    }
    return update.count > 0 ? launch_adamw(runner, &update, grad_scale, err) : HLM_OK;
}

/* From each rank's share, which begins at `own_first`, all of the part that begins at `first`. */
static enum hlm_status gather_part(struct hlm_runner *runner, const struct hlm_state_stage *stage,
                                   enum hlm_group group, int64_t own_first, int64_t first,
                                   int64_t count, struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    if (count == 0 || hlm_runner_group_size(runner, group) == 1) {
        return HLM_OK;
    }
    const struct hlm_op op = {
        .kind = HLM_OP_ALL_GATHER, .group = group, .dtype = state->dtype, .m = count, .n = 1};
    return hlm_exchange_collective(runner->exchange, &op,
                                   hlm_state_param_address(state, stage, own_first),
                                   hlm_state_param_address(state, stage, first), err);
}

static enum hlm_status gather_params(struct hlm_runner *runner, const struct hlm_state_stage *stage,
                                     struct hlm_err *err)
{
    if (runner->state->strategy.zero == 0) {
        return HLM_OK;
    }
    if (stage->num_units > 0) {
        return hlm_runner_gather_shards(runner, stage, err);
    }
    HLM_TRY(
        gather_part(runner, stage, HLM_GROUP_DP, stage->own_first, 0, stage->expert_first, err));
    return gather_part(runner, stage, HLM_GROUP_EDP, stage->own_expert_first, stage->expert_first,
                       stage->num_padded - stage->expert_first, err);
}

static enum hlm_status clear_grads(struct hlm_runner *runner, const struct hlm_state_stage *stage,
                                   struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    const struct hlm_op zero = {
        .kind = HLM_OP_FILL_ZERO, .dtype = HLM_DTYPE_FP32, .m = stage->num_held_grads, .n = 1};
    void *const operands[HLM_OP_MAX_OPERANDS] = {stage->grads_slab};
    const struct hlm_op_scalars scalars = {0};
    return state->backend->ops->launch(state->queue, &zero, operands, &scalars, err);
}

enum hlm_status hlm_runner_optimize(struct hlm_runner *runner, struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    double norm = 0.0;
    HLM_TRY(reduce_norm(runner, &norm, err));
    if (!isfinite(norm)) {
        return hlm_fail(err, HLM_FAILED, "step %lld: the gradient norm is not finite",
                        (long long)runner->step);
    }
    const double max_norm = runner->optimizer.max_norm;
    const double scale = max_norm > 0.0 ? fmin(1.0, max_norm / (norm + 1e-6)) : 1.0;
    runner->last_norm = norm;
    for (int32_t s = 0; s < state->num_stages; s++) {
        HLM_TRY(update_params(runner, &state->stages[s], scale, err));
        HLM_TRY(gather_params(runner, &state->stages[s], err));
        HLM_TRY(clear_grads(runner, &state->stages[s], err));
    }
    return runner->marks != NULL ? HLM_OK : hlm_exchange_sync(runner->exchange, err);
}
