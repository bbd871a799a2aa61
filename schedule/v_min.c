/* V-min (Qi et al. 2024): the shortest block, each action right behind the one that gives its
 * input. A third of the activations of 1F1B (and a constant), about two thirds of its bubble, and
 * the first to suffer when F, I and W differ. Blocks of a multiple of three ranks need two slots
 * more before they turn, so that no two actions fall on one slot. */
#include "schedule/builders.h"

static struct hlm_v_block block_of(int32_t num_ranks, int32_t rank)
{
    const int32_t wait = num_ranks % 3 == 0 ? 2 : 0;
    return (struct hlm_v_block){{rank, 2 * num_ranks - 1 - rank, 2 * num_ranks + wait + rank,
                                 4 * num_ranks - 1 + wait - rank}};
}

static void fill_all(struct hlm_arena *scratch, const struct hlm_schedule_shape *shape,
                     struct hlm_action_writer *out)
{
    hlm_schedule_fill_v_pattern(scratch, shape, block_of, out);
}

const struct hlm_schedule_builder hlm_v_min_builder = {
    .stage_rank = hlm_schedule_stage_rank_v,
    .actions_per_microbatch = 3,
    .fill_all = fill_all,
};
