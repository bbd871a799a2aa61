/* The generated table holds the files of the repository, byte for byte. */
#include "tests/support/check.h"

#include "base/file.h"
#include "profiles/builtin.h"

static const char *const folders[] = {"models", "devices", "clusters"};

static void texts_are_the_files(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    for (size_t f = 0; f < sizeof folders / sizeof folders[0]; f++) {
        const struct hlm_builtin *row = NULL;
        for (int i = 0; (row = hlm_builtin_at(folders[f], i)) != NULL; i++) {
            const char *path =
                hlm_arena_printf(arena, "profiles/%s/%s.json", folders[f], row->name);
            const char *text = NULL;
            size_t length = 0;
            check_ok(hlm_file_read(arena, path, 1 << 24, &text, &length, &err), &err);
            assert_int_equal(length, row->length);
            assert_memory_equal(text, row->text, length + 1);
            assert_string_equal(row->folder, folders[f]);
            assert_ptr_equal(hlm_builtin_find(folders[f], row->name), row);
        }
    }
    hlm_arena_free(arena);
}

static void names_ascend(void **state)
{
    (void)state;
    for (size_t f = 0; f < sizeof folders / sizeof folders[0]; f++) {
        for (int i = 1; hlm_builtin_at(folders[f], i) != NULL; i++) {
            const char *before = hlm_builtin_at(folders[f], i - 1)->name;
            assert_true(strcmp(before, hlm_builtin_at(folders[f], i)->name) < 0);
        }
    }
}

static void unknown_is_null(void **state)
{
    (void)state;
    assert_non_null(hlm_builtin_at("models", 0));
    assert_null(hlm_builtin_find("models", "gpt2"));
    assert_null(hlm_builtin_find("models", "gpt2-small.json"));
    assert_null(hlm_builtin_find("model", "gpt2-small"));
    assert_null(hlm_builtin_at("models", -1));
    assert_null(hlm_builtin_at("models", 100000));
    assert_null(hlm_builtin_at("", 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_the_files),
        cmocka_unit_test(names_ascend),
        cmocka_unit_test(unknown_is_null),
    };
    return cmocka_run_group_tests_name("builtin", tests, NULL, NULL);
}
