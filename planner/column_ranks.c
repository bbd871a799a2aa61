#include "planner/column_internal.h"

#include <math.h>
#include <string.h>

static const struct hlm_pass_cost *pass_of(const struct hlm_block_cost *block, int32_t action)
{
    const struct hlm_pass_cost *const passes[HLM_SIM_NUM_KINDS] = {
        [HLM_ACTION_F] = &block->forward,
        [HLM_ACTION_B] = &block->backward,
        [HLM_ACTION_I] = &block->input_grad,
        [HLM_ACTION_W] = &block->weight_grad};
    return passes[action];
}

static void add_base(const struct hlm_pricer *pricer, enum hlm_block_kind kind,
                     struct hlm_rank_stage *out)
{
    for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
        out->base_s[action] += pass_of(&pricer->blocks[kind][HLM_RECOMPUTE_NONE], action)->seconds;
    }
    out->may_be_empty = true;
}

static void fill_rank_stage(const struct hlm_pricer *pricer, int32_t stage,
                            struct hlm_rank_stage *out)
{
    const int64_t boundary_bytes = hlm_column_boundary_bytes(pricer);
    const struct hlm_stage_shape shape = hlm_column_empty_shape(pricer->strategy, stage);
    struct hlm_stage_cost cost;
    hlm_stage_cost(pricer, &shape, &cost);
    out->base_slot_bytes = cost.slot_bytes;
    out->base_transient_bytes = cost.transient_bytes - boundary_bytes;
    out->limit_bytes = pricer->limit_bytes - pricer->fixed_bytes - boundary_bytes;
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            const struct hlm_block_cost *block = &pricer->blocks[hlm_layer_blocks[kind]][mode];
            out->slot_bytes[kind][mode] = block->slot_bytes;
            out->transient_bytes[kind][mode] = block->transient_bytes;
            for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
                out->layer_s[kind][mode][action] = pass_of(block, action)->seconds;
            }
        }
    }
    if (shape.embedding) {
        add_base(pricer, HLM_BLOCK_EMBEDDING, out);
    }
    if (shape.head) {
        add_base(pricer, HLM_BLOCK_HEAD, out);
    }
}

/* Of a layer where it stands, if every rank takes as long as any other. */
static double mean_layer_s(const struct hlm_column *column, int32_t kind, int32_t action)
{
    const struct hlm_rank_stage *stages = column->ranks.stages;
    if (!column->is_mixed) {
        return stages[0].layer_s[kind][HLM_RECOMPUTE_NONE][action];
    }
    double per_second = 0.0;
    for (int32_t s = 0; s < column->strategy.pp; s++) {
        per_second += 1.0 / stages[s].layer_s[kind][HLM_RECOMPUTE_NONE][action];
    }
    return isfinite(per_second) && per_second > 0.0 ? column->strategy.pp / per_second : 0.0;
}

/* Mean seconds of a stage without recompute, and of a transfer. */
static void find_means(const struct hlm_column *column, double seconds[HLM_SIM_NUM_KINDS],
                       double *transfer_s)
{
    const struct hlm_rank_problem *ranks = &column->ranks;
    const int32_t n = hlm_column_num_stages(column);
    for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
        double sum_s = 0.0;
        for (int32_t layer = 0; layer < ranks->num_layers; layer++) {
            sum_s += mean_layer_s(column, ranks->layer_kinds[layer], action);
        }
        for (int32_t s = 0; s < n; s++) {
            sum_s += ranks->stages[s].base_s[action];
        }
        seconds[action] = sum_s / n;
    }
    *transfer_s = 0.0;
    for (int32_t s = 0; s + 1 < n; s++) {
        *transfer_s += ranks->transfer_s[s] / (n - 1);
    }
}

void hlm_column_complete_ranks(struct hlm_arena *arena, struct hlm_pricer_cache *cache,
                               struct hlm_column *column)
{
    const int32_t n = hlm_column_num_stages(column);
    const struct hlm_cached_schedule *schedule = hlm_cache_schedule(cache, &column->strategy);
    struct hlm_rank_stage *stages = HLM_ARENA_ARRAY(arena, struct hlm_rank_stage, n);
    double *transfer_s = HLM_ARENA_ARRAY(arena, double, n);
    hlm_column_fill_transfers(column, transfer_s);
    for (int32_t s = 0; s < n; s++) {
        if (s >= 2 && s + 1 < n &&
            hlm_column_stage_pricer(column, s) == hlm_column_stage_pricer(column, s - 1)) {
            stages[s] = stages[s - 1];
        } else {
            fill_rank_stage(hlm_column_stage_pricer(column, s), s, &stages[s]);
        }
    }
    const struct hlm_cached_rows *rows = hlm_cache_ramp_rows(cache, &column->strategy);
    struct hlm_rank_problem *ranks = &column->ranks;
    *ranks = (struct hlm_rank_problem){.order = schedule->order,
                                       .held = schedule->held,
                                       .rows = rows->rows,
                                       .num_rows = rows->num_rows,
                                       .factors = rows->factors,
                                       .num_layers = column->placement.num_layers,
                                       .layer_kinds = column->placement.layer_kinds,
                                       .stages = stages,
                                       .transfer_s = transfer_s,
                                       .both_sides = column->both_sides,
                                       .sync_s = hlm_stage_sync_s(&column->pricer),
                                       .hold = hlm_column_hold,
                                       .context = hlm_column_holding_new(arena, column)};
    memcpy(ranks->modes, column->placement.modes, sizeof(ranks->modes));
}

void hlm_column_take_paths(struct hlm_pricer_cache *cache, struct hlm_column *column)
{
    double seconds[HLM_SIM_NUM_KINDS], mean_transfer_s = 0.0;
    find_means(column, seconds, &mean_transfer_s);
    const struct hlm_cached_rows *rows =
        hlm_cache_path_rows(cache, &column->strategy, seconds, mean_transfer_s);
    column->ranks.rows = rows->rows;
    column->ranks.num_rows = rows->num_rows;
    column->ranks.factors = rows->factors;
}
