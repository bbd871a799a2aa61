#include "tests/support/pipeline.h"

static const struct hlm_timeline *make(struct hlm_arena *arena, bool with_memory)
{
    const struct hlm_schedule *schedule = pipeline_build(arena, HLM_SCHEDULE_1F1B, 2, 2);
    const struct hlm_sim_costs costs = pipeline_costs(arena, 2, 1, 2, 0.1);
    static const int64_t fixed[2] = {1000, 2000}, activation[2] = {100, 10}, transient[2] = {0, 5};
    const struct hlm_sim_memory memory = {fixed, activation, transient};
    struct hlm_sim_result result = {0};
    struct hlm_err err = {0};
    check_ok(
        hlm_simulate(arena, schedule, &costs, with_memory ? &memory : NULL, true, &result, &err),
        &err);
    return hlm_timeline_from_simulation(arena, schedule, &result);
}

static void test_from_simulation(void **state)
{
    const struct hlm_timeline *timeline = make(*state, false);
    assert_string_equal(timeline->source, "simulated");
    assert_int_equal(timeline->num_ranks, 2);
    assert_int_equal(timeline->ranks[1].rank, 1);
    assert_int_equal(timeline->ranks[1].num_events, 6);
    assert_string_equal(timeline->ranks[1].events[1].action, "1B0");
    assert_true(timeline->ranks[1].events[1].start_s == 2.1);
    assert_true(timeline->ranks[1].events[1].end_s == 4.1);
    assert_string_equal(timeline->ranks[1].events[5].action, "1OPTIMIZER");
    assert_true(timeline->ranks[0].events[5].end_s == timeline->step_s);
    assert_int_equal(timeline->ranks[0].num_memory, 0);
}

/* Rank 0: F0 0..1, F1 1..2, B0 4.2..6.2, ..: a point where the bytes change, none twice at a
 * moment. */
static void test_memory(void **state)
{
    const struct hlm_timeline *timeline = make(*state, true);
    const struct hlm_timeline_rank *rank = &timeline->ranks[0];
    assert_true(rank->num_memory > 4);
    assert_true(rank->memory[0].at_s == 0 && rank->memory[0].bytes == 1100);
    assert_true(rank->memory[1].at_s == 1 && rank->memory[1].bytes == 1200);
    assert_int_equal(rank->memory[rank->num_memory - 1].bytes, 1000);
    for (int32_t i = 1; i < rank->num_memory; i++) {
        assert_true(rank->memory[i].at_s > rank->memory[i - 1].at_s);
    }
    int64_t peak = 0;
    for (int32_t i = 0; i < timeline->ranks[1].num_memory; i++) {
        peak =
            timeline->ranks[1].memory[i].bytes > peak ? timeline->ranks[1].memory[i].bytes : peak;
    }
    assert_int_equal(peak, 2015);
}

static void test_json_round_trip(void **state)
{
    for (int with_memory = 0; with_memory < 2; with_memory++) {
        const struct hlm_timeline *timeline = make(*state, with_memory == 1);
        const char *text = hlm_json_write(*state, &hlm_timeline_table, timeline, false);
        assert_non_null(strstr(text, "\"hlmplan.timeline\""));
        assert_int_equal(strstr(text, "\"memory\"") != NULL, with_memory);
        struct hlm_timeline read = {0};
        struct hlm_err err = {0};
        check_ok(hlm_json_read_text(*state, "timeline.json", text, strlen(text),
                                    &hlm_timeline_table, &read, &err),
                 &err);
        assert_string_equal(hlm_json_write(*state, &hlm_timeline_table, &read, false), text);
        assert_int_equal(read.ranks[0].num_memory, timeline->ranks[0].num_memory);
        assert_true(read.ranks[1].events[3].end_s == timeline->ranks[1].events[3].end_s);
    }
}

static void test_json_refuses(void **state)
{
    static const char text[] =
        "{\"schema\": \"hlmplan.timeline\", \"version\": 1, \"source\": \"measured\","
        "\"step_s\": 1, \"ranks\": [{\"rank\": -1, \"events\": []}]}";
    struct hlm_timeline read = {0};
    struct hlm_err err = {0};
    check_fails(hlm_json_read_text(*state, "t.json", text, sizeof text - 1, &hlm_timeline_table,
                                   &read, &err),
                HLM_INPUT, &err, "$.ranks[0].rank");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_from_simulation),
        pipeline_test(test_memory),
        pipeline_test(test_json_round_trip),
        pipeline_test(test_json_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
