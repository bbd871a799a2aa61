/* Graphs: captured and replayed passes give the bits of single launches, with other contents and
 * other scalars than at the capture; and what a capture refuses. */
#include <stdlib.h>

#include "base/rng.h"
#include "tests/gpu/block_run.h"

static const struct hlm_op_scalars no_scalars = {.loss_scale = 1.0};

/* --- passes of a layer --- */

static struct hlm_graph *capture_pass(struct block_run *run, enum block_way way)
{
    struct hlm_err err;
    struct hlm_graph *graph = NULL;
    check_ok(run->backend->ops->capture_begin(run->queue, &err), &err);
    block_run_forward(run, way);
    block_run_backward(run, way, false);
    check_ok(run->backend->ops->capture_end(run->queue, &graph, &err), &err);
    assert_non_null(graph);
    return graph;
}

static double *results_of(struct block_run *run)
{
    double *results = HLM_ARENA_ARRAY(run->arena, double, block_run_count(run));
    block_run_results(run, results);
    return results;
}

static double *launched(struct block_run *run, enum block_way way, uint64_t seed)
{
    block_run_fill(run, seed);
    block_run_forward(run, way);
    block_run_backward(run, way, false);
    return results_of(run);
}

/* A larger layer needs more scratch: what the graph names must stay. */
static void need_more_scratch(struct block_run *run)
{
    struct hlm_err err;
    enum { COUNT = 1 << 15 };
    const struct hlm_backend_ops *ops = run->backend->ops;
    float *data = NULL;
    void *memory = NULL;
    check_ok(ops->alloc(run->backend, COUNT * 4, &memory, &err), &err);
    data = memory;
    const struct hlm_op fill = {.kind = HLM_OP_FILL_ZERO, .m = COUNT};
    const struct hlm_op sums = {.kind = HLM_OP_BIAS_GRAD, .m = 1, .n = COUNT / 2};
    void *const filled[HLM_OP_MAX_OPERANDS] = {data};
    void *const summed[HLM_OP_MAX_OPERANDS] = {data, data + COUNT / 2};
    check_ok(ops->launch(run->queue, &fill, filled, NULL, &err), &err);
    check_ok(ops->launch(run->queue, &sums, summed, NULL, &err), &err);
    check_ok(ops->queue_sync(run->queue, &err), &err);
    ops->free(run->backend, memory);
}

static void check_pass(enum tiny_kind kind, enum hlm_dtype dtype, enum block_way way)
{
    struct block_run run;
    struct hlm_err err;
    const struct hlm_cuda_options options = {.fuse = HLM_CUDA_FUSE_ALWAYS};
    block_run_init(&run, kind, dtype, HLM_RECOMPUTE_NONE, &options);
    const double *first = launched(&run, way, 1), *second = launched(&run, way, 2);
    block_run_fill(&run, 1);
    const double *before = results_of(&run);
    struct hlm_graph *graph = capture_pass(&run, way);
    const size_t bytes = (size_t)block_run_count(&run) * sizeof *first;
    assert_memory_equal(results_of(&run), before, bytes); /* nothing ran */
    need_more_scratch(&run);
    for (uint64_t seed = 1; seed <= 2; seed++) {
        block_run_fill(&run, seed);
        check_ok(run.backend->ops->graph_launch(graph, &no_scalars, &err), &err);
        assert_memory_equal(results_of(&run), seed == 1 ? first : second, bytes);
    }
    run.backend->ops->graph_free(graph);
    run.backend->ops->graph_free(NULL);
    assert_memory_equal(launched(&run, way, 1), first, bytes);
    block_run_release(&run);
}

static void test_passes(void **state)
{
    (void)state;
    check_pass(TINY_GPT, HLM_DTYPE_FP32, BLOCK_PLAIN);
    check_pass(TINY_GPT, HLM_DTYPE_BF16, BLOCK_LIST);
    check_pass(TINY_LLAMA, HLM_DTYPE_BF16, BLOCK_LIST);
    check_pass(TINY_NEOX, HLM_DTYPE_FP32, BLOCK_LIST);
}

/* --- scalars --- */

struct fixture {
    struct hlm_backend *backend;
    struct hlm_queue *queue;
};

static int setup(void **state)
{
    struct hlm_err err;
    struct fixture *fixture = test_calloc(1, sizeof *fixture);
    check_ok(device_backend_new(false, &fixture->backend, &err), &err);
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

enum { ROWS = 6, COLS = 40, COUNT = ROWS * COLS, NUM_ARRAYS = 8, NUM_STEPS = 3 };

/* What one step works on: logits, targets, maxima, sums, loss, moments. */
struct arrays {
    void *at[NUM_ARRAYS];
};
enum { LOGITS, TARGETS, MAX, SUMS, LOSS, PARAM, FIRST, SECOND };

static void fill(struct fixture *fixture, struct arrays *arrays, bool first)
{
    struct hlm_err err;
    const struct hlm_backend_ops *ops = fixture->backend->ops;
    for (int i = 0; i < NUM_ARRAYS; i++) {
        float values[COUNT];
        int32_t targets[COUNT];
        for (int k = 0; k < COUNT; k++) {
            const bool zero = i == LOSS || i == FIRST || i == SECOND;
            values[k] = zero ? 0.0f : (float)hlm_rng_normal((uint64_t)i, (uint64_t)k);
            targets[k] = k % COLS;
        }
        if (first) {
            check_ok(ops->alloc(fixture->backend, sizeof values, &arrays->at[i], &err), &err);
        }
        check_ok(ops->upload(fixture->queue, arrays->at[i],
                             i == TARGETS ? (const void *)targets : (const void *)values,
                             sizeof values, &err),
                 &err);
        check_ok(ops->queue_sync(fixture->queue, &err), &err);
    }
}

/* The cross-entropy of a step, and AdamW with its gradient, once with decay and once without. */
static void put_step(struct fixture *fixture, const struct arrays *arrays,
                     const struct hlm_op_scalars *scalars)
{
    struct hlm_err err;
    void *const *at = arrays->at;
    const struct hlm_backend_ops *ops = fixture->backend->ops;
    struct hlm_op op = {
        .kind = HLM_OP_XENT_MAX, .m = ROWS, .n = COLS, .valid_cols = COLS, .counts_loss = true};
    void *const max[HLM_OP_MAX_OPERANDS] = {at[LOGITS], at[MAX]};
    check_ok(ops->launch(fixture->queue, &op, max, scalars, &err), &err);
    op.kind = HLM_OP_XENT_SUM;
    void *const sums[HLM_OP_MAX_OPERANDS] = {at[LOGITS], at[TARGETS], at[MAX], at[SUMS]};
    check_ok(ops->launch(fixture->queue, &op, sums, scalars, &err), &err);
    op.kind = HLM_OP_XENT_GRAD;
    void *const grad[HLM_OP_MAX_OPERANDS] = {at[TARGETS], at[MAX], at[SUMS], at[LOGITS], at[LOSS]};
    check_ok(ops->launch(fixture->queue, &op, grad, scalars, &err), &err);
    const struct hlm_op adamw = {.kind = HLM_OP_ADAMW, .m = COUNT / 2, .n = 1};
    struct hlm_op_scalars decays[2] = {*scalars, *scalars};
    decays[1].weight_decay = 0.0;
    for (int i = 0; i < 2; i++) {
        const int skip = i * COUNT / 2;
        void *const update[HLM_OP_MAX_OPERANDS] = {
            (float *)at[LOGITS] + skip, (float *)at[PARAM] + skip, (float *)at[FIRST] + skip,
            (float *)at[SECOND] + skip};
        check_ok(ops->launch(fixture->queue, &adamw, update, &decays[i], &err), &err);
    }
}

static struct hlm_op_scalars scalars_of(int64_t step)
{
    return (struct hlm_op_scalars){.loss_scale = 0.5 / (double)step,
                                   .learning_rate = 0.02 * (double)step,
                                   .beta1 = 0.9,
                                   .beta2 = 0.95,
                                   .adam_eps = 1e-8,
                                   .weight_decay = 0.1,
                                   .grad_scale = 1.0 / (double)(step + 1),
                                   .step = step};
}

static void get(struct fixture *fixture, const struct arrays *arrays,
                float results[NUM_ARRAYS][COUNT])
{
    struct hlm_err err;
    for (int i = 0; i < NUM_ARRAYS; i++) {
        check_ok(fixture->backend->ops->download(fixture->queue, results[i], arrays->at[i],
                                                 COUNT * sizeof(float), &err),
                 &err);
    }
    check_ok(fixture->backend->ops->queue_sync(fixture->queue, &err), &err);
}

static void test_scalars(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    struct arrays arrays;
    struct hlm_graph *graph = NULL;
    static float expected[NUM_ARRAYS][COUNT], actual[NUM_ARRAYS][COUNT];
    const struct hlm_backend_ops *ops = fixture->backend->ops;
    fill(fixture, &arrays, true);
    for (int64_t step = 1; step <= NUM_STEPS; step++) {
        const struct hlm_op_scalars scalars = scalars_of(step);
        put_step(fixture, &arrays, &scalars);
    }
    get(fixture, &arrays, expected);
    assert_true(expected[LOSS][1] != 0.0f); /* the high half of a double */

    const struct hlm_op_scalars other = scalars_of(7);
    fill(fixture, &arrays, false);
    check_ok(ops->capture_begin(fixture->queue, &err), &err);
    put_step(fixture, &arrays, &other);
    check_ok(ops->capture_end(fixture->queue, &graph, &err), &err);
    for (int64_t step = 1; step <= NUM_STEPS; step++) {
        const struct hlm_op_scalars scalars = scalars_of(step);
        check_ok(ops->graph_launch(graph, &scalars, &err), &err);
    }
    get(fixture, &arrays, actual);
    ops->graph_free(graph);
    for (int i = 0; i < NUM_ARRAYS; i++) {
        ops->free(fixture->backend, arrays.at[i]);
    }
    assert_memory_equal(actual, expected, sizeof actual);
}

/* --- rules --- */

typedef enum hlm_status misuse_fn(struct fixture *fixture, struct hlm_err *err);

static void *memory_of(struct fixture *fixture)
{
    struct hlm_err err;
    void *memory = NULL;
    check_ok(fixture->backend->ops->alloc(fixture->backend, COUNT * 4, &memory, &err), &err);
    return memory;
}

/* Inside a capture the call fails, the end tells it again, and the queue works on. */
static void check_refused(struct fixture *fixture, const struct hlm_op *op, void *const *operands,
                          const char *text)
{
    struct hlm_err err;
    struct hlm_graph *graph = NULL;
    const struct hlm_backend_ops *ops = fixture->backend->ops;
    check_ok(ops->capture_begin(fixture->queue, &err), &err);
    check_fails(ops->launch(fixture->queue, op, operands, NULL, &err), HLM_FAILED, &err, text);
    check_fails(ops->capture_end(fixture->queue, &graph, &err), HLM_FAILED, &err, text);
    assert_null(graph);
    check_ok(ops->launch(fixture->queue, op, operands, NULL, &err), &err);
    check_ok(ops->queue_sync(fixture->queue, &err), &err);
}

static void test_first_uses_are_refused(void **state)
{
    struct fixture *fixture = *state;
    void *memory[3];
    for (int i = 0; i < 3; i++) {
        memory[i] = memory_of(fixture);
    }
    void *const operands[HLM_OP_MAX_OPERANDS] = {memory[0], memory[1], memory[2]};
    const struct hlm_op product = {
        .kind = HLM_OP_GEMM, .layout = HLM_GEMM_NN, .m = 8, .n = 8, .k = 8};
    const struct hlm_op sums = {.kind = HLM_OP_BIAS_GRAD, .m = ROWS, .n = COLS};
    const struct hlm_op rope = {.kind = HLM_OP_ROPE_FWD,
                                .m = 5,
                                .seq_len = 5,
                                .heads = 1,
                                .kv_heads = 1,
                                .head_dim = 8,
                                .rotary = 8,
                                .rope_theta = 1e4};
    check_refused(fixture, &product, operands, "8 x 8 x 8 is captured before its first run");
    check_refused(fixture, &sums, operands, "a first need of so much scratch memory inside a");
    check_refused(fixture, &rope, operands, "a first table of rotations inside a capture");
    for (int i = 0; i < 3; i++) {
        fixture->backend->ops->free(fixture->backend, memory[i]);
    }
}

static enum hlm_status upload(struct fixture *fixture, struct hlm_err *err)
{
    static const int64_t number = 17;
    return fixture->backend->ops->upload(fixture->queue, NULL, &number, sizeof number, err);
}

static enum hlm_status download(struct fixture *fixture, struct hlm_err *err)
{
    int64_t number = 0;
    return fixture->backend->ops->download(fixture->queue, &number, NULL, sizeof number, err);
}

static enum hlm_status sync_queue(struct fixture *fixture, struct hlm_err *err)
{
    return fixture->backend->ops->queue_sync(fixture->queue, err);
}

static enum hlm_status begin_again(struct fixture *fixture, struct hlm_err *err)
{
    return fixture->backend->ops->capture_begin(fixture->queue, err);
}

static enum hlm_status record(struct fixture *fixture, struct hlm_err *err)
{
    return fixture->backend->ops->event_record(fixture->queue, NULL, err);
}

static void test_rules(void **state)
{
    struct fixture *fixture = *state;
    const struct hlm_backend_ops *ops = fixture->backend->ops;
    const struct {
        misuse_fn *run;
        const char *text;
    } misuses[] = {{upload, "an upload inside a capture"},
                   {download, "a download inside a capture"},
                   {sync_queue, "a sync inside a capture"},
                   {begin_again, "a capture inside a capture"},
                   {record, "an event inside a capture"}};
    for (size_t i = 0; i < sizeof misuses / sizeof misuses[0]; i++) {
        struct hlm_err err;
        struct hlm_graph *graph = NULL;
        check_ok(ops->capture_begin(fixture->queue, &err), &err);
        check_fails(misuses[i].run(fixture, &err), HLM_FAILED, &err, misuses[i].text);
        check_fails(ops->capture_end(fixture->queue, &graph, &err), HLM_FAILED, &err,
                    misuses[i].text);
        check_ok(ops->queue_sync(fixture->queue, &err), &err);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passes),
        cmocka_unit_test_setup_teardown(test_scalars, setup, teardown),
        cmocka_unit_test_setup_teardown(test_first_uses_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rules, setup, teardown),
    };
    return device_is_there() ? cmocka_run_group_tests(tests, NULL, NULL) : EXIT_SKIPPED;
}
