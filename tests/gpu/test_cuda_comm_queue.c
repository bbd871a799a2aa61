/* Ranks as threads that share the device: sums of two buffers are those of the host, bit for bit,
 * and the queue transport does over CUDA what every transport must. */
#include <pthread.h>
#include <stdlib.h>

#include "base/rng.h"
#include "exec/comm/comm_queue.h"
#include "tests/gpu/device.h"
#include "tests/support/check.h"
#include "tests/support/comm_body.h"
#include "tests/support/staged_comm.h"

/* --- sums of two buffers --- */

enum { MOST = 5000, MOST_BYTES = 8 * (MOST + 1) };

struct bench {
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    unsigned char *a, *b, *out;
};

static void fill(unsigned char *data, int64_t count, enum hlm_wire type, uint64_t key)
{
    for (int64_t i = 0; i < count; i++) {
        const double value = 4.0 * hlm_rng_uniform(key, (uint64_t)i) - 2.0;
        const float single = (float)value;
        const unsigned char byte = (unsigned char)(int)(60.0 * (value + 2.0));
        uint32_t bits;
        memcpy(&bits, &single, sizeof bits);
        const uint16_t half = (uint16_t)(bits >> 16);
        const void *const from[] = {[HLM_WIRE_F32] = &single,
                                    [HLM_WIRE_F64] = &value,
                                    [HLM_WIRE_BF16] = &half,
                                    [HLM_WIRE_BYTE] = &byte};
        const int64_t size = hlm_wire_bytes(type);
        memcpy(data + i * size, from[type], (size_t)size);
    }
}

/* From element `first` on: one that is not aligned takes single elements. */
static void check_combine(struct bench *bench, int64_t first, int64_t count, enum hlm_wire type,
                          enum hlm_reduce op)
{
    static unsigned char a[MOST_BYTES], b[MOST_BYTES], expected[MOST_BYTES], found[MOST_BYTES];
    const struct hlm_backend_ops *ops = bench->backend->ops;
    const int64_t size = hlm_wire_bytes(type), bytes = (first + count) * size, skip = first * size;
    struct hlm_err err;
    fill(a, first + count, type, 1);
    fill(b, first + count, type, 2);
    hlm_wire_reduce(expected, a + skip, b + skip, count, type, op);
    check_ok(ops->upload(bench->queue, bench->a, a, bytes, &err), &err);
    check_ok(ops->upload(bench->queue, bench->b, b, bytes, &err), &err);
    check_ok(ops->combine(bench->queue, bench->out + skip, bench->a + skip, bench->b + skip, count,
                          type, op, &err),
             &err);
    check_ok(ops->combine(bench->queue, bench->a + skip, bench->a + skip, bench->b + skip, count,
                          type, op, &err),
             &err);
    check_ok(ops->download(bench->queue, found, bench->out + skip, count * size, &err), &err);
    check_ok(ops->queue_sync(bench->queue, &err), &err);
    assert_memory_equal(found, expected, (size_t)(count * size));
    check_ok(ops->download(bench->queue, found, bench->a + skip, count * size, &err), &err);
    check_ok(ops->queue_sync(bench->queue, &err), &err);
    assert_memory_equal(found, expected, (size_t)(count * size));
}

static void test_combine(void **state)
{
    (void)state;
    static const int64_t counts[] = {1, 7, 16, 4096, MOST};
    static const enum hlm_wire types[] = {HLM_WIRE_F32, HLM_WIRE_F64, HLM_WIRE_BF16, HLM_WIRE_BYTE};
    struct bench bench = {0};
    struct hlm_err err;
    void *memory = NULL;
    check_ok(device_backend_new(false, &bench.backend, &err), &err);
    check_ok(bench.backend->ops->queue_new(bench.backend, &bench.queue, &err), &err);
    check_ok(bench.backend->ops->alloc(bench.backend, 3 * MOST_BYTES, &memory, &err), &err);
    bench.a = memory;
    bench.b = bench.a + MOST_BYTES;
    bench.out = bench.b + MOST_BYTES;
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
            for (int64_t first = 0; first < 2; first++) {
                check_combine(&bench, first, counts[c], types[t], HLM_REDUCE_SUM);
                check_combine(&bench, first, counts[c], types[t], HLM_REDUCE_MAX);
            }
        }
    }
    bench.backend->ops->queue_free(bench.queue);
    bench.backend->ops->free(bench.backend, memory);
    hlm_backend_free(bench.backend);
}

/* --- ranks --- */

enum { MAX_RANKS = 4, COUNT = 1003 };

struct seat {
    const struct hlm_comm_config *config;
    struct hlm_comm *comm;
    pthread_t thread;
    enum hlm_status status;
    struct hlm_err err;
};

/* A few sums and a message to the next rank: the whole body takes minutes on the emulator. */
static enum hlm_status act_small(struct hlm_comm *comm, struct hlm_err *err)
{
    float data[COUNT], came[COUNT];
    const int32_t n = comm->world_size;
    struct hlm_request *send = NULL, *receive = NULL;
    for (int i = 0; i < COUNT; i++) {
        data[i] = (float)(comm->rank + i);
    }
    HLM_TRY(comm->ops->send(comm, (comm->rank + 1) % n, 0, data, (int64_t)sizeof data, &send, err));
    HLM_TRY(comm->ops->receive(comm, (comm->rank + n - 1) % n, 0, came, (int64_t)sizeof came,
                               &receive, err));
    HLM_TRY(comm->ops->wait(comm, receive, err));
    HLM_TRY(comm->ops->wait(comm, send, err));
    HLM_TRY(comm->ops->all_reduce(comm, HLM_GROUP_WORLD, data, COUNT, HLM_WIRE_F32, HLM_REDUCE_SUM,
                                  err));
    for (int i = 0; i < COUNT; i++) {
        const double sum = 0.5 * n * (n - 1) + (double)n * i;
        const double sent = (comm->rank + n - 1) % n + i;
        if (fabs((double)data[i] - sum) > 0.0 || fabs((double)came[i] - sent) > 0.0) {
            return hlm_fail(err, HLM_NO, "element %d: sum %g, message %g", i, (double)data[i],
                            (double)came[i]);
        }
    }
    return comm->ops->barrier(comm, HLM_GROUP_WORLD, err);
}

static enum hlm_status sit(struct seat *seat, struct hlm_backend *backend, struct hlm_err *err)
{
    struct hlm_comm *staged = NULL;
    HLM_TRY(hlm_comm_queue_use_backend(seat->comm, backend, err));
    HLM_TRY(staged_comm_new(seat->config, seat->comm, backend, &staged, err));
    const enum hlm_status status = device_is_emulated()
                                       ? act_small(staged, err)
                                       : comm_body_run(staged, seat->config->strategy, err);
    if (status != HLM_OK) {
        seat->comm->ops->abort(seat->comm);
    }
    hlm_comm_free(staged);
    return status;
}

static void *run_seat(void *argument)
{
    struct seat *seat = argument;
    struct hlm_backend *backend = NULL;
    seat->status = device_backend_new(false, &backend, &seat->err);
    if (seat->status == HLM_OK) {
        seat->status = sit(seat, backend, &seat->err);
    }
    hlm_comm_free(seat->comm);
    hlm_backend_free(backend);
    return NULL;
}

static void check_ranks(int32_t dp, int32_t tp, int32_t pp)
{
    const struct hlm_strategy strategy = comm_body_strategy(dp, tp, pp);
    const struct hlm_comm_config config = {
        .strategy = &strategy, .timeout_s = 60.0, .max_bytes = COMM_BODY_MAX_BYTES};
    struct hlm_comm *comms[MAX_RANKS];
    struct seat seats[MAX_RANKS];
    struct hlm_err err;
    check_ok(hlm_comm_queue_new(&config, comms, &err), &err);
    for (int32_t i = 0; i < dp * tp * pp; i++) {
        seats[i] = (struct seat){.config = &config, .comm = comms[i]};
        assert_int_equal(pthread_create(&seats[i].thread, NULL, run_seat, &seats[i]), 0);
    }
    for (int32_t i = 0; i < dp * tp * pp; i++) {
        pthread_join(seats[i].thread, NULL);
    }
    for (int32_t i = 0; i < dp * tp * pp; i++) {
        check_ok(seats[i].status, &seats[i].err);
    }
}

static void test_ranks_share_the_device(void **state)
{
    (void)state;
    check_ranks(2, 1, 1);
    check_ranks(1, 3, 1);
    check_ranks(1, 2, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_combine),
        cmocka_unit_test(test_ranks_share_the_device),
    };
    return device_is_there() ? cmocka_run_group_tests(tests, NULL, NULL) : EXIT_SKIPPED;
}
