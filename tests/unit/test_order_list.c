#include "schedule/order.h"
#include "tests/support/pipeline.h"

static struct hlm_sim_costs costs_of(struct hlm_arena *arena, int32_t num_stages, double f,
                                     double i, double w, double c)
{
    struct hlm_sim_costs costs = pipeline_costs(arena, num_stages, f, i + w, c);
    costs.input_grad_s = pipeline_fill(arena, num_stages, i);
    costs.weight_grad_s = pipeline_fill(arena, num_stages, w);
    return costs;
}

static struct hlm_order_problem problem_of(struct hlm_arena *arena,
                                           const struct hlm_schedule *schedule,
                                           const struct hlm_sim_costs *costs)
{
    struct hlm_order_problem problem;
    struct hlm_err err = {0};
    check_ok(hlm_order_problem_from(arena, schedule, costs, NULL, &problem, &err), &err);
    return problem;
}

static const struct hlm_schedule *list_of(struct hlm_arena *arena,
                                          const struct hlm_order_problem *problem,
                                          const struct hlm_schedule *textbook)
{
    const struct hlm_schedule *out = NULL;
    struct hlm_err err = {0};
    check_ok(hlm_order_list(arena, problem, textbook, &out, &err), &err);
    hlm_schedule_check(out);
    const struct hlm_rank_memory *memory = hlm_schedule_memory(arena, out, problem->amounts);
    for (int32_t rank = 0; rank < problem->num_ranks; rank++) {
        assert_true(memory[rank].peak <= problem->limits[rank]);
    }
    return out;
}

/* A textbook order that nothing beats is returned itself. */
static void test_keeps_the_best(void **state)
{
    const struct hlm_schedule *textbook = pipeline_build(*state, HLM_SCHEDULE_ZB_H1, 4, 8);
    const struct hlm_sim_costs costs = costs_of(*state, 4, 10, 11, 7, 0);
    const struct hlm_order_problem problem = problem_of(*state, textbook, &costs);
    assert_ptr_equal(list_of(*state, &problem, textbook), textbook);
}

/* ZB-V is made for 2 P - 1 microbatches and more; with two, I and W of the first can fill its
 * gaps. */
static void test_beats_textbook(void **state)
{
    const struct hlm_schedule *textbook = pipeline_build(*state, HLM_SCHEDULE_ZB_V, 2, 2);
    const struct hlm_sim_costs costs = costs_of(*state, 4, 1, 1, 1, 0);
    const struct hlm_order_problem problem = problem_of(*state, textbook, &costs);
    const struct hlm_schedule *found = list_of(*state, &problem, textbook);
    assert_int_equal(found->kind, HLM_NUM_SCHEDULES);
    assert_true(pipeline_run(*state, textbook, &costs).pipeline_s == 14);
    assert_true(pipeline_run(*state, found, &costs).pipeline_s == 13);
    assert_true(hlm_order_bound(&problem) == 13);
}

/* Without a textbook: 1F1B is found from its memory alone. */
static void test_finds_1f1b(void **state)
{
    const struct hlm_schedule *textbook = pipeline_build(*state, HLM_SCHEDULE_1F1B, 4, 8);
    const struct hlm_sim_costs costs = costs_of(*state, 4, 1, 1, 1, 0);
    const struct hlm_order_problem problem = problem_of(*state, textbook, &costs);
    const struct hlm_schedule *found = list_of(*state, &problem, NULL);
    assert_true(pipeline_run(*state, found, &costs).pipeline_s == 33);
}

/* Less memory than the textbook wants: its order serves as a preference, and every limit down to
 * one microbatch has an answer. More memory is never slower here. */
static void test_less_memory(void **state)
{
    struct hlm_arena *arena = *state;
    for (enum hlm_schedule_kind kind = 0; kind < HLM_SCHEDULE_DUALPIPE_V; kind++) {
        const struct hlm_schedule *textbook = pipeline_build(arena, kind, 4, 8);
        const struct hlm_sim_costs costs = costs_of(arena, textbook->num_stages, 3, 3, 2, 0.5);
        struct hlm_order_problem problem = problem_of(arena, textbook, &costs);
        const double textbook_s = pipeline_run(arena, textbook, &costs).pipeline_s;
        const int64_t chunks = textbook->num_stages / 4;
        double before_s = INFINITY;
        for (int64_t limit = chunks; limit <= 12; limit++) {
            const int64_t limits[4] = {limit, limit, limit, limit};
            problem.limits = limits;
            const double found_s =
                pipeline_run(arena, list_of(arena, &problem, textbook), &costs).pipeline_s;
            assert_true(found_s >= hlm_order_bound(&problem));
            before_s = limit == chunks ? found_s : before_s;
        }
        assert_true(before_s > textbook_s);
        if (chunks == 1) { /* one microbatch at a time: four F and I, four W or rank 0's */
            const double w_s = problem.splits_backward ? 2 : 4 * 2;
            assert_true(before_s == 8 * (4 * (3 + 3) + w_s + 6 * 0.5));
        }
    }
}

static void test_no_room(void **state)
{
    const struct hlm_schedule *textbook = pipeline_build(*state, HLM_SCHEDULE_V_MIN, 2, 4);
    const struct hlm_sim_costs costs = costs_of(*state, 4, 1, 1, 1, 0);
    struct hlm_order_problem problem = problem_of(*state, textbook, &costs);
    const int64_t limits[2] = {2, 1};
    problem.limits = limits;
    const struct hlm_schedule *out = NULL;
    struct hlm_err err = {0};
    check_fails(hlm_order_list(*state, &problem, textbook, &out, &err), HLM_NO, &err,
                "rank 1: one microbatch takes 2, expected at most 1");
    assert_null(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_keeps_the_best), pipeline_test(test_beats_textbook),
        pipeline_test(test_finds_1f1b),     pipeline_test(test_less_memory),
        pipeline_test(test_no_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
