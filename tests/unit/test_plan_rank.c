#include "planner/plan_rank.h"

#include "tests/support/check.h"
#include "tests/support/golden.h"

/* tp 2, pp 2 over the golden model, simulated. */
struct scene {
    struct hlm_arena *arena;
    const struct hlm_plan *plan;
    struct hlm_plan_simulation simulation;
};

static struct scene setup(enum hlm_schedule_kind schedule)
{
    struct scene scene = {.arena = hlm_arena_new()};
    struct hlm_err err;
    const struct golden *golden = golden_read(scene.arena, "gpt2");
    const struct golden_layout layout = {.tp = 2, .pp = 2, .schedule = schedule};
    scene.plan = golden_plan(scene.arena, &golden->model, golden->global_batch_size,
                             golden->seq_len, &layout);
    assert_non_null(scene.plan);
    check_ok(hlm_plan_simulate(scene.arena, scene.plan, &scene.simulation, &err), &err);
    return scene;
}

static double part(const struct hlm_time_node *node, const char *name)
{
    for (int32_t i = 0; i < node->num_parts; i++) {
        if (strcmp(node->parts[i].name, name) == 0) {
            return node->parts[i].seconds;
        }
    }
    return 0.0;
}

static void measured_actions_follow_the_list(void **state)
{
    (void)state;
    static const struct {
        enum hlm_schedule_kind schedule;
        int32_t passes; /* a microbatch */
    } rows[] = {{HLM_SCHEDULE_1F1B, 2}, {HLM_SCHEDULE_ZB_H1, 3}};
    for (size_t i = 0; i < 2; i++) {
        struct scene scene = setup(rows[i].schedule);
        const int32_t m = (int32_t)scene.plan->strategy.num_microbatches;
        const struct hlm_rank_actions list =
            hlm_plan_measured_actions(scene.arena, scene.simulation.schedule, 1);
        assert_int_equal(list.num_actions, rows[i].passes * m + 2);
        assert_int_equal(list.actions[list.num_actions - 1].kind, HLM_ACTION_OPTIMIZER);
        for (int32_t k = 0; k < list.num_actions; k++) {
            assert_int_equal(list.actions[k].stage, 1);
            assert_true(list.actions[k].kind <= HLM_ACTION_W ||
                        list.actions[k].kind >= HLM_ACTION_REDUCE_GRAD);
        }
        hlm_arena_free(scene.arena);
    }
}

/* Of the critical rank, the tree is that of the prediction; of any rank it sums to its end. */
static void parts_are_those_of_the_prediction(void **state)
{
    (void)state;
    struct scene scene = setup(HLM_SCHEDULE_1F1B);
    const struct hlm_sim_result *result = &scene.simulation.result;
    const int32_t critical = hlm_plan_critical_rank(&scene.simulation);
    static const char *const names[] = {"forward",  "backward",      "tensor_parallel",
                                        "pipeline", "data_parallel", "optimizer"};
    const struct hlm_time_node parts =
        hlm_plan_rank_parts(scene.arena, &scene.simulation, result, critical, NULL, result->step_s);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        check_near(part(&parts, names[i]), part(&scene.plan->prediction.parts, names[i]),
                   1e-9 * result->step_s);
    }
    assert_true(part(&parts, "tensor_parallel") > 0.0);
    for (int32_t pp = 0; pp < 2; pp++) {
        const double end_s = hlm_plan_rank_end_s(result, pp);
        const struct hlm_time_node own =
            hlm_plan_rank_parts(scene.arena, &scene.simulation, result, pp, NULL, end_s);
        check_close(own.seconds, end_s, 1e-9);
        assert_true(end_s <= result->step_s);
    }
    hlm_arena_free(scene.arena);
}

static void measured_computing_takes_its_place(void **state)
{
    (void)state;
    struct scene scene = setup(HLM_SCHEDULE_ZB_H1);
    const struct hlm_sim_result *result = &scene.simulation.result;
    const int32_t m = (int32_t)scene.plan->strategy.num_microbatches;
    double *compute_s = HLM_ARENA_ARRAY(scene.arena, double, 3 * m);
    const struct hlm_rank_actions list =
        hlm_plan_measured_actions(scene.arena, scene.simulation.schedule, 0);
    int32_t num = 0;
    for (int32_t i = 0; i < list.num_actions; i++) {
        if (hlm_action_is_compute(list.actions[i].kind)) {
            compute_s[num++] = list.actions[i].kind == HLM_ACTION_F ? 1e-6 : 2e-6;
        }
    }
    assert_int_equal(num, 3 * m);
    const double end_s = hlm_plan_rank_end_s(result, 0);
    const struct hlm_time_node parts =
        hlm_plan_rank_parts(scene.arena, &scene.simulation, result, 0, compute_s, end_s);
    check_close(part(&parts, "forward"), m * 1e-6, 1e-9);
    check_close(part(&parts, "backward"), 2 * m * 2e-6, 1e-9);
    check_close(parts.seconds, end_s, 1e-9);
    hlm_arena_free(scene.arena);
}

static void passes_split_into_computing_and_communication(void **state)
{
    (void)state;
    struct scene scene = setup(HLM_SCHEDULE_1F1B);
    const struct hlm_pass_cost *pass =
        hlm_plan_pass(&scene.simulation, (struct hlm_action){HLM_ACTION_F, 1, 0});
    assert_ptr_equal(pass, &scene.simulation.stages[1].forward);
    check_close(hlm_plan_pass_comm_s(pass), pass->part[HLM_PART_TP_COMM], 1e-12);
    assert_ptr_equal(hlm_plan_pass(&scene.simulation, (struct hlm_action){HLM_ACTION_W, 0, 0}),
                     &scene.simulation.stages[0].weight_grad);
    hlm_arena_free(scene.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measured_actions_follow_the_list),
        cmocka_unit_test(parts_are_those_of_the_prediction),
        cmocka_unit_test(measured_computing_takes_its_place),
        cmocka_unit_test(passes_split_into_computing_and_communication)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
