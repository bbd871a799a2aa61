/* GPipe (Huang et al. 2019): all forwards, then all backwards, both in the order of microbatches.
 */
#include "schedule/builders.h"

static int32_t fill(const struct hlm_schedule_shape *shape, int32_t rank, struct hlm_action *out)
{
    const int32_t num_microbatches = shape->num_microbatches;
    for (int32_t i = 0; i < num_microbatches; i++) {
        out[i] = (struct hlm_action){HLM_ACTION_F, rank, i};
        out[num_microbatches + i] = (struct hlm_action){HLM_ACTION_B, rank, i};
    }
    return 2 * num_microbatches;
}

static int32_t in_flight(int32_t num_stages, int32_t num_microbatches, int32_t stage)
{
    (void)num_stages;
    (void)stage;
    return num_microbatches;
}

const struct hlm_schedule_builder hlm_gpipe_builder = {
    .check = hlm_schedule_check_one_chunk,
    .stage_rank = hlm_schedule_stage_rank_round_robin,
    .actions_per_microbatch = 2,
    .fill = fill,
    .in_flight = in_flight,
};
