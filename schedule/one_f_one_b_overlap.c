/* 1F1B with doubled warm-up (Alpa's OverlapFriendlyPipeDreamSchedule): twice as many forwards ahead
 * as 1F1B, so that a message has the time of a whole forward and backward to arrive. With equal
 * stages a latency of up to half of that costs nothing in the steady state, where 1F1B pays almost
 * two latencies a microbatch; the price is up to twice the activations. */
#include "schedule/builders.h"

static void fill(const struct hlm_schedule_shape *shape, int32_t rank,
                 struct hlm_action_writer *out)
{
    hlm_schedule_fill_one_f_one_b(shape, rank, 2 * (shape->num_ranks - 1 - rank), out);
}

static int32_t in_flight(int32_t num_stages, int32_t num_microbatches, int32_t stage)
{
    const int32_t most = 2 * (num_stages - stage) - 1;
    return most < num_microbatches ? most : num_microbatches;
}

const struct hlm_schedule_builder hlm_one_f_one_b_overlap_builder = {
    .stage_rank = hlm_schedule_stage_rank_round_robin,
    .actions_per_microbatch = 2,
    .fill = fill,
    .in_flight = in_flight,
};
