#include "base/fmt.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* One unit of a ladder: taken from `from` (in base units) upwards. */
struct unit {
    double scale, from;
    const char *name; /* NULL ends the ladder */
    bool countable;   /* whole numbers print without decimals: "512 B", not "512.00 B" */
};

static const struct unit second_units[] = {
    {1e-9, 0, " ns", false}, {1e-6, 1e-6, " us", false}, {1e-3, 1e-3, " ms", false},
    {1, 1, " s", false},     {60, 600, " min", false},   {3600, 7200, " h", false},
    {.name = NULL}};
static const struct unit byte_units[] = {{1, 0, " B", true},
                                         {0x1p10, 0x1p10, " KiB", false},
                                         {0x1p20, 0x1p20, " MiB", false},
                                         {0x1p30, 0x1p30, " GiB", false},
                                         {0x1p40, 0x1p40, " TiB", false},
                                         {.name = NULL}};
static const struct unit flop_units[] = {
    {1, 0, " FLOP", true},         {1e3, 1e3, " kFLOP", false},
    {1e6, 1e6, " MFLOP", false},   {1e9, 1e9, " GFLOP", false},
    {1e12, 1e12, " TFLOP", false}, {1e15, 1e15, " PFLOP", false},
    {1e18, 1e18, " EFLOP", false}, {.name = NULL}};
static const struct unit flop_rate_units[] = {{1e9, 0, " GFLOP/s", false},
                                              {1e12, 1e12, " TFLOP/s", false},
                                              {1e15, 1e15, " PFLOP/s", false},
                                              {1e18, 1e18, " EFLOP/s", false},
                                              {.name = NULL}};
static const struct unit byte_rate_units[] = {{1e6, 0, " MB/s", false},
                                              {1e9, 1e9, " GB/s", false},
                                              {1e12, 1e12, " TB/s", false},
                                              {.name = NULL}};
static const struct unit percent_units[] = {{0.01, 0, " %", false}, {.name = NULL}};
static const struct unit count_units[] = {{1, 0, "", true},          {1e3, 1e3, " K", false},
                                          {1e6, 1e6, " M", false},   {1e9, 1e9, " B", false},
                                          {1e12, 1e12, " T", false}, {.name = NULL}};

/* Three significant digits of a positive number; all digits of the whole part of a larger one. */
static void print_digits(char *out, size_t size, double value, bool countable)
{
    /* The bounds are where rounding reaches the next power of ten. */
    static const struct {
        double below;
        int decimals;
    } rows[] = {{0.009995, 5}, {0.09995, 4}, {0.9995, 3}, {9.995, 2}, {99.95, 1}, {HUGE_VAL, 0}};
    if (value < 1e-3 || value >= 1e6) {
        snprintf(out, size, "%.3g", value);
    } else if (countable && value == floor(value)) {
        snprintf(out, size, "%.0f", value);
    } else {
        int i = 0;
        while (value >= rows[i].below) {
            i++;
        }
        snprintf(out, size, "%.*f", rows[i].decimals, value);
    }
}

static struct hlm_fmt print_ladder(double value, const struct unit *units, const char *zero)
{
    struct hlm_fmt out;
    if (!isfinite(value)) {
        snprintf(out.text, sizeof out.text, "%s",
                 isnan(value) ? "nan"
                 : value < 0  ? "-inf"
                              : "inf");
        return out;
    }
    const double size = fabs(value);
    if (size == 0) {
        snprintf(out.text, sizeof out.text, "0%s", zero);
        return out;
    }
    const struct unit *unit = units;
    while (unit[1].name != NULL && size >= unit[1].from) {
        unit++;
    }
    char digits[24];
    print_digits(digits, sizeof digits, size / unit->scale, unit->countable);
    /* Rounding may reach the next unit: 999.7 ms is 1.00 s, not 1000 ms. */
    if (unit[1].name != NULL && strtod(digits, NULL) * unit->scale >= unit[1].from) {
        unit++;
        print_digits(digits, sizeof digits, size / unit->scale, unit->countable);
    }
    snprintf(out.text, sizeof out.text, "%s%s%s", value < 0 ? "-" : "", digits, unit->name);
    return out;
}

struct hlm_fmt hlm_fmt_seconds(double seconds)
{
    return print_ladder(seconds, second_units, " s");
}

struct hlm_fmt hlm_fmt_bytes(double bytes)
{
    return print_ladder(bytes, byte_units, " B");
}

struct hlm_fmt hlm_fmt_flops(double flops)
{
    return print_ladder(flops, flop_units, " FLOP");
}

struct hlm_fmt hlm_fmt_flops_per_s(double flops_per_s)
{
    return print_ladder(flops_per_s, flop_rate_units, " GFLOP/s");
}

struct hlm_fmt hlm_fmt_bytes_per_s(double bytes_per_s)
{
    return print_ladder(bytes_per_s, byte_rate_units, " MB/s");
}

struct hlm_fmt hlm_fmt_percent(double fraction)
{
    return print_ladder(fraction, percent_units, " %");
}

struct hlm_fmt hlm_fmt_count(double count)
{
    return print_ladder(count, count_units, "");
}

struct hlm_fmt hlm_fmt_int(int64_t value)
{
    struct hlm_fmt out;
    char digits[24];
    const uint64_t size = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    const int length = snprintf(digits, sizeof digits, "%" PRIu64, size);
    char *end = out.text;
    if (value < 0) {
        *end++ = '-';
    }
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0) {
            *end++ = ',';
        }
        *end++ = digits[i];
    }
    *end = '\0';
    return out;
}
