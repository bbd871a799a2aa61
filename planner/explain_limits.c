#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "planner/explain_internal.h"

#define X(name, text) text,
const char *const hlm_explain_limit_texts[] = {HLM_EXPLAIN_LIMIT_MAP(X) NULL};
const char *const hlm_explain_link_texts[] = {HLM_EXPLAIN_LINK_MAP(X) NULL};
#undef X

/* --- what limits it --- */

/* The innermost part that has a row decides for all inside of it. */
struct limit_row {
    const char *name;
    enum hlm_explain_limit limit;
};
static const struct limit_row limit_rows[] = {
    {"gemm_s", HLM_EXPLAIN_LIMIT_COMPUTE},
    {"attention_s", HLM_EXPLAIN_LIMIT_COMPUTE},
    {"memory_bound_s", HLM_EXPLAIN_LIMIT_MEMORY_BANDWIDTH},
    {"recompute_s", HLM_EXPLAIN_LIMIT_MEMORY_CAPACITY},
    {"host_s", HLM_EXPLAIN_LIMIT_HOST},
    {"bubble_s", HLM_EXPLAIN_LIMIT_BUBBLE},
    {"transfer_s", HLM_EXPLAIN_LIMIT_TRANSFER},
    {"tensor_parallel", HLM_EXPLAIN_LIMIT_TENSOR_PARALLEL},
    {"context_parallel", HLM_EXPLAIN_LIMIT_CONTEXT_PARALLEL},
    {"expert_parallel", HLM_EXPLAIN_LIMIT_EXPERT_PARALLEL},
    {"data_parallel", HLM_EXPLAIN_LIMIT_DATA_PARALLEL},
    {"optimizer", HLM_EXPLAIN_LIMIT_OPTIMIZER},
    {"offload", HLM_EXPLAIN_LIMIT_MEMORY_CAPACITY},
    {"to_host_s", HLM_EXPLAIN_LIMIT_MEMORY_CAPACITY},
    {"host_update_s", HLM_EXPLAIN_LIMIT_MEMORY_CAPACITY},
    {"to_device_s", HLM_EXPLAIN_LIMIT_MEMORY_CAPACITY},
};

static enum hlm_explain_limit limit_of(const char *name, enum hlm_explain_limit outer)
{
    for (size_t i = 0; i < sizeof(limit_rows) / sizeof(limit_rows[0]); i++) {
        if (strcmp(limit_rows[i].name, name) == 0) {
            return limit_rows[i].limit;
        }
    }
    return outer;
}

static void add_seconds(const struct hlm_time_node *node, enum hlm_explain_limit outer,
                        double seconds[HLM_NUM_EXPLAIN_LIMITS])
{
    const enum hlm_explain_limit limit = limit_of(node->name, outer);
    if (node->num_parts == 0) {
        seconds[limit] += node->seconds;
    }
    for (int32_t i = 0; i < node->num_parts; i++) {
        add_seconds(&node->parts[i], limit, seconds);
    }
}

static int largest_first(const void *left, const void *right)
{
    const struct hlm_explain_share *a = left, *b = right;
    const int by_time = (a->seconds < b->seconds) - (a->seconds > b->seconds);
    return by_time != 0 ? by_time : (int)a->limit - (int)b->limit;
}

static void fill_shares(struct hlm_arena *arena, const struct hlm_time_node *step,
                        const double seconds[HLM_NUM_EXPLAIN_LIMITS],
                        struct hlm_explain_limits *out)
{
    struct hlm_explain_share *shares =
        HLM_ARENA_ARRAY(arena, struct hlm_explain_share, HLM_NUM_EXPLAIN_LIMITS);
    for (int32_t i = 0; i < HLM_NUM_EXPLAIN_LIMITS; i++) {
        if (seconds[i] > 0.0) {
            shares[out->num_shares++] =
                (struct hlm_explain_share){.limit = (enum hlm_explain_limit)i,
                                           .seconds = seconds[i],
                                           .frac = seconds[i] / step->seconds};
        }
    }
    qsort(shares, (size_t)out->num_shares, sizeof(*shares), largest_first);
    out->shares = shares;
}

/* --- which stage --- */

static void find_stages(const struct hlm_plan *plan, const struct hlm_plan_simulation *simulation,
                        struct hlm_explain_limits *out)
{
    out->last_rank = hlm_plan_critical_rank(simulation);
    double least_frac = INFINITY;
    for (int32_t s = 0; s < plan->num_stages; s++) {
        const struct hlm_stage_cost *cost = &simulation->stages[s];
        const double seconds = cost->forward.seconds + cost->backward.seconds;
        const int64_t limit_bytes = plan->prediction.memory[s].limit_bytes;
        const int64_t left_bytes =
            limit_bytes - hlm_plan_rank_peak_bytes(plan, plan->stages[s].rank_group);
        const double left_frac = (double)left_bytes / (double)limit_bytes;
        if (seconds > out->slowest_stage_s) {
            out->slowest_stage = s;
            out->slowest_stage_s = seconds;
        }
        if (left_frac < least_frac) {
            least_frac = left_frac;
            out->fullest_stage = s;
            out->headroom_bytes = left_bytes;
        }
    }
    const struct hlm_stage_memory *fullest = &plan->prediction.memory[out->fullest_stage];
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        out->most = fullest->bytes[kind] > fullest->bytes[out->most] ? (enum hlm_memory_kind)kind
                                                                     : out->most;
    }
}

/* --- which links --- */

static bool pipeline_leaves_node(const struct hlm_plan *plan, const struct hlm_strategy *seen)
{
    for (int32_t s = 0; s + 1 < plan->num_stages; s++) {
        int32_t sharing = 0;
        const int32_t group = hlm_layout_device_group(seen, &plan->cluster, s);
        if (hlm_layout_stage_link(seen, &plan->cluster, s, &sharing) !=
            &plan->cluster.groups[group].intra_node) {
            return true;
        }
    }
    return false;
}

static bool group_leaves_node(const struct hlm_plan *plan, const struct hlm_strategy *seen,
                              enum hlm_group group)
{
    for (int32_t s = 0; s < plan->strategy.pp; s++) {
        if (hlm_layout_shape(seen, group, &plan->cluster, s).num_nodes > 1) {
            return true;
        }
    }
    return false;
}

/* Of unlike replicas those that are simulated. */
static struct hlm_strategy seen_by(const struct hlm_plan *plan,
                                   const struct hlm_plan_simulation *simulation)
{
    return simulation->seen_replicas > 0
               ? hlm_strategy_of_replicas(&plan->strategy, simulation->seen_replicas - 1)
               : plan->strategy;
}

/* Ranks and nodes of the group; of unlike replicas the DP group has those of all. */
static struct hlm_group_shape find_shape(const struct hlm_plan *plan,
                                         const struct hlm_strategy *seen, enum hlm_group group,
                                         int32_t stage)
{
    struct hlm_group_shape shape = hlm_layout_shape(seen, group, &plan->cluster, stage);
    for (int32_t i = 0; group == HLM_GROUP_DP && i < seen->num_replicas; i++) {
        const struct hlm_strategy other = hlm_strategy_of_replicas(&plan->strategy, i);
        const bool more = i + 1 != seen->seen_replicas;
        shape.num_ranks += more ? other.dp : 0;
        shape.num_nodes +=
            more ? hlm_layout_shape(&other, group, &plan->cluster, stage).num_nodes : 0;
    }
    return shape;
}

static void fill_traffic(struct hlm_arena *arena, const struct hlm_plan *plan,
                         const struct hlm_plan_simulation *simulation,
                         const double seconds[HLM_NUM_EXPLAIN_LIMITS],
                         struct hlm_explain_limits *out)
{
    static const struct {
        enum hlm_explain_limit limit;
        enum hlm_group group;
    } kinds[] = {{HLM_EXPLAIN_LIMIT_TENSOR_PARALLEL, HLM_GROUP_TP},
                 {HLM_EXPLAIN_LIMIT_CONTEXT_PARALLEL, HLM_GROUP_CP},
                 {HLM_EXPLAIN_LIMIT_EXPERT_PARALLEL, HLM_GROUP_EP},
                 {HLM_EXPLAIN_LIMIT_TRANSFER, HLM_GROUP_PP},
                 {HLM_EXPLAIN_LIMIT_DATA_PARALLEL, HLM_GROUP_DP}};
    enum { NUM_KINDS = sizeof(kinds) / sizeof(kinds[0]) };
    struct hlm_explain_traffic *traffic =
        HLM_ARENA_ARRAY(arena, struct hlm_explain_traffic, NUM_KINDS);
    const struct hlm_strategy seen = seen_by(plan, simulation);
    for (int32_t i = 0; i < NUM_KINDS; i++) {
        const enum hlm_group group = kinds[i].group;
        const struct hlm_group_shape shape = find_shape(plan, &seen, group, out->last_rank);
        const bool leaves = group == HLM_GROUP_PP
                                ? pipeline_leaves_node(plan, &seen)
                                : shape.num_nodes > 1 || group_leaves_node(plan, &seen, group);
        if (shape.num_ranks > 1) {
            traffic[out->num_traffic++] = (struct hlm_explain_traffic){
                .limit = kinds[i].limit,
                .link = leaves ? HLM_EXPLAIN_LINK_INTER_NODE : HLM_EXPLAIN_LINK_INTRA_NODE,
                .num_ranks = shape.num_ranks,
                .num_nodes = shape.num_nodes,
                .exposed_s = seconds[kinds[i].limit]};
        }
    }
    out->traffic = traffic;
}

/* --- what would help --- */

static const struct {
    enum hlm_explain_input input;
    double factor;
} what_ifs[] = {{HLM_EXPLAIN_INPUT_DEVICE_MEMORY, 1.1},
                {HLM_EXPLAIN_INPUT_DEVICE_MEMORY, 2.0},
                {HLM_EXPLAIN_INPUT_COMPUTE, 1.1},
                {HLM_EXPLAIN_INPUT_MEMORY_BANDWIDTH, 1.1},
                {HLM_EXPLAIN_INPUT_INTRA_NODE_BANDWIDTH, 2.0},
                {HLM_EXPLAIN_INPUT_INTER_NODE_BANDWIDTH, 2.0},
                {HLM_EXPLAIN_INPUT_LATENCY, 0.5},
                {HLM_EXPLAIN_INPUT_GLOBAL_BATCH, 2.0}};
enum { NUM_WHAT_IFS = sizeof(what_ifs) / sizeof(what_ifs[0]) };

/* A plan that is found, and what no plan beats. */
struct reached {
    struct hlm_strategy strategy;
    double step_time_s, tokens_per_s, lower_bound_s;
};

static struct reached reached_by(const struct hlm_plan *plan, double lower_bound_s)
{
    return (struct reached){.strategy = plan->strategy,
                            .step_time_s = plan->prediction.step_time_s,
                            .tokens_per_s = plan->prediction.tokens_per_s,
                            .lower_bound_s = lower_bound_s};
}

/* The same placement with the problem's inputs; the batch grows by microbatches. False: it is not
 * legal or does not fit any more. */
static bool keep_plan(struct hlm_arena *arena, const struct hlm_search_problem *problem,
                      const struct hlm_plan *plan, const struct hlm_plan **out)
{
    struct hlm_strategy strategy = plan->strategy;
    const int64_t times = problem->global_batch_size / strategy.global_batch_size;
    struct hlm_replicas *replicas =
        HLM_ARENA_ARRAY(arena, struct hlm_replicas, strategy.num_replicas);
    for (int32_t i = 0; i < strategy.num_replicas; i++) {
        replicas[i] = strategy.replicas[i];
        replicas[i].num_microbatches *= times;
    }
    strategy.replicas = replicas;
    strategy.num_microbatches *= times;
    strategy.global_batch_size = problem->global_batch_size;
    struct hlm_err unused;
    return hlm_plan_price(arena, problem->model, problem->cluster, &strategy, plan->stages,
                          plan->num_stages, out, NULL, &unused) == HLM_OK;
}

/* The better of what a search finds (within its gap) and the plan as it is. Its places are in
 * `kept_arena`. */
static enum hlm_status reach(struct hlm_arena *kept_arena, const struct hlm_search_problem *problem,
                             const struct hlm_plan *plan, struct reached *out, struct hlm_err *err)
{
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_plan *found = NULL, *kept = NULL;
    const enum hlm_status status = hlm_search(arena, problem, NULL, NULL, &found, err);
    if (status == HLM_OK) {
        const double lower_bound_s = found->certificate->lower_bound_s;
        *out = reached_by(found, lower_bound_s);
        if (keep_plan(arena, problem, plan, &kept) &&
            kept->prediction.step_time_s <= out->step_time_s) {
            *out = reached_by(kept, fmin(lower_bound_s, kept->prediction.step_time_s));
        }
        hlm_plan_keep_strategy(kept_arena, &out->strategy);
    }
    hlm_arena_free(arena);
    return status;
}

static struct hlm_explain_gain make_gain(int32_t index, const struct hlm_plan *plan,
                                         const struct reached *reached, double best_tokens_per_s)
{
    const double most_tokens_per_s =
        reached->tokens_per_s * reached->step_time_s / reached->lower_bound_s;
    return (struct hlm_explain_gain){
        .input = what_ifs[index].input,
        .factor = what_ifs[index].factor,
        .strategy = reached->strategy,
        .step_time_s = reached->step_time_s,
        .tokens_per_s = reached->tokens_per_s,
        .gain_frac = reached->tokens_per_s / best_tokens_per_s - 1.0,
        .most_gain_frac = most_tokens_per_s / best_tokens_per_s - 1.0,
        .same_strategy = hlm_explain_same_strategy(&reached->strategy, &plan->strategy)};
}

static enum hlm_status
find_gains(struct hlm_arena *arena, const struct hlm_plan *plan,
           void (*progress)(void *context, double done, double total, const char *detail),
           void *context, struct hlm_explain_limits *out, struct hlm_err *err)
{
    const struct hlm_search_problem problem = hlm_explain_problem(plan);
    struct reached now;
    HLM_TRY(reach(arena, &problem, plan, &now, err));
    out->best_step_time_s = now.step_time_s;
    out->best_tokens_per_s = now.tokens_per_s;
    struct hlm_explain_gain *gains = HLM_ARENA_ARRAY(arena, struct hlm_explain_gain, NUM_WHAT_IFS);
    for (int32_t i = 0; i < NUM_WHAT_IFS; i++) {
        struct hlm_search_problem changed = problem;
        struct reached reached;
        if (progress != NULL) {
            progress(context, i, NUM_WHAT_IFS, hlm_explain_input_texts[what_ifs[i].input]);
        }
        hlm_explain_input_scale(arena, &changed, what_ifs[i].input, what_ifs[i].factor);
        const enum hlm_status status = reach(arena, &changed, plan, &reached, err);
        if (status == HLM_OK) {
            gains[out->num_gains++] = make_gain(i, plan, &reached, now.tokens_per_s);
        } else if (status != HLM_NO) {
            return status;
        }
    }
    out->gains = gains;
    return HLM_OK;
}

enum hlm_status
hlm_explain_limits(struct hlm_arena *arena, const struct hlm_plan *plan,
                   void (*progress)(void *context, double done, double total, const char *detail),
                   void *context, struct hlm_explain_limits *out, struct hlm_err *err)
{
    const struct hlm_plan *priced = NULL;
    struct hlm_plan_simulation simulation;
    HLM_TRY(hlm_explain_price(arena, plan, &priced, err));
    HLM_TRY(hlm_plan_simulate(arena, priced, &simulation, err));
    struct hlm_explain_limits limits = {.best_step_time_s = priced->prediction.step_time_s,
                                        .best_tokens_per_s = priced->prediction.tokens_per_s};
    double seconds[HLM_NUM_EXPLAIN_LIMITS] = {0};
    add_seconds(&priced->prediction.parts, HLM_EXPLAIN_LIMIT_OTHER, seconds);
    fill_shares(arena, &priced->prediction.parts, seconds, &limits);
    find_stages(priced, &simulation, &limits);
    fill_traffic(arena, priced, &simulation, seconds, &limits);
    struct hlm_err reason;
    const enum hlm_status status = find_gains(arena, priced, progress, context, &limits, &reason);
    if (status != HLM_OK && status != HLM_NO) {
        *err = reason;
        return status;
    }
    if (status == HLM_NO) {
        limits.not_searched = hlm_arena_strdup(arena, reason.text);
    }
    *out = limits;
    return HLM_OK;
}
