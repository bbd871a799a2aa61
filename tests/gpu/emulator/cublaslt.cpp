/* NVIDIA's matrix library, as far as exec/cuda calls it. Matrices are column-major. */
#include <cmath>
#include <cstring>

#include "cublasLt.h"
#include "cuda_bf16.h"
#include "emulator.h"

extern "C" {

struct emulated_lt {
    int unused;
};
struct emulated_lt_product {
    cublasOperation_t of_a, of_b;
    cublasLtEpilogue_t epilogue;
    void *bias, *aux;
    int64_t aux_ld;
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
    *out = new emulated_lt_product{CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT,
                                   nullptr,     nullptr,     0};
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
    const struct {
        cublasLtMatmulDescAttributes_t attribute;
        void *to;
        size_t bytes;
    } attributes[] = {
        {CUBLASLT_MATMUL_DESC_TRANSA, &product->of_a, sizeof product->of_a},
        {CUBLASLT_MATMUL_DESC_TRANSB, &product->of_b, sizeof product->of_b},
        {CUBLASLT_MATMUL_DESC_EPILOGUE, &product->epilogue, sizeof product->epilogue},
        {CUBLASLT_MATMUL_DESC_BIAS_POINTER, &product->bias, sizeof product->bias},
        {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &product->aux, sizeof product->aux},
        {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &product->aux_ld, sizeof product->aux_ld},
    };
    for (const auto &known : attributes) {
        if (known.attribute == attribute && known.bytes == bytes) {
            std::memcpy(known.to, value, bytes);
            return CUBLAS_STATUS_SUCCESS;
        }
    }
    return CUBLAS_STATUS_INVALID_VALUE;
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

static bool has(const emulated_lt_product *product, int flag)
{
    return product->epilogue != CUBLASLT_EPILOGUE_DEFAULT && (product->epilogue & flag) != 0;
}

/* BGRADB writes its sums to the bias. */
static bool has_bias(const emulated_lt_product *product)
{
    return has(product, CUBLASLT_EPILOGUE_BIAS) || product->epilogue == CUBLASLT_EPILOGUE_BGRADB;
}

constexpr int AUX = 128;

/* Whether the shapes belong together, and what an epilogue needs is there. */
static bool is_valid(const emulated_lt_product *product, const emulated_lt_matrix *a,
                     const emulated_lt_matrix *b, const emulated_lt_matrix *c,
                     const emulated_lt_matrix *d)
{
    const int64_t m = product->of_a == CUBLAS_OP_N ? a->rows : a->cols;
    const int64_t k = product->of_a == CUBLAS_OP_N ? a->cols : a->rows;
    const int64_t k2 = product->of_b == CUBLAS_OP_N ? b->rows : b->cols;
    const int64_t n = product->of_b == CUBLAS_OP_N ? b->cols : b->rows;
    const bool fits = k == k2 && m == c->rows && n == c->cols && c->type == d->type &&
                      a->type == b->type && c->rows == d->rows && c->cols == d->cols;
    const bool biased =
        !has_bias(product) ||
        (product->bias != nullptr && reinterpret_cast<uintptr_t>(product->bias) % 16 == 0);
    const bool kept = !has(product, AUX) || (product->aux != nullptr && product->aux_ld >= m &&
                                             product->aux_ld % 8 == 0 &&
                                             reinterpret_cast<uintptr_t>(product->aux) % 16 == 0);
    return fits && biased && kept;
}

/* An algorithm here is the alignments of a, b, c, d that it may rely on, and the epilogue. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t product,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t *results, int *num)
{
    if (!is_valid(product, a, b, c, d)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    *num = most < 3 ? most : 3;
    for (int i = 0; i < *num; i++) {
        results[i] = {};
        for (int j = 0; j < 4; j++) {
            results[i].algo.data[j] =
                preference->alignment[CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + j];
        }
        results[i].algo.data[4] = static_cast<uint64_t>(product->epilogue);
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t product,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    *result = {};
    return is_valid(product, a, b, c, d) && algo->data[0] != 0 &&
                   algo->data[4] == static_cast<uint64_t>(product->epilogue)
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_INVALID_VALUE;
}

static float number_at(const void *data, cudaDataType_t type, int64_t i)
{
    return type == CUDA_R_32F ? static_cast<const float *>(data)[i]
                              : __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[i]);
}

static void set_number(void *data, cudaDataType_t type, int64_t i, float value)
{
    if (type == CUDA_R_32F) {
        static_cast<float *>(data)[i] = value;
    } else {
        static_cast<__nv_bfloat16 *>(data)[i] = __float2bfloat16_rn(value);
    }
}

static float element(const void *matrix, const emulated_lt_matrix &layout, int64_t row, int64_t col)
{
    return number_at(matrix, layout.type, col * layout.ld + row);
}

/* The tanh form and its derivative. */
static float gelu(float x)
{
    return 0.5f * x * (1.0f + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
}

static float gelu_derivative(float x)
{
    const float t = std::tanh(0.79788456f * (x + 0.044715f * x * x * x));
    return 0.5f * (1.0f + t) +
           0.5f * x * (1.0f - t * t) * 0.79788456f * (1.0f + 3.0f * 0.044715f * x * x);
}

/* One call, with all that it depends on: a captured one runs when the caller's are gone. */
struct matmul {
    emulated_lt_product product;
    emulated_lt_matrix a_layout, b_layout, c_layout, d_layout;
    const void *a, *b, *c;
    void *d;
    float factor, keep;

    float a_at(int64_t row, int64_t k) const
    {
        return product.of_a == CUBLAS_OP_T ? element(a, a_layout, k, row)
                                           : element(a, a_layout, row, k);
    }
    float b_at(int64_t k, int64_t col) const
    {
        return product.of_b == CUBLAS_OP_T ? element(b, b_layout, col, k)
                                           : element(b, b_layout, k, col);
    }
    int64_t depth() const
    {
        return product.of_a == CUBLAS_OP_T ? a_layout.rows : a_layout.cols;
    }
    float finish(float x, int64_t row, int64_t col) const
    {
        const int64_t at = col * product.aux_ld + row;
        x += has(&product, CUBLASLT_EPILOGUE_BIAS) ? number_at(product.bias, d_layout.type, row)
                                                   : 0.0f;
        if (has(&product, CUBLASLT_EPILOGUE_GELU)) {
            if (has(&product, AUX)) {
                set_number(product.aux, d_layout.type, at, x);
            }
            return gelu(x);
        }
        return product.epilogue == CUBLASLT_EPILOGUE_DGELU
                   ? x * gelu_derivative(number_at(product.aux, d_layout.type, at))
                   : x;
    }
    void sum_columns() const
    {
        for (int64_t col = 0; col < d_layout.cols; col++) {
            float sum = 0.0f;
            for (int64_t k = 0; k < depth(); k++) {
                sum += b_at(k, col);
            }
            set_number(product.bias, d_layout.type, col, sum);
        }
    }
    void run() const
    {
        for (int64_t col = 0; col < d_layout.cols; col++) {
            for (int64_t row = 0; row < d_layout.rows; row++) {
                float sum = 0.0f;
                for (int64_t k = 0; k < depth(); k++) {
                    sum += a_at(row, k) * b_at(k, col);
                }
                const float before = keep != 0.0f ? keep * element(c, c_layout, row, col) : 0.0f;
                set_number(d, d_layout.type, col * d_layout.ld + row,
                           finish(factor * sum + before, row, col));
            }
        }
        if (product.epilogue == CUBLASLT_EPILOGUE_BGRADB) {
            sum_columns();
        }
    }
};

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t product, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                              void *, size_t, cudaStream_t stream)
{
    const void *const pointers[] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        if (algo->data[i] == 0 || reinterpret_cast<uintptr_t>(pointers[i]) % algo->data[i] != 0) {
            return CUBLAS_STATUS_INVALID_VALUE;
        }
    }
    if (algo->data[4] != static_cast<uint64_t>(product->epilogue) ||
        !is_valid(product, a_layout, b_layout, c_layout, d_layout)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    const matmul call = {*product,
                         *a_layout,
                         *b_layout,
                         *c_layout,
                         *d_layout,
                         a,
                         b,
                         c,
                         d,
                         *static_cast<const float *>(alpha),
                         *static_cast<const float *>(beta)};
    emulated_put(stream, [call] { call.run(); });
    return CUBLAS_STATUS_SUCCESS;
}

} // extern "C"
