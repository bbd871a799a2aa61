#include "planner/subcluster.h"

#include <stdlib.h>
#include <string.h>

#include "planner/columns_places.h"

/* --- the cluster of a subcluster --- */

static int32_t count_taken(const struct hlm_cluster *cluster, const int32_t *num_nodes)
{
    int32_t taken = 0;
    for (int32_t g = 0; g < cluster->num_groups; g++) {
        taken += num_nodes[g] > 0 ? 1 : 0;
    }
    return taken;
}

static bool takes_all(const struct hlm_cluster *cluster, const int32_t *num_nodes)
{
    for (int32_t g = 0; g < cluster->num_groups; g++) {
        if (num_nodes[g] != cluster->groups[g].num_nodes) {
            return false;
        }
    }
    return true;
}

/* "h100-sxm-80g:2x8+a100-sxm-80g:1x8", as on a command line. */
static const char *name_of(struct hlm_arena *arena, const struct hlm_device_group *groups,
                           int32_t num_groups)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    for (int32_t g = 0; g < num_groups; g++) {
        hlm_text_printf(&text, "%s%s:%dx%d", g > 0 ? "+" : "", groups[g].device.name,
                        groups[g].num_nodes, groups[g].devices_per_node);
    }
    return text.text;
}

/* Links between the groups that are left, with their new indices. A group of one node has none
 * inside itself. */
static void take_links(struct hlm_arena *arena, const struct hlm_cluster *cluster,
                       const int32_t *num_nodes, struct hlm_cluster *subcluster)
{
    const int32_t n = subcluster->num_groups;
    struct hlm_inter_link *links =
        HLM_ARENA_ARRAY(arena, struct hlm_inter_link, (size_t)n * (size_t)(n + 1) / 2);
    subcluster->num_links = 0;
    for (int32_t from = 0, at = 0; from < cluster->num_groups; from++) {
        for (int32_t to = from, behind = at; num_nodes[from] > 0 && to < cluster->num_groups;
             to++) {
            if (num_nodes[to] > 0 && (to > from || num_nodes[from] > 1)) {
                links[subcluster->num_links++] =
                    (struct hlm_inter_link){at, behind, *hlm_cluster_inter_link(cluster, from, to)};
            }
            behind += num_nodes[to] > 0 ? 1 : 0;
        }
        at += num_nodes[from] > 0 ? 1 : 0;
    }
    subcluster->links = links;
}

const struct hlm_cluster *hlm_subcluster_take(struct hlm_arena *arena,
                                              const struct hlm_cluster *cluster,
                                              const int32_t *num_nodes)
{
    if (takes_all(cluster, num_nodes)) {
        return cluster;
    }
    struct hlm_cluster *subcluster = hlm_arena_memdup(arena, cluster, sizeof(*cluster));
    subcluster->num_groups = count_taken(cluster, num_nodes);
    HLM_ASSERT(subcluster->num_groups > 0);
    struct hlm_device_group *groups =
        HLM_ARENA_ARRAY(arena, struct hlm_device_group, subcluster->num_groups);
    for (int32_t g = 0, at = 0; g < cluster->num_groups; g++) {
        if (num_nodes[g] > 0) {
            groups[at] = cluster->groups[g];
            groups[at++].num_nodes = num_nodes[g];
        }
    }
    subcluster->groups = groups;
    subcluster->name = name_of(arena, groups, subcluster->num_groups);
    take_links(arena, cluster, num_nodes, subcluster);
    return subcluster;
}

/* --- all subclusters --- */

struct lister {
    struct hlm_arena *arena;
    const struct hlm_cluster *cluster;
    int32_t *num_nodes; /* of the subcluster at hand */
    struct hlm_subcluster *subclusters;
    int32_t num_subclusters; /* one more than HLM_MAX_SUBCLUSTERS: too many */
};

static bool is_power_of_two(int32_t n)
{
    return (n & (n - 1)) == 0;
}

static void add_subcluster(struct lister *lister)
{
    const struct hlm_cluster *cluster = lister->cluster;
    const int32_t taken = count_taken(cluster, lister->num_nodes);
    if (taken == 0 || taken > HLM_MAX_MIXED_GROUPS ||
        lister->num_subclusters > HLM_MAX_SUBCLUSTERS) {
        return;
    }
    if (lister->num_subclusters < HLM_MAX_SUBCLUSTERS) {
        struct hlm_subcluster *subcluster = &lister->subclusters[lister->num_subclusters];
        *subcluster = (struct hlm_subcluster){
            .num_nodes = hlm_arena_memdup(lister->arena, lister->num_nodes,
                                          (size_t)cluster->num_groups * sizeof(int32_t)),
            .cluster = hlm_subcluster_take(lister->arena, cluster, lister->num_nodes)};
        for (int32_t g = 0; g < cluster->num_groups; g++) {
            const int64_t devices =
                (int64_t)lister->num_nodes[g] * cluster->groups[g].devices_per_node;
            subcluster->num_devices += devices;
            subcluster->price_per_hour +=
                (double)devices * cluster->groups[g].price_per_device_hour;
        }
    }
    lister->num_subclusters++;
}

static void choose_nodes(struct lister *lister, int32_t group)
{
    if (group == lister->cluster->num_groups) {
        add_subcluster(lister);
        return;
    }
    const int32_t all = lister->cluster->groups[group].num_nodes;
    for (int32_t nodes = 0; nodes <= all && lister->num_subclusters <= HLM_MAX_SUBCLUSTERS;
         nodes++) {
        if (nodes == 0 || all % nodes == 0 || is_power_of_two(nodes)) {
            lister->num_nodes[group] = nodes;
            choose_nodes(lister, group + 1);
        }
    }
}

static int cheapest_first(const void *left, const void *right)
{
    const struct hlm_subcluster *a = left, *b = right;
    const int by_price =
        (a->price_per_hour > b->price_per_hour) - (a->price_per_hour < b->price_per_hour);
    const int by_devices = (a->num_devices > b->num_devices) - (a->num_devices < b->num_devices);
    return by_price != 0     ? by_price
           : by_devices != 0 ? by_devices
                             : strcmp(a->cluster->name, b->cluster->name);
}

enum hlm_status hlm_subclusters_list(struct hlm_arena *arena, const struct hlm_cluster *cluster,
                                     const struct hlm_subcluster **out, int32_t *out_num,
                                     struct hlm_err *err)
{
    struct lister lister = {.arena = arena,
                            .cluster = cluster,
                            .num_nodes = HLM_ARENA_ARRAY(arena, int32_t, cluster->num_groups),
                            .subclusters =
                                HLM_ARENA_ARRAY(arena, struct hlm_subcluster, HLM_MAX_SUBCLUSTERS)};
    choose_nodes(&lister, 0);
    if (lister.num_subclusters > HLM_MAX_SUBCLUSTERS) {
        return hlm_fail(
            err, HLM_NO,
            "the cluster has more than %d subclusters to compare by price: plan for fewer "
            "groups or nodes at a time",
            HLM_MAX_SUBCLUSTERS);
    }
    qsort(lister.subclusters, (size_t)lister.num_subclusters, sizeof(*lister.subclusters),
          cheapest_first);
    *out = lister.subclusters;
    *out_num = lister.num_subclusters;
    return HLM_OK;
}

enum hlm_status hlm_subclusters_check_prices(const struct hlm_cluster *cluster, const char *where,
                                             struct hlm_err *err)
{
    for (int32_t g = 0; g < cluster->num_groups; g++) {
        if (!(cluster->groups[g].price_per_device_hour > 0.0)) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: $.groups[%d].price_per_device_hour: the group \"%.100s\" has no "
                            "price to compare plans by; a cluster file can give it one (hlmplan "
                            "profile --join writes the file of any cluster)",
                            where, g, cluster->groups[g].name);
        }
    }
    return HLM_OK;
}
