/* Small cases worked out by hand. */
#include "tests/support/pipeline.h"

static void check_event(const struct hlm_sim_event *event, const char *name, double start_s,
                        double end_s)
{
    char text[32];
    hlm_action_format(event->action, text);
    assert_string_equal(text, name);
    assert_true(event->start_s == start_s);
    assert_true(event->end_s == end_s);
}

/* p = 2, m = 1: F0 0..1, message 0.5, F1 1.5..3.5, B1 3.5..7.5, message 0.25, B0 7.75..10.75. */
static const double forward_s[2] = {1, 2}, backward_s[2] = {3, 4};
static const double send_forward_s[2] = {0.5, 99}, send_backward_s[2] = {99, 0.25};
static const double reduce_s[2] = {1, 8}, optimizer_s[2] = {2, 5};

static struct hlm_sim_costs small_costs(void)
{
    return (struct hlm_sim_costs){.forward_s = forward_s,
                                  .backward_s = backward_s,
                                  .send_forward_s = send_forward_s,
                                  .send_backward_s = send_backward_s,
                                  .reduce_s = reduce_s,
                                  .optimizer_s = optimizer_s,
                                  .sync_s = 0.125};
}

static void test_whole_step(void **state)
{
    const struct hlm_schedule *schedule = pipeline_build(*state, HLM_SCHEDULE_1F1B, 2, 1);
    const struct hlm_sim_costs costs = small_costs();
    const struct hlm_sim_result result = pipeline_run(*state, schedule, &costs);
    const struct hlm_sim_rank *ranks = result.ranks;
    check_event(&ranks[0].events[0], "0F0", 0, 1);
    check_event(&ranks[1].events[0], "1F0", 1.5, 3.5);
    check_event(&ranks[1].events[1], "1B0", 3.5, 7.5);
    check_event(&ranks[0].events[1], "0B0", 7.75, 10.75);
    check_event(&ranks[0].events[2], "0REDUCE_GRAD", 10.75, 11.75);
    check_event(&ranks[1].events[2], "1REDUCE_GRAD", 7.5, 15.5);
    check_event(&ranks[0].events[3], "0OPTIMIZER", 15.625, 17.625);
    check_event(&ranks[1].events[3], "1OPTIMIZER", 15.625, 20.625);
    assert_true(result.pipeline_s == 10.75);
    assert_true(result.reduce_end_s == 15.5);
    assert_true(result.step_s == 20.625);
    assert_true(ranks[0].busy_s == 4 && ranks[1].busy_s == 6);
    assert_true(ranks[0].compute_end_s == 10.75 && ranks[1].compute_end_s == 7.5);
    assert_true(ranks[0].first_start_s == 0 && ranks[1].first_start_s == 1.5);
    assert_true(ranks[0].wait_transfer_s == 0.25 && ranks[1].wait_transfer_s == 0.5);
    assert_int_equal(ranks[0].num_events, 4);
    assert_true(hlm_simulate_step(*state, HLM_SCHEDULE_1F1B, 2, 1, &costs) == 20.625);
    assert_true(hlm_simulate_step(*state, HLM_SCHEDULE_GPIPE, 2, 1, &costs) == 20.625);
}

/* GPipe, p = 2, m = 2, F 1 and 3: the second message arrives at 2.5 while stage 1 is busy
 * until 4.5. On a buffered link its forward starts then; where both sides are needed the transfer
 * does. */
static void test_links(void **state)
{
    const double forward[2] = {1, 3}, backward[2] = {1, 1};
    const bool both[2] = {true, false};
    struct hlm_sim_costs costs = small_costs();
    costs.forward_s = forward;
    costs.backward_s = backward;
    const struct hlm_schedule *schedule = pipeline_build(*state, HLM_SCHEDULE_GPIPE, 2, 2);
    const struct hlm_sim_result buffered = pipeline_run(*state, schedule, &costs);
    check_event(&buffered.ranks[1].events[0], "1F0", 1.5, 4.5);
    check_event(&buffered.ranks[1].events[1], "1F1", 4.5, 7.5);
    assert_true(buffered.ranks[1].wait_transfer_s == 0.5);
    costs.needs_both_sides = both;
    const struct hlm_sim_result pulled = pipeline_run(*state, schedule, &costs);
    check_event(&pulled.ranks[1].events[0], "1F0", 1.5, 4.5);
    check_event(&pulled.ranks[1].events[1], "1F1", 5, 8);
    assert_true(pulled.ranks[1].wait_transfer_s == 1);
    /* The gradients end at 9 and 10; stage 0 pulls the second one when the first backward is done.
     */
    check_event(&pulled.ranks[0].events[2], "0B0", 9.25, 10.25);
    check_event(&pulled.ranks[0].events[3], "0B1", 10.5, 11.5);
}

/* Two stages a rank in a V: stage 1's gradient goes from stage 2 to it without a message, and
 * stages are reduced in the order in which their gradients are ready. */
static void test_two_stages_a_rank(void **state)
{
    const struct hlm_schedule *schedule =
        pipeline_from_csv(*state, "0F0,3F0,3B0,0B0\n1F0,2F0,2I0,1B0,2W0\n");
    const double ones[4] = {1, 1, 1, 1}, reduce[4] = {10, 20, 30, 40}, far[4] = {8, 8, 8, 8};
    struct hlm_sim_costs costs = {.forward_s = ones,
                                  .backward_s = ones,
                                  .input_grad_s = ones,
                                  .weight_grad_s = ones,
                                  .send_forward_s = far,
                                  .send_backward_s = far,
                                  .reduce_s = reduce,
                                  .optimizer_s = reduce};
    const struct hlm_sim_result result = pipeline_run(*state, schedule, &costs);
    check_event(&result.ranks[1].events[0], "1F0", 9, 10);
    check_event(&result.ranks[1].events[1], "2F0", 10, 11);
    check_event(&result.ranks[0].events[1], "3F0", 19, 20);
    check_event(&result.ranks[0].events[2], "3B0", 20, 21);
    check_event(&result.ranks[1].events[2], "2I0", 29, 30);
    check_event(&result.ranks[1].events[3], "1B0", 30, 31);
    check_event(&result.ranks[1].events[4], "2W0", 31, 32);
    check_event(&result.ranks[0].events[3], "0B0", 39, 40);
    check_event(&result.ranks[1].events[5], "1REDUCE_GRAD", 32, 52);
    check_event(&result.ranks[1].events[6], "2REDUCE_GRAD", 52, 82);
    check_event(&result.ranks[0].events[4], "3REDUCE_GRAD", 40, 80);
    check_event(&result.ranks[0].events[5], "0REDUCE_GRAD", 80, 90);
    check_event(&result.ranks[1].events[7], "1OPTIMIZER", 90, 140);
    costs.overlap_reduce = true;
    const struct hlm_sim_result overlapped = pipeline_run(*state, schedule, &costs);
    check_event(&overlapped.ranks[1].events[5], "1REDUCE_GRAD", 31, 51);
    check_event(&overlapped.ranks[1].events[6], "2REDUCE_GRAD", 51, 81);
    check_event(&overlapped.ranks[0].events[4], "3REDUCE_GRAD", 21, 61);
    check_event(&overlapped.ranks[0].events[5], "0REDUCE_GRAD", 61, 71);
    assert_true(overlapped.reduce_end_s == 81);
    assert_true(overlapped.pipeline_s == 40);
}

/* Measured durations take the place of the tables, also in a lowered list. */
static void test_measured(void **state)
{
    const struct hlm_schedule *schedule = pipeline_build(*state, HLM_SCHEDULE_1F1B, 2, 2);
    const double first[4] = {1, 2, 3, 4}, second[4] = {5, 6, 7, 8};
    const double *const measured[2] = {first, second};
    const struct hlm_sim_costs costs = {.action_s = measured};
    const struct hlm_sim_result result =
        pipeline_run(*state, hlm_schedule_lower(*state, schedule), &costs);
    check_event(&result.ranks[0].events[1], "0F1", 1, 3);
    check_event(&result.ranks[1].events[0], "1F0", 1, 6);
    check_event(&result.ranks[1].events[3], "1B1", 19, 27);
    check_event(&result.ranks[0].events[2], "0B0", 12, 15);
    check_event(&result.ranks[0].events[3], "0B1", 27, 31);
    assert_true(result.step_s == 31);
}

/* A pair starts when both inputs are there (for 1F1 at 2.5, for 1B0 at 3.5), and gives both outputs
 * when it ends. */
static void test_pairs(void **state)
{
    const struct hlm_schedule *schedule =
        pipeline_from_csv(*state, "0F0,0F1,0B0,0B1\n1F0,(1F1;1B0)OVERLAP_F_B,1B1\n");
    const double overlap_s[2] = {99, 4.5};
    struct hlm_sim_costs costs = small_costs();
    struct hlm_sim_result result = pipeline_run(*state, schedule, &costs);
    const struct hlm_sim_event *pair = &result.ranks[1].events[1];
    check_event(&result.ranks[1].events[0], "1F0", 1.5, 3.5);
    check_event(pair, "1F1", 3.5, 9.5);
    assert_memory_equal(&pair->overlapped, &((struct hlm_action){HLM_ACTION_B, 1, 0}),
                        sizeof(struct hlm_action));
    assert_int_equal(result.ranks[1].events[0].overlapped.kind, HLM_NUM_ACTIONS);
    check_event(&result.ranks[1].events[2], "1B1", 9.5, 13.5);
    check_event(&result.ranks[0].events[2], "0B0", 9.75, 12.75);
    assert_int_equal(result.ranks[1].num_events, 5); /* with REDUCE_GRAD and OPTIMIZER */
    assert_true(result.ranks[1].busy_s == 12);
    costs.overlap_s = overlap_s;
    result = pipeline_run(*state, hlm_schedule_lower(*state, schedule), &costs);
    check_event(&result.ranks[1].events[1], "1F1", 3.5, 8);
    check_event(&result.ranks[1].events[2], "1B1", 8, 12);
    assert_true(result.ranks[1].busy_s == 10.5);
    const double first[4] = {1, 1, 1, 1}, second[3] = {1, 2, 3};
    const double *const measured[2] = {first, second};
    costs.action_s = measured;
    result = pipeline_run(*state, schedule, &costs);
    check_event(&result.ranks[1].events[1], "1F1", 2.5, 4.5);
    check_event(&result.ranks[1].events[2], "1B1", 4.5, 7.5);
}

/* A pair takes, runs with what both need, then frees. */
static void test_memory_of_pairs(void **state)
{
    const struct hlm_schedule *schedule =
        pipeline_from_csv(*state, "0F0,(0F1;0B0)OVERLAP_F_B,0B1\n");
    const int64_t fixed[1] = {1000}, activation[1] = {100}, transient[1] = {1};
    const struct hlm_sim_memory memory = {fixed, activation, transient};
    const double second[1] = {1};
    const struct hlm_sim_costs costs = {.forward_s = second, .backward_s = second};
    struct hlm_sim_result result = {0};
    struct hlm_err err = {0};
    check_ok(hlm_simulate(*state, schedule, &costs, &memory, true, &result, &err), &err);
    const int64_t running[3] = {1101, 1202, 1101}, after[3] = {1100, 1100, 1000};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(result.ranks[0].events[i].bytes, running[i]);
        assert_int_equal(result.ranks[0].events[i].bytes_after, after[i]);
    }
    assert_int_equal(result.ranks[0].peak_bytes, 1202);
}

static void test_memory(void **state)
{
    const struct hlm_schedule *schedule = pipeline_build(*state, HLM_SCHEDULE_1F1B, 2, 3);
    const int64_t fixed[2] = {1000, 2000}, activation[2] = {100, 10}, transient[2] = {1, 2};
    const struct hlm_sim_memory memory = {fixed, activation, transient};
    const struct hlm_sim_costs costs = small_costs();
    struct hlm_sim_result result = {0};
    struct hlm_err err = {0};
    check_ok(hlm_simulate(*state, schedule, &costs, &memory, true, &result, &err), &err);
    assert_int_equal(result.ranks[0].peak_bytes, 1201);
    assert_int_equal(result.ranks[1].peak_bytes, 2012);
    const int64_t running[8] = {1101, 1201, 1201, 1201, 1201, 1101, 1000, 1000};
    const int64_t after[8] = {1100, 1200, 1100, 1200, 1100, 1000, 1000, 1000};
    assert_int_equal(result.ranks[0].num_events, 8);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(result.ranks[0].events[i].bytes, running[i]);
        assert_int_equal(result.ranks[0].events[i].bytes_after, after[i]);
    }
}

/* W, not I, gives the activations back. */
static void test_memory_of_halves(void **state)
{
    const struct hlm_schedule *schedule = pipeline_from_csv(*state, "0F0,0I0,0F1,0I1,0W0,0W1\n");
    const int64_t none[1] = {0}, one[1] = {1};
    const struct hlm_sim_memory memory = {none, one, none};
    const double second[1] = {1};
    const struct hlm_sim_costs costs = {
        .forward_s = second, .input_grad_s = second, .weight_grad_s = second};
    struct hlm_sim_result result = {0};
    struct hlm_err err = {0};
    check_ok(hlm_simulate(*state, schedule, &costs, &memory, false, &result, &err), &err);
    assert_int_equal(result.ranks[0].peak_bytes, 2);
    assert_null(result.ranks[0].events);
    assert_true(result.step_s == 6);
}

/* Each rank waits for what the other does later; outputs stay untouched. */
static void test_no_progress(void **state)
{
    const struct hlm_schedule *schedule =
        pipeline_from_csv(*state, "0F0,2F0,0F1,2F1,2B0,0B0,2B1,0B1\n1F0,1B0,1F1,1B1\n");
    const double ones[3] = {1, 1, 1};
    const struct hlm_sim_costs costs = {.forward_s = ones, .backward_s = ones};
    struct hlm_sim_result result = {.step_s = 42};
    struct hlm_err err = {0};
    check_fails(hlm_simulate(*state, schedule, &costs, NULL, false, &result, &err), HLM_FAILED,
                &err, "makes no progress: rank 0 before 2F1, rank 1 before 1B0");
    assert_true(result.step_s == 42);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_whole_step),
        pipeline_test(test_links),
        pipeline_test(test_two_stages_a_rank),
        pipeline_test(test_measured),
        pipeline_test(test_pairs),
        pipeline_test(test_memory_of_pairs),
        pipeline_test(test_memory),
        pipeline_test(test_memory_of_halves),
        pipeline_test(test_no_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
