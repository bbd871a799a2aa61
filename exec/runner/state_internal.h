/* state_internal: what the parts of the state share. state.c allocates and initialises,
 * state_layout.c says what lies where, state_shards.c from ZeRO-2 on; state_address.c finds it
 * again. */
#ifndef HLM_EXEC_STATE_INTERNAL_H
#define HLM_EXEC_STATE_INTERNAL_H

#include "exec/runner/state.h"

/* bytes up to the next multiple of HLM_ALIGNMENT_BYTES. */
static inline int64_t hlm_state_align(int64_t bytes)
{
    return (bytes + HLM_ALIGNMENT_BYTES - 1) / HLM_ALIGNMENT_BYTES * HLM_ALIGNMENT_BYTES;
}

/* Stages of this rank with their blocks, parameters and slots, all but the memory. plan, strategy,
 * rank, coords, dtype and split are set. */
HLM_MUST_CHECK enum hlm_status hlm_state_lay_out(struct hlm_arena *arena, struct hlm_state *state,
                                                 struct hlm_err *err);

/* Appends parameter `param` of block `block` to the slab of its stage. */
void hlm_state_place_param(struct hlm_arena *arena, struct hlm_state_stage *stage,
                           struct hlm_state_param *params, int32_t block, int32_t param);

/* From ZeRO-2 on: places all parameters of a stage in units; once all stages have been placed,
 * tells each block where its units are. */
void hlm_state_place_units(struct hlm_arena *arena, const struct hlm_state *state,
                           struct hlm_state_stage *stage, struct hlm_state_param *params);
void hlm_state_link_units(const struct hlm_state *state);

/* Workspace of the largest pass of any stage, whole units included. */
int64_t hlm_state_transient_bytes(const struct hlm_state *state);

#endif
