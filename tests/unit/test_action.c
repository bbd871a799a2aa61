#include "schedule/action.h"
#include "tests/support/check.h"

static void test_format(void **state)
{
    (void)state;
    const struct {
        struct hlm_action action;
        const char *text;
    } rows[] = {
        {{HLM_ACTION_F, 0, 3}, "0F3"},
        {{HLM_ACTION_B, 2, 0}, "2B0"},
        {{HLM_ACTION_I, 1, 4}, "1I4"},
        {{HLM_ACTION_W, 12, 34}, "12W34"},
        {{HLM_ACTION_SEND_F, 0, 1}, "0SEND_F1"},
        {{HLM_ACTION_RECV_F, 1, 1}, "1RECV_F1"},
        {{HLM_ACTION_SEND_B, 1, 0}, "1SEND_B0"},
        {{HLM_ACTION_RECV_B, 999999999, 999999999}, "999999999RECV_B999999999"},
        {{HLM_ACTION_REDUCE_GRAD, 7, -1}, "7REDUCE_GRAD"},
        {{HLM_ACTION_OPTIMIZER, 0, -1}, "0OPTIMIZER"},
        {{HLM_ACTION_OVERLAP_F_B, 2, -1}, "2OVERLAP_F_B"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[32];
        hlm_action_format(rows[i].action, text);
        assert_string_equal(text, rows[i].text);
        struct hlm_action parsed = {0};
        struct hlm_err err = {0};
        check_ok(hlm_action_parse(text, &parsed, &err), &err);
        assert_int_equal(parsed.kind, rows[i].action.kind);
        assert_int_equal(parsed.stage, rows[i].action.stage);
        assert_int_equal(parsed.microbatch, rows[i].action.microbatch);
    }
}

static void test_parse_refuses(void **state)
{
    (void)state;
    const char *const texts[] = {"",
                                 "F",
                                 "F0",
                                 "0",
                                 "0F",
                                 "0X1",
                                 "0f1",
                                 "0F1 ",
                                 " 0F1",
                                 "-1F0",
                                 "0F-1",
                                 "+0F1",
                                 "0F1x",
                                 "0F1.0",
                                 "0SEND1",
                                 "0SEND_",
                                 "0REDUCE_GRAD1",
                                 "0OPTIMIZER0",
                                 "1234567890F0",
                                 "0F1234567890",
                                 "0FF1",
                                 "(0F0;1B0)OVERLAP_F_B"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct hlm_action action = {HLM_ACTION_W, 5, 6};
        struct hlm_err err = {0};
        check_fails(hlm_action_parse(texts[i], &action, &err), HLM_INPUT, &err, texts[i]);
        assert_int_equal(action.stage, 5); /* untouched */
    }
}

static void test_pairs(void **state)
{
    (void)state;
    const struct hlm_action f = {HLM_ACTION_F, 999999999, 3}, b = {HLM_ACTION_B, 3, 999999999};
    struct hlm_action forward = {0}, backward = {0};
    char text[64];
    hlm_action_format_pair(f, b, text);
    assert_string_equal(text, "(999999999F3;3B999999999)OVERLAP_F_B");
    assert_true(hlm_action_parse_pair(text, &forward, &backward));
    assert_memory_equal(&forward, &f, sizeof f);
    assert_memory_equal(&backward, &b, sizeof b);
    const char *const refused[] = {"",
                                   "0F1",
                                   "(0F1;1B0)",
                                   "(0F1;1B0)OVERLAP_F_B ",
                                   "0F1;1B0)OVERLAP_F_B",
                                   "(0F1,1B0)OVERLAP_F_B",
                                   "(0B1;1F0)OVERLAP_F_B",
                                   "(0F1;1I0)OVERLAP_F_B",
                                   "(0F1;)OVERLAP_F_B",
                                   "(;1B0)OVERLAP_F_B",
                                   "(0F1;1B0;1B1)OVERLAP_F_B",
                                   "(0F1;1B0",
                                   "(0F0000000000000000000000000000000000000001;1B0)OVERLAP_F_B"};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        assert_false(hlm_action_parse_pair(refused[i], &forward, &backward));
    }
}

static void test_compute(void **state)
{
    (void)state;
    for (enum hlm_action_kind kind = 0; kind < HLM_NUM_ACTIONS; kind++) {
        assert_int_equal(hlm_action_is_compute(kind), strlen(hlm_action_texts[kind]) == 1);
    }
    assert_null(hlm_action_texts[HLM_NUM_ACTIONS]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_format),
        cmocka_unit_test(test_parse_refuses),
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_compute),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
