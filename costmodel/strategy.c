#include "costmodel/strategy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/opt.h"

#define X(name, text) text,
const char *const hlm_schedule_texts[] = {HLM_SCHEDULE_MAP(X) NULL};
const char *const hlm_recompute_texts[] = {HLM_RECOMPUTE_MAP(X) NULL};
const char *const hlm_lowering_texts[] = {HLM_LOWERING_MAP(X) NULL};
const char *const hlm_cp_form_texts[] = {HLM_CP_FORM_MAP(X) NULL};
const char *const hlm_offload_texts[] = {HLM_OFFLOAD_MAP(X) NULL};
#undef X

struct hlm_schedule_chunks hlm_schedule_chunks(enum hlm_schedule_kind kind)
{
    static const struct hlm_schedule_chunks chunks[HLM_NUM_SCHEDULES] = {
        [HLM_SCHEDULE_GPIPE] = {1, 1},        [HLM_SCHEDULE_1F1B] = {1, 1},
        [HLM_SCHEDULE_1F1B_OVERLAP] = {1, 1}, [HLM_SCHEDULE_INTERLEAVED] = {2, 1 << 20},
        [HLM_SCHEDULE_ZB_H1] = {1, 1},        [HLM_SCHEDULE_ZB_H2] = {1, 1},
        [HLM_SCHEDULE_ZB_V] = {2, 2},         [HLM_SCHEDULE_V_HALF] = {2, 2},
        [HLM_SCHEDULE_V_MIN] = {2, 2},        [HLM_SCHEDULE_DUALPIPE_V] = {2, 2},
    };
    HLM_ASSERT((unsigned)kind < HLM_NUM_SCHEDULES);
    return chunks[kind];
}

bool hlm_schedule_splits(enum hlm_schedule_kind kind)
{
    static const bool splits[HLM_NUM_SCHEDULES] = {
        [HLM_SCHEDULE_ZB_H1] = true,  [HLM_SCHEDULE_ZB_H2] = true, [HLM_SCHEDULE_ZB_V] = true,
        [HLM_SCHEDULE_V_HALF] = true, [HLM_SCHEDULE_V_MIN] = true, [HLM_SCHEDULE_DUALPIPE_V] = true,
    };
    HLM_ASSERT((unsigned)kind < HLM_NUM_SCHEDULES);
    return splits[kind];
}

#define MAX_DEGREE 1048576.0   /* 2^20 */
#define MAX_BATCH 1073741824.0 /* 2^30 */
#define MAX_TOKENS 268435456.0 /* 2^28 */

#define ROW(member, json_type, low, high, default_value, text)                                     \
    .name = #member, .type = (json_type), .offset = offsetof(struct hlm_strategy, member),         \
    .min = (low), .max = (high), .def = (default_value), .doc = (text)
#define DEGREE(member, low, default_value, text)                                                   \
    ROW(member, HLM_JSON_INT, low, MAX_DEGREE, default_value, text)
#define COUNT(member, low, high, default_value, text)                                              \
    ROW(member, HLM_JSON_INT64, low, high, default_value, text)
#define CHOICE(member, texts, default_value, text)                                                 \
    ROW(member, HLM_JSON_ENUM, 0, 0, default_value, text), .enums = (texts)

#define REPLICAS(member, json_type, low, high, text)                                               \
    {                                                                                              \
        .name = #member, .type = (json_type), .offset = offsetof(struct hlm_replicas, member),     \
        .flags = HLM_FIELD_REQUIRED, .min = (low), .max = (high), .doc = (text)                    \
    }
static const struct hlm_json_field replicas_fields[] = {
    REPLICAS(device_group, HLM_JSON_INT, 0, MAX_DEGREE, "index into cluster.groups"),
    REPLICAS(dp, HLM_JSON_INT, 1, MAX_DEGREE, "replicas of the pipeline on it"),
    REPLICAS(num_microbatches, HLM_JSON_INT64, 1, MAX_BATCH, "microbatches of a step, of each"),
    {.name = NULL},
};
static const struct hlm_json_table replicas_table = {"replicas", sizeof(struct hlm_replicas),
                                                     replicas_fields};

static const struct hlm_json_field fields[] = {
    {DEGREE(dp, 1, 1, "Data-parallel degree."), .flags = HLM_FIELD_REQUIRED},
    {DEGREE(tp, 1, 1, "Tensor-parallel degree."), .flags = HLM_FIELD_REQUIRED},
    {DEGREE(pp, 1, 1, "Pipeline-parallel degree."), .flags = HLM_FIELD_REQUIRED},
    {DEGREE(cp, 1, 1, "Context-parallel degree.")},
    {DEGREE(ep, 1, 1, "Expert-parallel degree.")},
    {DEGREE(etp, 0, 0, "Tensor-parallel degree of experts; 0: tp where ep allows it, else 1.")},
    {DEGREE(vpp, 1, 1, "Model chunks per rank.")},
    {ROW(sp, HLM_JSON_BOOL, 0, 0, 0, "Sequence parallelism of Megatron over the tp group.")},
    {ROW(zero, HLM_JSON_INT, 0, 3, 0,
         "ZeRO stage: what is sharded over zero_group ranks: 0 nothing, 1 optimizer states, 2 also "
         "gradients, 3 also parameters.")},
    {DEGREE(zero_group, 0, 0, "Ranks that share states; 0: dp with zero, else 1.")},
    {CHOICE(schedule, hlm_schedule_texts, HLM_SCHEDULE_1F1B, "Pipeline schedule.")},
    {COUNT(microbatch_size, 1, MAX_BATCH, 1, "Sequences of a microbatch."),
     .flags = HLM_FIELD_REQUIRED},
    {COUNT(num_microbatches, 0, MAX_BATCH, 0,
           "Microbatches of a step; 0: global_batch_size / (dp microbatch_size).")},
    {COUNT(global_batch_size, 1, MAX_BATCH, 1, "Sequences of a step."),
     .flags = HLM_FIELD_REQUIRED},
    {COUNT(seq_len, 1, MAX_TOKENS, 1, "Tokens of a sequence."), .flags = HLM_FIELD_REQUIRED},
    {CHOICE(dtype, hlm_dtype_texts, HLM_DTYPE_FP32, "Format of parameters and activations.")},
    {CHOICE(grad_dtype, hlm_dtype_texts, HLM_DTYPE_FP32, "Format of gradients.")},
    {CHOICE(master_dtype, hlm_dtype_texts, HLM_DTYPE_FP32,
            "Format of the optimizer's copy of the parameters, where dtype is not fp32.")},
    {CHOICE(lowering, hlm_lowering_texts, HLM_LOWERING_HLMPLAN,
            "Framework whose operators are priced.")},
    {CHOICE(cp_form, hlm_cp_form_texts, HLM_CP_FORM_AUTO,
            "How attention meets the keys and values of the other cp ranks; auto: allgather in set "
            "hlmplan, else ring."),
     .flags = HLM_FIELD_OMIT_DEFAULT},
    {CHOICE(offload, hlm_offload_texts, HLM_OFFLOAD_NONE,
            "What lives in the host's memory: optimizer states, the inputs of layers, or all "
            "activations that layers keep. Priced only."),
     .flags = HLM_FIELD_OMIT_DEFAULT},
    {DEGREE(offload_layers, 0, 0,
            "Layers of the model whose inputs or activations are offloaded, spread evenly over all "
            "layers; 0: all."),
     .flags = HLM_FIELD_OMIT_DEFAULT},
    {ROW(replicas, HLM_JSON_ARRAY, 0, 0, 0,
         "Replicas that are not all alike: each lies in one device group and has a share of the "
         "global batch by its speed; num_microbatches is the largest."),
     .count_offset = offsetof(struct hlm_strategy, num_replicas), .table = &replicas_table,
     .flags = HLM_FIELD_OMIT_DEFAULT},
    {.name = NULL},
};

const struct hlm_json_table hlm_strategy_table = {"strategy", sizeof(struct hlm_strategy), fields};

int64_t hlm_strategy_world_size(const struct hlm_strategy *strategy)
{
    const int64_t replicas = (int64_t)strategy->dp * strategy->cp;
    int64_t tp = (int64_t)strategy->tp * strategy->pp;
    if (strategy->places != NULL) {
        tp = 0;
        for (int32_t pp = 0; pp < strategy->pp; pp++) {
            tp += strategy->places[pp].tp;
        }
    }
    return replicas * tp;
}

enum hlm_cp_form hlm_strategy_cp_form(const struct hlm_strategy *strategy)
{
    if (strategy->cp_form != HLM_CP_FORM_AUTO) {
        return strategy->cp_form;
    }
    return strategy->lowering == HLM_LOWERING_HLMPLAN ? HLM_CP_FORM_ALLGATHER : HLM_CP_FORM_RING;
}

struct hlm_offload_parts hlm_offload_parts(enum hlm_offload offload)
{
    static const struct hlm_offload_parts parts[HLM_NUM_OFFLOADS] = {
        [HLM_OFFLOAD_OPTIMIZER] = {.optimizer = true},
        [HLM_OFFLOAD_INPUTS] = {.inputs = true},
        [HLM_OFFLOAD_ACTIVATIONS] = {.inputs = true, .activations = true},
        [HLM_OFFLOAD_OPTIMIZER_INPUTS] = {.optimizer = true, .inputs = true},
        [HLM_OFFLOAD_ALL] = {true, true, true},
    };
    HLM_ASSERT((unsigned)offload < HLM_NUM_OFFLOADS);
    return parts[offload];
}

struct hlm_strategy hlm_strategy_at(const struct hlm_strategy *strategy, int32_t pp)
{
    struct hlm_strategy seen = *strategy;
    if (strategy->places != NULL) {
        HLM_ASSERT(pp >= 0 && pp < strategy->pp);
        seen.tp = strategy->places[pp].tp;
        seen.etp = strategy->etp == 1 ? 1 : seen.tp;
    }
    return seen;
}

int32_t hlm_strategy_all_dp(const struct hlm_strategy *strategy)
{
    int32_t dp = strategy->num_replicas == 0 ? strategy->dp : 0;
    for (int32_t i = 0; i < strategy->num_replicas; i++) {
        dp += strategy->replicas[i].dp;
    }
    return dp;
}

struct hlm_strategy hlm_strategy_of_replicas(const struct hlm_strategy *strategy, int32_t index)
{
    HLM_ASSERT(index >= 0 && index < strategy->num_replicas && strategy->seen_replicas == 0);
    const struct hlm_replicas *replicas = &strategy->replicas[index];
    struct hlm_strategy seen = *strategy;
    seen.dp = replicas->dp;
    seen.num_microbatches = replicas->num_microbatches;
    seen.global_batch_size = replicas->dp * seen.microbatch_size * replicas->num_microbatches;
    seen.seen_replicas = index + 1;
    return seen;
}

struct hlm_strategy hlm_strategy_of_replica(const struct hlm_strategy *strategy, int32_t dp,
                                            int64_t *out_first_sample)
{
    int64_t first = 0;
    int32_t left = dp;
    struct hlm_strategy seen = *strategy;
    for (int32_t i = 0; i < strategy->num_replicas; i++) {
        seen = hlm_strategy_of_replicas(strategy, i);
        if (left < seen.dp) {
            break;
        }
        left -= seen.dp;
        first += seen.global_batch_size;
    }
    HLM_ASSERT(left >= 0 && left < seen.dp);
    if (out_first_sample != NULL) {
        *out_first_sample = first + left * seen.microbatch_size * seen.num_microbatches;
    }
    return seen;
}

static void default_to(int32_t *value, int32_t otherwise)
{
    if (*value == 0) {
        *value = otherwise;
    }
}

void hlm_strategy_complete(struct hlm_strategy *strategy)
{
    /* Zeroed dtypes of gradients and master copies mean fp32 already. */
    _Static_assert(HLM_DTYPE_FP32 == 0, "fp32 is the default of zeroed strategies");
    default_to(&strategy->cp, 1);
    default_to(&strategy->ep, 1);
    default_to(&strategy->vpp, 1);
    const bool etp_fits = (int64_t)strategy->dp * strategy->cp % strategy->ep == 0;
    default_to(&strategy->etp, etp_fits ? strategy->tp : 1);
    default_to(&strategy->zero_group, strategy->zero > 0 ? strategy->dp : 1);
    const int64_t per_pass = strategy->dp * strategy->microbatch_size;
    for (int32_t i = 0; i < strategy->num_replicas; i++) {
        const int64_t share = strategy->replicas[i].num_microbatches;
        strategy->num_microbatches =
            share > strategy->num_microbatches ? share : strategy->num_microbatches;
    }
    if (strategy->num_microbatches == 0 && per_pass > 0) {
        strategy->num_microbatches = strategy->global_batch_size / per_pass;
    }
}

/* --- fields by name --- */

static enum hlm_status parse_choice(const char *key, const char *value, const char *const *texts,
                                    int *out, struct hlm_err *err)
{
    for (int i = 0; texts[i] != NULL; i++) {
        if (strcmp(texts[i], value) == 0) {
            *out = i;
            return HLM_OK;
        }
    }
    char known[200] = "";
    for (int i = 0; texts[i] != NULL; i++) {
        const size_t length = strlen(known);
        snprintf(known + length, sizeof known - length, "%s%s", i == 0 ? "" : ", ", texts[i]);
    }
    return hlm_fail(err, HLM_USAGE, "%s=%s: expected one of %s", key, value, known);
}

static enum hlm_status parse_number(const struct hlm_json_field *field, const char *value,
                                    int64_t *out, struct hlm_err *err)
{
    char *end = NULL;
    errno = 0;
    const long long number = strtoll(value, &end, 10);
    if (errno != 0 || end == value || *end != '\0' || (double)number < field->min ||
        (double)number > field->max) {
        return hlm_fail(err, HLM_USAGE, "%s=%s: expected a whole number in [%.0f, %.0f]",
                        field->name, value, field->min, field->max);
    }
    *out = number;
    return HLM_OK;
}

static enum hlm_status set_field(const struct hlm_json_field *field, const char *value, void *at,
                                 struct hlm_err *err)
{
    static const char *const bool_texts[] = {"false", "true", NULL};
    int choice = 0;
    int64_t number = 0;
    switch (field->type) {
    case HLM_JSON_BOOL:
        HLM_TRY(parse_choice(field->name, value, bool_texts, &choice, err));
        *(bool *)at = choice == 1;
        return HLM_OK;
    case HLM_JSON_ENUM:
        HLM_TRY(parse_choice(field->name, value, field->enums, &choice, err));
        *(int *)at = choice;
        return HLM_OK;
    case HLM_JSON_INT:
        HLM_TRY(parse_number(field, value, &number, err));
        *(int32_t *)at = (int32_t)number;
        return HLM_OK;
    default:
        HLM_ASSERT(field->type == HLM_JSON_INT64);
        HLM_TRY(parse_number(field, value, &number, err));
        *(int64_t *)at = number;
        return HLM_OK;
    }
}

enum hlm_status hlm_strategy_set(struct hlm_strategy *strategy, const char *key, const char *value,
                                 struct hlm_err *err)
{
    const char *names[sizeof fields / sizeof fields[0]] = {NULL};
    int32_t num_names = 0;
    for (size_t i = 0; fields[i].name != NULL; i++) {
        if (fields[i].type == HLM_JSON_ARRAY) {
            continue; /* replicas stand in files only */
        }
        if (strcmp(fields[i].name, key) == 0) {
            return set_field(&fields[i], value, (char *)strategy + fields[i].offset, err);
        }
        names[num_names++] = fields[i].name;
    }
    const char *nearest = hlm_opt_nearest(key, names);
    return hlm_fail(err, HLM_USAGE, "unknown strategy field \"%s\"%s%s%s", key,
                    nearest != NULL ? "; did you mean \"" : "", nearest != NULL ? nearest : "",
                    nearest != NULL ? "\"?" : "");
}
