#include "schedule/order.h"
#include "tests/support/pipeline.h"

static const double ones[6] = {1, 1, 1, 1, 1, 1};
static const struct hlm_sim_costs unit_costs = {
    .forward_s = ones, .backward_s = ones, .input_grad_s = ones, .weight_grad_s = ones};

static void test_limits_are_peaks(void **state)
{
    const struct hlm_schedule *schedule = pipeline_build(*state, HLM_SCHEDULE_1F1B, 3, 4);
    struct hlm_order_problem problem;
    struct hlm_err err = {0};
    check_ok(hlm_order_problem_from(*state, schedule, &unit_costs, NULL, &problem, &err), &err);
    const int64_t counts[3] = {3, 2, 1}, amounts[3] = {5, 1, 7}, peaks[3] = {15, 2, 7};
    assert_memory_equal(problem.limits, counts, sizeof counts);
    assert_int_equal(problem.amounts[2], 1);
    assert_int_equal(problem.num_ranks, 3);
    assert_int_equal(problem.num_stages, 3);
    assert_int_equal(problem.num_microbatches, 4);
    assert_false(problem.splits_backward);
    check_ok(hlm_order_problem_from(*state, schedule, &unit_costs, amounts, &problem, &err), &err);
    assert_memory_equal(problem.limits, peaks, sizeof peaks);
    assert_ptr_equal(problem.amounts, amounts);
    const struct hlm_schedule *halves = pipeline_build(*state, HLM_SCHEDULE_ZB_V, 3, 6);
    check_ok(hlm_order_problem_from(*state, halves, &unit_costs, NULL, &problem, &err), &err);
    assert_true(problem.splits_backward);
    assert_int_equal(problem.limits[1], 6);
}

static void test_refuses(void **state)
{
    const struct hlm_schedule *const schedules[2] = {
        pipeline_build(*state, HLM_SCHEDULE_DUALPIPE_V, 2, 4),
        pipeline_from_csv(*state, "0F0,0B0\n1F0,1I0,1W0\n")};
    for (int i = 0; i < 2; i++) {
        struct hlm_order_problem problem = {.num_ranks = 42};
        struct hlm_err err = {0};
        check_fails(hlm_order_problem_from(*state, schedules[i], &unit_costs, NULL, &problem, &err),
                    HLM_NO, &err, "overlapped pairs");
        assert_int_equal(problem.num_ranks, 42);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_limits_are_peaks),
        pipeline_test(test_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
