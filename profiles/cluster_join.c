#include <math.h>
#include <string.h>

#include "profiles/cluster.h"

enum { MAX_PARTS = 64 };

int32_t hlm_cluster_pair(int32_t num_parts, int32_t a, int32_t b)
{
    HLM_ASSERT(0 <= a && a < b && b < num_parts);
    return a * (2 * num_parts - a - 1) / 2 + b - a - 1;
}

/* Curves that were measured end to end belong to one of the two. */
struct hlm_link hlm_link_join(const struct hlm_link *a, const struct hlm_link *b)
{
    struct hlm_link link = *a;
    link.alpha_s = fmax(a->alpha_s, b->alpha_s);
    link.alpha_rendezvous_s = fmax(a->alpha_rendezvous_s, b->alpha_rendezvous_s);
    link.hop_alpha_s = fmax(a->hop_alpha_s, b->hop_alpha_s);
    link.bandwidth_bytes_per_s = fmin(a->bandwidth_bytes_per_s, b->bandwidth_bytes_per_s);
    link.needs_both_sides = a->needs_both_sides || b->needs_both_sides;
    link.points = NULL;
    link.num_points = 0;
    link.source = (struct hlm_source){.kind = HLM_SOURCE_ASSUMED,
                                      .reference = "worse figures of the two node types' links"};
    return link;
}

/* --- parts --- */

/* "nodes/fast/" and "nodes/fast/cluster.json" are "fast"; ".json" goes from other files. */
static const char *label_of(struct hlm_arena *arena, const char *text)
{
    static const char file[] = "/cluster.json", suffix[] = ".json";
    char *label = hlm_arena_strdup(arena, text);
    size_t length = strlen(label);
    if (length > strlen(file) && strcmp(label + length - strlen(file), file) == 0) {
        length -= strlen(file);
    } else if (length > strlen(suffix) && strcmp(label + length - strlen(suffix), suffix) == 0) {
        length -= strlen(suffix);
    }
    while (length > 1 && label[length - 1] == '/') {
        length--;
    }
    label[length] = '\0';
    const char *slash = strrchr(label, '/');
    return slash != NULL && slash[1] != '\0' ? slash + 1 : label;
}

enum hlm_status hlm_cluster_load_parts(struct hlm_arena *arena, const char *text,
                                       const struct hlm_cluster_part **out, int32_t *out_num,
                                       struct hlm_err *err)
{
    struct hlm_cluster_part *parts = HLM_ARENA_ARRAY(arena, struct hlm_cluster_part, MAX_PARTS);
    int32_t num = 0;
    char *state = NULL;
    for (char *piece = strtok_r(hlm_arena_strdup(arena, text), ",", &state); piece != NULL;
         piece = strtok_r(NULL, ",", &state)) {
        if (num == MAX_PARTS) {
            return hlm_fail(err, HLM_INPUT, "\"%.200s\": expected at most %d clusters", text,
                            (int)MAX_PARTS);
        }
        parts[num].label = label_of(arena, piece);
        HLM_TRY(hlm_cluster_load(arena, piece, &parts[num].cluster, err));
        num++;
    }
    if (num == 0) {
        return hlm_fail(err, HLM_INPUT, "\"%.200s\": expected clusters, separated by commas", text);
    }
    *out = parts;
    *out_num = num;
    return HLM_OK;
}

/* --- groups --- */

/* What a join works on. */
struct join {
    struct hlm_arena *arena;
    const struct hlm_cluster_part *parts;
    int32_t num_parts;
    const struct hlm_link *measured;
    struct hlm_device_group *groups;
    int32_t *part_of, *index_of; /* [num_groups]: where each group comes from */
    int32_t num_groups;
    struct hlm_inter_link *links;
    int32_t num_links;
};

static bool is_taken(const struct join *join, const char *name)
{
    for (int32_t i = 0; i < join->num_groups; i++) {
        if (strcmp(join->groups[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

static const char *name_group(const struct join *join, const struct hlm_cluster_part *part,
                              int32_t index)
{
    const char *base = part->cluster->num_groups == 1
                           ? part->label
                           : hlm_arena_printf(join->arena, "%s-%s", part->label,
                                              part->cluster->groups[index].name);
    const char *name = base;
    for (int32_t number = 2; is_taken(join, name); number++) {
        name = hlm_arena_printf(join->arena, "%s-%d", base, (int)number);
    }
    return name;
}

static void add_groups(struct join *join)
{
    int32_t total = 0;
    for (int32_t i = 0; i < join->num_parts; i++) {
        total += join->parts[i].cluster->num_groups;
    }
    join->groups = HLM_ARENA_ARRAY(join->arena, struct hlm_device_group, total);
    join->part_of = HLM_ARENA_ARRAY(join->arena, int32_t, total);
    join->index_of = HLM_ARENA_ARRAY(join->arena, int32_t, total);
    join->links =
        HLM_ARENA_ARRAY(join->arena, struct hlm_inter_link, (int64_t)total * (total + 1) / 2);
    for (int32_t i = 0; i < join->num_parts; i++) {
        const struct hlm_cluster *cluster = join->parts[i].cluster;
        for (int32_t j = 0; j < cluster->num_groups; j++) {
            struct hlm_device_group group = cluster->groups[j];
            group.name = name_group(join, &join->parts[i], j);
            join->part_of[join->num_groups] = i;
            join->index_of[join->num_groups] = j;
            join->groups[join->num_groups++] = group;
        }
    }
}

/* --- links --- */

/* The link between two groups of one cluster that its file holds, or NULL. */
static const struct hlm_link *find_link(const struct hlm_cluster *cluster, int32_t a, int32_t b)
{
    for (int32_t i = 0; i < cluster->num_links; i++) {
        const struct hlm_inter_link *link = &cluster->links[i];
        if ((link->from == a && link->to == b) || (link->from == b && link->to == a)) {
            return &link->link;
        }
    }
    return NULL;
}

static const struct hlm_link *own_link(const struct join *join, int32_t group)
{
    return find_link(join->parts[join->part_of[group]].cluster, join->index_of[group],
                     join->index_of[group]);
}

static void add_link(struct join *join, int32_t a, int32_t b, const struct hlm_link *link)
{
    join->links[join->num_links++] = (struct hlm_inter_link){.from = a, .to = b, .link = *link};
}

static enum hlm_status add_between_parts(struct join *join, int32_t a, int32_t b,
                                         struct hlm_err *err)
{
    if (join->measured != NULL) {
        add_link(
            join, a, b,
            &join->measured[hlm_cluster_pair(join->num_parts, join->part_of[a], join->part_of[b])]);
        return HLM_OK;
    }
    const struct hlm_link *from = own_link(join, a), *to = own_link(join, b);
    if (from == NULL || to == NULL) {
        return hlm_fail(err, HLM_INPUT,
                        "group %s has one node, so that its profile knows no network: the links "
                        "between groups must be measured",
                        join->groups[from == NULL ? a : b].name);
    }
    const struct hlm_link worse = hlm_link_join(from, to);
    add_link(join, a, b, &worse);
    return HLM_OK;
}

static enum hlm_status add_links(struct join *join, struct hlm_err *err)
{
    for (int32_t a = 0; a < join->num_groups; a++) {
        for (int32_t b = a; b < join->num_groups; b++) {
            if (join->part_of[a] != join->part_of[b]) {
                HLM_TRY(add_between_parts(join, a, b, err));
                continue;
            }
            const struct hlm_link *own = find_link(join->parts[join->part_of[a]].cluster,
                                                   join->index_of[a], join->index_of[b]);
            if (own != NULL) {
                add_link(join, a, b, own);
            }
        }
    }
    return HLM_OK;
}

enum hlm_status hlm_cluster_join(struct hlm_arena *arena, const struct hlm_cluster_part *parts,
                                 int32_t num_parts, const struct hlm_link *measured,
                                 const struct hlm_cluster **out, struct hlm_err *err)
{
    struct join join = {
        .arena = arena, .parts = parts, .num_parts = num_parts, .measured = measured};
    struct hlm_cluster *cluster = HLM_ARENA_NEW(arena, struct hlm_cluster);
    struct hlm_text name;
    hlm_text_init(&name, arena);
    *cluster = (struct hlm_cluster){.fabric = HLM_FABRIC_RAIL, .oversubscription = 1.0};
    add_groups(&join);
    HLM_TRY(add_links(&join, err));
    for (int32_t i = 0; i < num_parts; i++) {
        const struct hlm_cluster *part = parts[i].cluster;
        cluster->fabric = part->fabric == HLM_FABRIC_TREE ? HLM_FABRIC_TREE : cluster->fabric;
        cluster->oversubscription = fmax(cluster->oversubscription, part->oversubscription);
        hlm_text_printf(&name, "%s%s", i > 0 ? " + " : "", parts[i].label);
    }
    cluster->name = name.text;
    cluster->groups = join.groups;
    cluster->num_groups = join.num_groups;
    cluster->links = join.links;
    cluster->num_links = join.num_links;
    HLM_TRY(hlm_cluster_validate(cluster, "join", err));
    *out = cluster;
    return HLM_OK;
}
