/* Schedules that repeat a building block. Three passes, all in slots of one action:
 *
 * 1. Every rank starts its block of microbatch k in slot 6 k; weight gradients fill the slots
 *    between, oldest first. The peak of activations that results is the schedule's memory.
 * 2. In slot order, what runs before the block of microbatch 0 ends on rank 0, and what runs behind
 *    the last forward that enters the pipeline, moves to the earliest free slot behind its inputs
 *    in which no rank holds more than that peak. The middle stays: there the block is the order
 *    that keeps both the memory and the full speed.
 * 3. Behind its last forward a rank can't run out of memory: its weight gradients fill the slots in
 *    which no input gradient is ready.
 */
#include "schedule/builders.h"

enum { F0, F1, I1, I0, W, NUM_TYPES, PERIOD = 6, EMPTY = -1 };

struct item {
    int8_t type;        /* EMPTY: the slot is free */
    int32_t microbatch; /* W: which of the rank's input gradients, in the order of their slots */
};

struct pattern {
    int32_t num_ranks, num_microbatches, num_slots;
    struct item **items;        /* [num_ranks][num_slots] */
    int32_t **held;             /* [num_ranks][num_slots]: activations while the slot runs */
    int32_t **slots[NUM_TYPES]; /* [type][num_ranks][microbatch]: where it runs */
    int32_t **gradient_slots;   /* [num_ranks][2 num_microbatches]: of input gradients, in order */
    int32_t limit;
};

static int32_t count_of(const struct pattern *pattern, int type)
{
    return type == W ? 2 * pattern->num_microbatches : pattern->num_microbatches;
}

static int32_t **new_rows(struct hlm_arena *arena, int32_t num_rows, int32_t row_size)
{
    int32_t **rows = HLM_ARENA_ARRAY(arena, int32_t *, num_rows);
    for (int32_t i = 0; i < num_rows; i++) {
        rows[i] = HLM_ARENA_ARRAY(arena, int32_t, row_size);
    }
    return rows;
}

static void put(struct pattern *pattern, int32_t rank, int type, int32_t microbatch, int32_t slot)
{
    HLM_ASSERT(pattern->items[rank][slot].type == EMPTY);
    pattern->items[rank][slot] = (struct item){(int8_t)type, microbatch};
    pattern->slots[type][rank][microbatch] = slot;
}

/* ---- pass 1 ---- */

static void fill_rank(struct pattern *pattern, int32_t rank, const struct hlm_v_block *block)
{
    for (int32_t slot = 0; slot < pattern->num_slots; slot++) {
        pattern->items[rank][slot].type = EMPTY;
    }
    for (int type = F0; type <= I0; type++) {
        for (int32_t i = 0; i < pattern->num_microbatches; i++) {
            put(pattern, rank, type, i, block->slots[type] + PERIOD * i);
        }
    }
    int32_t held = 0, num_gradients = 0, num_weights = 0;
    for (int32_t slot = 0; slot < pattern->num_slots; slot++) {
        struct item *item = &pattern->items[rank][slot];
        if (item->type == EMPTY && num_weights < num_gradients) {
            put(pattern, rank, W, num_weights++, slot);
        } else if (item->type == I1 || item->type == I0) {
            num_gradients++;
        }
        held += item->type == F0 || item->type == F1;
        pattern->held[rank][slot] = held;
        pattern->limit = held > pattern->limit ? held : pattern->limit;
        held -= item->type == W;
    }
    HLM_ASSERT(num_weights == 2 * pattern->num_microbatches);
}

static void start(struct hlm_arena *arena, struct pattern *pattern,
                  struct hlm_v_block (*block_of)(int32_t num_ranks, int32_t rank))
{
    const int32_t num_ranks = pattern->num_ranks;
    int32_t last = 0;
    for (int32_t rank = 0; rank < num_ranks; rank++) {
        const int32_t end = block_of(num_ranks, rank).slots[I0];
        last = end > last ? end : last;
    }
    /* Behind the last input gradient, the weight gradients of at most two blocks a period before.
     */
    pattern->num_slots = last + PERIOD * pattern->num_microbatches + last + PERIOD;
    pattern->items = HLM_ARENA_ARRAY(arena, struct item *, num_ranks);
    pattern->held = new_rows(arena, num_ranks, pattern->num_slots);
    pattern->gradient_slots = new_rows(arena, num_ranks, 2 * pattern->num_microbatches);
    for (int type = F0; type < NUM_TYPES; type++) {
        pattern->slots[type] = new_rows(arena, num_ranks, count_of(pattern, type));
    }
    for (int32_t rank = 0; rank < num_ranks; rank++) {
        const struct hlm_v_block block = block_of(num_ranks, rank);
        pattern->items[rank] = HLM_ARENA_ARRAY(arena, struct item, pattern->num_slots);
        fill_rank(pattern, rank, &block);
    }
}

/* ---- pass 2 ---- */

static int32_t later(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* The neighbour whose action of the same type gives an action its input, EMPTY: none. */
static int32_t giver_of(const struct pattern *pattern, int32_t rank, int type)
{
    const int32_t giver = type == F0 || type == I1 ? rank - 1 : rank + 1;
    return type == W || giver == pattern->num_ranks ? EMPTY : giver;
}

/* The last slot of what an action needs: its input and the one before it of its type. */
static int32_t needed_slot(const struct pattern *pattern, int32_t rank, struct item item)
{
    const int32_t microbatch = item.microbatch;
    const int32_t giver = giver_of(pattern, rank, item.type);
    int32_t slot = EMPTY;
    if (microbatch > 0) {
        slot = pattern->slots[item.type][rank][microbatch - 1];
    }
    if (giver >= 0) {
        slot = later(slot, pattern->slots[item.type][giver][microbatch]);
    }
    if (item.type == W) {
        slot = later(slot, pattern->gradient_slots[rank][microbatch]);
    } else if (item.type > F0) {
        slot = later(slot, pattern->slots[item.type - 1][rank][microbatch]);
    }
    return slot;
}

/* The first slot, not before `from`, from which on up to `slot` there is room for one activation
 * more. */
static int32_t first_with_room(const struct pattern *pattern, int32_t rank, int32_t from,
                               int32_t slot)
{
    int32_t first = slot;
    while (first > from && pattern->held[rank][first - 1] < pattern->limit) {
        first--;
    }
    return first;
}

static void pull(struct pattern *pattern, int32_t rank, int32_t slot)
{
    struct item *items = pattern->items[rank];
    const struct item item = items[slot];
    const bool takes = item.type == F0 || item.type == F1;
    int32_t to = needed_slot(pattern, rank, item) + 1;
    to = takes ? first_with_room(pattern, rank, to, slot) : to;
    while (to < slot && items[to].type != EMPTY) {
        to++;
    }
    if (to >= slot) {
        return;
    }
    items[slot].type = EMPTY;
    put(pattern, rank, item.type, item.microbatch, to);
    /* A forward takes from its slot on, a weight gradient frees behind its slot. */
    for (int32_t i = to; i < slot; i++) {
        pattern->held[rank][i] += takes ? 1 : 0;
        pattern->held[rank][i + 1] -= item.type == W ? 1 : 0;
    }
}

static void pull_all(struct hlm_arena *arena, struct pattern *pattern)
{
    const int32_t first_end = pattern->slots[I0][0][0];
    const int32_t last_start = pattern->slots[F0][0][pattern->num_microbatches - 1];
    int32_t *num_gradients = HLM_ARENA_ARRAY(arena, int32_t, pattern->num_ranks);
    for (int32_t slot = 0; slot < pattern->num_slots; slot++) {
        for (int32_t rank = 0; rank < pattern->num_ranks; rank++) {
            const struct item item = pattern->items[rank][slot];
            if (item.type == EMPTY) {
                continue;
            }
            if (slot < first_end || slot >= last_start) {
                pull(pattern, rank, slot);
            }
            if (item.type == I1 || item.type == I0) {
                pattern->gradient_slots[rank][num_gradients[rank]++] =
                    pattern->slots[item.type][rank][item.microbatch];
            }
        }
    }
}

/* ---- pass 3 ---- */

struct queue {
    struct hlm_action *actions;
    int32_t next, count;
};

/* What a rank still has to run: the list up to its last forward, then input gradients in order and
 * weight gradients between them. */
struct rank_queues {
    struct queue fixed, gradients, weights;
};

struct squeeze {
    const struct hlm_schedule_shape *shape;
    struct rank_queues *ranks;
    int32_t *end[2]; /* [forward, gradient][stage * num_microbatches + microbatch], 0: not yet */
    struct hlm_action_writer *out;
};

static struct hlm_action action_of(const struct pattern *pattern, int32_t rank, struct item item,
                                   const struct hlm_action *gradients)
{
    const int32_t stages[2] = {rank, 2 * pattern->num_ranks - 1 - rank};
    if (item.type == W) {
        const struct hlm_action gradient = gradients[item.microbatch];
        return (struct hlm_action){HLM_ACTION_W, gradient.stage, gradient.microbatch};
    }
    const bool is_forward = item.type == F0 || item.type == F1;
    const int chunk = item.type == F1 || item.type == I1;
    return (struct hlm_action){is_forward ? HLM_ACTION_F : HLM_ACTION_I, stages[chunk],
                               item.microbatch};
}

static int32_t last_forward_slot(const struct pattern *pattern, int32_t rank)
{
    const int32_t last = pattern->num_microbatches - 1;
    return later(pattern->slots[F0][rank][last], pattern->slots[F1][rank][last]);
}

static void append(struct queue *queue, struct hlm_action action)
{
    queue->actions[queue->count++] = action;
}

static void fill_queues(struct hlm_arena *arena, const struct pattern *pattern, int32_t rank,
                        struct rank_queues *out)
{
    const int32_t num_microbatches = pattern->num_microbatches;
    struct hlm_action *gradients = HLM_ARENA_ARRAY(arena, struct hlm_action, 2 * num_microbatches);
    int32_t num_gradients = 0;
    out->fixed.actions = HLM_ARENA_ARRAY(arena, struct hlm_action, PERIOD * num_microbatches);
    out->gradients.actions = HLM_ARENA_ARRAY(arena, struct hlm_action, 2 * num_microbatches);
    out->weights.actions = HLM_ARENA_ARRAY(arena, struct hlm_action, 2 * num_microbatches);
    const int32_t last_forward = last_forward_slot(pattern, rank);
    for (int32_t slot = 0; slot < pattern->num_slots; slot++) {
        const struct item item = pattern->items[rank][slot];
        if (item.type == EMPTY) {
            continue;
        }
        const struct hlm_action action = action_of(pattern, rank, item, gradients);
        if (action.kind == HLM_ACTION_I) {
            gradients[num_gradients++] = action;
        }
        struct queue *behind = action.kind == HLM_ACTION_W ? &out->weights : &out->gradients;
        append(slot <= last_forward ? &out->fixed : behind, action);
    }
}

static int32_t *end_of(const struct squeeze *squeeze, bool forward, int32_t stage,
                       int32_t microbatch)
{
    return &squeeze->end[forward ? 0 : 1][stage * squeeze->shape->num_microbatches + microbatch];
}

/* The inputs of an action have ended at `now`; they end in time order, so 0 means not yet. */
static bool is_ready(const struct squeeze *squeeze, struct hlm_action action, int32_t now)
{
    if (action.kind == HLM_ACTION_W) {
        const int32_t end = *end_of(squeeze, false, action.stage, action.microbatch);
        return end > 0 && end <= now;
    }
    const bool forward = action.kind == HLM_ACTION_F;
    const int32_t giver = action.stage + (forward ? -1 : 1);
    if (giver < 0) {
        return true;
    }
    const bool is_turn = giver == 2 * squeeze->shape->num_ranks;
    const int32_t end = is_turn ? *end_of(squeeze, true, giver - 1, action.microbatch)
                                : *end_of(squeeze, forward, giver, action.microbatch);
    return end > 0 && end <= now;
}

static bool try_queue(struct squeeze *squeeze, int32_t rank, struct queue *queue, int32_t now)
{
    if (queue->next == queue->count || !is_ready(squeeze, queue->actions[queue->next], now)) {
        return false;
    }
    const struct hlm_action action = queue->actions[queue->next++];
    if (action.kind != HLM_ACTION_W) {
        *end_of(squeeze, action.kind == HLM_ACTION_F, action.stage, action.microbatch) = now + 1;
    }
    hlm_action_write(&squeeze->out[rank], action.kind, action.stage, action.microbatch);
    return true;
}

static int32_t run_slot(struct squeeze *squeeze, int32_t now)
{
    int32_t num_run = 0;
    for (int32_t rank = 0; rank < squeeze->shape->num_ranks; rank++) {
        struct rank_queues *queues = &squeeze->ranks[rank];
        if (queues->fixed.next < queues->fixed.count) {
            num_run += try_queue(squeeze, rank, &queues->fixed, now);
        } else {
            num_run += try_queue(squeeze, rank, &queues->gradients, now) ||
                       try_queue(squeeze, rank, &queues->weights, now);
        }
    }
    return num_run;
}

void hlm_schedule_fill_v_pattern(struct hlm_arena *scratch, const struct hlm_schedule_shape *shape,
                                 struct hlm_v_block (*block_of)(int32_t num_ranks, int32_t rank),
                                 struct hlm_action_writer *out)
{
    struct pattern pattern = {.num_ranks = shape->num_ranks,
                              .num_microbatches = shape->num_microbatches};
    start(scratch, &pattern, block_of);
    pull_all(scratch, &pattern);
    const int32_t num_ends = 2 * shape->num_ranks * shape->num_microbatches;
    struct squeeze squeeze = {
        .shape = shape,
        .ranks = HLM_ARENA_ARRAY(scratch, struct rank_queues, shape->num_ranks),
        .end = {HLM_ARENA_ARRAY(scratch, int32_t, num_ends),
                HLM_ARENA_ARRAY(scratch, int32_t, num_ends)},
        .out = out,
    };
    for (int32_t rank = 0; rank < shape->num_ranks; rank++) {
        fill_queues(scratch, &pattern, rank, &squeeze.ranks[rank]);
    }
    int32_t left = PERIOD * shape->num_ranks * shape->num_microbatches;
    for (int32_t now = 0; left > 0; now++) {
        HLM_ASSERT(now <= pattern.num_slots);
        left -= run_slot(&squeeze, now);
    }
}
