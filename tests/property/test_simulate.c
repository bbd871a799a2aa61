/* Properties of the simulator on random pipelines. The seed is printed; SEED=<n> sets it. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "schedule/simulate_paths.h"
#include "tests/support/pipeline.h"

enum { MAX_STAGES = 12, MAX_MICROBATCHES = 24, NUM_CASES = 6000 };

struct fixture {
    struct hlm_arena *arena;
    uint64_t seed;
};

/* One random pipeline with its own storage. c: one latency a boundary, both ways. */
struct pipeline {
    enum hlm_schedule_kind kind;
    int32_t p, m;
    double forward_s[MAX_STAGES], backward_s[MAX_STAGES];
    double send_forward_s[MAX_STAGES], send_backward_s[MAX_STAGES];
    double reduce_s[MAX_STAGES], optimizer_s[MAX_STAGES];
    bool both_sides[MAX_STAGES];
    double sync_s;
    bool overlap_reduce;
};

static void fill(struct hlm_rng *rng, double *values, int32_t count, double scale)
{
    for (int32_t i = 0; i < count; i++) {
        values[i] = scale * hlm_rng_next_uniform(rng);
    }
}

static struct pipeline make(struct hlm_rng *rng)
{
    struct pipeline pipeline = {
        .kind = (enum hlm_schedule_kind)hlm_rng_next_int(rng, 0, HLM_SCHEDULE_1F1B),
        .p = (int32_t)hlm_rng_next_int(rng, 1, MAX_STAGES),
        .m = (int32_t)hlm_rng_next_int(rng, 1, MAX_MICROBATCHES)};
    /* Latency from nothing to as long as the stages; now and then equal stages, or none at all. */
    const double latency = (double)hlm_rng_next_int(rng, 0, 3) * hlm_rng_next_uniform(rng);
    fill(rng, pipeline.forward_s, pipeline.p, 1);
    fill(rng, pipeline.backward_s, pipeline.p, 2);
    fill(rng, pipeline.send_forward_s, pipeline.p, latency);
    fill(rng, pipeline.send_backward_s, pipeline.p, latency);
    fill(rng, pipeline.reduce_s, pipeline.p, 3);
    fill(rng, pipeline.optimizer_s, pipeline.p, 1);
    pipeline.sync_s = hlm_rng_next_uniform(rng);
    pipeline.overlap_reduce = hlm_rng_next_int(rng, 0, 1) == 1;
    for (int32_t i = 0; i < pipeline.p; i++) {
        pipeline.both_sides[i] = hlm_rng_next_int(rng, 0, 1) == 1;
    }
    if (hlm_rng_next_int(rng, 0, 3) == 0) {
        for (int32_t i = 1; i < pipeline.p; i++) {
            pipeline.forward_s[i] = pipeline.forward_s[0];
            pipeline.backward_s[i] = pipeline.backward_s[0];
        }
    }
    return pipeline;
}

static void set_both_sides(struct pipeline *pipeline, bool value)
{
    for (int32_t i = 0; i < pipeline->p; i++) {
        pipeline->both_sides[i] = value;
    }
}

static struct hlm_sim_costs costs_of(const struct pipeline *pipeline)
{
    return (struct hlm_sim_costs){.forward_s = pipeline->forward_s,
                                  .backward_s = pipeline->backward_s,
                                  .send_forward_s = pipeline->send_forward_s,
                                  .send_backward_s = pipeline->send_backward_s,
                                  .needs_both_sides = pipeline->both_sides,
                                  .reduce_s = pipeline->reduce_s,
                                  .optimizer_s = pipeline->optimizer_s,
                                  .sync_s = pipeline->sync_s,
                                  .overlap_reduce = pipeline->overlap_reduce};
}

static struct hlm_sim_result simulate(struct hlm_arena *arena, const struct pipeline *pipeline)
{
    const struct hlm_sim_costs costs = costs_of(pipeline);
    return pipeline_run(arena, pipeline_build(arena, pipeline->kind, pipeline->p, pipeline->m),
                        &costs);
}

static double step(struct hlm_arena *arena, const struct pipeline *pipeline)
{
    const struct hlm_sim_costs costs = costs_of(pipeline);
    return hlm_simulate_step(arena, pipeline->kind, pipeline->p, pipeline->m, &costs);
}

/* Runs a property on NUM_CASES random pipelines; a failure names the case. */
static void for_all(void **state, uint64_t salt,
                    void (*property)(struct hlm_arena *, struct pipeline *, struct hlm_rng *))
{
    const struct fixture *fixture = *state;
    for (uint64_t i = 0; i < NUM_CASES; i++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(fixture->arena);
        struct hlm_rng rng = {.key = hlm_rng_bits(fixture->seed, salt * NUM_CASES + i)};
        struct pipeline pipeline = make(&rng);
        property(fixture->arena, &pipeline, &rng);
        hlm_arena_rewind(fixture->arena, mark);
    }
}

static void same_bits(struct hlm_arena *arena, struct pipeline *pipeline, struct hlm_rng *rng)
{
    (void)rng;
    const double list_s = simulate(arena, pipeline).step_s;
    const double step_s = step(arena, pipeline);
    if (memcmp(&list_s, &step_s, sizeof list_s) != 0) {
        fail_msg("%s p %d m %d: %.17g from lists, %.17g without",
                 pipeline->kind == HLM_SCHEDULE_GPIPE ? "gpipe" : "1f1b", pipeline->p, pipeline->m,
                 list_s, step_s);
    }
}

static void test_step_has_the_same_bits(void **state)
{
    for_all(state, 1, same_bits);
}

/* The order of any schedule, run twice, and the paths through it: equal bits, and no row above. */
static void order_bits(struct hlm_arena *arena, struct pipeline *pipeline, struct hlm_rng *rng)
{
    const enum hlm_schedule_kind kind =
        (enum hlm_schedule_kind)hlm_rng_next_int(rng, 0, HLM_NUM_SCHEDULES - 1);
    const int32_t chunks = hlm_schedule_chunks(kind).min, p = (pipeline->p + 1) / 2;
    const struct hlm_schedule *schedule =
        pipeline_try(arena, kind, chunks == 1 ? p : (p + 1) / 2, pipeline->m);
    if (schedule == NULL) {
        return;
    }
    struct hlm_sim_costs costs = costs_of(pipeline);
    costs.input_grad_s = pipeline->forward_s;
    costs.weight_grad_s = pipeline->reduce_s;
    const struct hlm_sim_order *order = NULL;
    struct hlm_err err;
    check_ok(hlm_sim_order_new(arena, schedule, &order, &err), &err);
    const double list_s = pipeline_run(arena, schedule, &costs).step_s;
    for (int i = 0; i < 2; i++) {
        const double step_s = hlm_sim_order_step(arena, order, &costs);
        if (memcmp(&list_s, &step_s, sizeof list_s) != 0) {
            fail_msg("%s p %d m %d: %.17g from lists, %.17g in order", hlm_schedule_texts[kind],
                     schedule->num_ranks, pipeline->m, list_s, step_s);
        }
    }
    costs.overlap_reduce = false;
    const double late_s = hlm_sim_order_step(arena, order, &costs);
    const struct hlm_path_row *rows = hlm_sim_path_rows(arena, order, &costs);
    for (int32_t k = 0; k < hlm_sim_num_path_rows(order); k++) {
        assert_true(hlm_path_row_s(order, &rows[k], &costs) <= late_s * (1 + 1e-12));
    }
}

static void test_order_has_the_same_bits(void **state)
{
    for_all(state, 8, order_bits);
}

/* Replicas of a pipeline, each with links of its own, meet only at the end: a step of them all is
 * that of one pipeline with the slowest replica's links where all replicas' ratios are one. */
static void folded(struct hlm_arena *arena, struct pipeline *pipeline, struct hlm_rng *rng)
{
    enum { NUM_REPLICAS = 4 };
    double latest_s = 0.0, slowest_s = 0.0;
    struct pipeline worst = *pipeline;
    set_both_sides(&worst, false);
    worst.overlap_reduce = false;
    for (int replica = 0; replica < NUM_REPLICAS; replica++) {
        struct pipeline one = worst;
        const double slower = replica == 0 ? 1.0 : hlm_rng_next_uniform(rng);
        for (int32_t i = 0; i < one.p; i++) {
            one.send_forward_s[i] *= slower;
            one.send_backward_s[i] *= slower;
        }
        latest_s = fmax(latest_s, simulate(arena, &one).reduce_end_s);
    }
    for (int32_t i = 0; i < worst.p; i++) {
        slowest_s = fmax(slowest_s, worst.optimizer_s[i]);
    }
    check_close(step(arena, &worst), latest_s + worst.sync_s + slowest_s, 1e-13);
}

static void test_replicas_fold(void **state)
{
    for_all(state, 9, folded);
}

/* The same with a measured duration of its own for every action. */
static void same_bits_measured(struct hlm_arena *arena, struct pipeline *pipeline,
                               struct hlm_rng *rng)
{
    double **measured = HLM_ARENA_ARRAY(arena, double *, pipeline->p);
    for (int32_t rank = 0; rank < pipeline->p; rank++) {
        measured[rank] = HLM_ARENA_ARRAY(arena, double, 2 * pipeline->m);
        fill(rng, measured[rank], 2 * pipeline->m, 1);
    }
    struct hlm_sim_costs costs = costs_of(pipeline);
    costs.action_s = (const double *const *)measured;
    const struct hlm_schedule *schedule =
        pipeline_build(arena, pipeline->kind, pipeline->p, pipeline->m);
    const struct hlm_sim_result result = pipeline_run(arena, schedule, &costs);
    assert_true(result.step_s ==
                hlm_simulate_step(arena, pipeline->kind, pipeline->p, pipeline->m, &costs));
    for (int32_t rank = 0; rank < pipeline->p; rank++) {
        for (int32_t i = 0; i < 2 * pipeline->m; i++) {
            const struct hlm_sim_event *event = &result.ranks[rank].events[i];
            assert_true(event->end_s == event->start_s + measured[rank][i]);
        }
    }
}

static void test_measured_durations(void **state)
{
    for_all(state, 2, same_bits_measured);
}

static void monotone(struct hlm_arena *arena, struct pipeline *pipeline, struct hlm_rng *rng)
{
    const double before_s = step(arena, pipeline);
    double *const arrays[] = {pipeline->forward_s,      pipeline->backward_s,
                              pipeline->send_forward_s, pipeline->send_backward_s,
                              pipeline->reduce_s,       pipeline->optimizer_s};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        const int64_t stage = hlm_rng_next_int(rng, 0, pipeline->p - 1);
        const double kept = arrays[i][stage];
        arrays[i][stage] += hlm_rng_next_uniform(rng);
        const double after_s = step(arena, pipeline);
        if (after_s < before_s) {
            fail_msg("array %zu, stage %d of %d: %.17g became %.17g", i, (int)stage, pipeline->p,
                     before_s, after_s);
        }
        arrays[i][stage] = kept;
    }
    struct pipeline slower = *pipeline;
    set_both_sides(&slower, true);
    assert_true(step(arena, &slower) >= before_s);
    set_both_sides(&slower, false);
    assert_true(step(arena, &slower) <= before_s);
}

static void test_monotone(void **state)
{
    for_all(state, 3, monotone);
}

static void scale(struct hlm_arena *arena, struct pipeline *pipeline, struct hlm_rng *rng)
{
    const double before_s = step(arena, pipeline);
    struct pipeline scaled = *pipeline;
    const double power = 0x1p-20, any = 0.1 + 10 * hlm_rng_next_uniform(rng);
    for (int round = 0; round < 2; round++) {
        const double factor = round == 0 ? power : any;
        for (int32_t i = 0; i < pipeline->p; i++) {
            scaled.forward_s[i] = factor * pipeline->forward_s[i];
            scaled.backward_s[i] = factor * pipeline->backward_s[i];
            scaled.send_forward_s[i] = factor * pipeline->send_forward_s[i];
            scaled.send_backward_s[i] = factor * pipeline->send_backward_s[i];
            scaled.reduce_s[i] = factor * pipeline->reduce_s[i];
            scaled.optimizer_s[i] = factor * pipeline->optimizer_s[i];
        }
        scaled.sync_s = factor * pipeline->sync_s;
        check_close(step(arena, &scaled), factor * before_s, round == 0 ? 0 : 1e-13);
    }
}

static void test_scales(void **state)
{
    for_all(state, 4, scale);
}

/* T >= max_s [ sum_{u<s} (T_u + 2 c_u) + m T_s +
 *              max(0, sum_{u>s} T_u + 2 sum_{u>=s} c_u - (k_s - 1) F_s) ], both ways over u | u + 1
 * taking c_u. */
static double bound_at(const struct pipeline *pipeline, int32_t s)
{
    double before_s = 0, behind_s = 0;
    for (int32_t u = 0; u < pipeline->p; u++) {
        const double total = pipeline->forward_s[u] + pipeline->backward_s[u];
        const double c = u + 1 < pipeline->p ? pipeline->send_forward_s[u] : 0;
        before_s += u < s ? total + 2 * c : 0;
        behind_s += (u > s ? total : 0) + (u >= s ? 2 * c : 0);
    }
    const double own = pipeline->forward_s[s] + pipeline->backward_s[s];
    const int32_t k = hlm_schedule_in_flight(pipeline->kind, pipeline->p, pipeline->m, s);
    return before_s + pipeline->m * own + fmax(0, behind_s - (k - 1) * pipeline->forward_s[s]);
}

static void bounded(struct hlm_arena *arena, struct pipeline *pipeline, struct hlm_rng *rng)
{
    (void)rng;
    for (int32_t u = 0; u + 1 < pipeline->p; u++) {
        pipeline->send_backward_s[u + 1] = pipeline->send_forward_s[u];
    }
    double bound_s = 0;
    for (int32_t s = 0; s < pipeline->p; s++) {
        bound_s = fmax(bound_s, bound_at(pipeline, s));
    }
    for (int both = 0; both < 2; both++) {
        set_both_sides(pipeline, both == 1);
        const double simulated_s = simulate(arena, pipeline).pipeline_s;
        if (simulated_s < bound_s * (1 - 1e-12)) {
            fail_msg("p %d, m %d: simulated %.17g, bound %.17g", pipeline->p, pipeline->m,
                     simulated_s, bound_s);
        }
    }
}

static void test_bound_holds(void **state)
{
    for_all(state, 5, bounded);
}

/* Live activations are at most those of the closed form, per rank with static and transient bytes.
 */
static void peaks(struct hlm_arena *arena, struct pipeline *pipeline, struct hlm_rng *rng)
{
    int64_t fixed[MAX_STAGES], activation[MAX_STAGES], transient[MAX_STAGES];
    for (int32_t i = 0; i < pipeline->p; i++) {
        fixed[i] = hlm_rng_next_int(rng, 0, 1000);
        activation[i] = hlm_rng_next_int(rng, 0, 1000);
        transient[i] = hlm_rng_next_int(rng, 0, 1000);
    }
    const struct hlm_sim_memory memory = {fixed, activation, transient};
    const struct hlm_sim_costs costs = costs_of(pipeline);
    const struct hlm_schedule *schedule =
        pipeline_build(arena, pipeline->kind, pipeline->p, pipeline->m);
    struct hlm_sim_result result = {0};
    struct hlm_err err = {0};
    check_ok(hlm_simulate(arena, schedule, &costs, &memory, false, &result, &err), &err);
    for (int32_t s = 0; s < pipeline->p; s++) {
        const int64_t in_flight =
            hlm_schedule_in_flight(pipeline->kind, pipeline->p, pipeline->m, s);
        assert_int_equal(result.ranks[s].peak_bytes,
                         fixed[s] + in_flight * activation[s] + transient[s]);
    }
}

static void test_peaks(void **state)
{
    for_all(state, 6, peaks);
}

/* Events of a rank follow each other, wait for their inputs, and account for its time. */
static void consistent(struct hlm_arena *arena, struct pipeline *pipeline, struct hlm_rng *rng)
{
    (void)rng;
    const struct hlm_sim_result result = simulate(arena, pipeline);
    for (int32_t rank = 0; rank < pipeline->p; rank++) {
        const struct hlm_sim_rank *mine = &result.ranks[rank];
        assert_int_equal(mine->num_events, 2 * pipeline->m + 2);
        double busy_s = 0;
        for (int32_t i = 0; i < 2 * pipeline->m; i++) {
            const struct hlm_sim_event *event = &mine->events[i];
            assert_true(i == 0 || event->start_s >= mine->events[i - 1].end_s);
            busy_s += event->end_s - event->start_s;
        }
        check_near(mine->busy_s, busy_s, 1e-9);
        assert_true(mine->compute_end_s == mine->events[2 * pipeline->m - 1].end_s);
        assert_true(mine->first_start_s == mine->events[0].start_s);
        assert_true(mine->wait_transfer_s >= 0);
        assert_true(mine->wait_transfer_s <= mine->compute_end_s - mine->busy_s + 1e-9);
        const struct hlm_sim_event *reduce = &mine->events[2 * pipeline->m];
        assert_int_equal(reduce->action.kind, HLM_ACTION_REDUCE_GRAD);
        assert_true(reduce->start_s >= mine->compute_end_s);
        assert_int_equal(reduce[1].action.kind, HLM_ACTION_OPTIMIZER);
        assert_true(reduce[1].start_s == result.reduce_end_s + pipeline->sync_s);
        assert_true(reduce[1].end_s <= result.step_s);
    }
}

static void test_consistent(void **state)
{
    for_all(state, 7, consistent);
}

static int setup(void **state)
{
    static const uint64_t usual = 20240607;
    const char *text = getenv("SEED");
    struct fixture *fixture = malloc(sizeof *fixture);
    fixture->arena = hlm_arena_new();
    fixture->seed = text == NULL ? usual : strtoull(text, NULL, 10);
    print_message("SEED=%" PRIu64 "\n", fixture->seed);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    hlm_arena_free(fixture->arena);
    free(fixture);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_step_has_the_same_bits),
        cmocka_unit_test(test_order_has_the_same_bits),
        cmocka_unit_test(test_replicas_fold),
        cmocka_unit_test(test_measured_durations),
        cmocka_unit_test(test_monotone),
        cmocka_unit_test(test_scales),
        cmocka_unit_test(test_bound_holds),
        cmocka_unit_test(test_peaks),
        cmocka_unit_test(test_consistent),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
