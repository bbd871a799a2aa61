/* record_internal: what the parts of record share. record.c keeps the steps, lets the ranks agree
 * and writes the measurement; record_time.c makes its tree of parts and its timeline, from wall
 * clocks or by walking the schedule. */
#ifndef HLM_EXEC_RECORD_INTERNAL_H
#define HLM_EXEC_RECORD_INTERNAL_H

#include "exec/runner/record.h"
#include "planner/plan_rank.h"

/* One action of one step as it travels between ranks; the order of actions follows from the plan.
 */
struct hlm_record_sample {
    double start_s, end_s, compute_wall_s, compute_cpu_s, group_comm_s, message_s;
    double expert_comm_s; /* of group_comm_s */
};

struct hlm_record {
    const struct hlm_plan *plan;
    int32_t num_steps, num_warmup_steps, num_added;
    /* What each pipeline rank measures in a step: [pp], of unlike replicas [num_replicas][pp].
     * max_events: the most of them, by which samples are spaced. */
    const struct hlm_rank_actions *actions;
    int32_t max_events;
    struct hlm_measured_step *steps;
    struct hlm_record_sample *samples; /* [num_steps][max_events] */
};

/* What ranks hold, as they say it themselves. */
struct hlm_record_memory {
    int64_t peak_bytes, device_used_bytes, device_total_bytes;
};

/* The step that stands for the run, of all ranks that ran, as rank 0 (or the emulated rank) has it.
 */
struct hlm_record_step {
    struct hlm_arena *arena;
    const struct hlm_record *record;
    int32_t emulated_rank;                   /* -1: all ranks ran */
    const struct hlm_record_sample *samples; /* [ranks that ran][max_events] */
    double wall_s;
    const double *message_s; /* [dp][num_stages] measured messages; NULL: as the plan says */
};

/* The actions of a pipeline rank of a replica. */
const struct hlm_rank_actions *hlm_record_list(const struct hlm_record *record, int32_t dp,
                                               int32_t pp);

/* The samples of a rank that ran, and its actions. */
const struct hlm_record_sample *hlm_record_samples(const struct hlm_record_step *step,
                                                   int32_t rank);
const struct hlm_rank_actions *hlm_record_actions(const struct hlm_record_step *step, int32_t rank);

/* Fill step_time_s (where it is walked), parts, timeline and actions of the measurement, whose
 * other members stand. wall: from clocks. walk: from the time that each action computed (CPU time,
 * or wall clock), the plan's communication and the simulator. */
HLM_MUST_CHECK enum hlm_status hlm_record_wall(const struct hlm_record_step *step,
                                               struct hlm_measurement *out, struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_record_walk(const struct hlm_record_step *step, bool cpu_time,
                                               struct hlm_measurement *out, struct hlm_err *err);

#endif
