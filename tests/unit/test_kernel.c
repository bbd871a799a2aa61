#include "tests/support/check.h"

#include "costmodel/kernel.h"

/* A device with round numbers: 100 SMs, 100 TFLOP/s, 1 TB/s. */
static const struct hlm_gemm_curve linear[] = {
    {.layout = HLM_GEMM_ANY,
     .form = HLM_GEMM_FORM_LINEAR,
     .t0_s = 1e-6,
     .flops_per_s = 50e12,
     .bytes_per_s = 1e12},
    {.layout = HLM_GEMM_NT,
     .form = HLM_GEMM_FORM_LINEAR,
     .t0_s = 2e-6,
     .flops_per_s = 25e12,
     .bytes_per_s = 1e12,
     .quantise_bytes = 10.0},
};
static const struct hlm_gemm_curve tiled[] = {{.layout = HLM_GEMM_ANY,
                                               .form = HLM_GEMM_FORM_TILE,
                                               .t0_s = 3e-6,
                                               .flops_per_s = 80e12,
                                               .bytes_per_s = 0.8e12,
                                               .tile_start_s = 1e-6,
                                               .wave_frac = 0.5,
                                               .power_p = 2.0,
                                               .depth = 0.5,
                                               .throttle = 0.1}};
static const struct hlm_attention_curve attention[] = {
    {.causal = true,
     .t0_s = 1e-5,
     .flops_per_s = 40e12,
     .bytes_per_s = 0.5e12,
     .dim_exp = 1.0,
     .s_half = 1024.0,
     .wave_frac = 1.0},
    {.backward = true, .causal = true, .t0_s = 2e-5, .flops_per_s = 20e12},
};
static const struct hlm_device_dtype dtypes[] = {
    {.dtype = HLM_DTYPE_FP32, .peak_flops_per_s = 60e12, .gemm = linear, .num_gemm = 2},
    {.dtype = HLM_DTYPE_BF16,
     .peak_flops_per_s = 100e12,
     .gemm = tiled,
     .num_gemm = 1,
     .attention = attention,
     .num_attention = 2},
    {.dtype = HLM_DTYPE_FP16, .peak_flops_per_s = 100e12},
};
static const struct hlm_curve_point points[] = {{1e6, 1e-5}, {1e8, 1e-3}};
static const struct hlm_op_curve ops[] = {{.op = "norm_fwd", .points = points, .num_points = 2}};
static const struct hlm_device device = {
    .name = "round",
    .backend = HLM_BACKEND_CUDA,
    .memory_bytes = 1 << 30,
    .num_sms = 100,
    .dtypes = dtypes,
    .num_dtypes = 3,
    .memory = {.t0_s = 2e-6, .bytes_per_s = 0.9e12, .peak_bytes_per_s = 1e12},
    .ops = ops,
    .num_ops = 1,
    .launch_overhead_s = 5e-6,
    .shared_memory_slowdown = 1.5};

static struct hlm_op gemm(enum hlm_dtype dtype, enum hlm_gemm_layout layout, int64_t m, int64_t n,
                          int64_t k)
{
    const double e = hlm_dtype_bytes(dtype);
    return (struct hlm_op){.kind = HLM_OP_GEMM,
                           .dtype = dtype,
                           .layout = layout,
                           .m = m,
                           .n = n,
                           .k = k,
                           .flops = 2.0 * (double)(m * n * k),
                           .bytes = e * (double)(m * k + k * n + m * n)};
}

static void test_linear_gemm(void **state)
{
    (void)state;
    const struct hlm_op op = gemm(HLM_DTYPE_FP32, HLM_GEMM_TN, 100, 200, 300);
    check_close(hlm_kernel_seconds(&device, &op), 1e-6 + 12e6 / 50e12 + 440e3 / 1e12, 1e-12);
}

static void test_layout_has_its_own_curve(void **state)
{
    (void)state;
    const struct hlm_op op = gemm(HLM_DTYPE_FP32, HLM_GEMM_NT, 100, 200, 300);
    const double quantise_s = 10.0 * 100 * 300 / 1e12;
    check_close(hlm_kernel_seconds(&device, &op), 2e-6 + 12e6 / 25e12 + 440e3 / 1e12 + quantise_s,
                1e-12);
}

/* Whatever the rows: a product of few takes the longer a row. Of experts, each has its own. */
static void test_second_operand_is_packed(void **state)
{
    (void)state;
    struct hlm_gemm_curve packed = {.layout = HLM_GEMM_ANY,
                                    .form = HLM_GEMM_FORM_LINEAR,
                                    .flops_per_s = 50e12,
                                    .bytes_per_s = 1e12};
    const struct hlm_device_dtype row = {
        .dtype = HLM_DTYPE_FP32, .peak_flops_per_s = 60e12, .gemm = &packed, .num_gemm = 1};
    struct hlm_device cpu = device;
    cpu.dtypes = &row;
    cpu.num_dtypes = 1;
    const struct hlm_op op = gemm(HLM_DTYPE_FP32, HLM_GEMM_TN, 100, 200, 300);
    struct hlm_op experts = gemm(HLM_DTYPE_FP32, HLM_GEMM_TN, 100, 200, 300);
    experts.kind = HLM_OP_GROUPED_GEMM;
    experts.num_experts = 4;
    const double plain_s = hlm_kernel_seconds(&cpu, &op);
    const double experts_s = hlm_kernel_seconds(&cpu, &experts);
    packed.pack_s = 1e-9;
    check_close(hlm_kernel_seconds(&cpu, &op), plain_s + 200 * 300 * 1e-9, 1e-12);
    check_close(hlm_kernel_seconds(&cpu, &experts), experts_s + 4 * 200 * 300 * 1e-9, 1e-12);
}

/* One tile of 64 x 64: every larger tile wastes work, every split costs more than it saves. */
static void test_one_small_tile(void **state)
{
    (void)state;
    const struct hlm_op op = gemm(HLM_DTYPE_BF16, HLM_GEMM_TN, 64, 64, 64);
    const double sm_rate = 80e12 / 100.0 * sqrt(4096.0 / 32768.0);
    const double compute_s = 1e-6 + 2.0 * 64 * 64 * 64 / sm_rate;
    const double memory_s = 3.0 * 64 * 64 * 2 / 0.8e12;
    check_close(hlm_kernel_seconds(&device, &op), 3e-6 + hypot(compute_s, memory_s), 1e-12);
}

/* 2560 x 2560 x 4096: 200 tiles of 256 x 128 (2 waves), 100 tiles of 256 x 256 (1 wave, the same
 * work, half the start-ups), both at full rate; throttled. */
static void test_whole_waves_and_throttle(void **state)
{
    (void)state;
    const struct hlm_op op = gemm(HLM_DTYPE_BF16, HLM_GEMM_TN, 2560, 2560, 4096);
    const double slowdown = 1.0 + 0.1 * log2(op.flops / (100e12 * 100e-6));
    const double compute_s = 1e-6 + 2.0 * 256 * 256 * 4096 * slowdown / (80e12 / 100.0);
    check_close(hlm_kernel_seconds(&device, &op), 3e-6 + hypot(compute_s, op.bytes / 0.8e12),
                1e-12);
}

/* Few tiles and a long reduction: splitting it over idle SMs must win. */
static void test_split_reduction(void **state)
{
    (void)state;
    const struct hlm_op op = gemm(HLM_DTYPE_BF16, HLM_GEMM_TN, 256, 128, 65536);
    const double unsplit_s = 1e-6 + 2.0 * 256 * 128 * 65536 / (80e12 / 100.0);
    assert_true(hlm_kernel_seconds(&device, &op) < 0.5 * unsplit_s);
}

static void test_grouped_gemm_fills_waves_together(void **state)
{
    (void)state;
    struct hlm_op grouped = gemm(HLM_DTYPE_BF16, HLM_GEMM_TN, 8 * 256, 256, 1024);
    grouped.kind = HLM_OP_GROUPED_GEMM;
    grouped.num_experts = 8;
    const struct hlm_op one = gemm(HLM_DTYPE_BF16, HLM_GEMM_TN, 256, 256, 1024);
    assert_true(hlm_kernel_seconds(&device, &grouped) < 8.0 * hlm_kernel_seconds(&device, &one));
    assert_true(hlm_kernel_seconds(&device, &grouped) > hlm_kernel_seconds(&device, &one));
    /* At half the rate for groups the compute takes twice as long, a single product as before. */
    struct hlm_gemm_curve slow = {
        .layout = HLM_GEMM_ANY, .flops_per_s = 50e12, .bytes_per_s = 1e12};
    const struct hlm_device_dtype row = {
        .dtype = HLM_DTYPE_BF16, .peak_flops_per_s = 100e12, .gemm = &slow, .num_gemm = 1};
    struct hlm_device simple = device;
    simple.dtypes = &row;
    simple.num_dtypes = 1;
    const double single_s = hlm_kernel_seconds(&simple, &one);
    const double group_s = hlm_kernel_seconds(&simple, &grouped);
    slow.grouped_frac = 0.5;
    check_close(hlm_kernel_seconds(&simple, &grouped), group_s + grouped.flops / 50e12, 1e-12);
    assert_true(hlm_kernel_seconds(&simple, &one) == single_s);
    /* Weight gradients: the experts share the reduction. */
    struct hlm_op nt = gemm(HLM_DTYPE_BF16, HLM_GEMM_NT, 256, 256, 8192);
    nt.kind = HLM_OP_GROUPED_GEMM;
    nt.num_experts = 8;
    struct hlm_op nt_one = gemm(HLM_DTYPE_BF16, HLM_GEMM_NT, 256, 256, 1024);
    assert_true(hlm_kernel_seconds(&device, &nt) > hlm_kernel_seconds(&device, &nt_one));
}

static struct hlm_op attend(enum hlm_op_kind kind, int32_t heads, int64_t seq_len, int64_t dim)
{
    const double forward = 2.0 * (double)heads * (double)(seq_len * seq_len * dim);
    return (struct hlm_op){.kind = kind,
                           .dtype = HLM_DTYPE_BF16,
                           .batch = 1,
                           .heads = heads,
                           .kv_heads = heads,
                           .operands = {0, 1, 2, -1, -1, -1, -1, -1},
                           .seq_len = seq_len,
                           .head_dim = dim,
                           .v_head_dim = dim,
                           .causal = true,
                           .flops = kind == HLM_OP_ATTENTION_BWD ? 2.5 * forward : forward,
                           .bytes = 8.0 * (double)(heads * seq_len * dim)};
}

static void test_attention_forward(void **state)
{
    (void)state;
    /* 24 heads of 8 blocks: 1.92 waves cost two. */
    const struct hlm_op op = attend(HLM_OP_ATTENTION_FWD, 24, 1024, 64);
    const double compute_s = op.flops / (40e12 * 0.5 * 0.5) * 2.0 / 1.92;
    const double memory_s = op.bytes / 0.5e12;
    check_close(hlm_kernel_seconds(&device, &op),
                1e-5 + cbrt(pow(compute_s, 3.0) + pow(memory_s, 3.0)), 1e-12);
}

static void test_attention_backward(void **state)
{
    (void)state;
    const struct hlm_op op = attend(HLM_OP_ATTENTION_BWD, 25, 512, 128); /* one wave */
    check_close(hlm_kernel_seconds(&device, &op), 2e-5 + op.flops / 20e12, 1e-12);
}

static void test_attention_window_shortens_the_ramp(void **state)
{
    (void)state;
    struct hlm_op op = attend(HLM_OP_ATTENTION_FWD, 25, 4096, 128);
    const double whole_s = hlm_kernel_seconds(&device, &op);
    op.window = 1024;
    assert_true(hlm_kernel_seconds(&device, &op) > whole_s); /* same FLOPs, lower rate */
}

/* A cpu: parts per head and per score, no waves. */
static void test_composed_attention(void **state)
{
    (void)state;
    const struct hlm_attention_curve curve = {
        .t0_s = 1e-6, .t_head_s = 2e-6, .flops_per_s = 50e9, .score_s = 1e-9};
    const struct hlm_device_dtype row = {.dtype = HLM_DTYPE_FP32,
                                         .peak_flops_per_s = 100e9,
                                         .attention = &curve,
                                         .num_attention = 1};
    const struct hlm_device cpu = {.backend = HLM_BACKEND_CPU,
                                   .dtypes = &row,
                                   .num_dtypes = 1,
                                   .memory = {.bytes_per_s = 1e10, .peak_bytes_per_s = 1e10},
                                   .shared_memory_slowdown = 1.25};
    struct hlm_op op = attend(HLM_OP_ATTENTION_FWD, 4, 100, 32);
    op.dtype = HLM_DTYPE_FP32;
    op.batch = 3;
    check_close(hlm_kernel_seconds(&cpu, &op),
                1e-6 + 12 * 2e-6 + 12 * 100 * 100 * 1e-9 + op.flops / 50e9, 1e-12);
    assert_int_equal(hlm_kernel_launches(&cpu, &op), 1);
    const struct hlm_op adamw = {
        .kind = HLM_OP_ADAMW, .dtype = HLM_DTYPE_FP32, .m = 100, .bytes = 2800.0};
    check_close(hlm_kernel_seconds(&cpu, &adamw), 1.25 * 2800.0 / 1e10, 1e-12);
}

/* Kept probabilities have a curve of their own; without one for its mask, the pass's other serves.
 */
static void test_attention_curve_is_the_nearest(void **state)
{
    (void)state;
    const struct hlm_attention_curve rows[] = {
        {.causal = true, .flops_per_s = 1e12},
        {.causal = true, .keeps_probs = true, .flops_per_s = 2e12},
        {.backward = true, .causal = true, .keeps_probs = true, .flops_per_s = 4e12},
        {.causal = true, .kernel = HLM_ATTENTION_FLASH_1, .flops_per_s = 8e12},
    };
    const struct hlm_device_dtype row = {
        .dtype = HLM_DTYPE_BF16, .peak_flops_per_s = 100e12, .attention = rows, .num_attention = 4};
    const struct hlm_device cpu = {.backend = HLM_BACKEND_CPU,
                                   .dtypes = &row,
                                   .num_dtypes = 1,
                                   .memory = {.bytes_per_s = 1e10, .peak_bytes_per_s = 1e10}};
    struct hlm_op op = attend(HLM_OP_ATTENTION_FWD, 4, 128, 128);
    check_close(hlm_kernel_seconds(&cpu, &op), op.flops / 1e12, 1e-12);
    op.operands[3] = 5;
    check_close(hlm_kernel_seconds(&cpu, &op), op.flops / 2e12, 1e-12);
    op.causal = false;
    check_close(hlm_kernel_seconds(&cpu, &op), op.flops / 2e12, 1e-12);
    op = attend(HLM_OP_ATTENTION_FWD, 4, 128, 128);
    op.attention_kernel = HLM_ATTENTION_FLASH_2; /* no curve: the best serves */
    check_close(hlm_kernel_seconds(&cpu, &op), op.flops / 1e12, 1e-12);
    op.attention_kernel = HLM_ATTENTION_FLASH_1;
    check_close(hlm_kernel_seconds(&cpu, &op), op.flops / 8e12, 1e-12);
    op = attend(HLM_OP_ATTENTION_BWD, 4, 128, 128);
    check_close(hlm_kernel_seconds(&cpu, &op), op.flops / 4e12, 1e-12);
}

static void test_curve_keys(void **state)
{
    (void)state;
    const struct hlm_op_curve both[] = {
        {.op = "norm_fwd", .points = points, .num_points = 1},
        {.op = "norm_fwd.rmsnorm", .points = points + 1, .num_points = 1},
    };
    struct hlm_device two = device;
    two.ops = both;
    two.num_ops = 2;
    struct hlm_op op = {
        .kind = HLM_OP_NORM_FWD, .dtype = HLM_DTYPE_BF16, .norm = HLM_NORM_RMSNORM, .bytes = 1.0};
    assert_string_equal(hlm_kernel_curve_key(&op), "norm_fwd.rmsnorm");
    check_close(hlm_kernel_seconds(&two, &op), 1e-3, 1e-12);
    op.norm = HLM_NORM_LAYERNORM;
    check_close(hlm_kernel_seconds(&two, &op), 1e-5, 1e-12); /* the kind's own */
    op.kind = HLM_OP_ADD;
    assert_string_equal(hlm_kernel_curve_key(&op), "add");
}

static void test_memory_bound(void **state)
{
    (void)state;
    struct hlm_op op = {.kind = HLM_OP_NORM_FWD, .dtype = HLM_DTYPE_BF16, .bytes = 1e7};
    check_close(hlm_kernel_seconds(&device, &op), 1e-4, 1e-12);
    op.kind = HLM_OP_ADD;
    check_close(hlm_kernel_seconds(&device, &op), 2e-6 + 1e7 / 0.9e12, 1e-12);
}

static void test_roofline_without_curves(void **state)
{
    (void)state;
    struct hlm_op op = gemm(HLM_DTYPE_FP16, HLM_GEMM_TN, 1000, 1000, 1000);
    check_close(hlm_kernel_seconds(&device, &op), 2e9 / 100e12 + 5e-6, 1e-12);
    op = gemm(HLM_DTYPE_FP16, HLM_GEMM_TN, 1000, 1000, 1);
    check_close(hlm_kernel_seconds(&device, &op), op.bytes / 1e12 + 5e-6, 1e-12);
    op = attend(HLM_OP_ATTENTION_FWD, 24, 1024, 64);
    op.dtype = HLM_DTYPE_FP16;
    check_close(hlm_kernel_seconds(&device, &op), op.flops / 100e12 + 5e-6, 1e-12);
}

static void test_launches(void **state)
{
    (void)state;
    struct hlm_op op = attend(HLM_OP_ATTENTION_FWD, 8, 128, 64);
    assert_int_equal(hlm_kernel_launches(&device, &op), 1);
    op.kind = HLM_OP_ATTENTION_BWD;
    assert_int_equal(hlm_kernel_launches(&device, &op), 3);
    op.kind = HLM_OP_NORM_BWD;
    assert_int_equal(hlm_kernel_launches(&device, &op), 2);
    op.kind = HLM_OP_ADD;
    assert_int_equal(hlm_kernel_launches(&device, &op), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear_gemm),
        cmocka_unit_test(test_layout_has_its_own_curve),
        cmocka_unit_test(test_second_operand_is_packed),
        cmocka_unit_test(test_one_small_tile),
        cmocka_unit_test(test_whole_waves_and_throttle),
        cmocka_unit_test(test_split_reduction),
        cmocka_unit_test(test_grouped_gemm_fills_waves_together),
        cmocka_unit_test(test_attention_forward),
        cmocka_unit_test(test_attention_backward),
        cmocka_unit_test(test_attention_window_shortens_the_ramp),
        cmocka_unit_test(test_composed_attention),
        cmocka_unit_test(test_attention_curve_is_the_nearest),
        cmocka_unit_test(test_curve_keys),
        cmocka_unit_test(test_memory_bound),
        cmocka_unit_test(test_roofline_without_curves),
        cmocka_unit_test(test_launches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
