/* comm: how ranks talk. One table of functions per transport: threads of one process (comm_thread),
 * MPI (comm_mpi), threads that share a device (comm_queue.h); NCCL lives in exec/cuda. Above it no
 * MPI type appears. exec/comm/exchange.h is the place that calls them for the runner.
 *
 * Host transports (stream_ordered false) work on host memory and block the calling thread; the
 * caller syncs the queue that produced the data first and stages data that the host can't reach.
 *
 * Stream-ordered transports work on memory of a backend. A call puts its operation on the queue
 * that use_queue gave last: it runs behind what stands there, what is put there later runs behind
 * it, and the call returns without waiting for data. A message (send, receive) runs behind what
 * stands on the queue too, but only wait() promises that anything runs behind the message: what is
 * put later on the queue that is in use then, which may be another one. The operations of one group
 * are called in one order on all ranks, whatever queues they are on. barrier blocks: it waits for
 * the queue in use too. Errors come out of check() or of the next call; after one, and after abort,
 * what the transport has on queues ends without a defined result.
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
#include "exec/comm/wire.h"

struct hlm_comm;
struct hlm_queue;
struct hlm_request;

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
    /* in: what goes to each rank of the group, one behind the other in group order, in_bytes[i] for
     * the i-th; out: what comes from each likewise. in_bytes[j] of rank i is out_bytes[i] of rank
     * j. NULL where the transport has none (stream-ordered ones). collective */
    enum hlm_status (*all_to_all)(struct hlm_comm *comm, enum hlm_group group, const void *in,
                                  const int64_t *in_bytes, void *out, const int64_t *out_bytes,
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

    /* Stream-ordered transports only, NULL in others. The queue, of the rank's backend and thread,
     * on which operations are ordered from now on; needed before the first. NULL: the transport
     * forgets all queues, which the caller has synced, before they are freed. */
    void (*use_queue)(struct hlm_comm *comm, struct hlm_queue *queue);
    /* Whether what is under way can still end: HLM_FAILED after errors in the background, an abort
     * or a peer's leaving. Called again and again by whoever waits for a queue. */
    enum hlm_status (*check)(struct hlm_comm *comm, struct hlm_err *err);
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
