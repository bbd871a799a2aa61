#include "planner/explain.h"
#include "tests/support/mixed_problem.h"
#include "tests/support/small_problem.h"

static const struct hlm_search_require nothing = {
    .sp = -1, .zero = -1, .schedule = -1, .recompute = -1, .offload = -1};

static const struct hlm_plan *search(struct hlm_arena *arena,
                                     const struct hlm_search_problem *problem)
{
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    check_ok(hlm_search(arena, problem, NULL, NULL, &plan, &err), &err);
    return plan;
}

static struct hlm_explain_alternative ask(struct hlm_arena *arena, const struct hlm_plan *plan,
                                          struct hlm_search_require asked)
{
    struct hlm_explain_alternative alternative;
    struct hlm_err err;
    check_ok(hlm_explain_why_not(arena, plan, &asked, &alternative, &err), &err);
    return alternative;
}

/* --- trees --- */

static void trees_are_joined_by_name(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_time_node forward[] = {{.name = "gemm_s", .seconds = 3},
                                            {.name = "host_s", .seconds = 1}};
    const struct hlm_time_node other_forward[] = {{.name = "gemm_s", .seconds = 2.5}};
    const struct hlm_time_node parts[] = {
        {.name = "forward", .seconds = 4, .parts = forward, .num_parts = 2},
        {.name = "optimizer", .seconds = 1}};
    const struct hlm_time_node other_parts[] = {
        {.name = "bubble_s", .seconds = 7},
        {.name = "forward", .seconds = 2.5, .parts = other_forward, .num_parts = 1}};
    const struct hlm_time_node plan = {"step", 5, parts, 2}, other = {"step", 9.5, other_parts, 2};
    const struct hlm_explain_delta delta = hlm_explain_subtract(arena, &plan, &other);
    assert_string_equal(delta.name, "step");
    check_close(delta.delta_s, 4.5, 1e-15);
    assert_int_equal(delta.num_parts, 3);
    assert_string_equal(delta.parts[0].name, "forward");
    check_close(delta.parts[0].delta_s, -1.5, 1e-15);
    assert_int_equal(delta.parts[0].num_parts, 2);
    check_close(delta.parts[0].parts[0].delta_s, -0.5, 1e-15);
    check_close(delta.parts[0].parts[1].delta_s, -1.0, 1e-15);
    assert_string_equal(delta.parts[1].name, "optimizer");
    assert_true(delta.parts[1].alternative_s == 0.0);
    assert_string_equal(delta.parts[2].name, "bubble_s");
    assert_true(delta.parts[2].plan_s == 0.0 && delta.parts[2].delta_s == 7.0);
    hlm_arena_free(arena);
}

static void uncertain_when_intervals_overlap(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_plan plan = {
        .prediction = {.parts = {.name = "step", .seconds = 1}, .interval = {0.9, 1.1}}};
    struct hlm_plan other = {
        .prediction = {.parts = {.name = "step", .seconds = 1.2}, .interval = {1.05, 1.35}}};
    struct hlm_explain_difference difference;
    hlm_explain_compare(arena, &plan, &other, &difference);
    assert_true(difference.within_uncertainty);
    hlm_explain_compare(arena, &other, &plan, &difference);
    assert_true(difference.within_uncertainty);
    other.prediction.interval = (struct hlm_plan_interval){1.11, 1.29};
    hlm_explain_compare(arena, &plan, &other, &difference);
    assert_false(difference.within_uncertainty);
    hlm_explain_compare(arena, &other, &plan, &difference);
    assert_false(difference.within_uncertainty);
    hlm_arena_free(arena);
}

/* --- why not --- */

static void the_alternative_is_the_best_under_the_restriction(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 6, 4, 4LL << 30, 16);
    small.problem.max_gap_frac = 0;
    const struct hlm_plan *plan = search(arena, &small.problem);
    const int32_t tp = plan->strategy.tp == 2 ? 4 : 2;
    struct hlm_search_require asked = nothing;
    asked.tp = tp;
    const struct hlm_explain_alternative alternative = ask(arena, plan, asked);
    assert_string_equal(alternative.asked, tp == 2 ? "tp=2" : "tp=4");
    assert_int_equal(alternative.verdict, HLM_EXPLAIN_SLOWER);
    assert_null(alternative.misfit);
    assert_null(alternative.rule);
    small.problem.require.tp = tp;
    const struct hlm_plan *restricted = search(arena, &small.problem);
    const struct hlm_explain_difference *difference = alternative.difference;
    assert_int_equal(difference->strategy.tp, tp);
    check_close(difference->step_time_s, restricted->prediction.step_time_s, 1e-9);
    check_close(difference->lower_bound_s, difference->step_time_s, 1e-8);
    check_close(difference->parts.delta_s, difference->step_time_s - plan->prediction.step_time_s,
                1e-9);
    for (int32_t s = 0; s < difference->num_memory; s++) {
        const struct hlm_explain_memory *memory = &difference->memory[s];
        int64_t sum = 0;
        for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
            sum += memory->delta_bytes[kind];
        }
        assert_int_equal(sum, memory->alternative_peak_bytes - memory->plan_peak_bytes);
    }
    hlm_arena_free(arena);
}

static void what_the_plan_has_is_the_same(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 6, 4, 4LL << 30, 16);
    const struct hlm_plan *plan = search(arena, &small.problem);
    struct hlm_search_require asked = nothing;
    asked.pp = plan->strategy.pp;
    assert_int_equal(ask(arena, plan, asked).verdict, HLM_EXPLAIN_SAME);
    assert_int_equal(ask(arena, plan, nothing).verdict, HLM_EXPLAIN_SAME);
    hlm_arena_free(arena);
}

/* A plan that was restricted loses to what it was kept from; its other restrictions stay. */
static void restrictions_stay_unless_named(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 6, 4, 4LL << 30, 16);
    small.problem.require.dp = 1;
    small.problem.require.pp = 4;
    small.problem.require.zero = 0;
    const struct hlm_plan *plan = search(arena, &small.problem);
    struct hlm_search_require asked = nothing;
    asked.pp = 1;
    const struct hlm_explain_alternative freed = ask(arena, plan, asked);
    assert_int_equal(freed.verdict, HLM_EXPLAIN_FASTER);
    assert_int_equal(freed.difference->strategy.dp, 4);
    assert_int_equal(freed.difference->strategy.zero, 0);
    asked.zero = 1;
    asked.dp = 4;
    assert_int_equal(ask(arena, plan, asked).difference->strategy.zero, 1);
    hlm_arena_free(arena);
}

static void illegal_names_the_rule(void **state)
{
    (void)state;
    static const struct {
        struct hlm_search_require asked;
        const char *part;
    } cases[] = {
        {{.tp = 3, .sp = -1, .zero = -1, .schedule = -1, .recompute = -1, .offload = -1},
         "number of devices, 16: not with tp=3"},
        {{.tp = 16, .sp = -1, .zero = -1, .schedule = -1, .recompute = -1, .offload = -1},
         "tp = 16 does not divide num_heads = 12; nearest: 12"},
        {{.pp = 16, .sp = -1, .zero = -1, .schedule = -1, .recompute = -1, .offload = -1},
         "pp = 16 exceeds the 8 blocks"},
        {{.dp = 16,
          .sp = -1,
          .zero = -1,
          .schedule = -1,
          .recompute = -1,
          .offload = -1,
          .microbatch_size = 3},
         "is not global_batch_size = 16"},
        {{.sp = 1, .tp = 1, .zero = -1, .schedule = -1, .recompute = -1, .offload = -1},
         "sp needs tp > 1"},
        {{.pp = 1,
          .schedule = HLM_SCHEDULE_GPIPE,
          .sp = -1,
          .zero = -1,
          .recompute = -1,
          .offload = -1},
         "gpipe with pp = 1 is left out"},
        {{.dp = 1, .cp = 1, .zero = 1, .sp = -1, .schedule = -1, .recompute = -1, .offload = -1},
         "zero with dp * cp = 1"}};
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 6, 16, 4LL << 30, 16);
    const struct hlm_plan *plan = search(arena, &small.problem);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct hlm_explain_alternative alternative = ask(arena, plan, cases[i].asked);
        assert_int_equal(alternative.verdict, HLM_EXPLAIN_ILLEGAL);
        assert_null(alternative.difference);
        if (strstr(alternative.rule, cases[i].part) == NULL) {
            fail_msg("\"%s\" lacks \"%s\"", alternative.rule, cases[i].part);
        }
    }
    hlm_arena_free(arena);
}

/* --- does not fit --- */

static struct hlm_search_require heavy(void)
{
    struct hlm_search_require asked = nothing;
    asked.tp = 1;
    asked.recompute = HLM_RECOMPUTE_NONE;
    asked.microbatch_size = 4;
    return asked;
}

/* The bytes that are missing are exactly what the closest strategy needs. */
static void missing_bytes_are_exact(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 8, 4, 460LL << 20, 16);
    const struct hlm_plan *plan = search(arena, &small.problem);
    const struct hlm_explain_alternative alternative = ask(arena, plan, heavy());
    assert_int_equal(alternative.verdict, HLM_EXPLAIN_DOES_NOT_FIT);
    const struct hlm_explain_misfit *misfit = alternative.misfit;
    assert_true(misfit->missing_bytes > 0);
    assert_int_equal(misfit->memory.peak_bytes - misfit->memory.limit_bytes, misfit->missing_bytes);
    assert_int_equal(misfit->strategy.microbatch_size, 4);
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        assert_true(misfit->memory.bytes[kind] <= misfit->memory.bytes[misfit->most]);
    }
    small.problem.require = heavy();
    small.group.device.memory_bytes += misfit->missing_bytes;
    search(arena, &small.problem);
    hlm_arena_free(arena);
}

static void every_change_lets_it_fit(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 8, 4, 460LL << 20, 16);
    const struct hlm_plan *plan = search(arena, &small.problem);
    const struct hlm_explain_misfit *misfit = ask(arena, plan, heavy()).misfit;
    int32_t num_known = 0;
    assert_true(misfit->num_changes >= 2);
    for (int32_t i = 0; i < misfit->num_changes; i++) {
        const struct hlm_explain_change *change = &misfit->changes[i];
        struct small_problem changed;
        small_problem_init(arena, &changed, 8, 4, 460LL << 20, 16);
        changed.problem.require = heavy();
        changed.problem.max_gap_frac = HLM_EXPLAIN_MAX_GAP_FRAC;
        if (change->memory_bytes > 0) {
            changed.group.device.memory_bytes = change->memory_bytes;
            assert_int_equal(i, misfit->num_changes - 1); /* other devices come last */
        } else if (sscanf(change->change, "tp=%d", &changed.problem.require.tp) != 1) {
            int microbatch_size = 0;
            if (sscanf(change->change, "microbatch_size=%d", &microbatch_size) == 1) {
                changed.problem.require.microbatch_size = microbatch_size;
            } else if (strcmp(change->change, "offload=optimizer") == 0) {
                changed.problem.require.offload = HLM_OFFLOAD_OPTIMIZER;
            } else if (strcmp(change->change, "offload=activations") == 0) {
                changed.problem.require.offload = HLM_OFFLOAD_ACTIVATIONS;
            } else {
                const bool full = strcmp(change->change, "recompute=full") == 0;
                assert_true(full || strcmp(change->change, "recompute=selective") == 0);
                changed.problem.require.recompute =
                    full ? HLM_RECOMPUTE_FULL : HLM_RECOMPUTE_SELECTIVE;
            }
        }
        const struct hlm_plan *fits = search(arena, &changed.problem);
        check_close(change->step_time_s, fits->prediction.step_time_s, 1e-3);
        num_known++;
        if (i > 0 && change->memory_bytes == 0) {
            assert_true(change->step_time_s >= misfit->changes[i - 1].step_time_s);
        }
    }
    assert_int_equal(num_known, misfit->num_changes);
    hlm_arena_free(arena);
}

/* Where only states do not fit, sending them to the host is the cheapest change. */
static void offload_is_a_change(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 8, 4, 460LL << 20, 16);
    const struct hlm_plan *plan = search(arena, &small.problem);
    struct hlm_search_require asked = nothing;
    asked.pp = 1;
    asked.tp = 1;
    asked.zero = 0;
    const struct hlm_explain_misfit *misfit = ask(arena, plan, asked).misfit;
    assert_non_null(misfit);
    assert_int_equal(misfit->most, HLM_MEMORY_OPTIMIZER);
    bool found = false;
    for (int32_t i = 0; i < misfit->num_changes; i++) {
        found = found || strcmp(misfit->changes[i].change, "offload=optimizer") == 0;
    }
    assert_true(found);
    small.group.host = NULL; /* nothing to send it to */
    misfit = ask(arena, search(arena, &small.problem), asked).misfit;
    for (int32_t i = 0; i < misfit->num_changes; i++) {
        assert_null(strstr(misfit->changes[i].change, "offload"));
    }
    hlm_arena_free(arena);
}

/* --- edited plans, runners-up --- */

static void an_edited_plan_is_explained_as_it_stands(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    struct hlm_err err;
    small_problem_init(arena, &small, 6, 1, 4LL << 30, 16);
    small.problem.require.recompute = HLM_RECOMPUTE_NONE;
    const struct hlm_plan *plan = search(arena, &small.problem), *priced = NULL;
    assert_int_equal(plan->num_stages, 1);
    check_ok(hlm_explain_price(arena, plan, &priced, &err), &err);
    assert_ptr_equal(priced->certificate, plan->certificate);
    struct hlm_plan edited = *plan;
    struct hlm_plan_stage stage = plan->stages[0];
    stage.recompute = (struct hlm_plan_recompute){.full = stage.num_layers};
    edited.stages = &stage;
    check_ok(hlm_explain_price(arena, &edited, &priced, &err), &err);
    assert_null(priced->certificate);
    assert_true(priced->prediction.step_time_s > plan->prediction.step_time_s);
    struct hlm_search_require asked = nothing;
    asked.recompute = HLM_RECOMPUTE_NONE;
    assert_int_equal(ask(arena, &edited, asked).verdict, HLM_EXPLAIN_FASTER);
    hlm_arena_free(arena);
}

static void runners_up_are_priced(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    struct hlm_err err;
    small_problem_init(arena, &small, 6, 4, 4LL << 30, 16);
    const struct hlm_plan *plan = search(arena, &small.problem);
    assert_int_equal(plan->num_runners_up, 3);
    for (int32_t i = 0; i < plan->num_runners_up; i++) {
        struct hlm_explain_alternative alternative;
        check_ok(hlm_explain_runner_up(arena, plan, i, &alternative, &err), &err);
        assert_int_equal(alternative.verdict, HLM_EXPLAIN_SLOWER);
        check_close(alternative.difference->step_time_s, plan->runners_up[i].step_time_s, 1e-9);
        assert_true(alternative.difference->lower_bound_s == 0.0);
    }
    hlm_arena_free(arena);
}

/* --- limits --- */

static struct hlm_explain_limits limits_of(struct hlm_arena *arena, const struct hlm_plan *plan)
{
    struct hlm_explain_limits limits;
    struct hlm_err err;
    check_ok(hlm_explain_limits(arena, plan, NULL, NULL, &limits, &err), &err);
    return limits;
}

static const struct hlm_explain_gain *gain_of(const struct hlm_explain_limits *limits,
                                              enum hlm_explain_input input, double least_factor)
{
    for (int32_t i = 0; i < limits->num_gains; i++) {
        if (limits->gains[i].input == input && limits->gains[i].factor >= least_factor) {
            return &limits->gains[i];
        }
    }
    fail_msg("no gain for %s", hlm_explain_input_texts[input]);
    return NULL;
}

static void shares_are_the_step(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 6, 4, 4LL << 30, 16);
    small.problem.require.tp = 2;
    small.problem.require.pp = 2;
    small.problem.require.cp = 1;
    small.problem.require.schedule = HLM_SCHEDULE_1F1B;
    const struct hlm_plan *plan = search(arena, &small.problem);
    const struct hlm_explain_limits limits = limits_of(arena, plan);
    double frac = 0.0;
    for (int32_t i = 0; i < limits.num_shares; i++) {
        assert_int_not_equal(limits.shares[i].limit, HLM_EXPLAIN_LIMIT_OTHER);
        assert_true(i == 0 || limits.shares[i].seconds <= limits.shares[i - 1].seconds);
        frac += limits.shares[i].frac;
    }
    check_close(frac, 1.0, 1e-9);
    assert_int_equal(limits.num_traffic, 2);
    assert_int_equal(limits.traffic[0].limit, HLM_EXPLAIN_LIMIT_TENSOR_PARALLEL);
    assert_int_equal(limits.traffic[1].limit, HLM_EXPLAIN_LIMIT_TRANSFER);
    assert_int_equal(limits.traffic[0].link, HLM_EXPLAIN_LINK_INTRA_NODE);
    const struct hlm_stage_memory *fullest = &plan->prediction.memory[limits.fullest_stage];
    assert_int_equal(limits.headroom_bytes, fullest->limit_bytes - fullest->peak_bytes);
    for (int32_t s = 0; s < plan->num_stages; s++) {
        assert_true(plan->prediction.memory[s].peak_bytes <= fullest->peak_bytes);
    }
    hlm_arena_free(arena);
}

static void traffic_between_nodes(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 6, 2, 4LL << 30, 16);
    const struct hlm_inter_link link = {
        .link = {.alpha_s = 1e-5, .hop_alpha_s = 1e-5, .bandwidth_bytes_per_s = 1e10}};
    small.cluster.links = &link;
    small.cluster.num_links = 1;
    small.group.num_nodes = 2;
    small.group.nics_per_node = 1;
    small.group.nic_bandwidth_bytes_per_s = 1e10;
    small.group.nvlink_domain = 0;
    small.problem.require.tp = 2;
    small.problem.require.dp = 2;
    const struct hlm_explain_limits limits = limits_of(arena, search(arena, &small.problem));
    assert_int_equal(limits.num_traffic, 2);
    assert_int_equal(limits.traffic[0].link, HLM_EXPLAIN_LINK_INTRA_NODE);
    assert_int_equal(limits.traffic[1].limit, HLM_EXPLAIN_LIMIT_DATA_PARALLEL);
    assert_int_equal(limits.traffic[1].link, HLM_EXPLAIN_LINK_INTER_NODE);
    assert_int_equal(limits.traffic[1].num_nodes, 2);
    assert_true(gain_of(&limits, HLM_EXPLAIN_INPUT_INTER_NODE_BANDWIDTH, 2.0)->gain_frac > 0.0);
    hlm_arena_free(arena);
}

/* Nothing communicates on one device, and its memory is plenty: 0, not something small. */
static void what_is_not_used_does_not_help(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 6, 1, 30LL << 30, 4);
    const struct hlm_explain_limits limits = limits_of(arena, search(arena, &small.problem));
    static const enum hlm_explain_input idle[] = {
        HLM_EXPLAIN_INPUT_DEVICE_MEMORY, HLM_EXPLAIN_INPUT_INTRA_NODE_BANDWIDTH,
        HLM_EXPLAIN_INPUT_INTER_NODE_BANDWIDTH, HLM_EXPLAIN_INPUT_LATENCY};
    assert_int_equal(limits.num_traffic, 0);
    assert_null(limits.not_searched);
    for (size_t i = 0; i < sizeof(idle) / sizeof(idle[0]); i++) {
        assert_true(gain_of(&limits, idle[i], 0.0)->gain_frac == 0.0);
        assert_true(gain_of(&limits, idle[i], 0.0)->same_strategy);
    }
    const double compute = gain_of(&limits, HLM_EXPLAIN_INPUT_COMPUTE, 1.1)->gain_frac;
    const double bandwidth = gain_of(&limits, HLM_EXPLAIN_INPUT_MEMORY_BANDWIDTH, 1.1)->gain_frac;
    assert_true(compute > 0.0 && bandwidth > 0.0 && compute + bandwidth < 0.1 + 1e-9);
    hlm_arena_free(arena);
}

/* Where recompute is forced by memory, twice the memory gains what its absence saves. */
static void memory_helps_where_it_limits(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 8, 4, 460LL << 20, 16);
    small.problem.require.tp = 1;
    small.problem.require.pp = 4;
    const struct hlm_plan *plan = search(arena, &small.problem);
    const struct hlm_explain_limits limits = limits_of(arena, plan);
    const struct hlm_explain_gain *gain = gain_of(&limits, HLM_EXPLAIN_INPUT_DEVICE_MEMORY, 2.0);
    assert_true(gain->gain_frac > 0.01);
    assert_true(gain->gain_frac <= gain->most_gain_frac);
    small.group.device.memory_bytes *= 2;
    small.problem.max_gap_frac = HLM_EXPLAIN_MAX_GAP_FRAC;
    check_close(gain->step_time_s, search(arena, &small.problem)->prediction.step_time_s, 2e-3);
    hlm_arena_free(arena);
}

static void a_larger_batch_fills_the_pipeline(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 8, 4, 8LL << 30, 8);
    small.problem.require.pp = 4;
    const struct hlm_explain_limits limits = limits_of(arena, search(arena, &small.problem));
    const struct hlm_explain_gain *gain = gain_of(&limits, HLM_EXPLAIN_INPUT_GLOBAL_BATCH, 2.0);
    assert_true(gain->gain_frac > 0.05);
    assert_int_equal(gain->strategy.global_batch_size, 16);
    check_close(gain->tokens_per_s, 16 * 512 / gain->step_time_s, 1e-12);
    hlm_arena_free(arena);
}

static void several_groups_are_searched(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_plan_stage *stages = NULL;
    const struct hlm_plan *plan = NULL;
    struct small_problem small;
    int32_t num_stages = 0;
    struct hlm_err err;
    small_problem_init(arena, &small, 6, 1, 4LL << 30, 4);
    struct hlm_device_group groups[2] = {small.group, small.group};
    const struct hlm_inter_link link = {
        .from = 0, .to = 1, .link = {.alpha_s = 1e-5, .bandwidth_bytes_per_s = 1e10}};
    small.cluster.groups = groups;
    small.cluster.num_groups = 2;
    small.cluster.links = &link;
    small.cluster.num_links = 1;
    struct hlm_strategy strategy = {.dp = 1,
                                    .tp = 1,
                                    .pp = 2,
                                    .schedule = HLM_SCHEDULE_1F1B,
                                    .microbatch_size = 1,
                                    .global_batch_size = 4,
                                    .seq_len = 512,
                                    .dtype = HLM_DTYPE_FP16};
    hlm_strategy_complete(&strategy);
    check_ok(hlm_plan_even_stages(arena, &small.model, &small.cluster, &strategy, -1, &stages,
                                  &num_stages, &err),
             &err);
    check_ok(hlm_plan_price(arena, &small.model, &small.cluster, &strategy, stages, num_stages,
                            &plan, NULL, &err),
             &err);
    const struct hlm_explain_limits limits = limits_of(arena, plan);
    assert_null(limits.not_searched);
    assert_true(limits.num_gains > 0);
    assert_true(limits.num_shares > 0);
    /* One group alone has fewer pipeline ranks to wait for. */
    struct hlm_explain_alternative other;
    check_ok(hlm_explain_why_not(arena, plan, &nothing, &other, &err), &err);
    assert_int_equal(other.verdict, HLM_EXPLAIN_FASTER);
    hlm_arena_free(arena);
}

/* --- JSON --- */

static void json_reads_back(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    struct hlm_err err;
    small_problem_init(arena, &small, 8, 4, 460LL << 20, 16);
    const struct hlm_plan *plan = search(arena, &small.problem);
    struct hlm_search_require asked = nothing;
    asked.tp = 2;
    const struct hlm_explain_limits limits = limits_of(arena, plan);
    struct hlm_explain_alternative alternatives[3] = {ask(arena, plan, asked),
                                                      ask(arena, plan, heavy())};
    asked.tp = 3;
    alternatives[2] = ask(arena, plan, asked);
    const struct hlm_explanation explanation = {.model = plan->model.name,
                                                .cluster = plan->cluster.name,
                                                .strategy = plan->strategy,
                                                .step_time_s = plan->prediction.step_time_s,
                                                .tokens_per_s = plan->prediction.tokens_per_s,
                                                .interval = plan->prediction.interval,
                                                .limits = &limits,
                                                .alternatives = alternatives,
                                                .num_alternatives = 3};
    const char *text = hlm_json_write(arena, &hlm_explanation_table, &explanation, false);
    struct hlm_explanation read;
    check_ok(
        hlm_json_read_text(arena, "text", text, strlen(text), &hlm_explanation_table, &read, &err),
        &err);
    assert_string_equal(hlm_json_write(arena, &hlm_explanation_table, &read, false), text);
    assert_non_null(read.alternatives[0].difference);
    assert_non_null(read.alternatives[1].misfit);
    assert_string_equal(read.alternatives[2].rule, alternatives[2].rule);
    hlm_arena_free(arena);
}

/* Strategies over several groups outlive the searches that find them. */
static void gains_of_several_groups_say_where_ranks_stand(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct mixed_problem mixed;
    const int32_t devices[] = {2, 2};
    const struct hlm_plan *plan = NULL;
    struct hlm_explain_limits limits;
    struct hlm_err err;
    int32_t num_placed = 0;
    mixed_problem_init(arena, &mixed, 2, devices, 4, 8);
    for (int32_t g = 0; g < 2; g++) {
        mixed.groups[g].device.memory_bytes = 300LL << 20;
    }
    check_ok(hlm_search(arena, &mixed.problem, NULL, NULL, &plan, &err), &err);
    check_ok(hlm_explain_limits(arena, plan, NULL, NULL, &limits, &err), &err);
    for (int32_t i = 0; i < limits.num_gains; i++) {
        const struct hlm_strategy *strategy = &limits.gains[i].strategy;
        for (int32_t pp = 0; strategy->places != NULL && pp < strategy->pp; pp++) {
            assert_true(strategy->places[pp].tp >= 1 && strategy->places[pp].tp <= strategy->tp);
            assert_true(strategy->places[pp].first_device >= 0 &&
                        strategy->places[pp].first_device < 4);
            num_placed++;
        }
    }
    assert_true(num_placed > 0);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trees_are_joined_by_name),
        cmocka_unit_test(uncertain_when_intervals_overlap),
        cmocka_unit_test(the_alternative_is_the_best_under_the_restriction),
        cmocka_unit_test(what_the_plan_has_is_the_same),
        cmocka_unit_test(restrictions_stay_unless_named),
        cmocka_unit_test(illegal_names_the_rule),
        cmocka_unit_test(missing_bytes_are_exact),
        cmocka_unit_test(every_change_lets_it_fit),
        cmocka_unit_test(offload_is_a_change),
        cmocka_unit_test(an_edited_plan_is_explained_as_it_stands),
        cmocka_unit_test(runners_up_are_priced),
        cmocka_unit_test(shares_are_the_step),
        cmocka_unit_test(traffic_between_nodes),
        cmocka_unit_test(what_is_not_used_does_not_help),
        cmocka_unit_test(memory_helps_where_it_limits),
        cmocka_unit_test(a_larger_batch_fills_the_pipeline),
        cmocka_unit_test(several_groups_are_searched),
        cmocka_unit_test(gains_of_several_groups_say_where_ranks_stand),
        cmocka_unit_test(json_reads_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
