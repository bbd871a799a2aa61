#include "schedule/simulate_order.h"

enum { NOBODY = -1 };

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* ---- the order ---- */

/* Where the ends of forwards and of gradients (B or I) stand, by stage and microbatch; NOBODY: not
 * yet. */
struct making {
    const struct hlm_schedule *schedule;
    int32_t *forwards, *gradients; /* [num_stages][num_microbatches] */
    int32_t *next;                 /* [num_ranks]: position in the list */
    struct hlm_sim_place *places;
    int32_t num_places;
    bool splits_backward;
};

static int32_t *end_at(const struct making *making, int32_t *ends, int32_t stage,
                       int32_t microbatch)
{
    return &ends[(size_t)stage * (size_t)making->schedule->num_microbatches + (size_t)microbatch];
}

/* The place that an action waits for; false where that is not in the order yet. */
static bool find_need(const struct making *making, struct hlm_action action, int32_t *out)
{
    *out = NOBODY;
    const bool forward = action.kind == HLM_ACTION_F;
    const int32_t giver = action.stage + (forward ? -1 : 1);
    if (action.kind == HLM_ACTION_W || giver < 0 || giver == making->schedule->num_stages) {
        return true;
    }
    *out =
        *end_at(making, forward ? making->forwards : making->gradients, giver, action.microbatch);
    return *out != NOBODY;
}

static void set_end(struct making *making, struct hlm_action action)
{
    if (action.kind != HLM_ACTION_W) {
        int32_t *ends = action.kind == HLM_ACTION_F ? making->forwards : making->gradients;
        *end_at(making, ends, action.stage, action.microbatch) = making->num_places;
    }
    making->splits_backward = making->splits_backward || action.kind == HLM_ACTION_I;
}

static int32_t index_of(struct hlm_action action)
{
    return action.stage * HLM_SIM_NUM_KINDS + (int32_t)action.kind;
}

/* Puts the next compute action of the rank into the order, if what it needs is there. */
static bool take_next(struct making *making, int32_t rank)
{
    const struct hlm_rank_actions *list = &making->schedule->ranks[rank];
    int32_t *next = &making->next[rank];
    while (*next < list->num_actions && !hlm_action_is_compute(list->actions[*next].kind) &&
           list->actions[*next].kind != HLM_ACTION_OVERLAP_F_B) {
        (*next)++;
    }
    if (*next == list->num_actions) {
        return false;
    }
    const bool pair = list->actions[*next].kind == HLM_ACTION_OVERLAP_F_B;
    const struct hlm_action *actions = &list->actions[*next + (pair ? 1 : 0)];
    struct hlm_sim_place place = {
        .action = index_of(actions[0]), .other = NOBODY, .other_need = NOBODY};
    if (!find_need(making, actions[0], &place.need) ||
        (pair && !find_need(making, actions[1], &place.other_need))) {
        return false;
    }
    set_end(making, actions[0]);
    if (pair) {
        place.other = index_of(actions[1]);
        set_end(making, actions[1]);
    }
    making->places[making->num_places++] = place;
    *next += pair ? 3 : 1;
    return true;
}

static int32_t *no_ends(struct hlm_arena *arena, const struct hlm_schedule *schedule)
{
    const size_t num = (size_t)schedule->num_stages * (size_t)schedule->num_microbatches;
    int32_t *ends = HLM_ARENA_ARRAY(arena, int32_t, num);
    for (size_t i = 0; i < num; i++) {
        ends[i] = NOBODY;
    }
    return ends;
}

static int32_t count_actions(const struct hlm_schedule *schedule)
{
    int32_t num = 0;
    for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
        for (int32_t i = 0; i < schedule->ranks[rank].num_actions; i++) {
            num += hlm_action_is_compute(schedule->ranks[rank].actions[i].kind) ? 1 : 0;
        }
    }
    return num;
}

static enum hlm_status check_done(const struct making *making, struct hlm_err *err)
{
    for (int32_t rank = 0; rank < making->schedule->num_ranks; rank++) {
        const struct hlm_rank_actions *list = &making->schedule->ranks[rank];
        if (making->next[rank] < list->num_actions) {
            char name[32];
            hlm_action_format(list->actions[making->next[rank]], name);
            return hlm_fail(err, HLM_FAILED, "the schedule makes no progress: rank %d before %s",
                            rank, name);
        }
    }
    return HLM_OK;
}

enum hlm_status hlm_sim_order_new(struct hlm_arena *arena, const struct hlm_schedule *schedule,
                                  const struct hlm_sim_order **out, struct hlm_err *err)
{
    struct hlm_sim_order *order = HLM_ARENA_NEW(arena, struct hlm_sim_order);
    struct making making = {
        .schedule = schedule,
        .places = HLM_ARENA_ARRAY(arena, struct hlm_sim_place, count_actions(schedule))};
    const int32_t *stage_rank = hlm_arena_memdup(
        arena, schedule->stage_rank, (size_t)schedule->num_stages * sizeof(*schedule->stage_rank));
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    making.forwards = no_ends(arena, schedule);
    making.gradients = no_ends(arena, schedule);
    making.next = HLM_ARENA_ARRAY(arena, int32_t, schedule->num_ranks);
    for (bool progress = true; progress;) {
        progress = false;
        for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
            progress = take_next(&making, rank) || progress;
        }
    }
    const enum hlm_status status = check_done(&making, err);
    hlm_arena_rewind(arena, mark);
    HLM_TRY(status);
    *order = (struct hlm_sim_order){.kind = schedule->kind,
                                    .num_ranks = schedule->num_ranks,
                                    .num_stages = schedule->num_stages,
                                    .num_microbatches = schedule->num_microbatches,
                                    .stage_rank = stage_rank,
                                    .splits_backward = making.splits_backward,
                                    .places = making.places,
                                    .num_places = making.num_places};
    *out = order;
    return HLM_OK;
}

/* ---- one pass ---- */

/* An action of a stage with its times. */
struct priced {
    double duration_s, transfer_s;
    int32_t rank;
    bool needs_both_sides;
};

struct pass {
    const struct hlm_sim_order *order;
    const struct hlm_sim_costs *costs;
    struct priced *priced; /* [num_stages][HLM_SIM_NUM_KINDS] */
    double *ends_s;        /* [num_places] */
    double *free_s;        /* [num_ranks] */
    double *last_s;        /* [num_stages][HLM_SIM_NUM_KINDS]: end of the last of its kind */
};

/* Adds what an action of `stage` waits for over the boundary to `giver`. */
static void set_transfer(const struct pass *pass, struct priced *priced, int32_t stage,
                         int32_t giver)
{
    const struct hlm_sim_order *order = pass->order;
    if (giver < 0 || giver >= order->num_stages ||
        order->stage_rank[giver] == order->stage_rank[stage]) {
        return;
    }
    const struct hlm_sim_costs *costs = pass->costs;
    const bool forward = giver < stage;
    priced->transfer_s =
        hlm_sim_at(forward ? costs->send_forward_s : costs->send_backward_s, giver);
    priced->needs_both_sides =
        costs->needs_both_sides != NULL && costs->needs_both_sides[forward ? giver : stage];
}

static void fill_prices(const struct pass *pass)
{
    const struct hlm_sim_costs *costs = pass->costs;
    const double *const durations[HLM_SIM_NUM_KINDS] = {
        [HLM_ACTION_F] = costs->forward_s,
        [HLM_ACTION_B] = costs->backward_s,
        [HLM_ACTION_I] = costs->input_grad_s,
        [HLM_ACTION_W] = costs->weight_grad_s,
    };
    HLM_ASSERT(!pass->order->splits_backward || costs->input_grad_s != NULL);
    for (int32_t stage = 0; stage < pass->order->num_stages; stage++) {
        for (int kind = 0; kind < HLM_SIM_NUM_KINDS; kind++) {
            struct priced *priced = &pass->priced[stage * HLM_SIM_NUM_KINDS + kind];
            *priced = (struct priced){.duration_s = hlm_sim_at(durations[kind], stage),
                                      .rank = pass->order->stage_rank[stage]};
            if (kind != HLM_ACTION_W) {
                set_transfer(pass, priced, stage, stage + (kind == HLM_ACTION_F ? -1 : 1));
            }
        }
    }
}

static inline double arrival_s(const struct pass *pass, const struct priced *priced, int32_t need,
                               double free_s)
{
    if (need < 0) {
        return 0.0;
    }
    const double given_s = pass->ends_s[need];
    return (priced->needs_both_sides ? larger(given_s, free_s) : given_s) + priced->transfer_s;
}

static double pair_duration_s(const struct pass *pass, const struct hlm_sim_place *place)
{
    return pass->costs->overlap_s != NULL
               ? pass->costs->overlap_s[place->action / HLM_SIM_NUM_KINDS]
               : pass->priced[place->action].duration_s + pass->priced[place->other].duration_s;
}

static void run_places(const struct pass *pass)
{
    const struct hlm_sim_place *places = pass->order->places;
    const int32_t num_places = pass->order->num_places;
    for (int32_t i = 0; i < num_places; i++) {
        const struct hlm_sim_place *place = &places[i];
        const struct priced *priced = &pass->priced[place->action];
        const double free_s = pass->free_s[priced->rank];
        double start_s = larger(arrival_s(pass, priced, place->need, free_s), free_s);
        double duration_s = priced->duration_s;
        if (place->other >= 0) {
            const double other_s =
                arrival_s(pass, &pass->priced[place->other], place->other_need, free_s);
            start_s = larger(start_s, other_s);
            duration_s = pair_duration_s(pass, place);
        }
        const double end_s = start_s + duration_s;
        pass->free_s[priced->rank] = end_s;
        pass->ends_s[i] = end_s;
        pass->last_s[place->action] = end_s;
        if (place->other >= 0) {
            pass->last_s[place->other] = end_s;
        }
    }
}

/* ---- the end of the step ---- */

/* When the last gradients of a stage are there. */
static double gradients_s(const struct pass *pass, int32_t stage)
{
    const double *last_s = &pass->last_s[stage * HLM_SIM_NUM_KINDS];
    return larger(last_s[HLM_ACTION_B], last_s[HLM_ACTION_W]);
}

/* The stages of each rank, those whose last backward ended earlier first: first [num_ranks],
 * next_stage[s] follows s. Sums in that order, as hlm_simulate makes them. */
static void order_stages(const struct pass *pass, int32_t *first, int32_t *next_stage)
{
    for (int32_t rank = 0; rank < pass->order->num_ranks; rank++) {
        first[rank] = NOBODY;
    }
    for (int32_t stage = 0; stage < pass->order->num_stages; stage++) {
        int32_t *place = &first[pass->order->stage_rank[stage]];
        while (*place != NOBODY && gradients_s(pass, *place) <= gradients_s(pass, stage)) {
            place = &next_stage[*place];
        }
        next_stage[stage] = *place;
        *place = stage;
    }
}

static double finish(struct hlm_arena *scratch, const struct pass *pass)
{
    const struct hlm_sim_order *order = pass->order;
    const struct hlm_sim_costs *costs = pass->costs;
    int32_t *first = HLM_ARENA_ARRAY(scratch, int32_t, order->num_ranks);
    int32_t *next_stage = HLM_ARENA_ARRAY(scratch, int32_t, order->num_stages);
    order_stages(pass, first, next_stage);
    double meet_s = 0.0;
    for (int32_t rank = 0; rank < order->num_ranks; rank++) {
        double free_s = costs->overlap_reduce ? 0.0 : pass->free_s[rank];
        for (int32_t stage = first[rank]; stage != NOBODY; stage = next_stage[stage]) {
            free_s = larger(free_s, gradients_s(pass, stage)) + hlm_sim_at(costs->reduce_s, stage);
        }
        meet_s = larger(meet_s, free_s);
    }
    const double start_s = meet_s + costs->sync_s;
    double step_s = start_s;
    for (int32_t rank = 0; rank < order->num_ranks; rank++) {
        double free_s = start_s;
        for (int32_t stage = first[rank]; stage != NOBODY; stage = next_stage[stage]) {
            free_s += hlm_sim_at(costs->optimizer_s, stage);
        }
        step_s = larger(step_s, free_s);
    }
    return step_s;
}

double hlm_sim_order_step(struct hlm_arena *scratch, const struct hlm_sim_order *order,
                          const struct hlm_sim_costs *costs)
{
    HLM_ASSERT(costs->action_s == NULL);
    const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
    const size_t num_actions = (size_t)order->num_stages * HLM_SIM_NUM_KINDS;
    const struct pass pass = {.order = order,
                              .costs = costs,
                              .priced = HLM_ARENA_ARRAY(scratch, struct priced, num_actions),
                              .ends_s = HLM_ARENA_ARRAY(scratch, double, order->num_places),
                              .free_s = HLM_ARENA_ARRAY(scratch, double, order->num_ranks),
                              .last_s = HLM_ARENA_ARRAY(scratch, double, num_actions)};
    fill_prices(&pass);
    run_places(&pass);
    const double step_s = finish(scratch, &pass);
    hlm_arena_rewind(scratch, mark);
    return step_s;
}
