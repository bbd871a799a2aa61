#include "tests/support/staged_comm.h"

#include <stdlib.h>

#include "exec/comm/comm_internal.h"

struct staged {
    struct hlm_comm base;
    struct hlm_comm *inner;
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    struct hlm_comm_groups groups;
    void *in, *out; /* device memory, max_bytes each */
};

/* Device memory of one message. */
struct hlm_request {
    struct hlm_request *inner;
    void *device, *host;
    int64_t bytes;
};

static struct staged *of(struct hlm_comm *comm)
{
    return (struct staged *)comm;
}

static const struct hlm_backend_ops *ops_of(struct hlm_comm *comm)
{
    return of(comm)->backend->ops;
}

static int64_t bytes_of(int64_t count, enum hlm_wire type)
{
    return count * hlm_wire_bytes(type);
}

/* The host's buffer is free again. */
static enum hlm_status begin(struct staged *self, void *device, const void *host, int64_t bytes,
                             struct hlm_err *err)
{
    HLM_TRY(self->backend->ops->upload(self->queue, device, host, bytes, err));
    return self->backend->ops->queue_sync(self->queue, err);
}

static enum hlm_status finish(struct staged *self, void *host, const void *device, int64_t bytes,
                              struct hlm_err *err)
{
    HLM_TRY(self->backend->ops->download(self->queue, host, device, bytes, err));
    return self->backend->ops->queue_sync(self->queue, err);
}

static enum hlm_status staged_all_reduce(struct hlm_comm *comm, enum hlm_group group, void *data,
                                         int64_t count, enum hlm_wire type, enum hlm_reduce op,
                                         struct hlm_err *err)
{
    struct staged *self = of(comm);
    const int64_t bytes = bytes_of(count, type);
    HLM_TRY(begin(self, self->in, data, bytes, err));
    HLM_TRY(self->inner->ops->all_reduce(self->inner, group, self->in, count, type, op, err));
    return finish(self, data, self->in, bytes, err);
}

/* in may be its own place in out: then it is on the device too. */
static enum hlm_status staged_all_gather(struct hlm_comm *comm, enum hlm_group group,
                                         const void *in, void *out, int64_t count,
                                         enum hlm_wire type, struct hlm_err *err)
{
    struct staged *self = of(comm);
    const int64_t bytes = bytes_of(count, type), whole = bytes * self->groups.of[group].size;
    const uintptr_t distance = (uintptr_t)in - (uintptr_t)out;
    const bool in_place = distance < (uintptr_t)whole;
    void *device = in_place ? (char *)self->out + distance : self->in;
    HLM_TRY(begin(self, device, in, bytes, err));
    HLM_TRY(self->inner->ops->all_gather(self->inner, group, device, self->out, count, type, err));
    return finish(self, out, self->out, whole, err);
}

static enum hlm_status staged_reduce_scatter(struct hlm_comm *comm, enum hlm_group group,
                                             const void *in, void *out, int64_t count,
                                             enum hlm_wire type, struct hlm_err *err)
{
    struct staged *self = of(comm);
    const int64_t bytes = bytes_of(count, type), whole = bytes * self->groups.of[group].size;
    const uintptr_t distance = (uintptr_t)out - (uintptr_t)in;
    void *device = distance < (uintptr_t)whole ? (char *)self->in + distance : self->out;
    HLM_TRY(begin(self, self->in, in, whole, err));
    HLM_TRY(
        self->inner->ops->reduce_scatter(self->inner, group, self->in, device, count, type, err));
    return finish(self, out, device, bytes, err);
}

static enum hlm_status staged_barrier(struct hlm_comm *comm, enum hlm_group group,
                                      struct hlm_err *err)
{
    return of(comm)->inner->ops->barrier(of(comm)->inner, group, err);
}

static enum hlm_status new_message(struct staged *self, void *host, int64_t bytes,
                                   struct hlm_request **out, struct hlm_err *err)
{
    struct hlm_request *request = calloc(1, sizeof *request);
    HLM_ASSERT(request != NULL);
    request->host = host;
    request->bytes = bytes;
    *out = request;
    return self->backend->ops->alloc(self->backend, bytes, &request->device, err);
}

static enum hlm_status staged_send(struct hlm_comm *comm, int32_t peer, int32_t channel,
                                   const void *data, int64_t bytes, struct hlm_request **out,
                                   struct hlm_err *err)
{
    struct staged *self = of(comm);
    HLM_TRY(new_message(self, NULL, bytes, out, err));
    HLM_TRY(begin(self, (*out)->device, data, bytes, err));
    return self->inner->ops->send(self->inner, peer, channel, (*out)->device, bytes, &(*out)->inner,
                                  err);
}

static enum hlm_status staged_receive(struct hlm_comm *comm, int32_t peer, int32_t channel,
                                      void *data, int64_t bytes, struct hlm_request **out,
                                      struct hlm_err *err)
{
    struct staged *self = of(comm);
    HLM_TRY(new_message(self, data, bytes, out, err));
    return self->inner->ops->receive(self->inner, peer, channel, (*out)->device, bytes,
                                     &(*out)->inner, err);
}

static enum hlm_status staged_wait(struct hlm_comm *comm, struct hlm_request *request,
                                   struct hlm_err *err)
{
    struct staged *self = of(comm);
    HLM_TRY(self->inner->ops->wait(self->inner, request->inner, err));
    if (request->host != NULL) {
        HLM_TRY(ops_of(comm)->download(self->queue, request->host, request->device, request->bytes,
                                       err));
    }
    HLM_TRY(ops_of(comm)->queue_sync(self->queue, err));
    ops_of(comm)->free(self->backend, request->device);
    free(request);
    return HLM_OK;
}

static void staged_release(struct hlm_comm *comm)
{
    struct staged *self = of(comm);
    struct hlm_err ignored;
    const enum hlm_status status = ops_of(comm)->queue_sync(self->queue, &ignored);
    (void)status;
    self->inner->ops->use_queue(self->inner, NULL);
    ops_of(comm)->queue_free(self->queue);
    ops_of(comm)->free(self->backend, self->in);
    ops_of(comm)->free(self->backend, self->out);
    hlm_comm_groups_release(&self->groups);
    free(self);
}

static void staged_abort(struct hlm_comm *comm)
{
    of(comm)->inner->ops->abort(of(comm)->inner);
}

static const struct hlm_comm_ops staged_ops = {
    .name = "staged",
    .release = staged_release,
    .abort = staged_abort,
    .all_reduce = staged_all_reduce,
    .all_gather = staged_all_gather,
    .reduce_scatter = staged_reduce_scatter,
    .barrier = staged_barrier,
    .send = staged_send,
    .receive = staged_receive,
    .wait = staged_wait,
};

enum hlm_status staged_comm_new(const struct hlm_comm_config *config, struct hlm_comm *inner,
                                struct hlm_backend *backend, struct hlm_comm **out,
                                struct hlm_err *err)
{
    struct staged *self = calloc(1, sizeof *self);
    HLM_ASSERT(self != NULL);
    *self = (struct staged){
        .base = {&staged_ops, inner->rank, inner->world_size}, .inner = inner, .backend = backend};
    HLM_TRY(hlm_comm_groups_init(&self->groups, config->strategy, inner->rank, err));
    HLM_TRY(backend->ops->queue_new(backend, &self->queue, err));
    HLM_TRY(backend->ops->alloc(backend, config->max_bytes, &self->in, err));
    HLM_TRY(backend->ops->alloc(backend, config->max_bytes, &self->out, err));
    inner->ops->use_queue(inner, self->queue);
    *out = &self->base;
    return HLM_OK;
}
