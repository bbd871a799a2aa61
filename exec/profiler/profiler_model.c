#include "exec/profiler/profiler_model.h"

const char *const hlm_profiler_family_texts[] = {
#define X(name, text) text,
    HLM_PROFILER_FAMILY_MAP(X)
#undef X
        NULL};

struct family {
    enum hlm_model_kind kind;
    enum hlm_activation activation;
    enum hlm_norm norm;
    enum hlm_norm_placement placement;
    enum hlm_position position;
    bool biased, tied;
    int64_t token_types;
};
static const struct family families[] = {
    [HLM_PROFILER_GPT] = {HLM_MODEL_DECODER, HLM_ACTIVATION_GELU, HLM_NORM_LAYERNORM,
                          HLM_NORM_PLACEMENT_PRE, HLM_POSITION_LEARNED, true, true, 0},
    [HLM_PROFILER_LLAMA] = {HLM_MODEL_DECODER, HLM_ACTIVATION_SWIGLU, HLM_NORM_RMSNORM,
                            HLM_NORM_PLACEMENT_PRE, HLM_POSITION_ROPE, false, false, 0},
    [HLM_PROFILER_BERT] = {HLM_MODEL_ENCODER, HLM_ACTIVATION_GELU, HLM_NORM_LAYERNORM,
                           HLM_NORM_PLACEMENT_POST, HLM_POSITION_LEARNED, true, true, 2},
    [HLM_PROFILER_VIT] = {HLM_MODEL_VIT, HLM_ACTIVATION_GELU, HLM_NORM_LAYERNORM,
                          HLM_NORM_PLACEMENT_PRE, HLM_POSITION_LEARNED, true, false, 0},
};

struct hlm_model hlm_profiler_model(const struct hlm_profiler_sizes *sizes)
{
    const struct family *family = &families[sizes->family];
    const bool image = family->kind == HLM_MODEL_VIT;
    struct hlm_model model = {
        .name = hlm_profiler_family_texts[sizes->family],
        .kind = family->kind,
        .seq_len = image ? 0 : sizes->seq_len, /* 0: by the image */
        .hidden_size = sizes->hidden,
        .ffn_size = (family->activation == HLM_ACTIVATION_SWIGLU ? 2 : 4) * sizes->hidden,
        .num_layers = sizes->layers,
        .num_heads = sizes->heads,
        .vocab_size = image ? 0 : sizes->vocab,
        .activation = family->activation,
        .norm = family->norm,
        .norm_placement = family->placement,
        .norm_eps = 1e-5,
        .position = family->position,
        .rotary_frac = 1.0,
        .rope_theta = 1e4,
        .bias = {family->biased, family->biased, family->biased},
        .tied_embeddings = family->tied,
        .vocab_pad_multiple = 1,
        .token_types = family->token_types,
    };
    if (image) {
        model.vit = (struct hlm_model_vit){64, 8, sizes->vocab, 3};
    }
    hlm_model_complete(&model);
    return model;
}

struct hlm_strategy hlm_profiler_strategy_of(const struct hlm_profiler_sizes *sizes,
                                             const struct hlm_model *model, enum hlm_dtype dtype)
{
    struct hlm_strategy strategy = {.dp = 1,
                                    .tp = 1,
                                    .pp = 1,
                                    .microbatch_size = sizes->microbatch_size,
                                    .num_microbatches = 1,
                                    .global_batch_size = sizes->microbatch_size,
                                    .seq_len = model->seq_len,
                                    .dtype = dtype,
                                    .grad_dtype = HLM_DTYPE_FP32,
                                    .master_dtype = HLM_DTYPE_FP32};
    hlm_strategy_complete(&strategy);
    return strategy;
}
