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
 * a core a rank. It tests predicted compute, imbalance and schedule, not communication.
 */
#ifndef HLM_EXEC_RECORD_H
#define HLM_EXEC_RECORD_H

#include "base/arena.h"
#include "exec/comm.h"
#include "exec/runner.h"
#include "planner/measurement.h"

struct hlm_record;

struct hlm_record *hlm_record_new(struct hlm_arena *arena, const struct hlm_plan *plan,
                                  int32_t num_steps, int32_t num_warmup_steps);
void hlm_record_add(struct hlm_record *record, const struct hlm_run_step *step);

struct hlm_record_about {
    const char *backend, *transport, *backend_library;
    bool virtual_time;
    int32_t num_cores;
    int64_t peak_bytes; /* of this rank */
};

/* The measurement, on rank 0; other ranks get NULL. collective over the world */
HLM_MUST_CHECK enum hlm_status hlm_record_finish(struct hlm_arena *arena, struct hlm_record *record,
                                                 struct hlm_comm *comm,
                                                 const struct hlm_record_about *about,
                                                 const struct hlm_measurement **out,
                                                 struct hlm_err *err);

#endif
