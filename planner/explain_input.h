/* explain_input: a planning problem with one input changed, for "what if".
 *
 * An input is one figure of the cluster or of the problem, and everything else that follows from it
 * physically: a faster link has a faster bandwidth in its model, in its measured points, and in the
 * collectives that were measured over it.
 */
#ifndef HLM_PLANNER_EXPLAIN_INPUT_H
#define HLM_PLANNER_EXPLAIN_INPUT_H

#include "planner/search.h"

#define HLM_EXPLAIN_INPUT_MAP(X)                                                                   \
    X(DEVICE_MEMORY, "device_memory")                                                              \
    X(COMPUTE, "compute")                                                                          \
    X(MEMORY_BANDWIDTH, "memory_bandwidth")                                                        \
    X(INTRA_NODE_BANDWIDTH, "intra_node_bandwidth")                                                \
    X(INTER_NODE_BANDWIDTH, "inter_node_bandwidth")                                                \
    X(LATENCY, "latency")                                                                          \
    X(GLOBAL_BATCH, "global_batch")
enum hlm_explain_input {
#define X(name, text) HLM_EXPLAIN_INPUT_##name,
    HLM_EXPLAIN_INPUT_MAP(X)
#undef X
        HLM_NUM_EXPLAIN_INPUTS
};
extern const char *const hlm_explain_input_texts[];

/* Multiplies one input of the problem by `factor` > 0; what changes is copied into the arena, the
 * cluster that the problem pointed to stays as it is. In all groups:
 *   DEVICE_MEMORY         memory_bytes
 *   COMPUTE               peak and rates of matrix products and attention, and the times of theirs
 *                         that are computed too (start of a tile, of a head, of a score)
 *   MEMORY_BANDWIDTH      the bandwidths of the device and of its kernels; of a measured curve, the
 *                         time above its shortest
 *   INTRA_NODE_BANDWIDTH  the link inside a node, and the collectives measured on one node
 *   INTER_NODE_BANDWIDTH  links between nodes, network cards, and the collectives measured on
 *                         several nodes as far as the link inside a node carries more
 *   LATENCY               alphas of links and collectives; of measured points, the shortest time
 *   GLOBAL_BATCH          global_batch_size, rounded down
 * Launch overheads and fixed times of kernels never change. */
void hlm_explain_input_scale(struct hlm_arena *arena, struct hlm_search_problem *problem,
                             enum hlm_explain_input input, double factor);

#endif
