#include "planner/master_glpk.h"

#include <math.h>

/* The binaries of columns without a pattern are absent: -1. */
static struct hlm_ilp_placement *add_columns(struct hlm_arena *scratch, struct hlm_ilp *ilp,
                                             const struct hlm_master_column *columns,
                                             int32_t num_columns, double unit_s, int32_t *out_used)
{
    struct hlm_ilp_placement *placements =
        HLM_ARENA_ARRAY(scratch, struct hlm_ilp_placement, num_columns);
    const int32_t row = hlm_ilp_add_row(ilp, 1.0, 1.0);
    *out_used = 0;
    for (int32_t c = 0; c < num_columns; c++) {
        const int32_t y = hlm_ilp_add_column(ilp, 0.0, true);
        if (hlm_ilp_add_placement(ilp, columns[c].set, columns[c].windows, y, unit_s,
                                  &placements[c])) {
            hlm_ilp_add_entry(ilp, row, y, 1.0);
            (*out_used)++;
        } else {
            placements[c].y = -1;
        }
    }
    return placements;
}

struct hlm_master hlm_master_glpk(struct hlm_arena *scratch,
                                  const struct hlm_master_column *columns, int32_t num_columns,
                                  double unit_s, int32_t max_nodes, int32_t *ends)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
    struct hlm_ilp ilp;
    hlm_ilp_init(&ilp, scratch);
    struct hlm_master master = {.outcome = HLM_ILP_NO_BETTER, .column = -1};
    const struct hlm_ilp_placement *placements =
        add_columns(scratch, &ilp, columns, num_columns, unit_s, &master.num_columns);
    double *values = HLM_ARENA_ARRAY(scratch, double, ilp.num_columns);
    if (master.num_columns > 0) {
        const struct hlm_ilp_result result = hlm_ilp_solve(scratch, &ilp, max_nodes, values);
        master.outcome = result.outcome;
        master.num_nodes = result.num_nodes;
        master.bound_s = isfinite(result.bound) ? result.bound * unit_s : 0.0;
    }
    if (master.outcome == HLM_ILP_PROVED || master.outcome == HLM_ILP_INCUMBENT) {
        for (int32_t c = 0; c < num_columns; c++) {
            if (placements[c].y >= 0 && values[placements[c].y] > 0.5) {
                master.column = c;
            }
        }
        HLM_ASSERT(master.column >= 0);
        hlm_ilp_read_partition(&placements[master.column], values, ends);
        master.objective_s = hlm_bound_partition(columns[master.column].set, ends);
    }
    hlm_arena_rewind(scratch, mark);
    return master;
}
