#include "costmodel/block_builder.h"

void hlm_builder_gemm(struct hlm_builder *builder, int32_t x, int32_t weight, int32_t y, int64_t m,
                      int64_t n, int64_t k)
{
    struct hlm_op *op = hlm_builder_forward(builder, HLM_OP_GEMM, m, n, HLM_OPERANDS(x, weight, y));
    op->layout = HLM_GEMM_TN;
    op->k = k;
}

struct hlm_op *hlm_builder_gemm_input_grad(struct hlm_builder *builder, int32_t dy, int32_t weight,
                                           int32_t dx, int64_t m, int64_t n, int64_t k)
{
    struct hlm_op *op = hlm_builder_backward(builder, HLM_OP_GEMM, m, k,
                                             HLM_OPERANDS(dy, weight, dx), HLM_PART_INPUT_GRAD);
    op->layout = HLM_GEMM_NN;
    op->k = n;
    return op;
}

void hlm_builder_gemm_weight_grad(struct hlm_builder *builder, int32_t dy, int32_t x,
                                  int32_t weight, int64_t m, int64_t n, int64_t k)
{
    struct hlm_op *op = hlm_builder_backward(builder, HLM_OP_GEMM, n, k,
                                             HLM_OPERANDS(dy, x, hlm_builder_grad(builder, weight)),
                                             HLM_PART_WEIGHT_GRAD);
    op->layout = HLM_GEMM_NT;
    op->k = m;
    op->accumulate = true;
}

void hlm_builder_bias_grad(struct hlm_builder *builder, int32_t dy, int32_t bias, int64_t m,
                           int64_t n)
{
    if (bias >= 0) {
        hlm_builder_backward(builder, HLM_OP_BIAS_GRAD, m, n,
                             HLM_OPERANDS(dy, hlm_builder_grad(builder, bias)),
                             HLM_PART_WEIGHT_GRAD);
    }
}

int32_t hlm_builder_gather(struct hlm_builder *builder, int32_t shard, const char *name)
{
    if (!builder->sp) {
        return shard;
    }
    const int64_t cols = builder->tensors[shard].cols;
    const int32_t full =
        hlm_builder_activation(builder, name, HLM_REMAKE_GATHERED, builder->rows, cols);
    hlm_builder_tp(builder, hlm_builder_forward(builder, HLM_OP_ALL_GATHER, builder->rows, cols,
                                                HLM_OPERANDS(shard, full)));
    return full;
}

int32_t hlm_builder_reduce(struct hlm_builder *builder, int32_t partial, const char *name)
{
    if (builder->tp == 1) {
        return partial;
    }
    const int64_t cols = builder->tensors[partial].cols;
    if (!builder->sp) {
        hlm_builder_tp(builder, hlm_builder_forward(builder, HLM_OP_ALL_REDUCE, builder->rows, cols,
                                                    HLM_OPERANDS(partial)));
        return partial;
    }
    const int32_t shard =
        hlm_builder_activation(builder, name, HLM_REMAKE_NEVER, builder->shard_rows, cols);
    hlm_builder_tp(builder, hlm_builder_forward(builder, HLM_OP_REDUCE_SCATTER, builder->rows, cols,
                                                HLM_OPERANDS(partial, shard)));
    return shard;
}

int32_t hlm_builder_gather_grad(struct hlm_builder *builder, int32_t shard, const char *name)
{
    if (!builder->sp) {
        return shard;
    }
    const int64_t cols = builder->tensors[shard].cols;
    const int32_t full =
        hlm_builder_tensor(builder, name, HLM_TENSOR_ACTIVATION, builder->rows, cols);
    hlm_builder_tp(builder, hlm_builder_backward(builder, HLM_OP_ALL_GATHER, builder->rows, cols,
                                                 HLM_OPERANDS(shard, full), HLM_PART_INPUT_GRAD));
    return full;
}

int32_t hlm_builder_reduce_grad(struct hlm_builder *builder, int32_t partial, const char *name)
{
    if (builder->tp == 1) {
        return partial;
    }
    const int64_t rows = builder->rows, cols = builder->tensors[partial].cols;
    struct hlm_op *op;
    int32_t sum = partial;
    if (!builder->sp) {
        op = hlm_builder_backward(builder, HLM_OP_ALL_REDUCE, rows, cols, HLM_OPERANDS(partial),
                                  HLM_PART_INPUT_GRAD);
    } else {
        sum = hlm_builder_tensor(builder, name, HLM_TENSOR_ACTIVATION, builder->shard_rows, cols);
        op = hlm_builder_backward(builder, HLM_OP_REDUCE_SCATTER, rows, cols,
                                  HLM_OPERANDS(partial, sum), HLM_PART_INPUT_GRAD);
    }
    hlm_builder_tp(builder, op)->overlaps_next = builder->traits->overlaps;
    return sum;
}

void hlm_builder_column_forward(struct hlm_builder *builder, struct hlm_column_linear *linear,
                                int32_t x, const char *gathered_name, int32_t y)
{
    linear->x_full = hlm_builder_gather(builder, x, gathered_name);
    hlm_builder_gemm(builder, linear->x_full, linear->weight, y, builder->rows, linear->out,
                     linear->in);
}

int32_t hlm_builder_column_backward(struct hlm_builder *builder,
                                    const struct hlm_column_linear *linear, int32_t dy,
                                    const char *name, const char *shard_name)
{
    const int64_t rows = builder->rows;
    hlm_builder_bias_grad(builder, dy, linear->bias, rows, linear->out);
    const int32_t partial =
        hlm_builder_tensor(builder, name, HLM_TENSOR_ACTIVATION, rows, linear->in);
    hlm_builder_gemm_input_grad(builder, dy, linear->weight, partial, rows, linear->out,
                                linear->in);
    if (builder->sp && builder->traits->overlaps) {
        builder->backward[builder->num_backward - 1].wanted = linear->x_full;
    }
    const int32_t dx = hlm_builder_reduce_grad(builder, partial, shard_name);
    hlm_builder_gemm_weight_grad(builder, dy, linear->x_full, linear->weight, rows, linear->out,
                                 linear->in);
    return dx;
}

int32_t hlm_builder_row_forward(struct hlm_builder *builder, struct hlm_row_linear *linear,
                                int32_t x, const char *name, const char *shard_name)
{
    linear->x = x;
    const int32_t partial =
        hlm_builder_activation(builder, name, HLM_REMAKE_NEVER, builder->rows, linear->out);
    hlm_builder_gemm(builder, x, linear->weight, partial, builder->rows, linear->out, linear->in);
    return hlm_builder_reduce(builder, partial, shard_name);
}

int32_t hlm_builder_row_backward(struct hlm_builder *builder, const struct hlm_row_linear *linear,
                                 int32_t dy, const char *gathered_name, const char *name)
{
    const int64_t rows = builder->rows;
    const int32_t dy_full = hlm_builder_gather_grad(builder, dy, gathered_name);
    hlm_builder_bias_grad(builder, dy, linear->bias, builder->shard_rows, linear->out);
    const int32_t dx = hlm_builder_tensor(builder, name, HLM_TENSOR_ACTIVATION, rows, linear->in);
    hlm_builder_gemm_input_grad(builder, dy_full, linear->weight, dx, rows, linear->out,
                                linear->in);
    hlm_builder_gemm_weight_grad(builder, dy_full, linear->x, linear->weight, rows, linear->out,
                                 linear->in);
    return dx;
}

void hlm_builder_norm_init(struct hlm_builder *builder, struct hlm_norm_layer *norm,
                           const char *weight_name, const char *bias_name, int64_t rows,
                           int64_t cols, bool partial)
{
    norm->rows = rows;
    norm->cols = cols;
    norm->weight = hlm_builder_weight(builder, weight_name, cols, 1, HLM_WHOLE, 1);
    hlm_builder_param(builder, norm->weight)->init_mean = 1.0;
    norm->bias = builder->model->norm == HLM_NORM_LAYERNORM
                     ? hlm_builder_weight(builder, bias_name, cols, 1, HLM_WHOLE, 1)
                     : -1;
    if (partial) {
        hlm_builder_set_partial(builder, norm->weight);
        hlm_builder_set_partial(builder, norm->bias);
    }
}

static struct hlm_op *set_norm(const struct hlm_builder *builder, struct hlm_op *op)
{
    op->norm = builder->model->norm;
    op->eps = builder->model->norm_eps;
    return op;
}

struct hlm_op *hlm_builder_norm_forward(struct hlm_builder *builder, struct hlm_norm_layer *norm,
                                        int32_t x, int32_t y, const char *stats_name)
{
    norm->x = x;
    norm->stats = hlm_builder_fp32(builder, stats_name, HLM_TENSOR_ACTIVATION, norm->rows,
                                   builder->model->norm == HLM_NORM_LAYERNORM ? 2 : 1);
    return set_norm(builder,
                    hlm_builder_forward(builder, HLM_OP_NORM_FWD, norm->rows, norm->cols,
                                        HLM_OPERANDS(x, norm->weight, norm->bias, y, norm->stats)));
}

struct hlm_op *hlm_builder_norm_backward(struct hlm_builder *builder,
                                         const struct hlm_norm_layer *norm, int32_t dy,
                                         int32_t dresidual, int32_t dx)
{
    return set_norm(builder, hlm_builder_backward(
                                 builder, HLM_OP_NORM_BWD, norm->rows, norm->cols,
                                 HLM_OPERANDS(dy, norm->x, norm->weight, norm->stats, dresidual, dx,
                                              hlm_builder_grad(builder, norm->weight),
                                              hlm_builder_grad(builder, norm->bias)),
                                 HLM_PART_INPUT_GRAD));
}
