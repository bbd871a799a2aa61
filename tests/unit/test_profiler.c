#include "tests/support/check.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "costmodel/collective.h"
#include "exec/profiler/profiler.h"
#include "exec/profiler/profiler_device.h"
#include "exec/profiler/profiler_link.h"
#include "exec/profiler/profiler_machine.h"
#include "exec/profiler/profiler_slab.h"
#include "exec/profiler/profiler_stack.h"

struct fixture {
    struct hlm_arena *arena;
    struct hlm_backend *backend;
    struct hlm_err err;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    fixture->arena = hlm_arena_new();
    *state = fixture;
    return hlm_backend_cpu_new(&fixture->backend, &fixture->err) == HLM_OK ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    hlm_backend_free(fixture->backend);
    hlm_arena_free(fixture->arena);
    free(fixture);
    return 0;
}

static struct hlm_model tiny_model(void)
{
    struct hlm_model model = {.name = "tiny",
                              .kind = HLM_MODEL_DECODER,
                              .seq_len = 16,
                              .hidden_size = 32,
                              .num_layers = 3,
                              .num_heads = 2,
                              .vocab_size = 64,
                              .activation = HLM_ACTIVATION_GELU,
                              .norm = HLM_NORM_LAYERNORM,
                              .norm_placement = HLM_NORM_PLACEMENT_PRE,
                              .norm_eps = 1e-5,
                              .position = HLM_POSITION_LEARNED,
                              .bias = {true, true, true},
                              .tied_embeddings = true,
                              .vocab_pad_multiple = 1};
    hlm_model_complete(&model);
    return model;
}

static struct hlm_strategy tiny_strategy(void)
{
    struct hlm_strategy strategy = {.dp = 1,
                                    .tp = 1,
                                    .pp = 1,
                                    .microbatch_size = 2,
                                    .num_microbatches = 1,
                                    .global_batch_size = 2,
                                    .seq_len = 16,
                                    .dtype = HLM_DTYPE_FP32};
    hlm_strategy_complete(&strategy);
    return strategy;
}

/* Every operator of the three kinds of blocks has one sample, those of equal layers together, and
 * all of them add up to about a step. */
static void stack_samples_every_operator(void **state)
{
    struct fixture *fixture = *state;
    const struct hlm_model model = tiny_model();
    const struct hlm_strategy strategy = tiny_strategy();
    for (int recompute = 0; recompute < HLM_NUM_RECOMPUTES; recompute++) {
        const struct hlm_profiler_stack_config config = {.model = &model,
                                                         .strategy = &strategy,
                                                         .kind = HLM_BACKEND_CPU,
                                                         .recompute = (enum hlm_recompute)recompute,
                                                         .num_steps = 2};
        struct hlm_profiler_stack stack;
        check_ok(hlm_profiler_stack_measure(fixture->arena, fixture->backend, &config, &stack,
                                            &fixture->err),
                 &fixture->err);
        const struct hlm_lowering_input input = {
            .model = &model, .strategy = &strategy, .backend = HLM_BACKEND_CPU};
        int32_t expected = 0;
        for (int kind = 0; kind < HLM_NUM_BLOCKS; kind++) {
            const struct hlm_block *block = NULL;
            if (kind == HLM_BLOCK_MOE) {
                continue;
            }
            check_ok(
                hlm_lowering_block(fixture->arena, &input, (enum hlm_block_kind)kind,
                                   kind == HLM_BLOCK_DENSE ? config.recompute : HLM_RECOMPUTE_NONE,
                                   &block, &fixture->err),
                &fixture->err);
            expected += block->num_forward + block->num_backward;
        }
        assert_int_equal(stack.num_samples, expected);
        double sum_s = 0.0;
        for (int32_t i = 0; i < stack.num_samples; i++) {
            assert_true(stack.samples[i].seconds > 0.0 && isfinite(stack.samples[i].seconds));
            assert_true(stack.samples[i].num_blocks == 1 || stack.samples[i].num_blocks == 3);
            sum_s += stack.samples[i].seconds * stack.samples[i].num_blocks;
        }
        assert_true(sum_s <= stack.least_step_s * (1.0 + 1e-9));
        assert_true(stack.least_step_s <= stack.median_step_s);
    }
}

/* Stacks whose operators sum to 2 s at their best, whatever else. */
static void a_whole_step_takes_more_than_its_operators_at_best(void **state)
{
    (void)state;
    const struct hlm_profiler_sample samples[] = {{.num_blocks = 3, .seconds = 0.5},
                                                  {.num_blocks = 1, .seconds = 0.5}};
    struct hlm_profiler_stack stacks[] = {{.least_step_s = 2.06},
                                          {.least_step_s = 3.0}, /* disturbed all the time */
                                          {.least_step_s = 2.04},
                                          {.least_step_s = 2.0 - 1e-15}}; /* rounding */
    for (int i = 0; i < 4; i++) {
        stacks[i].samples = samples;
        stacks[i].num_samples = 2;
    }
    check_close(hlm_profiler_whole_step(stacks, 3), 1.03, 1e-12);
    check_close(hlm_profiler_whole_step(&stacks[2], 1), 1.02, 1e-12);
    assert_true(hlm_profiler_whole_step(&stacks[3], 1) == 1.0);
}

/* A backend that can't run an operator ends the measurement with its reason. */
static void stack_reports_what_the_backend_refuses(void **state)
{
    struct fixture *fixture = *state;
    const struct hlm_model model = tiny_model();
    struct hlm_strategy strategy = tiny_strategy();
    strategy.dtype = HLM_DTYPE_BF16;
    const struct hlm_profiler_stack_config config = {
        .model = &model, .strategy = &strategy, .kind = HLM_BACKEND_CPU, .num_steps = 1};
    struct hlm_profiler_stack stack;
    check_fails(hlm_profiler_stack_measure(fixture->arena, fixture->backend, &config, &stack,
                                           &fixture->err),
                HLM_ENV, &fixture->err, "bf16");
}

static void slabs_have_ascending_curves(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_profiler_slabs slabs;
    check_ok(hlm_profiler_slabs_measure(fixture->arena, fixture->backend, &slabs, &fixture->err),
             &fixture->err);
    for (int i = 0; i < HLM_PROFILER_NUM_SLAB_OPS; i++) {
        const struct hlm_curve curve = {slabs.curves[i].points, slabs.curves[i].num_points};
        check_ok(hlm_curve_validate(&curve, "curve", &fixture->err), &fixture->err);
        assert_true(curve.points[curve.num_points - 1].seconds > curve.points[0].seconds);
    }
    assert_true(slabs.memory.bytes_per_s > 0.0 &&
                slabs.memory.peak_bytes_per_s >= slabs.memory.bytes_per_s);
    assert_true(slabs.launch_overhead_s >= 0.0);
}

static void updates_are_measured_on_all_cores(void **state)
{
    struct fixture *fixture = *state;
    for (int32_t threads = 1; threads <= 2; threads++) {
        double seconds = 0.0;
        check_ok(
            hlm_profiler_update_measure(fixture->arena, threads, threads, &seconds, &fixture->err),
            &fixture->err);
        assert_true(seconds > 0.0 && seconds < 1e-3); /* of one element */
    }
}

static struct hlm_device_group group_of(const struct hlm_profiler_links *links)
{
    return (struct hlm_device_group){.name = "cores",
                                     .num_nodes = 1,
                                     .devices_per_node = 4,
                                     .intra_node = links->link,
                                     .collectives = links->collectives,
                                     .num_collectives = links->num_collectives};
}

/* Three cores: worlds of two and three, each with three collectives, priced without a decrease. */
static void thread_links_cover_all_worlds(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_profiler_links links;
    check_ok(hlm_profiler_thread_links_measure(fixture->arena, 3, &links, &fixture->err),
             &fixture->err);
    assert_int_equal(links.num_collectives, 6);
    assert_true(links.link.needs_both_sides);
    const struct hlm_curve curve = {links.link.points, links.link.num_points};
    check_ok(hlm_curve_validate(&curve, "points", &fixture->err), &fixture->err);
    struct hlm_device_group group = group_of(&links);
    const struct hlm_cluster cluster = {.groups = &group, .num_groups = 1, .oversubscription = 1.0};
    for (int32_t ranks = 2; ranks <= 3; ranks++) {
        const struct hlm_group_shape shape = {ranks, 1, ranks, 1};
        double before = 0.0;
        for (double bytes = 1.0; bytes < 1e9; bytes *= 3.0) {
            const double seconds =
                hlm_collective_seconds(&cluster, 0, HLM_ALL_REDUCE, bytes, shape);
            assert_true(seconds > 0.0 && seconds >= before);
            before = seconds;
        }
    }
}

/* Straight lines through the points; the rate of the last point beyond. */
static void pieces_pass_through_the_points(void **state)
{
    (void)state;
    const struct hlm_curve_point points[] = {{1e3, 1e-5}, {1e5, 2e-5}, {1e6, 3e-4}, {1e7, 3e-3}};
    struct hlm_collective_piece pieces[5];
    const double factor = hlm_collective_factor(HLM_ALL_REDUCE, 4);
    assert_int_equal(hlm_profiler_make_pieces(points, 4, factor, pieces), 5);
    const struct hlm_collective_curve curve = {
        .op = HLM_ALL_REDUCE, .num_ranks = 4, .num_nodes = 1, .pieces = pieces, .num_pieces = 5};
    const struct hlm_device_group group = {
        .num_nodes = 1, .devices_per_node = 4, .collectives = &curve, .num_collectives = 1};
    const struct hlm_cluster cluster = {.groups = &group, .num_groups = 1};
    const struct hlm_group_shape shape = {4, 1, 4, 1};
    for (int i = 0; i < 4; i++) {
        check_close(hlm_collective_seconds(&cluster, 0, HLM_ALL_REDUCE, points[i].bytes, shape),
                    points[i].seconds, 1e-9);
    }
    check_close(hlm_collective_seconds(&cluster, 0, HLM_ALL_REDUCE, 10.0, shape), 1e-5, 1e-9);
    check_close(hlm_collective_seconds(&cluster, 0, HLM_ALL_REDUCE, 1e8, shape), 3e-2, 1e-9);
    check_close(hlm_collective_seconds(&cluster, 0, HLM_ALL_REDUCE, 5.05e4, shape), 1.5e-5, 1e-9);
}

static void *count_when_tied(void *out)
{
    hlm_profiler_pin(0);
    *(int32_t *)out = hlm_profiler_num_cores(1);
    return NULL;
}

static void machine_is_described(void **state)
{
    struct fixture *fixture = *state;
    assert_string_equal(hlm_profiler_slug(fixture->arena, "Intel(R) Xeon(R): 8480+ @ 2/GHz "),
                        "intel-r-xeon-r-8480-2-ghz");
    assert_string_equal(hlm_profiler_slug(fixture->arena, "()"), "cpu");
    assert_true(hlm_profiler_num_cores(1) >= 1);
    assert_true(hlm_profiler_num_cores(1 << 20) <= sysconf(_SC_NPROCESSORS_ONLN));
    assert_true(hlm_profiler_resident_bytes(fixture->arena) > 0);
    assert_true(hlm_profiler_available_bytes(fixture->arena) > 0);
    assert_non_null(strstr(hlm_profiler_blas(fixture->arena), "OpenBLAS"));
    /* A thread that is tied to one core still knows all of them. */
    const int32_t cores = hlm_profiler_num_cores(1);
    pthread_t thread;
    int32_t seen = 0;
    assert_int_equal(pthread_create(&thread, NULL, count_when_tied, &seen), 0);
    pthread_join(thread, NULL);
    assert_int_equal(seen, cores);
}

/* The whole of it: the folder is a cluster whose every number says where it comes from. */
static void profile_is_a_cluster(void **state)
{
    struct fixture *fixture = *state;
    char folder[] = "/tmp/test_profiler_XXXXXX";
    assert_non_null(mkdtemp(folder));
    struct hlm_strategy strategy = tiny_strategy();
    const struct hlm_comm_config comm_config = {
        .strategy = &strategy, .timeout_s = 60.0, .max_bytes = 1 << 20};
    struct hlm_comm *comm = NULL;
    check_ok(hlm_comm_thread_new(&comm_config, &comm, &fixture->err), &fixture->err);
    const struct hlm_profiler_config config = {.directory = folder, .quick = true};
    check_ok(hlm_profiler_run(fixture->arena, &config, fixture->backend, comm, NULL, &fixture->err),
             &fixture->err);
    hlm_comm_free(comm);
    const struct hlm_cluster *cluster = NULL;
    check_ok(hlm_cluster_load(fixture->arena, folder, &cluster, &fixture->err), &fixture->err);
    const struct hlm_device *device = &cluster->groups[0].device;
    assert_int_equal(device->backend, HLM_BACKEND_CPU);
    assert_int_equal(device->dtypes[0].num_gemm, 3);
    assert_int_equal(device->dtypes[0].num_attention, 8);
    for (int32_t i = 0; i < device->num_ops; i++) {
        assert_int_equal(device->ops[i].source.kind, HLM_SOURCE_MEASURED);
        assert_non_null(device->ops[i].source.date);
        assert_true(device->ops[i].source.num_samples > 0);
    }
    assert_true(device->memory_bytes > device->fixed_memory_bytes);
    assert_true(device->shared_memory_slowdown >= 1.0);
    const char *path = hlm_arena_printf(fixture->arena, "%s/device.json", folder);
    const struct hlm_device *alone = NULL;
    check_ok(hlm_device_load(fixture->arena, path, &alone, &fixture->err), &fixture->err);
    assert_string_equal(alone->name, device->name);
    unlink(path);
    unlink(hlm_arena_printf(fixture->arena, "%s/cluster.json", folder));
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stack_samples_every_operator),
        cmocka_unit_test(a_whole_step_takes_more_than_its_operators_at_best),
        cmocka_unit_test(stack_reports_what_the_backend_refuses),
        cmocka_unit_test(slabs_have_ascending_curves),
        cmocka_unit_test(updates_are_measured_on_all_cores),
        cmocka_unit_test(thread_links_cover_all_worlds),
        cmocka_unit_test(pieces_pass_through_the_points),
        cmocka_unit_test(profile_is_a_cluster),
        cmocka_unit_test(machine_is_described),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
