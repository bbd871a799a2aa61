#include "compare/validate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compare/validate_price.h"

static const double bytes_per_gb = 1e9;
static const double bytes_per_gib = 1024.0 * 1024.0 * 1024.0;

/* ---- one point ---- */

static double relative_error(double predicted, double measured)
{
    return measured > 0.0 ? (predicted - measured) / measured : 0.0;
}

/* Milliseconds of one dense layer. */
static enum hlm_status predict_layer(struct hlm_arena *arena,
                                     const struct hlm_validate_problem *problem, double *out_ms,
                                     struct hlm_err *err)
{
    struct hlm_pricer pricer;
    HLM_TRY(hlm_pricer_init(arena, problem->model, &problem->strategy, problem->cluster, 0, &pricer,
                            err));
    const int32_t mode = problem->recompute < 0 ? HLM_RECOMPUTE_NONE : problem->recompute;
    const struct hlm_block_cost *block = &pricer.blocks[HLM_BLOCK_DENSE][mode];
    *out_ms = 1e3 * (block->forward.seconds + block->backward.seconds);
    return HLM_OK;
}

static void take_memory(const struct hlm_truth_point *point, const struct hlm_validate_price *price,
                        struct hlm_validate_result *result)
{
    const bool target = point->kind == HLM_TRUTH_MEMORY;
    result->memory_measured = target ? point->target.value * bytes_per_gb
                              : point->measured.memory_gib > 0.0
                                  ? point->measured.memory_gib * bytes_per_gib
                                  : point->measured.memory_gb * bytes_per_gb;
    if (result->memory_measured > 0.0) {
        result->memory_predicted = price->peak_bytes;
        result->memory_error_frac =
            relative_error(result->memory_predicted, result->memory_measured);
    }
}

static enum hlm_status predict(struct hlm_arena *arena, const struct hlm_truth_point *point,
                               struct hlm_validate_result *result, struct hlm_err *err)
{
    struct hlm_validate_problem problem;
    HLM_TRY(hlm_validate_problem(arena, point, &problem, err));
    if (point->kind == HLM_TRUTH_LAYER_TIME) {
        HLM_TRY(predict_layer(arena, &problem, &result->predicted, err));
        result->error_frac = relative_error(result->predicted, result->measured);
        return HLM_OK;
    }
    struct hlm_validate_price price;
    HLM_TRY(hlm_validate_price(arena, &problem, &price, err));
    take_memory(point, &price, result);
    if (point->kind == HLM_TRUTH_MEMORY) {
        result->predicted = price.peak_bytes / bytes_per_gb;
    } else if (point->kind == HLM_TRUTH_OOM) {
        const double limit = (double)problem.cluster->groups[0].device.memory_bytes;
        result->predicted = price.peak_bytes <= limit ? 1.0 : 0.0;
    } else {
        result->predicted = price.step_s;
        result->parts = price.parts;
    }
    result->error_frac = point->kind == HLM_TRUTH_OOM
                             ? fabs(result->predicted - result->measured)
                             : relative_error(result->predicted, result->measured);
    return HLM_OK;
}

static struct hlm_validate_result validate_point(struct hlm_arena *arena,
                                                 const struct hlm_truth_point *point)
{
    struct hlm_validate_result result = {.id = point->id,
                                         .family = point->family,
                                         .kind = point->kind,
                                         .weight = point->family_weight,
                                         .measured = point->target.value};
    result.scored = point->use == NULL || strcmp(point->use, "score") == 0;
    struct hlm_err err = {.status = HLM_OK};
    if (predict(arena, point, &result, &err) != HLM_OK) {
        result.reason = hlm_arena_strdup(arena, err.text);
    }
    return result;
}

/* ---- tables ---- */

static bool is_time(const struct hlm_validate_result *result)
{
    return result->kind == HLM_TRUTH_TRAIN_STEP || result->kind == HLM_TRUTH_LAYER_TIME;
}

static void add_time(struct hlm_validate_family *family, const struct hlm_validate_result *result,
                     double weight)
{
    family->num_predicted++;
    family->mean_error_frac += weight * result->error_frac;
    family->mean_abs_error_frac += weight * fabs(result->error_frac);
    if (family->worst_id == NULL || fabs(result->error_frac) > fabs(family->worst_error_frac)) {
        family->worst_error_frac = result->error_frac;
        family->worst_id = result->id;
    }
}

/* Adds one scored result; `weight` is what it counts in the means of times. */
static void add_result(struct hlm_validate_family *family, const struct hlm_validate_result *result,
                       double weight)
{
    family->num_points++;
    if (result->reason != NULL) {
        return;
    }
    if (is_time(result)) {
        add_time(family, result, weight);
    }
    if (result->kind == HLM_TRUTH_OOM) {
        family->num_fits++;
        family->num_fits_right += result->error_frac == 0.0 ? 1 : 0;
    }
    if (result->memory_measured > 0.0) {
        family->num_memory++;
        family->mean_memory_error_frac += result->memory_error_frac;
        family->mean_abs_memory_error_frac += fabs(result->memory_error_frac);
    }
}

/* From sums to means. */
static void finish_family(struct hlm_validate_family *family, double weight)
{
    if (weight > 0.0) {
        family->mean_error_frac /= weight;
        family->mean_abs_error_frac /= weight;
    }
    if (family->num_memory > 0) {
        family->mean_memory_error_frac /= family->num_memory;
        family->mean_abs_memory_error_frac /= family->num_memory;
    }
}

static struct hlm_validate_family *family_of(struct hlm_validate_family *families, int32_t *num,
                                             const char *name)
{
    for (int32_t i = 0; i < *num; i++) {
        if (strcmp(families[i].family, name) == 0) {
            return &families[i];
        }
    }
    families[*num] = (struct hlm_validate_family){.family = name};
    return &families[(*num)++];
}

static void make_families(struct hlm_arena *arena, struct hlm_validation *validation)
{
    struct hlm_validate_family *families =
        HLM_ARENA_ARRAY(arena, struct hlm_validate_family, validation->num_results);
    int32_t num = 0;
    validation->all = (struct hlm_validate_family){.family = "all"};
    for (int32_t i = 0; i < validation->num_results; i++) {
        const struct hlm_validate_result *result = &validation->results[i];
        if (!result->scored) {
            continue;
        }
        add_result(family_of(families, &num, result->family), result, 1.0);
        add_result(&validation->all, result, result->weight);
        if (is_time(result)) {
            validation->weight_all += result->weight;
            validation->weight_predicted += result->reason == NULL ? result->weight : 0.0;
        }
    }
    for (int32_t i = 0; i < num; i++) {
        finish_family(&families[i], (double)families[i].num_predicted);
    }
    finish_family(&validation->all, validation->weight_predicted);
    validation->families = families;
    validation->num_families = num;
}

static int compare_reasons(const void *a, const void *b)
{
    const struct hlm_validate_reason *left = a, *right = b;
    if (left->weight != right->weight) {
        return left->weight < right->weight ? 1 : -1;
    }
    return strcmp(left->reason, right->reason);
}

static void make_reasons(struct hlm_arena *arena, struct hlm_validation *validation)
{
    struct hlm_validate_reason *reasons =
        HLM_ARENA_ARRAY(arena, struct hlm_validate_reason, validation->num_results);
    int32_t num = 0;
    for (int32_t i = 0; i < validation->num_results; i++) {
        const struct hlm_validate_result *result = &validation->results[i];
        if (result->reason == NULL) {
            continue;
        }
        int32_t at = 0;
        while (at < num && strcmp(reasons[at].reason, result->reason) != 0) {
            at++;
        }
        if (at == num) {
            reasons[num++] = (struct hlm_validate_reason){.reason = result->reason};
        }
        reasons[at].num_points++;
        reasons[at].weight += result->scored ? result->weight : 0.0;
    }
    qsort(reasons, (size_t)num, sizeof *reasons, compare_reasons);
    validation->reasons = reasons;
    validation->num_reasons = num;
}

static bool wanted(const struct hlm_truth_point *point, const char *family, const char *id)
{
    return (family == NULL || strcmp(point->family, family) == 0) &&
           (id == NULL || strcmp(point->id, id) == 0);
}

enum hlm_status hlm_validate(struct hlm_arena *arena, const struct hlm_truth *truth,
                             const char *family, const char *id, struct hlm_validation *out,
                             struct hlm_err *err)
{
    struct hlm_validate_result *results =
        HLM_ARENA_ARRAY(arena, struct hlm_validate_result, truth->num_points);
    struct hlm_validation validation = {.results = results};
    for (int32_t i = 0; i < truth->num_points; i++) {
        if (wanted(&truth->points[i], family, id)) {
            results[validation.num_results++] = validate_point(arena, &truth->points[i]);
        }
    }
    if (validation.num_results == 0) {
        return hlm_fail(err, HLM_NO, "no point has %s%s%s%s%s", family == NULL ? "" : "family ",
                        family == NULL ? "" : family, family != NULL && id != NULL ? " and " : "",
                        id == NULL ? "" : "id ", id == NULL ? "" : id);
    }
    make_families(arena, &validation);
    make_reasons(arena, &validation);
    *out = validation;
    return HLM_OK;
}
