#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/blocks.h"

static void modes_are_the_markers_of_the_map(void **state)
{
    (void)state;
    for (int kind = 0; kind < HLM_NUM_OPS; kind++) {
        struct hlm_op op = {.kind = (enum hlm_op_kind)kind, .accumulate = true};
        int32_t num_markers = 0;
        for (const char *at = hlm_op_operand_texts[kind]; *at != '\0'; at++) {
            if (strchr("<>+", *at) != NULL) {
                assert_int_equal(hlm_op_reads(&op, num_markers), *at != '>');
                assert_int_equal(hlm_op_writes(&op, num_markers), *at != '<');
                num_markers++;
            }
        }
        assert_int_equal(hlm_op_num_operands((enum hlm_op_kind)kind), num_markers);
    }
}

static void absent_operands_and_plain_gemm_outputs_are_not_read(void **state)
{
    (void)state;
    const struct hlm_op gemm = {.kind = HLM_OP_GEMM, .operands = {0, 1, 2}};
    assert_false(hlm_op_reads(&gemm, 2));
    assert_true(hlm_op_writes(&gemm, 2));
    const struct hlm_op norm = {.kind = HLM_OP_NORM_FWD, .operands = {0, 1, -1, 2, 3}};
    assert_false(hlm_op_reads(&norm, 2));
    assert_false(hlm_op_writes(&norm, 2));
}

static void collectives_are_those_of_the_map(void **state)
{
    (void)state;
    int count = 0;
    for (int kind = 0; kind < HLM_NUM_OPS; kind++) {
        count += hlm_op_is_collective((enum hlm_op_kind)kind);
    }
    assert_int_equal(count, 5);
    assert_true(hlm_op_is_collective(HLM_OP_ALL_TO_ALL));
    assert_false(hlm_op_is_collective(HLM_OP_GEMM));
}

static void flops_of_products(void **state)
{
    (void)state;
    const struct hlm_op gemm = {.kind = HLM_OP_GEMM, .m = 3, .n = 5, .k = 7};
    check_near(hlm_op_flops(&gemm), 210.0, 0.0);
    struct hlm_op attention = {.kind = HLM_OP_ATTENTION_FWD,
                               .batch = 2,
                               .heads = 3,
                               .seq_len = 8,
                               .head_dim = 4,
                               .v_head_dim = 4,
                               .operands = {0, 1, 2, -1}};
    const double full = 4.0 * 2 * 3 * 8 * 8 * 4;
    check_near(hlm_op_flops(&attention), full, 0.0);
    attention.causal = true;
    check_near(hlm_op_flops(&attention), full / 2, 0.0);
    attention.window = 8;
    check_near(hlm_op_flops(&attention), full / 2, 0.0);
    attention.window = 2; /* 2 * 8 - 2 scores instead of 32 */
    check_near(hlm_op_flops(&attention), full / 2 * 14 / 32, 0.0);
    const struct hlm_op add = {.kind = HLM_OP_ADD, .m = 3, .n = 5};
    check_near(hlm_op_flops(&add), 0.0, 0.0);
}

/* FlashAttention's backward computes the scores again: 2.5 forwards instead of 2. */
static void attention_backward_without_probabilities_is_two_and_a_half_forwards(void **state)
{
    (void)state;
    struct hlm_op op = {.kind = HLM_OP_ATTENTION_FWD,
                        .batch = 1,
                        .heads = 2,
                        .seq_len = 16,
                        .head_dim = 8,
                        .v_head_dim = 8,
                        .operands = {0, 1, 2, 3, 4, 5}};
    const double forward = hlm_op_flops(&op);
    op.kind = HLM_OP_ATTENTION_BWD;
    check_near(hlm_op_flops(&op), 2.0 * forward, 0.0);
    op.operands[4] = -1;
    check_near(hlm_op_flops(&op), 2.5 * forward, 0.0);
}

static void bytes_count_reads_and_writes(void **state)
{
    (void)state;
    const struct hlm_tensor tensors[] = {
        {"a", HLM_TENSOR_ACTIVATION, HLM_DTYPE_BF16, 6, 4, -1},
        {"b", HLM_TENSOR_PARAM, HLM_DTYPE_BF16, 10, 4, 0},
        {"c", HLM_TENSOR_ACTIVATION, HLM_DTYPE_FP32, 6, 10, -1},
        {"tokens", HLM_TENSOR_TOKENS, HLM_DTYPE_FP32, 6, 1, -1},
        {"sum", HLM_TENSOR_ACTIVATION, HLM_DTYPE_BF16, 6, 4, -1},
    };
    struct hlm_op gemm = {.kind = HLM_OP_GEMM, .m = 6, .n = 10, .k = 4, .operands = {0, 1, 2}};
    check_near(hlm_op_bytes(&gemm, tensors), 2.0 * (24 + 40) + 4.0 * 60, 0.0);
    gemm.accumulate = true;
    check_near(hlm_op_bytes(&gemm, tensors), 2.0 * (24 + 40) + 8.0 * 60, 0.0);
    const struct hlm_op embed = {
        .kind = HLM_OP_EMBED_FWD, .m = 6, .n = 4, .k = 10, .operands = {3, 1, 0}};
    check_near(hlm_op_bytes(&embed, tensors), 24.0 + 48.0 + 48.0, 0.0);
    const struct hlm_op reduce = {
        .kind = HLM_OP_ALL_REDUCE, .dtype = HLM_DTYPE_BF16, .m = 6, .n = 4, .operands = {4}};
    check_near(hlm_op_bytes(&reduce, tensors), 48.0, 0.0);
}

static void names_of_parameters_in_the_whole_model(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_param param = {.name = "norm1.weight"};
    assert_string_equal(hlm_param_global_name(arena, HLM_BLOCK_DENSE, 7, &param),
                        "layer.7.norm1.weight");
    assert_string_equal(hlm_param_global_name(arena, HLM_BLOCK_EMBEDDING, 0, &param),
                        "embed.norm1.weight");
    assert_string_equal(hlm_param_global_name(arena, HLM_BLOCK_HEAD, 0, &param),
                        "head.norm1.weight");
    param.tied = true;
    assert_string_equal(hlm_param_global_name(arena, HLM_BLOCK_HEAD, 0, &param), "embed.token");
    hlm_arena_free(arena);
}

/* --- hlm_block_check finds what is wrong --- */

struct editable {
    struct hlm_block block;
    struct hlm_tensor tensors[96];
    struct hlm_param params[16];
    struct hlm_op forward[32], backward[48];
};

static void make_editable(struct hlm_arena *arena, struct editable *out)
{
    const struct hlm_model model = tiny_model(TINY_GPT);
    const struct hlm_strategy strategy = tiny_strategy(&model, 2, true, HLM_LOWERING_HLMPLAN);
    const struct hlm_block *block =
        tiny_block(arena, &model, &strategy, 1, HLM_BLOCK_DENSE, HLM_RECOMPUTE_NONE);
    assert_true(block->num_tensors <= 96 && block->num_params <= 16);
    assert_true(block->num_forward <= 32 && block->num_backward <= 48);
    out->block = *block;
    memcpy(out->tensors, block->tensors, (size_t)block->num_tensors * sizeof *block->tensors);
    memcpy(out->params, block->params, (size_t)block->num_params * sizeof *block->params);
    memcpy(out->forward, block->forward, (size_t)block->num_forward * sizeof *block->forward);
    memcpy(out->backward, block->backward, (size_t)block->num_backward * sizeof *block->backward);
    out->block.tensors = out->tensors;
    out->block.params = out->params;
    out->block.forward = out->forward;
    out->block.backward = out->backward;
}

static bool check_aborts(const struct hlm_block *block)
{
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        if (freopen("/dev/null", "w", stderr) == NULL) {
            _exit(2);
        }
        hlm_block_check(block);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static struct hlm_op *find(struct hlm_op *ops, int32_t num_ops, enum hlm_op_kind kind)
{
    for (int32_t i = 0; i < num_ops; i++) {
        if (ops[i].kind == kind) {
            return &ops[i];
        }
    }
    fail_msg("no %s", hlm_op_texts[kind]);
    return NULL;
}

static void break_shape(struct editable *e)
{
    find(e->forward, e->block.num_forward, HLM_OP_GEMM)->k++;
}
static void break_flops(struct editable *e)
{
    find(e->forward, e->block.num_forward, HLM_OP_GEMM)->flops += 1.0;
}
static void break_bytes(struct editable *e)
{
    find(e->backward, e->block.num_backward, HLM_OP_NORM_BWD)->bytes *= 2.0;
}
static void break_index(struct editable *e)
{
    find(e->forward, e->block.num_forward, HLM_OP_NORM_FWD)->operands[0] = e->block.num_tensors;
}
static void break_missing_operand(struct editable *e)
{
    find(e->forward, e->block.num_forward, HLM_OP_NORM_FWD)->operands[1] = -1;
}
static void break_order(struct editable *e)
{
    const struct hlm_op first = e->forward[0];
    e->forward[0] = e->forward[1];
    e->forward[1] = first;
}
static void break_alias(struct editable *e)
{
    struct hlm_op *op = find(e->forward, e->block.num_forward, HLM_OP_BIAS_RESIDUAL);
    op->operands[3] = op->operands[0];
}
static void break_grad_output(struct editable *e)
{
    struct hlm_op *op = find(e->backward, e->block.num_backward, HLM_OP_NORM_BWD);
    op->operands[4] = -1;
    op->operands[5] = e->block.grad_output;
    op->bytes = hlm_op_bytes(op, e->tensors);
}
static void break_grad_input(struct editable *e)
{
    e->block.num_backward--;
}
static void break_boundary(struct editable *e)
{
    e->block.activation_rows *= 2;
}
static void break_part(struct editable *e)
{
    e->backward[0].part = HLM_PART_FORWARD;
}
static void break_group(struct editable *e)
{
    find(e->forward, e->block.num_forward, HLM_OP_ALL_GATHER)->group = HLM_GROUP_NONE;
}
static void break_slices(struct editable *e)
{
    e->params[0].slices[0].num_rows--;
}
static void break_columns(struct editable *e)
{
    e->params[0].global_col = 1;
}

static void check_rejects_every_kind_of_mistake(void **state)
{
    (void)state;
    void (*const mistakes[])(struct editable *) = {
        break_shape, break_flops, break_bytes,       break_index,      break_missing_operand,
        break_order, break_alias, break_grad_output, break_grad_input, break_boundary,
        break_part,  break_group, break_slices,      break_columns,
    };
    struct hlm_arena *arena = hlm_arena_new();
    struct editable *editable = HLM_ARENA_NEW(arena, struct editable);
    make_editable(arena, editable);
    assert_false(check_aborts(&editable->block));
    for (size_t i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++) {
        make_editable(arena, editable);
        mistakes[i](editable);
        if (!check_aborts(&editable->block)) {
            fail_msg("mistake %zu is not found", i);
        }
    }
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(modes_are_the_markers_of_the_map),
        cmocka_unit_test(absent_operands_and_plain_gemm_outputs_are_not_read),
        cmocka_unit_test(collectives_are_those_of_the_map),
        cmocka_unit_test(flops_of_products),
        cmocka_unit_test(attention_backward_without_probabilities_is_two_and_a_half_forwards),
        cmocka_unit_test(bytes_count_reads_and_writes),
        cmocka_unit_test(names_of_parameters_in_the_whole_model),
        cmocka_unit_test(check_rejects_every_kind_of_mistake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
