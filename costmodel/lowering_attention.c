#include <math.h>

#include "costmodel/lowering_blocks.h"

static bool has_latent(const struct hlm_model *model)
{
    return model->mla.kv_lora_rank > 0;
}

/* Query heads are spread evenly; key and value heads too, or, where there are fewer than ranks,
 * each lies on several ranks. */
static void set_sizes(const struct hlm_builder *builder, struct hlm_attention *attention)
{
    const struct hlm_model *model = builder->model;
    attention->heads = model->num_heads / builder->tp;
    attention->kv_heads = model->num_kv_heads > builder->tp ? model->num_kv_heads / builder->tp : 1;
    attention->head_dim = model->head_dim;
    attention->v_head_dim = has_latent(model) ? model->mla.v_head_dim : model->head_dim;
    attention->qkv_cols = (attention->heads + attention->kv_heads) * attention->head_dim +
                          attention->kv_heads * attention->v_head_dim;
    attention->out_cols = attention->heads * attention->v_head_dim;
}

static void qkv_slices(const struct hlm_builder *builder, const struct hlm_attention *attention,
                       struct hlm_param_slice slices[3])
{
    const struct hlm_model *model = builder->model;
    const int64_t dim = model->head_dim, tp_rank = builder->tp_rank;
    const int64_t kv_head = tp_rank * model->num_kv_heads / builder->tp;
    const int64_t first_k = model->num_heads * dim;
    const int64_t first_v = first_k + model->num_kv_heads * dim;
    const int64_t kv_rows = attention->kv_heads * dim;
    slices[0] = (struct hlm_param_slice){tp_rank * attention->heads * dim, attention->heads * dim};
    slices[1] = (struct hlm_param_slice){first_k + kv_head * dim, kv_rows};
    slices[2] = (struct hlm_param_slice){first_v + kv_head * dim, kv_rows};
}

/* Each tp rank has the gradient of its own heads, with sp or without. */
static void set_head_norm(struct hlm_builder *builder, const struct hlm_norm_layer *norm)
{
    hlm_builder_param(builder, norm->weight)->sum_over_tp = builder->tp > 1;
    if (norm->bias >= 0) {
        hlm_builder_param(builder, norm->bias)->sum_over_tp = builder->tp > 1;
    }
}

static void qkv_init(struct hlm_builder *builder, struct hlm_attention *attention)
{
    const struct hlm_model *model = builder->model;
    const int64_t rows = (model->num_heads + 2 * model->num_kv_heads) * model->head_dim;
    struct hlm_param_slice slices[3];
    qkv_slices(builder, attention, slices);
    struct hlm_column_linear *qkv = &attention->qkv;
    qkv->weight = hlm_builder_sliced(builder, "qkv.weight", rows, builder->hidden, slices, 3);
    qkv->bias = model->bias.qkv ? hlm_builder_sliced(builder, "qkv.bias", rows, 1, slices, 3) : -1;
    qkv->in = builder->hidden;
    qkv->out = attention->qkv_cols;
    if (model->qk_norm) {
        const int64_t tokens = builder->rows, dim = attention->head_dim;
        hlm_builder_norm_init(builder, &attention->q_norm, "q_norm.weight", "q_norm.bias",
                              tokens * attention->heads, dim, true);
        hlm_builder_norm_init(builder, &attention->k_norm, "k_norm.weight", "k_norm.bias",
                              tokens * attention->kv_heads, dim, true);
        set_head_norm(builder, &attention->q_norm);
        set_head_norm(builder, &attention->k_norm);
    }
}

void hlm_attention_init(struct hlm_builder *builder, struct hlm_attention *attention)
{
    const struct hlm_model *model = builder->model;
    set_sizes(builder, attention);
    if (has_latent(model)) {
        hlm_latent_init(builder, attention);
    } else {
        qkv_init(builder, attention);
    }
    struct hlm_row_linear *out = &attention->out;
    out->in = attention->out_cols;
    out->out = builder->hidden;
    out->weight = hlm_builder_weight(builder, "out.weight", builder->hidden,
                                     model->num_heads * attention->v_head_dim, HLM_BY_COLS, 1);
    hlm_builder_param(builder, out->weight)->init_std /= sqrt(2.0 * model->num_layers);
    out->bias = -1;
    if (model->bias.out) {
        out->bias = hlm_builder_weight(builder, "out.bias", builder->hidden, 1, HLM_WHOLE, 1);
        hlm_builder_set_partial(builder, out->bias);
    }
}

void hlm_attention_set_heads(const struct hlm_builder *builder,
                             const struct hlm_attention *attention, struct hlm_op *op)
{
    const struct hlm_model *model = builder->model;
    op->heads = attention->heads;
    op->kv_heads = attention->kv_heads;
    op->head_dim = attention->head_dim;
    op->v_head_dim = attention->v_head_dim;
    op->causal = hlm_model_is_causal(model);
    op->window = model->attention_window;
    op->attention_kernel = builder->traits->attention_kernel;
    op->rotary = (int64_t)floor(model->rotary_frac * (double)model->head_dim / 2.0) * 2;
    op->rope_theta = model->rope_theta;
}

static void qk_norm_forward(struct hlm_builder *builder, struct hlm_attention *attention)
{
    attention->joined = hlm_builder_activation(builder, "qkv", HLM_REMAKE_NEVER, builder->rows,
                                               attention->qkv_cols);
    hlm_builder_norm_forward(builder, &attention->q_norm, attention->raw, attention->joined,
                             "q_stats")
        ->head_dim = attention->head_dim;
    hlm_builder_norm_forward(builder, &attention->k_norm, attention->raw, attention->joined,
                             "k_stats")
        ->head_dim = attention->head_dim;
}

static void qkv_forward(struct hlm_builder *builder, struct hlm_attention *attention, int32_t x)
{
    const struct hlm_model *model = builder->model;
    const int64_t rows = builder->rows, cols = attention->qkv_cols;
    attention->raw = hlm_builder_activation(builder, model->qk_norm ? "qkv_raw" : "qkv",
                                            HLM_REMAKE_NEVER, rows, cols);
    attention->joined = attention->raw;
    hlm_builder_column_forward(builder, &attention->qkv, x, "attention_in", attention->raw);
    if (attention->qkv.bias >= 0) {
        hlm_builder_forward(builder, HLM_OP_BIAS_ADD, rows, cols,
                            HLM_OPERANDS(attention->qkv.bias, attention->raw));
    }
    if (model->qk_norm) {
        qk_norm_forward(builder, attention);
    }
    if (model->position == HLM_POSITION_ROPE) {
        hlm_attention_set_heads(builder, attention,
                                hlm_builder_forward(builder, HLM_OP_ROPE_FWD, rows, cols,
                                                    HLM_OPERANDS(attention->joined)));
    }
}

/* On the CPU only where nothing is recomputed: else they would be made just to be dropped. */
static bool keeps_probs(const struct hlm_builder *builder)
{
    return builder->traits->composes_attention ||
           (builder->traits->keeps_probs && builder->input->backend == HLM_BACKEND_CPU &&
            builder->recompute == HLM_RECOMPUTE_NONE);
}

static void set_core(const struct hlm_builder *builder, const struct hlm_attention *attention,
                     const struct hlm_attention_core *core, struct hlm_op *op)
{
    hlm_attention_set_heads(builder, attention, op);
    op->heads = core->heads;
    op->kv_heads = core->kv_heads;
    op->context_ranks = core->context_ranks;
}

int32_t hlm_attention_forward(struct hlm_builder *builder, struct hlm_attention *attention,
                              int32_t x)
{
    if (has_latent(builder->model)) {
        hlm_latent_forward(builder, attention, x);
    } else {
        qkv_forward(builder, attention, x);
    }
    hlm_context_enter(builder, attention);
    const struct hlm_attention_core core = hlm_context_core(builder, attention);
    const int64_t score_rows = builder->strategy->microbatch_size * core.heads;
    attention->mixed =
        hlm_builder_activation(builder, "context", HLM_REMAKE_NEVER, core.rows, core.out_cols);
    attention->lse =
        hlm_builder_fp32(builder, "lse", HLM_TENSOR_ACTIVATION, score_rows, core.own_len);
    builder->remake[attention->lse] = HLM_REMAKE_ATTENTION;
    attention->probs = -1;
    if (keeps_probs(builder)) {
        attention->probs =
            hlm_builder_activation(builder, "probs", HLM_REMAKE_ATTENTION,
                                   score_rows * core.own_len, builder->strategy->seq_len);
    }
    set_core(builder, attention, &core,
             hlm_builder_forward(builder, HLM_OP_ATTENTION_FWD, core.rows, core.out_cols,
                                 HLM_OPERANDS(attention->attended, attention->mixed, attention->lse,
                                              attention->probs, attention->kv)));
    attention->context = hlm_context_leave(builder, attention);
    return hlm_builder_row_forward(builder, &attention->out, attention->context, "attention_out",
                                   "attention_out_shard");
}

static int32_t qk_norm_backward(struct hlm_builder *builder, const struct hlm_attention *attention,
                                int32_t dqkv)
{
    const int32_t draw = hlm_builder_tensor(builder, "dqkv_raw", HLM_TENSOR_ACTIVATION,
                                            builder->rows, attention->qkv_cols);
    hlm_builder_norm_backward(builder, &attention->q_norm, dqkv, -1, draw)->head_dim =
        attention->head_dim;
    hlm_builder_norm_backward(builder, &attention->k_norm, dqkv, -1, draw)->head_dim =
        attention->head_dim;
    return draw;
}

static int32_t qkv_backward(struct hlm_builder *builder, const struct hlm_attention *attention,
                            int32_t dqkv)
{
    if (builder->model->position == HLM_POSITION_ROPE) {
        hlm_attention_set_heads(builder, attention,
                                hlm_builder_backward(builder, HLM_OP_ROPE_BWD, builder->rows,
                                                     attention->qkv_cols, HLM_OPERANDS(dqkv),
                                                     HLM_PART_INPUT_GRAD));
    }
    const int32_t dy = builder->model->qk_norm ? qk_norm_backward(builder, attention, dqkv) : dqkv;
    return hlm_builder_column_backward(builder, &attention->qkv, dy, "dattention_in",
                                       "dattention_in_shard");
}

int32_t hlm_attention_backward(struct hlm_builder *builder, const struct hlm_attention *attention,
                               int32_t dy)
{
    const struct hlm_attention_core core = hlm_context_core(builder, attention);
    const int32_t dcontext =
        hlm_builder_row_backward(builder, &attention->out, dy, "dattention_out_full", "dcontext");
    const int32_t dmixed = hlm_context_leave_backward(builder, attention, dcontext);
    const int32_t dattended =
        hlm_builder_tensor(builder, "dqkv", HLM_TENSOR_ACTIVATION, core.rows, core.qkv_cols);
    const int32_t dkv = hlm_context_key_grads(builder, attention);
    set_core(builder, attention, &core,
             hlm_builder_backward(builder, HLM_OP_ATTENTION_BWD, core.rows, core.out_cols,
                                  HLM_OPERANDS(attention->attended, attention->mixed, dmixed,
                                               attention->lse, attention->probs, dattended,
                                               attention->kv, dkv),
                                  HLM_PART_INPUT_GRAD));
    const int32_t dqkv = hlm_context_enter_backward(builder, attention, dattended, dkv);
    return has_latent(builder->model) ? hlm_latent_backward(builder, attention, dqkv)
                                      : qkv_backward(builder, attention, dqkv);
}
