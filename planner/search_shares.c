/* Replicas with shares of their own, searched once the columns without are: most of them are then
 * refused by the best plan known. */
#include <math.h>
#include <stdlib.h>

#include "planner/search_internal.h"
#include "planner/share_column.h"

/* Simulated actions that listing the plans of one column may take: a tenth of a second. */
static const double most_list_work = 2e7;

/* A column that the closed form does not refuse. */
struct candidate {
    struct hlm_share_column *column;
    double bound_s; /* of the closed form */
    int32_t index;  /* order of ties */
};

struct finder {
    struct hlm_search_state *search;
    struct hlm_arena *arena;
    struct candidate *candidates;
    int32_t num_candidates, room;
};

static int by_bound(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;
    if (a->bound_s < b->bound_s || a->bound_s > b->bound_s) {
        return a->bound_s < b->bound_s ? -1 : 1;
    }
    return a->index - b->index;
}

/* Nothing of it is open from `bound_s` on. */
static void lower(struct hlm_search_state *search, double bound_s)
{
    search->shares.bound_s = fmin(search->shares.bound_s, bound_s);
}

/* What has to be refused of a column: without a plan, whatever takes no more than this. */
static double goal_of(const struct hlm_search_state *search)
{
    static const double longest_s = 1e9;
    return fmin(hlm_search_goal_s(search), longest_s);
}

/* From where on plans are of no interest: the best plan known, or where there is none the goal. */
static double far_of(const struct hlm_search_state *search)
{
    return fmax(goal_of(search), fmin(hlm_search_best_step_s(search), 1e9));
}

/* The largest seconds that are refused, at least goal_s, to a sixteenth of the gap up to far_s;
 * negative: not even goal_s is. */
typedef bool refuses_fn(void *context, double seconds);

static double refused_s(refuses_fn *refuses, void *context, double goal_s, double far_s)
{
    enum { NUM_HALVINGS = 4 };
    if (refuses(context, far_s)) {
        return far_s;
    }
    if (!refuses(context, goal_s)) {
        return -1.0;
    }
    for (int32_t i = 0; i < NUM_HALVINGS; i++) {
        const double middle_s = 0.5 * (goal_s + far_s);
        *(refuses(context, middle_s) ? &goal_s : &far_s) = middle_s;
    }
    return goal_s;
}

static bool closed_form_refuses(void *context, double seconds)
{
    return hlm_share_closed_form_refuses(context, seconds);
}

static bool rows_refuse(void *context, double seconds)
{
    return hlm_share_rows_refuse(context, seconds);
}

struct priced_family {
    struct hlm_pricer_cache *cache;
    const struct hlm_share_family *family;
};

static bool family_refuses(void *context, double seconds)
{
    const struct priced_family *priced = context;
    bool refuses = false;
    struct hlm_err unused; /* the cost model took it before */
    return hlm_share_family_refuses(priced->cache, priced->family, seconds, &refuses, &unused) ==
               HLM_OK &&
           refuses;
}

static void keep(struct finder *finder, struct hlm_share_column *column, double bound_s)
{
    if (finder->num_candidates == finder->room) {
        finder->room = finder->room == 0 ? 64 : 2 * finder->room;
        struct candidate *larger = HLM_ARENA_ARRAY(finder->arena, struct candidate, finder->room);
        for (int32_t i = 0; i < finder->num_candidates; i++) {
            larger[i] = finder->candidates[i];
        }
        finder->candidates = larger;
    }
    finder->candidates[finder->num_candidates] =
        (struct candidate){column, bound_s, finder->num_candidates};
    finder->num_candidates++;
}

static void close_forms(struct finder *finder, const struct hlm_share_family *family)
{
    struct hlm_search_state *search = finder->search;
    struct hlm_strategy members[HLM_MAX_SHARE_MEMBERS];
    const int32_t num = hlm_share_members(search->problem, family, members);
    for (int32_t i = 0; i < num; i++) {
        const double goal_s = goal_of(search);
        struct hlm_share_column *column =
            hlm_share_column_new(finder->arena, search->cache, family, &members[i]);
        search->certificate.num_bounds++;
        if (column == NULL) {
            search->shares.num_infeasible++;
            continue;
        }
        const double bound_s = refused_s(closed_form_refuses, column, goal_s, far_of(search));
        if (bound_s >= 0.0) {
            lower(search, bound_s);
            hlm_share_column_free(column);
        } else {
            keep(finder, column, hlm_share_bound_s(column, 0.0, goal_s, false));
        }
    }
}

static void find_candidates(struct finder *finder)
{
    struct hlm_search_state *search = finder->search;
    const struct hlm_share_family *families = NULL;
    int32_t num_families = 0;
    hlm_share_families(search->kept, search->problem, &families, &num_families);
    for (int32_t i = 0; i < num_families; i++) {
        const double goal_s = goal_of(search);
        bool refuses = false;
        struct hlm_err unused;
        search->certificate.num_bounds++;
        if (hlm_share_family_refuses(search->cache, &families[i], goal_s, &refuses, &unused) !=
            HLM_OK) {
            continue; /* a device lacks the dtype */
        }
        search->shares.num_columns += families[i].num_members;
        struct priced_family priced = {search->cache, &families[i]};
        if (refuses) {
            lower(search, refused_s(family_refuses, &priced, goal_s, far_of(search)));
        } else {
            close_forms(finder, &families[i]);
        }
    }
}

static void take_plan(struct finder *finder, const struct hlm_share_column *column,
                      const struct hlm_share_plan *plan)
{
    struct hlm_search_shares *shares = &finder->search->shares;
    if (plan->step_s < shares->step_s * (1 - 1e-9)) {
        shares->step_s = plan->step_s;
        shares->strategy = hlm_share_strategy(finder->search->kept, column, plan->shares);
        shares->stages = hlm_arena_memdup(finder->search->kept, plan->stages,
                                          (size_t)shares->strategy.pp * sizeof(*plan->stages));
    }
}

/* Plans of the column, and what none of them is below. */
static void look_into(struct finder *finder, struct candidate *candidate)
{
    struct hlm_search_state *search = finder->search;
    struct hlm_share_column *column = candidate->column;
    int64_t *num_simulated = &search->certificate.num_simulated;
    struct hlm_share_plan best = {.step_s = INFINITY};
    const double bound_s = refused_s(rows_refuse, column, goal_of(search), far_of(search));
    if (bound_s >= 0.0) {
        lower(search, bound_s);
        return;
    }
    search->shares.num_open++;
    hlm_share_guess(column, &best, num_simulated);
    take_plan(finder, column, &best);
    const double goal_s = goal_of(search);
    if (hlm_share_rows_refuse(column, goal_s)) {
        lower(search, goal_s);
        return;
    }
    double work_left = fmin(most_list_work, search->work_left);
    const double before = work_left;
    const double listed_s = hlm_share_list(column, goal_s, search->problem->max_gap_frac, &best,
                                           &work_left, num_simulated);
    search->work_left -= before - work_left;
    take_plan(finder, column, &best);
    lower(search, fmax(listed_s, hlm_share_bound_s(column, candidate->bound_s, goal_s, true)));
}

void hlm_search_find_shares(struct hlm_search_state *search)
{
    struct finder finder = {.search = search, .arena = hlm_arena_new()};
    find_candidates(&finder);
    if (finder.num_candidates > 1) {
        qsort(finder.candidates, (size_t)finder.num_candidates, sizeof(*finder.candidates),
              by_bound);
    }
    for (int32_t i = 0; i < finder.num_candidates; i++) {
        const double goal_s = goal_of(search);
        if (finder.candidates[i].bound_s >= goal_s) {
            lower(search, goal_s);
        } else {
            look_into(&finder, &finder.candidates[i]);
        }
        hlm_share_column_free(finder.candidates[i].column);
    }
    hlm_arena_free(finder.arena);
}
