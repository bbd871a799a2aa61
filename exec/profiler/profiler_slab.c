#include "exec/profiler/profiler_slab.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "exec/profiler/profiler_fit.h"
#include "exec/profiler/profiler_machine.h"
#include "exec/profiler/profiler_stack.h"

enum {
    NUM_ARRAYS = 4,
    NUM_REPEATS = 7,
    NUM_SIZES = 5,
    PROBE_SIZE = 512,
    MIN_ELEMENTS = 1 << 22,
    MAX_ELEMENTS = 1 << 26,
    MIN_SHARED_ELEMENTS = 1 << 20,
    PROBE_ELEMENTS = 1 << 21,
    CHUNK_ELEMENTS = 1 << 12, /* that are filled and uploaded at a time */
    NUM_LAUNCHES = 256
};

static const int64_t sizes[NUM_SIZES] = {1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22};

/* Bytes per element and the arrays that an operator takes: those of its operands, in order. */
struct slab_op {
    enum hlm_op_kind kind;
    double bytes_per_element;
    int32_t num_arrays;
};
static const struct slab_op slab_ops[HLM_PROFILER_NUM_SLAB_OPS] = {
    {HLM_OP_ADAMW, 28.0, 4},
    {HLM_OP_SUM_SQUARES, 4.0, 1},
    {HLM_OP_FILL_ZERO, 4.0, 1},
};
static const struct slab_op sum_op = {HLM_OP_ADD, 12.0, 3};

struct bench {
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    struct hlm_event *begin, *end;
    float *arrays[NUM_ARRAYS];
    double *sum;
    int64_t num_elements; /* of each array */
    int64_t cursor;       /* where the next repetition starts */
    float chunk[CHUNK_ELEMENTS];
};

static int64_t array_elements(void)
{
    const int64_t cache_floats = (int64_t)(sysconf(_SC_LEVEL3_CACHE_SIZE) / (long)sizeof(float));
    int64_t elements = MIN_ELEMENTS;
    while (elements < cache_floats && elements < MAX_ELEMENTS) {
        elements *= 2;
    }
    return elements;
}

/* Values like those of a training: second moments are positive. */
static enum hlm_status fill(struct bench *bench, int32_t array, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = bench->backend->ops;
    const bool positive = array + 1 == NUM_ARRAYS;
    for (int64_t first = 0; first < bench->num_elements; first += CHUNK_ELEMENTS) {
        for (int64_t i = 0; i < CHUNK_ELEMENTS; i++) {
            const uint64_t bits = hlm_rng_bits((uint64_t)array, (uint64_t)(first + i)) >> 40;
            const float uniform = (float)bits / (float)(1 << 24);
            bench->chunk[i] = positive ? uniform : 2.0f * uniform - 1.0f;
        }
        const int64_t left = bench->num_elements - first;
        const int64_t count = left < CHUNK_ELEMENTS ? left : CHUNK_ELEMENTS;
        HLM_TRY(ops->upload(bench->queue, bench->arrays[array] + first, bench->chunk,
                            count * (int64_t)sizeof(float), err));
        HLM_TRY(ops->queue_sync(bench->queue, err));
    }
    return HLM_OK;
}

static enum hlm_status bench_init(struct bench *bench, struct hlm_backend *backend,
                                  int64_t num_elements, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = backend->ops;
    *bench = (struct bench){.backend = backend, .num_elements = num_elements};
    HLM_TRY(ops->queue_new(backend, &bench->queue, err));
    HLM_TRY(ops->event_new(backend, &bench->begin, err));
    HLM_TRY(ops->event_new(backend, &bench->end, err));
    void *memory = NULL;
    HLM_TRY(ops->alloc(backend, sizeof(double), &memory, err));
    bench->sum = memory;
    for (int32_t i = 0; i < NUM_ARRAYS; i++) {
        HLM_TRY(ops->alloc(backend, num_elements * (int64_t)sizeof(float), &memory, err));
        bench->arrays[i] = memory;
        HLM_TRY(fill(bench, i, err));
    }
    return HLM_OK;
}

static void bench_release(struct bench *bench)
{
    const struct hlm_backend_ops *ops = bench->backend->ops;
    for (int32_t i = 0; i < NUM_ARRAYS; i++) {
        if (bench->arrays[i] != NULL) {
            ops->free(bench->backend, bench->arrays[i]);
        }
    }
    if (bench->sum != NULL) {
        ops->free(bench->backend, bench->sum);
    }
    if (bench->begin != NULL) {
        ops->event_free(bench->begin);
    }
    if (bench->end != NULL) {
        ops->event_free(bench->end);
    }
    if (bench->queue != NULL) {
        ops->queue_free(bench->queue);
    }
}

static enum hlm_status launch(struct bench *bench, const struct hlm_op *op, void *const *operands,
                              struct hlm_event_time *from, struct hlm_event_time *to,
                              struct hlm_err *err)
{
    static const struct hlm_op_scalars scalars = {.loss_scale = 1.0,
                                                  .learning_rate = 1e-3,
                                                  .beta1 = 0.9,
                                                  .beta2 = 0.95,
                                                  .adam_eps = 1e-8,
                                                  .weight_decay = 0.1,
                                                  .grad_scale = 1.0,
                                                  .step = 10};
    const struct hlm_backend_ops *ops = bench->backend->ops;
    HLM_TRY(ops->event_record(bench->queue, bench->begin, err));
    HLM_TRY(ops->launch(bench->queue, op, operands, &scalars, err));
    HLM_TRY(ops->event_record(bench->queue, bench->end, err));
    HLM_TRY(ops->queue_sync(bench->queue, err));
    *from = ops->event_time(bench->begin);
    *to = ops->event_time(bench->end);
    return HLM_OK;
}

/* One repetition on the next part of the arrays. */
static enum hlm_status run_part(struct bench *bench, const struct slab_op *what, int64_t elements,
                                double *out, struct hlm_err *err)
{
    if (bench->cursor + elements > bench->num_elements) {
        bench->cursor = 0;
    }
    void *operands[HLM_OP_MAX_OPERANDS] = {NULL};
    for (int32_t i = 0; i < what->num_arrays; i++) {
        operands[i] = bench->arrays[i] + bench->cursor;
    }
    if (what->kind == HLM_OP_SUM_SQUARES) {
        operands[1] = bench->sum;
    }
    bench->cursor += elements;
    const struct hlm_op op = {.kind = what->kind, .dtype = HLM_DTYPE_FP32, .m = elements, .n = 1};
    struct hlm_event_time from, to;
    HLM_TRY(launch(bench, &op, operands, &from, &to, err));
    *out = hlm_profiler_elapsed(from, to);
    return HLM_OK;
}

static enum hlm_status least_time(struct bench *bench, const struct slab_op *what, int64_t elements,
                                  double *out, struct hlm_err *err)
{
    double best = HUGE_VAL;
    for (int32_t i = 0; i < NUM_REPEATS + 1; i++) {
        double seconds = 0.0;
        HLM_TRY(run_part(bench, what, elements, &seconds, err));
        best = i == 0 ? best : fmin(best, seconds);
    }
    *out = fmax(best, 1e-9);
    return HLM_OK;
}

static enum hlm_status measure_curve(struct hlm_arena *arena, struct bench *bench,
                                     const struct slab_op *what, struct hlm_op_curve *out,
                                     struct hlm_err *err)
{
    struct hlm_curve_point *points = HLM_ARENA_ARRAY(arena, struct hlm_curve_point, NUM_SIZES);
    for (int32_t i = 0; i < NUM_SIZES; i++) {
        points[i].bytes = what->bytes_per_element * (double)sizes[i];
        HLM_TRY(least_time(bench, what, sizes[i], &points[i].seconds, err));
    }
    *out = (struct hlm_op_curve){
        .op = hlm_op_texts[what->kind], .points = points, .num_points = NUM_SIZES};
    out->source.num_samples = NUM_SIZES * NUM_REPEATS;
    return HLM_OK;
}

/* The constant part is what the shortest vector takes beyond the rate of the longest. */
static enum hlm_status measure_memory(struct hlm_arena *arena, struct bench *bench,
                                      struct hlm_memory_bandwidth *out, struct hlm_err *err)
{
    struct hlm_op_curve curve;
    HLM_TRY(measure_curve(arena, bench, &sum_op, &curve, err));
    const struct hlm_curve_point *first = &curve.points[0], *last = &curve.points[NUM_SIZES - 1];
    const double rate = last->bytes / last->seconds;
    *out = (struct hlm_memory_bandwidth){.t0_s = fmax(0.0, first->seconds - first->bytes / rate),
                                         .bytes_per_s = rate};
    for (int32_t i = 0; i < NUM_SIZES; i++) {
        out->peak_bytes_per_s =
            fmax(out->peak_bytes_per_s, curve.points[i].bytes / curve.points[i].seconds);
    }
    out->source.num_samples = NUM_SIZES * NUM_REPEATS;
    return HLM_OK;
}

static enum hlm_status measure_launch(struct bench *bench, double *out, struct hlm_err *err)
{
    static const struct hlm_op op = {
        .kind = HLM_OP_FILL_ZERO, .dtype = HLM_DTYPE_FP32, .m = 1, .n = 1};
    const struct hlm_backend_ops *ops = bench->backend->ops;
    void *operands[HLM_OP_MAX_OPERANDS] = {bench->arrays[0]};
    double best = HUGE_VAL;
    for (int32_t i = 0; i < NUM_REPEATS; i++) {
        HLM_TRY(ops->event_record(bench->queue, bench->begin, err));
        for (int32_t j = 0; j < NUM_LAUNCHES; j++) {
            HLM_TRY(ops->launch(bench->queue, &op, operands, NULL, err));
        }
        HLM_TRY(ops->event_record(bench->queue, bench->end, err));
        HLM_TRY(ops->queue_sync(bench->queue, err));
        best = fmin(
            best, hlm_profiler_elapsed(ops->event_time(bench->begin), ops->event_time(bench->end)));
    }
    *out = fmax(0.0, best / NUM_LAUNCHES);
    return HLM_OK;
}

static enum hlm_status measure_slabs(struct hlm_arena *arena, struct bench *bench,
                                     struct hlm_profiler_slabs *out, struct hlm_err *err)
{
    for (int32_t i = 0; i < HLM_PROFILER_NUM_SLAB_OPS; i++) {
        HLM_TRY(measure_curve(arena, bench, &slab_ops[i], &out->curves[i], err));
    }
    HLM_TRY(measure_memory(arena, bench, &out->memory, err));
    return measure_launch(bench, &out->launch_overhead_s, err);
}

enum hlm_status hlm_profiler_slabs_measure(struct hlm_arena *arena, struct hlm_backend *backend,
                                           struct hlm_profiler_slabs *out, struct hlm_err *err)
{
    struct bench bench;
    enum hlm_status status = bench_init(&bench, backend, array_elements(), err);
    if (status == HLM_OK) {
        status = measure_slabs(arena, &bench, out, err);
    }
    bench_release(&bench);
    return status;
}

/* --- neighbours --- */

/* Where the threads wait for each other; who can't come along sends all home. */
struct meeting {
    int32_t expected;
    atomic_int arrived;
    atomic_bool failed;
};

static bool meet(struct meeting *meeting)
{
    atomic_fetch_add(&meeting->arrived, 1);
    while (atomic_load(&meeting->arrived) < meeting->expected && !atomic_load(&meeting->failed)) {
        sched_yield();
    }
    return !atomic_load(&meeting->failed);
}

struct neighbour {
    pthread_t thread;
    bool started;
    int32_t index;
    int64_t num_elements;
    struct meeting *meeting;
    double seconds[NUM_REPEATS];
    enum hlm_status status;
    struct hlm_err err;
};

static enum hlm_status run_neighbour(struct neighbour *self, struct hlm_backend *backend,
                                     struct bench *bench)
{
    HLM_TRY(bench_init(bench, backend, self->num_elements, &self->err));
    if (!meet(self->meeting)) {
        return HLM_OK;
    }
    for (int32_t i = 0; i < NUM_REPEATS; i++) {
        HLM_TRY(run_part(bench, &slab_ops[0], self->num_elements, &self->seconds[i], &self->err));
    }
    return HLM_OK;
}

static void *neighbour_main(void *context)
{
    struct neighbour *self = context;
    struct hlm_backend *backend = NULL;
    hlm_profiler_pin(self->index);
    self->status = hlm_backend_cpu_new(&backend, &self->err);
    if (self->status == HLM_OK) {
        struct bench bench = {.backend = backend};
        self->status = run_neighbour(self, backend, &bench);
        bench_release(&bench);
        hlm_backend_free(backend);
    }
    if (self->status != HLM_OK) {
        atomic_store(&self->meeting->failed, true);
    }
    return NULL;
}

static int64_t shared_elements(int32_t num_sharers)
{
    const int64_t share = array_elements() / num_sharers;
    return share > MIN_SHARED_ELEMENTS ? share : MIN_SHARED_ELEMENTS;
}

static enum hlm_status run_neighbours(struct neighbour *all, int32_t num, int64_t num_elements,
                                      struct hlm_err *err)
{
    struct meeting meeting = {.expected = num};
    enum hlm_status status = HLM_OK;
    for (int32_t i = 0; i < num && status == HLM_OK; i++) {
        all[i].index = i;
        all[i].num_elements = num_elements;
        all[i].meeting = &meeting;
        all[i].started = pthread_create(&all[i].thread, NULL, neighbour_main, &all[i]) == 0;
        if (!all[i].started) {
            atomic_store(&meeting.failed, true);
            status = hlm_fail(err, HLM_ENV, "profiler: cannot start thread %d", (int)i);
        }
    }
    for (int32_t i = 0; i < num; i++) {
        if (all[i].started) {
            pthread_join(all[i].thread, NULL);
        }
        if (all[i].status != HLM_OK && status == HLM_OK) {
            status = all[i].status;
            *err = all[i].err;
        }
    }
    return status;
}

/* The lower quartile: the median would hold what other programs take from memory, and the least
 * those moments in which a thread was alone. */
enum hlm_status hlm_profiler_update_measure(struct hlm_arena *arena, int32_t num_threads,
                                            int32_t num_sharers, double *out, struct hlm_err *err)
{
    HLM_ASSERT(num_threads >= 1 && num_sharers >= num_threads);
    const int64_t num_elements = shared_elements(num_sharers);
    struct neighbour *all = HLM_ARENA_ARRAY(arena, struct neighbour, num_threads);
    double *seconds = HLM_ARENA_ARRAY(arena, double, num_threads *NUM_REPEATS);
    HLM_TRY(run_neighbours(all, num_threads, num_elements, err));
    for (int32_t i = 0; i < num_threads; i++) {
        memcpy(seconds + i * NUM_REPEATS, all[i].seconds, sizeof all[i].seconds);
    }
    hlm_fit_median(seconds, num_threads * NUM_REPEATS);
    *out = seconds[num_threads * NUM_REPEATS / 4] / (double)num_elements;
    return HLM_OK;
}

/* --- probe --- */

static enum hlm_status probe_gemm(struct bench *bench, struct hlm_profiler_probe *out,
                                  struct hlm_err *err)
{
    static const struct hlm_op op = {.kind = HLM_OP_GEMM,
                                     .dtype = HLM_DTYPE_FP32,
                                     .layout = HLM_GEMM_NN,
                                     .m = PROBE_SIZE,
                                     .n = PROBE_SIZE,
                                     .k = PROBE_SIZE};
    void *operands[HLM_OP_MAX_OPERANDS] = {bench->arrays[0], bench->arrays[1], bench->arrays[2]};
    double wall_s = 0.0, cpu_s = 0.0;
    out->gemm_s = HUGE_VAL;
    for (int32_t i = 0; i < NUM_REPEATS; i++) {
        struct hlm_event_time from, to;
        HLM_TRY(launch(bench, &op, operands, &from, &to, err));
        out->gemm_s = fmin(out->gemm_s, hlm_profiler_elapsed(from, to));
        wall_s += to.wall_s - from.wall_s;
        cpu_s += hlm_profiler_elapsed(from, to);
    }
    out->availability_frac = wall_s > 0.0 ? fmin(1.0, cpu_s / wall_s) : 1.0;
    return HLM_OK;
}

enum hlm_status hlm_profiler_probe_measure(struct hlm_backend *backend,
                                           struct hlm_profiler_probe *out, struct hlm_err *err)
{
    struct bench bench;
    enum hlm_status status = bench_init(&bench, backend, PROBE_ELEMENTS, err);
    if (status == HLM_OK) {
        status = probe_gemm(&bench, out, err);
    }
    if (status == HLM_OK) {
        status = least_time(&bench, &sum_op, bench.num_elements, &out->memory_s, err);
    }
    bench_release(&bench);
    return status;
}
