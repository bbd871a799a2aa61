/* verify_ways: the verifier's own list of the ways of a pipeline through device groups. Shares no
 * code with columns_places.h.
 */
#ifndef HLM_PLANNER_VERIFY_WAYS_H
#define HLM_PLANNER_VERIFY_WAYS_H

#include "base/arena.h"
#include "costmodel/strategy.h"

/* The ways through some groups with one tp on each: one for each order in which neighbouring tp
 * divide one another, and both ends have one tp where embeddings are tied. */
struct hlm_verify_way {
    int32_t num_groups, largest_tp, pp;
    const struct hlm_rank_place *const *orders; /* [num_orders][pp]; NULL inside: without places */
    int32_t num_orders;
};

/* *out: all with dp * cp = replicas and at most num_layers + 2 pipeline ranks, in the arena. */
void hlm_verify_ways(struct hlm_arena *arena, const struct hlm_cluster *cluster,
                     const struct hlm_model *model, int32_t replicas,
                     const struct hlm_verify_way **out, int32_t *out_num);

#endif
