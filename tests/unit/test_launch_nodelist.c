#include <string.h>

#include "exec/launch/launch_nodelist.h"
#include "tests/support/check.h"

/* The names of the list, joined by spaces. */
static const char *expand(struct hlm_arena *arena, const char *text)
{
    struct hlm_nodelist list = {0};
    struct hlm_err err;
    struct hlm_text joined;
    hlm_text_init(&joined, arena);
    check_ok(hlm_nodelist_parse(arena, text, &list, &err), &err);
    for (int i = 0; i < list.num_names; i++) {
        hlm_text_printf(&joined, "%s%s", i > 0 ? " " : "", list.names[i]);
    }
    return joined.text;
}

static void test_lists(void **state)
{
    (void)state;
    static const struct {
        const char *text, *names;
    } cases[] = {
        {"node", "node"},
        {"10.0.0.1", "10.0.0.1"},
        {"a-1.example.org,b_2", "a-1.example.org b_2"},
        {"host[01-03,7],other", "host01 host02 host03 host7 other"},
        {"other,host[9-11]", "other host9 host10 host11"},
        {"host[099-101]", "host099 host100 host101"},
        {"n[0,2,4]", "n0 n2 n4"},
        {"n[5]", "n5"},
        {"n[1-2]-ib", "n1-ib n2-ib"},
        {"rack[1-2]n[01-02],x", "rack1n01 rack1n02 rack2n01 rack2n02 x"},
        {"[1-2]", "1 2"},
    };
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_string_equal(expand(arena, cases[i].text), cases[i].names);
    }
    hlm_arena_free(arena);
}

static void test_what_is_none(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",
                                        ",",
                                        "a,",
                                        "a,,b",
                                        "n[",
                                        "n[]",
                                        "n[1",
                                        "n[1-",
                                        "n[1-]",
                                        "n[-2]",
                                        "n[2-1]",
                                        "n[a]",
                                        "n[1,]",
                                        "n[1;2]",
                                        "n]1[",
                                        "n 1",
                                        "n[1-2",
                                        "$(reboot)",
                                        "n[1]\n",
                                        "n[[1]]",
                                        "n[1-99999999999]",
                                        "n[0-65536]",
                                        "n[1-1000]m[1-1000]"};
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct hlm_nodelist list = {.num_names = 77};
        struct hlm_err err;
        check_fails(hlm_nodelist_parse(arena, wrong[i], &list, &err), HLM_ENV, &err,
                    "expected a list of nodes like host[01-03,7],other, found \"");
        assert_non_null(strstr(err.text, wrong[i]));
        assert_int_equal(list.num_names, 77);
    }
    hlm_arena_free(arena);
}

static void test_largest(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_nodelist list;
    struct hlm_err err;
    check_ok(hlm_nodelist_parse(arena, "n[0-65535]", &list, &err), &err);
    assert_int_equal(list.num_names, HLM_NODELIST_MAX);
    assert_string_equal(list.names[65535], "n65535");
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_what_is_none),
        cmocka_unit_test(test_largest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
