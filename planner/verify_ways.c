#include "planner/verify_ways.h"

enum { MAX_GROUPS = 8 };

struct counting {
    struct hlm_arena *arena;
    const struct hlm_cluster *cluster;
    const struct hlm_model *model;
    int32_t replicas;
    int32_t tp[MAX_GROUPS]; /* 0: left out */
    struct hlm_verify_way *ways;
    int32_t num_ways, room;
};

static int64_t devices_of(const struct counting *counting, int32_t group)
{
    return hlm_cluster_num_devices(
        &(struct hlm_cluster){.groups = &counting->cluster->groups[group], .num_groups = 1});
}

/* The next permutation in lexical order; false: that was the last. */
static bool permute(int32_t *items, int32_t num)
{
    int32_t at = num - 2, other = num - 1;
    while (at >= 0 && items[at] > items[at + 1]) {
        at--;
    }
    if (at < 0) {
        return false;
    }
    while (items[other] < items[at]) {
        other--;
    }
    const int32_t moved = items[at];
    items[at] = items[other];
    items[other] = moved;
    for (int32_t low = at + 1, high = num - 1; low < high; low++, high--) {
        const int32_t kept = items[low];
        items[low] = items[high];
        items[high] = kept;
    }
    return true;
}

static bool order_is_legal(const struct counting *counting, const int32_t *order, int32_t num)
{
    for (int32_t i = 0; i + 1 < num; i++) {
        const int32_t a = counting->tp[order[i]], b = counting->tp[order[i + 1]];
        if (a % b != 0 && b % a != 0) {
            return false;
        }
    }
    return !counting->model->tied_embeddings ||
           counting->tp[order[0]] == counting->tp[order[num - 1]];
}

/* Ranks stand one behind another, each group's on its own devices; NULL where that is where they
 * would stand anyway. */
static const struct hlm_rank_place *place(const struct counting *counting, const int32_t *order,
                                          int32_t num, int32_t pp)
{
    struct hlm_rank_place *places = HLM_ARENA_ARRAY(counting->arena, struct hlm_rank_place, pp);
    int32_t at = 0, rank = 0;
    bool plain = true;
    for (int32_t i = 0; i < num; i++) {
        const int32_t tp = counting->tp[order[i]];
        const int64_t all = devices_of(counting, order[i]);
        int64_t first = 0;
        for (int32_t group = 0; group < order[i]; group++) {
            first += devices_of(counting, group);
        }
        for (int64_t used = 0; used < all; used += (int64_t)counting->replicas * tp) {
            places[at] = (struct hlm_rank_place){tp, rank, first + used};
            plain = plain && places[at].first_device == rank && tp == places[0].tp;
            rank += counting->replicas * tp;
            at++;
        }
    }
    return plain ? NULL : places;
}

static void add_way(struct counting *counting, const struct hlm_verify_way *way)
{
    if (counting->num_ways == counting->room) {
        counting->room = counting->room == 0 ? 64 : 2 * counting->room;
        struct hlm_verify_way *larger =
            HLM_ARENA_ARRAY(counting->arena, struct hlm_verify_way, counting->room);
        for (int32_t i = 0; i < counting->num_ways; i++) {
            larger[i] = counting->ways[i];
        }
        counting->ways = larger;
    }
    counting->ways[counting->num_ways++] = *way;
}

/* All orders of the groups that have a tp. */
static void try_orders(struct counting *counting)
{
    struct hlm_verify_way way = {.pp = 0};
    int32_t order[MAX_GROUPS];
    for (int32_t group = 0; group < counting->cluster->num_groups; group++) {
        const int32_t tp = counting->tp[group];
        if (tp > 0) {
            order[way.num_groups++] = group;
            way.pp += (int32_t)(devices_of(counting, group) / counting->replicas / tp);
            way.largest_tp = tp > way.largest_tp ? tp : way.largest_tp;
        }
    }
    for (int32_t i = 0; way.num_groups > 1 && i < way.num_groups; i++) {
        if (counting->tp[order[i]] >
            hlm_device_group_domain(&counting->cluster->groups[order[i]])) {
            return;
        }
    }
    if (way.num_groups == 0 || way.pp > counting->model->num_layers + 2) {
        return;
    }
    int32_t factorial = 1;
    for (int32_t i = 2; i <= way.num_groups; i++) {
        factorial *= i;
    }
    const struct hlm_rank_place **orders =
        HLM_ARENA_ARRAY(counting->arena, const struct hlm_rank_place *, factorial);
    do {
        if (order_is_legal(counting, order, way.num_groups)) {
            orders[way.num_orders++] = place(counting, order, way.num_groups, way.pp);
        }
    } while (permute(order, way.num_groups));
    way.orders = orders;
    if (way.num_orders > 0) {
        add_way(counting, &way);
    }
}

static void choose_tp(struct counting *counting, int32_t group)
{
    if (group == counting->cluster->num_groups) {
        try_orders(counting);
        return;
    }
    const int64_t devices = devices_of(counting, group);
    counting->tp[group] = 0;
    choose_tp(counting, group + 1);
    for (int32_t tp = 1; (int64_t)tp * counting->replicas <= devices; tp++) {
        if (devices % ((int64_t)tp * counting->replicas) == 0 &&
            counting->model->num_heads % tp == 0) {
            counting->tp[group] = tp;
            choose_tp(counting, group + 1);
        }
    }
    counting->tp[group] = 0;
}

void hlm_verify_ways(struct hlm_arena *arena, const struct hlm_cluster *cluster,
                     const struct hlm_model *model, int32_t replicas,
                     const struct hlm_verify_way **out, int32_t *out_num)
{
    struct counting counting = {
        .arena = arena, .cluster = cluster, .model = model, .replicas = replicas};
    HLM_ASSERT(cluster->num_groups <= MAX_GROUPS);
    choose_tp(&counting, 0);
    *out = counting.ways;
    *out_num = counting.num_ways;
}
