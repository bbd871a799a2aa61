/* order: finding an order of actions for the stage times at hand.
 *
 * The textbook orders are made for stages of equal times and messages without latency. Here is the
 * problem that they are answers to, a list scheduler that answers it for any times and never does
 * worse than a textbook order, and a lower bound on what any order can reach.
 * planner/schedule_glpk.h has the optimum of small cases.
 */
#ifndef HLM_SCHEDULE_ORDER_H
#define HLM_SCHEDULE_ORDER_H

#include "schedule/simulate.h"

/* Where the stages are, what their actions cost, and how much a rank may hold. F takes the amount
 * of its stage, W (or B) frees it.
 *
 * Microbatches are alike, so only orders need be looked at in which each kind of action of a stage
 * runs in the order of microbatches: in any other, number the actions of each kind and stage by
 * when they run. The k-th F of stage s + 1 then still has k forwards of stage s before it, and
 * likewise for I and W; what is held at any moment does not change. */
struct hlm_order_problem {
    int32_t num_ranks, num_stages, num_microbatches;
    const int32_t *stage_rank;         /* [num_stages] */
    bool splits_backward;              /* I and W apart, else B */
    const struct hlm_sim_costs *costs; /* per stage: no action_s, no overlap_s */
    const int64_t *amounts;            /* [num_stages], > 0: activation of one microbatch */
    const int64_t *limits;             /* [num_ranks]: most that it may hold */
};

/* The problem that a schedule answers: its stages, with its own peaks as limits. amounts NULL: one
 * a stage, so that limits count chunk activations. HLM_NO when it has pairs, or B in some places
 * and I and W in others: no order but its own is known for those. */
HLM_MUST_CHECK enum hlm_status
hlm_order_problem_from(struct hlm_arena *arena, const struct hlm_schedule *schedule,
                       const struct hlm_sim_costs *costs, const int64_t *amounts,
                       struct hlm_order_problem *out, struct hlm_err *err);

/* The order of least simulated step time among `textbook` (NULL: none; left out where it exceeds
 * the limits) and what list scheduling finds: in time order, each rank that is free takes one of
 * the actions whose input is there, by rules that differ in three choices:
 *   which first   the textbook order and nothing else, the textbook order among what is ready,
 *                 backwards before forwards, or forwards before backwards
 *   W in a gap    any, or only one that ends before the next known input arrives
 *   W put off     not at all, as far as the textbook does, or until nothing else can run
 * All combinations are simulated exactly. A rank takes a forward only if the oldest microbatch that
 * is not through all its forwards keeps room for the rest of them, so no rule can run into a
 * deadlock of memory. Deterministic; O(rules * actions * (num_ranks + chunks)).
 *
 * `kind` is that of the textbook, or HLM_NUM_SCHEDULES. HLM_NO when a limit has no room for one
 * microbatch. */
HLM_MUST_CHECK enum hlm_status hlm_order_list(struct hlm_arena *arena,
                                              const struct hlm_order_problem *problem,
                                              const struct hlm_schedule *textbook,
                                              const struct hlm_schedule **out, struct hlm_err *err);

/* Hill climbing from an order that keeps the limits, such as that of hlm_order_list: single actions
 * move earlier in their list, by at most as many places as a microbatch has actions on the rank,
 * while that makes the step shorter (or the sum of the ranks' ends at the same step). Ends where no
 * move helps, or after max_simulations; each costs O(actions). The schedule itself where nothing
 * shorter was found. */
const struct hlm_schedule *hlm_order_improve(struct hlm_arena *arena,
                                             const struct hlm_order_problem *problem,
                                             const struct hlm_schedule *schedule,
                                             int32_t max_simulations);

/* A bound on pipeline_s of hlm_simulate for every order that keeps the limits.
 *
 * Rank r owns stages a .. z (its first and last), F_s, G_s (I, or B), W_s (0 without halves), c:
 * transfer between stages of two ranks. work = m sum_s (F_s + G_s + W_s). Links that need both
 * sides only delay. head(s)  sum_{u<s} (F_u + c): no F of s starts earlier turn(s)  sum_{u>=s} F_u
 * + sum_{u>s} G_u + transfers: from the start of F to the start of G of a microbatch down(s)  the
 * longest way from the end of G of s to the end of the step: over u <= s, all G on the way to u,
 * then W_u most(x)  the most seconds of one or more actions x of each microbatch and stage of the
 * rank, of microbatches that fit into its limit together: fractional knapsack (1) Before its first
 * G a rank can run forwards only, of what fits: idle_front = max(0, head(z) + turn(z) - head(a) -
 * most(F)). Its first G is of z, because G of its other stages need it. (2) Its last G is of a;
 * behind it stand weight gradients of what it still holds: T >= start + work
 *     - most(W) + down(a). And T >= start + work.
 * (3) Its last F is of z; behind it stand G and W of what it then holds, while the microbatch
 * turns: T >= start + work - most(G + W) + turn(z) - F_z + G_z + down(z). start = head(a) +
 * idle_front, in (3) without idle_front unless the limit is less than all of its forwards, because
 * only then G stands before the last F. (4) Each microbatch is held from the start of its F to the
 * end of its W (or G), at least turn(s) + G_s + W_s; all of them fit into limit * time: T >=
 * head(a) + m sum_s amount_s (turn(s) + G_s
 *     + W_s) / limit, and without halves the last G still goes down from a.
 * (5) One stage a rank, k = limit / amount rounded down: F of microbatch i + k stands behind the
 *     end of W (or G) of i. So (1) to (3) hold for the last m - q k microbatches behind q (turn(s)
 *     + G_s + W_s), for every q.
 * (6) One microbatch: sum of all F and transfers, down of the last stage. */
double hlm_order_bound(const struct hlm_order_problem *problem);

#endif
