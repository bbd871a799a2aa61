/* ZB-H1 (Qi et al. 2023, "Zero Bubble Pipeline Parallelism"): 1F1B with its backward in halves. The
 * input gradient goes up at once; rank r puts its weight gradients off by r microbatches, which
 * fill what is a bubble in 1F1B. Every rank holds num_ranks activations, as rank 0 does in 1F1B. */
#include "schedule/builders.h"

void hlm_schedule_fill_zero_bubble(const struct hlm_schedule_shape *shape, int32_t rank,
                                   int32_t num_ahead, int32_t num_behind,
                                   struct hlm_action_writer *out)
{
    const int32_t num_microbatches = shape->num_microbatches;
    const int32_t warm_up = num_ahead < num_microbatches ? num_ahead : num_microbatches;
    for (int32_t i = 0; i < warm_up; i++) {
        hlm_action_write(out, HLM_ACTION_F, rank, i);
    }
    for (int32_t i = 0; i < num_microbatches + num_behind; i++) {
        if (warm_up + i < num_microbatches) {
            hlm_action_write(out, HLM_ACTION_F, rank, warm_up + i);
        }
        if (i < num_microbatches) {
            hlm_action_write(out, HLM_ACTION_I, rank, i);
        }
        if (i >= num_behind) {
            hlm_action_write(out, HLM_ACTION_W, rank, i - num_behind);
        }
    }
}

static void fill(const struct hlm_schedule_shape *shape, int32_t rank,
                 struct hlm_action_writer *out)
{
    hlm_schedule_fill_zero_bubble(shape, rank, shape->num_ranks - 1 - rank, rank, out);
}

static int32_t in_flight(int32_t num_stages, int32_t num_microbatches, int32_t stage)
{
    (void)stage;
    return num_stages < num_microbatches ? num_stages : num_microbatches;
}

const struct hlm_schedule_builder hlm_zb_h1_builder = {
    .stage_rank = hlm_schedule_stage_rank_round_robin,
    .actions_per_microbatch = 3,
    .fill = fill,
    .in_flight = in_flight,
};
