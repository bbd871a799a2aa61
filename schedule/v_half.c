/* V-half (Qi et al. 2024, "Pipeline Parallelism with Controllable Memory"): half the activations
 * and about half the bubble of 1F1B. Forwards of chunk 0 take two slots a rank on their way down
 * and one back up; gradients one slot less each way. Blocks of an even number of ranks need three
 * slots more before they turn, so that no two actions fall on one slot. */
#include "schedule/builders.h"

static struct hlm_v_block block_of(int32_t num_ranks, int32_t rank)
{
    const int32_t wait = num_ranks % 2 == 0 ? 3 : 0;
    return (struct hlm_v_block){{2 * rank, 3 * num_ranks - 2 - rank,
                                 3 * num_ranks - 1 + wait + 2 * rank,
                                 6 * num_ranks - 2 + wait - rank}};
}

static void fill_all(struct hlm_arena *scratch, const struct hlm_schedule_shape *shape,
                     struct hlm_action_writer *out)
{
    hlm_schedule_fill_v_pattern(scratch, shape, block_of, out);
}

const struct hlm_schedule_builder hlm_v_half_builder = {
    .stage_rank = hlm_schedule_stage_rank_v,
    .actions_per_microbatch = 3,
    .fill_all = fill_all,
};
