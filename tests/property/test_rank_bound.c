/* Schedules bounded by paths, on random problems small enough that every partition and every choice
 * of recompute can be tried: no bound is above a simulated step, and what the lister finds is the
 * best of all. The simulation here is hlm_simulate over the schedule's lists. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/rng.h"
#include "planner/rank_ilp.h"
#include "planner/rank_list.h"
#include "planner/rank_partition.h"
#include "tests/support/check.h"
#include "tests/support/placement.h"

enum { NUM_PROBLEMS = 1500, MAX_STAGES = 8, MAX_LAYERS = 7 };

struct problem {
    struct hlm_rank_problem ranks;
    struct hlm_rank_stage stages[MAX_STAGES];
    const struct hlm_schedule *schedule;
    const struct hlm_path_row *ramps;
    uint8_t kinds[MAX_LAYERS];
    double transfer_s[MAX_STAGES];
    bool both_sides[MAX_STAGES];
    struct random_holding holding;
};

static const struct hlm_schedule *random_schedule(struct hlm_arena *arena, struct hlm_rng *rng)
{
    static const enum hlm_schedule_kind kinds[] = {
        HLM_SCHEDULE_1F1B_OVERLAP, HLM_SCHEDULE_INTERLEAVED, HLM_SCHEDULE_ZB_H1,
        HLM_SCHEDULE_ZB_H2,        HLM_SCHEDULE_ZB_V,        HLM_SCHEDULE_V_HALF,
        HLM_SCHEDULE_V_MIN,        HLM_SCHEDULE_DUALPIPE_V};
    for (;;) {
        const enum hlm_schedule_kind kind = kinds[hlm_rng_next_int(rng, 0, 7)];
        const int32_t least = hlm_schedule_chunks(kind).min;
        const int32_t vpp =
            kind == HLM_SCHEDULE_INTERLEAVED ? (int32_t)hlm_rng_next_int(rng, 2, 3) : least;
        const int32_t pp = (int32_t)hlm_rng_next_int(rng, 1, vpp == 1 ? 4 : vpp == 2 ? 3 : 2);
        const struct hlm_schedule *schedule = NULL;
        struct hlm_err err;
        if (hlm_schedule_build(arena, kind, pp, vpp, (int32_t)hlm_rng_next_int(rng, 1, 12),
                               &schedule, &err) == HLM_OK) {
            return schedule;
        }
    }
}

static void random_layers(struct hlm_rng *rng, struct hlm_rank_stage *stage)
{
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        const double forward_s = random_between(rng, 0.5, 2.0);
        double input_s = forward_s * random_between(rng, 0.7, 1.4);
        const double weight_s = forward_s * random_between(rng, 0.5, 1.2);
        int64_t slot = hlm_rng_next_int(rng, 10, 60);
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            double *seconds = stage->layer_s[kind][mode];
            seconds[HLM_ACTION_F] = forward_s;
            seconds[HLM_ACTION_I] = input_s;
            seconds[HLM_ACTION_W] = weight_s;
            seconds[HLM_ACTION_B] = (input_s + weight_s) * random_between(rng, 0.9, 1.0);
            stage->slot_bytes[kind][mode] = slot;
            stage->transient_bytes[kind][mode] = hlm_rng_next_int(rng, 0, 40);
            input_s += random_between(rng, 0.0, 0.7) * forward_s;
            slot -= hlm_rng_next_int(rng, 0, slot - 1);
        }
    }
}

static void fill_stages(struct hlm_rng *rng, struct problem *problem)
{
    const int32_t n = problem->schedule->num_stages;
    const int64_t limit =
        hlm_rng_next_int(rng, 0, 3) == 0 ? 1000000 : hlm_rng_next_int(rng, 200, 1500);
    const double scale = hlm_rng_next_int(rng, 0, 2) == 0 ? 0.0 : random_between(rng, 0.0, 0.6);
    random_layers(rng, &problem->stages[0]);
    for (int32_t s = 0; s < n; s++) {
        struct hlm_rank_stage *stage = &problem->stages[s];
        *stage = problem->stages[0];
        stage->may_be_empty = s == 0 || s == n - 1;
        const double base_s = stage->may_be_empty ? random_between(rng, 0.0, 1.0) : 0.0;
        const double base[HLM_SIM_NUM_KINDS] = {base_s, 2.0 * base_s, base_s, base_s};
        memcpy(stage->base_s, base, sizeof(base));
        stage->base_slot_bytes = hlm_rng_next_int(rng, 0, 20);
        stage->base_transient_bytes = hlm_rng_next_int(rng, 0, 50);
        stage->limit_bytes = limit;
        problem->both_sides[s] = hlm_rng_next_int(rng, 0, 3) == 0;
        problem->transfer_s[s] = s + 1 < n ? random_between(rng, 0.0, scale) : 0.0;
    }
}

static void random_problem(struct hlm_arena *arena, struct hlm_rng *rng, struct problem *problem)
{
    struct hlm_err err;
    problem->schedule = random_schedule(arena, rng);
    fill_stages(rng, problem);
    const int32_t n = problem->schedule->num_stages, fewest = n > 2 ? n - 2 : 1;
    struct hlm_rank_problem *ranks = &problem->ranks;
    *ranks = (struct hlm_rank_problem){
        .held = hlm_schedule_held(arena, problem->schedule),
        .num_layers = fewest + (int32_t)hlm_rng_next_int(rng, 0, n > 5 ? 1 : 2),
        .layer_kinds = problem->kinds,
        .stages = problem->stages,
        .transfer_s = problem->transfer_s,
        .both_sides = problem->both_sides,
        .sync_s = random_between(rng, 0.0, 0.5),
        .hold = random_hold,
        .context = &problem->holding};
    check_ok(hlm_sim_order_new(arena, problem->schedule, &ranks->order, &err), &err);
    const int64_t mix = hlm_rng_next_int(rng, 0, 3); /* dense, moe, dense then moe, alternating */
    for (int32_t i = 0; i < ranks->num_layers; i++) {
        problem->kinds[i] = (uint8_t)(mix < 2 ? mix : mix == 2 ? i >= 1 : i % 2);
    }
    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        ranks->modes[mode] = hlm_rng_next_int(rng, 0, 9) > 0;
    }
    ranks->modes[hlm_rng_next_int(rng, 0, HLM_NUM_RECOMPUTES - 1)] = true;
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        problem->holding.bytes[kind] = hlm_rng_next_int(rng, 0, 100);
        problem->holding.reduce_s[kind] = random_between(rng, 0.0, 2.0);
        problem->holding.optimizer_s[kind] = random_between(rng, 0.0, 0.5);
    }
    problem->holding.wobble_s = random_between(rng, 0.0, 0.3);
    double ones[MAX_STAGES], twos[MAX_STAGES], small[MAX_STAGES];
    for (int32_t s = 0; s < n; s++) {
        ones[s] = 1.0;
        twos[s] = 2.0;
        small[s] = 0.02;
    }
    const struct hlm_sim_costs reference = {.forward_s = ones,
                                            .backward_s = twos,
                                            .input_grad_s = ones,
                                            .weight_grad_s = ones,
                                            .send_forward_s = small,
                                            .send_backward_s = small};
    ranks->rows = hlm_sim_path_rows(arena, ranks->order, &reference);
    ranks->num_rows = hlm_sim_num_path_rows(ranks->order);
    problem->ramps = hlm_sim_ramp_rows(arena, ranks->order);
}

/* --- every partition --- */

struct brute {
    struct hlm_arena *arena;
    struct problem *problem;
    struct hlm_rank_set *set;
    int32_t ends[MAX_STAGES], full[MAX_STAGES], selective[MAX_STAGES];
    double best_s;
    int64_t num_simulated;
};

static int32_t count_of(const struct brute *brute, int32_t stage)
{
    return brute->ends[stage] - (stage == 0 ? 0 : brute->ends[stage - 1]);
}

/* Bytes of one rank at its peak, by the walk over its list. */
static bool ranks_fit(const struct brute *brute, const int64_t *slots, const int64_t *transients,
                      const int64_t *statics)
{
    const struct hlm_schedule *schedule = brute->problem->schedule;
    const struct hlm_rank_memory *memory = hlm_schedule_memory(brute->arena, schedule, slots);
    for (int32_t r = 0; r < schedule->num_ranks; r++) {
        int64_t bytes = memory[r].peak, transient = 0;
        for (int32_t s = 0; s < schedule->num_stages; s++) {
            if (schedule->stage_rank[s] == r) {
                bytes += statics[s];
                transient = transients[s] > transient ? transients[s] : transient;
            }
        }
        if (bytes + transient > brute->problem->stages[0].limit_bytes) {
            return false;
        }
    }
    return true;
}

static void check_bounds(const struct brute *brute, const struct hlm_sim_costs *costs,
                         double step_s)
{
    const struct hlm_rank_problem *ranks = &brute->problem->ranks;
    const double slack = 1 + 1e-12;
    int32_t minors[MAX_STAGES] = {0}, majors[MAX_STAGES] = {0}, moe = 0;
    for (int32_t i = 0; i < ranks->num_layers; i++) {
        moe += ranks->layer_kinds[i];
    }
    const int32_t major = 2 * moe > ranks->num_layers ? 1 : 0;
    for (int32_t i = 0, s = 0; i < ranks->num_layers; i++) {
        while (i >= brute->ends[s]) {
            s++;
        }
        *(ranks->layer_kinds[i] == major ? &majors[ranks->order->stage_rank[s]]
                                         : &minors[ranks->order->stage_rank[s]]) += 1;
    }
    for (int32_t k = 0; k < ranks->num_rows; k++) {
        assert_true(hlm_path_row_s(ranks->order, &ranks->rows[k], costs) <= step_s * slack);
    }
    for (int32_t r = 0; r < ranks->order->num_ranks; r++) {
        assert_true(hlm_path_row_s(ranks->order, &brute->problem->ramps[r], costs) <=
                    step_s * slack);
    }
    assert_true(hlm_rank_bound_s(brute->set, minors, majors, NULL) <= step_s * slack);
    if (hlm_rank_set_is_placed(brute->set)) {
        int32_t firsts[MAX_STAGES];
        for (int32_t r = 0; r < ranks->order->num_ranks; r++) {
            firsts[r] = count_of(brute, ranks->held[r].stages[0]);
            assert_true(hlm_rank_load_has_first(brute->set, r, minors[r], majors[r], firsts[r]));
        }
        assert_true(hlm_rank_bound_s(brute->set, minors, majors, firsts) <= step_s * slack);
    }
}

static void simulate_choice(struct brute *brute)
{
    const struct problem *problem = brute->problem;
    const struct hlm_rank_problem *ranks = &problem->ranks;
    const int32_t n = problem->schedule->num_stages;
    double seconds[HLM_SIM_NUM_KINDS][MAX_STAGES], reduce_s[MAX_STAGES], optimizer_s[MAX_STAGES];
    double back_s[MAX_STAGES] = {0};
    int64_t slots[MAX_STAGES], transients[MAX_STAGES], statics[MAX_STAGES];
    for (int32_t s = 0; s < n; s++) {
        const struct hlm_rank_stage *stage = &problem->stages[s];
        struct hlm_stage_holding holding;
        int32_t counts[HLM_NUM_LAYER_KINDS] = {0};
        slots[s] = stage->base_slot_bytes;
        transients[s] = stage->base_transient_bytes;
        back_s[s] = s > 0 ? problem->transfer_s[s - 1] : 0.0;
        for (int32_t a = 0; a < HLM_SIM_NUM_KINDS; a++) {
            seconds[a][s] = stage->base_s[a];
        }
        for (int32_t i = 0; i < count_of(brute, s); i++) {
            const int32_t kind = problem->kinds[brute->ends[s] - count_of(brute, s) + i];
            const int32_t mode = i < brute->full[s] ? HLM_RECOMPUTE_FULL
                                 : i < brute->full[s] + brute->selective[s]
                                     ? HLM_RECOMPUTE_SELECTIVE
                                     : HLM_RECOMPUTE_NONE;
            if (!ranks->modes[mode]) {
                return;
            }
            counts[kind]++;
            slots[s] += stage->slot_bytes[kind][mode];
            if (stage->transient_bytes[kind][mode] > transients[s]) {
                transients[s] = stage->transient_bytes[kind][mode];
            }
            for (int32_t a = 0; a < HLM_SIM_NUM_KINDS; a++) {
                seconds[a][s] += stage->layer_s[kind][mode][a];
            }
        }
        random_hold(&problem->holding, s, counts, &holding);
        statics[s] = holding.static_bytes;
        reduce_s[s] = holding.reduce_s;
        optimizer_s[s] = holding.optimizer_s;
    }
    const struct hlm_sim_costs costs = {.forward_s = seconds[HLM_ACTION_F],
                                        .backward_s = seconds[HLM_ACTION_B],
                                        .input_grad_s = seconds[HLM_ACTION_I],
                                        .weight_grad_s = seconds[HLM_ACTION_W],
                                        .send_forward_s = problem->transfer_s,
                                        .send_backward_s = back_s,
                                        .needs_both_sides = problem->both_sides,
                                        .reduce_s = reduce_s,
                                        .optimizer_s = optimizer_s,
                                        .sync_s = ranks->sync_s};
    const struct hlm_arena_mark mark = hlm_arena_mark(brute->arena);
    if (ranks_fit(brute, slots, transients, statics)) {
        struct hlm_sim_result result = {0};
        struct hlm_err err;
        check_ok(hlm_simulate(brute->arena, problem->schedule, &costs, NULL, false, &result, &err),
                 &err);
        brute->num_simulated++;
        brute->best_s = fmin(brute->best_s, result.step_s);
        const struct hlm_rank_partition partition = {brute->ends, brute->full, brute->selective};
        check_close(hlm_rank_simulate(brute->arena, ranks, &partition), result.step_s, 1e-12);
        check_bounds(brute, &costs, result.step_s);
    }
    hlm_arena_rewind(brute->arena, mark);
}

static void try_modes(struct brute *brute, int32_t stage)
{
    if (stage == brute->problem->schedule->num_stages) {
        simulate_choice(brute);
        return;
    }
    for (int32_t full = 0; full <= count_of(brute, stage); full++) {
        for (int32_t more = 0; full + more <= count_of(brute, stage); more++) {
            brute->full[stage] = full;
            brute->selective[stage] = more;
            try_modes(brute, stage + 1);
        }
    }
}

static bool is_even(const struct brute *brute)
{
    const struct hlm_schedule *schedule = brute->problem->schedule;
    for (int32_t a = 0; a < schedule->num_stages; a++) {
        for (int32_t b = 0; b < schedule->num_stages; b++) {
            if (schedule->stage_rank[a] == schedule->stage_rank[b] &&
                abs(count_of(brute, a) - count_of(brute, b)) > 1) {
                return false;
            }
        }
    }
    return true;
}

static void try_ends(struct brute *brute, int32_t stage, int32_t begin)
{
    const int32_t n = brute->problem->schedule->num_stages;
    const int32_t num_layers = brute->problem->ranks.num_layers;
    if (stage == n) {
        if (begin == num_layers && is_even(brute)) {
            try_modes(brute, 0);
        }
        return;
    }
    const int32_t first = stage == 0 || stage == n - 1 ? 0 : 1;
    for (int32_t end = begin + first; end <= num_layers; end++) {
        brute->ends[stage] = end;
        try_ends(brute, stage + 1, end);
    }
}

/* --- the properties --- */

static double keep_least(void *context, const struct hlm_rank_partition *partition, double step_s)
{
    (void)partition;
    double *least_s = context;
    *least_s = fmin(*least_s, step_s);
    return *least_s;
}

static double listed_s(struct hlm_arena *arena, struct problem *problem, struct hlm_rank_set *set)
{
    struct hlm_rank_caps caps;
    double work = 1e9, least_s = INFINITY;
    if (hlm_rank_narrow(arena, set, (double)INFINITY, &caps)) {
        assert_true(hlm_rank_list(arena, &problem->ranks, &caps, &work, keep_least, &least_s));
    }
    return least_s;
}

static void check_best(struct hlm_arena *arena, const struct brute *brute)
{
    struct hlm_rank_caps caps;
    int32_t minors[MAX_STAGES], majors[MAX_STAGES], firsts[MAX_STAGES];
    double bound_s = 0.0, least_s = 0.0;
    int32_t num_nodes = 0;
    const double best_s = brute->best_s, slack = 1 + 1e-9;
    const double threshold_s =
        hlm_rank_threshold(arena, brute->set, 1e-3 * best_s, 1.1 * best_s, &caps);
    assert_true(threshold_s <= best_s * slack);
    assert_true(hlm_rank_narrow(arena, brute->set, best_s * slack, &caps));
    const enum hlm_ilp_outcome outcome =
        hlm_rank_glpk(arena, brute->set, &caps, threshold_s, 0, minors, majors, firsts, &bound_s,
                      &least_s, &num_nodes);
    assert_true(outcome == HLM_ILP_PROVED);
    assert_true(bound_s <= best_s * slack && least_s <= best_s * slack);
    assert_true(threshold_s <= bound_s * slack);
}

static void bounds_and_lists(void **state)
{
    (void)state;
    struct hlm_rng rng = {.key = placement_seed(20251125)};
    int64_t num_simulated = 0;
    int32_t num_infeasible = 0;
    for (int i = 0; i < NUM_PROBLEMS; i++) {
        struct hlm_arena *arena = hlm_arena_new(), *scratch = hlm_arena_new();
        struct problem *problem = HLM_ARENA_NEW(arena, struct problem);
        random_problem(arena, &rng, problem);
        struct brute brute = {.arena = scratch,
                              .problem = problem,
                              .set = hlm_rank_set_new(arena, &problem->ranks, (double)INFINITY),
                              .best_s = INFINITY};
        try_ends(&brute, 0, 0);
        const double found_s = listed_s(arena, problem, brute.set);
        if (isinf(brute.best_s)) {
            num_infeasible++;
            assert_true(isinf(found_s));
        } else {
            check_close(found_s, brute.best_s, 1e-12);
            check_best(arena, &brute);
        }
        num_simulated += brute.num_simulated;
        hlm_arena_free(scratch);
        hlm_arena_free(arena);
    }
    print_message("%lld plans simulated, %d problems without one\n", (long long)num_simulated,
                  num_infeasible);
    assert_true(num_simulated > 10000 && num_infeasible > 0 && num_infeasible < NUM_PROBLEMS / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bounds_and_lists)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
