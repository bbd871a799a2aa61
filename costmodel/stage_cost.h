/* stage_cost: seconds and bytes of a pipeline stage, from the prices of its blocks.
 *
 * hlm_pricer prices each block kind and recompute mode of a (model, strategy, device group) once
 * from its operator list; a stage is then a sum over counts, so that a search evaluates candidates
 * with a few additions. All costs are trees of named parts that sum to the whole.
 *
 * One pass (forward or backward) of a block takes max(device, host): the device runs its kernels
 * and exposed collectives, the host takes host_per_launch (of the set) * the device's launch
 * overhead a kernel; the part by which the host is slower is HOST. An operator with overlaps_next
 * hides behind the compute operators that follow it in the pass until one reads its result; the
 * ring of context parallelism behind its attention; ZeRO-2 and 3 behind the pass (data_parallel.h),
 * in set hlmplan behind nothing (shards.h).
 */
#ifndef HLM_COSTMODEL_STAGE_COST_H
#define HLM_COSTMODEL_STAGE_COST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "costmodel/collective.h"
#include "costmodel/kernel.h"
#include "costmodel/layout.h"
#include "costmodel/lowering.h"
#include "costmodel/memory.h"
#include "costmodel/offload.h"
#include "costmodel/strategy.h"

#define HLM_PART_MAP(X)                                                                            \
    X(GEMM, "gemm_s")                                                                              \
    X(ATTENTION, "attention_s")                                                                    \
    X(MEMORY_BOUND, "memory_bound_s")                                                              \
    X(RECOMPUTE, "recompute_s") /* forward operators repeated in the backward */                   \
    X(HOST, "host_s")           /* launches slower than the kernels */                             \
    X(TP_COMM, "tp_comm_s")     /* exposed */                                                      \
    X(EP_COMM, "ep_comm_s")                                                                        \
    X(JITTER, "jitter_s") /* waiting for the slowest rank */                                       \
    X(CP_COMM, "cp_comm_s")                                                                        \
    X(DP_COMM, "dp_comm_s") /* ZeRO-2 and 3, inside passes: exposed */                             \
    X(OFFLOAD, "offload_s") /* activations to the host and back (offload.h): exposed */
enum hlm_part {
#define X(name, text) HLM_PART_##name,
    HLM_PART_MAP(X)
#undef X
        HLM_NUM_PARTS
};
const char *hlm_part_text(enum hlm_part part);

/* seconds = sum of part[]. */
struct hlm_pass_cost {
    double seconds;
    double part[HLM_NUM_PARTS];
};

struct hlm_block_cost {
    struct hlm_pass_cost forward, backward, input_grad,
        weight_grad;    /* backward: I and W in list order */
    int64_t slot_bytes; /* per microbatch in flight: hlm_block_slot_bytes */
    int64_t output_bytes;
    int64_t transient_bytes;                   /* more of the two passes */
    int64_t num_elements, num_expert_elements; /* parameters of this rank */
    int64_t num_sum_over_tp;                   /* elements whose gradient is summed over tp (sp) */
    /* The same elements where blocks are shared (costmodel/shards.h), with padding; else equal. And
     * what a step then does once: the sum of shards over tp, and the gather of parameters (ZeRO-2).
     */
    int64_t num_padded, num_padded_expert;
    double shard_reduce_s, shard_gather_s;
    int64_t num_kernels_forward, num_kernels_backward;
    int64_t host_slot_bytes; /* per microbatch in flight, in the host's memory: no part of
                                slot_bytes */
};

/* Prices of one strategy on one device group. blocks[kind][recompute]; embedding and head only
 * NONE. */
struct hlm_pricer {
    const struct hlm_model *model;
    const struct hlm_strategy *strategy;
    const struct hlm_cluster *cluster;
    int32_t device_group;
    int32_t stage; /* one whose ranks are of the group: how groups of ranks lie on nodes */
    bool has_kind[HLM_NUM_BLOCKS];
    struct hlm_block_cost blocks[HLM_NUM_BLOCKS][HLM_NUM_RECOMPUTES];
    const struct hlm_raw_block *raw; /* what blocks were made from, in the arena of init */
    int64_t boundary_bytes;          /* activation of one microbatch between stages, per rank */
    int64_t limit_bytes, fixed_bytes;
};

/* Bytes that one AdamW update moves per parameter: gradient, two moments twice, master copy (or
 * parameter) twice, and the parameter once where it is not the master. fp32: 28; bf16 with fp32
 * gradients: 30. */
double hlm_adamw_bytes_per_element(const struct hlm_strategy *strategy);

/* HLM_NO: the strategy is not legal here, or the device lacks the dtype; the message says which.
 * `strategy` as the ranks of the device group see it (hlm_strategy_at). */
HLM_MUST_CHECK enum hlm_status
hlm_pricer_init(struct hlm_arena *arena, const struct hlm_model *model,
                const struct hlm_strategy *strategy, const struct hlm_cluster *cluster,
                int32_t device_group, struct hlm_pricer *out, struct hlm_err *err);

/* The prices of a strategy that differs from that of `priced` in dp, pp, schedule, vpp, zero and
 * the number of microbatches alone, with first and last stage on the same rank or not as there, and
 * groups of tp, cp and ep that lie on nodes as there: no operator is looked at again. Lives as long
 * as `priced`. */
void hlm_pricer_reuse(const struct hlm_pricer *priced, const struct hlm_strategy *strategy,
                      struct hlm_pricer *out);

/* A layer that is lowered and whose kernels are priced, to find what it takes at the least under
 * many strategies: errors as hlm_pricer_init, a small part of its work. Lives in the arena. */
struct hlm_least_layer;
HLM_MUST_CHECK enum hlm_status
hlm_least_layer_new(struct hlm_arena *arena, const struct hlm_model *model,
                    const struct hlm_strategy *strategy, const struct hlm_cluster *cluster,
                    int32_t device_group, enum hlm_block_kind kind, struct hlm_least_layer **out,
                    struct hlm_err *err);

/* What it takes at the least for a microbatch, forward and backward (in halves where these take
 * less), in whatever recompute mode, schedule and sharing of states: without recompute, which only
 * adds operators, and before all that sharing and frameworks add. The strategy differs from that of
 * the layer in dp, pp, zero, the number of microbatches, and so in where groups stand, alone. */
double hlm_least_layer_s(struct hlm_least_layer *least, const struct hlm_strategy *strategy);

/* What a stage holds: counts of layers by kind (dense, moe) and recompute mode. */
struct hlm_stage_shape {
    int32_t stage, num_stages;
    bool embedding, head;
    int32_t layers[HLM_NUM_BLOCKS][HLM_NUM_RECOMPUTES]; /* rows DENSE and MOE */
};

struct hlm_stage_cost {
    struct hlm_pass_cost forward, backward, input_grad, weight_grad; /* one microbatch */
    double reduce_s;    /* gradient reduction over dp (and of sum_over_tp over tp), exposed; from
                           ZeRO-2 on the passes hold that over dp */
    double optimizer_s; /* gradient norm's sum, update, zeroing, gather_s */
    double gather_s;    /* ZeRO-1 and 2: gather of parameters, exposed; 0 otherwise */
    struct hlm_offload_update offload; /* of optimizer_s, where states live on the host */
    int64_t num_elements, num_expert_elements;
    int64_t num_padded, num_padded_expert; /* sums of the blocks' */
    int64_t static_bytes[HLM_NUM_MEMORY_KINDS];
    int64_t slot_bytes; /* per microbatch in flight, boundary buffers included */
    int64_t transient_bytes;
    int64_t host_static_bytes, host_slot_bytes; /* in the host's memory */
};

/* Exactly the sizes that the executor allocates (set hlmplan): per slot each block's slot_bytes,
 * the stage's output, in whose place its gradient comes back (unless the stage has the head), and,
 * on stages behind the first, the gradient that is sent back (part of the first block's slot_bytes
 * where the schedule splits the backward); transient: two boundary gradients, where the backward is
 * not split, and the largest block transient, from ZeRO-2 on with its whole units. A rank with
 * several stages has the static bytes and slots of all of them and the largest transient. */
void hlm_stage_cost(const struct hlm_pricer *pricer, const struct hlm_stage_shape *shape,
                    struct hlm_stage_cost *out);

/* Memory of a stage with `in_flight` microbatches, by kind. */
void hlm_stage_memory(const struct hlm_pricer *pricer, const struct hlm_stage_shape *shape,
                      const struct hlm_stage_cost *cost, int32_t in_flight,
                      struct hlm_stage_memory *out);

/* One message of the boundary between stage and stage + 1 (both directions cost the same), and
 * whether it needs both sides. 0 between stages of one rank. Where tp differs, ranks of the side
 * with fewer of them send to, or receive from, several of the other one after the other; with sp
 * each of these messages is a part. */
double hlm_stage_send_s(const struct hlm_pricer *pricer, int32_t stage, bool *out_both_sides);

/* Where all ranks meet at the end of a step: the tied-embedding reduction between first and last
 * stage (when different ranks have them) and the gradient norm's scalar all-reduce over all ranks;
 * over several device groups: over the slowest, and up and down the links between them. */
double hlm_stage_sync_s(const struct hlm_pricer *pricer);

#endif
