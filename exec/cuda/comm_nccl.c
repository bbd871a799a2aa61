/* The operations of the NCCL transport. */
#include <sched.h>
#include <stdlib.h>

#include "exec/cuda/comm_nccl_internal.h"

static struct hlm_nccl_comm *of(struct hlm_comm *comm)
{
    return (struct hlm_nccl_comm *)comm;
}

/* --- what is under way --- */

static void forget_finished(struct hlm_nccl_comm *self)
{
    while (self->num_pending > 0 &&
           cudaEventQuery(self->pending[self->first_pending].done) == cudaSuccess) {
        self->first_pending = (self->first_pending + 1) % HLM_NCCL_MAX_PENDING;
        self->num_pending--;
        self->progress_s = hlm_cuda_wall_s();
    }
    (void)cudaGetLastError(); /* "not ready" counts as one */
}

static enum hlm_status fail_late(struct hlm_nccl_comm *self, struct hlm_err *err)
{
    const struct hlm_nccl_pending *oldest = &self->pending[self->first_pending];
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
        self->num_pending > 0 && hlm_cuda_wall_s() - self->progress_s > self->timeout_s;
    return late ? fail_late(self, err) : HLM_OK;
}

/* Notes an operation that was put on the stream. */
static enum hlm_status follow(struct hlm_nccl_comm *self, cudaStream_t stream, const char *name,
                              enum hlm_group group, int32_t peer, struct hlm_err *err)
{
    forget_finished(self);
    while (self->num_pending == HLM_NCCL_MAX_PENDING) {
        HLM_TRY(watch(self, err));
        sched_yield();
    }
    if (self->num_pending == 0) {
        self->progress_s = hlm_cuda_wall_s();
    }
    struct hlm_nccl_pending *last =
        &self->pending[(self->first_pending + self->num_pending) % HLM_NCCL_MAX_PENDING];
    last->name = name;
    last->group = group;
    last->peer = peer;
    HLM_TRY(hlm_cuda_check(cudaEventRecord(last->done, stream), "recording an operation", err));
    self->num_pending++;
    return HLM_OK;
}

/* --- collectives --- */

static const struct wire {
    ncclDataType_t type;
    int64_t bytes;
} wires[] = {
    [HLM_WIRE_F32] = {ncclFloat32, 4},
    [HLM_WIRE_F64] = {ncclFloat64, 8},
    [HLM_WIRE_BF16] = {ncclBfloat16, 2},
    [HLM_WIRE_BYTE] = {ncclUint8, 1},
};

/* *out NULL: the rank is alone in the group, or no member. */
static enum hlm_status link_of(struct hlm_nccl_comm *self, enum hlm_group group, ncclComm_t *out,
                               struct hlm_err *err)
{
    HLM_TRY(hlm_nccl_check_alive(self, err));
    HLM_ASSERT(self->queue != NULL);
    const enum hlm_nccl_link link = self->of_group[group];
    *out = link == HLM_NCCL_NUM_LINKS ? NULL : self->links[link];
    return HLM_OK;
}

static enum hlm_status copy_alone(struct hlm_nccl_comm *self, void *out, const void *in,
                                  int64_t bytes, struct hlm_err *err)
{
    return self->queue->backend->base.ops->copy(self->queue, out, in, bytes, err);
}

static enum hlm_status nccl_all_reduce(struct hlm_comm *comm, enum hlm_group group, void *data,
                                       int64_t count, enum hlm_wire type, enum hlm_reduce op,
                                       struct hlm_err *err)
{
    struct hlm_nccl_comm *self = of(comm);
    ncclComm_t link = NULL;
    HLM_TRY(link_of(self, group, &link, err));
    if (link == NULL || count == 0) {
        return HLM_OK;
    }
    const ncclRedOp_t reduce = op == HLM_REDUCE_MAX ? ncclMax : ncclSum;
    const ncclResult_t result = ncclAllReduce(data, data, (size_t)count, wires[type].type, reduce,
                                              link, self->queue->stream);
    HLM_TRY(hlm_nccl_settle(self, link, result, "all_reduce", err));
    return follow(self, self->queue->stream, "all_reduce", group, HLM_NCCL_NOBODY, err);
}

static enum hlm_status nccl_all_gather(struct hlm_comm *comm, enum hlm_group group, const void *in,
                                       void *out, int64_t count, enum hlm_wire type,
                                       struct hlm_err *err)
{
    struct hlm_nccl_comm *self = of(comm);
    ncclComm_t link = NULL;
    HLM_TRY(link_of(self, group, &link, err));
    if (link == NULL || count == 0) {
        return copy_alone(self, out, in, count * wires[type].bytes, err);
    }
    const ncclResult_t result =
        ncclAllGather(in, out, (size_t)count, wires[type].type, link, self->queue->stream);
    HLM_TRY(hlm_nccl_settle(self, link, result, "all_gather", err));
    return follow(self, self->queue->stream, "all_gather", group, HLM_NCCL_NOBODY, err);
}

static enum hlm_status nccl_reduce_scatter(struct hlm_comm *comm, enum hlm_group group,
                                           const void *in, void *out, int64_t count,
                                           enum hlm_wire type, struct hlm_err *err)
{
    struct hlm_nccl_comm *self = of(comm);
    ncclComm_t link = NULL;
    HLM_TRY(link_of(self, group, &link, err));
    if (link == NULL || count == 0) {
        return copy_alone(self, out, in, count * wires[type].bytes, err);
    }
    const ncclResult_t result = ncclReduceScatter(in, out, (size_t)count, wires[type].type, ncclSum,
                                                  link, self->queue->stream);
    HLM_TRY(hlm_nccl_settle(self, link, result, "reduce_scatter", err));
    return follow(self, self->queue->stream, "reduce_scatter", group, HLM_NCCL_NOBODY, err);
}

static enum hlm_status nccl_barrier(struct hlm_comm *comm, enum hlm_group group,
                                    struct hlm_err *err)
{
    struct hlm_nccl_comm *self = of(comm);
    HLM_TRY(nccl_all_reduce(comm, group, self->scratch, 1, HLM_WIRE_BYTE, HLM_REDUCE_MAX, err));
    return self->queue->backend->base.ops->queue_sync(self->queue, err);
}

/* --- messages --- */

static enum hlm_status take_request(struct hlm_nccl_comm *self, struct hlm_request **out,
                                    struct hlm_err *err)
{
    struct hlm_request *request = self->pool;
    if (request != NULL) {
        self->pool = request->next;
        *out = request;
        return HLM_OK;
    }
    request = calloc(1, sizeof *request);
    if (request == NULL) {
        return hlm_fail(err, HLM_ENV, "cuda backend: no memory for a message");
    }
    const enum hlm_status status = hlm_cuda_check(
        cudaEventCreateWithFlags(&request->done, cudaEventDisableTiming), "making an event", err);
    if (status != HLM_OK) {
        free(request);
        return status;
    }
    *out = request;
    return HLM_OK;
}

static void put_request(struct hlm_nccl_comm *self, struct hlm_request *request)
{
    request->next = self->pool;
    self->pool = request;
}

static enum hlm_status put_message(struct hlm_nccl_comm *self, bool sends, int32_t peer,
                                   int32_t channel, void *data, int64_t bytes,
                                   struct hlm_request *request, struct hlm_err *err)
{
    const char *name = sends ? "send to" : "receive from";
    const cudaStream_t stream = self->streams[channel];
    const ncclComm_t link =
        self->links[channel == 0 ? HLM_NCCL_LINK_FORWARD : HLM_NCCL_LINK_BACKWARD];
    HLM_TRY(hlm_cuda_check(cudaEventRecord(self->ready[channel], self->queue->stream),
                           "recording a message", err));
    HLM_TRY(hlm_cuda_check(cudaStreamWaitEvent(stream, self->ready[channel], 0),
                           "ordering a message", err));
    const ncclResult_t result = sends
                                    ? ncclSend(data, (size_t)bytes, ncclUint8, peer, link, stream)
                                    : ncclRecv(data, (size_t)bytes, ncclUint8, peer, link, stream);
    HLM_TRY(hlm_nccl_settle(self, link, result, name, err));
    HLM_TRY(hlm_cuda_check(cudaEventRecord(request->done, stream), "recording a message", err));
    return follow(self, stream, name, HLM_GROUP_PP, peer, err);
}

static enum hlm_status message(struct hlm_comm *comm, bool sends, int32_t peer, int32_t channel,
                               void *data, int64_t bytes, struct hlm_request **out,
                               struct hlm_err *err)
{
    struct hlm_nccl_comm *self = of(comm);
    HLM_ASSERT(channel >= 0 && channel < HLM_NCCL_NUM_CHANNELS && self->queue != NULL);
    HLM_ASSERT(peer >= 0 && peer < comm->world_size && peer != comm->rank);
    HLM_TRY(hlm_nccl_check_alive(self, err));
    struct hlm_request *request = NULL;
    HLM_TRY(take_request(self, &request, err));
    const enum hlm_status status =
        put_message(self, sends, peer, channel, data, bytes, request, err);
    if (status != HLM_OK) {
        put_request(self, request);
        return status;
    }
    *out = request;
    return HLM_OK;
}

static enum hlm_status nccl_send(struct hlm_comm *comm, int32_t peer, int32_t channel,
                                 const void *data, int64_t bytes, struct hlm_request **out,
                                 struct hlm_err *err)
{
    return message(comm, true, peer, channel, (void *)(uintptr_t)data, bytes, out, err);
}

static enum hlm_status nccl_receive(struct hlm_comm *comm, int32_t peer, int32_t channel,
                                    void *data, int64_t bytes, struct hlm_request **out,
                                    struct hlm_err *err)
{
    return message(comm, false, peer, channel, data, bytes, out, err);
}

/* The queue waits, not the caller. */
static enum hlm_status nccl_wait(struct hlm_comm *comm, struct hlm_request *request,
                                 struct hlm_err *err)
{
    struct hlm_nccl_comm *self = of(comm);
    if (request == NULL) {
        return HLM_OK;
    }
    const cudaError_t error = cudaStreamWaitEvent(self->queue->stream, request->done, 0);
    put_request(self, request);
    HLM_TRY(hlm_nccl_check_alive(self, err));
    return hlm_cuda_check(error, "waiting for a message", err);
}

/* --- life --- */

/* Another thread may be inside NCCL then, so only the owner aborts communicators itself. */
static void nccl_abort(struct hlm_comm *comm)
{
    struct hlm_nccl_comm *self = of(comm);
    atomic_store(&self->stopped, true);
    if (pthread_equal(pthread_self(), self->owner)) {
        hlm_nccl_links_abort(self);
    }
}

static void free_events(struct hlm_nccl_comm *self)
{
    for (int i = 0; i < HLM_NCCL_MAX_PENDING; i++) {
        if (self->pending[i].done != NULL) {
            cudaEventDestroy(self->pending[i].done);
        }
    }
    for (int i = 0; i < HLM_NCCL_NUM_CHANNELS; i++) {
        if (self->ready[i] != NULL) {
            cudaEventDestroy(self->ready[i]);
        }
        if (self->streams[i] != NULL) {
            cudaStreamDestroy(self->streams[i]);
        }
    }
    while (self->pool != NULL) {
        struct hlm_request *request = self->pool;
        self->pool = request->next;
        cudaEventDestroy(request->done);
        free(request);
    }
}

static void nccl_release(struct hlm_comm *comm)
{
    struct hlm_nccl_comm *self = of(comm);
    if (atomic_load(&self->stopped)) {
        hlm_nccl_links_abort(self);
    } else {
        hlm_nccl_links_close(self);
    }
    hlm_cuda_comm_use_queue(comm, NULL);
    free_events(self);
    cudaFree(self->scratch);
    free(self);
}

void hlm_cuda_comm_use_queue(struct hlm_comm *comm, struct hlm_queue *queue)
{
    struct hlm_nccl_comm *self = of(comm);
    if (self->queue != NULL) {
        self->queue->watch = NULL;
        self->queue->watch_context = NULL;
    }
    self->queue = queue;
    if (queue != NULL) {
        queue->watch = watch;
        queue->watch_context = self;
    }
}

static enum hlm_status make_events(struct hlm_nccl_comm *self, struct hlm_err *err)
{
    for (int i = 0; i < HLM_NCCL_MAX_PENDING; i++) {
        HLM_TRY(
            hlm_cuda_check(cudaEventCreateWithFlags(&self->pending[i].done, cudaEventDisableTiming),
                           "making an event", err));
    }
    for (int i = 0; i < HLM_NCCL_NUM_CHANNELS; i++) {
        HLM_TRY(hlm_cuda_check(cudaEventCreateWithFlags(&self->ready[i], cudaEventDisableTiming),
                               "making an event", err));
        HLM_TRY(hlm_cuda_check(cudaStreamCreateWithFlags(&self->streams[i], cudaStreamNonBlocking),
                               "making a stream", err));
    }
    return hlm_cuda_check(cudaMalloc(&self->scratch, 1), "allocating device memory", err);
}

static const struct hlm_comm_ops nccl_ops = {
    .name = "nccl",
    .stream_ordered = true,
    .release = nccl_release,
    .abort = nccl_abort,
    .all_reduce = nccl_all_reduce,
    .all_gather = nccl_all_gather,
    .reduce_scatter = nccl_reduce_scatter,
    .barrier = nccl_barrier,
    .send = nccl_send,
    .receive = nccl_receive,
    .wait = nccl_wait,
};

enum hlm_status hlm_cuda_comm_new(const struct hlm_cuda_comm_config *config,
                                  struct hlm_backend *backend, struct hlm_comm **out,
                                  struct hlm_err *err)
{
    const struct hlm_strategy *strategy = config->comm->strategy;
    const int32_t device = ((const struct hlm_cuda_backend *)backend)->device;
    HLM_TRY(hlm_cuda_check(cudaSetDevice(device), "choosing the device", err));
    struct hlm_nccl_comm *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return hlm_fail(err, HLM_ENV, "cuda backend: no memory for communicators");
    }
    self->base.ops = &nccl_ops;
    self->base.rank = config->rank;
    self->base.world_size = (int32_t)hlm_strategy_world_size(strategy);
    self->timeout_s = config->comm->timeout_s;
    self->owner = pthread_self();
    enum hlm_status status = make_events(self, err);
    if (status == HLM_OK) {
        status = hlm_nccl_links_make(self, config, err);
    }
    if (status != HLM_OK) {
        nccl_abort(&self->base);
        nccl_release(&self->base);
        return status;
    }
    *out = &self->base;
    return HLM_OK;
}
