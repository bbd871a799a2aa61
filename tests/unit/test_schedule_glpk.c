#include "planner/schedule_glpk.h"
#include "tests/support/pipeline.h"

struct scene {
    struct hlm_sim_costs costs;
    struct hlm_order_problem problem;
    const struct hlm_schedule *textbook;
};

static void make(struct hlm_arena *arena, struct scene *scene, struct hlm_schedule_params params,
                 double i, double w)
{
    scene->textbook = pipeline_build_with(arena, params);
    const int32_t n = scene->textbook->num_stages;
    scene->costs = pipeline_costs(arena, n, 10, i + w, 0);
    scene->costs.input_grad_s = pipeline_fill(arena, n, i);
    scene->costs.weight_grad_s = pipeline_fill(arena, n, w);
    struct hlm_err err = {0};
    check_ok(
        hlm_order_problem_from(arena, scene->textbook, &scene->costs, NULL, &scene->problem, &err),
        &err);
}

static void check_optimum(struct hlm_arena *arena, const struct scene *scene,
                          const struct hlm_schedule_optimum *optimum)
{
    hlm_schedule_check(optimum->schedule);
    assert_true(pipeline_run(arena, optimum->schedule, &scene->costs).pipeline_s ==
                optimum->makespan_s);
    const struct hlm_rank_memory *memory =
        hlm_schedule_memory(arena, optimum->schedule, scene->problem.amounts);
    for (int32_t rank = 0; rank < scene->problem.num_ranks; rank++) {
        assert_true(memory[rank].peak <= scene->problem.limits[rank]);
    }
    assert_true(optimum->bound_s <= optimum->makespan_s);
}

/* The bound equals the incumbent: nothing to solve. */
static void test_bound_suffices(void **state)
{
    struct scene scene;
    make(*state, &scene, (struct hlm_schedule_params){HLM_SCHEDULE_ZB_H1, 4, 1, 8, 0}, 11, 7);
    struct hlm_schedule_optimum optimum;
    hlm_schedule_glpk(*state, &scene.problem, scene.textbook, 0, &optimum);
    check_optimum(*state, &scene, &optimum);
    assert_true(optimum.is_proved);
    assert_ptr_equal(optimum.schedule, scene.textbook);
    assert_int_equal(optimum.num_nodes, 0);
    assert_true(optimum.makespan_s == 266);
}

/* From a bad incumbent (one microbatch at a time) to the optimum. */
static void test_improves(void **state)
{
    struct scene scene;
    make(*state, &scene, (struct hlm_schedule_params){HLM_SCHEDULE_ZB_H1, 2, 1, 3, 0}, 11, 7);
    const struct hlm_schedule *incumbent = pipeline_from_csv(
        *state, "0F0,0I0,0W0,0F1,0I1,0W1,0F2,0I2,0W2\n1F0,1I0,1W0,1F1,1I1,1W1,1F2,1I2,1W2\n");
    struct hlm_schedule_optimum optimum;
    hlm_schedule_glpk(*state, &scene.problem, incumbent, 0, &optimum);
    check_optimum(*state, &scene, &optimum);
    assert_true(optimum.is_proved);
    assert_true(optimum.makespan_s ==
                pipeline_run(*state, scene.textbook, &scene.costs).pipeline_s);
}

/* Five slots of memory for four stages: two chunks a rank, unequal amounts, whole backwards. */
static void test_amounts(void **state)
{
    struct scene scene;
    make(*state, &scene, (struct hlm_schedule_params){HLM_SCHEDULE_INTERLEAVED, 2, 2, 2, 0}, 11, 7);
    const int64_t amounts[4] = {1, 2, 3, 1}, limits[2] = {4, 3};
    scene.problem.amounts = amounts;
    scene.problem.limits = limits;
    const struct hlm_schedule *incumbent = NULL;
    struct hlm_err err = {0};
    check_ok(hlm_order_list(*state, &scene.problem, NULL, &incumbent, &err), &err);
    struct hlm_schedule_optimum optimum;
    hlm_schedule_glpk(*state, &scene.problem, incumbent, 0, &optimum);
    check_optimum(*state, &scene, &optimum);
    assert_true(optimum.is_proved);
}

/* A node limit leaves the incumbent and a bound. */
static void test_node_limit(void **state)
{
    struct scene scene;
    make(*state, &scene, (struct hlm_schedule_params){HLM_SCHEDULE_V_MIN, 3, 2, 5, 0}, 11, 7);
    struct hlm_schedule_optimum optimum;
    hlm_schedule_glpk(*state, &scene.problem, scene.textbook, 20, &optimum);
    check_optimum(*state, &scene, &optimum);
    assert_false(optimum.is_proved);
    assert_true(optimum.bound_s >= hlm_order_bound(&scene.problem));
    assert_true(optimum.num_nodes > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_bound_suffices),
        pipeline_test(test_improves),
        pipeline_test(test_amounts),
        pipeline_test(test_node_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
