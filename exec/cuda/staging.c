#include "exec/cuda/staging.h"

#include <string.h>

#include "exec/cuda/host.h"

enum hlm_status hlm_cuda_staging_init(struct hlm_cuda_staging *staging, struct hlm_err *err)
{
    *staging = (struct hlm_cuda_staging){0};
    void *memory = NULL;
    const size_t bytes = (size_t)HLM_CUDA_STAGING_SLOTS * HLM_CUDA_STAGING_BYTES;
    HLM_TRY(hlm_cuda_check(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault),
                           "allocating pinned memory", err));
    staging->memory = memory;
    for (int32_t i = 0; i < HLM_CUDA_STAGING_SLOTS; i++) {
        HLM_TRY(hlm_cuda_check(
            cudaEventCreateWithFlags(&staging->slots[i].done, cudaEventDisableTiming),
            "making an event", err));
    }
    return HLM_OK;
}

void hlm_cuda_staging_release(struct hlm_cuda_staging *staging)
{
    for (int32_t i = 0; i < HLM_CUDA_STAGING_SLOTS; i++) {
        if (staging->slots[i].done != NULL) {
            cudaEventDestroy(staging->slots[i].done);
        }
    }
    if (staging->memory != NULL) {
        cudaFreeHost(staging->memory);
    }
    *staging = (struct hlm_cuda_staging){0};
}

static char *slot_memory(const struct hlm_cuda_staging *staging, int32_t index)
{
    return staging->memory + (int64_t)index * HLM_CUDA_STAGING_BYTES;
}

/* Waits until the slot's last copy has run, and empties it. */
static enum hlm_status empty_slot(struct hlm_cuda_staging *staging, int32_t index,
                                  struct hlm_err *err)
{
    struct hlm_cuda_staging_slot *slot = &staging->slots[index];
    HLM_TRY(hlm_cuda_check(cudaEventSynchronize(slot->done), "waiting for a copy", err));
    if (slot->host != NULL) {
        memcpy(slot->host, slot_memory(staging, index), (size_t)slot->bytes);
        slot->host = NULL;
    }
    return HLM_OK;
}

static enum hlm_status take_slot(struct hlm_cuda_staging *staging, int32_t *out,
                                 struct hlm_err *err)
{
    const int32_t index = staging->next;
    HLM_TRY(empty_slot(staging, index, err));
    staging->next = (index + 1) % HLM_CUDA_STAGING_SLOTS;
    *out = index;
    return HLM_OK;
}

/* Puts a copy between a slot and the device on the stream. */
static enum hlm_status move(struct hlm_cuda_staging *staging, int32_t index, cudaStream_t stream,
                            void *to, const void *from, int64_t bytes, enum cudaMemcpyKind kind,
                            struct hlm_err *err)
{
    HLM_TRY(hlm_cuda_check(cudaMemcpyAsync(to, from, (size_t)bytes, kind, stream),
                           kind == cudaMemcpyHostToDevice ? "an upload" : "a download", err));
    return hlm_cuda_check(cudaEventRecord(staging->slots[index].done, stream), "recording a copy",
                          err);
}

static int64_t piece_of(int64_t bytes)
{
    return bytes < HLM_CUDA_STAGING_BYTES ? bytes : HLM_CUDA_STAGING_BYTES;
}

enum hlm_status hlm_cuda_staging_upload(struct hlm_cuda_staging *staging, cudaStream_t stream,
                                        void *device, const void *host, int64_t bytes,
                                        struct hlm_err *err)
{
    for (int64_t done = 0; done < bytes;) {
        const int64_t piece = piece_of(bytes - done);
        int32_t index = 0;
        HLM_TRY(take_slot(staging, &index, err));
        char *memory = slot_memory(staging, index);
        memcpy(memory, (const char *)host + done, (size_t)piece);
        HLM_TRY(move(staging, index, stream, (char *)device + done, memory, piece,
                     cudaMemcpyHostToDevice, err));
        done += piece;
    }
    return HLM_OK;
}

enum hlm_status hlm_cuda_staging_download(struct hlm_cuda_staging *staging, cudaStream_t stream,
                                          void *host, const void *device, int64_t bytes,
                                          struct hlm_err *err)
{
    for (int64_t done = 0; done < bytes;) {
        const int64_t piece = piece_of(bytes - done);
        int32_t index = 0;
        HLM_TRY(take_slot(staging, &index, err));
        HLM_TRY(move(staging, index, stream, slot_memory(staging, index),
                     (const char *)device + done, piece, cudaMemcpyDeviceToHost, err));
        staging->slots[index].host = (char *)host + done;
        staging->slots[index].bytes = piece;
        done += piece;
    }
    return HLM_OK;
}

enum hlm_status hlm_cuda_staging_deliver(struct hlm_cuda_staging *staging, struct hlm_err *err)
{
    for (int32_t i = 0; i < HLM_CUDA_STAGING_SLOTS; i++) {
        HLM_TRY(empty_slot(staging, (staging->next + i) % HLM_CUDA_STAGING_SLOTS, err));
    }
    return HLM_OK;
}
