/* The samples of a step. They are made before it starts, as a loader would have them ready, and
 * stay until it ends, so that a queue may read them whenever it comes there. */
#include "exec/bf16.h"
#include "exec/runner/runner_internal.h"

/* Of one sample, by the model. */
struct sample_sizes {
    int64_t tokens, targets, pixels;
};

static struct sample_sizes sample_sizes(const struct hlm_runner *runner)
{
    const struct hlm_plan *plan = runner->state->plan;
    const struct hlm_model_vit *vit = &plan->model.vit;
    const bool images = plan->model.kind == HLM_MODEL_VIT;
    const int64_t own_len = plan->strategy.seq_len / plan->strategy.cp;
    return (struct sample_sizes){
        .tokens = images ? 0 : own_len,
        .targets = images ? 1 : own_len,
        .pixels = images ? vit->num_channels * vit->image_size * vit->image_size : 0};
}

/* Samples of this replica in a step; *out_first: in the global batch. */
static int64_t num_samples(const struct hlm_runner *runner, int64_t *out_first)
{
    const struct hlm_state *state = runner->state;
    const struct hlm_strategy seen =
        hlm_strategy_of_replica(&state->plan->strategy, state->coords.dp, out_first);
    return seen.num_microbatches * seen.microbatch_size;
}

static bool reads_samples(const struct hlm_runner *runner)
{
    const struct hlm_state *state = runner->state;
    bool reads = false;
    for (int32_t s = 0; s < state->num_stages; s++) {
        reads = reads || state->stages[s].first || state->stages[s].last;
    }
    return reads;
}

void hlm_runner_new_data(struct hlm_arena *arena, struct hlm_runner *runner)
{
    const struct sample_sizes sizes = sample_sizes(runner);
    int64_t first = 0;
    const int64_t num = reads_samples(runner) ? num_samples(runner, &first) : 0;
    runner->tokens = HLM_ARENA_ARRAY(arena, int32_t, num * sizes.tokens);
    runner->targets = HLM_ARENA_ARRAY(arena, int32_t, num * sizes.targets);
    runner->pixels = HLM_ARENA_ARRAY(arena, char, num *sizes.pixels * runner->state->dtype_bytes);
}

/* One image into its place, in the dtype of the state. */
static void make_pixels(struct hlm_runner *runner, int64_t sample, int64_t place, int64_t count,
                        int32_t *target, float *scratch)
{
    const bool rounds = runner->state->dtype == HLM_DTYPE_BF16;
    float *exact = rounds ? scratch : (float *)runner->pixels + place * count;
    hlm_data_sample(runner->data, sample, NULL, target, exact);
    for (int64_t i = 0; rounds && i < count; i++) {
        ((uint16_t *)runner->pixels)[place * count + i] = hlm_bf16_round(exact[i]);
    }
}

void hlm_runner_make_data(struct hlm_runner *runner)
{
    const struct hlm_state *state = runner->state;
    const struct sample_sizes sizes = sample_sizes(runner);
    int64_t first = 0;
    const int64_t num = num_samples(runner, &first);
    first += runner->step * state->strategy.global_batch_size;
    if (!reads_samples(runner)) {
        return;
    }
    const struct hlm_context context =
        hlm_context_of(&state->plan->model, &state->strategy, state->coords.cp);
    struct hlm_arena *arena = hlm_arena_new();
    float *scratch = HLM_ARENA_ARRAY(arena, float, sizes.pixels);
    for (int64_t i = 0; i < num; i++) {
        int32_t *target = runner->targets + i * sizes.targets;
        if (sizes.pixels > 0) {
            make_pixels(runner, first + i, i, sizes.pixels, target, scratch);
        } else {
            hlm_data_share(runner->data, &context, first + i, runner->tokens + i * sizes.tokens,
                           target, NULL);
        }
    }
    hlm_arena_free(arena);
}

static enum hlm_status upload_role(struct hlm_runner *runner,
                                   const struct hlm_state_binding *binding, int32_t block,
                                   enum hlm_tensor_role role, const void *values, int64_t bytes,
                                   struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    const struct hlm_block *list = binding->stage->blocks[block].block;
    for (int32_t t = 0; t < list->num_tensors; t++) {
        if (list->tensors[t].role == role) {
            HLM_ASSERT((int64_t)hlm_tensor_bytes(&list->tensors[t]) == bytes);
            HLM_TRY(state->backend->ops->upload(
                state->queue, hlm_state_address(state, block, t, binding), values, bytes, err));
        }
    }
    return HLM_OK;
}

/* Into the data tensors of the first and the last block of the model. */
enum hlm_status hlm_runner_upload_data(struct hlm_runner *runner,
                                       const struct hlm_state_binding *binding, int32_t microbatch,
                                       struct hlm_err *err)
{
    const struct hlm_state_stage *stage = binding->stage;
    const struct sample_sizes sizes = sample_sizes(runner);
    const int64_t num = runner->state->strategy.microbatch_size;
    const int64_t tokens = num * sizes.tokens, targets = num * sizes.targets;
    const int64_t pixel_bytes = num * sizes.pixels * runner->state->dtype_bytes;
    const int64_t index_bytes = (int64_t)sizeof(int32_t);
    if (stage->first && tokens > 0) {
        HLM_TRY(upload_role(runner, binding, 0, HLM_TENSOR_TOKENS,
                            runner->tokens + microbatch * tokens, tokens * index_bytes, err));
    }
    if (stage->first && pixel_bytes > 0) {
        HLM_TRY(upload_role(runner, binding, 0, HLM_TENSOR_PIXELS,
                            (char *)runner->pixels + microbatch * pixel_bytes, pixel_bytes, err));
    }
    return stage->last
               ? upload_role(runner, binding, stage->num_blocks - 1, HLM_TENSOR_TARGETS,
                             runner->targets + microbatch * targets, targets * index_bytes, err)
               : HLM_OK;
}
