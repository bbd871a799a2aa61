#include "exec/comm/exchange_internal.h"

#include <time.h>

/* --- small parts --- */

double hlm_exchange_wall_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void hlm_exchange_tell(const struct hlm_exchange *exchange, const char *operation, bool waiting)
{
    if (exchange->config.tell != NULL) {
        exchange->config.tell(exchange->config.tell_context, operation, waiting);
    }
}

static struct hlm_exchange_times *times_now(struct hlm_exchange *exchange)
{
    return exchange->slot >= 0 ? &exchange->times[exchange->slot] : NULL;
}

double *hlm_exchange_collective_s(struct hlm_exchange *exchange)
{
    struct hlm_exchange_times *times = times_now(exchange);
    return times != NULL ? &times->collective_s : NULL;
}

double *hlm_exchange_message_s(struct hlm_exchange *exchange)
{
    struct hlm_exchange_times *times = times_now(exchange);
    return times != NULL ? &times->message_s : NULL;
}

double *hlm_exchange_beside_s(struct hlm_exchange *exchange)
{
    struct hlm_exchange_times *times = times_now(exchange);
    return times != NULL ? &times->beside_s : NULL;
}

/* Every function of a kind ends here: a failure names its action, and computing goes on. */
static enum hlm_status finish(struct hlm_exchange *exchange, enum hlm_status status,
                              struct hlm_err *err)
{
    if (status == HLM_OK) {
        hlm_exchange_tell(exchange, NULL, false);
        return HLM_OK;
    }
    const char *action = exchange->blamed != NULL ? exchange->blamed : exchange->action;
    if (action != NULL) {
        hlm_err_prefix(err, "%s", action);
    }
    exchange->failed = true;
    return status;
}

/* --- life --- */

enum hlm_status hlm_exchange_new(struct hlm_arena *arena, const struct hlm_exchange_config *config,
                                 struct hlm_exchange **out, struct hlm_err *err)
{
    struct hlm_exchange *exchange = HLM_ARENA_NEW(arena, struct hlm_exchange);
    *exchange = (struct hlm_exchange){
        .config = *config,
        .kind = config->comm->ops->stream_ordered ? &hlm_exchange_queue : &hlm_exchange_host,
        .arena = arena,
        .slot = -1};
    exchange->times = HLM_ARENA_ARRAY(arena, struct hlm_exchange_times, config->num_slots);
    hlm_exchange_step_begin(exchange);
    HLM_TRY(hlm_comm_groups_init(&exchange->groups, config->strategy, config->comm->rank, err));
    const enum hlm_status status = exchange->kind->init(exchange, err);
    if (status != HLM_OK) {
        hlm_exchange_free(exchange);
        return status;
    }
    *out = exchange;
    return HLM_OK;
}

void hlm_exchange_free(struct hlm_exchange *exchange)
{
    if (exchange != NULL) {
        exchange->kind->release(exchange);
        hlm_comm_groups_release(&exchange->groups);
    }
}

/* --- the frame --- */

void hlm_exchange_step_begin(struct hlm_exchange *exchange)
{
    for (int32_t i = 0; i < exchange->config.num_slots; i++) {
        exchange->times[i] = (struct hlm_exchange_times){0};
    }
}

void hlm_exchange_enter(struct hlm_exchange *exchange, const char *action, int32_t slot)
{
    HLM_ASSERT(slot < exchange->config.num_slots);
    exchange->action = action;
    exchange->slot = slot;
}

enum hlm_status hlm_exchange_step_end(struct hlm_exchange *exchange, struct hlm_err *err)
{
    return hlm_exchange_sync(exchange, err);
}

struct hlm_exchange_times hlm_exchange_times(const struct hlm_exchange *exchange, int32_t slot)
{
    HLM_ASSERT(slot >= 0 && slot < exchange->config.num_slots);
    return exchange->times[slot];
}

/* --- collectives --- */

/* In place on the whole buffer, from a share to the whole, or from the whole to a share. */
static struct hlm_exchange_op collective_of(const struct hlm_exchange *exchange,
                                            const struct hlm_op *op, void *in, void *out)
{
    const enum hlm_wire type = op->dtype == HLM_DTYPE_FP32 ? HLM_WIRE_F32 : HLM_WIRE_BF16;
    HLM_ASSERT(op->dtype == HLM_DTYPE_FP32 || op->dtype == HLM_DTYPE_BF16);
    struct hlm_exchange_op collective = {
        .kind = op->kind,
        .group = op->group,
        .type = type,
        .reduce = op->kind == HLM_OP_ALL_REDUCE_MAX ? HLM_REDUCE_MAX : HLM_REDUCE_SUM,
        .whole = op->m * op->n,
        .in = in,
        .out = out};
    const int64_t num_ranks = exchange->groups.of[op->group].size;
    HLM_ASSERT(out == NULL || collective.whole % num_ranks == 0);
    collective.part = collective.whole / num_ranks;
    collective.in_bytes =
        (op->kind == HLM_OP_ALL_GATHER ? collective.part : collective.whole) * hlm_wire_bytes(type);
    collective.out_bytes =
        (op->kind == HLM_OP_REDUCE_SCATTER ? collective.part : collective.whole) *
        hlm_wire_bytes(type);
    return collective;
}

enum hlm_status hlm_exchange_call(struct hlm_exchange *exchange,
                                  const struct hlm_exchange_op *collective, void *in, void *out,
                                  struct hlm_err *err)
{
    struct hlm_comm *comm = exchange->config.comm;
    switch (collective->kind) {
    case HLM_OP_ALL_REDUCE:
    case HLM_OP_ALL_REDUCE_MAX:
        return comm->ops->all_reduce(comm, collective->group, in, collective->whole,
                                     collective->type, collective->reduce, err);
    case HLM_OP_ALL_GATHER:
        return comm->ops->all_gather(comm, collective->group, in, out, collective->part,
                                     collective->type, err);
    case HLM_OP_REDUCE_SCATTER:
        return comm->ops->reduce_scatter(comm, collective->group, in, out, collective->part,
                                         collective->type, err);
    case HLM_OP_ALL_TO_ALL:
        return comm->ops->all_to_all(comm, collective->group, in, collective->sent_bytes, out,
                                     collective->received_bytes, err);
    default:
        return hlm_fail(err, HLM_FAILED, "no transport runs %s", hlm_op_texts[collective->kind]);
    }
}

/* Alone in the group: at most a copy. */
static bool is_alone(const struct hlm_exchange *exchange, const struct hlm_exchange_op *collective)
{
    return exchange->groups.of[collective->group].size == 1 || collective->whole == 0;
}

static enum hlm_status copy_alone(const struct hlm_exchange *exchange,
                                  const struct hlm_exchange_op *collective, struct hlm_err *err)
{
    return collective->out == NULL
               ? HLM_OK
               : exchange->config.backend->ops->copy(exchange->config.queue, collective->out,
                                                     collective->in, collective->in_bytes, err);
}

enum hlm_status hlm_exchange_collective(struct hlm_exchange *exchange, const struct hlm_op *op,
                                        void *in, void *out, struct hlm_err *err)
{
    const struct hlm_exchange_op collective = collective_of(exchange, op, in, out);
    if (is_alone(exchange, &collective)) {
        return finish(exchange, copy_alone(exchange, &collective, err), err);
    }
    return finish(exchange, exchange->kind->collective(exchange, &collective, err), err);
}

/* --- rows between experts --- */

/* Numbers from the device, as many for each rank as for any other. */
static enum hlm_status read_counts(struct hlm_exchange *exchange, const void *device,
                                   int32_t *counts, int64_t num, struct hlm_err *err)
{
    return exchange->config.backend->ops->download(exchange->config.queue, counts, device,
                                                   num * (int64_t)sizeof(int32_t), err);
}

/* bytes[i] of rank i; returns the rows of all ranks. */
static int64_t count_bytes(const int32_t *counts, int64_t per_rank, int32_t num_ranks,
                           int64_t row_bytes, int64_t *bytes)
{
    int64_t rows = 0;
    for (int32_t rank = 0; rank < num_ranks; rank++) {
        int64_t of_rank = 0;
        for (int64_t i = 0; i < per_rank; i++) {
            of_rank += counts[rank * per_rank + i];
        }
        bytes[rank] = of_rank * row_bytes;
        rows += of_rank;
    }
    return rows;
}

static enum hlm_status check_room(const struct hlm_exchange *exchange, const struct hlm_op *op,
                                  int64_t num_in, int64_t num_out, struct hlm_err *err)
{
    const bool in_fits = num_in <= op->num_in, out_fits = num_out <= op->num_out;
    return in_fits && out_fits
               ? HLM_OK
               : hlm_fail(
                     err, HLM_FAILED, "rank %d: %s over %s has %lld rows to %s, with room for %lld",
                     exchange->config.comm->rank, hlm_op_texts[op->kind],
                     hlm_group_texts[op->group], (long long)(in_fits ? num_out : num_in),
                     in_fits ? "receive" : "send", (long long)(in_fits ? op->num_out : op->num_in));
}

static void reserve_counts(struct hlm_exchange *exchange, int64_t num)
{
    if (exchange->sizes == NULL) {
        exchange->sizes = HLM_ARENA_ARRAY(exchange->arena, int64_t,
                                          2 * (int64_t)exchange->config.comm->world_size);
    }
    for (int i = 0; i < 2 && exchange->num_counts < num; i++) {
        exchange->counts[i] = HLM_ARENA_ARRAY(exchange->arena, int32_t, num);
    }
    exchange->num_counts = num > exchange->num_counts ? num : exchange->num_counts;
}

static enum hlm_status find_sizes(struct hlm_exchange *exchange, const struct hlm_op *op,
                                  void *const *operands, int64_t row_bytes,
                                  struct hlm_exchange_op *out, struct hlm_err *err)
{
    const int32_t num_ranks = exchange->groups.of[op->group].size;
    const int64_t per_rank = op->num_experts, num = num_ranks * per_rank;
    reserve_counts(exchange, num);
    int64_t *sent = exchange->sizes, *received = exchange->sizes + num_ranks;
    HLM_TRY(read_counts(exchange, operands[2], exchange->counts[0], num, err));
    HLM_TRY(read_counts(exchange, operands[3], exchange->counts[1], num, err));
    HLM_TRY(exchange->kind->sync(exchange, err));
    const int64_t num_in = count_bytes(exchange->counts[0], per_rank, num_ranks, row_bytes, sent);
    const int64_t num_out =
        count_bytes(exchange->counts[1], per_rank, num_ranks, row_bytes, received);
    out->in_bytes = num_in * row_bytes;
    out->out_bytes = num_out * row_bytes;
    return check_room(exchange, op, num_in, num_out, err);
}

static void find_equal_sizes(struct hlm_exchange *exchange, const struct hlm_op *op,
                             int64_t row_bytes, struct hlm_exchange_op *out)
{
    const int32_t num_ranks = exchange->groups.of[op->group].size;
    HLM_ASSERT(op->m % num_ranks == 0);
    reserve_counts(exchange, 0);
    for (int32_t i = 0; i < 2 * num_ranks; i++) {
        exchange->sizes[i] = op->m / num_ranks * row_bytes;
    }
    out->in_bytes = out->out_bytes = op->m * row_bytes;
}

static enum hlm_status all_to_all(struct hlm_exchange *exchange, const struct hlm_op *op,
                                  void *const *operands, struct hlm_err *err)
{
    const struct hlm_comm *comm = exchange->config.comm;
    if (comm->ops->all_to_all == NULL) {
        return hlm_fail(err, HLM_ENV, "transport %s has no %s, which experts on several ranks need",
                        comm->ops->name, hlm_op_texts[op->kind]);
    }
    const int64_t row_bytes = op->n * (int64_t)hlm_dtype_bytes(op->dtype);
    struct hlm_exchange_op collective = {
        .kind = op->kind, .group = op->group, .in = operands[0], .out = operands[1]};
    if (operands[2] == NULL) {
        find_equal_sizes(exchange, op, row_bytes, &collective);
    } else {
        HLM_TRY(find_sizes(exchange, op, operands, row_bytes, &collective, err));
    }
    collective.sent_bytes = exchange->sizes;
    collective.received_bytes = exchange->sizes + exchange->groups.of[op->group].size;
    return exchange->kind->collective(exchange, &collective, err);
}

enum hlm_status hlm_exchange_all_to_all(struct hlm_exchange *exchange, const struct hlm_op *op,
                                        void *const *operands, struct hlm_err *err)
{
    HLM_ASSERT(op->kind == HLM_OP_ALL_TO_ALL && exchange->groups.of[op->group].size > 1);
    struct hlm_exchange_times *times = times_now(exchange);
    const double before_s = times != NULL ? times->collective_s : 0.0;
    const enum hlm_status status = all_to_all(exchange, op, operands, err);
    if (times != NULL) {
        times->expert_s += times->collective_s - before_s;
    }
    return finish(exchange, status, err);
}

/* --- transfers --- */

static struct hlm_transfer *take_transfer(struct hlm_exchange *exchange)
{
    struct hlm_transfer *transfer = exchange->unused;
    if (transfer == NULL) {
        transfer = HLM_ARENA_NEW(exchange->arena, struct hlm_transfer);
    } else {
        exchange->unused = transfer->next;
    }
    *transfer = (struct hlm_transfer){.staging = transfer->staging, .capacity = transfer->capacity};
    return transfer;
}

static void put_transfer(struct hlm_exchange *exchange, struct hlm_transfer *transfer)
{
    transfer->next = exchange->unused;
    exchange->unused = transfer;
}

enum hlm_status hlm_exchange_start(struct hlm_exchange *exchange, const struct hlm_op *op, void *in,
                                   void *out_data, struct hlm_transfer **out, struct hlm_err *err)
{
    const struct hlm_exchange_op collective = collective_of(exchange, op, in, out_data);
    if (is_alone(exchange, &collective)) {
        *out = NULL;
        return finish(exchange, copy_alone(exchange, &collective, err), err);
    }
    bool done = false;
    struct hlm_transfer *transfer = take_transfer(exchange);
    transfer->operation = hlm_op_texts[op->kind];
    const enum hlm_status status =
        exchange->kind->start(exchange, &collective, transfer, &done, err);
    if (status != HLM_OK || done) {
        put_transfer(exchange, transfer);
        transfer = NULL;
    }
    HLM_TRY(finish(exchange, status, err));
    *out = transfer;
    return HLM_OK;
}

static const char *const send_texts[] = {
#define X(name, text) "send " text,
    HLM_CHANNEL_MAP(X)
#undef X
};

static const char *const receive_texts[] = {
#define X(name, text) "receive " text,
    HLM_CHANNEL_MAP(X)
#undef X
};

static enum hlm_status post_message(struct hlm_exchange *exchange, bool receives, int32_t peer,
                                    enum hlm_channel channel, void *data, int64_t bytes,
                                    struct hlm_transfer **out, struct hlm_err *err)
{
    HLM_ASSERT(bytes > 0 && peer >= 0 && peer < exchange->config.comm->world_size &&
               peer != exchange->config.comm->rank);
    struct hlm_transfer *message = take_transfer(exchange);
    message->operation = (receives ? receive_texts : send_texts)[channel];
    message->receives = receives;
    message->channel = channel;
    message->peer = peer;
    message->data = data;
    message->bytes = bytes;
    HLM_TRY(finish(exchange, exchange->kind->post(exchange, message, err), err));
    *out = message;
    return HLM_OK;
}

enum hlm_status hlm_exchange_send(struct hlm_exchange *exchange, int32_t peer,
                                  enum hlm_channel channel, void *data, int64_t bytes,
                                  struct hlm_transfer **out, struct hlm_err *err)
{
    return post_message(exchange, false, peer, channel, data, bytes, out, err);
}

enum hlm_status hlm_exchange_receive(struct hlm_exchange *exchange, int32_t peer,
                                     enum hlm_channel channel, void *data, int64_t bytes,
                                     struct hlm_transfer **out, struct hlm_err *err)
{
    return post_message(exchange, true, peer, channel, data, bytes, out, err);
}

enum hlm_status hlm_exchange_wait(struct hlm_exchange *exchange, struct hlm_transfer **transfer,
                                  struct hlm_err *err)
{
    struct hlm_transfer *waited = *transfer;
    if (waited == NULL) {
        return HLM_OK;
    }
    *transfer = NULL;
    const enum hlm_status status = exchange->kind->wait(exchange, waited, err);
    put_transfer(exchange, waited);
    return finish(exchange, status, err);
}

/* --- values of the host --- */

enum hlm_status hlm_exchange_host_sum(struct hlm_exchange *exchange, enum hlm_group group,
                                      double *values, int32_t count, const char *operation,
                                      struct hlm_err *err)
{
    if (exchange->groups.of[group].size == 1 || count == 0) {
        return HLM_OK;
    }
    return finish(exchange,
                  exchange->kind->host_sum(exchange, group, values, count, operation, err), err);
}

enum hlm_status hlm_exchange_host_gather(struct hlm_exchange *exchange, enum hlm_group group,
                                         const void *in, void *out, int64_t bytes,
                                         struct hlm_err *err)
{
    return finish(exchange, exchange->kind->host_gather(exchange, group, in, out, bytes, err), err);
}

enum hlm_status hlm_exchange_barrier(struct hlm_exchange *exchange, enum hlm_group group,
                                     struct hlm_err *err)
{
    return finish(exchange, exchange->kind->barrier(exchange, group, err), err);
}

enum hlm_status hlm_exchange_sync(struct hlm_exchange *exchange, struct hlm_err *err)
{
    return finish(exchange, exchange->kind->sync(exchange, err), err);
}
