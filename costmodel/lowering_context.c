/* What stands around the attention operator where a sequence is shared by the ranks of a cp group:
 * the three forms of costmodel/strategy.h. */
#include "costmodel/lowering_blocks.h"

static enum hlm_cp_form form_of(const struct hlm_builder *builder)
{
    return builder->strategy->cp > 1 ? hlm_strategy_cp_form(builder->strategy) : HLM_CP_FORM_AUTO;
}

struct hlm_attention_core hlm_context_core(const struct hlm_builder *builder,
                                           const struct hlm_attention *attention)
{
    const int32_t cp = builder->strategy->cp;
    const int32_t parts = form_of(builder) == HLM_CP_FORM_ULYSSES ? cp : 1;
    return (struct hlm_attention_core){.heads = attention->heads / parts,
                                       .kv_heads = attention->kv_heads / parts,
                                       .context_ranks = cp / parts,
                                       .rows = builder->rows * parts,
                                       .own_len = builder->strategy->seq_len / cp * parts,
                                       .qkv_cols = attention->qkv_cols / parts,
                                       .out_cols = attention->out_cols / parts};
}

static void set_cp(const struct hlm_builder *builder, struct hlm_op *op)
{
    op->group = HLM_GROUP_CP;
    op->stream = HLM_STREAM_CP;
    op->dtype = builder->tensors[op->operands[0]].dtype;
}

/* --- allgather --- */

static int64_t kv_cols(const struct hlm_attention *attention)
{
    return attention->kv_heads * (attention->head_dim + attention->v_head_dim);
}

/* Neither is kept for the backward: it gathers again from the qkv that it keeps anyway. */
static void gather_keys(struct hlm_builder *builder, struct hlm_attention *attention)
{
    const int64_t rows = builder->rows, all = rows * builder->strategy->cp;
    const int64_t cols = kv_cols(attention);
    const int32_t own = hlm_builder_activation(builder, "kv_own", HLM_REMAKE_GATHERED, rows, cols);
    attention->kv = hlm_builder_activation(builder, "kv", HLM_REMAKE_GATHERED, all, cols);
    hlm_attention_set_heads(builder, attention,
                            hlm_builder_forward(builder, HLM_OP_KV_SPLIT, rows, cols,
                                                HLM_OPERANDS(attention->joined, own)));
    set_cp(builder, hlm_builder_forward(builder, HLM_OP_ALL_GATHER, all, cols,
                                        HLM_OPERANDS(own, attention->kv)));
}

static void scatter_keys(struct hlm_builder *builder, const struct hlm_attention *attention,
                         int32_t dkv, int32_t dqkv)
{
    const int64_t rows = builder->rows, all = rows * builder->strategy->cp;
    const int64_t cols = kv_cols(attention);
    const int32_t own = hlm_builder_tensor(builder, "dkv_own", HLM_TENSOR_ACTIVATION, rows, cols);
    set_cp(builder, hlm_builder_backward(builder, HLM_OP_REDUCE_SCATTER, all, cols,
                                         HLM_OPERANDS(dkv, own), HLM_PART_INPUT_GRAD));
    hlm_attention_set_heads(builder, attention,
                            hlm_builder_backward(builder, HLM_OP_KV_JOIN, rows, cols,
                                                 HLM_OPERANDS(own, dqkv), HLM_PART_INPUT_GRAD));
}

int32_t hlm_context_key_grads(struct hlm_builder *builder, const struct hlm_attention *attention)
{
    return attention->kv < 0
               ? -1
               : hlm_builder_tensor(builder, "dkv", HLM_TENSOR_ACTIVATION,
                                    builder->rows * builder->strategy->cp, kv_cols(attention));
}

/* --- ulysses --- */

/* What one way between positions and heads takes: a copy that sorts heads by rank, and the exchange
 * of the sorted ones. */
struct way {
    const char *sorted_name, *name;
    int64_t cols; /* of all heads */
    bool backward, to_heads;
};

static struct hlm_op *add_op(struct hlm_builder *builder, bool backward, enum hlm_op_kind kind,
                             int64_t m, int64_t n, const int32_t *operands)
{
    return backward ? hlm_builder_backward(builder, kind, m, n, operands, HLM_PART_INPUT_GRAD)
                    : hlm_builder_forward(builder, kind, m, n, operands);
}

static int32_t exchange(struct hlm_builder *builder, const struct way *way, int32_t in)
{
    const int64_t cp = builder->strategy->cp, rows = builder->rows, all = rows * cp;
    const int64_t part = way->cols / cp;
    const int32_t sorted =
        hlm_builder_activation(builder, way->sorted_name, HLM_REMAKE_NEVER, all, part);
    const int32_t out =
        hlm_builder_activation(builder, way->name, HLM_REMAKE_NEVER, way->to_heads ? all : rows,
                               way->to_heads ? part : way->cols);
    const enum hlm_op_kind copy = way->to_heads ? HLM_OP_HEADS_SPLIT : HLM_OP_HEADS_JOIN;
    const int32_t sent = way->to_heads ? sorted : in, received = way->to_heads ? out : sorted;
    if (way->to_heads) {
        add_op(builder, way->backward, copy, rows, part, HLM_OPERANDS(in, sorted))->k = cp;
    }
    set_cp(builder, add_op(builder, way->backward, HLM_OP_ALL_TO_ALL, all, part,
                           HLM_OPERANDS(sent, received, -1, -1)));
    if (!way->to_heads) {
        add_op(builder, way->backward, copy, rows, part, HLM_OPERANDS(sorted, out))->k = cp;
    }
    return out;
}

/* --- what attention calls --- */

void hlm_context_enter(struct hlm_builder *builder, struct hlm_attention *attention)
{
    attention->attended = attention->joined;
    attention->kv = -1;
    if (form_of(builder) == HLM_CP_FORM_ALLGATHER) {
        gather_keys(builder, attention);
    } else if (form_of(builder) == HLM_CP_FORM_ULYSSES) {
        const struct way way = {"qkv_by_rank", "qkv_heads", attention->qkv_cols, false, true};
        attention->attended = exchange(builder, &way, attention->joined);
    }
}

int32_t hlm_context_leave(struct hlm_builder *builder, const struct hlm_attention *attention)
{
    const struct way way = {"context_by_rank", "context_own", attention->out_cols, false, false};
    return form_of(builder) == HLM_CP_FORM_ULYSSES ? exchange(builder, &way, attention->mixed)
                                                   : attention->mixed;
}

int32_t hlm_context_leave_backward(struct hlm_builder *builder,
                                   const struct hlm_attention *attention, int32_t dcontext)
{
    const struct way way = {"dcontext_by_rank", "dcontext_heads", attention->out_cols, true, true};
    return form_of(builder) == HLM_CP_FORM_ULYSSES ? exchange(builder, &way, dcontext) : dcontext;
}

int32_t hlm_context_enter_backward(struct hlm_builder *builder,
                                   const struct hlm_attention *attention, int32_t dattended,
                                   int32_t dkv)
{
    const struct way way = {"dqkv_by_rank", "dqkv_own", attention->qkv_cols, true, false};
    if (dkv >= 0) {
        scatter_keys(builder, attention, dkv, dattended);
    }
    return form_of(builder) == HLM_CP_FORM_ULYSSES ? exchange(builder, &way, dattended) : dattended;
}
