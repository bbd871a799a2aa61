/* cpu: what the files of the CPU backend share: the call that a kernel gets and the list of
 * kernels.
 *
 * Kernels run on the calling thread, one after the other, in fp32 with sums of long columns split
 * into blocks and losses and norms in double. Their order of additions depends on shapes only:
 * equal inputs give equal bits on one machine. None of them allocates: what one needs beside its
 * operands is its scratch, which the launch reserves.
 */
#ifndef HLM_EXEC_CPU_CPU_H
#define HLM_EXEC_CPU_CPU_H

#include <stdint.h>

#include "exec/backend.h"

struct hlm_cpu_call {
    const struct hlm_op *op;
    void *const *operands; /* in the order of HLM_OP_MAP */
    const struct hlm_op_scalars *scalars;
    float *scratch; /* as many floats as the kernel's row below asks for, contents undefined */
    const float *rotation; /* ROPE only: hlm_cpu_rotation_fill */
};

/* X(kind, kernel hlm_cpu_<name>, scratch hlm_cpu_scratch_<name>). The operators of latent attention
 * are not among them: hlm_lowering_refusal keeps them away, and launch() refuses them. */
#define HLM_CPU_KERNEL_MAP(X)                                                                      \
    X(EMBED_FWD, embed_fwd, none)                                                                  \
    X(EMBED_BWD, embed_bwd, none)                                                                  \
    X(POSITION_FWD, position_fwd, none)                                                            \
    X(POSITION_BWD, position_bwd, none)                                                            \
    X(PATCHIFY, patchify, none)                                                                    \
    X(PATCH_ASSEMBLE_FWD, patch_assemble_fwd, none)                                                \
    X(PATCH_ASSEMBLE_BWD, patch_assemble_bwd, none)                                                \
    X(NORM_FWD, norm_fwd, none)                                                                    \
    X(NORM_BWD, norm_bwd, norm_bwd)                                                                \
    X(GEMM, gemm, none)                                                                            \
    X(BIAS_ADD, bias_add, none)                                                                    \
    X(BIAS_GRAD, bias_grad, bias_grad)                                                             \
    X(ROPE_FWD, rope_fwd, none)                                                                    \
    X(ROPE_BWD, rope_bwd, none)                                                                    \
    X(ATTENTION_FWD, attention_fwd, attention)                                                     \
    X(ATTENTION_BWD, attention_bwd, attention)                                                     \
    X(KV_SPLIT, kv_split, none)                                                                    \
    X(KV_JOIN, kv_join, none)                                                                      \
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
    X(ROUTE_FWD, route_fwd, none)                                                                  \
    X(ROUTE_BWD, route_bwd, none)                                                                  \
    X(PERMUTE, permute, places)                                                                    \
    X(UNPERMUTE, unpermute, places)                                                                \
    X(GROUPED_GEMM, grouped_gemm, none)                                                            \
    X(EXPERT_ACTIVATION_FWD, expert_activation_fwd, none)                                          \
    X(EXPERT_ACTIVATION_BWD, expert_activation_bwd, none)                                          \
    X(FILL_ZERO, fill_zero, none)                                                                  \
    X(SUM_SQUARES, sum_squares, none)                                                              \
    X(ADAMW, adamw, none)

#define X(kind, kernel, scratch) void hlm_cpu_##kernel(const struct hlm_cpu_call *call);
HLM_CPU_KERNEL_MAP(X)
#undef X

/* Floats of scratch that an operator needs. */
int64_t hlm_cpu_scratch_none(const struct hlm_op *op);
int64_t hlm_cpu_scratch_norm_bwd(const struct hlm_op *op);
int64_t hlm_cpu_scratch_bias_grad(const struct hlm_op *op);
int64_t hlm_cpu_scratch_attention(const struct hlm_op *op);
int64_t hlm_cpu_scratch_places(const struct hlm_op *op);

/* c[m, n] = op(a) op(b) (+ c), dense and row-major, as GEMM of HLM_OP_MAP. */
void hlm_cpu_multiply(enum hlm_gemm_layout layout, int64_t m, int64_t n, int64_t k, const float *a,
                      const float *b, float *c, bool accumulate);

/* Cosines and sines of RoPE, table [seq_len][2][rotary / 2]: row p holds cos(p f_i), then sin(p
 * f_i), with f_i = theta^(-2 i / rotary), i < rotary / 2, computed in double. */
void hlm_cpu_rotation_fill(float *table, int64_t seq_len, int64_t rotary, double theta);

/* Keys and values of one head of a sequence in order of position, ordered [2][seq_len][head_dim],
 * from the gathered kv of ATTENTION_FWD, and back. */
void hlm_cpu_context_load(const struct hlm_op *op, const float *kv, int64_t sequence,
                          int64_t kv_head, float *ordered);
void hlm_cpu_context_store(const struct hlm_op *op, float *kv, int64_t sequence, int64_t kv_head,
                           const float *ordered);

/* A tile of attention scores: `rows` queries against keys 0 .. keys - 1, row-major with distance
 * `stride`. Under causality row i sees its first `seen` + i keys only, else (causal false) all. */
struct hlm_cpu_tile {
    int64_t rows, keys, stride, seen;
    bool causal;
};

/* Replaces the tile's scores by exp(score - the row's maximum), 0 where not seen, and writes per
 * row lse[i] = maximum + log(sum) and scale[i] = 1 / sum. */
void hlm_cpu_softmax_tile(const struct hlm_cpu_tile *tile, float *scores, float *lse, float *scale);

/* Multiplies row i of data [rows, cols] (distance stride) by scale[i]. */
void hlm_cpu_scale_rows(float *data, int64_t rows, int64_t cols, int64_t stride,
                        const float *scale);

/* dots[i] = sum over j of a[i, j] * b[i, j], rows of `cols` with distance stride. */
void hlm_cpu_dot_rows(const float *a, const float *b, int64_t rows, int64_t cols, int64_t stride,
                      float *dots);

/* The gradient of the softmax: dscores = probs * (dprobs - dots[i]) * factor in place of dprobs, 0
 * where not seen. When lse is given, probs holds scores and is first replaced by exp(score -
 * lse[i]), 0 where not seen. probs_stride is the distance of its rows; dprobs has the tile's. */
void hlm_cpu_softmax_grad_tile(const struct hlm_cpu_tile *tile, float *probs, int64_t probs_stride,
                               const float *lse, const float *dots, float factor, float *dprobs);

#endif
