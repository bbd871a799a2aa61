/* comm_nccl: the transport of exec/comm.h over NCCL, for ranks that have a GPU of their own.
 *
 * stream_ordered: an operation is put behind what stands on the queue that was given last
 * (hlm_cuda_comm_use_queue), what is put on that queue later runs behind the operation, and the
 * call returns at once. So data is device memory, and buffers are free in the order of the queue,
 * for the host only after a sync of it. Messages run beside the queue, on a stream per channel:
 * send and receive wait for what the queue held, and the queue waits for a message at `wait`.
 *
 * Communicators: one over the world, and from it in one order on all ranks tp, dp, two for messages
 * (forward and backward, so that neither direction waits for the other), pp, embedding, model;
 * those with the members of an earlier one are that one.
 * All are made at once, before the first step, and are non-blocking, so that a wait can be given
 * up: while a queue is synced, errors that NCCL reports, the time without progress and an abort
 * from elsewhere are looked at, and the first of them aborts all communicators. A peer that died is
 * noticed in this way only.
 *
 * NCCL (up to 2.29) refuses two ranks on one GPU. */
#ifndef HLM_EXEC_CUDA_COMM_NCCL_H
#define HLM_EXEC_CUDA_COMM_NCCL_H

#include "exec/cuda/module.h"

HLM_MUST_CHECK enum hlm_status hlm_cuda_comm_id(unsigned char id[HLM_CUDA_COMM_ID_BYTES],
                                                struct hlm_err *err);

/* collective over all ranks */
HLM_MUST_CHECK enum hlm_status hlm_cuda_comm_new(const struct hlm_cuda_comm_config *config,
                                                 struct hlm_backend *backend, struct hlm_comm **out,
                                                 struct hlm_err *err);

/* NULL: none any more, before the queue is freed. */
void hlm_cuda_comm_use_queue(struct hlm_comm *comm, struct hlm_queue *queue);

#endif
