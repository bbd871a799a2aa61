/* profiler: measures this machine and writes its profile: device.json (what one core, or one GPU,
 * does with every operator) and cluster.json (the devices of this machine and what lies between
 * them), the folder that `hlmplan plan --cluster DIR` takes.
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
#include "exec/comm.h"
#include "exec/heartbeat.h"

struct hlm_profiler_config {
    const char *directory; /* made where it does not exist */
    bool quick;            /* fewer models and steps: half of the time */
};

/* heartbeat may be NULL. HLM_ENV: not enough memory; HLM_INPUT, HLM_FAILED: the folder can't be
 * written; HLM_FAILED: a peer left. collective over the world */
HLM_MUST_CHECK enum hlm_status hlm_profiler_run(struct hlm_arena *arena,
                                                const struct hlm_profiler_config *config,
                                                struct hlm_backend *backend, struct hlm_comm *comm,
                                                struct hlm_heartbeat *heartbeat,
                                                struct hlm_err *err);

#endif
