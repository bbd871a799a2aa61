#include "costmodel/lowering_blocks.h"

struct head {
    bool has_norm, has_dense, has_mtp;
    struct hlm_norm_layer norm;
    int32_t dense, dense_bias, dense_out; /* bert: x -> dense -> gelu -> norm -> logits */
    struct hlm_logits logits;             /* decoder, encoder */
    struct hlm_mtp mtp;
    int32_t classes, classes_bias, selected, scores; /* vit: classifier of the class token */
};

static void make_boundary(struct hlm_builder *builder)
{
    const int64_t rows = builder->shard_rows, hidden = builder->hidden;
    builder->block_input = hlm_builder_tensor(builder, "x", HLM_TENSOR_INPUT, rows, hidden);
    builder->grad_input = hlm_builder_tensor(builder, "dx", HLM_TENSOR_GRAD_INPUT, rows, hidden);
}

static int32_t stream(struct hlm_builder *builder, const char *name)
{
    return hlm_builder_activation(builder, name, HLM_REMAKE_NEVER, builder->shard_rows,
                                  builder->hidden);
}

/* The weight of the logits: its own; the embedding's table on this rank; or, with a pipeline, a
 * copy of that on the last stage. */
static int32_t logits_weight(struct hlm_builder *builder, int64_t vocab)
{
    if (builder->model->tied_embeddings && !builder->input->last_stage_copy) {
        return hlm_builder_shared(builder, "token", vocab / builder->tp, builder->hidden);
    }
    const int32_t weight =
        hlm_builder_weight(builder, "weight", vocab, builder->hidden, HLM_BY_ROWS, 1);
    if (builder->model->tied_embeddings) {
        hlm_builder_param(builder, weight)->tied = true;
        hlm_builder_param(builder, weight)->decay = false;
    }
    return weight;
}

static void logits_init(struct hlm_builder *builder, struct hlm_logits *logits)
{
    const int64_t vocab = hlm_model_padded_vocab(builder->model, builder->tp);
    struct hlm_column_linear *linear = &logits->linear;
    linear->weight = logits_weight(builder, vocab);
    linear->bias = builder->model->kind == HLM_MODEL_ENCODER
                       ? hlm_builder_weight(builder, "bias", vocab, 1, HLM_BY_ROWS, 1)
                       : -1;
    linear->in = builder->hidden;
    linear->out = vocab / builder->tp;
    logits->targets = hlm_builder_fp32(builder, "targets", HLM_TENSOR_TARGETS, builder->rows, 1);
    logits->loss = hlm_builder_fp32(builder, "loss", HLM_TENSOR_LOSS, 1, 1);
}

static struct hlm_op *xent(struct hlm_builder *builder, const struct hlm_logits *logits,
                           enum hlm_op_kind kind, const int32_t *operands)
{
    const int64_t first = builder->tp_rank * logits->linear.out;
    const int64_t real = builder->model->vocab_size - first;
    struct hlm_op *op =
        hlm_builder_forward(builder, kind, builder->rows, logits->linear.out, operands);
    op->first_row = first;
    op->valid_cols = real < 0 ? 0 : real < logits->linear.out ? real : logits->linear.out;
    op->counts_loss = kind == HLM_OP_XENT_GRAD && builder->tp_rank == 0;
    return op;
}

static void cross_entropy(struct hlm_builder *builder, const struct hlm_logits *logits)
{
    const int64_t rows = builder->rows;
    const int32_t max = hlm_builder_fp32(builder, "max", HLM_TENSOR_ACTIVATION, rows, 1);
    const int32_t sums = hlm_builder_fp32(builder, "sums", HLM_TENSOR_ACTIVATION, 2, rows);
    xent(builder, logits, HLM_OP_XENT_MAX, HLM_OPERANDS(logits->logits, max));
    if (builder->tp > 1) {
        hlm_builder_tp(builder, hlm_builder_forward(builder, HLM_OP_ALL_REDUCE_MAX, rows, 1,
                                                    HLM_OPERANDS(max)));
    }
    xent(builder, logits, HLM_OP_XENT_SUM,
         HLM_OPERANDS(logits->logits, logits->targets, max, sums));
    if (builder->tp > 1) {
        hlm_builder_tp(
            builder, hlm_builder_forward(builder, HLM_OP_ALL_REDUCE, 2, rows, HLM_OPERANDS(sums)));
    }
    xent(builder, logits, HLM_OP_XENT_GRAD,
         HLM_OPERANDS(logits->targets, max, sums, logits->logits, logits->loss));
}

void hlm_logits_forward(struct hlm_builder *builder, struct hlm_logits *logits, int32_t x)
{
    const int64_t rows = builder->rows, cols = logits->linear.out;
    logits->logits = builder->traits->fp32_logits
                         ? hlm_builder_fp32(builder, "logits", HLM_TENSOR_ACTIVATION, rows, cols)
                         : hlm_builder_activation(builder, "logits", HLM_REMAKE_NEVER, rows, cols);
    hlm_builder_column_forward(builder, &logits->linear, x, "logits_in", logits->logits);
    if (logits->linear.bias >= 0) {
        hlm_builder_forward(builder, HLM_OP_BIAS_ADD, rows, cols,
                            HLM_OPERANDS(logits->linear.bias, logits->logits));
    }
    cross_entropy(builder, logits);
}

int32_t hlm_logits_backward(struct hlm_builder *builder, const struct hlm_logits *logits)
{
    return hlm_builder_column_backward(builder, &logits->linear, logits->logits, "dlogits_in",
                                       "dlogits_in_shard");
}

static void text_init(struct hlm_builder *builder, struct head *head)
{
    const struct hlm_model *model = builder->model;
    const int64_t hidden = builder->hidden;
    head->has_dense = model->kind == HLM_MODEL_ENCODER;
    head->has_norm = head->has_dense || model->norm_placement == HLM_NORM_PLACEMENT_PRE;
    if (head->has_dense) {
        head->dense = hlm_builder_weight(builder, "dense.weight", hidden, hidden, HLM_WHOLE, 1);
        head->dense_bias = hlm_builder_weight(builder, "dense.bias", hidden, 1, HLM_WHOLE, 1);
        hlm_builder_set_partial(builder, head->dense);
        hlm_builder_set_partial(builder, head->dense_bias);
    }
    if (head->has_norm) {
        hlm_builder_norm_init(builder, &head->norm, "norm.weight", "norm.bias", builder->shard_rows,
                              hidden, true);
    }
    logits_init(builder, &head->logits);
    head->has_mtp = model->mtp_layers > 0;
    if (head->has_mtp) {
        hlm_mtp_init(builder, &head->mtp);
    }
}

/* The dense layer of bert's head is whole on every tp rank and works on shard rows. */
static int32_t dense_forward(struct hlm_builder *builder, struct head *head, int32_t x)
{
    const int64_t rows = builder->shard_rows, hidden = builder->hidden;
    head->dense_out = stream(builder, "dense");
    hlm_builder_gemm(builder, x, head->dense, head->dense_out, rows, hidden, hidden);
    const int32_t active = stream(builder, "dense_active");
    hlm_builder_forward(builder, HLM_OP_ACTIVATION_FWD, rows, hidden,
                        HLM_OPERANDS(head->dense_out, head->dense_bias, active))
        ->activation = HLM_ACTIVATION_GELU;
    return active;
}

static void dense_backward(struct hlm_builder *builder, const struct head *head, int32_t dactive,
                           int32_t x, int32_t dx)
{
    const int64_t rows = builder->shard_rows, hidden = builder->hidden;
    const int32_t ddense = stream(builder, "ddense");
    hlm_builder_backward(builder, HLM_OP_ACTIVATION_BWD, rows, hidden,
                         HLM_OPERANDS(head->dense_out, head->dense_bias, dactive, ddense),
                         HLM_PART_INPUT_GRAD)
        ->activation = HLM_ACTIVATION_GELU;
    hlm_builder_bias_grad(builder, ddense, head->dense_bias, rows, hidden);
    hlm_builder_gemm_input_grad(builder, ddense, head->dense, dx, rows, hidden, hidden);
    hlm_builder_gemm_weight_grad(builder, ddense, x, head->dense, rows, hidden, hidden);
}

static void text_forward(struct hlm_builder *builder, struct head *head)
{
    int32_t x = builder->block_input;
    if (head->has_dense) {
        x = dense_forward(builder, head, x);
    }
    if (head->has_norm) {
        const int32_t y = stream(builder, "norm");
        hlm_builder_norm_forward(builder, &head->norm, x, y, "stats");
        x = y;
    }
    hlm_logits_forward(builder, &head->logits, x);
    if (head->has_mtp) {
        hlm_mtp_forward(builder, &head->mtp, &head->logits, builder->block_input);
    }
}

static void text_backward(struct hlm_builder *builder, const struct head *head)
{
    const int32_t dmtp = head->has_mtp ? hlm_mtp_backward(builder, &head->mtp) : -1;
    const int32_t dy = hlm_logits_backward(builder, &head->logits);
    if (head->has_dense) {
        const int32_t dactive = stream(builder, "ddense_active");
        hlm_builder_norm_backward(builder, &head->norm, dy, -1, dactive);
        dense_backward(builder, head, dactive, builder->block_input, builder->grad_input);
    } else {
        hlm_builder_norm_backward(builder, &head->norm, dy, dmtp, builder->grad_input);
    }
}

static void image_init(struct hlm_builder *builder, struct head *head)
{
    const int64_t classes = builder->model->vit.num_classes;
    hlm_builder_norm_init(builder, &head->norm, "norm.weight", "norm.bias", builder->shard_rows,
                          builder->hidden, true);
    head->classes = hlm_builder_weight(builder, "weight", classes, builder->hidden, HLM_WHOLE, 1);
    head->classes_bias = hlm_builder_weight(builder, "bias", classes, 1, HLM_WHOLE, 1);
}

/* Every tp rank has all classes, so it needs no collective for the cross-entropy. */
static void image_cross_entropy(struct hlm_builder *builder, const struct head *head)
{
    const int64_t rows = builder->strategy->microbatch_size;
    const int64_t classes = builder->model->vit.num_classes;
    const int32_t targets = hlm_builder_fp32(builder, "targets", HLM_TENSOR_TARGETS, rows, 1);
    const int32_t loss = hlm_builder_fp32(builder, "loss", HLM_TENSOR_LOSS, 1, 1);
    const int32_t max = hlm_builder_fp32(builder, "max", HLM_TENSOR_ACTIVATION, rows, 1);
    const int32_t sums = hlm_builder_fp32(builder, "sums", HLM_TENSOR_ACTIVATION, 2, rows);
    hlm_builder_forward(builder, HLM_OP_XENT_MAX, rows, classes, HLM_OPERANDS(head->scores, max))
        ->valid_cols = classes;
    hlm_builder_forward(builder, HLM_OP_XENT_SUM, rows, classes,
                        HLM_OPERANDS(head->scores, targets, max, sums))
        ->valid_cols = classes;
    struct hlm_op *op = hlm_builder_forward(builder, HLM_OP_XENT_GRAD, rows, classes,
                                            HLM_OPERANDS(targets, max, sums, head->scores, loss));
    op->valid_cols = classes;
    op->counts_loss = builder->tp_rank == 0;
}

static void image_forward(struct hlm_builder *builder, struct head *head)
{
    const int64_t batch = builder->strategy->microbatch_size, hidden = builder->hidden;
    const int64_t classes = builder->model->vit.num_classes;
    const int32_t norm = stream(builder, "norm");
    hlm_builder_norm_forward(builder, &head->norm, builder->block_input, norm, "stats");
    const int32_t rows = hlm_builder_gather(builder, norm, "norm_full");
    head->selected = hlm_builder_activation(builder, "selected", HLM_REMAKE_NEVER, batch, hidden);
    hlm_builder_forward(builder, HLM_OP_SELECT_FWD, batch, hidden,
                        HLM_OPERANDS(rows, head->selected));
    head->scores = hlm_builder_activation(builder, "logits", HLM_REMAKE_NEVER, batch, classes);
    hlm_builder_gemm(builder, head->selected, head->classes, head->scores, batch, classes, hidden);
    hlm_builder_forward(builder, HLM_OP_BIAS_ADD, batch, classes,
                        HLM_OPERANDS(head->classes_bias, head->scores));
    image_cross_entropy(builder, head);
}

/* Equal on all tp ranks up to the slice, so nothing is reduced. */
static void image_backward(struct hlm_builder *builder, const struct head *head)
{
    const int64_t batch = builder->strategy->microbatch_size, hidden = builder->hidden;
    const int64_t classes = builder->model->vit.num_classes;
    const int32_t dselected =
        hlm_builder_tensor(builder, "dselected", HLM_TENSOR_ACTIVATION, batch, hidden);
    hlm_builder_bias_grad(builder, head->scores, head->classes_bias, batch, classes);
    hlm_builder_gemm_input_grad(builder, head->scores, head->classes, dselected, batch, classes,
                                hidden);
    hlm_builder_gemm_weight_grad(builder, head->scores, head->selected, head->classes, batch,
                                 classes, hidden);
    int32_t dnorm =
        hlm_builder_tensor(builder, "dnorm_full", HLM_TENSOR_ACTIVATION, builder->rows, hidden);
    hlm_builder_backward(builder, HLM_OP_SELECT_BWD, batch, hidden, HLM_OPERANDS(dselected, dnorm),
                         HLM_PART_INPUT_GRAD);
    if (builder->sp) {
        const int32_t shard = stream(builder, "dnorm");
        hlm_builder_backward(builder, HLM_OP_SLICE_ROWS, builder->shard_rows, hidden,
                             HLM_OPERANDS(dnorm, shard), HLM_PART_INPUT_GRAD)
            ->first_row = builder->tp_rank * builder->shard_rows;
        dnorm = shard;
    }
    hlm_builder_norm_backward(builder, &head->norm, dnorm, -1, builder->grad_input);
}

void hlm_lower_head(struct hlm_builder *builder)
{
    struct head head;
    make_boundary(builder);
    if (builder->model->kind == HLM_MODEL_VIT) {
        image_init(builder, &head);
        image_forward(builder, &head);
        image_backward(builder, &head);
    } else {
        text_init(builder, &head);
        text_forward(builder, &head);
        text_backward(builder, &head);
    }
}
