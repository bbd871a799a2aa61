#include "planner/stage_pattern.h"

#include <math.h>

struct hlm_pattern_set {
    struct hlm_arena *arena;
    const struct hlm_placement *placement;
    const int32_t *before; /* [num_layers + 1]: layers of kind 1 in front of each */
    bool is_uniform;
    /* [num_stages][num_layers + 1]: by begin (uniform: 0), patterns by number of layers; made when
     * asked */
    const struct hlm_pattern ***rows;
};

/* What stands in a row for a stretch that does not fit. */
static const struct hlm_pattern no_pattern;

struct hlm_pattern_set *hlm_pattern_set_new(struct hlm_arena *arena,
                                            const struct hlm_placement *placement)
{
    struct hlm_pattern_set *set = HLM_ARENA_NEW(arena, struct hlm_pattern_set);
    const int32_t num_layers = placement->num_layers;
    int32_t *before = HLM_ARENA_ARRAY(arena, int32_t, num_layers + 1);
    for (int32_t i = 0; i < num_layers; i++) {
        HLM_ASSERT(placement->layer_kinds[i] < HLM_NUM_LAYER_KINDS);
        before[i + 1] = before[i] + placement->layer_kinds[i];
    }
    *set = (struct hlm_pattern_set){
        .arena = arena,
        .placement = placement,
        .before = before,
        .is_uniform = before[num_layers] == 0 || before[num_layers] == num_layers,
        .rows = HLM_ARENA_ARRAY(arena, const struct hlm_pattern **,
                                (size_t)placement->num_stages *(size_t)(num_layers + 1))};
    return set;
}

const struct hlm_placement *hlm_pattern_set_placement(const struct hlm_pattern_set *set)
{
    return set->placement;
}

bool hlm_pattern_set_is_uniform(const struct hlm_pattern_set *set)
{
    return set->is_uniform;
}

/* --- the least backward that fits --- */

/* The choice under construction and the best so far. `room` is what is left for slots and
 * transients. */
struct mode_search {
    const struct hlm_pattern_set *set;
    const struct hlm_stage_prices *prices;
    int32_t begin, end;
    int64_t room;
    int32_t chosen[HLM_NUM_LAYER_KINDS][HLM_NUM_RECOMPUTES];
    int32_t best_full, best_selective;
    double best_s; /* of the layers; INFINITY: none found */
};

static void count_layers(const struct mode_search *search, int32_t begin, int32_t end,
                         enum hlm_recompute mode,
                         int32_t counts[HLM_NUM_LAYER_KINDS][HLM_NUM_RECOMPUTES])
{
    counts[1][mode] = search->set->before[end] - search->set->before[begin];
    counts[0][mode] = end - begin - counts[1][mode];
}

static void choose(struct mode_search *search, int32_t full, int32_t selective)
{
    const int32_t full_end = search->begin + full, selective_end = full_end + selective;
    count_layers(search, search->begin, full_end, HLM_RECOMPUTE_FULL, search->chosen);
    count_layers(search, full_end, selective_end, HLM_RECOMPUTE_SELECTIVE, search->chosen);
    count_layers(search, selective_end, search->end, HLM_RECOMPUTE_NONE, search->chosen);
}

/* Bytes that are free with the choice; negative when it does not fit. */
static int64_t slack_bytes(const struct mode_search *search)
{
    const struct hlm_stage_prices *prices = search->prices;
    int64_t slots = prices->base_slot_bytes, transient = prices->base_transient_bytes;
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            const int64_t mine = prices->transient_bytes[kind][mode];
            slots += search->chosen[kind][mode] * prices->slot_bytes[kind][mode];
            transient = search->chosen[kind][mode] > 0 && mine > transient ? mine : transient;
        }
    }
    return search->room - prices->in_flight * slots - transient;
}

static double chosen_backward_s(const struct mode_search *search)
{
    double seconds = 0.0;
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            seconds += search->chosen[kind][mode] * search->prices->backward_s[kind][mode];
        }
    }
    return seconds;
}

static bool modes_allowed(const struct mode_search *search, int32_t full, int32_t selective)
{
    const bool *modes = search->set->placement->modes;
    const int32_t none = search->end - search->begin - full - selective;
    return (full == 0 || modes[HLM_RECOMPUTE_FULL]) &&
           (selective == 0 || modes[HLM_RECOMPUTE_SELECTIVE]) &&
           (none == 0 || modes[HLM_RECOMPUTE_NONE]);
}

static void try_choice(struct mode_search *search, int32_t full, int32_t selective)
{
    if (!modes_allowed(search, full, selective)) {
        return;
    }
    choose(search, full, selective);
    const double seconds = chosen_backward_s(search);
    if (seconds < search->best_s && slack_bytes(search) >= 0) {
        search->best_s = seconds;
        search->best_full = full;
        search->best_selective = selective;
    }
}

/* Layers of one kind, `rest` of them shared between none and selective, at least one each: bytes
 * and seconds are linear in the number of selective ones, so the best is at an end of those that
 * fit. */
static void try_shares(struct mode_search *search, int32_t kind, int32_t full, int32_t rest)
{
    const struct hlm_stage_prices *prices = search->prices;
    const int64_t saved = prices->in_flight * (prices->slot_bytes[kind][HLM_RECOMPUTE_NONE] -
                                               prices->slot_bytes[kind][HLM_RECOMPUTE_SELECTIVE]);
    if (rest < 2 || !modes_allowed(search, full, 1)) {
        return;
    }
    choose(search, full, 1);
    const int64_t slack = slack_bytes(search);
    int64_t fewest = 1, most = rest - 1;
    if (slack < 0) {
        fewest = saved > 0 ? 1 + (-slack + saved - 1) / saved : rest;
    } else if (saved < 0 && 1 + slack / -saved < most) {
        most = 1 + slack / -saved;
    }
    if (fewest <= most) {
        const bool dearer = prices->backward_s[kind][HLM_RECOMPUTE_SELECTIVE] >=
                            prices->backward_s[kind][HLM_RECOMPUTE_NONE];
        try_choice(search, full, (int32_t)(dearer ? fewest : most));
    }
}

/* The least backward of choices with so many full layers, whatever memory says. */
static double least_with_full_s(struct mode_search *search, int32_t full)
{
    double seconds = 0.0;
    choose(search, full, 0);
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        const double *backward_s = search->prices->backward_s[kind];
        seconds += search->chosen[kind][HLM_RECOMPUTE_FULL] * backward_s[HLM_RECOMPUTE_FULL] +
                   search->chosen[kind][HLM_RECOMPUTE_NONE] *
                       fmin(backward_s[HLM_RECOMPUTE_NONE], backward_s[HLM_RECOMPUTE_SELECTIVE]);
    }
    return seconds;
}

static void search_modes(struct mode_search *search)
{
    const int32_t num_layers = search->end - search->begin;
    int32_t counts[HLM_NUM_LAYER_KINDS][HLM_NUM_RECOMPUTES] = {{0}};
    count_layers(search, search->begin, search->end, HLM_RECOMPUTE_NONE, counts);
    const bool mixed = counts[0][HLM_RECOMPUTE_NONE] > 0 && counts[1][HLM_RECOMPUTE_NONE] > 0;
    const int32_t kind = counts[0][HLM_RECOMPUTE_NONE] > 0 ? 0 : 1;
    for (int32_t full = 0; full <= num_layers; full++) {
        const int32_t rest = num_layers - full;
        if (least_with_full_s(search, full) >= search->best_s) {
            continue;
        }
        if (!mixed) {
            try_choice(search, full, 0);
            try_choice(search, full, rest);
            try_shares(search, kind, full, rest);
            continue;
        }
        for (int32_t selective = 0; selective <= rest; selective++) {
            try_choice(search, full, selective);
        }
    }
}

static const struct hlm_pattern *make_pattern(const struct hlm_pattern_set *set, int32_t stage,
                                              int32_t begin, int32_t end)
{
    const struct hlm_stage_prices *prices = &set->placement->stages[stage];
    if (begin == end && !prices->may_be_empty) {
        return &no_pattern;
    }
    const int32_t num_moe = set->before[end] - set->before[begin];
    const int32_t counts[HLM_NUM_LAYER_KINDS] = {end - begin - num_moe, num_moe};
    struct hlm_stage_holding holding = {0};
    set->placement->hold(set->placement->context, stage, counts, &holding);
    struct mode_search search = {.set = set,
                                 .prices = prices,
                                 .begin = begin,
                                 .end = end,
                                 .room = prices->limit_bytes - holding.static_bytes,
                                 .best_s = INFINITY};
    search_modes(&search);
    if (isinf(search.best_s)) {
        return &no_pattern;
    }
    struct hlm_pattern *pattern = HLM_ARENA_NEW(set->arena, struct hlm_pattern);
    *pattern = (struct hlm_pattern){
        .recompute = {[HLM_RECOMPUTE_NONE] = end - begin - search.best_full - search.best_selective,
                      [HLM_RECOMPUTE_SELECTIVE] = search.best_selective,
                      [HLM_RECOMPUTE_FULL] = search.best_full},
        .forward_s = prices->base_forward_s + counts[0] * prices->forward_s[0] +
                     counts[1] * prices->forward_s[1],
        .backward_s = prices->base_backward_s + search.best_s,
        .reduce_s = holding.reduce_s,
        .optimizer_s = holding.optimizer_s};
    return pattern;
}

const struct hlm_pattern *hlm_pattern_get(struct hlm_pattern_set *set, int32_t stage, int32_t begin,
                                          int32_t end)
{
    const int32_t num_layers = set->placement->num_layers;
    HLM_ASSERT(begin >= 0 && begin <= end && end <= num_layers);
    const int32_t from = set->is_uniform ? 0 : begin, count = end - begin;
    const struct hlm_pattern ***row =
        &set->rows[(size_t)stage * (size_t)(num_layers + 1) + (size_t)from];
    if (*row == NULL) {
        *row = HLM_ARENA_ARRAY(set->arena, const struct hlm_pattern *, num_layers - from + 1);
    }
    if ((*row)[count] == NULL) {
        (*row)[count] = make_pattern(set, stage, from, from + count);
    }
    return (*row)[count] == &no_pattern ? NULL : (*row)[count];
}
