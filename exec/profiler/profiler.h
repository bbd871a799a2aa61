/* profiler: measures this machine and writes its profile: device.json (what one core, or one GPU,
 * does with every operator) and cluster.json (the devices of this machine and what lies between
 * them), the folder that `hlmplan plan --cluster DIR` takes.
 *
 * GPUs (config.cuda): rank 0 measures its device within the budget (profiler_gpu.h), all ranks the
 * links of the world (profiler_link_queue.h); products.json beside the profile holds the algorithms
 * that matrix products have chosen (profiler_choices.h). What follows is of CPUs.
 *
 * One rank: links and collectives are those of the thread transport, for worlds of 2 up to the
 * number of cores. Several ranks: those of the given transport, for that world; rank 0 measures the
 * device. Every number carries the machine, the library and the day. A calibration before and
 * behind the measurement tells a machine that was busy or changed its pace meanwhile: the user is
 * warned, and the numbers are what was measured.
 */
#ifndef HLM_EXEC_PROFILER_H
#define HLM_EXEC_PROFILER_H

#include "base/arena.h"
#include "exec/backend.h"
#include "exec/comm/comm.h"
#include "exec/cuda/module.h"
#include "exec/launch/heartbeat.h"
#include "exec/profiler/profiler_bench.h"

struct hlm_profiler_config {
    const char *directory; /* made where it does not exist */
    bool quick;            /* fewer models and steps, half of the time; GPUs: a fifth */
    /* CPUs: what the backend repeats its operators (hlm_backend_cpu_repeat), which the profile
     * tells those that run on the device. 0: once */
    int32_t repeat_operators;

    /* GPUs only. */
    const struct hlm_cuda_module *cuda;  /* of the backend; NULL: it is the CPU's */
    int32_t cuda_device;                 /* the backend's, as the module numbers them */
    const struct hlm_strategy *strategy; /* the transport's, hlm_profiler_world is a good one; may
                                            be NULL with one rank */
    int64_t max_bytes;               /* largest collective that the transport takes; 0: 16 MiB */
    double budget_s;                 /* 0: ten minutes, quick: two */
    const char *nvml_library;        /* NULL: the driver's */
    bool tiny;                       /* a device without clocks and caches (an emulated one) */
    struct hlm_profiler_clock clock; /* that budgets are measured by */
};

/* Seconds that a profile of GPUs takes at most. */
double hlm_profiler_budget_s(const struct hlm_profiler_config *config);

/* heartbeat may be NULL. HLM_ENV: not enough memory; HLM_INPUT, HLM_FAILED: the folder can't be
 * written; HLM_FAILED: a peer left. collective over the world */
HLM_MUST_CHECK enum hlm_status hlm_profiler_run(struct hlm_arena *arena,
                                                const struct hlm_profiler_config *config,
                                                struct hlm_backend *backend, struct hlm_comm *comm,
                                                struct hlm_heartbeat *heartbeat,
                                                struct hlm_err *err);

#endif
