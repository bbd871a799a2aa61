#include "cli/subcluster.h"

enum { MAX_HALVINGS = 32 };

/* One group with some of its nodes. */
static struct hlm_cluster group_alone(struct hlm_arena *arena, const struct hlm_cluster *cluster,
                                      int32_t index, int32_t num_nodes)
{
    struct hlm_device_group *group = HLM_ARENA_NEW(arena, struct hlm_device_group);
    *group = cluster->groups[index];
    group->num_nodes = num_nodes;
    struct hlm_cluster alone = *cluster;
    alone.name =
        hlm_arena_printf(arena, "%s:%dx%d", group->device.name, num_nodes, group->devices_per_node);
    alone.groups = group;
    alone.num_groups = 1;
    alone.links = NULL;
    alone.num_links = 0;
    if (num_nodes > 1) {
        struct hlm_inter_link *link = HLM_ARENA_NEW(arena, struct hlm_inter_link);
        *link = (struct hlm_inter_link){.link = *hlm_cluster_inter_link(cluster, index, index)};
        alone.links = link;
        alone.num_links = 1;
    }
    return alone;
}

const struct hlm_cluster *hlm_subclusters(struct hlm_arena *arena,
                                          const struct hlm_cluster *cluster, int32_t *out_num)
{
    struct hlm_cluster *parts =
        HLM_ARENA_ARRAY(arena, struct hlm_cluster, 1 + cluster->num_groups * MAX_HALVINGS);
    int32_t num = 0;
    parts[num++] = *cluster;
    for (int32_t g = 0; g < cluster->num_groups; g++) {
        const int32_t num_nodes = cluster->groups[g].num_nodes;
        for (int64_t nodes = 1; nodes < num_nodes; nodes *= 2) {
            parts[num++] = group_alone(arena, cluster, g, (int32_t)nodes);
        }
        if (cluster->num_groups > 1) {
            parts[num++] = group_alone(arena, cluster, g, num_nodes);
        }
    }
    *out_num = num;
    return parts;
}

enum hlm_status hlm_subcluster_check_prices(const struct hlm_cluster *cluster, struct hlm_err *err)
{
    for (int32_t g = 0; g < cluster->num_groups; g++) {
        if (!(cluster->groups[g].price_per_device_hour > 0.0)) {
            return hlm_fail(err, HLM_INPUT,
                            "--objective cost: the group \"%s\" of the cluster has no "
                            "price_per_device_hour",
                            cluster->groups[g].name);
        }
    }
    return HLM_OK;
}
