/* From ZeRO-2 on: units of parameters, of which this rank has shards. */
#include "exec/runner/state_internal.h"

/* --- placing --- */

/* Those of one unit that are summed over tp, or the others. */
static void place_unit_part(struct hlm_arena *arena, const struct hlm_state *state,
                            struct hlm_state_stage *stage, struct hlm_state_param *params,
                            int32_t block, enum hlm_shard_kind kind, bool summed)
{
    const struct hlm_block *list = stage->blocks[block].block;
    for (int32_t p = 0; p < list->num_params; p++) {
        if (list->params[p].sum_over_tp == summed &&
            hlm_shard_of_param(list, &state->strategy, state->plan->model.tied_embeddings, p) ==
                kind) {
            hlm_state_place_param(arena, stage, params, block, p);
        }
    }
}

static void place_unit(struct hlm_arena *arena, const struct hlm_state *state,
                       struct hlm_state_stage *stage, struct hlm_state_param *params, int32_t block,
                       enum hlm_shard_kind kind)
{
    const struct hlm_strategy *strategy = &state->strategy;
    const struct hlm_shard_unit *what = &stage->blocks[block].shards->units[kind];
    const int64_t position = kind == HLM_SHARD_EXPERT
                                 ? state->edp_rank
                                 : state->coords.dp * (int64_t)strategy->cp + state->coords.cp;
    const int64_t first = stage->num_padded;
    stage->num_elements = first;
    place_unit_part(arena, state, stage, params, block, kind, true);
    place_unit_part(arena, state, stage, params, block, kind, false);
    HLM_ASSERT(stage->num_elements == first + what->num_elements);
    struct hlm_state_unit *units = (struct hlm_state_unit *)stage->units;
    units[stage->num_units++] =
        (struct hlm_state_unit){.stage = stage,
                                .group = what->group,
                                .first = first,
                                .num_padded = what->num_padded,
                                .num_sum_over_tp = what->num_sum_over_tp,
                                .own_first = first + position * what->num_own,
                                .own_count = what->num_own,
                                .shard = stage->own_count};
    stage->num_padded += what->num_padded;
    stage->own_count += what->num_own;
}

static bool has_own(const struct hlm_block_shards *shards, int32_t kind)
{
    return shards->units[kind].num_elements > 0 &&
           !(kind == HLM_SHARD_TABLE && shards->borrows_table);
}

void hlm_state_place_units(struct hlm_arena *arena, const struct hlm_state *state,
                           struct hlm_state_stage *stage, struct hlm_state_param *params)
{
    const struct hlm_strategy *strategy = &state->strategy;
    stage->units = HLM_ARENA_ARRAY(arena, struct hlm_state_unit,
                                   stage->num_blocks * (int64_t)HLM_NUM_SHARD_KINDS);
    for (int32_t b = 0; b < stage->num_blocks; b++) {
        struct hlm_state_block *block = (struct hlm_state_block *)&stage->blocks[b];
        struct hlm_block_shards *shards = HLM_ARENA_NEW(arena, struct hlm_block_shards);
        hlm_block_shards(block->block, strategy, state->plan->model.tied_embeddings, shards);
        block->shards = shards;
        for (int32_t kind = 0; kind < HLM_NUM_SHARD_KINDS; kind++) {
            if (has_own(shards, kind)) {
                block->units[kind] = &stage->units[stage->num_units];
                place_unit(arena, state, stage, params, b, (enum hlm_shard_kind)kind);
            }
        }
    }
    stage->expert_first = stage->num_padded;
    stage->num_held_params = strategy->zero >= 3 ? stage->own_count : stage->num_padded;
    stage->num_held_grads = stage->own_count;
}

static void link_block(const struct hlm_state *state, struct hlm_state_block *block)
{
    const struct hlm_block_memory *memory = block->memory;
    const struct hlm_shards_whole whole = hlm_shards_whole(block->shards, &state->strategy);
    int64_t first = 0;
    if (block->shards->borrows_table) {
        HLM_ASSERT(state->tied_stage >= 0);
        block->units[HLM_SHARD_TABLE] =
            hlm_state_find_unit(&state->stages[state->tied_stage], state->tied_offset);
    }
    for (int32_t kind = 0; kind < HLM_NUM_SHARD_KINDS; kind++) {
        block->whole_first[kind] = first;
        first += block->shards->units[kind].num_padded;
    }
    block->whole_params_offset = memory->forward_transient_bytes > memory->backward_transient_bytes
                                     ? memory->forward_transient_bytes
                                     : memory->backward_transient_bytes;
    block->whole_grads_offset = block->whole_params_offset + whole.params_bytes;
    block->whole_bytes = whole.params_bytes + whole.grads_bytes;
}

void hlm_state_link_units(const struct hlm_state *state)
{
    for (int32_t s = 0; s < state->num_stages; s++) {
        const struct hlm_state_stage *stage = &state->stages[s];
        for (int32_t b = 0; b < stage->num_blocks && stage->blocks[b].shards != NULL; b++) {
            link_block(state, (struct hlm_state_block *)&stage->blocks[b]);
        }
    }
}

/* --- finding --- */

const struct hlm_state_unit *hlm_state_find_unit(const struct hlm_state_stage *stage,
                                                 int64_t element)
{
    int32_t low = 0, high = stage->num_units;
    while (low < high) { /* the last unit that begins at the element or before it */
        const int32_t middle = low + (high - low) / 2;
        if (stage->units[middle].first <= element) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low > 0 ? &stage->units[low - 1] : NULL;
}

int32_t hlm_state_num_ranges(const struct hlm_state_stage *stage)
{
    return stage->num_units > 0 ? stage->num_units : 2;
}

int64_t hlm_state_range(const struct hlm_state_stage *stage, int32_t index, int64_t *first)
{
    if (stage->num_units > 0) {
        *first = stage->units[index].own_first;
        return stage->units[index].own_count;
    }
    *first = index == 0 ? stage->own_first : stage->own_expert_first;
    return index == 0 ? stage->own_count : stage->own_expert_count;
}

float *hlm_state_grad_address(const struct hlm_state_stage *stage, int64_t first)
{
    return stage->grads_slab + (stage->num_units > 0 ? hlm_state_moment(stage, first) : first);
}

char *hlm_state_whole_params(const struct hlm_state *state, const struct hlm_state_block *block,
                             enum hlm_shard_kind kind)
{
    return state->transient + block->whole_params_offset +
           block->whole_first[kind] * state->dtype_bytes;
}

float *hlm_state_whole_grads(const struct hlm_state *state, const struct hlm_state_block *block,
                             enum hlm_shard_kind kind)
{
    return (float *)(void *)(state->transient + block->whole_grads_offset) +
           block->whole_first[kind];
}
