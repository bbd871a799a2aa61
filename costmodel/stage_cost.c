#include "costmodel/stage_cost.h"

#include "costmodel/data_parallel.h"
#include "costmodel/pricer_internal.h"

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
    stage->host_slot_bytes += count * block->host_slot_bytes;
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
    const double norms_s = hlm_slab_collective_s(pricer, HLM_GROUP_TP, HLM_ALL_REDUCE, sum_over_tp,
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

/* Sets what the update has of the host, and returns all of it. */
static double stage_update_s(const struct hlm_pricer *pricer, struct hlm_stage_cost *stage,
                             int32_t num_blocks)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    const struct hlm_device_group *group = &pricer->cluster->groups[pricer->device_group];
    const struct hlm_device *device = &group->device;
    const double grad = hlm_dtype_bytes(strategy->grad_dtype);
    const int64_t dense = stage->num_elements - stage->num_expert_elements;
    const bool sharded = strategy->zero > 0;
    const double shards = sharded ? hlm_dp_shards(strategy, HLM_GROUP_DP) : 1;
    const double expert_shards = sharded ? hlm_dp_shards(strategy, HLM_GROUP_EDP) : 1;
    const double own = (double)dense / shards + (double)stage->num_expert_elements / expert_shards;
    double update_s = hlm_slab_op_s(device, strategy, HLM_OP_ADAMW, own,
                                    hlm_adamw_bytes_per_element(strategy), 11.0);
    if (hlm_offload_parts(strategy->offload).optimizer) {
        stage->offload = hlm_offload_update(strategy, group, own, update_s, num_blocks);
        update_s = hlm_offload_update_s(&stage->offload);
    }
    return hlm_slab_op_s(device, strategy, HLM_OP_SUM_SQUARES, own, grad, 2.0) + update_s +
           hlm_slab_op_s(device, strategy, HLM_OP_FILL_ZERO,
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
    out->optimizer_s = stage_update_s(pricer, out, window.num_blocks) + out->gather_s;
    hlm_memory_static(pricer->strategy, out->num_padded, out->num_padded_expert, out->static_bytes);
    out->host_static_bytes =
        hlm_memory_host_states(pricer->strategy, out->num_padded, out->num_padded_expert);
    const int64_t boundary = hlm_align_bytes((double)pricer->boundary_bytes);
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
    out->host_bytes = cost->host_static_bytes + in_flight * cost->host_slot_bytes;
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        out->peak_bytes += out->bytes[kind];
    }
}
