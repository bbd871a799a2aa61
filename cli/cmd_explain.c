/* explain: why a plan and not another, what limits it, and what would help. */
#include <stddef.h>
#include <stdio.h>

#include "base/fmt.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/problem.h"
#include "cli/view.h"
#include "cli/view_explain.h"
#include "planner/explain.h"
#include "planner/ilp_solve.h"

struct explain_options {
    const char *plan;
    const char *why_not;
    bool json;
};

static void show_progress(void *context, double done, double total, const char *detail)
{
    hlm_progress_update(context, done, total, detail);
}

static enum hlm_status find_limits(struct hlm_arena *arena, const struct hlm_plan *plan,
                                   const struct hlm_explain_limits **out, struct hlm_err *err)
{
    struct hlm_explain_limits *limits = HLM_ARENA_NEW(arena, struct hlm_explain_limits);
    struct hlm_progress progress;
    hlm_progress_begin(&progress, stderr, "searching");
    const enum hlm_status status =
        hlm_explain_limits(arena, plan, show_progress, &progress, limits, err);
    hlm_progress_end(&progress);
    *out = limits;
    return status;
}

/* What limits the plan, and why not its runners-up. */
static enum hlm_status explain_plan(struct hlm_arena *arena, const struct hlm_plan *plan,
                                    struct hlm_explanation *explanation, struct hlm_err *err)
{
    struct hlm_explain_alternative *alternatives =
        HLM_ARENA_ARRAY(arena, struct hlm_explain_alternative, plan->num_runners_up);
    HLM_TRY(find_limits(arena, plan, &explanation->limits, err));
    for (int32_t i = 0; i < plan->num_runners_up; i++) {
        HLM_TRY(hlm_explain_runner_up(arena, plan, i, &alternatives[i], err));
    }
    explanation->alternatives = alternatives;
    explanation->num_alternatives = plan->num_runners_up;
    return HLM_OK;
}

static enum hlm_status explain_alternative(struct hlm_arena *arena, const struct hlm_plan *plan,
                                           const char *why_not, struct hlm_explanation *explanation,
                                           struct hlm_err *err)
{
    struct hlm_search_require asked;
    struct hlm_explain_alternative *alternative =
        HLM_ARENA_NEW(arena, struct hlm_explain_alternative);
    HLM_TRY(hlm_problem_require_option(arena, "why-not", why_not, &asked, err));
    HLM_TRY(hlm_explain_why_not(arena, plan, &asked, alternative, err));
    explanation->alternatives = alternative;
    explanation->num_alternatives = 1;
    return HLM_OK;
}

static void print_explanation(struct hlm_arena *arena, const struct hlm_plan *plan,
                              const struct hlm_explanation *explanation)
{
    printf("%s on %s: %s\n", explanation->model, explanation->cluster,
           hlm_view_strategy(arena, &explanation->strategy));
    if (plan->strategy.num_replicas > 0) {
        printf("  replicas: %s\n", hlm_view_replicas(arena, &plan->strategy, &plan->cluster));
    }
    printf("  %s a step (%s to %s within the spread of the profile), %s tokens/s\n\n",
           hlm_fmt_seconds(explanation->step_time_s).text,
           hlm_fmt_seconds(explanation->interval.low_s).text,
           hlm_fmt_seconds(explanation->interval.high_s).text,
           hlm_fmt_count(explanation->tokens_per_s).text);
    if (explanation->limits != NULL) {
        hlm_view_explain_limits(stdout, arena, explanation);
        hlm_view_explain_runners_up(stdout, arena, explanation);
    } else {
        hlm_view_explain_alternative(stdout, arena, explanation, &explanation->alternatives[0]);
    }
}

/* The answer is printed already; this is what the exit code says of it. */
static enum hlm_status judge(const struct hlm_explanation *explanation, struct hlm_err *err)
{
    for (int32_t i = 0; i < explanation->num_alternatives; i++) {
        const struct hlm_explain_alternative *alternative = &explanation->alternatives[i];
        if (alternative->verdict == HLM_EXPLAIN_ILLEGAL) {
            return hlm_fail(err, HLM_NO, "%s is not legal: %s", alternative->asked,
                            alternative->rule);
        }
        if (alternative->verdict == HLM_EXPLAIN_DOES_NOT_FIT) {
            return hlm_fail(err, HLM_NO, "%s does not fit: %s missing on stage %d",
                            alternative->asked,
                            hlm_fmt_bytes((double)alternative->misfit->missing_bytes).text,
                            alternative->misfit->memory.stage);
        }
    }
    return HLM_OK;
}

static enum hlm_status run(struct hlm_arena *arena, const void *pointer, struct hlm_err *err)
{
    const struct explain_options *options = pointer;
    const struct hlm_plan *read = NULL, *plan = NULL;
    HLM_TRY(hlm_ilp_check_solver(err)); /* alternatives and gains are what a search finds */
    HLM_TRY(hlm_plan_read(arena, options->plan, &read, err));
    if (hlm_explain_price(arena, read, &plan, err) != HLM_OK) {
        hlm_err_prefix(err, "%s", options->plan);
        return err->status;
    }
    struct hlm_explanation explanation = {.model = plan->model.name,
                                          .cluster = plan->cluster.name,
                                          .strategy = plan->strategy,
                                          .step_time_s = plan->prediction.step_time_s,
                                          .tokens_per_s = plan->prediction.tokens_per_s,
                                          .interval = plan->prediction.interval};
    if (options->why_not != NULL) {
        HLM_TRY(explain_alternative(arena, plan, options->why_not, &explanation, err));
    } else {
        HLM_TRY(explain_plan(arena, plan, &explanation, err));
    }
    if (options->json) {
        HLM_TRY(hlm_print_json(arena, &hlm_explanation_table, &explanation, err));
    } else {
        print_explanation(arena, plan, &explanation);
    }
    return judge(&explanation, err);
}

static const struct hlm_opt opts[] = {
    {.name = "why-not",
     .type = HLM_OPT_STRING,
     .offset = offsetof(struct explain_options, why_not),
     .arg = "K=V,...",
     .help = "What to compare the plan with, such as tp=4,pp=8: the best plan that has it. Keys as "
             "of plan's --require."},
    {.name = "json",
     .type = HLM_OPT_FLAG,
     .offset = offsetof(struct explain_options, json),
     .help = "Print the explanation as JSON."},
    {.name = NULL}};
static const struct hlm_positional positionals[] = {
    {"plan.json", offsetof(struct explain_options, plan), true,
     "The plan; an edited one is explained as it stands."},
    {.name = NULL}};
const struct hlm_command hlm_cmd_explain = {
    .name = "explain",
    .summary = "why this plan and not another, and what would help",
    .description =
        "Without --why-not: what the step's time is spent on, how much memory is left, which links "
        "carry what, the gain in tokens per second that more memory, a faster device, faster "
        "links or a larger batch would bring, and why each runner-up lost. With --why-not: the "
        "best plan of that kind and the parts of time and memory by which it differs, or the rule "
        "that it breaks, or the bytes that it misses and the changes that let it fit. Two plans "
        "that lie within the profile's uncertainty are said to. Exits with 1 when what was asked "
        "for is not legal or does not fit.",
    .example = "hlmplan explain plan.json --why-not tp=4,pp=8",
    .opts = opts,
    .positionals = positionals,
    .options_size = sizeof(struct explain_options),
    .run = run};
