/* calibrate: corrects a profile by what a run measured. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/fmt.h"
#include "cli/cli.h"
#include "compare/calibrate.h"

struct calibrate_options {
    const char *plan, *measured, *output;
};

static enum hlm_status write_profile(struct hlm_arena *arena, const char *folder,
                                     const struct hlm_cluster *cluster, struct hlm_err *err)
{
    const char *text = hlm_json_write(arena, &hlm_cluster_table, cluster, false);
    HLM_TRY(hlm_file_make_folder(folder, err));
    HLM_TRY(hlm_file_write(hlm_arena_printf(arena, "%s/cluster.json", folder), text, strlen(text),
                           err));
    text = hlm_json_write(arena, &hlm_device_table, &cluster->groups[0].device, false);
    return hlm_file_write(hlm_arena_printf(arena, "%s/device.json", folder), text, strlen(text),
                          err);
}

static void print_row(const char *what, double factor)
{
    printf("  %-10s times %.3f%s\n", what, factor, factor == 1.0 ? "  (left as it was)" : "");
}

static double error_percent(double predicted_s, double measured_s)
{
    return 100.0 * (predicted_s - measured_s) / measured_s;
}

static enum hlm_status run(struct hlm_arena *arena, const void *pointer, struct hlm_err *err)
{
    const struct calibrate_options *options = pointer;
    const struct hlm_plan *plan = NULL;
    const struct hlm_measurement *measurement = NULL;
    struct hlm_calibration calibration;
    HLM_TRY(hlm_plan_read(arena, options->plan, &plan, err));
    HLM_TRY(hlm_measurement_read(arena, options->measured, &measurement, err));
    HLM_TRY(hlm_measurement_check_plan(measurement, options->measured, &plan->digests, err));
    const char *date = hlm_arena_strndup(arena, hlm_cli_date(arena), strlen("YYYY-MM-DD"));
    HLM_TRY(hlm_calibrate(arena, plan, measurement, options->measured, date, &calibration, err));
    HLM_TRY(write_profile(arena, options->output, calibration.cluster, err));
    printf("%s: seconds of the profile scaled by\n", options->output);
    print_row("compute", calibration.compute);
    print_row("optimizer", calibration.optimizer);
    print_row("links", calibration.links);
    if (calibration.links_emulated) {
        printf("rank %d ran alone: it measured kernels; communication was as predicted, so links "
               "stay\n",
               measurement->emulated_rank);
    }
    printf("the measured %s of %s was predicted as %s (%+.1f %%), and now as %s (%+.1f %%)\n",
           calibration.links_emulated ? "computing of its step" : "step",
           hlm_fmt_seconds(calibration.measured_s).text, hlm_fmt_seconds(calibration.before_s).text,
           error_percent(calibration.before_s, calibration.measured_s),
           hlm_fmt_seconds(calibration.after_s).text,
           error_percent(calibration.after_s, calibration.measured_s));
    return HLM_OK;
}

static const struct hlm_opt opts[] = {
    {.name = "output",
     .letter = 'o',
     .type = HLM_OPT_STRING,
     .offset = offsetof(struct calibrate_options, output),
     .arg = "DIR",
     .help = "Write the corrected device.json and cluster.json to DIR.",
     .required = true},
    {.name = NULL}};
static const struct hlm_positional positionals[] = {
    {"plan.json", offsetof(struct calibrate_options, plan), true, "The plan that ran."},
    {"measured.json", offsetof(struct calibrate_options, measured), true,
     "What run measured of it."},
    {.name = NULL}};
const struct hlm_command hlm_cmd_calibrate = {
    .name = "calibrate",
    .summary = "correct a profile by what a run measured",
    .description =
        "Scales the times of the profile that a plan was made with, so that they agree with a run: "
        "one factor for computing, one for the optimizer, one for links where the run measured "
        "them (the run of one emulated rank does not). The folder that it writes is what plan "
        "takes as --cluster.",
    .example = "hlmplan calibrate plan.json measured.json -o here",
    .opts = opts,
    .positionals = positionals,
    .options_size = sizeof(struct calibrate_options),
    .run = run};
