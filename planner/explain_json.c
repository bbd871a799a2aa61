/* The field tables of the kind "explanation". */
#include <stddef.h>

#include "planner/explain.h"

#define ROW(type_name, member, json_type, text)                                                    \
    .name = #member, .type = (json_type), .offset = offsetof(struct type_name, member),            \
    .flags = HLM_FIELD_REQUIRED, .doc = (text)
#define NUMBER(type_name, member, text)                                                            \
    {                                                                                              \
        ROW(type_name, member, HLM_JSON_DOUBLE, text)                                              \
    }
#define TRUTH(type_name, member, text)                                                             \
    {                                                                                              \
        ROW(type_name, member, HLM_JSON_BOOL, text)                                                \
    }
#define WHOLE(type_name, member, text)                                                             \
    {                                                                                              \
        ROW(type_name, member, HLM_JSON_INT, text), .max = INT32_MAX                               \
    }
#define BYTES(type_name, member, text)                                                             \
    {                                                                                              \
        ROW(type_name, member, HLM_JSON_INT64, text), .min = -9e15, .max = 9e15                    \
    }
#define CHOICE(type_name, member, texts, text)                                                     \
    {                                                                                              \
        ROW(type_name, member, HLM_JSON_ENUM, text), .enums = (texts)                              \
    }
#define OBJECT(type_name, member, fields_of, text)                                                 \
    {                                                                                              \
        ROW(type_name, member, HLM_JSON_OBJECT, text), .table = &(fields_of)                       \
    }
#define LIST(type_name, member, count, fields_of, text)                                            \
    {                                                                                              \
        ROW(type_name, member, HLM_JSON_ARRAY, text),                                              \
            .table = &(fields_of), .count_offset = offsetof(struct type_name, count)               \
    }
#define STRING(type_name, member, text)                                                            \
    {                                                                                              \
        ROW(type_name, member, HLM_JSON_STRING, text)                                              \
    }
/* Null where the case does not apply. */
#define OPTIONAL_STRING(type_name, member, text)                                                   \
    {                                                                                              \
        .name = #member, .type = HLM_JSON_STRING, .offset = offsetof(struct type_name, member),    \
        .flags = HLM_FIELD_OMIT_DEFAULT, .doc = (text)                                             \
    }
#define OPTIONAL_OBJECT(type_name, member, fields_of, text)                                        \
    {                                                                                              \
        .name = #member, .type = HLM_JSON_POINTER, .offset = offsetof(struct type_name, member),   \
        .flags = HLM_FIELD_OMIT_DEFAULT, .table = &(fields_of), .doc = (text)                      \
    }
#define TABLE(kind, type_name, fields)                                                             \
    {                                                                                              \
        kind, sizeof(struct type_name), fields                                                     \
    }

/* --- why not --- */

static const char *const memory_kind_texts[] = {
#define X(name, text) text,
    HLM_MEMORY_KIND_MAP(X) NULL
#undef X
};

static const struct hlm_json_table delta_table;
static const struct hlm_json_field delta_fields[] = {
    STRING(hlm_explain_delta, name, "What the time is spent on."),
    NUMBER(hlm_explain_delta, plan_s, "Seconds of the plan; 0: it has no such part."),
    NUMBER(hlm_explain_delta, alternative_s, "Seconds of the alternative; 0: no such part."),
    NUMBER(hlm_explain_delta, delta_s, "alternative_s - plan_s; the sum of its parts'."),
    {.name = "parts",
     .type = HLM_JSON_ARRAY,
     .offset = offsetof(struct hlm_explain_delta, parts),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .table = &delta_table,
     .count_offset = offsetof(struct hlm_explain_delta, num_parts),
     .doc = "Named parts."},
    {0}};
static const struct hlm_json_table delta_table = TABLE("delta", hlm_explain_delta, delta_fields);

#define MEMORY_DELTA(kind_name, text)                                                              \
    {.name = (text),                                                                               \
     .type = HLM_JSON_INT64,                                                                       \
     .offset = offsetof(struct hlm_explain_memory, delta_bytes) +                                  \
               HLM_MEMORY_##kind_name * sizeof(int64_t),                                           \
     .flags = HLM_FIELD_REQUIRED,                                                                  \
     .min = -9e15,                                                                                 \
     .max = 9e15,                                                                                  \
     .doc = "Alternative minus plan, bytes of one rank of the stage."},
static const struct hlm_json_field memory_fields[] = {
    WHOLE(hlm_explain_memory, stage, "Stage, of either plan."),
    BYTES(hlm_explain_memory, plan_peak_bytes, "Peak of the plan; 0: it has no such stage."),
    BYTES(hlm_explain_memory, alternative_peak_bytes, "Peak of the alternative, or 0."),
    HLM_MEMORY_KIND_MAP(MEMORY_DELTA){0}};
static const struct hlm_json_table memory_table =
    TABLE("memory_delta", hlm_explain_memory, memory_fields);

static const struct hlm_json_field difference_fields[] = {
    OBJECT(hlm_explain_difference, strategy, hlm_strategy_table, "Degrees and switches."),
    LIST(hlm_explain_difference, stages, num_stages, hlm_plan_stage_table,
         "Its placement of layers."),
    NUMBER(hlm_explain_difference, step_time_s, "Seconds of one step, simulated."),
    NUMBER(hlm_explain_difference, tokens_per_s, "Tokens of the global batch per second."),
    NUMBER(hlm_explain_difference, lower_bound_s,
           "No plan of this kind is faster, seconds; 0: not searched."),
    OBJECT(hlm_explain_difference, interval, hlm_plan_interval_table,
           "Step time within the spread of the profile's fits."),
    TRUTH(hlm_explain_difference, within_uncertainty,
          "The intervals of plan and alternative overlap: the profile can't tell which is faster."),
    OBJECT(hlm_explain_difference, parts, delta_table,
           "The step time's difference by named parts."),
    LIST(hlm_explain_difference, memory, num_memory, memory_table,
         "Memory by stage of either plan."),
    {0}};
static const struct hlm_json_table difference_table =
    TABLE("difference", hlm_explain_difference, difference_fields);

static const struct hlm_json_field change_fields[] = {
    STRING(hlm_explain_change, change, "What changes: a requirement, or device_memory."),
    NUMBER(hlm_explain_change, step_time_s, "Seconds of one step of the best plan then."),
    BYTES(hlm_explain_change, memory_bytes, "Memory that a device needs; 0: as much as it has."),
    {0}};
static const struct hlm_json_table change_table =
    TABLE("change", hlm_explain_change, change_fields);

static const struct hlm_json_field misfit_fields[] = {
    OBJECT(hlm_explain_misfit, strategy, hlm_strategy_table, "The strategy that comes closest."),
    BYTES(hlm_explain_misfit, missing_bytes, "By how much it exceeds the device's memory."),
    OBJECT(hlm_explain_misfit, memory, hlm_stage_memory_table, "The stage that misses most."),
    CHOICE(hlm_explain_misfit, most, memory_kind_texts, "The kind of memory it holds most of."),
    LIST(hlm_explain_misfit, changes, num_changes, change_table,
         "Changes of one thing that let it fit, the cheapest first."),
    {0}};
static const struct hlm_json_table misfit_table =
    TABLE("misfit", hlm_explain_misfit, misfit_fields);

static const struct hlm_json_field alternative_fields[] = {
    STRING(hlm_explain_alternative, asked, "What was asked for."),
    CHOICE(hlm_explain_alternative, verdict, hlm_explain_verdict_texts, "How it compares."),
    OPTIONAL_STRING(hlm_explain_alternative, rule, "The rule that it breaks."),
    OPTIONAL_OBJECT(hlm_explain_alternative, misfit, misfit_table, "Why it does not fit."),
    OPTIONAL_OBJECT(hlm_explain_alternative, difference, difference_table,
                    "The best plan of this kind, and how it differs from the plan."),
    {0}};
static const struct hlm_json_table alternative_table =
    TABLE("alternative", hlm_explain_alternative, alternative_fields);

/* --- limits --- */

static const struct hlm_json_field share_fields[] = {
    CHOICE(hlm_explain_share, limit, hlm_explain_limit_texts, "What takes the time."),
    NUMBER(hlm_explain_share, seconds, "Seconds of a step on the rank that ends last."),
    NUMBER(hlm_explain_share, frac, "Of the step."),
    {0}};
static const struct hlm_json_table share_table = TABLE("share", hlm_explain_share, share_fields);

static const struct hlm_json_field traffic_fields[] = {
    CHOICE(hlm_explain_traffic, limit, hlm_explain_limit_texts,
           "Kind of traffic; transfer: between pipeline stages."),
    CHOICE(hlm_explain_traffic, link, hlm_explain_link_texts, "The slowest link that it takes."),
    WHOLE(hlm_explain_traffic, num_ranks, "Ranks of a group."),
    WHOLE(hlm_explain_traffic, num_nodes, "Nodes that a group spans."),
    NUMBER(hlm_explain_traffic, exposed_s, "Seconds of a step that nothing hides."),
    {0}};
static const struct hlm_json_table traffic_table =
    TABLE("traffic", hlm_explain_traffic, traffic_fields);

static const struct hlm_json_field gain_fields[] = {
    CHOICE(hlm_explain_gain, input, hlm_explain_input_texts, "The input that is changed."),
    NUMBER(hlm_explain_gain, factor, "By this factor."),
    OBJECT(hlm_explain_gain, strategy, hlm_strategy_table, "Of the best plan then."),
    NUMBER(hlm_explain_gain, step_time_s, "Seconds of its step."),
    NUMBER(hlm_explain_gain, tokens_per_s, "Tokens of its global batch per second."),
    NUMBER(hlm_explain_gain, gain_frac, "tokens_per_s / best_tokens_per_s - 1."),
    NUMBER(hlm_explain_gain, most_gain_frac, "No plan gains more."),
    TRUTH(hlm_explain_gain, same_strategy, "It is the plan's strategy, global batch apart."),
    {0}};
static const struct hlm_json_table gain_table = TABLE("gain", hlm_explain_gain, gain_fields);

static const struct hlm_json_field limits_fields[] = {
    LIST(hlm_explain_limits, shares, num_shares, share_table,
         "What takes the time, largest first."),
    WHOLE(hlm_explain_limits, last_rank, "The pipeline rank that ends last."),
    WHOLE(hlm_explain_limits, slowest_stage, "The stage with the longest microbatch."),
    NUMBER(hlm_explain_limits, slowest_stage_s, "Its forward and backward, seconds."),
    WHOLE(hlm_explain_limits, fullest_stage, "The stage with the least memory left."),
    BYTES(hlm_explain_limits, headroom_bytes, "Bytes that are left there."),
    CHOICE(hlm_explain_limits, most, memory_kind_texts, "The kind of memory it holds most of."),
    LIST(hlm_explain_limits, traffic, num_traffic, traffic_table, "Which links are used for what."),
    NUMBER(hlm_explain_limits, best_step_time_s,
           "Step time of the best plan that a search finds now, seconds."),
    NUMBER(hlm_explain_limits, best_tokens_per_s, "Its tokens per second."),
    OPTIONAL_STRING(hlm_explain_limits, not_searched, "Why gains are not known."),
    LIST(hlm_explain_limits, gains, num_gains, gain_table, "What changed inputs would give."),
    {0}};
static const struct hlm_json_table limits_table =
    TABLE("limits", hlm_explain_limits, limits_fields);

/* --- the whole answer --- */

static const struct hlm_json_field fields[] = {
    STRING(hlm_explanation, model, "Name of the model."),
    STRING(hlm_explanation, cluster, "Name of the cluster."),
    OBJECT(hlm_explanation, strategy, hlm_strategy_table, "The plan's degrees and switches."),
    NUMBER(hlm_explanation, step_time_s, "The plan's step, simulated anew, seconds."),
    NUMBER(hlm_explanation, tokens_per_s, "Tokens of the global batch per second."),
    OBJECT(hlm_explanation, interval, hlm_plan_interval_table,
           "Step time within the spread of the profile's fits."),
    OPTIONAL_OBJECT(hlm_explanation, limits, limits_table,
                    "What limits the plan and what would help; absent when asked why not."),
    LIST(hlm_explanation, alternatives, num_alternatives, alternative_table,
         "What was asked for, or the runners-up."),
    {0}};
const struct hlm_json_table hlm_explanation_table = TABLE("explanation", hlm_explanation, fields);
