#include "planner/plan_hosts.h"

#include "base/fmt.h"

/* Ranks stand on devices in a row, so the nodes of a pipeline rank, too, are in a row. */
struct node {
    const struct hlm_device_group *group;
    int64_t index; /* over the whole cluster */
};

static struct node node_of(const struct hlm_cluster *cluster, int64_t device)
{
    int64_t nodes = 0;
    for (int32_t g = 0; g < cluster->num_groups; g++) {
        const struct hlm_device_group *group = &cluster->groups[g];
        const int64_t num_devices = (int64_t)group->num_nodes * group->devices_per_node;
        if (device < num_devices) {
            return (struct node){group, nodes + device / group->devices_per_node};
        }
        device -= num_devices;
        nodes += group->num_nodes;
    }
    HLM_ASSERT(!"a rank stands on a device of the cluster");
    return (struct node){NULL, 0};
}

/* What one rank keeps on its host: the sum over its stages. */
static double rank_bytes(const struct hlm_strategy *strategy, const struct hlm_stage_memory *memory,
                         int32_t num_stages, int32_t pp)
{
    double bytes = 0.0;
    for (int32_t s = 0; s < num_stages; s++) {
        bytes += hlm_layout_stage_rank(strategy, s) == pp ? (double)memory[s].host_bytes : 0.0;
    }
    return bytes;
}

enum hlm_status hlm_plan_check_hosts(const struct hlm_cluster *cluster,
                                     const struct hlm_strategy *strategy,
                                     const struct hlm_stage_memory *memory, int32_t num_stages,
                                     struct hlm_err *err)
{
    if (strategy->offload == HLM_OFFLOAD_NONE) {
        return HLM_OK;
    }
    const int64_t num_nodes = node_of(cluster, hlm_cluster_num_devices(cluster) - 1).index + 1;
    struct hlm_arena *scratch = hlm_arena_new();
    double *kept = HLM_ARENA_ARRAY(scratch, double, num_nodes);
    double *own = HLM_ARENA_ARRAY(scratch, double, strategy->pp);
    for (int32_t pp = 0; pp < strategy->pp; pp++) {
        own[pp] = rank_bytes(strategy, memory, num_stages, pp);
    }
    enum hlm_status status = HLM_OK;
    const int32_t num_ranks = (int32_t)hlm_strategy_world_size(strategy);
    for (int32_t rank = 0; rank < num_ranks; rank++) {
        const struct node node = node_of(cluster, hlm_layout_device(strategy, rank));
        kept[node.index] += own[hlm_layout_coords(strategy, rank).pp];
    }
    for (int32_t rank = 0; rank < num_ranks && status == HLM_OK; rank++) {
        const struct node node = node_of(cluster, hlm_layout_device(strategy, rank));
        if (kept[node.index] > node.group->host->memory_bytes) {
            status = hlm_fail(err, HLM_NO,
                              "offload = %s needs %s of the host of node %lld (%s), which has %s",
                              hlm_offload_texts[strategy->offload],
                              hlm_fmt_bytes(kept[node.index]).text, (long long)node.index,
                              node.group->name, hlm_fmt_bytes(node.group->host->memory_bytes).text);
        }
    }
    hlm_arena_free(scratch);
    return status;
}
