#include "compare/compare.h"

#include <math.h>
#include <string.h>

#include "costmodel/layout.h"
#include "planner/plan_rank.h"

double hlm_compare_error(double predicted, double measured)
{
    return measured == 0.0 ? (double)NAN : (predicted - measured) / measured;
}

/* ---- parts ---- */

static const struct hlm_time_node *find_part(const struct hlm_time_node *node, const char *name)
{
    for (int32_t i = 0; node != NULL && i < node->num_parts; i++) {
        if (strcmp(node->parts[i].name, name) == 0) {
            return &node->parts[i];
        }
    }
    return NULL;
}

/* The join of two nodes of one name, at most one of which is NULL: parts of the prediction in its
 * order, then those that only the measurement has. */
static struct hlm_compare_part join_parts(struct hlm_arena *arena,
                                          const struct hlm_time_node *predicted,
                                          const struct hlm_time_node *measured)
{
    const int32_t num_predicted = predicted == NULL ? 0 : predicted->num_parts;
    const int32_t num_measured = measured == NULL ? 0 : measured->num_parts;
    struct hlm_compare_part *parts =
        HLM_ARENA_ARRAY(arena, struct hlm_compare_part, num_predicted + num_measured);
    struct hlm_compare_part joined = {.name = (predicted == NULL ? measured : predicted)->name,
                                      .predicted_s = predicted == NULL ? 0.0 : predicted->seconds,
                                      .measured_s = measured == NULL ? 0.0 : measured->seconds,
                                      .parts = parts};
    if (predicted != NULL && measured != NULL && (num_predicted == 0 || num_measured == 0)) {
        return joined; /* one side takes it no further apart */
    }
    for (int32_t i = 0; i < num_predicted; i++) {
        const struct hlm_time_node *part = &predicted->parts[i];
        parts[joined.num_parts++] = join_parts(arena, part, find_part(measured, part->name));
    }
    for (int32_t i = 0; i < num_measured; i++) {
        if (find_part(predicted, measured->parts[i].name) == NULL) {
            parts[joined.num_parts++] = join_parts(arena, NULL, &measured->parts[i]);
        }
    }
    return joined;
}

/* ---- actions ---- */

static const enum hlm_action_kind compared_kinds[] = {HLM_ACTION_F,           HLM_ACTION_B,
                                                      HLM_ACTION_I,           HLM_ACTION_W,
                                                      HLM_ACTION_REDUCE_GRAD, HLM_ACTION_OPTIMIZER};
enum { NUM_COMPARED = sizeof(compared_kinds) / sizeof(compared_kinds[0]) };

/* Sum and number of durations, [stage * HLM_NUM_ACTIONS + kind]. */
struct durations {
    double *seconds;
    int32_t *num;
};

static struct durations durations_new(struct hlm_arena *arena, int32_t num_stages)
{
    return (struct durations){HLM_ARENA_ARRAY(arena, double, num_stages *HLM_NUM_ACTIONS),
                              HLM_ARENA_ARRAY(arena, int32_t, num_stages * HLM_NUM_ACTIONS)};
}

static void add_duration(struct durations *durations, struct hlm_action action, double seconds)
{
    const int32_t at = action.stage * HLM_NUM_ACTIONS + (int32_t)action.kind;
    durations->seconds[at] += seconds;
    durations->num[at]++;
}

static double mean_duration(const struct durations *durations, int32_t at)
{
    return durations->num[at] == 0 ? 0.0 : durations->seconds[at] / durations->num[at];
}

/* An event of a timeline; what a pair took goes to its two actions in the ratio of their costs. */
static void add_pair(struct durations *durations, const struct hlm_plan_simulation *simulation,
                     struct hlm_action forward, struct hlm_action backward, double seconds)
{
    const double forward_s = hlm_plan_pass(simulation, forward)->seconds;
    const double backward_s = hlm_plan_pass(simulation, backward)->seconds;
    const double share = forward_s / (forward_s + backward_s);
    add_duration(durations, forward, share * seconds);
    add_duration(durations, backward, (1.0 - share) * seconds);
}

static enum hlm_status add_event(const struct hlm_timeline_event *event,
                                 const struct hlm_plan_simulation *simulation, const char *where,
                                 struct durations *durations, struct hlm_err *err)
{
    const int32_t num_stages = simulation->schedule->num_stages;
    struct hlm_action action, second = {.stage = 0};
    const bool is_pair = hlm_action_parse_pair(event->action, &action, &second);
    HLM_TRY(is_pair ? HLM_OK : hlm_action_parse(event->action, &action, err));
    if (action.stage >= num_stages || second.stage >= num_stages) {
        return hlm_fail(err, HLM_INPUT,
                        "%s.action: expected one of the plan's %d stages, found \"%s\"", where,
                        num_stages, event->action);
    }
    const double seconds = event->end_s - event->start_s;
    if (is_pair) {
        add_pair(durations, simulation, action, second, seconds);
    } else {
        add_duration(durations, action, seconds);
    }
    return HLM_OK;
}

/* Whether the simulation, of the slowest replicas where they are not alike, is about the rank. A
 * timeline in virtual time is that of one replica. */
static bool is_simulated(const struct hlm_plan *plan, const struct hlm_plan_simulation *simulation,
                         const struct hlm_timeline *timeline, int32_t rank)
{
    if (simulation->seen_replicas == 0 || timeline->num_ranks != plan->num_ranks ||
        rank >= plan->num_ranks) {
        return true;
    }
    const int32_t dp = hlm_layout_coords(&plan->strategy, rank).dp;
    return hlm_strategy_of_replica(&plan->strategy, dp, NULL).seen_replicas ==
           simulation->seen_replicas;
}

static enum hlm_status add_measured(struct hlm_arena *arena, const struct hlm_plan *plan,
                                    const struct hlm_timeline *timeline,
                                    const struct hlm_plan_simulation *simulation, const char *where,
                                    struct durations *durations, struct hlm_err *err)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    for (int32_t r = 0; r < timeline->num_ranks; r++) {
        const struct hlm_timeline_rank *rank = &timeline->ranks[r];
        const bool counts = is_simulated(plan, simulation, timeline, rank->rank);
        for (int32_t i = 0; counts && i < rank->num_events; i++) {
            const char *path =
                hlm_arena_printf(arena, "%s: $.timeline.ranks[%d].events[%d]", where, r, i);
            HLM_TRY(add_event(&rank->events[i], simulation, path, durations, err));
            hlm_arena_rewind(arena, mark);
        }
    }
    return HLM_OK;
}

static void add_predicted(const struct hlm_plan_simulation *simulation, struct durations *durations)
{
    for (int32_t r = 0; r < simulation->schedule->num_ranks; r++) {
        const struct hlm_sim_rank *rank = &simulation->result.ranks[r];
        for (int32_t i = 0; i < rank->num_events; i++) {
            const struct hlm_sim_event *event = &rank->events[i];
            const double seconds = event->end_s - event->start_s;
            if (event->overlapped.kind != HLM_NUM_ACTIONS) {
                add_pair(durations, simulation, event->action, event->overlapped, seconds);
            } else {
                add_duration(durations, event->action, seconds);
            }
        }
    }
}

/* ---- actions of an emulated rank: what they compute ---- */

static int32_t pipeline_rank(const struct hlm_plan *plan, int32_t rank)
{
    return hlm_layout_coords(&plan->strategy, rank).pp;
}

static void add_promised(struct hlm_arena *arena, const struct hlm_plan_simulation *simulation,
                         int32_t pp, struct durations *durations)
{
    const struct hlm_schedule *schedule = simulation->schedule;
    const struct hlm_rank_actions list = hlm_plan_measured_actions(arena, schedule, pp);
    double update_s = 0.0;
    for (int32_t stage = 0; stage < schedule->num_stages; stage++) {
        const struct hlm_stage_cost *cost = &simulation->stages[stage];
        update_s += schedule->stage_rank[stage] == pp ? cost->optimizer_s - cost->gather_s : 0.0;
    }
    for (int32_t i = 0; i < list.num_actions; i++) {
        const struct hlm_action action = list.actions[i];
        if (hlm_action_is_compute(action.kind)) {
            const struct hlm_pass_cost *pass = hlm_plan_pass(simulation, action);
            add_duration(durations, action, pass->seconds - hlm_plan_pass_comm_s(pass));
        } else if (action.kind == HLM_ACTION_OPTIMIZER) {
            add_duration(durations, action, update_s);
        }
    }
}

static enum hlm_status add_computed(const struct hlm_measurement *measurement,
                                    const struct hlm_schedule *schedule, int32_t pp,
                                    const char *where, struct durations *durations,
                                    struct hlm_err *err)
{
    for (int32_t i = 0; i < measurement->num_actions; i++) {
        const struct hlm_measured_action *row = &measurement->actions[i];
        if (row->stage >= schedule->num_stages || schedule->stage_rank[row->stage] != pp) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: $.actions[%d].stage: expected one of rank %d, found %d", where, i,
                            measurement->emulated_rank, row->stage);
        }
        if (row->kind != HLM_ACTION_REDUCE_GRAD) {
            const int32_t at = row->stage * HLM_NUM_ACTIONS + (int32_t)row->kind;
            durations->seconds[at] += row->num * row->compute_s;
            durations->num[at] += row->num;
        }
    }
    return HLM_OK;
}

static enum hlm_status join_actions(struct hlm_arena *arena, const struct hlm_plan *plan,
                                    const struct hlm_measurement *measurement, const char *where,
                                    struct hlm_comparison *comparison, struct hlm_err *err)
{
    struct hlm_plan_simulation simulation;
    HLM_TRY(hlm_plan_simulate(arena, plan, &simulation, err));
    const int32_t num_stages = plan->num_stages;
    struct durations predicted = durations_new(arena, num_stages);
    struct durations measured = durations_new(arena, num_stages);
    if (measurement->emulated_rank >= 0) {
        const int32_t pp = pipeline_rank(plan, measurement->emulated_rank);
        add_promised(arena, &simulation, pp, &predicted);
        HLM_TRY(add_computed(measurement, simulation.schedule, pp, where, &measured, err));
    } else {
        add_predicted(&simulation, &predicted);
        HLM_TRY(
            add_measured(arena, plan, &measurement->timeline, &simulation, where, &measured, err));
    }
    struct hlm_compare_action *actions =
        HLM_ARENA_ARRAY(arena, struct hlm_compare_action, num_stages * NUM_COMPARED);
    comparison->actions = actions;
    comparison->num_actions = 0;
    for (int32_t stage = 0; stage < num_stages; stage++) {
        for (int32_t i = 0; i < NUM_COMPARED; i++) {
            const int32_t at = stage * HLM_NUM_ACTIONS + (int32_t)compared_kinds[i];
            if (predicted.num[at] > 0 || measured.num[at] > 0) {
                actions[comparison->num_actions++] =
                    (struct hlm_compare_action){.stage = stage,
                                                .kind = compared_kinds[i],
                                                .num_measured = measured.num[at],
                                                .predicted_s = mean_duration(&predicted, at),
                                                .measured_s = mean_duration(&measured, at)};
            }
        }
    }
    return HLM_OK;
}

/* ---- memory ---- */

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Of the replicas whose memory begins at `memory`; where several are not alike, the most of any. */
static void promise_replicas(const struct hlm_plan *plan, const struct hlm_stage_memory *memory,
                             struct hlm_compare_memory *rows)
{
    for (int32_t pp = 0; pp < plan->strategy.pp; pp++) {
        int64_t bytes = 0, fixed_bytes = 0;
        for (int32_t s = 0; s < plan->num_stages; s++) {
            const bool own = plan->stages[s].rank_group == pp;
            bytes += own ? memory[s].peak_bytes : 0;
            fixed_bytes += own ? memory[s].bytes[HLM_MEMORY_FIXED] : 0;
        }
        struct hlm_compare_memory *row = &rows[pp];
        row->predicted_bytes = larger(row->predicted_bytes, bytes - fixed_bytes);
        row->device_predicted_bytes = larger(row->device_predicted_bytes, bytes);
    }
}

/* Rows by pipeline rank, each named by its first stage, which has the same number; others of its
 * stages add to it. */
static int32_t promise_memory(const struct hlm_plan *plan, struct hlm_compare_memory *rows)
{
    for (int32_t pp = 0; pp < plan->strategy.pp; pp++) {
        rows[pp] = (struct hlm_compare_memory){.stage = pp};
    }
    for (int32_t at = 0; at < plan->prediction.num_memory; at += plan->num_stages) {
        promise_replicas(plan, plan->prediction.memory + at, rows);
    }
    return plan->strategy.pp;
}

static enum hlm_status join_memory(struct hlm_arena *arena, const struct hlm_plan *plan,
                                   const struct hlm_measurement *measurement, const char *where,
                                   struct hlm_comparison *comparison, struct hlm_err *err)
{
    struct hlm_compare_memory *rows =
        HLM_ARENA_ARRAY(arena, struct hlm_compare_memory, plan->prediction.num_memory);
    comparison->num_memory = promise_memory(plan, rows);
    for (int32_t i = 0; i < measurement->num_memory; i++) {
        const struct hlm_measured_memory *rank = &measurement->memory[i];
        if (rank->stage >= comparison->num_memory) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: $.memory[%d].stage: expected the first of one of the plan's %d "
                            "pipeline ranks, found %d",
                            where, i, comparison->num_memory, rank->stage);
        }
        struct hlm_compare_memory *row = &rows[rank->stage];
        row->measured_bytes = larger(rank->peak_bytes, row->measured_bytes);
        row->device_used_bytes = larger(rank->device_used_bytes, row->device_used_bytes);
    }
    if (measurement->emulated_rank >= 0) {
        comparison->num_memory = 1;
        rows = &rows[pipeline_rank(plan, measurement->emulated_rank)];
    }
    comparison->memory = rows;
    return HLM_OK;
}

/* ---- the whole ---- */

enum hlm_status hlm_compare_promise(struct hlm_arena *arena, const struct hlm_plan *plan,
                                    const struct hlm_measurement *measurement, const char *where,
                                    struct hlm_time_node *out, struct hlm_err *err)
{
    const int32_t rank = measurement->emulated_rank;
    if (rank < 0) {
        *out = plan->prediction.parts;
        out->seconds = plan->prediction.step_time_s;
        return HLM_OK;
    }
    if (rank >= plan->num_ranks) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.emulated_rank: expected one of the plan's %d ranks, found %d", where,
                        plan->num_ranks, rank);
    }
    struct hlm_plan_simulation simulation;
    HLM_TRY(hlm_plan_simulate(arena, plan, &simulation, err));
    const int32_t pp = pipeline_rank(plan, rank);
    *out = hlm_plan_rank_parts(arena, &simulation, &simulation.result, pp, NULL,
                               hlm_plan_rank_end_s(&simulation.result, pp));
    return HLM_OK;
}

double hlm_compare_computed_s(const struct hlm_time_node *step)
{
    static const char *const names[] = {"forward", "backward", "optimizer"};
    double seconds = 0.0;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const struct hlm_time_node *part = find_part(step, names[i]);
        seconds += part != NULL ? part->seconds : 0.0;
    }
    return seconds;
}

enum hlm_status hlm_compare(struct hlm_arena *arena, const struct hlm_plan *plan,
                            const struct hlm_measurement *measurement, const char *where,
                            double tolerance_frac, struct hlm_comparison *out, struct hlm_err *err)
{
    HLM_ASSERT(tolerance_frac >= 0.0);
    if (!(measurement->step_time_s > 0.0)) {
        return hlm_fail(err, HLM_INPUT, "%s: $.step_time_s: expected more than 0, found %g", where,
                        measurement->step_time_s);
    }
    struct hlm_time_node promise;
    HLM_TRY(hlm_compare_promise(arena, plan, measurement, where, &promise, err));
    struct hlm_comparison comparison = {
        .predicted_s = promise.seconds,
        .measured_s = measurement->step_time_s,
        .error_frac = hlm_compare_error(promise.seconds, measurement->step_time_s),
        .tolerance_frac = tolerance_frac,
        .virtual_time = measurement->virtual_time,
        .emulated_rank = measurement->emulated_rank,
        .compute_predicted_s = hlm_compare_computed_s(&promise),
        .compute_measured_s = hlm_compare_computed_s(&measurement->parts),
        .num_clean_steps = measurement->num_clean_steps,
        .parts = join_parts(arena, &promise, &measurement->parts)};
    const double compute_error =
        hlm_compare_error(comparison.compute_predicted_s, comparison.compute_measured_s);
    comparison.within = fabs(comparison.error_frac) <= tolerance_frac &&
                        (comparison.emulated_rank < 0 || fabs(compute_error) <= tolerance_frac);
    HLM_TRY(join_actions(arena, plan, measurement, where, &comparison, err));
    HLM_TRY(join_memory(arena, plan, measurement, where, &comparison, err));
    *out = comparison;
    return HLM_OK;
}
