/* gemm_lt: matrix products through cuBLASLt, with descriptors and the algorithm kept per shape.
 *
 * At the first product of a shape the library is asked for its eight best suggestions, each is
 * timed five times on the operands at hand, and the one with the least median is kept (as NVIDIA's
 * sample LtSgemmSimpleAutoTuning does): the first step of a run is slower and not representative.
 * Products that accumulate are timed into memory of their own, so that c is added to once; where
 * there is none left, the first suggestion is taken. */
#ifndef HLM_EXEC_CUDA_GEMM_LT_H
#define HLM_EXEC_CUDA_GEMM_LT_H

#include <cuda_runtime_api.h>
#include <library_types.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "costmodel/op.h"

/* What Hopper's algorithms want; older devices need 4 MiB. */
enum { HLM_CUDA_WORKSPACE_BYTES = 32 << 20 };

struct hlm_cuda_lt;

/* c[m, n] = a b (+ c when accumulate) by layout (HLM_OP_GEMM), all row-major on the device. */
struct hlm_cuda_product {
    enum hlm_gemm_layout layout;
    int64_t m, n, k;
    bool accumulate;
    bool tf32;                   /* fp32 operands may be cut to tf32 */
    cudaDataType_t type, c_type; /* of a and b; of c. Sums are fp32. */
    const void *a, *b;
    void *c;
    void *workspace; /* HLM_CUDA_WORKSPACE_BYTES */
    cudaStream_t stream;
};

/* timed: choose by timing, else the library's first suggestion. HLM_ENV: the library can't work. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_lt_new(bool timed, struct hlm_cuda_lt **out,
                                               struct hlm_err *err);
void hlm_cuda_lt_free(struct hlm_cuda_lt *lt); /* NULL accepted */

HLM_MUST_CHECK enum hlm_status hlm_cuda_lt_multiply(struct hlm_cuda_lt *lt,
                                                    const struct hlm_cuda_product *product,
                                                    struct hlm_err *err);

int64_t hlm_cuda_lt_version(void);

#endif
