/* state: what one rank holds. Parameters, gradients and optimizer states of its stages, activations
 * of the microbatches in flight, and the workspace of the pass that runs.
 *
 * All sizes come from costmodel/memory and costmodel/stage_cost; the state only hands out offsets
 * inside one slab per kind, allocated and touched before the first step. Slabs of one stage:
 *   params, grads      every parameter of every block, those with sum_over_tp first, padded to a
 *                      multiple of zero_group
 *   exp_avg, exp_avg_sq  the range of it that this rank updates
 *   slots[in_flight]   per microbatch: each block's input, stash and data, the stage's output, and
 * the gradient that is sent to the stage below transient          two boundary gradients, then the
 * workspace of one pass
 */
#ifndef HLM_EXEC_STATE_H
#define HLM_EXEC_STATE_H

#include "base/arena.h"
#include "costmodel/memory.h"
#include "costmodel/op.h"
#include "exec/backend.h"
#include "planner/plan.h"

/* One parameter of one block of the stage, in slab order. */
struct hlm_state_param {
    const struct hlm_param *param;
    const char *name; /* global: "layer.3.qkv.weight" */
    int64_t offset;   /* elements from the start of the slab */
    int64_t num_elements;
};

struct hlm_state_block {
    const struct hlm_block *block;
    const struct hlm_block_memory *memory;
    int32_t layer;               /* -1: embedding or head */
    const int64_t *param_offset; /* [block->num_params] elements from the slab's start */
    int64_t input_offset, stash_offset, data_offset; /* bytes from the slot's start */
};

struct hlm_state {
    const struct hlm_plan *plan;
    struct hlm_coords coords;
    int32_t rank, stage;
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    const struct hlm_state_block *blocks;
    int32_t num_blocks;
    const struct hlm_state_param *params;
    int32_t num_params;
    int64_t num_elements, num_padded;   /* of the slab */
    int64_t num_sum_over_tp;            /* leading elements whose gradient is summed over tp */
    int64_t tied_offset, tied_elements; /* the shared table in this slab, 0 elements: none here */
    int64_t own_first, own_count;       /* elements that this rank's optimizer updates */
    float *params_slab, *grads_slab, *exp_avg, *exp_avg_sq;
    char *slots;
    int64_t slot_bytes;
    int32_t num_slots;
    int64_t output_offset, dinput_offset; /* in a slot; -1: none */
    int64_t boundary_bytes;               /* of one message */
    char *grad_buffers[2];
    char *transient;
    double *loss, *sum; /* one double each */
    int64_t allocated_bytes;
    const struct hlm_stage_memory *predicted;
};

/* Builds the blocks of this rank's stage, allocates and initialises (parameters by their global
 * index from `seed`, see base/rng.h: init_mean + init_std * normal(hash(name) ^ seed, row *
 * global_cols + col), rounded to fp32). HLM_FAILED: out of memory. HLM_NO: exec can't run the plan
 * (hlm_lowering_refusal). */
HLM_MUST_CHECK enum hlm_status hlm_state_new(struct hlm_arena *arena, const struct hlm_plan *plan,
                                             int32_t rank, struct hlm_backend *backend,
                                             uint64_t seed, struct hlm_state **out,
                                             struct hlm_err *err);
void hlm_state_free(struct hlm_state *state); /* NULL accepted */

/* Sets parameters, moments and gradients to their first values again. */
HLM_MUST_CHECK enum hlm_status hlm_state_reset(struct hlm_state *state, uint64_t seed,
                                               struct hlm_err *err);

/* Address of a tensor of a block for microbatch slot `slot` in the forward or backward pass.
 * grad_in and grad_out are the boundary gradients of the block (backward). */
struct hlm_state_binding {
    int32_t slot;
    bool backward;
    void *grad_output, *grad_input;
};
void *hlm_state_address(const struct hlm_state *state, int32_t block, int32_t tensor,
                        const struct hlm_state_binding *binding);

char *hlm_state_slot(const struct hlm_state *state, int32_t slot);

#endif
