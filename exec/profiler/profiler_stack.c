#include "exec/profiler/profiler_stack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "costmodel/memory.h"

enum {
    NUM_NORMALS = 65537,
    NUM_CLOCK_RECORDS = 64,
    CHUNK_ELEMENTS = 1 << 16, /* that are filled and uploaded at a time */
    ELEMENT_BYTES = 4
};

struct placed_block {
    const struct hlm_block *block;
    const struct hlm_block_memory *memory;
    char *input, *stash;
    char **fixed;   /* [num_tensors] parameters, gradients and data; NULL: elsewhere */
    double *best_s; /* [num_forward + num_backward] least time so far */
};

struct stack {
    struct hlm_arena *arena;
    struct hlm_backend *backend;
    const struct hlm_profiler_stack_config *config;
    struct hlm_queue *queue;
    struct placed_block *blocks;
    int32_t num_blocks;
    char *transient, *grads[2], *loss;
    void **memory;
    int32_t num_memory, max_memory;
    struct hlm_event **events;
    int32_t num_events;
    double clock_s; /* what recording an event adds to the time of an operator */
    double step_s;
    float *normals;
    void *chunk;
};

double hlm_profiler_elapsed(struct hlm_event_time from, struct hlm_event_time to)
{
    return to.cpu_s > 0.0 ? to.cpu_s - from.cpu_s : to.wall_s - from.wall_s;
}

/* --- memory --- */

static enum hlm_status take(struct stack *stack, double bytes, char **out, struct hlm_err *err)
{
    void *memory = NULL;
    HLM_ASSERT(stack->num_memory < stack->max_memory);
    HLM_TRY(stack->backend->ops->alloc(stack->backend, (int64_t)ceil(bytes), &memory, err));
    stack->memory[stack->num_memory++] = memory;
    *out = memory;
    return HLM_OK;
}

/* What a tensor is filled with: indices below `limit`, or, where that is 0, normal values. */
struct filling {
    int64_t limit;
    double mean, deviation;
};

static struct filling filling_of(const struct stack *stack, const struct placed_block *placed,
                                 const struct hlm_tensor *what)
{
    const struct hlm_model *model = stack->config->model;
    if (what->role == HLM_TENSOR_TOKENS || what->role == HLM_TENSOR_TARGETS) {
        const bool image = model->kind == HLM_MODEL_VIT;
        return (struct filling){.limit = image ? model->vit.num_classes : model->vocab_size};
    }
    if (what->role == HLM_TENSOR_PARAM) {
        const struct hlm_param *param = &placed->block->params[what->param];
        return (struct filling){.mean = param->init_mean, .deviation = param->init_std};
    }
    return (struct filling){.deviation = 1.0};
}

/* Normal values repeat with a period that no tensor's width divides: their distribution is what
 * counts. */
static void fill_chunk(const struct stack *stack, const struct filling *filling, int64_t first,
                       int64_t count)
{
    int32_t *indices = (int32_t *)stack->chunk;
    float *values = (float *)stack->chunk;
    for (int64_t i = 0; i < count; i++) {
        if (filling->limit > 0) {
            const double uniform = hlm_rng_uniform(7, (uint64_t)(first + i));
            indices[i] = (int32_t)(uniform * (double)filling->limit);
        } else {
            const double normal = (double)stack->normals[(first + i) % NUM_NORMALS];
            values[i] = (float)(filling->mean + filling->deviation * normal);
        }
    }
}

static enum hlm_status fill_tensor(struct stack *stack, const struct placed_block *placed,
                                   int32_t tensor, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = stack->backend->ops;
    const struct hlm_tensor *what = &placed->block->tensors[tensor];
    const struct filling filling = filling_of(stack, placed, what);
    const int64_t total = what->rows * what->cols;
    for (int64_t first = 0; first < total; first += CHUNK_ELEMENTS) {
        const int64_t count = total - first < CHUNK_ELEMENTS ? total - first : CHUNK_ELEMENTS;
        fill_chunk(stack, &filling, first, count);
        HLM_TRY(ops->upload(stack->queue, placed->fixed[tensor] + first * ELEMENT_BYTES,
                            stack->chunk, count * ELEMENT_BYTES, err));
        HLM_TRY(ops->queue_sync(stack->queue, err));
    }
    return HLM_OK;
}

static bool is_data(enum hlm_tensor_role role)
{
    return role == HLM_TENSOR_TOKENS || role == HLM_TENSOR_TARGETS || role == HLM_TENSOR_PIXELS;
}

/* The tied table is the embedding's first parameter. */
static char *shared_table(const struct stack *stack, bool grad)
{
    const struct placed_block *embedding = &stack->blocks[0];
    HLM_ASSERT(embedding->block->num_params > 0);
    const struct hlm_param *table = &embedding->block->params[0];
    return embedding->fixed[grad ? table->grad : table->param];
}

static enum hlm_status place_tensor(struct stack *stack, struct placed_block *placed,
                                    int32_t tensor, struct hlm_err *err)
{
    const struct hlm_tensor *what = &placed->block->tensors[tensor];
    const bool param = what->role == HLM_TENSOR_PARAM, grad = what->role == HLM_TENSOR_GRAD;
    if ((param || grad) && what->param < 0) {
        placed->fixed[tensor] = shared_table(stack, grad);
        return HLM_OK;
    }
    if (!param && !grad && !is_data(what->role)) {
        return HLM_OK;
    }
    HLM_TRY(take(stack, hlm_tensor_bytes(what), &placed->fixed[tensor], err));
    return grad ? HLM_OK : fill_tensor(stack, placed, tensor, err);
}

static enum hlm_status place_block(struct stack *stack, struct placed_block *placed,
                                   struct hlm_err *err)
{
    const struct hlm_block *block = placed->block;
    const int32_t num_ops = block->num_forward + block->num_backward;
    placed->fixed = HLM_ARENA_ARRAY(stack->arena, char *, block->num_tensors);
    placed->best_s = HLM_ARENA_ARRAY(stack->arena, double, num_ops);
    for (int32_t i = 0; i < num_ops; i++) {
        placed->best_s[i] = HUGE_VAL;
    }
    HLM_TRY(take(stack, (double)placed->memory->stash_bytes, &placed->stash, err));
    HLM_TRY(take(stack, (double)placed->memory->input_bytes, &placed->input, err));
    for (int32_t t = 0; t < block->num_tensors; t++) {
        HLM_TRY(place_tensor(stack, placed, t, err));
    }
    return HLM_OK;
}

static double larger(int64_t a, int64_t b)
{
    return (double)(a > b ? a : b);
}

static enum hlm_status place_shared(struct stack *stack, struct hlm_err *err)
{
    double transient = 0.0, boundary = 0.0;
    for (int32_t b = 0; b < stack->num_blocks; b++) {
        const struct hlm_block_memory *memory = stack->blocks[b].memory;
        transient = fmax(transient,
                         larger(memory->forward_transient_bytes, memory->backward_transient_bytes));
        boundary = fmax(boundary, larger(memory->input_bytes, memory->output_bytes));
    }
    HLM_TRY(take(stack, transient, &stack->transient, err));
    HLM_TRY(take(stack, boundary, &stack->grads[0], err));
    HLM_TRY(take(stack, boundary, &stack->grads[1], err));
    return take(stack, sizeof(double), &stack->loss, err);
}

static void *address(const struct stack *stack, int32_t b, int32_t tensor, bool backward)
{
    const struct placed_block *placed = &stack->blocks[b];
    const int64_t *offsets =
        backward ? placed->memory->backward_offset : placed->memory->forward_offset;
    switch (placed->block->tensors[tensor].role) {
    case HLM_TENSOR_INPUT:
        return placed->input;
    case HLM_TENSOR_OUTPUT:
        return stack->blocks[b + 1].input;
    case HLM_TENSOR_GRAD_OUTPUT:
        return stack->grads[b % 2];
    case HLM_TENSOR_GRAD_INPUT:
        return stack->grads[(b + 1) % 2];
    case HLM_TENSOR_LOSS:
        return stack->loss;
    case HLM_TENSOR_ACTIVATION:
        HLM_ASSERT(offsets[tensor] >= 0);
        return (placed->memory->place[tensor] == HLM_PLACE_STASH ? placed->stash
                                                                 : stack->transient) +
               offsets[tensor];
    default:
        return placed->fixed[tensor];
    }
}

/* --- building --- */

static enum hlm_status lower_block(struct stack *stack, enum hlm_block_kind kind,
                                   struct placed_block *out, struct hlm_err *err)
{
    const struct hlm_lowering_input input = {.model = stack->config->model,
                                             .strategy = stack->config->strategy,
                                             .backend = stack->config->kind};
    const enum hlm_recompute recompute =
        kind == HLM_BLOCK_DENSE ? stack->config->recompute : HLM_RECOMPUTE_NONE;
    HLM_TRY(hlm_lowering_block(stack->arena, &input, kind, recompute, &out->block, err));
    struct hlm_block_memory *memory = HLM_ARENA_NEW(stack->arena, struct hlm_block_memory);
    hlm_block_memory(stack->arena, out->block, memory);
    out->memory = memory;
    return HLM_OK;
}

static enum hlm_status build_blocks(struct stack *stack, struct hlm_err *err)
{
    const int32_t num_layers = stack->config->model->num_layers;
    stack->num_blocks = num_layers + 2;
    stack->blocks = HLM_ARENA_ARRAY(stack->arena, struct placed_block, stack->num_blocks);
    HLM_TRY(lower_block(stack, HLM_BLOCK_EMBEDDING, &stack->blocks[0], err));
    HLM_TRY(lower_block(stack, HLM_BLOCK_DENSE, &stack->blocks[1], err));
    HLM_TRY(lower_block(stack, HLM_BLOCK_HEAD, &stack->blocks[num_layers + 1], err));
    for (int32_t b = 2; b <= num_layers; b++) {
        stack->blocks[b] = stack->blocks[1];
    }
    stack->max_memory = 4;
    for (int32_t b = 0; b < stack->num_blocks; b++) {
        stack->max_memory += stack->blocks[b].block->num_tensors + 2;
    }
    stack->memory = HLM_ARENA_ARRAY(stack->arena, void *, stack->max_memory);
    return HLM_OK;
}

static enum hlm_status place_blocks(struct stack *stack, struct hlm_err *err)
{
    stack->normals = HLM_ARENA_ARRAY(stack->arena, float, NUM_NORMALS);
    stack->chunk = hlm_arena_alloc(stack->arena, CHUNK_ELEMENTS, ELEMENT_BYTES);
    for (int32_t i = 0; i < NUM_NORMALS; i++) {
        stack->normals[i] = (float)hlm_rng_normal(11, (uint64_t)i);
    }
    for (int32_t b = 0; b < stack->num_blocks; b++) {
        HLM_TRY(place_block(stack, &stack->blocks[b], err));
    }
    return place_shared(stack, err);
}

/* --- running --- */

static enum hlm_status make_events(struct stack *stack, struct hlm_err *err)
{
    int32_t num_events = NUM_CLOCK_RECORDS;
    for (int32_t b = 0; b < stack->num_blocks; b++) {
        const struct hlm_block *block = stack->blocks[b].block;
        num_events = (int32_t)larger(num_events,
                                     (int64_t)larger(block->num_forward, block->num_backward) + 1);
    }
    stack->events = HLM_ARENA_ARRAY(stack->arena, struct hlm_event *, num_events);
    for (; stack->num_events < num_events; stack->num_events++) {
        HLM_TRY(
            stack->backend->ops->event_new(stack->backend, &stack->events[stack->num_events], err));
    }
    return HLM_OK;
}

static double event_gap(const struct stack *stack, int32_t index)
{
    const struct hlm_backend_ops *ops = stack->backend->ops;
    return hlm_profiler_elapsed(ops->event_time(stack->events[index]),
                                ops->event_time(stack->events[index + 1]));
}

static enum hlm_status measure_clock(struct stack *stack, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = stack->backend->ops;
    for (int32_t i = 0; i < NUM_CLOCK_RECORDS; i++) {
        HLM_TRY(ops->event_record(stack->queue, stack->events[i], err));
    }
    HLM_TRY(ops->queue_sync(stack->queue, err));
    stack->clock_s = HUGE_VAL;
    for (int32_t i = 0; i + 1 < NUM_CLOCK_RECORDS; i++) {
        stack->clock_s = fmin(stack->clock_s, event_gap(stack, i));
    }
    return HLM_OK;
}

static enum hlm_status run_op(struct stack *stack, int32_t b, const struct hlm_op *op,
                              bool backward, struct hlm_err *err)
{
    void *operands[HLM_OP_MAX_OPERANDS] = {NULL};
    const struct hlm_strategy *strategy = stack->config->strategy;
    const struct hlm_op_scalars scalars = {
        .loss_scale = 1.0 / (double)(strategy->microbatch_size * strategy->seq_len)};
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        if (op->operands[i] >= 0) {
            operands[i] = address(stack, b, op->operands[i], backward);
        }
    }
    return stack->backend->ops->launch(stack->queue, op, operands, &scalars, err);
}

static enum hlm_status run_pass(struct stack *stack, int32_t b, bool backward, bool timed,
                                struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = stack->backend->ops;
    const struct hlm_block *block = stack->blocks[b].block;
    const struct hlm_op *list = backward ? block->backward : block->forward;
    const int32_t num_ops = backward ? block->num_backward : block->num_forward;
    double *best_s = stack->blocks[b].best_s + (backward ? block->num_forward : 0);
    HLM_TRY(ops->event_record(stack->queue, stack->events[0], err));
    for (int32_t i = 0; i < num_ops; i++) {
        HLM_TRY(run_op(stack, b, &list[i], backward, err));
        HLM_TRY(ops->event_record(stack->queue, stack->events[i + 1], err));
    }
    HLM_TRY(ops->queue_sync(stack->queue, err));
    for (int32_t i = 0; timed && i < num_ops; i++) {
        const double seconds = fmax(event_gap(stack, i) - stack->clock_s, 1e-9);
        best_s[i] = fmin(best_s[i], seconds);
        stack->step_s += seconds;
    }
    return HLM_OK;
}

static enum hlm_status check_loss(struct stack *stack, struct hlm_err *err)
{
    double loss = 0.0;
    const struct hlm_backend_ops *ops = stack->backend->ops;
    HLM_TRY(ops->download(stack->queue, &loss, stack->loss, sizeof loss, err));
    HLM_TRY(ops->queue_sync(stack->queue, err));
    if (!isfinite(loss)) {
        return hlm_fail(err, HLM_FAILED, "profiler: the loss of %s is not finite",
                        stack->config->model->name);
    }
    return HLM_OK;
}

static enum hlm_status run_step(struct stack *stack, bool timed, struct hlm_err *err)
{
    const double zero = 0.0;
    stack->step_s = 0.0;
    HLM_TRY(stack->backend->ops->upload(stack->queue, stack->loss, &zero, sizeof zero, err));
    for (int32_t b = 0; b < stack->num_blocks; b++) {
        HLM_TRY(run_pass(stack, b, false, timed, err));
    }
    for (int32_t b = stack->num_blocks - 1; b >= 0; b--) {
        HLM_TRY(run_pass(stack, b, true, timed, err));
    }
    return check_loss(stack, err);
}

/* --- results --- */

static void add_samples(const struct stack *stack, int32_t first, int32_t num_blocks,
                        struct hlm_profiler_sample *samples)
{
    const struct hlm_block *block = stack->blocks[first].block;
    for (int32_t i = 0; i < block->num_forward + block->num_backward; i++) {
        const bool backward = i >= block->num_forward;
        struct hlm_profiler_sample *sample = &samples[i];
        sample->op = backward ? &block->backward[i - block->num_forward] : &block->forward[i];
        sample->backward = backward;
        sample->num_blocks = num_blocks;
        for (int32_t b = first; b < first + num_blocks; b++) {
            sample->seconds += stack->blocks[b].best_s[i] / (double)num_blocks;
        }
    }
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void collect(const struct stack *stack, double *steps, struct hlm_profiler_stack *out)
{
    const int32_t num_layers = stack->num_blocks - 2;
    const int32_t firsts[] = {0, 1, num_layers + 1}, counts[] = {1, num_layers, 1};
    int32_t num_samples = 0;
    for (int32_t i = 0; i < 3; i++) {
        const struct hlm_block *block = stack->blocks[firsts[i]].block;
        num_samples += block->num_forward + block->num_backward;
    }
    struct hlm_profiler_sample *samples =
        HLM_ARENA_ARRAY(stack->arena, struct hlm_profiler_sample, num_samples);
    out->samples = samples;
    out->num_samples = num_samples;
    for (int32_t i = 0; i < 3; i++) {
        const struct hlm_block *block = stack->blocks[firsts[i]].block;
        add_samples(stack, firsts[i], counts[i], samples);
        samples += block->num_forward + block->num_backward;
    }
    qsort(steps, (size_t)stack->config->num_steps, sizeof *steps, compare_doubles);
    out->median_step_s = steps[stack->config->num_steps / 2];
    out->least_step_s = steps[0];
}

static void release(struct stack *stack)
{
    const struct hlm_backend_ops *ops = stack->backend->ops;
    for (int32_t i = 0; i < stack->num_events; i++) {
        ops->event_free(stack->events[i]);
    }
    if (stack->queue != NULL) {
        ops->queue_free(stack->queue);
    }
    for (int32_t i = 0; i < stack->num_memory; i++) {
        ops->free(stack->backend, stack->memory[i]);
    }
}

static enum hlm_status measure(struct stack *stack, struct hlm_profiler_stack *out,
                               struct hlm_err *err)
{
    const int32_t num_steps = stack->config->num_steps;
    HLM_ASSERT(num_steps > 0 && stack->config->model->num_layers > 0);
    if (stack->config->strategy->dtype != HLM_DTYPE_FP32) {
        return hlm_fail(err, HLM_ENV, "profiler: stacks are measured in fp32, not in %s",
                        hlm_dtype_texts[stack->config->strategy->dtype]);
    }
    HLM_TRY(build_blocks(stack, err));
    HLM_TRY(stack->backend->ops->queue_new(stack->backend, &stack->queue, err));
    HLM_TRY(place_blocks(stack, err));
    HLM_TRY(make_events(stack, err));
    HLM_TRY(measure_clock(stack, err));
    double *steps = HLM_ARENA_ARRAY(stack->arena, double, num_steps);
    HLM_TRY(run_step(stack, false, err));
    for (int32_t step = 0; step < num_steps; step++) {
        HLM_TRY(run_step(stack, true, err));
        steps[step] = stack->step_s;
    }
    collect(stack, steps, out);
    return HLM_OK;
}

enum hlm_status hlm_profiler_stack_measure(struct hlm_arena *arena, struct hlm_backend *backend,
                                           const struct hlm_profiler_stack_config *config,
                                           struct hlm_profiler_stack *out, struct hlm_err *err)
{
    struct stack stack = {.arena = arena, .backend = backend, .config = config};
    *out = (struct hlm_profiler_stack){0};
    const enum hlm_status status = measure(&stack, out, err);
    release(&stack);
    return status;
}
