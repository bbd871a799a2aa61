#include "planner/measurement.h"

#include <unistd.h>

#include "base/file.h"
#include "tests/support/check.h"

static int enter(void **state)
{
    *state = hlm_arena_new();
    return 0;
}

static int leave(void **state)
{
    hlm_arena_free(*state);
    return 0;
}

static const struct hlm_measured_step steps[] = {
    {.step = 0, .wall_s = 9.0, .availability_frac = 1.0},
    {.step = 1, .wall_s = 3.0, .availability_frac = 0.99},
    {.step = 2, .wall_s = 5.0, .availability_frac = 0.5},
    {.step = 3, .wall_s = 1.0, .availability_frac = 1.0},
    {.step = 4, .wall_s = 2.0, .availability_frac = 0.999}};

static void test_median_of_clean_steps(void **state)
{
    int32_t num_clean = -1;
    /* Clean behind one warm-up step: 3, 1, 2. */
    check_close(hlm_measurement_step_time(*state, steps, 5, 1, false, &num_clean), 2.0, 0.0);
    assert_int_equal(num_clean, 3);
    /* Behind three: 1 and 2. */
    check_close(hlm_measurement_step_time(*state, steps, 5, 3, false, &num_clean), 1.5, 0.0);
    assert_int_equal(num_clean, 2);
    /* Virtual time does not mind what the machine did: 3, 5, 1, 2. */
    check_close(hlm_measurement_step_time(*state, steps, 5, 1, true, &num_clean), 2.5, 0.0);
    assert_int_equal(num_clean, 4);
    /* None clean: all behind the warm-up, and no clean ones. */
    check_close(hlm_measurement_step_time(*state, steps, 3, 2, false, &num_clean), 5.0, 0.0);
    assert_int_equal(num_clean, 0);
}

static void test_clean_limit(void **state)
{
    (void)state;
    struct hlm_measured_step step = {.step = 1, .availability_frac = HLM_CLEAN_AVAILABILITY};
    assert_false(hlm_measurement_is_clean(&step, 1, false));
    step.availability_frac += 1e-9;
    assert_true(hlm_measurement_is_clean(&step, 1, false));
    assert_false(hlm_measurement_is_clean(&step, 2, false));
    assert_false(hlm_measurement_is_clean(&step, 2, true));
}

static struct hlm_measurement example(void)
{
    static const struct hlm_timeline_event events[] = {{.action = "0F0", .end_s = 1.0},
                                                       {.action = "0B0", .start_s = 1, .end_s = 2}};
    static const struct hlm_timeline_rank rank = {.rank = 0, .events = events, .num_events = 2};
    return (struct hlm_measurement){
        .digests = {"0000000000000001", "0000000000000002", "0000000000000003", "0000000000000004"},
        .backend = "cpu",
        .transport = "thread",
        .num_ranks = 1,
        .num_cores = 1,
        .emulated_rank = -1,
        .steps = steps,
        .num_steps = 5,
        .num_warmup_steps = 1,
        .num_clean_steps = 3,
        .step_time_s = 2.0,
        .parts = {.name = "step", .seconds = 2.0},
        .timeline = {.source = "measured", .step_s = 2.0, .ranks = &rank, .num_ranks = 1}};
}

/* Writes a measurement to a file, reads it back, and gives the status. */
static enum hlm_status write_and_read(struct hlm_arena *arena,
                                      const struct hlm_measurement *measurement,
                                      const struct hlm_measurement **out, struct hlm_err *err)
{
    const char *text = hlm_json_write(arena, &hlm_measurement_table, measurement, false);
    const char *path =
        hlm_arena_printf(arena, "%s/hlm_measurement.%ld.json", P_tmpdir, (long)getpid());
    check_ok(hlm_file_write(path, text, strlen(text), err), err);
    const enum hlm_status status = hlm_measurement_read(arena, path, out, err);
    unlink(path);
    return status;
}

static void test_read(void **state)
{
    struct hlm_err err;
    const struct hlm_measurement measurement = example();
    const struct hlm_measurement *read = NULL;
    check_ok(write_and_read(*state, &measurement, &read, &err), &err);
    assert_int_equal(read->num_steps, 5);
    assert_string_equal(read->timeline.ranks[0].events[1].action, "0B0");
    check_ok(hlm_measurement_check_plan(read, "m.json", &measurement.digests, &err), &err);
}

static void test_other_plan(void **state)
{
    (void)state;
    struct hlm_err err;
    const struct hlm_measurement measurement = example();
    struct hlm_plan_digests digests = measurement.digests;
    digests.strategy = "00000000000000ff";
    check_fails(hlm_measurement_check_plan(&measurement, "m.json", &digests, &err), HLM_INPUT, &err,
                "m.json: $.digests.strategy");
}

static void test_relations(void **state)
{
    struct hlm_err err;
    const struct hlm_measurement *read = NULL;
    struct hlm_measurement measurement = example();
    measurement.num_warmup_steps = 5;
    check_fails(write_and_read(*state, &measurement, &read, &err), HLM_INPUT, &err,
                "$.num_warmup_steps");
    measurement = example();
    measurement.num_clean_steps = 5;
    check_fails(write_and_read(*state, &measurement, &read, &err), HLM_INPUT, &err,
                "$.num_clean_steps");
    measurement = example();
    static const struct hlm_timeline_rank other = {.rank = 1};
    measurement.timeline.ranks = &other;
    check_fails(write_and_read(*state, &measurement, &read, &err), HLM_INPUT, &err,
                "$.timeline.ranks[0].rank");
}

static void test_step_numbers(void **state)
{
    struct hlm_err err;
    const struct hlm_measurement *read = NULL;
    struct hlm_measured_step renumbered[5];
    memcpy(renumbered, steps, sizeof renumbered);
    renumbered[3].step = 0;
    struct hlm_measurement measurement = example();
    measurement.steps = renumbered;
    check_fails(write_and_read(*state, &measurement, &read, &err), HLM_INPUT, &err,
                "$.steps[3].step: expected 3, found 0");
}

static void test_events(void **state)
{
    struct hlm_err err;
    const struct hlm_measurement *read = NULL;
    static const struct hlm_timeline_event unknown = {.action = "0X0", .end_s = 1.0};
    static const struct hlm_timeline_event backwards = {.action = "0F0", .start_s = 2, .end_s = 1};
    static const struct hlm_timeline_event early = {.action = "0F0", .start_s = -1, .end_s = 1};
    const struct hlm_timeline_rank ranks[] = {{.events = &unknown, .num_events = 1},
                                              {.events = &backwards, .num_events = 1},
                                              {.events = &early, .num_events = 1}};
    struct hlm_measurement measurement = example();
    measurement.timeline.ranks = &ranks[0];
    check_fails(write_and_read(*state, &measurement, &read, &err), HLM_INPUT, &err,
                "$.timeline.ranks[0].events[0].action");
    measurement.timeline.ranks = &ranks[1];
    check_fails(write_and_read(*state, &measurement, &read, &err), HLM_INPUT, &err,
                "$.timeline.ranks[0].events[0].end_s");
    measurement.timeline.ranks = &ranks[2];
    check_fails(write_and_read(*state, &measurement, &read, &err), HLM_INPUT, &err,
                "$.timeline.ranks[0].events[0].start_s");
}

/* A rank alone: its key and its actions come back; without, the text has neither. */
static void test_emulated(void **state)
{
    struct hlm_err err;
    const struct hlm_measurement *read = NULL;
    struct hlm_measurement measurement = example();
    check_ok(write_and_read(*state, &measurement, &read, &err), &err);
    assert_int_equal(read->emulated_rank, -1);
    assert_null(strstr(hlm_json_write(*state, &hlm_measurement_table, read, false), "emulated"));

    static const struct hlm_timeline_event events[] = {{.action = "0F0", .end_s = 1.0}};
    static const struct hlm_timeline_rank alone = {.rank = 5, .events = events, .num_events = 1};
    static const struct hlm_measured_action action = {
        .stage = 0, .kind = HLM_ACTION_F, .num = 1, .compute_s = 0.75, .comm_s = 0.25};
    measurement.num_ranks = 8;
    measurement.emulated_rank = 5;
    measurement.timeline.ranks = &alone;
    measurement.actions = &action;
    measurement.num_actions = 1;
    check_ok(write_and_read(*state, &measurement, &read, &err), &err);
    assert_int_equal(read->emulated_rank, 5);
    assert_int_equal(read->num_actions, 1);
    check_close(read->actions[0].compute_s, 0.75, 0.0);

    measurement.emulated_rank = 8;
    check_fails(write_and_read(*state, &measurement, &read, &err), HLM_INPUT, &err,
                "$.emulated_rank: expected less than num_ranks = 8, found 8");
    measurement.emulated_rank = 4;
    check_fails(write_and_read(*state, &measurement, &read, &err), HLM_INPUT, &err,
                "$.timeline.ranks: expected the emulated rank 4 alone");
}

static void test_pair_event(void **state)
{
    struct hlm_err err;
    const struct hlm_measurement *read = NULL;
    static const struct hlm_timeline_event pair = {.action = "(0F3;3B1)OVERLAP_F_B", .end_s = 1.0};
    static const struct hlm_timeline_rank rank = {.events = &pair, .num_events = 1};
    struct hlm_measurement measurement = example();
    measurement.timeline.ranks = &rank;
    check_ok(write_and_read(*state, &measurement, &read, &err), &err);
}

static void test_rates(void **state)
{
    (void)state;
    const struct hlm_plan plan = {.strategy = {.global_batch_size = 8, .seq_len = 100},
                                  .prediction = {.step_time_s = 2.0, .mfu = 0.4}};
    double tokens_per_s = 0.0, mfu = 0.0;
    hlm_measurement_rates(&plan, 4.0, &tokens_per_s, &mfu);
    check_close(tokens_per_s, 200.0, 1e-12);
    check_close(mfu, 0.2, 1e-12);
    const struct hlm_plan no_peak = {.strategy = plan.strategy,
                                     .prediction = {.step_time_s = 2.0, .mfu = (double)INFINITY}};
    hlm_measurement_rates(&no_peak, 4.0, &tokens_per_s, &mfu);
    assert_true(mfu == 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_median_of_clean_steps, enter, leave),
        cmocka_unit_test_setup_teardown(test_clean_limit, enter, leave),
        cmocka_unit_test_setup_teardown(test_read, enter, leave),
        cmocka_unit_test_setup_teardown(test_other_plan, enter, leave),
        cmocka_unit_test_setup_teardown(test_relations, enter, leave),
        cmocka_unit_test_setup_teardown(test_step_numbers, enter, leave),
        cmocka_unit_test_setup_teardown(test_events, enter, leave),
        cmocka_unit_test_setup_teardown(test_emulated, enter, leave),
        cmocka_unit_test_setup_teardown(test_pair_event, enter, leave),
        cmocka_unit_test(test_rates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
