#include <math.h>

#include "planner/rank_set_internal.h"

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
        const double *factors = hlm_rank_factors_at(set, row, rank, action);
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
            less = hlm_larger(less, short_of);
        }
        each_s += mean * layer_s;
        *out_less += less * layer_s;
        *out_most += (factors[v - 1] - mean) * layer_s;
    }
    return each_s;
}

/* The ranks of a row by what a layer of the kind adds on them. */
static struct hlm_rank_means *make_means(const struct hlm_rank_set *set, int32_t row, int32_t kind)
{
    const int32_t num_ranks = set->problem->order->num_ranks;
    struct hlm_rank_means *means = HLM_ARENA_NEW(set->arena, struct hlm_rank_means);
    means->ranks = HLM_ARENA_ARRAY(set->arena, struct hlm_rank_mean, num_ranks);
    means->own_less_s = HLM_ARENA_ARRAY(set->arena, double, num_ranks);
    means->most_rank = -1;
    for (int32_t r = 0; r < num_ranks; r++) {
        struct hlm_rank_mean mean = {.rank = r};
        double by_minor = 0.0;
        mean.layer_s = mean_layer_s(set, row, r, kind, &means->own_less_s[r], &by_minor);
        means->less_s += means->own_less_s[r];
        if (means->most_rank < 0 || by_minor > means->most_s) {
            means->next_s = means->most_s;
            means->most_s = by_minor;
            means->most_rank = r;
        } else {
            means->next_s = hlm_larger(means->next_s, by_minor);
        }
        int32_t at = r;
        for (; at > 0 && means->ranks[at - 1].layer_s > mean.layer_s; at--) {
            means->ranks[at] = means->ranks[at - 1];
        }
        means->ranks[at] = mean;
    }
    return means;
}

static const struct hlm_rank_means *means_of(const struct hlm_rank_set *set, int32_t row,
                                             int32_t kind)
{
    const struct hlm_rank_means **means = &set->means[row * HLM_NUM_LAYER_KINDS + kind];
    if (*means == NULL) {
        *means = make_means(set, row, kind);
    }
    return *means;
}

struct narrowing {
    struct hlm_arena *scratch;
    struct hlm_rank_set *set;
    struct hlm_rank_caps *caps;
    bool changed; /* by the pass so far */
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

/* The least that `num` layers of a kind take in a row on the ranks other than `own`, the cheapest
 * ranks first, each up to its cap. */
static double least_elsewhere(const struct narrowing *narrowing, int32_t row, int32_t own,
                              int32_t kind, int32_t num)
{
    const struct hlm_rank_set *set = narrowing->set;
    if (num == 0 && (kind == set->minor || set->num_major == 0)) {
        return 0.0;
    }
    const struct hlm_rank_means *means = means_of(set, row, kind);
    const double minor_s = means->most_rank == own ? means->next_s : means->most_s;
    double seconds = -means->less_s - set->num_minor * minor_s;
    seconds += own >= 0 ? means->own_less_s[own] : 0.0;
    for (int32_t i = 0; i < set->problem->order->num_ranks && num > 0; i++) {
        const struct hlm_rank_mean *mean = &means->ranks[i];
        const int32_t room = mean->rank == own ? 0 : narrowing->caps->most[mean->rank];
        const int32_t taken = room < num ? room : num;
        if (taken > 0) {
            seconds += taken * mean->layer_s;
            num -= taken;
        }
    }
    return num > 0 ? (double)INFINITY : seconds;
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
               least_elsewhere(narrowing, row, rank, set->major, set->num_major - major) +
               least_elsewhere(narrowing, row, rank, set->minor, set->num_minor - minor) <=
           narrowing->caps->cutoff_s;
}

/* Returns whether the rank can hold anything at all. */
static bool narrow_rank(struct narrowing *narrowing, int32_t row, int32_t rank)
{
    struct hlm_rank_set *set = narrowing->set;
    struct hlm_rank_caps *caps = narrowing->caps;
    const double others_s = others_base_s(set, row, rank);
    int32_t most = -1;
    for (int32_t minor = 0; minor <= set->num_minor; minor++) {
        int32_t *cap = &caps->most_major[rank * (set->num_minor + 1) + minor];
        while (*cap >= 0 && !load_is_within(narrowing, row, rank, minor, *cap, others_s)) {
            (*cap)--;
            narrowing->changed = true;
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
    return others_base_s(set, row, -1) +
               least_elsewhere(narrowing, row, -1, set->major, set->num_major) +
               least_elsewhere(narrowing, row, -1, set->minor, set->num_minor) <=
           narrowing->caps->cutoff_s;
}

/* Once through all rows, each by its rank. */
static bool narrow_all(struct narrowing *narrowing)
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
    struct narrowing narrowing = {.scratch = arena, .set = set, .caps = out, .changed = true};
    bool within = true;
    for (int pass = 0; within && narrowing.changed && pass < NUM_PASSES; pass++) {
        narrowing.changed = false;
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
