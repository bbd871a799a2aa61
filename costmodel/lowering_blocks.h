/* lowering_blocks: the parts of a transformer as sequences of builder calls.
 *
 * Each part is three calls: `init` registers its parameters (in the order in which they are named
 * in the model), `forward` takes the tensor it reads and returns the one it makes, `backward` takes
 * the gradient of that and returns the gradient of what was read. The struct carries tensor indices
 * from one to the next. Rows are those of the residual stream on this rank (shard rows) at every
 * boundary; results are already summed over tp, biases of the last projection are not yet added.
 */
#ifndef HLM_COSTMODEL_LOWERING_BLOCKS_H
#define HLM_COSTMODEL_LOWERING_BLOCKS_H

#include "costmodel/block_builder.h"

/* Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): queries and keys/values pass through
 * narrow latents. The down projections are whole on every tp rank and work on shard rows, as in
 * Megatron-Core; the shared rotary key is not counted in collectives. Priced only. */
struct hlm_latent {
    int32_t x, q_down, q_down_bias, kv_down, kv_down_bias;
    struct hlm_norm_layer q_norm, kv_norm;
    struct hlm_column_linear q_up, kv_up;
    int32_t q, kv, kv_latent;
};

struct hlm_attention {
    int32_t heads, kv_heads; /* of this rank */
    int64_t head_dim, v_head_dim, qkv_cols, out_cols;
    struct hlm_column_linear qkv;
    struct hlm_norm_layer q_norm, k_norm; /* qk_norm */
    struct hlm_latent latent;             /* where the model has MLA, instead of qkv */
    struct hlm_row_linear out;
    int32_t raw, joined, context, lse,
        probs; /* joined: rotated q, k, v heads; raw: before qk_norm */
    /* What the operator reads and writes: joined and context, but with ulysses all positions of
     * some heads. kv: gathered keys and values, -1: none. */
    int32_t attended, mixed, kv;
};
void hlm_attention_init(struct hlm_builder *builder, struct hlm_attention *attention);
int32_t hlm_attention_forward(struct hlm_builder *builder, struct hlm_attention *attention,
                              int32_t x);
int32_t hlm_attention_backward(struct hlm_builder *builder, const struct hlm_attention *attention,
                               int32_t dy);

void hlm_attention_set_heads(const struct hlm_builder *builder,
                             const struct hlm_attention *attention, struct hlm_op *op);

/* Context parallelism. The core is what the attention operator works on: with ulysses all positions
 * of some heads, else this rank's positions of all of them. */
struct hlm_attention_core {
    int32_t heads, kv_heads, context_ranks;
    int64_t rows, own_len, qkv_cols, out_cols; /* own_len: positions of a sequence */
};
struct hlm_attention_core hlm_context_core(const struct hlm_builder *builder,
                                           const struct hlm_attention *attention);
/* In front of attention: from joined sets attended and kv. Behind it: mixed -> context. */
void hlm_context_enter(struct hlm_builder *builder, struct hlm_attention *attention);
int32_t hlm_context_leave(struct hlm_builder *builder, const struct hlm_attention *attention);
/* The same backwards: dcontext -> dmixed; a place for the gradient of kv (-1: none); dattended and
 * dkv -> dqkv. */
int32_t hlm_context_leave_backward(struct hlm_builder *builder,
                                   const struct hlm_attention *attention, int32_t dcontext);
int32_t hlm_context_key_grads(struct hlm_builder *builder, const struct hlm_attention *attention);
int32_t hlm_context_enter_backward(struct hlm_builder *builder,
                                   const struct hlm_attention *attention, int32_t dattended,
                                   int32_t dkv);

void hlm_latent_init(struct hlm_builder *builder, struct hlm_attention *attention);
void hlm_latent_forward(struct hlm_builder *builder, struct hlm_attention *attention, int32_t x);
int32_t hlm_latent_backward(struct hlm_builder *builder, const struct hlm_attention *attention,
                            int32_t dqkv);

struct hlm_mlp_names {
    const char *fc1_weight, *fc1_bias, *fc2_weight, *fc2_bias;
};
struct hlm_mlp {
    struct hlm_column_linear fc1;
    struct hlm_row_linear fc2;
    int32_t hidden; /* before the activation */
};
void hlm_mlp_init(struct hlm_builder *builder, struct hlm_mlp *mlp,
                  const struct hlm_mlp_names *names, int64_t ffn_size);
int32_t hlm_mlp_forward(struct hlm_builder *builder, struct hlm_mlp *mlp, int32_t x);
int32_t hlm_mlp_backward(struct hlm_builder *builder, const struct hlm_mlp *mlp, int32_t dy);

/* Router, experts and shared expert; `forward` returns their sum without the residual. Expert
 * biases are left out. A row per choice goes to the rank of its expert and comes back; the numbers
 * of rows go ahead. Rows at the experts lie by rank that sent them, then expert; with etp those of
 * each of its ranks in a part of their own. */
struct hlm_moe {
    int64_t top_k, sent_rows;  /* a row per choice */
    int64_t room, expert_rows; /* for the rows that come, and for those at the experts (etp) */
    int64_t ffn_size;          /* of one expert on this rank */
    int32_t num_experts;       /* of this rank */
    int32_t router, fc1, fc2;
    bool has_shared;
    struct hlm_mlp shared;
    int32_t x, scores, weights, choice, counts, inputs, hidden, active, outputs, returned;
    int32_t received; /* numbers of rows that came, [ep ranks * num_experts]; without ep: counts */
    int32_t present;  /* those at the experts, [parts * ep ranks * num_experts] */
    int32_t parts;    /* etp, where the numbers are exchanged */
};
void hlm_moe_init(struct hlm_builder *builder, struct hlm_moe *moe);
int32_t hlm_moe_forward(struct hlm_builder *builder, struct hlm_moe *moe, int32_t x);
int32_t hlm_moe_backward(struct hlm_builder *builder, const struct hlm_moe *moe, int32_t dy);

/* A whole layer from x to y, dense or with experts, whatever its norms and residuals. y and dx are
 * the caller's tensors. */
struct hlm_layer {
    bool has_experts;
    struct hlm_norm_layer norm1, norm2;
    struct hlm_attention attention;
    struct hlm_mlp mlp;
    struct hlm_moe moe;
};
void hlm_layer_init(struct hlm_builder *builder, struct hlm_layer *layer, bool has_experts);
void hlm_layer_forward(struct hlm_builder *builder, struct hlm_layer *layer, int32_t x, int32_t y);
void hlm_layer_backward(struct hlm_builder *builder, const struct hlm_layer *layer, int32_t dy,
                        int32_t dx);

/* Vocabulary-parallel logits and their cross-entropy: x in shard rows -> loss; the logits end as
 * their gradient, which `backward` reads. */
struct hlm_logits {
    struct hlm_column_linear linear;
    int32_t targets, loss, logits;
};
void hlm_logits_forward(struct hlm_builder *builder, struct hlm_logits *logits, int32_t x);
int32_t hlm_logits_backward(struct hlm_builder *builder, const struct hlm_logits *logits);

/* Multi-token prediction (DeepSeek-V3, arXiv 2412.19437): one more layer behind the last, which
 * reads the last layer's output and the embedding of the next token, and predicts the one after it
 * with the same final weight. The two halves of its input projection are two products here, whole
 * on every tp rank. Priced only. `backward` returns the gradient of x. */
struct hlm_mtp {
    struct hlm_norm_layer norm_hidden, norm_token, norm_out;
    struct hlm_layer layer;
    struct hlm_logits logits;
    int32_t tokens, table, proj_hidden, proj_token;
    int32_t hidden, embedded; /* what the two products read */
};
void hlm_mtp_init(struct hlm_builder *builder, struct hlm_mtp *mtp);
void hlm_mtp_forward(struct hlm_builder *builder, struct hlm_mtp *mtp,
                     const struct hlm_logits *logits, int32_t x);
int32_t hlm_mtp_backward(struct hlm_builder *builder, const struct hlm_mtp *mtp);

/* The blocks: fill a builder from hlm_builder_init to just before hlm_builder_finish. */
void hlm_lower_layer(struct hlm_builder *builder);
void hlm_lower_embedding(struct hlm_builder *builder);
void hlm_lower_head(struct hlm_builder *builder);

#endif
