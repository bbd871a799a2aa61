/* The launch: from an operator of the list to its kernels or its matrix product. */
#include <math.h>
#include <stdlib.h>

#include "exec/cuda/gemm_lt.h"
#include "exec/cuda/host.h"
#include "exec/cuda/kernels.h"

static const struct kernel {
    cudaError_t (*run)(const struct hlm_cuda_call *call);
    int64_t (*scratch)(const struct hlm_op *op);
} kernels[HLM_NUM_OPS] = {
#define X(kind, kernel, scratch) [HLM_OP_##kind] = {hlm_cuda_##kernel, hlm_cuda_scratch_##scratch},
    HLM_CUDA_KERNEL_MAP(X)
#undef X
};

static enum hlm_status refuse(const struct hlm_op *op, struct hlm_err *err)
{
    return hlm_fail(err, HLM_ENV, "the cuda backend can't run %s in %s", hlm_op_texts[op->kind],
                    hlm_dtype_texts[op->dtype]);
}

/* Products that accumulate with layout NT make gradients of weights, which are fp32. */
struct hlm_cuda_product hlm_cuda_product_of(const struct hlm_queue *queue, const struct hlm_op *op,
                                            void *const operands[HLM_OP_MAX_OPERANDS])
{
    return (struct hlm_cuda_product){
        .shape = {.epilogue = HLM_CUDA_EPILOGUE_NONE,
                  .layout = op->layout,
                  .dtype = op->dtype,
                  .fp32_result =
                      op->dtype != HLM_DTYPE_BF16 || (op->layout == HLM_GEMM_NT && op->accumulate),
                  .accumulate = op->accumulate,
                  .m = op->m,
                  .n = op->n,
                  .k = op->k},
        .a = operands[0],
        .b = operands[1],
        .c = operands[2],
        .result = operands[2],
        .workspace = queue->workspace,
        .stream = queue->stream,
        .captured = queue->graph != NULL};
}

static enum hlm_status launch_product(struct hlm_queue *queue, const struct hlm_op *op,
                                      void *const *operands, struct hlm_err *err)
{
    const struct hlm_cuda_product product = hlm_cuda_product_of(queue, op, operands);
    return hlm_cuda_lt_multiply(queue->backend->lt, &product, err);
}

static bool rotates(const struct hlm_op *op)
{
    return op->kind == HLM_OP_ROPE_FWD || op->kind == HLM_OP_ROPE_BWD;
}

static const struct hlm_cuda_rotation *known_rotation(const struct hlm_queue *queue,
                                                      const struct hlm_op *op)
{
    const struct hlm_cuda_rotation *table = queue->rotations;
    while (table != NULL && !(table->seq_len == op->seq_len && table->rotary == op->rotary &&
                              fabs(table->theta - op->rope_theta) <= 0.0)) {
        table = table->next;
    }
    return table;
}

/* A model's layers share one table. */
static enum hlm_status find_rotation(struct hlm_queue *queue, const struct hlm_op *op,
                                     const float **out, struct hlm_err *err)
{
    HLM_ASSERT(op->rotary > 0 && op->rotary % 2 == 0 && op->rotary <= op->head_dim);
    const struct hlm_cuda_rotation *known = known_rotation(queue, op);
    if (known != NULL) {
        *out = known->data;
        return HLM_OK;
    }
    HLM_TRY(hlm_cuda_outside_capture(queue, "a first table of rotations", err));
    struct hlm_cuda_rotation *table = calloc(1, sizeof *table);
    if (table == NULL) {
        return hlm_fail(err, HLM_ENV, "cuda backend: no memory for a table of rotations");
    }
    *table =
        (struct hlm_cuda_rotation){queue->rotations, op->seq_len, op->rotary, op->rope_theta, NULL};
    queue->rotations = table;
    HLM_TRY(hlm_cuda_alloc(&queue->backend->base, op->seq_len * op->rotary * (int64_t)sizeof(float),
                           &table->data, err));
    HLM_TRY(hlm_cuda_check(
        hlm_cuda_rotation_fill(table->data, op->seq_len, op->rotary, op->rope_theta, queue->stream),
        "filling the table of rotations", err));
    *out = table->data;
    return HLM_OK;
}

static const struct hlm_cuda_varying *varying_of(const struct hlm_queue *queue)
{
    return queue->graph != NULL ? queue->graph->varying : NULL;
}

static void note_scalars(struct hlm_queue *queue, const struct hlm_op *op)
{
    if (queue->graph != NULL && (op->kind == HLM_OP_XENT_GRAD || op->kind == HLM_OP_ADAMW)) {
        queue->graph->needs_scalars = true;
    }
}

static enum hlm_status launch_kernel(struct hlm_queue *queue, const struct hlm_op *op,
                                     void *const *operands, const struct hlm_op_scalars *scalars,
                                     struct hlm_err *err)
{
    const struct kernel *kernel = &kernels[op->kind];
    HLM_TRY(hlm_cuda_reserve(queue, &queue->scratch, kernel->scratch(op), err));
    const float *rotation = NULL;
    if (rotates(op)) {
        HLM_TRY(find_rotation(queue, op, &rotation, err));
    }
    note_scalars(queue, op);
    const cudaError_t error =
        kernel->run(&(struct hlm_cuda_call){.op = op,
                                            .operands = operands,
                                            .scalars = scalars,
                                            .varying = varying_of(queue),
                                            .scratch = queue->scratch.data,
                                            .rotation = rotation,
                                            .stream = queue->stream,
                                            .num_sms = queue->backend->num_sms});
    return error == cudaErrorNotSupported ? refuse(op, err)
                                          : hlm_cuda_check(error, hlm_op_texts[op->kind], err);
}

static enum hlm_status launch(struct hlm_queue *queue, const struct hlm_op *op,
                              void *const *operands, const struct hlm_op_scalars *scalars,
                              struct hlm_err *err)
{
    HLM_ASSERT((int)op->kind >= 0 && op->kind < HLM_NUM_OPS && op->m >= 0 && op->n >= 0);
    const bool has_dtype = op->dtype == HLM_DTYPE_FP32 || op->dtype == HLM_DTYPE_BF16;
    if (op->kind == HLM_OP_GEMM && (has_dtype || op->dtype == HLM_DTYPE_TF32)) {
        return launch_product(queue, op, operands, err);
    }
    const bool has_kernel = has_dtype && kernels[op->kind].run != NULL;
    return has_kernel ? launch_kernel(queue, op, operands, scalars, err) : refuse(op, err);
}

enum hlm_status hlm_cuda_launch(struct hlm_queue *queue, const struct hlm_op *op,
                                void *const operands[HLM_OP_MAX_OPERANDS],
                                const struct hlm_op_scalars *scalars, struct hlm_err *err)
{
    return hlm_cuda_note(queue, launch(queue, op, operands, scalars, err), err);
}
