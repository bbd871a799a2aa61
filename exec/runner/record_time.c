/* Where the time of the recorded step went: its tree of parts and its timeline. */
#include <math.h>

#include "exec/runner/record_internal.h"

/* --- from the wall clock --- */

enum { FORWARD, BACKWARD, TENSOR, EXPERT, PIPELINE, DATA, OPTIMIZER, NUM_PARTS };

static struct hlm_time_node make_tree(struct hlm_arena *arena, const double seconds[NUM_PARTS])
{
    static const char *const names[NUM_PARTS] = {
        [FORWARD] = "forward",        [BACKWARD] = "backward", [TENSOR] = "tensor_parallel",
        [EXPERT] = "expert_parallel", [PIPELINE] = "pipeline", [DATA] = "data_parallel",
        [OPTIMIZER] = "optimizer"};
    struct hlm_time_node *parts = HLM_ARENA_ARRAY(arena, struct hlm_time_node, NUM_PARTS);
    struct hlm_time_node node = {.name = "step", .parts = parts};
    for (int32_t i = 0; i < NUM_PARTS; i++) {
        if (seconds[i] != 0.0) {
            parts[node.num_parts++] =
                (struct hlm_time_node){.name = names[i], .seconds = seconds[i]};
            node.seconds += seconds[i];
        }
    }
    return node;
}

static double last_pass_end_s(const struct hlm_rank_actions *list,
                              const struct hlm_record_sample *samples)
{
    double end_s = 0.0;
    for (int32_t i = 0; i < list->num_actions; i++) {
        end_s = hlm_action_is_compute(list->actions[i].kind) ? samples[i].end_s : end_s;
    }
    return end_s;
}

/* One rank's step: what its actions computed, and where the rest went. A reduction between passes
 * (of a stage that is done before others of the rank) is data parallel, not pipeline. */
static struct hlm_time_node wall_parts(const struct hlm_record_step *step, int32_t rank)
{
    const struct hlm_record_sample *samples = hlm_record_samples(step, rank);
    const struct hlm_rank_actions *list = hlm_record_actions(step, rank);
    const double passes_end_s = last_pass_end_s(list, samples);
    double seconds[NUM_PARTS] = {0.0}, between_s = 0.0;
    for (int32_t i = 0; i < list->num_actions; i++) {
        const struct hlm_record_sample *sample = &samples[i];
        const enum hlm_action_kind kind = list->actions[i].kind;
        if (hlm_action_is_compute(kind)) {
            seconds[kind == HLM_ACTION_F ? FORWARD : BACKWARD] += sample->compute_wall_s;
            seconds[TENSOR] += sample->group_comm_s - sample->expert_comm_s;
            seconds[EXPERT] += sample->expert_comm_s;
        } else if (kind == HLM_ACTION_REDUCE_GRAD && sample->start_s < passes_end_s) {
            between_s += sample->end_s - sample->start_s;
        } else if (kind == HLM_ACTION_OPTIMIZER) {
            seconds[DATA] = between_s + sample->start_s - passes_end_s + sample->message_s;
            seconds[OPTIMIZER] = step->wall_s - sample->start_s - sample->message_s;
        }
    }
    seconds[PIPELINE] = passes_end_s - seconds[FORWARD] - seconds[BACKWARD] - seconds[TENSOR] -
                        seconds[EXPERT] - between_s;
    return make_tree(step->arena, seconds);
}

static struct hlm_timeline_rank wall_events(const struct hlm_record_step *step, int32_t rank)
{
    const struct hlm_record_sample *samples = hlm_record_samples(step, rank);
    const struct hlm_rank_actions *list = hlm_record_actions(step, rank);
    struct hlm_timeline_event *events =
        HLM_ARENA_ARRAY(step->arena, struct hlm_timeline_event, list->num_actions);
    for (int32_t i = 0; i < list->num_actions; i++) {
        char text[32];
        hlm_action_format(list->actions[i], text);
        events[i] = (struct hlm_timeline_event){.action = hlm_arena_strdup(step->arena, text),
                                                .start_s = samples[i].start_s,
                                                .end_s = samples[i].end_s,
                                                .cpu_s = samples[i].compute_cpu_s};
    }
    return (struct hlm_timeline_rank){
        .rank = rank, .events = events, .num_events = list->num_actions};
}

static struct hlm_timeline wall_timeline(const struct hlm_record_step *step,
                                         const struct hlm_measurement *measurement)
{
    const bool alone = step->emulated_rank >= 0;
    const int32_t num = alone ? 1 : measurement->num_ranks;
    struct hlm_timeline_rank *ranks = HLM_ARENA_ARRAY(step->arena, struct hlm_timeline_rank, num);
    for (int32_t i = 0; i < num; i++) {
        ranks[i] = wall_events(step, alone ? step->emulated_rank : i);
    }
    return (struct hlm_timeline){
        .source = "measured", .step_s = measurement->step_time_s, .ranks = ranks, .num_ranks = num};
}

/* --- actions of an emulated rank --- */

static double compute_s(const struct hlm_record_sample *sample, bool cpu_time)
{
    return cpu_time ? sample->compute_cpu_s : sample->compute_wall_s;
}

static struct hlm_measured_action *find_row(struct hlm_measured_action *rows, int32_t *num,
                                            struct hlm_action action)
{
    for (int32_t i = 0; i < *num; i++) {
        if (rows[i].kind == action.kind && rows[i].stage == action.stage) {
            return &rows[i];
        }
    }
    rows[*num] = (struct hlm_measured_action){.stage = action.stage, .kind = action.kind};
    return &rows[(*num)++];
}

static void fill_actions(const struct hlm_record_step *step, bool cpu_time,
                         struct hlm_measurement *out)
{
    if (step->emulated_rank < 0) {
        return;
    }
    const struct hlm_record_sample *samples = hlm_record_samples(step, step->emulated_rank);
    const struct hlm_rank_actions *list = hlm_record_actions(step, step->emulated_rank);
    struct hlm_measured_action *rows =
        HLM_ARENA_ARRAY(step->arena, struct hlm_measured_action, list->num_actions);
    for (int32_t i = 0; i < list->num_actions; i++) {
        struct hlm_measured_action *row = find_row(rows, &out->num_actions, list->actions[i]);
        row->num++;
        row->compute_s += compute_s(&samples[i], cpu_time);
        row->comm_s += samples[i].group_comm_s + samples[i].message_s;
    }
    for (int32_t i = 0; i < out->num_actions; i++) {
        rows[i].compute_s /= rows[i].num;
        rows[i].comm_s /= rows[i].num;
    }
    out->actions = rows;
}

enum hlm_status hlm_record_wall(const struct hlm_record_step *step, struct hlm_measurement *out,
                                struct hlm_err *err)
{
    struct hlm_plan_simulation simulation;
    int32_t rank = step->emulated_rank;
    if (rank < 0) {
        HLM_TRY(hlm_plan_simulate(step->arena, step->record->plan, &simulation, err));
        struct hlm_coords coords = {.pp = hlm_plan_critical_rank(&simulation)};
        for (int32_t i = 0; i + 1 < simulation.seen_replicas; i++) {
            coords.dp += step->record->plan->strategy.replicas[i].dp;
        }
        rank = hlm_layout_rank(&step->record->plan->strategy, coords);
    }
    out->parts = wall_parts(step, rank);
    out->timeline = wall_timeline(step, out);
    fill_actions(step, false, out);
    return HLM_OK;
}

/* --- by walking the schedule --- */

struct walk {
    const struct hlm_record_step *step;
    const struct hlm_plan_simulation *simulation;
    bool cpu_time;
    int32_t dp; /* the replica */
};

static int32_t first_stage(const struct walk *walk, int32_t pp)
{
    return hlm_schedule_first_stage(walk->simulation->schedule, pp);
}

static bool has_run(const struct walk *walk, int32_t pp)
{
    const int32_t rank = walk->step->emulated_rank;
    return rank < 0 || hlm_layout_coords(&walk->step->record->plan->strategy, rank).pp == pp;
}

/* What an action computed: mean over the tp ranks that ran. */
static double measured_s(const struct walk *walk, int32_t pp, int32_t event)
{
    const struct hlm_plan *plan = walk->step->record->plan;
    if (walk->step->emulated_rank >= 0) {
        return compute_s(&hlm_record_samples(walk->step, walk->step->emulated_rank)[event],
                         walk->cpu_time);
    }
    const int32_t num = plan->stages[first_stage(walk, pp)].tp;
    double seconds = 0.0;
    for (int32_t tp = 0; tp < num; tp++) {
        const struct hlm_coords coords = {.dp = walk->dp, .tp = tp, .pp = pp};
        const int32_t rank = hlm_layout_rank(&plan->strategy, coords);
        seconds += compute_s(&hlm_record_samples(walk->step, rank)[event], walk->cpu_time);
    }
    return seconds / num;
}

/* Seconds that each F, B, I and W of a pipeline rank computed; NULL: it did not run. */
static const double *pass_seconds(const struct walk *walk, int32_t pp)
{
    const struct hlm_rank_actions *list = hlm_record_list(walk->step->record, walk->dp, pp);
    if (!has_run(walk, pp)) {
        return NULL;
    }
    double *seconds = HLM_ARENA_ARRAY(walk->step->arena, double, list->num_actions);
    int32_t num = 0;
    for (int32_t i = 0; i < list->num_actions; i++) {
        if (hlm_action_is_compute(list->actions[i].kind)) {
            seconds[num++] = measured_s(walk, pp, i);
        }
    }
    return seconds;
}

/* Durations as the simulator takes them: with the plan's communication, a pair as one. */
static const double *durations(const struct walk *walk, int32_t pp, const double *passes_s)
{
    const struct hlm_rank_actions *list = &walk->simulation->schedule->ranks[pp];
    double *seconds = HLM_ARENA_ARRAY(walk->step->arena, double, list->num_actions);
    int32_t num = 0, pass = 0, left_of_pair = 0;
    for (int32_t i = 0; i < list->num_actions; i++) {
        const struct hlm_action action = list->actions[i];
        if (action.kind == HLM_ACTION_OVERLAP_F_B) {
            left_of_pair = 2;
        } else if (hlm_action_is_compute(action.kind)) {
            const struct hlm_pass_cost *cost = hlm_plan_pass(walk->simulation, action);
            seconds[num] +=
                passes_s != NULL ? passes_s[pass] + hlm_plan_pass_comm_s(cost) : cost->seconds;
            pass++;
            left_of_pair -= left_of_pair > 0;
            num += left_of_pair == 0;
        }
    }
    return seconds;
}

/* A rank that ran: what its optimizer computed, with the plan's gather of parameters, all of it
 * with its first stage. */
static void set_optimizer(const struct walk *walk, int32_t pp, double *optimizer_s)
{
    const struct hlm_schedule *schedule = walk->simulation->schedule;
    const int32_t last = hlm_record_list(walk->step->record, walk->dp, pp)->num_actions - 1;
    double seconds = measured_s(walk, pp, last);
    for (int32_t stage = 0; stage < schedule->num_stages; stage++) {
        if (schedule->stage_rank[stage] == pp) {
            seconds += walk->simulation->stages[stage].gather_s;
            optimizer_s[stage] = 0.0;
        }
    }
    optimizer_s[first_stage(walk, pp)] = seconds;
}

/* [num]: 0, then all values but the last. */
static const double *shifted(struct hlm_arena *arena, const double *values, int32_t num)
{
    double *out = HLM_ARENA_ARRAY(arena, double, num);
    for (int32_t i = 1; i < num; i++) {
        out[i] = values[i - 1];
    }
    return out;
}

/* The replica's step. compute [pp]: pass_seconds. */
static enum hlm_status walk_replica(const struct walk *walk, const double **compute,
                                    struct hlm_sim_result *out, struct hlm_err *err)
{
    struct hlm_arena *arena = walk->step->arena;
    const struct hlm_schedule *schedule = walk->simulation->schedule;
    struct hlm_sim_costs costs = walk->simulation->costs;
    double *optimizer_s = hlm_arena_memdup(arena, costs.optimizer_s,
                                           (size_t)schedule->num_stages * sizeof(*optimizer_s));
    const double **action_s = HLM_ARENA_ARRAY(arena, const double *, schedule->num_ranks);
    for (int32_t pp = 0; pp < schedule->num_ranks; pp++) {
        compute[pp] = pass_seconds(walk, pp);
        action_s[pp] = durations(walk, pp, compute[pp]);
        if (has_run(walk, pp)) {
            set_optimizer(walk, pp, optimizer_s);
        }
    }
    if (walk->step->message_s != NULL) {
        costs.send_forward_s = walk->step->message_s + walk->dp * schedule->num_stages;
        /* A stage's gradients go to the one before. */
        costs.send_backward_s = shifted(arena, costs.send_forward_s, schedule->num_stages);
    }
    costs.action_s = action_s;
    costs.optimizer_s = optimizer_s;
    return hlm_simulate(arena, schedule, &costs, NULL, true, out, err);
}

/* The timeline of the walk; of an emulated rank that rank alone. */
static struct hlm_timeline walked_timeline(const struct walk *walk,
                                           const struct hlm_sim_result *result, int32_t pp)
{
    struct hlm_arena *arena = walk->step->arena;
    struct hlm_timeline timeline =
        *hlm_timeline_from_simulation(arena, walk->simulation->schedule, result);
    timeline.source = "virtual";
    if (walk->step->emulated_rank >= 0) {
        struct hlm_timeline_rank *own =
            hlm_arena_memdup(arena, &timeline.ranks[pp], sizeof(timeline.ranks[pp]));
        own->rank = walk->step->emulated_rank;
        timeline.ranks = own;
        timeline.num_ranks = 1;
    }
    return timeline;
}

/* The replica's step and, where it is the longest so far, what is told of it. */
static enum hlm_status take_replica(const struct walk *walk, struct hlm_measurement *out,
                                    struct hlm_err *err)
{
    const struct hlm_record_step *step = walk->step;
    const int32_t num_ranks = walk->simulation->schedule->num_ranks;
    const double **compute = HLM_ARENA_ARRAY(step->arena, const double *, num_ranks);
    const bool alone = step->emulated_rank >= 0;
    const int32_t pp =
        alone ? hlm_layout_coords(&step->record->plan->strategy, step->emulated_rank).pp
              : hlm_plan_critical_rank(walk->simulation);
    struct hlm_sim_result result;
    HLM_TRY(walk_replica(walk, compute, &result, err));
    const double end_s = alone ? hlm_plan_rank_end_s(&result, pp) : result.step_s;
    if (end_s > out->step_time_s) {
        out->step_time_s = end_s;
        out->parts =
            hlm_plan_rank_parts(step->arena, walk->simulation, &result, pp, compute[pp], end_s);
        out->timeline = walked_timeline(walk, &result, pp);
    }
    return HLM_OK;
}

enum hlm_status hlm_record_walk(const struct hlm_record_step *step, bool cpu_time,
                                struct hlm_measurement *out, struct hlm_err *err)
{
    const struct hlm_strategy *strategy = &step->record->plan->strategy;
    const bool alone = step->emulated_rank >= 0;
    const int32_t first = alone ? hlm_layout_coords(strategy, step->emulated_rank).dp : 0;
    const int32_t last = alone ? first : strategy->dp - 1;
    struct hlm_plan_simulation simulation;
    struct walk walk = {step, &simulation, cpu_time, first};
    out->step_time_s = 0.0;
    /* The slowest replica is the step. */
    for (; walk.dp <= last; walk.dp++) {
        if (walk.dp == first || strategy->num_replicas > 0) {
            HLM_TRY(hlm_plan_simulate_replica(step->arena, step->record->plan, walk.dp, &simulation,
                                              err));
        }
        HLM_TRY(take_replica(&walk, out, err));
    }
    out->timeline.step_s = out->step_time_s;
    fill_actions(step, cpu_time, out);
    return HLM_OK;
}
