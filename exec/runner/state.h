/* state: what one rank holds. Parameters, gradients and optimizer states of its stages, activations
 * of the microbatches in flight, and the workspace of the pass that runs.
 *
 * All sizes come from costmodel/memory and costmodel/stage_cost; the state only hands out offsets
 * inside one slab per kind, allocated and touched before the first step. Each stage of the rank has
 * slabs of its own: its gradients are reduced as soon as its last backward has run, by one
 * collective, while other stages of the rank still work, and its parameters are gathered by one.
 *   params            every parameter of every block in the strategy's dtype, those with
 *                     sum_over_tp first, padded to a multiple of the ranks that share them; then
 *                     those of experts, likewise
 *   grads             the same elements in fp32
 *   master            dtype bf16: fp32 copies of the range that this rank updates
 *   exp_avg, exp_avg_sq  of the same range, fp32
 *   slots[in_flight]  per microbatch: each block's input, what it keeps for its backward, and data;
 *                     the stage's output, in whose place its gradient comes back; the gradient that
 *                     is sent to the stage below
 * transient, one for all stages: two boundary gradients (where the backward is not split, see
 * costmodel/memory.h), then the workspace of one pass.
 *
 * From ZeRO-2 on (costmodel/shards.h) elements are counted in the same way, block by block and unit
 * by unit, but of gradients, from ZeRO-3 on of parameters too, the slabs have this rank's shards
 * only, one behind the other; whole ones of one block stand behind the workspace of its pass.
 */
#ifndef HLM_EXEC_STATE_H
#define HLM_EXEC_STATE_H

#include "base/arena.h"
#include "costmodel/lowering.h"
#include "costmodel/memory.h"
#include "costmodel/op.h"
#include "costmodel/shards.h"
#include "exec/backend.h"
#include "planner/plan.h"

/* One parameter of one block of a stage, in slab order. */
struct hlm_state_param {
    const struct hlm_param *param;
    const char *name; /* global: "layer.3.qkv.weight" */
    int64_t offset;   /* elements from the start of the slab */
    int64_t num_elements;
};

/* A unit of one block's parameters that ranks share (costmodel/shards.h), in slab order. */
struct hlm_state_unit {
    const struct hlm_state_stage *stage;
    enum hlm_group group;
    int64_t first, num_padded;    /* elements from the start of the slab */
    int64_t num_sum_over_tp;      /* leading elements whose gradient is summed over tp */
    int64_t own_first, own_count; /* this rank's shard */
    int64_t shard;                /* where it stands among the shards of the stage */
};

/* Offsets are bytes from the slot's start, -1: none. */
struct hlm_state_block {
    const struct hlm_block *block;
    const struct hlm_block_memory *memory;
    int32_t layer;               /* -1: embedding or head */
    const int64_t *param_offset; /* [block->num_params] elements from the slab's start */
    int64_t input_offset, stash_offset, held_offset, data_offset;
    int64_t input_grad_offset; /* split backward, or the first block of a stage with one below */
    /* From ZeRO-2 on: its units by enum hlm_shard_kind (NULL: none), maybe of another block, where
     * each begins among the whole elements, and these in bytes from the transient. */
    const struct hlm_block_shards *shards;
    const struct hlm_state_unit *units[HLM_NUM_SHARD_KINDS];
    int64_t whole_first[HLM_NUM_SHARD_KINDS];
    int64_t whole_params_offset, whole_grads_offset;
    int64_t whole_bytes; /* of both */
};

struct hlm_state_stage {
    int32_t stage;
    bool first, last; /* of the model: has the embedding, the head */
    const struct hlm_state_block *blocks;
    int32_t num_blocks;
    const struct hlm_state_param *params;
    int32_t num_params;
    int64_t num_elements, num_padded; /* of the slab */
    int64_t num_sum_over_tp;          /* leading elements whose gradient is summed over tp */
    int64_t own_first, own_count;     /* elements that this rank's optimizer updates */
    /* Elements from expert_first on belong to experts (num_padded where there are none), which edp
     * shares in place of dp. Those that this rank updates; their moments and master copies stand
     * behind those of the others. */
    int64_t expert_first, own_expert_first, own_expert_count;
    /* From ZeRO-2 on, else 0 of them; own_first is then 0 and own_count the sum of the shards. */
    const struct hlm_state_unit *units;
    int32_t num_units;
    int64_t num_held_params, num_held_grads; /* elements of the slabs */
    char *params_slab;
    float *grads_slab, *master, *exp_avg, *exp_avg_sq; /* master NULL for dtype fp32 */
    char *slots;
    int64_t slot_bytes;
    int32_t num_slots;
    int64_t output_offset; /* in a slot; -1 with the head */
};

struct hlm_state {
    const struct hlm_plan *plan;
    struct hlm_strategy strategy; /* the plan's, as this rank sees it: hlm_strategy_at */
    struct hlm_coords coords;
    int32_t rank;
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    enum hlm_dtype dtype; /* of parameters, activations and messages: fp32 or bf16 */
    int64_t dtype_bytes;
    bool split; /* the backward, into I and W */
    enum hlm_routing routing;
    int32_t ep_rank, edp_rank; /* positions in the groups; 0 without experts */
    const struct hlm_state_stage *stages;
    int32_t num_stages; /* of this rank, in ascending order */
    /* The token table that embedding and head share: stage of this rank that has it (index, -1:
     * none), and where in the slab. A rank with the head alone has a copy (param->tied). */
    int32_t tied_stage;
    int64_t tied_offset, tied_elements;
    int64_t boundary_bytes; /* of one message */
    char *grad_buffers[2];  /* NULL where the backward is split */
    char *transient;
    double *loss, *sum; /* one double each */
    int64_t allocated_bytes;
};

/* Builds the blocks of this rank's stages, allocates and initialises (parameters by their global
 * index from `seed`, see base/rng.h: init_mean + init_std * normal(hash(name) ^ seed, row *
 * global_cols + col), rounded to fp32, that to bf16 where the dtype is, to nearest even).
 * HLM_FAILED: out of memory. HLM_NO: exec can't run the plan (hlm_lowering_refusal). HLM_ENV: the
 * backend has no operators of the dtype, or of experts where the model has some. */
HLM_MUST_CHECK enum hlm_status hlm_state_new(struct hlm_arena *arena, const struct hlm_plan *plan,
                                             int32_t rank, struct hlm_backend *backend,
                                             uint64_t seed, struct hlm_state **out,
                                             struct hlm_err *err);
/* The same with a choice of how rows come to experts: TOPK, as hlm_state_new has it, or BALANCED.
 * With TOPK and ep > 1 more is allocated than the plan promises (HLM_ROUTING_MAP). */
HLM_MUST_CHECK enum hlm_status hlm_state_new_routed(struct hlm_arena *arena,
                                                    const struct hlm_plan *plan, int32_t rank,
                                                    struct hlm_backend *backend, uint64_t seed,
                                                    enum hlm_routing routing,
                                                    struct hlm_state **out, struct hlm_err *err);
void hlm_state_free(struct hlm_state *state); /* NULL accepted */

/* Sets parameters, moments and gradients to their first values again. */
HLM_MUST_CHECK enum hlm_status hlm_state_reset(struct hlm_state *state, uint64_t seed,
                                               struct hlm_err *err);

/* A pass over the blocks of a stage: BACKWARD is all of it, or I where the backward is split. */
enum hlm_state_pass { HLM_STATE_FORWARD, HLM_STATE_BACKWARD, HLM_STATE_WEIGHT_GRAD };

/* Address of a tensor of a block for microbatch slot `slot` of a stage in one pass. grad_input and
 * grad_output are the gradients of the block's boundaries (not FORWARD). */
struct hlm_state_binding {
    const struct hlm_state_stage *stage;
    int32_t slot;
    enum hlm_state_pass pass;
    void *grad_output, *grad_input;
};
void *hlm_state_address(const struct hlm_state *state, int32_t block, int32_t tensor,
                        const struct hlm_state_binding *binding);

char *hlm_state_slot(const struct hlm_state_stage *stage, int32_t slot);

/* Index of a stage among those of the rank; -1: another rank has it. */
int32_t hlm_state_find_stage(const struct hlm_state *state, int32_t stage);

/* Elements of one moment; where that of element `first`, one of this rank's, stands among them. */
int64_t hlm_state_num_moments(const struct hlm_state_stage *stage);
int64_t hlm_state_moment(const struct hlm_state_stage *stage, int64_t first);

/* The unit of an element; NULL before ZeRO-2. */
const struct hlm_state_unit *hlm_state_find_unit(const struct hlm_state_stage *stage,
                                                 int64_t element);

/* Elements that this rank updates: range `index` of hlm_state_num_ranges, [*first, *first + count);
 * returns the count. */
int32_t hlm_state_num_ranges(const struct hlm_state_stage *stage);
int64_t hlm_state_range(const struct hlm_state_stage *stage, int32_t index, int64_t *first);

/* Where element `first` of the accumulated gradients stands; from ZeRO-2 on one of this rank's. */
float *hlm_state_grad_address(const struct hlm_state_stage *stage, int64_t first);

/* Where the whole unit of a kind stands while the block's pass runs. */
char *hlm_state_whole_params(const struct hlm_state *state, const struct hlm_state_block *block,
                             enum hlm_shard_kind kind);
float *hlm_state_whole_grads(const struct hlm_state *state, const struct hlm_state_block *block,
                             enum hlm_shard_kind kind);

/* Where element `first` of the parameters stands; from ZeRO-3 on one of this rank's. */
char *hlm_state_param_address(const struct hlm_state *state, const struct hlm_state_stage *stage,
                              int64_t first);

#endif
