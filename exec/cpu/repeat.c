#include "exec/cpu/repeat.h"

#include <string.h>

#include "costmodel/memory.h"

enum { ALIGNED_FLOATS = HLM_ALIGNMENT_BYTES / (int)sizeof(float), DOUBLE_FLOATS = 2 };

/* Floats of an operand, by the operator's dimensions. */
static int64_t of_matrix(const struct hlm_op *op)
{
    return op->m * op->n;
}

static int64_t of_row(const struct hlm_op *op)
{
    return op->n;
}

static int64_t of_slab(const struct hlm_op *op)
{
    return op->m;
}

static int64_t of_vocabulary(const struct hlm_op *op)
{
    return op->k * op->n;
}

static int64_t of_positions(const struct hlm_op *op)
{
    return op->seq_len * op->n;
}

static int64_t of_heads(const struct hlm_op *op)
{
    return op->m * (op->heads + 2 * (int64_t)op->kv_heads) * op->head_dim;
}

static int64_t of_product(const struct hlm_op *op)
{
    return op->accumulate ? op->m * op->n : 0;
}

static int64_t of_experts(const struct hlm_op *op)
{
    const int64_t rows = op->layout == HLM_GEMM_NT ? op->num_experts * op->m : op->m;
    return op->accumulate ? rows * op->n : 0;
}

static int64_t of_double(const struct hlm_op *op)
{
    (void)op;
    return DOUBLE_FLOATS;
}

/* KV_JOIN is missing: it writes columns of its operand and reads none. */
static int64_t (*const changed[HLM_NUM_OPS][HLM_OP_MAX_OPERANDS])(const struct hlm_op *op) = {
    [HLM_OP_EMBED_BWD] = {[2] = of_vocabulary},
    [HLM_OP_POSITION_FWD] = {[2] = of_matrix},
    [HLM_OP_POSITION_BWD] = {[1] = of_positions, [2] = of_row},
    [HLM_OP_PATCH_ASSEMBLE_BWD] = {[2] = of_row, [3] = of_positions},
    [HLM_OP_NORM_BWD] = {[6] = of_row, [7] = of_row},
    [HLM_OP_GEMM] = {[2] = of_product},
    [HLM_OP_BIAS_ADD] = {[1] = of_matrix},
    [HLM_OP_BIAS_GRAD] = {[1] = of_row},
    [HLM_OP_ROPE_FWD] = {[0] = of_heads},
    [HLM_OP_ROPE_BWD] = {[0] = of_heads},
    [HLM_OP_XENT_GRAD] = {[3] = of_matrix, [4] = of_double},
    [HLM_OP_GROUPED_GEMM] = {[2] = of_experts},
    [HLM_OP_SUM_SQUARES] = {[1] = of_double},
    [HLM_OP_ADAMW] = {[1] = of_slab, [2] = of_slab, [3] = of_slab, [4] = of_slab},
};

int64_t hlm_cpu_changed_floats(const struct hlm_op *op, int32_t operand)
{
    return changed[op->kind][operand] != NULL ? changed[op->kind][operand](op) : 0;
}

/* Copies are aligned as memory of the backend is. */
static int64_t room(const struct hlm_op *op, void *const *operands, int32_t operand)
{
    const int64_t floats = operands[operand] != NULL ? hlm_cpu_changed_floats(op, operand) : 0;
    return (floats + ALIGNED_FLOATS - 1) / ALIGNED_FLOATS * ALIGNED_FLOATS;
}

int64_t hlm_cpu_copies_floats(const struct hlm_op *op, void *const *operands)
{
    int64_t floats = 0;
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        floats += room(op, operands, i);
    }
    return floats;
}

void hlm_cpu_run_repeated(void (*run)(const struct hlm_cpu_call *call),
                          const struct hlm_cpu_call *call, int32_t times, float *copies)
{
    void *operands[HLM_OP_MAX_OPERANDS];
    struct hlm_cpu_call again = *call;
    again.operands = operands;
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        const int64_t floats = room(call->op, call->operands, i);
        operands[i] = call->operands[i];
        if (floats > 0) {
            memcpy(copies, call->operands[i],
                   (size_t)hlm_cpu_changed_floats(call->op, i) * sizeof(float));
            operands[i] = copies;
            copies += floats;
        }
    }
    for (int32_t i = 1; i < times; i++) {
        run(&again);
    }
    run(call);
}
