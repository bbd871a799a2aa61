#include "planner/search_internal.h"
#include <stdio.h>
#include <stdlib.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fmt.h"
#include "planner/columns.h"
#include "planner/infeasible.h"
#include "planner/partition_dp.h"
#include "planner/partition_glpk.h"

/* Nodes of one ILP, beyond which the DP decides; placements take a handful. */
enum { MAX_COLUMN_NODES = 300 };
/* How far runners-up are looked for: they are there to be weighed against the plan, by profiles
 * whose spread is larger than this. */
enum { RUNNER_UP_GAPS = 3 };
/* Seconds are compared with this much slack, as sums in another order differ. */
static const double tie_frac = 1e-9;

/* --- heap --- */

static bool comes_before(const struct hlm_search_candidate *a, const struct hlm_search_candidate *b)
{
    if (a->bound_s < b->bound_s || a->bound_s > b->bound_s) {
        return a->bound_s < b->bound_s;
    }
    return a->index < b->index;
}

static void heap_swap(struct hlm_search_state *search, int32_t i, int32_t j)
{
    const struct hlm_search_candidate other = search->heap[i];
    search->heap[i] = search->heap[j];
    search->heap[j] = other;
}

/* A larger array of the same items. */
static void *grow(struct hlm_arena *arena, const void *items, size_t size, int32_t count,
                  int32_t *room)
{
    *room = *room == 0 ? 1024 : 2 * *room;
    void *larger = hlm_arena_alloc(arena, (size_t)*room, size);
    if (count > 0) {
        memcpy(larger, items, (size_t)count * size);
    }
    return larger;
}

static void heap_push(struct hlm_search_state *search, const struct hlm_search_candidate *candidate)
{
    if (search->heap_size == search->heap_room) {
        search->heap = grow(search->kept, search->heap, sizeof(*search->heap), search->heap_size,
                            &search->heap_room);
    }
    int32_t at = search->heap_size++;
    search->heap[at] = *candidate;
    while (at > 0 && comes_before(&search->heap[at], &search->heap[(at - 1) / 2])) {
        heap_swap(search, at, (at - 1) / 2);
        at = (at - 1) / 2;
    }
}

static struct hlm_search_candidate heap_pop(struct hlm_search_state *search)
{
    const struct hlm_search_candidate top = search->heap[0];
    search->heap[0] = search->heap[--search->heap_size];
    for (int32_t at = 0;;) {
        int32_t least = at;
        for (int32_t child = 2 * at + 1; child <= 2 * at + 2; child++) {
            if (child < search->heap_size &&
                comes_before(&search->heap[child], &search->heap[least])) {
                least = child;
            }
        }
        if (least == at) {
            return top;
        }
        heap_swap(search, at, least);
        at = least;
    }
}

/* --- incumbents --- */

double hlm_search_limit_s(const struct hlm_search_state *search)
{
    const int32_t last = search->problem->top_k;
    return search->num_planned > last ? search->planned[last]->best_step_s : (double)INFINITY;
}

/* Moves the column to its place among those with a plan; equal steps keep their order. */
static void rank_column(struct hlm_search_state *search, struct hlm_search_column *expanded)
{
    int32_t at = 0;
    while (at < search->num_planned && search->planned[at] != expanded) {
        at++;
    }
    if (at == search->num_planned) {
        if (at == search->planned_room) {
            search->planned = grow(search->kept, search->planned,
                                   sizeof(struct hlm_search_column *), at, &search->planned_room);
        }
        search->planned[search->num_planned++] = expanded;
    }
    for (; at > 0 && search->planned[at - 1]->best_step_s > expanded->best_step_s * (1 + tie_frac);
         at--) {
        search->planned[at] = search->planned[at - 1];
        search->planned[at - 1] = expanded;
    }
}

void hlm_search_take_plan(struct hlm_search_state *search, struct hlm_search_column *expanded,
                          const struct hlm_plan_stage *stages, double step_s)
{
    search->certificate.num_simulated++;
    if (step_s < expanded->best_step_s * (1 - tie_frac)) {
        const size_t num_stages = (size_t)hlm_column_num_stages(&expanded->column);
        expanded->best_step_s = step_s;
        expanded->stages = hlm_arena_memdup(expanded->arena, stages, num_stages * sizeof(*stages));
        rank_column(search, expanded);
    }
}

struct hlm_search_column *hlm_search_least_ilp(const struct hlm_search_state *search)
{
    struct hlm_search_column *least = NULL;
    for (int32_t i = 0; i < search->num_expanded; i++) {
        struct hlm_search_column *expanded = search->expanded[i];
        if (isfinite(expanded->ilp_s) && (least == NULL || expanded->ilp_s < least->ilp_s)) {
            least = expanded;
        }
    }
    return least;
}

static void simulate_ends(struct hlm_search_state *search, struct hlm_search_column *expanded,
                          const int32_t *ends)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(search->scratch);
    const struct hlm_plan_stage *stages =
        hlm_column_stages(search->scratch, expanded->set, &expanded->column, ends);
    hlm_search_take_plan(search, expanded, stages,
                         hlm_column_simulate(search->scratch, &expanded->column, stages));
    hlm_arena_rewind(search->scratch, mark);
}

/* --- from the closed form to the threshold --- */

/* Moves single layers over boundaries while that lowers the bound. */
static double improve_ends(struct hlm_pattern_set *set, int32_t *ends)
{
    enum { MAX_ROUNDS = 50 };
    const int32_t p = hlm_pattern_set_placement(set)->num_stages;
    double bound_s = hlm_bound_partition(set, ends);
    bool improved = true;
    for (int32_t round = 0; improved && round < MAX_ROUNDS; round++) {
        improved = false;
        for (int32_t s = 0; s + 1 < p; s++) {
            for (int32_t move = -1; move <= 1; move += 2) {
                const int32_t low = s == 0 ? 0 : ends[s - 1], moved = ends[s] + move;
                if (moved < low || moved > ends[s + 1]) {
                    continue;
                }
                ends[s] = moved;
                const double moved_s = hlm_bound_partition(set, ends);
                if (moved_s < bound_s) {
                    bound_s = moved_s;
                    improved = true;
                } else {
                    ends[s] = moved - move;
                }
            }
        }
    }
    return bound_s;
}

static struct hlm_search_column *expanded_new(const struct hlm_search_state *search,
                                              const struct hlm_strategy *strategy)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_search_column *expanded = HLM_ARENA_NEW(arena, struct hlm_search_column);
    struct hlm_err unused; /* the cost model took it before */
    expanded->arena = arena;
    const enum hlm_status status =
        hlm_column_init(arena, search->cache, strategy, &expanded->column, &unused);
    HLM_ASSERT(status == HLM_OK);
    hlm_column_complete(arena, search->cache, &expanded->column);
    expanded->ends_bound_s = INFINITY;
    expanded->best_step_s = INFINITY;
    expanded->ilp_s = INFINITY;
    return expanded;
}

static bool fits(const struct hlm_search_state *search, const struct hlm_search_column *expanded)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(search->scratch);
    struct hlm_bound_windows windows;
    const bool some = hlm_bound_narrow(search->scratch, expanded->set, (double)INFINITY, &windows);
    hlm_arena_rewind(search->scratch, mark);
    return some;
}

/* The threshold of a gpipe or 1f1b column. */
static bool expand_stages(struct hlm_search_state *search, struct hlm_search_column *expanded,
                          double *bound_s, bool *out_feasible)
{
    expanded->set = hlm_pattern_set_new(expanded->arena, &expanded->column.placement);
    expanded->ends = HLM_ARENA_ARRAY(expanded->arena, int32_t, expanded->column.strategy.pp);
    *out_feasible = fits(search, expanded);
    const double threshold_s = *out_feasible
                                   ? hlm_bound_threshold(search->scratch, expanded->set, *bound_s,
                                                         hlm_search_limit_s(search), expanded->ends)
                                   : (double)INFINITY;
    if (isinf(threshold_s)) {
        return false;
    }
    *bound_s = fmax(*bound_s, threshold_s);
    expanded->ends_bound_s = improve_ends(expanded->set, expanded->ends);
    if (isfinite(expanded->ends_bound_s)) {
        simulate_ends(search, expanded, expanded->ends);
    }
    return true;
}

/* False: the column is out, and its memory is freed. */
static bool expand(struct hlm_search_state *search, struct hlm_search_candidate *candidate)
{
    struct hlm_search_column *expanded = expanded_new(search, candidate->strategy);
    bool feasible = true;
    const bool stays =
        expanded->column.is_ranked
            ? hlm_search_expand_ranks(search, expanded, &candidate->bound_s, &feasible)
            : expand_stages(search, expanded, &candidate->bound_s, &feasible);
    search->certificate.num_infeasible += feasible ? 0 : 1;
    if (!stays) {
        hlm_arena_free(expanded->arena);
        return false;
    }
    if (search->num_expanded == search->expanded_room) {
        search->expanded = grow(search->kept, search->expanded, sizeof(struct hlm_search_column *),
                                search->num_expanded, &search->expanded_room);
    }
    search->expanded[search->num_expanded++] = expanded;
    candidate->expanded = expanded;
    candidate->level = expanded->column.is_ranked ? HLM_LEVEL_RAMPS : HLM_LEVEL_THRESHOLD;
    expanded->threshold_s = candidate->bound_s;
    return true;
}

/* Of a ranked column, from the ramps to the threshold. False: it is out. */
static bool take_paths(struct hlm_search_state *search, struct hlm_search_candidate *candidate)
{
    candidate->level = HLM_LEVEL_THRESHOLD;
    return candidate->bound_s <= hlm_search_limit_s(search) &&
           hlm_search_take_paths(search, candidate->expanded, &candidate->bound_s);
}

/* --- from the family to the closed form --- */

/* False: the cost model refuses the family. */
static bool price_family(struct hlm_search_state *search, struct hlm_search_candidate *candidate)
{
    double bound_s = 0.0;
    candidate->level = HLM_LEVEL_FAMILY;
    if (hlm_family_bound(search->cache, &candidate->family->strategy, &bound_s, &search->refusal) !=
        HLM_OK) {
        search->num_families_left--;
        search->certificate.num_columns -= candidate->family->num_members;
        return false;
    }
    candidate->bound_s = fmax(candidate->bound_s, bound_s);
    return true;
}

/* Puts the columns of the family into the heap. */
static void list_family(struct hlm_search_state *search,
                        const struct hlm_search_candidate *candidate)
{
    search->num_families_left--;
    const struct hlm_strategy *members =
        hlm_columns_members(search->kept, search->problem, candidate->family);
    for (int64_t i = 0; i < candidate->family->num_members; i++) {
        struct hlm_search_candidate member = *candidate;
        member.index += 1 + i;
        member.strategy = &members[i];
        member.level = HLM_LEVEL_LISTED_ONLY;
        heap_push(search, &member);
    }
}

/* False: the column can't fit. */
static bool close_form(struct hlm_search_state *search, struct hlm_search_candidate *candidate)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(search->scratch);
    struct hlm_column column;
    struct hlm_err unused;
    candidate->level = HLM_LEVEL_CLOSED_FORM;
    const bool priced = hlm_column_init(search->scratch, search->cache, candidate->strategy,
                                        &column, &unused) == HLM_OK;
    HLM_ASSERT(priced); /* the family was; ZeRO and schedules change no operator */
    bool may_fit = hlm_column_may_fit(&column);
    if (may_fit) {
        double bound_s = column.is_ranked ? hlm_column_memory_bound(search->cache, &column)
                                          : hlm_bound_closed_form(&column.placement);
        if (column.is_mixed && !column.is_ranked) {
            bound_s = fmax(bound_s, hlm_column_capacity_bound(search->cache, &column));
        }
        candidate->bound_s = fmax(candidate->bound_s, bound_s);
        may_fit = isfinite(bound_s);
    }
    search->certificate.num_infeasible += may_fit ? 0 : 1;
    hlm_arena_rewind(search->scratch, mark);
    return may_fit;
}

/* --- from the threshold to the ILP --- */

/* The best partition by the ILP; by the DP where the ILP stops at a limit. False: none within
 * cutoff. */
static bool solve_column(struct hlm_search_state *search, const struct hlm_search_column *expanded,
                         double cutoff_s, struct hlm_partition *partition, double *out_least_s)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(search->scratch);
    struct hlm_bound_windows windows;
    int32_t num_nodes = 0;
    bool found = false;
    if (hlm_bound_narrow(search->scratch, expanded->set, cutoff_s, &windows)) {
        const enum hlm_ilp_outcome outcome =
            hlm_partition_glpk(search->scratch, expanded->set, &windows, expanded->threshold_s,
                               MAX_COLUMN_NODES, partition, out_least_s, &num_nodes);
        search->certificate.num_ilps++;
        search->certificate.num_nodes += num_nodes;
        found = outcome == HLM_ILP_PROVED;
        if (outcome == HLM_ILP_INCUMBENT || outcome == HLM_ILP_UNKNOWN) {
            found = hlm_partition_dp(search->scratch, expanded->set, &windows, partition);
            *out_least_s = partition->bound_s;
        }
    }
    hlm_arena_rewind(search->scratch, mark);
    return found;
}

/* The ILP of a gpipe or 1f1b column. */
static bool solve_stages(struct hlm_search_state *search, struct hlm_search_column *expanded,
                         double *bound_s)
{
    const int32_t p = expanded->column.strategy.pp;
    const double cutoff_s = fmin(hlm_search_limit_s(search), expanded->ends_bound_s) * (1 + 1e-6);
    struct hlm_partition partition = {.ends = HLM_ARENA_ARRAY(expanded->arena, int32_t, p)};
    double least_s = 0.0;
    if (!solve_column(search, expanded, cutoff_s, &partition, &least_s)) {
        return false;
    }
    *bound_s = fmax(*bound_s, fmin(least_s, partition.bound_s));
    expanded->ilp_s = partition.bound_s;
    bool same = true;
    for (int32_t s = 0; s < p; s++) {
        same = same && partition.ends[s] == expanded->ends[s];
        expanded->ends[s] = partition.ends[s];
    }
    expanded->ends_bound_s = partition.bound_s;
    if (!same || isinf(expanded->best_step_s)) {
        simulate_ends(search, expanded, partition.ends);
    }
    return true;
}

/* False: nothing in the column is as good as the limit. */
static bool solve(struct hlm_search_state *search, struct hlm_search_candidate *candidate)
{
    struct hlm_search_column *expanded = candidate->expanded;
    candidate->level = HLM_LEVEL_SOLVED;
    return expanded->column.is_ranked
               ? hlm_search_solve_ranks(search, expanded, &candidate->bound_s)
               : solve_stages(search, expanded, &candidate->bound_s);
}

/* --- from the ILP to the gap --- */

struct listing {
    struct hlm_search_state *search;
    struct hlm_search_column *expanded;
    bool gave_up;
};

/* The best step less the gap that is allowed. */
static double within_gap_s(const struct hlm_search_state *search)
{
    /* A little less than is allowed, so that the gap that comes out is not a rounding above it. */
    const double gap_frac = fmax(search->problem->max_gap_frac - 2 * tie_frac, tie_frac);
    return hlm_search_best_step_s(search) * (1 - gap_frac);
}

double hlm_search_goal_s(const struct hlm_search_state *search)
{
    return fmin(within_gap_s(search), search->cutoff_s);
}

static double simulate_listed(void *context, const struct hlm_partition *partition)
{
    struct listing *listing = context;
    struct hlm_search_state *search = listing->search;
    const struct hlm_placement *placement = &listing->expanded->column.placement;
    search->work_left -= (double)placement->num_stages * placement->num_microbatches;
    if (search->work_left < 0) {
        listing->gave_up = true;
        return -INFINITY;
    }
    simulate_ends(search, listing->expanded, partition->ends);
    return hlm_search_goal_s(search);
}

static bool list_stages(struct hlm_search_state *search, struct hlm_search_column *expanded)
{
    struct listing listing = {.search = search, .expanded = expanded};
    struct hlm_arena *scratch = hlm_arena_new(); /* simulating rewinds the search's own */
    struct hlm_bound_windows windows;
    if (hlm_bound_narrow(scratch, expanded->set, hlm_search_goal_s(search), &windows)) {
        hlm_partition_list(scratch, expanded->set, &windows, simulate_listed, &listing);
    }
    hlm_arena_free(scratch);
    return !listing.gave_up;
}

static void list_partitions(struct hlm_search_state *search, struct hlm_search_candidate *candidate)
{
    struct hlm_search_column *expanded = candidate->expanded;
    const bool all = expanded->column.is_ranked ? hlm_search_list_ranks(search, expanded)
                                                : list_stages(search, expanded);
    candidate->level = all ? HLM_LEVEL_LISTED : HLM_LEVEL_GIVEN_UP;
    if (all) {
        candidate->bound_s = fmax(candidate->bound_s, hlm_search_goal_s(search));
    }
}

/* --- the loop --- */

static bool advance(struct hlm_search_state *search, struct hlm_search_candidate *candidate)
{
    const bool bounds = candidate->level < HLM_LEVEL_THRESHOLD &&
                        candidate->level != HLM_LEVEL_FAMILY; /* members take that of the family */
    search->certificate.num_bounds += bounds ? 1 : 0;
    switch (candidate->level) {
    case HLM_LEVEL_UNPRICED:
        return price_family(search, candidate);
    case HLM_LEVEL_FAMILY:
        list_family(search, candidate);
        return false;
    case HLM_LEVEL_LISTED_ONLY:
        return close_form(search, candidate);
    case HLM_LEVEL_CLOSED_FORM:
        return expand(search, candidate);
    case HLM_LEVEL_RAMPS:
        return take_paths(search, candidate);
    case HLM_LEVEL_THRESHOLD:
        return solve(search, candidate);
    case HLM_LEVEL_SOLVED:
        list_partitions(search, candidate);
        return true;
    default:
        HLM_ASSERT(!"a listed column is never the one to go on with");
        return true;
    }
}

/* Nothing is below the cutoff, and nothing that was found is within the gap of it. */
static bool is_beaten(const struct hlm_search_state *search, double open_s)
{
    return open_s >= search->cutoff_s && within_gap_s(search) > search->cutoff_s;
}

/* The gap is closed, or cannot be, and the least ILP is known: no open column has a smaller bound.
 * Or the cutoff is reached. */
static bool gap_is_done(const struct hlm_search_state *search,
                        const struct hlm_search_candidate *top)
{
    if (top->level == HLM_LEVEL_GIVEN_UP || is_beaten(search, top->bound_s)) {
        return true;
    }
    if (top->bound_s < hlm_search_goal_s(search)) {
        return false;
    }
    const struct hlm_search_column *least = hlm_search_least_ilp(search);
    return top->level >= HLM_LEVEL_SOLVED || (least != NULL && top->bound_s >= least->ilp_s);
}

static void report(const struct hlm_search_state *search, double total)
{
    if (search->progress == NULL || search->heap_size == 0) {
        return;
    }
    char detail[100];
    (void)snprintf(detail, sizeof(detail), "best %s, bound %s",
                   hlm_fmt_seconds(hlm_search_best_step_s(search)).text,
                   hlm_fmt_seconds(search->heap[0].bound_s).text);
    search->progress(search->progress_context, total - search->num_families_left, total, detail);
}

/* Columns that a level takes out have no plan at all or none within the limit. Listing the
 * partitions of a column is put off until no other column is as promising: it may take long, and a
 * better plan from elsewhere may make it unnecessary. */
static void close_gap(struct hlm_search_state *search)
{
    const double total = search->heap_size;
    struct hlm_search_candidate *waiting = NULL;
    int32_t num_waiting = 0, room = 0;
    for (;;) {
        while (search->heap_size > 0 && !gap_is_done(search, &search->heap[0])) {
            struct hlm_search_candidate top = heap_pop(search);
            if (top.level == HLM_LEVEL_SOLVED) {
                if (num_waiting == room) {
                    waiting = grow(search->kept, waiting, sizeof(*waiting), num_waiting, &room);
                }
                waiting[num_waiting++] = top;
            } else if (advance(search, &top)) {
                heap_push(search, &top);
            }
            report(search, total);
        }
        for (int32_t i = 0; i < num_waiting; i++) {
            heap_push(search, &waiting[i]);
        }
        num_waiting = 0;
        if (search->heap_size == 0 || gap_is_done(search, &search->heap[0])) {
            return;
        }
        HLM_ASSERT(search->heap[0].level == HLM_LEVEL_SOLVED);
        struct hlm_search_candidate top = heap_pop(search);
        list_partitions(search, &top);
        heap_push(search, &top);
    }
}

/* Goes on until no column can have a plan that is faster than the last runner-up by more than some
 * gaps. Columns that were solved stay as they are. */
static void find_runners_up(struct hlm_search_state *search)
{
    const double allowed = (1 - RUNNER_UP_GAPS * search->problem->max_gap_frac) * (1 - tie_frac);
    struct hlm_search_candidate *settled =
        HLM_ARENA_ARRAY(search->kept, struct hlm_search_candidate, search->heap_size);
    int32_t num_settled = 0;
    while (search->heap_size > 0 &&
           search->heap[0].bound_s < hlm_search_limit_s(search) * allowed) {
        struct hlm_search_candidate top = heap_pop(search);
        if (top.level >= HLM_LEVEL_SOLVED) {
            settled[num_settled++] = top;
        } else if (advance(search, &top)) {
            heap_push(search, &top);
        }
    }
    for (int32_t i = 0; i < num_settled; i++) {
        heap_push(search, &settled[i]);
    }
}

/* A family in the order of what the kernels of its layers depend on. */
struct family_order {
    int64_t fields[6];
    int32_t family;
};

static int compare_families(const void *a, const void *b)
{
    const struct family_order *left = a, *right = b;
    for (size_t i = 0; i < sizeof(left->fields) / sizeof(left->fields[0]); i++) {
        if (left->fields[i] != right->fields[i]) {
            return left->fields[i] < right->fields[i] ? -1 : 1;
        }
    }
    return left->family < right->family ? -1 : 1;
}

static const struct family_order *order_families(struct hlm_arena *arena,
                                                 const struct hlm_column_family *families,
                                                 int32_t num_families)
{
    struct family_order *order = HLM_ARENA_ARRAY(arena, struct family_order, num_families);
    for (int32_t i = 0; i < num_families; i++) {
        const struct hlm_strategy *at = &families[i].strategy;
        order[i] = (struct family_order){
            {at->microbatch_size, at->tp, at->cp, at->ep, at->etp, at->sp ? 1 : 0}, i};
    }
    qsort(order, (size_t)num_families, sizeof(*order), compare_families);
    return order;
}

/* The floors of all families, those that share kernels one after the other; NAN: the cost model
 * refuses it. */
static const double *find_floors(struct hlm_search_state *search,
                                 const struct hlm_column_family *families, int32_t num_families)
{
    const struct family_order *order = order_families(search->kept, families, num_families);
    struct hlm_layer_memo *memo = hlm_layer_memo_new(search->kept);
    double *floors = HLM_ARENA_ARRAY(search->kept, double, num_families);
    for (int32_t i = 0; i < num_families; i++) {
        const int32_t family = order[i].family;
        search->certificate.num_bounds++;
        if (hlm_family_floor(search->cache, memo, &families[family].strategy, &floors[family],
                             &search->refusal) != HLM_OK) {
            floors[family] = NAN;
        }
    }
    hlm_layer_memo_release(memo);
    return floors;
}

static void init_heap(struct hlm_search_state *search, const struct hlm_column_family *families,
                      int32_t num_families)
{
    const double *floors = find_floors(search, families, num_families);
    int64_t index = 0;
    for (int32_t i = 0; i < num_families; i++) {
        if (!isnan(floors[i])) {
            const struct hlm_search_candidate candidate = {.index = index,
                                                           .family = &families[i],
                                                           .level = HLM_LEVEL_UNPRICED,
                                                           .bound_s = floors[i]};
            heap_push(search, &candidate);
            search->num_families_left++;
            search->certificate.num_columns += families[i].num_members;
            index += 1 + families[i].num_members;
        }
    }
}

static enum hlm_status explain_infeasible(struct hlm_search_state *search, struct hlm_err *err)
{
    const struct hlm_strategy *strategies = NULL;
    int32_t num_strategies = 0;
    HLM_TRY(hlm_columns_list(search->kept, search->problem, &strategies, &num_strategies, err));
    return hlm_infeasible_explain(search->problem, strategies, num_strategies, err);
}

/* INFINITY: nothing is legal, or fits. */
static double least_open_s(const struct hlm_search_state *search)
{
    return search->heap_size > 0 ? fmin(search->heap[0].bound_s, search->shares.bound_s)
                                 : search->shares.bound_s;
}

static enum hlm_status search_columns(struct hlm_arena *arena, struct hlm_search_state *search,
                                      struct hlm_search_result *out, struct hlm_err *err)
{
    const struct hlm_column_family *families = NULL;
    int32_t num_families = 0;
    /* Where none is legal, replicas with shares of their own may be. */
    if (hlm_columns_families(search->kept, search->problem, &families, &num_families,
                             &search->refusal) != HLM_OK) {
        num_families = 0;
    }
    init_heap(search, families, num_families);
    close_gap(search);
    hlm_search_find_shares(search);
    const double open_s = least_open_s(search);
    if (isfinite(open_s) && is_beaten(search, open_s)) {
        *out = (struct hlm_search_result){.lower_bound_s = open_s};
        return HLM_OK;
    }
    find_runners_up(search);
    if (search->certificate.num_columns + search->shares.num_columns == 0) {
        *err = search->refusal;
        return HLM_NO;
    }
    if (isinf(hlm_search_best_step_s(search)) && num_families == 0) {
        return hlm_fail(err, HLM_NO,
                        "nothing fits: legal are only %lld strategies whose replicas stand on "
                        "several device groups, and none fits on all of its groups",
                        (long long)search->shares.num_columns);
    }
    if (isinf(hlm_search_best_step_s(search))) {
        return search->explains ? explain_infeasible(search, err)
                                : hlm_fail(err, HLM_NO, "nothing fits");
    }
    const struct hlm_plan *plan = NULL;
    const enum hlm_status status = hlm_search_answer(arena, search, &plan, err);
    *out = (struct hlm_search_result){plan, search->certificate.lower_bound_s};
    return status == HLM_NO && !search->explains ? HLM_OK : status;
}

static enum hlm_status run_search(struct hlm_arena *arena, struct hlm_search_state search,
                                  struct hlm_search_result *out, struct hlm_err *err)
{
    HLM_TRY(hlm_ilp_check_solver(err));
    search.kept = hlm_arena_new();
    search.scratch = hlm_arena_new();
    search.is_least_proved = true;
    search.work_left = 4e8;
    search.shares = (struct hlm_search_shares){.step_s = INFINITY, .bound_s = INFINITY};
    search.certificate =
        (struct hlm_plan_certificate){.require = search.problem->require,
                                      .runnable_only = search.problem->runnable_only,
                                      .all_groups = search.problem->all_groups};
    search.cache = hlm_pricer_cache_new(search.kept, search.problem);
    const enum hlm_status status = search_columns(arena, &search, out, err);
    for (int32_t i = 0; i < search.num_expanded; i++) {
        hlm_arena_free(search.expanded[i]->arena);
    }
    hlm_arena_free(search.scratch);
    hlm_arena_free(search.kept);
    return status;
}

enum hlm_status
hlm_search_below(struct hlm_arena *arena, const struct hlm_search_problem *problem, double cutoff_s,
                 void (*progress)(void *context, double done, double total, const char *detail),
                 void *context, struct hlm_search_result *out, struct hlm_err *err)
{
    const struct hlm_search_state search = {.problem = problem,
                                            .cutoff_s = cutoff_s,
                                            .progress = progress,
                                            .progress_context = context};
    return run_search(arena, search, out, err);
}

/* --- all device groups --- */

/* The plan with the best one that uses all groups as its last runner-up. */
static const struct hlm_plan *compare_all_groups(struct hlm_arena *arena,
                                                 const struct hlm_search_problem *problem,
                                                 const struct hlm_plan *plan)
{
    struct hlm_search_problem with_all = *problem;
    struct hlm_plan *compared = hlm_arena_memdup(arena, plan, sizeof(*plan));
    const struct hlm_plan *other = NULL;
    struct hlm_err none_fits;
    with_all.all_groups = true;
    with_all.top_k = 0;
    if (hlm_search(arena, &with_all, NULL, NULL, &other, &none_fits) == HLM_OK) {
        struct hlm_plan_runner_up *runners =
            HLM_ARENA_ARRAY(arena, struct hlm_plan_runner_up, plan->num_runners_up + 1);
        if (plan->num_runners_up > 0) {
            memcpy(runners, plan->runners_up,
                   (size_t)plan->num_runners_up * sizeof(*plan->runners_up));
        }
        runners[plan->num_runners_up] = hlm_plan_as_runner_up(arena, other, plan);
        compared->runners_up = runners;
        compared->num_runners_up++;
    }
    return compared;
}

/* Whether a runner-up shows what all groups would have taken, or none has to. */
static bool all_groups_are_known(const struct hlm_search_problem *problem,
                                 const struct hlm_plan *plan)
{
    const int32_t num_groups = problem->cluster->num_groups;
    bool known = problem->top_k == 0 || hlm_plan_groups_used(&plan->strategy, plan->stages,
                                                             plan->num_stages) == num_groups;
    for (int32_t i = 0; i < plan->num_runners_up; i++) {
        const struct hlm_plan_runner_up *runner = &plan->runners_up[i];
        known = known || hlm_plan_groups_used(&runner->strategy, runner->stages,
                                              runner->num_stages) == num_groups;
    }
    return known;
}

enum hlm_status hlm_search(struct hlm_arena *arena, const struct hlm_search_problem *problem,
                           void (*progress)(void *context, double done, double total,
                                            const char *detail),
                           void *context, const struct hlm_plan **out, struct hlm_err *err)
{
    const struct hlm_search_state search = {.problem = problem,
                                            .cutoff_s = (double)INFINITY,
                                            .explains = true,
                                            .progress = progress,
                                            .progress_context = context};
    struct hlm_search_result result;
    HLM_TRY(run_search(arena, search, &result, err));
    *out = all_groups_are_known(problem, result.plan)
               ? result.plan
               : compare_all_groups(arena, problem, result.plan);
    return HLM_OK;
}
