/* layout: which rank stands where.
 *
 * Ranks are numbered tp fastest, then cp, then dp, then pp (Megatron's order tp-cp-ep-dp-pp: ep is
 * a slice of the (dp, cp, tp) block, ep fastest after etp). Rank r of the world runs on device r of
 * the cluster, or where the strategy's places say. Unlike replicas (strategy.h): the ranks of each
 * of replicas[] stand on its device group as those of a strategy of their own would. What is said
 * of device groups, links and shapes below is of a strategy as some of its replicas see it
 * (hlm_strategy_of_replicas), or of the first of them.
 */
#ifndef HLM_COSTMODEL_LAYOUT_H
#define HLM_COSTMODEL_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "costmodel/op.h"
#include "costmodel/strategy.h"
#include "profiles/cluster.h"

struct hlm_coords {
    int32_t dp, tp, pp, cp;
};
struct hlm_coords hlm_layout_coords(const struct hlm_strategy *strategy, int32_t rank);
int32_t hlm_layout_rank(const struct hlm_strategy *strategy, struct hlm_coords coords);

/* Pipeline rank that owns a stage: stages go round the pipeline ranks, or, for the schedules in the
 * shape of a V, down and up again. The same as schedule/action.h's stage_rank. */
int32_t hlm_layout_stage_rank(const struct hlm_strategy *strategy, int32_t stage);

/* Whether the first and the last stage are on different ranks: then a tied table has a copy on each
 * of them. */
bool hlm_layout_ends_apart(const struct hlm_strategy *strategy);

/* Fills first_device of the replicas, which take the first devices of their groups. `located`
 * [num_replicas] is the caller's. HLM_NO: a device group has too few devices, or is none; the
 * message names it. */
HLM_MUST_CHECK enum hlm_status hlm_layout_locate_replicas(const struct hlm_strategy *strategy,
                                                          const struct hlm_cluster *cluster,
                                                          struct hlm_replicas *located,
                                                          struct hlm_err *err);

/* Device of the cluster that a rank runs on. */
int64_t hlm_layout_device(const struct hlm_strategy *strategy, int32_t rank);

/* Size of a group (of the ranks that see the strategy so: hlm_strategy_at), and its members in ring
 * order (member i = position i in the group) for the group of `rank`; *out_position is rank's own
 * index. Members must hold hlm_layout_group_size ints. EMBEDDING has size 2 for ranks of the first
 * and last stage when pp > 1, else 1; for a rank of a stage between them, members are the two of
 * its position and *out_position is -1. */
int32_t hlm_layout_group_size(const struct hlm_strategy *strategy, enum hlm_group group);
void hlm_layout_group(const struct hlm_strategy *strategy, enum hlm_group group, int32_t rank,
                      int32_t *members, int32_t *out_position);

/* Whether all members of a group see the same one. Where tp differs between pipeline ranks, PP does
 * not: a rank of few shares its part with several of many; nor does EMBEDDING, where it differs
 * between the ends. These are good for prices, but nobody can meet in them. */
bool hlm_layout_group_is_mutual(const struct hlm_strategy *strategy, enum hlm_group group);

/* How a group of ranks of one pipeline stage lies on the nodes of its device group, which decides
 * what a collective costs. A node is what the intra-node link joins (hlm_device_group_domain).
 *   num_nodes        nodes of the group of this stage that spans most
 *   ranks_per_node   num_ranks / num_nodes, rounded up
 *   groups_per_node  groups of this stage with ranks on the node where most meet: they share its
 *                    network
 * Groups that span stages (PP, EMBEDDING, MODEL, WORLD): num_nodes of the group of the stage's
 * first rank, counted over all its stages. Takes a time that does not grow with the number of ranks
 * (for these four: with pp), and allocates nothing. */
struct hlm_group_shape {
    int32_t num_ranks, num_nodes, ranks_per_node, groups_per_node;
};
struct hlm_group_shape hlm_layout_shape(const struct hlm_strategy *strategy, enum hlm_group group,
                                        const struct hlm_cluster *cluster, int32_t stage);

/* The link from the ranks of stage `stage` to those of stage + 1 (same dp, tp, cp; behind the last
 * stage of a chunk, those of the first): the intra-node link when every pair is inside a node, else
 * the inter-node link. *out_sharing: devices of the node with most of them that send to, or receive
 * from, another node at once (1 inside a node). */
const struct hlm_link *hlm_layout_stage_link(const struct hlm_strategy *strategy,
                                             const struct hlm_cluster *cluster, int32_t stage,
                                             int32_t *out_sharing);

/* Device group (index into cluster->groups) that holds the first rank of stage `stage`. */
int32_t hlm_layout_device_group(const struct hlm_strategy *strategy,
                                const struct hlm_cluster *cluster, int32_t stage);

/* Whether all ranks of the stage are devices of one device group of the cluster, which the prices
 * above take for granted. */
bool hlm_layout_stage_fits(const struct hlm_strategy *strategy, const struct hlm_cluster *cluster,
                           int32_t stage);

#endif
