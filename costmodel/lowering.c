#include "costmodel/lowering.h"

#include "costmodel/lowering_blocks.h"

#define X(name, text) text,
const char *const hlm_routing_texts[] = {HLM_ROUTING_MAP(X) NULL};
#undef X

static const struct hlm_lowering_traits traits[HLM_NUM_LOWERINGS] = {
    [HLM_LOWERING_HLMPLAN] =
        {
            .drops =
                {
                    [HLM_RECOMPUTE_NONE] = HLM_REMAKE_GATHERED,
                    [HLM_RECOMPUTE_SELECTIVE] =
                        HLM_REMAKE_GATHERED | HLM_REMAKE_NORM | HLM_REMAKE_ACTIVATION,
                },
            .keeps_probs = true,
            .exchanges_counts = true,
        },
    [HLM_LOWERING_MEGATRON] =
        {
            .drops =
                {
                    [HLM_RECOMPUTE_NONE] = HLM_REMAKE_GATHERED,
                    [HLM_RECOMPUTE_SELECTIVE] = HLM_REMAKE_GATHERED | HLM_REMAKE_ATTENTION,
                },
            .overlaps = true,
            .repeats_all = true,
            .fp32_logits = true,
        },
    [HLM_LOWERING_MEGATRON_2023] =
        {
            .drops =
                {
                    [HLM_RECOMPUTE_NONE] = HLM_REMAKE_GATHERED,
                    [HLM_RECOMPUTE_SELECTIVE] = HLM_REMAKE_GATHERED | HLM_REMAKE_ATTENTION,
                },
            .attention_kernel = HLM_ATTENTION_FLASH_2,
            .overlaps = true,
            .repeats_all = true,
            .fp32_logits = true,
        },
    [HLM_LOWERING_MEGATRON_2021] =
        {
            .drops =
                {
                    [HLM_RECOMPUTE_NONE] = HLM_REMAKE_GATHERED,
                    [HLM_RECOMPUTE_SELECTIVE] = HLM_REMAKE_GATHERED | HLM_REMAKE_ATTENTION,
                },
            .composes_attention = true,
            .repeats_all = true,
            .fp32_logits = true,
        },
    [HLM_LOWERING_PYTORCH] =
        {
            .drops =
                {
                    [HLM_RECOMPUTE_NONE] = HLM_REMAKE_GATHERED,
                    [HLM_RECOMPUTE_SELECTIVE] = HLM_REMAKE_GATHERED | HLM_REMAKE_NORM |
                                                HLM_REMAKE_ACTIVATION | HLM_REMAKE_PRODUCT,
                },
            .attention_kernel = HLM_ATTENTION_FLASH_2,
            .repeats_all = true,
            .fp32_logits = true,
        },
    [HLM_LOWERING_PYTORCH_2023] =
        {
            .drops =
                {
                    [HLM_RECOMPUTE_NONE] = HLM_REMAKE_GATHERED,
                    [HLM_RECOMPUTE_SELECTIVE] =
                        HLM_REMAKE_GATHERED | HLM_REMAKE_NORM | HLM_REMAKE_ACTIVATION,
                },
            .attention_kernel = HLM_ATTENTION_FLASH_1,
            .repeats_all = true,
            .fp32_logits = true,
        },
};

/* megatron-2021: 3.4 ms of host time per layer, microbatch and step with full recompute (48 of our
 * operators of 15 us) and 10 ms a step, fitted on one half of vTrain's 1,440 single-node runs of
 * Megatron-DeepSpeed and checked on the other (github:VIA-Research/vTrain@f8dda84).
 * jitter_frac: what published weak scaling loses a doubling of ranks beyond priced communication
 * (0.2-0.5 %: NVIDIA's DGX Cloud recipes of 8 to 2,048 H100, MegaScale's Table 2 to 12,288 A100,
 * arXiv 2402.15627) is the growth of the slowest of n ranks at a deviation of 1-1.5 %.
 * fragments_frac: 15 % on average over training runs on A100 (GMLake, arXiv 2401.08156, abstract).
 */
static const struct hlm_framework frameworks[HLM_NUM_LOWERINGS] = {
    [HLM_LOWERING_HLMPLAN] = {.shares_in_turn = true,
                              .updates_on_device = true,
                              .host_per_launch = 1.0},
    [HLM_LOWERING_MEGATRON] = {.splits_messages = true,
                               .overlaps_dp = true,
                               .sends_rows_once = true,
                               .jitter_frac = 0.01,
                               .fragments_frac = 0.15,
                               .host_per_launch = 4.2},
    [HLM_LOWERING_MEGATRON_2023] = {.splits_messages = true,
                                    .jitter_frac = 0.01,
                                    .fragments_frac = 0.15,
                                    .host_per_launch = 4.7,
                                    .step_host_s = 0.01},
    [HLM_LOWERING_MEGATRON_2021] = {.splits_messages = true,
                                    .jitter_frac = 0.01,
                                    .fragments_frac = 0.15,
                                    .host_per_launch = 4.7,
                                    .step_host_s = 0.01},
    [HLM_LOWERING_PYTORCH] = {.overlaps_dp = true,
                              .jitter_frac = 0.01,
                              .fragments_frac = 0.15,
                              .host_per_launch = 2.0},
    [HLM_LOWERING_PYTORCH_2023] = {.overlaps_dp = true,
                                   .jitter_frac = 0.01,
                                   .fragments_frac = 0.15,
                                   .host_per_launch = 2.0},
};

const struct hlm_framework *hlm_lowering_framework(enum hlm_lowering lowering)
{
    HLM_ASSERT(lowering >= 0 && lowering < HLM_NUM_LOWERINGS);
    return &frameworks[lowering];
}

/* A feature: whether a model and strategy have it. */
struct feature {
    const char *name;
    bool (*present)(const struct hlm_model *model, const struct hlm_strategy *strategy);
};

#define FEATURE(function, condition)                                                               \
    static bool function(const struct hlm_model *model, const struct hlm_strategy *strategy)       \
    {                                                                                              \
        (void)model;                                                                               \
        (void)strategy;                                                                            \
        return condition;                                                                          \
    }
FEATURE(has_ring, strategy->cp > 1 && hlm_strategy_cp_form(strategy) == HLM_CP_FORM_RING)
FEATURE(has_ulysses, strategy->cp > 1 && hlm_strategy_cp_form(strategy) == HLM_CP_FORM_ULYSSES)
FEATURE(has_half_cp, strategy->cp > 1 && strategy->dtype != HLM_DTYPE_FP32)
FEATURE(has_odd_context, strategy->cp > 1 && hlm_model_is_causal(model) &&
                             strategy->seq_len % (2 * strategy->cp) != 0)
FEATURE(has_cut_images, strategy->cp > 1 && model->kind == HLM_MODEL_VIT)
FEATURE(has_experts_without_sp, model->moe.num_experts > 0 && strategy->tp > 1 && !strategy->sp)
FEATURE(has_partial_etp,
        model->moe.num_experts > 0 && strategy->etp > 1 && strategy->etp != strategy->tp)
FEATURE(has_many_mtp, model->mtp_layers > 1)
FEATURE(has_post_norm_mtp,
        model->mtp_layers > 0 && model->norm_placement == HLM_NORM_PLACEMENT_POST)
FEATURE(has_parallel_post_norm, model->residual == HLM_RESIDUAL_PARALLEL &&
                                    model->norm_placement == HLM_NORM_PLACEMENT_POST)
FEATURE(has_odd_vit,
        model->kind == HLM_MODEL_VIT && (model->norm_placement == HLM_NORM_PLACEMENT_POST ||
                                         model->position != HLM_POSITION_LEARNED))
FEATURE(has_types_alone, model->token_types > 0 && model->position != HLM_POSITION_LEARNED)
FEATURE(has_latent, model->mla.kv_lora_rank > 0)
FEATURE(has_qk_norm, model->qk_norm)
FEATURE(has_window, model->attention_window > 0 && model->attention_window < strategy->seq_len)
FEATURE(has_mtp, model->mtp_layers > 0)
FEATURE(has_copied_kv, model->num_kv_heads % strategy->tp != 0)
FEATURE(has_other_expert_dtype, model->moe.num_experts > 0 && strategy->dtype != HLM_DTYPE_FP32)
FEATURE(has_zero_part, strategy->zero > 0 && strategy->zero_group < strategy->dp)
FEATURE(has_offload, strategy->offload != HLM_OFFLOAD_NONE)
FEATURE(has_foreign_lowering, strategy->lowering != HLM_LOWERING_HLMPLAN)
FEATURE(has_other_dtype, strategy->dtype != HLM_DTYPE_FP32 && strategy->dtype != HLM_DTYPE_BF16)
FEATURE(has_other_grad_dtype, strategy->grad_dtype != HLM_DTYPE_FP32)
FEATURE(has_other_master,
        strategy->dtype != HLM_DTYPE_FP32 && strategy->master_dtype != HLM_DTYPE_FP32)
#undef FEATURE

/* What no set expresses. */
static const struct feature inexpressible[] = {
    {"context parallelism of images", has_cut_images},
    {"expert layers with tensor parallelism but without sequence parallelism",
     has_experts_without_sp},
    {"expert tensor parallelism with etp other than 1 or tp", has_partial_etp},
    {"more than one multi-token-prediction layer", has_many_mtp},
    {"multi-token prediction with post-norm", has_post_norm_mtp},
    {"parallel residual with post-norm", has_parallel_post_norm},
    {"a vit with post-norm or without learned positions", has_odd_vit},
    {"token types without learned positions", has_types_alone},
};

/* What is priced, but has no kernels or no runner. */
static const struct feature not_run[] = {
    {"ring attention (cp_form = ring)", has_ring},
    {"Ulysses attention (cp_form = ulysses)", has_ulysses},
    {"context parallelism (cp > 1) in a dtype other than fp32", has_half_cp},
    {"causal context parallelism where 2 * cp does not divide seq_len", has_odd_context},
    {"mixture of experts in a dtype other than fp32", has_other_expert_dtype},
    {"multi-head latent attention", has_latent},
    {"norm of queries and keys (qk_norm)", has_qk_norm},
    {"sliding attention window", has_window},
    {"multi-token prediction", has_mtp},
    {"key and value heads copied over tp (num_kv_heads no multiple of tp)", has_copied_kv},
    {"states shared by a part of dp (zero_group < dp)", has_zero_part},
    {"a lowering set other than hlmplan", has_foreign_lowering},
    {"offload to the host's memory", has_offload},
    {"a dtype other than fp32 and bf16", has_other_dtype},
    {"gradients in a dtype other than fp32", has_other_grad_dtype},
    {"master copies in a dtype other than fp32", has_other_master},
};

#define NUM_ROWS(table) (sizeof(table) / sizeof((table)[0]))

static const char *first_feature(const struct feature *features, size_t num_features,
                                 const struct hlm_model *model, const struct hlm_strategy *strategy)
{
    for (size_t i = 0; i < num_features; i++) {
        if (features[i].present(model, strategy)) {
            return features[i].name;
        }
    }
    return NULL;
}

const char *hlm_lowering_refusal(const struct hlm_model *model, const struct hlm_strategy *strategy)
{
    const char *name = first_feature(inexpressible, NUM_ROWS(inexpressible), model, strategy);
    return name != NULL ? name : first_feature(not_run, NUM_ROWS(not_run), model, strategy);
}

enum hlm_status hlm_lowering_block(struct hlm_arena *arena, const struct hlm_lowering_input *input,
                                   enum hlm_block_kind kind, enum hlm_recompute recompute,
                                   const struct hlm_block **out, struct hlm_err *err)
{
    static void (*const lower[HLM_NUM_BLOCKS])(struct hlm_builder *) = {
        [HLM_BLOCK_EMBEDDING] = hlm_lower_embedding,
        [HLM_BLOCK_DENSE] = hlm_lower_layer,
        [HLM_BLOCK_MOE] = hlm_lower_layer,
        [HLM_BLOCK_HEAD] = hlm_lower_head,
    };
    const struct hlm_strategy *strategy = input->strategy;
    HLM_ASSERT(kind < HLM_NUM_BLOCKS && recompute < HLM_NUM_RECOMPUTES);
    HLM_ASSERT(kind == HLM_BLOCK_DENSE || kind == HLM_BLOCK_MOE || recompute == HLM_RECOMPUTE_NONE);
    HLM_ASSERT(kind != HLM_BLOCK_MOE || input->model->moe.num_experts > 0);
    const char *name =
        first_feature(inexpressible, NUM_ROWS(inexpressible), input->model, strategy);
    if (name != NULL) {
        return hlm_fail(err, HLM_NO, "%s: lowering set %s can't express %s", input->model->name,
                        hlm_lowering_texts[strategy->lowering], name);
    }
    struct hlm_builder builder;
    hlm_builder_init(&builder, arena, input, &traits[strategy->lowering], kind, recompute);
    lower[kind](&builder);
    *out = hlm_builder_finish(&builder);
    return HLM_OK;
}
