/* partition_glpk: the placement of one strategy column by integer programming. The solver's
 * objective may be off by 1e-7 relative, so a partition is always priced again from its integers,
 * by bound.h. */
#ifndef HLM_PLANNER_PARTITION_GLPK_H
#define HLM_PLANNER_PARTITION_GLPK_H

#include "planner/ilp_solve.h"
#include "planner/partition_dp.h"

/* The partition of least bound among those with bound <= the windows' cutoff. PROVED and INCUMBENT
 * set out->bound_s (recomputed) and out->ends; *out_least_s is the proved least bound (PROVED:
 * out->bound_s; NO_BETTER: the cutoff; else what the solver proved, at least low_s, a bound known
 * before). *out_nodes: those of branch and bound. */
enum hlm_ilp_outcome hlm_partition_glpk(struct hlm_arena *scratch, struct hlm_pattern_set *set,
                                        const struct hlm_bound_windows *windows, double low_s,
                                        int32_t max_nodes, struct hlm_partition *out,
                                        double *out_least_s, int32_t *out_nodes);

#endif
