#include "planner/ramp.h"

#include <math.h>

static double equal_weights_s(const struct hlm_ramp *ramp)
{
    const double p = ramp->num_ranks, m = (double)ramp->num_microbatches;
    const double work_s = ramp->layers_s + ramp->more_s + ramp->first_s + ramp->last_s;
    const double passes_s =
        p < 2 ? 0.0 : (p - 1) * ramp->first_pass_s + (p - 1) * (p - 2) / 2.0 * ramp->least_pass_s;
    return (m * work_s + passes_s) / p;
}

static double falling_weights_s(const struct hlm_ramp *ramp)
{
    const double m = (double)ramp->num_microbatches, v = ramp->num_chunks;
    const bool whole = ramp->num_chunks == 1 && !ramp->splits_backward;
    const double share = whole ? 1.0 : ramp->least_pass_s / (v * ramp->longest_s);
    const double lost_s = whole ? 0.0 : ramp->least_pass_s * (v - 1) / v;
    double weight = 0.0, behind = 0.0, sum_behind = 0.0;
    for (int32_t r = ramp->num_ranks - 1; r >= 0; r--) {
        behind += weight;
        sum_behind += behind;
        weight = (1.0 - share * behind) / m;
    }
    /* weight and behind are those of rank 0. */
    const double least = whole ? 1.0 : m * weight;
    const double work_s =
        ramp->layers_s + least * ramp->more_s +
        (whole ? ramp->first_s : least * ramp->first_s + behind * ramp->first_pass_s) +
        (ramp->head_is_first ? least : 1.0) * ramp->last_s;
    return (work_s - lost_s * sum_behind) / (behind + weight);
}

double hlm_ramp_bound_s(const struct hlm_ramp *ramp)
{
    return fmax(equal_weights_s(ramp), falling_weights_s(ramp));
}
