#include <math.h>

#include "exec/runner_internal.h"

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
    switch (action.kind) {
    case HLM_ACTION_F:
        return hlm_runner_forward(runner, action, err);
    case HLM_ACTION_B:
        return hlm_runner_backward(runner, action, err);
    case HLM_ACTION_SEND_F:
    case HLM_ACTION_SEND_B:
        return hlm_runner_send(runner, action, err);
    case HLM_ACTION_REDUCE_GRAD:
        return hlm_runner_reduce(runner, err);
    case HLM_ACTION_OPTIMIZER:
        return hlm_runner_optimize(runner, err);
    case HLM_ACTION_RECV_F:
    case HLM_ACTION_RECV_B:
        return HLM_OK; /* at the action that needs the data */
    default:
        return hlm_fail(err, HLM_FAILED, "the runner has no %s action",
                        hlm_action_texts[action.kind]);
    }
}

static bool is_event(enum hlm_action_kind kind)
{
    return hlm_action_is_compute(kind) || kind == HLM_ACTION_REDUCE_GRAD ||
           kind == HLM_ACTION_OPTIMIZER;
}

static enum hlm_status measure_action(struct hlm_runner *runner, struct hlm_action action,
                                      struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    if (is_event(action.kind)) {
        runner->event = &runner->events[runner->num_events++];
        *runner->event = (struct hlm_run_event){
            .action = action, .start_s = hlm_runner_wall_s() - runner->step_start_s};
        HLM_TRY(hlm_compute_clock_start(&runner->clock, err));
    }
    hlm_runner_tell(runner, NULL, false);
    HLM_TRY(run_action(runner, action, err));
    if (is_event(action.kind)) {
        HLM_TRY(hlm_compute_clock_pause(&runner->clock, err));
        runner->event->compute_wall_s = runner->clock.wall_s;
        runner->event->compute_cpu_s = runner->clock.cpu_s;
    }
    if (action.kind != HLM_ACTION_RECV_F && action.kind != HLM_ACTION_RECV_B) {
        runner->event->end_s = hlm_runner_wall_s() - runner->step_start_s;
    }
    const enum hlm_action_kind last = state->stage == 0 ? HLM_ACTION_B : HLM_ACTION_SEND_B;
    if (action.kind == last) {
        runner->slots[hlm_runner_find_slot(runner, action.microbatch)].microbatch = -1;
    }
    return HLM_OK;
}

static enum hlm_status begin_step(struct hlm_runner *runner, int64_t step, struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    const int64_t batch = state->plan->strategy.global_batch_size;
    runner->step = step;
    runner->num_events = 0;
    runner->loss_scale = 1.0 / (double)hlm_data_num_targets(runner->data, step * batch, batch);
    HLM_TRY(state->backend->ops->upload(state->queue, state->loss, &hlm_runner_no_sum,
                                        sizeof(hlm_runner_no_sum), err));
    HLM_TRY(state->backend->ops->queue_sync(state->queue, err));
    hlm_runner_tell_between(runner, "barrier before the step");
    HLM_TRY(runner->comm->ops->barrier(runner->comm, HLM_GROUP_WORLD, err));
    runner->step_start_s = hlm_runner_wall_s();
    return HLM_OK;
}

static enum hlm_status end_step(struct hlm_runner *runner, struct hlm_run_step *out,
                                struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    out->wall_s = hlm_runner_wall_s() - runner->step_start_s;
    for (int32_t i = 0; i < state->num_slots; i++) {
        HLM_TRY(hlm_runner_wait_slot(runner, &runner->slots[i], err));
    }
    double loss = 0.0;
    HLM_TRY(state->backend->ops->download(state->queue, &loss, state->loss, sizeof(loss), err));
    HLM_TRY(state->backend->ops->queue_sync(state->queue, err));
    hlm_runner_tell_between(runner, "all_reduce of the loss");
    HLM_TRY(runner->comm->ops->all_reduce(runner->comm, HLM_GROUP_WORLD, &loss, 1, HLM_WIRE_F64,
                                          HLM_REDUCE_SUM, err));
    if (!isfinite(loss)) {
        return hlm_fail(err, HLM_FAILED, "step %lld: the loss is not finite",
                        (long long)runner->step);
    }
    double compute_s = 0.0, cpu_s = 0.0;
    for (int32_t i = 0; i < runner->num_events; i++) {
        compute_s += runner->events[i].compute_wall_s;
        cpu_s += runner->events[i].compute_cpu_s;
    }
    out->loss = loss;
    out->grad_norm = runner->last_norm;
    out->availability_frac = compute_s > 0.0 ? cpu_s / compute_s : 1.0;
    out->events = runner->events;
    out->num_events = runner->num_events;
    return HLM_OK;
}

enum hlm_status hlm_runner_step(struct hlm_runner *runner, int64_t step, struct hlm_run_step *out,
                                struct hlm_err *err)
{
    HLM_TRY(begin_step(runner, step, err));
    for (int32_t i = 0; i < runner->actions->num_actions; i++) {
        runner->action = &runner->actions->actions[i];
        HLM_TRY(measure_action(runner, *runner->action, err));
    }
    return end_step(runner, out, err);
}

void hlm_runner_watch(struct hlm_runner *runner, hlm_runner_watch_fn *watch, void *context)
{
    runner->watch = watch;
    runner->watch_context = context;
}

/* --- making one --- */

static void make_data_buffers(struct hlm_arena *arena, struct hlm_runner *runner)
{
    const struct hlm_strategy *strategy = &runner->state->plan->strategy;
    const struct hlm_model_vit *vit = &runner->state->plan->model.vit;
    const int64_t positions = strategy->microbatch_size * strategy->seq_len;
    runner->tokens = HLM_ARENA_ARRAY(arena, int32_t, positions);
    runner->targets = HLM_ARENA_ARRAY(arena, int32_t, positions);
    runner->pixels = HLM_ARENA_ARRAY(arena, float,
                                     strategy->microbatch_size * vit->num_channels *
                                         vit->image_size * vit->image_size);
}

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

static void make_slots(struct hlm_arena *arena, struct hlm_runner *runner)
{
    const struct hlm_state *state = runner->state;
    const bool staged = !state->backend->ops->host_memory;
    runner->slots = HLM_ARENA_ARRAY(arena, struct hlm_runner_slot, state->num_slots);
    for (int32_t i = 0; i < state->num_slots; i++) {
        runner->slots[i].microbatch = -1;
        if (staged) {
            runner->slots[i].host_output = HLM_ARENA_ARRAY(arena, char, state->boundary_bytes);
            runner->slots[i].host_dinput = HLM_ARENA_ARRAY(arena, char, state->boundary_bytes);
        }
    }
}

enum hlm_status hlm_runner_new(struct hlm_arena *arena, struct hlm_state *state,
                               struct hlm_comm *comm, const struct hlm_data *data,
                               const struct hlm_optimizer *optimizer, struct hlm_runner **out,
                               struct hlm_err *err)
{
    const struct hlm_strategy *strategy = &state->plan->strategy;
    const struct hlm_schedule *schedule = NULL;
    HLM_TRY(hlm_schedule_build(arena, strategy->schedule, strategy->pp, strategy->vpp,
                               (int32_t)strategy->num_microbatches, &schedule, err));
    schedule = hlm_schedule_lower(arena, schedule);
    struct hlm_runner *runner = HLM_ARENA_NEW(arena, struct hlm_runner);
    *runner = (struct hlm_runner){.state = state,
                                  .comm = comm,
                                  .data = data,
                                  .optimizer = *optimizer,
                                  .actions = &schedule->ranks[state->coords.pp]};
    runner->events = HLM_ARENA_ARRAY(arena, struct hlm_run_event, runner->actions->num_actions);
    runner->action = runner->actions->actions;
    runner->action_texts = make_texts(arena, runner->actions);
    make_data_buffers(arena, runner);
    make_slots(arena, runner);
    hlm_hostcopy_init(&runner->host, state->backend, state->queue);
    HLM_TRY(hlm_compute_clock_init(&runner->clock, state->backend, state->queue, err));
    *out = runner;
    return HLM_OK;
}

void hlm_runner_free(struct hlm_runner *runner)
{
    if (runner != NULL) {
        hlm_hostcopy_release(&runner->host);
        hlm_compute_clock_release(&runner->clock);
    }
}
