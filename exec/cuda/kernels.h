/* kernels: what the host code and the kernels of the CUDA backend share: the call that a launcher
 * gets and the list of launchers. Also read by C++ (exec/cuda/device.cuh).
 *
 * A launcher puts one operator on the call's stream and returns at once. All kernels: fp32 or bf16
 * tensors with fp32 arithmetic; gradients of parameters are fp32 in both; no atomic operation on
 * floating-point numbers, and an order of additions that depends on shapes only: equal inputs give
 * equal bits on one kind of device. Operators that may work in place on the CPU may here too
 * (din = dout or dresidual, out = a).
 */
#ifndef HLM_EXEC_CUDA_KERNELS_H
#define HLM_EXEC_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "exec/backend.h"

/* The scalars that a graph's launches may change, on the device. */
struct hlm_cuda_varying {
    double loss_scale, learning_rate, grad_scale, step;
};

struct hlm_cuda_call {
    const struct hlm_op *op;
    void *const *operands; /* in the order of HLM_OP_MAP */
    const struct hlm_op_scalars *scalars;
    /* NULL, or where four of the scalars will stand when the kernels run (inside a capture) */
    const struct hlm_cuda_varying *varying;
    void *scratch;         /* as many bytes as the launcher's row below asks for */
    const float *rotation; /* ROPE only: the table of hlm_cuda_rotation_fill */
    cudaStream_t stream;
    int32_t num_sms;
};

/* X(kind, launcher hlm_cuda_<name>, scratch hlm_cuda_scratch_<name>). Matrix products are not among
 * them (exec/cuda/gemm_lt.h), nor are mixtures of experts, which launch() refuses. */
#define HLM_CUDA_KERNEL_MAP(X)                                                                     \
    X(EMBED_FWD, embed_fwd, none)                                                                  \
    X(EMBED_BWD, embed_bwd, none)                                                                  \
    X(POSITION_FWD, position_fwd, none)                                                            \
    X(POSITION_BWD, position_bwd, column_sums)                                                     \
    X(PATCHIFY, patchify, none)                                                                    \
    X(PATCH_ASSEMBLE_FWD, patch_assemble_fwd, none)                                                \
    X(PATCH_ASSEMBLE_BWD, patch_assemble_bwd, none)                                                \
    X(NORM_FWD, norm_fwd, none)                                                                    \
    X(NORM_BWD, norm_bwd, norm_bwd)                                                                \
    X(BIAS_ADD, bias_add, none)                                                                    \
    X(BIAS_GRAD, bias_grad, column_sums)                                                           \
    X(ROPE_FWD, rope_fwd, none)                                                                    \
    X(ROPE_BWD, rope_bwd, none)                                                                    \
    X(ATTENTION_FWD, attention_fwd, none)                                                          \
    X(ATTENTION_BWD, attention_bwd, attention_bwd)                                                 \
    X(ACTIVATION_FWD, activation_fwd, none)                                                        \
    X(ACTIVATION_BWD, activation_bwd, none)                                                        \
    X(BIAS_RESIDUAL, bias_residual, none)                                                          \
    X(ADD, add, none)                                                                              \
    X(SELECT_FWD, select_fwd, none)                                                                \
    X(SELECT_BWD, select_bwd, none)                                                                \
    X(SLICE_ROWS, slice_rows, none)                                                                \
    X(XENT_MAX, xent_max, none)                                                                    \
    X(XENT_SUM, xent_sum, none)                                                                    \
    X(XENT_GRAD, xent_grad, none)                                                                  \
    X(FILL_ZERO, fill_zero, none)                                                                  \
    X(SUM_SQUARES, sum_squares, sum_squares)                                                       \
    X(ADAMW, adamw, adamw)

/* cudaErrorNotSupported: a shape or dtype without a kernel. */
#define X(kind, kernel, scratch) cudaError_t hlm_cuda_##kernel(const struct hlm_cuda_call *call);
HLM_CUDA_KERNEL_MAP(X)
#undef X

/* Bytes of scratch that an operator needs. */
int64_t hlm_cuda_scratch_none(const struct hlm_op *op);
int64_t hlm_cuda_scratch_column_sums(const struct hlm_op *op);
int64_t hlm_cuda_scratch_norm_bwd(const struct hlm_op *op);
int64_t hlm_cuda_scratch_attention_bwd(const struct hlm_op *op);
int64_t hlm_cuda_scratch_sum_squares(const struct hlm_op *op);
int64_t hlm_cuda_scratch_adamw(const struct hlm_op *op);

/* Cosines and sines of RoPE, table [seq_len][2][rotary / 2] on the device: row p holds cos(p f_i),
 * then sin(p f_i), with f_i = theta^(-2 i / rotary), i < rotary / 2, computed in double. */
cudaError_t hlm_cuda_rotation_fill(float *table, int64_t seq_len, int64_t rotary, double theta,
                                   cudaStream_t stream);

/* The combine of struct hlm_backend_ops. */
cudaError_t hlm_cuda_combine(void *out, const void *a, const void *b, int64_t count,
                             enum hlm_wire type, enum hlm_reduce op, cudaStream_t stream);

#endif
