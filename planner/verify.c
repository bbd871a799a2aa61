#include "planner/verify.h"

#include <math.h>

#include "planner/verify_column.h"
#include "planner/verify_ranked.h"

/* Sums in another order, and GLPK's tolerance, may differ by this much. */
static const double slack_frac = 1e-6;

/* --- the plan itself --- */

static enum hlm_status compare_seconds(const char *what, double claimed_s, double own_s,
                                       struct hlm_err *err)
{
    if (fabs(claimed_s - own_s) <= 1e-9 * own_s) {
        return HLM_OK;
    }
    return hlm_fail(err, HLM_NO, "%s: the plan says %.9g s, priced again it is %.9g s", what,
                    claimed_s, own_s);
}

static enum hlm_status compare_memory(const struct hlm_plan *plan, const struct hlm_plan *own,
                                      struct hlm_err *err)
{
    if (plan->prediction.num_memory != own->prediction.num_memory) {
        return hlm_fail(err, HLM_NO, "prediction.memory: %d stages, priced again %d",
                        plan->prediction.num_memory, own->prediction.num_memory);
    }
    for (int32_t s = 0; s < own->prediction.num_memory; s++) {
        const struct hlm_stage_memory *claimed = &plan->prediction.memory[s];
        const struct hlm_stage_memory *priced = &own->prediction.memory[s];
        if (claimed->peak_bytes != priced->peak_bytes) {
            return hlm_fail(err, HLM_NO,
                            "prediction.memory[%d]: the plan says a peak of %lld bytes, priced "
                            "again it is %lld",
                            s, (long long)claimed->peak_bytes, (long long)priced->peak_bytes);
        }
    }
    return HLM_OK;
}

static enum hlm_status compare_parts(const struct hlm_time_node *claimed,
                                     const struct hlm_time_node *own, struct hlm_err *err)
{
    HLM_TRY(compare_seconds(claimed->name, claimed->seconds, own->seconds, err));
    if (claimed->num_parts != own->num_parts) {
        return hlm_fail(err, HLM_NO, "prediction.parts: %s has %d parts, priced again %d",
                        claimed->name, claimed->num_parts, own->num_parts);
    }
    for (int32_t i = 0; i < own->num_parts; i++) {
        HLM_TRY(compare_parts(&claimed->parts[i], &own->parts[i], err));
    }
    return HLM_OK;
}

static enum hlm_status check_plan(struct hlm_arena *arena, const struct hlm_plan *plan,
                                  double *out_step_s, struct hlm_err *err)
{
    const struct hlm_plan *own = NULL;
    HLM_TRY(hlm_plan_check_digests(arena, plan, "the plan", err));
    HLM_TRY(hlm_plan_price(arena, &plan->model, &plan->cluster, &plan->strategy, plan->stages,
                           plan->num_stages, &own, NULL, err));
    HLM_TRY(compare_seconds("prediction.step_time_s", plan->prediction.step_time_s,
                            own->prediction.step_time_s, err));
    HLM_TRY(compare_memory(plan, own, err));
    HLM_TRY(compare_parts(&plan->prediction.parts, &own->prediction.parts, err));
    *out_step_s = own->prediction.step_time_s;
    return HLM_OK;
}

static enum hlm_status check_runners_up(struct hlm_arena *arena, const struct hlm_plan *plan,
                                        double step_s, struct hlm_err *err)
{
    for (int32_t i = 0; i < plan->num_runners_up; i++) {
        const struct hlm_plan_runner_up *runner = &plan->runners_up[i];
        const struct hlm_plan *own = NULL;
        HLM_TRY(hlm_plan_price(arena, &plan->model, &plan->cluster, &runner->strategy,
                               runner->stages, runner->num_stages, &own, NULL, err));
        HLM_TRY(
            compare_seconds("runners_up", runner->step_time_s, own->prediction.step_time_s, err));
        if (own->prediction.step_time_s < step_s * (1 - slack_frac)) {
            return hlm_fail(err, HLM_NO,
                            "runners_up[%d] takes %.9g s, less than the %.9g s of the plan", i,
                            own->prediction.step_time_s, step_s);
        }
    }
    return HLM_OK;
}

/* --- the certificate --- */

static enum hlm_status check_sums(const struct hlm_plan_certificate *certificate, double step_s,
                                  struct hlm_err *err)
{
    const double gap_frac = (step_s - certificate->lower_bound_s) / step_s;
    if (certificate->lower_bound_s > step_s * (1 + slack_frac)) {
        return hlm_fail(err, HLM_NO, "certificate.lower_bound_s = %.9g is above the step, %.9g s",
                        certificate->lower_bound_s, step_s);
    }
    if (fabs(gap_frac - certificate->gap_frac) > slack_frac) {
        return hlm_fail(err, HLM_NO, "certificate.gap_frac = %.9g, but step and bound give %.9g",
                        certificate->gap_frac, gap_frac);
    }
    if (certificate->num_pruned_by_bound + certificate->num_infeasible > certificate->num_columns) {
        return hlm_fail(err, HLM_NO, "certificate: %lld columns pruned and %lld infeasible of %lld",
                        (long long)certificate->num_pruned_by_bound,
                        (long long)certificate->num_infeasible,
                        (long long)certificate->num_columns);
    }
    const struct hlm_plan_master *master = &certificate->master;
    if (master->status == HLM_PROOF_OPTIMAL &&
        (master->objective_s > step_s * (1 + slack_frac) ||
         certificate->lower_bound_s <
             fmin(master->objective_s, step_s * (1 - certificate->max_gap_frac)) *
                 (1 - slack_frac))) {
        return hlm_fail(err, HLM_NO,
                        "certificate.master.objective_s = %.9g agrees neither with the bound %.9g "
                        "nor with the step %.9g",
                        master->objective_s, certificate->lower_bound_s, step_s);
    }
    return HLM_OK;
}

/* What the enumeration carries along. */
struct audit {
    const struct hlm_plan *plan;
    const struct hlm_search_require *require;
    struct hlm_arena *arena;
    struct hlm_pricer_cache *cache; /* for ranked columns */
    double goal_s;
    struct hlm_verify_report *report;
    struct hlm_err *err;
};

static enum hlm_status count_verdict(struct audit *audit, const struct hlm_strategy *strategy,
                                     enum hlm_verdict verdict, double step_s)
{
    struct hlm_verify_report *report = audit->report;
    report->num_columns++;
    switch (verdict) {
    case HLM_VERDICT_CLOSED_FORM:
    case HLM_VERDICT_BOUNDED:
        report->num_bounded++;
        return HLM_OK;
    case HLM_VERDICT_INFEASIBLE:
        report->num_infeasible++;
        return HLM_OK;
    case HLM_VERDICT_SIMULATED:
        report->num_winner++;
        return HLM_OK;
    default:
        return hlm_fail(
            audit->err, HLM_NO,
            "dp=%d tp=%d pp=%d cp=%d vpp=%d microbatch_size=%lld sp=%d ep=%d zero=%d schedule=%s: "
            "the certificate says that nothing is below %.9g s, %s %.9g s",
            strategy->dp, strategy->tp, strategy->pp, strategy->cp, strategy->vpp,
            (long long)strategy->microbatch_size, strategy->sp, strategy->ep, strategy->zero,
            hlm_schedule_texts[strategy->schedule], audit->plan->certificate->lower_bound_s,
            verdict == HLM_VERDICT_FASTER
                ? "but a partition simulates to"
                : "but more partitions than can be simulated are not bounded by it; "
                  "the best so far is",
            step_s);
    }
}

static bool agrees(int32_t required, int32_t any, int32_t value)
{
    return required == any || required == value;
}

/* A column of a family: ZeRO stage, schedule and chunks. False: it is none. */
static bool is_column(const struct audit *audit, const struct hlm_strategy *strategy)
{
    const struct hlm_schedule_params params = {.kind = strategy->schedule,
                                               .num_ranks = strategy->pp,
                                               .chunks = strategy->vpp,
                                               .num_microbatches =
                                                   (int32_t)strategy->num_microbatches};
    struct hlm_err reason;
    return (strategy->zero == 0 || strategy->dp * (int64_t)strategy->cp > 1) &&
           (strategy->pp > 1 || strategy->schedule == HLM_SCHEDULE_1F1B) &&
           agrees(audit->require->zero, -1, strategy->zero) &&
           agrees(audit->require->schedule, -1, (int32_t)strategy->schedule) &&
           agrees(audit->require->vpp, 0, strategy->vpp) &&
           hlm_strategy_check(strategy, &audit->plan->model, &reason) == HLM_OK &&
           hlm_schedule_check_params(&params, &reason) == HLM_OK &&
           (!audit->plan->certificate->runnable_only ||
            hlm_lowering_refusal(&audit->plan->model, strategy) == NULL);
}

/* The least seconds of the family's whole work on one of pp ranks, for every microbatch: no
 * schedule and no ZeRO stage takes less. */
static double family_floor_s(const struct audit *audit, const struct hlm_pricer *pricer)
{
    double work_s = 0.0;
    for (int32_t block = -1; block <= audit->plan->model.num_layers; block++) {
        const enum hlm_block_kind kind = block < 0 ? HLM_BLOCK_EMBEDDING
                                         : block == audit->plan->model.num_layers
                                             ? HLM_BLOCK_HEAD
                                             : hlm_plan_layer_kind(&audit->plan->model, block);
        const bool is_layer = block >= 0 && block < audit->plan->model.num_layers;
        double least_s = INFINITY;
        for (int32_t mode = 0; mode < (is_layer ? HLM_NUM_RECOMPUTES : 1); mode++) {
            const struct hlm_block_cost *cost = &pricer->blocks[kind][mode];
            const bool allowed =
                !is_layer || audit->require->recompute < 0 || audit->require->recompute == mode;
            const double backward_s =
                fmin(cost->backward.seconds, cost->input_grad.seconds + cost->weight_grad.seconds);
            least_s = allowed ? fmin(least_s, cost->forward.seconds + backward_s) : least_s;
        }
        work_s += least_s;
    }
    return (double)pricer->strategy->num_microbatches * work_s / pricer->strategy->pp;
}

static enum hlm_status audit_column(struct audit *audit, const struct hlm_strategy *strategy,
                                    bool is_bounded)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(audit->arena);
    double step_s = 0.0;
    enum hlm_verdict verdict = HLM_VERDICT_CLOSED_FORM;
    if (!is_bounded && strategy->schedule <= HLM_SCHEDULE_1F1B) {
        struct hlm_pricer pricer;
        HLM_TRY(hlm_pricer_init(audit->arena, &audit->plan->model, strategy, &audit->plan->cluster,
                                0, &pricer, audit->err));
        verdict = hlm_verify_column(&pricer, audit->require->recompute, audit->goal_s, &step_s);
    } else if (!is_bounded) {
        verdict = hlm_verify_ranked(audit->cache, strategy, audit->goal_s, &step_s);
    }
    hlm_arena_rewind(audit->arena, mark);
    return count_verdict(audit, strategy, verdict, step_s);
}

static enum hlm_status audit_family(struct audit *audit, struct hlm_strategy family)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(audit->arena);
    struct hlm_pricer pricer;
    struct hlm_err reason;
    double floor_s = 0.0;
    family.schedule = HLM_SCHEDULE_1F1B;
    hlm_strategy_complete(&family);
    if (hlm_strategy_check(&family, &audit->plan->model, &reason) != HLM_OK ||
        hlm_family_floor(audit->cache, &family, &floor_s, &reason) != HLM_OK) {
        return HLM_OK;
    }
    if (floor_s < audit->goal_s) {
        if (hlm_pricer_init(audit->arena, &audit->plan->model, &family, &audit->plan->cluster, 0,
                            &pricer, &reason) != HLM_OK) {
            hlm_arena_rewind(audit->arena, mark);
            return HLM_OK;
        }
        floor_s = family_floor_s(audit, &pricer);
        hlm_arena_rewind(audit->arena, mark);
    }
    const bool is_bounded = floor_s >= audit->goal_s;
    const int32_t most_vpp = (audit->plan->model.num_layers + 2) / family.pp;
    for (int32_t schedule = 0; schedule < HLM_NUM_SCHEDULES; schedule++) {
        for (int32_t choice = 0; choice < 4 * most_vpp; choice++) {
            struct hlm_strategy strategy = family;
            strategy.zero = choice % 4;
            strategy.vpp = choice / 4 + 1;
            strategy.zero_group = 0;
            strategy.schedule = (enum hlm_schedule_kind)schedule;
            hlm_strategy_complete(&strategy);
            if (is_column(audit, &strategy)) {
                HLM_TRY(audit_column(audit, &strategy, is_bounded));
            }
        }
    }
    return HLM_OK;
}

static enum hlm_status audit_experts(struct audit *audit, struct hlm_strategy family)
{
    const int32_t num_experts = audit->plan->model.moe.num_experts;
    const int32_t most = num_experts > 0 ? num_experts : 1;
    for (int32_t ep = most; ep >= 1; ep--) {
        const bool divides = most % ep == 0 && (int64_t)family.dp * family.cp * family.tp % ep == 0;
        if (divides && agrees(audit->require->ep, 0, ep)) {
            family.ep = ep;
            HLM_TRY(audit_family(audit, family));
        }
    }
    return HLM_OK;
}

static enum hlm_status audit_sizes(struct audit *audit, struct hlm_strategy family)
{
    const int64_t batch = audit->plan->strategy.global_batch_size;
    for (int64_t m = 1; m * family.dp <= batch; m++) {
        if (batch % (m * family.dp) != 0) {
            continue;
        }
        family.microbatch_size = batch / (m * family.dp);
        if (audit->require->microbatch_size != 0 &&
            audit->require->microbatch_size != family.microbatch_size) {
            continue;
        }
        for (int32_t sp = 0; sp < (family.tp > 1 ? 2 : 1); sp++) {
            if (agrees(audit->require->sp, -1, sp)) {
                family.sp = sp != 0;
                HLM_TRY(audit_experts(audit, family));
            }
        }
    }
    return HLM_OK;
}

static enum hlm_status audit_degrees(struct audit *audit, int64_t dp, int64_t tp, int64_t cp)
{
    const struct hlm_strategy *given = &audit->plan->strategy;
    const int64_t devices = hlm_cluster_num_devices(&audit->plan->cluster);
    const int64_t pp = devices / dp / tp / cp;
    if (dp * tp * cp * pp != devices || !agrees(audit->require->dp, 0, (int32_t)dp) ||
        !agrees(audit->require->tp, 0, (int32_t)tp) ||
        !agrees(audit->require->cp, 0, (int32_t)cp) ||
        !agrees(audit->require->pp, 0, (int32_t)pp)) {
        return HLM_OK;
    }
    return audit_sizes(audit, (struct hlm_strategy){.dp = (int32_t)dp,
                                                    .tp = (int32_t)tp,
                                                    .pp = (int32_t)pp,
                                                    .cp = (int32_t)cp,
                                                    .global_batch_size = given->global_batch_size,
                                                    .seq_len = given->seq_len,
                                                    .dtype = given->dtype,
                                                    .lowering = given->lowering});
}

static enum hlm_status audit_columns(struct audit *audit)
{
    const int64_t devices = hlm_cluster_num_devices(&audit->plan->cluster);
    for (int64_t dp = 1; dp <= devices; dp++) {
        for (int64_t tp = 1; devices % dp == 0 && tp <= devices / dp; tp++) {
            for (int64_t cp = 1; devices / dp % tp == 0 && cp <= devices / dp / tp; cp++) {
                HLM_TRY(audit_degrees(audit, dp, tp, cp));
            }
        }
    }
    return HLM_OK;
}

static enum hlm_status check_certificate(struct hlm_arena *arena, const struct hlm_plan *plan,
                                         double step_s, struct hlm_verify_report *report,
                                         struct hlm_err *err)
{
    const struct hlm_plan_certificate *certificate = plan->certificate;
    HLM_TRY(check_sums(certificate, step_s, err));
    struct audit audit = {.plan = plan,
                          .require = &certificate->require,
                          .arena = arena,
                          .goal_s = certificate->lower_bound_s * (1 - slack_frac),
                          .report = report,
                          .err = err};
    const struct hlm_search_problem problem = {.model = &plan->model,
                                               .cluster = &plan->cluster,
                                               .global_batch_size =
                                                   plan->strategy.global_batch_size,
                                               .seq_len = plan->strategy.seq_len,
                                               .dtype = plan->strategy.dtype,
                                               .lowering = plan->strategy.lowering,
                                               .runnable_only = certificate->runnable_only,
                                               .require = certificate->require};
    struct hlm_arena *kept = hlm_arena_new(); /* the audit rewinds its own */
    audit.cache = hlm_pricer_cache_new(kept, &problem);
    const enum hlm_status status = audit_columns(&audit);
    hlm_arena_free(kept);
    HLM_TRY(status);
    if (report->num_columns != certificate->num_columns) {
        return hlm_fail(err, HLM_NO, "certificate.num_columns = %lld, but %lld are legal",
                        (long long)certificate->num_columns, (long long)report->num_columns);
    }
    report->least_bound_s = certificate->lower_bound_s;
    return HLM_OK;
}

enum hlm_status hlm_verify(struct hlm_arena *arena, const struct hlm_plan *plan,
                           struct hlm_verify_report *out, struct hlm_err *err)
{
    struct hlm_verify_report report = {0};
    HLM_TRY(check_plan(arena, plan, &report.step_time_s, err));
    if (plan->certificate == NULL) {
        return hlm_fail(err, HLM_NO, "the plan was priced, not searched: it has no certificate");
    }
    HLM_TRY(check_runners_up(arena, plan, report.step_time_s, err));
    HLM_TRY(check_certificate(arena, plan, report.step_time_s, &report, err));
    *out = report;
    return HLM_OK;
}
