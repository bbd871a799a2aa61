#include "costmodel/block_builder.h"

#include <math.h>
#include <string.h>

static const double init_deviation = 0.02;

void hlm_builder_init(struct hlm_builder *builder, struct hlm_arena *arena,
                      const struct hlm_lowering_input *input,
                      const struct hlm_lowering_traits *traits, enum hlm_block_kind kind,
                      enum hlm_recompute recompute)
{
    const struct hlm_strategy *strategy = input->strategy;
    builder->arena = arena;
    builder->model = input->model;
    builder->strategy = strategy;
    builder->input = input;
    builder->traits = traits;
    builder->kind = kind;
    builder->recompute = recompute;
    builder->prefix = NULL;
    builder->rows = strategy->microbatch_size * strategy->seq_len / strategy->cp;
    builder->hidden = input->model->hidden_size;
    builder->tp = strategy->tp;
    builder->tp_rank = input->tp_rank;
    builder->sp = strategy->sp && strategy->tp > 1;
    builder->shard_rows = builder->sp ? builder->rows / builder->tp : builder->rows;
    builder->num_tensors = builder->num_params = 0;
    builder->num_forward = builder->num_backward = 0;
    builder->block_input = builder->block_output = -1;
    builder->grad_output = builder->grad_input = -1;
}

static int32_t add_tensor(struct hlm_builder *builder, const struct hlm_tensor *tensor,
                          enum hlm_remake remake)
{
    HLM_ASSERT(builder->num_tensors < HLM_BUILDER_MAX_TENSORS);
    HLM_ASSERT(tensor->rows > 0 && tensor->cols > 0);
    const int32_t index = builder->num_tensors++;
    builder->tensors[index] = *tensor;
    builder->remake[index] = (unsigned char)remake;
    builder->first_writer[index] = builder->last_writer[index] = -1;
    return index;
}

int32_t hlm_builder_tensor(struct hlm_builder *builder, const char *name, enum hlm_tensor_role role,
                           int64_t rows, int64_t cols)
{
    const struct hlm_tensor tensor = {name, role, hlm_dtype_storage(builder->strategy->dtype),
                                      rows, cols, -1};
    return add_tensor(builder, &tensor, HLM_REMAKE_NEVER);
}

int32_t hlm_builder_fp32(struct hlm_builder *builder, const char *name, enum hlm_tensor_role role,
                         int64_t rows, int64_t cols)
{
    const struct hlm_tensor tensor = {name, role, HLM_DTYPE_FP32, rows, cols, -1};
    return add_tensor(builder, &tensor, HLM_REMAKE_NEVER);
}

int32_t hlm_builder_activation(struct hlm_builder *builder, const char *name,
                               enum hlm_remake remake, int64_t rows, int64_t cols)
{
    const int32_t index = hlm_builder_tensor(builder, name, HLM_TENSOR_ACTIVATION, rows, cols);
    builder->remake[index] = (unsigned char)remake;
    return index;
}

/* Tensors of a parameter: the values, and behind them the gradient. */
static int32_t add_param(struct hlm_builder *builder, const char *name, struct hlm_param param)
{
    HLM_ASSERT(builder->num_params < HLM_BUILDER_MAX_PARAMS);
    const int32_t index = builder->num_params++;
    const struct hlm_strategy *strategy = builder->strategy;
    param.name = builder->prefix == NULL
                     ? name
                     : hlm_arena_printf(builder->arena, "%s%s", builder->prefix, name);
    const struct hlm_tensor value = {
        param.name, HLM_TENSOR_PARAM, hlm_dtype_storage(strategy->dtype),
        param.rows, param.cols,       index};
    const struct hlm_tensor grad = {param.name, HLM_TENSOR_GRAD, strategy->grad_dtype,
                                    param.rows, param.cols,      index};
    param.init_mean = 0.0;
    param.init_std = init_deviation;
    param.decay = param.global_cols > 1;
    param.param = add_tensor(builder, &value, HLM_REMAKE_NEVER);
    param.grad = add_tensor(builder, &grad, HLM_REMAKE_NEVER);
    builder->params[index] = param;
    return param.param;
}

int32_t hlm_builder_weight(struct hlm_builder *builder, const char *name, int64_t rows,
                           int64_t cols, enum hlm_spread spread, int32_t num_parts)
{
    const int64_t row_ranks = spread == HLM_BY_ROWS ? builder->tp : 1;
    const int64_t col_ranks = spread == HLM_BY_COLS ? builder->tp : 1;
    const int64_t part_rows = rows / num_parts;
    struct hlm_param param = {
        .rows = rows / row_ranks,
        .cols = cols / col_ranks,
        .global_rows = rows,
        .global_cols = cols,
        .num_slices = num_parts,
        .replicated = spread == HLM_WHOLE,
    };
    param.global_col = spread == HLM_BY_COLS ? builder->tp_rank * param.cols : 0;
    for (int32_t i = 0; i < num_parts; i++) {
        const int64_t num_rows = part_rows / row_ranks;
        const int64_t first = spread == HLM_BY_ROWS ? builder->tp_rank * num_rows : 0;
        param.slices[i] = (struct hlm_param_slice){i * part_rows + first, num_rows};
    }
    return add_param(builder, name, param);
}

int32_t hlm_builder_repeated(struct hlm_builder *builder, const char *name, int64_t global_rows,
                             int64_t cols, const struct hlm_param_slice *slices, int32_t num_slices,
                             int32_t num_repeats, int64_t repeat_rows)
{
    struct hlm_param param = {
        .cols = cols,
        .global_rows = global_rows,
        .global_cols = cols,
        .num_slices = num_slices,
        .repeat_rows = repeat_rows,
    };
    for (int32_t i = 0; i < num_slices; i++) {
        param.slices[i] = slices[i];
        param.rows += num_repeats * slices[i].num_rows;
    }
    return add_param(builder, name, param);
}

int32_t hlm_builder_sliced(struct hlm_builder *builder, const char *name, int64_t global_rows,
                           int64_t cols, const struct hlm_param_slice *slices, int32_t num_slices)
{
    return hlm_builder_repeated(builder, name, global_rows, cols, slices, num_slices, 1, 0);
}

int32_t hlm_builder_shared(struct hlm_builder *builder, const char *name, int64_t rows,
                           int64_t cols)
{
    const struct hlm_strategy *strategy = builder->strategy;
    const struct hlm_tensor value = {
        name, HLM_TENSOR_PARAM, hlm_dtype_storage(strategy->dtype), rows, cols, -1};
    const struct hlm_tensor grad = {name, HLM_TENSOR_GRAD, strategy->grad_dtype, rows, cols, -1};
    const int32_t index = add_tensor(builder, &value, HLM_REMAKE_NEVER);
    add_tensor(builder, &grad, HLM_REMAKE_NEVER);
    return index;
}

struct hlm_param *hlm_builder_param(struct hlm_builder *builder, int32_t tensor)
{
    HLM_ASSERT(builder->tensors[tensor].param >= 0);
    return &builder->params[builder->tensors[tensor].param];
}

int32_t hlm_builder_grad(const struct hlm_builder *builder, int32_t tensor)
{
    HLM_ASSERT(tensor < 0 || builder->tensors[tensor + 1].role == HLM_TENSOR_GRAD);
    return tensor < 0 ? -1 : tensor + 1;
}

void hlm_builder_set_partial(struct hlm_builder *builder, int32_t tensor)
{
    if (tensor >= 0) {
        hlm_builder_param(builder, tensor)->sum_over_tp = builder->sp;
    }
}

static struct hlm_op make_op(const struct hlm_builder *builder, enum hlm_op_kind kind, int64_t m,
                             int64_t n, const int32_t *operands, enum hlm_op_part part)
{
    const enum hlm_dtype dtype = builder->strategy->dtype;
    const bool product = kind == HLM_OP_GEMM || kind == HLM_OP_GROUPED_GEMM;
    const struct hlm_context context =
        hlm_context_of(builder->model, builder->strategy, builder->input->cp_rank);
    struct hlm_op op = {
        .kind = kind,
        .part = part,
        .dtype = product ? dtype : hlm_dtype_storage(dtype),
        .m = m,
        .n = n,
        .batch = (int32_t)builder->strategy->microbatch_size,
        .seq_len = builder->strategy->seq_len,
        .context_ranks = context.ranks,
        .context_rank = context.rank,
        .context_chunks = context.chunks,
    };
    const int32_t num_operands = hlm_op_num_operands(kind);
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        op.operands[i] = i < num_operands ? operands[i] : -1;
    }
    return op;
}

struct hlm_op *hlm_builder_forward(struct hlm_builder *builder, enum hlm_op_kind kind, int64_t m,
                                   int64_t n, const int32_t *operands)
{
    HLM_ASSERT(builder->num_forward < HLM_BUILDER_MAX_FORWARD);
    const int32_t index = builder->num_forward++;
    struct hlm_op *op = &builder->forward[index];
    *op = make_op(builder, kind, m, n, operands, HLM_PART_FORWARD);
    const int32_t num_operands = hlm_op_num_operands(kind);
    for (int32_t i = 0; i < num_operands; i++) {
        if (hlm_op_writes(op, i)) {
            const int32_t tensor = op->operands[i];
            builder->last_writer[tensor] = (int16_t)index;
            if (builder->first_writer[tensor] < 0) {
                builder->first_writer[tensor] = (int16_t)index;
            }
        }
    }
    return op;
}

struct hlm_op *hlm_builder_backward(struct hlm_builder *builder, enum hlm_op_kind kind, int64_t m,
                                    int64_t n, const int32_t *operands, enum hlm_op_part part)
{
    HLM_ASSERT(builder->num_backward < HLM_BUILDER_MAX_BACKWARD);
    struct hlm_builder_grad_op *grad = &builder->backward[builder->num_backward++];
    grad->op = make_op(builder, kind, m, n, operands, part);
    grad->wanted = -1;
    return &grad->op;
}

struct hlm_op *hlm_builder_tp(struct hlm_builder *builder, struct hlm_op *op)
{
    op->group = HLM_GROUP_TP;
    op->stream = HLM_STREAM_TP;
    op->dtype = builder->tensors[op->operands[0]].dtype;
    return op;
}

/* The backward while it is put together: which forward operators it repeats already, and which
 * tensors are there. */
struct assembly {
    struct hlm_builder *builder;
    int32_t scratch; /* stands in for the block's output in repeated operators */
    bool early;      /* what is repeated now runs ahead of its reader */
    bool repeated[HLM_BUILDER_MAX_FORWARD];
    bool there[HLM_BUILDER_MAX_TENSORS];
    int32_t num_ops;
    struct hlm_op ops[HLM_BUILDER_MAX_FORWARD * 2 + HLM_BUILDER_MAX_BACKWARD];
};

static bool is_dropped(const struct hlm_builder *builder, int32_t tensor)
{
    if (builder->first_writer[tensor] < 0 ||
        builder->tensors[tensor].role != HLM_TENSOR_ACTIVATION) {
        return false;
    }
    return builder->recompute == HLM_RECOMPUTE_FULL ||
           (builder->remake[tensor] & builder->traits->drops[builder->recompute]) != 0;
}

static bool op_uses(const struct hlm_op *op, int32_t tensor,
                    bool (*uses)(const struct hlm_op *, int32_t))
{
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        if (op->operands[i] == tensor && uses(op, i)) {
            return true;
        }
    }
    return false;
}

static void append_repeated(struct assembly *assembly, int32_t index)
{
    struct hlm_builder *builder = assembly->builder;
    struct hlm_op *op = &assembly->ops[assembly->num_ops++];
    *op = builder->forward[index];
    op->recompute = true;
    op->overlaps_next =
        assembly->early && builder->traits->overlaps && hlm_op_is_collective(op->kind);
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        if (op->operands[i] < 0 || op->operands[i] != builder->block_output) {
            continue;
        }
        if (assembly->scratch < 0) {
            const struct hlm_tensor *output = &builder->tensors[builder->block_output];
            assembly->scratch = hlm_builder_activation(builder, "output_again", HLM_REMAKE_NEVER,
                                                       output->rows, output->cols);
        }
        op->operands[i] = assembly->scratch;
    }
}

static void demand(struct assembly *assembly, int32_t tensor);

static void repeat(struct assembly *assembly, int32_t index)
{
    const struct hlm_op *op = &assembly->builder->forward[index];
    if (assembly->repeated[index]) {
        return;
    }
    assembly->repeated[index] = true;
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        if (hlm_op_reads(op, i) && !hlm_op_writes(op, i)) {
            demand(assembly, op->operands[i]);
        }
    }
    append_repeated(assembly, index);
}

static void demand(struct assembly *assembly, int32_t tensor)
{
    const struct hlm_builder *builder = assembly->builder;
    if (assembly->there[tensor] || !is_dropped(builder, tensor)) {
        return;
    }
    assembly->there[tensor] = true;
    for (int32_t f = builder->first_writer[tensor]; f <= builder->last_writer[tensor]; f++) {
        if (op_uses(&builder->forward[f], tensor, hlm_op_writes)) {
            repeat(assembly, f);
        }
    }
}

static void demand_operands(struct assembly *assembly, const struct hlm_builder_grad_op *grad)
{
    if (grad->wanted >= 0) {
        assembly->early = true;
        demand(assembly, grad->wanted);
        assembly->early = false;
    }
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        if (hlm_op_reads(&grad->op, i)) {
            demand(assembly, grad->op.operands[i]);
        }
    }
}

/* Full recompute: all that the backward needs stands at its start, in forward order. */
static void repeat_forward(struct assembly *assembly)
{
    const struct hlm_builder *builder = assembly->builder;
    for (int32_t b = 0; b < builder->num_backward; b++) {
        demand_operands(assembly, &builder->backward[b]);
    }
    assembly->num_ops = 0;
    for (int32_t f = 0; f < builder->num_forward; f++) {
        if (assembly->repeated[f] || builder->traits->repeats_all) {
            append_repeated(assembly, f);
        }
    }
    for (int32_t t = 0; builder->traits->repeats_all && t < builder->num_tensors; t++) {
        if (builder->remake[t] == HLM_REMAKE_GATHERED) {
            assembly->there[t] = false;
            assembly->repeated[builder->first_writer[t]] = false;
        }
    }
}

static void assemble_backward(struct assembly *assembly)
{
    const struct hlm_builder *builder = assembly->builder;
    if (builder->recompute == HLM_RECOMPUTE_FULL) {
        repeat_forward(assembly);
    }
    for (int32_t b = 0; b < builder->num_backward; b++) {
        demand_operands(assembly, &builder->backward[b]);
        assembly->ops[assembly->num_ops++] = builder->backward[b].op;
    }
}

/* A repeated operator belongs to I when an operator of I reads what it makes, directly or not. */
static void assign_parts(struct assembly *assembly)
{
    bool read_by_input_grad[HLM_BUILDER_MAX_TENSORS] = {false};
    for (int32_t o = assembly->num_ops - 1; o >= 0; o--) {
        struct hlm_op *op = &assembly->ops[o];
        if (op->recompute) {
            op->part = HLM_PART_WEIGHT_GRAD;
            for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
                if (hlm_op_writes(op, i) && read_by_input_grad[op->operands[i]]) {
                    op->part = HLM_PART_INPUT_GRAD;
                }
            }
        }
        for (int32_t i = 0; op->part == HLM_PART_INPUT_GRAD && i < HLM_OP_MAX_OPERANDS; i++) {
            if (hlm_op_reads(op, i)) {
                read_by_input_grad[op->operands[i]] = true;
            }
        }
    }
}

static void fill_costs(const struct hlm_builder *builder, struct hlm_op *op)
{
    op->flops = hlm_op_flops(op);
    op->bytes = hlm_op_bytes(op, builder->tensors);
}

#define COPY(arena, array, count)                                                                  \
    hlm_arena_memdup((arena), (array), (size_t)(count) * sizeof *(array))

static const struct hlm_block *copy_block(const struct hlm_builder *builder,
                                          const struct assembly *assembly)
{
    struct hlm_arena *arena = builder->arena;
    struct hlm_block *block = HLM_ARENA_NEW(arena, struct hlm_block);
    *block = (struct hlm_block){
        .kind = builder->kind,
        .recompute = builder->recompute,
        .tensors = COPY(arena, builder->tensors, builder->num_tensors),
        .num_tensors = builder->num_tensors,
        .params = COPY(arena, builder->params, builder->num_params),
        .num_params = builder->num_params,
        .forward = COPY(arena, builder->forward, builder->num_forward),
        .backward = COPY(arena, assembly->ops, assembly->num_ops),
        .num_forward = builder->num_forward,
        .num_backward = assembly->num_ops,
        .input = builder->block_input,
        .output = builder->block_output,
        .grad_output = builder->grad_output,
        .grad_input = builder->grad_input,
        .activation_rows = builder->shard_rows,
    };
    return block;
}

const struct hlm_block *hlm_builder_finish(struct hlm_builder *builder)
{
    struct assembly assembly;
    assembly.builder = builder;
    assembly.scratch = -1;
    assembly.early = false;
    assembly.num_ops = 0;
    memset(assembly.repeated, 0, sizeof assembly.repeated);
    memset(assembly.there, 0, sizeof assembly.there);
    for (int32_t f = 0; f < builder->num_forward; f++) {
        fill_costs(builder, &builder->forward[f]);
    }
    for (int32_t b = 0; b < builder->num_backward; b++) {
        fill_costs(builder, &builder->backward[b].op);
    }
    assemble_backward(&assembly);
    assign_parts(&assembly);
    return copy_block(builder, &assembly);
}
