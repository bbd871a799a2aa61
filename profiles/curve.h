/* curve: a measured time as a function of size, as a table of points.
 *
 * Between points the interpolation is linear in (log x, log y); below the first point the time is
 * that of the first point (a floor of latency); above the last point it grows in proportion to size
 * from the last point (bandwidth of the largest measured size). Points ascend strictly in both
 * coordinates' x; times > 0.
 */
#ifndef HLM_PROFILES_CURVE_H
#define HLM_PROFILES_CURVE_H

#include <stdint.h>

#include "base/err.h"
#include "base/json.h"

struct hlm_curve_point {
    double bytes;
    double seconds;
};
extern const struct hlm_json_table hlm_curve_point_table;

struct hlm_curve {
    const struct hlm_curve_point *points;
    int32_t num_points;
};
double hlm_curve_seconds(const struct hlm_curve *curve, double bytes);

/* HLM_INPUT when the points do not ascend; `where` is the file and the JSON path of the array. */
HLM_MUST_CHECK enum hlm_status hlm_curve_validate(const struct hlm_curve *curve, const char *where,
                                                  struct hlm_err *err);

#endif
