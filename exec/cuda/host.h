/* host: what the host code of the CUDA backend shares: the backend, its queues, events and graphs,
 * and how an error of the runtime becomes one of ours.
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
#include "exec/cuda/kernels.h"
#include "exec/cuda/module.h"
#include "exec/cuda/staging.h"

struct hlm_cuda_lt;

struct hlm_cuda_backend {
    struct hlm_backend base;
    int32_t device, num_sms;
    enum hlm_cuda_fuse fuse;
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

/* A table of hlm_cuda_rotation_fill; never filled again, since graphs may read it. */
struct hlm_cuda_rotation {
    struct hlm_cuda_rotation *next;
    int64_t seq_len, rotary;
    double theta;
    void *data;
};

/* A buffer that was too small, but that graphs of the queue may still use. */
struct hlm_cuda_retired {
    struct hlm_cuda_retired *next;
    void *data;
};

struct hlm_queue {
    struct hlm_cuda_backend *backend;
    cudaStream_t stream;
    struct hlm_cuda_staging staging;
    struct hlm_cuda_buffer scratch;
    struct hlm_cuda_rotation *rotations;
    struct hlm_cuda_retired *retired;
    void *workspace;          /* HLM_CUDA_WORKSPACE_BYTES, of matrix products */
    int32_t num_graphs;       /* alive */
    struct hlm_graph *graph;  /* being captured, NULL: none */
    enum hlm_status captured; /* the first error of a call inside the capture, and its words */
    struct hlm_err captured_err;
    hlm_cuda_watch_fn *watch;
    void *watch_context;
};

struct hlm_graph {
    struct hlm_queue *queue;
    cudaGraphExec_t graph;
    struct hlm_cuda_varying *varying; /* on the device */
    struct hlm_cuda_varying last;     /* what stands there, once has_last */
    bool needs_scalars, has_last;
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

/* Device memory, aligned to HLM_ALIGNMENT_BYTES; HLM_ENV says how much the device refused. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_alloc(struct hlm_backend *backend, int64_t bytes,
                                              void **out, struct hlm_err *err);

/* Makes room for `bytes`; contents are lost when it grows, which waits for the queue. HLM_FAILED:
 * it would have to grow inside a capture. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_reserve(struct hlm_queue *queue,
                                                struct hlm_cuda_buffer *buffer, int64_t bytes,
                                                struct hlm_err *err);

/* The launches of struct hlm_backend_ops: exec/cuda/launch.c, exec/cuda/launch_list.c. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_launch(struct hlm_queue *queue, const struct hlm_op *op,
                                               void *const operands[HLM_OP_MAX_OPERANDS],
                                               const struct hlm_op_scalars *scalars,
                                               struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_cuda_launch_list(struct hlm_queue *queue,
                                                    const struct hlm_launch *list, int32_t num,
                                                    const struct hlm_op_scalars *scalars,
                                                    struct hlm_err *err);

/* The product of an operator, without an epilogue. */
struct hlm_cuda_product hlm_cuda_product_of(const struct hlm_queue *queue, const struct hlm_op *op,
                                            void *const operands[HLM_OP_MAX_OPERANDS]);

/* The graphs of struct hlm_backend_ops: exec/cuda/graph.c. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_capture_begin(struct hlm_queue *queue, struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_cuda_capture_end(struct hlm_queue *queue, struct hlm_graph **out,
                                                    struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_cuda_graph_launch(struct hlm_graph *graph,
                                                     const struct hlm_op_scalars *scalars,
                                                     struct hlm_err *err);
void hlm_cuda_graph_free(struct hlm_graph *graph);

/* HLM_OK outside of a capture. Inside: HLM_FAILED, "<what> inside a capture". */
HLM_MUST_CHECK enum hlm_status hlm_cuda_outside_capture(struct hlm_queue *queue, const char *what,
                                                        struct hlm_err *err);

/* Passes a status on; inside a capture its end will tell the first error again. */
enum hlm_status hlm_cuda_note(struct hlm_queue *queue, enum hlm_status status,
                              const struct hlm_err *err);

/* The choices of struct hlm_cuda_module: exec/cuda/choices.c. */
void hlm_cuda_choices(struct hlm_backend *backend, struct hlm_arena *arena,
                      struct hlm_cuda_choices *out);
HLM_MUST_CHECK enum hlm_status hlm_cuda_use_choices(struct hlm_backend *backend,
                                                    const struct hlm_cuda_choices *choices,
                                                    struct hlm_err *err);

HLM_MUST_CHECK enum hlm_status hlm_cuda_backend_new(const struct hlm_cuda_options *options,
                                                    struct hlm_backend **out, struct hlm_err *err);

#endif
