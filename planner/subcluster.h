/* subcluster: what could be rented of a cluster.
 *
 * A subcluster takes some nodes of each device group, of at least one and at most
 * HLM_MAX_MIXED_GROUPS of them: none; or any divisor of the group's nodes; or any power of two
 * below them. Nodes are taken whole, and which nodes of a group does not matter, as all are alike.
 * A plan on a subcluster uses all of its devices (hlm_search_problem.all_groups), so each way to
 * use the cluster belongs to one subcluster, and the price of an hour is the same for all plans on
 * it: what is proved of their step time is proved of their price, and devices that are not taken
 * cost nothing.
 */
#ifndef HLM_PLANNER_SUBCLUSTER_H
#define HLM_PLANNER_SUBCLUSTER_H

#include "base/arena.h"
#include "base/err.h"
#include "profiles/cluster.h"

enum { HLM_MAX_SUBCLUSTERS = 4096 };

struct hlm_subcluster {
    const int32_t *num_nodes; /* [num_groups of the whole cluster]; 0: left out */
    int64_t num_devices;
    double price_per_hour;             /* of all its devices */
    const struct hlm_cluster *cluster; /* the groups that it takes nodes of, in their order */
};

/* All of them, cheapest first; of equal price those of fewer devices first. HLM_NO: more than
 * HLM_MAX_SUBCLUSTERS. */
HLM_MUST_CHECK enum hlm_status hlm_subclusters_list(struct hlm_arena *arena,
                                                    const struct hlm_cluster *cluster,
                                                    const struct hlm_subcluster **out,
                                                    int32_t *out_num, struct hlm_err *err);

/* The cluster of these nodes: the whole one where all are taken, else a copy whose devices, links
 * and prices are those of the whole. num_nodes: [num_groups], not all 0. */
const struct hlm_cluster *hlm_subcluster_take(struct hlm_arena *arena,
                                              const struct hlm_cluster *cluster,
                                              const int32_t *num_nodes);

/* HLM_INPUT naming the first group without a price per device and hour; `where` is how messages
 * call the cluster's file. */
HLM_MUST_CHECK enum hlm_status hlm_subclusters_check_prices(const struct hlm_cluster *cluster,
                                                            const char *where, struct hlm_err *err);

#endif
