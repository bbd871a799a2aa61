/* What stages send one another, and where all ranks meet at the end of a step. */
#include <math.h>

#include "costmodel/data_parallel.h"
#include "costmodel/pricer_internal.h"

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
        gather_s = hlm_slab_collective_s(pricer, HLM_GROUP_TP, HLM_ALL_GATHER,
                                         pricer->boundary_bytes, 1.0, stage);
        bytes /= (double)strategy->tp;
    }
    /* Slowed down by what the others take: the link's curve at as many bytes. */
    const double slowdown = link == &group->intra_node || link->bandwidth_bytes_per_s <= 0.0
                                ? (double)sharing
                                : link->bandwidth_bytes_per_s / shared_rate(group, link, sharing);
    return hlm_link_seconds(link, bytes * slowdown) + gather_s;
}

/* The same where replicas are not alike. */
static double replicas_sum_s(const struct hlm_pricer *pricer)
{
    const struct hlm_cluster *cluster = pricer->cluster;
    struct hlm_strategy whole = *pricer->strategy;
    double slowest_s = 0.0, between_s = 0.0;
    whole.seen_replicas = 0;
    for (int32_t i = 0; i < whole.num_replicas; i++) {
        const struct hlm_strategy seen = hlm_strategy_of_replicas(&whole, i);
        const int32_t group = seen.replicas[i].device_group;
        const int32_t last = i > 0 ? seen.replicas[i - 1].device_group : group;
        slowest_s =
            fmax(slowest_s,
                 hlm_collective_seconds(cluster, group, HLM_ALL_REDUCE, sizeof(double),
                                        hlm_layout_shape(&seen, HLM_GROUP_WORLD, cluster, 0)));
        if (last != group) {
            const struct hlm_link *link = hlm_cluster_inter_link(cluster, last, group);
            between_s = fmax(between_s, 2.0 * hlm_link_seconds(link, sizeof(double)));
        }
    }
    return slowest_s + between_s;
}

/* The sum of one double over all ranks. */
static double norm_sum_s(const struct hlm_pricer *pricer)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    const struct hlm_cluster *cluster = pricer->cluster;
    if (strategy->num_replicas > 0) {
        return replicas_sum_s(pricer);
    }
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
        return hlm_slab_collective_s(pricer, HLM_GROUP_EMBEDDING, HLM_ALL_REDUCE, count,
                                     element_bytes, 0);
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
