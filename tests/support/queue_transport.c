#include "tests/support/queue_transport.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "exec/comm/comm_internal.h"
#include "tests/support/late_backend.h"

struct transport {
    struct hlm_comm base;
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    struct hlm_comm_groups groups;
    double delay_s;
    atomic_bool stopped;
    const char *broken; /* NULL: all is well */
    struct hlm_request *requests;
};

/* Freed with the transport: a queue may still wait for its event after the wait. */
struct hlm_request {
    struct hlm_request *next;
    struct hlm_event *done;
};

static struct transport *of(struct hlm_comm *comm)
{
    return (struct transport *)comm;
}

static const struct hlm_backend_ops *ops_of(struct hlm_comm *comm)
{
    return of(comm)->backend->ops;
}

static void hold(struct transport *self)
{
    HLM_ASSERT(self->queue != NULL);
    late_backend_hold(self->queue, &self->stopped, self->delay_s);
}

/* data = the sum of `size` equal ones, a power of two. */
static enum hlm_status multiply(struct transport *self, void *data, int64_t count,
                                enum hlm_wire type, int32_t size, struct hlm_err *err)
{
    for (int32_t left = size; left > 1; left /= 2) {
        HLM_ASSERT(left % 2 == 0);
        HLM_TRY(self->backend->ops->combine(self->queue, data, data, data, count, type,
                                            HLM_REDUCE_SUM, err));
    }
    return HLM_OK;
}

static enum hlm_status all_reduce(struct hlm_comm *comm, enum hlm_group group, void *data,
                                  int64_t count, enum hlm_wire type, enum hlm_reduce op,
                                  struct hlm_err *err)
{
    hold(of(comm));
    return op == HLM_REDUCE_MAX
               ? HLM_OK
               : multiply(of(comm), data, count, type, of(comm)->groups.of[group].size, err);
}

static enum hlm_status all_gather(struct hlm_comm *comm, enum hlm_group group, const void *in,
                                  void *out, int64_t count, enum hlm_wire type, struct hlm_err *err)
{
    const int64_t bytes = count * hlm_wire_bytes(type);
    hold(of(comm));
    for (int32_t i = 0; i < of(comm)->groups.of[group].size; i++) {
        HLM_TRY(ops_of(comm)->copy(of(comm)->queue, (char *)out + i * bytes, in, bytes, err));
    }
    return HLM_OK;
}

static enum hlm_status reduce_scatter(struct hlm_comm *comm, enum hlm_group group, const void *in,
                                      void *out, int64_t count, enum hlm_wire type,
                                      struct hlm_err *err)
{
    const struct hlm_comm_group *own = &of(comm)->groups.of[group];
    const int64_t bytes = count * hlm_wire_bytes(type);
    hold(of(comm));
    HLM_TRY(ops_of(comm)->copy(of(comm)->queue, out, (const char *)in + own->position * bytes,
                               bytes, err));
    return multiply(of(comm), out, count, type, own->size, err);
}

static enum hlm_status barrier(struct hlm_comm *comm, enum hlm_group group, struct hlm_err *err)
{
    (void)group;
    hold(of(comm));
    return ops_of(comm)->queue_sync(of(comm)->queue, err);
}

static enum hlm_status new_request(struct hlm_comm *comm, struct hlm_request **out,
                                   struct hlm_err *err)
{
    struct hlm_request *request = calloc(1, sizeof *request);
    HLM_ASSERT(request != NULL);
    request->next = of(comm)->requests;
    of(comm)->requests = request;
    *out = request;
    HLM_TRY(ops_of(comm)->event_new(of(comm)->backend, &request->done, err));
    return ops_of(comm)->event_record(of(comm)->queue, request->done, err);
}

static enum hlm_status transport_send(struct hlm_comm *comm, int32_t peer, int32_t channel,
                                      const void *data, int64_t bytes, struct hlm_request **out,
                                      struct hlm_err *err)
{
    (void)peer;
    (void)channel;
    (void)data;
    (void)bytes;
    hold(of(comm));
    return new_request(comm, out, err);
}

static enum hlm_status transport_receive(struct hlm_comm *comm, int32_t peer, int32_t channel,
                                         void *data, int64_t bytes, struct hlm_request **out,
                                         struct hlm_err *err)
{
    const struct hlm_op zero = {.kind = HLM_OP_FILL_ZERO, .m = bytes / 4, .n = 1};
    void *const operands[HLM_OP_MAX_OPERANDS] = {data};
    (void)peer;
    (void)channel;
    hold(of(comm));
    HLM_TRY(ops_of(comm)->launch(of(comm)->queue, &zero, operands, NULL, err));
    return new_request(comm, out, err);
}

static enum hlm_status transport_wait(struct hlm_comm *comm, struct hlm_request *request,
                                      struct hlm_err *err)
{
    return ops_of(comm)->event_wait(of(comm)->queue, request->done, err);
}

static void use_queue(struct hlm_comm *comm, struct hlm_queue *queue)
{
    of(comm)->queue = queue;
}

static enum hlm_status check(struct hlm_comm *comm, struct hlm_err *err)
{
    const struct transport *self = of(comm);
    if (self->broken != NULL) {
        return hlm_fail(err, HLM_FAILED, "%s", self->broken);
    }
    return atomic_load(&self->stopped)
               ? hlm_fail(err, HLM_FAILED, "rank %d: the transport was stopped", comm->rank)
               : HLM_OK;
}

static void transport_abort(struct hlm_comm *comm)
{
    atomic_store(&of(comm)->stopped, true);
}

static void release(struct hlm_comm *comm)
{
    while (of(comm)->requests != NULL) {
        struct hlm_request *request = of(comm)->requests;
        of(comm)->requests = request->next;
        ops_of(comm)->event_free(request->done);
        free(request);
    }
    hlm_comm_groups_release(&of(comm)->groups);
    free(comm);
}

void queue_transport_delay(struct hlm_comm *comm, double seconds)
{
    of(comm)->delay_s = seconds;
}

void queue_transport_break(struct hlm_comm *comm, const char *text)
{
    of(comm)->broken = text;
}

static const struct hlm_comm_ops ops = {
    .name = "imaginary",
    .stream_ordered = true,
    .release = release,
    .abort = transport_abort,
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .reduce_scatter = reduce_scatter,
    .barrier = barrier,
    .send = transport_send,
    .receive = transport_receive,
    .wait = transport_wait,
    .use_queue = use_queue,
    .check = check,
};

enum hlm_status queue_transport_new(const struct hlm_strategy *strategy, int32_t rank,
                                    struct hlm_backend *backend, struct hlm_comm **out,
                                    struct hlm_err *err)
{
    struct transport *self = calloc(1, sizeof *self);
    HLM_ASSERT(self != NULL);
    self->base = (struct hlm_comm){&ops, rank, hlm_layout_group_size(strategy, HLM_GROUP_WORLD)};
    self->backend = backend;
    atomic_init(&self->stopped, false);
    HLM_TRY(hlm_comm_groups_init(&self->groups, strategy, rank, err));
    *out = &self->base;
    return HLM_OK;
}
