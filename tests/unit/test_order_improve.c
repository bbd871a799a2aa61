#include "schedule/order.h"
#include "tests/support/pipeline.h"

static struct hlm_sim_costs costs_of(struct hlm_arena *arena, int32_t num_stages, double f,
                                     double i, double w)
{
    struct hlm_sim_costs costs = pipeline_costs(arena, num_stages, f, i + w, 0);
    costs.input_grad_s = pipeline_fill(arena, num_stages, i);
    costs.weight_grad_s = pipeline_fill(arena, num_stages, w);
    return costs;
}

static double makespan(struct hlm_arena *arena, const struct hlm_schedule *schedule,
                       const struct hlm_order_problem *problem)
{
    hlm_schedule_check(schedule);
    const struct hlm_rank_memory *memory = hlm_schedule_memory(arena, schedule, problem->amounts);
    for (int32_t rank = 0; rank < problem->num_ranks; rank++) {
        assert_true(memory[rank].peak <= problem->limits[rank]);
    }
    return pipeline_run(arena, schedule, problem->costs).pipeline_s;
}

/* ZB-V with W > I: neither the textbook nor list scheduling is best; climbing reaches the bound. */
static void test_reaches_the_bound(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_schedule *textbook = pipeline_build(arena, HLM_SCHEDULE_ZB_V, 4, 8);
    const struct hlm_sim_costs costs = costs_of(arena, 8, 10, 7, 11);
    struct hlm_order_problem problem;
    struct hlm_err err = {0};
    check_ok(hlm_order_problem_from(arena, textbook, &costs, NULL, &problem, &err), &err);
    const struct hlm_schedule *improved = hlm_order_improve(arena, &problem, textbook, 5000);
    assert_int_equal(improved->kind, HLM_NUM_SCHEDULES);
    assert_true(makespan(arena, textbook, &problem) == 484);
    assert_true(makespan(arena, improved, &problem) == 478);
    assert_true(hlm_order_bound(&problem) == 478);
    /* The textbook is as it was. */
    assert_string_equal(hlm_schedule_csv(arena, textbook),
                        hlm_schedule_csv(arena, pipeline_build(arena, HLM_SCHEDULE_ZB_V, 4, 8)));
}

/* What can't be better is returned itself, and so is all without simulations. */
static void test_keeps(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_sim_costs costs = costs_of(arena, 8, 10, 7, 11);
    for (enum hlm_schedule_kind kind = 0; kind < HLM_SCHEDULE_DUALPIPE_V; kind++) {
        const struct hlm_schedule *textbook = pipeline_build(arena, kind, 4, 8);
        struct hlm_order_problem problem;
        struct hlm_err err = {0};
        check_ok(hlm_order_problem_from(arena, textbook, &costs, NULL, &problem, &err), &err);
        assert_ptr_equal(hlm_order_improve(arena, &problem, textbook, 0), textbook);
        if (makespan(arena, textbook, &problem) == hlm_order_bound(&problem)) {
            assert_ptr_equal(hlm_order_improve(arena, &problem, textbook, 5000), textbook);
        }
    }
}

/* A bad order of 1F1B, one microbatch after the other, becomes a pipeline. */
static void test_climbs(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_schedule *bad = pipeline_from_csv(
        arena, "0F0,0B0,0F1,0B1,0F2,0B2,0F3,0B3\n1F0,1B0,1F1,1B1,1F2,1B2,1F3,1B3\n");
    const struct hlm_sim_costs costs = costs_of(arena, 2, 1, 1, 1);
    const int64_t ones[2] = {1, 1}, limits[2] = {2, 1};
    const int32_t ranks[2] = {0, 1};
    const struct hlm_order_problem problem = {.num_ranks = 2,
                                              .num_stages = 2,
                                              .num_microbatches = 4,
                                              .stage_rank = ranks,
                                              .costs = &costs,
                                              .amounts = ones,
                                              .limits = limits};
    assert_true(makespan(arena, bad, &problem) == 24);
    assert_true(makespan(arena, hlm_order_improve(arena, &problem, bad, 1000), &problem) == 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_reaches_the_bound),
        pipeline_test(test_keeps),
        pipeline_test(test_climbs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
