#include "costmodel/lowering_blocks.h"

static int32_t whole_weight(struct hlm_builder *builder, const char *name, int64_t rows,
                            int64_t cols)
{
    const int32_t weight = hlm_builder_weight(builder, name, rows, cols, HLM_WHOLE, 1);
    hlm_builder_set_partial(builder, weight);
    return weight;
}

static int32_t whole_bias(struct hlm_builder *builder, const char *name, int64_t rows)
{
    return builder->model->bias.qkv ? whole_weight(builder, name, rows, 1) : -1;
}

static void up_init(struct hlm_builder *builder, struct hlm_column_linear *up, const char *name,
                    int64_t rows, int64_t cols)
{
    up->weight = hlm_builder_weight(builder, name, rows, cols, HLM_BY_ROWS, 1);
    up->bias = -1;
    up->in = cols;
    up->out = rows / builder->tp;
}

void hlm_latent_init(struct hlm_builder *builder, struct hlm_attention *attention)
{
    const struct hlm_model *model = builder->model;
    const struct hlm_model_mla *mla = &model->mla;
    const int64_t hidden = builder->hidden, heads = model->num_heads;
    const int64_t latent_cols = mla->kv_lora_rank + mla->qk_rope_head_dim;
    struct hlm_latent *latent = &attention->latent;
    latent->q_down = latent->q_down_bias = -1;
    if (mla->q_lora_rank > 0) {
        latent->q_down = whole_weight(builder, "q_down.weight", mla->q_lora_rank, hidden);
        latent->q_down_bias = whole_bias(builder, "q_down.bias", mla->q_lora_rank);
        hlm_builder_norm_init(builder, &latent->q_norm, "q_norm.weight", "q_norm.bias",
                              builder->shard_rows, mla->q_lora_rank, true);
    }
    up_init(builder, &latent->q_up, "q_up.weight", heads * model->head_dim,
            mla->q_lora_rank > 0 ? mla->q_lora_rank : hidden);
    latent->kv_down = whole_weight(builder, "kv_down.weight", latent_cols, hidden);
    latent->kv_down_bias = whole_bias(builder, "kv_down.bias", latent_cols);
    hlm_builder_norm_init(builder, &latent->kv_norm, "kv_norm.weight", "kv_norm.bias",
                          builder->shard_rows, mla->kv_lora_rank, true);
    up_init(builder, &latent->kv_up, "kv_up.weight",
            heads * (mla->qk_nope_head_dim + mla->v_head_dim), mla->kv_lora_rank);
}

/* x w^T + bias in shard rows. */
static int32_t down_forward(struct hlm_builder *builder, int32_t x, int32_t weight, int32_t bias,
                            const char *name, int64_t cols)
{
    const int64_t rows = builder->shard_rows;
    const int32_t y = hlm_builder_activation(builder, name, HLM_REMAKE_NEVER, rows, cols);
    hlm_builder_gemm(builder, x, weight, y, rows, cols, builder->hidden);
    if (bias >= 0) {
        hlm_builder_forward(builder, HLM_OP_BIAS_ADD, rows, cols, HLM_OPERANDS(bias, y));
    }
    return y;
}

static int32_t queries_forward(struct hlm_builder *builder, struct hlm_latent *latent, int32_t x)
{
    const int64_t rank = builder->model->mla.q_lora_rank;
    int32_t q_in = x;
    if (rank > 0) {
        const int32_t down =
            down_forward(builder, x, latent->q_down, latent->q_down_bias, "q_latent", rank);
        q_in = hlm_builder_activation(builder, "q_latent_norm", HLM_REMAKE_NORM,
                                      builder->shard_rows, rank);
        hlm_builder_norm_forward(builder, &latent->q_norm, down, q_in, "q_stats");
    }
    const int32_t q =
        hlm_builder_activation(builder, "q", HLM_REMAKE_NEVER, builder->rows, latent->q_up.out);
    hlm_builder_column_forward(builder, &latent->q_up, q_in, "q_latent_full", q);
    return q;
}

void hlm_latent_forward(struct hlm_builder *builder, struct hlm_attention *attention, int32_t x)
{
    const struct hlm_model_mla *mla = &builder->model->mla;
    struct hlm_latent *latent = &attention->latent;
    latent->x = x;
    latent->q = queries_forward(builder, latent, x);
    latent->kv_latent = down_forward(builder, x, latent->kv_down, latent->kv_down_bias, "kv_latent",
                                     mla->kv_lora_rank + mla->qk_rope_head_dim);
    const int32_t kv_in = hlm_builder_activation(builder, "kv_latent_norm", HLM_REMAKE_NORM,
                                                 builder->shard_rows, mla->kv_lora_rank);
    hlm_builder_norm_forward(builder, &latent->kv_norm, latent->kv_latent, kv_in, "kv_stats")
        ->head_dim = mla->kv_lora_rank;
    latent->kv =
        hlm_builder_activation(builder, "kv", HLM_REMAKE_NEVER, builder->rows, latent->kv_up.out);
    hlm_builder_column_forward(builder, &latent->kv_up, kv_in, "kv_latent_full", latent->kv);
    attention->joined = hlm_builder_activation(builder, "qkv", HLM_REMAKE_NEVER, builder->rows,
                                               attention->qkv_cols);
    struct hlm_op *op = hlm_builder_forward(
        builder, HLM_OP_MLA_ASSEMBLE_FWD, builder->rows, attention->qkv_cols,
        HLM_OPERANDS(latent->q, latent->kv, latent->kv_latent, attention->joined));
    op->heads = attention->heads;
    op->kv_heads = attention->kv_heads;
    op->head_dim = attention->head_dim;
    op->v_head_dim = attention->v_head_dim;
}

static int32_t down_backward(struct hlm_builder *builder, const struct hlm_latent *latent,
                             int32_t dy, int32_t weight, int32_t bias, const char *name)
{
    const int64_t rows = builder->shard_rows, cols = builder->tensors[dy].cols;
    const int32_t dx =
        hlm_builder_tensor(builder, name, HLM_TENSOR_ACTIVATION, rows, builder->hidden);
    hlm_builder_bias_grad(builder, dy, bias, rows, cols);
    hlm_builder_gemm_input_grad(builder, dy, weight, dx, rows, cols, builder->hidden);
    hlm_builder_gemm_weight_grad(builder, dy, latent->x, weight, rows, cols, builder->hidden);
    return dx;
}

static int32_t queries_backward(struct hlm_builder *builder, const struct hlm_latent *latent,
                                int32_t dq)
{
    const int32_t dq_in = hlm_builder_column_backward(builder, &latent->q_up, dq, "dq_latent_norm",
                                                      "dq_latent_norm_shard");
    if (latent->q_down < 0) {
        return dq_in;
    }
    const int32_t ddown = hlm_builder_tensor(builder, "dq_latent", HLM_TENSOR_ACTIVATION,
                                             builder->shard_rows, latent->q_norm.cols);
    hlm_builder_norm_backward(builder, &latent->q_norm, dq_in, -1, ddown);
    return down_backward(builder, latent, ddown, latent->q_down, latent->q_down_bias,
                         "dattention_in_q");
}

int32_t hlm_latent_backward(struct hlm_builder *builder, const struct hlm_attention *attention,
                            int32_t dqkv)
{
    const struct hlm_latent *latent = &attention->latent;
    const int64_t rows = builder->rows, shard_rows = builder->shard_rows;
    const int64_t latent_cols = builder->tensors[latent->kv_latent].cols;
    const int32_t dq =
        hlm_builder_tensor(builder, "dq", HLM_TENSOR_ACTIVATION, rows, latent->q_up.out);
    const int32_t dkv =
        hlm_builder_tensor(builder, "dkv", HLM_TENSOR_ACTIVATION, rows, latent->kv_up.out);
    const int32_t drotary = hlm_builder_tensor(builder, "dkv_latent_rotary", HLM_TENSOR_ACTIVATION,
                                               shard_rows, latent_cols);
    const int32_t dlatent =
        hlm_builder_tensor(builder, "dkv_latent", HLM_TENSOR_ACTIVATION, shard_rows, latent_cols);
    const int32_t dx = hlm_builder_tensor(builder, "dattention_in", HLM_TENSOR_ACTIVATION,
                                          shard_rows, builder->hidden);
    struct hlm_op *op =
        hlm_builder_backward(builder, HLM_OP_MLA_ASSEMBLE_BWD, rows, attention->qkv_cols,
                             HLM_OPERANDS(dqkv, dq, dkv, drotary), HLM_PART_INPUT_GRAD);
    op->heads = attention->heads;
    op->kv_heads = attention->kv_heads;
    op->head_dim = attention->head_dim;
    op->v_head_dim = attention->v_head_dim;
    const int32_t dkv_in = hlm_builder_column_backward(builder, &latent->kv_up, dkv,
                                                       "dkv_latent_norm", "dkv_latent_norm_shard");
    hlm_builder_norm_backward(builder, &latent->kv_norm, dkv_in, drotary, dlatent)->head_dim =
        latent->kv_norm.cols;
    const int32_t dx_kv = down_backward(builder, latent, dlatent, latent->kv_down,
                                        latent->kv_down_bias, "dattention_in_kv");
    const int32_t dx_q = queries_backward(builder, latent, dq);
    hlm_builder_backward(builder, HLM_OP_ADD, shard_rows, builder->hidden,
                         HLM_OPERANDS(dx_q, dx_kv, dx), HLM_PART_INPUT_GRAD);
    return dx;
}
