#include "costmodel/lowering_blocks.h"

/* Tables are no weights of matrix products. */
static int32_t table(struct hlm_builder *builder, const char *name, int64_t rows,
                     enum hlm_spread spread)
{
    const int32_t tensor = hlm_builder_weight(builder, name, rows, builder->hidden, spread, 1);
    hlm_builder_param(builder, tensor)->decay = false;
    return tensor;
}

static int64_t first_shard_row(const struct hlm_builder *builder)
{
    return builder->sp ? builder->tp_rank * builder->shard_rows : 0;
}

struct text_embedding {
    int32_t tokens, token, position, token_type;
    bool has_norm;
    struct hlm_norm_layer norm;
};

static void text_init(struct hlm_builder *builder, struct text_embedding *text)
{
    const struct hlm_model *model = builder->model;
    const bool learned = model->position == HLM_POSITION_LEARNED;
    text->tokens = hlm_builder_fp32(builder, "tokens", HLM_TENSOR_TOKENS, builder->rows, 1);
    text->token = table(builder, "token", hlm_model_padded_vocab(model, builder->tp), HLM_BY_ROWS);
    text->position = learned ? table(builder, "position", model->seq_len, HLM_WHOLE) : -1;
    text->token_type =
        model->token_types > 0 ? table(builder, "token_type", model->token_types, HLM_WHOLE) : -1;
    hlm_builder_set_partial(builder, text->position);
    hlm_builder_set_partial(builder, text->token_type);
    text->has_norm = model->norm_placement == HLM_NORM_PLACEMENT_POST;
    if (text->has_norm) {
        hlm_builder_norm_init(builder, &text->norm, "norm.weight", "norm.bias", builder->shard_rows,
                              builder->hidden, true);
    }
}

static void set_vocabulary(const struct hlm_builder *builder, int32_t token, struct hlm_op *op)
{
    op->k = builder->tensors[token].rows;
    op->first_row = builder->tp_rank * op->k;
}

static void text_forward(struct hlm_builder *builder, const struct text_embedding *text,
                         int32_t sum)
{
    const int64_t rows = builder->rows, hidden = builder->hidden;
    const int32_t partial =
        builder->sp ? hlm_builder_activation(builder, "partial", HLM_REMAKE_NEVER, rows, hidden)
                    : sum;
    set_vocabulary(builder, text->token,
                   hlm_builder_forward(builder, HLM_OP_EMBED_FWD, rows, hidden,
                                       HLM_OPERANDS(text->tokens, text->token, partial)));
    if (builder->sp) {
        hlm_builder_tp(builder, hlm_builder_forward(builder, HLM_OP_REDUCE_SCATTER, rows, hidden,
                                                    HLM_OPERANDS(partial, sum)));
    } else if (builder->tp > 1) {
        hlm_builder_tp(builder, hlm_builder_forward(builder, HLM_OP_ALL_REDUCE, rows, hidden,
                                                    HLM_OPERANDS(sum)));
    }
    if (text->position >= 0) {
        hlm_builder_forward(builder, HLM_OP_POSITION_FWD, builder->shard_rows, hidden,
                            HLM_OPERANDS(text->position, text->token_type, sum))
            ->first_row = first_shard_row(builder);
    }
}

static void text_backward(struct hlm_builder *builder, const struct text_embedding *text,
                          int32_t dsum)
{
    const int64_t rows = builder->rows, hidden = builder->hidden;
    if (text->position >= 0) {
        hlm_builder_backward(builder, HLM_OP_POSITION_BWD, builder->shard_rows, hidden,
                             HLM_OPERANDS(dsum, hlm_builder_grad(builder, text->position),
                                          hlm_builder_grad(builder, text->token_type)),
                             HLM_PART_WEIGHT_GRAD)
            ->first_row = first_shard_row(builder);
    }
    const int32_t dfull = hlm_builder_gather_grad(builder, dsum, "dsum_full");
    set_vocabulary(builder, text->token,
                   hlm_builder_backward(
                       builder, HLM_OP_EMBED_BWD, rows, hidden,
                       HLM_OPERANDS(text->tokens, dfull, hlm_builder_grad(builder, text->token)),
                       HLM_PART_WEIGHT_GRAD));
}

static void lower_text(struct hlm_builder *builder)
{
    const int64_t rows = builder->shard_rows, hidden = builder->hidden;
    struct text_embedding text;
    text_init(builder, &text);
    if (!text.has_norm) {
        text_forward(builder, &text, builder->block_output);
        text_backward(builder, &text, builder->grad_output);
        return;
    }
    const int32_t sum = hlm_builder_activation(builder, "sum", HLM_REMAKE_NEVER, rows, hidden);
    text_forward(builder, &text, sum);
    hlm_builder_norm_forward(builder, &text.norm, sum, builder->block_output, "stats");
    const int32_t dsum = hlm_builder_tensor(builder, "dsum", HLM_TENSOR_ACTIVATION, rows, hidden);
    hlm_builder_norm_backward(builder, &text.norm, builder->grad_output, -1, dsum);
    text_backward(builder, &text, dsum);
}

/* Patches, class token and positions are computed for all rows on every tp rank: they are few, and
 * cutting them would leave the class tokens to one rank. */
struct image_embedding {
    int32_t patch_rows, patches; /* pixels by patch, and their projections */
    int32_t weight, bias, class_token, position;
    int64_t num_rows, patch_cols;
};

static void image_init(struct hlm_builder *builder, struct image_embedding *image)
{
    const struct hlm_model *model = builder->model;
    const struct hlm_model_vit *vit = &model->vit;
    const int64_t hidden = builder->hidden;
    image->num_rows = builder->strategy->microbatch_size * (builder->strategy->seq_len - 1);
    image->patch_cols = vit->num_channels * vit->patch_size * vit->patch_size;
    image->weight =
        hlm_builder_weight(builder, "patch.weight", hidden, image->patch_cols, HLM_WHOLE, 1);
    image->bias = hlm_builder_weight(builder, "patch.bias", hidden, 1, HLM_WHOLE, 1);
    image->class_token = hlm_builder_weight(builder, "class", hidden, 1, HLM_WHOLE, 1);
    image->position = table(builder, "position", model->seq_len, HLM_WHOLE);
}

static void image_forward(struct hlm_builder *builder, struct image_embedding *image)
{
    const struct hlm_model_vit *vit = &builder->model->vit;
    const int64_t batch = builder->strategy->microbatch_size, hidden = builder->hidden;
    const int64_t rows = image->num_rows, cols = image->patch_cols;
    const int32_t pixels =
        hlm_builder_tensor(builder, "pixels", HLM_TENSOR_PIXELS, batch,
                           vit->num_channels * vit->image_size * vit->image_size);
    image->patch_rows = hlm_builder_activation(builder, "patch_rows", HLM_REMAKE_NEVER, rows, cols);
    hlm_builder_forward(builder, HLM_OP_PATCHIFY, rows, cols,
                        HLM_OPERANDS(pixels, image->patch_rows))
        ->k = vit->patch_size;
    image->patches = hlm_builder_activation(builder, "patches", HLM_REMAKE_NEVER, rows, hidden);
    hlm_builder_gemm(builder, image->patch_rows, image->weight, image->patches, rows, hidden, cols);
    hlm_builder_forward(builder, HLM_OP_BIAS_ADD, rows, hidden,
                        HLM_OPERANDS(image->bias, image->patches));
    const int32_t all = builder->sp ? hlm_builder_activation(builder, "all_rows", HLM_REMAKE_NEVER,
                                                             builder->rows, hidden)
                                    : builder->block_output;
    hlm_builder_forward(builder, HLM_OP_PATCH_ASSEMBLE_FWD, builder->rows, hidden,
                        HLM_OPERANDS(image->patches, image->class_token, image->position, all));
    if (builder->sp) {
        hlm_builder_forward(builder, HLM_OP_SLICE_ROWS, builder->shard_rows, hidden,
                            HLM_OPERANDS(all, builder->block_output))
            ->first_row = first_shard_row(builder);
    }
}

static void image_backward(struct hlm_builder *builder, const struct image_embedding *image)
{
    const int64_t rows = image->num_rows, hidden = builder->hidden;
    const int32_t dall = hlm_builder_gather_grad(builder, builder->grad_output, "dall_rows");
    const int32_t dpatches =
        hlm_builder_tensor(builder, "dpatches", HLM_TENSOR_ACTIVATION, rows, hidden);
    hlm_builder_backward(builder, HLM_OP_PATCH_ASSEMBLE_BWD, builder->rows, hidden,
                         HLM_OPERANDS(dall, dpatches, hlm_builder_grad(builder, image->class_token),
                                      hlm_builder_grad(builder, image->position)),
                         HLM_PART_WEIGHT_GRAD);
    hlm_builder_bias_grad(builder, dpatches, image->bias, rows, hidden);
    hlm_builder_gemm_weight_grad(builder, dpatches, image->patch_rows, image->weight, rows, hidden,
                                 image->patch_cols);
}

void hlm_lower_embedding(struct hlm_builder *builder)
{
    const int64_t rows = builder->shard_rows, hidden = builder->hidden;
    builder->block_output = hlm_builder_tensor(builder, "y", HLM_TENSOR_OUTPUT, rows, hidden);
    builder->grad_output = hlm_builder_tensor(builder, "dy", HLM_TENSOR_GRAD_OUTPUT, rows, hidden);
    if (builder->model->kind == HLM_MODEL_VIT) {
        struct image_embedding image;
        image_init(builder, &image);
        image_forward(builder, &image);
        image_backward(builder, &image);
    } else {
        lower_text(builder);
    }
}
