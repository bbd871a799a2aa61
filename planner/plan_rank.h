/* plan_rank: what a plan promises of one pipeline rank, taken apart into what it computes and what
 * it waits for, for those who measure a rank: record, compare, calibrate.
 *
 * Ranks of one pipeline rank are alike, so a world rank stands for its pipeline rank here.
 */
#ifndef HLM_PLANNER_PLAN_RANK_H
#define HLM_PLANNER_PLAN_RANK_H

#include "planner/plan.h"

/* Costs of one F, B, I or W of a stage. */
const struct hlm_pass_cost *hlm_plan_pass(const struct hlm_plan_simulation *simulation,
                                          struct hlm_action action);

/* Of its seconds, those of exposed communication (tp, cp, ep, and dp where passes hold it). */
double hlm_plan_pass_comm_s(const struct hlm_pass_cost *pass);

/* The actions that a rank's step consists of and that a run measures, in the order of its list: F,
 * B, I, W, REDUCE_GRAD and OPTIMIZER; a pair is an F and a B. All pipeline ranks need not have
 * equally many: some schedules split a backward on some ranks only. */
struct hlm_rank_actions hlm_plan_measured_actions(struct hlm_arena *arena,
                                                  const struct hlm_schedule *schedule,
                                                  int32_t pipeline_rank);

/* Where the time of a pipeline rank's step goes: name "step", parts forward, backward,
 * tensor_parallel, context_parallel, expert_parallel, pipeline, data_parallel and optimizer as in
 * hlm_plan_prediction, without those that are 0. They sum to end_s: the end of the rank's optimizer
 * (hlm_plan_rank_end_s), or of the whole step.
 *   pipeline       from the step's start to the end of the last pass, but for the passes
 *   data_parallel  from there to the start of the optimizer: reductions, waiting for those of other
 *                  ranks, gradient norm; and what passes hold of it
 *   optimizer      from there to end_s
 * `result`: a simulation with events. compute_s [k]: seconds that the k-th of the rank's F, B, I
 * and W computed (in hlm_plan_measured_actions order); NULL: as the plan says. */
struct hlm_time_node hlm_plan_rank_parts(struct hlm_arena *arena,
                                         const struct hlm_plan_simulation *simulation,
                                         const struct hlm_sim_result *result, int32_t pipeline_rank,
                                         const double *compute_s, double end_s);
double hlm_plan_rank_end_s(const struct hlm_sim_result *result, int32_t pipeline_rank);

#endif
