/* calibrate: a profile corrected by what a run of it measured.
 *
 * A profile says how the time of a kernel depends on its size; a cluster in daily use is slower or
 * faster than the profile's machine by a factor that hardly depends on size (clocks, power, other
 * libraries): a kernel model of one source predicts another source within 1 to 6 % after one
 * scalar. So calibration scales, and fits nothing else:
 *   compute    times of matrix products, attention and memory-bound operators by (measured /
 *              predicted) of forward + backward
 *   optimizer  times of the optimizer's operators (sum_squares, adamw, fill_zero) by that of the
 *              optimizer, where the device has curves of them
 *   links      times of messages and collectives by that of tensor_parallel + data_parallel, only
 *              where the run measured them (not in virtual time) and they are at least one per cent
 *              of the step
 * Peaks, memory sizes and prices stay.
 *
 * A run of one emulated rank measured its device's kernels: compute and optimizer come from what
 * the plan promised of that rank; links are left alone, as communication was the plan's own.
 */
#ifndef HLM_COMPARE_CALIBRATE_H
#define HLM_COMPARE_CALIBRATE_H

#include <stdbool.h>

#include "planner/measurement.h"
#include "planner/plan.h"

struct hlm_calibration {
    /* Factors on times; 1 where nothing could be said. */
    double compute, optimizer, links;
    const struct hlm_cluster *cluster; /* the plan's, scaled */
    /* The step: predicted before, predicted again, measured; of an emulated rank what it computed
     * in it, as the rest was the plan's own. */
    double before_s, after_s, measured_s;
    bool links_emulated; /* links had no part in the run */
};

/* `date` (YYYY-MM-DD) and `machine` go into the sources. HLM_INPUT: the measurement has no forward
 * or backward part, or a factor is beyond [0.05, 20], which no calibration explains. */
HLM_MUST_CHECK enum hlm_status hlm_calibrate(struct hlm_arena *arena, const struct hlm_plan *plan,
                                             const struct hlm_measurement *measurement,
                                             const char *where, const char *date,
                                             struct hlm_calibration *out, struct hlm_err *err);

#endif
