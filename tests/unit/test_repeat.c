/* Operators that run several times: how often, on what, and that nobody sees it in the results. */
#include "exec/cpu/repeat.h"
#include "tests/support/check.h"
#include "tests/support/golden.h"
#include "tests/support/train.h"

enum { TIMES = 3, COUNT = 5 };

/* Counts its calls in the gradient, which it may change for the purpose, and adds to dbias. */
static void counting_kernel(const struct hlm_cpu_call *call)
{
    float *calls = call->operands[0], *sum = call->operands[1];
    calls[0] += 1.0f;
    for (int i = 0; i < COUNT; i++) {
        sum[i] += 10.0f;
    }
}

static void test_number_of_runs(void **state)
{
    (void)state;
    const struct hlm_op op = {.kind = HLM_OP_BIAS_GRAD, .m = 1, .n = COUNT};
    float calls[1] = {0.0f}, sum[COUNT] = {1.0f, 2.0f, 3.0f, 4.0f, 5.0f}, copies[64];
    void *operands[HLM_OP_MAX_OPERANDS] = {calls, sum};
    const struct hlm_cpu_call call = {.op = &op, .operands = operands};
    assert_true(hlm_cpu_copies_floats(&op, operands) <= 64);
    hlm_cpu_run_repeated(counting_kernel, &call, TIMES, copies);
    assert_int_equal((int)calls[0], TIMES);
    for (int i = 0; i < COUNT; i++) {
        check_near((double)sum[i], 11.0 + i, 0.0);
        check_near((double)copies[i], 1.0 + i + 10.0 * (TIMES - 1), 0.0);
    }
}

static char mark_of(const char *operands, int32_t index)
{
    char mark = '\0';
    for (const char *c = operands; *c != '\0'; c++) {
        if (strchr("<>+", *c) != NULL && index-- == 0) {
            mark = *c;
        }
    }
    return mark;
}

/* Whoever adds an operator that changes an operand in place must say how much of it. */
static void test_every_operator_is_known(void **state)
{
    (void)state;
#define X(kind, kernel, scratch) HLM_OP_##kind,
    static const enum hlm_op_kind kinds[] = {HLM_CPU_KERNEL_MAP(X)};
#undef X
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const struct hlm_op op = {.kind = kinds[i],
                                  .m = 2,
                                  .n = 3,
                                  .k = 5,
                                  .seq_len = 7,
                                  .heads = 2,
                                  .kv_heads = 1,
                                  .head_dim = 4,
                                  .num_experts = 3,
                                  .accumulate = true};
        for (int32_t j = 0; j < hlm_op_num_operands(op.kind); j++) {
            const bool in_place = mark_of(hlm_op_operand_texts[op.kind], j) == '+';
            const bool expected = in_place && op.kind != HLM_OP_KV_JOIN;
            if ((hlm_cpu_changed_floats(&op, j) > 0) != expected) {
                fail_msg("%s: operand %d", hlm_op_texts[op.kind], (int)j);
            }
        }
    }
}

static enum hlm_status repeating_backend(struct hlm_backend **out, struct hlm_err *err)
{
    HLM_TRY(hlm_backend_cpu_new(out, err));
    hlm_backend_cpu_repeat(*out, TIMES);
    return HLM_OK;
}

/* The models hold every operator that our executor runs on one rank. */
static void test_training(void **state)
{
    (void)state;
    enum { STEPS = 2 };
    static const char *const models[] = {"gpt2", "llama", "bert", "vit", "moe"};
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        struct hlm_arena *arena = hlm_arena_new();
        const struct golden *golden = golden_read(arena, models[i]);
        const struct golden_layout layout = {.microbatch_size = 2};
        const struct hlm_plan *plan =
            golden_plan(arena, &golden->model, golden->global_batch_size, golden->seq_len, &layout);
        assert_non_null(plan);
        const struct train_result once =
            train_run(arena, plan, 7, STEPS, hlm_backend_cpu_new, golden);
        const struct train_result often =
            train_run(arena, plan, 7, STEPS, repeating_backend, golden);
        for (int32_t step = 0; step < STEPS; step++) {
            check_near(often.losses[step], once.losses[step], 0.0);
            check_near(often.grad_norms[step], once.grad_norms[step], 0.0);
        }
        for (int32_t p = 0; p < golden->num_params; p++) {
            check_near(often.update_norms[p], once.update_norms[p], 0.0);
            assert_memory_equal(often.grads[p], once.grads[p],
                                (size_t)golden->params[p].num_grad * sizeof(double));
        }
        hlm_arena_free(arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_number_of_runs),
                                       cmocka_unit_test(test_every_operator_is_known),
                                       cmocka_unit_test(test_training)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
