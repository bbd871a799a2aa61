/* profiler_link_queue: what moving data between devices costs, over a transport whose operations
 * are ordered on queues (exec/comm/comm.h): messages inside of a node and between nodes, and every
 * collective of every group that the transport has, by size.
 *
 * A group is measured alone, and, where there are several of its kind, with all of them at once, as
 * a step has them: inside of nodes the latter is what counts; between nodes both together say how
 * many network cards the devices of a node share. Times are the device's, between two events around
 * several calls in a row, behind one more that brings the ranks together; the median of several.
 * One step never hangs on the host, which is ahead.
 *
 * Method: nccl-tests (warm-up, many calls in a row, one time), and its NCCL_TESTS_SPLIT for groups
 * at once.
 */
#ifndef HLM_EXEC_PROFILER_LINK_QUEUE_H
#define HLM_EXEC_PROFILER_LINK_QUEUE_H

#include "base/arena.h"
#include "exec/backend.h"
#include "exec/comm/comm.h"
#include "exec/launch/heartbeat.h"
#include "exec/profiler/profiler_bench.h"
#include "profiles/cluster.h"

struct hlm_profiler_queue_links_config {
    struct hlm_comm *comm; /* stream_ordered, at least two ranks */
    struct hlm_backend *backend;
    const struct hlm_strategy *strategy; /* the transport's, which gives its groups */
    const int32_t *nodes; /* [world_size] node of each rank, ascending from 0; NULL: by host name */
    uint64_t device_id;   /* of this rank's device, unique on its machine */
    int64_t max_bytes;    /* largest collective */
    bool quick;           /* fewer sizes and repetitions */
    double budget_s;      /* when it is over, what is left is left out */
    struct hlm_profiler_clock clock;
    struct hlm_heartbeat *heartbeat;
};

/* Sources hold numbers of samples and spread, and a reference for what was run at once; the caller
 * adds the rest. */
struct hlm_profiler_queue_links {
    int32_t num_nodes, ranks_per_node;
    bool shares_devices; /* two ranks have the same device */
    bool has_intra, has_inter;
    struct hlm_link intra, inter;
    struct hlm_collective_curve *collectives;
    int32_t num_collectives;
    int32_t nics_per_node; /* 0: not known, since no group spans nodes beside others */
    double nic_bandwidth_bytes_per_s;
    const char **left_out;
    int32_t num_left_out;
};

/* *out is set on all ranks, times on rank 0. HLM_ENV: no memory, or nodes with different numbers of
 * ranks; HLM_FAILED: a peer left. collective over the world */
HLM_MUST_CHECK enum hlm_status
hlm_profiler_queue_links_measure(struct hlm_arena *arena,
                                 const struct hlm_profiler_queue_links_config *config,
                                 struct hlm_profiler_queue_links *out, struct hlm_err *err);

/* The links between every two ranks, one pair after the other, as hlm_profiler_pairs_measure
 * (exec/profiler/profiler_link.h) orders them, on all ranks; of the config comm, backend, max_bytes
 * (of a message) and quick count. HLM_ENV: no memory; HLM_FAILED: a peer left. collective over the
 * world */
HLM_MUST_CHECK enum hlm_status
hlm_profiler_queue_pairs_measure(struct hlm_arena *arena,
                                 const struct hlm_profiler_queue_links_config *config,
                                 struct hlm_link *out, struct hlm_err *err);

/* values[r] becomes the value of rank r, on all ranks. Over such a transport. HLM_FAILED: a peer
 * left. collective over the world */
HLM_MUST_CHECK enum hlm_status hlm_profiler_gather(struct hlm_comm *comm,
                                                   struct hlm_backend *backend, double value,
                                                   double *values, struct hlm_err *err);

/* Degrees whose groups tell most about num_ranks ranks, num_ranks_per_node of them on each node:
 * with several nodes tp inside and dp across; on one node groups of two, four and all. */
struct hlm_strategy hlm_profiler_world(int32_t num_ranks, int32_t num_ranks_per_node);

#endif
