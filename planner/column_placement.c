#include "planner/column_placement.h"

#include <math.h>
#include <string.h>

#include "planner/columns_places.h"
#include "planner/ramp.h"

static const enum hlm_block_kind layer_blocks[HLM_NUM_LAYER_KINDS] = {HLM_BLOCK_DENSE,
                                                                      HLM_BLOCK_MOE};

/* --- what columns share --- */

enum { NUM_KEY_FIELDS = 32, NUM_BUCKETS = 4096 };

/* Whatever a shared thing depends on, number by number. */
struct key {
    int64_t fields[NUM_KEY_FIELDS];
    int32_t num;
};

static void key_add(struct key *key, int64_t field)
{
    HLM_ASSERT(key->num < NUM_KEY_FIELDS);
    key->fields[key->num++] = field;
}

static void key_add_shape(struct key *key, const struct hlm_group_shape *shape)
{
    key_add(key, shape->num_ranks);
    key_add(key, shape->num_nodes);
    key_add(key, shape->ranks_per_node);
    key_add(key, shape->groups_per_node);
}

static bool same_key(const struct key *a, const struct key *b)
{
    return memcmp(a->fields, b->fields, sizeof(a->fields)) == 0;
}

static uint32_t bucket_of(const struct key *key)
{
    uint64_t hash = 14695981039346656037ULL; /* FNV-1a, by fields */
    for (int32_t i = 0; i < key->num; i++) {
        hash = (hash ^ (uint64_t)key->fields[i]) * 1099511628211ULL;
    }
    return (uint32_t)((hash ^ (hash >> 29)) % NUM_BUCKETS);
}

struct cached_pricer {
    struct key key;
    const struct hlm_pricer *pricer; /* NULL: the cost model refuses */
    const struct hlm_err *why;
    const struct cached_pricer *older;
};

/* What a layer of the frequent kind takes at the least. */
struct cached_least {
    struct key key;
    bool refused;
    double seconds;
    const struct cached_least *older;
};

/* A schedule, and its rows at one reference. */
struct cached_rows {
    struct key key;
    const struct hlm_path_row *rows;
    const struct cached_rows *older;
};
struct cached_schedule {
    struct key key;
    const struct hlm_sim_order *order;
    const struct hlm_rank_held *held;
    /* Microbatches held of a layer: the least of any rank on the mean of its stages, the most of
     * any stage, and how many layers' worth ranks may fall short of the mean in all. */
    double mean_held, most_held, short_held;
    const struct hlm_path_row *ramp_rows;
    const struct cached_rows *rows;
    struct cached_schedule *older;
};

struct hlm_pricer_cache {
    struct hlm_arena *arena;
    const struct hlm_search_problem *problem;
    const uint8_t *layer_kinds;
    const struct cached_pricer *pricers[NUM_BUCKETS];
    const struct cached_pricer *priced[NUM_BUCKETS]; /* those that pricers are made from */
    const struct cached_least *least[NUM_BUCKETS];
    struct cached_schedule *schedules[NUM_BUCKETS];
};

struct hlm_pricer_cache *hlm_pricer_cache_new(struct hlm_arena *arena,
                                              const struct hlm_search_problem *problem)
{
    struct hlm_pricer_cache *cache = HLM_ARENA_NEW(arena, struct hlm_pricer_cache);
    uint8_t *kinds = HLM_ARENA_ARRAY(arena, uint8_t, problem->model->num_layers);
    for (int32_t layer = 0; layer < problem->model->num_layers; layer++) {
        kinds[layer] = hlm_model_is_moe_layer(problem->model, layer) ? 1 : 0;
    }
    cache->arena = arena;
    cache->problem = problem;
    cache->layer_kinds = kinds;
    return cache;
}

static void add_group(struct key *key, const struct hlm_pricer_cache *cache,
                      const struct hlm_strategy *strategy, int32_t pp, enum hlm_group group)
{
    const struct hlm_group_shape shape =
        hlm_layout_shape(strategy, group, cache->problem->cluster, pp);
    key_add_shape(key, &shape);
}

/* What the operators of layers depend on. `strategy` as pipeline rank pp sees it, the first of
 * those that are alike; so below. */
static struct key layer_key(const struct hlm_pricer_cache *cache,
                            const struct hlm_strategy *strategy, int32_t pp)
{
    struct key key = {.num = 0};
    key_add(&key, hlm_layout_device_group(strategy, cache->problem->cluster, pp));
    key_add(&key, strategy->microbatch_size);
    key_add(&key, strategy->tp);
    key_add(&key, strategy->cp);
    key_add(&key, strategy->ep);
    key_add(&key, strategy->etp);
    key_add(&key, strategy->sp ? 1 : 0);
    add_group(&key, cache, strategy, pp, HLM_GROUP_TP);
    add_group(&key, cache, strategy, pp, HLM_GROUP_EP);
    add_group(&key, cache, strategy, pp, HLM_GROUP_CP);
    return key;
}

/* What those of all blocks depend on. */
static struct key priced_key(const struct hlm_pricer_cache *cache,
                             const struct hlm_strategy *strategy, int32_t pp)
{
    struct key key = layer_key(cache, strategy, pp);
    key_add(&key, hlm_layout_ends_apart(strategy) ? 1 : 0);
    return key;
}

static struct key pricer_key(const struct hlm_pricer_cache *cache,
                             const struct hlm_strategy *strategy, int32_t pp)
{
    struct key key = priced_key(cache, strategy, pp);
    key_add(&key, hlm_schedule_splits(strategy->schedule) ? 1 : 0);
    if (strategy->zero >= 2) {
        key_add(&key, strategy->zero);
        key_add(&key, strategy->dp);
        add_group(&key, cache, strategy, pp, HLM_GROUP_DP);
        add_group(&key, cache, strategy, pp, HLM_GROUP_EDP);
    }
    return key;
}

static const struct cached_pricer *find_cached(const struct cached_pricer *const *buckets,
                                               const struct key *key)
{
    const struct cached_pricer *at = buckets[bucket_of(key)];
    while (at != NULL && !same_key(&at->key, key)) {
        at = at->older;
    }
    return at;
}

static struct cached_pricer *add_cached(struct hlm_pricer_cache *cache,
                                        const struct cached_pricer **buckets, const struct key *key)
{
    struct cached_pricer *made = HLM_ARENA_NEW(cache->arena, struct cached_pricer);
    const uint32_t bucket = bucket_of(key);
    made->key = *key;
    made->older = buckets[bucket];
    buckets[bucket] = made;
    return made;
}

/* With the operators of all blocks priced. */
static const struct cached_pricer *find_priced(struct hlm_pricer_cache *cache,
                                               const struct hlm_strategy *strategy, int32_t pp)
{
    const struct key key = priced_key(cache, strategy, pp);
    const struct cached_pricer *known = find_cached(cache->priced, &key);
    if (known != NULL) {
        return known;
    }
    struct cached_pricer *made = add_cached(cache, cache->priced, &key);
    struct hlm_pricer *pricer = HLM_ARENA_NEW(cache->arena, struct hlm_pricer);
    struct hlm_err why = {0};
    const int32_t group = hlm_layout_device_group(strategy, cache->problem->cluster, pp);
    if (hlm_pricer_init(cache->arena, cache->problem->model, strategy, cache->problem->cluster,
                        group, pricer, &why) == HLM_OK) {
        made->pricer = pricer;
    } else {
        made->why = hlm_arena_memdup(cache->arena, &why, sizeof(why));
    }
    return made;
}

static const struct cached_pricer *find_pricer(struct hlm_pricer_cache *cache,
                                               const struct hlm_strategy *strategy, int32_t pp)
{
    const struct key key = pricer_key(cache, strategy, pp);
    const struct cached_pricer *known = find_cached(cache->pricers, &key);
    if (known != NULL) {
        return known;
    }
    const struct cached_pricer *priced = find_priced(cache, strategy, pp);
    struct cached_pricer *made = add_cached(cache, cache->pricers, &key);
    made->why = priced->why;
    if (priced->pricer != NULL) {
        struct hlm_pricer *pricer = HLM_ARENA_NEW(cache->arena, struct hlm_pricer);
        hlm_pricer_reuse(priced->pricer, strategy, pricer);
        made->pricer = pricer;
    }
    return made;
}

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

static const struct cached_least *find_least(struct hlm_pricer_cache *cache,
                                             const struct hlm_strategy *strategy, int32_t kind,
                                             struct hlm_err *err)
{
    const struct key key = layer_key(cache, strategy, 0);
    const uint32_t bucket = bucket_of(&key);
    for (const struct cached_least *at = cache->least[bucket]; at != NULL; at = at->older) {
        if (same_key(&at->key, &key)) {
            return at;
        }
    }
    struct cached_least *made = HLM_ARENA_NEW(cache->arena, struct cached_least);
    *made = (struct cached_least){.key = key, .older = cache->least[bucket]};
    cache->least[bucket] = made;
    made->refused =
        hlm_pricer_least_s(cache->arena, cache->problem->model, strategy, cache->problem->cluster,
                           hlm_layout_device_group(strategy, cache->problem->cluster, 0),
                           layer_blocks[kind], &made->seconds, err) != HLM_OK;
    return made;
}

/* Layers of a rank are spread evenly over its stages: at most one more on some, who may be those
 * that hold least. */
static void sum_up_held(struct cached_schedule *made, int32_t num_ranks)
{
    made->mean_held = INFINITY;
    for (int32_t r = 0; r < num_ranks; r++) {
        const struct hlm_rank_held *held = &made->held[r];
        const int32_t v = held->num_chunks;
        double mean = 0.0, short_of = 0.0;
        for (int32_t row = 0; row < held->num_rows; row++) {
            double sum = 0.0, less = 0.0;
            for (int32_t c = 0; c < v; c++) {
                sum += held->counts[row * v + c];
                made->most_held = fmax(made->most_held, held->counts[row * v + c]);
            }
            for (int32_t c = 0; c < v; c++) {
                less += fmax(0.0, sum / v - held->counts[row * v + c]);
            }
            if (sum / v > mean) {
                mean = sum / v;
                short_of = less;
            }
        }
        made->mean_held = fmin(made->mean_held, mean);
        made->short_held += short_of;
    }
}

static struct cached_schedule *make_schedule(struct hlm_pricer_cache *cache,
                                             const struct hlm_strategy *strategy,
                                             const struct key *key)
{
    struct cached_schedule *made = HLM_ARENA_NEW(cache->arena, struct cached_schedule);
    struct hlm_arena *scratch = hlm_arena_new();
    const struct hlm_schedule *schedule = NULL;
    struct hlm_err unused; /* columns.c asked before; all builders make progress */
    HLM_ASSERT(hlm_schedule_build(scratch, strategy->schedule, strategy->pp, strategy->vpp,
                                  (int32_t)strategy->num_microbatches, &schedule,
                                  &unused) == HLM_OK);
    HLM_ASSERT(hlm_sim_order_new(cache->arena, schedule, &made->order, &unused) == HLM_OK);
    made->held = hlm_plan_held(cache->arena, strategy, schedule);
    sum_up_held(made, schedule->num_ranks);
    hlm_arena_free(scratch);
    made->key = *key;
    made->older = cache->schedules[bucket_of(key)];
    cache->schedules[bucket_of(key)] = made;
    return made;
}

static struct cached_schedule *find_schedule(struct hlm_pricer_cache *cache,
                                             const struct hlm_strategy *strategy)
{
    struct key key = {.num = 0};
    key_add(&key, strategy->schedule);
    key_add(&key, strategy->pp);
    key_add(&key, strategy->vpp);
    key_add(&key, strategy->num_microbatches);
    for (struct cached_schedule *at = cache->schedules[bucket_of(&key)]; at != NULL;
         at = at->older) {
        if (same_key(&at->key, &key)) {
            return at;
        }
    }
    return make_schedule(cache, strategy, &key);
}

/* A ratio in steps of a quarter of a doubling. */
static int64_t steps_of(double ratio)
{
    return ratio > 0x1p-20 ? (int64_t)lround(4.0 * log2(ratio)) : -80;
}

static double ratio_of(int64_t steps)
{
    return steps <= -80 ? 0.0 : exp2((double)steps / 4.0);
}

static double *repeat(struct hlm_arena *arena, int32_t num, double value)
{
    double *values = HLM_ARENA_ARRAY(arena, double, num);
    for (int32_t i = 0; i < num; i++) {
        values[i] = value;
    }
    return values;
}

/* The rows of a schedule whose stages take seconds[kind of action] and transfers transfer_s, all to
 * the steps of their ratio to the forward. */
static const struct hlm_path_row *find_rows(struct hlm_pricer_cache *cache,
                                            struct cached_schedule *schedule,
                                            const double seconds[HLM_SIM_NUM_KINDS],
                                            double transfer_s)
{
    struct key key = {.num = 0};
    for (int32_t action = HLM_ACTION_B; action < HLM_SIM_NUM_KINDS; action++) {
        key_add(&key, steps_of(seconds[action] / seconds[HLM_ACTION_F]));
    }
    key_add(&key, steps_of(transfer_s / seconds[HLM_ACTION_F]));
    for (const struct cached_rows *at = schedule->rows; at != NULL; at = at->older) {
        if (same_key(&at->key, &key)) {
            return at->rows;
        }
    }
    struct hlm_arena *scratch = hlm_arena_new();
    const int32_t n = schedule->order->num_stages;
    const double *transfers = repeat(scratch, n, ratio_of(key.fields[3]));
    const struct hlm_sim_costs reference = {
        .forward_s = repeat(scratch, n, 1.0),
        .backward_s = repeat(scratch, n, ratio_of(key.fields[0])),
        .input_grad_s = repeat(scratch, n, ratio_of(key.fields[1])),
        .weight_grad_s = repeat(scratch, n, ratio_of(key.fields[2])),
        .send_forward_s = transfers,
        .send_backward_s = transfers};
    struct cached_rows *made = HLM_ARENA_NEW(cache->arena, struct cached_rows);
    *made =
        (struct cached_rows){.key = key,
                             .rows = hlm_sim_path_rows(cache->arena, schedule->order, &reference),
                             .older = schedule->rows};
    schedule->rows = made;
    hlm_arena_free(scratch);
    return made->rows;
}

/* --- families --- */

/* Least seconds of a microbatch in a block, of the allowed modes: its work (F and B, or I and W
 * where these take less), and its way down and up (F and B, or I, behind which W need not be waited
 * for).
 */
struct least_block {
    double work_s, way_s;
};

static struct least_block least_of(const struct hlm_pricer_cache *cache,
                                   const struct hlm_pricer *pricer, enum hlm_block_kind kind,
                                   bool is_layer)
{
    const int32_t required = cache->problem->require.recompute;
    struct least_block least = {INFINITY, INFINITY};
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

enum hlm_status hlm_family_floor(struct hlm_pricer_cache *cache,
                                 const struct hlm_strategy *strategy, double *out_s,
                                 struct hlm_err *err)
{
    if (cache->problem->cluster->num_groups > 1) {
        *out_s = 0.0; /* its ranks may be of any of them */
        return HLM_OK;
    }
    int32_t count = 0;
    const int32_t kind = frequent_kind(cache, &count), p = strategy->pp;
    const struct cached_least *least = find_least(cache, strategy, kind, err);
    if (least->refused) {
        return HLM_NO;
    }
    *out_s = (double)strategy->num_microbatches * ((count + p - 1) / p) * least->seconds;
    return HLM_OK;
}

/* Pipeline ranks in a row that are alike. */
struct run {
    int32_t first, num;
    struct hlm_strategy seen;
    const struct cached_pricer *cached;
};

/* Returns how many runs there are. */
static int32_t find_runs(struct hlm_pricer_cache *cache, const struct hlm_strategy *strategy,
                         struct run runs[HLM_MAX_MIXED_GROUPS])
{
    const struct hlm_cluster *cluster = cache->problem->cluster;
    int32_t num = 0, last_group = -1;
    for (int32_t pp = 0; pp < strategy->pp; pp++) {
        const int32_t group =
            cluster->num_groups == 1 ? 0 : hlm_layout_device_group(strategy, cluster, pp);
        if (group != last_group) {
            HLM_ASSERT(num < HLM_MAX_MIXED_GROUPS);
            runs[num] = (struct run){.first = pp, .seen = hlm_strategy_at(strategy, pp)};
            runs[num].cached = find_pricer(cache, &runs[num].seen, pp);
            last_group = group;
            num++;
        }
        runs[num - 1].num++;
    }
    return num;
}

/* What a run's ranks take of a microbatch at the least, by kind of layer, and at both ends. */
struct run_least {
    struct least_block layers[HLM_NUM_LAYER_KINDS], first, last;
    double slowness; /* least seconds of a layer as a multiple of the fastest run's */
    double layer_s;  /* of the kind that takes least */
};

static void fill_run_least(const struct hlm_pricer_cache *cache, const struct run *run,
                           struct run_least *out)
{
    const struct hlm_pricer *pricer = run->cached->pricer;
    *out = (struct run_least){.layers = {{INFINITY, INFINITY}, {INFINITY, INFINITY}},
                              .layer_s = INFINITY};
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        if (pricer->has_kind[layer_blocks[kind]]) {
            out->layers[kind] = least_of(cache, pricer, layer_blocks[kind], true);
            out->layer_s = fmin(out->layer_s, out->layers[kind].work_s);
        }
    }
    out->first = least_of(cache, pricer, HLM_BLOCK_EMBEDDING, false);
    out->last = least_of(cache, pricer, HLM_BLOCK_HEAD, false);
}

/* Layers that `num` ranks take within T, each layer_s; a hair more, as sums in another order may be
 * a hair less. */
static double layers_within(double num, double layer_s, double seconds)
{
    return num * floor(seconds / layer_s * (1.0 + 1e-9));
}

/* A T within which all ranks together take fewer than all layers; close to the largest. */
static double too_short_s(const struct run *runs, const struct run_least *least, int32_t num_runs,
                          int32_t num_layers)
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
            layers += layers_within(runs[r].num, least[r].layer_s, middle_s);
        }
        *(layers < num_layers ? &low_s : &high_s) = middle_s;
    }
    return low_s;
}

/* Whatever the order of the runs. With w the least seconds of a layer on any run, ranks of a run
 * take `slowness` times that at the least, so their T / slowness sum to all w at the least. */
static double mixed_family_s(const struct hlm_pricer_cache *cache,
                             const struct hlm_strategy *strategy, const struct run *runs,
                             int32_t num_runs)
{
    struct run_least least[HLM_MAX_MIXED_GROUPS];
    struct least_block layers[HLM_NUM_LAYER_KINDS] = {{INFINITY, INFINITY}, {INFINITY, INFINITY}};
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
    struct run runs[HLM_MAX_MIXED_GROUPS];
    const int32_t num_runs = find_runs(cache, strategy, runs);
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
    const struct cached_pricer *cached = runs[0].cached;
    struct hlm_pricer pricer = *cached->pricer;
    pricer.strategy = strategy;
    pricer.stage = 0;
    const int32_t p = strategy->pp, num_layers = cache->problem->model->num_layers;
    struct least_block layers[HLM_NUM_LAYER_KINDS] = {{INFINITY, INFINITY}, {INFINITY, INFINITY}};
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        if (pricer.has_kind[layer_blocks[kind]]) {
            layers[kind] = least_of(cache, &pricer, layer_blocks[kind], true);
        }
    }
    const struct least_block first = least_of(cache, &pricer, HLM_BLOCK_EMBEDDING, false);
    const struct least_block last = least_of(cache, &pricer, HLM_BLOCK_HEAD, false);
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

/* --- times --- */

/* The forward of a layer is the same in every mode; should a lowering set break that, the least is
 * taken, with which every bound stays one (bound.h). */
static double layer_forward_s(const struct hlm_pricer *pricer, enum hlm_block_kind kind)
{
    double least_s = INFINITY;
    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        least_s = fmin(least_s, pricer->blocks[kind][mode].forward.seconds);
    }
    return least_s;
}

static void fill_layer_times(const struct hlm_pricer *pricer, struct hlm_stage_prices *prices)
{
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        const enum hlm_block_kind block = layer_blocks[kind];
        prices->forward_s[kind] = pricer->has_kind[block] ? layer_forward_s(pricer, block) : 0.0;
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            prices->backward_s[kind][mode] = pricer->blocks[block][mode].backward.seconds;
        }
    }
}

static void add_base_times(const struct hlm_pricer *pricer, enum hlm_block_kind kind,
                           struct hlm_stage_prices *prices)
{
    const struct hlm_block_cost *block = &pricer->blocks[kind][HLM_RECOMPUTE_NONE];
    prices->base_forward_s += block->forward.seconds;
    prices->base_backward_s += block->backward.seconds;
    prices->may_be_empty = true;
}

static const struct hlm_pricer *stage_pricer(const struct hlm_column *column, int32_t stage)
{
    return column->pricers[hlm_layout_stage_rank(&column->strategy, stage)];
}

/* Whether the boundary behind stage s of a mixed column is like the one in front of it: inside one
 * device group, and ranks fill whole nodes, so that all lie on them alike. */
static bool boundary_repeats(const struct hlm_column *column, int32_t s)
{
    const struct hlm_pricer *pricer = column->pricers[s];
    const struct hlm_strategy *seen = pricer->strategy;
    const int64_t size = (int64_t)seen->dp * seen->cp * seen->tp;
    return s > 0 && column->pricers[s - 1] == pricer && column->pricers[s + 1] == pricer &&
           size % hlm_device_group_domain(&pricer->cluster->groups[pricer->device_group]) == 0;
}

/* A boundary between the same two ranks costs the same. */
static void fill_transfers(const struct hlm_column *column, double *transfer_s)
{
    const struct hlm_strategy *strategy = &column->strategy;
    const int32_t n = hlm_column_num_stages(column), period = 2 * strategy->pp;
    for (int32_t s = 0; s + 1 < n; s++) {
        if (s >= period) {
            transfer_s[s] = transfer_s[s - strategy->pp];
            column->both_sides[s] = column->both_sides[s - strategy->pp];
        } else if (column->is_mixed && boundary_repeats(column, s)) {
            transfer_s[s] = transfer_s[s - 1];
            column->both_sides[s] = column->both_sides[s - 1];
        } else {
            transfer_s[s] = hlm_stage_send_s(stage_pricer(column, s), s, &column->both_sides[s]);
        }
    }
}

static const struct hlm_stage_prices *make_stages(struct hlm_arena *arena,
                                                  const struct hlm_column *column)
{
    const int32_t p = column->strategy.pp;
    struct hlm_stage_prices *stages = HLM_ARENA_ARRAY(arena, struct hlm_stage_prices, p);
    for (int32_t s = 0; s < p; s++) {
        if (s > 0 && column->pricers[s] == column->pricers[s - 1]) {
            stages[s] = stages[s - 1];
        } else {
            fill_layer_times(column->pricers[s], &stages[s]);
        }
    }
    add_base_times(column->pricers[0], HLM_BLOCK_EMBEDDING, &stages[0]);
    add_base_times(column->pricers[p - 1], HLM_BLOCK_HEAD, &stages[p - 1]);
    return stages;
}

/* The column's own copies of its pricers. */
static enum hlm_status set_pricers(struct hlm_arena *arena, struct hlm_pricer_cache *cache,
                                   struct hlm_column *column, struct hlm_err *err)
{
    struct run runs[HLM_MAX_MIXED_GROUPS];
    const struct hlm_pricer **pricers =
        HLM_ARENA_ARRAY(arena, const struct hlm_pricer *, column->strategy.pp);
    const int32_t num_runs = find_runs(cache, &column->strategy, runs);
    column->pricers = pricers;
    column->is_mixed = num_runs > 1;
    for (int32_t r = 0; r < num_runs; r++) {
        const struct run *run = &runs[r];
        if (run->cached->pricer == NULL) {
            *err = *run->cached->why;
            return HLM_NO;
        }
        struct hlm_pricer *own = r == 0 ? &column->pricer : HLM_ARENA_NEW(arena, struct hlm_pricer);
        *own = *run->cached->pricer;
        own->strategy = num_runs == 1 ? &column->strategy
                                      : hlm_arena_memdup(arena, &run->seen, sizeof(run->seen));
        own->stage = run->first;
        for (int32_t pp = run->first; pp < run->first + run->num; pp++) {
            pricers[pp] = own;
        }
    }
    return HLM_OK;
}

enum hlm_status hlm_column_init(struct hlm_arena *arena, struct hlm_pricer_cache *cache,
                                const struct hlm_strategy *strategy, struct hlm_column *out,
                                struct hlm_err *err)
{
    const struct hlm_search_problem *problem = cache->problem;
    *out = (struct hlm_column){.strategy = *strategy,
                               .is_ranked = strategy->schedule != HLM_SCHEDULE_GPIPE &&
                                            strategy->schedule != HLM_SCHEDULE_1F1B};
    HLM_TRY(set_pricers(arena, cache, out, err));
    const int32_t n = hlm_column_num_stages(out);
    double *transfer_s = HLM_ARENA_ARRAY(arena, double, n);
    out->both_sides = HLM_ARENA_ARRAY(arena, bool, n);
    struct hlm_placement *placement = &out->placement;
    *placement = (struct hlm_placement){.schedule = strategy->schedule,
                                        .num_stages = n,
                                        .num_layers = problem->model->num_layers,
                                        .num_microbatches = (int32_t)strategy->num_microbatches,
                                        .layer_kinds = cache->layer_kinds,
                                        .transfer_s = transfer_s};
    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        const int32_t required = problem->require.recompute;
        placement->modes[mode] = required < 0 || required == mode;
    }
    if (!out->is_ranked) {
        fill_transfers(out, transfer_s);
        placement->sync_s = hlm_stage_sync_s(&out->pricer);
        placement->stages = make_stages(arena, out);
    }
    return HLM_OK;
}

/* Static bytes of the whole model on the ranks of one pipeline. */
static int64_t pipeline_static_bytes(const struct hlm_column *column)
{
    const struct hlm_pricer *pricer = &column->pricer;
    int64_t num_elements = 0, num_expert_elements = 0;
    int32_t counts[HLM_NUM_BLOCKS] = {[HLM_BLOCK_EMBEDDING] = 1, [HLM_BLOCK_HEAD] = 1};
    for (int32_t layer = 0; layer < column->placement.num_layers; layer++) {
        counts[layer_blocks[column->placement.layer_kinds[layer]]]++;
    }
    for (int32_t kind = 0; kind < HLM_NUM_BLOCKS; kind++) {
        const struct hlm_block_cost *block = &pricer->blocks[kind][HLM_RECOMPUTE_NONE];
        num_elements += counts[kind] * block->num_elements;
        num_expert_elements += counts[kind] * block->num_expert_elements;
    }
    int64_t bytes[HLM_NUM_MEMORY_KINDS] = {0}, sum = 0;
    hlm_memory_static(&column->strategy, num_elements, num_expert_elements, bytes);
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        sum += bytes[kind];
    }
    return sum;
}

static int64_t pipeline_limit_bytes(const struct hlm_column *column)
{
    return column->strategy.pp * (column->pricer.limit_bytes - column->pricer.fixed_bytes);
}

bool hlm_column_may_fit(const struct hlm_column *column)
{
    return column->is_mixed || pipeline_static_bytes(column) <= pipeline_limit_bytes(column);
}

/* Seconds of a microbatch in a block, and what it keeps of it. */
struct choice {
    double seconds, bytes;
};

static struct choice choice_of(const struct hlm_pricer *pricer, enum hlm_block_kind kind,
                               int32_t mode)
{
    const struct hlm_block_cost *block = &pricer->blocks[kind][mode];
    double backward_s = block->backward.seconds;
    if (hlm_schedule_splits(pricer->strategy->schedule)) {
        backward_s = fmin(backward_s, block->input_grad.seconds + block->weight_grad.seconds);
    }
    return (struct choice){block->forward.seconds + backward_s, (double)block->slot_bytes};
}

/* A way of one layer kind to a mode that keeps less: so much time for so many bytes. */
struct step {
    double seconds, bytes;
    int32_t count;
};

/* The convex hull of the modes of a kind, from the fastest on: where two steps together beat the
 * first per byte, the one in the middle is left out. Returns the number of steps. */
static int32_t hull_steps(const struct hlm_column *column, int32_t kind, int32_t count,
                          struct choice *fastest, struct step steps[HLM_NUM_RECOMPUTES])
{
    struct choice at = {INFINITY, 0.0};
    struct choice choices[HLM_NUM_RECOMPUTES];
    int32_t num = 0;
    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        choices[mode] = choice_of(&column->pricer, layer_blocks[kind], mode);
        const bool allowed = column->placement.modes[mode];
        if (allowed && (choices[mode].seconds < at.seconds ||
                        (choices[mode].seconds == at.seconds && choices[mode].bytes < at.bytes))) {
            at = choices[mode];
        }
    }
    *fastest = at;
    for (bool found = true; found;) {
        struct step best = {.seconds = INFINITY, .bytes = 1.0, .count = count};
        found = false;
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            const struct step step = {choices[mode].seconds - at.seconds,
                                      at.bytes - choices[mode].bytes, count};
            if (column->placement.modes[mode] && step.bytes > 0.0 &&
                step.seconds * best.bytes < best.seconds * step.bytes) {
                best = step;
                found = true;
            }
        }
        if (found) {
            at = (struct choice){at.seconds + best.seconds, at.bytes - best.bytes};
            steps[num++] = best;
        }
    }
    return num;
}

/* The hulls of all kinds: their steps, and what all layers take at their fastest. */
struct hulls {
    struct step steps[HLM_NUM_LAYER_KINDS * HLM_NUM_RECOMPUTES];
    int32_t num_steps;
    double work_s, longest_s, slots, least_slots, largest_slot;
};

static struct hulls find_hulls(const struct hlm_column *column)
{
    struct hulls hulls = {.num_steps = 0};
    int32_t counts[HLM_NUM_LAYER_KINDS] = {0};
    for (int32_t layer = 0; layer < column->placement.num_layers; layer++) {
        counts[column->placement.layer_kinds[layer]]++;
    }
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        struct choice fastest;
        if (counts[kind] == 0) {
            continue;
        }
        struct step *steps = &hulls.steps[hulls.num_steps];
        const int32_t num = hull_steps(column, kind, counts[kind], &fastest, steps);
        double least = fastest.bytes;
        for (int32_t i = 0; i < num; i++) {
            least -= steps[i].bytes;
        }
        hulls.num_steps += num;
        hulls.work_s += counts[kind] * fastest.seconds;
        hulls.longest_s = fmax(hulls.longest_s, fastest.seconds);
        hulls.slots += counts[kind] * fastest.bytes;
        hulls.least_slots += counts[kind] * least;
        hulls.largest_slot = fmax(hulls.largest_slot, fastest.bytes);
    }
    return hulls;
}

/* Seconds that the cheapest steps take which free so many bytes, `held` times what each saves. */
static double free_bytes_s(struct hulls *hulls, double held, double excess)
{
    double seconds = 0.0;
    while (excess > 0.0) {
        struct step *best = NULL;
        for (int32_t i = 0; i < hulls->num_steps; i++) {
            struct step *step = &hulls->steps[i];
            if (step->count > 0 &&
                (best == NULL || step->seconds * best->bytes < best->seconds * step->bytes)) {
                best = step;
            }
        }
        if (best == NULL) {
            return INFINITY;
        }
        const double most = held * best->count * best->bytes;
        seconds += fmin(1.0, excess / most) * best->count * best->seconds;
        excess -= most;
        best->count = 0;
    }
    return seconds;
}

/* Seconds of what has to be passed of a block on the way to another rank, and back from it. */
static double pass_s(const struct hlm_pricer *pricer, enum hlm_block_kind kind, int32_t mode)
{
    return hlm_schedule_splits(pricer->strategy->schedule)
               ? pricer->blocks[kind][mode].forward.seconds
               : choice_of(pricer, kind, mode).seconds;
}

static double least_pass_s(const struct hlm_column *column)
{
    double least_s = INFINITY;
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            if (column->pricer.has_kind[layer_blocks[kind]] && column->placement.modes[mode]) {
                least_s = fmin(least_s, pass_s(&column->pricer, layer_blocks[kind], mode));
            }
        }
    }
    return least_s;
}

double hlm_column_memory_bound(struct hlm_pricer_cache *cache, const struct hlm_column *column)
{
    if (column->is_mixed) {
        return hlm_column_capacity_bound(cache, column);
    }
    const struct hlm_pricer *pricer = &column->pricer;
    const struct cached_schedule *schedule = find_schedule(cache, &column->strategy);
    struct hulls hulls = find_hulls(column);
    const double room = (double)(pipeline_limit_bytes(column) - pipeline_static_bytes(column)) +
                        schedule->short_held * hulls.largest_slot;
    if (schedule->mean_held * hulls.least_slots > room) {
        return INFINITY;
    }
    const struct hlm_strategy *strategy = &column->strategy;
    const double excess = schedule->mean_held * hulls.slots - room;
    const struct hlm_ramp ramp = {
        .num_ranks = strategy->pp,
        .num_chunks = strategy->vpp,
        .num_microbatches = strategy->num_microbatches,
        .splits_backward = hlm_schedule_splits(strategy->schedule),
        .head_is_first = hlm_layout_stage_rank(strategy, hlm_column_num_stages(column) - 1) == 0,
        .layers_s = hulls.work_s,
        .more_s = free_bytes_s(&hulls, schedule->most_held, excess),
        .longest_s = hulls.longest_s,
        .least_pass_s = least_pass_s(column),
        .first_s = choice_of(pricer, HLM_BLOCK_EMBEDDING, HLM_RECOMPUTE_NONE).seconds,
        .first_pass_s = pass_s(pricer, HLM_BLOCK_EMBEDDING, HLM_RECOMPUTE_NONE),
        .last_s = choice_of(pricer, HLM_BLOCK_HEAD, HLM_RECOMPUTE_NONE).seconds};
    return hlm_ramp_bound_s(&ramp) + hlm_stage_sync_s(pricer);
}

/* --- what the ranks of a mixed column can take --- */

/* Layers of a rank, whatever stage it is. */
struct rank_room {
    double layer_s, base_s; /* least seconds of a microbatch: a layer; embedding and head */
    double most;            /* layers whose states and slots fit */
};

static double static_bytes_of(const struct hlm_pricer *pricer, int64_t num_elements,
                              int64_t num_expert_elements)
{
    int64_t bytes[HLM_NUM_MEMORY_KINDS] = {0};
    double sum = 0.0;
    hlm_memory_static(pricer->strategy, num_elements, num_expert_elements, bytes);
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        sum += (double)bytes[kind];
    }
    return sum;
}

/* Bytes of a layer at the least: its share of the states of many, as slabs are padded, and the
 * least slots that microbatches in flight leave. */
static double layer_bytes(const struct hlm_column *column, const struct hlm_pricer *pricer,
                          int32_t kind, double in_flight)
{
    enum { MANY = 1000 };
    const struct hlm_block_cost *blocks = pricer->blocks[layer_blocks[kind]];
    const double states = static_bytes_of(pricer, MANY * blocks[0].num_elements,
                                          MANY * blocks[0].num_expert_elements) -
                          static_bytes_of(pricer, 0, 0);
    double slot = INFINITY;
    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        if (column->placement.modes[mode]) {
            slot = fmin(slot, (double)blocks[mode].slot_bytes);
        }
    }
    return states / MANY * (1.0 - 1e-4) + in_flight * slot;
}

static double least_held(const struct hlm_rank_held *held)
{
    double most = 0.0;
    for (int32_t row = 0; row < held->num_rows; row++) {
        most = fmax(most, held->counts[row * held->num_chunks]);
    }
    return most;
}

static struct rank_room room_of(const struct hlm_pricer_cache *cache,
                                const struct hlm_column *column, const struct hlm_rank_held *held,
                                int32_t pp)
{
    const struct hlm_pricer *pricer = column->pricers[pp];
    struct rank_room room = {.layer_s = INFINITY};
    double bytes = INFINITY;
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        if (pricer->has_kind[layer_blocks[kind]]) {
            const struct least_block least = least_of(cache, pricer, layer_blocks[kind], true);
            room.layer_s = fmin(room.layer_s, least.work_s);
            bytes = fmin(bytes, layer_bytes(column, pricer, kind, least_held(held)));
        }
    }
    if (pp == 0) {
        room.base_s += least_of(cache, pricer, HLM_BLOCK_EMBEDDING, false).work_s;
    }
    if (pp == column->strategy.pp - 1) {
        room.base_s += least_of(cache, pricer, HLM_BLOCK_HEAD, false).work_s;
    }
    room.most = floor((double)(pricer->limit_bytes - pricer->fixed_bytes) / bytes);
    return room;
}

static double layers_of(const struct rank_room *rooms, int32_t num_ranks, double seconds)
{
    double layers = 0.0;
    for (int32_t r = 0; r < num_ranks; r++) {
        const double left_s = fmax(0.0, seconds - rooms[r].base_s);
        layers += fmin(rooms[r].most, layers_within(1.0, rooms[r].layer_s, left_s));
    }
    return layers;
}

double hlm_column_capacity_bound(struct hlm_pricer_cache *cache, const struct hlm_column *column)
{
    static const double precision = 1e-4;
    const int32_t p = column->strategy.pp;
    const double num_layers = column->placement.num_layers;
    HLM_ASSERT(column->strategy.vpp == 1);
    struct hlm_arena *scratch = hlm_arena_new();
    const struct hlm_rank_held *held = find_schedule(cache, &column->strategy)->held;
    struct rank_room *rooms = HLM_ARENA_ARRAY(scratch, struct rank_room, p);
    double low_s = 0.0, high_s = 0.0;
    for (int32_t pp = 0; pp < p; pp++) {
        const bool as_before = pp > 1 && pp + 1 < p &&
                               column->pricers[pp] == column->pricers[pp - 1] &&
                               least_held(&held[pp]) == least_held(&held[pp - 1]);
        rooms[pp] = as_before ? rooms[pp - 1] : room_of(cache, column, &held[pp], pp);
        high_s = fmax(high_s, rooms[pp].base_s + (num_layers + 1.0) * rooms[pp].layer_s);
    }
    if (layers_of(rooms, p, high_s) < num_layers) {
        low_s = INFINITY;
    }
    while (isfinite(low_s) && high_s - low_s > precision * high_s) {
        const double middle_s = 0.5 * (low_s + high_s);
        *(layers_of(rooms, p, middle_s) < num_layers ? &low_s : &high_s) = middle_s;
    }
    hlm_arena_free(scratch);
    return (double)column->strategy.num_microbatches * low_s + hlm_stage_sync_s(&column->pricer);
}

/* --- memory --- */

/* Costs of the stages that are alike, by counts of layers. */
struct column_holding {
    const struct hlm_column *column;
    int32_t totals[HLM_NUM_LAYER_KINDS];
    const int32_t *classes;         /* [pp] */
    struct hlm_stage_holding *made; /* [num_classes][totals[0] + 1][totals[1] + 1] */
    bool *is_made;
};

static struct hlm_stage_shape empty_shape(const struct hlm_strategy *strategy, int32_t stage)
{
    return (struct hlm_stage_shape){.stage = stage,
                                    .num_stages = strategy->pp * strategy->vpp,
                                    .embedding = stage == 0,
                                    .head = stage == strategy->pp * strategy->vpp - 1};
}

static int64_t static_bytes(const struct hlm_stage_cost *cost)
{
    int64_t bytes = 0;
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        bytes += cost->static_bytes[kind];
    }
    return bytes;
}

static void hold(const void *context, int32_t stage, const int32_t counts[HLM_NUM_LAYER_KINDS],
                 struct hlm_stage_holding *out)
{
    const struct column_holding *holding = context;
    const int32_t rows = holding->totals[0] + 1, columns = holding->totals[1] + 1;
    const size_t at = (size_t)((holding->classes[stage] * rows + counts[0]) * columns + counts[1]);
    if (!holding->is_made[at]) {
        struct hlm_stage_shape shape = empty_shape(&holding->column->strategy, stage);
        for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
            shape.layers[layer_blocks[kind]][HLM_RECOMPUTE_NONE] = counts[kind];
        }
        struct hlm_stage_cost cost;
        hlm_stage_cost(stage_pricer(holding->column, stage), &shape, &cost);
        holding->made[at] = (struct hlm_stage_holding){.static_bytes = static_bytes(&cost),
                                                       .reduce_s = cost.reduce_s,
                                                       .optimizer_s = cost.optimizer_s};
        holding->is_made[at] = true;
    }
    *out = holding->made[at];
}

/* Stages are alike when they have the same ends of the model and their groups lie alike. */
enum { NUM_CLASS_GROUPS = 4 };
struct stage_class {
    const struct hlm_pricer *pricer;
    int32_t ends;
    struct hlm_group_shape shapes[NUM_CLASS_GROUPS];
};

static struct stage_class class_of(const struct hlm_pricer *pricer, int32_t stage)
{
    static const enum hlm_group groups[NUM_CLASS_GROUPS] = {HLM_GROUP_TP, HLM_GROUP_DP,
                                                            HLM_GROUP_EP, HLM_GROUP_EDP};
    struct stage_class class = {
        .pricer = pricer,
        .ends = (stage == 0 ? 1 : 0) +
                (stage == pricer->strategy->pp * pricer->strategy->vpp - 1 ? 2 : 0)};
    for (int32_t i = 0; i < NUM_CLASS_GROUPS; i++) {
        class.shapes[i] = hlm_layout_shape(pricer->strategy, groups[i], pricer->cluster, stage);
    }
    return class;
}

static bool same_shape(const struct hlm_group_shape *a, const struct hlm_group_shape *b)
{
    return a->num_ranks == b->num_ranks && a->num_nodes == b->num_nodes &&
           a->ranks_per_node == b->ranks_per_node && a->groups_per_node == b->groups_per_node;
}

static bool same_class(const struct stage_class *a, const struct stage_class *b)
{
    bool same = a->ends == b->ends && a->pricer == b->pricer;
    for (int32_t i = 0; i < NUM_CLASS_GROUPS; i++) {
        same = same && same_shape(&a->shapes[i], &b->shapes[i]);
    }
    return same;
}

static const int32_t *find_classes(struct hlm_arena *arena, const struct hlm_column *column,
                                   int32_t *out_num)
{
    const int32_t p = hlm_column_num_stages(column);
    int32_t *classes = HLM_ARENA_ARRAY(arena, int32_t, p);
    struct stage_class *known = HLM_ARENA_ARRAY(arena, struct stage_class, p);
    int32_t num_known = 0;
    for (int32_t s = 0; s < p; s++) {
        const struct stage_class class = class_of(stage_pricer(column, s), s);
        int32_t at = 0;
        while (at < num_known && !same_class(&known[at], &class)) {
            at++;
        }
        if (at == num_known) {
            known[num_known++] = class;
        }
        classes[s] = at;
    }
    *out_num = num_known;
    return classes;
}

static struct column_holding *make_holding(struct hlm_arena *arena, const struct hlm_column *column)
{
    struct column_holding *holding = HLM_ARENA_NEW(arena, struct column_holding);
    int32_t num_classes = 0;
    *holding = (struct column_holding){.column = column,
                                       .classes = find_classes(arena, column, &num_classes)};
    for (int32_t layer = 0; layer < column->placement.num_layers; layer++) {
        holding->totals[column->placement.layer_kinds[layer]]++;
    }
    const size_t size =
        (size_t)num_classes * (size_t)(holding->totals[0] + 1) * (size_t)(holding->totals[1] + 1);
    holding->made = HLM_ARENA_ARRAY(arena, struct hlm_stage_holding, size);
    holding->is_made = HLM_ARENA_ARRAY(arena, bool, size);
    return holding;
}

/* What every stage needs for a moment beside its blocks: that of one with no block at all. */
static int64_t boundary_transient_bytes(const struct hlm_pricer *pricer)
{
    const struct hlm_stage_shape shape = {.num_stages =
                                              pricer->strategy->pp * pricer->strategy->vpp};
    struct hlm_stage_cost cost;
    hlm_stage_cost(pricer, &shape, &cost);
    return cost.transient_bytes;
}

static void fill_memory(const struct hlm_pricer *pricer, int32_t stage,
                        struct hlm_stage_prices *prices)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    const struct hlm_stage_shape shape = empty_shape(strategy, stage);
    const int64_t boundary_bytes = boundary_transient_bytes(pricer);
    struct hlm_stage_cost cost;
    hlm_stage_cost(pricer, &shape, &cost);
    prices->base_slot_bytes = cost.slot_bytes;
    prices->base_transient_bytes = cost.transient_bytes - boundary_bytes;
    prices->limit_bytes = pricer->limit_bytes - pricer->fixed_bytes - boundary_bytes;
    prices->in_flight = hlm_schedule_in_flight(strategy->schedule, strategy->pp,
                                               (int32_t)strategy->num_microbatches, stage);
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            const struct hlm_block_cost *block = &pricer->blocks[layer_blocks[kind]][mode];
            prices->slot_bytes[kind][mode] = block->slot_bytes;
            prices->transient_bytes[kind][mode] = block->transient_bytes;
        }
    }
}

/* --- ranked columns --- */

static const struct hlm_pass_cost *pass_of(const struct hlm_block_cost *block, int32_t action)
{
    const struct hlm_pass_cost *const passes[HLM_SIM_NUM_KINDS] = {
        [HLM_ACTION_F] = &block->forward,
        [HLM_ACTION_B] = &block->backward,
        [HLM_ACTION_I] = &block->input_grad,
        [HLM_ACTION_W] = &block->weight_grad};
    return passes[action];
}

static void add_base(const struct hlm_pricer *pricer, enum hlm_block_kind kind,
                     struct hlm_rank_stage *out)
{
    for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
        out->base_s[action] += pass_of(&pricer->blocks[kind][HLM_RECOMPUTE_NONE], action)->seconds;
    }
    out->may_be_empty = true;
}

static void fill_rank_stage(const struct hlm_pricer *pricer, int32_t stage,
                            struct hlm_rank_stage *out)
{
    const int64_t boundary_bytes = boundary_transient_bytes(pricer);
    const struct hlm_stage_shape shape = empty_shape(pricer->strategy, stage);
    struct hlm_stage_cost cost;
    hlm_stage_cost(pricer, &shape, &cost);
    out->base_slot_bytes = cost.slot_bytes;
    out->base_transient_bytes = cost.transient_bytes - boundary_bytes;
    out->limit_bytes = pricer->limit_bytes - pricer->fixed_bytes - boundary_bytes;
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            const struct hlm_block_cost *block = &pricer->blocks[layer_blocks[kind]][mode];
            out->slot_bytes[kind][mode] = block->slot_bytes;
            out->transient_bytes[kind][mode] = block->transient_bytes;
            for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
                out->layer_s[kind][mode][action] = pass_of(block, action)->seconds;
            }
        }
    }
    if (shape.embedding) {
        add_base(pricer, HLM_BLOCK_EMBEDDING, out);
    }
    if (shape.head) {
        add_base(pricer, HLM_BLOCK_HEAD, out);
    }
}

/* Of a layer where it stands, if every rank takes as long as any other. */
static double mean_layer_s(const struct hlm_column *column, int32_t kind, int32_t action)
{
    const struct hlm_rank_stage *stages = column->ranks.stages;
    if (!column->is_mixed) {
        return stages[0].layer_s[kind][HLM_RECOMPUTE_NONE][action];
    }
    double per_second = 0.0;
    for (int32_t s = 0; s < column->strategy.pp; s++) {
        per_second += 1.0 / stages[s].layer_s[kind][HLM_RECOMPUTE_NONE][action];
    }
    return isfinite(per_second) && per_second > 0.0 ? column->strategy.pp / per_second : 0.0;
}

/* Mean seconds of a stage without recompute, and of a transfer. */
static void find_means(const struct hlm_column *column, double seconds[HLM_SIM_NUM_KINDS],
                       double *transfer_s)
{
    const struct hlm_rank_problem *ranks = &column->ranks;
    const int32_t n = hlm_column_num_stages(column);
    for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
        double sum_s = 0.0;
        for (int32_t layer = 0; layer < ranks->num_layers; layer++) {
            sum_s += mean_layer_s(column, ranks->layer_kinds[layer], action);
        }
        for (int32_t s = 0; s < n; s++) {
            sum_s += ranks->stages[s].base_s[action];
        }
        seconds[action] = sum_s / n;
    }
    *transfer_s = 0.0;
    for (int32_t s = 0; s + 1 < n; s++) {
        *transfer_s += ranks->transfer_s[s] / (n - 1);
    }
}

static void complete_ranks(struct hlm_arena *arena, struct hlm_pricer_cache *cache,
                           struct hlm_column *column)
{
    const int32_t n = hlm_column_num_stages(column);
    struct cached_schedule *schedule = find_schedule(cache, &column->strategy);
    if (schedule->ramp_rows == NULL) {
        schedule->ramp_rows = hlm_sim_ramp_rows(cache->arena, schedule->order);
    }
    struct hlm_rank_stage *stages = HLM_ARENA_ARRAY(arena, struct hlm_rank_stage, n);
    double *transfer_s = HLM_ARENA_ARRAY(arena, double, n);
    fill_transfers(column, transfer_s);
    for (int32_t s = 0; s < n; s++) {
        if (s >= 2 && s + 1 < n && stage_pricer(column, s) == stage_pricer(column, s - 1)) {
            stages[s] = stages[s - 1];
        } else {
            fill_rank_stage(stage_pricer(column, s), s, &stages[s]);
        }
    }
    struct hlm_rank_problem *ranks = &column->ranks;
    *ranks = (struct hlm_rank_problem){.order = schedule->order,
                                       .held = schedule->held,
                                       .rows = schedule->ramp_rows,
                                       .num_rows = schedule->order->num_ranks,
                                       .num_layers = column->placement.num_layers,
                                       .layer_kinds = column->placement.layer_kinds,
                                       .stages = stages,
                                       .transfer_s = transfer_s,
                                       .both_sides = column->both_sides,
                                       .sync_s = hlm_stage_sync_s(&column->pricer),
                                       .hold = hold,
                                       .context = make_holding(arena, column)};
    memcpy(ranks->modes, column->placement.modes, sizeof(ranks->modes));
}

void hlm_column_take_paths(struct hlm_pricer_cache *cache, struct hlm_column *column)
{
    struct cached_schedule *schedule = find_schedule(cache, &column->strategy);
    double seconds[HLM_SIM_NUM_KINDS], mean_transfer_s = 0.0;
    find_means(column, seconds, &mean_transfer_s);
    column->ranks.rows = find_rows(cache, schedule, seconds, mean_transfer_s);
    column->ranks.num_rows = hlm_sim_num_path_rows(schedule->order);
}

void hlm_column_complete(struct hlm_arena *arena, struct hlm_pricer_cache *cache,
                         struct hlm_column *column)
{
    if (column->is_ranked) {
        complete_ranks(arena, cache, column);
        return;
    }
    const int32_t p = column->placement.num_stages;
    struct hlm_stage_prices *stages = HLM_ARENA_ARRAY(arena, struct hlm_stage_prices, p);
    for (int32_t s = 0; s < p; s++) {
        stages[s] = column->placement.stages[s];
        fill_memory(column->pricers[s], s, &stages[s]);
    }
    column->placement.stages = stages;
    column->placement.hold = hold;
    column->placement.context = make_holding(arena, column);
}

/* --- back to a plan --- */

const struct hlm_plan_stage *hlm_column_stages(struct hlm_arena *arena, struct hlm_pattern_set *set,
                                               const struct hlm_column *column, const int32_t *ends)
{
    const int32_t p = column->strategy.pp;
    struct hlm_plan_stage *stages = HLM_ARENA_ARRAY(arena, struct hlm_plan_stage, p);
    for (int32_t s = 0; s < p; s++) {
        const int32_t begin = s == 0 ? 0 : ends[s - 1];
        const struct hlm_pattern *pattern = hlm_pattern_get(set, s, begin, ends[s]);
        HLM_ASSERT(pattern != NULL);
        stages[s] = (struct hlm_plan_stage){
            .rank_group = s,
            .first_layer = begin,
            .num_layers = ends[s] - begin,
            .device_group = column->pricers[s]->device_group,
            .tp = column->pricers[s]->strategy->tp,
            .recompute = {.none = pattern->recompute[HLM_RECOMPUTE_NONE],
                          .selective = pattern->recompute[HLM_RECOMPUTE_SELECTIVE],
                          .full = pattern->recompute[HLM_RECOMPUTE_FULL]}};
    }
    return stages;
}

const struct hlm_plan_stage *hlm_column_ranked_stages(struct hlm_arena *arena,
                                                      const struct hlm_column *column,
                                                      const struct hlm_rank_partition *partition)
{
    const int32_t n = hlm_column_num_stages(column);
    struct hlm_plan_stage *stages = HLM_ARENA_ARRAY(arena, struct hlm_plan_stage, n);
    for (int32_t s = 0; s < n; s++) {
        const int32_t begin = s == 0 ? 0 : partition->ends[s - 1];
        const int32_t count = partition->ends[s] - begin;
        const int32_t full = partition->full[s], selective = partition->selective[s];
        stages[s] = (struct hlm_plan_stage){
            .rank_group = column->ranks.order->stage_rank[s],
            .first_layer = begin,
            .num_layers = count,
            .device_group = stage_pricer(column, s)->device_group,
            .tp = stage_pricer(column, s)->strategy->tp,
            .recompute = {.none = count - full - selective, .selective = selective, .full = full}};
    }
    return stages;
}

double hlm_column_simulate(struct hlm_arena *scratch, const struct hlm_column *column,
                           const struct hlm_plan_stage *stages)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
    const int32_t p = column->strategy.pp;
    double *forward = HLM_ARENA_ARRAY(scratch, double, p);
    double *backward = HLM_ARENA_ARRAY(scratch, double, p);
    double *reduce = HLM_ARENA_ARRAY(scratch, double, p);
    double *optimizer = HLM_ARENA_ARRAY(scratch, double, p);
    double *send_backward = HLM_ARENA_ARRAY(scratch, double, p);
    for (int32_t s = 0; s < p; s++) {
        const struct hlm_stage_shape shape =
            hlm_plan_stage_shape(column->pricer.model, stages, p, s);
        struct hlm_stage_cost cost;
        hlm_stage_cost(column->pricers[s], &shape, &cost);
        forward[s] = cost.forward.seconds;
        backward[s] = cost.backward.seconds;
        reduce[s] = cost.reduce_s;
        optimizer[s] = cost.optimizer_s;
        send_backward[s] = s > 0 ? column->placement.transfer_s[s - 1] : 0.0;
    }
    const struct hlm_sim_costs costs = {.forward_s = forward,
                                        .backward_s = backward,
                                        .send_forward_s = column->placement.transfer_s,
                                        .send_backward_s = send_backward,
                                        .needs_both_sides = column->both_sides,
                                        .reduce_s = reduce,
                                        .optimizer_s = optimizer,
                                        .sync_s = column->placement.sync_s};
    const double step_s = hlm_simulate_step(scratch, column->strategy.schedule, p,
                                            (int32_t)column->strategy.num_microbatches, &costs);
    hlm_arena_rewind(scratch, mark);
    return step_s;
}

/* --- how far from fitting --- */

static void spread_evenly(const struct hlm_column *column, struct hlm_plan_stage *stages)
{
    const int32_t n = hlm_column_num_stages(column);
    const int64_t num_layers = column->placement.num_layers;
    for (int32_t s = 0; s < n; s++) {
        const int32_t begin = (int32_t)(num_layers * s / n);
        const int32_t end = (int32_t)(num_layers * (s + 1) / n);
        stages[s] = (struct hlm_plan_stage){.first_layer = begin, .num_layers = end - begin};
    }
}

static void set_mode(struct hlm_plan_stage *stage, enum hlm_recompute mode)
{
    const int32_t count = stage->num_layers;
    stage->recompute =
        (struct hlm_plan_recompute){.none = mode == HLM_RECOMPUTE_NONE ? count : 0,
                                    .selective = mode == HLM_RECOMPUTE_SELECTIVE ? count : 0,
                                    .full = mode == HLM_RECOMPUTE_FULL ? count : 0};
}

/* Memory of a rank as one, written to the first of its stages. */
static struct hlm_column_excess rank_excess(const struct hlm_column *column,
                                            const struct hlm_plan_stage *stages,
                                            const struct hlm_rank_held *held,
                                            struct hlm_stage_memory *memory)
{
    hlm_plan_rank_memory(column->pricer.model, stage_pricer(column, held->stages[0]), stages,
                         hlm_column_num_stages(column), held, memory);
    struct hlm_stage_memory all = memory[held->stages[0]];
    for (int32_t c = 1; c < held->num_chunks; c++) {
        const struct hlm_stage_memory *more = &memory[held->stages[c]];
        all.peak_bytes += more->peak_bytes;
        for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
            all.bytes[kind] += more->bytes[kind];
        }
    }
    return (struct hlm_column_excess){all.peak_bytes - all.limit_bytes, all};
}

struct hlm_column_excess hlm_column_find_excess(struct hlm_pricer_cache *cache,
                                                const struct hlm_column *column)
{
    const int32_t n = hlm_column_num_stages(column);
    const struct hlm_rank_held *held = find_schedule(cache, &column->strategy)->held;
    struct hlm_arena *scratch = hlm_arena_new();
    struct hlm_plan_stage *stages = HLM_ARENA_ARRAY(scratch, struct hlm_plan_stage, n);
    struct hlm_stage_memory *memory = HLM_ARENA_ARRAY(scratch, struct hlm_stage_memory, n);
    struct hlm_column_excess worst = {.bytes = INT64_MIN};
    spread_evenly(column, stages);
    for (int32_t rank = 0; rank < column->strategy.pp; rank++) {
        struct hlm_column_excess least = {.bytes = INT64_MAX};
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            if (!column->placement.modes[mode]) {
                continue;
            }
            for (int32_t c = 0; c < held[rank].num_chunks; c++) {
                set_mode(&stages[held[rank].stages[c]], (enum hlm_recompute)mode);
            }
            const struct hlm_column_excess now = rank_excess(column, stages, &held[rank], memory);
            least = now.bytes < least.bytes ? now : least;
        }
        worst = least.bytes > worst.bytes ? least : worst;
    }
    hlm_arena_free(scratch);
    return worst;
}
