#include "planner/search.h"
#include "tests/support/placement.h"
#include "tests/support/small_problem.h"

static const struct hlm_plan *search(struct hlm_arena *arena, const struct small_problem *small)
{
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    check_ok(hlm_search(arena, &small->problem, NULL, NULL, &plan, &err), &err);
    return plan;
}

/* --- every plan of a small problem, tried one by one --- */

struct exhaustive {
    struct hlm_arena *arena;
    const struct small_problem *small;
    struct hlm_pricer pricer;
    struct hlm_plan_stage *stages;
    double best_s;
    int64_t num_plans;
};

static bool stage_costs(const struct exhaustive *all, int32_t stage, struct hlm_stage_cost *cost)
{
    const struct hlm_strategy *strategy = all->pricer.strategy;
    const struct hlm_stage_shape shape =
        hlm_plan_stage_shape(&all->small->model, all->stages, strategy->pp, stage);
    struct hlm_stage_memory memory;
    hlm_stage_cost(&all->pricer, &shape, cost);
    hlm_stage_memory(&all->pricer, &shape, cost,
                     hlm_schedule_in_flight(strategy->schedule, strategy->pp,
                                            (int32_t)strategy->num_microbatches, stage),
                     &memory);
    return memory.peak_bytes <= memory.limit_bytes;
}

static void simulate_plan(struct exhaustive *all)
{
    const struct hlm_strategy *strategy = all->pricer.strategy;
    double forward_s[4], backward_s[4], reduce_s[4], optimizer_s[4], down_s[4] = {0}, up_s[4] = {0};
    bool both[4] = {false};
    for (int32_t s = 0; s < strategy->pp; s++) {
        struct hlm_stage_cost cost;
        (void)stage_costs(all, s, &cost);
        forward_s[s] = cost.forward.seconds;
        backward_s[s] = cost.backward.seconds;
        reduce_s[s] = cost.reduce_s;
        optimizer_s[s] = cost.optimizer_s;
        if (s + 1 < strategy->pp) {
            down_s[s] = up_s[s + 1] = hlm_stage_send_s(&all->pricer, s, &both[s]);
        }
    }
    const struct hlm_sim_costs costs = {.forward_s = forward_s,
                                        .backward_s = backward_s,
                                        .send_forward_s = down_s,
                                        .send_backward_s = up_s,
                                        .needs_both_sides = both,
                                        .reduce_s = reduce_s,
                                        .optimizer_s = optimizer_s,
                                        .sync_s = hlm_stage_sync_s(&all->pricer)};
    all->best_s = fmin(all->best_s, hlm_simulate_step(all->arena, strategy->schedule, strategy->pp,
                                                      (int32_t)strategy->num_microbatches, &costs));
    all->num_plans++;
}

/* All lengths and all recompute counts of this stage and those behind it. */
static void try_stages(struct exhaustive *all, int32_t stage, int32_t first)
{
    const int32_t p = all->pricer.strategy->pp, num_layers = all->small->model.num_layers;
    if (stage == p) {
        simulate_plan(all);
        return;
    }
    const bool middle = stage > 0 && stage < p - 1;
    for (int32_t n = middle ? 1 : 0; first + n <= num_layers; n++) {
        for (int32_t full = 0; full <= n && (stage < p - 1 || first + n == num_layers); full++) {
            for (int32_t selective = 0; full + selective <= n; selective++) {
                all->stages[stage] =
                    (struct hlm_plan_stage){.rank_group = stage,
                                            .first_layer = first,
                                            .num_layers = n,
                                            .tp = all->pricer.strategy->tp,
                                            .recompute = {n - full - selective, selective, full}};
                struct hlm_stage_cost unused;
                if (stage_costs(all, stage, &unused)) {
                    try_stages(all, stage + 1, first + n);
                }
            }
        }
    }
}

static void try_strategy(struct exhaustive *all, struct hlm_strategy strategy)
{
    struct hlm_err unused;
    hlm_strategy_complete(&strategy);
    if (hlm_strategy_check(&strategy, &all->small->model, &unused) == HLM_OK &&
        hlm_pricer_init(all->arena, &all->small->model, &strategy, &all->small->cluster, 0,
                        &all->pricer, &unused) == HLM_OK) {
        try_stages(all, 0, 0);
    }
}

static struct exhaustive try_everything(struct hlm_arena *arena, const struct small_problem *small)
{
    const struct hlm_search_problem *problem = &small->problem;
    struct exhaustive all = {.arena = arena,
                             .small = small,
                             .stages = HLM_ARENA_ARRAY(arena, struct hlm_plan_stage, 4),
                             .best_s = INFINITY};
    const int32_t devices = small->group.devices_per_node;
    for (int32_t code = 0; code < devices * devices * 8; code++) {
        const int32_t tp = code % devices + 1, pp = code / devices % devices + 1;
        const int32_t bits = code / devices / devices;
        for (int64_t size = 1; devices % (tp * pp) == 0 && size <= problem->global_batch_size;
             size++) {
            const int32_t dp = devices / tp / pp;
            if (problem->global_batch_size % (dp * size) == 0) {
                try_strategy(&all, (struct hlm_strategy){
                                       .dp = dp,
                                       .tp = tp,
                                       .pp = pp,
                                       .microbatch_size = size,
                                       .global_batch_size = problem->global_batch_size,
                                       .seq_len = problem->seq_len,
                                       .dtype = problem->dtype,
                                       .lowering = problem->lowering,
                                       .sp = (bits & 1) != 0,
                                       .zero = (bits & 2) / 2,
                                       .schedule = (enum hlm_schedule_kind)((bits & 4) / 4)});
            }
        }
    }
    return all;
}

/* Memory from ample to scarce, so that recompute has to be chosen, on both kinds of links. */
static void gap_0_is_the_best_of_all_plans(void **state)
{
    (void)state;
    static const int64_t mebibytes[] = {16384, 500, 380, 330};
    int64_t num_plans = 0;
    int num_recomputing = 0;
    for (int i = 0; i < 8; i++) {
        struct hlm_arena *arena = hlm_arena_new();
        struct small_problem small;
        small_problem_init(arena, &small, 4 + i % 2, 4, mebibytes[i / 2] << 20, 8);
        if (i % 2 == 1) {
            small_problem_wait_for_both_sides(&small);
        }
        small.problem.max_gap_frac = 0;
        const struct exhaustive all = try_everything(arena, &small);
        num_plans += all.num_plans;
        if (isinf(all.best_s)) {
            const struct hlm_plan *plan = NULL;
            struct hlm_err err;
            check_fails(hlm_search(arena, &small.problem, NULL, NULL, &plan, &err), HLM_NO, &err,
                        "fits");
        } else {
            const struct hlm_plan *plan = search(arena, &small);
            check_close(plan->prediction.step_time_s, all.best_s, 1e-9);
            check_close(plan->certificate->lower_bound_s, all.best_s, 1e-8);
            assert_true(plan->certificate->gap_frac <= 1e-8);
            for (int32_t s = 0; s < plan->num_stages; s++) {
                num_recomputing += plan->stages[s].recompute.none < plan->stages[s].num_layers;
            }
        }
        hlm_arena_free(arena);
    }
    print_message("%lld plans\n", (long long)num_plans);
    assert_true(num_plans > 10000);
    assert_true(num_recomputing > 0);
}

/* --- the certificate --- */

static void certificate_adds_up(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 8, 4, 4LL << 30, 16);
    const struct hlm_plan *plan = search(arena, &small);
    const struct hlm_plan_certificate *certificate = plan->certificate;
    const double step_s = plan->prediction.step_time_s;
    assert_true(certificate->lower_bound_s <= step_s);
    check_near(certificate->gap_frac, 1 - certificate->lower_bound_s / step_s, 1e-12);
    assert_true(certificate->gap_frac <= small.problem.max_gap_frac);
    assert_true(certificate->num_pruned_by_bound + certificate->num_infeasible <
                certificate->num_columns);
    assert_true(certificate->num_ilps >= 2 && certificate->num_simulated >= 1);
    assert_int_equal(certificate->master.status, HLM_PROOF_OPTIMAL);
    assert_true(certificate->master.num_columns >= 1);
    assert_true(certificate->master.objective_s <= step_s * (1 + 1e-6));
    hlm_arena_free(arena);
}

static void runners_up_are_other_columns_in_order(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 8, 4, 4LL << 30, 16);
    small.problem.top_k = 5;
    const struct hlm_plan *plan = search(arena, &small);
    assert_int_equal(plan->num_runners_up, 5);
    double before_s = plan->prediction.step_time_s;
    for (int32_t i = 0; i < plan->num_runners_up; i++) {
        const struct hlm_plan_runner_up *runner = &plan->runners_up[i];
        assert_true(runner->step_time_s >= before_s * (1 - 1e-8));
        before_s = runner->step_time_s;
        const struct hlm_plan *priced = NULL;
        struct hlm_err err;
        check_ok(hlm_plan_price(arena, &small.model, &small.cluster, &runner->strategy,
                                runner->stages, runner->num_stages, &priced, NULL, &err),
                 &err);
        check_close(priced->prediction.step_time_s, runner->step_time_s, 1e-12);
        assert_true(memcmp(&runner->strategy, &plan->strategy, sizeof(plan->strategy)) != 0);
    }
    hlm_arena_free(arena);
}

static void twice_the_same(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 8, 4, 2LL << 30, 16);
    const struct hlm_plan *a = search(arena, &small), *b = search(arena, &small);
    assert_string_equal(a->digests.strategy, b->digests.strategy);
    assert_string_equal(a->digests.stages, b->digests.stages);
    assert_int_equal(a->certificate->num_simulated, b->certificate->num_simulated);
    assert_true(a->certificate->lower_bound_s == b->certificate->lower_bound_s);
    hlm_arena_free(arena);
}

/* Dropping a restriction, or more memory, never makes the best plan slower. */
static void freedom_never_hurts(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 8, 4, 2LL << 30, 16);
    small.problem.max_gap_frac = 0;
    const double free_s = search(arena, &small)->prediction.step_time_s;
    small.problem.require.pp = 4;
    const struct hlm_plan *restricted = search(arena, &small);
    assert_int_equal(restricted->strategy.pp, 4);
    assert_int_equal(restricted->certificate->require.pp, 4);
    assert_true(restricted->prediction.step_time_s >= free_s * (1 - 1e-9));
    small.problem.require.recompute = HLM_RECOMPUTE_FULL;
    const struct hlm_plan *full = search(arena, &small);
    assert_true(full->prediction.step_time_s >= restricted->prediction.step_time_s * (1 - 1e-9));
    for (int32_t s = 0; s < full->num_stages; s++) {
        assert_int_equal(full->stages[s].recompute.full, full->stages[s].num_layers);
    }
    small.problem.require =
        (struct hlm_search_require){.sp = -1, .zero = -1, .schedule = -1, .recompute = -1};
    small.group.device.memory_bytes *= 4;
    assert_true(search(arena, &small)->prediction.step_time_s <= free_s * (1 + 1e-9));
    hlm_arena_free(arena);
}

/* --- nothing fits --- */

static void infeasible_names_stage_and_bytes(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    small_problem_init(arena, &small, 8, 4, 80LL << 20, 16);
    check_fails(hlm_search(arena, &small.problem, NULL, NULL, &plan, &err), HLM_NO, &err,
                "MiB in stage");
    check_fails(hlm_search(arena, &small.problem, NULL, NULL, &plan, &err), HLM_NO, &err,
                "most of it is");
    hlm_arena_free(arena);
}

static void infeasible_names_the_requirement(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    small_problem_init(arena, &small, 8, 4, 600LL << 20, 16);
    assert_true(search(arena, &small)->num_stages > 0);
    small.problem.require.recompute = HLM_RECOMPUTE_NONE;
    small.problem.require.microbatch_size = 16;
    check_fails(hlm_search(arena, &small.problem, NULL, NULL, &plan, &err), HLM_NO, &err,
                "left free");
    hlm_arena_free(arena);
}

static void mixed_clusters_are_refused(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    small_problem_init(arena, &small, 8, 4, 4LL << 30, 16);
    small.cluster.num_groups = 2;
    check_fails(hlm_search(arena, &small.problem, NULL, NULL, &plan, &err), HLM_NO, &err,
                "2 device groups");
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gap_0_is_the_best_of_all_plans),
        cmocka_unit_test(certificate_adds_up),
        cmocka_unit_test(runners_up_are_other_columns_in_order),
        cmocka_unit_test(twice_the_same),
        cmocka_unit_test(freedom_never_hurts),
        cmocka_unit_test(infeasible_names_stage_and_bytes),
        cmocka_unit_test(infeasible_names_the_requirement),
        cmocka_unit_test(mixed_clusters_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
