/* cpu_ops: how fast the CPU backend runs each operator of a training step.
 *
 *     cpu_ops [MODEL [SEQ_LEN [SEQUENCES [REPEATS]]]]      (gpt2-small 256 1 5)
 *
 * Runs the operator lists of the embedding, one layer and the head, forward and backward, on one
 * core, as the executor would, then the optimizer over their parameters. Prints per operator the
 * least CPU time of the repeats, GFLOP/s of matrix products, and GB/s of the least memory traffic
 * (costmodel/op.h); then what a whole step of the model adds up to. CPU time, since other programs
 * on the machine change it least.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "costmodel/lowering.h"
#include "exec/backend.h"

struct bench {
    struct hlm_arena *arena;
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    const struct hlm_model *model;
    struct hlm_strategy strategy;
    int repeats;
    double num_params;
};

static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Realistic values: kernels and the processor are slow on special ones. */
static void fill(const struct bench *bench, const struct hlm_tensor *tensor, void *memory)
{
    const int64_t count = tensor->rows * tensor->cols;
    if (tensor->role == HLM_TENSOR_TOKENS || tensor->role == HLM_TENSOR_TARGETS) {
        const double num_words = (double)bench->model->vocab_size;
        for (int64_t i = 0; i < count; i++) {
            ((int32_t *)memory)[i] = (int32_t)(num_words * hlm_rng_uniform(1, (uint64_t)i));
        }
        return;
    }
    const double scale = tensor->role == HLM_TENSOR_PARAM && tensor->cols > 1 ? 0.02 : 1.0;
    for (int64_t i = 0; i < count && tensor->role != HLM_TENSOR_LOSS; i++) {
        ((float *)memory)[i] = (float)(scale * hlm_rng_normal(2, (uint64_t)i));
    }
}

static enum hlm_status make_tensors(struct bench *bench, const struct hlm_block *block, void ***out,
                                    struct hlm_err *err)
{
    void **memory = HLM_ARENA_ARRAY(bench->arena, void *, block->num_tensors);
    for (int32_t i = 0; i < block->num_tensors; i++) {
        const struct hlm_tensor *tensor = &block->tensors[i];
        const int64_t bytes = tensor->rows * tensor->cols * (int64_t)sizeof(double);
        HLM_TRY(bench->backend->ops->alloc(bench->backend, bytes, &memory[i], err));
        fill(bench, tensor, memory[i]);
    }
    *out = memory;
    return HLM_OK;
}

static enum hlm_status launch(struct bench *bench, const struct hlm_op *op, void **memory,
                              double *out_s, struct hlm_err *err)
{
    static const struct hlm_op_scalars scalars = {.loss_scale = 1e-3,
                                                  .learning_rate = 1e-4,
                                                  .beta1 = 0.9,
                                                  .beta2 = 0.95,
                                                  .adam_eps = 1e-8,
                                                  .weight_decay = 0.1,
                                                  .grad_scale = 1.0,
                                                  .step = 10};
    void *operands[HLM_OP_MAX_OPERANDS] = {0};
    for (int32_t i = 0; i < hlm_op_num_operands(op->kind); i++) {
        operands[i] = op->operands[i] < 0 ? NULL : memory[op->operands[i]];
    }
    const double start = cpu_seconds();
    HLM_TRY(bench->backend->ops->launch(bench->queue, op, operands, &scalars, err));
    *out_s = cpu_seconds() - start;
    return HLM_OK;
}

static void print_op(const char *block, const struct hlm_op *op, double seconds)
{
    static const char *const layouts[] = {"", "tn", "nn", "nt"};
    printf("%-10s %-18s %-2s %6lld %6lld %6lld %10.3f", block, hlm_op_texts[op->kind],
           op->kind == HLM_OP_GEMM ? layouts[op->layout] : "", (long long)op->m, (long long)op->n,
           (long long)op->k, 1e3 * seconds);
    if (op->flops > 0.0) {
        printf(" %9.1f", 1e-9 * op->flops / seconds);
    } else {
        printf(" %9s", "");
    }
    printf(" %9.1f\n", 1e-9 * op->bytes / seconds);
}

/* Runs the list `repeats` times in order; adds up the least time of each operator. */
static enum hlm_status run_list(struct bench *bench, const char *name, const struct hlm_op *ops,
                                int32_t num_ops, void **memory, double *total_s,
                                struct hlm_err *err)
{
    double *least = HLM_ARENA_ARRAY(bench->arena, double, num_ops);
    for (int repeat = 0; repeat < bench->repeats; repeat++) {
        for (int32_t i = 0; i < num_ops; i++) {
            double seconds = 0.0;
            HLM_TRY(launch(bench, &ops[i], memory, &seconds, err));
            least[i] = repeat == 0 || seconds < least[i] ? seconds : least[i];
        }
    }
    for (int32_t i = 0; i < num_ops; i++) {
        print_op(name, &ops[i], least[i]);
        *total_s += least[i];
    }
    return HLM_OK;
}

static enum hlm_status run_block(struct bench *bench, enum hlm_block_kind kind, double *total_s,
                                 struct hlm_err *err)
{
    const struct hlm_lowering_input input = {
        .model = bench->model, .strategy = &bench->strategy, .backend = HLM_BACKEND_CPU};
    const struct hlm_block *block = NULL;
    void **memory = NULL;
    HLM_TRY(hlm_lowering_block(bench->arena, &input, kind, HLM_RECOMPUTE_NONE, &block, err));
    HLM_TRY(make_tensors(bench, block, &memory, err));
    const char *name = hlm_block_texts[kind];
    HLM_TRY(run_list(bench, name, block->forward, block->num_forward, memory, total_s, err));
    HLM_TRY(run_list(bench, name, block->backward, block->num_backward, memory, total_s, err));
    for (int32_t i = 0; i < block->num_tensors; i++) {
        bench->backend->ops->free(bench->backend, memory[i]);
    }
    const double copies = kind == HLM_BLOCK_DENSE ? bench->model->num_layers : 1.0;
    for (int32_t i = 0; i < block->num_params; i++) {
        bench->num_params += copies * (double)(block->params[i].rows * block->params[i].cols);
    }
    return HLM_OK;
}

/* The optimizer's part over a slab of 2^24 parameters, scaled to all of them. */
static enum hlm_status run_optimizer(struct bench *bench, double *total_s, struct hlm_err *err)
{
    const int64_t count = INT64_C(1) << 24;
    const double size = 4.0 * (double)count;
    const struct hlm_tensor slab = {.role = HLM_TENSOR_ACTIVATION, .rows = count, .cols = 1};
    const struct hlm_op ops[] = {
        {.kind = HLM_OP_FILL_ZERO, .m = count, .operands = {0}, .bytes = size},
        {.kind = HLM_OP_SUM_SQUARES, .m = count, .operands = {0, 4}, .bytes = size},
        {.kind = HLM_OP_ADAMW, .m = count, .operands = {0, 1, 2, 3, -1}, .bytes = 7.0 * size},
    };
    void *memory[5];
    for (int i = 0; i < 5; i++) {
        HLM_TRY(bench->backend->ops->alloc(bench->backend, 4 * count, &memory[i], err));
        fill(bench, &slab, memory[i]);
    }
    memset(memory[3], 0, (size_t)(4 * count)); /* second moments are not negative */
    double seconds = 0.0;
    HLM_TRY(run_list(bench, "optimizer", ops, 3, memory, &seconds, err));
    *total_s += seconds * bench->num_params / (double)count;
    for (int i = 0; i < 5; i++) {
        bench->backend->ops->free(bench->backend, memory[i]);
    }
    return HLM_OK;
}

static enum hlm_status run(struct bench *bench, struct hlm_err *err)
{
    double ends_s = 0.0, layer_s = 0.0, optimizer_s = 0.0;
    printf("%-10s %-18s %-2s %6s %6s %6s %10s %9s %9s\n", "block", "operator", "", "m", "n", "k",
           "ms", "GFLOP/s", "GB/s");
    HLM_TRY(run_block(bench, HLM_BLOCK_EMBEDDING, &ends_s, err));
    HLM_TRY(run_block(bench, HLM_BLOCK_DENSE, &layer_s, err));
    HLM_TRY(run_block(bench, HLM_BLOCK_HEAD, &ends_s, err));
    HLM_TRY(run_optimizer(bench, &optimizer_s, err));
    const double step_s = ends_s + layer_s * bench->model->num_layers + optimizer_s;
    printf("one layer %.1f ms, embedding and head %.1f ms, optimizer %.1f ms (%.1f M parameters): "
           "step %.1f ms\n",
           1e3 * layer_s, 1e3 * ends_s, 1e3 * optimizer_s, 1e-6 * bench->num_params, 1e3 * step_s);
    return HLM_OK;
}

static enum hlm_status bench_init(struct bench *bench, int argc, char **argv, struct hlm_err *err)
{
    bench->arena = hlm_arena_new();
    HLM_TRY(hlm_model_load(bench->arena, argc > 1 ? argv[1] : "gpt2-small", &bench->model, err));
    bench->strategy = (struct hlm_strategy){
        .dp = 1,
        .tp = 1,
        .pp = 1,
        .cp = 1,
        .ep = 1,
        .vpp = 1,
        .seq_len = argc > 2 ? atoll(argv[2]) : 256,
        .microbatch_size = argc > 3 ? atoll(argv[3]) : 1,
    };
    bench->strategy.global_batch_size = bench->strategy.microbatch_size;
    bench->repeats = argc > 4 ? atoi(argv[4]) : 5;
    hlm_strategy_complete(&bench->strategy);
    HLM_TRY(hlm_strategy_check(&bench->strategy, bench->model, err));
    HLM_TRY(hlm_backend_cpu_new(&bench->backend, err));
    return bench->backend->ops->queue_new(bench->backend, &bench->queue, err);
}

int main(int argc, char **argv)
{
    struct bench bench = {0};
    struct hlm_err err;
    enum hlm_status status = bench_init(&bench, argc, argv, &err);
    if (status == HLM_OK) {
        status = run(&bench, &err);
    }
    if (status != HLM_OK) {
        fprintf(stderr, "cpu_ops: %s\n", err.text);
    }
    if (bench.queue != NULL) {
        bench.backend->ops->queue_free(bench.queue);
    }
    hlm_backend_free(bench.backend);
    hlm_arena_free(bench.arena);
    return (int)status;
}
