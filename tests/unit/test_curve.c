#include "tests/support/check.h"

#include "profiles/curve.h"

static const struct hlm_curve_point points[] = {{1e3, 1e-6}, {1e5, 1e-5}, {1e6, 4e-4}};
static const struct hlm_curve curve = {points, 3};

static void test_points_are_met(void **state)
{
    (void)state;
    for (int32_t i = 0; i < curve.num_points; i++) {
        check_close(hlm_curve_seconds(&curve, points[i].bytes), points[i].seconds, 1e-15);
    }
}

static void test_below_first_is_floor(void **state)
{
    (void)state;
    check_close(hlm_curve_seconds(&curve, 0.0), 1e-6, 0.0);
    check_close(hlm_curve_seconds(&curve, 999.0), 1e-6, 0.0);
}

static void test_above_last_is_proportional(void **state)
{
    (void)state;
    check_close(hlm_curve_seconds(&curve, 3e6), 1.2e-3, 1e-14);
}

static void test_between_is_a_power_law(void **state)
{
    (void)state;
    /* Two decades of size, one of time: slope 1/2. */
    check_close(hlm_curve_seconds(&curve, 1e4), 1e-6 * sqrt(10.0), 1e-12);
    check_close(hlm_curve_seconds(&curve, 4e3), 2e-6, 1e-12);
}

static void test_one_point(void **state)
{
    (void)state;
    const struct hlm_curve one = {points, 1};
    check_close(hlm_curve_seconds(&one, 10.0), 1e-6, 0.0);
    check_close(hlm_curve_seconds(&one, 2e3), 2e-6, 1e-15);
}

static void test_validate(void **state)
{
    (void)state;
    struct hlm_err err;
    check_ok(hlm_curve_validate(&curve, "x", &err), &err);
    const struct hlm_curve_point same[] = {{10.0, 1e-6}, {10.0, 2e-6}};
    const struct hlm_curve bad = {same, 2};
    check_fails(hlm_curve_validate(&bad, "a.json: $.points", &err), HLM_INPUT, &err,
                "a.json: $.points[1].bytes: expected more than 10");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_points_are_met),
        cmocka_unit_test(test_below_first_is_floor),
        cmocka_unit_test(test_above_last_is_proportional),
        cmocka_unit_test(test_between_is_a_power_law),
        cmocka_unit_test(test_one_point),
        cmocka_unit_test(test_validate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
