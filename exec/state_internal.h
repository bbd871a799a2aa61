/* state_internal: what the parts of the state share. state.c allocates and initialises,
 * state_layout.c says what lies where, state_address.c finds it again. */
#ifndef HLM_EXEC_STATE_INTERNAL_H
#define HLM_EXEC_STATE_INTERNAL_H

#include "exec/state.h"

/* bytes up to the next multiple of HLM_ALIGNMENT_BYTES. */
static inline int64_t hlm_state_align(int64_t bytes)
{
    return (bytes + HLM_ALIGNMENT_BYTES - 1) / HLM_ALIGNMENT_BYTES * HLM_ALIGNMENT_BYTES;
}

/* Stages of this rank with their blocks, parameters and slots, all but the memory. plan, rank,
 * coords, dtype and split are set. */
HLM_MUST_CHECK enum hlm_status hlm_state_lay_out(struct hlm_arena *arena, struct hlm_state *state,
                                                 struct hlm_err *err);

/* Workspace of the largest pass of any stage. */
int64_t hlm_state_transient_bytes(const struct hlm_state *state);

#endif
