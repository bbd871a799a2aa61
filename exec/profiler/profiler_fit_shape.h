/* profiler_fit_shape: from samples of products and attention to the curves of a device with
 * multiprocessors: tiles in waves (costmodel/kernel.h). Their parameters enter the time in no
 * linear way, so they are sought by the downhill simplex, and each candidate is judged by the cost
 * model itself: what is written is what reproduces the measurements. Pure.
 */
#ifndef HLM_EXEC_PROFILER_FIT_SHAPE_H
#define HLM_EXEC_PROFILER_FIT_SHAPE_H

#include "base/arena.h"
#include "exec/profiler/profiler_fit.h"

enum { HLM_FIT_MAX_PARAMETERS = 8 };

/* Where a parameter may be. in_log: its logarithm is what is stepped in (rates, times). */
struct hlm_fit_range {
    double min, max;
    bool in_log;
};

/* Downhill simplex (Nelder and Mead 1965) inside of ranges, from x, in which the best is left;
 * returns its cost. Restarted from its own best until that no longer helps. cost: finite inside of
 * the ranges. num: 1 .. HLM_FIT_MAX_PARAMETERS. */
double hlm_fit_minimise(const struct hlm_fit_range *ranges, int32_t num,
                        double (*cost)(const double *x, void *context), void *context, double *x);

/* Curves of form tile from the samples of one dtype (others are skipped): the shape of the curve
 * (waves, small tiles, throttling, how compute and memory join) from all layouts together, constant
 * part, start of a tile and the two rates for each layout of at least four samples. machine: gives
 * num_sms, the memory's peak rate and the dtype's peak. curves: [3], tn, nn, nt. Returns their
 * number: 0 without a dozen samples or multiprocessors. */
int32_t hlm_fit_gemm_tiles(struct hlm_arena *arena, const struct hlm_device *machine,
                           enum hlm_dtype dtype, const struct hlm_profiler_sample *samples,
                           int32_t num_samples, struct hlm_gemm_curve *curves);

/* The curve of one pass and mask of fused attention of one dtype; false below four samples. */
bool hlm_fit_attention_waves(struct hlm_arena *arena, const struct hlm_device *machine,
                             enum hlm_dtype dtype, const struct hlm_profiler_sample *samples,
                             int32_t num_samples, bool backward, bool causal,
                             struct hlm_attention_curve *out);

#endif
