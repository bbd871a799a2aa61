/* Placement without a search: even stages with the least recompute that fits. */
#include "planner/plan.h"

/* Lengths as equal as possible: the remainder goes to the middle stages, which carry neither
 * embedding nor head. */
static void even_lengths(int32_t num_layers, int32_t num_stages, int32_t *lengths)
{
    const int32_t base = num_layers / num_stages, more = num_layers % num_stages;
    const int32_t first = (num_stages - more) / 2;
    for (int32_t s = 0; s < num_stages; s++) {
        lengths[s] = base + (s >= first && s < first + more ? 1 : 0);
    }
}

static struct hlm_plan_recompute recompute_counts(int32_t num_layers, int32_t selective,
                                                  int32_t full)
{
    return (struct hlm_plan_recompute){
        .none = num_layers - selective - full, .selective = selective, .full = full};
}

static bool stage_fits(const struct hlm_pricer *pricer, const struct hlm_plan_stage *stages,
                       int32_t num_stages, int32_t stage)
{
    const struct hlm_stage_shape shape =
        hlm_plan_stage_shape(pricer->model, stages, num_stages, stage);
    struct hlm_stage_cost cost;
    hlm_stage_cost(pricer, &shape, &cost);
    struct hlm_stage_memory memory;
    hlm_stage_memory(pricer, &shape, &cost,
                     hlm_schedule_in_flight(pricer->strategy->schedule, num_stages,
                                            (int32_t)pricer->strategy->num_microbatches, stage),
                     &memory);
    return memory.peak_bytes <= memory.limit_bytes;
}

/* The fewest recomputing layers that fit: selective ones first, then full ones in their place.
 * Where nothing fits, all full: pricing then says what is missing. */
static void choose_recompute(const struct hlm_pricer *pricer, struct hlm_plan_stage *stages,
                             int32_t num_stages, int32_t stage)
{
    const int32_t n = stages[stage].num_layers;
    for (int32_t selective = 0; selective <= n; selective++) {
        stages[stage].recompute = recompute_counts(n, selective, 0);
        if (stage_fits(pricer, stages, num_stages, stage)) {
            return;
        }
    }
    for (int32_t full = 1; full <= n; full++) {
        stages[stage].recompute = recompute_counts(n, n - full, full);
        if (stage_fits(pricer, stages, num_stages, stage)) {
            return;
        }
    }
}

enum hlm_status hlm_plan_even_stages(struct hlm_arena *arena, const struct hlm_model *model,
                                     const struct hlm_cluster *cluster,
                                     const struct hlm_strategy *strategy, int32_t recompute,
                                     const struct hlm_plan_stage **out, int32_t *out_num,
                                     struct hlm_err *err)
{
    const int32_t n = strategy->pp * strategy->vpp;
    HLM_TRY(hlm_strategy_check(strategy, model, err));
    HLM_TRY(hlm_plan_check_devices(strategy, cluster, err));
    struct hlm_plan_stage *stages = HLM_ARENA_ARRAY(arena, struct hlm_plan_stage, n);
    int32_t *lengths = HLM_ARENA_ARRAY(arena, int32_t, n);
    even_lengths(model->num_layers, n, lengths);
    int32_t first = 0;
    for (int32_t s = 0; s < n; s++) {
        stages[s] = (struct hlm_plan_stage){
            .rank_group = s % strategy->pp,
            .first_layer = first,
            .num_layers = lengths[s],
            .device_group = hlm_layout_device_group(strategy, cluster, s),
            .tp = strategy->tp,
            .recompute =
                recompute_counts(lengths[s], recompute == HLM_RECOMPUTE_SELECTIVE ? lengths[s] : 0,
                                 recompute == HLM_RECOMPUTE_FULL ? lengths[s] : 0)};
        first += lengths[s];
    }
    if (recompute < 0) {
        struct hlm_pricer pricer;
        HLM_TRY(
            hlm_pricer_init(arena, model, strategy, cluster, stages[0].device_group, &pricer, err));
        for (int32_t s = 0; s < n; s++) {
            choose_recompute(&pricer, stages, n, s);
        }
    }
    *out = stages;
    *out_num = n;
    return HLM_OK;
}
