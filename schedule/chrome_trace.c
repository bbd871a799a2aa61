/* The trace event format of Chrome: https://perfetto.dev opens it. "X" events carry start and
 * duration, "M" events name processes and threads, "C" events are counters. */
#include <math.h>
#include <stdio.h>

#include "schedule/timeline.h"

static const char *const categories[] = {
    [HLM_ACTION_F] = "forward",
    [HLM_ACTION_B] = "backward",
    [HLM_ACTION_I] = "backward",
    [HLM_ACTION_W] = "backward",
    [HLM_ACTION_SEND_F] = "communication",
    [HLM_ACTION_RECV_F] = "communication",
    [HLM_ACTION_SEND_B] = "communication",
    [HLM_ACTION_RECV_B] = "communication",
    [HLM_ACTION_REDUCE_GRAD] = "communication",
    [HLM_ACTION_OPTIMIZER] = "optimizer",
    [HLM_ACTION_OVERLAP_F_B] = "pair",
};

/* Lane 0 of a rank is its compute; the others hold what runs beside it. */
enum { NUM_LANES = 16 };

struct trace {
    struct hlm_json_writer writer;
    int32_t process;
};

/* Whole nanoseconds, so that a start plus a duration is the next start again. */
static int64_t nanoseconds(double seconds)
{
    return llround(seconds * 1e9);
}

static void write_microseconds(struct trace *trace, const char *key, int64_t value_ns)
{
    hlm_json_key(&trace->writer, key);
    hlm_json_double(&trace->writer, (double)value_ns / 1e3);
}

static void write_text(struct trace *trace, const char *key, const char *value)
{
    hlm_json_key(&trace->writer, key);
    hlm_json_string(&trace->writer, value);
}

static void write_int(struct trace *trace, const char *key, int64_t value)
{
    hlm_json_key(&trace->writer, key);
    hlm_json_int64(&trace->writer, value);
}

/* Opens an event; the caller writes its own keys, "args" last, and closes it. */
static void begin_event(struct trace *trace, const char *phase, const char *name, int64_t thread)
{
    hlm_json_begin_object(&trace->writer);
    write_text(trace, "name", name);
    write_text(trace, "ph", phase);
    write_int(trace, "pid", trace->process);
    write_int(trace, "tid", thread);
}

static void begin_args(struct trace *trace)
{
    hlm_json_key(&trace->writer, "args");
    hlm_json_begin_object(&trace->writer);
}

static void end_event(struct trace *trace)
{
    hlm_json_end_object(&trace->writer);
    hlm_json_end_object(&trace->writer);
}

static void write_name(struct trace *trace, const char *what, int64_t thread, const char *name)
{
    begin_event(trace, "M", what, thread);
    begin_args(trace);
    write_text(trace, "name", name);
    end_event(trace);
}

/* From 1: readers take thread 0 for the idle one. */
static int64_t thread_of(int32_t rank, int32_t lane)
{
    return (int64_t)rank * NUM_LANES + lane + 1;
}

static void write_event(struct trace *trace, const struct hlm_timeline_event *event,
                        const struct hlm_action *action, int64_t thread)
{
    const int64_t start_ns = nanoseconds(event->start_s);
    begin_event(trace, "X", event->action, thread);
    write_text(trace, "cat", action == NULL ? "other" : categories[action->kind]);
    write_microseconds(trace, "ts", start_ns);
    write_microseconds(trace, "dur", nanoseconds(event->end_s) - start_ns);
    begin_args(trace);
    if (action != NULL) {
        write_int(trace, "stage", action->stage);
        if (action->microbatch >= 0) {
            write_int(trace, "microbatch", action->microbatch);
        }
    }
    end_event(trace);
}

/* The first lane in [first, NUM_LANES) that is free when the event starts; the last one if none is.
 */
static int32_t take_lane(int64_t *busy_until_ns, int32_t first,
                         const struct hlm_timeline_event *event)
{
    int32_t lane = first;
    while (lane < NUM_LANES - 1 && busy_until_ns[lane] > nanoseconds(event->start_s)) {
        lane++;
    }
    busy_until_ns[lane] = nanoseconds(event->end_s);
    return lane;
}

static void write_lane_names(struct trace *trace, int32_t rank, int32_t num_lanes)
{
    for (int32_t lane = 0; lane < num_lanes; lane++) {
        char name[64];
        snprintf(name, sizeof name, lane == 0 ? "rank %d" : "rank %d communication", rank);
        write_name(trace, "thread_name", thread_of(rank, lane), name);
        begin_event(trace, "M", "thread_sort_index", thread_of(rank, lane));
        begin_args(trace);
        write_int(trace, "sort_index", thread_of(rank, lane));
        end_event(trace);
    }
}

static void write_memory(struct trace *trace, const struct hlm_timeline_rank *rank)
{
    char name[64];
    snprintf(name, sizeof name, "memory of rank %d", rank->rank);
    for (int32_t i = 0; i < rank->num_memory; i++) {
        begin_event(trace, "C", name, thread_of(rank->rank, 0));
        write_microseconds(trace, "ts", nanoseconds(rank->memory[i].at_s));
        begin_args(trace);
        write_int(trace, "bytes", rank->memory[i].bytes);
        end_event(trace);
    }
}

/* The action of an event: of a pair the marker with stage and microbatch of its forward. */
static bool parse_event(const char *text, struct hlm_action *out)
{
    struct hlm_err ignored;
    struct hlm_action backward;
    if (hlm_action_parse_pair(text, out, &backward)) {
        out->kind = HLM_ACTION_OVERLAP_F_B;
        return true;
    }
    return hlm_action_parse(text, out, &ignored) == HLM_OK;
}

static void write_rank(struct trace *trace, const struct hlm_timeline_rank *rank)
{
    int64_t busy_until_ns[NUM_LANES];
    for (int32_t lane = 0; lane < NUM_LANES; lane++) {
        busy_until_ns[lane] = INT64_MIN;
    }
    int32_t num_lanes = 1;
    for (int32_t i = 0; i < rank->num_events; i++) {
        struct hlm_action action;
        const bool known = parse_event(rank->events[i].action, &action);
        const bool beside =
            known && action.kind >= HLM_ACTION_SEND_F && action.kind <= HLM_ACTION_REDUCE_GRAD;
        const int32_t lane = beside ? take_lane(busy_until_ns, 1, &rank->events[i]) : 0;
        num_lanes = lane + 1 > num_lanes ? lane + 1 : num_lanes;
        write_event(trace, &rank->events[i], known ? &action : NULL, thread_of(rank->rank, lane));
    }
    write_lane_names(trace, rank->rank, num_lanes);
    write_memory(trace, rank);
}

const char *hlm_chrome_trace(struct hlm_arena *arena, const struct hlm_timeline *const *timelines,
                             int32_t num_timelines)
{
    struct trace trace = {.process = 0};
    hlm_json_writer_init(&trace.writer, arena, true);
    hlm_json_begin_object(&trace.writer);
    write_text(&trace, "displayTimeUnit", "ms");
    hlm_json_key(&trace.writer, "traceEvents");
    hlm_json_begin_array(&trace.writer);
    for (int32_t i = 0; i < num_timelines; i++) {
        trace.process = i + 1;
        write_name(&trace, "process_name", 0, timelines[i]->source);
        for (int32_t rank = 0; rank < timelines[i]->num_ranks; rank++) {
            write_rank(&trace, &timelines[i]->ranks[rank]);
        }
    }
    hlm_json_end_array(&trace.writer);
    hlm_json_end_object(&trace.writer);
    return trace.writer.text.text;
}
