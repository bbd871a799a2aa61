#include "exec/profiler/profiler_fit_shape.h"

#include <math.h>
#include <string.h>

#include "costmodel/kernel.h"

enum { MAX_VERTICES = HLM_FIT_MAX_PARAMETERS + 1, MAX_STEPS = 600, MAX_RESTARTS = 8 };
enum { MIN_TILE_SAMPLES = 12, MIN_SAMPLES = 4 };

/* Errors up to about this are as good as squared, larger ones count in proportion: some shapes have
 * a kernel of their own that no smooth model knows. */
static const double usual_error = 0.05;
/* Inputs come from memory, whose peak may be a measured one. */
static const double most_of_peak = 1.05;
/* A restart that improves the cost by less ends the search. */
static const double least_gain = 1e-4;

/* --- downhill simplex --- */

/* Free coordinates: any number stands for a place inside of the range, as in MINUIT (James and Roos
 * 1975). */
static double inside(const struct hlm_fit_range *range, double free)
{
    const double frac = 0.5 * (1.0 + sin(free));
    return range->in_log ? exp(log(range->min) + frac * log(range->max / range->min))
                         : range->min + frac * (range->max - range->min);
}

static double free_of(const struct hlm_fit_range *range, double value)
{
    const double frac = range->in_log ? log(value / range->min) / log(range->max / range->min)
                                      : (value - range->min) / (range->max - range->min);
    return asin(2.0 * fmin(fmax(frac, 0.02), 0.98) - 1.0);
}

struct simplex {
    const struct hlm_fit_range *ranges;
    int32_t num;
    double (*cost)(const double *x, void *context);
    void *context;
    double at[MAX_VERTICES][HLM_FIT_MAX_PARAMETERS], value[MAX_VERTICES];
};

static double cost_at(const struct simplex *s, const double *free)
{
    double x[HLM_FIT_MAX_PARAMETERS];
    for (int32_t i = 0; i < s->num; i++) {
        x[i] = inside(&s->ranges[i], free[i]);
    }
    return s->cost(x, s->context);
}

static void surround(struct simplex *s, const double *centre)
{
    static const double step = 0.35;
    for (int32_t v = 0; v <= s->num; v++) {
        memcpy(s->at[v], centre, (size_t)s->num * sizeof *centre);
        if (v > 0) {
            s->at[v][v - 1] += step;
        }
        s->value[v] = cost_at(s, s->at[v]);
    }
}

/* Best first; a handful of vertices. */
static void sort(struct simplex *s)
{
    for (int32_t i = 1; i <= s->num; i++) {
        for (int32_t j = i; j > 0 && s->value[j] < s->value[j - 1]; j--) {
            double kept[HLM_FIT_MAX_PARAMETERS];
            const double value = s->value[j];
            memcpy(kept, s->at[j], sizeof kept);
            memcpy(s->at[j], s->at[j - 1], sizeof kept);
            memcpy(s->at[j - 1], kept, sizeof kept);
            s->value[j] = s->value[j - 1];
            s->value[j - 1] = value;
        }
    }
}

/* The point that lies `along` times as far on the other side of the face opposite to the worst. */
static double reflect(const struct simplex *s, double along, double *out)
{
    for (int32_t i = 0; i < s->num; i++) {
        double mean = 0.0;
        for (int32_t v = 0; v < s->num; v++) {
            mean += s->at[v][i] / (double)s->num;
        }
        out[i] = mean + along * (mean - s->at[s->num][i]);
    }
    return cost_at(s, out);
}

static void replace_worst(struct simplex *s, const double *at, double value)
{
    memcpy(s->at[s->num], at, (size_t)s->num * sizeof *at);
    s->value[s->num] = value;
}

static void shrink(struct simplex *s)
{
    for (int32_t v = 1; v <= s->num; v++) {
        for (int32_t i = 0; i < s->num; i++) {
            s->at[v][i] = 0.5 * (s->at[v][i] + s->at[0][i]);
        }
        s->value[v] = cost_at(s, s->at[v]);
    }
}

static void step(struct simplex *s)
{
    double there[HLM_FIT_MAX_PARAMETERS], other[HLM_FIT_MAX_PARAMETERS];
    const double reflected = reflect(s, 1.0, there);
    if (reflected < s->value[0]) {
        const double expanded = reflect(s, 2.0, other);
        replace_worst(s, expanded < reflected ? other : there, fmin(expanded, reflected));
        return;
    }
    if (reflected < s->value[s->num - 1]) {
        replace_worst(s, there, reflected);
        return;
    }
    const double contracted = reflect(s, reflected < s->value[s->num] ? 0.5 : -0.5, other);
    if (contracted < fmin(reflected, s->value[s->num])) {
        replace_worst(s, other, contracted);
        return;
    }
    shrink(s);
}

double hlm_fit_minimise(const struct hlm_fit_range *ranges, int32_t num,
                        double (*cost)(const double *x, void *context), void *context, double *x)
{
    HLM_ASSERT(num >= 1 && num <= HLM_FIT_MAX_PARAMETERS);
    struct simplex s = {.ranges = ranges, .num = num, .cost = cost, .context = context};
    double centre[HLM_FIT_MAX_PARAMETERS] = {0}, before = HUGE_VAL;
    for (int32_t i = 0; i < num; i++) {
        centre[i] = free_of(&ranges[i], x[i]);
    }
    for (int32_t restart = 0; restart < MAX_RESTARTS; restart++) {
        surround(&s, centre);
        sort(&s);
        for (int32_t i = 0; i < MAX_STEPS && s.value[num] - s.value[0] > 1e-9 * s.value[0]; i++) {
            step(&s);
            sort(&s);
        }
        memcpy(centre, s.at[0], sizeof centre);
        if (s.value[0] > (1.0 - least_gain) * before) {
            break;
        }
        before = s.value[0];
    }
    for (int32_t i = 0; i < num; i++) {
        x[i] = inside(&ranges[i], centre[i]);
    }
    return s.value[0];
}

/* --- the cost of a candidate --- */

/* A device of one dtype with one curve, for the cost model. */
struct trial {
    struct hlm_device device;
    struct hlm_device_dtype row;
    struct hlm_gemm_curve gemm;
    struct hlm_attention_curve attention;
    const struct hlm_profiler_sample **samples;
    int32_t num_samples;
};

static void trial_init(struct trial *trial, const struct hlm_device *machine, enum hlm_dtype dtype)
{
    trial->device = *machine;
    trial->row = *hlm_device_dtype(machine, dtype);
    trial->row.gemm = &trial->gemm;
    trial->row.attention = &trial->attention;
    trial->row.num_gemm = 0;
    trial->row.num_attention = 0;
    trial->device.dtypes = &trial->row;
    trial->device.num_dtypes = 1;
}

static double log_error(const struct trial *trial, int32_t i)
{
    return log(hlm_kernel_seconds(&trial->device, trial->samples[i]->op) /
               trial->samples[i]->seconds);
}

static double trial_cost(const struct trial *trial)
{
    double sum = 0.0;
    for (int32_t i = 0; i < trial->num_samples; i++) {
        const double error = log_error(trial, i) / usual_error;
        sum += sqrt(1.0 + error * error) - 1.0;
    }
    return sum / (double)trial->num_samples;
}

static struct hlm_source trial_source(struct hlm_arena *arena, const struct trial *trial)
{
    double *errors = HLM_ARENA_ARRAY(arena, double, trial->num_samples);
    for (int32_t i = 0; i < trial->num_samples; i++) {
        errors[i] = fabs(expm1(log_error(trial, i)));
    }
    return (struct hlm_source){.num_samples = trial->num_samples,
                               .spread_frac = hlm_fit_median(errors, trial->num_samples)};
}

static double best_rate(const struct trial *trial)
{
    double best = 0.0;
    for (int32_t i = 0; i < trial->num_samples; i++) {
        best = fmax(best, trial->samples[i]->op->flops / trial->samples[i]->seconds);
    }
    return best;
}

/* --- products --- */

enum { T0, TILE_START, FLOPS, BYTES, WAVE, POWER, DEPTH, THROTTLE, NUM_TILE };
enum { NUM_LAYOUT_TILE = WAVE }; /* those that each layout has for itself */

static void set_tile(struct hlm_gemm_curve *curve, const double *x, int32_t num)
{
    curve->t0_s = x[T0];
    curve->tile_start_s = x[TILE_START];
    curve->flops_per_s = x[FLOPS];
    curve->bytes_per_s = x[BYTES];
    if (num == NUM_TILE) {
        curve->wave_frac = x[WAVE];
        curve->power_p = x[POWER];
        curve->depth = x[DEPTH];
        curve->throttle = x[THROTTLE];
    }
}

static double all_layouts_cost(const double *x, void *context)
{
    struct trial *trial = context;
    set_tile(&trial->gemm, x, NUM_TILE);
    return trial_cost(trial);
}

static double one_layout_cost(const double *x, void *context)
{
    struct trial *trial = context;
    set_tile(&trial->gemm, x, NUM_LAYOUT_TILE);
    return trial_cost(trial);
}

static void tile_ranges(const struct trial *trial, struct hlm_fit_range *ranges)
{
    const double flops = best_rate(trial), bytes = trial->device.memory.peak_bytes_per_s;
    ranges[T0] = (struct hlm_fit_range){1e-7, 1e-4, true};
    ranges[TILE_START] = (struct hlm_fit_range){1e-8, 5e-5, true};
    ranges[FLOPS] = (struct hlm_fit_range){0.5 * flops, 4.0 * flops, true};
    ranges[BYTES] = (struct hlm_fit_range){0.1 * bytes, most_of_peak * bytes, true};
    ranges[WAVE] = (struct hlm_fit_range){0.0, 1.0, false};
    ranges[POWER] = (struct hlm_fit_range){1.0, 8.0, false};
    ranges[DEPTH] = (struct hlm_fit_range){0.0, 1.5, false};
    ranges[THROTTLE] = (struct hlm_fit_range){0.0, 0.15, false};
}

static int32_t take_products(struct trial *trial, enum hlm_dtype dtype, enum hlm_gemm_layout layout,
                             const struct hlm_profiler_sample *samples, int32_t num)
{
    trial->num_samples = 0;
    for (int32_t i = 0; i < num; i++) {
        const struct hlm_op *op = samples[i].op;
        if (op->kind == HLM_OP_GEMM && op->dtype == dtype &&
            (layout == HLM_GEMM_ANY || op->layout == layout)) {
            trial->samples[trial->num_samples++] = &samples[i];
        }
    }
    return trial->num_samples;
}

/* Waves and the start of a tile can stand for each other, so both ends are tried. */
static void fit_all_layouts(struct trial *trial, double *best)
{
    static const struct {
        double tile_start_s, wave_frac, power_p, throttle;
    } starts[] = {{5e-7, 0.3, 4.0, 0.02}, {3e-6, 0.9, 2.0, 0.005}};
    struct hlm_fit_range ranges[NUM_TILE];
    double best_cost = HUGE_VAL;
    tile_ranges(trial, ranges);
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        double x[NUM_TILE] = {[T0] = 3e-6,
                              [TILE_START] = starts[i].tile_start_s,
                              [FLOPS] = 1.1 * best_rate(trial),
                              [BYTES] = 0.85 * trial->device.memory.peak_bytes_per_s,
                              [WAVE] = starts[i].wave_frac,
                              [POWER] = starts[i].power_p,
                              [DEPTH] = 0.15,
                              [THROTTLE] = starts[i].throttle};
        const double cost = hlm_fit_minimise(ranges, NUM_TILE, all_layouts_cost, trial, x);
        if (cost < best_cost) {
            best_cost = cost;
            memcpy(best, x, sizeof x);
        }
    }
}

static struct hlm_gemm_curve fit_layout(struct hlm_arena *arena, struct trial *trial,
                                        enum hlm_gemm_layout layout, const double *all)
{
    struct hlm_fit_range ranges[NUM_TILE];
    double x[NUM_TILE];
    memcpy(x, all, sizeof x);
    tile_ranges(trial, ranges);
    x[FLOPS] = fmin(fmax(x[FLOPS], ranges[FLOPS].min), ranges[FLOPS].max);
    set_tile(&trial->gemm, x, NUM_TILE);
    hlm_fit_minimise(ranges, NUM_LAYOUT_TILE, one_layout_cost, trial, x);
    set_tile(&trial->gemm, x, NUM_TILE);
    struct hlm_gemm_curve curve = trial->gemm;
    curve.layout = layout;
    curve.source = trial_source(arena, trial);
    return curve;
}

int32_t hlm_fit_gemm_tiles(struct hlm_arena *arena, const struct hlm_device *machine,
                           enum hlm_dtype dtype, const struct hlm_profiler_sample *samples,
                           int32_t num_samples, struct hlm_gemm_curve *curves)
{
    struct trial trial = {
        .gemm = {.layout = HLM_GEMM_ANY, .form = HLM_GEMM_FORM_TILE},
        .samples = HLM_ARENA_ARRAY(arena, const struct hlm_profiler_sample *, num_samples + 1)};
    trial_init(&trial, machine, dtype);
    trial.row.num_gemm = 1;
    if (machine->num_sms < 1 ||
        take_products(&trial, dtype, HLM_GEMM_ANY, samples, num_samples) < MIN_TILE_SAMPLES) {
        return 0;
    }
    double all[NUM_TILE];
    fit_all_layouts(&trial, all);
    int32_t num = 0;
    for (int layout = HLM_GEMM_TN; layout <= HLM_GEMM_NT; layout++) {
        const enum hlm_gemm_layout which = (enum hlm_gemm_layout)layout;
        if (take_products(&trial, dtype, which, samples, num_samples) >= MIN_SAMPLES) {
            curves[num++] = fit_layout(arena, &trial, which, all);
        }
    }
    return num;
}

/* --- attention --- */

enum { A_T0, A_FLOPS, A_BYTES, A_DIM, A_HALF, A_WAVE, NUM_ATTENTION };

static void set_attention(struct hlm_attention_curve *curve, const double *x)
{
    curve->t0_s = x[A_T0];
    curve->flops_per_s = x[A_FLOPS];
    curve->bytes_per_s = x[A_BYTES];
    curve->dim_exp = x[A_DIM];
    curve->s_half = x[A_HALF];
    curve->wave_frac = x[A_WAVE];
}

static double attention_cost(const double *x, void *context)
{
    struct trial *trial = context;
    set_attention(&trial->attention, x);
    return trial_cost(trial);
}

static void take_attention(struct trial *trial, enum hlm_dtype dtype,
                           const struct hlm_profiler_sample *samples, int32_t num, bool backward,
                           bool causal)
{
    for (int32_t i = 0; i < num; i++) {
        const struct hlm_op *op = samples[i].op;
        if (op->kind == (backward ? HLM_OP_ATTENTION_BWD : HLM_OP_ATTENTION_FWD) &&
            op->dtype == dtype && op->causal == causal) {
            trial->samples[trial->num_samples++] = &samples[i];
        }
    }
}

bool hlm_fit_attention_waves(struct hlm_arena *arena, const struct hlm_device *machine,
                             enum hlm_dtype dtype, const struct hlm_profiler_sample *samples,
                             int32_t num_samples, bool backward, bool causal,
                             struct hlm_attention_curve *out)
{
    struct trial trial = {
        .attention = {.backward = backward, .causal = causal},
        .samples = HLM_ARENA_ARRAY(arena, const struct hlm_profiler_sample *, num_samples + 1)};
    trial_init(&trial, machine, dtype);
    trial.row.num_attention = 1;
    take_attention(&trial, dtype, samples, num_samples, backward, causal);
    if (trial.num_samples < MIN_SAMPLES) {
        return false;
    }
    const double flops = best_rate(&trial), bytes = machine->memory.peak_bytes_per_s;
    const struct hlm_fit_range ranges[NUM_ATTENTION] = {
        [A_T0] = {1e-7, 1e-3, true},
        [A_FLOPS] = {0.5 * flops, 5.0 * flops, true},
        [A_BYTES] = {0.1 * bytes, most_of_peak * bytes, true},
        [A_DIM] = {0.0, 2.0, false},
        [A_HALF] = {0.0, 2000.0, false},
        [A_WAVE] = {0.0, 1.0, false}};
    double x[NUM_ATTENTION] = {5e-6, 1.2 * flops, bytes, 0.5, 300.0, 0.4};
    hlm_fit_minimise(ranges, NUM_ATTENTION, attention_cost, &trial, x);
    set_attention(&trial.attention, x);
    *out = trial.attention;
    out->source = trial_source(arena, &trial);
    return true;
}
