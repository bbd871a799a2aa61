#include "exec/profiler/profiler_device.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "costmodel/kernel.h"
#include "exec/profiler/profiler_fit.h"
#include "exec/profiler/profiler_model.h"
#include "exec/profiler/profiler_slab.h"

enum { FULL_STEPS = 7, QUICK_STEPS = 4, MAX_OPS = 2 * HLM_NUM_OPS };

/* Wide layers with few rows and narrow ones with many, short and long sequences, heads of 32 to
 * 128; the tallest have activations beyond the caches of most machines. selective: attention keeps
 * no probabilities. seq_len of the image classifier follows from its image. */
struct shape {
    enum hlm_profiler_family family;
    bool selective, quick;
    int64_t hidden;
    int32_t heads;
    int64_t seq_len, microbatch_size;
    int32_t layers;
    int64_t vocab;
};
static const struct shape shapes[] = {
    {HLM_PROFILER_GPT, false, true, 128, 2, 128, 2, 4, 2048},
    {HLM_PROFILER_GPT, false, true, 256, 4, 128, 4, 2, 2048},
    {HLM_PROFILER_GPT, false, true, 256, 4, 256, 1, 3, 2048},
    {HLM_PROFILER_GPT, false, true, 512, 8, 128, 1, 2, 2048},
    {HLM_PROFILER_GPT, false, false, 512, 8, 256, 2, 2, 4096},
    {HLM_PROFILER_GPT, false, false, 1024, 16, 128, 1, 1, 2048},
    {HLM_PROFILER_GPT, false, false, 256, 4, 512, 1, 2, 2048},
    {HLM_PROFILER_GPT, false, false, 128, 4, 64, 128, 1, 1024},
    {HLM_PROFILER_GPT, false, true, 64, 2, 64, 64, 1, 1024},
    {HLM_PROFILER_LLAMA, true, true, 256, 8, 128, 4, 1, 2048},
    {HLM_PROFILER_LLAMA, true, false, 512, 4, 256, 1, 2, 2048},
    {HLM_PROFILER_LLAMA, true, true, 128, 2, 512, 1, 2, 1024},
    {HLM_PROFILER_LLAMA, true, true, 128, 1, 64, 16, 1, 1024},
    {HLM_PROFILER_LLAMA, true, true, 64, 2, 256, 16, 1, 1024},
    {HLM_PROFILER_LLAMA, false, false, 128, 2, 64, 64, 1, 1024},
    {HLM_PROFILER_BERT, false, true, 256, 4, 128, 4, 1, 2048},
    {HLM_PROFILER_BERT, false, true, 128, 1, 256, 2, 1, 1024},
    {HLM_PROFILER_BERT, false, true, 128, 4, 512, 1, 1, 1024},
    {HLM_PROFILER_BERT, false, false, 256, 4, 64, 8, 1, 1024},
    {HLM_PROFILER_BERT, true, true, 128, 4, 128, 4, 1, 1024},
    {HLM_PROFILER_BERT, true, true, 128, 2, 512, 1, 1, 1024},
    {HLM_PROFILER_BERT, true, true, 128, 1, 64, 8, 1, 1024},
    {HLM_PROFILER_BERT, true, false, 256, 4, 256, 1, 2, 2048},
    {HLM_PROFILER_LLAMA, true, true, 128, 4, 128, 4, 1, 1024},
    {HLM_PROFILER_LLAMA, true, true, 128, 2, 256, 1, 2, 1024},
    {HLM_PROFILER_BERT, false, true, 128, 2, 64, 8, 1, 1024},
    {HLM_PROFILER_BERT, false, true, 128, 2, 512, 1, 1, 1024},
    {HLM_PROFILER_BERT, true, true, 128, 2, 256, 2, 1, 1024},
    {HLM_PROFILER_BERT, true, true, 128, 1, 128, 2, 1, 1024},
    {HLM_PROFILER_VIT, false, true, 128, 2, 0, 4, 1, 128},
    {HLM_PROFILER_GPT, false, true, 128, 2, 512, 1, 2, 1024},

};
enum { NUM_SHAPES = sizeof shapes / sizeof shapes[0] };

static struct hlm_profiler_sizes sizes_of(const struct shape *shape)
{
    return (struct hlm_profiler_sizes){.family = shape->family,
                                       .hidden = shape->hidden,
                                       .seq_len = shape->seq_len,
                                       .microbatch_size = shape->microbatch_size,
                                       .vocab = shape->vocab,
                                       .heads = shape->heads,
                                       .layers = shape->layers};
}

static enum hlm_status measure_shape(struct hlm_arena *arena, struct hlm_backend *backend,
                                     const struct hlm_profiler_device_config *config,
                                     const struct shape *shape, struct hlm_profiler_stack *out,
                                     struct hlm_err *err)
{
    const struct hlm_profiler_sizes sizes = sizes_of(shape);
    const struct hlm_model model = hlm_profiler_model(&sizes);
    const struct hlm_strategy strategy = hlm_profiler_strategy_of(&sizes, &model, HLM_DTYPE_FP32);
    const struct hlm_profiler_stack_config stack = {
        .model = &model,
        .strategy = &strategy,
        .kind = config->kind,
        .recompute = shape->selective ? HLM_RECOMPUTE_SELECTIVE : HLM_RECOMPUTE_NONE,
        .num_steps = config->quick ? QUICK_STEPS : FULL_STEPS,
    };
    return hlm_profiler_stack_measure(arena, backend, &stack, out, err);
}

static bool is_wanted(const struct hlm_profiler_device_config *config, const struct shape *shape)
{
    return shape->quick || !config->quick;
}

static void tell(const struct hlm_profiler_device_config *config, int32_t done, int32_t total,
                 const struct shape *shape)
{
    const struct hlm_profiler_sizes sizes = sizes_of(shape);
    const struct hlm_model model = hlm_profiler_model(&sizes);
    hlm_heartbeat_progress(config->heartbeat,
                           "model %d of %d: %s, hidden %lld, %lld sequences of %lld", (int)done,
                           (int)total, model.name, (long long)shape->hidden,
                           (long long)shape->microbatch_size, (long long)model.seq_len);
}

static double step_of_samples_s(const struct hlm_profiler_stack *stack)
{
    double seconds = 0.0;
    for (int32_t i = 0; i < stack->num_samples; i++) {
        seconds += stack->samples[i].seconds * stack->samples[i].num_blocks;
    }
    return seconds;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double hlm_profiler_whole_step(const struct hlm_profiler_stack *stacks, int32_t num_stacks)
{
    double ratios[NUM_SHAPES];
    HLM_ASSERT(num_stacks > 0 && num_stacks <= NUM_SHAPES);
    for (int32_t i = 0; i < num_stacks; i++) {
        ratios[i] = fmax(1.0, stacks[i].least_step_s / step_of_samples_s(&stacks[i]));
    }
    qsort(ratios, (size_t)num_stacks, sizeof *ratios, compare_doubles);
    return ratios[num_stacks / 2];
}

/* Samples of all stacks, one behind the other, as they are in whole steps. */
static enum hlm_status measure_shapes(struct hlm_arena *arena, struct hlm_backend *backend,
                                      const struct hlm_profiler_device_config *config,
                                      const struct hlm_profiler_sample **out, int32_t *out_num,
                                      struct hlm_err *err)
{
    struct hlm_profiler_stack stacks[NUM_SHAPES] = {0};
    int32_t total = 0, done = 0, num = 0;
    for (int32_t i = 0; i < NUM_SHAPES; i++) {
        total += is_wanted(config, &shapes[i]);
    }
    for (int32_t i = 0; i < NUM_SHAPES; i++) {
        if (is_wanted(config, &shapes[i])) {
            tell(config, ++done, total, &shapes[i]);
            HLM_TRY(measure_shape(arena, backend, config, &shapes[i], &stacks[done - 1], err));
            num += stacks[done - 1].num_samples;
        }
    }
    const double whole_step = hlm_profiler_whole_step(stacks, done);
    struct hlm_profiler_sample *samples = HLM_ARENA_ARRAY(arena, struct hlm_profiler_sample, num);
    *out = samples;
    *out_num = num;
    for (int32_t i = 0; i < done; i++) {
        for (int32_t j = 0; j < stacks[i].num_samples; j++) {
            *samples = stacks[i].samples[j];
            samples->seconds *= whole_step;
            samples++;
        }
    }
    return HLM_OK;
}

static struct hlm_source with_fit(const struct hlm_source *source, const struct hlm_source *fit)
{
    struct hlm_source all = *source;
    all.num_samples = fit->num_samples;
    all.spread_frac = fit->spread_frac;
    return all;
}

static void fit_dtype(struct hlm_arena *arena, const struct hlm_profiler_sample *samples,
                      int32_t num, const struct hlm_source *source, struct hlm_device_dtype *out)
{
    struct hlm_gemm_curve *gemm = HLM_ARENA_ARRAY(arena, struct hlm_gemm_curve, 3);
    struct hlm_attention_curve *attention = HLM_ARENA_ARRAY(arena, struct hlm_attention_curve, 8);
    *out = (struct hlm_device_dtype){
        .dtype = HLM_DTYPE_FP32, .gemm = gemm, .attention = attention, .source = *source};
    for (int layout = HLM_GEMM_TN; layout <= HLM_GEMM_NT; layout++) {
        struct hlm_gemm_curve *curve = &gemm[out->num_gemm];
        if (hlm_fit_gemm(arena, samples, num, (enum hlm_gemm_layout)layout, curve)) {
            curve->source = with_fit(source, &curve->source);
            out->num_gemm++;
        }
    }
    for (unsigned bits = 0; bits < 8; bits++) {
        const struct hlm_fit_attention_key key = {(bits & 4U) != 0, (bits & 2U) != 0,
                                                  (bits & 1U) != 0};
        struct hlm_attention_curve *curve = &attention[out->num_attention];
        if (hlm_fit_attention(arena, samples, num, key, curve)) {
            curve->source = with_fit(source, &curve->source);
            out->num_attention++;
        }
    }
    for (int32_t i = 0; i < num; i++) {
        if (samples[i].op->kind == HLM_OP_GEMM) {
            out->peak_flops_per_s =
                fmax(out->peak_flops_per_s, samples[i].op->flops / samples[i].seconds);
        }
    }
}

static bool is_memory_bound(enum hlm_op_kind kind)
{
    return kind != HLM_OP_GEMM && kind != HLM_OP_ATTENTION_FWD && kind != HLM_OP_ATTENTION_BWD;
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

void hlm_profiler_device_fit(struct hlm_arena *arena, const struct hlm_profiler_sample *samples,
                             int32_t num_samples, const struct hlm_source *source,
                             struct hlm_device *out)
{
    struct hlm_device_dtype *dtype = HLM_ARENA_NEW(arena, struct hlm_device_dtype);
    struct hlm_op_curve *curves = HLM_ARENA_ARRAY(arena, struct hlm_op_curve, MAX_OPS);
    fit_dtype(arena, samples, num_samples, source, dtype);
    out->dtypes = dtype;
    out->num_dtypes = 1;
    out->ops = curves;
    out->num_ops = 0;
    for (int32_t i = 0; i < num_samples; i++) {
        const char *key = hlm_kernel_curve_key(samples[i].op);
        if (!is_memory_bound(samples[i].op->kind) || has_curve(curves, out->num_ops, key)) {
            continue;
        }
        struct hlm_op_curve *curve = &curves[out->num_ops];
        if (hlm_fit_op_curve(arena, samples, num_samples, key, curve)) {
            curve->source = with_fit(source, &curve->source);
            out->num_ops++;
        }
    }
}

static enum hlm_status add_slabs(struct hlm_arena *arena, struct hlm_backend *backend,
                                 const struct hlm_profiler_device_config *config,
                                 struct hlm_device *out, struct hlm_err *err)
{
    struct hlm_profiler_slabs slabs;
    hlm_heartbeat_progress(config->heartbeat, "optimizer and memory");
    HLM_TRY(hlm_profiler_slabs_measure(arena, backend, &slabs, err));
    struct hlm_op_curve *curves =
        HLM_ARENA_ARRAY(arena, struct hlm_op_curve, out->num_ops + HLM_PROFILER_NUM_SLAB_OPS);
    for (int32_t i = 0; i < out->num_ops; i++) {
        curves[i] = out->ops[i];
    }
    for (int32_t i = 0; i < HLM_PROFILER_NUM_SLAB_OPS; i++) {
        slabs.curves[i].source = with_fit(&config->source, &slabs.curves[i].source);
        curves[out->num_ops++] = slabs.curves[i];
    }
    out->ops = curves;
    out->memory = slabs.memory;
    out->memory.source = with_fit(&config->source, &slabs.memory.source);
    out->launch_overhead_s = slabs.launch_overhead_s;
    out->launch_source = config->source;
    return HLM_OK;
}

enum hlm_status hlm_profiler_device_measure(struct hlm_arena *arena, struct hlm_backend *backend,
                                            const struct hlm_profiler_device_config *config,
                                            struct hlm_device *out, struct hlm_err *err)
{
    const struct hlm_profiler_sample *samples = NULL;
    int32_t num_samples = 0;
    HLM_TRY(measure_shapes(arena, backend, config, &samples, &num_samples, err));
    hlm_profiler_device_fit(arena, samples, num_samples, &config->source, out);
    return add_slabs(arena, backend, config, out, err);
}
