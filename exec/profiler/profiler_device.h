/* profiler_device: measures the device of a backend and fits its profile.
 *
 * Stacks (profiler_stack.h) of a few small models, whose sizes are powers of two, give samples of
 * every operator that a plan can hold; profiler_fit.h makes curves of them. Models of other sizes
 * are predicted from the curves, and never enter them.
 */
#ifndef HLM_EXEC_PROFILER_DEVICE_H
#define HLM_EXEC_PROFILER_DEVICE_H

#include "base/arena.h"
#include "exec/backend.h"
#include "exec/launch/heartbeat.h"
#include "exec/profiler/profiler_stack.h"
#include "profiles/device.h"

struct hlm_profiler_device_config {
    enum hlm_backend_kind kind;
    bool quick;                      /* fewer stacks and steps */
    struct hlm_source source;        /* of everything: what, when; samples and spread are added */
    struct hlm_heartbeat *heartbeat; /* told of each stack; NULL accepted */
};

/* Fills dtypes, memory, ops and launch overhead of *out; name, backend, shared_memory_slowdown and
 * the sizes of memory are the caller's. HLM_ENV, HLM_FAILED: as the parts. */
HLM_MUST_CHECK enum hlm_status
hlm_profiler_device_measure(struct hlm_arena *arena, struct hlm_backend *backend,
                            const struct hlm_profiler_device_config *config, struct hlm_device *out,
                            struct hlm_err *err);

/* What a whole step takes at the least, as a multiple of the sum of the least times of its
 * operators
 * (>= 1): the median of the stacks. No step has all of its operators at their best: caches are
 * refilled behind an interrupt, another program runs on the core's other thread. A run is measured
 * by whole actions, so that is what samples have to sum up to. Pure. */
double hlm_profiler_whole_step(const struct hlm_profiler_stack *stacks, int32_t num_stacks);

/* The part behind the measurements: curves from samples. Pure; for tests and tools that have
 * samples of their own. Rows of kinds without a sample are absent. */
void hlm_profiler_device_fit(struct hlm_arena *arena, const struct hlm_profiler_sample *samples,
                             int32_t num_samples, const struct hlm_source *source,
                             struct hlm_device *out);

#endif
