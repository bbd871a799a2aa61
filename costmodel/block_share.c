/* What sharing gradients, states and parameters adds to a block (ZeRO-2 and 3), and the work of a
 * step on a slab of elements. */
#include "costmodel/data_parallel.h"
#include "costmodel/pricer_internal.h"

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
    out->transient_bytes += hlm_align_bytes((double)out->num_elements * bytes);
}

double hlm_slab_op_s(const struct hlm_device *device, const struct hlm_strategy *strategy,
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

double hlm_slab_collective_s(const struct hlm_pricer *pricer, enum hlm_group group,
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
                hlm_slab_op_s(device, strategy, HLM_OP_FILL_ZERO, (double)unit->num_padded, grad,
                              0.0) +
                hlm_slab_op_s(device, strategy, HLM_OP_ADD, (double)unit->num_own, 3.0 * grad, 1.0);
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
            hlm_slab_collective_s(pricer, HLM_GROUP_TP, HLM_ALL_REDUCE, summed,
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

void hlm_price_sharing(const struct hlm_pricer *pricer, const struct hlm_block_shards *units,
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
