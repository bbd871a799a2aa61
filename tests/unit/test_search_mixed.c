/* The search over several device groups: what it answers; that it is the best is
 * oracle/test_mixed_brute_force.c. */
#include "planner/search.h"
#include "tests/support/mixed_problem.h"

static const struct hlm_plan *search(struct hlm_arena *arena, const struct mixed_problem *mixed)
{
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    check_ok(hlm_search(arena, &mixed->problem, NULL, NULL, &plan, &err), &err);
    return plan;
}

static void both_groups_work_where_both_are_needed(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct mixed_problem mixed;
    const int32_t devices[] = {2, 2};
    mixed_problem_init(arena, &mixed, 2, devices, 8, 8);
    for (int32_t g = 0; g < 2; g++) {
        mixed.groups[g].device.memory_bytes = 450LL << 20;
    }
    const struct hlm_plan *plan = search(arena, &mixed);
    assert_int_equal(hlm_plan_num_groups(plan->stages, plan->num_stages), 2);
    assert_int_equal(plan->num_ranks, hlm_strategy_world_size(&plan->strategy));
    for (int32_t s = 0; s < plan->num_stages; s++) {
        const struct hlm_device_group *group = &mixed.groups[plan->stages[s].device_group];
        assert_true(plan->prediction.memory[s].limit_bytes == group->device.memory_bytes);
        assert_true(plan->prediction.memory[s].peak_bytes <= group->device.memory_bytes);
    }
    hlm_arena_free(arena);
}

/* Two devices and one: what is asked for needs a tp of its own on each. */
static void plans_with_several_tp_are_runnable(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct mixed_problem mixed;
    const int32_t devices[] = {2, 1};
    mixed_problem_init(arena, &mixed, 2, devices, 4, 8);
    mixed.model.tied_embeddings = false;
    mixed.problem.dtype = HLM_DTYPE_FP32;
    mixed.problem.runnable_only = true;
    mixed.problem.require.dp = 1;
    mixed.problem.require.tp = 2;
    mixed.problem.require.pp = 2;
    const struct hlm_plan *plan = search(arena, &mixed);
    assert_int_equal(plan->num_ranks, 3);
    assert_int_equal(plan->stages[0].tp + plan->stages[1].tp, 3);
    assert_null(hlm_lowering_refusal(&plan->model, &plan->strategy));
    hlm_arena_free(arena);
}

/* A group whose devices are a hundred times slower is left out, and the last runner-up says what it
 * would have cost to keep it. */
static void a_slow_group_is_left_out(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct mixed_problem mixed;
    const int32_t devices[] = {2, 2};
    mixed_problem_init(arena, &mixed, 2, devices, 8, 8);
    mixed.groups[1].device.memory.bytes_per_s /= 100.0;
    mixed.problem.top_k = 2;
    mixed.problem.max_gap_frac = 0.01;
    const struct hlm_plan *plan = search(arena, &mixed);
    assert_int_equal(hlm_plan_num_groups(plan->stages, plan->num_stages), 1);
    assert_int_equal(plan->num_ranks, 2);
    assert_int_equal(plan->num_runners_up, 3);
    const struct hlm_plan_runner_up *all = &plan->runners_up[2];
    assert_int_equal(hlm_plan_num_groups(all->stages, all->num_stages), 2);
    assert_true(all->step_time_s > plan->prediction.step_time_s);
    const struct hlm_plan *priced = NULL;
    struct hlm_err err;
    check_ok(hlm_plan_price(arena, &plan->model, &plan->cluster, &all->strategy, all->stages,
                            all->num_stages, &priced, NULL, &err),
             &err);
    check_close(priced->prediction.step_time_s, all->step_time_s, 1e-12);
    /* It is the best of those that use all groups. */
    mixed.problem.all_groups = true;
    mixed.problem.top_k = 0;
    check_close(search(arena, &mixed)->prediction.step_time_s, all->step_time_s, 1e-12);
    hlm_arena_free(arena);
}

/* The price is that of the groups that work. */
static void idle_groups_cost_nothing(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct mixed_problem mixed;
    const int32_t devices[] = {2, 2};
    mixed_problem_init(arena, &mixed, 2, devices, 8, 8);
    mixed.groups[0].price_per_device_hour = 3.0;
    mixed.groups[1].price_per_device_hour = 1e6;
    mixed.groups[1].device.memory.bytes_per_s /= 100.0;
    const struct hlm_plan *plan = search(arena, &mixed);
    check_close(plan->prediction.cost_per_token,
                2 * 3.0 / 3600.0 * plan->prediction.step_time_s / (8.0 * 512.0), 1e-12);
    hlm_arena_free(arena);
}

/* Ranks lag behind one another the more, the more there are: columns over one group and over both
 * have the same operators, but not the same seconds. */
static void lags_are_those_of_the_ranks_that_work(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct mixed_problem mixed;
    const int32_t devices[] = {2, 2};
    mixed_problem_init(arena, &mixed, 2, devices, 8, 8);
    mixed.problem.lowering = HLM_LOWERING_MEGATRON;
    mixed.problem.top_k = 8;
    const struct hlm_plan *plan = search(arena, &mixed);
    bool differ = false;
    for (int32_t i = 0; i < plan->num_runners_up; i++) {
        const struct hlm_plan_runner_up *other = &plan->runners_up[i];
        const struct hlm_plan *priced = NULL;
        struct hlm_err err;
        check_ok(hlm_plan_price(arena, &plan->model, &plan->cluster, &other->strategy,
                                other->stages, other->num_stages, &priced, NULL, &err),
                 &err);
        check_close(priced->prediction.step_time_s, other->step_time_s, 1e-12);
        differ = differ || priced->num_ranks != plan->num_ranks;
    }
    assert_true(differ);
    hlm_arena_free(arena);
}

static void more_nodes_help_where_nothing_fits(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct mixed_problem mixed;
    const int32_t devices[] = {1, 1};
    mixed_problem_init(arena, &mixed, 2, devices, 8, 8);
    for (int32_t g = 0; g < 2; g++) {
        mixed.groups[g].device.memory_bytes = 300LL << 20;
    }
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    check_fails(hlm_search(arena, &mixed.problem, NULL, NULL, &plan, &err), HLM_NO, &err,
                "a plan fits on");
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_groups_work_where_both_are_needed),
        cmocka_unit_test(plans_with_several_tp_are_runnable),
        cmocka_unit_test(a_slow_group_is_left_out),
        cmocka_unit_test(idle_groups_cost_nothing),
        cmocka_unit_test(lags_are_those_of_the_ranks_that_work),
        cmocka_unit_test(more_nodes_help_where_nothing_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
