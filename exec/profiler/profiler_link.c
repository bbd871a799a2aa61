#include "exec/profiler/profiler_link.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "costmodel/collective.h"
#include "exec/profiler/profiler_machine.h"

enum {
    NUM_REPEATS = 9,
    MIN_MESSAGE_BYTES = 1 << 10,
    MESSAGE_STEP = 4,
    MIN_COLLECTIVE_BYTES = 1 << 12,
    COLLECTIVE_STEP = 8,
    MAX_POINTS = 16,
    MAX_WORLDS = 16,
    BURST_BYTES = 1 << 20, /* smaller transfers are timed several at a time */
    MAX_BURST = 16
};

static const double timeout_s = 60.0;
/* A message of a network that takes longer is followed by none that is larger. */
static const double long_message_s = 0.03;
/* One that takes longer is timed by itself. */
static const double slow_message_s = 0.005;

static double wall_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int32_t burst_of(int64_t bytes)
{
    const int64_t count = BURST_BYTES / bytes;
    return count < 1 ? 1 : count > MAX_BURST ? MAX_BURST : (int32_t)count;
}

/* --- messages --- */

static enum hlm_status send_one(struct hlm_comm *comm, int32_t peer, const void *data,
                                int64_t bytes, struct hlm_err *err)
{
    struct hlm_request *request = NULL;
    HLM_TRY(comm->ops->send(comm, peer, 0, data, bytes, &request, err));
    return comm->ops->wait(comm, request, err);
}

static enum hlm_status receive_one(struct hlm_comm *comm, int32_t peer, void *data, int64_t bytes,
                                   struct hlm_err *err)
{
    struct hlm_request *request = NULL;
    HLM_TRY(comm->ops->receive(comm, peer, 0, data, bytes, &request, err));
    return comm->ops->wait(comm, request, err);
}

/* There and back again, `count` times. */
static enum hlm_status ping_pong(struct hlm_comm *comm, int32_t first, int32_t second, void *data,
                                 int64_t bytes, int32_t count, struct hlm_err *err)
{
    for (int32_t i = 0; i < count; i++) {
        if (comm->rank == first) {
            HLM_TRY(send_one(comm, second, data, bytes, err));
            HLM_TRY(receive_one(comm, second, data, bytes, err));
        } else if (comm->rank == second) {
            HLM_TRY(receive_one(comm, first, data, bytes, err));
            HLM_TRY(send_one(comm, first, data, bytes, err));
        }
    }
    return HLM_OK;
}

/* What rank `who` knows, to all. */
static enum hlm_status tell_all(struct hlm_comm *comm, int32_t who, double *value,
                                struct hlm_err *err)
{
    const size_t bytes = sizeof *value;
    char *all = malloc(bytes * (size_t)comm->world_size);
    if (all == NULL) {
        return hlm_fail(err, HLM_ENV, "profiler: no memory for %d times", (int)comm->world_size);
    }
    const enum hlm_status status = comm->ops->all_gather(comm, HLM_GROUP_WORLD, value, all,
                                                         (int64_t)bytes, HLM_WIRE_BYTE, err);
    if (status == HLM_OK) {
        memcpy(value, all + bytes * (size_t)who, bytes);
    }
    free(all);
    return status;
}

/* Seconds of one of `count` messages, on rank `first`. */
static enum hlm_status time_messages(struct hlm_comm *comm, int32_t first, int32_t second,
                                     void *data, int64_t bytes, int32_t count, double *out,
                                     struct hlm_err *err)
{
    HLM_TRY(comm->ops->barrier(comm, HLM_GROUP_WORLD, err));
    const double start_s = wall_s();
    HLM_TRY(ping_pong(comm, first, second, data, bytes, count, err));
    *out = fmax((wall_s() - start_s) / (2.0 * count), 1e-9);
    return HLM_OK;
}

enum hlm_status hlm_profiler_message_measure(struct hlm_comm *comm, int32_t first, int32_t second,
                                             void *data, int64_t bytes, int32_t num_repeats,
                                             double *out, struct hlm_err *err)
{
    double seconds = 0.0, best = HUGE_VAL;
    HLM_TRY(time_messages(comm, first, second, data, bytes, 1, &seconds, err));
    HLM_TRY(tell_all(comm, first, &seconds, err));
    const int32_t burst = seconds > slow_message_s ? 1 : burst_of(bytes);
    for (int32_t i = 0; i < num_repeats; i++) {
        HLM_TRY(time_messages(comm, first, second, data, bytes, burst, &seconds, err));
        best = fmin(best, seconds);
    }
    HLM_TRY(tell_all(comm, first, &best, err));
    *out = best;
    return HLM_OK;
}

static enum hlm_status measure_link(struct hlm_arena *arena, struct hlm_comm *comm, int32_t first,
                                    int32_t second, int32_t num_repeats, double longest_s,
                                    char *data, struct hlm_link *out, struct hlm_err *err)
{
    struct hlm_curve_point *points = HLM_ARENA_ARRAY(arena, struct hlm_curve_point, MAX_POINTS);
    int32_t num = 0;
    for (int64_t bytes = MIN_MESSAGE_BYTES; bytes <= HLM_PROFILER_MAX_MESSAGE_BYTES &&
                                            (num == 0 || points[num - 1].seconds < longest_s);
         bytes *= MESSAGE_STEP) {
        points[num].bytes = (double)bytes;
        HLM_TRY(hlm_profiler_message_measure(comm, first, second, data, bytes, num_repeats,
                                             &points[num].seconds, err));
        num++;
    }
    *out = (struct hlm_link){
        .alpha_s = points[0].seconds,
        .bandwidth_bytes_per_s = points[num - 1].bytes / points[num - 1].seconds,
        .needs_both_sides = true,
        .points = points,
        .num_points = num,
        .source = {.num_samples = num * num_repeats},
    };
    return HLM_OK;
}

/* --- collectives --- */

static const enum hlm_collective measured[] = {HLM_ALL_REDUCE, HLM_ALL_GATHER, HLM_REDUCE_SCATTER};
enum { NUM_MEASURED = sizeof measured / sizeof measured[0] };

static enum hlm_status call(struct hlm_comm *comm, enum hlm_collective op, float *data,
                            int64_t elements, struct hlm_err *err)
{
    const struct hlm_comm_ops *ops = comm->ops;
    const int64_t part = elements / comm->world_size;
    float *own = data + comm->rank * part;
    switch (op) {
    case HLM_ALL_GATHER:
        return ops->all_gather(comm, HLM_GROUP_WORLD, own, data, part, HLM_WIRE_F32, err);
    case HLM_REDUCE_SCATTER:
        return ops->reduce_scatter(comm, HLM_GROUP_WORLD, data, own, part, HLM_WIRE_F32, err);
    default:
        return ops->all_reduce(comm, HLM_GROUP_WORLD, data, elements, HLM_WIRE_F32, HLM_REDUCE_SUM,
                               err);
    }
}

static enum hlm_status measure_collective(struct hlm_comm *comm, enum hlm_collective op,
                                          float *data, int64_t bytes, double *out,
                                          struct hlm_err *err)
{
    const int32_t burst = burst_of(bytes);
    double best = HUGE_VAL;
    for (int32_t i = 0; i < NUM_REPEATS + 1; i++) {
        HLM_TRY(comm->ops->barrier(comm, HLM_GROUP_WORLD, err));
        const double start_s = wall_s();
        for (int32_t j = 0; j < burst; j++) {
            HLM_TRY(call(comm, op, data, bytes / (int64_t)sizeof(float), err));
        }
        const double seconds = (wall_s() - start_s) / burst;
        best = i == 0 ? best : fmin(best, seconds);
    }
    *out = fmax(best, 1e-9);
    return HLM_OK;
}

static struct hlm_collective_piece piece_between(const struct hlm_curve_point *left,
                                                 const struct hlm_curve_point *right,
                                                 double max_bytes, double factor)
{
    const double slope = (right->seconds - left->seconds) / (right->bytes - left->bytes);
    const double alpha_s = left->seconds - slope * left->bytes;
    if (!(slope > 0.0)) {
        return (struct hlm_collective_piece){.max_bytes = max_bytes, .alpha_s = right->seconds};
    }
    if (alpha_s < 0.0) {
        return (struct hlm_collective_piece){.max_bytes = max_bytes,
                                             .bus_bandwidth_bytes_per_s =
                                                 factor * right->bytes / right->seconds};
    }
    return (struct hlm_collective_piece){
        .max_bytes = max_bytes, .alpha_s = alpha_s, .bus_bandwidth_bytes_per_s = factor / slope};
}

int32_t hlm_profiler_make_pieces(const struct hlm_curve_point *points, int32_t num_points,
                                 double factor, struct hlm_collective_piece *out)
{
    HLM_ASSERT(num_points >= 2);
    out[0] =
        (struct hlm_collective_piece){.max_bytes = points[0].bytes, .alpha_s = points[0].seconds};
    for (int32_t i = 1; i < num_points; i++) {
        out[i] = piece_between(&points[i - 1], &points[i], points[i].bytes, factor);
    }
    /* Beyond the last size the rate of the last size holds. */
    const struct hlm_curve_point *last = &points[num_points - 1];
    out[num_points] = (struct hlm_collective_piece){.bus_bandwidth_bytes_per_s =
                                                        factor * last->bytes / last->seconds};
    return num_points + 1;
}

static enum hlm_status measure_curve(struct hlm_arena *arena, struct hlm_comm *comm,
                                     enum hlm_collective op, float *data,
                                     struct hlm_collective_curve *out, struct hlm_err *err)
{
    struct hlm_curve_point points[MAX_POINTS];
    int32_t num = 0;
    for (int64_t bytes = MIN_COLLECTIVE_BYTES; bytes <= HLM_PROFILER_MAX_MESSAGE_BYTES;
         bytes *= COLLECTIVE_STEP) {
        points[num].bytes = (double)bytes;
        HLM_TRY(measure_collective(comm, op, data, bytes, &points[num].seconds, err));
        num++;
    }
    struct hlm_collective_piece *pieces =
        HLM_ARENA_ARRAY(arena, struct hlm_collective_piece, num + 1);
    *out = (struct hlm_collective_curve){
        .op = op,
        .num_ranks = comm->world_size,
        .num_nodes = 1,
        .pieces = pieces,
        .num_pieces = hlm_profiler_make_pieces(points, num,
                                               hlm_collective_factor(op, comm->world_size), pieces),
        .source = {.num_samples = num * NUM_REPEATS},
    };
    return HLM_OK;
}

static enum hlm_status measure_world(struct hlm_arena *arena, struct hlm_comm *comm, float *data,
                                     struct hlm_profiler_links *out, struct hlm_err *err)
{
    struct hlm_profiler_links links = {
        .collectives = HLM_ARENA_ARRAY(arena, struct hlm_collective_curve, NUM_MEASURED),
        .num_collectives = NUM_MEASURED};
    HLM_TRY(measure_link(arena, comm, 0, 1, NUM_REPEATS, HUGE_VAL, (char *)data, &links.link, err));
    for (int32_t i = 0; i < NUM_MEASURED; i++) {
        HLM_TRY(measure_curve(arena, comm, measured[i], data, &links.collectives[i], err));
    }
    *out = links;
    return HLM_OK;
}

/* Zeros, so that sums of sums stay finite however often they are made. The caller frees it. */
static enum hlm_status make_data(void **out, struct hlm_err *err)
{
    *out = malloc(HLM_PROFILER_MAX_MESSAGE_BYTES);
    if (*out == NULL) {
        return hlm_fail(err, HLM_ENV, "profiler: no memory for messages");
    }
    memset(*out, 0, HLM_PROFILER_MAX_MESSAGE_BYTES); /* no page fault while it is timed */
    return HLM_OK;
}

enum hlm_status hlm_profiler_links_measure(struct hlm_arena *arena, struct hlm_comm *comm,
                                           struct hlm_profiler_links *out, struct hlm_err *err)
{
    HLM_ASSERT(comm->world_size >= 2);
    void *data = NULL;
    HLM_TRY(make_data(&data, err));
    const enum hlm_status status = measure_world(arena, comm, data, out, err);
    free(data);
    return status;
}

static enum hlm_status measure_pairs(struct hlm_arena *arena, struct hlm_comm *comm,
                                     int32_t num_repeats, char *data, struct hlm_link *out,
                                     struct hlm_err *err)
{
    for (int32_t first = 0; first < comm->world_size; first++) {
        for (int32_t second = first + 1; second < comm->world_size; second++) {
            HLM_TRY(measure_link(arena, comm, first, second, num_repeats, long_message_s, data,
                                 out++, err));
        }
    }
    return HLM_OK;
}

enum hlm_status hlm_profiler_pairs_measure(struct hlm_arena *arena, struct hlm_comm *comm,
                                           int32_t num_repeats, struct hlm_link *out,
                                           struct hlm_err *err)
{
    HLM_ASSERT(comm->world_size >= 2 && !comm->ops->stream_ordered);
    void *data = NULL;
    HLM_TRY(make_data(&data, err));
    const enum hlm_status status = measure_pairs(arena, comm, num_repeats, data, out, err);
    free(data);
    return status;
}

/* --- the thread transport --- */

struct link_thread {
    struct hlm_comm *comm;
    struct hlm_arena *arena;
    pthread_t thread;
    bool started;
    struct hlm_profiler_links links;
    enum hlm_status status;
    struct hlm_err err;
};

static void *link_main(void *context)
{
    struct link_thread *self = context;
    hlm_profiler_pin(self->comm->rank);
    self->status = hlm_profiler_links_measure(self->arena, self->comm, &self->links, &self->err);
    if (self->status != HLM_OK) {
        self->comm->ops->abort(self->comm);
    }
    return NULL;
}

static enum hlm_status run_threads(struct link_thread *threads, int32_t num, struct hlm_err *err)
{
    enum hlm_status status = HLM_OK;
    for (int32_t i = 0; i < num && status == HLM_OK; i++) {
        threads[i].started = pthread_create(&threads[i].thread, NULL, link_main, &threads[i]) == 0;
        if (!threads[i].started) {
            status = hlm_fail(err, HLM_ENV, "profiler: cannot start thread %d", (int)i);
            threads[0].comm->ops->abort(threads[0].comm);
        }
    }
    for (int32_t i = 0; i < num; i++) {
        if (threads[i].started) {
            pthread_join(threads[i].thread, NULL);
        }
        if (status == HLM_OK && threads[i].status != HLM_OK) {
            status = threads[i].status;
            *err = threads[i].err;
        }
    }
    return status;
}

static enum hlm_status measure_threads(struct hlm_arena *arena, int32_t num_ranks,
                                       struct hlm_profiler_links *out, struct hlm_err *err)
{
    struct hlm_strategy strategy = {.dp = num_ranks,
                                    .tp = 1,
                                    .pp = 1,
                                    .microbatch_size = 1,
                                    .num_microbatches = 1,
                                    .global_batch_size = num_ranks,
                                    .seq_len = 1};
    hlm_strategy_complete(&strategy);
    const struct hlm_comm_config config = {
        .strategy = &strategy, .timeout_s = timeout_s, .max_bytes = HLM_PROFILER_MAX_MESSAGE_BYTES};
    struct hlm_comm **comms = HLM_ARENA_ARRAY(arena, struct hlm_comm *, num_ranks);
    struct link_thread *threads = HLM_ARENA_ARRAY(arena, struct link_thread, num_ranks);
    HLM_TRY(hlm_comm_thread_new(&config, comms, err));
    for (int32_t i = 0; i < num_ranks; i++) {
        /* The caller waits meanwhile, so the first thread may use its arena. */
        threads[i] =
            (struct link_thread){.comm = comms[i], .arena = i == 0 ? arena : hlm_arena_new()};
    }
    const enum hlm_status status = run_threads(threads, num_ranks, err);
    for (int32_t i = 0; i < num_ranks; i++) {
        hlm_comm_free(comms[i]);
        hlm_arena_free(i == 0 ? NULL : threads[i].arena);
    }
    if (status == HLM_OK) {
        *out = threads[0].links;
    }
    return status;
}

static int32_t next_world(int32_t num_ranks, int32_t num_cores)
{
    return 2 * num_ranks <= num_cores || num_ranks >= num_cores ? 2 * num_ranks : num_cores;
}

enum hlm_status hlm_profiler_thread_links_measure(struct hlm_arena *arena, int32_t num_cores,
                                                  struct hlm_profiler_links *out,
                                                  struct hlm_err *err)
{
    struct hlm_profiler_links all = {
        .collectives =
            HLM_ARENA_ARRAY(arena, struct hlm_collective_curve, MAX_WORLDS * NUM_MEASURED)};
    const int32_t largest = num_cores < 2 ? 2 : num_cores;
    for (int32_t ranks = 2; ranks <= largest; ranks = next_world(ranks, largest)) {
        struct hlm_profiler_links links = {0};
        HLM_TRY(measure_threads(arena, ranks, &links, err));
        HLM_ASSERT(all.num_collectives + NUM_MEASURED <= MAX_WORLDS * NUM_MEASURED);
        memcpy(all.collectives + all.num_collectives, links.collectives,
               NUM_MEASURED * sizeof *links.collectives);
        all.num_collectives += NUM_MEASURED;
        if (ranks == 2) {
            all.link = links.link;
        }
    }
    *out = all;
    return HLM_OK;
}
