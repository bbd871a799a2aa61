/* The field tables of the kind "validation". */
#include <stddef.h>

#include "compare/validate.h"

#define ROW(owner, member, json_type, text)                                                        \
    .name = #member, .type = (json_type), .offset = offsetof(struct owner, member),                \
    .flags = HLM_FIELD_REQUIRED, .doc = (text)
#define TEXT(owner, member, text)                                                                  \
    {                                                                                              \
        ROW(owner, member, HLM_JSON_STRING, text)                                                  \
    }
#define NUMBER(owner, member, text)                                                                \
    {                                                                                              \
        ROW(owner, member, HLM_JSON_DOUBLE, text)                                                  \
    }
#define COUNT(owner, member, text)                                                                 \
    {                                                                                              \
        ROW(owner, member, HLM_JSON_INT, text), .min = 0, .max = INT32_MAX                         \
    }
#define LIST(owner, member, count, of, text)                                                       \
    {                                                                                              \
        ROW(owner, member, HLM_JSON_ARRAY, text), .table = &(of),                                  \
                                                  .count_offset = offsetof(struct owner, count)    \
    }

static const struct hlm_json_field result_fields[] = {
    TEXT(hlm_validate_result, id, "The point."),
    TEXT(hlm_validate_result, family, "Series that it belongs to."),
    {ROW(hlm_validate_result, kind, HLM_JSON_ENUM, "What was measured."),
     .enums = hlm_truth_kind_texts},
    {ROW(hlm_validate_result, scored, HLM_JSON_BOOL, "Whether it counts in the tables.")},
    {.name = "reason",
     .type = HLM_JSON_STRING,
     .offset = offsetof(struct hlm_validate_result, reason),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .doc = "Why there is no prediction."},
    NUMBER(hlm_validate_result, weight, "1 / scored points of the family."),
    NUMBER(hlm_validate_result, predicted,
           "Seconds (train_step), milliseconds (layer_time), GB (memory), 1 fits or 0 (oom)."),
    NUMBER(hlm_validate_result, measured, "The same, as published."),
    NUMBER(hlm_validate_result, error_frac,
           "(predicted - measured) / measured; oom: 0 right, 1 wrong."),
    NUMBER(hlm_validate_result, memory_predicted, "Peak bytes of the fullest rank."),
    NUMBER(hlm_validate_result, memory_measured, "Published peak bytes; 0: none."),
    NUMBER(hlm_validate_result, memory_error_frac, "As error_frac."),
    {.name = "parts",
     .type = HLM_JSON_POINTER,
     .offset = offsetof(struct hlm_validate_result, parts),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .table = &hlm_time_node_table,
     .doc = "Where the predicted step time goes."},
    {.name = NULL}};
static const struct hlm_json_table result_table = {
    "validate_result", sizeof(struct hlm_validate_result), result_fields};

static const struct hlm_json_field family_fields[] = {
    TEXT(hlm_validate_family, family, "Series of one source."),
    COUNT(hlm_validate_family, num_points, "Scored points."),
    COUNT(hlm_validate_family, num_predicted, "Of these, predicted times."),
    NUMBER(hlm_validate_family, mean_error_frac, "Mean signed error of predicted times."),
    NUMBER(hlm_validate_family, mean_abs_error_frac, "Mean absolute error of predicted times."),
    NUMBER(hlm_validate_family, worst_error_frac, "The error furthest from 0."),
    {.name = "worst_id",
     .type = HLM_JSON_STRING,
     .offset = offsetof(struct hlm_validate_family, worst_id),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .doc = "Its point."},
    COUNT(hlm_validate_family, num_memory, "Predicted peak memories."),
    NUMBER(hlm_validate_family, mean_memory_error_frac, "Mean signed error of these."),
    NUMBER(hlm_validate_family, mean_abs_memory_error_frac, "Mean absolute error of these."),
    COUNT(hlm_validate_family, num_fits, "Predictions of fits or does not fit."),
    COUNT(hlm_validate_family, num_fits_right, "The right ones of these."),
    {.name = NULL}};
static const struct hlm_json_table family_table = {
    "validate_family", sizeof(struct hlm_validate_family), family_fields};

static const struct hlm_json_field reason_fields[] = {
    TEXT(hlm_validate_reason, reason, "Why there is no prediction."),
    COUNT(hlm_validate_reason, num_points, "Points with this reason."),
    NUMBER(hlm_validate_reason, weight, "Sum of their weights."),
    {.name = NULL}};
static const struct hlm_json_table reason_table = {
    "validate_reason", sizeof(struct hlm_validate_reason), reason_fields};

static const struct hlm_json_field validation_fields[] = {
    {ROW(hlm_validation, all, HLM_JSON_OBJECT, "All families, means weighted by family_weight."),
     .table = &family_table},
    NUMBER(hlm_validation, weight_predicted, "Sum of the weights of the predicted times."),
    NUMBER(hlm_validation, weight_all, "Sum of the weights of all scored times."),
    LIST(hlm_validation, families, num_families, family_table, "A row per family."),
    LIST(hlm_validation, reasons, num_reasons, reason_table, "What was not predicted, and why."),
    LIST(hlm_validation, results, num_results, result_table, "A row per point."),
    {.name = NULL}};
const struct hlm_json_table hlm_validation_table = {"validation", sizeof(struct hlm_validation),
                                                    validation_fields};
