#include "tests/support/check.h"

#include "costmodel/kernel.h"
#include "exec/profiler/profiler_device.h"
#include "exec/profiler/profiler_fit.h"

static int setup(void **state)
{
    *state = hlm_arena_new();
    return 0;
}

static int teardown(void **state)
{
    hlm_arena_free(*state);
    return 0;
}

static void recovers_exact_coefficients(void **state)
{
    const double truth[] = {3e-6, 1e-11, 4e-11};
    struct hlm_fit_sample samples[12];
    for (int i = 0; i < 12; i++) {
        const double flops = 1e7 * (i % 4 + 1) * (i % 3 + 1), bytes = 1e5 * (i + 1);
        samples[i] = (struct hlm_fit_sample){{1.0, flops, bytes},
                                             truth[0] + flops * truth[1] + bytes * truth[2]};
    }
    const struct hlm_fit fit = hlm_fit_relative(samples, 12, 3, *state);
    for (int j = 0; j < 3; j++) {
        check_close(fit.coefficient[j], truth[j], 1e-6);
    }
    check_near(fit.spread_frac, 0.0, 1e-9);
}

/* Without the constraint the constant would be -2. */
static void no_coefficient_is_negative(void **state)
{
    struct hlm_fit_sample samples[5];
    for (int i = 0; i < 5; i++) {
        samples[i] = (struct hlm_fit_sample){{1.0, i + 3.0}, 2.0 * (i + 3.0) - 2.0};
    }
    const struct hlm_fit fit = hlm_fit_relative(samples, 5, 2, *state);
    check_near(fit.coefficient[0], 0.0, 0.0);
    assert_true(fit.coefficient[1] > 1.3 && fit.coefficient[1] < 2.0);
    assert_true(fit.spread_frac > 0.01);
}

/* Relative errors count: the small sample weighs as much as the large one. */
static void minimises_relative_errors(void **state)
{
    const struct hlm_fit_sample samples[] = {{{1.0}, 1.0}, {{100.0}, 200.0}};
    const struct hlm_fit fit = hlm_fit_relative(samples, 2, 1, *state);
    /* (c - 1)^2 + (c / 2 - 1)^2 is least at c = 1.2 */
    check_close(fit.coefficient[0], 1.2, 1e-12);
}

/* Two terms that say the same leave one of them. */
static void survives_equal_terms(void **state)
{
    struct hlm_fit_sample samples[4];
    for (int i = 0; i < 4; i++) {
        samples[i] = (struct hlm_fit_sample){{i + 1.0, i + 1.0}, 5.0 * (i + 1.0)};
    }
    const struct hlm_fit fit = hlm_fit_relative(samples, 4, 2, *state);
    check_close(fit.coefficient[0] + fit.coefficient[1], 5.0, 1e-9);
}

static void median_is_the_upper_middle(void **state)
{
    (void)state;
    double values[] = {5.0, 1.0, 4.0, 2.0};
    check_near(hlm_fit_median(values, 4), 4.0, 0.0);
    check_near(values[0], 1.0, 0.0);
}

/* A device from which samples are made, and which the fit must find again. */
static double product_s(const struct hlm_op *op)
{
    return 2e-6 + op->flops / 9e10 + op->bytes / 3e10 + (double)op->n * (double)op->k * 1.5e-10;
}

static double attention_s(const struct hlm_op *op)
{
    const double heads = (double)op->batch * op->heads, s = (double)op->seq_len;
    return heads * 4e-6 + op->flops / 8e10 * (1.0 + 64.0 / s) + heads * s * s * 1e-9;
}

enum { NUM_GEMM = 27, NUM_ATTENTION = 12, NUM_ADD = 4, NUM_ALL = 2 * NUM_GEMM + NUM_ATTENTION + 4 };

static int32_t make_samples(struct hlm_op *ops, struct hlm_profiler_sample *samples)
{
    int32_t n = 0;
    for (int i = 0; i < 2 * NUM_GEMM; i++, n++) {
        struct hlm_op *op = &ops[n];
        *op = (struct hlm_op){.kind = HLM_OP_GEMM,
                              .dtype = HLM_DTYPE_FP32,
                              .layout = i < NUM_GEMM ? HLM_GEMM_TN : HLM_GEMM_NT,
                              .m = 64 << (i % 3 * 2),
                              .n = 64 << (i / 3 % 3 * 2),
                              .k = 64 << (i / 9 % 3 * 2)};
        op->flops = hlm_op_flops(op);
        op->bytes = 4.0 * (double)(op->m * op->k + op->n * op->k + op->m * op->n);
        samples[n] = (struct hlm_profiler_sample){op, false, 1, product_s(op)};
    }
    for (int i = 0; i < NUM_ATTENTION; i++, n++) {
        struct hlm_op *op = &ops[n];
        *op = (struct hlm_op){.kind = HLM_OP_ATTENTION_FWD,
                              .dtype = HLM_DTYPE_FP32,
                              .causal = true,
                              .operands = {0, 1, 2, -1},
                              .batch = 1,
                              .heads = 2,
                              .seq_len = 64 << (i % 4),
                              .head_dim = 32 << (i / 4),
                              .v_head_dim = 32 << (i / 4)};
        op->flops = hlm_op_flops(op);
        samples[n] = (struct hlm_profiler_sample){op, false, 1, attention_s(op)};
    }
    const double sizes[] = {1e5, 1.1e5, 1e6, 1e7};
    for (int i = 0; i < NUM_ADD; i++, n++) {
        ops[n] =
            (struct hlm_op){.kind = HLM_OP_NORM_FWD, .norm = HLM_NORM_RMSNORM, .bytes = sizes[i]};
        samples[n] = (struct hlm_profiler_sample){&ops[n], false, 1, sizes[i] / 2e10};
    }
    return n;
}

static void finds_a_device_again(void **state)
{
    struct hlm_op ops[NUM_ALL];
    struct hlm_profiler_sample samples[NUM_ALL];
    const struct hlm_source source = {
        .kind = HLM_SOURCE_MEASURED, .reference = "a made-up core", .date = "2026-01-31"};
    struct hlm_device device = {.backend = HLM_BACKEND_CPU, .memory.peak_bytes_per_s = 3e10};
    const int32_t num = make_samples(ops, samples);
    hlm_profiler_device_fit(*state, samples, num, &source, &device);
    assert_int_equal(device.num_dtypes, 1);
    assert_int_equal(device.dtypes[0].num_gemm, 2); /* no sample of NN */
    assert_int_equal(device.dtypes[0].num_attention, 1);
    assert_int_equal(device.num_ops, 1);
    assert_string_equal(device.ops[0].op, "norm_fwd.rmsnorm");
    assert_int_equal(device.ops[0].num_points, 3); /* 1e5 and 1.1e5 are one */
    assert_string_equal(device.dtypes[0].gemm[0].source.date, "2026-01-31");
    assert_int_equal(device.dtypes[0].gemm[0].source.num_samples, NUM_GEMM);
    for (int32_t i = 0; i < num; i++) {
        /* Two sizes of one point are as far from it as from each other. */
        const double tolerance = samples[i].op->kind == HLM_OP_NORM_FWD ? 0.06 : 1e-3;
        check_close(hlm_kernel_seconds(&device, samples[i].op), samples[i].seconds, tolerance);
    }
    check_close(device.dtypes[0].gemm[0].flops_per_s, 9e10, 1e-3);
    check_close(device.dtypes[0].gemm[0].pack_s, 1.5e-10, 1e-3);
}

static void prefers_the_curve_that_keeps_probabilities(void **state)
{
    (void)state;
    const struct hlm_attention_curve curves[] = {
        {.causal = true, .keeps_probs = false, .t_head_s = 1.0, .flops_per_s = 1e18},
        {.causal = true, .keeps_probs = true, .t_head_s = 2.0, .flops_per_s = 1e18},
        {.causal = false, .keeps_probs = true, .t_head_s = 4.0, .flops_per_s = 1e18}};
    const struct hlm_device_dtype row = {
        .dtype = HLM_DTYPE_FP32, .attention = curves, .num_attention = 3};
    const struct hlm_device device = {.backend = HLM_BACKEND_CPU, .dtypes = &row, .num_dtypes = 1};
    struct hlm_op op = {.kind = HLM_OP_ATTENTION_FWD,
                        .dtype = HLM_DTYPE_FP32,
                        .operands = {0, 1, 2, 3},
                        .batch = 1,
                        .heads = 1,
                        .seq_len = 64,
                        .head_dim = 64,
                        .causal = true};
    check_close(hlm_kernel_seconds(&device, &op), 2.0, 1e-9);
    op.operands[3] = -1;
    check_close(hlm_kernel_seconds(&device, &op), 1.0, 1e-9);
    op.causal = false;
    check_close(hlm_kernel_seconds(&device, &op), 4.0, 1e-9); /* the mask counts more */
}

/* A curve of the kind alone serves variants without their own. */
static void falls_back_from_variant_to_kind(void **state)
{
    (void)state;
    const struct hlm_curve_point slow = {1000.0, 2.0}, fast = {1000.0, 1.0};
    const struct hlm_op_curve curves[] = {
        {.op = "activation_fwd", .points = &slow, .num_points = 1},
        {.op = "activation_fwd.swiglu", .points = &fast, .num_points = 1}};
    const struct hlm_device_dtype row = {.dtype = HLM_DTYPE_FP32};
    const struct hlm_device device = {
        .backend = HLM_BACKEND_CPU, .dtypes = &row, .num_dtypes = 1, .ops = curves, .num_ops = 2};
    struct hlm_op op = {.kind = HLM_OP_ACTIVATION_FWD,
                        .dtype = HLM_DTYPE_FP32,
                        .bytes = 1000.0,
                        .activation = HLM_ACTIVATION_GELU};
    check_close(hlm_kernel_seconds(&device, &op), 2.0, 1e-12);
    op.activation = HLM_ACTIVATION_SWIGLU;
    check_close(hlm_kernel_seconds(&device, &op), 1.0, 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recovers_exact_coefficients),
        cmocka_unit_test(no_coefficient_is_negative),
        cmocka_unit_test(minimises_relative_errors),
        cmocka_unit_test(survives_equal_terms),
        cmocka_unit_test(median_is_the_upper_middle),
        cmocka_unit_test(finds_a_device_again),
        cmocka_unit_test(prefers_the_curve_that_keeps_probabilities),
        cmocka_unit_test(falls_back_from_variant_to_kind),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
