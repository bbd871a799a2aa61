#include "planner/infeasible.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/fmt.h"
#include "planner/bound.h"
#include "planner/columns.h"

/* --- the column that comes closest --- */

static bool is_plain(const struct hlm_strategy *strategy)
{
    return strategy->schedule == HLM_SCHEDULE_GPIPE || strategy->schedule == HLM_SCHEDULE_1F1B;
}

bool hlm_infeasible_find_closest(const struct hlm_search_problem *problem,
                                 const struct hlm_strategy *strategies, int32_t num_strategies,
                                 struct hlm_infeasible_closest *out)
{
    struct hlm_arena *kept = hlm_arena_new(), *scratch = hlm_arena_new();
    struct hlm_pricer_cache *cache = hlm_pricer_cache_new(kept, problem);
    bool found = false, any_plain = false;
    for (int32_t i = 0; i < num_strategies; i++) {
        any_plain = any_plain || is_plain(&strategies[i]);
    }
    for (int32_t i = 0; i < num_strategies; i++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
        struct hlm_column column;
        struct hlm_err unused;
        if (is_plain(&strategies[i]) == any_plain &&
            hlm_column_init(scratch, cache, &strategies[i], &column, &unused) == HLM_OK) {
            const struct hlm_column_excess excess = hlm_column_find_excess(cache, &column);
            if (!found || excess.bytes < out->excess.bytes) {
                *out = (struct hlm_infeasible_closest){strategies[i], excess};
                found = true;
            }
        }
        hlm_arena_rewind(scratch, mark);
    }
    hlm_arena_free(scratch);
    hlm_arena_free(kept);
    return found;
}

static enum hlm_memory_kind largest_kind(const struct hlm_stage_memory *memory)
{
    enum hlm_memory_kind largest = HLM_MEMORY_PARAMETERS;
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        if (memory->bytes[kind] > memory->bytes[largest]) {
            largest = (enum hlm_memory_kind)kind;
        }
    }
    return largest;
}

/* --- what would help --- */

/* Layers spread as evenly over the ranks as they can be; whether that fits. */
static bool even_layers_fit(struct hlm_arena *scratch, const struct hlm_rank_problem *problem)
{
    const int32_t p = problem->order->num_ranks;
    int32_t *totals = HLM_ARENA_ARRAY(scratch, int32_t, p);
    for (int32_t r = 0; r < p; r++) {
        totals[r] = (int32_t)((int64_t)problem->num_layers * (r + 1) / p) -
                    (int32_t)((int64_t)problem->num_layers * r / p);
    }
    struct hlm_rank_partition partition =
        hlm_rank_partition_new(scratch, problem->order->num_stages);
    hlm_rank_spread(problem, totals, NULL, &partition);
    return hlm_rank_choose_recompute(scratch, problem, &partition);
}

/* Whether the hosts together hold the optimizer states of all ranks that are sent there. */
static bool hosts_may_hold(const struct hlm_column *column,
                           const struct hlm_search_problem *problem)
{
    int64_t num_elements = 0, num_expert_elements = 0;
    double hosts_bytes = 0.0;
    for (int32_t i = 0; i < problem->cluster->num_groups; i++) {
        const struct hlm_device_group *group = &problem->cluster->groups[i];
        hosts_bytes += group->host != NULL ? group->num_nodes * group->host->memory_bytes : 0.0;
    }
    for (int32_t layer = 0; layer < problem->model->num_layers; layer++) {
        const struct hlm_block_cost *block =
            &column->pricer.blocks[hlm_plan_layer_kind(problem->model, layer)][HLM_RECOMPUTE_NONE];
        num_elements += block->num_elements;
        num_expert_elements += block->num_expert_elements;
    }
    const struct hlm_strategy *strategy = &column->strategy;
    return (double)hlm_memory_host_states(strategy, num_elements, num_expert_elements) *
               column->pricer.strategy->tp * strategy->cp * strategy->dp <=
           hosts_bytes;
}

static bool column_fits(const struct hlm_search_problem *problem, struct hlm_pricer_cache *cache,
                        const struct hlm_strategy *strategy)
{
    struct hlm_arena *kept = hlm_arena_new(), *scratch = hlm_arena_new();
    struct hlm_column column;
    struct hlm_err unused;
    bool fits = false;
    if (hlm_column_init(kept, cache, strategy, &column, &unused) == HLM_OK &&
        hlm_column_may_fit(&column) && hosts_may_hold(&column, problem)) {
        hlm_column_complete(kept, cache, &column);
        if (column.is_ranked) {
            fits = even_layers_fit(scratch, &column.ranks);
        } else {
            struct hlm_pattern_set *set = hlm_pattern_set_new(kept, &column.placement);
            struct hlm_bound_windows windows;
            fits = hlm_bound_narrow(scratch, set, (double)INFINITY, &windows);
        }
    }
    hlm_arena_free(scratch);
    hlm_arena_free(kept);
    return fits;
}

bool hlm_infeasible_fits(const struct hlm_search_problem *problem)
{
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_strategy *strategies = NULL;
    int32_t num_strategies = 0;
    struct hlm_err unused;
    bool fits = false;
    if (hlm_columns_list(arena, problem, &strategies, &num_strategies, &unused) == HLM_OK) {
        struct hlm_pricer_cache *cache = hlm_pricer_cache_new(arena, problem);
        /* Small microbatches over many ranks fit first, and stand last or first: from the end. */
        for (int32_t i = num_strategies - 1; i >= 0 && !fits; i--) {
            fits = column_fits(problem, cache, &strategies[i]);
        }
    }
    hlm_arena_free(arena);
    return fits;
}

/* Requirements that can be left out one at a time. */
struct waiver {
    const char *name;
    bool (*waive)(struct hlm_search_require *require);
};
#define WAIVER(field, free_value)                                                                  \
    static bool waive_##field(struct hlm_search_require *require)                                  \
    {                                                                                              \
        const bool required = require->field != (free_value);                                      \
        require->field = (free_value);                                                             \
        return required;                                                                           \
    }
WAIVER(recompute, -1)
WAIVER(zero, -1)
WAIVER(microbatch_size, 0)
WAIVER(schedule, -1)
WAIVER(sp, -1)
WAIVER(ep, 0)
WAIVER(dp, 0)
WAIVER(vpp, 0)
WAIVER(cp, 0)
WAIVER(pp, 0)
WAIVER(tp, 0)
#undef WAIVER

static const struct waiver waivers[] = {
    {"recompute", waive_recompute},
    {"zero", waive_zero},
    {"microbatch_size", waive_microbatch_size},
    {"schedule", waive_schedule},
    {"sp", waive_sp},
    {"ep", waive_ep},
    {"vpp", waive_vpp},
    {"cp", waive_cp},
    {"dp", waive_dp},
    {"pp", waive_pp},
    {"tp", waive_tp},
};

static bool find_waiver(const struct hlm_search_problem *problem, char *out, size_t size)
{
    for (size_t i = 0; i < sizeof(waivers) / sizeof(waivers[0]); i++) {
        struct hlm_search_problem freer = *problem;
        if (waivers[i].waive(&freer.require) && hlm_infeasible_fits(&freer)) {
            (void)snprintf(out, size, "; a plan fits when %s is left free", waivers[i].name);
            return true;
        }
    }
    return false;
}

/* The first offload with which a plan fits. */
static bool find_offload(const struct hlm_search_problem *problem, char *out, size_t size)
{
    static const enum hlm_offload offloads[] = {HLM_OFFLOAD_OPTIMIZER, HLM_OFFLOAD_ACTIVATIONS,
                                                HLM_OFFLOAD_ALL};
    if (problem->require.offload >= 0 || problem->runnable_only) {
        return false;
    }
    for (size_t i = 0; i < sizeof(offloads) / sizeof(offloads[0]); i++) {
        struct hlm_search_problem offloaded = *problem;
        offloaded.require.offload = (int32_t)offloads[i];
        if (hlm_infeasible_fits(&offloaded)) {
            (void)snprintf(out, size, "; a plan fits when offload=%s is required",
                           hlm_offload_texts[offloads[i]]);
            return true;
        }
    }
    return false;
}

/* One node has no link to others of its group; whether a plan fits does not depend on its speed. */
static void add_own_links(struct hlm_arena *arena, const struct hlm_cluster *before,
                          struct hlm_cluster *larger)
{
    struct hlm_inter_link *links =
        HLM_ARENA_ARRAY(arena, struct hlm_inter_link, before->num_links + before->num_groups);
    int32_t num = 0;
    for (; num < before->num_links; num++) {
        links[num] = before->links[num];
    }
    for (int32_t i = 0; i < before->num_groups; i++) {
        bool has_own = false;
        for (int32_t at = 0; at < before->num_links; at++) {
            has_own = has_own || (before->links[at].from == i && before->links[at].to == i);
        }
        if (!has_own) {
            links[num++] =
                (struct hlm_inter_link){.from = i, .to = i, .link = before->groups[i].intra_node};
        }
    }
    larger->links = links;
    larger->num_links = num;
}

/* The cluster with `times` as many nodes in each group; degrees that were required stay. */
static bool more_nodes_fit(const struct hlm_search_problem *problem, int32_t times)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_cluster cluster = *problem->cluster;
    struct hlm_device_group *groups = hlm_arena_memdup(
        arena, cluster.groups, (size_t)cluster.num_groups * sizeof(struct hlm_device_group));
    for (int32_t i = 0; i < cluster.num_groups; i++) {
        groups[i].num_nodes *= times;
    }
    cluster.groups = groups;
    add_own_links(arena, problem->cluster, &cluster);
    struct hlm_search_problem larger = *problem;
    larger.cluster = &cluster;
    struct hlm_err unused;
    const bool fits =
        hlm_cluster_validate(&cluster, "", &unused) == HLM_OK && hlm_infeasible_fits(&larger);
    hlm_arena_free(arena);
    return fits;
}

static void find_nodes(const struct hlm_search_problem *problem, char *out, size_t size)
{
    enum { MOST_TIMES = 16 };
    for (int32_t times = 2; times <= MOST_TIMES; times *= 2) {
        if (more_nodes_fit(problem, times)) {
            (void)snprintf(out, size, "; a plan fits on %d times as many nodes", times);
            return;
        }
    }
    (void)snprintf(out, size, "; %d times as many nodes would not be enough", MOST_TIMES);
}

static void find_help(const struct hlm_search_problem *problem, char *out, size_t size)
{
    if (!find_waiver(problem, out, size)) {
        (void)find_offload(problem, out, size);
        const size_t length = strlen(out);
        find_nodes(problem, out + length, size - length);
    }
}

enum hlm_status hlm_infeasible_explain(const struct hlm_search_problem *problem,
                                       const struct hlm_strategy *strategies,
                                       int32_t num_strategies, struct hlm_err *err)
{
    struct hlm_infeasible_closest closest;
    HLM_ASSERT(hlm_infeasible_find_closest(problem, strategies, num_strategies, &closest));
    char help[200] = "";
    find_help(problem, help, sizeof(help));
    const struct hlm_strategy *strategy = &closest.strategy;
    const struct hlm_stage_memory *memory = &closest.excess.memory;
    const enum hlm_memory_kind kind = largest_kind(memory);
    return hlm_fail(
        err, HLM_NO,
        "none of %d strategies fits: the closest (dp=%d tp=%d pp=%d microbatch_size=%lld zero=%d "
        "ep=%d schedule=%s) misses %s in stage %d of %d, which needs %s with the recompute that "
        "keeps "
        "least, and a device has %s; most of it is %s (%s)%s",
        num_strategies, strategy->dp, strategy->tp, strategy->pp,
        (long long)strategy->microbatch_size, strategy->zero, strategy->ep,
        hlm_schedule_texts[strategy->schedule], hlm_fmt_bytes((double)closest.excess.bytes).text,
        memory->stage, strategy->pp * strategy->vpp, hlm_fmt_bytes((double)memory->peak_bytes).text,
        hlm_fmt_bytes((double)memory->limit_bytes).text, hlm_memory_kind_texts[kind],
        hlm_fmt_bytes((double)memory->bytes[kind]).text, help);
}
