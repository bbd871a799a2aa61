#include "exec/state.h"

#include "base/rng.h"
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
};
enum { NUM_LAYOUTS = sizeof(layouts) / sizeof(layouts[0]) };

/* Calls visit for every rank of every layout. */
static void for_all(struct fixture *fixture, void (*visit)(const struct hlm_state *))
{
    for (int i = 0; i < NUM_LAYOUTS; i++) {
        const struct hlm_plan *plan = make_plan(fixture, layouts[i]);
        for (int32_t rank = 0; rank < plan->num_ranks; rank++) {
            struct hlm_state *made = make_state(fixture, plan, rank);
            visit(made);
            hlm_state_free(made);
        }
    }
}

/* Parameters lie one behind the other, those with sums over tp first, and fill the slab. */
static void check_params(const struct hlm_state *made)
{
    int64_t next = 0;
    for (int32_t i = 0; i < made->num_params; i++) {
        const struct hlm_state_param *param = &made->params[i];
        assert_int_equal(param->offset, next);
        assert_int_equal(param->num_elements, param->param->rows * param->param->cols);
        assert_int_equal(param->param->sum_over_tp, param->offset < made->num_sum_over_tp);
        next += param->num_elements;
    }
    assert_int_equal(next, made->num_elements);
    assert_true(made->num_padded >= next &&
                made->num_padded < next + made->plan->strategy.zero_group);
}

static void test_params(void **state)
{
    for_all(*state, check_params);
}

/* What was allocated is what the plan promised of this stage, to the byte. */
static void check_bytes(const struct hlm_state *made)
{
    const struct hlm_stage_memory *memory = &made->plan->prediction.memory[made->stage];
    assert_int_equal(made->allocated_bytes, memory->peak_bytes - memory->bytes[HLM_MEMORY_FIXED]);
}

static void test_bytes(void **state)
{
    for_all(*state, check_bytes);
}

/* With ZeRO the ranges of the dp ranks are the slab, cut into equal parts. */
static void test_shards(void **state)
{
    struct fixture *fixture = *state;
    const struct hlm_plan *plan = make_plan(fixture, (struct golden_layout){.dp = 4, .zero = 1});
    int64_t next = 0;
    for (int32_t rank = 0; rank < 4; rank++) {
        struct hlm_state *made = make_state(fixture, plan, rank);
        assert_int_equal(made->own_first, next);
        assert_int_equal(made->own_count * 4, made->num_padded);
        next += made->own_count;
        hlm_state_free(made);
    }
    plan = make_plan(fixture, (struct golden_layout){.dp = 4});
    struct hlm_state *made = make_state(fixture, plan, 3);
    assert_int_equal(made->own_first, 0);
    assert_int_equal(made->own_count, made->num_elements);
    hlm_state_free(made);
}

/* Element (row, col) of the global parameter has one first value, whoever holds it. */
static void check_first_values(const struct hlm_state *made)
{
    for (int32_t i = 0; i < made->num_params; i++) {
        const struct hlm_state_param *placed = &made->params[i];
        const struct hlm_param *param = placed->param;
        const uint64_t key = hlm_hash(HLM_HASH_START, placed->name, strlen(placed->name)) ^ SEED;
        const float *value = made->params_slab + placed->offset;
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
    for (int64_t i = 0; i < made->own_count; i++) {
        assert_true(made->exp_avg[i] == 0.0F && made->exp_avg_sq[i] == 0.0F);
    }
    for (int64_t i = 0; i < made->num_padded; i++) {
        assert_true(made->grads_slab[i] == 0.0F);
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
    for (int64_t i = 0; i < made->num_padded; i++) {
        made->params_slab[i] = made->grads_slab[i] = 3.0F;
    }
    for (int64_t i = 0; i < made->own_count; i++) {
        made->exp_avg[i] = made->exp_avg_sq[i] = 3.0F;
    }
    check_ok(hlm_state_reset(made, SEED, &err), &err);
    check_first_values(made);
    hlm_state_free(made);
}

/* Where a block keeps its output its follower has its input; parameters and gradients are those of
 * the slabs; each microbatch slot is apart. */
static void check_addresses(const struct hlm_state *made)
{
    for (int32_t slot = 0; slot < made->num_slots; slot++) {
        const struct hlm_state_binding binding = {.slot = slot};
        const char *begin = hlm_state_slot(made, slot);
        assert_ptr_equal(begin, made->slots + slot * made->slot_bytes);
        for (int32_t b = 0; b < made->num_blocks; b++) {
            const struct hlm_block *block = made->blocks[b].block;
            if (b + 1 < made->num_blocks) {
                assert_ptr_equal(
                    hlm_state_address(made, b, block->output, &binding),
                    hlm_state_address(made, b + 1, made->blocks[b + 1].block->input, &binding));
            }
            for (int32_t p = 0; p < block->num_params; p++) {
                const int64_t offset = made->blocks[b].param_offset[p];
                assert_ptr_equal(hlm_state_address(made, b, block->params[p].param, &binding),
                                 made->params_slab + offset);
                assert_ptr_equal(hlm_state_address(made, b, block->params[p].grad, &binding),
                                 made->grads_slab + offset);
            }
            for (int32_t t = 0; t < block->num_tensors; t++) {
                if (made->blocks[b].memory->place[t] != HLM_PLACE_STASH) {
                    continue;
                }
                const char *at = hlm_state_address(made, b, t, &binding);
                assert_true(at >= begin);
                assert_true(at + (int64_t)hlm_tensor_bytes(&block->tensors[t]) <=
                            begin + made->slot_bytes);
            }
        }
    }
}

static void test_addresses(void **state)
{
    for_all(*state, check_addresses);
}

/* No two stashed tensors of one slot share a byte. */
static void check_stash(const struct hlm_state *made)
{
    struct hlm_arena *arena = hlm_arena_new();
    unsigned char *taken = HLM_ARENA_ARRAY(arena, unsigned char, made->slot_bytes);
    const struct hlm_state_binding binding = {.slot = 0};
    for (int32_t b = 0; b < made->num_blocks; b++) {
        const struct hlm_block *block = made->blocks[b].block;
        for (int32_t t = 0; t < block->num_tensors; t++) {
            if (made->blocks[b].memory->place[t] != HLM_PLACE_STASH) {
                continue;
            }
            const char *at = hlm_state_address(made, b, t, &binding);
            unsigned char *mark = taken + (at - hlm_state_slot(made, 0));
            for (int64_t i = 0; i < (int64_t)hlm_tensor_bytes(&block->tensors[t]); i++) {
                assert_int_equal(mark[i], 0);
                mark[i] = 1;
            }
        }
    }
    hlm_arena_free(arena);
}

static void test_stash(void **state)
{
    for_all(*state, check_stash);
}

/* The blocks of a stage: its layers, the embedding on the first, the head on the last. */
static void test_blocks(void **state)
{
    struct fixture *fixture = *state;
    const struct hlm_plan *plan = make_plan(fixture, layouts[3]);
    int32_t next = 0;
    for (int32_t rank = 0; rank < 2; rank++) {
        struct hlm_state *made = make_state(fixture, plan, rank);
        const struct hlm_block *first = made->blocks[0].block;
        const struct hlm_block *last = made->blocks[made->num_blocks - 1].block;
        assert_int_equal(first->kind == HLM_BLOCK_EMBEDDING, rank == 0);
        assert_int_equal(last->kind == HLM_BLOCK_HEAD, rank == 1);
        for (int32_t b = 0; b < made->num_blocks; b++) {
            if (made->blocks[b].layer >= 0) {
                assert_int_equal(made->blocks[b].layer, next++);
            }
        }
        assert_int_equal(made->num_slots,
                         hlm_schedule_in_flight(HLM_SCHEDULE_1F1B, 2,
                                                (int32_t)plan->strategy.num_microbatches, rank));
        hlm_state_free(made);
    }
    assert_int_equal(next, plan->model.num_layers);
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
    float *values = HLM_ARENA_ARRAY(fixture->arena, float, made->num_padded);
    check_ok(late->ops->download(made->queue, values, made->params_slab,
                                 made->num_padded * (int64_t)sizeof(float), &err),
             &err);
    check_ok(late->ops->queue_sync(made->queue, &err), &err);
    assert_memory_equal(values, near->params_slab, (size_t)made->num_elements * sizeof(float));
    hlm_state_free(near);
    hlm_state_free(made);
    hlm_backend_free(late);
}

static void test_refusal(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    struct hlm_state *made = NULL;
    struct hlm_plan plan = *make_plan(fixture, layouts[0]);
    plan.model.moe = (struct hlm_model_moe){.num_experts = 4, .top_k = 1, .layer_period = 1};
    check_fails(hlm_state_new(fixture->arena, &plan, 0, fixture->backend, SEED, &made, &err),
                HLM_NO, &err, "this plan can't be run: mixture of experts");
    assert_null(made);
    hlm_state_free(NULL);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, enter, leave)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_params),       CASE(test_bytes),  CASE(test_shards),
        CASE(test_first_values), CASE(test_reset),  CASE(test_addresses),
        CASE(test_stash),        CASE(test_blocks), CASE(test_memory_that_the_host_lacks),
        CASE(test_refusal)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
