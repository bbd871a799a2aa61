/* cpu_accuracy: how well a profile of this machine predicts models that it never saw.
 *
 *     cpu_accuracy PROFILE_DIR [STEPS]      (after: hlmplan profile -o PROFILE_DIR)
 *
 * Trains models of sizes that are no powers of two, one core, operator by operator, as the executor
 * would, and compares the least time of each operator with its price, and the median time of each
 * whole step (without optimizer) with the sum of the prices. Prints a table by operator (share of
 * the time, mean error, mean and greatest absolute error), one by model, and the mean absolute
 * error of the steps.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "costmodel/kernel.h"
#include "exec/profiler/profiler_stack.h"
#include "profiles/cluster.h"

enum { NUM_STEPS = 7, MAX_KEYS = 64 };

/* l: a decoder with swiglu, rmsnorm and rope; e: an encoder with post-norm; else as GPT-2. */
struct shape {
    const char *name;
    char family;
    enum hlm_recompute recompute;
    int64_t hidden;
    int32_t heads;
    int64_t seq_len, microbatch_size;
    int32_t layers;
    int64_t vocab;
};
static const struct shape shapes[] = {
    {"gpt 320 x 4", 'g', HLM_RECOMPUTE_NONE, 320, 5, 192, 2, 4, 3000},
    {"gpt 384 x 6", 'g', HLM_RECOMPUTE_NONE, 384, 6, 256, 1, 6, 5000},
    {"gpt 384 x 6, short", 'g', HLM_RECOMPUTE_NONE, 384, 6, 128, 2, 6, 1000},
    {"gpt 320 x 4, large vocabulary", 'g', HLM_RECOMPUTE_NONE, 320, 5, 96, 4, 4, 8000},
    {"gpt 640 x 3", 'g', HLM_RECOMPUTE_NONE, 640, 10, 192, 1, 3, 3000},
    {"gpt 576 x 2, long", 'g', HLM_RECOMPUTE_NONE, 576, 9, 384, 1, 2, 6000},
    {"gpt 480 x 2", 'g', HLM_RECOMPUTE_NONE, 480, 6, 192, 4, 2, 2500},
    {"gpt 384 x 4, selective", 'g', HLM_RECOMPUTE_SELECTIVE, 384, 6, 192, 2, 4, 3000},
    {"gpt 320 x 4, full", 'g', HLM_RECOMPUTE_FULL, 320, 5, 160, 2, 4, 3000},
    {"llama 320 x 4, selective", 'l', HLM_RECOMPUTE_SELECTIVE, 320, 5, 224, 2, 4, 3000},
    {"llama 448 x 3", 'l', HLM_RECOMPUTE_NONE, 448, 7, 160, 2, 3, 4000},
    {"encoder 384 x 4", 'e', HLM_RECOMPUTE_NONE, 384, 6, 160, 2, 4, 3000},
    {"encoder 320 x 4, selective", 'e', HLM_RECOMPUTE_SELECTIVE, 320, 5, 320, 1, 4, 3000},
};
enum { NUM_SHAPES = sizeof shapes / sizeof shapes[0] };

/* Errors of one kind of operator. */
struct row {
    const char *key;
    int32_t num;
    double seconds, error, absolute, greatest;
};
struct table {
    struct row rows[MAX_KEYS];
    int32_t num_rows;
    double seconds;
};

static struct hlm_model make_model(const struct shape *shape)
{
    const bool llama = shape->family == 'l', encoder = shape->family == 'e';
    struct hlm_model model = {
        .name = shape->name,
        .kind = encoder ? HLM_MODEL_ENCODER : HLM_MODEL_DECODER,
        .seq_len = shape->seq_len,
        .hidden_size = shape->hidden,
        .ffn_size = (llama ? 3 : 4) * shape->hidden,
        .num_layers = shape->layers,
        .num_heads = shape->heads,
        .vocab_size = shape->vocab,
        .activation = llama ? HLM_ACTIVATION_SWIGLU : HLM_ACTIVATION_GELU,
        .norm = llama ? HLM_NORM_RMSNORM : HLM_NORM_LAYERNORM,
        .norm_placement = encoder ? HLM_NORM_PLACEMENT_POST : HLM_NORM_PLACEMENT_PRE,
        .norm_eps = 1e-5,
        .position = llama ? HLM_POSITION_ROPE : HLM_POSITION_LEARNED,
        .rotary_frac = 1.0,
        .rope_theta = 1e4,
        .bias = {!llama, !llama, !llama},
        .tied_embeddings = !llama,
        .vocab_pad_multiple = 1,
        .token_types = encoder ? 2 : 0,
    };
    hlm_model_complete(&model);
    return model;
}

static enum hlm_status measure(struct hlm_arena *arena, struct hlm_backend *backend,
                               const struct shape *shape, int32_t num_steps,
                               struct hlm_profiler_stack *out, struct hlm_err *err)
{
    const struct hlm_model model = make_model(shape);
    struct hlm_strategy strategy = {.dp = 1,
                                    .tp = 1,
                                    .pp = 1,
                                    .microbatch_size = shape->microbatch_size,
                                    .num_microbatches = 1,
                                    .global_batch_size = shape->microbatch_size,
                                    .seq_len = shape->seq_len,
                                    .dtype = HLM_DTYPE_FP32};
    hlm_strategy_complete(&strategy);
    const struct hlm_profiler_stack_config config = {.model = &model,
                                                     .strategy = &strategy,
                                                     .kind = HLM_BACKEND_CPU,
                                                     .recompute = shape->recompute,
                                                     .num_steps = num_steps};
    return hlm_profiler_stack_measure(arena, backend, &config, out, err);
}

static const char *key_of(const struct hlm_op *op)
{
    static const char *const products[] = {"gemm", "gemm tn", "gemm nn", "gemm nt"};
    return op->kind == HLM_OP_GEMM ? products[op->layout] : hlm_kernel_curve_key(op);
}

static struct row *row_of(struct table *table, const char *key)
{
    for (int32_t i = 0; i < table->num_rows; i++) {
        if (strcmp(table->rows[i].key, key) == 0) {
            return &table->rows[i];
        }
    }
    HLM_ASSERT(table->num_rows < MAX_KEYS);
    table->rows[table->num_rows].key = key;
    return &table->rows[table->num_rows++];
}

/* Adds the operators of one model; returns their price. */
static double add_model(struct table *table, const struct hlm_device *device,
                        const struct hlm_profiler_stack *stack)
{
    double predicted_s = 0.0;
    for (int32_t i = 0; i < stack->num_samples; i++) {
        const struct hlm_profiler_sample *sample = &stack->samples[i];
        const double seconds = hlm_kernel_seconds(device, sample->op);
        const double error = seconds / sample->seconds - 1.0;
        struct row *row = row_of(table, key_of(sample->op));
        row->num++;
        row->seconds += sample->seconds * (double)sample->num_blocks;
        row->error += error;
        row->absolute += fabs(error);
        row->greatest = fmax(row->greatest, fabs(error));
        table->seconds += sample->seconds * (double)sample->num_blocks;
        predicted_s += seconds * (double)sample->num_blocks;
    }
    return predicted_s;
}

static int by_seconds(const void *a, const void *b)
{
    const struct row *x = a, *y = b;
    return x->seconds > y->seconds ? -1 : x->seconds < y->seconds;
}

static void print_table(struct table *table)
{
    qsort(table->rows, (size_t)table->num_rows, sizeof table->rows[0], by_seconds);
    printf("\n%-24s %6s %7s %8s %8s %8s\n", "operator", "num", "share", "mean", "mean abs", "max");
    for (int32_t i = 0; i < table->num_rows; i++) {
        const struct row *row = &table->rows[i];
        printf("%-24s %6d %6.1f%% %+7.1f%% %7.1f%% %7.1f%%\n", row->key, (int)row->num,
               100.0 * row->seconds / table->seconds, 100.0 * row->error / row->num,
               100.0 * row->absolute / row->num, 100.0 * row->greatest);
    }
}

static enum hlm_status run(struct hlm_arena *arena, struct hlm_backend *backend,
                           const char *profile, int32_t num_steps, struct hlm_err *err)
{
    const struct hlm_cluster *cluster = NULL;
    struct table table = {0};
    double absolute = 0.0, greatest = 0.0;
    HLM_TRY(hlm_cluster_load(arena, profile, &cluster, err));
    printf("%-32s %12s %12s %8s\n", "model", "predicted ms", "measured ms", "error");
    for (int32_t i = 0; i < NUM_SHAPES; i++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(arena);
        struct hlm_profiler_stack stack;
        HLM_TRY(measure(arena, backend, &shapes[i], num_steps, &stack, err));
        const double predicted_s = add_model(&table, &cluster->groups[0].device, &stack);
        const double error = predicted_s / stack.median_step_s - 1.0;
        printf("%-32s %12.2f %12.2f %+7.1f%%\n", shapes[i].name, 1e3 * predicted_s,
               1e3 * stack.median_step_s, 100.0 * error);
        fflush(stdout);
        absolute += fabs(error) / NUM_SHAPES;
        greatest = fmax(greatest, fabs(error));
        hlm_arena_rewind(arena, mark);
    }
    print_table(&table);
    printf("\nsteps: mean absolute error %.2f %%, greatest %.2f %%\n", 100.0 * absolute,
           100.0 * greatest);
    return HLM_OK;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: cpu_accuracy PROFILE_DIR [STEPS]\n");
        return HLM_USAGE;
    }
    const int32_t num_steps = argc > 2 ? (int32_t)strtol(argv[2], NULL, 10) : NUM_STEPS;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_backend *backend = NULL;
    struct hlm_err err = {0};
    enum hlm_status status = num_steps < 1 ? hlm_fail(&err, HLM_USAGE, "expected a step or more")
                                           : hlm_backend_cpu_new(&backend, &err);
    if (status == HLM_OK) {
        status = run(arena, backend, argv[1], num_steps, &err);
    }
    if (status != HLM_OK) {
        fprintf(stderr, "cpu_accuracy: %s\n", err.text);
    }
    hlm_backend_free(backend);
    hlm_arena_free(arena);
    return (int)status;
}
