/* Reduction of gradients, their norm, and the optimizer. */
#include <math.h>

#include "exec/runner_internal.h"

static enum hlm_status reduce_slab(struct hlm_runner *runner, enum hlm_op_kind kind,
                                   enum hlm_group group, float *in, float *out, int64_t whole,
                                   struct hlm_err *err)
{
    if (whole == 0 || hlm_runner_group_size(runner, group) == 1) {
        return HLM_OK;
    }
    const struct hlm_op op = {
        .kind = kind, .group = group, .dtype = HLM_DTYPE_FP32, .m = whole, .n = 1};
    void *const operands[HLM_OP_MAX_OPERANDS] = {in, out};
    return hlm_runner_collective(runner, &op, operands, err);
}

/* Sharded states need the tied table's sum before the slab is scattered; otherwise the order does
 * not matter and the reduction over dp goes first, as the simulator has it. */
static enum hlm_status reduce_tied(struct hlm_runner *runner, struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    const bool shared = state->plan->model.tied_embeddings && state->plan->num_stages > 1 &&
                        (state->stage == 0 || state->stage == state->plan->num_stages - 1);
    return shared ? reduce_slab(runner, HLM_OP_ALL_REDUCE, HLM_GROUP_EMBEDDING,
                                state->grads_slab + state->tied_offset, NULL, state->tied_elements,
                                err)
                  : HLM_OK;
}

enum hlm_status hlm_runner_reduce(struct hlm_runner *runner, struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    const bool sharded = state->plan->strategy.zero > 0;
    HLM_TRY(reduce_slab(runner, HLM_OP_ALL_REDUCE, HLM_GROUP_TP, state->grads_slab, NULL,
                        state->num_sum_over_tp, err));
    if (sharded) {
        HLM_TRY(reduce_tied(runner, err));
        return reduce_slab(runner, HLM_OP_REDUCE_SCATTER, HLM_GROUP_DP, state->grads_slab,
                           state->grads_slab + state->own_first, state->num_padded, err);
    }
    HLM_TRY(reduce_slab(runner, HLM_OP_ALL_REDUCE, HLM_GROUP_DP, state->grads_slab, NULL,
                        state->num_elements, err));
    return reduce_tied(runner, err);
}

/* The part of a parameter that this rank updates: elements [first, first + count) of the slab. */
static int64_t own_part(const struct hlm_state *state, const struct hlm_state_param *param,
                        int64_t *first)
{
    const int64_t own_end = state->own_first + state->own_count;
    const int64_t end = param->offset + param->num_elements;
    *first = param->offset > state->own_first ? param->offset : state->own_first;
    return (end < own_end ? end : own_end) - *first;
}

/* Does this rank count the parameter in the gradient norm? Each parameter of the model counts once.
 */
static bool counts_in_norm(const struct hlm_state *state, const struct hlm_param *param)
{
    return !(param->replicated && state->coords.tp > 0) && !param->tied;
}

static enum hlm_status sum_squares(struct hlm_runner *runner, double *out, struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    const struct hlm_backend_ops *ops = state->backend->ops;
    const struct hlm_op_scalars scalars = {0};
    HLM_TRY(
        ops->upload(state->queue, state->sum, &hlm_runner_no_sum, sizeof(hlm_runner_no_sum), err));
    for (int32_t i = 0; i < state->num_params; i++) {
        int64_t first = 0;
        const int64_t count = own_part(state, &state->params[i], &first);
        if (count <= 0 || !counts_in_norm(state, state->params[i].param)) {
            continue;
        }
        const struct hlm_op op = {
            .kind = HLM_OP_SUM_SQUARES, .dtype = HLM_DTYPE_FP32, .m = count, .n = 1};
        void *const operands[HLM_OP_MAX_OPERANDS] = {state->grads_slab + first, state->sum};
        HLM_TRY(ops->launch(state->queue, &op, operands, &scalars, err));
    }
    HLM_TRY(ops->download(state->queue, out, state->sum, sizeof(double), err));
    return ops->queue_sync(state->queue, err);
}

static enum hlm_status reduce_norm(struct hlm_runner *runner, double *norm, struct hlm_err *err)
{
    double squares = 0.0;
    HLM_TRY(sum_squares(runner, &squares, err));
    double start_s = 0.0;
    hlm_runner_tell(runner, "all_reduce of the gradient norm", true);
    HLM_TRY(hlm_runner_comm_begin(runner, &start_s, err));
    const bool sharded = runner->state->plan->strategy.zero > 0;
    HLM_TRY(runner->comm->ops->all_reduce(runner->comm, sharded ? HLM_GROUP_WORLD : HLM_GROUP_MODEL,
                                          &squares, 1, HLM_WIRE_F64, HLM_REDUCE_SUM, err));
    HLM_TRY(hlm_runner_comm_end(runner, start_s, &runner->event->message_s, err));
    *norm = sqrt(squares);
    return HLM_OK;
}

static enum hlm_status launch_adamw(struct hlm_runner *runner, int64_t first, int64_t count,
                                    bool decay, double grad_scale, struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    const struct hlm_optimizer *optimizer = &runner->optimizer;
    const struct hlm_op_scalars scalars = {.learning_rate = optimizer->learning_rate,
                                           .beta1 = optimizer->beta1,
                                           .beta2 = optimizer->beta2,
                                           .adam_eps = optimizer->eps,
                                           .weight_decay = decay ? optimizer->weight_decay : 0.0,
                                           .grad_scale = grad_scale,
                                           .step = runner->step + 1};
    const struct hlm_op op = {.kind = HLM_OP_ADAMW, .dtype = HLM_DTYPE_FP32, .m = count, .n = 1};
    const int64_t moment = first - state->own_first;
    void *const operands[HLM_OP_MAX_OPERANDS] = {
        state->grads_slab + first, state->params_slab + first, state->exp_avg + moment,
        state->exp_avg_sq + moment};
    return state->backend->ops->launch(state->queue, &op, operands, &scalars, err);
}

/* One launch per run of neighbouring parameters with the same decay. */
static enum hlm_status update_params(struct hlm_runner *runner, double grad_scale,
                                     struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    int64_t run_first = 0, run_count = 0;
    bool run_decay = false;
    for (int32_t i = 0; i < state->num_params; i++) {
        int64_t first = 0;
        const int64_t count = own_part(state, &state->params[i], &first);
        const bool decay = state->params[i].param->decay;
        if (count <= 0) {
            continue;
        }
        if (run_count > 0 && (decay != run_decay || first != run_first + run_count)) {
            HLM_TRY(launch_adamw(runner, run_first, run_count, run_decay, grad_scale, err));
            run_count = 0;
        }
        if (run_count == 0) {
            run_first = first;
            run_decay = decay;
        }
        run_count += count;
    }
    return run_count > 0 ? launch_adamw(runner, run_first, run_count, run_decay, grad_scale, err)
                         : HLM_OK;
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
    HLM_TRY(update_params(runner, scale, err));
    if (state->plan->strategy.zero > 0) {
        HLM_TRY(reduce_slab(runner, HLM_OP_ALL_GATHER, HLM_GROUP_DP,
                            state->params_slab + state->own_first, state->params_slab,
                            state->num_padded, err));
    }
    const struct hlm_op zero = {
        .kind = HLM_OP_FILL_ZERO, .dtype = HLM_DTYPE_FP32, .m = state->num_padded, .n = 1};
    void *const operands[HLM_OP_MAX_OPERANDS] = {state->grads_slab};
    const struct hlm_op_scalars scalars = {0};
    HLM_TRY(state->backend->ops->launch(state->queue, &zero, operands, &scalars, err));
    return state->backend->ops->queue_sync(state->queue, err);
}
