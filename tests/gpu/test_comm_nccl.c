/* The NCCL transport among threads, on the emulator: groups, numbering, collectives, messages, and
 * what happens when a rank gives up. NCCL's own behaviour is not what is tested. */
#include <pthread.h>
#include <stdlib.h>

#include "exec/cuda/comm_nccl.h"
#include "tests/gpu/device.h"
#include "tests/support/check.h"
#include "tests/support/comm_body.h"

enum { MAX_RANKS = 16 };

struct job {
    struct hlm_strategy strategy;
    struct hlm_comm_config config;
    unsigned char id[HLM_CUDA_COMM_ID_BYTES];
    int32_t leaver; /* gives up at the first operation; -1: none */
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

static enum hlm_status act(struct job *job, struct hlm_comm *comm, struct hlm_err *err)
{
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
        hlm_cuda_comm_use_queue(comm, queue);
        status = act(job, comm, err);
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

static void run_job(struct job *job, int32_t dp, int32_t tp, int32_t pp, int32_t leaver)
{
    struct hlm_err err;
    *job = (struct job){.strategy = comm_body_strategy(dp, tp, pp), .leaver = leaver};
    job->config = (struct hlm_comm_config){
        .strategy = &job->strategy, .timeout_s = 60.0, .max_bytes = COMM_BODY_MAX_BYTES};
    check_ok(hlm_cuda_comm_id(job->id, &err), &err);
    const int32_t num_ranks = dp * tp * pp;
    for (int32_t i = 0; i < num_ranks; i++) {
        job->ranks[i].job = job;
        job->ranks[i].rank = i;
        assert_int_equal(pthread_create(&job->ranks[i].thread, NULL, rank_main, &job->ranks[i]), 0);
    }
    for (int32_t i = 0; i < num_ranks; i++) {
        pthread_join(job->ranks[i].thread, NULL);
    }
}

static void check_body(int32_t dp, int32_t tp, int32_t pp)
{
    struct job job;
    run_job(&job, dp, tp, pp, -1);
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

static void test_a_rank_gives_up(void **state)
{
    (void)state;
    struct job job;
    run_job(&job, 2, 2, 1, 1);
    for (int32_t i = 0; i < 4; i++) {
        const char *part = i == job.leaver ? "rank 1: the transport was stopped" : "NCCL: ";
        check_fails(job.ranks[i].status, HLM_FAILED, &job.ranks[i].err, part);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_dimension),
        cmocka_unit_test(test_several_dimensions),
        cmocka_unit_test(test_a_rank_gives_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
