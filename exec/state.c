#include "exec/state.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"

static int64_t align(int64_t bytes)
{
    return (bytes + HLM_ALIGNMENT_BYTES - 1) / HLM_ALIGNMENT_BYTES * HLM_ALIGNMENT_BYTES;
}

/* --- blocks of the stage --- */

struct block_choice {
    enum hlm_block_kind kind;
    enum hlm_recompute recompute;
    int32_t layer;
};

static int32_t choose_blocks(const struct hlm_plan *plan, int32_t stage,
                             struct block_choice *choices)
{
    const struct hlm_plan_stage *placed = &plan->stages[stage];
    int32_t n = 0;
    if (stage == 0) {
        choices[n++] = (struct block_choice){HLM_BLOCK_EMBEDDING, HLM_RECOMPUTE_NONE, -1};
    }
    for (int32_t i = 0; i < placed->num_layers; i++) {
        const int32_t layer = placed->first_layer + i;
        choices[n++] = (struct block_choice){hlm_plan_layer_kind(&plan->model, layer),
                                             hlm_plan_layer_recompute(placed, layer), layer};
    }
    if (stage == plan->num_stages - 1) {
        choices[n++] = (struct block_choice){HLM_BLOCK_HEAD, HLM_RECOMPUTE_NONE, -1};
    }
    return n;
}

/* Equal choices share one operator list. */
struct block_cache {
    const struct hlm_block *block[HLM_NUM_BLOCKS][HLM_NUM_RECOMPUTES];
    const struct hlm_block_memory *memory[HLM_NUM_BLOCKS][HLM_NUM_RECOMPUTES];
};

static enum hlm_status build_block(struct hlm_arena *arena, const struct hlm_state *state,
                                   const struct block_choice *choice, struct block_cache *cache,
                                   struct hlm_err *err)
{
    if (cache->block[choice->kind][choice->recompute] != NULL) {
        return HLM_OK;
    }
    const struct hlm_plan *plan = state->plan;
    const struct hlm_device *device =
        &plan->cluster.groups[plan->stages[state->stage].device_group].device;
    const struct hlm_lowering_input input = {.model = &plan->model,
                                             .strategy = &plan->strategy,
                                             .backend = device->backend,
                                             .tp_rank = state->coords.tp,
                                             .last_stage_copy = plan->model.tied_embeddings &&
                                                                plan->strategy.pp > 1};
    const struct hlm_block *block = NULL;
    HLM_TRY(hlm_lowering_block(arena, &input, choice->kind, choice->recompute, &block, err));
    struct hlm_block_memory *memory = HLM_ARENA_NEW(arena, struct hlm_block_memory);
    hlm_block_memory(arena, block, memory);
    cache->block[choice->kind][choice->recompute] = block;
    cache->memory[choice->kind][choice->recompute] = memory;
    return HLM_OK;
}

static enum hlm_status build_blocks(struct hlm_arena *arena, struct hlm_state *state,
                                    struct hlm_err *err)
{
    struct block_choice *choices =
        HLM_ARENA_ARRAY(arena, struct block_choice, state->plan->model.num_layers + 2);
    state->num_blocks = choose_blocks(state->plan, state->stage, choices);
    struct hlm_state_block *blocks =
        HLM_ARENA_ARRAY(arena, struct hlm_state_block, state->num_blocks);
    struct block_cache cache = {0};
    for (int32_t b = 0; b < state->num_blocks; b++) {
        HLM_TRY(build_block(arena, state, &choices[b], &cache, err));
        blocks[b] =
            (struct hlm_state_block){.block = cache.block[choices[b].kind][choices[b].recompute],
                                     .memory = cache.memory[choices[b].kind][choices[b].recompute],
                                     .layer = choices[b].layer};
    }
    state->blocks = blocks;
    return HLM_OK;
}

/* --- parameters --- */

/* Appends the parameters with sum_over_tp == wanted of all blocks to the slab. */
static void place_params(struct hlm_arena *arena, struct hlm_state *state,
                         struct hlm_state_param *params, bool wanted)
{
    for (int32_t b = 0; b < state->num_blocks; b++) {
        const struct hlm_state_block *block = &state->blocks[b];
        int64_t *offsets = (int64_t *)block->param_offset;
        for (int32_t p = 0; p < block->block->num_params; p++) {
            const struct hlm_param *param = &block->block->params[p];
            if (param->sum_over_tp != wanted) {
                continue;
            }
            const int64_t count = param->rows * param->cols;
            offsets[p] = state->num_elements;
            params[state->num_params++] = (struct hlm_state_param){
                .param = param,
                .name = hlm_param_global_name(arena, block->block->kind, block->layer, param),
                .offset = state->num_elements,
                .num_elements = count};
            state->num_elements += count;
        }
    }
}

static void build_params(struct hlm_arena *arena, struct hlm_state *state)
{
    int32_t total = 0;
    for (int32_t b = 0; b < state->num_blocks; b++) {
        struct hlm_state_block *block = (struct hlm_state_block *)&state->blocks[b];
        block->param_offset = HLM_ARENA_ARRAY(arena, int64_t, block->block->num_params);
        total += block->block->num_params;
    }
    struct hlm_state_param *params = HLM_ARENA_ARRAY(arena, struct hlm_state_param, total);
    place_params(arena, state, params, true);
    state->num_sum_over_tp = state->num_elements;
    place_params(arena, state, params, false);
    state->params = params;
    const struct hlm_strategy *strategy = &state->plan->strategy;
    const int64_t shards = strategy->zero > 0 ? strategy->zero_group : 1;
    state->num_padded = (state->num_elements + shards - 1) / shards * shards;
    state->own_count = state->num_padded / shards;
    state->own_first = strategy->zero > 0 ? state->coords.dp * state->own_count : 0;
    for (int32_t i = 0; i < state->num_params; i++) {
        if (strcmp(params[i].name, "embed.token") == 0) {
            state->tied_offset = params[i].offset;
            state->tied_elements = params[i].num_elements;
        }
    }
}

/* --- the layout of a slot --- */

static int64_t data_bytes(const struct hlm_block *block)
{
    int64_t bytes = 0;
    for (int32_t i = 0; i < block->num_tensors; i++) {
        const enum hlm_tensor_role role = block->tensors[i].role;
        if (role == HLM_TENSOR_TOKENS || role == HLM_TENSOR_TARGETS || role == HLM_TENSOR_PIXELS) {
            bytes += align((int64_t)ceil(hlm_tensor_bytes(&block->tensors[i])));
        }
    }
    return bytes;
}

static void build_slot(struct hlm_state *state)
{
    int64_t offset = 0;
    const int64_t boundary = align(state->boundary_bytes);
    for (int32_t b = 0; b < state->num_blocks; b++) {
        struct hlm_state_block *block = (struct hlm_state_block *)&state->blocks[b];
        block->input_offset = offset;
        block->stash_offset = block->input_offset + block->memory->input_bytes;
        block->data_offset = block->stash_offset + block->memory->stash_bytes;
        offset = block->data_offset + data_bytes(block->block);
    }
    state->output_offset = -1;
    state->dinput_offset = -1;
    if (state->stage < state->plan->num_stages - 1) {
        state->output_offset = offset;
        offset += boundary;
    }
    if (state->stage > 0) {
        state->dinput_offset = offset;
        offset += boundary;
    }
    state->slot_bytes = offset;
    state->num_slots =
        hlm_schedule_in_flight(state->plan->strategy.schedule, state->plan->num_stages,
                               (int32_t)state->plan->strategy.num_microbatches, state->stage);
}

static int64_t pass_transient_bytes(const struct hlm_state *state)
{
    int64_t bytes = 0;
    for (int32_t b = 0; b < state->num_blocks; b++) {
        const struct hlm_block_memory *memory = state->blocks[b].memory;
        const int64_t passes[] = {memory->forward_transient_bytes,
                                  memory->backward_transient_bytes};
        for (int32_t i = 0; i < 2; i++) {
            bytes = passes[i] > bytes ? passes[i] : bytes;
        }
    }
    return bytes;
}

/* --- memory --- */

static enum hlm_status allocate(struct hlm_state *state, int64_t bytes, void **out,
                                struct hlm_err *err)
{
    HLM_TRY(state->backend->ops->alloc(state->backend, bytes > 0 ? bytes : 1, out, err));
    state->allocated_bytes += bytes;
    return HLM_OK;
}

static enum hlm_status allocate_all(struct hlm_state *state, struct hlm_err *err)
{
    const int64_t slab = state->num_padded * (int64_t)sizeof(float);
    const int64_t own = state->own_count * (int64_t)sizeof(float);
    const int64_t boundary = align(state->boundary_bytes);
    void *memory = NULL;
    HLM_TRY(allocate(state, slab, &memory, err));
    state->params_slab = memory;
    HLM_TRY(allocate(state, slab, &memory, err));
    state->grads_slab = memory;
    HLM_TRY(allocate(state, own, &memory, err));
    state->exp_avg = memory;
    HLM_TRY(allocate(state, own, &memory, err));
    state->exp_avg_sq = memory;
    HLM_TRY(allocate(state, state->num_slots * state->slot_bytes, &memory, err));
    state->slots = memory;
    HLM_TRY(allocate(state, 2 * boundary + pass_transient_bytes(state), &memory, err));
    state->grad_buffers[0] = memory;
    state->grad_buffers[1] = state->grad_buffers[0] + boundary;
    state->transient = state->grad_buffers[1] + boundary;
    HLM_TRY(state->backend->ops->alloc(state->backend, sizeof(double), &memory, err));
    state->loss = memory;
    HLM_TRY(state->backend->ops->alloc(state->backend, sizeof(double), &memory, err));
    state->sum = memory;
    return HLM_OK;
}

void hlm_state_free(struct hlm_state *state)
{
    if (state == NULL) {
        return;
    }
    void *const memory[] = {state->params_slab, state->grads_slab, state->exp_avg,
                            state->exp_avg_sq,  state->slots,      state->grad_buffers[0],
                            state->loss,        state->sum};
    for (size_t i = 0; i < sizeof(memory) / sizeof(memory[0]); i++) {
        if (memory[i] != NULL) {
            state->backend->ops->free(state->backend, memory[i]);
        }
    }
    if (state->queue != NULL) {
        state->backend->ops->queue_free(state->queue);
    }
}

/* --- first values --- */

static void init_param(const struct hlm_state_param *placed, uint64_t seed, float *values)
{
    const struct hlm_param *param = placed->param;
    const uint64_t key = hlm_hash(HLM_HASH_START, placed->name, strlen(placed->name)) ^ seed;
    int64_t row = 0;
    for (int32_t s = 0; s < param->num_slices; s++) {
        for (int64_t r = 0; r < param->slices[s].num_rows; r++, row++) {
            const int64_t first =
                (param->slices[s].global_row + r) * param->global_cols + param->global_col;
            for (int64_t c = 0; c < param->cols; c++) {
                const double normal = hlm_rng_normal(key, (uint64_t)(first + c));
                values[row * param->cols + c] =
                    (float)(param->init_mean + param->init_std * normal);
            }
        }
    }
    HLM_ASSERT(row == param->rows);
}

static enum hlm_status fill_zero(struct hlm_state *state, void *data, int64_t count,
                                 struct hlm_err *err)
{
    const struct hlm_op op = {
        .kind = HLM_OP_FILL_ZERO, .dtype = HLM_DTYPE_FP32, .m = count, .n = 1};
    void *const operands[HLM_OP_MAX_OPERANDS] = {data};
    const struct hlm_op_scalars scalars = {0};
    return state->backend->ops->launch(state->queue, &op, operands, &scalars, err);
}

enum hlm_status hlm_state_reset(struct hlm_state *state, uint64_t seed, struct hlm_err *err)
{
    struct hlm_arena *scratch = hlm_arena_new();
    float *values = HLM_ARENA_ARRAY(scratch, float, state->num_padded);
    for (int32_t i = 0; i < state->num_params; i++) {
        init_param(&state->params[i], seed, values + state->params[i].offset);
    }
    const int64_t bytes = state->num_padded * (int64_t)sizeof(float);
    enum hlm_status status =
        state->backend->ops->upload(state->queue, state->params_slab, values, bytes, err);
    if (status == HLM_OK) {
        status = state->backend->ops->queue_sync(state->queue, err);
    }
    hlm_arena_free(scratch);
    HLM_TRY(status);
    HLM_TRY(fill_zero(state, state->grads_slab, state->num_padded, err));
    HLM_TRY(fill_zero(state, state->exp_avg, state->own_count, err));
    HLM_TRY(fill_zero(state, state->exp_avg_sq, state->own_count, err));
    return state->backend->ops->queue_sync(state->queue, err);
}

static enum hlm_status build_state(struct hlm_arena *arena, struct hlm_state *state, uint64_t seed,
                                   struct hlm_err *err)
{
    const struct hlm_strategy *strategy = &state->plan->strategy;
    const struct hlm_block *first = NULL;
    HLM_TRY(build_blocks(arena, state, err));
    build_params(arena, state);
    first = state->blocks[0].block;
    state->boundary_bytes =
        (int64_t)((double)(first->activation_rows * state->plan->model.hidden_size) *
                  hlm_dtype_bytes(strategy->dtype));
    build_slot(state);
    HLM_TRY(state->backend->ops->queue_new(state->backend, &state->queue, err));
    HLM_TRY(allocate_all(state, err));
    return hlm_state_reset(state, seed, err);
}

enum hlm_status hlm_state_new(struct hlm_arena *arena, const struct hlm_plan *plan, int32_t rank,
                              struct hlm_backend *backend, uint64_t seed, struct hlm_state **out,
                              struct hlm_err *err)
{
    const char *refusal = hlm_lowering_refusal(&plan->model, &plan->strategy);
    if (refusal != NULL) {
        return hlm_fail(err, HLM_NO, "this plan can't be run: %s", refusal);
    }
    struct hlm_state *state = HLM_ARENA_NEW(arena, struct hlm_state);
    state->plan = plan;
    state->rank = rank;
    state->coords = hlm_layout_coords(&plan->strategy, rank);
    state->stage = state->coords.pp;
    state->backend = backend;
    state->predicted = &plan->prediction.memory[state->stage];
    const enum hlm_status status = build_state(arena, state, seed, err);
    if (status != HLM_OK) {
        hlm_state_free(state);
        return status;
    }
    *out = state;
    return HLM_OK;
}

/* --- addresses --- */

char *hlm_state_slot(const struct hlm_state *state, int32_t slot)
{
    HLM_ASSERT(slot >= 0 && slot < state->num_slots);
    return state->slots + slot * state->slot_bytes;
}

static char *data_address(const struct hlm_state *state, int32_t block, int32_t tensor,
                          int32_t slot)
{
    const struct hlm_state_block *placed = &state->blocks[block];
    int64_t offset = placed->data_offset;
    for (int32_t i = 0; i < tensor; i++) {
        const enum hlm_tensor_role role = placed->block->tensors[i].role;
        if (role == HLM_TENSOR_TOKENS || role == HLM_TENSOR_TARGETS || role == HLM_TENSOR_PIXELS) {
            offset += align((int64_t)ceil(hlm_tensor_bytes(&placed->block->tensors[i])));
        }
    }
    return hlm_state_slot(state, slot) + offset;
}

static float *slab_address(const struct hlm_state *state, int32_t block,
                           const struct hlm_tensor *tensor, float *slab)
{
    return slab + (tensor->param >= 0 ? state->blocks[block].param_offset[tensor->param]
                                      : state->tied_offset);
}

static char *output_address(const struct hlm_state *state, int32_t block, int32_t slot)
{
    const int64_t offset = block + 1 < state->num_blocks ? state->blocks[block + 1].input_offset
                                                         : state->output_offset;
    return hlm_state_slot(state, slot) + offset;
}

static char *activation_address(const struct hlm_state *state, int32_t block, int32_t tensor,
                                const struct hlm_state_binding *binding)
{
    const struct hlm_state_block *placed = &state->blocks[block];
    const int64_t *offsets =
        binding->backward ? placed->memory->backward_offset : placed->memory->forward_offset;
    HLM_ASSERT(offsets[tensor] >= 0);
    if (placed->memory->place[tensor] == HLM_PLACE_STASH) {
        return hlm_state_slot(state, binding->slot) + placed->stash_offset + offsets[tensor];
    }
    return state->transient + offsets[tensor];
}

void *hlm_state_address(const struct hlm_state *state, int32_t block, int32_t tensor,
                        const struct hlm_state_binding *binding)
{
    const struct hlm_tensor *what = &state->blocks[block].block->tensors[tensor];
    switch (what->role) {
    case HLM_TENSOR_INPUT:
        return hlm_state_slot(state, binding->slot) + state->blocks[block].input_offset;
    case HLM_TENSOR_OUTPUT:
        return output_address(state, block, binding->slot);
    case HLM_TENSOR_GRAD_OUTPUT:
        return binding->grad_output;
    case HLM_TENSOR_GRAD_INPUT:
        return binding->grad_input;
    case HLM_TENSOR_PARAM:
        return slab_address(state, block, what, state->params_slab);
    case HLM_TENSOR_GRAD:
        return slab_address(state, block, what, state->grads_slab);
    case HLM_TENSOR_TOKENS:
    case HLM_TENSOR_TARGETS:
    case HLM_TENSOR_PIXELS:
        return data_address(state, block, tensor, binding->slot);
    case HLM_TENSOR_LOSS:
        return state->loss;
    case HLM_TENSOR_ACTIVATION:
        break;
    }
    return activation_address(state, block, tensor, binding);
}
