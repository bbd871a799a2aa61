/* In the place of ilp_glpk.c where a build found no GLPK: everything but the search works. */
#include <math.h>

#include "planner/ilp_solve.h"

struct hlm_ilp_result hlm_ilp_solve(struct hlm_arena *scratch, const struct hlm_ilp *ilp,
                                    int32_t max_nodes, double *values)
{
    (void)scratch;
    (void)ilp;
    (void)max_nodes;
    (void)values;
    return (struct hlm_ilp_result){.outcome = HLM_ILP_UNKNOWN, .bound = -(double)INFINITY};
}

enum hlm_status hlm_ilp_check_solver(struct hlm_err *err)
{
    return hlm_fail(
        err, HLM_ENV,
        "this build has no GLPK, which the search for a plan needs; estimate, simulate, "
        "check, run and compare work without it");
}
