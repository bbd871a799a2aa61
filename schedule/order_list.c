/* List scheduling, once per rule. All times are those of buffered links; hlm_simulate judges. */
#include "schedule/order.h"

#include <math.h>

enum first { FIRST_FIXED, FIRST_TEXTBOOK, FIRST_BACKWARD, FIRST_FORWARD, NUM_FIRST };
enum put_off { PUT_OFF_NOT, PUT_OFF_AS_TEXTBOOK, PUT_OFF_ALWAYS, NUM_PUT_OFF };

struct rule {
    enum first first;
    enum put_off put_off;
    bool must_fit; /* W in a gap ends before the next input that is known to arrive */
};

/* Rows of per-stage tables: kinds of actions. */
enum { FORWARD, GRADIENT, WEIGHT, NUM_ROWS };

/* Nothing to run. */
enum { NOTHING = -1 };

struct decision {
    int row; /* NOTHING */
    int32_t stage;
    double start_s;
};

struct rank_state {
    const int32_t *stages; /* that it owns, ascending */
    int32_t num_stages;
    const struct hlm_action *fixed; /* F, B, I of the textbook in order */
    int32_t next_fixed;
    int32_t most_pending; /* weight gradients that the textbook puts off at once */
    double free_s;
    int64_t held;
    int32_t num_pending;
    struct decision decision;
    struct hlm_action_list {
        struct hlm_action *actions;
        int32_t count;
    } out;
};

struct lister {
    const struct hlm_order_problem *problem;
    const struct rule *rule;
    const double *seconds[NUM_ROWS]; /* [num_stages] */
    struct rank_state *ranks;
    int32_t *next[NUM_ROWS]; /* [num_stages]: microbatches that have run */
    double *ends[2];         /* FORWARD, GRADIENT: [num_stages * num_microbatches], -1: not yet */
    const int32_t *positions[2]; /* the same shape: where the textbook has it in its rank's list */
};

static size_t index_of(const struct lister *lister, int32_t stage, int32_t microbatch)
{
    return (size_t)stage * (size_t)lister->problem->num_microbatches + (size_t)microbatch;
}

/* ---- which action ---- */

static double transfer(const struct lister *lister, int32_t from, int32_t to)
{
    const struct hlm_order_problem *problem = lister->problem;
    const double *send_s =
        from < to ? problem->costs->send_forward_s : problem->costs->send_backward_s;
    return problem->stage_rank[from] == problem->stage_rank[to] || send_s == NULL ? 0.0
                                                                                  : send_s[from];
}

/* When the input of the next action of a row and stage is there; INFINITY: not known yet. */
static double arrival(const struct lister *lister, int row, int32_t stage)
{
    const int32_t microbatch = lister->next[row][stage];
    const int32_t giver = stage + (row == FORWARD ? -1 : 1);
    if (giver < 0) {
        return 0.0;
    }
    const bool turns = giver == lister->problem->num_stages;
    const double end_s = turns ? lister->ends[FORWARD][index_of(lister, stage, microbatch)]
                               : lister->ends[row][index_of(lister, giver, microbatch)];
    if (end_s < 0) {
        return INFINITY;
    }
    return end_s + (turns ? 0.0 : transfer(lister, giver, stage));
}

/* What the forwards that a microbatch still has on a rank will take. */
static int64_t rest_of(const struct lister *lister, const struct rank_state *rank,
                       int32_t microbatch)
{
    int64_t rest = 0;
    for (int32_t i = 0; i < rank->num_stages; i++) {
        const int32_t stage = rank->stages[i];
        rest += lister->next[FORWARD][stage] <= microbatch ? lister->problem->amounts[stage] : 0;
    }
    return rest;
}

/* Whether a rank has room for the next forward of a stage: see order.h. The oldest microbatch that
 * is not through is the next one of the rank's last stage. */
static bool has_room(const struct lister *lister, int32_t rank_index, int32_t stage)
{
    const struct rank_state *rank = &lister->ranks[rank_index];
    const int32_t oldest = lister->next[FORWARD][rank->stages[rank->num_stages - 1]];
    const bool is_oldest = lister->next[FORWARD][stage] == oldest;
    const int64_t kept = is_oldest ? 0 : rest_of(lister, rank, oldest);
    return rank->held + lister->problem->amounts[stage] + kept <=
           lister->problem->limits[rank_index];
}

/* Lower goes first. */
static int64_t preference(const struct lister *lister, int row, int32_t stage)
{
    const int64_t position =
        lister->positions[row][index_of(lister, stage, lister->next[row][stage])];
    const enum first first = lister->rule->first;
    const bool behind =
        (first == FIRST_BACKWARD && row == FORWARD) || (first == FIRST_FORWARD && row == GRADIENT);
    return position + (behind ? INT32_MAX : 0);
}

static bool is_allowed(const struct lister *lister, int32_t rank_index, int row, int32_t stage)
{
    const struct rank_state *rank = &lister->ranks[rank_index];
    if (lister->rule->first == FIRST_FIXED) {
        const struct hlm_action *turn = &rank->fixed[rank->next_fixed];
        if (turn->stage != stage || (turn->kind == HLM_ACTION_F) != (row == FORWARD)) {
            return false;
        }
    }
    return lister->next[row][stage] < lister->problem->num_microbatches &&
           (row != FORWARD || has_room(lister, rank_index, stage));
}

/* The forward or gradient that can start first; of those that start together, the preferred one. */
static struct decision choose_input(const struct lister *lister, int32_t rank_index)
{
    const struct rank_state *rank = &lister->ranks[rank_index];
    struct decision best = {.row = NOTHING, .start_s = INFINITY};
    for (int32_t i = 0; i < rank->num_stages; i++) {
        for (int row = FORWARD; row <= GRADIENT; row++) {
            const int32_t stage = rank->stages[i];
            if (!is_allowed(lister, rank_index, row, stage)) {
                continue;
            }
            const double start_s = fmax(arrival(lister, row, stage), rank->free_s);
            if (start_s < best.start_s ||
                (start_s == best.start_s && best.row != NOTHING &&
                 preference(lister, row, stage) < preference(lister, best.row, best.stage))) {
                best = (struct decision){row, stage, start_s};
            }
        }
    }
    return best;
}

/* The oldest weight gradient. */
static struct decision choose_weight(const struct lister *lister, const struct rank_state *rank)
{
    struct decision best = {.row = NOTHING, .start_s = rank->free_s};
    double oldest_s = INFINITY;
    for (int32_t i = 0; i < rank->num_stages; i++) {
        const int32_t stage = rank->stages[i];
        const int32_t microbatch = lister->next[WEIGHT][stage];
        if (microbatch < lister->next[GRADIENT][stage]) {
            const double end_s = lister->ends[GRADIENT][index_of(lister, stage, microbatch)];
            if (end_s < oldest_s) {
                oldest_s = end_s;
                best.row = WEIGHT;
                best.stage = stage;
            }
        }
    }
    return best;
}

static int32_t may_put_off(const struct lister *lister, const struct rank_state *rank)
{
    const enum put_off put_off = lister->rule->put_off;
    return put_off == PUT_OFF_NOT           ? 0
           : put_off == PUT_OFF_AS_TEXTBOOK ? rank->most_pending
                                            : INT32_MAX;
}

static void decide(struct lister *lister, int32_t rank_index)
{
    struct rank_state *rank = &lister->ranks[rank_index];
    rank->decision = choose_input(lister, rank_index);
    if (rank->num_pending == 0) {
        return;
    }
    const struct decision weight = choose_weight(lister, rank);
    const double gap_s = rank->decision.start_s - rank->free_s;
    const bool fits = !lister->rule->must_fit || lister->seconds[WEIGHT][weight.stage] <= gap_s;
    if (rank->num_pending > may_put_off(lister, rank) || (gap_s > 0 && fits)) {
        rank->decision = weight;
    }
}

/* ---- running it ---- */

static enum hlm_action_kind kind_of(const struct lister *lister, int row)
{
    if (row == FORWARD) {
        return HLM_ACTION_F;
    }
    const enum hlm_action_kind gradient =
        lister->problem->splits_backward ? HLM_ACTION_I : HLM_ACTION_B;
    return row == GRADIENT ? gradient : HLM_ACTION_W;
}

static void run(struct lister *lister, int32_t rank_index)
{
    struct rank_state *rank = &lister->ranks[rank_index];
    const struct decision decision = rank->decision;
    const int32_t stage = decision.stage;
    const int32_t microbatch = lister->next[decision.row][stage]++;
    const bool splits = lister->problem->splits_backward;
    rank->free_s = decision.start_s + lister->seconds[decision.row][stage];
    rank->out.actions[rank->out.count++] =
        (struct hlm_action){kind_of(lister, decision.row), stage, microbatch};
    if (decision.row == FORWARD) {
        rank->held += lister->problem->amounts[stage];
    } else if (decision.row == WEIGHT || !splits) {
        rank->held -= lister->problem->amounts[stage];
    }
    if (decision.row == WEIGHT) {
        rank->num_pending--;
        return;
    }
    rank->num_pending += decision.row == GRADIENT && splits;
    rank->next_fixed++;
    lister->ends[decision.row][index_of(lister, stage, microbatch)] = rank->free_s;
}

/* The rank that starts first: whatever the others do, nothing arrives anywhere before it starts. */
static int32_t next_rank(const struct lister *lister)
{
    int32_t best = NOTHING;
    for (int32_t rank = 0; rank < lister->problem->num_ranks; rank++) {
        const struct decision *decision = &lister->ranks[rank].decision;
        if (decision->row != NOTHING &&
            (best == NOTHING || decision->start_s < lister->ranks[best].decision.start_s)) {
            best = rank;
        }
    }
    return best;
}

static void decide_neighbour(struct lister *lister, int32_t stage, int row)
{
    const int32_t taker = stage + (row == FORWARD ? 1 : -1);
    if (row != WEIGHT && taker >= 0 && taker < lister->problem->num_stages) {
        decide(lister, lister->problem->stage_rank[taker]);
    }
}

/* Runs everything, or as far as the rule comes. */
static void run_all(struct lister *lister)
{
    const int32_t num_ranks = lister->problem->num_ranks;
    for (int32_t rank = 0; rank < num_ranks; rank++) {
        decide(lister, rank);
    }
    for (int32_t rank = next_rank(lister); rank != NOTHING; rank = next_rank(lister)) {
        const struct decision decision = lister->ranks[rank].decision;
        run(lister, rank);
        decide(lister, rank);
        decide_neighbour(lister, decision.stage, decision.row);
    }
}

/* ---- tables that all rules share ---- */

struct plan {
    const struct hlm_order_problem *problem;
    const struct hlm_schedule *textbook; /* NULL: none */
    struct rank_state *ranks;            /* as they start */
    int32_t *positions[2];
};

static void place_stages(struct hlm_arena *arena, struct plan *plan)
{
    const struct hlm_order_problem *problem = plan->problem;
    for (int32_t rank = 0; rank < problem->num_ranks; rank++) {
        int32_t *stages = HLM_ARENA_ARRAY(arena, int32_t, problem->num_stages);
        int32_t count = 0;
        for (int32_t stage = 0; stage < problem->num_stages; stage++) {
            if (problem->stage_rank[stage] == rank) {
                stages[count++] = stage;
            }
        }
        plan->ranks[rank].stages = stages;
        plan->ranks[rank].num_stages = count;
    }
}

/* Without a textbook: by microbatch, then by stage, down for forwards and up for gradients. */
static void place_plainly(struct plan *plan)
{
    const int32_t num_stages = plan->problem->num_stages;
    const int32_t num_microbatches = plan->problem->num_microbatches;
    for (int32_t stage = 0; stage < num_stages; stage++) {
        for (int32_t i = 0; i < num_microbatches; i++) {
            const int32_t index = stage * num_microbatches + i;
            plan->positions[FORWARD][index] = i * num_stages + stage;
            plan->positions[GRADIENT][index] = (i + 1) * num_stages - 1 - stage;
        }
    }
}

static void place_by_textbook(struct hlm_arena *arena, struct plan *plan, int32_t rank)
{
    const struct hlm_rank_actions *list = &plan->textbook->ranks[rank];
    struct hlm_action *fixed = HLM_ARENA_ARRAY(arena, struct hlm_action, list->num_actions + 1);
    int32_t num_fixed = 0, num_pending = 0;
    for (int32_t i = 0; i < list->num_actions; i++) {
        const struct hlm_action action = list->actions[i];
        num_pending += (action.kind == HLM_ACTION_I) - (action.kind == HLM_ACTION_W);
        if (num_pending > plan->ranks[rank].most_pending) {
            plan->ranks[rank].most_pending = num_pending;
        }
        if (hlm_action_is_compute(action.kind) && action.kind != HLM_ACTION_W) {
            const int row = action.kind == HLM_ACTION_F ? FORWARD : GRADIENT;
            fixed[num_fixed++] = action;
            plan->positions[row]
                           [action.stage * plan->problem->num_microbatches + action.microbatch] = i;
        }
    }
    fixed[num_fixed] = (struct hlm_action){.stage = NOTHING};
    plan->ranks[rank].fixed = fixed;
}

static void make_plan(struct hlm_arena *arena, struct plan *plan)
{
    const struct hlm_order_problem *problem = plan->problem;
    const size_t size = (size_t)problem->num_stages * (size_t)problem->num_microbatches;
    plan->ranks = HLM_ARENA_ARRAY(arena, struct rank_state, problem->num_ranks);
    plan->positions[FORWARD] = HLM_ARENA_ARRAY(arena, int32_t, size);
    plan->positions[GRADIENT] = HLM_ARENA_ARRAY(arena, int32_t, size);
    place_stages(arena, plan);
    if (plan->textbook == NULL) {
        place_plainly(plan);
        return;
    }
    for (int32_t rank = 0; rank < problem->num_ranks; rank++) {
        place_by_textbook(arena, plan, rank);
    }
}

static void start_lists(struct hlm_arena *arena, const struct plan *plan, struct lister *lister)
{
    const struct hlm_order_problem *problem = plan->problem;
    const size_t size = (size_t)problem->num_stages * (size_t)problem->num_microbatches;
    const struct hlm_sim_costs *costs = problem->costs;
    lister->problem = problem;
    lister->seconds[FORWARD] = costs->forward_s;
    lister->seconds[GRADIENT] = problem->splits_backward ? costs->input_grad_s : costs->backward_s;
    lister->seconds[WEIGHT] = costs->weight_grad_s;
    for (int row = FORWARD; row < NUM_ROWS; row++) {
        lister->next[row] = HLM_ARENA_ARRAY(arena, int32_t, problem->num_stages);
    }
    for (int row = FORWARD; row <= GRADIENT; row++) {
        lister->positions[row] = plan->positions[row];
        lister->ends[row] = HLM_ARENA_ARRAY(arena, double, size);
        for (size_t i = 0; i < size; i++) {
            lister->ends[row][i] = -1.0;
        }
    }
    lister->ranks =
        hlm_arena_memdup(arena, plan->ranks, (size_t)problem->num_ranks * sizeof *plan->ranks);
    for (int32_t rank = 0; rank < problem->num_ranks; rank++) {
        lister->ranks[rank].out.actions =
            HLM_ARENA_ARRAY(arena, struct hlm_action,
                            NUM_ROWS * lister->ranks[rank].num_stages * problem->num_microbatches);
    }
}

/* ---- the best of all rules ---- */

struct contest {
    struct hlm_arena *arena;
    const struct hlm_order_problem *problem;
    double best_s;
    const struct hlm_schedule *best; /* NULL: none yet */
};

static const struct hlm_schedule *schedule_of(struct hlm_arena *arena, const struct lister *lister)
{
    const struct hlm_order_problem *problem = lister->problem;
    struct hlm_rank_actions *ranks =
        HLM_ARENA_ARRAY(arena, struct hlm_rank_actions, problem->num_ranks);
    for (int32_t rank = 0; rank < problem->num_ranks; rank++) {
        ranks[rank] = (struct hlm_rank_actions){lister->ranks[rank].out.actions,
                                                lister->ranks[rank].out.count};
    }
    struct hlm_schedule *schedule = HLM_ARENA_NEW(arena, struct hlm_schedule);
    *schedule = (struct hlm_schedule){.kind = HLM_NUM_SCHEDULES,
                                      .num_ranks = problem->num_ranks,
                                      .num_stages = problem->num_stages,
                                      .num_microbatches = problem->num_microbatches,
                                      .stage_rank = problem->stage_rank,
                                      .ranks = ranks};
    return schedule;
}

static bool is_complete(const struct lister *lister)
{
    const int32_t num_rows = lister->problem->splits_backward ? NUM_ROWS : WEIGHT;
    for (int32_t rank = 0; rank < lister->problem->num_ranks; rank++) {
        const struct rank_state *state = &lister->ranks[rank];
        if (state->out.count != num_rows * state->num_stages * lister->problem->num_microbatches) {
            return false;
        }
    }
    return true;
}

static void enter(struct contest *contest, const struct hlm_schedule *schedule)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(contest->arena);
    struct hlm_sim_result result;
    struct hlm_err ignored;
    const bool runs = hlm_simulate(contest->arena, schedule, contest->problem->costs, NULL, false,
                                   &result, &ignored) == HLM_OK;
    hlm_arena_rewind(contest->arena, mark);
    if (runs && (contest->best == NULL || result.step_s < contest->best_s)) {
        contest->best = schedule;
        contest->best_s = result.step_s;
    }
}

/* Leaves what it allocated in the arena only where the rule wins. */
static void enter_rule(struct contest *contest, const struct plan *plan, const struct rule *rule)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(contest->arena);
    struct lister lister = {.rule = rule};
    start_lists(contest->arena, plan, &lister);
    run_all(&lister);
    const struct hlm_schedule *before = contest->best;
    if (is_complete(&lister)) {
        enter(contest, schedule_of(contest->arena, &lister));
    }
    if (contest->best == before) {
        hlm_arena_rewind(contest->arena, mark);
    }
}

static bool keeps_limits(struct hlm_arena *arena, const struct hlm_order_problem *problem,
                         const struct hlm_schedule *schedule)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    const struct hlm_rank_memory *memory = hlm_schedule_memory(arena, schedule, problem->amounts);
    bool keeps = true;
    for (int32_t rank = 0; rank < problem->num_ranks; rank++) {
        keeps = keeps && memory[rank].peak <= problem->limits[rank];
    }
    hlm_arena_rewind(arena, mark);
    return keeps;
}

static enum hlm_status check_limits(const struct hlm_order_problem *problem, struct hlm_err *err)
{
    for (int32_t rank = 0; rank < problem->num_ranks; rank++) {
        int64_t amount = 0;
        for (int32_t stage = 0; stage < problem->num_stages; stage++) {
            amount += problem->stage_rank[stage] == rank ? problem->amounts[stage] : 0;
        }
        if (amount > problem->limits[rank]) {
            return hlm_fail(err, HLM_NO,
                            "rank %d: one microbatch takes %lld, expected at most %lld", rank,
                            (long long)amount, (long long)problem->limits[rank]);
        }
    }
    return HLM_OK;
}

static void enter_all_rules(struct contest *contest, const struct plan *plan)
{
    const bool splits = contest->problem->splits_backward;
    const int num_put_off = splits ? NUM_PUT_OFF : 1;
    const int first_first = plan->textbook == NULL ? FIRST_TEXTBOOK : FIRST_FIXED;
    for (int first = first_first; first < NUM_FIRST; first++) {
        for (int put_off = 0; put_off < num_put_off; put_off++) {
            for (int must_fit = 0; must_fit <= (splits ? 1 : 0); must_fit++) {
                const struct rule rule = {(enum first)first, (enum put_off)put_off, must_fit == 1};
                enter_rule(contest, plan, &rule);
            }
        }
    }
}

enum hlm_status hlm_order_list(struct hlm_arena *arena, const struct hlm_order_problem *problem,
                               const struct hlm_schedule *textbook, const struct hlm_schedule **out,
                               struct hlm_err *err)
{
    HLM_TRY(check_limits(problem, err));
    struct contest contest = {.arena = arena, .problem = problem};
    struct plan plan = {.problem = problem, .textbook = textbook};
    make_plan(arena, &plan);
    if (textbook != NULL && keeps_limits(arena, problem, textbook)) {
        enter(&contest, textbook);
    }
    enter_all_rules(&contest, &plan);
    HLM_ASSERT(contest.best != NULL);
    *out = contest.best;
    return HLM_OK;
}
