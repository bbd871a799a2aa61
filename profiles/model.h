/* model: what a transformer is, whoever trains it.
 *
 * Sizes are those of one whole (unsharded) model. A model comes from a built-in name, an hlmplan.model
 * file, or a Hugging Face config.json; hlm_model_load takes any of the three. Invariants
 * (hlm_model_validate): sizes positive, num_heads divisible by num_kv_heads, vit fields set exactly when
 * kind is vit, moe.num_experts 0 or >= top_k, causal attention exactly for decoders.
 *
 * What a layer holds. Two norms (a sequential layer's second stands behind attention; a parallel layer
 * has one for each branch, as GPT-NeoX does), attention, and one MLP or a router with experts. Pre-norm
 * models end in a final norm; post-norm models (bert) have a norm behind the embedding instead. An
 * encoder is trained with a head that is tied to or shaped like its embedding; BERT's pooler and
 * the transform in front of its head are left out. A vit has a patch embedding with bias, a class
 * token, learned positions, and a classifier with bias.
 */
#ifndef HLM_PROFILES_MODEL_H
#define HLM_PROFILES_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/json.h"

#define HLM_MODEL_KIND_MAP(X) X(DECODER, "decoder") X(ENCODER, "encoder") X(VIT, "vit")
#define HLM_ACTIVATION_MAP(X) X(GELU, "gelu") X(SWIGLU, "swiglu")
#define HLM_NORM_MAP(X) X(LAYERNORM, "layernorm") X(RMSNORM, "rmsnorm")
#define HLM_NORM_PLACEMENT_MAP(X) X(PRE, "pre") X(POST, "post")
#define HLM_RESIDUAL_MAP(X) X(SEQUENTIAL, "sequential") X(PARALLEL, "parallel")
#define HLM_POSITION_MAP(X) X(LEARNED, "learned") X(ROPE, "rope") X(NONE, "none")

enum hlm_model_kind {
#define X(name, text) HLM_MODEL_##name,
    HLM_MODEL_KIND_MAP(X)
#undef X
};
enum hlm_activation {
#define X(name, text) HLM_ACTIVATION_##name,
    HLM_ACTIVATION_MAP(X)
#undef X
};
enum hlm_norm {
#define X(name, text) HLM_NORM_##name,
    HLM_NORM_MAP(X)
#undef X
};
enum hlm_norm_placement {
#define X(name, text) HLM_NORM_PLACEMENT_##name,
    HLM_NORM_PLACEMENT_MAP(X)
#undef X
};
enum hlm_residual {
#define X(name, text) HLM_RESIDUAL_##name,
    HLM_RESIDUAL_MAP(X)
#undef X
};
enum hlm_position {
#define X(name, text) HLM_POSITION_##name,
    HLM_POSITION_MAP(X)
#undef X
};

struct hlm_model_bias {
    bool qkv, out, mlp;
};

/* num_experts 0: no expert layer. Layer l (0-based) is an expert layer when l >= num_dense_layers and
 * (l - num_dense_layers) % layer_period == 0. */
struct hlm_model_moe {
    int32_t num_experts, top_k;
    int64_t ffn_size;        /* width of one expert (one branch) */
    int64_t shared_ffn_size; /* total width of the shared experts, 0: none */
    int32_t num_dense_layers, layer_period;
};

/* Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434); q_lora_rank 0: queries not compressed.
 * kv_lora_rank 0: the model has no MLA. */
struct hlm_model_mla {
    int64_t q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
};

struct hlm_model_vit {
    int64_t image_size, patch_size, num_classes, num_channels; /* num_classes 0: not a vit */
};

struct hlm_model {
    const char *name;
    enum hlm_model_kind kind;
    int64_t seq_len; /* longest sequence that it was made for: table size of learned positions, and the
                        default of --seq-len; vit: patches + 1 class token */
    int64_t hidden_size, ffn_size; /* ffn_size: width of one branch (swiglu has gate and up) */
    int32_t num_layers, num_heads, num_kv_heads;
    int64_t head_dim;   /* of queries and keys (values too, without mla); mla: nope + rope */
    int64_t vocab_size; /* vit: 0 */
    enum hlm_activation activation;
    enum hlm_norm norm;
    enum hlm_norm_placement norm_placement;
    double norm_eps;
    enum hlm_residual residual;
    enum hlm_position position;
    double rotary_frac; /* share of head_dim that is rotated; with mla unused (qk_rope_head_dim is) */
    double rope_theta;
    int64_t attention_window; /* tokens each query sees at most, 0: all */
    struct hlm_model_bias bias;
    double dropout;
    bool tied_embeddings;
    int64_t vocab_pad_multiple; /* vocab_size is padded to a multiple of this times tp */
    struct hlm_model_moe moe;
    struct hlm_model_mla mla;
    struct hlm_model_vit vit;
    int32_t mtp_layers; /* multi-token-prediction layers behind the last layer */
    bool qk_norm;       /* norm of each head's query and key (qwen3) */
    int64_t token_types; /* rows of the token-type embedding (bert: 2), 0: none */
};

extern const struct hlm_json_table hlm_model_table; /* kind "model" */

/* Built-in name, path of an hlmplan.model file, or path of a Hugging Face config.json (or of a folder
 * that holds one). HLM_INPUT: neither; the message lists the nearest built-in names. */
HLM_MUST_CHECK enum hlm_status hlm_model_load(struct hlm_arena *arena, const char *name_or_path,
                                              const struct hlm_model **out, struct hlm_err *err);

/* Fills the sizes that a file may leave out (0 in the struct): num_kv_heads = num_heads, head_dim =
 * hidden_size / num_heads (mla: qk_nope_head_dim + qk_rope_head_dim), ffn_size = 4 hidden_size, vit:
 * seq_len = patches + 1 and nothing tied. hlm_model_load and hlm_model_import_hf do it; who reads a model as part of
 * another file calls it before hlm_model_validate. Safe on any values that the field table lets by. */
void hlm_model_complete(struct hlm_model *model);

/* Imports the text of a Hugging Face config.json (profiles/model_hf.c): gpt2, gpt_neox, llama, mistral,
 * mixtral, qwen2, qwen3, qwen3_moe, deepseek_v3, bert, vit. An unknown model_type lists the known ones. */
HLM_MUST_CHECK enum hlm_status hlm_model_import_hf(struct hlm_arena *arena, const char *path,
                                                   const char *text, size_t length,
                                                   const struct hlm_model **out,
                                                   struct hlm_err *err);

/* Checks what the field table can't (relations between fields); `where` names the file. */
HLM_MUST_CHECK enum hlm_status hlm_model_validate(const struct hlm_model *model, const char *where,
                                                  struct hlm_err *err);

/* Built-in models by index: name, NULL behind the last. */
const char *hlm_model_builtin_name(int index);

bool hlm_model_is_moe_layer(const struct hlm_model *model, int32_t layer);
bool hlm_model_is_causal(const struct hlm_model *model);

/* Padded vocabulary for tensor-parallel degree tp. */
int64_t hlm_model_padded_vocab(const struct hlm_model *model, int32_t tp);

/* Number of parameters of the whole model: embedding (token types included), learned positions, all
 * layers, norms, head; tied weights once; vocabulary not padded; multi-token-prediction layers and
 * DeepSeek's correction bias of the router (set by hand, not by a gradient) left out, as papers do.
 * With h hidden, L layers, a heads of dim d, g kv heads, f ffn, V vocabulary, s positions, a layer has
 *   attention   h a d + 2 h g d + a d h                          (+ (a + 2 g) d and h of biases)
 *     with mla  h r_q + r_q a d + h (r_kv + d_rope) + r_kv a (d_nope + d_v) + a d_v h, norms r_q + r_kv
 *   MLP         m h f, m = 2 (gelu) or 3 (swiglu)                (+ (m - 1) f + h of biases)
 *   experts     h E + E m h f_e + m h f_shared
 *   norms       2 h (rmsnorm) or 4 h (layernorm); qk_norm: 2 d more
 * which for GPT is 12 h^2 + 13 h. Exact (every term is a whole number below 2^53). */
double hlm_model_num_params(const struct hlm_model *model);

/* The part of hlm_model_num_params that one token meets: top_k of the num_experts routed experts, and
 * everything else whole, embedding and head included. Equal to num_params without experts. */
double hlm_model_num_active_params(const struct hlm_model *model);

/* Parameters of the multi-token-prediction layers alone (DeepSeek-V3, arXiv 2412.19437, section 2.2):
 * each has a layer like those at the end of the model, two norms, a projection from 2 h to h and a norm
 * in front of the head; embedding and head are the model's. 0 without such layers. */
double hlm_model_num_mtp_params(const struct hlm_model *model);

/* Model FLOPs of one training step per sequence of seq_len tokens: 3 x the forward FLOPs of all matrix
 * products (2 per multiply-add), head included, input embedding not, multi-token-prediction layers with
 * their heads included, vocabulary not padded; recompute is never counted. Attention scores and their
 * product with the values take 2 keys a (d_qk + d_v) per query, where keys is
 *   s           full (causal_half false), or an encoder
 *   s / 2       causal_half
 *   w, w - w^2 / 2 s    the same two with a window of w < s tokens.
 * For GPT and causal_half false this is 72 s L h^2 (1 + s / 6 h + V / 12 h L) (Narayanan et al., SC21,
 * without their recompute term). vit: the patch embedding counts as a product, seq_len - 1 patches; the
 * classifier runs once per image. Both conventions are in use: say which when printing an MFU. */
double hlm_model_flops_per_sequence(const struct hlm_model *model, int64_t seq_len,
                                    bool causal_half);

#endif
