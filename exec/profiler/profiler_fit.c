#include "exec/profiler/profiler_fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "costmodel/kernel.h"

/* A rate that says "costs nothing", for terms that the fit leaves out. */
static const double no_limit = 1e18;
/* Samples of about this size stand for one point of a curve. */
static const double same_size = 1.25;

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double hlm_fit_median(double *values, int32_t num)
{
    HLM_ASSERT(num >= 1);
    qsort(values, (size_t)num, sizeof *values, compare_doubles);
    return values[num / 2];
}

/* Symmetric positive system a x = b of the terms in `mask` by elimination with pivots; false where
 * it is singular. Terms outside the mask get 0. */
struct system {
    double a[HLM_FIT_MAX_TERMS][HLM_FIT_MAX_TERMS], b[HLM_FIT_MAX_TERMS];
};

static void swap_rows(struct system *s, int32_t i, int32_t j)
{
    for (int32_t c = 0; c < HLM_FIT_MAX_TERMS; c++) {
        const double kept = s->a[i][c];
        s->a[i][c] = s->a[j][c];
        s->a[j][c] = kept;
    }
    const double kept = s->b[i];
    s->b[i] = s->b[j];
    s->b[j] = kept;
}

static bool eliminate(struct system *s, int32_t size)
{
    for (int32_t i = 0; i < size; i++) {
        int32_t pivot = i;
        for (int32_t r = i + 1; r < size; r++) {
            pivot = fabs(s->a[r][i]) > fabs(s->a[pivot][i]) ? r : pivot;
        }
        if (fabs(s->a[pivot][i]) < 1e-12) {
            return false;
        }
        swap_rows(s, i, pivot);
        for (int32_t r = i + 1; r < size; r++) {
            const double factor = s->a[r][i] / s->a[i][i];
            for (int32_t c = i; c < size; c++) {
                s->a[r][c] -= factor * s->a[i][c];
            }
            s->b[r] -= factor * s->b[i];
        }
    }
    return true;
}

static bool solve(struct system s, int32_t size, double *x)
{
    if (!eliminate(&s, size)) {
        return false;
    }
    for (int32_t i = size - 1; i >= 0; i--) {
        x[i] = s.b[i];
        for (int32_t c = i + 1; c < size; c++) {
            x[i] -= s.a[i][c] * x[c];
        }
        x[i] /= s.a[i][i];
    }
    return true;
}

/* Terms are scaled to a mean of one, so that pivots can be compared with a constant. */
static void term_scales(const struct hlm_fit_sample *samples, int32_t num, int32_t num_terms,
                        double *scale)
{
    for (int32_t j = 0; j < num_terms; j++) {
        double sum = 0.0;
        for (int32_t i = 0; i < num; i++) {
            sum += fabs(samples[i].term[j]) / samples[i].seconds;
        }
        scale[j] = sum > 0.0 ? (double)num / sum : 1.0;
    }
}

static bool solve_subset(const struct hlm_fit_sample *samples, int32_t num, int32_t num_terms,
                         unsigned mask, const double *scale, double *coefficient)
{
    struct system s = {0};
    int32_t chosen[HLM_FIT_MAX_TERMS], size = 0;
    for (int32_t j = 0; j < num_terms; j++) {
        if ((mask & (1U << j)) != 0) {
            chosen[size++] = j;
        }
    }
    for (int32_t i = 0; i < num; i++) {
        for (int32_t r = 0; r < size; r++) {
            const double x = samples[i].term[chosen[r]] * scale[chosen[r]] / samples[i].seconds;
            s.b[r] += x;
            for (int32_t c = 0; c < size; c++) {
                s.a[r][c] += x * samples[i].term[chosen[c]] * scale[chosen[c]] / samples[i].seconds;
            }
        }
    }
    double x[HLM_FIT_MAX_TERMS] = {0};
    if (!solve(s, size, x)) {
        return false;
    }
    memset(coefficient, 0, HLM_FIT_MAX_TERMS * sizeof *coefficient);
    for (int32_t r = 0; r < size; r++) {
        coefficient[chosen[r]] = x[r] * scale[chosen[r]];
        if (!(coefficient[chosen[r]] >= 0.0)) {
            return false;
        }
    }
    return true;
}

static double relative_error(const struct hlm_fit_sample *sample, const double *coefficient,
                             int32_t num_terms)
{
    double seconds = 0.0;
    for (int32_t j = 0; j < num_terms; j++) {
        seconds += coefficient[j] * sample->term[j];
    }
    return seconds / sample->seconds - 1.0;
}

static double sum_squares(const struct hlm_fit_sample *samples, int32_t num,
                          const double *coefficient, int32_t num_terms)
{
    double sum = 0.0;
    for (int32_t i = 0; i < num; i++) {
        const double error = relative_error(&samples[i], coefficient, num_terms);
        sum += error * error;
    }
    return sum;
}

struct hlm_fit hlm_fit_relative(const struct hlm_fit_sample *samples, int32_t num_samples,
                                int32_t num_terms, struct hlm_arena *arena)
{
    HLM_ASSERT(num_samples >= 1 && num_terms >= 1 && num_terms <= HLM_FIT_MAX_TERMS);
    struct hlm_fit best = {0};
    double scale[HLM_FIT_MAX_TERMS], best_sum = HUGE_VAL;
    term_scales(samples, num_samples, num_terms, scale);
    for (unsigned mask = 1; mask < 1U << num_terms; mask++) {
        double coefficient[HLM_FIT_MAX_TERMS];
        if (!solve_subset(samples, num_samples, num_terms, mask, scale, coefficient)) {
            continue;
        }
        const double sum = sum_squares(samples, num_samples, coefficient, num_terms);
        if (sum < best_sum) {
            best_sum = sum;
            memcpy(best.coefficient, coefficient, sizeof coefficient);
        }
    }
    double *errors = HLM_ARENA_ARRAY(arena, double, num_samples);
    for (int32_t i = 0; i < num_samples; i++) {
        errors[i] = fabs(relative_error(&samples[i], best.coefficient, num_terms));
    }
    best.spread_frac = hlm_fit_median(errors, num_samples);
    return best;
}

static double rate_of(double seconds_per_unit)
{
    return seconds_per_unit > 1.0 / no_limit ? 1.0 / seconds_per_unit : no_limit;
}

bool hlm_fit_gemm(struct hlm_arena *arena, const struct hlm_profiler_sample *samples,
                  int32_t num_samples, enum hlm_gemm_layout layout, struct hlm_gemm_curve *out)
{
    struct hlm_fit_sample *rows = HLM_ARENA_ARRAY(arena, struct hlm_fit_sample, num_samples);
    int32_t num = 0;
    for (int32_t i = 0; i < num_samples; i++) {
        const struct hlm_op *op = samples[i].op;
        if (op->kind == HLM_OP_GEMM && op->layout == layout) {
            rows[num++] = (struct hlm_fit_sample){
                .term = {1.0, op->flops, op->bytes, (double)op->n * (double)op->k},
                .seconds = samples[i].seconds};
        }
    }
    if (num == 0) {
        return false;
    }
    const struct hlm_fit fit = hlm_fit_relative(rows, num, 4, arena);
    *out = (struct hlm_gemm_curve){
        .layout = layout,
        .form = HLM_GEMM_FORM_LINEAR,
        .t0_s = fit.coefficient[0],
        .flops_per_s = rate_of(fit.coefficient[1]),
        .bytes_per_s = rate_of(fit.coefficient[2]),
        .pack_s = fit.coefficient[3],
        .source = {.num_samples = num, .spread_frac = fit.spread_frac},
    };
    return true;
}

static bool has_probs(const struct hlm_op *op)
{
    return op->operands[op->kind == HLM_OP_ATTENTION_FWD ? 3 : 4] >= 0;
}

static bool matches(const struct hlm_op *op, struct hlm_fit_attention_key key)
{
    return op->kind == (key.backward ? HLM_OP_ATTENTION_BWD : HLM_OP_ATTENTION_FWD) &&
           op->causal == key.causal && has_probs(op) == key.keeps_probs;
}

bool hlm_fit_attention(struct hlm_arena *arena, const struct hlm_profiler_sample *samples,
                       int32_t num_samples, struct hlm_fit_attention_key key,
                       struct hlm_attention_curve *out)
{
    struct hlm_fit_sample *rows = HLM_ARENA_ARRAY(arena, struct hlm_fit_sample, num_samples);
    int32_t num = 0;
    for (int32_t i = 0; i < num_samples; i++) {
        const struct hlm_op *op = samples[i].op;
        if (matches(op, key)) {
            const double heads = (double)op->batch * (double)op->heads;
            const double tokens = (double)op->seq_len;
            rows[num++] = (struct hlm_fit_sample){
                .term = {heads, op->flops, op->flops / tokens, heads * tokens * tokens},
                .seconds = samples[i].seconds};
        }
    }
    if (num == 0) {
        return false;
    }
    const struct hlm_fit fit = hlm_fit_relative(rows, num, 4, arena);
    const double per_flop = fit.coefficient[1];
    *out = (struct hlm_attention_curve){
        .backward = key.backward,
        .causal = key.causal,
        .keeps_probs = key.keeps_probs,
        .t_head_s = fit.coefficient[0],
        .flops_per_s = rate_of(per_flop),
        .s_half = per_flop > 0.0 ? fmin(fit.coefficient[2] / per_flop, 1e6) : 0.0,
        .score_s = fit.coefficient[3],
        .source = {.num_samples = num, .spread_frac = fit.spread_frac},
    };
    return true;
}

struct size_sample {
    double bytes, seconds;
};

static int compare_sizes(const void *a, const void *b)
{
    const struct size_sample *x = a, *y = b;
    return compare_doubles(&x->bytes, &y->bytes);
}

/* One point for sizes[first ..] up to same_size times the first; returns the next index. */
static int32_t make_point(const struct size_sample *sizes, int32_t num, int32_t first,
                          struct hlm_curve_point *out)
{
    double log_bytes = 0.0, log_seconds = 0.0;
    int32_t next = first;
    for (; next < num && sizes[next].bytes <= same_size * sizes[first].bytes; next++) {
        log_bytes += log(sizes[next].bytes);
        log_seconds += log(sizes[next].seconds);
    }
    const double count = (double)(next - first);
    *out = (struct hlm_curve_point){exp(log_bytes / count), exp(log_seconds / count)};
    return next;
}

bool hlm_fit_op_curve(struct hlm_arena *arena, const struct hlm_profiler_sample *samples,
                      int32_t num_samples, const char *key, struct hlm_op_curve *out)
{
    struct size_sample *sizes = HLM_ARENA_ARRAY(arena, struct size_sample, num_samples);
    int32_t num = 0;
    for (int32_t i = 0; i < num_samples; i++) {
        if (strcmp(hlm_kernel_curve_key(samples[i].op), key) == 0) {
            sizes[num++] = (struct size_sample){samples[i].op->bytes, samples[i].seconds};
        }
    }
    if (num == 0) {
        return false;
    }
    qsort(sizes, (size_t)num, sizeof *sizes, compare_sizes);
    struct hlm_curve_point *points = HLM_ARENA_ARRAY(arena, struct hlm_curve_point, num);
    int32_t num_points = 0;
    for (int32_t next = 0; next < num;) {
        next = make_point(sizes, num, next, &points[num_points++]);
    }
    *out = (struct hlm_op_curve){.op = key, .points = points, .num_points = num_points};
    double *errors = HLM_ARENA_ARRAY(arena, double, num);
    const struct hlm_curve curve = {points, num_points};
    for (int32_t i = 0; i < num; i++) {
        errors[i] = fabs(hlm_curve_seconds(&curve, sizes[i].bytes) / sizes[i].seconds - 1.0);
    }
    out->source.num_samples = num;
    out->source.spread_frac = hlm_fit_median(errors, num);
    return true;
}
