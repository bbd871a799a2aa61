#include "tests/support/check.h"

#include "profiles/resolve.h"

static int setup(void **state)
{
    *state = hlm_arena_new();
    return 0;
}

static int teardown(void **state)
{
    hlm_arena_free(*state);
    return 0;
}

static void test_exact_name_beats_longer_ones(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    const struct hlm_builtin *found = NULL;
    check_ok(hlm_resolve_builtin(arena, "clusters", "cluster", "dgx-a100", &found, &err), &err);
    assert_string_equal(found->name, "dgx-a100");
}

static void test_unique_prefix(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    const struct hlm_builtin *found = NULL;
    check_ok(hlm_resolve_builtin(arena, "devices", "device", "h100", &found, &err), &err);
    assert_string_equal(found->name, "h100-sxm-80g");
}

static void test_ambiguous_prefix_lists_matches(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    const struct hlm_builtin *found = NULL;
    check_fails(hlm_resolve_builtin(arena, "devices", "device", "a100-sxm", &found, &err),
                HLM_INPUT, &err, "device \"a100-sxm\" is ambiguous: a100-sxm-40g a100-sxm-80g");
    assert_null(found);
}

static void test_unknown_name_lists_all(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    const struct hlm_builtin *found = NULL;
    check_fails(hlm_resolve_builtin(arena, "devices", "device", "tpu", &found, &err), HLM_INPUT,
                &err, "no device \"tpu\"");
    assert_non_null(strstr(err.text, "v100-sxm2-32g"));
    check_fails(hlm_resolve_builtin(arena, "devices", "device", "", &found, &err), HLM_INPUT, &err,
                "built in: a100-sxm-40g");
    check_fails(hlm_resolve_builtin(arena, "devices", "device", "h100-sxm-80gb", &found, &err),
                HLM_INPUT, &err, "did you mean h100-sxm-80g?");
}

static void test_is_path(void **state)
{
    (void)state;
    assert_true(hlm_resolve_is_path("./x"));
    assert_true(hlm_resolve_is_path("x.json"));
    assert_true(hlm_resolve_is_path("-"));
    assert_false(hlm_resolve_is_path("h100-sxm:16x8"));
    assert_false(hlm_resolve_is_path("json"));
    assert_false(hlm_resolve_is_path(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_exact_name_beats_longer_ones, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unique_prefix, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ambiguous_prefix_lists_matches, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unknown_name_lists_all, setup, teardown),
        cmocka_unit_test(test_is_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
