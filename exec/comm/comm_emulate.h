/* comm_emulate: the transport of a rank that is alone. It stands for one rank of a plan's world and
 * answers as if all others were there: what they would have sent is made up, what they would do
 * happens at no cost, and each operation takes the time that the plan's cost model gives it. So one
 * device shows what a rank of a plan of any size computes, holds and waits for.
 *
 * What it hands out, so that losses and gradients stay finite whatever the model:
 *   receive         numbers in the plan's dtype, mean 0, bounded (|x| < 3.5 deviations), the same
 *                   in every run of one seed. Activations have deviation 1: what a norm, the first
 *                   operator of every stage behind the first, makes of anything. Gradients have
 *                   0.02 / (tokens of the global batch): what the mean loss's gradient has in
 *                   front of an output matrix of deviation 0.02. They repeat after a prime number
 *                   of elements, so that no two rows are equal.
 *   all_reduce      what this rank put in: one of the terms of the real sum, no larger than it
 *   reduce_scatter  this rank's place of what it put in
 *   all_gather      this rank's part in every place; in place over a data-parallel group the other
 *                   places stay as they are (parameters that the peers did not update)
 *   all_to_all      this rank's part for itself from every rank, repeated where more comes
 *   send            nothing
 * Losses and gradient norms are those of this rank's own share, not of the model.
 *
 * HLM_EMULATE_PREDICTED: an operation returns not before the model says. Peers run as predicted:
 *   receive         when the producer's action ends in the plan's simulation, plus the transfer
 *                   (over a link that needs both sides: not before this rank waits), counted from
 *                   the last barrier over the world, the step's start; and not
 *                   before an answer to what this rank itself sent late could be back
 *   collectives     after their seconds on the real layout of the group; the gradient norm, where
 *                   all ranks meet, not before the simulation has them meet
 * HLM_EMULATE_NONE: nothing waits; who wants the time of a step walks it (exec/runner/record.h).
 *
 * A host transport: it works on host memory and blocks. A stream-ordered twin would enqueue the
 * made-up data (a copy from a table on the device) and the waiting (a kernel that spins on the
 * device's clock until a time, which the table of struct hlm_backend_ops does not have) on the
 * queue of the caller instead.
 */
#ifndef HLM_EXEC_COMM_EMULATE_H
#define HLM_EXEC_COMM_EMULATE_H

#include "base/arena.h"
#include "exec/comm/comm.h"
#include "planner/plan.h"

#define HLM_EMULATE_DELAY_MAP(X) X(PREDICTED, "predicted") X(NONE, "none")
enum hlm_emulate_delay {
#define X(name, text) HLM_EMULATE_##name,
    HLM_EMULATE_DELAY_MAP(X)
#undef X
};

struct hlm_emulate_config {
    const struct hlm_plan *plan;
    int32_t rank; /* of the world, 0 .. plan->num_ranks - 1 */
    uint64_t seed;
    enum hlm_emulate_delay delay;
};

/* *out has the rank and the world size of the plan; the arena outlives it. HLM_USAGE: no such rank.
 * HLM_FAILED: out of memory. Other statuses as hlm_plan_simulate. */
HLM_MUST_CHECK enum hlm_status hlm_comm_emulate_new(struct hlm_arena *arena,
                                                    const struct hlm_emulate_config *config,
                                                    struct hlm_comm **out, struct hlm_err *err);

/* What the rank does from now on, as a runner's watch is told ("0F3"; NULL: between actions): of
 * which stage collectives are, which of them is the gradient norm, and which take no time. Messages
 * need none of it: their order says what they are for. The text lives until the next call. */
void hlm_comm_emulate_action(struct hlm_comm *comm, const char *action);

/* Called several times a second while an operation waits, so that a watchdog sees life. */
typedef void hlm_emulate_alive_fn(void *context);
void hlm_comm_emulate_alive(struct hlm_comm *comm, hlm_emulate_alive_fn *alive, void *context);

/* Seconds that the cost model gives a collective of this rank over `bytes` (the whole buffer), in a
 * stage of it. */
double hlm_comm_emulate_collective_s(struct hlm_comm *comm, enum hlm_collective op,
                                     enum hlm_group group, int64_t bytes);

#endif
