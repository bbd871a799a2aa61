#include <math.h>

#include "profiles/model.h"

/* Weights of one part of a layer: elements of matrices (each costs 2 FLOPs a token), and elements
 * of biases and norms. */
struct weights {
    double matrices, vectors;
};

static struct weights add(struct weights a, struct weights b, double times)
{
    return (struct weights){a.matrices + times * b.matrices, a.vectors + times * b.vectors};
}

static double norm_size(const struct hlm_model *model, int64_t width)
{
    return (model->norm == HLM_NORM_LAYERNORM ? 2.0 : 1.0) * (double)width;
}

static struct weights mla_weights(const struct hlm_model *model)
{
    const struct hlm_model_mla *mla = &model->mla;
    const double hidden = (double)model->hidden_size, heads = model->num_heads;
    const double query = heads * (double)(mla->qk_nope_head_dim + mla->qk_rope_head_dim);
    const double value = heads * (double)mla->v_head_dim;
    const double q_rank = (double)mla->q_lora_rank, kv_rank = (double)mla->kv_lora_rank;
    const double kv_down = kv_rank + (double)mla->qk_rope_head_dim;
    const double kv_up = heads * (double)(mla->qk_nope_head_dim + mla->v_head_dim);
    struct weights sum = {
        hidden * kv_down + kv_rank * kv_up + value * hidden,
        norm_size(model, mla->kv_lora_rank) + (model->bias.qkv ? kv_down : 0.0) +
            (model->bias.out ? hidden : 0.0),
    };
    if (mla->q_lora_rank == 0) {
        sum.matrices += hidden * query;
        return sum;
    }
    sum.matrices += hidden * q_rank + q_rank * query;
    sum.vectors += norm_size(model, mla->q_lora_rank) + (model->bias.qkv ? q_rank : 0.0);
    return sum;
}

static struct weights attention_weights(const struct hlm_model *model)
{
    if (model->mla.kv_lora_rank > 0) {
        return mla_weights(model);
    }
    const double hidden = (double)model->hidden_size, dim = (double)model->head_dim;
    const double query = model->num_heads * dim, key_value = 2.0 * model->num_kv_heads * dim;
    return (struct weights){
        hidden * (query + key_value) + query * hidden,
        (model->bias.qkv ? query + key_value : 0.0) + (model->bias.out ? hidden : 0.0) +
            (model->qk_norm ? 2.0 * norm_size(model, model->head_dim) : 0.0),
    };
}

static struct weights mlp_weights(const struct hlm_model *model, int64_t ffn_size)
{
    const double up = (model->activation == HLM_ACTIVATION_SWIGLU ? 2.0 : 1.0) * (double)ffn_size;
    const double hidden = (double)model->hidden_size;
    return (struct weights){
        hidden * up + hidden * (double)ffn_size,
        model->bias.mlp ? up + hidden : 0.0,
    };
}

/* num_experts of the layer's experts; the router scores all of them in any case. */
static struct weights layer_weights(const struct hlm_model *model, int32_t layer,
                                    int32_t num_experts)
{
    struct weights sum = attention_weights(model);
    sum.vectors += 2.0 * norm_size(model, model->hidden_size);
    if (!hlm_model_is_moe_layer(model, layer)) {
        return add(sum, mlp_weights(model, model->ffn_size), 1.0);
    }
    const struct hlm_model_moe *moe = &model->moe;
    sum.matrices += (double)model->hidden_size * moe->num_experts;
    if (moe->shared_ffn_size > 0) {
        sum = add(sum, mlp_weights(model, moe->shared_ffn_size), 1.0);
    }
    return add(sum, mlp_weights(model, moe->ffn_size), num_experts);
}

static struct weights layers_weights(const struct hlm_model *model, int32_t num_experts)
{
    struct weights sum = {0};
    for (int32_t layer = 0; layer < model->num_layers; layer++) {
        sum = add(sum, layer_weights(model, layer, num_experts), 1.0);
    }
    return sum;
}

static struct weights mtp_layer_weights(const struct hlm_model *model, int32_t num_experts)
{
    const double hidden = (double)model->hidden_size;
    const struct weights around = {2.0 * hidden * hidden,
                                   3.0 * norm_size(model, model->hidden_size)};
    return add(layer_weights(model, model->num_layers, num_experts), around, 1.0);
}

static double input_params(const struct hlm_model *model)
{
    const struct hlm_model_vit *vit = &model->vit;
    const double hidden = (double)model->hidden_size;
    double sum = hidden * (double)(model->vocab_size + model->token_types);
    if (model->kind == HLM_MODEL_VIT) {
        const double pixels = (double)(vit->num_channels * vit->patch_size * vit->patch_size);
        sum += hidden * pixels + hidden + hidden; /* bias, class token */
    }
    if (model->position == HLM_POSITION_LEARNED) {
        sum += hidden * (double)model->seq_len;
    }
    return sum;
}

/* One norm stands outside of the layers: the final one, or with post-norm the embedding's. */
static double output_params(const struct hlm_model *model)
{
    const double hidden = (double)model->hidden_size;
    double sum = norm_size(model, model->hidden_size);
    if (model->kind == HLM_MODEL_VIT) {
        sum += (hidden + 1.0) * (double)model->vit.num_classes;
    } else if (!model->tied_embeddings) {
        sum += hidden * (double)model->vocab_size;
    }
    return sum;
}

static double params_with_experts(const struct hlm_model *model, int32_t num_experts)
{
    const struct weights layers = layers_weights(model, num_experts);
    return input_params(model) + layers.matrices + layers.vectors + output_params(model);
}

double hlm_model_num_params(const struct hlm_model *model)
{
    return params_with_experts(model, model->moe.num_experts);
}

double hlm_model_num_active_params(const struct hlm_model *model)
{
    return params_with_experts(model, model->moe.top_k);
}

double hlm_model_num_mtp_params(const struct hlm_model *model)
{
    const struct weights layer = mtp_layer_weights(model, model->moe.num_experts);
    return model->mtp_layers * (layer.matrices + layer.vectors);
}

/* Keys that a query meets on average. */
static double mean_keys(const struct hlm_model *model, double tokens, bool causal_half)
{
    const double window =
        model->attention_window > 0 ? fmin((double)model->attention_window, tokens) : tokens;
    if (causal_half && hlm_model_is_causal(model)) {
        return window - window * window / (2.0 * tokens);
    }
    return window;
}

/* Multiply-adds per query and key, all heads of a layer: scores and their product with the values.
 */
static double attention_width(const struct hlm_model *model)
{
    const int64_t value_dim = model->mla.kv_lora_rank > 0 ? model->mla.v_head_dim : model->head_dim;
    return (double)model->num_heads * (double)(model->head_dim + value_dim);
}

double hlm_model_flops_per_sequence(const struct hlm_model *model, int64_t seq_len,
                                    bool causal_half)
{
    const double tokens = (double)seq_len, hidden = (double)model->hidden_size;
    const double passes = model->num_layers + model->mtp_layers;
    double products = tokens * layers_weights(model, model->moe.top_k).matrices;
    products += tokens * model->mtp_layers * mtp_layer_weights(model, model->moe.top_k).matrices;
    products += tokens * passes * mean_keys(model, tokens, causal_half) * attention_width(model);
    if (model->kind == HLM_MODEL_VIT) {
        const struct hlm_model_vit *vit = &model->vit;
        const double pixels = (double)(vit->num_channels * vit->patch_size * vit->patch_size);
        products += (tokens - 1.0) * hidden * pixels + hidden * (double)vit->num_classes;
    } else {
        products += tokens * hidden * (double)model->vocab_size * (1.0 + model->mtp_layers);
    }
    return 6.0 * products;
}
