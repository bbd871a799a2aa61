#include "costmodel/memory.h"

#include "costmodel/data_parallel.h"

#define X(name, text) text,
const char *const hlm_memory_kind_texts[] = {HLM_MEMORY_KIND_MAP(X) NULL};
#undef X

static int64_t align(int64_t bytes)
{
    return (bytes + HLM_ALIGNMENT_BYTES - 1) / HLM_ALIGNMENT_BYTES * HLM_ALIGNMENT_BYTES;
}

static int64_t tensor_bytes(const struct hlm_block *block, int32_t tensor)
{
    return align((int64_t)hlm_tensor_bytes(&block->tensors[tensor]));
}

/* Operators of one pass from the first that touches a tensor to the last; first -1: none does. */
struct range {
    int32_t first, last;
    bool read_first; /* the first one reads it */
};

static void extend(struct range *range, int32_t op, bool reads)
{
    if (range->first < 0) {
        range->first = op;
        range->read_first = reads;
    }
    range->last = range->last > op ? range->last : op;
}

static void find_ranges(const struct hlm_block *block, const struct hlm_op *ops, int32_t num_ops,
                        struct range *ranges)
{
    for (int32_t t = 0; t < block->num_tensors; t++) {
        ranges[t] = (struct range){-1, -1, false};
    }
    for (int32_t o = 0; o < num_ops; o++) {
        for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
            if (ops[o].operands[i] >= 0) {
                extend(&ranges[ops[o].operands[i]], o, hlm_op_reads(&ops[o], i));
            }
        }
    }
}

/* The operator that waits for operator `from`, which runs beside its followers: the first that
 * touches one of its results. */
static int32_t waiting_op(const struct hlm_op *ops, int32_t num_ops, int32_t from)
{
    for (int32_t o = from + 1; o < num_ops; o++) {
        for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
            for (int32_t j = 0; j < HLM_OP_MAX_OPERANDS; j++) {
                if (hlm_op_writes(&ops[from], j) && ops[o].operands[i] == ops[from].operands[j]) {
                    return o;
                }
            }
        }
    }
    return num_ops - 1;
}

/* What an overlapping operator touches must stay until the operator that waits for it. */
static void extend_overlaps(const struct hlm_op *ops, int32_t num_ops, struct range *ranges)
{
    for (int32_t o = 0; o < num_ops; o++) {
        if (!ops[o].overlaps_next) {
            continue;
        }
        const int32_t until = waiting_op(ops, num_ops, o);
        for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
            if (ops[o].operands[i] >= 0) {
                extend(&ranges[ops[o].operands[i]], until, true);
            }
        }
    }
}

/* A transient tensor that has its place already, in ascending order of offsets. */
struct placed {
    int64_t offset, bytes;
    struct range range;
};

/* The lowest offset at which `bytes` are free over `range`; keeps `placed` sorted. */
static int64_t place_first_fit(struct placed *placed, int32_t *num_placed, struct range range,
                               int64_t bytes)
{
    int64_t offset = 0;
    for (int32_t p = 0; p < *num_placed; p++) {
        const bool overlap =
            placed[p].range.first <= range.last && range.first <= placed[p].range.last;
        if (overlap && placed[p].offset < offset + bytes &&
            offset < placed[p].offset + placed[p].bytes) {
            offset = placed[p].offset + placed[p].bytes;
        }
    }
    int32_t at = (*num_placed)++;
    for (; at > 0 && placed[at - 1].offset > offset; at--) {
        placed[at] = placed[at - 1];
    }
    placed[at] = (struct placed){offset, bytes, range};
    return offset;
}

/* Places the transient tensors of one pass in the order of their first operators. */
static int64_t place_transients(struct hlm_arena *arena, const struct hlm_block *block,
                                const struct hlm_op *ops, int32_t num_ops,
                                const enum hlm_place *place, const struct range *ranges,
                                int64_t *offsets)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    struct placed *placed = HLM_ARENA_ARRAY(arena, struct placed, block->num_tensors);
    int32_t num_placed = 0;
    int64_t top = 0;
    for (int32_t o = 0; o < num_ops; o++) {
        for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
            const int32_t t = ops[o].operands[i];
            if (t < 0 || place[t] != HLM_PLACE_TRANSIENT || ranges[t].first != o ||
                offsets[t] >= 0) {
                continue;
            }
            const int64_t bytes = tensor_bytes(block, t);
            offsets[t] = place_first_fit(placed, &num_placed, ranges[t], bytes);
            top = offsets[t] + bytes > top ? offsets[t] + bytes : top;
        }
    }
    hlm_arena_rewind(arena, mark);
    return top;
}

static void place_stash(const struct hlm_block *block, const struct range *forward,
                        const struct range *backward, enum hlm_place *place,
                        struct hlm_block_memory *out, int64_t *forward_offset,
                        int64_t *backward_offset)
{
    for (int32_t t = 0; t < block->num_tensors; t++) {
        forward_offset[t] = backward_offset[t] = -1;
        if (block->tensors[t].role != HLM_TENSOR_ACTIVATION) {
            place[t] = HLM_PLACE_EXTERNAL;
        } else if (forward[t].first >= 0 && backward[t].first >= 0 && backward[t].read_first) {
            place[t] = HLM_PLACE_STASH;
            forward_offset[t] = backward_offset[t] = out->stash_bytes;
            out->stash_bytes += tensor_bytes(block, t);
        } else {
            place[t] = HLM_PLACE_TRANSIENT;
        }
    }
}

static void count_params(const struct hlm_block *block, struct hlm_block_memory *out)
{
    for (int32_t p = 0; p < block->num_params; p++) {
        const int64_t elements = block->params[p].rows * block->params[p].cols;
        out->num_param_elements += elements;
        out->num_expert_elements += block->params[p].expert ? elements : 0;
    }
}

static bool touches(const struct range *ranges, int32_t tensor)
{
    return tensor >= 0 && ranges[tensor].first >= 0;
}

void hlm_block_memory(struct hlm_arena *arena, const struct hlm_block *block,
                      struct hlm_block_memory *out)
{
    const int32_t num_tensors = block->num_tensors;
    enum hlm_place *place = HLM_ARENA_ARRAY(arena, enum hlm_place, num_tensors);
    int64_t *forward_offset = HLM_ARENA_ARRAY(arena, int64_t, num_tensors);
    int64_t *backward_offset = HLM_ARENA_ARRAY(arena, int64_t, num_tensors);
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    struct range *forward = HLM_ARENA_ARRAY(arena, struct range, num_tensors);
    struct range *backward = HLM_ARENA_ARRAY(arena, struct range, num_tensors);
    find_ranges(block, block->forward, block->num_forward, forward);
    find_ranges(block, block->backward, block->num_backward, backward);
    *out = (struct hlm_block_memory){
        .place = place,
        .forward_offset = forward_offset,
        .backward_offset = backward_offset,
        .input_bytes = block->input < 0 ? 0 : tensor_bytes(block, block->input),
        .output_bytes = block->output < 0 ? 0 : tensor_bytes(block, block->output),
        .keeps_input = touches(backward, block->input),
        .keeps_output = touches(backward, block->output),
    };
    place_stash(block, forward, backward, place, out, forward_offset, backward_offset);
    extend_overlaps(block->forward, block->num_forward, forward);
    extend_overlaps(block->backward, block->num_backward, backward);
    out->forward_transient_bytes = place_transients(
        arena, block, block->forward, block->num_forward, place, forward, forward_offset);
    out->backward_transient_bytes = place_transients(
        arena, block, block->backward, block->num_backward, place, backward, backward_offset);
    count_params(block, out);
    hlm_arena_rewind(arena, mark);
}

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t shards(double elements, double element_bytes, bool sharded, int64_t group)
{
    return (int64_t)(elements / (sharded ? (double)group : 1.0) * element_bytes);
}

static void add_slab(const struct hlm_strategy *strategy, int64_t num_elements, int64_t group,
                     int64_t bytes[HLM_NUM_MEMORY_KINDS])
{
    const int32_t zero = strategy->zero;
    const double padded = (double)(divide_up(num_elements, group) * group);
    const enum hlm_dtype dtype = hlm_dtype_storage(strategy->dtype);
    const double moments = 2.0 * hlm_dtype_bytes(HLM_DTYPE_FP32);
    const double master = dtype != HLM_DTYPE_FP32 ? hlm_dtype_bytes(strategy->master_dtype) : 0.0;
    bytes[HLM_MEMORY_PARAMETERS] += shards(padded, hlm_dtype_bytes(dtype), zero >= 3, group);
    bytes[HLM_MEMORY_GRADIENTS] +=
        shards(padded, hlm_dtype_bytes(strategy->grad_dtype), zero >= 2, group);
    bytes[HLM_MEMORY_OPTIMIZER] += shards(padded, moments + master, zero >= 1, group);
}

void hlm_memory_static(const struct hlm_strategy *strategy, int64_t num_elements,
                       int64_t num_expert_elements, int64_t bytes[HLM_NUM_MEMORY_KINDS])
{
    const bool sharded = strategy->zero > 0;
    HLM_ASSERT(num_expert_elements <= num_elements);
    for (int kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        bytes[kind] = 0;
    }
    add_slab(strategy, num_elements - num_expert_elements,
             sharded ? hlm_dp_shards(strategy, HLM_GROUP_DP) : 1, bytes);
    add_slab(strategy, num_expert_elements, sharded ? hlm_dp_shards(strategy, HLM_GROUP_EDP) : 1,
             bytes);
}
