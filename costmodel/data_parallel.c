#include "costmodel/data_parallel.h"

#include <math.h>

#include "costmodel/collective.h"

static const double overlap_slowdown = 0.189; /* see the header */

/* Ranks that hold the same parameters. Those of a dense slab also differ in their part of a
 * sequence. */
static int32_t num_replicas(const struct hlm_strategy *strategy, enum hlm_group group)
{
    return group == HLM_GROUP_EDP ? hlm_layout_group_size(strategy, HLM_GROUP_EDP)
                                  : hlm_strategy_all_dp(strategy) * strategy->cp;
}

int32_t hlm_dp_shards(const struct hlm_strategy *strategy, enum hlm_group group)
{
    const int32_t all = num_replicas(strategy, group);
    const bool part = strategy->zero > 0 && strategy->zero_group < hlm_strategy_all_dp(strategy);
    return part && strategy->zero_group < all ? strategy->zero_group : all;
}

/* `count` ranks of a group whose neighbours are `stride` devices apart. */
static struct hlm_group_shape strided_shape(const struct hlm_cluster *cluster, int32_t device_group,
                                            int32_t stride, int32_t count)
{
    const int32_t node = hlm_device_group_domain(&cluster->groups[device_group]);
    const int32_t fit = node / stride > 1 ? node / stride : 1;
    const int32_t per_node = fit < count ? fit : count;
    const int32_t sharing = node / per_node > 1 ? node / per_node : 1;
    return (struct hlm_group_shape){.num_ranks = count,
                                    .num_nodes = (count + per_node - 1) / per_node,
                                    .ranks_per_node = per_node,
                                    .groups_per_node = sharing};
}

/* `size` ranks that are neighbours in a group, or all of it. A group of context ranks is taken to
 * be laid out evenly: published runs of this kind fill as much of a node as their groups divide (64
 * of the 72 devices of an NVL72), which their cluster does not say. */
static struct hlm_group_shape group_shape(const struct hlm_dp_slab *slab, enum hlm_group group,
                                          int32_t size)
{
    const struct hlm_strategy *strategy = slab->strategy;
    const bool even = group == HLM_GROUP_DP && strategy->cp > 1;
    if (!even && size == hlm_layout_group_size(strategy, group)) {
        return hlm_layout_shape(strategy, group, slab->cluster, slab->stage);
    }
    return strided_shape(slab->cluster, slab->device_group, strategy->tp, size);
}

static struct hlm_strategy as_seen(const struct hlm_strategy *strategy, int32_t index)
{
    struct hlm_strategy whole = *strategy;
    whole.seen_replicas = 0;
    return hlm_strategy_of_replicas(&whole, index);
}

/* Nodes of all ranks that share a position in their replica. */
static int32_t all_nodes(const struct hlm_dp_slab *slab)
{
    int32_t nodes = 0;
    for (int32_t i = 0; i < slab->strategy->num_replicas; i++) {
        const struct hlm_strategy seen = as_seen(slab->strategy, i);
        nodes += hlm_layout_shape(&seen, HLM_GROUP_DP, slab->cluster, slab->stage).num_nodes;
    }
    return nodes;
}

/* Over unlike replicas: see the header. */
static double over_replicas_s(const struct hlm_dp_slab *slab, enum hlm_collective op, double bytes)
{
    const int32_t num = slab->strategy->num_replicas, nodes = all_nodes(slab);
    double most_s = 0.0;
    for (int32_t i = 0; i < num; i++) {
        const struct hlm_strategy seen = as_seen(slab->strategy, i);
        const int32_t group = seen.replicas[i].device_group;
        const int32_t next = seen.replicas[(i + 1) % num].device_group;
        struct hlm_group_shape shape =
            hlm_layout_shape(&seen, HLM_GROUP_DP, slab->cluster, slab->stage);
        const bool spans = shape.num_nodes > 1;
        shape.num_ranks = hlm_strategy_all_dp(&seen);
        shape.num_nodes = nodes;
        const struct hlm_link *links[] = {
            spans ? hlm_cluster_inter_link(slab->cluster, group, group) : NULL,
            hlm_cluster_inter_link(slab->cluster, group, next)};
        for (int32_t k = spans ? 0 : 1; k < 2; k++) {
            most_s = fmax(most_s, hlm_collective_seconds_over(slab->cluster, group, links[k], op,
                                                              bytes, shape));
        }
    }
    return most_s;
}

static double collective_s(const struct hlm_dp_slab *slab, enum hlm_collective op,
                           struct hlm_group_shape shape, double bytes)
{
    if (bytes > 0.0 && slab->strategy->num_replicas > 1) {
        return over_replicas_s(slab, op, bytes);
    }
    return bytes > 0.0 ? hlm_collective_seconds(slab->cluster, slab->device_group, op, bytes, shape)
                       : 0.0;
}

static double reduce_s(const struct hlm_dp_slab *slab, enum hlm_group group, int64_t num_elements)
{
    const struct hlm_strategy *strategy = slab->strategy;
    const double bytes = (double)num_elements * hlm_dtype_bytes(strategy->grad_dtype);
    if (strategy->zero == 0) {
        return collective_s(slab, HLM_ALL_REDUCE,
                            group_shape(slab, group, num_replicas(strategy, group)), bytes);
    }
    const int32_t size = hlm_dp_shards(strategy, group);
    const int32_t replicas = num_replicas(strategy, group) / size;
    const double scatter_s =
        collective_s(slab, HLM_REDUCE_SCATTER, group_shape(slab, group, size), bytes);
    if (replicas <= 1) {
        return scatter_s;
    }
    const struct hlm_group_shape across =
        strided_shape(slab->cluster, slab->device_group, size * strategy->tp, replicas);
    return scatter_s + collective_s(slab, HLM_ALL_REDUCE, across, bytes / (double)size);
}

double hlm_dp_reduce_s(const struct hlm_dp_slab *slab)
{
    return reduce_s(slab, HLM_GROUP_DP, slab->num_elements - slab->num_expert_elements) +
           reduce_s(slab, HLM_GROUP_EDP, slab->num_expert_elements);
}

double hlm_dp_gather_s(const struct hlm_dp_slab *slab)
{
    const struct hlm_strategy *strategy = slab->strategy;
    if (strategy->zero == 0) {
        return 0.0;
    }
    const double bytes = hlm_dtype_bytes(hlm_dtype_storage(strategy->dtype));
    const double dense = (double)(slab->num_elements - slab->num_expert_elements) * bytes;
    const double experts = (double)slab->num_expert_elements * bytes;
    const int32_t dense_size = hlm_dp_shards(strategy, HLM_GROUP_DP);
    const int32_t expert_size = hlm_dp_shards(strategy, HLM_GROUP_EDP);
    return collective_s(slab, HLM_ALL_GATHER, group_shape(slab, HLM_GROUP_DP, dense_size), dense) +
           collective_s(slab, HLM_ALL_GATHER, group_shape(slab, HLM_GROUP_EDP, expert_size),
                        experts);
}

double hlm_dp_exposed_s(double compute_s, double comm_s)
{
    const double both_s = compute_s + overlap_slowdown * fmin(comm_s, compute_s);
    return fmax(comm_s, both_s) - compute_s;
}

double hlm_dp_exposed_parts_s(double compute_s, double comm_s, int32_t num_parts)
{
    if (num_parts <= 1) {
        return comm_s;
    }
    const double part_s = comm_s / (double)num_parts;
    return part_s + hlm_dp_exposed_s(compute_s * (1.0 - 1.0 / (double)num_parts), comm_s - part_s);
}
