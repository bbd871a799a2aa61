/* cuBLASLt thinks in column-major matrices. A row-major matrix is the column-major one of its
 * transpose, so c = a b is asked for as c^T = b^T a^T: b is the library's A, a its B. A bias over
 * our columns is one over its rows, as its epilogues have it. */
#include "exec/cuda/gemm_lt_internal.h"

static const struct epilogue {
    cublasLtEpilogue_t of_library;
    bool has_bias, has_aux;
} epilogues[HLM_NUM_CUDA_EPILOGUES] = {
    [HLM_CUDA_EPILOGUE_NONE] = {CUBLASLT_EPILOGUE_DEFAULT, false, false},
    [HLM_CUDA_EPILOGUE_BIAS] = {CUBLASLT_EPILOGUE_BIAS, true, false},
    [HLM_CUDA_EPILOGUE_GELU] = {CUBLASLT_EPILOGUE_GELU, false, false},
    [HLM_CUDA_EPILOGUE_GELU_BIAS] = {CUBLASLT_EPILOGUE_GELU_BIAS, true, false},
    [HLM_CUDA_EPILOGUE_GELU_AUX] = {CUBLASLT_EPILOGUE_GELU_AUX, false, true},
    [HLM_CUDA_EPILOGUE_GELU_AUX_BIAS] = {CUBLASLT_EPILOGUE_GELU_AUX_BIAS, true, true},
    [HLM_CUDA_EPILOGUE_RESIDUAL] = {CUBLASLT_EPILOGUE_DEFAULT, false, false},
    [HLM_CUDA_EPILOGUE_RESIDUAL_BIAS] = {CUBLASLT_EPILOGUE_BIAS, true, false},
    [HLM_CUDA_EPILOGUE_DGELU] = {CUBLASLT_EPILOGUE_DGELU, false, true},
    [HLM_CUDA_EPILOGUE_BGRAD] = {CUBLASLT_EPILOGUE_BGRADB, true, false},
};

enum hlm_status hlm_cuda_lt_check(cublasStatus_t status, const char *what, struct hlm_err *err)
{
    if (status == CUBLAS_STATUS_SUCCESS) {
        return HLM_OK;
    }
    const bool environment =
        status == CUBLAS_STATUS_NOT_INITIALIZED || status == CUBLAS_STATUS_ALLOC_FAILED ||
        status == CUBLAS_STATUS_ARCH_MISMATCH || status == CUBLAS_STATUS_NOT_SUPPORTED;
    return hlm_fail(err, environment ? HLM_ENV : HLM_FAILED, "cuBLASLt: %s: %s (%d)", what,
                    cublasLtGetStatusName(status), (int)status);
}

static cudaDataType_t factor_type(const struct hlm_cuda_shape *shape)
{
    return shape->dtype == HLM_DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cudaDataType_t result_type(const struct hlm_cuda_shape *shape)
{
    return shape->fp32_result ? CUDA_R_32F : factor_type(shape);
}

static enum hlm_status set_attribute(const struct hlm_cuda_lt_description *description,
                                     cublasLtMatmulDescAttributes_t attribute, const void *value,
                                     size_t bytes, struct hlm_err *err)
{
    return hlm_cuda_lt_check(
        cublasLtMatmulDescSetAttribute(description->product, attribute, value, bytes),
        "cublasLtMatmulDescSetAttribute", err);
}

/* As stored, row-major: [rows, cols]. */
static enum hlm_status describe_matrix(cublasLtMatrixLayout_t *out, cudaDataType_t type,
                                       int64_t rows, int64_t cols, struct hlm_err *err)
{
    return hlm_cuda_lt_check(
        cublasLtMatrixLayoutCreate(out, type, (uint64_t)cols, (uint64_t)rows, cols),
        "cublasLtMatrixLayoutCreate", err);
}

static enum hlm_status set_transposes(const struct hlm_cuda_lt_description *description, bool of_a,
                                      bool of_b, struct hlm_err *err)
{
    const cublasOperation_t first = of_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = of_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    HLM_TRY(set_attribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first, err));
    return set_attribute(description, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second, err);
}

static enum hlm_status set_epilogue(const struct hlm_cuda_lt_description *description,
                                    const struct hlm_cuda_shape *shape, struct hlm_err *err)
{
    const struct epilogue *epilogue = &epilogues[shape->epilogue];
    const cublasLtEpilogue_t value = epilogue->of_library;
    HLM_TRY(set_attribute(description, CUBLASLT_MATMUL_DESC_EPILOGUE, &value, sizeof value, err));
    return epilogue->has_aux ? set_attribute(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD,
                                             &shape->n, sizeof shape->n, err)
                             : HLM_OK;
}

enum hlm_status hlm_cuda_lt_point(const struct hlm_cuda_lt_description *description,
                                  const struct hlm_cuda_product *product, struct hlm_err *err)
{
    const struct epilogue *epilogue = &epilogues[product->shape.epilogue];
    if (epilogue->has_bias) {
        HLM_TRY(set_attribute(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &product->bias,
                              sizeof product->bias, err));
    }
    return epilogue->has_aux ? set_attribute(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER,
                                             &product->aux, sizeof product->aux, err)
                             : HLM_OK;
}

/* NT: a is stored [k, m]; TN: b is stored [n, k]. */
enum hlm_status hlm_cuda_lt_describe(struct hlm_cuda_lt_description *description,
                                     const struct hlm_cuda_product *product, struct hlm_err *err)
{
    const struct hlm_cuda_shape *s = &product->shape;
    const bool of_a = s->layout == HLM_GEMM_NT, of_b = s->layout == HLM_GEMM_TN;
    const cudaDataType_t type = factor_type(s);
    const cublasComputeType_t compute =
        s->dtype == HLM_DTYPE_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    HLM_TRY(hlm_cuda_lt_check(cublasLtMatmulDescCreate(&description->product, compute, CUDA_R_32F),
                              "cublasLtMatmulDescCreate", err));
    HLM_TRY(set_transposes(description, of_a, of_b, err));
    HLM_TRY(set_epilogue(description, s, err));
    HLM_TRY(hlm_cuda_lt_point(description, product, err));
    HLM_TRY(describe_matrix(&description->a, type, of_a ? s->k : s->m, of_a ? s->m : s->k, err));
    HLM_TRY(describe_matrix(&description->b, type, of_b ? s->n : s->k, of_b ? s->k : s->n, err));
    return describe_matrix(&description->c, result_type(s), s->m, s->n, err);
}

void hlm_cuda_lt_description_release(struct hlm_cuda_lt_description *description)
{
    cublasLtMatrixLayout_t const layouts[] = {description->a, description->b, description->c};
    for (int i = 0; i < 3; i++) {
        if (layouts[i] != NULL) {
            cublasLtMatrixLayoutDestroy(layouts[i]);
        }
    }
    if (description->product != NULL) {
        cublasLtMatmulDescDestroy(description->product);
    }
}

/* --- algorithms --- */

static enum hlm_status set_preference(cublasLtMatmulPreference_t preference,
                                      cublasLtMatmulPreferenceAttributes_t attribute,
                                      const void *value, size_t bytes, struct hlm_err *err)
{
    return hlm_cuda_lt_check(
        cublasLtMatmulPreferenceSetAttribute(preference, attribute, value, bytes),
        "cublasLtMatmulPreferenceSetAttribute", err);
}

static enum hlm_status set_preferences(cublasLtMatmulPreference_t preference,
                                       const struct hlm_cuda_shape *shape, struct hlm_err *err)
{
    const uint64_t workspace = HLM_CUDA_WORKSPACE_BYTES;
    const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* parts are added in fp32 */
    HLM_TRY(set_preference(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction,
                           sizeof reduction, err));
    HLM_TRY(set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                           sizeof workspace, err));
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        int operand;
    } alignments[] = {
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 1},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, 0},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, 2},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, 2},
    };
    for (int i = 0; i < 4; i++) {
        const uint32_t alignment = (uint32_t)shape->alignment[alignments[i].operand];
        HLM_TRY(
            set_preference(preference, alignments[i].attribute, &alignment, sizeof alignment, err));
    }
    return HLM_OK;
}

/* How the library says that it has nothing; of an epilogue it may also not know the combination. */
static bool says_none(cublasStatus_t status, const struct hlm_cuda_shape *shape)
{
    return status == CUBLAS_STATUS_NOT_SUPPORTED ||
           (status == CUBLAS_STATUS_INVALID_VALUE && shape->epilogue != HLM_CUDA_EPILOGUE_NONE);
}

static enum hlm_status ask_with(cublasLtHandle_t handle,
                                const struct hlm_cuda_lt_description *description,
                                const struct hlm_cuda_shape *shape,
                                cublasLtMatmulPreference_t preference,
                                struct hlm_cuda_lt_candidates *out, struct hlm_err *err)
{
    int num = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, description->product, description->b, description->a, description->c,
        description->c, preference, HLM_CUDA_NUM_CANDIDATES, out->at, &num);
    out->num = status == CUBLAS_STATUS_SUCCESS ? num : 0;
    return says_none(status, shape)
               ? HLM_OK
               : hlm_cuda_lt_check(status, "cublasLtMatmulAlgoGetHeuristic", err);
}

enum hlm_status hlm_cuda_lt_ask(cublasLtHandle_t handle,
                                const struct hlm_cuda_lt_description *description,
                                const struct hlm_cuda_shape *shape,
                                struct hlm_cuda_lt_candidates *out, struct hlm_err *err)
{
    cublasLtMatmulPreference_t preference = NULL;
    HLM_TRY(hlm_cuda_lt_check(cublasLtMatmulPreferenceCreate(&preference),
                              "cublasLtMatmulPreferenceCreate", err));
    enum hlm_status status = set_preferences(preference, shape, err);
    if (status == HLM_OK) {
        status = ask_with(handle, description, shape, preference, out, err);
    }
    cublasLtMatmulPreferenceDestroy(preference);
    return status;
}

bool hlm_cuda_lt_accepts(cublasLtHandle_t handle, const struct hlm_cuda_lt_description *description,
                         const cublasLtMatmulAlgo_t *algorithm)
{
    cublasLtMatmulHeuristicResult_t result;
    return cublasLtMatmulAlgoCheck(handle, description->product, description->b, description->a,
                                   description->c, description->c, algorithm,
                                   &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= HLM_CUDA_WORKSPACE_BYTES;
}

static bool has_residual(const struct hlm_cuda_shape *shape)
{
    return shape->epilogue == HLM_CUDA_EPILOGUE_RESIDUAL ||
           shape->epilogue == HLM_CUDA_EPILOGUE_RESIDUAL_BIAS;
}

cublasStatus_t hlm_cuda_lt_call(cublasLtHandle_t handle,
                                const struct hlm_cuda_lt_description *description,
                                const struct hlm_cuda_product *p,
                                const cublasLtMatmulAlgo_t *algorithm)
{
    const float one = 1.0f, keep = p->shape.accumulate || has_residual(&p->shape) ? 1.0f : 0.0f;
    return cublasLtMatmul(handle, description->product, &one, p->b, description->b, p->a,
                          description->a, &keep, p->c, description->c, p->result, description->c,
                          algorithm, p->workspace, HLM_CUDA_WORKSPACE_BYTES, p->stream);
}
