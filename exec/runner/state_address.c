/* Where a tensor of a block stands. */
#include <math.h>

#include "exec/runner/state_internal.h"

char *hlm_state_slot(const struct hlm_state_stage *stage, int32_t slot)
{
    HLM_ASSERT(slot >= 0 && slot < stage->num_slots);
    return stage->slots + slot * stage->slot_bytes;
}

int32_t hlm_state_find_stage(const struct hlm_state *state, int32_t stage)
{
    for (int32_t s = 0; s < state->num_stages; s++) {
        if (state->stages[s].stage == stage) {
            return s;
        }
    }
    return -1;
}

int64_t hlm_state_num_moments(const struct hlm_state_stage *stage)
{
    return stage->own_count + stage->own_expert_count;
}

int64_t hlm_state_moment(const struct hlm_state_stage *stage, int64_t first)
{
    const struct hlm_state_unit *unit = hlm_state_find_unit(stage, first);
    if (unit != NULL) {
        return unit->shard + first - unit->own_first;
    }
    return first < stage->expert_first ? first - stage->own_first
                                       : stage->own_count + first - stage->own_expert_first;
}

char *hlm_state_param_address(const struct hlm_state *state, const struct hlm_state_stage *stage,
                              int64_t first)
{
    const bool shards = stage->num_units > 0 && state->plan->strategy.zero >= 3;
    return stage->params_slab +
           (shards ? hlm_state_moment(stage, first) : first) * state->dtype_bytes;
}

static char *data_address(const struct hlm_state_block *placed, int32_t tensor, char *slot)
{
    int64_t offset = placed->data_offset;
    for (int32_t i = 0; i < tensor; i++) {
        if (hlm_tensor_is_data(placed->block->tensors[i].role)) {
            offset += hlm_state_align((int64_t)ceil(hlm_tensor_bytes(&placed->block->tensors[i])));
        }
    }
    return slot + offset;
}

/* A tensor without a parameter of its block is the table that embedding and head share. */
static int64_t param_element(const struct hlm_state *state, const struct hlm_state_stage **stage,
                             int32_t block, const struct hlm_tensor *tensor)
{
    if (tensor->param >= 0) {
        return (*stage)->blocks[block].param_offset[tensor->param];
    }
    HLM_ASSERT(state->tied_stage >= 0);
    *stage = &state->stages[state->tied_stage];
    return state->tied_offset;
}

static void *whole_address(const struct hlm_state *state, const struct hlm_state_block *placed,
                           const struct hlm_state_unit *unit, int64_t element, bool grad)
{
    int32_t kind = 0;
    while (placed->units[kind] != unit) {
        kind++;
        HLM_ASSERT(kind < HLM_NUM_SHARD_KINDS);
    }
    const int64_t at = element - unit->first;
    return grad ? (void *)(hlm_state_whole_grads(state, placed, (enum hlm_shard_kind)kind) + at)
                : hlm_state_whole_params(state, placed, (enum hlm_shard_kind)kind) +
                      at * state->dtype_bytes;
}

static void *param_address(const struct hlm_state *state, const struct hlm_state_stage *stage,
                           int32_t block, const struct hlm_tensor *tensor)
{
    const struct hlm_state_block *placed = &stage->blocks[block];
    const int64_t element = param_element(state, &stage, block, tensor);
    const bool grad = tensor->role == HLM_TENSOR_GRAD;
    if (stage->num_units > 0 && (grad || state->plan->strategy.zero >= 3)) {
        return whole_address(state, placed, hlm_state_find_unit(stage, element), element, grad);
    }
    return grad ? (void *)(stage->grads_slab + element)
                : hlm_state_param_address(state, stage, element);
}

static char *output_address(const struct hlm_state_stage *stage, int32_t block, char *slot)
{
    return slot + (block + 1 < stage->num_blocks ? stage->blocks[block + 1].input_offset
                                                 : stage->output_offset);
}

static char *activation_address(const struct hlm_state *state, const struct hlm_state_block *placed,
                                int32_t tensor, enum hlm_state_pass pass, char *slot)
{
    const struct hlm_block_memory *memory = placed->memory;
    const int64_t *const offsets[] = {[HLM_STATE_FORWARD] = memory->forward_offset,
                                      [HLM_STATE_BACKWARD] = memory->backward_offset,
                                      [HLM_STATE_WEIGHT_GRAD] = memory->weight_offset};
    const int64_t offset = offsets[pass][tensor];
    HLM_ASSERT(offset >= 0);
    if (memory->place[tensor] == HLM_PLACE_STASH) {
        return slot + placed->stash_offset + offset;
    }
    const bool held = memory->place[tensor] == HLM_PLACE_HELD && pass != HLM_STATE_FORWARD;
    return held ? slot + placed->held_offset + offset : state->transient + offset;
}

void *hlm_state_address(const struct hlm_state *state, int32_t block, int32_t tensor,
                        const struct hlm_state_binding *binding)
{
    const struct hlm_state_stage *stage = binding->stage;
    const struct hlm_state_block *placed = &stage->blocks[block];
    const struct hlm_tensor *what = &placed->block->tensors[tensor];
    char *slot = hlm_state_slot(stage, binding->slot);
    switch (what->role) {
    case HLM_TENSOR_INPUT:
        return slot + placed->input_offset;
    case HLM_TENSOR_OUTPUT:
        return output_address(stage, block, slot);
    case HLM_TENSOR_GRAD_OUTPUT:
        return binding->grad_output;
    case HLM_TENSOR_GRAD_INPUT:
        return binding->grad_input;
    case HLM_TENSOR_PARAM:
    case HLM_TENSOR_GRAD:
        return param_address(state, stage, block, what);
    case HLM_TENSOR_TOKENS:
    case HLM_TENSOR_TARGETS:
    case HLM_TENSOR_PIXELS:
        return data_address(placed, tensor, slot);
    case HLM_TENSOR_LOSS:
        return state->loss;
    case HLM_TENSOR_ACTIVATION:
        break;
    }
    return activation_address(state, placed, tensor, binding->pass, slot);
}
