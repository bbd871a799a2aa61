/* NVIDIA's runtime and its matrix library, as far as exec/cuda calls them: everything happens at
 * the call. */
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <time.h>

#include "cublasLt.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

struct emulated_stream {
    int unused;
};
struct emulated_event {
    double seconds;
};

static double now_s()
{
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/* Memory like the device's: aligned to 256 bytes, and nobody has cleared it. */
static cudaError_t make_memory(void **out, size_t bytes)
{
    const size_t size = (bytes + 255) / 256 * 256;
    void *memory = bytes > (static_cast<size_t>(1) << 40) ? nullptr : std::aligned_alloc(256, size);
    if (memory == nullptr) {
        return cudaErrorMemoryAllocation;
    }
    std::memset(memory, 0xFF, size);
    *out = memory;
    return cudaSuccess;
}

extern "C" {

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
#define X(name, number)                                                                            \
    case name:                                                                                     \
        return #name;
        EMULATED_ERROR_MAP(X)
#undef X
    }
    return "unknown";
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorMemoryAllocation ? "out of memory" : cudaGetErrorName(error);
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int)
{
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : 4;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    return make_memory(out, bytes);
}

cudaError_t cudaFree(void *memory)
{
    std::free(memory);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned)
{
    return make_memory(out, bytes);
}

cudaError_t cudaFreeHost(void *memory)
{
    std::free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind,
                            cudaStream_t)
{
    std::memmove(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind, cudaStream_t)
{
    if (width > to_pitch || width > from_pitch) {
        return cudaErrorInvalidValue;
    }
    for (size_t row = 0; row < height; row++) {
        std::memcpy(static_cast<char *>(to) + row * to_pitch,
                    static_cast<const char *>(from) + row * from_pitch, width);
    }
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t)
{
    std::memset(memory, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned)
{
    *out = new emulated_stream();
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t)
{
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned)
{
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    *out = new emulated_event();
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned)
{
    return cudaEventCreate(out);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t)
{
    event->seconds = now_s();
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t)
{
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t)
{
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end)
{
    *milliseconds = static_cast<float>(1e3 * (end->seconds - begin->seconds));
    return cudaSuccess;
}

/* --- matrix products, column-major --- */

struct emulated_lt {
    int unused;
};
struct emulated_lt_product {
    cublasOperation_t of_a, of_b;
};
struct emulated_lt_matrix {
    cudaDataType_t type;
    int64_t rows, cols, ld;
};
struct emulated_lt_preference {
    uint32_t alignment[9]; /* by attribute */
};

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS ? "CUBLAS_STATUS_SUCCESS"
                                           : "CUBLAS_STATUS_INVALID_VALUE";
}

size_t cublasLtGetVersion(void)
{
    return 130000;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out)
{
    *out = new emulated_lt();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType_t type,
                                          uint64_t rows, uint64_t cols, int64_t ld)
{
    *out = new emulated_lt_matrix{type, static_cast<int64_t>(rows), static_cast<int64_t>(cols), ld};
    return ld >= (*out)->rows ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t,
                                        cudaDataType_t)
{
    *out = new emulated_lt_product{CUBLAS_OP_N, CUBLAS_OP_N};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t product)
{
    delete product;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes)
{
    cublasOperation_t *to =
        attribute == CUBLASLT_MATMUL_DESC_TRANSA ? &product->of_a : &product->of_b;
    std::memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    *out = new emulated_lt_preference();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes)
{
    if (bytes == sizeof preference->alignment[0]) {
        std::memcpy(&preference->alignment[attribute], value, bytes);
    }
    return CUBLAS_STATUS_SUCCESS;
}

/* An algorithm here is the alignments of a, b, c, d that it may rely on. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t product,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t *results, int *num)
{
    const int64_t m = product->of_a == CUBLAS_OP_N ? a->rows : a->cols;
    const int64_t k = product->of_a == CUBLAS_OP_N ? a->cols : a->rows;
    const int64_t k2 = product->of_b == CUBLAS_OP_N ? b->rows : b->cols;
    const int64_t n = product->of_b == CUBLAS_OP_N ? b->cols : b->rows;
    if (k != k2 || m != c->rows || n != c->cols || c->type != d->type || a->type != b->type) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    *num = most < 3 ? most : 3;
    for (int i = 0; i < *num; i++) {
        results[i] = {};
        for (int j = 0; j < 4; j++) {
            results[i].algo.data[j] =
                preference->alignment[CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + j];
        }
    }
    return CUBLAS_STATUS_SUCCESS;
}

static float element(const void *matrix, const emulated_lt_matrix *layout, int64_t row, int64_t col)
{
    const int64_t i = col * layout->ld + row;
    return layout->type == CUDA_R_32F
               ? static_cast<const float *>(matrix)[i]
               : __bfloat162float(static_cast<const __nv_bfloat16 *>(matrix)[i]);
}

static void set_element(void *matrix, const emulated_lt_matrix *layout, int64_t row, int64_t col,
                        float value)
{
    const int64_t i = col * layout->ld + row;
    if (layout->type == CUDA_R_32F) {
        static_cast<float *>(matrix)[i] = value;
    } else {
        static_cast<__nv_bfloat16 *>(matrix)[i] = __float2bfloat16_rn(value);
    }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t product, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                              void *, size_t, cudaStream_t)
{
    const void *const pointers[] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        if (algo->data[i] == 0 || reinterpret_cast<uintptr_t>(pointers[i]) % algo->data[i] != 0) {
            return CUBLAS_STATUS_INVALID_VALUE;
        }
    }
    const bool turn_a = product->of_a == CUBLAS_OP_T, turn_b = product->of_b == CUBLAS_OP_T;
    const int64_t depth = turn_a ? a_layout->rows : a_layout->cols;
    const float factor = *static_cast<const float *>(alpha),
                keep = *static_cast<const float *>(beta);
    for (int64_t col = 0; col < d_layout->cols; col++) {
        for (int64_t row = 0; row < d_layout->rows; row++) {
            float sum = 0.0f;
            for (int64_t k = 0; k < depth; k++) {
                sum += (turn_a ? element(a, a_layout, k, row) : element(a, a_layout, row, k)) *
                       (turn_b ? element(b, b_layout, col, k) : element(b, b_layout, k, col));
            }
            const float before = keep != 0.0f ? keep * element(c, c_layout, row, col) : 0.0f;
            set_element(d, d_layout, row, col, factor * sum + before);
        }
    }
    return CUBLAS_STATUS_SUCCESS;
}

} // extern "C"
