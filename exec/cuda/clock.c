#include "exec/cuda/clock.h"

#include <stdlib.h>
#include <time.h>

#include "exec/cuda/host.h"

static const double longest_epoch_s = 5.0;

/* A try counts when the event ran within this time; the last of NUM_TRIES counts always. */
static const double precise_s = 20e-6;
enum { NUM_TRIES = 10 };

double hlm_cuda_wall_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The event ran between two readings of the clock: their middle is half their distance off at most.
 */
static enum hlm_status set_epoch(struct hlm_cuda_epoch *epoch, cudaStream_t stream,
                                 struct hlm_err *err)
{
    double before_s = 0.0, after_s = 0.0;
    for (int i = 0; i < NUM_TRIES; i++) {
        before_s = hlm_cuda_wall_s();
        HLM_TRY(hlm_cuda_check(cudaEventRecord(epoch->event, stream), "recording an event", err));
        HLM_TRY(hlm_cuda_check(cudaEventSynchronize(epoch->event), "waiting for an event", err));
        after_s = hlm_cuda_wall_s();
        if (after_s - before_s < precise_s) {
            break;
        }
    }
    epoch->wall_s = 0.5 * (before_s + after_s);
    return HLM_OK;
}

enum hlm_status hlm_cuda_epoch_new(cudaStream_t stream, struct hlm_cuda_epoch **out,
                                   struct hlm_err *err)
{
    struct hlm_cuda_epoch *epoch = calloc(1, sizeof *epoch);
    if (epoch == NULL) {
        return hlm_fail(err, HLM_ENV, "cuda backend: no memory for a clock");
    }
    epoch->references = 1;
    enum hlm_status status = hlm_cuda_check(cudaEventCreate(&epoch->event), "making an event", err);
    if (status == HLM_OK) {
        status = set_epoch(epoch, stream, err);
    }
    if (status != HLM_OK) {
        hlm_cuda_epoch_drop(epoch);
        return status;
    }
    *out = epoch;
    return HLM_OK;
}

struct hlm_cuda_epoch *hlm_cuda_epoch_keep(struct hlm_cuda_epoch *epoch)
{
    epoch->references++;
    return epoch;
}

void hlm_cuda_epoch_drop(struct hlm_cuda_epoch *epoch)
{
    if (epoch == NULL || --epoch->references > 0) {
        return;
    }
    if (epoch->event != NULL) {
        cudaEventDestroy(epoch->event);
    }
    free(epoch);
}

enum hlm_status hlm_cuda_epoch_renew(struct hlm_cuda_epoch **epoch, cudaStream_t stream,
                                     struct hlm_err *err)
{
    if (hlm_cuda_wall_s() - (*epoch)->wall_s < longest_epoch_s) {
        return HLM_OK;
    }
    struct hlm_cuda_epoch *next = NULL;
    HLM_TRY(hlm_cuda_epoch_new(stream, &next, err));
    hlm_cuda_epoch_drop(*epoch);
    *epoch = next;
    return HLM_OK;
}

/* After an error of the device, which the sync has told, there are no times. */
double hlm_cuda_epoch_time(const struct hlm_cuda_epoch *epoch, cudaEvent_t event)
{
    float distance_ms = 0.0f;
    const cudaError_t error = cudaEventElapsedTime(&distance_ms, epoch->event, event);
    HLM_ASSERT(error != cudaErrorNotReady);
    return error == cudaSuccess ? epoch->wall_s + 1e-3 * (double)distance_ms : epoch->wall_s;
}
