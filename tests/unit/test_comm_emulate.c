#include "exec/comm/comm_emulate.h"

#include <time.h>

#include "base/rng.h"
#include "exec/bf16.h"
#include "exec/runner/runner.h"
#include "planner/plan_rank.h"
#include "tests/support/check.h"
#include "tests/support/golden.h"
#include "tests/support/rank_threads.h"

enum { NUM_STEPS = 2, MAX_RANKS = 8, MAX_EVENTS = 64 };

static const struct golden *golden_of(struct hlm_arena *arena)
{
    return golden_read(arena, "gpt2");
}

static const struct hlm_plan *make_plan(struct hlm_arena *arena, struct golden_layout layout)
{
    const struct golden *golden = golden_of(arena);
    const struct hlm_plan *plan =
        golden_plan(arena, &golden->model, golden->global_batch_size, golden->seq_len, &layout);
    assert_non_null(plan);
    return plan;
}

static struct hlm_comm *emulate(struct hlm_arena *arena, const struct hlm_plan *plan, int32_t rank,
                                enum hlm_emulate_delay delay)
{
    const struct hlm_emulate_config config = {
        .plan = plan, .rank = rank, .seed = 1, .delay = delay};
    struct hlm_comm *comm = NULL;
    struct hlm_err err;
    check_ok(hlm_comm_emulate_new(arena, &config, &comm, &err), &err);
    return comm;
}

/* ---- a rank alone does what it does among others ---- */

/* The CPU backend with a launch that also hashes which operators of which shapes run, in order. */
static struct hlm_backend_ops counting_ops;
static enum hlm_status (*cpu_launch)(struct hlm_queue *queue, const struct hlm_op *op,
                                     void *const operands[HLM_OP_MAX_OPERANDS],
                                     const struct hlm_op_scalars *scalars, struct hlm_err *err);
static _Thread_local uint64_t launched;

static enum hlm_status counting_launch(struct hlm_queue *queue, const struct hlm_op *op,
                                       void *const operands[HLM_OP_MAX_OPERANDS],
                                       const struct hlm_op_scalars *scalars, struct hlm_err *err)
{
    const int64_t shape[] = {op->kind, op->dtype, op->layout,  op->m,     op->n,
                             op->k,    op->batch, op->seq_len, op->heads, op->head_dim};
    launched = hlm_hash(launched, shape, sizeof(shape));
    return cpu_launch(queue, op, operands, scalars, err);
}

static int make_counting(void **state)
{
    (void)state;
    struct hlm_backend *backend = NULL;
    struct hlm_err err;
    check_ok(hlm_backend_cpu_new(&backend, &err), &err);
    counting_ops = *backend->ops;
    cpu_launch = counting_ops.launch;
    counting_ops.launch = counting_launch;
    hlm_backend_free(backend);
    return 0;
}

struct ran {
    struct hlm_action actions[MAX_EVENTS];
    int32_t num_actions;
    int64_t allocated_bytes;
    uint64_t launched;
    double losses[NUM_STEPS], grad_norms[NUM_STEPS];
};

struct run {
    const struct hlm_plan *plan;
    bool alone;
    struct ran ranks[MAX_RANKS];
};

static void watch(void *context, int64_t step, const char *action, const char *operation,
                  bool waiting)
{
    (void)step, (void)operation, (void)waiting;
    hlm_comm_emulate_action(context, action);
}

static enum hlm_status run_steps(struct hlm_runner *runner, struct ran *ran, struct hlm_err *err)
{
    for (int32_t step = 0; step < NUM_STEPS; step++) {
        struct hlm_run_step out;
        HLM_TRY(hlm_runner_step(runner, step, &out, err));
        ran->losses[step] = out.loss;
        ran->grad_norms[step] = out.grad_norm;
        ran->num_actions = out.num_events;
        HLM_ASSERT(out.num_events <= MAX_EVENTS);
        for (int32_t i = 0; i < out.num_events; i++) {
            ran->actions[i] = out.events[i].action;
        }
    }
    return HLM_OK;
}

static enum hlm_status work(struct hlm_comm *comm, void *context, struct hlm_err *err)
{
    struct run *run = context;
    struct ran *ran = &run->ranks[run->alone ? 0 : comm->rank];
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_backend *backend = NULL;
    const struct hlm_data *data = NULL;
    struct hlm_state *state = NULL;
    struct hlm_runner *runner = NULL;
    launched = HLM_HASH_START;
    check_ok(hlm_backend_cpu_new(&backend, err), err);
    backend->ops = &counting_ops;
    check_ok(
        hlm_data_open(arena, NULL, &run->plan->model, run->plan->strategy.seq_len, 1, &data, err),
        err);
    check_ok(hlm_state_new(arena, run->plan, comm->rank, backend, 1, &state, err), err);
    check_ok(hlm_runner_new(arena, state, comm, data, &hlm_optimizer_default, 60.0, &runner, err),
             err);
    if (run->alone) {
        hlm_runner_watch(runner, watch, comm);
    }
    const enum hlm_status status = run_steps(runner, ran, err);
    ran->allocated_bytes = state->allocated_bytes;
    ran->launched = launched;
    hlm_runner_free(runner);
    hlm_state_free(state);
    hlm_backend_free(backend);
    hlm_arena_free(arena);
    return status;
}

static void check_alone(struct hlm_arena *arena, const struct run *whole, int32_t rank)
{
    struct run run = {.plan = whole->plan, .alone = true};
    struct hlm_err err;
    struct hlm_comm *comm = emulate(arena, whole->plan, rank, HLM_EMULATE_NONE);
    check_ok(work(comm, &run, &err), &err);
    hlm_comm_free(comm);
    const struct ran *alone = &run.ranks[0], *among = &whole->ranks[rank];
    assert_int_equal(alone->num_actions, among->num_actions);
    for (int32_t i = 0; i < alone->num_actions; i++) {
        assert_int_equal(alone->actions[i].kind, among->actions[i].kind);
        assert_int_equal(alone->actions[i].stage, among->actions[i].stage);
        assert_int_equal(alone->actions[i].microbatch, among->actions[i].microbatch);
    }
    assert_int_equal(alone->allocated_bytes, among->allocated_bytes);
    assert_true(alone->launched == among->launched);
    for (int32_t step = 0; step < NUM_STEPS; step++) {
        assert_true(isfinite(alone->losses[step]));
        assert_true(isfinite(alone->grad_norms[step]) && alone->grad_norms[step] > 0.0);
    }
}

static void check_layout(struct golden_layout layout)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct run whole = {.plan = make_plan(arena, layout)};
    check_ok(rank_threads_run(arena, whole.plan, work, &whole, &err), &err);
    for (int32_t rank = 0; rank < whole.plan->num_ranks; rank++) {
        check_alone(arena, &whole, rank);
    }
    hlm_arena_free(arena);
}

static void test_every_rank(void **state)
{
    (void)state;
    check_layout((struct golden_layout){
        .dp = 2, .tp = 2, .pp = 2, .zero = 1, .schedule = HLM_SCHEDULE_1F1B});
    check_layout(
        (struct golden_layout){.dp = 2, .tp = 2, .sp = true, .pp = 2, .microbatch_size = 2});
}

/* A rank has several peers at a boundary. */
static void test_uneven_ranks(void **state)
{
    (void)state;
    check_layout((struct golden_layout){
        .tp = 4, .tp_at = {1, 4, 1}, .sp = true, .pp = 3, .schedule = HLM_SCHEDULE_1F1B});
    check_layout((struct golden_layout){
        .tp = 4, .tp_at = {2, 4, 2}, .pp = 3, .schedule = HLM_SCHEDULE_ZB_H1});
}

/* Several stages a rank, split backwards, pairs. */
static void test_other_schedules(void **state)
{
    (void)state;
    static const struct golden_layout layouts[] = {
        {.pp = 2, .schedule = HLM_SCHEDULE_ZB_H1},
        {.pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_INTERLEAVED},
        {.pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_ZB_V},
        {.tp = 2, .pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_DUALPIPE_V}};
    for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++) {
        check_layout(layouts[i]);
    }
}

/* 2048 nodes of 8 of the golden cluster's cores: 4096 replicas of tp 2, pp 2. */
static const struct hlm_plan *make_large_plan(struct hlm_arena *arena)
{
    struct hlm_err err;
    const struct golden *golden = golden_of(arena);
    struct hlm_cluster cluster = *golden_cluster(arena, 8);
    struct hlm_device_group group = cluster.groups[0];
    const struct hlm_inter_link link = {.link = group.intra_node};
    group.num_nodes = 2048;
    cluster.groups = hlm_arena_memdup(arena, &group, sizeof(group));
    cluster.links = hlm_arena_memdup(arena, &link, sizeof(link));
    cluster.num_links = 1;
    struct hlm_strategy strategy = {.dp = 4096,
                                    .tp = 2,
                                    .pp = 2,
                                    .zero = 1,
                                    .schedule = HLM_SCHEDULE_1F1B,
                                    .microbatch_size = 1,
                                    .global_batch_size = 2 * 4096,
                                    .seq_len = golden->seq_len,
                                    .dtype = HLM_DTYPE_FP32};
    hlm_strategy_complete(&strategy);
    const struct hlm_plan_stage *stages = NULL;
    int32_t num_stages = 0;
    const struct hlm_plan *plan = NULL;
    check_ok(hlm_plan_even_stages(arena, &golden->model, &cluster, &strategy, 0, &stages,
                                  &num_stages, &err),
             &err);
    check_ok(hlm_plan_price(arena, &golden->model, &cluster, &strategy, stages, num_stages, &plan,
                            NULL, &err),
             &err);
    return plan;
}

/* A rank of 16,384 needs no more than its own share. */
static void test_large_world(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_plan *plan = make_large_plan(arena);
    assert_int_equal(plan->num_ranks, 16384);
    struct run run = {.plan = plan, .alone = true};
    struct hlm_err err;
    struct hlm_comm *comm = emulate(arena, plan, 16383, HLM_EMULATE_PREDICTED);
    assert_int_equal(comm->world_size, 16384);
    assert_int_equal(comm->rank, 16383);
    check_ok(work(comm, &run, &err), &err);
    hlm_comm_free(comm);
    const struct hlm_stage_memory *promised = &plan->prediction.memory[1];
    assert_int_equal(run.ranks[0].allocated_bytes,
                     promised->peak_bytes - promised->bytes[HLM_MEMORY_FIXED]);
    assert_true(run.ranks[0].allocated_bytes < 1 << 20);
    hlm_arena_free(arena);
}

/* Peers route as this rank does. */
static void test_experts(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct golden *golden = golden_read(arena, "moe");
    const struct golden_layout layout = {.dp = 4, .ep = 4, .zero = 1};
    struct run run = {.plan = golden_plan(arena, &golden->model, golden->global_batch_size,
                                          golden->seq_len, &layout),
                      .alone = true};
    struct hlm_comm *comm = emulate(arena, run.plan, 2, HLM_EMULATE_NONE);
    check_ok(work(comm, &run, &err), &err);
    hlm_comm_free(comm);
    for (int32_t step = 0; step < NUM_STEPS; step++) {
        assert_true(isfinite(run.ranks[0].losses[step]) && run.ranks[0].losses[step] > 0.0);
        assert_true(run.ranks[0].grad_norms[step] > 0.0);
    }
    hlm_arena_free(arena);
}

static void test_no_such_rank(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct hlm_comm *comm = NULL;
    const struct hlm_plan *plan = make_plan(arena, (struct golden_layout){.dp = 2});
    const struct hlm_emulate_config config = {.plan = plan, .rank = 2};
    check_fails(hlm_comm_emulate_new(arena, &config, &comm, &err), HLM_USAGE, &err,
                "rank 2 can't be emulated: the plan has 0 to 1");
    const struct hlm_emulate_config negative = {.plan = plan, .rank = -1};
    check_fails(hlm_comm_emulate_new(arena, &negative, &comm, &err), HLM_USAGE, &err, "rank -1");
    assert_null(comm);
    hlm_arena_free(arena);
}

/* ---- what comes ---- */

static double value_of(enum hlm_dtype dtype, const unsigned char *data, int64_t index)
{
    float value;
    uint16_t bits;
    if (dtype == HLM_DTYPE_FP32) {
        memcpy(&value, data + index * (int64_t)sizeof value, sizeof value);
        return (double)value;
    }
    memcpy(&bits, data + index * (int64_t)sizeof bits, sizeof bits);
    return (double)hlm_bf16_value(bits);
}

enum { FORWARD, BACKWARD };

static void receive(struct hlm_comm *comm, int32_t peer, int32_t channel, void *data, int64_t bytes)
{
    struct hlm_err err;
    struct hlm_request *request = NULL;
    check_ok(comm->ops->receive(comm, peer, channel, data, bytes, &request, &err), &err);
    check_ok(comm->ops->wait(comm, request, &err), &err);
}

static void check_values(enum hlm_dtype dtype, const unsigned char *data, int64_t num,
                         double wanted)
{
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; i < num; i++) {
        const double value = value_of(dtype, data, i);
        assert_true(isfinite(value) && fabs(value) < 3.5 * wanted);
        sum += value;
        squares += value * value;
    }
    check_near(sum / (double)num, 0.0, 0.02 * wanted);
    check_close(sqrt(squares / (double)num), wanted, 0.02);
}

static void test_received_values(void **state)
{
    (void)state;
    enum { NUM = 100000 };
    static const enum hlm_dtype dtypes[] = {HLM_DTYPE_FP32, HLM_DTYPE_BF16};
    struct hlm_arena *arena = hlm_arena_new();
    const struct golden_layout layouts[] = {
        {.pp = 2, .schedule = HLM_SCHEDULE_1F1B},
        {.pp = 2, .schedule = HLM_SCHEDULE_1F1B, .dtype = HLM_DTYPE_BF16}};
    unsigned char *data = HLM_ARENA_ARRAY(arena, unsigned char, 4 * NUM);
    unsigned char *again = HLM_ARENA_ARRAY(arena, unsigned char, 4 * NUM);
    for (int i = 0; i < 2; i++) {
        const struct hlm_plan *plan = make_plan(arena, layouts[i]);
        const double tokens = (double)(plan->strategy.global_batch_size * plan->strategy.seq_len);
        const int64_t bytes = NUM * (int64_t)hlm_dtype_bytes(dtypes[i]);
        struct hlm_comm *comm = emulate(arena, plan, 1, HLM_EMULATE_NONE);
        receive(comm, 0, FORWARD, data, bytes);
        check_values(dtypes[i], data, NUM, 1.0);
        receive(comm, 0, FORWARD, again, bytes);
        assert_memory_not_equal(data, again, (size_t)bytes);
        hlm_comm_free(comm);
        comm = emulate(arena, plan, 1, HLM_EMULATE_NONE);
        receive(comm, 0, FORWARD, again, bytes);
        assert_memory_equal(data, again, (size_t)bytes);
        hlm_comm_free(comm);
        comm = emulate(arena, plan, 0, HLM_EMULATE_NONE);
        receive(comm, 1, BACKWARD, data, bytes);
        check_values(dtypes[i], data, NUM, 0.02 / tokens);
        hlm_comm_free(comm);
    }
    hlm_arena_free(arena);
}

static void test_collectives(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_plan *plan = make_plan(arena, (struct golden_layout){.dp = 2, .tp = 2});
    struct hlm_comm *comm = emulate(arena, plan, 3, HLM_EMULATE_NONE);
    float sum[] = {1.0F, 2.0F, 3.0F};
    check_ok(comm->ops->all_reduce(comm, HLM_GROUP_TP, sum, 3, HLM_WIRE_F32, HLM_REDUCE_SUM, &err),
             &err);
    assert_true(sum[0] == 1.0F && sum[2] == 3.0F);
    /* Rank 3 is the second of its tp group, and of its dp group. */
    const float scattered[] = {1.0F, 2.0F, 3.0F, 4.0F};
    float part[] = {0.0F, 0.0F};
    check_ok(comm->ops->reduce_scatter(comm, HLM_GROUP_TP, scattered, part, 2, HLM_WIRE_F32, &err),
             &err);
    assert_true(part[0] == 3.0F && part[1] == 4.0F);
    float gathered[] = {NAN, NAN, NAN, NAN};
    check_ok(comm->ops->all_gather(comm, HLM_GROUP_TP, part, gathered, 2, HLM_WIRE_F32, &err),
             &err);
    assert_true(gathered[0] == 3.0F && gathered[1] == 4.0F && gathered[2] == 3.0F &&
                gathered[3] == 4.0F);
    /* In place: what the peers of a data-parallel group hold stays, that of others is made up. */
    float slab[] = {7.0F, 8.0F, 9.0F, 10.0F};
    check_ok(comm->ops->all_gather(comm, HLM_GROUP_DP, slab + 2, slab, 2, HLM_WIRE_F32, &err),
             &err);
    assert_true(slab[0] == 7.0F && slab[1] == 8.0F && slab[2] == 9.0F);
    check_ok(comm->ops->all_gather(comm, HLM_GROUP_TP, slab + 2, slab, 2, HLM_WIRE_F32, &err),
             &err);
    assert_true(slab[0] == 9.0F && slab[1] == 10.0F);
    /* What this rank has for itself comes from everybody, as often as is needed. */
    const int64_t to_each[] = {4, 8}, from_each[] = {8, 12};
    const float rows[] = {1.0F, 2.0F, 3.0F};
    float received[] = {NAN, NAN, NAN, NAN, NAN};
    check_ok(comm->ops->all_to_all(comm, HLM_GROUP_DP, rows, to_each, received, from_each, &err),
             &err);
    assert_true(received[0] == 2.0F && received[1] == 3.0F && received[2] == 2.0F &&
                received[3] == 3.0F && received[4] == 2.0F);
    hlm_comm_free(comm);
    hlm_arena_free(arena);
}

/* ---- when it comes ---- */

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void begin_step(struct hlm_comm *comm)
{
    struct hlm_err err;
    hlm_comm_emulate_action(comm, NULL);
    check_ok(comm->ops->barrier(comm, HLM_GROUP_WORLD, &err), &err);
}

static double event_end_s(const struct hlm_plan_simulation *simulation, int32_t rank,
                          const char *action)
{
    struct hlm_action wanted;
    struct hlm_err err;
    check_ok(hlm_action_parse(action, &wanted, &err), &err);
    const struct hlm_sim_rank *ran = &simulation->result.ranks[rank];
    for (int32_t i = 0; i < ran->num_events; i++) {
        const struct hlm_action found = ran->events[i].action;
        if (found.kind == wanted.kind && found.stage == wanted.stage &&
            found.microbatch == wanted.microbatch) {
            return ran->events[i].end_s;
        }
    }
    fail_msg("%s is not in the simulation of rank %d", action, rank);
    return 0.0;
}

/* Messages come when their makers are done in the simulation, and not before what this rank sent
 * late could have come back. */
static void test_messages_wait(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_plan *plan =
        make_plan(arena, (struct golden_layout){.pp = 2, .schedule = HLM_SCHEDULE_1F1B});
    struct hlm_plan_simulation simulation;
    check_ok(hlm_plan_simulate(arena, plan, &simulation, &err), &err);
    const struct hlm_sim_costs *costs = &simulation.costs;
    char data[64];

    struct hlm_comm *comm = emulate(arena, plan, 1, HLM_EMULATE_PREDICTED);
    double began_s = now_s();
    begin_step(comm);
    receive(comm, 0, FORWARD, data, sizeof(data));
    assert_true(now_s() - began_s >= event_end_s(&simulation, 0, "0F0") + costs->send_forward_s[0]);
    for (int32_t microbatch = 1; microbatch < 4; microbatch++) {
        receive(comm, 0, FORWARD, data, sizeof(data));
    }
    assert_true(now_s() - began_s >= event_end_s(&simulation, 0, "0F3") + costs->send_forward_s[0]);
    hlm_comm_free(comm);

    comm = emulate(arena, plan, 0, HLM_EMULATE_PREDICTED);
    began_s = now_s();
    begin_step(comm);
    const struct timespec late = {.tv_nsec = 50000000};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &late, NULL);
    struct hlm_request *request = NULL;
    const double sent_s = now_s();
    check_ok(comm->ops->send(comm, 1, FORWARD, data, sizeof(data), &request, &err), &err);
    assert_null(request);
    receive(comm, 1, BACKWARD, data, sizeof(data));
    assert_true(now_s() - sent_s >= costs->send_forward_s[0] + costs->forward_s[1] +
                                        costs->backward_s[1] + costs->send_backward_s[1]);
    hlm_comm_free(comm);
    hlm_arena_free(arena);
}

/* The seconds of collectives are those of the prices that the plan's prediction is made of. */
static void test_collective_seconds(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_plan *plan = make_plan(arena, (struct golden_layout){.dp = 2, .tp = 2});
    struct hlm_plan_simulation simulation;
    check_ok(hlm_plan_simulate(arena, plan, &simulation, &err), &err);
    struct hlm_comm *comm = emulate(arena, plan, 1, HLM_EMULATE_PREDICTED);
    hlm_comm_emulate_action(comm, "0REDUCE_GRAD");
    const int64_t bytes = simulation.stages[0].num_elements * (int64_t)sizeof(float);
    check_close(hlm_comm_emulate_collective_s(comm, HLM_ALL_REDUCE, HLM_GROUP_DP, bytes),
                simulation.stages[0].reduce_s, 1e-12);
    assert_true(hlm_comm_emulate_collective_s(comm, HLM_ALL_REDUCE, HLM_GROUP_PP, bytes) == 0.0);
    float value = 1.0F;
    const double began_s = now_s();
    check_ok(
        comm->ops->all_reduce(comm, HLM_GROUP_DP, &value, 1, HLM_WIRE_F32, HLM_REDUCE_SUM, &err),
        &err);
    assert_true(now_s() - began_s >=
                hlm_comm_emulate_collective_s(comm, HLM_ALL_REDUCE, HLM_GROUP_DP, 4));
    hlm_comm_free(comm);
    hlm_arena_free(arena);
}

static void count_alive(void *context)
{
    ++*(int *)context;
}

/* The norm, where all meet, comes when the slowest rank of the simulation is there; a watchdog sees
 * life meanwhile. */
static void test_norm_waits_for_all(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_plan *plan =
        make_plan(arena, (struct golden_layout){.pp = 2, .schedule = HLM_SCHEDULE_1F1B});
    struct hlm_plan_simulation simulation;
    check_ok(hlm_plan_simulate(arena, plan, &simulation, &err), &err);
    struct hlm_comm *comm = emulate(arena, plan, 1, HLM_EMULATE_PREDICTED);
    int num_alive = 0;
    hlm_comm_emulate_alive(comm, count_alive, &num_alive);
    const double began_s = now_s();
    begin_step(comm);
    hlm_comm_emulate_action(comm, "1OPTIMIZER");
    double squares = 2.0;
    check_ok(comm->ops->all_reduce(comm, HLM_GROUP_MODEL, &squares, 1, HLM_WIRE_F64, HLM_REDUCE_SUM,
                                   &err),
             &err);
    assert_true(now_s() - began_s >= simulation.result.reduce_end_s + simulation.costs.sync_s);
    assert_true(squares == 2.0);
    assert_true(num_alive > 0);
    hlm_comm_free(comm);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_every_rank, make_counting),
        cmocka_unit_test_setup(test_uneven_ranks, make_counting),
        cmocka_unit_test_setup(test_other_schedules, make_counting),
        cmocka_unit_test_setup(test_large_world, make_counting),
        cmocka_unit_test_setup(test_experts, make_counting),
        cmocka_unit_test(test_no_such_rank),
        cmocka_unit_test(test_received_values),
        cmocka_unit_test(test_collectives),
        cmocka_unit_test(test_messages_wait),
        cmocka_unit_test(test_collective_seconds),
        cmocka_unit_test(test_norm_waits_for_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
