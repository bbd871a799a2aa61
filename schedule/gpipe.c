/* GPipe (Huang et al. 2019): all forwards, then all backwards, both in the order of microbatches.
 */
#include "schedule/builders.h"

static void fill(const struct hlm_schedule_shape *shape, int32_t rank,
                 struct hlm_action_writer *out)
{
    for (int32_t i = 0; i < shape->num_microbatches; i++) {
        hlm_action_write(out, HLM_ACTION_F, rank, i);
    }
    for (int32_t i = 0; i < shape->num_microbatches; i++) {
        hlm_action_write(out, HLM_ACTION_B, rank, i);
    }
}

static int32_t in_flight(int32_t num_stages, int32_t num_microbatches, int32_t stage)
{
    (void)num_stages;
    (void)stage;
    return num_microbatches;
}

const struct hlm_schedule_builder hlm_gpipe_builder = {
    .stage_rank = hlm_schedule_stage_rank_round_robin,
    .actions_per_microbatch = 2,
    .fill = fill,
    .in_flight = in_flight,
};
