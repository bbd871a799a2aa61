#include "planner/master_glpk.h"

#include <math.h>

/* A column in the program; y is -1 where it has no pattern and is absent. */
struct placed {
    int32_t y;
    struct hlm_ilp_placement stages;
    struct hlm_rank_ilp ranks;
};

static bool add_column(struct hlm_ilp *ilp, const struct hlm_master_column *column, double unit_s,
                       struct placed *out)
{
    return column->ranks != NULL
               ? hlm_rank_ilp_add(ilp, column->ranks, column->caps, out->y, unit_s, &out->ranks)
               : hlm_ilp_add_placement(ilp, column->set, column->windows, out->y, unit_s,
                                       &out->stages);
}

static struct placed *add_columns(struct hlm_arena *scratch, struct hlm_ilp *ilp,
                                  const struct hlm_master_column *columns, int32_t num_columns,
                                  double unit_s, int32_t *out_used)
{
    struct placed *placed = HLM_ARENA_ARRAY(scratch, struct placed, num_columns);
    const int32_t row = hlm_ilp_add_row(ilp, 1.0, 1.0);
    *out_used = 0;
    for (int32_t c = 0; c < num_columns; c++) {
        placed[c].y = hlm_ilp_add_column(ilp, 0.0, true);
        if (add_column(ilp, &columns[c], unit_s, &placed[c])) {
            hlm_ilp_add_entry(ilp, row, placed[c].y, 1.0);
            (*out_used)++;
        } else {
            placed[c].y = -1;
        }
    }
    return placed;
}

/* The bound of what the column's part of a solution picks; fills ends. */
static double read_column(struct hlm_arena *scratch, const struct hlm_master_column *column,
                          const struct placed *placed, const double *values, int32_t *ends)
{
    if (column->ranks == NULL) {
        hlm_ilp_read_partition(&placed->stages, values, ends);
        return hlm_bound_partition(column->set, ends);
    }
    const int32_t num_ranks = hlm_rank_set_problem(column->ranks)->order->num_ranks;
    int32_t *minors = HLM_ARENA_ARRAY(scratch, int32_t, num_ranks);
    int32_t *majors = HLM_ARENA_ARRAY(scratch, int32_t, num_ranks);
    int32_t *firsts = HLM_ARENA_ARRAY(scratch, int32_t, num_ranks);
    hlm_rank_ilp_read(&placed->ranks, values, minors, majors, firsts);
    for (int32_t r = 0; r < num_ranks; r++) {
        ends[r] = minors[r] + majors[r];
    }
    return hlm_rank_bound_s(column->ranks, minors, majors, firsts);
}

struct hlm_master hlm_master_glpk(struct hlm_arena *scratch,
                                  const struct hlm_master_column *columns, int32_t num_columns,
                                  double unit_s, int32_t max_nodes, int32_t *ends)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
    struct hlm_ilp ilp;
    hlm_ilp_init(&ilp, scratch);
    struct hlm_master master = {.outcome = HLM_ILP_NO_BETTER, .column = -1};
    const struct placed *placed =
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
            if (placed[c].y >= 0 && values[placed[c].y] > 0.5) {
                master.column = c;
            }
        }
        HLM_ASSERT(master.column >= 0);
        master.objective_s =
            read_column(scratch, &columns[master.column], &placed[master.column], values, ends);
    }
    hlm_arena_rewind(scratch, mark);
    return master;
}
