/* timeline: per rank, per action: start and end; from the simulator or from a run. The JSON kind
 * "timeline", and its views: Chrome trace (opens in Perfetto and chrome://tracing) and CSV
 * (PyTorch's compute_only pipeline schedule: one row per rank, cells "0F3"; and a table of times).
 */
#ifndef HLM_SCHEDULE_TIMELINE_H
#define HLM_SCHEDULE_TIMELINE_H

#include "base/json.h"
#include "schedule/action.h"
#include "schedule/simulate.h"

struct hlm_timeline_event {
    const char *action; /* "0F3"; a pair is one event, "(0F3;3B1)OVERLAP_F_B" */
    double start_s, end_s;
    double cpu_s; /* thread CPU time of a measured compute action, 0: simulated */
};
struct hlm_timeline_memory {
    double at_s;
    int64_t bytes;
};
struct hlm_timeline_rank {
    int32_t rank; /* world rank */
    const struct hlm_timeline_event *events;
    int32_t num_events;
    /* Bytes held from at_s on, ascending; none: unknown. */
    const struct hlm_timeline_memory *memory;
    int32_t num_memory;
};
struct hlm_timeline {
    const char *source; /* "simulated" | "measured" | "virtual" */
    double step_s;
    const struct hlm_timeline_rank *ranks;
    int32_t num_ranks;
};
extern const struct hlm_json_table hlm_timeline_table; /* kind "timeline" */

/* The timeline of a simulation that was run with want_events. The ranks are pipeline ranks 0, 1,
 * ...; who knows the rank map gives them their world ranks. Memory where the simulation knew it. */
const struct hlm_timeline *hlm_timeline_from_simulation(struct hlm_arena *arena,
                                                        const struct hlm_schedule *schedule,
                                                        const struct hlm_sim_result *result);

/* Chrome trace JSON: one process per timeline (predicted, measured), one thread per rank, durations
 * in microseconds (whole nanoseconds), category forward | backward | pair | communication |
 * optimizer (other: not an action of ours), args with stage and microbatch; a counter track per
 * rank for memory where bytes are known. Events of one thread may not overlap in this format, so
 * what runs beside a rank's compute (messages, gradient reduction) stands in threads of its own
 * below the rank's, as many as overlap. */
const char *hlm_chrome_trace(struct hlm_arena *arena, const struct hlm_timeline *const *timelines,
                             int32_t num_timelines);

/* A table of times: header line, then "source,rank,action,stage,microbatch,start_s,end_s" per event
 * (empty cells where an action has no stage or microbatch). */
const char *hlm_timeline_csv(struct hlm_arena *arena, const struct hlm_timeline *timeline);

/* PyTorch's compute_only CSV of a schedule: a line per rank, a cell per compute action or pair, no
 * idle cells. */
const char *hlm_schedule_csv(struct hlm_arena *arena, const struct hlm_schedule *schedule);

/* Its reader: any file in that form, also with empty (idle) cells and blanks around a cell; the
 * rank of a stage is the line it stands in. Obeys hlm_schedule_verify afterwards. `kind` is that of
 * the known schedule with the same lists (interleaved: of any group size), else HLM_NUM_SCHEDULES:
 * an order of its own. HLM_INPUT
 * names line and column of a bad cell, or rank and action of a broken rule. */
HLM_MUST_CHECK enum hlm_status hlm_schedule_from_csv(struct hlm_arena *arena, const char *name,
                                                     const char *text, size_t length,
                                                     const struct hlm_schedule **out,
                                                     struct hlm_err *err);

#endif
