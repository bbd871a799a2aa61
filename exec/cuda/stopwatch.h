/* stopwatch: how long work on a stream takes, by two events around it. For the choices that a
 * backend makes at the first use of a shape; nothing may be captured meanwhile. */
#ifndef HLM_EXEC_CUDA_STOPWATCH_H
#define HLM_EXEC_CUDA_STOPWATCH_H

#include <cuda_runtime_api.h>
#include <stdbool.h>

struct hlm_cuda_stopwatch {
    cudaEvent_t begin, end;
    cudaStream_t stream;
};

/* false: no events are to be had. Released by the same function in both cases. */
bool hlm_cuda_stopwatch_init(struct hlm_cuda_stopwatch *watch, cudaStream_t stream);
void hlm_cuda_stopwatch_release(struct hlm_cuda_stopwatch *watch);

/* Puts work on the watch's stream; false: it does not work. */
typedef bool hlm_cuda_work_fn(void *context);

/* The median of five runs in seconds, behind one that does not count (it may load the kernel).
 * Negative: it does not work. Waits for the stream. */
double hlm_cuda_stopwatch_run(const struct hlm_cuda_stopwatch *watch, hlm_cuda_work_fn *work,
                              void *context);

#endif
