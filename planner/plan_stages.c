/* Placement without a search: even stages with the least recompute that fits. */
#include "planner/plan_places.h"
#include "planner/plan_pricers.h"

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

const struct hlm_rank_held *hlm_plan_held(struct hlm_arena *arena,
                                          const struct hlm_strategy *strategy,
                                          const struct hlm_schedule *schedule)
{
    return strategy->lowering == HLM_LOWERING_HLMPLAN ? hlm_schedule_held_apart(arena, schedule)
                                                      : hlm_schedule_held(arena, schedule);
}

void hlm_plan_rank_memory(const struct hlm_model *model, const struct hlm_pricer *pricer,
                          const struct hlm_plan_stage *stages, int32_t num_stages,
                          const struct hlm_rank_held *held, struct hlm_stage_memory *out)
{
    struct hlm_arena *scratch = hlm_arena_new();
    struct hlm_stage_cost *costs = HLM_ARENA_ARRAY(scratch, struct hlm_stage_cost, num_stages);
    int64_t *slots = HLM_ARENA_ARRAY(scratch, int64_t, num_stages);
    int64_t transient_bytes = 0;
    for (int32_t c = 0; c < held->num_chunks; c++) {
        const int32_t s = held->stages[c];
        const struct hlm_stage_shape shape = hlm_plan_stage_shape(model, stages, num_stages, s);
        hlm_stage_cost(pricer, &shape, &costs[s]);
        slots[s] = costs[s].slot_bytes;
        transient_bytes =
            costs[s].transient_bytes > transient_bytes ? costs[s].transient_bytes : transient_bytes;
    }
    const int32_t row = hlm_rank_held_most(held, slots);
    for (int32_t c = 0; c < held->num_chunks; c++) {
        const int32_t s = held->stages[c];
        const struct hlm_stage_shape shape = hlm_plan_stage_shape(model, stages, num_stages, s);
        hlm_stage_memory(pricer, &shape, &costs[s], held->counts[row * held->num_chunks + c],
                         &out[s]);
        out[s].peak_bytes -= out[s].bytes[HLM_MEMORY_TRANSIENT] + out[s].bytes[HLM_MEMORY_FIXED];
        out[s].bytes[HLM_MEMORY_TRANSIENT] = c == 0 ? transient_bytes : 0;
        out[s].bytes[HLM_MEMORY_FIXED] = c == 0 ? out[s].bytes[HLM_MEMORY_FIXED] : 0;
        out[s].peak_bytes += out[s].bytes[HLM_MEMORY_TRANSIENT] + out[s].bytes[HLM_MEMORY_FIXED];
    }
    hlm_arena_free(scratch);
}

void hlm_plan_keep_strategy(struct hlm_arena *arena, struct hlm_strategy *strategy)
{
    if (strategy->places != NULL) {
        strategy->places = hlm_arena_memdup(arena, strategy->places,
                                            (size_t)strategy->pp * sizeof(*strategy->places));
    }
    if (strategy->num_replicas > 0) {
        strategy->replicas =
            hlm_arena_memdup(arena, strategy->replicas,
                             (size_t)strategy->num_replicas * sizeof(*strategy->replicas));
    }
}

struct hlm_plan_runner_up hlm_plan_as_runner_up(struct hlm_arena *arena,
                                                const struct hlm_plan *other,
                                                const struct hlm_plan *plan)
{
    const struct hlm_plan_interval *interval = &other->prediction.interval;
    struct hlm_plan_runner_up runner = {
        .strategy = other->strategy,
        .stages = hlm_arena_memdup(arena, other->stages,
                                   (size_t)other->num_stages * sizeof(*other->stages)),
        .num_stages = other->num_stages,
        .step_time_s = other->prediction.step_time_s,
        .interval = *interval,
        .within_uncertainty = hlm_plan_intervals_meet(interval, &plan->prediction.interval)};
    hlm_plan_keep_strategy(arena, &runner.strategy);
    return runner;
}

int32_t hlm_plan_groups_used(const struct hlm_strategy *strategy,
                             const struct hlm_plan_stage *stages, int32_t num_stages)
{
    return strategy->num_replicas > 0 ? strategy->num_replicas
                                      : hlm_plan_num_groups(stages, num_stages);
}

int32_t hlm_plan_num_groups(const struct hlm_plan_stage *stages, int32_t num_stages)
{
    int32_t num = 0;
    for (int32_t s = 0; s < num_stages; s++) {
        bool is_new = true;
        for (int32_t before = 0; before < s; before++) {
            is_new = is_new && stages[before].device_group != stages[s].device_group;
        }
        num += is_new ? 1 : 0;
    }
    return num;
}

int64_t hlm_plan_rank_peak_bytes(const struct hlm_plan *plan, int32_t rank)
{
    int64_t bytes = 0;
    for (int32_t s = 0; s < plan->num_stages; s++) {
        bytes += plan->stages[s].rank_group == rank ? plan->prediction.memory[s].peak_bytes : 0;
    }
    return bytes;
}

int64_t hlm_plan_world_rank_peak_bytes(const struct hlm_plan *plan, int32_t world_rank)
{
    const struct hlm_coords coords = hlm_layout_coords(&plan->strategy, world_rank);
    const struct hlm_strategy seen = hlm_strategy_of_replica(&plan->strategy, coords.dp, NULL);
    const int32_t index = seen.seen_replicas > 0 ? seen.seen_replicas - 1 : 0;
    int64_t bytes = 0;
    for (int32_t s = 0; s < plan->num_stages; s++) {
        bytes += plan->stages[s].rank_group == coords.pp
                     ? plan->prediction.memory[index * plan->num_stages + s].peak_bytes
                     : 0;
    }
    return bytes;
}

/* A rank of a plan under construction. */
struct rank_choice {
    const struct hlm_pricer *pricer;
    struct hlm_plan_stage *stages;
    int32_t num_stages;
    const struct hlm_rank_held *held;
    struct hlm_stage_memory *memory; /* [num_stages] */
};

static bool rank_fits(const struct rank_choice *rank)
{
    hlm_plan_rank_memory(rank->pricer->model, rank->pricer, rank->stages, rank->num_stages,
                         rank->held, rank->memory);
    int64_t peak_bytes = 0;
    for (int32_t c = 0; c < rank->held->num_chunks; c++) {
        peak_bytes += rank->memory[rank->held->stages[c]].peak_bytes;
    }
    return peak_bytes <= rank->memory[rank->held->stages[0]].limit_bytes;
}

/* `count` layers of the rank recompute in the mode, the rest of those that do at all selectively:
 * the first stages first, whose activations are held longest. */
static void spread_recompute(const struct rank_choice *rank, int32_t selective, int32_t full)
{
    for (int32_t c = 0; c < rank->held->num_chunks; c++) {
        struct hlm_plan_stage *stage = &rank->stages[rank->held->stages[c]];
        const int32_t n = stage->num_layers;
        const int32_t own_full = full < n ? full : n;
        const int32_t own_selective = selective < n - own_full ? selective : n - own_full;
        stage->recompute = recompute_counts(n, own_selective, own_full);
        full -= own_full;
        selective -= own_selective;
    }
}

/* The fewest recomputing layers that fit: selective ones first, then full ones in their place.
 * Where nothing fits, all full: pricing then says what is missing. */
static void choose_recompute(const struct rank_choice *rank)
{
    int32_t n = 0;
    for (int32_t c = 0; c < rank->held->num_chunks; c++) {
        n += rank->stages[rank->held->stages[c]].num_layers;
    }
    for (int32_t selective = 0; selective <= n; selective++) {
        spread_recompute(rank, selective, 0);
        if (rank_fits(rank)) {
            return;
        }
    }
    for (int32_t full = 1; full <= n; full++) {
        spread_recompute(rank, n - full, full);
        if (rank_fits(rank)) {
            return;
        }
    }
}

static enum hlm_status choose_all(struct hlm_arena *arena, const struct hlm_strategy *strategy,
                                  const struct hlm_pricer *const *pricers,
                                  struct hlm_plan_stage *stages, int32_t num_stages,
                                  struct hlm_err *err)
{
    const struct hlm_schedule *schedule = NULL;
    HLM_TRY(hlm_schedule_build(arena, strategy->schedule, strategy->pp, strategy->vpp,
                               (int32_t)strategy->num_microbatches, &schedule, err));
    const struct hlm_rank_held *held = hlm_plan_held(arena, strategy, schedule);
    for (int32_t rank = 0; rank < strategy->pp; rank++) {
        const struct rank_choice choice = {
            .pricer = pricers[rank],
            .stages = stages,
            .num_stages = num_stages,
            .held = &held[rank],
            .memory = HLM_ARENA_ARRAY(arena, struct hlm_stage_memory, num_stages)};
        choose_recompute(&choice);
    }
    return HLM_OK;
}

/* How far a stage has gone in the order of choose_recompute. */
static int32_t recompute_order(const struct hlm_plan_recompute *recompute)
{
    return recompute->full > 0 ? recompute->full + recompute->selective + recompute->full
                               : recompute->selective;
}

/* What fits all replicas, the most that any of them needs. */
static enum hlm_status choose_for_all(struct hlm_arena *arena, const struct hlm_model *model,
                                      const struct hlm_cluster *cluster,
                                      const struct hlm_strategy *strategy,
                                      struct hlm_plan_stage *stages, int32_t num_stages,
                                      struct hlm_err *err)
{
    struct hlm_strategy placed = *strategy;
    HLM_TRY(hlm_plan_locate(arena, cluster, &placed, stages, num_stages, err));
    struct hlm_plan_stage *own =
        hlm_arena_memdup(arena, stages, (size_t)num_stages * sizeof(*stages));
    for (int32_t i = 0; i < (placed.num_replicas > 0 ? placed.num_replicas : 1); i++) {
        const struct hlm_strategy view =
            placed.num_replicas > 0 ? hlm_strategy_of_replicas(&placed, i) : placed;
        const struct hlm_strategy *seen = hlm_arena_memdup(arena, &view, sizeof(view));
        const struct hlm_pricer *const *pricers = NULL;
        HLM_TRY(hlm_plan_pricers_new(arena, model, cluster, seen, &pricers, err));
        HLM_TRY(choose_all(arena, seen, pricers, own, num_stages, err));
        for (int32_t s = 0; s < num_stages; s++) {
            const bool more = i == 0 || recompute_order(&own[s].recompute) >
                                            recompute_order(&stages[s].recompute);
            stages[s].recompute = more ? own[s].recompute : stages[s].recompute;
        }
    }
    return HLM_OK;
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
            .rank_group = hlm_layout_stage_rank(strategy, s),
            .first_layer = first,
            .num_layers = lengths[s],
            .device_group = strategy->num_replicas > 0
                                ? strategy->replicas[0].device_group
                                : hlm_layout_device_group(strategy, cluster, s),
            .tp = strategy->tp,
            .recompute =
                recompute_counts(lengths[s], recompute == HLM_RECOMPUTE_SELECTIVE ? lengths[s] : 0,
                                 recompute == HLM_RECOMPUTE_FULL ? lengths[s] : 0)};
        first += lengths[s];
    }
    if (recompute < 0) {
        HLM_TRY(choose_for_all(arena, model, cluster, strategy, stages, n, err));
    }
    *out = stages;
    *out_num = n;
    return HLM_OK;
}
