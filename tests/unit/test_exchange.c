/* The exchange: one small program of messages and collectives over three pairs of transport and
 * backend gives the results that arithmetic says, and waits in vain end with the right words. */
#include "exec/comm/exchange.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "exec/comm/comm_queue.h"
#include "tests/support/check.h"
#include "tests/support/comm_body.h"
#include "tests/support/late_backend.h"
#include "tests/support/queue_transport.h"

enum { MAX_RANKS = 8, COUNT = 600, BYTES = 4 * COUNT, NUM_MICROBATCHES = 4, NUM_SLOTS = 4 };

/* --- ranks --- */

enum pair { THREAD_CPU, THREAD_LATE, QUEUE_LATE, NUM_PAIRS };

/* A rank with everything it has; memory: [NUM_BUFFERS][COUNT] floats of the backend. */
enum buffer {
    IN_0,
    IN_1,
    OUT,
    DIN_0 = OUT + NUM_MICROBATCHES,
    DIN_1,
    GRADS,
    ALL = GRADS + NUM_MICROBATCHES,
    NUM_BUFFERS
};

struct rank {
    struct job *job;
    int32_t index;
    pthread_t thread;
    struct hlm_arena *arena;
    struct hlm_comm *comm;
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    struct hlm_exchange *exchange;
    struct hlm_compute_clock clock;
    char *memory;
    struct hlm_coords at;
    float result[NUM_BUFFERS][COUNT];
    double loss;
    int32_t gathered[MAX_RANKS];
    struct hlm_exchange_times times[NUM_SLOTS];
    int64_t num_told, num_waits;
    bool waits;
    enum hlm_status status;
    struct hlm_err err;
};

struct job {
    enum pair pair;
    struct hlm_strategy strategy;
    double timeout_s;
    enum hlm_status (*act)(struct rank *rank, struct hlm_err *err);
    struct hlm_backend *first;
    struct hlm_comm *comms[MAX_RANKS];
    struct rank ranks[MAX_RANKS];
};

static void tell(void *context, const char *operation, bool waiting)
{
    struct rank *rank = context;
    rank->num_told += operation != NULL;
    rank->num_waits += waiting;
    rank->waits = waiting;
}

static void *at(const struct rank *rank, int buffer)
{
    return rank->memory + (int64_t)buffer * BYTES;
}

static enum hlm_status new_backend(struct rank *rank, struct hlm_err *err)
{
    return rank->job->pair == THREAD_CPU
               ? hlm_backend_cpu_new(&rank->backend, err)
               : late_backend_new_beside(rank->job->first, &rank->backend,
                                         (uint64_t)rank->index + 1, 1e-3, err);
}

static enum hlm_status sit(struct rank *rank, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = NULL;
    void *memory = NULL;
    HLM_TRY(new_backend(rank, err));
    ops = rank->backend->ops;
    HLM_TRY(ops->queue_new(rank->backend, &rank->queue, err));
    HLM_TRY(ops->alloc(rank->backend, (int64_t)NUM_BUFFERS * BYTES, &memory, err));
    rank->memory = memory;
    HLM_TRY(hlm_compute_clock_init(&rank->clock, rank->backend, rank->queue, err));
    HLM_TRY(rank->job->pair == QUEUE_LATE
                ? hlm_comm_queue_use_backend(rank->comm, rank->backend, err)
                : HLM_OK);
    const struct hlm_exchange_config config = {.strategy = &rank->job->strategy,
                                               .comm = rank->comm,
                                               .backend = rank->backend,
                                               .queue = rank->queue,
                                               .timeout_s = rank->job->timeout_s,
                                               .num_slots = NUM_SLOTS,
                                               .clock = &rank->clock,
                                               .tell = tell,
                                               .tell_context = rank};
    return hlm_exchange_new(rank->arena, &config, &rank->exchange, err);
}

static void *run_rank(void *argument)
{
    struct rank *rank = argument;
    rank->arena = hlm_arena_new();
    rank->at = hlm_layout_coords(&rank->job->strategy, rank->index);
    rank->status = sit(rank, &rank->err);
    if (rank->status == HLM_OK) {
        rank->status = rank->job->act(rank, &rank->err);
    }
    if (rank->status != HLM_OK) {
        rank->comm->ops->abort(rank->comm);
    }
    hlm_exchange_free(rank->exchange);
    hlm_compute_clock_release(&rank->clock);
    hlm_comm_free(rank->comm);
    rank->backend->ops->queue_free(rank->queue);
    rank->backend->ops->free(rank->backend, rank->memory);
    hlm_backend_free(rank->backend);
    hlm_arena_free(rank->arena);
    return NULL;
}

static void run_job(struct job *job)
{
    struct hlm_err err;
    const int32_t world_size = hlm_layout_group_size(&job->strategy, HLM_GROUP_WORLD);
    const struct hlm_comm_config config = {
        .strategy = &job->strategy, .timeout_s = job->timeout_s, .max_bytes = NUM_BUFFERS * BYTES};
    check_ok((job->pair == QUEUE_LATE ? hlm_comm_queue_new : hlm_comm_thread_new)(&config,
                                                                                  job->comms, &err),
             &err);
    check_ok(late_backend_new(&job->first, 0, 0.0, &err), &err);
    for (int32_t i = 0; i < world_size; i++) {
        struct rank *rank = &job->ranks[i];
        *rank = (struct rank){.job = job, .index = i, .comm = job->comms[i]};
        assert_int_equal(pthread_create(&rank->thread, NULL, run_rank, rank), 0);
    }
    for (int32_t i = 0; i < world_size; i++) {
        pthread_join(job->ranks[i].thread, NULL);
    }
    hlm_backend_free(job->first);
}

/* --- the program --- */

static float first_value(int32_t dp, int32_t microbatch, int32_t i)
{
    return (float)(i % 7 + microbatch + 2 * dp + 1);
}

static enum hlm_status add(struct rank *rank, int a, int b, int out, struct hlm_err *err)
{
    const struct hlm_op op = {.kind = HLM_OP_ADD, .m = 1, .n = COUNT};
    void *const operands[HLM_OP_MAX_OPERANDS] = {at(rank, a), at(rank, b), at(rank, out)};
    return rank->backend->ops->launch(rank->queue, &op, operands, NULL, err);
}

static int32_t peer(const struct rank *rank, int32_t distance)
{
    struct hlm_coords coords = rank->at;
    coords.pp += distance;
    return hlm_layout_rank(&rank->job->strategy, coords);
}

static bool is_first(const struct rank *rank)
{
    return rank->at.pp == 0;
}

static bool is_last(const struct rank *rank)
{
    return rank->at.pp == rank->job->strategy.pp - 1;
}

static struct hlm_op collective_op(enum hlm_op_kind kind, enum hlm_group group, int64_t count)
{
    return (struct hlm_op){.kind = kind, .group = group, .m = count, .n = 1};
}

/* What is on its way; forward receives take turns in two buffers, and so do backward ones. */
struct way {
    struct hlm_transfer *in[NUM_MICROBATCHES + 1], *out[NUM_MICROBATCHES];
    struct hlm_transfer *din[NUM_MICROBATCHES + 1], *dout[NUM_MICROBATCHES];
    struct hlm_transfer *reduce[NUM_MICROBATCHES];
};

static enum hlm_status post_forward(struct rank *rank, struct way *way, int k, struct hlm_err *err)
{
    return is_first(rank) || k >= NUM_MICROBATCHES
               ? HLM_OK
               : hlm_exchange_receive(rank->exchange, peer(rank, -1), HLM_CHANNEL_FORWARD,
                                      at(rank, IN_0 + k % 2), BYTES, &way->in[k], err);
}

static enum hlm_status post_backward(struct rank *rank, struct way *way, int k, struct hlm_err *err)
{
    return is_last(rank) || k >= NUM_MICROBATCHES
               ? HLM_OK
               : hlm_exchange_receive(rank->exchange, peer(rank, 1), HLM_CHANNEL_BACKWARD,
                                      at(rank, DIN_0 + k % 2), BYTES, &way->din[k], err);
}

static enum hlm_status load(struct rank *rank, int k, struct hlm_err *err)
{
    float values[COUNT];
    for (int32_t i = 0; i < COUNT; i++) {
        values[i] = first_value(rank->at.dp, k, i);
    }
    HLM_TRY(rank->backend->ops->upload(rank->queue, at(rank, IN_0 + k % 2), values, BYTES, err));
    return hlm_exchange_sync(rank->exchange, err);
}

/* out = sum over tp of 2 in: times 2 tp. The next receive is posted where its buffer has been read.
 */
static enum hlm_status forward(struct rank *rank, struct way *way, int k, struct hlm_err *err)
{
    const struct hlm_op sum = collective_op(HLM_OP_ALL_REDUCE, HLM_GROUP_TP, COUNT);
    const int in = IN_0 + k % 2;
    hlm_exchange_enter(rank->exchange, "F", 0);
    HLM_TRY(is_first(rank) ? load(rank, k, err)
                           : hlm_exchange_wait(rank->exchange, &way->in[k], err));
    HLM_TRY(add(rank, in, in, OUT + k, err));
    HLM_TRY(post_forward(rank, way, k + 2, err));
    HLM_TRY(hlm_exchange_collective(rank->exchange, &sum, at(rank, OUT + k), NULL, err));
    return is_last(rank) ? HLM_OK
                         : hlm_exchange_send(rank->exchange, peer(rank, 1), HLM_CHANNEL_FORWARD,
                                             at(rank, OUT + k), BYTES, &way->out[k], err);
}

/* grads = 2 (what came back, or what came out); they go back, and are summed over dp. */
static enum hlm_status backward(struct rank *rank, struct way *way, int k, struct hlm_err *err)
{
    const struct hlm_op sum = collective_op(HLM_OP_ALL_REDUCE, HLM_GROUP_DP, COUNT);
    const int from = is_last(rank) ? OUT + k : DIN_0 + k % 2;
    hlm_exchange_enter(rank->exchange, "B", 1);
    HLM_TRY(hlm_exchange_wait(rank->exchange, &way->din[k], err));
    HLM_TRY(add(rank, from, from, GRADS + k, err));
    HLM_TRY(post_backward(rank, way, k + 2, err));
    if (!is_first(rank)) {
        HLM_TRY(hlm_exchange_send(rank->exchange, peer(rank, -1), HLM_CHANNEL_BACKWARD,
                                  at(rank, GRADS + k), BYTES, &way->dout[k], err));
        HLM_TRY(hlm_exchange_wait(rank->exchange, &way->dout[k], err)); /* it is summed in place */
    }
    return hlm_exchange_start(rank->exchange, &sum, at(rank, GRADS + k), NULL, &way->reduce[k],
                              err);
}

/* All gradients, summed over dp once more in shares: [2 dp] copies of the sums over shares. */
static enum hlm_status shares(struct rank *rank, struct hlm_err *err)
{
    const struct hlm_op scatter = collective_op(HLM_OP_REDUCE_SCATTER, HLM_GROUP_DP, COUNT);
    const struct hlm_op gather = collective_op(HLM_OP_ALL_GATHER, HLM_GROUP_DP, COUNT);
    const int64_t share = BYTES / rank->job->strategy.dp;
    char *own = (char *)at(rank, ALL) + rank->at.dp * share;
    HLM_TRY(hlm_exchange_collective(rank->exchange, &scatter, at(rank, GRADS), own, err));
    return hlm_exchange_collective(rank->exchange, &gather, own, at(rank, ALL), err);
}

static enum hlm_status step(struct rank *rank, struct way *way, struct hlm_err *err)
{
    struct hlm_exchange *exchange = rank->exchange;
    HLM_TRY(hlm_exchange_barrier(exchange, HLM_GROUP_WORLD, err));
    hlm_exchange_step_begin(exchange);
    hlm_exchange_enter(exchange, "R", -1);
    for (int k = 0; k < 2; k++) {
        HLM_TRY(post_forward(rank, way, k, err));
        HLM_TRY(post_backward(rank, way, k, err));
    }
    hlm_exchange_enter(exchange, "F", 0);
    HLM_TRY(hlm_compute_clock_start(&rank->clock, err));
    for (int k = 0; k < NUM_MICROBATCHES; k++) {
        HLM_TRY(forward(rank, way, k, err));
    }
    for (int k = 0; k < NUM_MICROBATCHES; k++) {
        HLM_TRY(backward(rank, way, k, err));
    }
    hlm_exchange_enter(exchange, "REDUCE_GRAD", 2);
    for (int k = 0; k < NUM_MICROBATCHES; k++) {
        HLM_TRY(hlm_exchange_wait(exchange, &way->reduce[k], err));
        HLM_TRY(hlm_exchange_wait(exchange, &way->out[k], err));
    }
    HLM_TRY(shares(rank, err));
    return hlm_exchange_step_end(exchange, err);
}

static enum hlm_status run_program(struct rank *rank, struct hlm_err *err)
{
    struct way way = {{NULL}, {NULL}, {NULL}, {NULL}, {NULL}};
    const int32_t own = 100 + rank->index;
    for (int repeat = 0; repeat < 2; repeat++) {
        HLM_TRY(step(rank, &way, err));
    }
    for (int32_t i = 0; i < NUM_SLOTS; i++) {
        rank->times[i] = hlm_exchange_times(rank->exchange, i);
    }
    hlm_exchange_enter(rank->exchange, NULL, -1);
    rank->loss = rank->index + 0.5;
    HLM_TRY(hlm_exchange_host_sum(rank->exchange, HLM_GROUP_WORLD, &rank->loss, 1,
                                  "all_reduce of the loss", err));
    HLM_TRY(hlm_exchange_host_gather(rank->exchange, HLM_GROUP_WORLD, &own, rank->gathered,
                                     sizeof own, err));
    HLM_TRY(rank->backend->ops->download(rank->queue, rank->result, rank->memory,
                                         (int64_t)sizeof rank->result, err));
    return hlm_exchange_sync(rank->exchange, err);
}

/* --- its results --- */

static float sum_over_dp(const struct job *job, int k, int32_t i)
{
    float sum = 0.0f;
    for (int32_t dp = 0; dp < job->strategy.dp; dp++) {
        sum += first_value(dp, k, i);
    }
    return sum;
}

static void check_result(const struct job *job, const struct rank *rank)
{
    const struct hlm_strategy *strategy = &job->strategy;
    const int32_t world_size = strategy->dp * strategy->tp * strategy->pp;
    const float forward_factor = powf(2.0f * (float)strategy->tp, (float)rank->at.pp + 1.0f);
    const float all_factor = powf(2.0f * (float)strategy->tp, (float)strategy->pp) *
                             powf(2.0f, (float)(strategy->pp - rank->at.pp));
    for (int k = 0; k < NUM_MICROBATCHES; k++) {
        for (int32_t i = 0; i < COUNT; i++) {
            const float out = forward_factor * first_value(rank->at.dp, k, i);
            const float grad = all_factor * sum_over_dp(job, k, i);
            check_close((double)rank->result[OUT + k][i], (double)out, 0.0);
            check_close((double)rank->result[GRADS + k][i], (double)grad, 0.0);
            check_close((double)rank->result[ALL][i],
                        (double)(all_factor * sum_over_dp(job, 0, i) * (float)strategy->dp), 0.0);
        }
    }
    check_close(rank->loss, 0.5 * world_size * world_size, 1e-15);
    for (int32_t i = 0; i < world_size; i++) {
        assert_int_equal(rank->gathered[i], 100 + i);
    }
}

static void check_times(const struct job *job, const struct rank *rank)
{
    const struct hlm_strategy *strategy = &job->strategy;
    const struct hlm_exchange_times *forward_times = &rank->times[0], *reduce = &rank->times[2];
    assert_true((forward_times->collective_s > 0.0) == (strategy->tp > 1));
    assert_true(is_first(rank) || forward_times->message_s > 0.0);
    assert_true((reduce->collective_s > 0.0) == (strategy->dp > 1));
    assert_true((rank->times[1].beside_s > 0.0) == (job->pair == QUEUE_LATE && strategy->dp > 1));
    const struct hlm_exchange_times none = rank->times[3];
    check_close(none.collective_s + none.message_s + none.beside_s, 0.0, 0.0);
    assert_true(rank->num_told > 0 && rank->num_waits > 0 && !rank->waits);
}

static void check_program(int32_t dp, int32_t tp, int32_t pp)
{
    static struct job job;
    for (int pair = 0; pair < NUM_PAIRS; pair++) {
        job = (struct job){.pair = (enum pair)pair,
                           .strategy = comm_body_strategy(dp, tp, pp),
                           .timeout_s = 60.0,
                           .act = run_program};
        run_job(&job);
        for (int32_t i = 0; i < dp * tp * pp; i++) {
            check_ok(job.ranks[i].status, &job.ranks[i].err);
            check_result(&job, &job.ranks[i]);
            check_times(&job, &job.ranks[i]);
        }
    }
}

static void test_same_program_everywhere(void **state)
{
    (void)state;
    check_program(1, 1, 1);
    check_program(2, 1, 2);
    check_program(1, 2, 2);
    check_program(2, 2, 2);
    check_program(1, 1, 3);
}

/* --- waits in vain, over real transports --- */

/* Rank 0 waits in action 1F0 for rank 1, which does something else for too long. */
static enum hlm_status idle(struct rank *rank, struct hlm_err *err)
{
    (void)rank;
    (void)err;
    usleep(700000);
    return HLM_OK;
}

static enum hlm_status receive_in_vain(struct rank *rank, struct hlm_err *err)
{
    struct hlm_transfer *transfer = NULL;
    if (rank->index == 1) {
        return idle(rank, err);
    }
    hlm_exchange_enter(rank->exchange, "R", -1);
    HLM_TRY(hlm_exchange_receive(rank->exchange, 1, HLM_CHANNEL_BACKWARD, at(rank, IN_0), BYTES,
                                 &transfer, err));
    hlm_exchange_enter(rank->exchange, "0B0", -1);
    return hlm_exchange_wait(rank->exchange, &transfer, err);
}

static enum hlm_status send_in_vain(struct rank *rank, struct hlm_err *err)
{
    struct hlm_transfer *transfer = NULL;
    if (rank->index == 1) {
        return idle(rank, err);
    }
    hlm_exchange_enter(rank->exchange, "0F0", -1);
    HLM_TRY(hlm_exchange_send(rank->exchange, 1, HLM_CHANNEL_FORWARD, at(rank, IN_0),
                              NUM_BUFFERS * BYTES, &transfer, err));
    return hlm_exchange_wait(rank->exchange, &transfer, err);
}

static enum hlm_status reduce_in_vain(struct rank *rank, struct hlm_err *err)
{
    const struct hlm_op sum = collective_op(HLM_OP_ALL_REDUCE, HLM_GROUP_PP, COUNT);
    if (rank->index == 1) {
        return idle(rank, err);
    }
    hlm_exchange_enter(rank->exchange, "0F0", -1);
    HLM_TRY(hlm_exchange_collective(rank->exchange, &sum, at(rank, IN_0), NULL, err));
    return hlm_exchange_sync(rank->exchange, err);
}

static enum hlm_status sum_in_vain(struct rank *rank, struct hlm_err *err)
{
    double value = 1.0;
    if (rank->index == 1) {
        return idle(rank, err);
    }
    hlm_exchange_enter(rank->exchange, "OPTIMIZER", -1);
    return hlm_exchange_host_sum(rank->exchange, HLM_GROUP_WORLD, &value, 1, "all_reduce of it",
                                 err);
}

static void check_in_vain(enum hlm_status (*act)(struct rank *, struct hlm_err *),
                          const char *expected)
{
    static struct job job;
    for (int pair = 0; pair < NUM_PAIRS; pair++) {
        job = (struct job){.pair = (enum pair)pair,
                           .strategy = comm_body_strategy(1, 1, 2),
                           .timeout_s = 0.3,
                           .act = act};
        run_job(&job);
        check_ok(job.ranks[1].status, &job.ranks[1].err);
        check_fails(job.ranks[0].status, HLM_FAILED, &job.ranks[0].err, expected);
    }
}

static void test_waits_in_vain(void **state)
{
    (void)state;
    check_in_vain(receive_in_vain, "0B0: receive backward: rank 0 has waited 0.3 s for a message "
                                   "from rank 1");
    check_in_vain(send_in_vain, "0F0: send forward: rank 0 has waited 0.3 s for a message to be "
                                "taken by rank 1");
    check_in_vain(reduce_in_vain, "0F0: all_reduce over pp: rank 0 has waited 0.3 s for the "
                                  "arrival of rank 1");
    check_in_vain(sum_in_vain, "OPTIMIZER: all_reduce over world: rank 0 has waited 0.3 s for the "
                               "arrival of rank 1");
}

/* --- a transport that is late, or never ends --- */

/* Rank 0 of two, the other is imaginary; data starts as ones. */
struct alone {
    struct hlm_strategy strategy;
    struct hlm_arena *arena;
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    struct hlm_comm *comm;
    struct hlm_exchange *exchange;
    struct hlm_err err;
    void *data, *other;
    float result[COUNT];
};

static void alone_init(struct alone *alone, double timeout_s)
{
    *alone = (struct alone){.strategy = comm_body_strategy(1, 2, 1), .arena = hlm_arena_new()};
    for (int i = 0; i < COUNT; i++) {
        alone->result[i] = 1.0f;
    }
    struct hlm_err *err = &alone->err;
    check_ok(late_backend_new(&alone->backend, 1, 1e-4, err), err);
    const struct hlm_backend_ops *ops = alone->backend->ops;
    check_ok(ops->queue_new(alone->backend, &alone->queue, err), err);
    check_ok(ops->alloc(alone->backend, BYTES, &alone->data, err), err);
    check_ok(ops->alloc(alone->backend, BYTES, &alone->other, err), err);
    check_ok(ops->upload(alone->queue, alone->data, alone->result, BYTES, err), err);
    check_ok(ops->queue_sync(alone->queue, err), err);
    check_ok(queue_transport_new(&alone->strategy, 0, alone->backend, &alone->comm, err), err);
    const struct hlm_exchange_config config = {.strategy = &alone->strategy,
                                               .comm = alone->comm,
                                               .backend = alone->backend,
                                               .queue = alone->queue,
                                               .timeout_s = timeout_s,
                                               .num_slots = 2};
    check_ok(hlm_exchange_new(alone->arena, &config, &alone->exchange, err), err);
}

static void alone_release(struct alone *alone)
{
    const struct hlm_backend_ops *ops = alone->backend->ops;
    hlm_exchange_free(alone->exchange);
    hlm_comm_free(alone->comm);
    ops->queue_free(alone->queue);
    ops->free(alone->backend, alone->data);
    ops->free(alone->backend, alone->other);
    hlm_backend_free(alone->backend);
    hlm_arena_free(alone->arena);
}

static void alone_add(struct alone *alone)
{
    const struct hlm_op op = {.kind = HLM_OP_ADD, .m = 1, .n = COUNT};
    void *const operands[HLM_OP_MAX_OPERANDS] = {alone->data, alone->data, alone->data};
    check_ok(alone->backend->ops->launch(alone->queue, &op, operands, NULL, &alone->err),
             &alone->err);
}

static float alone_result(struct alone *alone, const void *data)
{
    check_ok(alone->backend->ops->download(alone->queue, alone->result, data, BYTES, &alone->err),
             &alone->err);
    check_ok(hlm_exchange_sync(alone->exchange, &alone->err), &alone->err);
    for (int i = 1; i < COUNT; i++) {
        check_near((double)alone->result[i], (double)alone->result[0], 0.0);
    }
    return alone->result[0];
}

static const struct hlm_op sum_over_tp = {
    .kind = HLM_OP_ALL_REDUCE, .group = HLM_GROUP_TP, .m = COUNT, .n = 1};

/* Computing before and behind a late collective; the messages' lanes are behind the compute queue
 * and it behind their wait. A queue that computes for longer than the timeout is nobody's fault. */
static void test_late_operations(void **state)
{
    (void)state;
    struct alone alone;
    struct hlm_transfer *sum = NULL, *message = NULL;
    const atomic_bool never = false;
    alone_init(&alone, 0.3);
    queue_transport_delay(alone.comm, 0.02);
    late_backend_hold(alone.queue, &never, 0.5);
    alone_add(&alone);
    check_ok(hlm_exchange_collective(alone.exchange, &sum_over_tp, alone.data, NULL, &alone.err),
             &alone.err);
    alone_add(&alone);
    check_near((double)alone_result(&alone, alone.data), 8.0, 0.0);
    check_ok(hlm_exchange_start(alone.exchange, &sum_over_tp, alone.data, NULL, &sum, &alone.err),
             &alone.err);
    check_ok(hlm_exchange_receive(alone.exchange, 1, HLM_CHANNEL_FORWARD, alone.other, BYTES,
                                  &message, &alone.err),
             &alone.err);
    check_ok(hlm_exchange_wait(alone.exchange, &sum, &alone.err), &alone.err);
    check_ok(hlm_exchange_wait(alone.exchange, &message, &alone.err), &alone.err);
    assert_null(sum);
    alone_add(&alone);
    check_near((double)alone_result(&alone, alone.data), 32.0, 0.0);
    check_near((double)alone_result(&alone, alone.other), 0.0, 0.0);
    alone_release(&alone);
}

/* What hangs is named with the action that put it there, though the host has gone on. */
static void check_hang(enum hlm_status (*put)(struct alone *alone), const char *expected)
{
    struct alone alone;
    alone_init(&alone, 0.3);
    hlm_exchange_enter(alone.exchange, "0F1", -1);
    check_ok(hlm_exchange_collective(alone.exchange, &sum_over_tp, alone.data, NULL, &alone.err),
             &alone.err);
    queue_transport_delay(alone.comm, HUGE_VAL);
    hlm_exchange_enter(alone.exchange, "0F2", 0);
    check_ok(put(&alone), &alone.err);
    hlm_exchange_enter(alone.exchange, "0F3", 1);
    queue_transport_delay(alone.comm, 0.0);
    check_ok(hlm_exchange_collective(alone.exchange, &sum_over_tp, alone.data, NULL, &alone.err),
             &alone.err);
    check_fails(hlm_exchange_step_end(alone.exchange, &alone.err), HLM_FAILED, &alone.err,
                expected);
    alone_release(&alone);
}

static enum hlm_status put_collective(struct alone *alone)
{
    return hlm_exchange_collective(alone->exchange, &sum_over_tp, alone->data, NULL, &alone->err);
}

static enum hlm_status put_beside(struct alone *alone)
{
    struct hlm_transfer *sum = NULL;
    HLM_TRY(
        hlm_exchange_start(alone->exchange, &sum_over_tp, alone->other, NULL, &sum, &alone->err));
    hlm_exchange_enter(alone->exchange, "REDUCE_GRAD", 0);
    return hlm_exchange_wait(alone->exchange, &sum, &alone->err);
}

static enum hlm_status put_receive(struct alone *alone)
{
    struct hlm_transfer *message = NULL;
    HLM_TRY(hlm_exchange_receive(alone->exchange, 1, HLM_CHANNEL_BACKWARD, alone->other, BYTES,
                                 &message, &alone->err));
    return hlm_exchange_wait(alone->exchange, &message, &alone->err);
}

static void test_hanging_operations(void **state)
{
    (void)state;
    check_hang(put_collective, "0F2: rank 0 has waited 0.3 s for all_reduce over tp with rank 1");
    check_hang(put_beside, "0F2: rank 0 has waited 0.3 s for all_reduce over tp with rank 1");
    check_hang(put_receive, "0F2: rank 0 has waited 0.3 s for rank 1: receive backward");
}

/* A send that nobody takes holds up neither computing nor the messages the other way. */
static void test_hanging_send_beside_receives(void **state)
{
    (void)state;
    struct alone alone;
    struct hlm_transfer *send = NULL, *receive = NULL;
    alone_init(&alone, 0.3);
    queue_transport_delay(alone.comm, HUGE_VAL);
    check_ok(hlm_exchange_send(alone.exchange, 1, HLM_CHANNEL_FORWARD, alone.data, BYTES, &send,
                               &alone.err),
             &alone.err);
    queue_transport_delay(alone.comm, 0.0);
    for (int channel = 0; channel < HLM_NUM_CHANNELS; channel++) {
        check_ok(hlm_exchange_receive(alone.exchange, 1, (enum hlm_channel)channel, alone.other,
                                      BYTES, &receive, &alone.err),
                 &alone.err);
        check_ok(hlm_exchange_wait(alone.exchange, &receive, &alone.err), &alone.err);
        check_near((double)alone_result(&alone, alone.other), 0.0, 0.0);
    }
    check_ok(hlm_exchange_wait(alone.exchange, &send, &alone.err), &alone.err);
    check_fails(hlm_exchange_sync(alone.exchange, &alone.err), HLM_FAILED, &alone.err,
                "rank 0 has waited 0.3 s for rank 1: send forward");
    alone_release(&alone);
}

static void test_peer_dies(void **state)
{
    (void)state;
    struct alone alone;
    alone_init(&alone, 60.0);
    queue_transport_delay(alone.comm, HUGE_VAL);
    hlm_exchange_enter(alone.exchange, "0F2", -1);
    check_ok(put_collective(&alone), &alone.err);
    hlm_exchange_enter(alone.exchange, NULL, -1);
    queue_transport_break(alone.comm, "remote process exited");
    check_fails(hlm_exchange_sync(alone.exchange, &alone.err), HLM_FAILED, &alone.err,
                "0F2: all_reduce: remote process exited");
    alone_release(&alone);
}

/* --- rows between experts --- */

enum { ROW_COLS = 4, NUM_LOCAL = 2 };

/* Rows that each of two ranks has for the experts of both, and so what comes to each. */
static const int32_t sent_counts[2][2 * NUM_LOCAL] = {{1, 2, 0, 1}, {0, 0, 2, 0}};
static const int32_t received_counts[2][2 * NUM_LOCAL] = {{1, 2, 0, 0}, {0, 1, 2, 0}};

static enum hlm_status exchange_rows(struct rank *rank, int64_t room, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = rank->backend->ops;
    const struct hlm_op op = {.kind = HLM_OP_ALL_TO_ALL,
                              .group = HLM_GROUP_EP,
                              .m = 4,
                              .n = ROW_COLS,
                              .num_experts = NUM_LOCAL,
                              .num_in = 4,
                              .num_out = room};
    float rows[4 * ROW_COLS];
    for (int i = 0; i < 4 * ROW_COLS; i++) {
        rows[i] = (float)(100 * rank->index + i);
    }
    void *const operands[HLM_OP_MAX_OPERANDS] = {at(rank, IN_0), at(rank, OUT), at(rank, DIN_0),
                                                 at(rank, DIN_1)};
    HLM_TRY(ops->upload(rank->queue, operands[0], rows, sizeof(rows), err));
    HLM_TRY(ops->upload(rank->queue, operands[2], sent_counts[rank->index], sizeof(sent_counts[0]),
                        err));
    HLM_TRY(ops->upload(rank->queue, operands[3], received_counts[rank->index],
                        sizeof(received_counts[0]), err));
    HLM_TRY(ops->queue_sync(rank->queue, err));
    HLM_TRY(hlm_exchange_all_to_all(rank->exchange, &op, operands, err));
    HLM_TRY(ops->download(rank->queue, rank->result[OUT], operands[1], BYTES, err));
    return ops->queue_sync(rank->queue, err);
}

static enum hlm_status fill_room(struct rank *rank, struct hlm_err *err)
{
    return exchange_rows(rank, 3, err);
}

static enum hlm_status exceed_room(struct rank *rank, struct hlm_err *err)
{
    return exchange_rows(rank, rank->index == 1 ? 2 : 3, err);
}

static struct job *expert_job(enum pair pair,
                              enum hlm_status (*act)(struct rank *, struct hlm_err *))
{
    struct job *job = test_calloc(1, sizeof *job);
    job->pair = pair;
    job->strategy = comm_body_strategy(2, 1, 1);
    job->strategy.ep = 2;
    job->timeout_s = 60.0;
    job->act = act;
    run_job(job);
    return job;
}

/* Three rows stay with rank 0, its last goes to rank 1, where two of its own are. */
static void test_rows_between_experts(void **state)
{
    (void)state;
    static const float expected[2][3] = {{0, 4, 8}, {12, 100, 104}};
    for (int pair = 0; pair < QUEUE_LATE; pair++) {
        struct job *job = expert_job((enum pair)pair, fill_room);
        for (int rank = 0; rank < 2; rank++) {
            check_ok(job->ranks[rank].status, &job->ranks[rank].err);
            for (int i = 0; i < 3 * ROW_COLS; i++) {
                check_near((double)job->ranks[rank].result[OUT][i],
                           (double)expected[rank][i / ROW_COLS] + i % ROW_COLS, 0.0);
            }
        }
        test_free(job);
    }
}

static void test_rows_without_room(void **state)
{
    (void)state;
    struct job *job = expert_job(THREAD_CPU, exceed_room);
    check_fails(job->ranks[1].status, HLM_FAILED, &job->ranks[1].err,
                "rank 1: all_to_all over ep has 3 rows to receive, with room for 2");
    test_free(job);
    job = expert_job(QUEUE_LATE, fill_room);
    check_fails(job->ranks[0].status, HLM_ENV, &job->ranks[0].err, "has no all_to_all");
    test_free(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_program_everywhere),
        cmocka_unit_test(test_waits_in_vain),
        cmocka_unit_test(test_late_operations),
        cmocka_unit_test(test_hanging_operations),
        cmocka_unit_test(test_hanging_send_beside_receives),
        cmocka_unit_test(test_peer_dies),
        cmocka_unit_test(test_rows_between_experts),
        cmocka_unit_test(test_rows_without_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
