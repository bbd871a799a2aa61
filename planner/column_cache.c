#include "planner/column_internal.h"

#include <math.h>
#include <string.h>

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

struct pricer_entry {
    struct key key;
    struct hlm_cached_pricer value;
    const struct pricer_entry *older;
};

/* What a layer of the frequent kind takes at the least. */
struct least_entry {
    struct key key;
    bool refused;
    double seconds;
    const struct least_entry *older;
};

/* A schedule, and its rows at one reference. */
struct rows_entry {
    struct key key;
    struct hlm_cached_rows value;
    const struct rows_entry *older;
};
struct schedule_entry {
    struct key key;
    struct hlm_cached_schedule value;
    struct hlm_cached_rows ramp_rows; /* rows NULL: not yet */
    const struct rows_entry *rows;
    struct schedule_entry *older;
};

struct hlm_cache_tables {
    const struct pricer_entry *pricers[NUM_BUCKETS];
    const struct pricer_entry *priced[NUM_BUCKETS]; /* those that pricers are made from */
    const struct least_entry *least[NUM_BUCKETS];
    struct schedule_entry *schedules[NUM_BUCKETS];
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
    cache->tables = HLM_ARENA_NEW(arena, struct hlm_cache_tables);
    return cache;
}

static void add_group(struct key *key, const struct hlm_pricer_cache *cache,
                      const struct hlm_strategy *strategy, int32_t pp, enum hlm_group group)
{
    const struct hlm_group_shape shape =
        hlm_layout_shape(strategy, group, cache->problem->cluster, pp);
    key_add_shape(key, &shape);
}

/* What the operators of a layer and the prices of its kernels depend on. `strategy` as pipeline
 * rank pp sees it, the first of those that are alike; so below. */
static struct key kernels_key(const struct hlm_pricer_cache *cache,
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
    return key;
}

/* What its operators depend on, collectives too. */
static struct key layer_key(const struct hlm_pricer_cache *cache,
                            const struct hlm_strategy *strategy, int32_t pp)
{
    struct key key = kernels_key(cache, strategy, pp);
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
    /* Waiting for the slowest of all ranks: they are not the same number where groups idle. */
    const bool waits = hlm_lowering_framework(strategy->lowering)->jitter_frac > 0.0;
    key_add(&key, hlm_schedule_splits(strategy->schedule) ? 1 : 0);
    key_add(&key,
            waits ? hlm_strategy_world_size(strategy) / strategy->dp * hlm_strategy_all_dp(strategy)
                  : 0);
    if (strategy->zero >= 2) {
        key_add(&key, strategy->zero);
        key_add(&key, strategy->dp);
        add_group(&key, cache, strategy, pp, HLM_GROUP_DP);
        add_group(&key, cache, strategy, pp, HLM_GROUP_EDP);
    }
    return key;
}

static const struct pricer_entry *find_cached(const struct pricer_entry *const *buckets,
                                              const struct key *key)
{
    const struct pricer_entry *at = buckets[bucket_of(key)];
    while (at != NULL && !same_key(&at->key, key)) {
        at = at->older;
    }
    return at;
}

static struct pricer_entry *add_cached(struct hlm_pricer_cache *cache,
                                       const struct pricer_entry **buckets, const struct key *key)
{
    struct pricer_entry *made = HLM_ARENA_NEW(cache->arena, struct pricer_entry);
    const uint32_t bucket = bucket_of(key);
    made->key = *key;
    made->older = buckets[bucket];
    buckets[bucket] = made;
    return made;
}

/* With the operators of all blocks priced. */
static const struct pricer_entry *find_priced(struct hlm_pricer_cache *cache,
                                              const struct hlm_strategy *strategy, int32_t pp)
{
    const struct key key = priced_key(cache, strategy, pp);
    const struct pricer_entry *known = find_cached(cache->tables->priced, &key);
    if (known != NULL) {
        return known;
    }
    struct pricer_entry *made = add_cached(cache, cache->tables->priced, &key);
    struct hlm_pricer *pricer = HLM_ARENA_NEW(cache->arena, struct hlm_pricer);
    struct hlm_err why = {0};
    const int32_t group = hlm_layout_device_group(strategy, cache->problem->cluster, pp);
    if (hlm_pricer_init(cache->arena, cache->problem->model, strategy, cache->problem->cluster,
                        group, pricer, &why) == HLM_OK) {
        made->value.pricer = pricer;
    } else {
        made->value.why = hlm_arena_memdup(cache->arena, &why, sizeof(why));
    }
    return made;
}

const struct hlm_cached_pricer *hlm_cache_pricer(struct hlm_pricer_cache *cache,
                                                 const struct hlm_strategy *strategy, int32_t pp)
{
    const struct key key = pricer_key(cache, strategy, pp);
    const struct pricer_entry *known = find_cached(cache->tables->pricers, &key);
    if (known != NULL) {
        return &known->value;
    }
    const struct pricer_entry *priced = find_priced(cache, strategy, pp);
    struct pricer_entry *made = add_cached(cache, cache->tables->pricers, &key);
    made->value.why = priced->value.why;
    if (priced->value.pricer != NULL) {
        struct hlm_pricer *pricer = HLM_ARENA_NEW(cache->arena, struct hlm_pricer);
        hlm_pricer_reuse(priced->value.pricer, strategy, pricer);
        made->value.pricer = pricer;
    }
    return &made->value;
}

struct hlm_layer_memo {
    struct hlm_arena *arena; /* of the layer alone */
    struct key key;
    struct hlm_least_layer *layer; /* NULL: none yet, or the cost model refuses */
};

struct hlm_layer_memo *hlm_layer_memo_new(struct hlm_arena *arena)
{
    struct hlm_layer_memo *memo = HLM_ARENA_NEW(arena, struct hlm_layer_memo);
    memo->arena = hlm_arena_new();
    return memo;
}

void hlm_layer_memo_release(struct hlm_layer_memo *memo)
{
    hlm_arena_free(memo->arena);
}

/* The layer that was asked for last, or a new one in its place. */
static struct hlm_least_layer *find_layer(const struct hlm_pricer_cache *cache,
                                          struct hlm_layer_memo *memo,
                                          const struct hlm_strategy *strategy, int32_t kind,
                                          struct hlm_err *err)
{
    const struct hlm_cluster *cluster = cache->problem->cluster;
    const struct key key = kernels_key(cache, strategy, 0);
    if (memo->layer == NULL || !same_key(&memo->key, &key)) {
        hlm_arena_free(memo->arena);
        memo->arena = hlm_arena_new();
        memo->key = key;
        memo->layer = NULL;
        if (hlm_least_layer_new(memo->arena, cache->problem->model, strategy, cluster,
                                hlm_layout_device_group(strategy, cluster, 0),
                                hlm_layer_blocks[kind], &memo->layer, err) != HLM_OK) {
            return NULL;
        }
    }
    return memo->layer;
}

static const struct least_entry *find_least(struct hlm_pricer_cache *cache,
                                            struct hlm_layer_memo *memo,
                                            const struct hlm_strategy *strategy, int32_t kind,
                                            struct hlm_err *err)
{
    const struct key key = layer_key(cache, strategy, 0);
    const uint32_t bucket = bucket_of(&key);
    for (const struct least_entry *at = cache->tables->least[bucket]; at != NULL; at = at->older) {
        if (same_key(&at->key, &key)) {
            return at;
        }
    }
    struct least_entry *made = HLM_ARENA_NEW(cache->arena, struct least_entry);
    *made = (struct least_entry){.key = key, .older = cache->tables->least[bucket]};
    cache->tables->least[bucket] = made;
    struct hlm_least_layer *layer = find_layer(cache, memo, strategy, kind, err);
    made->refused = layer == NULL;
    made->seconds = layer == NULL ? 0.0 : hlm_least_layer_s(layer, strategy);
    return made;
}

enum hlm_status hlm_cache_least_s(struct hlm_pricer_cache *cache, struct hlm_layer_memo *memo,
                                  const struct hlm_strategy *strategy, int32_t kind, double *out_s,
                                  struct hlm_err *err)
{
    const struct least_entry *least = find_least(cache, memo, strategy, kind, err);
    *out_s = least->seconds;
    return least->refused ? HLM_NO : HLM_OK;
}

/* Layers of a rank are spread evenly over its stages: at most one more on some, who may be those
 * that hold least. */
static void sum_up_held(struct hlm_cached_schedule *made, int32_t num_ranks)
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

static struct schedule_entry *make_schedule(struct hlm_pricer_cache *cache,
                                            const struct hlm_strategy *strategy,
                                            const struct key *key)
{
    struct schedule_entry *made = HLM_ARENA_NEW(cache->arena, struct schedule_entry);
    struct hlm_arena *scratch = hlm_arena_new();
    const struct hlm_schedule *schedule = NULL;
    struct hlm_err unused; /* columns.c asked before; all builders make progress */
    HLM_ASSERT(hlm_schedule_build(scratch, strategy->schedule, strategy->pp, strategy->vpp,
                                  (int32_t)strategy->num_microbatches, &schedule,
                                  &unused) == HLM_OK);
    HLM_ASSERT(hlm_sim_order_new(cache->arena, schedule, &made->value.order, &unused) == HLM_OK);
    made->value.held = hlm_plan_held(cache->arena, strategy, schedule);
    sum_up_held(&made->value, schedule->num_ranks);
    hlm_arena_free(scratch);
    made->key = *key;
    made->older = cache->tables->schedules[bucket_of(key)];
    cache->tables->schedules[bucket_of(key)] = made;
    return made;
}

static struct schedule_entry *find_schedule(struct hlm_pricer_cache *cache,
                                            const struct hlm_strategy *strategy)
{
    struct key key = {.num = 0};
    key_add(&key, strategy->schedule);
    key_add(&key, strategy->pp);
    key_add(&key, strategy->vpp);
    key_add(&key, strategy->num_microbatches);
    for (struct schedule_entry *at = cache->tables->schedules[bucket_of(&key)]; at != NULL;
         at = at->older) {
        if (same_key(&at->key, &key)) {
            return at;
        }
    }
    return make_schedule(cache, strategy, &key);
}

/* A ratio in doublings. */
static int64_t steps_of(double ratio)
{
    return ratio > 0x1p-20 ? (int64_t)lround(log2(ratio)) : -20;
}

static double ratio_of(int64_t steps)
{
    return steps <= -20 ? 0.0 : exp2((double)steps);
}

static double *repeat(struct hlm_arena *arena, int32_t num, double value)
{
    double *values = HLM_ARENA_ARRAY(arena, double, num);
    for (int32_t i = 0; i < num; i++) {
        values[i] = value;
    }
    return values;
}

const struct hlm_cached_schedule *hlm_cache_schedule(struct hlm_pricer_cache *cache,
                                                     const struct hlm_strategy *strategy)
{
    return &find_schedule(cache, strategy)->value;
}

static struct hlm_cached_rows share_rows(struct hlm_arena *arena,
                                         const struct hlm_cached_schedule *schedule,
                                         const struct hlm_path_row *rows, int32_t num_rows)
{
    return (struct hlm_cached_rows){
        rows, num_rows,
        hlm_rank_factors_new(arena, schedule->order, schedule->held, rows, num_rows)};
}

const struct hlm_cached_rows *hlm_cache_ramp_rows(struct hlm_pricer_cache *cache,
                                                  const struct hlm_strategy *strategy)
{
    struct schedule_entry *schedule = find_schedule(cache, strategy);
    const struct hlm_sim_order *order = schedule->value.order;
    if (schedule->ramp_rows.rows == NULL) {
        schedule->ramp_rows = share_rows(cache->arena, &schedule->value,
                                         hlm_sim_ramp_rows(cache->arena, order), order->num_ranks);
    }
    return &schedule->ramp_rows;
}

const struct hlm_cached_rows *hlm_cache_path_rows(struct hlm_pricer_cache *cache,
                                                  const struct hlm_strategy *strategy,
                                                  const double seconds[HLM_SIM_NUM_KINDS],
                                                  double transfer_s)
{
    struct schedule_entry *schedule = find_schedule(cache, strategy);
    struct key key = {.num = 0};
    for (int32_t action = HLM_ACTION_B; action < HLM_SIM_NUM_KINDS; action++) {
        key_add(&key, steps_of(seconds[action] / seconds[HLM_ACTION_F]));
    }
    key_add(&key, steps_of(transfer_s / seconds[HLM_ACTION_F]));
    for (const struct rows_entry *at = schedule->rows; at != NULL; at = at->older) {
        if (same_key(&at->key, &key)) {
            return &at->value;
        }
    }
    struct hlm_arena *scratch = hlm_arena_new();
    const struct hlm_sim_order *order = schedule->value.order;
    const int32_t n = order->num_stages;
    const double *transfers = repeat(scratch, n, ratio_of(key.fields[3]));
    const struct hlm_sim_costs reference = {
        .forward_s = repeat(scratch, n, 1.0),
        .backward_s = repeat(scratch, n, ratio_of(key.fields[0])),
        .input_grad_s = repeat(scratch, n, ratio_of(key.fields[1])),
        .weight_grad_s = repeat(scratch, n, ratio_of(key.fields[2])),
        .send_forward_s = transfers,
        .send_backward_s = transfers};
    struct rows_entry *made = HLM_ARENA_NEW(cache->arena, struct rows_entry);
    *made =
        (struct rows_entry){.key = key,
                            .value = share_rows(cache->arena, &schedule->value,
                                                hlm_sim_path_rows(cache->arena, order, &reference),
                                                hlm_sim_num_path_rows(order)),
                            .older = schedule->rows};
    schedule->rows = made;
    hlm_arena_free(scratch);
    return &made->value;
}
