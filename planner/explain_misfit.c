#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "planner/columns_nearest.h"
#include "planner/explain_internal.h"
#include "planner/infeasible.h"

double hlm_explain_best_step_s(const struct hlm_search_problem *problem)
{
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_plan *plan = NULL;
    struct hlm_err unused;
    const bool found = hlm_search(arena, problem, NULL, NULL, &plan, &unused) == HLM_OK;
    const double step_s = found ? plan->prediction.step_time_s : (double)INFINITY;
    hlm_arena_free(arena);
    return step_s;
}

/* --- which rule --- */

/* The plan's strategy with what is required in its place: legal itself, it breaks a rule because of
 * that. What is not required adapts. */
static struct hlm_strategy nearest_strategy(const struct hlm_plan *plan,
                                            const struct hlm_search_problem *problem)
{
    const struct hlm_search_require *require = &problem->require;
    struct hlm_strategy near = plan->strategy;
    near.tp = require->tp > 0 ? require->tp : near.tp;
    near.pp = require->pp > 0 ? require->pp : near.pp;
    near.cp = require->cp > 0 ? require->cp : near.cp;
    near.ep = require->ep > 0 ? require->ep : near.ep;
    near.zero = require->zero >= 0 ? require->zero : near.zero;
    const int64_t devices = hlm_cluster_num_devices(problem->cluster);
    near.cp =
        devices % ((int64_t)near.tp * near.pp * near.cp) != 0 && require->cp == 0 ? 1 : near.cp;
    near.tp =
        devices % ((int64_t)near.tp * near.pp * near.cp) != 0 && require->tp == 0 ? 1 : near.tp;
    near.pp =
        devices % ((int64_t)near.tp * near.pp * near.cp) != 0 && require->pp == 0 ? 1 : near.pp;
    const int64_t others = (int64_t)near.tp * near.pp * near.cp;
    near.dp = require->dp > 0 ? require->dp : (int32_t)(devices / others);
    near.sp = require->sp >= 0 ? require->sp == 1
                               : near.tp > 1 && (near.sp || problem->model->moe.num_experts > 0);
    if (require->schedule >= 0) {
        near.schedule = (enum hlm_schedule_kind)require->schedule;
    } else if (require->vpp > 1 && near.vpp != require->vpp) {
        near.schedule = HLM_SCHEDULE_INTERLEAVED;
    }
    const struct hlm_schedule_chunks chunks = hlm_schedule_chunks(near.schedule);
    near.vpp = near.vpp < chunks.min ? chunks.min : near.vpp > chunks.max ? chunks.max : near.vpp;
    near.vpp = require->vpp > 0 ? require->vpp : near.vpp;
    if (require->microbatch_size > 0) {
        near.microbatch_size = require->microbatch_size;
    } else if (near.dp > 0 && near.global_batch_size % (near.dp * near.microbatch_size) != 0) {
        near.microbatch_size = 1;
    }
    near.zero_group = 0;
    near.etp = 0;
    near.num_microbatches = 0;
    hlm_strategy_complete(&near);
    near.num_microbatches = near.num_microbatches > 0 ? near.num_microbatches : 1;
    return near;
}

static const char *find_rule(struct hlm_arena *arena, const struct hlm_plan *plan,
                             const struct hlm_search_problem *problem, const char *listed)
{
    const struct hlm_search_require *require = &problem->require;
    const int64_t devices = hlm_cluster_num_devices(problem->cluster);
    const int64_t dp = require->dp > 0 ? require->dp : 1, tp = require->tp > 0 ? require->tp : 1;
    const int64_t pp = require->pp > 0 ? require->pp : 1, cp = require->cp > 0 ? require->cp : 1;
    const bool all = require->dp > 0 && require->tp > 0 && require->pp > 0 && require->cp > 0;
    if (tp > devices || pp > devices || dp > devices || cp > devices || devices % tp != 0 ||
        devices % (tp * pp) != 0 || devices % (tp * pp * dp) != 0 ||
        devices % (tp * pp * dp * cp) != 0 || (all && dp * tp * pp * cp != devices)) {
        return hlm_arena_printf(
            arena, "dp * tp * pp * cp must be the number of devices, %lld: not with %s",
            (long long)devices, hlm_explain_require_text(arena, require));
    }
    const struct hlm_strategy near = nearest_strategy(plan, problem);
    struct hlm_err err;
    if (hlm_strategy_check(&near, problem->model, &err) != HLM_OK) {
        return hlm_arena_strdup(arena, err.text);
    }
    if (near.pp == 1 && require->schedule >= 0 && near.schedule != HLM_SCHEDULE_1F1B) {
        return hlm_arena_printf(arena,
                                "%s with pp = 1 is left out: the work of 1f1b, with no fewer "
                                "activations held",
                                hlm_schedule_texts[near.schedule]);
    }
    if (near.dp * (int64_t)near.cp == 1 && require->zero > 0) {
        return "zero with dp * cp = 1 is left out: there is nobody to share states with";
    }
    return hlm_arena_strdup(arena, listed);
}

const char *hlm_explain_rule(struct hlm_arena *arena, const struct hlm_plan *plan,
                             const struct hlm_search_problem *problem, const char *listed)
{
    return hlm_arena_printf(arena, "%s%s", find_rule(arena, plan, problem, listed),
                            hlm_columns_nearest(arena, problem));
}

/* --- what would let it fit --- */

/* Offload of one kind and of the other, and memory. */
enum { NUM_OTHER_CHANGES = 3 };

struct changes {
    struct hlm_arena *arena;
    struct hlm_explain_change *list;
    int32_t num;
};

static void add_change(struct changes *changes, const char *text, int64_t memory_bytes,
                       const struct hlm_search_problem *changed)
{
    const double step_s = hlm_explain_best_step_s(changed);
    if (isfinite(step_s)) {
        changes->list[changes->num++] = (struct hlm_explain_change){
            .change = text, .step_time_s = step_s, .memory_bytes = memory_bytes};
    }
}

/* Values of a key in the order in which they are tried: from `from` by `step` up to `to`. */
struct tries {
    int64_t from, to, step;
};

static struct tries tries_of(const struct hlm_search_problem *problem, enum hlm_explain_key key,
                             int64_t value)
{
    const int64_t devices = hlm_cluster_num_devices(problem->cluster);
    switch (key) {
    case HLM_EXPLAIN_KEY_TP:
    case HLM_EXPLAIN_KEY_PP:
    case HLM_EXPLAIN_KEY_CP:
        return (struct tries){value + 1, devices, 1};
    case HLM_EXPLAIN_KEY_EP:
        return (struct tries){value + 1, problem->model->moe.num_experts, 1};
    case HLM_EXPLAIN_KEY_DP:
    case HLM_EXPLAIN_KEY_VPP:
    case HLM_EXPLAIN_KEY_MICROBATCH_SIZE:
        return (struct tries){value - 1, 1, -1};
    case HLM_EXPLAIN_KEY_SP:
        return (struct tries){value + 1, 1, 1};
    case HLM_EXPLAIN_KEY_ZERO:
        return (struct tries){value + 1, 3, 1};
    case HLM_EXPLAIN_KEY_RECOMPUTE:
        return (struct tries){value + 1, HLM_NUM_RECOMPUTES - 1, 1};
    case HLM_EXPLAIN_KEY_OFFLOAD:
        return (struct tries){value + 1, HLM_NUM_OFFLOADS - 1, 1};
    default: /* of the schedules none takes least memory in every case */
        return (struct tries){0, HLM_NUM_SCHEDULES - 1, 1};
    }
}

/* Values without a legal strategy are told without listing any. */
static bool may_be_legal(const struct hlm_search_problem *problem, enum hlm_explain_key key,
                         int64_t value)
{
    const bool degree = key == HLM_EXPLAIN_KEY_DP || key == HLM_EXPLAIN_KEY_TP ||
                        key == HLM_EXPLAIN_KEY_PP || key == HLM_EXPLAIN_KEY_CP;
    if (degree) {
        return hlm_cluster_num_devices(problem->cluster) % value == 0;
    }
    return key != HLM_EXPLAIN_KEY_MICROBATCH_SIZE || problem->global_batch_size % value == 0;
}

/* With all of dp, tp, pp and cp required, one can't change alone: dp follows the others, pp follows
 * dp. */
static void let_others_follow(struct hlm_search_require *require, enum hlm_explain_key key)
{
    if (key == HLM_EXPLAIN_KEY_TP || key == HLM_EXPLAIN_KEY_PP || key == HLM_EXPLAIN_KEY_CP) {
        hlm_explain_free_key(require, HLM_EXPLAIN_KEY_DP);
    } else if (key == HLM_EXPLAIN_KEY_DP && hlm_explain_requires(require, HLM_EXPLAIN_KEY_TP)) {
        hlm_explain_free_key(require, HLM_EXPLAIN_KEY_PP);
    }
}

/* The nearest value of a key with which something fits. */
static void try_key(struct changes *changes, const struct hlm_search_problem *problem,
                    enum hlm_explain_key key)
{
    const int64_t value = hlm_explain_required(&problem->require, key);
    const struct tries tries = tries_of(problem, key, value);
    for (int64_t i = tries.from; (tries.to - i) * tries.step >= 0; i += tries.step) {
        struct hlm_search_problem changed = *problem;
        let_others_follow(&changed.require, key);
        hlm_explain_require(&changed.require, key, i);
        if (i != value && may_be_legal(problem, key, i) && hlm_infeasible_fits(&changed)) {
            add_change(changes, hlm_explain_key_text(changes->arena, key, i), 0, &changed);
            return;
        }
    }
}

static bool try_offload(struct changes *changes, const struct hlm_search_problem *problem,
                        enum hlm_offload offload)
{
    struct hlm_search_problem changed = *problem;
    changed.require.offload = (int32_t)offload;
    const bool fits = hlm_infeasible_fits(&changed);
    if (fits) {
        add_change(changes,
                   hlm_explain_key_text(changes->arena, HLM_EXPLAIN_KEY_OFFLOAD, (int64_t)offload),
                   0, &changed);
    }
    return fits;
}

/* Whatever was asked, as no search offers it by itself: of each kind alone, or of both. */
static void try_offloads(struct changes *changes, const struct hlm_search_problem *problem)
{
    if (problem->require.offload >= 0 || problem->runnable_only) {
        return;
    }
    const bool optimizer = try_offload(changes, problem, HLM_OFFLOAD_OPTIMIZER);
    const bool activations = try_offload(changes, problem, HLM_OFFLOAD_ACTIVATIONS);
    if (!optimizer && !activations) {
        (void)try_offload(changes, problem, HLM_OFFLOAD_ALL);
    }
}

/* As much more memory as the closest strategy misses lets that one fit. */
static void try_memory(struct changes *changes, const struct hlm_search_problem *problem,
                       const struct hlm_column_excess *excess)
{
    struct hlm_cluster cluster = *problem->cluster;
    struct hlm_device_group *groups = hlm_arena_memdup(
        changes->arena, cluster.groups, (size_t)cluster.num_groups * sizeof(*groups));
    const int64_t bytes = excess->memory.limit_bytes + excess->bytes;
    for (int32_t i = 0; i < cluster.num_groups; i++) {
        groups[i].device.memory_bytes =
            groups[i].device.memory_bytes > bytes ? groups[i].device.memory_bytes : bytes;
    }
    cluster.groups = groups;
    struct hlm_search_problem changed = *problem;
    changed.cluster = &cluster;
    add_change(changes, hlm_arena_printf(changes->arena, "device_memory=%lld", (long long)bytes),
               bytes, &changed);
}

static int cheapest_first(const void *left, const void *right)
{
    const struct hlm_explain_change *a = left, *b = right;
    const int by_hardware = (a->memory_bytes > 0) - (b->memory_bytes > 0);
    const int by_time = (a->step_time_s > b->step_time_s) - (a->step_time_s < b->step_time_s);
    return by_hardware != 0 ? by_hardware : by_time != 0 ? by_time : strcmp(a->change, b->change);
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

const struct hlm_explain_misfit *hlm_explain_misfit_new(struct hlm_arena *arena,
                                                        const struct hlm_search_problem *problem,
                                                        const struct hlm_search_require *asked,
                                                        const struct hlm_strategy *strategies,
                                                        int32_t num_strategies)
{
    struct hlm_infeasible_closest closest;
    HLM_ASSERT(hlm_infeasible_find_closest(problem, strategies, num_strategies, &closest));
    struct hlm_explain_misfit *misfit = HLM_ARENA_NEW(arena, struct hlm_explain_misfit);
    struct changes changes = {.arena = arena,
                              .list = HLM_ARENA_ARRAY(arena, struct hlm_explain_change,
                                                      HLM_NUM_EXPLAIN_KEYS + NUM_OTHER_CHANGES)};
    for (int key = 0; key < HLM_NUM_EXPLAIN_KEYS; key++) {
        if (hlm_explain_requires(asked, (enum hlm_explain_key)key)) {
            try_key(&changes, problem, (enum hlm_explain_key)key);
        }
    }
    try_offloads(&changes, problem);
    try_memory(&changes, problem, &closest.excess);
    qsort(changes.list, (size_t)changes.num, sizeof(*changes.list), cheapest_first);
    *misfit = (struct hlm_explain_misfit){.strategy = closest.strategy,
                                          .missing_bytes = closest.excess.bytes,
                                          .memory = closest.excess.memory,
                                          .most = largest_kind(&closest.excess.memory),
                                          .changes = changes.list,
                                          .num_changes = changes.num};
    return misfit;
}
