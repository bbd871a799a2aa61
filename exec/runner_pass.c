/* Forwards and backwards of microbatches, their slots, messages and data. */
#include "exec/runner_internal.h"

enum { CHANNEL_FORWARD, CHANNEL_BACKWARD };

/* --- slots and messages --- */

static enum hlm_status wait_request(struct hlm_runner *runner, struct hlm_request **request,
                                    struct hlm_err *err)
{
    struct hlm_request *pending = *request;
    if (pending == NULL) {
        return HLM_OK;
    }
    *request = NULL;
    hlm_runner_tell(runner, "delivery of an earlier message", true);
    HLM_TRY(runner->comm->ops->wait(runner->comm, pending, err));
    hlm_runner_tell(runner, NULL, false);
    return HLM_OK;
}

enum hlm_status hlm_runner_wait_slot(struct hlm_runner *runner, struct hlm_runner_slot *slot,
                                     struct hlm_err *err)
{
    HLM_TRY(wait_request(runner, &slot->send_forward, err));
    return wait_request(runner, &slot->send_backward, err);
}

static enum hlm_status take_slot(struct hlm_runner *runner, int32_t microbatch, int32_t *out,
                                 struct hlm_err *err)
{
    for (int32_t i = 0; i < runner->state->num_slots; i++) {
        if (runner->slots[i].microbatch < 0) {
            HLM_TRY(hlm_runner_wait_slot(runner, &runner->slots[i], err));
            runner->slots[i].microbatch = microbatch;
            *out = i;
            return HLM_OK;
        }
    }
    return hlm_fail(err, HLM_FAILED, "rank %d: no free slot for microbatch %d of %d in flight",
                    runner->state->rank, microbatch, runner->state->num_slots);
}

int32_t hlm_runner_find_slot(const struct hlm_runner *runner, int32_t microbatch)
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
    hlm_runner_tell(runner,
                    channel == CHANNEL_FORWARD ? "receive from the stage below"
                                               : "receive from the stage above",
                    true);
    HLM_TRY(hlm_runner_comm_begin(runner, &start_s, err));
    HLM_TRY(hlm_hostcopy_space(&runner->host, 0, device, bytes, &host, err));
    HLM_TRY(runner->comm->ops->receive(runner->comm, peer, channel, host, bytes, &request, err));
    HLM_TRY(runner->comm->ops->wait(runner->comm, request, err));
    HLM_TRY(hlm_hostcopy_out(&runner->host, device, host, bytes, err));
    return hlm_runner_comm_end(runner, start_s, &runner->event->message_s, err);
}

/* The data stays where it is until the request is waited for: in the slot, or in the slot's own
 * staging. */
static enum hlm_status send_from(struct hlm_runner *runner, int32_t peer, int32_t channel,
                                 void *device, char *staging, struct hlm_request **request,
                                 struct hlm_err *err)
{
    double start_s = 0.0;
    const int64_t bytes = runner->state->boundary_bytes;
    HLM_TRY(hlm_runner_comm_begin(runner, &start_s, err));
    HLM_TRY(hlm_hostcopy_stage(&runner->host, staging, device, bytes, err));
    HLM_TRY(runner->comm->ops->send(runner->comm, peer, channel, staging != NULL ? staging : device,
                                    bytes, request, err));
    return hlm_runner_comm_end(runner, start_s, &runner->event->message_s, err);
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

enum hlm_status hlm_runner_forward(struct hlm_runner *runner, struct hlm_action action,
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
        HLM_TRY(hlm_runner_ops(runner, b, block->forward, block->num_forward, ~0U, &binding, err));
    }
    return HLM_OK;
}

enum hlm_status hlm_runner_backward(struct hlm_runner *runner, struct hlm_action action,
                                    struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    struct hlm_state_binding binding = {.slot = hlm_runner_find_slot(runner, action.microbatch),
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
        HLM_TRY(
            hlm_runner_ops(runner, b, block->backward, block->num_backward, ~0U, &binding, err));
        buffer = 1 - buffer;
    }
    return HLM_OK;
}

enum hlm_status hlm_runner_send(struct hlm_runner *runner, struct hlm_action action,
                                struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    const int32_t index = hlm_runner_find_slot(runner, action.microbatch);
    struct hlm_runner_slot *slot = &runner->slots[index];
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
