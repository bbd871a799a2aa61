#include "tests/gpu/block_run.h"

#include "base/rng.h"

static int64_t tensor_bytes(const struct hlm_tensor *tensor)
{
    return (int64_t)hlm_tensor_bytes(tensor);
}

static struct hlm_strategy strategy_of(const struct hlm_model *model, enum hlm_dtype dtype)
{
    struct hlm_strategy strategy = tiny_strategy(model, 1, false, HLM_LOWERING_HLMPLAN);
    strategy.dtype = dtype;
    strategy.grad_dtype = HLM_DTYPE_FP32;
    strategy.microbatch_size = 1;
    return strategy;
}

void block_run_init(struct block_run *run, enum tiny_kind kind, enum hlm_dtype dtype,
                    enum hlm_recompute recompute, const struct hlm_cuda_options *options)
{
    struct hlm_err err;
    *run = (struct block_run){.arena = hlm_arena_new()};
    struct hlm_model *model = HLM_ARENA_NEW(run->arena, struct hlm_model);
    *model = tiny_model(kind);
    const struct hlm_strategy strategy = strategy_of(model, dtype);
    const struct hlm_lowering_input input = {
        .model = model, .strategy = &strategy, .backend = HLM_BACKEND_CUDA};
    check_ok(hlm_lowering_block(run->arena, &input, HLM_BLOCK_DENSE, recompute, &run->block, &err),
             &err);
    hlm_fusion_init(run->arena, run->block, &run->fusion);
    check_ok(device_backend_with(options, &run->backend, &err), &err);
    check_ok(run->backend->ops->queue_new(run->backend, &run->queue, &err), &err);
    run->memory = HLM_ARENA_ARRAY(run->arena, void *, run->block->num_tensors);
    for (int32_t i = 0; i < run->block->num_tensors; i++) {
        check_ok(run->backend->ops->alloc(run->backend, tensor_bytes(&run->block->tensors[i]),
                                          &run->memory[i], &err),
                 &err);
    }
}

void block_run_release(struct block_run *run)
{
    for (int32_t i = 0; i < run->block->num_tensors; i++) {
        run->backend->ops->free(run->backend, run->memory[i]);
    }
    run->backend->ops->queue_free(run->queue);
    hlm_backend_free(run->backend);
    hlm_arena_free(run->arena);
}

static uint16_t to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

static bool is_given(enum hlm_tensor_role role)
{
    return role == HLM_TENSOR_INPUT || role == HLM_TENSOR_GRAD_OUTPUT || role == HLM_TENSOR_PARAM;
}

static void fill_random(unsigned char *bytes, const struct hlm_tensor *tensor, uint64_t key)
{
    for (int64_t k = 0; k < tensor->rows * tensor->cols; k++) {
        const float value = (float)(0.5 * hlm_rng_normal(key, (uint64_t)k));
        const uint16_t half = to_bf16(value);
        const bool is_half = tensor->dtype == HLM_DTYPE_BF16;
        memcpy(bytes + k * (is_half ? 2 : 4), is_half ? (const void *)&half : (const void *)&value,
               is_half ? 2 : 4);
    }
}

void block_run_fill(struct block_run *run, uint64_t seed)
{
    struct hlm_err err;
    for (int32_t i = 0; i < run->block->num_tensors; i++) {
        const struct hlm_tensor *tensor = &run->block->tensors[i];
        const int64_t bytes = tensor_bytes(tensor);
        unsigned char *host = hlm_arena_alloc(run->arena, (size_t)bytes, 1);
        memset(host, tensor->role == HLM_TENSOR_GRAD ? 0 : 0xFF, (size_t)bytes);
        if (is_given(tensor->role)) {
            fill_random(host, tensor, hlm_rng_bits(seed, (uint64_t)i));
        }
        check_ok(run->backend->ops->upload(run->queue, run->memory[i], host, bytes, &err), &err);
    }
    check_ok(run->backend->ops->queue_sync(run->queue, &err), &err);
}

static struct hlm_launch launch_of(const struct block_run *run, const struct hlm_op *op,
                                   uint32_t dies)
{
    struct hlm_launch launch = {.op = op, .dies = dies};
    for (int32_t k = 0; k < hlm_op_num_operands(op->kind); k++) {
        launch.operands[k] = op->operands[k] >= 0 ? run->memory[op->operands[k]] : NULL;
    }
    return launch;
}

/* The operators of some parts (bits by hlm_op_part). */
static void put(struct block_run *run, const struct hlm_op *ops, const uint32_t *dies, int32_t num,
                unsigned parts, enum block_way way)
{
    struct hlm_err err;
    const struct hlm_op_scalars scalars = {.loss_scale = 1.0};
    struct hlm_launch *list = HLM_ARENA_ARRAY(run->arena, struct hlm_launch, num);
    int32_t length = 0;
    for (int32_t i = 0; i < num; i++) {
        if ((parts >> ops[i].part & 1U) != 0) {
            list[length++] = launch_of(run, &ops[i], dies[i]);
        }
    }
    const struct hlm_backend_ops *table = run->backend->ops;
    if (way == BLOCK_LIST) {
        check_ok(table->launch_list(run->queue, list, length, &scalars, &err), &err);
        return;
    }
    for (int32_t i = 0; i < length; i++) {
        check_ok(table->launch(run->queue, list[i].op, list[i].operands, &scalars, &err), &err);
    }
}

static void put_list(struct block_run *run, bool backward, unsigned parts, enum block_way way)
{
    const struct hlm_fusion *fusion = &run->fusion;
    const bool plain = way == BLOCK_PLAIN;
    const struct hlm_op *own = backward ? run->block->backward : run->block->forward;
    const struct hlm_op *arranged = backward ? fusion->backward : fusion->forward;
    const int32_t num_own = backward ? run->block->num_backward : run->block->num_forward;
    const int32_t num_arranged = backward ? fusion->num_backward : fusion->num_forward;
    const int32_t num = plain ? num_own : num_arranged;
    const uint32_t *nothing = HLM_ARENA_ARRAY(run->arena, uint32_t, num);
    const uint32_t *dies = backward ? fusion->backward_dies : fusion->forward_dies;
    put(run, plain ? own : arranged, plain ? nothing : dies, num, parts, way);
}

void block_run_forward(struct block_run *run, enum block_way way)
{
    put_list(run, false, 1U << HLM_PART_FORWARD, way);
}

void block_run_backward(struct block_run *run, enum block_way way, bool in_halves)
{
    const unsigned input = 1U << HLM_PART_INPUT_GRAD, weight = 1U << HLM_PART_WEIGHT_GRAD;
    if (!in_halves) {
        put_list(run, true, input | weight, way);
        return;
    }
    put_list(run, true, input, way);
    put_list(run, true, weight, way);
}

static bool is_result(const struct hlm_tensor *tensor)
{
    return tensor->role == HLM_TENSOR_OUTPUT || tensor->role == HLM_TENSOR_GRAD_INPUT ||
           tensor->role == HLM_TENSOR_GRAD;
}

int64_t block_run_count(const struct block_run *run)
{
    int64_t count = 0;
    for (int32_t i = 0; i < run->block->num_tensors; i++) {
        const struct hlm_tensor *tensor = &run->block->tensors[i];
        count += is_result(tensor) ? tensor->rows * tensor->cols : 0;
    }
    return count;
}

static double number_at(const unsigned char *bytes, enum hlm_dtype dtype, int64_t k)
{
    uint32_t bits = 0;
    float value;
    if (dtype == HLM_DTYPE_BF16) {
        uint16_t half;
        memcpy(&half, bytes + 2 * k, sizeof half);
        bits = (uint32_t)half << 16;
    } else {
        memcpy(&bits, bytes + 4 * k, sizeof bits);
    }
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

void block_run_results(struct block_run *run, double *results)
{
    struct hlm_err err;
    for (int32_t i = 0; i < run->block->num_tensors; i++) {
        const struct hlm_tensor *tensor = &run->block->tensors[i];
        if (!is_result(tensor)) {
            continue;
        }
        const int64_t bytes = tensor_bytes(tensor);
        unsigned char *host = hlm_arena_alloc(run->arena, (size_t)bytes, 1);
        check_ok(run->backend->ops->download(run->queue, host, run->memory[i], bytes, &err), &err);
        check_ok(run->backend->ops->queue_sync(run->queue, &err), &err);
        for (int64_t k = 0; k < tensor->rows * tensor->cols; k++) {
            *results++ = number_at(host, tensor->dtype, k);
        }
    }
}
