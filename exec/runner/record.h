/* record: from what every rank measured to the measurement file.
 *
 * Each rank keeps its actions of every step. At the end the ranks agree on the least availability
 * of each step, gather the actions of the step that stands for the run (the clean one nearest to
 * the median), and rank 0 writes the measurement (planner/measurement.h).
 *
 * Virtual time, for more ranks than cores or a loaded machine: each action takes the least CPU time
 * that it had over the steps (mean over the tp ranks, which do equal work), as the profile takes
 * the least of each operator: other programs only ever add. Communication takes what the plan's
 * profile says, and the schedule is walked by the simulator: the time that the plan would have with
 * a core a rank. It tests predicted compute, imbalance and schedule, not communication, but for the
 * messages between stages where these were measured by themselves.
 *
 * An emulated rank (exec/comm/comm_emulate.h) asks nobody and writes the measurement of itself.
 * Where the emulation waited as predicted, its step is what the clock said; where it did not, or in
 * virtual time, the step is walked: this rank's actions as measured, all others as the plan has
 * them.
 */
#ifndef HLM_EXEC_RECORD_H
#define HLM_EXEC_RECORD_H

#include "base/arena.h"
#include "exec/runner/runner.h"
#include "planner/measurement.h"

struct hlm_record;

/* For num_steps steps of a rank of the plan; what it measures follows from the plan's schedule.
 * Statuses as hlm_schedule_build. */
HLM_MUST_CHECK enum hlm_status hlm_record_new(struct hlm_arena *arena, const struct hlm_plan *plan,
                                              int32_t num_steps, int32_t num_warmup_steps,
                                              struct hlm_record **out, struct hlm_err *err);

/* A step of `rank`; its events are F, B, I, W, REDUCE_GRAD and OPTIMIZER of the rank's list, in
 * order. */
void hlm_record_add(struct hlm_record *record, int32_t rank, const struct hlm_run_step *step);

enum hlm_record_emulation { HLM_RECORD_ALL_RANKS, HLM_RECORD_WAITED, HLM_RECORD_DID_NOT_WAIT };

struct hlm_record_about {
    const char *backend, *transport, *backend_library;
    bool virtual_time;
    const double *message_s; /* in virtual time: as exec/rank_messages.h; NULL: as the plan says */
    int64_t message_bytes;   /* of each of them */
    enum hlm_record_emulation emulation; /* of this rank, or HLM_RECORD_ALL_RANKS */
    int32_t num_cores;
    /* Of this rank, as in struct hlm_measured_memory. */
    int64_t peak_bytes, device_used_bytes, device_total_bytes;
};

/* The ranks of the world. gather: `bytes` of each rank's own, in rank order, to all of them;
 * collective; NULL for an emulated rank. */
struct hlm_record_world {
    int32_t rank, world_size;
    enum hlm_status (*gather)(void *context, const void *own, void *all, int64_t bytes,
                              struct hlm_err *err);
    void *context;
};

/* The measurement, on rank 0 or the emulated rank; other ranks get NULL. collective over the world
 */
HLM_MUST_CHECK enum hlm_status hlm_record_finish(struct hlm_arena *arena, struct hlm_record *record,
                                                 const struct hlm_record_world *world,
                                                 const struct hlm_record_about *about,
                                                 const struct hlm_measurement **out,
                                                 struct hlm_err *err);

#endif
