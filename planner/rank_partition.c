#include "planner/rank_partition_internal.h"

#include <math.h>
#include <string.h>

struct hlm_rank_partition hlm_rank_partition_new(struct hlm_arena *arena, int32_t num_stages)
{
    return (struct hlm_rank_partition){.ends = HLM_ARENA_ARRAY(arena, int32_t, num_stages),
                                       .full = HLM_ARENA_ARRAY(arena, int32_t, num_stages),
                                       .selective = HLM_ARENA_ARRAY(arena, int32_t, num_stages)};
}

void hlm_rank_partition_copy(struct hlm_rank_partition *to, const struct hlm_rank_partition *from,
                             int32_t num_stages)
{
    const size_t size = (size_t)num_stages * sizeof(int32_t);
    memcpy(to->ends, from->ends, size);
    memcpy(to->full, from->full, size);
    memcpy(to->selective, from->selective, size);
}

/* --- one stage --- */

struct hlm_rank_take hlm_rank_take_stage(const struct hlm_rank_problem *problem, int32_t stage,
                                         int32_t begin, int32_t end, int32_t full,
                                         int32_t selective)
{
    const struct hlm_rank_stage *prices = &problem->stages[stage];
    struct hlm_rank_take take = {.allowed = begin < end || prices->may_be_empty,
                                 .slot_bytes = prices->base_slot_bytes,
                                 .transient_bytes = prices->base_transient_bytes};
    memcpy(take.seconds, prices->base_s, sizeof(take.seconds));
    for (int32_t layer = begin; layer < end; layer++) {
        const int32_t kind = problem->layer_kinds[layer], at = layer - begin;
        const int32_t mode = at < full               ? HLM_RECOMPUTE_FULL
                             : at < full + selective ? HLM_RECOMPUTE_SELECTIVE
                                                     : HLM_RECOMPUTE_NONE;
        take.allowed = take.allowed && problem->modes[mode];
        for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
            take.seconds[action] += prices->layer_s[kind][mode][action];
        }
        take.slot_bytes += prices->slot_bytes[kind][mode];
        if (prices->transient_bytes[kind][mode] > take.transient_bytes) {
            take.transient_bytes = prices->transient_bytes[kind][mode];
        }
    }
    return take;
}

static void hold_stage(const struct hlm_rank_problem *problem, int32_t stage, int32_t begin,
                       int32_t end, struct hlm_stage_holding *out)
{
    int32_t counts[HLM_NUM_LAYER_KINDS] = {0};
    for (int32_t layer = begin; layer < end; layer++) {
        counts[problem->layer_kinds[layer]]++;
    }
    problem->hold(problem->context, stage, counts, out);
}

int32_t hlm_rank_stage_begin(const struct hlm_rank_partition *partition, int32_t stage)
{
    return stage == 0 ? 0 : partition->ends[stage - 1];
}

/* Bytes of a rank that are free; negative: it does not fit. takes: [num_stages]. */
int64_t hlm_rank_slack(const struct hlm_rank_problem *problem, int32_t rank,
                       const struct hlm_rank_partition *partition,
                       const struct hlm_rank_take *takes)
{
    const struct hlm_rank_held *held = &problem->held[rank];
    int64_t static_bytes = 0, transient_bytes = 0, most = 0;
    for (int32_t c = 0; c < held->num_chunks; c++) {
        const int32_t s = held->stages[c];
        struct hlm_stage_holding holding;
        hold_stage(problem, s, hlm_rank_stage_begin(partition, s), partition->ends[s], &holding);
        static_bytes += holding.static_bytes;
        transient_bytes =
            takes[s].transient_bytes > transient_bytes ? takes[s].transient_bytes : transient_bytes;
    }
    for (int32_t row = 0; row < held->num_rows; row++) {
        int64_t slots = 0;
        for (int32_t c = 0; c < held->num_chunks; c++) {
            slots += held->counts[row * held->num_chunks + c] * takes[held->stages[c]].slot_bytes;
        }
        most = slots > most ? slots : most;
    }
    return problem->stages[held->stages[0]].limit_bytes - static_bytes - transient_bytes - most;
}

/* Whether the stages of every rank have numbers of layers that differ by one at most. */
static bool is_even(const struct hlm_rank_problem *problem,
                    const struct hlm_rank_partition *partition)
{
    for (int32_t r = 0; r < problem->order->num_ranks; r++) {
        const struct hlm_rank_held *held = &problem->held[r];
        int32_t fewest = INT32_MAX, most = 0;
        for (int32_t c = 0; c < held->num_chunks; c++) {
            const int32_t s = held->stages[c];
            const int32_t count = partition->ends[s] - hlm_rank_stage_begin(partition, s);
            fewest = count < fewest ? count : fewest;
            most = count > most ? count : most;
        }
        if (most > fewest + 1) {
            return false;
        }
    }
    return true;
}

/* --- simulation --- */

struct hlm_rank_costs hlm_rank_costs_new(struct hlm_arena *arena,
                                         const struct hlm_rank_problem *problem)
{
    const int32_t n = problem->order->num_stages;
    struct hlm_rank_costs costs = {.reduce_s = HLM_ARENA_ARRAY(arena, double, n),
                                   .optimizer_s = HLM_ARENA_ARRAY(arena, double, n),
                                   .send_backward_s = HLM_ARENA_ARRAY(arena, double, n)};
    for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
        costs.seconds[action] = HLM_ARENA_ARRAY(arena, double, n);
    }
    for (int32_t s = 1; s < n; s++) {
        costs.send_backward_s[s] = problem->transfer_s[s - 1];
    }
    costs.sim = (struct hlm_sim_costs){.forward_s = costs.seconds[HLM_ACTION_F],
                                       .backward_s = costs.seconds[HLM_ACTION_B],
                                       .input_grad_s = costs.seconds[HLM_ACTION_I],
                                       .weight_grad_s = costs.seconds[HLM_ACTION_W],
                                       .send_forward_s = problem->transfer_s,
                                       .send_backward_s = costs.send_backward_s,
                                       .needs_both_sides = problem->both_sides,
                                       .reduce_s = costs.reduce_s,
                                       .optimizer_s = costs.optimizer_s,
                                       .sync_s = problem->sync_s};
    return costs;
}

void hlm_rank_costs_set_times(const struct hlm_rank_costs *costs, int32_t stage,
                              const double *seconds)
{
    for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
        costs->seconds[action][stage] = seconds[action];
    }
}

void hlm_rank_costs_set_holding(const struct hlm_rank_problem *problem,
                                const struct hlm_rank_costs *costs,
                                const struct hlm_rank_partition *partition, int32_t stage)
{
    struct hlm_stage_holding holding;
    hold_stage(problem, stage, hlm_rank_stage_begin(partition, stage), partition->ends[stage],
               &holding);
    costs->reduce_s[stage] = holding.reduce_s;
    costs->optimizer_s[stage] = holding.optimizer_s;
}

double hlm_rank_simulate(struct hlm_arena *scratch, const struct hlm_rank_problem *problem,
                         const struct hlm_rank_partition *partition)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
    const int32_t n = problem->order->num_stages;
    struct hlm_rank_take *takes = HLM_ARENA_ARRAY(scratch, struct hlm_rank_take, n);
    const struct hlm_rank_costs costs = hlm_rank_costs_new(scratch, problem);
    bool fits = is_even(problem, partition);
    for (int32_t s = 0; s < n; s++) {
        takes[s] =
            hlm_rank_take_stage(problem, s, hlm_rank_stage_begin(partition, s), partition->ends[s],
                                partition->full[s], partition->selective[s]);
        hlm_rank_costs_set_times(&costs, s, takes[s].seconds);
        hlm_rank_costs_set_holding(problem, &costs, partition, s);
        fits = fits && takes[s].allowed;
    }
    for (int32_t r = 0; r < problem->order->num_ranks; r++) {
        fits = fits && hlm_rank_slack(problem, r, partition, takes) >= 0;
    }
    const double step_s =
        fits ? hlm_sim_order_step(scratch, problem->order, &costs.sim) : (double)INFINITY;
    hlm_arena_rewind(scratch, mark);
    return step_s;
}

/* --- guesses --- */

/* What is left over of a rank's layers goes to stages that carry neither embedding nor head first.
 */
void hlm_rank_spread(const struct hlm_rank_problem *problem, const int32_t *totals,
                     const int32_t *firsts, struct hlm_rank_partition *out)
{
    for (int32_t r = 0; r < problem->order->num_ranks; r++) {
        const struct hlm_rank_held *held = &problem->held[r];
        int32_t more = totals[r] % held->num_chunks;
        if (firsts != NULL && firsts[r] >= 0) {
            out->ends[held->stages[0]] = firsts[r];
            out->ends[held->stages[1]] = totals[r] - firsts[r];
            continue;
        }
        for (int pass = 0; pass < 2; pass++) {
            for (int32_t c = held->num_chunks - 1; c >= 0; c--) {
                const int32_t s = held->stages[c];
                if (problem->stages[s].may_be_empty == (pass == 1)) {
                    out->ends[s] = totals[r] / held->num_chunks + (more > 0 ? 1 : 0);
                    more -= more > 0 ? 1 : 0;
                }
            }
        }
    }
    for (int32_t s = 1; s < problem->order->num_stages; s++) {
        out->ends[s] += out->ends[s - 1];
    }
}

/* Layers of a rank that recompute: `count` of them in `mode`, the rest in `rest`. */
struct policy {
    enum hlm_recompute mode, rest;
};

static void apply_policy(const struct hlm_rank_problem *problem, int32_t rank, struct policy policy,
                         int32_t count, struct hlm_rank_partition *partition)
{
    const struct hlm_rank_held *held = &problem->held[rank];
    for (int32_t c = 0; c < held->num_chunks; c++) {
        const int32_t s = held->stages[c];
        const int32_t n = partition->ends[s] - hlm_rank_stage_begin(partition, s);
        const int32_t own = count < n ? count : n;
        int32_t counts[HLM_NUM_RECOMPUTES] = {0};
        counts[policy.mode] += own;
        counts[policy.rest] += n - own;
        partition->full[s] = counts[HLM_RECOMPUTE_FULL];
        partition->selective[s] = counts[HLM_RECOMPUTE_SELECTIVE];
        count -= own;
    }
}

/* Seconds of the backwards of a rank; INFINITY: it does not fit. */
static double rank_backward_s(const struct hlm_rank_problem *problem, int32_t rank,
                              const struct hlm_rank_partition *partition,
                              struct hlm_rank_take *takes)
{
    const struct hlm_rank_held *held = &problem->held[rank];
    double seconds = 0.0;
    for (int32_t c = 0; c < held->num_chunks; c++) {
        const int32_t s = held->stages[c];
        takes[s] =
            hlm_rank_take_stage(problem, s, hlm_rank_stage_begin(partition, s), partition->ends[s],
                                partition->full[s], partition->selective[s]);
        seconds += problem->order->splits_backward ? takes[s].seconds[HLM_ACTION_I]
                                                   : takes[s].seconds[HLM_ACTION_B];
        if (!takes[s].allowed) {
            return INFINITY;
        }
    }
    return hlm_rank_slack(problem, rank, partition, takes) >= 0 ? seconds : (double)INFINITY;
}

static bool choose_rank(const struct hlm_rank_problem *problem, int32_t rank,
                        struct hlm_rank_partition *partition, struct hlm_rank_take *takes)
{
    static const struct policy policies[] = {{HLM_RECOMPUTE_SELECTIVE, HLM_RECOMPUTE_NONE},
                                             {HLM_RECOMPUTE_FULL, HLM_RECOMPUTE_NONE},
                                             {HLM_RECOMPUTE_FULL, HLM_RECOMPUTE_SELECTIVE}};
    const struct hlm_rank_held *held = &problem->held[rank];
    int32_t n = 0, best_count = 0;
    struct policy best = policies[0];
    double best_s = INFINITY;
    for (int32_t c = 0; c < held->num_chunks; c++) {
        n += partition->ends[held->stages[c]] - hlm_rank_stage_begin(partition, held->stages[c]);
    }
    for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        for (int32_t count = 0; count <= n; count++) {
            apply_policy(problem, rank, policies[i], count, partition);
            const double seconds = rank_backward_s(problem, rank, partition, takes);
            if (isfinite(seconds)) {
                if (seconds < best_s) {
                    best_s = seconds;
                    best = policies[i];
                    best_count = count;
                }
                break;
            }
        }
    }
    apply_policy(problem, rank, best, best_count, partition);
    return isfinite(best_s);
}

bool hlm_rank_choose_recompute(struct hlm_arena *scratch, const struct hlm_rank_problem *problem,
                               struct hlm_rank_partition *partition)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
    struct hlm_rank_take *takes =
        HLM_ARENA_ARRAY(scratch, struct hlm_rank_take, problem->order->num_stages);
    bool fits = is_even(problem, partition);
    for (int32_t r = 0; fits && r < problem->order->num_ranks; r++) {
        fits = choose_rank(problem, r, partition, takes);
    }
    hlm_arena_rewind(scratch, mark);
    return fits;
}
