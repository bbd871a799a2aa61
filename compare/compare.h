/* compare: how well a step was predicted.
 *
 * Joins what a plan promised with what a run measured on the keys that both have: the named parts
 * of the step (a part that only one side has counts as 0 on the other), the mean duration of each
 * kind of action of each stage, and the peak memory of each stage. An error is (predicted -
 * measured) / measured: positive where the prediction was too slow or too large.
 *
 * A rank that was emulated (planner/measurement.h) is joined with what the plan promised of that
 * rank. Only its computing and its memory were measured: the durations of its actions are those of
 * their operators, without communication (reductions of gradients, which are nothing else, are left
 * out), and the other parts of its step and the waiting in its step time are the plan's own.
 */
#ifndef HLM_COMPARE_COMPARE_H
#define HLM_COMPARE_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "planner/measurement.h"
#include "planner/plan.h"

/* A part of the step, and its parts, as deep as both sides take it apart. */
struct hlm_compare_part {
    const char *name;
    double predicted_s, measured_s;
    const struct hlm_compare_part *parts;
    int32_t num_parts;
};

/* One kind of action of one stage: F, B, I, W, REDUCE_GRAD or OPTIMIZER. */
struct hlm_compare_action {
    int32_t stage;
    enum hlm_action_kind kind;
    int32_t num_measured;           /* events behind the mean, over ranks and microbatches */
    double predicted_s, measured_s; /* mean durations */
};

/* Bytes of the rank of a stage that holds most, without fixed_bytes. A rank with several stages is
 * one row, of its first. */
struct hlm_compare_memory {
    int32_t stage;
    int64_t predicted_bytes, measured_bytes;
    /* With fixed_bytes, and what the device of one of these ranks had in use at most, by whomever;
     * 0: the backend can't say. */
    int64_t device_predicted_bytes, device_used_bytes;
};

struct hlm_comparison {
    double predicted_s, measured_s, error_frac, tolerance_frac; /* of the step */
    /* |error_frac| <= tolerance_frac; of an emulated rank also the error of what it computed, as
     * waiting for peers may hide it from the step. */
    bool within;
    bool virtual_time;
    int32_t emulated_rank;                          /* -1: all ranks ran */
    double compute_predicted_s, compute_measured_s; /* hlm_compare_computed_s of the parts */
    int32_t num_clean_steps;
    struct hlm_compare_part parts; /* name "step" */
    const struct hlm_compare_action *actions;
    int32_t num_actions;
    const struct hlm_compare_memory *memory;
    int32_t num_memory;
};
extern const struct hlm_json_table hlm_comparison_table; /* kind "comparison" */

/* (predicted - measured) / measured; NAN where nothing was measured. */
double hlm_compare_error(double predicted, double measured);

/* What the plan promises of the step that was measured: the prediction, or, of an emulated rank,
 * the parts of that rank, whose sum is when its optimizer ends. HLM_INPUT: the plan has no such
 * rank. */
HLM_MUST_CHECK enum hlm_status hlm_compare_promise(struct hlm_arena *arena,
                                                   const struct hlm_plan *plan,
                                                   const struct hlm_measurement *measurement,
                                                   const char *where, struct hlm_time_node *out,
                                                   struct hlm_err *err);

/* Of the parts of a step, those that compute: forward, backward and optimizer together. */
double hlm_compare_computed_s(const struct hlm_time_node *step);

/* Joins a plan and a measurement of it. The plan is simulated again for the durations of its
 * actions. tolerance_frac >= 0. HLM_INPUT: the measured step time is 0, or the measurement names a
 * stage or a rank that the plan lacks; `where` is how messages call the measurement. That the
 * measurement belongs to the plan is the caller's to check (hlm_measurement_check_plan). */
HLM_MUST_CHECK enum hlm_status hlm_compare(struct hlm_arena *arena, const struct hlm_plan *plan,
                                           const struct hlm_measurement *measurement,
                                           const char *where, double tolerance_frac,
                                           struct hlm_comparison *out, struct hlm_err *err);

#endif
