/* The CUDA backend's promises beside right results: memory, copies in queue order, events,
 * refusals, the optimizer with and without a master copy, in-place operators, equal bits. */
#include <stdlib.h>
#include <time.h>

#include "tests/gpu/device.h"
#include "tests/support/check.h"

#include "base/rng.h"

struct fixture {
    struct hlm_backend *backend;
    struct hlm_queue *queue;
};

static int setup(void **state)
{
    struct hlm_err err;
    struct fixture *fixture = test_calloc(1, sizeof *fixture);
    check_ok(device_backend_new(true, &fixture->backend, &err), &err);
    check_ok(fixture->backend->ops->queue_new(fixture->backend, &fixture->queue, &err), &err);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    fixture->backend->ops->queue_free(fixture->queue);
    hlm_backend_free(fixture->backend);
    test_free(fixture);
    return 0;
}

static void *put(struct fixture *fixture, const void *host, int64_t bytes)
{
    struct hlm_err err;
    void *memory = NULL;
    check_ok(fixture->backend->ops->alloc(fixture->backend, bytes, &memory, &err), &err);
    check_ok(fixture->backend->ops->upload(fixture->queue, memory, host, bytes, &err), &err);
    return memory;
}

static void get(struct fixture *fixture, void *host, const void *memory, int64_t bytes)
{
    struct hlm_err err;
    check_ok(fixture->backend->ops->download(fixture->queue, host, memory, bytes, &err), &err);
    check_ok(fixture->backend->ops->queue_sync(fixture->queue, &err), &err);
}

static void drop(struct fixture *fixture, void *memory)
{
    fixture->backend->ops->free(fixture->backend, memory);
}

static void launch(struct fixture *fixture, const struct hlm_op *op, void *const *operands,
                   int num_operands, const struct hlm_op_scalars *scalars)
{
    struct hlm_err err;
    void *given[HLM_OP_MAX_OPERANDS] = {0};
    memcpy(given, operands, (size_t)num_operands * sizeof(void *));
    check_ok(fixture->backend->ops->launch(fixture->queue, op, given, scalars, &err), &err);
}

#define LAUNCH(fixture, op, scalars, ...)                                                          \
    launch(fixture, op, (void *const[]){__VA_ARGS__},                                              \
           (int)(sizeof((void *const[]){__VA_ARGS__}) / sizeof(void *)), scalars)

static float *random_floats(int64_t count, double scale)
{
    float *values = test_malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) {
        values[i] = (float)(scale * hlm_rng_normal(5, (uint64_t)i));
    }
    return values;
}

static void test_memory(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    const struct hlm_backend_ops *ops = fixture->backend->ops;
    void *memory = NULL;
    assert_false(ops->host_memory);
    check_ok(ops->alloc(fixture->backend, 0, &memory, &err), &err);
    assert_non_null(memory);
    assert_int_equal((uintptr_t)memory % 256, 0);
    ops->free(fixture->backend, memory);
    ops->free(fixture->backend, NULL);
    const int64_t too_much = INT64_C(1) << 50;
    check_fails(ops->alloc(fixture->backend, too_much, &memory, &err), HLM_ENV, &err,
                "refused 1125899906842624 bytes of memory: CUDA: allocating device memory: out of "
                "memory (cudaErrorMemoryAllocation, 2)");
}

/* Copies larger than all of the staging together, odd sizes, several before one sync. */
static void test_copies(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    const struct hlm_backend_ops *ops = fixture->backend->ops;
    const int64_t sizes[] = {1, 1000, (1 << 20) + 1, 11 << 20};
    unsigned char *sent[4], *back[4];
    void *first[4], *second[4];
    for (int i = 0; i < 4; i++) {
        sent[i] = test_malloc((size_t)sizes[i]);
        back[i] = test_calloc(1, (size_t)sizes[i]);
        for (int64_t k = 0; k < sizes[i]; k++) {
            sent[i][k] = (unsigned char)(k * 7 + k / 251 + i);
        }
        first[i] = put(fixture, sent[i], sizes[i]);
        check_ok(ops->alloc(fixture->backend, sizes[i], &second[i], &err), &err);
        check_ok(ops->copy(fixture->queue, second[i], first[i], sizes[i], &err), &err);
        check_ok(ops->download(fixture->queue, back[i], second[i], sizes[i], &err), &err);
    }
    check_ok(ops->queue_sync(fixture->queue, &err), &err);
    for (int i = 0; i < 4; i++) {
        assert_memory_equal(back[i], sent[i], (size_t)sizes[i]);
        drop(fixture, first[i]);
        drop(fixture, second[i]);
        test_free(sent[i]);
        test_free(back[i]);
    }
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Times lie on the host's clock, in the order of the queue. */
static void test_events(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    const struct hlm_backend_ops *ops = fixture->backend->ops;
    enum { COUNT = 1 << 20 };
    struct hlm_event *events[2] = {NULL, NULL};
    float *values = random_floats(COUNT, 1.0);
    float *data = put(fixture, values, COUNT * 4);
    check_ok(ops->queue_sync(fixture->queue, &err), &err);
    const struct hlm_op op = {.kind = HLM_OP_FILL_ZERO, .m = COUNT};
    const double before_s = now_s();
    for (int i = 0; i < 2; i++) {
        check_ok(ops->event_new(fixture->backend, &events[i], &err), &err);
        check_ok(ops->event_record(fixture->queue, events[i], &err), &err);
        check_ok(ops->event_wait(fixture->queue, events[i], &err), &err);
        LAUNCH(fixture, &op, NULL, data);
    }
    check_ok(ops->queue_sync(fixture->queue, &err), &err);
    const double after_s = now_s(), slack_s = 1e-3;
    const double first_s = ops->event_time(events[0]).wall_s;
    const double second_s = ops->event_time(events[1]).wall_s;
    assert_true(before_s - slack_s <= first_s && first_s < second_s);
    assert_true(second_s <= after_s + slack_s);
    ops->event_free(events[0]);
    ops->event_free(events[1]);
    ops->event_free(NULL);
    drop(fixture, data);
    test_free(values);
}

static void test_two_queues(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    const struct hlm_backend_ops *ops = fixture->backend->ops;
    enum { COUNT = 1 << 20 };
    struct hlm_queue *other = NULL;
    struct hlm_event *event = NULL;
    float *values = random_floats(COUNT, 1.0), *back = test_malloc(COUNT * sizeof(float));
    const struct hlm_op add = {.kind = HLM_OP_ADD, .m = 1, .n = COUNT};
    check_ok(ops->queue_new(fixture->backend, &other, &err), &err);
    check_ok(ops->event_new(fixture->backend, &event, &err), &err);
    float *data = put(fixture, values, COUNT * 4);
    for (int i = 0; i < 20; i++) {
        LAUNCH(fixture, &add, NULL, data, data, data);
    }
    check_ok(ops->event_record(fixture->queue, event, &err), &err);
    check_ok(ops->event_wait(other, event, &err), &err);
    check_ok(ops->download(other, back, data, COUNT * 4, &err), &err);
    check_ok(ops->queue_sync(other, &err), &err);
    for (int i = 0; i < COUNT; i++) {
        check_close((double)back[i], ldexp((double)values[i], 20), 1e-12);
    }
    ops->queue_free(other);
    ops->event_free(event);
    drop(fixture, data);
    test_free(values);
    test_free(back);
}

static void test_refusals(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    void *const operands[HLM_OP_MAX_OPERANDS] = {0};
    const struct hlm_op half = {.kind = HLM_OP_ADD, .dtype = HLM_DTYPE_FP16};
    const struct hlm_op route = {.kind = HLM_OP_ROUTE_FWD};
    const struct hlm_op reduce = {.kind = HLM_OP_ALL_REDUCE};
    const struct hlm_op wide = {.kind = HLM_OP_ATTENTION_FWD,
                                .m = 1,
                                .n = 256,
                                .batch = 1,
                                .seq_len = 1,
                                .heads = 1,
                                .kv_heads = 1,
                                .head_dim = 256};
    const struct hlm_op adamw = {.kind = HLM_OP_ADAMW, .dtype = HLM_DTYPE_BF16, .m = 1};
    const struct hlm_op_scalars scalars = {.step = 1};
    const struct hlm_backend_ops *ops = fixture->backend->ops;
    check_fails(ops->launch(fixture->queue, &half, operands, NULL, &err), HLM_ENV, &err,
                "add in fp16");
    check_fails(ops->launch(fixture->queue, &route, operands, NULL, &err), HLM_ENV, &err,
                "route_fwd in fp32");
    check_fails(ops->launch(fixture->queue, &reduce, operands, NULL, &err), HLM_ENV, &err,
                "all_reduce");
    check_fails(ops->launch(fixture->queue, &wide, operands, NULL, &err), HLM_ENV, &err,
                "attention_fwd in fp32");
    check_fails(ops->launch(fixture->queue, &adamw, operands, &scalars, &err), HLM_ENV, &err,
                "adamw in bf16");
}

/* One step as the paper writes it, in double. */
static double adamw_step(const struct hlm_op_scalars *s, double grad, double p, double *m,
                         double *v)
{
    const double g = grad * s->grad_scale, t = (double)s->step;
    p -= s->learning_rate * s->weight_decay * p;
    *m = s->beta1 * *m + (1.0 - s->beta1) * g;
    *v = s->beta2 * *v + (1.0 - s->beta2) * g * g;
    return p - s->learning_rate * (*m / (1.0 - pow(s->beta1, t))) /
                   (sqrt(*v / (1.0 - pow(s->beta2, t))) + s->adam_eps);
}

static const struct hlm_op_scalars adamw_scalars = {.learning_rate = 0.02,
                                                    .beta1 = 0.9,
                                                    .beta2 = 0.95,
                                                    .adam_eps = 1e-8,
                                                    .weight_decay = 0.1,
                                                    .grad_scale = 0.25};

/* count elements from `skip` on, of slabs whose first elements nobody may touch */
static void check_adamw(struct fixture *fixture, enum hlm_dtype dtype, int64_t count, int64_t skip)
{
    const int64_t all = count + skip;
    const bool half = dtype == HLM_DTYPE_BF16;
    float *grad = random_floats(all, 1.0), *param = random_floats(all, 3.0);
    float *zeros = test_calloc((size_t)all, sizeof *zeros);
    double *p = test_malloc((size_t)all * sizeof *p), *m = test_calloc((size_t)all, sizeof *m);
    double *v = test_calloc((size_t)all, sizeof *v);
    uint16_t *rounded = test_calloc((size_t)all, sizeof *rounded);
    grad[skip] = 0.0f; /* a parameter that nothing depends on: 0 / (0 + eps) */
    float *on_device[] = {put(fixture, grad, all * 4), put(fixture, param, all * 4),
                          put(fixture, zeros, all * 4), put(fixture, zeros, all * 4)};
    uint16_t *halves = put(fixture, rounded, all * 2);
    for (int64_t i = 0; i < all; i++) {
        p[i] = (double)param[i];
    }
    const struct hlm_op op = {.kind = HLM_OP_ADAMW, .dtype = dtype, .m = count};
    struct hlm_op_scalars scalars = adamw_scalars;
    for (scalars.step = 1; scalars.step <= 3; scalars.step++) {
        LAUNCH(fixture, &op, &scalars, on_device[0] + skip,
               half ? (void *)(halves + skip) : (void *)(on_device[1] + skip), on_device[2] + skip,
               on_device[3] + skip, half ? on_device[1] + skip : NULL);
        for (int64_t i = skip; i < all; i++) {
            p[i] = adamw_step(&scalars, (double)grad[i], p[i], &m[i], &v[i]);
        }
    }
    get(fixture, param, on_device[1], all * 4);
    get(fixture, rounded, halves, all * 2);
    for (int64_t i = 0; i < all; i++) {
        const uint32_t bits = (uint32_t)rounded[i] << 16;
        float from_half;
        memcpy(&from_half, &bits, sizeof from_half);
        check_near((double)param[i], p[i], 1e-5 * (1.0 + fabs(p[i])));
        check_near((double)from_half, half && i >= skip ? p[i] : 0.0,
                   half ? 4e-3 * fabs(p[i]) + 1e-6 : 0.0);
    }
    for (int i = 0; i < 4; i++) {
        drop(fixture, on_device[i]);
    }
    drop(fixture, halves);
    void *const host[] = {grad, param, zeros, p, m, v, rounded};
    for (int i = 0; i < 7; i++) {
        test_free(host[i]);
    }
}

static void test_adamw(void **state)
{
    check_adamw(*state, HLM_DTYPE_FP32, 1003, 0);
    check_adamw(*state, HLM_DTYPE_FP32, 1024, 0);
    check_adamw(*state, HLM_DTYPE_FP32, 1024, 3);
    check_adamw(*state, HLM_DTYPE_BF16, 1003, 0);
    check_adamw(*state, HLM_DTYPE_BF16, 1024, 0);
    check_adamw(*state, HLM_DTYPE_BF16, 1024, 8);
    check_adamw(*state, HLM_DTYPE_BF16, 1024, 1);
}

/* Operators that may work in place give the same bits there. */
static void test_in_place(void **state)
{
    struct fixture *fixture = *state;
    enum { ROWS = 70, COLS = 68, COUNT = ROWS * COLS, BYTES = COUNT * 4 };
    const struct hlm_op gelu = {.kind = HLM_OP_ACTIVATION_BWD, .m = ROWS, .n = COLS};
    const struct hlm_op norm = {.kind = HLM_OP_NORM_BWD, .m = ROWS, .n = COLS};
    const struct hlm_op add = {.kind = HLM_OP_ADD, .m = ROWS, .n = COLS};
    float *values = random_floats(COUNT, 1.0), *first = test_malloc(BYTES);
    float *second = test_malloc(BYTES);
    float *in = put(fixture, values, BYTES), *d = put(fixture, values, BYTES);
    float *out = put(fixture, values, BYTES), *stats = put(fixture, values, 2 * ROWS * 4);
    float *sums = put(fixture, values, 2 * COLS * 4);

    LAUNCH(fixture, &gelu, NULL, in, NULL, d, out);
    LAUNCH(fixture, &gelu, NULL, in, NULL, d, d);
    get(fixture, first, out, BYTES);
    get(fixture, second, d, BYTES);
    assert_memory_equal(first, second, BYTES);

    LAUNCH(fixture, &norm, NULL, d, in, in, stats, d, out, sums, sums + COLS);
    LAUNCH(fixture, &norm, NULL, d, in, in, stats, d, d, sums, sums + COLS);
    get(fixture, first, out, BYTES);
    get(fixture, second, d, BYTES);
    assert_memory_equal(first, second, BYTES);

    LAUNCH(fixture, &add, NULL, in, d, out);
    LAUNCH(fixture, &add, NULL, in, d, in);
    get(fixture, first, out, BYTES);
    get(fixture, second, in, BYTES);
    assert_memory_equal(first, second, BYTES);
    float *const all[] = {in, d, out, stats, sums};
    for (int i = 0; i < 5; i++) {
        drop(fixture, all[i]);
    }
    test_free(values);
    test_free(first);
    test_free(second);
}

/* A product of one shape is made with the algorithm of its first time, and accumulates once. */
static void test_products_repeat(void **state)
{
    struct fixture *fixture = *state;
    enum { M = 33, N = 65, K = 129 };
    struct hlm_op op = {
        .kind = HLM_OP_GEMM, .m = M, .n = N, .k = K, .layout = HLM_GEMM_NT, .accumulate = true};
    float *a = random_floats(K * M, 1.0), *b = random_floats(K * N, 1.0);
    float *zeros = test_calloc(M * N, sizeof *zeros), *sum = test_malloc(M * N * sizeof *sum);
    float *single = test_malloc(M * N * sizeof *single);
    float *on_device[] = {put(fixture, a, K * M * 4), put(fixture, b, K * N * 4),
                          put(fixture, zeros, M * N * 4), put(fixture, zeros, M * N * 4)};
    for (int i = 0; i < 3; i++) {
        LAUNCH(fixture, &op, NULL, on_device[0], on_device[1], on_device[2]);
    }
    op.accumulate = false;
    LAUNCH(fixture, &op, NULL, on_device[0], on_device[1], on_device[3]);
    get(fixture, sum, on_device[2], M * N * 4);
    get(fixture, single, on_device[3], M * N * 4);
    for (int i = 0; i < M * N; i++) {
        check_near((double)sum[i], 3.0 * (double)single[i], 1e-3);
    }
    for (int i = 0; i < 4; i++) {
        drop(fixture, on_device[i]);
    }
    void *const host[] = {a, b, zeros, sum, single};
    for (int i = 0; i < 5; i++) {
        test_free(host[i]);
    }
}

/* A NaN comes out of what reads it. */
static void test_nan_goes_through(void **state)
{
    struct fixture *fixture = *state;
    enum { ROWS = 6, COLS = 36, COUNT = ROWS * COLS, BYTES = COUNT * 4 };
    const struct hlm_op ops[] = {
        {.kind = HLM_OP_ACTIVATION_FWD, .m = ROWS, .n = COLS},
        {.kind = HLM_OP_NORM_FWD, .m = ROWS, .n = COLS, .eps = 1e-5},
        {.kind = HLM_OP_ATTENTION_FWD,
         .m = ROWS,
         .n = 12,
         .batch = 1,
         .seq_len = ROWS,
         .heads = 1,
         .kv_heads = 1,
         .head_dim = 12,
         .causal = true},
    };
    const int result[] = {2, 3, 1};
    float *values = random_floats(COUNT, 1.0), *back = test_malloc(BYTES);
    for (int i = 0; i < 3; i++) {
        for (int place = 0; place < COUNT; place += 37) {
            const float kept = values[place];
            values[place] = NAN;
            float *in = put(fixture, values, BYTES);
            values[place] = kept;
            float *others[4] = {NULL};
            for (int k = 0; k < 4; k++) {
                others[k] = put(fixture, values, BYTES);
            }
            LAUNCH(fixture, &ops[i], NULL, in, i == 0 ? NULL : others[0], others[1],
                   i == 2 ? NULL : others[2], others[3]);
            float *const outputs[] = {in, others[0], others[1], others[2]};
            get(fixture, back, outputs[result[i]], ROWS * ops[i].n * 4);
            int found = 0;
            for (int64_t k = 0; k < ROWS * ops[i].n; k++) {
                found += isnan(back[k]) ? 1 : 0;
            }
            assert_true(found > 0);
            drop(fixture, in);
            for (int k = 0; k < 4; k++) {
                drop(fixture, others[k]);
            }
        }
    }
    test_free(values);
    test_free(back);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_copies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_events, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_queues, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_adamw, setup, teardown),
        cmocka_unit_test_setup_teardown(test_in_place, setup, teardown),
        cmocka_unit_test_setup_teardown(test_products_repeat, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nan_goes_through, setup, teardown),
    };
    return device_is_there() ? cmocka_run_group_tests(tests, NULL, NULL) : EXIT_SKIPPED;
}
