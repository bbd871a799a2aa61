#include "planner/measurement.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* ---- the JSON kind ---- */

#define STEP(member) .offset = offsetof(struct hlm_measured_step, member)
static const struct hlm_json_field step_fields[] = {
    {.name = "step",
     .type = HLM_JSON_INT,
     STEP(step),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = INT32_MAX,
     .doc = "Index of the step, warm-up included."},
    {.name = "wall_s",
     .type = HLM_JSON_DOUBLE,
     STEP(wall_s),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1e9,
     .doc = "Seconds of the whole step."},
    {.name = "loss",
     .type = HLM_JSON_DOUBLE,
     STEP(loss),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "Mean loss over the tokens of the global batch."},
    {.name = "grad_norm",
     .type = HLM_JSON_DOUBLE,
     STEP(grad_norm),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "Norm of the gradient of all parameters before the update."},
    {.name = "availability_frac",
     .type = HLM_JSON_DOUBLE,
     STEP(availability_frac),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1.5,
     .doc =
         "CPU time over wall time of the compute actions, least over the ranks; a step with less "
         "than 0.985 is not clean."},
    {.name = "tokens_per_s",
     .type = HLM_JSON_DOUBLE,
     STEP(tokens_per_s),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .min = 0,
     .max = 1e18,
     .doc = "Tokens of the global batch per second; 0: unknown."},
    {.name = "mfu",
     .type = HLM_JSON_DOUBLE,
     STEP(mfu),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .min = 0,
     .max = 1e6,
     .doc = "Model flops, counted as by the plan, over the dense peak of all devices; 0: they have "
            "no peak."},
    {0}};
static const struct hlm_json_table step_table = {"measured_step", sizeof(struct hlm_measured_step),
                                                 step_fields};

#define MEMORY(member) .offset = offsetof(struct hlm_measured_memory, member)
static const struct hlm_json_field memory_fields[] = {
    {.name = "rank",
     .type = HLM_JSON_INT,
     MEMORY(rank),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = INT32_MAX,
     .doc = "World rank."},
    {.name = "stage",
     .type = HLM_JSON_INT,
     MEMORY(stage),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = INT32_MAX,
     .doc = "Its first stage."},
    {.name = "peak_bytes",
     .type = HLM_JSON_INT64,
     MEMORY(peak_bytes),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 9e15,
     .doc = "Most bytes that the rank held at once; what the plan calls fixed_bytes not counted."},
    {.name = "device_used_bytes",
     .type = HLM_JSON_INT64,
     MEMORY(device_used_bytes),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .min = 0,
     .max = 9e15,
     .doc =
         "Most bytes of the device in use behind a step, by whomever; 0: the backend can't say."},
    {.name = "device_total_bytes",
     .type = HLM_JSON_INT64,
     MEMORY(device_total_bytes),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .min = 0,
     .max = 9e15,
     .doc = "Bytes that the device has; 0: the backend can't say."},
    {0}};
static const struct hlm_json_table memory_table = {
    "measured_memory", sizeof(struct hlm_measured_memory), memory_fields};

#define MESSAGE(member) .offset = offsetof(struct hlm_measured_message, member)
static const struct hlm_json_field message_fields[] = {
    {.name = "stage",
     .type = HLM_JSON_INT,
     MESSAGE(stage),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = INT32_MAX,
     .doc = "Stage whose messages with the next one these are."},
    {.name = "bytes",
     .type = HLM_JSON_INT64,
     MESSAGE(bytes),
     .flags = HLM_FIELD_REQUIRED,
     .min = 1,
     .max = 9e15,
     .doc = "Bytes of a message."},
    {.name = "seconds",
     .type = HLM_JSON_DOUBLE,
     MESSAGE(seconds),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1e9,
     .doc = "Seconds of a message, either way, while nobody computed."},
    {0}};
static const struct hlm_json_table message_table = {
    "measured_message", sizeof(struct hlm_measured_message), message_fields};

#define ACTION(member) .offset = offsetof(struct hlm_measured_action, member)
static const struct hlm_json_field action_fields[] = {
    {.name = "stage",
     .type = HLM_JSON_INT,
     ACTION(stage),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = INT32_MAX,
     .doc = "Stage."},
    {.name = "kind",
     .type = HLM_JSON_ENUM,
     ACTION(kind),
     .flags = HLM_FIELD_REQUIRED,
     .enums = hlm_action_texts,
     .doc = "Kind of action."},
    {.name = "num",
     .type = HLM_JSON_INT,
     ACTION(num),
     .flags = HLM_FIELD_REQUIRED,
     .min = 1,
     .max = INT32_MAX,
     .doc = "Actions behind the means."},
    {.name = "compute_s",
     .type = HLM_JSON_DOUBLE,
     ACTION(compute_s),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1e9,
     .doc = "Mean seconds of computing, measured."},
    {.name = "comm_s",
     .type = HLM_JSON_DOUBLE,
     ACTION(comm_s),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1e9,
     .doc = "Mean seconds of communication, which stood in for the predicted ones."},
    {0}};
static const struct hlm_json_table action_table = {
    "measured_action", sizeof(struct hlm_measured_action), action_fields};

#define MACHINE(member) .offset = offsetof(struct hlm_measured_machine, member)
static const struct hlm_json_field machine_fields[] = {
    {.name = "host", .type = HLM_JSON_STRING, MACHINE(host), .doc = "Name of the machine."},
    {.name = "cpu_model", .type = HLM_JSON_STRING, MACHINE(cpu_model), .doc = "Its processor."},
    {.name = "kernel", .type = HLM_JSON_STRING, MACHINE(kernel), .doc = "Its operating system."},
    {.name = "num_cores",
     .type = HLM_JSON_INT,
     MACHINE(num_cores),
     .min = 0,
     .max = 1e6,
     .doc = "Cores that it has; 0: unknown."},
    {.name = "backend_library",
     .type = HLM_JSON_STRING,
     MACHINE(backend_library),
     .doc = "Library and version that computed."},
    {0}};
static const struct hlm_json_table machine_table = {"machine", sizeof(struct hlm_measured_machine),
                                                    machine_fields};

#define META(member, text)                                                                         \
    {                                                                                              \
        .name = #member, .type = HLM_JSON_STRING,                                                  \
        .offset = offsetof(struct hlm_measurement_meta, member),                                   \
        .flags = HLM_FIELD_META | HLM_FIELD_OMIT_DEFAULT, .doc = text                              \
    }
static const struct hlm_json_field meta_fields[] = {
    META(date, "When the run was."), META(hlmplan_version, "By which version."), {0}};
static const struct hlm_json_table meta_table = {"measurement_meta",
                                                 sizeof(struct hlm_measurement_meta), meta_fields};

#define ROW(member) .offset = offsetof(struct hlm_measurement, member)
#define COUNT(member, text)                                                                        \
    {                                                                                              \
        .name = #member, .type = HLM_JSON_INT, ROW(member), .flags = HLM_FIELD_REQUIRED, .min = 0, \
        .max = INT32_MAX, .doc = text                                                              \
    }
static const struct hlm_json_field measurement_fields[] = {
    {.name = "digests",
     .type = HLM_JSON_OBJECT,
     ROW(digests),
     .flags = HLM_FIELD_REQUIRED,
     .table = &hlm_plan_digests_table,
     .doc = "Digests of the plan that ran."},
    {.name = "backend",
     .type = HLM_JSON_STRING,
     ROW(backend),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "What computed: cpu or cuda."},
    {.name = "transport",
     .type = HLM_JSON_STRING,
     ROW(transport),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "How ranks talked: thread, mpi, nccl, or emulated."},
    {.name = "virtual_time",
     .type = HLM_JSON_BOOL,
     ROW(virtual_time),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "Times are sums of measured CPU times and modelled messages, not of the wall clock."},
    COUNT(num_ranks, "Ranks of the plan."),
    COUNT(num_cores, "Cores that they shared."),
    {.name = "emulated_rank",
     .type = HLM_JSON_INT,
     ROW(emulated_rank),
     .flags = HLM_FIELD_OMIT_DEFAULT | HLM_FIELD_NULLABLE,
     .min = 0,
     .max = INT32_MAX,
     .def = -1,
     .doc = "The only rank that ran, with its peers and all communication as predicted; absent or "
            "null: all ranks ran."},
    {.name = "steps",
     .type = HLM_JSON_ARRAY,
     ROW(steps),
     .flags = HLM_FIELD_REQUIRED,
     .min = 1,
     .max = 1e7,
     .table = &step_table,
     .count_offset = offsetof(struct hlm_measurement, num_steps),
     .doc = "One entry a step."},
    COUNT(num_warmup_steps, "Steps at the start that do not count."),
    COUNT(num_clean_steps, "Steps that count: behind the warm-up and undisturbed."),
    {.name = "step_time_s",
     .type = HLM_JSON_DOUBLE,
     ROW(step_time_s),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1e9,
     .doc = "Median of the clean steps, or the step in virtual time, seconds."},
    {.name = "parts",
     .type = HLM_JSON_OBJECT,
     ROW(parts),
     .flags = HLM_FIELD_REQUIRED,
     .table = &hlm_time_node_table,
     .doc = "Where the step's time went, by the names of the plan's prediction."},
    {.name = "memory",
     .type = HLM_JSON_ARRAY,
     ROW(memory),
     .flags = HLM_FIELD_REQUIRED,
     .table = &memory_table,
     .count_offset = offsetof(struct hlm_measurement, num_memory),
     .doc = "Peak memory of each rank that ran."},
    {.name = "actions",
     .type = HLM_JSON_ARRAY,
     ROW(actions),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .table = &action_table,
     .count_offset = offsetof(struct hlm_measurement, num_actions),
     .doc = "Computing and communication of an emulated rank, by stage and kind of action."},
    {.name = "messages",
     .type = HLM_JSON_ARRAY,
     ROW(messages),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .table = &message_table,
     .count_offset = offsetof(struct hlm_measurement, num_messages),
     .doc = "Messages between stages, measured by themselves for virtual time."},
    {.name = "timeline",
     .type = HLM_JSON_OBJECT,
     ROW(timeline),
     .flags = HLM_FIELD_REQUIRED,
     .table = &hlm_timeline_table,
     .doc = "The clean step that is nearest to step_time_s."},
    {.name = "machine",
     .type = HLM_JSON_OBJECT,
     ROW(machine),
     .flags = HLM_FIELD_REQUIRED,
     .table = &machine_table,
     .doc = "Where it ran."},
    {.name = "meta",
     .type = HLM_JSON_OBJECT,
     ROW(meta),
     .flags = HLM_FIELD_META,
     .table = &meta_table,
     .doc = "What varies between equal runs."},
    {0}};
const struct hlm_json_table hlm_measurement_table = {"measurement", sizeof(struct hlm_measurement),
                                                     measurement_fields};

/* ---- the step time ---- */

bool hlm_measurement_is_clean(const struct hlm_measured_step *step, int32_t num_warmup_steps,
                              bool virtual_time)
{
    return step->step >= num_warmup_steps &&
           (virtual_time || step->availability_frac > HLM_CLEAN_AVAILABILITY);
}

static int compare_doubles(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double median(double *values, int32_t count)
{
    qsort(values, (size_t)count, sizeof(*values), compare_doubles);
    return count % 2 == 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2.0;
}

double hlm_measurement_step_time(struct hlm_arena *arena, const struct hlm_measured_step *steps,
                                 int32_t num_steps, int32_t num_warmup_steps, bool virtual_time,
                                 int32_t *out_num_clean)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    double *clean = HLM_ARENA_ARRAY(arena, double, num_steps);
    double *warm = HLM_ARENA_ARRAY(arena, double, num_steps);
    int32_t num_clean = 0, num_warm = 0;
    for (int32_t i = 0; i < num_steps; i++) {
        if (steps[i].step >= num_warmup_steps) {
            warm[num_warm++] = steps[i].wall_s;
        }
        if (hlm_measurement_is_clean(&steps[i], num_warmup_steps, virtual_time)) {
            clean[num_clean++] = steps[i].wall_s;
        }
    }
    HLM_ASSERT(num_warm > 0);
    const double seconds = num_clean > 0 ? median(clean, num_clean) : median(warm, num_warm);
    hlm_arena_rewind(arena, mark);
    *out_num_clean = num_clean;
    return seconds;
}

void hlm_measurement_rates(const struct hlm_plan *plan, double step_s, double *out_tokens_per_s,
                           double *out_mfu)
{
    HLM_ASSERT(step_s > 0.0);
    const struct hlm_plan_prediction *prediction = &plan->prediction;
    /* The prediction's flops and peak, over another time. */
    const double mfu = prediction->mfu * prediction->step_time_s / step_s;
    *out_tokens_per_s =
        (double)plan->strategy.global_batch_size * (double)plan->strategy.seq_len / step_s;
    *out_mfu = isfinite(mfu) ? mfu : 0.0;
}

/* ---- reading ---- */

static enum hlm_status check_events(const struct hlm_timeline_rank *rank, int32_t index,
                                    const char *where, struct hlm_err *err)
{
    for (int32_t i = 0; i < rank->num_events; i++) {
        const struct hlm_timeline_event *event = &rank->events[i];
        struct hlm_action action, second;
        if (!hlm_action_parse_pair(event->action, &action, &second) &&
            hlm_action_parse(event->action, &action, err) != HLM_OK) {
            hlm_err_prefix(err, "%s: $.timeline.ranks[%d].events[%d].action", where, index, i);
            return err->status;
        }
        if (event->end_s < event->start_s) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: $.timeline.ranks[%d].events[%d].end_s: expected at least start_s "
                            "= %g, found %g",
                            where, index, i, event->start_s, event->end_s);
        }
    }
    return HLM_OK;
}

static enum hlm_status check_emulated(const struct hlm_measurement *measurement, const char *where,
                                      struct hlm_err *err)
{
    const int32_t rank = measurement->emulated_rank;
    if (rank >= measurement->num_ranks) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.emulated_rank: expected less than num_ranks = %d, found %d", where,
                        measurement->num_ranks, rank);
    }
    const struct hlm_timeline *timeline = &measurement->timeline;
    if (rank >= 0 && (timeline->num_ranks != 1 || timeline->ranks[0].rank != rank)) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.timeline.ranks: expected the emulated rank %d alone, found %d ranks",
                        where, rank, timeline->num_ranks);
    }
    return HLM_OK;
}

static enum hlm_status check_measurement(const struct hlm_measurement *measurement,
                                         const char *where, struct hlm_err *err)
{
    if (measurement->num_warmup_steps >= measurement->num_steps) {
        return hlm_fail(err, HLM_INPUT, "%s: $.num_warmup_steps: expected less than %d, found %d",
                        where, measurement->num_steps, measurement->num_warmup_steps);
    }
    if (measurement->num_clean_steps > measurement->num_steps - measurement->num_warmup_steps) {
        return hlm_fail(err, HLM_INPUT, "%s: $.num_clean_steps: expected at most %d, found %d",
                        where, measurement->num_steps - measurement->num_warmup_steps,
                        measurement->num_clean_steps);
    }
    for (int32_t i = 0; i < measurement->num_steps; i++) {
        if (measurement->steps[i].step != i) {
            return hlm_fail(err, HLM_INPUT, "%s: $.steps[%d].step: expected %d, found %d", where, i,
                            i, measurement->steps[i].step);
        }
    }
    HLM_TRY(check_emulated(measurement, where, err));
    for (int32_t i = 0; i < measurement->timeline.num_ranks; i++) {
        const struct hlm_timeline_rank *rank = &measurement->timeline.ranks[i];
        if (rank->rank >= measurement->num_ranks) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: $.timeline.ranks[%d].rank: expected less than num_ranks = %d, "
                            "found %d",
                            where, i, measurement->num_ranks, rank->rank);
        }
        HLM_TRY(check_events(rank, i, where, err));
    }
    return HLM_OK;
}

enum hlm_status hlm_measurement_read(struct hlm_arena *arena, const char *path,
                                     const struct hlm_measurement **out, struct hlm_err *err)
{
    struct hlm_measurement *measurement = HLM_ARENA_NEW(arena, struct hlm_measurement);
    HLM_TRY(hlm_json_read_file(arena, path, &hlm_measurement_table, measurement, err));
    HLM_TRY(check_measurement(measurement, path, err));
    *out = measurement;
    return HLM_OK;
}

enum hlm_status hlm_measurement_read_text(struct hlm_arena *arena, const char *name,
                                          const char *text, size_t length,
                                          const struct hlm_measurement **out, struct hlm_err *err)
{
    struct hlm_measurement *measurement = HLM_ARENA_NEW(arena, struct hlm_measurement);
    HLM_TRY(
        hlm_json_read_text(arena, name, text, length, &hlm_measurement_table, measurement, err));
    HLM_TRY(check_measurement(measurement, name, err));
    *out = measurement;
    return HLM_OK;
}

enum hlm_status hlm_measurement_check_plan(const struct hlm_measurement *measurement,
                                           const char *where,
                                           const struct hlm_plan_digests *digests,
                                           struct hlm_err *err)
{
    const struct {
        const char *name, *measured, *plan;
    } parts[] = {{"model", measurement->digests.model, digests->model},
                 {"cluster", measurement->digests.cluster, digests->cluster},
                 {"strategy", measurement->digests.strategy, digests->strategy},
                 {"stages", measurement->digests.stages, digests->stages}};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (strcmp(parts[i].measured, parts[i].plan) != 0) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: $.digests.%s: measured from another plan (expected %s, found %s)",
                            where, parts[i].name, parts[i].plan, parts[i].measured);
        }
    }
    return HLM_OK;
}
