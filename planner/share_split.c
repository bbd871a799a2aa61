#include "planner/share_column_internal.h"

#include <math.h>
#include <string.h>

/* --- the simulated step of a plan --- */

/* What the groups take of each stage, [num_stages] each. */
struct times {
    double *forward_s[HLM_MAX_MIXED_GROUPS], *backward_s[HLM_MAX_MIXED_GROUPS];
    double *reduce_s, *optimizer_s; /* of the slowest */
    double sync_s;
};

static struct times new_times(struct hlm_share_column *column)
{
    const int32_t p = column->strategy.pp;
    struct times times = {.reduce_s = HLM_ARENA_ARRAY(column->scratch, double, p),
                          .optimizer_s = HLM_ARENA_ARRAY(column->scratch, double, p)};
    for (int32_t g = 0; g < column->num_groups; g++) {
        times.forward_s[g] = HLM_ARENA_ARRAY(column->scratch, double, p);
        times.backward_s[g] = HLM_ARENA_ARRAY(column->scratch, double, p);
        times.sync_s = fmax(times.sync_s, column->groups[g].times.placement.sync_s);
    }
    return times;
}

static void set_stage(const struct hlm_share_column *column, struct times *times, int32_t g,
                      const struct hlm_plan_stage *stages, int32_t s)
{
    const struct hlm_column *of = &column->groups[g].times;
    const struct hlm_stage_shape shape =
        hlm_plan_stage_shape(of->pricer.model, stages, column->strategy.pp, s);
    struct hlm_stage_cost cost;
    hlm_stage_cost(of->pricers[s], &shape, &cost);
    times->forward_s[g][s] = cost.forward.seconds;
    times->backward_s[g][s] = cost.backward.seconds;
    times->reduce_s[s] = fmax(g == 0 ? 0.0 : times->reduce_s[s], cost.reduce_s);
    times->optimizer_s[s] = fmax(g == 0 ? 0.0 : times->optimizer_s[s], cost.optimizer_s);
}

static double simulate_group(struct hlm_share_column *column, const struct times *times, int32_t g,
                             int64_t num_microbatches)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(column->scratch);
    const struct hlm_column *of = &column->groups[g].times;
    const int32_t p = column->strategy.pp;
    double *send_backward = HLM_ARENA_ARRAY(column->scratch, double, p);
    for (int32_t s = 1; s < p; s++) {
        send_backward[s] = of->placement.transfer_s[s - 1];
    }
    const struct hlm_sim_costs costs = {.forward_s = times->forward_s[g],
                                        .backward_s = times->backward_s[g],
                                        .send_forward_s = of->placement.transfer_s,
                                        .send_backward_s = send_backward,
                                        .needs_both_sides = of->both_sides,
                                        .reduce_s = times->reduce_s,
                                        .optimizer_s = times->optimizer_s,
                                        .sync_s = times->sync_s};
    const double step_s = hlm_simulate_step(column->scratch, column->strategy.schedule, p,
                                            (int32_t)num_microbatches, &costs);
    hlm_arena_rewind(column->scratch, mark);
    return step_s;
}

/* stages[g]: as the replicas of group g would have them. *out_slowest may be NULL. */
static double simulate(struct hlm_share_column *column, struct hlm_plan_stage *const *stages,
                       const int64_t *shares, int32_t *out_slowest)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(column->scratch);
    struct times times = new_times(column);
    double step_s = 0.0;
    for (int32_t g = 0; g < column->num_groups; g++) {
        for (int32_t s = 0; s < column->strategy.pp; s++) {
            set_stage(column, &times, g, stages[g], s);
        }
    }
    for (int32_t g = 0; g < column->num_groups; g++) {
        const double own_s = simulate_group(column, &times, g, shares[g]);
        if (own_s > step_s) {
            step_s = own_s;
            if (out_slowest != NULL) {
                *out_slowest = g;
            }
        }
    }
    hlm_arena_rewind(column->scratch, mark);
    return step_s;
}

/* --- recompute that fits all groups --- */

/* Whether a stage of dense layers fits on the group (stage_pattern.h has the rule). */
static bool stage_fits(const struct hlm_share_group *group, int32_t s,
                       const struct hlm_plan_stage *stage)
{
    const struct hlm_placement *placement = &group->column.placement;
    const struct hlm_stage_prices *prices = &placement->stages[s];
    const int32_t counts[HLM_NUM_RECOMPUTES] = {[HLM_RECOMPUTE_NONE] = stage->recompute.none,
                                                [HLM_RECOMPUTE_SELECTIVE] =
                                                    stage->recompute.selective,
                                                [HLM_RECOMPUTE_FULL] = stage->recompute.full};
    const int32_t layers[HLM_NUM_LAYER_KINDS] = {stage->num_layers};
    int64_t slots = prices->base_slot_bytes, transient = prices->base_transient_bytes;
    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        slots += counts[mode] * prices->slot_bytes[0][mode];
        if (counts[mode] > 0 && prices->transient_bytes[0][mode] > transient) {
            transient = prices->transient_bytes[0][mode];
        }
    }
    struct hlm_stage_holding holding;
    placement->hold(placement->context, s, layers, &holding);
    return holding.static_bytes + prices->in_flight * slots + transient <= prices->limit_bytes;
}

/* The group's own choices; false: a stage does not fit. */
static bool own_stages(struct hlm_share_column *column, int32_t g, const int32_t *ends,
                       int64_t num_microbatches, struct hlm_plan_stage *stages)
{
    struct hlm_share_group *group = hlm_share_complete(column, g, num_microbatches);
    const int32_t device_group = column->strategy.replicas[0].device_group;
    for (int32_t s = 0; s < column->strategy.pp; s++) {
        const int32_t begin = s == 0 ? 0 : ends[s - 1];
        const struct hlm_pattern *pattern = hlm_pattern_get(group->set, s, begin, ends[s]);
        if (pattern == NULL) {
            return false;
        }
        stages[s] = (struct hlm_plan_stage){
            .rank_group = s,
            .first_layer = begin,
            .num_layers = ends[s] - begin,
            .device_group = device_group,
            .tp = column->strategy.tp,
            .recompute = {.none = pattern->recompute[HLM_RECOMPUTE_NONE],
                          .selective = pattern->recompute[HLM_RECOMPUTE_SELECTIVE],
                          .full = pattern->recompute[HLM_RECOMPUTE_FULL]}};
    }
    return true;
}

static bool fits_all(const struct hlm_share_column *column, int32_t s,
                     const struct hlm_plan_stage *stage)
{
    bool fits = true;
    for (int32_t g = 0; g < column->num_groups; g++) {
        fits = fits && stage_fits(&column->groups[g], s, stage);
    }
    return fits;
}

/* Choices of a stage that all groups can share, but for those that another one is no slower than on
 * any group: a step never gets shorter when a backward gets longer. */
enum { MAX_CHOICES = 8 };
struct choices {
    struct hlm_plan_recompute recompute[MAX_CHOICES];
    double backward_s[MAX_CHOICES][HLM_MAX_MIXED_GROUPS];
    int32_t num;
    bool is_full; /* there are more */
};

static bool is_no_slower(const double *a, const double *b, int32_t num)
{
    bool no_slower = true;
    for (int32_t g = 0; g < num; g++) {
        no_slower = no_slower && a[g] <= b[g];
    }
    return no_slower;
}

static void backwards_of(const struct hlm_share_column *column, int32_t s,
                         const struct hlm_plan_recompute *recompute, double *out)
{
    for (int32_t g = 0; g < column->num_groups; g++) {
        const double *seconds = column->groups[g].column.placement.stages[s].backward_s[0];
        out[g] = recompute->none * seconds[HLM_RECOMPUTE_NONE] +
                 recompute->selective * seconds[HLM_RECOMPUTE_SELECTIVE] +
                 recompute->full * seconds[HLM_RECOMPUTE_FULL];
    }
}

static void add_choice(const struct hlm_share_column *column, struct choices *choices,
                       const struct hlm_plan_recompute *recompute, const double *backward_s)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < choices->num; i++) {
        if (is_no_slower(choices->backward_s[i], backward_s, column->num_groups)) {
            return;
        }
    }
    for (int32_t i = 0; i < choices->num; i++) {
        if (!is_no_slower(backward_s, choices->backward_s[i], column->num_groups)) {
            choices->recompute[kept] = choices->recompute[i];
            memcpy(choices->backward_s[kept++], choices->backward_s[i],
                   sizeof(choices->backward_s[i]));
        }
    }
    choices->num = kept;
    choices->is_full = choices->is_full || kept == MAX_CHOICES;
    if (kept < MAX_CHOICES) {
        choices->recompute[kept] = *recompute;
        memcpy(choices->backward_s[kept], backward_s, sizeof(choices->backward_s[kept]));
        choices->num++;
    }
}

static bool is_allowed(const bool *modes, const struct hlm_plan_recompute *recompute)
{
    return (recompute->none == 0 || modes[HLM_RECOMPUTE_NONE]) &&
           (recompute->selective == 0 || modes[HLM_RECOMPUTE_SELECTIVE]) &&
           (recompute->full == 0 || modes[HLM_RECOMPUTE_FULL]);
}

/* Where all groups have one choice of their own, that; else all that are worth a look. */
static void find_choices(const struct hlm_share_column *column, const struct hlm_plan_stage *own,
                         bool same, int32_t s, struct choices *out)
{
    struct hlm_plan_stage stage = *own;
    const int32_t n = stage.num_layers;
    double backward_s[HLM_MAX_MIXED_GROUPS] = {0.0};
    *out = (struct choices){.num = 0};
    for (int32_t full = same ? n : 0; full <= n; full++) {
        for (int32_t selective = 0; selective <= n - full; selective++) {
            if (!same) {
                stage.recompute =
                    (struct hlm_plan_recompute){n - full - selective, selective, full};
            }
            if (is_allowed(column->groups[0].column.placement.modes, &stage.recompute) &&
                fits_all(column, s, &stage)) {
                backwards_of(column, s, &stage.recompute, backward_s);
                add_choice(column, out, &stage.recompute, backward_s);
            }
        }
    }
}

struct hlm_share_split hlm_share_new_split(struct hlm_share_column *column)
{
    struct hlm_share_split split;
    struct hlm_plan_stage *shared =
        HLM_ARENA_ARRAY(column->scratch, struct hlm_plan_stage, column->strategy.pp);
    for (int32_t g = 0; g < HLM_MAX_MIXED_GROUPS; g++) {
        split.own[g] = HLM_ARENA_ARRAY(column->scratch, struct hlm_plan_stage, column->strategy.pp);
        split.shared[g] = shared;
    }
    return split;
}

/* All ways to choose, stage by stage. */
struct choosing {
    struct hlm_share_column *column;
    const struct hlm_share_split *split;
    const int64_t *shares;
    const struct choices *choices;   /* [pp] */
    struct hlm_plan_recompute *best; /* [pp] */
    double best_s;
    int32_t slowest, left; /* simulations */
};

static void choose_from(struct choosing *choosing, int32_t s)
{
    const int32_t p = choosing->column->strategy.pp;
    struct hlm_plan_stage *shared = choosing->split->shared[0];
    if (s < p) {
        for (int32_t i = 0; i < choosing->choices[s].num; i++) {
            shared[s].recompute = choosing->choices[s].recompute[i];
            choose_from(choosing, s + 1);
        }
        return;
    }
    int32_t slowest = 0;
    if (choosing->left-- <= 0) {
        return;
    }
    const double step_s =
        simulate(choosing->column, choosing->split->shared, choosing->shares, &slowest);
    if (step_s < choosing->best_s) {
        choosing->best_s = step_s;
        choosing->slowest = slowest;
        for (int32_t i = 0; i < p; i++) {
            choosing->best[i] = shared[i].recompute;
        }
    }
}

double hlm_share_try_split(struct hlm_share_column *column, const struct hlm_share_split *split,
                           const int32_t *ends, const int64_t *shares, double *out_least_s,
                           int32_t *out_slowest)
{
    enum { MOST_TRIED = 256 };
    const int32_t p = column->strategy.pp;
    *out_least_s = INFINITY;
    for (int32_t g = 0; g < column->num_groups; g++) {
        if (!own_stages(column, g, ends, shares[g], split->own[g])) {
            return INFINITY;
        }
    }
    const struct hlm_arena_mark mark = hlm_arena_mark(column->scratch);
    struct choices *choices = HLM_ARENA_ARRAY(column->scratch, struct choices, p);
    struct choosing choosing = {.column = column,
                                .split = split,
                                .shares = shares,
                                .choices = choices,
                                .best =
                                    HLM_ARENA_ARRAY(column->scratch, struct hlm_plan_recompute, p),
                                .best_s = INFINITY,
                                .left = MOST_TRIED};
    bool all = true;
    for (int32_t s = 0; s < p; s++) {
        bool same = true;
        for (int32_t g = 1; g < column->num_groups; g++) {
            same =
                same && memcmp(&split->own[g][s], &split->own[0][s], sizeof(split->own[0][s])) == 0;
        }
        find_choices(column, &split->own[0][s], same, s, &choices[s]);
        all = all && !choices[s].is_full;
        split->shared[0][s] = split->own[0][s];
    }
    choose_from(&choosing, 0);
    for (int32_t s = 0; s < p && isfinite(choosing.best_s); s++) {
        split->shared[0][s].recompute = choosing.best[s];
    }
    *out_least_s =
        all && choosing.left >= 0 ? choosing.best_s : simulate(column, split->own, shares, NULL);
    if (out_slowest != NULL) {
        *out_slowest = choosing.slowest;
    }
    hlm_arena_rewind(column->scratch, mark);
    return choosing.best_s;
}
