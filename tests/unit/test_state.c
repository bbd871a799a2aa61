#include "exec/runner/state.h"

#include "base/rng.h"
#include "exec/bf16.h"
#include "tests/support/check.h"
#include "tests/support/golden.h"
#include "tests/support/late_backend.h"

enum { SEED = 11 };

struct fixture {
    struct hlm_arena *arena;
    struct hlm_backend *backend;
    const struct golden *golden;
};

static int enter(void **state)
{
    static struct fixture fixture;
    struct hlm_err err;
    fixture.arena = hlm_arena_new();
    fixture.golden = golden_read(fixture.arena, "gpt2");
    check_ok(hlm_backend_cpu_new(&fixture.backend, &err), &err);
    *state = &fixture;
    return 0;
}

static int leave(void **state)
{
    struct fixture *fixture = *state;
    hlm_backend_free(fixture->backend);
    hlm_arena_free(fixture->arena);
    return 0;
}

static const struct hlm_plan *make_plan(struct fixture *fixture, struct golden_layout layout)
{
    const struct golden *golden = fixture->golden;
    const struct hlm_plan *plan = golden_plan(fixture->arena, &golden->model,
                                              golden->global_batch_size, golden->seq_len, &layout);
    assert_non_null(plan);
    return plan;
}

static struct hlm_state *make_state(struct fixture *fixture, const struct hlm_plan *plan,
                                    int32_t rank)
{
    struct hlm_err err;
    struct hlm_state *made = NULL;
    check_ok(hlm_state_new(fixture->arena, plan, rank, fixture->backend, SEED, &made, &err), &err);
    return made;
}

static const struct golden_layout layouts[] = {
    {0},
    {.tp = 2},
    {.tp = 2, .sp = true},
    {.pp = 2, .schedule = HLM_SCHEDULE_1F1B},
    {.dp = 2, .zero = 1},
    {.dp = 2, .tp = 2, .pp = 2, .sp = true, .zero = 1, .schedule = HLM_SCHEDULE_1F1B},
    {.pp = 2, .recompute = HLM_RECOMPUTE_FULL},
    {.tp = 2, .sp = true, .pp = 2, .schedule = HLM_SCHEDULE_ZB_H1},
    {.dp = 2, .pp = 2, .zero = 1, .vpp = 2, .schedule = HLM_SCHEDULE_INTERLEAVED},
    {.dp = 2, .pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_ZB_V},
    {.pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_DUALPIPE_V, .recompute = HLM_RECOMPUTE_SELECTIVE},
};
enum { NUM_LAYOUTS = sizeof(layouts) / sizeof(layouts[0]) };

typedef void visit_fn(const struct hlm_state *made, const struct hlm_state_stage *stage);

/* Calls visit for every stage of every rank of every layout. */
static void for_all(struct fixture *fixture, visit_fn *visit)
{
    for (int i = 0; i < NUM_LAYOUTS; i++) {
        const struct hlm_plan *plan = make_plan(fixture, layouts[i]);
        for (int32_t rank = 0; rank < plan->num_ranks; rank++) {
            struct hlm_state *made = make_state(fixture, plan, rank);
            assert_int_equal(made->num_stages, plan->strategy.vpp);
            for (int32_t s = 0; s < made->num_stages; s++) {
                visit(made, &made->stages[s]);
            }
            hlm_state_free(made);
        }
    }
}

static const float *params_of(const struct hlm_state_stage *stage)
{
    return (const float *)(const void *)stage->params_slab;
}

/* Parameters lie one behind the other, those with sums over tp first, and fill the slab. */
static void check_params(const struct hlm_state *made, const struct hlm_state_stage *stage)
{
    int64_t next = 0;
    for (int32_t i = 0; i < stage->num_params; i++) {
        const struct hlm_state_param *param = &stage->params[i];
        assert_int_equal(param->offset, next);
        assert_int_equal(param->num_elements, param->param->rows * param->param->cols);
        assert_int_equal(param->param->sum_over_tp, param->offset < stage->num_sum_over_tp);
        next += param->num_elements;
    }
    assert_int_equal(next, stage->num_elements);
    assert_true(stage->num_padded >= next &&
                stage->num_padded < next + made->plan->strategy.zero_group);
}

static void test_params(void **state)
{
    for_all(*state, check_params);
}

/* What is allocated is what the plan promised of this stage (tests/oracle/test_state_bytes.c has
 * all schedules and dtypes). */
static void test_promised_bytes(void **state)
{
    struct fixture *fixture = *state;
    for (int i = 0; i < NUM_LAYOUTS; i++) {
        const struct hlm_plan *plan = make_plan(fixture, layouts[i]);
        for (int32_t rank = 0; rank < plan->num_ranks && plan->strategy.vpp == 1; rank++) {
            struct hlm_state *made = make_state(fixture, plan, rank);
            const struct hlm_stage_memory *memory = &plan->prediction.memory[made->stages[0].stage];
            assert_int_equal(made->allocated_bytes,
                             memory->peak_bytes - memory->bytes[HLM_MEMORY_FIXED]);
            hlm_state_free(made);
        }
    }
}

/* With ZeRO the ranges of the dp ranks are the slab, cut into equal parts. */
static void test_shards(void **state)
{
    struct fixture *fixture = *state;
    const struct hlm_plan *plan = make_plan(fixture, (struct golden_layout){.dp = 4, .zero = 1});
    int64_t next = 0;
    for (int32_t rank = 0; rank < 4; rank++) {
        struct hlm_state *made = make_state(fixture, plan, rank);
        const struct hlm_state_stage *stage = &made->stages[0];
        assert_int_equal(stage->own_first, next);
        assert_int_equal(stage->own_count * 4, stage->num_padded);
        next += stage->own_count;
        hlm_state_free(made);
    }
    plan = make_plan(fixture, (struct golden_layout){.dp = 4});
    struct hlm_state *made = make_state(fixture, plan, 3);
    assert_int_equal(made->stages[0].own_first, 0);
    assert_int_equal(made->stages[0].own_count, made->stages[0].num_elements);
    hlm_state_free(made);
}

/* Element (row, col) of the global parameter has one first value, whoever holds it. */
static void check_first_values(const struct hlm_state *made, const struct hlm_state_stage *stage)
{
    (void)made;
    for (int32_t i = 0; i < stage->num_params; i++) {
        const struct hlm_state_param *placed = &stage->params[i];
        const struct hlm_param *param = placed->param;
        const uint64_t key = hlm_hash(HLM_HASH_START, placed->name, strlen(placed->name)) ^ SEED;
        const float *value = params_of(stage) + placed->offset;
        for (int32_t s = 0; s < param->num_slices; s++) {
            const int64_t end = param->slices[s].global_row + param->slices[s].num_rows;
            for (int64_t row = param->slices[s].global_row; row < end; row++) {
                for (int64_t col = 0; col < param->cols; col++) {
                    const int64_t at = row * param->global_cols + param->global_col + col;
                    const double normal = hlm_rng_normal(key, (uint64_t)at);
                    const double expected = param->init_mean + param->init_std * normal;
                    check_close((double)*value++, (double)(float)expected, 0.0);
                }
            }
        }
    }
    for (int64_t i = 0; i < stage->own_count; i++) {
        assert_true(stage->exp_avg[i] == 0.0F && stage->exp_avg_sq[i] == 0.0F);
    }
    for (int64_t i = 0; i < stage->num_padded; i++) {
        assert_true(stage->grads_slab[i] == 0.0F);
    }
}

static void test_first_values(void **state)
{
    for_all(*state, check_first_values);
}

static void test_reset(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    struct hlm_state *made = make_state(fixture, make_plan(fixture, layouts[0]), 0);
    const struct hlm_state_stage *stage = &made->stages[0];
    for (int64_t i = 0; i < stage->num_padded; i++) {
        stage->grads_slab[i] = 3.0F;
    }
    memset(stage->params_slab, 1, (size_t)stage->num_padded * sizeof(float));
    for (int64_t i = 0; i < stage->own_count; i++) {
        stage->exp_avg[i] = stage->exp_avg_sq[i] = 3.0F;
    }
    check_ok(hlm_state_reset(made, SEED, &err), &err);
    check_first_values(made, stage);
    hlm_state_free(made);
}

/* Where a block keeps its output its follower has its input; parameters and gradients are those of
 * the slabs; each microbatch slot is apart. */
static void check_addresses(const struct hlm_state *made, const struct hlm_state_stage *stage)
{
    for (int32_t slot = 0; slot < stage->num_slots; slot++) {
        const struct hlm_state_binding binding = {.stage = stage, .slot = slot};
        assert_ptr_equal(hlm_state_slot(stage, slot), stage->slots + slot * stage->slot_bytes);
        for (int32_t b = 0; b < stage->num_blocks; b++) {
            const struct hlm_block *block = stage->blocks[b].block;
            if (b + 1 < stage->num_blocks) {
                assert_ptr_equal(
                    hlm_state_address(made, b, block->output, &binding),
                    hlm_state_address(made, b + 1, stage->blocks[b + 1].block->input, &binding));
            }
            for (int32_t p = 0; p < block->num_params; p++) {
                const int64_t offset = stage->blocks[b].param_offset[p];
                assert_ptr_equal(hlm_state_address(made, b, block->params[p].param, &binding),
                                 params_of(stage) + offset);
                assert_ptr_equal(hlm_state_address(made, b, block->params[p].grad, &binding),
                                 stage->grads_slab + offset);
            }
        }
    }
}

static void test_addresses(void **state)
{
    for_all(*state, check_addresses);
}

static void mark(unsigned char *taken, const char *slot, const char *at, int64_t bytes,
                 int64_t slot_bytes)
{
    assert_true(at >= slot && at + bytes <= slot + slot_bytes);
    for (int64_t i = 0; i < bytes; i++) {
        assert_int_equal(taken[at - slot + i], 0);
        taken[at - slot + i] = 1;
    }
}

/* No two tensors of one slot share a byte: what is kept, inputs and their gradients, the output,
 * data. Where the backward is split, W finds what I held. */
static void check_slot(const struct hlm_state *made, const struct hlm_state_stage *stage)
{
    struct hlm_arena *arena = hlm_arena_new();
    unsigned char *taken = HLM_ARENA_ARRAY(arena, unsigned char, stage->slot_bytes);
    const char *slot = hlm_state_slot(stage, 0);
    const struct hlm_state_binding backward = {.stage = stage, .pass = HLM_STATE_BACKWARD};
    const struct hlm_state_binding weight = {.stage = stage, .pass = HLM_STATE_WEIGHT_GRAD};
    for (int32_t b = 0; b < stage->num_blocks; b++) {
        const struct hlm_state_block *placed = &stage->blocks[b];
        const struct hlm_block *block = placed->block;
        for (int32_t t = 0; t < block->num_tensors; t++) {
            const enum hlm_tensor_role role = block->tensors[t].role;
            const enum hlm_place place = placed->memory->place[t];
            if (place == HLM_PLACE_STASH || place == HLM_PLACE_HELD || hlm_tensor_is_data(role) ||
                role == HLM_TENSOR_INPUT) {
                const char *at = hlm_state_address(made, b, t, &backward);
                assert_ptr_equal(at, hlm_state_address(made, b, t, &weight));
                mark(taken, slot, at, (int64_t)hlm_tensor_bytes(&block->tensors[t]),
                     stage->slot_bytes);
            }
        }
        if (placed->input_grad_offset >= 0) {
            mark(taken, slot, slot + placed->input_grad_offset, made->boundary_bytes,
                 stage->slot_bytes);
        }
        const bool needs = block->grad_input >= 0 && (made->split || (b == 0 && stage->stage > 0));
        assert_int_equal(placed->input_grad_offset >= 0, needs);
    }
    if (!stage->last) {
        mark(taken, slot, slot + stage->output_offset, made->boundary_bytes, stage->slot_bytes);
    }
    hlm_arena_free(arena);
}

static void test_slots(void **state)
{
    for_all(*state, check_slot);
}

/* The blocks of a stage: its layers, the embedding on the first, the head on the last. */
static void check_blocks(struct fixture *fixture, struct golden_layout layout)
{
    struct hlm_err err;
    const struct hlm_plan *plan = make_plan(fixture, layout);
    const struct hlm_strategy *strategy = &plan->strategy;
    const struct hlm_schedule *schedule = NULL;
    check_ok(hlm_schedule_build(fixture->arena, strategy->schedule, strategy->pp, strategy->vpp,
                                (int32_t)strategy->num_microbatches, &schedule, &err),
             &err);
    int32_t num_layers = 0, num_stages = 0;
    for (int32_t rank = 0; rank < strategy->pp; rank++) {
        struct hlm_state *made = make_state(fixture, plan, rank);
        for (int32_t s = 0; s < made->num_stages; s++, num_stages++) {
            const struct hlm_state_stage *stage = &made->stages[s];
            const struct hlm_block *first = stage->blocks[0].block;
            const struct hlm_block *last = stage->blocks[stage->num_blocks - 1].block;
            int32_t next = plan->stages[stage->stage].first_layer;
            assert_int_equal(schedule->stage_rank[stage->stage], rank);
            assert_int_equal(hlm_state_find_stage(made, stage->stage), s);
            assert_int_equal(first->kind == HLM_BLOCK_EMBEDDING, stage->stage == 0);
            assert_int_equal(last->kind == HLM_BLOCK_HEAD, stage->stage == plan->num_stages - 1);
            for (int32_t b = 0; b < stage->num_blocks; b++) {
                if (stage->blocks[b].layer >= 0) {
                    assert_int_equal(stage->blocks[b].layer, next++);
                    num_layers++;
                }
            }
            assert_int_equal(stage->num_slots,
                             hlm_schedule_in_flights(fixture->arena, schedule)[stage->stage]);
        }
        assert_int_equal(hlm_state_find_stage(made, plan->num_stages), -1);
        hlm_state_free(made);
    }
    assert_int_equal(num_layers, plan->model.num_layers);
    assert_int_equal(num_stages, plan->num_stages);
}

static void test_blocks(void **state)
{
    check_blocks(*state, layouts[3]);
    check_blocks(*state,
                 (struct golden_layout){.pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_INTERLEAVED});
    check_blocks(*state, (struct golden_layout){.pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_V_MIN});
}

/* The table of a tied model is there once where embedding and head are on one rank. */
static void test_tied_table(void **state)
{
    struct fixture *fixture = *state;
    const struct hlm_plan *plan = make_plan(
        fixture, (struct golden_layout){.pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_ZB_V});
    struct hlm_state *made = make_state(fixture, plan, 0);
    const struct hlm_state_stage *last = &made->stages[1];
    const struct hlm_state_binding binding = {.stage = last};
    const int32_t head = last->num_blocks - 1;
    const struct hlm_block *block = last->blocks[head].block;
    int32_t num_shared = 0;
    assert_true(last->last);
    assert_int_equal(made->tied_stage, 0);
    for (int32_t t = 0; t < block->num_tensors; t++) {
        const struct hlm_tensor *tensor = &block->tensors[t];
        if (tensor->role == HLM_TENSOR_PARAM && tensor->param < 0) {
            assert_ptr_equal(hlm_state_address(made, head, t, &binding),
                             params_of(&made->stages[0]) + made->tied_offset);
            num_shared++;
        }
    }
    assert_int_equal(num_shared, 1);
    hlm_state_free(made);
    plan = make_plan(
        fixture, (struct golden_layout){.pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_INTERLEAVED});
    made = make_state(fixture, plan, 1);
    assert_int_equal(made->tied_stage, 1);
    assert_true(made->stages[1].params[made->stages[1].num_params - 1].offset >= 0);
    hlm_state_free(made);
}

static void test_memory_that_the_host_lacks(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    struct hlm_backend *late = NULL;
    struct hlm_state *made = NULL;
    const struct hlm_plan *plan = make_plan(fixture, layouts[5]);
    check_ok(late_backend_new(&late, 3, 1e-4, &err), &err);
    check_ok(hlm_state_new(fixture->arena, plan, 5, late, SEED, &made, &err), &err);
    struct hlm_state *near = make_state(fixture, plan, 5);
    const struct hlm_state_stage *stage = &made->stages[0];
    float *values = HLM_ARENA_ARRAY(fixture->arena, float, stage->num_padded);
    check_ok(late->ops->download(made->queue, values, stage->params_slab,
                                 stage->num_padded * (int64_t)sizeof(float), &err),
             &err);
    check_ok(late->ops->queue_sync(made->queue, &err), &err);
    assert_memory_equal(values, near->stages[0].params_slab,
                        (size_t)stage->num_elements * sizeof(float));
    hlm_state_free(near);
    hlm_state_free(made);
    hlm_backend_free(late);
}

/* Stands in for a backend with bf16: making a state launches this operator alone. */
static enum hlm_status launch_zero(struct hlm_queue *queue, const struct hlm_op *op,
                                   void *const operands[HLM_OP_MAX_OPERANDS],
                                   const struct hlm_op_scalars *scalars, struct hlm_err *err)
{
    (void)queue;
    (void)scalars;
    (void)err;
    assert_int_equal(op->kind, HLM_OP_FILL_ZERO);
    memset(operands[0], 0, (size_t)op->m * (size_t)hlm_dtype_bytes(op->dtype));
    return HLM_OK;
}

/* bf16: parameters rounded to nearest even, master copies of this rank's own range only. */
static void test_bf16(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    const struct hlm_plan *plan =
        make_plan(fixture, (struct golden_layout){.dp = 4, .zero = 1, .dtype = HLM_DTYPE_BF16});
    struct hlm_backend_ops ops = *fixture->backend->ops;
    const struct hlm_backend_ops *const own = fixture->backend->ops;
    ops.launch = launch_zero;
    fixture->backend->ops = &ops;
    struct hlm_state *made = NULL;
    check_ok(hlm_state_new(fixture->arena, plan, 2, fixture->backend, SEED, &made, &err), &err);
    const struct hlm_state_stage *stage = &made->stages[0];
    assert_int_equal(made->dtype_bytes, 2);
    struct hlm_state *single =
        make_state(fixture, make_plan(fixture, (struct golden_layout){.dp = 4, .zero = 1}), 2);
    const uint16_t *rounded = (const uint16_t *)(const void *)stage->params_slab;
    for (int64_t i = 0; i < stage->num_elements; i++) {
        const float exact = params_of(&single->stages[0])[i];
        const double error = fabs((double)hlm_bf16_value(rounded[i]) - (double)exact);
        assert_true(error <= 0x1p-8 * fabs((double)exact));
        assert_int_equal(rounded[i], hlm_bf16_round(exact));
    }
    assert_memory_equal(stage->master, params_of(&single->stages[0]) + stage->own_first,
                        (size_t)stage->own_count * sizeof(float));
    hlm_state_free(single);
    hlm_state_free(made);
    fixture->backend->ops = own;
}

static void test_bf16_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    struct hlm_state *made = NULL;
    const struct hlm_plan *plan =
        make_plan(fixture, (struct golden_layout){.dtype = HLM_DTYPE_BF16});
    check_fails(hlm_state_new(fixture->arena, plan, 0, fixture->backend, SEED, &made, &err),
                HLM_ENV, &err, "the cpu backend can't run fill_zero in bf16");
    assert_null(made);
}

static void test_refusal(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    struct hlm_state *made = NULL;
    struct hlm_plan plan = *make_plan(fixture, (struct golden_layout){.dp = 4, .zero = 3});
    plan.strategy.zero_group = 2;
    check_fails(hlm_state_new(fixture->arena, &plan, 0, fixture->backend, SEED, &made, &err),
                HLM_NO, &err,
                "this plan can't be run: states shared by a part of dp (zero_group < dp)");
    plan = *make_plan(fixture, layouts[0]);
    plan.strategy.lowering = HLM_LOWERING_MEGATRON;
    plan.strategy.zero = 3;
    plan.strategy.zero_group = plan.strategy.dp;
    check_fails(hlm_state_new(fixture->arena, &plan, 0, fixture->backend, SEED, &made, &err),
                HLM_NO, &err, "this plan can't be run: a lowering set other than hlmplan");
    assert_null(made);
    hlm_state_free(NULL);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, enter, leave)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_params),       CASE(test_promised_bytes),  CASE(test_tied_table),
        CASE(test_bf16),         CASE(test_bf16_is_refused), CASE(test_shards),
        CASE(test_first_values), CASE(test_reset),           CASE(test_addresses),
        CASE(test_slots),        CASE(test_blocks),          CASE(test_memory_that_the_host_lacks),
        CASE(test_refusal)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
