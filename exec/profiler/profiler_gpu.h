/* profiler_gpu: measures a device that runs behind the host, within a budget of time, and fits its
 * profile.
 *
 * In order: clocks are ramped up by products until their time holds still; then passes over the
 * list of operators (profiler_cases.h), the most valuable first, each taking a few cold samples
 * (profiler_bench.h), so that repetitions of one shape lie apart and a drift of the clocks is in
 * their spread; warm samples of the most valuable; what launching costs the host. An operator that
 * would take more than a part of what is left of the budget, by the rates seen so far, or that does
 * not fit into the region, is left out; so is all that the budget has no time for. What was left
 * out stands in the profile, and how well the cost model, with the fitted profile, gives each
 * family of measurements back.
 */
#ifndef HLM_EXEC_PROFILER_GPU_H
#define HLM_EXEC_PROFILER_GPU_H

#include "base/arena.h"
#include "exec/backend.h"
#include "exec/launch/heartbeat.h"
#include "exec/profiler/nvml.h"
#include "exec/profiler/profiler_bench.h"
#include "profiles/device.h"

struct hlm_profiler_gpu_config {
    bool quick;            /* one pass of fewer samples */
    bool silent;           /* another rank tells the user the same */
    bool tiny;             /* the smallest cases only, two samples each: an emulated device */
    double budget_s;       /* for all of hlm_profiler_gpu_measure, by the clock below */
    int64_t free_bytes;    /* of the device: how much operands may take */
    int64_t flush_bytes;   /* 0: more than the cache of any device so far */
    double hot_s, ramp_s;  /* products before each sample, and in the beginning, at most; 0: none */
    struct hlm_nvml *nvml; /* NULL: clocks and the like stay unknown */
    struct hlm_profiler_clock clock;
    struct hlm_source source; /* of everything; samples and spread are added */
    struct hlm_heartbeat *heartbeat;
};

/* What suits a real device: everything but budget, memory and provenance. */
struct hlm_profiler_gpu_config hlm_profiler_gpu_defaults(bool quick);

/* One case with the median of its samples. */
struct hlm_profiler_point {
    const struct hlm_profiler_case *what;
    double seconds, spread_frac, warm_s; /* warm_s 0: not measured warm */
};

/* Fills dtypes, memory's rates, ops, launch overhead and meta (but for names and versions) of *out,
 * whose name, num_sms and memory sizes are set before. HLM_ENV: too little memory, or the backend
 * can't run a thing; HLM_FAILED: the device failed. */
HLM_MUST_CHECK enum hlm_status
hlm_profiler_gpu_measure(struct hlm_arena *arena, struct hlm_backend *backend,
                         const struct hlm_profiler_gpu_config *config, struct hlm_device *out,
                         struct hlm_device_meta *out_meta, struct hlm_err *err);

/* The part behind the measurements: curves from points, and the table of their errors. out has
 * num_sms and memory_bytes, by which the peaks of a built-in device are taken over; without one the
 * best measured rates are the peaks. Pure. */
void hlm_profiler_gpu_fit(struct hlm_arena *arena, const struct hlm_profiler_point *points,
                          int32_t num_points, const struct hlm_source *source,
                          struct hlm_device *out, struct hlm_device_meta *out_meta);

/* The table of fits and what was left out, as lines for people. */
void hlm_profiler_gpu_tell(struct hlm_heartbeat *heartbeat, const struct hlm_device_meta *meta);

#endif
