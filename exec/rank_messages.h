/* rank_messages: what messages between the stages of a plan take, between the ranks that exchange
 * them in a step, while nobody computes. For virtual time, which knows computing by CPU time and
 * must have the rest from elsewhere.
 */
#ifndef HLM_EXEC_RANK_MESSAGES_H
#define HLM_EXEC_RANK_MESSAGES_H

#include "base/arena.h"
#include "exec/comm/comm.h"
#include "planner/plan.h"

/* *out: [dp][num_stages] seconds of a message of `bytes` from each stage to the next, either way,
 * in every replica (its ranks of tp 0 and cp 0); 0 behind the last stage and between stages of one
 * rank. The least of several exchanges. All stages have one tp, so that
 * bytes are the same on all ranks. On all ranks. HLM_ENV: not over a host transport.
 * collective over the world */
HLM_MUST_CHECK enum hlm_status hlm_rank_messages_measure(struct hlm_arena *arena,
                                                         const struct hlm_plan *plan,
                                                         struct hlm_comm *comm, int64_t bytes,
                                                         const double **out, struct hlm_err *err);

#endif
