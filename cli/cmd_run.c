/* run: executes a plan and measures it. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/fmt.h"
#include "cli/cli.h"
#include "cli/ranks.h"
#include "cli/view.h"
#include "costmodel/lowering.h"
#include "planner/measurement.h"

struct run_options {
    const char *plan, *hosts, *data, *output, *trace;
    int backend, transport;
    int64_t steps, warmup, seed, emulate_rank;
    bool virtual_time, json;
    double timeout_s;
};

/* --- before the ranks start --- */

static enum hlm_status load_plan(struct hlm_arena *arena, const struct run_options *options,
                                 const struct hlm_plan **out, struct hlm_err *err)
{
    HLM_TRY(hlm_plan_read(arena, options->plan, out, err));
    HLM_TRY(hlm_plan_check_digests(arena, *out, options->plan, err));
    const char *refusal = hlm_lowering_refusal(&(*out)->model, &(*out)->strategy);
    if (refusal != NULL) {
        return hlm_fail(err, HLM_NO, "%s: the executor can't run %s", options->plan, refusal);
    }
    return HLM_OK;
}

/* Hours of training shall not end with a folder that was never there. NULL: nothing to write. */
static enum hlm_status check_target(struct hlm_arena *arena, const char *path, struct hlm_err *err)
{
    const char *slash = path != NULL ? strrchr(path, '/') : NULL;
    const char *folder =
        slash != NULL ? hlm_arena_strndup(arena, path, (size_t)(slash - path) + 1) : ".";
    return path != NULL && access(path, W_OK) != 0 && access(folder, W_OK) != 0
               ? hlm_fail(err, HLM_INPUT, "cannot write %s: %s", path, strerror(errno))
               : HLM_OK;
}

static enum hlm_status check_options(struct hlm_arena *arena, const struct run_options *options,
                                     struct hlm_err *err)
{
    if (options->output != NULL && strcmp(options->output, "-") == 0) {
        return hlm_fail(err, HLM_USAGE, "--output - is no file; --json prints the measurement");
    }
    if (options->warmup >= options->steps) {
        return hlm_fail(err, HLM_USAGE, "--warmup %lld leaves none of --steps %lld to measure",
                        (long long)options->warmup, (long long)options->steps);
    }
    if (options->emulate_rank >= 0) {
        return hlm_fail(err, HLM_ENV, "--emulate-rank is not in this version");
    }
    if (options->data != NULL && access(options->data, R_OK) != 0) {
        return hlm_fail(err, HLM_INPUT, "%s: cannot be read", options->data);
    }
    HLM_TRY(check_target(arena, options->output, err));
    return check_target(arena, options->trace, err);
}

/* --- the ranks --- */

/* Where the measurement goes when the user wants no file: a temporary one, removed afterwards. */
static enum hlm_status temporary_file(struct hlm_arena *arena, const char **out,
                                      struct hlm_err *err)
{
    const char *folder = getenv("TMPDIR");
    char *path = hlm_arena_printf(arena, "%s/hlmplan-XXXXXX", folder != NULL ? folder : "/tmp");
    const int file = mkstemp(path);
    if (file < 0) {
        return hlm_fail(err, HLM_ENV, "cannot make a temporary file %s: %s", path, strerror(errno));
    }
    close(file);
    *out = path;
    return HLM_OK;
}

static const char *absolute_path(struct hlm_arena *arena, const char *path)
{
    char folder[4096];
    if (path == NULL || path[0] == '/' || getcwd(folder, sizeof(folder)) == NULL) {
        return path;
    }
    return hlm_arena_printf(arena, "%s/%s", folder, path);
}

static enum hlm_status run_ranks(struct hlm_arena *arena, const struct run_options *options,
                                 enum hlm_backend_choice backend, enum hlm_transport transport,
                                 const struct hlm_plan *plan, const char *output,
                                 struct hlm_err *err)
{
    const char *args[24] = {NULL};
    int n = 0;
    args[n++] = "--backend";
    args[n++] = hlm_run_backend_texts[backend];
    args[n++] = "--plan";
    args[n++] = absolute_path(arena, options->plan);
    args[n++] = "--output";
    args[n++] = absolute_path(arena, output);
    args[n++] = "--steps";
    args[n++] = hlm_arena_printf(arena, "%lld", (long long)options->steps);
    args[n++] = "--warmup";
    args[n++] = hlm_arena_printf(arena, "%lld", (long long)options->warmup);
    args[n++] = "--seed";
    args[n++] = hlm_arena_printf(arena, "%lld", (long long)options->seed);
    args[n++] = "--timeout";
    args[n++] = hlm_arena_printf(arena, "%.17g", options->timeout_s);
    if (options->data != NULL) {
        args[n++] = "--data";
        args[n++] = absolute_path(arena, options->data);
    }
    if (options->virtual_time) {
        args[n++] = "--virtual-time";
    }
    const struct hlm_ranks_job job = {.transport = transport,
                                      .num_ranks = plan->num_ranks,
                                      .hosts = options->hosts,
                                      .args = args,
                                      .timeout_s = options->timeout_s};
    return hlm_ranks_run(arena, &job, err);
}

/* --- the answer --- */

static void print_summary(struct hlm_arena *arena, const struct hlm_plan *plan,
                          const struct hlm_measurement *measured)
{
    const struct hlm_measured_step *last = &measured->steps[measured->num_steps - 1];
    const double tokens = (double)(plan->strategy.global_batch_size * plan->strategy.seq_len);
    printf("%s: %s\n", plan->model.name, hlm_view_strategy(arena, &plan->strategy));
    printf("step time  %s measured%s, %s predicted\n", hlm_fmt_seconds(measured->step_time_s).text,
           measured->virtual_time ? " in virtual time" : "",
           hlm_fmt_seconds(plan->prediction.step_time_s).text);
    printf("speed      %s tokens/s\n", hlm_fmt_count(tokens / measured->step_time_s).text);
    printf("loss       %.6f at the first step, %.6f at step %d\n", measured->steps[0].loss,
           last->loss, measured->num_steps);
    printf("steps      %d, of which %d warm-up and %d clean\n", measured->num_steps,
           measured->num_warmup_steps, measured->num_clean_steps);
    hlm_view_parts(stdout, arena, &measured->parts);
    if (measured->num_clean_steps == 0) {
        printf("\nNo step was clean: other programs took the ranks' cores. --virtual-time measures "
               "on a "
               "busy machine.\n");
    }
}

static enum hlm_status write_trace(struct hlm_arena *arena, const char *path,
                                   const struct hlm_measurement *measured, struct hlm_err *err)
{
    const struct hlm_timeline *timelines[] = {&measured->timeline};
    const char *text = hlm_chrome_trace(arena, timelines, 1);
    return hlm_file_write(path, text, strlen(text), err);
}

static enum hlm_status answer(struct hlm_arena *arena, const struct run_options *options,
                              const struct hlm_plan *plan, const char *output, struct hlm_err *err)
{
    const struct hlm_measurement *measured = NULL;
    HLM_TRY(hlm_measurement_read(arena, output, &measured, err));
    if (options->trace != NULL) {
        HLM_TRY(write_trace(arena, options->trace, measured, err));
    }
    if (options->json) {
        return hlm_print_json(arena, &hlm_measurement_table, measured, err);
    }
    print_summary(arena, plan, measured);
    return HLM_OK;
}

static enum hlm_status run(struct hlm_arena *arena, const void *pointer, struct hlm_err *err)
{
    const struct run_options *options = pointer;
    const struct hlm_plan *plan = NULL;
    enum hlm_backend_choice backend = (enum hlm_backend_choice)options->backend;
    enum hlm_transport transport = (enum hlm_transport)options->transport;
    HLM_TRY(check_options(arena, options, err));
    HLM_TRY(load_plan(arena, options, &plan, err));
    HLM_TRY(hlm_ranks_choose(&backend, &transport, options->hosts, false, err));
    const char *output = options->output;
    if (output == NULL) {
        HLM_TRY(temporary_file(arena, &output, err));
    }
    int32_t rank = 0;
    const bool speaks = !hlm_ranks_inside(&rank) || rank == 0;
    enum hlm_status status = run_ranks(arena, options, backend, transport, plan, output, err);
    if (status == HLM_OK && speaks) {
        status = answer(arena, options, plan, output, err);
    }
    if (options->output == NULL) {
        unlink(output);
    }
    return status;
}

#define AT(member) .offset = offsetof(struct run_options, member)
static const struct hlm_opt opts[] = {
    {.name = "backend",
     .type = HLM_OPT_ENUM,
     AT(backend),
     .def = "auto",
     .arg = "BACKEND",
     .enums = hlm_run_backend_texts,
     .help = "Where operators run; auto: the best that is there."},
    {.name = "transport",
     .type = HLM_OPT_ENUM,
     AT(transport),
     .def = "auto",
     .arg = "TRANSPORT",
     .enums = hlm_transport_texts,
     .help = "How ranks talk; auto: threads of one process, or mpi with --hosts."},
    {.name = "hosts",
     .type = HLM_OPT_STRING,
     AT(hosts),
     .arg = "H:SLOTS,...",
     .help = "Machines to run on, reached as mpirun reaches them."},
    {.name = "data",
     .type = HLM_OPT_STRING,
     AT(data),
     .arg = "FILE",
     .help = "Text to train on, read as bytes; without it, synthetic tokens."},
    {.name = "steps",
     .type = HLM_OPT_INT64,
     AT(steps),
     .def = "10",
     .arg = "N",
     .min = 1,
     .max = 1e6,
     .help = "Training steps, warm-up included."},
    {.name = "warmup",
     .type = HLM_OPT_INT64,
     AT(warmup),
     .def = "2",
     .arg = "N",
     .min = 0,
     .max = 1e6,
     .help = "First steps that do not count."},
    {.name = "seed",
     .type = HLM_OPT_INT64,
     AT(seed),
     .def = "1234",
     .arg = "N",
     .min = 0,
     .max = 9e15,
     .help = "Of first parameters and data; equal seeds give equal losses."},
    {.name = "virtual-time",
     .type = HLM_OPT_FLAG,
     AT(virtual_time),
     .help = "Measure CPU time of actions and walk the schedule with it, as if every rank had a "
             "core; communication is then modelled, not measured."},
    {.name = "emulate-rank",
     .type = HLM_OPT_INT64,
     AT(emulate_rank),
     .def = "-1",
     .arg = "R",
     .min = -1,
     .max = 1e8,
     .help = "Execute on one GPU what this rank of the plan would."},
    {.name = "timeout",
     .type = HLM_OPT_DOUBLE,
     AT(timeout_s),
     .def = "60",
     .arg = "SECONDS",
     .min = 0.1,
     .max = 1e6,
     .help = "Longest time that a rank may stand still."},
    {.name = "output",
     .letter = 'o',
     .type = HLM_OPT_STRING,
     AT(output),
     .arg = "FILE",
     .help = "Write the measurement to FILE."},
    {.name = "trace",
     .type = HLM_OPT_STRING,
     AT(trace),
     .arg = "FILE",
     .help = "Write the measured timeline as a Chrome trace."},
    {.name = "json", .type = HLM_OPT_FLAG, AT(json), .help = "Print the measurement as JSON."},
    {.name = NULL}};
static const struct hlm_positional positionals[] = {
    {"plan.json", offsetof(struct run_options, plan), true, "The plan to execute."},
    {.name = NULL}};
const struct hlm_command hlm_cmd_run = {
    .name = "run",
    .summary = "execute a plan and measure it",
    .description =
        "Executes a plan: starts its ranks, trains for some steps, and measures every action. A "
        "plan that was edited by hand is refused (estimate prices it again), and so is one with a "
        "feature that the executor lacks, by its name. When a rank fails, stops or hangs, all "
        "ranks end and one error says which rank and what it was doing.",
    .example = "hlmplan run plan.json --data book.txt --steps 20 -o measured.json",
    .opts = opts,
    .positionals = positionals,
    .options_size = sizeof(struct run_options),
    .run = run};
