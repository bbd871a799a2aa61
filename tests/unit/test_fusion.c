/* The arranged lists mean what the block's own do, and what dies is not needed: with every dying
 * operand overwritten by NaN behind its last reader, results are the same. */
#include "exec/fusion.h"

#include <string.h>

#include "base/rng.h"
#include "exec/backend.h"
#include "tests/support/blocks.h"

struct fixture {
    struct hlm_backend *backend;
    struct hlm_queue *queue;
};

static int setup(void **state)
{
    struct hlm_err err;
    struct fixture *fixture = test_calloc(1, sizeof *fixture);
    check_ok(hlm_backend_cpu_new(&fixture->backend, &err), &err);
    check_ok(fixture->backend->ops->queue_new(fixture->backend, &fixture->queue, &err), &err);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    fixture->backend->ops->queue_free(fixture->queue);
    hlm_backend_free(fixture->backend);
    test_free(fixture);
    return 0;
}

/* One list under way: every tensor of the block in memory of its own. */
struct pass {
    struct fixture *fixture;
    const struct hlm_block *block;
    void **memory;
};

static bool is_given(enum hlm_tensor_role role)
{
    return role == HLM_TENSOR_INPUT || role == HLM_TENSOR_GRAD_OUTPUT || role == HLM_TENSOR_PARAM;
}

static void pass_init(struct hlm_arena *arena, struct pass *pass, struct fixture *fixture,
                      const struct hlm_block *block)
{
    *pass = (struct pass){fixture, block, HLM_ARENA_ARRAY(arena, void *, block->num_tensors)};
    for (int32_t i = 0; i < block->num_tensors; i++) {
        const struct hlm_tensor *tensor = &block->tensors[i];
        const size_t bytes = (size_t)hlm_tensor_bytes(tensor);
        float *values = hlm_arena_alloc(arena, bytes, 1);
        memset(values, tensor->role == HLM_TENSOR_GRAD ? 0 : 0xFF, bytes);
        for (int64_t k = 0; is_given(tensor->role) && k < tensor->rows * tensor->cols; k++) {
            values[k] = (float)(0.5 * hlm_rng_normal((uint64_t)i, (uint64_t)k));
        }
        pass->memory[i] = values;
    }
}

static void run_op(struct pass *pass, const struct hlm_op *op, uint32_t dies)
{
    struct hlm_err err;
    const struct hlm_op_scalars scalars = {.loss_scale = 1.0};
    void *operands[HLM_OP_MAX_OPERANDS] = {NULL};
    for (int32_t k = 0; k < hlm_op_num_operands(op->kind); k++) {
        operands[k] = op->operands[k] >= 0 ? pass->memory[op->operands[k]] : NULL;
    }
    check_ok(
        pass->fixture->backend->ops->launch(pass->fixture->queue, op, operands, &scalars, &err),
        &err);
    for (int32_t k = 0; k < HLM_OP_MAX_OPERANDS; k++) {
        if ((dies >> k & 1U) != 0) {
            const struct hlm_tensor *tensor = &pass->block->tensors[op->operands[k]];
            assert_int_equal(tensor->role, HLM_TENSOR_ACTIVATION);
            memset(operands[k], 0xFF, (size_t)hlm_tensor_bytes(tensor));
        }
    }
}

/* dies NULL: nothing does. */
static void run_list(struct pass *pass, const struct hlm_op *ops, const uint32_t *dies, int32_t num,
                     unsigned parts)
{
    for (int32_t i = 0; i < num; i++) {
        if ((parts >> ops[i].part & 1U) != 0) {
            run_op(pass, &ops[i], dies == NULL ? 0 : dies[i]);
        }
    }
}

static void check_results(const struct pass *actual, const struct pass *expected)
{
    for (int32_t i = 0; i < actual->block->num_tensors; i++) {
        const struct hlm_tensor *tensor = &actual->block->tensors[i];
        const float *a = actual->memory[i], *e = expected->memory[i];
        const bool compared = tensor->role == HLM_TENSOR_OUTPUT ||
                              tensor->role == HLM_TENSOR_GRAD ||
                              tensor->role == HLM_TENSOR_GRAD_INPUT;
        for (int64_t k = 0; compared && k < tensor->rows * tensor->cols; k++) {
            check_near((double)a[k], (double)e[k], 2e-5 * (1.0 + fabs((double)e[k])));
        }
    }
}

enum { FULL = 1U << HLM_PART_INPUT_GRAD | 1U << HLM_PART_WEIGHT_GRAD };

static void check_block(struct fixture *fixture, struct hlm_arena *arena,
                        const struct hlm_block *block)
{
    struct hlm_fusion fusion;
    struct pass plain, full, halves;
    const unsigned forward = 1U << HLM_PART_FORWARD;
    hlm_fusion_init(arena, block, &fusion);
    pass_init(arena, &plain, fixture, block);
    run_list(&plain, block->forward, NULL, block->num_forward, forward);
    run_list(&plain, block->backward, NULL, block->num_backward, FULL);
    pass_init(arena, &full, fixture, block);
    run_list(&full, fusion.forward, fusion.forward_dies, fusion.num_forward, forward);
    run_list(&full, fusion.backward, fusion.backward_dies, fusion.num_backward, FULL);
    check_results(&full, &plain);
    pass_init(arena, &halves, fixture, block);
    run_list(&halves, fusion.forward, fusion.forward_dies, fusion.num_forward, forward);
    run_list(&halves, fusion.backward, fusion.backward_dies, fusion.num_backward,
             1U << HLM_PART_INPUT_GRAD);
    run_list(&halves, fusion.backward, fusion.backward_dies, fusion.num_backward,
             1U << HLM_PART_WEIGHT_GRAD);
    check_results(&halves, &plain);
}

static const struct hlm_block *layer_of(struct hlm_arena *arena, enum tiny_kind kind,
                                        enum hlm_recompute recompute)
{
    struct hlm_model *model = HLM_ARENA_NEW(arena, struct hlm_model);
    *model = tiny_model(kind);
    struct hlm_strategy strategy = tiny_strategy(model, 1, false, HLM_LOWERING_HLMPLAN);
    strategy.microbatch_size = 1;
    return tiny_block(arena, model, &strategy, 0, HLM_BLOCK_DENSE, recompute);
}

static void lists_mean_the_same(void **state)
{
    const enum tiny_kind kinds[] = {TINY_GPT, TINY_LLAMA, TINY_BERT, TINY_VIT, TINY_NEOX};
    for (int i = 0; i < 5 * HLM_NUM_RECOMPUTES; i++) {
        struct hlm_arena *arena = hlm_arena_new();
        check_block(*state, arena, layer_of(arena, kinds[i % 5], (enum hlm_recompute)(i / 5)));
        hlm_arena_free(arena);
    }
}

static int32_t count_ops(const struct hlm_op *ops, int32_t num, enum hlm_op_kind kind)
{
    int32_t count = 0;
    for (int32_t i = 0; i < num; i++) {
        count += ops[i].kind == kind ? 1 : 0;
    }
    return count;
}

/* gelu's bias moves behind the product, also where the product is made again. */
static void biases_move(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    for (int recompute = 0; recompute < HLM_NUM_RECOMPUTES; recompute++) {
        struct hlm_fusion fusion;
        const struct hlm_block *block = layer_of(arena, TINY_GPT, (enum hlm_recompute)recompute);
        hlm_fusion_init(arena, block, &fusion);
        assert_int_equal(fusion.num_forward, block->num_forward + 1);
        const int32_t made_again =
            count_ops(block->backward, block->num_backward, HLM_OP_BIAS_ADD) > 0 ? 1 : 0;
        assert_int_equal(fusion.num_backward, block->num_backward + made_again);
        for (int32_t i = 0; i < fusion.num_forward; i++) {
            assert_true(fusion.forward[i].kind != HLM_OP_ACTIVATION_FWD ||
                        fusion.forward[i].operands[1] < 0);
        }
        for (int32_t i = 0; i < fusion.num_backward; i++) {
            assert_true(fusion.backward[i].kind != HLM_OP_ACTIVATION_BWD ||
                        fusion.backward[i].operands[1] < 0);
        }
    }
    hlm_arena_free(arena);
}

/* What the epilogues of a backend need to die does. */
static void intermediate_results_die(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_fusion fusion;
    hlm_fusion_init(arena, layer_of(arena, TINY_GPT, HLM_RECOMPUTE_NONE), &fusion);
    for (int32_t i = 0; i < fusion.num_forward; i++) {
        const bool residual = fusion.forward[i].kind == HLM_OP_BIAS_RESIDUAL;
        const bool gelu = fusion.forward[i].kind == HLM_OP_ACTIVATION_FWD;
        assert_true(!residual || (fusion.forward_dies[i] & 1U) != 0);
        assert_true(!gelu || (fusion.forward_dies[i] & 1U) == 0); /* the backward reads it */
    }
    for (int32_t i = 0; i < fusion.num_backward; i++) {
        assert_true(fusion.backward[i].kind != HLM_OP_ACTIVATION_BWD ||
                    (fusion.backward_dies[i] & 4U) != 0);
    }
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lists_mean_the_same, setup, teardown),
        cmocka_unit_test(biases_move),
        cmocka_unit_test(intermediate_results_die),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
