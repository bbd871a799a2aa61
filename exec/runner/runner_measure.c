/* What the actions of a step took. */
#include <time.h>

#include "exec/runner/runner_internal.h"

double hlm_runner_wall_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Between actions only waiting is worth telling. */
void hlm_runner_tell(void *context, const char *operation, bool waiting)
{
    const struct hlm_runner *runner = context;
    if (runner->watch != NULL && (runner->action_text != NULL || operation != NULL)) {
        runner->watch(runner->watch_context, runner->step, runner->action_text, operation, waiting);
    }
}

static bool is_event(enum hlm_action_kind kind)
{
    return hlm_action_is_compute(kind) || kind == HLM_ACTION_REDUCE_GRAD ||
           kind == HLM_ACTION_OPTIMIZER;
}

/* A send belongs to the action that made its data, which is the last one. */
static bool belongs_to_last(enum hlm_action_kind kind)
{
    return kind == HLM_ACTION_SEND_F || kind == HLM_ACTION_SEND_B;
}

static enum hlm_status begin_event(struct hlm_runner *runner, struct hlm_action action,
                                   struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    const int32_t event = runner->num_events++;
    runner->events[event] = (struct hlm_run_event){
        .action = action, .start_s = hlm_runner_wall_s() - runner->step_start_s};
    return runner->marks != NULL
               ? state->backend->ops->event_record(state->queue, runner->marks[event].begin, err)
               : hlm_compute_clock_start(&runner->clock, err);
}

enum hlm_status hlm_runner_begin_action(struct hlm_runner *runner, int32_t index,
                                        struct hlm_err *err)
{
    const struct hlm_action action = runner->actions->actions[index];
    runner->action_text = runner->action_texts[index];
    HLM_TRY(is_event(action.kind) ? begin_event(runner, action, err) : HLM_OK);
    const bool counts = is_event(action.kind) || belongs_to_last(action.kind);
    hlm_exchange_enter(runner->exchange, runner->action_text, counts ? runner->num_events - 1 : -1);
    hlm_runner_tell(runner, NULL, false);
    return HLM_OK;
}

static enum hlm_status end_event(struct hlm_runner *runner, struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    const int32_t index = runner->num_events - 1;
    struct hlm_run_event *event = &runner->events[index];
    if (runner->marks != NULL) {
        return state->backend->ops->event_record(state->queue, runner->marks[index].end, err);
    }
    HLM_TRY(hlm_compute_clock_pause(&runner->clock, err));
    event->compute_wall_s = runner->clock.wall_s;
    event->compute_cpu_s = runner->clock.cpu_s;
    return HLM_OK;
}

enum hlm_status hlm_runner_end_action(struct hlm_runner *runner, int32_t index, struct hlm_err *err)
{
    const enum hlm_action_kind kind = runner->actions->actions[index].kind;
    HLM_TRY(is_event(kind) ? end_event(runner, err) : HLM_OK);
    if (is_event(kind) || belongs_to_last(kind)) {
        runner->events[runner->num_events - 1].end_s = hlm_runner_wall_s() - runner->step_start_s;
    }
    return HLM_OK;
}

void hlm_runner_leave_actions(struct hlm_runner *runner)
{
    runner->action_text = NULL;
    hlm_exchange_enter(runner->exchange, NULL, -1);
}

void hlm_runner_finish_events(struct hlm_runner *runner)
{
    const struct hlm_backend_ops *ops = runner->state->backend->ops;
    for (int32_t i = 0; i < runner->num_events; i++) {
        struct hlm_run_event *event = &runner->events[i];
        const struct hlm_exchange_times times = hlm_exchange_times(runner->exchange, i);
        event->group_comm_s = times.collective_s;
        event->expert_comm_s = times.expert_s;
        event->message_s = times.message_s;
        if (runner->marks != NULL) {
            const struct hlm_event_time begin = ops->event_time(runner->marks[i].begin);
            const struct hlm_event_time end = ops->event_time(runner->marks[i].end);
            const double busy_s = end.wall_s - begin.wall_s - times.collective_s - times.message_s;
            event->start_s = begin.wall_s - runner->step_start_s;
            event->end_s = end.wall_s - runner->step_start_s;
            event->compute_wall_s = busy_s > 0.0 ? busy_s : 0.0;
            event->compute_cpu_s = end.cpu_s - begin.cpu_s;
        }
    }
}

enum hlm_status hlm_runner_new_marks(struct hlm_arena *arena, struct hlm_runner *runner,
                                     struct hlm_err *err)
{
    struct hlm_backend *backend = runner->state->backend;
    const int32_t count = runner->actions->num_actions;
    runner->marks = HLM_ARENA_ARRAY(arena, struct hlm_runner_mark, count);
    for (int32_t i = 0; i < count; i++) {
        HLM_TRY(backend->ops->event_new(backend, &runner->marks[i].begin, err));
        HLM_TRY(backend->ops->event_new(backend, &runner->marks[i].end, err));
    }
    return HLM_OK;
}

static void free_event(const struct hlm_runner *runner, struct hlm_event *event)
{
    if (event != NULL) {
        runner->state->backend->ops->event_free(event);
    }
}

void hlm_runner_free_marks(struct hlm_runner *runner)
{
    for (int32_t i = 0; runner->marks != NULL && i < runner->actions->num_actions; i++) {
        free_event(runner, runner->marks[i].begin);
        free_event(runner, runner->marks[i].end);
    }
}
