/* block_builder: how the lowering files put a block together.
 *
 * A builder collects tensors, parameters, the operators of the forward, and the gradient operators
 * of the backward; hlm_builder_finish inserts what the backward must compute again and copies all
 * to the arena. A tensor that is not kept between the passes carries the reason in `remake`; the
 * first gradient operator that reads it is preceded by the forward operators that make it (and,
 * recursively, what these read), each at most once. With full recompute nothing but the block's
 * input is kept and the repeated operators stand at the start of the backward in forward order.
 *
 * Only the lowering files use it. Tensor arguments are indices, -1 for "absent".
 */
#ifndef HLM_COSTMODEL_BLOCK_BUILDER_H
#define HLM_COSTMODEL_BLOCK_BUILDER_H

#include "costmodel/lowering.h"

/* Why a forward activation is not kept, as bits, so that a set can say what it drops. */
enum hlm_remake {
    HLM_REMAKE_NEVER = 0,
    HLM_REMAKE_GATHERED = 1, /* sequence-parallel input, gathered again from the kept shard */
    HLM_REMAKE_NORM = 2,
    HLM_REMAKE_ACTIVATION = 4,
    HLM_REMAKE_ATTENTION = 8, /* what fused attention keeps beside its output */
    HLM_REMAKE_PRODUCT = 16   /* of the first product of an MLP */
};

/* What a lowering set does differently. */
struct hlm_lowering_traits {
    unsigned drops[HLM_NUM_RECOMPUTES]; /* bits of enum hlm_remake; FULL drops everything */
    bool keeps_probs;                   /* unfused attention on backend cpu without recompute */
    bool composes_attention; /* unfused attention everywhere, whose probabilities are scratch of it
                              */
    bool overlaps;           /* tp collectives of the backward run beside the GEMM that follows */
    bool repeats_all; /* full recompute also repeats the operators whose results nobody reads */
    bool fp32_logits;
    bool exchanges_counts; /* numbers of rows go ahead of the rows between experts; else they count
                              as known */
    enum hlm_attention_kernel attention_kernel; /* where it is fused */
};

enum {
    HLM_BUILDER_MAX_TENSORS = 320,
    HLM_BUILDER_MAX_PARAMS = 64,
    HLM_BUILDER_MAX_FORWARD = 128,
    HLM_BUILDER_MAX_BACKWARD = 288
};

/* A gradient operator, and a tensor that has to be there already (-1: none): Megatron gathers the
 * saved input of a column-parallel layer beside the GEMM in front of the one that reads it. */
struct hlm_builder_grad_op {
    struct hlm_op op;
    int32_t wanted;
};

struct hlm_builder {
    struct hlm_arena *arena;
    const struct hlm_model *model;
    const struct hlm_strategy *strategy;
    const struct hlm_lowering_input *input;
    const struct hlm_lowering_traits *traits;
    enum hlm_block_kind kind;
    enum hlm_recompute recompute;
    const char *prefix;       /* of parameter names, NULL: none */
    int64_t rows, shard_rows; /* N = b * s / cp; rows of the residual stream on this rank: Ns under
                                 sp, else N */
    int64_t hidden;
    int32_t tp, tp_rank;
    bool sp;
    int32_t num_tensors, num_params, num_forward, num_backward;
    int32_t block_input, block_output, grad_output, grad_input;
    struct hlm_tensor tensors[HLM_BUILDER_MAX_TENSORS];
    unsigned char remake[HLM_BUILDER_MAX_TENSORS];
    int16_t first_writer[HLM_BUILDER_MAX_TENSORS], last_writer[HLM_BUILDER_MAX_TENSORS];
    struct hlm_param params[HLM_BUILDER_MAX_PARAMS];
    struct hlm_op forward[HLM_BUILDER_MAX_FORWARD];
    struct hlm_builder_grad_op backward[HLM_BUILDER_MAX_BACKWARD];
};

void hlm_builder_init(struct hlm_builder *builder, struct hlm_arena *arena,
                      const struct hlm_lowering_input *input,
                      const struct hlm_lowering_traits *traits, enum hlm_block_kind kind,
                      enum hlm_recompute recompute);

/* A new tensor in the strategy's dtype; in another one; a kept or remade activation. */
int32_t hlm_builder_tensor(struct hlm_builder *builder, const char *name, enum hlm_tensor_role role,
                           int64_t rows, int64_t cols);
int32_t hlm_builder_fp32(struct hlm_builder *builder, const char *name, enum hlm_tensor_role role,
                         int64_t rows, int64_t cols);
int32_t hlm_builder_activation(struct hlm_builder *builder, const char *name,
                               enum hlm_remake remake, int64_t rows, int64_t cols);

/* How a parameter is spread over tp (or, experts, over ep). */
enum hlm_spread { HLM_WHOLE, HLM_BY_ROWS, HLM_BY_COLS };

/* Registers a parameter, its gradient, and their tensors; returns the tensor of the values. rows
 * and cols are global. BY_ROWS cuts each of num_parts equal row ranges (gate and up) in tp pieces.
 * Values are normal with deviation 0.02; those with more than one column decay. All of this can be
 * changed through hlm_builder_param. */
int32_t hlm_builder_weight(struct hlm_builder *builder, const char *name, int64_t rows,
                           int64_t cols, enum hlm_spread spread, int32_t num_parts);
/* The same with given row slices of the global parameter (query, key and value heads). */
int32_t hlm_builder_sliced(struct hlm_builder *builder, const char *name, int64_t global_rows,
                           int64_t cols, const struct hlm_param_slice *slices, int32_t num_slices);
/* And with these slices num_repeats times, each repeat_rows further on (experts). */
int32_t hlm_builder_repeated(struct hlm_builder *builder, const char *name, int64_t global_rows,
                             int64_t cols, const struct hlm_param_slice *slices, int32_t num_slices,
                             int32_t num_repeats, int64_t repeat_rows);
/* Values and gradient of a table that another block of this rank owns (tensors with param -1). */
int32_t hlm_builder_shared(struct hlm_builder *builder, const char *name, int64_t rows,
                           int64_t cols);
/* Says that the gradient of a whole parameter comes from this rank's rows only: sum_over_tp under
 * sp. */
void hlm_builder_set_partial(struct hlm_builder *builder, int32_t tensor);
/* The parameter behind a tensor of role PARAM, and the tensor of its gradient (also for tensors
 * without a parameter of this block: the tied table). -1 gives -1. */
struct hlm_param *hlm_builder_param(struct hlm_builder *builder, int32_t tensor);
int32_t hlm_builder_grad(const struct hlm_builder *builder, int32_t tensor);

/* Appends an operator; operands in the order of HLM_OP_MAP by HLM_OPERANDS(...), the rest is
 * absent. The result may be changed until the next append. Collectives need group and stream, which
 * the helpers below set. */
#define HLM_OPERANDS(...) ((const int32_t[HLM_OP_MAX_OPERANDS]){__VA_ARGS__})
struct hlm_op *hlm_builder_forward(struct hlm_builder *builder, enum hlm_op_kind kind, int64_t m,
                                   int64_t n, const int32_t *operands);
struct hlm_op *hlm_builder_backward(struct hlm_builder *builder, enum hlm_op_kind kind, int64_t m,
                                    int64_t n, const int32_t *operands, enum hlm_op_part part);

/* --- pieces that several blocks are made of; shapes as in op.h --- */

/* y[m, n] = x[m, k] w[n, k]^T */
void hlm_builder_gemm(struct hlm_builder *builder, int32_t x, int32_t weight, int32_t y, int64_t m,
                      int64_t n, int64_t k);
/* dx[m, k] = dy[m, n] w[n, k] (part I) */
struct hlm_op *hlm_builder_gemm_input_grad(struct hlm_builder *builder, int32_t dy, int32_t weight,
                                           int32_t dx, int64_t m, int64_t n, int64_t k);
/* dw[n, k] += dy[m, n]^T x[m, k] (part W) */
void hlm_builder_gemm_weight_grad(struct hlm_builder *builder, int32_t dy, int32_t x,
                                  int32_t weight, int64_t m, int64_t n, int64_t k);
/* dbias += column sums of dy; nothing where bias is -1. */
void hlm_builder_bias_grad(struct hlm_builder *builder, int32_t dy, int32_t bias, int64_t m,
                           int64_t n);

/* Marks an operator as a collective of the tp group and gives it its data's dtype. */
struct hlm_op *hlm_builder_tp(struct hlm_builder *builder, struct hlm_op *op);
/* Forward: all rows of a tensor of the residual stream: itself without sp, else gathered over tp
 * (and gathered again in the backward). */
int32_t hlm_builder_gather(struct hlm_builder *builder, int32_t shard, const char *name);
/* Forward: the sum over tp of a partial result [N, cols], this rank's rows of it under sp: in place
 * all-reduce (the same tensor), reduce-scatter, or nothing for tp = 1. */
int32_t hlm_builder_reduce(struct hlm_builder *builder, int32_t partial, const char *name);
/* The same two in the backward. A reduction overlaps what follows where the set does so. */
int32_t hlm_builder_gather_grad(struct hlm_builder *builder, int32_t shard, const char *name);
int32_t hlm_builder_reduce_grad(struct hlm_builder *builder, int32_t partial, const char *name);

/* A column-parallel linear layer: x [shard rows, in] -> y [N, out / tp]. `forward` gathers x under
 * sp; `backward` takes dy and returns dx in shard rows (reduced over tp): I, reduction, W. */
struct hlm_column_linear {
    int32_t weight, bias; /* tensors; the bias is the caller's in the forward */
    int32_t x_full;       /* set by forward */
    int64_t in, out;      /* of this rank */
};
void hlm_builder_column_forward(struct hlm_builder *builder, struct hlm_column_linear *linear,
                                int32_t x, const char *gathered_name, int32_t y);
int32_t hlm_builder_column_backward(struct hlm_builder *builder,
                                    const struct hlm_column_linear *linear, int32_t dy,
                                    const char *name, const char *shard_name);

/* A row-parallel linear layer: x [N, in / tp] -> sum over tp in shard rows, without bias.
 * `backward` also makes the bias gradient from dy's own rows. */
struct hlm_row_linear {
    int32_t weight, bias; /* bias: added later by BIAS_RESIDUAL */
    int32_t x;            /* set by forward */
    int64_t in, out;      /* of this rank */
};
int32_t hlm_builder_row_forward(struct hlm_builder *builder, struct hlm_row_linear *linear,
                                int32_t x, const char *name, const char *shard_name);
int32_t hlm_builder_row_backward(struct hlm_builder *builder, const struct hlm_row_linear *linear,
                                 int32_t dy, const char *gathered_name, const char *name);

/* A norm over `rows` rows of `cols` columns; its parameters are "<name>.weight" and ".bias".
 * partial: the rows are this rank's share under sp. */
struct hlm_norm_layer {
    int32_t weight, bias, x, stats;
    int64_t rows, cols;
};
void hlm_builder_norm_init(struct hlm_builder *builder, struct hlm_norm_layer *norm,
                           const char *weight_name, const char *bias_name, int64_t rows,
                           int64_t cols, bool partial);
struct hlm_op *hlm_builder_norm_forward(struct hlm_builder *builder, struct hlm_norm_layer *norm,
                                        int32_t x, int32_t y, const char *stats_name);
/* dx = [dresidual +] ...; dresidual -1: none. */
struct hlm_op *hlm_builder_norm_backward(struct hlm_builder *builder,
                                         const struct hlm_norm_layer *norm, int32_t dy,
                                         int32_t dresidual, int32_t dx);

/* Inserts recompute, fills flops and bytes, copies to the arena. */
const struct hlm_block *hlm_builder_finish(struct hlm_builder *builder);

#endif
