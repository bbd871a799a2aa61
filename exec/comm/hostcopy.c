#include "exec/comm/hostcopy.h"

#include <stdlib.h>

void hlm_hostcopy_init(struct hlm_hostcopy *copy, struct hlm_backend *backend,
                       struct hlm_queue *queue)
{
    *copy = (struct hlm_hostcopy){.backend = backend, .queue = queue};
}

void hlm_hostcopy_release(struct hlm_hostcopy *copy)
{
    if (copy->arena == NULL) {
        free(copy->buffer[0]);
        free(copy->buffer[1]);
    }
}

static char *larger_buffer(struct hlm_hostcopy *copy, int32_t index, int64_t bytes)
{
    return copy->arena != NULL ? HLM_ARENA_ARRAY(copy->arena, char, bytes)
                               : realloc(copy->buffer[index], (size_t)bytes);
}

static enum hlm_status reserve(struct hlm_hostcopy *copy, int32_t index, int64_t bytes,
                               struct hlm_err *err)
{
    if (bytes <= copy->capacity[index]) {
        return HLM_OK;
    }
    char *larger = larger_buffer(copy, index, bytes);
    if (larger == NULL) {
        return hlm_fail(err, HLM_FAILED, "no memory for %lld bytes of staging", (long long)bytes);
    }
    copy->buffer[index] = larger;
    copy->capacity[index] = bytes;
    return HLM_OK;
}

enum hlm_status hlm_hostcopy_space(struct hlm_hostcopy *copy, int32_t index, void *device,
                                   int64_t bytes, void **out, struct hlm_err *err)
{
    if (copy->backend->ops->host_memory) {
        *out = device;
        return HLM_OK;
    }
    HLM_TRY(reserve(copy, index, bytes, err));
    *out = copy->buffer[index];
    return HLM_OK;
}

static enum hlm_status download(struct hlm_hostcopy *copy, void *host, const void *device,
                                int64_t bytes, struct hlm_err *err)
{
    HLM_TRY(copy->backend->ops->download(copy->queue, host, device, bytes, err));
    return copy->backend->ops->queue_sync(copy->queue, err);
}

enum hlm_status hlm_hostcopy_in(struct hlm_hostcopy *copy, int32_t index, void *device,
                                int64_t bytes, void **out, struct hlm_err *err)
{
    void *host = NULL;
    HLM_TRY(hlm_hostcopy_space(copy, index, device, bytes, &host, err));
    if (host != device) {
        HLM_TRY(download(copy, host, device, bytes, err));
    }
    *out = host;
    return HLM_OK;
}

enum hlm_status hlm_hostcopy_out(struct hlm_hostcopy *copy, void *device, const void *host,
                                 int64_t bytes, struct hlm_err *err)
{
    if (host == device) {
        return HLM_OK;
    }
    HLM_TRY(copy->backend->ops->upload(copy->queue, device, host, bytes, err));
    return copy->backend->ops->queue_sync(copy->queue, err);
}

enum hlm_status hlm_hostcopy_stage(struct hlm_hostcopy *copy, char *staging, const void *device,
                                   int64_t bytes, struct hlm_err *err)
{
    return staging == NULL ? HLM_OK : download(copy, staging, device, bytes, err);
}
