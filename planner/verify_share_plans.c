#include "planner/verify_share_plans.h"

#include <math.h>

#include "planner/plan.h"

enum { MOST_GROUPS = 4 };

/* The replicas of a group. */
struct group {
    struct hlm_strategy seen;
    const struct hlm_pricer *const *pricers;
    double *forward_s, *backward_s, *reduce_s, *optimizer_s; /* [pp] of the stages so far */
    double *send_forward_s, *send_backward_s;
    bool *both_sides;
};

struct plans {
    struct hlm_arena *arena;
    const struct hlm_model *model;
    const struct hlm_strategy *strategy;
    int32_t recompute;
    double goal_s, sync_s, least_s;
    int64_t *left;
    struct hlm_plan_stage *stages;
    struct group groups[MOST_GROUPS];
};

static bool open_group(struct plans *plans, struct hlm_verify_prices *prices, int32_t g)
{
    struct group *group = &plans->groups[g];
    const int32_t p = plans->strategy->pp;
    struct hlm_err unused;
    group->seen = hlm_strategy_of_replicas(plans->strategy, g);
    if (hlm_verify_prices_get(prices, plans->arena, &group->seen, &group->pricers, &unused) !=
        HLM_OK) {
        return false;
    }
    double **const rows[] = {&group->forward_s,   &group->backward_s,     &group->reduce_s,
                             &group->optimizer_s, &group->send_forward_s, &group->send_backward_s};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        *rows[i] = HLM_ARENA_ARRAY(plans->arena, double, p);
    }
    group->both_sides = HLM_ARENA_ARRAY(plans->arena, bool, p);
    for (int32_t s = 0; s + 1 < p; s++) {
        group->send_forward_s[s] = hlm_stage_send_s(group->pricers[s], s, &group->both_sides[s]);
        group->send_backward_s[s + 1] = group->send_forward_s[s];
    }
    plans->sync_s = fmax(plans->sync_s, hlm_stage_sync_s(group->pricers[0]));
    return true;
}

/* Takes the stage as it is on the group. False: it does not fit, or is alone not below the goal. */
static bool take_stage(struct plans *plans, struct group *group, int32_t s)
{
    const struct hlm_stage_shape shape =
        hlm_plan_stage_shape(plans->model, plans->stages, plans->strategy->pp, s);
    struct hlm_stage_cost cost;
    struct hlm_stage_memory memory;
    hlm_stage_cost(group->pricers[s], &shape, &cost);
    hlm_stage_memory(group->pricers[s], &shape, &cost,
                     hlm_schedule_in_flight(group->seen.schedule, group->seen.pp,
                                            (int32_t)group->seen.num_microbatches, s),
                     &memory);
    group->forward_s[s] = cost.forward.seconds;
    group->backward_s[s] = cost.backward.seconds;
    group->reduce_s[s] = cost.reduce_s;
    group->optimizer_s[s] = cost.optimizer_s;
    return memory.peak_bytes <= memory.limit_bytes &&
           (double)group->seen.num_microbatches * (cost.forward.seconds + cost.backward.seconds) <
               plans->goal_s;
}

/* As planner/plan.h has it: the slowest group's, with what all do together as on the slowest. */
static void simulate(struct plans *plans)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(plans->arena);
    const int32_t p = plans->strategy->pp, num = plans->strategy->num_replicas;
    double *reduce_s = HLM_ARENA_ARRAY(plans->arena, double, p);
    double *optimizer_s = HLM_ARENA_ARRAY(plans->arena, double, p);
    double step_s = 0.0;
    for (int32_t i = 0; i < num * p; i++) {
        const struct group *group = &plans->groups[i / p];
        reduce_s[i % p] = fmax(reduce_s[i % p], group->reduce_s[i % p]);
        optimizer_s[i % p] = fmax(optimizer_s[i % p], group->optimizer_s[i % p]);
    }
    for (int32_t g = 0; g < num; g++) {
        const struct group *group = &plans->groups[g];
        const struct hlm_sim_costs costs = {.forward_s = group->forward_s,
                                            .backward_s = group->backward_s,
                                            .send_forward_s = group->send_forward_s,
                                            .send_backward_s = group->send_backward_s,
                                            .needs_both_sides = group->both_sides,
                                            .reduce_s = reduce_s,
                                            .optimizer_s = optimizer_s,
                                            .sync_s = plans->sync_s};
        step_s = fmax(step_s, hlm_simulate_step(plans->arena, group->seen.schedule, p,
                                                (int32_t)group->seen.num_microbatches, &costs));
    }
    plans->least_s = fmin(plans->least_s, step_s);
    hlm_arena_rewind(plans->arena, mark);
}

static bool is_allowed(const struct plans *plans, const struct hlm_plan_recompute *recompute)
{
    const int32_t counts[] = {[HLM_RECOMPUTE_NONE] = recompute->none,
                              [HLM_RECOMPUTE_SELECTIVE] = recompute->selective,
                              [HLM_RECOMPUTE_FULL] = recompute->full};
    const int32_t all = recompute->none + recompute->selective + recompute->full;
    return recompute->none >= 0 && (plans->recompute < 0 || counts[plans->recompute] == all);
}

static void place_from(struct plans *plans, int32_t s, int32_t first);

/* The stage with so many layers, in every recompute. */
static void place_stage(struct plans *plans, int32_t s, int32_t first, int32_t n)
{
    for (int32_t code = 0; code < (n + 1) * (n + 1) && *plans->left >= 0; code++) {
        const int32_t full = code / (n + 1), selective = code % (n + 1);
        const struct hlm_plan_recompute recompute = {n - full - selective, selective, full};
        bool fits = is_allowed(plans, &recompute);
        plans->stages[s] = (struct hlm_plan_stage){
            .rank_group = s, .first_layer = first, .num_layers = n, .recompute = recompute};
        *plans->left -= fits ? 1 : 0;
        for (int32_t g = 0; g < plans->strategy->num_replicas && fits; g++) {
            fits = take_stage(plans, &plans->groups[g], s);
        }
        if (fits) {
            place_from(plans, s + 1, first + n);
        }
    }
}

static void place_from(struct plans *plans, int32_t s, int32_t first)
{
    const int32_t p = plans->strategy->pp, num_layers = plans->model->num_layers;
    if (s == p) {
        *plans->left -= plans->strategy->num_microbatches;
        simulate(plans);
        return;
    }
    const bool last = s == p - 1, middle = s > 0 && !last;
    for (int32_t n = last ? num_layers - first : middle ? 1 : 0; first + n <= num_layers; n++) {
        place_stage(plans, s, first, n);
    }
}

double hlm_verify_share_plans(struct hlm_verify_prices *prices, const struct hlm_model *model,
                              const struct hlm_strategy *strategy, int32_t recompute, double goal_s,
                              int64_t *left)
{
    struct plans plans = {.arena = hlm_arena_new(),
                          .model = model,
                          .strategy = strategy,
                          .recompute = recompute,
                          .goal_s = goal_s,
                          .least_s = (double)INFINITY,
                          .left = left};
    bool priced = true;
    plans.stages = HLM_ARENA_ARRAY(plans.arena, struct hlm_plan_stage, strategy->pp);
    for (int32_t g = 0; g < strategy->num_replicas && priced; g++) {
        priced = open_group(&plans, prices, g);
    }
    if (priced) {
        place_from(&plans, 0, 0);
    }
    const double least_s = plans.least_s;
    hlm_arena_free(plans.arena);
    return least_s;
}
