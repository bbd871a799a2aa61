#include "planner/plan_program.h"

#include "costmodel/shards.h"

/* A collective as the referee knows it. */
struct collective {
    enum hlm_simgrid_kind kind;
    int64_t bytes;
};

struct collective_list {
    struct collective *items;
    int32_t count, capacity;
};

#define NUM_PASSES 4 /* F, B, I, W, as hlm_action_kind numbers them */

struct stage_program {
    struct collective_list passes[NUM_PASSES];
    double compute_s[NUM_PASSES];
    int64_t send_bytes; /* boundary to the next stage, both directions */
    int64_t tp_elements, dp_elements, edp_elements; /* of the gradient reductions */
};

struct writer {
    struct hlm_arena *arena;
    const struct hlm_plan *plan;
    const struct hlm_schedule *schedule;
    struct stage_program *stages; /* [num_stages] */
    int32_t rank, pipeline_rank;
    struct hlm_simgrid_item *items;
    int32_t num_items, capacity;
};

/* ---- what a stage's passes hold ---- */

static void append(struct hlm_arena *arena, struct collective_list *list, struct collective item)
{
    if (list->count == list->capacity) {
        const int32_t capacity = list->capacity == 0 ? 16 : 2 * list->capacity;
        struct collective *items = HLM_ARENA_ARRAY(arena, struct collective, capacity);
        for (int32_t i = 0; i < list->count; i++) {
            items[i] = list->items[i];
        }
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = item;
}

static bool referee_kind(enum hlm_op_kind kind, enum hlm_simgrid_kind *out)
{
    static const struct {
        enum hlm_op_kind op;
        enum hlm_simgrid_kind kind;
    } kinds[] = {{HLM_OP_ALL_REDUCE, HLM_SIMGRID_ALL_REDUCE},
                 {HLM_OP_ALL_REDUCE_MAX, HLM_SIMGRID_ALL_REDUCE},
                 {HLM_OP_ALL_GATHER, HLM_SIMGRID_ALL_GATHER},
                 {HLM_OP_REDUCE_SCATTER, HLM_SIMGRID_REDUCE_SCATTER}};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (kinds[i].op == kind) {
            *out = kinds[i].kind;
            return true;
        }
    }
    return false;
}

static void add_collectives(struct hlm_arena *arena, const struct hlm_op *ops, int32_t num_ops,
                            const bool parts[], struct collective_list *list)
{
    for (int32_t i = 0; i < num_ops; i++) {
        const struct hlm_op *op = &ops[i];
        struct collective item = {.bytes = (int64_t)op->bytes};
        if (op->group == HLM_GROUP_TP && !op->overlaps_next && parts[op->part] &&
            referee_kind(op->kind, &item.kind)) {
            append(arena, list, item);
        }
    }
}

static void add_passes(struct hlm_arena *arena, const struct hlm_block *block,
                       struct stage_program *stage)
{
    static const bool forward[] = {
        [HLM_PART_FORWARD] = true, [HLM_PART_INPUT_GRAD] = false, [HLM_PART_WEIGHT_GRAD] = false};
    static const bool both[] = {
        [HLM_PART_FORWARD] = true, [HLM_PART_INPUT_GRAD] = true, [HLM_PART_WEIGHT_GRAD] = true};
    static const bool input[] = {
        [HLM_PART_FORWARD] = false, [HLM_PART_INPUT_GRAD] = true, [HLM_PART_WEIGHT_GRAD] = false};
    static const bool weight[] = {
        [HLM_PART_FORWARD] = false, [HLM_PART_INPUT_GRAD] = false, [HLM_PART_WEIGHT_GRAD] = true};
    add_collectives(arena, block->forward, block->num_forward, forward,
                    &stage->passes[HLM_ACTION_F]);
    add_collectives(arena, block->backward, block->num_backward, both,
                    &stage->passes[HLM_ACTION_B]);
    add_collectives(arena, block->backward, block->num_backward, input,
                    &stage->passes[HLM_ACTION_I]);
    add_collectives(arena, block->backward, block->num_backward, weight,
                    &stage->passes[HLM_ACTION_W]);
}

/* What one rank of a tp group sums of a block's gradients at the end of a step: of shards no more
 * than the first of them. */
static int64_t sum_over_tp(const struct hlm_plan *plan, const struct hlm_block *block)
{
    int64_t num_elements = 0;
    if (!hlm_shards_apply(&plan->strategy)) {
        for (int32_t i = 0; i < block->num_params; i++) {
            const struct hlm_param *param = &block->params[i];
            num_elements += param->sum_over_tp ? param->rows * param->cols : 0;
        }
        return num_elements;
    }
    struct hlm_block_shards shards;
    hlm_block_shards(block, &plan->strategy, plan->model.tied_embeddings, &shards);
    for (int32_t kind = 0; kind < HLM_NUM_SHARD_KINDS; kind++) {
        const struct hlm_shard_unit *unit = &shards.units[kind];
        num_elements +=
            unit->num_sum_over_tp < unit->num_own ? unit->num_sum_over_tp : unit->num_own;
    }
    return num_elements;
}

static void add_block(struct hlm_arena *arena, const struct hlm_plan *plan,
                      const struct hlm_block *block, struct stage_program *stage)
{
    add_passes(arena, block, stage);
    stage->tp_elements += sum_over_tp(plan, block);
}

/* The order of blocks in a backward is the reverse, but only the number and sizes of collectives
 * count (see the header), so one order serves all passes. */
static enum hlm_status add_blocks(struct hlm_arena *arena, const struct hlm_plan *plan,
                                  int32_t index, struct stage_program *stage, struct hlm_err *err)
{
    const struct hlm_plan_stage *placed = &plan->stages[index];
    const struct hlm_strategy at = hlm_strategy_at(&plan->strategy, placed->rank_group);
    const struct hlm_lowering_input input = {
        .model = &plan->model,
        .strategy = &at,
        .backend = plan->cluster.groups[placed->device_group].device.backend,
        .last_stage_copy = plan->model.tied_embeddings && hlm_layout_ends_apart(&plan->strategy)};
    const struct hlm_block *block = NULL;
    if (index == 0) {
        HLM_TRY(hlm_lowering_block(arena, &input, HLM_BLOCK_EMBEDDING, HLM_RECOMPUTE_NONE, &block,
                                   err));
        add_block(arena, plan, block, stage);
    }
    for (int32_t i = 0; i < placed->num_layers; i++) {
        const int32_t layer = placed->first_layer + i;
        HLM_TRY(hlm_lowering_block(arena, &input, hlm_plan_layer_kind(&plan->model, layer),
                                   hlm_plan_layer_recompute(placed, layer), &block, err));
        add_block(arena, plan, block, stage);
    }
    if (index == plan->num_stages - 1) {
        HLM_TRY(hlm_lowering_block(arena, &input, HLM_BLOCK_HEAD, HLM_RECOMPUTE_NONE, &block, err));
        add_block(arena, plan, block, stage);
    }
    return HLM_OK;
}

static enum hlm_status fill_stage(struct hlm_arena *arena, const struct hlm_plan *plan,
                                  const struct hlm_stage_cost *cost, int32_t index,
                                  struct stage_program *stage, struct hlm_err *err)
{
    HLM_TRY(add_blocks(arena, plan, index, stage, err));
    const struct hlm_pass_cost *const passes[NUM_PASSES] = {[HLM_ACTION_F] = &cost->forward,
                                                            [HLM_ACTION_B] = &cost->backward,
                                                            [HLM_ACTION_I] = &cost->input_grad,
                                                            [HLM_ACTION_W] = &cost->weight_grad};
    for (int32_t pass = 0; pass < NUM_PASSES; pass++) {
        stage->compute_s[pass] = passes[pass]->seconds - passes[pass]->part[HLM_PART_TP_COMM];
    }
    const struct hlm_strategy *strategy = &plan->strategy;
    const bool at_end = strategy->zero < 2; /* else the passes have reduced them */
    stage->dp_elements = at_end ? cost->num_elements - cost->num_expert_elements : 0;
    stage->edp_elements = at_end ? cost->num_expert_elements : 0;
    const int64_t tokens = strategy->microbatch_size * strategy->seq_len / strategy->cp;
    const int64_t rows = strategy->sp ? tokens / strategy->tp : tokens;
    stage->send_bytes =
        (int64_t)((double)(rows * plan->model.hidden_size) * hlm_dtype_bytes(strategy->dtype));
    return HLM_OK;
}

/* ---- programs ---- */

static void add(struct writer *writer, struct hlm_simgrid_item item)
{
    if (writer->num_items == writer->capacity) {
        const int32_t capacity = writer->capacity == 0 ? 256 : 2 * writer->capacity;
        struct hlm_simgrid_item *items =
            HLM_ARENA_ARRAY(writer->arena, struct hlm_simgrid_item, capacity);
        for (int32_t i = 0; i < writer->num_items; i++) {
            items[i] = writer->items[i];
        }
        writer->items = items;
        writer->capacity = capacity;
    }
    writer->items[writer->num_items++] = item;
}

static int32_t group_tag(const struct writer *writer, enum hlm_group group)
{
    const int32_t first = 2 * writer->schedule->num_stages * writer->schedule->num_microbatches;
    return first + (int32_t)group;
}

static void add_collective(struct writer *writer, struct collective item, enum hlm_group group)
{
    const struct hlm_strategy *strategy = &writer->plan->strategy;
    const int32_t size = hlm_layout_group_size(strategy, group);
    if (size < 2 || item.bytes == 0) {
        return;
    }
    int32_t *members = HLM_ARENA_ARRAY(writer->arena, int32_t, size);
    int32_t position = 0;
    hlm_layout_group(strategy, group, writer->rank, members, &position);
    add(writer, (struct hlm_simgrid_item){.kind = item.kind,
                                          .bytes = item.bytes,
                                          .tag = group_tag(writer, group),
                                          .members = members,
                                          .num_members = size});
}

/* The message between two neighbouring stages, as this rank sees it: none when one rank owns both.
 */
static void add_message(struct writer *writer, enum hlm_simgrid_kind kind, int32_t from, int32_t to,
                        int32_t microbatch)
{
    const struct hlm_schedule *schedule = writer->schedule;
    if (from < 0 || to < 0 || from >= schedule->num_stages || to >= schedule->num_stages ||
        schedule->stage_rank[from] == schedule->stage_rank[to]) {
        return;
    }
    struct hlm_coords coords = hlm_layout_coords(&writer->plan->strategy, writer->rank);
    coords.pp = schedule->stage_rank[kind == HLM_SIMGRID_SEND ? to : from];
    const int32_t lower = from < to ? from : to;
    add(writer,
        (struct hlm_simgrid_item){.kind = kind,
                                  .bytes = writer->stages[lower].send_bytes,
                                  .peer = hlm_layout_rank(&writer->plan->strategy, coords),
                                  .tag = 2 * (from * schedule->num_microbatches + microbatch) +
                                         (from < to ? 0 : 1)});
}

static void add_action(struct writer *writer, struct hlm_action action)
{
    const struct stage_program *stage = &writer->stages[action.stage];
    const struct collective_list *collectives = &stage->passes[action.kind];
    const int32_t num_parts =
        writer->plan->strategy.tp > 1 && collectives->count > 0 ? collectives->count : 1;
    const int32_t direction = action.kind == HLM_ACTION_F ? 1 : -1;
    const bool has_messages = action.kind != HLM_ACTION_W;
    if (has_messages) {
        add_message(writer, HLM_SIMGRID_RECV, action.stage - direction, action.stage,
                    action.microbatch);
    }
    for (int32_t i = 0; i < num_parts; i++) {
        add(writer,
            (struct hlm_simgrid_item){.kind = HLM_SIMGRID_COMPUTE,
                                      .seconds = stage->compute_s[action.kind] / num_parts});
        if (i < collectives->count) {
            add_collective(writer, collectives->items[i], HLM_GROUP_TP);
        }
    }
    if (has_messages) {
        add_message(writer, HLM_SIMGRID_SEND, action.stage, action.stage + direction,
                    action.microbatch);
    }
}

/* The reductions of a stage's gradients, as stage_cost prices them. */
static int32_t stage_reductions(const struct hlm_plan *plan, const struct stage_program *stage,
                                struct collective items[3], enum hlm_group groups[3])
{
    const struct hlm_strategy *strategy = &plan->strategy;
    const double bytes = hlm_dtype_bytes(strategy->grad_dtype);
    const enum hlm_simgrid_kind kind =
        strategy->zero > 0 ? HLM_SIMGRID_REDUCE_SCATTER : HLM_SIMGRID_ALL_REDUCE;
    const struct {
        enum hlm_group group;
        enum hlm_simgrid_kind kind;
        int64_t elements;
    } all[] = {{HLM_GROUP_TP, HLM_SIMGRID_ALL_REDUCE, stage->tp_elements},
               {HLM_GROUP_DP, kind, stage->dp_elements},
               {HLM_GROUP_EDP, kind, stage->edp_elements}};
    for (int32_t i = 0; i < 3; i++) {
        items[i] = (struct collective){all[i].kind, (int64_t)((double)all[i].elements * bytes)};
        groups[i] = all[i].group;
    }
    return 3;
}

static void add_reductions(struct writer *writer)
{
    const struct hlm_rank_actions *list = &writer->schedule->ranks[writer->pipeline_rank];
    int32_t *done = HLM_ARENA_ARRAY(writer->arena, int32_t, writer->schedule->num_stages);
    for (int32_t i = 0; i < list->num_actions; i++) {
        const struct hlm_action action = list->actions[i];
        if ((action.kind != HLM_ACTION_B && action.kind != HLM_ACTION_W) ||
            ++done[action.stage] < writer->schedule->num_microbatches) {
            continue;
        }
        struct collective items[3];
        enum hlm_group groups[3];
        const int32_t count =
            stage_reductions(writer->plan, &writer->stages[action.stage], items, groups);
        for (int32_t k = 0; k < count; k++) {
            add_collective(writer, items[k], groups[k]);
        }
    }
}

static struct hlm_simgrid_program write_program(struct writer writer, int32_t rank)
{
    writer.rank = rank;
    writer.pipeline_rank = hlm_layout_coords(&writer.plan->strategy, rank).pp;
    const struct hlm_rank_actions *list = &writer.schedule->ranks[writer.pipeline_rank];
    for (int32_t i = 0; i < list->num_actions; i++) {
        if (hlm_action_is_compute(list->actions[i].kind)) {
            add_action(&writer, list->actions[i]);
        }
    }
    add_reductions(&writer);
    return (struct hlm_simgrid_program){writer.items, writer.num_items};
}

/* ---- the uniform network, and our own price of it ---- */

static struct hlm_simgrid_cluster uniform_network(const struct hlm_plan *plan)
{
    const struct hlm_device_group *group = &plan->cluster.groups[0];
    const bool one_node = plan->num_ranks <= hlm_device_group_domain(group);
    const struct hlm_link *link =
        one_node ? &group->intra_node : hlm_cluster_inter_link(&plan->cluster, 0, 0);
    const double alpha_s =
        link->alpha_rendezvous_s > 0.0 ? link->alpha_rendezvous_s : link->alpha_s;
    return (struct hlm_simgrid_cluster){.num_ranks = plan->num_ranks,
                                        .alpha_s = alpha_s,
                                        .bytes_per_s = link->bandwidth_bytes_per_s};
}

static double pass_seconds(const struct writer *writer, const struct hlm_simgrid_cluster *network,
                           int32_t stage, enum hlm_action_kind pass)
{
    const struct stage_program *program = &writer->stages[stage];
    const int32_t tp = writer->plan->strategy.tp;
    double seconds = program->compute_s[pass];
    for (int32_t i = 0; tp > 1 && i < program->passes[pass].count; i++) {
        const struct collective *item = &program->passes[pass].items[i];
        seconds += hlm_simgrid_ring_seconds(network, item->kind, tp, (double)item->bytes);
    }
    return seconds;
}

static double reduce_seconds(const struct writer *writer, const struct hlm_simgrid_cluster *network,
                             int32_t stage)
{
    struct collective items[3];
    enum hlm_group groups[3];
    const int32_t count = stage_reductions(writer->plan, &writer->stages[stage], items, groups);
    double seconds = 0.0;
    for (int32_t i = 0; i < count; i++) {
        const int32_t size = hlm_layout_group_size(&writer->plan->strategy, groups[i]);
        if (size > 1 && items[i].bytes > 0) {
            seconds +=
                hlm_simgrid_ring_seconds(network, items[i].kind, size, (double)items[i].bytes);
        }
    }
    return seconds;
}

static enum hlm_status expect(const struct writer *writer,
                              const struct hlm_simgrid_cluster *network, double *out,
                              struct hlm_err *err)
{
    struct hlm_arena *arena = writer->arena;
    const int32_t n = writer->schedule->num_stages;
    double *durations[NUM_PASSES];
    for (int32_t pass = 0; pass < NUM_PASSES; pass++) {
        durations[pass] = HLM_ARENA_ARRAY(arena, double, n);
    }
    double *send = HLM_ARENA_ARRAY(arena, double, n + 1);
    double *reduce = HLM_ARENA_ARRAY(arena, double, n);
    bool *both_sides = HLM_ARENA_ARRAY(arena, bool, n);
    for (int32_t s = 0; s < n; s++) {
        for (int32_t pass = 0; pass < NUM_PASSES; pass++) {
            durations[pass][s] = pass_seconds(writer, network, s, (enum hlm_action_kind)pass);
        }
        /* send[s + 1] is the boundary s | s + 1: from s forward, from s + 1 backward. */
        send[s + 1] =
            network->alpha_s + (double)writer->stages[s].send_bytes / network->bytes_per_s;
        reduce[s] = reduce_seconds(writer, network, s);
        both_sides[s] = true;
    }
    const struct hlm_sim_costs costs = {.forward_s = durations[HLM_ACTION_F],
                                        .backward_s = durations[HLM_ACTION_B],
                                        .input_grad_s = durations[HLM_ACTION_I],
                                        .weight_grad_s = durations[HLM_ACTION_W],
                                        .send_forward_s = send + 1,
                                        .send_backward_s = send,
                                        .needs_both_sides = both_sides,
                                        .reduce_s = reduce};
    struct hlm_sim_result result;
    HLM_TRY(hlm_simulate(arena, writer->schedule, &costs, NULL, false, &result, err));
    *out = result.reduce_end_s;
    return HLM_OK;
}

enum hlm_status hlm_plan_programs(struct hlm_arena *arena, const struct hlm_plan *plan,
                                  const struct hlm_plan_simulation *simulation,
                                  struct hlm_plan_programs *out, struct hlm_err *err)
{
    if (plan->strategy.num_replicas > 0) {
        return hlm_fail(err, HLM_NO,
                        "SimGrid's traces are of replicas that are alike; the plan's have shares "
                        "of their own on %d device groups",
                        plan->strategy.num_replicas);
    }
    for (int32_t s = 0; s < plan->num_stages; s++) {
        if (plan->stages[s].tp != plan->strategy.tp) {
            return hlm_fail(err, HLM_NO,
                            "traces for SimGrid need one tp: stage %d has tp = %d, others %d", s,
                            plan->stages[s].tp, plan->strategy.tp);
        }
    }
    struct writer writer = {.arena = arena,
                            .plan = plan,
                            .schedule = simulation->schedule,
                            .stages =
                                HLM_ARENA_ARRAY(arena, struct stage_program, plan->num_stages)};
    for (int32_t s = 0; s < plan->num_stages; s++) {
        HLM_TRY(fill_stage(arena, plan, &simulation->stages[s], s, &writer.stages[s], err));
    }
    struct hlm_plan_programs programs = {.cluster = uniform_network(plan)};
    HLM_TRY(expect(&writer, &programs.cluster, &programs.expected_s, err));
    struct hlm_simgrid_program *list =
        HLM_ARENA_ARRAY(arena, struct hlm_simgrid_program, plan->num_ranks);
    for (int32_t rank = 0; rank < plan->num_ranks; rank++) {
        list[rank] = write_program(writer, rank);
    }
    programs.programs = list;
    *out = programs;
    return HLM_OK;
}
