#include "planner/partition_glpk.h"

#include <math.h>

/* The solver stops within 1e-7 (1 + |objective|) of the optimum. */
static double proved_bound_s(const struct hlm_ilp_result *result, double unit_s)
{
    return (result->bound - 2e-7 * (1.0 + fabs(result->bound))) * unit_s;
}

enum hlm_ilp_outcome hlm_partition_glpk(struct hlm_arena *scratch, struct hlm_pattern_set *set,
                                        const struct hlm_bound_windows *windows, double low_s,
                                        int32_t max_nodes, struct hlm_partition *out,
                                        double *out_least_s, int32_t *out_nodes)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
    const double unit_s = low_s / 1000.0;
    struct hlm_ilp ilp;
    hlm_ilp_init(&ilp, scratch);
    struct hlm_ilp_placement placement;
    struct hlm_ilp_result result = {.outcome = HLM_ILP_NO_BETTER};
    double *values = NULL;
    if (hlm_ilp_add_placement(&ilp, set, windows, -1, unit_s, &placement)) {
        values = HLM_ARENA_ARRAY(scratch, double, ilp.num_columns);
        result = hlm_ilp_solve(scratch, &ilp, max_nodes, values);
    }
    *out_least_s = low_s;
    *out_nodes = result.num_nodes;
    if (result.outcome == HLM_ILP_NO_BETTER) {
        *out_least_s = windows->cutoff_s;
    } else if (isfinite(result.bound)) {
        *out_least_s = fmax(low_s, proved_bound_s(&result, unit_s));
    }
    if (result.outcome == HLM_ILP_PROVED || result.outcome == HLM_ILP_INCUMBENT) {
        hlm_ilp_read_partition(&placement, values, out->ends);
        out->bound_s = hlm_bound_partition(set, out->ends);
    }
    hlm_arena_rewind(scratch, mark);
    return result.outcome;
}
