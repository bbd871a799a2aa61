#include "planner/share_column.h"

#include <math.h>
#include <string.h>

#include "planner/column_internal.h"
#include "planner/partition_dp.h"

enum { MAX_MOVES = 200 };
static const double tie_frac = 1e-9;

/* The replicas of one group: their column with times alone, and with memory for so many
 * microbatches (in_flight does not change with more). */
struct share_group {
    struct hlm_strategy seen;
    struct hlm_column times;
    struct hlm_arena *arena; /* of what follows; NULL: not made */
    int64_t made_for;
    struct hlm_strategy made_seen;
    struct hlm_column column;
    struct hlm_pattern_set *set;
};

struct hlm_share_column {
    struct hlm_arena *arena, *scratch;
    struct hlm_pricer_cache *cache;
    struct hlm_strategy strategy;
    int64_t total;
    int32_t num_groups;
    struct share_group groups[HLM_MAX_MIXED_GROUPS];
};

/* --- the most microbatches of a group --- */

static int32_t dp_of(const struct hlm_strategy *strategy, int32_t g)
{
    return strategy->replicas[g].dp;
}

/* That leave one at least to every other replica. */
static int64_t most_possible(const struct hlm_strategy *strategy, int64_t total, int32_t g)
{
    int64_t others = 0;
    for (int32_t h = 0; h < strategy->num_replicas; h++) {
        others += h == g ? 0 : dp_of(strategy, h);
    }
    return (total - others) / dp_of(strategy, g);
}

typedef bool refuses_fn(struct hlm_share_column *column, int32_t g, int64_t num_microbatches,
                        double goal_s);

static bool closed_form_refuses(struct hlm_share_column *column, int32_t g,
                                int64_t num_microbatches, double goal_s)
{
    struct hlm_placement placement = column->groups[g].times.placement;
    placement.num_microbatches = (int32_t)num_microbatches;
    return hlm_bound_closed_form(&placement) > goal_s;
}

/* The most that are not refused; one more is, where more are possible. */
static int64_t most_within(struct hlm_share_column *column, int32_t g, int64_t most, double goal_s,
                           refuses_fn *refuses)
{
    int64_t low = 0, high = most + 1;
    if (most >= 1 && !refuses(column, g, most, goal_s)) {
        return most;
    }
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        *(middle <= most && !refuses(column, g, middle, goal_s) ? &low : &high) = middle;
    }
    return low;
}

/* Fills most [num_groups]; false: their sum is short of the total, or one has none. */
static bool find_most(struct hlm_share_column *column, double goal_s, refuses_fn *refuses,
                      int64_t *most)
{
    int64_t sum = 0;
    for (int32_t g = 0; g < column->num_groups; g++) {
        most[g] = most_possible(&column->strategy, column->total, g);
        most[g] = most_within(column, g, most[g], goal_s, closed_form_refuses);
        if (refuses != closed_form_refuses) {
            most[g] = most_within(column, g, most[g], goal_s, refuses);
        }
        sum += most[g] * dp_of(&column->strategy, g);
        if (most[g] == 0) {
            return false;
        }
    }
    return sum >= column->total;
}

enum hlm_status hlm_share_family_refuses(struct hlm_pricer_cache *cache,
                                         const struct hlm_share_family *family, double goal_s,
                                         bool *out_refuses, struct hlm_err *err)
{
    const struct hlm_strategy *strategy = &family->strategy;
    double sum = 0.0;
    bool none = false;
    for (int32_t g = 0; g < strategy->num_replicas; g++) {
        struct hlm_strategy seen = hlm_strategy_of_replicas(strategy, g);
        double once_s = 0.0, many_s = 0.0, twice_s = 0.0;
        seen.num_microbatches = 1;
        seen.global_batch_size = seen.dp * seen.microbatch_size; /* else it is not legal */
        HLM_TRY(hlm_family_bound(cache, &seen, &once_s, err));
        /* So many that its term in m is the larger one: a pipeline has no more stages than layers.
         */
        const int64_t many = 8 * (int64_t)(cache->problem->model->num_layers + 2);
        seen.num_microbatches = many;
        HLM_TRY(hlm_family_bound(cache, &seen, &many_s, err));
        seen.num_microbatches = 2 * many;
        HLM_TRY(hlm_family_bound(cache, &seen, &twice_s, err));
        const double each_s = (twice_s - many_s) / (double)many;
        const double rest_s = fmax(0.0, many_s - (double)many * each_s);
        const int64_t most = most_possible(strategy, family->total, g);
        const double fit = floor((goal_s - rest_s) / each_s * (1 + tie_frac) + tie_frac);
        none = none || once_s > goal_s || fit < 1.0;
        sum += fmin((double)most, fmax(0.0, fit)) * strategy->replicas[g].dp;
    }
    *out_refuses = none || sum < (double)family->total;
    return HLM_OK;
}

/* --- columns --- */

/* As the replicas see it, with so many microbatches. */
static struct hlm_strategy seen_with(struct hlm_arena *arena, const struct hlm_strategy *strategy,
                                     int32_t g, int64_t num_microbatches)
{
    struct hlm_strategy whole = *strategy;
    struct hlm_replicas *replicas = hlm_arena_memdup(
        arena, strategy->replicas, (size_t)strategy->num_replicas * sizeof(*strategy->replicas));
    replicas[g].num_microbatches = num_microbatches;
    whole.replicas = replicas;
    return hlm_strategy_of_replicas(&whole, g);
}

struct hlm_share_column *hlm_share_column_new(struct hlm_arena *arena,
                                              struct hlm_pricer_cache *cache,
                                              const struct hlm_share_family *family,
                                              const struct hlm_strategy *strategy)
{
    struct hlm_share_column *column = HLM_ARENA_NEW(arena, struct hlm_share_column);
    *column = (struct hlm_share_column){.arena = arena,
                                        .scratch = hlm_arena_new(),
                                        .cache = cache,
                                        .strategy = *strategy,
                                        .total = family->total,
                                        .num_groups = strategy->num_replicas};
    bool may_fit = true;
    for (int32_t g = 0; g < column->num_groups; g++) {
        struct share_group *group = &column->groups[g];
        struct hlm_err unused; /* the family was priced */
        group->seen = seen_with(arena, strategy, g, 1);
        const bool priced =
            hlm_column_init(arena, cache, &group->seen, &group->times, &unused) == HLM_OK;
        HLM_ASSERT(priced);
        may_fit = may_fit && hlm_column_may_fit(&group->times);
    }
    if (!may_fit) {
        hlm_share_column_free(column);
        return NULL;
    }
    return column;
}

void hlm_share_column_free(struct hlm_share_column *column)
{
    for (int32_t g = 0; g < column->num_groups; g++) {
        hlm_arena_free(column->groups[g].arena);
    }
    hlm_arena_free(column->scratch);
}

/* The group's column with memory; its placement is that of num_microbatches until the next call. */
static struct share_group *complete(struct hlm_share_column *column, int32_t g,
                                    int64_t num_microbatches)
{
    struct share_group *group = &column->groups[g];
    const int64_t pp = column->strategy.pp;
    const bool grows = column->strategy.schedule == HLM_SCHEDULE_GPIPE || num_microbatches < pp;
    const int64_t key = grows ? num_microbatches : pp;
    if (group->arena == NULL || group->made_for != key) {
        struct hlm_err unused;
        hlm_arena_free(group->arena);
        group->arena = hlm_arena_new();
        group->made_for = key;
        group->made_seen = seen_with(group->arena, &column->strategy, g, key);
        const bool priced = hlm_column_init(group->arena, column->cache, &group->made_seen,
                                            &group->column, &unused) == HLM_OK;
        HLM_ASSERT(priced);
        hlm_column_complete(group->arena, column->cache, &group->column);
        group->set = hlm_pattern_set_new(group->arena, &group->column.placement);
    }
    group->column.placement.num_microbatches = (int32_t)num_microbatches;
    return group;
}

static bool rows_refuse(struct hlm_share_column *column, int32_t g, int64_t num_microbatches,
                        double goal_s)
{
    struct share_group *group = complete(column, g, num_microbatches);
    const struct hlm_arena_mark mark = hlm_arena_mark(column->scratch);
    struct hlm_bound_windows windows;
    const bool some = hlm_bound_narrow(column->scratch, group->set, goal_s, &windows);
    hlm_arena_rewind(column->scratch, mark);
    return !some;
}

bool hlm_share_closed_form_refuses(struct hlm_share_column *column, double goal_s)
{
    int64_t most[HLM_MAX_MIXED_GROUPS];
    return !find_most(column, goal_s, closed_form_refuses, most);
}

bool hlm_share_rows_refuse(struct hlm_share_column *column, double goal_s)
{
    int64_t most[HLM_MAX_MIXED_GROUPS];
    return !find_most(column, goal_s, rows_refuse, most);
}

double hlm_share_bound_s(struct hlm_share_column *column, double low_s, double high_s, bool rows)
{
    static const double precision = 5e-4;
    bool (*const refuses)(struct hlm_share_column *, double) =
        rows ? hlm_share_rows_refuse : hlm_share_closed_form_refuses;
    while (high_s - low_s > precision * high_s) {
        const double middle_s = 0.5 * (low_s + high_s);
        *(refuses(column, middle_s) ? &low_s : &high_s) = middle_s;
    }
    return low_s;
}

struct hlm_strategy hlm_share_strategy(struct hlm_arena *arena,
                                       const struct hlm_share_column *column, const int64_t *shares)
{
    struct hlm_strategy strategy = column->strategy;
    struct hlm_replicas *replicas = hlm_arena_memdup(
        arena, strategy.replicas, (size_t)strategy.num_replicas * sizeof(*strategy.replicas));
    strategy.num_microbatches = 0;
    for (int32_t g = 0; g < column->num_groups; g++) {
        replicas[g].num_microbatches = shares[g];
    }
    strategy.replicas = replicas;
    hlm_strategy_complete(&strategy);
    return strategy;
}

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
static bool stage_fits(const struct share_group *group, int32_t s,
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
    struct share_group *group = complete(column, g, num_microbatches);
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

/* A split of layers: the groups' own choices of recompute, and what they share (the same for all).
 * [pp] each. */
struct split {
    struct hlm_plan_stage *own[HLM_MAX_MIXED_GROUPS], *shared[HLM_MAX_MIXED_GROUPS];
};

static struct split new_split(struct hlm_share_column *column)
{
    struct split split;
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
    const struct split *split;
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

/* The simulated step; INFINITY: no choice of recompute fits all groups. *out_least_s: what no plan
 * of this split is below, the same where all choices were tried. */
static double try_split(struct hlm_share_column *column, const struct split *split,
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

static bool take(struct hlm_share_column *column, const struct split *split, const int64_t *shares,
                 double step_s, struct hlm_share_plan *best)
{
    if (!(step_s < best->step_s * (1 - tie_frac))) {
        return false;
    }
    const size_t bytes = (size_t)column->strategy.pp * sizeof(*best->stages);
    best->step_s = step_s;
    if (best->stages == NULL) {
        best->stages = HLM_ARENA_ARRAY(column->arena, struct hlm_plan_stage, column->strategy.pp);
    }
    memcpy(best->stages, split->shared[0], bytes);
    for (int32_t g = 0; g < column->num_groups; g++) {
        best->shares[g] = shares[g];
    }
    return true;
}

/* --- guesses --- */

/* Walks over all shares with most[g] at most and the total as their sum. False: stopped. */
typedef bool visit_shares_fn(void *context, const int64_t *shares);

static bool each_shares(const struct hlm_share_column *column, const int64_t *most, int32_t g,
                        int64_t left, int64_t *shares, visit_shares_fn *visit, void *context)
{
    const int64_t dp = dp_of(&column->strategy, g);
    int64_t others = 0;
    for (int32_t h = g + 1; h < column->num_groups; h++) {
        others += most[h] * dp_of(&column->strategy, h);
    }
    if (g + 1 == column->num_groups) {
        shares[g] = left / dp;
        return left % dp != 0 || shares[g] < 1 || shares[g] > most[g] || visit(context, shares);
    }
    const int64_t least = left > others ? (left - others + dp - 1) / dp : 1;
    for (int64_t m = most[g]; m >= least && m >= 1; m--) {
        shares[g] = m;
        if (m * dp < left &&
            !each_shares(column, most, g + 1, left - m * dp, shares, visit, context)) {
            return false;
        }
    }
    return true;
}

static bool keep_first(void *context, const int64_t *shares)
{
    memcpy(context, shares, HLM_MAX_MIXED_GROUPS * sizeof(*shares));
    return false;
}

/* Shares whose sum is whole, within the shortest step in which the closed form has some. */
static bool even_shares(struct hlm_share_column *column, double low_s, int64_t *shares)
{
    int64_t most[HLM_MAX_MIXED_GROUPS] = {0}, at[HLM_MAX_MIXED_GROUPS] = {0};
    for (double goal_s = low_s * (1 + 1e-4); isfinite(goal_s) && goal_s < 4 * low_s;
         goal_s *= 1.005) {
        if (find_most(column, goal_s, closed_form_refuses, most) &&
            !each_shares(column, most, 0, column->total, at, keep_first, shares)) {
            return true;
        }
    }
    return false;
}

/* Moves single layers over boundaries while that lowers the group's bound. */
static void improve_ends(struct hlm_pattern_set *set, int32_t *ends)
{
    const int32_t p = hlm_pattern_set_placement(set)->num_stages;
    double bound_s = hlm_bound_partition(set, ends);
    for (bool improved = true; improved;) {
        improved = false;
        for (int32_t i = 0; i < 2 * (p - 1); i++) {
            const int32_t s = i / 2, by = i % 2 == 0 ? -1 : 1;
            const int32_t low = s == 0 ? 0 : ends[s - 1];
            if (ends[s] + by < low || ends[s] + by > ends[s + 1]) {
                continue;
            }
            ends[s] += by;
            const double moved_s = hlm_bound_partition(set, ends);
            if (moved_s < bound_s) {
                bound_s = moved_s;
                improved = true;
            } else {
                ends[s] -= by;
            }
        }
    }
}

/* Moves microbatches from the slowest replicas to others while that helps. */
static void move_shares(struct hlm_share_column *column, const struct split *split,
                        const int32_t *ends, int64_t *shares, struct hlm_share_plan *best,
                        int64_t *num_simulated)
{
    int32_t slowest = 0;
    double least_s = 0.0, step_s = try_split(column, split, ends, shares, &least_s, &slowest);
    ++*num_simulated;
    (void)take(column, split, shares, step_s, best);
    for (int32_t moves = 0; moves < MAX_MOVES && isfinite(step_s);) {
        const int32_t from = slowest;
        bool improved = false;
        for (int32_t to = 0; to < column->num_groups && !improved; to++) {
            int64_t moved[HLM_MAX_MIXED_GROUPS] = {0};
            const int64_t a = dp_of(&column->strategy, from), b = dp_of(&column->strategy, to);
            memcpy(moved, shares, (size_t)column->num_groups * sizeof(*moved));
            int64_t give = 1;
            while (give * a % b != 0) {
                give++;
            }
            moved[from] -= give;
            moved[to] += give * a / b;
            if (to == from || moved[from] < 1) {
                continue;
            }
            int32_t slower = 0;
            const double moved_s = try_split(column, split, ends, moved, &least_s, &slower);
            ++*num_simulated;
            moves++;
            if (moved_s < step_s * (1 - tie_frac)) {
                (void)take(column, split, moved, moved_s, best);
                memcpy(shares, moved, (size_t)column->num_groups * sizeof(*moved));
                step_s = moved_s;
                slowest = slower;
                improved = true;
            }
        }
        if (!improved) {
            return;
        }
    }
}

void hlm_share_guess(struct hlm_share_column *column, struct hlm_share_plan *best,
                     int64_t *num_simulated)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(column->scratch);
    int64_t even[HLM_MAX_MIXED_GROUPS] = {0};
    double high_s = 1e-3;
    while (hlm_share_closed_form_refuses(column, high_s) && high_s < 1e12) {
        high_s *= 2;
    }
    const double low_s = hlm_share_bound_s(column, 0.0, high_s, false);
    const struct split split = new_split(column);
    int32_t *ends = HLM_ARENA_ARRAY(column->scratch, int32_t, column->strategy.pp);
    if (even_shares(column, low_s, even)) {
        for (int32_t g = 0; g < column->num_groups; g++) {
            struct share_group *group = complete(column, g, even[g]);
            int64_t shares[HLM_MAX_MIXED_GROUPS] = {0};
            const double threshold_s =
                hlm_bound_threshold(column->scratch, group->set, 1e-9, (double)INFINITY, ends);
            if (isfinite(threshold_s) && isfinite(hlm_bound_partition(group->set, ends))) {
                improve_ends(group->set, ends);
                memcpy(shares, even, sizeof(shares));
                move_shares(column, &split, ends, shares, best, num_simulated);
            }
        }
    }
    hlm_arena_rewind(column->scratch, mark);
}

/* --- all plans below a goal --- */

struct listing {
    struct hlm_share_column *column;
    const struct split *split;
    struct hlm_share_plan *best;
    const int64_t *shares;
    double goal_s, max_gap_frac, least_s;
    double *work_left;
    int64_t *num_simulated;
};

static double goal_of(const struct listing *listing)
{
    return fmin(listing->goal_s,
                listing->best->step_s * (1 - listing->max_gap_frac) * (1 - tie_frac));
}

static double visit_split(void *context, const struct hlm_partition *partition)
{
    struct listing *listing = context;
    struct hlm_share_column *column = listing->column;
    *listing->work_left -= (double)column->strategy.pp * (double)column->total;
    if (*listing->work_left < 0) {
        return -INFINITY;
    }
    double least_s = 0.0;
    const double step_s =
        try_split(column, listing->split, partition->ends, listing->shares, &least_s, NULL);
    ++*listing->num_simulated;
    (void)take(column, listing->split, listing->shares, step_s, listing->best);
    listing->least_s = fmin(listing->least_s, least_s);
    return goal_of(listing);
}

/* Lists the splits of the group that has the longest way to go. */
static bool visit_shares(void *context, const int64_t *shares)
{
    struct listing *listing = context;
    struct hlm_share_column *column = listing->column;
    struct hlm_arena *scratch = hlm_arena_new();
    struct hlm_bound_windows windows;
    int32_t longest = 0;
    double most_s = -1.0;
    for (int32_t g = 0; g < column->num_groups; g++) {
        struct hlm_placement placement = column->groups[g].times.placement;
        placement.num_microbatches = (int32_t)shares[g];
        const double bound_s = hlm_bound_closed_form(&placement);
        longest = bound_s > most_s ? g : longest;
        most_s = fmax(most_s, bound_s);
    }
    bool possible = true;
    for (int32_t g = 0; g < column->num_groups && possible; g++) {
        possible = !rows_refuse(column, g, shares[g], goal_of(listing));
    }
    listing->shares = shares;
    struct share_group *group = complete(column, longest, shares[longest]);
    if (possible && hlm_bound_narrow(scratch, group->set, goal_of(listing), &windows)) {
        hlm_partition_list(scratch, group->set, &windows, visit_split, listing);
    }
    hlm_arena_free(scratch);
    *listing->work_left -= 1000.0;
    return *listing->work_left >= 0;
}

double hlm_share_list(struct hlm_share_column *column, double goal_s, double max_gap_frac,
                      struct hlm_share_plan *best, double *work_left, int64_t *num_simulated)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(column->scratch);
    const struct split split = new_split(column);
    struct listing listing = {.column = column,
                              .split = &split,
                              .best = best,
                              .goal_s = goal_s,
                              .max_gap_frac = max_gap_frac,
                              .least_s = INFINITY,
                              .work_left = work_left,
                              .num_simulated = num_simulated};
    int64_t most[HLM_MAX_MIXED_GROUPS], shares[HLM_MAX_MIXED_GROUPS] = {0};
    if (find_most(column, goal_s, rows_refuse, most)) {
        (void)each_shares(column, most, 0, column->total, shares, visit_shares, &listing);
    }
    hlm_arena_rewind(column->scratch, mark);
    return *work_left < 0 ? 0.0 : fmin(listing.least_s, goal_of(&listing));
}
