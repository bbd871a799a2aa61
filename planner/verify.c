#include "planner/verify.h"

#include <math.h>

#include "planner/verify_column.h"
#include "planner/verify_offer.h"
#include "planner/verify_prices.h"
#include "planner/verify_ranked.h"
#include "planner/verify_require.h"
#include "planner/verify_shares.h"
#include "planner/verify_ways.h"

/* Sums in another order, and GLPK's tolerance, may differ by this much. */
static const double slack_frac = 1e-6;

/* --- the plan itself --- */

static enum hlm_status compare_seconds(const char *what, double claimed_s, double own_s,
                                       struct hlm_err *err)
{
    if (fabs(claimed_s - own_s) <= 1e-9 * fabs(own_s)) {
        return HLM_OK;
    }
    return hlm_fail(err, HLM_NO, "%s: the plan says %.9g s, priced again it is %.9g s", what,
                    claimed_s, own_s);
}

static enum hlm_status compare_number(const char *what, double claimed, double own,
                                      struct hlm_err *err)
{
    if (fabs(claimed - own) <= 1e-9 * fabs(own)) {
        return HLM_OK;
    }
    return hlm_fail(err, HLM_NO, "%s: the plan says %.9g, priced again it is %.9g", what, claimed,
                    own);
}

/* What follows from the step time. */
static enum hlm_status compare_rates(const struct hlm_plan_prediction *claimed,
                                     const struct hlm_plan_prediction *own, struct hlm_err *err)
{
    HLM_TRY(compare_number("prediction.mfu", claimed->mfu, own->mfu, err));
    HLM_TRY(
        compare_number("prediction.tokens_per_s", claimed->tokens_per_s, own->tokens_per_s, err));
    HLM_TRY(compare_number("prediction.cost_per_token", claimed->cost_per_token,
                           own->cost_per_token, err));
    HLM_TRY(compare_seconds("prediction.interval.low_s", claimed->interval.low_s,
                            own->interval.low_s, err));
    return compare_seconds("prediction.interval.high_s", claimed->interval.high_s,
                           own->interval.high_s, err);
}

static enum hlm_status compare_bytes(int32_t index, const char *what, int64_t claimed, int64_t own,
                                     struct hlm_err *err)
{
    if (claimed == own) {
        return HLM_OK;
    }
    return hlm_fail(err, HLM_NO,
                    "prediction.memory[%d].%s: the plan says %lld, priced again it is %lld", index,
                    what, (long long)claimed, (long long)own);
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
        HLM_TRY(compare_bytes(s, "stage", claimed->stage, priced->stage, err));
        if (claimed->peak_bytes != priced->peak_bytes) {
            return hlm_fail(err, HLM_NO,
                            "prediction.memory[%d]: the plan says a peak of %lld bytes, priced "
                            "again it is %lld",
                            s, (long long)claimed->peak_bytes, (long long)priced->peak_bytes);
        }
        HLM_TRY(compare_bytes(s, "limit_bytes", claimed->limit_bytes, priced->limit_bytes, err));
        HLM_TRY(compare_bytes(s, "host_bytes", claimed->host_bytes, priced->host_bytes, err));
        for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
            HLM_TRY(compare_bytes(s, hlm_memory_kind_texts[kind], claimed->bytes[kind],
                                  priced->bytes[kind], err));
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
    HLM_TRY(compare_rates(&plan->prediction, &own->prediction, err));
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
        HLM_TRY(hlm_plan_check_runner_up(plan, i, err));
        HLM_TRY(hlm_plan_price(arena, &plan->model, &plan->cluster, &runner->strategy,
                               runner->stages, runner->num_stages, &own, NULL, err));
        HLM_TRY(
            compare_seconds("runners_up", runner->step_time_s, own->prediction.step_time_s, err));
        HLM_TRY(compare_seconds("runners_up: interval.low_s", runner->interval.low_s,
                                own->prediction.interval.low_s, err));
        HLM_TRY(compare_seconds("runners_up: interval.high_s", runner->interval.high_s,
                                own->prediction.interval.high_s, err));
        if (runner->within_uncertainty !=
            hlm_plan_intervals_meet(&runner->interval, &plan->prediction.interval)) {
            return hlm_fail(err, HLM_NO,
                            "runners_up[%d].within_uncertainty = %s, which the intervals of the "
                            "two do not say",
                            i, runner->within_uncertainty ? "true" : "false");
        }
        if (own->prediction.step_time_s < step_s * (1 - slack_frac)) {
            return hlm_fail(err, HLM_NO,
                            "runners_up[%d] takes %.9g s, less than the %.9g s of the plan", i,
                            own->prediction.step_time_s, step_s);
        }
    }
    return HLM_OK;
}

/* --- the certificate --- */

/* It is about strategies whose replicas are alike: their bound may be above a plan of others, and
 * that of others, where the gap is not closed, below it. */
static bool master_agrees(const struct hlm_plan *plan, double step_s)
{
    const struct hlm_plan_certificate *certificate = plan->certificate;
    const double objective_s = certificate->master.objective_s;
    const double within_s = step_s * (1 - certificate->max_gap_frac);
    const bool has_shares = plan->strategy.num_replicas > 0;
    const bool has_others = plan->cluster.num_groups > 1;
    return (has_shares || objective_s <= step_s * (1 + slack_frac)) &&
           (has_others ||
            certificate->lower_bound_s >= fmin(objective_s, within_s) * (1 - slack_frac));
}

static enum hlm_status check_sums(const struct hlm_plan *plan, double step_s, struct hlm_err *err)
{
    const struct hlm_plan_certificate *certificate = plan->certificate;
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
    if (master->status == HLM_PROOF_OPTIMAL && !master_agrees(plan, step_s)) {
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
    struct hlm_verify_prices *prices;
    struct hlm_pricer_cache *cache; /* for ranked columns */
    struct hlm_layer_memo *memo;    /* for floors of families */
    double goal_s;
    const struct hlm_verify_way *way; /* of the strategies at hand; NULL on one device group */
    struct hlm_verify_report *report; /* NULL: columns that a family's floor bounds are not counted,
                                         nor are the others */
    struct hlm_err *err;
};

static enum hlm_status count_verdict(struct audit *audit, const struct hlm_strategy *strategy,
                                     enum hlm_verdict verdict, double step_s)
{
    struct hlm_verify_report uncounted = {0};
    struct hlm_verify_report *report = audit->report == NULL ? &uncounted : audit->report;
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

/* Schedule and chunks of a family's columns. False: there are none, in whatever ZeRO stage. */
static bool may_have_columns(const struct audit *audit, const struct hlm_strategy *strategy)
{
    const struct hlm_schedule_params params = {.kind = strategy->schedule,
                                               .num_ranks = strategy->pp,
                                               .chunks = strategy->vpp,
                                               .num_microbatches =
                                                   (int32_t)strategy->num_microbatches};
    return (strategy->pp > 1 || strategy->schedule == HLM_SCHEDULE_1F1B) &&
           (audit->way == NULL || audit->way->num_groups == 1 ||
            hlm_schedule_chunks(strategy->schedule).max == 1) &&
           agrees(audit->require->schedule, -1, (int32_t)strategy->schedule) &&
           agrees(audit->require->vpp, 0, strategy->vpp) &&
           hlm_schedule_check_params(&params, NULL) == HLM_OK;
}

/* One of these, by its ZeRO stage. */
static bool is_column(const struct audit *audit, const struct hlm_strategy *strategy)
{
    return (strategy->zero == 0 || strategy->dp * (int64_t)strategy->cp > 1) &&
           agrees(audit->require->zero, -1, strategy->zero) &&
           hlm_strategy_check(strategy, &audit->plan->model, NULL) == HLM_OK &&
           (!audit->plan->certificate->runnable_only ||
            hlm_lowering_refusal(&audit->plan->model, strategy) == NULL);
}

/* The least seconds of a microbatch in a block: F and B, or I and W where these take less. */
static double block_least_s(const struct audit *audit, const struct hlm_pricer *pricer,
                            enum hlm_block_kind kind)
{
    const bool is_layer = kind == HLM_BLOCK_DENSE || kind == HLM_BLOCK_MOE;
    double least_s = INFINITY;
    for (int32_t mode = 0; mode < (is_layer ? HLM_NUM_RECOMPUTES : 1); mode++) {
        const struct hlm_block_cost *cost = &pricer->blocks[kind][mode];
        const bool allowed =
            !is_layer || audit->require->recompute < 0 || audit->require->recompute == mode;
        const double backward_s =
            fmin(cost->backward.seconds, cost->input_grad.seconds + cost->weight_grad.seconds);
        least_s = allowed ? fmin(least_s, cost->forward.seconds + backward_s) : least_s;
    }
    return least_s;
}

static double layer_least_s(const struct audit *audit, const struct hlm_pricer *pricer,
                            int32_t layer)
{
    return block_least_s(audit, pricer, hlm_plan_layer_kind(&audit->plan->model, layer));
}

/* Of one group: some rank has the pp-th part of the work. */
static double alike_floor_s(const struct audit *audit, const struct hlm_pricer *pricer)
{
    double work_s = block_least_s(audit, pricer, HLM_BLOCK_EMBEDDING);
    for (int32_t layer = 0; layer < audit->plan->model.num_layers; layer++) {
        work_s += layer_least_s(audit, pricer, layer);
    }
    work_s += block_least_s(audit, pricer, HLM_BLOCK_HEAD);
    return work_s / pricer->strategy->pp;
}

/* Layers that ranks can take within these seconds, each at its fastest, by kinds that take least.
 */
static double layers_within(const double *layer_s, int32_t pp, double seconds)
{
    double layers = 0.0;
    for (int32_t rank = 0; rank < pp; rank++) {
        layers += floor(seconds / layer_s[rank] * (1.0 + slack_frac));
    }
    return layers;
}

static int32_t count_layers(const struct hlm_model *model, int32_t kind)
{
    int32_t count = 0;
    for (int32_t layer = 0; layer < model->num_layers; layer++) {
        count += (int32_t)hlm_plan_layer_kind(model, layer) == kind ? 1 : 0;
    }
    return count;
}

/* Of several groups: with T the longest of any rank, the ranks take all layers within T, so T is at
 * least the first multiple of a layer's seconds on one of them within which they can; and the T of
 * all ranks, each as a part of what the whole model would take on it, sum to one whole at least.
 * For that the part is taken at the kind of layer in which the rank falls least behind the fastest.
 */
static double mixed_floor_s(const struct audit *audit, const struct hlm_pricer *const *pricers,
                            int32_t pp)
{
    const int32_t num_layers = audit->plan->model.num_layers;
    double *layer_s = HLM_ARENA_ARRAY(audit->arena, double, pp);
    double *behind = HLM_ARENA_ARRAY(audit->arena, double, pp);
    double *own_s = HLM_ARENA_ARRAY(audit->arena, double, pp);
    double work_s = 0.0, speed = 0.0, whole_s = INFINITY;
    for (int32_t rank = 0; rank < pp; rank++) {
        layer_s[rank] = behind[rank] = INFINITY;
    }
    for (int32_t kind = HLM_BLOCK_DENSE; kind <= HLM_BLOCK_MOE; kind++) {
        const int32_t count = count_layers(&audit->plan->model, kind);
        double fastest_s = INFINITY;
        for (int32_t rank = 0; count > 0 && rank < pp; rank++) {
            own_s[rank] = rank > 0 && pricers[rank] == pricers[rank - 1]
                              ? own_s[rank - 1]
                              : block_least_s(audit, pricers[rank], (enum hlm_block_kind)kind);
            fastest_s = fmin(fastest_s, own_s[rank]);
            layer_s[rank] = fmin(layer_s[rank], own_s[rank]);
        }
        for (int32_t rank = 0; count > 0 && rank < pp; rank++) {
            behind[rank] = fmin(behind[rank], own_s[rank] / fastest_s);
        }
        work_s += count > 0 ? count * fastest_s : 0.0;
    }
    for (int32_t rank = 0; rank < pp; rank++) {
        speed += 1.0 / behind[rank];
        const bool seen = rank > 0 && pricers[rank] == pricers[rank - 1];
        for (int32_t n = 1; !seen && n <= num_layers && n * layer_s[rank] < whole_s; n++) {
            if (layers_within(layer_s, pp, n * layer_s[rank]) >= num_layers) {
                whole_s = n * layer_s[rank];
            }
        }
    }
    return fmax(work_s / speed, whole_s * (1.0 - slack_frac));
}

/* No schedule, no ZeRO stage and no order of device groups takes less. */
static double family_floor_s(const struct audit *audit, const struct hlm_strategy *family,
                             const struct hlm_pricer *const *pricers)
{
    bool alike = true;
    for (int32_t pp = 0; pp < family->pp; pp++) {
        alike = alike && pricers[pp] == pricers[0];
    }
    return (double)family->num_microbatches *
           (alike ? alike_floor_s(audit, pricers[0]) : mixed_floor_s(audit, pricers, family->pp));
}

static enum hlm_status audit_column(struct audit *audit, const struct hlm_strategy *strategy,
                                    bool is_bounded)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(audit->arena);
    double step_s = 0.0;
    enum hlm_verdict verdict = HLM_VERDICT_CLOSED_FORM;
    if (!is_bounded && strategy->schedule <= HLM_SCHEDULE_1F1B) {
        const struct hlm_pricer *const *pricers = NULL;
        HLM_TRY(hlm_verify_prices_get(audit->prices, audit->arena, strategy, &pricers, audit->err));
        verdict =
            hlm_verify_column(strategy, pricers, audit->require->recompute, audit->goal_s, &step_s);
    } else if (!is_bounded) {
        verdict = hlm_verify_ranked(audit->cache, strategy, audit->goal_s, &step_s);
    }
    hlm_arena_rewind(audit->arena, mark);
    return count_verdict(audit, strategy, verdict, step_s);
}

/* In every order of device groups. */
static enum hlm_status audit_orders(struct audit *audit, struct hlm_strategy strategy,
                                    bool is_bounded)
{
    if (!is_column(audit, &strategy)) {
        return HLM_OK;
    }
    if (audit->way == NULL) {
        return audit_column(audit, &strategy, is_bounded);
    }
    for (int32_t i = 0; i < audit->way->num_orders; i++) {
        strategy.places = audit->way->orders[i];
        HLM_TRY(audit_column(audit, &strategy, is_bounded));
    }
    return HLM_OK;
}

/* In every ZeRO stage. */
static enum hlm_status audit_sharings(struct audit *audit, struct hlm_strategy strategy,
                                      bool is_bounded)
{
    if (!may_have_columns(audit, &strategy)) {
        return HLM_OK;
    }
    for (int32_t zero = 0; zero < 4; zero++) {
        strategy.zero = zero;
        strategy.zero_group = 0;
        hlm_strategy_complete(&strategy);
        HLM_TRY(audit_orders(audit, strategy, is_bounded));
    }
    return HLM_OK;
}

/* By every schedule with every number of chunks. */
static enum hlm_status audit_schedules(struct audit *audit, struct hlm_strategy strategy,
                                       bool is_bounded)
{
    const int32_t most_vpp = (audit->plan->model.num_layers + 2) / strategy.pp;
    for (int32_t schedule = 0; schedule < HLM_NUM_SCHEDULES; schedule++) {
        strategy.schedule = (enum hlm_schedule_kind)schedule;
        const struct hlm_schedule_chunks chunks = hlm_schedule_chunks(strategy.schedule);
        for (int32_t vpp = chunks.min; vpp <= chunks.max && vpp <= most_vpp; vpp++) {
            strategy.vpp = vpp;
            HLM_TRY(audit_sharings(audit, strategy, is_bounded));
        }
    }
    return HLM_OK;
}

static enum hlm_status audit_family(struct audit *audit, struct hlm_strategy family)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(audit->arena);
    const struct hlm_pricer *const *pricers = NULL;
    struct hlm_err reason;
    double floor_s = 0.0;
    family.schedule = HLM_SCHEDULE_1F1B;
    hlm_strategy_complete(&family);
    if (hlm_strategy_check(&family, &audit->plan->model, NULL) != HLM_OK ||
        hlm_family_floor(audit->cache, audit->memo, &family, &floor_s, &reason) != HLM_OK) {
        return HLM_OK;
    }
    if (floor_s < audit->goal_s) {
        if (hlm_verify_prices_get(audit->prices, audit->arena, &family, &pricers, &reason) !=
            HLM_OK) {
            hlm_arena_rewind(audit->arena, mark);
            return HLM_OK;
        }
        floor_s = family_floor_s(audit, &family, pricers);
        hlm_arena_rewind(audit->arena, mark);
    }
    const bool is_bounded = floor_s >= audit->goal_s;
    return is_bounded && audit->report == NULL ? HLM_OK
                                               : audit_schedules(audit, family, is_bounded);
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

static enum hlm_status audit_degrees(struct audit *audit, int64_t dp, int64_t tp, int64_t cp,
                                     int64_t pp)
{
    const struct hlm_strategy *given = &audit->plan->strategy;
    if (!agrees(audit->require->dp, 0, (int32_t)dp) ||
        !agrees(audit->require->tp, 0, (int32_t)tp) ||
        !agrees(audit->require->cp, 0, (int32_t)cp) ||
        !agrees(audit->require->pp, 0, (int32_t)pp)) {
        return HLM_OK;
    }
    return audit_sizes(
        audit, (struct hlm_strategy){.dp = (int32_t)dp,
                                     .tp = (int32_t)tp,
                                     .pp = (int32_t)pp,
                                     .cp = (int32_t)cp,
                                     .places = audit->way == NULL ? NULL : audit->way->orders[0],
                                     .global_batch_size = given->global_batch_size,
                                     .seq_len = given->seq_len,
                                     .dtype = given->dtype,
                                     .lowering = given->lowering,
                                     .offload = audit->require->offload < 0
                                                    ? HLM_OFFLOAD_NONE
                                                    : (enum hlm_offload)audit->require->offload});
}

static enum hlm_status audit_columns(struct audit *audit)
{
    const int64_t devices = hlm_cluster_num_devices(&audit->plan->cluster);
    for (int64_t dp = 1; dp <= devices; dp++) {
        for (int64_t tp = 1; devices % dp == 0 && tp <= devices / dp; tp++) {
            for (int64_t cp = 1; devices / dp % tp == 0 && cp <= devices / dp / tp; cp++) {
                if (devices / dp / tp % cp == 0) {
                    HLM_TRY(audit_degrees(audit, dp, tp, cp, devices / dp / tp / cp));
                }
            }
        }
    }
    return HLM_OK;
}

/* Over several device groups. */
static enum hlm_status audit_ways(struct audit *audit)
{
    const int64_t devices = hlm_cluster_num_devices(&audit->plan->cluster);
    struct hlm_arena *arena = hlm_arena_new();
    enum hlm_status status = HLM_OK;
    for (int32_t replicas = 1; replicas <= devices && status == HLM_OK; replicas++) {
        const struct hlm_verify_way *ways = NULL;
        int32_t num_ways = 0;
        hlm_verify_ways(arena, &audit->plan->cluster, &audit->plan->model, replicas, &ways,
                        &num_ways);
        for (int32_t i = 0; i < num_ways * replicas && status == HLM_OK; i++) {
            const int32_t cp = i % replicas + 1;
            audit->way = &ways[i / replicas];
            const bool counts = !audit->plan->certificate->all_groups ||
                                audit->way->num_groups == audit->plan->cluster.num_groups;
            if (replicas % cp == 0 && counts) {
                status =
                    audit_degrees(audit, replicas / cp, audit->way->largest_tp, cp, audit->way->pp);
            }
        }
    }
    hlm_arena_free(arena);
    return status;
}

enum hlm_status hlm_verify_bound(struct hlm_arena *arena, const struct hlm_plan *plan,
                                 struct hlm_verify_report *report, struct hlm_err *err)
{
    const struct hlm_plan_certificate *certificate = plan->certificate;
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
    audit.memo = hlm_layer_memo_new(kept);
    audit.prices = hlm_verify_prices_new(kept, &plan->model, &plan->cluster);
    enum hlm_status status =
        plan->cluster.num_groups > 1 ? audit_ways(&audit) : audit_columns(&audit);
    hlm_layer_memo_release(audit.memo);
    if (status == HLM_OK && plan->cluster.num_groups > 1) {
        struct hlm_verify_report uncounted = {0};
        status = hlm_verify_shares(plan, audit.prices, audit.goal_s,
                                   report == NULL ? &uncounted : report, err);
    }
    hlm_arena_free(kept);
    return status;
}

static enum hlm_status check_certificate(struct hlm_arena *arena, const struct hlm_plan *plan,
                                         double step_s, struct hlm_verify_report *report,
                                         struct hlm_err *err)
{
    const struct hlm_plan_certificate *certificate = plan->certificate;
    HLM_TRY(hlm_verify_require(&certificate->require, &plan->strategy, plan->stages,
                               plan->num_stages, "the plan", err));
    HLM_TRY(check_sums(plan, step_s, err));
    HLM_TRY(hlm_verify_bound(arena, plan, report, err));
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
    if (plan->certificate->offer != NULL) {
        HLM_TRY(hlm_verify_offer(arena, plan, err));
    }
    *out = report;
    return HLM_OK;
}
