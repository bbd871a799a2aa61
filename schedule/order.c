#include "schedule/order.h"

/* Which kinds of actions the lists have, a bit a kind. */
static unsigned kinds_in(const struct hlm_schedule *schedule)
{
    unsigned kinds = 0;
    for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
        const struct hlm_rank_actions *list = &schedule->ranks[rank];
        for (int32_t i = 0; i < list->num_actions; i++) {
            kinds |= 1U << list->actions[i].kind;
        }
    }
    return kinds;
}

static const int64_t *ones(struct hlm_arena *arena, int32_t count)
{
    int64_t *values = HLM_ARENA_ARRAY(arena, int64_t, count);
    for (int32_t i = 0; i < count; i++) {
        values[i] = 1;
    }
    return values;
}

static const int64_t *peaks_of(struct hlm_arena *arena, const struct hlm_schedule *schedule,
                               const int64_t *amounts)
{
    int64_t *peaks = HLM_ARENA_ARRAY(arena, int64_t, schedule->num_ranks);
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    const struct hlm_rank_memory *memory = hlm_schedule_memory(arena, schedule, amounts);
    for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
        peaks[rank] = memory[rank].peak;
    }
    hlm_arena_rewind(arena, mark);
    return peaks;
}

enum hlm_status hlm_order_problem_from(struct hlm_arena *arena, const struct hlm_schedule *schedule,
                                       const struct hlm_sim_costs *costs, const int64_t *amounts,
                                       struct hlm_order_problem *out, struct hlm_err *err)
{
    const unsigned kinds = kinds_in(schedule);
    const bool whole = (kinds & (1U << HLM_ACTION_B)) != 0;
    const bool halves = (kinds & (1U << HLM_ACTION_I)) != 0;
    if ((kinds & (1U << HLM_ACTION_OVERLAP_F_B)) != 0 || (whole && halves)) {
        return hlm_fail(err, HLM_NO,
                        "the order of a schedule with overlapped pairs, or with backwards both "
                        "whole and in halves, is not changed");
    }
    const int64_t *const given = amounts == NULL ? ones(arena, schedule->num_stages) : amounts;
    *out = (struct hlm_order_problem){.num_ranks = schedule->num_ranks,
                                      .num_stages = schedule->num_stages,
                                      .num_microbatches = schedule->num_microbatches,
                                      .stage_rank = schedule->stage_rank,
                                      .splits_backward = halves,
                                      .costs = costs,
                                      .amounts = given,
                                      .limits = peaks_of(arena, schedule, given)};
    return HLM_OK;
}
