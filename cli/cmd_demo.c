/* demo: the whole loop on this machine. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/fmt.h"
#include "cli/cli.h"
#include "cli/demo_model.h"
#include "cli/ranks.h"
#include "cli/text_table.h"
#include "cli/view.h"
#include "planner/ilp_solve.h"
#include "planner/measurement.h"
#include "planner/search.h"

enum { NUM_STEPS = 7, NUM_WARMUP = 2 };
static const double mean_goal = 0.08, each_goal = 0.20;

struct demo_options {
    const char *output;
    bool full_profile;
};

struct layout {
    const char *name;
    int32_t dp, tp, pp;
};
static const struct layout layouts[] = {{"one rank", 1, 1, 1},
                                        {"dp2", 2, 1, 1},
                                        {"tp2", 1, 2, 1},
                                        {"pp2 1f1b", 1, 1, 2},
                                        {"dp2 tp2 pp2", 2, 2, 2}};
enum { NUM_LAYOUTS = sizeof(layouts) / sizeof(layouts[0]) };

/* What one layout came to. Seconds by part, in the order of part_names. */
static const char *const part_names[] = {"forward",  "backward",      "tensor_parallel",
                                         "pipeline", "data_parallel", "optimizer"};
enum { TENSOR = 2, DATA = 4, NUM_PARTS = sizeof(part_names) / sizeof(part_names[0]) };
struct outcome {
    const struct layout *layout;
    double predicted_s, measured_s; /* virtual time */
    double predicted[NUM_PARTS], measured[NUM_PARTS];
    double error_frac; /* of compute and schedule: modelled communication is taken off both sides */
    double wall_s;     /* median of clean steps, 0: no clean step or more ranks than cores */
    int32_t num_clean;
    double last_loss;
};

struct demo {
    struct hlm_arena *arena;
    const char *folder;
    const struct hlm_model *model;
    const struct hlm_cluster *cluster;
    int32_t num_cores;
    const char *text_path;
};

/* --- the steps of the loop --- */

static enum hlm_status profile(const struct demo *demo, bool full, struct hlm_err *err)
{
    const char *args[] = {"--profile", demo->folder, "--backend", "cpu", full ? NULL : "--quick",
                          NULL};
    const struct hlm_ranks_job job = {
        .transport = HLM_TRANSPORT_THREAD, .num_ranks = 1, .args = args, .timeout_s = 120.0};
    return hlm_ranks_run(demo->arena, &job, err);
}

/* The profiled machine with as many cores as the layout has ranks. */
static const struct hlm_cluster *cluster_of(const struct demo *demo, int32_t num_ranks)
{
    struct hlm_cluster *cluster = HLM_ARENA_NEW(demo->arena, struct hlm_cluster);
    struct hlm_device_group *group = HLM_ARENA_NEW(demo->arena, struct hlm_device_group);
    *group = demo->cluster->groups[0];
    group->devices_per_node = num_ranks;
    group->nvlink_domain = num_ranks;
    *cluster = *demo->cluster;
    cluster->groups = group;
    return cluster;
}

static enum hlm_status make_plan(const struct demo *demo, const struct layout *layout,
                                 const struct hlm_plan **out, struct hlm_err *err)
{
    const struct hlm_search_problem problem = {
        .model = demo->model,
        .cluster = cluster_of(demo, layout->dp * layout->tp * layout->pp),
        .global_batch_size = HLM_DEMO_GLOBAL_BATCH,
        .seq_len = HLM_DEMO_SEQ_LEN,
        .dtype = HLM_DTYPE_FP32,
        .lowering = HLM_LOWERING_HLMPLAN,
        .runnable_only = true,
        .require = {.dp = layout->dp,
                    .tp = layout->tp,
                    .pp = layout->pp,
                    .sp = -1,
                    .zero = 0,
                    .schedule = HLM_SCHEDULE_1F1B,
                    .recompute = -1,
                    .offload = -1,
                    .microbatch_size = 1},
        .max_gap_frac = 0.01};
    return hlm_search(demo->arena, &problem, NULL, NULL, out, err);
}

static const char *file_of(const struct demo *demo, const struct layout *layout, const char *what)
{
    char *path = hlm_arena_printf(demo->arena, "%s/%s-%s.json", demo->folder, layout->name, what);
    for (char *c = path + strlen(demo->folder); *c != '\0'; c++) {
        *c = *c == ' ' ? '-' : *c;
    }
    return path;
}

static enum hlm_status run_plan(const struct demo *demo, const struct layout *layout,
                                const struct hlm_plan *plan, const struct hlm_measurement **out,
                                struct hlm_err *err)
{
    const char *plan_path = file_of(demo, layout, "plan");
    const char *output = file_of(demo, layout, "measured");
    const char *text = hlm_json_write(demo->arena, &hlm_plan_table, plan, false);
    HLM_TRY(hlm_file_write(plan_path, text, strlen(text), err));
    const char *args[] = {"--plan",
                          plan_path,
                          "--output",
                          output,
                          "--data",
                          demo->text_path,
                          "--virtual-time",
                          "--backend",
                          "cpu",
                          "--steps",
                          hlm_arena_printf(demo->arena, "%d", NUM_STEPS),
                          "--warmup",
                          hlm_arena_printf(demo->arena, "%d", NUM_WARMUP),
                          NULL};
    const struct hlm_ranks_job job = {.transport = HLM_TRANSPORT_THREAD,
                                      .num_ranks = plan->num_ranks,
                                      .args = args,
                                      .timeout_s = 120.0,
                                      .quiet = true};
    HLM_TRY(hlm_ranks_run(demo->arena, &job, err));
    return hlm_measurement_read(demo->arena, output, out, err);
}

/* --- scoring --- */

static void split(const struct hlm_time_node *step, double seconds[NUM_PARTS])
{
    for (int32_t i = 0; i < step->num_parts; i++) {
        for (int32_t part = 0; part < NUM_PARTS; part++) {
            if (strcmp(step->parts[i].name, part_names[part]) == 0) {
                seconds[part] = step->parts[i].seconds;
            }
        }
    }
}

static struct outcome score(const struct demo *demo, const struct layout *layout,
                            const struct hlm_plan *plan, const struct hlm_measurement *measured)
{
    struct outcome outcome = {.layout = layout,
                              .predicted_s = plan->prediction.step_time_s,
                              .measured_s = measured->step_time_s,
                              .last_loss = measured->steps[measured->num_steps - 1].loss};
    split(&plan->prediction.parts, outcome.predicted);
    split(&measured->parts, outcome.measured);
    const double own_predicted_s =
        outcome.predicted_s - outcome.predicted[TENSOR] - outcome.predicted[DATA];
    const double own_measured_s =
        outcome.measured_s - outcome.measured[TENSOR] - outcome.measured[DATA];
    outcome.error_frac = (own_predicted_s - own_measured_s) / own_measured_s;
    if (plan->num_ranks <= demo->num_cores) {
        const double wall_s =
            hlm_measurement_step_time(demo->arena, measured->steps, measured->num_steps,
                                      measured->num_warmup_steps, false, &outcome.num_clean);
        outcome.wall_s = outcome.num_clean > 0 ? wall_s : 0.0;
    }
    return outcome;
}

/* --- the table --- */

static const char *milliseconds(struct hlm_arena *arena, double seconds)
{
    return hlm_arena_printf(arena, "%.1f", 1e3 * seconds);
}

static void add_row(struct hlm_text_table *table, const struct demo *demo,
                    const struct outcome *outcome)
{
    struct hlm_arena *arena = demo->arena;
    const char *cells[5 + NUM_PARTS];
    int n = 0;
    cells[n++] = outcome->layout->name;
    cells[n++] = milliseconds(arena, outcome->predicted_s);
    cells[n++] = milliseconds(arena, outcome->measured_s);
    cells[n++] = hlm_arena_printf(arena, "%+.1f %%", 100.0 * outcome->error_frac);
    for (int32_t part = 0; part < NUM_PARTS; part++) {
        const bool modelled = part == TENSOR || part == DATA;
        cells[n++] =
            modelled
                ? hlm_arena_printf(arena, "%s *", milliseconds(arena, outcome->predicted[part]))
                : hlm_arena_printf(arena, "%s / %s", milliseconds(arena, outcome->predicted[part]),
                                   milliseconds(arena, outcome->measured[part]));
    }
    cells[n++] = outcome->wall_s > 0.0
                     ? hlm_arena_printf(arena, "%s (%d)", milliseconds(arena, outcome->wall_s),
                                        outcome->num_clean)
                     : "-";
    hlm_text_table_add(table, cells);
}

static void print_table(const struct demo *demo, const struct outcome *outcomes)
{
    static const char *const headers[] = {"layout",
                                          ">predicted",
                                          ">measured",
                                          ">error",
                                          ">forward",
                                          ">backward",
                                          ">tensor",
                                          ">pipeline",
                                          ">data",
                                          ">optimizer",
                                          ">wall (clean steps)",
                                          NULL};
    struct hlm_text_table table;
    hlm_text_table_init(&table, demo->arena, headers);
    for (int i = 0; i < NUM_LAYOUTS; i++) {
        add_row(&table, demo, &outcomes[i]);
    }
    hlm_text_table_print(&table, stdout, 0);
}

static enum hlm_status conclude(const struct demo *demo, const struct outcome *outcomes,
                                struct hlm_err *err)
{
    double mean = 0.0, worst = 0.0;
    for (int i = 0; i < NUM_LAYOUTS; i++) {
        const double error = fabs(outcomes[i].error_frac);
        mean += error / NUM_LAYOUTS;
        worst = fmax(worst, error);
    }
    printf(
        "\nMilliseconds of one step of %s (%s parameters, %d sequences of %d tokens), predicted / "
        "measured.\n"
        "Measured in virtual time: the CPU time of every action, as if each rank had a core "
        "(this machine: %d).\n"
        "* communication is modelled in virtual time; the error is of compute and schedule. "
        "Wall: median of clean steps, where\n"
        "  the ranks had their cores.\n"
        "mean error %.1f %%, worst %.1f %%; all layouts end at the same loss, %.6f\n",
        demo->model->name, hlm_fmt_count(hlm_model_num_params(demo->model)).text,
        HLM_DEMO_GLOBAL_BATCH, HLM_DEMO_SEQ_LEN, demo->num_cores, 100.0 * mean, 100.0 * worst,
        outcomes[0].last_loss);
    if (mean > mean_goal || worst > each_goal) {
        return hlm_fail(err, HLM_NO,
                        "the prediction is off: mean error %.1f %% (at most %.0f %%), worst %.1f "
                        "%% (at most %.0f %%); is the machine very busy?",
                        100.0 * mean, 100.0 * mean_goal, 100.0 * worst, 100.0 * each_goal);
    }
    return HLM_OK;
}

/* Equal losses are the proof that all layouts trained the same model. */
static enum hlm_status check_losses(const struct outcome *outcomes, struct hlm_err *err)
{
    for (int i = 1; i < NUM_LAYOUTS; i++) {
        const double one = outcomes[0].last_loss, loss = outcomes[i].last_loss;
        if (!(fabs(loss - one) <= 1e-5 * fabs(one))) {
            return hlm_fail(err, HLM_FAILED, "layout %s ends at loss %.9g, one rank at %.9g",
                            outcomes[i].layout->name, loss, one);
        }
    }
    return HLM_OK;
}

/* --- the command --- */

static enum hlm_status recommend(const struct demo *demo, struct hlm_err *err)
{
    const struct hlm_search_problem problem = {
        .model = demo->model,
        .cluster = demo->cluster,
        .global_batch_size = HLM_DEMO_GLOBAL_BATCH,
        .seq_len = HLM_DEMO_SEQ_LEN,
        .dtype = HLM_DTYPE_FP32,
        .lowering = HLM_LOWERING_HLMPLAN,
        .runnable_only = true,
        .require = {.sp = -1, .zero = -1, .schedule = -1, .recompute = -1, .offload = -1},
        .max_gap_frac = 0.01};
    const struct hlm_plan *plan = NULL;
    HLM_TRY(hlm_search(demo->arena, &problem, NULL, NULL, &plan, err));
    printf("The best plan for the %d cores of this machine: %s; %s a step, within %.2f %% of the "
           "best of %lld strategies.\n\n",
           demo->num_cores, hlm_view_strategy(demo->arena, &plan->strategy),
           hlm_fmt_seconds(plan->prediction.step_time_s).text, 100.0 * plan->certificate->gap_frac,
           (long long)plan->certificate->num_columns);
    return HLM_OK;
}

static enum hlm_status run_layouts(struct demo *demo, struct hlm_err *err)
{
    struct outcome outcomes[NUM_LAYOUTS];
    for (int i = 0; i < NUM_LAYOUTS; i++) {
        const struct hlm_plan *plan = NULL;
        const struct hlm_measurement *measured = NULL;
        fprintf(stderr, "running %s (%d of %d)\n", layouts[i].name, i + 1, NUM_LAYOUTS);
        HLM_TRY(make_plan(demo, &layouts[i], &plan, err));
        HLM_TRY(run_plan(demo, &layouts[i], plan, &measured, err));
        outcomes[i] = score(demo, &layouts[i], plan, measured);
    }
    HLM_TRY(recommend(demo, err));
    print_table(demo, outcomes);
    HLM_TRY(check_losses(outcomes, err));
    return conclude(demo, outcomes, err);
}

static enum hlm_status run_in_folder(struct demo *demo, bool full_profile, struct hlm_err *err)
{
    size_t length = 0;
    const char *text = hlm_demo_text(&length);
    demo->text_path = hlm_arena_printf(demo->arena, "%s/text.txt", demo->folder);
    HLM_TRY(hlm_file_make_folder(demo->folder, err));
    HLM_TRY(hlm_file_write(demo->text_path, text, length, err));
    fprintf(stderr, "profiling this machine\n");
    HLM_TRY(profile(demo, full_profile, err));
    HLM_TRY(hlm_cluster_load(demo->arena, demo->folder, &demo->cluster, err));
    demo->num_cores = (int32_t)hlm_cluster_num_devices(demo->cluster);
    return run_layouts(demo, err);
}

static void remove_files(const struct demo *demo)
{
    static const char *const names[] = {"text.txt", "device.json", "cluster.json"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        unlink(hlm_arena_printf(demo->arena, "%s/%s", demo->folder, names[i]));
    }
    for (int i = 0; i < NUM_LAYOUTS; i++) {
        unlink(file_of(demo, &layouts[i], "plan"));
        unlink(file_of(demo, &layouts[i], "measured"));
    }
    rmdir(demo->folder);
}

static enum hlm_status run(struct hlm_arena *arena, const void *pointer, struct hlm_err *err)
{
    const struct demo_options *options = pointer;
    HLM_TRY(hlm_ilp_check_solver(err));
    struct demo demo = {.arena = arena, .model = hlm_demo_model(arena), .folder = options->output};
    if (options->output == NULL) {
        const char *base = getenv("TMPDIR");
        char *folder =
            hlm_arena_printf(arena, "%s/hlmplan-demo-XXXXXX", base != NULL ? base : "/tmp");
        if (mkdtemp(folder) == NULL) {
            return hlm_fail(err, HLM_FAILED, "cannot make a temporary folder %s", folder);
        }
        demo.folder = folder;
    }
    const enum hlm_status status = run_in_folder(&demo, options->full_profile, err);
    if (options->output == NULL) {
        remove_files(&demo);
    }
    return status;
}

#define AT(member) .offset = offsetof(struct demo_options, member)
static const struct hlm_opt opts[] = {
    {.name = "output",
     .letter = 'o',
     .type = HLM_OPT_STRING,
     AT(output),
     .arg = "DIR",
     .help = "Keep profile, plans and measurements in DIR; without it they are removed."},
    {.name = "full-profile",
     .type = HLM_OPT_FLAG,
     AT(full_profile),
     .help = "Profile for about a minute instead of a quarter of one."},
    {.name = NULL}};
const struct hlm_command hlm_cmd_demo = {
    .name = "demo",
    .summary = "the whole loop on this machine",
    .description =
        "Profiles this machine, plans the training of a GPT-2-like model of 10.7 M parameters in "
        "five layouts, runs each plan on real text, and prints predicted against measured step "
        "times. Exits with 1 when the mean error is above 8 % or one is above 20 %.",
    .example = "hlmplan demo -o demo",
    .opts = opts,
    .options_size = sizeof(struct demo_options),
    .run = run};
