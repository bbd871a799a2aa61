/* rank_list_internal: the state of a listing, between rank_list.c (loads and stages) and
 * rank_leaves.c (given stages: recompute, rows and simulation). */
#ifndef HLM_PLANNER_RANK_LIST_INTERNAL_H
#define HLM_PLANNER_RANK_LIST_INTERNAL_H

#include "planner/rank_list.h"
#include "planner/rank_options.h"
#include "planner/rank_partition_internal.h"

struct hlm_rank_listing {
    struct hlm_arena *scratch;       /* rewound by and by */
    struct hlm_arena *kept;          /* rows that were learned */
    struct hlm_rank_problem problem; /* with these rows */
    struct hlm_path_row *rows;       /* problem.rows, once some were learned, with room for more */
    int32_t room;
    double cutoff_s;
    double *work;
    hlm_rank_visit *visit;
    void *context;
    struct hlm_rank_partition partition;
    struct hlm_rank_costs costs;
    struct hlm_rank_take *takes;            /* [num_stages] */
    const struct hlm_rank_option **options; /* [num_ranks] */
};

/* Visits the choices of recompute for partition.ends, and learns rows of those above the cutoff. */
void hlm_rank_try_options(struct hlm_rank_listing *listing);

#endif
