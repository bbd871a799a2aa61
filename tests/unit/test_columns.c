#include "planner/columns.h"
#include "tests/support/small_problem.h"

static const struct hlm_strategy *list(struct hlm_arena *arena, struct small_problem *small,
                                       int32_t *num)
{
    const struct hlm_strategy *columns = NULL;
    struct hlm_err err;
    check_ok(hlm_columns_list(arena, &small->problem, &columns, num, &err), &err);
    return columns;
}

/* 6 devices, 12 heads, batch 12, 4 layers: counted by hand. Per (tp, pp, dp) the microbatch sizes
 * are the divisors of 12 / dp; times sp (2 when tp > 1), zero (2 when dp > 1), schedule (2 when pp
 * > 1). */
static void counts_of_six_devices(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 4, 6, 1LL << 34, 12);
    const int expected = /* tp1 */ 2 * 2 /* dp6 */ +
                         4 * 2 * 2 /* pp2 dp3: 12/3 = 4 has 3 divisors */
                         - 4 + 4 * 2 * 2 /* pp3 dp2: 6 has 4 */ + 6 * 2  /* pp6 dp1: 12 has 6 */
                         + /* tp2 */ 2 * (3 * 2) /* dp3 */ + 2 * (6 * 2) /* pp3 */
                         + /* tp3 */ 2 * (4 * 2) /* dp2 */ + 2 * (6 * 2) /* pp2 */
                         + /* tp6 */ 2 * 6;
    int32_t num = 0;
    /* 512 tokens are not divisible by 3: sp with tp = 3, 6 needs microbatch_size divisible by 3. */
    const int without_sp = /* tp3 dp2: sizes 1,2 of 1,2,3,6 */ 2 * 2 +
                           /* tp3 pp2: 1,2,4 of 1,2,3,4,6,12 */ 3 * 2 + /* tp6 */ 3;
    (void)list(arena, &small, &num);
    assert_int_equal(num, expected - without_sp);
    hlm_arena_free(arena);
}

static void all_are_legal_and_differ(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 4, 6, 1LL << 34, 12);
    int32_t num = 0;
    const struct hlm_strategy *columns = list(arena, &small, &num);
    for (int32_t i = 0; i < num; i++) {
        struct hlm_err err;
        check_ok(hlm_strategy_check(&columns[i], &small.model, &err), &err);
        assert_int_equal(hlm_strategy_world_size(&columns[i]), 6);
        for (int32_t j = 0; j < i; j++) {
            const struct hlm_strategy *a = &columns[i], *b = &columns[j];
            assert_false(a->tp == b->tp && a->pp == b->pp &&
                         a->microbatch_size == b->microbatch_size && a->sp == b->sp &&
                         a->zero == b->zero && a->schedule == b->schedule);
        }
    }
    hlm_arena_free(arena);
}

static void requirements_filter(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 4, 4, 1LL << 34, 8);
    int32_t num_all = 0, num_kept = 0, num_matching = 0;
    const struct hlm_strategy *all = list(arena, &small, &num_all);
    small.problem.require.tp = 2;
    small.problem.require.zero = 0;
    small.problem.require.schedule = HLM_SCHEDULE_1F1B;
    const struct hlm_strategy *kept = list(arena, &small, &num_kept);
    for (int32_t i = 0; i < num_all; i++) {
        num_matching += all[i].tp == 2 && all[i].zero == 0 && all[i].schedule == HLM_SCHEDULE_1F1B;
    }
    assert_true(num_kept > 0 && num_kept < num_all);
    assert_int_equal(num_kept, num_matching);
    for (int32_t i = 0; i < num_kept; i++) {
        assert_int_equal(kept[i].tp, 2);
    }
    hlm_arena_free(arena);
}

static void expert_degrees_divide(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 4, 4, 1LL << 34, 8);
    const struct hlm_model *mixtral = NULL;
    struct hlm_err err;
    check_ok(hlm_model_load(arena, "mixtral-8x7b", &mixtral, &err), &err);
    small.problem.model = mixtral;
    int32_t num = 0;
    bool seen[9] = {false};
    const struct hlm_strategy *columns = list(arena, &small, &num);
    for (int32_t i = 0; i < num; i++) {
        seen[columns[i].ep] = true;
        assert_int_equal(columns[i].dp * columns[i].tp % columns[i].ep, 0);
    }
    assert_true(seen[1] && seen[2] && seen[4] && !seen[8]);
    hlm_arena_free(arena);
}

static void nothing_legal_says_why(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 4, 4, 1LL << 34, 8);
    const struct hlm_strategy *columns = NULL;
    int32_t num = 0;
    struct hlm_err err;
    small.problem.require.tp = 3;
    check_fails(hlm_columns_list(arena, &small.problem, &columns, &num, &err), HLM_NO, &err,
                "no degrees dp * tp * pp = 4");
    small.problem.require.tp = 0;
    small.problem.require.dp = 4;
    small.problem.global_batch_size = 6;
    check_fails(hlm_columns_list(arena, &small.problem, &columns, &num, &err), HLM_NO, &err,
                "dp = 4 does not divide global_batch_size = 6");
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_of_six_devices),  cmocka_unit_test(all_are_legal_and_differ),
        cmocka_unit_test(requirements_filter),    cmocka_unit_test(expert_degrees_divide),
        cmocka_unit_test(nothing_legal_says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
