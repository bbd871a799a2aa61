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
/* Of products, so that sizes of tensors and lengths of schedules stay within 64 and 32 bits. */
#define MAX_RANKS 1073741824.0       /* 2^30 */
#define MAX_PASS_TOKENS 4294967296.0 /* 2^32 */
#define MAX_PASSES 4194304.0         /* 2^22 */

#define ROW(member, json_type, low, high, default_value, text)                                     \
    .name = #member, .type = (json_type), .offset = offsetof(struct hlm_strategy, member),         \
    .min = (low), .max = (high), .def = (default_value), .doc = (text)
#define DEGREE(member, low, default_value, text)                                                   \
    ROW(member, HLM_JSON_INT, low, MAX_DEGREE, default_value, text)
#define COUNT(member, low, high, default_value, text)                                              \
    ROW(member, HLM_JSON_INT64, low, high, default_value, text)
#define CHOICE(member, texts, default_value, text)                                                 \
    ROW(member, HLM_JSON_ENUM, 0, 0, default_value, text), .enums = (texts)

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

struct hlm_strategy hlm_strategy_at(const struct hlm_strategy *strategy, int32_t pp)
{
    struct hlm_strategy seen = *strategy;
    if (strategy->places != NULL) {
        HLM_ASSERT(pp >= 0 && pp < strategy->pp);
        seen.tp = strategy->places[pp].tp;
        seen.etp = strategy->etp == 1 ? 1 : seen.tp;
        seen.sp = strategy->sp && seen.tp > 1;
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
    if (strategy->num_microbatches == 0 && per_pass > 0) {
        strategy->num_microbatches = strategy->global_batch_size / per_pass;
    }
}

/* --- legality --- */

struct count {
    const char *name;
    int64_t value;
};

/* "; nearest: 4, 6" for the divisors of `total` around `value`. */
static void nearest_divisors(int64_t value, int64_t total, char *out, size_t size)
{
    int64_t below = value > total ? total : value - 1, above = value + 1;
    while (below > 0 && total % below != 0) {
        below--;
    }
    while (above <= total && total % above != 0) {
        above++;
    }
    if (below > 0 && above <= total) {
        snprintf(out, size, "; nearest: %lld, %lld", (long long)below, (long long)above);
    } else if (below > 0 || above <= total) {
        snprintf(out, size, "; nearest: %lld", (long long)(below > 0 ? below : above));
    } else {
        out[0] = '\0';
    }
}

static enum hlm_status must_divide(struct count divisor, struct count total, struct hlm_err *err)
{
    if (total.value % divisor.value == 0) {
        return HLM_OK;
    }
    if (err == NULL) {
        return HLM_NO;
    }
    char nearest[80];
    nearest_divisors(divisor.value, total.value, nearest, sizeof nearest);
    return hlm_fail(err, HLM_NO, "%s = %lld does not divide %s = %lld%s", divisor.name,
                    (long long)divisor.value, total.name, (long long)total.value, nearest);
}

static enum hlm_status check_positive(const struct hlm_strategy *strategy,
                                      const struct hlm_model *model, struct hlm_err *err)
{
    (void)model;
    const struct count counts[] = {
        {"dp", strategy->dp},
        {"tp", strategy->tp},
        {"pp", strategy->pp},
        {"cp", strategy->cp},
        {"ep", strategy->ep},
        {"etp", strategy->etp},
        {"vpp", strategy->vpp},
        {"zero_group", strategy->zero_group},
        {"microbatch_size", strategy->microbatch_size},
        {"num_microbatches", strategy->num_microbatches},
        {"global_batch_size", strategy->global_batch_size},
        {"seq_len", strategy->seq_len},
    };
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        if (counts[i].value < 1) {
            return hlm_fail(err, HLM_NO, "%s = %lld is not positive", counts[i].name,
                            (long long)counts[i].value);
        }
    }
    return HLM_OK;
}

static enum hlm_status check_size(const struct hlm_strategy *strategy,
                                  const struct hlm_model *model, struct hlm_err *err)
{
    (void)model;
    const struct {
        const char *name;
        double value, max;
    } sizes[] = {
        {"dp * tp * pp * cp", (double)strategy->dp * strategy->tp * strategy->pp * strategy->cp,
         MAX_RANKS},
        {"microbatch_size * seq_len", (double)strategy->microbatch_size * (double)strategy->seq_len,
         MAX_PASS_TOKENS},
        {"pp * vpp * num_microbatches",
         (double)strategy->pp * strategy->vpp * (double)strategy->num_microbatches, MAX_PASSES},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i].value > sizes[i].max) {
            return hlm_fail(err, HLM_NO, "%s = %.0f exceeds %.0f", sizes[i].name, sizes[i].value,
                            sizes[i].max);
        }
    }
    return HLM_OK;
}

static enum hlm_status check_batch(const struct hlm_strategy *strategy,
                                   const struct hlm_model *model, struct hlm_err *err)
{
    (void)model;
    const int64_t per_pass = strategy->dp * strategy->microbatch_size;
    if (per_pass * strategy->num_microbatches == strategy->global_batch_size) {
        return HLM_OK;
    }
    return hlm_fail(
        err, HLM_NO,
        "dp * microbatch_size * num_microbatches = %d * %lld * %lld = %lld is not "
        "global_batch_size = %lld",
        strategy->dp, (long long)strategy->microbatch_size, (long long)strategy->num_microbatches,
        (long long)(per_pass * strategy->num_microbatches), (long long)strategy->global_batch_size);
}

static enum hlm_status check_seq_len(const struct hlm_strategy *strategy,
                                     const struct hlm_model *model, struct hlm_err *err)
{
    if (model->kind == HLM_MODEL_VIT && strategy->seq_len != model->seq_len) {
        return hlm_fail(err, HLM_NO, "seq_len = %lld is not the %lld patches and class token of %s",
                        (long long)strategy->seq_len, (long long)model->seq_len, model->name);
    }
    if (model->position == HLM_POSITION_LEARNED && strategy->seq_len > model->seq_len) {
        return hlm_fail(err, HLM_NO, "seq_len = %lld exceeds the %lld learned positions of %s",
                        (long long)strategy->seq_len, (long long)model->seq_len, model->name);
    }
    return must_divide((struct count){"cp", strategy->cp},
                       (struct count){"seq_len", strategy->seq_len}, err);
}

static enum hlm_status check_tp(const struct hlm_strategy *strategy, const struct hlm_model *model,
                                struct hlm_err *err)
{
    const struct count tp = {"tp", strategy->tp};
    HLM_TRY(must_divide(tp, (struct count){"num_heads", model->num_heads}, err));
    HLM_TRY(must_divide(tp, (struct count){"ffn_size", model->ffn_size}, err));
    HLM_TRY(
        must_divide(tp, (struct count){"moe.shared_ffn_size", model->moe.shared_ffn_size}, err));
    if (strategy->tp % model->num_kv_heads == 0) {
        return HLM_OK;
    }
    return must_divide(tp, (struct count){"num_kv_heads", model->num_kv_heads}, err);
}

static enum hlm_status check_cp(const struct hlm_strategy *strategy, const struct hlm_model *model,
                                struct hlm_err *err)
{
    if (strategy->cp == 1 || hlm_strategy_cp_form(strategy) != HLM_CP_FORM_ULYSSES) {
        return HLM_OK;
    }
    const struct count ranks = {"tp * cp (with ulysses)", (int64_t)strategy->tp * strategy->cp};
    HLM_TRY(must_divide(ranks, (struct count){"num_heads", model->num_heads}, err));
    return must_divide(ranks, (struct count){"num_kv_heads", model->num_kv_heads}, err);
}

static enum hlm_status check_sp(const struct hlm_strategy *strategy, const struct hlm_model *model,
                                struct hlm_err *err)
{
    (void)model;
    if (!strategy->sp) {
        return HLM_OK;
    }
    if (strategy->tp == 1) {
        return hlm_fail(err, HLM_NO, "sp needs tp > 1, found tp = 1");
    }
    const int64_t tokens = strategy->microbatch_size * strategy->seq_len / strategy->cp;
    return must_divide((struct count){"tp", strategy->tp},
                       (struct count){"microbatch_size * seq_len (with sp)", tokens}, err);
}

static enum hlm_status check_pp(const struct hlm_strategy *strategy, const struct hlm_model *model,
                                struct hlm_err *err)
{
    const int64_t stages = (int64_t)strategy->pp * strategy->vpp;
    const int64_t blocks = (int64_t)model->num_layers + 2;
    const struct hlm_schedule_chunks chunks = hlm_schedule_chunks(strategy->schedule);
    if (strategy->vpp < chunks.min || strategy->vpp > chunks.max) {
        const char *const expected = chunks.max == 1   ? "one model chunk"
                                     : chunks.max == 2 ? "two model chunks"
                                                       : "two model chunks or more";
        return hlm_fail(err, HLM_NO, "schedule %s has %s per rank, found vpp = %d",
                        hlm_schedule_texts[strategy->schedule], expected, strategy->vpp);
    }
    if (stages > blocks) {
        return hlm_fail(err, HLM_NO,
                        "pp = %d exceeds the %lld blocks of %s (%d layers, embedding and head)",
                        strategy->pp, (long long)blocks, model->name, model->num_layers);
    }
    return HLM_OK;
}

/* Pipeline ranks that are not alike. */
static enum hlm_status check_places(const struct hlm_strategy *strategy,
                                    const struct hlm_model *model, struct hlm_err *err)
{
    const struct hlm_rank_place *places = strategy->places;
    for (int32_t pp = 0; places != NULL && pp + 1 < strategy->pp; pp++) {
        const int32_t a = places[pp].tp, b = places[pp + 1].tp;
        if (a % b != 0 && b % a != 0) {
            return hlm_fail(err, HLM_NO,
                            "tp = %d of stage %d and tp = %d of stage %d: one must divide the "
                            "other",
                            a, pp, b, pp + 1);
        }
    }
    if (places != NULL && model->tied_embeddings && places[0].tp != places[strategy->pp - 1].tp) {
        return hlm_fail(err, HLM_NO,
                        "tied embeddings need one tp on the first and the last stage, found %d "
                        "and %d",
                        places[0].tp, places[strategy->pp - 1].tp);
    }
    return HLM_OK;
}

static enum hlm_status check_experts(const struct hlm_strategy *strategy,
                                     const struct hlm_model *model, struct hlm_err *err)
{
    if (model->moe.num_experts == 0) {
        return strategy->ep == 1
                   ? HLM_OK
                   : hlm_fail(err, HLM_NO, "ep = %d needs a model with experts", strategy->ep);
    }
    const int64_t ranks = (int64_t)strategy->dp * strategy->cp * strategy->tp;
    HLM_TRY(must_divide((struct count){"ep", strategy->ep},
                        (struct count){"moe.num_experts", model->moe.num_experts}, err));
    HLM_TRY(must_divide((struct count){"ep * etp", (int64_t)strategy->ep * strategy->etp},
                        (struct count){"dp * cp * tp", ranks}, err));
    HLM_TRY(must_divide((struct count){"etp", strategy->etp},
                        (struct count){"moe.ffn_size", model->moe.ffn_size}, err));
    if (strategy->etp != 1 && strategy->etp != strategy->tp) {
        return hlm_fail(err, HLM_NO, "etp = %d is neither 1 nor tp = %d", strategy->etp,
                        strategy->tp);
    }
    if (strategy->tp > 1 && !strategy->sp) {
        return hlm_fail(err, HLM_NO, "experts with tp = %d need sp", strategy->tp);
    }
    return HLM_OK;
}

static enum hlm_status check_zero(const struct hlm_strategy *strategy,
                                  const struct hlm_model *model, struct hlm_err *err)
{
    (void)model;
    if (strategy->zero < 0 || strategy->zero > 3) {
        return hlm_fail(err, HLM_NO, "zero = %d is none of 0, 1, 2, 3", strategy->zero);
    }
    if (strategy->zero == 0 && strategy->zero_group != 1) {
        return hlm_fail(err, HLM_NO, "zero_group = %d needs zero of at least 1",
                        strategy->zero_group);
    }
    return must_divide((struct count){"zero_group", strategy->zero_group},
                       (struct count){"dp", strategy->dp}, err);
}

enum hlm_status hlm_strategy_check(const struct hlm_strategy *strategy,
                                   const struct hlm_model *model, struct hlm_err *err)
{
    static enum hlm_status (*const rules[])(const struct hlm_strategy *, const struct hlm_model *,
                                            struct hlm_err *) = {
        check_positive, check_size, check_batch,  check_seq_len, check_tp,   check_cp,
        check_sp,       check_pp,   check_places, check_experts, check_zero,
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        HLM_TRY(rules[i](strategy, model, err));
    }
    return HLM_OK;
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
    for (size_t i = 0; fields[i].name != NULL; i++) {
        if (strcmp(fields[i].name, key) == 0) {
            return set_field(&fields[i], value, (char *)strategy + fields[i].offset, err);
        }
        names[i] = fields[i].name;
    }
    const char *nearest = hlm_opt_nearest(key, names);
    return hlm_fail(err, HLM_USAGE, "unknown strategy field \"%s\"%s%s%s", key,
                    nearest != NULL ? "; did you mean \"" : "", nearest != NULL ? nearest : "",
                    nearest != NULL ? "\"?" : "");
}
