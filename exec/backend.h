/* backend: where operators run. One table of functions per backend (cpu, cuda, and in tests one
 * that is late on purpose); above it no CUDA type appears.
 *
 * A backend owns memory and queues. launch() puts one operator of the list (costmodel/op.h) on a
 * queue and may return before it ran; operators of one queue run in order; events order queues
 * among each other and carry times. Memory may be unreachable for the host (host_memory false):
 * then only upload and download reach it. A queue belongs to one host thread.
 *
 * Tensors are fp32 for dtype fp32, 16-bit otherwise; tokens, targets and choices int32; LOSS and
 * the sum of SUM_SQUARES are one double each.
 */
#ifndef HLM_EXEC_BACKEND_H
#define HLM_EXEC_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "costmodel/op.h"

enum { HLM_BACKEND_VERSION = 1 };

struct hlm_backend;
struct hlm_queue;
struct hlm_event;

/* What an operator needs beside its operands and that changes from step to step. */
struct hlm_op_scalars {
    double loss_scale; /* XENT_GRAD */
    double learning_rate, beta1, beta2, adam_eps, weight_decay;
    double grad_scale; /* ADAMW: the gradient is multiplied by it (clipping) */
    int64_t step;      /* ADAMW: 1 for the first */
};

/* When everything before the event had run: wall clock (CLOCK_MONOTONIC seconds) and CPU time of
 * the thread that ran it (0 where there is none). */
struct hlm_event_time {
    double wall_s, cpu_s;
};

struct hlm_backend_ops {
    int version;
    const char *name;
    bool host_memory;
    void (*release)(struct hlm_backend *backend);
    /* Memory is aligned to HLM_ALIGNMENT_BYTES and touched (no page fault in a step). */
    enum hlm_status (*alloc)(struct hlm_backend *backend, int64_t bytes, void **out,
                             struct hlm_err *err);
    void (*free)(struct hlm_backend *backend, void *memory);
    enum hlm_status (*queue_new)(struct hlm_backend *backend, struct hlm_queue **out,
                                 struct hlm_err *err);
    void (*queue_free)(struct hlm_queue *queue);
    /* Blocks until everything on the queue has run; reports errors of earlier launches. */
    enum hlm_status (*queue_sync)(struct hlm_queue *queue, struct hlm_err *err);
    /* Copies in queue order; `host` must stay valid until the queue has passed (sync). */
    enum hlm_status (*upload)(struct hlm_queue *queue, void *device, const void *host,
                              int64_t bytes, struct hlm_err *err);
    enum hlm_status (*download)(struct hlm_queue *queue, void *host, const void *device,
                                int64_t bytes, struct hlm_err *err);
    enum hlm_status (*copy)(struct hlm_queue *queue, void *to, const void *from, int64_t bytes,
                            struct hlm_err *err);
    enum hlm_status (*event_new)(struct hlm_backend *backend, struct hlm_event **out,
                                 struct hlm_err *err);
    void (*event_free)(struct hlm_event *event);
    enum hlm_status (*event_record)(struct hlm_queue *queue, struct hlm_event *event,
                                    struct hlm_err *err);
    /* What comes later on this queue runs behind the event's last record on another queue. */
    enum hlm_status (*event_wait)(struct hlm_queue *queue, struct hlm_event *event,
                                  struct hlm_err *err);
    /* Valid after a sync that covers the record. */
    struct hlm_event_time (*event_time)(struct hlm_event *event);
    /* operands: addresses in the order of HLM_OP_MAP, NULL for absent ones. No collectives. HLM_ENV
     * names the operator and the dtype when the backend can't run it. */
    enum hlm_status (*launch)(struct hlm_queue *queue, const struct hlm_op *op,
                              void *const operands[HLM_OP_MAX_OPERANDS],
                              const struct hlm_op_scalars *scalars, struct hlm_err *err);
};

/* First member of every backend's struct. */
struct hlm_backend {
    const struct hlm_backend_ops *ops;
};

/* The CPU backend: synchronous, serial BLAS, fp32 (exec/cpu/). One per rank. */
HLM_MUST_CHECK enum hlm_status hlm_backend_cpu_new(struct hlm_backend **out, struct hlm_err *err);

/* Release that accepts NULL. */
void hlm_backend_free(struct hlm_backend *backend);

#endif
