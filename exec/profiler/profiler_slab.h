/* profiler_slab: what does not depend on a model: operators over long vectors (the optimizer's, and
 * the sum that stands for all without a curve), the cost of a launch, what neighbours cost each
 * other, and a probe of how steady the machine is.
 *
 * Vectors are parts of arrays that together are larger than the last-level cache; each repetition
 * takes the next part, so short ones are cold too, as the slabs of a step are.
 */
#ifndef HLM_EXEC_PROFILER_SLAB_H
#define HLM_EXEC_PROFILER_SLAB_H

#include "base/arena.h"
#include "exec/backend.h"
#include "profiles/device.h"

enum { HLM_PROFILER_NUM_SLAB_OPS = 3 };

struct hlm_profiler_slabs {
    struct hlm_op_curve curves[HLM_PROFILER_NUM_SLAB_OPS]; /* adamw, sum_squares, fill_zero */
    struct hlm_memory_bandwidth
        memory;               /* from the sum of two vectors; peak: the best that it reached */
    double launch_overhead_s; /* host time of an operator on no data */
};

/* Least time of seven repetitions of each. Sources are left to the caller, but for the numbers of
 * samples. HLM_ENV: no memory. */
HLM_MUST_CHECK enum hlm_status hlm_profiler_slabs_measure(struct hlm_arena *arena,
                                                          struct hlm_backend *backend,
                                                          struct hlm_profiler_slabs *out,
                                                          struct hlm_err *err);

/* Seconds per element of AdamW updates on num_threads cores at once, the lower quartile over
 * repetitions and threads; each thread has a CPU backend of its own. num_sharers: threads of the
 * whole machine that update at the same time, in other processes too; the arrays of all of them
 * together are larger than the last-level cache. HLM_ENV: no memory or no thread. */
HLM_MUST_CHECK enum hlm_status hlm_profiler_update_measure(struct hlm_arena *arena,
                                                           int32_t num_threads, int32_t num_sharers,
                                                           double *out, struct hlm_err *err);

/* A probe of 30 ms or so: seconds of a matrix product of 512 and of a sum of long vectors, each the
 * least of seven, and the share of the wall clock during which the thread had its core (1 where the
 * backend has no CPU time). */
struct hlm_profiler_probe {
    double gemm_s, memory_s, availability_frac;
};
HLM_MUST_CHECK enum hlm_status hlm_profiler_probe_measure(struct hlm_backend *backend,
                                                          struct hlm_profiler_probe *out,
                                                          struct hlm_err *err);

#endif
