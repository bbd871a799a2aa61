#include "profiles/model.h"

#define X(name, text) text,
static const char *const kind_texts[] = {HLM_MODEL_KIND_MAP(X) NULL};
static const char *const activation_texts[] = {HLM_ACTIVATION_MAP(X) NULL};
static const char *const norm_texts[] = {HLM_NORM_MAP(X) NULL};
static const char *const norm_placement_texts[] = {HLM_NORM_PLACEMENT_MAP(X) NULL};
static const char *const residual_texts[] = {HLM_RESIDUAL_MAP(X) NULL};
static const char *const position_texts[] = {HLM_POSITION_MAP(X) NULL};
#undef X

/* Largest sizes that a file may ask for: beyond any model, and small enough that products of two
 * sizes stay far from overflow. */
#define MAX_SIZE 16777216.0    /* 2^24 */
#define MAX_HIDDEN 4194304.0   /* 2^22: the default of ffn_size is four times that */
#define MAX_COUNT 65536.0      /* 2^16 */
#define MAX_HEAD_DIM 32768.0   /* 2^15: head_dim of mla is a sum of two */
#define MAX_PIXELS 8192.0      /* 2^13 */
#define MAX_TOKENS 268435456.0 /* 2^28: of a sequence, of a vocabulary */
#define MAX_PARAMS 1e15

#define ROW(owner, member, json_type, low, high, default_value, text)                              \
    .name = #member, .type = (json_type), .offset = offsetof(struct owner, member), .min = (low),  \
    .max = (high), .def = (default_value), .doc = (text)
#define INT(owner, member, low, high, default_value, text)                                         \
    ROW(owner, member, HLM_JSON_INT, low, high, default_value, text)
#define INT64(owner, member, low, high, default_value, text)                                       \
    ROW(owner, member, HLM_JSON_INT64, low, high, default_value, text)
#define DOUBLE(member, low, high, default_value, text)                                             \
    ROW(hlm_model, member, HLM_JSON_DOUBLE, low, high, default_value, text)
#define BOOL(owner, member, default_value, text)                                                   \
    ROW(owner, member, HLM_JSON_BOOL, 0, 0, default_value, text)
#define ENUM(member, texts, default_value, text)                                                   \
    ROW(hlm_model, member, HLM_JSON_ENUM, 0, 0, default_value, text), .enums = (texts)
#define OBJECT(member, sub_table, text)                                                            \
    ROW(hlm_model, member, HLM_JSON_OBJECT, 0, 0, 0, text), .table = (sub_table)
#define REQUIRED .flags = HLM_FIELD_REQUIRED
#define OMIT .flags = HLM_FIELD_OMIT_DEFAULT

static const struct hlm_json_field bias_fields[] = {
    {BOOL(hlm_model_bias, qkv, 1, "Bias of the query, key and value projections.")},
    {BOOL(hlm_model_bias, out, 1, "Bias of the projection behind attention.")},
    {BOOL(hlm_model_bias, mlp, 1, "Bias of the MLP's projections, experts included.")},
    {.name = NULL},
};
static const struct hlm_json_table bias_table = {"bias", sizeof(struct hlm_model_bias),
                                                 bias_fields};

static const struct hlm_json_field moe_fields[] = {
    {INT(hlm_model_moe, num_experts, 0, MAX_COUNT, 0,
         "Routed experts of an expert layer; 0: none.")},
    {INT(hlm_model_moe, top_k, 0, MAX_COUNT, 0, "Experts that a token is sent to.")},
    {INT64(hlm_model_moe, ffn_size, 0, MAX_SIZE, 0, "Width of one expert (of one branch).")},
    {INT64(hlm_model_moe, shared_ffn_size, 0, MAX_SIZE, 0,
           "Total width of the shared experts; 0: none.")},
    {INT(hlm_model_moe, num_dense_layers, 0, MAX_COUNT, 0,
         "Layers at the start that have a dense MLP.")},
    {INT(hlm_model_moe, layer_period, 1, MAX_COUNT, 1,
         "Behind those, every layer_period-th layer, the first included, is an expert layer.")},
    {.name = NULL},
};
static const struct hlm_json_table moe_table = {"moe", sizeof(struct hlm_model_moe), moe_fields};

static const struct hlm_json_field mla_fields[] = {
    {INT64(hlm_model_mla, q_lora_rank, 0, MAX_SIZE, 0,
           "Width of the compressed queries; 0: not compressed.")},
    {INT64(hlm_model_mla, kv_lora_rank, 0, MAX_SIZE, 0,
           "Width of the compressed keys and values; 0: no latent attention.")},
    {INT64(hlm_model_mla, qk_nope_head_dim, 0, MAX_HEAD_DIM, 0,
           "Width per head of queries and keys that is not rotated.")},
    {INT64(hlm_model_mla, qk_rope_head_dim, 0, MAX_HEAD_DIM, 0,
           "Width per head of queries, and of the one shared key, that is rotated.")},
    {INT64(hlm_model_mla, v_head_dim, 0, MAX_HEAD_DIM, 0, "Width per head of values.")},
    {.name = NULL},
};
static const struct hlm_json_table mla_table = {"mla", sizeof(struct hlm_model_mla), mla_fields};

static const struct hlm_json_field vit_fields[] = {
    {INT64(hlm_model_vit, image_size, 0, MAX_PIXELS, 0, "Pixels of a side of the square image.")},
    {INT64(hlm_model_vit, patch_size, 0, MAX_PIXELS, 0, "Pixels of a side of a patch.")},
    {INT64(hlm_model_vit, num_classes, 0, MAX_SIZE, 0, "Outputs of the classifier; 0: not a vit.")},
    {INT64(hlm_model_vit, num_channels, 0, MAX_COUNT, 0, "Channels of the image.")},
    {.name = NULL},
};
static const struct hlm_json_table vit_table = {"vit", sizeof(struct hlm_model_vit), vit_fields};

/* The defaults are those of the original GPT models, so that a GPT is a file of six lines. */
static const struct hlm_json_field fields[] = {
    {ROW(hlm_model, name, HLM_JSON_STRING, 0, 0, 0, "What reports call the model."), REQUIRED},
    {ENUM(kind, kind_texts, HLM_MODEL_DECODER,
          "decoder (causal attention), encoder (full attention) or vit (encoder of images).")},
    {INT64(hlm_model, seq_len, 0, MAX_TOKENS, 0,
           "Tokens of a sequence; of learned positions the table size. vit: may be left out.")},
    {INT64(hlm_model, hidden_size, 1, MAX_HIDDEN, 0, "Width of the residual stream."), REQUIRED},
    {INT64(hlm_model, ffn_size, 0, MAX_SIZE, 0,
           "Width of a dense MLP (of one branch of swiglu); 0: 4 hidden_size.")},
    {INT(hlm_model, num_layers, 1, MAX_COUNT, 0, "Transformer layers."), REQUIRED},
    {INT(hlm_model, num_heads, 1, MAX_COUNT, 0, "Query heads."), REQUIRED},
    {INT(hlm_model, num_kv_heads, 0, MAX_COUNT, 0, "Key and value heads; 0: num_heads.")},
    {INT64(hlm_model, head_dim, 0, MAX_COUNT, 0,
           "Width of a query and key head; 0: hidden_size / num_heads.")},
    {INT64(hlm_model, vocab_size, 0, MAX_TOKENS, 0, "Entries of the vocabulary; vit: 0.")},
    {ENUM(activation, activation_texts, HLM_ACTIVATION_GELU, "Nonlinearity of the MLP.")},
    {ENUM(norm, norm_texts, HLM_NORM_LAYERNORM, "Normalization.")},
    {ENUM(norm_placement, norm_placement_texts, HLM_NORM_PLACEMENT_PRE,
          "Norm before each branch (pre) or behind each residual sum (post).")},
    {DOUBLE(norm_eps, 0, 1, 1e-5, "Added to the variance in a norm.")},
    {ENUM(residual, residual_texts, HLM_RESIDUAL_SEQUENTIAL,
          "MLP behind attention (sequential) or beside it (parallel).")},
    {ENUM(position, position_texts, HLM_POSITION_LEARNED, "How positions are encoded.")},
    {DOUBLE(rotary_frac, 0, 1, 1, "rope: share of head_dim that is rotated.")},
    {DOUBLE(rope_theta, 1, 1e12, 1e4, "rope: base of the wavelengths.")},
    {INT64(hlm_model, attention_window, 0, MAX_TOKENS, 0,
           "Tokens that a query sees at most; 0: all.")},
    {OBJECT(bias, &bias_table, "Which projections have a bias.")},
    {DOUBLE(dropout, 0, 1, 0, "Probability of dropout behind each branch and the embedding.")},
    {BOOL(hlm_model, tied_embeddings, 1, "The head uses the embedding's weight.")},
    {INT64(
        hlm_model, vocab_pad_multiple, 1, MAX_SIZE, 128,
        "The vocabulary is padded to a multiple of this times tp (Megatron-LM's default: 128).")},
    {OBJECT(moe, &moe_table, "Mixture of experts."), OMIT},
    {OBJECT(mla, &mla_table, "Multi-head latent attention."), OMIT},
    {OBJECT(vit, &vit_table, "Image input and classifier of a vit."), OMIT},
    {INT(hlm_model, mtp_layers, 0, MAX_COUNT, 0,
         "Multi-token-prediction layers behind the last layer.")},
    {BOOL(hlm_model, qk_norm, 0, "Norm of each head's query and key.")},
    {INT64(hlm_model, token_types, 0, MAX_SIZE, 0, "Rows of the token-type embedding; 0: none.")},
    {.name = NULL},
};

const struct hlm_json_table hlm_model_table = {"model", sizeof(struct hlm_model), fields};

static int64_t num_patches(const struct hlm_model_vit *vit)
{
    const int64_t side = vit->patch_size > 0 ? vit->image_size / vit->patch_size : 0;
    return side * side;
}

void hlm_model_complete(struct hlm_model *model)
{
    if (model->num_kv_heads == 0) {
        model->num_kv_heads = model->num_heads;
    }
    if (model->head_dim == 0 && model->mla.kv_lora_rank > 0) {
        model->head_dim = model->mla.qk_nope_head_dim + model->mla.qk_rope_head_dim;
    }
    if (model->head_dim == 0 && model->num_heads > 0 &&
        model->hidden_size % model->num_heads == 0) {
        model->head_dim = model->hidden_size / model->num_heads;
    }
    if (model->ffn_size == 0) {
        model->ffn_size = 4 * model->hidden_size;
    }
    if (model->seq_len == 0 && model->kind == HLM_MODEL_VIT) {
        model->seq_len = num_patches(&model->vit) + 1;
    }
    if (model->kind == HLM_MODEL_VIT) {
        model->tied_embeddings = false;
    }
}

static enum hlm_status validate_attention(const struct hlm_model *model, const char *where,
                                          struct hlm_err *err)
{
    if (model->head_dim < 1) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.head_dim: hidden_size %lld is not divisible by num_heads %d, so "
                        "head_dim must be given",
                        where, (long long)model->hidden_size, model->num_heads);
    }
    if (model->num_kv_heads < 1 || model->num_heads % model->num_kv_heads != 0) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.num_kv_heads: expected a divisor of num_heads %d, found %d", where,
                        model->num_heads, model->num_kv_heads);
    }
    const double rotated = model->rotary_frac * (double)model->head_dim;
    if (model->position == HLM_POSITION_ROPE && model->mla.kv_lora_rank == 0 && rotated < 2.0) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.rotary_frac: expected at least 2 of %lld values of a head to be "
                        "rotated, found %g",
                        where, (long long)model->head_dim, rotated);
    }
    return HLM_OK;
}

static enum hlm_status validate_mla(const struct hlm_model *model, const char *where,
                                    struct hlm_err *err)
{
    const struct hlm_model_mla *mla = &model->mla;
    if (mla->kv_lora_rank == 0) {
        if (mla->q_lora_rank + mla->qk_nope_head_dim + mla->qk_rope_head_dim + mla->v_head_dim >
            0) {
            return hlm_fail(
                err, HLM_INPUT,
                "%s: $.mla.kv_lora_rank: expected a positive size where other fields of "
                "mla are set, found 0",
                where);
        }
        return HLM_OK;
    }
    if (mla->qk_nope_head_dim < 1 || mla->qk_rope_head_dim < 1 || mla->v_head_dim < 1) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.mla: expected positive qk_nope_head_dim, qk_rope_head_dim and "
                        "v_head_dim, found %lld, %lld and %lld",
                        where, (long long)mla->qk_nope_head_dim, (long long)mla->qk_rope_head_dim,
                        (long long)mla->v_head_dim);
    }
    if (model->head_dim != mla->qk_nope_head_dim + mla->qk_rope_head_dim) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.head_dim: expected mla.qk_nope_head_dim + mla.qk_rope_head_dim = "
                        "%lld, found %lld",
                        where, (long long)(mla->qk_nope_head_dim + mla->qk_rope_head_dim),
                        (long long)model->head_dim);
    }
    if (model->num_kv_heads != model->num_heads || model->position != HLM_POSITION_ROPE) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.mla: expected num_kv_heads equal to num_heads and position rope "
                        "with latent attention",
                        where);
    }
    return HLM_OK;
}

static enum hlm_status validate_moe(const struct hlm_model *model, const char *where,
                                    struct hlm_err *err)
{
    const struct hlm_model_moe *moe = &model->moe;
    if (moe->num_experts == 0) {
        if (moe->top_k > 0 || moe->ffn_size > 0 || moe->shared_ffn_size > 0) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: $.moe.num_experts: expected a positive number where other fields "
                            "of moe are set, found 0",
                            where);
        }
        return HLM_OK;
    }
    if (moe->top_k < 1 || moe->top_k > moe->num_experts) {
        return hlm_fail(err, HLM_INPUT, "%s: $.moe.top_k: expected 1 to num_experts = %d, found %d",
                        where, moe->num_experts, moe->top_k);
    }
    if (moe->ffn_size < 1 || moe->layer_period < 1) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.moe: expected positive ffn_size and layer_period, found %lld and %d",
                        where, (long long)moe->ffn_size, moe->layer_period);
    }
    if (moe->num_dense_layers >= model->num_layers) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.moe.num_dense_layers: expected fewer than num_layers = %d, found %d",
                        where, model->num_layers, moe->num_dense_layers);
    }
    return HLM_OK;
}

static enum hlm_status validate_vit(const struct hlm_model *model, const char *where,
                                    struct hlm_err *err)
{
    const struct hlm_model_vit *vit = &model->vit;
    if (vit->num_classes < 1 || vit->num_channels < 1 || vit->patch_size < 1 ||
        vit->image_size < 1) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.vit: a model of kind vit needs positive image_size, patch_size, "
                        "num_classes and num_channels",
                        where);
    }
    if (vit->image_size % vit->patch_size != 0) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.vit.patch_size: expected a divisor of image_size %lld, found %lld",
                        where, (long long)vit->image_size, (long long)vit->patch_size);
    }
    if (model->seq_len != num_patches(vit) + 1) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.seq_len: expected %lld patches and the class token, %lld in all, "
                        "found %lld",
                        where, (long long)num_patches(vit), (long long)(num_patches(vit) + 1),
                        (long long)model->seq_len);
    }
    if (model->vocab_size != 0 || model->tied_embeddings || model->mtp_layers != 0 ||
        model->token_types != 0) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.kind: a vit has no vocabulary: expected vocab_size, token_types and "
                        "mtp_layers 0 and tied_embeddings false",
                        where);
    }
    return HLM_OK;
}

static enum hlm_status validate_text(const struct hlm_model *model, const char *where,
                                     struct hlm_err *err)
{
    const struct hlm_model_vit *vit = &model->vit;
    if (vit->image_size + vit->patch_size + vit->num_classes + vit->num_channels > 0) {
        return hlm_fail(err, HLM_INPUT, "%s: $.vit: expected only in a model of kind vit", where);
    }
    if (model->vocab_size < 1) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.vocab_size: expected the number of tokens in the vocabulary, found "
                        "%lld",
                        where, (long long)model->vocab_size);
    }
    if (model->mtp_layers > 0 && model->kind != HLM_MODEL_DECODER) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.mtp_layers: expected 0 for an encoder (only a decoder predicts next "
                        "tokens), found %d",
                        where, model->mtp_layers);
    }
    return HLM_OK;
}

enum hlm_status hlm_model_validate(const struct hlm_model *model, const char *where,
                                   struct hlm_err *err)
{
    if (model->hidden_size < 1 || model->num_layers < 1 || model->num_heads < 1 ||
        model->ffn_size < 1) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: expected positive hidden_size, num_layers, num_heads and ffn_size, "
                        "found %lld, %d, %d and %lld",
                        where, (long long)model->hidden_size, model->num_layers, model->num_heads,
                        (long long)model->ffn_size);
    }
    HLM_TRY(validate_mla(model, where, err));
    HLM_TRY(validate_attention(model, where, err));
    HLM_TRY(validate_moe(model, where, err));
    if (model->kind == HLM_MODEL_VIT) {
        HLM_TRY(validate_vit(model, where, err));
    } else {
        HLM_TRY(validate_text(model, where, err));
    }
    if (model->seq_len < 1) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.seq_len: expected the number of tokens of a sequence, found %lld",
                        where, (long long)model->seq_len);
    }
    const double num_params = hlm_model_num_params(model) + hlm_model_num_mtp_params(model);
    if (num_params > MAX_PARAMS) {
        return hlm_fail(err, HLM_INPUT, "%s: expected at most %g parameters, found %g", where,
                        MAX_PARAMS, num_params);
    }
    return HLM_OK;
}

bool hlm_model_is_moe_layer(const struct hlm_model *model, int32_t layer)
{
    const struct hlm_model_moe *moe = &model->moe;
    return moe->num_experts > 0 && layer >= moe->num_dense_layers &&
           (layer - moe->num_dense_layers) % moe->layer_period == 0;
}

bool hlm_model_is_causal(const struct hlm_model *model)
{
    return model->kind == HLM_MODEL_DECODER;
}

int64_t hlm_model_padded_vocab(const struct hlm_model *model, int32_t tp)
{
    const int64_t multiple = model->vocab_pad_multiple * tp;
    return (model->vocab_size + multiple - 1) / multiple * multiple;
}
