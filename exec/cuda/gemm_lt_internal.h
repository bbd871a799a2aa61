/* What the files of gemm_lt share: how a product is described to the library, and which algorithms
 * it suggests. */
#ifndef HLM_EXEC_CUDA_GEMM_LT_INTERNAL_H
#define HLM_EXEC_CUDA_GEMM_LT_INTERNAL_H

#include <cublasLt.h>

#include "exec/cuda/gemm_lt.h"

enum { HLM_CUDA_NUM_CANDIDATES = 8 };

/* a, b, c as stored here, row-major; result has the layout of c. */
struct hlm_cuda_lt_description {
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, c;
};

struct hlm_cuda_lt_candidates {
    cublasLtMatmulHeuristicResult_t at[HLM_CUDA_NUM_CANDIDATES];
    int num;
};

HLM_MUST_CHECK enum hlm_status hlm_cuda_lt_check(cublasStatus_t status, const char *what,
                                                 struct hlm_err *err);

/* Released by the other function, also after a failure. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_lt_describe(struct hlm_cuda_lt_description *description,
                                                    const struct hlm_cuda_product *product,
                                                    struct hlm_err *err);
void hlm_cuda_lt_description_release(struct hlm_cuda_lt_description *description);

/* The product's addresses of bias and aux, which the description holds. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_lt_point(const struct hlm_cuda_lt_description *description,
                                                 const struct hlm_cuda_product *product,
                                                 struct hlm_err *err);

/* The library's suggestions, best first; num 0: it has none. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_lt_ask(cublasLtHandle_t handle,
                                               const struct hlm_cuda_lt_description *description,
                                               const struct hlm_cuda_shape *shape,
                                               struct hlm_cuda_lt_candidates *out,
                                               struct hlm_err *err);

/* Whether the library takes a kept algorithm for this product. */
bool hlm_cuda_lt_accepts(cublasLtHandle_t handle, const struct hlm_cuda_lt_description *description,
                         const cublasLtMatmulAlgo_t *algorithm);

cublasStatus_t hlm_cuda_lt_call(cublasLtHandle_t handle,
                                const struct hlm_cuda_lt_description *description,
                                const struct hlm_cuda_product *product,
                                const cublasLtMatmulAlgo_t *algorithm);

/* The fastest of several suggestions and its median time; 0 and 0 s where they can't be timed. */
int hlm_cuda_lt_fastest(cublasLtHandle_t handle, const struct hlm_cuda_lt_description *description,
                        const struct hlm_cuda_product *product,
                        const struct hlm_cuda_lt_candidates *candidates, double *time_s);

#endif
