#include "exec/runner/record.h"

#include <math.h>
#include <string.h>

#include "exec/machine.h"
#include "exec/runner/record_internal.h"

/* actions: [pp] */
static enum hlm_status build_list(struct hlm_arena *arena, const struct hlm_strategy *strategy,
                                  struct hlm_rank_actions *actions, int32_t *max_events,
                                  struct hlm_err *err)
{
    const struct hlm_schedule *schedule = NULL;
    HLM_TRY(hlm_schedule_build(arena, strategy->schedule, strategy->pp, strategy->vpp,
                               (int32_t)strategy->num_microbatches, &schedule, err));
    schedule = hlm_schedule_lower(arena, schedule);
    for (int32_t pp = 0; pp < schedule->num_ranks; pp++) {
        actions[pp] = hlm_plan_measured_actions(arena, schedule, pp);
        *max_events = actions[pp].num_actions > *max_events ? actions[pp].num_actions : *max_events;
    }
    return HLM_OK;
}

static enum hlm_status build_actions(struct hlm_arena *arena, struct hlm_record *record,
                                     struct hlm_err *err)
{
    const struct hlm_strategy *strategy = &record->plan->strategy;
    const int32_t num = strategy->num_replicas > 0 ? strategy->num_replicas : 1;
    struct hlm_rank_actions *actions =
        HLM_ARENA_ARRAY(arena, struct hlm_rank_actions, (int64_t)num * strategy->pp);
    for (int32_t i = 0; i < num; i++) {
        const struct hlm_strategy seen =
            strategy->num_replicas > 0 ? hlm_strategy_of_replicas(strategy, i) : *strategy;
        HLM_TRY(build_list(arena, &seen, actions + i * strategy->pp, &record->max_events, err));
    }
    record->actions = actions;
    return HLM_OK;
}

const struct hlm_rank_actions *hlm_record_list(const struct hlm_record *record, int32_t dp,
                                               int32_t pp)
{
    const struct hlm_strategy *strategy = &record->plan->strategy;
    const int32_t seen = hlm_strategy_of_replica(strategy, dp, NULL).seen_replicas;
    return &record->actions[(seen > 0 ? seen - 1 : 0) * strategy->pp + pp];
}

enum hlm_status hlm_record_new(struct hlm_arena *arena, const struct hlm_plan *plan,
                               int32_t num_steps, int32_t num_warmup_steps, struct hlm_record **out,
                               struct hlm_err *err)
{
    struct hlm_record *record = HLM_ARENA_NEW(arena, struct hlm_record);
    *record =
        (struct hlm_record){.plan = plan,
                            .num_steps = num_steps,
                            .num_warmup_steps = num_warmup_steps,
                            .steps = HLM_ARENA_ARRAY(arena, struct hlm_measured_step, num_steps)};
    HLM_TRY(build_actions(arena, record, err));
    record->samples =
        HLM_ARENA_ARRAY(arena, struct hlm_record_sample, (int64_t)num_steps * record->max_events);
    *out = record;
    return HLM_OK;
}

static bool same_action(struct hlm_action a, struct hlm_action b)
{
    return a.kind == b.kind && a.stage == b.stage && a.microbatch == b.microbatch;
}

void hlm_record_add(struct hlm_record *record, int32_t rank, const struct hlm_run_step *step)
{
    const struct hlm_coords coords = hlm_layout_coords(&record->plan->strategy, rank);
    const struct hlm_rank_actions *list = hlm_record_list(record, coords.dp, coords.pp);
    HLM_ASSERT(record->num_added < record->num_steps && step->num_events == list->num_actions);
    record->steps[record->num_added] =
        (struct hlm_measured_step){.step = record->num_added,
                                   .wall_s = step->wall_s,
                                   .loss = step->loss,
                                   .grad_norm = step->grad_norm,
                                   .availability_frac = fmin(1.0, step->availability_frac)};
    struct hlm_record_sample *samples =
        &record->samples[(int64_t)record->num_added * record->max_events];
    for (int32_t i = 0; i < step->num_events; i++) {
        const struct hlm_run_event *event = &step->events[i];
        HLM_ASSERT(same_action(event->action, list->actions[i]));
        samples[i] = (struct hlm_record_sample){
            event->start_s,      event->end_s,     event->compute_wall_s, event->compute_cpu_s,
            event->group_comm_s, event->message_s, event->expert_comm_s};
    }
    record->num_added++;
}

/* --- agreement between ranks --- */

static enum hlm_status gather(struct hlm_arena *arena, const struct hlm_record_world *world,
                              const void *own, size_t bytes, const void **out, struct hlm_err *err)
{
    char *all = HLM_ARENA_ARRAY(arena, char, bytes *(size_t)world->world_size);
    HLM_TRY(world->gather(world->context, own, all, (int64_t)bytes, err));
    *out = all;
    return HLM_OK;
}

/* Least availability and longest wall clock of each step over all ranks. */
static enum hlm_status agree_on_steps(struct hlm_arena *arena, struct hlm_record *record,
                                      const struct hlm_record_world *world, struct hlm_err *err)
{
    const int32_t n = record->num_added;
    const void *all = NULL;
    HLM_TRY(gather(arena, world, record->steps, (size_t)n * sizeof(*record->steps), &all, err));
    const struct hlm_measured_step *steps = all;
    for (int32_t i = 0; i < n * world->world_size; i++) {
        struct hlm_measured_step *step = &record->steps[i % n];
        step->availability_frac = fmin(step->availability_frac, steps[i].availability_frac);
        step->wall_s = fmax(step->wall_s, steps[i].wall_s);
    }
    return HLM_OK;
}

/* The step nearest to the median, a clean one where there is any. */
static int32_t representative_step(const struct hlm_record *record, bool virtual_time,
                                   double step_time_s, int32_t num_clean)
{
    int32_t best = record->num_warmup_steps;
    double best_distance = (double)INFINITY;
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
static void least_cpu_times(const struct hlm_record *record, struct hlm_record_sample *out)
{
    for (int32_t e = 0; e < record->max_events; e++) {
        for (int32_t i = record->num_warmup_steps; i < record->num_added; i++) {
            const struct hlm_record_sample *sample =
                &record->samples[(int64_t)i * record->max_events + e];
            out[e].compute_cpu_s = fmin(out[e].compute_cpu_s, sample->compute_cpu_s);
        }
    }
}

/* --- the measurement --- */

const struct hlm_record_sample *hlm_record_samples(const struct hlm_record_step *step, int32_t rank)
{
    const int64_t row = step->emulated_rank < 0 ? rank : 0;
    return &step->samples[row * step->record->max_events];
}

const struct hlm_rank_actions *hlm_record_actions(const struct hlm_record_step *step, int32_t rank)
{
    const struct hlm_coords coords = hlm_layout_coords(&step->record->plan->strategy, rank);
    return hlm_record_list(step->record, coords.dp, coords.pp);
}

/* The stage of a rank's memory is its first. */
static int32_t first_stage(const struct hlm_record_step *step, int32_t rank)
{
    const struct hlm_rank_actions *list = hlm_record_actions(step, rank);
    HLM_ASSERT(list->actions[list->num_actions - 1].kind == HLM_ACTION_OPTIMIZER);
    return list->actions[list->num_actions - 1].stage;
}

static void fill_memory(const struct hlm_record_step *step, const struct hlm_record_memory *held,
                        struct hlm_measurement *out)
{
    const bool alone = step->emulated_rank >= 0;
    const int32_t num = alone ? 1 : out->num_ranks;
    struct hlm_measured_memory *memory =
        HLM_ARENA_ARRAY(step->arena, struct hlm_measured_memory, num);
    for (int32_t i = 0; i < num; i++) {
        const int32_t rank = alone ? step->emulated_rank : i;
        memory[i] = (struct hlm_measured_memory){.rank = rank,
                                                 .stage = first_stage(step, rank),
                                                 .peak_bytes = held[i].peak_bytes,
                                                 .device_used_bytes = held[i].device_used_bytes,
                                                 .device_total_bytes = held[i].device_total_bytes};
    }
    out->memory = memory;
    out->num_memory = num;
}

/* Of the replica that takes longest. */
static void fill_messages(const struct hlm_record_step *step, int64_t bytes,
                          struct hlm_measurement *out)
{
    const struct hlm_plan *plan = step->record->plan;
    struct hlm_measured_message *messages =
        HLM_ARENA_ARRAY(step->arena, struct hlm_measured_message, plan->num_stages);
    for (int32_t stage = 0; step->message_s != NULL && stage < plan->num_stages; stage++) {
        double seconds = 0.0;
        for (int32_t dp = 0; dp < plan->strategy.dp; dp++) {
            seconds = fmax(seconds, step->message_s[dp * plan->num_stages + stage]);
        }
        if (seconds > 0.0) {
            messages[out->num_messages++] =
                (struct hlm_measured_message){.stage = stage, .bytes = bytes, .seconds = seconds};
        }
    }
    out->messages = messages;
}

static void fill_rates(const struct hlm_record *record)
{
    for (int32_t i = 0; i < record->num_added; i++) {
        struct hlm_measured_step *step = &record->steps[i];
        hlm_measurement_rates(record->plan, step->wall_s, &step->tokens_per_s, &step->mfu);
    }
}

static enum hlm_status write_measurement(const struct hlm_record_step *step,
                                         const struct hlm_record_memory *held,
                                         const struct hlm_record_about *about, int32_t num_clean,
                                         double median_s, const struct hlm_measurement **out,
                                         struct hlm_err *err)
{
    const struct hlm_record *record = step->record;
    struct hlm_measurement *measurement = HLM_ARENA_NEW(step->arena, struct hlm_measurement);
    *measurement = (struct hlm_measurement){
        .digests = record->plan->digests,
        .backend = about->backend,
        .transport = about->transport,
        .virtual_time = about->virtual_time,
        .num_ranks = record->plan->num_ranks,
        .num_cores = about->num_cores,
        .emulated_rank = step->emulated_rank,
        .steps = record->steps,
        .num_steps = record->num_added,
        .num_warmup_steps = record->num_warmup_steps,
        .num_clean_steps = num_clean,
        .step_time_s = median_s,
        .machine = hlm_machine_describe(step->arena, about->num_cores, about->backend_library)};
    fill_rates(record);
    fill_messages(step, about->message_bytes, measurement);
    fill_memory(step, held, measurement);
    HLM_TRY(about->virtual_time || about->emulation == HLM_RECORD_DID_NOT_WAIT
                ? hlm_record_walk(step, about->virtual_time, measurement, err)
                : hlm_record_wall(step, measurement, err));
    *out = measurement;
    return HLM_OK;
}

enum hlm_status hlm_record_finish(struct hlm_arena *arena, struct hlm_record *record,
                                  const struct hlm_record_world *world,
                                  const struct hlm_record_about *about,
                                  const struct hlm_measurement **out, struct hlm_err *err)
{
    const bool alone = about->emulation != HLM_RECORD_ALL_RANKS;
    HLM_ASSERT(record->num_added > record->num_warmup_steps);
    HLM_TRY(alone ? HLM_OK : agree_on_steps(arena, record, world, err));
    int32_t num_clean = 0;
    const double median_s =
        hlm_measurement_step_time(arena, record->steps, record->num_added, record->num_warmup_steps,
                                  about->virtual_time, &num_clean);
    const int32_t index = representative_step(record, about->virtual_time, median_s, num_clean);
    const size_t bytes = (size_t)record->max_events * sizeof(struct hlm_record_sample);
    struct hlm_record_sample *own =
        hlm_arena_memdup(arena, &record->samples[(int64_t)index * record->max_events], bytes);
    if (about->virtual_time) {
        least_cpu_times(record, own);
    }
    const struct hlm_record_memory memory = {about->peak_bytes, about->device_used_bytes,
                                             about->device_total_bytes};
    const void *samples = own, *held = &memory;
    if (!alone) {
        HLM_TRY(gather(arena, world, own, bytes, &samples, err));
        HLM_TRY(gather(arena, world, &memory, sizeof(memory), &held, err));
    }
    *out = NULL;
    const struct hlm_record_step step = {.arena = arena,
                                         .record = record,
                                         .emulated_rank = alone ? world->rank : -1,
                                         .samples = samples,
                                         .wall_s = record->steps[index].wall_s,
                                         .message_s = about->message_s};
    return alone || world->rank == 0
               ? write_measurement(&step, held, about, num_clean, median_s, out, err)
               : HLM_OK;
}
