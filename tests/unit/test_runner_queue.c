/* The runner on backends that run late, over stream-ordered transports: what it leaves to the
 * device, what it measures there, and that lists and graphs change nothing. */
#include "exec/runner/runner.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "exec/comm/comm_queue.h"
#include "tests/support/check.h"
#include "tests/support/golden.h"
#include "tests/support/late_backend.h"
#include "tests/support/queue_transport.h"
#include "tests/support/rank_threads.h"

enum { SEED = 11, MAX_RANKS = 8, NUM_STEPS = 3, MAX_EVENTS = 64, MAX_ACTIONS = 200 };

/* How the passes are put on the queue. */
enum way { SINGLE, LISTS, GRAPHS, LISTS_AND_GRAPHS, NUM_WAYS };

/* What one rank saw. */
struct seen {
    struct hlm_backend *backend; /* over queues it outlives the transport */
    struct hlm_backend_ops ops;
    struct hlm_run_step last;
    struct hlm_run_event events[MAX_EVENTS]; /* of the last step */
    double losses[NUM_STEPS];
    float *params; /* of all stages after the steps */
    int64_t num_params;
    char actions[MAX_ACTIONS][32]; /* that were entered in the last step */
    int32_t num_actions;
    int64_t step;
};

struct run {
    struct hlm_arena *arena;
    const struct hlm_plan *plan;
    enum way way;
    struct hlm_backend *device; /* of late backends; NULL: the CPU's, over threads */
    struct seen seen[MAX_RANKS];
};

static struct hlm_arena *new_run(struct run *run, const struct golden_layout *layout)
{
    struct hlm_arena *arena = hlm_arena_new();
    const struct golden *golden = golden_read(arena, "gpt2");
    *run = (struct run){.arena = arena,
                        .plan = golden_plan(arena, &golden->model, golden->global_batch_size,
                                            golden->seq_len, layout)};
    assert_non_null(run->plan);
    return arena;
}

static void watch(void *context, int64_t step, const char *action, const char *operation,
                  bool waiting)
{
    struct seen *seen = context;
    (void)waiting;
    if (step != seen->step) {
        seen->step = step;
        seen->num_actions = 0;
    }
    if (action != NULL && operation == NULL && seen->num_actions < MAX_ACTIONS) {
        snprintf(seen->actions[seen->num_actions++], sizeof(seen->actions[0]), "%s", action);
    }
}

static enum hlm_status keep_params(const struct hlm_state *state, struct seen *seen,
                                   struct hlm_err *err)
{
    for (int32_t s = 0; s < state->num_stages; s++) {
        seen->num_params += state->stages[s].num_elements;
    }
    seen->params = calloc((size_t)seen->num_params, sizeof(float));
    HLM_ASSERT(seen->params != NULL);
    float *place = seen->params;
    for (int32_t s = 0; s < state->num_stages; s++) {
        const struct hlm_state_stage *stage = &state->stages[s];
        HLM_TRY(state->backend->ops->download(state->queue, place, stage->params_slab,
                                              stage->num_elements * (int64_t)sizeof(float), err));
        place += stage->num_elements;
    }
    return state->backend->ops->queue_sync(state->queue, err);
}

static enum hlm_status run_steps(struct hlm_runner *runner, const struct hlm_state *state,
                                 struct seen *seen, struct hlm_err *err)
{
    for (int32_t step = 0; step < NUM_STEPS; step++) {
        HLM_TRY(hlm_runner_step(runner, step, &seen->last, err));
        seen->losses[step] = seen->last.loss;
    }
    HLM_ASSERT(seen->last.num_events <= MAX_EVENTS);
    memcpy(seen->events, seen->last.events, (size_t)seen->last.num_events * sizeof(*seen->events));
    return keep_params(state, seen, err);
}

static enum hlm_status train_on(struct hlm_comm *comm, struct run *run, struct hlm_err *err)
{
    struct seen *seen = &run->seen[comm->rank];
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_state *state = NULL;
    struct hlm_runner *runner = NULL;
    const struct hlm_data *data = NULL;
    enum hlm_status status = hlm_data_open(arena, NULL, &run->plan->model,
                                           run->plan->strategy.seq_len, SEED, &data, err);
    if (status == HLM_OK) {
        status = hlm_state_new(arena, run->plan, comm->rank, seen->backend, SEED, &state, err);
    }
    if (status == HLM_OK) {
        status =
            hlm_runner_new(arena, state, comm, data, &hlm_optimizer_default, 20.0, &runner, err);
    }
    if (status == HLM_OK) {
        hlm_runner_watch(runner, watch, seen);
        hlm_runner_use_graphs(runner, run->way == GRAPHS || run->way == LISTS_AND_GRAPHS);
        status = run_steps(runner, state, seen, err);
    }
    hlm_runner_free(runner);
    hlm_state_free(state);
    hlm_arena_free(arena);
    return status;
}

static atomic_llong num_replayed; /* graphs, by all ranks */

/* The late backend's own. */
static enum hlm_status (*replay)(struct hlm_graph *graph, const struct hlm_op_scalars *scalars,
                                 struct hlm_err *err);
static enum hlm_status (*late_capture_end)(struct hlm_queue *queue, struct hlm_graph **out,
                                           struct hlm_err *err);
static void (*late_graph_free)(struct hlm_graph *graph);

static enum hlm_status count_graph(struct hlm_graph *graph, const struct hlm_op_scalars *scalars,
                                   struct hlm_err *err)
{
    atomic_fetch_add(&num_replayed, 1);
    return replay(graph, scalars, err);
}

static void set_way(struct seen *seen, enum way way)
{
    seen->ops = *seen->backend->ops;
    if (way == SINGLE || way == GRAPHS) {
        seen->ops.launch_list = NULL;
    }
    seen->ops.graph_launch = count_graph;
    seen->backend->ops = &seen->ops;
}

static enum hlm_status work_late(struct hlm_comm *comm, void *context, struct hlm_err *err)
{
    struct run *run = context;
    struct seen *seen = &run->seen[comm->rank];
    HLM_TRY(
        late_backend_new_beside(run->device, &seen->backend, (uint64_t)comm->rank + 1, 20e-6, err));
    set_way(seen, run->way);
    HLM_TRY(hlm_comm_queue_use_backend(comm, seen->backend, err));
    return train_on(comm, run, err);
}

static enum hlm_status work_cpu(struct hlm_comm *comm, void *context, struct hlm_err *err)
{
    struct run *run = context;
    struct seen *seen = &run->seen[comm->rank];
    HLM_TRY(hlm_backend_cpu_new(&seen->backend, err));
    return train_on(comm, run, err);
}

static void free_backends(struct run *run)
{
    for (int32_t rank = 0; rank < MAX_RANKS; rank++) {
        hlm_backend_free(run->seen[rank].backend);
        run->seen[rank].backend = NULL;
    }
    hlm_backend_free(run->device);
}

static void train_late(struct run *run, enum way way)
{
    struct hlm_err err;
    run->way = way;
    check_ok(late_backend_new(&run->device, 0, 0.0, &err), &err);
    replay = run->device->ops->graph_launch;
    atomic_store(&num_replayed, 0);
    check_ok(rank_threads_run_over(run->arena, run->plan, hlm_comm_queue_new, work_late, run, &err),
             &err);
    assert_int_equal(atomic_load(&num_replayed) > 0, way == GRAPHS || way == LISTS_AND_GRAPHS);
    free_backends(run);
}

static void train_cpu(struct run *run)
{
    struct hlm_err err;
    check_ok(rank_threads_run(run->arena, run->plan, work_cpu, run, &err), &err);
    free_backends(run);
}

static void release(struct run *run)
{
    for (int32_t rank = 0; rank < MAX_RANKS; rank++) {
        free(run->seen[rank].params);
    }
    hlm_arena_free(run->arena);
}

static void check_same_bits(const struct run *one, const struct run *other)
{
    for (int32_t rank = 0; rank < one->plan->num_ranks; rank++) {
        const struct seen *a = &one->seen[rank], *b = &other->seen[rank];
        assert_memory_equal(a->losses, b->losses, sizeof(a->losses));
        assert_int_equal(a->num_params, b->num_params);
        assert_memory_equal(a->params, b->params, (size_t)a->num_params * sizeof(float));
    }
}

/* From `first` on all ways but the plain one are tried. */
static void check_layout(const struct golden_layout *layout, int first)
{
    struct run host, late[NUM_WAYS];
    new_run(&host, layout);
    train_cpu(&host);
    for (int way = 0; way < NUM_WAYS; way += way == 0 ? first : 1) {
        new_run(&late[way], layout);
        train_late(&late[way], (enum way)way);
        for (int32_t step = 0; step < NUM_STEPS; step++) {
            check_close(late[way].seen[0].losses[step], host.seen[0].losses[step], 1e-6);
        }
    }
    /* Lists only move biases (exec/fusion.h), in fp32 without another rounding. */
    for (int way = first; way < NUM_WAYS; way++) {
        check_same_bits(&late[0], &late[way]);
        release(&late[way]);
    }
    release(&late[0]);
    release(&host);
}

static void test_ways(void **state)
{
    (void)state;
    const struct golden_layout layouts[] = {
        {.microbatch_size = 1},
        {.dp = 2, .zero = 1},
        {.tp = 2, .sp = true, .recompute = HLM_RECOMPUTE_SELECTIVE},
        {.pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_INTERLEAVED},
        {.pp = 2, .schedule = HLM_SCHEDULE_ZB_H1, .recompute = HLM_RECOMPUTE_FULL},
        {.pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_ZB_V}, /* neighbours on a rank: copies */
        {.dp = 2, .tp = 2, .pp = 2, .zero = 1, .schedule = HLM_SCHEDULE_1F1B},
    };
    for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++) {
        check_layout(&layouts[i], i == 0 ? LISTS : LISTS_AND_GRAPHS);
    }
}

/* --- a backend that can't capture --- */

static enum hlm_status fail_capture(struct hlm_queue *queue, struct hlm_graph **out,
                                    struct hlm_err *err)
{
    struct hlm_graph *graph = NULL;
    (void)out;
    HLM_TRY(late_capture_end(queue, &graph, err));
    late_graph_free(graph);
    return hlm_fail(err, HLM_FAILED, "no room");
}

static enum hlm_status work_without_capture(struct hlm_comm *comm, void *context,
                                            struct hlm_err *err)
{
    struct run *run = context;
    struct seen *seen = &run->seen[comm->rank];
    HLM_TRY(late_backend_new_beside(run->device, &seen->backend, 1, 0.0, err));
    set_way(seen, run->way);
    seen->ops.capture_end = fail_capture;
    HLM_TRY(hlm_comm_queue_use_backend(comm, seen->backend, err));
    return train_on(comm, run, err);
}

/* The error names the pass, and the way around. */
static void test_no_capture(void **state)
{
    (void)state;
    struct run run;
    struct hlm_err err;
    new_run(&run, &(struct golden_layout){.microbatch_size = 1});
    run.way = LISTS_AND_GRAPHS;
    check_ok(late_backend_new(&run.device, 0, 0.0, &err), &err);
    late_capture_end = run.device->ops->capture_end;
    late_graph_free = run.device->ops->graph_free;
    check_fails(rank_threads_run_over(run.arena, run.plan, hlm_comm_queue_new, work_without_capture,
                                      &run, &err),
                HLM_FAILED, &err, "0F0 as a graph (--graphs off runs it without): no room");
    free_backends(&run);
    release(&run);
}

/* --- one rank whose peers are imaginary --- */

/* Every operation of the transport from the step's first action on takes this long. */
struct delayed {
    struct hlm_comm *comm;
    struct seen *seen;
    double seconds;
};

static void delay(void *context, int64_t step, const char *action, const char *operation,
                  bool waiting)
{
    struct delayed *delayed = context;
    watch(delayed->seen, step, action, operation, waiting);
    if (step == 1 && action != NULL) {
        const bool norm = strstr(action, "OPTIMIZER") != NULL;
        queue_transport_delay(delayed->comm,
                              norm && isfinite(delayed->seconds) ? 0.0 : delayed->seconds);
    }
}

/* Two steps of the first rank; the second with the delay. */
static enum hlm_status train_alone(struct run *run, double seconds, double timeout_s,
                                   struct hlm_err *err)
{
    struct seen *seen = &run->seen[0];
    struct hlm_state *state = NULL;
    struct hlm_runner *runner = NULL;
    const struct hlm_data *data = NULL;
    struct delayed delayed = {.seen = seen, .seconds = seconds};
    const struct hlm_plan *plan = run->plan;
    check_ok(late_backend_new(&seen->backend, 1, 0.0, err), err);
    check_ok(queue_transport_new(&plan->strategy, 0, seen->backend, &delayed.comm, err), err);
    check_ok(
        hlm_data_open(run->arena, NULL, &plan->model, plan->strategy.seq_len, SEED, &data, err),
        err);
    check_ok(hlm_state_new(run->arena, plan, 0, seen->backend, SEED, &state, err), err);
    check_ok(hlm_runner_new(run->arena, state, delayed.comm, data, &hlm_optimizer_default,
                            timeout_s, &runner, err),
             err);
    hlm_runner_watch(runner, delay, &delayed);
    check_ok(hlm_runner_step(runner, 0, &seen->last, err), err);
    const enum hlm_status status = hlm_runner_step(runner, 1, &seen->last, err);
    if (status == HLM_OK) {
        memcpy(seen->events, seen->last.events,
               (size_t)seen->last.num_events * sizeof(*seen->events));
    }
    hlm_runner_free(runner);
    hlm_comm_free(delayed.comm);
    hlm_state_free(state);
    hlm_backend_free(seen->backend);
    seen->backend = NULL;
    return status;
}

/* Communication that never ends: the host runs ahead up to the norm, which it needs itself, before
 * it says what it waits for. */
static void test_runs_ahead(void **state)
{
    (void)state;
    const struct {
        struct golden_layout layout;
        const char *blamed;
    } cases[] = {
        {{.tp = 2, .sp = true}, "0F0: "},
        {{.dp = 2, .zero = 1}, "0REDUCE_GRAD: "},
        {{.pp = 2, .schedule = HLM_SCHEDULE_1F1B}, "rank 1: send forward"},
        {{.pp = 2, .schedule = HLM_SCHEDULE_ZB_H1}, "rank 1: send forward"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct run run;
        struct hlm_err err;
        new_run(&run, &cases[i].layout);
        check_fails(train_alone(&run, HUGE_VAL, 0.3, &err), HLM_FAILED, &err, cases[i].blamed);
        const struct seen *seen = &run.seen[0];
        assert_non_null(strstr(seen->actions[seen->num_actions - 1], "OPTIMIZER"));
        release(&run);
    }
}

/* Collectives of 5 ms each: the device's clock has them in the action that they belong to, and what
 * is left is what the action computed. */
static void test_times(void **state)
{
    (void)state;
    static const double seconds = 5e-3;
    struct run run;
    struct hlm_err err;
    new_run(&run, &(struct golden_layout){.tp = 2, .microbatch_size = 2});
    check_ok(train_alone(&run, seconds, 20.0, &err), &err);
    const struct seen *seen = &run.seen[0];
    double computed_s = 0.0;
    for (int32_t i = 0; i < seen->last.num_events; i++) {
        const struct hlm_run_event *event = &seen->events[i];
        const double took_s = event->end_s - event->start_s;
        assert_true(event->start_s >= (i > 0 ? event[-1].end_s : 0.0) - 1e-6);
        assert_true(event->compute_wall_s + event->group_comm_s + event->message_s <=
                    took_s + 1e-6);
        if (hlm_action_is_compute(event->action.kind)) {
            assert_true(event->group_comm_s >= 4 * seconds); /* two layers, two each */
            computed_s += event->compute_wall_s;
        }
    }
    assert_true(computed_s > 0.0);
    check_near(seen->last.wall_s, seen->events[seen->last.num_events - 1].end_s, 1e-9);
    release(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ways), cmocka_unit_test(test_no_capture),
        cmocka_unit_test(test_runs_ahead), cmocka_unit_test(test_times)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
