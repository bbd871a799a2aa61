#include "tests/support/pipeline.h"

static void test_closing_actions(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_schedule *lowered =
        hlm_schedule_lower(arena, pipeline_build(arena, HLM_SCHEDULE_1F1B, 2, 1));
    hlm_schedule_check(lowered);
    assert_true(lowered->lowered);
    const char *const expected[2][6] = {
        {"0F0", "0SEND_F0", "0RECV_B0", "0B0", "0REDUCE_GRAD", "0OPTIMIZER"},
        {"1RECV_F0", "1F0", "1B0", "1SEND_B0", "1REDUCE_GRAD", "1OPTIMIZER"}};
    for (int32_t rank = 0; rank < 2; rank++) {
        assert_int_equal(lowered->ranks[rank].num_actions, 6);
        for (int32_t i = 0; i < 6; i++) {
            char text[32];
            hlm_action_format(lowered->ranks[rank].actions[i], text);
            assert_string_equal(text, expected[rank][i]);
        }
    }
}

/* A V shape: stages 1 and 2 are neighbours on one rank and exchange without a message; W sends
 * nothing; each stage is reduced behind its last W. */
static void test_v_shape(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_schedule *lowered = hlm_schedule_lower(
        arena, pipeline_from_csv(arena, "0F0,3F0,3I0,3W0,0I0,0W0\n1F0,2F0,2B0,1I0,1W0\n"));
    hlm_schedule_check(lowered);
    assert_string_equal(pipeline_text(arena, lowered, 0),
                        "0F0,0SEND_F0,3RECV_F0,3F0,3I0,3SEND_B0,3W0,0RECV_B0,0I0,0W0");
    assert_string_equal(pipeline_text(arena, lowered, 1),
                        "1RECV_F0,1F0,2F0,2SEND_F0,2RECV_B0,2B0,1I0,1SEND_B0,1W0");
    struct hlm_err err = {0};
    check_ok(hlm_schedule_rendezvous(arena, lowered, &err), &err);
    char last[32];
    hlm_action_format(lowered->ranks[1].actions[lowered->ranks[1].num_actions - 1], last);
    assert_string_equal(last, "1OPTIMIZER");
}

/* The compute actions keep their order. */
static void test_keeps_compute(void **state)
{
    struct hlm_arena *arena = *state;
    for (enum hlm_schedule_kind kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
        const struct hlm_schedule *schedule = pipeline_build(arena, kind, 5, 10);
        const struct hlm_schedule *lowered = hlm_schedule_lower(arena, schedule);
        assert_string_equal(hlm_schedule_csv(arena, lowered), hlm_schedule_csv(arena, schedule));
        assert_int_equal(lowered->kind, kind);
    }
}

/* A pair waits for both inputs; its receives stand before it, its sends behind it. */
static void test_pairs(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_schedule *lowered = hlm_schedule_lower(
        arena, pipeline_from_csv(arena, "0F0,0F1,0B0,0B1\n1F0,(1F1;1B0)OVERLAP_F_B,1B1\n"));
    hlm_schedule_check(lowered);
    assert_string_equal(pipeline_text(arena, lowered, 0),
                        "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1");
    assert_string_equal(pipeline_text(arena, lowered, 1),
                        "1RECV_F0,1F0,1RECV_F1,1F1,1B0,1SEND_B0,1B1,1SEND_B1");
    assert_int_equal(lowered->ranks[1].actions[3].kind, HLM_ACTION_OVERLAP_F_B);
    struct hlm_err err = {0};
    check_ok(hlm_schedule_rendezvous(arena, lowered, &err), &err);
}

static void test_single_rank(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_schedule *lowered =
        hlm_schedule_lower(arena, pipeline_build(arena, HLM_SCHEDULE_1F1B, 1, 2));
    hlm_schedule_check(lowered);
    assert_string_equal(pipeline_text(arena, lowered, 0), "0F0,0B0,0F1,0B1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_closing_actions), pipeline_test(test_v_shape),
        pipeline_test(test_keeps_compute),   pipeline_test(test_pairs),
        pipeline_test(test_single_rank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
