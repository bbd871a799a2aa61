/* subcluster: parts of a cluster that one could rent instead of the whole. */
#ifndef HLM_CLI_SUBCLUSTER_H
#define HLM_CLI_SUBCLUSTER_H

#include "base/arena.h"
#include "profiles/cluster.h"

/* The clusters that the cheapest plan is looked for on: the whole cluster first, then each group
 * alone with 1, 2, 4, ... of its nodes, and with all of them where there are several groups.
 * Devices, links and prices are those of the whole; a group's link inside itself goes with it.
 * *out_num is at least 1. */
const struct hlm_cluster *hlm_subclusters(struct hlm_arena *arena,
                                          const struct hlm_cluster *cluster, int32_t *out_num);

/* HLM_INPUT naming the first group without a price per device and hour. */
HLM_MUST_CHECK enum hlm_status hlm_subcluster_check_prices(const struct hlm_cluster *cluster,
                                                           struct hlm_err *err);

#endif
