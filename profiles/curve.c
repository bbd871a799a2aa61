#include "profiles/curve.h"

#include <math.h>
#include <stddef.h>

static const struct hlm_json_field fields[] = {
    {.name = "bytes",
     .type = HLM_JSON_DOUBLE,
     .offset = offsetof(struct hlm_curve_point, bytes),
     .flags = HLM_FIELD_REQUIRED,
     .min = 1.0,
     .max = 1e18,
     .doc = "Size in bytes."},
    {.name = "seconds",
     .type = HLM_JSON_DOUBLE,
     .offset = offsetof(struct hlm_curve_point, seconds),
     .flags = HLM_FIELD_REQUIRED,
     .min = 1e-12,
     .max = 1e6,
     .doc = "Time in seconds."},
    {.name = NULL},
};

const struct hlm_json_table hlm_curve_point_table = {"curve_point", sizeof(struct hlm_curve_point),
                                                     fields};

double hlm_curve_seconds(const struct hlm_curve *curve, double bytes)
{
    HLM_ASSERT(curve->num_points > 0);
    const struct hlm_curve_point *last = &curve->points[curve->num_points - 1];
    if (bytes <= curve->points[0].bytes) {
        return curve->points[0].seconds;
    }
    if (bytes >= last->bytes) {
        return last->seconds * (bytes / last->bytes);
    }
    const struct hlm_curve_point *right = curve->points;
    while (right->bytes < bytes) {
        right++;
    }
    const struct hlm_curve_point *left = right - 1;
    const double frac = log(bytes / left->bytes) / log(right->bytes / left->bytes);
    return left->seconds * exp(frac * log(right->seconds / left->seconds));
}

enum hlm_status hlm_curve_validate(const struct hlm_curve *curve, const char *where,
                                   struct hlm_err *err)
{
    for (int32_t i = 1; i < curve->num_points; i++) {
        if (!(curve->points[i].bytes > curve->points[i - 1].bytes)) {
            return hlm_fail(err, HLM_INPUT, "%s[%d].bytes: expected more than %.17g, found %.17g",
                            where, (int)i, curve->points[i - 1].bytes, curve->points[i].bytes);
        }
    }
    return HLM_OK;
}
