/* master_glpk: one integer program that picks dp, tp, pp, microbatch size, schedule and placement
 * at once.
 *
 * A binary y_c per surviving strategy column, sum_c y_c = 1, and each column's placement program
 * with its constants multiplied by y_c (ilp.h): its relaxation is the least of the columns'
 * relaxations, so branching on y first is best-first search. It is the audit of that search: its
 * objective equals the least objective of the columns' own programs.
 */
#ifndef HLM_PLANNER_MASTER_GLPK_H
#define HLM_PLANNER_MASTER_GLPK_H

#include "planner/partition_glpk.h"
#include "planner/rank_ilp.h"

/* Of gpipe or 1f1b: set and windows; of another schedule: ranks and caps. */
struct hlm_master_column {
    struct hlm_pattern_set *set;
    const struct hlm_bound_windows *windows; /* cutoff: the same for all columns */
    struct hlm_rank_set *ranks;              /* NULL: set */
    const struct hlm_rank_caps *caps;
};

struct hlm_master {
    enum hlm_ilp_outcome outcome;
    int32_t column;      /* PROVED and INCUMBENT: the column that it picks */
    double objective_s;  /* bound of the partition that it picks, recomputed */
    double bound_s;      /* nothing is below this */
    int32_t num_columns; /* in the program: columns whose windows leave no pattern are not */
    int32_t num_nodes;
};

/* unit: ilp.h. ends: as many elements as the largest num_stages (or num_ranks); filled like a
 * partition of the column, or with the layers that its ranks have. */
struct hlm_master hlm_master_glpk(struct hlm_arena *scratch,
                                  const struct hlm_master_column *columns, int32_t num_columns,
                                  double unit_s, int32_t max_nodes, int32_t *ends);

#endif
