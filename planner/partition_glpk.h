/* partition_glpk: GLPK, and the placement of one strategy column by it.
 *
 * The only file that includes glpk.h. GLPK aborts on errors; here they come back as UNKNOWN (hook
 * and longjmp, after which GLPK's memory is freed). Its objective may be off by 1e-7 relative, so a
 * partition is always priced again from its integers, by bound.h. No time limits: a limit on nodes
 * gives the same answer on every machine.
 */
#ifndef HLM_PLANNER_PARTITION_GLPK_H
#define HLM_PLANNER_PARTITION_GLPK_H

#include "planner/ilp.h"
#include "planner/partition_dp.h"

enum hlm_ilp_outcome {
    HLM_ILP_PROVED,    /* values are optimal */
    HLM_ILP_NO_BETTER, /* proved: there is no solution (within the cutoff that filtered the columns)
                        */
    HLM_ILP_INCUMBENT, /* values are feasible; nothing is below `bound` */
    HLM_ILP_UNKNOWN,   /* node limit or error without a solution */
};

struct hlm_ilp_result {
    enum hlm_ilp_outcome outcome;
    double objective, bound; /* PROVED: equal */
    int32_t num_nodes;
};

/* Solves a program with at least one binary. max_nodes <= 0: no limit. values: [num_columns],
 * filled for PROVED and INCUMBENT, binaries rounded. */
struct hlm_ilp_result hlm_ilp_solve(struct hlm_arena *scratch, const struct hlm_ilp *ilp,
                                    int32_t max_nodes, double *values);

/* The partition of least bound among those with bound <= the windows' cutoff. PROVED and INCUMBENT
 * set out->bound_s (recomputed) and out->ends; *out_least_s is the proved least bound (PROVED:
 * out->bound_s; NO_BETTER: the cutoff; else what the solver proved, at least low_s, a bound known
 * before). */
enum hlm_ilp_outcome hlm_partition_glpk(struct hlm_arena *scratch, struct hlm_pattern_set *set,
                                        const struct hlm_bound_windows *windows, double low_s,
                                        int32_t max_nodes, struct hlm_partition *out,
                                        double *out_least_s);

#endif
