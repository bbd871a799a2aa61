#include "planner/columns_places.h"

/* The walk over orders of groups and, inside one, over the tp of each. */
struct walk {
    const struct hlm_cluster *cluster;
    int32_t replicas, max_pp, wanted; /* groups in the way */
    bool used[HLM_MAX_MIXED_GROUPS];
    struct hlm_group_run runs[HLM_MAX_MIXED_GROUPS];
    int32_t num_runs;
    void (*visit)(void *context, const struct hlm_group_run *runs, int32_t num_runs);
    void *context;
};

static int64_t num_devices(const struct hlm_cluster *cluster, int32_t group)
{
    return (int64_t)cluster->groups[group].num_nodes * cluster->groups[group].devices_per_node;
}

static int32_t total_pp(const struct walk *walk)
{
    int32_t pp = 0;
    for (int32_t i = 0; i < walk->num_runs; i++) {
        pp += walk->runs[i].pp;
    }
    return pp;
}

static bool follows(const struct walk *walk, int32_t tp)
{
    const int32_t before = walk->num_runs > 0 ? walk->runs[walk->num_runs - 1].tp : tp;
    return before % tp == 0 || tp % before == 0;
}

static void extend(struct walk *walk);

static void try_group(struct walk *walk, int32_t group)
{
    const int64_t devices = num_devices(walk->cluster, group);
    if (devices % walk->replicas != 0) {
        return;
    }
    const int32_t in_replica = (int32_t)(devices / walk->replicas);
    walk->used[group] = true;
    for (int32_t tp = 1; tp <= in_replica; tp++) {
        const bool divides = in_replica % tp == 0 && follows(walk, tp);
        const int32_t pp = in_replica / tp;
        if (divides && total_pp(walk) + pp <= walk->max_pp) {
            walk->runs[walk->num_runs++] = (struct hlm_group_run){group, tp, pp};
            extend(walk);
            walk->num_runs--;
        }
    }
    walk->used[group] = false;
}

static void extend(struct walk *walk)
{
    if (walk->num_runs == walk->wanted) {
        walk->visit(walk->context, walk->runs, walk->num_runs);
        return;
    }
    for (int32_t group = 0; group < walk->cluster->num_groups; group++) {
        if (!walk->used[group]) {
            try_group(walk, group);
        }
    }
}

void hlm_columns_each_way(const struct hlm_cluster *cluster, int32_t replicas, int32_t max_pp,
                          void (*visit)(void *context, const struct hlm_group_run *runs,
                                        int32_t num_runs),
                          void *context)
{
    HLM_ASSERT(cluster->num_groups <= HLM_MAX_MIXED_GROUPS);
    struct walk walk = {.cluster = cluster,
                        .replicas = replicas,
                        .max_pp = max_pp,
                        .visit = visit,
                        .context = context};
    for (walk.wanted = 1; walk.wanted <= cluster->num_groups; walk.wanted++) {
        extend(&walk);
    }
}

static int64_t first_device(const struct hlm_cluster *cluster, int32_t group)
{
    int64_t first = 0;
    for (int32_t g = 0; g < group; g++) {
        first += num_devices(cluster, g);
    }
    return first;
}

const struct hlm_rank_place *hlm_columns_places(struct hlm_arena *arena,
                                                const struct hlm_cluster *cluster, int32_t replicas,
                                                const struct hlm_group_run *runs, int32_t num_runs)
{
    int32_t num_places = 0;
    for (int32_t i = 0; i < num_runs; i++) {
        num_places += runs[i].pp;
    }
    struct hlm_rank_place *places = HLM_ARENA_ARRAY(arena, struct hlm_rank_place, num_places);
    int32_t at = 0, rank = 0;
    bool needed = false;
    for (int32_t i = 0; i < num_runs; i++) {
        int64_t device = first_device(cluster, runs[i].group);
        for (int32_t pp = 0; pp < runs[i].pp; pp++) {
            places[at] = (struct hlm_rank_place){runs[i].tp, rank, device};
            needed = needed || device != rank || runs[i].tp != runs[0].tp;
            rank += replicas * runs[i].tp;
            device += (int64_t)replicas * runs[i].tp;
            at++;
        }
    }
    return needed ? places : NULL;
}
