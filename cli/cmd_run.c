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
#include "exec/comm/comm_emulate.h"
#include "exec/launch/launch.h"
#include "planner/measurement.h"

static const char *const emulate_delay_texts[] = {
#define X(name, text) text,
    HLM_EMULATE_DELAY_MAP(X)
#undef X
        NULL};

static const char *const graphs_texts[] = {"auto", "off", NULL};
static const char *const messages_texts[] = {"predicted", "measured", NULL};

struct run_options {
    const char *plan, *hosts, *data, *products, *output, *trace;
    int backend, transport, emulate_delay, routing, graphs, messages;
    int64_t steps, warmup, seed, emulate_rank;
    bool virtual_time, json;
    double timeout_s;
};

/* --- before the ranks start --- */

static bool has_one_tp(const struct hlm_plan *plan)
{
    for (int32_t i = 1; i < plan->num_stages; i++) {
        if (plan->stages[i].tp != plan->stages[0].tp) {
            return false;
        }
    }
    return true;
}

static enum hlm_status load_plan(struct hlm_arena *arena, const struct run_options *options,
                                 const struct hlm_plan **out, struct hlm_err *err)
{
    HLM_TRY(hlm_plan_read(arena, options->plan, out, err));
    HLM_TRY(hlm_plan_check_digests(arena, *out, options->plan, err));
    const char *refusal = hlm_lowering_refusal(&(*out)->model, &(*out)->strategy);
    if (refusal != NULL) {
        return hlm_fail(err, HLM_NO, "%s: the executor can't run %s", options->plan, refusal);
    }
    if (options->messages != 0 && !has_one_tp(*out)) {
        return hlm_fail(err, HLM_NO,
                        "%s: --messages measured: the stages differ in tp, and a message between "
                        "such stages is several",
                        options->plan);
    }
    if (options->emulate_rank >= (*out)->num_ranks) {
        return hlm_fail(err, HLM_USAGE, "--emulate-rank %lld: the plan has ranks 0 to %d",
                        (long long)options->emulate_rank, (*out)->num_ranks - 1);
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
    if (options->emulate_rank >= 0 && options->hosts != NULL) {
        return hlm_fail(err, HLM_USAGE,
                        "--emulate-rank runs one rank on this machine; --hosts has no part in it");
    }
    if (options->emulate_rank >= 0 && options->transport != HLM_TRANSPORT_AUTO) {
        return hlm_fail(err, HLM_USAGE,
                        "--emulate-rank talks to nobody; --transport has no part in it");
    }
    if (options->messages != 0 && (!options->virtual_time || options->emulate_rank >= 0)) {
        return hlm_fail(err, HLM_USAGE,
                        "--messages measured is for --virtual-time of all ranks: by the wall clock "
                        "messages are measured anyway, and an emulated rank has none");
    }
    if (options->data != NULL && access(options->data, R_OK) != 0) {
        return hlm_fail(err, HLM_INPUT, "%s: cannot be read", options->data);
    }
    if (options->products != NULL && access(options->products, R_OK) != 0) {
        return hlm_fail(err, HLM_INPUT, "%s: cannot be read", options->products);
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
                                 const struct hlm_ranks_choice *choice, const char *output,
                                 struct hlm_err *err)
{
    const char *args[32] = {NULL};
    int n = 0;
    args[n++] = "--backend";
    args[n++] = hlm_run_backend_texts[choice->backend];
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
    if (options->products != NULL) {
        args[n++] = "--products";
        args[n++] = absolute_path(arena, options->products);
    }
    args[n++] = "--graphs";
    args[n++] = graphs_texts[options->graphs];
    if (options->virtual_time) {
        args[n++] = "--virtual-time";
    }
    args[n++] = "--messages";
    args[n++] = messages_texts[options->messages];
    args[n++] = "--routing";
    args[n++] = hlm_routing_texts[HLM_ROUTING_TOPK + options->routing];
    if (options->emulate_rank >= 0) {
        args[n++] = "--emulate-rank";
        args[n++] = hlm_arena_printf(arena, "%lld", (long long)options->emulate_rank);
        args[n++] = "--emulate-delay";
        args[n++] = emulate_delay_texts[options->emulate_delay];
    }
    const struct hlm_ranks_job job = {.transport = choice->transport,
                                      .num_ranks = choice->num_ranks,
                                      .hosts = choice->hosts,
                                      .args = args,
                                      .timeout_s = options->timeout_s};
    return hlm_ranks_run(arena, &job, err);
}

/* --- the answer --- */

/* A plan for GPUs runs on CPUs too, but not as fast as it says. */
static void print_other_device(const struct hlm_plan *plan, const struct hlm_measurement *measured)
{
    const int32_t rank = measured->emulated_rank >= 0 ? measured->emulated_rank : 0;
    const struct hlm_device *device = hlm_plan_rank_device(plan, rank);
    const bool is_cpu = strcmp(measured->backend, "cpu") == 0;
    if (is_cpu != (device->backend == HLM_BACKEND_CPU)) {
        printf("           (predicted of %s, measured on another kind of device: backend %s)\n",
               device->name, measured->backend);
    }
}

static void print_summary(struct hlm_arena *arena, const struct hlm_plan *plan,
                          const struct hlm_measurement *measured)
{
    const struct hlm_measured_step *last = &measured->steps[measured->num_steps - 1];
    double tokens_per_s = 0.0, mfu = 0.0;
    hlm_measurement_rates(plan, measured->step_time_s, &tokens_per_s, &mfu);
    printf("%s: %s\n", plan->model.name, hlm_view_strategy(arena, &plan->strategy));
    if (measured->emulated_rank >= 0) {
        printf("rank %d of %d alone: what it computed and held is measured, its peers and all "
               "communication are as predicted\n",
               measured->emulated_rank, measured->num_ranks);
    }
    printf("step time  %s measured%s, %s predicted\n", hlm_fmt_seconds(measured->step_time_s).text,
           strcmp(measured->timeline.source, "virtual") == 0 ? " in virtual time" : "",
           hlm_fmt_seconds(plan->prediction.step_time_s).text);
    print_other_device(plan, measured);
    printf("speed      %s tokens/s", hlm_fmt_count(tokens_per_s).text);
    if (mfu > 0.0) {
        printf(", MFU %.1f %% (%s attention)", 100.0 * mfu,
               hlm_model_is_causal(&plan->model) ? "causal" : "full");
    }
    printf("\n");
    if (measured->emulated_rank < 0 || last->loss != 0.0) {
        printf("loss       %.6f at the first step, %.6f at step %d\n", measured->steps[0].loss,
               last->loss, measured->num_steps);
    }
    printf("steps      %d, of which %d warm-up and %d clean\n", measured->num_steps,
           measured->num_warmup_steps, measured->num_clean_steps);
    hlm_view_parts(stdout, arena, &measured->parts);
    for (int32_t i = 0; i < measured->num_messages; i++) {
        const struct hlm_measured_message *message = &measured->messages[i];
        printf("message    %s from stage %d to %d and back: %s each way\n",
               hlm_fmt_bytes((double)message->bytes).text, message->stage, message->stage + 1,
               hlm_fmt_seconds(message->seconds).text);
    }
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
    HLM_TRY(check_options(arena, options, err));
    HLM_TRY(load_plan(arena, options, &plan, err));
    const char *hosts = options->hosts;
    if (hosts != NULL) {
        HLM_TRY(hlm_launch_hosts_place(arena, hosts, plan->rank_map, plan->num_ranks, &hosts, err));
    }
    struct hlm_ranks_choice choice = {.backend = (enum hlm_backend_choice)options->backend,
                                      .transport = (enum hlm_transport)options->transport,
                                      .num_ranks = options->emulate_rank >= 0 ? 1 : plan->num_ranks,
                                      .hosts = hosts};
    HLM_TRY(hlm_ranks_choose(arena, &choice, err));
    const char *output = options->output;
    if (output == NULL) {
        HLM_TRY(temporary_file(arena, &output, err));
    }
    int32_t rank = 0;
    const bool speaks = !hlm_ranks_inside(&rank) || rank == 0;
    enum hlm_status status = run_ranks(arena, options, &choice, output, err);
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
     .help =
         "How ranks talk; auto: as threads of one process, over nccl where each has a GPU of its "
         "own, over mpi else."},
    {.name = "hosts",
     .type = HLM_OPT_STRING,
     AT(hosts),
     .arg = "H:SLOTS,...",
     .help = "Machines to run on, as the plan numbers their devices, reached as mpirun reaches "
             "them."},
    {.name = "data",
     .type = HLM_OPT_STRING,
     AT(data),
     .arg = "FILE",
     .help = "Text to train on, read as bytes; without it, synthetic tokens."},
    {.name = "products",
     .type = HLM_OPT_STRING,
     AT(products),
     .arg = "FILE",
     .help = "products.json of a profile: algorithms for matrix products on GPUs, so that the run "
             "does not time them again. Of another device or library, they are left aside."},
    {.name = "graphs",
     .type = HLM_OPT_ENUM,
     AT(graphs),
     .def = "auto",
     .arg = "WHEN",
     .enums = graphs_texts,
     .help = "auto: on GPUs, a pass that has run twice is launched as one graph from then on; off: "
             "operator by operator, always."},
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
             "core; communication is then modelled, not measured, but for --messages."},
    {.name = "messages",
     .type = HLM_OPT_ENUM,
     AT(messages),
     .def = "predicted",
     .arg = "WHENCE",
     .enums = messages_texts,
     .help = "In virtual time. predicted: messages between stages take what the plan says; "
             "measured: what the same messages take between the same ranks behind the steps, while "
             "nobody computes."},
    {.name = "routing",
     .type = HLM_OPT_ENUM,
     AT(routing),
     .def = "topk",
     .arg = "HOW",
     .enums = hlm_routing_texts + HLM_ROUTING_TOPK,
     .help = "How rows come to experts. topk: by their scores, with room for all rows on any rank, "
             "which may need more memory than predicted; balanced: each in its turn, as prices "
             "assume."},
    {.name = "emulate-rank",
     .type = HLM_OPT_INT64,
     AT(emulate_rank),
     .def = "-1",
     .arg = "R",
     .min = -1,
     .max = 1e8,
     .help = "Execute on one device what this rank of the plan would: its computing, memory and "
             "schedule; peers are made up, and communication is as predicted."},
    {.name = "emulate-delay",
     .type = HLM_OPT_ENUM,
     AT(emulate_delay),
     .def = "predicted",
     .arg = "DELAY",
     .enums = emulate_delay_texts,
     .help = "predicted: an emulated rank waits for its peers as long as the plan says; none: it "
             "does not wait, and its step is walked with what it computed."},
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
        "ranks end and one error says which rank and what it was doing. Inside mpirun, srun or "
        "torchrun it is one of the ranks that they have started.",
    .example = "hlmplan run plan.json --data book.txt --steps 20 -o measured.json",
    .opts = opts,
    .positionals = positionals,
    .options_size = sizeof(struct run_options),
    .run = run};
