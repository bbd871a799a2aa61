/* From the points of a device to its profile, and how well it gives them back. */
#include <math.h>
#include <string.h>

#include "base/fmt.h"
#include "costmodel/kernel.h"
#include "exec/profiler/profiler_cases.h"
#include "exec/profiler/profiler_fit_shape.h"
#include "exec/profiler/profiler_gpu.h"

enum { MAX_CURVES = 2 * HLM_NUM_OPS, MAX_FITS = 256 };

/* Devices of one name differ by this much in what their driver leaves of the memory. */
static const double same_memory_frac = 0.05;

static struct hlm_source with_fit(const struct hlm_source *source, const struct hlm_source *fit)
{
    struct hlm_source all = *source;
    all.num_samples = fit->num_samples;
    all.spread_frac = fmin(fit->spread_frac, HLM_SOURCE_MAX_SPREAD);
    return all;
}

/* The built-in device of this size: chips are told apart by multiprocessors and memory, whose size
 * differs a little with what the driver keeps. NULL: none. */
static const struct hlm_device *find_datasheet(struct hlm_arena *arena,
                                               const struct hlm_device *device)
{
    struct hlm_err ignored = {0};
    const struct hlm_device *best = NULL;
    double best_frac = same_memory_frac;
    for (int i = 0; hlm_device_builtin_name(i) != NULL; i++) {
        const struct hlm_device *builtin = NULL;
        if (hlm_device_load(arena, hlm_device_builtin_name(i), &builtin, &ignored) != HLM_OK) {
            continue;
        }
        const double frac =
            fabs((double)device->memory_bytes / (double)builtin->memory_bytes - 1.0);
        if (builtin->num_sms == device->num_sms && builtin->num_sms > 0 && frac < best_frac) {
            best = builtin;
            best_frac = frac;
        }
    }
    return best;
}

/* --- samples --- */

struct samples {
    struct hlm_profiler_sample *list;
    int32_t num;
};

static struct samples samples_of(struct hlm_arena *arena, const struct hlm_profiler_point *points,
                                 int32_t num_points)
{
    struct samples samples = {HLM_ARENA_ARRAY(arena, struct hlm_profiler_sample, num_points + 1),
                              0};
    for (int32_t i = 0; i < num_points; i++) {
        if (!points[i].what->is_copy) {
            samples.list[samples.num++] = (struct hlm_profiler_sample){
                .op = &points[i].what->op, .num_blocks = 1, .seconds = points[i].seconds};
        }
    }
    return samples;
}

static bool is_product(const struct hlm_op *op)
{
    return op->kind == HLM_OP_GEMM || op->kind == HLM_OP_ATTENTION_FWD ||
           op->kind == HLM_OP_ATTENTION_BWD;
}

/* --- memory --- */

/* Small operators may find their operands in a cache after all. */
static double streamed_bytes(const struct hlm_profiler_case *what)
{
    static const double far_from_caches = 64e6;
    const bool streams =
        what->is_copy || what->op.kind == HLM_OP_ADD || what->op.bytes > far_from_caches;
    return streams ? what->op.bytes : 0.0;
}

/* Operators without a curve are priced like sums of two vectors. */
static void fit_memory(struct hlm_arena *arena, const struct samples *samples,
                       const struct hlm_profiler_point *points, int32_t num_points,
                       const struct hlm_source *source, struct hlm_memory_bandwidth *out)
{
    struct hlm_fit_sample *rows = HLM_ARENA_ARRAY(arena, struct hlm_fit_sample, samples->num + 1);
    int32_t num = 0;
    double best = 0.0;
    for (int32_t i = 0; i < samples->num; i++) {
        const struct hlm_op *op = samples->list[i].op;
        if (op->kind == HLM_OP_ADD) {
            rows[num++] = (struct hlm_fit_sample){.term = {1.0, op->bytes},
                                                  .seconds = samples->list[i].seconds};
        }
    }
    for (int32_t i = 0; i < num_points; i++) {
        if (points[i].what->is_copy || !is_product(&points[i].what->op)) {
            best = fmax(best, streamed_bytes(points[i].what) / points[i].seconds);
        }
    }
    const struct hlm_fit fit =
        num > 0 ? hlm_fit_relative(rows, num, 2, arena) : (struct hlm_fit){0};
    const double rate = fit.coefficient[1] > 0.0 ? 1.0 / fit.coefficient[1] : best;
    *out = (struct hlm_memory_bandwidth){.t0_s = fit.coefficient[0],
                                         .bytes_per_s = rate,
                                         .peak_bytes_per_s = fmax(best, rate),
                                         .source = *source};
    out->source.num_samples = num;
    out->source.spread_frac = fmin(fit.spread_frac, HLM_SOURCE_MAX_SPREAD);
}

static bool has_curve(const struct hlm_op_curve *curves, int32_t num, const char *key)
{
    for (int32_t i = 0; i < num; i++) {
        if (strcmp(curves[i].op, key) == 0) {
            return true;
        }
    }
    return false;
}

static void fit_ops(struct hlm_arena *arena, const struct samples *samples,
                    const struct hlm_source *source, struct hlm_device *out)
{
    struct hlm_op_curve *curves = HLM_ARENA_ARRAY(arena, struct hlm_op_curve, MAX_CURVES);
    out->ops = curves;
    out->num_ops = 0;
    for (int32_t i = 0; i < samples->num && out->num_ops < MAX_CURVES; i++) {
        const char *key = hlm_kernel_curve_key(samples->list[i].op);
        struct hlm_op_curve *curve = &curves[out->num_ops];
        if (!is_product(samples->list[i].op) && !has_curve(curves, out->num_ops, key) &&
            hlm_fit_op_curve(arena, samples->list, samples->num, key, curve)) {
            curve->source = with_fit(source, &curve->source);
            out->num_ops++;
        }
    }
}

/* --- products and attention --- */

static bool has_dtype(const struct samples *samples, enum hlm_dtype dtype)
{
    for (int32_t i = 0; i < samples->num; i++) {
        if (samples->list[i].op->kind == HLM_OP_GEMM && samples->list[i].op->dtype == dtype) {
            return true;
        }
    }
    return false;
}

static void set_peak(const struct samples *samples, const struct hlm_device *datasheet,
                     const struct hlm_source *source, struct hlm_device_dtype *row)
{
    const struct hlm_device_dtype *known =
        datasheet == NULL ? NULL : hlm_device_dtype(datasheet, row->dtype);
    if (known != NULL) {
        row->peak_flops_per_s = known->peak_flops_per_s;
        row->source = known->source;
        return;
    }
    row->source = *source;
    for (int32_t i = 0; i < samples->num; i++) {
        const struct hlm_op *op = samples->list[i].op;
        if (op->kind == HLM_OP_GEMM && op->dtype == row->dtype) {
            row->peak_flops_per_s =
                fmax(row->peak_flops_per_s, op->flops / samples->list[i].seconds);
        }
    }
}

/* Too few shapes for tiles and waves: a straight line for each layout. */
static int32_t fit_lines(struct hlm_arena *arena, enum hlm_dtype dtype,
                         const struct samples *samples, struct hlm_gemm_curve *curves)
{
    struct hlm_profiler_sample *own =
        HLM_ARENA_ARRAY(arena, struct hlm_profiler_sample, samples->num);
    int32_t num_own = 0, num = 0;
    for (int32_t i = 0; i < samples->num; i++) {
        if (samples->list[i].op->dtype == dtype) {
            own[num_own++] = samples->list[i];
        }
    }
    for (int layout = HLM_GEMM_TN; layout <= HLM_GEMM_NT; layout++) {
        num += hlm_fit_gemm(arena, own, num_own, (enum hlm_gemm_layout)layout, &curves[num]);
    }
    return num;
}

static void fit_dtype(struct hlm_arena *arena, const struct hlm_device *machine,
                      const struct samples *samples, const struct hlm_source *source,
                      struct hlm_device_dtype *row)
{
    struct hlm_gemm_curve *gemm = HLM_ARENA_ARRAY(arena, struct hlm_gemm_curve, 3);
    struct hlm_attention_curve *attention = HLM_ARENA_ARRAY(arena, struct hlm_attention_curve, 4);
    row->num_gemm =
        hlm_fit_gemm_tiles(arena, machine, row->dtype, samples->list, samples->num, gemm);
    if (row->num_gemm == 0) {
        row->num_gemm = fit_lines(arena, row->dtype, samples, gemm);
    }
    for (int32_t i = 0; i < row->num_gemm; i++) {
        gemm[i].source = with_fit(source, &gemm[i].source);
    }
    for (unsigned bits = 0; bits < 4; bits++) {
        struct hlm_attention_curve *curve = &attention[row->num_attention];
        if (hlm_fit_attention_waves(arena, machine, row->dtype, samples->list, samples->num,
                                    (bits & 2U) != 0, (bits & 1U) != 0, curve)) {
            curve->source = with_fit(source, &curve->source);
            row->num_attention++;
        }
    }
    row->gemm = gemm;
    row->attention = attention;
}

static void fit_dtypes(struct hlm_arena *arena, const struct samples *samples,
                       const struct hlm_device *datasheet, const struct hlm_source *source,
                       struct hlm_device *out)
{
    static const enum hlm_dtype dtypes[] = {HLM_DTYPE_FP32, HLM_DTYPE_BF16};
    struct hlm_device_dtype *rows = HLM_ARENA_ARRAY(arena, struct hlm_device_dtype, 2);
    out->dtypes = rows;
    out->num_dtypes = 0;
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (has_dtype(samples, dtypes[i])) {
            struct hlm_device_dtype *row = &rows[out->num_dtypes++];
            row->dtype = dtypes[i];
            set_peak(samples, datasheet, source, row);
        }
    }
    for (int32_t i = 0; i < out->num_dtypes; i++) {
        fit_dtype(arena, out, samples, source, &rows[i]);
    }
}

/* --- the table of errors --- */

struct family {
    const char *name;
    double *errors, *spreads, *warms;
    int32_t num, num_warm;
};

static struct family *find_family(struct hlm_arena *arena, struct family *families, int32_t *num,
                                  const char *name, int32_t most)
{
    for (int32_t i = 0; i < *num; i++) {
        if (strcmp(families[i].name, name) == 0) {
            return &families[i];
        }
    }
    HLM_ASSERT(*num < MAX_FITS);
    struct family *family = &families[(*num)++];
    *family = (struct family){.name = name,
                              .errors = HLM_ARENA_ARRAY(arena, double, most),
                              .spreads = HLM_ARENA_ARRAY(arena, double, most),
                              .warms = HLM_ARENA_ARRAY(arena, double, most)};
    return family;
}

static struct hlm_device_fit fit_of(struct family *family)
{
    struct hlm_device_fit fit = {.family = family->name, .num_points = family->num};
    for (int32_t i = 0; i < family->num; i++) {
        fit.mean_error_frac += family->errors[i] / (double)family->num;
        fit.worst_error_frac = fmax(fit.worst_error_frac, family->errors[i]);
    }
    fit.spread_frac = hlm_fit_median(family->spreads, family->num);
    if (family->num_warm > 0) {
        fit.warm_frac = hlm_fit_median(family->warms, family->num_warm);
    }
    return fit;
}

static void judge(struct hlm_arena *arena, const struct hlm_profiler_point *points,
                  int32_t num_points, const struct hlm_device *device, struct hlm_device_meta *meta)
{
    struct family *families = HLM_ARENA_ARRAY(arena, struct family, MAX_FITS);
    int32_t num = 0;
    for (int32_t i = 0; i < num_points; i++) {
        const struct hlm_profiler_point *point = &points[i];
        if (point->what->is_copy || hlm_device_dtype(device, point->what->op.dtype) == NULL) {
            continue;
        }
        struct family *family = find_family(
            arena, families, &num, hlm_profiler_case_family(arena, point->what), num_points);
        const double predicted_s = hlm_kernel_seconds(device, &point->what->op);
        family->errors[family->num] = fabs(predicted_s / point->seconds - 1.0);
        family->spreads[family->num++] = point->spread_frac;
        if (point->warm_s > 0.0) {
            family->warms[family->num_warm++] = point->warm_s / point->seconds;
        }
    }
    struct hlm_device_fit *fits = HLM_ARENA_ARRAY(arena, struct hlm_device_fit, num + 1);
    for (int32_t i = 0; i < num; i++) {
        fits[i] = fit_of(&families[i]);
    }
    meta->fits = fits;
    meta->num_fits = num;
}

/* --- all --- */

void hlm_profiler_gpu_fit(struct hlm_arena *arena, const struct hlm_profiler_point *points,
                          int32_t num_points, const struct hlm_source *source,
                          struct hlm_device *out, struct hlm_device_meta *out_meta)
{
    const struct samples samples = samples_of(arena, points, num_points);
    const struct hlm_device *datasheet = find_datasheet(arena, out);
    out->shared_memory_slowdown = 1.0;
    fit_memory(arena, &samples, points, num_points, source, &out->memory);
    if (datasheet != NULL) {
        out->memory.peak_bytes_per_s = datasheet->memory.peak_bytes_per_s;
    }
    fit_dtypes(arena, &samples, datasheet, source, out);
    fit_ops(arena, &samples, source, out);
    judge(arena, points, num_points, out, out_meta);
}

void hlm_profiler_gpu_tell(struct hlm_heartbeat *heartbeat, const struct hlm_device_meta *meta)
{
    hlm_heartbeat_progress(heartbeat, "%-36s %7s %11s %12s %8s %8s", "kernels", "shapes",
                           "mean error", "worst error", "spread", "warm");
    for (int32_t i = 0; i < meta->num_fits; i++) {
        const struct hlm_device_fit *fit = &meta->fits[i];
        hlm_heartbeat_progress(heartbeat, "%-36s %7d %10.1f%% %11.1f%% %7.1f%% %7.2fx", fit->family,
                               (int)fit->num_points, 100.0 * fit->mean_error_frac,
                               100.0 * fit->worst_error_frac, 100.0 * fit->spread_frac,
                               fit->warm_frac);
    }
    for (int32_t i = 0; i < meta->num_left_out; i++) {
        hlm_heartbeat_progress(heartbeat, "left out: %s", meta->left_out[i]);
    }
}
