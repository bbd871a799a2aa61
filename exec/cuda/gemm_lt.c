/* cuBLASLt thinks in column-major matrices. A row-major matrix is the column-major one of its
 * transpose, so c = a b is asked for as c^T = b^T a^T: b is the library's A, a its B. */
#include "exec/cuda/gemm_lt.h"

#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

#include "exec/cuda/host.h"

enum { NUM_CANDIDATES = 8, NUM_TIMINGS = 5, MOST_ALIGNMENT = 16 };

/* What the choice of an algorithm depends on. */
struct key {
    enum hlm_gemm_layout layout;
    cudaDataType_t type, c_type;
    bool accumulate, tf32;
    int64_t m, n, k;
    uint32_t alignment[3]; /* of a, b, c in bytes */
};

struct plan {
    struct key key;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
};

struct hlm_cuda_lt {
    cublasLtHandle_t handle;
    bool timed;
    struct plan *plans;
    int32_t num_plans, capacity;
};

static enum hlm_status check(cublasStatus_t status, const char *what, struct hlm_err *err)
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

int64_t hlm_cuda_lt_version(void)
{
    return (int64_t)cublasLtGetVersion();
}

enum hlm_status hlm_cuda_lt_new(bool timed, struct hlm_cuda_lt **out, struct hlm_err *err)
{
    struct hlm_cuda_lt *lt = calloc(1, sizeof *lt);
    if (lt == NULL) {
        return hlm_fail(err, HLM_ENV, "cuda backend: no memory for matrix products");
    }
    lt->timed = timed;
    const enum hlm_status status = check(cublasLtCreate(&lt->handle), "cublasLtCreate", err);
    if (status != HLM_OK) {
        free(lt);
        return status;
    }
    *out = lt;
    return HLM_OK;
}

static void plan_release(struct plan *plan)
{
    cublasLtMatrixLayout_t const layouts[] = {plan->a, plan->b, plan->c};
    for (int i = 0; i < 3; i++) {
        if (layouts[i] != NULL) {
            cublasLtMatrixLayoutDestroy(layouts[i]);
        }
    }
    if (plan->product != NULL) {
        cublasLtMatmulDescDestroy(plan->product);
    }
}

void hlm_cuda_lt_free(struct hlm_cuda_lt *lt)
{
    if (lt == NULL) {
        return;
    }
    for (int32_t i = 0; i < lt->num_plans; i++) {
        plan_release(&lt->plans[i]);
    }
    free(lt->plans);
    cublasLtDestroy(lt->handle);
    free(lt);
}

/* --- descriptions --- */

/* The largest power of two up to 16 that divides the address: parameters lie back to back in their
 * slab, so theirs may be anything. */
static uint32_t alignment_of(const void *pointer)
{
    uint32_t alignment = 1;
    while (alignment < MOST_ALIGNMENT && (uintptr_t)pointer % (2 * alignment) == 0) {
        alignment *= 2;
    }
    return alignment;
}

static struct key key_of(const struct hlm_cuda_product *p)
{
    return (struct key){.layout = p->layout,
                        .type = p->type,
                        .c_type = p->c_type,
                        .accumulate = p->accumulate,
                        .tf32 = p->tf32,
                        .m = p->m,
                        .n = p->n,
                        .k = p->k,
                        .alignment = {alignment_of(p->a), alignment_of(p->b), alignment_of(p->c)}};
}

static bool is_equal(const struct key *a, const struct key *b)
{
    return a->m == b->m && a->n == b->n && a->k == b->k && a->layout == b->layout &&
           a->type == b->type && a->c_type == b->c_type && a->accumulate == b->accumulate &&
           a->tf32 == b->tf32 && memcmp(a->alignment, b->alignment, sizeof a->alignment) == 0;
}

/* As stored, row-major: [rows, cols]. */
static enum hlm_status describe_matrix(cublasLtMatrixLayout_t *out, cudaDataType_t type,
                                       int64_t rows, int64_t cols, struct hlm_err *err)
{
    return check(cublasLtMatrixLayoutCreate(out, type, (uint64_t)cols, (uint64_t)rows, cols),
                 "cublasLtMatrixLayoutCreate", err);
}

static enum hlm_status set_transposes(struct plan *plan, bool of_a, bool of_b, struct hlm_err *err)
{
    const cublasOperation_t first = of_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = of_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    HLM_TRY(check(cublasLtMatmulDescSetAttribute(plan->product, CUBLASLT_MATMUL_DESC_TRANSA, &first,
                                                 sizeof first),
                  "cublasLtMatmulDescSetAttribute", err));
    return check(cublasLtMatmulDescSetAttribute(plan->product, CUBLASLT_MATMUL_DESC_TRANSB, &second,
                                                sizeof second),
                 "cublasLtMatmulDescSetAttribute", err);
}

/* NT: a is stored [k, m]; TN: b is stored [n, k]. */
static enum hlm_status describe(struct plan *plan, const struct hlm_cuda_product *p,
                                struct hlm_err *err)
{
    const bool of_a = p->layout == HLM_GEMM_NT, of_b = p->layout == HLM_GEMM_TN;
    const cublasComputeType_t compute = p->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    HLM_TRY(check(cublasLtMatmulDescCreate(&plan->product, compute, CUDA_R_32F),
                  "cublasLtMatmulDescCreate", err));
    HLM_TRY(set_transposes(plan, of_a, of_b, err));
    HLM_TRY(describe_matrix(&plan->a, p->type, of_a ? p->k : p->m, of_a ? p->m : p->k, err));
    HLM_TRY(describe_matrix(&plan->b, p->type, of_b ? p->n : p->k, of_b ? p->k : p->n, err));
    return describe_matrix(&plan->c, p->c_type, p->m, p->n, err);
}

/* --- the choice of an algorithm --- */

static enum hlm_status set_preference(cublasLtMatmulPreference_t preference,
                                      cublasLtMatmulPreferenceAttributes_t attribute,
                                      const void *value, size_t bytes, struct hlm_err *err)
{
    return check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, value, bytes),
                 "cublasLtMatmulPreferenceSetAttribute", err);
}

static enum hlm_status set_preferences(cublasLtMatmulPreference_t preference, const struct key *key,
                                       struct hlm_err *err)
{
    const uint64_t workspace = HLM_CUDA_WORKSPACE_BYTES;
    const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* parts are added in fp32 */
    HLM_TRY(set_preference(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction,
                           sizeof reduction, err));
    HLM_TRY(set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                           sizeof workspace, err));
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        uint32_t alignment;
    } alignments[] = {
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key->alignment[1]},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key->alignment[0]},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key->alignment[2]},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key->alignment[2]},
    };
    for (int i = 0; i < 4; i++) {
        HLM_TRY(set_preference(preference, alignments[i].attribute, &alignments[i].alignment,
                               sizeof alignments[i].alignment, err));
    }
    return HLM_OK;
}

struct candidates {
    cublasLtMatmulHeuristicResult_t at[NUM_CANDIDATES];
    int num;
};

static enum hlm_status ask(struct hlm_cuda_lt *lt, const struct plan *plan, struct candidates *out,
                           struct hlm_err *err)
{
    cublasLtMatmulPreference_t preference = NULL;
    HLM_TRY(
        check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate", err));
    enum hlm_status status = set_preferences(preference, &plan->key, err);
    if (status == HLM_OK) {
        status = check(cublasLtMatmulAlgoGetHeuristic(lt->handle, plan->product, plan->b, plan->a,
                                                      plan->c, plan->c, preference, NUM_CANDIDATES,
                                                      out->at, &out->num),
                       "cublasLtMatmulAlgoGetHeuristic", err);
    }
    cublasLtMatmulPreferenceDestroy(preference);
    return status;
}

static cublasStatus_t multiply(struct hlm_cuda_lt *lt, const struct plan *plan,
                               const struct hlm_cuda_product *p,
                               const cublasLtMatmulAlgo_t *algorithm, void *result)
{
    const float one = 1.0f, keep = p->accumulate ? 1.0f : 0.0f;
    return cublasLtMatmul(lt->handle, plan->product, &one, p->b, plan->b, p->a, plan->a, &keep,
                          p->c, plan->c, result, plan->c, algorithm, p->workspace,
                          HLM_CUDA_WORKSPACE_BYTES, p->stream);
}

/* Two events and where the timed products write. */
struct stopwatch {
    cudaEvent_t begin, end;
    void *result, *own; /* own: to be freed */
};

static int64_t element_bytes(cudaDataType_t type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

/* false: no memory, or another reason not to time. */
static bool stopwatch_init(struct stopwatch *watch, const struct hlm_cuda_product *p)
{
    *watch = (struct stopwatch){.result = p->c};
    cudaError_t error = cudaSuccess;
    if (p->accumulate) {
        error = cudaMalloc(&watch->own, (size_t)(p->m * p->n * element_bytes(p->c_type)));
        watch->result = watch->own;
    }
    error = error == cudaSuccess ? cudaEventCreate(&watch->begin) : error;
    error = error == cudaSuccess ? cudaEventCreate(&watch->end) : error;
    (void)cudaGetLastError();
    return error == cudaSuccess;
}

static void stopwatch_release(struct stopwatch *watch)
{
    if (watch->begin != NULL) {
        cudaEventDestroy(watch->begin);
    }
    if (watch->end != NULL) {
        cudaEventDestroy(watch->end);
    }
    cudaFree(watch->own);
}

static int compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Median milliseconds of an algorithm, negative when it does not work. */
static float time_of(struct hlm_cuda_lt *lt, const struct plan *plan,
                     const struct hlm_cuda_product *p, const cublasLtMatmulAlgo_t *algorithm,
                     const struct stopwatch *watch)
{
    float times_ms[NUM_TIMINGS] = {0};
    for (int i = 0; i < NUM_TIMINGS; i++) {
        const bool works =
            cudaEventRecord(watch->begin, p->stream) == cudaSuccess &&
            multiply(lt, plan, p, algorithm, watch->result) == CUBLAS_STATUS_SUCCESS &&
            cudaEventRecord(watch->end, p->stream) == cudaSuccess &&
            cudaEventSynchronize(watch->end) == cudaSuccess &&
            cudaEventElapsedTime(&times_ms[i], watch->begin, watch->end) == cudaSuccess;
        if (!works) {
            return -1.0f;
        }
    }
    qsort(times_ms, NUM_TIMINGS, sizeof times_ms[0], compare_floats);
    return times_ms[NUM_TIMINGS / 2];
}

static int fastest(struct hlm_cuda_lt *lt, const struct plan *plan,
                   const struct hlm_cuda_product *p, const struct candidates *candidates)
{
    if (!lt->timed || candidates->num == 1) {
        return 0;
    }
    struct stopwatch watch;
    const bool can_time = stopwatch_init(&watch, p);
    int best = 0;
    float best_ms = -1.0f;
    for (int i = 0; can_time && i < candidates->num; i++) {
        const float ms = time_of(lt, plan, p, &candidates->at[i].algo, &watch);
        if (ms >= 0.0f && (best_ms < 0.0f || ms < best_ms)) {
            best = i;
            best_ms = ms;
        }
    }
    stopwatch_release(&watch);
    return best;
}

static enum hlm_status plan_init(struct hlm_cuda_lt *lt, struct plan *plan,
                                 const struct hlm_cuda_product *p, struct hlm_err *err)
{
    struct candidates candidates = {.num = 0};
    HLM_TRY(describe(plan, p, err));
    HLM_TRY(ask(lt, plan, &candidates, err));
    if (candidates.num == 0) {
        return hlm_fail(err, HLM_ENV,
                        "cuBLASLt has no algorithm for a product of %lld x %lld x %lld",
                        (long long)p->m, (long long)p->n, (long long)p->k);
    }
    plan->algorithm = candidates.at[fastest(lt, plan, p, &candidates)].algo;
    return HLM_OK;
}

static enum hlm_status reserve_plan(struct hlm_cuda_lt *lt, struct hlm_err *err)
{
    if (lt->num_plans < lt->capacity) {
        return HLM_OK;
    }
    const int32_t capacity = lt->capacity == 0 ? 64 : 2 * lt->capacity;
    struct plan *plans = realloc(lt->plans, (size_t)capacity * sizeof *plans);
    if (plans == NULL) {
        return hlm_fail(err, HLM_ENV, "cuda backend: no memory for matrix products");
    }
    lt->plans = plans;
    lt->capacity = capacity;
    return HLM_OK;
}

static enum hlm_status find_plan(struct hlm_cuda_lt *lt, const struct hlm_cuda_product *p,
                                 const struct plan **out, struct hlm_err *err)
{
    struct plan plan = {.key = key_of(p)};
    for (int32_t i = 0; i < lt->num_plans; i++) {
        if (is_equal(&lt->plans[i].key, &plan.key)) {
            *out = &lt->plans[i];
            return HLM_OK;
        }
    }
    HLM_TRY(reserve_plan(lt, err));
    const enum hlm_status status = plan_init(lt, &plan, p, err);
    if (status != HLM_OK) {
        plan_release(&plan);
        return status;
    }
    lt->plans[lt->num_plans] = plan;
    *out = &lt->plans[lt->num_plans++];
    return HLM_OK;
}

enum hlm_status hlm_cuda_lt_multiply(struct hlm_cuda_lt *lt, const struct hlm_cuda_product *product,
                                     struct hlm_err *err)
{
    if (product->m == 0 || product->n == 0) {
        return HLM_OK;
    }
    HLM_ASSERT(product->k > 0);
    const struct plan *plan = NULL;
    HLM_TRY(find_plan(lt, product, &plan, err));
    return check(multiply(lt, plan, product, &plan->algorithm, product->c), "cublasLtMatmul", err);
}
