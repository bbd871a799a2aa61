/* blocks: small models and strategies of every kind, and their blocks, for tests of the cost model.
 */
#ifndef HLM_TESTS_SUPPORT_BLOCKS_H
#define HLM_TESTS_SUPPORT_BLOCKS_H

#include "costmodel/lowering.h"
#include "tests/support/check.h"

enum tiny_kind {
    TINY_GPT,
    TINY_LLAMA,
    TINY_BERT,
    TINY_VIT,
    TINY_NEOX,     /* parallel residual, rotates a quarter */
    TINY_QWEN,     /* experts, qk_norm */
    TINY_DEEPSEEK, /* experts with a shared one, latent attention, multi-token prediction */
    TINY_NUM_KINDS
};

static inline struct hlm_model tiny_model(enum tiny_kind kind)
{
    struct hlm_model model = {
        .name = "tiny",
        .seq_len = 16,
        .hidden_size = 24,
        .ffn_size = 48,
        .num_layers = 3,
        .num_heads = 12,
        .num_kv_heads = 12,
        .head_dim = 4,
        .vocab_size = 60,
        .norm_eps = 1e-5,
        .rotary_frac = 1.0,
        .rope_theta = 1e4,
        .bias = {true, true, true},
        .tied_embeddings = true,
        .vocab_pad_multiple = 1,
        .moe = {.layer_period = 1},
    };
    if (kind == TINY_LLAMA || kind == TINY_QWEN || kind == TINY_DEEPSEEK) {
        model.activation = HLM_ACTIVATION_SWIGLU;
        model.norm = HLM_NORM_RMSNORM;
        model.position = HLM_POSITION_ROPE;
        model.bias = (struct hlm_model_bias){false, false, false};
        model.tied_embeddings = false;
    }
    if (kind == TINY_BERT) {
        model.kind = HLM_MODEL_ENCODER;
        model.norm_placement = HLM_NORM_PLACEMENT_POST;
        model.token_types = 2;
    } else if (kind == TINY_VIT) {
        model.kind = HLM_MODEL_VIT;
        model.vit = (struct hlm_model_vit){12, 4, 10, 3};
        model.seq_len = 10;
        model.vocab_size = 0;
        model.tied_embeddings = false;
    } else if (kind == TINY_NEOX) {
        model.residual = HLM_RESIDUAL_PARALLEL;
        model.position = HLM_POSITION_ROPE;
        model.rotary_frac = 0.5;
        model.tied_embeddings = false;
    } else if (kind == TINY_LLAMA) {
        model.num_kv_heads = 6;
    } else if (kind == TINY_QWEN) {
        model.num_kv_heads = 6;
        model.qk_norm = true;
        model.moe = (struct hlm_model_moe){8, 2, 12, 0, 0, 1};
    } else if (kind == TINY_DEEPSEEK) {
        model.moe = (struct hlm_model_moe){8, 2, 12, 24, 1, 1};
        model.mla = (struct hlm_model_mla){10, 8, 6, 2, 4};
        model.head_dim = 8;
        model.mtp_layers = 1;
    }
    return model;
}

static inline struct hlm_strategy tiny_strategy(const struct hlm_model *model, int32_t tp, bool sp,
                                                enum hlm_lowering lowering)
{
    struct hlm_strategy strategy = {
        .dp = 1,
        .tp = tp,
        .pp = 1,
        .sp = sp,
        .microbatch_size = 6,
        .global_batch_size = 12,
        .seq_len = model->seq_len,
        .lowering = lowering,
        .dtype = lowering == HLM_LOWERING_MEGATRON ? HLM_DTYPE_BF16 : HLM_DTYPE_FP32,
    };
    hlm_strategy_complete(&strategy);
    return strategy;
}

static inline const struct hlm_block *tiny_block(struct hlm_arena *arena,
                                                 const struct hlm_model *model,
                                                 const struct hlm_strategy *strategy,
                                                 int32_t tp_rank, enum hlm_block_kind kind,
                                                 enum hlm_recompute recompute)
{
    const struct hlm_lowering_input input = {
        .model = model,
        .strategy = strategy,
        .backend = strategy->lowering == HLM_LOWERING_HLMPLAN ? HLM_BACKEND_CPU : HLM_BACKEND_CUDA,
        .tp_rank = tp_rank,
        .last_stage_copy = model->tied_embeddings && strategy->pp > 1,
    };
    const struct hlm_block *block = NULL;
    struct hlm_err err;
    check_ok(hlm_lowering_block(arena, &input, kind, recompute, &block, &err), &err);
    return block;
}

/* Calls `visit` for every legal block of the tiny models under tp 1, 2, 3, 6, with and without sp,
 * both sets, all recompute modes, on every tp rank. Returns the number of blocks. */
static inline int
tiny_for_each(void (*visit)(struct hlm_arena *arena, const struct hlm_block *block,
                            const struct hlm_model *model, const struct hlm_strategy *strategy))
{
    static const int32_t degrees[] = {1, 2, 3, 6};
    int count = 0;
    for (int i = 0; i < TINY_NUM_KINDS * 4 * 2 * HLM_NUM_LOWERINGS; i++) {
        const enum tiny_kind kind = (enum tiny_kind)(i % TINY_NUM_KINDS);
        const int32_t tp = degrees[i / TINY_NUM_KINDS % 4];
        const bool sp = i / TINY_NUM_KINDS / 4 % 2 == 1;
        const struct hlm_model model = tiny_model(kind);
        const struct hlm_strategy strategy =
            tiny_strategy(&model, tp, sp, (enum hlm_lowering)(i / TINY_NUM_KINDS / 8));
        struct hlm_err err;
        if (hlm_strategy_check(&strategy, &model, &err) != HLM_OK) {
            continue;
        }
        struct hlm_arena *arena = hlm_arena_new();
        for (int j = 0; j < HLM_NUM_BLOCKS * HLM_NUM_RECOMPUTES * tp; j++) {
            const enum hlm_block_kind block = (enum hlm_block_kind)(j % HLM_NUM_BLOCKS);
            const enum hlm_recompute recompute =
                (enum hlm_recompute)(j / HLM_NUM_BLOCKS % HLM_NUM_RECOMPUTES);
            const bool layer = block == HLM_BLOCK_DENSE || block == HLM_BLOCK_MOE;
            if ((!layer && recompute != HLM_RECOMPUTE_NONE) ||
                (block == HLM_BLOCK_MOE && model.moe.num_experts == 0)) {
                continue;
            }
            const int32_t tp_rank = j / HLM_NUM_BLOCKS / HLM_NUM_RECOMPUTES;
            visit(arena, tiny_block(arena, &model, &strategy, tp_rank, block, recompute), &model,
                  &strategy);
            count++;
        }
        hlm_arena_free(arena);
    }
    return count;
}

#endif
