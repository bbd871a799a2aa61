#include "exec/runner/record.h"

#include "tests/support/check.h"
#include "tests/support/golden.h"
#include "tests/support/rank_threads.h"

enum { NUM_STEPS = 5, NUM_WARMUP = 1, MAX_RANKS = 4 };

/* Numbers of one rank, from which its steps are made up: an action of F takes forward_s, one of B
 * twice that, its halves once each; computing and CPU time are shares of it. */
struct script {
    double wall_s[NUM_STEPS], availability[NUM_STEPS];
    double forward_s[NUM_STEPS];
    double group_comm_s, expert_comm_s; /* in each action */
};

struct run {
    const struct hlm_plan *plan;
    struct script scripts[MAX_RANKS];
    bool virtual_time;
    const double *message_s;
    enum hlm_record_emulation emulation;
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
                                         .availability = {1.0, 0.99, 0.5, 1.9, 0.999},
                                         .forward_s = {0.9, 0.02, 0.05, 0.01, 0.04},
                                         .group_comm_s = 0.001,
                                         .expert_comm_s = 0.0004};
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
    HLM_ASSERT(hlm_schedule_build(arena, strategy->schedule, strategy->pp, strategy->vpp,
                                  (int32_t)strategy->num_microbatches, &schedule, &err) == HLM_OK);
    schedule = hlm_schedule_lower(arena, schedule);
    const struct hlm_rank_actions *list = &schedule->ranks[hlm_layout_coords(strategy, rank).pp];
    struct hlm_run_event *events = HLM_ARENA_ARRAY(arena, struct hlm_run_event, list->num_actions);
    int32_t num = 0;
    double now_s = 0.0;
    for (int32_t i = 0; i < list->num_actions; i++) {
        struct hlm_run_event event = {.action = list->actions[i], .start_s = now_s};
        const enum hlm_action_kind kind = event.action.kind;
        if ((kind >= HLM_ACTION_SEND_F && kind <= HLM_ACTION_RECV_B) ||
            kind == HLM_ACTION_OVERLAP_F_B) {
            continue;
        }
        if (hlm_action_is_compute(event.action.kind)) {
            event.compute_wall_s =
                (event.action.kind == HLM_ACTION_B ? 2.0 : 1.0) * script->forward_s[step];
            event.group_comm_s = script->group_comm_s;
            event.expert_comm_s = script->expert_comm_s;
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

static enum hlm_status gather(void *context, const void *own, void *all, int64_t bytes,
                              struct hlm_err *err)
{
    struct hlm_comm *comm = context;
    return comm->ops->all_gather(comm, HLM_GROUP_WORLD, own, all, bytes, HLM_WIRE_BYTE, err);
}

static enum hlm_status work(struct hlm_comm *comm, void *context, struct hlm_err *err)
{
    struct run *run = context;
    struct hlm_arena *arena = run->arenas[comm->rank];
    struct hlm_record *record = NULL;
    HLM_TRY(hlm_record_new(arena, run->plan, NUM_STEPS, NUM_WARMUP, &record, err));
    for (int32_t step = 0; step < NUM_STEPS; step++) {
        const struct hlm_run_step ran = make_step(arena, run, comm->rank, step);
        hlm_record_add(record, comm->rank, &ran);
    }
    const struct hlm_record_about about = {.backend = "cpu",
                                           .transport = "thread",
                                           .backend_library = "a BLAS",
                                           .virtual_time = run->virtual_time,
                                           .message_s = run->message_s,
                                           .message_bytes = 4096,
                                           .emulation = run->emulation,
                                           .num_cores = 3,
                                           .peak_bytes = 1000 + comm->rank,
                                           .device_used_bytes = 2000 + comm->rank,
                                           .device_total_bytes = 3000};
    const struct hlm_record_world world = {comm->rank, comm->world_size, gather, comm};
    return hlm_record_finish(arena, record, &world, &about, &run->measurements[comm->rank], err);
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
    check_close(measured->steps[3].availability_frac, 1.0,
                0.0); /* of short actions clocks say more */
    /* Its tree and its timeline. */
    check_close(part(measured, "forward"), m * 0.04, 1e-12);
    check_close(part(measured, "backward"), m * 0.08, 1e-12);
    check_close(part(measured, "tensor_parallel"), 2.0 * m * 0.0006, 1e-9);
    check_close(part(measured, "expert_parallel"), 2.0 * m * 0.0004, 1e-9);
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
    assert_int_equal(measured->memory[1].device_used_bytes, 2001);
    assert_int_equal(measured->memory[1].device_total_bytes, 3000);
    assert_int_equal(measured->emulated_rank, -1);
    assert_int_equal(measured->num_actions, 0);
    const double tokens =
        (double)(run.plan->strategy.global_batch_size * run.plan->strategy.seq_len);
    check_close(measured->steps[3].tokens_per_s, tokens / 1.5, 1e-12);
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

/* One microbatch goes through two stages and back: two measured messages, of the replica where they
 * are slower; the plan's own have no part in it. */
static void test_virtual_messages(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    static const double none_s[4] = {0.0}, some_s[4] = {0.125, 0.0, 0.5, 0.0};
    const double *const cases[] = {none_s, some_s};
    double step_s[2];
    for (int i = 0; i < 2; i++) {
        struct run run;
        run_init(&run, arena,
                 (struct golden_layout){
                     .dp = 2, .pp = 2, .microbatch_size = 2, .schedule = HLM_SCHEDULE_1F1B});
        assert_int_equal(run.plan->strategy.num_microbatches, 1);
        run.virtual_time = true;
        run.message_s = cases[i];
        const struct hlm_measurement *measured = finish(arena, &run);
        step_s[i] = measured->step_time_s;
        assert_int_equal(measured->num_messages, i);
        if (i == 1) {
            assert_int_equal(measured->messages[0].stage, 0);
            assert_int_equal(measured->messages[0].bytes, 4096);
            check_near(measured->messages[0].seconds, 0.5, 0.0);
        }
        run_release(&run);
    }
    check_close(step_s[1] - step_s[0], 1.0, 1e-9);
    hlm_arena_free(arena);
}

/* Events follow from each rank's own list: a forward and the two halves of a backward here. */
static void test_split_backward(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct run run;
    run_init(&run, arena, (struct golden_layout){.pp = 2, .schedule = HLM_SCHEDULE_ZB_H1});
    const double m = (double)run.plan->strategy.num_microbatches;
    const struct hlm_measurement *measured = finish(arena, &run);
    assert_int_equal(measured->timeline.ranks[1].num_events, 3 * (int)m + 2);
    check_close(part(measured, "forward"), m * 0.04, 1e-12);
    check_close(part(measured, "backward"), 2.0 * m * 0.04, 1e-12);
    run_release(&run);
    run_init(&run, arena, (struct golden_layout){.pp = 2, .schedule = HLM_SCHEDULE_ZB_H1});
    run.virtual_time = true;
    measured = finish(arena, &run);
    check_close(part(measured, "backward"), 2.0 * m * cpu_share * 0.01, 1e-12);
    run_release(&run);
    hlm_arena_free(arena);
}

/* Two stages a rank: both make the sums, their reductions stand between passes, and the file of a
 * walk with pairs reads back. */
static void test_two_stages(void **state)
{
    (void)state;
    static const enum hlm_schedule_kind kinds[] = {HLM_SCHEDULE_INTERLEAVED, HLM_SCHEDULE_ZB_V,
                                                   HLM_SCHEDULE_DUALPIPE_V};
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t i = 0; i < 2 * sizeof(kinds) / sizeof(kinds[0]); i++) {
        struct run run;
        struct hlm_err err;
        run_init(&run, arena, (struct golden_layout){.pp = 2, .vpp = 2, .schedule = kinds[i / 2]});
        run.virtual_time = i % 2 == 1;
        const double m = (double)run.plan->strategy.num_microbatches;
        const double forward_s = run.virtual_time ? cpu_share * 0.01 : 0.04;
        const struct hlm_measurement *measured = finish(arena, &run);
        check_close(part(measured, "forward"), 2.0 * m * forward_s, 1e-12);
        check_close(part(measured, "backward"), 4.0 * m * forward_s, 1e-12);
        check_close(measured->parts.seconds, measured->step_time_s, 1e-9);
        assert_int_equal(measured->memory[1].stage, 1);
        if (!run.virtual_time) {
            check_near(part(measured, "pipeline"), 0.0, 1e-12);
            check_close(part(measured, "data_parallel"), 2.0 * reduce_s + norm_s, 1e-9);
        }
        const struct hlm_measurement *again = NULL;
        const char *text = hlm_json_write(arena, &hlm_measurement_table, measured, false);
        check_ok(hlm_measurement_read_text(arena, "m", text, strlen(text), &again, &err), &err);
        run_release(&run);
    }
    hlm_arena_free(arena);
}

/* ---- a rank alone ---- */

/* Rank 3 of dp 2, pp 2: the second replica's last stage. */
enum { ALONE = 3 };

static const struct hlm_measurement *finish_alone(struct hlm_arena *arena, struct run *run,
                                                  enum hlm_record_emulation emulation,
                                                  bool virtual_time)
{
    run_init(run, arena, (struct golden_layout){.dp = 2, .pp = 2, .schedule = HLM_SCHEDULE_1F1B});
    run->emulation = emulation;
    run->virtual_time = virtual_time;
    struct hlm_err err;
    /* A transport that must not be asked for anything: nobody else is there. */
    static const struct hlm_comm_ops none = {.name = "none"};
    struct hlm_comm comm = {.ops = &none, .rank = ALONE, .world_size = 4};
    check_ok(work(&comm, run, &err), &err);
    const struct hlm_measurement *measured = run->measurements[ALONE];
    assert_non_null(measured);
    assert_int_equal(measured->emulated_rank, ALONE);
    assert_int_equal(measured->num_ranks, 4);
    assert_int_equal(measured->num_memory, 1);
    assert_int_equal(measured->memory[0].rank, ALONE);
    assert_int_equal(measured->memory[0].stage, 1);
    assert_int_equal(measured->memory[0].peak_bytes, 1000 + ALONE);
    assert_int_equal(measured->timeline.num_ranks, 1);
    assert_int_equal(measured->timeline.ranks[0].rank, ALONE);
    check_close(measured->timeline.step_s, measured->step_time_s, 1e-12);
    return measured;
}

static void test_alone_waited(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct run run;
    const struct hlm_measurement *measured = finish_alone(arena, &run, HLM_RECORD_WAITED, false);
    const int m = (int)run.plan->strategy.num_microbatches;
    assert_string_equal(measured->timeline.source, "measured");
    check_close(measured->step_time_s, 2.0, 0.0);
    check_close(measured->parts.seconds, 2.0, 1e-12);
    check_close(part(measured, "forward"), m * 0.04, 1e-12);
    assert_int_equal(measured->num_actions, 4);
    const struct hlm_measured_action *forward = &measured->actions[0];
    assert_int_equal(forward->stage, 1);
    assert_int_equal(forward->kind, HLM_ACTION_F);
    assert_int_equal(forward->num, m);
    check_close(forward->compute_s, 0.04, 1e-12);
    check_close(forward->comm_s, 0.001, 1e-12);
    assert_int_equal(measured->actions[3].kind, HLM_ACTION_OPTIMIZER);
    check_close(measured->actions[3].compute_s, optimizer_s, 1e-12);
    run_release(&run);
    hlm_arena_free(arena);
}

/* Its step is then the plan's, with this rank's actions as they were measured. */
static void test_alone_walked(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    for (int virtual_time = 0; virtual_time < 2; virtual_time++) {
        struct run run;
        const struct hlm_measurement *measured =
            finish_alone(arena, &run, HLM_RECORD_DID_NOT_WAIT, virtual_time == 1);
        const double m = (double)run.plan->strategy.num_microbatches;
        const double forward_s = virtual_time == 1 ? cpu_share * 0.01 : 0.04;
        const double update_s = virtual_time == 1 ? cpu_share * optimizer_s : optimizer_s;
        assert_string_equal(measured->timeline.source, "virtual");
        check_close(part(measured, "forward"), m * forward_s, 1e-12);
        check_close(part(measured, "optimizer"), update_s, 1e-9);
        check_close(measured->parts.seconds, measured->step_time_s, 1e-9);
        /* The last stage of 1f1b never waits between its first forward and its last backward when
         * its own passes are the longer ones. */
        struct hlm_plan_simulation simulation;
        check_ok(hlm_plan_simulate(arena, run.plan, &simulation, &err), &err);
        const struct hlm_sim_costs *costs = &simulation.costs;
        assert_true(costs->forward_s[0] < forward_s && costs->backward_s[0] < 2.0 * forward_s);
        const double first_s = costs->forward_s[0] + costs->send_forward_s[0];
        const double last_s = costs->send_backward_s[1] + costs->backward_s[0];
        const double end_s = first_s + 3.0 * m * forward_s + last_s + costs->reduce_s[0];
        check_close(measured->step_time_s, end_s + costs->sync_s + update_s, 0.02);
        run_release(&run);
    }
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_rank),       cmocka_unit_test(test_ranks_agree),
        cmocka_unit_test(test_no_clean_step),  cmocka_unit_test(test_virtual_one_rank),
        cmocka_unit_test(test_virtual_groups), cmocka_unit_test(test_virtual_messages),
        cmocka_unit_test(test_split_backward), cmocka_unit_test(test_two_stages),
        cmocka_unit_test(test_alone_waited),   cmocka_unit_test(test_alone_walked)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
