#include "planner/column_internal.h"

const struct hlm_plan_stage *hlm_column_stages(struct hlm_arena *arena, struct hlm_pattern_set *set,
                                               const struct hlm_column *column, const int32_t *ends)
{
    const int32_t p = column->strategy.pp;
    struct hlm_plan_stage *stages = HLM_ARENA_ARRAY(arena, struct hlm_plan_stage, p);
    for (int32_t s = 0; s < p; s++) {
        const int32_t begin = s == 0 ? 0 : ends[s - 1];
        const struct hlm_pattern *pattern = hlm_pattern_get(set, s, begin, ends[s]);
        HLM_ASSERT(pattern != NULL);
        stages[s] = (struct hlm_plan_stage){
            .rank_group = s,
            .first_layer = begin,
            .num_layers = ends[s] - begin,
            .device_group = column->pricers[s]->device_group,
            .tp = column->pricers[s]->strategy->tp,
            .recompute = {.none = pattern->recompute[HLM_RECOMPUTE_NONE],
                          .selective = pattern->recompute[HLM_RECOMPUTE_SELECTIVE],
                          .full = pattern->recompute[HLM_RECOMPUTE_FULL]}};
    }
    return stages;
}

const struct hlm_plan_stage *hlm_column_ranked_stages(struct hlm_arena *arena,
                                                      const struct hlm_column *column,
                                                      const struct hlm_rank_partition *partition)
{
    const int32_t n = hlm_column_num_stages(column);
    struct hlm_plan_stage *stages = HLM_ARENA_ARRAY(arena, struct hlm_plan_stage, n);
    for (int32_t s = 0; s < n; s++) {
        const int32_t begin = s == 0 ? 0 : partition->ends[s - 1];
        const int32_t count = partition->ends[s] - begin;
        const int32_t full = partition->full[s], selective = partition->selective[s];
        stages[s] = (struct hlm_plan_stage){
            .rank_group = column->ranks.order->stage_rank[s],
            .first_layer = begin,
            .num_layers = count,
            .device_group = hlm_column_stage_pricer(column, s)->device_group,
            .tp = hlm_column_stage_pricer(column, s)->strategy->tp,
            .recompute = {.none = count - full - selective, .selective = selective, .full = full}};
    }
    return stages;
}

double hlm_column_simulate(struct hlm_arena *scratch, const struct hlm_column *column,
                           const struct hlm_plan_stage *stages)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
    const int32_t p = column->strategy.pp;
    double *forward = HLM_ARENA_ARRAY(scratch, double, p);
    double *backward = HLM_ARENA_ARRAY(scratch, double, p);
    double *reduce = HLM_ARENA_ARRAY(scratch, double, p);
    double *optimizer = HLM_ARENA_ARRAY(scratch, double, p);
    double *send_backward = HLM_ARENA_ARRAY(scratch, double, p);
    for (int32_t s = 0; s < p; s++) {
        const struct hlm_stage_shape shape =
            hlm_plan_stage_shape(column->pricer.model, stages, p, s);
        struct hlm_stage_cost cost;
        hlm_stage_cost(column->pricers[s], &shape, &cost);
        forward[s] = cost.forward.seconds;
        backward[s] = cost.backward.seconds;
        reduce[s] = cost.reduce_s;
        optimizer[s] = cost.optimizer_s;
        send_backward[s] = s > 0 ? column->placement.transfer_s[s - 1] : 0.0;
    }
    const struct hlm_sim_costs costs = {.forward_s = forward,
                                        .backward_s = backward,
                                        .send_forward_s = column->placement.transfer_s,
                                        .send_backward_s = send_backward,
                                        .needs_both_sides = column->both_sides,
                                        .reduce_s = reduce,
                                        .optimizer_s = optimizer,
                                        .sync_s = column->placement.sync_s};
    const double step_s = hlm_simulate_step(scratch, column->strategy.schedule, p,
                                            (int32_t)column->strategy.num_microbatches, &costs);
    hlm_arena_rewind(scratch, mark);
    return step_s;
}

/* --- how far from fitting --- */

static void spread_evenly(const struct hlm_column *column, struct hlm_plan_stage *stages)
{
    const int32_t n = hlm_column_num_stages(column);
    const int64_t num_layers = column->placement.num_layers;
    for (int32_t s = 0; s < n; s++) {
        const int32_t begin = (int32_t)(num_layers * s / n);
        const int32_t end = (int32_t)(num_layers * (s + 1) / n);
        stages[s] = (struct hlm_plan_stage){.first_layer = begin, .num_layers = end - begin};
    }
}

static void set_mode(struct hlm_plan_stage *stage, enum hlm_recompute mode)
{
    const int32_t count = stage->num_layers;
    stage->recompute =
        (struct hlm_plan_recompute){.none = mode == HLM_RECOMPUTE_NONE ? count : 0,
                                    .selective = mode == HLM_RECOMPUTE_SELECTIVE ? count : 0,
                                    .full = mode == HLM_RECOMPUTE_FULL ? count : 0};
}

/* Memory of a rank as one, written to the first of its stages. */
static struct hlm_column_excess rank_excess(const struct hlm_column *column,
                                            const struct hlm_plan_stage *stages,
                                            const struct hlm_rank_held *held,
                                            struct hlm_stage_memory *memory)
{
    hlm_plan_rank_memory(column->pricer.model, hlm_column_stage_pricer(column, held->stages[0]),
                         stages, hlm_column_num_stages(column), held, memory);
    struct hlm_stage_memory all = memory[held->stages[0]];
    for (int32_t c = 1; c < held->num_chunks; c++) {
        const struct hlm_stage_memory *more = &memory[held->stages[c]];
        all.peak_bytes += more->peak_bytes;
        for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
            all.bytes[kind] += more->bytes[kind];
        }
    }
    return (struct hlm_column_excess){all.peak_bytes - all.limit_bytes, all};
}

struct hlm_column_excess hlm_column_find_excess(struct hlm_pricer_cache *cache,
                                                const struct hlm_column *column)
{
    const int32_t n = hlm_column_num_stages(column);
    const struct hlm_rank_held *held = hlm_cache_schedule(cache, &column->strategy)->held;
    struct hlm_arena *scratch = hlm_arena_new();
    struct hlm_plan_stage *stages = HLM_ARENA_ARRAY(scratch, struct hlm_plan_stage, n);
    struct hlm_stage_memory *memory = HLM_ARENA_ARRAY(scratch, struct hlm_stage_memory, n);
    struct hlm_column_excess worst = {.bytes = INT64_MIN};
    spread_evenly(column, stages);
    for (int32_t rank = 0; rank < column->strategy.pp; rank++) {
        struct hlm_column_excess least = {.bytes = INT64_MAX};
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            if (!column->placement.modes[mode]) {
                continue;
            }
            for (int32_t c = 0; c < held[rank].num_chunks; c++) {
                set_mode(&stages[held[rank].stages[c]], (enum hlm_recompute)mode);
            }
            const struct hlm_column_excess now = rank_excess(column, stages, &held[rank], memory);
            least = now.bytes < least.bytes ? now : least;
        }
        worst = least.bytes > worst.bytes ? least : worst;
    }
    hlm_arena_free(scratch);
    return worst;
}
