/* profiler_cases: what is measured on a device that runs behind the host: a list of operators with
 * shapes, the most valuable ones first.
 *
 * Products: the shapes of transformer layers (models of 125 million to 70 billion parameters, whole
 * and under tensor parallelism) for 1024 to 8192 tokens, forward (tn), input gradient (nn) and
 * weight gradient (nt, added to fp32); among them widths that leave waves of tiles half empty.
 * Attention: causal and full, heads of 64 and 128, grouped and not, 256 to 16384 tokens, few and
 * many heads at once. Everything else: the operators of the blocks of four kinds of models
 * (profiler_model.h), each at several sizes; the optimizer; device copies. Small ones are among all
 * of them, so that a slow device (an emulated one) has a profile too.
 */
#ifndef HLM_EXEC_PROFILER_CASES_H
#define HLM_EXEC_PROFILER_CASES_H

#include "base/arena.h"
#include "exec/profiler/profiler_bench.h"

enum { HLM_PROFILER_NUM_TIERS = 4 };

struct hlm_profiler_cases {
    const struct hlm_profiler_case *list; /* ascending tiers */
    int32_t num;
};

/* For the dtypes that the executor's CUDA backend runs: bf16, and fp32 for fewer shapes; operators
 * bound by memory in bf16 only, since bytes decide. HLM_NO, HLM_ENV: as hlm_lowering_block. */
HLM_MUST_CHECK enum hlm_status hlm_profiler_cases_make(struct hlm_arena *arena,
                                                       struct hlm_profiler_cases *out,
                                                       struct hlm_err *err);

/* One product c[m,n] by layout (op.h); accumulate: added to an fp32 result. */
struct hlm_profiler_case hlm_profiler_product(enum hlm_dtype dtype, enum hlm_gemm_layout layout,
                                              int64_t m, int64_t n, int64_t k, bool accumulate);

struct hlm_profiler_attention {
    int32_t batch, heads, kv_heads;
    int64_t seq_len, head_dim;
    bool causal, backward;
};
struct hlm_profiler_case hlm_profiler_attention(enum hlm_dtype dtype,
                                                const struct hlm_profiler_attention *shape);

/* out = a + b of fp32 vectors. */
struct hlm_profiler_case hlm_profiler_sum(int64_t elements);

/* What a case counts among in tables: "bf16 products tn", "bf16 attention forward causal", or its
 * curve's key (hlm_kernel_curve_key). */
const char *hlm_profiler_case_family(struct hlm_arena *arena, const struct hlm_profiler_case *what);

#endif
