#include "exec/rank.h"

#include "tests/support/check.h"
#include "tests/support/golden.h"
#include "tests/support/rank_threads.h"

enum { NUM_STEPS = 5, NUM_WARMUP = 2, NUM_RANKS = 4 };

struct run {
    struct hlm_rank_config config;
    struct hlm_arena *arenas[NUM_RANKS];
    const struct hlm_measurement *measurements[NUM_RANKS];
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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_measurement),
                                       cmocka_unit_test(test_virtual_time),
                                       cmocka_unit_test(test_bad_data)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
