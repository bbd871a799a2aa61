/* Forwards and backwards of microbatches. */
#include "exec/runner/runner_internal.h"

/* --- boundaries between stages of one rank --- */

static enum hlm_status copy_boundary(struct hlm_runner *runner, void *to, const void *from,
                                     struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    return state->backend->ops->copy(state->queue, to, from, state->boundary_bytes, err);
}

/* The output of a stage below that is on this rank. */
static enum hlm_status copy_input(struct hlm_runner *runner, const struct hlm_runner_stage *stage,
                                  int32_t slot, int32_t microbatch, struct hlm_err *err)
{
    const struct hlm_runner_stage *below = hlm_runner_stage_of(runner, stage->state->stage - 1);
    return below == NULL
               ? HLM_OK
               : copy_boundary(
                     runner,
                     hlm_state_slot(stage->state, slot) + stage->state->blocks[0].input_offset,
                     hlm_runner_output_place(below, hlm_runner_find_slot(below, microbatch)), err);
}

/* To where the output of a stage below on this rank stood. */
static enum hlm_status copy_input_grad(struct hlm_runner *runner,
                                       const struct hlm_runner_stage *stage, int32_t slot,
                                       int32_t microbatch, struct hlm_err *err)
{
    const struct hlm_runner_stage *below = hlm_runner_stage_of(runner, stage->state->stage - 1);
    return below == NULL ? HLM_OK
                         : copy_boundary(runner,
                                         hlm_runner_output_place(
                                             below, hlm_runner_find_slot(below, microbatch)),
                                         hlm_runner_input_grad_place(stage, slot), err);
}

/* --- actions --- */

enum hlm_status hlm_runner_forward(struct hlm_runner *runner, struct hlm_action action,
                                   struct hlm_err *err)
{
    struct hlm_runner_stage *stage = hlm_runner_stage_of(runner, action.stage);
    struct hlm_state_binding binding = {.stage = stage->state, .pass = HLM_STATE_FORWARD};
    HLM_TRY(hlm_runner_forward_slot(runner, action, &binding.slot, err));
    HLM_TRY(hlm_runner_upload_data(runner, &binding, action.microbatch, err));
    HLM_TRY(hlm_runner_wait_message(runner, stage->slots[binding.slot].receive_forward, err));
    HLM_TRY(copy_input(runner, stage, binding.slot, action.microbatch, err));
    hlm_runner_begin_pass(runner, &stage->slots[binding.slot], action.kind);
    for (int32_t b = 0; b < stage->state->num_blocks; b++) {
        HLM_TRY(hlm_runner_ops(runner, b, &stage->blocks[b].forward, ~0U, &binding, err));
    }
    return hlm_runner_end_pass(runner, err);
}

/* The gradient of a block's input: in the slot where it has a place there, else in one of two
 * buffers in turn. That of its output is the next block's, or the stage's. */
static void *input_grad_of(const struct hlm_state *state, const struct hlm_state_stage *stage,
                           int32_t block, int32_t slot)
{
    const int64_t offset = stage->blocks[block].input_grad_offset;
    return offset >= 0 ? hlm_state_slot(stage, slot) + offset : state->grad_buffers[block % 2];
}

/* Runs the backward operators of a block whose part is in the mask. */
static enum hlm_status run_backward(struct hlm_runner *runner, int32_t block, unsigned parts,
                                    struct hlm_state_binding *binding, struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    const struct hlm_state_stage *stage = binding->stage;
    const struct hlm_block *list = stage->blocks[block].block;
    binding->grad_output =
        block + 1 < stage->num_blocks ? input_grad_of(state, stage, block + 1, binding->slot)
        : stage->last                 ? NULL
                                      : hlm_state_slot(stage, binding->slot) + stage->output_offset;
    binding->grad_input =
        list->grad_input >= 0 ? input_grad_of(state, stage, block, binding->slot) : NULL;
    const struct hlm_runner_stage *runs = hlm_runner_stage_of(runner, stage->stage);
    return hlm_runner_ops(runner, block, &runs->blocks[block].backward, parts, binding, err);
}

/* One half of the backward of all blocks, or both, each block's one behind the other. */
static enum hlm_status run_halves(struct hlm_runner *runner, struct hlm_state_binding *binding,
                                  bool input_grads, bool weight_grads, struct hlm_err *err)
{
    const unsigned weight = 1U << HLM_PART_WEIGHT_GRAD;
    for (int32_t b = binding->stage->num_blocks - 1; b >= 0; b--) {
        if (input_grads) {
            binding->pass = HLM_STATE_BACKWARD;
            HLM_TRY(run_backward(runner, b, ~weight, binding, err));
        }
        if (weight_grads) {
            binding->pass = HLM_STATE_WEIGHT_GRAD;
            HLM_TRY(run_backward(runner, b, weight, binding, err));
        }
    }
    return HLM_OK;
}

static enum hlm_status run_whole(struct hlm_runner *runner, struct hlm_state_binding *binding,
                                 struct hlm_err *err)
{
    binding->pass = HLM_STATE_BACKWARD;
    for (int32_t b = binding->stage->num_blocks - 1; b >= 0; b--) {
        HLM_TRY(run_backward(runner, b, ~0U, binding, err));
    }
    return HLM_OK;
}

enum hlm_status hlm_runner_backward(struct hlm_runner *runner, struct hlm_action action,
                                    struct hlm_err *err)
{
    struct hlm_runner_stage *stage = hlm_runner_stage_of(runner, action.stage);
    const int32_t index = hlm_runner_find_slot(stage, action.microbatch);
    struct hlm_runner_slot *slot = &stage->slots[index];
    struct hlm_state_binding binding = {.stage = stage->state, .slot = index};
    const bool input_grads = action.kind != HLM_ACTION_W;
    const bool weight_grads = action.kind != HLM_ACTION_I;
    if (input_grads) {
        HLM_TRY(hlm_runner_wait_sends(runner, slot, err));
        HLM_TRY(hlm_runner_wait_message(runner, slot->receive_backward, err));
    }
    hlm_runner_begin_pass(runner, slot, action.kind);
    HLM_TRY(runner->state->split ? run_halves(runner, &binding, input_grads, weight_grads, err)
                                 : run_whole(runner, &binding, err));
    HLM_TRY(hlm_runner_end_pass(runner, err));
    if (input_grads) {
        HLM_TRY(copy_input_grad(runner, stage, index, action.microbatch, err));
    }
    if (weight_grads) {
        hlm_runner_free_slot(stage, index);
    }
    return HLM_OK;
}
