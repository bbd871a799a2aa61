/* plan_offer: what a plan that was chosen by price was chosen from, as its certificate says it.
 *
 * The whole cluster that could be rented, and for each of its subclusters (planner/subcluster.h) a
 * lower bound of the step of all plans that use it. With r the price of a subcluster per second and
 * n the tokens of a step, no plan on it costs less than r * lower_bound_s / n per token.
 */
#ifndef HLM_PLANNER_PLAN_OFFER_H
#define HLM_PLANNER_PLAN_OFFER_H

#include "planner/plan.h"

#define HLM_SUBCLUSTER_OUTCOME_MAP(X)                                                              \
    X(PLANNED, "planned")       /* its best plan is known to within the gap */                     \
    X(BEATEN, "beaten")         /* no plan on it can be better than what is known */               \
    X(OPEN, "open")             /* its fastest plan needs more of the hosts than they have */      \
    X(INFEASIBLE, "infeasible") /* nothing fits on it, or no strategy is legal */
enum hlm_subcluster_outcome {
#define X(name, text) HLM_SUBCLUSTER_##name,
    HLM_SUBCLUSTER_OUTCOME_MAP(X)
#undef X
};
extern const char *const hlm_subcluster_outcome_texts[];

struct hlm_plan_subcluster {
    const int32_t *num_nodes; /* of each device group of the offer */
    int32_t num_groups;
    double price_per_hour;
    enum hlm_subcluster_outcome outcome;
    double lower_bound_s; /* no plan that uses all of it is faster; INFEASIBLE: 0 */
    /* Of the best that was found; 0 unless PLANNED. */
    double step_time_s;
    struct hlm_plan_interval interval;
};

/* A device group that the plan leaves out, and the cheapest plan with it. */
struct hlm_plan_kept {
    int32_t group;      /* of the offer */
    int32_t subcluster; /* that plan's, of the offer */
    struct hlm_strategy strategy;
    const struct hlm_plan_stage *stages; /* device_group: of the subcluster's cluster */
    int32_t num_stages;
    double step_time_s, cost_per_token;
    double least_cost_per_token; /* no plan with the group is cheaper */
};

struct hlm_plan_offer {
    struct hlm_cluster cluster;
    const struct hlm_plan_subcluster *subclusters; /* cheapest per hour first */
    int32_t num_subclusters;
    double least_cost_per_token;      /* no plan on any subcluster is cheaper */
    double gap_frac;                  /* (cost per token - least) / cost per token */
    const struct hlm_plan_kept *kept; /* where runners-up were wanted */
    int32_t num_kept;
};
extern const struct hlm_json_table hlm_plan_offer_table;

/* What the table can't: the cluster, that subclusters say nodes for each of its groups, that
 * indices are in range. HLM_INPUT; path: the JSON path of the offer. */
HLM_MUST_CHECK enum hlm_status hlm_plan_offer_check(const struct hlm_plan_offer *offer,
                                                    const char *where, const char *path,
                                                    struct hlm_err *err);

/* Whether the best plan on the subcluster may cost less than this plan, somewhere in the intervals
 * of both: the profile is not precise enough to say which is cheaper. False unless PLANNED. */
bool hlm_plan_may_be_cheaper(const struct hlm_plan_subcluster *subcluster,
                             const struct hlm_plan *plan);

/* Currency for a token, of `tokens` in a step of step_s seconds. */
static inline double hlm_plan_cost_per_token(double price_per_hour, double step_s, double tokens)
{
    return price_per_hour / 3600.0 * step_s / tokens;
}

#endif
