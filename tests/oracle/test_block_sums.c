/* Sums over the blocks of a model against the model's own counts (profiles/model_count.c, which
 * knows no operators): FLOPs, parameters, and the shards of all ranks. */
#include <stdlib.h>

#include "tests/support/blocks.h"

/* Model FLOPs of a pass: the operators that are not repeated; attention counts three forwards. */
static double block_flops(const struct hlm_block *block)
{
    double sum = 0.0;
    for (int32_t i = 0; i < block->num_forward; i++) {
        const bool attention = block->forward[i].kind == HLM_OP_ATTENTION_FWD;
        sum += (attention ? 3.0 : 1.0) * block->forward[i].flops;
    }
    for (int32_t i = 0; i < block->num_backward; i++) {
        const struct hlm_op *op = &block->backward[i];
        sum += op->recompute || op->kind == HLM_OP_ATTENTION_BWD ? 0.0 : op->flops;
    }
    return sum;
}

static double strategy_flops(struct hlm_arena *arena, const struct hlm_model *model,
                             const struct hlm_strategy *strategy, enum hlm_recompute recompute)
{
    double sum = 0.0;
    for (int32_t tp_rank = 0; tp_rank < strategy->tp; tp_rank++) {
        sum += block_flops(
            tiny_block(arena, model, strategy, tp_rank, HLM_BLOCK_EMBEDDING, HLM_RECOMPUTE_NONE));
        sum += block_flops(
            tiny_block(arena, model, strategy, tp_rank, HLM_BLOCK_HEAD, HLM_RECOMPUTE_NONE));
        for (int32_t layer = 0; layer < model->num_layers; layer++) {
            const bool moe = hlm_model_is_moe_layer(model, layer);
            sum += block_flops(tiny_block(arena, model, strategy, tp_rank,
                                          moe ? HLM_BLOCK_MOE : HLM_BLOCK_DENSE, recompute));
        }
    }
    return sum;
}

/* The model's count leaves out the dense layer of bert's head, and the gradient of the pixels is
 * not computed although it counts three products for each weight. */
static double expected_flops(const struct hlm_model *model, const struct hlm_strategy *strategy)
{
    const double hidden = (double)model->hidden_size, tokens = (double)model->seq_len;
    double sum = hlm_model_flops_per_sequence(model, strategy->seq_len, true);
    if (model->kind == HLM_MODEL_ENCODER) {
        sum += 6.0 * tokens * hidden * hidden;
    }
    if (model->kind == HLM_MODEL_VIT) {
        const struct hlm_model_vit *vit = &model->vit;
        sum -= 2.0 * (tokens - 1.0) * hidden *
               (double)(vit->num_channels * vit->patch_size * vit->patch_size);
    }
    return sum * (double)strategy->microbatch_size;
}

static void flops_of_all_blocks_are_the_models(void **state)
{
    (void)state;
    for (int kind = 0; kind < TINY_NUM_KINDS; kind++) {
        const struct hlm_model model = tiny_model((enum tiny_kind)kind);
        for (int mode = 0; mode < HLM_NUM_LOWERINGS * HLM_NUM_RECOMPUTES; mode++) {
            struct hlm_arena *arena = hlm_arena_new();
            const struct hlm_strategy strategy =
                tiny_strategy(&model, 1, false, (enum hlm_lowering)(mode % HLM_NUM_LOWERINGS));
            const double sum = strategy_flops(arena, &model, &strategy,
                                              (enum hlm_recompute)(mode / HLM_NUM_LOWERINGS));
            check_close(sum, expected_flops(&model, &strategy), 1e-12);
            hlm_arena_free(arena);
        }
    }
}

static void ranks_share_the_work_without_loss(void **state)
{
    (void)state;
    static const enum tiny_kind kinds[] = {TINY_GPT,  TINY_LLAMA,    TINY_NEOX,
                                           TINY_QWEN, TINY_DEEPSEEK, TINY_BERT};
    static const int32_t degrees[] = {2, 3, 6};
    for (size_t i = 0; i < 6 * 3; i++) {
        const struct hlm_model model = tiny_model(kinds[i % 6]);
        const struct hlm_strategy strategy =
            tiny_strategy(&model, degrees[i / 6], true, HLM_LOWERING_MEGATRON);
        struct hlm_arena *arena = hlm_arena_new();
        check_close(strategy_flops(arena, &model, &strategy, HLM_RECOMPUTE_NONE),
                    expected_flops(&model, &strategy), 1e-12);
        hlm_arena_free(arena);
    }
}

/* --- parameters --- */

static int64_t num_elements(const struct hlm_block *block)
{
    int64_t sum = 0;
    for (int32_t p = 0; p < block->num_params; p++) {
        sum += block->params[p].rows * block->params[p].cols;
    }
    return sum;
}

static void parameters_of_all_blocks_are_the_models(void **state)
{
    (void)state;
    for (int kind = 0; kind < TINY_NUM_KINDS; kind++) {
        struct hlm_model model = tiny_model((enum tiny_kind)kind);
        model.mtp_layers = 0; /* counted apart */
        const struct hlm_strategy strategy = tiny_strategy(&model, 1, false, HLM_LOWERING_MEGATRON);
        struct hlm_arena *arena = hlm_arena_new();
        int64_t sum = num_elements(
            tiny_block(arena, &model, &strategy, 0, HLM_BLOCK_EMBEDDING, HLM_RECOMPUTE_NONE));
        sum += num_elements(
            tiny_block(arena, &model, &strategy, 0, HLM_BLOCK_HEAD, HLM_RECOMPUTE_NONE));
        for (int32_t layer = 0; layer < model.num_layers; layer++) {
            const bool moe = hlm_model_is_moe_layer(&model, layer);
            sum +=
                num_elements(tiny_block(arena, &model, &strategy, 0,
                                        moe ? HLM_BLOCK_MOE : HLM_BLOCK_DENSE, HLM_RECOMPUTE_NONE));
        }
        if (model.kind == HLM_MODEL_ENCODER) { /* its head's transform is not the model's */
            const int64_t hidden = model.hidden_size;
            sum -= hidden * hidden + hidden + 2 * hidden + model.vocab_size;
        }
        check_near((double)sum, hlm_model_num_params(&model), 0.0);
        hlm_arena_free(arena);
    }
}

static void mark_shard(const struct hlm_param *param, int *marks)
{
    for (int64_t row = 0; row < param->rows; row++) {
        const int64_t first =
            hlm_param_global_row(param, row) * param->global_cols + param->global_col;
        for (int64_t c = 0; c < param->cols; c++) {
            marks[first + c]++;
        }
    }
}

static void check_tiling(struct hlm_arena *arena, const struct hlm_model *model,
                         const struct hlm_strategy *strategy, enum hlm_block_kind kind)
{
    const struct hlm_block *first = tiny_block(arena, model, strategy, 0, kind, HLM_RECOMPUTE_NONE);
    for (int32_t p = 0; p < first->num_params; p++) {
        const struct hlm_param *param = &first->params[p];
        const int64_t size = param->global_rows * param->global_cols;
        int *marks = HLM_ARENA_ARRAY(arena, int, size);
        for (int32_t tp_rank = 0; tp_rank < strategy->tp; tp_rank++) {
            const struct hlm_block *block =
                tiny_block(arena, model, strategy, tp_rank, kind, HLM_RECOMPUTE_NONE);
            assert_string_equal(block->params[p].name, param->name);
            mark_shard(&block->params[p], marks);
        }
        for (int64_t i = 0; i < size; i++) {
            if (marks[i] != (param->replicated ? strategy->tp : 1)) {
                fail_msg("%s: element %lld is on %d ranks", param->name, (long long)i, marks[i]);
            }
        }
    }
}

static void shards_of_all_ranks_tile_each_parameter(void **state)
{
    (void)state;
    static const int32_t degrees[] = {1, 2, 3, 6};
    for (int i = 0; i < TINY_NUM_KINDS * 4; i++) {
        const struct hlm_model model = tiny_model((enum tiny_kind)(i % TINY_NUM_KINDS));
        const int32_t tp = degrees[i / TINY_NUM_KINDS];
        const struct hlm_strategy strategy =
            tiny_strategy(&model, tp, tp > 1, HLM_LOWERING_MEGATRON);
        struct hlm_arena *arena = hlm_arena_new();
        check_tiling(arena, &model, &strategy, HLM_BLOCK_EMBEDDING);
        check_tiling(arena, &model, &strategy, HLM_BLOCK_DENSE);
        check_tiling(arena, &model, &strategy, HLM_BLOCK_HEAD);
        if (model.moe.num_experts > 0) {
            check_tiling(arena, &model, &strategy, HLM_BLOCK_MOE);
        }
        hlm_arena_free(arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flops_of_all_blocks_are_the_models),
        cmocka_unit_test(ranks_share_the_work_without_loss),
        cmocka_unit_test(parameters_of_all_blocks_are_the_models),
        cmocka_unit_test(shards_of_all_ranks_tile_each_parameter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
