#include "planner/columns_nearest.h"
#include "tests/support/small_problem.h"

static void init(struct hlm_arena *arena, struct small_problem *small)
{
    small_problem_init(arena, small, 4, 12, 1LL << 34, 24); /* 12 heads, 12 devices */
}

static void names_the_values_around(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    init(arena, &small);
    small.problem.require.tp = 5;
    assert_string_equal(hlm_columns_nearest(arena, &small.problem),
                        "; legal instead: tp=4 or tp=6");
    small.problem.require.tp = 100;
    assert_string_equal(hlm_columns_nearest(arena, &small.problem), "; legal instead: tp=12");
    small.problem.require.tp = 0;
    small.problem.require.microbatch_size = 5;
    assert_string_equal(hlm_columns_nearest(arena, &small.problem),
                        "; legal instead: microbatch_size=4 or microbatch_size=6");
    hlm_arena_free(arena);
}

/* What else is required stays: with pp = 3 there are 4 devices for tp. */
static void keeps_the_other_requirements(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    init(arena, &small);
    small.problem.require.pp = 3;
    small.problem.require.tp = 6;
    assert_string_equal(hlm_columns_nearest(arena, &small.problem),
                        "; legal instead: tp=4 or pp=2");
    hlm_arena_free(arena);
}

static void says_nothing_where_it_does_not_help(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    init(arena, &small);
    assert_string_equal(hlm_columns_nearest(arena, &small.problem), "");
    small.problem.require.tp = 5; /* neither helps alone */
    small.problem.require.pp = 5;
    assert_string_equal(hlm_columns_nearest(arena, &small.problem), "");
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_the_values_around),
        cmocka_unit_test(keeps_the_other_requirements),
        cmocka_unit_test(says_nothing_where_it_does_not_help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
