/* What lies where: the stages of a rank, their blocks, slabs of parameters and slots. */
#include <string.h>

#include "costmodel/data_parallel.h"
#include "exec/runner/state_internal.h"

/* --- blocks of a stage --- */

struct block_choice {
    enum hlm_block_kind kind;
    enum hlm_recompute recompute;
    int32_t layer;
};

static int32_t choose_blocks(const struct hlm_plan *plan, const struct hlm_state_stage *stage,
                             struct block_choice *choices)
{
    const struct hlm_plan_stage *placed = &plan->stages[stage->stage];
    int32_t n = 0;
    if (stage->first) {
        choices[n++] = (struct block_choice){HLM_BLOCK_EMBEDDING, HLM_RECOMPUTE_NONE, -1};
    }
    for (int32_t i = 0; i < placed->num_layers; i++) {
        const int32_t layer = placed->first_layer + i;
        choices[n++] = (struct block_choice){hlm_plan_layer_kind(&plan->model, layer),
                                             hlm_plan_layer_recompute(placed, layer), layer};
    }
    if (stage->last) {
        choices[n++] = (struct block_choice){HLM_BLOCK_HEAD, HLM_RECOMPUTE_NONE, -1};
    }
    return n;
}

/* Equal choices share one operator list. */
struct block_cache {
    const struct hlm_block *block[HLM_NUM_BLOCKS][HLM_NUM_RECOMPUTES];
    const struct hlm_block_memory *memory[HLM_NUM_BLOCKS][HLM_NUM_RECOMPUTES];
};

static enum hlm_status build_block(struct hlm_arena *arena, const struct hlm_state *state,
                                   int32_t stage, const struct block_choice *choice,
                                   struct block_cache *cache, struct hlm_err *err)
{
    if (cache->block[choice->kind][choice->recompute] != NULL) {
        return HLM_OK;
    }
    const struct hlm_plan *plan = state->plan;
    const struct hlm_device *device =
        &plan->cluster.groups[plan->stages[stage].device_group].device;
    const struct hlm_lowering_input input = {
        .model = &plan->model,
        .strategy = &state->strategy,
        .backend = device->backend,
        .tp_rank = state->coords.tp,
        .ep_rank = state->ep_rank,
        .cp_rank = state->coords.cp,
        .routing = state->routing,
        .last_stage_copy = plan->model.tied_embeddings && hlm_layout_ends_apart(&plan->strategy)};
    const struct hlm_block *block = NULL;
    HLM_TRY(hlm_lowering_block(arena, &input, choice->kind, choice->recompute, &block, err));
    struct hlm_block_memory *memory = HLM_ARENA_NEW(arena, struct hlm_block_memory);
    hlm_block_memory_of(arena, block, state->split, memory);
    cache->block[choice->kind][choice->recompute] = block;
    cache->memory[choice->kind][choice->recompute] = memory;
    return HLM_OK;
}

static enum hlm_status build_blocks(struct hlm_arena *arena, const struct hlm_state *state,
                                    struct hlm_state_stage *stage, struct block_cache *cache,
                                    struct hlm_err *err)
{
    struct block_choice *choices =
        HLM_ARENA_ARRAY(arena, struct block_choice, state->plan->model.num_layers + 2);
    stage->num_blocks = choose_blocks(state->plan, stage, choices);
    if (stage->num_blocks == 0) {
        return hlm_fail(err, HLM_NO, "this plan can't be run: stage %d has no layers",
                        stage->stage);
    }
    struct hlm_state_block *blocks =
        HLM_ARENA_ARRAY(arena, struct hlm_state_block, stage->num_blocks);
    for (int32_t b = 0; b < stage->num_blocks; b++) {
        HLM_TRY(build_block(arena, state, stage->stage, &choices[b], cache, err));
        blocks[b] =
            (struct hlm_state_block){.block = cache->block[choices[b].kind][choices[b].recompute],
                                     .memory = cache->memory[choices[b].kind][choices[b].recompute],
                                     .layer = choices[b].layer};
    }
    stage->blocks = blocks;
    return HLM_OK;
}

/* --- parameters --- */

/* The slab has one kind of parameters behind the other. */
enum param_kind { SUMMED_OVER_TP, DENSE, EXPERT };

static enum param_kind kind_of(const struct hlm_param *param)
{
    return param->expert ? EXPERT : param->sum_over_tp ? SUMMED_OVER_TP : DENSE;
}

void hlm_state_place_param(struct hlm_arena *arena, struct hlm_state_stage *stage,
                           struct hlm_state_param *params, int32_t block, int32_t param)
{
    const struct hlm_state_block *placed = &stage->blocks[block];
    const struct hlm_param *what = &placed->block->params[param];
    const int64_t count = what->rows * what->cols;
    ((int64_t *)placed->param_offset)[param] = stage->num_elements;
    params[stage->num_params++] = (struct hlm_state_param){
        .param = what,
        .name = hlm_param_global_name(arena, placed->block->kind, placed->layer, what),
        .offset = stage->num_elements,
        .num_elements = count};
    stage->num_elements += count;
}

/* Appends the parameters of one kind of all blocks to the slab. */
static void place_params(struct hlm_arena *arena, struct hlm_state_stage *stage,
                         struct hlm_state_param *params, enum param_kind wanted)
{
    for (int32_t b = 0; b < stage->num_blocks; b++) {
        const struct hlm_block *block = stage->blocks[b].block;
        for (int32_t p = 0; p < block->num_params; p++) {
            if (kind_of(&block->params[p]) == wanted) {
                hlm_state_place_param(arena, stage, params, b, p);
            }
        }
    }
}

static int64_t round_up(int64_t count, int64_t unit)
{
    return (count + unit - 1) / unit * unit;
}

static int64_t shards_of(const struct hlm_strategy *strategy, enum hlm_group group)
{
    return strategy->zero > 0 ? hlm_dp_shards(strategy, group) : 1;
}

/* Behind the padding of the others. */
static void place_experts(struct hlm_arena *arena, const struct hlm_state *state,
                          struct hlm_state_stage *stage, struct hlm_state_param *params)
{
    const int64_t dense = stage->num_elements, first = stage->expert_first;
    const int64_t shards = shards_of(&state->strategy, HLM_GROUP_EDP);
    stage->num_elements = first;
    place_params(arena, stage, params, EXPERT);
    const int64_t padded = round_up(stage->num_elements - first, shards);
    stage->num_elements = padded > 0 ? stage->num_elements : dense;
    stage->num_padded = first + padded;
    stage->own_expert_count = padded / shards;
    stage->own_expert_first = first + (shards > 1 ? state->edp_rank * stage->own_expert_count : 0);
}

static void place_kinds(struct hlm_arena *arena, const struct hlm_state *state,
                        struct hlm_state_stage *stage, struct hlm_state_param *params)
{
    const struct hlm_strategy *strategy = &state->strategy;
    const int64_t position = state->coords.dp * (int64_t)strategy->cp + state->coords.cp;
    const int64_t shards = shards_of(strategy, HLM_GROUP_DP);
    place_params(arena, stage, params, SUMMED_OVER_TP);
    stage->num_sum_over_tp = stage->num_elements;
    place_params(arena, stage, params, DENSE);
    stage->expert_first = round_up(stage->num_elements, shards);
    stage->own_count = stage->expert_first / shards;
    stage->own_first = shards > 1 ? position * stage->own_count : 0;
    place_experts(arena, state, stage, params);
    stage->num_held_params = stage->num_held_grads = stage->num_padded;
}

static void build_params(struct hlm_arena *arena, const struct hlm_state *state,
                         struct hlm_state_stage *stage)
{
    int32_t total = 0;
    for (int32_t b = 0; b < stage->num_blocks; b++) {
        struct hlm_state_block *block = (struct hlm_state_block *)&stage->blocks[b];
        block->param_offset = HLM_ARENA_ARRAY(arena, int64_t, block->block->num_params);
        total += block->block->num_params;
    }
    struct hlm_state_param *params = HLM_ARENA_ARRAY(arena, struct hlm_state_param, total);
    if (hlm_shards_apply(&state->strategy)) {
        hlm_state_place_units(arena, state, stage, params);
    } else {
        place_kinds(arena, state, stage, params);
    }
    stage->params = params;
}

static void find_tied(struct hlm_state *state)
{
    state->tied_stage = -1;
    for (int32_t s = 0; s < state->num_stages; s++) {
        for (int32_t i = 0; i < state->stages[s].num_params; i++) {
            const struct hlm_state_param *param = &state->stages[s].params[i];
            if (strcmp(param->name, "embed.token") == 0) {
                state->tied_stage = s;
                state->tied_offset = param->offset;
                state->tied_elements = param->num_elements;
            }
        }
    }
}

/* --- the layout of a slot --- */

static void build_slot(const struct hlm_state *state, struct hlm_state_stage *stage)
{
    int64_t offset = 0;
    const int64_t boundary = hlm_state_align(state->boundary_bytes);
    for (int32_t b = 0; b < stage->num_blocks; b++) {
        struct hlm_state_block *block = (struct hlm_state_block *)&stage->blocks[b];
        const struct hlm_block_memory *memory = block->memory;
        block->input_offset = offset;
        block->stash_offset = block->input_offset + memory->input_bytes;
        block->held_offset = block->stash_offset + memory->stash_bytes;
        block->data_offset = block->held_offset + memory->held_bytes;
        offset = block->data_offset + hlm_block_data_bytes(block->block);
        block->input_grad_offset = -1;
        if (memory->input_grad_bytes > 0 || (b == 0 && !stage->first)) {
            block->input_grad_offset = offset;
            offset += memory->input_bytes;
        }
    }
    stage->output_offset = -1;
    if (!stage->last) {
        stage->output_offset = offset;
        offset += boundary;
    }
    stage->slot_bytes = offset;
}

static int64_t pass_bytes(const struct hlm_state_stage *stage)
{
    int64_t bytes = 0;
    for (int32_t b = 0; b < stage->num_blocks; b++) {
        const struct hlm_block_memory *memory = stage->blocks[b].memory;
        const int64_t passes[] = {memory->forward_transient_bytes,
                                  memory->backward_transient_bytes};
        for (int32_t i = 0; i < 2; i++) {
            const int64_t whole = passes[i] + stage->blocks[b].whole_bytes;
            bytes = whole > bytes ? whole : bytes;
        }
    }
    return bytes;
}

int64_t hlm_state_transient_bytes(const struct hlm_state *state)
{
    int64_t bytes = 0;
    for (int32_t s = 0; s < state->num_stages; s++) {
        const int64_t mine = pass_bytes(&state->stages[s]);
        bytes = mine > bytes ? mine : bytes;
    }
    return bytes;
}

/* --- the stages of the rank --- */

static enum hlm_status count_slots(struct hlm_arena *arena, const struct hlm_state *state,
                                   const int32_t **out, struct hlm_err *err)
{
    const struct hlm_strategy strategy =
        hlm_strategy_of_replica(&state->plan->strategy, state->coords.dp, NULL);
    const struct hlm_schedule *schedule = NULL;
    HLM_TRY(hlm_schedule_build(arena, strategy.schedule, strategy.pp, strategy.vpp,
                               (int32_t)strategy.num_microbatches, &schedule, err));
    *out = hlm_schedule_in_flights(arena, schedule);
    return HLM_OK;
}

static enum hlm_status build_stage(struct hlm_arena *arena, struct hlm_state *state,
                                   struct hlm_state_stage *stage, struct block_cache *cache,
                                   struct hlm_err *err)
{
    HLM_TRY(build_blocks(arena, state, stage, cache, err));
    build_params(arena, state, stage);
    state->boundary_bytes = stage->blocks[0].block->activation_rows *
                            state->plan->model.hidden_size * state->dtype_bytes;
    build_slot(state, stage);
    return HLM_OK;
}

enum hlm_status hlm_state_lay_out(struct hlm_arena *arena, struct hlm_state *state,
                                  struct hlm_err *err)
{
    const struct hlm_plan *plan = state->plan;
    const int32_t *num_slots = NULL;
    HLM_TRY(count_slots(arena, state, &num_slots, err));
    struct hlm_state_stage *stages =
        HLM_ARENA_ARRAY(arena, struct hlm_state_stage, plan->strategy.vpp);
    struct block_cache cache = {0};
    state->stages = stages;
    for (int32_t s = 0; s < plan->num_stages; s++) {
        if (hlm_layout_stage_rank(&plan->strategy, s) != state->coords.pp) {
            continue;
        }
        struct hlm_state_stage *stage = &stages[state->num_stages++];
        *stage = (struct hlm_state_stage){.stage = s,
                                          .first = s == 0,
                                          .last = s == plan->num_stages - 1,
                                          .num_slots = num_slots[s]};
        HLM_TRY(build_stage(arena, state, stage, &cache, err));
    }
    HLM_ASSERT(state->num_stages == plan->strategy.vpp);
    find_tied(state);
    hlm_state_link_units(state);
    return HLM_OK;
}
