/* gemm_lt: matrix products through cuBLASLt, with descriptors and the algorithm kept per shape.
 *
 * At the first product of a shape the library is asked for its eight best suggestions, each is
 * timed five times on the operands at hand, and the one with the least median is kept (as NVIDIA's
 * sample LtSgemmSimpleAutoTuning does): the first step of a run is slower and not representative.
 * Timed products write into memory of their own, so that nothing of the caller's changes; where
 * there is none left, the first suggestion is taken. Choices of an earlier backend may be handed
 * over (hlm_cuda_lt_use_choices); shapes among them are not timed.
 *
 * A product may do what follows it as well: the epilogues of exec/cuda/module.h. These have plans
 * of their own, which exec/cuda/fuse.h finds, judges and uses. */
#ifndef HLM_EXEC_CUDA_GEMM_LT_H
#define HLM_EXEC_CUDA_GEMM_LT_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "exec/cuda/module.h"

/* What Hopper's algorithms want; older devices need 4 MiB. */
enum { HLM_CUDA_WORKSPACE_BYTES = 32 << 20 };

struct hlm_cuda_lt;

/* With p = a b by layout (HLM_OP_GEMM), all row-major on the device, x = p + c where the shape
 * accumulates or has a residual, else p:
 *   NONE, RESIDUAL          result = x
 *   BIAS, RESIDUAL_BIAS     result = x + bias [n]
 *   GELU..., with BIAS      result = gelu(x + bias); AUX: aux = x + bias
 *   DGELU                   result = x gelu'(aux)
 *   BGRAD (NT)              result = x; bias [m] = sums of a [k, m] over k
 * aux has c's type and shape, bias the type of the result. */
struct hlm_cuda_product {
    struct hlm_cuda_shape shape; /* but for alignment, which is set by the addresses */
    const void *a, *b, *c;
    void *result; /* c or apart from it */
    void *bias, *aux;
    void *workspace; /* HLM_CUDA_WORKSPACE_BYTES */
    cudaStream_t stream;
    bool captured; /* the stream is: only what was chosen before may run */
};

/* A product of one shape; lives as long as the lt. */
struct hlm_cuda_lt_plan {
    struct hlm_cuda_choice choice;
    /* Whether an algorithm is there: never false for products without an epilogue. */
    bool works;
    bool judged; /* choice.fused is known, false at first for products with an epilogue */
    struct hlm_cuda_lt_description *description;
};

/* timed: choose by timing, else the library's first suggestion. HLM_ENV: the library can't work. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_lt_new(bool timed, struct hlm_cuda_lt **out,
                                               struct hlm_err *err);
void hlm_cuda_lt_free(struct hlm_cuda_lt *lt); /* NULL accepted */
bool hlm_cuda_lt_is_timed(const struct hlm_cuda_lt *lt);

/* The plan of a product, made at its first time. HLM_ENV: no algorithm (products without an
 * epilogue). HLM_FAILED: it is captured and not yet made. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_lt_find(struct hlm_cuda_lt *lt,
                                                const struct hlm_cuda_product *product,
                                                struct hlm_cuda_lt_plan **out, struct hlm_err *err);

/* Runs a product by its plan, which works. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_lt_run(struct hlm_cuda_lt *lt,
                                               const struct hlm_cuda_lt_plan *plan,
                                               const struct hlm_cuda_product *product,
                                               struct hlm_err *err);

/* Finds and runs one without an epilogue. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_lt_multiply(struct hlm_cuda_lt *lt,
                                                    const struct hlm_cuda_product *product,
                                                    struct hlm_err *err);

/* The list of what was chosen; the other fields of *out are not touched. */
void hlm_cuda_lt_choices(const struct hlm_cuda_lt *lt, struct hlm_arena *arena,
                         struct hlm_cuda_choices *out);

/* Keeps a copy of the list for shapes that are used from now on. HLM_ENV: no memory. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_lt_use_choices(struct hlm_cuda_lt *lt,
                                                       const struct hlm_cuda_choices *choices,
                                                       struct hlm_err *err);

int64_t hlm_cuda_lt_version(void);

/* Bytes of an element of a shape's factors and of its result. */
int64_t hlm_cuda_factor_bytes(const struct hlm_cuda_shape *shape);
int64_t hlm_cuda_result_bytes(const struct hlm_cuda_shape *shape);

#endif
