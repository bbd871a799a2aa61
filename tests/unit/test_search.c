#include "planner/column_placement.h"
#include "planner/columns.h"
#include "planner/search.h"
#include "tests/support/placement.h"
#include "tests/support/small_problem.h"

static const struct hlm_plan *search(struct hlm_arena *arena, const struct small_problem *small)
{
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    check_ok(hlm_search(arena, &small->problem, NULL, NULL, &plan, &err), &err);
    return plan;
}

/* --- every plan of a small problem, tried one by one --- */

enum { MAX_STAGES = 8 };

struct exhaustive {
    struct hlm_arena *arena;
    const struct small_problem *small;
    struct hlm_pricer pricer;
    const struct hlm_schedule *schedule;
    struct hlm_plan_stage *stages;
    struct hlm_pricer_cache *cache;
    double best_s, strategy_best_s; /* of all; of the strategy at hand */
    int64_t num_plans, num_strategies;
};

/* Memory of every rank, whose stages each have slots for all that they ever hold; costs:
 * [num_stages]. */
static bool fits(const struct exhaustive *all, const struct hlm_stage_cost *costs)
{
    const int32_t *held = hlm_schedule_in_flights(all->arena, all->schedule);
    for (int32_t r = 0; r < all->schedule->num_ranks; r++) {
        int64_t bytes = all->pricer.fixed_bytes, transient = 0;
        for (int32_t s = 0; s < all->schedule->num_stages; s++) {
            bytes += all->schedule->stage_rank[s] == r ? held[s] * costs[s].slot_bytes : 0;
            for (int32_t k = 0; k < HLM_NUM_MEMORY_KINDS && all->schedule->stage_rank[s] == r;
                 k++) {
                bytes += costs[s].static_bytes[k];
                transient =
                    costs[s].transient_bytes > transient ? costs[s].transient_bytes : transient;
            }
        }
        if (bytes + transient > all->pricer.limit_bytes) {
            return false;
        }
    }
    return true;
}

static void simulate_plan(struct exhaustive *all)
{
    const int32_t n = all->schedule->num_stages;
    struct hlm_stage_cost cost[MAX_STAGES];
    double forward_s[MAX_STAGES], backward_s[MAX_STAGES], input_s[MAX_STAGES], weight_s[MAX_STAGES];
    double reduce_s[MAX_STAGES], optimizer_s[MAX_STAGES];
    double down_s[MAX_STAGES] = {0}, up_s[MAX_STAGES] = {0};
    bool both[MAX_STAGES] = {false};
    for (int32_t s = 0; s < n; s++) {
        const struct hlm_stage_shape shape =
            hlm_plan_stage_shape(&all->small->model, all->stages, n, s);
        hlm_stage_cost(&all->pricer, &shape, &cost[s]);
        forward_s[s] = cost[s].forward.seconds;
        backward_s[s] = cost[s].backward.seconds;
        input_s[s] = cost[s].input_grad.seconds;
        weight_s[s] = cost[s].weight_grad.seconds;
        reduce_s[s] = cost[s].reduce_s;
        optimizer_s[s] = cost[s].optimizer_s;
        if (s + 1 < n) {
            down_s[s] = up_s[s + 1] = hlm_stage_send_s(&all->pricer, s, &both[s]);
        }
    }
    const struct hlm_sim_costs costs = {.forward_s = forward_s,
                                        .backward_s = backward_s,
                                        .input_grad_s = input_s,
                                        .weight_grad_s = weight_s,
                                        .send_forward_s = down_s,
                                        .send_backward_s = up_s,
                                        .needs_both_sides = both,
                                        .reduce_s = reduce_s,
                                        .optimizer_s = optimizer_s,
                                        .sync_s = hlm_stage_sync_s(&all->pricer)};
    const struct hlm_arena_mark mark = hlm_arena_mark(all->arena);
    if (fits(all, cost)) {
        struct hlm_sim_result result = {0};
        struct hlm_err err;
        check_ok(hlm_simulate(all->arena, all->schedule, &costs, NULL, false, &result, &err), &err);
        all->strategy_best_s = fmin(all->strategy_best_s, result.step_s);
        all->num_plans++;
    }
    hlm_arena_rewind(all->arena, mark);
}

/* Numbers of layers of the stages of one rank differ by one at most. */
static bool is_even(const struct exhaustive *all, int32_t num_placed)
{
    for (int32_t a = 0; a < num_placed; a++) {
        for (int32_t b = 0; b < num_placed; b++) {
            if (all->schedule->stage_rank[a] == all->schedule->stage_rank[b] &&
                abs(all->stages[a].num_layers - all->stages[b].num_layers) > 1) {
                return false;
            }
        }
    }
    return true;
}

/* All lengths and all recompute counts of this stage and those behind it. */
static void try_stages(struct exhaustive *all, int32_t stage, int32_t first)
{
    const int32_t p = all->schedule->num_stages, num_layers = all->small->model.num_layers;
    if (stage == p) {
        simulate_plan(all);
        return;
    }
    const bool middle = stage > 0 && stage < p - 1;
    for (int32_t n = middle ? 1 : 0; first + n <= num_layers; n++) {
        for (int32_t full = 0; full <= n && (stage < p - 1 || first + n == num_layers); full++) {
            for (int32_t selective = 0; full + selective <= n; selective++) {
                all->stages[stage] =
                    (struct hlm_plan_stage){.rank_group = all->schedule->stage_rank[stage],
                                            .first_layer = first,
                                            .num_layers = n,
                                            .tp = all->pricer.strategy->tp,
                                            .recompute = {n - full - selective, selective, full}};
                if (is_even(all, stage + 1)) {
                    try_stages(all, stage + 1, first + n);
                }
            }
        }
    }
}

/* The bounds that leave most columns out are below the best plan of each. */
static void check_closed_forms(const struct exhaustive *all, const struct hlm_strategy *strategy)
{
    const double most_s = all->strategy_best_s * (1 + 1e-12);
    struct hlm_strategy family = *strategy;
    struct hlm_column column;
    struct hlm_err err;
    double bound_s = 0.0;
    family.schedule = HLM_SCHEDULE_1F1B;
    family.vpp = 1;
    family.zero = 0;
    family.zero_group = 0;
    hlm_strategy_complete(&family);
    check_ok(hlm_family_bound(all->cache, &family, &bound_s, &err), &err);
    assert_true(bound_s > 0 && bound_s <= most_s);
    check_ok(hlm_column_init(all->arena, all->cache, strategy, &column, &err), &err);
    assert_true(hlm_column_may_fit(&column) || isinf(most_s));
    if (column.is_ranked && hlm_column_may_fit(&column)) {
        assert_true(hlm_column_memory_bound(all->cache, &column) <= most_s);
    }
}

static void try_strategy(struct exhaustive *all, struct hlm_strategy strategy)
{
    struct hlm_err unused;
    hlm_strategy_complete(&strategy);
    if (hlm_strategy_check(&strategy, &all->small->model, &unused) == HLM_OK &&
        hlm_schedule_build(all->arena, strategy.schedule, strategy.pp, strategy.vpp,
                           (int32_t)strategy.num_microbatches, &all->schedule, &unused) == HLM_OK &&
        hlm_pricer_init(all->arena, &all->small->model, &strategy, &all->small->cluster, 0,
                        &all->pricer, &unused) == HLM_OK) {
        all->num_strategies++;
        all->strategy_best_s = INFINITY;
        try_stages(all, 0, 0);
        check_closed_forms(all, &strategy);
        all->best_s = fmin(all->best_s, all->strategy_best_s);
    }
}

/* All chunks, ZeRO stages and sp of these degrees. */
static void try_switches(struct exhaustive *all, struct hlm_strategy strategy)
{
    const int32_t most_vpp = (all->small->model.num_layers + 2) / strategy.pp;
    for (int32_t code = 0; code < 8 * most_vpp; code++) {
        strategy.sp = code % 2 == 1;
        strategy.zero = code / 2 % 4;
        strategy.vpp = code / 8 + 1;
        if (strategy.zero == 0 || strategy.dp * strategy.cp > 1) {
            try_strategy(all, strategy);
        }
    }
}

static struct exhaustive try_everything(struct hlm_arena *arena, const struct small_problem *small,
                                        enum hlm_schedule_kind schedule)
{
    const struct hlm_search_problem *problem = &small->problem;
    struct exhaustive all = {.arena = arena,
                             .small = small,
                             .stages = HLM_ARENA_ARRAY(arena, struct hlm_plan_stage, MAX_STAGES),
                             .cache = hlm_pricer_cache_new(arena, problem),
                             .best_s = INFINITY};
    const int32_t devices = small->group.devices_per_node;
    for (int32_t code = 0; code < devices * devices * devices; code++) {
        const int32_t tp = code % devices + 1, pp = code / devices % devices + 1;
        const int32_t cp = code / devices / devices + 1;
        const bool divides = devices % (tp * pp * cp) == 0;
        for (int64_t size = 1; divides && size <= problem->global_batch_size; size++) {
            const int32_t dp = devices / tp / pp / cp;
            if (problem->global_batch_size % (dp * size) == 0 &&
                (pp > 1 || schedule == HLM_SCHEDULE_1F1B)) {
                try_switches(
                    &all, (struct hlm_strategy){.dp = dp,
                                                .tp = tp,
                                                .pp = pp,
                                                .cp = cp,
                                                .microbatch_size = size,
                                                .global_batch_size = problem->global_batch_size,
                                                .seq_len = problem->seq_len,
                                                .dtype = problem->dtype,
                                                .lowering = problem->lowering,
                                                .offload = hlm_columns_offload(&problem->require),
                                                .schedule = schedule});
            }
        }
    }
    return all;
}

/* The best of all plans is what the search finds and proves. */
static bool search_is_exact(struct hlm_arena *arena, struct small_problem *small,
                            enum hlm_schedule_kind schedule, int64_t *num_plans,
                            int32_t *num_recomputing)
{
    small->problem.max_gap_frac = 0;
    small->problem.require.schedule = (int32_t)schedule;
    const struct exhaustive all = try_everything(arena, small, schedule);
    *num_plans += all.num_plans;
    if (isinf(all.best_s)) {
        const struct hlm_plan *plan = NULL;
        struct hlm_err err;
        check_fails(hlm_search(arena, &small->problem, NULL, NULL, &plan, &err), HLM_NO, &err,
                    "fits");
        return false;
    }
    const struct hlm_plan *plan = search(arena, small);
    check_close(plan->prediction.step_time_s, all.best_s, 1e-9);
    check_close(plan->certificate->lower_bound_s, all.best_s, 1e-8);
    assert_true(plan->certificate->gap_frac <= 1e-8);
    assert_int_equal(plan->certificate->num_columns, all.num_strategies);
    for (int32_t s = 0; s < plan->num_stages; s++) {
        *num_recomputing += plan->stages[s].recompute.none < plan->stages[s].num_layers;
    }
    return true;
}

/* Every schedule, memory from ample to scarce, so that recompute has to be chosen, on both kinds of
 * links. */
static void gap_0_is_the_best_of_all_plans(void **state)
{
    (void)state;
    static const int64_t mebibytes[] = {16384, 400, 290, 220};
    int64_t num_plans = 0;
    int32_t num_recomputing = 0, num_fit = 0;
    for (int i = 0; i < 4 * HLM_NUM_SCHEDULES; i++) {
        const enum hlm_schedule_kind schedule = (enum hlm_schedule_kind)(i / 4);
        struct hlm_arena *arena = hlm_arena_new();
        struct small_problem small;
        small_problem_init(arena, &small, 4 + i % 2, 4, mebibytes[i % 4] << 20, 8);
        if (i % 3 == 1) {
            small_problem_wait_for_both_sides(&small);
        }
        num_fit += search_is_exact(arena, &small, schedule, &num_plans, &num_recomputing);
        hlm_arena_free(arena);
    }
    print_message("%lld plans, %d problems\n", (long long)num_plans, num_fit);
    assert_true(num_plans > 10000 && num_fit > 2 * HLM_NUM_SCHEDULES);
    assert_true(num_recomputing > 0);
}

/* All schedules at once: columns of one family keep each other's bounds. */
static void gap_0_over_all_schedules(void **state)
{
    (void)state;
    static const int64_t mebibytes[] = {16384, 330};
    for (int i = 0; i < 2; i++) {
        struct hlm_arena *arena = hlm_arena_new();
        struct small_problem small;
        small_problem_init(arena, &small, 4, 4, mebibytes[i] << 20, 8);
        small_problem_wait_for_both_sides(&small);
        small.problem.max_gap_frac = 0;
        double best_s = INFINITY;
        for (int kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
            best_s =
                fmin(best_s, try_everything(arena, &small, (enum hlm_schedule_kind)kind).best_s);
        }
        const struct hlm_plan *plan = search(arena, &small);
        check_close(plan->prediction.step_time_s, best_s, 1e-9);
        check_close(plan->certificate->lower_bound_s, best_s, 1e-8);
        hlm_arena_free(arena);
    }
}

/* --- the certificate --- */

static void certificate_adds_up(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 8, 4, 4LL << 30, 16);
    const struct hlm_plan *plan = search(arena, &small);
    const struct hlm_plan_certificate *certificate = plan->certificate;
    const double step_s = plan->prediction.step_time_s;
    assert_true(certificate->lower_bound_s <= step_s);
    check_near(certificate->gap_frac, 1 - certificate->lower_bound_s / step_s, 1e-12);
    /* bounds within 1e-9 of each other count as equal */
    assert_true(certificate->gap_frac <= small.problem.max_gap_frac + 1e-8);
    assert_true(certificate->num_pruned_by_bound + certificate->num_infeasible <
                certificate->num_columns);
    assert_true(certificate->num_ilps >= 2 && certificate->num_simulated >= 1);
    assert_true(certificate->num_bounds >= certificate->num_ilps); /* a column is bounded first */
    assert_int_equal(certificate->master.status, HLM_PROOF_OPTIMAL);
    assert_true(certificate->master.num_columns >= 1);
    assert_true(certificate->master.objective_s <= step_s * (1 + 1e-6));
    hlm_arena_free(arena);
}

static void runners_up_are_other_columns_in_order(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 8, 4, 4LL << 30, 16);
    small.problem.top_k = 5;
    const struct hlm_plan *plan = search(arena, &small);
    assert_int_equal(plan->num_runners_up, 5);
    double before_s = plan->prediction.step_time_s;
    for (int32_t i = 0; i < plan->num_runners_up; i++) {
        const struct hlm_plan_runner_up *runner = &plan->runners_up[i];
        assert_true(runner->step_time_s >= before_s * (1 - 1e-8));
        before_s = runner->step_time_s;
        const struct hlm_plan *priced = NULL;
        struct hlm_err err;
        check_ok(hlm_plan_price(arena, &small.model, &small.cluster, &runner->strategy,
                                runner->stages, runner->num_stages, &priced, NULL, &err),
                 &err);
        check_close(priced->prediction.step_time_s, runner->step_time_s, 1e-12);
        assert_true(memcmp(&runner->strategy, &plan->strategy, sizeof(plan->strategy)) != 0);
    }
    hlm_arena_free(arena);
}

static void twice_the_same(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 8, 4, 2LL << 30, 16);
    const struct hlm_plan *a = search(arena, &small), *b = search(arena, &small);
    assert_string_equal(a->digests.strategy, b->digests.strategy);
    assert_string_equal(a->digests.stages, b->digests.stages);
    assert_int_equal(a->certificate->num_simulated, b->certificate->num_simulated);
    assert_true(a->certificate->lower_bound_s == b->certificate->lower_bound_s);
    hlm_arena_free(arena);
}

/* Dropping a restriction, or more memory, never makes the best plan slower. */
static void freedom_never_hurts(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 8, 4, 2LL << 30, 16);
    small.problem.max_gap_frac = 0;
    const double free_s = search(arena, &small)->prediction.step_time_s;
    small.problem.require.pp = 4;
    const struct hlm_plan *restricted = search(arena, &small);
    assert_int_equal(restricted->strategy.pp, 4);
    assert_int_equal(restricted->certificate->require.pp, 4);
    assert_true(restricted->prediction.step_time_s >= free_s * (1 - 1e-9));
    small.problem.require.recompute = HLM_RECOMPUTE_FULL;
    const struct hlm_plan *full = search(arena, &small);
    assert_true(full->prediction.step_time_s >= restricted->prediction.step_time_s * (1 - 1e-9));
    for (int32_t s = 0; s < full->num_stages; s++) {
        assert_int_equal(full->stages[s].recompute.full, full->stages[s].num_layers);
    }
    small.problem.require = (struct hlm_search_require){
        .sp = -1, .zero = -1, .schedule = -1, .recompute = -1, .offload = -1};
    small.group.device.memory_bytes *= 4;
    assert_true(search(arena, &small)->prediction.step_time_s <= free_s * (1 + 1e-9));
    hlm_arena_free(arena);
}

/* --- offload --- */

/* Of all plans with an offload, the search finds the best: on a link on which copies take longer
 * than passes, so that recompute saves traffic, and memory that is scarce without it. */
static void gap_0_with_offload(void **state)
{
    (void)state;
    static const enum hlm_schedule_kind schedules[] = {
        HLM_SCHEDULE_GPIPE, HLM_SCHEDULE_1F1B, HLM_SCHEDULE_INTERLEAVED, HLM_SCHEDULE_ZB_H1};
    int64_t num_plans = 0;
    int32_t num_recomputing = 0, num_fit = 0;
    for (int i = 0; i < 4 * (HLM_NUM_OFFLOADS - 1); i++) {
        struct hlm_arena *arena = hlm_arena_new();
        struct small_problem small;
        small_problem_init(arena, &small, 3, 4, (i % 3 == 0 ? 150LL : 220LL) << 20, 4);
        small.problem.require.offload = i / 4 + 1;
        if (schedules[i % 4] == HLM_SCHEDULE_ZB_H1 &&
            hlm_offload_parts(hlm_columns_offload(&small.problem.require)).inputs) {
            hlm_arena_free(arena);
            continue; /* not legal */
        }
        small.host.link_bandwidth_bytes_per_s = i % 5 < 3 ? 3e9 : 30e9;
        num_fit += search_is_exact(arena, &small, schedules[i % 4], &num_plans, &num_recomputing);
        hlm_arena_free(arena);
    }
    print_message("%lld plans, %d problems, %d stages recompute\n", (long long)num_plans, num_fit,
                  num_recomputing);
    assert_true(num_plans > 1000 && num_recomputing > 0 && num_fit > 6);
}

/* No column has one by itself; where nothing fits without, the message says which would do. */
static void offload_is_searched_where_it_is_required(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    small_problem_init(arena, &small, 8, 4, 190LL << 20, 16);
    check_fails(hlm_search(arena, &small.problem, NULL, NULL, &plan, &err), HLM_NO, &err,
                "; a plan fits when offload=optimizer is required");
    small.problem.require.offload = HLM_OFFLOAD_OPTIMIZER;
    plan = search(arena, &small);
    assert_int_equal(plan->strategy.offload, HLM_OFFLOAD_OPTIMIZER);
    assert_int_equal(plan->certificate->require.offload, HLM_OFFLOAD_OPTIMIZER);
    assert_true(plan->num_runners_up > 0);
    for (int32_t i = 0; i < plan->num_runners_up; i++) {
        assert_int_equal(plan->runners_up[i].strategy.offload, HLM_OFFLOAD_OPTIMIZER);
    }
    small.host.memory_bytes = 1e6;
    check_fails(hlm_search(arena, &small.problem, NULL, NULL, &plan, &err), HLM_NO, &err,
                "the fastest plan: offload = optimizer needs");
    small.problem.require.offload = -1;
    check_fails(hlm_search(arena, &small.problem, NULL, NULL, &plan, &err), HLM_NO, &err, "nodes");
    small_problem_init(arena, &small, 8, 4, 16LL << 30, 16);
    assert_int_equal(search(arena, &small)->strategy.offload, HLM_OFFLOAD_NONE);
    hlm_arena_free(arena);
}

/* How many runners-up the hosts of the problem do not hold. */
static int32_t num_beyond_hosts(struct hlm_arena *arena, const struct small_problem *small,
                                const struct hlm_plan *plan)
{
    int32_t num = 0;
    for (int32_t i = 0; i < plan->num_runners_up; i++) {
        const struct hlm_plan_runner_up *runner = &plan->runners_up[i];
        const struct hlm_plan *priced = NULL;
        struct hlm_err err;
        num += hlm_plan_price(arena, &small->model, &small->cluster, &runner->strategy,
                              runner->stages, runner->num_stages, &priced, NULL, &err) != HLM_OK;
    }
    return num;
}

/* Hosts that just hold the best plan: runners-up that need more of them are left out. */
static void runners_up_are_on_the_hosts_too(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 8, 4, 1LL << 30, 16);
    small.problem.require.offload = HLM_OFFLOAD_ALL;
    small.problem.top_k = 20;
    const struct hlm_plan *plan = search(arena, &small);
    double host_bytes = 0.0;
    for (int32_t s = 0; s < plan->num_stages; s++) {
        const double num_ranks = plan->strategy.dp * plan->strategy.tp * plan->strategy.cp;
        host_bytes += num_ranks * (double)plan->prediction.memory[s].host_bytes;
    }
    small.host.memory_bytes = host_bytes;
    assert_true(num_beyond_hosts(arena, &small, plan) > 0);
    const struct hlm_plan *tight = search(arena, &small);
    check_close(tight->prediction.step_time_s, plan->prediction.step_time_s, 1e-12);
    assert_int_equal(num_beyond_hosts(arena, &small, tight), 0);
    assert_true(tight->num_runners_up < plan->num_runners_up);
    hlm_arena_free(arena);
}

/* --- nothing fits --- */

static void infeasible_names_stage_and_bytes(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    small_problem_init(arena, &small, 8, 4, 80LL << 20, 16);
    check_fails(hlm_search(arena, &small.problem, NULL, NULL, &plan, &err), HLM_NO, &err,
                "MiB in stage");
    check_fails(hlm_search(arena, &small.problem, NULL, NULL, &plan, &err), HLM_NO, &err,
                "most of it is");
    hlm_arena_free(arena);
}

static void infeasible_names_the_requirement(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    small_problem_init(arena, &small, 8, 4, 600LL << 20, 16);
    assert_true(search(arena, &small)->num_stages > 0);
    small.problem.require.recompute = HLM_RECOMPUTE_NONE;
    small.problem.require.microbatch_size = 16;
    check_fails(hlm_search(arena, &small.problem, NULL, NULL, &plan, &err), HLM_NO, &err,
                "left free");
    hlm_arena_free(arena);
}

static void too_many_groups_are_refused(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    small_problem_init(arena, &small, 8, 4, 4LL << 30, 16);
    struct hlm_device_group groups[5];
    for (int32_t i = 0; i < 5; i++) {
        groups[i] = small.group;
    }
    small.cluster.groups = groups;
    small.cluster.num_groups = 5;
    check_fails(hlm_search(arena, &small.problem, NULL, NULL, &plan, &err), HLM_NO, &err,
                "5 device groups");
    hlm_arena_free(arena);
}

/* A search with a cutoff ends where nothing can be faster than it, and says how fast anything could
 * be; what is within the gap of the cutoff is found. */
static void a_cutoff_ends_the_search(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    struct hlm_search_result result;
    struct hlm_err err;
    small_problem_init(arena, &small, 8, 4, 4LL << 30, 16);
    const struct hlm_plan *plan = search(arena, &small);
    const double step_s = plan->prediction.step_time_s;
    const double least_s = plan->certificate->lower_bound_s;
    static const double above[] = {0.1, 0.5, 0.9, 0.95};
    for (size_t i = 0; i < sizeof(above) / sizeof(above[0]); i++) {
        const double cutoff_s = above[i] * least_s;
        check_ok(hlm_search_below(arena, &small.problem, cutoff_s, NULL, NULL, &result, &err),
                 &err);
        assert_null(result.plan);
        assert_true(result.lower_bound_s >= cutoff_s && result.lower_bound_s <= step_s);
    }
    const double below[] = {step_s, 2 * step_s, INFINITY};
    for (size_t i = 0; i < sizeof(below) / sizeof(below[0]); i++) {
        check_ok(hlm_search_below(arena, &small.problem, below[i], NULL, NULL, &result, &err),
                 &err);
        assert_non_null(result.plan);
        check_close(result.plan->prediction.step_time_s, step_s, 0.01);
        assert_true(result.lower_bound_s <= step_s);
        check_close(result.lower_bound_s, result.plan->certificate->lower_bound_s, 0.0);
    }
    small.group.device.memory_bytes = 80LL << 20;
    check_fails(hlm_search_below(arena, &small.problem, INFINITY, NULL, NULL, &result, &err),
                HLM_NO, &err, "nothing fits");
    hlm_arena_free(arena);
}

/* Runners-up say whether the profile is precise enough to tell them from the plan. */
static void runners_up_know_the_uncertainty(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    struct hlm_err err;
    int32_t num_certain = 0, num_uncertain = 0;
    small_problem_init(arena, &small, 8, 4, 4LL << 30, 16);
    small.problem.top_k = 40;
    const struct hlm_plan *plan = search(arena, &small);
    const struct hlm_plan_interval *own = &plan->prediction.interval;
    for (int32_t i = 0; i < plan->num_runners_up; i++) {
        const struct hlm_plan_runner_up *runner = &plan->runners_up[i];
        const struct hlm_plan *priced = NULL;
        check_ok(hlm_plan_price(arena, &plan->model, &plan->cluster, &runner->strategy,
                                runner->stages, runner->num_stages, &priced, NULL, &err),
                 &err);
        check_close(runner->interval.low_s, priced->prediction.interval.low_s, 1e-12);
        check_close(runner->interval.high_s, priced->prediction.interval.high_s, 1e-12);
        assert_true(runner->within_uncertainty == (runner->interval.low_s <= own->high_s));
        num_uncertain += runner->within_uncertainty ? 1 : 0;
        num_certain += runner->within_uncertainty ? 0 : 1;
    }
    assert_true(num_uncertain > 0 && num_certain > 0);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gap_0_is_the_best_of_all_plans),
        cmocka_unit_test(gap_0_over_all_schedules),
        cmocka_unit_test(certificate_adds_up),
        cmocka_unit_test(runners_up_are_other_columns_in_order),
        cmocka_unit_test(twice_the_same),
        cmocka_unit_test(freedom_never_hurts),
        cmocka_unit_test(gap_0_with_offload),
        cmocka_unit_test(offload_is_searched_where_it_is_required),
        cmocka_unit_test(runners_up_are_on_the_hosts_too),
        cmocka_unit_test(infeasible_names_stage_and_bytes),
        cmocka_unit_test(infeasible_names_the_requirement),
        cmocka_unit_test(too_many_groups_are_refused),
        cmocka_unit_test(a_cutoff_ends_the_search),
        cmocka_unit_test(runners_up_know_the_uncertainty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
