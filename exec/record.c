#include "exec/record.h"

#include <math.h>
#include <string.h>

#include "exec/machine.h"

/* One action of one step as it travels between ranks; the order of actions follows from the plan.
 */
struct sample {
    double start_s, end_s, compute_wall_s, compute_cpu_s, group_comm_s, message_s;
};

struct hlm_record {
    const struct hlm_plan *plan;
    int32_t num_steps, num_warmup_steps, num_added;
    int32_t num_events; /* per step, on every rank */
    struct hlm_measured_step *steps;
    struct sample *samples;     /* [num_steps][num_events] */
    struct hlm_action *actions; /* [num_events] */
};

struct hlm_record *hlm_record_new(struct hlm_arena *arena, const struct hlm_plan *plan,
                                  int32_t num_steps, int32_t num_warmup_steps)
{
    struct hlm_record *record = HLM_ARENA_NEW(arena, struct hlm_record);
    /* Equal on all ranks: one forward and one backward a microbatch, reduction, optimizer. */
    const int32_t num_events = 2 * (int32_t)plan->strategy.num_microbatches + 2;
    *record = (struct hlm_record){
        .plan = plan,
        .num_steps = num_steps,
        .num_warmup_steps = num_warmup_steps,
        .num_events = num_events,
        .steps = HLM_ARENA_ARRAY(arena, struct hlm_measured_step, num_steps),
        .samples = HLM_ARENA_ARRAY(arena, struct sample, (int64_t)num_steps * num_events),
        .actions = HLM_ARENA_ARRAY(arena, struct hlm_action, num_events)};
    return record;
}

void hlm_record_add(struct hlm_record *record, const struct hlm_run_step *step)
{
    HLM_ASSERT(record->num_added < record->num_steps && step->num_events == record->num_events);
    record->steps[record->num_added] =
        (struct hlm_measured_step){.step = record->num_added,
                                   .wall_s = step->wall_s,
                                   .loss = step->loss,
                                   .grad_norm = step->grad_norm,
                                   .availability_frac = step->availability_frac};
    struct sample *samples = &record->samples[(int64_t)record->num_added * record->num_events];
    for (int32_t i = 0; i < step->num_events; i++) {
        const struct hlm_run_event *event = &step->events[i];
        samples[i] =
            (struct sample){event->start_s,       event->end_s,        event->compute_wall_s,
                            event->compute_cpu_s, event->group_comm_s, event->message_s};
        record->actions[i] = event->action;
    }
    record->num_added++;
}

/* --- agreement between ranks --- */

/* Least availability and longest wall clock of each step over all ranks. */
static enum hlm_status agree_on_steps(struct hlm_arena *arena, struct hlm_record *record,
                                      struct hlm_comm *comm, struct hlm_err *err)
{
    const int32_t n = record->num_added;
    double *values = HLM_ARENA_ARRAY(arena, double, 2 * n);
    for (int32_t i = 0; i < n; i++) {
        values[i] = -record->steps[i].availability_frac;
        values[n + i] = record->steps[i].wall_s;
    }
    HLM_TRY(comm->ops->all_reduce(comm, HLM_GROUP_WORLD, values, 2 * n, HLM_WIRE_F64,
                                  HLM_REDUCE_MAX, err));
    for (int32_t i = 0; i < n; i++) {
        record->steps[i].availability_frac = fmin(1.0, -values[i]);
        record->steps[i].wall_s = values[n + i];
    }
    return HLM_OK;
}

/* The step nearest to the median, a clean one where there is any. */
static int32_t representative_step(const struct hlm_record *record, bool virtual_time,
                                   double step_time_s, int32_t num_clean)
{
    int32_t best = record->num_warmup_steps;
    double best_distance = INFINITY;
    for (int32_t i = record->num_warmup_steps; i < record->num_added; i++) {
        const bool counts =
            num_clean == 0 ||
            hlm_measurement_is_clean(&record->steps[i], record->num_warmup_steps, virtual_time);
        const double distance = fabs(record->steps[i].wall_s - step_time_s);
        if (counts && distance < best_distance) {
            best = i;
            best_distance = distance;
        }
    }
    return best;
}

/* The least CPU time of each action over the steps behind the warm-up. */
static void least_cpu_times(const struct hlm_record *record, struct sample *out)
{
    for (int32_t e = 0; e < record->num_events; e++) {
        for (int32_t i = record->num_warmup_steps; i < record->num_added; i++) {
            const struct sample *sample = &record->samples[(int64_t)i * record->num_events + e];
            out[e].compute_cpu_s = fmin(out[e].compute_cpu_s, sample->compute_cpu_s);
        }
    }
}

/* What every rank has to say, in rank order. */
struct gathered {
    const struct sample *samples;     /* [world][num_events] */
    const struct hlm_action *actions; /* [world][num_events] */
    const int64_t *peak_bytes;        /* [world] */
};

static enum hlm_status gather_bytes(struct hlm_arena *arena, struct hlm_comm *comm, const void *own,
                                    size_t bytes, const void **out, struct hlm_err *err)
{
    char *all = HLM_ARENA_ARRAY(arena, char, bytes *(size_t)comm->world_size);
    HLM_TRY(
        comm->ops->all_gather(comm, HLM_GROUP_WORLD, own, all, (int64_t)bytes, HLM_WIRE_BYTE, err));
    *out = all;
    return HLM_OK;
}

static enum hlm_status gather(struct hlm_arena *arena, const struct hlm_record *record,
                              struct hlm_comm *comm, const struct sample *own, int64_t peak_bytes,
                              struct gathered *out, struct hlm_err *err)
{
    const size_t n = (size_t)record->num_events;
    const void *samples = NULL, *actions = NULL, *peaks = NULL;
    HLM_TRY(gather_bytes(arena, comm, own, n * sizeof(*own), &samples, err));
    HLM_TRY(
        gather_bytes(arena, comm, record->actions, n * sizeof(*record->actions), &actions, err));
    HLM_TRY(gather_bytes(arena, comm, &peak_bytes, sizeof(peak_bytes), &peaks, err));
    *out = (struct gathered){samples, actions, peaks};
    return HLM_OK;
}

/* --- the tree of parts --- */

static struct hlm_time_node make_tree(struct hlm_arena *arena, const double seconds[6])
{
    static const char *const names[] = {"forward",  "backward",      "tensor_parallel",
                                        "pipeline", "data_parallel", "optimizer"};
    struct hlm_time_node *parts = HLM_ARENA_ARRAY(arena, struct hlm_time_node, 6);
    struct hlm_time_node node = {.name = "step", .parts = parts};
    for (int32_t i = 0; i < 6; i++) {
        if (seconds[i] != 0.0) {
            parts[node.num_parts++] =
                (struct hlm_time_node){.name = names[i], .seconds = seconds[i]};
            node.seconds += seconds[i];
        }
    }
    return node;
}

enum { FORWARD, BACKWARD, TENSOR, PIPELINE, DATA, OPTIMIZER };

/* Wall clock of one rank's step: what its actions computed, and where the rest went. */
static struct hlm_time_node wall_parts(struct hlm_arena *arena, const struct hlm_record *record,
                                       const struct gathered *all, int32_t rank, double step_s)
{
    const struct sample *samples = &all->samples[(int64_t)rank * record->num_events];
    const struct hlm_action *actions = &all->actions[(int64_t)rank * record->num_events];
    double seconds[6] = {0.0}, compute_end_s = 0.0;
    for (int32_t i = 0; i < record->num_events; i++) {
        const struct sample *sample = &samples[i];
        if (hlm_action_is_compute(actions[i].kind)) {
            seconds[actions[i].kind == HLM_ACTION_F ? FORWARD : BACKWARD] += sample->compute_wall_s;
            seconds[TENSOR] += sample->group_comm_s;
            compute_end_s = sample->end_s;
        } else if (actions[i].kind == HLM_ACTION_OPTIMIZER) {
            seconds[DATA] = sample->start_s - compute_end_s + sample->message_s;
            seconds[OPTIMIZER] = step_s - sample->start_s - sample->message_s;
        }
    }
    seconds[PIPELINE] = compute_end_s - seconds[FORWARD] - seconds[BACKWARD] - seconds[TENSOR];
    return make_tree(arena, seconds);
}

static int32_t rank_of(const struct hlm_strategy *strategy, int32_t dp, int32_t tp, int32_t pp)
{
    const struct hlm_coords coords = {.dp = dp, .tp = tp, .pp = pp};
    return hlm_layout_rank(strategy, coords);
}

/* --- virtual time --- */

/* Mean over the tp ranks of what an action computed. */
static double tp_mean_s(const struct hlm_record *record, const struct gathered *all, int32_t dp,
                        int32_t pp, int32_t event)
{
    const struct hlm_strategy *strategy = &record->plan->strategy;
    double seconds = 0.0;
    for (int32_t tp = 0; tp < strategy->tp; tp++) {
        const int64_t rank = rank_of(strategy, dp, tp, pp);
        seconds += all->samples[rank * record->num_events + event].compute_cpu_s;
    }
    return seconds / strategy->tp;
}

static double modelled_tp_s(const struct hlm_plan_simulation *simulation, int32_t stage,
                            enum hlm_action_kind kind)
{
    const struct hlm_stage_cost *cost = &simulation->stages[stage];
    return (kind == HLM_ACTION_F ? &cost->forward : &cost->backward)->part[HLM_PART_TP_COMM];
}

/* Durations of one replica's compute actions: [pp][k-th one of the rank]. `optimizer_s` [pp] is
 * what the optimizer computed plus the modelled gather of parameters. */
static const double *const *replica_durations(struct hlm_arena *arena,
                                              const struct hlm_record *record,
                                              const struct gathered *all,
                                              const struct hlm_plan_simulation *simulation,
                                              int32_t dp, double *optimizer_s)
{
    const struct hlm_schedule *schedule = simulation->schedule;
    const double **durations = HLM_ARENA_ARRAY(arena, const double *, schedule->num_ranks);
    for (int32_t pp = 0; pp < schedule->num_ranks; pp++) {
        const struct hlm_rank_actions *list = &schedule->ranks[pp];
        double *seconds = HLM_ARENA_ARRAY(arena, double, list->num_actions);
        int32_t event = 0;
        for (int32_t i = 0; i < list->num_actions; i++) {
            const enum hlm_action_kind kind = list->actions[i].kind;
            if (hlm_action_is_compute(kind)) {
                seconds[event] = tp_mean_s(record, all, dp, pp, event) +
                                 modelled_tp_s(simulation, list->actions[i].stage, kind);
                event++;
            }
        }
        durations[pp] = seconds;
        optimizer_s[pp] = tp_mean_s(record, all, dp, pp, record->num_events - 1) +
                          simulation->stages[pp].gather_s;
    }
    return durations;
}

static struct hlm_time_node virtual_parts(struct hlm_arena *arena, const struct hlm_record *record,
                                          const struct gathered *all,
                                          const struct hlm_plan_simulation *simulation,
                                          const struct hlm_sim_result *result, int32_t dp)
{
    const int32_t pp = hlm_plan_critical_rank(simulation);
    const struct hlm_stage_cost *cost = &simulation->stages[pp];
    const double m = (double)record->plan->strategy.num_microbatches;
    const int64_t first = (int64_t)rank_of(&record->plan->strategy, dp, 0, pp) * record->num_events;
    double seconds[6] = {0.0};
    for (int32_t e = 0; e + 2 < record->num_events; e++) {
        const bool forward = all->actions[first + e].kind == HLM_ACTION_F;
        seconds[forward ? FORWARD : BACKWARD] += tp_mean_s(record, all, dp, pp, e);
    }
    seconds[TENSOR] =
        m * (cost->forward.part[HLM_PART_TP_COMM] + cost->backward.part[HLM_PART_TP_COMM]);
    seconds[PIPELINE] = result->ranks[pp].compute_end_s - result->ranks[pp].busy_s;
    seconds[DATA] = cost->reduce_s + simulation->costs.sync_s;
    seconds[OPTIMIZER] = result->step_s - result->ranks[pp].compute_end_s - seconds[DATA];
    return make_tree(arena, seconds);
}

/* --- the measurement --- */

struct finish {
    struct hlm_arena *arena;
    const struct hlm_record *record;
    const struct gathered *all;
    struct hlm_measurement *out;
};

static struct hlm_timeline wall_timeline(const struct finish *finish)
{
    const struct hlm_record *record = finish->record;
    const int32_t world = finish->out->num_ranks;
    struct hlm_timeline_rank *ranks =
        HLM_ARENA_ARRAY(finish->arena, struct hlm_timeline_rank, world);
    for (int32_t r = 0; r < world; r++) {
        struct hlm_timeline_event *events =
            HLM_ARENA_ARRAY(finish->arena, struct hlm_timeline_event, record->num_events);
        for (int32_t e = 0; e < record->num_events; e++) {
            const int64_t index = (int64_t)r * record->num_events + e;
            const struct sample *sample = &finish->all->samples[index];
            char text[32];
            hlm_action_format(finish->all->actions[index], text);
            events[e] = (struct hlm_timeline_event){.action = hlm_arena_strdup(finish->arena, text),
                                                    .start_s = sample->start_s,
                                                    .end_s = sample->end_s,
                                                    .cpu_s = sample->compute_cpu_s};
        }
        ranks[r] = (struct hlm_timeline_rank){
            .rank = r, .events = events, .num_events = record->num_events};
    }
    return (struct hlm_timeline){.source = "measured",
                                 .step_s = finish->out->step_time_s,
                                 .ranks = ranks,
                                 .num_ranks = world};
}

/* Walks every replica; the slowest one is the step. */
static enum hlm_status virtual_step(const struct finish *finish, struct hlm_err *err)
{
    const struct hlm_strategy *strategy = &finish->record->plan->strategy;
    struct hlm_plan_simulation simulation;
    HLM_TRY(hlm_plan_simulate(finish->arena, finish->record->plan, &simulation, err));
    double *optimizer_s = HLM_ARENA_ARRAY(finish->arena, double, strategy->pp);
    finish->out->step_time_s = 0.0;
    for (int32_t dp = 0; dp < strategy->dp; dp++) {
        struct hlm_sim_costs costs = simulation.costs;
        struct hlm_sim_result result;
        costs.action_s = replica_durations(finish->arena, finish->record, finish->all, &simulation,
                                           dp, optimizer_s);
        costs.optimizer_s = optimizer_s;
        HLM_TRY(hlm_simulate(finish->arena, simulation.schedule, &costs, NULL, true, &result, err));
        if (result.step_s > finish->out->step_time_s) {
            finish->out->step_time_s = result.step_s;
            finish->out->parts =
                virtual_parts(finish->arena, finish->record, finish->all, &simulation, &result, dp);
            finish->out->timeline =
                *hlm_timeline_from_simulation(finish->arena, simulation.schedule, &result);
            finish->out->timeline.source = "virtual";
        }
    }
    return HLM_OK;
}

static enum hlm_status wall_step(const struct finish *finish, double step_s, struct hlm_err *err)
{
    const struct hlm_strategy *strategy = &finish->record->plan->strategy;
    struct hlm_plan_simulation simulation;
    HLM_TRY(hlm_plan_simulate(finish->arena, finish->record->plan, &simulation, err));
    const int32_t rank = rank_of(strategy, 0, 0, hlm_plan_critical_rank(&simulation));
    finish->out->parts = wall_parts(finish->arena, finish->record, finish->all, rank, step_s);
    finish->out->timeline = wall_timeline(finish);
    return HLM_OK;
}

static void fill_memory(const struct finish *finish)
{
    const int32_t world = finish->out->num_ranks;
    struct hlm_measured_memory *memory =
        HLM_ARENA_ARRAY(finish->arena, struct hlm_measured_memory, world);
    for (int32_t r = 0; r < world; r++) {
        memory[r] = (struct hlm_measured_memory){
            .rank = r,
            .stage = hlm_layout_coords(&finish->record->plan->strategy, r).pp,
            .peak_bytes = finish->all->peak_bytes[r]};
    }
    finish->out->memory = memory;
    finish->out->num_memory = world;
}

static enum hlm_status finish_on_rank_0(struct hlm_arena *arena, const struct hlm_record *record,
                                        const struct gathered *all,
                                        const struct hlm_record_about *about, int32_t num_clean,
                                        double median_s, double representative_s,
                                        const struct hlm_measurement **out, struct hlm_err *err)
{
    struct hlm_measurement *measurement = HLM_ARENA_NEW(arena, struct hlm_measurement);
    *measurement = (struct hlm_measurement){
        .digests = record->plan->digests,
        .backend = about->backend,
        .transport = about->transport,
        .virtual_time = about->virtual_time,
        .num_ranks = record->plan->num_ranks,
        .num_cores = about->num_cores,
        .steps = record->steps,
        .num_steps = record->num_added,
        .num_warmup_steps = record->num_warmup_steps,
        .num_clean_steps = num_clean,
        .step_time_s = median_s,
        .machine = hlm_machine_describe(arena, about->num_cores, about->backend_library)};
    const struct finish finish = {arena, record, all, measurement};
    fill_memory(&finish);
    HLM_TRY(about->virtual_time ? virtual_step(&finish, err)
                                : wall_step(&finish, representative_s, err));
    *out = measurement;
    return HLM_OK;
}

enum hlm_status hlm_record_finish(struct hlm_arena *arena, struct hlm_record *record,
                                  struct hlm_comm *comm, const struct hlm_record_about *about,
                                  const struct hlm_measurement **out, struct hlm_err *err)
{
    HLM_ASSERT(record->num_added > record->num_warmup_steps);
    HLM_TRY(agree_on_steps(arena, record, comm, err));
    int32_t num_clean = 0;
    const double median_s =
        hlm_measurement_step_time(arena, record->steps, record->num_added, record->num_warmup_steps,
                                  about->virtual_time, &num_clean);
    const int32_t step = representative_step(record, about->virtual_time, median_s, num_clean);
    struct sample *own = HLM_ARENA_ARRAY(arena, struct sample, record->num_events);
    memcpy(own, &record->samples[(int64_t)step * record->num_events],
           (size_t)record->num_events * sizeof(*own));
    if (about->virtual_time) {
        least_cpu_times(record, own);
    }
    struct gathered all;
    HLM_TRY(gather(arena, record, comm, own, about->peak_bytes, &all, err));
    *out = NULL;
    return comm->rank == 0 ? finish_on_rank_0(arena, record, &all, about, num_clean, median_s,
                                              record->steps[step].wall_s, out, err)
                           : HLM_OK;
}
