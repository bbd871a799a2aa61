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

/* The operators of one pass: those of a list whose part is in the mask (1 << hlm_op_part). */
struct pass {
    const struct hlm_op *ops;
    int32_t num_ops;
    unsigned parts;
};

static bool runs(const struct pass *pass, int32_t op)
{
    return (pass->parts & (1U << pass->ops[op].part)) != 0;
}

static void find_ranges(const struct hlm_block *block, const struct pass *pass,
                        struct range *ranges)
{
    for (int32_t t = 0; t < block->num_tensors; t++) {
        ranges[t] = (struct range){-1, -1, false};
    }
    for (int32_t o = 0; o < pass->num_ops; o++) {
        const struct hlm_op *op = &pass->ops[o];
        for (int32_t i = 0; runs(pass, o) && i < HLM_OP_MAX_OPERANDS; i++) {
            if (op->operands[i] >= 0) {
                extend(&ranges[op->operands[i]], o, hlm_op_reads(op, i));
            }
        }
    }
}

/* The operator that waits for operator `from`, which runs beside its followers: the first that
 * touches one of its results. */
static int32_t waiting_op(const struct pass *pass, int32_t from)
{
    const struct hlm_op *ops = pass->ops;
    for (int32_t o = from + 1; o < pass->num_ops; o++) {
        for (int32_t i = 0; runs(pass, o) && i < HLM_OP_MAX_OPERANDS; i++) {
            for (int32_t j = 0; j < HLM_OP_MAX_OPERANDS; j++) {
                if (hlm_op_writes(&ops[from], j) && ops[o].operands[i] == ops[from].operands[j]) {
                    return o;
                }
            }
        }
    }
    return pass->num_ops - 1;
}

/* What an overlapping operator touches must stay until the operator that waits for it. */
static void extend_overlaps(const struct pass *pass, struct range *ranges)
{
    const struct hlm_op *ops = pass->ops;
    for (int32_t o = 0; o < pass->num_ops; o++) {
        if (!runs(pass, o) || !ops[o].overlaps_next) {
            continue;
        }
        const int32_t until = waiting_op(pass, o);
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

/* Places the tensors of one pass that have no place yet, in the order of their first operators. */
static int64_t place_transients(struct hlm_arena *arena, const struct hlm_block *block,
                                const struct pass *pass, const enum hlm_place *place,
                                const struct range *ranges, int64_t *offsets)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    struct placed *placed = HLM_ARENA_ARRAY(arena, struct placed, block->num_tensors);
    int32_t num_placed = 0;
    int64_t top = 0;
    for (int32_t o = 0; o < pass->num_ops; o++) {
        for (int32_t i = 0; runs(pass, o) && i < HLM_OP_MAX_OPERANDS; i++) {
            const int32_t t = pass->ops[o].operands[i];
            const bool elsewhere = t < 0 || place[t] == HLM_PLACE_EXTERNAL || offsets[t] >= 0;
            if (elsewhere || ranges[t].first != o) {
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

/* The three passes of a microbatch; not split: no operator is in the last. */
enum { FORWARD, BACKWARD, WEIGHT, NUM_PASSES };

/* What is found out about a block on the way to its memory. */
struct placing {
    const struct hlm_block *block;
    struct pass passes[NUM_PASSES];
    struct range *ranges[NUM_PASSES]; /* [num_tensors] */
    struct range *whole;              /* of the backward in list order, split or not */
    int64_t *offsets[NUM_PASSES];     /* [num_tensors] */
    enum hlm_place *place;            /* [num_tensors] */
};

static bool touches(const struct placing *placing, int32_t pass, int32_t tensor)
{
    return tensor >= 0 && placing->ranges[pass][tensor].first >= 0;
}

/* Does the backward touch it? */
static bool is_kept(const struct placing *placing, int32_t tensor)
{
    return tensor >= 0 && placing->whole[tensor].first >= 0;
}

static enum hlm_place place_of(const struct placing *placing, int32_t tensor)
{
    if (placing->block->tensors[tensor].role != HLM_TENSOR_ACTIVATION) {
        return HLM_PLACE_EXTERNAL;
    }
    if (touches(placing, FORWARD, tensor) && is_kept(placing, tensor) &&
        placing->whole[tensor].read_first) {
        return HLM_PLACE_STASH;
    }
    const bool both = touches(placing, BACKWARD, tensor) && touches(placing, WEIGHT, tensor);
    return both && placing->ranges[WEIGHT][tensor].read_first ? HLM_PLACE_HELD
                                                              : HLM_PLACE_TRANSIENT;
}

static void place_tensors(struct placing *placing, struct hlm_block_memory *out)
{
    const struct hlm_block *block = placing->block;
    for (int32_t t = 0; t < block->num_tensors; t++) {
        placing->place[t] = place_of(placing, t);
        for (int32_t pass = 0; pass < NUM_PASSES; pass++) {
            placing->offsets[pass][t] = -1;
        }
        if (placing->place[t] == HLM_PLACE_STASH) {
            for (int32_t pass = 0; pass < NUM_PASSES; pass++) {
                placing->offsets[pass][t] = out->stash_bytes;
            }
            out->stash_bytes += tensor_bytes(block, t);
        } else if (placing->place[t] == HLM_PLACE_HELD) {
            placing->offsets[BACKWARD][t] = placing->offsets[WEIGHT][t] = out->held_bytes;
            out->held_bytes += tensor_bytes(block, t);
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

static void start_placing(struct hlm_arena *arena, const struct hlm_block *block, bool split,
                          struct placing *placing)
{
    const unsigned weight = 1U << HLM_PART_WEIGHT_GRAD;
    *placing = (struct placing){
        .block = block,
        .passes = {{block->forward, block->num_forward, ~0U},
                   {block->backward, block->num_backward, split ? ~weight : ~0U},
                   {block->backward, block->num_backward, split ? weight : 0U}},
        .place = HLM_ARENA_ARRAY(arena, enum hlm_place, block->num_tensors),
    };
    for (int32_t pass = 0; pass < NUM_PASSES; pass++) {
        placing->offsets[pass] = HLM_ARENA_ARRAY(arena, int64_t, block->num_tensors);
    }
}

static void find_all_ranges(struct hlm_arena *scratch, struct placing *placing)
{
    const struct hlm_block *block = placing->block;
    const struct pass whole = {block->backward, block->num_backward, ~0U};
    placing->whole = HLM_ARENA_ARRAY(scratch, struct range, block->num_tensors);
    find_ranges(block, &whole, placing->whole);
    for (int32_t pass = 0; pass < NUM_PASSES; pass++) {
        placing->ranges[pass] = HLM_ARENA_ARRAY(scratch, struct range, block->num_tensors);
        find_ranges(block, &placing->passes[pass], placing->ranges[pass]);
    }
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

void hlm_block_memory_of(struct hlm_arena *arena, const struct hlm_block *block, bool split,
                         struct hlm_block_memory *out)
{
    struct placing placing;
    int64_t transient[NUM_PASSES];
    start_placing(arena, block, split, &placing);
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    find_all_ranges(arena, &placing);
    const int64_t input_bytes = block->input < 0 ? 0 : tensor_bytes(block, block->input);
    *out = (struct hlm_block_memory){
        .split = split,
        .place = placing.place,
        .forward_offset = placing.offsets[FORWARD],
        .backward_offset = placing.offsets[BACKWARD],
        .weight_offset = placing.offsets[split ? WEIGHT : BACKWARD],
        .input_bytes = input_bytes,
        .input_grad_bytes = split ? input_bytes : 0,
        .output_bytes = block->output < 0 ? 0 : tensor_bytes(block, block->output),
        .keeps_input = is_kept(&placing, block->input),
        .keeps_output = is_kept(&placing, block->output),
    };
    place_tensors(&placing, out);
    for (int32_t pass = 0; pass < NUM_PASSES; pass++) {
        extend_overlaps(&placing.passes[pass], placing.ranges[pass]);
        transient[pass] = place_transients(arena, block, &placing.passes[pass], placing.place,
                                           placing.ranges[pass], placing.offsets[pass]);
    }
    out->forward_transient_bytes = transient[FORWARD];
    out->backward_transient_bytes = larger(transient[BACKWARD], transient[WEIGHT]);
    count_params(block, out);
    hlm_arena_rewind(arena, mark);
}

void hlm_block_memory(struct hlm_arena *arena, const struct hlm_block *block,
                      struct hlm_block_memory *out)
{
    hlm_block_memory_of(arena, block, false, out);
}

bool hlm_tensor_is_data(enum hlm_tensor_role role)
{
    return role == HLM_TENSOR_TOKENS || role == HLM_TENSOR_TARGETS || role == HLM_TENSOR_PIXELS;
}

int64_t hlm_block_data_bytes(const struct hlm_block *block)
{
    int64_t bytes = 0;
    for (int32_t t = 0; t < block->num_tensors; t++) {
        bytes += hlm_tensor_is_data(block->tensors[t].role) ? tensor_bytes(block, t) : 0;
    }
    return bytes;
}

int64_t hlm_block_slot_bytes(const struct hlm_block *block, const struct hlm_block_memory *memory)
{
    return memory->stash_bytes + memory->held_bytes + memory->input_bytes +
           memory->input_grad_bytes + hlm_block_data_bytes(block);
}

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t shards(double elements, double element_bytes, bool sharded, int64_t group)
{
    return (int64_t)(elements / (sharded ? (double)group : 1.0) * element_bytes);
}

double hlm_memory_state_bytes(const struct hlm_strategy *strategy)
{
    const bool master = hlm_dtype_storage(strategy->dtype) != HLM_DTYPE_FP32;
    return 2.0 * hlm_dtype_bytes(HLM_DTYPE_FP32) +
           (master ? hlm_dtype_bytes(strategy->master_dtype) : 0.0);
}

static void add_slab(const struct hlm_strategy *strategy, int64_t num_elements, int64_t group,
                     int64_t bytes[HLM_NUM_MEMORY_KINDS])
{
    const int32_t zero = strategy->zero;
    const double padded = (double)(divide_up(num_elements, group) * group);
    const enum hlm_dtype dtype = hlm_dtype_storage(strategy->dtype);
    bytes[HLM_MEMORY_PARAMETERS] += shards(padded, hlm_dtype_bytes(dtype), zero >= 3, group);
    bytes[HLM_MEMORY_GRADIENTS] +=
        shards(padded, hlm_dtype_bytes(strategy->grad_dtype), zero >= 2, group);
    bytes[HLM_MEMORY_OPTIMIZER] +=
        shards(padded, hlm_memory_state_bytes(strategy), zero >= 1, group);
}

/* Wherever they live. */
static void add_slabs(const struct hlm_strategy *strategy, int64_t num_elements,
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

void hlm_memory_static(const struct hlm_strategy *strategy, int64_t num_elements,
                       int64_t num_expert_elements, int64_t bytes[HLM_NUM_MEMORY_KINDS])
{
    add_slabs(strategy, num_elements, num_expert_elements, bytes);
    if (hlm_offload_parts(strategy->offload).optimizer) {
        bytes[HLM_MEMORY_OPTIMIZER] = 0;
    }
}

int64_t hlm_memory_host_states(const struct hlm_strategy *strategy, int64_t num_elements,
                               int64_t num_expert_elements)
{
    int64_t bytes[HLM_NUM_MEMORY_KINDS];
    add_slabs(strategy, num_elements, num_expert_elements, bytes);
    return hlm_offload_parts(strategy->offload).optimizer ? bytes[HLM_MEMORY_OPTIMIZER] : 0;
}
