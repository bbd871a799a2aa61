/* The CPU backend's promises beside right results: accuracy of its exponential, NaN goes through,
 * operators in place, equal inputs give equal bits, refusals, the thread's float mode, events. */
#include <stdlib.h>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "tests/support/check.h"

#include "base/rng.h"
#include "exec/backend.h"

struct fixture {
    struct hlm_backend *backend;
    struct hlm_queue *queue;
};

static int setup(void **state)
{
    struct hlm_err err;
    struct fixture *fixture = test_calloc(1, sizeof *fixture);
    check_ok(hlm_backend_cpu_new(&fixture->backend, &err), &err);
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

static float *make(struct fixture *fixture, int64_t count, double scale)
{
    struct hlm_err err;
    void *memory = NULL;
    check_ok(fixture->backend->ops->alloc(fixture->backend, count * 4, &memory, &err), &err);
    for (int64_t i = 0; i < count; i++) {
        ((float *)memory)[i] = (float)(scale * hlm_rng_normal(3, (uint64_t)i));
    }
    return memory;
}

static void drop(struct fixture *fixture, void *memory)
{
    fixture->backend->ops->free(fixture->backend, memory);
}

static void run(struct fixture *fixture, const struct hlm_op *op, void *const *operands,
                const struct hlm_op_scalars *scalars)
{
    struct hlm_err err;
    void *given[HLM_OP_MAX_OPERANDS] = {0};
    memcpy(given, operands, (size_t)hlm_op_num_operands(op->kind) * sizeof(void *));
    check_ok(fixture->backend->ops->launch(fixture->queue, op, given, scalars, &err), &err);
}

#define OPERANDS(...) ((void *const[]){__VA_ARGS__})

/* Cross-entropy with maximum 0, sum 1 and no target in this shard replaces logits by their
 * exponentials. */
static void exponentials(struct fixture *fixture, float *data, int64_t count)
{
    int32_t target = INT32_MAX;
    float max = 0.0f, sums[2] = {1.0f, 0.0f};
    double loss = 0.0;
    const struct hlm_op_scalars scalars = {.loss_scale = 1.0};
    const struct hlm_op op = {.kind = HLM_OP_XENT_GRAD, .m = 1, .n = count, .valid_cols = count};
    run(fixture, &op, OPERANDS(&target, &max, sums, data, &loss), &scalars);
}

static void test_exponential(void **state)
{
    enum { COUNT = 1 << 18 };
    float *data = make(*state, COUNT, 0.0), *x = make(*state, COUNT, 0.0);
    double worst = 0.0;
    for (int i = 0; i < COUNT; i++) {
        x[i] = (float)(-87.0 + 175.0 * i / (COUNT - 1));
        data[i] = x[i];
    }
    exponentials(*state, data, COUNT);
    for (int i = 0; i < COUNT; i++) {
        const double exact = exp((double)x[i]);
        int exponent;
        frexp(exact, &exponent);
        worst = fmax(worst, fabs((double)data[i] - exact) / ldexp(1.0, exponent - 24));
    }
    if (worst > 2.0) {
        fail_msg("the exponential is %.3g units in the last place off", worst);
    }
    drop(*state, data);
    drop(*state, x);
}

static void test_exponential_range(void **state)
{
    const float inputs[] = {-INFINITY, -1e30f, -88.0f, 88.5f, 1e30f, INFINITY};
    for (int64_t count = 6; count <= 70; count += 32) { /* vectors and their remainders */
        float *data = make(*state, count, 0.0);
        for (int64_t i = 0; i < count; i++) {
            data[i] = inputs[i % 6];
        }
        exponentials(*state, data, count);
        for (int64_t i = 0; i < count; i++) {
            check_close((double)data[i], exp(i % 6 < 3 ? -87.0 : 88.0), 1e-5);
        }
        data[count - 1] = NAN;
        exponentials(*state, data, count);
        assert_true(isnan(data[count - 1]));
        drop(*state, data);
    }
}

static void test_gelu_far_out(void **state)
{
    enum { COUNT = 41 };
    const struct hlm_op op = {.kind = HLM_OP_ACTIVATION_FWD, .m = 1, .n = COUNT};
    float *in = make(*state, COUNT, 0.0), *out = make(*state, COUNT, 0.0);
    for (int i = 0; i < COUNT; i++) {
        in[i] = i % 2 == 0 ? 1e4f : -1e4f;
    }
    run(*state, &op, OPERANDS(in, NULL, out), NULL);
    for (int i = 0; i < COUNT; i++) {
        check_near((double)out[i], i % 2 == 0 ? 1e4 : 0.0, 1e-30);
    }
    drop(*state, in);
    drop(*state, out);
}

/* Whether a NaN at `place` of operand `operand` shows in `result`. */
static void check_nan(struct fixture *fixture, const struct hlm_op *op, float *const *operands,
                      int64_t place, int operand, int result, int64_t count)
{
    const float kept = operands[operand][place];
    operands[operand][place] = NAN;
    void *given[HLM_OP_MAX_OPERANDS] = {0};
    for (int i = 0; i < hlm_op_num_operands(op->kind); i++) {
        given[i] = operands[i];
    }
    run(fixture, op, given, NULL);
    int found = 0;
    for (int64_t i = 0; i < count; i++) {
        found += isnan(operands[result][i]);
    }
    if (found == 0) {
        fail_msg("%s hides a NaN of operand %d", hlm_op_texts[op->kind], operand);
    }
    operands[operand][place] = kept;
}

static void test_nan_goes_through(void **state)
{
    enum { ROWS = 6, COLS = 37, COUNT = ROWS * COLS };
    const struct hlm_op gelu = {.kind = HLM_OP_ACTIVATION_FWD, .m = ROWS, .n = COLS};
    const struct hlm_op norm = {.kind = HLM_OP_NORM_FWD, .m = ROWS, .n = COLS, .eps = 1e-5};
    const struct hlm_op attention = {.kind = HLM_OP_ATTENTION_FWD,
                                     .m = ROWS,
                                     .n = 8,
                                     .batch = 1,
                                     .seq_len = ROWS,
                                     .heads = 1,
                                     .kv_heads = 1,
                                     .head_dim = 8,
                                     .causal = true};
    float *a = make(*state, COUNT, 1.0), *b = make(*state, COUNT, 1.0),
          *c = make(*state, COUNT, 1.0);
    float *d = make(*state, COUNT, 1.0), *e = make(*state, COUNT, 1.0);
    for (int64_t place = 0; place < 36; place++) {
        check_nan(*state, &gelu, (float *[]){a, b, c}, place, 0, 2, COUNT);
        check_nan(*state, &norm, (float *[]){a, b, c, d, e}, place, 0, 3, COUNT);
        check_nan(*state, &attention, (float *[]){a, b, c, NULL, NULL}, place * 4, 0, 1, ROWS * 8);
    }
    float *const all[] = {a, b, c, d, e};
    for (int i = 0; i < 5; i++) {
        drop(*state, all[i]);
    }
}

/* Operators that may work in place give the same bits there. */
static void test_in_place(void **state)
{
    enum { ROWS = 5, COLS = 67, COUNT = ROWS * COLS };
    const struct hlm_op gelu = {.kind = HLM_OP_ACTIVATION_BWD, .m = ROWS, .n = COLS};
    const struct hlm_op norm = {.kind = HLM_OP_NORM_BWD, .m = ROWS, .n = COLS};
    const struct hlm_op add = {.kind = HLM_OP_ADD, .m = ROWS, .n = COLS};
    float *in = make(*state, COUNT, 2.0), *d = make(*state, COUNT, 1.0),
          *out = make(*state, COUNT, 0.0);
    float *stats = make(*state, 2 * ROWS, 1.0), *sums = make(*state, 2 * COLS, 1.0);
    const size_t bytes = COUNT * sizeof(float);

    run(*state, &gelu, OPERANDS(in, NULL, d, out), NULL);
    run(*state, &gelu, OPERANDS(in, NULL, d, d), NULL);
    assert_memory_equal(out, d, bytes);

    run(*state, &norm, OPERANDS(d, in, in, stats, d, out, sums, sums + COLS), NULL);
    run(*state, &norm, OPERANDS(d, in, in, stats, d, d, sums, sums + COLS), NULL);
    assert_memory_equal(out, d, bytes);

    run(*state, &add, OPERANDS(in, d, out), NULL);
    run(*state, &add, OPERANDS(in, d, in), NULL);
    assert_memory_equal(out, in, bytes);
    float *const all[] = {in, d, out, stats, sums};
    for (int i = 0; i < 5; i++) {
        drop(*state, all[i]);
    }
}

/* The scratch of a queue holds whatever the last operator left. */
static void test_repeats(void **state)
{
    enum { SEQ = 70, STRIDE = 3 * 16, COUNT = SEQ * STRIDE };
    const struct hlm_op fwd = {.kind = HLM_OP_ATTENTION_FWD,
                               .m = SEQ,
                               .n = 16,
                               .batch = 1,
                               .seq_len = SEQ,
                               .heads = 2,
                               .kv_heads = 2,
                               .head_dim = 8,
                               .causal = true};
    struct hlm_op bwd = fwd;
    bwd.kind = HLM_OP_ATTENTION_BWD;
    float *qkv = make(*state, COUNT, 1.0), *out = make(*state, SEQ * 16, 0.0);
    float *lse = make(*state, 2 * SEQ, 0.0), *dout = make(*state, SEQ * 16, 1.0);
    float *first = make(*state, COUNT, 0.0), *second = make(*state, COUNT, 0.0);
    run(*state, &fwd, OPERANDS(qkv, out, lse, NULL, NULL), NULL);
    run(*state, &bwd, OPERANDS(qkv, out, dout, lse, NULL, first, NULL, NULL), NULL);
    run(*state, &fwd, OPERANDS(qkv, out, lse, NULL, NULL), NULL);
    run(*state, &bwd, OPERANDS(qkv, out, dout, lse, NULL, second, NULL, NULL), NULL);
    assert_memory_equal(first, second, COUNT * sizeof(float));
    float *const all[] = {qkv, out, lse, dout, first, second};
    for (int i = 0; i < 6; i++) {
        drop(*state, all[i]);
    }
}

static void test_refusals(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    void *const operands[HLM_OP_MAX_OPERANDS] = {0};
    const struct hlm_op half = {.kind = HLM_OP_ADD, .dtype = HLM_DTYPE_BF16};
    const struct hlm_op latent = {.kind = HLM_OP_MLA_ASSEMBLE_FWD};
    const struct hlm_op reduce = {.kind = HLM_OP_ALL_REDUCE};
    const struct hlm_backend_ops *ops = fixture->backend->ops;
    check_fails(ops->launch(fixture->queue, &half, operands, NULL, &err), HLM_ENV, &err,
                "add in bf16");
    check_fails(ops->launch(fixture->queue, &latent, operands, NULL, &err), HLM_ENV, &err,
                "mla_assemble_fwd in fp32");
    check_fails(ops->launch(fixture->queue, &reduce, operands, NULL, &err), HLM_ENV, &err,
                "all_reduce");
}

static void test_memory(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    const struct hlm_backend_ops *ops = fixture->backend->ops;
    void *memory = NULL, *other = NULL;
    const char text[] = "copied in queue order";
    char back[sizeof text] = {0};
    check_ok(ops->alloc(fixture->backend, 0, &memory, &err), &err);
    assert_non_null(memory);
    ops->free(fixture->backend, memory);
    ops->free(fixture->backend, NULL);
    check_ok(ops->alloc(fixture->backend, 1000, &memory, &err), &err);
    check_ok(ops->alloc(fixture->backend, 1000, &other, &err), &err);
    assert_int_equal((uintptr_t)memory % 256, 0);
    check_ok(ops->upload(fixture->queue, memory, text, sizeof text, &err), &err);
    check_ok(ops->copy(fixture->queue, other, memory, sizeof text, &err), &err);
    check_ok(ops->download(fixture->queue, back, other, sizeof text, &err), &err);
    check_ok(ops->queue_sync(fixture->queue, &err), &err);
    assert_string_equal(back, text);
    ops->free(fixture->backend, memory);
    ops->free(fixture->backend, other);
#if !defined(__SANITIZE_ADDRESS__) /* which ends the program at such a request */
    const int64_t too_much = INT64_C(1) << 60;
    check_fails(ops->alloc(fixture->backend, too_much, &memory, &err), HLM_ENV, &err, "refused");
#endif
}

static void test_float_mode(void **state)
{
#if defined(__SSE2__)
    struct fixture *fixture = *state;
    struct hlm_err err;
    struct hlm_queue *queue = NULL;
    fixture->backend->ops->queue_free(fixture->queue);
    const unsigned before = _mm_getcsr();
    assert_int_equal(before & 0x8040U, 0);
    check_ok(fixture->backend->ops->queue_new(fixture->backend, &queue, &err), &err);
    volatile float tiny = 1e-38f;
    volatile float smaller = tiny * 0.01f;
    assert_true(fpclassify(smaller) == FP_ZERO);
    fixture->backend->ops->queue_free(queue);
    assert_int_equal(_mm_getcsr() & 0x8040U, 0);
    smaller = tiny * 0.01f;
    assert_true(fpclassify(smaller) == FP_SUBNORMAL);
    check_ok(fixture->backend->ops->queue_new(fixture->backend, &fixture->queue, &err), &err);
#else
    (void)state;
    skip();
#endif
}

static void test_events(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    const struct hlm_backend_ops *ops = fixture->backend->ops;
    struct hlm_event *events[2] = {NULL, NULL};
    float *data = make(fixture, 100000, 1.0);
    const struct hlm_op op = {.kind = HLM_OP_BIAS_ADD, .m = 1, .n = 50000};
    for (int i = 0; i < 2; i++) {
        check_ok(ops->event_new(fixture->backend, &events[i], &err), &err);
        check_ok(ops->event_record(fixture->queue, events[i], &err), &err);
        check_ok(ops->event_wait(fixture->queue, events[i], &err), &err);
        run(fixture, &op, OPERANDS(data, data + 50000), NULL);
    }
    check_ok(ops->queue_sync(fixture->queue, &err), &err);
    const struct hlm_event_time first = ops->event_time(events[0]);
    const struct hlm_event_time second = ops->event_time(events[1]);
    assert_true(first.wall_s > 0.0 && second.wall_s > first.wall_s);
    assert_true(first.cpu_s > 0.0 && second.cpu_s > first.cpu_s);
    assert_true(second.cpu_s - first.cpu_s <= second.wall_s - first.wall_s + 1e-3);
    ops->event_free(events[0]);
    ops->event_free(events[1]);
    ops->event_free(NULL);
    drop(fixture, data);
}

static void test_free_accepts_null(void **state)
{
    (void)state;
    hlm_backend_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_exponential, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exponential_range, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gelu_far_out, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nan_goes_through, setup, teardown),
        cmocka_unit_test_setup_teardown(test_in_place, setup, teardown),
        cmocka_unit_test_setup_teardown(test_repeats, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_float_mode, setup, teardown),
        cmocka_unit_test_setup_teardown(test_events, setup, teardown),
        cmocka_unit_test(test_free_accepts_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
