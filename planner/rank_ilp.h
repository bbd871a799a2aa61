/* rank_ilp: the placement of one column of a rank_set as an integer linear program.
 *
 * z_{r,l}: 1 when rank r has load l = (minor, major), of those within the caps, and l also says the
 * layers on the first of two stages where these are placed.
 *   min T + O
 *   sum_l z_{r,l} = y                       for each rank
 *   sum minor z = (minor layers) y
 *   sum major z = (major layers) y
 *   sum_{l of r with minor > 0} z + sum_{l of r-1 with others on its first stage} z <= y
 *                                           where minor layers lead (rank_set.h)
 *   T >= const_k y + sum (factors_{k,r} . seconds_l + end_{k,r} reduce_l) z_{r,l}   for each row k
 *   O >= sum_l optimizer_l z_{r,l}          for each rank
 *
 * y, unit_s: ilp.h. Memory has decided which loads there are.
 */
#ifndef HLM_PLANNER_RANK_ILP_H
#define HLM_PLANNER_RANK_ILP_H

#include "planner/ilp_solve.h"
#include "planner/rank_set.h"

struct hlm_rank_ilp_choice {
    int32_t rank, minor, major, first, column; /* first: hlm_rank_row_s */
};
struct hlm_rank_ilp {
    struct hlm_rank_set *set;
    const struct hlm_rank_ilp_choice *choices;
    int32_t num_choices;
};

/* Adds variables and rows. False when a rank has no load: then no partition has a bound within the
 * cutoff of the caps. */
bool hlm_rank_ilp_add(struct hlm_ilp *ilp, struct hlm_rank_set *set,
                      const struct hlm_rank_caps *caps, int32_t y, double unit_s,
                      struct hlm_rank_ilp *out);

/* The loads that a solution picks: [num_ranks] each. */
void hlm_rank_ilp_read(const struct hlm_rank_ilp *placement, const double *values, int32_t *minors,
                       int32_t *majors, int32_t *firsts);

/* The loads of least bound among those within the caps: as hlm_partition_glpk, with *out_bound_s
 * recomputed from the loads. */
enum hlm_ilp_outcome hlm_rank_glpk(struct hlm_arena *scratch, struct hlm_rank_set *set,
                                   const struct hlm_rank_caps *caps, double low_s,
                                   int32_t max_nodes, int32_t *minors, int32_t *majors,
                                   int32_t *firsts, double *out_bound_s, double *out_least_s,
                                   int32_t *out_nodes);

#endif
