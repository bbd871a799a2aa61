/* simulate_paths: bounds of a simulation for all stage times at once, as linear functions.
 *
 * A simulated step is the longest path through the actions of a fixed order: each waits for the one
 * before it in its rank's list and for its message. So whatever path one picks, the step takes at
 * least the sum of the durations and transfers on it, for any stage times (links that need both
 * sides only delay). A row is a path, or the mean of several: how often it has each action.
 *
 * Rows are picked at reference times. Of each rank one that has all of its list, and the longest
 * ways to the first of it and from the last; and one along the longest of the paths that go down to
 * the rank, stay in its list for a while and leave it for the end of the step. Where paths through
 * several chunks are about as long, the latter is their mean, so that it does not fall when layers
 * move from a chunk to another.
 */
#ifndef HLM_SCHEDULE_SIMULATE_PATHS_H
#define HLM_SCHEDULE_SIMULATE_PATHS_H

#include "schedule/simulate_order.h"

/* The step is at least
 *   sum_{stage, kind} actions[stage][kind] * seconds + sum_s transfers[s] * c_s
 *     + sum_rank ends[rank] * reduction of all stages of the rank + sync + slowest optimizer
 * c_s: transfer over the boundary s | s + 1, alike both ways. ends sums to 1. */
struct hlm_path_row {
    int32_t rank;
    const double *actions;   /* [num_stages][HLM_SIM_NUM_KINDS] */
    const double *transfers; /* [num_stages] */
    const double *ends;      /* [num_ranks] */
};

/* [num_ranks] rows with all of a rank's list, [num_ranks] along the longest paths through each
 * rank, and one of the longest paths of all (rank -1), which is exact at the reference. reference:
 * durations, transfers and reductions of any stage times; those of the rows' use should be near.
 * Pairs take F + B.
 */
static inline int32_t hlm_sim_num_path_rows(const struct hlm_sim_order *order)
{
    return 2 * order->num_ranks + 1;
}
const struct hlm_path_row *hlm_sim_path_rows(struct hlm_arena *arena,
                                             const struct hlm_sim_order *order,
                                             const struct hlm_sim_costs *reference);

/* [num_ranks] rows that need no reference, as they hold for every order of the lists: row r has all
 * of the list of rank r, and one forward of each stage 0 .. r-1, which stand in front of whatever
 * the rank does (its own stages come behind them); where backwards are whole also one backward of
 * each, behind whatever it does. */
const struct hlm_path_row *hlm_sim_ramp_rows(struct hlm_arena *arena,
                                             const struct hlm_sim_order *order);

/* The value of a row: what no simulation with these costs is below. */
double hlm_path_row_s(const struct hlm_sim_order *order, const struct hlm_path_row *row,
                      const struct hlm_sim_costs *costs);

/* Its two parts: all but the optimizer, and the slowest rank's optimizer, which is the same for
 * all rows. */
double hlm_path_row_ways_s(const struct hlm_sim_order *order, const struct hlm_path_row *row,
                           const struct hlm_sim_costs *costs);
double hlm_sim_slowest_optimizer_s(const struct hlm_sim_order *order,
                                   const struct hlm_sim_costs *costs);

#endif
