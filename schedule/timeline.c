#include "schedule/timeline.h"

#include <stddef.h>
#include <string.h>

/* ---- the JSON kind ---- */

/* 32 years, as whole nanoseconds well within 64 bits. */
#define MAX_SECONDS 1e9

static const struct hlm_json_field event_fields[] = {
    {.name = "action",
     .type = HLM_JSON_STRING,
     .offset = offsetof(struct hlm_timeline_event, action),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "What ran, such as 0F3: stage 0, forward, microbatch 3."},
    {.name = "start_s",
     .type = HLM_JSON_DOUBLE,
     .offset = offsetof(struct hlm_timeline_event, start_s),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = MAX_SECONDS,
     .doc = "Start, seconds since the start of the step."},
    {.name = "end_s",
     .type = HLM_JSON_DOUBLE,
     .offset = offsetof(struct hlm_timeline_event, end_s),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = MAX_SECONDS,
     .doc = "End, seconds since the start of the step."},
    {.name = "cpu_s",
     .type = HLM_JSON_DOUBLE,
     .offset = offsetof(struct hlm_timeline_event, cpu_s),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .min = 0,
     .max = MAX_SECONDS,
     .doc = "Seconds of CPU time of the thread that ran it; absent where not measured."},
    {0}};
static const struct hlm_json_table event_table = {"timeline_event",
                                                  sizeof(struct hlm_timeline_event), event_fields};

static const struct hlm_json_field memory_fields[] = {
    {.name = "at_s",
     .type = HLM_JSON_DOUBLE,
     .offset = offsetof(struct hlm_timeline_memory, at_s),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = MAX_SECONDS,
     .doc = "Moment, seconds since the start of the step."},
    {.name = "bytes",
     .type = HLM_JSON_INT64,
     .offset = offsetof(struct hlm_timeline_memory, bytes),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 9e15,
     .doc = "Bytes held from that moment on."},
    {0}};
static const struct hlm_json_table memory_table = {
    "timeline_memory", sizeof(struct hlm_timeline_memory), memory_fields};

static const struct hlm_json_field rank_fields[] = {
    {.name = "rank",
     .type = HLM_JSON_INT,
     .offset = offsetof(struct hlm_timeline_rank, rank),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = INT32_MAX,
     .doc = "World rank."},
    {.name = "events",
     .type = HLM_JSON_ARRAY,
     .offset = offsetof(struct hlm_timeline_rank, events),
     .flags = HLM_FIELD_REQUIRED,
     .table = &event_table,
     .count_offset = offsetof(struct hlm_timeline_rank, num_events),
     .doc = "What the rank ran."},
    {.name = "memory",
     .type = HLM_JSON_ARRAY,
     .offset = offsetof(struct hlm_timeline_rank, memory),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .table = &memory_table,
     .count_offset = offsetof(struct hlm_timeline_rank, num_memory),
     .doc = "Memory over time; absent where unknown."},
    {0}};
static const struct hlm_json_table rank_table = {"timeline_rank", sizeof(struct hlm_timeline_rank),
                                                 rank_fields};

static const struct hlm_json_field timeline_fields[] = {
    {.name = "source",
     .type = HLM_JSON_STRING,
     .offset = offsetof(struct hlm_timeline, source),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "Where the times come from: simulated, measured or virtual."},
    {.name = "step_s",
     .type = HLM_JSON_DOUBLE,
     .offset = offsetof(struct hlm_timeline, step_s),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = MAX_SECONDS,
     .doc = "Seconds of the whole step."},
    {.name = "ranks",
     .type = HLM_JSON_ARRAY,
     .offset = offsetof(struct hlm_timeline, ranks),
     .flags = HLM_FIELD_REQUIRED,
     .table = &rank_table,
     .count_offset = offsetof(struct hlm_timeline, num_ranks),
     .doc = "One entry a rank."},
    {0}};
const struct hlm_json_table hlm_timeline_table = {"timeline", sizeof(struct hlm_timeline),
                                                  timeline_fields};

/* ---- from a simulation ---- */

static void add_events(struct hlm_arena *arena, const struct hlm_sim_rank *simulated,
                       struct hlm_timeline_rank *rank)
{
    struct hlm_timeline_event *events =
        HLM_ARENA_ARRAY(arena, struct hlm_timeline_event, simulated->num_events);
    for (int32_t i = 0; i < simulated->num_events; i++) {
        const struct hlm_sim_event *event = &simulated->events[i];
        char text[64];
        if (event->overlapped.kind == HLM_NUM_ACTIONS) {
            hlm_action_format(event->action, text);
        } else {
            hlm_action_format_pair(event->action, event->overlapped, text);
        }
        events[i] = (struct hlm_timeline_event){.action = hlm_arena_strdup(arena, text),
                                                .start_s = event->start_s,
                                                .end_s = event->end_s};
    }
    rank->events = events;
    rank->num_events = simulated->num_events;
}

/* Appends what is held from a moment on; the last of several at one moment counts. */
static void add_point(struct hlm_timeline_memory *points, int32_t *count, double at_s,
                      int64_t bytes)
{
    if (*count > 0 && points[*count - 1].at_s >= at_s) {
        (*count)--;
    }
    points[(*count)++] = (struct hlm_timeline_memory){at_s, bytes};
}

static void add_memory(struct hlm_arena *arena, const struct hlm_sim_rank *simulated,
                       struct hlm_timeline_rank *rank)
{
    struct hlm_timeline_memory *points =
        HLM_ARENA_ARRAY(arena, struct hlm_timeline_memory, 2 * (size_t)simulated->num_events);
    int32_t count = 0;
    for (int32_t i = 0; i < simulated->num_events; i++) {
        const struct hlm_sim_event *event = &simulated->events[i];
        if (hlm_action_is_compute(event->action.kind)) {
            add_point(points, &count, event->start_s, event->bytes);
            add_point(points, &count, event->end_s, event->bytes_after);
        }
    }
    rank->memory = points;
    rank->num_memory = count;
}

const struct hlm_timeline *hlm_timeline_from_simulation(struct hlm_arena *arena,
                                                        const struct hlm_schedule *schedule,
                                                        const struct hlm_sim_result *result)
{
    struct hlm_timeline_rank *ranks =
        HLM_ARENA_ARRAY(arena, struct hlm_timeline_rank, schedule->num_ranks);
    for (int32_t i = 0; i < schedule->num_ranks; i++) {
        HLM_ASSERT(result->ranks[i].events != NULL);
        ranks[i].rank = i;
        add_events(arena, &result->ranks[i], &ranks[i]);
        if (result->ranks[i].peak_bytes > 0) {
            add_memory(arena, &result->ranks[i], &ranks[i]);
        }
    }
    struct hlm_timeline *timeline = HLM_ARENA_NEW(arena, struct hlm_timeline);
    *timeline = (struct hlm_timeline){.source = "simulated",
                                      .step_s = result->step_s,
                                      .ranks = ranks,
                                      .num_ranks = schedule->num_ranks};
    return timeline;
}
