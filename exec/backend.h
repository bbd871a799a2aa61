/* backend: where operators run. One table of functions per backend (cpu, cuda, and in tests one
 * that is late on purpose); above it no CUDA type appears.
 *
 * A backend owns memory and queues. launch() puts one operator of the list (costmodel/op.h) on a
 * queue and may return before it ran; operators of one queue run in order; events order queues
 * among each other and carry times. Memory may be unreachable for the host (host_memory false):
 * then only upload and download reach it. A queue belongs to one host thread.
 *
 * Among threads: each rank has a backend of its own, used by its thread, but two things cross to
 * backends of the same kind in this process, on this device or another:
 * - Events. A queue of one thread may wait for an event that another thread recorded, provided that
 *   record and wait are ordered on the host (a lock), and that the owner records it again or frees
 *   it only after the call of event_wait has returned; the queue need not have come there. So the
 *   wait means the last record before the call, however late it runs. event_done may be asked by
 *   any thread under the same conditions; recording, event_time and freeing are the owner's.
 * - Memory. copy() reads and writes what any of these backends allocated.
 * (CUDA gives both: cudaStreamWaitEvent takes what the event held at the call, on streams and
 * devices of any thread; addresses are unique in a process and a copy finds the device.)
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
#include "exec/comm/wire.h"

enum { HLM_BACKEND_VERSION = 2 };

struct hlm_backend;
struct hlm_queue;
struct hlm_event;
struct hlm_graph;

/* What an operator needs beside its operands and that changes from step to step. */
struct hlm_op_scalars {
    double loss_scale; /* XENT_GRAD */
    double learning_rate, beta1, beta2, adam_eps, weight_decay;
    double grad_scale; /* ADAMW: the gradient is multiplied by it (clipping) */
    int64_t step;      /* ADAMW: 1 for the first */
};

/* One operator of a list with the addresses of its operands, as launch() takes them. Bit i of dies:
 * once this operator has run, nobody reads what operand i holds, in this list or a later one
 * (exec/fusion.h finds these); an operator before it in the list that is the only one to make it
 * for this one may then keep it to itself. */
struct hlm_launch {
    const struct hlm_op *op;
    void *operands[HLM_OP_MAX_OPERANDS];
    uint32_t dies;
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

    /* Optional, NULL where the backend launches one by one only. Like launch() of each in order,
     * but neighbours may run as one, in another order where neither reads or writes what the other
     * writes. Operands that die inside the list may keep their old contents; all others are as by
     * single launches up to rounding: in bf16 a number that would have been rounded on its way
     * through memory may not be. No collectives. */
    enum hlm_status (*launch_list)(struct hlm_queue *queue, const struct hlm_launch *list,
                                   int32_t num, const struct hlm_op_scalars *scalars,
                                   struct hlm_err *err);

    /* Graphs, optional: all four or none. A graph is what was put on a queue between begin and end,
     * to be put there again with one call: the same operators, shapes and addresses; what stands at
     * the addresses may differ. Rules:
     * - the same calls ran on this queue before, outside of a capture (the first use of a shape may
     *   choose algorithms and make room, which a capture can't): HLM_FAILED where they did not;
     * - inside only launch, launch_list, copy and combine, on this queue: no upload, download,
     * sync, event;
     * - nothing runs while it is captured: end, then graph_launch for the first time;
     * - of the scalars, graph_launch's loss_scale, learning_rate, grad_scale and step count; the
     *   others are those of the capture;
     * - memory that it names lives as long as the graph, the graph is freed before its queue and
     *   not while it runs; it is launched on its own queue.
     * So a runner keeps one graph per (stage, slot, pass), runs a pass by launches the first time,
     * captures it the second, and replays it from then on; uploads of tokens, messages, collectives
     * over host memory and the events that time a pass stay outside. */
    enum hlm_status (*capture_begin)(struct hlm_queue *queue, struct hlm_err *err);
    /* Ends the capture in any case; *out only on success. An error of a call inside is told again.
     */
    enum hlm_status (*capture_end)(struct hlm_queue *queue, struct hlm_graph **out,
                                   struct hlm_err *err);
    enum hlm_status (*graph_launch)(struct hlm_graph *graph, const struct hlm_op_scalars *scalars,
                                    struct hlm_err *err);
    void (*graph_free)(struct hlm_graph *graph); /* NULL accepted */

    /* --- what several ranks on queues need (exec/comm/exchange.h, exec/comm/comm_queue.h);
     * required --- */

    /* Whether what the event's last record stands behind has run (an event that was never recorded:
     * yes). Never blocks. HLM_FAILED: an error of the queue that a sync would tell too. */
    enum hlm_status (*event_done)(struct hlm_event *event, bool *out, struct hlm_err *err);
    /* out[i] = a[i] + b[i], or the larger one, for `count` elements of memory of this backend, as
     * hlm_wire_reduce (exec/comm/wire.h) does it (bit for bit, but for which NaN and for numbers
     * below the normal range); out may be a or b. */
    enum hlm_status (*combine)(struct hlm_queue *queue, void *out, const void *a, const void *b,
                               int64_t count, enum hlm_wire type, enum hlm_reduce op,
                               struct hlm_err *err);

    /* Optional, NULL where the backend can't say: bytes of the device that are in use now, by this
     * rank and all others on it, and those that it has. (A rank's own share is what it allocated;
     * of a process, the resident size would count all ranks that are its threads.) */
    enum hlm_status (*memory)(struct hlm_backend *backend, int64_t *out_used_bytes,
                              int64_t *out_total_bytes, struct hlm_err *err);
};

/* First member of every backend's struct. */
struct hlm_backend {
    const struct hlm_backend_ops *ops;
};

/* The CPU backend: synchronous, serial BLAS, fp32 (exec/cpu/). One per rank. */
HLM_MUST_CHECK enum hlm_status hlm_backend_cpu_new(struct hlm_backend **out, struct hlm_err *err);

/* A slow device out of this one: from now on every operator of a CPU backend runs `times` times (at
 * least 1), with the result of once, bit for bit. Copies and combine run once. */
void hlm_backend_cpu_repeat(struct hlm_backend *backend, int32_t times);

/* Release that accepts NULL. */
void hlm_backend_free(struct hlm_backend *backend);

#endif
