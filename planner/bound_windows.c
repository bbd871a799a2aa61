#include <math.h>

#include "planner/bound_internal.h"

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* --- least seconds --- */

/* Least T and F of a layer of a kind over stages and allowed modes. */
struct least_layer {
    double seconds[HLM_NUM_LAYER_KINDS], forward_s[HLM_NUM_LAYER_KINDS];
    double forward_frac; /* largest F / T of any layer or base */
};

static double largest_frac(double frac, double forward_s, double backward_s)
{
    return forward_s > 0 ? larger(frac, forward_s / (forward_s + backward_s)) : frac;
}

static struct least_layer find_least(const struct hlm_placement *placement)
{
    struct least_layer least = {{INFINITY, INFINITY}, {INFINITY, INFINITY}, 0.0};
    for (int32_t stage = 0; stage < placement->num_stages; stage++) {
        const struct hlm_stage_prices *prices = &placement->stages[stage];
        least.forward_frac =
            largest_frac(least.forward_frac, prices->base_forward_s, prices->base_backward_s);
        for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
            const double forward_s = prices->forward_s[kind];
            least.forward_s[kind] = fmin(least.forward_s[kind], forward_s);
            for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
                if (placement->modes[mode]) {
                    const double backward_s = prices->backward_s[kind][mode];
                    least.seconds[kind] = fmin(least.seconds[kind], forward_s + backward_s);
                    least.forward_frac = largest_frac(least.forward_frac, forward_s, backward_s);
                }
            }
        }
    }
    return least;
}

static double in_flight(const struct hlm_placement *placement, int32_t stage)
{
    return fmin(placement->num_microbatches, placement->num_stages - stage);
}

/* The closed form for stages whose T sums to work_s, round trip round_s, one of them having
 * fullest_s. */
static double closed_form_1f1b(const struct hlm_placement *placement, double round_s, double work_s,
                               double fullest_s, double forward_frac)
{
    const double p = placement->num_stages, rest = placement->num_microbatches - 1;
    double inverse = 0.0, least_weight = INFINITY;
    for (int32_t stage = 0; stage < placement->num_stages; stage++) {
        const double weight = rest - (in_flight(placement, stage) - 1.0) * forward_frac;
        least_weight = fmin(least_weight, weight);
        inverse += 1.0 / weight;
    }
    double step_s = round_s;
    if (least_weight > 0.0) {
        step_s = round_s + larger(work_s / inverse, least_weight * fullest_s);
    }
    if (rest >= p) {
        step_s = larger(step_s, (1.0 + floor(rest / p)) * round_s);
    }
    return step_s;
}

double hlm_bound_closed_form(const struct hlm_placement *placement)
{
    const struct least_layer least = find_least(placement);
    double work_s = 0.0, transfer_s = 0.0;
    for (int32_t stage = 0; stage < placement->num_stages; stage++) {
        const struct hlm_stage_prices *prices = &placement->stages[stage];
        work_s += prices->base_forward_s + prices->base_backward_s;
        transfer_s += stage + 1 < placement->num_stages ? placement->transfer_s[stage] : 0.0;
    }
    double shortest_s = INFINITY;
    for (int32_t layer = 0; layer < placement->num_layers; layer++) {
        work_s += least.seconds[placement->layer_kinds[layer]];
        shortest_s = fmin(shortest_s, least.seconds[placement->layer_kinds[layer]]);
    }
    const int32_t p = placement->num_stages;
    const double fullest_s = (placement->num_layers + p - 1) / p * shortest_s;
    const double round_s = work_s + 2.0 * transfer_s;
    const double step_s =
        placement->schedule == HLM_SCHEDULE_GPIPE
            ? round_s + (placement->num_microbatches - 1) * larger(work_s / p, fullest_s)
            : closed_form_1f1b(placement, round_s, work_s, fullest_s, least.forward_frac);
    return step_s + placement->sync_s;
}

/* --- windows --- */

static void init_sums(struct hlm_arena *arena, const struct hlm_placement *placement,
                      struct hlm_bound_windows *windows)
{
    const int32_t p = placement->num_stages, num_layers = placement->num_layers;
    const struct least_layer least = find_least(placement);
    double *layers = HLM_ARENA_ARRAY(arena, double, num_layers + 1);
    double *layers_forward = HLM_ARENA_ARRAY(arena, double, num_layers + 1);
    double *bases = HLM_ARENA_ARRAY(arena, double, p + 1);
    double *bases_forward = HLM_ARENA_ARRAY(arena, double, p + 1);
    double *transfers = HLM_ARENA_ARRAY(arena, double, p + 1);
    for (int32_t i = 0; i < num_layers; i++) {
        layers[i + 1] = layers[i] + least.seconds[placement->layer_kinds[i]];
        layers_forward[i + 1] = layers_forward[i] + least.forward_s[placement->layer_kinds[i]];
    }
    for (int32_t s = 0; s < p; s++) {
        const struct hlm_stage_prices *prices = &placement->stages[s];
        bases[s + 1] = bases[s] + prices->base_forward_s + prices->base_backward_s;
        bases_forward[s + 1] = bases_forward[s] + prices->base_forward_s;
        transfers[s + 1] = transfers[s] + (s + 1 < p ? placement->transfer_s[s] : 0.0);
    }
    windows->layers_s = layers;
    windows->layers_forward_s = layers_forward;
    windows->bases_s = bases;
    windows->bases_forward_s = bases_forward;
    windows->transfers_s = transfers;
}

/* Least sum of T + 2 c, and of F + c, of the stages in front of one that begins at `begin`. */
static double front_s(const struct hlm_bound_windows *windows, int32_t stage, int32_t begin)
{
    return windows->layers_s[begin] + windows->bases_s[stage] + 2.0 * windows->transfers_s[stage];
}

static double front_forward_s(const struct hlm_bound_windows *windows, int32_t stage, int32_t begin)
{
    return windows->layers_forward_s[begin] + windows->bases_forward_s[stage] +
           windows->transfers_s[stage];
}

/* The least step when `stage` holds the pattern, by its own rows: `reduce_s` and `optimizer_s` are
 * of this stage, those of stage 0 are in the windows. */
static double least_1f1b(const struct hlm_placement *placement,
                         const struct hlm_bound_windows *windows, int32_t stage,
                         const struct hlm_pattern *pattern, double reduce_s)
{
    const int32_t p = placement->num_stages, num_layers = placement->num_layers;
    const double round_s = front_s(windows, p, num_layers);
    const int32_t begin_min = windows->begin_min[stage];
    const double own_s = hlm_pattern_seconds(pattern);
    const double loop_s = round_s - front_s(windows, stage, windows->begin_max[stage]);
    const struct hlm_bound_row_parts parts = {.own_s = own_s,
                                              .forward_s = pattern->forward_s,
                                              .loop_s = loop_s,
                                              .pair_s = -1.0,
                                              .inner_s = -1.0};
    const double all_s = placement->num_microbatches * own_s;
    const double loops_s = hlm_bound_loop_rows_s(placement, stage, &parts);
    /* Rows (2) to (4) hold S_s once and more besides; S_s and what is in front sum to the whole
     * round. */
    const double end_s =
        larger(front_s(windows, stage, begin_min) + all_s, round_s + loops_s - loop_s);
    const double down_s = front_forward_s(windows, stage, begin_min);
    return larger(end_s + windows->reduce_s, down_s + larger(all_s, loops_s) + reduce_s);
}

static double least_gpipe(const struct hlm_placement *placement,
                          const struct hlm_bound_windows *windows, int32_t stage,
                          const struct hlm_pattern *pattern, double reduce_s)
{
    const int32_t p = placement->num_stages, num_layers = placement->num_layers;
    const double rest = placement->num_microbatches - 1;
    const double forwards_s = front_forward_s(windows, p, num_layers) + rest * pattern->forward_s;
    const double backwards_s = front_s(windows, p, num_layers) -
                               front_forward_s(windows, p, num_layers) + rest * pattern->backward_s;
    const double own_s = pattern->backward_s + placement->transfer_s[stage] * (stage + 1 < p) +
                         rest * pattern->backward_s;
    return forwards_s + larger(backwards_s + windows->reduce_s, own_s + reduce_s);
}

static double least_step_s(const struct hlm_placement *placement,
                           const struct hlm_bound_windows *windows, int32_t stage,
                           const struct hlm_pattern *pattern, double reduce_s, double optimizer_s)
{
    const double end_s = placement->schedule == HLM_SCHEDULE_GPIPE
                             ? least_gpipe(placement, windows, stage, pattern, reduce_s)
                             : least_1f1b(placement, windows, stage, pattern, reduce_s);
    return end_s + placement->sync_s + larger(windows->optimizer_s, optimizer_s);
}

/* Whether [begin, end) fits and its T leaves the step within the cutoff. Unlike hlm_bound_keeps
 * this leaves out the stage's own reduction and optimizer, so that it holds for every part of
 * [begin, end) too: collectives need not be monotone. */
static bool stretch_holds(struct hlm_pattern_set *set, const struct hlm_bound_windows *windows,
                          int32_t stage, int32_t begin, int32_t end)
{
    const struct hlm_placement *placement = hlm_pattern_set_placement(set);
    const struct hlm_pattern *pattern = hlm_pattern_get(set, stage, begin, end);
    return pattern != NULL &&
           (isinf(windows->cutoff_s) ||
            least_step_s(placement, windows, stage, pattern, 0.0, 0.0) <= windows->cutoff_s);
}

/* The farthest end from begin_max[stage]. begin - 1: not even an empty stage holds. */
static int32_t farthest_end(struct hlm_pattern_set *set, const struct hlm_bound_windows *windows,
                            int32_t stage)
{
    const struct hlm_placement *placement = hlm_pattern_set_placement(set);
    const int32_t begin = windows->begin_max[stage];
    int32_t high = windows->begin_max[stage + 1];
    if (high < begin || (high > begin && stretch_holds(set, windows, stage, begin, high))) {
        return high;
    }
    if (placement->stages[stage].may_be_empty &&
        !stretch_holds(set, windows, stage, begin, begin)) {
        return begin - 1;
    }
    int32_t low = begin;
    while (low + 1 < high) {
        const int32_t middle = low + (high - low) / 2;
        if (stretch_holds(set, windows, stage, begin, middle)) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The first begin from which the stage reaches begin_min[stage + 1]; end + 1: none. */
static int32_t nearest_begin(struct hlm_pattern_set *set, const struct hlm_bound_windows *windows,
                             int32_t stage)
{
    const struct hlm_placement *placement = hlm_pattern_set_placement(set);
    const int32_t end = windows->begin_min[stage + 1];
    int32_t low = windows->begin_min[stage];
    if (low > end || (low < end && stretch_holds(set, windows, stage, low, end))) {
        return low;
    }
    if (placement->stages[stage].may_be_empty && !stretch_holds(set, windows, stage, end, end)) {
        return end + 1;
    }
    int32_t high = end;
    while (low + 1 < high) {
        const int32_t middle = low + (high - low) / 2;
        if (stretch_holds(set, windows, stage, middle, end)) {
            high = middle;
        } else {
            low = middle;
        }
    }
    return high;
}

static bool windows_are_open(const struct hlm_placement *placement,
                             const struct hlm_bound_windows *windows)
{
    for (int32_t stage = 0; stage <= placement->num_stages; stage++) {
        if (windows->begin_min[stage] > windows->begin_max[stage]) {
            return false;
        }
    }
    return true;
}

static bool narrow_from_first(struct hlm_pattern_set *set, struct hlm_bound_windows *windows)
{
    const struct hlm_placement *placement = hlm_pattern_set_placement(set);
    for (int32_t stage = 0; stage < placement->num_stages; stage++) {
        const int32_t end = farthest_end(set, windows, stage);
        if (end < windows->begin_max[stage + 1]) {
            windows->begin_max[stage + 1] = end;
        }
        if (windows->begin_max[stage + 1] < windows->begin_min[stage + 1]) {
            return false;
        }
    }
    return true;
}

static bool narrow_from_last(struct hlm_pattern_set *set, struct hlm_bound_windows *windows)
{
    const struct hlm_placement *placement = hlm_pattern_set_placement(set);
    for (int32_t stage = placement->num_stages - 1; stage >= 0; stage--) {
        const int32_t begin = nearest_begin(set, windows, stage);
        if (begin > windows->begin_min[stage]) {
            windows->begin_min[stage] = begin;
        }
        if (windows->begin_min[stage] > windows->begin_max[stage]) {
            return false;
        }
    }
    return true;
}

/* Stages that may not be empty have a layer at least. */
static void open_windows(struct hlm_arena *arena, const struct hlm_placement *placement,
                         struct hlm_bound_windows *windows)
{
    const int32_t p = placement->num_stages;
    windows->begin_min = HLM_ARENA_ARRAY(arena, int32_t, p + 1);
    windows->begin_max = HLM_ARENA_ARRAY(arena, int32_t, p + 1);
    for (int32_t s = 0; s < p; s++) {
        windows->begin_min[s + 1] =
            windows->begin_min[s] + (placement->stages[s].may_be_empty ? 0 : 1);
    }
    windows->begin_min[p] = placement->num_layers;
    windows->begin_max[p] = placement->num_layers;
    for (int32_t s = p - 1; s > 0; s--) {
        windows->begin_max[s] =
            windows->begin_max[s + 1] - (placement->stages[s].may_be_empty ? 0 : 1);
    }
}

/* Least reduction and optimizer of stage 0 over the ends that are left to it. */
static void find_stage_0_least(struct hlm_pattern_set *set, struct hlm_bound_windows *windows)
{
    double reduce_s = INFINITY, optimizer_s = INFINITY;
    for (int32_t end = windows->begin_min[1]; end <= windows->begin_max[1]; end++) {
        const struct hlm_pattern *pattern = hlm_pattern_get(set, 0, 0, end);
        if (pattern != NULL) {
            reduce_s = fmin(reduce_s, pattern->reduce_s);
            optimizer_s = fmin(optimizer_s, pattern->optimizer_s);
        }
    }
    windows->reduce_s = isinf(reduce_s) ? 0.0 : reduce_s;
    windows->optimizer_s = isinf(optimizer_s) ? 0.0 : optimizer_s;
}

static bool narrow(struct hlm_pattern_set *set, struct hlm_bound_windows *windows)
{
    if (!windows_are_open(hlm_pattern_set_placement(set), windows) ||
        !narrow_from_first(set, windows) || !narrow_from_last(set, windows)) {
        return false;
    }
    if (isinf(windows->cutoff_s)) {
        return true;
    }
    /* Once more with what is known now: less freedom makes the least sums of the others larger. */
    find_stage_0_least(set, windows);
    return narrow_from_first(set, windows) && narrow_from_last(set, windows);
}

bool hlm_bound_narrow(struct hlm_arena *arena, struct hlm_pattern_set *set, double cutoff_s,
                      struct hlm_bound_windows *out)
{
    const struct hlm_placement *placement = hlm_pattern_set_placement(set);
    *out = (struct hlm_bound_windows){.cutoff_s = cutoff_s};
    init_sums(arena, placement, out);
    open_windows(arena, placement, out);
    return narrow(set, out);
}

bool hlm_bound_keeps(struct hlm_pattern_set *set, const struct hlm_bound_windows *windows,
                     int32_t stage, int32_t begin, int32_t end)
{
    const struct hlm_placement *placement = hlm_pattern_set_placement(set);
    const struct hlm_pattern *pattern = hlm_pattern_get(set, stage, begin, end);
    return pattern != NULL && (isinf(windows->cutoff_s) ||
                               least_step_s(placement, windows, stage, pattern, pattern->reduce_s,
                                            pattern->optimizer_s) <= windows->cutoff_s);
}

static bool takes(struct hlm_arena *scratch, struct hlm_pattern_set *set, double cutoff_s,
                  int32_t *ends)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
    struct hlm_bound_windows windows;
    const bool taken = hlm_bound_narrow(scratch, set, cutoff_s, &windows);
    for (int32_t s = 0; taken && s < hlm_pattern_set_placement(set)->num_stages; s++) {
        ends[s] = windows.begin_max[s + 1];
    }
    hlm_arena_rewind(scratch, mark);
    return taken;
}

double hlm_bound_threshold(struct hlm_arena *scratch, struct hlm_pattern_set *set, double low_s,
                           double cutoff_s, int32_t *ends)
{
    static const double first_step = 0.004, precision = 0.0005;
    HLM_ASSERT(low_s > 0 && isfinite(low_s));
    if (!takes(scratch, set, cutoff_s, ends)) {
        return INFINITY;
    }
    double refused_s = low_s, taken_s = fmin(cutoff_s, low_s * (1.0 + first_step));
    while (taken_s < cutoff_s && !takes(scratch, set, taken_s, ends)) {
        refused_s = taken_s;
        taken_s = fmin(cutoff_s, low_s + 2.0 * (taken_s - low_s));
    }
    while (taken_s - refused_s > precision * refused_s) {
        const double middle_s = refused_s + 0.5 * (taken_s - refused_s);
        *(takes(scratch, set, middle_s, ends) ? &taken_s : &refused_s) = middle_s;
    }
    return refused_s;
}

double hlm_bound_label_least(const struct hlm_placement *placement,
                             const struct hlm_bound_windows *windows, int32_t stage, int32_t begin,
                             const struct hlm_bound_label *label)
{
    const double reduce_s = stage == 0 ? 0.0 : windows->reduce_s;
    return hlm_bound_finish_behind(placement, label, front_s(windows, stage, begin),
                                   front_forward_s(windows, stage, begin), reduce_s);
}
