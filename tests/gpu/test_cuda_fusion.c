/* Layers whose lists the backend may run in groups give what single launches give; and choices of
 * algorithms go from one backend to the next. */
#include "base/rng.h"
#include "tests/gpu/block_run.h"

/* A layer in fp32 or bf16, forward and backward. */
struct layer {
    enum tiny_kind kind;
    enum hlm_dtype dtype;
    enum hlm_recompute recompute;
    bool in_halves;
};

static double *results_of(struct hlm_arena *arena, const struct layer *layer, enum block_way way,
                          const struct hlm_cuda_options *options, int64_t *count,
                          struct hlm_cuda_choices *choices)
{
    struct block_run run;
    block_run_init(&run, layer->kind, layer->dtype, layer->recompute, options);
    block_run_fill(&run, 77);
    block_run_forward(&run, way);
    block_run_backward(&run, way, layer->in_halves);
    *count = block_run_count(&run);
    double *results = HLM_ARENA_ARRAY(arena, double, *count);
    block_run_results(&run, results);
    if (choices != NULL) {
        device_choices(run.backend, arena, choices);
    }
    block_run_release(&run);
    return results;
}

/* By the root of the mean square, since a layer's gradients differ in size. */
static void check_agree(const double *actual, const double *expected, int64_t count,
                        double tolerance)
{
    double squares = 0.0, distance = 0.0;
    for (int64_t i = 0; i < count; i++) {
        assert_true(isfinite(actual[i]));
        squares += expected[i] * expected[i];
        distance += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    }
    if (!(sqrt(distance / squares) <= tolerance)) {
        fail_msg("relative distance %.3g, expected at most %.3g", sqrt(distance / squares),
                 tolerance);
    }
}

static bool was_fused(const struct hlm_cuda_choices *choices, enum hlm_cuda_epilogue epilogue)
{
    for (int32_t i = 0; i < choices->num; i++) {
        if (choices->list[i].shape.epilogue == epilogue && choices->list[i].fused) {
            return true;
        }
    }
    return false;
}

static double tolerance_of(enum hlm_dtype dtype)
{
    return dtype == HLM_DTYPE_BF16 ? 1e-2 : 2e-6;
}

/* The library may lack epilogues in fp32, the imitation has all. */
static bool must_have(const struct layer *layer)
{
    return device_is_emulated() || layer->dtype == HLM_DTYPE_BF16;
}

/* expected: the epilogues that must have been used, ended by NONE. */
static void check_layer(const struct layer *layer, const enum hlm_cuda_epilogue *expected)
{
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_cuda_options always = {.fuse = HLM_CUDA_FUSE_ALWAYS};
    const struct hlm_cuda_options by_time = {.timed_products = true};
    const struct hlm_cuda_options never = {.fuse = HLM_CUDA_FUSE_NEVER};
    struct hlm_cuda_choices choices;
    int64_t count = 0;
    const double *plain = results_of(arena, layer, BLOCK_PLAIN, &never, &count, NULL);
    const double *single = results_of(arena, layer, BLOCK_SINGLE, &always, &count, NULL);
    const double *apart = results_of(arena, layer, BLOCK_LIST, &never, &count, &choices);
    for (int epilogue = 1; epilogue < HLM_NUM_CUDA_EPILOGUES; epilogue++) {
        assert_false(was_fused(&choices, (enum hlm_cuda_epilogue)epilogue));
    }
    const double *fused = results_of(arena, layer, BLOCK_LIST, &always, &count, &choices);
    for (int i = 0; expected[i] != HLM_CUDA_EPILOGUE_NONE; i++) {
        if (must_have(layer) && !was_fused(&choices, expected[i])) {
            fail_msg("epilogue %d was not used (dtype %s, recompute %d, in halves %d)",
                     (int)expected[i], hlm_dtype_texts[layer->dtype], (int)layer->recompute,
                     layer->in_halves ? 1 : 0);
        }
    }
    const double *timed = layer->recompute == HLM_RECOMPUTE_NONE
                              ? results_of(arena, layer, BLOCK_LIST, &by_time, &count, NULL)
                              : plain;
    assert_memory_equal(single, apart, (size_t)count * sizeof *single);
    check_agree(single, plain, count, tolerance_of(layer->dtype));
    check_agree(fused, plain, count, tolerance_of(layer->dtype));
    check_agree(timed, plain, count, tolerance_of(layer->dtype));
    /* In bf16 an epilogue saves a rounding: so something ran. */
    assert_true(layer->dtype != HLM_DTYPE_BF16 ||
                memcmp(fused, single, (size_t)count * sizeof *single) != 0);
    hlm_arena_free(arena);
}

/* num_layers: how many of the table. */
static void check_kind(enum tiny_kind kind, size_t num_layers,
                       const enum hlm_cuda_epilogue *expected)
{
    static const struct layer layers[] = {
        {.dtype = HLM_DTYPE_BF16, .recompute = HLM_RECOMPUTE_NONE},
        {.dtype = HLM_DTYPE_FP32, .recompute = HLM_RECOMPUTE_SELECTIVE, .in_halves = true},
        {.dtype = HLM_DTYPE_FP32, .recompute = HLM_RECOMPUTE_NONE},
        {.dtype = HLM_DTYPE_BF16, .recompute = HLM_RECOMPUTE_SELECTIVE},
        {.dtype = HLM_DTYPE_BF16, .recompute = HLM_RECOMPUTE_FULL},
        {.dtype = HLM_DTYPE_BF16, .recompute = HLM_RECOMPUTE_NONE, .in_halves = true},
    };
    for (size_t i = 0; i < num_layers; i++) {
        struct layer layer = layers[i];
        layer.kind = kind;
        check_layer(&layer, expected);
    }
}

static void test_gpt(void **state)
{
    (void)state;
    check_kind(
        TINY_GPT, 6,
        (const enum hlm_cuda_epilogue[]){HLM_CUDA_EPILOGUE_BIAS, HLM_CUDA_EPILOGUE_GELU_AUX_BIAS,
                                         HLM_CUDA_EPILOGUE_RESIDUAL_BIAS, HLM_CUDA_EPILOGUE_DGELU,
                                         HLM_CUDA_EPILOGUE_BGRAD, HLM_CUDA_EPILOGUE_NONE});
}

static void test_llama(void **state)
{
    (void)state;
    check_kind(
        TINY_LLAMA, 2,
        (const enum hlm_cuda_epilogue[]){HLM_CUDA_EPILOGUE_RESIDUAL, HLM_CUDA_EPILOGUE_NONE});
}

static void test_bert(void **state)
{
    (void)state;
    check_kind(TINY_BERT, 2,
               (const enum hlm_cuda_epilogue[]){
                   HLM_CUDA_EPILOGUE_BIAS, HLM_CUDA_EPILOGUE_GELU_AUX_BIAS, HLM_CUDA_EPILOGUE_DGELU,
                   HLM_CUDA_EPILOGUE_BGRAD, HLM_CUDA_EPILOGUE_NONE});
}

/* --- groups that must not be --- */

enum { ROWS = 24, COLS = 16, DEPTH = 32, BYTES = 64 * 64 * 4 };

struct bench {
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    float *a, *b, *c, *out, *bias;
};

static void *put(struct bench *bench, uint64_t key)
{
    struct hlm_err err;
    float values[BYTES / 4];
    void *memory = NULL;
    for (int i = 0; i < BYTES / 4; i++) {
        values[i] = (float)hlm_rng_normal(key, (uint64_t)i);
    }
    const struct hlm_backend_ops *ops = bench->backend->ops;
    check_ok(ops->alloc(bench->backend, BYTES, &memory, &err), &err);
    check_ok(ops->upload(bench->queue, memory, values, BYTES, &err), &err);
    check_ok(ops->queue_sync(bench->queue, &err), &err);
    return memory;
}

static void bench_init(struct bench *bench, enum hlm_cuda_fuse fuse)
{
    struct hlm_err err;
    const struct hlm_cuda_options options = {.fuse = fuse};
    check_ok(device_backend_with(&options, &bench->backend, &err), &err);
    check_ok(bench->backend->ops->queue_new(bench->backend, &bench->queue, &err), &err);
    float **const all[] = {&bench->a, &bench->b, &bench->c, &bench->out, &bench->bias};
    for (int i = 0; i < 5; i++) {
        *all[i] = put(bench, (uint64_t)i + 1);
    }
}

static void bench_release(struct bench *bench)
{
    void *const all[] = {bench->a, bench->b, bench->c, bench->out, bench->bias};
    for (int i = 0; i < 5; i++) {
        bench->backend->ops->free(bench->backend, all[i]);
    }
    bench->backend->ops->queue_free(bench->queue);
    hlm_backend_free(bench->backend);
}

typedef void list_fn(const struct bench *bench, struct hlm_launch list[3]);

/* Runs three operators as a list and one by one: all memory ends up the same. */
static void check_same(list_fn *fill)
{
    float results[2][5][BYTES / 4];
    for (int way = 0; way < 2; way++) {
        struct bench bench;
        struct hlm_err err;
        struct hlm_launch list[3] = {{0}};
        bench_init(&bench, HLM_CUDA_FUSE_ALWAYS);
        fill(&bench, list);
        const struct hlm_backend_ops *ops = bench.backend->ops;
        for (int i = 0; way == 0 && i < 3; i++) {
            check_ok(ops->launch(bench.queue, list[i].op, list[i].operands, NULL, &err), &err);
        }
        if (way == 1) {
            check_ok(ops->launch_list(bench.queue, list, 3, NULL, &err), &err);
        }
        const void *const all[] = {bench.a, bench.b, bench.c, bench.out, bench.bias};
        for (int i = 0; i < 5; i++) {
            check_ok(ops->download(bench.queue, results[way][i], all[i], BYTES, &err), &err);
        }
        check_ok(ops->queue_sync(bench.queue, &err), &err);
        bench_release(&bench);
    }
    assert_memory_equal(results[0], results[1], sizeof results[0]);
}

static const struct hlm_op product = {.kind = HLM_OP_GEMM,
                                      .layout = HLM_GEMM_NN,
                                      .m = ROWS,
                                      .n = COLS,
                                      .k = DEPTH,
                                      .operands = {0, 1, 2}};
static const struct hlm_op add_bias = {
    .kind = HLM_OP_BIAS_ADD, .m = ROWS, .n = COLS, .operands = {0, 1}};
static const struct hlm_op residual = {
    .kind = HLM_OP_BIAS_RESIDUAL, .m = ROWS, .n = COLS, .operands = {0, 1, 2, 3}};
static const struct hlm_op gelu = {.kind = HLM_OP_ACTIVATION_FWD,
                                   .activation = HLM_ACTIVATION_GELU,
                                   .m = ROWS,
                                   .n = COLS,
                                   .operands = {0, -1, 1}};

/* The result lies where a factor does. */
static void over_a_factor(const struct bench *x, struct hlm_launch list[3])
{
    list[0] = (struct hlm_launch){&product, {x->a, x->b, x->c}, 0};
    list[1] = (struct hlm_launch){&residual, {x->c, x->bias, x->out, x->a}, 1};
    list[2] = (struct hlm_launch){&add_bias, {x->bias, x->out}, 0};
}

/* The product's result is read once more. */
static void read_again(const struct bench *x, struct hlm_launch list[3])
{
    list[0] = (struct hlm_launch){&product, {x->a, x->b, x->c}, 0};
    list[1] = (struct hlm_launch){&residual, {x->c, x->bias, x->out, x->out}, 0};
    list[2] = (struct hlm_launch){&gelu, {x->c, NULL, x->a}, 0};
}

/* A product between writes the bias. */
static void bias_made_between(const struct bench *x, struct hlm_launch list[3])
{
    list[0] = (struct hlm_launch){&product, {x->a, x->b, x->c}, 0};
    list[1] = (struct hlm_launch){&product, {x->a, x->b, x->bias}, 0};
    list[2] = (struct hlm_launch){&add_bias, {x->bias, x->c}, 0};
}

/* A product between reads what the third operator writes. */
static void result_read_between(const struct bench *x, struct hlm_launch list[3])
{
    list[0] = (struct hlm_launch){&product, {x->a, x->b, x->c}, 0};
    list[1] = (struct hlm_launch){&product, {x->out, x->b, x->bias}, 0};
    list[2] = (struct hlm_launch){&gelu, {x->c, NULL, x->out}, 1};
}

/* A bias that is not aligned as the library wants it. */
static void crooked_bias(const struct bench *x, struct hlm_launch list[3])
{
    list[0] = (struct hlm_launch){&product, {x->a, x->b, x->c}, 0};
    list[1] = (struct hlm_launch){&add_bias, {x->bias + 1, x->c}, 0};
    list[2] = (struct hlm_launch){&product, {x->a, x->b, x->out}, 0};
}

static void test_declined(void **state)
{
    (void)state;
    list_fn *const lists[] = {over_a_factor, read_again, bias_made_between, result_read_between,
                              crooked_bias};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        check_same(lists[i]);
    }
}

/* --- choices --- */

static void run_product(struct bench *bench)
{
    struct hlm_err err;
    void *const operands[HLM_OP_MAX_OPERANDS] = {bench->a, bench->b, bench->c};
    check_ok(bench->backend->ops->launch(bench->queue, &product, operands, NULL, &err), &err);
    check_ok(bench->backend->ops->queue_sync(bench->queue, &err), &err);
}

static void test_choices(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_cuda_choices made, none, taken;
    struct bench bench;
    struct hlm_err err;
    bench_init(&bench, HLM_CUDA_FUSE_NEVER);
    device_choices(bench.backend, arena, &none);
    assert_int_equal(none.num, 0);
    run_product(&bench);
    run_product(&bench);
    device_choices(bench.backend, arena, &made);
    bench_release(&bench);
    assert_int_equal(made.version, HLM_CUDA_CHOICES_VERSION);
    assert_int_equal(made.num, 1);
    assert_int_equal(made.list[0].shape.m, ROWS);
    assert_int_equal(made.list[0].shape.n, COLS);
    assert_int_equal(made.list[0].shape.k, DEPTH);
    assert_int_equal(made.list[0].shape.layout, HLM_GEMM_NN);
    assert_int_equal(made.list[0].shape.alignment[2], 16);

    struct hlm_cuda_choice marked = made.list[0];
    marked.time_s = 123.0; /* shows that it was taken over and not made anew */
    struct hlm_cuda_choices kept = made;
    kept.list = &marked;
    bench_init(&bench, HLM_CUDA_FUSE_NEVER);
    check_ok(device_use_choices(bench.backend, &kept, &err), &err);
    run_product(&bench);
    device_choices(bench.backend, arena, &taken);
    bench_release(&bench);
    assert_int_equal(taken.num, 1);
    check_near(taken.list[0].time_s, 123.0, 0.0);
    hlm_arena_free(arena);
}

/* Choices of others are refused whole, with the reason; an algorithm that the library does not take
 * is chosen anew. */
static void test_stale_choices(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_cuda_choices made, again;
    struct bench bench;
    struct hlm_err err;
    bench_init(&bench, HLM_CUDA_FUSE_NEVER);
    run_product(&bench);
    device_choices(bench.backend, arena, &made);
    struct hlm_cuda_choices other = made;
    other.version++;
    check_fails(device_use_choices(bench.backend, &other, &err), HLM_ENV, &err, "of version 2");
    other = made;
    other.cublas--;
    check_fails(device_use_choices(bench.backend, &other, &err), HLM_ENV, &err, "for cuBLAS");
    other = made;
    strcpy(other.device, "another");
    check_fails(device_use_choices(bench.backend, &other, &err), HLM_ENV, &err, "for another (");
    other = made;
    other.num_sms++;
    check_fails(device_use_choices(bench.backend, &other, &err), HLM_ENV, &err, "multiprocessors");
    bench_release(&bench);

    struct hlm_cuda_choice broken = made.list[0];
    memset(broken.algorithm, 0, sizeof broken.algorithm);
    broken.time_s = 123.0;
    struct hlm_cuda_choices kept = made;
    kept.list = &broken;
    bench_init(&bench, HLM_CUDA_FUSE_NEVER);
    check_ok(device_use_choices(bench.backend, &kept, &err), &err);
    run_product(&bench);
    device_choices(bench.backend, arena, &again);
    bench_release(&bench);
    assert_int_equal(again.num, 1);
    check_near(again.list[0].time_s, 0.0, 0.0);
    assert_memory_equal(again.list[0].algorithm, made.list[0].algorithm, HLM_CUDA_ALGORITHM_BYTES);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt),     cmocka_unit_test(test_llama),
        cmocka_unit_test(test_bert),    cmocka_unit_test(test_declined),
        cmocka_unit_test(test_choices), cmocka_unit_test(test_stale_choices),
    };
    return device_is_there() ? cmocka_run_group_tests(tests, NULL, NULL) : EXIT_SKIPPED;
}
