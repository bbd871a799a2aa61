#include "planner/verify_column.h"

#include <math.h>

#include "planner/verify_share.h"

/* --- the label DP --- */

/* 1f1b: round trip S, T of the first of the stages, M, N of planner/bound.h. gpipe: sums and maxima
 * of forwards and backwards, and the largest of the tails. */
struct way {
    double round_s, own_s, end_s, step_s;
    double forwards_s, forward_max_s, backward_max_s;
    double optimizer_s;
};
struct way_list {
    struct way *ways;
    int32_t num_ways, capacity;
};

/* Partitions whose last stage has last_s; lists by stage and first layer. */
struct table {
    struct hlm_verifier *v;
    double last_s;
    struct way_list *lists;
};

static double window_s(double rounds, double stages, double window, double own_s)
{
    const double times = floor(rounds / stages);
    return times * window + (rounds - times * stages) * own_s;
}

static double row_s(const struct hlm_verifier *v, int32_t stage, const struct way *way,
                    double pair_s, double last_s)
{
    const double w = v->num_stages - stage, m = v->num_microbatches;
    const double spare = m - 1 - w;
    double row = m * way->own_s;
    if (spare < 0) {
        return row;
    }
    row = fmax(row, way->round_s + window_s(m - 1, w, way->round_s, way->own_s));
    if (w > 1) {
        row = fmax(row, 2 * way->round_s + spare * way->own_s);
    }
    if (w > 2) {
        row = fmax(row, 2 * way->round_s + window_s(spare, 2, pair_s, way->own_s));
    }
    if (w > 3) {
        const double inner_s = way->round_s - last_s - 2 * v->transfer_s[v->num_stages - 2];
        row = fmax(row, 2 * way->round_s + window_s(spare, w - 1, inner_s, way->own_s));
    }
    return row;
}

static struct way longer_1f1b(const struct hlm_verifier *v, int32_t stage,
                              const struct hlm_share *share, const struct way *rest, double last_s)
{
    const bool last = rest == NULL;
    const double c = v->transfer_s[stage], w = v->num_stages - stage;
    const double in_flight = fmin(w, v->num_microbatches);
    struct way way = {.own_s = share->forward_s + share->backward_s,
                      .optimizer_s = share->optimizer_s};
    way.round_s = way.own_s + (last ? 0 : 2 * c + rest->round_s);
    const double pair_s = last ? 0 : way.own_s + 2 * c + rest->own_s;
    way.end_s = fmax(row_s(v, stage, &way, pair_s, last_s),
                     way.round_s + (v->num_microbatches - 1) * way.own_s -
                         (in_flight - 1) * share->forward_s);
    if (!last) {
        way.end_s = fmax(way.end_s, rest->end_s + way.own_s + 2 * c);
        way.step_s = rest->step_s + share->forward_s + c;
        way.optimizer_s = fmax(way.optimizer_s, rest->optimizer_s);
    }
    way.step_s = fmax(way.step_s, way.end_s + share->reduce_s);
    return way;
}

/* round_s: sum of backwards; end_s unused; step_s: largest tail. */
static struct way longer_gpipe(const struct hlm_verifier *v, int32_t stage,
                               const struct hlm_share *share, const struct way *rest)
{
    static const struct way none = {0};
    const struct way *behind = rest == NULL ? &none : rest;
    const double c = v->transfer_s[stage];
    struct way way = {.forwards_s = behind->forwards_s + share->forward_s + c,
                      .forward_max_s = fmax(behind->forward_max_s, share->forward_s),
                      .round_s = behind->round_s + share->backward_s + c,
                      .backward_max_s = fmax(behind->backward_max_s, share->backward_s),
                      .optimizer_s = fmax(behind->optimizer_s, share->optimizer_s)};
    way.step_s = fmax(behind->step_s, way.round_s + (v->num_microbatches - 1) * way.backward_max_s +
                                          share->reduce_s);
    return way;
}

static struct way longer_way(const struct hlm_verifier *v, int32_t stage,
                             const struct hlm_share *share, const struct way *rest, double last_s)
{
    return v->strategy->schedule == HLM_SCHEDULE_GPIPE ? longer_gpipe(v, stage, share, rest)
                                                       : longer_1f1b(v, stage, share, rest, last_s);
}

/* The least step of any completion by stages in front; exact when there are none. Some stage in
 * front has at least the mean of their work. */
static double least_step_s(const struct hlm_verifier *v, int32_t stage, int32_t begin,
                           const struct way *way)
{
    const double down_s = hlm_verifier_front_forward_s(v, stage, begin),
                 all_s = hlm_verifier_front_s(v, stage, begin);
    const double mean_s = stage > 0 ? (all_s - 2 * v->transfers_s[stage]) / stage : 0.0;
    const double after_s = v->sync_s + way->optimizer_s;
    const double rest = v->num_microbatches - 1;
    if (v->strategy->schedule == HLM_SCHEDULE_GPIPE) {
        const double forwards_s = way->forwards_s + down_s + rest * way->forward_max_s;
        const double backwards_s = way->round_s + (all_s - down_s) + rest * way->backward_max_s;
        return fmax(forwards_s + fmax(way->step_s, backwards_s), v->num_microbatches * mean_s) +
               after_s;
    }
    const double ends_s = fmax(way->step_s + down_s, way->end_s + all_s);
    return fmax(ends_s, v->num_microbatches * mean_s) + after_s;
}

static bool no_worse(const struct way *a, const struct way *b)
{
    return a->round_s <= b->round_s && a->own_s <= b->own_s && a->end_s <= b->end_s &&
           a->step_s <= b->step_s && a->forwards_s <= b->forwards_s &&
           a->forward_max_s <= b->forward_max_s && a->backward_max_s <= b->backward_max_s &&
           a->optimizer_s <= b->optimizer_s;
}

static struct way_list *list_of(const struct table *table, int32_t stage, int32_t begin)
{
    return &table->lists[(size_t)stage * (size_t)(table->v->num_layers + 1) + (size_t)begin];
}

static void add_way(struct hlm_arena *arena, struct way_list *list, const struct way *way)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < list->num_ways; i++) {
        if (no_worse(&list->ways[i], way)) {
            return; /* then it beat none of those that were dropped before it either */
        }
    }
    for (int32_t i = 0; i < list->num_ways; i++) {
        if (!no_worse(way, &list->ways[i])) {
            list->ways[kept++] = list->ways[i];
        }
    }
    list->num_ways = kept;
    if (kept == list->capacity) {
        list->capacity = kept == 0 ? 4 : 2 * kept;
        struct way *more = HLM_ARENA_ARRAY(arena, struct way, list->capacity);
        for (int32_t i = 0; i < kept; i++) {
            more[i] = list->ways[i];
        }
        list->ways = more;
    }
    list->ways[list->num_ways++] = *way;
}

/* Every way to give [begin, end) to the stage in front of the ways that begin at end. */
static void extend_ways(const struct table *table, int32_t stage, int32_t end)
{
    struct hlm_verifier *v = table->v;
    const struct way_list *rest = list_of(table, stage + 1, end);
    for (int32_t begin = end; begin >= 0 && rest->num_ways > 0; begin--) {
        const double least_s = hlm_verifier_least_s(v, stage, begin, end);
        if (v->num_microbatches * least_s >= v->goal_s) {
            return;
        }
        if (stage == 0 && begin > 0) {
            continue;
        }
        const struct hlm_share *share = hlm_share_get(v, stage, begin, end);
        for (int32_t i = 0; i < rest->num_ways && share->fits; i++) {
            const struct way way = longer_way(v, stage, share, &rest->ways[i], table->last_s);
            if (least_step_s(v, stage, begin, &way) < v->goal_s) {
                add_way(v->arena, list_of(table, stage, begin), &way);
            }
        }
    }
}

static void fill_table(struct table *table, int32_t last_begin)
{
    struct hlm_verifier *v = table->v;
    const int32_t last = v->num_stages - 1;
    table->lists = HLM_ARENA_ARRAY(v->arena, struct way_list,
                                   (size_t)v->num_stages * (size_t)(v->num_layers + 1));
    const struct hlm_share *share = hlm_share_get(v, last, last_begin, v->num_layers);
    if (!share->fits) {
        return;
    }
    table->last_s = share->forward_s + share->backward_s;
    const struct way way = longer_way(v, last, share, NULL, table->last_s);
    if (least_step_s(v, last, last_begin, &way) < v->goal_s) {
        add_way(v->arena, list_of(table, last, last_begin), &way);
    }
    for (int32_t stage = last - 1; stage >= 0; stage--) {
        for (int32_t end = 0; end <= v->num_layers; end++) {
            extend_ways(table, stage, end);
        }
    }
}

/* --- partitions below the goal --- */

struct walk {
    const struct table *table;
    const struct hlm_share **taken; /* [num_stages] */
    double least_s;                 /* simulated */
    int64_t left;                   /* how many more may be simulated */
};

static double simulate_taken(const struct walk *walk)
{
    const struct hlm_verifier *v = walk->table->v;
    const size_t p = (size_t)v->num_stages;
    double *times = HLM_ARENA_ARRAY(v->arena, double, 5 * p);
    for (size_t s = 0; s < p; s++) {
        times[s] = walk->taken[s]->forward_s;
        times[p + s] = walk->taken[s]->backward_s;
        times[2 * p + s] = walk->taken[s]->reduce_s;
        times[3 * p + s] = walk->taken[s]->optimizer_s;
        times[4 * p + s] = s > 0 ? v->transfer_s[s - 1] : 0.0;
    }
    const struct hlm_sim_costs costs = {.forward_s = times,
                                        .backward_s = times + p,
                                        .reduce_s = times + 2 * p,
                                        .optimizer_s = times + 3 * p,
                                        .send_forward_s = v->transfer_s,
                                        .send_backward_s = times + 4 * p,
                                        .needs_both_sides = v->both_sides,
                                        .sync_s = v->sync_s};
    return hlm_simulate_step(v->arena, v->strategy->schedule, v->num_stages,
                             (int32_t)v->num_microbatches, &costs);
}

/* Whether the stages taken so far with some way to go on at `begin` are below the goal. */
static bool can_be_below(const struct walk *walk, int32_t stage, int32_t begin)
{
    const struct table *table = walk->table;
    const struct way_list *list = list_of(table, stage, begin);
    for (int32_t i = 0; i < list->num_ways; i++) {
        struct way way = list->ways[i];
        for (int32_t s = stage - 1; s >= 0; s--) {
            way = longer_way(table->v, s, walk->taken[s], &way, table->last_s);
        }
        if (least_step_s(table->v, 0, 0, &way) < table->v->goal_s) {
            return true;
        }
    }
    return false;
}

static void walk_from(struct walk *walk, int32_t stage, int32_t begin)
{
    struct hlm_verifier *v = walk->table->v;
    const bool last = stage == v->num_stages - 1;
    if (walk->left <= 0 || walk->least_s < v->goal_s || !can_be_below(walk, stage, begin)) {
        return;
    }
    for (int32_t end = last ? v->num_layers : begin; end <= v->num_layers; end++) {
        walk->taken[stage] = hlm_share_get(v, stage, begin, end);
        if (!walk->taken[stage]->fits) {
            continue;
        }
        if (!last) {
            walk_from(walk, stage + 1, end);
            continue;
        }
        walk->left--;
        const double step_s = simulate_taken(walk);
        walk->least_s = fmin(walk->least_s, step_s);
    }
}

static enum hlm_verdict judge(struct hlm_verifier *v, double *out_step_s)
{
    enum { MOST_SIMULATED = 100000 };
    const int32_t last = v->num_stages - 1;
    struct walk walk = {.taken = HLM_ARENA_ARRAY(v->arena, const struct hlm_share *, v->num_stages),
                        .least_s = INFINITY,
                        .left = MOST_SIMULATED};
    for (int32_t begin = last == 0 ? 0 : v->num_layers; begin >= 0 && walk.least_s >= v->goal_s;
         begin--) {
        struct table table = {.v = v};
        const double least_s = hlm_verifier_least_s(v, last, begin, v->num_layers);
        if (v->num_microbatches * least_s >= v->goal_s) {
            break;
        }
        fill_table(&table, begin);
        walk.table = &table;
        walk_from(&walk, 0, 0);
    }
    *out_step_s = walk.least_s;
    if (walk.left <= 0) {
        return HLM_VERDICT_TOO_MANY;
    }
    if (isfinite(walk.least_s)) {
        return walk.least_s < v->goal_s ? HLM_VERDICT_FASTER : HLM_VERDICT_SIMULATED;
    }
    return hlm_share_something_fits(v) ? HLM_VERDICT_BOUNDED : HLM_VERDICT_INFEASIBLE;
}

enum hlm_verdict hlm_verify_column(const struct hlm_strategy *strategy,
                                   const struct hlm_pricer *const *pricers, int32_t recompute,
                                   double goal_s, double *out_step_s)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_verifier v = {.arena = arena,
                             .pricers = pricers,
                             .model = pricers[0]->model,
                             .strategy = strategy,
                             .recompute = recompute,
                             .goal_s = goal_s,
                             .num_layers = pricers[0]->model->num_layers,
                             .num_stages = strategy->pp,
                             .num_microbatches = (double)strategy->num_microbatches};
    hlm_verifier_prepare(&v);
    *out_step_s = INFINITY;
    enum hlm_verdict verdict = HLM_VERDICT_CLOSED_FORM;
    if (hlm_verifier_closed_form_s(&v) < goal_s) {
        verdict = judge(&v, out_step_s);
    }
    hlm_arena_free(arena);
    return verdict;
}
