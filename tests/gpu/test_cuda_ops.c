/* Every operator of the CUDA backend in fp32 against a plain reference in double; gradients against
 * its finite differences. Sizes are odd, and around those that kernels work in: packs of four,
 * warps, tiles of 32 and 64, blocks of rows. */
#include <stdlib.h>

#include "tests/gpu/device.h"
#include "tests/support/check.h"
#include "tests/support/op_check.h"

static int setup(void **state)
{
    static const double tolerance = 2e-5;
    struct op_check *check = test_malloc(sizeof *check);
    struct hlm_backend *backend = NULL;
    struct hlm_err err;
    check_ok(device_backend_new(false, &backend, &err), &err);
    op_check_init(check, backend, tolerance);
    *state = check;
    return 0;
}

static int teardown(void **state)
{
    struct op_check *check = *state;
    op_check_release(check);
    hlm_backend_free(check->backend);
    test_free(check);
    return 0;
}

static void test_embedding(void **state)
{
    struct hlm_op op = {.kind = HLM_OP_EMBED_FWD, .m = 33, .n = 19, .k = 7, .first_row = 14};
    op_check_forward(*state, &op, 0);
    op_check_backward(*state, &op, HLM_OP_EMBED_BWD, "v0 d2 g1", 0);
    op.m = 300;
    op.n = 36;
    op_check_forward(*state, &op, 0);
    op_check_backward(*state, &op, HLM_OP_EMBED_BWD, "v0 d2 g1", 0);
    op.m = 5;
    op.n = 1030;
    op_check_backward(*state, &op, HLM_OP_EMBED_BWD, "v0 d2 g1", 0);
}

static void test_position(void **state)
{
    const struct hlm_op op = {
        .kind = HLM_OP_POSITION_FWD, .m = 23, .n = 21, .seq_len = 9, .first_row = 4};
    const struct hlm_op shard = {
        .kind = HLM_OP_POSITION_FWD, .m = 5, .n = 260, .seq_len = 9, .first_row = 15};
    op_check_forward(*state, &op, 0);
    op_check_forward(*state, &op, 1U << 1);
    op_check_backward(*state, &op, HLM_OP_POSITION_BWD, "d2 g0 g1", 0);
    op_check_backward(*state, &op, HLM_OP_POSITION_BWD, "d2 g0 -", 1U << 1);
    op_check_forward(*state, &shard, 0);
    op_check_backward(*state, &shard, HLM_OP_POSITION_BWD, "d2 g0 g1", 0);
}

static void test_patches(void **state)
{
    const struct hlm_op patchify = {
        .kind = HLM_OP_PATCHIFY, .m = 2 * 9, .n = 3 * 25, .k = 5, .batch = 2};
    const struct hlm_op assemble = {
        .kind = HLM_OP_PATCH_ASSEMBLE_FWD, .m = 3 * 10, .n = 17, .batch = 3, .seq_len = 10};
    op_check_forward(*state, &patchify, 0);
    op_check_forward(*state, &assemble, 0);
    op_check_backward(*state, &assemble, HLM_OP_PATCH_ASSEMBLE_BWD, "d3 g0 g1 g2", 0);
}

static void test_norm(void **state)
{
    const int64_t sizes[][2] = {{1, 1}, {3, 5}, {67, 37}, {130, 259}, {9, 2052}};
    for (int i = 0; i < 5; i++) {
        struct hlm_op op = {.kind = HLM_OP_NORM_FWD,
                            .m = sizes[i][0],
                            .n = sizes[i][1],
                            .norm = HLM_NORM_LAYERNORM,
                            .eps = 1e-2};
        op_check_forward(*state, &op, 0);
        op_check_backward(*state, &op, HLM_OP_NORM_BWD, "d3 v0 v1 v4 r g0 g1 g2", 0);
        op_check_backward(*state, &op, HLM_OP_NORM_BWD, "d3 v0 v1 v4 - g0 g1 g2", 0);
        op.norm = HLM_NORM_RMSNORM;
        op_check_forward(*state, &op, 1U << 2);
        op_check_backward(*state, &op, HLM_OP_NORM_BWD, "d3 v0 v1 v4 r g0 g1 -", 1U << 2);
    }
}

static void test_gemm(void **state)
{
    const int64_t sizes[][3] = {{1, 1, 1}, {7, 5, 3}, {1, 65, 33}, {67, 1, 129}, {71, 43, 259}};
    for (int i = 0; i < 5; i++) {
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            const struct hlm_op tn = {.kind = HLM_OP_GEMM,
                                      .m = sizes[i][0],
                                      .n = sizes[i][1],
                                      .k = sizes[i][2],
                                      .layout = HLM_GEMM_TN,
                                      .accumulate = accumulate != 0};
            struct hlm_op nn = tn, nt = tn;
            nn.layout = HLM_GEMM_NN;
            nt.layout = HLM_GEMM_NT;
            op_check_forward(*state, &tn, 0);
            op_check_forward(*state, &nn, 0);
            op_check_forward(*state, &nt, 0);
        }
    }
}

static void test_bias(void **state)
{
    const int64_t sizes[][2] = {{134, 35}, {13, 68}, {3, 1028}};
    for (int i = 0; i < 3; i++) {
        const struct hlm_op op = {.kind = HLM_OP_BIAS_ADD, .m = sizes[i][0], .n = sizes[i][1]};
        struct hlm_op residual = op, add = op;
        residual.kind = HLM_OP_BIAS_RESIDUAL;
        add.kind = HLM_OP_ADD;
        op_check_forward(*state, &op, 0);
        op_check_backward(*state, &op, HLM_OP_BIAS_GRAD, "d1 g0", 0);
        op_check_forward(*state, &residual, 0);
        op_check_forward(*state, &residual, 1U << 1);
        op_check_forward(*state, &add, 0);
    }
}

static void test_rope(void **state)
{
    struct hlm_op op = {.kind = HLM_OP_ROPE_FWD,
                        .m = 2 * 11,
                        .batch = 2,
                        .seq_len = 11,
                        .heads = 4,
                        .kv_heads = 2,
                        .head_dim = 10,
                        .rotary = 10,
                        .rope_theta = 10000.0};
    op_check_forward(*state, &op, 0);
    op_check_backward(*state, &op, HLM_OP_ROPE_BWD, "x0", 0);
    op.rotary = 6;
    op_check_forward(*state, &op, 0);
    op_check_backward(*state, &op, HLM_OP_ROPE_BWD, "x0", 0);
    op.head_dim = 24;
    op.rotary = 8;
    op.rope_theta = 500000.0;
    op_check_forward(*state, &op, 0);
    op_check_backward(*state, &op, HLM_OP_ROPE_BWD, "x0", 0);
}

static void check_attention(struct op_check *check, int32_t batch, int64_t seq_len, int32_t heads,
                            int32_t kv_heads, int64_t head_dim, bool causal)
{
    const struct hlm_op op = {.kind = HLM_OP_ATTENTION_FWD,
                              .m = batch * seq_len,
                              .n = heads * head_dim,
                              .batch = batch,
                              .seq_len = seq_len,
                              .heads = heads,
                              .kv_heads = kv_heads,
                              .head_dim = head_dim,
                              .v_head_dim = head_dim,
                              .causal = causal};
    op_check_forward(check, &op, 1U << 4);
    op_check_forward(check, &op, 1U << 3 | 1U << 4);
    op_check_backward(check, &op, HLM_OP_ATTENTION_BWD, "v0 v1 d1 v2 v3 g0 - -", 1U << 4);
    op_check_backward(check, &op, HLM_OP_ATTENTION_BWD, "v0 v1 d1 v2 - g0 - -", 1U << 4);
}

static void test_attention(void **state)
{
    for (int causal = 0; causal < 2; causal++) {
        check_attention(*state, 1, 1, 1, 1, 4, causal != 0);
        check_attention(*state, 2, 13, 2, 2, 6, causal != 0);
        check_attention(*state, 2, 37, 6, 2, 5, causal != 0);
        check_attention(*state, 1, 66, 1, 1, 40, causal != 0);
    }
    check_attention(*state, 1, 9, 2, 1, 128, true);
}

static void test_activation(void **state)
{
    const int64_t sizes[][2] = {{9, 67}, {5, 1040}};
    for (int i = 0; i < 2; i++) {
        struct hlm_op op = {.kind = HLM_OP_ACTIVATION_FWD, .m = sizes[i][0], .n = sizes[i][1]};
        op.activation = HLM_ACTIVATION_GELU;
        op_check_forward(*state, &op, 0);
        op_check_forward(*state, &op, 1U << 1);
        op_check_backward(*state, &op, HLM_OP_ACTIVATION_BWD, "v0 v1 d2 g0", 0);
        op_check_backward(*state, &op, HLM_OP_ACTIVATION_BWD, "v0 - d2 g0", 1U << 1);
        op.activation = HLM_ACTIVATION_SWIGLU;
        op_check_forward(*state, &op, 1U << 1);
        op_check_backward(*state, &op, HLM_OP_ACTIVATION_BWD, "v0 - d2 g0", 1U << 1);
    }
}

static void test_rows(void **state)
{
    const struct hlm_op select = {
        .kind = HLM_OP_SELECT_FWD, .m = 4, .n = 19, .batch = 4, .seq_len = 5};
    const struct hlm_op slice = {.kind = HLM_OP_SLICE_ROWS, .m = 6, .n = 19, .first_row = 12};
    op_check_forward(*state, &select, 0);
    op_check_backward(*state, &select, HLM_OP_SELECT_BWD, "d1 g0", 0);
    op_check_forward(*state, &slice, 0);
}

static void test_slabs(void **state)
{
    const struct hlm_op zero = {.kind = HLM_OP_FILL_ZERO, .m = 1003};
    op_check_forward(*state, &zero, 0);
    for (int64_t count = 1003; count < 50000; count += 39001) {
        const struct hlm_op sum = {.kind = HLM_OP_SUM_SQUARES, .m = count};
        op_check_forward(*state, &sum, 0);
    }
}

static void test_xent_reductions(void **state)
{
    const int64_t sizes[][2] = {{77, 70}, {132, 129}, {1040, 0}};
    for (int i = 0; i < 3; i++) {
        const struct hlm_op max = {
            .kind = HLM_OP_XENT_MAX, .m = 5, .n = sizes[i][0], .valid_cols = sizes[i][1]};
        struct hlm_op sum = max;
        sum.kind = HLM_OP_XENT_SUM;
        sum.first_row = sizes[i][0];
        if (max.valid_cols > 0) {
            op_check_forward(*state, &max, 0);
        }
        op_check_forward(*state, &sum, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_embedding, setup, teardown),
        cmocka_unit_test_setup_teardown(test_position, setup, teardown),
        cmocka_unit_test_setup_teardown(test_patches, setup, teardown),
        cmocka_unit_test_setup_teardown(test_norm, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gemm, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bias, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rope, setup, teardown),
        cmocka_unit_test_setup_teardown(test_attention, setup, teardown),
        cmocka_unit_test_setup_teardown(test_activation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slabs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_xent_reductions, setup, teardown),
    };
    return device_is_there() ? cmocka_run_group_tests(tests, NULL, NULL) : EXIT_SKIPPED;
}
