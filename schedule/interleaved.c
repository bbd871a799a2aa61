/* Interleaved 1F1B (Narayanan et al. 2021, Megatron-LM): a rank owns several chunks; it runs a
 * group of group_size microbatches through its first chunk, then through the next, and so on, then
 * the next group. Backwards come in the same groups, last chunk first. Warm-up: 2 (num_ranks - 1 -
 * rank) + (chunks - 1) group_size forwards; then a forward and a backward in turn. Groups of
 * num_ranks microbatches (depth first) are Megatron's default; larger ones hide latency. */
#include "schedule/builders.h"

static enum hlm_status check(const struct hlm_schedule_shape *shape, struct hlm_err *err)
{
    const int32_t group = shape->group_size;
    if (group < shape->num_ranks || group > shape->num_microbatches) {
        return hlm_fail(err, HLM_NO,
                        "interleaved needs pp <= group size <= num_microbatches, found pp = %d, "
                        "group size %d, num_microbatches = %d",
                        shape->num_ranks, group, shape->num_microbatches);
    }
    const int32_t rest = shape->num_microbatches % group;
    if (rest != 0 && rest < shape->num_ranks) {
        return hlm_fail(err, HLM_NO,
                        "interleaved needs a last group of at least pp = %d microbatches, found "
                        "%d = %d modulo the group size %d",
                        shape->num_ranks, rest, shape->num_microbatches, group);
    }
    return HLM_OK;
}

/* The index-th forward of a rank; the index-th backward but for the order of chunks. */
struct position {
    int32_t chunk, microbatch;
};
static struct position position_of(const struct hlm_schedule_shape *shape, int32_t index)
{
    const int32_t per_group = shape->group_size * shape->chunks;
    const int32_t first = index / per_group * shape->group_size;
    const int32_t left = shape->num_microbatches - first;
    const int32_t size = left < shape->group_size ? left : shape->group_size;
    const int32_t inside = index % per_group;
    return (struct position){inside / size, first + inside % size};
}

static void fill(const struct hlm_schedule_shape *shape, int32_t rank,
                 struct hlm_action_writer *out)
{
    const int32_t total = shape->chunks * shape->num_microbatches;
    const int32_t ahead =
        2 * (shape->num_ranks - 1 - rank) + (shape->chunks - 1) * shape->group_size;
    const int32_t warm_up = ahead < total ? ahead : total;
    for (int32_t i = 0; i < total + warm_up; i++) {
        if (i < total) {
            const struct position at = position_of(shape, i);
            hlm_action_write(out, HLM_ACTION_F, at.chunk * shape->num_ranks + rank, at.microbatch);
        }
        if (i >= warm_up) {
            const struct position at = position_of(shape, i - warm_up);
            const int32_t chunk = shape->chunks - 1 - at.chunk;
            hlm_action_write(out, HLM_ACTION_B, chunk * shape->num_ranks + rank, at.microbatch);
        }
    }
}

const struct hlm_schedule_builder hlm_interleaved_builder = {
    .check = check,
    .stage_rank = hlm_schedule_stage_rank_round_robin,
    .actions_per_microbatch = 2,
    .fill = fill,
};
