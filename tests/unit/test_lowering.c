#include <stdlib.h>

#include "tests/support/blocks.h"

static void check_block(struct hlm_arena *arena, const struct hlm_block *block,
                        const struct hlm_model *model, const struct hlm_strategy *strategy)
{
    (void)arena;
    (void)model;
    (void)strategy;
    hlm_block_check(block);
}

static void every_block_holds_the_invariants(void **state)
{
    (void)state;
    assert_true(tiny_for_each(check_block) > 1000);
}

/* --- parameters --- */

static const struct hlm_param *find_param(const struct hlm_block *block, const char *name)
{
    for (int32_t p = 0; p < block->num_params; p++) {
        if (strcmp(block->params[p].name, name) == 0) {
            return &block->params[p];
        }
    }
    return NULL;
}

static void heads_and_branches_are_separate_slices(void **state)
{
    (void)state;
    const struct hlm_model model = tiny_model(TINY_LLAMA);
    const struct hlm_strategy strategy = tiny_strategy(&model, 3, false, HLM_LOWERING_HLMPLAN);
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_block *block =
        tiny_block(arena, &model, &strategy, 2, HLM_BLOCK_DENSE, HLM_RECOMPUTE_NONE);
    /* 12 query heads of 4 on 3 ranks, then 6 key heads, then 6 value heads */
    const struct hlm_param *qkv = find_param(block, "qkv.weight");
    assert_int_equal(qkv->num_slices, 3);
    const int64_t rows[3][2] = {{32, 16}, {48 + 16, 8}, {72 + 16, 8}};
    for (int s = 0; s < 3; s++) {
        assert_int_equal(qkv->slices[s].global_row, rows[s][0]);
        assert_int_equal(qkv->slices[s].num_rows, rows[s][1]);
    }
    const struct hlm_param *fc1 = find_param(block, "fc1.weight");
    assert_int_equal(fc1->num_slices, 2);
    assert_int_equal(fc1->slices[0].global_row, 32);
    assert_int_equal(fc1->slices[1].global_row, 48 + 32);
    const struct hlm_param *fc2 = find_param(block, "fc2.weight");
    assert_int_equal(fc2->global_col, 32);
    assert_int_equal(fc2->cols, 16);
    check_close(fc2->init_std, 0.02 / sqrt(6.0), 1e-15);
    hlm_arena_free(arena);
}

static void partial_gradients_are_those_of_row_shards(void **state)
{
    (void)state;
    static const char *const partial[] = {"norm1.weight", "norm1.bias", "norm2.weight",
                                          "norm2.bias",   "out.bias",   "fc2.bias"};
    const struct hlm_model model = tiny_model(TINY_GPT);
    struct hlm_arena *arena = hlm_arena_new();
    for (int sp = 0; sp < 2; sp++) {
        const struct hlm_strategy strategy =
            tiny_strategy(&model, 2, sp == 1, HLM_LOWERING_HLMPLAN);
        const struct hlm_block *block =
            tiny_block(arena, &model, &strategy, 0, HLM_BLOCK_DENSE, HLM_RECOMPUTE_NONE);
        int count = 0;
        for (int32_t p = 0; p < block->num_params; p++) {
            assert_int_equal(block->params[p].sum_over_tp, sp == 1 && block->params[p].replicated);
            count += block->params[p].replicated;
        }
        assert_int_equal(count, 6);
        for (size_t i = 0; i < 6; i++) {
            assert_true(find_param(block, partial[i])->replicated);
        }
    }
    hlm_arena_free(arena);
}

static void tied_head_has_a_copy_only_behind_the_first_stage(void **state)
{
    (void)state;
    const struct hlm_model model = tiny_model(TINY_GPT);
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_strategy strategy = tiny_strategy(&model, 2, false, HLM_LOWERING_HLMPLAN);
    const struct hlm_block *head =
        tiny_block(arena, &model, &strategy, 0, HLM_BLOCK_HEAD, HLM_RECOMPUTE_NONE);
    assert_null(find_param(head, "weight"));
    int shared = 0;
    for (int32_t t = 0; t < head->num_tensors; t++) {
        const enum hlm_tensor_role role = head->tensors[t].role;
        if (head->tensors[t].param < 0 && (role == HLM_TENSOR_PARAM || role == HLM_TENSOR_GRAD)) {
            assert_int_equal(head->tensors[t].rows, 30);
            shared++;
        }
    }
    assert_int_equal(shared, 2);
    strategy.pp = 2;
    head = tiny_block(arena, &model, &strategy, 0, HLM_BLOCK_HEAD, HLM_RECOMPUTE_NONE);
    const struct hlm_param *copy = find_param(head, "weight");
    assert_non_null(copy);
    assert_true(copy->tied && !copy->decay);
    hlm_arena_free(arena);
}

/* --- recompute --- */

static int32_t num_repeated(const struct hlm_block *block)
{
    int32_t count = 0;
    for (int32_t i = 0; i < block->num_backward; i++) {
        count += block->backward[i].recompute;
    }
    return count;
}

/* The first repeated operators of the backward are the forward's, one by one. */
static void check_repeats(const struct hlm_block *block, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        const struct hlm_op *op = &block->backward[i], *forward = &block->forward[i];
        assert_true(op->recompute);
        assert_int_equal(op->kind, forward->kind);
        check_near(op->flops, forward->flops, 0.0);
        check_near(op->bytes, forward->bytes, 0.0);
    }
}

static void megatrons_full_recompute_is_the_whole_forward(void **state)
{
    (void)state;
    for (int kind = 0; kind < TINY_NUM_KINDS; kind++) {
        const struct hlm_model model = tiny_model((enum tiny_kind)kind);
        struct hlm_arena *arena = hlm_arena_new();
        for (int sp = 0; sp < 2; sp++) {
            const struct hlm_strategy strategy =
                tiny_strategy(&model, 1 + sp, sp == 1, HLM_LOWERING_MEGATRON);
            const struct hlm_block *block =
                tiny_block(arena, &model, &strategy, 0, HLM_BLOCK_DENSE, HLM_RECOMPUTE_FULL);
            check_repeats(block, block->num_forward);
        }
        hlm_arena_free(arena);
    }
}

/* Ours leaves out what follows the last operator whose result a gradient needs: the MLP's second
 * product and the residual sum. */
static void our_full_recompute_stops_at_the_last_result_that_is_read(void **state)
{
    (void)state;
    const struct hlm_model model = tiny_model(TINY_GPT);
    struct hlm_arena *arena = hlm_arena_new();
    for (int sp = 0; sp < 2; sp++) {
        const struct hlm_strategy strategy =
            tiny_strategy(&model, 1 + sp, sp == 1, HLM_LOWERING_HLMPLAN);
        const struct hlm_block *block =
            tiny_block(arena, &model, &strategy, 0, HLM_BLOCK_DENSE, HLM_RECOMPUTE_FULL);
        const int32_t tail = 2 + sp; /* reduce-scatter */
        assert_int_equal(num_repeated(block), block->num_forward - tail);
        check_repeats(block, block->num_forward - tail);
    }
    hlm_arena_free(arena);
}

static void our_selective_recompute_repeats_memory_bound_operators_only(void **state)
{
    (void)state;
    for (int kind = 0; kind < TINY_NUM_KINDS; kind++) {
        const struct hlm_model model = tiny_model((enum tiny_kind)kind);
        const struct hlm_strategy strategy = tiny_strategy(&model, 1, false, HLM_LOWERING_HLMPLAN);
        struct hlm_arena *arena = hlm_arena_new();
        const struct hlm_block *block =
            tiny_block(arena, &model, &strategy, 0, HLM_BLOCK_DENSE, HLM_RECOMPUTE_SELECTIVE);
        assert_true(num_repeated(block) >= 2);
        for (int32_t i = 0; i < block->num_backward; i++) {
            if (block->backward[i].recompute) {
                check_near(block->backward[i].flops, 0.0, 0.0);
            }
        }
        hlm_arena_free(arena);
    }
}

static void megatrons_selective_recompute_repeats_attention_only(void **state)
{
    (void)state;
    const struct hlm_model model = tiny_model(TINY_GPT);
    const struct hlm_strategy strategy = tiny_strategy(&model, 2, false, HLM_LOWERING_MEGATRON);
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_block *block =
        tiny_block(arena, &model, &strategy, 0, HLM_BLOCK_DENSE, HLM_RECOMPUTE_SELECTIVE);
    assert_int_equal(num_repeated(block), 1);
    for (int32_t i = 0; i < block->num_backward; i++) {
        if (block->backward[i].recompute) {
            assert_int_equal(block->backward[i].kind, HLM_OP_ATTENTION_FWD);
            assert_int_equal(block->backward[i + 1].kind, HLM_OP_ATTENTION_BWD);
            assert_int_equal(block->backward[i].part, HLM_PART_INPUT_GRAD);
        }
    }
    hlm_arena_free(arena);
}

/* --- collectives --- */

static int32_t count_kind(const struct hlm_op *ops, int32_t num_ops, enum hlm_op_kind kind)
{
    int32_t count = 0;
    for (int32_t i = 0; i < num_ops; i++) {
        count += ops[i].kind == kind;
    }
    return count;
}

/* Per layer: 2 + 2 all-reduces without sp; with it 2 gathers and 2 scatters forward, 4 and 2
 * backward (two of the gathers repeat the forward's). */
static void collectives_of_a_layer_are_megatrons(void **state)
{
    (void)state;
    const struct hlm_model model = tiny_model(TINY_GPT);
    struct hlm_arena *arena = hlm_arena_new();
    for (int i = 0; i < 4; i++) {
        const bool sp = i % 2 == 1;
        const struct hlm_strategy strategy =
            tiny_strategy(&model, 2, sp, (enum hlm_lowering)(i / 2));
        const struct hlm_block *block =
            tiny_block(arena, &model, &strategy, 0, HLM_BLOCK_DENSE, HLM_RECOMPUTE_NONE);
        const enum hlm_op_kind kinds[] = {HLM_OP_ALL_REDUCE, HLM_OP_ALL_GATHER,
                                          HLM_OP_REDUCE_SCATTER};
        const int32_t forward[2][3] = {{2, 0, 0}, {0, 2, 2}},
                      backward[2][3] = {{2, 0, 0}, {0, 4, 2}};
        for (int k = 0; k < 3; k++) {
            assert_int_equal(count_kind(block->forward, block->num_forward, kinds[k]),
                             forward[sp][k]);
            assert_int_equal(count_kind(block->backward, block->num_backward, kinds[k]),
                             backward[sp][k]);
        }
    }
    hlm_arena_free(arena);
}

static void megatrons_reductions_run_beside_the_weight_gradient(void **state)
{
    (void)state;
    const struct hlm_model model = tiny_model(TINY_LLAMA);
    struct hlm_arena *arena = hlm_arena_new();
    for (int i = 0; i < 4; i++) {
        const bool sp = i % 2 == 1, megatron = i / 2 == 1;
        const struct hlm_strategy strategy =
            tiny_strategy(&model, 2, sp, (enum hlm_lowering)(i / 2));
        const struct hlm_block *block =
            tiny_block(arena, &model, &strategy, 0, HLM_BLOCK_DENSE, HLM_RECOMPUTE_NONE);
        int32_t count = 0;
        for (int32_t o = 0; o < block->num_backward; o++) {
            if (block->backward[o].overlaps_next) {
                const struct hlm_op *next = &block->backward[o + 1];
                assert_int_equal(next->kind, HLM_OP_GEMM);
                assert_int_equal(next->layout,
                                 block->backward[o].recompute ? HLM_GEMM_NN : HLM_GEMM_NT);
                count++;
            }
        }
        assert_int_equal(count, megatron ? (sp ? 4 : 2) : 0);
    }
    hlm_arena_free(arena);
}

static void the_loss_is_counted_on_one_tp_rank(void **state)
{
    (void)state;
    static const enum tiny_kind kinds[] = {TINY_GPT, TINY_BERT, TINY_VIT};
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t i = 0; i < 3; i++) {
        const struct hlm_model model = tiny_model(kinds[i]);
        const struct hlm_strategy strategy = tiny_strategy(&model, 3, false, HLM_LOWERING_HLMPLAN);
        for (int32_t tp_rank = 0; tp_rank < 3; tp_rank++) {
            const struct hlm_block *head =
                tiny_block(arena, &model, &strategy, tp_rank, HLM_BLOCK_HEAD, HLM_RECOMPUTE_NONE);
            int32_t count = 0;
            for (int32_t o = 0; o < head->num_forward; o++) {
                count += head->forward[o].counts_loss;
            }
            assert_int_equal(count, tp_rank == 0 ? 1 : 0);
        }
    }
    hlm_arena_free(arena);
}

static void padded_vocabulary_is_cut_with_its_real_columns(void **state)
{
    (void)state;
    struct hlm_model model = tiny_model(TINY_GPT);
    model.vocab_pad_multiple = 16; /* 60 -> 64 on two ranks */
    const struct hlm_strategy strategy = tiny_strategy(&model, 2, false, HLM_LOWERING_HLMPLAN);
    struct hlm_arena *arena = hlm_arena_new();
    int64_t real = 0;
    for (int32_t tp_rank = 0; tp_rank < 2; tp_rank++) {
        const struct hlm_block *head =
            tiny_block(arena, &model, &strategy, tp_rank, HLM_BLOCK_HEAD, HLM_RECOMPUTE_NONE);
        for (int32_t o = 0; o < head->num_forward; o++) {
            if (head->forward[o].kind == HLM_OP_XENT_SUM) {
                assert_int_equal(head->forward[o].n, 32);
                assert_int_equal(head->forward[o].first_row, 32 * tp_rank);
                real += head->forward[o].valid_cols;
            }
        }
    }
    assert_int_equal(real, 60);
    hlm_arena_free(arena);
}

/* --- experts --- */

static int64_t rows_at_experts(struct hlm_arena *arena, const struct hlm_model *model, int32_t ep,
                               enum hlm_routing routing)
{
    struct hlm_strategy strategy = tiny_strategy(model, 1, false, HLM_LOWERING_HLMPLAN);
    strategy.dp = strategy.ep = ep;
    const struct hlm_lowering_input input = {.model = model,
                                             .strategy = &strategy,
                                             .backend = HLM_BACKEND_CPU,
                                             .ep_rank = ep - 1,
                                             .routing = routing};
    int64_t rows = 0;
    for (int mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        const struct hlm_block *block = NULL;
        struct hlm_err err;
        check_ok(hlm_lowering_block(arena, &input, HLM_BLOCK_MOE, (enum hlm_recompute)mode, &block,
                                    &err),
                 &err);
        hlm_block_check(block);
        for (int32_t i = 0; i < block->num_forward; i++) {
            rows = block->forward[i].kind == HLM_OP_GROUPED_GEMM ? block->forward[i].m : rows;
        }
    }
    return rows;
}

/* Eight experts, two a row; a rank with one of them can get one choice of each row at most. */
static void room_at_experts_follows_the_routing(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_model model = tiny_model(TINY_QWEN);
    model.moe.num_experts = 8;
    model.moe.top_k = 2;
    const struct hlm_strategy strategy = tiny_strategy(&model, 1, false, HLM_LOWERING_HLMPLAN);
    const int64_t rows = strategy.microbatch_size * strategy.seq_len;
    for (int32_t ep = 1; ep <= 8; ep *= 2) {
        assert_int_equal(rows_at_experts(arena, &model, ep, HLM_ROUTING_EVEN), 2 * rows);
        assert_int_equal(rows_at_experts(arena, &model, ep, HLM_ROUTING_BALANCED), 2 * rows);
        assert_int_equal(rows_at_experts(arena, &model, ep, HLM_ROUTING_TOPK),
                         ep == 8 ? 8 * rows : 2 * ep * rows);
    }
    model.moe.top_k = 3; /* 3 / 8 of the rows for each expert, rounded up */
    assert_int_equal(rows_at_experts(arena, &model, 4, HLM_ROUTING_BALANCED),
                     8 * ((3 * rows + 7) / 8));
    hlm_arena_free(arena);
}

/* --- refusals --- */

static void refusals_name_the_feature(void **state)
{
    (void)state;
    struct hlm_model model = tiny_model(TINY_GPT);
    struct hlm_strategy strategy = tiny_strategy(&model, 2, false, HLM_LOWERING_HLMPLAN);
    assert_null(hlm_lowering_refusal(&model, &strategy));
    strategy.lowering = HLM_LOWERING_MEGATRON;
    assert_non_null(strstr(hlm_lowering_refusal(&model, &strategy), "lowering set"));
    strategy.lowering = HLM_LOWERING_HLMPLAN;
    strategy.cp = 2;
    assert_null(hlm_lowering_refusal(&model, &strategy));
    strategy.cp_form = HLM_CP_FORM_RING;
    assert_non_null(strstr(hlm_lowering_refusal(&model, &strategy), "ring attention"));
    strategy.cp_form = HLM_CP_FORM_AUTO;
    strategy.dtype = HLM_DTYPE_BF16;
    assert_non_null(strstr(hlm_lowering_refusal(&model, &strategy), "context parallelism"));
    strategy.dtype = HLM_DTYPE_FP32;
    strategy.cp = 1;
    model.attention_window = 16;
    assert_null(hlm_lowering_refusal(&model, &strategy)); /* a window that cuts nothing */
    model.attention_window = 8;
    assert_non_null(strstr(hlm_lowering_refusal(&model, &strategy), "window"));
    model = tiny_model(TINY_DEEPSEEK);
    strategy = tiny_strategy(&model, 1, false, HLM_LOWERING_HLMPLAN);
    assert_non_null(strstr(hlm_lowering_refusal(&model, &strategy), "latent attention"));
    model = tiny_model(TINY_QWEN);
    strategy = tiny_strategy(&model, 2, true, HLM_LOWERING_HLMPLAN);
    strategy.etp = 1;
    assert_non_null(strstr(hlm_lowering_refusal(&model, &strategy), "qk_norm"));
    model.qk_norm = false;
    assert_null(hlm_lowering_refusal(&model, &strategy));
    strategy.dtype = HLM_DTYPE_BF16;
    assert_non_null(strstr(hlm_lowering_refusal(&model, &strategy), "mixture of experts in"));
    strategy.dtype = HLM_DTYPE_FP32;
    strategy.etp = 2;
    assert_null(hlm_lowering_refusal(&model, &strategy));
}

static const struct hlm_op *find_op(const struct hlm_op *ops, int32_t num, enum hlm_op_kind kind)
{
    for (int32_t i = 0; i < num; i++) {
        if (ops[i].kind == kind) {
            return &ops[i];
        }
    }
    return NULL;
}

/* Each rank has its part of the rows, and of the scores. */
static void context_ranks_cut_the_rows(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_model model = tiny_model(TINY_LLAMA);
    struct hlm_strategy strategy = tiny_strategy(&model, 1, false, HLM_LOWERING_MEGATRON);
    const struct hlm_lowering_input input = {
        .model = &model, .strategy = &strategy, .backend = HLM_BACKEND_CUDA};
    const struct hlm_block *blocks[2];
    for (int32_t i = 0; i < 2; i++) {
        strategy.cp = 1 + i;
        check_ok(hlm_lowering_block(arena, &input, HLM_BLOCK_DENSE, HLM_RECOMPUTE_FULL, &blocks[i],
                                    &err),
                 &err);
        hlm_block_check(blocks[i]);
    }
    assert_int_equal(blocks[0]->activation_rows, 2 * blocks[1]->activation_rows);
    const struct hlm_op *whole =
        find_op(blocks[0]->forward, blocks[0]->num_forward, HLM_OP_ATTENTION_FWD);
    const struct hlm_op *cut =
        find_op(blocks[1]->forward, blocks[1]->num_forward, HLM_OP_ATTENTION_FWD);
    check_close(cut->flops, whole->flops / 2.0, 1e-12);
    assert_int_equal(cut->context_ranks, 2);
    hlm_arena_free(arena);
}

/* The sets of older frameworks differ in attention and its memory. */
static void older_sets_have_their_attention(void **state)
{
    (void)state;
    static const struct {
        enum hlm_lowering lowering;
        enum hlm_attention_kernel kernel;
        bool keeps_probs, overlaps_dp;
    } sets[] = {{HLM_LOWERING_MEGATRON, HLM_ATTENTION_BEST, false, true},
                {HLM_LOWERING_MEGATRON_2023, HLM_ATTENTION_FLASH_2, false, false},
                {HLM_LOWERING_MEGATRON_2021, HLM_ATTENTION_BEST, true, false},
                {HLM_LOWERING_PYTORCH, HLM_ATTENTION_FLASH_2, false, true},
                {HLM_LOWERING_PYTORCH_2023, HLM_ATTENTION_FLASH_1, false, true}};
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_model model = tiny_model(TINY_GPT);
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        const struct hlm_strategy strategy = tiny_strategy(&model, 2, false, sets[i].lowering);
        const struct hlm_lowering_input input = {
            .model = &model, .strategy = &strategy, .backend = HLM_BACKEND_CUDA};
        for (int mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            const struct hlm_block *block = NULL;
            check_ok(hlm_lowering_block(arena, &input, HLM_BLOCK_DENSE, (enum hlm_recompute)mode,
                                        &block, &err),
                     &err);
            hlm_block_check(block);
            const struct hlm_op *op =
                find_op(block->backward, block->num_backward, HLM_OP_ATTENTION_BWD);
            assert_int_equal(op->attention_kernel, sets[i].kernel);
            assert_int_equal(op->operands[4] >= 0, sets[i].keeps_probs);
            /* Selective recompute of the Megatron sets repeats attention alone. */
            const bool repeats =
                find_op(block->backward, block->num_backward, HLM_OP_ATTENTION_FWD) != NULL;
            const bool megatron = sets[i].lowering <= HLM_LOWERING_MEGATRON_2021;
            assert_int_equal(repeats, mode == HLM_RECOMPUTE_FULL ||
                                          (mode == HLM_RECOMPUTE_SELECTIVE && megatron));
        }
        assert_int_equal(hlm_lowering_framework(sets[i].lowering)->overlaps_dp,
                         sets[i].overlaps_dp);
    }
    hlm_arena_free(arena);
}

/* Formats of one byte are those of products alone. */
static void fp8_is_for_products(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_model model = tiny_model(TINY_GPT);
    struct hlm_strategy strategy = tiny_strategy(&model, 1, false, HLM_LOWERING_MEGATRON);
    strategy.dtype = HLM_DTYPE_FP8;
    const struct hlm_lowering_input input = {
        .model = &model, .strategy = &strategy, .backend = HLM_BACKEND_CUDA};
    const struct hlm_block *block = NULL;
    check_ok(hlm_lowering_block(arena, &input, HLM_BLOCK_DENSE, HLM_RECOMPUTE_NONE, &block, &err),
             &err);
    for (int32_t i = 0; i < block->num_forward; i++) {
        const struct hlm_op *op = &block->forward[i];
        assert_int_equal(op->dtype, op->kind == HLM_OP_GEMM ? HLM_DTYPE_FP8 : HLM_DTYPE_BF16);
        if (op->kind == HLM_OP_GEMM) {
            const double m = (double)op->m, n = (double)op->n, k = (double)op->k;
            check_close(op->bytes, m * k + n * k + 2.0 * m * n, 1e-12);
        }
    }
    hlm_arena_free(arena);
}

static void what_no_set_expresses_is_an_error(void **state)
{
    (void)state;
    struct hlm_model model = tiny_model(TINY_DEEPSEEK);
    const struct hlm_strategy strategy = tiny_strategy(&model, 1, false, HLM_LOWERING_MEGATRON);
    model.mtp_layers = 2;
    const struct hlm_lowering_input input = {
        .model = &model, .strategy = &strategy, .backend = HLM_BACKEND_CUDA};
    const struct hlm_block *block = NULL;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    check_fails(
        hlm_lowering_block(arena, &input, HLM_BLOCK_DENSE, HLM_RECOMPUTE_NONE, &block, &err),
        HLM_NO, &err, "set megatron can't express more than one multi-token-prediction layer");
    assert_null(block);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_block_holds_the_invariants),
        cmocka_unit_test(heads_and_branches_are_separate_slices),
        cmocka_unit_test(partial_gradients_are_those_of_row_shards),
        cmocka_unit_test(tied_head_has_a_copy_only_behind_the_first_stage),
        cmocka_unit_test(megatrons_full_recompute_is_the_whole_forward),
        cmocka_unit_test(our_full_recompute_stops_at_the_last_result_that_is_read),
        cmocka_unit_test(our_selective_recompute_repeats_memory_bound_operators_only),
        cmocka_unit_test(megatrons_selective_recompute_repeats_attention_only),
        cmocka_unit_test(collectives_of_a_layer_are_megatrons),
        cmocka_unit_test(megatrons_reductions_run_beside_the_weight_gradient),
        cmocka_unit_test(the_loss_is_counted_on_one_tp_rank),
        cmocka_unit_test(padded_vocabulary_is_cut_with_its_real_columns),
        cmocka_unit_test(refusals_name_the_feature),
        cmocka_unit_test(room_at_experts_follows_the_routing),
        cmocka_unit_test(context_ranks_cut_the_rows),
        cmocka_unit_test(older_sets_have_their_attention),
        cmocka_unit_test(fp8_is_for_products),
        cmocka_unit_test(what_no_set_expresses_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
