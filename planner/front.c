#include "planner/front.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Seconds and prices are compared with this much slack, as sums in another order differ. */
static const double tie_frac = 1e-9;

/* --- subclusters, one by one --- */

struct market {
    struct hlm_arena *arena;
    const struct hlm_search_problem *problem;
    double tokens; /* of a step */
    const struct hlm_subcluster *subclusters;
    struct hlm_plan_subcluster *known; /* [num_subclusters] */
    const struct hlm_plan **plans;     /* [num_subclusters]; NULL unless PLANNED */
    int32_t *order;                    /* [num_subclusters]: in which they are searched */
    int32_t num_subclusters;
    int32_t num_done, at; /* how many were searched, and the one that is */
    void (*progress)(void *context, double done, double total, const char *detail);
    void *progress_context;
};

static void report_subcluster(void *context, double done, double total, const char *detail)
{
    const struct market *market = context;
    char text[200];
    (void)snprintf(text, sizeof(text), "%.60s: %.120s",
                   market->subclusters[market->at].cluster->name, detail);
    /* Some are searched again for groups to keep, when all are done. */
    market->progress(
        market->progress_context,
        fmin(market->num_done + (total > 0.0 ? done / total : 0.0), market->num_subclusters),
        market->num_subclusters, text);
}

static double cost_of(const struct market *market, int32_t subcluster, double step_s)
{
    return hlm_plan_cost_per_token(market->subclusters[subcluster].price_per_hour, step_s,
                                   market->tokens);
}

/* The step within which a plan on the subcluster costs so much. */
static double seconds_of(const struct market *market, int32_t subcluster, double cost_per_token)
{
    return cost_per_token * market->tokens * 3600.0 /
           market->subclusters[subcluster].price_per_hour;
}

static enum hlm_status search_subcluster(struct market *market, int32_t subcluster, double cutoff_s,
                                         struct hlm_err *err)
{
    struct hlm_search_problem problem = *market->problem;
    struct hlm_plan_subcluster *known = &market->known[subcluster];
    struct hlm_search_result result;
    market->at = subcluster;
    problem.cluster = market->subclusters[subcluster].cluster;
    problem.all_groups = problem.cluster->num_groups > 1;
    const enum hlm_status status =
        hlm_search_below(market->arena, &problem, cutoff_s,
                         market->progress == NULL ? NULL : report_subcluster, market, &result, err);
    if (status == HLM_NO) {
        known->outcome = HLM_SUBCLUSTER_INFEASIBLE;
        known->lower_bound_s = 0.0; /* of a search that was cut off before */
        return HLM_OK;
    }
    HLM_TRY(status);
    known->lower_bound_s = fmax(known->lower_bound_s, result.lower_bound_s);
    known->outcome = result.lower_bound_s >= cutoff_s ? HLM_SUBCLUSTER_BEATEN : HLM_SUBCLUSTER_OPEN;
    if (result.plan != NULL) {
        known->outcome = HLM_SUBCLUSTER_PLANNED;
        known->step_time_s = result.plan->prediction.step_time_s;
        known->interval = result.plan->prediction.interval;
    }
    market->plans[subcluster] = result.plan;
    return HLM_OK;
}

/* What an hour costs for each operation of the dense peak: the subclusters that do most for the
 * price first, as these leave the others no chance. */
static double price_of_peak(const struct market *market, int32_t subcluster)
{
    const struct hlm_cluster *cluster = market->subclusters[subcluster].cluster;
    double peak = 0.0;
    for (int32_t g = 0; g < cluster->num_groups; g++) {
        const struct hlm_device_group *group = &cluster->groups[g];
        peak += (double)group->num_nodes * group->devices_per_node *
                hlm_device_dtype(&group->device, market->problem->dtype)->peak_flops_per_s;
    }
    return market->subclusters[subcluster].price_per_hour / peak;
}

/* By insertion: equal ones stay cheapest first. */
static void find_order(struct market *market)
{
    const int32_t n = market->num_subclusters;
    double *prices = HLM_ARENA_ARRAY(market->arena, double, n);
    market->order = HLM_ARENA_ARRAY(market->arena, int32_t, n);
    for (int32_t i = 0; i < n; i++) {
        int32_t at = i;
        prices[i] = price_of_peak(market, i);
        for (; at > 0 && prices[i] < prices[market->order[at - 1]] * (1 - tie_frac); at--) {
            market->order[at] = market->order[at - 1];
        }
        market->order[at] = i;
    }
}

static enum hlm_status open_market(struct market *market, struct hlm_err *err)
{
    const struct hlm_search_problem *problem = market->problem;
    HLM_TRY(hlm_subclusters_check_prices(problem->cluster, problem->cluster->name, err));
    HLM_TRY(hlm_subclusters_list(market->arena, problem->cluster, &market->subclusters,
                                 &market->num_subclusters, err));
    market->tokens = (double)problem->global_batch_size * (double)problem->seq_len;
    market->known =
        HLM_ARENA_ARRAY(market->arena, struct hlm_plan_subcluster, market->num_subclusters);
    market->plans =
        HLM_ARENA_ARRAY(market->arena, const struct hlm_plan *, market->num_subclusters);
    for (int32_t i = 0; i < market->num_subclusters; i++) {
        market->known[i] =
            (struct hlm_plan_subcluster){.num_nodes = market->subclusters[i].num_nodes,
                                         .num_groups = problem->cluster->num_groups,
                                         .price_per_hour = market->subclusters[i].price_per_hour};
    }
    find_order(market);
    return HLM_OK;
}

/* Why the whole cluster has no plan, and so no part of it. */
static enum hlm_status explain_none(const struct market *market, struct hlm_err *err)
{
    const struct hlm_plan *none = NULL;
    const enum hlm_status status =
        hlm_search(market->arena, market->problem, NULL, NULL, &none, err);
    return status != HLM_OK ? status : hlm_fail(err, HLM_NO, "no subcluster has a plan");
}

/* The cheapest of the plans, -1: there is none. group >= 0: of those that use it. */
static int32_t find_cheapest(const struct market *market, int32_t group)
{
    int32_t cheapest = -1;
    for (int32_t i = 0; i < market->num_subclusters; i++) {
        const bool counts = group < 0 || market->subclusters[i].num_nodes[group] > 0;
        if (counts && market->plans[i] != NULL &&
            (cheapest < 0 ||
             cost_of(market, i, market->known[i].step_time_s) <
                 cost_of(market, cheapest, market->known[cheapest].step_time_s) * (1 - tie_frac))) {
            cheapest = i;
        }
    }
    return cheapest;
}

/* No plan on any subcluster (group >= 0: with this group) is cheaper. Parts whose search was cut
 * off for a plan that is cheaper still are no less bounded. */
static double least_cost(const struct market *market, int32_t group, int32_t cheapest)
{
    double least = cost_of(market, cheapest, market->known[cheapest].step_time_s);
    for (int32_t i = 0; i < market->num_subclusters; i++) {
        const bool counts = group < 0 || market->subclusters[i].num_nodes[group] > 0;
        if (counts && market->known[i].outcome != HLM_SUBCLUSTER_INFEASIBLE) {
            least = fmin(least, cost_of(market, i, market->known[i].lower_bound_s));
        }
    }
    return least;
}

static struct hlm_plan_offer make_offer(const struct market *market)
{
    const int32_t cheapest = find_cheapest(market, -1);
    const double cost = cost_of(market, cheapest, market->known[cheapest].step_time_s);
    const double least = least_cost(market, -1, cheapest);
    return (struct hlm_plan_offer){.cluster = *market->problem->cluster,
                                   .subclusters = market->known,
                                   .num_subclusters = market->num_subclusters,
                                   .least_cost_per_token = least,
                                   .gap_frac = (cost - least) / cost};
}

/* --- the cheapest --- */

/* The step below which a plan on the subcluster is cheaper, by more than the gap, than the cheapest
 * so far (group >= 0: of those with the group). */
static double cheaper_s(const struct market *market, int32_t group, int32_t subcluster)
{
    const double allowed = 1 - market->problem->max_gap_frac;
    const int32_t cheapest = find_cheapest(market, group);
    return cheapest < 0 ? (double)INFINITY
                        : seconds_of(market, subcluster,
                                     allowed * cost_of(market, cheapest,
                                                       market->known[cheapest].step_time_s));
}

static enum hlm_status scan_for_cheapest(struct market *market, struct hlm_err *err)
{
    for (market->num_done = 0; market->num_done < market->num_subclusters; market->num_done++) {
        const int32_t i = market->order[market->num_done];
        HLM_TRY(search_subcluster(market, i, cheaper_s(market, -1, i), err));
    }
    return HLM_OK;
}

/* The subcluster with the group whose search was cut off and may hold the cheapest of these, the
 * most promising of them; -1: there is none. */
static int32_t find_promising(const struct market *market, int32_t group)
{
    int32_t best = -1;
    for (int32_t i = 0; i < market->num_subclusters; i++) {
        const struct hlm_plan_subcluster *known = &market->known[i];
        if (known->num_nodes[group] > 0 && known->outcome == HLM_SUBCLUSTER_BEATEN &&
            known->lower_bound_s < cheaper_s(market, group, i) &&
            (best < 0 || cost_of(market, i, known->lower_bound_s) <
                             cost_of(market, best, market->known[best].lower_bound_s))) {
            best = i;
        }
    }
    return best;
}

static enum hlm_status scan_for_group(struct market *market, int32_t group, struct hlm_err *err)
{
    for (int32_t i = find_promising(market, group); i >= 0; i = find_promising(market, group)) {
        HLM_TRY(search_subcluster(market, i, cheaper_s(market, group, i), err));
    }
    return HLM_OK;
}

static struct hlm_plan_kept keep_group(const struct market *market, int32_t group,
                                       int32_t subcluster)
{
    const struct hlm_plan *plan = market->plans[subcluster];
    return (struct hlm_plan_kept){.group = group,
                                  .subcluster = subcluster,
                                  .strategy = plan->strategy,
                                  .stages = plan->stages,
                                  .num_stages = plan->num_stages,
                                  .step_time_s = plan->prediction.step_time_s,
                                  .cost_per_token = plan->prediction.cost_per_token,
                                  .least_cost_per_token = least_cost(market, group, subcluster)};
}

/* Finds what it costs to use the groups that the cheapest subcluster leaves out. What is found may
 * be cheaper still, within the gap: then that is the cheapest. */
static enum hlm_status scan_for_kept(struct market *market, struct hlm_err *err)
{
    int32_t before = -1;
    for (int32_t cheapest = find_cheapest(market, -1); cheapest != before;
         cheapest = find_cheapest(market, -1)) {
        before = cheapest;
        for (int32_t g = 0; g < market->problem->cluster->num_groups; g++) {
            if (market->subclusters[cheapest].num_nodes[g] == 0) {
                HLM_TRY(scan_for_group(market, g, err));
            }
        }
    }
    return HLM_OK;
}

static void add_kept(const struct market *market, int32_t cheapest, struct hlm_plan_offer *offer)
{
    struct hlm_plan_kept *kept =
        HLM_ARENA_ARRAY(market->arena, struct hlm_plan_kept, offer->cluster.num_groups);
    for (int32_t g = 0; g < offer->cluster.num_groups; g++) {
        const int32_t with = find_cheapest(market, g);
        if (market->subclusters[cheapest].num_nodes[g] == 0 && with >= 0) {
            kept[offer->num_kept++] = keep_group(market, g, with);
        }
    }
    offer->kept = kept;
}

enum hlm_status
hlm_front_cheapest(struct hlm_arena *arena, const struct hlm_search_problem *problem,
                   void (*progress)(void *context, double done, double total, const char *detail),
                   void *context, const struct hlm_plan **out, struct hlm_err *err)
{
    struct market market = {
        .arena = arena, .problem = problem, .progress = progress, .progress_context = context};
    HLM_TRY(open_market(&market, err));
    HLM_TRY(scan_for_cheapest(&market, err));
    if (find_cheapest(&market, -1) < 0) {
        return explain_none(&market, err);
    }
    if (problem->top_k > 0) {
        HLM_TRY(scan_for_kept(&market, err));
    }
    const int32_t cheapest = find_cheapest(&market, -1);
    struct hlm_plan *plan = hlm_arena_memdup(arena, market.plans[cheapest], sizeof(*plan));
    struct hlm_plan_certificate *certificate =
        hlm_arena_memdup(arena, plan->certificate, sizeof(*certificate));
    struct hlm_plan_offer *offer = HLM_ARENA_NEW(arena, struct hlm_plan_offer);
    *offer = make_offer(&market);
    if (problem->top_k > 0) {
        add_kept(&market, cheapest, offer);
    }
    certificate->offer = offer;
    plan->certificate = certificate;
    *out = plan;
    return HLM_OK;
}

/* --- the front --- */

/* What the plans so far leave to be found on the subcluster. */
static double uncovered_s(const struct market *market, int32_t subcluster)
{
    const double allowed = 1 - market->problem->max_gap_frac;
    double cutoff_s = INFINITY;
    for (int32_t i = 0; i < market->num_subclusters; i++) {
        if (market->plans[i] != NULL) {
            const double step_s = market->known[i].step_time_s;
            const double same_cost_s = seconds_of(market, subcluster, cost_of(market, i, step_s));
            cutoff_s = fmin(cutoff_s, allowed * fmax(step_s, same_cost_s));
        }
    }
    return cutoff_s;
}

static bool is_dominated(const struct market *market, int32_t subcluster)
{
    const double step_s = market->known[subcluster].step_time_s;
    const double cost = cost_of(market, subcluster, step_s);
    for (int32_t i = 0; i < market->num_subclusters; i++) {
        if (market->plans[i] == NULL || i == subcluster) {
            continue;
        }
        const double other_s = market->known[i].step_time_s, other = cost_of(market, i, other_s);
        const bool no_worse = other_s <= step_s * (1 + tie_frac) && other <= cost * (1 + tie_frac);
        const bool better = other_s < step_s * (1 - tie_frac) || other < cost * (1 - tie_frac);
        if (no_worse && (better || i < subcluster)) {
            return true;
        }
    }
    return false;
}

/* The least fraction by which no plan on any subcluster is both faster and cheaper. */
static double find_gap(const struct market *market, double step_s, double cost)
{
    double gap = 0.0;
    for (int32_t i = 0; i < market->num_subclusters; i++) {
        const struct hlm_plan_subcluster *known = &market->known[i];
        if (known->outcome != HLM_SUBCLUSTER_INFEASIBLE) {
            gap = fmax(gap, fmin(1 - known->lower_bound_s / step_s,
                                 1 - cost_of(market, i, known->lower_bound_s) / cost));
        }
    }
    return gap;
}

static struct hlm_front_point make_point(const struct market *market, int32_t subcluster)
{
    const struct hlm_plan *plan = market->plans[subcluster];
    const struct hlm_plan_prediction *prediction = &plan->prediction;
    return (struct hlm_front_point){
        .subcluster = subcluster,
        .strategy = plan->strategy,
        .stages = plan->stages,
        .num_stages = plan->num_stages,
        .step_time_s = prediction->step_time_s,
        .tokens_per_s = prediction->tokens_per_s,
        .cost_per_token = prediction->cost_per_token,
        .interval = prediction->interval,
        .gap_frac = find_gap(market, prediction->step_time_s, prediction->cost_per_token)};
}

static int fastest_first(const void *left, const void *right)
{
    const struct hlm_front_point *a = left, *b = right;
    return (a->step_time_s > b->step_time_s) - (a->step_time_s < b->step_time_s);
}

static bool may_beat(const struct hlm_front_point *other, const struct hlm_front_point *point)
{
    const double least = other->cost_per_token * other->interval.low_s / other->step_time_s;
    const double most = point->cost_per_token * point->interval.high_s / point->step_time_s;
    return other->interval.low_s <= point->interval.high_s && least <= most;
}

bool hlm_front_is_uncertain(const struct hlm_front *front, int32_t index)
{
    bool uncertain = false;
    for (int32_t other = 0; other < front->num_points; other++) {
        uncertain =
            uncertain || (other != index && may_beat(&front->points[other], &front->points[index]));
    }
    return uncertain;
}

static void fill_points(const struct market *market, struct hlm_front *front,
                        const struct hlm_plan *const **out_plans)
{
    struct hlm_front_point *points =
        HLM_ARENA_ARRAY(market->arena, struct hlm_front_point, market->num_subclusters);
    for (int32_t i = 0; i < market->num_subclusters; i++) {
        if (market->plans[i] != NULL && !is_dominated(market, i)) {
            points[front->num_points++] = make_point(market, i);
        }
    }
    qsort(points, (size_t)front->num_points, sizeof(*points), fastest_first);
    const struct hlm_plan **plans =
        HLM_ARENA_ARRAY(market->arena, const struct hlm_plan *, front->num_points);
    for (int32_t i = 0; i < front->num_points; i++) {
        plans[i] = market->plans[points[i].subcluster];
    }
    front->points = points;
    for (int32_t i = 0; i < front->num_points; i++) {
        points[i].within_uncertainty = hlm_front_is_uncertain(front, i);
    }
    *out_plans = plans;
}

/* The least fraction within which some point covers the best that may be on each subcluster. */
static double find_cover(const struct market *market, const struct hlm_front *front)
{
    double gap = 0.0;
    for (int32_t i = 0; i < market->num_subclusters; i++) {
        const double bound_s = market->known[i].lower_bound_s;
        double least = INFINITY;
        for (int32_t p = 0; p < front->num_points; p++) {
            const struct hlm_front_point *point = &front->points[p];
            least = fmin(least, fmax(1 - bound_s / point->step_time_s,
                                     1 - cost_of(market, i, bound_s) / point->cost_per_token));
        }
        gap = market->known[i].outcome == HLM_SUBCLUSTER_INFEASIBLE ? gap : fmax(gap, least);
    }
    return gap;
}

static double least_step_s(const struct market *market)
{
    double least_s = INFINITY;
    for (int32_t i = 0; i < market->num_subclusters; i++) {
        const struct hlm_plan_subcluster *known = &market->known[i];
        if (known->outcome != HLM_SUBCLUSTER_INFEASIBLE) {
            least_s = fmin(least_s, known->lower_bound_s);
        }
    }
    return least_s;
}

enum hlm_status hlm_front_search(struct hlm_arena *arena, const struct hlm_search_problem *problem,
                                 void (*progress)(void *context, double done, double total,
                                                  const char *detail),
                                 void *context, const struct hlm_front **out,
                                 const struct hlm_plan *const **out_plans, struct hlm_err *err)
{
    struct market market = {
        .arena = arena, .problem = problem, .progress = progress, .progress_context = context};
    HLM_TRY(open_market(&market, err));
    for (market.num_done = 0; market.num_done < market.num_subclusters; market.num_done++) {
        const int32_t i = market.order[market.num_done];
        HLM_TRY(search_subcluster(&market, i, uncovered_s(&market, i), err));
    }
    if (find_cheapest(&market, -1) < 0) {
        return explain_none(&market, err);
    }
    struct hlm_front *front = HLM_ARENA_NEW(arena, struct hlm_front);
    *front = (struct hlm_front){.model = *problem->model,
                                .require = problem->require,
                                .runnable_only = problem->runnable_only,
                                .max_gap_frac = problem->max_gap_frac,
                                .least_step_s = least_step_s(&market),
                                .offer = make_offer(&market)};
    fill_points(&market, front, out_plans);
    front->gap_frac = find_cover(&market, front);
    *out = front;
    return HLM_OK;
}
