/* lowering: from a model and a strategy to the operator lists of its blocks.
 *
 * A lowering set says what a framework launches: which fusions, which attention kernel, what
 * selective recompute drops, what overlaps. `hlmplan` is what our executor runs. `megatron` follows
 * Megatron-Core with Transformer Engine (fused attention, gradient-accumulation fusion,
 * asynchronous all-reduce of the input gradient behind the weight gradient) and is priced only.
 *
 * What recompute keeps, for set hlmplan: none: all that the backward reads, attention probabilities
 * included where the backend has no fused attention (cpu); selective: drops probabilities, norm
 * outputs and activation outputs, and computes these memory-bound operators again just before their
 * readers; full: keeps the block's input only and starts the backward with the forward, as far as
 * its last result that a gradient needs (the second product of a pre-norm MLP is not repeated). Set
 * megatron: none: never probabilities; selective: attention alone is repeated, its log-sum-exp
 * dropped (its output stays: the projection behind it needs it); full: repeats all of the forward.
 * In both sets gathered sequence-parallel inputs are not kept but gathered again from the kept
 * shard (with full recompute hlmplan uses those that the repeated forward has gathered, megatron
 * gathers once more). So it is with keys and values that were gathered over cp: the backward
 * gathers them again from the qkv that it keeps. Rows between experts are preceded by their numbers
 * in set hlmplan; the other sets leave that small exchange out. Dropout is neither priced nor run.
 *
 * Set `megatron-2021` is Megatron-LM and Megatron-DeepSpeed before fused attention (2020 to 2022,
 * Narayanan et al. 2021, Korthikanti et al. 2022): attention composed of batched products, masked
 * softmax and dropout, whose probabilities stay unless recomputed, and no collective beside
 * compute. Recompute as megatron.
 */
#ifndef HLM_COSTMODEL_LOWERING_H
#define HLM_COSTMODEL_LOWERING_H

#include "base/arena.h"
#include "costmodel/op.h"

/* How rows come to experts. EVEN is what prices assume: every expert gets its share, and that need
 * not be whole. TOPK follows the scores; a rank then has room for all rows that could come to it,
 * so none is dropped, and its tensors at the experts are up to ep times as large as predicted.
 * BALANCED ignores the scores, for timing: choice j of row i is expert (i * top_k + j) %
 * num_experts, and the memory is as predicted where the rows divide evenly. */
#define HLM_ROUTING_MAP(X) X(EVEN, "even") X(TOPK, "topk") X(BALANCED, "balanced")
enum hlm_routing {
#define X(name, text) HLM_ROUTING_##name,
    HLM_ROUTING_MAP(X)
#undef X
};
extern const char *const hlm_routing_texts[];

struct hlm_lowering_input {
    const struct hlm_model *model;
    const struct hlm_strategy *strategy;
    enum hlm_backend_kind backend;
    int32_t tp_rank; /* which shard: 0 .. tp-1 (sizes are equal, offsets differ) */
    int32_t ep_rank;
    bool last_stage_copy; /* HEAD of a tied model: on another rank than the embedding, so it has its
                             own copy of the table (hlm_layout_ends_apart); else it uses that of the
                             embedding block (param index -1) */
    enum hlm_routing routing;
    int32_t cp_rank; /* which positions (costmodel/context.h) */
};

/* The block of one kind under one recompute mode. Embedding and head have recompute NONE only.
 * HLM_NO with the feature's name when the set can't express it. */
HLM_MUST_CHECK enum hlm_status
hlm_lowering_block(struct hlm_arena *arena, const struct hlm_lowering_input *input,
                   enum hlm_block_kind kind, enum hlm_recompute recompute,
                   const struct hlm_block **out, struct hlm_err *err);

/* What a framework does around the operators of its blocks. */
struct hlm_framework {
    bool splits_messages; /* each tp rank sends its part of a stage's output, and gathers the whole
                             behind the receive (Narayanan et al. 2021, section 4.1) */
    bool overlaps_dp; /* gradients are reduced beside the last backward, parameters gathered beside
                         the first forward */
    bool shares_in_turn; /* from ZeRO-2 on: blocks are shared as in costmodel/shards.h, nothing runs
                            beside that; else it hides behind the passes */
    bool sends_rows_once; /* experts' exchange crosses nodes once per row (hlm_collective_dispatch)
                           */
    /* Host seconds per operator, over the device's launch overhead (one operator of eager PyTorch):
     * module and autograd code, random states, and operators that our list has in one. */
    double host_per_launch;
    /* Standard deviation of a rank's speed over its mean. A synchronous step is as slow as the
     * slowest of its n ranks, whose expected lag is about that times sqrt(2 ln n) (maximum of n
     * normal variables). */
    double jitter_frac;
    /* What the allocator holds beyond the activations and passing tensors in use, over these:
     * fragments of PyTorch's caching allocator. 0: offsets are planned ahead (memory.h). */
    double fragments_frac;
    /* Optimizer states of the host's memory come to the device for its update and go back (llm.q);
     * else gradients go to the host, which updates and sends the parameters (ZeRO-Offload, Ren et
     * al. 2021, arXiv 2101.06840; Megatron-Core's hybrid optimizer). */
    bool updates_on_device;
    double step_host_s; /* host time of a step outside the passes: data, loss scale, logging */
};
const struct hlm_framework *hlm_lowering_framework(enum hlm_lowering lowering);

/* What our executor can't run of a (model, strategy), by name ("mixture of experts"), or NULL. */
const char *hlm_lowering_refusal(const struct hlm_model *model,
                                 const struct hlm_strategy *strategy);

#endif
