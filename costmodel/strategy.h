/* strategy: the degrees and switches of one way to train, apart from the placement of layers.
 *
 * world_size = dp * tp * pp * cp. Microbatches: global_batch_size = dp * microbatch_size *
 * num_microbatches. ep * etp is carved out of dp * cp * tp, edp = dp * cp * tp / (ep * etp).
 */
#ifndef HLM_COSTMODEL_STRATEGY_H
#define HLM_COSTMODEL_STRATEGY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/json.h"
#include "profiles/cluster.h"
#include "profiles/dtype.h"
#include "profiles/model.h"

#define HLM_SCHEDULE_MAP(X)                                                                        \
    X(GPIPE, "gpipe")                                                                              \
    X(1F1B, "1f1b")                                                                                \
    X(1F1B_OVERLAP, "1f1b-overlap")                                                                \
    X(INTERLEAVED, "interleaved")                                                                  \
    X(ZB_H1, "zb-h1")                                                                              \
    X(ZB_H2, "zb-h2")                                                                              \
    X(ZB_V, "zb-v") X(V_HALF, "v-half") X(V_MIN, "v-min") X(DUALPIPE_V, "dualpipe-v")
enum hlm_schedule_kind {
#define X(name, text) HLM_SCHEDULE_##name,
    HLM_SCHEDULE_MAP(X)
#undef X
        HLM_NUM_SCHEDULES
};
extern const char *const hlm_schedule_texts[];

/* Model chunks per rank that a schedule can have: 1; 2 and more for interleaved; 2 for the
 * schedules in the shape of a V. */
struct hlm_schedule_chunks {
    int32_t min, max;
};
struct hlm_schedule_chunks hlm_schedule_chunks(enum hlm_schedule_kind kind);

/* Whether the backward is split: the schedule has actions I and W (beside B, in some). */
bool hlm_schedule_splits(enum hlm_schedule_kind kind);

#define HLM_RECOMPUTE_MAP(X) X(NONE, "none") X(SELECTIVE, "selective") X(FULL, "full")
enum hlm_recompute {
#define X(name, text) HLM_RECOMPUTE_##name,
    HLM_RECOMPUTE_MAP(X)
#undef X
        HLM_NUM_RECOMPUTES
};
extern const char *const hlm_recompute_texts[];

#define HLM_LOWERING_MAP(X)                                                                        \
    X(HLMPLAN, "hlmplan")                                                                          \
    X(MEGATRON, "megatron")                                                                        \
    X(MEGATRON_2023, "megatron-2023")                                                              \
    X(MEGATRON_2021, "megatron-2021")                                                              \
    X(PYTORCH, "pytorch")                                                                          \
    X(PYTORCH_2023, "pytorch-2023")
enum hlm_lowering {
#define X(name, text) HLM_LOWERING_##name,
    HLM_LOWERING_MAP(X)
#undef X
        HLM_NUM_LOWERINGS
};
extern const char *const hlm_lowering_texts[];

/* How attention meets the keys and values of the other ranks of the cp group:
 *   allgather  all are gathered in front of it, and their gradients reduce-scattered behind its
 *              backward (Dubey et al. 2024, arXiv 2407.21783, section 3.3.2); our executor's
 *   ring       they pass round the group beside it (Liu et al. 2023, arXiv 2310.01889)
 *   ulysses    all-to-alls change a part of all heads for all of some heads, in front of it and
 *              behind it (Jacobs et al. 2023, arXiv 2309.14509)
 *   auto       allgather in set hlmplan, ring in the others */
#define HLM_CP_FORM_MAP(X)                                                                         \
    X(AUTO, "auto") X(ALLGATHER, "allgather") X(RING, "ring") X(ULYSSES, "ulysses")
enum hlm_cp_form {
#define X(name, text) HLM_CP_FORM_##name,
    HLM_CP_FORM_MAP(X)
#undef X
        HLM_NUM_CP_FORMS
};
extern const char *const hlm_cp_form_texts[];

/* What lives in the host's memory in place of the device's (priced only; costmodel/offload.h):
 *   optimizer    moments and master copies, as the ZeRO stage shards them
 *   inputs       of each microbatch in flight, the inputs of the layers: with full recompute all
 *                that is kept of them
 *   activations  all that layers keep for their backward, inputs included
 *   optimizer+inputs, all (optimizer and activations) */
#define HLM_OFFLOAD_MAP(X)                                                                         \
    X(NONE, "none")                                                                                \
    X(OPTIMIZER, "optimizer")                                                                      \
    X(INPUTS, "inputs")                                                                            \
    X(ACTIVATIONS, "activations")                                                                  \
    X(OPTIMIZER_INPUTS, "optimizer+inputs")                                                        \
    X(ALL, "all")
enum hlm_offload {
#define X(name, text) HLM_OFFLOAD_##name,
    HLM_OFFLOAD_MAP(X)
#undef X
        HLM_NUM_OFFLOADS
};
extern const char *const hlm_offload_texts[];

/* The same, part by part. */
struct hlm_offload_parts {
    bool optimizer, inputs, activations; /* activations: not the inputs */
};
struct hlm_offload_parts hlm_offload_parts(enum hlm_offload offload);

/* Where one pipeline rank stands when they are not all alike (mixed clusters): its own tensor
 * parallelism, its first rank, and the device that this one runs on; its other ranks follow. */
struct hlm_rank_place {
    int32_t tp, first_rank;
    int64_t first_device; /* of the cluster */
};

/* Replicas of the whole pipeline that are alike: all their ranks are devices of one device group,
 * and each of them has so many microbatches of a step. */
struct hlm_replicas {
    int32_t device_group; /* index into cluster.groups */
    int32_t dp;           /* replicas */
    int64_t num_microbatches;
    int64_t first_device; /* of the cluster; their others follow, numbered as those of a strategy of
                             dp replicas. Not in files: hlm_layout_locate_replicas */
};

struct hlm_strategy {
    int32_t dp, tp, pp, cp, ep, etp, vpp;
    bool sp;
    int32_t zero; /* sharded over zero_group ranks: 1 optimizer states, 2 also gradients, 3 also
                     parameters; 0: nothing */
    int32_t zero_group; /* ranks that share states; dp when zero > 0, else 1 */
    enum hlm_schedule_kind schedule;
    int64_t microbatch_size, num_microbatches, global_batch_size; /* sequences */
    int64_t seq_len;                                              /* tokens */
    enum hlm_dtype dtype, grad_dtype, master_dtype;
    enum hlm_lowering lowering;
    enum hlm_cp_form cp_form;
    enum hlm_offload offload;
    int32_t offload_layers; /* of the model whose inputs or activations are offloaded; 0: all */
    /* [pp], or NULL: every pipeline rank has tp, and rank r runs on device r. Not in files: a
     * plan's stages say it. */
    const struct hlm_rank_place *places;
    /* Data parallelism over unlike devices: [num_replicas] whose dp sum to dp, in the order of the
     * dp coordinate; num_microbatches is then that of those with most. num_replicas 0: all alike.
     */
    const struct hlm_replicas *replicas;
    int32_t num_replicas;
    /* Not in files. 0: the whole strategy; i + 1: as the ranks of replicas[i] see it
     * (hlm_strategy_of_replicas). */
    int32_t seen_replicas;
};
extern const struct hlm_json_table hlm_strategy_table;

/* dp * tp * pp * cp; with places the sum over pipeline ranks. */
int64_t hlm_strategy_world_size(const struct hlm_strategy *strategy);

/* The form of context parallelism, never AUTO. */
enum hlm_cp_form hlm_strategy_cp_form(const struct hlm_strategy *strategy);

/* The strategy as the ranks of pipeline rank `pp` see it: tp is theirs; where that is 1, sp only
 * says how the others cut what they exchange with them (costmodel/boundary.h).
 * What a stage costs and runs is a function of this one. */
struct hlm_strategy hlm_strategy_at(const struct hlm_strategy *strategy, int32_t pp);

/* dp of the whole strategy, also where it is seen by some of its replicas. */
int32_t hlm_strategy_all_dp(const struct hlm_strategy *strategy);

/* The strategy as the ranks of replicas[index] see it: dp, num_microbatches and global_batch_size
 * are theirs, everything else is shared. What states are sharded over, and what all replicas do
 * together (reduction, gather, norm), is still that of all. Points to the same `replicas`. */
struct hlm_strategy hlm_strategy_of_replicas(const struct hlm_strategy *strategy, int32_t index);

/* The strategy as the ranks of a replica see it, by its dp coordinate: the whole one where all are
 * alike. *out_first_sample (may be NULL): the first of its samples in the global batch. */
struct hlm_strategy hlm_strategy_of_replica(const struct hlm_strategy *strategy, int32_t dp,
                                            int64_t *out_first_sample);

/* Whether this strategy is legal for this model, whatever the cluster: each rule one row of a
 * table, and the message says the rule, the values and the nearest legal ones ("tp = 5 does not
 * divide num_heads = 12"). Rules: tp divides num_heads, ffn_size, and num_kv_heads (or is a
 * multiple of it: then kv heads are replicated); pp <= num_layers + 2 (embedding and head are
 * blocks too); vpp within hlm_schedule_chunks; experts with tp > 1 need sp, etp is 1 or tp;
 * sp needs tp > 1 on some pipeline rank and tp divides microbatch tokens; cp divides seq_len, with
 * ulysses tp * cp divides num_heads and num_kv_heads; ep divides num_experts and dp * cp * tp;
 * batch = dp * microbatch_size * num_microbatches, or with replicas their sum, with one model
 * chunk, and without cp, experts, places, offload, a part of dp that shares states, and ZeRO-2 and
 * 3; with places, tp of neighbours (of several chunks also the last and the first) divide one
 * another, and tied embeddings need one tp at both ends; zero in 0..3; inputs and activations go to
 * the host only where the backward is not split; seq_len within learned positions; at most 2^30
 * ranks, 2^32 tokens a microbatch and pp * vpp * num_microbatches of 2^22; ... HLM_NO with the
 * reason; err may be NULL. */
HLM_MUST_CHECK enum hlm_status hlm_strategy_check(const struct hlm_strategy *strategy,
                                                  const struct hlm_model *model,
                                                  struct hlm_err *err);

/* Fills grad_dtype, master_dtype, zero_group, etp, cp, vpp, num_microbatches from the rest (zeros):
 * gradients and master copies fp32 in every mixed precision (Megatron's default). */
void hlm_strategy_complete(struct hlm_strategy *strategy);

/* Sets one field by its JSON name from a text, as --set and --require do ("tp", "8"). HLM_USAGE for
 * an unknown name or a value that does not parse; knows the names of hlm_strategy_table and
 * "recompute" is not among them (it belongs to stages). */
HLM_MUST_CHECK enum hlm_status hlm_strategy_set(struct hlm_strategy *strategy, const char *key,
                                                const char *value, struct hlm_err *err);

#endif
