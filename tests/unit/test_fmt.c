#include "base/fmt.h"
#include "tests/support/check.h"

struct sample {
    double value;
    const char *text;
};

static void check_samples(struct hlm_fmt (*format)(double), const struct sample *samples, int num)
{
    for (int i = 0; i < num; i++) {
        assert_string_equal(format(samples[i].value).text, samples[i].text);
    }
}
#define CHECK_SAMPLES(format, samples)                                                             \
    check_samples((format), (samples), (int)(sizeof(samples) / sizeof(samples)[0]))

static void seconds(void **state)
{
    (void)state;
    static const struct sample samples[] = {
        {0, "0 s"},           {3.21e-3, "3.21 ms"}, {1.5e-6, "1.50 us"},   {12.34e-9, "12.3 ns"},
        {4e-10, "0.400 ns"},  {1, "1.00 s"},        {59.96, "60.0 s"},     {123.4, "123 s"},
        {600, "10.0 min"},    {3600, "60.0 min"},   {7200, "2.00 h"},      {86400, "24.0 h"},
        {0.9997, "1.00 s"},   {0.9994, "999 ms"},   {-2.5e-3, "-2.50 ms"}, {9.999, "10.0 s"},
        {99.96e-3, "100 ms"}, {-0.0, "0 s"}};
    CHECK_SAMPLES(hlm_fmt_seconds, samples);
}

static void bytes(void **state)
{
    (void)state;
    static const struct sample samples[] = {{0, "0 B"},
                                            {512, "512 B"},
                                            {1023, "1023 B"},
                                            {1024, "1.00 KiB"},
                                            {1.5 * 0x1p30, "1.50 GiB"},
                                            {80.0 * 0x1p30, "80.0 GiB"},
                                            {1023 * 0x1p20, "1023 MiB"},
                                            {1023.8 * 0x1p20, "1.00 GiB"},
                                            {0x1p52, "4096 TiB"},
                                            {-0x1p20, "-1.00 MiB"}};
    CHECK_SAMPLES(hlm_fmt_bytes, samples);
}

static void flops(void **state)
{
    (void)state;
    static const struct sample samples[] = {{0, "0 FLOP"},
                                            {17, "17 FLOP"},
                                            {2.5e9, "2.50 GFLOP"},
                                            {999.6e12, "1.00 PFLOP"},
                                            {3.14e23, "314000 EFLOP"}};
    CHECK_SAMPLES(hlm_fmt_flops, samples);
}

static void rates(void **state)
{
    (void)state;
    static const struct sample flop_rates[] = {{0, "0 GFLOP/s"},
                                               {312e12, "312 TFLOP/s"},
                                               {989.4e12, "989 TFLOP/s"},
                                               {5e8, "0.500 GFLOP/s"},
                                               {1.2e18, "1.20 EFLOP/s"}};
    static const struct sample byte_rates[] = {
        {0, "0 MB/s"}, {1.25e7, "12.5 MB/s"}, {450e9, "450 GB/s"}, {3.35e12, "3.35 TB/s"}};
    CHECK_SAMPLES(hlm_fmt_flops_per_s, flop_rates);
    CHECK_SAMPLES(hlm_fmt_bytes_per_s, byte_rates);
}

static void shares_and_counts(void **state)
{
    (void)state;
    static const struct sample shares[] = {
        {0.0123, "1.23 %"},  {0, "0 %"},       {1, "100 %"},         {0.5, "50.0 %"},
        {-0.031, "-3.10 %"}, {12.5, "1250 %"}, {0.00012, "0.0120 %"}};
    static const struct sample counts[] = {
        {0, "0"},          {512, "512"},     {1.5, "1.50"},        {12345, "12.3 K"},
        {1.5e6, "1.50 M"}, {175e9, "175 B"}, {1.008e12, "1.01 T"}, {999999, "1.00 M"}};
    CHECK_SAMPLES(hlm_fmt_percent, shares);
    CHECK_SAMPLES(hlm_fmt_count, counts);
}

static void not_finite(void **state)
{
    (void)state;
    assert_string_equal(hlm_fmt_seconds((double)INFINITY).text, "inf");
    assert_string_equal(hlm_fmt_bytes(-(double)INFINITY).text, "-inf");
    assert_string_equal(hlm_fmt_count((double)NAN).text, "nan");
}

/* The printed number is within half a unit of the third digit. */
static void three_digits_over_many_magnitudes(void **state)
{
    (void)state;
    for (double value = 1.2345e-9; value < 500; value *= 1.0173) {
        char unit[8] = "";
        double number = 0;
        assert_int_equal(sscanf(hlm_fmt_seconds(value).text, "%lf %7s", &number, unit), 2);
        const double scale = strcmp(unit, "ns") == 0   ? 1e-9
                             : strcmp(unit, "us") == 0 ? 1e-6
                             : strcmp(unit, "ms") == 0 ? 1e-3
                                                       : 1;
        check_close(number * scale, value, 0.00501);
        assert_true(number >= 0.9995 && number < 1000);
    }
}

static void integers(void **state)
{
    (void)state;
    assert_string_equal(hlm_fmt_int(0).text, "0");
    assert_string_equal(hlm_fmt_int(999).text, "999");
    assert_string_equal(hlm_fmt_int(-1000).text, "-1,000");
    assert_string_equal(hlm_fmt_int(1234567).text, "1,234,567");
    assert_string_equal(hlm_fmt_int(INT64_MIN).text, "-9,223,372,036,854,775,808");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seconds),
        cmocka_unit_test(bytes),
        cmocka_unit_test(flops),
        cmocka_unit_test(rates),
        cmocka_unit_test(shares_and_counts),
        cmocka_unit_test(not_finite),
        cmocka_unit_test(three_digits_over_many_magnitudes),
        cmocka_unit_test(integers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
