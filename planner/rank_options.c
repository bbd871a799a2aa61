#include "planner/rank_options.h"

#include <math.h>
#include <string.h>

struct finding {
    struct hlm_arena *arena;
    const struct hlm_rank_problem *problem;
    const struct hlm_rank_held *held;
    int32_t rank;
    const struct hlm_rank_partition *partition;
    struct hlm_rank_take *takes;
    double *work;
    struct hlm_rank_option *options;
};

static bool beats(const struct finding *finding, const struct hlm_rank_option *a,
                  const struct hlm_rank_option *b)
{
    for (int32_t c = 0; c < finding->held->num_chunks; c++) {
        for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
            const bool counts = finding->problem->order->splits_backward || action <= HLM_ACTION_B;
            if (counts && a->seconds[c * HLM_SIM_NUM_KINDS + action] >
                              b->seconds[c * HLM_SIM_NUM_KINDS + action]) {
                return false;
            }
        }
    }
    return true;
}

static struct hlm_rank_option *copy_option(const struct finding *finding)
{
    const int32_t v = finding->held->num_chunks;
    struct hlm_rank_option *option = HLM_ARENA_NEW(finding->arena, struct hlm_rank_option);
    option->full = HLM_ARENA_ARRAY(finding->arena, int32_t, v);
    option->selective = HLM_ARENA_ARRAY(finding->arena, int32_t, v);
    option->seconds = HLM_ARENA_ARRAY(finding->arena, double, (size_t)v *HLM_SIM_NUM_KINDS);
    for (int32_t c = 0; c < v; c++) {
        const int32_t s = finding->held->stages[c];
        option->full[c] = finding->partition->full[s];
        option->selective[c] = finding->partition->selective[s];
        memcpy(&option->seconds[c * HLM_SIM_NUM_KINDS], finding->takes[s].seconds,
               sizeof(finding->takes[s].seconds));
    }
    return option;
}

/* Keeps what the stages are set to, if it fits and no other option is as good. */
static bool keep_option(struct finding *finding)
{
    *finding->work -= 10.0 * finding->held->num_chunks;
    if (hlm_rank_slack(finding->problem, finding->rank, finding->partition, finding->takes) < 0) {
        return false;
    }
    struct hlm_rank_option *option = copy_option(finding);
    struct hlm_rank_option **at = &finding->options;
    while (*at != NULL) {
        if (beats(finding, *at, option)) {
            return true;
        }
        if (beats(finding, option, *at)) {
            *at = (*at)->next;
        } else {
            at = &(*at)->next;
        }
    }
    *at = option;
    return true;
}

static void take(struct finding *finding, int32_t stage, int32_t full, int32_t selective)
{
    finding->partition->full[stage] = full;
    finding->partition->selective[stage] = selective;
    finding->takes[stage] = hlm_rank_take_stage(finding->problem, stage,
                                                hlm_rank_stage_begin(finding->partition, stage),
                                                finding->partition->ends[stage], full, selective);
}

/* Tries all choices for the stages from chunk c on. */
static void try_all(struct finding *finding, int32_t c)
{
    if (c == finding->held->num_chunks) {
        (void)keep_option(finding);
        return;
    }
    const int32_t s = finding->held->stages[c];
    const int32_t num = finding->partition->ends[s] - hlm_rank_stage_begin(finding->partition, s);
    for (int32_t full = 0; full <= num; full++) {
        for (int32_t selective = 0; full + selective <= num; selective++) {
            take(finding, s, full, selective);
            if (finding->takes[s].allowed && *finding->work > 0.0) {
                try_all(finding, c + 1);
            }
        }
    }
}

/* Whether no mode is faster than to recompute nothing. */
static bool none_is_fastest(const struct hlm_rank_stage *stage)
{
    bool fastest = true;
    for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
                fastest = fastest && stage->layer_s[kind][mode][action] >=
                                         stage->layer_s[kind][HLM_RECOMPUTE_NONE][action];
            }
        }
    }
    return fastest;
}

/* To recompute nothing: where that fits and is fastest, it beats all others. */
static bool try_plain(struct finding *finding)
{
    bool plain = true;
    for (int32_t c = 0; c < finding->held->num_chunks; c++) {
        const int32_t s = finding->held->stages[c];
        take(finding, s, 0, 0);
        plain = plain && finding->takes[s].allowed && none_is_fastest(&finding->problem->stages[s]);
    }
    return plain && keep_option(finding);
}

struct hlm_rank_option *hlm_rank_options_find(struct hlm_arena *arena,
                                              const struct hlm_rank_problem *problem, int32_t rank,
                                              const struct hlm_rank_partition *partition,
                                              struct hlm_rank_take *takes, double *work)
{
    struct finding finding = {.arena = arena,
                              .problem = problem,
                              .held = &problem->held[rank],
                              .rank = rank,
                              .partition = partition,
                              .takes = takes,
                              .work = work};
    if (!try_plain(&finding)) {
        try_all(&finding, 0);
    }
    return finding.options;
}

/* --- the least of each stage --- */

/* A stage with each layer in the allowed mode that keeps least, as if it needed nothing for a
 * moment. */
static struct hlm_rank_take leanest_take(const struct finding *finding, int32_t stage)
{
    const struct hlm_rank_stage *prices = &finding->problem->stages[stage];
    struct hlm_rank_take take = {.allowed = true,
                                 .slot_bytes = prices->base_slot_bytes,
                                 .transient_bytes = prices->base_transient_bytes};
    const int32_t end = finding->partition->ends[stage];
    for (int32_t i = hlm_rank_stage_begin(finding->partition, stage); i < end; i++) {
        const int64_t *bytes = prices->slot_bytes[finding->problem->layer_kinds[i]];
        int64_t least = INT64_MAX;
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            if (finding->problem->modes[mode] && bytes[mode] < least) {
                least = bytes[mode];
            }
        }
        take.slot_bytes += least;
    }
    return take;
}

/* Of the choices for one stage, those of the others being leanest. */
static void find_least(struct finding *finding, int32_t stage, double *seconds)
{
    const int32_t num =
        finding->partition->ends[stage] - hlm_rank_stage_begin(finding->partition, stage);
    for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
        seconds[action] = INFINITY;
    }
    for (int32_t full = 0; full <= num; full++) {
        for (int32_t selective = 0; full + selective <= num; selective++) {
            take(finding, stage, full, selective);
            *finding->work -= 10.0;
            if (!finding->takes[stage].allowed ||
                hlm_rank_slack(finding->problem, finding->rank, finding->partition,
                               finding->takes) < 0) {
                continue;
            }
            for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
                seconds[action] = fmin(seconds[action], finding->takes[stage].seconds[action]);
            }
        }
    }
}

bool hlm_rank_options_least(const struct hlm_rank_problem *problem, int32_t rank,
                            const struct hlm_rank_partition *partition, struct hlm_rank_take *takes,
                            double *work, double *seconds)
{
    struct finding finding = {.problem = problem,
                              .held = &problem->held[rank],
                              .rank = rank,
                              .partition = partition,
                              .takes = takes,
                              .work = work};
    bool some = true;
    for (int32_t c = 0; c < finding.held->num_chunks; c++) {
        takes[finding.held->stages[c]] = leanest_take(&finding, finding.held->stages[c]);
    }
    for (int32_t c = 0; c < finding.held->num_chunks && some; c++) {
        const int32_t s = finding.held->stages[c];
        const struct hlm_rank_take leanest = takes[s];
        find_least(&finding, s, &seconds[c * HLM_SIM_NUM_KINDS]);
        takes[s] = leanest;
        some = isfinite(seconds[c * HLM_SIM_NUM_KINDS + HLM_ACTION_F]);
    }
    return some;
}
