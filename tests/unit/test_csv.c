#include "tests/support/pipeline.h"

static void test_round_trip(void **state)
{
    struct hlm_arena *arena = *state;
    for (enum hlm_schedule_kind kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
        const char *text = hlm_schedule_csv(arena, pipeline_build(arena, kind, 4, 8));
        const struct hlm_schedule *read = pipeline_from_csv(arena, text);
        hlm_schedule_check(read);
        assert_int_equal(read->kind, kind);
        assert_int_equal(read->num_ranks, 4);
        assert_int_equal(read->num_stages, 4 * hlm_schedule_chunks(kind).min);
        assert_int_equal(read->num_microbatches, 8);
        assert_false(read->lowered);
        assert_string_equal(hlm_schedule_csv(arena, read), text);
    }
}

/* Idle cells, blanks, CR LF, no newline at the end, empty lines behind the last rank. */
static void test_forms(void **state)
{
    const char *const texts[] = {"0F0,0B0,0F1,0B1", ",0F0,,0B0,\t0F1 ,,0B1,\r\n\r\n",
                                 "0F0,0B0,0F1,0B1\n\n,,\n"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const struct hlm_schedule *read = pipeline_from_csv(*state, texts[i]);
        assert_string_equal(hlm_schedule_csv(*state, read), "0F0,0B0,0F1,0B1\n");
        assert_int_equal(read->kind, HLM_SCHEDULE_1F1B);
    }
}

/* A pair is one cell and three actions. */
static void test_pairs(void **state)
{
    const struct hlm_schedule *read =
        pipeline_from_csv(*state, "0F0, (0F1;0B0)OVERLAP_F_B ,,0B1\n");
    assert_int_equal(read->ranks[0].num_actions, 5);
    assert_int_equal(read->ranks[0].actions[1].kind, HLM_ACTION_OVERLAP_F_B);
    assert_int_equal(read->ranks[0].actions[1].stage, 0);
    assert_int_equal(read->ranks[0].actions[1].microbatch, -1);
    assert_string_equal(hlm_schedule_csv(*state, read), "0F0,(0F1;0B0)OVERLAP_F_B,0B1\n");
}

static void test_own_order(void **state)
{
    const struct hlm_schedule *read =
        pipeline_from_csv(*state, "0F0,3F0,3I0,3W0,0I0,0W0\n1F0,2F0,2B0,1B0\n");
    assert_int_equal(read->kind, HLM_NUM_SCHEDULES);
    const int32_t expected[4] = {0, 1, 1, 0};
    assert_memory_equal(read->stage_rank, expected, sizeof expected);
}

static void test_errors(void **state)
{
    const struct {
        const char *text, *part;
    } rows[] = {
        {"", "a.csv: expected a line of actions per rank, found none"},
        {"\n,\n", "found none"},
        {"0F0,0B0\n1F0,1X0\n", "a.csv:2:5: expected a compute action"},
        {"0F0,  0BB\n", "a.csv:1:7: expected a compute action such as 0F3, 2B0, 1I4, 1W4 or "
                        "(0F3;3B1)OVERLAP_F_B, found \"0BB\""},
        {"0F0,0SEND_F0,0B0\n", "a.csv:1:5"},
        {"0F0,(0F0;1B0)OVERLAP\n", "a.csv:1:5: expected a compute action"},
        {"(0B0;0F0)OVERLAP_F_B\n", "a.csv:1:1"},
        {"(0F0;0B0)OVERLAP_F_B\n", "action 1 (0OVERLAP_F_B): expected the forward"},
        {"0F0,0OVERLAP_F_B,0B0\n", "a.csv:1:5"},
        {"0F0,0B0\n\n1F0,1B0\n", "a.csv:2:1: expected a rank with an action"},
        {"0F0,0B0\n2F0,2B0\n", "stages 0..2 and microbatches 0..0, found 2 forwards"},
        {"0F0,999999999F999999999\n", "stages 0..999999999 and"},
        {"0F0,0B0,1F0\n1F0,1B0\n", "found 3 forwards"},
        {"0F0,0B0,1F0\n1B0\n", "a.csv: rank 1, action 1 (1B0): expected a stage of this rank"},
        {"0B0,0F0\n", "a.csv: rank 0, action 1 (0B0): comes before"},
        {"0F0\n", "a.csv: stage 0, microbatch 0: an action is missing"},
        {"0F0,0B0,0F0000000000000000000000000000000000000000000000000000000\n", "a.csv:1:9"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct hlm_schedule *schedule = NULL;
        struct hlm_err err = {0};
        check_fails(hlm_schedule_from_csv(*state, "a.csv", rows[i].text, strlen(rows[i].text),
                                          &schedule, &err),
                    HLM_INPUT, &err, rows[i].part);
        assert_null(schedule);
    }
}

static void test_zero_byte(void **state)
{
    const struct hlm_schedule *schedule = NULL;
    struct hlm_err err = {0};
    check_fails(hlm_schedule_from_csv(*state, "a.csv", "0F0\0,0B0", 8, &schedule, &err), HLM_INPUT,
                &err, "a.csv:1:1");
}

static void test_table_of_times(void **state)
{
    static const struct hlm_timeline_event events[] = {{"0F3", 0, 0.5, 0},
                                                       {"0OPTIMIZER", 0.5, 0.1 + 0.5, 0},
                                                       {"load", 0.75, 1, 0},
                                                       {"(2F4;1B3)OVERLAP_F_B", 1, 2, 0}};
    static const struct hlm_timeline_rank ranks[] = {{7, events, 4, NULL, 0}};
    static const struct hlm_timeline timeline = {"measured", 2, ranks, 1};
    assert_string_equal(hlm_timeline_csv(*state, &timeline),
                        "source,rank,action,stage,microbatch,start_s,end_s\n"
                        "measured,7,0F3,0,3,0,0.5\n"
                        "measured,7,0OPTIMIZER,0,,0.5,0.6\n"
                        "measured,7,load,,,0.75,1\n"
                        "measured,7,(2F4;1B3)OVERLAP_F_B,2,4,1,2\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_round_trip),     pipeline_test(test_forms),
        pipeline_test(test_pairs),          pipeline_test(test_own_order),
        pipeline_test(test_errors),         pipeline_test(test_zero_byte),
        pipeline_test(test_table_of_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
