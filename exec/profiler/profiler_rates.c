#include "exec/profiler/profiler_rates.h"

#include <math.h>

static bool is_attention(const struct hlm_op *op)
{
    return op->kind == HLM_OP_ATTENTION_FWD || op->kind == HLM_OP_ATTENTION_BWD;
}

static double *rate_of(struct hlm_profiler_rates *rates, const struct hlm_profiler_case *what)
{
    if (what->is_copy) {
        return &rates->copy;
    }
    if (is_attention(&what->op)) {
        return &rates->attention[what->op.dtype];
    }
    return what->op.kind == HLM_OP_GEMM ? &rates->product[what->op.dtype]
                                        : &rates->memory[what->op.kind];
}

static double work_of(const struct hlm_profiler_case *what)
{
    return !what->is_copy && what->op.flops > 0.0 ? what->op.flops : what->op.bytes;
}

void hlm_profiler_rates_learn(struct hlm_profiler_rates *rates,
                              const struct hlm_profiler_case *what, double seconds)
{
    double *rate = rate_of(rates, what);
    *rate = fmax(*rate, work_of(what) / seconds);
}

/* A kind that was not seen yet is taken for the slowest of those that were, a flop as a byte. */
static double slowest_memory(const struct hlm_profiler_rates *rates)
{
    double slowest = rates->copy;
    for (int32_t kind = 0; kind < HLM_NUM_OPS; kind++) {
        if (rates->memory[kind] > 0.0) {
            slowest = fmin(slowest, rates->memory[kind]);
        }
    }
    return slowest;
}

double hlm_profiler_rates_foretell_s(const struct hlm_profiler_rates *rates,
                                     const struct hlm_profiler_case *what)
{
    struct hlm_profiler_rates known = *rates;
    const double rate = *rate_of(&known, what);
    const double usual = rate > 0.0 ? rate : slowest_memory(rates);
    return work_of(what) / fmax(usual, 1.0);
}
