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

/* Schedules with their chunks that exist for pp ranks, m microbatches and 6 blocks of a model: by
 * the rules of their publications. */
static int count_schedules(int pp, int m)
{
    if (pp == 1) {
        return 1;
    }
    int num = 5 + (2 * pp <= 6 ? 4 : 0); /* one chunk a rank: 5 kinds; in the shape of a V: 4 */
    if (2 * pp <= 6 && m < 2 * pp) {
        num--; /* dualpipe-v needs two microbatches a rank */
    }
    for (int vpp = 2; vpp * pp <= 6; vpp++) {
        num += m % pp == 0 ? 1 : 0; /* interleaved: groups of pp microbatches */
    }
    return num;
}

/* 6 devices, 12 heads, batch 12, 512 tokens, 4 layers: counted by other loops. */
static void counts_of_six_devices(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 4, 6, 1LL << 34, 12);
    int expected = 0;
    for (int code = 0; code < 6 * 6 * 6 * 12; code++) {
        const int tp = code % 6 + 1, pp = code / 6 % 6 + 1, dp = code / 36 % 6 + 1;
        const int size = code / 216 + 1, cp = 6 / (tp * pp * dp);
        if (cp * tp * pp * dp != 6 || 512 % (cp > 0 ? cp : 1) != 0 || 12 % (dp * size) != 0) {
            continue;
        }
        const int with_sp = tp > 1 && size * 512 / cp % tp == 0 ? 1 : 0;
        expected += (1 + with_sp) * (dp * cp > 1 ? 4 : 1) * count_schedules(pp, 12 / dp / size);
    }
    int32_t num = 0;
    (void)list(arena, &small, &num);
    assert_int_equal(num, expected);
    hlm_arena_free(arena);
}

static bool same(const struct hlm_strategy *a, const struct hlm_strategy *b)
{
    return a->tp == b->tp && a->pp == b->pp && a->cp == b->cp && a->vpp == b->vpp &&
           a->microbatch_size == b->microbatch_size && a->sp == b->sp && a->zero == b->zero &&
           a->schedule == b->schedule;
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
            assert_false(same(&columns[i], &columns[j]));
        }
    }
    hlm_arena_free(arena);
}

/* Families hold all columns, each once, and share what they say they share. */
static void families_are_the_list(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    struct hlm_err err;
    small_problem_init(arena, &small, 4, 6, 1LL << 34, 12);
    const struct hlm_column_family *families = NULL;
    int32_t num = 0, num_families = 0;
    const struct hlm_strategy *columns = list(arena, &small, &num);
    check_ok(hlm_columns_families(arena, &small.problem, &families, &num_families, &err), &err);
    int64_t at = 0;
    for (int32_t f = 0; f < num_families; f++) {
        const struct hlm_strategy *members =
            hlm_columns_members(arena, &small.problem, &families[f]);
        for (int64_t i = 0; i < families[f].num_members; i++, at++) {
            assert_true(same(&members[i], &columns[at]));
            assert_int_equal(members[i].microbatch_size, families[f].strategy.microbatch_size);
            assert_int_equal(members[i].tp, families[f].strategy.tp);
        }
    }
    assert_int_equal(at, num);
    assert_true(num_families > 1 && num_families < num);
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
        assert_int_equal(columns[i].dp * columns[i].cp * columns[i].tp % columns[i].ep, 0);
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
                "no degrees dp * tp * pp * cp = 4");
    small.problem.require.tp = 0;
    small.problem.require.dp = 4;
    small.problem.global_batch_size = 6;
    check_fails(hlm_columns_list(arena, &small.problem, &columns, &num, &err), HLM_NO, &err,
                "dp = 4 does not divide global_batch_size = 6");
    small.problem.require.dp = 0;
    small.problem.require.microbatch_size = 4;
    check_fails(hlm_columns_list(arena, &small.problem, &columns, &num, &err), HLM_NO, &err,
                "dp * microbatch_size = 1 * 4 does not divide global_batch_size = 6");
    small.problem.require.microbatch_size = 0;
    small.problem.require.ep = 2;
    check_fails(hlm_columns_list(arena, &small.problem, &columns, &num, &err), HLM_NO, &err,
                "ep = 2 needs a model with experts");
    small.problem.require.ep = 0;
    small.problem.require.vpp = 5;
    check_fails(hlm_columns_list(arena, &small.problem, &columns, &num, &err), HLM_NO, &err,
                "pp * vpp = 2 * 5 stages are more than the 6 blocks");
    small.problem.require.vpp = 2;
    small.problem.require.schedule = HLM_SCHEDULE_GPIPE;
    check_fails(hlm_columns_list(arena, &small.problem, &columns, &num, &err), HLM_NO, &err,
                "gpipe does not have vpp = 2: 1 is the most");
    small.problem.require.vpp = 0;
    small.problem.require.pp = 1;
    check_fails(hlm_columns_list(arena, &small.problem, &columns, &num, &err), HLM_NO, &err,
                "gpipe with pp = 1 is left out");
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_of_six_devices),  cmocka_unit_test(all_are_legal_and_differ),
        cmocka_unit_test(requirements_filter),    cmocka_unit_test(expert_degrees_divide),
        cmocka_unit_test(nothing_legal_says_why), cmocka_unit_test(families_are_the_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
