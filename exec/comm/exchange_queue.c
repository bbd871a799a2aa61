/* The exchange over a stream-ordered transport: nothing blocks but what hands values to the host.
 *
 * Marks on the compute queue enclose every stretch that depends on other ranks. They give the times
 * once they have run, and they tell a sync what it waits for: the first mark that is not through.
 * While the queue has not come to its beginning, it computes, and nobody else is to blame. */
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "exec/comm/exchange_internal.h"

/* Of device memory for values of the host, for this rank and for each of the world. */
enum { SHARE_BYTES = 4096 };

/* A sync looks this often before it sleeps between looks. */
enum { NUM_BUSY_LOOKS = 200 };
static const struct timespec pause_between_looks = {0, 50000};

static const struct hlm_backend_ops *ops_of(const struct hlm_exchange *exchange)
{
    return exchange->config.backend->ops;
}

/* --- life --- */

static enum hlm_status init(struct hlm_exchange *exchange, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = ops_of(exchange);
    struct hlm_backend *backend = exchange->config.backend;
    struct hlm_exchange_lanes *lanes = &exchange->lanes;
    for (int i = 0; i < HLM_NUM_LANES; i++) {
        HLM_TRY(ops->queue_new(backend, &lanes->queues[i], err));
    }
    HLM_TRY(ops->event_new(backend, &lanes->tie, err));
    HLM_TRY(ops->event_new(backend, &lanes->last, err));
    lanes->sums = HLM_ARENA_ARRAY(exchange->arena, char, SHARE_BYTES);
    lanes->scratch_bytes = SHARE_BYTES * ((int64_t)exchange->config.comm->world_size + 1);
    return ops->alloc(backend, lanes->scratch_bytes, &lanes->scratch, err);
}

static void free_event(const struct hlm_exchange *exchange, struct hlm_event *event)
{
    if (event != NULL) {
        ops_of(exchange)->event_free(event);
    }
}

static void empty_queue(const struct hlm_exchange *exchange, struct hlm_queue *queue)
{
    struct hlm_err told_before;
    const enum hlm_status status = ops_of(exchange)->queue_sync(queue, &told_before);
    (void)status;
}

/* After a failure the peers may never come: the transport lets go of the queues first. */
static void release(struct hlm_exchange *exchange)
{
    struct hlm_comm *comm = exchange->config.comm;
    struct hlm_exchange_lanes *lanes = &exchange->lanes;
    if (exchange->failed) {
        comm->ops->abort(comm);
    }
    empty_queue(exchange, exchange->config.queue);
    for (int i = 0; i < HLM_NUM_LANES && lanes->queues[i] != NULL; i++) {
        empty_queue(exchange, lanes->queues[i]);
    }
    comm->ops->use_queue(comm, NULL);
    for (int i = 0; i < HLM_NUM_LANES && lanes->queues[i] != NULL; i++) {
        ops_of(exchange)->queue_free(lanes->queues[i]);
    }
    for (struct hlm_exchange_mark *mark = lanes->all; mark != NULL; mark = mark->next_all) {
        free_event(exchange, mark->begin);
        free_event(exchange, mark->end);
    }
    free_event(exchange, lanes->tie);
    free_event(exchange, lanes->last);
    if (lanes->scratch != NULL) {
        ops_of(exchange)->free(exchange->config.backend, lanes->scratch);
    }
}

/* --- marks --- */

static enum hlm_status take_mark(struct hlm_exchange *exchange, struct hlm_exchange_mark **out,
                                 struct hlm_err *err)
{
    struct hlm_exchange_lanes *lanes = &exchange->lanes;
    struct hlm_exchange_mark *mark = lanes->unused;
    if (mark != NULL) {
        lanes->unused = mark->next;
    } else {
        mark = HLM_ARENA_NEW(exchange->arena, struct hlm_exchange_mark);
        mark->next_all = lanes->all;
        lanes->all = mark;
        HLM_TRY(ops_of(exchange)->event_new(exchange->config.backend, &mark->begin, err));
        HLM_TRY(ops_of(exchange)->event_new(exchange->config.backend, &mark->end, err));
    }
    mark->next = NULL;
    mark->action = exchange->action;
    *out = mark;
    return HLM_OK;
}

/* Appends a mark that is complete on its queue to those that will be harvested. */
static void append_mark(struct hlm_exchange *exchange, struct hlm_exchange_mark *mark)
{
    struct hlm_exchange_lanes *lanes = &exchange->lanes;
    *(lanes->first == NULL ? &lanes->first : &lanes->end->next) = mark;
    lanes->end = mark;
    if (lanes->watched == NULL) {
        lanes->watched = mark;
        lanes->reached_s = 0.0;
    }
}

/* What a mark is about: an operation of a group (peer -1), or one with a peer. */
struct subject {
    const char *operation;
    enum hlm_group group;
    int32_t peer;
    double *seconds;
};

static enum hlm_status begin_mark(struct hlm_exchange *exchange, struct hlm_queue *queue,
                                  const struct subject *subject, struct hlm_exchange_mark **out,
                                  struct hlm_err *err)
{
    HLM_TRY(take_mark(exchange, out, err));
    (*out)->operation = subject->operation;
    (*out)->group = subject->group;
    (*out)->peer = subject->peer;
    (*out)->seconds = subject->seconds;
    return ops_of(exchange)->event_record(queue, (*out)->begin, err);
}

/* The compute queue is empty: all its marks have run. */
static void harvest(struct hlm_exchange *exchange)
{
    struct hlm_exchange_lanes *lanes = &exchange->lanes;
    while (lanes->first != NULL) {
        struct hlm_exchange_mark *mark = lanes->first;
        if (mark->seconds != NULL) {
            *mark->seconds += ops_of(exchange)->event_time(mark->end).wall_s -
                              ops_of(exchange)->event_time(mark->begin).wall_s;
        }
        lanes->first = mark->next;
        mark->next = lanes->unused;
        lanes->unused = mark;
    }
    lanes->watched = NULL;
}

/* --- waiting --- */

/* "rank 1, 3", cut where it gets long. */
static void list_peers(const struct hlm_exchange *exchange, enum hlm_group kind, char text[96])
{
    const struct hlm_comm_group *group = &exchange->groups.of[kind];
    int length = snprintf(text, 96, "rank");
    for (int32_t i = 0, n = 0; i < group->size && length < 80; i++) {
        if (i != group->position) {
            length += snprintf(text + length, 96 - (size_t)length, "%s %d", n++ > 0 ? "," : "",
                               group->members[i]);
        }
    }
}

static enum hlm_status fail_late(struct hlm_exchange *exchange,
                                 const struct hlm_exchange_mark *mark, struct hlm_err *err)
{
    struct hlm_comm *comm = exchange->config.comm;
    exchange->blamed = mark->action;
    comm->ops->abort(comm);
    if (mark->peer >= 0) {
        return hlm_fail(err, HLM_FAILED, "rank %d has waited %g s for rank %d: %s", comm->rank,
                        exchange->config.timeout_s, mark->peer, mark->operation);
    }
    char peers[96];
    list_peers(exchange, mark->group, peers);
    return hlm_fail(err, HLM_FAILED, "rank %d has waited %g s for %s over %s with %s", comm->rank,
                    exchange->config.timeout_s, mark->operation, hlm_group_texts[mark->group],
                    peers);
}

/* Passes over marks that are through; fails when the queue has stood at one for too long. */
static enum hlm_status watch(struct hlm_exchange *exchange, struct hlm_err *err)
{
    struct hlm_exchange_lanes *lanes = &exchange->lanes;
    bool done = true;
    while (lanes->watched != NULL) {
        HLM_TRY(ops_of(exchange)->event_done(lanes->watched->end, &done, err));
        if (!done) {
            break;
        }
        lanes->watched = lanes->watched->next;
        lanes->reached_s = 0.0;
    }
    if (lanes->watched == NULL) {
        return HLM_OK;
    }
    const double now_s = hlm_exchange_wall_s();
    if (lanes->reached_s <= 0.0) {
        HLM_TRY(ops_of(exchange)->event_done(lanes->watched->begin, &done, err));
        lanes->reached_s = done ? now_s : 0.0;
        return HLM_OK;
    }
    return now_s - lanes->reached_s > exchange->config.timeout_s
               ? fail_late(exchange, lanes->watched, err)
               : HLM_OK;
}

static enum hlm_status look(struct hlm_exchange *exchange, struct hlm_err *err)
{
    struct hlm_comm *comm = exchange->config.comm;
    HLM_TRY(watch(exchange, err));
    const enum hlm_status status = comm->ops->check(comm, err);
    if (status != HLM_OK && exchange->lanes.watched != NULL) {
        exchange->blamed = exchange->lanes.watched->action;
        hlm_err_prefix(err, "%s", exchange->lanes.watched->operation);
    }
    return status;
}

static enum hlm_status queue_sync(struct hlm_exchange *exchange, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = ops_of(exchange);
    struct hlm_exchange_lanes *lanes = &exchange->lanes;
    bool done = false;
    HLM_TRY(ops->event_record(exchange->config.queue, lanes->last, err));
    HLM_TRY(ops->event_done(lanes->last, &done, err));
    for (int looks = 0; !done; looks++) {
        HLM_TRY(look(exchange, err));
        if (looks < NUM_BUSY_LOOKS) {
            sched_yield();
        } else {
            nanosleep(&pause_between_looks, NULL);
        }
        HLM_TRY(ops->event_done(lanes->last, &done, err));
    }
    HLM_TRY(ops->queue_sync(exchange->config.queue, err));
    harvest(exchange);
    return HLM_OK;
}

/* --- order --- */

static enum hlm_status run_behind(struct hlm_exchange *exchange, struct hlm_queue *later,
                                  struct hlm_queue *earlier, struct hlm_err *err)
{
    HLM_TRY(ops_of(exchange)->event_record(earlier, exchange->lanes.tie, err));
    return ops_of(exchange)->event_wait(later, exchange->lanes.tie, err);
}

static void use_queue(struct hlm_exchange *exchange, struct hlm_queue *queue)
{
    exchange->config.comm->ops->use_queue(exchange->config.comm, queue);
}

/* The lane is behind the compute queue then, and the transport uses it. */
static enum hlm_status enter_lane(struct hlm_exchange *exchange, struct hlm_queue *lane,
                                  struct hlm_err *err)
{
    use_queue(exchange, lane);
    return run_behind(exchange, lane, exchange->config.queue, err);
}

/* --- collectives --- */

static struct subject subject_of(const struct hlm_exchange_op *collective, double *seconds)
{
    return (struct subject){.operation = hlm_op_texts[collective->kind],
                            .group = collective->group,
                            .peer = -1,
                            .seconds = seconds};
}

/* On the queue, between the two ends of a mark. */
static enum hlm_status marked_call(struct hlm_exchange *exchange, struct hlm_queue *queue,
                                   const struct hlm_exchange_op *collective, double *seconds,
                                   struct hlm_exchange_mark **out, struct hlm_err *err)
{
    const struct subject subject = subject_of(collective, seconds);
    HLM_TRY(begin_mark(exchange, queue, &subject, out, err));
    HLM_TRY(hlm_exchange_call(exchange, collective, collective->in, collective->out, err));
    return ops_of(exchange)->event_record(queue, (*out)->end, err);
}

static enum hlm_status queue_collective(struct hlm_exchange *exchange,
                                        const struct hlm_exchange_op *collective,
                                        struct hlm_err *err)
{
    struct hlm_exchange_mark *mark = NULL;
    hlm_exchange_tell(exchange, hlm_op_texts[collective->kind], false);
    use_queue(exchange, exchange->config.queue);
    HLM_TRY(marked_call(exchange, exchange->config.queue, collective,
                        hlm_exchange_collective_s(exchange), &mark, err));
    append_mark(exchange, mark);
    return HLM_OK;
}

static enum hlm_status queue_start(struct hlm_exchange *exchange,
                                   const struct hlm_exchange_op *collective,
                                   struct hlm_transfer *transfer, bool *done, struct hlm_err *err)
{
    struct hlm_queue *lane = exchange->lanes.queues[HLM_LANE_BESIDE];
    hlm_exchange_tell(exchange, hlm_op_texts[collective->kind], false);
    HLM_TRY(enter_lane(exchange, lane, err));
    HLM_TRY(marked_call(exchange, lane, collective, hlm_exchange_beside_s(exchange),
                        &transfer->mark, err));
    *done = false;
    return HLM_OK;
}

/* --- transfers --- */

static struct hlm_queue *lane_of(const struct hlm_exchange *exchange,
                                 const struct hlm_transfer *message)
{
    const int32_t first = message->receives ? HLM_LANE_RECEIVE : HLM_LANE_SEND;
    return exchange->lanes.queues[first + (int32_t)message->channel];
}

static enum hlm_status queue_post(struct hlm_exchange *exchange, struct hlm_transfer *message,
                                  struct hlm_err *err)
{
    struct hlm_comm *comm = exchange->config.comm;
    hlm_exchange_tell(exchange, message->operation, false);
    HLM_TRY(enter_lane(exchange, lane_of(exchange, message), err));
    if (message->receives) {
        return comm->ops->receive(comm, message->peer, (int32_t)message->channel, message->data,
                                  message->bytes, &message->request, err);
    }
    return comm->ops->send(comm, message->peer, (int32_t)message->channel, message->data,
                           message->bytes, &message->request, err);
}

static enum hlm_status wait_message(struct hlm_exchange *exchange, struct hlm_transfer *message,
                                    struct hlm_err *err)
{
    struct hlm_comm *comm = exchange->config.comm;
    const struct subject subject = {.operation = message->operation,
                                    .group = HLM_GROUP_WORLD,
                                    .peer = message->peer,
                                    .seconds = hlm_exchange_message_s(exchange)};
    struct hlm_exchange_mark *mark = NULL;
    use_queue(exchange, exchange->config.queue);
    HLM_TRY(begin_mark(exchange, exchange->config.queue, &subject, &mark, err));
    const enum hlm_status status = comm->ops->wait(comm, message->request, err);
    if (status != HLM_OK) {
        hlm_err_prefix(err, "%s", message->operation);
        return status;
    }
    HLM_TRY(ops_of(exchange)->event_record(exchange->config.queue, mark->end, err));
    append_mark(exchange, mark);
    return HLM_OK;
}

/* The mark beside is behind this wait on the compute queue, so it can be harvested with it. */
static enum hlm_status wait_beside(struct hlm_exchange *exchange, struct hlm_exchange_mark *beside,
                                   struct hlm_err *err)
{
    const struct subject subject = {.operation = beside->operation,
                                    .group = beside->group,
                                    .peer = -1,
                                    .seconds = hlm_exchange_collective_s(exchange)};
    struct hlm_exchange_mark *mark = NULL;
    struct hlm_queue *queue = exchange->config.queue;
    HLM_TRY(begin_mark(exchange, queue, &subject, &mark, err));
    mark->action = beside->action;
    HLM_TRY(ops_of(exchange)->event_wait(queue, beside->end, err));
    HLM_TRY(ops_of(exchange)->event_record(queue, mark->end, err));
    append_mark(exchange, mark);
    append_mark(exchange, beside);
    return HLM_OK;
}

static enum hlm_status queue_wait(struct hlm_exchange *exchange, struct hlm_transfer *transfer,
                                  struct hlm_err *err)
{
    hlm_exchange_tell(exchange, transfer->operation, true);
    return transfer->mark != NULL ? wait_beside(exchange, transfer->mark, err)
                                  : wait_message(exchange, transfer, err);
}

/* --- values of the host --- */

/* A collective over device memory for values of the host, told under a name of its own. */
static enum hlm_status scratch_collective(struct hlm_exchange *exchange,
                                          const struct hlm_exchange_op *collective,
                                          const char *operation, struct hlm_err *err)
{
    struct hlm_exchange_mark *mark = NULL;
    HLM_TRY(marked_call(exchange, exchange->config.queue, collective,
                        hlm_exchange_message_s(exchange), &mark, err));
    mark->operation = operation;
    append_mark(exchange, mark);
    return HLM_OK;
}

static enum hlm_status sum_some(struct hlm_exchange *exchange, enum hlm_group group, double *values,
                                int64_t count, const char *operation, struct hlm_err *err)
{
    struct hlm_queue *queue = exchange->config.queue;
    void *scratch = exchange->lanes.scratch;
    const int64_t bytes = count * (int64_t)sizeof *values;
    const struct hlm_exchange_op sum = {.kind = HLM_OP_ALL_REDUCE,
                                        .group = group,
                                        .type = HLM_WIRE_F64,
                                        .reduce = HLM_REDUCE_SUM,
                                        .whole = count,
                                        .in = scratch};
    HLM_TRY(ops_of(exchange)->upload(queue, scratch, values, bytes, err));
    HLM_TRY(scratch_collective(exchange, &sum, operation, err));
    /* Not to `values`: the upload may still read them. */
    HLM_TRY(ops_of(exchange)->download(queue, exchange->lanes.sums, scratch, bytes, err));
    HLM_TRY(queue_sync(exchange, err));
    memcpy(values, exchange->lanes.sums, (size_t)bytes);
    return HLM_OK;
}

static enum hlm_status queue_host_sum(struct hlm_exchange *exchange, enum hlm_group group,
                                      double *values, int32_t count, const char *operation,
                                      struct hlm_err *err)
{
    const int64_t most = SHARE_BYTES / (int64_t)sizeof *values;
    hlm_exchange_tell(exchange, operation, true);
    use_queue(exchange, exchange->config.queue);
    for (int64_t i = 0; i < count; i += most) {
        HLM_TRY(sum_some(exchange, group, values + i, count - i < most ? count - i : most,
                         operation, err));
    }
    return HLM_OK;
}

static enum hlm_status gather_some(struct hlm_exchange *exchange, enum hlm_group group,
                                   const char *in, char *out, int64_t bytes, int64_t distance,
                                   struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = ops_of(exchange);
    struct hlm_queue *queue = exchange->config.queue;
    const int32_t num_ranks = exchange->groups.of[group].size;
    char *scratch = exchange->lanes.scratch;
    const struct hlm_exchange_op gather = {.kind = HLM_OP_ALL_GATHER,
                                           .group = group,
                                           .type = HLM_WIRE_BYTE,
                                           .part = bytes,
                                           .in = scratch,
                                           .out = scratch + SHARE_BYTES};
    HLM_TRY(ops->upload(queue, scratch, in, bytes, err));
    HLM_TRY(scratch_collective(exchange, &gather, "all_gather", err));
    for (int32_t i = 0; i < num_ranks; i++) {
        HLM_TRY(ops->download(queue, out + i * distance, scratch + SHARE_BYTES + i * bytes, bytes,
                              err));
    }
    return queue_sync(exchange, err);
}

static enum hlm_status queue_host_gather(struct hlm_exchange *exchange, enum hlm_group group,
                                         const void *in, void *out, int64_t bytes,
                                         struct hlm_err *err)
{
    hlm_exchange_tell(exchange, "all_gather", true);
    use_queue(exchange, exchange->config.queue);
    for (int64_t i = 0; i < bytes; i += SHARE_BYTES) {
        HLM_TRY(gather_some(exchange, group, (const char *)in + i, (char *)out + i,
                            bytes - i < SHARE_BYTES ? bytes - i : SHARE_BYTES, bytes, err));
    }
    return HLM_OK;
}

/* A sum that nobody looks at: it ends when all have begun it. */
static enum hlm_status queue_barrier(struct hlm_exchange *exchange, enum hlm_group group,
                                     struct hlm_err *err)
{
    hlm_exchange_tell(exchange, "barrier", true);
    if (exchange->groups.of[group].size > 1) {
        double nothing = 0.0;
        HLM_TRY(queue_host_sum(exchange, group, &nothing, 1, "barrier", err));
    }
    return queue_sync(exchange, err);
}

const struct hlm_exchange_kind hlm_exchange_queue = {
    .init = init,
    .release = release,
    .collective = queue_collective,
    .start = queue_start,
    .post = queue_post,
    .wait = queue_wait,
    .host_sum = queue_host_sum,
    .host_gather = queue_host_gather,
    .barrier = queue_barrier,
    .sync = queue_sync,
};
