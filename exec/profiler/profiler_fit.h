/* profiler_fit: from samples of operators to the few numbers of a device profile. Pure. */
#ifndef HLM_EXEC_PROFILER_FIT_H
#define HLM_EXEC_PROFILER_FIT_H

#include "base/arena.h"
#include "exec/profiler/profiler_stack.h"
#include "profiles/device.h"

enum { HLM_FIT_MAX_TERMS = 4 };

/* Ten times what was expected says as much as any larger spread (profiles/source.h). */
enum { HLM_SOURCE_MAX_SPREAD = 10 };

/* seconds = sum of coefficient[j] * term[j] over a few samples. */
struct hlm_fit_sample {
    double term[HLM_FIT_MAX_TERMS], seconds;
};
struct hlm_fit {
    double coefficient[HLM_FIT_MAX_TERMS]; /* >= 0 */
    double spread_frac;                    /* median of |predicted / measured - 1| */
};

/* The coefficients, none negative, that minimise the sum of squared relative errors: least squares
 * over the samples divided by their seconds, on each subset of the terms, the best feasible one
 * taken (15 systems of at most four equations). num_terms in 1 .. 4, num_samples >= 1. */
struct hlm_fit hlm_fit_relative(const struct hlm_fit_sample *samples, int32_t num_samples,
                                int32_t num_terms, struct hlm_arena *arena);

/* The linear GEMM curve of one layout from the samples that have it; false without any. */
bool hlm_fit_gemm(struct hlm_arena *arena, const struct hlm_profiler_sample *samples,
                  int32_t num_samples, enum hlm_gemm_layout layout, struct hlm_gemm_curve *out);

/* The attention curve of one pass, mask and choice of probabilities (device.h), with the terms
 * heads, flops, flops / seq_len (what a block of queries computes beyond the mask) and scores;
 * false without any sample. */
struct hlm_fit_attention_key {
    bool backward, causal, keeps_probs;
};
bool hlm_fit_attention(struct hlm_arena *arena, const struct hlm_profiler_sample *samples,
                       int32_t num_samples, struct hlm_fit_attention_key key,
                       struct hlm_attention_curve *out);

/* The curve of one memory-bound operator by its key (hlm_kernel_curve_key); samples whose bytes
 * are within a quarter of each other become one point, their geometric mean. False without any. */
bool hlm_fit_op_curve(struct hlm_arena *arena, const struct hlm_profiler_sample *samples,
                      int32_t num_samples, const char *key, struct hlm_op_curve *out);

/* Median of values, which are sorted by it. num >= 1; of an even number the upper one. */
double hlm_fit_median(double *values, int32_t num);

#endif
