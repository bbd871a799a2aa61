#include "profiles/model_hf_table.h"

#define FIELD(key_name, member)                                                                    \
    {                                                                                              \
        key_name, HLM_HF_FIELD, offsetof(struct hlm_model, member)                                 \
    }
#define CHECK(key_name, key_kind)                                                                  \
    {                                                                                              \
        key_name, key_kind, 0                                                                      \
    }
#define END                                                                                        \
    {                                                                                              \
        NULL, HLM_HF_FIELD, 0                                                                      \
    }

static const struct hlm_hf_key gpt2_keys[] = {
    FIELD("n_positions", seq_len),
    FIELD("n_embd", hidden_size),
    FIELD("n_inner", ffn_size),
    FIELD("n_layer", num_layers),
    FIELD("n_head", num_heads),
    FIELD("vocab_size", vocab_size),
    CHECK("activation_function", HLM_HF_ACTIVATION),
    FIELD("layer_norm_epsilon", norm_eps),
    FIELD("resid_pdrop", dropout),
    FIELD("tie_word_embeddings", tied_embeddings),
    CHECK("add_cross_attention", HLM_HF_FALSE),
    END,
};

/* The names that all younger classes share. */
#define COMMON_KEYS                                                                                \
    FIELD("hidden_size", hidden_size), FIELD("intermediate_size", ffn_size),                       \
        FIELD("num_hidden_layers", num_layers), FIELD("num_attention_heads", num_heads),           \
        CHECK("hidden_act", HLM_HF_ACTIVATION)
#define TEXT_KEYS                                                                                  \
    COMMON_KEYS, FIELD("max_position_embeddings", seq_len), FIELD("vocab_size", vocab_size),       \
        FIELD("tie_word_embeddings", tied_embeddings)
#define LLAMA_KEYS                                                                                 \
    TEXT_KEYS, FIELD("rms_norm_eps", norm_eps), FIELD("rope_theta", rope_theta),                   \
        FIELD("rope_parameters.rope_theta", rope_theta)
#define GROUPED_KEYS                                                                               \
    LLAMA_KEYS, FIELD("num_key_value_heads", num_kv_heads), FIELD("head_dim", head_dim)

static const struct hlm_hf_key gpt_neox_keys[] = {
    TEXT_KEYS,
    FIELD("layer_norm_eps", norm_eps),
    FIELD("rotary_pct", rotary_frac),
    FIELD("rotary_emb_base", rope_theta),
    FIELD("rope_theta", rope_theta),
    FIELD("rope_parameters.rope_theta", rope_theta),
    FIELD("rope_parameters.partial_rotary_factor", rotary_frac),
    FIELD("hidden_dropout", dropout),
    CHECK("use_parallel_residual", HLM_HF_PARALLEL),
    CHECK("attention_bias", HLM_HF_BIAS),
    END,
};
static const struct hlm_hf_key llama_keys[] = {
    GROUPED_KEYS,
    CHECK("attention_bias", HLM_HF_BIAS),
    FIELD("mlp_bias", bias.mlp),
    END,
};
static const struct hlm_hf_key mistral_keys[] = {
    GROUPED_KEYS,
    FIELD("sliding_window", attention_window),
    END,
};
static const struct hlm_hf_key mixtral_keys[] = {
    GROUPED_KEYS,
    FIELD("sliding_window", attention_window),
    FIELD("intermediate_size", moe.ffn_size),
    FIELD("num_local_experts", moe.num_experts),
    FIELD("num_experts_per_tok", moe.top_k),
    END,
};
/* Qwen's windows are for the upper layers only. */
static const struct hlm_hf_key qwen2_keys[] = {
    GROUPED_KEYS,
    CHECK("use_sliding_window", HLM_HF_FALSE),
    END,
};
static const struct hlm_hf_key qwen3_keys[] = {
    GROUPED_KEYS,
    CHECK("use_sliding_window", HLM_HF_FALSE),
    CHECK("attention_bias", HLM_HF_BIAS),
    END,
};
static const struct hlm_hf_key qwen3_moe_keys[] = {
    GROUPED_KEYS,
    CHECK("use_sliding_window", HLM_HF_FALSE),
    CHECK("attention_bias", HLM_HF_BIAS),
    CHECK("mlp_only_layers", HLM_HF_EMPTY),
    FIELD("num_experts", moe.num_experts),
    FIELD("num_local_experts", moe.num_experts),
    FIELD("num_experts_per_tok", moe.top_k),
    FIELD("moe_intermediate_size", moe.ffn_size),
    FIELD("decoder_sparse_step", moe.layer_period),
    END,
};
/* num_key_value_heads and head_dim say nothing with latent attention (files disagree on them). */
static const struct hlm_hf_key deepseek_v3_keys[] = {
    LLAMA_KEYS,
    CHECK("attention_bias", HLM_HF_BIAS),
    FIELD("n_routed_experts", moe.num_experts),
    FIELD("num_experts_per_tok", moe.top_k),
    FIELD("moe_intermediate_size", moe.ffn_size),
    FIELD("n_shared_experts", moe.shared_ffn_size),
    FIELD("first_k_dense_replace", moe.num_dense_layers),
    FIELD("moe_layer_freq", moe.layer_period),
    FIELD("q_lora_rank", mla.q_lora_rank),
    FIELD("kv_lora_rank", mla.kv_lora_rank),
    FIELD("qk_nope_head_dim", mla.qk_nope_head_dim),
    FIELD("qk_rope_head_dim", mla.qk_rope_head_dim),
    FIELD("v_head_dim", mla.v_head_dim),
    FIELD("num_nextn_predict_layers", mtp_layers),
    END,
};
static const struct hlm_hf_key bert_keys[] = {
    TEXT_KEYS,
    FIELD("layer_norm_eps", norm_eps),
    FIELD("hidden_dropout_prob", dropout),
    FIELD("type_vocab_size", token_types),
    CHECK("position_embedding_type", HLM_HF_ABSOLUTE),
    CHECK("is_decoder", HLM_HF_FALSE),
    CHECK("add_cross_attention", HLM_HF_FALSE),
    END,
};
static const struct hlm_hf_key vit_keys[] = {
    COMMON_KEYS,
    FIELD("layer_norm_eps", norm_eps),
    FIELD("hidden_dropout_prob", dropout),
    FIELD("qkv_bias", bias.qkv),
    FIELD("image_size", vit.image_size),
    FIELD("patch_size", vit.patch_size),
    FIELD("num_channels", vit.num_channels),
    FIELD("num_labels", vit.num_classes),
    CHECK("id2label", HLM_HF_LABELS),
    END,
};

/* Layer l has experts when (l + 1) % decoder_sparse_step == 0. */
static enum hlm_status finish_qwen3_moe(struct hlm_model *model, const char *where,
                                        struct hlm_err *err)
{
    if (model->moe.layer_period < 1) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.decoder_sparse_step: expected a positive number, found null", where);
    }
    model->moe.num_dense_layers = model->moe.layer_period - 1;
    return HLM_OK;
}

/* The key counts shared experts of the routed experts' width. Layer l has experts when
 * l % moe_layer_freq == 0 among those from first_k_dense_replace on, which is our rule for 1 only.
 */
static enum hlm_status finish_deepseek_v3(struct hlm_model *model, const char *where,
                                          struct hlm_err *err)
{
    enum { MAX_SHARED = 1 << 24 };
    struct hlm_model_moe *moe = &model->moe;
    if (moe->layer_period != 1) {
        return hlm_fail(err, HLM_INPUT, "%s: $.moe_layer_freq: expected 1, found %d", where,
                        moe->layer_period);
    }
    if (moe->shared_ffn_size * moe->ffn_size > MAX_SHARED) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.n_shared_experts: expected shared experts of at most %d in all, "
                        "found %lld of width %lld",
                        where, MAX_SHARED, (long long)moe->shared_ffn_size,
                        (long long)moe->ffn_size);
    }
    moe->shared_ffn_size *= moe->ffn_size;
    return HLM_OK;
}

#define GPT_STYLE(eps, rotated)                                                                    \
    .norm_eps = (eps), .rotary_frac = (rotated), .rope_theta = 1e4, .bias = {true, true, true},    \
    .vocab_pad_multiple = 128, .moe.layer_period = 1
#define LLAMA_STYLE(eps, theta)                                                                    \
    .activation = HLM_ACTIVATION_SWIGLU, .norm = HLM_NORM_RMSNORM, .norm_eps = (eps),              \
    .position = HLM_POSITION_ROPE, .rotary_frac = 1.0, .rope_theta = (theta),                      \
    .vocab_pad_multiple = 128
#define DENSE .moe.layer_period = 1
#define SIZES(seq, hidden, ffn, layers, heads, kv_heads, dim, vocab)                               \
    .seq_len = (seq), .hidden_size = (hidden), .ffn_size = (ffn), .num_layers = (layers),          \
    .num_heads = (heads), .num_kv_heads = (kv_heads), .head_dim = (dim), .vocab_size = (vocab)

const struct hlm_hf_architecture hlm_hf_architectures[] = {
    {.model_type = "gpt2",
     .base = {SIZES(1024, 768, 0, 12, 12, 0, 0, 50257), GPT_STYLE(1e-5, 1.0), .dropout = 0.1,
              .tied_embeddings = true},
     .keys = gpt2_keys},
    {.model_type = "gpt_neox",
     .base = {SIZES(2048, 6144, 24576, 44, 64, 0, 0, 50432), GPT_STYLE(1e-5, 0.25),
              .residual = HLM_RESIDUAL_PARALLEL, .position = HLM_POSITION_ROPE},
     .keys = gpt_neox_keys},
    {.model_type = "llama",
     .base = {SIZES(2048, 4096, 11008, 32, 32, 0, 0, 32000), LLAMA_STYLE(1e-6, 1e4), DENSE},
     .keys = llama_keys},
    {.model_type = "mistral",
     .base = {SIZES(131072, 4096, 14336, 32, 32, 8, 0, 32000), LLAMA_STYLE(1e-6, 1e4), DENSE,
              .attention_window = 4096},
     .keys = mistral_keys},
    {.model_type = "mixtral",
     .base = {SIZES(131072, 4096, 14336, 32, 32, 8, 0, 32000), LLAMA_STYLE(1e-5, 1e6),
              .moe = {.num_experts = 8, .top_k = 2, .ffn_size = 14336, .layer_period = 1}},
     .keys = mixtral_keys},
    {.model_type = "qwen2",
     .base = {SIZES(32768, 4096, 22016, 32, 32, 32, 0, 151936), LLAMA_STYLE(1e-6, 1e4), DENSE,
              .bias = {.qkv = true}},
     .keys = qwen2_keys},
    {.model_type = "qwen3",
     .base = {SIZES(32768, 4096, 22016, 32, 32, 32, 128, 151936), LLAMA_STYLE(1e-6, 1e4), DENSE,
              .qk_norm = true},
     .keys = qwen3_keys},
    {.model_type = "qwen3_moe",
     .base = {SIZES(32768, 2048, 6144, 24, 32, 4, 0, 151936), LLAMA_STYLE(1e-6, 1e4),
              .moe = {.num_experts = 128, .top_k = 8, .ffn_size = 768, .layer_period = 1},
              .qk_norm = true},
     .keys = qwen3_moe_keys,
     .finish = finish_qwen3_moe},
    {.model_type = "deepseek_v3",
     .base = {SIZES(4096, 7168, 18432, 61, 128, 0, 0, 129280), LLAMA_STYLE(1e-6, 1e4),
              .moe = {.num_experts = 256,
                      .top_k = 8,
                      .ffn_size = 2048,
                      .shared_ffn_size = 1, /* times ffn_size, in finish */
                      .num_dense_layers = 3,
                      .layer_period = 1},
              .mla = {.q_lora_rank = 1536,
                      .kv_lora_rank = 512,
                      .qk_nope_head_dim = 128,
                      .qk_rope_head_dim = 64,
                      .v_head_dim = 128}},
     .keys = deepseek_v3_keys,
     .finish = finish_deepseek_v3},
    {.model_type = "bert",
     .base = {SIZES(512, 768, 3072, 12, 12, 0, 0, 30522), GPT_STYLE(1e-12, 1.0),
              .kind = HLM_MODEL_ENCODER, .norm_placement = HLM_NORM_PLACEMENT_POST, .dropout = 0.1,
              .tied_embeddings = true, .token_types = 2},
     .keys = bert_keys},
    {.model_type = "vit",
     .base = {SIZES(0, 768, 3072, 12, 12, 0, 0, 0), GPT_STYLE(1e-12, 1.0), .kind = HLM_MODEL_VIT,
              .vit = {.image_size = 224, .patch_size = 16, .num_classes = 2, .num_channels = 3}},
     .keys = vit_keys},
    {.model_type = NULL},
};
