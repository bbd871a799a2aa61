#include <math.h>

#include "costmodel/lowering_blocks.h"

/* An expert's weight: num_experts of this rank below each other, [rows, cols] each in the whole
 * model, cut by etp along its rows or its columns. */
static int32_t expert_weight(struct hlm_builder *builder, const char *name, int64_t rows,
                             int64_t cols, bool by_rows)
{
    const int64_t all = builder->model->moe.num_experts, etp = builder->strategy->etp;
    const int64_t local = all / builder->strategy->ep;
    const int64_t etp_rank = etp > 1 ? builder->tp_rank : 0;
    const int64_t row_ranks = by_rows ? etp : 1;
    const int64_t num_rows = local * rows / row_ranks;
    const int64_t place = builder->input->ep_rank * row_ranks + (by_rows ? etp_rank : 0);
    const struct hlm_param_slice slice = {place * num_rows, num_rows};
    const int32_t tensor =
        hlm_builder_sliced(builder, name, all * rows, by_rows ? cols : cols / etp, &slice, 1);
    struct hlm_param *param = hlm_builder_param(builder, tensor);
    param->global_cols = cols;
    param->global_col = by_rows ? 0 : etp_rank * (cols / etp);
    param->expert = true;
    return tensor;
}

void hlm_moe_init(struct hlm_builder *builder, struct hlm_moe *moe)
{
    static const struct hlm_mlp_names shared = {"shared.fc1.weight", "shared.fc1.bias",
                                                "shared.fc2.weight", "shared.fc2.bias"};
    const struct hlm_model *model = builder->model;
    const struct hlm_strategy *strategy = builder->strategy;
    const int64_t branches = model->activation == HLM_ACTIVATION_SWIGLU ? 2 : 1;
    moe->top_k = model->moe.top_k;
    moe->num_experts = model->moe.num_experts / strategy->ep;
    moe->ffn_size = model->moe.ffn_size / strategy->etp;
    moe->sent_rows = builder->shard_rows * moe->top_k;
    moe->expert_rows = moe->sent_rows * strategy->etp;
    moe->router = hlm_builder_weight(builder, "router.weight", model->moe.num_experts,
                                     builder->hidden, HLM_WHOLE, 1);
    hlm_builder_set_partial(builder, moe->router);
    moe->fc1 = expert_weight(builder, "experts.fc1.weight", branches * model->moe.ffn_size,
                             builder->hidden, true);
    moe->fc2 =
        expert_weight(builder, "experts.fc2.weight", builder->hidden, model->moe.ffn_size, false);
    hlm_builder_param(builder, moe->fc2)->init_std /= sqrt(2.0 * model->num_layers);
    moe->has_shared = model->moe.shared_ffn_size > 0;
    if (moe->has_shared) {
        hlm_mlp_init(builder, &moe->shared, &shared, model->moe.shared_ffn_size);
    }
}

static int32_t expert_tensor(struct hlm_builder *builder, const char *name, int64_t rows,
                             int64_t cols)
{
    return hlm_builder_activation(builder, name, HLM_REMAKE_NEVER, rows, cols);
}

static void set_exchange(const struct hlm_moe *moe, struct hlm_op *op)
{
    op->k = moe->top_k;
    op->group = HLM_GROUP_EP;
    op->stream = HLM_STREAM_EP;
}

/* Rows to the ranks of their experts; with etp every rank of it gets all rows of the experts. */
static int32_t dispatch(struct hlm_builder *builder, const struct hlm_moe *moe, int32_t sent,
                        bool backward, const char *names[2])
{
    const int64_t hidden = builder->hidden;
    int32_t rows = sent;
    if (builder->strategy->ep > 1) {
        const int32_t received = expert_tensor(builder, names[0], moe->sent_rows, hidden);
        const int32_t *operands = HLM_OPERANDS(rows, received);
        set_exchange(moe, backward
                              ? hlm_builder_backward(builder, HLM_OP_ALL_TO_ALL, moe->sent_rows,
                                                     hidden, operands, HLM_PART_INPUT_GRAD)
                              : hlm_builder_forward(builder, HLM_OP_ALL_TO_ALL, moe->sent_rows,
                                                    hidden, operands));
        rows = received;
    }
    if (builder->strategy->etp > 1) {
        const int32_t all = expert_tensor(builder, names[1], moe->expert_rows, hidden);
        const int32_t *operands = HLM_OPERANDS(rows, all);
        hlm_builder_tp(builder,
                       backward ? hlm_builder_backward(builder, HLM_OP_ALL_GATHER, moe->expert_rows,
                                                       hidden, operands, HLM_PART_INPUT_GRAD)
                                : hlm_builder_forward(builder, HLM_OP_ALL_GATHER, moe->expert_rows,
                                                      hidden, operands));
        rows = all;
    }
    return rows;
}

/* The way back. */
static int32_t collect(struct hlm_builder *builder, const struct hlm_moe *moe, int32_t made,
                       bool backward, const char *names[2])
{
    const int64_t hidden = builder->hidden;
    int32_t rows = made;
    if (builder->strategy->etp > 1) {
        const int32_t sum = expert_tensor(builder, names[0], moe->sent_rows, hidden);
        const int32_t *operands = HLM_OPERANDS(rows, sum);
        hlm_builder_tp(builder, backward ? hlm_builder_backward(builder, HLM_OP_REDUCE_SCATTER,
                                                                moe->expert_rows, hidden, operands,
                                                                HLM_PART_INPUT_GRAD)
                                         : hlm_builder_forward(builder, HLM_OP_REDUCE_SCATTER,
                                                               moe->expert_rows, hidden, operands));
        rows = sum;
    }
    if (builder->strategy->ep > 1) {
        const int32_t returned = expert_tensor(builder, names[1], moe->sent_rows, hidden);
        const int32_t *operands = HLM_OPERANDS(rows, returned);
        set_exchange(moe, backward
                              ? hlm_builder_backward(builder, HLM_OP_ALL_TO_ALL, moe->sent_rows,
                                                     hidden, operands, HLM_PART_INPUT_GRAD)
                              : hlm_builder_forward(builder, HLM_OP_ALL_TO_ALL, moe->sent_rows,
                                                    hidden, operands));
        rows = returned;
    }
    return rows;
}

static void route(struct hlm_builder *builder, struct hlm_moe *moe, int32_t x)
{
    const int64_t rows = builder->shard_rows, all = builder->model->moe.num_experts;
    moe->x = x;
    moe->scores = expert_tensor(builder, "scores", rows, all);
    hlm_builder_gemm(builder, x, moe->router, moe->scores, rows, all, builder->hidden);
    moe->weights = expert_tensor(builder, "route_weights", rows, moe->top_k);
    moe->choice = hlm_builder_fp32(builder, "choice", HLM_TENSOR_ACTIVATION, rows, moe->top_k);
    hlm_builder_forward(builder, HLM_OP_ROUTE_FWD, rows, moe->top_k,
                        HLM_OPERANDS(moe->scores, moe->weights, moe->choice))
        ->k = all;
}

static void grouped(const struct hlm_moe *moe, struct hlm_op *op, enum hlm_gemm_layout layout,
                    int64_t k)
{
    op->layout = layout;
    op->k = k;
    op->num_experts = moe->num_experts;
    op->accumulate = layout == HLM_GEMM_NT;
}

static void run_experts(struct hlm_builder *builder, struct hlm_moe *moe)
{
    const int64_t rows = moe->expert_rows, hidden = builder->hidden;
    const int64_t fc1_cols =
        moe->ffn_size * (builder->model->activation == HLM_ACTIVATION_SWIGLU ? 2 : 1);
    moe->hidden = expert_tensor(builder, "expert_fc1", rows, fc1_cols);
    grouped(moe,
            hlm_builder_forward(builder, HLM_OP_GROUPED_GEMM, rows, fc1_cols,
                                HLM_OPERANDS(moe->inputs, moe->fc1, moe->hidden)),
            HLM_GEMM_TN, hidden);
    const int32_t active = hlm_builder_activation(builder, "expert_active", HLM_REMAKE_ACTIVATION,
                                                  rows, moe->ffn_size);
    hlm_builder_forward(builder, HLM_OP_ACTIVATION_FWD, rows, moe->ffn_size,
                        HLM_OPERANDS(moe->hidden, -1, active))
        ->activation = builder->model->activation;
    moe->active = active;
    moe->outputs = expert_tensor(builder, "expert_fc2", rows, hidden);
    grouped(moe,
            hlm_builder_forward(builder, HLM_OP_GROUPED_GEMM, rows, hidden,
                                HLM_OPERANDS(active, moe->fc2, moe->outputs)),
            HLM_GEMM_TN, moe->ffn_size);
}

int32_t hlm_moe_forward(struct hlm_builder *builder, struct hlm_moe *moe, int32_t x)
{
    const int64_t rows = builder->shard_rows, hidden = builder->hidden;
    route(builder, moe, x);
    const int32_t sent = expert_tensor(builder, "sent", moe->sent_rows, hidden);
    hlm_builder_forward(builder, HLM_OP_PERMUTE, moe->sent_rows, hidden,
                        HLM_OPERANDS(x, moe->choice, -1, -1, sent, -1));
    moe->inputs =
        dispatch(builder, moe, sent, false, (const char *[2]){"received", "received_full"});
    run_experts(builder, moe);
    moe->returned =
        collect(builder, moe, moe->outputs, false, (const char *[2]){"expert_sum", "returned"});
    const int32_t routed = expert_tensor(builder, "routed", rows, hidden);
    hlm_builder_forward(builder, HLM_OP_UNPERMUTE, rows, hidden,
                        HLM_OPERANDS(moe->returned, moe->choice, moe->weights, routed))
        ->k = moe->sent_rows;
    if (!moe->has_shared) {
        return routed;
    }
    const int32_t shared = hlm_mlp_forward(builder, &moe->shared, x);
    const int32_t sum = expert_tensor(builder, "experts_sum", rows, hidden);
    hlm_builder_forward(builder, HLM_OP_ADD, rows, hidden, HLM_OPERANDS(routed, shared, sum));
    return sum;
}

/* Gradients of one expert GEMM: dx (returned), then dw. x [rows, in], dy [rows, out]. */
static int32_t expert_gemm_backward(struct hlm_builder *builder, const struct hlm_moe *moe,
                                    int32_t dy, int32_t x, int32_t weight, const char *name)
{
    const int64_t rows = moe->expert_rows;
    const int64_t in = builder->tensors[x].cols, out = builder->tensors[dy].cols;
    const int32_t dx = expert_tensor(builder, name, rows, in);
    grouped(moe,
            hlm_builder_backward(builder, HLM_OP_GROUPED_GEMM, rows, in,
                                 HLM_OPERANDS(dy, weight, dx), HLM_PART_INPUT_GRAD),
            HLM_GEMM_NN, out);
    grouped(moe,
            hlm_builder_backward(builder, HLM_OP_GROUPED_GEMM, out, in,
                                 HLM_OPERANDS(dy, x, hlm_builder_grad(builder, weight)),
                                 HLM_PART_WEIGHT_GRAD),
            HLM_GEMM_NT, rows);
    return dx;
}

static int32_t experts_backward(struct hlm_builder *builder, const struct hlm_moe *moe,
                                int32_t doutputs)
{
    const int32_t dactive =
        expert_gemm_backward(builder, moe, doutputs, moe->active, moe->fc2, "dexpert_active");
    const int32_t dhidden =
        expert_tensor(builder, "dexpert_fc1", moe->expert_rows, builder->tensors[moe->hidden].cols);
    hlm_builder_backward(builder, HLM_OP_ACTIVATION_BWD, moe->expert_rows, moe->ffn_size,
                         HLM_OPERANDS(moe->hidden, -1, dactive, dhidden), HLM_PART_INPUT_GRAD)
        ->activation = builder->model->activation;
    return expert_gemm_backward(builder, moe, dhidden, moe->inputs, moe->fc1, "dexpert_in");
}

static int32_t router_backward(struct hlm_builder *builder, const struct hlm_moe *moe,
                               int32_t dweights)
{
    const int64_t rows = builder->shard_rows, all = builder->model->moe.num_experts;
    const int32_t dscores = expert_tensor(builder, "dscores", rows, all);
    hlm_builder_backward(builder, HLM_OP_ROUTE_BWD, rows, moe->top_k,
                         HLM_OPERANDS(moe->weights, moe->choice, dweights, dscores),
                         HLM_PART_INPUT_GRAD)
        ->k = all;
    const int32_t dx = expert_tensor(builder, "drouter_in", rows, builder->hidden);
    hlm_builder_gemm_input_grad(builder, dscores, moe->router, dx, rows, all, builder->hidden);
    hlm_builder_gemm_weight_grad(builder, dscores, moe->x, moe->router, rows, all, builder->hidden);
    return dx;
}

static int32_t add(struct hlm_builder *builder, int32_t a, int32_t b, const char *name)
{
    const int32_t sum = expert_tensor(builder, name, builder->shard_rows, builder->hidden);
    hlm_builder_backward(builder, HLM_OP_ADD, builder->shard_rows, builder->hidden,
                         HLM_OPERANDS(a, b, sum), HLM_PART_INPUT_GRAD);
    return sum;
}

int32_t hlm_moe_backward(struct hlm_builder *builder, const struct hlm_moe *moe, int32_t dy)
{
    const int64_t rows = builder->shard_rows, hidden = builder->hidden;
    const int32_t dreturned = expert_tensor(builder, "dreturned", moe->sent_rows, hidden);
    const int32_t dweights = expert_tensor(builder, "droute_weights", rows, moe->top_k);
    hlm_builder_backward(
        builder, HLM_OP_PERMUTE, moe->sent_rows, hidden,
        HLM_OPERANDS(dy, moe->choice, moe->weights, moe->returned, dreturned, dweights),
        HLM_PART_INPUT_GRAD);
    const int32_t doutputs =
        dispatch(builder, moe, dreturned, true, (const char *[2]){"dexpert_sum", "dexpert_fc2"});
    const int32_t dinputs = experts_backward(builder, moe, doutputs);
    const int32_t dsent =
        collect(builder, moe, dinputs, true, (const char *[2]){"dreceived", "dsent"});
    const int32_t drouted = expert_tensor(builder, "dexperts_in", rows, hidden);
    hlm_builder_backward(builder, HLM_OP_UNPERMUTE, rows, hidden,
                         HLM_OPERANDS(dsent, moe->choice, -1, drouted), HLM_PART_INPUT_GRAD)
        ->k = moe->sent_rows;
    const int32_t drouter = router_backward(builder, moe, dweights);
    const int32_t dx = add(builder, drouted, drouter, "dmoe_in");
    if (!moe->has_shared) {
        return dx;
    }
    const int32_t dshared = hlm_mlp_backward(builder, &moe->shared, dy);
    return add(builder, dx, dshared, "dmoe_in_all");
}
