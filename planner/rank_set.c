#include <math.h>
#include <string.h>

#include "planner/rank_set_internal.h"

const struct hlm_rank_problem *hlm_rank_set_problem(const struct hlm_rank_set *set)
{
    return set->problem;
}

int32_t hlm_rank_set_total(const struct hlm_rank_set *set, bool major)
{
    return major ? set->num_major : set->num_minor;
}

int32_t hlm_rank_set_minor(const struct hlm_rank_set *set)
{
    return set->minor;
}

/* --- preparation --- */

double hlm_rank_least_layer_s(const struct hlm_rank_problem *problem, int32_t stage, int32_t kind,
                              int32_t action)
{
    double least_s = INFINITY;
    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        if (problem->modes[mode] || action == HLM_ACTION_F || action == HLM_ACTION_W) {
            least_s = fmin(least_s, problem->stages[stage].layer_s[kind][mode][action]);
        }
    }
    return least_s;
}

static void find_least(struct hlm_rank_set *set)
{
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
            double least_s = INFINITY;
            for (int32_t s = 0; s < set->problem->order->num_stages; s++) {
                least_s = fmin(least_s, hlm_rank_least_layer_s(set->problem, s, kind, action));
            }
            set->least_s[kind][action] = least_s;
        }
    }
}

static void sort_ascending(double *values, int32_t num)
{
    for (int32_t i = 1; i < num; i++) {
        const double value = values[i];
        int32_t at = i;
        for (; at > 0 && values[at - 1] > value; at--) {
            values[at] = values[at - 1];
        }
        values[at] = value;
    }
}

double hlm_rank_spread_sum(const double *weights, int32_t num_chunks, int32_t num_layers,
                           int32_t num, bool largest)
{
    const int32_t each = num_layers / num_chunks, more = num_layers % num_chunks;
    double sum = 0.0;
    for (int32_t i = 0; i < num_chunks && num > 0; i++) {
        const int32_t here = each + (i < more ? 1 : 0);
        const int32_t taken = here < num ? here : num;
        sum += taken * weights[largest ? num_chunks - 1 - i : i];
        num -= taken;
    }
    return sum;
}

/* The rows that hold most when layers are even. */
static void prepare_held(struct hlm_rank_set *set, struct hlm_rank_info *rank)
{
    const struct hlm_rank_held *held = rank->held;
    const int32_t v = held->num_chunks;
    int32_t rows[HLM_RANK_MAX_HELD] = {0};
    int64_t sums[HLM_RANK_MAX_HELD] = {0};
    for (int32_t row = 0; row < held->num_rows; row++) {
        int64_t sum = 0;
        for (int32_t c = 0; c < v; c++) {
            sum += held->counts[row * v + c];
        }
        int32_t at = rank->num_held < HLM_RANK_MAX_HELD ? rank->num_held++ : HLM_RANK_MAX_HELD;
        for (; at > 0 && sums[at - 1] < sum; at--) {
            if (at < HLM_RANK_MAX_HELD) {
                sums[at] = sums[at - 1];
                rows[at] = rows[at - 1];
            }
        }
        if (at < HLM_RANK_MAX_HELD) {
            sums[at] = sum;
            rows[at] = row;
        }
    }
    rank->microbatches = HLM_ARENA_ARRAY(set->arena, double, rank->num_held *v);
    for (int32_t i = 0; i < rank->num_held; i++) {
        double *microbatches = &rank->microbatches[i * v];
        for (int32_t c = 0; c < v; c++) {
            microbatches[c] = held->counts[rows[i] * v + c];
            rank->base_slots[i] +=
                microbatches[c] * (double)set->problem->stages[held->stages[c]].base_slot_bytes;
        }
        sort_ascending(microbatches, v);
    }
}

/* Minor layers that a stage can hold: those with enough layers in front for the stages in front,
 * and enough behind for those behind. */
static int32_t count_minors(const struct hlm_rank_set *set, int32_t stage)
{
    const struct hlm_rank_problem *problem = set->problem;
    int32_t before = 0, behind = 0, num = 0;
    for (int32_t s = 0; s < problem->order->num_stages; s++) {
        const int32_t least = problem->stages[s].may_be_empty ? 0 : 1;
        before += s < stage ? least : 0;
        behind += s > stage ? least : 0;
    }
    for (int32_t i = before; i < problem->num_layers - behind; i++) {
        num += problem->layer_kinds[i] == set->minor ? 1 : 0;
    }
    return num;
}

static void prepare_rank(struct hlm_rank_set *set, int32_t index)
{
    const struct hlm_rank_problem *problem = set->problem;
    struct hlm_rank_info *rank = &set->ranks[index];
    rank->held = &problem->held[index];
    HLM_ASSERT(rank->held->num_chunks == set->num_chunks);
    prepare_held(set, rank);
    for (int32_t c = 0; c < set->num_chunks; c++) {
        const struct hlm_rank_stage *stage = &problem->stages[rank->held->stages[c]];
        for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
            rank->base_s[action] += stage->base_s[action];
        }
        rank->fewest += stage->may_be_empty ? 0 : 1;
        rank->most_minor += set->num_minor > 0 ? count_minors(set, rank->held->stages[c]) : 0;
        if (stage->base_transient_bytes > rank->base_transient_bytes) {
            rank->base_transient_bytes = stage->base_transient_bytes;
        }
    }
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
            rank->least_s[kind][action] =
                hlm_rank_least_layer_s(problem, rank->held->stages[0], kind, action);
        }
    }
    rank->room_bytes = problem->stages[rank->held->stages[0]].limit_bytes;
    rank->loads = HLM_ARENA_ARRAY(set->arena, const struct hlm_rank_load *,
                                  (size_t)(set->num_minor + 1) * (size_t)(set->most + 1));
}

static size_t factors_at(const struct hlm_sim_order *order, int32_t row, int32_t rank,
                         int32_t action)
{
    const size_t num_chunks = (size_t)(order->num_stages / order->num_ranks);
    return (((size_t)row * (size_t)order->num_ranks + (size_t)rank) * HLM_SIM_NUM_KINDS +
            (size_t)action) *
           num_chunks;
}

const double *hlm_rank_factors_at(const struct hlm_rank_set *set, int32_t row, int32_t rank,
                                  int32_t action)
{
    return &set->factors.sorted[factors_at(set->problem->order, row, rank, action)];
}

const double *hlm_rank_placed_factors_at(const struct hlm_rank_set *set, int32_t row, int32_t rank,
                                         int32_t action)
{
    return &set->factors.placed[factors_at(set->problem->order, row, rank, action)];
}

/* placed: NULL, or to be filled too. */
static void fill_factors(const struct hlm_sim_order *order, const struct hlm_rank_held *held,
                         const struct hlm_path_row *rows, int32_t row, double *sorted,
                         double *placed)
{
    for (int32_t rank = 0; rank < order->num_ranks; rank++) {
        const int32_t v = held[rank].num_chunks;
        for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
            const size_t first = factors_at(order, row, rank, action);
            for (int32_t c = 0; c < v; c++) {
                sorted[first + (size_t)c] =
                    rows[row].actions[held[rank].stages[c] * HLM_SIM_NUM_KINDS + action];
            }
            if (placed != NULL) {
                memcpy(&placed[first], &sorted[first], (size_t)v * sizeof(*placed));
            }
            sort_ascending(&sorted[first], v);
        }
    }
}

const struct hlm_rank_factors *hlm_rank_factors_new(struct hlm_arena *arena,
                                                    const struct hlm_sim_order *order,
                                                    const struct hlm_rank_held *held,
                                                    const struct hlm_path_row *rows,
                                                    int32_t num_rows)
{
    const size_t num = factors_at(order, num_rows, 0, 0);
    struct hlm_rank_factors *factors = HLM_ARENA_NEW(arena, struct hlm_rank_factors);
    double *sorted = HLM_ARENA_ARRAY(arena, double, num);
    double *placed =
        order->num_stages == 2 * order->num_ranks ? HLM_ARENA_ARRAY(arena, double, num) : NULL;
    for (int32_t row = 0; row < num_rows; row++) {
        fill_factors(order, held, rows, row, sorted, placed);
    }
    *factors = (struct hlm_rank_factors){num_rows, sorted, placed};
    return factors;
}

/* What the ranks' stages have in a row without layers: of most stages nothing. */
static void prepare_bases(struct hlm_rank_set *set, int32_t row)
{
    const struct hlm_rank_problem *problem = set->problem;
    double *bases = &set->bases[(size_t)row * (size_t)problem->order->num_ranks];
    for (int32_t s = 0; s < problem->order->num_stages; s++) {
        for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
            if (problem->stages[s].base_s[action] > 0.0) {
                bases[problem->order->stage_rank[s]] +=
                    problem->rows[row].actions[s * HLM_SIM_NUM_KINDS + action] *
                    problem->stages[s].base_s[action];
            }
        }
    }
}

static void prepare_row(struct hlm_rank_set *set, int32_t index)
{
    const struct hlm_rank_problem *problem = set->problem;
    double constant_s = problem->sync_s;
    for (int32_t s = 0; s < problem->order->num_stages; s++) {
        constant_s += problem->rows[index].transfers[s] * problem->transfer_s[s];
    }
    set->constants[index] = constant_s;
    prepare_bases(set, index);
    if (index >= set->factors.num_rows) {
        fill_factors(problem->order, problem->held, problem->rows, index, set->own_sorted,
                     set->own_placed);
        set->factors.num_rows = index + 1;
    }
}

/* Whether minor layers come first and none can be on a rank's second stage (rank_set.h). */
static bool is_led_by_minors(const struct hlm_rank_set *set)
{
    const struct hlm_rank_problem *problem = set->problem;
    bool led =
        set->num_chunks <= 2 && set->num_minor > 0 && set->num_minor < problem->order->num_ranks;
    for (int32_t i = 0; i < set->num_minor; i++) {
        led = led && problem->layer_kinds[i] == set->minor;
    }
    for (int32_t s = 0; s < problem->order->num_ranks; s++) {
        led = led && problem->held[s].stages[0] == s &&
              (set->num_chunks == 1 || s == 0 || !problem->stages[s].may_be_empty);
    }
    return led;
}

bool hlm_rank_set_is_placed(const struct hlm_rank_set *set)
{
    return set->is_placed;
}

bool hlm_rank_set_is_led_by_minors(const struct hlm_rank_set *set)
{
    return set->is_led_by_minors;
}

/* Layers of the major kind that one rank can take at the most within the cutoff. */
static int32_t find_most(const struct hlm_rank_set *set, double cutoff_s)
{
    const double m = set->problem->order->num_microbatches;
    const double *least_s = set->least_s[set->major];
    const double gradient_s =
        set->problem->order->splits_backward
            ? fmin(least_s[HLM_ACTION_B], least_s[HLM_ACTION_I] + least_s[HLM_ACTION_W])
            : least_s[HLM_ACTION_B];
    const double most = cutoff_s / (m * (least_s[HLM_ACTION_F] + gradient_s));
    return most < set->num_major ? (int32_t)most : set->num_major;
}

struct hlm_rank_set *hlm_rank_set_new(struct hlm_arena *arena,
                                      const struct hlm_rank_problem *problem, double cutoff_s)
{
    struct hlm_rank_set *set = HLM_ARENA_NEW(arena, struct hlm_rank_set);
    const int32_t num_ranks = problem->order->num_ranks;
    int32_t counts[HLM_NUM_LAYER_KINDS] = {0};
    for (int32_t i = 0; i < problem->num_layers; i++) {
        counts[problem->layer_kinds[i]]++;
    }
    const int32_t major = counts[1] > counts[0] ? 1 : 0;
    *set = (struct hlm_rank_set){.arena = arena,
                                 .problem = problem,
                                 .major = major,
                                 .minor = 1 - major,
                                 .num_major = counts[major],
                                 .num_minor = counts[1 - major],
                                 .ranks = HLM_ARENA_ARRAY(arena, struct hlm_rank_info, num_ranks),
                                 .num_chunks = problem->order->num_stages / num_ranks};
    set->is_led_by_minors = is_led_by_minors(set);
    set->is_placed = set->num_chunks == 2 && (set->num_minor == 0 || set->is_led_by_minors);
    find_least(set);
    set->most = find_most(set, cutoff_s);
    for (int32_t r = 0; r < num_ranks; r++) {
        prepare_rank(set, r);
    }
    hlm_rank_set_read_rows(set);
    return set;
}

/* The first `num` of the values, with room for `room` of them. */
static double *grow(struct hlm_arena *arena, const double *values, size_t num, size_t room)
{
    double *grown = HLM_ARENA_ARRAY(arena, double, room);
    if (num > 0) {
        memcpy(grown, values, num * sizeof(*grown));
    }
    return grown;
}

/* Factors of its own, with those there are. */
static void own_factors(struct hlm_rank_set *set, int32_t room)
{
    const struct hlm_sim_order *order = set->problem->order;
    const size_t num = factors_at(order, set->factors.num_rows, 0, 0);
    set->own_sorted = grow(set->arena, set->factors.sorted, num, factors_at(order, room, 0, 0));
    set->own_placed =
        set->is_placed ? grow(set->arena, set->factors.placed, num, factors_at(order, room, 0, 0))
                       : NULL;
    set->factors.sorted = set->own_sorted;
    set->factors.placed = set->own_placed;
}

static void make_room(struct hlm_rank_set *set, int32_t room)
{
    const size_t num_ranks = (size_t)set->problem->order->num_ranks, num = (size_t)set->num_rows;
    set->constants = grow(set->arena, set->constants, num, (size_t)room);
    set->bases = grow(set->arena, set->bases, num * num_ranks, (size_t)room * num_ranks);
    set->means = HLM_ARENA_ARRAY(set->arena, const struct hlm_rank_means *,
                                 (size_t)room *HLM_NUM_LAYER_KINDS);
    if (room > set->factors.num_rows) {
        own_factors(set, room);
    }
    set->room = room;
}

void hlm_rank_set_read_more_rows(struct hlm_rank_set *set)
{
    const int32_t num_rows = set->problem->num_rows;
    if (num_rows > set->room) {
        make_room(set, num_rows > 2 * set->room ? num_rows : 2 * set->room);
    }
    while (set->num_rows < num_rows) {
        prepare_row(set, set->num_rows++);
    }
}

void hlm_rank_set_read_rows(struct hlm_rank_set *set)
{
    set->num_rows = set->room = 0;
    set->own_sorted = set->own_placed = NULL;
    set->factors = set->problem->factors == NULL ? (struct hlm_rank_factors){.num_rows = 0}
                                                 : *set->problem->factors;
    hlm_rank_set_read_more_rows(set);
}

/* --- rows --- */

double hlm_rank_row_constant_s(const struct hlm_rank_set *set, int32_t row)
{
    return set->constants[row];
}

/* Weighted layers of a kind: where they stand, or where that is least. */
static double layer_factors(const struct hlm_rank_set *set, const double *factors,
                            const double *placed, int32_t kind, int32_t minor, int32_t major,
                            int32_t first)
{
    if (first < 0) {
        return hlm_rank_spread_sum(factors, set->num_chunks, minor + major,
                                   kind == set->major ? major : minor, false);
    }
    return kind == set->minor ? minor * placed[0]
                              : (first - minor) * placed[0] + (minor + major - first) * placed[1];
}

double hlm_rank_row_s(struct hlm_rank_set *set, int32_t row, int32_t rank, int32_t minor,
                      int32_t major, int32_t first)
{
    if (first >= 0) {
        const struct hlm_rank_placed *placed = hlm_rank_placed_get(set, rank, minor, major, first);
        if (placed->is_exact) {
            return hlm_rank_placed_row_s(set, placed, row, rank);
        }
    }
    const struct hlm_rank_load *load = hlm_rank_load_get(set, rank, minor, major);
    const int32_t v = set->num_chunks, counts[] = {major, minor};
    const int32_t kinds[] = {set->major, set->minor};
    double seconds = set->bases[row * set->problem->order->num_ranks + rank] +
                     set->problem->rows[row].ends[rank] * load->reduce_s;
    for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
        const double *factors = hlm_rank_factors_at(set, row, rank, action);
        const double *placed =
            first >= 0 ? hlm_rank_placed_factors_at(set, row, rank, action) : NULL;
        double plain_s = set->ranks[rank].base_s[action];
        for (int i = 0; i < HLM_NUM_LAYER_KINDS && factors[v - 1] > 0.0; i++) {
            if (counts[i] > 0) {
                const double least_s = set->ranks[rank].least_s[kinds[i]][action];
                plain_s += counts[i] * least_s;
                seconds +=
                    layer_factors(set, factors, placed, kinds[i], minor, major, first) * least_s;
            }
        }
        seconds += factors[0] * hlm_larger(0.0, load->seconds[action] - plain_s);
    }
    return seconds;
}

double hlm_rank_bound_s(struct hlm_rank_set *set, const int32_t *minors, const int32_t *majors,
                        const int32_t *firsts)
{
    const int32_t num_ranks = set->problem->order->num_ranks;
    double bound_s = 0.0, optimizer_s = 0.0;
    for (int32_t k = 0; k < set->problem->num_rows; k++) {
        double row_s = set->constants[k];
        for (int32_t r = 0; r < num_ranks; r++) {
            const struct hlm_rank_load *load = hlm_rank_load_get(set, r, minors[r], majors[r]);
            if (!load->fits) {
                return INFINITY;
            }
            row_s +=
                hlm_rank_row_s(set, k, r, minors[r], majors[r], firsts == NULL ? -1 : firsts[r]);
            optimizer_s = hlm_larger(optimizer_s, load->optimizer_s);
        }
        bound_s = hlm_larger(bound_s, row_s);
    }
    return bound_s + optimizer_s;
}
