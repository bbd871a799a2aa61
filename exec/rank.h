/* rank: one rank's whole run of a plan, on any backend and transport. */
#ifndef HLM_EXEC_RANK_H
#define HLM_EXEC_RANK_H

#include "base/arena.h"
#include "exec/backend.h"
#include "exec/comm.h"
#include "exec/heartbeat.h"
#include "exec/runner.h"
#include "planner/measurement.h"
#include "planner/plan.h"

struct hlm_rank_config {
    const struct hlm_plan *plan;
    const char *data_path; /* NULL: synthetic */
    uint64_t seed;
    int32_t num_steps, num_warmup_steps; /* warm-up steps count in num_steps */
    struct hlm_optimizer optimizer;
    bool virtual_time;
    const char *backend, *transport, *backend_library; /* for the measurement */
    int32_t num_cores;
};

/* Trains for num_steps steps. collective over the world. *out is the measurement on rank 0 and NULL
 * elsewhere. heartbeat may be NULL. */
HLM_MUST_CHECK enum hlm_status hlm_rank_run(struct hlm_arena *arena,
                                            const struct hlm_rank_config *config,
                                            struct hlm_backend *backend, struct hlm_comm *comm,
                                            struct hlm_heartbeat *heartbeat,
                                            const struct hlm_measurement **out,
                                            struct hlm_err *err);

#endif
