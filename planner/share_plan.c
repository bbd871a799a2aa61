#include "planner/share_column_internal.h"

#include <math.h>
#include <string.h>

#include "planner/partition_dp.h"

enum { MAX_MOVES = 200 };
/* Sums in another order may differ by this much. */
static const double tie_frac = 1e-9;

static bool take(struct hlm_share_column *column, const struct hlm_share_split *split,
                 const int64_t *shares, double step_s, struct hlm_share_plan *best)
{
    if (!(step_s < best->step_s * (1 - tie_frac))) {
        return false;
    }
    const size_t bytes = (size_t)column->strategy.pp * sizeof(*best->stages);
    best->step_s = step_s;
    if (best->stages == NULL) {
        best->stages = HLM_ARENA_ARRAY(column->arena, struct hlm_plan_stage, column->strategy.pp);
    }
    memcpy(best->stages, split->shared[0], bytes);
    for (int32_t g = 0; g < column->num_groups; g++) {
        best->shares[g] = shares[g];
    }
    return true;
}

/* --- guesses --- */

/* Walks over all shares with most[g] at most and the total as their sum. False: stopped. */
typedef bool visit_shares_fn(void *context, const int64_t *shares);

static bool each_shares(const struct hlm_share_column *column, const int64_t *most, int32_t g,
                        int64_t left, int64_t *shares, visit_shares_fn *visit, void *context)
{
    const int64_t dp = hlm_share_dp(&column->strategy, g);
    int64_t others = 0;
    for (int32_t h = g + 1; h < column->num_groups; h++) {
        others += most[h] * hlm_share_dp(&column->strategy, h);
    }
    if (g + 1 == column->num_groups) {
        shares[g] = left / dp;
        return left % dp != 0 || shares[g] < 1 || shares[g] > most[g] || visit(context, shares);
    }
    const int64_t least = left > others ? (left - others + dp - 1) / dp : 1;
    for (int64_t m = most[g]; m >= least && m >= 1; m--) {
        shares[g] = m;
        if (m * dp < left &&
            !each_shares(column, most, g + 1, left - m * dp, shares, visit, context)) {
            return false;
        }
    }
    return true;
}

static bool keep_first(void *context, const int64_t *shares)
{
    memcpy(context, shares, HLM_MAX_MIXED_GROUPS * sizeof(*shares));
    return false;
}

/* Shares whose sum is whole, within the shortest step in which the closed form has some. */
static bool even_shares(struct hlm_share_column *column, double low_s, int64_t *shares)
{
    int64_t most[HLM_MAX_MIXED_GROUPS] = {0}, at[HLM_MAX_MIXED_GROUPS] = {0};
    for (double goal_s = low_s * (1 + 1e-4); isfinite(goal_s) && goal_s < 4 * low_s;
         goal_s *= 1.005) {
        if (hlm_share_find_most(column, goal_s, hlm_share_group_form_refuses, most) &&
            !each_shares(column, most, 0, column->total, at, keep_first, shares)) {
            return true;
        }
    }
    return false;
}

/* Moves single layers over boundaries while that lowers the group's bound. */
static void improve_ends(struct hlm_pattern_set *set, int32_t *ends)
{
    const int32_t p = hlm_pattern_set_placement(set)->num_stages;
    double bound_s = hlm_bound_partition(set, ends);
    for (bool improved = true; improved;) {
        improved = false;
        for (int32_t i = 0; i < 2 * (p - 1); i++) {
            const int32_t s = i / 2, by = i % 2 == 0 ? -1 : 1;
            const int32_t low = s == 0 ? 0 : ends[s - 1];
            if (ends[s] + by < low || ends[s] + by > ends[s + 1]) {
                continue;
            }
            ends[s] += by;
            const double moved_s = hlm_bound_partition(set, ends);
            if (moved_s < bound_s) {
                bound_s = moved_s;
                improved = true;
            } else {
                ends[s] -= by;
            }
        }
    }
}

/* Moves microbatches from the slowest replicas to others while that helps. */
static void move_shares(struct hlm_share_column *column, const struct hlm_share_split *split,
                        const int32_t *ends, int64_t *shares, struct hlm_share_plan *best,
                        int64_t *num_simulated)
{
    int32_t slowest = 0;
    double least_s = 0.0,
           step_s = hlm_share_try_split(column, split, ends, shares, &least_s, &slowest);
    ++*num_simulated;
    (void)take(column, split, shares, step_s, best);
    for (int32_t moves = 0; moves < MAX_MOVES && isfinite(step_s);) {
        const int32_t from = slowest;
        bool improved = false;
        for (int32_t to = 0; to < column->num_groups && !improved; to++) {
            int64_t moved[HLM_MAX_MIXED_GROUPS] = {0};
            const int64_t a = hlm_share_dp(&column->strategy, from),
                          b = hlm_share_dp(&column->strategy, to);
            memcpy(moved, shares, (size_t)column->num_groups * sizeof(*moved));
            int64_t give = 1;
            while (give * a % b != 0) {
                give++;
            }
            moved[from] -= give;
            moved[to] += give * a / b;
            if (to == from || moved[from] < 1) {
                continue;
            }
            int32_t slower = 0;
            const double moved_s =
                hlm_share_try_split(column, split, ends, moved, &least_s, &slower);
            ++*num_simulated;
            moves++;
            if (moved_s < step_s * (1 - tie_frac)) {
                (void)take(column, split, moved, moved_s, best);
                memcpy(shares, moved, (size_t)column->num_groups * sizeof(*moved));
                step_s = moved_s;
                slowest = slower;
                improved = true;
            }
        }
        if (!improved) {
            return;
        }
    }
}

void hlm_share_guess(struct hlm_share_column *column, struct hlm_share_plan *best,
                     int64_t *num_simulated)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(column->scratch);
    int64_t even[HLM_MAX_MIXED_GROUPS] = {0};
    double high_s = 1e-3;
    while (hlm_share_closed_form_refuses(column, high_s) && high_s < 1e12) {
        high_s *= 2;
    }
    const double low_s = hlm_share_bound_s(column, 0.0, high_s, false);
    const struct hlm_share_split split = hlm_share_new_split(column);
    int32_t *ends = HLM_ARENA_ARRAY(column->scratch, int32_t, column->strategy.pp);
    if (even_shares(column, low_s, even)) {
        for (int32_t g = 0; g < column->num_groups; g++) {
            struct hlm_share_group *group = hlm_share_complete(column, g, even[g]);
            int64_t shares[HLM_MAX_MIXED_GROUPS] = {0};
            const double threshold_s =
                hlm_bound_threshold(column->scratch, group->set, 1e-9, (double)INFINITY, ends);
            if (isfinite(threshold_s) && isfinite(hlm_bound_partition(group->set, ends))) {
                improve_ends(group->set, ends);
                memcpy(shares, even, sizeof(shares));
                move_shares(column, &split, ends, shares, best, num_simulated);
            }
        }
    }
    hlm_arena_rewind(column->scratch, mark);
}

/* --- all plans below a goal --- */

struct listing {
    struct hlm_share_column *column;
    const struct hlm_share_split *split;
    struct hlm_share_plan *best;
    const int64_t *shares;
    double goal_s, max_gap_frac, least_s;
    double *work_left;
    int64_t *num_simulated;
};

static double goal_of(const struct listing *listing)
{
    return fmin(listing->goal_s,
                listing->best->step_s * (1 - fmax(listing->max_gap_frac - 2 * tie_frac, tie_frac)));
}

static double visit_split(void *context, const struct hlm_partition *partition)
{
    struct listing *listing = context;
    struct hlm_share_column *column = listing->column;
    *listing->work_left -= (double)column->strategy.pp * (double)column->total;
    if (*listing->work_left < 0) {
        return -INFINITY;
    }
    double least_s = 0.0;
    const double step_s = hlm_share_try_split(column, listing->split, partition->ends,
                                              listing->shares, &least_s, NULL);
    ++*listing->num_simulated;
    (void)take(column, listing->split, listing->shares, step_s, listing->best);
    listing->least_s = fmin(listing->least_s, least_s);
    return goal_of(listing);
}

/* Lists the splits of the group that has the longest way to go. */
static bool visit_shares(void *context, const int64_t *shares)
{
    struct listing *listing = context;
    struct hlm_share_column *column = listing->column;
    struct hlm_arena *scratch = hlm_arena_new();
    struct hlm_bound_windows windows;
    int32_t longest = 0;
    double most_s = -1.0;
    for (int32_t g = 0; g < column->num_groups; g++) {
        struct hlm_placement placement = column->groups[g].times.placement;
        placement.num_microbatches = (int32_t)shares[g];
        const double bound_s = hlm_bound_closed_form(&placement);
        longest = bound_s > most_s ? g : longest;
        most_s = fmax(most_s, bound_s);
    }
    bool possible = true;
    for (int32_t g = 0; g < column->num_groups && possible; g++) {
        possible = !hlm_share_group_rows_refuse(column, g, shares[g], goal_of(listing));
    }
    listing->shares = shares;
    struct hlm_share_group *group = hlm_share_complete(column, longest, shares[longest]);
    if (possible && hlm_bound_narrow(scratch, group->set, goal_of(listing), &windows)) {
        hlm_partition_list(scratch, group->set, &windows, visit_split, listing);
    }
    hlm_arena_free(scratch);
    *listing->work_left -= 1000.0;
    return *listing->work_left >= 0;
}

double hlm_share_list(struct hlm_share_column *column, double goal_s, double max_gap_frac,
                      struct hlm_share_plan *best, double *work_left, int64_t *num_simulated)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(column->scratch);
    const struct hlm_share_split split = hlm_share_new_split(column);
    struct listing listing = {.column = column,
                              .split = &split,
                              .best = best,
                              .goal_s = goal_s,
                              .max_gap_frac = max_gap_frac,
                              .least_s = INFINITY,
                              .work_left = work_left,
                              .num_simulated = num_simulated};
    int64_t most[HLM_MAX_MIXED_GROUPS], shares[HLM_MAX_MIXED_GROUPS] = {0};
    if (hlm_share_find_most(column, goal_s, hlm_share_group_rows_refuse, most)) {
        (void)each_shares(column, most, 0, column->total, shares, visit_shares, &listing);
    }
    hlm_arena_rewind(column->scratch, mark);
    return *work_left < 0 ? 0.0 : fmin(listing.least_s, goal_of(&listing));
}
