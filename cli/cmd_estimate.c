/* estimate: prices one strategy, or a plan that was edited. */
#include <stddef.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/problem.h"
#include "cli/view.h"

struct estimate_options {
    const char *plan;
    struct hlm_problem_options problem;
    const char *set;
    const char *output;
    bool json;
};

static enum hlm_status price_file(struct hlm_arena *arena, const char *path,
                                  const struct hlm_plan **out, struct hlm_err *err)
{
    const struct hlm_plan *edited = NULL;
    HLM_TRY(hlm_plan_read(arena, path, &edited, err));
    return hlm_plan_price(arena, &edited->model, &edited->cluster, &edited->strategy,
                          edited->stages, edited->num_stages, out, NULL, err);
}

static enum hlm_status price_options(struct hlm_arena *arena,
                                     const struct estimate_options *options,
                                     const struct hlm_plan **out, struct hlm_err *err)
{
    struct hlm_problem problem;
    HLM_TRY(hlm_problem_load(arena, &options->problem, &problem, err));
    struct hlm_strategy strategy;
    int32_t recompute = -1;
    HLM_TRY(hlm_problem_strategy(arena, &problem, options->set, &strategy, &recompute, err));
    const struct hlm_plan_stage *stages = NULL;
    int32_t num_stages = 0;
    HLM_TRY(hlm_plan_even_stages(arena, problem.model, problem.cluster, &strategy, recompute,
                                 &stages, &num_stages, err));
    return hlm_plan_price(arena, problem.model, problem.cluster, &strategy, stages, num_stages, out,
                          NULL, err);
}

/* Either a plan, or everything that makes one. */
static enum hlm_status check_options(const struct estimate_options *options, struct hlm_err *err)
{
    const bool any = options->problem.model != NULL || options->problem.cluster != NULL ||
                     options->problem.global_batch != 0 || options->problem.seq_len != 0 ||
                     options->problem.dtype != 0 || options->set != NULL;
    const bool all = options->problem.model != NULL && options->problem.cluster != NULL &&
                     options->problem.global_batch != 0;
    if (options->plan != NULL && any) {
        return hlm_fail(err, HLM_USAGE,
                        "expected either a plan or --model, --cluster, --global-batch and --set, "
                        "found both");
    }
    if (options->plan == NULL && !all) {
        return hlm_fail(err, HLM_USAGE,
                        "expected a plan, or --model, --cluster and --global-batch");
    }
    return HLM_OK;
}

static enum hlm_status run(struct hlm_arena *arena, const void *pointer, struct hlm_err *err)
{
    const struct estimate_options *options = pointer;
    HLM_TRY(check_options(options, err));
    const struct hlm_plan *priced = NULL;
    if (options->plan != NULL) {
        HLM_TRY(price_file(arena, options->plan, &priced, err));
    } else {
        HLM_TRY(price_options(arena, options, &priced, err));
    }
    return hlm_view_answer(arena, priced, 0.0, options->output, options->json, err);
}

static const struct hlm_opt opts[] = {
    HLM_PROBLEM_OPTS(struct estimate_options, false),
    {.name = "set",
     .type = HLM_OPT_STRING,
     .offset = offsetof(struct estimate_options, set),
     .arg = "K=V,...",
     .help =
         "The strategy: dp, tp, pp, ep, sp, zero, schedule, microbatch_size and the other keys "
         "of a plan's strategy, and recompute=none|selective|full. Left out: tp 1, pp 1, dp all "
         "other devices, 1f1b, microbatch_size 1, the least recompute that fits."},
    {.name = "output",
     .letter = 'o',
     .type = HLM_OPT_STRING,
     .offset = offsetof(struct estimate_options, output),
     .arg = "FILE",
     .help = "Write the priced plan to FILE."},
    {.name = "json",
     .type = HLM_OPT_FLAG,
     .offset = offsetof(struct estimate_options, json),
     .help = "Print the priced plan as JSON."},
    {.name = NULL}};
static const struct hlm_positional positionals[] = {
    {"plan.json", offsetof(struct estimate_options, plan), false,
     "A plan, edited or not, to price as it stands."},
    {.name = NULL}};
const struct hlm_command hlm_cmd_estimate = {
    .name = "estimate",
    .summary = "price one strategy, or an edited plan",
    .description =
        "Prices one way to train without a search: either a strategy given by --set with layers "
        "spread evenly, or a plan file as it stands, whose strategy and stages may have been "
        "edited by hand. Exits with 1 when it is not legal or does not fit into memory, and says "
        "what is missing.",
    .example = "hlmplan estimate --model llama2-7b --cluster h100-sxm:1x8 --global-batch 64 --set "
               "tp=2,pp=2,zero=1",
    .opts = opts,
    .positionals = positionals,
    .options_size = sizeof(struct estimate_options),
    .run = run};
