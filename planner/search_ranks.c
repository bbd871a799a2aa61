/* The levels of a column whose schedule is bounded by paths (rank_set.h). */
#include <math.h>

#include "planner/rank_ilp.h"
#include "planner/rank_list.h"
#include "planner/search_internal.h"

/* Nodes of one ILP; what is proved until then counts. */
enum { MAX_RANK_NODES = 100 };
/* Simulations of moved layers for one column, beyond which the best so far will do. */
enum { MAX_MOVES = 40 };

/* --- incumbents --- */

static void take(struct hlm_search_state *search, struct hlm_search_column *expanded,
                 const struct hlm_rank_partition *partition, double step_s)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(search->scratch);
    hlm_search_take_plan(search, expanded,
                         hlm_column_ranked_stages(search->scratch, &expanded->column, partition),
                         step_s);
    hlm_arena_rewind(search->scratch, mark);
}

/* Chooses recompute for the ends and simulates. */
static double try_ends(struct hlm_search_state *search, struct hlm_search_column *expanded,
                       struct hlm_rank_partition *partition)
{
    const struct hlm_rank_problem *problem = &expanded->column.ranks;
    if (!hlm_rank_choose_recompute(search->scratch, problem, partition)) {
        return INFINITY;
    }
    const double step_s = hlm_rank_simulate(search->scratch, problem, partition);
    if (isfinite(step_s)) {
        take(search, expanded, partition, step_s);
    }
    return step_s;
}

/* Moves the boundaries of stages by a layer while that makes the step shorter. */
static void improve(struct hlm_search_state *search, struct hlm_search_column *expanded,
                    struct hlm_rank_partition *partition, double step_s)
{
    const int32_t n = hlm_column_num_stages(&expanded->column);
    const int32_t num_layers = expanded->column.ranks.num_layers;
    int32_t left = MAX_MOVES;
    struct hlm_rank_partition moved = hlm_rank_partition_new(search->scratch, n);
    for (bool improved = true; improved && left > 0;) {
        improved = false;
        for (int32_t i = 0; i < 2 * (n - 1) && left > 0; i++) {
            const int32_t s = i / 2, by = i % 2 == 0 ? 1 : -1;
            hlm_rank_partition_copy(&moved, partition, n);
            moved.ends[s] += by;
            const int32_t low = s == 0 ? 0 : moved.ends[s - 1];
            if (moved.ends[s] < low || moved.ends[s] > num_layers ||
                moved.ends[s] > moved.ends[s + 1]) {
                continue;
            }
            left--;
            const double moved_s = try_ends(search, expanded, &moved);
            if (moved_s < step_s * (1 - 1e-9)) {
                step_s = moved_s;
                hlm_rank_partition_copy(partition, &moved, n);
                improved = true;
            }
        }
    }
}

/* Layers of the ranks, as equal as the caps let them be; what is left over goes to the middle. */
static void even_totals(const struct hlm_rank_problem *problem, const struct hlm_rank_caps *caps,
                        int32_t *totals)
{
    const int32_t p = problem->order->num_ranks;
    int32_t left = problem->num_layers;
    for (int32_t r = 0; r < p; r++) {
        totals[r] = 0;
    }
    for (int32_t level = 1; left > 0 && level <= problem->num_layers; level++) {
        for (int32_t i = 0; i < p && left > 0; i++) {
            const int32_t r = (p / 2 + (i % 2 == 0 ? i / 2 : p - 1 - i / 2)) % p;
            if (totals[r] < level && totals[r] < caps->most[r]) {
                totals[r]++;
                left--;
            }
        }
    }
}

/* Layers of the ranks, spread evenly over their stages: tried, and improved. firsts: NULL, or the
 * ILP's. */
static void guess(struct hlm_search_state *search, struct hlm_search_column *expanded,
                  const int32_t *totals, const int32_t *firsts, bool improves)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(search->scratch);
    const struct hlm_rank_problem *problem = &expanded->column.ranks;
    struct hlm_rank_partition partition =
        hlm_rank_partition_new(search->scratch, problem->order->num_stages);
    hlm_rank_spread(problem, totals, firsts, &partition);
    const double step_s = try_ends(search, expanded, &partition);
    if (isfinite(step_s) && expanded->threshold_s < hlm_search_goal_s(search) && improves) {
        improve(search, expanded, &partition, step_s);
    }
    hlm_arena_rewind(search->scratch, mark);
}

static void guess_evenly(struct hlm_search_state *search, struct hlm_search_column *expanded,
                         const struct hlm_rank_caps *caps, bool has_paths)
{
    int32_t *totals = HLM_ARENA_ARRAY(search->scratch, int32_t, expanded->column.strategy.pp);
    even_totals(&expanded->column.ranks, caps, totals);
    guess(search, expanded, totals, NULL, has_paths);
}

/* --- the levels --- */

bool hlm_search_expand_ranks(struct hlm_search_state *search, struct hlm_search_column *expanded,
                             double *bound_s, bool *out_feasible)
{
    const double limit_s = hlm_search_limit_s(search);
    const struct hlm_arena_mark mark = hlm_arena_mark(search->scratch);
    struct hlm_rank_caps caps;
    expanded->ranks = hlm_rank_set_new(expanded->arena, &expanded->column.ranks, limit_s);
    const double threshold_s =
        hlm_rank_threshold(search->scratch, expanded->ranks, *bound_s, limit_s, &caps);
    *out_feasible = isfinite(threshold_s) || isfinite(limit_s);
    if (isfinite(threshold_s)) {
        *bound_s = fmax(*bound_s, threshold_s);
        expanded->threshold_s = *bound_s;
        guess_evenly(search, expanded, &caps, false);
    }
    hlm_arena_rewind(search->scratch, mark);
    return isfinite(threshold_s);
}

bool hlm_search_take_paths(struct hlm_search_state *search, struct hlm_search_column *expanded,
                           double *bound_s)
{
    /* Rows of paths may give the step that was simulated, in sums of another order: the column that
     * has the best plan stays in. */
    const double limit_s = hlm_search_limit_s(search) * (1 + 1e-6);
    const struct hlm_arena_mark mark = hlm_arena_mark(search->scratch);
    struct hlm_rank_caps caps;
    hlm_column_take_paths(search->cache, &expanded->column);
    hlm_rank_set_read_rows(expanded->ranks);
    const double threshold_s =
        hlm_rank_threshold(search->scratch, expanded->ranks, *bound_s, limit_s, &caps);
    if (isfinite(threshold_s)) {
        *bound_s = fmax(*bound_s, threshold_s);
        expanded->threshold_s = *bound_s;
        guess_evenly(search, expanded, &caps, true);
    }
    hlm_arena_rewind(search->scratch, mark);
    return isfinite(threshold_s);
}

/* The loads of least bound by the ILP; false: none within the limit. *out_least_s: what is proved.
 */
static bool find_loads(struct hlm_search_state *search, struct hlm_search_column *expanded,
                       int32_t *minors, int32_t *majors, int32_t *firsts, double *out_bound_s,
                       double *out_least_s)
{
    struct hlm_rank_caps caps;
    int32_t num_nodes = 0;
    const double cutoff_s = hlm_search_limit_s(search) * (1 + 1e-6);
    if (!hlm_rank_narrow(search->scratch, expanded->ranks, cutoff_s, &caps)) {
        return false;
    }
    const enum hlm_ilp_outcome outcome =
        hlm_rank_glpk(search->scratch, expanded->ranks, &caps, expanded->threshold_s,
                      MAX_RANK_NODES, minors, majors, firsts, out_bound_s, out_least_s, &num_nodes);
    search->certificate.num_ilps++;
    search->certificate.num_nodes += num_nodes;
    if (outcome == HLM_ILP_INCUMBENT || outcome == HLM_ILP_UNKNOWN) {
        search->is_least_proved = false;
    }
    if (outcome == HLM_ILP_UNKNOWN) {
        *out_bound_s = INFINITY;
    }
    return outcome != HLM_ILP_NO_BETTER;
}

bool hlm_search_solve_ranks(struct hlm_search_state *search, struct hlm_search_column *expanded,
                            double *bound_s)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(search->scratch);
    const int32_t p = expanded->column.strategy.pp;
    int32_t *minors = HLM_ARENA_ARRAY(search->scratch, int32_t, p);
    int32_t *majors = HLM_ARENA_ARRAY(search->scratch, int32_t, p);
    int32_t *firsts = HLM_ARENA_ARRAY(search->scratch, int32_t, p);
    double loads_s = 0.0, least_s = 0.0;
    const bool found = find_loads(search, expanded, minors, majors, firsts, &loads_s, &least_s);
    if (found) {
        *bound_s = fmax(*bound_s, fmin(least_s, loads_s));
        expanded->threshold_s = fmax(expanded->threshold_s, *bound_s);
        if (isfinite(loads_s)) {
            expanded->ilp_s = loads_s;
            for (int32_t r = 0; r < p; r++) {
                majors[r] += minors[r];
            }
            guess(search, expanded, majors, firsts, true);
        }
    }
    hlm_arena_rewind(search->scratch, mark);
    return found;
}

struct listing {
    struct hlm_search_state *search;
    struct hlm_search_column *expanded;
};

static double take_listed(void *context, const struct hlm_rank_partition *partition, double step_s)
{
    struct listing *listing = context;
    take(listing->search, listing->expanded, partition, step_s);
    return hlm_search_goal_s(listing->search);
}

bool hlm_search_list_ranks(struct hlm_search_state *search, struct hlm_search_column *expanded)
{
    static const double most_work = 2e7; /* of one column: a tenth of a second */
    struct listing listing = {search, expanded};
    struct hlm_arena *scratch = hlm_arena_new(); /* simulating rewinds the search's own */
    struct hlm_rank_caps caps;
    double work = fmin(most_work, search->work_left);
    bool all = true;
    if (hlm_rank_narrow(scratch, expanded->ranks, hlm_search_goal_s(search), &caps)) {
        const double before = work;
        all = hlm_rank_list(scratch, &expanded->column.ranks, &caps, &work, take_listed, &listing);
        search->work_left -= before - work;
    }
    hlm_arena_free(scratch);
    return all;
}
