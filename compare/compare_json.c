/* The field tables of the kind "comparison". */
#include <stddef.h>

#include "compare/compare.h"

#define SECONDS(type_name, member, text)                                                           \
    {                                                                                              \
        .name = #member, .type = HLM_JSON_DOUBLE, .offset = offsetof(struct type_name, member),    \
        .flags = HLM_FIELD_REQUIRED, .doc = text                                                   \
    }
#define WHOLE(type_name, member, text)                                                             \
    {                                                                                              \
        .name = #member, .type = HLM_JSON_INT, .offset = offsetof(struct type_name, member),       \
        .flags = HLM_FIELD_REQUIRED, .min = 0, .max = INT32_MAX, .doc = text                       \
    }
#define BYTES(type_name, member, text)                                                             \
    {                                                                                              \
        .name = #member, .type = HLM_JSON_INT64, .offset = offsetof(struct type_name, member),     \
        .flags = HLM_FIELD_REQUIRED, .min = 0, .max = 9e15, .doc = text                            \
    }
#define TRUTH(type_name, member, text)                                                             \
    {                                                                                              \
        .name = #member, .type = HLM_JSON_BOOL, .offset = offsetof(struct type_name, member),      \
        .flags = HLM_FIELD_REQUIRED, .doc = text                                                   \
    }

static const struct hlm_json_table part_table;
static const struct hlm_json_field part_fields[] = {
    {.name = "name",
     .type = HLM_JSON_STRING,
     .offset = offsetof(struct hlm_compare_part, name),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "What the time is spent on."},
    SECONDS(hlm_compare_part, predicted_s, "Seconds that the plan promised; 0: no such part."),
    SECONDS(hlm_compare_part, measured_s, "Seconds of the run; 0: not measured."),
    {.name = "parts",
     .type = HLM_JSON_ARRAY,
     .offset = offsetof(struct hlm_compare_part, parts),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .table = &part_table,
     .count_offset = offsetof(struct hlm_compare_part, num_parts),
     .doc = "Named parts."},
    {0}};
static const struct hlm_json_table part_table = {"compared_part", sizeof(struct hlm_compare_part),
                                                 part_fields};

static const struct hlm_json_field action_fields[] = {
    WHOLE(hlm_compare_action, stage, "Stage."),
    {.name = "kind",
     .type = HLM_JSON_ENUM,
     .offset = offsetof(struct hlm_compare_action, kind),
     .flags = HLM_FIELD_REQUIRED,
     .enums = hlm_action_texts,
     .doc = "Kind of action."},
    WHOLE(hlm_compare_action, num_measured, "Events behind the measured mean."),
    SECONDS(hlm_compare_action, predicted_s, "Mean duration by the plan, seconds."),
    SECONDS(hlm_compare_action, measured_s, "Mean duration of the run, seconds."),
    {0}};
static const struct hlm_json_table action_table = {
    "compared_action", sizeof(struct hlm_compare_action), action_fields};

static const struct hlm_json_field memory_fields[] = {
    WHOLE(hlm_compare_memory, stage, "Stage."),
    BYTES(hlm_compare_memory, predicted_bytes, "Peak by the plan without fixed_bytes."),
    BYTES(hlm_compare_memory, measured_bytes, "Peak of the stage's rank that held most."),
    BYTES(hlm_compare_memory, device_predicted_bytes, "Peak by the plan with fixed_bytes."),
    BYTES(hlm_compare_memory, device_used_bytes,
          "Most that a device of the stage had in use, by whomever; 0: unknown."),
    {0}};
static const struct hlm_json_table memory_table = {
    "compared_memory", sizeof(struct hlm_compare_memory), memory_fields};

static const struct hlm_json_field comparison_fields[] = {
    SECONDS(hlm_comparison, predicted_s, "Step time by the plan, seconds."),
    SECONDS(hlm_comparison, measured_s, "Step time of the run, seconds."),
    SECONDS(hlm_comparison, error_frac, "(predicted - measured) / measured."),
    SECONDS(hlm_comparison, tolerance_frac, "Largest error that was asked for."),
    TRUTH(hlm_comparison, within,
          "The error is no larger than that, in either direction; of an emulated rank that of its "
          "computing too."),
    TRUTH(hlm_comparison, virtual_time, "The run's times are virtual ones."),
    {.name = "emulated_rank",
     .type = HLM_JSON_INT,
     .offset = offsetof(struct hlm_comparison, emulated_rank),
     .flags = HLM_FIELD_OMIT_DEFAULT | HLM_FIELD_NULLABLE,
     .min = 0,
     .max = INT32_MAX,
     .def = -1,
     .doc = "The only rank that ran; then only computing and memory were measured, and the step "
            "waited as predicted. Absent or null: all ranks ran."},
    SECONDS(hlm_comparison, compute_predicted_s,
            "Forward, backward and optimizer by the plan, seconds."),
    SECONDS(hlm_comparison, compute_measured_s, "The same of the run, seconds."),
    WHOLE(hlm_comparison, num_clean_steps, "Steps behind the measured step time."),
    {.name = "parts",
     .type = HLM_JSON_OBJECT,
     .offset = offsetof(struct hlm_comparison, parts),
     .flags = HLM_FIELD_REQUIRED,
     .table = &part_table,
     .doc = "The step by named parts."},
    {.name = "actions",
     .type = HLM_JSON_ARRAY,
     .offset = offsetof(struct hlm_comparison, actions),
     .flags = HLM_FIELD_REQUIRED,
     .table = &action_table,
     .count_offset = offsetof(struct hlm_comparison, num_actions),
     .doc = "Mean durations by stage and kind of action."},
    {.name = "memory",
     .type = HLM_JSON_ARRAY,
     .offset = offsetof(struct hlm_comparison, memory),
     .flags = HLM_FIELD_REQUIRED,
     .table = &memory_table,
     .count_offset = offsetof(struct hlm_comparison, num_memory),
     .doc = "Peak memory by stage."},
    {0}};
const struct hlm_json_table hlm_comparison_table = {"comparison", sizeof(struct hlm_comparison),
                                                    comparison_fields};
