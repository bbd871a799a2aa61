/* The verifier on replicas with shares of their own. */
#include "planner/verify.h"
#include "tests/support/mixed_problem.h"

struct searched {
    struct hlm_arena *arena;
    struct mixed_problem mixed;
    struct hlm_plan plan; /* a copy, to be falsified */
    struct hlm_plan_certificate certificate;
};

/* Only replicas on both groups can be asked for: one stage, all groups. */
static void searched_init(struct searched *searched, enum hlm_lowering lowering)
{
    static const int32_t devices[] = {2, 3};
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    searched->arena = hlm_arena_new();
    mixed_problem_init(searched->arena, &searched->mixed, 2, devices, 4, 19);
    searched->mixed.problem.lowering = lowering;
    searched->mixed.problem.require.pp = 1;
    searched->mixed.problem.all_groups = true;
    searched->mixed.problem.max_gap_frac = 0.01;
    check_ok(hlm_search(searched->arena, &searched->mixed.problem, NULL, NULL, &plan, &err), &err);
    assert_int_equal(plan->strategy.num_replicas, 2);
    searched->plan = *plan;
    searched->certificate = *plan->certificate;
    searched->plan.certificate = &searched->certificate;
}

/* Also in a set in which ranks wait for the slowest of all, as many as there are. */
static void a_found_plan_holds(void **state)
{
    (void)state;
    static const enum hlm_lowering lowerings[] = {HLM_LOWERING_HLMPLAN, HLM_LOWERING_MEGATRON};
    for (size_t i = 0; i < sizeof lowerings / sizeof lowerings[0]; i++) {
        struct searched searched;
        struct hlm_verify_report report;
        struct hlm_err err;
        searched_init(&searched, lowerings[i]);
        check_ok(hlm_verify(searched.arena, &searched.plan, &report, &err), &err);
        assert_true(report.num_columns > 0);
        assert_int_equal(report.num_columns, searched.certificate.num_columns);
        assert_int_equal(report.num_columns, report.num_infeasible + report.num_bounded +
                                                 report.num_winner + report.num_unchecked);
        assert_int_equal(report.num_unchecked, 0);
        hlm_arena_free(searched.arena);
    }
}

/* Above what the plan takes. */
static void a_bound_too_high_is_refused(void **state)
{
    (void)state;
    struct searched searched;
    struct hlm_verify_report report = {0};
    struct hlm_err err;
    searched_init(&searched, HLM_LOWERING_HLMPLAN);
    searched.certificate.lower_bound_s = searched.plan.prediction.step_time_s * 1.001;
    check_fails(hlm_verify_bound(searched.arena, &searched.plan, &report, &err), HLM_NO, &err,
                "but a plan simulates to");
    hlm_arena_free(searched.arena);
}

static void counts_are_checked(void **state)
{
    (void)state;
    struct searched searched;
    struct hlm_verify_report report;
    struct hlm_err err;
    searched_init(&searched, HLM_LOWERING_HLMPLAN);
    searched.certificate.num_columns++;
    check_fails(hlm_verify(searched.arena, &searched.plan, &report, &err), HLM_NO, &err,
                "certificate.num_columns");
    hlm_arena_free(searched.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_found_plan_holds),
                                       cmocka_unit_test(a_bound_too_high_is_refused),
                                       cmocka_unit_test(counts_are_checked)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
