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

/* The rows of one rank while they are found. */
struct rows {
    int32_t num_chunks, num_rows, capacity;
    int32_t *counts;
    int32_t last; /* the row that the last moment was found in: orders repeat themselves */
};

static bool covers(const struct rows *rows, int32_t row, const int32_t *now)
{
    const int32_t *counts = &rows->counts[(size_t)row * (size_t)rows->num_chunks];
    for (int32_t c = 0; c < rows->num_chunks; c++) {
        if (counts[c] < now[c]) {
            return false;
        }
    }
    return true;
}

static bool is_covered(struct rows *rows, const int32_t *now)
{
    for (int32_t i = 0; i < rows->num_rows; i++) {
        const int32_t row = (rows->last + 1 + i) % rows->num_rows;
        if (covers(rows, row, now)) {
            rows->last = row;
            return true;
        }
    }
    return false;
}

static bool is_covered_by(const struct rows *rows, int32_t row, const int32_t *now)
{
    const int32_t *counts = &rows->counts[(size_t)row * (size_t)rows->num_chunks];
    for (int32_t c = 0; c < rows->num_chunks; c++) {
        if (counts[c] > now[c]) {
            return false;
        }
    }
    return true;
}

static void copy_row(const struct rows *rows, int32_t to, const int32_t *counts)
{
    for (int32_t c = 0; c < rows->num_chunks; c++) {
        rows->counts[(size_t)to * (size_t)rows->num_chunks + (size_t)c] = counts[c];
    }
}

/* Adds what is held now, unless a row has as much; rows that have no more go. */
static void add_row(struct hlm_arena *arena, struct rows *rows, const int32_t *now)
{
    if (rows->num_rows > 0 && is_covered(rows, now)) {
        return;
    }
    int32_t num_kept = 0;
    for (int32_t row = 0; row < rows->num_rows; row++) {
        if (!is_covered_by(rows, row, now)) {
            copy_row(rows, num_kept++, &rows->counts[(size_t)row * (size_t)rows->num_chunks]);
        }
    }
    rows->num_rows = num_kept;
    if (rows->num_rows == rows->capacity) {
        rows->capacity = rows->capacity == 0 ? 4 : 2 * rows->capacity;
        int32_t *larger =
            HLM_ARENA_ARRAY(arena, int32_t, (size_t)rows->capacity * (size_t)rows->num_chunks);
        for (int32_t i = 0; i < rows->num_rows * rows->num_chunks; i++) {
            larger[i] = rows->counts[i];
        }
        rows->counts = larger;
    }
    rows->last = rows->num_rows;
    copy_row(rows, rows->num_rows++, now);
}

static void find_rows(struct hlm_arena *arena, const struct hlm_rank_actions *list,
                      const int32_t *chunk_of, struct rows *rows)
{
    int32_t *now = HLM_ARENA_ARRAY(arena, int32_t, rows->num_chunks);
    bool grew = false;
    for (int32_t i = 0; i < list->num_actions; i++) {
        const struct hlm_action action = list->actions[i];
        /* A maximum stands in front of what frees behind something that took. */
        if (frees(action.kind) && grew) {
            add_row(arena, rows, now);
            grew = false;
        }
        if (hlm_action_is_compute(action.kind)) {
            now[chunk_of[action.stage]] += (action.kind == HLM_ACTION_F) - frees(action.kind);
            grew = grew || action.kind == HLM_ACTION_F;
        }
    }
}

/* The stages of all ranks, without rows; chunk_of [num_stages]: the place of each among those of
 * its rank. */
static struct hlm_rank_held *list_stages(struct hlm_arena *arena,
                                         const struct hlm_schedule *schedule, int32_t *chunk_of)
{
    struct hlm_rank_held *held = HLM_ARENA_ARRAY(arena, struct hlm_rank_held, schedule->num_ranks);
    const int32_t most = schedule->num_stages / schedule->num_ranks;
    int32_t *stages = HLM_ARENA_ARRAY(arena, int32_t, schedule->num_stages);
    for (int32_t stage = 0; stage < schedule->num_stages; stage++) {
        const int32_t rank = schedule->stage_rank[stage];
        HLM_ASSERT(held[rank].num_chunks < most);
        chunk_of[stage] = held[rank].num_chunks++;
        held[rank].stages = &stages[rank * most];
        stages[rank * most + chunk_of[stage]] = stage;
    }
    return held;
}

const struct hlm_rank_held *hlm_schedule_held(struct hlm_arena *arena,
                                              const struct hlm_schedule *schedule)
{
    int32_t *chunk_of = HLM_ARENA_ARRAY(arena, int32_t, schedule->num_stages);
    struct hlm_rank_held *held = list_stages(arena, schedule, chunk_of);
    for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
        struct rows rows = {.num_chunks = held[rank].num_chunks};
        find_rows(arena, &schedule->ranks[rank], chunk_of, &rows);
        held[rank].counts = rows.counts;
        held[rank].num_rows = rows.num_rows;
    }
    return held;
}

const struct hlm_rank_held *hlm_schedule_held_apart(struct hlm_arena *arena,
                                                    const struct hlm_schedule *schedule)
{
    int32_t *chunk_of = HLM_ARENA_ARRAY(arena, int32_t, schedule->num_stages);
    struct hlm_rank_held *held = list_stages(arena, schedule, chunk_of);
    const int32_t *in_flights = hlm_schedule_in_flights(arena, schedule);
    for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
        int32_t *counts = HLM_ARENA_ARRAY(arena, int32_t, held[rank].num_chunks);
        for (int32_t c = 0; c < held[rank].num_chunks; c++) {
            counts[c] = in_flights[held[rank].stages[c]];
        }
        held[rank].counts = counts;
        held[rank].num_rows = 1;
    }
    return held;
}

int32_t hlm_rank_held_most(const struct hlm_rank_held *held, const int64_t *amounts)
{
    int32_t best = 0;
    int64_t most = -1;
    for (int32_t row = 0; row < held->num_rows; row++) {
        int64_t sum = 0;
        for (int32_t c = 0; c < held->num_chunks; c++) {
            sum += held->counts[row * held->num_chunks + c] * amounts[held->stages[c]];
        }
        if (sum > most) {
            most = sum;
            best = row;
        }
    }
    return best;
}
