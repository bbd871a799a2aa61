/* cluster: groups of equal nodes, the devices in them, and the links inside and between them.
 *
 * Devices are numbered group by group, node by node: device index d of the whole cluster. A cluster
 * comes from the one-line form "h100-sxm:16x8" (16 nodes of 8) or
 * "a100-sxm-80g:4x8+v100-sxm2-32g:8x8", from a file of kind cluster, or from a folder that `hlmplan
 * profile` wrote (holding cluster.json).
 */
#ifndef HLM_PROFILES_CLUSTER_H
#define HLM_PROFILES_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/json.h"
#include "profiles/device.h"

/* One direction of a path between two devices. A message of `bytes` takes
 *   alpha_s + bytes / bandwidth                     up to eager_limit_bytes,
 *   alpha_rendezvous_s + bytes / bandwidth          above,
 * or, when `points` are given, the curve through them. needs_both_sides: the transfer starts when
 * the sender has posted it and the receiver waits for it (MPI); else it starts when sent and is
 * buffered at the receiver (NCCL). alpha_rendezvous_s 0: as alpha_s. hop_alpha_s: latency of each
 * further step of a pipelined collective over this link (below alpha_s, which includes starting
 * it); 0: as alpha_s. */
struct hlm_link {
    double alpha_s, alpha_rendezvous_s, hop_alpha_s;
    int64_t eager_limit_bytes;
    double bandwidth_bytes_per_s; /* per direction and device */
    bool needs_both_sides;
    const struct hlm_curve_point *points;
    int32_t num_points;
    struct hlm_source source;
};

#define HLM_COLLECTIVE_MAP(X)                                                                      \
    X(ALL_REDUCE, "all_reduce")                                                                    \
    X(ALL_GATHER, "all_gather")                                                                    \
    X(REDUCE_SCATTER, "reduce_scatter")                                                            \
    X(ALL_TO_ALL, "all_to_all")
enum hlm_collective {
#define X(name, text) HLM_##name,
    HLM_COLLECTIVE_MAP(X)
#undef X
        HLM_NUM_COLLECTIVES
};

/* Measured collectives: t(bytes) for exactly num_ranks ranks on num_nodes nodes of one group (bytes
 * as nccl-tests counts them: the whole buffer). Pieces ascend in max_bytes; the last has max_bytes
 * 0 (unlimited); t = alpha_s + bytes * factor(op, n) / bus_bandwidth (0: size does not matter), and
 * never less than at the end of an earlier piece. */
struct hlm_collective_piece {
    double max_bytes, alpha_s, bus_bandwidth_bytes_per_s;
};
struct hlm_collective_curve {
    enum hlm_collective op;
    int32_t num_ranks, num_nodes;
    const struct hlm_collective_piece *pieces;
    int32_t num_pieces;
    struct hlm_source source;
};

/* What the devices of a node have behind them. */
struct hlm_host {
    double memory_bytes;                 /* of a node */
    double memory_bandwidth_bytes_per_s; /* of a node, as STREAM reaches it */
    /* Between a device and the host's page-locked memory, per direction, as copies reach it while
     * all devices of the node copy. */
    double link_bandwidth_bytes_per_s;
    struct hlm_source source;
};

struct hlm_device_group {
    const char *name;
    struct hlm_device device;
    int32_t num_nodes, devices_per_node;
    struct hlm_link intra_node;
    int32_t nics_per_node; /* shared by the devices of a node; 0: the inter-node link's bandwidth
                              holds */
    /* Per NIC and direction, as collectives reach it (not the line rate). */
    double nic_bandwidth_bytes_per_s;
    struct hlm_source nic_source;
    int32_t nvlink_domain; /* devices that reach each other by the intra-node link: a multiple of
                              devices_per_node (rack-scale NVLink); 0: devices_per_node */
    double price_per_device_hour; /* 0: unknown */
    const struct hlm_collective_curve *collectives;
    int32_t num_collectives;
    const struct hlm_host *host; /* NULL: unknown */
};

/* Link between a node of group `from` and a node of group `to` (from == to: inside the group). */
struct hlm_inter_link {
    int32_t from, to;
    struct hlm_link link;
};

#define HLM_FABRIC_MAP(X) X(RAIL, "rail") X(TREE, "tree")
enum hlm_fabric {
#define X(name, text) HLM_FABRIC_##name,
    HLM_FABRIC_MAP(X)
#undef X
};

struct hlm_cluster {
    const char *name;
    const struct hlm_device_group *groups;
    int32_t num_groups;
    const struct hlm_inter_link
        *links; /* every unordered pair of groups that have more than one node between them, once */
    int32_t num_links;
    enum hlm_fabric fabric;
    double oversubscription; /* 1: full bisection */
};

extern const struct hlm_json_table hlm_cluster_table; /* kind "cluster" */

/* `text_or_path` is, in this order: a built-in node type (one node), the one-line form, whose names
 * are built-in devices or unique prefixes of them (the device's node type gives links and NICs;
 * with another number of devices per node the NICs, at least one, and the host's memory scale in
 * proportion) or built-in
 * node types, a file of kind cluster, or a folder with cluster.json. Links between different groups
 * take the worse figures of the two. HLM_INPUT lists the candidates of an unknown or ambiguous
 * name. */
HLM_MUST_CHECK enum hlm_status hlm_cluster_load(struct hlm_arena *arena, const char *text_or_path,
                                                const struct hlm_cluster **out,
                                                struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_cluster_validate(const struct hlm_cluster *cluster,
                                                    const char *where, struct hlm_err *err);

/* One cluster of the groups of several, for a mixed cluster whose kinds of nodes were profiled one
 * by one. Groups come in the order of the parts, each named after its part's label (with its own
 * name behind it where the part has several groups; a number behind it where the name is taken).
 * Inside of a part links stay what they are. Between the groups of two parts:
 *   measured   [num_parts * (num_parts - 1) / 2]: the link of parts 0 1, 0 2, ..., 1 2, ...; or
 *   NULL       as bad as the worse of the two groups' own links between nodes. HLM_INPUT where a
 *              group has none: a profile of one node knows no network.
 * HLM_INPUT also where the whole is no valid cluster. */
struct hlm_cluster_part {
    const char *label;
    const struct hlm_cluster *cluster;
};
HLM_MUST_CHECK enum hlm_status hlm_cluster_join(struct hlm_arena *arena,
                                                const struct hlm_cluster_part *parts,
                                                int32_t num_parts, const struct hlm_link *measured,
                                                const struct hlm_cluster **out,
                                                struct hlm_err *err);

/* The parts of "fast/,slow/,h100-sxm:4x8", each as hlm_cluster_load takes it, labelled with the
 * last name of its path. HLM_INPUT: one can't be loaded, or there is none. */
HLM_MUST_CHECK enum hlm_status hlm_cluster_load_parts(struct hlm_arena *arena, const char *text,
                                                      const struct hlm_cluster_part **out,
                                                      int32_t *out_num, struct hlm_err *err);

/* Where pair a < b of num_parts parts stands in `measured`. */
int32_t hlm_cluster_pair(int32_t num_parts, int32_t a, int32_t b);

/* A path over two links that is as bad as the worse of them; its source says so. */
struct hlm_link hlm_link_join(const struct hlm_link *a, const struct hlm_link *b);

const char *hlm_cluster_builtin_name(int index); /* node types: dgx-a100, dgx-h100, ... */

int64_t hlm_cluster_num_devices(const struct hlm_cluster *cluster);

/* Devices of the group that the intra-node link joins: nvlink_domain, or devices_per_node. What the
 * cost model calls a node. */
int32_t hlm_device_group_domain(const struct hlm_device_group *group);

/* The link between nodes of two groups; never NULL for a valid cluster. */
const struct hlm_link *hlm_cluster_inter_link(const struct hlm_cluster *cluster, int32_t from,
                                              int32_t to);

/* Seconds of one message over a link. */
double hlm_link_seconds(const struct hlm_link *link, double bytes);

/* The best dtype that all devices of the cluster have, for --dtype auto: bf16, else fp16, else
 * fp32. */
enum hlm_dtype hlm_cluster_best_dtype(const struct hlm_cluster *cluster);

#endif
