/* rank: one rank's whole run of a plan, on any backend and transport. */
#ifndef HLM_EXEC_RANK_H
#define HLM_EXEC_RANK_H

#include "base/arena.h"
#include "exec/backend.h"
#include "exec/comm/comm.h"
#include "exec/launch/heartbeat.h"
#include "exec/runner/record.h"
#include "exec/runner/runner.h"
#include "planner/measurement.h"
#include "planner/plan.h"

struct hlm_rank_config {
    const struct hlm_plan *plan;
    const char *data_path; /* NULL: synthetic */
    uint64_t seed;
    int32_t num_steps, num_warmup_steps; /* warm-up steps count in num_steps */
    struct hlm_optimizer optimizer;
    bool virtual_time;
    bool measured_messages;   /* in virtual time: those between stages (exec/rank_messages.h) */
    enum hlm_routing routing; /* of rows to experts: HLM_ROUTING_TOPK or HLM_ROUTING_BALANCED */
    bool without_graphs;      /* hlm_runner_use_graphs */
    double timeout_s;         /* of waits for other ranks (hlm_runner_new); 0: 60 s */
    /* Not HLM_RECORD_ALL_RANKS: the transport is an hlm_comm_emulate that waits, or does not. */
    enum hlm_record_emulation emulation;
    const char *backend, *transport, *backend_library; /* for the measurement */
    int32_t num_cores;
};

/* Trains for num_steps steps. collective over the world. *out is the measurement on rank 0 or the
 * emulated rank, and NULL elsewhere. heartbeat may be NULL; that rank tells it of its steps, at a
 * rate that people can read: of the first, the last, and others at least half a second apart. The
 * loss of an emulated rank is the mean over its replica's microbatches, or 0 where another rank
 * counts it. */
HLM_MUST_CHECK enum hlm_status
hlm_rank_run(struct hlm_arena *arena, const struct hlm_rank_config *config,
             struct hlm_backend *backend, struct hlm_comm *comm, struct hlm_heartbeat *heartbeat,
             const struct hlm_measurement **out, struct hlm_err *err);

/* The line about a step, without the rank's name: "step 3 of 10: loss 4.123456, gradient norm
 * 1.2345, 1.23 s, 12.3k tokens/s, MFU 12.3 % (causal attention), 1.2 GiB". The loss is left out
 * where it is 0, MFU where the devices have no peak, and what the device has in use (behind the
 * bytes that the rank allocated) where the backend can't say. */
struct hlm_rank_memory_use {
    int64_t allocated_bytes, device_used_bytes, device_total_bytes;
};
const char *hlm_rank_step_text(struct hlm_arena *arena, const struct hlm_plan *plan, int32_t step,
                               int32_t num_steps, const struct hlm_run_step *ran,
                               const struct hlm_rank_memory_use *memory);

#endif
