#include "compare/truth.h"

#include <stddef.h>
#include <string.h>

#include "base/file.h"

enum { MAX_FILE_BYTES = 1 << 30 };

const char *const hlm_truth_kind_texts[] = {
#define X(name, text) text,
    HLM_TRUTH_KIND_MAP(X)
#undef X
        NULL};

#define ROW(owner, member, json_type, row_flags)                                                   \
    .name = #member, .type = (json_type), .offset = offsetof(struct owner, member),                \
    .flags = (row_flags)
#define COUNT(owner, member)                                                                       \
    {                                                                                              \
        ROW(owner, member, HLM_JSON_INT, HLM_FIELD_REQUIRED), .min = 0, .max = INT32_MAX           \
    }
#define MAY_COUNT(owner, member)                                                                   \
    {                                                                                              \
        ROW(owner, member, HLM_JSON_INT, HLM_FIELD_NULLABLE), .min = 0, .max = INT32_MAX           \
    }
#define SIZE(owner, member)                                                                        \
    {                                                                                              \
        ROW(owner, member, HLM_JSON_INT64, HLM_FIELD_REQUIRED), .min = 0, .max = 1e12              \
    }
#define MAY_SIZE(owner, member)                                                                    \
    {                                                                                              \
        ROW(owner, member, HLM_JSON_INT64, HLM_FIELD_NULLABLE), .min = 0, .max = 1e12              \
    }
#define MAY_NUMBER(owner, member)                                                                  \
    {                                                                                              \
        ROW(owner, member, HLM_JSON_DOUBLE, HLM_FIELD_NULLABLE), .min = 0, .max = 1e18             \
    }
#define TEXT(owner, member)                                                                        \
    {                                                                                              \
        ROW(owner, member, HLM_JSON_STRING, HLM_FIELD_REQUIRED)                                    \
    }
#define MAY_TEXT(owner, member)                                                                    \
    {                                                                                              \
        ROW(owner, member, HLM_JSON_STRING, 0)                                                     \
    }
#define MAY_BOOL(owner, member)                                                                    \
    {                                                                                              \
        ROW(owner, member, HLM_JSON_BOOL, HLM_FIELD_NULLABLE)                                      \
    }
#define PART(owner, member, part_table)                                                            \
    {                                                                                              \
        ROW(owner, member, HLM_JSON_OBJECT, HLM_FIELD_REQUIRED), .table = &(part_table)            \
    }
#define MAY_PART(owner, member, part_table)                                                        \
    {                                                                                              \
        ROW(owner, member, HLM_JSON_POINTER, 0), .table = &(part_table)                            \
    }
#define OTHER_KEYS                                                                                 \
    {                                                                                              \
        .name = HLM_JSON_OTHER_KEYS, .type = HLM_JSON_STRING                                       \
    }

static const struct hlm_json_field moe_fields[] = {COUNT(hlm_truth_moe, experts),
                                                   COUNT(hlm_truth_moe, top_k),
                                                   SIZE(hlm_truth_moe, ffn_hidden),
                                                   MAY_SIZE(hlm_truth_moe, shared_ffn_hidden),
                                                   MAY_COUNT(hlm_truth_moe, dense_layers),
                                                   MAY_NUMBER(hlm_truth_moe, capacity_factor),
                                                   {.name = NULL}};
static const struct hlm_json_table moe_table = {"truth_moe", sizeof(struct hlm_truth_moe),
                                                moe_fields};

static const struct hlm_json_field mla_fields[] = {
    SIZE(hlm_truth_mla, q_lora),  SIZE(hlm_truth_mla, kv_lora), SIZE(hlm_truth_mla, qk_nope),
    SIZE(hlm_truth_mla, qk_rope), SIZE(hlm_truth_mla, v),       {.name = NULL}};
static const struct hlm_json_table mla_table = {"truth_mla", sizeof(struct hlm_truth_mla),
                                                mla_fields};

static const struct hlm_json_field model_fields[] = {TEXT(hlm_truth_model, name),
                                                     COUNT(hlm_truth_model, layers),
                                                     SIZE(hlm_truth_model, hidden),
                                                     COUNT(hlm_truth_model, heads),
                                                     COUNT(hlm_truth_model, kv_heads),
                                                     SIZE(hlm_truth_model, head_dim),
                                                     SIZE(hlm_truth_model, ffn_hidden),
                                                     MAY_BOOL(hlm_truth_model, gated),
                                                     SIZE(hlm_truth_model, vocab),
                                                     SIZE(hlm_truth_model, seq_len),
                                                     MAY_BOOL(hlm_truth_model, tied_embeddings),
                                                     MAY_BOOL(hlm_truth_model, qkv_bias),
                                                     MAY_COUNT(hlm_truth_model, mtp_layers),
                                                     MAY_SIZE(hlm_truth_model, window),
                                                     MAY_COUNT(hlm_truth_model, window_layers),
                                                     MAY_NUMBER(hlm_truth_model, params_count),
                                                     MAY_TEXT(hlm_truth_model, activation),
                                                     MAY_TEXT(hlm_truth_model, block),
                                                     MAY_TEXT(hlm_truth_model, pos_emb),
                                                     MAY_PART(hlm_truth_model, moe, moe_table),
                                                     MAY_PART(hlm_truth_model, mla, mla_table),
                                                     {.name = NULL}};
static const struct hlm_json_table model_table = {"truth_model", sizeof(struct hlm_truth_model),
                                                  model_fields};

static const struct hlm_json_field hardware_fields[] = {TEXT(hlm_truth_hardware, gpu),
                                                        TEXT(hlm_truth_hardware, gpu_family),
                                                        MAY_NUMBER(hlm_truth_hardware, gpu_mem_gb),
                                                        COUNT(hlm_truth_hardware, gpus),
                                                        COUNT(hlm_truth_hardware, gpus_per_node),
                                                        MAY_TEXT(hlm_truth_hardware, interconnect),
                                                        OTHER_KEYS,
                                                        {.name = NULL}};
static const struct hlm_json_table hardware_table = {
    "truth_hardware", sizeof(struct hlm_truth_hardware), hardware_fields};

static const struct hlm_json_field parallel_fields[] = {COUNT(hlm_truth_parallel, tp),
                                                        COUNT(hlm_truth_parallel, pp),
                                                        COUNT(hlm_truth_parallel, dp),
                                                        COUNT(hlm_truth_parallel, cp),
                                                        COUNT(hlm_truth_parallel, ep),
                                                        MAY_COUNT(hlm_truth_parallel, etp),
                                                        MAY_COUNT(hlm_truth_parallel, vpp),
                                                        MAY_BOOL(hlm_truth_parallel, sp),
                                                        MAY_COUNT(hlm_truth_parallel, zero),
                                                        MAY_COUNT(hlm_truth_parallel, zero_group),
                                                        {.name = NULL}};
static const struct hlm_json_table parallel_table = {
    "truth_parallel", sizeof(struct hlm_truth_parallel), parallel_fields};

static const struct hlm_json_field batch_fields[] = {SIZE(hlm_truth_batch, global),
                                                     MAY_SIZE(hlm_truth_batch, micro),
                                                     MAY_NUMBER(hlm_truth_batch, num_microbatches),
                                                     {.name = NULL}};
static const struct hlm_json_table batch_table = {"truth_batch", sizeof(struct hlm_truth_batch),
                                                  batch_fields};

static const struct hlm_json_field measured_fields[] = {MAY_NUMBER(hlm_truth_measured, memory_gb),
                                                        MAY_NUMBER(hlm_truth_measured, memory_gib),
                                                        OTHER_KEYS,
                                                        {.name = NULL}};
static const struct hlm_json_table measured_table = {
    "truth_measured", sizeof(struct hlm_truth_measured), measured_fields};

static const struct hlm_json_field target_fields[] = {
    TEXT(hlm_truth_target, metric),
    {ROW(hlm_truth_target, value, HLM_JSON_DOUBLE, HLM_FIELD_REQUIRED | HLM_FIELD_OR_BOOL),
     .min = 0, .max = 1e18},
    MAY_TEXT(hlm_truth_target, basis),
    {.name = NULL}};
static const struct hlm_json_table target_table = {"truth_target", sizeof(struct hlm_truth_target),
                                                   target_fields};

static const struct hlm_json_field point_fields[] = {
    TEXT(hlm_truth_point, id),
    TEXT(hlm_truth_point, family),
    MAY_TEXT(hlm_truth_point, use),
    MAY_NUMBER(hlm_truth_point, family_weight),
    {ROW(hlm_truth_point, kind, HLM_JSON_ENUM, HLM_FIELD_REQUIRED), .enums = hlm_truth_kind_texts},
    PART(hlm_truth_point, model, model_table),
    PART(hlm_truth_point, hardware, hardware_table),
    PART(hlm_truth_point, parallel, parallel_table),
    PART(hlm_truth_point, batch, batch_table),
    MAY_TEXT(hlm_truth_point, recompute),
    MAY_TEXT(hlm_truth_point, recompute_detail),
    MAY_TEXT(hlm_truth_point, precision),
    MAY_TEXT(hlm_truth_point, schedule),
    MAY_TEXT(hlm_truth_point, optimizer),
    MAY_TEXT(hlm_truth_point, overlap),
    MAY_TEXT(hlm_truth_point, software),
    {ROW(hlm_truth_point, offload, HLM_JSON_STRINGS, HLM_FIELD_OR_ONE),
     .count_offset = offsetof(struct hlm_truth_point, num_offload)},
    {ROW(hlm_truth_point, measured, HLM_JSON_OBJECT, 0), .table = &measured_table},
    PART(hlm_truth_point, target, target_table),
    OTHER_KEYS,
    {.name = NULL}};
static const struct hlm_json_table point_table = {"truth_point", sizeof(struct hlm_truth_point),
                                                  point_fields};

enum hlm_status hlm_truth_read_text(struct hlm_arena *arena, const char *name, const char *text,
                                    size_t length, struct hlm_truth *out, struct hlm_err *err)
{
    struct hlm_json_list list;
    HLM_TRY(hlm_json_read_list(arena, name, text, length, &point_table, &list, err));
    struct hlm_truth_point *points =
        hlm_arena_memdup(arena, list.objects, (size_t)list.num * sizeof *points);
    for (int32_t i = 0; i < list.num; i++) {
        struct hlm_truth_point *point = &points[i];
        point->unreadable = list.errors[i];
        point->id = point->id != NULL ? point->id : hlm_arena_printf(arena, "[%d]", i);
        point->family = point->family != NULL ? point->family : "unreadable";
    }
    *out = (struct hlm_truth){points, list.num};
    return HLM_OK;
}

enum hlm_status hlm_truth_read(struct hlm_arena *arena, const char *path, struct hlm_truth *out,
                               struct hlm_err *err)
{
    const char *text = NULL;
    size_t length = 0;
    HLM_TRY(hlm_file_read(arena, path, MAX_FILE_BYTES, &text, &length, err));
    return hlm_truth_read_text(arena, strcmp(path, "-") == 0 ? "stdin" : path, text, length, out,
                               err);
}
