/* The launch: from an operator of the list to its kernels or its matrix product. */
#include <math.h>

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
static enum hlm_status launch_product(struct hlm_queue *queue, const struct hlm_op *op,
                                      void *const *operands, struct hlm_err *err)
{
    const cudaDataType_t type = op->dtype == HLM_DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    const bool makes_gradient = op->layout == HLM_GEMM_NT && op->accumulate;
    const struct hlm_cuda_product product = {.layout = op->layout,
                                             .m = op->m,
                                             .n = op->n,
                                             .k = op->k,
                                             .accumulate = op->accumulate,
                                             .tf32 = op->dtype == HLM_DTYPE_TF32,
                                             .type = type,
                                             .c_type = makes_gradient ? CUDA_R_32F : type,
                                             .a = operands[0],
                                             .b = operands[1],
                                             .c = operands[2],
                                             .workspace = queue->workspace,
                                             .stream = queue->stream};
    return hlm_cuda_lt_multiply(queue->backend->lt, &product, err);
}

static bool rotates(const struct hlm_op *op)
{
    return op->kind == HLM_OP_ROPE_FWD || op->kind == HLM_OP_ROPE_BWD;
}

/* The table of the last RoPE operator serves the next when they agree, as all layers of a model do.
 */
static enum hlm_status reserve_rotation(struct hlm_queue *queue, const struct hlm_op *op,
                                        struct hlm_err *err)
{
    HLM_ASSERT(op->rotary > 0 && op->rotary % 2 == 0 && op->rotary <= op->head_dim);
    if (queue->rotation_len == op->seq_len && queue->rotation_size == op->rotary &&
        fabs(queue->rotation_theta - op->rope_theta) <= 0.0) {
        return HLM_OK;
    }
    queue->rotation_len = 0;
    HLM_TRY(hlm_cuda_reserve(queue, &queue->rotation,
                             op->seq_len * op->rotary * (int64_t)sizeof(float), err));
    HLM_TRY(hlm_cuda_check(hlm_cuda_rotation_fill(queue->rotation.data, op->seq_len, op->rotary,
                                                  op->rope_theta, queue->stream),
                           "filling the table of rotations", err));
    queue->rotation_len = op->seq_len;
    queue->rotation_size = op->rotary;
    queue->rotation_theta = op->rope_theta;
    return HLM_OK;
}

static enum hlm_status launch_kernel(struct hlm_queue *queue, const struct hlm_op *op,
                                     void *const *operands, const struct hlm_op_scalars *scalars,
                                     struct hlm_err *err)
{
    const struct kernel *kernel = &kernels[op->kind];
    HLM_TRY(hlm_cuda_reserve(queue, &queue->scratch, kernel->scratch(op), err));
    if (rotates(op)) {
        HLM_TRY(reserve_rotation(queue, op, err));
    }
    const cudaError_t error =
        kernel->run(&(struct hlm_cuda_call){.op = op,
                                            .operands = operands,
                                            .scalars = scalars,
                                            .scratch = queue->scratch.data,
                                            .rotation = queue->rotation.data,
                                            .stream = queue->stream,
                                            .num_sms = queue->backend->num_sms});
    return error == cudaErrorNotSupported ? refuse(op, err)
                                          : hlm_cuda_check(error, hlm_op_texts[op->kind], err);
}

enum hlm_status hlm_cuda_launch(struct hlm_queue *queue, const struct hlm_op *op,
                                void *const operands[HLM_OP_MAX_OPERANDS],
                                const struct hlm_op_scalars *scalars, struct hlm_err *err)
{
    HLM_ASSERT((int)op->kind >= 0 && op->kind < HLM_NUM_OPS && op->m >= 0 && op->n >= 0);
    const bool has_dtype = op->dtype == HLM_DTYPE_FP32 || op->dtype == HLM_DTYPE_BF16;
    if (op->kind == HLM_OP_GEMM && (has_dtype || op->dtype == HLM_DTYPE_TF32)) {
        return launch_product(queue, op, operands, err);
    }
    const bool has_kernel = has_dtype && kernels[op->kind].run != NULL;
    return has_kernel ? launch_kernel(queue, op, operands, scalars, err) : refuse(op, err);
}
