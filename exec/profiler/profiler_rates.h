/* profiler_rates: how long an operator will take on a device of which some were measured: so that a
 * measurement that would not fit into a budget is not begun. Pure.
 *
 * A kind's best rate so far holds: flops per second of products and of attention by dtype, bytes
 * per second of every other kind. So small cases come first, and larger ones of the same kind are
 * foretold too long rather than too short, since rates grow with size.
 */
#ifndef HLM_EXEC_PROFILER_RATES_H
#define HLM_EXEC_PROFILER_RATES_H

#include "exec/profiler/profiler_bench.h"

/* Zeros: nothing is known. */
struct hlm_profiler_rates {
    double product[HLM_NUM_DTYPES], attention[HLM_NUM_DTYPES]; /* flops/s */
    double memory[HLM_NUM_OPS], copy;                          /* bytes/s */
};

/* A launch of the case took this long. */
void hlm_profiler_rates_learn(struct hlm_profiler_rates *rates,
                              const struct hlm_profiler_case *what, double seconds);

/* Seconds of one launch. */
double hlm_profiler_rates_foretell_s(const struct hlm_profiler_rates *rates,
                                     const struct hlm_profiler_case *what);

#endif
