#include "exec/compute_clock.h"

enum hlm_status hlm_compute_clock_init(struct hlm_compute_clock *clock, struct hlm_backend *backend,
                                       struct hlm_queue *queue, struct hlm_err *err)
{
    *clock = (struct hlm_compute_clock){.backend = backend, .queue = queue};
    HLM_TRY(backend->ops->event_new(backend, &clock->begin, err));
    return backend->ops->event_new(backend, &clock->end, err);
}

void hlm_compute_clock_release(struct hlm_compute_clock *clock)
{
    /* A record may still be on its way; what a failed queue says was reported when it failed. */
    struct hlm_err ignored = {0};
    const enum hlm_status status = clock->backend->ops->queue_sync(clock->queue, &ignored);
    (void)status;
    if (clock->begin != NULL) {
        clock->backend->ops->event_free(clock->begin);
    }
    if (clock->end != NULL) {
        clock->backend->ops->event_free(clock->end);
    }
}

enum hlm_status hlm_compute_clock_start(struct hlm_compute_clock *clock, struct hlm_err *err)
{
    clock->wall_s = 0.0;
    clock->cpu_s = 0.0;
    return hlm_compute_clock_resume(clock, err);
}

enum hlm_status hlm_compute_clock_resume(struct hlm_compute_clock *clock, struct hlm_err *err)
{
    return clock->backend->ops->event_record(clock->queue, clock->begin, err);
}

enum hlm_status hlm_compute_clock_pause(struct hlm_compute_clock *clock, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = clock->backend->ops;
    HLM_TRY(ops->event_record(clock->queue, clock->end, err));
    HLM_TRY(ops->queue_sync(clock->queue, err));
    const struct hlm_event_time begin = ops->event_time(clock->begin);
    const struct hlm_event_time end = ops->event_time(clock->end);
    clock->wall_s += end.wall_s - begin.wall_s;
    clock->cpu_s += end.cpu_s - begin.cpu_s;
    return HLM_OK;
}
