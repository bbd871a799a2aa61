/* ZB-H2, or ZB-2p (Qi et al. 2023): as many forwards ahead as keep a rank busy until its first
 * input gradient is there (2 (num_ranks - rank) - 1 in all), weight gradients put off by 2 rank
 * microbatches, so that the last input gradient leaves the last rank early. With F = I = W no rank
 * idles between its first and last action; every rank holds 2 num_ranks - 1 activations. */
#include "schedule/builders.h"

static void fill(const struct hlm_schedule_shape *shape, int32_t rank,
                 struct hlm_action_writer *out)
{
    hlm_schedule_fill_zero_bubble(shape, rank, 2 * (shape->num_ranks - 1 - rank), 2 * rank, out);
}

static int32_t in_flight(int32_t num_stages, int32_t num_microbatches, int32_t stage)
{
    (void)stage;
    const int32_t most = 2 * num_stages - 1;
    return most < num_microbatches ? most : num_microbatches;
}

const struct hlm_schedule_builder hlm_zb_h2_builder = {
    .stage_rank = hlm_schedule_stage_rank_round_robin,
    .actions_per_microbatch = 3,
    .fill = fill,
    .in_flight = in_flight,
};
