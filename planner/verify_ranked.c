#include "planner/verify_ranked.h"

#include <math.h>

#include "planner/rank_list.h"

struct judging {
    struct hlm_arena *arena; /* for schedules and simulations */
    const struct hlm_column *column;
    double goal_s, least_s;
};

/* The step of these stages priced anew from their operator lists. */
static double price_again(struct judging *judging, const struct hlm_rank_partition *partition)
{
    const struct hlm_column *column = judging->column;
    const int32_t n = hlm_column_num_stages(column);
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    const struct hlm_arena_mark mark = hlm_arena_mark(judging->arena);
    const struct hlm_plan_stage *stages =
        hlm_column_ranked_stages(judging->arena, column, partition);
    const enum hlm_status status =
        hlm_plan_price(judging->arena, column->pricer.model, column->pricer.cluster,
                       &column->strategy, stages, n, &plan, NULL, &err);
    const double step_s = status == HLM_OK ? plan->prediction.step_time_s : (double)INFINITY;
    hlm_arena_rewind(judging->arena, mark);
    return step_s;
}

/* Only what the quick simulation finds near the claim is priced again: the two agree to rounding.
 */
static double judge_partition(void *context, const struct hlm_rank_partition *partition,
                              double step_s)
{
    struct judging *judging = context;
    if (step_s < judging->goal_s * (1 + 1e-3)) {
        step_s = price_again(judging, partition);
    }
    judging->least_s = fmin(judging->least_s, step_s);
    return judging->goal_s;
}

static enum hlm_verdict judge(struct hlm_pricer_cache *cache, struct hlm_arena *scratch,
                              struct judging *judging, struct hlm_column *column)
{
    double work = 2e8;
    struct hlm_rank_caps caps;
    struct hlm_rank_set *set = hlm_rank_set_new(judging->arena, &column->ranks, judging->goal_s);
    if (!hlm_rank_narrow(scratch, set, judging->goal_s, &caps)) {
        return HLM_VERDICT_BOUNDED;
    }
    hlm_column_take_paths(cache, column);
    hlm_rank_set_read_rows(set);
    if (!hlm_rank_narrow(scratch, set, judging->goal_s, &caps)) {
        return HLM_VERDICT_BOUNDED;
    }
    if (!hlm_rank_list(scratch, &column->ranks, &caps, &work, judge_partition, judging)) {
        return HLM_VERDICT_TOO_MANY;
    }
    return judging->least_s < judging->goal_s ? HLM_VERDICT_FASTER : HLM_VERDICT_SIMULATED;
}

enum hlm_verdict hlm_verify_ranked(struct hlm_pricer_cache *cache,
                                   const struct hlm_strategy *strategy, double goal_s,
                                   double *out_step_s)
{
    struct hlm_arena *arena = hlm_arena_new(), *scratch = hlm_arena_new();
    struct hlm_column column;
    struct hlm_err unused;
    struct judging judging = {
        .arena = arena, .column = &column, .goal_s = goal_s, .least_s = INFINITY};
    enum hlm_verdict verdict = HLM_VERDICT_INFEASIBLE;
    if (hlm_column_init(arena, cache, strategy, &column, &unused) == HLM_OK &&
        hlm_column_may_fit(&column)) {
        const double floor_s = hlm_column_memory_bound(cache, &column);
        if (isinf(floor_s)) {
            verdict = HLM_VERDICT_INFEASIBLE;
        } else if (floor_s >= goal_s) {
            verdict = HLM_VERDICT_CLOSED_FORM;
        } else {
            hlm_column_complete(arena, cache, &column);
            verdict = judge(cache, scratch, &judging, &column);
        }
    }
    *out_step_s = judging.least_s;
    hlm_arena_free(scratch);
    hlm_arena_free(arena);
    return verdict;
}
