#include "planner/column_internal.h"

#include <math.h>

/* The forward of a layer is the same in every mode; should a lowering set break that, the least is
 * taken, with which every bound stays one (bound.h). */
static double layer_forward_s(const struct hlm_pricer *pricer, enum hlm_block_kind kind)
{
    double least_s = INFINITY;
    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        least_s = fmin(least_s, pricer->blocks[kind][mode].forward.seconds);
    }
    return least_s;
}

static void fill_layer_times(const struct hlm_pricer *pricer, struct hlm_stage_prices *prices)
{
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        const enum hlm_block_kind block = hlm_layer_blocks[kind];
        prices->forward_s[kind] = pricer->has_kind[block] ? layer_forward_s(pricer, block) : 0.0;
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            prices->backward_s[kind][mode] = pricer->blocks[block][mode].backward.seconds;
        }
    }
}

static void add_base_times(const struct hlm_pricer *pricer, enum hlm_block_kind kind,
                           struct hlm_stage_prices *prices)
{
    const struct hlm_block_cost *block = &pricer->blocks[kind][HLM_RECOMPUTE_NONE];
    prices->base_forward_s += block->forward.seconds;
    prices->base_backward_s += block->backward.seconds;
    prices->may_be_empty = true;
}

/* Whether the boundary behind stage s of a mixed column is like the one in front of it: inside one
 * device group, and ranks fill whole nodes, so that all lie on them alike. */
static bool boundary_repeats(const struct hlm_column *column, int32_t s)
{
    const struct hlm_pricer *pricer = column->pricers[s];
    const struct hlm_strategy *seen = pricer->strategy;
    const int64_t size = (int64_t)seen->dp * seen->cp * seen->tp;
    return s > 0 && column->pricers[s - 1] == pricer && column->pricers[s + 1] == pricer &&
           size % hlm_device_group_domain(&pricer->cluster->groups[pricer->device_group]) == 0;
}

/* A boundary between the same two ranks costs the same. */
void hlm_column_fill_transfers(const struct hlm_column *column, double *transfer_s)
{
    const struct hlm_strategy *strategy = &column->strategy;
    const int32_t n = hlm_column_num_stages(column), period = 2 * strategy->pp;
    for (int32_t s = 0; s + 1 < n; s++) {
        if (s >= period) {
            transfer_s[s] = transfer_s[s - strategy->pp];
            column->both_sides[s] = column->both_sides[s - strategy->pp];
        } else if (column->is_mixed && boundary_repeats(column, s)) {
            transfer_s[s] = transfer_s[s - 1];
            column->both_sides[s] = column->both_sides[s - 1];
        } else {
            transfer_s[s] =
                hlm_stage_send_s(hlm_column_stage_pricer(column, s), s, &column->both_sides[s]);
        }
    }
}

static const struct hlm_stage_prices *make_stages(struct hlm_arena *arena,
                                                  const struct hlm_column *column)
{
    const int32_t p = column->strategy.pp;
    struct hlm_stage_prices *stages = HLM_ARENA_ARRAY(arena, struct hlm_stage_prices, p);
    for (int32_t s = 0; s < p; s++) {
        if (s > 0 && column->pricers[s] == column->pricers[s - 1]) {
            stages[s] = stages[s - 1];
        } else {
            fill_layer_times(column->pricers[s], &stages[s]);
        }
    }
    add_base_times(column->pricers[0], HLM_BLOCK_EMBEDDING, &stages[0]);
    add_base_times(column->pricers[p - 1], HLM_BLOCK_HEAD, &stages[p - 1]);
    return stages;
}

/* The column's own copies of its pricers. */
static enum hlm_status set_pricers(struct hlm_arena *arena, struct hlm_pricer_cache *cache,
                                   struct hlm_column *column, struct hlm_err *err)
{
    struct hlm_column_run runs[HLM_MAX_MIXED_GROUPS];
    const struct hlm_pricer **pricers =
        HLM_ARENA_ARRAY(arena, const struct hlm_pricer *, column->strategy.pp);
    const int32_t num_runs = hlm_column_runs(cache, &column->strategy, runs);
    column->pricers = pricers;
    column->is_mixed = num_runs > 1;
    for (int32_t r = 0; r < num_runs; r++) {
        const struct hlm_column_run *run = &runs[r];
        if (run->cached->pricer == NULL) {
            *err = *run->cached->why;
            return HLM_NO;
        }
        struct hlm_pricer *own = r == 0 ? &column->pricer : HLM_ARENA_NEW(arena, struct hlm_pricer);
        *own = *run->cached->pricer;
        own->strategy = num_runs == 1 ? &column->strategy
                                      : hlm_arena_memdup(arena, &run->seen, sizeof(run->seen));
        own->stage = run->first;
        for (int32_t pp = run->first; pp < run->first + run->num; pp++) {
            pricers[pp] = own;
        }
    }
    return HLM_OK;
}

enum hlm_status hlm_column_init(struct hlm_arena *arena, struct hlm_pricer_cache *cache,
                                const struct hlm_strategy *strategy, struct hlm_column *out,
                                struct hlm_err *err)
{
    const struct hlm_search_problem *problem = cache->problem;
    *out = (struct hlm_column){.strategy = *strategy,
                               .is_ranked = strategy->schedule != HLM_SCHEDULE_GPIPE &&
                                            strategy->schedule != HLM_SCHEDULE_1F1B};
    HLM_TRY(set_pricers(arena, cache, out, err));
    const int32_t n = hlm_column_num_stages(out);
    double *transfer_s = HLM_ARENA_ARRAY(arena, double, n);
    out->both_sides = HLM_ARENA_ARRAY(arena, bool, n);
    struct hlm_placement *placement = &out->placement;
    *placement = (struct hlm_placement){.schedule = strategy->schedule,
                                        .num_stages = n,
                                        .num_layers = problem->model->num_layers,
                                        .num_microbatches = (int32_t)strategy->num_microbatches,
                                        .layer_kinds = cache->layer_kinds,
                                        .transfer_s = transfer_s};
    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        const int32_t required = problem->require.recompute;
        placement->modes[mode] = required < 0 || required == mode;
    }
    if (!out->is_ranked) {
        hlm_column_fill_transfers(out, transfer_s);
        placement->sync_s = hlm_stage_sync_s(&out->pricer);
        placement->stages = make_stages(arena, out);
    }
    return HLM_OK;
}

void hlm_column_complete(struct hlm_arena *arena, struct hlm_pricer_cache *cache,
                         struct hlm_column *column)
{
    if (column->is_ranked) {
        hlm_column_complete_ranks(arena, cache, column);
        return;
    }
    const int32_t p = column->placement.num_stages;
    struct hlm_stage_prices *stages = HLM_ARENA_ARRAY(arena, struct hlm_stage_prices, p);
    for (int32_t s = 0; s < p; s++) {
        stages[s] = column->placement.stages[s];
        hlm_column_fill_memory(column->pricers[s], s, &stages[s]);
    }
    column->placement.stages = stages;
    column->placement.hold = hlm_column_hold;
    column->placement.context = hlm_column_holding_new(arena, column);
}
