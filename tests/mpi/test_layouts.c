/* The program hlmplan-rank over both transports: losses of a sample of all layouts are those of one
 * rank, and equal over threads and MPI. tests/oracle/test_layouts.c has all layouts, over threads.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "exec/launch.h"
#include "planner/measurement.h"
#include "tests/support/check.h"
#include "tests/support/golden.h"

enum { NUM_STEPS = 5 };
static const double tolerance = 1e-5;

static const struct golden_layout layouts[] = {
    {.dp = 2},
    {.dp = 2, .zero = 1, .recompute = HLM_RECOMPUTE_SELECTIVE},
    {.tp = 2},
    {.tp = 2, .sp = true, .recompute = HLM_RECOMPUTE_FULL},
    {.pp = 2, .schedule = HLM_SCHEDULE_1F1B},
    {.pp = 2, .recompute = HLM_RECOMPUTE_FULL},
    {.dp = 4, .zero = 1},
    {.tp = 4, .recompute = HLM_RECOMPUTE_SELECTIVE},
    {.pp = 4, .schedule = HLM_SCHEDULE_1F1B},
    {.dp = 2, .tp = 2, .sp = true, .zero = 1},
    {.dp = 2, .pp = 2, .zero = 1, .schedule = HLM_SCHEDULE_1F1B},
    {.tp = 2, .pp = 2, .sp = true},
    {.dp = 2, .tp = 2, .pp = 2, .schedule = HLM_SCHEDULE_1F1B},
    {.dp = 2, .tp = 2, .pp = 2, .sp = true, .zero = 1, .recompute = HLM_RECOMPUTE_SELECTIVE},
    {.dp = 4, .pp = 2, .zero = 1, .schedule = HLM_SCHEDULE_1F1B},
    {.tp = 2, .pp = 4, .sp = true, .schedule = HLM_SCHEDULE_1F1B}};

struct fixture {
    struct hlm_arena *arena;
    const struct golden *golden;
    char folder[64];
};

static const struct hlm_measurement *
run(const struct fixture *fixture, const struct golden_layout *layout, enum hlm_launch_kind kind)
{
    struct hlm_arena *arena = fixture->arena;
    struct hlm_err err = {0};
    const struct golden *golden = fixture->golden;
    const struct hlm_plan *plan =
        golden_plan(arena, &golden->model, golden->global_batch_size, golden->seq_len, layout);
    assert_non_null(plan);
    const char *plan_path = hlm_arena_printf(arena, "%s/plan.json", fixture->folder);
    const char *output = hlm_arena_printf(arena, "%s/measured.json", fixture->folder);
    const char *text = hlm_json_write(arena, &hlm_plan_table, plan, false);
    check_ok(hlm_file_write(plan_path, text, strlen(text), &err), &err);
    const char *args[] = {"--transport", kind == HLM_LAUNCH_MPI ? "mpi" : "thread",
                          "--plan",      plan_path,
                          "--output",    output,
                          "--steps",     hlm_arena_printf(arena, "%d", NUM_STEPS),
                          "--warmup",    "1",
                          NULL};
    const struct hlm_launch_config config = {
        .kind = kind, .program = HLM_RANK_PROGRAM, .args = args, .num_ranks = plan->num_ranks};
    check_ok(hlm_launch_run(&config, &err), &err);
    const struct hlm_measurement *measured = NULL;
    check_ok(hlm_measurement_read(arena, output, &measured, &err), &err);
    assert_int_equal(measured->num_steps, NUM_STEPS);
    unlink(plan_path);
    unlink(output);
    return measured;
}

static void check_losses(const struct fixture *fixture, const struct golden_layout *layout,
                         const struct hlm_measurement *measured,
                         const struct hlm_measurement *reference, const char *transport)
{
    for (int32_t step = 0; step < NUM_STEPS; step++) {
        const double loss = measured->steps[step].loss, expected = reference->steps[step].loss;
        if (!(fabs(loss - expected) <= tolerance * fabs(expected))) {
            fail_msg("%s over %s: loss of step %d is %.9g, one rank has %.9g",
                     golden_layout_text(fixture->arena, layout), transport, step, loss, expected);
        }
    }
}

static void losses_agree(void **state)
{
    (void)state;
    struct fixture fixture = {.arena = hlm_arena_new(), .folder = "/tmp/hlm-layouts-XXXXXX"};
    assert_non_null(mkdtemp(fixture.folder));
    fixture.golden = golden_read(fixture.arena, "gpt2");
    const struct golden_layout one = {.microbatch_size = fixture.golden->global_batch_size};
    const struct hlm_measurement *reference = run(&fixture, &one, HLM_LAUNCH_THREADS);
    check_losses(&fixture, &one, run(&fixture, &one, HLM_LAUNCH_MPI), reference, "MPI");
    for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++) {
        check_losses(&fixture, &layouts[i], run(&fixture, &layouts[i], HLM_LAUNCH_THREADS),
                     reference, "threads");
        check_losses(&fixture, &layouts[i], run(&fixture, &layouts[i], HLM_LAUNCH_MPI), reference,
                     "MPI");
    }
    rmdir(fixture.folder);
    hlm_arena_free(fixture.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(losses_agree)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
