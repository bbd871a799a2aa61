/* The CPU backend: memory, queues, events and the launch. Everything is synchronous: a call returns
 * when its work is done, so waits have nothing to wait for. */
#include <cblas.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "costmodel/memory.h"
#include "exec/cpu/cpu.h"
#include "exec/cpu/repeat.h"

struct hlm_event {
    struct hlm_event_time time;
};

/* Memory that grows to the largest request and is kept: nothing is allocated once every operator of
 * a step has run. */
struct buffer {
    float *data;
    int64_t count;
};

struct cpu_backend {
    struct hlm_backend base;
    int32_t times; /* that every operator runs */
};

struct hlm_queue {
    const struct cpu_backend *backend;
    unsigned float_mode; /* of the thread before */
    struct buffer scratch, rotation, copies;
    int64_t rotation_len, rotation_size; /* what the table is for: seq_len, rotary, rope_theta */
    double rotation_theta;
};

/* Numbers below the normal range count as zero on the thread of a queue (FTZ and DAZ, FZ on
 * aarch64): some CPUs take a hundred cycles for each of them, and a step's duration must not depend
 * on data. */
static unsigned flush_denormals(void)
{
#if defined(__SSE2__)
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040U);
    return mode;
#elif defined(__aarch64__)
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | (UINT64_C(1) << 24)));
    return (unsigned)mode;
#else
    return 0;
#endif
}

static void restore_float_mode(unsigned mode)
{
#if defined(__SSE2__)
    _mm_setcsr(mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode));
#else
    (void)mode;
#endif
}

static void release(struct hlm_backend *backend)
{
    free(backend);
}

/* Written once, so that no step takes a page fault. */
static enum hlm_status alloc(struct hlm_backend *backend, int64_t bytes, void **out,
                             struct hlm_err *err)
{
    (void)backend;
    HLM_ASSERT(bytes >= 0);
    const size_t unit = HLM_ALIGNMENT_BYTES;
    const size_t size = ((size_t)bytes + unit - 1) / unit * unit + (bytes == 0 ? unit : 0);
    void *memory = aligned_alloc(unit, size);
    if (memory == NULL) {
        return hlm_fail(err, HLM_ENV, "cpu backend: the system refused %lld bytes of memory",
                        (long long)bytes);
    }
    memset(memory, 0, size);
    *out = memory;
    return HLM_OK;
}

static void free_memory(struct hlm_backend *backend, void *memory)
{
    (void)backend;
    free(memory);
}

static enum hlm_status queue_new(struct hlm_backend *backend, struct hlm_queue **out,
                                 struct hlm_err *err)
{
    struct hlm_queue *queue = calloc(1, sizeof *queue);
    if (queue == NULL) {
        return hlm_fail(err, HLM_ENV, "cpu backend: no memory for a queue");
    }
    queue->backend = (const struct cpu_backend *)backend;
    queue->float_mode = flush_denormals();
    *out = queue;
    return HLM_OK;
}

static void queue_free(struct hlm_queue *queue)
{
    if (queue != NULL) {
        restore_float_mode(queue->float_mode);
        free(queue->scratch.data);
        free(queue->rotation.data);
        free(queue->copies.data);
        free(queue);
    }
}

static enum hlm_status queue_sync(struct hlm_queue *queue, struct hlm_err *err)
{
    (void)queue;
    (void)err;
    return HLM_OK;
}

static enum hlm_status copy(struct hlm_queue *queue, void *to, const void *from, int64_t bytes,
                            struct hlm_err *err)
{
    (void)queue;
    (void)err;
    HLM_ASSERT(bytes >= 0);
    if (bytes > 0 && to != from) {
        memmove(to, from, (size_t)bytes);
    }
    return HLM_OK;
}

static enum hlm_status event_new(struct hlm_backend *backend, struct hlm_event **out,
                                 struct hlm_err *err)
{
    (void)backend;
    struct hlm_event *event = calloc(1, sizeof *event);
    if (event == NULL) {
        return hlm_fail(err, HLM_ENV, "cpu backend: no memory for an event");
    }
    *out = event;
    return HLM_OK;
}

static void event_free(struct hlm_event *event)
{
    free(event);
}

static double seconds_of(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static enum hlm_status event_record(struct hlm_queue *queue, struct hlm_event *event,
                                    struct hlm_err *err)
{
    (void)queue;
    (void)err;
    event->time.wall_s = seconds_of(CLOCK_MONOTONIC);
    event->time.cpu_s = seconds_of(CLOCK_THREAD_CPUTIME_ID);
    return HLM_OK;
}

static enum hlm_status event_wait(struct hlm_queue *queue, struct hlm_event *event,
                                  struct hlm_err *err)
{
    (void)queue;
    (void)event;
    (void)err;
    return HLM_OK;
}

static struct hlm_event_time event_time(struct hlm_event *event)
{
    return event->time;
}

static enum hlm_status event_done(struct hlm_event *event, bool *out, struct hlm_err *err)
{
    (void)event;
    (void)err;
    *out = true;
    return HLM_OK;
}

static enum hlm_status combine(struct hlm_queue *queue, void *out, const void *a, const void *b,
                               int64_t count, enum hlm_wire type, enum hlm_reduce op,
                               struct hlm_err *err)
{
    (void)queue;
    (void)err;
    hlm_wire_reduce(out, a, b, count, type, op);
    return HLM_OK;
}

static enum hlm_status reserve(struct buffer *buffer, int64_t count, struct hlm_err *err)
{
    if (count <= buffer->count) {
        return HLM_OK;
    }
    void *data = NULL;
    HLM_TRY(alloc(NULL, count * (int64_t)sizeof(float), &data, err));
    free(buffer->data);
    *buffer = (struct buffer){data, count};
    return HLM_OK;
}

static bool rotates(const struct hlm_op *op)
{
    return op->kind == HLM_OP_ROPE_FWD || op->kind == HLM_OP_ROPE_BWD;
}

/* The table of the last RoPE operator serves the next when they agree, as all layers of a model do.
 */
static enum hlm_status reserve_rotation(struct hlm_queue *queue, const struct hlm_op *op,
                                        struct hlm_err *err)
{
    HLM_ASSERT(op->rotary > 0 && op->rotary % 2 == 0 && op->rotary <= op->head_dim);
    if (queue->rotation_len == op->seq_len && queue->rotation_size == op->rotary &&
        fabs(queue->rotation_theta - op->rope_theta) <= 0.0) {
        return HLM_OK;
    }
    HLM_TRY(reserve(&queue->rotation, op->seq_len * op->rotary, err));
    hlm_cpu_rotation_fill(queue->rotation.data, op->seq_len, op->rotary, op->rope_theta);
    queue->rotation_len = op->seq_len;
    queue->rotation_size = op->rotary;
    queue->rotation_theta = op->rope_theta;
    return HLM_OK;
}

int64_t hlm_cpu_scratch_none(const struct hlm_op *op)
{
    (void)op;
    return 0;
}

static const struct kernel {
    void (*run)(const struct hlm_cpu_call *call);
    int64_t (*scratch)(const struct hlm_op *op);
} kernels[HLM_NUM_OPS] = {
#define X(kind, kernel, scratch) [HLM_OP_##kind] = {hlm_cpu_##kernel, hlm_cpu_scratch_##scratch},
    HLM_CPU_KERNEL_MAP(X)
#undef X
};

static enum hlm_status launch(struct hlm_queue *queue, const struct hlm_op *op,
                              void *const operands[HLM_OP_MAX_OPERANDS],
                              const struct hlm_op_scalars *scalars, struct hlm_err *err)
{
    HLM_ASSERT((int)op->kind >= 0 && op->kind < HLM_NUM_OPS && op->m >= 0 && op->n >= 0);
    const struct kernel *kernel = &kernels[op->kind];
    if (kernel->run == NULL || op->dtype != HLM_DTYPE_FP32) {
        return hlm_fail(err, HLM_ENV, "the cpu backend can't run %s in %s", hlm_op_texts[op->kind],
                        hlm_dtype_texts[op->dtype]);
    }
    HLM_TRY(reserve(&queue->scratch, kernel->scratch(op), err));
    if (rotates(op)) {
        HLM_TRY(reserve_rotation(queue, op, err));
    }
    const struct hlm_cpu_call call = {.op = op,
                                      .operands = operands,
                                      .scalars = scalars,
                                      .scratch = queue->scratch.data,
                                      .rotation = queue->rotation.data};
    if (queue->backend->times == 1) {
        kernel->run(&call);
        return HLM_OK;
    }
    HLM_TRY(reserve(&queue->copies, hlm_cpu_copies_floats(op, operands), err));
    hlm_cpu_run_repeated(kernel->run, &call, queue->backend->times, queue->copies.data);
    return HLM_OK;
}

enum hlm_status hlm_backend_cpu_new(struct hlm_backend **out, struct hlm_err *err)
{
    static const struct hlm_backend_ops ops = {
        .version = HLM_BACKEND_VERSION,
        .name = "cpu",
        .host_memory = true,
        .release = release,
        .alloc = alloc,
        .free = free_memory,
        .queue_new = queue_new,
        .queue_free = queue_free,
        .queue_sync = queue_sync,
        .upload = copy,
        .download = copy,
        .copy = copy,
        .event_new = event_new,
        .event_free = event_free,
        .event_record = event_record,
        .event_wait = event_wait,
        .event_time = event_time,
        .launch = launch,
        .event_done = event_done,
        .combine = combine,
    };
    struct cpu_backend *backend = malloc(sizeof *backend);
    if (backend == NULL) {
        return hlm_fail(err, HLM_ENV, "cpu backend: no memory");
    }
    openblas_set_num_threads(1); /* ranks are the parallelism */
    *backend = (struct cpu_backend){.base = {&ops}, .times = 1};
    *out = &backend->base;
    return HLM_OK;
}

void hlm_backend_cpu_repeat(struct hlm_backend *backend, int32_t times)
{
    HLM_ASSERT(strcmp(backend->ops->name, "cpu") == 0 && times >= 1);
    ((struct cpu_backend *)backend)->times = times;
}
