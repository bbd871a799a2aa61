/* columns_places: all ways to lay a pipeline over the device groups of a mixed cluster.
 *
 * Every replica is one pipeline through some of the groups, in any order; all stages on a group
 * have one tp, and the group's devices are all used: dp * cp * tp_g * pp_g = devices of g. Groups
 * that are not visited stay idle: the option to leave a slow group out. Neighbouring tp divide one
 * another (costmodel/strategy.h).
 */
#ifndef HLM_PLANNER_COLUMNS_PLACES_H
#define HLM_PLANNER_COLUMNS_PLACES_H

#include "base/arena.h"
#include "costmodel/strategy.h"
#include "profiles/cluster.h"

/* Orders of more groups than this are too many to try. */
enum { HLM_MAX_MIXED_GROUPS = 4 };

/* One way, in pipeline order. */
struct hlm_group_run {
    int32_t group, tp, pp; /* device group; tp of its pipeline ranks; how many there are */
};

/* Calls visit for every way that uses dp * cp replicas, subsets of few groups first, orders and tp
 * ascending. At most HLM_MAX_MIXED_GROUPS groups. max_pp: ways with more pipeline ranks are left
 * out. */
void hlm_columns_each_way(const struct hlm_cluster *cluster, int32_t replicas, int32_t max_pp,
                          void (*visit)(void *context, const struct hlm_group_run *runs,
                                        int32_t num_runs),
                          void *context);

/* The places of a way, [sum of pp], or NULL where every tp is the same and the devices are 0, 1, 2,
 * ... as without places. */
const struct hlm_rank_place *hlm_columns_places(struct hlm_arena *arena,
                                                const struct hlm_cluster *cluster, int32_t replicas,
                                                const struct hlm_group_run *runs, int32_t num_runs);

#endif
