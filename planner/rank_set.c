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

int32_t hlm_rank_set_most(const struct hlm_rank_set *set)
{
    return set->most;
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

double *hlm_rank_factors_at(const struct hlm_rank_set *set, int32_t row, int32_t rank,
                            int32_t action)
{
    const int32_t num_ranks = set->problem->order->num_ranks;
    return &set->factors[((row * num_ranks + rank) * HLM_SIM_NUM_KINDS + action) * set->num_chunks];
}

static void prepare_factors(struct hlm_rank_set *set, int32_t index, int32_t rank)
{
    const struct hlm_rank_problem *problem = set->problem;
    const struct hlm_rank_held *held = &problem->held[rank];
    for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
        double *factors = hlm_rank_factors_at(set, index, rank, action);
        double *placed = set->is_placed ? &set->placed[factors - set->factors] : NULL;
        for (int32_t c = 0; c < set->num_chunks; c++) {
            const int32_t s = held->stages[c];
            factors[c] = problem->rows[index].actions[s * HLM_SIM_NUM_KINDS + action];
            set->bases[index * problem->order->num_ranks + rank] +=
                factors[c] * problem->stages[s].base_s[action];
            if (placed != NULL) {
                placed[c] = factors[c];
            }
        }
        sort_ascending(factors, set->num_chunks);
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
    for (int32_t r = 0; r < problem->order->num_ranks; r++) {
        prepare_factors(set, index, r);
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

static void make_room(struct hlm_rank_set *set, int32_t room)
{
    const size_t num_ranks = (size_t)set->problem->order->num_ranks;
    const size_t num_pairs = (size_t)set->num_rows * num_ranks, pairs = (size_t)room * num_ranks;
    const size_t each = HLM_SIM_NUM_KINDS * (size_t)set->num_chunks;
    set->constants = grow(set->arena, set->constants, (size_t)set->num_rows, (size_t)room);
    set->factors = grow(set->arena, set->factors, num_pairs * each, pairs * each);
    set->placed =
        set->is_placed ? grow(set->arena, set->placed, num_pairs * each, pairs * each) : NULL;
    set->bases = grow(set->arena, set->bases, num_pairs, pairs);
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
    hlm_rank_set_read_more_rows(set);
}

/* --- rows --- */

double hlm_rank_row_constant_s(const struct hlm_rank_set *set, int32_t row)
{
    return set->constants[row];
}

/* Weighted layers of a kind: where they stand, or where that is least. */
static double layer_factors(const struct hlm_rank_set *set, const double *factors, int32_t kind,
                            int32_t minor, int32_t major, int32_t first)
{
    if (first < 0) {
        return hlm_rank_spread_sum(factors, set->num_chunks, minor + major,
                                   kind == set->major ? major : minor, false);
    }
    const double *placed = &set->placed[factors - set->factors];
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
        double plain_s = set->ranks[rank].base_s[action];
        for (int i = 0; i < HLM_NUM_LAYER_KINDS && factors[v - 1] > 0.0; i++) {
            if (counts[i] > 0) {
                const double least_s = set->ranks[rank].least_s[kinds[i]][action];
                plain_s += counts[i] * least_s;
                seconds += layer_factors(set, factors, kinds[i], minor, major, first) * least_s;
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
