#include "exec/runner/state_internal.h"

#include <string.h>

#include "base/rng.h"
#include "exec/bf16.h"

/* --- memory --- */

static enum hlm_status allocate(struct hlm_state *state, int64_t bytes, void **out,
                                struct hlm_err *err)
{
    HLM_TRY(state->backend->ops->alloc(state->backend, bytes > 0 ? bytes : 1, out, err));
    state->allocated_bytes += bytes;
    return HLM_OK;
}

static enum hlm_status allocate_floats(struct hlm_state *state, int64_t count, float **out,
                                       struct hlm_err *err)
{
    void *memory = NULL;
    HLM_TRY(allocate(state, count * (int64_t)sizeof(float), &memory, err));
    *out = memory;
    return HLM_OK;
}

static enum hlm_status allocate_stage(struct hlm_state *state, struct hlm_state_stage *stage,
                                      struct hlm_err *err)
{
    const int64_t moments = hlm_state_num_moments(stage);
    void *memory = NULL;
    HLM_TRY(allocate(state, stage->num_held_params * state->dtype_bytes, &memory, err));
    stage->params_slab = memory;
    HLM_TRY(allocate_floats(state, stage->num_held_grads, &stage->grads_slab, err));
    HLM_TRY(allocate_floats(state, moments, &stage->exp_avg, err));
    HLM_TRY(allocate_floats(state, moments, &stage->exp_avg_sq, err));
    if (state->dtype != HLM_DTYPE_FP32) {
        HLM_TRY(allocate_floats(state, moments, &stage->master, err));
    }
    HLM_TRY(allocate(state, stage->num_slots * stage->slot_bytes, &memory, err));
    stage->slots = memory;
    return HLM_OK;
}

static enum hlm_status allocate_all(struct hlm_state *state, struct hlm_err *err)
{
    const int64_t boundary = state->split ? 0 : hlm_state_align(state->boundary_bytes);
    void *memory = NULL;
    for (int32_t s = 0; s < state->num_stages; s++) {
        HLM_TRY(allocate_stage(state, (struct hlm_state_stage *)&state->stages[s], err));
    }
    HLM_TRY(allocate(state, 2 * boundary + hlm_state_transient_bytes(state), &memory, err));
    state->transient = (char *)memory + 2 * boundary;
    if (!state->split) {
        state->grad_buffers[0] = memory;
        state->grad_buffers[1] = state->grad_buffers[0] + boundary;
    }
    HLM_TRY(state->backend->ops->alloc(state->backend, sizeof(double), &memory, err));
    state->loss = memory;
    HLM_TRY(state->backend->ops->alloc(state->backend, sizeof(double), &memory, err));
    state->sum = memory;
    return HLM_OK;
}

static void free_memory(struct hlm_state *state, void *memory)
{
    if (memory != NULL) {
        state->backend->ops->free(state->backend, memory);
    }
}

static void free_stage(struct hlm_state *state, const struct hlm_state_stage *stage)
{
    void *const memory[] = {stage->params_slab, stage->grads_slab, stage->master,
                            stage->exp_avg,     stage->exp_avg_sq, stage->slots};
    for (size_t i = 0; i < sizeof(memory) / sizeof(memory[0]); i++) {
        free_memory(state, memory[i]);
    }
}

void hlm_state_free(struct hlm_state *state)
{
    if (state == NULL) {
        return;
    }
    for (int32_t s = 0; s < state->num_stages; s++) {
        free_stage(state, &state->stages[s]);
    }
    free_memory(state, state->split ? state->transient : state->grad_buffers[0]);
    free_memory(state, state->loss);
    free_memory(state, state->sum);
    if (state->queue != NULL) {
        state->backend->ops->queue_free(state->queue);
    }
}

/* --- first values --- */

static void init_param(const struct hlm_state_param *placed, uint64_t seed, float *values)
{
    const struct hlm_param *param = placed->param;
    const uint64_t key = hlm_hash(HLM_HASH_START, placed->name, strlen(placed->name)) ^ seed;
    for (int64_t row = 0; row < param->rows; row++) {
        const int64_t first =
            hlm_param_global_row(param, row) * param->global_cols + param->global_col;
        for (int64_t c = 0; c < param->cols; c++) {
            const double normal = hlm_rng_normal(key, (uint64_t)(first + c));
            values[row * param->cols + c] = (float)(param->init_mean + param->init_std * normal);
        }
    }
}

static enum hlm_status fill_zero(const struct hlm_state *state, void *data, enum hlm_dtype dtype,
                                 int64_t count, struct hlm_err *err)
{
    const struct hlm_op op = {.kind = HLM_OP_FILL_ZERO, .dtype = dtype, .m = count, .n = 1};
    void *const operands[HLM_OP_MAX_OPERANDS] = {data};
    const struct hlm_op_scalars scalars = {0};
    return state->backend->ops->launch(state->queue, &op, operands, &scalars, err);
}

static void round_all(const float *values, int64_t count, uint16_t *out)
{
    for (int64_t i = 0; i < count; i++) {
        out[i] = hlm_bf16_round(values[i]);
    }
}

/* What this rank updates: its master copies in fp32, and where parameters are shards, these. */
static enum hlm_status upload_own(const struct hlm_state *state,
                                  const struct hlm_state_stage *stage, const float *values,
                                  const char *params, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = state->backend->ops;
    for (int32_t i = 0; i < hlm_state_num_ranges(stage); i++) {
        int64_t first = 0;
        const int64_t count = hlm_state_range(stage, i, &first);
        if (count == 0) {
            continue;
        }
        if (stage->master != NULL) {
            HLM_TRY(ops->upload(state->queue, stage->master + hlm_state_moment(stage, first),
                                values + first, count * (int64_t)sizeof(float), err));
        }
        if (stage->num_held_params < stage->num_padded) {
            HLM_TRY(ops->upload(state->queue, hlm_state_param_address(state, stage, first),
                                params + first * state->dtype_bytes, count * state->dtype_bytes,
                                err));
        }
    }
    return HLM_OK;
}

/* Parameters in their dtype, master copies in fp32. `values` has num_padded elements. */
static enum hlm_status upload_params(const struct hlm_state *state,
                                     const struct hlm_state_stage *stage, struct hlm_arena *scratch,
                                     const float *values, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = state->backend->ops;
    const void *params = values;
    if (stage->master != NULL) {
        uint16_t *rounded = HLM_ARENA_ARRAY(scratch, uint16_t, stage->num_padded);
        round_all(values, stage->num_padded, rounded);
        params = rounded;
    }
    HLM_TRY(upload_own(state, stage, values, params, err));
    if (stage->num_held_params == stage->num_padded) {
        HLM_TRY(ops->upload(state->queue, stage->params_slab, params,
                            stage->num_padded * state->dtype_bytes, err));
    }
    return ops->queue_sync(state->queue, err);
}

static enum hlm_status reset_stage(const struct hlm_state *state,
                                   const struct hlm_state_stage *stage, uint64_t seed,
                                   struct hlm_err *err)
{
    struct hlm_arena *scratch = hlm_arena_new();
    float *values = HLM_ARENA_ARRAY(scratch, float, stage->num_padded);
    for (int32_t i = 0; i < stage->num_params; i++) {
        init_param(&stage->params[i], seed, values + stage->params[i].offset);
    }
    const enum hlm_status status = upload_params(state, stage, scratch, values, err);
    hlm_arena_free(scratch);
    HLM_TRY(status);
    HLM_TRY(fill_zero(state, stage->grads_slab, HLM_DTYPE_FP32, stage->num_held_grads, err));
    const int64_t moments = hlm_state_num_moments(stage);
    HLM_TRY(fill_zero(state, stage->exp_avg, HLM_DTYPE_FP32, moments, err));
    HLM_TRY(fill_zero(state, stage->exp_avg_sq, HLM_DTYPE_FP32, moments, err));
    return state->backend->ops->queue_sync(state->queue, err);
}

enum hlm_status hlm_state_reset(struct hlm_state *state, uint64_t seed, struct hlm_err *err)
{
    for (int32_t s = 0; s < state->num_stages; s++) {
        HLM_TRY(reset_stage(state, &state->stages[s], seed, err));
    }
    return HLM_OK;
}

/* --- making one --- */

static enum hlm_status route_nothing(const struct hlm_state *state, struct hlm_err *err)
{
    const struct hlm_op op = {.kind = HLM_OP_ROUTE_FWD, .dtype = state->dtype, .n = 1, .k = 1};
    void *const operands[HLM_OP_MAX_OPERANDS] = {state->sum, state->sum, state->sum, state->sum};
    const struct hlm_op_scalars scalars = {0};
    return state->backend->ops->launch(state->queue, &op, operands, &scalars, err);
}

/* A backend without operators of the dtype, or of experts, says so here, not in the middle of the
 * first step. */
static enum hlm_status check_dtype(const struct hlm_state *state, struct hlm_err *err)
{
    const struct hlm_state_stage *stage = &state->stages[0];
    HLM_TRY(fill_zero(state, stage->params_slab, state->dtype, stage->num_held_params, err));
    HLM_TRY(state->plan->model.moe.num_experts > 0 ? route_nothing(state, err) : HLM_OK);
    return state->backend->ops->queue_sync(state->queue, err);
}

static enum hlm_status build_state(struct hlm_arena *arena, struct hlm_state *state, uint64_t seed,
                                   struct hlm_err *err)
{
    HLM_TRY(hlm_state_lay_out(arena, state, err));
    HLM_TRY(state->backend->ops->queue_new(state->backend, &state->queue, err));
    HLM_TRY(allocate_all(state, err));
    HLM_TRY(check_dtype(state, err));
    return hlm_state_reset(state, seed, err);
}

static int32_t position_in(struct hlm_arena *arena, const struct hlm_strategy *strategy,
                           enum hlm_group group, int32_t rank)
{
    int32_t position = 0;
    int32_t *members = HLM_ARENA_ARRAY(arena, int32_t, hlm_layout_group_size(strategy, group));
    hlm_layout_group(strategy, group, rank, members, &position);
    return position;
}

enum hlm_status hlm_state_new(struct hlm_arena *arena, const struct hlm_plan *plan, int32_t rank,
                              struct hlm_backend *backend, uint64_t seed, struct hlm_state **out,
                              struct hlm_err *err)
{
    return hlm_state_new_routed(arena, plan, rank, backend, seed, HLM_ROUTING_TOPK, out, err);
}

enum hlm_status hlm_state_new_routed(struct hlm_arena *arena, const struct hlm_plan *plan,
                                     int32_t rank, struct hlm_backend *backend, uint64_t seed,
                                     enum hlm_routing routing, struct hlm_state **out,
                                     struct hlm_err *err)
{
    const struct hlm_strategy *strategy = &plan->strategy;
    const struct hlm_coords coords = hlm_layout_coords(strategy, rank);
    HLM_ASSERT(plan->model.moe.num_experts == 0 || routing != HLM_ROUTING_EVEN);
    const char *refusal = hlm_lowering_refusal(&plan->model, strategy);
    if (refusal != NULL) {
        return hlm_fail(err, HLM_NO, "this plan can't be run: %s", refusal);
    }
    struct hlm_state *state = HLM_ARENA_NEW(arena, struct hlm_state);
    *state = (struct hlm_state){.plan = plan,
                                .strategy = hlm_strategy_at(strategy, coords.pp),
                                .coords = coords,
                                .rank = rank,
                                .backend = backend,
                                .dtype = strategy->dtype,
                                .dtype_bytes = (int64_t)hlm_dtype_bytes(strategy->dtype),
                                .split = hlm_schedule_splits(strategy->schedule),
                                .routing = routing};
    if (plan->model.moe.num_experts > 0) {
        state->ep_rank = position_in(arena, &state->strategy, HLM_GROUP_EP, rank);
        state->edp_rank = position_in(arena, &state->strategy, HLM_GROUP_EDP, rank);
    }
    const enum hlm_status status = build_state(arena, state, seed, err);
    if (status != HLM_OK) {
        hlm_state_free(state);
        return status;
    }
    *out = state;
    return HLM_OK;
}
