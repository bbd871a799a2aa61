#include "planner/plan_offer.h"
#include "planner/plan_places.h"

#include <stdio.h>
#include <string.h>

enum hlm_block_kind hlm_plan_layer_kind(const struct hlm_model *model, int32_t layer)
{
    return hlm_model_is_moe_layer(model, layer) ? HLM_BLOCK_MOE : HLM_BLOCK_DENSE;
}

enum hlm_recompute hlm_plan_layer_recompute(const struct hlm_plan_stage *stage, int32_t layer)
{
    const int32_t index = layer - stage->first_layer;
    if (index < stage->recompute.full) {
        return HLM_RECOMPUTE_FULL;
    }
    return index < stage->recompute.full + stage->recompute.selective ? HLM_RECOMPUTE_SELECTIVE
                                                                      : HLM_RECOMPUTE_NONE;
}

struct hlm_stage_shape hlm_plan_stage_shape(const struct hlm_model *model,
                                            const struct hlm_plan_stage *stages, int32_t num_stages,
                                            int32_t stage)
{
    struct hlm_stage_shape shape = {.stage = stage,
                                    .num_stages = num_stages,
                                    .embedding = stage == 0,
                                    .head = stage == num_stages - 1};
    const struct hlm_plan_stage *placed = &stages[stage];
    for (int32_t i = 0; i < placed->num_layers; i++) {
        const int32_t layer = placed->first_layer + i;
        shape.layers[hlm_plan_layer_kind(model, layer)][hlm_plan_layer_recompute(placed, layer)]++;
    }
    return shape;
}

enum hlm_status hlm_plan_check_devices(const struct hlm_strategy *strategy,
                                       const struct hlm_cluster *cluster, struct hlm_err *err)
{
    const int64_t world = hlm_strategy_world_size(strategy);
    const int64_t devices = hlm_cluster_num_devices(cluster);
    return world > devices ? hlm_fail(err, HLM_NO,
                                      "dp * tp * pp * cp = %lld ranks need as many devices, the "
                                      "cluster has %lld",
                                      (long long)world, (long long)devices)
                           : HLM_OK;
}

/* Each finds one thing that the field table can't: stages that do not tile the layers, ... */
static enum hlm_status check_stages(const struct hlm_plan *plan, const char *where,
                                    struct hlm_err *err)
{
    int32_t next = 0, largest_tp = 0;
    for (int32_t s = 0; s < plan->num_stages; s++) {
        const struct hlm_plan_stage *stage = &plan->stages[s];
        const struct hlm_plan_recompute *recompute = &stage->recompute;
        const int32_t sum = recompute->none + recompute->selective + recompute->full;
        if (stage->first_layer != next) {
            return hlm_fail(err, HLM_INPUT, "%s: $.stages[%d].first_layer: expected %d, found %d",
                            where, s, next, stage->first_layer);
        }
        if (sum != stage->num_layers) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: $.stages[%d].recompute: expected counts that sum to num_layers = "
                            "%d, found %d",
                            where, s, stage->num_layers, sum);
        }
        if (stage->tp < 1 || stage->tp > plan->strategy.tp) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: $.stages[%d].tp: expected strategy.tp = %d at most, found %d",
                            where, s, plan->strategy.tp, stage->tp);
        }
        largest_tp = stage->tp > largest_tp ? stage->tp : largest_tp;
        if (stage->rank_group != hlm_layout_stage_rank(&plan->strategy, s)) {
            return hlm_fail(err, HLM_INPUT, "%s: $.stages[%d].rank_group: expected %d, found %d",
                            where, s, hlm_layout_stage_rank(&plan->strategy, s), stage->rank_group);
        }
        if (stage->device_group >= plan->cluster.num_groups) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: $.stages[%d].device_group: expected less than %d groups, found %d",
                            where, s, plan->cluster.num_groups, stage->device_group);
        }
        next += stage->num_layers;
    }
    if (largest_tp != plan->strategy.tp) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.strategy.tp: expected the largest tp of the stages, %d, found %d",
                        where, largest_tp, plan->strategy.tp);
    }
    if (next != plan->model.num_layers) {
        return hlm_fail(err, HLM_INPUT, "%s: $.stages: expected %d layers in all, found %d", where,
                        plan->model.num_layers, next);
    }
    return HLM_OK;
}

static enum hlm_status check_rank_map(struct hlm_arena *arena, const struct hlm_plan *plan,
                                      const char *where, struct hlm_err *err)
{
    const int64_t world = hlm_strategy_world_size(&plan->strategy);
    const int64_t devices = hlm_cluster_num_devices(&plan->cluster);
    if (plan->num_ranks != world) {
        return hlm_fail(err, HLM_INPUT, "%s: $.rank_map: expected %lld ranks, found %d", where,
                        (long long)world, plan->num_ranks);
    }
    bool *taken = HLM_ARENA_ARRAY(arena, bool, devices);
    for (int32_t rank = 0; rank < plan->num_ranks; rank++) {
        const int32_t device = plan->rank_map[rank];
        if (device >= devices || taken[device]) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: $.rank_map[%d]: expected a device of its own below %lld, found %d",
                            where, rank, (long long)devices, device);
        }
        taken[device] = true;
    }
    return HLM_OK;
}

/* As a whole, and with places as each pipeline rank sees it. */
static enum hlm_status check_views(const struct hlm_plan *plan, struct hlm_err *err)
{
    HLM_TRY(hlm_strategy_check(&plan->strategy, &plan->model, err));
    for (int32_t pp = 0; plan->strategy.places != NULL && pp < plan->strategy.pp; pp++) {
        const struct hlm_strategy at = hlm_strategy_at(&plan->strategy, pp);
        HLM_TRY(hlm_strategy_check(&at, &plan->model, err));
    }
    return HLM_OK;
}

const struct hlm_device *hlm_plan_rank_device(const struct hlm_plan *plan, int32_t rank)
{
    int64_t device = plan->rank_map[rank];
    const struct hlm_device_group *group = plan->cluster.groups;
    while (device >= (int64_t)group->num_nodes * group->devices_per_node) {
        device -= (int64_t)group->num_nodes * group->devices_per_node;
        group++;
        HLM_ASSERT(group < plan->cluster.groups + plan->cluster.num_groups);
    }
    return &group->device;
}

/* The strategy, as far as it is known: with places also those. */
static enum hlm_status check_strategy(const struct hlm_plan *plan, const char *where,
                                      struct hlm_err *err)
{
    if (check_views(plan, err) != HLM_OK) {
        hlm_err_prefix(err, "%s: $.strategy", where);
        err->status = HLM_INPUT;
        return HLM_INPUT;
    }
    return HLM_OK;
}

static enum hlm_status find_places(struct hlm_arena *arena, struct hlm_plan *plan,
                                   const char *where, struct hlm_err *err)
{
    if (hlm_plan_locate(arena, &plan->cluster, &plan->strategy, plan->stages, plan->num_stages,
                        err) != HLM_OK) {
        hlm_err_prefix(err, "%s: $.stages", where);
        err->status = HLM_INPUT;
        return HLM_INPUT;
    }
    return check_strategy(plan, where, err);
}

/* Who edits degrees need not write the rank map. */
static void renew_rank_map(struct hlm_arena *arena, struct hlm_plan *plan)
{
    const struct hlm_plan_digests now = hlm_plan_digests(arena, plan);
    const int64_t world = hlm_strategy_world_size(&plan->strategy);
    const bool is_edited = strcmp(now.strategy, plan->digests.strategy) != 0 ||
                           strcmp(now.stages, plan->digests.stages) != 0;
    if (is_edited && world != plan->num_ranks && world <= hlm_cluster_num_devices(&plan->cluster)) {
        plan->rank_map = hlm_plan_rank_map(arena, &plan->strategy);
        plan->num_ranks = (int32_t)world;
    }
}

enum hlm_status hlm_plan_check_placement(const struct hlm_plan *plan, const char *where,
                                         struct hlm_err *err)
{
    HLM_TRY(check_strategy(plan, where, err));
    if (plan->num_stages != plan->strategy.pp * plan->strategy.vpp) {
        return hlm_fail(err, HLM_INPUT, "%s: $.stages: expected pp * vpp = %d stages, found %d",
                        where, plan->strategy.pp * plan->strategy.vpp, plan->num_stages);
    }
    return check_stages(plan, where, err);
}

enum hlm_status hlm_plan_check_runner_up(const struct hlm_plan *plan, int32_t index,
                                         struct hlm_err *err)
{
    const struct hlm_plan_runner_up *runner = &plan->runners_up[index];
    struct hlm_plan other = *plan;
    other.strategy = runner->strategy;
    other.stages = runner->stages;
    other.num_stages = runner->num_stages;
    char where[40];
    (void)snprintf(where, sizeof(where), "$.runners_up[%d]", index);
    return hlm_plan_check_placement(&other, where, err);
}

static enum hlm_status check_plan(struct hlm_arena *arena, struct hlm_plan *plan, const char *where,
                                  struct hlm_err *err)
{
    hlm_model_complete(&plan->model);
    HLM_TRY(hlm_model_validate(&plan->model, where, err));
    HLM_TRY(hlm_cluster_validate(&plan->cluster, where, err));
    HLM_TRY(hlm_plan_check_placement(plan, where, err));
    HLM_TRY(find_places(arena, plan, where, err));
    if (plan->certificate != NULL && plan->certificate->offer != NULL) {
        HLM_TRY(hlm_plan_offer_check(plan->certificate->offer, where, "$.certificate.offer", err));
    }
    renew_rank_map(arena, plan);
    return check_rank_map(arena, plan, where, err);
}

enum hlm_status hlm_plan_read(struct hlm_arena *arena, const char *path,
                              const struct hlm_plan **out, struct hlm_err *err)
{
    struct hlm_plan *plan = HLM_ARENA_NEW(arena, struct hlm_plan);
    HLM_TRY(hlm_json_read_file(arena, path, &hlm_plan_table, plan, err));
    HLM_TRY(check_plan(arena, plan, path, err));
    *out = plan;
    return HLM_OK;
}

enum hlm_status hlm_plan_read_text(struct hlm_arena *arena, const char *name, const char *text,
                                   size_t length, const struct hlm_plan **out, struct hlm_err *err)
{
    struct hlm_plan *plan = HLM_ARENA_NEW(arena, struct hlm_plan);
    HLM_TRY(hlm_json_read_text(arena, name, text, length, &hlm_plan_table, plan, err));
    HLM_TRY(check_plan(arena, plan, name, err));
    *out = plan;
    return HLM_OK;
}

enum hlm_status hlm_plan_check_digests(struct hlm_arena *arena, const struct hlm_plan *plan,
                                       const char *where, struct hlm_err *err)
{
    const struct hlm_plan_digests now = hlm_plan_digests(arena, plan);
    const struct {
        const char *name, *stored, *now;
    } parts[] = {{"model", plan->digests.model, now.model},
                 {"cluster", plan->digests.cluster, now.cluster},
                 {"strategy", plan->digests.strategy, now.strategy},
                 {"stages", plan->digests.stages, now.stages}};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (strcmp(parts[i].stored, parts[i].now) != 0) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: $.%s was edited after the plan was priced (digest %s, now %s); "
                            "`hlmplan estimate %s -o FILE` prices it again",
                            where, parts[i].name, parts[i].stored, parts[i].now, where);
        }
    }
    return HLM_OK;
}
