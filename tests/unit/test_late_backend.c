/* The backend that is late on purpose (tests/support): used rightly it computes what the CPU
 * backend does, and the mistakes it is for do show. */
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/check.h"
#include "tests/support/late_backend.h"
#include "tests/support/op_check.h"

enum { COUNT = 1000, NUM_TRIALS = 60 };
static const double max_delay_s = 2e-4;

static struct hlm_backend *new_backend(uint64_t seed)
{
    struct hlm_backend *backend = NULL;
    struct hlm_err err;
    check_ok(late_backend_new(&backend, seed, max_delay_s, &err), &err);
    return backend;
}

static void test_operators(void **state)
{
    (void)state;
    struct hlm_backend *backend = new_backend(1);
    struct op_check check;
    op_check_init(&check, backend, 1e-5);
    assert_false(backend->ops->host_memory);
    const struct hlm_op norm = {.kind = HLM_OP_NORM_FWD, .m = 5, .n = 37, .eps = 1e-2};
    const struct hlm_op embed = {.kind = HLM_OP_EMBED_FWD, .m = 9, .n = 19, .k = 7};
    for (int i = 0; i < 5; i++) {
        op_check_forward(&check, &norm, 0);
        op_check_backward(&check, &norm, HLM_OP_NORM_BWD, "d3 v0 v1 v4 r g0 g1 g2", 0);
        op_check_forward(&check, &embed, 0);
    }
    op_check_release(&check);
    hlm_backend_free(backend);
}

/* Two queues: the first uploads ones, adds them to themselves, and says so by an event; the second
 * downloads. Returns how many elements came out as 2. */
static int two_queues(struct hlm_backend *backend, bool waits, bool syncs)
{
    struct hlm_err err;
    const struct hlm_backend_ops *ops = backend->ops;
    struct hlm_queue *producer = NULL, *consumer = NULL;
    struct hlm_event *event = NULL;
    void *memory = NULL;
    float host[COUNT], result[COUNT];
    const struct hlm_op add = {.kind = HLM_OP_ADD, .m = 1, .n = COUNT};
    check_ok(ops->alloc(backend, (int64_t)sizeof host, &memory, &err), &err);
    check_ok(ops->queue_new(backend, &producer, &err), &err);
    check_ok(ops->queue_new(backend, &consumer, &err), &err);
    check_ok(ops->event_new(backend, &event, &err), &err);
    for (int i = 0; i < COUNT; i++) {
        host[i] = 1.0f;
    }
    void *const operands[HLM_OP_MAX_OPERANDS] = {memory, memory, memory};
    check_ok(ops->upload(producer, memory, host, (int64_t)sizeof host, &err), &err);
    check_ok(ops->launch(producer, &add, operands, NULL, &err), &err);
    check_ok(ops->event_record(producer, event, &err), &err);
    if (waits) {
        check_ok(ops->event_wait(consumer, event, &err), &err);
    }
    check_ok(ops->download(consumer, result, memory, (int64_t)sizeof result, &err), &err);
    int num_right = 0;
    if (syncs) {
        check_ok(ops->queue_sync(consumer, &err), &err);
    }
    for (int i = 0; i < COUNT; i++) {
        num_right += fabsf(result[i] - 2.0f) <= 0.0f;
    }
    ops->queue_free(producer);
    ops->queue_free(consumer);
    assert_true(ops->event_time(event).wall_s > 0.0);
    ops->event_free(event);
    ops->free(backend, memory);
    return num_right;
}

static void test_events_order_queues(void **state)
{
    (void)state;
    struct hlm_backend *backend = new_backend(2);
    for (int trial = 0; trial < NUM_TRIALS; trial++) {
        assert_int_equal(two_queues(backend, true, true), COUNT);
    }
    hlm_backend_free(backend);
}

static void test_missing_wait_or_sync_shows(void **state)
{
    (void)state;
#if defined(__SANITIZE_THREAD__) /* which reports the race that is made here, as it should */
    skip();
#endif
    struct hlm_backend *backend = new_backend(3);
    int num_wrong = 0, num_early = 0;
    for (int trial = 0; trial < NUM_TRIALS; trial++) {
        num_wrong += two_queues(backend, false, true) < COUNT;
        num_early += two_queues(backend, true, false) < COUNT;
    }
    assert_true(num_wrong > 0);
    assert_true(num_early > 0);
    hlm_backend_free(backend);
}

/* A graph runs when it is launched, as often as it is, with the scalars of then. */
static void test_graphs(void **state)
{
    (void)state;
    struct hlm_backend *backend = new_backend(5);
    const struct hlm_backend_ops *ops = backend->ops;
    struct hlm_queue *queue = NULL;
    struct hlm_graph *graph = NULL;
    struct hlm_err err;
    void *memory[4];
    const float start[] = {1.0f, 1.0f, 0.0f, 0.0f}; /* gradient, parameter, moments */
    check_ok(ops->queue_new(backend, &queue, &err), &err);
    for (int i = 0; i < 4; i++) {
        check_ok(ops->alloc(backend, sizeof(float), &memory[i], &err), &err);
        check_ok(ops->upload(queue, memory[i], &start[i], sizeof(float), &err), &err);
    }
    const struct hlm_op adamw = {.kind = HLM_OP_ADAMW, .m = 1, .n = 1};
    const struct hlm_launch list = {.op = &adamw,
                                    .operands = {memory[0], memory[1], memory[2], memory[3]}};
    struct hlm_op_scalars scalars = {
        .learning_rate = 77.0, .beta1 = 0.5, .beta2 = 0.5, .grad_scale = 1.0, .step = 9};
    check_ok(ops->capture_begin(queue, &err), &err);
    check_ok(ops->launch_list(queue, &list, 1, &scalars, &err), &err);
    check_ok(ops->capture_end(queue, &graph, &err), &err);
    for (scalars.step = 1; scalars.step <= 2; scalars.step++) {
        scalars.learning_rate = 0.25 * (double)scalars.step;
        check_ok(ops->graph_launch(graph, &scalars, &err), &err);
    }
    float result = 0.0f;
    check_ok(ops->download(queue, &result, memory[1], sizeof result, &err), &err);
    check_ok(ops->queue_sync(queue, &err), &err);
    check_near((double)result, 1.0 - 0.25 - 0.5, 1e-6); /* equal gradients: a step is the rate */
    ops->graph_free(graph);
    ops->graph_free(NULL);
    ops->queue_free(queue);
    hlm_backend_free(backend);
}

static void test_errors_come_late(void **state)
{
    (void)state;
    struct hlm_err err;
    struct hlm_backend *backend = new_backend(5);
    struct hlm_queue *queue = NULL;
    struct hlm_event *event = NULL;
    void *const operands[HLM_OP_MAX_OPERANDS] = {0};
    const struct hlm_op op = {.kind = HLM_OP_MLA_ASSEMBLE_FWD};
    check_ok(backend->ops->queue_new(backend, &queue, &err), &err);
    check_ok(backend->ops->event_new(backend, &event, &err), &err);
    check_ok(backend->ops->launch(queue, &op, operands, NULL, &err), &err);
    check_ok(backend->ops->event_record(queue, event, &err), &err);
    check_fails(backend->ops->queue_sync(queue, &err), HLM_ENV, &err, "mla_assemble_fwd");
    assert_true(backend->ops->event_time(event).wall_s > 0.0);
    backend->ops->queue_free(queue);
    backend->ops->event_free(event);
    hlm_backend_free(backend);
}

/* Whether `mistake` ends the program (in a child, whose complaints are not shown). */
static bool ends_program(void (*mistake)(void))
{
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        /* cmocka would turn the signal into a failed test. */
        signal(SIGSEGV, SIG_DFL);
        signal(SIGABRT, SIG_DFL);
        const struct rlimit no_core = {0, 0};
        if (setrlimit(RLIMIT_CORE, &no_core) == 0 && freopen("/dev/null", "w", stderr) != NULL) {
            mistake();
        }
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

static void dereference(void)
{
    struct hlm_err err;
    void *memory = NULL;
    struct hlm_backend *backend = new_backend(6);
    if (backend->ops->alloc(backend, 64, &memory, &err) == HLM_OK) {
        *(volatile float *)memory = 1.0f;
    }
}

static void use_after_free(void)
{
    struct hlm_err err;
    void *memory = NULL;
    struct hlm_queue *queue = NULL;
    struct hlm_backend *backend = new_backend(7);
    float host[16] = {0};
    if (backend->ops->alloc(backend, 64, &memory, &err) == HLM_OK &&
        backend->ops->queue_new(backend, &queue, &err) == HLM_OK) {
        backend->ops->free(backend, memory);
        if (backend->ops->upload(queue, memory, host, 64, &err) == HLM_OK) {
            backend->ops->queue_free(queue);
        }
    }
}

static void host_operand(void)
{
    struct hlm_err err;
    struct hlm_queue *queue = NULL;
    struct hlm_backend *backend = new_backend(8);
    float host[16] = {0};
    void *const operands[HLM_OP_MAX_OPERANDS] = {host};
    const struct hlm_op op = {.kind = HLM_OP_FILL_ZERO, .m = 16};
    if (backend->ops->queue_new(backend, &queue, &err) == HLM_OK &&
        backend->ops->launch(queue, &op, operands, NULL, &err) == HLM_OK) {
        backend->ops->queue_free(queue);
    }
}

static void no_mistake(void)
{
    hlm_backend_free(new_backend(9));
}

static void test_misuse_ends_the_program(void **state)
{
    (void)state;
    assert_false(ends_program(no_mistake));
    assert_true(ends_program(dereference));
    assert_true(ends_program(use_after_free));
    assert_true(ends_program(host_operand));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operators),
        cmocka_unit_test(test_events_order_queues),
        cmocka_unit_test(test_missing_wait_or_sync_shows),
        cmocka_unit_test(test_graphs),
        cmocka_unit_test(test_errors_come_late),
        cmocka_unit_test(test_misuse_ends_the_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
