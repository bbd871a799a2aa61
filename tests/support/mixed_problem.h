/* mixed_problem: random small problems over several device groups, and every plan of them tried one
 * by one. Nothing here calls the search. */
#ifndef HLM_TESTS_SUPPORT_MIXED_PROBLEM_H
#define HLM_TESTS_SUPPORT_MIXED_PROBLEM_H

#include <math.h>
#include <stdio.h>

#include "base/rng.h"
#include "planner/plan_pricers.h"
#include "planner/search.h"
#include "tests/support/check.h"
#include "tests/support/mixed_shares.h"

enum { MIXED_MAX_STAGES = 16, MIXED_MAX_LAYERS = 8, MIXED_MAX_GROUPS = 3 };

struct mixed_problem {
    struct hlm_model model;
    struct hlm_cluster cluster;
    struct hlm_device_group groups[MIXED_MAX_GROUPS];
    struct hlm_search_problem problem;
};

/* gpt2-small cut to num_layers on one node of `devices[g]` devices of each group. */
static inline void mixed_problem_init(struct hlm_arena *arena, struct mixed_problem *mixed,
                                      int32_t num_groups, const int32_t *devices,
                                      int32_t num_layers, int64_t batch)
{
    struct hlm_err err;
    const struct hlm_model *model = NULL;
    const struct hlm_cluster *cluster = NULL;
    check_ok(hlm_model_load(arena, "gpt2-small", &model, &err), &err);
    check_ok(hlm_cluster_load(arena,
                              num_groups == 2 ? "a100-sxm-80g:1x8+v100-sxm2-32g:1x8"
                                              : "h100-sxm:1x8+a100-sxm-80g:1x8+v100-sxm2-32g:1x8",
                              &cluster, &err),
             &err);
    mixed->model = *model;
    mixed->model.num_layers = num_layers;
    mixed->model.vocab_size = 5000;
    mixed->cluster = *cluster;
    for (int32_t g = 0; g < num_groups; g++) {
        mixed->groups[g] = cluster->groups[g];
        mixed->groups[g].devices_per_node = devices[g];
        mixed->groups[g].nvlink_domain = devices[g];
        mixed->groups[g].device.fixed_memory_bytes = 64LL << 20;
    }
    mixed->cluster.groups = mixed->groups;
    mixed->problem = (struct hlm_search_problem){
        .model = &mixed->model,
        .cluster = &mixed->cluster,
        .global_batch_size = batch,
        .seq_len = 512,
        .dtype = HLM_DTYPE_FP16,
        .lowering = HLM_LOWERING_HLMPLAN,
        .require = {.sp = -1, .zero = -1, .schedule = -1, .recompute = -1, .offload = -1},
        .max_gap_frac = 0.0,
        .top_k = 0};
}

static inline int32_t mixed_devices(const struct mixed_problem *mixed, int32_t group)
{
    return mixed->groups[group].num_nodes * mixed->groups[group].devices_per_node;
}

/* --- every plan --- */

/* What a stage takes with so many layers and modes. */
struct mixed_stage {
    bool is_known, fits;
    struct hlm_stage_cost cost;
};

struct mixed_exhaustive {
    struct hlm_arena *arena;
    const struct mixed_problem *mixed;
    const struct hlm_pricer *const *pricers;
    const struct hlm_schedule *schedule;
    const struct hlm_rank_held *held;
    struct hlm_strategy strategy;
    struct hlm_plan_stage stages[MIXED_MAX_STAGES];
    const struct mixed_stage *taken[MIXED_MAX_STAGES];
    struct mixed_stage *known; /* [stage][layers][full][selective] */
    double send_s[MIXED_MAX_STAGES], sync_s;
    bool both[MIXED_MAX_STAGES];
    double best_s, shares_s; /* of all; of replicas with shares of their own */
    int64_t num_plans, num_columns;
};

static inline const struct mixed_stage *mixed_stage_of(struct mixed_exhaustive *all, int32_t s,
                                                       int32_t n, int32_t full, int32_t selective)
{
    const int32_t width = MIXED_MAX_LAYERS + 1;
    struct mixed_stage *stage = &all->known[((s * width + n) * width + full) * width + selective];
    if (!stage->is_known) {
        const struct hlm_plan_stage placed = {.num_layers = n,
                                              .recompute = {n - full - selective, selective, full}};
        struct hlm_stage_memory memory;
        struct hlm_stage_shape shape = {.stage = s,
                                        .num_stages = all->strategy.pp,
                                        .embedding = s == 0,
                                        .head = s == all->strategy.pp - 1};
        shape.layers[HLM_BLOCK_DENSE][HLM_RECOMPUTE_NONE] = placed.recompute.none;
        shape.layers[HLM_BLOCK_DENSE][HLM_RECOMPUTE_SELECTIVE] = selective;
        shape.layers[HLM_BLOCK_DENSE][HLM_RECOMPUTE_FULL] = full;
        int32_t in_flight = 0;
        for (int32_t row = 0; row < all->held[s].num_rows; row++) {
            in_flight = all->held[s].counts[row] > in_flight ? all->held[s].counts[row] : in_flight;
        }
        hlm_stage_cost(all->pricers[s], &shape, &stage->cost);
        hlm_stage_memory(all->pricers[s], &shape, &stage->cost, in_flight, &memory);
        stage->fits = memory.peak_bytes <= memory.limit_bytes;
        stage->is_known = true;
    }
    return stage;
}

static inline void mixed_simulate(struct mixed_exhaustive *all)
{
    const int32_t p = all->strategy.pp;
    double times[7][MIXED_MAX_STAGES];
    for (int32_t s = 0; s < p; s++) {
        const struct hlm_stage_cost *cost = &all->taken[s]->cost;
        times[0][s] = cost->forward.seconds;
        times[1][s] = cost->backward.seconds;
        times[2][s] = cost->input_grad.seconds;
        times[3][s] = cost->weight_grad.seconds;
        times[4][s] = cost->reduce_s;
        times[5][s] = cost->optimizer_s;
        times[6][s] = s > 0 ? all->send_s[s - 1] : 0.0;
    }
    const struct hlm_sim_costs costs = {.forward_s = times[0],
                                        .backward_s = times[1],
                                        .input_grad_s = times[2],
                                        .weight_grad_s = times[3],
                                        .send_forward_s = all->send_s,
                                        .send_backward_s = times[6],
                                        .needs_both_sides = all->both,
                                        .reduce_s = times[4],
                                        .optimizer_s = times[5],
                                        .sync_s = all->sync_s};
    const struct hlm_arena_mark mark = hlm_arena_mark(all->arena);
    struct hlm_sim_result result = {0};
    struct hlm_err err;
    check_ok(hlm_simulate(all->arena, all->schedule, &costs, NULL, false, &result, &err), &err);
    all->best_s = fmin(all->best_s, result.step_s);
    all->num_plans++;
    hlm_arena_rewind(all->arena, mark);
}

static inline void mixed_try_stages(struct mixed_exhaustive *all, int32_t s, int32_t first)
{
    const int32_t p = all->strategy.pp, num_layers = all->mixed->model.num_layers;
    const int32_t required = all->mixed->problem.require.recompute;
    if (s == p) {
        mixed_simulate(all);
        return;
    }
    const bool middle = s > 0 && s < p - 1, last = s == p - 1;
    for (int32_t n = last ? num_layers - first : middle ? 1 : 0; first + n <= num_layers; n++) {
        for (int32_t full = 0; full <= n; full++) {
            for (int32_t selective = 0; full + selective <= n; selective++) {
                const int32_t counts[] = {[HLM_RECOMPUTE_NONE] = n - full - selective,
                                          [HLM_RECOMPUTE_SELECTIVE] = selective,
                                          [HLM_RECOMPUTE_FULL] = full};
                if (required >= 0 && counts[required] != n) {
                    continue;
                }
                all->taken[s] = mixed_stage_of(all, s, n, full, selective);
                if (all->taken[s]->fits && (!middle || n > 0)) {
                    mixed_try_stages(all, s + 1, first + n);
                }
            }
        }
    }
}

static inline void mixed_try_strategy(struct mixed_exhaustive *all)
{
    const struct mixed_problem *mixed = all->mixed;
    const struct hlm_arena_mark mark = hlm_arena_mark(all->arena);
    struct hlm_err unused;
    hlm_strategy_complete(&all->strategy);
    if (hlm_strategy_check(&all->strategy, &mixed->model, &unused) == HLM_OK &&
        hlm_schedule_build(all->arena, all->strategy.schedule, all->strategy.pp, 1,
                           (int32_t)all->strategy.num_microbatches, &all->schedule,
                           &unused) == HLM_OK &&
        hlm_plan_pricers_new(all->arena, &mixed->model, &mixed->cluster, &all->strategy,
                             &all->pricers, &unused) == HLM_OK) {
        const int32_t p = all->strategy.pp, width = MIXED_MAX_LAYERS + 1;
        all->num_columns++;
        all->held = hlm_schedule_held(all->arena, all->schedule);
        all->known = HLM_ARENA_ARRAY(all->arena, struct mixed_stage, p * width * width * width);
        all->sync_s = hlm_stage_sync_s(all->pricers[0]);
        for (int32_t s = 0; s + 1 < p; s++) {
            all->send_s[s] = hlm_stage_send_s(all->pricers[s], s, &all->both[s]);
        }
        mixed_try_stages(all, 0, 0);
    }
    hlm_arena_rewind(all->arena, mark);
}

/* Pipeline ranks of the groups in this order, written out. */
static inline void mixed_try_order(struct mixed_exhaustive *all, const int32_t *order, int32_t num,
                                   const int32_t *tp, int32_t replicas)
{
    const struct hlm_search_problem *problem = &all->mixed->problem;
    struct hlm_rank_place places[MIXED_MAX_STAGES];
    int32_t pp = 0, rank = 0, largest = 0;
    for (int32_t i = 0; i < num; i++) {
        int64_t device = 0;
        for (int32_t g = 0; g < order[i]; g++) {
            device += mixed_devices(all->mixed, g);
        }
        for (int32_t left = mixed_devices(all->mixed, order[i]); left > 0;
             left -= replicas * tp[order[i]]) {
            assert_true(pp < MIXED_MAX_STAGES);
            places[pp++] = (struct hlm_rank_place){tp[order[i]], rank, device};
            rank += replicas * tp[order[i]];
            device += (int64_t)replicas * tp[order[i]];
        }
        largest = tp[order[i]] > largest ? tp[order[i]] : largest;
    }
    for (int32_t code = 0; code < 2 * replicas; code++) {
        const int32_t cp = code / 2 + 1, dp = replicas / cp;
        const bool sp = code % 2 == 1;
        if (replicas % cp != 0 || pp > all->mixed->model.num_layers + 2 ||
            (problem->require.pp > 0 && problem->require.pp != pp) ||
            problem->global_batch_size % (dp * problem->require.microbatch_size) != 0 ||
            (pp == 1 && problem->require.schedule != HLM_SCHEDULE_1F1B) ||
            (replicas == 1 && problem->require.zero > 0)) {
            continue;
        }
        all->strategy =
            (struct hlm_strategy){.dp = dp,
                                  .tp = largest,
                                  .pp = pp,
                                  .cp = cp,
                                  .sp = sp,
                                  .zero = problem->require.zero,
                                  .schedule = (enum hlm_schedule_kind)problem->require.schedule,
                                  .microbatch_size = problem->require.microbatch_size,
                                  .global_batch_size = problem->global_batch_size,
                                  .seq_len = problem->seq_len,
                                  .dtype = problem->dtype,
                                  .lowering = problem->lowering,
                                  .places = places};
        mixed_try_strategy(all);
    }
}

static inline void mixed_permute(struct mixed_exhaustive *all, int32_t *order, int32_t at,
                                 int32_t num, const int32_t *tp, int32_t replicas)
{
    if (at >= num || at >= MIXED_MAX_GROUPS) {
        mixed_try_order(all, order, num, tp, replicas);
        return;
    }
    for (int32_t i = at; i < num && i < MIXED_MAX_GROUPS; i++) {
        const int32_t a = order[at], b = order[i];
        order[at] = b;
        order[i] = a;
        mixed_permute(all, order, at + 1, num, tp, replicas);
        order[at] = a;
        order[i] = b;
    }
}

/* The tp of each group from the digits of a number; 0: the group is left out. Through several
 * groups tp stays within a node. Microbatch size, ZeRO stage and schedule are required. */
static inline struct mixed_exhaustive mixed_try_everything(struct hlm_arena *arena,
                                                           const struct mixed_problem *mixed)
{
    struct mixed_exhaustive all = {.arena = arena, .mixed = mixed, .best_s = INFINITY};
    enum { BASE = 9 };
    const int32_t num_groups = mixed->cluster.num_groups;
    int32_t num_codes = 1;
    for (int32_t g = 0; g < num_groups; g++) {
        num_codes *= BASE;
    }
    for (int32_t replicas = 1; replicas < BASE; replicas++) {
        for (int32_t code = 1; code < num_codes; code++) {
            int32_t tp[MIXED_MAX_GROUPS], order[MIXED_MAX_GROUPS], num = 0;
            bool divides = true;
            bool within_nodes = true;
            for (int32_t g = 0, rest = code; g < num_groups; g++, rest /= BASE) {
                tp[g] = rest % BASE;
                divides =
                    divides && (tp[g] == 0 || mixed_devices(mixed, g) % (replicas * tp[g]) == 0);
                within_nodes = within_nodes && tp[g] <= mixed->groups[g].devices_per_node;
                if (tp[g] > 0) {
                    order[num++] = g;
                }
            }
            if (divides && (num == 1 || within_nodes) &&
                (!mixed->problem.all_groups || num == num_groups)) {
                mixed_permute(&all, order, 0, num, tp, replicas);
            }
        }
    }
    const struct mixed_shares shares = mixed_share_everything(arena, &mixed->problem);
    all.num_plans += shares.num_plans;
    all.num_columns += shares.num_columns;
    all.best_s = fmin(all.best_s, shares.best_s);
    all.shares_s = shares.best_s;
    return all;
}

/* A problem at random: two groups or three of few devices, memory from ample to scarce. */
static inline void mixed_problem_random(struct hlm_arena *arena, struct hlm_rng *rng,
                                        struct mixed_problem *mixed)
{
    static const enum hlm_schedule_kind schedules[] = {HLM_SCHEDULE_GPIPE, HLM_SCHEDULE_1F1B,
                                                       HLM_SCHEDULE_1F1B_OVERLAP,
                                                       HLM_SCHEDULE_ZB_H1, HLM_SCHEDULE_ZB_H2};
    const int32_t num_groups = (int32_t)hlm_rng_next_int(rng, 2, 3);
    int32_t devices[MIXED_MAX_GROUPS];
    for (int32_t g = 0; g < num_groups; g++) {
        devices[g] = num_groups == 2 ? (int32_t)hlm_rng_next_int(rng, 1, 3)
                                     : (int32_t)hlm_rng_next_int(rng, 1, 2);
    }
    const bool free_recompute = hlm_rng_next_int(rng, 0, 1) == 0;
    const int32_t num_layers = (int32_t)hlm_rng_next_int(rng, 3, free_recompute ? 4 : 8);
    mixed_problem_init(arena, mixed, num_groups, devices, num_layers, 8);
    for (int32_t g = 0; g < num_groups; g++) {
        mixed->groups[g].device.memory_bytes =
            hlm_rng_next_int(rng, 0, 1) == 0 ? 16LL << 30 : hlm_rng_next_int(rng, 200, 700) << 20;
    }
    mixed->model.tied_embeddings = hlm_rng_next_int(rng, 0, 1) == 0;
    struct hlm_search_require *require = &mixed->problem.require;
    require->schedule = (int32_t)schedules[hlm_rng_next_int(rng, 0, 4)];
    require->zero = (int32_t)hlm_rng_next_int(rng, 0, 3);
    require->microbatch_size = 1LL << hlm_rng_next_int(rng, 0, 2);
    require->recompute = free_recompute ? -1 : (int32_t)hlm_rng_next_int(rng, 0, 2);
}

#endif
