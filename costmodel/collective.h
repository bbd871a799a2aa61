/* collective: seconds of one collective or message on the real layout of a group.
 *
 * Inside a node: the measured curve for exactly this size where the cluster has one, else the
 * nearest measured size (by ratio) with alpha scaled by (n - 1), else a ring over the intra-node
 * link: start + steps * hop + bytes * factor / bandwidth; factor: all_reduce 2(n-1)/n, others
 * (n-1)/n (nccl-tests PERFORMANCE.md); steps: 2(n-1) and n-1. start is alpha - hop of the link.
 *
 * Across nodes: the measured curve for exactly this size when the group has the nodes for itself,
 * else start + the ring; for all-reduce the lesser of ring and tree: ring = rounds * ((n - nodes)
 * intra hops + (nodes - 1) inter hops) + bytes * factor / bandwidth tree = 2 (ranks_per_node - 1)
 * intra hops + 2 ceil(log2 nodes) inter hops
 *          + bytes * factor / (bandwidth * frac(bytes))
 * rounds: 1 for all-gather and reduce-scatter, 2 * 1.4 for all-reduce. bandwidth: the least of what
 * a rank reaches inside its node (last piece of the nearest measured curve) and of the group's part
 * of its node's network, nic bandwidth * min(cards next to the group's ranks, cards /
 * groups_per_node) / oversubscription; a tree over two nodes may use twice the network. Forms, 1.4
 * and frac (0.5 around 1 MB to 0.9) are those of NCCL's tuner (2.30, src/graph/tuning.cc); hops and
 * rates come with the cluster. All-to-all: a rank sends 1/n of its buffer to each other rank; the
 * parts inside and outside of the node go at once; latency: a hop for each peer. Links whose
 * transfers wait for both sides, or with measured points: a ring of (n-1) steps a round, each as
 * long as the slowest message of bytes / n.
 */
#ifndef HLM_COSTMODEL_COLLECTIVE_H
#define HLM_COSTMODEL_COLLECTIVE_H

#include "costmodel/layout.h"
#include "profiles/cluster.h"

/* bytes: the whole buffer as nccl-tests counts it (all_to_all: of one rank). 0 when the group has
 * one rank. Never decreases with bytes, nor with less bandwidth; allocates nothing. */
double hlm_collective_seconds(const struct hlm_cluster *cluster, int32_t device_group,
                              enum hlm_collective op, double bytes, struct hlm_group_shape shape);

/* Of a group with ranks in several device groups, by what those of `device_group` see: shape, but
 * for num_ranks and num_nodes, which are of the whole group, is theirs; between nodes it goes over
 * `link`. num_nodes > 1. No measured curve is of such a group. */
double hlm_collective_seconds_over(const struct hlm_cluster *cluster, int32_t device_group,
                                   const struct hlm_link *link, enum hlm_collective op,
                                   double bytes, struct hlm_group_shape shape);

/* An all-to-all of rows that go to `copies` ranks each, drawn at random: a row crosses to another
 * node once, however many of its copies go there (DeepEP and HybridEP), so of the traffic between n
 * nodes n (1 - (1 - 1/n)^copies) / copies is left. bytes counts all copies. */
double hlm_collective_dispatch_seconds(const struct hlm_cluster *cluster, int32_t device_group,
                                       double bytes, int32_t copies, struct hlm_group_shape shape);

/* Bytes on the wire that a rank sends, over bytes: the factor above. */
double hlm_collective_factor(enum hlm_collective op, int32_t num_ranks);

#endif
