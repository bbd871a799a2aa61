#include "tests/support/check.h"

#include "profiles/source.h"

static enum hlm_status read(struct hlm_arena *arena, const char *fields, struct hlm_source *out,
                            struct hlm_err *err)
{
    const char *text =
        hlm_arena_printf(arena, "{\"schema\": \"hlmplan.source\", \"version\": 1, %s}", fields);
    return hlm_json_read_text(arena, "s.json", text, strlen(text), &hlm_source_table, out, err);
}

static void reads_a_measurement(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct hlm_source source;
    check_ok(read(arena,
                  "\"kind\": \"measured\", \"reference\": \"driver 1\", \"date\": \"2024-01-31\", "
                  "\"num_samples\": 12, \"spread_frac\": 0.03",
                  &source, &err),
             &err);
    assert_int_equal(source.kind, HLM_SOURCE_MEASURED);
    assert_string_equal(source.reference, "driver 1");
    assert_string_equal(source.date, "2024-01-31");
    assert_int_equal(source.num_samples, 12);
    check_close(source.spread_frac, 0.03, 1e-15);
    hlm_arena_free(arena);
}

static void kind_is_required(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct hlm_source source;
    check_ok(read(arena, "\"kind\": \"assumed\", \"reference\": \"a guess\"", &source, &err), &err);
    assert_int_equal(source.kind, HLM_SOURCE_ASSUMED);
    assert_null(source.date);
    check_fails(read(arena, "\"reference\": \"x\"", &source, &err), HLM_INPUT, &err, "kind");
    check_fails(read(arena, "\"kind\": \"heard\"", &source, &err), HLM_INPUT, &err, "published");
    check_fails(read(arena, "\"kind\": \"measured\", \"spread_frac\": -1", &source, &err),
                HLM_INPUT, &err, "$.spread_frac");
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_measurement),
        cmocka_unit_test(kind_is_required),
    };
    return cmocka_run_group_tests_name("source", tests, NULL, NULL);
}
