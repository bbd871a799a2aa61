#include "cli/problem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char *const hlm_problem_dtype_texts[] = {"auto",
#define X(name, text, bytes) text,
                                               HLM_DTYPE_MAP(X)
#undef X
                                                   NULL};

/* ---- profiles ---- */

static enum hlm_status check_dtype(struct hlm_arena *arena, const struct hlm_cluster *cluster,
                                   enum hlm_dtype dtype, struct hlm_err *err)
{
    for (int32_t g = 0; g < cluster->num_groups; g++) {
        const struct hlm_device *device = &cluster->groups[g].device;
        if (hlm_device_dtype(device, dtype) != NULL) {
            continue;
        }
        struct hlm_text has;
        hlm_text_init(&has, arena);
        for (int32_t i = 0; i < device->num_dtypes; i++) {
            hlm_text_printf(&has, "%s%s", i > 0 ? ", " : "",
                            hlm_dtype_texts[device->dtypes[i].dtype]);
        }
        return hlm_fail(err, HLM_INPUT, "--dtype %s: the device %s has no %s, only %s",
                        hlm_dtype_texts[dtype], device->name, hlm_dtype_texts[dtype], has.text);
    }
    return HLM_OK;
}

const char *hlm_problem_cluster_file(struct hlm_arena *arena, const char *cluster)
{
    struct stat about;
    return stat(cluster, &about) == 0 && S_ISDIR(about.st_mode)
               ? hlm_arena_printf(arena, "%s/cluster.json", cluster)
               : cluster;
}

enum hlm_status hlm_problem_load(struct hlm_arena *arena, const struct hlm_problem_options *options,
                                 struct hlm_problem *out, struct hlm_err *err)
{
    struct hlm_problem problem = {.global_batch_size = options->global_batch,
                                  .lowering = (enum hlm_lowering)options->framework};
    HLM_TRY(hlm_model_load(arena, options->model, &problem.model, err));
    HLM_TRY(hlm_cluster_load(arena, options->cluster, &problem.cluster, err));
    problem.dtype = options->dtype == 0 ? hlm_cluster_best_dtype(problem.cluster)
                                        : (enum hlm_dtype)(options->dtype - 1);
    HLM_TRY(check_dtype(arena, problem.cluster, problem.dtype, err));
    problem.seq_len = options->seq_len > 0 ? options->seq_len : problem.model->seq_len;
    *out = problem;
    return HLM_OK;
}

/* ---- key=value lists ---- */

static const char *const switch_texts[] = {"false", "true", NULL};

/* One key of --require: a whole number of 32 or 64 bits, or the index of a text. */
struct require_key {
    const char *name;
    size_t offset;
    bool is_int64;
    const char *const *texts;
    int64_t min, max;
};

#define REQUIRE(member) #member, offsetof(struct hlm_search_require, member)
static const struct require_key require_keys[] = {
    {REQUIRE(dp), false, NULL, 1, INT32_MAX},
    {REQUIRE(tp), false, NULL, 1, INT32_MAX},
    {REQUIRE(pp), false, NULL, 1, INT32_MAX},
    {REQUIRE(cp), false, NULL, 1, INT32_MAX},
    {REQUIRE(vpp), false, NULL, 1, INT32_MAX},
    {REQUIRE(ep), false, NULL, 1, INT32_MAX},
    {REQUIRE(sp), false, switch_texts, 0, 0},
    {REQUIRE(zero), false, NULL, 0, 3},
    {REQUIRE(schedule), false, hlm_schedule_texts, 0, 0},
    {REQUIRE(recompute), false, hlm_recompute_texts, 0, 0},
    {REQUIRE(microbatch_size), true, NULL, 1, INT64_MAX},
    {REQUIRE(offload), false, hlm_offload_texts, 0, 0},
};
enum { NUM_REQUIRE_KEYS = sizeof(require_keys) / sizeof(require_keys[0]) };

static enum hlm_status fail_key(const char *option, const char *key, const char *const *known,
                                struct hlm_err *err)
{
    const char *nearest = hlm_opt_nearest(key, known);
    return hlm_fail(err, HLM_USAGE, "--%s: unknown key \"%s\"%s%s%s", option, key,
                    nearest == NULL ? "" : " (did you mean ", nearest == NULL ? "" : nearest,
                    nearest == NULL ? "" : "?)");
}

static const struct require_key *find_key(const char *name)
{
    for (int i = 0; i < NUM_REQUIRE_KEYS; i++) {
        if (strcmp(require_keys[i].name, name) == 0) {
            return &require_keys[i];
        }
    }
    return NULL;
}

static bool parse_whole(const char *text, int64_t min, int64_t max, int64_t *out)
{
    char *end = NULL;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (text[0] == '\0' || strspn(text, "-0123456789") != strlen(text) || *end != '\0' ||
        errno != 0 || value < min || value > max) {
        return false;
    }
    *out = value;
    return true;
}

static bool parse_text(const char *text, const char *const *texts, int64_t *out)
{
    for (int64_t i = 0; texts[i] != NULL; i++) {
        if (strcmp(texts[i], text) == 0) {
            *out = i;
            return true;
        }
    }
    return false;
}

static enum hlm_status fail_require(struct hlm_arena *arena, const char *option,
                                    const struct require_key *key, const char *value,
                                    struct hlm_err *err)
{
    struct hlm_text expected;
    hlm_text_init(&expected, arena);
    if (key->texts == NULL) {
        hlm_text_printf(&expected, "a whole number in [%lld, %lld]", (long long)key->min,
                        (long long)key->max);
    } else {
        hlm_text_printf(&expected, "one of ");
        for (int i = 0; key->texts[i] != NULL; i++) {
            hlm_text_printf(&expected, "%s%s", i > 0 ? ", " : "", key->texts[i]);
        }
    }
    return hlm_fail(err, HLM_USAGE, "--%s: %s: expected %s, found \"%s\"", option, key->name,
                    expected.text, value);
}

static enum hlm_status require_one(struct hlm_arena *arena, const char *option,
                                   const struct hlm_pair *pair, struct hlm_search_require *out,
                                   struct hlm_err *err)
{
    const struct require_key *key = find_key(pair->key);
    if (key == NULL) {
        const char *names[NUM_REQUIRE_KEYS + 1] = {NULL};
        for (int i = 0; i < NUM_REQUIRE_KEYS; i++) {
            names[i] = require_keys[i].name;
        }
        return fail_key(option, pair->key, names, err);
    }
    int64_t value = 0;
    const bool parsed = key->texts == NULL ? parse_whole(pair->value, key->min, key->max, &value)
                                           : parse_text(pair->value, key->texts, &value);
    if (!parsed) {
        return fail_require(arena, option, key, pair->value, err);
    }
    void *target = (char *)out + key->offset;
    if (key->is_int64) {
        *(int64_t *)target = value;
    } else {
        *(int32_t *)target = (int32_t)value;
    }
    return HLM_OK;
}

enum hlm_status hlm_problem_require_option(struct hlm_arena *arena, const char *option,
                                           const char *text, struct hlm_search_require *out,
                                           struct hlm_err *err)
{
    struct hlm_search_require require = {
        .sp = -1, .zero = -1, .schedule = -1, .recompute = -1, .offload = -1};
    const struct hlm_pair *pairs = NULL;
    int num_pairs = 0;
    if (text != NULL) {
        HLM_TRY(hlm_opt_pairs(arena, option, text, &pairs, &num_pairs, err));
    }
    for (int i = 0; i < num_pairs; i++) {
        HLM_TRY(require_one(arena, option, &pairs[i], &require, err));
    }
    *out = require;
    return HLM_OK;
}

enum hlm_status hlm_problem_require(struct hlm_arena *arena, const char *text,
                                    struct hlm_search_require *out, struct hlm_err *err)
{
    return hlm_problem_require_option(arena, "require", text, out, err);
}

/* ---- --set ---- */

static enum hlm_status set_one(const struct hlm_pair *pair, struct hlm_strategy *strategy,
                               int32_t *recompute, struct hlm_err *err)
{
    if (strcmp(pair->key, "recompute") != 0) {
        if (hlm_strategy_set(strategy, pair->key, pair->value, err) != HLM_OK) {
            hlm_err_prefix(err, "--set");
            return err->status;
        }
        return HLM_OK;
    }
    int64_t value = 0;
    if (!parse_text(pair->value, hlm_recompute_texts, &value)) {
        return hlm_fail(err, HLM_USAGE,
                        "--set: recompute: expected none, selective or full, found \"%s\"",
                        pair->value);
    }
    *recompute = (int32_t)value;
    return HLM_OK;
}

static int32_t remaining_devices(const struct hlm_problem *problem,
                                 const struct hlm_strategy *strategy)
{
    const int64_t taken =
        (int64_t)strategy->tp * strategy->pp * (strategy->cp > 0 ? strategy->cp : 1);
    const int64_t devices = hlm_cluster_num_devices(problem->cluster);
    /* A degree of 0 is refused by the strategy's own rules, with a better message. */
    return taken < 1 || devices < taken ? 1 : (int32_t)(devices / taken);
}

enum hlm_status hlm_problem_strategy(struct hlm_arena *arena, const struct hlm_problem *problem,
                                     const char *text, struct hlm_strategy *out,
                                     int32_t *out_recompute, struct hlm_err *err)
{
    struct hlm_strategy strategy = {.tp = 1,
                                    .pp = 1,
                                    .ep = 1,
                                    .schedule = HLM_SCHEDULE_1F1B,
                                    .microbatch_size = 1,
                                    .global_batch_size = problem->global_batch_size,
                                    .seq_len = problem->seq_len,
                                    .dtype = problem->dtype,
                                    .grad_dtype = HLM_DTYPE_FP32,
                                    .master_dtype = HLM_DTYPE_FP32,
                                    .lowering = problem->lowering};
    int32_t recompute = -1;
    const struct hlm_pair *pairs = NULL;
    int num_pairs = 0;
    if (text != NULL) {
        HLM_TRY(hlm_opt_pairs(arena, "set", text, &pairs, &num_pairs, err));
    }
    for (int i = 0; i < num_pairs; i++) {
        HLM_TRY(set_one(&pairs[i], &strategy, &recompute, err));
    }
    if (strategy.dp == 0) {
        strategy.dp = remaining_devices(problem, &strategy);
    }
    hlm_strategy_complete(&strategy);
    if (strategy.num_microbatches == 0) {
        return hlm_fail(err, HLM_NO,
                        "the global batch of %lld sequences is smaller than dp * microbatch_size = "
                        "%d * %lld",
                        (long long)strategy.global_batch_size, strategy.dp,
                        (long long)strategy.microbatch_size);
    }
    *out = strategy;
    *out_recompute = recompute;
    return HLM_OK;
}
