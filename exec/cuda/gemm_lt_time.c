/* The fastest of several algorithms. Timed products write where nobody reads. */
#include "exec/cuda/gemm_lt_internal.h"
#include "exec/cuda/stopwatch.h"

int64_t hlm_cuda_factor_bytes(const struct hlm_cuda_shape *shape)
{
    return shape->dtype == HLM_DTYPE_BF16 ? 2 : 4;
}

int64_t hlm_cuda_result_bytes(const struct hlm_cuda_shape *shape)
{
    return shape->fp32_result ? 4 : hlm_cuda_factor_bytes(shape);
}

/* What one call writes: the result, aux where the epilogue keeps it, the sums of BGRAD. */
struct outputs {
    char *memory, *aux, *sums;
};

static bool keeps_aux(const struct hlm_cuda_shape *shape)
{
    return shape->epilogue == HLM_CUDA_EPILOGUE_GELU_AUX ||
           shape->epilogue == HLM_CUDA_EPILOGUE_GELU_AUX_BIAS;
}

static bool outputs_init(struct outputs *outputs, const struct hlm_cuda_shape *shape)
{
    const int64_t element = hlm_cuda_result_bytes(shape);
    const int64_t result = (shape->m * shape->n * element + 255) / 256 * 256;
    const int64_t aux = keeps_aux(shape) ? result : 0;
    const int64_t sums = shape->epilogue == HLM_CUDA_EPILOGUE_BGRAD ? shape->m * element : 0;
    void *memory = NULL;
    const cudaError_t error = cudaMalloc(&memory, (size_t)(result + aux + sums));
    (void)cudaGetLastError();
    if (error != cudaSuccess) {
        return false;
    }
    outputs->memory = memory;
    outputs->aux = outputs->memory + result;
    outputs->sums = outputs->aux + aux;
    return true;
}

/* DGELU reads aux, the epilogues with a bias read that. */
static struct hlm_cuda_product redirected(const struct hlm_cuda_product *product,
                                          const struct outputs *outputs)
{
    struct hlm_cuda_product result = *product;
    result.result = outputs->memory;
    if (keeps_aux(&product->shape)) {
        result.aux = outputs->aux;
    }
    if (product->shape.epilogue == HLM_CUDA_EPILOGUE_BGRAD) {
        result.bias = outputs->sums;
    }
    return result;
}

struct contest {
    cublasLtHandle_t handle;
    const struct hlm_cuda_lt_description *description;
    struct hlm_cuda_product product;
    const cublasLtMatmulAlgo_t *algorithm;
};

static bool run_algorithm(void *context)
{
    const struct contest *contest = context;
    return hlm_cuda_lt_call(contest->handle, contest->description, &contest->product,
                            contest->algorithm) == CUBLAS_STATUS_SUCCESS;
}

static int time_all(struct contest *contest, const struct hlm_cuda_lt_candidates *candidates,
                    double *time_s)
{
    struct hlm_cuda_stopwatch watch;
    const bool can_time = hlm_cuda_stopwatch_init(&watch, contest->product.stream);
    int best = 0;
    *time_s = 0.0;
    for (int i = 0; can_time && i < candidates->num; i++) {
        contest->algorithm = &candidates->at[i].algo;
        const double seconds = hlm_cuda_stopwatch_run(&watch, run_algorithm, contest);
        if (seconds >= 0.0 && (*time_s <= 0.0 || seconds < *time_s)) {
            best = i;
            *time_s = seconds;
        }
    }
    hlm_cuda_stopwatch_release(&watch);
    return best;
}

int hlm_cuda_lt_fastest(cublasLtHandle_t handle, const struct hlm_cuda_lt_description *description,
                        const struct hlm_cuda_product *product,
                        const struct hlm_cuda_lt_candidates *candidates, double *time_s)
{
    struct outputs outputs;
    struct hlm_err ignored;
    int best = 0;
    *time_s = 0.0;
    if (!outputs_init(&outputs, &product->shape)) {
        return best;
    }
    struct contest contest = {handle, description, redirected(product, &outputs), NULL};
    if (hlm_cuda_lt_point(description, &contest.product, &ignored) == HLM_OK) {
        best = time_all(&contest, candidates, time_s);
    }
    cudaFree(outputs.memory);
    return best;
}
