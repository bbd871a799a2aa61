/* bound_internal: what bound.c (rows of a stage, the fold) lends to bound_windows.c (bounds of many
 * partitions at once). */
#ifndef HLM_PLANNER_BOUND_INTERNAL_H
#define HLM_PLANNER_BOUND_INTERNAL_H

#include "planner/bound.h"

/* What rows of a stage are made of. */
struct hlm_bound_row_parts {
    double own_s, forward_s; /* T_s, F_s */
    double loop_s;           /* S_s */
    double pair_s;           /* V(s, s+1), when s+1 <= p-2; else negative */
    double inner_s;          /* V(s, p-2), when p-2 > s+1; else negative */
};

/* The rows (2) to (4) of a stage; row (1) is not among them. All are at least S_s. */
double hlm_bound_loop_rows_s(const struct hlm_placement *placement, int32_t stage,
                             const struct hlm_bound_row_parts *parts);

/* The step when the stages in front of the label's take at least front_s for a round trip (T + 2 c)
 * and front_forward_s for the way down (F + c), and stage 0 reduces for at least reduce_s. */
double hlm_bound_finish_behind(const struct hlm_placement *placement,
                               const struct hlm_bound_label *label, double front_s,
                               double front_forward_s, double reduce_s);

#endif
