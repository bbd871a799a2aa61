#include <math.h>

#include "costmodel/lowering_blocks.h"

/* The weights of this rank's experts below each other: of each, `branches` times [rows, cols] in
 * the whole model, cut by etp along the rows of every branch, or along the columns. */
static int32_t expert_weight(struct hlm_builder *builder, const char *name, int32_t branches,
                             int64_t rows, int64_t cols, bool by_rows)
{
    const int64_t all = builder->model->moe.num_experts, etp = builder->strategy->etp;
    const int64_t local = all / builder->strategy->ep, each = branches * rows;
    const int64_t etp_rank = etp > 1 ? builder->tp_rank : 0;
    const int64_t num_rows = by_rows ? rows / etp : rows;
    struct hlm_param_slice slices[2];
    HLM_ASSERT(branches <= 2);
    for (int32_t i = 0; i < branches; i++) {
        slices[i].global_row =
            builder->input->ep_rank * local * each + i * rows + (by_rows ? etp_rank * num_rows : 0);
        slices[i].num_rows = num_rows;
    }
    const int32_t tensor =
        hlm_builder_repeated(builder, name, all * each, by_rows ? cols : cols / etp, slices,
                             branches, (int32_t)local, each);
    struct hlm_param *param = hlm_builder_param(builder, tensor);
    param->global_cols = cols;
    param->global_col = by_rows ? 0 : etp_rank * (cols / etp);
    param->expert = true;
    return tensor;
}

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Rows that there is room for where the experts of this rank are. */
static int64_t expert_room(const struct hlm_builder *builder, const struct hlm_moe *moe)
{
    const int64_t ranks = builder->strategy->ep, all = builder->model->moe.num_experts;
    const int64_t most = ranks * builder->shard_rows * min_of(moe->top_k, moe->num_experts);
    switch (builder->input->routing) {
    case HLM_ROUTING_BALANCED:
        return min_of(most, ranks * moe->num_experts * ((moe->sent_rows + all - 1) / all));
    case HLM_ROUTING_TOPK:
        return most;
    default:
        return moe->sent_rows;
    }
}

void hlm_moe_init(struct hlm_builder *builder, struct hlm_moe *moe)
{
    static const struct hlm_mlp_names shared = {"shared.fc1.weight", "shared.fc1.bias",
                                                "shared.fc2.weight", "shared.fc2.bias"};
    const struct hlm_model *model = builder->model;
    const struct hlm_strategy *strategy = builder->strategy;
    const int32_t branches = model->activation == HLM_ACTIVATION_SWIGLU ? 2 : 1;
    moe->top_k = model->moe.top_k;
    moe->num_experts = model->moe.num_experts / strategy->ep;
    moe->ffn_size = model->moe.ffn_size / strategy->etp;
    moe->sent_rows = builder->shard_rows * moe->top_k;
    moe->room = expert_room(builder, moe);
    moe->expert_rows = moe->room * strategy->etp;
    moe->router = hlm_builder_weight(builder, "router.weight", model->moe.num_experts,
                                     builder->hidden, HLM_WHOLE, 1);
    hlm_builder_set_partial(builder, moe->router);
    moe->fc1 = expert_weight(builder, "experts.fc1.weight", branches, model->moe.ffn_size,
                             builder->hidden, true);
    moe->fc2 = expert_weight(builder, "experts.fc2.weight", 1, builder->hidden, model->moe.ffn_size,
                             false);
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

static void set_exchange(struct hlm_op *op, int64_t copies)
{
    op->k = copies;
    op->group = HLM_GROUP_EP;
    op->stream = HLM_STREAM_EP;
}

static struct hlm_op *append(struct hlm_builder *builder, bool backward, enum hlm_op_kind kind,
                             int64_t m, int64_t n, const int32_t *operands)
{
    return backward ? hlm_builder_backward(builder, kind, m, n, operands, HLM_PART_INPUT_GRAD)
                    : hlm_builder_forward(builder, kind, m, n, operands);
}

/* Rows between ranks and the ranks of their experts, there (to_experts) or back. */
static void exchange_rows(struct hlm_builder *builder, const struct hlm_moe *moe, bool backward,
                          bool to_experts, int32_t from, int32_t to)
{
    const int32_t there = moe->counts, back = moe->received;
    struct hlm_op *op =
        append(builder, backward, HLM_OP_ALL_TO_ALL, moe->sent_rows, builder->hidden,
               HLM_OPERANDS(from, to, to_experts ? there : back, to_experts ? back : there));
    set_exchange(op, moe->top_k);
    op->num_experts = moe->num_experts;
    op->num_in = to_experts ? moe->sent_rows : moe->room;
    op->num_out = to_experts ? moe->room : moe->sent_rows;
}

/* Rows to the ranks of their experts; with etp every rank of it gets all rows of the experts. */
static int32_t dispatch(struct hlm_builder *builder, const struct hlm_moe *moe, int32_t sent,
                        bool backward, const char *names[2])
{
    const int64_t hidden = builder->hidden;
    int32_t rows = sent;
    if (builder->strategy->ep > 1) {
        rows = expert_tensor(builder, names[0], moe->room, hidden);
        exchange_rows(builder, moe, backward, true, sent, rows);
    }
    if (builder->strategy->etp > 1) {
        const int32_t all = expert_tensor(builder, names[1], moe->expert_rows, hidden);
        hlm_builder_tp(builder, append(builder, backward, HLM_OP_ALL_GATHER, moe->expert_rows,
                                       hidden, HLM_OPERANDS(rows, all)));
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
        const int32_t sum = expert_tensor(builder, names[0], moe->room, hidden);
        hlm_builder_tp(builder, append(builder, backward, HLM_OP_REDUCE_SCATTER, moe->expert_rows,
                                       hidden, HLM_OPERANDS(rows, sum)));
        rows = sum;
    }
    if (builder->strategy->ep > 1) {
        const int32_t returned = expert_tensor(builder, names[1], moe->sent_rows, hidden);
        exchange_rows(builder, moe, backward, false, rows, returned);
        rows = returned;
    }
    return rows;
}

/* Each rank learns how many rows its experts will get from each rank; with etp also those that came
 * to the other ranks of it. */
static void exchange_counts(struct hlm_builder *builder, struct hlm_moe *moe)
{
    const int64_t all = builder->model->moe.num_experts;
    moe->received = moe->counts;
    if (builder->strategy->ep > 1 && builder->traits->exchanges_counts) {
        moe->received = hlm_builder_fp32(builder, "received_counts", HLM_TENSOR_ACTIVATION, all, 1);
        struct hlm_op *op = hlm_builder_forward(builder, HLM_OP_ALL_TO_ALL, all, 1,
                                                HLM_OPERANDS(moe->counts, moe->received, -1, -1));
        set_exchange(op, 1);
        op->dtype = HLM_DTYPE_FP32;
    }
    moe->present = moe->received;
    moe->parts = 1;
    if (builder->strategy->etp > 1 && builder->traits->exchanges_counts) {
        moe->parts = builder->strategy->etp;
        moe->present =
            hlm_builder_fp32(builder, "present_counts", HLM_TENSOR_ACTIVATION, moe->parts * all, 1);
        hlm_builder_tp(builder, hlm_builder_forward(builder, HLM_OP_ALL_GATHER, moe->parts * all, 1,
                                                    HLM_OPERANDS(moe->received, moe->present)));
    }
}

static void route(struct hlm_builder *builder, struct hlm_moe *moe, int32_t x)
{
    const int64_t rows = builder->shard_rows, all = builder->model->moe.num_experts;
    moe->x = x;
    moe->scores = expert_tensor(builder, "scores", rows, all);
    hlm_builder_gemm(builder, x, moe->router, moe->scores, rows, all, builder->hidden);
    moe->weights = expert_tensor(builder, "route_weights", rows, moe->top_k);
    moe->choice = hlm_builder_fp32(builder, "choice", HLM_TENSOR_ACTIVATION, rows, moe->top_k);
    moe->counts = hlm_builder_fp32(builder, "counts", HLM_TENSOR_ACTIVATION, all, 1);
    struct hlm_op *op =
        hlm_builder_forward(builder, HLM_OP_ROUTE_FWD, rows, moe->top_k,
                            HLM_OPERANDS(moe->scores, moe->weights, moe->choice, moe->counts));
    op->k = all;
    op->first_row = builder->sp ? builder->tp_rank * rows : 0;
    op->balanced = builder->input->routing == HLM_ROUTING_BALANCED;
}

/* rows: of the tensor that the operator reads. */
static void set_permutation(const struct hlm_builder *builder, struct hlm_op *op, int64_t rows)
{
    op->k = rows;
    op->num_experts = builder->model->moe.num_experts;
}

static void set_counts(const struct hlm_builder *builder, const struct hlm_moe *moe,
                       struct hlm_op *op)
{
    op->num_experts = moe->num_experts;
    op->expert_ranks = moe->parts * builder->strategy->ep;
    op->expert_parts = moe->parts;
}

static void grouped(const struct hlm_builder *builder, const struct hlm_moe *moe, struct hlm_op *op,
                    enum hlm_gemm_layout layout, int64_t k)
{
    set_counts(builder, moe, op);
    op->layout = layout;
    op->k = k;
    op->accumulate = layout == HLM_GEMM_NT;
}

static void activates(const struct hlm_builder *builder, const struct hlm_moe *moe,
                      struct hlm_op *op)
{
    set_counts(builder, moe, op);
    op->activation = builder->model->activation;
}

static void run_experts(struct hlm_builder *builder, struct hlm_moe *moe)
{
    const int64_t rows = moe->expert_rows, hidden = builder->hidden;
    const int64_t fc1_cols =
        moe->ffn_size * (builder->model->activation == HLM_ACTIVATION_SWIGLU ? 2 : 1);
    moe->hidden = expert_tensor(builder, "expert_fc1", rows, fc1_cols);
    grouped(builder, moe,
            hlm_builder_forward(builder, HLM_OP_GROUPED_GEMM, rows, fc1_cols,
                                HLM_OPERANDS(moe->inputs, moe->fc1, moe->hidden, moe->present)),
            HLM_GEMM_TN, hidden);
    const int32_t active = hlm_builder_activation(builder, "expert_active", HLM_REMAKE_ACTIVATION,
                                                  rows, moe->ffn_size);
    activates(builder, moe,
              hlm_builder_forward(builder, HLM_OP_EXPERT_ACTIVATION_FWD, rows, moe->ffn_size,
                                  HLM_OPERANDS(moe->hidden, moe->present, active)));
    moe->active = active;
    moe->outputs = expert_tensor(builder, "expert_fc2", rows, hidden);
    grouped(builder, moe,
            hlm_builder_forward(builder, HLM_OP_GROUPED_GEMM, rows, hidden,
                                HLM_OPERANDS(active, moe->fc2, moe->outputs, moe->present)),
            HLM_GEMM_TN, moe->ffn_size);
}

int32_t hlm_moe_forward(struct hlm_builder *builder, struct hlm_moe *moe, int32_t x)
{
    const int64_t rows = builder->shard_rows, hidden = builder->hidden;
    route(builder, moe, x);
    const int32_t sent = expert_tensor(builder, "sent", moe->sent_rows, hidden);
    set_permutation(builder,
                    hlm_builder_forward(builder, HLM_OP_PERMUTE, moe->sent_rows, hidden,
                                        HLM_OPERANDS(x, moe->choice, -1, -1, sent, -1)),
                    rows);
    exchange_counts(builder, moe);
    moe->inputs =
        dispatch(builder, moe, sent, false, (const char *[2]){"received", "received_full"});
    run_experts(builder, moe);
    moe->returned =
        collect(builder, moe, moe->outputs, false, (const char *[2]){"expert_sum", "returned"});
    const int32_t routed = expert_tensor(builder, "routed", rows, hidden);
    set_permutation(
        builder,
        hlm_builder_forward(builder, HLM_OP_UNPERMUTE, rows, hidden,
                            HLM_OPERANDS(moe->returned, moe->choice, moe->weights, routed)),
        moe->sent_rows);
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
    grouped(builder, moe,
            hlm_builder_backward(builder, HLM_OP_GROUPED_GEMM, rows, in,
                                 HLM_OPERANDS(dy, weight, dx, moe->present), HLM_PART_INPUT_GRAD),
            HLM_GEMM_NN, out);
    grouped(
        builder, moe,
        hlm_builder_backward(builder, HLM_OP_GROUPED_GEMM, out, in,
                             HLM_OPERANDS(dy, x, hlm_builder_grad(builder, weight), moe->present),
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
    activates(builder, moe,
              hlm_builder_backward(
                  builder, HLM_OP_EXPERT_ACTIVATION_BWD, moe->expert_rows, moe->ffn_size,
                  HLM_OPERANDS(moe->hidden, moe->present, dactive, dhidden), HLM_PART_INPUT_GRAD));
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
    set_permutation(builder,
                    hlm_builder_backward(builder, HLM_OP_PERMUTE, moe->sent_rows, hidden,
                                         HLM_OPERANDS(dy, moe->choice, moe->weights, moe->returned,
                                                      dreturned, dweights),
                                         HLM_PART_INPUT_GRAD),
                    rows);
    const int32_t doutputs =
        dispatch(builder, moe, dreturned, true, (const char *[2]){"dexpert_sum", "dexpert_fc2"});
    const int32_t dinputs = experts_backward(builder, moe, doutputs);
    const int32_t dsent =
        collect(builder, moe, dinputs, true, (const char *[2]){"dreceived", "dsent"});
    const int32_t drouted = expert_tensor(builder, "dexperts_in", rows, hidden);
    set_permutation(builder,
                    hlm_builder_backward(builder, HLM_OP_UNPERMUTE, rows, hidden,
                                         HLM_OPERANDS(dsent, moe->choice, -1, drouted),
                                         HLM_PART_INPUT_GRAD),
                    moe->sent_rows);
    const int32_t drouter = router_backward(builder, moe, dweights);
    const int32_t dx = add(builder, drouted, drouter, "dmoe_in");
    if (!moe->has_shared) {
        return dx;
    }
    const int32_t dshared = hlm_mlp_backward(builder, &moe->shared, dy);
    return add(builder, dx, dshared, "dmoe_in_all");
}
