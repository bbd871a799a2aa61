#include "exec/profiler/profiler_gpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/fmt.h"
#include "costmodel/kernel.h"
#include "exec/profiler/profiler_cases.h"
#include "exec/profiler/profiler_fit.h"
#include "exec/profiler/profiler_rates.h"

enum {
    MAX_TOLD = 256,
    WARM_SAMPLES = 3,
    STATE_PERIOD = 8, /* cases between two looks at the clocks */
    SMALL_PRODUCT = 64,
    SMALL_SUM = 256,
    HOT_PRODUCT = 4096,
    RAMP_WINDOW = 8, /* samples of the ramp between two looks at their time */
    LAST_SAMPLES = 5,
    CHOOSING_LAUNCHES = 40 /* eight candidates, five times each */
};

/* Twice the cache of any device so far (126 MB, B200). */
static const int64_t usual_flush_bytes = INT64_C(256) << 20;
/* Operands of the largest case take 2 GiB; more serves nobody. */
static const int64_t max_region_bytes = INT64_C(4) << 30;
static const int64_t min_region_bytes = INT64_C(1) << 20;
/* Of what is left of the budget, one case takes at most this part. */
static const double max_case_frac = 0.05;
/* Of the budget, kept for the end (launches, fits), and what probes may take at most. */
static const double reserve_frac = 0.06, probe_frac = 0.2;
/* What a tiny device is asked for at most. */
static const double tiny_flops = 2.5e6, tiny_bytes = 2e4;
static const double steady_frac = 0.01, drift_warning_frac = 0.05, clock_warning_frac = 0.03;

enum reason { NO_TIME, TOO_LONG, TOO_LARGE, NO_ROOM, REFUSED };
static const char *const reason_texts[] = {
    [NO_TIME] = "no time was left",
    [TOO_LONG] = "would take too long",
    [TOO_LARGE] = "too large for an emulated device",
    [NO_ROOM] = "memory is too small",
    [REFUSED] = "the backend can't run them",
};

struct gpu {
    struct hlm_arena *arena;
    const struct hlm_profiler_gpu_config *config;
    struct hlm_profiler_bench *bench;
    struct hlm_profiler_cases cases;
    struct hlm_profiler_timing *cold, *warm; /* [cases.num] */
    enum reason *reasons;                    /* [cases.num], of those without a sample */
    struct hlm_profiler_rates rates;
    struct hlm_profiler_case hot; /* the product that heats */
    double start_s, deadline_s;
    double first_hot_s, ramped_hot_s, last_hot_s;
    struct hlm_nvml_state before, during, after;
    double least_clock_hz, most_clock_hz;
    int32_t num_looks;
};

struct hlm_profiler_gpu_config hlm_profiler_gpu_defaults(bool quick)
{
    return (struct hlm_profiler_gpu_config){
        .quick = quick, .hot_s = quick ? 1e-3 : 3e-3, .ramp_s = quick ? 1.5 : 4.0};
}

static double now_s(const struct gpu *gpu)
{
    return hlm_profiler_now(&gpu->config->clock);
}

static struct hlm_heartbeat *listener(const struct gpu *gpu)
{
    return gpu->config->silent ? NULL : gpu->config->heartbeat;
}

/* --- clocks --- */

static double larger_known(double a, double b)
{
    return fmax(a, b); /* 0 is unknown */
}

static double smaller_known(double a, double b)
{
    return a > 0.0 && b > 0.0 ? fmin(a, b) : fmax(a, b);
}

static void look(struct gpu *gpu)
{
    const struct hlm_nvml_state state = hlm_nvml_read(gpu->config->nvml);
    struct hlm_nvml_state *all = &gpu->during;
    all->sm_clock_hz = smaller_known(all->sm_clock_hz, state.sm_clock_hz);
    all->memory_clock_hz = smaller_known(all->memory_clock_hz, state.memory_clock_hz);
    all->power_w = larger_known(all->power_w, state.power_w);
    all->temperature_c = larger_known(all->temperature_c, state.temperature_c);
    all->knows_reasons = all->knows_reasons || state.knows_reasons;
    all->reasons |= state.reasons;
    gpu->most_clock_hz = larger_known(gpu->most_clock_hz, state.sm_clock_hz);
    gpu->least_clock_hz = smaller_known(gpu->least_clock_hz, state.sm_clock_hz);
}

/* --- foretelling --- */

/* Launches of a case: two that warm up, then samples of one or more; and at a product's first time
 * those that choose an algorithm (exec/cuda/gemm_lt.h). */
static bool is_too_long(struct gpu *gpu, const struct hlm_profiler_case *what, int32_t num_samples)
{
    const double left_s = gpu->deadline_s - now_s(gpu);
    const bool chooses = !what->is_copy && what->op.kind == HLM_OP_GEMM;
    const int32_t launches = num_samples + 2 + (chooses ? CHOOSING_LAUNCHES : 0);
    return hlm_profiler_rates_foretell_s(&gpu->rates, what) * (double)launches >
           max_case_frac * left_s;
}

/* Warm samples outside of the passes, which need no rotating sets. */
static enum hlm_status sample(struct gpu *gpu, const struct hlm_profiler_case *what,
                              int32_t num_samples, double *out, struct hlm_err *err)
{
    struct hlm_profiler_timing timing = {0};
    HLM_TRY(hlm_profiler_bench_measure(gpu->bench, what, true, num_samples, gpu->deadline_s,
                                       &timing, err));
    *out = hlm_fit_median(timing.seconds, timing.num_samples);
    hlm_profiler_rates_learn(&gpu->rates, what, *out);
    return HLM_OK;
}

static bool may_probe(struct gpu *gpu, const struct hlm_profiler_case *what, bool first)
{
    const bool in_time = now_s(gpu) - gpu->start_s < probe_frac * gpu->config->budget_s;
    return hlm_profiler_bench_has_room(gpu->bench, what) &&
           (first || (in_time && !gpu->config->tiny && !is_too_long(gpu, what, 1)));
}

/* Ever larger cases of one kind, as long as there is time: what follows can then be foretold. */
static enum hlm_status probe_products(struct gpu *gpu, enum hlm_dtype dtype, struct hlm_err *err)
{
    double seconds = 0.0;
    for (int64_t size = SMALL_PRODUCT; size <= HOT_PRODUCT; size *= 2) {
        const struct hlm_profiler_case what =
            hlm_profiler_product(dtype, HLM_GEMM_TN, size, size, size, false);
        if (!may_probe(gpu, &what, size == SMALL_PRODUCT)) {
            break;
        }
        HLM_TRY(sample(gpu, &what, 1, &seconds, err));
        gpu->hot = what;
    }
    return HLM_OK;
}

static enum hlm_status probe_attention(struct gpu *gpu, enum hlm_dtype dtype, struct hlm_err *err)
{
    double seconds = 0.0;
    int32_t heads = 1;
    for (int64_t seq_len = SMALL_PRODUCT; seq_len <= HOT_PRODUCT; seq_len *= 4, heads *= 2) {
        const struct hlm_profiler_attention shape = {
            .batch = 1, .heads = heads, .kv_heads = heads, .seq_len = seq_len, .head_dim = 64};
        const struct hlm_profiler_case what = hlm_profiler_attention(dtype, &shape);
        if (!may_probe(gpu, &what, seq_len == SMALL_PRODUCT)) {
            break;
        }
        HLM_TRY(sample(gpu, &what, 1, &seconds, err));
    }
    return HLM_OK;
}

static enum hlm_status probe_memory(struct gpu *gpu, struct hlm_err *err)
{
    const struct hlm_profiler_case copy = {
        .op = {.m = min_region_bytes / 4, .bytes = (double)(min_region_bytes / 2)},
        .is_copy = true};
    const struct hlm_profiler_case sum = hlm_profiler_sum(SMALL_SUM);
    double seconds = 0.0;
    HLM_TRY(sample(gpu, &copy, 1, &seconds, err));
    return sample(gpu, &sum, 1, &seconds, err);
}

/* A dtype that the backend lacks needs no rates: its cases will be refused. The last dtype's
 * product is the one that heats. */
static enum hlm_status probe(struct gpu *gpu, struct hlm_err *err)
{
    static const enum hlm_dtype dtypes[] = {HLM_DTYPE_FP32, HLM_DTYPE_BF16};
    HLM_TRY(probe_memory(gpu, err));
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        enum hlm_status status = probe_products(gpu, dtypes[i], err);
        if (status == HLM_OK) {
            status = probe_attention(gpu, dtypes[i], err);
        }
        if (status != HLM_OK && status != HLM_ENV) {
            return status;
        }
    }
    return gpu->hot.op.m > 0 ? HLM_OK
                             : hlm_fail(err, HLM_ENV, "profiler: no matrix product can be run");
}

/* --- ramp --- */

/* Until the time of the product holds still over two windows. */
static enum hlm_status ramp(struct gpu *gpu, struct hlm_err *err)
{
    const double most_s = fmin(gpu->config->ramp_s, max_case_frac * gpu->config->budget_s);
    const double end_s = now_s(gpu) + most_s;
    double before_s = 0.0, seconds = 0.0;
    do {
        before_s = seconds;
        HLM_TRY(sample(gpu, &gpu->hot, most_s > 0.0 ? RAMP_WINDOW : 1, &seconds, err));
        gpu->first_hot_s = gpu->first_hot_s > 0.0 ? gpu->first_hot_s : seconds;
        look(gpu);
    } while (now_s(gpu) < end_s && (fabs(seconds - before_s) > steady_frac * seconds ||
                                    now_s(gpu) < end_s - 0.5 * most_s));
    gpu->ramped_hot_s = seconds;
    if (gpu->config->hot_s > 0.0) {
        HLM_TRY(hlm_profiler_bench_heat_with(gpu->bench, &gpu->hot, err));
    }
    return HLM_OK;
}

/* --- passes --- */

/* What a backend can't run is left out; a device that failed ends it all. */
static enum hlm_status measure_case(struct gpu *gpu, int32_t index, bool warm, int32_t num_samples,
                                    struct hlm_err *err)
{
    const struct hlm_profiler_case *what = &gpu->cases.list[index];
    struct hlm_profiler_timing *timing = warm ? &gpu->warm[index] : &gpu->cold[index];
    struct hlm_err refusal = {0};
    const enum hlm_status status = hlm_profiler_bench_measure(gpu->bench, what, warm, num_samples,
                                                              gpu->deadline_s, timing, &refusal);
    if (status == HLM_ENV) {
        gpu->reasons[index] = REFUSED;
        return HLM_OK;
    }
    if (status != HLM_OK) {
        *err = refusal;
        return status;
    }
    if (!warm) {
        hlm_profiler_rates_learn(&gpu->rates, what, timing->seconds[timing->num_samples - 1]);
    }
    if (gpu->num_looks++ % STATE_PERIOD == 0) {
        look(gpu);
    }
    return HLM_OK;
}

static bool may_measure(struct gpu *gpu, int32_t index, int32_t num_samples)
{
    const struct hlm_profiler_case *what = &gpu->cases.list[index];
    if (gpu->reasons[index] == REFUSED) {
        return false;
    }
    if (gpu->config->tiny &&
        (what->op.flops > tiny_flops || (what->op.flops <= 0.0 && what->op.bytes > tiny_bytes))) {
        gpu->reasons[index] = TOO_LARGE;
        return false;
    }
    if (!hlm_profiler_bench_has_room(gpu->bench, what)) {
        gpu->reasons[index] = NO_ROOM;
        return false;
    }
    const bool seen = gpu->cold[index].num_samples > 0;
    if (!seen && is_too_long(gpu, what, num_samples)) {
        gpu->reasons[index] = TOO_LONG;
        return false;
    }
    return true;
}

static enum hlm_status run_pass(struct gpu *gpu, bool warm, int32_t num_samples,
                                struct hlm_err *err)
{
    for (int32_t i = 0; i < gpu->cases.num && now_s(gpu) < gpu->deadline_s; i++) {
        if (!may_measure(gpu, i, num_samples) || (warm && gpu->cases.list[i].tier > 0)) {
            continue;
        }
        hlm_heartbeat_set(gpu->config->heartbeat, -1, NULL,
                          hlm_profiler_case_family(gpu->arena, &gpu->cases.list[i]), false);
        HLM_TRY(measure_case(gpu, i, warm, num_samples, err));
    }
    return HLM_OK;
}

static enum hlm_status run_passes(struct gpu *gpu, struct hlm_err *err)
{
    const bool quick = gpu->config->quick;
    const int32_t num_passes = quick ? 1 : 4;
    const int32_t num_samples = gpu->config->tiny ? 2 : quick ? 5 : 7;
    for (int32_t pass = 0; pass < num_passes && now_s(gpu) < gpu->deadline_s; pass++) {
        hlm_heartbeat_progress(listener(gpu), "pass %d of %d over %d operators", (int)pass + 1,
                               (int)num_passes, (int)gpu->cases.num);
        HLM_TRY(run_pass(gpu, false, num_samples, err));
        if (pass == 0 && !gpu->config->tiny) {
            HLM_TRY(run_pass(gpu, true, WARM_SAMPLES, err));
        }
    }
    return HLM_OK;
}

/* --- results --- */

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static struct hlm_profiler_point point_of(const struct gpu *gpu, int32_t index)
{
    struct hlm_profiler_timing cold = gpu->cold[index], warm = gpu->warm[index];
    struct hlm_profiler_point point = {.what = &gpu->cases.list[index]};
    const int32_t n = cold.num_samples;
    qsort(cold.seconds, (size_t)n, sizeof(double), compare_doubles);
    point.seconds = cold.seconds[n / 2];
    point.spread_frac = (cold.seconds[3 * n / 4] - cold.seconds[n / 4]) / point.seconds;
    if (warm.num_samples > 0) {
        point.warm_s = hlm_fit_median(warm.seconds, warm.num_samples);
    }
    return point;
}

static int32_t collect(const struct gpu *gpu, struct hlm_profiler_point *points)
{
    int32_t num = 0;
    for (int32_t i = 0; i < gpu->cases.num; i++) {
        if (gpu->cold[i].num_samples > 0) {
            points[num++] = point_of(gpu, i);
        }
    }
    return num;
}

/* A profile needs a product, and sums of vectors for what memory gives. */
static bool is_enough(const struct hlm_profiler_point *points, int32_t num)
{
    bool has_product = false, has_sum = false;
    for (int32_t i = 0; i < num; i++) {
        const bool product = !points[i].what->is_copy && points[i].what->op.kind == HLM_OP_GEMM;
        const bool sum = !points[i].what->is_copy && points[i].what->op.kind == HLM_OP_ADD;
        has_product = has_product || product;
        has_sum = has_sum || sum;
    }
    return has_product && has_sum;
}

/* "12 bf16 products tn: no time was left", a line for each family and reason. */
static void list_left_out(const struct gpu *gpu, struct hlm_device_meta *meta)
{
    const char **lines = HLM_ARENA_ARRAY(gpu->arena, const char *, MAX_TOLD);
    bool *told = HLM_ARENA_ARRAY(gpu->arena, bool, gpu->cases.num);
    int32_t num = 0;
    for (int32_t i = 0; i < gpu->cases.num && num < MAX_TOLD; i++) {
        if (told[i] || gpu->cold[i].num_samples > 0) {
            continue;
        }
        const char *family = hlm_profiler_case_family(gpu->arena, &gpu->cases.list[i]);
        int32_t count = 0;
        for (int32_t j = i; j < gpu->cases.num; j++) {
            const char *other = hlm_profiler_case_family(gpu->arena, &gpu->cases.list[j]);
            if (gpu->cold[j].num_samples == 0 && gpu->reasons[j] == gpu->reasons[i] &&
                strcmp(family, other) == 0) {
                told[j] = true;
                count++;
            }
        }
        lines[num++] = hlm_arena_printf(gpu->arena, "%d %s: %s", (int)count, family,
                                        reason_texts[gpu->reasons[i]]);
    }
    meta->left_out = lines;
    meta->num_left_out = num;
}

/* Host time of a launch is about the same for all operators of one kernel; the middle one counts.
 */
static double launch_overhead_s(const struct gpu *gpu, const struct hlm_device *device,
                                double idle_s)
{
    double *seconds = HLM_ARENA_ARRAY(gpu->arena, double, gpu->cases.num + 1);
    int32_t num = 0;
    for (int32_t i = 0; i < gpu->cases.num; i++) {
        const struct hlm_profiler_case *what = &gpu->cases.list[i];
        if (gpu->cold[i].num_samples > 0 && !what->is_copy) {
            seconds[num++] = gpu->cold[i].host_s / (double)hlm_kernel_launches(device, &what->op);
        }
    }
    return num == 0 ? idle_s : hlm_fit_median(seconds, num);
}

static struct hlm_device_state state_of(const struct gpu *gpu, const char *when,
                                        const struct hlm_nvml_state *state)
{
    return (struct hlm_device_state){.when = when,
                                     .sm_clock_hz = state->sm_clock_hz,
                                     .memory_clock_hz = state->memory_clock_hz,
                                     .power_w = state->power_w,
                                     .temperature_c = state->temperature_c,
                                     .throttle = hlm_nvml_reasons_text(gpu->arena, state, true)};
}

static void fill_meta(const struct gpu *gpu, struct hlm_device_meta *meta)
{
    if (gpu->config->nvml != NULL) {
        struct hlm_device_state *states = HLM_ARENA_ARRAY(gpu->arena, struct hlm_device_state, 3);
        states[0] = state_of(gpu, "before", &gpu->before);
        states[1] = state_of(gpu, "during", &gpu->during);
        states[2] = state_of(gpu, "after", &gpu->after);
        meta->states = states;
        meta->num_states = 3;
    }
    meta->drift_frac = fabs(gpu->last_hot_s / gpu->ramped_hot_s - 1.0);
    meta->sustained_frac = gpu->first_hot_s / gpu->ramped_hot_s;
    meta->seconds = now_s(gpu) - gpu->start_s;
    meta->product_s = gpu->last_hot_s;
    list_left_out(gpu, meta);
}

static void warn(const struct gpu *gpu, const struct hlm_device_meta *meta)
{
    const char *reasons = hlm_nvml_reasons_text(gpu->arena, &gpu->during, true);
    if (reasons != NULL && strcmp(reasons, "none") != 0) {
        hlm_heartbeat_progress(
            listener(gpu), "warning: the device ran slower than it could meanwhile: %s", reasons);
    }
    if (gpu->least_clock_hz < (1.0 - clock_warning_frac) * gpu->most_clock_hz) {
        hlm_heartbeat_progress(listener(gpu), "warning: the clocks moved between %.0f and %.0f MHz",
                               1e-6 * gpu->least_clock_hz, 1e-6 * gpu->most_clock_hz);
    }
    if (meta->drift_frac > drift_warning_frac) {
        hlm_heartbeat_progress(listener(gpu),
                               "warning: the same product took %s more or less time at the end "
                               "than in the beginning; better measure again",
                               hlm_fmt_percent(meta->drift_frac).text);
    }
}

/* --- all --- */

static enum hlm_status measure(struct gpu *gpu, struct hlm_device *out,
                               struct hlm_device_meta *meta, struct hlm_err *err)
{
    struct hlm_profiler_timing idle = {0};
    gpu->before = hlm_nvml_read(gpu->config->nvml);
    HLM_TRY(probe(gpu, err));
    HLM_TRY(ramp(gpu, err));
    HLM_TRY(run_passes(gpu, err));
    HLM_TRY(sample(gpu, &gpu->hot, LAST_SAMPLES, &gpu->last_hot_s, err));
    gpu->after = hlm_nvml_read(gpu->config->nvml);
    HLM_TRY(hlm_profiler_bench_idle(gpu->bench, &idle, err));
    struct hlm_profiler_point *points =
        HLM_ARENA_ARRAY(gpu->arena, struct hlm_profiler_point, gpu->cases.num);
    const int32_t num = collect(gpu, points);
    if (!is_enough(points, num)) {
        return hlm_fail(
            err, HLM_ENV,
            "profiler: no matrix product, or no sum of vectors, could be measured in %s",
            hlm_fmt_seconds(gpu->config->budget_s).text);
    }
    hlm_profiler_gpu_fit(gpu->arena, points, num, &gpu->config->source, out, meta);
    out->launch_overhead_s = launch_overhead_s(gpu, out, idle.host_s);
    out->launch_source = gpu->config->source;
    fill_meta(gpu, meta);
    warn(gpu, meta);
    return HLM_OK;
}

static int64_t region_bytes(const struct hlm_profiler_gpu_config *config, int64_t flush_bytes)
{
    /* The rest is for the bench's sources and what the backend takes meanwhile. */
    const int64_t room = config->free_bytes / 2 - flush_bytes;
    return room < max_region_bytes ? room : max_region_bytes;
}

enum hlm_status hlm_profiler_gpu_measure(struct hlm_arena *arena, struct hlm_backend *backend,
                                         const struct hlm_profiler_gpu_config *config,
                                         struct hlm_device *out, struct hlm_device_meta *out_meta,
                                         struct hlm_err *err)
{
    struct gpu gpu = {.arena = arena, .config = config};
    gpu.start_s = now_s(&gpu);
    gpu.deadline_s = gpu.start_s + (1.0 - reserve_frac) * config->budget_s;
    struct hlm_profiler_bench_config bench = {
        .flush_bytes = config->flush_bytes > 0 ? config->flush_bytes : usual_flush_bytes,
        .hot_s = config->hot_s,
        .min_batch_s = config->quick ? 1e-4 : 2e-4,
        .clock = config->clock};
    bench.region_bytes = region_bytes(config, bench.flush_bytes);
    if (bench.region_bytes < min_region_bytes) {
        return hlm_fail(err, HLM_ENV, "profiler: the device has %s free, too little to measure",
                        hlm_fmt_bytes((double)config->free_bytes).text);
    }
    HLM_TRY(hlm_profiler_cases_make(arena, &gpu.cases, err));
    gpu.cold = HLM_ARENA_ARRAY(arena, struct hlm_profiler_timing, gpu.cases.num);
    gpu.warm = HLM_ARENA_ARRAY(arena, struct hlm_profiler_timing, gpu.cases.num);
    gpu.reasons = HLM_ARENA_ARRAY(arena, enum reason, gpu.cases.num);
    HLM_TRY(hlm_profiler_bench_new(arena, backend, &bench, &gpu.bench, err));
    const enum hlm_status status = measure(&gpu, out, out_meta, err);
    hlm_profiler_bench_free(gpu.bench);
    return status;
}
