/* compare: predicted against measured. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

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

/* Parts of an emulated rank's step that took place as the plan says. */
static bool was_emulated(const struct hlm_comparison *comparison,
                         const struct hlm_compare_part *part)
{
    static const char *const measured[] = {"step", "forward", "backward", "optimizer"};
    bool found = comparison->emulated_rank < 0;
    for (size_t i = 0; i < sizeof(measured) / sizeof(measured[0]); i++) {
        found = found || strcmp(part->name, measured[i]) == 0;
    }
    return !found;
}

static void add_part(struct hlm_text_table *table, struct hlm_arena *arena,
                     const struct hlm_comparison *comparison, const struct hlm_compare_part *part,
                     int depth)
{
    const char *const cells[] = {
        hlm_arena_printf(arena, "%*s%s", 2 * depth, "", hlm_view_part_name(arena, part->name)),
        seconds_text(arena, part->predicted_s), seconds_text(arena, part->measured_s),
        was_emulated(comparison, part) ? "emulated"
                                       : error_text(arena, part->predicted_s, part->measured_s)};
    hlm_text_table_add(table, cells);
    for (int32_t i = 0; i < part->num_parts; i++) {
        add_part(table, arena, comparison, &part->parts[i], depth + 1);
    }
}

static void print_parts(struct hlm_arena *arena, const struct hlm_comparison *comparison)
{
    static const char *const headers[] = {"part", ">predicted", ">measured", ">error", NULL};
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, headers);
    add_part(&table, arena, comparison, &comparison->parts, 0);
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
    printf("\nmean %s of an action\n",
           comparison->emulated_rank < 0 ? "duration" : "computing, without communication,");
    hlm_text_table_print(&table, stdout, 2);
}

static void add_memory(struct hlm_text_table *table, struct hlm_arena *arena, int32_t stage,
                       int64_t predicted_bytes, int64_t measured_bytes)
{
    const double predicted = (double)predicted_bytes, measured = (double)measured_bytes;
    const char *const cells[] = {hlm_arena_printf(arena, "%d", stage),
                                 hlm_arena_strdup(arena, hlm_fmt_bytes(predicted).text),
                                 hlm_arena_strdup(arena, hlm_fmt_bytes(measured).text),
                                 error_text(arena, predicted, measured)};
    hlm_text_table_add(table, cells);
}

static void print_memory(struct hlm_arena *arena, const struct hlm_comparison *comparison)
{
    static const char *const headers[] = {">stage", ">predicted", ">measured", ">error", NULL};
    struct hlm_text_table held, device;
    hlm_text_table_init(&held, arena, headers);
    hlm_text_table_init(&device, arena, headers);
    bool known = false;
    for (int32_t i = 0; i < comparison->num_memory; i++) {
        const struct hlm_compare_memory *memory = &comparison->memory[i];
        add_memory(&held, arena, memory->stage, memory->predicted_bytes, memory->measured_bytes);
        if (memory->device_used_bytes > 0) {
            known = true;
            add_memory(&device, arena, memory->stage, memory->device_predicted_bytes,
                       memory->device_used_bytes);
        }
    }
    printf("\npeak memory of a rank, without what is fixed\n");
    hlm_text_table_print(&held, stdout, 2);
    if (known) {
        printf("\nin use on a device, by all that runs there\n");
        hlm_text_table_print(&device, stdout, 2);
    }
}

/* What to think of the numbers of a rank that ran alone. */
static void print_alone(struct hlm_arena *arena, const struct hlm_comparison *comparison)
{
    printf("compute: predicted %s, measured %s, error %s\n",
           hlm_fmt_seconds(comparison->compute_predicted_s).text,
           hlm_fmt_seconds(comparison->compute_measured_s).text,
           error_text(arena, comparison->compute_predicted_s, comparison->compute_measured_s));
    printf("rank %d ran alone: computing (forward, backward, optimizer) and memory are measured; "
           "its peers and all communication were as predicted, not measured\n",
           comparison->emulated_rank);
}

static void print_comparison(struct hlm_arena *arena, const struct hlm_measurement *measurement,
                             const struct hlm_comparison *comparison)
{
    printf("%s: predicted %s, measured %s, error %+.1f %% (tolerance %.1f %%)\n",
           comparison->emulated_rank < 0 ? "step" : "step of the rank",
           hlm_fmt_seconds(comparison->predicted_s).text,
           hlm_fmt_seconds(comparison->measured_s).text, 100.0 * comparison->error_frac,
           100.0 * comparison->tolerance_frac);
    if (comparison->emulated_rank >= 0) {
        print_alone(arena, comparison);
    }
    printf("%s%s ranks, backend %s, transport %s, %s, %d of %d steps clean\n\n",
           comparison->emulated_rank < 0 ? "" : "1 of ", hlm_fmt_int(measurement->num_ranks).text,
           measurement->backend, measurement->transport,
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
    const bool step_within = fabs(comparison.error_frac) <= comparison.tolerance_frac;
    if (!comparison.within) {
        return hlm_fail(err, HLM_NO, "the %s error of %+.1f %% is beyond the tolerance of %.1f %%",
                        step_within ? "computing's" : "step time's",
                        100.0 * (step_within ? hlm_compare_error(comparison.compute_predicted_s,
                                                                 comparison.compute_measured_s)
                                             : comparison.error_frac),
                        100.0 * comparison.tolerance_frac);
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
        "duration of each kind of action of each stage, and the peak memory; of an emulated rank "
        "what it computed and held, with the rest of its step as predicted. Exits with 1 when the "
        "step time's error (of an emulated rank, or that of its computing) is beyond the "
        "tolerance.",
    .example = "hlmplan compare plan.json measured.json --tolerance 0.1",
    .opts = opts,
    .positionals = positionals,
    .options_size = sizeof(struct compare_options),
    .run = run};
