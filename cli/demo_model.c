#include "cli/demo_model.h"

#include <string.h>

#include "cli/demo_text.h"

const struct hlm_model *hlm_demo_model(struct hlm_arena *arena)
{
    struct hlm_model *model = HLM_ARENA_NEW(arena, struct hlm_model);
    *model = (struct hlm_model){.name = "gpt2-demo",
                                .kind = HLM_MODEL_DECODER,
                                .seq_len = HLM_DEMO_SEQ_LEN,
                                .hidden_size = 384,
                                .ffn_size = 1536,
                                .num_layers = 6,
                                .num_heads = 6,
                                .num_kv_heads = 6,
                                .head_dim = 64,
                                .vocab_size = 256,
                                .activation = HLM_ACTIVATION_GELU,
                                .norm = HLM_NORM_LAYERNORM,
                                .norm_placement = HLM_NORM_PLACEMENT_PRE,
                                .norm_eps = 1e-5,
                                .position = HLM_POSITION_LEARNED,
                                .rotary_frac = 1.0,
                                .rope_theta = 10000.0,
                                .bias = {.qkv = true, .out = true, .mlp = true},
                                .tied_embeddings = true,
                                .vocab_pad_multiple = 1,
                                .moe = {.layer_period = 1}};
    hlm_model_complete(model);
    return model;
}

const char *hlm_demo_text(size_t *out_length)
{
    *out_length = strlen(hlm_demo_text_bytes);
    return hlm_demo_text_bytes;
}
