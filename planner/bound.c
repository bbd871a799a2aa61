#include "planner/bound_internal.h"

#include <math.h>

/* Names of the elements of a label. */
enum { LOOP, OWN, END, STEP, OPTIMIZER };                                       /* 1f1b */
enum { FORWARDS, FORWARD_MAX, BACKWARDS, BACKWARD_MAX, TAIL, GPIPE_OPTIMIZER }; /* gpipe */

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* --- rows of 1f1b --- */

static double window_row(double rounds, double stages, double window_s,
                         const struct hlm_bound_row_parts *parts)
{
    const double times = floor(rounds / stages);
    return 2.0 * parts->loop_s + times * window_s + (rounds - times * stages) * parts->own_s;
}

double hlm_bound_loop_rows_s(const struct hlm_placement *placement, int32_t stage,
                             const struct hlm_bound_row_parts *parts)
{
    const double w = placement->num_stages - stage, rest = placement->num_microbatches - 1;
    const double k = fmin(w, placement->num_microbatches);
    double row = parts->loop_s + rest * parts->own_s - (k - 1.0) * parts->forward_s;
    if (rest < w) {
        return row;
    }
    const double q = floor(rest / w);
    row = larger(row, (1.0 + q) * parts->loop_s + (rest - q * w) * parts->own_s);
    if (w > 1) {
        row = larger(row, 2.0 * parts->loop_s + (rest - w) * parts->own_s);
    }
    if (parts->pair_s >= 0) {
        row = larger(row, window_row(rest - w, 2.0, parts->pair_s, parts));
    }
    if (parts->inner_s >= 0) {
        row = larger(row, window_row(rest - w, w - 1.0, parts->inner_s, parts));
    }
    return row;
}

/* --- the fold --- */

static void extend_1f1b(const struct hlm_placement *placement, int32_t stage,
                        const struct hlm_pattern *pattern, const struct hlm_bound_label *behind,
                        struct hlm_bound_label *out)
{
    const int32_t last = placement->num_stages - 1;
    const bool is_last = stage == last;
    const double own_s = hlm_pattern_seconds(pattern);
    const double transfer_s = is_last ? 0.0 : placement->transfer_s[stage];
    const double *next = behind->value;
    const double loop_s = own_s + (is_last ? 0.0 : 2.0 * transfer_s + next[LOOP]);
    const struct hlm_bound_row_parts parts = {
        .own_s = own_s,
        .forward_s = pattern->forward_s,
        .loop_s = loop_s,
        .pair_s = stage + 1 <= last - 1 ? own_s + 2.0 * transfer_s + next[OWN] : -1.0,
        .inner_s = stage + 1 < last - 1
                       ? loop_s - behind->last_s - 2.0 * placement->transfer_s[last - 1]
                       : -1.0};
    double end_s = larger(placement->num_microbatches * own_s,
                          hlm_bound_loop_rows_s(placement, stage, &parts));
    double step_s = 0.0, optimizer_s = pattern->optimizer_s;
    if (!is_last) {
        end_s = larger(end_s, next[END] + own_s + 2.0 * transfer_s);
        step_s = next[STEP] + pattern->forward_s + transfer_s;
        optimizer_s = larger(optimizer_s, next[OPTIMIZER]);
    }
    *out = (struct hlm_bound_label){.value = {[LOOP] = loop_s,
                                              [OWN] = own_s,
                                              [END] = end_s,
                                              [STEP] = larger(step_s, end_s + pattern->reduce_s),
                                              [OPTIMIZER] = optimizer_s},
                                    .last_s = is_last ? own_s : behind->last_s};
}

static void extend_gpipe(const struct hlm_placement *placement, int32_t stage,
                         const struct hlm_pattern *pattern, const struct hlm_bound_label *behind,
                         struct hlm_bound_label *out)
{
    const bool is_last = stage == placement->num_stages - 1;
    const double transfer_s = is_last ? 0.0 : placement->transfer_s[stage];
    static const struct hlm_bound_label nothing;
    const double *next = is_last ? nothing.value : behind->value;
    const double backwards_s = next[BACKWARDS] + pattern->backward_s + transfer_s;
    const double backward_max_s = larger(next[BACKWARD_MAX], pattern->backward_s);
    const double tail_s =
        backwards_s + (placement->num_microbatches - 1) * backward_max_s + pattern->reduce_s;
    *out = (struct hlm_bound_label){
        .value = {[FORWARDS] = next[FORWARDS] + pattern->forward_s + transfer_s,
                  [FORWARD_MAX] = larger(next[FORWARD_MAX], pattern->forward_s),
                  [BACKWARDS] = backwards_s,
                  [BACKWARD_MAX] = backward_max_s,
                  [TAIL] = larger(next[TAIL], tail_s),
                  [GPIPE_OPTIMIZER] = larger(next[GPIPE_OPTIMIZER], pattern->optimizer_s)}};
}

void hlm_bound_extend(const struct hlm_placement *placement, int32_t stage,
                      const struct hlm_pattern *pattern, const struct hlm_bound_label *behind,
                      struct hlm_bound_label *out)
{
    if (placement->schedule == HLM_SCHEDULE_GPIPE) {
        extend_gpipe(placement, stage, pattern, behind, out);
    } else {
        extend_1f1b(placement, stage, pattern, behind, out);
    }
}

double hlm_bound_finish_behind(const struct hlm_placement *placement,
                               const struct hlm_bound_label *label, double front_s,
                               double front_forward_s, double reduce_s)
{
    const double *value = label->value;
    if (placement->schedule == HLM_SCHEDULE_GPIPE) {
        const double rest = placement->num_microbatches - 1;
        const double forwards_s = value[FORWARDS] + front_forward_s + rest * value[FORWARD_MAX];
        const double all_s =
            value[BACKWARDS] + (front_s - front_forward_s) + rest * value[BACKWARD_MAX] + reduce_s;
        return forwards_s + larger(value[TAIL], all_s) + placement->sync_s + value[GPIPE_OPTIMIZER];
    }
    return larger(value[STEP] + front_forward_s, value[END] + front_s + reduce_s) +
           placement->sync_s + value[OPTIMIZER];
}

double hlm_bound_finish(const struct hlm_placement *placement, const struct hlm_bound_label *label)
{
    return hlm_bound_finish_behind(placement, label, 0.0, 0.0, 0.0);
}

double hlm_bound_partition(struct hlm_pattern_set *set, const int32_t *ends)
{
    const struct hlm_placement *placement = hlm_pattern_set_placement(set);
    struct hlm_bound_label label = {0};
    for (int32_t stage = placement->num_stages - 1; stage >= 0; stage--) {
        const struct hlm_pattern *pattern =
            hlm_pattern_get(set, stage, stage == 0 ? 0 : ends[stage - 1], ends[stage]);
        if (pattern == NULL) {
            return INFINITY;
        }
        struct hlm_bound_label longer;
        hlm_bound_extend(placement, stage, pattern, &label, &longer);
        label = longer;
    }
    return hlm_bound_finish(placement, &label);
}
