#include "exec/profiler/profiler_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "costmodel/memory.h"
#include "exec/profiler/profiler_stack.h"

enum {
    NUM_VALUES = 65537, /* of the random numbers; no width of a tensor divides it */
    SOURCE_BYTES = 16 << 20,
    MAX_SETS = 128,
    MAX_BATCH = 128, /* far below the thousand launches that a stream takes before it blocks */
    NUM_CLOCK_RECORDS = 8,
    NUM_IDLE_SAMPLES = 3,
    MAX_RETRIES = 3,
    MAX_PLUGS = 256, /* launches of each kind in front of a sample */
    VALUE_BYTES = 2
};

/* What the host may be late by, beyond the launches that were timed before. */
static const double host_slack = 1.5, host_slack_s = 30e-6;

/* Device memory that operands are filled from. */
enum source { NORMAL, POSITIVE, INDEX, NUM_SOURCES };

struct hlm_profiler_bench {
    struct hlm_backend *backend;
    struct hlm_profiler_bench_config config;
    struct hlm_queue *queue;
    struct hlm_event *begin, *end;
    char *region, *flush, *sources[NUM_SOURCES];
    uint16_t *host; /* SOURCE_BYTES */
    int64_t index_limit;
    double clock_s, copy_s; /* of an event's record; of the copy that empties the caches */
    const struct hlm_profiler_case *hot;
    double hot_s;
};

/* Operands of a case inside of one set. */
struct layout {
    int64_t offset[HLM_OP_MAX_OPERANDS], bytes[HLM_OP_MAX_OPERANDS];
    int64_t set_bytes;
    int32_t num_sets;
};

double hlm_profiler_now(const struct hlm_profiler_clock *clock)
{
    if (clock->now_s != NULL) {
        return clock->now_s(clock->context);
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* --- where operands lie --- */

static int64_t aligned(int64_t bytes)
{
    return (bytes + HLM_ALIGNMENT_BYTES - 1) / HLM_ALIGNMENT_BYTES * HLM_ALIGNMENT_BYTES;
}

static int64_t operand_bytes(const struct hlm_profiler_case *what, int32_t operand)
{
    if (what->is_copy) {
        return operand < 2 ? what->op.m : 0;
    }
    if (operand >= hlm_op_num_operands(what->op.kind) || what->op.operands[operand] < 0) {
        return 0;
    }
    const struct hlm_tensor *tensor = &what->tensors[operand];
    const double bytes = hlm_tensor_bytes(tensor);
    /* The loss and the sum of squares are one double each. */
    return (int64_t)fmax(bytes, tensor->rows * tensor->cols == 1 ? (double)sizeof(double) : bytes);
}

static struct layout make_layout(const struct hlm_profiler_bench *bench,
                                 const struct hlm_profiler_case *what, bool warm)
{
    struct layout layout = {0};
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        layout.bytes[i] = operand_bytes(what, i);
        layout.offset[i] = layout.set_bytes;
        layout.set_bytes += aligned(layout.bytes[i]);
    }
    HLM_ASSERT(layout.set_bytes > 0);
    /* At least two, since a part of a set that is as large as the caches may still be there. */
    const int64_t wanted = bench->config.flush_bytes / layout.set_bytes + 2;
    const int64_t room = bench->config.region_bytes / layout.set_bytes;
    int64_t num = warm ? 1 : wanted;
    num = num < room ? num : room;
    layout.num_sets = (int32_t)(num < 1 ? 1 : num > MAX_SETS ? MAX_SETS : num);
    return layout;
}

bool hlm_profiler_bench_has_room(const struct hlm_profiler_bench *bench,
                                 const struct hlm_profiler_case *what)
{
    return make_layout(bench, what, true).set_bytes <= bench->config.region_bytes;
}

/* --- random numbers --- */

/* The upper half of an fp32 number is a bf16 number, so two of these make one fp32 number of about
 * the same distribution: one source serves both. */
static uint16_t bf16_of(double value)
{
    const float rounded = (float)value;
    uint32_t bits = 0;
    memcpy(&bits, &rounded, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static enum hlm_status upload_source(struct hlm_profiler_bench *bench, enum source source,
                                     struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = bench->backend->ops;
    HLM_TRY(ops->upload(bench->queue, bench->sources[source], bench->host, SOURCE_BYTES, err));
    return ops->queue_sync(bench->queue, err);
}

static enum hlm_status fill_sources(struct hlm_profiler_bench *bench, struct hlm_err *err)
{
    const int64_t num = SOURCE_BYTES / VALUE_BYTES;
    for (int64_t i = 0; i < num; i++) {
        bench->host[i] =
            i < NUM_VALUES ? bf16_of(hlm_rng_normal(11, (uint64_t)i)) : bench->host[i - NUM_VALUES];
    }
    HLM_TRY(upload_source(bench, NORMAL, err));
    for (int64_t i = 0; i < num; i++) {
        bench->host[i] = (uint16_t)(bench->host[i] & 0x7FFFU); /* without the sign */
    }
    return upload_source(bench, POSITIVE, err);
}

static enum hlm_status fill_indices(struct hlm_profiler_bench *bench, int64_t limit,
                                    struct hlm_err *err)
{
    if (limit <= 0 || limit == bench->index_limit) {
        return HLM_OK;
    }
    const int64_t num = SOURCE_BYTES / (int64_t)sizeof(int32_t);
    for (int64_t i = 0; i < num; i++) {
        const int32_t index = (int32_t)(hlm_rng_uniform(7, (uint64_t)i) * (double)limit);
        memcpy((char *)bench->host + i * (int64_t)sizeof index, &index, sizeof index);
    }
    bench->index_limit = limit;
    return upload_source(bench, INDEX, err);
}

/* Second moments are positive. */
static enum source source_of(const struct hlm_profiler_case *what, int32_t operand)
{
    const enum hlm_tensor_role role = what->tensors[operand].role;
    if (!what->is_copy && (role == HLM_TENSOR_TOKENS || role == HLM_TENSOR_TARGETS)) {
        return INDEX;
    }
    return what->op.kind == HLM_OP_ADAMW && operand == 3 ? POSITIVE : NORMAL;
}

/* Each set starts elsewhere in the source, so that no two hold the same. */
static enum hlm_status fill_operand(struct hlm_profiler_bench *bench, enum source source,
                                    int32_t set, char *to, int64_t bytes, struct hlm_err *err)
{
    int64_t skip = (int64_t)set * HLM_ALIGNMENT_BYTES * 37 % (SOURCE_BYTES / 2);
    for (int64_t done = 0; done < bytes; skip = 0) {
        const int64_t left = bytes - done, most = SOURCE_BYTES - skip;
        const int64_t part = left < most ? left : most;
        HLM_TRY(bench->backend->ops->copy(bench->queue, to + done, bench->sources[source] + skip,
                                          part, err));
        done += part;
    }
    return HLM_OK;
}

static enum hlm_status fill_sets(struct hlm_profiler_bench *bench,
                                 const struct hlm_profiler_case *what, const struct layout *layout,
                                 struct hlm_err *err)
{
    HLM_TRY(fill_indices(bench, what->index_limit, err));
    for (int32_t set = 0; set < layout->num_sets; set++) {
        for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
            HLM_TRY(fill_operand(bench, source_of(what, i), set,
                                 bench->region + set * layout->set_bytes + layout->offset[i],
                                 layout->bytes[i], err));
        }
        /* So that no stream has to hold the copies of all sets. */
        HLM_TRY(bench->backend->ops->queue_sync(bench->queue, err));
    }
    return HLM_OK;
}

/* --- launches --- */

static enum hlm_status launch(struct hlm_profiler_bench *bench,
                              const struct hlm_profiler_case *what, const struct layout *layout,
                              int32_t set, struct hlm_err *err)
{
    static const struct hlm_op_scalars scalars = {.loss_scale = 1.0,
                                                  .learning_rate = 1e-3,
                                                  .beta1 = 0.9,
                                                  .beta2 = 0.95,
                                                  .adam_eps = 1e-8,
                                                  .weight_decay = 0.1,
                                                  .grad_scale = 1.0,
                                                  .step = 10};
    void *operands[HLM_OP_MAX_OPERANDS] = {NULL};
    char *base = bench->region + (set % layout->num_sets) * layout->set_bytes;
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        operands[i] = layout->bytes[i] > 0 ? base + layout->offset[i] : NULL;
    }
    const struct hlm_backend_ops *ops = bench->backend->ops;
    return what->is_copy ? ops->copy(bench->queue, operands[0], operands[1], what->op.m, err)
                         : ops->launch(bench->queue, &what->op, operands, &scalars, err);
}

static enum hlm_status run_batch(struct hlm_profiler_bench *bench,
                                 const struct hlm_profiler_case *what, const struct layout *layout,
                                 int32_t num, double *host_s, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = bench->backend->ops;
    HLM_TRY(ops->event_record(bench->queue, bench->begin, err));
    const double start_s = hlm_profiler_now(&bench->config.clock);
    for (int32_t i = 0; i < num; i++) {
        HLM_TRY(launch(bench, what, layout, i, err));
    }
    *host_s = hlm_profiler_now(&bench->config.clock) - start_s;
    return ops->event_record(bench->queue, bench->end, err);
}

static double batch_s(const struct hlm_profiler_bench *bench)
{
    const struct hlm_backend_ops *ops = bench->backend->ops;
    const double gap_s =
        hlm_profiler_elapsed(ops->event_time(bench->begin), ops->event_time(bench->end));
    return fmax(gap_s - bench->clock_s, 1e-9);
}

/* Whether the device reached the batch before the host had put all of it there. */
static bool was_starved(const struct hlm_profiler_bench *bench, double enqueued_s)
{
    return bench->backend->ops->event_time(bench->begin).wall_s < enqueued_s;
}

static bool is_product(const struct hlm_profiler_case *what)
{
    const enum hlm_op_kind kind = what->op.kind;
    return !what->is_copy &&
           (kind == HLM_OP_GEMM || kind == HLM_OP_ATTENTION_FWD || kind == HLM_OP_ATTENTION_BWD);
}

static int32_t num_plugs(double wanted_s, double each_s)
{
    return (int32_t)fmin(ceil(wanted_s / each_s), MAX_PLUGS);
}

static enum hlm_status run_plug(struct hlm_profiler_bench *bench, bool is_hot, double plug_s,
                                struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = bench->backend->ops;
    if (is_hot && bench->hot != NULL) {
        const struct layout layout = make_layout(bench, bench->hot, true);
        const int32_t num = num_plugs(bench->config.hot_s, bench->hot_s);
        for (int32_t n = 0; n < num; n++) {
            void *operands[HLM_OP_MAX_OPERANDS] = {NULL};
            for (int32_t i = 0; i < 3; i++) {
                operands[i] = bench->flush + layout.offset[i];
            }
            HLM_TRY(ops->launch(bench->queue, &bench->hot->op, operands, NULL, err));
        }
    }
    const int64_t half = bench->config.flush_bytes / 2;
    const int32_t num = 1 + num_plugs(plug_s, bench->copy_s);
    for (int32_t n = 0; n < num; n++) {
        HLM_TRY(ops->copy(bench->queue, bench->flush + half, bench->flush, half, err));
    }
    return HLM_OK;
}

/* --- samples --- */

struct sampling {
    const struct hlm_profiler_case *what;
    struct layout layout;
    bool warm;
    int32_t batch;
    double least_s, host_s, plug_s; /* of a launch, of a launch, before each batch */
};

/* Two launches that count for nothing: the first chooses algorithms and loads kernels, the second,
 * behind a plug like a sample, says how many make a batch. */
static enum hlm_status warm_up(struct hlm_profiler_bench *bench, struct sampling *sampling,
                               struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = bench->backend->ops;
    for (int32_t i = 0; i < 2; i++) {
        if (i > 0) {
            HLM_TRY(run_plug(bench, false, host_slack_s + host_slack * sampling->host_s, err));
        }
        HLM_TRY(run_batch(bench, sampling->what, &sampling->layout, 1, &sampling->host_s, err));
        HLM_TRY(ops->queue_sync(bench->queue, err));
        sampling->least_s = batch_s(bench);
    }
    const double wanted = ceil(bench->config.min_batch_s / sampling->least_s);
    sampling->batch = (int32_t)fmax(1.0, fmin(wanted, MAX_BATCH));
    sampling->plug_s = host_slack * sampling->host_s * (double)sampling->batch + host_slack_s;
    return HLM_OK;
}

static enum hlm_status take_sample(struct hlm_profiler_bench *bench, struct sampling *sampling,
                                   double *out, struct hlm_err *err)
{
    const double batch = (double)sampling->batch;
    double host_s = 0.0;
    for (int32_t retry = 0; retry <= MAX_RETRIES; retry++) {
        /* A warm set must not be emptied out of the caches: its first launch brings it back, and
         * counts as one of many. */
        HLM_TRY(run_plug(bench, is_product(sampling->what), sampling->plug_s, err));
        if (sampling->warm) {
            HLM_TRY(launch(bench, sampling->what, &sampling->layout, 0, err));
        }
        HLM_TRY(run_batch(bench, sampling->what, &sampling->layout, sampling->batch, &host_s, err));
        const double enqueued_s = hlm_profiler_now(&bench->config.clock);
        HLM_TRY(bench->backend->ops->queue_sync(bench->queue, err));
        *out = batch_s(bench) / batch;
        sampling->host_s = fmin(sampling->host_s, host_s / batch);
        if (*out > 2.0 * host_s / batch || !was_starved(bench, enqueued_s)) {
            break;
        }
        sampling->plug_s = 2.0 * sampling->plug_s + host_s;
    }
    return HLM_OK;
}

enum hlm_status hlm_profiler_bench_measure(struct hlm_profiler_bench *bench,
                                           const struct hlm_profiler_case *what, bool warm,
                                           int32_t num_samples, double deadline_s,
                                           struct hlm_profiler_timing *timing, struct hlm_err *err)
{
    struct sampling sampling = {
        .what = what, .layout = make_layout(bench, what, warm), .warm = warm};
    HLM_ASSERT(sampling.layout.set_bytes <= bench->config.region_bytes && num_samples >= 1);
    HLM_TRY(fill_sets(bench, what, &sampling.layout, err));
    HLM_TRY(warm_up(bench, &sampling, err));
    const double host_s = timing->num_samples > 0 ? timing->host_s : HUGE_VAL;
    for (int32_t i = 0; i < num_samples && timing->num_samples < HLM_PROFILER_MAX_SAMPLES; i++) {
        double seconds = 0.0;
        HLM_TRY(take_sample(bench, &sampling, &seconds, err));
        timing->seconds[timing->num_samples++] = seconds;
        if (hlm_profiler_now(&bench->config.clock) > deadline_s) {
            break;
        }
    }
    timing->host_s = fmin(host_s, sampling.host_s);
    return HLM_OK;
}

enum hlm_status hlm_profiler_bench_idle(struct hlm_profiler_bench *bench,
                                        struct hlm_profiler_timing *timing, struct hlm_err *err)
{
    static const struct hlm_profiler_case nothing = {
        .op = {.kind = HLM_OP_FILL_ZERO,
               .dtype = HLM_DTYPE_FP32,
               .operands = {0, -1, -1, -1, -1, -1, -1, -1},
               .m = 1,
               .n = 1},
        .tensors = {{.role = HLM_TENSOR_GRAD, .dtype = HLM_DTYPE_FP32, .rows = 1, .cols = 1}}};
    return hlm_profiler_bench_measure(bench, &nothing, true, NUM_IDLE_SAMPLES, HUGE_VAL, timing,
                                      err);
}

enum hlm_status hlm_profiler_bench_heat_with(struct hlm_profiler_bench *bench,
                                             const struct hlm_profiler_case *what,
                                             struct hlm_err *err)
{
    bench->hot = NULL;
    if (what == NULL || make_layout(bench, what, true).set_bytes > bench->config.flush_bytes / 2 ||
        !hlm_profiler_bench_has_room(bench, what)) {
        return HLM_OK;
    }
    struct sampling sampling = {.what = what, .layout = make_layout(bench, what, true)};
    HLM_TRY(fill_sets(bench, what, &sampling.layout, err));
    HLM_TRY(warm_up(bench, &sampling, err));
    bench->hot_s = sampling.least_s;
    bench->hot = what;
    return HLM_OK;
}

/* --- making one --- */

static enum hlm_status alloc(struct hlm_profiler_bench *bench, int64_t bytes, char **out,
                             struct hlm_err *err)
{
    void *memory = NULL;
    HLM_TRY(bench->backend->ops->alloc(bench->backend, bytes, &memory, err));
    *out = memory;
    return HLM_OK;
}

/* What the record of an event adds to a batch: the least gap between two in a row, behind a plug,
 * since the host may need longer for a record than the device. */
static enum hlm_status measure_clock(struct hlm_profiler_bench *bench, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = bench->backend->ops;
    double least_s = HUGE_VAL;
    for (int32_t i = 0; i < NUM_CLOCK_RECORDS; i++) {
        HLM_TRY(run_plug(bench, false, host_slack_s, err));
        HLM_TRY(ops->event_record(bench->queue, bench->begin, err));
        HLM_TRY(ops->event_record(bench->queue, bench->end, err));
        HLM_TRY(ops->queue_sync(bench->queue, err));
        least_s = fmin(least_s, batch_s(bench));
    }
    bench->clock_s = least_s;
    return HLM_OK;
}

static enum hlm_status measure_copy(struct hlm_profiler_bench *bench, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = bench->backend->ops;
    const int64_t half = bench->config.flush_bytes / 2;
    bench->copy_s = HUGE_VAL;
    for (int32_t i = 0; i < 3; i++) {
        HLM_TRY(ops->event_record(bench->queue, bench->begin, err));
        HLM_TRY(ops->copy(bench->queue, bench->flush + half, bench->flush, half, err));
        HLM_TRY(ops->event_record(bench->queue, bench->end, err));
        HLM_TRY(ops->queue_sync(bench->queue, err));
        bench->copy_s = fmin(bench->copy_s, batch_s(bench));
    }
    return HLM_OK;
}

static enum hlm_status fill_flush(struct hlm_profiler_bench *bench, struct hlm_err *err)
{
    HLM_TRY(fill_operand(bench, NORMAL, 0, bench->flush, bench->config.flush_bytes, err));
    return bench->backend->ops->queue_sync(bench->queue, err);
}

static enum hlm_status init(struct hlm_profiler_bench *bench, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = bench->backend->ops;
    HLM_TRY(ops->queue_new(bench->backend, &bench->queue, err));
    HLM_TRY(ops->event_new(bench->backend, &bench->begin, err));
    HLM_TRY(ops->event_new(bench->backend, &bench->end, err));
    HLM_TRY(alloc(bench, bench->config.region_bytes, &bench->region, err));
    HLM_TRY(alloc(bench, bench->config.flush_bytes, &bench->flush, err));
    for (int32_t i = 0; i < NUM_SOURCES; i++) {
        HLM_TRY(alloc(bench, SOURCE_BYTES, &bench->sources[i], err));
    }
    HLM_TRY(fill_sources(bench, err));
    HLM_TRY(fill_flush(bench, err));
    HLM_TRY(measure_copy(bench, err));
    return measure_clock(bench, err);
}

enum hlm_status hlm_profiler_bench_new(struct hlm_arena *arena, struct hlm_backend *backend,
                                       const struct hlm_profiler_bench_config *config,
                                       struct hlm_profiler_bench **out, struct hlm_err *err)
{
    HLM_ASSERT(config->region_bytes > 0 && config->flush_bytes >= 2);
    struct hlm_profiler_bench *bench = HLM_ARENA_NEW(arena, struct hlm_profiler_bench);
    *bench = (struct hlm_profiler_bench){.backend = backend, .config = *config};
    bench->host = hlm_arena_alloc(arena, SOURCE_BYTES, 1);
    const enum hlm_status status = init(bench, err);
    if (status != HLM_OK) {
        hlm_profiler_bench_free(bench);
        return status;
    }
    *out = bench;
    return HLM_OK;
}

void hlm_profiler_bench_free(struct hlm_profiler_bench *bench)
{
    if (bench == NULL) {
        return;
    }
    const struct hlm_backend_ops *ops = bench->backend->ops;
    if (bench->queue != NULL) {
        ops->queue_free(bench->queue);
    }
    char *const memory[] = {bench->region, bench->flush, bench->sources[NORMAL],
                            bench->sources[POSITIVE], bench->sources[INDEX]};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) {
        if (memory[i] != NULL) {
            ops->free(bench->backend, memory[i]);
        }
    }
    if (bench->begin != NULL) {
        ops->event_free(bench->begin);
    }
    if (bench->end != NULL) {
        ops->event_free(bench->end);
    }
}
