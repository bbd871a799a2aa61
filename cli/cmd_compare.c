/* compare: predicted against measured. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>

#include "base/fmt.h"
#include "cli/cli.h"
#include "cli/text_table.h"
#include "cli/view.h"
#include "compare/compare.h"

struct compare_options {
    const char *plan, *measured;
    double tolerance;
    bool json;
};

static const char *error_text(struct hlm_arena *arena, double predicted, double measured)
{
    const double error = hlm_compare_error(predicted, measured);
    return isnan(error) ? "-" : hlm_arena_printf(arena, "%+.1f %%", 100.0 * error);
}

static const char *seconds_text(struct hlm_arena *arena, double seconds)
{
    return hlm_arena_strdup(arena, hlm_fmt_seconds(seconds).text);
}

static void add_part(struct hlm_text_table *table, struct hlm_arena *arena,
                     const struct hlm_compare_part *part, int depth)
{
    const char *const cells[] = {
        hlm_arena_printf(arena, "%*s%s", 2 * depth, "", hlm_view_part_name(arena, part->name)),
        seconds_text(arena, part->predicted_s), seconds_text(arena, part->measured_s),
        error_text(arena, part->predicted_s, part->measured_s)};
    hlm_text_table_add(table, cells);
    for (int32_t i = 0; i < part->num_parts; i++) {
        add_part(table, arena, &part->parts[i], depth + 1);
    }
}

static void print_parts(struct hlm_arena *arena, const struct hlm_comparison *comparison)
{
    static const char *const headers[] = {"part", ">predicted", ">measured", ">error", NULL};
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, headers);
    add_part(&table, arena, &comparison->parts, 0);
    hlm_text_table_print(&table, stdout, 2);
}

static void print_actions(struct hlm_arena *arena, const struct hlm_comparison *comparison)
{
    static const char *const headers[] = {">stage", "action",  ">predicted", ">measured",
                                          ">error", ">events", NULL};
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, headers);
    for (int32_t i = 0; i < comparison->num_actions; i++) {
        const struct hlm_compare_action *action = &comparison->actions[i];
        const char *const cells[] = {hlm_arena_printf(arena, "%d", action->stage),
                                     hlm_action_texts[action->kind],
                                     seconds_text(arena, action->predicted_s),
                                     seconds_text(arena, action->measured_s),
                                     error_text(arena, action->predicted_s, action->measured_s),
                                     hlm_arena_printf(arena, "%d", action->num_measured)};
        hlm_text_table_add(&table, cells);
    }
    printf("\nmean duration of an action\n");
    hlm_text_table_print(&table, stdout, 2);
}

static void print_memory(struct hlm_arena *arena, const struct hlm_comparison *comparison)
{
    static const char *const headers[] = {">stage", ">predicted", ">measured", ">error", NULL};
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, headers);
    for (int32_t i = 0; i < comparison->num_memory; i++) {
        const struct hlm_compare_memory *memory = &comparison->memory[i];
        const double predicted = (double)memory->predicted_bytes;
        const double measured = (double)memory->measured_bytes;
        const char *const cells[] = {hlm_arena_printf(arena, "%d", memory->stage),
                                     hlm_arena_strdup(arena, hlm_fmt_bytes(predicted).text),
                                     hlm_arena_strdup(arena, hlm_fmt_bytes(measured).text),
                                     error_text(arena, predicted, measured)};
        hlm_text_table_add(&table, cells);
    }
    printf("\npeak memory of a rank, without what is fixed\n");
    hlm_text_table_print(&table, stdout, 2);
}

static void print_comparison(struct hlm_arena *arena, const struct hlm_measurement *measurement,
                             const struct hlm_comparison *comparison)
{
    printf("step: predicted %s, measured %s, error %+.1f %% (tolerance %.1f %%)\n",
           hlm_fmt_seconds(comparison->predicted_s).text,
           hlm_fmt_seconds(comparison->measured_s).text, 100.0 * comparison->error_frac,
           100.0 * comparison->tolerance_frac);
    printf("%s ranks, backend %s, transport %s, %s, %d of %d steps clean\n\n",
           hlm_fmt_int(measurement->num_ranks).text, measurement->backend, measurement->transport,
           comparison->virtual_time ? "virtual time" : "wall time", comparison->num_clean_steps,
           measurement->num_steps - measurement->num_warmup_steps);
    print_parts(arena, comparison);
    print_actions(arena, comparison);
    print_memory(arena, comparison);
}

static enum hlm_status run(struct hlm_arena *arena, const void *pointer, struct hlm_err *err)
{
    const struct compare_options *options = pointer;
    const struct hlm_plan *plan = NULL;
    const struct hlm_measurement *measurement = NULL;
    HLM_TRY(hlm_plan_read(arena, options->plan, &plan, err));
    HLM_TRY(hlm_plan_check_digests(arena, plan, options->plan, err));
    HLM_TRY(hlm_measurement_read(arena, options->measured, &measurement, err));
    HLM_TRY(hlm_measurement_check_plan(measurement, options->measured, &plan->digests, err));
    struct hlm_comparison comparison;
    HLM_TRY(hlm_compare(arena, plan, measurement, options->measured, options->tolerance,
                        &comparison, err));
    if (options->json) {
        HLM_TRY(hlm_print_json(arena, &hlm_comparison_table, &comparison, err));
    } else {
        print_comparison(arena, measurement, &comparison);
    }
    if (!comparison.within) {
        return hlm_fail(err, HLM_NO,
                        "the step time's error of %+.1f %% is beyond the tolerance of %.1f %%",
                        100.0 * comparison.error_frac, 100.0 * comparison.tolerance_frac);
    }
    return HLM_OK;
}

static const struct hlm_opt opts[] = {
    {.name = "tolerance",
     .type = HLM_OPT_DOUBLE,
     .offset = offsetof(struct compare_options, tolerance),
     .def = "0.2",
     .arg = "F",
     .help = "Largest error of the step time, as a fraction, that is still a yes.",
     .min = 0,
     .max = 1e6},
    {.name = "json",
     .type = HLM_OPT_FLAG,
     .offset = offsetof(struct compare_options, json),
     .help = "Print the comparison as JSON."},
    {.name = NULL}};
static const struct hlm_positional positionals[] = {
    {"plan.json", offsetof(struct compare_options, plan), true, "The plan that ran."},
    {"measured.json", offsetof(struct compare_options, measured), true, "What the run wrote."},
    {.name = NULL}};
const struct hlm_command hlm_cmd_compare = {
    .name = "compare",
    .summary = "compare what was predicted with what was measured",
    .description =
        "Joins a plan's prediction with a run's measurement: the step by named parts, the mean "
        "duration of each kind of action of each stage, and the peak memory. Exits with 1 when the "
        "step time's error is beyond the tolerance.",
    .example = "hlmplan compare plan.json measured.json --tolerance 0.1",
    .opts = opts,
    .positionals = positionals,
    .options_size = sizeof(struct compare_options),
    .run = run};
