/* The slots of microbatches in flight, and the messages that come to them and leave them. */
#include "exec/runner/runner_internal.h"

/* --- slots --- */

void hlm_runner_new_slots(struct hlm_arena *arena, struct hlm_runner *runner,
                          struct hlm_runner_stage *stage)
{
    const int32_t num = stage->state->num_slots, peers = runner->max_peers;
    struct hlm_transfer **transfers =
        HLM_ARENA_ARRAY(arena, struct hlm_transfer *, 4 * (int64_t)num * peers);
    stage->slots = HLM_ARENA_ARRAY(arena, struct hlm_runner_slot, num);
    for (int32_t i = 0; i < num; i++, transfers += 4 * peers) {
        struct hlm_runner_slot *slot = &stage->slots[i];
        slot->send_forward = transfers;
        slot->send_backward = transfers + peers;
        slot->receive_forward = transfers + 2 * peers;
        slot->receive_backward = transfers + 3 * peers;
    }
}

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

/* --- messages --- */

static int32_t pipeline_rank(const struct hlm_runner *runner, int32_t stage)
{
    return hlm_layout_stage_rank(&runner->state->strategy, stage);
}

typedef enum hlm_status post_fn(struct hlm_exchange *exchange, int32_t peer,
                                enum hlm_channel channel, void *data, int64_t bytes,
                                struct hlm_transfer **out, struct hlm_err *err);

/* The boundary activation at `data`, or its gradient, to or from the ranks of another stage. */
static enum hlm_status post_message(struct hlm_runner *runner, post_fn *post, int32_t stage,
                                    enum hlm_channel channel, char *data,
                                    struct hlm_transfer **message, struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    const struct hlm_boundary boundary =
        hlm_boundary_of(&state->plan->strategy, state->rank, pipeline_rank(runner, stage),
                        post == hlm_exchange_send);
    const int64_t bytes = state->boundary_bytes / (boundary.in_parts ? boundary.num_peers : 1);
    for (int32_t i = 0; i < boundary.num_peers; i++) {
        HLM_TRY(post(runner->exchange, boundary.first_peer + i, channel,
                     data + (boundary.in_parts ? i * bytes : 0), bytes, &message[i], err));
    }
    return HLM_OK;
}

enum hlm_status hlm_runner_wait_message(struct hlm_runner *runner, struct hlm_transfer **message,
                                        struct hlm_err *err)
{
    for (int32_t i = 0; i < runner->max_peers; i++) {
        HLM_TRY(hlm_exchange_wait(runner->exchange, &message[i], err));
    }
    return HLM_OK;
}

/* --- receives --- */

/* Takes a slot and posts the receive of its input. */
static enum hlm_status post_forward(struct hlm_runner *runner, struct hlm_action action,
                                    int32_t *out, struct hlm_err *err)
{
    struct hlm_runner_stage *stage = hlm_runner_stage_of(runner, action.stage);
    HLM_TRY(take_slot(runner, stage, action.microbatch, out, err));
    char *input = hlm_state_slot(stage->state, *out) + stage->state->blocks[0].input_offset;
    return post_message(runner, hlm_exchange_receive, action.stage - 1, HLM_CHANNEL_FORWARD, input,
                        stage->slots[*out].receive_forward, err);
}

/* Does an older receive than waiting[index] from the same ranks, those of stage `from`, wait too?
 */
static bool has_older(const struct hlm_runner *runner, int32_t from, int32_t index)
{
    for (int32_t i = 0; i < index; i++) {
        if (pipeline_rank(runner, runner->waiting[i].stage - 1) == pipeline_rank(runner, from)) {
            return true;
        }
    }
    return false;
}

static bool can_post(const struct hlm_runner *runner, struct hlm_action action, int32_t index)
{
    return unused_slot(hlm_runner_stage_of(runner, action.stage)) >= 0 &&
           !has_older(runner, action.stage - 1, index);
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
    HLM_TRY(hlm_runner_wait_message(runner, slot->send_forward, err));
    return post_message(runner, hlm_exchange_receive, action.stage + 1, HLM_CHANNEL_BACKWARD,
                        hlm_runner_output_place(stage, index), slot->receive_backward, err);
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
            HLM_ASSERT(!has_older(runner, action.stage - 1, i));
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
    HLM_TRY(hlm_runner_wait_message(runner, slot->send_forward, err));
    return hlm_runner_wait_message(runner, slot->send_backward, err);
}

enum hlm_status hlm_runner_send(struct hlm_runner *runner, struct hlm_action action,
                                struct hlm_err *err)
{
    struct hlm_runner_stage *stage = hlm_runner_stage_of(runner, action.stage);
    const int32_t index = hlm_runner_find_slot(stage, action.microbatch);
    struct hlm_runner_slot *slot = &stage->slots[index];
    return action.kind == HLM_ACTION_SEND_F
               ? post_message(runner, hlm_exchange_send, action.stage + 1, HLM_CHANNEL_FORWARD,
                              hlm_runner_output_place(stage, index), slot->send_forward, err)
               : post_message(runner, hlm_exchange_send, action.stage - 1, HLM_CHANNEL_BACKWARD,
                              hlm_runner_input_grad_place(stage, index), slot->send_backward, err);
}
