#include "planner/explain.h"

#include <math.h>
#include <string.h>

#include "planner/columns.h"
#include "planner/explain_internal.h"
#include "planner/infeasible.h"
#include "planner/share_columns.h"

#define X(name, text) text,
const char *const hlm_explain_verdict_texts[] = {HLM_EXPLAIN_VERDICT_MAP(X) NULL};
#undef X

/* --- the plan as it stands --- */

enum hlm_status hlm_explain_price(struct hlm_arena *arena, const struct hlm_plan *plan,
                                  const struct hlm_plan **out, struct hlm_err *err)
{
    const struct hlm_plan *priced = NULL;
    HLM_TRY(hlm_plan_price(arena, &plan->model, &plan->cluster, &plan->strategy, plan->stages,
                           plan->num_stages, &priced, NULL, err));
    struct hlm_plan *now = hlm_arena_memdup(arena, priced, sizeof(*priced));
    struct hlm_err edited;
    if (hlm_plan_check_digests(arena, plan, "", &edited) == HLM_OK) {
        now->certificate = plan->certificate;
        now->runners_up = plan->runners_up;
        now->num_runners_up = plan->num_runners_up;
    }
    *out = now;
    return HLM_OK;
}

struct hlm_search_problem hlm_explain_problem(const struct hlm_plan *plan)
{
    const struct hlm_strategy *strategy = &plan->strategy;
    const struct hlm_plan_certificate *certificate = plan->certificate;
    struct hlm_search_problem problem = {
        .model = &plan->model,
        .cluster = &plan->cluster,
        .global_batch_size = strategy->global_batch_size,
        .seq_len = strategy->seq_len,
        .dtype = strategy->dtype,
        .lowering = strategy->lowering,
        .require = {.sp = -1, .zero = -1, .schedule = -1, .recompute = -1, .offload = -1},
        .max_gap_frac = HLM_EXPLAIN_MAX_GAP_FRAC};
    if (strategy->offload != HLM_OFFLOAD_NONE) {
        problem.require.offload = (int32_t)strategy->offload; /* else none is searched */
    }
    if (certificate != NULL) {
        problem.require = certificate->require;
        problem.runnable_only = certificate->runnable_only;
        problem.all_groups = certificate->all_groups;
        problem.max_gap_frac = fmin(problem.max_gap_frac, certificate->max_gap_frac);
    }
    return problem;
}

static bool same_places(const struct hlm_strategy *a, const struct hlm_strategy *b)
{
    for (int32_t pp = 0; a->places != NULL && b->places != NULL && pp < a->pp; pp++) {
        if (a->places[pp].tp != b->places[pp].tp ||
            a->places[pp].first_device != b->places[pp].first_device) {
            return false;
        }
    }
    return (a->places == NULL) == (b->places == NULL);
}

/* Their shares follow the batch. */
static bool same_replicas(const struct hlm_strategy *a, const struct hlm_strategy *b)
{
    bool same = a->num_replicas == b->num_replicas;
    for (int32_t i = 0; same && i < a->num_replicas; i++) {
        same = a->replicas[i].device_group == b->replicas[i].device_group &&
               a->replicas[i].dp == b->replicas[i].dp;
    }
    return same;
}

bool hlm_explain_same_strategy(const struct hlm_strategy *a, const struct hlm_strategy *b)
{
    return a->dp == b->dp && a->tp == b->tp && a->pp == b->pp && a->cp == b->cp && a->ep == b->ep &&
           a->etp == b->etp && a->vpp == b->vpp && a->sp == b->sp && a->zero == b->zero &&
           a->zero_group == b->zero_group && a->schedule == b->schedule &&
           a->microbatch_size == b->microbatch_size && same_places(a, b) && same_replicas(a, b) &&
           a->offload == b->offload && a->offload_layers == b->offload_layers &&
           (a->cp == 1 || hlm_strategy_cp_form(a) == hlm_strategy_cp_form(b));
}

/* --- why not --- */

static void judge(struct hlm_arena *arena, const struct hlm_plan *plan,
                  const struct hlm_plan *alternative, struct hlm_explain_alternative *out)
{
    struct hlm_explain_difference *difference = HLM_ARENA_NEW(arena, struct hlm_explain_difference);
    hlm_explain_compare(arena, plan, alternative, difference);
    const bool same = strcmp(plan->digests.strategy, alternative->digests.strategy) == 0 &&
                      strcmp(plan->digests.stages, alternative->digests.stages) == 0;
    const bool faster = difference->step_time_s < plan->prediction.step_time_s;
    out->difference = difference;
    out->verdict = same ? HLM_EXPLAIN_SAME : faster ? HLM_EXPLAIN_FASTER : HLM_EXPLAIN_SLOWER;
}

static bool recomputes_as(const struct hlm_plan *plan, int32_t mode)
{
    bool all = true;
    for (int32_t s = 0; mode >= 0 && s < plan->num_stages; s++) {
        const struct hlm_plan_recompute *recompute = &plan->stages[s].recompute;
        const int32_t counts[HLM_NUM_RECOMPUTES] = {[HLM_RECOMPUTE_NONE] = recompute->none,
                                                    [HLM_RECOMPUTE_SELECTIVE] =
                                                        recompute->selective,
                                                    [HLM_RECOMPUTE_FULL] = recompute->full};
        all = all && counts[mode] == plan->stages[s].num_layers;
    }
    return all;
}

/* Whether the plan is of the kind that is asked for: then it is the answer unless the search, which
 * stops within its gap, finds a faster one. */
static bool plan_is_wanted(struct hlm_arena *arena, const struct hlm_plan *plan,
                           const struct hlm_strategy *strategies, int32_t num_strategies,
                           const struct hlm_search_problem *problem)
{
    bool listed = false;
    for (int32_t i = 0; i < num_strategies; i++) {
        listed = listed || hlm_explain_same_strategy(&strategies[i], &plan->strategy);
    }
    const struct hlm_share_family *families = NULL;
    int32_t num_families = 0;
    hlm_share_families(arena, problem, &families, &num_families);
    for (int32_t i = 0; i < num_families && !listed; i++) {
        struct hlm_strategy members[HLM_MAX_SHARE_MEMBERS];
        const int32_t num = hlm_share_members(problem, &families[i], members);
        for (int32_t k = 0; k < num; k++) {
            listed = listed || hlm_explain_same_strategy(&members[k], &plan->strategy);
        }
    }
    return listed && recomputes_as(plan, problem->require.recompute);
}

/* Of the strategies that are legal: the best plan, or why none fits. */
static enum hlm_status answer_legal(struct hlm_arena *arena, const struct hlm_plan *plan,
                                    const struct hlm_search_problem *problem,
                                    const struct hlm_search_require *asked,
                                    const struct hlm_strategy *strategies, int32_t num_strategies,
                                    struct hlm_explain_alternative *answer, struct hlm_err *err)
{
    const struct hlm_plan *found = NULL;
    struct hlm_err reason;
    const enum hlm_status status = hlm_search(arena, problem, NULL, NULL, &found, &reason);
    if (status == HLM_OK) {
        const bool own = found->prediction.step_time_s >= plan->prediction.step_time_s &&
                         plan_is_wanted(arena, plan, strategies, num_strategies, problem);
        judge(arena, plan, own ? plan : found, answer);
        return HLM_OK;
    }
    if (num_strategies == 0 || hlm_infeasible_fits(problem)) {
        *err = reason;
        return status;
    }
    answer->verdict = HLM_EXPLAIN_DOES_NOT_FIT;
    answer->misfit = hlm_explain_misfit_new(arena, problem, asked, strategies, num_strategies);
    return HLM_OK;
}

enum hlm_status hlm_explain_why_not(struct hlm_arena *arena, const struct hlm_plan *plan,
                                    const struct hlm_search_require *asked,
                                    struct hlm_explain_alternative *out, struct hlm_err *err)
{
    const struct hlm_plan *priced = NULL;
    HLM_TRY(hlm_explain_price(arena, plan, &priced, err));
    struct hlm_search_problem problem = hlm_explain_problem(priced);
    problem.require = hlm_explain_merge(&problem.require, asked);
    struct hlm_explain_alternative answer = {.asked = hlm_explain_require_text(arena, asked)};
    const struct hlm_strategy *strategies = NULL;
    int32_t num_strategies = 0;
    struct hlm_err reason;
    const struct hlm_share_family *families = NULL;
    int32_t num_families = 0;
    hlm_share_families(arena, &problem, &families, &num_families);
    if (hlm_columns_list(arena, &problem, &strategies, &num_strategies, &reason) != HLM_OK &&
        num_families == 0) {
        answer.verdict = HLM_EXPLAIN_ILLEGAL;
        answer.rule = hlm_explain_rule(arena, priced, &problem, reason.text);
    } else {
        HLM_TRY(
            answer_legal(arena, priced, &problem, asked, strategies, num_strategies, &answer, err));
    }
    *out = answer;
    return HLM_OK;
}

enum hlm_status hlm_explain_runner_up(struct hlm_arena *arena, const struct hlm_plan *plan,
                                      int32_t index, struct hlm_explain_alternative *out,
                                      struct hlm_err *err)
{
    HLM_ASSERT(index >= 0 && index < plan->num_runners_up);
    const struct hlm_plan_runner_up *runner = &plan->runners_up[index];
    const struct hlm_plan *priced = NULL, *alternative = NULL;
    HLM_TRY(hlm_explain_price(arena, plan, &priced, err));
    HLM_TRY(hlm_plan_check_runner_up(plan, index, err));
    HLM_TRY(hlm_plan_price(arena, &plan->model, &plan->cluster, &runner->strategy, runner->stages,
                           runner->num_stages, &alternative, NULL, err));
    struct hlm_explain_alternative answer = {
        .asked = hlm_arena_printf(arena, "runner-up %d", index + 1)};
    judge(arena, priced, alternative, &answer);
    *out = answer;
    return HLM_OK;
}
