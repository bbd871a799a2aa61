#include "planner/column_placement.h"

#include <math.h>

static const enum hlm_block_kind layer_blocks[HLM_NUM_LAYER_KINDS] = {HLM_BLOCK_DENSE,
                                                                      HLM_BLOCK_MOE};

/* --- pricers --- */

struct pricer_key {
    int64_t microbatch_size;
    int32_t tp, ep, etp;
    bool sp, one_stage;
    struct hlm_group_shape tp_shape, ep_shape;
};

struct cached_pricer {
    struct pricer_key key;
    const struct hlm_pricer *pricer; /* NULL: the cost model refuses */
    const struct hlm_err *why;
    const struct cached_pricer *older;
};

struct hlm_pricer_cache {
    struct hlm_arena *arena;
    const struct hlm_search_problem *problem;
    const uint8_t *layer_kinds;
    const struct cached_pricer *newest;
};

struct hlm_pricer_cache *hlm_pricer_cache_new(struct hlm_arena *arena,
                                              const struct hlm_search_problem *problem)
{
    struct hlm_pricer_cache *cache = HLM_ARENA_NEW(arena, struct hlm_pricer_cache);
    uint8_t *kinds = HLM_ARENA_ARRAY(arena, uint8_t, problem->model->num_layers);
    for (int32_t layer = 0; layer < problem->model->num_layers; layer++) {
        kinds[layer] = hlm_model_is_moe_layer(problem->model, layer) ? 1 : 0;
    }
    *cache = (struct hlm_pricer_cache){.arena = arena, .problem = problem, .layer_kinds = kinds};
    return cache;
}

static struct pricer_key make_key(const struct hlm_pricer_cache *cache,
                                  const struct hlm_strategy *strategy)
{
    const struct hlm_cluster *cluster = cache->problem->cluster;
    return (struct pricer_key){.microbatch_size = strategy->microbatch_size,
                               .tp = strategy->tp,
                               .ep = strategy->ep,
                               .etp = strategy->etp,
                               .sp = strategy->sp,
                               .one_stage = strategy->pp == 1,
                               .tp_shape = hlm_layout_shape(strategy, HLM_GROUP_TP, cluster, 0),
                               .ep_shape = hlm_layout_shape(strategy, HLM_GROUP_EP, cluster, 0)};
}

static bool same_shape(const struct hlm_group_shape *a, const struct hlm_group_shape *b)
{
    return a->num_ranks == b->num_ranks && a->num_nodes == b->num_nodes &&
           a->ranks_per_node == b->ranks_per_node && a->groups_per_node == b->groups_per_node;
}

static bool same_key(const struct pricer_key *a, const struct pricer_key *b)
{
    return a->microbatch_size == b->microbatch_size && a->tp == b->tp && a->ep == b->ep &&
           a->etp == b->etp && a->sp == b->sp && a->one_stage == b->one_stage &&
           same_shape(&a->tp_shape, &b->tp_shape) && same_shape(&a->ep_shape, &b->ep_shape);
}

static const struct cached_pricer *make_pricer(struct hlm_pricer_cache *cache,
                                               const struct hlm_strategy *strategy,
                                               const struct pricer_key *key)
{
    struct cached_pricer *made = HLM_ARENA_NEW(cache->arena, struct cached_pricer);
    struct hlm_pricer *pricer = HLM_ARENA_NEW(cache->arena, struct hlm_pricer);
    struct hlm_err why = {0};
    made->key = *key;
    made->older = cache->newest;
    const int32_t group = hlm_layout_device_group(strategy, cache->problem->cluster, 0);
    if (hlm_pricer_init(cache->arena, cache->problem->model, strategy, cache->problem->cluster,
                        group, pricer, &why) == HLM_OK) {
        made->pricer = pricer;
    } else {
        made->why = hlm_arena_memdup(cache->arena, &why, sizeof(why));
    }
    cache->newest = made;
    return made;
}

static const struct cached_pricer *find_pricer(struct hlm_pricer_cache *cache,
                                               const struct hlm_strategy *strategy)
{
    const struct pricer_key key = make_key(cache, strategy);
    for (const struct cached_pricer *at = cache->newest; at != NULL; at = at->older) {
        if (same_key(&at->key, &key)) {
            return at;
        }
    }
    return make_pricer(cache, strategy, &key);
}

/* --- times --- */

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
        const enum hlm_block_kind block = layer_blocks[kind];
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

static const struct hlm_stage_prices *make_stages(struct hlm_arena *arena,
                                                  const struct hlm_pricer *pricer)
{
    const int32_t p = pricer->strategy->pp;
    struct hlm_stage_prices *stages = HLM_ARENA_ARRAY(arena, struct hlm_stage_prices, p);
    fill_layer_times(pricer, &stages[0]);
    for (int32_t s = 1; s < p; s++) {
        stages[s] = stages[0];
    }
    add_base_times(pricer, HLM_BLOCK_EMBEDDING, &stages[0]);
    add_base_times(pricer, HLM_BLOCK_HEAD, &stages[p - 1]);
    return stages;
}

enum hlm_status hlm_column_init(struct hlm_arena *arena, struct hlm_pricer_cache *cache,
                                const struct hlm_strategy *strategy, struct hlm_column *out,
                                struct hlm_err *err)
{
    const struct hlm_search_problem *problem = cache->problem;
    const struct cached_pricer *cached = find_pricer(cache, strategy);
    if (cached->pricer == NULL) {
        *err = *cached->why;
        return HLM_NO;
    }
    *out = (struct hlm_column){.strategy = *strategy, .pricer = *cached->pricer};
    out->pricer.strategy = &out->strategy;
    const int32_t p = strategy->pp;
    double *transfer_s = HLM_ARENA_ARRAY(arena, double, p);
    out->both_sides = HLM_ARENA_ARRAY(arena, bool, p);
    for (int32_t s = 0; s + 1 < p; s++) {
        transfer_s[s] = hlm_stage_send_s(&out->pricer, s, &out->both_sides[s]);
    }
    struct hlm_placement *placement = &out->placement;
    *placement = (struct hlm_placement){.schedule = strategy->schedule,
                                        .num_stages = p,
                                        .num_layers = problem->model->num_layers,
                                        .num_microbatches = (int32_t)strategy->num_microbatches,
                                        .layer_kinds = cache->layer_kinds,
                                        .transfer_s = transfer_s,
                                        .sync_s = hlm_stage_sync_s(&out->pricer)};
    placement->stages = make_stages(arena, &out->pricer);
    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        const int32_t required = problem->require.recompute;
        placement->modes[mode] = required < 0 || required == mode;
    }
    return HLM_OK;
}

/* --- memory --- */

/* Costs of the stages that are alike, by counts of layers. */
struct column_holding {
    const struct hlm_pricer *pricer;
    int32_t totals[HLM_NUM_LAYER_KINDS];
    const int32_t *classes;         /* [pp] */
    struct hlm_stage_holding *made; /* [num_classes][totals[0] + 1][totals[1] + 1] */
    bool *is_made;
};

static struct hlm_stage_shape empty_shape(const struct hlm_strategy *strategy, int32_t stage)
{
    return (struct hlm_stage_shape){.stage = stage,
                                    .num_stages = strategy->pp,
                                    .embedding = stage == 0,
                                    .head = stage == strategy->pp - 1};
}

static int64_t static_bytes(const struct hlm_stage_cost *cost)
{
    int64_t bytes = 0;
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        bytes += cost->static_bytes[kind];
    }
    return bytes;
}

static void hold(const void *context, int32_t stage, const int32_t counts[HLM_NUM_LAYER_KINDS],
                 struct hlm_stage_holding *out)
{
    const struct column_holding *holding = context;
    const int32_t rows = holding->totals[0] + 1, columns = holding->totals[1] + 1;
    const size_t at = (size_t)((holding->classes[stage] * rows + counts[0]) * columns + counts[1]);
    if (!holding->is_made[at]) {
        struct hlm_stage_shape shape = empty_shape(holding->pricer->strategy, stage);
        for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
            shape.layers[layer_blocks[kind]][HLM_RECOMPUTE_NONE] = counts[kind];
        }
        struct hlm_stage_cost cost;
        hlm_stage_cost(holding->pricer, &shape, &cost);
        holding->made[at] = (struct hlm_stage_holding){.static_bytes = static_bytes(&cost),
                                                       .reduce_s = cost.reduce_s,
                                                       .optimizer_s = cost.optimizer_s};
        holding->is_made[at] = true;
    }
    *out = holding->made[at];
}

/* Stages are alike when they have the same ends of the model and their groups lie alike. */
enum { NUM_CLASS_GROUPS = 4 };
struct stage_class {
    int32_t ends;
    struct hlm_group_shape shapes[NUM_CLASS_GROUPS];
};

static struct stage_class class_of(const struct hlm_pricer *pricer, int32_t stage)
{
    static const enum hlm_group groups[NUM_CLASS_GROUPS] = {HLM_GROUP_TP, HLM_GROUP_DP,
                                                            HLM_GROUP_EP, HLM_GROUP_EDP};
    struct stage_class class = {.ends = (stage == 0 ? 1 : 0) +
                                        (stage == pricer->strategy->pp - 1 ? 2 : 0)};
    for (int32_t i = 0; i < NUM_CLASS_GROUPS; i++) {
        class.shapes[i] = hlm_layout_shape(pricer->strategy, groups[i], pricer->cluster, stage);
    }
    return class;
}

static bool same_class(const struct stage_class *a, const struct stage_class *b)
{
    bool same = a->ends == b->ends;
    for (int32_t i = 0; i < NUM_CLASS_GROUPS; i++) {
        same = same && same_shape(&a->shapes[i], &b->shapes[i]);
    }
    return same;
}

static const int32_t *find_classes(struct hlm_arena *arena, const struct hlm_pricer *pricer,
                                   int32_t *out_num)
{
    const int32_t p = pricer->strategy->pp;
    int32_t *classes = HLM_ARENA_ARRAY(arena, int32_t, p);
    struct stage_class *known = HLM_ARENA_ARRAY(arena, struct stage_class, p);
    int32_t num_known = 0;
    for (int32_t s = 0; s < p; s++) {
        const struct stage_class class = class_of(pricer, s);
        int32_t at = 0;
        while (at < num_known && !same_class(&known[at], &class)) {
            at++;
        }
        if (at == num_known) {
            known[num_known++] = class;
        }
        classes[s] = at;
    }
    *out_num = num_known;
    return classes;
}

static struct column_holding *make_holding(struct hlm_arena *arena, const struct hlm_column *column)
{
    struct column_holding *holding = HLM_ARENA_NEW(arena, struct column_holding);
    int32_t num_classes = 0;
    *holding = (struct column_holding){
        .pricer = &column->pricer, .classes = find_classes(arena, &column->pricer, &num_classes)};
    for (int32_t layer = 0; layer < column->placement.num_layers; layer++) {
        holding->totals[column->placement.layer_kinds[layer]]++;
    }
    const size_t size =
        (size_t)num_classes * (size_t)(holding->totals[0] + 1) * (size_t)(holding->totals[1] + 1);
    holding->made = HLM_ARENA_ARRAY(arena, struct hlm_stage_holding, size);
    holding->is_made = HLM_ARENA_ARRAY(arena, bool, size);
    return holding;
}

/* What every stage needs for a moment beside its blocks: that of one with no block at all. */
static int64_t boundary_transient_bytes(const struct hlm_pricer *pricer)
{
    const struct hlm_stage_shape shape = {.num_stages = pricer->strategy->pp};
    struct hlm_stage_cost cost;
    hlm_stage_cost(pricer, &shape, &cost);
    return cost.transient_bytes;
}

static void fill_memory(const struct hlm_pricer *pricer, int32_t stage,
                        struct hlm_stage_prices *prices)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    const struct hlm_stage_shape shape = empty_shape(strategy, stage);
    const int64_t boundary_bytes = boundary_transient_bytes(pricer);
    struct hlm_stage_cost cost;
    hlm_stage_cost(pricer, &shape, &cost);
    prices->base_slot_bytes = cost.slot_bytes;
    prices->base_transient_bytes = cost.transient_bytes - boundary_bytes;
    prices->limit_bytes = pricer->limit_bytes - pricer->fixed_bytes - boundary_bytes;
    prices->in_flight = hlm_schedule_in_flight(strategy->schedule, strategy->pp,
                                               (int32_t)strategy->num_microbatches, stage);
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            const struct hlm_block_cost *block = &pricer->blocks[layer_blocks[kind]][mode];
            prices->slot_bytes[kind][mode] = block->slot_bytes;
            prices->transient_bytes[kind][mode] = block->transient_bytes;
        }
    }
}

void hlm_column_complete(struct hlm_arena *arena, struct hlm_column *column)
{
    const int32_t p = column->placement.num_stages;
    struct hlm_stage_prices *stages = HLM_ARENA_ARRAY(arena, struct hlm_stage_prices, p);
    for (int32_t s = 0; s < p; s++) {
        stages[s] = column->placement.stages[s];
        fill_memory(&column->pricer, s, &stages[s]);
    }
    column->placement.stages = stages;
    column->placement.hold = hold;
    column->placement.context = make_holding(arena, column);
}

/* --- back to a plan --- */

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
            .device_group = column->pricer.device_group,
            .tp = column->strategy.tp,
            .recompute = {.none = pattern->recompute[HLM_RECOMPUTE_NONE],
                          .selective = pattern->recompute[HLM_RECOMPUTE_SELECTIVE],
                          .full = pattern->recompute[HLM_RECOMPUTE_FULL]}};
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
        hlm_stage_cost(&column->pricer, &shape, &cost);
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

static struct hlm_stage_memory stage_memory(const struct hlm_column *column, int32_t stage,
                                            int32_t begin, int32_t end, enum hlm_recompute mode)
{
    struct hlm_stage_shape shape = empty_shape(&column->strategy, stage);
    for (int32_t layer = begin; layer < end; layer++) {
        shape.layers[layer_blocks[column->placement.layer_kinds[layer]]][mode]++;
    }
    struct hlm_stage_cost cost;
    hlm_stage_cost(&column->pricer, &shape, &cost);
    struct hlm_stage_memory memory;
    hlm_stage_memory(&column->pricer, &shape, &cost,
                     hlm_schedule_in_flight(column->strategy.schedule, column->strategy.pp,
                                            (int32_t)column->strategy.num_microbatches, stage),
                     &memory);
    return memory;
}

struct hlm_column_excess hlm_column_find_excess(const struct hlm_column *column)
{
    const int32_t p = column->strategy.pp, num_layers = column->placement.num_layers;
    struct hlm_column_excess worst = {.bytes = INT64_MIN};
    for (int32_t s = 0; s < p; s++) {
        const int32_t begin = (int32_t)((int64_t)num_layers * s / p);
        const int32_t end = (int32_t)((int64_t)num_layers * (s + 1) / p);
        struct hlm_column_excess least = {.bytes = INT64_MAX};
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            if (column->placement.modes[mode]) {
                const struct hlm_stage_memory memory =
                    stage_memory(column, s, begin, end, (enum hlm_recompute)mode);
                const int64_t bytes = memory.peak_bytes - memory.limit_bytes;
                least = bytes < least.bytes ? (struct hlm_column_excess){bytes, memory} : least;
            }
        }
        worst = least.bytes > worst.bytes ? least : worst;
    }
    return worst;
}
