#include "planner/search.h"
#include "planner/verify.h"
#include "tests/support/small_problem.h"

struct searched {
    struct hlm_arena *arena;
    struct small_problem small;
    struct hlm_plan plan; /* a copy, to be falsified */
    struct hlm_plan_certificate certificate;
};

static void searched_init(struct searched *searched, int64_t memory_bytes, double max_gap_frac)
{
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    searched->arena = hlm_arena_new();
    small_problem_init(searched->arena, &searched->small, 8, 4, memory_bytes, 16);
    searched->small.problem.max_gap_frac = max_gap_frac;
    check_ok(hlm_search(searched->arena, &searched->small.problem, NULL, NULL, &plan, &err), &err);
    searched->plan = *plan;
    searched->certificate = *plan->certificate;
    searched->plan.certificate = &searched->certificate;
}

static void check_refused(struct searched *searched, const char *part)
{
    struct hlm_verify_report report;
    struct hlm_err err;
    check_fails(hlm_verify(searched->arena, &searched->plan, &report, &err), HLM_NO, &err, part);
    hlm_arena_free(searched->arena);
}

static void found_plans_hold(void **state)
{
    (void)state;
    static const double gaps[] = {0.0, 0.01, 0.2};
    for (int i = 0; i < 6; i++) {
        struct searched searched;
        struct hlm_verify_report report;
        struct hlm_err err;
        searched_init(&searched, i < 3 ? 1LL << 30 : 16LL << 30, gaps[i % 3]);
        check_ok(hlm_verify(searched.arena, &searched.plan, &report, &err), &err);
        assert_int_equal(report.num_columns, searched.certificate.num_columns);
        assert_int_equal(report.num_columns,
                         report.num_infeasible + report.num_bounded + report.num_winner);
        check_close(report.step_time_s, searched.plan.prediction.step_time_s, 1e-12);
        hlm_arena_free(searched.arena);
    }
}

static void restricted_searches_hold(void **state)
{
    (void)state;
    struct searched searched;
    const struct hlm_plan *plan = NULL;
    struct hlm_verify_report report;
    struct hlm_err err;
    searched_init(&searched, 4LL << 30, 0.0);
    searched.small.problem.require.pp = 4;
    searched.small.problem.require.recompute = HLM_RECOMPUTE_SELECTIVE;
    check_ok(hlm_search(searched.arena, &searched.small.problem, NULL, NULL, &plan, &err), &err);
    check_ok(hlm_verify(searched.arena, plan, &report, &err), &err);
    assert_true(report.num_columns < searched.certificate.num_columns);
    hlm_arena_free(searched.arena);
}

/* With each offload, and a certificate of plans without it is refused. */
static void searches_with_offload_hold(void **state)
{
    (void)state;
    for (int offload = 1; offload < HLM_NUM_OFFLOADS; offload++) {
        struct searched searched;
        const struct hlm_plan *plan = NULL;
        struct hlm_verify_report report;
        struct hlm_err err;
        searched_init(&searched, 1LL << 30, 0.01);
        searched.small.problem.require.offload = offload;
        check_ok(hlm_search(searched.arena, &searched.small.problem, NULL, NULL, &plan, &err),
                 &err);
        assert_int_equal(plan->strategy.offload, offload);
        check_ok(hlm_verify(searched.arena, plan, &report, &err), &err);
        assert_int_equal(report.num_columns, plan->certificate->num_columns);
        searched.plan = *plan;
        searched.certificate = *plan->certificate;
        searched.certificate.require.offload = HLM_OFFLOAD_NONE; /* faster ones are left out */
        searched.plan.certificate = &searched.certificate;
        check_refused(&searched, "offload = 0 was required");
    }
}

static void a_faster_step_is_noticed(void **state)
{
    (void)state;
    struct searched searched;
    searched_init(&searched, 4LL << 30, 0.01);
    searched.plan.prediction.step_time_s *= 0.999;
    check_refused(&searched, "prediction.step_time_s");
}

/* Numbers of a prediction, each falsified by itself. */
static void other_predictions_are_noticed(void **state)
{
    (void)state;
    static const char *const parts[] = {"prediction.mfu",
                                        "prediction.tokens_per_s",
                                        "prediction.cost_per_token",
                                        "prediction.interval.low_s",
                                        "prediction.interval.high_s",
                                        "prediction.memory[0].limit_bytes",
                                        "prediction.memory[0].stage",
                                        "prediction.memory[0].host_bytes",
                                        "prediction.memory[0].optimizer_bytes",
                                        "runners_up[0].within_uncertainty"};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        struct searched searched;
        searched_init(&searched, 4LL << 30, 0.01);
        struct hlm_plan_prediction *prediction = &searched.plan.prediction;
        struct hlm_stage_memory memory[16];
        assert_in_range(prediction->num_memory, 1, 16);
        memcpy(memory, prediction->memory, (size_t)prediction->num_memory * sizeof(*memory));
        prediction->memory = memory;
        struct hlm_plan_runner_up runner = searched.plan.runners_up[0];
        searched.plan.runners_up = &runner;
        searched.plan.num_runners_up = 1;
        prediction->mfu *= i == 0 ? 1.01 : 1.0;
        prediction->tokens_per_s *= i == 1 ? 1.01 : 1.0;
        prediction->cost_per_token += i == 2 ? 1e-6 : 0.0;
        prediction->interval.low_s *= i == 3 ? 0.99 : 1.0;
        prediction->interval.high_s *= i == 4 ? 1.01 : 1.0;
        memory[0].limit_bytes += i == 5 ? 1 : 0;
        memory[0].stage += i == 6 ? 1 : 0;
        memory[0].host_bytes += i == 7 ? 1 : 0;
        memory[0].bytes[HLM_MEMORY_OPTIMIZER] += i == 8 ? 1 : 0;
        runner.within_uncertainty ^= i == 9;
        check_refused(&searched, parts[i]);
    }
}

/* It is placed on a group that does not exist; and a plan that is not as was required. */
static void what_cannot_be_is_noticed(void **state)
{
    (void)state;
    struct searched searched;
    searched_init(&searched, 4LL << 30, 0.01);
    struct hlm_plan_runner_up runner = searched.plan.runners_up[0];
    struct hlm_plan_stage *stages = hlm_arena_memdup(searched.arena, runner.stages,
                                                     (size_t)runner.num_stages * sizeof(*stages));
    struct hlm_verify_report report;
    struct hlm_err err;
    stages[0].device_group = 1;
    runner.stages = stages;
    searched.plan.runners_up = &runner;
    searched.plan.num_runners_up = 1;
    check_fails(hlm_verify(searched.arena, &searched.plan, &report, &err), HLM_INPUT, &err,
                "$.runners_up[0]: $.stages[0].device_group");
    searched.plan.num_runners_up = 0;
    searched.certificate.require.zero = searched.plan.strategy.zero == 3 ? 2 : 3;
    check_refused(&searched, "was required");
}

/* A bound that is too high: some column beats it. */
static void a_bound_too_high_is_noticed(void **state)
{
    (void)state;
    struct searched searched;
    searched_init(&searched, 4LL << 30, 0.0);
    /* The runner-up as the winner, with a certificate that says that it is optimal. */
    const struct hlm_plan_runner_up *runner = &searched.plan.runners_up[0];
    const struct hlm_plan *priced = NULL;
    struct hlm_err err;
    check_ok(hlm_plan_price(searched.arena, &searched.small.model, &searched.small.cluster,
                            &runner->strategy, runner->stages, runner->num_stages, &priced, NULL,
                            &err),
             &err);
    assert_true(runner->step_time_s > searched.plan.prediction.step_time_s * 1.001);
    searched.plan = *priced;
    searched.certificate.lower_bound_s = priced->prediction.step_time_s;
    searched.certificate.gap_frac = 0;
    searched.certificate.master.status = HLM_PROOF_UNKNOWN;
    searched.plan.certificate = &searched.certificate;
    check_refused(&searched, "the certificate says that nothing is below");
}

static void counts_are_checked(void **state)
{
    (void)state;
    struct searched searched;
    searched_init(&searched, 4LL << 30, 0.01);
    searched.certificate.num_columns += 1;
    check_refused(&searched, "certificate.num_columns");
    searched_init(&searched, 4LL << 30, 0.01);
    searched.certificate.gap_frac += 0.001;
    check_refused(&searched, "certificate.gap_frac");
    searched_init(&searched, 4LL << 30, 0.01);
    searched.certificate.master.objective_s *= 1.1;
    check_refused(&searched, "certificate.master.objective_s");
}

static void a_runner_up_that_wins_is_noticed(void **state)
{
    (void)state;
    struct searched searched;
    searched_init(&searched, 4LL << 30, 0.01);
    struct hlm_plan_runner_up runner = searched.plan.runners_up[0];
    runner.step_time_s *= 1.01;
    searched.plan.runners_up = &runner;
    searched.plan.num_runners_up = 1;
    check_refused(&searched, "runners_up");
}

static void a_priced_plan_has_nothing_to_verify(void **state)
{
    (void)state;
    struct searched searched;
    searched_init(&searched, 4LL << 30, 0.01);
    searched.plan.certificate = NULL;
    check_refused(&searched, "no certificate");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(found_plans_hold),
        cmocka_unit_test(restricted_searches_hold),
        cmocka_unit_test(searches_with_offload_hold),
        cmocka_unit_test(a_faster_step_is_noticed),
        cmocka_unit_test(other_predictions_are_noticed),
        cmocka_unit_test(what_cannot_be_is_noticed),
        cmocka_unit_test(a_bound_too_high_is_noticed),
        cmocka_unit_test(counts_are_checked),
        cmocka_unit_test(a_runner_up_that_wins_is_noticed),
        cmocka_unit_test(a_priced_plan_has_nothing_to_verify),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
