/* validate: published measurements against our predictions. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>

#include "base/fmt.h"
#include "cli/cli.h"
#include "cli/text_table.h"
#include "cli/view.h"
#include "compare/validate.h"

struct validate_options {
    const char *truth, *family, *id;
    bool json;
};

static const char *percent(struct hlm_arena *arena, double frac)
{
    return hlm_arena_printf(arena, "%+.1f %%", 100.0 * frac);
}

static void add_family(struct hlm_text_table *table, struct hlm_arena *arena,
                       const struct hlm_validate_family *family)
{
    const bool any = family->num_predicted > 0, memory = family->num_memory > 0;
    const char *const cells[] = {
        family->family,
        hlm_arena_printf(arena, "%d", family->num_points),
        hlm_arena_printf(arena, "%d", family->num_predicted),
        any ? percent(arena, family->mean_error_frac) : "-",
        any ? hlm_arena_printf(arena, "%.1f %%", 100.0 * family->mean_abs_error_frac) : "-",
        any ? percent(arena, family->worst_error_frac) : "-",
        any ? family->worst_id : "-",
        memory ? hlm_arena_printf(arena, "%d", family->num_memory) : "-",
        memory ? percent(arena, family->mean_memory_error_frac) : "-",
        memory ? hlm_arena_printf(arena, "%.1f %%", 100.0 * family->mean_abs_memory_error_frac)
               : "-",
        family->num_fits > 0
            ? hlm_arena_printf(arena, "%d/%d", family->num_fits_right, family->num_fits)
            : "-"};
    hlm_text_table_add(table, cells);
}

static void print_families(struct hlm_arena *arena, const struct hlm_validation *validation)
{
    static const char *const headers[] = {"family",  ">points", ">times",      ">mean",
                                          ">|mean|", ">worst",  "worst point", ">memory",
                                          ">mean",   ">|mean|", ">fits right", NULL};
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, headers);
    for (int32_t i = 0; i < validation->num_families; i++) {
        add_family(&table, arena, &validation->families[i]);
    }
    add_family(&table, arena, &validation->all);
    hlm_text_table_print(&table, stdout, 2);
    printf("\n\"all\" weighs each family the same: %.2f of %.2f families' weight is predicted.\n",
           validation->weight_predicted, validation->weight_all);
}

static void print_reasons(struct hlm_arena *arena, const struct hlm_validation *validation)
{
    static const char *const headers[] = {"not predicted", ">points", ">families' weight", NULL};
    if (validation->num_reasons == 0) {
        return;
    }
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, headers);
    for (int32_t i = 0; i < validation->num_reasons; i++) {
        const struct hlm_validate_reason *reason = &validation->reasons[i];
        const char *const cells[] = {reason->reason,
                                     hlm_arena_printf(arena, "%d", reason->num_points),
                                     hlm_arena_printf(arena, "%.2f", reason->weight)};
        hlm_text_table_add(&table, cells);
    }
    printf("\n");
    hlm_text_table_print(&table, stdout, 2);
}

static const char *value_text(struct hlm_arena *arena, enum hlm_truth_kind kind, double value)
{
    switch (kind) {
    case HLM_TRUTH_TRAIN_STEP:
        return hlm_arena_strdup(arena, hlm_fmt_seconds(value).text);
    case HLM_TRUTH_LAYER_TIME:
        return hlm_arena_strdup(arena, hlm_fmt_seconds(1e-3 * value).text);
    case HLM_TRUTH_MEMORY:
        return hlm_arena_printf(arena, "%.1f GB", value);
    default:
        return value != 0.0 ? "fits" : "does not fit";
    }
}

/* A row per point, for one family or point. */
static void print_points(struct hlm_arena *arena, const struct hlm_validation *validation)
{
    static const char *const headers[] = {"point",   ">predicted", ">measured", ">error",
                                          ">memory", "reason",     NULL};
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, headers);
    for (int32_t i = 0; i < validation->num_results; i++) {
        const struct hlm_validate_result *result = &validation->results[i];
        const bool predicted = result->reason == NULL;
        const char *const cells[] = {
            result->id,
            predicted ? value_text(arena, result->kind, result->predicted) : "-",
            value_text(arena, result->kind, result->measured),
            predicted ? percent(arena, result->error_frac) : "-",
            predicted && result->memory_measured > 0.0 ? percent(arena, result->memory_error_frac)
                                                       : "-",
            predicted ? "" : result->reason};
        hlm_text_table_add(&table, cells);
    }
    hlm_text_table_print(&table, stdout, 2);
    printf("\n");
    if (validation->num_results == 1 && validation->results[0].parts != NULL) {
        hlm_view_parts(stdout, arena, validation->results[0].parts);
        printf("\n");
    }
}

static enum hlm_status run(struct hlm_arena *arena, const void *pointer, struct hlm_err *err)
{
    const struct validate_options *options = pointer;
    struct hlm_truth truth;
    HLM_TRY(hlm_truth_read(arena, options->truth, &truth, err));
    struct hlm_validation validation;
    HLM_TRY(hlm_validate(arena, &truth, options->family, options->id, &validation, err));
    if (options->json) {
        return hlm_print_json(arena, &hlm_validation_table, &validation, err);
    }
    if (options->family != NULL || options->id != NULL) {
        print_points(arena, &validation);
    }
    print_families(arena, &validation);
    print_reasons(arena, &validation);
    return HLM_OK;
}

static const struct hlm_opt opts[] = {
    {.name = "family",
     .type = HLM_OPT_STRING,
     .offset = offsetof(struct validate_options, family),
     .arg = "F",
     .help = "Only the points of this family, each with its error."},
    {.name = "id",
     .type = HLM_OPT_STRING,
     .offset = offsetof(struct validate_options, id),
     .arg = "ID",
     .help = "Only this point, with the parts of the predicted step."},
    {.name = "json",
     .type = HLM_OPT_FLAG,
     .offset = offsetof(struct validate_options, json),
     .help = "Print all predictions as JSON."},
    {.name = NULL}};
static const struct hlm_positional positionals[] = {{"truth.json",
                                                     offsetof(struct validate_options, truth), true,
                                                     "Published measurements: an array of points."},
                                                    {.name = NULL}};
const struct hlm_command hlm_cmd_validate = {
    .name = "validate",
    .summary = "predict published measurements and print the error table",
    .description =
        "Predicts each point of a file of published measurements and prints, per family, the mean "
        "signed and absolute error of the times and of the peak memory, the worst point, and how "
        "often fits / does not fit was right. What can't be predicted is counted by its reason.",
    .example = "hlmplan validate truth.json --family vtrain-single",
    .opts = opts,
    .positionals = positionals,
    .options_size = sizeof(struct validate_options),
    .run = run};
