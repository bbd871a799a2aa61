/* op: the operator list, the one description of what a piece of a transformer does.
 *
 * A *block* is the embedding, one layer, or the head, under one strategy on one rank: its tensors
 * and the operators of its forward and its backward, collectives included. The cost model prices
 * the operators, the memory model sums the tensors (costmodel/memory.h), the profiler measures the
 * operators, the executor launches them. Nothing else in the program knows what a layer is.
 *
 * Legend: b microbatch_size, s seq_len, N = b * s rows of a whole microbatch (row = sequence * s +
 * position; with cp a rank has N = b * s / cp of them, as costmodel/context.h says), Ns = N / tp
 * rows of a shard under sequence parallelism (rank r of the tp group holds rows r * Ns ...), h
 * hidden_size, a heads, g kv heads, d head_dim, f ffn_size, V padded vocabulary, t = tp. All
 * tensors are row-major. Weights are stored [out, in].
 *
 * Invariants (hlm_block_check): operand indices in range; every activation is written before it is
 * read (in the forward, or by the backward itself); a backward writes GRAD_INPUT unless the block
 * is an embedding; shapes of operands agree with m, n, k; flops and bytes are those of the shapes;
 * no operator writes what it must only read (parameters, the block's input, GRAD_OUTPUT, data), and
 * only operands marked '+' are read and written by the same operator (inputs and outputs never
 * alias).
 *
 * Shapes that the list of kinds does not spell out: tokens and targets are [rows, 1], pixels are
 * [b, channels * image * image], vectors (weights of norms, biases, class) are [n, 1], the loss is
 * [1, 1]. Kinds marked "priced only" have no kernel in our executor (hlm_lowering_refusal).
 */
#ifndef HLM_COSTMODEL_OP_H
#define HLM_COSTMODEL_OP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "costmodel/context.h"
#include "costmodel/strategy.h"
#include "profiles/device.h"
#include "profiles/model.h"

/* X(constant, text, operands in order; '<' read, '>' written, '+' accumulated into (read and
 * written)). Operands in [] may be absent (index -1). Dimensions used: m, n, k and the fields of
 * hlm_op. */
#define HLM_OP_MAP(X)                                                                              \
    /* token embedding: out[m,n] = rows of table [k,n] of this vocabulary shard that starts at     \
       first_row; a token outside the shard gives a zero row (BWD: no gradient) */                 \
    X(EMBED_FWD, "embed_fwd", "<tokens <table >out")                                               \
    X(EMBED_BWD, "embed_bwd", "<tokens <dout +dtable")                                             \
    /* out[i,:] += table[position of row first_row + i,:] (+ type[0,:]), in place; m rows, n       \
       columns; the table may have more than s rows */                                             \
    X(POSITION_FWD, "position_fwd", "<table [<type] +out")                                         \
    X(POSITION_BWD, "position_bwd", "<dout +dtable [+dtype]")                                      \
    /* pixels of b images [b, channels, image, image] to patch rows [m = b * patches, n = channels \
       * patch^2], order (channel, y, x) inside a patch; k = patch size; batch = b; patches a row  \
       of the image: sqrt(m / b) */                                                                \
    X(PATCHIFY, "patchify", "<pixels >out")                                                        \
    /* class token and positions: out[m = b * s, n] from patches [b * (s - 1), n]: row 0 of a      \
       sequence is the class token, every row adds its row of position. BWD writes dpatches and    \
       adds the sums over sequences to dclass [n,1] and dposition [s,n] */                         \
    X(PATCH_ASSEMBLE_FWD, "patch_assemble_fwd", "<patches <class <position >out")                  \
    X(PATCH_ASSEMBLE_BWD, "patch_assemble_bwd", "<dout >dpatches +dclass +dposition")              \
    /* layernorm or rmsnorm over n columns of m rows; stats fp32 [m,2] (mean, rstd) or [m,1]       \
       (rstd). head_dim > 0 (priced only): a norm of a part of wider rows (query and key heads,    \
       latents) */                                                                                 \
    X(NORM_FWD, "norm_fwd", "<in <weight [<bias] >out >stats")                                     \
    /* din = [dresidual +] gradient through the norm; dweight and dbias accumulate */              \
    X(NORM_BWD, "norm_bwd", "<dout <in <weight <stats [<dresidual] >din +dweight [+dbias]")        \
    /* c[m,n] = a * b (+ c when accumulate), by layout: TN a[m,k] b[n,k]; NN a[m,k] b[k,n];        \
       NT a[k,m] b[k,n]. c has its tensor's dtype (fp32 gradients beside bf16 operands) */         \
    X(GEMM, "gemm", "<a <b +c")                                                                    \
    /* in place: out[m,n] += bias[n] */                                                            \
    X(BIAS_ADD, "bias_add", "<bias +out")                                                          \
    /* dbias[n] += column sums of d[m,n] */                                                        \
    X(BIAS_GRAD, "bias_grad", "<d +dbias")                                                         \
    /* rotates the first rotary columns of each q and k head of qkv [m, (heads + 2 kv_heads) *     \
       head_dim] in place (half-split pairs (i, i + rotary / 2), angle position *                  \
       rope_theta^(-2i/rotary)); BWD rotates back */                                               \
    X(ROPE_FWD, "rope_fwd", "+qkv")                                                                \
    X(ROPE_BWD, "rope_bwd", "+dqkv")                                                               \
    /* softmax(q k^T / sqrt(d)) v per sequence and head; a row of qkv holds q heads, k heads, v    \
       heads; query head i reads kv head i / (heads / kv_heads); m = b * s rows, n = heads *       \
       v_head_dim columns of out; lse fp32 [b * heads, s] log-sum-exp of the scaled scores (row b  \
       * heads + head); probs [b * heads * s, s] when kept (0 above the diagonal of causal         \
       attention). With context_ranks > 1 queries, lse and probs are of the s / context_ranks      \
       positions of this rank. Its keys and values are then those of kv [context_ranks * m,        \
       kv_heads * (d + d_v)]: the rows of KV_SPLIT of rank 0, then of rank 1, ...; BWD writes what \
       these queries add to the gradient of all of them to dkv, and 0 to their columns of dqkv.    \
       Without kv they pass round the group (priced only) */                                       \
    X(ATTENTION_FWD, "attention_fwd", "<qkv >out >lse [>probs] [<kv]")                             \
    X(ATTENTION_BWD, "attention_bwd", "<qkv <out <dout <lse [<probs] >dqkv [<kv] [>dkv]")          \
    /* kv [m,n]: the k heads, then the v heads of each row of qkv; JOIN puts them back */          \
    X(KV_SPLIT, "kv_split", "<qkv >kv")                                                            \
    X(KV_JOIN, "kv_join", "<kv +qkv")                                                              \
    /* columns in k parts (of heads), one below the other, and back (priced only): [m, k * n] to   \
       [k * m, n] */                                                                               \
    X(HEADS_SPLIT, "heads_split", "<in >out")                                                      \
    X(HEADS_JOIN, "heads_join", "<in >out")                                                        \
    /* gelu (tanh form): out[m,n] = gelu(in[m,n] + bias); swiglu: in is [m, 2n] (gate, up),        \
       without bias, out = silu(gate) * up */                                                      \
    X(ACTIVATION_FWD, "activation_fwd", "<in [<bias] >out")                                        \
    X(ACTIVATION_BWD, "activation_bwd", "<in [<bias] <dout >din")                                  \
    /* out = in + bias + residual */                                                               \
    X(BIAS_RESIDUAL, "bias_residual", "<in [<bias] <residual >out")                                \
    /* out = a + b */                                                                              \
    X(ADD, "add", "<a <b >out")                                                                    \
    /* out [m = b, n] = rows 0, s, 2 s, ... of in [b * s, n] (class tokens); BWD writes zero       \
     * elsewhere */                                                                                \
    X(SELECT_FWD, "select_fwd", "<in >out")                                                        \
    X(SELECT_BWD, "select_bwd", "<dout >din")                                                      \
    /* out [m,n] = rows first_row .. first_row + m of in (this rank's shard under sp) */           \
    X(SLICE_ROWS, "slice_rows", "<in >out")                                                        \
    /* vocabulary-parallel cross-entropy over logits [m,n], of which valid_cols are real, columns  \
       first_row ... of the vocabulary; a target < 0 is ignored. MAX: maxima [m]. SUM: sums [2,    \
       m]: sum of exp(logit - max), and the target's logit - max (0 outside this shard). GRAD:     \
       adds the sum over rows of (log(sum) - target logit) * loss_scale to loss[0] (only where     \
       counts_loss) and replaces logits by their gradient * loss_scale */                          \
    X(XENT_MAX, "xent_max", "<logits >max")                                                        \
    X(XENT_SUM, "xent_sum", "<logits <targets <max >sums")                                         \
    X(XENT_GRAD, "xent_grad", "<targets <max <sums +logits +loss")                                 \
    /* multi-head latent attention (priced only): rotates and joins q [m, heads * head_dim], kv    \
       and the shared rotary key (last columns of latent) to qkv; BWD takes them apart */          \
    X(MLA_ASSEMBLE_FWD, "mla_assemble_fwd", "<q <kv <latent >qkv")                                 \
    X(MLA_ASSEMBLE_BWD, "mla_assemble_bwd", "<dqkv >dq >dkv >dlatent")                             \
    /* mixture of experts. ROUTE: the top_k = n largest of the k scores of each of m rows (equal   \
       ones by lower expert), or where `balanced` the experts ((first_row + row) * n + j) % k;     \
       weights: softmax over the chosen scores, which is what renormalising a softmax over all of  \
       them gives (Mixtral, Qwen3-MoE); choice, and counts [k,1] of the rows that each expert      \
       gets. BWD: dscores, 0 where not chosen. PERMUTE: a row per choice, sorted by expert, those  \
       of one expert in order of row: out [m = rows * top_k, n] from in [k,n]; as the backward of  \
       UNPERMUTE also scaled by weights, with the gradient of these from the rows that UNPERMUTE   \
       read. UNPERMUTE: (weighted) sum back to out [m, n] from k rows in all. Both: choices among  \
       num_experts. GROUPED_GEMM over num_experts of this rank: b is [num_experts * n, k] (TN) or  \
       [num_experts * k, n] (NN), NT: c is [num_experts * m, n]. counts [expert_ranks *            \
       num_experts, 1]: rows by rank that sent them, then expert, one behind the other in that     \
       order among the m (NT: k) rows that there is room for; what is behind them is not touched.  \
       EXPERT_ACTIVATION: ACTIVATION without bias of as many of the m rows as counts add up to.    \
       Both: expert_parts equal parts of the rows, each with room for those of as many ranks */    \
    X(ROUTE_FWD, "route_fwd", "<scores >weights >choice >counts")                                  \
    X(ROUTE_BWD, "route_bwd", "<weights <choice <dweights >dscores")                               \
    X(PERMUTE, "permute", "<in <choice [<weights] [<outputs] >out [>dweights]")                    \
    X(UNPERMUTE, "unpermute", "<in <choice [<weights] >out")                                       \
    X(GROUPED_GEMM, "grouped_gemm", "<a <b +c <counts")                                            \
    X(EXPERT_ACTIVATION_FWD, "expert_activation_fwd", "<in <counts >out")                          \
    X(EXPERT_ACTIVATION_BWD, "expert_activation_bwd", "<in <counts <dout >din")                    \
    /* collectives over `group`; m * n elements of dtype, the whole buffer as nccl-tests counts    \
       it: ALL_REDUCE in place; ALL_GATHER in [m / ranks, n] out [m, n]; REDUCE_SCATTER in [m, n]  \
       out [m / ranks, n]; rank i of the group holds rows i * m / ranks ... */                     \
    X(ALL_REDUCE, "all_reduce", "+data")                                                           \
    X(ALL_REDUCE_MAX, "all_reduce_max", "+data")                                                   \
    X(ALL_GATHER, "all_gather", "<in >out")                                                        \
    X(REDUCE_SCATTER, "reduce_scatter", "<in >out")                                                \
    /* without counts: equal parts of m rows, the i-th to the i-th rank of the group. With them:   \
       between experts, k copies of each row are among the m; sent and received [ranks *           \
       num_experts, 1] hold how many rows go to and come from each rank, by its experts; in and    \
       out have room for num_in and num_out rows, and more than that is an error */                \
    X(ALL_TO_ALL, "all_to_all", "<in >out [<sent] [<received]")                                    \
    /* the optimizer's part of a step, over slabs of m elements */                                 \
    X(FILL_ZERO, "fill_zero", ">data")                                                             \
    X(SUM_SQUARES, "sum_squares", "<data +sum")                                                    \
    X(ADAMW, "adamw", "<grad +param +exp_avg +exp_avg_sq [+master]")

enum hlm_op_kind {
#define X(name, text, operands) HLM_OP_##name,
    HLM_OP_MAP(X)
#undef X
        HLM_NUM_OPS
};
extern const char *const hlm_op_texts[];
extern const char *const hlm_op_operand_texts[]; /* third column of HLM_OP_MAP */

enum { HLM_OP_MAX_OPERANDS = 8 };

#define HLM_STREAM_MAP(X)                                                                          \
    X(COMPUTE, "compute") X(TP, "tp") X(DP, "dp") X(PP, "pp") X(EP, "ep") X(CP, "cp")
enum hlm_stream {
#define X(name, text) HLM_STREAM_##name,
    HLM_STREAM_MAP(X)
#undef X
        HLM_NUM_STREAMS
};
extern const char *const hlm_stream_texts[];

/* Groups of ranks that communicate. DP: all ranks with the same dense parameters, dp * cp of them:
 * replicas, and the ranks that share a replica's sequences. EMBEDDING: first and last stage of one
 * (dp, tp) position, for tied embeddings; MODEL: tp * pp ranks of one replica; WORLD: all. */
#define HLM_GROUP_MAP(X)                                                                           \
    X(NONE, "none")                                                                                \
    X(TP, "tp")                                                                                    \
    X(DP, "dp")                                                                                    \
    X(PP, "pp")                                                                                    \
    X(CP, "cp")                                                                                    \
    X(EP, "ep") X(EDP, "edp") X(EMBEDDING, "embedding") X(MODEL, "model") X(WORLD, "world")
enum hlm_group {
#define X(name, text) HLM_GROUP_##name,
    HLM_GROUP_MAP(X)
#undef X
        HLM_NUM_GROUPS
};
extern const char *const hlm_group_texts[];

/* Which half of a backward an operator belongs to: I gives the gradient of the input, W those of
 * the weights. A full backward B runs all in list order. A repeated forward operator (recompute)
 * belongs to W when only W reads what it makes, else to I. FORWARD: operators of the forward list.
 */
enum hlm_op_part { HLM_PART_FORWARD, HLM_PART_INPUT_GRAD, HLM_PART_WEIGHT_GRAD };

struct hlm_op {
    enum hlm_op_kind kind;
    enum hlm_stream stream;
    enum hlm_group group; /* collectives */
    enum hlm_op_part part;
    bool recompute;  /* a forward operator repeated in the backward */
    bool accumulate; /* GEMM: adds to c */
    bool causal, counts_loss;
    /* Runs beside what follows until an operator reads its result (priced as exposed time beyond
     * that), e.g. Megatron's input-gradient all-reduce behind the weight gradient. */
    bool overlaps_next;
    enum hlm_gemm_layout layout;
    enum hlm_dtype dtype;
    int32_t
        operands[HLM_OP_MAX_OPERANDS]; /* tensor indices in the order of HLM_OP_MAP, -1: absent */
    int64_t m, n, k;
    int32_t batch; /* sequences */
    int64_t seq_len;
    int32_t heads, kv_heads;              /* of this rank */
    int64_t head_dim, v_head_dim, rotary; /* v_head_dim differs from head_dim with MLA only */
    double rope_theta;
    int64_t window; /* attention window, 0: none */
    /* Ranks that share a sequence (costmodel/context.h): attention has 1 / context_ranks of its
     * queries, evenly loaded. 1, or 0 (op made without a strategy): all on this rank. */
    int32_t context_ranks, context_rank, context_chunks;
    enum hlm_attention_kernel attention_kernel;
    int64_t first_row, valid_cols;
    int32_t num_experts, expert_ranks;
    int32_t expert_parts;    /* of the rows at experts; 0: one */
    bool balanced;           /* ROUTE_FWD */
    int64_t num_in, num_out; /* ALL_TO_ALL with counts */
    enum hlm_norm norm;
    enum hlm_activation activation;
    double eps;
    double flops; /* hlm_op_flops */
    double bytes; /* hlm_op_bytes */
};

#define HLM_TENSOR_ROLE_MAP(X)                                                                     \
    X(INPUT, "input")                                                                              \
    X(OUTPUT, "output")                                                                            \
    X(GRAD_OUTPUT, "grad_output")                                                                  \
    X(GRAD_INPUT, "grad_input")                                                                    \
    X(PARAM, "param")                                                                              \
    X(GRAD, "grad")                                                                                \
    X(ACTIVATION, "activation")                                                                    \
    X(TOKENS, "tokens") X(TARGETS, "targets") X(PIXELS, "pixels") X(LOSS, "loss")
enum hlm_tensor_role {
#define X(name, text) HLM_TENSOR_##name,
    HLM_TENSOR_ROLE_MAP(X)
#undef X
};
extern const char *const hlm_tensor_role_texts[];

/* Tokens, targets, expert choices and counts are int32 (dtype says fp32: four bytes); stats, lse,
 * maxima, sums and losses fp32; the rest as hlm_dtype_storage says of the strategy's dtype; GRAD in
 * grad_dtype. Products have the strategy's dtype, all other operators that of their tensors. */
struct hlm_tensor {
    const char *name;
    enum hlm_tensor_role role;
    enum hlm_dtype dtype;
    int64_t rows, cols;
    int32_t param; /* index of the block's parameter for PARAM and GRAD, else -1 */
};

/* How this rank's [rows, cols] shard lies in the global [global_rows, global_cols] parameter: up to
 * three row slices (q, k, v heads; gate and up) of one column range [global_col, global_col +
 * cols); of experts the same slices of every one, repeat_rows further on each time. Initial value
 * of element i (row-major index in the global tensor): init_mean + init_std * normal_i. The
 * vocabulary is padded: global_rows of token, weight and bias of the head count the padding too.
 * The name has no layer index: hlm_param_global_name. */
struct hlm_param_slice {
    int64_t global_row, num_rows;
};
struct hlm_param {
    const char *name;
    int64_t rows, cols, global_rows, global_cols, global_col;
    struct hlm_param_slice slices[3];
    int32_t num_slices;
    int64_t repeat_rows; /* 0: the slices are all rows */
    double init_mean, init_std;
    bool decay;      /* weight decay applies: weights of matrix products, the tied table excepted */
    bool replicated; /* whole on every tp rank: the gradient norm counts it on tp rank 0 only */
    bool sum_over_tp; /* replicated, but each tp rank has the gradient of its own rows (sp): summed
                         over tp once per step */
    bool tied;   /* the token embedding's second copy on the last stage (pp > 1): the same values,
                    and gradients summed with those of the first stage's */
    bool expert; /* sharded over ep; data parallel over edp */
    int32_t param, grad; /* tensor indices */
};

#define HLM_BLOCK_MAP(X) X(EMBEDDING, "embedding") X(DENSE, "dense") X(MOE, "moe") X(HEAD, "head")
enum hlm_block_kind {
#define X(name, text) HLM_BLOCK_##name,
    HLM_BLOCK_MAP(X)
#undef X
        HLM_NUM_BLOCKS
};
extern const char *const hlm_block_texts[];

struct hlm_block {
    enum hlm_block_kind kind;
    enum hlm_recompute recompute;
    const struct hlm_tensor *tensors;
    int32_t num_tensors;
    const struct hlm_param *params;
    int32_t num_params;
    const struct hlm_op *forward, *backward;
    int32_t num_forward, num_backward;
    int32_t input, output, grad_output, grad_input; /* tensor indices, -1: none */
    int64_t activation_rows; /* rows of input and output on this rank: Ns under sp, else N */
};

/* Bytes of one tensor. */
double hlm_tensor_bytes(const struct hlm_tensor *tensor);

/* The name of a parameter in the whole model, which also keys its initial values: "embed.<name>",
 * "layer.<layer>.<name>", "head.<name>"; "embed.token" for the tied second copy. */
const char *hlm_param_global_name(struct hlm_arena *arena, enum hlm_block_kind kind, int32_t layer,
                                  const struct hlm_param *param);

/* The row of the global parameter that this rank's row `row` is. */
int64_t hlm_param_global_row(const struct hlm_param *param, int64_t row);

/* Multiply and add counted as two, matrix products only: GEMM 2 m n k; attention forward 2 (d +
 * d_v) per score and head, backward twice that plus the scores again (2 d) where probabilities are
 * not kept. Scores per sequence: s^2, half of it when causal, w s - w^2 / 2 with a causal window w
 * < s. Others: 0. */
double hlm_op_flops(const struct hlm_op *op);

/* Least memory traffic: every operand read once and written once (in-place operands both), of
 * tables only the rows that are used; collectives: m * n elements of dtype. tensors: the block's.
 */
double hlm_op_bytes(const struct hlm_op *op, const struct hlm_tensor *tensors);

/* Number of operands of a kind, and whether operand i is read / written (from HLM_OP_MAP; c of a
 * GEMM is read only where it accumulates). Absent operands are neither. */
int32_t hlm_op_num_operands(enum hlm_op_kind kind);
bool hlm_op_reads(const struct hlm_op *op, int32_t operand);
bool hlm_op_writes(const struct hlm_op *op, int32_t operand);
bool hlm_op_is_collective(enum hlm_op_kind kind);

/* How the ranks of the cp group share the sequences of an operator's rows (one rank has all where
 * context_ranks is 0), and the position of row `row` of this rank's N rows in its sequence. */
struct hlm_context hlm_op_context(const struct hlm_op *op);
int64_t hlm_op_position(const struct hlm_op *op, int64_t row);

/* Whether attention reads keys and values that were gathered over the cp group. */
bool hlm_op_gathers_context(const struct hlm_op *op);

/* Asserts the invariants above. */
void hlm_block_check(const struct hlm_block *block);

#endif
