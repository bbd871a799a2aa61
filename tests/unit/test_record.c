#include "exec/record.h"

#include "tests/support/check.h"
#include "tests/support/golden.h"
#include "tests/support/rank_threads.h"

enum { NUM_STEPS = 5, NUM_WARMUP = 1, MAX_RANKS = 4 };

/* Numbers of one rank, from which its steps are made up: an action of F takes forward_s, one of B
 * twice that; computing and CPU time are shares of it. */
struct script {
    double wall_s[NUM_STEPS], availability[NUM_STEPS];
    double forward_s[NUM_STEPS];
    double group_comm_s; /* in each action */
};

struct run {
    const struct hlm_plan *plan;
    struct script scripts[MAX_RANKS];
    bool virtual_time;
    struct hlm_arena *arenas[MAX_RANKS];
    const struct hlm_measurement *measurements[MAX_RANKS];
};

static const double cpu_share = 0.75; /* of computing, which is all of an action but its messages */
static const double reduce_s = 0.01, norm_s = 0.002, optimizer_s = 0.05;

static void run_init(struct run *run, struct hlm_arena *arena, struct golden_layout layout)
{
    const struct golden *golden = golden_read(arena, "gpt2");
    *run = (struct run){.plan = golden_plan(arena, &golden->model, golden->global_batch_size,
                                            golden->seq_len, &layout)};
    assert_non_null(run->plan);
    static const struct script script = {.wall_s = {9.0, 3.0, 5.0, 1.0, 2.0},
                                         .availability = {1.0, 0.99, 0.5, 1.0, 0.999},
                                         .forward_s = {0.9, 0.02, 0.05, 0.01, 0.04},
                                         .group_comm_s = 0.001};
    for (int r = 0; r < MAX_RANKS; r++) {
        run->scripts[r] = script;
        run->arenas[r] = hlm_arena_new();
    }
}

static void run_release(struct run *run)
{
    for (int r = 0; r < MAX_RANKS; r++) {
        hlm_arena_free(run->arenas[r]);
    }
}

/* The compute actions of the rank, one behind the other from 0, then reduction and optimizer. */
static struct hlm_run_step make_step(struct hlm_arena *arena, const struct run *run, int32_t rank,
                                     int32_t step)
{
    const struct script *script = &run->scripts[rank];
    const struct hlm_strategy *strategy = &run->plan->strategy;
    const struct hlm_schedule *schedule = NULL;
    struct hlm_err err;
    HLM_ASSERT(hlm_schedule_build(arena, strategy->schedule, strategy->pp, 1,
                                  (int32_t)strategy->num_microbatches, &schedule, &err) == HLM_OK);
    schedule = hlm_schedule_lower(arena, schedule);
    const struct hlm_rank_actions *list = &schedule->ranks[hlm_layout_coords(strategy, rank).pp];
    struct hlm_run_event *events = HLM_ARENA_ARRAY(arena, struct hlm_run_event, list->num_actions);
    int32_t num = 0;
    double now_s = 0.0;
    for (int32_t i = 0; i < list->num_actions; i++) {
        struct hlm_run_event event = {.action = list->actions[i], .start_s = now_s};
        if (event.action.kind >= HLM_ACTION_SEND_F && event.action.kind <= HLM_ACTION_RECV_B) {
            continue;
        }
        if (hlm_action_is_compute(event.action.kind)) {
            event.compute_wall_s =
                (event.action.kind == HLM_ACTION_F ? 1.0 : 2.0) * script->forward_s[step];
            event.group_comm_s = script->group_comm_s;
            now_s += event.compute_wall_s + event.group_comm_s;
        } else if (event.action.kind == HLM_ACTION_REDUCE_GRAD) {
            event.group_comm_s = reduce_s;
            now_s += reduce_s;
        } else {
            event.message_s = norm_s;
            event.compute_wall_s = optimizer_s;
            now_s += norm_s + optimizer_s;
        }
        event.compute_cpu_s = cpu_share * event.compute_wall_s;
        event.end_s = now_s;
        events[num++] = event;
    }
    return (struct hlm_run_step){.wall_s = script->wall_s[step],
                                 .loss = 5.0 - step,
                                 .grad_norm = 1.0 + step,
                                 .availability_frac = script->availability[step],
                                 .events = events,
                                 .num_events = num};
}

static enum hlm_status work(struct hlm_comm *comm, void *context, struct hlm_err *err)
{
    struct run *run = context;
    struct hlm_arena *arena = run->arenas[comm->rank];
    struct hlm_record *record = hlm_record_new(arena, run->plan, NUM_STEPS, NUM_WARMUP);
    for (int32_t step = 0; step < NUM_STEPS; step++) {
        const struct hlm_run_step ran = make_step(arena, run, comm->rank, step);
        hlm_record_add(record, &ran);
    }
    const struct hlm_record_about about = {.backend = "cpu",
                                           .transport = "thread",
                                           .backend_library = "a BLAS",
                                           .virtual_time = run->virtual_time,
                                           .num_cores = 3,
                                           .peak_bytes = 1000 + comm->rank};
    return hlm_record_finish(arena, record, comm, &about, &run->measurements[comm->rank], err);
}

static const struct hlm_measurement *finish(struct hlm_arena *arena, struct run *run)
{
    struct hlm_err err;
    check_ok(rank_threads_run(arena, run->plan, work, run, &err), &err);
    for (int r = 1; r < MAX_RANKS; r++) {
        assert_null(run->measurements[r]);
    }
    assert_non_null(run->measurements[0]);
    return run->measurements[0];
}

static double part(const struct hlm_measurement *measurement, const char *name)
{
    for (int32_t i = 0; i < measurement->parts.num_parts; i++) {
        if (strcmp(measurement->parts.parts[i].name, name) == 0) {
            return measurement->parts.parts[i].seconds;
        }
    }
    return 0.0;
}

/* Clean behind the warm-up are steps 1, 3 and 4, of 3, 1 and 2 s: the median is step 4. */
static void test_one_rank(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct run run;
    run_init(&run, arena, (struct golden_layout){0});
    const struct hlm_measurement *measured = finish(arena, &run);
    const double m = (double)run.plan->strategy.num_microbatches;
    check_close(measured->step_time_s, 2.0, 0.0);
    assert_int_equal(measured->num_clean_steps, 3);
    assert_int_equal(measured->num_cores, 3);
    assert_int_equal(measured->memory[0].peak_bytes, 1000);
    check_close(measured->steps[3].loss, 2.0, 0.0);
    check_close(measured->steps[3].grad_norm, 4.0, 0.0);
    /* Its tree and its timeline. */
    check_close(part(measured, "forward"), m * 0.04, 1e-12);
    check_close(part(measured, "backward"), m * 0.08, 1e-12);
    check_close(part(measured, "tensor_parallel"), 2.0 * m * 0.001, 1e-9);
    check_close(part(measured, "data_parallel"), reduce_s + norm_s, 1e-9);
    check_close(measured->parts.seconds, 2.0, 1e-12);
    const struct hlm_timeline_rank *timeline = &measured->timeline.ranks[0];
    assert_int_equal(timeline->num_events, 2 * run.plan->strategy.num_microbatches + 2);
    assert_string_equal(timeline->events[0].action, "0F0");
    check_close(timeline->events[0].end_s, 0.041, 1e-12);
    check_close(timeline->events[0].cpu_s, cpu_share * 0.04, 1e-12);
    run_release(&run);
    hlm_arena_free(arena);
}

/* A step takes as long as on its slowest rank, and is as clean as on its most disturbed one. */
static void test_ranks_agree(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct run run;
    run_init(&run, arena, (struct golden_layout){.pp = 2, .schedule = HLM_SCHEDULE_1F1B});
    run.scripts[1].wall_s[3] = 1.5;
    run.scripts[1].availability[4] = 0.7;
    const struct hlm_measurement *measured = finish(arena, &run);
    check_close(measured->steps[3].wall_s, 1.5, 0.0);
    check_close(measured->steps[4].availability_frac, 0.7, 0.0);
    assert_int_equal(measured->num_clean_steps, 2); /* steps 1 and 3 */
    check_close(measured->step_time_s, 0.5 * (3.0 + 1.5), 1e-12);
    assert_int_equal(measured->num_ranks, 2);
    assert_int_equal(measured->memory[1].peak_bytes, 1001);
    assert_int_equal(measured->memory[1].stage, 1);
    assert_string_equal(measured->timeline.ranks[1].events[0].action, "1F0");
    run_release(&run);
    hlm_arena_free(arena);
}

/* Nobody was undisturbed: all steps behind the warm-up count, and none is called clean. */
static void test_no_clean_step(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct run run;
    run_init(&run, arena, (struct golden_layout){0});
    for (int step = 0; step < NUM_STEPS; step++) {
        run.scripts[0].availability[step] = 0.5;
    }
    const struct hlm_measurement *measured = finish(arena, &run);
    assert_int_equal(measured->num_clean_steps, 0);
    check_close(measured->step_time_s, 2.5, 1e-12); /* of 3, 5, 1 and 2 */
    run_release(&run);
    hlm_arena_free(arena);
}

/* One rank in virtual time: the step is the sum of the least CPU times of its actions behind the
 * warm-up, whatever the wall clock said. */
static void test_virtual_one_rank(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct run run;
    run_init(&run, arena, (struct golden_layout){0});
    run.virtual_time = true;
    const struct hlm_measurement *measured = finish(arena, &run);
    const double m = (double)run.plan->strategy.num_microbatches;
    const double forward_s = cpu_share * 0.01;
    check_close(part(measured, "forward"), m * forward_s, 1e-12);
    check_close(part(measured, "backward"), m * 2.0 * forward_s, 1e-12);
    check_close(measured->step_time_s, 3.0 * m * forward_s + cpu_share * optimizer_s, 1e-9);
    assert_int_equal(measured->num_clean_steps, NUM_STEPS - NUM_WARMUP);
    run_release(&run);
    hlm_arena_free(arena);
}

/* The tp ranks of a stage do equal work, so their mean counts; of replicas the slowest. */
static void test_virtual_groups(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct run run;
    run_init(&run, arena, (struct golden_layout){.tp = 2});
    run.virtual_time = true;
    const double m = (double)run.plan->strategy.num_microbatches;
    for (int step = 0; step < NUM_STEPS; step++) {
        run.scripts[0].forward_s[step] = 0.02;
        run.scripts[1].forward_s[step] = 0.04;
    }
    check_close(part(finish(arena, &run), "forward"), m * cpu_share * 0.03, 1e-9);
    run_release(&run);

    run_init(&run, arena, (struct golden_layout){.dp = 2});
    run.virtual_time = true;
    for (int step = 0; step < NUM_STEPS; step++) {
        run.scripts[0].forward_s[step] = 0.02;
        run.scripts[1].forward_s[step] = 0.04;
    }
    check_close(part(finish(arena, &run), "forward"),
                (double)run.plan->strategy.num_microbatches * cpu_share * 0.04, 1e-9);
    run_release(&run);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_rank), cmocka_unit_test(test_ranks_agree),
        cmocka_unit_test(test_no_clean_step), cmocka_unit_test(test_virtual_one_rank),
        cmocka_unit_test(test_virtual_groups)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
