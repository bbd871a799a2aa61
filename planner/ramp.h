/* ramp: a bound of any schedule from its ramps alone, without building it.
 *
 * Whatever the order of a rank's list, no action of rank r can start before the forwards of stages
 * 0 .. r-1 (the first chunks of the ranks in front) ended, as its own stages stand behind them: a
 * microbatch has to come down. Where backwards are whole, one also has to go up through the same
 * stages behind the rank's last action. So for every rank r
 *
 *     step >= sum_{u < r} a_u + m x_r                                                        (1)
 *
 * x_r being the seconds of a microbatch in all stages of rank r (F + B, or F + I + W), a_u what has
 * to be passed of stage u: F + B, with split backwards F. (1) is taken for all ranks at once with
 * weights y_r >= 0: step * sum y_r is at least the weighted sum of the right sides, in which the
 * work of rank u counts m y_u x_u + S_u a_u, S_u = sum_{r > u} y_r.
 *
 * Equal weights: every stage 1 .. r-1 has a layer at least, so a_u >= least_pass, a_0 >=
 * first_pass. Falling weights: a_u >= share x_u - lost, and y_r = (1 - share S_r) / m (>= 0: S_r <=
 * 1 / share) makes all work count 1. With one chunk and whole backwards a_u = x_u: share 1, lost 0.
 * Else, layers of a rank being even over its v stages, stage u has at least (n_u - (v - 1)) / v of
 * its n_u layers, each at least least_pass; so with share = least_pass / (v longest), longest being
 * the most that a kind of layers takes at its fastest, a layer counts at least what it takes at its
 * fastest; what it takes beyond that and what the head takes count m y of their rank, which is
 * least on rank 0. */
#ifndef HLM_PLANNER_RAMP_H
#define HLM_PLANNER_RAMP_H

#include <stdbool.h>
#include <stdint.h>

/* Seconds of one microbatch. */
struct hlm_ramp {
    int32_t num_ranks, num_chunks;
    int64_t num_microbatches;
    bool splits_backward, head_is_first; /* the head is on rank 0 */
    double layers_s;                     /* of all layers at their fastest */
    double more_s;                       /* what they take beyond that in all, at the least */
    double longest_s;                    /* of one layer at its fastest, the largest of any kind */
    double least_pass_s;                 /* of any layer, see above */
    double first_s, first_pass_s;        /* embedding */
    double last_s;                       /* head */
};

/* The least step, without reduction, synchronisation and optimizer. */
double hlm_ramp_bound_s(const struct hlm_ramp *ramp);

#endif
