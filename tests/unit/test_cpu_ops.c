/* Every operator of the CPU backend against a plain reference in double; gradients against its
 * finite differences. Sizes are odd, and larger than the blocks that kernels work in. */
#include <stdlib.h>

#include "tests/support/check.h"
#include "tests/support/op_check.h"

static int setup(void **state)
{
    static const double tolerance = 1e-5;
    struct hlm_backend *backend = NULL;
    struct hlm_err err;
    check_ok(hlm_backend_cpu_new(&backend, &err), &err);
    struct op_check *check = test_malloc(sizeof *check);
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
    const struct hlm_op op = {.kind = HLM_OP_EMBED_FWD, .m = 33, .n = 19, .k = 7, .first_row = 14};
    op_check_forward(*state, &op, 0);
    op_check_backward(*state, &op, HLM_OP_EMBED_BWD, "v0 d2 g1", 0);
}

static void test_position(void **state)
{
    const struct hlm_op op = {
        .kind = HLM_OP_POSITION_FWD, .m = 23, .n = 21, .seq_len = 9, .first_row = 4};
    op_check_forward(*state, &op, 0);
    op_check_forward(*state, &op, 1U << 1);
    op_check_backward(*state, &op, HLM_OP_POSITION_BWD, "d2 g0 g1", 0);
    op_check_backward(*state, &op, HLM_OP_POSITION_BWD, "d2 g0 -", 1U << 1);
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
    const int64_t sizes[][2] = {{1, 1}, {3, 5}, {67, 37}, {130, 259}};
    for (int i = 0; i < 4; i++) {
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
        op_check_backward(*state, &op, HLM_OP_NORM_BWD, "d3 v0 v1 v4 - g0 g1 -", 1U << 2);
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
    const struct hlm_op op = {.kind = HLM_OP_BIAS_ADD, .m = 134, .n = 35};
    const struct hlm_op residual = {.kind = HLM_OP_BIAS_RESIDUAL, .m = 13, .n = 35};
    const struct hlm_op add = {.kind = HLM_OP_ADD, .m = 13, .n = 35};
    op_check_forward(*state, &op, 0);
    op_check_backward(*state, &op, HLM_OP_BIAS_GRAD, "d1 g0", 0);
    op_check_forward(*state, &residual, 0);
    op_check_forward(*state, &residual, 1U << 1);
    op_check_forward(*state, &add, 0);
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
    op.rope_theta = 500000.0;
    op_check_forward(*state, &op, 0);
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
        check_attention(*state, 2, 17, 6, 2, 5, causal != 0);
        check_attention(*state, 1, 150, 3, 1, 4, causal != 0);
        check_attention(*state, 1, 128, 2, 2, 8, causal != 0);
    }
}

/* One rank of those that share two sequences. */
static struct hlm_op shared_op(enum hlm_op_kind kind, int32_t ranks, int32_t rank, bool causal,
                               int64_t own_len)
{
    return (struct hlm_op){.kind = kind,
                           .m = 2 * own_len,
                           .n = 6 * 5,
                           .batch = 2,
                           .seq_len = ranks * own_len,
                           .heads = 6,
                           .kv_heads = 2,
                           .head_dim = 5,
                           .v_head_dim = 5,
                           .rotary = 4,
                           .rope_theta = 10000.0,
                           .causal = causal,
                           .context_ranks = ranks,
                           .context_rank = rank,
                           .context_chunks = causal ? 2 : 1};
}

static void check_shared(struct op_check *check, int32_t ranks, int32_t rank, bool causal,
                         int64_t own_len)
{
    const struct hlm_op op = shared_op(HLM_OP_ATTENTION_FWD, ranks, rank, causal, own_len);
    op_check_forward(check, &op, 0);
    op_check_forward(check, &op, 1U << 3);
    op_check_backward(check, &op, HLM_OP_ATTENTION_BWD, "v0 v1 d1 v2 v3 g0 v4 g4", 0);
    op_check_backward(check, &op, HLM_OP_ATTENTION_BWD, "v0 v1 d1 v2 - g0 v4 g4", 0);
}

static void test_shared_attention(void **state)
{
    for (int causal = 0; causal < 2; causal++) {
        for (int32_t rank = 0; rank < 3; rank++) {
            check_shared(*state, 3, rank, causal != 0, 14);
        }
        check_shared(*state, 2, 0, causal != 0, 2);
        check_shared(*state, 2, 1, causal != 0, 150);
    }
}

static void test_shared_positions(void **state)
{
    for (int32_t rank = 0; rank < 3; rank++) {
        struct hlm_op op = shared_op(HLM_OP_ROPE_FWD, 3, rank, rank > 0, 14);
        op_check_forward(*state, &op, 0);
        op_check_backward(*state, &op, HLM_OP_ROPE_BWD, "x0", 0);
        op.kind = HLM_OP_POSITION_FWD;
        op.m = 14;
        op.first_row = 7; /* a tp rank's rows: the end of one sequence, the start of the next */
        op_check_forward(*state, &op, 0);
        op_check_backward(*state, &op, HLM_OP_POSITION_BWD, "d2 g0 g1", 0);
    }
}

static void test_keys_and_values(void **state)
{
    struct hlm_op op = shared_op(HLM_OP_KV_SPLIT, 2, 1, true, 4);
    op.n = 2 * 2 * 5;
    op_check_forward(*state, &op, 0);
    op.kind = HLM_OP_KV_JOIN;
    op_check_forward(*state, &op, 0);
}

static void test_activation(void **state)
{
    struct hlm_op op = {.kind = HLM_OP_ACTIVATION_FWD, .m = 9, .n = 67};
    op.activation = HLM_ACTIVATION_GELU;
    op_check_forward(*state, &op, 0);
    op_check_forward(*state, &op, 1U << 1);
    op_check_backward(*state, &op, HLM_OP_ACTIVATION_BWD, "v0 v1 d2 g0", 0);
    op_check_backward(*state, &op, HLM_OP_ACTIVATION_BWD, "v0 - d2 g0", 1U << 1);
    op.activation = HLM_ACTIVATION_SWIGLU;
    op_check_forward(*state, &op, 1U << 1);
    op_check_backward(*state, &op, HLM_OP_ACTIVATION_BWD, "v0 - d2 g0", 1U << 1);
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

static void test_routing(void **state)
{
    struct hlm_op op = {.kind = HLM_OP_ROUTE_FWD, .m = 37, .n = 3, .k = 7, .first_row = 2};
    op_check_forward(*state, &op, 0);
    op_check_backward(*state, &op, HLM_OP_ROUTE_BWD, "v1 v2 d1 g0", 0);
    op.balanced = true;
    op_check_forward(*state, &op, 0);
    op_check_backward(*state, &op, HLM_OP_ROUTE_BWD, "v1 v2 d1 g0", 0);
    const struct hlm_op all = {.kind = HLM_OP_ROUTE_FWD, .m = 5, .n = 4, .k = 4};
    op_check_forward(*state, &all, 0);
    const struct hlm_op one = {.kind = HLM_OP_ROUTE_FWD, .m = 5, .n = 1, .k = 4};
    op_check_forward(*state, &one, 0);
}

static void run(struct op_check *check, const struct hlm_op *shape, enum hlm_op_kind kind,
                void *const *operands, const struct hlm_op_scalars *scalars)
{
    struct hlm_err err;
    struct hlm_op op = *shape;
    void *given[HLM_OP_MAX_OPERANDS] = {0};
    op.kind = kind;
    memcpy(given, operands, (size_t)hlm_op_num_operands(kind) * sizeof(void *));
    check_ok(check->backend->ops->launch(check->queue, &op, given, scalars, &err), &err);
}

#define OPERANDS(...) ((void *const[]){__VA_ARGS__})

/* Equal scores go to the lower expert. */
static void test_ties(void **state)
{
    struct op_check *check = *state;
    const double scores[] = {1, 2, 2, 2, 1, 0, 0, 0, 0, 0}, expected[] = {1, 2, 0, 1};
    const struct hlm_op op = {.m = 2, .n = 2, .k = 5};
    struct op_check_memory memory[4];
    double choice[4], counts[5];
    op_check_memory_new(check, &memory[0], OP_CHECK_FLOAT, 10, scores);
    op_check_memory_new(check, &memory[1], OP_CHECK_FLOAT, 4, NULL);
    op_check_memory_new(check, &memory[2], OP_CHECK_INT, 4, NULL);
    op_check_memory_new(check, &memory[3], OP_CHECK_INT, 5, NULL);
    run(check, &op, HLM_OP_ROUTE_FWD,
        OPERANDS(memory[0].data, memory[1].data, memory[2].data, memory[3].data), NULL);
    op_check_memory_read(check, &memory[2], false, choice);
    op_check_memory_read(check, &memory[3], false, counts);
    for (int i = 0; i < 4; i++) {
        check_near(choice[i], expected[i], 0.0);
        op_check_memory_free(check, &memory[i]);
    }
    check_near(counts[1], 2.0, 0.0);
    check_near(counts[3], 0.0, 0.0);
}

static void test_permutation(void **state)
{
    const struct hlm_op there = {
        .kind = HLM_OP_PERMUTE, .m = 3 * 21, .n = 13, .k = 21, .num_experts = 5};
    const struct hlm_op back = {
        .kind = HLM_OP_UNPERMUTE, .m = 21, .n = 13, .k = 3 * 21, .num_experts = 5};
    const unsigned plain = 1U << 2 | 1U << 3 | 1U << 5;
    op_check_forward(*state, &there, plain);
    op_check_backward(*state, &there, HLM_OP_UNPERMUTE, "d4 v1 - g0", plain);
    op_check_forward(*state, &back, 0);
    op_check_forward(*state, &back, 1U << 2);
    op_check_backward(*state, &back, HLM_OP_PERMUTE, "d3 v1 v2 v0 g0 g2", 0);
}

static void test_experts(void **state)
{
    struct hlm_op op = {.kind = HLM_OP_GROUPED_GEMM,
                        .m = 41,
                        .n = 17,
                        .k = 23,
                        .num_experts = 3,
                        .expert_ranks = 2};
    for (int layout = 0; layout < 3; layout++) {
        op.layout = ((const enum hlm_gemm_layout[]){HLM_GEMM_TN, HLM_GEMM_NN, HLM_GEMM_NT})[layout];
        op.accumulate = false;
        op_check_forward(*state, &op, 0);
        op.accumulate = true;
        op_check_forward(*state, &op, 0);
    }
    struct hlm_op activation = {.kind = HLM_OP_EXPERT_ACTIVATION_FWD,
                                .m = 41,
                                .n = 17,
                                .num_experts = 3,
                                .expert_ranks = 2};
    for (int kind = 0; kind < 2; kind++) {
        activation.activation = kind == 0 ? HLM_ACTIVATION_GELU : HLM_ACTIVATION_SWIGLU;
        op_check_forward(*state, &activation, 0);
        op_check_backward(*state, &activation, HLM_OP_EXPERT_ACTIVATION_BWD, "v0 v1 d2 g0", 0);
    }
}

/* The same in parts, each with room of its own. */
static void test_experts_in_parts(void **state)
{
    struct hlm_op op = {.kind = HLM_OP_GROUPED_GEMM,
                        .m = 42,
                        .n = 17,
                        .k = 24,
                        .num_experts = 2,
                        .expert_ranks = 6,
                        .expert_parts = 3};
    for (int layout = 0; layout < 3; layout++) {
        op.layout = ((const enum hlm_gemm_layout[]){HLM_GEMM_TN, HLM_GEMM_NN, HLM_GEMM_NT})[layout];
        op.accumulate = true;
        op_check_forward(*state, &op, 0);
    }
    struct hlm_op activation = {.kind = HLM_OP_EXPERT_ACTIVATION_FWD,
                                .m = 42,
                                .n = 17,
                                .num_experts = 2,
                                .expert_ranks = 6,
                                .expert_parts = 3,
                                .activation = HLM_ACTIVATION_SWIGLU};
    op_check_forward(*state, &activation, 0);
    op_check_backward(*state, &activation, HLM_OP_EXPERT_ACTIVATION_BWD, "v0 v1 d2 g0", 0);
}

/* Nothing is written behind the rows that came, in any part. */
static void test_room_behind_the_rows(void **state)
{
    enum { ROWS = 10, COLS = 4, FIRST = 3, SECOND = 4 }; /* of five in each part */
    struct op_check *check = *state;
    const double counts[] = {2, 1, 0, 4};
    struct hlm_op op = {.m = ROWS,
                        .n = COLS,
                        .k = COLS,
                        .num_experts = 2,
                        .expert_ranks = 2,
                        .expert_parts = 2,
                        .layout = HLM_GEMM_TN,
                        .activation = HLM_ACTIVATION_GELU};
    struct op_check_memory in, weights, numbers, out[2];
    op_check_memory_new(check, &in, OP_CHECK_FLOAT, ROWS * COLS,
                        op_check_random(check, ROWS * COLS));
    op_check_memory_new(check, &weights, OP_CHECK_FLOAT, 2 * COLS * COLS,
                        op_check_random(check, 2 * COLS * COLS));
    op_check_memory_new(check, &numbers, OP_CHECK_INT, 4, counts);
    op_check_memory_new(check, &out[0], OP_CHECK_FLOAT, ROWS * COLS, NULL);
    op_check_memory_new(check, &out[1], OP_CHECK_FLOAT, ROWS * COLS, NULL);
    run(check, &op, HLM_OP_GROUPED_GEMM, OPERANDS(in.data, weights.data, out[0].data, numbers.data),
        NULL);
    run(check, &op, HLM_OP_EXPERT_ACTIVATION_FWD, OPERANDS(in.data, numbers.data, out[1].data),
        NULL);
    for (int which = 0; which < 2; which++) {
        double values[ROWS * COLS];
        op_check_memory_read(check, &out[which], false, values);
        for (int i = 0; i < ROWS * COLS; i++) {
            const int row = i / COLS, came = row < ROWS / 2 ? FIRST : SECOND;
            assert_int_equal(isnan(values[i]) != 0, row % (ROWS / 2) >= came);
        }
        op_check_memory_free(check, &out[which]);
    }
    op_check_memory_free(check, &in);
    op_check_memory_free(check, &weights);
    op_check_memory_free(check, &numbers);
}

static void test_slabs(void **state)
{
    const struct hlm_op zero = {.kind = HLM_OP_FILL_ZERO, .m = 1003};
    const struct hlm_op sum = {.kind = HLM_OP_SUM_SQUARES, .m = 1003};
    op_check_forward(*state, &zero, 0);
    op_check_forward(*state, &sum, 0);
}

static void test_xent_reductions(void **state)
{
    const struct hlm_op max = {.kind = HLM_OP_XENT_MAX, .m = 5, .n = 77, .valid_cols = 70};
    const struct hlm_op sum = {
        .kind = HLM_OP_XENT_SUM, .m = 5, .n = 77, .valid_cols = 70, .first_row = 77};
    op_check_forward(*state, &max, 0);
    op_check_forward(*state, &sum, 0);
}

/* A tensor-parallel rank's part of the vocabulary. */
struct shard {
    struct hlm_op op;
    double *logits;
    struct op_check_memory on_device;
};

enum { XENT_ROWS = 7, SHARD_COLS = 77, NUM_SHARDS = 3, NUM_WORDS = SHARD_COLS + 50 };

/* The third shard is padding altogether. */
static void make_shard(struct op_check *check, int rank, struct shard *shard)
{
    const int64_t valid = NUM_WORDS - rank * SHARD_COLS;
    *shard = (struct shard){.logits = op_check_random(check, XENT_ROWS * SHARD_COLS)};
    shard->op = (struct hlm_op){.m = XENT_ROWS,
                                .n = SHARD_COLS,
                                .valid_cols = valid < 0            ? 0
                                              : valid < SHARD_COLS ? valid
                                                                   : SHARD_COLS,
                                .first_row = rank * SHARD_COLS,
                                .counts_loss = rank == 0};
    for (int64_t i = 0; i < XENT_ROWS * SHARD_COLS; i++) {
        shard->logits[i] = (double)(float)(20.0 * shard->logits[i]);
    }
    op_check_memory_new(check, &shard->on_device, OP_CHECK_FLOAT, XENT_ROWS * SHARD_COLS,
                        shard->logits);
}

/* What one row contributes: the loss, and where gradient is given, d loss / d logit of every word.
 */
static double word_loss(const struct shard *shards, int64_t row, int64_t target, double *gradient)
{
    double sum = 0.0, max = (double)-INFINITY;
    for (int64_t word = 0; word < NUM_WORDS; word++) {
        max = fmax(max, shards[word / SHARD_COLS].logits[row * SHARD_COLS + word % SHARD_COLS]);
    }
    for (int64_t word = 0; word < NUM_WORDS; word++) {
        gradient[word] =
            exp(shards[word / SHARD_COLS].logits[row * SHARD_COLS + word % SHARD_COLS] - max);
        sum += gradient[word];
    }
    for (int64_t word = 0; word < NUM_WORDS; word++) {
        gradient[word] = gradient[word] / sum - (word == target ? 1.0 : 0.0);
    }
    return max + log(sum) -
           shards[target / SHARD_COLS].logits[row * SHARD_COLS + target % SHARD_COLS];
}

/* What the ranks' all-reduces do between the operators: MAX, then SUM. */
static void combine(struct op_check *check, struct op_check_memory *parts, bool sums)
{
    double *total = op_check_random(check, parts[0].count);
    op_check_memory_read(check, &parts[0], false, total);
    for (int rank = 1; rank < NUM_SHARDS; rank++) {
        double *part = op_check_random(check, parts[rank].count);
        op_check_memory_read(check, &parts[rank], false, part);
        for (int64_t i = 0; i < parts[0].count; i++) {
            total[i] = sums ? total[i] + part[i] : fmax(total[i], part[i]);
        }
        op_check_memory_free(check, &parts[rank]);
    }
    const struct op_check_memory first = parts[0];
    op_check_memory_new(check, &parts[0], OP_CHECK_FLOAT, first.count, total);
    check->backend->ops->free(check->backend, first.base);
}

static void check_xent_results(struct op_check *check, struct shard *shards, const int64_t *targets,
                               double scale, const struct op_check_memory *loss)
{
    double expected_loss = 3.0, actual_loss = 0.0, gradient[NUM_WORDS];
    double *actual[NUM_SHARDS];
    for (int rank = 0; rank < NUM_SHARDS; rank++) {
        actual[rank] = op_check_random(check, XENT_ROWS * SHARD_COLS);
        op_check_memory_read(check, &shards[rank].on_device, false, actual[rank]);
        op_check_memory_free(check, &shards[rank].on_device);
    }
    for (int64_t row = 0; row < XENT_ROWS; row++) {
        const double of_row =
            targets[row] < 0 ? 0.0 : word_loss(shards, row, targets[row], gradient);
        expected_loss += scale * of_row;
        for (int64_t word = 0; word < NUM_SHARDS * SHARD_COLS; word++) {
            const bool none = targets[row] < 0 || word >= NUM_WORDS;
            check_near(actual[word / SHARD_COLS][row * SHARD_COLS + word % SHARD_COLS],
                       none ? 0.0 : scale * gradient[word], 1e-6);
        }
    }
    op_check_memory_read(check, loss, false, &actual_loss);
    check_close(actual_loss, expected_loss, 1e-6);
}

static void test_xent(void **state)
{
    struct op_check *check = *state;
    const int64_t targets[XENT_ROWS] = {0, 76, 77, 126, -1, -100, 40};
    const double as_values[XENT_ROWS] = {0, 76, 77, 126, -1, -100, 40}, start = 3.0;
    const struct hlm_op_scalars scalars = {.loss_scale = 0.125};
    struct shard shards[NUM_SHARDS];
    struct op_check_memory ids, loss, max[NUM_SHARDS], sums[NUM_SHARDS];
    op_check_memory_new(check, &ids, OP_CHECK_INT, XENT_ROWS, as_values);
    op_check_memory_new(check, &loss, OP_CHECK_DOUBLE, 1, &start);
    for (int i = 0; i < NUM_SHARDS; i++) {
        make_shard(check, i, &shards[i]);
        op_check_memory_new(check, &max[i], OP_CHECK_FLOAT, XENT_ROWS, NULL);
        op_check_memory_new(check, &sums[i], OP_CHECK_FLOAT, 2 * XENT_ROWS, NULL);
        run(check, &shards[i].op, HLM_OP_XENT_MAX, OPERANDS(shards[i].on_device.data, max[i].data),
            NULL);
    }
    combine(check, max, false);
    for (int i = 0; i < NUM_SHARDS; i++) {
        run(check, &shards[i].op, HLM_OP_XENT_SUM,
            OPERANDS(shards[i].on_device.data, ids.data, max[0].data, sums[i].data), NULL);
    }
    combine(check, sums, true);
    for (int i = 0; i < NUM_SHARDS; i++) {
        run(check, &shards[i].op, HLM_OP_XENT_GRAD,
            OPERANDS(ids.data, max[0].data, sums[0].data, shards[i].on_device.data, loss.data),
            &scalars);
    }
    check_xent_results(check, shards, targets, scalars.loss_scale, &loss);
    op_check_memory_free(check, &ids);
    op_check_memory_free(check, &loss);
    op_check_memory_free(check, &max[0]);
    op_check_memory_free(check, &sums[0]);
}

/* One step as the paper writes it, in double: p, m, v at [0], [1], [2]. */
static void adamw_step(const struct hlm_op_scalars *s, double grad, double *p, double *m, double *v)
{
    const double g = grad * s->grad_scale, t = (double)s->step;
    *p -= s->learning_rate * s->weight_decay * *p;
    *m = s->beta1 * *m + (1.0 - s->beta1) * g;
    *v = s->beta2 * *v + (1.0 - s->beta2) * g * g;
    *p -= s->learning_rate * (*m / (1.0 - pow(s->beta1, t))) /
          (sqrt(*v / (1.0 - pow(s->beta2, t))) + s->adam_eps);
}

static void test_adamw(void **state)
{
    enum { COUNT = 1003 };
    struct op_check *check = *state;
    const struct hlm_op op = {.m = COUNT};
    double *expected[3] = {op_check_random(check, COUNT), hlm_arena_alloc(check->arena, COUNT, 8),
                           hlm_arena_alloc(check->arena, COUNT, 8)};
    struct op_check_memory memory[3], grad;
    for (int i = 0; i < 3; i++) {
        op_check_memory_new(check, &memory[i], OP_CHECK_FLOAT, COUNT, expected[i]);
    }
    struct hlm_op_scalars scalars = {.learning_rate = 0.02,
                                     .beta1 = 0.9,
                                     .beta2 = 0.95,
                                     .adam_eps = 1e-8,
                                     .weight_decay = 0.1,
                                     .grad_scale = 0.25};
    for (scalars.step = 1; scalars.step <= 4; scalars.step++) {
        double *g = op_check_random(check, COUNT);
        g[17] = 0.0; /* a parameter that nothing depends on: 0 / (0 + eps) */
        op_check_memory_new(check, &grad, OP_CHECK_FLOAT, COUNT, g);
        run(check, &op, HLM_OP_ADAMW,
            OPERANDS(grad.data, memory[0].data, memory[1].data, memory[2].data, NULL), &scalars);
        for (int i = 0; i < COUNT; i++) {
            adamw_step(&scalars, g[i], &expected[0][i], &expected[1][i], &expected[2][i]);
        }
        op_check_memory_read(check, &grad, true, g);
        op_check_memory_free(check, &grad);
    }
    for (int i = 0; i < 3; i++) {
        double *actual = op_check_random(check, COUNT);
        op_check_memory_read(check, &memory[i], false, actual);
        op_check_agree(check, "adamw", actual, expected[i], COUNT);
        op_check_memory_free(check, &memory[i]);
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
        cmocka_unit_test_setup_teardown(test_shared_attention, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shared_positions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keys_and_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_activation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_routing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ties, setup, teardown),
        cmocka_unit_test_setup_teardown(test_permutation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_experts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_experts_in_parts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_room_behind_the_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slabs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_xent_reductions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_xent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_adamw, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
