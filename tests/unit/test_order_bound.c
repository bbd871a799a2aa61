/* Bounds worked out by hand: F = 1, B = 2 or I = W = 1. */
#include "schedule/order.h"
#include "tests/support/pipeline.h"

static struct hlm_order_problem problem_of(struct hlm_arena *arena, enum hlm_schedule_kind kind,
                                           int32_t p, int32_t m, double c)
{
    const struct hlm_schedule *schedule = pipeline_build(arena, kind, p, m);
    struct hlm_sim_costs *costs = HLM_ARENA_NEW(arena, struct hlm_sim_costs);
    *costs = pipeline_costs(arena, schedule->num_stages, 1, 2, c);
    costs->input_grad_s = costs->weight_grad_s = costs->forward_s;
    struct hlm_order_problem problem;
    struct hlm_err err = {0};
    check_ok(hlm_order_problem_from(arena, schedule, costs, NULL, &problem, &err), &err);
    return problem;
}

static double bound(struct hlm_arena *arena, enum hlm_schedule_kind kind, int32_t p, int32_t m,
                    double c)
{
    const struct hlm_order_problem problem = problem_of(arena, kind, p, m, c);
    return hlm_order_bound(&problem);
}

/* One microbatch: everything in a row, then the last weight gradient. */
static void test_one_microbatch(void **state)
{
    assert_true(bound(*state, HLM_SCHEDULE_1F1B, 4, 1, 0) == 12);
    assert_true(bound(*state, HLM_SCHEDULE_1F1B, 4, 1, 0.5) == 15);
    assert_true(bound(*state, HLM_SCHEDULE_ZB_H1, 4, 1, 0.5) == 12);
    assert_true(bound(*state, HLM_SCHEDULE_1F1B, 1, 1, 7) == 3);
    assert_true(bound(*state, HLM_SCHEDULE_ZB_V, 2, 1, 0.5) == 11);
}

/* P = 2, M = 4. 1F1B: rank 0 may hold 2, its first backward starts at 1 + 1 + 2 = 4, two forwards
 * before it: idle 2; its last backward waits for the last forward to turn: behind it 1 + 2 + 2 at
 * least, of which the two held backwards, 4, fill all but 1. So 12 + 2 + 1. Halves: the same with
 * I = 1: first I at 3, idle 1. */
static void test_two_ranks(void **state)
{
    assert_true(bound(*state, HLM_SCHEDULE_1F1B, 2, 4, 0) == 15);
    assert_true(bound(*state, HLM_SCHEDULE_ZB_H1, 2, 4, 0) == 13);
}

/* Without room there is no pipeline: each microbatch is held until its gradient is there, 3 P, and
 * the next waits. */
static void test_room_for_one(void **state)
{
    struct hlm_order_problem problem = problem_of(*state, HLM_SCHEDULE_1F1B, 4, 6, 0.25);
    const int64_t limits[4] = {1, 1, 1, 1};
    problem.limits = limits;
    assert_true(hlm_order_bound(&problem) == 6 * (12 + 2 * 3 * 0.25));
    const int64_t more[4] = {2, 2, 2, 1};
    problem.limits = more;
    const double bound_s = hlm_order_bound(&problem);
    assert_true(bound_s >= 3 * (12 + 2 * 3 * 0.25));
    assert_true(bound_s < 6 * (12 + 2 * 3 * 0.25));
}

/* With room for everything 1F1B's bubble is left: nothing can run before the first forward arrives,
 * or behind the last gradient. */
static void test_ample_room(void **state)
{
    for (int32_t p = 1; p <= 6; p++) {
        for (int32_t m = 1; m <= 12; m++) {
            assert_true(bound(*state, HLM_SCHEDULE_GPIPE, p, m, 0.125) ==
                        3 * (m + p - 1) + 2 * (p - 1) * 0.125);
        }
    }
}

/* Amounts and limits in bytes: what fits counts, not the unit. */
static void test_units(void **state)
{
    struct hlm_order_problem problem = problem_of(*state, HLM_SCHEDULE_V_HALF, 4, 8, 0.25);
    const double expected = hlm_order_bound(&problem);
    int64_t amounts[8], limits[4];
    for (int i = 0; i < 8; i++) {
        amounts[i] = 1000;
        limits[i % 4] = 1000 * problem.limits[i % 4];
    }
    problem.amounts = amounts;
    problem.limits = limits;
    assert_true(hlm_order_bound(&problem) == expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_one_microbatch), pipeline_test(test_two_ranks),
        pipeline_test(test_room_for_one),   pipeline_test(test_ample_room),
        pipeline_test(test_units),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
