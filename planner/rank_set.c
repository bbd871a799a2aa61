#include "planner/rank_set.h"

#include <math.h>

/* Tables of sums over the stages of a rank are made up to this many loads; with more the least of
 * them is taken to be nothing. */
enum { MAX_SUMS = 700 };

/* Rows of hlm_schedule_held that are looked at, those with the most in all. */
enum { MAX_HELD = 3 };

/* A rank with what its stages have in common. */
struct rank {
    const struct hlm_rank_held *held;
    int32_t fewest;     /* layers that its stages have at least */
    int32_t most_minor; /* minor layers that can be on one of its stages, see count_minors */
    double base_s[HLM_SIM_NUM_KINDS];
    double least_s[HLM_NUM_LAYER_KINDS][HLM_SIM_NUM_KINDS]; /* of a layer on it */
    int32_t num_held;
    double *microbatches;        /* [num_held][num_chunks]: held of each stage, ascending */
    double base_slots[MAX_HELD]; /* what is held beside layers, bytes */
    int64_t room_bytes;          /* limit */
    int64_t base_transient_bytes;
    struct hlm_stage_holding *sums; /* [minor total + 1][most + 1]: least sums over its stages */
    const struct hlm_rank_load **loads;
};

struct hlm_rank_set {
    struct hlm_arena *arena;
    const struct hlm_rank_problem *problem;
    int32_t major, minor; /* kinds */
    int32_t num_major, num_minor, most, num_chunks;
    struct rank *ranks;
    double *constants; /* [num_rows] */
    /* [num_rows][num_ranks][HLM_SIM_NUM_KINDS][num_chunks]: of the stages of the rank, ascending */
    double *factors;
    double *placed; /* the same in the order of the stages; NULL unless is_placed */
    bool is_placed, is_led_by_minors;
    double *bases; /* [num_rows][num_ranks]: what the rank's stages have without layers, seconds */
    double least_s[HLM_NUM_LAYER_KINDS][HLM_SIM_NUM_KINDS]; /* of a layer on any rank */
};

static double larger(double a, double b)
{
    return a > b ? a : b;
}

const struct hlm_rank_problem *hlm_rank_set_problem(const struct hlm_rank_set *set)
{
    return set->problem;
}

int32_t hlm_rank_set_total(const struct hlm_rank_set *set, bool major)
{
    return major ? set->num_major : set->num_minor;
}

int32_t hlm_rank_set_most(const struct hlm_rank_set *set)
{
    return set->most;
}

/* --- preparation --- */

static double least_layer_s(const struct hlm_rank_problem *problem, int32_t stage, int32_t kind,
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
                least_s = fmin(least_s, least_layer_s(set->problem, s, kind, action));
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

/* `num_layers` layers are spread over stages with these weights, ascending, as evenly as can be, so
 * that the sum of the weights of `num` of them is least, or largest: that sum. */
static double spread_sum(const double *weights, int32_t num_chunks, int32_t num_layers, int32_t num,
                         bool largest)
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
static void prepare_held(struct hlm_rank_set *set, struct rank *rank)
{
    const struct hlm_rank_held *held = rank->held;
    const int32_t v = held->num_chunks;
    int32_t rows[MAX_HELD] = {0};
    int64_t sums[MAX_HELD] = {0};
    for (int32_t row = 0; row < held->num_rows; row++) {
        int64_t sum = 0;
        for (int32_t c = 0; c < v; c++) {
            sum += held->counts[row * v + c];
        }
        int32_t at = rank->num_held < MAX_HELD ? rank->num_held++ : MAX_HELD;
        for (; at > 0 && sums[at - 1] < sum; at--) {
            if (at < MAX_HELD) {
                sums[at] = sums[at - 1];
                rows[at] = rows[at - 1];
            }
        }
        if (at < MAX_HELD) {
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
    struct rank *rank = &set->ranks[index];
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
                least_layer_s(problem, rank->held->stages[0], kind, action);
        }
    }
    rank->room_bytes = problem->stages[rank->held->stages[0]].limit_bytes;
    rank->loads = HLM_ARENA_ARRAY(set->arena, const struct hlm_rank_load *,
                                  (size_t)(set->num_minor + 1) * (size_t)(set->most + 1));
}

static double *factors_at(const struct hlm_rank_set *set, int32_t row, int32_t rank, int32_t action)
{
    const int32_t num_ranks = set->problem->order->num_ranks;
    return &set->factors[((row * num_ranks + rank) * HLM_SIM_NUM_KINDS + action) * set->num_chunks];
}

static void prepare_factors(struct hlm_rank_set *set, int32_t index, int32_t rank)
{
    const struct hlm_rank_problem *problem = set->problem;
    const struct hlm_rank_held *held = &problem->held[rank];
    for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
        double *factors = factors_at(set, index, rank, action);
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
    bool led = set->num_minor > 0 && set->num_minor < problem->order->num_ranks;
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

bool hlm_rank_load_has_first(const struct hlm_rank_set *set, int32_t rank, int32_t minor,
                             int32_t major, int32_t first)
{
    const int32_t *stages = set->problem->held[rank].stages;
    const int32_t second = minor + major - first;
    return first >= minor && second >= 0 && second - first <= 1 && first - second <= 1 &&
           (first > 0 || set->problem->stages[stages[0]].may_be_empty) &&
           (second > 0 || set->problem->stages[stages[1]].may_be_empty);
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
                                 .ranks = HLM_ARENA_ARRAY(arena, struct rank, num_ranks),
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

void hlm_rank_set_read_rows(struct hlm_rank_set *set)
{
    const struct hlm_rank_problem *problem = set->problem;
    const size_t num_pairs = (size_t)problem->num_rows * (size_t)problem->order->num_ranks;
    set->constants = HLM_ARENA_ARRAY(set->arena, double, problem->num_rows);
    const size_t num_factors = num_pairs * HLM_SIM_NUM_KINDS * (size_t)set->num_chunks;
    set->factors = HLM_ARENA_ARRAY(set->arena, double, num_factors);
    set->placed = set->is_placed ? HLM_ARENA_ARRAY(set->arena, double, num_factors) : NULL;
    set->bases = HLM_ARENA_ARRAY(set->arena, double, num_pairs);
    for (int32_t k = 0; k < problem->num_rows; k++) {
        prepare_row(set, k);
    }
}

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

static void make_sums(struct hlm_rank_set *set, struct rank *rank)
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

static struct hlm_stage_holding least_holding(struct hlm_rank_set *set, struct rank *rank,
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
    const struct rank *rank;
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
        slots += spread_sum(microbatches, v, search->num_layers, count, false) * none;
        if (full + selective == 0) {
            continue;
        }
        const bool full_first = full_saves >= selective_saves;
        const double first =
            spread_sum(microbatches, v, search->num_layers, full_first ? full : selective, true);
        const double both = spread_sum(microbatches, v, search->num_layers, full + selective, true);
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
        most = larger(most, slots_in(search, row));
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

/* Whether modes are what they usually are: each takes longer and holds less than the one before,
 * and needs no more for a moment. */
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

static const struct hlm_rank_load *make_load(struct hlm_rank_set *set, int32_t index, int32_t minor,
                                             int32_t major)
{
    struct rank *rank = &set->ranks[index];
    struct hlm_rank_load *load = HLM_ARENA_NEW(set->arena, struct hlm_rank_load);
    if (minor + major < rank->fewest) {
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
                counts[i] == 0 ? 0.0
                               : counts[i] * least_layer_s(set->problem, rank->held->stages[0],
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
        *load = make_load(set, rank, minor, major);
    }
    return *load;
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
        return spread_sum(factors, set->num_chunks, minor + major,
                          kind == set->major ? major : minor, false);
    }
    const double *placed = &set->placed[factors - set->factors];
    return kind == set->minor ? minor * placed[0]
                              : (first - minor) * placed[0] + (minor + major - first) * placed[1];
}

double hlm_rank_row_s(struct hlm_rank_set *set, int32_t row, int32_t rank, int32_t minor,
                      int32_t major, int32_t first)
{
    const struct hlm_rank_load *load = hlm_rank_load_get(set, rank, minor, major);
    const int32_t v = set->num_chunks, counts[] = {major, minor};
    const int32_t kinds[] = {set->major, set->minor};
    double seconds = set->bases[row * set->problem->order->num_ranks + rank] +
                     set->problem->rows[row].ends[rank] * load->reduce_s;
    for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
        const double *factors = factors_at(set, row, rank, action);
        double plain_s = set->ranks[rank].base_s[action];
        for (int i = 0; i < HLM_NUM_LAYER_KINDS && factors[v - 1] > 0.0; i++) {
            if (counts[i] > 0) {
                const double least_s = set->ranks[rank].least_s[kinds[i]][action];
                plain_s += counts[i] * least_s;
                seconds += layer_factors(set, factors, kinds[i], minor, major, first) * least_s;
            }
        }
        seconds += factors[0] * larger(0.0, load->seconds[action] - plain_s);
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
            optimizer_s = larger(optimizer_s, load->optimizer_s);
        }
        bound_s = larger(bound_s, row_s);
    }
    return bound_s + optimizer_s;
}

/* --- caps --- */

/* Up to so many minor layers, what major ones take is counted on the mean of a rank's stages. */
enum { FEW_MINORS = 4 };

/* What one layer of a kind adds to a row on a rank, on the mean of its stages; *out_less: by how
 * much any number of them, spread evenly, may fall short of that in all, as what is left over may
 * stand on the smallest factors; *out_most: by how much a minor layer among them, which may stand
 * on the largest, makes them fall short. Of minor layers, and beside many of them, the smallest
 * factor. */
static double mean_layer_s(const struct hlm_rank_set *set, int32_t row, int32_t rank, int32_t kind,
                           double *out_less, double *out_most)
{
    const int32_t v = set->num_chunks;
    const bool smallest = set->num_minor > FEW_MINORS || kind == set->minor;
    double each_s = 0.0;
    *out_less = *out_most = 0.0;
    for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
        const double *factors = factors_at(set, row, rank, action);
        const double layer_s = set->ranks[rank].least_s[kind][action];
        double mean = 0.0, less = 0.0, short_of = 0.0;
        if (factors[v - 1] == 0.0) {
            continue;
        }
        if (smallest) {
            each_s += factors[0] * layer_s;
            continue;
        }
        for (int32_t c = 0; c < v; c++) {
            mean += factors[c] / v;
        }
        for (int32_t c = 0; c < v; c++) {
            short_of += mean - factors[c];
            less = larger(less, short_of);
        }
        each_s += mean * layer_s;
        *out_less += less * layer_s;
        *out_most += (factors[v - 1] - mean) * layer_s;
    }
    return each_s;
}

/* For one row: the least that layers of a kind take on the ranks other than `own`, the cheapest
 * ranks first, each up to its cap. least[n]: n layers. each: [num_ranks], to work with. */
static void fill_cheapest(const struct hlm_rank_set *set, int32_t row, int32_t own, int32_t kind,
                          const int32_t *most, int32_t num, double *each, double *least)
{
    const int32_t num_ranks = set->problem->order->num_ranks;
    double last_s = -1.0, less_s = 0.0, minor_s = 0.0;
    int32_t filled = 0;
    least[0] = 0.0;
    for (int32_t r = 0; num > 0 && r < num_ranks; r++) {
        double less = 0.0, by_minor = 0.0;
        each[r] = mean_layer_s(set, row, r, kind, &less, &by_minor);
        less_s += r == own ? 0.0 : less;
        minor_s = r == own ? minor_s : larger(minor_s, by_minor);
    }
    least[0] = -less_s - set->num_minor * minor_s;
    while (filled < num) {
        double next_s = INFINITY;
        int32_t room = 0;
        for (int32_t r = 0; r < num_ranks; r++) {
            const double each_s = each[r];
            if (r == own || each_s <= last_s || most[r] <= 0) {
                continue;
            }
            if (each_s < next_s) {
                next_s = each_s;
                room = 0;
            }
            room += each_s == next_s ? most[r] : 0;
        }
        if (room == 0) {
            for (; filled < num; filled++) {
                least[filled + 1] = INFINITY;
            }
            return;
        }
        for (; room > 0 && filled < num; room--, filled++) {
            least[filled + 1] = least[filled] + next_s;
        }
        last_s = next_s;
    }
}

struct narrowing {
    struct hlm_arena *scratch;
    struct hlm_rank_set *set;
    struct hlm_rank_caps *caps;
    double *each;                      /* [num_ranks]: of a layer on each */
    double *least_major, *least_minor; /* [totals + 1]: on the other ranks */
};

/* What the ranks but `own` have of a row without their layers. */
static double others_base_s(const struct hlm_rank_set *set, int32_t row, int32_t own)
{
    double seconds = set->constants[row];
    for (int32_t r = 0; r < set->problem->order->num_ranks; r++) {
        seconds += r == own ? 0.0 : set->bases[row * set->problem->order->num_ranks + r];
    }
    return seconds;
}

/* For a row: the least that each number of layers takes on the ranks other than `own`. */
static void fill_others(const struct narrowing *narrowing, int32_t row, int32_t own)
{
    const struct hlm_rank_set *set = narrowing->set;
    fill_cheapest(set, row, own, set->major, narrowing->caps->most, set->num_major, narrowing->each,
                  narrowing->least_major);
    fill_cheapest(set, row, own, set->minor, narrowing->caps->most, set->num_minor, narrowing->each,
                  narrowing->least_minor);
}

static bool load_is_within(const struct narrowing *narrowing, int32_t row, int32_t rank,
                           int32_t minor, int32_t major, double others_s)
{
    struct hlm_rank_set *set = narrowing->set;
    const struct hlm_rank_load *load = hlm_rank_load_get(set, rank, minor, major);
    if (!load->fits || isinf(narrowing->caps->cutoff_s)) {
        return load->fits;
    }
    return others_s + hlm_rank_row_s(set, row, rank, minor, major, -1) + load->optimizer_s +
               narrowing->least_major[set->num_major - major] +
               narrowing->least_minor[set->num_minor - minor] <=
           narrowing->caps->cutoff_s;
}

/* Returns whether the rank can hold anything at all. */
static bool narrow_rank(const struct narrowing *narrowing, int32_t row, int32_t rank)
{
    struct hlm_rank_set *set = narrowing->set;
    struct hlm_rank_caps *caps = narrowing->caps;
    fill_others(narrowing, row, rank);
    const double others_s = others_base_s(set, row, rank);
    int32_t most = -1;
    for (int32_t minor = 0; minor <= set->num_minor; minor++) {
        int32_t *cap = &caps->most_major[rank * (set->num_minor + 1) + minor];
        while (*cap >= 0 && !load_is_within(narrowing, row, rank, minor, *cap, others_s)) {
            (*cap)--;
        }
        most = *cap >= 0 && *cap + minor > most ? *cap + minor : most;
    }
    caps->most[rank] = most;
    return most >= 0;
}

/* Whether the ranks together can hold all layers: most[d] major ones beside d minor ones. */
static bool all_fit(const struct narrowing *narrowing)
{
    const struct hlm_rank_set *set = narrowing->set;
    const int32_t width = set->num_minor + 1;
    const struct hlm_arena_mark mark = hlm_arena_mark(narrowing->scratch);
    int32_t *most = HLM_ARENA_ARRAY(narrowing->scratch, int32_t, width);
    int32_t *next = HLM_ARENA_ARRAY(narrowing->scratch, int32_t, width);
    for (int32_t d = 1; d < width; d++) {
        most[d] = -1;
    }
    for (int32_t r = 0; r < set->problem->order->num_ranks; r++) {
        const int32_t *caps = &narrowing->caps->most_major[r * width];
        for (int32_t d = 0; d < width; d++) {
            next[d] = -1;
            for (int32_t own = 0; own <= d; own++) {
                if (most[d - own] >= 0 && caps[own] >= 0 && most[d - own] + caps[own] > next[d]) {
                    next[d] = most[d - own] + caps[own];
                }
            }
        }
        int32_t *other = most;
        most = next;
        next = other;
    }
    const bool fit = most[set->num_minor] >= set->num_major;
    hlm_arena_rewind(narrowing->scratch, mark);
    return fit;
}

/* A row of no rank in particular, with the least on every rank. */
static bool row_is_within(const struct narrowing *narrowing, int32_t row)
{
    const struct hlm_rank_set *set = narrowing->set;
    fill_others(narrowing, row, -1);
    return others_base_s(set, row, -1) + narrowing->least_major[set->num_major] +
               narrowing->least_minor[set->num_minor] <=
           narrowing->caps->cutoff_s;
}

/* Once through all rows, each by its rank. */
static bool narrow_all(const struct narrowing *narrowing)
{
    const struct hlm_rank_problem *problem = narrowing->set->problem;
    for (int32_t row = 0; row < problem->num_rows; row++) {
        const int32_t rank = problem->rows[row].rank;
        if (rank >= 0 && !narrow_rank(narrowing, row, rank)) {
            return false;
        }
    }
    bool within = all_fit(narrowing);
    for (int32_t row = 0; within && row < problem->num_rows; row++) {
        within = problem->rows[row].rank >= 0 || isinf(narrowing->caps->cutoff_s) ||
                 row_is_within(narrowing, row);
    }
    return within;
}

bool hlm_rank_narrow(struct hlm_arena *arena, struct hlm_rank_set *set, double cutoff_s,
                     struct hlm_rank_caps *out)
{
    enum { NUM_PASSES = 3 };
    const int32_t num_ranks = set->problem->order->num_ranks;
    const size_t width = (size_t)set->num_minor + 1;
    *out = (struct hlm_rank_caps){.cutoff_s = cutoff_s,
                                  .most_major =
                                      HLM_ARENA_ARRAY(arena, int32_t, (size_t)num_ranks * width),
                                  .most = HLM_ARENA_ARRAY(arena, int32_t, num_ranks)};
    for (int32_t r = 0; r < num_ranks; r++) {
        out->most[r] = set->num_minor + set->most;
        for (size_t d = 0; d < width; d++) {
            out->most_major[(size_t)r * width + d] = set->most;
        }
    }
    struct narrowing narrowing = {.scratch = arena,
                                  .set = set,
                                  .caps = out,
                                  .each = HLM_ARENA_ARRAY(arena, double, num_ranks),
                                  .least_major = HLM_ARENA_ARRAY(arena, double, set->num_major + 1),
                                  .least_minor =
                                      HLM_ARENA_ARRAY(arena, double, set->num_minor + 1)};
    bool within = true;
    for (int pass = 0; within && pass < (isinf(cutoff_s) ? 1 : NUM_PASSES); pass++) {
        within = narrow_all(&narrowing);
    }
    return within;
}

double hlm_rank_threshold(struct hlm_arena *arena, struct hlm_rank_set *set, double low_s,
                          double cutoff_s, struct hlm_rank_caps *out)
{
    static const double first_step = 0.004, precision = 0.0005;
    HLM_ASSERT(low_s > 0 && isfinite(low_s));
    if (!hlm_rank_narrow(arena, set, cutoff_s, out)) {
        return INFINITY;
    }
    struct hlm_rank_caps caps;
    double refused_s = low_s, step_s = first_step * low_s, taken_s = cutoff_s;
    for (double try_s = low_s + step_s; try_s < taken_s; try_s = low_s + step_s) {
        if (hlm_rank_narrow(arena, set, try_s, &caps)) {
            taken_s = try_s;
            *out = caps;
        } else {
            refused_s = try_s;
            step_s *= 2.0;
        }
    }
    while (taken_s - refused_s > precision * refused_s) {
        const double middle_s =
            isinf(taken_s) ? 2.0 * refused_s : refused_s + 0.5 * (taken_s - refused_s);
        if (hlm_rank_narrow(arena, set, middle_s, &caps)) {
            taken_s = middle_s;
            *out = caps;
        } else {
            refused_s = middle_s;
        }
    }
    return refused_s;
}
