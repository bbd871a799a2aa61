#include "exec/profiler/profiler_cases.h"

#include <math.h>
#include <string.h>

#include "costmodel/kernel.h"
#include "costmodel/lowering.h"
#include "exec/profiler/profiler_model.h"

enum { MAX_CASES = 4096, NONE = -1 };

/* --- products --- */

/* Width of the output, width of the input, and how soon they are measured. */
struct layer_shape {
    int64_t out, in;
    int32_t tier;
    bool fp32;
};
static const struct layer_shape layer_shapes[] = {
    {12288, 4096, 0, true},  {4096, 4096, 0, false},  {14336, 4096, 0, false},
    {4096, 14336, 0, false}, {6144, 4096, 0, false},  {1024, 1024, 0, true},
    {3072, 1024, 0, false},  {4096, 1024, 0, true},   {1024, 4096, 0, true},
    {2048, 2048, 0, true},   {8192, 2048, 1, false},  {2048, 8192, 1, false},
    {8192, 8192, 0, false},  {28672, 8192, 1, false}, {8192, 28672, 1, false},
    {10240, 8192, 1, false}, {11008, 4096, 1, false}, {15360, 5120, 1, false},
    {5120, 5120, 1, true},   {1536, 4096, 1, false},  {4096, 512, 1, false},
    {512, 4096, 1, true},    {32064, 4096, 1, false}, {50304, 768, 1, true},
    {768, 3072, 2, true},    {1600, 1600, 2, false},  {6400, 1600, 2, true},
    {2560, 2560, 2, false},  {3584, 8192, 2, false},  {8192, 3584, 2, false},
};
enum { NUM_LAYER_SHAPES = sizeof layer_shapes / sizeof layer_shapes[0] };

static const struct {
    int64_t tokens;
    int32_t tier; /* added to that of the width */
    bool backward, fp32;
} token_rows[] = {{4096, 0, true, true},   {8192, 1, true, false}, {2048, 1, true, true},
                  {1024, 2, false, false}, {3000, 2, true, false}, {16384, 3, false, false}};
enum { NUM_TOKEN_ROWS = sizeof token_rows / sizeof token_rows[0] };

static const int64_t small_sizes[] = {64, 96, 128, 192, 256, 512};
enum { NUM_SMALL = sizeof small_sizes / sizeof small_sizes[0] };

struct hlm_profiler_case hlm_profiler_product(enum hlm_dtype dtype, enum hlm_gemm_layout layout,
                                              int64_t m, int64_t n, int64_t k, bool accumulate)
{
    const bool tn = layout == HLM_GEMM_TN, nt = layout == HLM_GEMM_NT;
    struct hlm_profiler_case product = {
        .op = {.kind = HLM_OP_GEMM,
               .dtype = dtype,
               .layout = layout,
               .accumulate = accumulate,
               .operands = {0, 1, 2, NONE, NONE, NONE, NONE, NONE},
               .m = m,
               .n = n,
               .k = k},
        .tensors = {
            {.role = HLM_TENSOR_ACTIVATION, .dtype = dtype, .rows = nt ? k : m, .cols = nt ? m : k},
            {.role = HLM_TENSOR_ACTIVATION, .dtype = dtype, .rows = tn ? n : k, .cols = tn ? k : n},
            {.role = HLM_TENSOR_ACTIVATION,
             .dtype = accumulate ? HLM_DTYPE_FP32 : dtype,
             .rows = m,
             .cols = n}}};
    product.op.flops = hlm_op_flops(&product.op);
    product.op.bytes = hlm_op_bytes(&product.op, product.tensors);
    return product;
}

static void add(struct hlm_profiler_case *list, int32_t *num, struct hlm_profiler_case what,
                int32_t tier)
{
    HLM_ASSERT(*num < MAX_CASES);
    what.tier = tier < HLM_PROFILER_NUM_TIERS ? tier : HLM_PROFILER_NUM_TIERS - 1;
    list[(*num)++] = what;
}

/* A linear layer in its three directions. */
static void add_layer(struct hlm_profiler_case *list, int32_t *num, enum hlm_dtype dtype,
                      const struct layer_shape *shape, int64_t tokens, bool backward, int32_t tier)
{
    const int64_t out = shape->out, in = shape->in;
    add(list, num, hlm_profiler_product(dtype, HLM_GEMM_TN, tokens, out, in, false), tier);
    if (backward) {
        add(list, num, hlm_profiler_product(dtype, HLM_GEMM_NN, tokens, in, out, false), tier);
        add(list, num, hlm_profiler_product(dtype, HLM_GEMM_NT, out, in, tokens, true), tier);
    }
}

static void add_small_products(struct hlm_profiler_case *list, int32_t *num)
{
    for (int32_t i = 0; i < NUM_SMALL; i++) {
        const struct layer_shape square = {small_sizes[i], small_sizes[i], 0, true};
        add_layer(list, num, HLM_DTYPE_BF16, &square, small_sizes[i], true, 0);
        add_layer(list, num, HLM_DTYPE_FP32, &square, small_sizes[i], true, 1);
    }
}

static void add_products(struct hlm_profiler_case *list, int32_t *num)
{
    for (int32_t i = 0; i < NUM_LAYER_SHAPES * NUM_TOKEN_ROWS; i++) {
        const struct layer_shape *shape = &layer_shapes[i / NUM_TOKEN_ROWS];
        const int32_t row = i % NUM_TOKEN_ROWS, tier = shape->tier + token_rows[row].tier;
        const int64_t tokens = token_rows[row].tokens;
        add_layer(list, num, HLM_DTYPE_BF16, shape, tokens, token_rows[row].backward, tier);
        if (shape->fp32 && token_rows[row].fp32) {
            add_layer(list, num, HLM_DTYPE_FP32, shape, tokens, true, tier + 1);
        }
    }
}

/* --- attention --- */

static const struct {
    int32_t batch, heads, kv_heads;
    int64_t seq_len, head_dim;
    int32_t tier;
    bool fp32;
} attention_rows[] = {
    {1, 2, 2, 64, 64, 0, true},       {1, 4, 2, 128, 64, 0, true},
    {2, 2, 2, 128, 128, 0, true},     {1, 2, 1, 256, 64, 0, true},
    {2, 4, 4, 256, 128, 1, true},     {2, 32, 8, 4096, 128, 0, false},
    {8, 32, 8, 1024, 128, 0, false},  {4, 32, 8, 2048, 128, 0, false},
    {1, 32, 8, 8192, 128, 0, false},  {8, 16, 16, 1024, 64, 0, true},
    {4, 16, 16, 2048, 64, 0, true},   {2, 16, 16, 4096, 64, 1, false},
    {1, 16, 16, 8192, 64, 1, false},  {2, 32, 32, 2048, 128, 1, true},
    {1, 32, 8, 16384, 128, 2, false}, {16, 12, 12, 512, 64, 1, true},
    {4, 12, 12, 512, 64, 1, true},    {1, 8, 8, 2048, 128, 1, true},
    {1, 4, 4, 4096, 128, 1, false},   {1, 4, 4, 1024, 64, 1, true},
    {1, 8, 1, 4096, 128, 1, false},   {2, 40, 40, 2048, 128, 2, false},
};
enum {
    NUM_SMALL_ATTENTION = 5,
    NUM_ATTENTION_ROWS = sizeof attention_rows / sizeof attention_rows[0]
};

static struct hlm_tensor activation(enum hlm_dtype dtype, int64_t rows, int64_t cols)
{
    return (struct hlm_tensor){
        .role = HLM_TENSOR_ACTIVATION, .dtype = dtype, .rows = rows, .cols = cols, .param = NONE};
}

struct hlm_profiler_case hlm_profiler_attention(enum hlm_dtype dtype,
                                                const struct hlm_profiler_attention *shape)
{
    const int64_t rows = shape->batch * shape->seq_len, out_cols = shape->heads * shape->head_dim;
    const int64_t qkv_cols = (shape->heads + 2 * (int64_t)shape->kv_heads) * shape->head_dim;
    const struct hlm_tensor qkv = activation(dtype, rows, qkv_cols);
    const struct hlm_tensor out = activation(dtype, rows, out_cols);
    const struct hlm_tensor lse =
        activation(HLM_DTYPE_FP32, (int64_t)shape->batch * shape->heads, shape->seq_len);
    struct hlm_profiler_case what = {.op = {.kind = HLM_OP_ATTENTION_FWD,
                                            .dtype = dtype,
                                            .causal = shape->causal,
                                            .operands = {0, 1, 2, NONE, NONE, NONE, NONE, NONE},
                                            .m = rows,
                                            .n = out_cols,
                                            .batch = shape->batch,
                                            .seq_len = shape->seq_len,
                                            .heads = shape->heads,
                                            .kv_heads = shape->kv_heads,
                                            .head_dim = shape->head_dim,
                                            .v_head_dim = shape->head_dim,
                                            .context_ranks = 1},
                                     .tensors = {qkv, out, lse}};
    if (shape->backward) {
        const struct hlm_tensor tensors[] = {qkv, out, out, lse, qkv, qkv};
        const int32_t operands[HLM_OP_MAX_OPERANDS] = {0, 1, 2, 3, NONE, 5, NONE, NONE};
        what.op.kind = HLM_OP_ATTENTION_BWD;
        memcpy(what.op.operands, operands, sizeof operands);
        memcpy(what.tensors, tensors, sizeof tensors);
    }
    what.op.flops = hlm_op_flops(&what.op);
    what.op.bytes = hlm_op_bytes(&what.op, what.tensors);
    return what;
}

static void add_attention(struct hlm_profiler_case *list, int32_t *num, int32_t first_row,
                          int32_t num_rows)
{
    for (int32_t i = 4 * first_row; i < 4 * (first_row + num_rows); i++) {
        const int32_t row = i / 4;
        const struct hlm_profiler_attention shape = {.batch = attention_rows[row].batch,
                                                     .heads = attention_rows[row].heads,
                                                     .kv_heads = attention_rows[row].kv_heads,
                                                     .seq_len = attention_rows[row].seq_len,
                                                     .head_dim = attention_rows[row].head_dim,
                                                     .causal = i % 2 == 0,
                                                     .backward = i / 2 % 2 != 0};
        const int32_t tier = attention_rows[row].tier + (shape.causal ? 0 : 1);
        add(list, num, hlm_profiler_attention(HLM_DTYPE_BF16, &shape), tier);
        if (attention_rows[row].fp32) {
            add(list, num, hlm_profiler_attention(HLM_DTYPE_FP32, &shape), tier + 1);
        }
    }
}

/* --- all other operators of blocks --- */

static const struct {
    int64_t hidden, seq_len, microbatch_size, vocab;
    int32_t heads, tier;
} block_rows[] = {
    {64, 32, 1, 128, 1, 0},        {128, 64, 1, 512, 2, 0},       {1024, 1024, 4, 32000, 16, 0},
    {4096, 2048, 2, 32000, 32, 0}, {256, 256, 1, 2048, 4, 1},     {1024, 512, 1, 8192, 16, 1},
    {2048, 1024, 1, 32000, 16, 1}, {8192, 4096, 1, 32000, 64, 2}, {4096, 4096, 4, 32000, 32, 2},
};
enum { NUM_BLOCK_ROWS = sizeof block_rows / sizeof block_rows[0] };

static bool is_wanted(const struct hlm_op *op)
{
    return op->kind != HLM_OP_GEMM && op->kind != HLM_OP_ATTENTION_FWD &&
           op->kind != HLM_OP_ATTENTION_BWD && !hlm_op_is_collective(op->kind);
}

/* Whether an operator of the same curve and size is in the list already. */
static bool has_like(const struct hlm_profiler_case *list, int32_t num, const struct hlm_op *op)
{
    static const double same_size = 1.25;
    for (int32_t i = 0; i < num; i++) {
        const double ratio = op->bytes / list[i].op.bytes;
        if (!list[i].is_copy && ratio < same_size && ratio > 1.0 / same_size &&
            strcmp(hlm_kernel_curve_key(&list[i].op), hlm_kernel_curve_key(op)) == 0) {
            return true;
        }
    }
    return false;
}

static void add_op(struct hlm_profiler_case *list, int32_t *num, const struct hlm_block *block,
                   const struct hlm_op *op, int64_t index_limit, int32_t tier)
{
    if (!is_wanted(op) || has_like(list, *num, op)) {
        return;
    }
    struct hlm_profiler_case what = {.op = *op, .index_limit = index_limit};
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        const bool there = i < hlm_op_num_operands(op->kind) && op->operands[i] >= 0;
        what.op.operands[i] = there ? i : NONE;
        if (there) {
            what.tensors[i] = block->tensors[op->operands[i]];
        }
    }
    add(list, num, what, tier);
}

static enum hlm_status add_blocks(struct hlm_arena *arena, struct hlm_profiler_case *list,
                                  int32_t *num, enum hlm_profiler_family family, int32_t row,
                                  struct hlm_err *err)
{
    static const enum hlm_block_kind kinds[] = {HLM_BLOCK_EMBEDDING, HLM_BLOCK_DENSE,
                                                HLM_BLOCK_HEAD};
    const struct hlm_profiler_sizes sizes = {.family = family,
                                             .hidden = block_rows[row].hidden,
                                             .seq_len = block_rows[row].seq_len,
                                             .microbatch_size = block_rows[row].microbatch_size,
                                             .vocab = block_rows[row].vocab,
                                             .heads = block_rows[row].heads,
                                             .layers = 1};
    const struct hlm_model model = hlm_profiler_model(&sizes);
    const struct hlm_strategy strategy = hlm_profiler_strategy_of(&sizes, &model, HLM_DTYPE_BF16);
    const struct hlm_lowering_input input = {
        .model = &model, .strategy = &strategy, .backend = HLM_BACKEND_CUDA};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const struct hlm_block *block = NULL;
        HLM_TRY(hlm_lowering_block(arena, &input, kinds[i], HLM_RECOMPUTE_NONE, &block, err));
        for (int32_t j = 0; j < block->num_forward; j++) {
            add_op(list, num, block, &block->forward[j], sizes.vocab, block_rows[row].tier);
        }
        for (int32_t j = 0; j < block->num_backward; j++) {
            add_op(list, num, block, &block->backward[j], sizes.vocab, block_rows[row].tier);
        }
    }
    return HLM_OK;
}

/* --- slabs --- */

static const int64_t slab_elements[] = {1 << 8, 1 << 12, 1 << 16, 1 << 20, 1 << 24, 1 << 27};
enum { NUM_SLABS = sizeof slab_elements / sizeof slab_elements[0] };

static struct hlm_profiler_case slab(enum hlm_op_kind kind, enum hlm_dtype dtype, int64_t elements,
                                     int32_t num_operands)
{
    struct hlm_profiler_case what = {
        .op = {.kind = kind,
               .dtype = dtype,
               .operands = {NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE},
               .m = elements,
               .n = 1}};
    for (int32_t i = 0; i < num_operands; i++) {
        what.op.operands[i] = i;
        what.tensors[i] = activation(HLM_DTYPE_FP32, elements, 1);
    }
    return what;
}

static void add_slab(struct hlm_profiler_case *list, int32_t *num, struct hlm_profiler_case what)
{
    what.op.bytes = hlm_op_bytes(&what.op, what.tensors);
    add(list, num, what, 0);
}

struct hlm_profiler_case hlm_profiler_sum(int64_t elements)
{
    struct hlm_profiler_case sum = slab(HLM_OP_ADD, HLM_DTYPE_FP32, elements, 3);
    sum.op.bytes = hlm_op_bytes(&sum.op, sum.tensors);
    return sum;
}

static void add_slabs(struct hlm_profiler_case *list, int32_t *num)
{
    for (int32_t i = 0; i < NUM_SLABS; i++) {
        const int64_t elements = slab_elements[i];
        struct hlm_profiler_case update = slab(HLM_OP_ADAMW, HLM_DTYPE_BF16, elements, 5);
        update.tensors[1].dtype = HLM_DTYPE_BF16;
        struct hlm_profiler_case norm = slab(HLM_OP_SUM_SQUARES, HLM_DTYPE_FP32, elements, 2);
        norm.tensors[1] = activation(HLM_DTYPE_FP32, 1, 1);
        add_slab(list, num, update);
        add_slab(list, num, norm);
        add_slab(list, num, slab(HLM_OP_FILL_ZERO, HLM_DTYPE_FP32, elements, 1));
        add_slab(list, num, hlm_profiler_sum(elements));
        add(list, num,
            (struct hlm_profiler_case){.op = {.m = elements, .bytes = 2.0 * (double)elements},
                                       .is_copy = true},
            0);
    }
}

/* --- all --- */

/* Small ones come first in each tier: by them the times of larger ones are foretold. */
enum hlm_status hlm_profiler_cases_make(struct hlm_arena *arena, struct hlm_profiler_cases *out,
                                        struct hlm_err *err)
{
    struct hlm_profiler_case *list = HLM_ARENA_ARRAY(arena, struct hlm_profiler_case, MAX_CASES);
    int32_t num = 0;
    add_small_products(list, &num);
    add_attention(list, &num, 0, NUM_SMALL_ATTENTION);
    add_slabs(list, &num);
    for (int32_t row = 0; row < NUM_BLOCK_ROWS; row++) {
        for (int family = 0; family < HLM_NUM_PROFILER_FAMILIES; family++) {
            HLM_TRY(add_blocks(arena, list, &num, (enum hlm_profiler_family)family, row, err));
        }
    }
    add_attention(list, &num, NUM_SMALL_ATTENTION, NUM_ATTENTION_ROWS - NUM_SMALL_ATTENTION);
    add_products(list, &num);
    struct hlm_profiler_case *sorted = HLM_ARENA_ARRAY(arena, struct hlm_profiler_case, num);
    int32_t next = 0;
    for (int32_t tier = 0; tier < HLM_PROFILER_NUM_TIERS; tier++) {
        for (int32_t i = 0; i < num; i++) {
            if (list[i].tier == tier) {
                sorted[next++] = list[i];
            }
        }
    }
    *out = (struct hlm_profiler_cases){.list = sorted, .num = num};
    return HLM_OK;
}

const char *hlm_profiler_case_family(struct hlm_arena *arena, const struct hlm_profiler_case *what)
{
    static const char *const layouts[] = {"any", "tn", "nn", "nt"};
    const char *dtype = hlm_dtype_texts[what->op.dtype];
    if (what->is_copy) {
        return "copy";
    }
    switch (what->op.kind) {
    case HLM_OP_GEMM:
        return hlm_arena_printf(arena, "%s products %s", dtype, layouts[what->op.layout]);
    case HLM_OP_ATTENTION_FWD:
    case HLM_OP_ATTENTION_BWD:
        return hlm_arena_printf(arena, "%s attention %s %s", dtype,
                                what->op.kind == HLM_OP_ATTENTION_FWD ? "forward" : "backward",
                                what->op.causal ? "causal" : "full");
    default:
        return hlm_kernel_curve_key(&what->op);
    }
}
