#include "planner/verify_prices.h"

#include "planner/columns.h"
#include "planner/plan_pricers.h"
#include "tests/support/mixed_problem.h"
#include "tests/support/small_problem.h"

static void check_same_pricer(const struct hlm_pricer *a, const struct hlm_pricer *b)
{
    assert_int_equal(a->device_group, b->device_group);
    assert_int_equal(a->stage, b->stage);
    assert_true(a->boundary_bytes == b->boundary_bytes && a->limit_bytes == b->limit_bytes);
    assert_int_equal(a->strategy->tp, b->strategy->tp);
    assert_int_equal(a->strategy->etp, b->strategy->etp);
    assert_int_equal(a->strategy->sp, b->strategy->sp);
    assert_memory_equal(a->has_kind, b->has_kind, sizeof(a->has_kind));
    assert_memory_equal(a->blocks, b->blocks, sizeof(a->blocks));
}

/* Every `stride`-th strategy of a problem in turn, out of one store. Returns how many there were.
 */
static int32_t check_problem(struct hlm_arena *arena, const struct hlm_search_problem *problem,
                             int32_t stride)
{
    struct hlm_verify_prices *prices =
        hlm_verify_prices_new(arena, problem->model, problem->cluster);
    struct hlm_arena *scratch = hlm_arena_new();
    const struct hlm_strategy *strategies = NULL;
    int32_t num = 0, num_checked = 0;
    struct hlm_err err;
    check_ok(hlm_columns_list(arena, problem, &strategies, &num, &err), &err);
    for (int32_t i = 0; i < num; i += stride) {
        const struct hlm_pricer *const *stored = NULL, *const *made = NULL;
        const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
        check_ok(hlm_verify_prices_get(prices, scratch, &strategies[i], &stored, &err), &err);
        check_ok(hlm_plan_pricers_new(scratch, problem->model, problem->cluster, &strategies[i],
                                      &made, &err),
                 &err);
        for (int32_t pp = 0; pp < strategies[i].pp; pp++) {
            check_same_pricer(stored[pp], made[pp]);
            assert_true(pp == 0 || (stored[pp] == stored[pp - 1]) == (made[pp] == made[pp - 1]));
        }
        num_checked++;
        hlm_arena_rewind(scratch, mark);
    }
    hlm_arena_free(scratch);
    return num_checked;
}

static void as_priced_one_by_one(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 8, 12, 16LL << 30, 24);
    small.group.nvlink_domain = 4; /* so that groups of one size lie on nodes in several ways */
    assert_true(check_problem(arena, &small.problem, 23) > 100);
    hlm_arena_free(arena);
}

static void with_experts_too(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    const struct hlm_model *model = NULL;
    struct hlm_err err;
    small_problem_init(arena, &small, 4, 16, 16LL << 30, 16);
    small.group.nvlink_domain = 4;
    check_ok(hlm_model_load(arena, "mixtral-8x7b", &model, &err), &err);
    small.model = *model;
    small.model.num_layers = 4;
    assert_true(check_problem(arena, &small.problem, 41) > 100);
    hlm_arena_free(arena);
}

static void over_device_groups_too(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct mixed_problem mixed;
    const int32_t devices[] = {4, 2, 2};
    mixed_problem_init(arena, &mixed, 3, devices, 6, 16);
    assert_true(check_problem(arena, &mixed.problem, 23) > 100);
    hlm_arena_free(arena);
}

/* What is wrong with one strategy is not held against others with its operators. */
static void a_refusal_is_not_kept(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 8, 4, 16LL << 30, 16);
    struct hlm_strategy strategy = {.dp = 2,
                                    .tp = 1,
                                    .pp = 2,
                                    .microbatch_size = 1,
                                    .global_batch_size = 16,
                                    .seq_len = 512,
                                    .dtype = HLM_DTYPE_FP16,
                                    .schedule = HLM_SCHEDULE_1F1B};
    hlm_strategy_complete(&strategy);
    struct hlm_verify_prices *prices = hlm_verify_prices_new(arena, &small.model, &small.cluster);
    const struct hlm_pricer *const *pricers = NULL;
    struct hlm_err err;
    strategy.zero_group = 2; /* without ZeRO */
    check_fails(hlm_verify_prices_get(prices, arena, &strategy, &pricers, &err), HLM_NO, &err,
                "zero_group");
    strategy.zero_group = 1;
    check_ok(hlm_verify_prices_get(prices, arena, &strategy, &pricers, &err), &err);
    assert_ptr_equal(pricers[0], pricers[1]);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_priced_one_by_one),
        cmocka_unit_test(with_experts_too),
        cmocka_unit_test(over_device_groups_too),
        cmocka_unit_test(a_refusal_is_not_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
