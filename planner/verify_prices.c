#include "planner/verify_prices.h"

#include <string.h>

enum { NUM_GROUPS = 3, NUM_SHAPE_FIELDS = 4, NUM_SWITCHES = 8, NUM_BUCKETS = 2048 };
enum { NUM_FIELDS = NUM_SWITCHES + NUM_GROUPS * NUM_SHAPE_FIELDS };

/* All that the operators of blocks depend on, as one pipeline rank sees the strategy. */
struct operators {
    int64_t fields[NUM_FIELDS];
};

struct priced {
    struct operators operators;
    struct hlm_pricer pricer; /* its strategy is gone: hlm_pricer_reuse names another */
    const struct priced *older;
};

struct hlm_verify_prices {
    struct hlm_arena *arena;
    const struct hlm_model *model;
    const struct hlm_cluster *cluster;
    const struct priced *buckets[NUM_BUCKETS];
};

struct hlm_verify_prices *hlm_verify_prices_new(struct hlm_arena *arena,
                                                const struct hlm_model *model,
                                                const struct hlm_cluster *cluster)
{
    struct hlm_verify_prices *prices = HLM_ARENA_NEW(arena, struct hlm_verify_prices);
    prices->arena = arena;
    prices->model = model;
    prices->cluster = cluster;
    return prices;
}

static struct operators operators_of(const struct hlm_verify_prices *prices,
                                     const struct hlm_strategy *seen, int32_t device_group,
                                     int32_t pp)
{
    static const enum hlm_group groups[NUM_GROUPS] = {HLM_GROUP_TP, HLM_GROUP_CP, HLM_GROUP_EP};
    struct operators key = {{device_group, seen->tp, seen->cp, seen->ep, seen->etp, seen->sp,
                             seen->microbatch_size, hlm_layout_ends_apart(seen)}};
    int64_t *field = &key.fields[NUM_SWITCHES];
    for (int32_t i = 0; i < NUM_GROUPS; i++) {
        const struct hlm_group_shape shape = hlm_layout_shape(seen, groups[i], prices->cluster, pp);
        *field++ = shape.num_ranks;
        *field++ = shape.num_nodes;
        *field++ = shape.ranks_per_node;
        *field++ = shape.groups_per_node;
    }
    return key;
}

static uint32_t bucket_of(const struct operators *key)
{
    uint64_t hash = 0;
    for (int32_t i = 0; i < NUM_FIELDS; i++) {
        hash = (hash + (uint64_t)key->fields[i]) * 0x9E3779B97F4A7C15ULL; /* golden ratio */
        hash ^= hash >> 32;
    }
    return (uint32_t)(hash % NUM_BUCKETS);
}

/* HLM_NO: the cost model refuses. Refusals are not kept: they say what is wrong with a strategy,
 * not with its operators. */
static enum hlm_status find_priced(struct hlm_verify_prices *prices,
                                   const struct hlm_strategy *seen, int32_t device_group,
                                   int32_t pp, const struct priced **out, struct hlm_err *err)
{
    const struct operators key = operators_of(prices, seen, device_group, pp);
    const struct priced **bucket = &prices->buckets[bucket_of(&key)];
    for (const struct priced *at = *bucket; at != NULL; at = at->older) {
        if (memcmp(&at->operators, &key, sizeof(key)) == 0) {
            *out = at;
            return HLM_OK;
        }
    }
    const struct hlm_arena_mark mark = hlm_arena_mark(prices->arena);
    struct priced *made = HLM_ARENA_NEW(prices->arena, struct priced);
    *made = (struct priced){.operators = key, .older = *bucket};
    const enum hlm_status status = hlm_pricer_init(
        prices->arena, prices->model, seen, prices->cluster, device_group, &made->pricer, err);
    if (status != HLM_OK) {
        hlm_arena_rewind(prices->arena, mark);
        return status;
    }
    *bucket = made;
    *out = made;
    return HLM_OK;
}

/* An earlier rank that is like this one, or `pp` itself. */
static int32_t first_alike(const struct hlm_strategy *strategy, const int32_t *groups, int32_t pp)
{
    int32_t first = 0;
    while (groups[first] != groups[pp] ||
           (strategy->places != NULL && strategy->places[first].tp != strategy->places[pp].tp)) {
        first++;
    }
    return first;
}

enum hlm_status hlm_verify_prices_get(struct hlm_verify_prices *prices, struct hlm_arena *arena,
                                      const struct hlm_strategy *strategy,
                                      const struct hlm_pricer *const **out, struct hlm_err *err)
{
    const struct hlm_pricer **pricers =
        HLM_ARENA_ARRAY(arena, const struct hlm_pricer *, strategy->pp);
    int32_t *groups = HLM_ARENA_ARRAY(arena, int32_t, strategy->pp);
    for (int32_t pp = 0; pp < strategy->pp; pp++) {
        groups[pp] = prices->cluster->num_groups == 1
                         ? 0
                         : hlm_layout_device_group(strategy, prices->cluster, pp);
        const int32_t alike = first_alike(strategy, groups, pp);
        if (alike < pp) {
            pricers[pp] = pricers[alike];
            continue;
        }
        const struct hlm_strategy at = hlm_strategy_at(strategy, pp);
        const struct hlm_strategy *seen =
            strategy->places == NULL ? strategy : hlm_arena_memdup(arena, &at, sizeof(at));
        const struct priced *priced = NULL;
        HLM_TRY(find_priced(prices, seen, groups[pp], pp, &priced, err));
        struct hlm_pricer *pricer = HLM_ARENA_NEW(arena, struct hlm_pricer);
        hlm_pricer_reuse(&priced->pricer, seen, pricer);
        pricers[pp] = pricer;
    }
    *out = pricers;
    return HLM_OK;
}
