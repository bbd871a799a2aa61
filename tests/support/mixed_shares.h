/* mixed_shares: every plan of replicas with shares of their own of a small problem, one by one; a
 * part of mixed_problem.h. Nothing here calls the search. */
#ifndef HLM_TESTS_SUPPORT_MIXED_SHARES_H
#define HLM_TESTS_SUPPORT_MIXED_SHARES_H

#include <math.h>

#include "costmodel/layout.h"
#include "planner/plan_pricers.h"
#include "planner/search.h"
#include "tests/support/check.h"

enum { MIXED_SHARE_GROUPS = 3, MIXED_SHARE_STAGES = 8 };

struct mixed_shares {
    struct hlm_arena *arena;
    const struct hlm_search_problem *problem;
    struct hlm_strategy strategy;
    struct hlm_replicas replicas[MIXED_SHARE_GROUPS];
    /* Of the replicas of each group. */
    struct hlm_strategy seen[MIXED_SHARE_GROUPS];
    const struct hlm_pricer *const *pricers[MIXED_SHARE_GROUPS];
    const struct hlm_schedule *schedules[MIXED_SHARE_GROUPS];
    struct hlm_plan_stage stages[MIXED_SHARE_STAGES];
    double best_s;
    int64_t num_plans, num_columns;
};

static inline struct hlm_stage_cost mixed_share_cost(const struct mixed_shares *all, int32_t g,
                                                     int32_t s)
{
    struct hlm_stage_cost cost;
    const struct hlm_stage_shape shape =
        hlm_plan_stage_shape(all->problem->model, all->stages, all->strategy.pp, s);
    hlm_stage_cost(all->pricers[g][s], &shape, &cost);
    return cost;
}

static inline bool mixed_share_fits(const struct mixed_shares *all, int32_t s)
{
    for (int32_t g = 0; g < all->strategy.num_replicas; g++) {
        const struct hlm_stage_cost cost = mixed_share_cost(all, g, s);
        const struct hlm_stage_shape shape =
            hlm_plan_stage_shape(all->problem->model, all->stages, all->strategy.pp, s);
        struct hlm_stage_memory memory;
        hlm_stage_memory(all->pricers[g][s], &shape, &cost,
                         hlm_schedule_in_flight(all->strategy.schedule, all->strategy.pp,
                                                (int32_t)all->replicas[g].num_microbatches, s),
                         &memory);
        if (memory.peak_bytes > memory.limit_bytes) {
            return false;
        }
    }
    return true;
}

/* end_gs of each group's last backwards, then what all do together (planner/plan.h). */
static inline void mixed_share_simulate(struct mixed_shares *all)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(all->arena);
    const int32_t p = all->strategy.pp;
    double ends[MIXED_SHARE_STAGES] = {0}, reduce[MIXED_SHARE_STAGES] = {0};
    double optimizer_s = 0.0, sync_s = 0.0, step_s = 0.0;
    for (int32_t g = 0; g < all->strategy.num_replicas; g++) {
        double times[6][MIXED_SHARE_STAGES] = {{0}};
        bool both[MIXED_SHARE_STAGES] = {false};
        for (int32_t s = 0; s < p; s++) {
            const struct hlm_stage_cost cost = mixed_share_cost(all, g, s);
            times[0][s] = cost.forward.seconds;
            times[1][s] = cost.backward.seconds;
            reduce[s] = fmax(reduce[s], cost.reduce_s);
            optimizer_s = fmax(optimizer_s, cost.optimizer_s);
            if (s + 1 < p) {
                times[2][s] = hlm_stage_send_s(all->pricers[g][s], s, &both[s]);
                times[3][s + 1] = times[2][s];
            }
        }
        const struct hlm_sim_costs costs = {.forward_s = times[0],
                                            .backward_s = times[1],
                                            .send_forward_s = times[2],
                                            .send_backward_s = times[3],
                                            .needs_both_sides = both,
                                            .reduce_s = times[4],
                                            .optimizer_s = times[5]};
        struct hlm_sim_result result = {0};
        struct hlm_err err;
        check_ok(hlm_simulate(all->arena, all->schedules[g], &costs, NULL, false, &result, &err),
                 &err);
        for (int32_t s = 0; s < p; s++) {
            ends[s] = fmax(ends[s], result.ranks[s].compute_end_s);
        }
        sync_s = fmax(sync_s, hlm_stage_sync_s(all->pricers[g][0]));
    }
    for (int32_t s = 0; s < p; s++) {
        step_s = fmax(step_s, ends[s] + reduce[s]);
    }
    all->best_s = fmin(all->best_s, step_s + sync_s + optimizer_s);
    all->num_plans++;
    hlm_arena_rewind(all->arena, mark);
}

static inline void mixed_share_stages(struct mixed_shares *all, int32_t s, int32_t first)
{
    const int32_t p = all->strategy.pp, num_layers = all->problem->model->num_layers;
    const int32_t required = all->problem->require.recompute;
    if (s == p || s >= MIXED_SHARE_STAGES) {
        mixed_share_simulate(all);
        return;
    }
    const bool middle = s > 0 && s < p - 1, last = s == p - 1;
    for (int32_t n = last ? num_layers - first : middle ? 1 : 0; first + n <= num_layers; n++) {
        for (int32_t code = 0; code < (n + 1) * (n + 1); code++) {
            const int32_t full = code / (n + 1), selective = code % (n + 1);
            const int32_t none = n - full - selective;
            const int32_t counts[] = {[HLM_RECOMPUTE_NONE] = none,
                                      [HLM_RECOMPUTE_SELECTIVE] = selective,
                                      [HLM_RECOMPUTE_FULL] = full};
            all->stages[s] = (struct hlm_plan_stage){
                .first_layer = first, .num_layers = n, .recompute = {none, selective, full}};
            if (none >= 0 && (required < 0 || counts[required] == n) && mixed_share_fits(all, s)) {
                mixed_share_stages(all, s + 1, first + n);
            }
        }
    }
}

/* All whole shares; returns how many there are. */
static inline int32_t mixed_share_all(struct mixed_shares *all, int32_t g, int64_t left)
{
    int32_t num = 0;
    if (g >= MIXED_SHARE_GROUPS) {
        return 0;
    }
    struct hlm_replicas *own = &all->replicas[g];
    if (g + 1 == all->strategy.num_replicas) {
        own->num_microbatches = left / own->dp;
        if (left <= 0 || left % own->dp != 0) {
            return 0;
        }
        for (int32_t i = 0; i <= g; i++) {
            struct hlm_err err;
            all->seen[i] = hlm_strategy_of_replicas(&all->strategy, i);
            check_ok(hlm_schedule_build(all->arena, all->strategy.schedule, all->strategy.pp, 1,
                                        (int32_t)all->replicas[i].num_microbatches,
                                        &all->schedules[i], &err),
                     &err);
        }
        mixed_share_stages(all, 0, 0);
        return 1;
    }
    for (own->num_microbatches = 1; own->num_microbatches * own->dp < left;
         own->num_microbatches++) {
        num += mixed_share_all(all, g + 1, left - own->num_microbatches * own->dp);
    }
    return num;
}

/* Replicas of in_replica = tp * pp devices. */
static inline void mixed_share_column(struct mixed_shares *all, int32_t tp, int32_t pp, bool sp)
{
    const struct hlm_search_problem *problem = all->problem;
    const int64_t size = problem->require.microbatch_size;
    const struct hlm_arena_mark mark = hlm_arena_mark(all->arena);
    struct hlm_strategy *strategy = &all->strategy;
    struct hlm_err unused;
    strategy->tp = tp;
    strategy->pp = pp;
    strategy->sp = sp;
    strategy->etp = 0;
    strategy->zero_group = 0;
    strategy->dp = 0;
    for (int32_t i = 0; i < strategy->num_replicas; i++) {
        const struct hlm_device_group *group =
            &problem->cluster->groups[all->replicas[i].device_group];
        const int32_t devices = group->num_nodes * group->devices_per_node;
        all->replicas[i].dp = devices / (tp * pp);
        all->replicas[i].num_microbatches = 1;
        strategy->dp += all->replicas[i].dp;
        if (devices % (tp * pp) != 0) {
            return;
        }
    }
    check_ok(hlm_layout_locate_replicas(strategy, problem->cluster, all->replicas, &unused),
             &unused);
    /* What is legal with a batch of one microbatch a replica is with any. */
    strategy->num_microbatches = 1;
    strategy->global_batch_size = strategy->dp * size;
    hlm_strategy_complete(strategy);
    bool legal = hlm_strategy_check(strategy, problem->model, &unused) == HLM_OK;
    for (int32_t i = 0; legal && i < strategy->num_replicas; i++) {
        all->seen[i] = hlm_strategy_of_replicas(strategy, i);
        legal = hlm_plan_pricers_new(all->arena, problem->model, problem->cluster, &all->seen[i],
                                     &all->pricers[i], &unused) == HLM_OK;
    }
    if (legal && mixed_share_all(all, 0, problem->global_batch_size / size) > 0) {
        all->num_columns++;
    }
    hlm_arena_rewind(all->arena, mark);
}

/* Schedule, ZeRO stage and microbatch size are required. */
static inline struct mixed_shares mixed_share_everything(struct hlm_arena *arena,
                                                         const struct hlm_search_problem *problem)
{
    const struct hlm_search_require *require = &problem->require;
    const int32_t num_groups = problem->cluster->num_groups;
    struct mixed_shares all = {.arena = arena, .problem = problem, .best_s = (double)INFINITY};
    if (require->zero > 1 || problem->global_batch_size % require->microbatch_size != 0 ||
        (require->schedule != HLM_SCHEDULE_GPIPE && require->schedule != HLM_SCHEDULE_1F1B)) {
        return all;
    }
    for (int32_t groups = 1; groups < 1 << num_groups; groups++) {
        all.strategy = (struct hlm_strategy){.vpp = 1,
                                             .cp = 1,
                                             .ep = 1,
                                             .zero = require->zero,
                                             .schedule = (enum hlm_schedule_kind)require->schedule,
                                             .microbatch_size = require->microbatch_size,
                                             .seq_len = problem->seq_len,
                                             .dtype = problem->dtype,
                                             .lowering = problem->lowering,
                                             .replicas = all.replicas};
        for (int32_t g = 0; g < num_groups; g++) {
            if ((groups >> g & 1) != 0) {
                all.replicas[all.strategy.num_replicas++].device_group = g;
            }
        }
        const int32_t num = all.strategy.num_replicas;
        for (int32_t code = 0; code < 2 * 8 * MIXED_SHARE_STAGES; code++) {
            const int32_t tp = code / 2 % 8 + 1, pp = code / 16 + 1;
            if (num > 1 && (!problem->all_groups || num == num_groups) &&
                (code % 2 == 0 || tp > 1) && (require->pp == 0 || require->pp == pp) &&
                pp <= problem->model->num_layers + 2 &&
                (pp > 1 || require->schedule == HLM_SCHEDULE_1F1B)) {
                mixed_share_column(&all, tp, pp, code % 2 == 1);
            }
        }
    }
    return all;
}

#endif
