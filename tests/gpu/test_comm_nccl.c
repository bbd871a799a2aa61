/* The NCCL transport among threads, on the emulator: groups, numbering, collectives, messages, and
 * what happens when a rank gives up. NCCL's own behaviour is not what is tested. */
#include <pthread.h>
#include <stdlib.h>

#include <nccl.h>

#include "exec/comm/exchange.h"
#include "exec/cuda/comm_nccl.h"
#include "tests/gpu/device.h"
#include "tests/support/check.h"
#include "tests/support/comm_body.h"

enum { MAX_RANKS = 16 };

struct job {
    struct hlm_strategy strategy;
    struct hlm_comm_config config;
    unsigned char id[HLM_CUDA_COMM_ID_BYTES];
    int32_t leaver;                          /* gives up at the first operation; -1: none */
    bool exchanges;                          /* runs through the exchange */
    int32_t num_splits, num_splits_at_first; /* at the end, and when rank 0 had its transport */
    struct rank {
        struct job *job;
        int32_t rank;
        pthread_t thread;
        enum hlm_status status;
        struct hlm_err err;
    } ranks[MAX_RANKS];
};

/* Collectives of one rank are copies. */
static enum hlm_status act_alone(struct hlm_comm *comm, struct hlm_err *err)
{
    float data = 3.0f, copy = 0.0f;
    HLM_TRY(comm->ops->all_reduce(comm, HLM_GROUP_TP, &data, 1, HLM_WIRE_F32, HLM_REDUCE_SUM, err));
    HLM_TRY(comm->ops->all_gather(comm, HLM_GROUP_DP, &data, &copy, 1, HLM_WIRE_F32, err));
    HLM_TRY(comm->ops->barrier(comm, HLM_GROUP_WORLD, err));
    return fabsf(copy - 3.0f) <= 0.0f ? HLM_OK : hlm_fail(err, HLM_NO, "copied %g", (double)copy);
}

/* --- through the exchange --- */

enum { COUNT = 500 };

/* Memory of a backend, [3][COUNT] floats, and how to reach it. */
struct desk {
    struct hlm_exchange *exchange;
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    char *memory;
};

static enum hlm_status expect(struct desk *desk, int row, double expected, struct hlm_err *err)
{
    float found[COUNT];
    HLM_TRY(desk->backend->ops->download(desk->queue, found,
                                         desk->memory + row * (int64_t)sizeof found,
                                         (int64_t)sizeof found, err));
    HLM_TRY(hlm_exchange_sync(desk->exchange, err));
    for (int i = 0; i < COUNT; i++) {
        if (!(fabs((double)found[i] - expected) <= 0.0)) {
            return hlm_fail(err, HLM_NO, "row %d: found %g, expected %g", row, (double)found[i],
                            expected);
        }
    }
    return HLM_OK;
}

/* Row 0 holds rank + 1: its sum over tp on the compute queue, then over dp beside it, while row 1
 * goes to the next rank's row 2. */
static enum hlm_status exchange_rows(struct desk *desk, const struct hlm_comm *comm,
                                     struct hlm_err *err)
{
    const struct hlm_op over_tp = {
        .kind = HLM_OP_ALL_REDUCE, .group = HLM_GROUP_TP, .m = COUNT, .n = 1};
    const struct hlm_op over_dp = {
        .kind = HLM_OP_ALL_REDUCE, .group = HLM_GROUP_DP, .m = COUNT, .n = 1};
    const int64_t bytes = COUNT * (int64_t)sizeof(float);
    const int32_t next = (comm->rank + 1) % comm->world_size;
    const int32_t previous = (comm->rank + comm->world_size - 1) % comm->world_size;
    struct hlm_transfer *sum = NULL, *send = NULL, *receive = NULL;
    double total = comm->rank;
    HLM_TRY(hlm_exchange_collective(desk->exchange, &over_tp, desk->memory, NULL, err));
    HLM_TRY(hlm_exchange_start(desk->exchange, &over_dp, desk->memory, NULL, &sum, err));
    HLM_TRY(hlm_exchange_send(desk->exchange, next, HLM_CHANNEL_FORWARD, desk->memory + bytes,
                              bytes, &send, err));
    HLM_TRY(hlm_exchange_receive(desk->exchange, previous, HLM_CHANNEL_FORWARD,
                                 desk->memory + 2 * bytes, bytes, &receive, err));
    HLM_TRY(hlm_exchange_wait(desk->exchange, &receive, err));
    HLM_TRY(hlm_exchange_wait(desk->exchange, &sum, err));
    HLM_TRY(hlm_exchange_wait(desk->exchange, &send, err));
    HLM_TRY(expect(desk, 0, 0.5 * comm->world_size * (comm->world_size + 1), err));
    HLM_TRY(expect(desk, 2, previous + 1.0, err));
    HLM_TRY(hlm_exchange_host_sum(desk->exchange, HLM_GROUP_WORLD, &total, 1, "a sum", err));
    HLM_TRY(hlm_exchange_barrier(desk->exchange, HLM_GROUP_WORLD, err));
    return fabs(total - 0.5 * comm->world_size * (comm->world_size - 1)) <= 0.0
               ? HLM_OK
               : hlm_fail(err, HLM_NO, "the ranks' sum is %g", total);
}

static enum hlm_status act_through_exchange(struct job *job, struct hlm_comm *comm,
                                            struct hlm_backend *backend, struct hlm_queue *queue,
                                            struct hlm_err *err)
{
    float rows[3 * COUNT];
    void *memory = NULL;
    struct desk desk = {.backend = backend, .queue = queue};
    const struct hlm_exchange_config config = {.strategy = &job->strategy,
                                               .comm = comm,
                                               .backend = backend,
                                               .queue = queue,
                                               .timeout_s = job->config.timeout_s,
                                               .num_slots = 1};
    struct hlm_arena *arena = hlm_arena_new();
    for (int i = 0; i < 3 * COUNT; i++) {
        rows[i] = (float)comm->rank + 1.0f;
    }
    HLM_TRY(hlm_exchange_new(arena, &config, &desk.exchange, err));
    HLM_TRY(backend->ops->alloc(backend, (int64_t)sizeof rows, &memory, err));
    desk.memory = memory;
    HLM_TRY(backend->ops->upload(queue, memory, rows, (int64_t)sizeof rows, err));
    const enum hlm_status status = exchange_rows(&desk, comm, err);
    hlm_exchange_free(desk.exchange);
    backend->ops->free(backend, memory);
    hlm_arena_free(arena);
    return status;
}

/* --- a rank --- */

static int32_t count_splits(const struct job *job)
{
    ncclUniqueId id;
    memcpy(&id, job->id, sizeof id);
    return emulated_nccl_splits(id, NULL, 0);
}

static enum hlm_status act(struct job *job, struct hlm_comm *comm, struct hlm_backend *backend,
                           struct hlm_queue *queue, struct hlm_err *err)
{
    if (comm->rank == 0) {
        job->num_splits_at_first = count_splits(job);
    }
    if (job->exchanges) {
        return act_through_exchange(job, comm, backend, queue, err);
    }
    if (comm->world_size == 1) {
        return act_alone(comm, err);
    }
    if (comm->rank == job->leaver) {
        comm->ops->abort(comm);
        return comm->ops->barrier(comm, HLM_GROUP_WORLD, err);
    }
    return comm_body_run(comm, &job->strategy, err);
}

/* What one thread does around it. */
static enum hlm_status run_rank(struct job *job, int32_t rank, struct hlm_err *err)
{
    struct hlm_backend *backend = NULL;
    struct hlm_queue *queue = NULL;
    struct hlm_comm *comm = NULL;
    struct hlm_cuda_comm_config config = {.comm = &job->config, .rank = rank};
    memcpy(config.id, job->id, sizeof config.id);
    HLM_TRY(device_backend_new(false, &backend, err));
    enum hlm_status status = backend->ops->queue_new(backend, &queue, err);
    if (status == HLM_OK) {
        status = hlm_cuda_comm_new(&config, backend, &comm, err);
    }
    if (status == HLM_OK) {
        comm->ops->use_queue(comm, queue);
        status = act(job, comm, backend, queue, err);
        hlm_comm_free(comm);
    }
    backend->ops->queue_free(queue);
    hlm_backend_free(backend);
    return status;
}

static void *rank_main(void *argument)
{
    struct rank *rank = argument;
    rank->status = run_rank(rank->job, rank->rank, &rank->err);
    return NULL;
}

static void run_strategy(struct job *job, const struct hlm_strategy *strategy, int32_t leaver,
                         bool exchanges)
{
    struct hlm_err err;
    *job = (struct job){.strategy = *strategy, .leaver = leaver, .exchanges = exchanges};
    job->config = (struct hlm_comm_config){
        .strategy = &job->strategy, .timeout_s = 60.0, .max_bytes = COMM_BODY_MAX_BYTES};
    check_ok(hlm_cuda_comm_id(job->id, &err), &err);
    const int32_t num_ranks = (int32_t)hlm_strategy_world_size(strategy);
    for (int32_t i = 0; i < num_ranks; i++) {
        job->ranks[i].job = job;
        job->ranks[i].rank = i;
        assert_int_equal(pthread_create(&job->ranks[i].thread, NULL, rank_main, &job->ranks[i]), 0);
    }
    for (int32_t i = 0; i < num_ranks; i++) {
        pthread_join(job->ranks[i].thread, NULL);
    }
    job->num_splits = count_splits(job);
}

static void run_job(struct job *job, int32_t dp, int32_t tp, int32_t pp, int32_t leaver,
                    bool exchanges)
{
    const struct hlm_strategy strategy = comm_body_strategy(dp, tp, pp);
    run_strategy(job, &strategy, leaver, exchanges);
}

static void check_body(int32_t dp, int32_t tp, int32_t pp)
{
    struct job job;
    run_job(&job, dp, tp, pp, -1, false);
    for (int32_t i = 0; i < dp * tp * pp; i++) {
        check_ok(job.ranks[i].status, &job.ranks[i].err);
    }
}

static void test_one_dimension(void **state)
{
    (void)state;
    check_body(1, 1, 1);
    check_body(2, 1, 1);
    check_body(1, 2, 1);
    check_body(1, 1, 2);
}

static void test_several_dimensions(void **state)
{
    (void)state;
    check_body(2, 2, 1);
    check_body(1, 1, 3);
    check_body(2, 2, 2);
    check_body(1, 2, 3);
}

/* Groups of one kind have other sizes elsewhere; all ranks must make communicators all the same. */
static void test_places(void **state)
{
    (void)state;
    static const struct hlm_rank_place places[] = {{2, 0, 0}, {1, 2, 2}};
    struct hlm_strategy strategy = comm_body_strategy(1, 2, 2);
    struct job job;
    strategy.places = places;
    run_strategy(&job, &strategy, -1, false);
    for (int32_t i = 0; i < 3; i++) {
        check_ok(job.ranks[i].status, &job.ranks[i].err);
    }
}

static void test_a_rank_gives_up(void **state)
{
    (void)state;
    struct job job;
    run_job(&job, 2, 2, 1, 1, false);
    for (int32_t i = 0; i < 4; i++) {
        const char *part = i == job.leaver ? "rank 1: the transport was stopped" : "NCCL: ";
        check_fails(job.ranks[i].status, HLM_FAILED, &job.ranks[i].err, part);
    }
}

static void test_through_the_exchange(void **state)
{
    (void)state;
    struct job job;
    run_job(&job, 2, 2, 1, -1, true);
    for (int32_t i = 0; i < 4; i++) {
        check_ok(job.ranks[i].status, &job.ranks[i].err);
    }
}

/* --- communicators --- */

/* Whether the ranks of the group, and they alone, had a colour in common. */
static void check_split(const struct job *job, const int *colors, enum hlm_group group)
{
    const int32_t world_size = hlm_layout_group_size(&job->strategy, HLM_GROUP_WORLD);
    for (int32_t rank = 0; rank < world_size; rank++) {
        int32_t members[MAX_RANKS], position = -1;
        bool together[MAX_RANKS] = {false};
        hlm_layout_group(&job->strategy, group, rank, members, &position);
        assert_int_equal(colors[rank] >= 0, position >= 0);
        for (int32_t i = 0; i < hlm_layout_group_size(&job->strategy, group); i++) {
            together[members[i]] = true;
        }
        for (int32_t other = 0; other < world_size && position >= 0; other++) {
            assert_int_equal(colors[other] == colors[rank], together[other]);
        }
    }
}

/* All ranks make the communicators in one order before the first operation, and none later. */
static void check_order(int32_t dp, int32_t tp, int32_t pp, const enum hlm_group *order,
                        int32_t num)
{
    struct job job;
    ncclUniqueId id;
    int colors[16 * MAX_RANKS];
    run_job(&job, dp, tp, pp, -1, dp * tp > 1 && pp == 1);
    memcpy(&id, job.id, sizeof id);
    assert_int_equal(job.num_splits_at_first, num);
    assert_int_equal(job.num_splits, num);
    assert_int_equal(emulated_nccl_splits(id, colors, 16), num);
    for (int32_t i = 0; i < num; i++) {
        check_split(&job, colors + i * dp * tp * pp, order[i]);
    }
}

static void test_communicators_in_one_order(void **state)
{
    (void)state;
    /* Four of messages behind tp and dp: each direction from even and from odd stages. */
    static const enum hlm_group all[] = {HLM_GROUP_TP,    HLM_GROUP_DP,        HLM_GROUP_WORLD,
                                         HLM_GROUP_WORLD, HLM_GROUP_WORLD,     HLM_GROUP_WORLD,
                                         HLM_GROUP_PP,    HLM_GROUP_EMBEDDING, HLM_GROUP_MODEL};
    static const enum hlm_group stages[] = {HLM_GROUP_WORLD, HLM_GROUP_WORLD, HLM_GROUP_WORLD,
                                            HLM_GROUP_WORLD, HLM_GROUP_EMBEDDING};
    static const enum hlm_group flat[] = {HLM_GROUP_TP, HLM_GROUP_DP, HLM_GROUP_WORLD,
                                          HLM_GROUP_WORLD};
    check_order(2, 2, 2, all, 9);
    check_order(1, 1, 3, stages, 5);
    check_order(2, 2, 1, flat, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_dimension),
        cmocka_unit_test(test_several_dimensions),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_a_rank_gives_up),
        cmocka_unit_test(test_through_the_exchange),
        cmocka_unit_test(test_communicators_in_one_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
