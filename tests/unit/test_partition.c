/* ilp, partition_glpk and partition_dp on cases with known answers; agreement at random is in
 * oracle/test_partition_brute_force.c. */
#include "planner/partition_dp.h"
#include "planner/partition_glpk.h"
#include "tests/support/check.h"
#include "tests/support/placement.h"

/* A knapsack: max 10 a + 13 b + 7 c with 3 a + 4 b + 2 c <= 6 takes b and c. */
static void solver_finds_the_optimum(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new(), *scratch = hlm_arena_new();
    struct hlm_ilp ilp;
    hlm_ilp_init(&ilp, arena);
    const double gains[] = {10, 13, 7}, weights[] = {-3, -4, -2};
    const int32_t row = hlm_ilp_add_row(&ilp, -6, (double)INFINITY);
    for (int i = 0; i < 3; i++) {
        hlm_ilp_add_entry(&ilp, row, hlm_ilp_add_column(&ilp, -gains[i], true), weights[i]);
    }
    double values[3];
    const struct hlm_ilp_result result = hlm_ilp_solve(scratch, &ilp, 0, values);
    assert_int_equal(result.outcome, HLM_ILP_PROVED);
    check_close(result.objective, -20, 1e-9);
    assert_true(values[0] < 0.5 && values[1] > 0.5 && values[2] > 0.5);
    hlm_arena_free(scratch);
    hlm_arena_free(arena);
}

static void solver_proves_that_there_is_none(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new(), *scratch = hlm_arena_new();
    struct hlm_ilp ilp;
    hlm_ilp_init(&ilp, arena);
    const int32_t row = hlm_ilp_add_row(&ilp, 2, (double)INFINITY);
    hlm_ilp_add_entry(&ilp, row, hlm_ilp_add_column(&ilp, 1, true), 1);
    double value = 0;
    assert_int_equal(hlm_ilp_solve(scratch, &ilp, 0, &value).outcome, HLM_ILP_NO_BETTER);
    hlm_arena_free(scratch);
    hlm_arena_free(arena);
}

/* GLPK aborts the process on a duplicate entry; here that is an answer, and the next solve works.
 */
static void solver_survives_an_error(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new(), *scratch = hlm_arena_new();
    struct hlm_ilp ilp;
    hlm_ilp_init(&ilp, arena);
    const int32_t row = hlm_ilp_add_row(&ilp, 1, (double)INFINITY);
    const int32_t column = hlm_ilp_add_column(&ilp, 1, true);
    hlm_ilp_add_entry(&ilp, row, column, 1);
    hlm_ilp_add_entry(&ilp, row, column, 1);
    double value = 0;
    assert_int_equal(hlm_ilp_solve(scratch, &ilp, 0, &value).outcome, HLM_ILP_UNKNOWN);
    ilp.num_entries = 1;
    assert_int_equal(hlm_ilp_solve(scratch, &ilp, 0, &value).outcome, HLM_ILP_PROVED);
    assert_true(value > 0.5);
    hlm_arena_free(scratch);
    hlm_arena_free(arena);
}

/* Ten layers of 3 s on three stages, the last with a head as long as two layers: 4, 4, 2. */
static void hold_nothing(const void *context, int32_t stage,
                         const int32_t counts[HLM_NUM_LAYER_KINDS], struct hlm_stage_holding *out)
{
    (void)context;
    (void)stage;
    (void)counts;
    *out = (struct hlm_stage_holding){0};
}

static const uint8_t kinds[10];
static const double transfers[3];

static struct hlm_placement three_stages(struct hlm_stage_prices stages[3])
{
    for (int s = 0; s < 3; s++) {
        stages[s] = (struct hlm_stage_prices){.forward_s = {1, 1},
                                              .backward_s = {{2, 2, 2}, {2, 2, 2}},
                                              .base_forward_s = s == 2 ? 2 : 0,
                                              .base_backward_s = s == 2 ? 4 : 0,
                                              .in_flight = 3 - s,
                                              .may_be_empty = s != 1};
    }
    return (struct hlm_placement){.schedule = HLM_SCHEDULE_1F1B,
                                  .num_stages = 3,
                                  .num_layers = 10,
                                  .num_microbatches = 30,
                                  .layer_kinds = kinds,
                                  .stages = stages,
                                  .transfer_s = transfers,
                                  .modes = {true, true, true},
                                  .hold = hold_nothing};
}

static void head_takes_layers_from_the_last_stage(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new(), *scratch = hlm_arena_new();
    struct hlm_stage_prices stages[3];
    const struct hlm_placement placement = three_stages(stages);
    struct hlm_pattern_set *set = hlm_pattern_set_new(arena, &placement);
    struct hlm_bound_windows windows;
    assert_true(hlm_bound_narrow(arena, set, (double)INFINITY, &windows));
    int32_t ends[2][3];
    struct hlm_partition by_dp = {.ends = ends[0]}, by_ilp = {.ends = ends[1]};
    double least_s = 0;
    int32_t num_nodes = 0;
    assert_true(hlm_partition_dp(scratch, set, &windows, &by_dp));
    assert_int_equal(hlm_partition_glpk(scratch, set, &windows, hlm_bound_closed_form(&placement),
                                        0, &by_ilp, &least_s, &num_nodes),
                     HLM_ILP_PROVED);
    check_close(by_dp.bound_s, 36 + 29 * 12, 1e-12);
    check_close(by_ilp.bound_s, by_dp.bound_s, 1e-9);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ends[i][0], 4);
        assert_int_equal(ends[i][1], 8);
    }
    hlm_arena_free(scratch);
    hlm_arena_free(arena);
}

static void node_limit_is_not_an_answer(void **state)
{
    (void)state;
    struct hlm_rng rng = {.key = placement_seed(12)};
    int num_limited = 0;
    for (int i = 0; i < 100; i++) {
        struct hlm_arena *arena = hlm_arena_new(), *scratch = hlm_arena_new();
        const struct random_shape shape = {.max_stages = 8,
                                           .max_layers = 20,
                                           .max_microbatches = 40,
                                           .max_transfer = 0.3,
                                           .unequal = true};
        const struct hlm_placement *placement = random_placement(arena, &rng, &shape);
        struct hlm_pattern_set *set = hlm_pattern_set_new(arena, placement);
        struct hlm_bound_windows windows;
        int32_t ends[8], exact_ends[8];
        struct hlm_partition limited = {.ends = ends}, exact = {.ends = exact_ends};
        assert_true(hlm_bound_narrow(arena, set, (double)INFINITY, &windows));
        assert_true(hlm_partition_dp(scratch, set, &windows, &exact));
        double least_s = 0;
        int32_t num_nodes = 0;
        const enum hlm_ilp_outcome outcome =
            hlm_partition_glpk(scratch, set, &windows, hlm_bound_closed_form(placement), 1,
                               &limited, &least_s, &num_nodes);
        assert_true(least_s <= exact.bound_s);
        if (outcome == HLM_ILP_PROVED) {
            check_close(limited.bound_s, exact.bound_s, 1e-6);
        } else {
            assert_true(num_nodes > 1);
            num_limited++;
            assert_true(outcome == HLM_ILP_INCUMBENT || outcome == HLM_ILP_UNKNOWN);
        }
        hlm_arena_free(scratch);
        hlm_arena_free(arena);
    }
    assert_true(num_limited > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(solver_finds_the_optimum),
        cmocka_unit_test(solver_proves_that_there_is_none),
        cmocka_unit_test(solver_survives_an_error),
        cmocka_unit_test(head_takes_layers_from_the_last_stage),
        cmocka_unit_test(node_limit_is_not_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
