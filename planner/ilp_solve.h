/* ilp_solve: the solver of integer programs, which is GLPK (ilp_glpk.c, the only file that includes
 * glpk.h) or, in a build that found no GLPK, none (ilp_no_solver.c).
 *
 * GLPK aborts on errors; here they come back as UNKNOWN (hook and longjmp, after which GLPK's
 * memory is freed). No time limits: a limit on nodes gives the same answer on every machine.
 */
#ifndef HLM_PLANNER_ILP_SOLVE_H
#define HLM_PLANNER_ILP_SOLVE_H

#include "base/err.h"
#include "planner/ilp.h"

/* HLM_ENV: this build has no GLPK. Who searches asks first: without a solver there is no
 * certificate. */
HLM_MUST_CHECK enum hlm_status hlm_ilp_check_solver(struct hlm_err *err);

enum hlm_ilp_outcome {
    HLM_ILP_PROVED,    /* values are optimal */
    HLM_ILP_NO_BETTER, /* proved: there is no solution (within the cutoff that filtered the columns)
                        */
    HLM_ILP_INCUMBENT, /* values are feasible; nothing is below `bound` */
    HLM_ILP_UNKNOWN,   /* node limit or error without a solution, or no solver in this build */
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

#endif
