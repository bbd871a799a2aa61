/* Over several device groups: the search finds the best of all plans, each tried one by one. */
#include "planner/verify.h"
#include "tests/support/mixed_problem.h"
#include "tests/support/placement.h"
#include "tests/support/share.h"

struct tally {
    int64_t num_plans;
    int32_t num_fit, num_mixed, num_idle, num_recomputing, num_shares, num_unchecked;
};

static int32_t groups_used(const struct hlm_plan *plan)
{
    int32_t num = 0;
    for (int32_t g = 0; g < plan->cluster.num_groups; g++) {
        bool used = false;
        for (int32_t s = 0; s < plan->num_stages; s++) {
            used = used || plan->stages[s].device_group == g;
        }
        for (int32_t i = 0; i < plan->strategy.num_replicas; i++) {
            used = used || plan->strategy.replicas[i].device_group == g;
        }
        num += used ? 1 : 0;
    }
    return num;
}

static void add(struct tally *tally, const struct hlm_plan *plan)
{
    const int32_t used = groups_used(plan);
    tally->num_fit++;
    tally->num_shares += plan->strategy.num_replicas > 0 ? 1 : 0;
    tally->num_mixed += used > 1 ? 1 : 0;
    tally->num_idle += used < plan->cluster.num_groups ? 1 : 0;
    for (int32_t s = 0; s < plan->num_stages; s++) {
        if (plan->stages[s].recompute.none < plan->stages[s].num_layers) {
            tally->num_recomputing++;
            return;
        }
    }
}

static void check_problem(struct hlm_arena *arena, const struct mixed_problem *mixed,
                          struct tally *tally)
{
    const struct mixed_exhaustive all = mixed_try_everything(arena, mixed);
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    tally->num_plans += all.num_plans;
    if (isinf(all.best_s)) {
        assert_int_equal(hlm_search(arena, &mixed->problem, NULL, NULL, &plan, &err), HLM_NO);
        return;
    }
    check_ok(hlm_search(arena, &mixed->problem, NULL, NULL, &plan, &err), &err);
    check_close(plan->prediction.step_time_s, all.best_s, 1e-9);
    check_close(plan->certificate->lower_bound_s, all.best_s, 1e-8);
    assert_int_equal(plan->certificate->num_columns, all.num_columns);
    const struct hlm_plan *again = NULL;
    check_ok(hlm_plan_price(arena, &plan->model, &plan->cluster, &plan->strategy, plan->stages,
                            plan->num_stages, &again, NULL, &err),
             &err);
    check_close(again->prediction.step_time_s, plan->prediction.step_time_s, 1e-15);
    struct hlm_verify_report report;
    check_ok(hlm_verify(arena, plan, &report, &err), &err);
    tally->num_unchecked += report.num_unchecked > 0 ? 1 : 0;
    add(tally, plan);
}

static void gap_0_is_the_best_of_all_plans(void **state)
{
    (void)state;
    enum { NUM_PROBLEMS = 200 };
    struct hlm_rng rng = {placement_seed(20), 0};
    struct tally tally = {0};
    for (int i = 0; i < share_of(NUM_PROBLEMS); i++) {
        struct hlm_arena *arena = hlm_arena_new();
        struct mixed_problem mixed;
        mixed_problem_random(arena, &rng, &mixed);
        check_problem(arena, &mixed, &tally);
        hlm_arena_free(arena);
    }
    print_message("%lld plans; %d problems with a plan, %d over several groups, %d with an idle "
                  "one, %d with recompute, %d with shares, %d not checked in full\n",
                  (long long)tally.num_plans, tally.num_fit, tally.num_mixed, tally.num_idle,
                  tally.num_recomputing, tally.num_shares, tally.num_unchecked);
    assert_true(tally.num_fit >= share_of(50));
    assert_true((tally.num_mixed >= 5 && tally.num_idle >= 5 && tally.num_recomputing >= 5 &&
                 tally.num_shares >= 5) ||
                !share_is_whole());
}

/* More often the best: more replicas, and what only they can do. */
static void shares_are_the_best_of_all_plans(void **state)
{
    (void)state;
    enum { NUM_PROBLEMS = 24 };
    struct hlm_rng rng = {placement_seed(24), 0};
    struct tally tally = {0};
    for (int i = 0; i < share_of(NUM_PROBLEMS); i++) {
        struct hlm_arena *arena = hlm_arena_new();
        struct mixed_problem mixed;
        mixed_problem_random(arena, &rng, &mixed);
        struct hlm_search_require *require = &mixed.problem.require;
        require->schedule = i % 3 == 0 ? HLM_SCHEDULE_GPIPE : HLM_SCHEDULE_1F1B;
        require->zero = (int32_t)hlm_rng_next_int(&rng, 0, 1);
        require->microbatch_size = 1;
        require->pp = i % 3 == 0 ? 2 : 1;
        mixed.problem.all_groups = i % 2 == 0;
        mixed.problem.global_batch_size = hlm_rng_next_int(&rng, 5, 11);
        for (int32_t g = 0; g < mixed.cluster.num_groups; g++) {
            mixed.groups[g].devices_per_node = require->pp * (int32_t)hlm_rng_next_int(&rng, 1, 2);
            mixed.groups[g].nvlink_domain = mixed.groups[g].devices_per_node;
        }
        check_problem(arena, &mixed, &tally);
        hlm_arena_free(arena);
    }
    print_message("%lld plans; %d problems with a plan, %d with shares, %d with recompute, %d not "
                  "checked in full\n",
                  (long long)tally.num_plans, tally.num_fit, tally.num_shares,
                  tally.num_recomputing, tally.num_unchecked);
    assert_true(tally.num_unchecked == 0);
    assert_true(tally.num_shares >= 6 || !share_is_whole());
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gap_0_is_the_best_of_all_plans),
                                       cmocka_unit_test(shares_are_the_best_of_all_plans)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
