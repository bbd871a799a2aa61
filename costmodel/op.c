#include "costmodel/op.h"

#include <math.h>
#include <string.h>

#define X(name, text, operands) text,
const char *const hlm_op_texts[] = {HLM_OP_MAP(X) NULL};
#undef X
#define X(name, text, operands) operands,
const char *const hlm_op_operand_texts[] = {HLM_OP_MAP(X) NULL};
#undef X
#define X(name, text) text,
const char *const hlm_stream_texts[] = {HLM_STREAM_MAP(X) NULL};
const char *const hlm_group_texts[] = {HLM_GROUP_MAP(X) NULL};
const char *const hlm_tensor_role_texts[] = {HLM_TENSOR_ROLE_MAP(X) NULL};
const char *const hlm_block_texts[] = {HLM_BLOCK_MAP(X) NULL};
#undef X

/* Modes: one of '<' '>' '+' per operand, as in HLM_OP_MAP (a test holds them equal). Shapes:
 * "rows.cols" per operand, each a product of the letters m n k of the operator, b batch, s seq_len,
 * r those of them on this rank, c context_ranks, h heads, e num_experts, g expert_ranks, S
 * statistics of the norm (2 or 1), Q columns of qkv, K those of its keys and values, A columns
 * before the activation, digits, and ? for a size that the operator does not fix. */
struct signature {
    const char *modes, *shapes;
};

static const struct signature signatures[HLM_NUM_OPS] = {
    [HLM_OP_EMBED_FWD] = {"<<>", "m.1 k.n m.n"},
    [HLM_OP_EMBED_BWD] = {"<<+", "m.1 m.n k.n"},
    [HLM_OP_POSITION_FWD] = {"<<+", "?.n ?.n m.n"},
    [HLM_OP_POSITION_BWD] = {"<++", "m.n ?.n ?.n"},
    [HLM_OP_PATCHIFY] = {"<>", "b.? m.n"},
    [HLM_OP_PATCH_ASSEMBLE_FWD] = {"<<<>", "?.n n.1 s.n m.n"},
    [HLM_OP_PATCH_ASSEMBLE_BWD] = {"<>++", "m.n ?.n n.1 s.n"},
    [HLM_OP_NORM_FWD] = {"<<<>>", "m.n n.1 n.1 m.n m.S"},
    [HLM_OP_NORM_BWD] = {"<<<<<>++", "m.n m.n n.1 m.S m.n m.n n.1 n.1"},
    [HLM_OP_GEMM] = {"<<+", NULL},
    [HLM_OP_BIAS_ADD] = {"<+", "n.1 m.n"},
    [HLM_OP_BIAS_GRAD] = {"<+", "m.n n.1"},
    [HLM_OP_ROPE_FWD] = {"+", "m.Q"},
    [HLM_OP_ROPE_BWD] = {"+", "m.Q"},
    [HLM_OP_ATTENTION_FWD] = {"<>>><", "m.Q m.n bh.r bhr.s cm.K"},
    [HLM_OP_ATTENTION_BWD] = {"<<<<<><>", "m.Q m.n m.n bh.r bhr.s m.Q cm.K cm.K"},
    [HLM_OP_KV_SPLIT] = {"<>", "m.Q m.K"},
    [HLM_OP_KV_JOIN] = {"<+", "m.K m.Q"},
    [HLM_OP_HEADS_SPLIT] = {"<>", "m.kn km.n"},
    [HLM_OP_HEADS_JOIN] = {"<>", "km.n m.kn"},
    [HLM_OP_ACTIVATION_FWD] = {"<<>", "m.A n.1 m.n"},
    [HLM_OP_ACTIVATION_BWD] = {"<<<>", "m.A n.1 m.n m.A"},
    [HLM_OP_BIAS_RESIDUAL] = {"<<<>", "m.n n.1 m.n m.n"},
    [HLM_OP_ADD] = {"<<>", "m.n m.n m.n"},
    [HLM_OP_SELECT_FWD] = {"<>", "bs.n m.n"},
    [HLM_OP_SELECT_BWD] = {"<>", "m.n bs.n"},
    [HLM_OP_SLICE_ROWS] = {"<>", "?.n m.n"},
    [HLM_OP_XENT_MAX] = {"<>", "m.n m.1"},
    [HLM_OP_XENT_SUM] = {"<<<>", "m.n m.1 m.1 2.m"},
    [HLM_OP_XENT_GRAD] = {"<<<++", "m.1 m.1 2.m m.n 1.1"},
    [HLM_OP_MLA_ASSEMBLE_FWD] = {"<<<>", "m.? m.? ?.? m.Q"},
    [HLM_OP_MLA_ASSEMBLE_BWD] = {"<>>>", "m.Q m.? m.? ?.?"},
    [HLM_OP_ROUTE_FWD] = {"<>>>", "m.k m.n m.n k.1"},
    [HLM_OP_ROUTE_BWD] = {"<<<>", "m.n m.n m.n m.k"},
    [HLM_OP_PERMUTE] = {"<<<<>>", "k.n k.? k.? m.n m.n k.?"},
    [HLM_OP_UNPERMUTE] = {"<<<>", "k.n m.? m.? m.n"},
    [HLM_OP_GROUPED_GEMM] = {"<<+<", NULL},
    [HLM_OP_EXPERT_ACTIVATION_FWD] = {"<<>", "m.A eg.1 m.n"},
    [HLM_OP_EXPERT_ACTIVATION_BWD] = {"<<<>", "m.A eg.1 m.n m.A"},
    [HLM_OP_ALL_REDUCE] = {"+", "m.n"},
    [HLM_OP_ALL_REDUCE_MAX] = {"+", "m.n"},
    [HLM_OP_ALL_GATHER] = {"<>", "?.n m.n"},
    [HLM_OP_REDUCE_SCATTER] = {"<>", "m.n ?.n"},
    [HLM_OP_ALL_TO_ALL] = {"<><<", "?.n ?.n ?.1 ?.1"},
    [HLM_OP_FILL_ZERO] = {">", "m.1"},
    [HLM_OP_SUM_SQUARES] = {"<+", "m.1 1.1"},
    [HLM_OP_ADAMW] = {"<++++", "m.1 m.1 m.1 m.1 m.1"},
};

/* Shapes of a, b and c by layout; grouped: one weight per expert, rows of all experts together. */
static const char *gemm_shapes(const struct hlm_op *op)
{
    static const char *const single[] = {
        [HLM_GEMM_TN] = "m.k n.k m.n",
        [HLM_GEMM_NN] = "m.k k.n m.n",
        [HLM_GEMM_NT] = "k.m k.n m.n",
    };
    static const char *const grouped[] = {
        [HLM_GEMM_TN] = "m.k en.k m.n eg.1",
        [HLM_GEMM_NN] = "m.k ek.n m.n eg.1",
        [HLM_GEMM_NT] = "k.m k.n em.n eg.1",
    };
    HLM_ASSERT(op->layout == HLM_GEMM_TN || op->layout == HLM_GEMM_NN || op->layout == HLM_GEMM_NT);
    return op->kind == HLM_OP_GEMM ? single[op->layout] : grouped[op->layout];
}

static bool is_gemm(enum hlm_op_kind kind)
{
    return kind == HLM_OP_GEMM || kind == HLM_OP_GROUPED_GEMM;
}

double hlm_tensor_bytes(const struct hlm_tensor *tensor)
{
    return (double)tensor->rows * (double)tensor->cols * hlm_dtype_bytes(tensor->dtype);
}

static int64_t sliced_rows(const struct hlm_param *param)
{
    int64_t rows = 0;
    for (int32_t s = 0; s < param->num_slices; s++) {
        rows += param->slices[s].num_rows;
    }
    return rows;
}

int64_t hlm_param_global_row(const struct hlm_param *param, int64_t row)
{
    HLM_ASSERT(row >= 0 && row < param->rows);
    const int64_t once = sliced_rows(param), turn = row / once;
    int32_t s = 0;
    for (row %= once; row >= param->slices[s].num_rows; s++) {
        row -= param->slices[s].num_rows;
    }
    return turn * param->repeat_rows + param->slices[s].global_row + row;
}

const char *hlm_param_global_name(struct hlm_arena *arena, enum hlm_block_kind kind, int32_t layer,
                                  const struct hlm_param *param)
{
    if (param->tied) {
        return "embed.token";
    }
    if (kind == HLM_BLOCK_EMBEDDING || kind == HLM_BLOCK_HEAD) {
        const char *block = kind == HLM_BLOCK_HEAD ? "head" : "embed";
        return hlm_arena_printf(arena, "%s.%s", block, param->name);
    }
    return hlm_arena_printf(arena, "layer.%d.%s", layer, param->name);
}

int32_t hlm_op_num_operands(enum hlm_op_kind kind)
{
    HLM_ASSERT((int)kind >= 0 && kind < HLM_NUM_OPS);
    int32_t num = 0;
    while (signatures[kind].modes[num] != '\0') { /* few: a call to count them takes longer */
        num++;
    }
    return num;
}

bool hlm_op_reads(const struct hlm_op *op, int32_t operand)
{
    if (op->operands[operand] < 0) {
        return false;
    }
    const char mode = signatures[op->kind].modes[operand];
    return mode == '<' || (mode == '+' && (!is_gemm(op->kind) || op->accumulate));
}

bool hlm_op_writes(const struct hlm_op *op, int32_t operand)
{
    return op->operands[operand] >= 0 && signatures[op->kind].modes[operand] != '<';
}

bool hlm_op_is_collective(enum hlm_op_kind kind)
{
    return kind >= HLM_OP_ALL_REDUCE && kind <= HLM_OP_ALL_TO_ALL;
}

struct hlm_context hlm_op_context(const struct hlm_op *op)
{
    return (struct hlm_context){.ranks = op->context_ranks > 1 ? op->context_ranks : 1,
                                .rank = op->context_rank,
                                .chunks = op->context_chunks > 1 ? op->context_chunks : 1};
}

int64_t hlm_op_position(const struct hlm_op *op, int64_t row)
{
    const struct hlm_context context = hlm_op_context(op);
    return hlm_context_position(&context, op->seq_len,
                                row % hlm_context_own_len(&context, op->seq_len));
}

bool hlm_op_gathers_context(const struct hlm_op *op)
{
    const bool backward = op->kind == HLM_OP_ATTENTION_BWD;
    return op->context_ranks > 1 && (op->kind == HLM_OP_ATTENTION_FWD || backward) &&
           op->operands[backward ? 6 : 4] >= 0;
}

/* Query-key pairs of one sequence. */
static double num_scores(const struct hlm_op *op)
{
    const double tokens = (double)op->seq_len;
    const double window = op->window > 0 ? fmin((double)op->window, tokens) : tokens;
    return op->causal ? window * tokens - window * window / 2.0 : window * tokens;
}

double hlm_op_flops(const struct hlm_op *op)
{
    if (is_gemm(op->kind)) {
        return 2.0 * (double)op->m * (double)op->n * (double)op->k;
    }
    if (op->kind != HLM_OP_ATTENTION_FWD && op->kind != HLM_OP_ATTENTION_BWD) {
        return 0.0;
    }
    const double context_ranks = (double)hlm_op_context(op).ranks;
    const double scores = num_scores(op) * op->batch * op->heads / context_ranks;
    const double forward = 2.0 * scores * (double)(op->head_dim + op->v_head_dim);
    if (op->kind == HLM_OP_ATTENTION_FWD) {
        return forward;
    }
    const bool has_probs = op->operands[4] >= 0;
    return 2.0 * forward + (has_probs ? 0.0 : 2.0 * scores * (double)op->head_dim);
}

/* Rows of an operand that the operator touches, where these are not all. */
static int64_t used_rows(const struct hlm_op *op, int32_t operand, int64_t rows)
{
    const int64_t own_len = op->seq_len / hlm_op_context(op).ranks;
    int64_t used = rows;
    switch (op->kind) {
    case HLM_OP_EMBED_FWD:
        used = operand == 1 ? op->m : rows;
        break;
    case HLM_OP_EMBED_BWD:
        used = operand == 2 ? op->m : rows;
        break;
    case HLM_OP_POSITION_FWD:
        used = operand == 0 ? own_len : operand == 1 ? 1 : rows;
        break;
    case HLM_OP_POSITION_BWD:
        used = operand == 1 ? own_len : operand == 2 ? 1 : rows;
        break;
    case HLM_OP_SELECT_FWD:
    case HLM_OP_SLICE_ROWS:
        used = op->m;
        break;
    default:
        break;
    }
    return used < rows ? used : rows;
}

/* A norm of a part of wider rows (op.h) has only its weights and statistics in common with the
 * list. */
static bool is_view(const struct hlm_op *op, int32_t operand)
{
    const bool forward = op->kind == HLM_OP_NORM_FWD;
    if (op->head_dim == 0 || (!forward && op->kind != HLM_OP_NORM_BWD)) {
        return false;
    }
    return (forward ? "v..v." : "vv..vv..")[operand] == 'v';
}

/* Columns of an operand that the operator touches, where these are not all. */
static int64_t used_cols(const struct hlm_op *op, int32_t operand, int64_t cols)
{
    switch (op->kind) {
    case HLM_OP_KV_SPLIT:
    case HLM_OP_KV_JOIN:
        return op->n;
    case HLM_OP_ATTENTION_FWD:
    case HLM_OP_ATTENTION_BWD:
        return operand == 0 && hlm_op_gathers_context(op) ? op->heads * op->head_dim : cols;
    default:
        return cols;
    }
}

/* The operands of a product are read in its own format where that is narrower (their conversion is
 * the curve's quantise_bytes). */
static double operand_bytes(const struct hlm_op *op, int32_t operand,
                            const struct hlm_tensor *tensor)
{
    const double stored = hlm_dtype_bytes(tensor->dtype);
    return is_gemm(op->kind) && operand < 2 ? fmin(stored, hlm_dtype_bytes(op->dtype)) : stored;
}

double hlm_op_bytes(const struct hlm_op *op, const struct hlm_tensor *tensors)
{
    if (hlm_op_is_collective(op->kind)) {
        return (double)op->m * (double)op->n * hlm_dtype_bytes(op->dtype);
    }
    double bytes = 0.0;
    const int32_t num_operands = hlm_op_num_operands(op->kind);
    for (int32_t i = 0; i < num_operands; i++) {
        if (op->operands[i] < 0) {
            continue;
        }
        const struct hlm_tensor *tensor = &tensors[op->operands[i]];
        const double elements = is_view(op, i) ? (double)op->m * (double)op->n
                                               : (double)used_rows(op, i, tensor->rows) *
                                                     (double)used_cols(op, i, tensor->cols);
        const int times = hlm_op_reads(op, i) + hlm_op_writes(op, i);
        bytes += times * elements * operand_bytes(op, i, tensor);
    }
    return bytes;
}

static int64_t letter_size(const struct hlm_op *op, char letter)
{
    switch (letter) {
    case 'm':
        return op->m;
    case 'n':
        return op->n;
    case 'k':
        return op->k;
    case 'b':
        return op->batch;
    case 's':
        return op->seq_len;
    case 'r':
        return op->seq_len / hlm_op_context(op).ranks;
    case 'c':
        return hlm_op_context(op).ranks;
    case 'h':
        return op->heads;
    case 'e':
        return op->num_experts;
    case 'g':
        return op->expert_ranks;
    case 'S':
        return op->norm == HLM_NORM_LAYERNORM ? 2 : 1;
    case 'Q':
        return (op->heads + op->kv_heads) * op->head_dim + op->kv_heads * op->v_head_dim;
    case 'K':
        return op->kv_heads * (op->head_dim + op->v_head_dim);
    case 'A':
        return op->activation == HLM_ACTIVATION_SWIGLU ? 2 * op->n : op->n;
    default:
        HLM_ASSERT(letter >= '1' && letter <= '9');
        return letter - '0';
    }
}

/* Checks one size against a product of letters and returns what follows the product. */
static const char *check_size(const struct hlm_op *op, const char *spec, int64_t size)
{
    int64_t product = 1;
    bool free_size = false;
    for (; *spec != '.' && *spec != ' ' && *spec != '\0'; spec++) {
        if (*spec == '?') {
            free_size = true;
        } else {
            product *= letter_size(op, *spec);
        }
    }
    HLM_ASSERT(free_size || size == product);
    return *spec == '\0' ? spec : spec + 1;
}

static void check_shapes(const struct hlm_block *block, const struct hlm_op *op)
{
    const int32_t num_operands = hlm_op_num_operands(op->kind);
    const char *spec = is_gemm(op->kind) ? gemm_shapes(op) : signatures[op->kind].shapes;
    HLM_ASSERT(op->m > 0 && op->n > 0);
    for (int32_t i = 0; i < num_operands; i++) {
        const int32_t index = op->operands[i];
        if (index < 0 || is_view(op, i)) {
            spec = strchr(spec, ' ') != NULL ? strchr(spec, ' ') + 1 : spec + strlen(spec);
            continue;
        }
        spec = check_size(op, spec, block->tensors[index].rows);
        spec = check_size(op, spec, block->tensors[index].cols);
    }
    HLM_ASSERT(*spec == '\0');
}

/* Whether operand i may be absent: it stands in brackets in HLM_OP_MAP. */
static bool is_optional(enum hlm_op_kind kind, int32_t operand)
{
    const char *at = hlm_op_operand_texts[kind];
    for (int32_t i = 0; i < operand; i++) {
        at = strchr(at, ' ') + 1;
    }
    return *at == '[';
}

static void check_operands(const struct hlm_block *block, const struct hlm_op *op)
{
    const int32_t num_operands = hlm_op_num_operands(op->kind);
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        const int32_t index = op->operands[i];
        HLM_ASSERT(index >= -1 && index < block->num_tensors);
        if (index < 0) {
            HLM_ASSERT(i >= num_operands || is_optional(op->kind, i));
            continue;
        }
        HLM_ASSERT(i < num_operands);
        for (int32_t other = 0; other < i; other++) {
            HLM_ASSERT(op->operands[other] != index ||
                       (!hlm_op_writes(op, i) && !hlm_op_writes(op, other)));
        }
    }
    HLM_ASSERT(hlm_op_is_collective(op->kind) == (op->group != HLM_GROUP_NONE));
    HLM_ASSERT(hlm_op_is_collective(op->kind) == (op->stream != HLM_STREAM_COMPUTE));
}

/* What each pass may write, by role of the tensor. */
static bool may_write(enum hlm_tensor_role role, bool backward, bool recompute)
{
    switch (role) {
    case HLM_TENSOR_ACTIVATION:
        return true;
    case HLM_TENSOR_OUTPUT:
    case HLM_TENSOR_LOSS:
        return !backward;
    case HLM_TENSOR_GRAD:
    case HLM_TENSOR_GRAD_INPUT:
        return backward && !recompute;
    default:
        return false;
    }
}

static bool may_read_unwritten(enum hlm_tensor_role role, bool backward)
{
    switch (role) {
    case HLM_TENSOR_ACTIVATION:
    case HLM_TENSOR_OUTPUT:
    case HLM_TENSOR_GRAD_INPUT:
        return false;
    case HLM_TENSOR_GRAD:
    case HLM_TENSOR_GRAD_OUTPUT:
        return backward;
    default:
        return true;
    }
}

static void check_pass(const struct hlm_block *block, const struct hlm_op *ops, int32_t num_ops,
                       bool backward, bool *written)
{
    for (int32_t o = 0; o < num_ops; o++) {
        const struct hlm_op *op = &ops[o];
        check_operands(block, op);
        check_shapes(block, op);
        HLM_ASSERT(op->flops == hlm_op_flops(op));
        HLM_ASSERT(op->bytes == hlm_op_bytes(op, block->tensors));
        HLM_ASSERT((op->part == HLM_PART_FORWARD) == !backward);
        HLM_ASSERT(backward || !op->recompute);
        const int32_t num_operands = hlm_op_num_operands(op->kind);
        for (int32_t i = 0; i < num_operands; i++) {
            const int32_t index = op->operands[i];
            HLM_ASSERT(!hlm_op_reads(op, i) || written[index] ||
                       may_read_unwritten(block->tensors[index].role, backward));
        }
        for (int32_t i = 0; i < num_operands; i++) {
            if (hlm_op_writes(op, i)) {
                const enum hlm_tensor_role role = block->tensors[op->operands[i]].role;
                HLM_ASSERT(may_write(role, backward, op->recompute));
                written[op->operands[i]] = true;
            }
        }
    }
}

static void check_param(const struct hlm_block *block, int32_t index)
{
    const struct hlm_param *param = &block->params[index];
    const struct hlm_tensor *value = &block->tensors[param->param];
    const struct hlm_tensor *grad = &block->tensors[param->grad];
    HLM_ASSERT(value->role == HLM_TENSOR_PARAM && grad->role == HLM_TENSOR_GRAD);
    HLM_ASSERT(value->param == index && grad->param == index);
    HLM_ASSERT(value->rows == param->rows && value->cols == param->cols);
    HLM_ASSERT(grad->rows == param->rows && grad->cols == param->cols);
    HLM_ASSERT(param->global_col >= 0 && param->global_col + param->cols <= param->global_cols);
    HLM_ASSERT(param->num_slices >= 1 && param->num_slices <= 3);
    const int64_t turns = param->rows / sliced_rows(param);
    for (int32_t s = 0; s < param->num_slices; s++) {
        const struct hlm_param_slice slice = param->slices[s];
        const int64_t end = slice.global_row + slice.num_rows;
        HLM_ASSERT(slice.num_rows > 0 && slice.global_row >= 0);
        HLM_ASSERT(end + (turns - 1) * param->repeat_rows <= param->global_rows);
    }
    HLM_ASSERT(turns * sliced_rows(param) == param->rows);
    HLM_ASSERT(turns == 1 || param->repeat_rows > 0);
    HLM_ASSERT(!param->sum_over_tp || param->replicated);
}

static void check_boundary(const struct hlm_block *block, int32_t index, enum hlm_tensor_role role,
                           bool expected)
{
    HLM_ASSERT((index >= 0) == expected);
    if (expected) {
        HLM_ASSERT(index < block->num_tensors && block->tensors[index].role == role);
        HLM_ASSERT(block->tensors[index].rows == block->activation_rows);
    }
}

void hlm_block_check(const struct hlm_block *block)
{
    enum { MAX_TENSORS = 512 };
    bool written[MAX_TENSORS] = {false};
    HLM_ASSERT(block->num_tensors <= MAX_TENSORS);
    check_boundary(block, block->input, HLM_TENSOR_INPUT, block->kind != HLM_BLOCK_EMBEDDING);
    check_boundary(block, block->grad_input, HLM_TENSOR_GRAD_INPUT,
                   block->kind != HLM_BLOCK_EMBEDDING);
    check_boundary(block, block->output, HLM_TENSOR_OUTPUT, block->kind != HLM_BLOCK_HEAD);
    check_boundary(block, block->grad_output, HLM_TENSOR_GRAD_OUTPUT,
                   block->kind != HLM_BLOCK_HEAD);
    for (int32_t p = 0; p < block->num_params; p++) {
        check_param(block, p);
    }
    check_pass(block, block->forward, block->num_forward, false, written);
    check_pass(block, block->backward, block->num_backward, true, written);
    for (int32_t t = 0; t < block->num_tensors; t++) {
        const enum hlm_tensor_role role = block->tensors[t].role;
        const bool must = role == HLM_TENSOR_ACTIVATION || role == HLM_TENSOR_OUTPUT ||
                          role == HLM_TENSOR_GRAD || role == HLM_TENSOR_GRAD_INPUT ||
                          role == HLM_TENSOR_LOSS;
        HLM_ASSERT(!must || written[t]);
    }
}
