/* The program hlmplan-rank over MPI: losses of all layouts, schedules, ZeRO and recompute settings
 * are those of one rank over threads. tests/oracle/test_layouts.c has the same over threads. */
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "exec/launch/launch.h"
#include "planner/measurement.h"
#include "tests/support/check.h"
#include "tests/support/golden.h"
#include "tests/support/share.h"

enum { NUM_STEPS = 5 };
static const double tolerance = 1e-5;

static const int32_t degrees[][3] = {/* dp, tp, pp */
                                     {2, 1, 1}, {1, 2, 1}, {1, 1, 2}, {4, 1, 1}, {1, 4, 1},
                                     {1, 1, 4}, {2, 2, 1}, {2, 1, 2}, {1, 2, 2}, {2, 2, 2},
                                     {4, 2, 1}, {2, 1, 4}, {1, 2, 4}, {4, 1, 2}};

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

/* Counts the layouts, with those that the build passes over. */
static void check_degree(const struct fixture *fixture, const int32_t degree[3],
                         const struct hlm_measurement *reference, int32_t *num_layouts)
{
    for (int32_t i = 0; i < 2 * 2 * 2 * HLM_NUM_RECOMPUTES; i++) {
        const struct golden_layout layout = {.dp = degree[0],
                                             .tp = degree[1],
                                             .pp = degree[2],
                                             .zero = i & 1,
                                             .sp = (i & 2) != 0,
                                             .schedule = (i & 4) != 0 ? HLM_SCHEDULE_1F1B
                                                                      : HLM_SCHEDULE_GPIPE,
                                             .recompute = (enum hlm_recompute)(i / 8)};
        const bool differs = (layout.zero == 0 || layout.dp > 1) && (!layout.sp || layout.tp > 1) &&
                             (layout.schedule == HLM_SCHEDULE_GPIPE || layout.pp > 1);
        if (differs && share_has((*num_layouts)++)) {
            check_losses(fixture, &layout, run(fixture, &layout, HLM_LAUNCH_MPI), reference, "MPI");
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
    int32_t num_layouts = 0;
    for (size_t i = 0; i < sizeof(degrees) / sizeof(degrees[0]); i++) {
        check_degree(&fixture, degrees[i], reference, &num_layouts);
    }
    printf("%d layouts over MPI\n", share_of(num_layouts));
    rmdir(fixture.folder);
    hlm_arena_free(fixture.arena);
}

/* Some layouts of a model. */
static void check_some(const char *name, const struct golden_layout *layouts, size_t num)
{
    struct fixture fixture = {.arena = hlm_arena_new(), .folder = "/tmp/hlm-layouts-XXXXXX"};
    assert_non_null(mkdtemp(fixture.folder));
    fixture.golden = golden_read(fixture.arena, name);
    const struct golden_layout one = {.microbatch_size = fixture.golden->global_batch_size};
    const struct hlm_measurement *reference = run(&fixture, &one, HLM_LAUNCH_THREADS);
    for (size_t i = 0; i < num; i++) {
        check_losses(&fixture, &layouts[i], run(&fixture, &layouts[i], HLM_LAUNCH_MPI), reference,
                     "MPI");
    }
    rmdir(fixture.folder);
    hlm_arena_free(fixture.arena);
}

/* Ranks that share sequences. */
static void context_losses_agree(void **state)
{
    (void)state;
    static const struct golden_layout layouts[] = {
        {.cp = 2, .tp = 2, .sp = true, .zero = 1, .schedule = HLM_SCHEDULE_GPIPE},
        {.cp = 2,
         .dp = 2,
         .pp = 2,
         .schedule = HLM_SCHEDULE_1F1B,
         .recompute = HLM_RECOMPUTE_SELECTIVE}};
    check_some("gpt2", layouts, sizeof(layouts) / sizeof(layouts[0]));
}

/* Shared gradients and parameters. */
static void shared_losses_agree(void **state)
{
    (void)state;
    static const struct golden_layout layouts[] = {{.dp = 2,
                                                    .tp = 2,
                                                    .sp = true,
                                                    .zero = 2,
                                                    .microbatch_size = 1,
                                                    .schedule = HLM_SCHEDULE_GPIPE},
                                                   {.dp = 2,
                                                    .pp = 2,
                                                    .zero = 3,
                                                    .microbatch_size = 1,
                                                    .schedule = HLM_SCHEDULE_1F1B,
                                                    .recompute = HLM_RECOMPUTE_SELECTIVE}};
    check_some("gpt2", layouts, sizeof(layouts) / sizeof(layouts[0]));
}

/* Experts on several ranks. */
static void expert_losses_agree(void **state)
{
    (void)state;
    static const struct golden_layout layouts[] = {{.dp = 2, .ep = 2, .zero = 1},
                                                   {.dp = 2,
                                                    .tp = 2,
                                                    .sp = true,
                                                    .pp = 2,
                                                    .ep = 4,
                                                    .schedule = HLM_SCHEDULE_1F1B,
                                                    .recompute = HLM_RECOMPUTE_FULL}};
    check_some("moe", layouts, sizeof(layouts) / sizeof(layouts[0]));
}

/* Stages with a tp of their own. */
static void uneven_losses_agree(void **state)
{
    (void)state;
    static const struct golden_layout layouts[] = {
        {.tp = 2, .pp = 2, .tp_at = {2, 1}, .schedule = HLM_SCHEDULE_1F1B},
        {.dp = 2,
         .tp = 2,
         .pp = 2,
         .tp_at = {1, 2},
         .sp = true,
         .zero = 3,
         .schedule = HLM_SCHEDULE_ZB_H1}};
    check_some("llama", layouts, sizeof(layouts) / sizeof(layouts[0]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_agree), cmocka_unit_test(context_losses_agree),
        cmocka_unit_test(shared_losses_agree), cmocka_unit_test(expert_losses_agree),
        cmocka_unit_test(uneven_losses_agree)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
