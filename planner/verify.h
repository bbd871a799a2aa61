/* verify: checks a plan and its certificate.
 *
 * It re-enumerates all legal columns by its own nested loops over divisors and prices them through
 * the cost model. A column is out when a closed form of its own is no less than the lower bound
 * that the certificate claims, when no partition fits, or when nothing that the rows allow is below
 * the claim; partitions that are left are simulated one by one. For gpipe and 1f1b this is a label
 * DP that shares nothing with the search (no GLPK, none of bound.c, partition_dp.c,
 * stage_pattern.c); for the other schedules the rows are those of the search (verify_ranked.h), and
 * so is the floor of a family that is looked at before all else (hlm_family_floor). The winner and
 * the runners-up are priced again from their operator lists: step time, memory and digests must be
 * what the plan says, the counts and the gap must add up. Replicas with shares of their own:
 * verify_shares.h. What a plan that was chosen by price says of other subclusters is checked in the
 * same way (verify_offer.h).
 */
#ifndef HLM_PLANNER_VERIFY_H
#define HLM_PLANNER_VERIFY_H

#include "planner/plan.h"

struct hlm_verify_report {
    int64_t num_columns;    /* legal; the four below add up to it */
    int64_t num_infeasible; /* fit in no partition (of those that the closed form left) */
    int64_t num_bounded;    /* no partition below the claimed bound */
    int64_t num_winner;     /* partitions below it, all simulated to be no faster than it */
    int64_t num_unchecked;  /* of unlike replicas, with too many plans to try: verify_shares.h */
    double least_bound_s;   /* the claim that was confirmed: no plan is faster */
    double step_time_s;     /* re-simulated */
};

/* HLM_NO with the first violation: which column, which claim, both numbers. */
HLM_MUST_CHECK enum hlm_status hlm_verify(struct hlm_arena *arena, const struct hlm_plan *plan,
                                          struct hlm_verify_report *out, struct hlm_err *err);

/* Only this: no legal plan for the plan's model, cluster, batch, dtype and lowering that is as its
 * certificate requires is faster than certificate.lower_bound_s. Counts into *report; NULL:
 * nothing, which takes less. HLM_NO: one is, or may be. */
HLM_MUST_CHECK enum hlm_status hlm_verify_bound(struct hlm_arena *arena,
                                                const struct hlm_plan *plan,
                                                struct hlm_verify_report *report,
                                                struct hlm_err *err);

#endif
