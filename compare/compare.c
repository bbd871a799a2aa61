#include "compare/compare.h"

#include <math.h>
#include <string.h>

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

static enum hlm_status add_measured(const struct hlm_timeline *timeline, int32_t num_stages,
                                    const char *where, struct durations *durations,
                                    struct hlm_err *err)
{
    for (int32_t r = 0; r < timeline->num_ranks; r++) {
        const struct hlm_timeline_rank *rank = &timeline->ranks[r];
        for (int32_t i = 0; i < rank->num_events; i++) {
            struct hlm_action action;
            HLM_TRY(hlm_action_parse(rank->events[i].action, &action, err));
            if (action.stage >= num_stages) {
                return hlm_fail(err, HLM_INPUT,
                                "%s: $.timeline.ranks[%d].events[%d].action: expected one of the "
                                "plan's %d stages, found \"%s\"",
                                where, r, i, num_stages, rank->events[i].action);
            }
            add_duration(durations, action, rank->events[i].end_s - rank->events[i].start_s);
        }
    }
    return HLM_OK;
}

static enum hlm_status add_predicted(struct hlm_arena *arena, const struct hlm_plan *plan,
                                     struct durations *durations, struct hlm_err *err)
{
    struct hlm_plan_simulation simulation;
    HLM_TRY(hlm_plan_simulate(arena, plan, &simulation, err));
    for (int32_t r = 0; r < simulation.schedule->num_ranks; r++) {
        const struct hlm_sim_rank *rank = &simulation.result.ranks[r];
        for (int32_t i = 0; i < rank->num_events; i++) {
            add_duration(durations, rank->events[i].action,
                         rank->events[i].end_s - rank->events[i].start_s);
        }
    }
    return HLM_OK;
}

static enum hlm_status join_actions(struct hlm_arena *arena, const struct hlm_plan *plan,
                                    const struct hlm_measurement *measurement, const char *where,
                                    struct hlm_comparison *comparison, struct hlm_err *err)
{
    const int32_t num_stages = plan->num_stages;
    struct durations predicted = durations_new(arena, num_stages);
    struct durations measured = durations_new(arena, num_stages);
    HLM_TRY(add_predicted(arena, plan, &predicted, err));
    HLM_TRY(add_measured(&measurement->timeline, num_stages, where, &measured, err));
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

static enum hlm_status join_memory(struct hlm_arena *arena, const struct hlm_plan *plan,
                                   const struct hlm_measurement *measurement, const char *where,
                                   struct hlm_comparison *comparison, struct hlm_err *err)
{
    const struct hlm_plan_prediction *prediction = &plan->prediction;
    struct hlm_compare_memory *memory =
        HLM_ARENA_ARRAY(arena, struct hlm_compare_memory, prediction->num_memory);
    for (int32_t i = 0; i < prediction->num_memory; i++) {
        const struct hlm_stage_memory *stage = &prediction->memory[i];
        memory[i] = (struct hlm_compare_memory){.stage = stage->stage,
                                                .predicted_bytes = stage->peak_bytes -
                                                                   stage->bytes[HLM_MEMORY_FIXED]};
    }
    for (int32_t i = 0; i < measurement->num_memory; i++) {
        const struct hlm_measured_memory *rank = &measurement->memory[i];
        if (rank->stage >= prediction->num_memory) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: $.memory[%d].stage: expected one of the plan's %d stages, found "
                            "%d",
                            where, i, prediction->num_memory, rank->stage);
        }
        struct hlm_compare_memory *row = &memory[rank->stage];
        if (rank->peak_bytes > row->measured_bytes) {
            row->measured_bytes = rank->peak_bytes;
        }
    }
    comparison->memory = memory;
    comparison->num_memory = prediction->num_memory;
    return HLM_OK;
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
    struct hlm_comparison comparison = {
        .predicted_s = plan->prediction.step_time_s,
        .measured_s = measurement->step_time_s,
        .error_frac = hlm_compare_error(plan->prediction.step_time_s, measurement->step_time_s),
        .tolerance_frac = tolerance_frac,
        .virtual_time = measurement->virtual_time,
        .num_clean_steps = measurement->num_clean_steps,
        .parts = join_parts(arena, &plan->prediction.parts, &measurement->parts)};
    comparison.within = fabs(comparison.error_frac) <= tolerance_frac;
    HLM_TRY(join_actions(arena, plan, measurement, where, &comparison, err));
    HLM_TRY(join_memory(arena, plan, measurement, where, &comparison, err));
    *out = comparison;
    return HLM_OK;
}
