/* Training on the device against PyTorch's losses (tests/reference), the ranks as threads with a
 * transport of the host: the executor with memory that it can't reach, every operator in its place.
 * The emulator is slow, so it gets less to do. */
#include "tests/gpu/device.h"
#include "tests/support/check.h"
#include "tests/support/train.h"

/* As for the CPU (tests/oracle/test_golden.c), with room for other orders of additions. */
static const double loss_tolerance = 4e-6, norm_tolerance = 2e-5;

static enum hlm_status new_backend(struct hlm_backend **out, struct hlm_err *err)
{
    return device_backend_new(false, out, err);
}

static void check_layout(struct hlm_arena *arena, const struct golden *golden,
                         const struct golden_layout *layout)
{
    const struct hlm_plan *plan =
        golden_plan(arena, &golden->model, golden->global_batch_size, golden->seq_len, layout);
    assert_non_null(plan);
    const int32_t num_steps = device_is_emulated() ? 2 : golden->num_losses;
    const struct train_result result =
        train_run(arena, plan, (uint64_t)golden->seed, num_steps, new_backend, NULL);
    for (int32_t step = 0; step < num_steps; step++) {
        check_close(result.losses[step], golden->losses[step], loss_tolerance);
        check_close(result.grad_norms[step], golden->grad_norms[step], norm_tolerance);
    }
}

static void check_model(const char *name)
{
    struct hlm_arena *arena = hlm_arena_new();
    const struct golden *golden = golden_read(arena, name);
    const struct golden_layout layouts[] = {
        {.microbatch_size = 4},
        {.tp = 2, .pp = 2, .sp = true, .microbatch_size = 2, .schedule = HLM_SCHEDULE_1F1B},
        {.microbatch_size = 2, .recompute = HLM_RECOMPUTE_FULL},
        {.dp = 2, .tp = 2, .pp = 2, .schedule = HLM_SCHEDULE_1F1B},
    };
    const size_t num_layouts = device_is_emulated() ? 2 : sizeof(layouts) / sizeof(layouts[0]);
    for (size_t i = 0; i < num_layouts; i++) {
        check_layout(arena, golden, &layouts[i]);
    }
    hlm_arena_free(arena);
}

/* --- bf16 --- */

/* A bf16 number is off by up to 2^-8 of itself. The loss is a mean over all positions, so that
 * single roundings average out; two of them are the bound. Layouts differ from one rank only by
 * where partial sums are rounded: one. */
static const double bf16_to_fp32_tolerance = 2.0 / 256.0, bf16_layout_tolerance = 1.0 / 256.0;

static struct train_result train_bf16(struct hlm_arena *arena, const struct golden *golden,
                                      struct golden_layout layout, int32_t num_steps)
{
    layout.dtype = HLM_DTYPE_BF16;
    const struct hlm_plan *plan =
        golden_plan(arena, &golden->model, golden->global_batch_size, golden->seq_len, &layout);
    assert_non_null(plan);
    return train_run(arena, plan, (uint64_t)golden->seed, num_steps, new_backend, NULL);
}

static void check_bf16_model(const char *name, bool sp)
{
    struct hlm_arena *arena = hlm_arena_new();
    const struct golden *golden = golden_read(arena, name);
    const struct golden_layout layouts[] = {
        {.dp = 2, .tp = 2, .pp = 2, .sp = sp, .zero = 1, .schedule = HLM_SCHEDULE_1F1B},
        {.dp = 2, .microbatch_size = 2, .zero = 1},
        {.dp = 2, .microbatch_size = 2},
        {.tp = 2, .pp = 2, .microbatch_size = 2, .recompute = HLM_RECOMPUTE_FULL},
    };
    const int32_t num_steps = device_is_emulated() ? 2 : golden->num_losses;
    const size_t num_layouts = device_is_emulated() ? 1 : sizeof(layouts) / sizeof(layouts[0]);
    const struct train_result one =
        train_bf16(arena, golden, (struct golden_layout){.microbatch_size = 4}, num_steps);
    bool differs = false;
    for (int32_t step = 0; step < num_steps; step++) {
        check_close(one.losses[step], golden->losses[step], bf16_to_fp32_tolerance);
        differs = differs || fabs(one.losses[step] - golden->losses[step]) > loss_tolerance;
    }
    assert_true(differs); /* fp32 would not */
    for (size_t i = 0; i < num_layouts; i++) {
        const struct train_result many = train_bf16(arena, golden, layouts[i], num_steps);
        for (int32_t step = 0; step < num_steps; step++) {
            check_close(many.losses[step], one.losses[step], bf16_layout_tolerance);
        }
    }
    hlm_arena_free(arena);
}

static void gpt2_in_bf16(void **state)
{
    (void)state;
    check_bf16_model("gpt2", true);
}

static void llama_in_bf16(void **state)
{
    (void)state;
    check_bf16_model("llama", true);
}

static void vit_in_bf16(void **state)
{
    (void)state;
    check_bf16_model("vit", false);
}

static void gpt2(void **state)
{
    (void)state;
    check_model("gpt2");
}

static void llama(void **state)
{
    (void)state;
    check_model("llama");
}

static void bert(void **state)
{
    (void)state;
    check_model("bert");
}

static void vit(void **state)
{
    (void)state;
    check_model("vit");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt2),         cmocka_unit_test(llama),
        cmocka_unit_test(bert),         cmocka_unit_test(vit),
        cmocka_unit_test(gpt2_in_bf16), cmocka_unit_test(llama_in_bf16),
        cmocka_unit_test(vit_in_bf16)};
    return device_is_there() ? cmocka_run_group_tests(tests, NULL, NULL) : EXIT_SKIPPED;
}
