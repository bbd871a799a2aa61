#include <stdlib.h>

#include "tests/support/pipeline.h"

static const char *trace_of(struct hlm_arena *arena, const struct hlm_timeline *timeline)
{
    const char *text = hlm_chrome_trace(arena, &timeline, 1);
    struct hlm_json_foreign *foreign = NULL;
    struct hlm_err err = {0};
    check_ok(hlm_json_foreign_parse(arena, "trace.json", text, strlen(text), &foreign, &err), &err);
    const char *unit = NULL;
    bool found = false;
    check_ok(hlm_json_foreign_string(foreign, "displayTimeUnit", &unit, &found, &err), &err);
    assert_true(found);
    hlm_json_foreign_free(foreign);
    return text;
}

/* The object of the trace's event with this name, up to its end. */
static const char *event_of(struct hlm_arena *arena, const char *trace, const char *name)
{
    const char *begin = strstr(trace, hlm_arena_printf(arena, "{\"name\":\"%s\"", name));
    if (begin == NULL) {
        fail_msg("no event \"%s\" in %s", name, trace);
        return "";
    }
    return hlm_arena_strndup(arena, begin, (size_t)(strstr(begin, "}}") + 2 - begin));
}

static const struct hlm_timeline_event events[] = {
    {"0F0", 0, 1e-3, 0},
    {"0SEND_F0", 1e-3, 3e-3, 0},
    {"0F1", 1e-3, 2.0000005e-3, 0},
    {"0SEND_F1", 2e-3, 4e-3, 0},
    {"0I0", 5e-3, 6e-3, 0},
    {"0REDUCE_GRAD", 6e-3, 7e-3, 0},
    {"0OPTIMIZER", 7e-3, 8e-3, 0},
    {"(0F5;0B4)OVERLAP_F_B", 7.5e-3, 8e-3, 0},
    {"load \"data\"", 8e-3, 9e-3, 0},
};
static const struct hlm_timeline_memory memory[] = {{0, 1000}, {2e-3, 123456789012}};
static const struct hlm_timeline_rank ranks[] = {
    {3, events, sizeof events / sizeof events[0], memory, 2}};
static const struct hlm_timeline timeline = {"measured", 9e-3, ranks, 1};

static void test_events(void **state)
{
    const struct {
        const char *name, *expected;
    } rows[] = {
        {"0F0", "{\"name\":\"0F0\",\"ph\":\"X\",\"pid\":1,\"tid\":49,\"cat\":\"forward\",\"ts\":0,"
                "\"dur\":1000,\"args\":{\"stage\":0,\"microbatch\":0}}"},
        {"0F1",
         "{\"name\":\"0F1\",\"ph\":\"X\",\"pid\":1,\"tid\":49,\"cat\":\"forward\",\"ts\":1000,"
         "\"dur\":1000.001,\"args\":{\"stage\":0,\"microbatch\":1}}"},
        {"0I0",
         "{\"name\":\"0I0\",\"ph\":\"X\",\"pid\":1,\"tid\":49,\"cat\":\"backward\",\"ts\":5000,"
         "\"dur\":1000,\"args\":{\"stage\":0,\"microbatch\":0}}"},
        {"0OPTIMIZER",
         "{\"name\":\"0OPTIMIZER\",\"ph\":\"X\",\"pid\":1,\"tid\":49,\"cat\":\"optimizer\","
         "\"ts\":7000,\"dur\":1000,\"args\":{\"stage\":0}}"},
        {"(0F5;0B4)OVERLAP_F_B",
         "{\"name\":\"(0F5;0B4)OVERLAP_F_B\",\"ph\":\"X\",\"pid\":1,\"tid\":49,\"cat\":\"pair\","
         "\"ts\":7500,\"dur\":500,\"args\":{\"stage\":0,\"microbatch\":5}}"},
        {"process_name",
         "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":1,\"tid\":0,\"args\":{\"name\":"
         "\"measured\"}}"},
        {"thread_name",
         "{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":49,\"args\":{\"name\":"
         "\"rank 3\"}}"},
        {"memory of rank 3",
         "{\"name\":\"memory of rank 3\",\"ph\":\"C\",\"pid\":1,\"tid\":49,\"ts\":0,"
         "\"args\":{\"bytes\":1000}}"},
    };
    const char *trace = trace_of(*state, &timeline);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_string_equal(event_of(*state, trace, rows[i].name), rows[i].expected);
    }
    assert_non_null(strstr(trace, "\"bytes\":123456789012"));
    assert_non_null(strstr(event_of(*state, trace, "load \\\"data\\\""), "\"cat\":\"other\""));
}

/* Messages that overlap get threads of their own; one that fits behind another shares its thread.
 */
static void test_lanes(void **state)
{
    const char *trace = trace_of(*state, &timeline);
    assert_non_null(
        strstr(event_of(*state, trace, "0SEND_F0"), "\"tid\":50,\"cat\":\"communication\""));
    assert_non_null(strstr(event_of(*state, trace, "0SEND_F1"), "\"tid\":51,"));
    assert_non_null(strstr(event_of(*state, trace, "0REDUCE_GRAD"), "\"tid\":50,"));
    assert_non_null(strstr(trace, "\"tid\":51,\"args\":{\"name\":\"rank 3 communication\"}"));
    assert_null(strstr(trace, "\"tid\":52,"));
}

/* A simulated step with overlapped reduction: events of one thread never overlap. */
static void test_no_overlap(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_schedule *schedule =
        pipeline_from_csv(arena, "0F0,2F0,2B0,0B0\n1F0,3F0,3B0,1B0\n");
    struct hlm_sim_costs costs = pipeline_costs(arena, 4, 0.1, 0.2, 1.0 / 3);
    costs.reduce_s = pipeline_fill(arena, 4, 1.7);
    costs.overlap_reduce = true;
    const struct hlm_sim_result result = pipeline_run(arena, schedule, &costs);
    const char *trace = trace_of(arena, hlm_timeline_from_simulation(arena, schedule, &result));
    double end_us[64] = {0};
    int count = 0;
    for (const char *at = strstr(trace, "\"ph\":\"X\""); at != NULL;
         at = strstr(at + 1, "\"ph\":\"X\"")) {
        const long thread = strtol(strstr(at, "\"tid\":") + 6, NULL, 10);
        const double start_us = strtod(strstr(at, "\"ts\":") + 5, NULL);
        assert_in_range(thread, 0, 63);
        assert_true(start_us >= end_us[thread] - 1e-6);
        end_us[thread] = start_us + strtod(strstr(at, "\"dur\":") + 6, NULL);
        count++;
    }
    assert_int_equal(count, 2 * (4 + 2 + 1));
}

static void test_two_timelines(void **state)
{
    const struct hlm_timeline second = {"simulated", 9e-3, ranks, 1};
    const struct hlm_timeline *const both[2] = {&timeline, &second};
    const char *trace = hlm_chrome_trace(*state, both, 2);
    assert_non_null(strstr(trace, "\"pid\":2,\"tid\":0,\"args\":{\"name\":\"simulated\"}"));
    assert_non_null(strstr(trace, "\"pid\":1,\"tid\":0,\"args\":{\"name\":\"measured\"}"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_events),
        pipeline_test(test_lanes),
        pipeline_test(test_no_overlap),
        pipeline_test(test_two_timelines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
