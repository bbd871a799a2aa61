/* placement: random placement problems, and their bound written out term by term, for the tests of
 * the planner. Nothing here calls the planner. */
#ifndef HLM_TESTS_SUPPORT_PLACEMENT_H
#define HLM_TESTS_SUPPORT_PLACEMENT_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/rng.h"
#include "planner/stage_pattern.h"
#include "schedule/simulate.h"

/* The seed of this run: SEED of the environment, else the given one. Printed, so that a failure can
 * be run again. */
static inline uint64_t placement_seed(uint64_t seed)
{
    const char *text = getenv("SEED");
    const uint64_t chosen = text != NULL ? strtoull(text, NULL, 10) : seed;
    printf("SEED=%llu\n", (unsigned long long)chosen);
    return chosen;
}

struct random_shape {
    int32_t max_stages, max_layers, max_microbatches;
    double max_transfer; /* of a layer's seconds */
    bool unequal;        /* every stage has its own prices */
    bool tight;          /* memory decides about recompute and counts */
};

/* What hold() works from. */
struct random_holding {
    int64_t bytes[HLM_NUM_LAYER_KINDS];
    double reduce_s[HLM_NUM_LAYER_KINDS], optimizer_s[HLM_NUM_LAYER_KINDS], wobble_s;
};

static inline void random_hold(const void *context, int32_t stage,
                               const int32_t counts[HLM_NUM_LAYER_KINDS],
                               struct hlm_stage_holding *out)
{
    const struct random_holding *holding = context;
    *out = (struct hlm_stage_holding){.static_bytes = 7 * (stage % 2)};
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        out->static_bytes += counts[kind] * holding->bytes[kind];
        out->reduce_s += counts[kind] * holding->reduce_s[kind];
        out->optimizer_s += counts[kind] * holding->optimizer_s[kind];
    }
    /* Collectives need not get slower with every byte. */
    out->reduce_s += (counts[0] + counts[1]) % 2 == 0 ? holding->wobble_s : 0.0;
}

static inline double random_between(struct hlm_rng *rng, double low, double high)
{
    return low + (high - low) * hlm_rng_next_uniform(rng);
}

static inline void random_prices(struct hlm_rng *rng, struct hlm_stage_prices *prices)
{
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        const double forward_s = random_between(rng, 0.5, 2.0);
        const double none_s = forward_s * random_between(rng, 1.2, 2.5);
        const double selective_s = none_s + random_between(rng, 0.0, 0.5) * forward_s;
        const double backward_s[HLM_NUM_RECOMPUTES] = {none_s, selective_s, none_s + forward_s};
        int64_t slot_bytes = hlm_rng_next_int(rng, 20, 60);
        prices->forward_s[kind] = forward_s;
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            prices->backward_s[kind][mode] = backward_s[mode];
            prices->slot_bytes[kind][mode] = slot_bytes;
            prices->transient_bytes[kind][mode] = hlm_rng_next_int(rng, 0, 40);
            slot_bytes -= hlm_rng_next_int(rng, 0, slot_bytes - 1);
        }
    }
}

static inline void random_stages(struct hlm_rng *rng, const struct random_shape *shape,
                                 const struct hlm_placement *placement,
                                 struct hlm_stage_prices *stages)
{
    const int32_t p = placement->num_stages;
    const int64_t loose = 1000000;
    const int64_t tight = hlm_rng_next_int(rng, 100, 1500);
    for (int32_t s = 0; s < p; s++) {
        if (s == 0 || shape->unequal) {
            random_prices(rng, &stages[s]);
        } else {
            stages[s] = stages[0];
        }
        const int32_t behind =
            p - s < placement->num_microbatches ? p - s : placement->num_microbatches;
        stages[s].in_flight =
            placement->schedule == HLM_SCHEDULE_GPIPE ? placement->num_microbatches : behind;
        stages[s].may_be_empty = s == 0 || s == p - 1;
        stages[s].base_forward_s = s == 0 || s == p - 1 ? random_between(rng, 0.0, 1.0) : 0.0;
        stages[s].base_backward_s = 2.0 * stages[s].base_forward_s;
        stages[s].base_slot_bytes = hlm_rng_next_int(rng, 0, 20);
        stages[s].base_transient_bytes = hlm_rng_next_int(rng, 0, 50);
        stages[s].limit_bytes = shape->tight ? tight : loose;
    }
}

static inline const struct hlm_placement *
random_placement(struct hlm_arena *arena, struct hlm_rng *rng, const struct random_shape *shape)
{
    struct hlm_placement *placement = HLM_ARENA_NEW(arena, struct hlm_placement);
    const int32_t p = (int32_t)hlm_rng_next_int(rng, 1, shape->max_stages);
    const int32_t fewest = p > 2 ? p - 2 : 1;
    placement->num_stages = p;
    placement->num_layers = (int32_t)hlm_rng_next_int(rng, fewest, shape->max_layers);
    placement->num_microbatches = (int32_t)hlm_rng_next_int(rng, 1, shape->max_microbatches);
    placement->schedule =
        p > 1 && hlm_rng_next_int(rng, 0, 3) == 0 ? HLM_SCHEDULE_GPIPE : HLM_SCHEDULE_1F1B;
    uint8_t *kinds = HLM_ARENA_ARRAY(arena, uint8_t, placement->num_layers);
    const int64_t mix = hlm_rng_next_int(rng, 0, 3); /* dense, moe, dense then moe, alternating */
    const int64_t turn = hlm_rng_next_int(rng, 0, placement->num_layers);
    for (int32_t i = 0; i < placement->num_layers; i++) {
        kinds[i] = (uint8_t)(mix < 2 ? mix : mix == 2 ? i >= turn : i % 2);
    }
    placement->layer_kinds = kinds;
    double *transfer_s = HLM_ARENA_ARRAY(arena, double, p);
    const double scale = random_between(rng, 0.0, shape->max_transfer);
    for (int32_t s = 0; s + 1 < p; s++) {
        transfer_s[s] = random_between(rng, 0.0, scale);
    }
    placement->transfer_s = transfer_s;
    placement->sync_s = random_between(rng, 0.0, 0.5);
    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        placement->modes[mode] = hlm_rng_next_int(rng, 0, 9) > 0;
    }
    placement->modes[hlm_rng_next_int(rng, 0, HLM_NUM_RECOMPUTES - 1)] = true;
    struct random_holding *holding = HLM_ARENA_NEW(arena, struct random_holding);
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        holding->bytes[kind] = hlm_rng_next_int(rng, 0, 100);
        holding->reduce_s[kind] = random_between(rng, 0.0, 2.0);
        holding->optimizer_s[kind] = random_between(rng, 0.0, 0.5);
    }
    holding->wobble_s = random_between(rng, 0.0, 0.3);
    placement->hold = random_hold;
    placement->context = holding;
    struct hlm_stage_prices *stages = HLM_ARENA_ARRAY(arena, struct hlm_stage_prices, p);
    random_stages(rng, shape, placement, stages);
    placement->stages = stages;
    return placement;
}

/* Times of the stages of one partition, [num_stages] each. */
struct stage_times {
    double *forward_s, *backward_s, *reduce_s, *optimizer_s;
};

static inline struct stage_times stage_times_new(struct hlm_arena *arena, int32_t num_stages)
{
    return (struct stage_times){.forward_s = HLM_ARENA_ARRAY(arena, double, num_stages),
                                .backward_s = HLM_ARENA_ARRAY(arena, double, num_stages),
                                .reduce_s = HLM_ARENA_ARRAY(arena, double, num_stages),
                                .optimizer_s = HLM_ARENA_ARRAY(arena, double, num_stages)};
}

static inline double simulated_s(struct hlm_arena *arena, const struct hlm_placement *placement,
                                 const struct stage_times *times, bool both_sides)
{
    const int32_t p = placement->num_stages;
    bool *both = HLM_ARENA_ARRAY(arena, bool, p);
    double *back = HLM_ARENA_ARRAY(arena, double, p);
    for (int32_t s = 0; s < p; s++) {
        both[s] = both_sides;
        back[s] = s > 0 ? placement->transfer_s[s - 1] : 0.0;
    }
    const struct hlm_sim_costs costs = {.forward_s = times->forward_s,
                                        .backward_s = times->backward_s,
                                        .send_forward_s = placement->transfer_s,
                                        .send_backward_s = back,
                                        .needs_both_sides = both,
                                        .reduce_s = times->reduce_s,
                                        .optimizer_s = times->optimizer_s,
                                        .sync_s = placement->sync_s};
    return hlm_simulate_step(arena, placement->schedule, p, placement->num_microbatches, &costs);
}

/* V(s, l) of planner/bound.h. */
static inline double round_trip_s(const struct hlm_placement *placement,
                                  const struct stage_times *times, int32_t first, int32_t last)
{
    double seconds = 0.0;
    for (int32_t u = first; u <= last; u++) {
        seconds += times->forward_s[u] + times->backward_s[u] +
                   (u < last ? 2.0 * placement->transfer_s[u] : 0.0);
    }
    return seconds;
}

static inline double written_row_s(const struct hlm_placement *placement,
                                   const struct stage_times *times, int32_t s)
{
    const int32_t p = placement->num_stages, m = placement->num_microbatches, w = p - s;
    const int32_t k = m < w ? m : w;
    const double own_s = times->forward_s[s] + times->backward_s[s];
    const double loop_s = round_trip_s(placement, times, s, p - 1);
    double row_s = fmax(m * own_s, loop_s + (m - 1) * own_s - (k - 1) * times->forward_s[s]);
    if (m - 1 < w) {
        return row_s;
    }
    const int32_t steps = (m - 1) / w;
    row_s = fmax(row_s, loop_s + steps * loop_s + (m - 1 - steps * w) * own_s);
    const int32_t lasts[] = {s, s + 1, p - 2};
    for (int32_t i = 0; i < 3; i++) {
        if (lasts[i] >= s && lasts[i] < p - 1) {
            const int32_t n = lasts[i] - s + 1, times_n = (m - 1 - w) / n;
            row_s =
                fmax(row_s, 2.0 * loop_s + times_n * round_trip_s(placement, times, s, lasts[i]) +
                                (m - 1 - w - times_n * n) * own_s);
        }
    }
    return row_s;
}

/* The bound of planner/bound.h for 1f1b: every pair of a stage v whose reduction counts and a stage
 * s >= v whose row counts. */
static inline double written_1f1b_s(const struct hlm_placement *placement,
                                    const struct stage_times *times)
{
    double step_s = 0.0;
    for (int32_t v = 0; v < placement->num_stages; v++) {
        double down_s = 0.0;
        for (int32_t u = 0; u < v; u++) {
            down_s += times->forward_s[u] + placement->transfer_s[u];
        }
        for (int32_t s = v; s < placement->num_stages; s++) {
            double between_s = 0.0;
            for (int32_t u = v; u < s; u++) {
                between_s +=
                    times->forward_s[u] + times->backward_s[u] + 2.0 * placement->transfer_s[u];
            }
            step_s = fmax(step_s, down_s + between_s + written_row_s(placement, times, s) +
                                      times->reduce_s[v]);
        }
    }
    return step_s;
}

static inline double written_gpipe_s(const struct hlm_placement *placement,
                                     const struct stage_times *times)
{
    const int32_t p = placement->num_stages, rest = placement->num_microbatches - 1;
    double forwards_s = 0.0, forward_max_s = 0.0, tail_s = 0.0;
    for (int32_t u = 0; u < p; u++) {
        forwards_s += times->forward_s[u] + (u + 1 < p ? placement->transfer_s[u] : 0.0);
        forward_max_s = fmax(forward_max_s, times->forward_s[u]);
    }
    for (int32_t v = 0; v < p; v++) {
        double backwards_s = 0.0, backward_max_s = 0.0;
        for (int32_t u = v; u < p; u++) {
            backwards_s += times->backward_s[u] + (u + 1 < p ? placement->transfer_s[u] : 0.0);
            backward_max_s = fmax(backward_max_s, times->backward_s[u]);
        }
        tail_s = fmax(tail_s, backwards_s + rest * backward_max_s + times->reduce_s[v]);
    }
    return forwards_s + rest * forward_max_s + tail_s;
}

static inline double written_bound_s(const struct hlm_placement *placement,
                                     const struct stage_times *times)
{
    double optimizer_s = 0.0;
    for (int32_t u = 0; u < placement->num_stages; u++) {
        optimizer_s = fmax(optimizer_s, times->optimizer_s[u]);
    }
    return (placement->schedule == HLM_SCHEDULE_GPIPE ? written_gpipe_s(placement, times)
                                                      : written_1f1b_s(placement, times)) +
           placement->sync_s + optimizer_s;
}

/* --- brute force --- */

/* Sums over the layers [begin, end) one by one: the first `full` recompute fully, the next
 * `selective` selectively. INFINITY: does not fit. */
static inline double brute_backward_s(const struct hlm_placement *placement, int32_t stage,
                                      int64_t static_bytes, int32_t begin, int32_t end,
                                      int32_t full, int32_t selective)
{
    const struct hlm_stage_prices *prices = &placement->stages[stage];
    int64_t slot = prices->base_slot_bytes, transient = prices->base_transient_bytes;
    double backward_s = prices->base_backward_s;
    for (int32_t i = begin; i < end; i++) {
        const int32_t kind = placement->layer_kinds[i];
        const int32_t mode = i - begin < full               ? HLM_RECOMPUTE_FULL
                             : i - begin < full + selective ? HLM_RECOMPUTE_SELECTIVE
                                                            : HLM_RECOMPUTE_NONE;
        if (!placement->modes[mode]) {
            return INFINITY;
        }
        backward_s += prices->backward_s[kind][mode];
        slot += prices->slot_bytes[kind][mode];
        if (prices->transient_bytes[kind][mode] > transient) {
            transient = prices->transient_bytes[kind][mode];
        }
    }
    const int64_t bytes = static_bytes + prices->in_flight * slot + transient;
    return bytes <= prices->limit_bytes ? backward_s : (double)INFINITY;
}

/* Fills the times of one stage with the least backward of all choices; false: nothing fits. */
static inline bool brute_stage(const struct hlm_placement *placement, int32_t stage, int32_t begin,
                               int32_t end, const struct stage_times *times)
{
    const struct hlm_stage_prices *prices = &placement->stages[stage];
    if (begin == end && !prices->may_be_empty) {
        return false;
    }
    int32_t counts[HLM_NUM_LAYER_KINDS] = {0, 0};
    times->forward_s[stage] = prices->base_forward_s;
    for (int32_t i = begin; i < end; i++) {
        counts[placement->layer_kinds[i]]++;
        times->forward_s[stage] += prices->forward_s[placement->layer_kinds[i]];
    }
    struct hlm_stage_holding holding;
    placement->hold(placement->context, stage, counts, &holding);
    times->backward_s[stage] = INFINITY;
    for (int32_t full = 0; full <= end - begin; full++) {
        for (int32_t selective = 0; full + selective <= end - begin; selective++) {
            times->backward_s[stage] = fmin(times->backward_s[stage],
                                            brute_backward_s(placement, stage, holding.static_bytes,
                                                             begin, end, full, selective));
        }
    }
    times->reduce_s[stage] = holding.reduce_s;
    times->optimizer_s[stage] = holding.optimizer_s;
    return isfinite(times->backward_s[stage]);
}

/* Calls visit for every partition that fits, with its times. */
typedef void brute_visit(void *context, const struct hlm_placement *placement, const int32_t *ends,
                         const struct stage_times *times);
static inline void brute_partitions(const struct hlm_placement *placement, int32_t stage,
                                    int32_t begin, int32_t *ends, const struct stage_times *times,
                                    brute_visit *visit, void *context)
{
    const bool is_last = stage == placement->num_stages - 1;
    for (int32_t end = is_last ? placement->num_layers : begin; end <= placement->num_layers;
         end++) {
        if (!brute_stage(placement, stage, begin, end, times)) {
            continue;
        }
        ends[stage] = end;
        if (is_last) {
            visit(context, placement, ends, times);
        } else {
            brute_partitions(placement, stage + 1, end, ends, times, visit, context);
        }
    }
}

#endif
