/* validate: predicts published measurements and says how far off the predictions are.
 *
 * Each point of a truth file becomes a model, a cluster and a strategy of ours (validate_problem.c
 * says how), is priced like any plan, and ends either predicted, with the error of the prediction,
 * or refused, with the reason. Nothing is dropped.
 *
 * An error is (predicted - measured) / measured: positive where we are too slow or too large.
 * Families are series of one source; family_weight (1 / points of the family) keeps the large ones
 * from drowning the small ones. Step and layer times count in the errors of time; peak memory
 * (whether it is the target or stands beside a step time) and fits / does not fit are tables of
 * their own.
 */
#ifndef HLM_COMPARE_VALIDATE_H
#define HLM_COMPARE_VALIDATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "compare/truth.h"
#include "costmodel/strategy.h"
#include "planner/plan.h"
#include "profiles/cluster.h"
#include "profiles/model.h"

/* A point in our words. `recompute` as hlm_plan_even_stages takes it: -1 where the source does not
 * say. `cluster` has the devices' real memory. */
struct hlm_validate_problem {
    const struct hlm_model *model;
    const struct hlm_cluster *cluster;
    struct hlm_strategy strategy;
    int32_t recompute;
};

/* Translates a point. HLM_NO: what we cannot express, in a few words that are the same for all
 * points of that kind ("device B200", "zero 3"), since the tables count them. HLM_INPUT: the point
 * contradicts itself. */
HLM_MUST_CHECK enum hlm_status hlm_validate_problem(struct hlm_arena *arena,
                                                    const struct hlm_truth_point *point,
                                                    struct hlm_validate_problem *out,
                                                    struct hlm_err *err);

/* Cards of a node and what one of them carries, as a sentence like "8x 400 Gb/s InfiniBand per
 * node", "4 Omni-Path links (100 Gb/s each)", "800 Gb/s per node" or "400 Gb/s RDMA per GPU" says
 * it; both 0 where it says nothing of the kind. "HDR200" counts as 200 Gb/s. */
struct hlm_validate_network {
    int32_t nics_per_node;
    double line_bytes_per_s; /* of one card and direction */
};
struct hlm_validate_network hlm_validate_network(const char *interconnect,
                                                 int32_t devices_per_node);

struct hlm_validate_result {
    const char *id, *family;
    enum hlm_truth_kind kind;
    bool scored;        /* counts in the tables (not informational) */
    const char *reason; /* why there is no prediction; NULL: predicted */
    double weight;      /* family_weight */
    /* In the target's unit: seconds, milliseconds, GB, or 1 (fits) and 0. */
    double predicted, measured;
    double error_frac;      /* oom: 0 where right, else 1 */
    double memory_measured; /* bytes, 0: not measured */
    double memory_predicted, memory_error_frac;
    const struct hlm_time_node *parts; /* train_step: where the predicted time goes; else NULL */
};

/* Of the predicted times of one family, or of all. */
struct hlm_validate_family {
    const char *family;
    int32_t num_points, num_predicted; /* scored ones; times only among the predicted */
    double mean_error_frac, mean_abs_error_frac;
    double worst_error_frac;
    const char *worst_id; /* NULL: nothing predicted */
    int32_t num_memory;   /* predicted peak memories */
    double mean_memory_error_frac, mean_abs_memory_error_frac;
    int32_t num_fits, num_fits_right;
};

struct hlm_validate_reason {
    const char *reason;
    int32_t num_points;
    double weight; /* sum of family_weight */
};

struct hlm_validation {
    const struct hlm_validate_result *results;
    int32_t num_results;
    const struct hlm_validate_family *families; /* in the order of the file */
    int32_t num_families;
    const struct hlm_validate_reason *reasons; /* most weight first */
    int32_t num_reasons;
    struct hlm_validate_family all;      /* means weighted by family_weight */
    double weight_predicted, weight_all; /* sums of family_weight over scored times */
};
extern const struct hlm_json_table hlm_validation_table; /* kind "validation" */

/* Predicts the points whose family and id match (NULL: all). HLM_NO: none does. */
HLM_MUST_CHECK enum hlm_status hlm_validate(struct hlm_arena *arena, const struct hlm_truth *truth,
                                            const char *family, const char *id,
                                            struct hlm_validation *out, struct hlm_err *err);

#endif
