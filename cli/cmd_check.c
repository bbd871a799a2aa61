/* check: verifies a plan and its certificate. */
#include <stddef.h>
#include <stdio.h>

#include "base/fmt.h"
#include "cli/cli.h"
#include "planner/plan.h"
#include "planner/verify.h"

struct check_options {
    const char *plan;
    bool json;
};

static void print_report(const struct check_options *options, const struct hlm_plan *plan,
                         const struct hlm_verify_report *report)
{
    printf("%s: the plan and its certificate hold\n", options->plan);
    printf("  no legal plan is faster than %s: of %s legal strategies %s fit nowhere, %s have no "
           "placement below it, %s have some that are no faster when simulated\n",
           hlm_fmt_seconds(report->least_bound_s).text, hlm_fmt_int(report->num_columns).text,
           hlm_fmt_int(report->num_infeasible).text, hlm_fmt_int(report->num_bounded).text,
           hlm_fmt_int(report->num_winner).text);
    printf("  step time %s by a simulation of its own, %s in the plan\n",
           hlm_fmt_seconds(report->step_time_s).text,
           hlm_fmt_seconds(plan->prediction.step_time_s).text);
}

static enum hlm_status print_json(struct hlm_arena *arena, const struct hlm_verify_report *report,
                                  struct hlm_err *err)
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
                  {"num_winner", report->num_winner}};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        hlm_json_key(&writer, counts[i].name);
        hlm_json_int64(&writer, counts[i].count);
    }
    hlm_json_key(&writer, "least_bound_s");
    hlm_json_double(&writer, report->least_bound_s);
    hlm_json_key(&writer, "step_time_s");
    hlm_json_double(&writer, report->step_time_s);
    hlm_json_end_object(&writer);
    return hlm_print_text(hlm_arena_printf(arena, "%s\n", writer.text.text), err);
}

static enum hlm_status run(struct hlm_arena *arena, const void *pointer, struct hlm_err *err)
{
    const struct check_options *options = pointer;
    const struct hlm_plan *plan = NULL;
    HLM_TRY(hlm_plan_read(arena, options->plan, &plan, err));
    HLM_TRY(hlm_plan_check_digests(arena, plan, options->plan, err));
    struct hlm_verify_report report;
    if (hlm_verify(arena, plan, &report, err) != HLM_OK) {
        hlm_err_prefix(err, "%s", options->plan);
        return err->status;
    }
    if (options->json) {
        return print_json(arena, &report, err);
    }
    print_report(options, plan, &report);
    return HLM_OK;
}

static const struct hlm_opt opts[] = {{.name = "json",
                                       .type = HLM_OPT_FLAG,
                                       .offset = offsetof(struct check_options, json),
                                       .help = "Print the report as JSON."},
                                      {.name = NULL}};
static const struct hlm_positional positionals[] = {
    {"plan.json", offsetof(struct check_options, plan), true, "The plan."}, {.name = NULL}};
const struct hlm_command hlm_cmd_check = {
    .name = "check",
    .summary = "verify a plan and its certificate",
    .description =
        "Verifies a plan with code that shares nothing with the search: lists all legal strategies "
        "again, bounds each by an exact method of its own, simulates the winner, and compares "
        "times, memory and counts. Exits with 1 and names the first claim that does not hold.",
    .example = "hlmplan check plan.json",
    .opts = opts,
    .positionals = positionals,
    .options_size = sizeof(struct check_options),
    .run = run};
