/* DualPipe-V (DeepSeek's DualPipe cut in half by Sea AI Lab), in PyTorch's form
 * (ScheduleDualPipeV): two chunks a rank in the shape of a V; in the steady state a forward of one
 * chunk and a backward of the other run as one overlapped pair, so that the communication of each
 * hides behind the computation of the other. Eight steps, counted by the rank. */
#include "schedule/builders.h"

static enum hlm_status check(const struct hlm_schedule_shape *shape, struct hlm_err *err)
{
    if (shape->num_microbatches < 2 * shape->num_ranks) {
        return hlm_fail(err, HLM_NO,
                        "dualpipe-v needs num_microbatches >= 2 pp = %d, found num_microbatches = "
                        "%d",
                        2 * shape->num_ranks, shape->num_microbatches);
    }
    return HLM_OK;
}

struct filler {
    struct hlm_action_writer *out;
    int32_t stages[2];
    int32_t num_forwards[2], num_backwards[2];
    struct hlm_action *pending; /* weight gradients put off, oldest first */
    int32_t num_pending, next_pending;
};

static void forward(struct filler *filler, int chunk)
{
    hlm_action_write(filler->out, HLM_ACTION_F, filler->stages[chunk],
                     filler->num_forwards[chunk]++);
}

static void backward(struct filler *filler, int chunk)
{
    hlm_action_write(filler->out, HLM_ACTION_B, filler->stages[chunk],
                     filler->num_backwards[chunk]++);
}

static void input_grad(struct filler *filler, int chunk)
{
    const int32_t microbatch = filler->num_backwards[chunk]++;
    hlm_action_write(filler->out, HLM_ACTION_I, filler->stages[chunk], microbatch);
    filler->pending[filler->num_pending++] =
        (struct hlm_action){HLM_ACTION_W, filler->stages[chunk], microbatch};
}

static void weight_grad(struct filler *filler)
{
    if (filler->next_pending < filler->num_pending) {
        const struct hlm_action action = filler->pending[filler->next_pending++];
        hlm_action_write(filler->out, action.kind, action.stage, action.microbatch);
    }
}

static void pair(struct filler *filler, int forward_chunk)
{
    hlm_action_write(filler->out, HLM_ACTION_OVERLAP_F_B, filler->stages[forward_chunk], -1);
    forward(filler, forward_chunk);
    backward(filler, 1 - forward_chunk);
}

/* Steps 1 to 3: forwards of chunk 0; of both chunks; then backwards of chunk 1 in halves. */
static void warm_up(struct filler *filler, int32_t behind, int32_t rank)
{
    for (int32_t i = 0; i < 2 * behind; i++) {
        forward(filler, 0);
    }
    for (int32_t i = 0; i <= rank; i++) {
        forward(filler, 0);
        forward(filler, 1);
    }
    for (int32_t i = 0; i < behind; i++) {
        input_grad(filler, 1);
        weight_grad(filler);
        forward(filler, 1);
    }
}

/* Steps 4 and 5. The very first pair of the last rank is not overlapped: that makes its bubble
 * smaller. */
static void steady(struct filler *filler, int32_t num_rounds, int32_t behind)
{
    for (int32_t i = 0; i < num_rounds; i++) {
        if (i == 0 && behind == 0) {
            forward(filler, 0);
            backward(filler, 1);
        } else {
            pair(filler, 0);
        }
        pair(filler, 1);
    }
    for (int32_t i = 0; i < behind; i++) {
        backward(filler, 1);
        pair(filler, 1);
    }
}

static void last_backward(struct filler *filler, int chunk, bool in_halves)
{
    if (in_halves) {
        input_grad(filler, chunk);
    } else {
        backward(filler, chunk);
    }
}

/* Steps 6 to 8: backwards of both chunks, the second half of them in halves; then weight gradients
 * between input gradients of chunk 0; then those that are left. */
static void cool_down(struct filler *filler, int32_t behind, int32_t rank)
{
    const int32_t num_both = rank + 1;
    for (int32_t i = 0; i < num_both; i++) {
        const bool is_past = i > num_both / 2;
        const bool is_middle = i == num_both / 2;
        last_backward(filler, 1, is_past || (is_middle && rank % 2 == 1));
        last_backward(filler, 0, is_past || is_middle);
    }
    for (int32_t i = 0; i < behind; i++) {
        weight_grad(filler);
        input_grad(filler, 0);
    }
    while (filler->next_pending < filler->num_pending) {
        weight_grad(filler);
    }
}

static void fill_all(struct hlm_arena *scratch, const struct hlm_schedule_shape *shape,
                     struct hlm_action_writer *out)
{
    const int32_t num_ranks = shape->num_ranks;
    struct hlm_action *pending = HLM_ARENA_ARRAY(scratch, struct hlm_action, 4 * num_ranks);
    for (int32_t rank = 0; rank < num_ranks; rank++) {
        struct filler filler = {
            .out = &out[rank], .stages = {rank, 2 * num_ranks - 1 - rank}, .pending = pending};
        const int32_t behind = num_ranks - 1 - rank;
        warm_up(&filler, behind, rank);
        steady(&filler, shape->num_microbatches - 2 * num_ranks + rank + 1, behind);
        cool_down(&filler, behind, rank);
    }
}

const struct hlm_schedule_builder hlm_dualpipe_v_builder = {
    .check = check,
    .stage_rank = hlm_schedule_stage_rank_v,
    .actions_per_microbatch = 3,
    .fill_all = fill_all,
};
