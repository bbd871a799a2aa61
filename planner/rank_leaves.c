#include <math.h>
#include <string.h>

#include "planner/rank_list_internal.h"

/* Rows that a simulation leaves: its longest paths. */
enum { NUM_LEARNED = 2 };
/* Steps of a listing's work that finding the paths takes for each place of the order. */
static const double path_work = 8.0;

/* The least times of any option of each stage of the rank. */
static void set_least_times(const struct hlm_rank_listing *listing, int32_t rank)
{
    const struct hlm_rank_held *held = &listing->problem.held[rank];
    for (int32_t c = 0; c < held->num_chunks; c++) {
        double least_s[HLM_SIM_NUM_KINDS] = {INFINITY, INFINITY, INFINITY, INFINITY};
        for (const struct hlm_rank_option *option = listing->options[rank]; option != NULL;
             option = option->next) {
            for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
                least_s[action] =
                    fmin(least_s[action], option->seconds[c * HLM_SIM_NUM_KINDS + action]);
            }
        }
        hlm_rank_costs_set_times(&listing->costs, held->stages[c], least_s);
    }
}

/* False: a rank has no option. */
static bool find_all_options(struct hlm_rank_listing *listing)
{
    for (int32_t r = 0; r < listing->problem.order->num_ranks; r++) {
        listing->options[r] =
            hlm_rank_options_find(listing->scratch, &listing->problem, r, &listing->partition,
                                  listing->takes, listing->work);
        if (listing->options[r] == NULL) {
            return false;
        }
        set_least_times(listing, r);
    }
    return true;
}

/* --- rows --- */

/* Whether the rows exclude the times that are set. */
static bool are_excluded(const struct hlm_rank_listing *listing)
{
    const struct hlm_rank_problem *problem = &listing->problem;
    const double optimizer_s = hlm_sim_slowest_optimizer_s(problem->order, &listing->costs.sim);
    for (int32_t k = problem->num_rows - 1; k >= 0; k--) {
        *listing->work -= problem->order->num_stages;
        if (hlm_path_row_ways_s(problem->order, &problem->rows[k], &listing->costs.sim) +
                optimizer_s >
            listing->cutoff_s) {
            return true;
        }
    }
    return false;
}

static struct hlm_path_row copy_row(struct hlm_arena *arena, const struct hlm_sim_order *order,
                                    const struct hlm_path_row *row)
{
    const size_t n = (size_t)order->num_stages;
    return (struct hlm_path_row){
        .rank = row->rank,
        .actions =
            hlm_arena_memdup(arena, row->actions, n * HLM_SIM_NUM_KINDS * sizeof(*row->actions)),
        .transfers = hlm_arena_memdup(arena, row->transfers, n * sizeof(*row->transfers)),
        .ends = hlm_arena_memdup(arena, row->ends, (size_t)order->num_ranks * sizeof(*row->ends))};
}

/* The problem gets one row more. */
static void append_row(struct hlm_rank_listing *listing, const struct hlm_path_row *row)
{
    struct hlm_rank_problem *problem = &listing->problem;
    if (problem->num_rows >= listing->room) {
        listing->room = 2 * (problem->num_rows + 1);
        listing->rows = HLM_ARENA_ARRAY(listing->kept, struct hlm_path_row, listing->room);
        memcpy(listing->rows, problem->rows, (size_t)problem->num_rows * sizeof(*listing->rows));
        problem->rows = listing->rows;
    }
    listing->rows[problem->num_rows++] = copy_row(listing->kept, problem->order, row);
}

/* Takes those of the rows at the times that are set that exclude these, the largest first. */
static void learn(struct hlm_rank_listing *listing)
{
    const struct hlm_sim_order *order = listing->problem.order;
    const struct hlm_arena_mark mark = hlm_arena_mark(listing->scratch);
    const struct hlm_path_row *rows =
        hlm_sim_path_rows(listing->scratch, order, &listing->costs.sim);
    const int32_t num_rows = hlm_sim_num_path_rows(order);
    double below_s = INFINITY;
    *listing->work -= path_work * order->num_places;
    for (int i = 0; i < NUM_LEARNED; i++) {
        double largest_s = listing->cutoff_s;
        const struct hlm_path_row *largest = NULL;
        for (int32_t k = 0; k < num_rows; k++) {
            const double row_s = hlm_path_row_s(order, &rows[k], &listing->costs.sim);
            if (row_s > largest_s && row_s < below_s) {
                largest_s = row_s;
                largest = &rows[k];
            }
        }
        if (largest == NULL) {
            break;
        }
        append_row(listing, largest);
        below_s = largest_s;
    }
    hlm_arena_rewind(listing->scratch, mark);
}

/* --- all choices --- */

static void set_option(const struct hlm_rank_listing *listing, int32_t rank,
                       const struct hlm_rank_option *option)
{
    const struct hlm_rank_held *held = &listing->problem.held[rank];
    for (int32_t c = 0; c < held->num_chunks; c++) {
        const int32_t s = held->stages[c];
        listing->partition.full[s] = option->full[c];
        listing->partition.selective[s] = option->selective[c];
        hlm_rank_costs_set_times(&listing->costs, s, &option->seconds[c * HLM_SIM_NUM_KINDS]);
    }
}

static double simulate(const struct hlm_rank_listing *listing)
{
    *listing->work -= listing->problem.order->num_places;
    return hlm_sim_order_step(listing->scratch, listing->problem.order, &listing->costs.sim);
}

static void visit(struct hlm_rank_listing *listing)
{
    const double step_s = simulate(listing);
    listing->cutoff_s = listing->visit(listing->context, &listing->partition, step_s);
    if (step_s > listing->cutoff_s) {
        learn(listing);
    }
}

/* Whether the times that are set, the least of some ranks, are above the cutoff when simulated:
 * then so are all choices of these ranks. */
static bool are_too_long(struct hlm_rank_listing *listing)
{
    const bool too_long = simulate(listing) > listing->cutoff_s;
    if (too_long) {
        learn(listing);
    }
    return too_long;
}

/* All options of the ranks from `rank` on; those of the ranks in front are set, these have their
 * least times. */
static void try_options(struct hlm_rank_listing *listing, int32_t rank)
{
    if (*listing->work <= 0.0 || are_excluded(listing)) {
        return;
    }
    while (rank < listing->problem.order->num_ranks && listing->options[rank]->next == NULL) {
        set_option(listing, rank, listing->options[rank]);
        rank++;
    }
    if (rank == listing->problem.order->num_ranks) {
        visit(listing);
        return;
    }
    if (are_too_long(listing)) {
        return;
    }
    for (const struct hlm_rank_option *option = listing->options[rank]; option != NULL;
         option = option->next) {
        set_option(listing, rank, option);
        try_options(listing, rank + 1);
    }
    set_least_times(listing, rank);
}

/* The least times that any choice may have. False: nothing fits. */
static bool set_least_of_any(struct hlm_rank_listing *listing)
{
    const struct hlm_rank_problem *problem = &listing->problem;
    const struct hlm_arena_mark mark = hlm_arena_mark(listing->scratch);
    double *seconds = HLM_ARENA_ARRAY(listing->scratch, double,
                                      (size_t)problem->held[0].num_chunks *HLM_SIM_NUM_KINDS);
    bool some = true;
    for (int32_t r = 0; r < problem->order->num_ranks && some; r++) {
        some = hlm_rank_options_least(problem, r, &listing->partition, listing->takes,
                                      listing->work, seconds);
        for (int32_t c = 0; c < problem->held[r].num_chunks && some; c++) {
            hlm_rank_costs_set_times(&listing->costs, problem->held[r].stages[c],
                                     &seconds[c * HLM_SIM_NUM_KINDS]);
        }
    }
    hlm_arena_rewind(listing->scratch, mark);
    return some;
}

void hlm_rank_try_options(struct hlm_rank_listing *listing)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(listing->scratch);
    for (int32_t s = 0; s < listing->problem.order->num_stages; s++) {
        hlm_rank_costs_set_holding(&listing->problem, &listing->costs, &listing->partition, s);
    }
    if (set_least_of_any(listing) && !are_excluded(listing) && !are_too_long(listing) &&
        find_all_options(listing)) {
        try_options(listing, 0);
    }
    hlm_arena_rewind(listing->scratch, mark);
}
