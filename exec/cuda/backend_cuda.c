/* The CUDA backend: memory, queues, events. */
#include <sched.h>
#include <stdlib.h>

#include "costmodel/memory.h"
#include "exec/cuda/gemm_lt.h"
#include "exec/cuda/host.h"
#include "exec/cuda/kernels.h"

enum hlm_status hlm_cuda_check(cudaError_t error, const char *what, struct hlm_err *err)
{
    if (error == cudaSuccess) {
        return HLM_OK;
    }
    (void)cudaGetLastError();
    const bool environment =
        error == cudaErrorMemoryAllocation || error == cudaErrorNoDevice ||
        error == cudaErrorInsufficientDriver || error == cudaErrorInvalidDevice ||
        error == cudaErrorNoKernelImageForDevice || error == cudaErrorDevicesUnavailable;
    return hlm_fail(err, environment ? HLM_ENV : HLM_FAILED, "CUDA: %s: %s (%s, %d)", what,
                    cudaGetErrorString(error), cudaGetErrorName(error), (int)error);
}

static struct hlm_cuda_backend *of(struct hlm_backend *backend)
{
    return (struct hlm_cuda_backend *)backend;
}

static void release(struct hlm_backend *backend)
{
    struct hlm_cuda_backend *self = of(backend);
    hlm_cuda_lt_free(self->lt);
    hlm_cuda_epoch_drop(self->epoch);
    free(self);
}

/* --- memory --- */

enum hlm_status hlm_cuda_alloc(struct hlm_backend *backend, int64_t bytes, void **out,
                               struct hlm_err *err)
{
    (void)backend;
    HLM_ASSERT(bytes >= 0);
    void *memory = NULL;
    const size_t size = bytes > 0 ? (size_t)bytes : HLM_ALIGNMENT_BYTES;
    const cudaError_t error = cudaMalloc(&memory, size);
    if (error != cudaSuccess) {
        const enum hlm_status status = hlm_cuda_check(error, "allocating device memory", err);
        hlm_err_prefix(err, "the device refused %lld bytes of memory", (long long)bytes);
        return status;
    }
    HLM_ASSERT((uintptr_t)memory % HLM_ALIGNMENT_BYTES == 0);
    *out = memory;
    return HLM_OK;
}

/* An error here is an earlier one of a kernel, which a sync has told or will tell. */
static void free_memory(struct hlm_backend *backend, void *memory)
{
    (void)backend;
    cudaFree(memory);
}

static enum hlm_status device_memory(struct hlm_backend *backend, int64_t *out_used_bytes,
                                     int64_t *out_total_bytes, struct hlm_err *err)
{
    size_t free_bytes = 0, all_bytes = 0;
    (void)backend; /* its thread's device */
    HLM_TRY(hlm_cuda_check(cudaMemGetInfo(&free_bytes, &all_bytes), "asking for memory", err));
    *out_used_bytes = (int64_t)(all_bytes - free_bytes);
    *out_total_bytes = (int64_t)all_bytes;
    return HLM_OK;
}

/* Graphs go on using what they were captured with. */
static enum hlm_status retire(struct hlm_queue *queue, struct hlm_cuda_buffer *buffer,
                              struct hlm_err *err)
{
    if (queue->num_graphs == 0 || buffer->data == NULL) {
        cudaFree(buffer->data);
    } else {
        struct hlm_cuda_retired *retired = calloc(1, sizeof *retired);
        if (retired == NULL) {
            return hlm_fail(err, HLM_ENV, "cuda backend: no memory for a buffer");
        }
        *retired = (struct hlm_cuda_retired){queue->retired, buffer->data};
        queue->retired = retired;
    }
    *buffer = (struct hlm_cuda_buffer){0};
    return HLM_OK;
}

enum hlm_status hlm_cuda_reserve(struct hlm_queue *queue, struct hlm_cuda_buffer *buffer,
                                 int64_t bytes, struct hlm_err *err)
{
    if (bytes <= buffer->bytes) {
        return HLM_OK;
    }
    HLM_TRY(hlm_cuda_outside_capture(queue, "a first need of so much scratch memory", err));
    HLM_TRY(hlm_cuda_check(cudaStreamSynchronize(queue->stream), "waiting for the queue", err));
    HLM_TRY(retire(queue, buffer, err));
    HLM_TRY(hlm_cuda_alloc(&queue->backend->base, bytes, &buffer->data, err));
    buffer->bytes = bytes;
    return HLM_OK;
}

/* --- queues --- */

static void free_lists(struct hlm_queue *queue)
{
    for (struct hlm_cuda_rotation *table = queue->rotations, *next; table != NULL; table = next) {
        next = table->next;
        cudaFree(table->data);
        free(table);
    }
    for (struct hlm_cuda_retired *retired = queue->retired, *next; retired != NULL;
         retired = next) {
        next = retired->next;
        cudaFree(retired->data);
        free(retired);
    }
}

/* Waits for what is left; its errors were told, or nobody asked. */
static void queue_free(struct hlm_queue *queue)
{
    if (queue == NULL) {
        return;
    }
    if (queue->stream != NULL) {
        cudaStreamSynchronize(queue->stream);
    }
    HLM_ASSERT(queue->graph == NULL && queue->num_graphs == 0);
    hlm_cuda_staging_release(&queue->staging);
    cudaFree(queue->scratch.data);
    free_lists(queue);
    cudaFree(queue->workspace);
    if (queue->stream != NULL) {
        cudaStreamDestroy(queue->stream);
    }
    free(queue);
}

static enum hlm_status queue_init(struct hlm_queue *queue, struct hlm_err *err)
{
    HLM_TRY(hlm_cuda_check(cudaStreamCreateWithFlags(&queue->stream, cudaStreamNonBlocking),
                           "making a stream", err));
    HLM_TRY(hlm_cuda_staging_init(&queue->staging, err));
    return hlm_cuda_alloc(&queue->backend->base, HLM_CUDA_WORKSPACE_BYTES, &queue->workspace, err);
}

static enum hlm_status queue_new(struct hlm_backend *backend, struct hlm_queue **out,
                                 struct hlm_err *err)
{
    struct hlm_queue *queue = calloc(1, sizeof *queue);
    if (queue == NULL) {
        return hlm_fail(err, HLM_ENV, "cuda backend: no memory for a queue");
    }
    queue->backend = of(backend);
    const enum hlm_status status = queue_init(queue, err);
    if (status != HLM_OK) {
        queue_free(queue);
        return status;
    }
    *out = queue;
    return HLM_OK;
}

/* The runtime's wait can't be interrupted, so a watched queue is asked again and again. */
static enum hlm_status wait_watched(struct hlm_queue *queue, struct hlm_err *err)
{
    cudaError_t error = cudaStreamQuery(queue->stream);
    while (error == cudaErrorNotReady) {
        HLM_TRY(queue->watch(queue->watch_context, err));
        sched_yield();
        error = cudaStreamQuery(queue->stream);
    }
    (void)cudaGetLastError(); /* "not ready" counts as one */
    HLM_TRY(hlm_cuda_check(error, "running the queue", err));
    return queue->watch(queue->watch_context, err);
}

static enum hlm_status queue_sync(struct hlm_queue *queue, struct hlm_err *err)
{
    HLM_TRY(hlm_cuda_outside_capture(queue, "a sync", err));
    if (queue->watch != NULL) {
        HLM_TRY(wait_watched(queue, err));
    } else {
        HLM_TRY(hlm_cuda_check(cudaStreamSynchronize(queue->stream), "running the queue", err));
    }
    HLM_TRY(hlm_cuda_staging_deliver(&queue->staging, err));
    return hlm_cuda_epoch_renew(&queue->backend->epoch, queue->stream, err);
}

static enum hlm_status upload(struct hlm_queue *queue, void *device, const void *host,
                              int64_t bytes, struct hlm_err *err)
{
    HLM_TRY(hlm_cuda_outside_capture(queue, "an upload", err));
    return hlm_cuda_staging_upload(&queue->staging, queue->stream, device, host, bytes, err);
}

static enum hlm_status download(struct hlm_queue *queue, void *host, const void *device,
                                int64_t bytes, struct hlm_err *err)
{
    HLM_TRY(hlm_cuda_outside_capture(queue, "a download", err));
    return hlm_cuda_staging_download(&queue->staging, queue->stream, host, device, bytes, err);
}

static enum hlm_status copy(struct hlm_queue *queue, void *to, const void *from, int64_t bytes,
                            struct hlm_err *err)
{
    HLM_ASSERT(bytes >= 0);
    if (bytes == 0 || to == from) {
        return HLM_OK;
    }
    const cudaError_t error =
        cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDeviceToDevice, queue->stream);
    return hlm_cuda_note(queue, hlm_cuda_check(error, "a copy", err), err);
}

/* --- events --- */

static enum hlm_status event_new(struct hlm_backend *backend, struct hlm_event **out,
                                 struct hlm_err *err)
{
    (void)backend;
    struct hlm_event *event = calloc(1, sizeof *event);
    if (event == NULL) {
        return hlm_fail(err, HLM_ENV, "cuda backend: no memory for an event");
    }
    const enum hlm_status status =
        hlm_cuda_check(cudaEventCreate(&event->event), "making an event", err);
    if (status != HLM_OK) {
        free(event);
        return status;
    }
    *out = event;
    return HLM_OK;
}

static void event_free(struct hlm_event *event)
{
    if (event != NULL) {
        cudaEventDestroy(event->event);
        hlm_cuda_epoch_drop(event->epoch);
        free(event);
    }
}

static enum hlm_status event_record(struct hlm_queue *queue, struct hlm_event *event,
                                    struct hlm_err *err)
{
    HLM_TRY(hlm_cuda_outside_capture(queue, "an event", err));
    HLM_TRY(
        hlm_cuda_check(cudaEventRecord(event->event, queue->stream), "recording an event", err));
    struct hlm_cuda_epoch *epoch = hlm_cuda_epoch_keep(queue->backend->epoch);
    hlm_cuda_epoch_drop(event->epoch);
    event->epoch = epoch;
    return HLM_OK;
}

static enum hlm_status event_wait(struct hlm_queue *queue, struct hlm_event *event,
                                  struct hlm_err *err)
{
    HLM_TRY(hlm_cuda_outside_capture(queue, "a wait for an event", err));
    return hlm_cuda_check(cudaStreamWaitEvent(queue->stream, event->event, 0),
                          "waiting for an event", err);
}

static struct hlm_event_time event_time(struct hlm_event *event)
{
    HLM_ASSERT(event->epoch != NULL);
    return (struct hlm_event_time){.wall_s = hlm_cuda_epoch_time(event->epoch, event->event)};
}

static enum hlm_status event_done(struct hlm_event *event, bool *out, struct hlm_err *err)
{
    const cudaError_t error = cudaEventQuery(event->event);
    if (error == cudaErrorNotReady) {
        (void)cudaGetLastError();
        *out = false;
        return HLM_OK;
    }
    HLM_TRY(hlm_cuda_check(error, "asking for an event", err));
    *out = true;
    return HLM_OK;
}

static enum hlm_status combine(struct hlm_queue *queue, void *out, const void *a, const void *b,
                               int64_t count, enum hlm_wire type, enum hlm_reduce op,
                               struct hlm_err *err)
{
    HLM_TRY(hlm_cuda_outside_capture(queue, "a sum of two buffers", err));
    return hlm_cuda_check(hlm_cuda_combine(out, a, b, count, type, op, queue->stream),
                          "a sum of two buffers", err);
}

/* --- making one --- */

static enum hlm_status first_epoch(struct hlm_cuda_backend *self, struct hlm_err *err)
{
    cudaStream_t stream = NULL;
    HLM_TRY(hlm_cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                           "making a stream", err));
    const enum hlm_status status = hlm_cuda_epoch_new(stream, &self->epoch, err);
    cudaStreamDestroy(stream);
    return status;
}

/* The kernels use what sm_80 brought. */
static enum hlm_status check_capability(int32_t device, struct hlm_err *err)
{
    int major = 0;
    HLM_TRY(
        hlm_cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                       "asking for the compute capability", err));
    return major >= 8 ? HLM_OK
                      : hlm_fail(err, HLM_ENV,
                                 "device %d has compute capability %d.x, expected 8.0 or later",
                                 device, major);
}

static enum hlm_status init(struct hlm_cuda_backend *self, const struct hlm_cuda_options *options,
                            struct hlm_err *err)
{
    self->device = options->device;
    self->fuse = options->fuse;
    HLM_TRY(hlm_cuda_check(cudaSetDevice(self->device), "choosing the device", err));
    HLM_TRY(check_capability(self->device, err));
    HLM_TRY(hlm_cuda_check(
        cudaDeviceGetAttribute(&self->num_sms, cudaDevAttrMultiProcessorCount, self->device),
        "asking for the device's size", err));
    HLM_TRY(hlm_cuda_lt_new(options->timed_products, &self->lt, err));
    return first_epoch(self, err);
}

enum hlm_status hlm_cuda_backend_new(const struct hlm_cuda_options *options,
                                     struct hlm_backend **out, struct hlm_err *err)
{
    static const struct hlm_backend_ops ops = {
        .version = HLM_BACKEND_VERSION,
        .name = "cuda",
        .host_memory = false,
        .release = release,
        .alloc = hlm_cuda_alloc,
        .free = free_memory,
        .queue_new = queue_new,
        .queue_free = queue_free,
        .queue_sync = queue_sync,
        .upload = upload,
        .download = download,
        .copy = copy,
        .event_new = event_new,
        .event_free = event_free,
        .event_record = event_record,
        .event_wait = event_wait,
        .event_time = event_time,
        .launch = hlm_cuda_launch,
        .launch_list = hlm_cuda_launch_list,
        .capture_begin = hlm_cuda_capture_begin,
        .capture_end = hlm_cuda_capture_end,
        .graph_launch = hlm_cuda_graph_launch,
        .graph_free = hlm_cuda_graph_free,
        .memory = device_memory,
        .event_done = event_done,
        .combine = combine,
    };
    struct hlm_cuda_backend *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return hlm_fail(err, HLM_ENV, "cuda backend: no memory");
    }
    self->base.ops = &ops;
    const enum hlm_status status = init(self, options, err);
    if (status != HLM_OK) {
        release(&self->base);
        return status;
    }
    *out = &self->base;
    return HLM_OK;
}
