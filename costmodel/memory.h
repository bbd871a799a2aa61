/* memory: what a block keeps, what it needs for a moment, and what a stage holds in all.
 *
 * From an operator list follows where each tensor lives:
 *
 *   EXTERNAL   the stage's: the block's input, output and their gradients, parameters, data
 *   STASH      activations that the backward reads before writing them: one copy per microbatch in
 *              flight
 *   HELD       split backward only: what I writes and W reads, also once per microbatch in flight
 *              (the same tensor in the forward, where I makes it again, is transient there)
 *   TRANSIENT  the rest: inside one pass, offsets by first-fit over live ranges
 *
 * A backward that is split (schedules with I and W) runs all operators of part INPUT_GRAD, some
 * time later those of part WEIGHT_GRAD: two passes with transient tensors of their own. B of such a
 * schedule is one behind the other. The gradient of a block's input, which another block's W reads,
 * then has a place per microbatch too.
 *
 * The executor hands out exactly these offsets, so predicted and real sizes are the same numbers.
 */
#ifndef HLM_COSTMODEL_MEMORY_H
#define HLM_COSTMODEL_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/json.h"
#include "costmodel/op.h"

#define HLM_PLACE_MAP(X)                                                                           \
    X(EXTERNAL, "external") X(STASH, "stash") X(HELD, "held") X(TRANSIENT, "transient")
enum hlm_place {
#define X(name, text) HLM_PLACE_##name,
    HLM_PLACE_MAP(X)
#undef X
};

enum { HLM_ALIGNMENT_BYTES = 256 };

struct hlm_block_memory {
    bool split;
    /* [num_tensors]; offsets: inside the stash, inside what is held, or inside the pass's transient
     * region (a tensor that full recompute makes again has one in each pass); -1: not there. Split:
     * backward_offset is that of I, weight_offset that of W; else both are the same. */
    const enum hlm_place *place;
    const int64_t *forward_offset, *backward_offset, *weight_offset;
    int64_t stash_bytes, held_bytes; /* per microbatch, aligned */
    int64_t input_grad_bytes;        /* of the input's gradient, per microbatch; 0 unless split */
    int64_t forward_transient_bytes, backward_transient_bytes; /* split: the larger of I and W */
    int64_t input_bytes, output_bytes; /* of the boundary activations, aligned */
    bool keeps_input, keeps_output;    /* the backward reads them */
    int64_t num_param_elements;        /* of this rank's shards */
    int64_t num_expert_elements;       /* of these, sharded over ep */
};

void hlm_block_memory(struct hlm_arena *arena, const struct hlm_block *block,
                      struct hlm_block_memory *out);
/* The same for a schedule whose backward is split, or not. */
void hlm_block_memory_of(struct hlm_arena *arena, const struct hlm_block *block, bool split,
                         struct hlm_block_memory *out);

/* Bytes of one block per microbatch in flight: stash, what is held, its input, the gradient of
 * that where it has a place, its data (tokens, targets, pixels). */
int64_t hlm_block_slot_bytes(const struct hlm_block *block, const struct hlm_block_memory *memory);
/* Of these, the data; each tensor of it aligned, in the order of the block's tensors. */
int64_t hlm_block_data_bytes(const struct hlm_block *block);
/* Whether the role is data, which the executor uploads for each microbatch. */
bool hlm_tensor_is_data(enum hlm_tensor_role role);

/* Memory of one stage and rank by kind; the sum of the kinds is the peak. */
#define HLM_MEMORY_KIND_MAP(X)                                                                     \
    X(PARAMETERS, "parameters_bytes")                                                              \
    X(GRADIENTS, "gradients_bytes")                                                                \
    X(OPTIMIZER, "optimizer_bytes")                                                                \
    X(ACTIVATIONS, "activations_bytes")                                                            \
    X(TRANSIENT, "transient_bytes")                                                                \
    X(FIXED, "fixed_bytes")
enum hlm_memory_kind {
#define X(name, text) HLM_MEMORY_##name,
    HLM_MEMORY_KIND_MAP(X)
#undef X
        HLM_NUM_MEMORY_KINDS
};
struct hlm_stage_memory {
    int32_t stage;
    int64_t bytes[HLM_NUM_MEMORY_KINDS];
    int64_t peak_bytes, limit_bytes;
    int64_t host_bytes; /* in the host's memory (offload.h); no part of the peak */
};
extern const char *const hlm_memory_kind_texts[];

/* Bytes of parameters, gradients and optimizer states for num_elements parameters (of which
 * num_expert_elements are data parallel over edp only) under the strategy's dtypes and ZeRO stage:
 * dtype as stored + grad_dtype + (master where dtype is not fp32) + 2 fp32 moments, the last two
 * divided by zero_group at zero 1, the gradient too at zero 2, all at zero 3; slabs padded to a
 * multiple of zero_group. Source: Rajbhandari et al. 2020 (ZeRO), Megatron-LM distributed
 * optimizer. Of the device: where the optimizer's states live in the host's memory, these are 0. */
void hlm_memory_static(const struct hlm_strategy *strategy, int64_t num_elements,
                       int64_t num_expert_elements, int64_t bytes[HLM_NUM_MEMORY_KINDS]);

/* Bytes of moments and master copies of one parameter. */
double hlm_memory_state_bytes(const struct hlm_strategy *strategy);
/* What a rank keeps of these in the host's memory: 0 unless the strategy offloads them. */
int64_t hlm_memory_host_states(const struct hlm_strategy *strategy, int64_t num_elements,
                               int64_t num_expert_elements);

#endif
