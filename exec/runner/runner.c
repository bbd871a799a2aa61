#include <math.h>

#include "exec/runner/runner_internal.h"

const struct hlm_optimizer hlm_optimizer_default = {.learning_rate = 1e-3,
                                                    .beta1 = 0.9,
                                                    .beta2 = 0.95,
                                                    .eps = 1e-8,
                                                    .weight_decay = 0.1,
                                                    .max_norm = 1.0};

const double hlm_runner_no_sum = 0.0;

/* --- the step --- */

static enum hlm_status run_action(struct hlm_runner *runner, struct hlm_action action,
                                  struct hlm_err *err)
{
    /* A send follows the action that made its data, and may have freed the slot. */
    const bool sends = action.kind == HLM_ACTION_SEND_F || action.kind == HLM_ACTION_SEND_B;
    HLM_TRY(sends ? HLM_OK : hlm_runner_post_waiting(runner, err));
    switch (action.kind) {
    case HLM_ACTION_F:
        return hlm_runner_forward(runner, action, err);
    case HLM_ACTION_B:
    case HLM_ACTION_I:
    case HLM_ACTION_W:
        return hlm_runner_backward(runner, action, err);
    case HLM_ACTION_SEND_F:
    case HLM_ACTION_SEND_B:
        return hlm_runner_send(runner, action, err);
    case HLM_ACTION_REDUCE_GRAD:
        return hlm_runner_reduce(runner, action, err);
    case HLM_ACTION_OPTIMIZER:
        return hlm_runner_optimize(runner, err);
    case HLM_ACTION_RECV_F:
    case HLM_ACTION_RECV_B:
        return hlm_runner_receive(runner, action, err);
    case HLM_ACTION_OVERLAP_F_B: /* one after the other */
    case HLM_NUM_ACTIONS:
        break;
    }
    return HLM_OK;
}

static void forget_microbatches(struct hlm_runner *runner)
{
    for (int32_t s = 0; s < runner->state->num_stages; s++) {
        for (int32_t i = 0; i < runner->stages[s].state->num_slots; i++) {
            HLM_ASSERT(!runner->stages[s].slots[i].taken);
            runner->stages[s].slots[i].microbatch = -1;
        }
    }
}

static enum hlm_status wait_all(struct hlm_runner *runner, struct hlm_err *err)
{
    for (int32_t s = 0; s < runner->state->num_stages; s++) {
        for (int32_t i = 0; i < runner->stages[s].state->num_slots; i++) {
            HLM_TRY(hlm_runner_wait_sends(runner, &runner->stages[s].slots[i], err));
        }
    }
    return HLM_OK;
}

static enum hlm_status begin_step(struct hlm_runner *runner, int64_t step, struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    const int64_t batch = state->plan->strategy.global_batch_size;
    runner->step = step;
    runner->num_events = 0;
    runner->num_reduced = 0;
    forget_microbatches(runner);
    runner->loss_scale = 1.0 / (double)hlm_data_num_targets(runner->data, step * batch, batch);
    hlm_runner_make_data(runner);
    hlm_runner_leave_actions(runner);
    hlm_exchange_step_begin(runner->exchange);
    HLM_TRY(state->backend->ops->upload(state->queue, state->loss, &hlm_runner_no_sum,
                                        sizeof(hlm_runner_no_sum), err));
    HLM_TRY(hlm_exchange_barrier(runner->exchange, HLM_GROUP_WORLD, err));
    runner->step_start_s = hlm_runner_wall_s();
    return HLM_OK;
}

/* CPU time over wall clock; a device that computes by itself has no CPU time. */
static double availability(const struct hlm_runner *runner)
{
    double compute_s = 0.0, cpu_s = 0.0;
    for (int32_t i = 0; i < runner->num_events; i++) {
        compute_s += runner->events[i].compute_wall_s;
        cpu_s += runner->events[i].compute_cpu_s;
    }
    return compute_s > 0.0 && cpu_s > 0.0 ? cpu_s / compute_s : 1.0;
}

static enum hlm_status end_step(struct hlm_runner *runner, struct hlm_run_step *out,
                                struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    double loss = 0.0;
    out->wall_s = hlm_runner_wall_s() - runner->step_start_s;
    hlm_runner_leave_actions(runner);
    HLM_TRY(wait_all(runner, err));
    HLM_TRY(state->backend->ops->download(state->queue, &loss, state->loss, sizeof(loss), err));
    HLM_TRY(hlm_exchange_step_end(runner->exchange, err));
    hlm_runner_finish_events(runner);
    if (runner->marks != NULL) {
        out->wall_s = runner->events[runner->num_events - 1].end_s;
    }
    HLM_TRY(hlm_exchange_host_sum(runner->exchange, HLM_GROUP_WORLD, &loss, 1,
                                  "all_reduce of the loss", err));
    if (!isfinite(loss)) {
        return hlm_fail(err, HLM_FAILED, "step %lld: the loss is not finite",
                        (long long)runner->step);
    }
    out->loss = loss;
    out->grad_norm = runner->last_norm;
    out->availability_frac = availability(runner);
    out->events = runner->events;
    out->num_events = runner->num_events;
    return HLM_OK;
}

enum hlm_status hlm_runner_step(struct hlm_runner *runner, int64_t step, struct hlm_run_step *out,
                                struct hlm_err *err)
{
    HLM_TRY(begin_step(runner, step, err));
    for (int32_t i = 0; i < runner->actions->num_actions; i++) {
        HLM_TRY(hlm_runner_begin_action(runner, i, err));
        HLM_TRY(run_action(runner, runner->actions->actions[i], err));
        HLM_TRY(hlm_runner_end_action(runner, i, err));
    }
    return end_step(runner, out, err);
}

void hlm_runner_watch(struct hlm_runner *runner, hlm_runner_watch_fn *watch, void *context)
{
    runner->watch = watch;
    runner->watch_context = context;
}

/* --- making one --- */

static const char *const *make_texts(struct hlm_arena *arena,
                                     const struct hlm_rank_actions *actions)
{
    const char **texts = HLM_ARENA_ARRAY(arena, const char *, actions->num_actions);
    for (int32_t i = 0; i < actions->num_actions; i++) {
        char text[32];
        hlm_action_format(actions->actions[i], text);
        texts[i] = hlm_arena_strdup(arena, text);
    }
    return texts;
}

static void make_stages(struct hlm_arena *arena, struct hlm_runner *runner)
{
    const struct hlm_state *state = runner->state;
    runner->stages = HLM_ARENA_ARRAY(arena, struct hlm_runner_stage, state->num_stages);
    runner->max_peers = hlm_boundary_max_peers(&state->strategy, state->rank);
    for (int32_t s = 0; s < state->num_stages; s++) {
        const struct hlm_state_stage *stage = &state->stages[s];
        runner->stages[s] = (struct hlm_runner_stage){.state = stage};
        hlm_runner_new_slots(arena, runner, &runner->stages[s]);
    }
    hlm_runner_new_lists(arena, runner);
}

static enum hlm_status make_exchange(struct hlm_arena *arena, struct hlm_runner *runner,
                                     double timeout_s, struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    const bool stream_ordered = runner->comm->ops->stream_ordered;
    HLM_TRY(stream_ordered
                ? hlm_runner_new_marks(arena, runner, err)
                : hlm_compute_clock_init(&runner->clock, state->backend, state->queue, err));
    const struct hlm_exchange_config config = {.strategy = &state->plan->strategy,
                                               .comm = runner->comm,
                                               .backend = state->backend,
                                               .queue = state->queue,
                                               .timeout_s = timeout_s,
                                               .num_slots = runner->actions->num_actions,
                                               .clock = stream_ordered ? NULL : &runner->clock,
                                               .tell = hlm_runner_tell,
                                               .tell_context = runner};
    return hlm_exchange_new(arena, &config, &runner->exchange, err);
}

static enum hlm_status build_actions(struct hlm_arena *arena, struct hlm_runner *runner,
                                     struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    const struct hlm_strategy strategy =
        hlm_strategy_of_replica(&state->plan->strategy, state->coords.dp, NULL);
    const struct hlm_schedule *schedule = NULL;
    HLM_TRY(hlm_schedule_build(arena, strategy.schedule, strategy.pp, strategy.vpp,
                               (int32_t)strategy.num_microbatches, &schedule, err));
    schedule = hlm_schedule_lower(arena, schedule);
    runner->actions = &schedule->ranks[runner->state->coords.pp];
    const int32_t count = runner->actions->num_actions;
    runner->events = HLM_ARENA_ARRAY(arena, struct hlm_run_event, count);
    runner->waiting = HLM_ARENA_ARRAY(arena, struct hlm_action, count);
    runner->action_texts = make_texts(arena, runner->actions);
    return HLM_OK;
}

enum hlm_status hlm_runner_new(struct hlm_arena *arena, struct hlm_state *state,
                               struct hlm_comm *comm, const struct hlm_data *data,
                               const struct hlm_optimizer *optimizer, double timeout_s,
                               struct hlm_runner **out, struct hlm_err *err)
{
    struct hlm_runner *runner = HLM_ARENA_NEW(arena, struct hlm_runner);
    *runner = (struct hlm_runner){
        .arena = arena, .state = state, .comm = comm, .data = data, .optimizer = *optimizer};
    HLM_TRY(build_actions(arena, runner, err));
    make_stages(arena, runner);
    hlm_runner_new_data(arena, runner);
    const enum hlm_status status = make_exchange(arena, runner, timeout_s, err);
    if (status != HLM_OK) {
        hlm_runner_free(runner);
        return status;
    }
    *out = runner;
    return HLM_OK;
}

void hlm_runner_free(struct hlm_runner *runner)
{
    if (runner == NULL) {
        return;
    }
    hlm_exchange_free(runner->exchange);
    hlm_runner_free_graphs(runner);
    hlm_runner_free_marks(runner);
    if (runner->clock.backend != NULL) {
        hlm_compute_clock_release(&runner->clock);
    }
}
