/* The operations of the NCCL transport. */
#include <stdlib.h>

#include "exec/cuda/comm_nccl_internal.h"

static struct hlm_nccl_comm *of(struct hlm_comm *comm)
{
    return (struct hlm_nccl_comm *)comm;
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
    return hlm_nccl_follow(self, "all_reduce", group, HLM_NCCL_NOBODY, err);
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
    return hlm_nccl_follow(self, "all_gather", group, HLM_NCCL_NOBODY, err);
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
    return hlm_nccl_follow(self, "reduce_scatter", group, HLM_NCCL_NOBODY, err);
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

static ncclComm_t link_of_message(const struct hlm_nccl_comm *self, int32_t sender, int32_t channel)
{
    static const enum hlm_nccl_link links[HLM_NCCL_NUM_CHANNELS][2] = {
        {HLM_NCCL_LINK_FORWARD_EVEN, HLM_NCCL_LINK_FORWARD_ODD},
        {HLM_NCCL_LINK_BACKWARD_EVEN, HLM_NCCL_LINK_BACKWARD_ODD}};
    return self->links[links[channel][self->stages[sender] % 2]];
}

static enum hlm_status put_message(struct hlm_nccl_comm *self, bool sends, int32_t peer,
                                   int32_t channel, void *data, int64_t bytes,
                                   struct hlm_request *request, struct hlm_err *err)
{
    const char *name = sends ? "send to" : "receive from";
    const cudaStream_t stream = self->queue->stream;
    const ncclComm_t link = link_of_message(self, sends ? self->base.rank : peer, channel);
    const ncclResult_t result = sends
                                    ? ncclSend(data, (size_t)bytes, ncclUint8, peer, link, stream)
                                    : ncclRecv(data, (size_t)bytes, ncclUint8, peer, link, stream);
    HLM_TRY(hlm_nccl_settle(self, link, result, name, err));
    HLM_TRY(hlm_cuda_check(cudaEventRecord(request->done, stream), "recording a message", err));
    return hlm_nccl_follow(self, name, HLM_GROUP_PP, peer, err);
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

static void free_requests(struct hlm_nccl_comm *self)
{
    while (self->pool != NULL) {
        struct hlm_request *request = self->pool;
        self->pool = request->next;
        cudaEventDestroy(request->done);
        free(request);
    }
}

static void nccl_use_queue(struct hlm_comm *comm, struct hlm_queue *queue)
{
    struct hlm_nccl_comm *self = of(comm);
    self->queue = queue;
    if (queue != NULL) {
        hlm_nccl_watch(self, queue);
    } else {
        hlm_nccl_unwatch_all(self);
    }
}

/* What went wrong in the background; the time without progress is the caller's business. */
static enum hlm_status nccl_check(struct hlm_comm *comm, struct hlm_err *err)
{
    HLM_TRY(hlm_nccl_check_alive(of(comm), err));
    return hlm_nccl_links_check(of(comm), err);
}

static void nccl_release(struct hlm_comm *comm)
{
    struct hlm_nccl_comm *self = of(comm);
    if (atomic_load(&self->stopped)) {
        hlm_nccl_links_abort(self);
    } else {
        hlm_nccl_links_close(self);
    }
    hlm_nccl_unwatch_all(self);
    hlm_nccl_pending_free(self);
    free_requests(self);
    free(self->stages);
    cudaFree(self->scratch);
    free(self);
}

/* Where each rank stands in the pipeline. */
static bool find_stages(struct hlm_nccl_comm *self, const struct hlm_strategy *strategy)
{
    self->stages = calloc((size_t)self->base.world_size, sizeof *self->stages);
    for (int32_t i = 0; self->stages != NULL && i < self->base.world_size; i++) {
        self->stages[i] = hlm_layout_coords(strategy, i).pp;
    }
    return self->stages != NULL;
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
    .use_queue = nccl_use_queue,
    .check = nccl_check,
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
    enum hlm_status status =
        hlm_cuda_check(cudaMalloc(&self->scratch, 1), "allocating device memory", err);
    if (status == HLM_OK && !find_stages(self, strategy)) {
        status = hlm_fail(err, HLM_ENV, "cuda backend: no memory for communicators");
    }
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
