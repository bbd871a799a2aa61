#include "base/rng.h"
#include "tests/support/check.h"

/* The reference outputs of the FNV specification. */
static void hash_is_fnv_1a_64(void **state)
{
    (void)state;
    assert_true(hlm_hash(HLM_HASH_START, "", 0) == 0xcbf29ce484222325ULL);
    assert_true(hlm_hash(HLM_HASH_START, "a", 1) == 0xaf63dc4c8601ec8cULL);
    assert_true(hlm_hash(HLM_HASH_START, "foobar", 6) == 0x85944171f73967e8ULL);
    /* chained */
    assert_true(hlm_hash(hlm_hash(HLM_HASH_START, "foo", 3), "bar", 3) == 0x85944171f73967e8ULL);
}

/* The first outputs of the authors' SplitMix64 with seed 1234567. */
static void bits_are_splitmix64(void **state)
{
    (void)state;
    static const uint64_t expected[] = {6457827717110365317ULL, 3203168211198807973ULL,
                                        9817491932198370423ULL, 4593380528125082431ULL,
                                        16408922859458223821ULL};
    for (uint64_t i = 0; i < 5; i++) {
        assert_true(hlm_rng_bits(1234567, i) == expected[i]);
    }
}

static void uniform_is_in_range_and_even(void **state)
{
    (void)state;
    enum { NUM = 100000, NUM_BINS = 10 };
    int bins[NUM_BINS] = {0};
    for (uint64_t i = 0; i < NUM; i++) {
        const double value = hlm_rng_uniform(99, i);
        assert_true(value >= 0 && value < 1);
        bins[(int)(value * NUM_BINS)]++;
    }
    for (int i = 0; i < NUM_BINS; i++) {
        assert_in_range(bins[i], 9600, 10400); /* 4 standard deviations are 380 */
    }
}

static void normal_has_mean_0_and_variance_1(void **state)
{
    (void)state;
    enum { NUM = 100000 };
    double sum = 0, squares = 0, largest = 0;
    for (uint64_t i = 0; i < NUM; i++) {
        const double value = hlm_rng_normal(5, i);
        sum += value;
        squares += value * value;
        largest = fmax(largest, fabs(value));
    }
    check_near(sum / NUM, 0, 0.013);
    check_near(squares / NUM, 1, 0.015);
    assert_true(largest < 3.47 && largest > 2.5);
}

static void normal_is_its_four_uniforms(void **state)
{
    (void)state;
    const double sum = hlm_rng_uniform(11, 12) + hlm_rng_uniform(11, 13) + hlm_rng_uniform(11, 14) +
                       hlm_rng_uniform(11, 15);
    assert_true(hlm_rng_normal(11, 3) == (sum - 2) * sqrt(3.0));
}

static void next_runs_through_the_indices(void **state)
{
    (void)state;
    struct hlm_rng rng = {.key = 3};
    for (uint64_t i = 0; i < 10; i++) {
        assert_true(hlm_rng_next_uniform(&rng) == hlm_rng_uniform(3, i));
    }
}

static void next_int_covers_its_range_evenly(void **state)
{
    (void)state;
    struct hlm_rng rng = {.key = 17};
    int counts[7] = {0};
    for (int i = 0; i < 70000; i++) {
        const int64_t value = hlm_rng_next_int(&rng, -3, 3);
        assert_true(value >= -3 && value <= 3);
        counts[value + 3]++;
    }
    for (int i = 0; i < 7; i++) {
        assert_in_range(counts[i], 9600, 10400);
    }
    assert_int_equal(hlm_rng_next_int(&rng, 5, 5), 5);
}

static void next_int_takes_the_whole_range(void **state)
{
    (void)state;
    struct hlm_rng rng = {.key = 18};
    int num_negative = 0;
    for (int i = 0; i < 1000; i++) {
        num_negative += hlm_rng_next_int(&rng, INT64_MIN, INT64_MAX) < 0;
    }
    assert_in_range(num_negative, 420, 580);
    /* More than half of all values are out of this range and drawn again. */
    for (int i = 0; i < 1000; i++) {
        assert_true(hlm_rng_next_int(&rng, INT64_MIN / 2 - 1, INT64_MAX / 2 + 1) >=
                    INT64_MIN / 2 - 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hash_is_fnv_1a_64),
        cmocka_unit_test(bits_are_splitmix64),
        cmocka_unit_test(uniform_is_in_range_and_even),
        cmocka_unit_test(normal_has_mean_0_and_variance_1),
        cmocka_unit_test(normal_is_its_four_uniforms),
        cmocka_unit_test(next_runs_through_the_indices),
        cmocka_unit_test(next_int_covers_its_range_evenly),
        cmocka_unit_test(next_int_takes_the_whole_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
