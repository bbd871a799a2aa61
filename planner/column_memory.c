#include "planner/column_internal.h"

/* Costs of the stages that are alike, by counts of layers. */
struct hlm_column_holding {
    const struct hlm_column *column;
    int32_t totals[HLM_NUM_LAYER_KINDS];
    const int32_t *classes;         /* [pp] */
    struct hlm_stage_holding *made; /* [num_classes][totals[0] + 1][totals[1] + 1] */
    bool *is_made;
};

struct hlm_stage_shape hlm_column_empty_shape(const struct hlm_strategy *strategy, int32_t stage)
{
    return (struct hlm_stage_shape){.stage = stage,
                                    .num_stages = strategy->pp * strategy->vpp,
                                    .embedding = stage == 0,
                                    .head = stage == strategy->pp * strategy->vpp - 1};
}

static int64_t static_bytes(const struct hlm_stage_cost *cost)
{
    int64_t bytes = 0;
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        bytes += cost->static_bytes[kind];
    }
    return bytes;
}

void hlm_column_hold(const void *context, int32_t stage, const int32_t counts[HLM_NUM_LAYER_KINDS],
                     struct hlm_stage_holding *out)
{
    const struct hlm_column_holding *holding = context;
    const int32_t rows = holding->totals[0] + 1, columns = holding->totals[1] + 1;
    const size_t at = (size_t)((holding->classes[stage] * rows + counts[0]) * columns + counts[1]);
    if (!holding->is_made[at]) {
        struct hlm_stage_shape shape = hlm_column_empty_shape(&holding->column->strategy, stage);
        for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
            shape.layers[hlm_layer_blocks[kind]][HLM_RECOMPUTE_NONE] = counts[kind];
        }
        struct hlm_stage_cost cost;
        hlm_stage_cost(hlm_column_stage_pricer(holding->column, stage), &shape, &cost);
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
    const struct hlm_pricer *pricer;
    int32_t ends;
    struct hlm_group_shape shapes[NUM_CLASS_GROUPS];
};

static struct stage_class class_of(const struct hlm_pricer *pricer, int32_t stage)
{
    static const enum hlm_group groups[NUM_CLASS_GROUPS] = {HLM_GROUP_TP, HLM_GROUP_DP,
                                                            HLM_GROUP_EP, HLM_GROUP_EDP};
    struct stage_class class = {
        .pricer = pricer,
        .ends = (stage == 0 ? 1 : 0) +
                (stage == pricer->strategy->pp * pricer->strategy->vpp - 1 ? 2 : 0)};
    for (int32_t i = 0; i < NUM_CLASS_GROUPS; i++) {
        class.shapes[i] = hlm_layout_shape(pricer->strategy, groups[i], pricer->cluster, stage);
    }
    return class;
}

static bool same_shape(const struct hlm_group_shape *a, const struct hlm_group_shape *b)
{
    return a->num_ranks == b->num_ranks && a->num_nodes == b->num_nodes &&
           a->ranks_per_node == b->ranks_per_node && a->groups_per_node == b->groups_per_node;
}

static bool same_class(const struct stage_class *a, const struct stage_class *b)
{
    bool same = a->ends == b->ends && a->pricer == b->pricer;
    for (int32_t i = 0; i < NUM_CLASS_GROUPS; i++) {
        same = same && same_shape(&a->shapes[i], &b->shapes[i]);
    }
    return same;
}

static const int32_t *find_classes(struct hlm_arena *arena, const struct hlm_column *column,
                                   int32_t *out_num)
{
    const int32_t p = hlm_column_num_stages(column);
    int32_t *classes = HLM_ARENA_ARRAY(arena, int32_t, p);
    struct stage_class *known = HLM_ARENA_ARRAY(arena, struct stage_class, p);
    int32_t num_known = 0;
    for (int32_t s = 0; s < p; s++) {
        const struct stage_class class = class_of(hlm_column_stage_pricer(column, s), s);
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

struct hlm_column_holding *hlm_column_holding_new(struct hlm_arena *arena,
                                                  const struct hlm_column *column)
{
    struct hlm_column_holding *holding = HLM_ARENA_NEW(arena, struct hlm_column_holding);
    int32_t num_classes = 0;
    *holding = (struct hlm_column_holding){.column = column,
                                           .classes = find_classes(arena, column, &num_classes)};
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
int64_t hlm_column_boundary_bytes(const struct hlm_pricer *pricer)
{
    const struct hlm_stage_shape shape = {.num_stages =
                                              pricer->strategy->pp * pricer->strategy->vpp};
    struct hlm_stage_cost cost;
    hlm_stage_cost(pricer, &shape, &cost);
    return cost.transient_bytes;
}

void hlm_column_fill_memory(const struct hlm_pricer *pricer, int32_t stage,
                            struct hlm_stage_prices *prices)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    const struct hlm_stage_shape shape = hlm_column_empty_shape(strategy, stage);
    const int64_t boundary_bytes = hlm_column_boundary_bytes(pricer);
    struct hlm_stage_cost cost;
    hlm_stage_cost(pricer, &shape, &cost);
    prices->base_slot_bytes = cost.slot_bytes;
    prices->base_transient_bytes = cost.transient_bytes - boundary_bytes;
    prices->limit_bytes = pricer->limit_bytes - pricer->fixed_bytes - boundary_bytes;
    prices->in_flight = hlm_schedule_in_flight(strategy->schedule, strategy->pp,
                                               (int32_t)strategy->num_microbatches, stage);
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            const struct hlm_block_cost *block = &pricer->blocks[hlm_layer_blocks[kind]][mode];
            prices->slot_bytes[kind][mode] = block->slot_bytes;
            prices->transient_bytes[kind][mode] = block->transient_bytes;
        }
    }
}
