#include <math.h>

#include "costmodel/lowering_blocks.h"

static bool is_swiglu(const struct hlm_builder *builder)
{
    return builder->model->activation == HLM_ACTIVATION_SWIGLU;
}

void hlm_mlp_init(struct hlm_builder *builder, struct hlm_mlp *mlp,
                  const struct hlm_mlp_names *names, int64_t ffn_size)
{
    const struct hlm_model *model = builder->model;
    const int32_t branches = is_swiglu(builder) ? 2 : 1;
    const int64_t hidden = builder->hidden, rows = branches * ffn_size;
    mlp->fc1.weight =
        hlm_builder_weight(builder, names->fc1_weight, rows, hidden, HLM_BY_ROWS, branches);
    mlp->fc1.bias = model->bias.mlp ? hlm_builder_weight(builder, names->fc1_bias, rows, 1,
                                                         HLM_BY_ROWS, branches)
                                    : -1;
    mlp->fc1.in = hidden;
    mlp->fc1.out = rows / builder->tp;
    mlp->fc2.weight =
        hlm_builder_weight(builder, names->fc2_weight, hidden, ffn_size, HLM_BY_COLS, 1);
    hlm_builder_param(builder, mlp->fc2.weight)->init_std /= sqrt(2.0 * model->num_layers);
    mlp->fc2.bias = model->bias.mlp
                        ? hlm_builder_weight(builder, names->fc2_bias, hidden, 1, HLM_WHOLE, 1)
                        : -1;
    hlm_builder_set_partial(builder, mlp->fc2.bias);
    mlp->fc2.in = ffn_size / builder->tp;
    mlp->fc2.out = hidden;
}

int32_t hlm_mlp_forward(struct hlm_builder *builder, struct hlm_mlp *mlp, int32_t x)
{
    const int64_t rows = builder->rows;
    const bool bias_apart = is_swiglu(builder) && mlp->fc1.bias >= 0;
    mlp->hidden = hlm_builder_activation(builder, "fc1", HLM_REMAKE_PRODUCT, rows, mlp->fc1.out);
    hlm_builder_column_forward(builder, &mlp->fc1, x, "mlp_in", mlp->hidden);
    if (bias_apart) {
        hlm_builder_forward(builder, HLM_OP_BIAS_ADD, rows, mlp->fc1.out,
                            HLM_OPERANDS(mlp->fc1.bias, mlp->hidden));
    }
    const int32_t active =
        hlm_builder_activation(builder, "active", HLM_REMAKE_ACTIVATION, rows, mlp->fc2.in);
    hlm_builder_forward(builder, HLM_OP_ACTIVATION_FWD, rows, mlp->fc2.in,
                        HLM_OPERANDS(mlp->hidden, bias_apart ? -1 : mlp->fc1.bias, active))
        ->activation = builder->model->activation;
    return hlm_builder_row_forward(builder, &mlp->fc2, active, "fc2", "fc2_shard");
}

int32_t hlm_mlp_backward(struct hlm_builder *builder, const struct hlm_mlp *mlp, int32_t dy)
{
    const int64_t rows = builder->rows;
    const int32_t dactive =
        hlm_builder_row_backward(builder, &mlp->fc2, dy, "dfc2_full", "dactive");
    const int32_t dhidden =
        hlm_builder_tensor(builder, "dfc1", HLM_TENSOR_ACTIVATION, rows, mlp->fc1.out);
    hlm_builder_backward(
        builder, HLM_OP_ACTIVATION_BWD, rows, mlp->fc2.in,
        HLM_OPERANDS(mlp->hidden, is_swiglu(builder) ? -1 : mlp->fc1.bias, dactive, dhidden),
        HLM_PART_INPUT_GRAD)
        ->activation = builder->model->activation;
    return hlm_builder_column_backward(builder, &mlp->fc1, dhidden, "dmlp_in", "dmlp_in_shard");
}

void hlm_layer_init(struct hlm_builder *builder, struct hlm_layer *layer, bool has_experts)
{
    static const struct hlm_mlp_names names = {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"};
    const int64_t rows = builder->shard_rows, hidden = builder->hidden;
    layer->has_experts = has_experts;
    hlm_builder_norm_init(builder, &layer->norm1, "norm1.weight", "norm1.bias", rows, hidden, true);
    hlm_attention_init(builder, &layer->attention);
    hlm_builder_norm_init(builder, &layer->norm2, "norm2.weight", "norm2.bias", rows, hidden, true);
    if (has_experts) {
        hlm_moe_init(builder, &layer->moe);
    } else {
        hlm_mlp_init(builder, &layer->mlp, &names, builder->model->ffn_size);
    }
}

static int32_t stream(struct hlm_builder *builder, const char *name, enum hlm_remake remake)
{
    return hlm_builder_activation(builder, name, remake, builder->shard_rows, builder->hidden);
}

static int32_t stream_grad(struct hlm_builder *builder, const char *name)
{
    return stream(builder, name, HLM_REMAKE_NEVER);
}

/* y = branch + bias + residual */
static void add_residual(struct hlm_builder *builder, int32_t branch, int32_t bias,
                         int32_t residual, int32_t y)
{
    hlm_builder_forward(builder, HLM_OP_BIAS_RESIDUAL, builder->shard_rows, builder->hidden,
                        HLM_OPERANDS(branch, bias, residual, y));
}

static int32_t ffn_forward(struct hlm_builder *builder, struct hlm_layer *layer, int32_t x)
{
    return layer->has_experts ? hlm_moe_forward(builder, &layer->moe, x)
                              : hlm_mlp_forward(builder, &layer->mlp, x);
}

static int32_t ffn_backward(struct hlm_builder *builder, const struct hlm_layer *layer, int32_t dy)
{
    return layer->has_experts ? hlm_moe_backward(builder, &layer->moe, dy)
                              : hlm_mlp_backward(builder, &layer->mlp, dy);
}

static int32_t ffn_bias(const struct hlm_layer *layer)
{
    return layer->has_experts ? -1 : layer->mlp.fc2.bias;
}

/* x -> x1 = x + attention(norm1(x)) -> y = x1 + mlp(norm2(x1)); parallel: the MLP too reads x. */
static void pre_norm_forward(struct hlm_builder *builder, struct hlm_layer *layer, int32_t x,
                             int32_t y)
{
    const bool parallel = builder->model->residual == HLM_RESIDUAL_PARALLEL;
    const int32_t n1 = stream(builder, "norm1", HLM_REMAKE_NORM);
    hlm_builder_norm_forward(builder, &layer->norm1, x, n1, "stats1");
    const int32_t attended = hlm_attention_forward(builder, &layer->attention, n1);
    const int32_t x1 = stream(builder, "residual1", HLM_REMAKE_NEVER);
    add_residual(builder, attended, layer->attention.out.bias, x, x1);
    const int32_t n2 = stream(builder, "norm2", HLM_REMAKE_NORM);
    hlm_builder_norm_forward(builder, &layer->norm2, parallel ? x : x1, n2, "stats2");
    const int32_t fed = ffn_forward(builder, layer, n2);
    add_residual(builder, fed, ffn_bias(layer), x1, y);
}

static void pre_norm_backward(struct hlm_builder *builder, const struct hlm_layer *layer,
                              int32_t dy, int32_t dx)
{
    const bool parallel = builder->model->residual == HLM_RESIDUAL_PARALLEL;
    const int32_t dn2 = ffn_backward(builder, layer, dy);
    const int32_t dx1 = stream_grad(builder, "dresidual1");
    hlm_builder_norm_backward(builder, &layer->norm2, dn2, dy, dx1);
    const int32_t dn1 = hlm_attention_backward(builder, &layer->attention, parallel ? dy : dx1);
    hlm_builder_norm_backward(builder, &layer->norm1, dn1, dx1, dx);
}

/* x -> n1 = norm1(x + attention(x)) -> y = norm2(n1 + mlp(n1)) */
static void post_norm_forward(struct hlm_builder *builder, struct hlm_layer *layer, int32_t x,
                              int32_t y)
{
    const int32_t attended = hlm_attention_forward(builder, &layer->attention, x);
    const int32_t sum1 = stream(builder, "residual1", HLM_REMAKE_NEVER);
    add_residual(builder, attended, layer->attention.out.bias, x, sum1);
    const int32_t n1 = stream(builder, "norm1", HLM_REMAKE_NORM);
    hlm_builder_norm_forward(builder, &layer->norm1, sum1, n1, "stats1");
    const int32_t fed = ffn_forward(builder, layer, n1);
    const int32_t sum2 = stream(builder, "residual2", HLM_REMAKE_NEVER);
    add_residual(builder, fed, ffn_bias(layer), n1, sum2);
    hlm_builder_norm_forward(builder, &layer->norm2, sum2, y, "stats2");
}

static void add_grads(struct hlm_builder *builder, int32_t a, int32_t b, int32_t sum)
{
    hlm_builder_backward(builder, HLM_OP_ADD, builder->shard_rows, builder->hidden,
                         HLM_OPERANDS(a, b, sum), HLM_PART_INPUT_GRAD);
}

static void post_norm_backward(struct hlm_builder *builder, const struct hlm_layer *layer,
                               int32_t dy, int32_t dx)
{
    const int32_t dsum2 = stream_grad(builder, "dresidual2");
    hlm_builder_norm_backward(builder, &layer->norm2, dy, -1, dsum2);
    const int32_t dn1_ffn = ffn_backward(builder, layer, dsum2);
    const int32_t dn1 = stream_grad(builder, "dnorm1");
    add_grads(builder, dn1_ffn, dsum2, dn1);
    const int32_t dsum1 = stream_grad(builder, "dresidual1");
    hlm_builder_norm_backward(builder, &layer->norm1, dn1, -1, dsum1);
    const int32_t dx_attention = hlm_attention_backward(builder, &layer->attention, dsum1);
    add_grads(builder, dx_attention, dsum1, dx);
}

void hlm_layer_forward(struct hlm_builder *builder, struct hlm_layer *layer, int32_t x, int32_t y)
{
    if (builder->model->norm_placement == HLM_NORM_PLACEMENT_PRE) {
        pre_norm_forward(builder, layer, x, y);
    } else {
        post_norm_forward(builder, layer, x, y);
    }
}

void hlm_layer_backward(struct hlm_builder *builder, const struct hlm_layer *layer, int32_t dy,
                        int32_t dx)
{
    if (builder->model->norm_placement == HLM_NORM_PLACEMENT_PRE) {
        pre_norm_backward(builder, layer, dy, dx);
    } else {
        post_norm_backward(builder, layer, dy, dx);
    }
}

void hlm_lower_layer(struct hlm_builder *builder)
{
    const int64_t rows = builder->shard_rows, hidden = builder->hidden;
    struct hlm_layer layer;
    builder->block_input = hlm_builder_tensor(builder, "x", HLM_TENSOR_INPUT, rows, hidden);
    builder->block_output = hlm_builder_tensor(builder, "y", HLM_TENSOR_OUTPUT, rows, hidden);
    builder->grad_output = hlm_builder_tensor(builder, "dy", HLM_TENSOR_GRAD_OUTPUT, rows, hidden);
    builder->grad_input = hlm_builder_tensor(builder, "dx", HLM_TENSOR_GRAD_INPUT, rows, hidden);
    hlm_layer_init(builder, &layer, builder->kind == HLM_BLOCK_MOE);
    hlm_layer_forward(builder, &layer, builder->block_input, builder->block_output);
    hlm_layer_backward(builder, &layer, builder->grad_output, builder->grad_input);
}
