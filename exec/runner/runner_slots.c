/* The slots of microbatches in flight, and the messages that come to them and leave them. */
#include "exec/runner/runner_internal.h"

/* --- slots --- */

struct hlm_runner_stage *hlm_runner_stage_of(const struct hlm_runner *runner, int32_t stage)
{
    const int32_t index = hlm_state_find_stage(runner->state, stage);
    return index < 0 ? NULL : &runner->stages[index];
}

/* -1: none. */
static int32_t slot_of(const struct hlm_runner_stage *stage, int32_t microbatch)
{
    for (int32_t i = 0; i < stage->state->num_slots; i++) {
        if (stage->slots[i].microbatch == microbatch) {
            return i;
        }
    }
    return -1;
}

int32_t hlm_runner_find_slot(const struct hlm_runner_stage *stage, int32_t microbatch)
{
    const int32_t slot = slot_of(stage, microbatch);
    HLM_ASSERT(slot >= 0);
    return slot;
}

static int32_t unused_slot(const struct hlm_runner_stage *stage)
{
    for (int32_t i = 0; i < stage->state->num_slots; i++) {
        if (!stage->slots[i].taken) {
            return i;
        }
    }
    return -1;
}

static enum hlm_status take_slot(struct hlm_runner *runner, struct hlm_runner_stage *stage,
                                 int32_t microbatch, int32_t *out, struct hlm_err *err)
{
    const int32_t slot = unused_slot(stage);
    if (slot < 0) {
        return hlm_fail(
            err, HLM_FAILED, "rank %d: stage %d has no free slot for microbatch %d of %d in flight",
            runner->state->rank, stage->state->stage, microbatch, stage->state->num_slots);
    }
    stage->slots[slot].taken = true;
    stage->slots[slot].microbatch = microbatch;
    *out = slot;
    return HLM_OK;
}

char *hlm_runner_output_place(const struct hlm_runner_stage *stage, int32_t slot)
{
    return hlm_state_slot(stage->state, slot) + stage->state->output_offset;
}

char *hlm_runner_input_grad_place(const struct hlm_runner_stage *stage, int32_t slot)
{
    return hlm_state_slot(stage->state, slot) + stage->state->blocks[0].input_grad_offset;
}

/* --- receives --- */

static int32_t stage_peer(const struct hlm_runner *runner, int32_t stage)
{
    struct hlm_coords coords = runner->state->coords;
    coords.pp = hlm_layout_stage_rank(&runner->state->plan->strategy, stage);
    return hlm_layout_rank(&runner->state->plan->strategy, coords);
}

/* Takes a slot and posts the receive of its input. */
static enum hlm_status post_forward(struct hlm_runner *runner, struct hlm_action action,
                                    int32_t *out, struct hlm_err *err)
{
    struct hlm_runner_stage *stage = hlm_runner_stage_of(runner, action.stage);
    HLM_TRY(take_slot(runner, stage, action.microbatch, out, err));
    char *input = hlm_state_slot(stage->state, *out) + stage->state->blocks[0].input_offset;
    return hlm_exchange_receive(runner->exchange, stage_peer(runner, action.stage - 1),
                                HLM_CHANNEL_FORWARD, input, runner->state->boundary_bytes,
                                &stage->slots[*out].receive_forward, err);
}

/* Does an older receive than waiting[index] from the same rank wait too? */
static bool has_older(const struct hlm_runner *runner, int32_t peer, int32_t index)
{
    for (int32_t i = 0; i < index; i++) {
        if (stage_peer(runner, runner->waiting[i].stage - 1) == peer) {
            return true;
        }
    }
    return false;
}

static bool can_post(const struct hlm_runner *runner, struct hlm_action action, int32_t index)
{
    return unused_slot(hlm_runner_stage_of(runner, action.stage)) >= 0 &&
           !has_older(runner, stage_peer(runner, action.stage - 1), index);
}

static void drop_waiting(struct hlm_runner *runner, int32_t index)
{
    runner->num_waiting--;
    for (int32_t i = index; i < runner->num_waiting; i++) {
        runner->waiting[i] = runner->waiting[i + 1];
    }
}

enum hlm_status hlm_runner_post_waiting(struct hlm_runner *runner, struct hlm_err *err)
{
    for (int32_t i = 0; i < runner->num_waiting;) {
        const struct hlm_action action = runner->waiting[i];
        int32_t slot = 0;
        if (can_post(runner, action, i)) {
            drop_waiting(runner, i);
            HLM_TRY(post_forward(runner, action, &slot, err));
        } else {
            i++;
        }
    }
    return HLM_OK;
}

static enum hlm_status receive_forward(struct hlm_runner *runner, struct hlm_action action,
                                       struct hlm_err *err)
{
    int32_t slot = 0;
    if (can_post(runner, action, runner->num_waiting)) {
        return post_forward(runner, action, &slot, err);
    }
    runner->waiting[runner->num_waiting++] = action;
    return HLM_OK;
}

static enum hlm_status receive_backward(struct hlm_runner *runner, struct hlm_action action,
                                        struct hlm_err *err)
{
    struct hlm_runner_stage *stage = hlm_runner_stage_of(runner, action.stage);
    const int32_t index = hlm_runner_find_slot(stage, action.microbatch);
    struct hlm_runner_slot *slot = &stage->slots[index];
    HLM_TRY(hlm_exchange_wait(runner->exchange, &slot->send_forward, err));
    return hlm_exchange_receive(runner->exchange, stage_peer(runner, action.stage + 1),
                                HLM_CHANNEL_BACKWARD, hlm_runner_output_place(stage, index),
                                runner->state->boundary_bytes, &slot->receive_backward, err);
}

enum hlm_status hlm_runner_receive(struct hlm_runner *runner, struct hlm_action action,
                                   struct hlm_err *err)
{
    return action.kind == HLM_ACTION_RECV_F ? receive_forward(runner, action, err)
                                            : receive_backward(runner, action, err);
}

enum hlm_status hlm_runner_forward_slot(struct hlm_runner *runner, struct hlm_action action,
                                        int32_t *out, struct hlm_err *err)
{
    struct hlm_runner_stage *stage = hlm_runner_stage_of(runner, action.stage);
    const int32_t posted = slot_of(stage, action.microbatch);
    if (posted >= 0) {
        *out = posted;
        return HLM_OK;
    }
    for (int32_t i = 0; i < runner->num_waiting; i++) {
        if (runner->waiting[i].stage == action.stage &&
            runner->waiting[i].microbatch == action.microbatch) {
            HLM_ASSERT(!has_older(runner, stage_peer(runner, action.stage - 1), i));
            drop_waiting(runner, i);
            return post_forward(runner, action, out, err);
        }
    }
    return take_slot(runner, stage, action.microbatch, out, err);
}

void hlm_runner_free_slot(struct hlm_runner_stage *stage, int32_t slot)
{
    HLM_ASSERT(stage->slots[slot].taken);
    stage->slots[slot].taken = false;
}

/* --- sends --- */

enum hlm_status hlm_runner_wait_sends(struct hlm_runner *runner, struct hlm_runner_slot *slot,
                                      struct hlm_err *err)
{
    HLM_TRY(hlm_exchange_wait(runner->exchange, &slot->send_forward, err));
    return hlm_exchange_wait(runner->exchange, &slot->send_backward, err);
}

enum hlm_status hlm_runner_send(struct hlm_runner *runner, struct hlm_action action,
                                struct hlm_err *err)
{
    struct hlm_runner_stage *stage = hlm_runner_stage_of(runner, action.stage);
    const int32_t index = hlm_runner_find_slot(stage, action.microbatch);
    struct hlm_runner_slot *slot = &stage->slots[index];
    const int64_t bytes = runner->state->boundary_bytes;
    return action.kind == HLM_ACTION_SEND_F
               ? hlm_exchange_send(runner->exchange, stage_peer(runner, action.stage + 1),
                                   HLM_CHANNEL_FORWARD, hlm_runner_output_place(stage, index),
                                   bytes, &slot->send_forward, err)
               : hlm_exchange_send(runner->exchange, stage_peer(runner, action.stage - 1),
                                   HLM_CHANNEL_BACKWARD, hlm_runner_input_grad_place(stage, index),
                                   bytes, &slot->send_backward, err);
}
