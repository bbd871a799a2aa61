/* Predicted against published training runs: ../shared/truth/open.json, outside of the repository.
 */
#include <stdio.h>

#include "compare/validate.h"
#include "tests/support/check.h"

static const char *const path = "../shared/truth/open.json";

/* What is claimed of families whose configuration is stated in full; others are only counted. */
static const struct claim {
    const char *family;
    double max_mean_abs_error_frac;
} claims[] = {
    {"sc21-table1", 0.05},        {"megatron-2020-tables", 0.08}, {"vtrain-multi", 0.08},
    {"vtrain-single", 0.10},      {"mosaic-a100-40", 0.07},       {"mosaic-h100", 0.13},
    {"dgxc-h100-llama", 0.07},    {"dgxc-h100-other", 0.06},      {"dgxc-maxtext", 0.13},
    {"nemo-long-sequence", 0.06}, {"zero-bubble", 0.05},          {"korthikanti-table5", 0.08},
    {"dgxc-gb200", 0.06},         {"megatron-h100-strong", 0.10}, {"megatron-h100", 0.10},
    {"fms-fsdp", 0.09},           {"nemotron4-340b-paper", 0.08},
};
enum { NUM_CLAIMS = sizeof claims / sizeof claims[0] };

static void published_runs_are_predicted(void **state)
{
    (void)state;
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        skip();
    }
    fclose(file);
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct hlm_truth truth;
    struct hlm_validation validation;
    check_ok(hlm_truth_read(arena, path, &truth, &err), &err);
    for (int32_t i = 0; i < truth.num_points; i++) {
        assert_null(truth.points[i].unreadable);
    }
    check_ok(hlm_validate(arena, &truth, NULL, NULL, &validation, &err), &err);
    int32_t num_refused = 0, num_met = 0;
    for (int32_t i = 0; i < validation.num_reasons; i++) {
        num_refused += validation.reasons[i].num_points;
    }
    for (int32_t i = 0; i < validation.num_results; i++) {
        num_refused -= validation.results[i].reason != NULL ? 1 : 0;
    }
    assert_int_equal(num_refused, 0);
    for (int32_t i = 0; i < validation.num_families; i++) {
        const struct hlm_validate_family *family = &validation.families[i];
        for (int c = 0; c < NUM_CLAIMS; c++) {
            if (strcmp(claims[c].family, family->family) == 0) {
                print_message("%-22s %2d of %2d: mean %+5.1f %%, mean absolute %4.1f %%\n",
                              family->family, family->num_predicted, family->num_points,
                              100.0 * family->mean_error_frac, 100.0 * family->mean_abs_error_frac);
                assert_true(family->num_predicted > 0);
                assert_true(family->mean_abs_error_frac <= claims[c].max_mean_abs_error_frac);
                num_met++;
            }
        }
    }
    assert_int_equal(num_met, NUM_CLAIMS);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(published_runs_are_predicted)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
