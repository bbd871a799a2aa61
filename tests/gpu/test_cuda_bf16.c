/* Every operator of the CUDA backend in bf16 against the CPU operator in fp32. */
#include <stdlib.h>

#include "tests/gpu/bf16_check.h"
#include "tests/gpu/device.h"
#include "tests/support/check.h"

/* A result is rounded once (2^-9 relative), some intermediate numbers too. */
static const double rounding = 6e-3;

/* Sums of gradients stay fp32, of factors that bf16 holds exactly. */
static const double sums = 2e-5;

static int setup(void **state)
{
    struct bf16_check *check = test_malloc(sizeof *check);
    struct hlm_backend *backend = NULL;
    struct hlm_err err;
    check_ok(device_backend_new(false, &backend, &err), &err);
    bf16_check_init(check, backend);
    *state = check;
    return 0;
}

static int teardown(void **state)
{
    struct bf16_check *check = *state;
    struct hlm_backend *device = check->device;
    bf16_check_release(check);
    hlm_backend_free(device);
    test_free(check);
    return 0;
}

/* count numbers from first to last */
static double *integers(struct bf16_check *check, int64_t count, int64_t first, int64_t last)
{
    double *values = HLM_ARENA_ARRAY(check->arena, double, count);
    for (int64_t i = 0; i < count; i++) {
        values[i] = (double)hlm_rng_next_int(&check->rng, first, last);
    }
    return values;
}

#define RUN(check, op, scalars, tolerance, ...)                                                    \
    bf16_check_run(check, op, (struct bf16_operand[HLM_OP_MAX_OPERANDS]){__VA_ARGS__}, scalars,    \
                   tolerance)

static void test_embedding(void **state)
{
    struct bf16_check *check = *state;
    const int64_t sizes[][2] = {{600, 19}, {70, 1048}};
    for (int i = 0; i < 2; i++) {
        const int64_t n = sizes[i][1];
        struct hlm_op op = {.kind = HLM_OP_EMBED_FWD,
                            .m = sizes[i][0],
                            .n = n,
                            .k = 9,
                            .first_row = 3,
                            .seq_len = 35};
        double *tokens = integers(check, op.m, 1, 14);
        RUN(check, &op, NULL, 0.0, {'i', op.m, tokens}, {'t', 9 * n, NULL}, {'t', op.m * n, NULL});
        op.kind = HLM_OP_EMBED_BWD;
        RUN(check, &op, NULL, sums, {'i', op.m, tokens}, {'t', op.m * n, NULL}, {'f', 9 * n, NULL});
        op.kind = HLM_OP_POSITION_FWD;
        RUN(check, &op, NULL, rounding, {'t', 35 * n, NULL}, {'t', n, NULL}, {'t', op.m * n, NULL});
        op.kind = HLM_OP_POSITION_BWD;
        RUN(check, &op, NULL, sums, {'t', op.m * n, NULL}, {'f', 35 * n, NULL}, {'f', n, NULL});
    }
}

static void test_patches(void **state)
{
    struct bf16_check *check = *state;
    struct hlm_op op = {.kind = HLM_OP_PATCHIFY, .m = 8, .n = 75, .k = 5, .batch = 2};
    RUN(check, &op, NULL, 0.0, {'t', 8 * 75, NULL}, {'t', 8 * 75, NULL});
    op = (struct hlm_op){
        .kind = HLM_OP_PATCH_ASSEMBLE_FWD, .m = 15, .n = 17, .batch = 3, .seq_len = 5};
    RUN(check, &op, NULL, rounding, {'t', 12 * 17, NULL}, {'t', 17, NULL}, {'t', 5 * 17, NULL},
        {'t', 15 * 17, NULL});
    op.kind = HLM_OP_PATCH_ASSEMBLE_BWD;
    RUN(check, &op, NULL, sums, {'t', 15 * 17, NULL}, {'t', 12 * 17, NULL}, {'f', 17, NULL},
        {'f', 5 * 17, NULL});
}

static void check_norm(struct bf16_check *check, int64_t m, int64_t n, enum hlm_norm norm)
{
    const bool layer = norm == HLM_NORM_LAYERNORM;
    const int64_t num_stats = layer ? 2 * m : m;
    struct hlm_op op = {.kind = HLM_OP_NORM_FWD, .m = m, .n = n, .norm = norm, .eps = 1e-2};
    struct bf16_operand forward[] = {{'t', m * n, NULL},
                                     {'t', n, NULL},
                                     {layer ? 't' : '-', n, NULL},
                                     {'t', m * n, NULL},
                                     {'f', num_stats, NULL}};
    bf16_check_run(check, &op, forward, NULL, rounding);
    op.kind = HLM_OP_NORM_BWD;
    for (int residual = 0; residual < 2; residual++) {
        RUN(check, &op, NULL, rounding, {'t', m * n, NULL}, forward[0], forward[1], forward[4],
            {residual != 0 ? 't' : '-', m * n, NULL}, {'t', m * n, NULL}, {'f', n, NULL},
            {layer ? 'f' : '-', n, NULL});
    }
}

static void test_norm(void **state)
{
    const int64_t sizes[][2] = {{3, 5}, {67, 40}, {130, 259}, {5, 2056}};
    for (int i = 0; i < 4; i++) {
        check_norm(*state, sizes[i][0], sizes[i][1], HLM_NORM_LAYERNORM);
        check_norm(*state, sizes[i][0], sizes[i][1], HLM_NORM_RMSNORM);
    }
}

static void test_gemm(void **state)
{
    struct bf16_check *check = *state;
    const int64_t sizes[][3] = {{1, 1, 1}, {7, 5, 3}, {16, 64, 32}, {71, 43, 259}};
    for (int i = 0; i < 4; i++) {
        const int64_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
        struct hlm_op op = {.kind = HLM_OP_GEMM, .m = m, .n = n, .k = k, .layout = HLM_GEMM_TN};
        RUN(check, &op, NULL, rounding, {'t', m * k, NULL}, {'t', n * k, NULL}, {'t', m * n, NULL});
        op.layout = HLM_GEMM_NN;
        RUN(check, &op, NULL, rounding, {'t', m * k, NULL}, {'t', n * k, NULL}, {'t', m * n, NULL});
        op.layout = HLM_GEMM_NT; /* a weight's gradient is fp32 */
        op.accumulate = true;
        RUN(check, &op, NULL, sums, {'t', m * k, NULL}, {'t', n * k, NULL}, {'f', m * n, NULL});
    }
}

static void test_elementwise(void **state)
{
    struct bf16_check *check = *state;
    const int64_t sizes[][2] = {{134, 35}, {13, 72}, {3, 1032}};
    for (int i = 0; i < 3; i++) {
        const int64_t m = sizes[i][0], n = sizes[i][1];
        struct hlm_op op = {.kind = HLM_OP_BIAS_ADD, .m = m, .n = n};
        RUN(check, &op, NULL, rounding, {'t', n, NULL}, {'t', m * n, NULL});
        op.kind = HLM_OP_BIAS_GRAD;
        RUN(check, &op, NULL, sums, {'t', m * n, NULL}, {'f', n, NULL});
        op.kind = HLM_OP_ADD;
        RUN(check, &op, NULL, rounding, {'t', m * n, NULL}, {'t', m * n, NULL}, {'t', m * n, NULL});
        op.kind = HLM_OP_BIAS_RESIDUAL;
        RUN(check, &op, NULL, rounding, {'t', m * n, NULL}, {'t', n, NULL}, {'t', m * n, NULL},
            {'t', m * n, NULL});
        op.kind = HLM_OP_ACTIVATION_FWD;
        op.activation = HLM_ACTIVATION_GELU;
        RUN(check, &op, NULL, rounding, {'t', m * n, NULL}, {'t', n, NULL}, {'t', m * n, NULL});
        op.kind = HLM_OP_ACTIVATION_BWD;
        RUN(check, &op, NULL, rounding, {'t', m * n, NULL}, {'t', n, NULL}, {'t', m * n, NULL},
            {'t', m * n, NULL});
        op.activation = HLM_ACTIVATION_SWIGLU;
        RUN(check, &op, NULL, rounding, {'t', 2 * m * n, NULL}, {'-', 0, NULL}, {'t', m * n, NULL},
            {'t', 2 * m * n, NULL});
        op.kind = HLM_OP_ACTIVATION_FWD;
        RUN(check, &op, NULL, rounding, {'t', 2 * m * n, NULL}, {'-', 0, NULL}, {'t', m * n, NULL});
    }
}

static void test_rope(void **state)
{
    struct bf16_check *check = *state;
    const int64_t sizes[][2] = {{10, 6}, {64, 64}, {80, 32}};
    for (int i = 0; i < 3; i++) {
        struct hlm_op op = {.kind = HLM_OP_ROPE_FWD,
                            .m = 22,
                            .seq_len = 11,
                            .heads = 4,
                            .kv_heads = 2,
                            .head_dim = sizes[i][0],
                            .rotary = sizes[i][1],
                            .rope_theta = 10000.0};
        RUN(check, &op, NULL, rounding, {'t', 22 * 8 * op.head_dim, NULL});
        op.kind = HLM_OP_ROPE_BWD;
        RUN(check, &op, NULL, rounding, {'t', 22 * 8 * op.head_dim, NULL});
    }
}

/* What a bf16 tensor would have held. */
static void round_all(struct bf16_operand *operand)
{
    for (int64_t i = 0; i < operand->count; i++) {
        const float x = (float)operand->values[i];
        uint32_t bits;
        float rounded;
        memcpy(&bits, &x, sizeof bits);
        bits = (bits + 0x7fffU + (bits >> 16 & 1U)) & 0xffff0000U;
        memcpy(&rounded, &bits, sizeof rounded);
        operand->values[i] = (double)rounded;
    }
}

static void check_attention(struct bf16_check *check, int32_t batch, int64_t seq_len, int32_t heads,
                            int32_t kv_heads, int64_t head_dim, bool causal)
{
    const int64_t m = batch * seq_len, n = heads * head_dim;
    const int64_t num_qkv = m * (heads + 2 * kv_heads) * head_dim;
    struct hlm_op op = {.kind = HLM_OP_ATTENTION_FWD,
                        .m = m,
                        .n = n,
                        .batch = batch,
                        .seq_len = seq_len,
                        .heads = heads,
                        .kv_heads = kv_heads,
                        .head_dim = head_dim,
                        .v_head_dim = head_dim,
                        .causal = causal};
    struct bf16_operand forward[] = {{'t', num_qkv, NULL},
                                     {'t', m * n, NULL},
                                     {'f', m * heads, NULL},
                                     {'-', 0, NULL},
                                     {'-', 0, NULL}};
    bf16_check_run(check, &op, forward, NULL, rounding);
    round_all(&forward[1]);
    op.kind = HLM_OP_ATTENTION_BWD;
    RUN(check, &op, NULL, 2.0 * rounding, forward[0], forward[1], {'t', m * n, NULL}, forward[2],
        {'-', 0, NULL}, {'t', num_qkv, NULL}, {'-', 0, NULL}, {'-', 0, NULL});
}

static void test_attention(void **state)
{
    const int64_t dims[] = {64, 80, 96, 128, 24};
    for (int i = 0; i < 5; i++) {
        for (int causal = 0; causal < 2; causal++) {
            check_attention(*state, 2, 5, 2, 1, dims[i], causal != 0);
            check_attention(*state, 1, 64, 1, 1, dims[i], causal != 0);
            check_attention(*state, 1, 145, 2, 1, dims[i], causal != 0);
        }
    }
    check_attention(*state, 2, 97, 6, 2, 64, true);
}

static void test_rows(void **state)
{
    struct bf16_check *check = *state;
    struct hlm_op op = {.kind = HLM_OP_SELECT_FWD, .m = 4, .n = 19, .batch = 4, .seq_len = 5};
    RUN(check, &op, NULL, 0.0, {'t', 20 * 19, NULL}, {'t', 4 * 19, NULL});
    op.kind = HLM_OP_SELECT_BWD;
    RUN(check, &op, NULL, 0.0, {'t', 4 * 19, NULL}, {'t', 20 * 19, NULL});
    op = (struct hlm_op){.kind = HLM_OP_SLICE_ROWS, .m = 6, .n = 19, .first_row = 12};
    RUN(check, &op, NULL, 0.0, {'t', 18 * 19, NULL}, {'t', 6 * 19, NULL});
    op = (struct hlm_op){.kind = HLM_OP_FILL_ZERO, .m = 1003};
    RUN(check, &op, NULL, 0.0, {'t', 1003, NULL});
    op.kind = HLM_OP_SUM_SQUARES;
    RUN(check, &op, NULL, sums, {'t', 1003, NULL}, {'d', 1, integers(check, 1, 2, 2)});
}

/* The whole cross-entropy over one shard, as a rank without tensor parallelism runs it. */
static void check_xent(struct bf16_check *check, int64_t rows, int64_t cols, int64_t valid)
{
    struct hlm_op op = {
        .kind = HLM_OP_XENT_MAX, .m = rows, .n = cols, .valid_cols = valid, .counts_loss = true};
    const struct hlm_op_scalars scalars = {.loss_scale = 0.25};
    double *targets = integers(check, rows, -2, valid - 1);
    double *logits = bf16_check_random(check, rows * cols);
    struct bf16_operand max[] = {{'t', rows * cols, logits}, {'f', rows, NULL}};
    bf16_check_run(check, &op, max, NULL, 0.0);
    op.kind = HLM_OP_XENT_SUM;
    struct bf16_operand of_sums[] = {
        {'t', rows * cols, logits}, {'i', rows, targets}, max[1], {'f', 2 * rows, NULL}};
    bf16_check_run(check, &op, of_sums, NULL, sums);
    op.kind = HLM_OP_XENT_GRAD;
    RUN(check, &op, &scalars, rounding, {'i', rows, targets}, max[1], of_sums[3],
        {'t', rows * cols, logits}, {'d', 1, integers(check, 1, 3, 3)});
}

static void test_xent(void **state)
{
    check_xent(*state, 7, 77, 70);
    check_xent(*state, 5, 136, 130);
    check_xent(*state, 2, 8200, 8193);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_embedding, setup, teardown),
        cmocka_unit_test_setup_teardown(test_patches, setup, teardown),
        cmocka_unit_test_setup_teardown(test_norm, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gemm, setup, teardown),
        cmocka_unit_test_setup_teardown(test_elementwise, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rope, setup, teardown),
        cmocka_unit_test_setup_teardown(test_attention, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_xent, setup, teardown),
    };
    return device_is_there() ? cmocka_run_group_tests(tests, NULL, NULL) : EXIT_SKIPPED;
}
