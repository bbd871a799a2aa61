/* builders: one pipeline schedule a file, one row of the table in schedule.c each.
 *
 * To add a schedule: add its name to HLM_SCHEDULE_MAP and its chunks to hlm_schedule_chunks, write
 * its builder in a file of its own, declare it below and put it into the table. Lowering, checks,
 * simulation, memory and the exports work on the lists alone and need no change.
 */
#ifndef HLM_SCHEDULE_BUILDERS_H
#define HLM_SCHEDULE_BUILDERS_H

#include "schedule/action.h"

struct hlm_schedule_shape {
    int32_t num_ranks, chunks, num_microbatches; /* all >= 1; num_stages = num_ranks * chunks */
    int32_t group_size;                          /* interleaved; never 0 */
};

/* The list of one rank while it is written. */
struct hlm_action_writer {
    struct hlm_action *actions;
    int32_t count, room;
};
static inline void hlm_action_write(struct hlm_action_writer *writer, enum hlm_action_kind kind,
                                    int32_t stage, int32_t microbatch)
{
    HLM_ASSERT(writer->count < writer->room);
    writer->actions[writer->count++] = (struct hlm_action){kind, stage, microbatch};
}

struct hlm_schedule_builder {
    /* HLM_NO with the rule when the schedule does not exist for this shape, whose chunks are within
     * hlm_schedule_chunks; NULL: it always does. */
    enum hlm_status (*check)(const struct hlm_schedule_shape *shape, struct hlm_err *err);
    /* The rank that owns a stage. */
    int32_t (*stage_rank)(const struct hlm_schedule_shape *shape, int32_t stage);
    /* Room that one microbatch takes in the list of a rank, per chunk: 2 for F and B, 3 for F, I,
     * W. */
    int32_t actions_per_microbatch;
    /* Writes the compute actions of one rank. */
    void (*fill)(const struct hlm_schedule_shape *shape, int32_t rank,
                 struct hlm_action_writer *out);
    /* Instead of fill: writes those of all ranks together, out [num_ranks]. */
    void (*fill_all)(struct hlm_arena *scratch, const struct hlm_schedule_shape *shape,
                     struct hlm_action_writer *out);
    /* See hlm_schedule_in_flight; NULL: counted in the lists. */
    int32_t (*in_flight)(int32_t num_stages, int32_t num_microbatches, int32_t stage);
};

extern const struct hlm_schedule_builder hlm_gpipe_builder;
extern const struct hlm_schedule_builder hlm_one_f_one_b_builder;
extern const struct hlm_schedule_builder hlm_one_f_one_b_overlap_builder;
extern const struct hlm_schedule_builder hlm_interleaved_builder;
extern const struct hlm_schedule_builder hlm_zb_h1_builder;
extern const struct hlm_schedule_builder hlm_zb_h2_builder;
extern const struct hlm_schedule_builder hlm_zb_v_builder;
extern const struct hlm_schedule_builder hlm_v_half_builder;
extern const struct hlm_schedule_builder hlm_v_min_builder;
extern const struct hlm_schedule_builder hlm_dualpipe_v_builder;

/* Parts that several builders share (schedule.c). */

/* Stage = chunk * num_ranks + rank. */
int32_t hlm_schedule_stage_rank_round_robin(const struct hlm_schedule_shape *shape, int32_t stage);

/* Down the ranks and up again: rank r owns stages r and 2 num_ranks - 1 - r. */
int32_t hlm_schedule_stage_rank_v(const struct hlm_schedule_shape *shape, int32_t stage);

/* num_ahead forwards, then a forward and a backward in turn, then the backwards that are left
 * (one_f_one_b.c). */
void hlm_schedule_fill_one_f_one_b(const struct hlm_schedule_shape *shape, int32_t rank,
                                   int32_t num_ahead, struct hlm_action_writer *out);

/* num_ahead forwards, then in turn: a forward, an input gradient, and the weight gradient that is
 * num_behind microbatches older; each while there are any (zb_h1.c). */
void hlm_schedule_fill_zero_bubble(const struct hlm_schedule_shape *shape, int32_t rank,
                                   int32_t num_ahead, int32_t num_behind,
                                   struct hlm_action_writer *out);

/* ---- schedules in the shape of a V that repeat a building block (v_pattern.c) ----
 *
 * Qi et al. 2024, "Pipeline Parallelism with Controllable Memory": all actions take one slot, each
 * rank repeats its block every 6 slots (two forwards, two input gradients, two weight gradients),
 * and how long the block keeps an activation decides the memory. */
struct hlm_v_block {
    int32_t slots[4]; /* of microbatch 0: F of chunk 0, F of chunk 1, I of chunk 1, I of chunk 0;
                         they differ modulo 6 */
};
void hlm_schedule_fill_v_pattern(struct hlm_arena *scratch, const struct hlm_schedule_shape *shape,
                                 struct hlm_v_block (*block_of)(int32_t num_ranks, int32_t rank),
                                 struct hlm_action_writer *out);

#endif
