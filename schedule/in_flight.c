/* What the order of actions alone says of memory. */
#include "schedule/action.h"

static bool frees(enum hlm_action_kind kind)
{
    return kind == HLM_ACTION_B || kind == HLM_ACTION_W;
}

static int32_t larger_int(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

const int32_t *hlm_schedule_in_flights(struct hlm_arena *arena, const struct hlm_schedule *schedule)
{
    int32_t *most = HLM_ARENA_ARRAY(arena, int32_t, schedule->num_stages);
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    int32_t *now = HLM_ARENA_ARRAY(arena, int32_t, schedule->num_stages);
    for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
        const struct hlm_rank_actions *list = &schedule->ranks[rank];
        for (int32_t i = 0; i < list->num_actions; i++) {
            const struct hlm_action action = list->actions[i];
            now[action.stage] += (action.kind == HLM_ACTION_F) - frees(action.kind);
            most[action.stage] = larger_int(most[action.stage], now[action.stage]);
        }
    }
    hlm_arena_rewind(arena, mark);
    return most;
}

/* The walk over the list of one rank. */
struct walk {
    const int64_t *amounts;
    int64_t held;
    int64_t *out;
    struct hlm_rank_memory *memory;
};

static int64_t amount_of(const struct walk *walk, int32_t stage)
{
    return walk->amounts == NULL ? 1 : walk->amounts[stage];
}

/* One action, or a pair with `freeing` as its backward. */
static void step(struct walk *walk, struct hlm_action taking, struct hlm_action freeing)
{
    struct hlm_rank_memory *memory = walk->memory;
    walk->held += taking.kind == HLM_ACTION_F ? amount_of(walk, taking.stage) : 0;
    walk->out[memory->num_actions++] = walk->held;
    memory->peak = walk->held > memory->peak ? walk->held : memory->peak;
    walk->held -= frees(freeing.kind) ? amount_of(walk, freeing.stage) : 0;
}

static void walk_rank(struct walk *walk, const struct hlm_rank_actions *list)
{
    for (int32_t i = 0; i < list->num_actions; i++) {
        const struct hlm_action action = list->actions[i];
        if (action.kind == HLM_ACTION_OVERLAP_F_B) {
            step(walk, list->actions[i + 1], list->actions[i + 2]);
            i += 2;
        } else if (hlm_action_is_compute(action.kind)) {
            step(walk, action, action);
        }
    }
}

const struct hlm_rank_memory *hlm_schedule_memory(struct hlm_arena *arena,
                                                  const struct hlm_schedule *schedule,
                                                  const int64_t *amounts)
{
    struct hlm_rank_memory *memory =
        HLM_ARENA_ARRAY(arena, struct hlm_rank_memory, schedule->num_ranks);
    for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
        const struct hlm_rank_actions *list = &schedule->ranks[rank];
        int64_t *held = HLM_ARENA_ARRAY(arena, int64_t, list->num_actions);
        struct walk walk = {.amounts = amounts, .out = held, .memory = &memory[rank]};
        memory[rank].held = held;
        walk_rank(&walk, list);
    }
    return memory;
}
