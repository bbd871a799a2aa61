#include "planner/verify_offer.h"

#include <math.h>
#include <string.h>

#include "planner/columns_places.h"
#include "planner/verify.h"
#include "planner/verify_require.h"

/* Sums in another order may differ by this much. */
static const double slack_frac = 1e-6;

/* What the claims speak of. */
struct claims {
    struct hlm_arena *arena;
    const struct hlm_plan_offer *offer;
    const struct hlm_model *model;
    const struct hlm_strategy *given; /* batch, sequence, dtype and lowering of all plans */
    const struct hlm_search_require *require;
    bool runnable_only;
    double tokens;
    struct hlm_err *err;
};

/* "points[2].step_time_s", or "offer.gap_frac" where index < 0. */
static const char *path_of(const struct claims *claims, const char *object, int32_t index,
                           const char *member)
{
    return index < 0 ? hlm_arena_printf(claims->arena, "%s.%s", object, member)
                     : hlm_arena_printf(claims->arena, "%s[%d].%s", object, index, member);
}

static enum hlm_status compare(const struct claims *claims, const char *object, int32_t index,
                               const char *member, double claimed, double own)
{
    if (fabs(claimed - own) <= slack_frac * fabs(own)) {
        return HLM_OK;
    }
    return hlm_fail(claims->err, HLM_NO, "%s: the claim is %.9g, found anew it is %.9g",
                    path_of(claims, object, index, member), claimed, own);
}

/* As compare, of fractions of a whole. */
static enum hlm_status compare_gap(const struct claims *claims, const char *object, int32_t index,
                                   double claimed, double own)
{
    if (fabs(claimed - own) <= slack_frac) {
        return HLM_OK;
    }
    return hlm_fail(claims->err, HLM_NO, "%s: the claim is %.9g, but the bounds give %.9g",
                    path_of(claims, object, index, "gap_frac"), claimed, own);
}

/* --- the list of subclusters --- */

static bool is_count(int32_t nodes, int32_t all)
{
    int32_t power = 1;
    while (power < nodes) {
        power *= 2;
    }
    return nodes >= 1 && nodes <= all && (power == nodes || all % nodes == 0);
}

/* How many choices of nodes there are for the groups from `group` on, with so many groups. */
static int64_t count_choices(const struct hlm_cluster *cluster, int32_t group, int32_t num_taken)
{
    if (group == cluster->num_groups) {
        return num_taken == 0 ? 1 : 0;
    }
    int64_t counts = 0;
    for (int32_t nodes = 1; nodes <= cluster->groups[group].num_nodes; nodes++) {
        counts += is_count(nodes, cluster->groups[group].num_nodes) ? 1 : 0;
    }
    const int64_t with = num_taken > 0 ? count_choices(cluster, group + 1, num_taken - 1) : 0;
    return counts * with + count_choices(cluster, group + 1, num_taken);
}

static bool is_legal(const struct hlm_cluster *cluster, const struct hlm_plan_subcluster *some)
{
    int32_t num_taken = 0;
    for (int32_t g = 0; g < cluster->num_groups; g++) {
        const int32_t nodes = some->num_nodes[g];
        if (nodes != 0 && !is_count(nodes, cluster->groups[g].num_nodes)) {
            return false;
        }
        num_taken += nodes != 0 ? 1 : 0;
    }
    return num_taken >= 1 && num_taken <= HLM_MAX_MIXED_GROUPS;
}

static double price_of(const struct hlm_cluster *cluster, const struct hlm_plan_subcluster *some)
{
    double price = 0.0;
    for (int32_t g = 0; g < cluster->num_groups; g++) {
        price += (double)some->num_nodes[g] * cluster->groups[g].devices_per_node *
                 cluster->groups[g].price_per_device_hour;
    }
    return price;
}

/* Each once, and none is missing: as many different ones as there are. */
static enum hlm_status check_list(const struct claims *claims)
{
    const struct hlm_plan_offer *offer = claims->offer;
    const size_t size = (size_t)offer->cluster.num_groups * sizeof(int32_t);
    int64_t expected = 0;
    HLM_TRY(hlm_subclusters_check_prices(&offer->cluster, "the offer's cluster", claims->err));
    for (int32_t taken = 1; taken <= HLM_MAX_MIXED_GROUPS; taken++) {
        expected += count_choices(&offer->cluster, 0, taken);
    }
    if (expected != offer->num_subclusters) {
        return hlm_fail(claims->err, HLM_NO, "the offer lists %d subclusters of %lld",
                        offer->num_subclusters, (long long)expected);
    }
    for (int32_t i = 0; i < offer->num_subclusters; i++) {
        const struct hlm_plan_subcluster *some = &offer->subclusters[i];
        bool fresh = is_legal(&offer->cluster, some);
        for (int32_t before = 0; fresh && before < i; before++) {
            fresh = memcmp(offer->subclusters[before].num_nodes, some->num_nodes, size) != 0;
        }
        if (!fresh) {
            return hlm_fail(claims->err, HLM_NO,
                            "subclusters[%d] of the offer is none, or is there twice", i);
        }
        HLM_TRY(compare(claims, "subclusters", i, "price_per_hour", some->price_per_hour,
                        price_of(&offer->cluster, some)));
    }
    return HLM_OK;
}

/* --- bounds --- */

static double cost_of(const struct claims *claims, int32_t index, double step_s)
{
    return hlm_plan_cost_per_token(
        price_of(&claims->offer->cluster, &claims->offer->subclusters[index]), step_s,
        claims->tokens);
}

static double seconds_of(const struct claims *claims, int32_t index, double cost_per_token)
{
    return cost_per_token / cost_of(claims, index, 1.0);
}

/* No plan that uses all of the subcluster is faster than goal_s. */
static enum hlm_status check_bound(const struct claims *claims, int32_t index, double goal_s)
{
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_cluster *cluster = hlm_subcluster_take(
        arena, &claims->offer->cluster, claims->offer->subclusters[index].num_nodes);
    const struct hlm_plan_certificate certificate = {.require = *claims->require,
                                                     .runnable_only = claims->runnable_only,
                                                     .all_groups = cluster->num_groups > 1,
                                                     .lower_bound_s = goal_s};
    const struct hlm_plan bounded = {.model = *claims->model,
                                     .cluster = *cluster,
                                     .strategy = *claims->given,
                                     .certificate = &certificate};
    const enum hlm_status status = hlm_verify_bound(arena, &bounded, NULL, claims->err);
    if (status != HLM_OK) {
        hlm_err_prefix(claims->err, "subclusters[%d] of the offer (%s)", index, cluster->name);
    }
    hlm_arena_free(arena);
    return status;
}

/* fits_from_s: [num_subclusters], where nothing is said to fit: the step from which on a plan would
 * change nothing. skip: an index that was checked before, or -1. */
static enum hlm_status check_bounds(const struct claims *claims, const double *fits_from_s,
                                    int32_t skip)
{
    for (int32_t i = 0; i < claims->offer->num_subclusters; i++) {
        const struct hlm_plan_subcluster *some = &claims->offer->subclusters[i];
        const bool fits = some->outcome != HLM_SUBCLUSTER_INFEASIBLE;
        if (i != skip) {
            HLM_TRY(check_bound(claims, i, fits ? some->lower_bound_s : fits_from_s[i]));
        }
    }
    return HLM_OK;
}

/* group >= 0: of the subclusters that use it. most: what the cheapest known plan costs. */
static double least_cost(const struct claims *claims, int32_t group, double most)
{
    double least = most;
    for (int32_t i = 0; i < claims->offer->num_subclusters; i++) {
        const struct hlm_plan_subcluster *some = &claims->offer->subclusters[i];
        if (some->outcome != HLM_SUBCLUSTER_INFEASIBLE &&
            (group < 0 || some->num_nodes[group] > 0)) {
            least = fmin(least, cost_of(claims, i, some->lower_bound_s));
        }
    }
    return least;
}

static enum hlm_status check_least(const struct claims *claims, double cost)
{
    const double least = least_cost(claims, -1, cost);
    HLM_TRY(compare(claims, "offer", -1, "least_cost_per_token",
                    claims->offer->least_cost_per_token, least));
    return compare_gap(claims, "offer", -1, claims->offer->gap_frac, (cost - least) / cost);
}

/* --- plans --- */

/* object, index: whose plan it is, for messages. */
static enum hlm_status price_on(const struct claims *claims, const char *object, int32_t index,
                                const struct hlm_plan *claimed, const struct hlm_plan **out)
{
    const char *where = hlm_arena_printf(claims->arena, "%s[%d]", object, index);
    if (hlm_plan_check_placement(claimed, where, claims->err) != HLM_OK) {
        claims->err->status = HLM_NO;
        return HLM_NO;
    }
    HLM_TRY(hlm_verify_require(claims->require, &claimed->strategy, claimed->stages,
                               claimed->num_stages, where, claims->err));
    return hlm_plan_price(claims->arena, &claimed->model, &claimed->cluster, &claimed->strategy,
                          claimed->stages, claimed->num_stages, out, NULL, claims->err);
}

static const struct hlm_cluster *take(const struct claims *claims, int32_t subcluster)
{
    return hlm_subcluster_take(claims->arena, &claims->offer->cluster,
                               claims->offer->subclusters[subcluster].num_nodes);
}

/* The subcluster that the plan is on, by the digest of its cluster. */
static int32_t find_own(const struct claims *claims, const struct hlm_plan *plan)
{
    for (int32_t i = 0; i < claims->offer->num_subclusters; i++) {
        const struct hlm_plan_subcluster *some = &claims->offer->subclusters[i];
        if (some->outcome == HLM_SUBCLUSTER_PLANNED &&
            some->step_time_s == plan->prediction.step_time_s) {
            if (strcmp(hlm_json_digest(claims->arena, &hlm_cluster_table, take(claims, i)),
                       hlm_json_digest(claims->arena, &hlm_cluster_table, &plan->cluster)) == 0) {
                return i;
            }
        }
    }
    return -1;
}

/* The groups that the plan leaves out, and what it costs to use them. */
static enum hlm_status check_kept(const struct claims *claims, int32_t own, double own_cost)
{
    const struct hlm_plan_offer *offer = claims->offer;
    for (int32_t i = 0; i < offer->num_kept; i++) {
        const struct hlm_plan_kept *kept = &offer->kept[i];
        const struct hlm_plan *priced = NULL;
        if (offer->subclusters[own].num_nodes[kept->group] > 0 ||
            offer->subclusters[kept->subcluster].num_nodes[kept->group] == 0) {
            return hlm_fail(claims->err, HLM_NO,
                            "kept[%d] of the offer: the plan uses group %d, or that one does not",
                            i, kept->group);
        }
        const struct hlm_plan claimed = {.model = *claims->model,
                                         .cluster = *take(claims, kept->subcluster),
                                         .strategy = kept->strategy,
                                         .stages = kept->stages,
                                         .num_stages = kept->num_stages};
        HLM_TRY(price_on(claims, "kept", i, &claimed, &priced));
        const double cost = priced->prediction.cost_per_token;
        HLM_TRY(compare(claims, "kept", i, "step_time_s", kept->step_time_s,
                        priced->prediction.step_time_s));
        HLM_TRY(compare(claims, "kept", i, "cost_per_token", kept->cost_per_token, cost));
        HLM_TRY(compare(claims, "kept", i, "least_cost_per_token", kept->least_cost_per_token,
                        least_cost(claims, kept->group, cost)));
        if (cost < own_cost * (1 - slack_frac)) {
            return hlm_fail(claims->err, HLM_NO, "kept[%d] of the offer is cheaper than the plan",
                            i);
        }
    }
    return HLM_OK;
}

enum hlm_status hlm_verify_offer(struct hlm_arena *arena, const struct hlm_plan *plan,
                                 struct hlm_err *err)
{
    const struct hlm_plan_certificate *certificate = plan->certificate;
    const struct hlm_plan_offer *offer = certificate->offer;
    const struct claims claims = {.arena = arena,
                                  .offer = offer,
                                  .model = &plan->model,
                                  .given = &plan->strategy,
                                  .require = &certificate->require,
                                  .runnable_only = certificate->runnable_only,
                                  .tokens = (double)plan->strategy.global_batch_size *
                                            (double)plan->strategy.seq_len,
                                  .err = err};
    HLM_TRY(check_list(&claims));
    const int32_t own = find_own(&claims, plan);
    if (own < 0 ||
        offer->subclusters[own].lower_bound_s > certificate->lower_bound_s * (1 + slack_frac)) {
        return hlm_fail(err, HLM_NO,
                        "the plan is on no subcluster of the offer, or is bounded "
                        "otherwise there");
    }
    const double cost = cost_of(&claims, own, plan->prediction.step_time_s);
    HLM_TRY(compare(&claims, "prediction", -1, "cost_per_token", plan->prediction.cost_per_token,
                    cost));
    HLM_TRY(check_least(&claims, cost));
    HLM_TRY(check_kept(&claims, own, cost));
    double *fits_from_s = HLM_ARENA_ARRAY(arena, double, offer->num_subclusters);
    for (int32_t i = 0; i < offer->num_subclusters; i++) {
        fits_from_s[i] = seconds_of(&claims, i, cost);
        for (int32_t k = 0; k < offer->num_kept; k++) {
            if (offer->subclusters[i].num_nodes[offer->kept[k].group] > 0) {
                fits_from_s[i] =
                    fmax(fits_from_s[i], seconds_of(&claims, i, offer->kept[k].cost_per_token));
            }
        }
    }
    return check_bounds(&claims, fits_from_s, own);
}

/* --- fronts --- */

static double find_gap(const struct claims *claims, const struct hlm_front_point *point)
{
    double gap = 0.0;
    for (int32_t i = 0; i < claims->offer->num_subclusters; i++) {
        const struct hlm_plan_subcluster *some = &claims->offer->subclusters[i];
        const double faster = 1 - some->lower_bound_s / point->step_time_s;
        const double cheaper = 1 - cost_of(claims, i, some->lower_bound_s) / point->cost_per_token;
        if (some->outcome != HLM_SUBCLUSTER_INFEASIBLE) {
            gap = fmax(gap, fmin(faster, cheaper));
        }
    }
    return gap;
}

/* How far the best that a subcluster may hold is from the point that comes closest in both. */
static double find_cover(const struct claims *claims, const struct hlm_front *front, int32_t index)
{
    const double bound_s = claims->offer->subclusters[index].lower_bound_s;
    double least = INFINITY;
    for (int32_t p = 0; p < front->num_points; p++) {
        const struct hlm_front_point *point = &front->points[p];
        least = fmin(least, fmax(1 - bound_s / point->step_time_s,
                                 1 - cost_of(claims, index, bound_s) / point->cost_per_token));
    }
    return least;
}

static enum hlm_status check_point(const struct claims *claims, const struct hlm_front *front,
                                   int32_t index)
{
    const struct hlm_front_point *point = &front->points[index];
    const struct hlm_plan *priced = NULL;
    const struct hlm_plan claimed = {.model = front->model,
                                     .cluster = *take(claims, point->subcluster),
                                     .strategy = point->strategy,
                                     .stages = point->stages,
                                     .num_stages = point->num_stages};
    HLM_TRY(price_on(claims, "points", index, &claimed, &priced));
    const struct hlm_plan_prediction *own = &priced->prediction;
    HLM_TRY(compare(claims, "points", index, "step_time_s", point->step_time_s, own->step_time_s));
    HLM_TRY(
        compare(claims, "points", index, "tokens_per_s", point->tokens_per_s, own->tokens_per_s));
    HLM_TRY(compare(claims, "points", index, "cost_per_token", point->cost_per_token,
                    own->cost_per_token));
    /* It pays for all of its subcluster. */
    HLM_TRY(compare(claims, "points", index, "cost_per_token", point->cost_per_token,
                    cost_of(claims, point->subcluster, own->step_time_s)));
    HLM_TRY(compare_gap(claims, "points", index, point->gap_frac, find_gap(claims, point)));
    HLM_TRY(compare(claims, "points", index, "interval.low_s", point->interval.low_s,
                    own->interval.low_s));
    HLM_TRY(compare(claims, "points", index, "interval.high_s", point->interval.high_s,
                    own->interval.high_s));
    HLM_TRY(compare(claims, "points", index, "within_uncertainty", point->within_uncertainty,
                    hlm_front_is_uncertain(front, index)));
    if (index > 0 && (point->step_time_s <= point[-1].step_time_s ||
                      point->cost_per_token >= point[-1].cost_per_token)) {
        return hlm_fail(claims->err, HLM_NO,
                        "points[%d] is not slower and cheaper than the one before it", index);
    }
    return HLM_OK;
}

/* What no point covers, and the fastest, by the bounds; then the bounds. */
static enum hlm_status check_cover(const struct claims *claims, const struct hlm_front *front)
{
    double least_s = INFINITY, gap = 0.0;
    double *fits_from_s = HLM_ARENA_ARRAY(claims->arena, double, claims->offer->num_subclusters);
    for (int32_t i = 0; i < claims->offer->num_subclusters; i++) {
        const struct hlm_plan_subcluster *some = &claims->offer->subclusters[i];
        fits_from_s[i] = INFINITY;
        for (int32_t p = 0; p < front->num_points; p++) {
            fits_from_s[i] =
                fmin(fits_from_s[i], fmax(front->points[p].step_time_s,
                                          seconds_of(claims, i, front->points[p].cost_per_token)));
        }
        if (some->outcome != HLM_SUBCLUSTER_INFEASIBLE) {
            gap = fmax(gap, find_cover(claims, front, i));
            least_s = fmin(least_s, some->lower_bound_s);
        }
    }
    HLM_TRY(compare(claims, "front", -1, "least_step_s", front->least_step_s, least_s));
    HLM_TRY(compare_gap(claims, "front", -1, front->gap_frac, gap));
    return check_bounds(claims, fits_from_s, -1);
}

static bool same_question(const struct hlm_strategy *a, const struct hlm_strategy *b)
{
    return a->global_batch_size == b->global_batch_size && a->seq_len == b->seq_len &&
           a->dtype == b->dtype && a->lowering == b->lowering;
}

enum hlm_status hlm_verify_front(struct hlm_arena *arena, const struct hlm_front *front,
                                 struct hlm_err *err)
{
    const struct hlm_plan_offer *offer = &front->offer;
    const struct hlm_strategy *given = &front->points[0].strategy;
    const struct claims claims = {.arena = arena,
                                  .offer = offer,
                                  .model = &front->model,
                                  .given = given,
                                  .require = &front->require,
                                  .runnable_only = front->runnable_only,
                                  .tokens =
                                      (double)given->global_batch_size * (double)given->seq_len,
                                  .err = err};
    HLM_TRY(check_list(&claims));
    for (int32_t p = 0; p < front->num_points; p++) {
        if (!same_question(given, &front->points[p].strategy)) {
            return hlm_fail(err, HLM_NO, "points[%d] answers another question than points[0]", p);
        }
        HLM_TRY(check_point(&claims, front, p));
    }
    HLM_TRY(check_least(&claims, front->points[front->num_points - 1].cost_per_token));
    return check_cover(&claims, front);
}
