/* 1F1B (PipeDream-flush, Narayanan et al. 2021): as many warm-up forwards as there are stages
 * behind this one, then one forward and one backward in turn, then the backwards that are left. */
#include "schedule/builders.h"

void hlm_schedule_fill_one_f_one_b(const struct hlm_schedule_shape *shape, int32_t rank,
                                   int32_t num_ahead, struct hlm_action_writer *out)
{
    const int32_t num_microbatches = shape->num_microbatches;
    const int32_t warm_up = num_ahead < num_microbatches ? num_ahead : num_microbatches;
    for (int32_t i = 0; i < warm_up; i++) {
        hlm_action_write(out, HLM_ACTION_F, rank, i);
    }
    for (int32_t i = 0; i < num_microbatches; i++) {
        if (warm_up + i < num_microbatches) {
            hlm_action_write(out, HLM_ACTION_F, rank, warm_up + i);
        }
        hlm_action_write(out, HLM_ACTION_B, rank, i);
    }
}

static void fill(const struct hlm_schedule_shape *shape, int32_t rank,
                 struct hlm_action_writer *out)
{
    hlm_schedule_fill_one_f_one_b(shape, rank, shape->num_ranks - 1 - rank, out);
}

static int32_t in_flight(int32_t num_stages, int32_t num_microbatches, int32_t stage)
{
    const int32_t from_here = num_stages - stage;
    return from_here < num_microbatches ? from_here : num_microbatches;
}

const struct hlm_schedule_builder hlm_one_f_one_b_builder = {
    .stage_rank = hlm_schedule_stage_rank_round_robin,
    .actions_per_microbatch = 2,
    .fill = fill,
    .in_flight = in_flight,
};
