#include "planner/master_glpk.h"
#include "tests/support/check.h"
#include "tests/support/placement.h"

/* Scaling the seconds of a problem scales the answer, whatever the unit: from microseconds to
 * hours. */
static void units_change_nothing(void **state)
{
    (void)state;
    struct hlm_rng rng = {.key = placement_seed(77)};
    for (int i = 0; i < 30; i++) {
        struct hlm_arena *arena = hlm_arena_new(), *scratch = hlm_arena_new();
        const struct random_shape shape = {
            .max_stages = 4, .max_layers = 8, .max_microbatches = 12, .max_transfer = 0.2};
        const struct hlm_placement *base = random_placement(arena, &rng, &shape);
        double objectives[3];
        static const double scales[] = {1.0, 1e-6, 3600.0};
        for (int k = 0; k < 3; k++) {
            struct hlm_placement scaled = *base;
            struct random_holding holding = *(const struct random_holding *)base->context;
            struct hlm_stage_prices *stages =
                hlm_arena_memdup(arena, base->stages, (size_t)base->num_stages * sizeof(*stages));
            double *transfers = hlm_arena_memdup(arena, base->transfer_s,
                                                 (size_t)base->num_stages * sizeof(*transfers));
            for (int32_t s = 0; s < base->num_stages; s++) {
                transfers[s] *= scales[k];
                stages[s].base_forward_s *= scales[k];
                stages[s].base_backward_s *= scales[k];
                for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
                    stages[s].forward_s[kind] *= scales[k];
                    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
                        stages[s].backward_s[kind][mode] *= scales[k];
                    }
                }
            }
            for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
                holding.reduce_s[kind] *= scales[k];
                holding.optimizer_s[kind] *= scales[k];
            }
            holding.wobble_s *= scales[k];
            scaled.stages = stages;
            scaled.transfer_s = transfers;
            scaled.sync_s *= scales[k];
            scaled.context = &holding;
            struct hlm_pattern_set *set = hlm_pattern_set_new(arena, &scaled);
            struct hlm_bound_windows windows;
            assert_true(hlm_bound_narrow(arena, set, (double)INFINITY, &windows));
            const struct hlm_master_column column = {.set = set, .windows = &windows};
            int32_t ends[4];
            const struct hlm_master master = hlm_master_glpk(
                scratch, &column, 1, hlm_bound_closed_form(&scaled) / 1000.0, 0, ends);
            assert_int_equal(master.outcome, HLM_ILP_PROVED);
            objectives[k] = master.objective_s / scales[k];
        }
        check_close(objectives[1], objectives[0], 1e-6);
        check_close(objectives[2], objectives[0], 1e-6);
        hlm_arena_free(scratch);
        hlm_arena_free(arena);
    }
}

/* A column whose windows leave no pattern is left out; with no column at all there is no answer. */
static void columns_without_patterns_are_left_out(void **state)
{
    (void)state;
    struct hlm_arena *scratch = hlm_arena_new();
    int32_t ends[1];
    const struct hlm_master master = hlm_master_glpk(scratch, NULL, 0, 1.0, 0, ends);
    assert_int_equal(master.outcome, HLM_ILP_NO_BETTER);
    assert_int_equal(master.num_columns, 0);
    assert_int_equal(master.column, -1);
    hlm_arena_free(scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(units_change_nothing),
        cmocka_unit_test(columns_without_patterns_are_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
