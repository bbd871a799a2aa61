/* plan_program: a plan's step as the list of what each world rank computes, sends and reduces.
 *
 * The referee's view of a plan: schedule/simgrid.h writes these programs as traces that SimGrid
 * replays on a network of its own. Every compute action becomes segments of computing with the
 * action's tensor-parallel collectives between them, one segment before each collective of its
 * blocks' operator lists (first layer to last forward, last to first backward), all of the same
 * length: ranks of one tensor-parallel group run in step, so where inside an action its collectives
 * lie changes nothing. Behind the last action stand the gradient reductions. Expert-parallel
 * exchanges count as computing, as does what ZeRO-2 and 3 exchange inside of passes; collectives
 * that overlap with what follows are left out; the optimizer and the gradient norm are not part of
 * it.
 *
 * SimGrid's network here is a uniform one, a plan's seldom is. So the same programs are priced a
 * second time by our own simulator on the uniform network: expected_s is what SimGrid must
 * reproduce.
 */
#ifndef HLM_PLANNER_PLAN_PROGRAM_H
#define HLM_PLANNER_PLAN_PROGRAM_H

#include "planner/plan.h"
#include "schedule/simgrid.h"

struct hlm_plan_programs {
    const struct hlm_simgrid_program *programs; /* [cluster.num_ranks], by world rank */
    struct hlm_simgrid_cluster cluster;
    double
        expected_s; /* end of the last gradient reduction on the uniform network, by hlm_simulate */
};

/* The network is one link: that inside a node where the plan's ranks share one, else that between
 * the nodes of the first group. `simulation` is the plan's (hlm_plan_simulate). HLM_NO: an operator
 * list can't be made, or pipeline ranks differ in tp. */
HLM_MUST_CHECK enum hlm_status hlm_plan_programs(struct hlm_arena *arena,
                                                 const struct hlm_plan *plan,
                                                 const struct hlm_plan_simulation *simulation,
                                                 struct hlm_plan_programs *out,
                                                 struct hlm_err *err);

#endif
