/* builders: one pipeline schedule a file, one row of the table in schedule.c each.
 *
 * To add a schedule: add its name to HLM_SCHEDULE_MAP, write its builder in a file of its own,
 * declare it below and put it into the table. Lowering, checks, simulation, memory and the exports
 * work on the lists alone and need no change.
 */
#ifndef HLM_SCHEDULE_BUILDERS_H
#define HLM_SCHEDULE_BUILDERS_H

#include "schedule/action.h"

struct hlm_schedule_shape {
    int32_t num_ranks, chunks, num_microbatches; /* all >= 1; num_stages = num_ranks * chunks */
};

struct hlm_schedule_builder {
    /* HLM_NO with the rule when the schedule does not exist for this shape. */
    enum hlm_status (*check)(const struct hlm_schedule_shape *shape, struct hlm_err *err);
    /* The rank that owns a stage. */
    int32_t (*stage_rank)(const struct hlm_schedule_shape *shape, int32_t stage);
    /* Room that one microbatch takes in the list of a rank, per chunk: 2 for F and B, 3 for F, I,
     * W. */
    int32_t actions_per_microbatch;
    /* Writes the compute actions of one rank, at most chunks * num_microbatches *
     * actions_per_microbatch of them, and returns their number. */
    int32_t (*fill)(const struct hlm_schedule_shape *shape, int32_t rank, struct hlm_action *out);
    /* See hlm_schedule_in_flight. */
    int32_t (*in_flight)(int32_t num_stages, int32_t num_microbatches, int32_t stage);
};

extern const struct hlm_schedule_builder hlm_gpipe_builder;
extern const struct hlm_schedule_builder hlm_one_f_one_b_builder;

/* Parts that several builders share (schedule.c). */
enum hlm_status hlm_schedule_check_one_chunk(const struct hlm_schedule_shape *shape,
                                             struct hlm_err *err);
int32_t hlm_schedule_stage_rank_round_robin(const struct hlm_schedule_shape *shape, int32_t stage);

#endif
