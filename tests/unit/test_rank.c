#include "exec/rank.h"

#include "compare/compare.h"
#include "exec/comm/comm_emulate.h"
#include "exec/comm/comm_queue.h"
#include "tests/support/check.h"
#include "tests/support/golden.h"
#include "tests/support/late_backend.h"
#include "tests/support/rank_threads.h"

enum { NUM_STEPS = 5, NUM_WARMUP = 2, NUM_RANKS = 4 };

struct run {
    struct hlm_rank_config config;
    struct hlm_arena *arenas[NUM_RANKS];
    const struct hlm_measurement *measurements[NUM_RANKS];
    struct hlm_backend *backends[NUM_RANKS]; /* over queues they outlive the transports */
    struct hlm_backend *device;              /* of all ranks over queues */
};

static const struct golden *golden_of(struct hlm_arena *arena)
{
    return golden_read(arena, "gpt2");
}

static void run_init(struct run *run, struct hlm_arena *arena, struct golden_layout layout)
{
    const struct golden *golden = golden_of(arena);
    const struct hlm_plan *plan =
        golden_plan(arena, &golden->model, golden->global_batch_size, golden->seq_len, &layout);
    assert_non_null(plan);
    *run = (struct run){.config = {.plan = plan,
                                   .seed = (uint64_t)golden->seed,
                                   .num_steps = NUM_STEPS,
                                   .num_warmup_steps = NUM_WARMUP,
                                   .optimizer = hlm_optimizer_default,
                                   .backend = "cpu",
                                   .transport = "thread",
                                   .backend_library = "a BLAS",
                                   .num_cores = 2}};
    for (int i = 0; i < NUM_RANKS; i++) {
        run->arenas[i] = hlm_arena_new();
    }
}

static void run_release(struct run *run)
{
    for (int i = 0; i < NUM_RANKS; i++) {
        hlm_arena_free(run->arenas[i]);
    }
}

static enum hlm_status work(struct hlm_comm *comm, void *context, struct hlm_err *err)
{
    struct run *run = context;
    struct hlm_backend *backend = NULL;
    HLM_TRY(hlm_backend_cpu_new(&backend, err));
    const enum hlm_status status = hlm_rank_run(run->arenas[comm->rank], &run->config, backend,
                                                comm, NULL, &run->measurements[comm->rank], err);
    hlm_backend_free(backend);
    return status;
}

static const struct hlm_measurement *measure(struct hlm_arena *arena, struct run *run)
{
    struct hlm_err err;
    check_ok(rank_threads_run(arena, run->config.plan, work, run, &err), &err);
    for (int i = 1; i < NUM_RANKS; i++) {
        assert_null(run->measurements[i]);
    }
    assert_non_null(run->measurements[0]);
    return run->measurements[0];
}

/* A measurement that its own reader accepts, of the plan that ran. */
static void check_file(struct hlm_arena *arena, const struct hlm_measurement *measurement,
                       const struct hlm_plan *plan)
{
    struct hlm_err err;
    const struct hlm_measurement *again = NULL;
    const char *text = hlm_json_write(arena, &hlm_measurement_table, measurement, false);
    check_ok(hlm_measurement_read_text(arena, "again", text, strlen(text), &again, &err), &err);
    check_ok(hlm_measurement_check_plan(again, "again", &plan->digests, &err), &err);
}

static double sum_of_parts(const struct hlm_time_node *node)
{
    double seconds = 0.0;
    for (int32_t i = 0; i < node->num_parts; i++) {
        seconds += node->parts[i].seconds;
    }
    return seconds;
}

static void test_measurement(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct run run;
    run_init(&run, arena,
             (struct golden_layout){.dp = 2, .pp = 2, .zero = 1, .schedule = HLM_SCHEDULE_1F1B});
    const struct hlm_measurement *measured = measure(arena, &run);
    const struct golden *golden = golden_of(arena);
    assert_int_equal(measured->num_steps, NUM_STEPS);
    for (int32_t i = 0; i < NUM_STEPS; i++) {
        check_close(measured->steps[i].loss, golden->losses[i], 1e-4);
        check_close(measured->steps[i].grad_norm, golden->grad_norms[i], 1e-3);
    }
    assert_int_equal(measured->num_ranks, 4);
    assert_int_equal(measured->num_memory, 4);
    for (int32_t r = 0; r < 4; r++) {
        const struct hlm_measured_memory *memory = &measured->memory[r];
        const struct hlm_stage_memory *promised =
            &run.config.plan->prediction.memory[memory->stage];
        assert_int_equal(memory->rank, r);
        assert_int_equal(memory->stage, hlm_layout_coords(&run.config.plan->strategy, r).pp);
        assert_int_equal(memory->peak_bytes,
                         promised->peak_bytes - promised->bytes[HLM_MEMORY_FIXED]);
    }
    assert_string_equal(measured->timeline.source, "measured");
    assert_int_equal(measured->timeline.num_ranks, 4);
    assert_string_equal(measured->machine.backend_library, "a BLAS");
    check_file(arena, measured, run.config.plan);
    run_release(&run);
    hlm_arena_free(arena);
}

/* --- over a stream-ordered transport --- */

static enum hlm_status work_over_queue(struct hlm_comm *comm, void *context, struct hlm_err *err)
{
    struct run *run = context;
    struct hlm_backend **backend = &run->backends[comm->rank];
    HLM_TRY(late_backend_new_beside(run->device, backend, (uint64_t)comm->rank + 1, 20e-6, err));
    HLM_TRY(hlm_comm_queue_use_backend(comm, *backend, err));
    return hlm_rank_run(run->arenas[comm->rank], &run->config, *backend, comm, NULL,
                        &run->measurements[comm->rank], err);
}

static const struct hlm_measurement *measure_over_queue(struct hlm_arena *arena, struct run *run)
{
    struct hlm_err err;
    check_ok(late_backend_new(&run->device, 0, 0.0, &err), &err);
    check_ok(rank_threads_run_over(arena, run->config.plan, hlm_comm_queue_new, work_over_queue,
                                   run, &err),
             &err);
    for (int i = 0; i < NUM_RANKS; i++) {
        hlm_backend_free(run->backends[i]);
        assert_int_equal(run->measurements[i] != NULL, i == 0);
    }
    hlm_backend_free(run->device);
    return run->measurements[0];
}

static void check_same_timeline(const struct hlm_timeline *one, const struct hlm_timeline *other)
{
    assert_int_equal(one->num_ranks, other->num_ranks);
    for (int32_t r = 0; r < one->num_ranks; r++) {
        const struct hlm_timeline_rank *a = &one->ranks[r], *b = &other->ranks[r];
        assert_int_equal(a->rank, b->rank);
        assert_int_equal(a->num_events, b->num_events);
        for (int32_t e = 0; e < a->num_events; e++) {
            const double last_end_s = e > 0 ? a->events[e - 1].end_s : 0.0;
            assert_string_equal(a->events[e].action, b->events[e].action);
            assert_true(a->events[e].start_s >= last_end_s - 1e-9);
            assert_true(a->events[e].end_s >= a->events[e].start_s);
        }
    }
}

static void check_same_parts(const struct hlm_time_node *one, const struct hlm_time_node *other)
{
    assert_int_equal(one->num_parts, other->num_parts);
    for (int32_t i = 0; i < one->num_parts; i++) {
        assert_string_equal(one->parts[i].name, other->parts[i].name);
        assert_true(one->parts[i].seconds >= -1e-9);
    }
    check_close(sum_of_parts(one), one->seconds, 1e-9);
}

/* What ranks tell each other, values of the host all, goes through the device: the measurement has
 * the same shape, losses and memory as over threads and the CPU. */
static void test_over_queue(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct golden_layout layout = {
        .dp = 2, .pp = 2, .zero = 1, .schedule = HLM_SCHEDULE_1F1B};
    struct run usual, late;
    run_init(&usual, arena, layout);
    run_init(&late, arena, layout);
    const struct hlm_measurement *host = measure(arena, &usual);
    const struct hlm_measurement *queue = measure_over_queue(arena, &late);
    assert_int_equal(queue->num_steps, host->num_steps);
    for (int32_t i = 0; i < host->num_steps; i++) {
        check_close(queue->steps[i].loss, host->steps[i].loss, 1e-6);
        check_close(queue->steps[i].grad_norm, host->steps[i].grad_norm, 1e-5);
    }
    assert_int_equal(queue->num_memory, host->num_memory);
    for (int32_t r = 0; r < host->num_memory; r++) {
        assert_int_equal(queue->memory[r].rank, host->memory[r].rank);
        assert_int_equal(queue->memory[r].stage, host->memory[r].stage);
        assert_int_equal(queue->memory[r].peak_bytes, host->memory[r].peak_bytes);
    }
    check_same_timeline(&queue->timeline, &host->timeline);
    check_same_parts(&queue->parts, &host->parts);
    assert_int_equal(queue->num_actions, host->num_actions);
    check_file(arena, queue, late.config.plan);
    run_release(&usual);
    run_release(&late);
    hlm_arena_free(arena);
}

static void test_virtual_time(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct run run;
    run_init(&run, arena, (struct golden_layout){.tp = 2, .pp = 2, .schedule = HLM_SCHEDULE_1F1B});
    run.config.virtual_time = true;
    const struct hlm_measurement *measured = measure(arena, &run);
    assert_true(measured->virtual_time);
    assert_int_equal(measured->num_clean_steps, NUM_STEPS - NUM_WARMUP);
    assert_string_equal(measured->timeline.source, "virtual");
    check_close(measured->timeline.step_s, measured->step_time_s, 1e-12);
    check_close(sum_of_parts(&measured->parts), measured->step_time_s, 1e-9);
    check_file(arena, measured, run.config.plan);
    run_release(&run);
    hlm_arena_free(arena);
}

/* Stages with a tp of their own, joined with what the plan promises of them. */
static void test_several_tp(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_comparison compared;
    struct hlm_err err;
    struct run run;
    run_init(&run, arena,
             (struct golden_layout){
                 .tp = 2, .tp_at = {1, 2, 1}, .sp = true, .pp = 3, .schedule = HLM_SCHEDULE_ZB_H1});
    run.config.virtual_time = true;
    const struct hlm_measurement *measured = measure(arena, &run);
    const int32_t microbatches = (int32_t)run.config.plan->strategy.num_microbatches;
    check_file(arena, measured, run.config.plan);
    check_ok(hlm_compare(arena, run.config.plan, measured, "measured.json", 1e9, &compared, &err),
             &err);
    assert_int_equal(compared.num_memory, 3);
    for (int32_t i = 0; i < compared.num_memory; i++) {
        assert_int_equal(compared.memory[i].measured_bytes, compared.memory[i].predicted_bytes);
    }
    for (int32_t i = 0; i < compared.num_actions; i++) {
        const struct hlm_compare_action *action = &compared.actions[i];
        if (action->kind == HLM_ACTION_F) {
            assert_int_equal(action->num_measured, microbatches);
            assert_true(action->measured_s > 0.0 && action->predicted_s > 0.0);
        }
    }
    run_release(&run);
    hlm_arena_free(arena);
}

/* Messages between stages in both replicas, none behind the last stage. */
static void test_measured_messages(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct run run;
    run_init(&run, arena, (struct golden_layout){.dp = 2, .pp = 2, .schedule = HLM_SCHEDULE_1F1B});
    run.config.virtual_time = true;
    run.config.measured_messages = true;
    const struct hlm_measurement *measured = measure(arena, &run);
    const struct hlm_strategy *strategy = &run.config.plan->strategy;
    assert_int_equal(measured->num_messages, 1);
    assert_int_equal(measured->messages[0].stage, 0);
    assert_int_equal(measured->messages[0].bytes, strategy->microbatch_size * strategy->seq_len *
                                                      run.config.plan->model.hidden_size *
                                                      (int64_t)sizeof(float));
    assert_true(measured->messages[0].seconds > 0.0 && measured->messages[0].seconds < 10.0);
    check_file(arena, measured, run.config.plan);
    run_release(&run);
    hlm_arena_free(arena);
}

static void test_bad_data(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct run run;
    run_init(&run, arena, (struct golden_layout){.dp = 4});
    run.config.data_path = "no/such/text";
    const enum hlm_status status = rank_threads_run(arena, run.config.plan, work, &run, &err);
    assert_int_equal(status, HLM_INPUT);
    assert_non_null(strstr(err.text, "no/such/text"));
    assert_null(run.measurements[0]);
    run_release(&run);
    hlm_arena_free(arena);
}

/* One rank of dp 2, tp 2, pp 2 alone. */
static const struct hlm_measurement *measure_alone(struct hlm_arena *arena, struct run *run,
                                                   int32_t rank, enum hlm_emulate_delay delay)
{
    struct hlm_err err;
    struct hlm_backend *backend = NULL;
    struct hlm_comm *comm = NULL;
    run_init(run, arena,
             (struct golden_layout){
                 .dp = 2, .tp = 2, .pp = 2, .zero = 1, .schedule = HLM_SCHEDULE_1F1B});
    run->config.emulation =
        delay == HLM_EMULATE_PREDICTED ? HLM_RECORD_WAITED : HLM_RECORD_DID_NOT_WAIT;
    run->config.transport = "emulated";
    const struct hlm_emulate_config config = {
        .plan = run->config.plan, .rank = rank, .seed = run->config.seed, .delay = delay};
    check_ok(hlm_backend_cpu_new(&backend, &err), &err);
    check_ok(hlm_comm_emulate_new(arena, &config, &comm, &err), &err);
    const struct hlm_measurement *measured = NULL;
    check_ok(hlm_rank_run(run->arenas[0], &run->config, backend, comm, NULL, &measured, &err),
             &err);
    hlm_comm_free(comm);
    hlm_backend_free(backend);
    assert_non_null(measured);
    return measured;
}

static void test_alone(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct golden *golden = golden_of(arena);
    for (int32_t rank = 0; rank < 8; rank += 3) { /* 0 and 3: stage 0; 6: stage 1, tp rank 0 */
        for (int delay = HLM_EMULATE_PREDICTED; delay <= HLM_EMULATE_NONE; delay++) {
            struct run run;
            const struct hlm_measurement *measured =
                measure_alone(arena, &run, rank, (enum hlm_emulate_delay)delay);
            const struct hlm_plan *plan = run.config.plan;
            const int32_t stage = rank / 4;
            const struct hlm_stage_memory *promised = &plan->prediction.memory[stage];
            assert_int_equal(measured->emulated_rank, rank);
            assert_int_equal(measured->memory[0].peak_bytes,
                             promised->peak_bytes - promised->bytes[HLM_MEMORY_FIXED]);
            assert_int_equal(measured->timeline.ranks[0].num_events,
                             2 * plan->strategy.num_microbatches + 2);
            check_close(sum_of_parts(&measured->parts), measured->parts.seconds, 1e-9);
            /* The loss of the model is near that of chance, ln(vocab); without the other half of
             * the vocabulary it is lower by up to ln 2. Others than the head's first rank have
             * none. */
            const double chance = log((double)golden->model.vocab_size);
            for (int32_t i = 0; i < NUM_STEPS; i++) {
                const double loss = measured->steps[i].loss;
                assert_true(rank == 6 ? loss > 0.5 * chance && loss < 1.5 * chance : loss == 0.0);
            }
            check_file(arena, measured, plan);
            run_release(&run);
        }
    }
    hlm_arena_free(arena);
}

static void test_step_text(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct run run;
    run_init(&run, arena, (struct golden_layout){.dp = 4});
    struct hlm_plan plan = *run.config.plan;
    plan.strategy.global_batch_size = 100;
    plan.strategy.seq_len = 20;
    plan.prediction.step_time_s = 1.0;
    plan.prediction.mfu = 0.5;
    struct hlm_run_step ran = {.wall_s = 2.0, .loss = 4.5, .grad_norm = 1.25};
    struct hlm_rank_memory_use memory = {.allocated_bytes = 3 << 20};
    assert_string_equal(hlm_rank_step_text(arena, &plan, 2, 10, &ran, &memory),
                        "step 3 of 10: loss 4.500000, gradient norm 1.25, 2.00 s, 1.00 K tokens/s, "
                        "MFU 25.0 % (causal attention), 3.00 MiB");
    plan.model.kind = HLM_MODEL_ENCODER;
    assert_non_null(
        strstr(hlm_rank_step_text(arena, &plan, 2, 10, &ran, &memory), "(full attention)"));
    /* What can't be said is left out. */
    plan.prediction.mfu = (double)INFINITY;
    ran.loss = 0.0;
    memory.device_used_bytes = 1LL << 30;
    memory.device_total_bytes = 2LL << 30;
    assert_string_equal(hlm_rank_step_text(arena, &plan, 9, 10, &ran, &memory),
                        "step 10 of 10: gradient norm 1.25, 2.00 s, 1.00 K tokens/s, 3.00 MiB "
                        "(device: 1.00 GiB of 2.00 GiB)");
    run_release(&run);
    hlm_arena_free(arena);
}

/* The most of a device that was in use behind any step, where the backend can say. */
static enum hlm_status tell_memory(struct hlm_backend *backend, int64_t *out_used_bytes,
                                   int64_t *out_total_bytes, struct hlm_err *err)
{
    static int64_t num_calls;
    (void)backend, (void)err;
    num_calls++;
    *out_used_bytes = num_calls == 2 ? 700 : 500;
    *out_total_bytes = 1000;
    return HLM_OK;
}

static void test_device_memory(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct run run;
    struct hlm_backend *backend = NULL;
    struct hlm_comm *comm = NULL;
    run_init(&run, arena, (struct golden_layout){0});
    check_ok(hlm_backend_cpu_new(&backend, &err), &err);
    struct hlm_backend_ops telling = *backend->ops;
    telling.memory = tell_memory;
    backend->ops = &telling;
    const struct hlm_comm_config config = {
        .strategy = &run.config.plan->strategy, .timeout_s = 60.0, .max_bytes = 1 << 20};
    check_ok(hlm_comm_thread_new(&config, &comm, &err), &err);
    const struct hlm_measurement *measured = NULL;
    check_ok(hlm_rank_run(run.arenas[0], &run.config, backend, comm, NULL, &measured, &err), &err);
    assert_int_equal(measured->memory[0].device_used_bytes, 700);
    assert_int_equal(measured->memory[0].device_total_bytes, 1000);
    hlm_comm_free(comm);
    hlm_backend_free(backend);
    run_release(&run);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_measurement),
                                       cmocka_unit_test(test_over_queue),
                                       cmocka_unit_test(test_virtual_time),
                                       cmocka_unit_test(test_several_tp),
                                       cmocka_unit_test(test_measured_messages),
                                       cmocka_unit_test(test_bad_data),
                                       cmocka_unit_test(test_alone),
                                       cmocka_unit_test(test_step_text),
                                       cmocka_unit_test(test_device_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
