/* comm: how ranks talk. One table of functions per transport: threads of one process (comm_thread),
 * MPI (comm_mpi); NCCL lives in exec/cuda. Above it no MPI type appears.
 *
 * Host transports (stream_ordered false) work on host memory and block the calling thread; the
 * runner syncs the queue that produced the data first and stages data that the host can't reach.
 * Collectives: all members of the group call in the same order with the same counts. Large
 * all_reduce, all_gather and reduce_scatter run as a chunked ring with preallocated scratch (the
 * algorithm the cost model prices), small ones as the transport likes best. Sums are made in a
 * fixed order: equal inputs give equal bits.
 *
 * Every wait has a deadline (`timeout_s` without any progress): then, or when a peer has left, the
 * call fails with HLM_FAILED naming the rank, the operation, the group and the peer it waited for.
 * After a failure only abort and release may be called.
 */
#ifndef HLM_EXEC_COMM_H
#define HLM_EXEC_COMM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "costmodel/layout.h"
#include "costmodel/op.h"

struct hlm_comm;
struct hlm_request;

#define HLM_REDUCE_MAP(X) X(SUM, "sum") X(MAX, "max")
enum hlm_reduce {
#define X(name, text) HLM_REDUCE_##name,
    HLM_REDUCE_MAP(X)
#undef X
};

/* Element types on the wire. */
#define HLM_WIRE_MAP(X) X(F32, "f32", 4) X(F64, "f64", 8) X(BF16, "bf16", 2) X(BYTE, "byte", 1)
enum hlm_wire {
#define X(name, text, bytes) HLM_WIRE_##name,
    HLM_WIRE_MAP(X)
#undef X
};

struct hlm_comm_ops {
    const char *name;
    bool stream_ordered;
    void (*release)(struct hlm_comm *comm);
    /* Makes every other rank's pending and future calls fail; callable from another thread. */
    void (*abort)(struct hlm_comm *comm);
    /* In place over `count` elements. collective over the group */
    enum hlm_status (*all_reduce)(struct hlm_comm *comm, enum hlm_group group, void *data,
                                  int64_t count, enum hlm_wire type, enum hlm_reduce op,
                                  struct hlm_err *err);
    /* in: count elements of this rank; out: count * group size, in group order; in may be its own
     * place in out. collective */
    enum hlm_status (*all_gather)(struct hlm_comm *comm, enum hlm_group group, const void *in,
                                  void *out, int64_t count, enum hlm_wire type,
                                  struct hlm_err *err);
    /* in: count * group size elements; out: this rank's count sums; out may be its own place in in,
     * whose other contents are then undefined. collective */
    enum hlm_status (*reduce_scatter)(struct hlm_comm *comm, enum hlm_group group, const void *in,
                                      void *out, int64_t count, enum hlm_wire type,
                                      struct hlm_err *err);
    enum hlm_status (*barrier)(struct hlm_comm *comm, enum hlm_group group, struct hlm_err *err);
    /* Messages between world ranks; channel separates directions (forward 0, backward 1) and
     * messages of one (sender, receiver, channel) arrive in order. The buffer belongs to the
     * transport until wait. */
    enum hlm_status (*send)(struct hlm_comm *comm, int32_t peer, int32_t channel, const void *data,
                            int64_t bytes, struct hlm_request **out, struct hlm_err *err);
    enum hlm_status (*receive)(struct hlm_comm *comm, int32_t peer, int32_t channel, void *data,
                               int64_t bytes, struct hlm_request **out, struct hlm_err *err);
    /* Waits and frees the request (NULL: returns at once). */
    enum hlm_status (*wait)(struct hlm_comm *comm, struct hlm_request *request,
                            struct hlm_err *err);
};

/* First member of every transport's struct. */
struct hlm_comm {
    const struct hlm_comm_ops *ops;
    int32_t rank, world_size;
};

struct hlm_comm_config {
    const struct hlm_strategy
        *strategy;     /* gives the members of every group by costmodel/layout.h */
    double timeout_s;  /* without progress */
    int64_t max_bytes; /* largest collective, for the scratch */
};

/* world_size ranks as threads of this process: out[world_size]; each is used by one thread and
 * released on its own; the last release frees the shared part. */
HLM_MUST_CHECK enum hlm_status hlm_comm_thread_new(const struct hlm_comm_config *config,
                                                   struct hlm_comm **out, struct hlm_err *err);

/* This process as a rank of MPI_COMM_WORLD (initialises MPI; finalizes on release). HLM_ENV when
 * the build has no MPI, HLM_USAGE when the world size differs from the strategy's. */
HLM_MUST_CHECK enum hlm_status hlm_comm_mpi_new(const struct hlm_comm_config *config,
                                                struct hlm_comm **out, struct hlm_err *err);
bool hlm_comm_mpi_available(void);

void hlm_comm_free(struct hlm_comm *comm); /* NULL accepted */

#endif
