#include "costmodel/stage_cost.h"

#include <math.h>

static const char *const part_texts[] = {
#define X(name, text) text,
    HLM_PART_MAP(X)
#undef X
        NULL};

const char *hlm_part_text(enum hlm_part part)
{
    HLM_ASSERT(part >= 0 && part < HLM_NUM_PARTS);
    return part_texts[part];
}

static enum hlm_part op_part(const struct hlm_op *op)
{
    if (op->recompute) {
        return HLM_PART_RECOMPUTE;
    }
    switch (op->kind) {
    case HLM_OP_GEMM:
    case HLM_OP_GROUPED_GEMM:
        return HLM_PART_GEMM;
    case HLM_OP_ATTENTION_FWD:
    case HLM_OP_ATTENTION_BWD:
        return HLM_PART_ATTENTION;
    default:
        return HLM_PART_MEMORY_BOUND;
    }
}

static enum hlm_collective op_collective(enum hlm_op_kind kind)
{
    switch (kind) {
    case HLM_OP_ALL_GATHER:
        return HLM_ALL_GATHER;
    case HLM_OP_REDUCE_SCATTER:
        return HLM_REDUCE_SCATTER;
    case HLM_OP_ALL_TO_ALL:
        return HLM_ALL_TO_ALL;
    default:
        return HLM_ALL_REDUCE;
    }
}

/* What a pass has added up so far. A hidden collective ends at hidden_until on the time line of the
 * pass; `hides` is the tensor that it writes. */
struct pass_walk {
    const struct hlm_pricer *pricer;
    const struct hlm_device *device;
    struct hlm_pass_cost cost;
    double kernel_s; /* device time of kernels since the last wait */
    double now_s;
    double hidden_until_s;
    enum hlm_part hidden_part;
    int32_t hidden_tensor; /* -1: none */
    int64_t launches;
};

static void walk_expose_hidden(struct pass_walk *walk)
{
    if (walk->hidden_tensor >= 0 && walk->hidden_until_s > walk->now_s) {
        walk->cost.part[walk->hidden_part] += walk->hidden_until_s - walk->now_s;
        walk->now_s = walk->hidden_until_s;
    }
    walk->hidden_tensor = -1;
}

static bool op_touches(const struct hlm_op *op, int32_t tensor)
{
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        if (op->operands[i] == tensor) {
            return true;
        }
    }
    return false;
}

static double op_collective_s(const struct pass_walk *walk, const struct hlm_op *op)
{
    const struct hlm_pricer *pricer = walk->pricer;
    const struct hlm_group_shape shape =
        hlm_layout_shape(pricer->strategy, op->group, pricer->cluster, 0);
    return hlm_collective_seconds(pricer->cluster, pricer->device_group, op_collective(op->kind),
                                  op->bytes, shape);
}

static void walk_collective(struct pass_walk *walk, const struct hlm_op *op)
{
    const enum hlm_part part = op->group == HLM_GROUP_EP ? HLM_PART_EP_COMM : HLM_PART_TP_COMM;
    const double seconds = op_collective_s(walk, op);
    walk_expose_hidden(walk); /* collectives of one stream run one behind the other */
    if (op->overlaps_next) {
        walk->hidden_until_s = walk->now_s + seconds;
        walk->hidden_part = part;
        walk->hidden_tensor = op->operands[op->kind == HLM_OP_ALL_REDUCE ? 0 : 1];
        return;
    }
    walk->cost.part[part] += seconds;
    walk->now_s += seconds;
}

static void walk_op(struct pass_walk *walk, const struct hlm_op *op)
{
    if (walk->hidden_tensor >= 0 && op_touches(op, walk->hidden_tensor)) {
        walk_expose_hidden(walk);
    }
    if (hlm_op_is_collective(op->kind)) {
        walk_collective(walk, op);
        return;
    }
    const double seconds = hlm_kernel_seconds(walk->device, op);
    walk->cost.part[op_part(op)] += seconds;
    walk->kernel_s += seconds;
    walk->now_s += seconds;
    walk->launches += hlm_kernel_launches(walk->device, op);
}

/* Prices the operators of one pass whose part is wanted (mask of 1 << hlm_op_part). */
static struct hlm_pass_cost price_pass(const struct hlm_pricer *pricer, const struct hlm_op *ops,
                                       int32_t num_ops, unsigned parts, int64_t *out_launches)
{
    struct pass_walk walk = {.pricer = pricer,
                             .device = &pricer->cluster->groups[pricer->device_group].device,
                             .hidden_tensor = -1};
    for (int32_t i = 0; i < num_ops; i++) {
        if ((parts & (1U << ops[i].part)) != 0) {
            walk_op(&walk, &ops[i]);
        }
    }
    walk_expose_hidden(&walk);
    const double host_s = (double)walk.launches * walk.device->launch_overhead_s;
    walk.cost.part[HLM_PART_HOST] = fmax(0.0, host_s - walk.kernel_s);
    for (int32_t part = 0; part < HLM_NUM_PARTS; part++) {
        walk.cost.seconds += walk.cost.part[part];
    }
    *out_launches = walk.launches;
    return walk.cost;
}

static int64_t align_bytes(double bytes)
{
    const int64_t whole = (int64_t)ceil(bytes);
    return (whole + HLM_ALIGNMENT_BYTES - 1) / HLM_ALIGNMENT_BYTES * HLM_ALIGNMENT_BYTES;
}

int64_t hlm_block_slot_bytes(const struct hlm_block *block, const struct hlm_block_memory *memory)
{
    int64_t bytes = memory->stash_bytes + memory->input_bytes;
    for (int32_t i = 0; i < block->num_tensors; i++) {
        const enum hlm_tensor_role role = block->tensors[i].role;
        if (role == HLM_TENSOR_TOKENS || role == HLM_TENSOR_TARGETS || role == HLM_TENSOR_PIXELS) {
            bytes += align_bytes(hlm_tensor_bytes(&block->tensors[i]));
        }
    }
    return bytes;
}

static void price_block(struct hlm_arena *arena, const struct hlm_pricer *pricer,
                        const struct hlm_block *block, struct hlm_block_cost *out)
{
    const unsigned input = 1U << HLM_PART_INPUT_GRAD, weight = 1U << HLM_PART_WEIGHT_GRAD;
    const unsigned forward = 1U << HLM_PART_FORWARD;
    int64_t unused = 0;
    *out = (struct hlm_block_cost){0};
    out->forward =
        price_pass(pricer, block->forward, block->num_forward, forward, &out->num_kernels_forward);
    out->backward = price_pass(pricer, block->backward, block->num_backward,
                               forward | input | weight, &out->num_kernels_backward);
    out->input_grad =
        price_pass(pricer, block->backward, block->num_backward, forward | input, &unused);
    out->weight_grad = price_pass(pricer, block->backward, block->num_backward, weight, &unused);

    struct hlm_block_memory memory;
    hlm_block_memory(arena, block, &memory);
    out->slot_bytes = hlm_block_slot_bytes(block, &memory);
    out->output_bytes = memory.output_bytes;
    out->transient_bytes = memory.forward_transient_bytes > memory.backward_transient_bytes
                               ? memory.forward_transient_bytes
                               : memory.backward_transient_bytes;
    out->num_elements = memory.num_param_elements;
    out->num_expert_elements = memory.num_expert_elements;
    for (int32_t i = 0; i < block->num_params; i++) {
        const struct hlm_param *param = &block->params[i];
        out->num_sum_over_tp += param->sum_over_tp ? param->rows * param->cols : 0;
    }
}

static bool model_has_kind(const struct hlm_model *model, enum hlm_block_kind kind)
{
    if (kind == HLM_BLOCK_EMBEDDING || kind == HLM_BLOCK_HEAD) {
        return true;
    }
    for (int32_t layer = 0; layer < model->num_layers; layer++) {
        if (hlm_model_is_moe_layer(model, layer) == (kind == HLM_BLOCK_MOE)) {
            return true;
        }
    }
    return false;
}

static enum hlm_status price_kind(struct hlm_arena *arena, struct hlm_pricer *pricer,
                                  enum hlm_block_kind kind, struct hlm_err *err)
{
    const struct hlm_device *device = &pricer->cluster->groups[pricer->device_group].device;
    const struct hlm_lowering_input input = {.model = pricer->model,
                                             .strategy = pricer->strategy,
                                             .backend = device->backend,
                                             .last_stage_copy = pricer->model->tied_embeddings &&
                                                                pricer->strategy->pp > 1};
    const bool layer = kind == HLM_BLOCK_DENSE || kind == HLM_BLOCK_MOE;
    for (int32_t mode = 0; mode < (layer ? HLM_NUM_RECOMPUTES : 1); mode++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(arena);
        const struct hlm_block *block = NULL;
        HLM_TRY(hlm_lowering_block(arena, &input, kind, (enum hlm_recompute)mode, &block, err));
        price_block(arena, pricer, block, &pricer->blocks[kind][mode]);
        hlm_arena_rewind(arena, mark);
    }
    return HLM_OK;
}

enum hlm_status hlm_pricer_init(struct hlm_arena *arena, const struct hlm_model *model,
                                const struct hlm_strategy *strategy,
                                const struct hlm_cluster *cluster, int32_t device_group,
                                struct hlm_pricer *out, struct hlm_err *err)
{
    HLM_TRY(hlm_strategy_check(strategy, model, err));
    const struct hlm_device *device = &cluster->groups[device_group].device;
    if (hlm_device_dtype(device, strategy->dtype) == NULL) {
        return hlm_fail(err, HLM_NO, "device %s has no %s", device->name,
                        hlm_dtype_texts[strategy->dtype]);
    }
    *out = (struct hlm_pricer){.model = model,
                               .strategy = strategy,
                               .cluster = cluster,
                               .device_group = device_group,
                               .limit_bytes = device->memory_bytes,
                               .fixed_bytes = device->fixed_memory_bytes};
    for (int32_t kind = 0; kind < HLM_NUM_BLOCKS; kind++) {
        out->has_kind[kind] = model_has_kind(model, (enum hlm_block_kind)kind);
        if (out->has_kind[kind]) {
            HLM_TRY(price_kind(arena, out, (enum hlm_block_kind)kind, err));
        }
    }
    const int64_t rows = strategy->microbatch_size * strategy->seq_len / strategy->cp /
                         (strategy->sp ? strategy->tp : 1);
    out->boundary_bytes =
        (int64_t)ceil((double)(rows * model->hidden_size) * hlm_dtype_bytes(strategy->dtype));
    return HLM_OK;
}

static void pass_add(struct hlm_pass_cost *sum, const struct hlm_pass_cost *add, double times)
{
    sum->seconds += times * add->seconds;
    for (int32_t part = 0; part < HLM_NUM_PARTS; part++) {
        sum->part[part] += times * add->part[part];
    }
}

static void stage_add(struct hlm_stage_cost *stage, const struct hlm_block_cost *block,
                      int32_t count, int64_t *sum_over_tp)
{
    pass_add(&stage->forward, &block->forward, count);
    pass_add(&stage->backward, &block->backward, count);
    pass_add(&stage->input_grad, &block->input_grad, count);
    pass_add(&stage->weight_grad, &block->weight_grad, count);
    stage->slot_bytes += count * block->slot_bytes;
    stage->num_elements += count * block->num_elements;
    stage->num_expert_elements += count * block->num_expert_elements;
    *sum_over_tp += count * block->num_sum_over_tp;
    if (count > 0 && block->transient_bytes > stage->transient_bytes) {
        stage->transient_bytes = block->transient_bytes;
    }
}

static double slab_collective_s(const struct hlm_pricer *pricer, enum hlm_group group,
                                enum hlm_collective op, int64_t num_elements, double element_bytes,
                                int32_t stage)
{
    if (num_elements == 0) {
        return 0.0;
    }
    const struct hlm_group_shape shape =
        hlm_layout_shape(pricer->strategy, group, pricer->cluster, stage);
    return hlm_collective_seconds(pricer->cluster, pricer->device_group, op,
                                  (double)num_elements * element_bytes, shape);
}

static double stage_reduce_s(const struct hlm_pricer *pricer, const struct hlm_stage_cost *stage,
                             int64_t sum_over_tp, int32_t index)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    const enum hlm_collective op = strategy->zero > 0 ? HLM_REDUCE_SCATTER : HLM_ALL_REDUCE;
    const double bytes = hlm_dtype_bytes(strategy->grad_dtype);
    const int64_t dense = stage->num_elements - stage->num_expert_elements;
    return slab_collective_s(pricer, HLM_GROUP_TP, HLM_ALL_REDUCE, sum_over_tp, bytes, index) +
           slab_collective_s(pricer, HLM_GROUP_DP, op, dense, bytes, index) +
           slab_collective_s(pricer, HLM_GROUP_EDP, op, stage->num_expert_elements, bytes, index);
}

static double slab_op_s(const struct hlm_device *device, const struct hlm_strategy *strategy,
                        enum hlm_op_kind kind, double num_elements, double bytes_per_element,
                        double flops_per_element)
{
    if (num_elements <= 0.0) {
        return 0.0;
    }
    const struct hlm_op op = {.kind = kind,
                              .dtype = strategy->dtype,
                              .m = (int64_t)num_elements,
                              .n = 1,
                              .bytes = num_elements * bytes_per_element,
                              .flops = num_elements * flops_per_element};
    return hlm_kernel_seconds(device, &op);
}

double hlm_adamw_bytes_per_element(const struct hlm_strategy *strategy)
{
    const double param = hlm_dtype_bytes(strategy->dtype);
    const bool master = strategy->dtype != HLM_DTYPE_FP32;
    const double moments = 4.0 * sizeof(float); /* two, read and written */
    return hlm_dtype_bytes(strategy->grad_dtype) + moments +
           2.0 * (master ? hlm_dtype_bytes(strategy->master_dtype) : param) +
           (master ? param : 0.0);
}

static double stage_gather_s(const struct hlm_pricer *pricer, const struct hlm_stage_cost *stage,
                             int32_t index)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    if (strategy->zero == 0) {
        return 0.0;
    }
    const double bytes = hlm_dtype_bytes(strategy->dtype);
    const int64_t dense = stage->num_elements - stage->num_expert_elements;
    return slab_collective_s(pricer, HLM_GROUP_DP, HLM_ALL_GATHER, dense, bytes, index) +
           slab_collective_s(pricer, HLM_GROUP_EDP, HLM_ALL_GATHER, stage->num_expert_elements,
                             bytes, index);
}

static double stage_update_s(const struct hlm_pricer *pricer, const struct hlm_stage_cost *stage)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    const struct hlm_device *device = &pricer->cluster->groups[pricer->device_group].device;
    const double grad = hlm_dtype_bytes(strategy->grad_dtype);
    const int64_t dense = stage->num_elements - stage->num_expert_elements;
    const bool sharded = strategy->zero > 0;
    const double shards = sharded ? strategy->zero_group : 1;
    const double expert_shards = sharded ? hlm_layout_group_size(strategy, HLM_GROUP_EDP) : 1;
    const double own = (double)dense / shards + (double)stage->num_expert_elements / expert_shards;
    return slab_op_s(device, strategy, HLM_OP_SUM_SQUARES, own, grad, 2.0) +
           slab_op_s(device, strategy, HLM_OP_ADAMW, own, hlm_adamw_bytes_per_element(strategy),
                     11.0) +
           slab_op_s(device, strategy, HLM_OP_FILL_ZERO, (double)stage->num_elements, grad, 0.0);
}

void hlm_stage_cost(const struct hlm_pricer *pricer, const struct hlm_stage_shape *shape,
                    struct hlm_stage_cost *out)
{
    *out = (struct hlm_stage_cost){0};
    int64_t sum_over_tp = 0;
    if (shape->embedding) {
        stage_add(out, &pricer->blocks[HLM_BLOCK_EMBEDDING][HLM_RECOMPUTE_NONE], 1, &sum_over_tp);
    }
    for (int32_t kind = HLM_BLOCK_DENSE; kind <= HLM_BLOCK_MOE; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            stage_add(out, &pricer->blocks[kind][mode], shape->layers[kind][mode], &sum_over_tp);
        }
    }
    if (shape->head) {
        stage_add(out, &pricer->blocks[HLM_BLOCK_HEAD][HLM_RECOMPUTE_NONE], 1, &sum_over_tp);
    }
    out->reduce_s = stage_reduce_s(pricer, out, sum_over_tp, shape->stage);
    out->gather_s = stage_gather_s(pricer, out, shape->stage);
    out->optimizer_s = stage_update_s(pricer, out) + out->gather_s;
    hlm_memory_static(pricer->strategy, out->num_elements, out->num_expert_elements,
                      out->static_bytes);
    const int64_t boundary = align_bytes((double)pricer->boundary_bytes);
    if (pricer->strategy->lowering == HLM_LOWERING_HLMPLAN) {
        out->slot_bytes += (shape->head ? 0 : boundary) + (shape->stage > 0 ? boundary : 0);
    }
    out->transient_bytes += 2 * boundary;
}

void hlm_stage_memory(const struct hlm_pricer *pricer, const struct hlm_stage_shape *shape,
                      const struct hlm_stage_cost *cost, int32_t in_flight,
                      struct hlm_stage_memory *out)
{
    *out = (struct hlm_stage_memory){.stage = shape->stage, .limit_bytes = pricer->limit_bytes};
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        out->bytes[kind] = cost->static_bytes[kind];
    }
    out->bytes[HLM_MEMORY_ACTIVATIONS] = in_flight * cost->slot_bytes;
    out->bytes[HLM_MEMORY_TRANSIENT] = cost->transient_bytes;
    out->bytes[HLM_MEMORY_FIXED] = pricer->fixed_bytes;
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        out->peak_bytes += out->bytes[kind];
    }
}

double hlm_stage_send_s(const struct hlm_pricer *pricer, int32_t stage, bool *out_both_sides)
{
    int32_t sharing = 1;
    const struct hlm_link *link =
        hlm_layout_stage_link(pricer->strategy, pricer->cluster, stage, &sharing);
    *out_both_sides = link->needs_both_sides;
    return hlm_link_seconds(link, (double)pricer->boundary_bytes * sharing);
}

double hlm_stage_sync_s(const struct hlm_pricer *pricer)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    double seconds =
        slab_collective_s(pricer, HLM_GROUP_WORLD, HLM_ALL_REDUCE, 1, sizeof(double), 0);
    if (pricer->model->tied_embeddings && strategy->pp > 1) {
        const int64_t rows = hlm_model_padded_vocab(pricer->model, strategy->tp) / strategy->tp;
        seconds += slab_collective_s(pricer, HLM_GROUP_EMBEDDING, HLM_ALL_REDUCE,
                                     rows * pricer->model->hidden_size,
                                     hlm_dtype_bytes(strategy->grad_dtype), 0);
    }
    return seconds;
}
