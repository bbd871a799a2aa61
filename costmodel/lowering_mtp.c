#include "costmodel/lowering_blocks.h"

static int32_t stream(struct hlm_builder *builder, const char *name)
{
    return hlm_builder_activation(builder, name, HLM_REMAKE_NEVER, builder->shard_rows,
                                  builder->hidden);
}

static int32_t projection(struct hlm_builder *builder, const char *name)
{
    const int32_t weight =
        hlm_builder_weight(builder, name, builder->hidden, builder->hidden, HLM_WHOLE, 1);
    hlm_builder_set_partial(builder, weight);
    return weight;
}

/* Behind the first stage the table is one more copy of the embedding. */
static int32_t token_table(struct hlm_builder *builder)
{
    const int64_t vocab = hlm_model_padded_vocab(builder->model, builder->tp);
    if (builder->strategy->pp == 1 || builder->model->tied_embeddings) {
        return hlm_builder_shared(builder, "token", vocab / builder->tp, builder->hidden);
    }
    const int32_t table =
        hlm_builder_weight(builder, "token", vocab, builder->hidden, HLM_BY_ROWS, 1);
    hlm_builder_param(builder, table)->tied = true;
    hlm_builder_param(builder, table)->decay = false;
    return table;
}

void hlm_mtp_init(struct hlm_builder *builder, struct hlm_mtp *mtp)
{
    const struct hlm_model *model = builder->model;
    const int64_t rows = builder->shard_rows, hidden = builder->hidden;
    builder->prefix = "mtp.";
    mtp->tokens = hlm_builder_fp32(builder, "next_tokens", HLM_TENSOR_TOKENS, builder->rows, 1);
    mtp->table = token_table(builder);
    hlm_builder_norm_init(builder, &mtp->norm_hidden, "norm_hidden.weight", "norm_hidden.bias",
                          rows, hidden, true);
    hlm_builder_norm_init(builder, &mtp->norm_token, "norm_token.weight", "norm_token.bias", rows,
                          hidden, true);
    mtp->proj_hidden = projection(builder, "proj_hidden.weight");
    mtp->proj_token = projection(builder, "proj_token.weight");
    hlm_layer_init(builder, &mtp->layer, hlm_model_is_moe_layer(model, model->num_layers));
    hlm_builder_norm_init(builder, &mtp->norm_out, "norm.weight", "norm.bias", rows, hidden, true);
    builder->prefix = NULL;
}

static int32_t embed(struct hlm_builder *builder, const struct hlm_mtp *mtp)
{
    const int32_t partial = hlm_builder_activation(builder, "next_partial", HLM_REMAKE_NEVER,
                                                   builder->rows, builder->hidden);
    struct hlm_op *op =
        hlm_builder_forward(builder, HLM_OP_EMBED_FWD, builder->rows, builder->hidden,
                            HLM_OPERANDS(mtp->tokens, mtp->table, partial));
    op->k = builder->tensors[mtp->table].rows;
    op->first_row = builder->tp_rank * op->k;
    return hlm_builder_reduce(builder, partial, "next_embedded");
}

void hlm_mtp_forward(struct hlm_builder *builder, struct hlm_mtp *mtp,
                     const struct hlm_logits *logits, int32_t x)
{
    const int64_t rows = builder->shard_rows, hidden = builder->hidden;
    const int32_t embedded = embed(builder, mtp);
    mtp->embedded = stream(builder, "norm_token");
    hlm_builder_norm_forward(builder, &mtp->norm_token, embedded, mtp->embedded, "stats_token");
    mtp->hidden = stream(builder, "norm_hidden");
    hlm_builder_norm_forward(builder, &mtp->norm_hidden, x, mtp->hidden, "stats_hidden");
    const int32_t joined = stream(builder, "projected");
    hlm_builder_gemm(builder, mtp->hidden, mtp->proj_hidden, joined, rows, hidden, hidden);
    hlm_builder_gemm(builder, mtp->embedded, mtp->proj_token, joined, rows, hidden, hidden);
    builder->forward[builder->num_forward - 1].accumulate = true;
    const int32_t y = stream(builder, "mtp_out");
    hlm_layer_forward(builder, &mtp->layer, joined, y);
    const int32_t n = stream(builder, "mtp_norm");
    hlm_builder_norm_forward(builder, &mtp->norm_out, y, n, "mtp_stats");
    mtp->logits = *logits;
    hlm_logits_forward(builder, &mtp->logits, n);
}

static int32_t projection_backward(struct hlm_builder *builder, int32_t dy, int32_t x,
                                   int32_t weight, const char *name)
{
    const int64_t rows = builder->shard_rows, hidden = builder->hidden;
    const int32_t dx = stream(builder, name);
    hlm_builder_gemm_input_grad(builder, dy, weight, dx, rows, hidden, hidden);
    hlm_builder_gemm_weight_grad(builder, dy, x, weight, rows, hidden, hidden);
    return dx;
}

static void embed_backward(struct hlm_builder *builder, const struct hlm_mtp *mtp, int32_t dshard)
{
    const int32_t dfull = hlm_builder_gather_grad(builder, dshard, "dnext_full");
    struct hlm_op *op = hlm_builder_backward(
        builder, HLM_OP_EMBED_BWD, builder->rows, builder->hidden,
        HLM_OPERANDS(mtp->tokens, dfull, hlm_builder_grad(builder, mtp->table)),
        HLM_PART_WEIGHT_GRAD);
    op->k = builder->tensors[mtp->table].rows;
    op->first_row = builder->tp_rank * op->k;
}

int32_t hlm_mtp_backward(struct hlm_builder *builder, const struct hlm_mtp *mtp)
{
    const int32_t dn = hlm_logits_backward(builder, &mtp->logits);
    const int32_t dy = stream(builder, "dmtp_out");
    hlm_builder_norm_backward(builder, &mtp->norm_out, dn, -1, dy);
    const int32_t djoined = stream(builder, "dprojected");
    hlm_layer_backward(builder, &mtp->layer, dy, djoined);
    const int32_t dembedded =
        projection_backward(builder, djoined, mtp->embedded, mtp->proj_token, "dnorm_token");
    const int32_t dtoken = stream(builder, "dnext_embedded");
    hlm_builder_norm_backward(builder, &mtp->norm_token, dembedded, -1, dtoken);
    embed_backward(builder, mtp, dtoken);
    const int32_t dhidden =
        projection_backward(builder, djoined, mtp->hidden, mtp->proj_hidden, "dnorm_hidden");
    const int32_t dx = stream(builder, "dmtp_x");
    hlm_builder_norm_backward(builder, &mtp->norm_hidden, dhidden, -1, dx);
    return dx;
}
