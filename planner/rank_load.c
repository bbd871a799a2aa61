#include <math.h>

#include "planner/rank_set_internal.h"

/* Tables of sums over the stages of a rank are made up to this many loads; with more the least of
 * them is taken to be nothing. */
enum { MAX_SUMS = 700 };

/* --- least sums over the stages of a rank --- */

static void hold_load(const struct hlm_rank_set *set, int32_t stage, int32_t minor, int32_t major,
                      struct hlm_stage_holding *out)
{
    int32_t counts[HLM_NUM_LAYER_KINDS];
    counts[set->minor] = minor;
    counts[set->major] = major;
    set->problem->hold(set->problem->context, stage, counts, out);
}

static void take_least(struct hlm_stage_holding *least, const struct hlm_stage_holding *a,
                       const struct hlm_stage_holding *b)
{
    if (a->static_bytes + b->static_bytes < least->static_bytes) {
        least->static_bytes = a->static_bytes + b->static_bytes;
    }
    least->reduce_s = fmin(least->reduce_s, a->reduce_s + b->reduce_s);
    least->optimizer_s = fmin(least->optimizer_s, a->optimizer_s + b->optimizer_s);
}

/* What INT64_MAX / 4 stands for: no way to have so many layers on these stages. */
static const struct hlm_stage_holding impossible = {INT64_MAX / 4, INFINITY, INFINITY};

/* Sums with one stage more. */
static void add_stage_sums(const struct hlm_rank_set *set, int32_t stage,
                           const struct hlm_stage_holding *before, struct hlm_stage_holding *after)
{
    const int32_t width = set->most + 1;
    const bool may_be_empty = set->problem->stages[stage].may_be_empty;
    for (int32_t i = 0; i < (set->num_minor + 1) * width; i++) {
        after[i] = impossible;
    }
    for (int32_t minor = 0; minor <= set->num_minor; minor++) {
        for (int32_t major = 0; major <= set->most; major++) {
            struct hlm_stage_holding own;
            if (minor + major == 0 && !may_be_empty) {
                continue;
            }
            hold_load(set, stage, minor, major, &own);
            for (int32_t d = 0; d + minor <= set->num_minor; d++) {
                for (int32_t e = 0; e + major <= set->most; e++) {
                    take_least(&after[(d + minor) * width + e + major], &before[d * width + e],
                               &own);
                }
            }
        }
    }
}

static void make_sums(struct hlm_rank_set *set, struct hlm_rank_info *rank)
{
    const size_t num = (size_t)(set->num_minor + 1) * (size_t)(set->most + 1);
    struct hlm_stage_holding *before = HLM_ARENA_ARRAY(set->arena, struct hlm_stage_holding, num);
    struct hlm_stage_holding *after = HLM_ARENA_ARRAY(set->arena, struct hlm_stage_holding, num);
    for (size_t i = 1; i < num; i++) {
        before[i] = impossible;
    }
    for (int32_t c = 0; c < rank->held->num_chunks; c++) {
        add_stage_sums(set, rank->held->stages[c], before, after);
        struct hlm_stage_holding *other = before;
        before = after;
        after = other;
    }
    rank->sums = before;
}

static struct hlm_stage_holding least_holding(struct hlm_rank_set *set, struct hlm_rank_info *rank,
                                              int32_t minor, int32_t major)
{
    struct hlm_stage_holding holding = {0};
    if (rank->held->num_chunks == 1) {
        hold_load(set, rank->held->stages[0], minor, major, &holding);
        return holding;
    }
    if ((set->num_minor + 1) * (set->most + 1) > MAX_SUMS) {
        return holding;
    }
    if (rank->sums == NULL) {
        make_sums(set, rank);
    }
    return rank->sums[minor * (set->most + 1) + major];
}

/* --- the least backward that fits --- */

/* Layers by kind and mode. */
struct modes {
    int32_t counts[HLM_NUM_LAYER_KINDS][HLM_NUM_RECOMPUTES];
};

struct mode_search {
    const struct hlm_rank_set *set;
    const struct hlm_rank_stage *stage;
    const struct hlm_rank_info *rank;
    int32_t num_layers; /* of the rank */
    int64_t static_bytes;
    int32_t action; /* whose seconds are to be least */
    struct modes now;
    double best_s;
};

/* Slots of the rank in one held row, at the least: each kind's layers stand where least is held,
 * and those that recompute where most is. */
static double slots_in(const struct mode_search *search, int32_t row)
{
    const int32_t v = search->set->num_chunks;
    const double *microbatches = &search->rank->microbatches[row * v];
    double slots = search->rank->base_slots[row];
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        const int64_t *bytes = search->stage->slot_bytes[kind];
        const int32_t full = search->now.counts[kind][HLM_RECOMPUTE_FULL];
        const int32_t selective = search->now.counts[kind][HLM_RECOMPUTE_SELECTIVE];
        const int32_t count = full + selective + search->now.counts[kind][HLM_RECOMPUTE_NONE];
        const double none = (double)bytes[HLM_RECOMPUTE_NONE];
        const double full_saves = none - (double)bytes[HLM_RECOMPUTE_FULL];
        const double selective_saves = none - (double)bytes[HLM_RECOMPUTE_SELECTIVE];
        slots += hlm_rank_spread_sum(microbatches, v, search->num_layers, count, false) * none;
        if (full + selective == 0) {
            continue;
        }
        const bool full_first = full_saves >= selective_saves;
        const double first = hlm_rank_spread_sum(microbatches, v, search->num_layers,
                                                 full_first ? full : selective, true);
        const double both =
            hlm_rank_spread_sum(microbatches, v, search->num_layers, full + selective, true);
        slots -= first * (full_first ? full_saves : selective_saves) +
                 (both - first) * (full_first ? selective_saves : full_saves);
    }
    return slots;
}

/* Bytes that are free with the choice, at the most. */
static double slack_of(const struct mode_search *search)
{
    int64_t transient = search->rank->base_transient_bytes;
    double most = 0.0;
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            if (search->now.counts[kind][mode] > 0 &&
                search->stage->transient_bytes[kind][mode] > transient) {
                transient = search->stage->transient_bytes[kind][mode];
            }
        }
    }
    for (int32_t row = 0; row < search->rank->num_held; row++) {
        most = hlm_larger(most, slots_in(search, row));
    }
    return (double)(search->rank->room_bytes - search->static_bytes - transient) - most;
}

static bool modes_are_allowed(const struct mode_search *search)
{
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            if (search->now.counts[kind][mode] > 0 && !search->set->problem->modes[mode]) {
                return false;
            }
        }
    }
    return true;
}

static double modes_s(const struct mode_search *search)
{
    double seconds = 0.0;
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            seconds +=
                search->now.counts[kind][mode] * search->stage->layer_s[kind][mode][search->action];
        }
    }
    return seconds;
}

static void set_modes(struct mode_search *search, int32_t kind, int32_t count, int32_t full,
                      int32_t selective)
{
    search->now.counts[kind][HLM_RECOMPUTE_FULL] = full;
    search->now.counts[kind][HLM_RECOMPUTE_SELECTIVE] = selective;
    search->now.counts[kind][HLM_RECOMPUTE_NONE] = count - full - selective;
}

static void try_modes(struct mode_search *search)
{
    const double seconds = modes_s(search);
    if (seconds < search->best_s && modes_are_allowed(search) && slack_of(search) >= 0) {
        search->best_s = seconds;
    }
}

/* All choices for the major kind, those of the minor one given, where selective recompute costs
 * time and saves bytes: with so many full ones, none or all of the rest selective, or the fewest
 * that fit. */
static void search_major(struct mode_search *search, int32_t count)
{
    const int32_t kind = search->set->major;
    for (int32_t full = 0; full <= count; full++) {
        const int32_t rest = count - full;
        set_modes(search, kind, count, full, 0);
        if (modes_s(search) >= search->best_s) {
            return; /* more full ones only take longer */
        }
        try_modes(search);
        set_modes(search, kind, count, full, rest);
        try_modes(search);
        int32_t low = 0, high = rest;
        while (low + 1 < high) {
            const int32_t middle = low + (high - low) / 2;
            set_modes(search, kind, count, full, middle);
            *(slack_of(search) >= 0 ? &high : &low) = middle;
        }
        if (high > 0 && high < rest) {
            set_modes(search, kind, count, full, high);
            try_modes(search);
        }
    }
}

/* Whether modes are what they usually are: each takes longer and holds less than the one before. */
static bool modes_are_usual(const struct mode_search *search)
{
    const struct hlm_rank_stage *stage = search->stage;
    const int32_t kind = search->set->major;
    bool usual = true;
    for (int32_t mode = 1; mode < HLM_NUM_RECOMPUTES; mode++) {
        usual = usual &&
                stage->layer_s[kind][mode][search->action] >=
                    stage->layer_s[kind][mode - 1][search->action] &&
                stage->slot_bytes[kind][mode] <= stage->slot_bytes[kind][mode - 1];
    }
    return usual;
}

/* Every choice. */
static void search_major_fully(struct mode_search *search, int32_t count)
{
    for (int32_t full = 0; full <= count; full++) {
        for (int32_t selective = 0; full + selective <= count; selective++) {
            set_modes(search, search->set->major, count, full, selective);
            try_modes(search);
        }
    }
}

/* The allowed mode of a kind that keeps least. */
static int32_t leanest_mode(const struct mode_search *search, int32_t kind)
{
    int32_t leanest = -1;
    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        const int64_t *bytes = search->stage->slot_bytes[kind];
        if (search->set->problem->modes[mode] && (leanest < 0 || bytes[mode] < bytes[leanest])) {
            leanest = mode;
        }
    }
    return leanest;
}

/* False: not even all layers in the mode that keeps least fit, without what they need for a moment;
 * every other choice holds as much in every held row. */
static bool any_modes_fit(struct mode_search *search, int32_t minor, int32_t major)
{
    const int32_t counts[] = {minor, major};
    const int32_t kinds[] = {search->set->minor, search->set->major};
    for (int32_t i = 0; i < HLM_NUM_LAYER_KINDS; i++) {
        const int32_t mode = leanest_mode(search, kinds[i]);
        set_modes(search, kinds[i], counts[i], mode == HLM_RECOMPUTE_FULL ? counts[i] : 0,
                  mode == HLM_RECOMPUTE_SELECTIVE ? counts[i] : 0);
    }
    const double room = (double)(search->rank->room_bytes - search->static_bytes -
                                 search->rank->base_transient_bytes);
    for (int32_t row = 0; row < search->rank->num_held; row++) {
        if (slots_in(search, row) > room) {
            return false;
        }
    }
    return true;
}

/* No recompute where that fits and nothing is faster; else the best of all choices. */
static double least_gradient_s(struct mode_search *search, int32_t minor, int32_t major)
{
    search->best_s = INFINITY;
    double floor_s = 0.0;
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        const int32_t count = kind == search->set->major ? major : minor;
        floor_s += count == 0 ? 0.0 : count * search->rank->least_s[kind][search->action];
    }
    set_modes(search, search->set->minor, minor, 0, 0);
    set_modes(search, search->set->major, major, 0, 0);
    try_modes(search);
    if (search->best_s <= floor_s * (1 + 1e-12)) {
        return search->best_s;
    }
    const bool usual = modes_are_usual(search);
    for (int32_t full = 0; full <= minor; full++) {
        for (int32_t selective = 0; full + selective <= minor; selective++) {
            set_modes(search, search->set->minor, minor, full, selective);
            if (usual) {
                search_major(search, major);
            } else {
                search_major_fully(search, major);
            }
        }
    }
    return search->best_s;
}

/* --- loads --- */

const struct hlm_rank_load *hlm_rank_load_make(struct hlm_rank_set *set, int32_t index,
                                               int32_t minor, int32_t major)
{
    struct hlm_rank_info *rank = &set->ranks[index];
    struct hlm_rank_load *load = HLM_ARENA_NEW(set->arena, struct hlm_rank_load);
    if (minor + major < rank->fewest ||
        (set->is_placed && !hlm_rank_load_can_be_placed(set, index, minor, major))) {
        return load;
    }
    const struct hlm_stage_holding holding = least_holding(set, rank, minor, major);
    struct mode_search search = {.set = set,
                                 .stage = &set->problem->stages[rank->held->stages[0]],
                                 .rank = rank,
                                 .num_layers = minor + major,
                                 .static_bytes = holding.static_bytes};
    if (!any_modes_fit(&search, minor, major)) {
        return load;
    }
    load->reduce_s = holding.reduce_s;
    load->optimizer_s = holding.optimizer_s;
    const int32_t counts[] = {minor, major}, kinds[] = {set->minor, set->major};
    for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
        load->seconds[action] = rank->base_s[action];
        const bool split_only = action == HLM_ACTION_I || action == HLM_ACTION_W;
        if (split_only && !set->problem->order->splits_backward) {
            continue;
        }
        if (action == HLM_ACTION_B || action == HLM_ACTION_I) {
            search.action = action;
            load->seconds[action] += least_gradient_s(&search, minor, major);
            if (isinf(search.best_s)) {
                return load;
            }
            continue;
        }
        for (int32_t i = 0; i < HLM_NUM_LAYER_KINDS; i++) {
            load->seconds[action] +=
                counts[i] == 0
                    ? 0.0
                    : counts[i] * hlm_rank_least_layer_s(set->problem, rank->held->stages[0],
                                                         kinds[i], action);
        }
    }
    load->fits = true;
    return load;
}

const struct hlm_rank_load *hlm_rank_load_get(struct hlm_rank_set *set, int32_t rank, int32_t minor,
                                              int32_t major)
{
    static const struct hlm_rank_load nothing = {.fits = false};
    if (minor > set->num_minor || minor > set->ranks[rank].most_minor || major > set->most) {
        return &nothing;
    }
    const struct hlm_rank_load **load = &set->ranks[rank].loads[minor * (set->most + 1) + major];
    if (*load == NULL) {
        *load = hlm_rank_load_make(set, rank, minor, major);
    }
    return *load;
}
