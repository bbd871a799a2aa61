/* schedule_glpk: the order of least makespan, as an ILP, for small cases.
 *
 * What it is for: tests say by it how far each schedule is from the best that its stages, times and
 * memory allow. Beyond three ranks and five microbatches, or four and four, GLPK does not end; the
 * search of plans uses builders, list scheduling and hlm_order_bound (schedule/order.h).
 *
 * Actions a of all ranks: start x_a, duration d_a, windows est_a <= x_a <= lst_a under the cutoff U
 * (the makespan of an incumbent, which is to be beaten). Each kind of action of a stage runs in the
 * order of microbatches (order.h says why that loses nothing). For two actions of one rank whose
 * order is open, y_ab = 1 when a comes first:
 *   min T
 *   x_b - x_a >= d_a + c_ab       where b needs a, or comes behind it
 *   x_b - x_a >= d_a y_ab + (est_b - lst_a) (1 - y_ab)   and likewise for b before a
 *   T >= x_a + tail_a             tail: the longest way from the start of a to the end
 *   y_ab <= y_ab'                 b' the next action of the kind and stage of b
 *   y_a'b <= y_ab                 a' the next of the kind and stage of a
 *   sum of amounts of forwards up to F - sum of amounts freed before F <= limit   each F
 *   hlm_order_bound <= T < U
 * An order that the windows decide, or that follows from others, has no y. Variables are x_a -
 * est_a and seconds are divided so that U is 1,000. */
#ifndef HLM_PLANNER_SCHEDULE_GLPK_H
#define HLM_PLANNER_SCHEDULE_GLPK_H

#include "schedule/order.h"

struct hlm_schedule_optimum {
    const struct hlm_schedule *schedule; /* the best one known: the incumbent, or a better one */
    double makespan_s;                   /* its pipeline_s, by hlm_simulate */
    double bound_s;                      /* no order is faster; makespan_s where that is proved */
    bool is_proved;                      /* within 1e-6: nothing is faster than makespan_s */
    int32_t num_nodes;                   /* of GLPK; 0: the bound sufficed */
};

/* incumbent: any order that keeps the limits, such as that of hlm_order_list. Links are buffered.
 * max_nodes <= 0: no limit. */
void hlm_schedule_glpk(struct hlm_arena *arena, const struct hlm_order_problem *problem,
                       const struct hlm_schedule *incumbent, int32_t max_nodes,
                       struct hlm_schedule_optimum *out);

#endif
