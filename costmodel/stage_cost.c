#include "costmodel/stage_cost.h"

#include <math.h>

#include "base/fmt.h"
#include "costmodel/data_parallel.h"
#include "costmodel/shards.h"

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

/* What an operator takes in whatever pass: a collective its seconds; a kernel its seconds and
 * launches, and by how much a ring of context parallelism beside it takes longer. */
struct op_price {
    double seconds, ring_s;
    int64_t launches;
};

static double op_collective_s(const struct hlm_pricer *pricer, const struct hlm_op *op)
{
    const struct hlm_group_shape shape =
        hlm_layout_shape(pricer->strategy, op->group, pricer->cluster, pricer->stage);
    if (op->group == HLM_GROUP_EP &&
        hlm_lowering_framework(pricer->strategy->lowering)->sends_rows_once) {
        return hlm_collective_dispatch_seconds(pricer->cluster, pricer->device_group, op->bytes,
                                               (int32_t)op->k, shape);
    }
    return hlm_collective_seconds(pricer->cluster, pricer->device_group, op_collective(op->kind),
                                  op->bytes, shape);
}

static void walk_collective(struct pass_walk *walk, const struct hlm_op *op, double seconds)
{
    const enum hlm_part part = op->group == HLM_GROUP_EP   ? HLM_PART_EP_COMM
                               : op->group == HLM_GROUP_CP ? HLM_PART_CP_COMM
                                                           : HLM_PART_TP_COMM;
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

/* Ring attention: keys and values pass round the cp group beside attention, in the backward with
 * their gradients. Other forms have collectives of their own in the list. */
static double op_ring_s(const struct hlm_pricer *pricer, const struct hlm_op *op,
                        double attention_s)
{
    const bool backward = op->kind == HLM_OP_ATTENTION_BWD;
    if (op->context_ranks <= 1 || (op->kind != HLM_OP_ATTENTION_FWD && !backward) ||
        hlm_op_gathers_context(op)) {
        return 0.0;
    }
    const struct hlm_group_shape shape =
        hlm_layout_shape(pricer->strategy, HLM_GROUP_CP, pricer->cluster, pricer->stage);
    const double bytes = (double)op->batch * (double)op->seq_len * (double)op->kv_heads *
                         (double)(op->head_dim + op->v_head_dim) * hlm_dtype_bytes(op->dtype);
    const double round_s =
        hlm_collective_seconds(pricer->cluster, pricer->device_group, HLM_ALL_GATHER, bytes, shape);
    return hlm_dp_exposed_s(attention_s, (backward ? 2.0 : 1.0) * round_s);
}

static struct op_price price_op(const struct hlm_pricer *pricer, const struct hlm_op *op)
{
    const struct hlm_device *device = &pricer->cluster->groups[pricer->device_group].device;
    if (hlm_op_is_collective(op->kind)) {
        return (struct op_price){.seconds = op_collective_s(pricer, op)};
    }
    const double seconds = hlm_kernel_seconds(device, op);
    return (struct op_price){seconds, op_ring_s(pricer, op, seconds),
                             hlm_kernel_launches(device, op)};
}

static const struct op_price *price_ops(struct hlm_arena *arena, const struct hlm_pricer *pricer,
                                        const struct hlm_op *ops, int32_t num_ops)
{
    struct op_price *prices = HLM_ARENA_ARRAY(arena, struct op_price, num_ops);
    for (int32_t i = 0; i < num_ops; i++) {
        prices[i] = price_op(pricer, &ops[i]);
    }
    return prices;
}

static void walk_op(struct pass_walk *walk, const struct hlm_op *op, const struct op_price *price)
{
    if (walk->hidden_tensor >= 0 && op_touches(op, walk->hidden_tensor)) {
        walk_expose_hidden(walk);
    }
    if (hlm_op_is_collective(op->kind)) {
        walk_collective(walk, op, price->seconds);
        return;
    }
    walk->cost.part[HLM_PART_CP_COMM] += price->ring_s;
    walk->cost.part[op_part(op)] += price->seconds;
    walk->now_s += price->ring_s + price->seconds;
    walk->launches += price->launches;
}

/* Prices the operators of one pass whose part is wanted (mask of 1 << hlm_op_part). */
static struct hlm_pass_cost price_pass(const struct hlm_pricer *pricer, const struct hlm_op *ops,
                                       const struct op_price *prices, int32_t num_ops,
                                       unsigned parts, int64_t *out_launches)
{
    struct pass_walk walk = {.pricer = pricer,
                             .device = &pricer->cluster->groups[pricer->device_group].device,
                             .hidden_tensor = -1};
    for (int32_t i = 0; i < num_ops; i++) {
        if ((parts & (1U << ops[i].part)) != 0) {
            walk_op(&walk, &ops[i], &prices[i]);
        }
    }
    walk_expose_hidden(&walk);
    const double host_s = (double)walk.launches * walk.device->launch_overhead_s *
                          hlm_lowering_framework(pricer->strategy->lowering)->host_per_launch;
    walk.cost.part[HLM_PART_HOST] = fmax(0.0, host_s - walk.now_s);
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

static void add_exposed(struct hlm_pass_cost *pass, double comm_s)
{
    const double exposed_s = hlm_dp_exposed_s(pass->seconds, comm_s);
    pass->part[HLM_PART_DP_COMM] += exposed_s;
    pass->seconds += exposed_s;
}

/* ZeRO-2 reduces the gradients of a block behind each of its backwards, beside the backward of the
 * block in front of it; ZeRO-3 also gathers the block's parameters for both passes, beside the pass
 * of its neighbour. Blocks of a model are alike, so each hides behind itself. Two blocks are whole
 * at a time, one of them with its gradients. */
static void share_beside(const struct hlm_pricer *pricer, struct hlm_block_cost *out)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    const struct hlm_dp_slab slab = {.strategy = strategy,
                                     .cluster = pricer->cluster,
                                     .device_group = pricer->device_group,
                                     .stage = pricer->stage,
                                     .num_elements = out->num_elements,
                                     .num_expert_elements = out->num_expert_elements};
    const double reduce_s = hlm_dp_reduce_s(&slab);
    const double gather_s = strategy->zero >= 3 ? hlm_dp_gather_s(&slab) : 0.0;
    add_exposed(&out->forward, gather_s);
    add_exposed(&out->backward, gather_s + reduce_s);
    add_exposed(&out->input_grad, gather_s);
    add_exposed(&out->weight_grad, gather_s + reduce_s);
    double bytes = hlm_dtype_bytes(strategy->grad_dtype);
    bytes += strategy->zero >= 3 ? 2.0 * hlm_dtype_bytes(hlm_dtype_storage(strategy->dtype)) : 0.0;
    out->transient_bytes += align_bytes((double)out->num_elements * bytes);
}

static double slab_op_s(const struct hlm_device *device, const struct hlm_strategy *strategy,
                        enum hlm_op_kind kind, double num_elements, double bytes_per_element,
                        double flops_per_element)
{
    if (num_elements <= 0.0) {
        return 0.0;
    }
    const struct hlm_op op = {.kind = kind,
                              .dtype = hlm_dtype_storage(strategy->dtype),
                              .m = (int64_t)num_elements,
                              .n = 1,
                              .bytes = num_elements * bytes_per_element,
                              .flops = num_elements * flops_per_element};
    return hlm_kernel_seconds(device, &op);
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

static struct hlm_dp_slab unit_slab(const struct hlm_pricer *pricer,
                                    const struct hlm_block_shards *shards, int32_t kind)
{
    const int64_t num_elements = shards->units[kind].num_padded;
    return (struct hlm_dp_slab){.strategy = pricer->strategy,
                                .cluster = pricer->cluster,
                                .device_group = pricer->device_group,
                                .stage = pricer->stage,
                                .num_elements = num_elements,
                                .num_expert_elements = kind == HLM_SHARD_EXPERT ? num_elements : 0};
}

/* What a pass does for the shards of its block, one behind the other: it gathers what it reads,
 * clears what it writes, reduces that and adds it to the shard. */
static void add_shards(const struct hlm_pricer *pricer, const struct hlm_block_shards *shards,
                       int32_t pass, struct hlm_pass_cost *out)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    const struct hlm_device *device = &pricer->cluster->groups[pricer->device_group].device;
    const double grad = hlm_dtype_bytes(strategy->grad_dtype);
    double comm_s = 0.0, work_s = 0.0;
    for (int32_t kind = 0; kind < HLM_NUM_SHARD_KINDS; kind++) {
        const struct hlm_shard_unit *unit = &shards->units[kind];
        const struct hlm_dp_slab slab = unit_slab(pricer, shards, kind);
        if (strategy->zero >= 3 && (shards->read[pass] & (1U << kind)) != 0) {
            comm_s += hlm_dp_gather_s(&slab);
        }
        if ((shards->written[pass] & (1U << kind)) != 0) {
            comm_s += hlm_dp_reduce_s(&slab);
            work_s +=
                slab_op_s(device, strategy, HLM_OP_FILL_ZERO, (double)unit->num_padded, grad, 0.0) +
                slab_op_s(device, strategy, HLM_OP_ADD, (double)unit->num_own, 3.0 * grad, 1.0);
        }
    }
    out->part[HLM_PART_DP_COMM] += comm_s;
    out->part[HLM_PART_MEMORY_BOUND] += work_s;
    out->seconds += comm_s + work_s;
}

/* What a step does once for the shards of a block. */
static void price_shards(const struct hlm_pricer *pricer, const struct hlm_block_shards *shards,
                         struct hlm_block_cost *out)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    out->num_padded = out->num_padded_expert = 0;
    for (int32_t kind = 0; kind < HLM_NUM_SHARD_KINDS; kind++) {
        const struct hlm_shard_unit *unit = &shards->units[kind];
        const int64_t summed =
            unit->num_sum_over_tp < unit->num_own ? unit->num_sum_over_tp : unit->num_own;
        const struct hlm_dp_slab slab = unit_slab(pricer, shards, kind);
        if (kind == HLM_SHARD_TABLE && shards->borrows_table) {
            continue;
        }
        out->num_padded += unit->num_padded;
        out->num_padded_expert += kind == HLM_SHARD_EXPERT ? unit->num_padded : 0;
        out->shard_gather_s += strategy->zero < 3 ? hlm_dp_gather_s(&slab) : 0.0;
        out->shard_reduce_s +=
            slab_collective_s(pricer, HLM_GROUP_TP, HLM_ALL_REDUCE, summed,
                              hlm_dtype_bytes(strategy->grad_dtype), pricer->stage);
    }
}

/* Set hlmplan: as its executor does it. */
static void share_in_turn(const struct hlm_pricer *pricer, const struct hlm_block_shards *units,
                          struct hlm_block_cost *out)
{
    struct hlm_block_shards shards = *units;
    hlm_shards_pad(&shards, pricer->strategy);
    add_shards(pricer, &shards, HLM_SHARD_FORWARD, &out->forward);
    add_shards(pricer, &shards, HLM_SHARD_BACKWARD, &out->backward);
    add_shards(pricer, &shards, HLM_SHARD_WEIGHT_GRAD, &out->backward);
    add_shards(pricer, &shards, HLM_SHARD_BACKWARD, &out->input_grad);
    add_shards(pricer, &shards, HLM_SHARD_WEIGHT_GRAD, &out->weight_grad);
    price_shards(pricer, &shards, out);
    const struct hlm_shards_whole whole = hlm_shards_whole(&shards, pricer->strategy);
    out->transient_bytes += whole.params_bytes + whole.grads_bytes;
}

static void share_block(const struct hlm_pricer *pricer, const struct hlm_block_shards *units,
                        struct hlm_block_cost *out)
{
    out->num_padded = out->num_elements;
    out->num_padded_expert = out->num_expert_elements;
    if (hlm_shards_apply(pricer->strategy)) {
        share_in_turn(pricer, units, out);
    } else if (pricer->strategy->zero >= 2) {
        share_beside(pricer, out);
    }
}

static void add_jitter(const struct hlm_strategy *strategy, struct hlm_pass_cost *pass)
{
    const double num_ranks = (double)hlm_strategy_world_size(strategy);
    const double frac = hlm_lowering_framework(strategy->lowering)->jitter_frac;
    const double seconds = frac * sqrt(2.0 * log(num_ranks)) * pass->seconds;
    pass->part[HLM_PART_JITTER] += seconds;
    pass->seconds += seconds;
}

static int64_t with_fragments(const struct hlm_strategy *strategy, int64_t bytes)
{
    const double frac = hlm_lowering_framework(strategy->lowering)->fragments_frac;
    return frac > 0.0 ? align_bytes((double)bytes * (1.0 + frac)) : bytes;
}

/* The passes of a block, as its operators alone have them. */
static void price_passes(struct hlm_arena *arena, const struct hlm_pricer *pricer,
                         const struct hlm_block *block, struct hlm_block_cost *out)
{
    const unsigned input = 1U << HLM_PART_INPUT_GRAD, weight = 1U << HLM_PART_WEIGHT_GRAD;
    const unsigned forward = 1U << HLM_PART_FORWARD;
    const struct op_price *down = price_ops(arena, pricer, block->forward, block->num_forward);
    const struct op_price *up = price_ops(arena, pricer, block->backward, block->num_backward);
    int64_t unused = 0;
    out->forward = price_pass(pricer, block->forward, down, block->num_forward, forward,
                              &out->num_kernels_forward);
    out->backward = price_pass(pricer, block->backward, up, block->num_backward,
                               forward | input | weight, &out->num_kernels_backward);
    out->input_grad =
        price_pass(pricer, block->backward, up, block->num_backward, forward | input, &unused);
    out->weight_grad =
        price_pass(pricer, block->backward, up, block->num_backward, weight, &unused);
}

/* With whole and with split backwards. */
enum { NUM_FORMS = 2 };

/* A block as its operators have it, whatever the schedule and the sharing of states. */
struct hlm_raw_block {
    struct hlm_block_cost cost;
    int64_t slot_bytes[NUM_FORMS], transient_bytes[NUM_FORMS];
    struct hlm_block_shards units[NUM_FORMS]; /* of sets that share in turn, not padded */
};

static void price_block(struct hlm_arena *arena, const struct hlm_pricer *pricer,
                        const struct hlm_block *block, struct hlm_raw_block *out)
{
    struct hlm_block_cost *cost = &out->cost;
    *cost = (struct hlm_block_cost){0};
    price_passes(arena, pricer, block, cost);
    for (int32_t form = 0; form < NUM_FORMS; form++) {
        struct hlm_block_memory memory;
        hlm_block_memory_of(arena, block, form == 1, &memory);
        if (hlm_lowering_framework(pricer->strategy->lowering)->shares_in_turn) {
            hlm_block_units(block, form == 1, pricer->model->tied_embeddings, &out->units[form]);
        }
        out->slot_bytes[form] = hlm_block_slot_bytes(block, &memory);
        out->transient_bytes[form] =
            memory.forward_transient_bytes > memory.backward_transient_bytes
                ? memory.forward_transient_bytes
                : memory.backward_transient_bytes;
        cost->output_bytes = memory.output_bytes;
        cost->num_elements = memory.num_param_elements;
        cost->num_expert_elements = memory.num_expert_elements;
    }
    for (int32_t i = 0; i < block->num_params; i++) {
        const struct hlm_param *param = &block->params[i];
        cost->num_sum_over_tp += param->sum_over_tp ? param->rows * param->cols : 0;
    }
}

/* What schedule, sharing of states and framework make of it. */
static void finish_block(const struct hlm_pricer *pricer, const struct hlm_raw_block *raw,
                         struct hlm_block_cost *out)
{
    const int32_t form = hlm_schedule_splits(pricer->strategy->schedule) ? 1 : 0;
    *out = raw->cost;
    out->slot_bytes = raw->slot_bytes[form];
    out->transient_bytes = raw->transient_bytes[form];
    share_block(pricer, &raw->units[form], out);
    out->slot_bytes = with_fragments(pricer->strategy, out->slot_bytes);
    out->transient_bytes = with_fragments(pricer->strategy, out->transient_bytes);
    struct hlm_pass_cost *const passes[] = {&out->forward, &out->backward, &out->input_grad,
                                            &out->weight_grad};
    for (size_t i = 0; i < sizeof passes / sizeof passes[0]; i++) {
        add_jitter(pricer->strategy, passes[i]);
    }
}

static int32_t num_modes(enum hlm_block_kind kind)
{
    return kind == HLM_BLOCK_DENSE || kind == HLM_BLOCK_MOE ? HLM_NUM_RECOMPUTES : 1;
}

static void finish_blocks(struct hlm_pricer *pricer)
{
    for (int32_t kind = 0; kind < HLM_NUM_BLOCKS; kind++) {
        for (int32_t mode = 0; pricer->has_kind[kind] && mode < num_modes(kind); mode++) {
            finish_block(pricer, &pricer->raw[kind * HLM_NUM_RECOMPUTES + mode],
                         &pricer->blocks[kind][mode]);
        }
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

/* Microbatches whose activations a stage holds, at most: pp in 1f1b, fewer than twice as many where
 * a schedule hides latency or bubbles behind them. */
static double max_in_flight(const struct hlm_strategy *strategy)
{
    const double m = (double)strategy->num_microbatches;
    const double ahead = strategy->schedule == HLM_SCHEDULE_1F1B ? 1.0 : 2.0;
    return strategy->schedule == HLM_SCHEDULE_GPIPE ? m : fmin(m, ahead * strategy->pp);
}

/* No device has 2^60 bytes, and sums of sizes must not leave 64 bits. */
static enum hlm_status check_activations(const struct hlm_pricer *pricer,
                                         const struct hlm_block *block, struct hlm_err *err)
{
    static const double max_bytes = 0x1p60;
    double bytes = 0.0;
    for (int32_t i = 0; i < block->num_tensors; i++) {
        const enum hlm_tensor_role role = block->tensors[i].role;
        bytes += role == HLM_TENSOR_PARAM || role == HLM_TENSOR_GRAD
                     ? 0.0
                     : hlm_tensor_bytes(&block->tensors[i]) + HLM_ALIGNMENT_BYTES;
    }
    const double all = bytes * (pricer->model->num_layers + 2) * max_in_flight(pricer->strategy);
    return all > max_bytes
               ? hlm_fail(err, HLM_NO, "the activations of all layers and microbatches need %s",
                          hlm_fmt_bytes(all).text)
               : HLM_OK;
}

static struct hlm_lowering_input lowering_input(const struct hlm_pricer *pricer)
{
    return (struct hlm_lowering_input){
        .model = pricer->model,
        .strategy = pricer->strategy,
        .backend = pricer->cluster->groups[pricer->device_group].device.backend,
        .last_stage_copy =
            pricer->model->tied_embeddings && hlm_layout_ends_apart(pricer->strategy)};
}

static enum hlm_status price_kind(struct hlm_arena *arena, const struct hlm_pricer *pricer,
                                  enum hlm_block_kind kind,
                                  struct hlm_raw_block out[HLM_NUM_RECOMPUTES], struct hlm_err *err)
{
    const struct hlm_lowering_input input = lowering_input(pricer);
    for (int32_t mode = 0; mode < num_modes(kind); mode++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(arena);
        const struct hlm_block *block = NULL;
        HLM_TRY(hlm_lowering_block(arena, &input, kind, (enum hlm_recompute)mode, &block, err));
        HLM_TRY(check_activations(pricer, block, err));
        price_block(arena, pricer, block, &out[mode]);
        hlm_arena_rewind(arena, mark);
    }
    return HLM_OK;
}

/* The first stage on the device group whose ranks see the strategy so. */
static int32_t stage_of_group(const struct hlm_strategy *strategy,
                              const struct hlm_cluster *cluster, int32_t device_group)
{
    for (int32_t pp = 0; pp < strategy->pp; pp++) {
        if (hlm_strategy_at(strategy, pp).tp == strategy->tp &&
            hlm_layout_device_group(strategy, cluster, pp) == device_group) {
            return pp;
        }
    }
    return 0;
}

/* All but the blocks. */
static enum hlm_status start_pricer(const struct hlm_model *model,
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
    const int64_t rows = strategy->microbatch_size * strategy->seq_len / strategy->cp /
                         (strategy->sp ? strategy->tp : 1);
    *out = (struct hlm_pricer){
        .model = model,
        .strategy = strategy,
        .cluster = cluster,
        .device_group = device_group,
        .stage = stage_of_group(strategy, cluster, device_group),
        .boundary_bytes = (int64_t)ceil((double)(rows * model->hidden_size) *
                                        hlm_dtype_bytes(hlm_dtype_storage(strategy->dtype))),
        .limit_bytes = device->memory_bytes,
        .fixed_bytes = device->fixed_memory_bytes};
    return HLM_OK;
}

enum hlm_status hlm_pricer_init(struct hlm_arena *arena, const struct hlm_model *model,
                                const struct hlm_strategy *strategy,
                                const struct hlm_cluster *cluster, int32_t device_group,
                                struct hlm_pricer *out, struct hlm_err *err)
{
    struct hlm_raw_block *raw =
        HLM_ARENA_ARRAY(arena, struct hlm_raw_block, HLM_NUM_BLOCKS * HLM_NUM_RECOMPUTES);
    HLM_TRY(start_pricer(model, strategy, cluster, device_group, out, err));
    out->raw = raw;
    for (int32_t kind = 0; kind < HLM_NUM_BLOCKS; kind++) {
        out->has_kind[kind] = model_has_kind(model, (enum hlm_block_kind)kind);
        if (out->has_kind[kind]) {
            HLM_TRY(price_kind(arena, out, (enum hlm_block_kind)kind,
                               &raw[kind * HLM_NUM_RECOMPUTES], err));
        }
    }
    finish_blocks(out);
    return HLM_OK;
}

void hlm_pricer_reuse(const struct hlm_pricer *priced, const struct hlm_strategy *strategy,
                      struct hlm_pricer *out)
{
    *out = *priced;
    out->strategy = strategy;
    out->stage = stage_of_group(strategy, priced->cluster, priced->device_group);
    finish_blocks(out);
}

enum hlm_status hlm_pricer_least_s(struct hlm_arena *scratch, const struct hlm_model *model,
                                   const struct hlm_strategy *strategy,
                                   const struct hlm_cluster *cluster, int32_t device_group,
                                   enum hlm_block_kind kind, double *out_s, struct hlm_err *err)
{
    struct hlm_pricer pricer;
    HLM_TRY(start_pricer(model, strategy, cluster, device_group, &pricer, err));
    const struct hlm_lowering_input input = lowering_input(&pricer);
    const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
    const struct hlm_block *block = NULL;
    struct hlm_block_cost cost;
    HLM_TRY(hlm_lowering_block(scratch, &input, kind, HLM_RECOMPUTE_NONE, &block, err));
    price_passes(scratch, &pricer, block, &cost);
    *out_s = cost.forward.seconds +
             fmin(cost.backward.seconds, cost.input_grad.seconds + cost.weight_grad.seconds);
    hlm_arena_rewind(scratch, mark);
    return HLM_OK;
}

static void pass_add(struct hlm_pass_cost *sum, const struct hlm_pass_cost *add, double times)
{
    sum->seconds += times * add->seconds;
    for (int32_t part = 0; part < HLM_NUM_PARTS; part++) {
        sum->part[part] += times * add->part[part];
    }
}

/* What a set that overlaps hides it behind: a pass of all blocks of the stage, without what
 * recompute adds to it, so that it does not depend on where that is done. */
struct pass_window {
    double forward_s, backward_s;
    int32_t num_blocks;
};

/* Blocks of one kind and mode; `plain` is the same kind without recompute. */
static void window_add(struct pass_window *window, const struct hlm_block_cost *plain,
                       int32_t count)
{
    window->forward_s += count * plain->forward.seconds;
    window->backward_s += count * plain->backward.seconds;
    window->num_blocks += count;
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
    stage->num_padded += count * block->num_padded;
    stage->num_padded_expert += count * block->num_padded_expert;
    stage->reduce_s += count * block->shard_reduce_s;
    stage->gather_s += count * block->shard_gather_s;
    *sum_over_tp += count * block->num_sum_over_tp;
    if (count > 0 && block->transient_bytes > stage->transient_bytes) {
        stage->transient_bytes = block->transient_bytes;
    }
}

static struct hlm_dp_slab stage_slab(const struct hlm_pricer *pricer,
                                     const struct hlm_stage_cost *stage, int32_t index)
{
    return (struct hlm_dp_slab){.strategy = pricer->strategy,
                                .cluster = pricer->cluster,
                                .device_group = pricer->device_group,
                                .stage = index,
                                .num_elements = stage->num_elements,
                                .num_expert_elements = stage->num_expert_elements};
}

static double stage_reduce_s(const struct hlm_pricer *pricer, const struct hlm_stage_cost *stage,
                             const struct pass_window *window, int64_t sum_over_tp, int32_t index)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    const double norms_s = slab_collective_s(pricer, HLM_GROUP_TP, HLM_ALL_REDUCE, sum_over_tp,
                                             hlm_dtype_bytes(strategy->grad_dtype), index);
    if (strategy->zero >= 2) {
        return norms_s;
    }
    const struct hlm_dp_slab slab = stage_slab(pricer, stage, index);
    const double reduce_s = hlm_dp_reduce_s(&slab);
    return norms_s + (hlm_lowering_framework(strategy->lowering)->overlaps_dp
                          ? hlm_dp_exposed_parts_s(window->backward_s, reduce_s, window->num_blocks)
                          : reduce_s);
}

double hlm_adamw_bytes_per_element(const struct hlm_strategy *strategy)
{
    const double param = hlm_dtype_bytes(hlm_dtype_storage(strategy->dtype));
    const bool master = strategy->dtype != HLM_DTYPE_FP32;
    const double moments = 4.0 * sizeof(float); /* two, read and written */
    return hlm_dtype_bytes(strategy->grad_dtype) + moments +
           2.0 * (master ? hlm_dtype_bytes(strategy->master_dtype) : param) +
           (master ? param : 0.0);
}

static double stage_gather_s(const struct hlm_pricer *pricer, const struct hlm_stage_cost *stage,
                             const struct pass_window *window, int32_t index)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    if (strategy->zero >= 3) {
        return 0.0;
    }
    const struct hlm_dp_slab slab = stage_slab(pricer, stage, index);
    const double gather_s = hlm_dp_gather_s(&slab);
    return hlm_lowering_framework(strategy->lowering)->overlaps_dp
               ? hlm_dp_exposed_parts_s(window->forward_s, gather_s, window->num_blocks)
               : gather_s;
}

static double stage_update_s(const struct hlm_pricer *pricer, const struct hlm_stage_cost *stage)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    const struct hlm_device *device = &pricer->cluster->groups[pricer->device_group].device;
    const double grad = hlm_dtype_bytes(strategy->grad_dtype);
    const int64_t dense = stage->num_elements - stage->num_expert_elements;
    const bool sharded = strategy->zero > 0;
    const double shards = sharded ? hlm_dp_shards(strategy, HLM_GROUP_DP) : 1;
    const double expert_shards = sharded ? hlm_dp_shards(strategy, HLM_GROUP_EDP) : 1;
    const double own = (double)dense / shards + (double)stage->num_expert_elements / expert_shards;
    return slab_op_s(device, strategy, HLM_OP_SUM_SQUARES, own, grad, 2.0) +
           slab_op_s(device, strategy, HLM_OP_ADAMW, own, hlm_adamw_bytes_per_element(strategy),
                     11.0) +
           slab_op_s(device, strategy, HLM_OP_FILL_ZERO,
                     strategy->zero >= 2 ? own : (double)stage->num_elements, grad, 0.0);
}

/* One kind of block, and what hides behind it. */
static void stage_add_kind(const struct hlm_pricer *pricer, enum hlm_block_kind kind,
                           const int32_t counts[HLM_NUM_RECOMPUTES], struct hlm_stage_cost *out,
                           struct pass_window *window, int64_t *sum_over_tp)
{
    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        stage_add(out, &pricer->blocks[kind][mode], counts[mode], sum_over_tp);
        window_add(window, &pricer->blocks[kind][HLM_RECOMPUTE_NONE], counts[mode]);
    }
}

void hlm_stage_cost(const struct hlm_pricer *pricer, const struct hlm_stage_shape *shape,
                    struct hlm_stage_cost *out)
{
    static const int32_t one[HLM_NUM_RECOMPUTES] = {[HLM_RECOMPUTE_NONE] = 1};
    *out = (struct hlm_stage_cost){0};
    struct pass_window window = {0};
    int64_t sum_over_tp = 0;
    if (shape->embedding) {
        stage_add_kind(pricer, HLM_BLOCK_EMBEDDING, one, out, &window, &sum_over_tp);
    }
    for (int32_t kind = HLM_BLOCK_DENSE; kind <= HLM_BLOCK_MOE; kind++) {
        stage_add_kind(pricer, (enum hlm_block_kind)kind, shape->layers[kind], out, &window,
                       &sum_over_tp);
    }
    if (shape->head) {
        stage_add_kind(pricer, HLM_BLOCK_HEAD, one, out, &window, &sum_over_tp);
    }
    if (!hlm_shards_apply(pricer->strategy)) {
        out->reduce_s = stage_reduce_s(pricer, out, &window, sum_over_tp, shape->stage);
        out->gather_s = stage_gather_s(pricer, out, &window, shape->stage);
    }
    out->optimizer_s = stage_update_s(pricer, out) + out->gather_s;
    hlm_memory_static(pricer->strategy, out->num_padded, out->num_padded_expert, out->static_bytes);
    const int64_t boundary = align_bytes((double)pricer->boundary_bytes);
    const bool split = hlm_schedule_splits(pricer->strategy->schedule);
    if (pricer->strategy->lowering == HLM_LOWERING_HLMPLAN) {
        out->slot_bytes +=
            (shape->head ? 0 : boundary) + (shape->stage > 0 && !split ? boundary : 0);
    }
    out->transient_bytes += split ? 0 : 2 * boundary;
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

/* What a device of `group` reaches through the network while `sharing` devices of its node use it.
 */
static double shared_rate(const struct hlm_device_group *group, const struct hlm_link *link,
                          int32_t sharing)
{
    if (group->nics_per_node == 0) {
        return link->bandwidth_bytes_per_s / (double)sharing;
    }
    const double domain = (double)hlm_device_group_domain(group);
    const double cards = (double)group->nics_per_node * domain / (double)group->devices_per_node;
    return fmin(link->bandwidth_bytes_per_s,
                group->nic_bandwidth_bytes_per_s * cards / (double)sharing);
}

/* What one rank of the busier side of a boundary sends or receives. */
static double message_bytes(const struct hlm_pricer *pricer, int32_t from, int32_t to)
{
    const struct hlm_strategy a = hlm_strategy_at(pricer->strategy, from);
    const struct hlm_strategy b = hlm_strategy_at(pricer->strategy, to);
    const int32_t most = a.tp > b.tp ? a.tp : b.tp, least = a.tp < b.tp ? a.tp : b.tp;
    const double bytes = (double)pricer->boundary_bytes;
    return a.sp || b.sp ? bytes * (pricer->strategy->sp ? pricer->strategy->tp : 1) / least
                        : bytes * most / least;
}

double hlm_stage_send_s(const struct hlm_pricer *pricer, int32_t stage, bool *out_both_sides)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    const int32_t from = hlm_layout_stage_rank(strategy, stage);
    const int32_t to = hlm_layout_stage_rank(strategy, stage + 1);
    *out_both_sides = false;
    if (from == to) {
        return 0.0;
    }
    int32_t sharing = 1;
    const struct hlm_link *link = hlm_layout_stage_link(strategy, pricer->cluster, stage, &sharing);
    *out_both_sides = link->needs_both_sides;
    const struct hlm_device_group *group =
        &pricer->cluster->groups[hlm_layout_device_group(strategy, pricer->cluster, stage)];
    double bytes = message_bytes(pricer, from, to), gather_s = 0.0;
    if (hlm_lowering_framework(strategy->lowering)->splits_messages && strategy->tp > 1 &&
        !strategy->sp) {
        gather_s = slab_collective_s(pricer, HLM_GROUP_TP, HLM_ALL_GATHER, pricer->boundary_bytes,
                                     1.0, stage);
        bytes /= (double)strategy->tp;
    }
    /* Slowed down by what the others take: the link's curve at as many bytes. */
    const double slowdown = link == &group->intra_node || link->bandwidth_bytes_per_s <= 0.0
                                ? (double)sharing
                                : link->bandwidth_bytes_per_s / shared_rate(group, link, sharing);
    return hlm_link_seconds(link, bytes * slowdown) + gather_s;
}

/* The sum of one double over all ranks. */
static double norm_sum_s(const struct hlm_pricer *pricer)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    const struct hlm_cluster *cluster = pricer->cluster;
    double slowest_s = 0.0, between_s = 0.0;
    int32_t last = -1;
    for (int32_t pp = 0; pp < strategy->pp; pp++) {
        const int32_t group = hlm_layout_device_group(strategy, cluster, pp);
        if (group == last) {
            continue;
        }
        const struct hlm_group_shape shape =
            hlm_layout_shape(strategy, HLM_GROUP_WORLD, cluster, pp);
        slowest_s = fmax(slowest_s, hlm_collective_seconds(cluster, group, HLM_ALL_REDUCE,
                                                           sizeof(double), shape));
        if (last >= 0) {
            const struct hlm_link *link = hlm_cluster_inter_link(cluster, last, group);
            between_s = fmax(between_s, 2.0 * hlm_link_seconds(link, sizeof(double)));
        }
        last = group;
    }
    return slowest_s + between_s;
}

/* Both copies of the tied table, or their shards, get the sum of their gradients: a ring of two. */
static double tied_sum_s(const struct hlm_pricer *pricer)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    const int32_t last_stage = strategy->pp * strategy->vpp - 1;
    if (!pricer->model->tied_embeddings || hlm_layout_stage_rank(strategy, last_stage) == 0) {
        return 0.0;
    }
    const int32_t first = hlm_layout_device_group(strategy, pricer->cluster, 0);
    const int32_t last = hlm_layout_device_group(strategy, pricer->cluster, last_stage);
    const int32_t tp = hlm_strategy_at(strategy, 0).tp;
    const int64_t rows = hlm_model_padded_vocab(pricer->model, tp) / tp;
    const int64_t whole = rows * pricer->model->hidden_size;
    const int64_t shards = hlm_shards_apply(strategy) ? hlm_dp_shards(strategy, HLM_GROUP_DP) : 1;
    const int64_t count = (whole + shards - 1) / shards;
    const double element_bytes = hlm_dtype_bytes(strategy->grad_dtype);
    if (first == last) {
        return slab_collective_s(pricer, HLM_GROUP_EMBEDDING, HLM_ALL_REDUCE, count, element_bytes,
                                 0);
    }
    const struct hlm_link *link = hlm_cluster_inter_link(pricer->cluster, first, last);
    const struct hlm_group_shape tp_shape =
        hlm_layout_shape(strategy, HLM_GROUP_TP, pricer->cluster, 0);
    const int32_t sharing = tp_shape.groups_per_node * tp_shape.ranks_per_node;
    const struct hlm_device_group *group = &pricer->cluster->groups[first];
    const double slowdown = link->bandwidth_bytes_per_s > 0.0
                                ? link->bandwidth_bytes_per_s / shared_rate(group, link, sharing)
                                : (double)sharing;
    return 2.0 * hlm_link_seconds(link, (double)count / 2.0 * element_bytes * slowdown);
}

double hlm_stage_sync_s(const struct hlm_pricer *pricer)
{
    return hlm_lowering_framework(pricer->strategy->lowering)->step_host_s + norm_sum_s(pricer) +
           tied_sum_s(pricer);
}
