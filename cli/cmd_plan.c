/* plan: the best way to train, and how close to the best it is. */
#include <stddef.h>
#include <stdio.h>

#include "base/log.h"
#include "cli/cli.h"
#include "cli/problem.h"
#include "cli/view.h"
#include "cli/view_front.h"
#include "planner/columns_nearest.h"
#include "planner/front.h"

enum objective { OBJECTIVE_TIME, OBJECTIVE_COST, OBJECTIVE_PARETO };
static const char *const objective_texts[] = {"time", "cost", "pareto", NULL};

struct plan_options {
    struct hlm_problem_options problem;
    int objective;
    const char *require;
    double max_gap;
    int64_t top, point;
    bool runnable;
    const char *output;
    bool json;
};

static void show_progress(void *context, double done, double total, const char *detail)
{
    hlm_progress_update(context, done, total, detail);
}

/* The plan of one of the objectives time and cost. */
static enum hlm_status search(struct hlm_arena *arena, const struct plan_options *options,
                              const struct hlm_search_problem *problem, const struct hlm_plan **out,
                              struct hlm_err *err)
{
    struct hlm_progress progress;
    hlm_progress_begin(&progress, stderr, "searching");
    const enum hlm_status status =
        options->objective == OBJECTIVE_COST
            ? hlm_front_cheapest(arena, problem, show_progress, &progress, out, err)
            : hlm_search(arena, problem, show_progress, &progress, out, err);
    hlm_progress_end(&progress);
    return status;
}

static enum hlm_status search_front(struct hlm_arena *arena,
                                    const struct hlm_search_problem *problem,
                                    const struct hlm_front **out,
                                    const struct hlm_plan *const **out_plans, struct hlm_err *err)
{
    struct hlm_progress progress;
    hlm_progress_begin(&progress, stderr, "searching");
    const enum hlm_status status =
        hlm_front_search(arena, problem, show_progress, &progress, out, out_plans, err);
    hlm_progress_end(&progress);
    return status;
}

/* Some models are beyond the executor under any strategy: the feature's name says more than "no
 * strategy". */
static enum hlm_status check_runnable(const struct hlm_problem *problem, struct hlm_err *err)
{
    struct hlm_strategy strategy = {.dp = 1,
                                    .tp = 1,
                                    .pp = 1,
                                    .ep = 1,
                                    .microbatch_size = 1,
                                    .global_batch_size = 1,
                                    .seq_len = problem->seq_len,
                                    .dtype = problem->dtype,
                                    .grad_dtype = HLM_DTYPE_FP32,
                                    .master_dtype = HLM_DTYPE_FP32,
                                    .lowering = problem->lowering};
    hlm_strategy_complete(&strategy);
    const char *refusal = hlm_lowering_refusal(problem->model, &strategy);
    if (refusal != NULL) {
        return hlm_fail(err, HLM_NO, "--runnable: the executor can't run %s: %s",
                        problem->model->name, refusal);
    }
    return HLM_OK;
}

static enum hlm_status make_problem(struct hlm_arena *arena, const struct plan_options *options,
                                    struct hlm_search_problem *out, struct hlm_err *err)
{
    struct hlm_problem problem;
    struct hlm_search_require require;
    HLM_TRY(hlm_problem_require(arena, options->require, &require, err));
    HLM_TRY(hlm_problem_load(arena, &options->problem, &problem, err));
    if (options->runnable) {
        HLM_TRY(check_runnable(&problem, err));
    }
    *out = (struct hlm_search_problem){.model = problem.model,
                                       .cluster = problem.cluster,
                                       .global_batch_size = problem.global_batch_size,
                                       .seq_len = problem.seq_len,
                                       .dtype = problem.dtype,
                                       .lowering = problem.lowering,
                                       .runnable_only = options->runnable,
                                       .require = require,
                                       .max_gap_frac = options->max_gap,
                                       .top_k = (int32_t)options->top};
    return HLM_OK;
}

static enum hlm_status check_point(const struct plan_options *options, struct hlm_err *err)
{
    return options->point == 0 || options->objective == OBJECTIVE_PARETO
               ? HLM_OK
               : hlm_fail(err, HLM_USAGE, "--point names a plan of --objective pareto");
}

/* A requirement that nothing legal meets: the nearest that something does. */
static enum hlm_status add_nearest(struct hlm_arena *arena,
                                   const struct hlm_search_problem *problem, struct hlm_err *err)
{
    const char *reason = hlm_arena_strdup(arena, err->text);
    return hlm_fail(err, HLM_NO, "%s%s", reason, hlm_columns_nearest(arena, problem));
}

/* The front, or the plan of one of its points. */
static enum hlm_status run_pareto(struct hlm_arena *arena, const struct plan_options *options,
                                  const struct hlm_search_problem *problem, struct hlm_err *err)
{
    const double before_s = hlm_cli_cpu_seconds();
    const struct hlm_front *front = NULL;
    const struct hlm_plan *const *plans = NULL;
    const enum hlm_status status = search_front(arena, problem, &front, &plans, err);
    if (status != HLM_OK) {
        return status == HLM_NO ? add_nearest(arena, problem, err) : status;
    }
    const double search_cpu_s = hlm_cli_cpu_seconds() - before_s;
    if (options->point > front->num_points) {
        return hlm_fail(err, HLM_NO, "--point %lld: the front has %d %s", (long long)options->point,
                        front->num_points, front->num_points == 1 ? "point" : "points");
    }
    return options->point > 0 ? hlm_view_answer(arena, plans[options->point - 1], search_cpu_s,
                                                options->output, options->json, err)
                              : hlm_view_front_answer(arena, front, search_cpu_s, options->output,
                                                      options->json, err);
}

static enum hlm_status run(struct hlm_arena *arena, const void *pointer, struct hlm_err *err)
{
    const struct plan_options *options = pointer;
    struct hlm_search_problem problem;
    HLM_TRY(check_point(options, err));
    HLM_TRY(make_problem(arena, options, &problem, err));
    if (options->objective != OBJECTIVE_TIME) {
        HLM_TRY(hlm_subclusters_check_prices(
            problem.cluster, hlm_problem_cluster_file(arena, options->problem.cluster), err));
    }
    if (options->objective == OBJECTIVE_PARETO) {
        return run_pareto(arena, options, &problem, err);
    }
    const double before_s = hlm_cli_cpu_seconds();
    const struct hlm_plan *found = NULL;
    const enum hlm_status status = search(arena, options, &problem, &found, err);
    if (status != HLM_OK) {
        return status == HLM_NO ? add_nearest(arena, &problem, err) : status;
    }
    return hlm_view_answer(arena, found, hlm_cli_cpu_seconds() - before_s, options->output,
                           options->json, err);
}

static const struct hlm_opt opts[] = {
    HLM_PROBLEM_OPTS(struct plan_options, true),
    {.name = "objective",
     .type = HLM_OPT_ENUM,
     .offset = offsetof(struct plan_options, objective),
     .def = "time",
     .arg = "OBJECTIVE",
     .help =
         "The fastest step (time), the lowest price per token (cost), or all plans that none "
         "is both faster and cheaper than (pareto). For cost and pareto all subclusters compete: "
         "none of the nodes of a group, all, or as many as divide them or are a power of two. "
         "Devices that are left out cost nothing.",
     .enums = objective_texts},
    {.name = "require",
     .type = HLM_OPT_STRING,
     .offset = offsetof(struct plan_options, require),
     .arg = "K=V,...",
     .help = "What the plan must have, such as tp=8,schedule=1f1b: dp, tp, pp, cp, vpp, ep, "
             "sp=true|false, zero, schedule, recompute, microbatch_size, offload."},
    {.name = "max-gap",
     .type = HLM_OPT_DOUBLE,
     .offset = offsetof(struct plan_options, max_gap),
     .def = "0.01",
     .arg = "F",
     .help = "How much slower than the best possible plan the answer may be, as a fraction; 0 asks "
             "for the proven optimum.",
     .min = 0,
     .max = 1},
    {.name = "top",
     .type = HLM_OPT_INT64,
     .offset = offsetof(struct plan_options, top),
     .def = "3",
     .arg = "K",
     .help = "Number of runners-up.",
     .min = 0,
     .max = 1000},
    {.name = "point",
     .type = HLM_OPT_INT64,
     .offset = offsetof(struct plan_options, point),
     .arg = "K",
     .help = "With --objective pareto: the plan of the K-th point instead of all points.",
     .min = 1,
     .max = 1e9},
    {.name = "runnable",
     .type = HLM_OPT_FLAG,
     .offset = offsetof(struct plan_options, runnable),
     .help = "Only what `hlmplan run` can execute."},
    {.name = "output",
     .letter = 'o',
     .type = HLM_OPT_STRING,
     .offset = offsetof(struct plan_options, output),
     .arg = "FILE",
     .help = "Write the plan (of --objective pareto: the points) to FILE."},
    {.name = "json",
     .type = HLM_OPT_FLAG,
     .offset = offsetof(struct plan_options, json),
     .help = "Print it as JSON."},
    {.name = NULL}};
const struct hlm_command hlm_cmd_plan = {
    .name = "plan",
    .summary = "find the best plan and prove how good it is",
    .description =
        "Searches all legal strategies (degrees of data, tensor, pipeline and expert parallelism, "
        "sharding, microbatch size, schedule) and all placements of layers with their recompute "
        "modes for the fastest training step, and prints the plan with a certificate: a lower "
        "bound that no legal plan can beat. Exits with 1 when nothing fits, and says what is "
        "missing.",
    .example = "hlmplan plan --model llama2-7b --cluster h100-sxm:1x8 --global-batch 64 -o "
               "plan.json",
    .opts = opts,
    .options_size = sizeof(struct plan_options),
    .run = run};
