/* What is under way, and whether it still can end. */
#include <stdlib.h>

#include "exec/cuda/comm_nccl_internal.h"

/* --- operations --- */

static void forget_finished(struct hlm_nccl_comm *self)
{
    while (self->oldest != NULL && cudaEventQuery(self->oldest->done) == cudaSuccess) {
        struct hlm_nccl_pending *finished = self->oldest;
        self->oldest = finished->next;
        finished->next = self->unused;
        self->unused = finished;
        self->progress_s = hlm_cuda_wall_s();
    }
    (void)cudaGetLastError(); /* "not ready" counts as one */
}

static enum hlm_status take_pending(struct hlm_nccl_comm *self, struct hlm_nccl_pending **out,
                                    struct hlm_err *err)
{
    struct hlm_nccl_pending *pending = self->unused;
    if (pending != NULL) {
        self->unused = pending->next;
        *out = pending;
        return HLM_OK;
    }
    pending = calloc(1, sizeof *pending);
    if (pending == NULL) {
        return hlm_fail(err, HLM_ENV, "cuda backend: no memory for an operation");
    }
    const enum hlm_status status = hlm_cuda_check(
        cudaEventCreateWithFlags(&pending->done, cudaEventDisableTiming), "making an event", err);
    if (status != HLM_OK) {
        free(pending);
        return status;
    }
    *out = pending;
    return HLM_OK;
}

enum hlm_status hlm_nccl_follow(struct hlm_nccl_comm *self, const char *name, enum hlm_group group,
                                int32_t peer, struct hlm_err *err)
{
    struct hlm_nccl_pending *pending = NULL;
    forget_finished(self);
    HLM_TRY(take_pending(self, &pending, err));
    pending->next = NULL;
    pending->name = name;
    pending->group = group;
    pending->peer = peer;
    if (self->oldest == NULL) {
        self->oldest = pending;
        self->progress_s = hlm_cuda_wall_s();
    } else {
        self->newest->next = pending;
    }
    self->newest = pending;
    return hlm_cuda_check(cudaEventRecord(pending->done, self->queue->stream),
                          "recording an operation", err);
}

static void free_list(struct hlm_nccl_pending *pending)
{
    while (pending != NULL) {
        struct hlm_nccl_pending *next = pending->next;
        cudaEventDestroy(pending->done);
        free(pending);
        pending = next;
    }
}

void hlm_nccl_pending_free(struct hlm_nccl_comm *self)
{
    free_list(self->oldest);
    free_list(self->unused);
    self->oldest = self->unused = NULL;
}

/* --- syncs --- */

static enum hlm_status fail_late(struct hlm_nccl_comm *self, struct hlm_err *err)
{
    const struct hlm_nccl_pending *oldest = self->oldest;
    const double waited_s = self->timeout_s;
    const int rank = self->base.rank;
    if (oldest->peer == HLM_NCCL_NOBODY) {
        (void)hlm_fail(err, HLM_FAILED, "rank %d has waited %.1f s for %s over %s", rank, waited_s,
                       oldest->name, hlm_group_texts[oldest->group]);
    } else {
        (void)hlm_fail(err, HLM_FAILED, "rank %d has waited %.1f s for %s rank %d", rank, waited_s,
                       oldest->name, oldest->peer);
    }
    hlm_nccl_links_abort(self);
    return HLM_FAILED;
}

/* Called while a queue is synced. */
static enum hlm_status watch(void *context, struct hlm_err *err)
{
    struct hlm_nccl_comm *self = context;
    HLM_TRY(hlm_nccl_check_alive(self, err));
    HLM_TRY(hlm_nccl_links_check(self, err));
    forget_finished(self);
    const bool late =
        self->oldest != NULL && hlm_cuda_wall_s() - self->progress_s > self->timeout_s;
    return late ? fail_late(self, err) : HLM_OK;
}

void hlm_nccl_watch(struct hlm_nccl_comm *self, struct hlm_queue *queue)
{
    if (queue->watch == watch && queue->watch_context == self) {
        return;
    }
    HLM_ASSERT(self->num_queues < HLM_NCCL_MAX_QUEUES);
    queue->watch = watch;
    queue->watch_context = self;
    self->queues[self->num_queues++] = queue;
}

void hlm_nccl_unwatch_all(struct hlm_nccl_comm *self)
{
    while (self->num_queues > 0) {
        struct hlm_queue *queue = self->queues[--self->num_queues];
        queue->watch = NULL;
        queue->watch_context = NULL;
    }
}
