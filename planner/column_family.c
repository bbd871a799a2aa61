#include "planner/column_internal.h"

#include <math.h>

/* --- blocks and runs --- */

struct hlm_least_block hlm_least_block_of(const struct hlm_pricer_cache *cache,
                                          const struct hlm_pricer *pricer, enum hlm_block_kind kind,
                                          bool is_layer)
{
    const int32_t required = cache->problem->require.recompute;
    struct hlm_least_block least = {INFINITY, INFINITY};
    for (int32_t mode = 0; mode < (is_layer ? HLM_NUM_RECOMPUTES : 1); mode++) {
        const struct hlm_block_cost *block = &pricer->blocks[kind][mode];
        if (!is_layer || required < 0 || required == mode) {
            const double forward_s = block->forward.seconds, whole_s = block->backward.seconds;
            const double input_s = block->input_grad.seconds;
            least.work_s =
                fmin(least.work_s, forward_s + fmin(whole_s, input_s + block->weight_grad.seconds));
            least.way_s = fmin(least.way_s, forward_s + fmin(whole_s, input_s));
        }
    }
    return least;
}

int32_t hlm_column_runs(struct hlm_pricer_cache *cache, const struct hlm_strategy *strategy,
                        struct hlm_column_run runs[HLM_MAX_MIXED_GROUPS])
{
    const struct hlm_cluster *cluster = cache->problem->cluster;
    int32_t num = 0, last_group = -1;
    for (int32_t pp = 0; pp < strategy->pp; pp++) {
        const int32_t group =
            cluster->num_groups == 1 ? 0 : hlm_layout_device_group(strategy, cluster, pp);
        if (group != last_group) {
            HLM_ASSERT(num < HLM_MAX_MIXED_GROUPS);
            runs[num] = (struct hlm_column_run){.first = pp, .seen = hlm_strategy_at(strategy, pp)};
            runs[num].cached = hlm_cache_pricer(cache, &runs[num].seen, pp);
            last_group = group;
            num++;
        }
        runs[num - 1].num++;
    }
    return num;
}

/* Layers that `num` ranks take within T, each layer_s; a hair more, as sums in another order may be
 * a hair less. */
double hlm_layers_within(double num, double layer_s, double seconds)
{
    return num * floor(seconds / layer_s * (1.0 + 1e-9));
}

/* --- families --- */

/* The kind that most layers are of. */
static int32_t frequent_kind(const struct hlm_pricer_cache *cache, int32_t *out_count)
{
    int32_t counts[HLM_NUM_LAYER_KINDS] = {0};
    for (int32_t layer = 0; layer < cache->problem->model->num_layers; layer++) {
        counts[cache->layer_kinds[layer]]++;
    }
    const int32_t kind = counts[1] > counts[0] ? 1 : 0;
    *out_count = counts[kind];
    return kind;
}

/* Schedules in the shape of a V have both ends of the model on one rank, with nothing to sum up
 * between them. */
static double least_sync_s(const struct hlm_pricer *pricer)
{
    struct hlm_strategy v_shaped = *pricer->strategy;
    struct hlm_pricer other = *pricer;
    v_shaped.schedule = HLM_SCHEDULE_ZB_V;
    v_shaped.vpp = 2;
    other.strategy = &v_shaped;
    return fmin(hlm_stage_sync_s(pricer), hlm_stage_sync_s(&other));
}

enum hlm_status hlm_family_floor(struct hlm_pricer_cache *cache, struct hlm_layer_memo *memo,
                                 const struct hlm_strategy *strategy, double *out_s,
                                 struct hlm_err *err)
{
    if (cache->problem->cluster->num_groups > 1) {
        *out_s = 0.0; /* its ranks may be of any of them */
        return HLM_OK;
    }
    int32_t count = 0;
    const int32_t kind = frequent_kind(cache, &count), p = strategy->pp;
    double least_s = 0.0;
    HLM_TRY(hlm_cache_least_s(cache, memo, strategy, kind, &least_s, err));
    *out_s = (double)strategy->num_microbatches * ((count + p - 1) / p) * least_s;
    return HLM_OK;
}

/* What a run's ranks take of a microbatch at the least, by kind of layer, and at both ends. */
struct run_least {
    struct hlm_least_block layers[HLM_NUM_LAYER_KINDS], first, last;
    double slowness; /* least seconds of a layer as a multiple of the fastest run's */
    double layer_s;  /* of the kind that takes least */
};

static void fill_run_least(const struct hlm_pricer_cache *cache, const struct hlm_column_run *run,
                           struct run_least *out)
{
    const struct hlm_pricer *pricer = run->cached->pricer;
    *out = (struct run_least){.layers = {{INFINITY, INFINITY}, {INFINITY, INFINITY}},
                              .layer_s = INFINITY};
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        if (pricer->has_kind[hlm_layer_blocks[kind]]) {
            out->layers[kind] = hlm_least_block_of(cache, pricer, hlm_layer_blocks[kind], true);
            out->layer_s = fmin(out->layer_s, out->layers[kind].work_s);
        }
    }
    out->first = hlm_least_block_of(cache, pricer, HLM_BLOCK_EMBEDDING, false);
    out->last = hlm_least_block_of(cache, pricer, HLM_BLOCK_HEAD, false);
}

/* A T within which all ranks together take fewer than all layers; close to the largest. */
static double too_short_s(const struct hlm_column_run *runs, const struct run_least *least,
                          int32_t num_runs, int32_t num_layers)
{
    enum { NUM_HALVINGS = 24 };
    double low_s = 0.0, high_s = INFINITY;
    for (int32_t r = 0; r < num_runs; r++) {
        high_s = fmin(high_s, num_layers * least[r].layer_s);
    }
    for (int32_t i = 0; i < NUM_HALVINGS; i++) {
        const double middle_s = 0.5 * (low_s + high_s);
        double layers = 0.0;
        for (int32_t r = 0; r < num_runs; r++) {
            layers += hlm_layers_within(runs[r].num, least[r].layer_s, middle_s);
        }
        *(layers < num_layers ? &low_s : &high_s) = middle_s;
    }
    return low_s;
}

/* Whatever the order of the runs. With w the least seconds of a layer on any run, ranks of a run
 * take `slowness` times that at the least, so their T / slowness sum to all w at the least. */
static double mixed_family_s(const struct hlm_pricer_cache *cache,
                             const struct hlm_strategy *strategy, const struct hlm_column_run *runs,
                             int32_t num_runs)
{
    struct run_least least[HLM_MAX_MIXED_GROUPS];
    struct hlm_least_block layers[HLM_NUM_LAYER_KINDS] = {{INFINITY, INFINITY},
                                                          {INFINITY, INFINITY}};
    for (int32_t r = 0; r < num_runs; r++) {
        fill_run_least(cache, &runs[r], &least[r]);
        for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
            layers[kind].work_s = fmin(layers[kind].work_s, least[r].layers[kind].work_s);
            layers[kind].way_s = fmin(layers[kind].way_s, least[r].layers[kind].way_s);
        }
    }
    double speed = 0.0, first_s = INFINITY, last_s = INFINITY, ends_s = INFINITY,
           last_way_s = INFINITY;
    for (int32_t r = 0; r < num_runs; r++) {
        double slowness = INFINITY;
        for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
            if (isfinite(layers[kind].work_s)) {
                slowness = fmin(slowness, least[r].layers[kind].work_s / layers[kind].work_s);
            }
        }
        speed += runs[r].num / slowness;
        first_s = fmin(first_s, least[r].first.work_s / slowness);
        last_s = fmin(last_s, least[r].last.work_s / slowness);
        ends_s = fmin(ends_s, least[r].first.way_s);
        last_way_s = fmin(last_way_s, least[r].last.way_s);
    }
    double work_s = first_s + last_s, way_s = ends_s + last_way_s;
    const int32_t num_layers = cache->problem->model->num_layers;
    for (int32_t layer = 0; layer < num_layers; layer++) {
        work_s += layers[cache->layer_kinds[layer]].work_s;
        way_s += layers[cache->layer_kinds[layer]].way_s;
    }
    const double fullest_s = fmax(work_s / speed, too_short_s(runs, least, num_runs, num_layers));
    return fmax((double)strategy->num_microbatches * fullest_s, way_s);
}

enum hlm_status hlm_family_bound(struct hlm_pricer_cache *cache,
                                 const struct hlm_strategy *strategy, double *out_s,
                                 struct hlm_err *err)
{
    struct hlm_column_run runs[HLM_MAX_MIXED_GROUPS];
    const int32_t num_runs = hlm_column_runs(cache, strategy, runs);
    for (int32_t r = 0; r < num_runs; r++) {
        if (runs[r].cached->pricer == NULL) {
            *err = *runs[r].cached->why;
            return HLM_NO;
        }
    }
    if (num_runs > 1) {
        *out_s = mixed_family_s(cache, strategy, runs, num_runs);
        return HLM_OK;
    }
    const struct hlm_cached_pricer *cached = runs[0].cached;
    struct hlm_pricer pricer = *cached->pricer;
    pricer.strategy = strategy;
    pricer.stage = 0;
    const int32_t p = strategy->pp, num_layers = cache->problem->model->num_layers;
    struct hlm_least_block layers[HLM_NUM_LAYER_KINDS] = {{INFINITY, INFINITY},
                                                          {INFINITY, INFINITY}};
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        if (pricer.has_kind[hlm_layer_blocks[kind]]) {
            layers[kind] = hlm_least_block_of(cache, &pricer, hlm_layer_blocks[kind], true);
        }
    }
    const struct hlm_least_block first =
        hlm_least_block_of(cache, &pricer, HLM_BLOCK_EMBEDDING, false);
    const struct hlm_least_block last = hlm_least_block_of(cache, &pricer, HLM_BLOCK_HEAD, false);
    double work_s = first.work_s + last.work_s, way_s = first.way_s + last.way_s;
    for (int32_t layer = 0; layer < num_layers; layer++) {
        work_s += layers[cache->layer_kinds[layer]].work_s;
        way_s += layers[cache->layer_kinds[layer]].way_s;
    }
    const double shortest_s = fmin(layers[0].work_s, layers[1].work_s);
    const double fullest_s = fmax(work_s / p, (num_layers + p - 1) / p * shortest_s);
    const double m = (double)strategy->num_microbatches;
    *out_s = fmax(m * fullest_s, way_s) + least_sync_s(&pricer);
    return HLM_OK;
}
