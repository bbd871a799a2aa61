/* The four ways to place layers agree: every partition by brute force with the bound written out,
 * the label DP, the ILP of one column, and the master ILP over several. */
#include "planner/bound.h"
#include "planner/master_glpk.h"
#include "planner/partition_dp.h"
#include "planner/partition_glpk.h"
#include "tests/support/check.h"
#include "tests/support/placement.h"

enum { NUM_PROBLEMS = 400, MAX_STAGES = 5, MAX_LAYERS = 8, NUM_MASTER = 4 };

struct best {
    double bound_s;
    int32_t num_partitions;
};

static void keep_best(void *context, const struct hlm_placement *placement, const int32_t *ends,
                      const struct stage_times *times)
{
    (void)ends;
    struct best *best = context;
    best->bound_s = fmin(best->bound_s, written_bound_s(placement, times));
    best->num_partitions++;
}

static struct best brute_force(struct hlm_arena *arena, const struct hlm_placement *placement)
{
    struct best best = {.bound_s = INFINITY};
    const struct stage_times times = stage_times_new(arena, placement->num_stages);
    int32_t *ends = HLM_ARENA_ARRAY(arena, int32_t, placement->num_stages);
    brute_partitions(placement, 0, 0, ends, &times, keep_best, &best);
    return best;
}

static struct random_shape shape_of(int i)
{
    return (struct random_shape){.max_stages = MAX_STAGES,
                                 .max_layers = MAX_LAYERS,
                                 .max_microbatches = 24,
                                 .max_transfer = i % 3 == 0 ? 0.0 : 0.5,
                                 .unequal = i % 2 == 0,
                                 .tight = i % 4 < 2};
}

struct arenas {
    struct hlm_arena *kept, *scratch;
};

static double solve_dp(const struct arenas *arenas, struct hlm_pattern_set *set, double cutoff_s)
{
    struct hlm_bound_windows windows;
    int32_t ends[MAX_STAGES];
    struct hlm_partition partition = {.ends = ends};
    if (!hlm_bound_narrow(arenas->scratch, set, cutoff_s, &windows) ||
        !hlm_partition_dp(arenas->scratch, set, &windows, &partition)) {
        return INFINITY;
    }
    check_close(hlm_bound_partition(set, ends), partition.bound_s, 1e-12);
    return partition.bound_s;
}

static double solve_ilp(const struct arenas *arenas, struct hlm_pattern_set *set, double cutoff_s)
{
    struct hlm_bound_windows windows;
    int32_t ends[MAX_STAGES];
    struct hlm_partition partition = {.ends = ends};
    double least_s = 0.0;
    int32_t num_nodes = 0;
    if (!hlm_bound_narrow(arenas->scratch, set, cutoff_s, &windows)) {
        return INFINITY;
    }
    const double low_s = hlm_bound_closed_form(hlm_pattern_set_placement(set));
    const enum hlm_ilp_outcome outcome = hlm_partition_glpk(arenas->scratch, set, &windows, low_s,
                                                            0, &partition, &least_s, &num_nodes);
    if (outcome == HLM_ILP_NO_BETTER) {
        return INFINITY;
    }
    assert_int_equal(outcome, HLM_ILP_PROVED);
    assert_true(least_s <= partition.bound_s && least_s >= partition.bound_s * (1 - 1e-6));
    return partition.bound_s;
}

static void check_bounds_below(const struct arenas *arenas, struct hlm_pattern_set *set,
                               double best_s)
{
    const double low_s = hlm_bound_closed_form(hlm_pattern_set_placement(set));
    assert_true(low_s <= best_s * (1 + 1e-12));
    if (isfinite(best_s)) {
        int32_t ends[MAX_STAGES];
        const double threshold_s =
            hlm_bound_threshold(arenas->scratch, set, low_s, best_s * 1.1, ends);
        assert_true(threshold_s >= low_s && threshold_s <= best_s * (1 + 1e-12));
        /* Nothing is lost where the cutoff is the optimum itself. */
        check_close(solve_dp(arenas, set, best_s * (1 + 1e-9)), best_s, 1e-9);
        check_close(solve_ilp(arenas, set, best_s * (1 + 1e-6)), best_s, 1e-6);
        assert_true(isinf(solve_dp(arenas, set, best_s * (1 - 1e-6))));
    }
}

static void dp_ilp_and_brute_force_agree(void **state)
{
    (void)state;
    struct hlm_rng rng = {.key = placement_seed(4711)};
    int num_infeasible = 0;
    for (int i = 0; i < NUM_PROBLEMS; i++) {
        const struct arenas arenas = {hlm_arena_new(), hlm_arena_new()};
        const struct random_shape shape = shape_of(i);
        const struct hlm_placement *placement = random_placement(arenas.kept, &rng, &shape);
        struct hlm_pattern_set *set = hlm_pattern_set_new(arenas.kept, placement);
        const struct best best = brute_force(arenas.kept, placement);
        const double dp_s = solve_dp(&arenas, set, INFINITY);
        const double ilp_s = solve_ilp(&arenas, set, INFINITY);
        if (best.num_partitions == 0) {
            num_infeasible++;
            assert_true(isinf(dp_s) && isinf(ilp_s));
        } else {
            check_close(dp_s, best.bound_s, 1e-9);
            check_close(ilp_s, best.bound_s, 1e-6);
        }
        check_bounds_below(&arenas, set, best.bound_s);
        hlm_arena_free(arenas.scratch);
        hlm_arena_free(arenas.kept);
    }
    assert_in_range(num_infeasible, 1, NUM_PROBLEMS / 2);
}

static void master_picks_the_best_column(void **state)
{
    (void)state;
    struct hlm_rng rng = {.key = placement_seed(815)};
    for (int i = 0; i < NUM_PROBLEMS; i++) {
        const struct arenas arenas = {hlm_arena_new(), hlm_arena_new()};
        struct hlm_master_column columns[NUM_MASTER];
        struct hlm_bound_windows windows[NUM_MASTER];
        int32_t num_columns = 0, ends[MAX_STAGES];
        double best_s = INFINITY, low_s = INFINITY;
        for (int c = 0; c < NUM_MASTER; c++) {
            const struct random_shape shape = shape_of(i + c);
            const struct hlm_placement *placement = random_placement(arenas.kept, &rng, &shape);
            struct hlm_pattern_set *set = hlm_pattern_set_new(arenas.kept, placement);
            if (hlm_bound_narrow(arenas.kept, set, INFINITY, &windows[num_columns])) {
                best_s = fmin(best_s, brute_force(arenas.kept, placement).bound_s);
                low_s = fmin(low_s, hlm_bound_closed_form(placement));
                columns[num_columns] =
                    (struct hlm_master_column){.set = set, .windows = &windows[num_columns]};
                num_columns++;
            }
        }
        const struct hlm_master master =
            hlm_master_glpk(arenas.scratch, columns, num_columns, low_s / 1000.0, 0, ends);
        if (isinf(best_s)) {
            assert_int_equal(master.outcome, HLM_ILP_NO_BETTER);
        } else {
            assert_int_equal(master.outcome, HLM_ILP_PROVED);
            check_close(master.objective_s, best_s, 1e-6);
            check_close(master.bound_s, best_s, 1e-6);
        }
        hlm_arena_free(arenas.scratch);
        hlm_arena_free(arenas.kept);
    }
}

/* Lists every partition, each once, with its bound. */
struct listed {
    int32_t num_partitions;
    double least_s, cutoff_s;
};

static double count_listed(void *context, const struct hlm_partition *partition)
{
    struct listed *listed = context;
    assert_true(partition->bound_s <= listed->cutoff_s);
    listed->least_s = fmin(listed->least_s, partition->bound_s);
    listed->num_partitions++;
    return listed->cutoff_s;
}

struct counted {
    double cutoff_s;
    int32_t num_partitions;
};

static void count_below(void *context, const struct hlm_placement *placement, const int32_t *ends,
                        const struct stage_times *times)
{
    (void)ends;
    struct counted *counted = context;
    counted->num_partitions += written_bound_s(placement, times) <= counted->cutoff_s;
}

static void listing_finds_all_below_a_cutoff(void **state)
{
    (void)state;
    struct hlm_rng rng = {.key = placement_seed(99)};
    for (int i = 0; i < NUM_PROBLEMS; i++) {
        const struct arenas arenas = {hlm_arena_new(), hlm_arena_new()};
        const struct random_shape shape = shape_of(i);
        const struct hlm_placement *placement = random_placement(arenas.kept, &rng, &shape);
        struct hlm_pattern_set *set = hlm_pattern_set_new(arenas.kept, placement);
        const struct best best = brute_force(arenas.kept, placement);
        struct counted expected = {.cutoff_s = best.bound_s * 1.0501};
        if (best.num_partitions > 0) {
            int32_t *ends = HLM_ARENA_ARRAY(arenas.kept, int32_t, placement->num_stages);
            const struct stage_times times = stage_times_new(arenas.kept, placement->num_stages);
            brute_partitions(placement, 0, 0, ends, &times, count_below, &expected);
            struct hlm_bound_windows windows;
            assert_true(hlm_bound_narrow(arenas.kept, set, expected.cutoff_s, &windows));
            struct listed listed = {.least_s = INFINITY, .cutoff_s = expected.cutoff_s};
            hlm_partition_list(arenas.scratch, set, &windows, count_listed, &listed);
            assert_int_equal(listed.num_partitions, expected.num_partitions);
            check_close(listed.least_s, best.bound_s, 1e-12);
        }
        hlm_arena_free(arenas.scratch);
        hlm_arena_free(arenas.kept);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dp_ilp_and_brute_force_agree),
        cmocka_unit_test(master_picks_the_best_column),
        cmocka_unit_test(listing_finds_all_below_a_cutoff),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
