/* profiler_stack: a small model in training, timed operator by operator.
 *
 * What an operator costs depends on what the operators before it left in the caches: an activation
 * that was just written is near, weights and what the forward kept for the backward are far. A
 * stack puts each operator where it runs: it builds the blocks of a model (embedding, layers, head)
 * from their operator lists, gives every tensor the place that the executor would, runs forwards
 * from the first block to the last and backwards from the last to the first, and times each
 * operator on the way. A stack as large as several caches therefore has the misses of a real step,
 * which buffers that rotate in a pool only resemble.
 *
 * Times are CPU time of the thread where the backend knows it, so other programs on the machine
 * cost little accuracy; device or wall time elsewhere.
 */
#ifndef HLM_EXEC_PROFILER_STACK_H
#define HLM_EXEC_PROFILER_STACK_H

#include "base/arena.h"
#include "costmodel/lowering.h"
#include "exec/backend.h"

struct hlm_profiler_stack_config {
    const struct hlm_model *model;       /* its num_layers layers are built */
    const struct hlm_strategy *strategy; /* one rank: all degrees 1 */
    enum hlm_backend_kind kind;
    enum hlm_recompute recompute; /* of all layers */
    int32_t num_steps;            /* timed ones, behind one that is not */
};

/* One operator of one block. Equal blocks (layers) share a sample: the mean over them of the least
 * time over the steps. `op` belongs to the block, which lives in the arena. */
struct hlm_profiler_sample {
    const struct hlm_op *op;
    bool backward;
    int32_t num_blocks;
    double seconds;
};

struct hlm_profiler_stack {
    const struct hlm_profiler_sample *samples;
    int32_t num_samples;
    double median_step_s, least_step_s; /* all operators of a step */
};

/* Trains for num_steps + 1 steps without optimizer. HLM_ENV: the backend can't run an operator or
 * has no memory, or the dtype is not fp32; HLM_NO: the lowering can't express the model;
 * HLM_FAILED: the loss is not finite.
 */
HLM_MUST_CHECK enum hlm_status
hlm_profiler_stack_measure(struct hlm_arena *arena, struct hlm_backend *backend,
                           const struct hlm_profiler_stack_config *config,
                           struct hlm_profiler_stack *out, struct hlm_err *err);

/* Seconds between two records of an event, CPU time where the backend has it. */
double hlm_profiler_elapsed(struct hlm_event_time from, struct hlm_event_time to);

#endif
