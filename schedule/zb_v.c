/* ZB-V (Qi et al. 2023), in PyTorch's form (ScheduleZBVZeroBubble): two chunks a rank in the shape
 * of a V, so that the last stage is on rank 0. When F = I = W no rank idles between its first and
 * last action, with the memory of 1F1B. The order is made for at least 2 num_ranks - 1
 * microbatches; with fewer the actions of the others are left out. */
#include "schedule/builders.h"

struct counts {
    int32_t f0, f1, i0, i1, w0, w1; /* done, by chunk */
};

struct filler {
    struct hlm_action_writer *out;
    struct counts counts;
    int32_t num_microbatches;
    int32_t stages[2];
};

static void step(struct filler *filler, enum hlm_action_kind kind, int chunk, int32_t *count)
{
    if (*count < filler->num_microbatches) {
        hlm_action_write(filler->out, kind, filler->stages[chunk], *count);
    }
    (*count)++;
}

static void forward(struct filler *filler, int chunk)
{
    step(filler, HLM_ACTION_F, chunk, chunk == 0 ? &filler->counts.f0 : &filler->counts.f1);
}

static void input_grad(struct filler *filler, int chunk)
{
    step(filler, HLM_ACTION_I, chunk, chunk == 0 ? &filler->counts.i0 : &filler->counts.i1);
}

static void weight_grad(struct filler *filler, int chunk)
{
    step(filler, HLM_ACTION_W, chunk, chunk == 0 ? &filler->counts.w0 : &filler->counts.w1);
}

static void warm_up(struct filler *filler, int32_t num_ranks, int32_t rank)
{
    for (int32_t i = 0; i < 2 * (num_ranks - rank) - 1; i++) {
        forward(filler, 0);
    }
    for (int32_t i = 0; i < rank; i++) {
        forward(filler, 1);
        forward(filler, 0);
    }
    for (int32_t i = 0; i < num_ranks - rank; i++) {
        forward(filler, 1);
        input_grad(filler, 1);
        weight_grad(filler, 1);
    }
}

static void steady(struct filler *filler, int32_t num_planned)
{
    while (filler->counts.f1 < num_planned) {
        if (filler->counts.f0 < num_planned) {
            forward(filler, 0);
        }
        input_grad(filler, 0);
        weight_grad(filler, 0);
        forward(filler, 1);
        input_grad(filler, 1);
        weight_grad(filler, 1);
    }
}

static void cool_down(struct filler *filler, int32_t num_ranks, int32_t rank)
{
    for (int32_t i = 0; i < rank; i++) {
        input_grad(filler, 0);
        input_grad(filler, 1);
    }
    for (int32_t i = 0; i < num_ranks - rank; i++) {
        input_grad(filler, 0);
        weight_grad(filler, 0);
    }
    while (filler->counts.w1 < filler->counts.i1) {
        weight_grad(filler, 1);
    }
    while (filler->counts.w0 < filler->counts.i0) {
        weight_grad(filler, 0);
    }
}

static void fill(const struct hlm_schedule_shape *shape, int32_t rank,
                 struct hlm_action_writer *out)
{
    const int32_t num_ranks = shape->num_ranks;
    const int32_t least = 2 * num_ranks - 1;
    const int32_t num_planned = shape->num_microbatches > least ? shape->num_microbatches : least;
    struct filler filler = {.out = out,
                            .num_microbatches = shape->num_microbatches,
                            .stages = {rank, 2 * num_ranks - 1 - rank}};
    warm_up(&filler, num_ranks, rank);
    steady(&filler, num_planned);
    cool_down(&filler, num_ranks, rank);
}

const struct hlm_schedule_builder hlm_zb_v_builder = {
    .stage_rank = hlm_schedule_stage_rank_v,
    .actions_per_microbatch = 3,
    .fill = fill,
};
