/* NVIDIA's runtime, as far as exec/cuda calls it: everything happens at the call, or is written
 * down where the stream is captured. */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <time.h>
#include <unistd.h>

#include "cuda_runtime_api.h"
#include "emulator.h"

struct emulated_graph {
    std::vector<std::function<void()>> operations;
};
struct emulated_stream {
    emulated_graph *capture; /* null: none */
};
struct emulated_event {
    double seconds;
};

static const int EMULATED_CUDA_VERSION = 13000;

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

/* The stream that this thread captures, as the mode thread-local has it, and whether it did what a
 * capture does not allow. */
struct emulated_capture {
    emulated_stream *stream;
    bool spoiled;
};
static emulated_capture &capture_here()
{
    static thread_local emulated_capture here = {nullptr, false};
    return here;
}

/* For calls that a capture forbids. */
static bool spoils_capture()
{
    capture_here().spoiled = capture_here().stream != nullptr;
    return capture_here().spoiled;
}

void emulated_put(emulated_stream *stream, const std::function<void()> &operation)
{
    if (stream->capture != nullptr) {
        stream->capture->operations.push_back(operation);
    } else {
        operation();
    }
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

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = EMULATED_CUDA_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = EMULATED_CUDA_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int device)
{
    *out = {"emulated", 9, 0, 4, 0, 0, 0};
    return cudaSetDevice(device);
}

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    return spoils_capture() ? cudaErrorStreamCaptureUnsupported : make_memory(out, bytes);
}

/* The emulated device's memory is the machine's. */
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all_bytes)
{
    const size_t page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    *free_bytes = static_cast<size_t>(sysconf(_SC_AVPHYS_PAGES)) * page_bytes;
    *all_bytes = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * page_bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    if (memory != nullptr && spoils_capture()) {
        return cudaErrorStreamCaptureUnsupported;
    }
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
                            cudaStream_t stream)
{
    emulated_put(stream, [=] { std::memmove(to, from, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind, cudaStream_t stream)
{
    if (width > to_pitch || width > from_pitch) {
        return cudaErrorInvalidValue;
    }
    emulated_put(stream, [=] {
        for (size_t row = 0; row < height; row++) {
            std::memcpy(static_cast<char *>(to) + row * to_pitch,
                        static_cast<const char *>(from) + row * from_pitch, width);
        }
    });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream)
{
    emulated_put(stream, [=] { std::memset(memory, value, bytes); });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned)
{
    *out = new emulated_stream{nullptr};
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return spoils_capture() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t)
{
    return spoils_capture() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode)
{
    if (capture_here().stream != nullptr) {
        return cudaErrorStreamCaptureUnsupported;
    }
    stream->capture = new emulated_graph();
    capture_here() = {stream, false};
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    if (capture_here().stream != stream) {
        return cudaErrorInvalidValue;
    }
    *out = stream->capture;
    stream->capture = nullptr;
    const bool spoiled = capture_here().spoiled;
    capture_here() = {nullptr, false};
    if (spoiled) {
        delete *out;
        *out = nullptr;
    }
    return spoiled ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
    *out = new emulated_graph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    for (const std::function<void()> &operation : graph->operations) {
        emulated_put(stream, operation);
    }
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    delete graph;
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
    return spoils_capture() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
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

} // extern "C"
