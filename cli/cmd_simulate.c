/* simulate: a plan's step, action by action. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/fmt.h"
#include "cli/cli.h"
#include "cli/text_table.h"
#include "planner/plan.h"
#include "planner/plan_program.h"
#include "schedule/timeline.h"

struct simulate_options {
    const char *plan, *trace, *csv, *times, *simgrid;
    bool json;
};

/* The timeline with world ranks: those of the first data-parallel and tensor-parallel position. */
static const struct hlm_timeline *world_timeline(struct hlm_arena *arena,
                                                 const struct hlm_plan *plan,
                                                 const struct hlm_plan_simulation *simulation)
{
    struct hlm_timeline *timeline = HLM_ARENA_NEW(arena, struct hlm_timeline);
    *timeline = *hlm_timeline_from_simulation(arena, simulation->schedule, &simulation->result);
    struct hlm_timeline_rank *ranks = hlm_arena_memdup(
        arena, timeline->ranks, (size_t)timeline->num_ranks * sizeof(*timeline->ranks));
    for (int32_t i = 0; i < timeline->num_ranks; i++) {
        ranks[i].rank = hlm_layout_rank(&plan->strategy, (struct hlm_coords){.pp = ranks[i].rank});
    }
    timeline->ranks = ranks;
    return timeline;
}

static enum hlm_status write_text(const char *path, const char *text, struct hlm_err *err)
{
    return path == NULL ? HLM_OK : hlm_file_write(path, text, strlen(text), err);
}

/* ---- SimGrid ---- */

static enum hlm_status write_in(struct hlm_arena *arena, const char *folder, const char *name,
                                const char *text, struct hlm_err *err)
{
    return write_text(hlm_arena_printf(arena, "%s/%s", folder, name), text, err);
}

/* Where SimGrid's packages put the program that replays traces. */
static const char replay_mains[] =
    "/usr/lib/*/simgrid/smpireplaymain /usr/lib/simgrid/smpireplaymain "
    "/usr/local/lib/simgrid/smpireplaymain /usr/libexec/simgrid/smpireplaymain";

static const char *replay_script(struct hlm_arena *arena, int32_t num_ranks, double expected_s)
{
    return hlm_arena_printf(
        arena,
        "#!/bin/sh\n"
        "# Replays the step with SimGrid and prints its time, to be compared with %.9g s.\n"
        "cd \"$(dirname \"$0\")\" || exit 1\n"
        ": \"${SMPI_REPLAY_MAIN:=$(ls %s 2>/dev/null | head -n 1)}\"\n"
        "%s\n",
        expected_s, replay_mains,
        hlm_simgrid_command(arena, num_ranks,
                            "\"${SMPI_REPLAY_MAIN:?must be the path of smpireplaymain}\""));
}

static enum hlm_status write_simgrid(struct hlm_arena *arena, const char *folder,
                                     const struct hlm_plan *plan,
                                     const struct hlm_plan_simulation *simulation,
                                     double *out_expected_s, struct hlm_err *err)
{
    struct hlm_plan_programs programs;
    HLM_TRY(hlm_plan_programs(arena, plan, simulation, &programs, err));
    HLM_TRY(hlm_file_make_folder(folder, err));
    const int32_t num_ranks = programs.cluster.num_ranks;
    for (int32_t rank = 0; rank < num_ranks; rank++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(arena);
        HLM_TRY(write_in(arena, folder, hlm_simgrid_trace_name(arena, rank),
                         hlm_simgrid_trace(arena, rank, &programs.programs[rank]), err));
        hlm_arena_rewind(arena, mark);
    }
    HLM_TRY(write_in(arena, folder, "platform.xml", hlm_simgrid_platform(arena, &programs.cluster),
                     err));
    HLM_TRY(write_in(arena, folder, "hosts.txt", hlm_simgrid_hosts(arena, num_ranks), err));
    HLM_TRY(write_in(arena, folder, "ranks.txt", hlm_simgrid_ranks(arena, num_ranks), err));
    HLM_TRY(write_in(arena, folder, "replay", replay_script(arena, num_ranks, programs.expected_s),
                     err));
    *out_expected_s = programs.expected_s;
    return HLM_OK;
}

/* ---- for people ---- */

static void print_ranks(struct hlm_arena *arena, const struct hlm_plan *plan,
                        const struct hlm_plan_simulation *simulation)
{
    static const char *const headers[] = {
        ">pipeline rank", ">first start",  ">busy",        ">bubble",
        ">transfer",      ">compute ends", ">peak memory", NULL};
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, headers);
    for (int32_t r = 0; r < simulation->schedule->num_ranks; r++) {
        const struct hlm_sim_rank *rank = &simulation->result.ranks[r];
        const double bubble_s = rank->compute_end_s - rank->busy_s - rank->wait_transfer_s;
        const struct hlm_fmt start = hlm_fmt_seconds(rank->first_start_s);
        const struct hlm_fmt busy = hlm_fmt_seconds(rank->busy_s);
        const struct hlm_fmt bubble = hlm_fmt_seconds(bubble_s);
        const struct hlm_fmt transfer = hlm_fmt_seconds(rank->wait_transfer_s);
        const struct hlm_fmt end = hlm_fmt_seconds(rank->compute_end_s);
        const struct hlm_fmt peak = hlm_fmt_bytes((double)hlm_plan_rank_peak_bytes(plan, r));
        const char *const cells[] = {hlm_arena_printf(arena, "%d", r),
                                     start.text,
                                     busy.text,
                                     bubble.text,
                                     transfer.text,
                                     end.text,
                                     peak.text};
        hlm_text_table_add(&table, cells);
    }
    hlm_text_table_print(&table, stdout, 2);
}

static void print_simulation(struct hlm_arena *arena, const struct hlm_plan *plan,
                             const struct hlm_plan_simulation *simulation)
{
    const struct hlm_sim_result *result = &simulation->result;
    printf(
        "step %s: pipeline until %s, gradients reduced at %s (%s, %d stages, %d microbatches)\n\n",
        hlm_fmt_seconds(result->step_s).text, hlm_fmt_seconds(result->pipeline_s).text,
        hlm_fmt_seconds(result->reduce_end_s).text, hlm_schedule_texts[simulation->schedule->kind],
        simulation->schedule->num_stages, simulation->schedule->num_microbatches);
    print_ranks(arena, plan, simulation);
}

static enum hlm_status run(struct hlm_arena *arena, const void *pointer, struct hlm_err *err)
{
    const struct simulate_options *options = pointer;
    const struct hlm_plan *plan = NULL;
    HLM_TRY(hlm_plan_read(arena, options->plan, &plan, err));
    HLM_TRY(hlm_plan_check_digests(arena, plan, options->plan, err));
    struct hlm_plan_simulation simulation;
    HLM_TRY(hlm_plan_simulate(arena, plan, &simulation, err));
    const struct hlm_timeline *timeline = world_timeline(arena, plan, &simulation);
    HLM_TRY(write_text(options->trace, hlm_chrome_trace(arena, &timeline, 1), err));
    HLM_TRY(write_text(options->csv, hlm_schedule_csv(arena, simulation.schedule), err));
    HLM_TRY(write_text(options->times, hlm_timeline_csv(arena, timeline), err));
    double expected_s = 0.0;
    if (options->simgrid != NULL) {
        HLM_TRY(write_simgrid(arena, options->simgrid, plan, &simulation, &expected_s, err));
    }
    if (options->json) {
        return hlm_print_json(arena, &hlm_timeline_table, timeline, err);
    }
    print_simulation(arena, plan, &simulation);
    if (options->simgrid != NULL) {
        printf("\non the uniform network of %s the gradients are reduced at %.9g s\n",
               options->simgrid, expected_s);
    }
    return HLM_OK;
}

static const struct hlm_opt opts[] = {
    {.name = "trace",
     .type = HLM_OPT_STRING,
     .offset = offsetof(struct simulate_options, trace),
     .arg = "FILE",
     .help = "Write a Chrome trace of the step, which Perfetto opens."},
    {.name = "csv",
     .type = HLM_OPT_STRING,
     .offset = offsetof(struct simulate_options, csv),
     .arg = "FILE",
     .help =
         "Write the order of actions as PyTorch's pipeline schedules read it: a line per rank."},
    {.name = "times",
     .type = HLM_OPT_STRING,
     .offset = offsetof(struct simulate_options, times),
     .arg = "FILE",
     .help = "Write start and end of every action as a table."},
    {.name = "simgrid",
     .type = HLM_OPT_STRING,
     .offset = offsetof(struct simulate_options, simgrid),
     .arg = "DIR",
     .help =
         "Write the step as traces and platform for SimGrid, on a uniform network, and a script "
         "that replays them."},
    {.name = "json",
     .type = HLM_OPT_FLAG,
     .offset = offsetof(struct simulate_options, json),
     .help = "Print the timeline as JSON."},
    {.name = NULL}};
static const struct hlm_positional positionals[] = {
    {"plan.json", offsetof(struct simulate_options, plan), true, "The plan."}, {.name = NULL}};
const struct hlm_command hlm_cmd_simulate = {
    .name = "simulate",
    .summary = "show a plan's step, action by action",
    .description =
        "Simulates one training step of a plan exactly: when each rank runs each forward and "
        "backward, waits, and reduces gradients. Writes the timeline as a trace, as tables, or as "
        "input for SimGrid.",
    .example = "hlmplan simulate plan.json --trace trace.json",
    .opts = opts,
    .positionals = positionals,
    .options_size = sizeof(struct simulate_options),
    .run = run};
