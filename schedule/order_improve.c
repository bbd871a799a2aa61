/* Hill climbing. A move takes one action out of the list of a rank and puts it back up to a
 * microbatch's worth of actions earlier; swaps of neighbours are the shortest moves. */
#include "schedule/order.h"

#include <math.h>
#include <string.h>

struct climb {
    struct hlm_arena *arena;
    const struct hlm_order_problem *problem;
    struct hlm_schedule schedule;
    struct hlm_rank_actions *ranks;
    struct hlm_action **actions; /* [num_ranks]: the same lists, writable */
    int32_t num_left;            /* simulations */
    double step_s, ends_s;       /* of the best: its time, and the sum of its ranks' ends */
};

/* Takes the action at `from` to the earlier place `to`, or back. */
static void move_up(struct hlm_action *actions, int32_t from, int32_t to)
{
    const struct hlm_action action = actions[from];
    memmove(&actions[to + 1], &actions[to], (size_t)(from - to) * sizeof *actions);
    actions[to] = action;
}

static void move_down(struct hlm_action *actions, int32_t from, int32_t to)
{
    const struct hlm_action action = actions[from];
    memmove(&actions[from], &actions[from + 1], (size_t)(to - from) * sizeof *actions);
    actions[to] = action;
}

/* Whether an action may come before one that stands before it now, as far as their stage says. */
static bool may_pass(struct hlm_action action, struct hlm_action passed)
{
    return action.stage != passed.stage ||
           (action.kind != passed.kind && action.microbatch != passed.microbatch);
}

static bool keeps_limit(const struct climb *climb, int32_t rank)
{
    const struct hlm_order_problem *problem = climb->problem;
    const struct hlm_rank_actions *list = &climb->ranks[rank];
    const enum hlm_action_kind release = problem->splits_backward ? HLM_ACTION_W : HLM_ACTION_B;
    int64_t held = 0;
    for (int32_t i = 0; i < list->num_actions; i++) {
        const struct hlm_action action = list->actions[i];
        held += action.kind == HLM_ACTION_F ? problem->amounts[action.stage] : 0;
        if (held > problem->limits[rank]) {
            return false;
        }
        held -= action.kind == release ? problem->amounts[action.stage] : 0;
    }
    return true;
}

/* Whether the lists as they are now are better than the best. */
static bool is_better(struct climb *climb)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(climb->arena);
    struct hlm_sim_result result;
    struct hlm_err ignored;
    climb->num_left--;
    const bool runs = hlm_simulate(climb->arena, &climb->schedule, climb->problem->costs, NULL,
                                   false, &result, &ignored) == HLM_OK;
    double ends_s = 0;
    for (int32_t rank = 0; runs && rank < climb->problem->num_ranks; rank++) {
        ends_s += result.ranks[rank].compute_end_s;
    }
    hlm_arena_rewind(climb->arena, mark);
    const bool better = runs && (result.step_s < climb->step_s ||
                                 (result.step_s == climb->step_s && ends_s < climb->ends_s));
    if (better) {
        climb->step_s = result.step_s;
        climb->ends_s = ends_s;
    }
    return better;
}

/* Tries all moves that end at one place of a list; true when one was kept. */
static bool try_place(struct climb *climb, int32_t rank, int32_t to, int32_t reach)
{
    struct hlm_action *actions = climb->actions[rank];
    bool kept = false;
    for (int32_t from = to + 1; from < climb->ranks[rank].num_actions && from <= to + reach;
         from++) {
        bool legal = climb->num_left > 0;
        for (int32_t i = to; legal && i < from; i++) {
            legal = may_pass(actions[from], actions[i]);
        }
        if (!legal) {
            continue;
        }
        move_up(actions, from, to);
        if (keeps_limit(climb, rank) && is_better(climb)) {
            kept = true;
        } else {
            move_down(actions, to, from);
        }
    }
    return kept;
}

static int32_t actions_of_microbatch(const struct climb *climb, int32_t rank)
{
    return climb->ranks[rank].num_actions / climb->problem->num_microbatches;
}

static void climb_up(struct climb *climb)
{
    bool moved = true;
    while (moved && climb->num_left > 0) {
        moved = false;
        for (int32_t rank = 0; rank < climb->problem->num_ranks; rank++) {
            const int32_t reach = actions_of_microbatch(climb, rank);
            for (int32_t to = 0; to + 1 < climb->ranks[rank].num_actions; to++) {
                moved |= try_place(climb, rank, to, reach);
            }
        }
    }
}

const struct hlm_schedule *hlm_order_improve(struct hlm_arena *arena,
                                             const struct hlm_order_problem *problem,
                                             const struct hlm_schedule *schedule,
                                             int32_t max_simulations)
{
    HLM_ASSERT(!schedule->lowered);
    struct climb climb = {
        .arena = arena,
        .problem = problem,
        .schedule = *schedule,
        .num_left = max_simulations + 1,
        .step_s = (double)INFINITY,
        .ranks = HLM_ARENA_ARRAY(arena, struct hlm_rank_actions, problem->num_ranks),
        .actions = HLM_ARENA_ARRAY(arena, struct hlm_action *, problem->num_ranks)};
    climb.schedule.kind = HLM_NUM_SCHEDULES;
    climb.schedule.ranks = climb.ranks;
    for (int32_t rank = 0; rank < problem->num_ranks; rank++) {
        const struct hlm_rank_actions *list = &schedule->ranks[rank];
        climb.actions[rank] = hlm_arena_memdup(arena, list->actions,
                                               (size_t)list->num_actions * sizeof *list->actions);
        climb.ranks[rank] = (struct hlm_rank_actions){climb.actions[rank], list->num_actions};
    }
    const bool runs = is_better(&climb);
    HLM_ASSERT(runs);
    const double before_s = climb.step_s;
    climb_up(&climb);
    if (climb.step_s >= before_s) {
        return schedule;
    }
    return hlm_arena_memdup(arena, &climb.schedule, sizeof climb.schedule);
}
