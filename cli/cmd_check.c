/* check: verifies a plan and its certificate. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/fmt.h"
#include "cli/cli.h"
#include "planner/verify.h"
#include "planner/verify_offer.h"

enum { MAX_FILE_BYTES = 1 << 30 };

struct check_options {
    const char *plan;
    bool json;
};

static void print_report(const struct check_options *options, const struct hlm_plan *plan,
                         const struct hlm_verify_report *report)
{
    printf("%s: the plan and its certificate hold\n", options->plan);
    printf("  no legal plan%s is faster than %s: of %s legal strategies %s fit nowhere, %s have no "
           "placement below it, %s have some that are no faster when simulated\n",
           plan->certificate->all_groups ? " on all groups" : "",
           hlm_fmt_seconds(report->least_bound_s).text, hlm_fmt_int(report->num_columns).text,
           hlm_fmt_int(report->num_infeasible).text, hlm_fmt_int(report->num_bounded).text,
           hlm_fmt_int(report->num_winner).text);
    if (report->num_unchecked > 0) {
        printf(
            "  not checked: %s strategies whose replicas have shares of their own, in which each "
            "device group by itself could keep to it\n",
            hlm_fmt_int(report->num_unchecked).text);
    }
    printf("  step time %s by a simulation of its own, %s in the plan\n",
           hlm_fmt_seconds(report->step_time_s).text,
           hlm_fmt_seconds(plan->prediction.step_time_s).text);
}

static void print_offer(const struct hlm_plan_offer *offer)
{
    printf("  no plan on any of %s subclusters of %s is cheaper than %.4g per million tokens; "
           "the step times of the best plans on other subclusters were not checked\n",
           hlm_fmt_int(offer->num_subclusters).text, offer->cluster.name,
           1e6 * offer->least_cost_per_token);
}

static void json_offer(struct hlm_json_writer *writer, const struct hlm_plan_offer *offer)
{
    hlm_json_key(writer, "num_subclusters");
    hlm_json_int64(writer, offer->num_subclusters);
    hlm_json_key(writer, "least_cost_per_token");
    hlm_json_double(writer, offer->least_cost_per_token);
}

static enum hlm_status print_json(struct hlm_arena *arena, const struct hlm_plan *plan,
                                  const struct hlm_verify_report *report, struct hlm_err *err)
{
    struct hlm_json_writer writer;
    hlm_json_writer_init(&writer, arena, false);
    hlm_json_begin_object(&writer);
    hlm_json_key(&writer, "verified");
    hlm_json_bool(&writer, true);
    const struct {
        const char *name;
        int64_t count;
    } counts[] = {{"num_columns", report->num_columns},
                  {"num_infeasible", report->num_infeasible},
                  {"num_bounded", report->num_bounded},
                  {"num_winner", report->num_winner},
                  {"num_unchecked", report->num_unchecked}};
    const size_t num_counts =
        sizeof(counts) / sizeof(counts[0]) - (report->num_unchecked > 0 ? 0 : 1);
    for (size_t i = 0; i < num_counts; i++) {
        hlm_json_key(&writer, counts[i].name);
        hlm_json_int64(&writer, counts[i].count);
    }
    hlm_json_key(&writer, "least_bound_s");
    hlm_json_double(&writer, report->least_bound_s);
    hlm_json_key(&writer, "step_time_s");
    hlm_json_double(&writer, report->step_time_s);
    if (plan->certificate->offer != NULL) {
        json_offer(&writer, plan->certificate->offer);
    }
    hlm_json_end_object(&writer);
    return hlm_print_text(hlm_arena_printf(arena, "%s\n", writer.text.text), err);
}

static enum hlm_status check_plan(struct hlm_arena *arena, const struct check_options *options,
                                  const char *text, size_t length, struct hlm_err *err)
{
    const struct hlm_plan *plan = NULL;
    HLM_TRY(hlm_plan_read_text(arena, options->plan, text, length, &plan, err));
    HLM_TRY(hlm_plan_check_digests(arena, plan, options->plan, err));
    struct hlm_verify_report report;
    if (hlm_verify(arena, plan, &report, err) != HLM_OK) {
        hlm_err_prefix(err, "%s", options->plan);
        return err->status;
    }
    if (options->json) {
        return print_json(arena, plan, &report, err);
    }
    print_report(options, plan, &report);
    if (plan->certificate->offer != NULL) {
        print_offer(plan->certificate->offer);
    }
    return HLM_OK;
}

static enum hlm_status check_front(struct hlm_arena *arena, const struct check_options *options,
                                   const char *text, size_t length, struct hlm_err *err)
{
    const struct hlm_front *front = NULL;
    HLM_TRY(hlm_front_read_text(arena, options->plan, text, length, &front, err));
    if (hlm_verify_front(arena, front, err) != HLM_OK) {
        hlm_err_prefix(err, "%s", options->plan);
        return err->status;
    }
    if (!options->json) {
        printf("%s: the %d points and their certificate hold\n  no plan is faster than %s\n",
               options->plan, front->num_points, hlm_fmt_seconds(front->least_step_s).text);
        print_offer(&front->offer);
        return HLM_OK;
    }
    struct hlm_json_writer writer;
    hlm_json_writer_init(&writer, arena, false);
    hlm_json_begin_object(&writer);
    hlm_json_key(&writer, "verified");
    hlm_json_bool(&writer, true);
    hlm_json_key(&writer, "num_points");
    hlm_json_int64(&writer, front->num_points);
    hlm_json_key(&writer, "least_step_s");
    hlm_json_double(&writer, front->least_step_s);
    json_offer(&writer, &front->offer);
    hlm_json_end_object(&writer);
    return hlm_print_text(hlm_arena_printf(arena, "%s\n", writer.text.text), err);
}

static enum hlm_status run(struct hlm_arena *arena, const void *pointer, struct hlm_err *err)
{
    struct check_options options = *(const struct check_options *)pointer;
    const char *text = NULL, *kind = NULL;
    size_t length = 0;
    HLM_TRY(hlm_file_read(arena, options.plan, MAX_FILE_BYTES, &text, &length, err));
    options.plan = strcmp(options.plan, "-") == 0 ? "stdin" : options.plan;
    HLM_TRY(hlm_json_peek_kind(arena, options.plan, text, length, &kind, err));
    return kind != NULL && strcmp(kind, hlm_front_table.kind) == 0
               ? check_front(arena, &options, text, length, err)
               : check_plan(arena, &options, text, length, err);
}

static const struct hlm_opt opts[] = {{.name = "json",
                                       .type = HLM_OPT_FLAG,
                                       .offset = offsetof(struct check_options, json),
                                       .help = "Print the report as JSON."},
                                      {.name = NULL}};
static const struct hlm_positional positionals[] = {
    {"plan.json", offsetof(struct check_options, plan), true,
     "The plan, or the points of --objective pareto."},
    {.name = NULL}};
const struct hlm_command hlm_cmd_check = {
    .name = "check",
    .summary = "verify a plan and its certificate",
    .description =
        "Verifies a plan: lists all legal strategies again, bounds each (those of gpipe and 1f1b "
        "by an exact method that shares nothing with the search, those of other schedules by its "
        "bounds, with whatever these leave simulated), and compares times, memory and counts; "
        "what is said of prices is checked for every subcluster. Exits with 1 and names the first "
        "claim that does not hold.",
    .example = "hlmplan check plan.json",
    .opts = opts,
    .positionals = positionals,
    .options_size = sizeof(struct check_options),
    .run = run};
