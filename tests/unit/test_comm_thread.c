#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "exec/comm/comm.h"
#include "exec/comm/comm_internal.h"
#include "tests/support/check.h"
#include "tests/support/comm_body.h"

/* What one rank does; it may not use the assertions, which jump. */
struct rank {
    pthread_t thread;
    struct hlm_comm *comm;
    const struct hlm_strategy *strategy;
    enum hlm_status (*act)(struct hlm_comm *comm, const struct hlm_strategy *strategy,
                           struct hlm_err *err);
    enum hlm_status status;
    struct hlm_err err;
};

static void *run_rank(void *argument)
{
    struct rank *rank = argument;
    rank->status = rank->act(rank->comm, rank->strategy, &rank->err);
    hlm_comm_free(rank->comm);
    return NULL;
}

/* Runs `act` on every rank and leaves what each returned in ranks. */
static void run_all(struct rank *ranks, const struct hlm_strategy *strategy, double timeout_s,
                    enum hlm_status (*act)(struct hlm_comm *, const struct hlm_strategy *,
                                           struct hlm_err *))
{
    const struct hlm_comm_config config = {
        .strategy = strategy, .timeout_s = timeout_s, .max_bytes = COMM_BODY_MAX_BYTES};
    struct hlm_comm *comms[64];
    struct hlm_err err;
    const int32_t world_size = hlm_layout_group_size(strategy, HLM_GROUP_WORLD);
    check_ok(hlm_comm_thread_new(&config, comms, &err), &err);
    for (int32_t i = 0; i < world_size; i++) {
        assert_int_equal(comms[i]->rank, i);
        assert_int_equal(comms[i]->world_size, world_size);
        ranks[i] = (struct rank){.comm = comms[i], .strategy = strategy, .act = act};
        assert_int_equal(pthread_create(&ranks[i].thread, NULL, run_rank, &ranks[i]), 0);
    }
    for (int32_t i = 0; i < world_size; i++) {
        pthread_join(ranks[i].thread, NULL);
    }
}

static void check_body(int32_t dp, int32_t tp, int32_t pp)
{
    const struct hlm_strategy strategy = comm_body_strategy(dp, tp, pp);
    struct rank ranks[64];
    run_all(ranks, &strategy, 120, comm_body_run);
    for (int32_t i = 0; i < dp * tp * pp; i++) {
        check_ok(ranks[i].status, &ranks[i].err);
    }
}

static void test_body(void **state)
{
    (void)state;
    check_body(1, 1, 1);
    check_body(2, 1, 1);
    check_body(1, 1, 3);
    check_body(2, 2, 2);
}

/* Groups of one kind have other sizes elsewhere, and PP and EMBEDDING nobody. */
static void test_body_of_places(void **state)
{
    (void)state;
    static const struct hlm_rank_place places[] = {{2, 0, 0}, {1, 2, 2}};
    struct hlm_strategy strategy = comm_body_strategy(1, 2, 2);
    struct rank ranks[3];
    strategy.places = places;
    run_all(ranks, &strategy, 120, comm_body_run);
    for (int32_t i = 0; i < 3; i++) {
        check_ok(ranks[i].status, &ranks[i].err);
    }
}

/* ---- faults ---- */

static double values[4][4000];

static enum hlm_status reduce_small(struct hlm_comm *comm, struct hlm_err *err)
{
    return comm->ops->all_reduce(comm, HLM_GROUP_DP, values[comm->rank], 1, HLM_WIRE_F64,
                                 HLM_REDUCE_SUM, err);
}

static enum hlm_status reduce_large(struct hlm_comm *comm, struct hlm_err *err)
{
    return comm->ops->all_reduce(comm, HLM_GROUP_DP, values[comm->rank], 4000, HLM_WIRE_F64,
                                 HLM_REDUCE_SUM, err);
}

static enum hlm_status receive_one(struct hlm_comm *comm, struct hlm_err *err)
{
    struct hlm_request *request = NULL;
    HLM_TRY(comm->ops->receive(comm, 1, 0, values[comm->rank], 8, &request, err));
    return comm->ops->wait(comm, request, err);
}

static enum hlm_status send_large(struct hlm_comm *comm, struct hlm_err *err)
{
    struct hlm_request *request = NULL;
    HLM_TRY(comm->ops->send(comm, 1, 0, values[comm->rank], 8000, &request, err));
    return comm->ops->wait(comm, request, err);
}

static const struct {
    enum hlm_status (*act)(struct hlm_comm *comm, struct hlm_err *err);
    const char *late, *left, *ended;
} operations[] = {
    {reduce_small, "all_reduce over dp: rank 0 has waited 0.2 s for the arrival of rank 1",
     "all_reduce over dp: rank 0 waits for the arrival of rank 1, which has left",
     "all_reduce over dp: rank 0 waits for the arrival of rank 1, but rank 1 has ended the run"},
    {reduce_large, "all_reduce over dp: rank 0 has waited 0.2 s for a message from rank 1",
     "all_reduce over dp: rank 0 waits for a message from rank 1, which has left",
     "rank 1 has ended the run"},
    {receive_one, "rank 0 has waited 0.2 s for a message from rank 1",
     "rank 0 waits for a message from rank 1, which has left", "rank 1 has ended the run"},
    {send_large, "rank 0 has waited 0.2 s for a message to be taken by rank 1",
     "rank 0 waits for a message to be taken by rank 1, which has left",
     "rank 1 has ended the run"},
};
enum { NUM_OPERATIONS = sizeof operations / sizeof operations[0] };

/* Rank 0 does operation `virtual pipeline chunks - 1`: the strategy is what both ranks are given.
 */
static enum hlm_status act_of_rank_0(struct hlm_comm *comm, const struct hlm_strategy *strategy,
                                     struct hlm_err *err)
{
    return operations[strategy->vpp - 1].act(comm, err);
}

static enum hlm_status against_late(struct hlm_comm *comm, const struct hlm_strategy *strategy,
                                    struct hlm_err *err)
{
    if (comm->rank == 0) {
        return act_of_rank_0(comm, strategy, err);
    }
    usleep(1000000);
    return HLM_OK;
}

static enum hlm_status against_leaver(struct hlm_comm *comm, const struct hlm_strategy *strategy,
                                      struct hlm_err *err)
{
    if (comm->rank == 0) {
        return act_of_rank_0(comm, strategy, err);
    }
    usleep(100000);
    return HLM_OK;
}

static enum hlm_status against_abort(struct hlm_comm *comm, const struct hlm_strategy *strategy,
                                     struct hlm_err *err)
{
    if (comm->rank == 0) {
        return act_of_rank_0(comm, strategy, err);
    }
    usleep(100000);
    comm->ops->abort(comm);
    return HLM_OK;
}

static void check_faults(double timeout_s,
                         enum hlm_status (*act)(struct hlm_comm *, const struct hlm_strategy *,
                                                struct hlm_err *),
                         const char *(*expected)(int i))
{
    for (int i = 0; i < NUM_OPERATIONS; i++) {
        struct hlm_strategy strategy = comm_body_strategy(2, 1, 1);
        struct rank ranks[2];
        strategy.vpp = i + 1;
        run_all(ranks, &strategy, timeout_s, act);
        check_fails(ranks[0].status, HLM_FAILED, &ranks[0].err, expected(i));
    }
}

static const char *late_text(int i)
{
    return operations[i].late;
}

static const char *left_text(int i)
{
    return operations[i].left;
}

static const char *ended_text(int i)
{
    return operations[i].ended;
}

static void test_late(void **state)
{
    (void)state;
    check_faults(0.2, against_late, late_text);
}

static void test_left(void **state)
{
    (void)state;
    check_faults(60, against_leaver, left_text);
}

static void test_abort(void **state)
{
    (void)state;
    check_faults(60, against_abort, ended_text);
}

static enum hlm_status misfit(struct hlm_comm *comm, const struct hlm_strategy *strategy,
                              struct hlm_err *err)
{
    (void)strategy;
    return comm->rank == 0
               ? receive_one(comm, err)
               : comm->ops->send(comm, 0, 0, values[1], 16, &(struct hlm_request *){0}, err);
}

static void test_misfit(void **state)
{
    (void)state;
    const struct hlm_strategy strategy = comm_body_strategy(2, 1, 1);
    struct rank ranks[2];
    run_all(ranks, &strategy, 60, misfit);
    check_ok(ranks[1].status, &ranks[1].err);
    check_fails(ranks[0].status, HLM_FAILED, &ranks[0].err, "has 8 bytes here");
}

/* A rank leaves with large messages on both sides of it still matched or posted. */
static enum hlm_status leave_early(struct hlm_comm *comm, const struct hlm_strategy *strategy,
                                   struct hlm_err *err)
{
    (void)strategy;
    struct hlm_request *first = NULL, *second = NULL;
    const int32_t peer = 1 - comm->rank;
    HLM_TRY(comm->ops->send(comm, peer, 0, values[comm->rank], 8000, &first, err));
    HLM_TRY(comm->ops->receive(comm, peer, 0, values[comm->rank] + 2000, 8000, &second, err));
    if (comm->rank == 1) {
        return HLM_OK;
    }
    usleep(100000);
    return comm->ops->wait(comm, second, err);
}

static void test_leave_with_messages(void **state)
{
    (void)state;
    const struct hlm_strategy strategy = comm_body_strategy(2, 1, 1);
    struct rank ranks[2];
    run_all(ranks, &strategy, 60, leave_early);
    check_fails(ranks[0].status, HLM_FAILED, &ranks[0].err, "rank 1, which has left");
}

/* Waiting is sleeping: the CPU times of actions next to it stay clean. */
static enum hlm_status wait_for_sleeper(struct hlm_comm *comm, const struct hlm_strategy *strategy,
                                        struct hlm_err *err)
{
    (void)strategy;
    if (comm->rank == 1) {
        usleep(500000);
        return comm->ops->send(comm, 0, 0, values[1], 8, &(struct hlm_request *){0}, err);
    }
    HLM_TRY(receive_one(comm, err));
    struct timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return used.tv_sec == 0 && used.tv_nsec < 100000000
               ? HLM_OK
               : hlm_fail(err, HLM_NO, "waiting took %ld.%09ld s of CPU", (long)used.tv_sec,
                          used.tv_nsec);
}

static void test_waits_sleep(void **state)
{
    (void)state;
    const struct hlm_strategy strategy = comm_body_strategy(2, 1, 1);
    struct rank ranks[2];
    run_all(ranks, &strategy, 60, wait_for_sleeper);
    check_ok(ranks[0].status, &ranks[0].err);
}

/* ---- arithmetic ---- */

static void test_bf16(void **state)
{
    (void)state;
    static const struct {
        uint16_t a, b, sum;
    } rows[] = {
        {0x3f80, 0x3f80, 0x4000}, /* 1 + 1 = 2 */
        {0x3f80, 0x3b80, 0x3f80}, /* 1 + 2^-8: half way, to even */
        {0x3f81, 0x3b80, 0x3f82}, /* the next one up: half way, to even */
        {0x3f80, 0x3bc0, 0x3f81}, /* 1 + 1.5 * 2^-8: up */
        {0x7f80, 0x3f80, 0x7f80}, /* infinity stays */
        {0x7f7f, 0x7f7f, 0x7f80}, /* too large */
        {0xbf80, 0x3f80, 0x0000}, /* -1 + 1 */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint16_t sum = 0;
        hlm_wire_reduce(&sum, &rows[i].a, &rows[i].b, 1, HLM_WIRE_BF16, HLM_REDUCE_SUM);
        assert_int_equal(sum, rows[i].sum);
    }
    const uint16_t nan = 0x7f81, one = 0x3f80;
    uint16_t result = 0;
    hlm_wire_reduce(&result, &nan, &one, 1, HLM_WIRE_BF16, HLM_REDUCE_SUM);
    assert_true((result & 0x7f80) == 0x7f80 && (result & 0x7f) != 0);
    hlm_wire_reduce(&result, &one, &nan, 1, HLM_WIRE_BF16, HLM_REDUCE_MAX);
    assert_true((result & 0x7f80) == 0x7f80 && (result & 0x7f) != 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bf16),           cmocka_unit_test(test_body),
        cmocka_unit_test(test_body_of_places), cmocka_unit_test(test_late),
        cmocka_unit_test(test_left),           cmocka_unit_test(test_abort),
        cmocka_unit_test(test_misfit),         cmocka_unit_test(test_leave_with_messages),
        cmocka_unit_test(test_waits_sleep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
