#include "exec/runner.h"

#include <math.h>
#include <time.h>

#include "exec/compute_clock.h"
#include "exec/hostcopy.h"

const struct hlm_optimizer hlm_optimizer_default = {.learning_rate = 1e-3,
                                                    .beta1 = 0.9,
                                                    .beta2 = 0.95,
                                                    .eps = 1e-8,
                                                    .weight_decay = 0.1,
                                                    .max_norm = 1.0};

enum { CHANNEL_FORWARD, CHANNEL_BACKWARD };

/* Uploaded before a sum is made; outlives the queue's reading of it. */
static const double no_sum = 0.0;

/* A slot holds one microbatch from its forward to its backward; its messages may still be under way
 * when it is taken again, so taking waits for them. */
struct slot {
    int32_t microbatch; /* -1: free */
    struct hlm_request *send_forward, *send_backward;
    char *host_output, *host_dinput; /* staging, NULL where the host reaches device memory */
};

struct hlm_runner {
    struct hlm_state *state;
    struct hlm_comm *comm;
    const struct hlm_data *data;
    struct hlm_optimizer optimizer;
    const struct hlm_rank_actions *actions;
    struct slot *slots;
    struct hlm_hostcopy host;
    struct hlm_compute_clock clock;
    struct hlm_run_event *events;
    int32_t num_events;
    struct hlm_run_event *event; /* of the action that runs */
    int32_t *tokens, *targets;   /* one microbatch */
    float *pixels;
    double loss_scale;
    int64_t step;
    double step_start_s, last_norm;
    const struct hlm_action *action; /* that runs */
    const char *const *action_texts; /* [num_actions] */
    hlm_runner_watch_fn *watch;
    void *watch_context;
};

/* --- clocks --- */

static double clock_s(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double wall_s(void)
{
    return clock_s(CLOCK_MONOTONIC);
}

static void tell(const struct hlm_runner *runner, const char *operation, bool waiting)
{
    if (runner->watch != NULL) {
        const int32_t index = (int32_t)(runner->action - runner->actions->actions);
        runner->watch(runner->watch_context, runner->step, runner->action_texts[index], operation,
                      waiting);
    }
}

/* The same outside of actions. */
static void tell_between(const struct hlm_runner *runner, const char *operation)
{
    if (runner->watch != NULL) {
        runner->watch(runner->watch_context, runner->step, NULL, operation, true);
    }
}

/* Communication: the computing clock stands still and the queue is empty meanwhile. `*seconds`
 * grows by its wall clock at the end. What follows it waits for nobody. */
static enum hlm_status comm_begin(struct hlm_runner *runner, double *start_s, struct hlm_err *err)
{
    HLM_TRY(hlm_compute_clock_pause(&runner->clock, err));
    *start_s = wall_s();
    return HLM_OK;
}

static enum hlm_status comm_end(struct hlm_runner *runner, double start_s, double *seconds,
                                struct hlm_err *err)
{
    *seconds += wall_s() - start_s;
    tell(runner, NULL, false);
    return hlm_compute_clock_resume(&runner->clock, err);
}

/* --- operators --- */

static enum hlm_wire wire_type(enum hlm_dtype dtype)
{
    return dtype == HLM_DTYPE_FP32 ? HLM_WIRE_F32 : HLM_WIRE_BF16;
}

static int32_t group_size(const struct hlm_runner *runner, enum hlm_group group)
{
    return hlm_layout_group_size(&runner->state->plan->strategy, group);
}

static enum hlm_status call_collective(struct hlm_runner *runner, const struct hlm_op *op, void *in,
                                       void *out, struct hlm_err *err)
{
    const struct hlm_comm_ops *ops = runner->comm->ops;
    const enum hlm_wire type = wire_type(op->dtype);
    const int64_t whole = op->m * op->n;
    const int64_t part = whole / group_size(runner, op->group);
    switch (op->kind) {
    case HLM_OP_ALL_REDUCE:
        return ops->all_reduce(runner->comm, op->group, in, whole, type, HLM_REDUCE_SUM, err);
    case HLM_OP_ALL_REDUCE_MAX:
        return ops->all_reduce(runner->comm, op->group, in, whole, type, HLM_REDUCE_MAX, err);
    case HLM_OP_ALL_GATHER:
        return ops->all_gather(runner->comm, op->group, in, out, part, type, err);
    case HLM_OP_REDUCE_SCATTER:
        return ops->reduce_scatter(runner->comm, op->group, in, out, part, type, err);
    default:
        return hlm_fail(err, HLM_FAILED, "no transport runs %s", hlm_op_texts[op->kind]);
    }
}

/* Bytes that a collective reads on and writes to this rank. */
static void collective_bytes(const struct hlm_runner *runner, const struct hlm_op *op, int64_t *in,
                             int64_t *out)
{
    const int64_t whole = op->m * op->n * (int64_t)hlm_dtype_bytes(op->dtype);
    const int64_t part = whole / group_size(runner, op->group);
    *in = op->kind == HLM_OP_ALL_GATHER ? part : whole;
    *out = op->kind == HLM_OP_REDUCE_SCATTER ? part : whole;
}

static enum hlm_status run_collective(struct hlm_runner *runner, const struct hlm_op *op,
                                      void *const *operands, struct hlm_err *err)
{
    if (group_size(runner, op->group) == 1 && operands[1] == NULL) {
        return HLM_OK;
    }
    const bool in_place = operands[1] == NULL;
    int64_t in_bytes = 0, out_bytes = 0;
    collective_bytes(runner, op, &in_bytes, &out_bytes);
    double start_s = 0.0;
    tell(runner, hlm_op_texts[op->kind], true);
    HLM_TRY(comm_begin(runner, &start_s, err));
    void *in = NULL, *out = NULL;
    HLM_TRY(hlm_hostcopy_in(&runner->host, 0, operands[0], in_bytes, &in, err));
    HLM_TRY(in_place ? HLM_OK
                     : hlm_hostcopy_space(&runner->host, 1, operands[1], out_bytes, &out, err));
    HLM_TRY(call_collective(runner, op, in, out, err));
    HLM_TRY(hlm_hostcopy_out(&runner->host, operands[in_place ? 0 : 1], in_place ? in : out,
                             out_bytes, err));
    return comm_end(runner, start_s, &runner->event->group_comm_s, err);
}

static enum hlm_status run_ops(struct hlm_runner *runner, int32_t block, const struct hlm_op *ops,
                               int32_t num_ops, unsigned parts,
                               const struct hlm_state_binding *binding, struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    const struct hlm_op_scalars scalars = {.loss_scale = runner->loss_scale};
    for (int32_t i = 0; i < num_ops; i++) {
        const struct hlm_op *op = &ops[i];
        if ((parts & (1U << op->part)) == 0) {
            continue;
        }
        void *operands[HLM_OP_MAX_OPERANDS] = {NULL};
        for (int32_t k = 0; k < hlm_op_num_operands(op->kind); k++) {
            operands[k] = op->operands[k] >= 0
                              ? hlm_state_address(state, block, op->operands[k], binding)
                              : NULL;
        }
        HLM_TRY(hlm_op_is_collective(op->kind)
                    ? run_collective(runner, op, operands, err)
                    : state->backend->ops->launch(state->queue, op, operands, &scalars, err));
    }
    return HLM_OK;
}

/* --- slots and messages --- */

static enum hlm_status wait_request(struct hlm_runner *runner, struct hlm_request **request,
                                    struct hlm_err *err)
{
    struct hlm_request *pending = *request;
    if (pending == NULL) {
        return HLM_OK;
    }
    *request = NULL;
    tell(runner, "delivery of an earlier message", true);
    HLM_TRY(runner->comm->ops->wait(runner->comm, pending, err));
    tell(runner, NULL, false);
    return HLM_OK;
}

static enum hlm_status wait_slot(struct hlm_runner *runner, struct slot *slot, struct hlm_err *err)
{
    HLM_TRY(wait_request(runner, &slot->send_forward, err));
    return wait_request(runner, &slot->send_backward, err);
}

static enum hlm_status take_slot(struct hlm_runner *runner, int32_t microbatch, int32_t *out,
                                 struct hlm_err *err)
{
    for (int32_t i = 0; i < runner->state->num_slots; i++) {
        if (runner->slots[i].microbatch < 0) {
            HLM_TRY(wait_slot(runner, &runner->slots[i], err));
            runner->slots[i].microbatch = microbatch;
            *out = i;
            return HLM_OK;
        }
    }
    return hlm_fail(err, HLM_FAILED, "rank %d: no free slot for microbatch %d of %d in flight",
                    runner->state->rank, microbatch, runner->state->num_slots);
}

static int32_t find_slot(const struct hlm_runner *runner, int32_t microbatch)
{
    for (int32_t i = 0; i < runner->state->num_slots; i++) {
        if (runner->slots[i].microbatch == microbatch) {
            return i;
        }
    }
    HLM_ASSERT(!"a backward of a microbatch that no slot holds");
    return -1;
}

static int32_t stage_peer(const struct hlm_runner *runner, int32_t stage)
{
    struct hlm_coords coords = runner->state->coords;
    coords.pp = stage;
    return hlm_layout_rank(&runner->state->plan->strategy, coords);
}

static enum hlm_status receive_into(struct hlm_runner *runner, int32_t peer, int32_t channel,
                                    void *device, struct hlm_err *err)
{
    double start_s = 0.0;
    struct hlm_request *request = NULL;
    void *host = NULL;
    const int64_t bytes = runner->state->boundary_bytes;
    tell(runner,
         channel == CHANNEL_FORWARD ? "receive from the stage below"
                                    : "receive from the stage above",
         true);
    HLM_TRY(comm_begin(runner, &start_s, err));
    HLM_TRY(hlm_hostcopy_space(&runner->host, 0, device, bytes, &host, err));
    HLM_TRY(runner->comm->ops->receive(runner->comm, peer, channel, host, bytes, &request, err));
    HLM_TRY(runner->comm->ops->wait(runner->comm, request, err));
    HLM_TRY(hlm_hostcopy_out(&runner->host, device, host, bytes, err));
    return comm_end(runner, start_s, &runner->event->message_s, err);
}

/* The data stays where it is until the request is waited for: in the slot, or in the slot's own
 * staging. */
static enum hlm_status send_from(struct hlm_runner *runner, int32_t peer, int32_t channel,
                                 void *device, char *staging, struct hlm_request **request,
                                 struct hlm_err *err)
{
    double start_s = 0.0;
    const int64_t bytes = runner->state->boundary_bytes;
    HLM_TRY(comm_begin(runner, &start_s, err));
    HLM_TRY(hlm_hostcopy_stage(&runner->host, staging, device, bytes, err));
    HLM_TRY(runner->comm->ops->send(runner->comm, peer, channel, staging != NULL ? staging : device,
                                    bytes, request, err));
    return comm_end(runner, start_s, &runner->event->message_s, err);
}

/* --- data --- */

static enum hlm_status upload_role(struct hlm_runner *runner, int32_t block, int32_t slot,
                                   enum hlm_tensor_role role, const void *values, int64_t bytes,
                                   struct hlm_err *err)
{
    const struct hlm_block *list = runner->state->blocks[block].block;
    const struct hlm_state_binding binding = {.slot = slot};
    for (int32_t t = 0; t < list->num_tensors; t++) {
        if (list->tensors[t].role == role) {
            HLM_ASSERT((int64_t)hlm_tensor_bytes(&list->tensors[t]) == bytes);
            HLM_TRY(runner->state->backend->ops->upload(
                runner->state->queue, hlm_state_address(runner->state, block, t, &binding), values,
                bytes, err));
        }
    }
    return HLM_OK;
}

/* The samples of one microbatch of this replica, into the data tensors of the first and the last
 * block. */
static enum hlm_status load_microbatch(struct hlm_runner *runner, int32_t microbatch, int32_t slot,
                                       struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    const struct hlm_strategy *strategy = &state->plan->strategy;
    const struct hlm_model *model = &state->plan->model;
    const bool first = state->stage == 0, last = state->stage == state->plan->num_stages - 1;
    if (!first && !last) {
        return HLM_OK;
    }
    const bool vit = model->kind == HLM_MODEL_VIT;
    const int64_t targets = vit ? 1 : strategy->seq_len;
    const int64_t pixels =
        vit ? model->vit.num_channels * model->vit.image_size * model->vit.image_size : 0;
    const int64_t sample =
        runner->step * strategy->global_batch_size +
        (state->coords.dp * strategy->num_microbatches + microbatch) * strategy->microbatch_size;
    for (int64_t i = 0; i < strategy->microbatch_size; i++) {
        hlm_data_sample(runner->data, sample + i, vit ? NULL : runner->tokens + i * targets,
                        runner->targets + i * targets, vit ? runner->pixels + i * pixels : NULL);
    }
    const int64_t count = strategy->microbatch_size * targets * (int64_t)sizeof(int32_t);
    const int64_t pixel_bytes = strategy->microbatch_size * pixels * (int64_t)sizeof(float);
    const int32_t head = state->num_blocks - 1;
    if (first && vit) {
        HLM_TRY(upload_role(runner, 0, slot, HLM_TENSOR_PIXELS, runner->pixels, pixel_bytes, err));
    }
    if (first && !vit) {
        HLM_TRY(upload_role(runner, 0, slot, HLM_TENSOR_TOKENS, runner->tokens, count, err));
    }
    if (last) {
        HLM_TRY(upload_role(runner, head, slot, HLM_TENSOR_TARGETS, runner->targets, count, err));
    }
    return state->backend->ops->queue_sync(state->queue, err);
}

/* --- actions --- */

static enum hlm_status run_forward(struct hlm_runner *runner, struct hlm_action action,
                                   struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    struct hlm_state_binding binding = {0};
    HLM_TRY(take_slot(runner, action.microbatch, &binding.slot, err));
    HLM_TRY(load_microbatch(runner, action.microbatch, binding.slot, err));
    char *slot = hlm_state_slot(state, binding.slot);
    if (state->stage > 0) {
        HLM_TRY(receive_into(runner, stage_peer(runner, state->stage - 1), CHANNEL_FORWARD,
                             slot + state->blocks[0].input_offset, err));
    }
    for (int32_t b = 0; b < state->num_blocks; b++) {
        const struct hlm_block *block = state->blocks[b].block;
        HLM_TRY(run_ops(runner, b, block->forward, block->num_forward, ~0U, &binding, err));
    }
    return HLM_OK;
}

static enum hlm_status run_backward(struct hlm_runner *runner, struct hlm_action action,
                                    struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    struct hlm_state_binding binding = {.slot = find_slot(runner, action.microbatch),
                                        .backward = true};
    char *slot = hlm_state_slot(state, binding.slot);
    int32_t buffer = 0;
    if (state->stage < state->plan->num_stages - 1) {
        HLM_TRY(receive_into(runner, stage_peer(runner, state->stage + 1), CHANNEL_BACKWARD,
                             state->grad_buffers[buffer], err));
    }
    for (int32_t b = state->num_blocks - 1; b >= 0; b--) {
        const struct hlm_block *block = state->blocks[b].block;
        binding.grad_output = state->grad_buffers[buffer];
        binding.grad_input = b == 0 && state->stage > 0 ? slot + state->dinput_offset
                                                        : state->grad_buffers[1 - buffer];
        HLM_TRY(run_ops(runner, b, block->backward, block->num_backward, ~0U, &binding, err));
        buffer = 1 - buffer;
    }
    return HLM_OK;
}

static enum hlm_status run_send(struct hlm_runner *runner, struct hlm_action action,
                                struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    const int32_t index = find_slot(runner, action.microbatch);
    struct slot *slot = &runner->slots[index];
    char *memory = hlm_state_slot(state, index);
    if (action.kind == HLM_ACTION_SEND_F) {
        return send_from(runner, stage_peer(runner, state->stage + 1), CHANNEL_FORWARD,
                         memory + state->output_offset, slot->host_output, &slot->send_forward,
                         err);
    }
    HLM_TRY(send_from(runner, stage_peer(runner, state->stage - 1), CHANNEL_BACKWARD,
                      memory + state->dinput_offset, slot->host_dinput, &slot->send_backward, err));
    return HLM_OK;
}

/* --- gradient reduction and update --- */

static enum hlm_status reduce_slab(struct hlm_runner *runner, enum hlm_op_kind kind,
                                   enum hlm_group group, float *in, float *out, int64_t whole,
                                   struct hlm_err *err)
{
    if (whole == 0 || group_size(runner, group) == 1) {
        return HLM_OK;
    }
    const struct hlm_op op = {
        .kind = kind, .group = group, .dtype = HLM_DTYPE_FP32, .m = whole, .n = 1};
    void *const operands[HLM_OP_MAX_OPERANDS] = {in, out};
    return run_collective(runner, &op, operands, err);
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

static enum hlm_status run_reduce(struct hlm_runner *runner, struct hlm_err *err)
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
    HLM_TRY(ops->upload(state->queue, state->sum, &no_sum, sizeof(no_sum), err));
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
    tell(runner, "all_reduce of the gradient norm", true);
    HLM_TRY(comm_begin(runner, &start_s, err));
    const bool sharded = runner->state->plan->strategy.zero > 0;
    HLM_TRY(runner->comm->ops->all_reduce(runner->comm, sharded ? HLM_GROUP_WORLD : HLM_GROUP_MODEL,
                                          &squares, 1, HLM_WIRE_F64, HLM_REDUCE_SUM, err));
    HLM_TRY(comm_end(runner, start_s, &runner->event->message_s, err));
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

static enum hlm_status run_optimizer(struct hlm_runner *runner, struct hlm_err *err)
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

/* --- the step --- */

static enum hlm_status run_action(struct hlm_runner *runner, struct hlm_action action,
                                  struct hlm_err *err)
{
    switch (action.kind) {
    case HLM_ACTION_F:
        return run_forward(runner, action, err);
    case HLM_ACTION_B:
        return run_backward(runner, action, err);
    case HLM_ACTION_SEND_F:
    case HLM_ACTION_SEND_B:
        return run_send(runner, action, err);
    case HLM_ACTION_REDUCE_GRAD:
        return run_reduce(runner, err);
    case HLM_ACTION_OPTIMIZER:
        return run_optimizer(runner, err);
    case HLM_ACTION_RECV_F:
    case HLM_ACTION_RECV_B:
        return HLM_OK; /* at the action that needs the data */
    default:
        return hlm_fail(err, HLM_FAILED, "the runner has no %s action",
                        hlm_action_texts[action.kind]);
    }
}

static bool is_event(enum hlm_action_kind kind)
{
    return hlm_action_is_compute(kind) || kind == HLM_ACTION_REDUCE_GRAD ||
           kind == HLM_ACTION_OPTIMIZER;
}

static enum hlm_status measure_action(struct hlm_runner *runner, struct hlm_action action,
                                      struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    if (is_event(action.kind)) {
        runner->event = &runner->events[runner->num_events++];
        *runner->event =
            (struct hlm_run_event){.action = action, .start_s = wall_s() - runner->step_start_s};
        HLM_TRY(hlm_compute_clock_start(&runner->clock, err));
    }
    tell(runner, NULL, false);
    HLM_TRY(run_action(runner, action, err));
    if (is_event(action.kind)) {
        HLM_TRY(hlm_compute_clock_pause(&runner->clock, err));
        runner->event->compute_wall_s = runner->clock.wall_s;
        runner->event->compute_cpu_s = runner->clock.cpu_s;
    }
    if (action.kind != HLM_ACTION_RECV_F && action.kind != HLM_ACTION_RECV_B) {
        runner->event->end_s = wall_s() - runner->step_start_s;
    }
    const enum hlm_action_kind last = state->stage == 0 ? HLM_ACTION_B : HLM_ACTION_SEND_B;
    if (action.kind == last) {
        runner->slots[find_slot(runner, action.microbatch)].microbatch = -1;
    }
    return HLM_OK;
}

static enum hlm_status begin_step(struct hlm_runner *runner, int64_t step, struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    const int64_t batch = state->plan->strategy.global_batch_size;
    runner->step = step;
    runner->num_events = 0;
    runner->loss_scale = 1.0 / (double)hlm_data_num_targets(runner->data, step * batch, batch);
    HLM_TRY(state->backend->ops->upload(state->queue, state->loss, &no_sum, sizeof(no_sum), err));
    HLM_TRY(state->backend->ops->queue_sync(state->queue, err));
    tell_between(runner, "barrier before the step");
    HLM_TRY(runner->comm->ops->barrier(runner->comm, HLM_GROUP_WORLD, err));
    runner->step_start_s = wall_s();
    return HLM_OK;
}

static enum hlm_status end_step(struct hlm_runner *runner, struct hlm_run_step *out,
                                struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    out->wall_s = wall_s() - runner->step_start_s;
    for (int32_t i = 0; i < state->num_slots; i++) {
        HLM_TRY(wait_slot(runner, &runner->slots[i], err));
    }
    double loss = 0.0;
    HLM_TRY(state->backend->ops->download(state->queue, &loss, state->loss, sizeof(loss), err));
    HLM_TRY(state->backend->ops->queue_sync(state->queue, err));
    tell_between(runner, "all_reduce of the loss");
    HLM_TRY(runner->comm->ops->all_reduce(runner->comm, HLM_GROUP_WORLD, &loss, 1, HLM_WIRE_F64,
                                          HLM_REDUCE_SUM, err));
    if (!isfinite(loss)) {
        return hlm_fail(err, HLM_FAILED, "step %lld: the loss is not finite",
                        (long long)runner->step);
    }
    double compute_s = 0.0, cpu_s = 0.0;
    for (int32_t i = 0; i < runner->num_events; i++) {
        compute_s += runner->events[i].compute_wall_s;
        cpu_s += runner->events[i].compute_cpu_s;
    }
    out->loss = loss;
    out->grad_norm = runner->last_norm;
    out->availability_frac = compute_s > 0.0 ? cpu_s / compute_s : 1.0;
    out->events = runner->events;
    out->num_events = runner->num_events;
    return HLM_OK;
}

enum hlm_status hlm_runner_step(struct hlm_runner *runner, int64_t step, struct hlm_run_step *out,
                                struct hlm_err *err)
{
    HLM_TRY(begin_step(runner, step, err));
    for (int32_t i = 0; i < runner->actions->num_actions; i++) {
        runner->action = &runner->actions->actions[i];
        HLM_TRY(measure_action(runner, *runner->action, err));
    }
    return end_step(runner, out, err);
}

void hlm_runner_watch(struct hlm_runner *runner, hlm_runner_watch_fn *watch, void *context)
{
    runner->watch = watch;
    runner->watch_context = context;
}

/* --- making one --- */

static void make_data_buffers(struct hlm_arena *arena, struct hlm_runner *runner)
{
    const struct hlm_strategy *strategy = &runner->state->plan->strategy;
    const struct hlm_model_vit *vit = &runner->state->plan->model.vit;
    const int64_t positions = strategy->microbatch_size * strategy->seq_len;
    runner->tokens = HLM_ARENA_ARRAY(arena, int32_t, positions);
    runner->targets = HLM_ARENA_ARRAY(arena, int32_t, positions);
    runner->pixels = HLM_ARENA_ARRAY(arena, float,
                                     strategy->microbatch_size * vit->num_channels *
                                         vit->image_size * vit->image_size);
}

static const char *const *make_texts(struct hlm_arena *arena,
                                     const struct hlm_rank_actions *actions)
{
    const char **texts = HLM_ARENA_ARRAY(arena, const char *, actions->num_actions);
    for (int32_t i = 0; i < actions->num_actions; i++) {
        char text[32];
        hlm_action_format(actions->actions[i], text);
        texts[i] = hlm_arena_strdup(arena, text);
    }
    return texts;
}

static void make_slots(struct hlm_arena *arena, struct hlm_runner *runner)
{
    const struct hlm_state *state = runner->state;
    const bool staged = !state->backend->ops->host_memory;
    runner->slots = HLM_ARENA_ARRAY(arena, struct slot, state->num_slots);
    for (int32_t i = 0; i < state->num_slots; i++) {
        runner->slots[i].microbatch = -1;
        if (staged) {
            runner->slots[i].host_output = HLM_ARENA_ARRAY(arena, char, state->boundary_bytes);
            runner->slots[i].host_dinput = HLM_ARENA_ARRAY(arena, char, state->boundary_bytes);
        }
    }
}

enum hlm_status hlm_runner_new(struct hlm_arena *arena, struct hlm_state *state,
                               struct hlm_comm *comm, const struct hlm_data *data,
                               const struct hlm_optimizer *optimizer, struct hlm_runner **out,
                               struct hlm_err *err)
{
    const struct hlm_strategy *strategy = &state->plan->strategy;
    const struct hlm_schedule *schedule = NULL;
    HLM_TRY(hlm_schedule_build(arena, strategy->schedule, strategy->pp, strategy->vpp,
                               (int32_t)strategy->num_microbatches, &schedule, err));
    schedule = hlm_schedule_lower(arena, schedule);
    struct hlm_runner *runner = HLM_ARENA_NEW(arena, struct hlm_runner);
    *runner = (struct hlm_runner){.state = state,
                                  .comm = comm,
                                  .data = data,
                                  .optimizer = *optimizer,
                                  .actions = &schedule->ranks[state->coords.pp]};
    runner->events = HLM_ARENA_ARRAY(arena, struct hlm_run_event, runner->actions->num_actions);
    runner->action = runner->actions->actions;
    runner->action_texts = make_texts(arena, runner->actions);
    make_data_buffers(arena, runner);
    make_slots(arena, runner);
    hlm_hostcopy_init(&runner->host, state->backend, state->queue);
    HLM_TRY(hlm_compute_clock_init(&runner->clock, state->backend, state->queue, err));
    *out = runner;
    return HLM_OK;
}

void hlm_runner_free(struct hlm_runner *runner)
{
    if (runner != NULL) {
        hlm_hostcopy_release(&runner->host);
        hlm_compute_clock_release(&runner->clock);
    }
}
