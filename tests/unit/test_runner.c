#include "exec/runner/runner.h"

#include "tests/support/check.h"
#include "tests/support/golden.h"
#include "tests/support/rank_threads.h"

enum { SEED = 11, MAX_RANKS = 4, MAX_CALLS = 2000 };

/* What a test asks of a run, and what each rank saw. */
struct watched {
    int64_t step;
    char action[32]; /* "": none; its text lives as long as the runner */
    const char *operation;
    bool waiting;
};
struct seen {
    struct watched *calls; /* [num_calls] */
    int32_t num_calls;
    struct hlm_run_step last;
    struct hlm_run_event *events; /* of the last step */
    float *before, *after;        /* parameters */
    int64_t num_params;
};
struct run {
    struct hlm_arena *arena;
    const struct hlm_plan *plan;
    struct hlm_optimizer optimizer;
    int32_t num_steps;
    int32_t poisoned_rank; /* whose first parameter is no number; -1: none */
    int32_t absent_rank;   /* leaves before the first step; -1: none */
    struct seen seen[MAX_RANKS];
};

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

static struct run make_run(struct hlm_arena *arena, struct golden_layout layout)
{
    const struct golden *golden = golden_read(arena, "gpt2");
    struct run run = {.arena = arena,
                      .plan = golden_plan(arena, &golden->model, golden->global_batch_size,
                                          golden->seq_len, &layout),
                      .optimizer = hlm_optimizer_default,
                      .num_steps = 2,
                      .poisoned_rank = -1,
                      .absent_rank = -1};
    assert_non_null(run.plan);
    for (int32_t r = 0; r < run.plan->num_ranks; r++) {
        run.seen[r].calls = HLM_ARENA_ARRAY(arena, struct watched, MAX_CALLS);
        run.seen[r].events = HLM_ARENA_ARRAY(arena, struct hlm_run_event, 64);
    }
    return run;
}

static void watch(void *context, int64_t step, const char *action, const char *operation,
                  bool waiting)
{
    struct seen *seen = context;
    HLM_ASSERT(seen->num_calls < MAX_CALLS);
    struct watched *call = &seen->calls[seen->num_calls++];
    *call = (struct watched){.step = step, .operation = operation, .waiting = waiting};
    snprintf(call->action, sizeof(call->action), "%s", action != NULL ? action : "");
}

static void keep_params(const struct hlm_state *state, float **out)
{
    const struct hlm_state_stage *stage = &state->stages[0];
    const size_t bytes = (size_t)stage->num_elements * sizeof(float);
    *out = test_malloc(bytes);
    memcpy(*out, stage->params_slab, bytes);
}

static enum hlm_status steps(const struct run *run, struct hlm_runner *runner, struct seen *seen,
                             struct hlm_err *err)
{
    for (int32_t step = 0; step < run->num_steps; step++) {
        HLM_TRY(hlm_runner_step(runner, step, &seen->last, err));
    }
    memcpy(seen->events, seen->last.events, (size_t)seen->last.num_events * sizeof(*seen->events));
    return HLM_OK;
}

static enum hlm_status work(struct hlm_comm *comm, void *context, struct hlm_err *err)
{
    struct run *run = context;
    struct seen *seen = &run->seen[comm->rank];
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_backend *backend = NULL;
    struct hlm_state *state = NULL;
    struct hlm_runner *runner = NULL;
    const struct hlm_data *data = NULL;
    enum hlm_status status = hlm_backend_cpu_new(&backend, err);
    if (status == HLM_OK) {
        status = hlm_data_open(arena, NULL, &run->plan->model, run->plan->strategy.seq_len, SEED,
                               &data, err);
    }
    if (status == HLM_OK) {
        status = hlm_state_new(arena, run->plan, comm->rank, backend, SEED, &state, err);
    }
    if (status == HLM_OK) {
        status = hlm_runner_new(arena, state, comm, data, &run->optimizer, 60.0, &runner, err);
    }
    if (status == HLM_OK && comm->rank == run->absent_rank) {
        status = hlm_fail(err, HLM_INPUT, "left");
    }
    if (status == HLM_OK) {
        hlm_runner_watch(runner, watch, seen);
        float *params = (float *)(void *)state->stages[0].params_slab;
        seen->num_params = state->stages[0].num_elements;
        keep_params(state, &seen->before);
        params[0] = comm->rank == run->poisoned_rank ? NAN : params[0];
        status = steps(run, runner, seen, err);
        keep_params(state, &seen->after);
    }
    hlm_runner_free(runner);
    hlm_state_free(state);
    hlm_backend_free(backend);
    hlm_arena_free(arena);
    return status;
}

static void release(struct run *run)
{
    for (int32_t r = 0; r < run->plan->num_ranks; r++) {
        test_free(run->seen[r].before);
        test_free(run->seen[r].after);
    }
}

static void train(struct run *run)
{
    struct hlm_err err;
    check_ok(rank_threads_run(run->arena, run->plan, work, run, &err), &err);
}

/* One F and one B per microbatch in the order of the schedule, the reduction, the optimizer; none
 * begins before the one in front of it has ended. */
static void check_events(const struct run *run, int32_t rank)
{
    const struct hlm_run_step *step = &run->seen[rank].last;
    const struct hlm_run_event *events = run->seen[rank].events;
    const struct hlm_schedule *schedule = NULL;
    const struct hlm_strategy *strategy = &run->plan->strategy;
    struct hlm_err err;
    check_ok(hlm_schedule_build(run->arena, strategy->schedule, strategy->pp, strategy->vpp,
                                (int32_t)strategy->num_microbatches, &schedule, &err),
             &err);
    const struct hlm_rank_actions *actions = &schedule->ranks[hlm_layout_coords(strategy, rank).pp];
    int32_t num = 0;
    for (int32_t i = 0; i < actions->num_actions; i++) {
        if (hlm_action_is_compute(actions->actions[i].kind)) {
            assert_int_equal(events[num].action.kind, actions->actions[i].kind);
            assert_int_equal(events[num].action.microbatch, actions->actions[i].microbatch);
            assert_true(events[num].compute_wall_s > 0.0);
            num++;
        }
    }
    assert_int_equal(num, 2 * strategy->num_microbatches);
    assert_int_equal(step->num_events, num + 2);
    assert_int_equal(events[num].action.kind, HLM_ACTION_REDUCE_GRAD);
    assert_int_equal(events[num + 1].action.kind, HLM_ACTION_OPTIMIZER);
    for (int32_t i = 0; i < step->num_events; i++) {
        const double last_end_s = i > 0 ? events[i - 1].end_s : 0.0;
        assert_true(events[i].start_s >= last_end_s && events[i].end_s >= events[i].start_s);
        const double inside_s =
            events[i].compute_wall_s + events[i].group_comm_s + events[i].message_s;
        assert_true(inside_s <= events[i].end_s - events[i].start_s + 1e-9);
    }
    assert_true(step->wall_s >= events[step->num_events - 1].end_s);
}

static void test_events(void **state)
{
    struct run run =
        make_run(*state, (struct golden_layout){.tp = 2, .pp = 2, .schedule = HLM_SCHEDULE_1F1B});
    train(&run);
    for (int32_t rank = 0; rank < 4; rank++) {
        check_events(&run, rank);
        check_close(run.seen[rank].last.loss, run.seen[0].last.loss, 0.0);
        check_close(run.seen[rank].last.grad_norm, run.seen[0].last.grad_norm, 1e-12);
        assert_true(run.seen[rank].last.availability_frac > 0.0);
    }
    release(&run);
}

/* A launcher that is told of every action: what waits for others says so, and only that. */
static void test_watch(void **state)
{
    struct run run =
        make_run(*state, (struct golden_layout){.pp = 2, .schedule = HLM_SCHEDULE_1F1B});
    train(&run);
    for (int32_t rank = 0; rank < 2; rank++) {
        const struct seen *seen = &run.seen[rank];
        bool received = false, reduced = false;
        int64_t step = 0;
        for (int32_t i = 0; i < seen->num_calls; i++) {
            const struct watched *call = &seen->calls[i];
            assert_true(call->step == step || call->step == step + 1);
            step = call->step;
            assert_int_equal(call->waiting, call->operation != NULL);
            assert_true(call->action[0] != '\0' || call->operation != NULL);
            received = received || (call->operation != NULL &&
                                    strcmp(call->action, rank == 0 ? "0B3" : "1F3") == 0 &&
                                    strstr(call->operation, "receive ") != NULL);
            reduced = reduced || (call->operation != NULL &&
                                  strcmp(call->operation, "all_reduce of the gradient norm") == 0);
            /* What follows a wait is announced as no wait, except between steps. */
            assert_true(i + 1 == seen->num_calls || !call->waiting || call->action[0] == '\0' ||
                        !seen->calls[i + 1].waiting || seen->calls[i + 1].action[0] == '\0');
        }
        assert_true(received && reduced);
        assert_int_equal(step, run.num_steps - 1);
    }
    release(&run);
}

/* A learning rate of zero changes nothing; the default one does. */
static void test_optimizer(void **state)
{
    struct run still = make_run(*state, (struct golden_layout){.dp = 2});
    still.optimizer.learning_rate = 0.0;
    train(&still);
    struct run moving = make_run(*state, (struct golden_layout){.dp = 2, .zero = 1});
    train(&moving);
    for (int32_t rank = 0; rank < 2; rank++) {
        const size_t bytes = (size_t)still.seen[rank].num_params * sizeof(float);
        assert_memory_equal(still.seen[rank].before, still.seen[rank].after, bytes);
        assert_memory_not_equal(moving.seen[rank].before, moving.seen[rank].after, bytes);
    }
    /* Replicas that share their updates end with equal parameters. */
    assert_memory_equal(moving.seen[0].after, moving.seen[1].after,
                        (size_t)moving.seen[0].num_params * sizeof(float));
    release(&still);
    release(&moving);
}

/* Clipping at a tenth of the norm: AdamW's first step is blind to a common factor (up to eps), so
 * parameters stay near, but not equal; the norm that is reported is that before clipping. */
static void test_clipping(void **state)
{
    struct run plain = make_run(*state, (struct golden_layout){0});
    plain.optimizer.max_norm = 0.0;
    plain.num_steps = 1;
    train(&plain);
    struct run clipped = make_run(*state, (struct golden_layout){0});
    clipped.optimizer.max_norm = plain.seen[0].last.grad_norm / 10.0;
    clipped.num_steps = 1;
    train(&clipped);
    check_close(clipped.seen[0].last.grad_norm, plain.seen[0].last.grad_norm, 1e-12);
    int64_t num_different = 0;
    for (int64_t i = 0; i < plain.seen[0].num_params; i++) {
        check_near((double)clipped.seen[0].after[i], (double)plain.seen[0].after[i],
                   plain.optimizer.learning_rate);
        num_different += clipped.seen[0].after[i] != plain.seen[0].after[i] ? 1 : 0;
    }
    assert_true(num_different > 0);
    release(&plain);
    release(&clipped);
}

/* Sums that are no numbers end the run and name the step. */
static void test_not_finite(void **state)
{
    struct hlm_err err;
    struct run run = make_run(*state, (struct golden_layout){.tp = 2});
    run.poisoned_rank = 1;
    check_fails(rank_threads_run(run.arena, run.plan, work, &run, &err), HLM_FAILED, &err,
                "step 0: the gradient norm is not finite");
    release(&run);
}

static void test_peer_leaves(void **state)
{
    struct hlm_err err;
    struct run run = make_run(*state, (struct golden_layout){.pp = 2});
    run.absent_rank = 1;
    check_fails(rank_threads_run(run.arena, run.plan, work, &run, &err), HLM_FAILED, &err, "rank");
    assert_true(run.seen[0].num_calls > 0);
    release(&run);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, enter, leave)
int main(void)
{
    const struct CMUnitTest tests[] = {CASE(test_events),     CASE(test_watch),
                                       CASE(test_optimizer),  CASE(test_clipping),
                                       CASE(test_not_finite), CASE(test_peer_leaves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
