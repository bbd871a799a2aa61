/* world: a plan's step with every rank of the world simulated on its own, by brute force.
 *
 * hlm_simulate has one rank for all that differ in dp, tp and cp. Here each rank runs a program of
 * its own: pieces of computing with collectives between them, for which it waits until all members
 * of its own group are there; messages from the ranks of its own replica; the reductions of its
 * stages in the order in which its own last backwards ended; the meeting of all ranks; its
 * optimizer. Shares no code with schedule/simulate*.c. Seconds are those of the plan.
 *
 * Passes are cut into as many pieces as their stage has layers, each with what the pass exposes of
 * every kind of communication behind it. Reductions and the gather behind the optimizer are
 * exchanges of the dp group (with experts also of edp) as a whole.
 */
#ifndef HLM_TESTS_SUPPORT_WORLD_H
#define HLM_TESTS_SUPPORT_WORLD_H

#include "planner/plan.h"

struct world_rank {
    int32_t num_actions;      /* compute actions, a pair as one, in the order of the rank's list */
    double *start_s, *end_s;  /* [num_actions] */
    double reduced_s, step_s; /* ends of its last reduction and of its optimizer */
};

struct world {
    int32_t num_ranks;
    const struct world_rank *ranks;
    double step_s;        /* the last to end */
    int64_t num_meetings; /* of groups */
};

/* slow_rank computes (not: communicates) slow_factor times as long; -1: none. Fails the test where
 * the ranks make no progress. */
struct world world_simulate(struct hlm_arena *arena, const struct hlm_plan *plan,
                            const struct hlm_plan_simulation *simulation, int32_t slow_rank,
                            double slow_factor);

#endif
