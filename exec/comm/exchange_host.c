/* The exchange over a transport that works on host memory and blocks: the queue is emptied, data
 * that the host can't reach is staged, and the computing clock stands still. */
#include "exec/comm/exchange_internal.h"

static enum hlm_status init(struct hlm_exchange *exchange, struct hlm_err *err)
{
    (void)err;
    hlm_hostcopy_init(&exchange->host, exchange->config.backend, exchange->config.queue);
    exchange->host.arena = exchange->arena;
    return HLM_OK;
}

static void release(struct hlm_exchange *exchange)
{
    hlm_hostcopy_release(&exchange->host);
}

/* --- the clock --- */

static bool has_clock(const struct hlm_exchange *exchange)
{
    return exchange->config.clock != NULL && exchange->slot >= 0;
}

static enum hlm_status host_sync(struct hlm_exchange *exchange, struct hlm_err *err)
{
    return exchange->config.backend->ops->queue_sync(exchange->config.queue, err);
}

/* Computing ends here ... */
static enum hlm_status begin(struct hlm_exchange *exchange, const char *operation, double *start_s,
                             struct hlm_err *err)
{
    hlm_exchange_tell(exchange, operation, true);
    HLM_TRY(has_clock(exchange) ? hlm_compute_clock_pause(exchange->config.clock, err)
                                : host_sync(exchange, err));
    *start_s = hlm_exchange_wall_s();
    return HLM_OK;
}

/* ... and goes on here. */
static enum hlm_status end(struct hlm_exchange *exchange, double start_s, double *seconds,
                           struct hlm_err *err)
{
    if (seconds != NULL) {
        *seconds += hlm_exchange_wall_s() - start_s;
    }
    return has_clock(exchange) ? hlm_compute_clock_resume(exchange->config.clock, err) : HLM_OK;
}

/* --- collectives --- */

static enum hlm_status host_collective(struct hlm_exchange *exchange,
                                       const struct hlm_exchange_op *collective,
                                       struct hlm_err *err)
{
    const bool in_place = collective->out == NULL;
    void *in = NULL, *out = NULL;
    double start_s = 0.0;
    HLM_TRY(begin(exchange, hlm_op_texts[collective->kind], &start_s, err));
    HLM_TRY(hlm_hostcopy_in(&exchange->host, 0, collective->in, collective->in_bytes, &in, err));
    if (!in_place) {
        HLM_TRY(hlm_hostcopy_space(&exchange->host, 1, collective->out, collective->out_bytes, &out,
                                   err));
    }
    HLM_TRY(hlm_exchange_call(exchange, collective, in, out, err));
    HLM_TRY(hlm_hostcopy_out(&exchange->host, in_place ? collective->in : collective->out,
                             in_place ? in : out, collective->out_bytes, err));
    return end(exchange, start_s, hlm_exchange_collective_s(exchange), err);
}

static enum hlm_status host_start(struct hlm_exchange *exchange,
                                  const struct hlm_exchange_op *collective,
                                  struct hlm_transfer *transfer, bool *done, struct hlm_err *err)
{
    (void)transfer;
    *done = true;
    return host_collective(exchange, collective, err);
}

/* --- messages --- */

/* Staging of the message's own: it stays in use until the wait. */
static void reserve_staging(struct hlm_exchange *exchange, struct hlm_transfer *message)
{
    if (!exchange->config.backend->ops->host_memory && message->capacity < message->bytes) {
        message->staging = HLM_ARENA_ARRAY(exchange->arena, char, message->bytes);
        message->capacity = message->bytes;
    }
}

static enum hlm_status host_post(struct hlm_exchange *exchange, struct hlm_transfer *message,
                                 struct hlm_err *err)
{
    struct hlm_comm *comm = exchange->config.comm;
    double start_s = 0.0;
    HLM_TRY(begin(exchange, message->operation, &start_s, err));
    reserve_staging(exchange, message);
    void *host = message->staging != NULL ? message->staging : message->data;
    if (message->receives) {
        HLM_TRY(comm->ops->receive(comm, message->peer, (int32_t)message->channel, host,
                                   message->bytes, &message->request, err));
    } else {
        HLM_TRY(hlm_hostcopy_stage(&exchange->host, message->staging, message->data, message->bytes,
                                   err));
        HLM_TRY(comm->ops->send(comm, message->peer, (int32_t)message->channel, host,
                                message->bytes, &message->request, err));
    }
    return end(exchange, start_s, hlm_exchange_message_s(exchange), err);
}

static enum hlm_status host_wait(struct hlm_exchange *exchange, struct hlm_transfer *transfer,
                                 struct hlm_err *err)
{
    struct hlm_comm *comm = exchange->config.comm;
    double start_s = 0.0;
    HLM_TRY(begin(exchange, transfer->operation, &start_s, err));
    const enum hlm_status status = comm->ops->wait(comm, transfer->request, err);
    if (status != HLM_OK) {
        hlm_err_prefix(err, "%s", transfer->operation);
        return status;
    }
    if (transfer->receives && transfer->staging != NULL) {
        HLM_TRY(hlm_hostcopy_out(&exchange->host, transfer->data, transfer->staging,
                                 transfer->bytes, err));
    }
    return end(exchange, start_s, hlm_exchange_message_s(exchange), err);
}

/* --- values of the host --- */

static enum hlm_status host_host_sum(struct hlm_exchange *exchange, enum hlm_group group,
                                     double *values, int32_t count, const char *operation,
                                     struct hlm_err *err)
{
    struct hlm_comm *comm = exchange->config.comm;
    double start_s = 0.0;
    HLM_TRY(begin(exchange, operation, &start_s, err));
    HLM_TRY(comm->ops->all_reduce(comm, group, values, count, HLM_WIRE_F64, HLM_REDUCE_SUM, err));
    return end(exchange, start_s, hlm_exchange_message_s(exchange), err);
}

static enum hlm_status host_host_gather(struct hlm_exchange *exchange, enum hlm_group group,
                                        const void *in, void *out, int64_t bytes,
                                        struct hlm_err *err)
{
    struct hlm_comm *comm = exchange->config.comm;
    hlm_exchange_tell(exchange, "all_gather", true);
    return comm->ops->all_gather(comm, group, in, out, bytes, HLM_WIRE_BYTE, err);
}

static enum hlm_status host_barrier(struct hlm_exchange *exchange, enum hlm_group group,
                                    struct hlm_err *err)
{
    struct hlm_comm *comm = exchange->config.comm;
    HLM_TRY(host_sync(exchange, err));
    hlm_exchange_tell(exchange, "barrier", true);
    return comm->ops->barrier(comm, group, err);
}

const struct hlm_exchange_kind hlm_exchange_host = {
    .init = init,
    .release = release,
    .collective = host_collective,
    .start = host_start,
    .post = host_post,
    .wait = host_wait,
    .host_sum = host_host_sum,
    .host_gather = host_host_gather,
    .barrier = host_barrier,
    .sync = host_sync,
};
