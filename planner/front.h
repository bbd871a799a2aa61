/* front: plans chosen by price, over all subclusters of a cluster (subcluster.h). The JSON kind
 * "front".
 *
 * With r the price of a subcluster for a second and n the tokens of a step, a plan on it whose step
 * takes t costs r * t / n per token. Subclusters are searched one by one, each only while it may
 * hold a plan that is wanted (hlm_search_below). With g = max_gap_frac,
 *   the cheapest plan: t below (1 - g) * C * n / r, with C the least cost so far;
 *   the front: t below the least of max((1 - g) * T, (1 - g) * C * n / r) over all plans so far,
 *     each of time T and cost C, which leaves what none of them comes within g of in both.
 * What is open when the search of a subcluster ends bounds the step of all plans on it from below
 * (hlm_plan_subcluster.lower_bound_s); every claim about prices follows from these bounds alone.
 */
#ifndef HLM_PLANNER_FRONT_H
#define HLM_PLANNER_FRONT_H

#include "planner/plan_offer.h"
#include "planner/search.h"
#include "planner/subcluster.h"

/* The cheapest plan per token. Its certificate is that of its subcluster, of the columns that use
 * all of it, with the offer. Where runners-up are wanted, the offer also names each device group
 * that the plan leaves out with the cheapest plan that uses it. All groups must have prices
 * (hlm_subclusters_check_prices). HLM_NO: nothing fits on any subcluster; the message is that of
 * hlm_search on the whole cluster. progress may be NULL. */
HLM_MUST_CHECK enum hlm_status
hlm_front_cheapest(struct hlm_arena *arena, const struct hlm_search_problem *problem,
                   void (*progress)(void *context, double done, double total, const char *detail),
                   void *context, const struct hlm_plan **out, struct hlm_err *err);

/* A plan that no other one is both faster and cheaper than. */
struct hlm_front_point {
    int32_t subcluster; /* of the offer */
    struct hlm_strategy strategy;
    const struct hlm_plan_stage *stages; /* device_group: of the subcluster's cluster */
    int32_t num_stages;
    double step_time_s, tokens_per_s, cost_per_token;
    struct hlm_plan_interval interval; /* of the step time */
    /* No plan on any subcluster takes less than (1 - gap_frac) * step_time_s and costs less than
     * (1 - gap_frac) * cost_per_token. */
    double gap_frac;
    bool within_uncertainty; /* hlm_front_is_uncertain */
};

struct hlm_front {
    struct hlm_model model;
    /* What it speaks of. */
    struct hlm_search_require require;
    bool runnable_only;
    double max_gap_frac;
    /* Each plan on any subcluster takes and costs (1 - gap_frac) times what some point does, at the
     * least: no point is missing by more than that. */
    double gap_frac;
    double least_step_s;                  /* no plan on any subcluster is faster */
    struct hlm_plan_offer offer;          /* its gap is that of the cheapest point */
    const struct hlm_front_point *points; /* fastest first, which is dearest first */
    int32_t num_points;
    struct hlm_plan_meta meta;
};
extern const struct hlm_json_table hlm_front_table; /* kind "front" */

/* Whether somewhere in the intervals of both another point is faster and cheaper than this one. */
bool hlm_front_is_uncertain(const struct hlm_front *front, int32_t index);

/* All points, and the plan of each with the certificate of its subcluster: [num_points]. As
 * hlm_front_cheapest. */
HLM_MUST_CHECK enum hlm_status
hlm_front_search(struct hlm_arena *arena, const struct hlm_search_problem *problem,
                 void (*progress)(void *context, double done, double total, const char *detail),
                 void *context, const struct hlm_front **out,
                 const struct hlm_plan *const **out_plans, struct hlm_err *err);

/* Reads a front from a text, which messages call by `name`, and checks what the table can't. */
HLM_MUST_CHECK enum hlm_status hlm_front_read_text(struct hlm_arena *arena, const char *name,
                                                   const char *text, size_t length,
                                                   const struct hlm_front **out,
                                                   struct hlm_err *err);

#endif
