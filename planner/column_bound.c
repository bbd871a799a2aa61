#include "planner/column_internal.h"

#include <math.h>

#include "planner/ramp.h"

/* --- what the ranks of a pipeline have together --- */

/* Static bytes of the whole model on the ranks of one pipeline. */
static int64_t pipeline_static_bytes(const struct hlm_column *column)
{
    const struct hlm_pricer *pricer = &column->pricer;
    int64_t num_elements = 0, num_expert_elements = 0;
    int32_t counts[HLM_NUM_BLOCKS] = {[HLM_BLOCK_EMBEDDING] = 1, [HLM_BLOCK_HEAD] = 1};
    for (int32_t layer = 0; layer < column->placement.num_layers; layer++) {
        counts[hlm_layer_blocks[column->placement.layer_kinds[layer]]]++;
    }
    for (int32_t kind = 0; kind < HLM_NUM_BLOCKS; kind++) {
        const struct hlm_block_cost *block = &pricer->blocks[kind][HLM_RECOMPUTE_NONE];
        num_elements += counts[kind] * block->num_elements;
        num_expert_elements += counts[kind] * block->num_expert_elements;
    }
    int64_t bytes[HLM_NUM_MEMORY_KINDS] = {0}, sum = 0;
    hlm_memory_static(&column->strategy, num_elements, num_expert_elements, bytes);
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        sum += bytes[kind];
    }
    return sum;
}

static int64_t pipeline_limit_bytes(const struct hlm_column *column)
{
    return column->strategy.pp * (column->pricer.limit_bytes - column->pricer.fixed_bytes);
}

bool hlm_column_may_fit(const struct hlm_column *column)
{
    return column->is_mixed || pipeline_static_bytes(column) <= pipeline_limit_bytes(column);
}

/* Seconds of a microbatch in a block, and what it keeps of it. */
struct choice {
    double seconds, bytes;
};

static struct choice choice_of(const struct hlm_pricer *pricer, enum hlm_block_kind kind,
                               int32_t mode)
{
    const struct hlm_block_cost *block = &pricer->blocks[kind][mode];
    double backward_s = block->backward.seconds;
    if (hlm_schedule_splits(pricer->strategy->schedule)) {
        backward_s = fmin(backward_s, block->input_grad.seconds + block->weight_grad.seconds);
    }
    return (struct choice){block->forward.seconds + backward_s, (double)block->slot_bytes};
}

/* A way of one layer kind to a mode that keeps less: so much time for so many bytes. */
struct step {
    double seconds, bytes;
    int32_t count;
};

/* The convex hull of the modes of a kind, from the fastest on: where two steps together beat the
 * first per byte, the one in the middle is left out. Returns the number of steps. */
static int32_t hull_steps(const struct hlm_column *column, int32_t kind, int32_t count,
                          struct choice *fastest, struct step steps[HLM_NUM_RECOMPUTES])
{
    struct choice at = {INFINITY, 0.0};
    struct choice choices[HLM_NUM_RECOMPUTES];
    int32_t num = 0;
    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        choices[mode] = choice_of(&column->pricer, hlm_layer_blocks[kind], mode);
        const bool allowed = column->placement.modes[mode];
        if (allowed && (choices[mode].seconds < at.seconds ||
                        (choices[mode].seconds == at.seconds && choices[mode].bytes < at.bytes))) {
            at = choices[mode];
        }
    }
    *fastest = at;
    for (bool found = true; found;) {
        struct step best = {.seconds = INFINITY, .bytes = 1.0, .count = count};
        found = false;
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            const struct step step = {choices[mode].seconds - at.seconds,
                                      at.bytes - choices[mode].bytes, count};
            if (column->placement.modes[mode] && step.bytes > 0.0 &&
                step.seconds * best.bytes < best.seconds * step.bytes) {
                best = step;
                found = true;
            }
        }
        if (found) {
            at = (struct choice){at.seconds + best.seconds, at.bytes - best.bytes};
            steps[num++] = best;
        }
    }
    return num;
}

/* The hulls of all kinds: their steps, and what all layers take at their fastest. */
struct hulls {
    struct step steps[HLM_NUM_LAYER_KINDS * HLM_NUM_RECOMPUTES];
    int32_t num_steps;
    double work_s, longest_s, slots, least_slots, largest_slot;
};

static struct hulls find_hulls(const struct hlm_column *column)
{
    struct hulls hulls = {.num_steps = 0};
    int32_t counts[HLM_NUM_LAYER_KINDS] = {0};
    for (int32_t layer = 0; layer < column->placement.num_layers; layer++) {
        counts[column->placement.layer_kinds[layer]]++;
    }
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        struct choice fastest;
        if (counts[kind] == 0) {
            continue;
        }
        struct step *steps = &hulls.steps[hulls.num_steps];
        const int32_t num = hull_steps(column, kind, counts[kind], &fastest, steps);
        double least = fastest.bytes;
        for (int32_t i = 0; i < num; i++) {
            least -= steps[i].bytes;
        }
        hulls.num_steps += num;
        hulls.work_s += counts[kind] * fastest.seconds;
        hulls.longest_s = fmax(hulls.longest_s, fastest.seconds);
        hulls.slots += counts[kind] * fastest.bytes;
        hulls.least_slots += counts[kind] * least;
        hulls.largest_slot = fmax(hulls.largest_slot, fastest.bytes);
    }
    return hulls;
}

/* Seconds that the cheapest steps take which free so many bytes, `held` times what each saves. */
static double free_bytes_s(struct hulls *hulls, double held, double excess)
{
    double seconds = 0.0;
    while (excess > 0.0) {
        struct step *best = NULL;
        for (int32_t i = 0; i < hulls->num_steps; i++) {
            struct step *step = &hulls->steps[i];
            if (step->count > 0 &&
                (best == NULL || step->seconds * best->bytes < best->seconds * step->bytes)) {
                best = step;
            }
        }
        if (best == NULL) {
            return INFINITY;
        }
        const double most = held * best->count * best->bytes;
        seconds += fmin(1.0, excess / most) * best->count * best->seconds;
        excess -= most;
        best->count = 0;
    }
    return seconds;
}

/* Seconds of what has to be passed of a block on the way to another rank, and back from it. */
static double pass_s(const struct hlm_pricer *pricer, enum hlm_block_kind kind, int32_t mode)
{
    return hlm_schedule_splits(pricer->strategy->schedule)
               ? pricer->blocks[kind][mode].forward.seconds
               : choice_of(pricer, kind, mode).seconds;
}

static double least_pass_s(const struct hlm_column *column)
{
    double least_s = INFINITY;
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            if (column->pricer.has_kind[hlm_layer_blocks[kind]] && column->placement.modes[mode]) {
                least_s = fmin(least_s, pass_s(&column->pricer, hlm_layer_blocks[kind], mode));
            }
        }
    }
    return least_s;
}

double hlm_column_memory_bound(struct hlm_pricer_cache *cache, const struct hlm_column *column)
{
    if (column->is_mixed) {
        return hlm_column_capacity_bound(cache, column);
    }
    const struct hlm_pricer *pricer = &column->pricer;
    const struct hlm_cached_schedule *schedule = hlm_cache_schedule(cache, &column->strategy);
    struct hulls hulls = find_hulls(column);
    const double room = (double)(pipeline_limit_bytes(column) - pipeline_static_bytes(column)) +
                        schedule->short_held * hulls.largest_slot;
    if (schedule->mean_held * hulls.least_slots > room) {
        return INFINITY;
    }
    const struct hlm_strategy *strategy = &column->strategy;
    const double excess = schedule->mean_held * hulls.slots - room;
    const struct hlm_ramp ramp = {
        .num_ranks = strategy->pp,
        .num_chunks = strategy->vpp,
        .num_microbatches = strategy->num_microbatches,
        .splits_backward = hlm_schedule_splits(strategy->schedule),
        .head_is_first = hlm_layout_stage_rank(strategy, hlm_column_num_stages(column) - 1) == 0,
        .layers_s = hulls.work_s,
        .more_s = free_bytes_s(&hulls, schedule->most_held, excess),
        .longest_s = hulls.longest_s,
        .least_pass_s = least_pass_s(column),
        .first_s = choice_of(pricer, HLM_BLOCK_EMBEDDING, HLM_RECOMPUTE_NONE).seconds,
        .first_pass_s = pass_s(pricer, HLM_BLOCK_EMBEDDING, HLM_RECOMPUTE_NONE),
        .last_s = choice_of(pricer, HLM_BLOCK_HEAD, HLM_RECOMPUTE_NONE).seconds};
    return hlm_ramp_bound_s(&ramp) + hlm_stage_sync_s(pricer);
}

/* --- what the ranks of a mixed column can take --- */

/* Layers of a rank, whatever stage it is. */
struct rank_room {
    double layer_s, base_s; /* least seconds of a microbatch: a layer; embedding and head */
    double most;            /* layers whose states and slots fit */
};

static double static_bytes_of(const struct hlm_pricer *pricer, int64_t num_elements,
                              int64_t num_expert_elements)
{
    int64_t bytes[HLM_NUM_MEMORY_KINDS] = {0};
    double sum = 0.0;
    hlm_memory_static(pricer->strategy, num_elements, num_expert_elements, bytes);
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        sum += (double)bytes[kind];
    }
    return sum;
}

/* Bytes of a layer at the least: its share of the states of many, as slabs are padded, and the
 * least slots that microbatches in flight leave. */
static double layer_bytes(const struct hlm_column *column, const struct hlm_pricer *pricer,
                          int32_t kind, double in_flight)
{
    enum { MANY = 1000 };
    const struct hlm_block_cost *blocks = pricer->blocks[hlm_layer_blocks[kind]];
    const double states = static_bytes_of(pricer, MANY * blocks[0].num_elements,
                                          MANY * blocks[0].num_expert_elements) -
                          static_bytes_of(pricer, 0, 0);
    double slot = INFINITY;
    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        if (column->placement.modes[mode]) {
            slot = fmin(slot, (double)blocks[mode].slot_bytes);
        }
    }
    return states / MANY * (1.0 - 1e-4) + in_flight * slot;
}

static double least_held(const struct hlm_rank_held *held)
{
    double most = 0.0;
    for (int32_t row = 0; row < held->num_rows; row++) {
        most = fmax(most, held->counts[row * held->num_chunks]);
    }
    return most;
}

static struct rank_room room_of(const struct hlm_pricer_cache *cache,
                                const struct hlm_column *column, const struct hlm_rank_held *held,
                                int32_t pp)
{
    const struct hlm_pricer *pricer = column->pricers[pp];
    struct rank_room room = {.layer_s = INFINITY};
    double bytes = INFINITY;
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        if (pricer->has_kind[hlm_layer_blocks[kind]]) {
            const struct hlm_least_block least =
                hlm_least_block_of(cache, pricer, hlm_layer_blocks[kind], true);
            room.layer_s = fmin(room.layer_s, least.work_s);
            bytes = fmin(bytes, layer_bytes(column, pricer, kind, least_held(held)));
        }
    }
    if (pp == 0) {
        room.base_s += hlm_least_block_of(cache, pricer, HLM_BLOCK_EMBEDDING, false).work_s;
    }
    if (pp == column->strategy.pp - 1) {
        room.base_s += hlm_least_block_of(cache, pricer, HLM_BLOCK_HEAD, false).work_s;
    }
    room.most = floor((double)(pricer->limit_bytes - pricer->fixed_bytes) / bytes);
    return room;
}

static double layers_of(const struct rank_room *rooms, int32_t num_ranks, double seconds)
{
    double layers = 0.0;
    for (int32_t r = 0; r < num_ranks; r++) {
        const double left_s = fmax(0.0, seconds - rooms[r].base_s);
        layers += fmin(rooms[r].most, hlm_layers_within(1.0, rooms[r].layer_s, left_s));
    }
    return layers;
}

double hlm_column_capacity_bound(struct hlm_pricer_cache *cache, const struct hlm_column *column)
{
    static const double precision = 1e-4;
    const int32_t p = column->strategy.pp;
    const double num_layers = column->placement.num_layers;
    HLM_ASSERT(column->strategy.vpp == 1);
    struct hlm_arena *scratch = hlm_arena_new();
    const struct hlm_rank_held *held = hlm_cache_schedule(cache, &column->strategy)->held;
    struct rank_room *rooms = HLM_ARENA_ARRAY(scratch, struct rank_room, p);
    double low_s = 0.0, high_s = 0.0;
    for (int32_t pp = 0; pp < p; pp++) {
        const bool as_before = pp > 1 && pp + 1 < p &&
                               column->pricers[pp] == column->pricers[pp - 1] &&
                               least_held(&held[pp]) == least_held(&held[pp - 1]);
        rooms[pp] = as_before ? rooms[pp - 1] : room_of(cache, column, &held[pp], pp);
        high_s = fmax(high_s, rooms[pp].base_s + (num_layers + 1.0) * rooms[pp].layer_s);
    }
    if (layers_of(rooms, p, high_s) < num_layers) {
        low_s = INFINITY;
    }
    while (isfinite(low_s) && high_s - low_s > precision * high_s) {
        const double middle_s = 0.5 * (low_s + high_s);
        *(layers_of(rooms, p, middle_s) < num_layers ? &low_s : &high_s) = middle_s;
    }
    hlm_arena_free(scratch);
    return (double)column->strategy.num_microbatches * low_s + hlm_stage_sync_s(&column->pricer);
}
