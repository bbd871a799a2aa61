#include "exec/cuda/stopwatch.h"

#include <stdlib.h>

enum { NUM_TIMINGS = 5 };

bool hlm_cuda_stopwatch_init(struct hlm_cuda_stopwatch *watch, cudaStream_t stream)
{
    *watch = (struct hlm_cuda_stopwatch){.stream = stream};
    const bool made = cudaEventCreate(&watch->begin) == cudaSuccess &&
                      cudaEventCreate(&watch->end) == cudaSuccess;
    (void)cudaGetLastError();
    return made;
}

void hlm_cuda_stopwatch_release(struct hlm_cuda_stopwatch *watch)
{
    if (watch->begin != NULL) {
        cudaEventDestroy(watch->begin);
    }
    if (watch->end != NULL) {
        cudaEventDestroy(watch->end);
    }
}

static int compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static bool time_once(const struct hlm_cuda_stopwatch *watch, hlm_cuda_work_fn *work, void *context,
                      float *milliseconds)
{
    return cudaEventRecord(watch->begin, watch->stream) == cudaSuccess && work(context) &&
           cudaEventRecord(watch->end, watch->stream) == cudaSuccess &&
           cudaEventSynchronize(watch->end) == cudaSuccess &&
           cudaEventElapsedTime(milliseconds, watch->begin, watch->end) == cudaSuccess;
}

double hlm_cuda_stopwatch_run(const struct hlm_cuda_stopwatch *watch, hlm_cuda_work_fn *work,
                              void *context)
{
    float times_ms[NUM_TIMINGS] = {0}, warm_up_ms = 0.0f;
    bool works = time_once(watch, work, context, &warm_up_ms);
    for (int i = 0; works && i < NUM_TIMINGS; i++) {
        works = time_once(watch, work, context, &times_ms[i]);
    }
    if (!works) {
        (void)cudaGetLastError();
        return -1.0;
    }
    qsort(times_ms, NUM_TIMINGS, sizeof times_ms[0], compare_floats);
    return 1e-3 * (double)times_ms[NUM_TIMINGS / 2];
}
