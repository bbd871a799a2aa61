#include "planner/plan_places.h"

/* The stage that decides for a pipeline rank: its first. Those behind it must agree. */
static enum hlm_status decide_stage(const struct hlm_plan_stage *stages, int32_t num_stages,
                                    int32_t pp, const struct hlm_plan_stage **out,
                                    struct hlm_err *err)
{
    const struct hlm_plan_stage *first = NULL;
    for (int32_t s = 0; s < num_stages; s++) {
        if (stages[s].rank_group != pp) {
            continue;
        }
        first = first == NULL ? &stages[s] : first;
        if (stages[s].tp != first->tp || stages[s].device_group != first->device_group) {
            return hlm_fail(err, HLM_NO,
                            "stage %d has tp = %d on device group %d, but stage %d of the same "
                            "ranks has tp = %d on device group %d",
                            s, stages[s].tp, stages[s].device_group, (int)(first - stages),
                            first->tp, first->device_group);
        }
    }
    if (first == NULL) {
        return hlm_fail(err, HLM_NO, "pipeline rank %d has no stage", pp);
    }
    *out = first;
    return HLM_OK;
}

static int64_t num_devices(const struct hlm_device_group *group)
{
    return (int64_t)group->num_nodes * group->devices_per_node;
}

static int64_t first_of_group(const struct hlm_cluster *cluster, int32_t group)
{
    int64_t first = 0;
    for (int32_t g = 0; g < group; g++) {
        first += num_devices(&cluster->groups[g]);
    }
    return first;
}

enum hlm_status hlm_plan_places(struct hlm_arena *arena, const struct hlm_cluster *cluster,
                                const struct hlm_strategy *strategy,
                                const struct hlm_plan_stage *stages, int32_t num_stages,
                                const struct hlm_rank_place **out, struct hlm_err *err)
{
    struct hlm_rank_place *places = HLM_ARENA_ARRAY(arena, struct hlm_rank_place, strategy->pp);
    int64_t *taken = HLM_ARENA_ARRAY(arena, int64_t, cluster->num_groups);
    const int64_t replicas = (int64_t)strategy->dp * strategy->cp;
    int64_t first_rank = 0;
    bool needed = false;
    for (int32_t pp = 0; pp < strategy->pp; pp++) {
        const struct hlm_plan_stage *stage = NULL;
        HLM_TRY(decide_stage(stages, num_stages, pp, &stage, err));
        const int32_t group = stage->device_group;
        const int64_t all = num_devices(&cluster->groups[group]);
        const int64_t size = replicas * stage->tp, left = all - taken[group];
        if (size > left) {
            return hlm_fail(err, HLM_NO,
                            "stage %d needs %lld devices of group %s, which has %lld left of %lld",
                            (int)(stage - stages), (long long)size, cluster->groups[group].name,
                            (long long)left, (long long)all);
        }
        places[pp] =
            (struct hlm_rank_place){.tp = stage->tp,
                                    .first_rank = (int32_t)first_rank,
                                    .first_device = first_of_group(cluster, group) + taken[group]};
        needed = needed || stage->tp != strategy->tp || places[pp].first_device != first_rank;
        taken[group] += size;
        first_rank += size;
    }
    *out = needed ? places : NULL;
    return HLM_OK;
}

static enum hlm_status locate_replicas(struct hlm_arena *arena, const struct hlm_cluster *cluster,
                                       struct hlm_strategy *strategy,
                                       const struct hlm_plan_stage *stages, int32_t num_stages,
                                       struct hlm_err *err)
{
    struct hlm_replicas *located =
        HLM_ARENA_ARRAY(arena, struct hlm_replicas, strategy->num_replicas);
    HLM_TRY(hlm_layout_locate_replicas(strategy, cluster, located, err));
    for (int32_t s = 0; s < num_stages; s++) {
        if (stages[s].tp != strategy->tp || stages[s].device_group != located[0].device_group) {
            return hlm_fail(err, HLM_NO,
                            "stage %d has tp = %d on device group %d: with replicas all stages "
                            "have the tp of the strategy, %d, and the device group of the first "
                            "of them, %d",
                            s, stages[s].tp, stages[s].device_group, strategy->tp,
                            located[0].device_group);
        }
    }
    strategy->places = NULL;
    strategy->replicas = located;
    return HLM_OK;
}

enum hlm_status hlm_plan_locate(struct hlm_arena *arena, const struct hlm_cluster *cluster,
                                struct hlm_strategy *strategy, const struct hlm_plan_stage *stages,
                                int32_t num_stages, struct hlm_err *err)
{
    return strategy->num_replicas > 0
               ? locate_replicas(arena, cluster, strategy, stages, num_stages, err)
               : hlm_plan_places(arena, cluster, strategy, stages, num_stages, &strategy->places,
                                 err);
}
