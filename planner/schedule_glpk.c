#include "planner/schedule_glpk.h"

#include <math.h>

#include "planner/partition_glpk.h"

/* Relative: how much better than the incumbent a solution has to be. Far above what GLPK's
 * tolerances can hide, far below what matters. */
#define STEP_FRAC 1e-6

enum { FORWARD, GRADIENT, WEIGHT, NUM_ROWS };
enum { NONE = -1 };

/* Actions are numbered (row * num_stages + stage) * num_microbatches + microbatch. */
struct model {
    struct hlm_arena *arena;
    const struct hlm_order_problem *problem;
    int32_t num_rows, num_actions;
    double cutoff_s, bound_s;
    double *seconds;        /* [num_actions] */
    double *lag;            /* [num_actions][num_actions]: start to start, NAN: b does not need a */
    double *est_s, *tail_s; /* [num_actions]; lst = cutoff - tail */
    bool *before;           /* [num_actions][num_actions]: a comes before b, whatever else */
    int32_t *order;         /* [num_actions][num_actions]: column of y_ab, a < b; NONE */
    struct hlm_ilp ilp;
    int32_t num_open;    /* orders with a y */
    int32_t makespan;    /* column */
    int32_t first_start; /* column of x_0 - est_0 */
    double unit_s;
};

/* ---- actions ---- */

static int32_t action_index(const struct model *model, int row, int32_t stage, int32_t microbatch)
{
    const struct hlm_order_problem *problem = model->problem;
    return (row * problem->num_stages + stage) * problem->num_microbatches + microbatch;
}

static int row_of(const struct model *model, int32_t action)
{
    return action / (model->problem->num_stages * model->problem->num_microbatches);
}

static int32_t stage_of(const struct model *model, int32_t action)
{
    return action / model->problem->num_microbatches % model->problem->num_stages;
}

static int32_t microbatch_of(const struct model *model, int32_t action)
{
    return action % model->problem->num_microbatches;
}

static int32_t rank_of(const struct model *model, int32_t action)
{
    return model->problem->stage_rank[stage_of(model, action)];
}

static size_t pair(const struct model *model, int32_t a, int32_t b)
{
    return (size_t)a * (size_t)model->num_actions + (size_t)b;
}

static void need(struct model *model, int32_t a, int32_t b, double transfer_s)
{
    model->lag[pair(model, a, b)] = model->seconds[a] + transfer_s;
}

static double transfer(const struct model *model, int32_t from, int32_t to)
{
    const struct hlm_order_problem *problem = model->problem;
    const double *send_s =
        from < to ? problem->costs->send_forward_s : problem->costs->send_backward_s;
    return problem->stage_rank[from] == problem->stage_rank[to] || send_s == NULL ? 0.0
                                                                                  : send_s[from];
}

static void add_needs_of(struct model *model, int32_t stage, int32_t i)
{
    const struct hlm_order_problem *problem = model->problem;
    const int32_t forward = action_index(model, FORWARD, stage, i);
    const int32_t gradient = action_index(model, GRADIENT, stage, i);
    if (stage > 0) {
        need(model, action_index(model, FORWARD, stage - 1, i), forward,
             transfer(model, stage - 1, stage));
        need(model, gradient, action_index(model, GRADIENT, stage - 1, i),
             transfer(model, stage, stage - 1));
    }
    if (stage == problem->num_stages - 1) {
        need(model, forward, gradient, 0.0);
    }
    if (problem->splits_backward) {
        need(model, gradient, action_index(model, WEIGHT, stage, i), 0.0);
    }
    for (int row = FORWARD; i > 0 && row < model->num_rows; row++) {
        need(model, action_index(model, row, stage, i - 1), action_index(model, row, stage, i),
             0.0);
    }
}

/* Alone on its rank, a stage that can hold k microbatches starts F of i + k behind the release of
 * i. */
static void add_reuse(struct model *model, int32_t stage)
{
    const struct hlm_order_problem *problem = model->problem;
    const int32_t rank = problem->stage_rank[stage];
    for (int32_t other = 0; other < problem->num_stages; other++) {
        if (other != stage && problem->stage_rank[other] == rank) {
            return;
        }
    }
    const int64_t fit = problem->limits[rank] / problem->amounts[stage];
    const int row = problem->splits_backward ? WEIGHT : GRADIENT;
    for (int64_t i = fit; i < problem->num_microbatches; i++) {
        need(model, action_index(model, row, stage, (int32_t)(i - fit)),
             action_index(model, FORWARD, stage, (int32_t)i), 0.0);
    }
}

static void add_needs(struct model *model)
{
    const struct hlm_order_problem *problem = model->problem;
    const double *const seconds[NUM_ROWS] = {problem->costs->forward_s,
                                             problem->splits_backward ? problem->costs->input_grad_s
                                                                      : problem->costs->backward_s,
                                             problem->costs->weight_grad_s};
    for (int32_t a = 0; a < model->num_actions; a++) {
        model->seconds[a] = seconds[row_of(model, a)][stage_of(model, a)];
        for (int32_t b = 0; b < model->num_actions; b++) {
            model->lag[pair(model, a, b)] = (double)NAN;
        }
    }
    for (int32_t stage = 0; stage < problem->num_stages; stage++) {
        for (int32_t i = 0; i < problem->num_microbatches; i++) {
            add_needs_of(model, stage, i);
        }
        add_reuse(model, stage);
    }
}

/* ---- windows, and orders that follow from them ---- */

/* Longest ways from the start and to the end; true when something moved. */
static bool tighten(struct model *model)
{
    bool moved = false;
    for (int32_t a = 0; a < model->num_actions; a++) {
        for (int32_t b = 0; b < model->num_actions; b++) {
            const double lag_s = model->lag[pair(model, a, b)];
            if (isnan(lag_s)) {
                continue;
            }
            if (model->est_s[a] + lag_s > model->est_s[b]) {
                model->est_s[b] = model->est_s[a] + lag_s;
                moved = true;
            }
            if (model->tail_s[b] + lag_s > model->tail_s[a]) {
                model->tail_s[a] = model->tail_s[b] + lag_s;
                moved = true;
            }
        }
    }
    return moved;
}

/* Puts a before b where b can't come before a; true when that is news. */
static bool decide(struct model *model, int32_t a, int32_t b)
{
    const double slack_s = 1e-9 * model->cutoff_s;
    if (a == b || rank_of(model, a) != rank_of(model, b) || model->before[pair(model, a, b)] ||
        model->est_s[b] + model->seconds[b] + model->tail_s[a] <= model->cutoff_s + slack_s) {
        return false;
    }
    need(model, a, b, 0.0);
    model->before[pair(model, a, b)] = true;
    return true;
}

static void close_orders(struct model *model)
{
    const int32_t n = model->num_actions;
    for (int32_t k = 0; k < n; k++) {
        for (int32_t a = 0; a < n; a++) {
            for (int32_t b = 0; b < n && model->before[pair(model, a, k)]; b++) {
                if (model->before[pair(model, k, b)]) {
                    model->before[pair(model, a, b)] = true;
                }
            }
        }
    }
}

/* False: the windows leave no order within the cutoff. */
static bool find_orders(struct model *model)
{
    const int32_t n = model->num_actions;
    for (int32_t a = 0; a < n; a++) {
        model->tail_s[a] = model->seconds[a];
        for (int32_t b = 0; b < n; b++) {
            model->before[pair(model, a, b)] = !isnan(model->lag[pair(model, a, b)]);
        }
    }
    bool news = true;
    while (news) {
        news = false;
        while (tighten(model)) {
            for (int32_t a = 0; a < n; a++) {
                if (model->est_s[a] + model->tail_s[a] > model->cutoff_s) {
                    return false;
                }
            }
        }
        close_orders(model);
        for (int32_t a = 0; a < n; a++) {
            for (int32_t b = 0; b < n; b++) {
                news |= decide(model, a, b);
            }
        }
    }
    return true;
}

/* ---- the program ---- */

static void add_entry(struct model *model, int32_t row, int32_t column, double value)
{
    if (value != 0.0) {
        hlm_ilp_add_entry(&model->ilp, row, column, value);
    }
}

/* A row  x_b - x_a - per_y y >= seconds. */
static void add_distance(struct model *model, int32_t a, int32_t b, double seconds, int32_t y,
                         double per_y)
{
    const double low = (seconds - model->est_s[b] + model->est_s[a]) / model->unit_s;
    const int32_t row = hlm_ilp_add_row(&model->ilp, low, (double)INFINITY);
    add_entry(model, row, model->first_start + b, 1.0);
    add_entry(model, row, model->first_start + a, -1.0);
    if (y != NONE) {
        add_entry(model, row, y, -per_y / model->unit_s);
    }
}

static void add_starts(struct model *model)
{
    model->makespan = hlm_ilp_add_column(&model->ilp, 1.0, false);
    const int32_t row = hlm_ilp_add_row(&model->ilp, model->bound_s / model->unit_s,
                                        model->cutoff_s / model->unit_s);
    add_entry(model, row, model->makespan, 1.0);
    for (int32_t a = 0; a < model->num_actions; a++) {
        const int32_t column = hlm_ilp_add_column(&model->ilp, 0.0, false);
        model->first_start = a == 0 ? column : model->first_start;
        const int32_t end = hlm_ilp_add_row(
            &model->ilp, (model->est_s[a] + model->tail_s[a]) / model->unit_s, (double)INFINITY);
        add_entry(model, end, model->makespan, 1.0);
        add_entry(model, end, column, -1.0);
    }
}

static void add_either_order(struct model *model, int32_t a, int32_t b)
{
    const int32_t y = hlm_ilp_add_column(&model->ilp, 0.0, true);
    model->order[pair(model, a, b)] = y;
    model->num_open++;
    const double least_ab = model->est_s[b] - (model->cutoff_s - model->tail_s[a]);
    const double least_ba = model->est_s[a] - (model->cutoff_s - model->tail_s[b]);
    add_distance(model, a, b, least_ab, y, model->seconds[a] - least_ab);
    add_distance(model, b, a, model->seconds[b], y, least_ba - model->seconds[b]);
}

static void add_orders(struct model *model)
{
    for (int32_t a = 0; a < model->num_actions; a++) {
        for (int32_t b = 0; b < model->num_actions; b++) {
            const double lag_s = model->lag[pair(model, a, b)];
            model->order[pair(model, a, b)] = NONE;
            if (!isnan(lag_s)) {
                add_distance(model, a, b, lag_s, NONE, 0.0);
            } else if (a < b && rank_of(model, a) == rank_of(model, b) &&
                       !model->before[pair(model, a, b)] && !model->before[pair(model, b, a)]) {
                add_either_order(model, a, b);
            }
        }
    }
}

/* y_ab <= y_cd, where both are open. */
static void add_implication(struct model *model, int32_t a, int32_t b, int32_t c, int32_t d)
{
    const int32_t smaller = model->order[pair(model, a, b)];
    const int32_t larger = model->order[pair(model, c, d)];
    if (smaller != NONE && larger != NONE) {
        const int32_t row = hlm_ilp_add_row(&model->ilp, 0.0, (double)INFINITY);
        add_entry(model, row, larger, 1.0);
        add_entry(model, row, smaller, -1.0);
    }
}

static void add_monotone(struct model *model)
{
    const int32_t last = model->problem->num_microbatches - 1;
    for (int32_t a = 0; a < model->num_actions; a++) {
        for (int32_t b = a + 1; b < model->num_actions; b++) {
            if (microbatch_of(model, b) < last) {
                add_implication(model, a, b, a, b + 1);
            }
            if (microbatch_of(model, a) < last) {
                add_implication(model, a + 1, b, a, b);
            }
        }
    }
}

/* Adds `weight` times "a comes before b" to a row; returns what of it is constant. */
static double add_before(struct model *model, int32_t row, int32_t a, int32_t b, double weight)
{
    const int32_t y = model->order[pair(model, a < b ? a : b, a < b ? b : a)];
    if (y == NONE) {
        return model->before[pair(model, a, b)] ? weight : 0.0;
    }
    add_entry(model, row, y, a < b ? weight : -weight);
    return a < b ? 0.0 : weight;
}

/* What is held when a forward starts, itself included. */
static void add_memory(struct model *model, int32_t forward)
{
    const struct hlm_order_problem *problem = model->problem;
    const int32_t rank = rank_of(model, forward);
    const int release = problem->splits_backward ? WEIGHT : GRADIENT;
    const int32_t row = hlm_ilp_add_row(&model->ilp, 0.0, (double)INFINITY);
    double left = (double)(problem->limits[rank] - problem->amounts[stage_of(model, forward)]);
    for (int32_t stage = 0; stage < problem->num_stages; stage++) {
        if (problem->stage_rank[stage] != rank) {
            continue;
        }
        const double amount = (double)problem->amounts[stage];
        for (int32_t i = 0; i < problem->num_microbatches; i++) {
            const int32_t taken = action_index(model, FORWARD, stage, i);
            if (taken != forward) {
                left += add_before(model, row, taken, forward, -amount);
            }
            left += add_before(model, row, action_index(model, release, stage, i), forward, amount);
        }
    }
    model->ilp.rows[row].low = -left;
}

static void write_program(struct model *model)
{
    hlm_ilp_init(&model->ilp, model->arena);
    model->unit_s = model->cutoff_s / 1000.0;
    add_starts(model);
    add_orders(model);
    add_monotone(model);
    const int32_t num_forwards = model->problem->num_stages * model->problem->num_microbatches;
    for (int32_t forward = 0; forward < num_forwards; forward++) {
        add_memory(model, forward);
    }
}

/* ---- the answer ---- */

static bool comes_first(const struct model *model, const double *values, int32_t a, int32_t b)
{
    const int32_t y = model->order[pair(model, a < b ? a : b, a < b ? b : a)];
    if (y == NONE) {
        return model->before[pair(model, a, b)];
    }
    return (values[y] > 0.5) == (a < b);
}

/* How many actions of the rank come before one: its place in the list. */
static int32_t place_of(const struct model *model, const double *values, int32_t action)
{
    int32_t place = 0;
    for (int32_t other = 0; other < model->num_actions; other++) {
        if (other != action && rank_of(model, other) == rank_of(model, action)) {
            place += comes_first(model, values, other, action);
        }
    }
    return place;
}

static const struct hlm_schedule *read_schedule(const struct model *model, const double *values)
{
    const struct hlm_order_problem *problem = model->problem;
    struct hlm_rank_actions *ranks =
        HLM_ARENA_ARRAY(model->arena, struct hlm_rank_actions, problem->num_ranks);
    struct hlm_action **lists =
        HLM_ARENA_ARRAY(model->arena, struct hlm_action *, problem->num_ranks);
    for (int32_t rank = 0; rank < problem->num_ranks; rank++) {
        lists[rank] = HLM_ARENA_ARRAY(model->arena, struct hlm_action, model->num_actions);
        ranks[rank].actions = lists[rank];
    }
    const enum hlm_action_kind kinds[NUM_ROWS] = {
        HLM_ACTION_F, problem->splits_backward ? HLM_ACTION_I : HLM_ACTION_B, HLM_ACTION_W};
    for (int32_t a = 0; a < model->num_actions; a++) {
        const int32_t rank = rank_of(model, a);
        lists[rank][place_of(model, values, a)] = (struct hlm_action){
            kinds[row_of(model, a)], stage_of(model, a), microbatch_of(model, a)};
        ranks[rank].num_actions++;
    }
    struct hlm_schedule *schedule = HLM_ARENA_NEW(model->arena, struct hlm_schedule);
    *schedule = (struct hlm_schedule){.kind = HLM_NUM_SCHEDULES,
                                      .num_ranks = problem->num_ranks,
                                      .num_stages = problem->num_stages,
                                      .num_microbatches = problem->num_microbatches,
                                      .stage_rank = problem->stage_rank,
                                      .ranks = ranks};
    return schedule;
}

static double makespan_of(struct hlm_arena *arena, const struct hlm_order_problem *problem,
                          const struct hlm_schedule *schedule)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    struct hlm_sim_result result = {0};
    struct hlm_err err;
    const enum hlm_status status =
        hlm_simulate(arena, schedule, problem->costs, NULL, false, &result, &err);
    HLM_ASSERT(status == HLM_OK);
    hlm_arena_rewind(arena, mark);
    return result.pipeline_s;
}

static void init_model(struct hlm_arena *arena, const struct hlm_order_problem *problem,
                       struct model *model)
{
    model->arena = arena;
    model->problem = problem;
    model->num_rows = problem->splits_backward ? NUM_ROWS : WEIGHT;
    model->num_actions = model->num_rows * problem->num_stages * problem->num_microbatches;
    const size_t n = (size_t)model->num_actions;
    model->seconds = HLM_ARENA_ARRAY(arena, double, n);
    model->est_s = HLM_ARENA_ARRAY(arena, double, n);
    model->tail_s = HLM_ARENA_ARRAY(arena, double, n);
    model->lag = HLM_ARENA_ARRAY(arena, double, n *n);
    model->before = HLM_ARENA_ARRAY(arena, bool, n *n);
    model->order = HLM_ARENA_ARRAY(arena, int32_t, n * n);
    add_needs(model);
}

static void take_result(const struct model *model, const struct hlm_ilp_result *result,
                        const double *values, struct hlm_schedule_optimum *out)
{
    out->num_nodes = result->num_nodes;
    if (result->outcome == HLM_ILP_PROVED || result->outcome == HLM_ILP_INCUMBENT) {
        out->schedule = read_schedule(model, values);
        out->makespan_s = makespan_of(model->arena, model->problem, out->schedule);
    }
    out->is_proved = result->outcome == HLM_ILP_PROVED || result->outcome == HLM_ILP_NO_BETTER;
    if (out->is_proved) {
        out->bound_s = out->makespan_s;
    } else if (isfinite(result->bound)) {
        out->bound_s = fmax(out->bound_s, result->bound * model->unit_s * (1.0 - STEP_FRAC));
    }
}

void hlm_schedule_glpk(struct hlm_arena *arena, const struct hlm_order_problem *problem,
                       const struct hlm_schedule *incumbent, int32_t max_nodes,
                       struct hlm_schedule_optimum *out)
{
    HLM_ASSERT(problem->costs->needs_both_sides == NULL);
    *out = (struct hlm_schedule_optimum){.schedule = incumbent,
                                         .makespan_s = makespan_of(arena, problem, incumbent),
                                         .bound_s = hlm_order_bound(problem)};
    struct model model = {.cutoff_s = out->makespan_s * (1.0 - STEP_FRAC), .bound_s = out->bound_s};
    if (out->bound_s >= model.cutoff_s) {
        out->is_proved = true;
        return;
    }
    init_model(arena, problem, &model);
    struct hlm_ilp_result result = {.outcome = HLM_ILP_NO_BETTER};
    double *values = NULL;
    if (find_orders(&model)) {
        write_program(&model);
        values = HLM_ARENA_ARRAY(arena, double, model.ilp.num_columns);
        result.outcome = HLM_ILP_PROVED; /* one order is left: tighten found it in time */
        if (model.num_open > 0) {
            result = hlm_ilp_solve(arena, &model.ilp, max_nodes, values);
        }
    }
    take_result(&model, &result, values, out);
}
