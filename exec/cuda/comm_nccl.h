/* comm_nccl: the transport of exec/comm/comm.h over NCCL, for ranks that have a GPU of their own.
 *
 * stream_ordered, as exec/comm/comm.h says: every operation, a message too, runs on the queue in
 * use when it is called, and wait puts the queue that is in use then behind the message.
 *
 * Communicators: one over the world, and from it in one order on all ranks tp, dp, four for
 * messages (forward and backward, from even and odd stages, so that none waits for another), pp,
 * embedding, model, ...; those with the members of an earlier one are that one.
 * All are made at once, before the first step, and are non-blocking, so that a wait can be given
 * up: while a queue that was in use is synced, errors that NCCL reports, the time without progress
 * and an abort from elsewhere are looked at, and the first of them aborts all communicators. A peer
 * that died is noticed in this way, or by check(), only.
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

#endif
