#include "exec/compute_clock.h"

#include "tests/support/check.h"

/* A backend of events alone, whose clock the test sets. */
struct fake {
    struct hlm_backend base;
    struct hlm_event_time now;
    bool synced, fails;
    int num_events;
};

struct hlm_event {
    struct fake *fake;
    struct hlm_event_time time;
};

struct hlm_queue {
    struct fake *fake;
};

static enum hlm_status event_new(struct hlm_backend *backend, struct hlm_event **out,
                                 struct hlm_err *err)
{
    (void)err;
    struct fake *fake = (struct fake *)backend;
    *out = test_malloc(sizeof(**out));
    (*out)->fake = fake;
    fake->num_events++;
    return HLM_OK;
}

static void event_free(struct hlm_event *event)
{
    event->fake->num_events--;
    test_free(event);
}

static enum hlm_status event_record(struct hlm_queue *queue, struct hlm_event *event,
                                    struct hlm_err *err)
{
    (void)err;
    event->time = queue->fake->now;
    queue->fake->synced = false;
    return HLM_OK;
}

static enum hlm_status queue_sync(struct hlm_queue *queue, struct hlm_err *err)
{
    queue->fake->synced = true;
    return queue->fake->fails ? hlm_fail(err, HLM_FAILED, "the queue broke") : HLM_OK;
}

static struct hlm_event_time event_time(struct hlm_event *event)
{
    assert_true(event->fake->synced); /* an event's time is there after a sync only */
    return event->time;
}

static const struct hlm_backend_ops fake_ops = {.event_new = event_new,
                                                .event_free = event_free,
                                                .event_record = event_record,
                                                .queue_sync = queue_sync,
                                                .event_time = event_time};

static void advance(struct fake *fake, double wall_s, double cpu_s)
{
    fake->now.wall_s += wall_s;
    fake->now.cpu_s += cpu_s;
}

static void test_segments(void **state)
{
    (void)state;
    struct hlm_err err;
    struct fake fake = {.base = {&fake_ops}, .now = {100.0, 7.0}};
    struct hlm_queue queue = {&fake};
    struct hlm_compute_clock clock;
    check_ok(hlm_compute_clock_init(&clock, &fake.base, &queue, &err), &err);
    check_ok(hlm_compute_clock_start(&clock, &err), &err);
    advance(&fake, 2.0, 1.5);
    check_ok(hlm_compute_clock_pause(&clock, &err), &err);
    advance(&fake, 50.0, 40.0); /* communication */
    check_ok(hlm_compute_clock_resume(&clock, &err), &err);
    advance(&fake, 3.0, 2.5);
    check_ok(hlm_compute_clock_pause(&clock, &err), &err);
    check_close(clock.wall_s, 5.0, 1e-12);
    check_close(clock.cpu_s, 4.0, 1e-12);

    /* A new action begins at zero. */
    advance(&fake, 9.0, 9.0);
    check_ok(hlm_compute_clock_start(&clock, &err), &err);
    advance(&fake, 0.25, 0.125);
    check_ok(hlm_compute_clock_pause(&clock, &err), &err);
    check_close(clock.wall_s, 0.25, 1e-12);
    check_close(clock.cpu_s, 0.125, 1e-12);
    hlm_compute_clock_release(&clock);
    assert_int_equal(fake.num_events, 0);
}

/* What a queue says when it breaks comes out, and the clock can still be released. */
static void test_failure(void **state)
{
    (void)state;
    struct hlm_err err;
    struct fake fake = {.base = {&fake_ops}};
    struct hlm_queue queue = {&fake};
    struct hlm_compute_clock clock;
    check_ok(hlm_compute_clock_init(&clock, &fake.base, &queue, &err), &err);
    check_ok(hlm_compute_clock_start(&clock, &err), &err);
    fake.fails = true;
    check_fails(hlm_compute_clock_pause(&clock, &err), HLM_FAILED, &err, "the queue broke");
    hlm_compute_clock_release(&clock);
    assert_int_equal(fake.num_events, 0);
}

/* On a real backend: what a kernel takes is seen, by wall clock and by CPU time. */
static void test_cpu_backend(void **state)
{
    (void)state;
    enum { N = 1 << 16 };
    struct hlm_err err;
    struct hlm_backend *backend = NULL;
    struct hlm_queue *queue = NULL;
    struct hlm_compute_clock clock;
    void *memory = NULL;
    check_ok(hlm_backend_cpu_new(&backend, &err), &err);
    check_ok(backend->ops->queue_new(backend, &queue, &err), &err);
    check_ok(backend->ops->alloc(backend, N * (int64_t)sizeof(float), &memory, &err), &err);
    check_ok(hlm_compute_clock_init(&clock, backend, queue, &err), &err);
    const struct hlm_op zero = {.kind = HLM_OP_FILL_ZERO, .dtype = HLM_DTYPE_FP32, .m = N, .n = 1};
    void *const operands[HLM_OP_MAX_OPERANDS] = {memory};
    const struct hlm_op_scalars scalars = {0};
    check_ok(hlm_compute_clock_start(&clock, &err), &err);
    for (int i = 0; i < 100; i++) {
        check_ok(backend->ops->launch(queue, &zero, operands, &scalars, &err), &err);
    }
    check_ok(hlm_compute_clock_pause(&clock, &err), &err);
    assert_true(clock.wall_s > 0.0 && clock.cpu_s > 0.0);
    hlm_compute_clock_release(&clock);
    backend->ops->free(backend, memory);
    backend->ops->queue_free(queue);
    hlm_backend_free(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_segments),
                                       cmocka_unit_test(test_failure),
                                       cmocka_unit_test(test_cpu_backend)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
