/* The runner on the device, its ranks as threads that share it (exec/comm/comm_queue.h): passes as
 * graphs give the bits of passes as launches, and products that do what follows them the same
 * losses. */
#include "exec/runner/runner.h"

#include <stdatomic.h>

#include "exec/comm/comm_queue.h"
#include "tests/gpu/device.h"
#include "tests/support/check.h"
#include "tests/support/golden.h"
#include "tests/support/rank_threads.h"

enum { MAX_RANKS = 2, NUM_STEPS = 2 };

/* Losses and norms of all ranks. */
struct run {
    const struct hlm_plan *plan;
    uint64_t seed;
    enum hlm_cuda_fuse fuse;
    bool graphs;
    struct hlm_backend *backends[MAX_RANKS]; /* they outlive the transports */
    struct hlm_backend_ops ops[MAX_RANKS];
    double losses[MAX_RANKS][NUM_STEPS], norms[MAX_RANKS][NUM_STEPS];
};

static atomic_llong num_replayed; /* graphs, by all ranks */
static enum hlm_status (*replay)(struct hlm_graph *graph, const struct hlm_op_scalars *scalars,
                                 struct hlm_err *err);

static enum hlm_status count_graph(struct hlm_graph *graph, const struct hlm_op_scalars *scalars,
                                   struct hlm_err *err)
{
    atomic_fetch_add(&num_replayed, 1);
    return replay(graph, scalars, err);
}

static enum hlm_status run_steps(struct run *run, int32_t rank, struct hlm_runner *runner,
                                 struct hlm_err *err)
{
    hlm_runner_use_graphs(runner, run->graphs);
    for (int32_t step = 0; step < NUM_STEPS; step++) {
        struct hlm_run_step ran;
        HLM_TRY(hlm_runner_step(runner, step, &ran, err));
        run->losses[rank][step] = ran.loss;
        run->norms[rank][step] = ran.grad_norm;
    }
    return HLM_OK;
}

static enum hlm_status new_backend(struct run *run, struct hlm_comm *comm, struct hlm_err *err)
{
    const struct hlm_cuda_options options = {.fuse = run->fuse};
    struct hlm_backend **backend = &run->backends[comm->rank];
    HLM_TRY(device_backend_with(&options, backend, err));
    struct hlm_backend_ops *ops = &run->ops[comm->rank];
    *ops = *(*backend)->ops;
    replay = ops->graph_launch;
    ops->graph_launch = count_graph;
    (*backend)->ops = ops;
    return hlm_comm_queue_use_backend(comm, *backend, err);
}

static enum hlm_status work(struct hlm_comm *comm, void *context, struct hlm_err *err)
{
    struct run *run = context;
    struct hlm_state *state = NULL;
    struct hlm_runner *runner = NULL;
    const struct hlm_data *data = NULL;
    struct hlm_arena *arena = hlm_arena_new();
    enum hlm_status status = new_backend(run, comm, err);
    if (status == HLM_OK) {
        status = hlm_data_open(arena, NULL, &run->plan->model, run->plan->strategy.seq_len,
                               run->seed, &data, err);
    }
    if (status == HLM_OK) {
        status = hlm_state_new(arena, run->plan, comm->rank, run->backends[comm->rank], run->seed,
                               &state, err);
    }
    if (status == HLM_OK) {
        status =
            hlm_runner_new(arena, state, comm, data, &hlm_optimizer_default, 300.0, &runner, err);
    }
    if (status == HLM_OK) {
        status = run_steps(run, comm->rank, runner, err);
    }
    hlm_runner_free(runner);
    hlm_state_free(state);
    hlm_arena_free(arena);
    return status;
}

static void train(struct hlm_arena *arena, struct run *run, enum hlm_cuda_fuse fuse, bool graphs)
{
    struct hlm_err err;
    run->fuse = fuse;
    run->graphs = graphs;
    atomic_store(&num_replayed, 0);
    check_ok(rank_threads_run_over(arena, run->plan, hlm_comm_queue_new, work, run, &err), &err);
    for (int32_t rank = 0; rank < run->plan->num_ranks; rank++) {
        hlm_backend_free(run->backends[rank]);
    }
    assert_int_equal(atomic_load(&num_replayed) > 0, graphs);
}

/* As in test_cuda_train.c; bf16: where partial results are rounded. */
static void check_layout(const char *name, struct golden_layout layout)
{
    struct hlm_arena *arena = hlm_arena_new();
    const struct golden *golden = golden_read(arena, name);
    const bool exact = layout.dtype == HLM_DTYPE_FP32;
    struct run apart = {.plan = golden_plan(arena, &golden->model, golden->global_batch_size,
                                            golden->seq_len, &layout),
                        .seed = (uint64_t)golden->seed};
    assert_non_null(apart.plan);
    struct run graphs = apart, fused = apart, both = apart;
    train(arena, &apart, HLM_CUDA_FUSE_NEVER, false);
    train(arena, &graphs, HLM_CUDA_FUSE_NEVER, true);
    train(arena, &fused, HLM_CUDA_FUSE_ALWAYS, false);
    train(arena, &both, HLM_CUDA_FUSE_ALWAYS, true);
    assert_memory_equal(graphs.losses, apart.losses, sizeof(apart.losses));
    assert_memory_equal(graphs.norms, apart.norms, sizeof(apart.norms));
    assert_memory_equal(both.losses, fused.losses, sizeof(fused.losses));
    assert_memory_equal(both.norms, fused.norms, sizeof(fused.norms));
    for (int32_t step = 0; step < NUM_STEPS; step++) {
        check_close(apart.losses[0][step], golden->losses[step], exact ? 4e-6 : 2.0 / 256.0);
        check_close(fused.losses[0][step], apart.losses[0][step], exact ? 4e-6 : 1.0 / 256.0);
    }
    /* They did run as one: other roundings. A real library may have no algorithm for them. */
    if (device_is_emulated()) {
        assert_memory_not_equal(fused.norms, apart.norms, sizeof(apart.norms));
    }
    hlm_arena_free(arena);
}

static void two_stages(void **state)
{
    (void)state;
    check_layout("gpt2", (struct golden_layout){.pp = 2, .schedule = HLM_SCHEDULE_1F1B});
}

static void two_replicas_in_bf16(void **state)
{
    (void)state;
    check_layout("gpt2", (struct golden_layout){.dp = 2, .zero = 1, .dtype = HLM_DTYPE_BF16});
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(two_stages),
                                       cmocka_unit_test(two_replicas_in_bf16)};
    return device_is_there() ? cmocka_run_group_tests(tests, NULL, NULL) : EXIT_SKIPPED;
}
