/* No bound of planner/bound.h is above the simulated step, whatever the stages and links. */
#include "planner/bound.h"
#include "tests/support/check.h"
#include "tests/support/placement.h"

enum { NUM_PROBLEMS = 1000, NUM_DEEP = 300 };

struct seen {
    struct hlm_arena *scratch;
    struct hlm_pattern_set *set;
    double closed_form_s;
    double least_simulated_s, worst_frac, sum_frac;
    int32_t num_partitions;
};

static void check_partition(void *context, const struct hlm_placement *placement,
                            const int32_t *ends, const struct stage_times *times)
{
    struct seen *seen = context;
    const double bound_s = hlm_bound_partition(seen->set, ends);
    const double slack = 1 + 1e-12;
    check_close(bound_s, written_bound_s(placement, times), 1e-12);
    for (int both_sides = 0; both_sides < 2; both_sides++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(seen->scratch);
        const double step_s = simulated_s(seen->scratch, placement, times, both_sides);
        assert_true(bound_s <= step_s * slack);
        assert_true(seen->closed_form_s <= step_s * slack);
        seen->least_simulated_s = fmin(seen->least_simulated_s, step_s);
        if (placement->schedule == HLM_SCHEDULE_GPIPE && !both_sides) {
            check_close(step_s, bound_s, 1e-12); /* exact for buffered links */
        }
        if (!both_sides) {
            seen->worst_frac = fmax(seen->worst_frac, 1 - bound_s / step_s);
            seen->sum_frac += 1 - bound_s / step_s;
        }
        hlm_arena_rewind(seen->scratch, mark);
    }
    seen->num_partitions++;
}

/* Every partition of small problems: partition bound, closed form and threshold. */
static void bounds_are_below_the_simulation(void **state)
{
    (void)state;
    struct hlm_rng rng = {.key = placement_seed(20240229)};
    int64_t num_partitions = 0;
    double sum_frac = 0, worst_frac = 0;
    for (int i = 0; i < NUM_PROBLEMS; i++) {
        struct hlm_arena *kept = hlm_arena_new(), *scratch = hlm_arena_new();
        const struct random_shape shape = {.max_stages = 5,
                                           .max_layers = 7,
                                           .max_microbatches = 40,
                                           .max_transfer = i % 4 == 0 ? 0.0 : 1.0,
                                           .unequal = i % 3 > 0,
                                           .tight = i % 2 == 0};
        const struct hlm_placement *placement = random_placement(kept, &rng, &shape);
        struct seen seen = {.scratch = scratch,
                            .set = hlm_pattern_set_new(kept, placement),
                            .closed_form_s = hlm_bound_closed_form(placement),
                            .least_simulated_s = INFINITY};
        const struct stage_times times = stage_times_new(kept, placement->num_stages);
        int32_t *ends = HLM_ARENA_ARRAY(kept, int32_t, placement->num_stages);
        brute_partitions(placement, 0, 0, ends, &times, check_partition, &seen);
        if (seen.num_partitions > 0) {
            const double cutoff_s = 1.2 * seen.least_simulated_s;
            assert_true(hlm_bound_threshold(scratch, seen.set, seen.closed_form_s, cutoff_s,
                                            ends) <= seen.least_simulated_s * (1 + 1e-12));
        }
        num_partitions += seen.num_partitions;
        sum_frac += seen.sum_frac;
        worst_frac = fmax(worst_frac, seen.worst_frac);
        hlm_arena_free(scratch);
        hlm_arena_free(kept);
    }
    assert_true(num_partitions > 10 * NUM_PROBLEMS);
    print_message("%lld partitions, mean gap %.2f %%, worst %.1f %%\n", (long long)num_partitions,
                  100 * sum_frac / (double)num_partitions, 100 * worst_frac);
}

/* Deep pipelines with nearly equal stages, one random partition each: how far below the bound is.
 */
static void random_times(struct hlm_rng *rng, int32_t num_stages, double spread,
                         const struct stage_times *times)
{
    for (int32_t s = 0; s < num_stages; s++) {
        const double forward_s = random_between(rng, 1.0, 1.0 + spread);
        times->forward_s[s] = forward_s;
        times->backward_s[s] = forward_s * random_between(rng, 1.8, 2.2);
        times->reduce_s[s] = random_between(rng, 0.0, 3.0);
        times->optimizer_s[s] = random_between(rng, 0.0, 1.0);
    }
}

static double folded_bound_s(const struct hlm_placement *placement, const struct stage_times *times)
{
    struct hlm_bound_label label = {0};
    for (int32_t s = placement->num_stages - 1; s >= 0; s--) {
        const struct hlm_pattern pattern = {.forward_s = times->forward_s[s],
                                            .backward_s = times->backward_s[s],
                                            .reduce_s = times->reduce_s[s],
                                            .optimizer_s = times->optimizer_s[s]};
        struct hlm_bound_label longer;
        hlm_bound_extend(placement, s, &pattern, &label, &longer);
        label = longer;
    }
    return hlm_bound_finish(placement, &label);
}

static void deep_pipelines(void **state)
{
    (void)state;
    struct hlm_rng rng = {.key = placement_seed(31337)};
    struct hlm_arena *arena = hlm_arena_new();
    double sum_frac = 0, worst_frac = 0;
    for (int i = 0; i < NUM_DEEP; i++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(arena);
        const int32_t p = (int32_t)hlm_rng_next_int(&rng, 2, 32);
        double *transfer_s = HLM_ARENA_ARRAY(arena, double, p);
        const double scale = random_between(&rng, 0.0, 0.1);
        for (int32_t s = 0; s + 1 < p; s++) {
            transfer_s[s] = scale;
        }
        const struct hlm_placement placement = {.schedule = HLM_SCHEDULE_1F1B,
                                                .num_stages = p,
                                                .num_microbatches =
                                                    (int32_t)hlm_rng_next_int(&rng, 1, 8 * p),
                                                .transfer_s = transfer_s,
                                                .sync_s = 0.1};
        const struct stage_times times = stage_times_new(arena, p);
        random_times(&rng, p, random_between(&rng, 0.0, 0.1), &times);
        const double bound_s = folded_bound_s(&placement, &times);
        check_close(bound_s, written_bound_s(&placement, &times), 1e-12);
        const double step_s = simulated_s(arena, &placement, &times, false);
        assert_true(bound_s <= step_s * (1 + 1e-12));
        assert_true(bound_s <= simulated_s(arena, &placement, &times, true) * (1 + 1e-12));
        sum_frac += 1 - bound_s / step_s;
        worst_frac = fmax(worst_frac, 1 - bound_s / step_s);
        hlm_arena_rewind(arena, mark);
    }
    hlm_arena_free(arena);
    print_message("mean gap %.3f %%, worst %.3f %%\n", 100 * sum_frac / NUM_DEEP, 100 * worst_frac);
    assert_true(sum_frac / NUM_DEEP < 0.02);
}

/* Equal stages and a multiple of p microbatches behind the first: nothing is missing, latency
 * included. */
static void equal_stages_are_exact(void **state)
{
    (void)state;
    struct hlm_rng rng = {.key = placement_seed(5)};
    struct hlm_arena *arena = hlm_arena_new();
    for (int32_t p = 1; p <= 12; p++) {
        for (int32_t rounds = 0; rounds <= 4; rounds++) {
            const struct hlm_arena_mark mark = hlm_arena_mark(arena);
            double *transfer_s = HLM_ARENA_ARRAY(arena, double, p);
            const double c = random_between(&rng, 0.0, 0.5);
            const struct stage_times times = stage_times_new(arena, p);
            for (int32_t s = 0; s < p; s++) {
                transfer_s[s] = s + 1 < p ? c : 0.0;
                times.forward_s[s] = 1.0;
                times.backward_s[s] = 2.0;
                times.reduce_s[s] = 0.5;
                times.optimizer_s[s] = 0.25;
            }
            const struct hlm_placement placement = {.schedule = HLM_SCHEDULE_1F1B,
                                                    .num_stages = p,
                                                    .num_microbatches = 1 + rounds * p,
                                                    .transfer_s = transfer_s};
            check_close(folded_bound_s(&placement, &times),
                        simulated_s(arena, &placement, &times, false), 1e-12);
            hlm_arena_rewind(arena, mark);
        }
    }
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bounds_are_below_the_simulation),
        cmocka_unit_test(deep_pipelines),
        cmocka_unit_test(equal_stages_are_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
