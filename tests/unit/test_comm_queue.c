/* The queue transport among threads: what every transport must do, over the CPU backend and over
 * one that is late on purpose, and how waits in vain end. */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "exec/comm/comm_queue.h"
#include "tests/support/check.h"
#include "tests/support/comm_body.h"
#include "tests/support/late_backend.h"
#include "tests/support/staged_comm.h"

enum { MAX_RANKS = 8 };

struct job;

/* What one rank does with its transport, a queue that is in use, and memory of the backend; it may
 * not use the assertions, which jump. */
struct seat {
    struct job *job;
    int32_t rank;
    struct hlm_comm *comm;
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    char *memory;
    pthread_t thread;
    enum hlm_status status;
    struct hlm_err err;
};
enum { MEMORY_BYTES = 1 << 16 };
typedef enum hlm_status act_fn(struct seat *seat, struct hlm_err *err);

struct job {
    struct hlm_strategy strategy;
    struct hlm_comm_config config;
    bool late;
    act_fn *act;
    int operation;             /* of the tests of failures */
    struct hlm_backend *first; /* late backends share its device */
    struct hlm_comm *comms[MAX_RANKS];
    struct seat seats[MAX_RANKS];
};

static enum hlm_status new_backend(struct seat *seat, struct hlm_err *err)
{
    return seat->job->late ? late_backend_new_beside(seat->job->first, &seat->backend,
                                                     (uint64_t)seat->rank + 1, 2e-5, err)
                           : hlm_backend_cpu_new(&seat->backend, err);
}

static enum hlm_status sit(struct seat *seat, struct hlm_err *err)
{
    void *memory = NULL;
    HLM_TRY(new_backend(seat, err));
    HLM_TRY(hlm_comm_queue_use_backend(seat->comm, seat->backend, err));
    HLM_TRY(seat->backend->ops->queue_new(seat->backend, &seat->queue, err));
    HLM_TRY(seat->backend->ops->alloc(seat->backend, MEMORY_BYTES, &memory, err));
    seat->memory = memory;
    seat->comm->ops->use_queue(seat->comm, seat->queue);
    return HLM_OK;
}

/* As a rank should: its queues are empty before the transport goes, its memory stays till then. */
static void *run_seat(void *argument)
{
    struct seat *seat = argument;
    struct hlm_err ignored;
    seat->status = sit(seat, &seat->err);
    if (seat->status == HLM_OK) {
        seat->status = seat->job->act(seat, &seat->err);
        if (seat->backend->ops->queue_sync(seat->queue, &ignored) != HLM_OK) {
            seat->status = HLM_NO;
        }
        seat->comm->ops->use_queue(seat->comm, NULL);
    }
    hlm_comm_free(seat->comm);
    seat->backend->ops->queue_free(seat->queue);
    seat->backend->ops->free(seat->backend, seat->memory);
    hlm_backend_free(seat->backend);
    return NULL;
}

static void run_job(struct job *job)
{
    struct hlm_err err;
    const int32_t world_size = hlm_layout_group_size(&job->strategy, HLM_GROUP_WORLD);
    check_ok(hlm_comm_queue_new(&job->config, job->comms, &err), &err);
    check_ok(late_backend_new(&job->first, 0, 0.0, &err), &err);
    for (int32_t i = 0; i < world_size; i++) {
        assert_int_equal(job->comms[i]->rank, i);
        assert_int_equal(job->comms[i]->world_size, world_size);
        job->seats[i] = (struct seat){.job = job, .rank = i, .comm = job->comms[i]};
        assert_int_equal(pthread_create(&job->seats[i].thread, NULL, run_seat, &job->seats[i]), 0);
    }
    for (int32_t i = 0; i < world_size; i++) {
        pthread_join(job->seats[i].thread, NULL);
    }
    hlm_backend_free(job->first);
}

static void job_init(struct job *job, int32_t dp, int32_t tp, int32_t pp, double timeout_s)
{
    *job = (struct job){.strategy = comm_body_strategy(dp, tp, pp)};
    job->config = (struct hlm_comm_config){
        .strategy = &job->strategy, .timeout_s = timeout_s, .max_bytes = COMM_BODY_MAX_BYTES};
}

/* --- what every transport must do --- */

static enum hlm_status act_body(struct seat *seat, struct hlm_err *err)
{
    struct hlm_comm *staged = NULL;
    HLM_TRY(staged_comm_new(&seat->job->config, seat->comm, seat->backend, &staged, err));
    const enum hlm_status status = comm_body_run(staged, &seat->job->strategy, err);
    if (status != HLM_OK) {
        seat->comm->ops->abort(seat->comm);
    }
    hlm_comm_free(staged);
    return status;
}

static void check_body(int32_t dp, int32_t tp, int32_t pp, bool late)
{
    struct job job;
    job_init(&job, dp, tp, pp, 120.0);
    job.late = late;
    job.act = act_body;
    run_job(&job);
    for (int32_t i = 0; i < dp * tp * pp; i++) {
        check_ok(job.seats[i].status, &job.seats[i].err);
    }
}

static void test_body(void **state)
{
    (void)state;
    check_body(1, 1, 1, false);
    check_body(2, 1, 1, false);
    check_body(1, 1, 3, false);
    check_body(2, 2, 2, false);
}

static void test_body_late(void **state)
{
    (void)state;
    check_body(2, 1, 1, true);
    check_body(1, 2, 2, true);
}

/* --- waits in vain --- */

static enum hlm_status all_reduce(struct seat *seat, enum hlm_group group, int64_t count,
                                  struct hlm_err *err)
{
    return seat->comm->ops->all_reduce(seat->comm, group, seat->memory, count, HLM_WIRE_F32,
                                       HLM_REDUCE_SUM, err);
}

static enum hlm_status reduce(struct seat *seat, struct hlm_err *err)
{
    return all_reduce(seat, HLM_GROUP_DP, 1000, err);
}

static enum hlm_status meet(struct seat *seat, struct hlm_err *err)
{
    return seat->comm->ops->barrier(seat->comm, HLM_GROUP_DP, err);
}

static enum hlm_status receive(struct seat *seat, struct hlm_err *err)
{
    struct hlm_request *request = NULL;
    HLM_TRY(seat->comm->ops->receive(seat->comm, 1, 0, seat->memory, 8000, &request, err));
    return seat->comm->ops->wait(seat->comm, request, err);
}

static enum hlm_status send(struct seat *seat, struct hlm_err *err)
{
    struct hlm_request *request = NULL;
    HLM_TRY(seat->comm->ops->send(seat->comm, 1, 0, seat->memory, 8000, &request, err));
    return seat->comm->ops->wait(seat->comm, request, err);
}

static const struct {
    act_fn *act;
    const char *name, *what;
} operations[] = {
    {reduce, "all_reduce over dp: ", "the arrival of"},
    {meet, "barrier over dp: ", "the arrival of"},
    {receive, "", "a message from"},
    {send, "", "a message to be taken by"},
};
enum { NUM_OPERATIONS = sizeof operations / sizeof operations[0] };

/* Rank 0 does the operation; rank 1 does not come in time, leaves, or ends the run. */
static enum hlm_status against_late(struct seat *seat, struct hlm_err *err)
{
    if (seat->rank == 0) {
        return operations[seat->job->operation].act(seat, err);
    }
    usleep(600000);
    return HLM_OK;
}

static enum hlm_status against_leaver(struct seat *seat, struct hlm_err *err)
{
    if (seat->rank == 0) {
        return operations[seat->job->operation].act(seat, err);
    }
    usleep(100000);
    return HLM_OK;
}

static enum hlm_status against_abort(struct seat *seat, struct hlm_err *err)
{
    if (seat->rank == 0) {
        return operations[seat->job->operation].act(seat, err);
    }
    usleep(100000);
    seat->comm->ops->abort(seat->comm);
    usleep(100000);
    return HLM_OK;
}

static void check_vain(act_fn *act, double timeout_s, const char *verb, const char *end)
{
    for (int i = 0; i < NUM_OPERATIONS; i++) {
        struct job job;
        char expected[200];
        job_init(&job, 2, 1, 1, timeout_s);
        job.late = true;
        job.act = act;
        job.operation = i;
        run_job(&job);
        check_ok(job.seats[1].status, &job.seats[1].err);
        snprintf(expected, sizeof expected, "%srank 0 %s for %s rank 1%s", operations[i].name, verb,
                 operations[i].what, end);
        check_fails(job.seats[0].status, HLM_FAILED, &job.seats[0].err, expected);
    }
}

static void test_peer_never_comes(void **state)
{
    (void)state;
    check_vain(against_late, 0.2, "has waited 0.2 s", "");
}

static void test_peer_leaves(void **state)
{
    (void)state;
    check_vain(against_leaver, 60.0, "waits", ", which has left");
}

static void test_peer_ends_the_run(void **state)
{
    (void)state;
    check_vain(against_abort, 60.0, "waits", ", but rank 1 has ended the run");
}

/* --- calls that don't agree --- */

static enum hlm_status call_other(struct seat *seat, struct hlm_err *err)
{
    usleep(seat->rank == 0 ? 0 : 100000);
    return seat->rank == 0 ? all_reduce(seat, HLM_GROUP_TP, 1000, err)
                           : seat->comm->ops->all_gather(seat->comm, HLM_GROUP_TP, seat->memory,
                                                         seat->memory + MEMORY_BYTES / 2, 500,
                                                         HLM_WIRE_BF16, err);
}

static enum hlm_status call_other_count(struct seat *seat, struct hlm_err *err)
{
    usleep(seat->rank == 0 ? 0 : 100000);
    return all_reduce(seat, HLM_GROUP_TP, 1000 + seat->rank, err);
}

static void check_clash(act_fn *act, const char *expected)
{
    struct job job;
    job_init(&job, 1, 2, 1, 60.0);
    job.act = act;
    run_job(&job);
    for (int i = 0; i < 2; i++) {
        check_fails(job.seats[i].status, HLM_FAILED, &job.seats[i].err, expected);
    }
}

static void test_wrong_order_in_a_group(void **state)
{
    (void)state;
    check_clash(call_other, "over tp: rank 0 calls all_reduce of 1000 f32, rank 1 calls "
                            "all_gather of 500 bf16");
    check_clash(call_other_count, "over tp: rank 0 calls all_reduce of 1000 f32, rank 1 calls "
                                  "all_reduce of 1001 f32");
}

/* Each waits for the other in another group: both are named when the time is over. */
static enum hlm_status cross_groups(struct seat *seat, struct hlm_err *err)
{
    const enum hlm_group order[2] = {seat->rank == 0 ? HLM_GROUP_TP : HLM_GROUP_WORLD,
                                     seat->rank == 0 ? HLM_GROUP_WORLD : HLM_GROUP_TP};
    usleep(seat->rank == 0 ? 0 : 100000);
    HLM_TRY(all_reduce(seat, order[0], 10, err));
    return all_reduce(seat, order[1], 10, err);
}

static void test_wrong_order_of_groups(void **state)
{
    (void)state;
    struct job job;
    job_init(&job, 1, 2, 1, 0.4);
    job.act = cross_groups;
    run_job(&job);
    check_fails(job.seats[0].status, HLM_FAILED, &job.seats[0].err,
                "all_reduce over tp: rank 0 has waited 0.4 s for the arrival of rank 1, which "
                "waits in all_reduce over world");
    assert_int_equal(job.seats[1].status, HLM_FAILED);
}

static enum hlm_status misfit(struct seat *seat, struct hlm_err *err)
{
    struct hlm_request *request = NULL;
    const struct hlm_comm_ops *ops = seat->comm->ops;
    HLM_TRY(seat->rank == 0 ? ops->receive(seat->comm, 1, 0, seat->memory, 8, &request, err)
                            : ops->send(seat->comm, 0, 0, seat->memory, 16, &request, err));
    return ops->wait(seat->comm, request, err);
}

static void test_misfit(void **state)
{
    (void)state;
    struct job job;
    job_init(&job, 2, 1, 1, 60.0);
    job.act = misfit;
    run_job(&job);
    check_fails(job.seats[0].status, HLM_FAILED, &job.seats[0].err,
                "rank 0: a message from rank 1 has 8 bytes here, but 16 on the other side");
    check_fails(job.seats[1].status, HLM_FAILED, &job.seats[1].err,
                "rank 1: a message to be taken by rank 0 has 16 bytes here, but 8");
}

/* --- leaving --- */

/* A rank leaves with messages matched and posted on both sides of it. */
static enum hlm_status leave_early(struct seat *seat, struct hlm_err *err)
{
    struct hlm_request *first = NULL, *second = NULL, *third = NULL;
    const int32_t peer = 1 - seat->rank;
    const struct hlm_comm_ops *ops = seat->comm->ops;
    usleep(seat->rank == 0 ? 0 : 100000);
    HLM_TRY(ops->send(seat->comm, peer, 0, seat->memory, 8000, &first, err));
    HLM_TRY(ops->receive(seat->comm, peer, 0, seat->memory + 8000, 8000, &second, err));
    HLM_TRY(ops->receive(seat->comm, peer, 0, seat->memory + 16000, 8000, &third, err));
    if (seat->rank == 1) {
        return HLM_OK;
    }
    usleep(200000);
    HLM_TRY(ops->wait(seat->comm, second, err)); /* was sent before the other left */
    HLM_TRY(ops->wait(seat->comm, first, err));
    return ops->wait(seat->comm, third, err);
}

static void test_leave_with_messages(void **state)
{
    (void)state;
    struct job job;
    job_init(&job, 2, 1, 1, 60.0);
    job.late = true;
    job.act = leave_early;
    run_job(&job);
    check_ok(job.seats[1].status, &job.seats[1].err);
    check_fails(job.seats[0].status, HLM_FAILED, &job.seats[0].err,
                "a message from rank 1, which has left");
}

/* One of three gives up between two meetings of a collective's members: its data stays until the
 * others no longer read it (else the late backend ends the program). */
static enum hlm_status give_up_inside(struct seat *seat, struct hlm_err *err)
{
    for (int i = 0; i < 40; i++) {
        HLM_TRY(all_reduce(seat, HLM_GROUP_TP, 4000, err));
        if (seat->rank == 2 && i == 20) {
            seat->comm->ops->abort(seat->comm);
            return hlm_fail(err, HLM_NO, "gave up");
        }
    }
    return HLM_OK;
}

static void test_give_up(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++) {
        struct job job;
        job_init(&job, 1, 3, 1, 60.0);
        job.late = true;
        job.act = give_up_inside;
        run_job(&job);
        assert_int_equal(job.seats[2].status, HLM_NO);
        check_fails(job.seats[0].status, HLM_FAILED, &job.seats[0].err, "has ended the run");
        check_fails(job.seats[1].status, HLM_FAILED, &job.seats[1].err, "has ended the run");
    }
}

/* The device of rank 2 fails between two meetings of a sum. Rank 1 has put reads of rank 0's data
 * on a queue that stands still; rank 0 keeps that data until they are over. */
static enum hlm_status refuse_combine(struct hlm_queue *queue, void *out, const void *a,
                                      const void *b, int64_t count, enum hlm_wire type,
                                      enum hlm_reduce op, struct hlm_err *err)
{
    (void)queue;
    (void)out;
    (void)a;
    (void)b;
    (void)count;
    (void)type;
    (void)op;
    usleep(100000);
    return hlm_fail(err, HLM_NO, "the device is lost");
}

static enum hlm_status fail_inside(struct seat *seat, struct hlm_err *err)
{
    static const atomic_bool never = false;
    struct hlm_backend_ops lost = *seat->backend->ops;
    const struct hlm_backend_ops *whole = seat->backend->ops;
    lost.combine = refuse_combine;
    if (seat->rank == 1) {
        late_backend_hold(seat->queue, &never, 0.6);
    }
    seat->backend->ops = seat->rank == 2 ? &lost : whole;
    const enum hlm_status status = all_reduce(seat, HLM_GROUP_TP, 4000, err);
    seat->backend->ops = whole;
    if (seat->rank == 2) {
        seat->comm->ops->abort(seat->comm);
    }
    return status;
}

static void test_failure_inside(void **state)
{
    (void)state;
    struct job job;
    job_init(&job, 1, 3, 1, 60.0);
    job.late = true;
    job.act = fail_inside;
    run_job(&job);
    check_fails(job.seats[0].status, HLM_FAILED, &job.seats[0].err, "rank 2 has given up");
    check_fails(job.seats[1].status, HLM_FAILED, &job.seats[1].err, "rank 2 has given up");
    check_fails(job.seats[2].status, HLM_NO, &job.seats[2].err, "the device is lost");
}

/* Rank 0 leaves while rank 1's queue still has to copy from its buffer. */
static enum hlm_status leave_while_read(struct seat *seat, struct hlm_err *err)
{
    static const atomic_bool never = false;
    struct hlm_request *request = NULL;
    const struct hlm_comm_ops *ops = seat->comm->ops;
    if (seat->rank == 0) {
        HLM_TRY(ops->send(seat->comm, 1, 0, seat->memory, 8000, &request, err));
        usleep(200000);
        return HLM_OK;
    }
    usleep(100000);
    late_backend_hold(seat->queue, &never, 0.5);
    HLM_TRY(ops->receive(seat->comm, 0, 0, seat->memory, 8000, &request, err));
    usleep(200000);
    return ops->wait(seat->comm, request, err);
}

static void test_leave_while_read(void **state)
{
    (void)state;
    struct job job;
    job_init(&job, 2, 1, 1, 60.0);
    job.late = true;
    job.act = leave_while_read;
    run_job(&job);
    check_ok(job.seats[0].status, &job.seats[0].err);
    check_ok(job.seats[1].status, &job.seats[1].err);
}

/* Rank 1 comes after rank 0 has given up and before it has left: it may not read its data. */
static enum hlm_status come_too_late(struct seat *seat, struct hlm_err *err)
{
    usleep(seat->rank == 0 ? 0 : 400000);
    const enum hlm_status status = all_reduce(seat, HLM_GROUP_TP, 100, err);
    usleep(seat->rank == 0 ? 600000 : 0);
    return status;
}

static void test_come_too_late(void **state)
{
    (void)state;
    struct job job;
    job_init(&job, 1, 2, 1, 0.2);
    job.act = come_too_late;
    run_job(&job);
    check_fails(job.seats[0].status, HLM_FAILED, &job.seats[0].err,
                "rank 0 has waited 0.2 s for the arrival of rank 1");
    check_fails(job.seats[1].status, HLM_FAILED, &job.seats[1].err,
                "all_reduce over tp: rank 1: rank 0 has given up before");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_body),
        cmocka_unit_test(test_body_late),
        cmocka_unit_test(test_peer_never_comes),
        cmocka_unit_test(test_peer_leaves),
        cmocka_unit_test(test_peer_ends_the_run),
        cmocka_unit_test(test_wrong_order_in_a_group),
        cmocka_unit_test(test_wrong_order_of_groups),
        cmocka_unit_test(test_misfit),
        cmocka_unit_test(test_leave_with_messages),
        cmocka_unit_test(test_give_up),
        cmocka_unit_test(test_failure_inside),
        cmocka_unit_test(test_leave_while_read),
        cmocka_unit_test(test_come_too_late),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
