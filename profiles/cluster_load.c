#include <ctype.h>
#include <string.h>
#include <sys/stat.h>

#include "profiles/cluster.h"
#include "profiles/resolve.h"

static const char folder[] = "clusters";

enum { MAX_NODES = 1000000, MAX_DEVICES_PER_NODE = 1024, MAX_GROUPS = 256 };

/* One part of the one-line form: "<name>:<nodes>x<devices per node>". */
struct part {
    const char *name;
    int32_t num_nodes, devices_per_node;
};

const char *hlm_cluster_builtin_name(int index)
{
    const struct hlm_builtin *builtin = hlm_builtin_at(folder, index);
    return builtin == NULL ? NULL : builtin->name;
}

static enum hlm_status read_builtin(struct hlm_arena *arena, const struct hlm_builtin *builtin,
                                    const struct hlm_cluster **out, struct hlm_err *err)
{
    struct hlm_cluster *cluster = HLM_ARENA_NEW(arena, struct hlm_cluster);
    HLM_TRY(hlm_json_read_text(arena, builtin->name, builtin->text, builtin->length,
                               &hlm_cluster_table, cluster, err));
    HLM_TRY(hlm_cluster_validate(cluster, builtin->name, err));
    *out = cluster;
    return HLM_OK;
}

static enum hlm_status read_path(struct hlm_arena *arena, const char *path,
                                 const struct hlm_cluster **out, struct hlm_err *err)
{
    struct stat info;
    if (strcmp(path, "-") != 0 && stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        path = hlm_arena_printf(arena, "%s/cluster.json", path);
    }
    struct hlm_cluster *cluster = HLM_ARENA_NEW(arena, struct hlm_cluster);
    HLM_TRY(hlm_json_read_file(arena, path, &hlm_cluster_table, cluster, err));
    HLM_TRY(hlm_cluster_validate(cluster, path, err));
    *out = cluster;
    return HLM_OK;
}

/* The node type that a name means: a built-in cluster, or the first one whose device it names. */
static enum hlm_status find_node_type(struct hlm_arena *arena, const char *name,
                                      const struct hlm_cluster **out, struct hlm_err *err)
{
    const struct hlm_builtin *builtin = hlm_builtin_find(folder, name);
    if (builtin != NULL) {
        return read_builtin(arena, builtin, out, err);
    }
    const struct hlm_builtin *device = NULL;
    HLM_TRY(hlm_resolve_builtin(arena, "devices", "device", name, &device, err));
    for (int i = 0; (builtin = hlm_builtin_at(folder, i)) != NULL; i++) {
        const struct hlm_cluster *cluster = NULL;
        HLM_TRY(read_builtin(arena, builtin, &cluster, err));
        if (strcmp(cluster->groups[0].device.name, device->name) == 0) {
            *out = cluster;
            return HLM_OK;
        }
    }
    return hlm_fail(err, HLM_INPUT,
                    "device \"%s\" has no built-in node type: give a cluster file instead",
                    device->name);
}

/* Reads a whole number in [1, max] and moves *text behind it. */
static bool scan_count(const char **text, int32_t max, int32_t *out)
{
    int64_t value = 0;
    const char *end = *text;
    for (; isdigit((unsigned char)*end); end++) {
        value = value * 10 + (*end - '0');
        if (value > max) {
            return false;
        }
    }
    if (end == *text || value < 1) {
        return false;
    }
    *text = end;
    *out = (int32_t)value;
    return true;
}

static enum hlm_status scan_part(struct hlm_arena *arena, const char *text, const char *piece,
                                 size_t length, struct part *out, struct hlm_err *err)
{
    const char *copy = hlm_arena_strndup(arena, piece, length);
    const char *colon = strchr(copy, ':');
    const char *rest = colon == NULL ? copy : colon + 1;
    bool good = colon != NULL && colon > copy && scan_count(&rest, MAX_NODES, &out->num_nodes) &&
                *rest == 'x';
    if (good) {
        rest++;
        good = scan_count(&rest, MAX_DEVICES_PER_NODE, &out->devices_per_node) && *rest == '\0';
    }
    if (!good) {
        return hlm_fail(err, HLM_INPUT,
                        "cluster \"%.200s\": expected <device>:<nodes>x<devices per node> as in "
                        "h100-sxm:16x8 (at most %dx%d), found \"%.100s\"",
                        text, MAX_NODES, MAX_DEVICES_PER_NODE, copy);
    }
    out->name = hlm_arena_strndup(arena, copy, (size_t)(colon - copy));
    return HLM_OK;
}

/* Curves that stay true with another number of devices per node: those inside a node that fit. */
static void keep_curves(struct hlm_arena *arena, const struct hlm_device_group *type,
                        struct hlm_device_group *group)
{
    const bool same = type->devices_per_node == group->devices_per_node;
    struct hlm_collective_curve *kept =
        HLM_ARENA_ARRAY(arena, struct hlm_collective_curve, type->num_collectives);
    int32_t count = 0;
    for (int32_t i = 0; i < type->num_collectives; i++) {
        const struct hlm_collective_curve *curve = &type->collectives[i];
        if (same || curve->num_nodes == 1) {
            kept[count++] = *curve;
        }
    }
    group->collectives = kept;
    group->num_collectives = count;
}

/* Memory and its rate are those of the devices that are there. */
static const struct hlm_host *share_of_host(struct hlm_arena *arena, const struct part *part,
                                            const struct hlm_device_group *type)
{
    if (type->host == NULL || part->devices_per_node == type->devices_per_node) {
        return type->host;
    }
    const double frac = (double)part->devices_per_node / (double)type->devices_per_node;
    struct hlm_host *host = hlm_arena_memdup(arena, type->host, sizeof(*type->host));
    host->memory_bytes *= frac;
    host->memory_bandwidth_bytes_per_s *= frac;
    return host;
}

static struct hlm_device_group make_group(struct hlm_arena *arena, const struct part *part,
                                          const struct hlm_device_group *type)
{
    struct hlm_device_group group = *type;
    group.num_nodes = part->num_nodes;
    group.devices_per_node = part->devices_per_node;
    group.nvlink_domain = 0;
    if (part->devices_per_node == type->devices_per_node) {
        group.nvlink_domain = type->nvlink_domain;
    }
    const int32_t nics = type->nics_per_node * part->devices_per_node / type->devices_per_node;
    group.nics_per_node = type->nics_per_node > 0 && nics < 1 ? 1 : nics;
    keep_curves(arena, type, &group);
    group.host = share_of_host(arena, part, type);
    return group;
}

static const char *unique_name(struct hlm_arena *arena, const struct hlm_device_group *groups,
                               int32_t count)
{
    const char *base = groups[count].device.name;
    int32_t same = 1;
    for (int32_t i = 0; i < count; i++) {
        same += strcmp(groups[i].device.name, base) == 0 ? 1 : 0;
    }
    return same == 1 ? base : hlm_arena_printf(arena, "%s-%d", base, (int)same);
}

static void add_links(struct hlm_arena *arena, struct hlm_cluster *cluster,
                      const struct hlm_cluster *const *types)
{
    const int32_t groups = cluster->num_groups;
    struct hlm_inter_link *links =
        HLM_ARENA_ARRAY(arena, struct hlm_inter_link, groups * (groups + 1) / 2);
    int32_t count = 0;
    for (int32_t a = 0; a < groups; a++) {
        for (int32_t b = a; b < groups; b++) {
            if (a == b && cluster->groups[a].num_nodes == 1) {
                continue;
            }
            const struct hlm_link *from = hlm_cluster_inter_link(types[a], 0, 0);
            const struct hlm_link *to = hlm_cluster_inter_link(types[b], 0, 0);
            links[count++] = (struct hlm_inter_link){
                .from = a, .to = b, .link = a == b ? *from : hlm_link_join(from, to)};
        }
    }
    cluster->links = links;
    cluster->num_links = count;
}

static enum hlm_status read_one_line(struct hlm_arena *arena, const char *text,
                                     const struct hlm_cluster **out, struct hlm_err *err)
{
    int32_t count = 1;
    for (const char *at = strchr(text, '+'); at != NULL; at = strchr(at + 1, '+')) {
        count++;
    }
    if (count > MAX_GROUPS) {
        return hlm_fail(err, HLM_INPUT, "cluster: expected at most %d groups, found %d",
                        (int)MAX_GROUPS, (int)count);
    }
    struct hlm_device_group *groups = HLM_ARENA_ARRAY(arena, struct hlm_device_group, count);
    const struct hlm_cluster **types = HLM_ARENA_ARRAY(arena, const struct hlm_cluster *, count);
    const char *piece = text;
    for (int32_t i = 0; i < count; i++) {
        const size_t length = strcspn(piece, "+");
        struct part part = {0};
        HLM_TRY(scan_part(arena, text, piece, length, &part, err));
        HLM_TRY(find_node_type(arena, part.name, &types[i], err));
        groups[i] = make_group(arena, &part, &types[i]->groups[0]);
        groups[i].name = unique_name(arena, groups, i);
        piece += length + 1;
    }
    struct hlm_cluster *cluster = HLM_ARENA_NEW(arena, struct hlm_cluster);
    cluster->name = hlm_arena_strdup(arena, text);
    cluster->groups = groups;
    cluster->num_groups = count;
    cluster->fabric = types[0]->fabric;
    cluster->oversubscription = 1.0;
    add_links(arena, cluster, types);
    HLM_TRY(hlm_cluster_validate(cluster, text, err));
    *out = cluster;
    return HLM_OK;
}

/* No cluster, but perhaps a device, of which it was not said how many. */
static enum hlm_status fail_device(struct hlm_arena *arena, const char *name, struct hlm_err *err)
{
    const struct hlm_builtin *device = NULL;
    struct hlm_err unused;
    if (hlm_resolve_builtin(arena, "devices", "device", name, &device, &unused) == HLM_OK) {
        return hlm_fail(err, HLM_INPUT,
                        "no cluster \"%.100s\", which is a device: expected how many of it, as in "
                        "%.100s:4x8 (4 nodes of 8)",
                        name, name);
    }
    return err->status;
}

enum hlm_status hlm_cluster_load(struct hlm_arena *arena, const char *text_or_path,
                                 const struct hlm_cluster **out, struct hlm_err *err)
{
    const struct hlm_builtin *builtin = hlm_builtin_find(folder, text_or_path);
    if (builtin != NULL) {
        return read_builtin(arena, builtin, out, err);
    }
    struct stat info;
    if (hlm_resolve_is_path(text_or_path) || stat(text_or_path, &info) == 0) {
        return read_path(arena, text_or_path, out, err);
    }
    if (strchr(text_or_path, ':') != NULL || strchr(text_or_path, '+') != NULL) {
        return read_one_line(arena, text_or_path, out, err);
    }
    if (hlm_resolve_builtin(arena, folder, "cluster", text_or_path, &builtin, err) != HLM_OK) {
        return fail_device(arena, text_or_path, err);
    }
    return read_builtin(arena, builtin, out, err);
}
