#include "planner/share_column_internal.h"

#include <math.h>

/* Sums in another order may differ by this much. */
static const double tie_frac = 1e-9;

/* --- the most microbatches of a group --- */

/* That leave one at least to every other replica. */
static int64_t most_possible(const struct hlm_strategy *strategy, int64_t total, int32_t g)
{
    int64_t others = 0;
    for (int32_t h = 0; h < strategy->num_replicas; h++) {
        others += h == g ? 0 : hlm_share_dp(strategy, h);
    }
    return (total - others) / hlm_share_dp(strategy, g);
}

bool hlm_share_group_form_refuses(struct hlm_share_column *column, int32_t g,
                                  int64_t num_microbatches, double goal_s)
{
    struct hlm_placement placement = column->groups[g].times.placement;
    placement.num_microbatches = (int32_t)num_microbatches;
    return hlm_bound_closed_form(&placement) > goal_s;
}

/* The most that are not refused; one more is, where more are possible. */
static int64_t most_within(struct hlm_share_column *column, int32_t g, int64_t most, double goal_s,
                           hlm_share_refuses_fn *refuses)
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
bool hlm_share_find_most(struct hlm_share_column *column, double goal_s,
                         hlm_share_refuses_fn *refuses, int64_t *most)
{
    int64_t sum = 0;
    for (int32_t g = 0; g < column->num_groups; g++) {
        most[g] = most_possible(&column->strategy, column->total, g);
        most[g] = most_within(column, g, most[g], goal_s, hlm_share_group_form_refuses);
        if (refuses != hlm_share_group_form_refuses) {
            most[g] = most_within(column, g, most[g], goal_s, refuses);
        }
        sum += most[g] * hlm_share_dp(&column->strategy, g);
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
        struct hlm_share_group *group = &column->groups[g];
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
struct hlm_share_group *hlm_share_complete(struct hlm_share_column *column, int32_t g,
                                           int64_t num_microbatches)
{
    struct hlm_share_group *group = &column->groups[g];
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

bool hlm_share_group_rows_refuse(struct hlm_share_column *column, int32_t g,
                                 int64_t num_microbatches, double goal_s)
{
    struct hlm_share_group *group = hlm_share_complete(column, g, num_microbatches);
    const struct hlm_arena_mark mark = hlm_arena_mark(column->scratch);
    struct hlm_bound_windows windows;
    const bool some = hlm_bound_narrow(column->scratch, group->set, goal_s, &windows);
    hlm_arena_rewind(column->scratch, mark);
    return !some;
}

bool hlm_share_closed_form_refuses(struct hlm_share_column *column, double goal_s)
{
    int64_t most[HLM_MAX_MIXED_GROUPS];
    return !hlm_share_find_most(column, goal_s, hlm_share_group_form_refuses, most);
}

bool hlm_share_rows_refuse(struct hlm_share_column *column, double goal_s)
{
    int64_t most[HLM_MAX_MIXED_GROUPS];
    return !hlm_share_find_most(column, goal_s, hlm_share_group_rows_refuse, most);
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
