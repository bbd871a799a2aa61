/* host: what the host code of the CUDA backend shares: the backend, its queues and events, and how
 * an error of the runtime becomes one of ours.
 *
 * A queue is a stream with what its operators need beside their operands. Everything of a backend
 * is used by the thread that made it.
 */
#ifndef HLM_EXEC_CUDA_HOST_H
#define HLM_EXEC_CUDA_HOST_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#include "exec/backend.h"
#include "exec/cuda/clock.h"
#include "exec/cuda/module.h"
#include "exec/cuda/staging.h"

struct hlm_cuda_lt;

struct hlm_cuda_backend {
    struct hlm_backend base;
    int32_t device, num_sms;
    struct hlm_cuda_lt *lt;
    struct hlm_cuda_epoch *epoch; /* the current one */
};

/* Device memory that grows to the largest request and is kept: nothing is allocated once every
 * operator of a step has run. */
struct hlm_cuda_buffer {
    void *data;
    int64_t bytes;
};

/* Called again and again while a sync waits; HLM_OK: go on waiting. */
typedef enum hlm_status hlm_cuda_watch_fn(void *context, struct hlm_err *err);

struct hlm_queue {
    struct hlm_cuda_backend *backend;
    cudaStream_t stream;
    struct hlm_cuda_staging staging;
    struct hlm_cuda_buffer scratch, rotation;
    int64_t rotation_len, rotation_size; /* what the table is for: seq_len, rotary, rope_theta */
    double rotation_theta;
    void *workspace; /* HLM_CUDA_WORKSPACE_BYTES, of matrix products */
    hlm_cuda_watch_fn *watch;
    void *watch_context;
};

struct hlm_event {
    cudaEvent_t event;
    struct hlm_cuda_epoch *epoch; /* of the last record, NULL before the first */
};

/* HLM_OK for cudaSuccess. Else "<what>: <the runtime's words> (<name>, <number>)": HLM_ENV where
 * memory, a device or a driver is lacking, HLM_FAILED for all others. Forgets the runtime's last
 * error. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_check(cudaError_t error, const char *what,
                                              struct hlm_err *err);

/* Makes room for `bytes`; contents are lost when it grows, which waits for the queue. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_reserve(struct hlm_queue *queue,
                                                struct hlm_cuda_buffer *buffer, int64_t bytes,
                                                struct hlm_err *err);

/* The launch of struct hlm_backend_ops. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_launch(struct hlm_queue *queue, const struct hlm_op *op,
                                               void *const operands[HLM_OP_MAX_OPERANDS],
                                               const struct hlm_op_scalars *scalars,
                                               struct hlm_err *err);

HLM_MUST_CHECK enum hlm_status hlm_cuda_backend_new(const struct hlm_cuda_options *options,
                                                    struct hlm_backend **out, struct hlm_err *err);

#endif
