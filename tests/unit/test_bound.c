#include "planner/bound.h"
#include "tests/support/check.h"
#include "tests/support/placement.h"

/* p equal stages of one layer each, forward 1 s, backward 2 s. */
static const struct hlm_placement *equal_stages(struct hlm_arena *arena, int32_t p, int32_t m,
                                                double transfer_s, enum hlm_schedule_kind schedule)
{
    struct hlm_placement *placement = HLM_ARENA_NEW(arena, struct hlm_placement);
    struct hlm_stage_prices *stages = HLM_ARENA_ARRAY(arena, struct hlm_stage_prices, p);
    double *transfers = HLM_ARENA_ARRAY(arena, double, p);
    for (int32_t s = 0; s < p; s++) {
        stages[s] = (struct hlm_stage_prices){.forward_s = {1, 1},
                                              .backward_s = {{2, 2, 2}, {2, 2, 2}},
                                              .limit_bytes = 1,
                                              .may_be_empty = s == 0 || s == p - 1};
        transfers[s] = s + 1 < p ? transfer_s : 0;
    }
    struct random_holding *holding = HLM_ARENA_NEW(arena, struct random_holding);
    *placement = (struct hlm_placement){.schedule = schedule,
                                        .num_stages = p,
                                        .num_layers = p,
                                        .num_microbatches = m,
                                        .layer_kinds = HLM_ARENA_ARRAY(arena, uint8_t, p),
                                        .stages = stages,
                                        .transfer_s = transfers,
                                        .modes = {true, true, true},
                                        .hold = random_hold,
                                        .context = holding};
    for (int32_t s = 0; s < p; s++) {
        stages[s].limit_bytes = 1000;
    }
    return placement;
}

/* (m + p - 1)(F + B), the textbook form, for both schedules; one layer a stage. */
static void textbook_pipelines(void **state)
{
    (void)state;
    static const enum hlm_schedule_kind kinds[] = {HLM_SCHEDULE_GPIPE, HLM_SCHEDULE_1F1B};
    for (int k = 0; k < 2; k++) {
        for (int32_t p = 1; p <= 6; p++) {
            struct hlm_arena *arena = hlm_arena_new();
            const struct hlm_placement *placement =
                equal_stages(arena, p, 1 + 3 * p, 0.0, kinds[k]);
            struct hlm_pattern_set *set = hlm_pattern_set_new(arena, placement);
            int32_t ends[6];
            for (int32_t s = 0; s < p; s++) {
                ends[s] = s + 1;
            }
            const double expected_s = 3.0 * (1 + 3 * p + p - 1);
            check_close(hlm_bound_partition(set, ends), expected_s, 1e-12);
            check_close(hlm_bound_closed_form(placement), expected_s, 1e-12);
            hlm_arena_free(arena);
        }
    }
}

/* 1f1b pays nearly two transfers a microbatch: 2 c (p-1) / p (schedules of equal stages). */
static void transfers_show_in_1f1b(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_placement *placement = equal_stages(arena, 4, 17, 0.5, HLM_SCHEDULE_1F1B);
    struct hlm_pattern_set *set = hlm_pattern_set_new(arena, placement);
    const int32_t ends[] = {1, 2, 3, 4};
    /* one round trip of 12 + 3 s, and again for each four of the other 16 microbatches */
    check_close(hlm_bound_partition(set, ends), 5 * 15.0, 1e-12);
    hlm_arena_free(arena);
}

static void reductions_and_optimizer_count(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_placement *placement = HLM_ARENA_NEW(arena, struct hlm_placement);
    *placement = *equal_stages(arena, 1, 4, 0.0, HLM_SCHEDULE_1F1B);
    const struct random_holding holding = {.reduce_s = {0.25, 0}, .optimizer_s = {0.125, 0}};
    placement->context = &holding;
    placement->sync_s = 0.5;
    struct hlm_pattern_set *set = hlm_pattern_set_new(arena, placement);
    const int32_t ends[] = {1};
    check_close(hlm_bound_partition(set, ends), 12 + 0.25 + 0.5 + 0.125, 1e-12);
    hlm_arena_free(arena);
}

static void windows_close_on_the_optimum(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new(), *scratch = hlm_arena_new();
    const struct hlm_placement *placement = equal_stages(arena, 4, 17, 0.0, HLM_SCHEDULE_1F1B);
    struct hlm_pattern_set *set = hlm_pattern_set_new(arena, placement);
    struct hlm_bound_windows windows;
    assert_true(hlm_bound_narrow(scratch, set, 60.0 * (1 + 1e-9), &windows));
    for (int32_t s = 0; s <= 4; s++) {
        assert_int_equal(windows.begin_min[s], s);
        assert_int_equal(windows.begin_max[s], s);
    }
    assert_false(hlm_bound_narrow(scratch, set, 59.9, &windows));
    int32_t ends[4];
    assert_true(isinf(hlm_bound_threshold(scratch, set, 10.0, 59.9, ends)));
    const double threshold_s = hlm_bound_threshold(scratch, set, 10.0, (double)INFINITY, ends);
    check_close(threshold_s, 60.0, 1e-3);
    assert_true(threshold_s <= 60.0);
    for (int32_t s = 0; s < 4; s++) {
        assert_int_equal(ends[s], s + 1);
    }
    hlm_arena_free(scratch);
    hlm_arena_free(arena);
}

static void nothing_fits(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new(), *scratch = hlm_arena_new();
    struct hlm_placement *placement = HLM_ARENA_NEW(arena, struct hlm_placement);
    *placement = *equal_stages(arena, 3, 4, 0.0, HLM_SCHEDULE_1F1B);
    const struct random_holding holding = {.bytes = {2000, 0}};
    placement->context = &holding;
    struct hlm_pattern_set *set = hlm_pattern_set_new(arena, placement);
    struct hlm_bound_windows windows;
    assert_false(hlm_bound_narrow(scratch, set, (double)INFINITY, &windows));
    const int32_t ends[] = {1, 2, 3};
    assert_true(isinf(hlm_bound_partition(set, ends)));
    hlm_arena_free(scratch);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(textbook_pipelines),
        cmocka_unit_test(transfers_show_in_1f1b),
        cmocka_unit_test(reductions_and_optimizer_count),
        cmocka_unit_test(windows_close_on_the_optimum),
        cmocka_unit_test(nothing_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
