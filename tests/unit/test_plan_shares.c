/* Replicas with shares of their own: what is legal, where ranks stand, what a step takes. The rules
 * are strategy_check.c's, the places layout.c's, the prices plan_price.c's. */
#include "tests/support/mixed_problem.h"

struct scene {
    struct hlm_arena *arena;
    struct mixed_problem mixed;
    struct hlm_replicas replicas[3];
    struct hlm_strategy strategy;
    struct hlm_plan_stage stages[4];
};

/* 2 replicas on 4 devices of the first group, 1 on the 2 of the second, of 2 stages. */
static void scene_init(struct scene *scene)
{
    static const int32_t devices[] = {4, 2};
    scene->arena = hlm_arena_new();
    mixed_problem_init(scene->arena, &scene->mixed, 2, devices, 4, 17);
    scene->replicas[0] = (struct hlm_replicas){.device_group = 0, .dp = 2, .num_microbatches = 6};
    scene->replicas[1] = (struct hlm_replicas){.device_group = 1, .dp = 1, .num_microbatches = 5};
    scene->strategy = (struct hlm_strategy){.dp = 3,
                                            .tp = 1,
                                            .pp = 2,
                                            .schedule = HLM_SCHEDULE_1F1B,
                                            .microbatch_size = 1,
                                            .global_batch_size = 17,
                                            .seq_len = 512,
                                            .dtype = HLM_DTYPE_FP16,
                                            .replicas = scene->replicas,
                                            .num_replicas = 2};
    hlm_strategy_complete(&scene->strategy);
    for (int32_t s = 0; s < 4; s++) {
        scene->stages[s] = (struct hlm_plan_stage){.rank_group = s,
                                                   .first_layer = 2 * s,
                                                   .num_layers = 2,
                                                   .tp = 1,
                                                   .recompute = {.none = 2}};
    }
}

static void check_refused(struct scene *scene, const char *message)
{
    struct hlm_err err;
    check_fails(hlm_strategy_check(&scene->strategy, &scene->mixed.model, &err), HLM_NO, &err,
                message);
    hlm_arena_free(scene->arena);
    scene_init(scene);
}

static void names_the_rule_that_fails(void **state)
{
    (void)state;
    struct scene scene;
    struct hlm_err err;
    scene_init(&scene);
    assert_int_equal(scene.strategy.num_microbatches, 6);
    check_ok(hlm_strategy_check(&scene.strategy, &scene.mixed.model, &err), &err);
    scene.replicas[1].num_microbatches = 4;
    check_refused(&scene, "of all replicas sum to 16, global_batch_size is 17");
    scene.replicas[0].dp = 3;
    check_refused(&scene, "the dp of replicas sum to 4, dp is 3");
    scene.strategy.num_microbatches = 5;
    check_refused(&scene, "the most microbatches of any replica are 6, not 5");
    scene.replicas[1].device_group = 0;
    check_refused(&scene, "replicas[0] and [1] are both of device group 0");
    scene.replicas[1].num_microbatches = 0;
    check_refused(&scene, "replicas[1] has dp = 1 and num_microbatches = 0");
    scene.strategy.zero = 2;
    scene.strategy.zero_group = 3;
    check_refused(&scene, "can't have ZeRO-2 and 3");
    scene.strategy.zero = 1;
    scene.strategy.zero_group = 1;
    check_refused(&scene, "can't have states that a part of dp shares");
    scene.strategy.cp = 2;
    check_refused(&scene, "can't have cp > 1");
    scene.strategy.offload = HLM_OFFLOAD_OPTIMIZER;
    check_refused(&scene, "can't have offload");
    hlm_arena_free(scene.arena);
}

/* The ranks of a replica are devices of its group, numbered as if they were alone. */
static void ranks_stand_on_their_groups(void **state)
{
    (void)state;
    struct scene scene;
    struct hlm_err err;
    scene_init(&scene);
    static const int64_t devices[] = {0, 1, 4, 2, 3, 5}; /* [pp][dp] */
    struct hlm_replicas located[2];
    check_ok(hlm_layout_locate_replicas(&scene.strategy, &scene.mixed.cluster, located, &err),
             &err);
    scene.strategy.replicas = located;
    for (int32_t rank = 0; rank < 6; rank++) {
        assert_int_equal(hlm_layout_device(&scene.strategy, rank), devices[rank]);
    }
    int64_t first = 0;
    const struct hlm_strategy seen = hlm_strategy_of_replica(&scene.strategy, 2, &first);
    assert_int_equal(first, 12);
    assert_int_equal(seen.dp, 1);
    assert_int_equal(seen.num_microbatches, 5);
    assert_int_equal(seen.global_batch_size, 5);
    assert_int_equal(hlm_strategy_all_dp(&seen), 3);
    assert_int_equal(hlm_layout_device_group(&seen, &scene.mixed.cluster, 1), 1);
    (void)hlm_strategy_of_replica(&scene.strategy, 1, &first);
    assert_int_equal(first, 6);
    scene.replicas[1].dp = 2;
    scene.strategy.replicas = scene.replicas;
    check_fails(hlm_layout_locate_replicas(&scene.strategy, &scene.mixed.cluster, located, &err),
                HLM_NO, &err, "replicas[1] need 4 devices of group");
    hlm_arena_free(scene.arena);
}

static const struct hlm_plan *price(struct scene *scene, int32_t num_stages,
                                    struct hlm_plan_simulation *simulation)
{
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    check_ok(hlm_plan_price(scene->arena, &scene->mixed.model, &scene->mixed.cluster,
                            &scene->strategy, scene->stages, num_stages, &plan, simulation, &err),
             &err);
    return plan;
}

/* With one stage replicas run their microbatches one behind the other; all wait for the slowest,
 * then reduce over the slower of what both groups would take, and update. */
static void check_closed_form(int32_t slow, enum hlm_lowering lowering)
{
    struct scene scene;
    struct hlm_err err;
    scene_init(&scene);
    scene.strategy.pp = 1;
    scene.strategy.lowering = lowering;
    scene.replicas[1 - slow] =
        (struct hlm_replicas){.device_group = 0, .dp = 4, .num_microbatches = 3};
    scene.replicas[slow] = (struct hlm_replicas){.device_group = 1, .dp = 2, .num_microbatches = 2};
    scene.strategy.dp = 6;
    scene.strategy.num_microbatches = 3;
    scene.strategy.global_batch_size = 16;
    scene.stages[0] = (struct hlm_plan_stage){.num_layers = 4,
                                              .device_group = scene.replicas[0].device_group,
                                              .tp = 1,
                                              .recompute = {.none = 3, .selective = 1}};
    struct hlm_replicas located[2];
    check_ok(hlm_layout_locate_replicas(&scene.strategy, &scene.mixed.cluster, located, &err),
             &err);
    struct hlm_strategy whole = scene.strategy;
    whole.replicas = located;
    double passes_s = 0.0, reduce_s = 0.0, optimizer_s = 0.0, sync_s = 0.0, own_s[2];
    for (int32_t g = 0; g < 2; g++) {
        const struct hlm_strategy seen = hlm_strategy_of_replicas(&whole, g);
        const struct hlm_pricer *const *pricers = NULL;
        struct hlm_stage_cost cost;
        const struct hlm_stage_shape shape =
            hlm_plan_stage_shape(&scene.mixed.model, scene.stages, 1, 0);
        check_ok(hlm_plan_pricers_new(scene.arena, &scene.mixed.model, &scene.mixed.cluster, &seen,
                                      &pricers, &err),
                 &err);
        hlm_stage_cost(pricers[0], &shape, &cost);
        own_s[g] = cost.forward.seconds + cost.backward.seconds;
        passes_s = fmax(passes_s, (double)seen.num_microbatches * own_s[g]);
        reduce_s = fmax(reduce_s, cost.reduce_s);
        optimizer_s = fmax(optimizer_s, cost.optimizer_s);
        sync_s = fmax(sync_s, hlm_stage_sync_s(pricers[0]));
    }
    assert_true(own_s[slow] > own_s[1 - slow]);
    assert_true(reduce_s > 0.0);
    const struct hlm_plan *plan = price(&scene, 1, NULL);
    check_close(plan->prediction.step_time_s, passes_s + reduce_s + sync_s + optimizer_s, 1e-12);
    assert_int_equal(plan->prediction.num_memory, 2);
    for (int32_t g = 0; g < 2; g++) {
        assert_int_equal(plan->prediction.memory[g].limit_bytes,
                         scene.mixed.groups[scene.replicas[g].device_group].device.memory_bytes);
    }
    double sum_s = 0.0;
    for (int32_t i = 0; i < plan->prediction.parts.num_parts; i++) {
        sum_s += plan->prediction.parts.parts[i].seconds;
    }
    check_close(sum_s, plan->prediction.step_time_s, 1e-12);
    hlm_arena_free(scene.arena);
}

/* In either order of groups, and where a set of operators hides reductions behind backwards, so
 * that they end sooner on one group than on the other. */
static void one_stage_has_a_closed_form(void **state)
{
    (void)state;
    for (int32_t slow = 0; slow < 2; slow++) {
        check_closed_form(slow, HLM_LOWERING_HLMPLAN);
        check_closed_form(slow, HLM_LOWERING_MEGATRON);
    }
}

/* What is read is what was written, and the group whose memory is too small is named. */
static void survives_a_file(void **state)
{
    (void)state;
    struct scene scene;
    struct hlm_err err;
    scene_init(&scene);
    const struct hlm_plan *plan = price(&scene, 2, NULL), *again = NULL;
    const char *text = hlm_json_write(scene.arena, &hlm_plan_table, plan, false);
    check_ok(hlm_plan_read_text(scene.arena, "plan.json", text, strlen(text), &again, &err), &err);
    check_ok(hlm_plan_check_digests(scene.arena, again, "plan.json", &err), &err);
    assert_int_equal(again->strategy.num_replicas, 2);
    assert_int_equal(again->strategy.replicas[1].num_microbatches, 5);
    struct hlm_plan_simulation slowest, own;
    check_ok(hlm_plan_simulate(scene.arena, again, &slowest, &err), &err);
    check_close(slowest.result.step_s, plan->prediction.step_time_s, 1e-15);
    check_ok(hlm_plan_simulate_replica(scene.arena, again, 2, &own, &err), &err);
    assert_int_equal(own.schedule->num_microbatches, 5);
    scene.mixed.groups[1].device.memory_bytes = 100 << 20;
    check_fails(hlm_plan_price(scene.arena, &scene.mixed.model, &scene.mixed.cluster,
                               &scene.strategy, scene.stages, 2, &plan, NULL, &err),
                HLM_NO, &err, "replicas[1]: stage 0 needs");
    hlm_arena_free(scene.arena);
}

/* Replicas on equal groups with equal shares are what they are on one group of all the devices, but
 * for the reduction, which goes over the links between groups. */
static void equal_groups_are_like_one(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.mixed.groups[1] = scene.mixed.groups[0];
    scene.replicas[1].dp = 2;
    scene.replicas[0].num_microbatches = scene.replicas[1].num_microbatches = 4;
    scene.strategy.dp = 4;
    scene.strategy.num_microbatches = 4;
    scene.strategy.global_batch_size = 16;
    struct hlm_plan_simulation shared, alone;
    (void)price(&scene, 2, &shared);
    scene.strategy.num_replicas = 0;
    scene.strategy.dp = 2;
    scene.strategy.global_batch_size = 8;
    (void)price(&scene, 2, &alone);
    for (int32_t s = 0; s < 2; s++) {
        check_close(shared.result.ranks[s].compute_end_s, alone.result.ranks[s].compute_end_s,
                    1e-12);
        assert_true(shared.costs.reduce_s[s] > alone.costs.reduce_s[s]);
    }
    hlm_arena_free(scene.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_the_rule_that_fails), cmocka_unit_test(ranks_stand_on_their_groups),
        cmocka_unit_test(one_stage_has_a_closed_form), cmocka_unit_test(survives_a_file),
        cmocka_unit_test(equal_groups_are_like_one)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
