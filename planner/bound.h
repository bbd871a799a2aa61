/* bound: how long a step takes at least, proved for the simulator (schedule/simulate.h).
 *
 * Stages s = 0 .. p-1 with forward F_s, backward B_s, T_s = F_s + B_s; c_s: transfer from s to s +
 * 1 and back (c_{p-1} = 0); m microbatches; w = p - s; k_s = min(m, w); D_s gradient reduction, O_s
 * optimizer, Y sync. S_s = sum_{u>=s} (T_u + 2 c_u): from the start of a forward of s to the end of
 * its backward at the least. The simulated step is max_s (end_s + D_s) + Y + max_s O_s with end_s
 * the end of the last backward of s. A link that needs both sides only delays arrivals, so what
 * holds for buffered links holds for it. "X ends >= t" below means: not before t.
 *
 * 1F1B. In the list of stage s stand w-1 (at most m) forwards, then F_{i+w-1} and B_i in turn, then
 * the backwards that are left. So (1) k_s forwards stand before B_0; (2) F_{i+w} stands behind B_i
 * and before B_{i+1} when i + w <= m-1; (3) behind F_j, j >= w-1, stands B_{j-w+1}.
 *
 * Lemma A. B_0(s) ends >= sum_{u<s} (F_u + c_u) + S_s, F_0(s) starts >= sum_{u<s} (F_u + c_u):
 * microbatch 0 goes down through the forwards and up through the backwards, each waiting for the
 * one before. Lemma B. For s <= l and i + w <= m-1: B_{i+l-s+1}(s) ends at least V(s,l) =
 * sum_{u=s..l} T_u + 2 sum_{u=s..l-1} c_u after B_i(s). By (2) F_{i+w}(s) starts behind B_i(s); it
 * travels to l; there, by (3) with j = i + w >= p-l-1, B_{i+w-(p-l)+1}(l) = B_{i+l-s+1}(l) is
 * behind F_{i+w}(l); that backward travels up to s. l = s gives T_s per microbatch; V(s,l) = S_s -
 * S_{l+1} - 2 c_l.
 *
 * end_s >= sum_{u<s} (F_u + c_u) + row_s with row_s the largest of
 *   (1) m T_s
 *         all its work stands behind the start of F_0(s);
 *   (2) S_s + (m-1) T_s - (k_s-1) F_s
 *         behind B_0(s), m - k_s forwards and m-1 backwards are left, by (1);
 *   and, where m-1 >= w, by Lemma A and steps of Lemma B from B_0 to B_{m-1} (every step starts at
 *   an i <= m-1-w, so its F_{i+w} exists):
 *   (3) (1 + q) S_s + r T_s
 *         m-1 = q w + r: r steps l = s, then q steps l = p-1;
 *   (4) 2 S_s + a V(s,l) + r T_s
 *         m-1-w = a n + r, n = l-s+1 < w: r steps l = s, a steps l, then one step l = p-1; for l in
 *         {s, s+1, p-2}.
 * From B_{m-1}(s) the last backward still goes up, so for v <= s end_v >= sum_{u<v} (F_u + c_u) +
 * M_v, M_v = max(row_v, M_{v+1} + T_v + 2 c_v) and the step is at least N_0 + Y + max O, N_v =
 * max(M_v + D_v, N_{v+1} + F_v + c_v). With equal stages and p dividing m-1 this is exact. All
 * windows l of (4) give the exact steady-state period; these three are what the label DP can carry.
 *
 * GPipe. All stages first run all forwards. F_{m-1}(p-1) ends >= sum_u (F_u + c_u) + (m-1) max F:
 * F_0 reaches the slowest stage, which runs m forwards, the last of which goes on. B_0(p-1) is
 * behind it, so end_v >= sum_u (F_u + c_u) + (m-1) max_u F_u + sum_{u>=v} (B_u + c_u) + (m-1)
 * max_{u>=v} B_u, and the step is at least max_v (end_v + D_v) + Y + max O; exact for buffered
 * links.
 *
 * Every term grows with every F and B ((2): m-1 >= k_s-1), and the simulated step does too, so a
 * bound computed with times that are too small is a bound. That makes the closed form and the
 * threshold below bounds for all partitions at once: they put least seconds per layer where the
 * partition is unknown.
 *
 * The bound of a partition is a fold over its stages from the last to the first, on labels: that is
 * what the DP searches over; partition_glpk has the same rows as an ILP.
 */
#ifndef HLM_PLANNER_BOUND_H
#define HLM_PLANNER_BOUND_H

#include "planner/stage_pattern.h"

/* What the fold has to know of the stages s .. p-1. The value of every completion grows with every
 * element of value[] (last_s equal), so of two labels that differ in it only the smaller matters.
 *   1f1b   S_s, T_s, M_s, N_s, max O
 *   gpipe  sum F + c, max F, sum B + c, max B, max D-term, max O */
enum { HLM_BOUND_LABEL_SIZE = 6 };
struct hlm_bound_label {
    double value[HLM_BOUND_LABEL_SIZE];
    double last_s; /* T of the last stage */
};

/* The label of stages stage .. p-1 from that of stage+1 .. p-1 (ignored for the last stage). */
void hlm_bound_extend(const struct hlm_placement *placement, int32_t stage,
                      const struct hlm_pattern *pattern, const struct hlm_bound_label *behind,
                      struct hlm_bound_label *out);

/* The bound of the whole, from the label of all stages. */
double hlm_bound_finish(const struct hlm_placement *placement, const struct hlm_bound_label *label);

/* The bound of one partition: stage s holds layers [ends[s-1], ends[s]), ends[p-1] = num_layers.
 * INFINITY when a stage does not fit. */
double hlm_bound_partition(struct hlm_pattern_set *set, const int32_t *ends);

/* The closed-form bound of all partitions, without memory: O(p). With W the least sum of T, R = W +
 * 2 C, phi >= F/T of any mix, a_s = m-1 - (k_s-1) phi: row 2 of stage s is >= R + a_s T_s, and T
 * sums to >= W, so max_s a_s T_s >= W / sum(1 / a_s); some stage has >= ceil(L/p) layers; row 3 of
 * stage 0 is (1+q) R. */
double hlm_bound_closed_form(const struct hlm_placement *placement);

/* What is known of all partitions whose bound is at most cutoff_s: stage s begins at a layer in
 * [begin_min[s], begin_max[s]]; [num_stages + 1] each. */
struct hlm_bound_windows {
    double cutoff_s;
    int32_t *begin_min, *begin_max;
    double reduce_s, optimizer_s; /* least of stage 0 */
    /* Least sums in front of a layer, and in front of a stage of what stages have without layers.
     */
    const double *layers_s, *layers_forward_s;             /* [num_layers + 1] */
    const double *bases_s, *bases_forward_s, *transfers_s; /* [num_stages + 1] */
};

/* Narrows the windows: from the first stage, each takes as many layers as it can without one of its
 * rows (with least sums for the others) exceeding the cutoff; then likewise from the last. False:
 * no partition fits with a bound <= cutoff_s (which may be INFINITY: memory alone). */
bool hlm_bound_narrow(struct hlm_arena *arena, struct hlm_pattern_set *set, double cutoff_s,
                      struct hlm_bound_windows *out);

/* Whether a partition that gives [begin, end) to stage can have a bound <= the cutoff of the
 * windows. */
bool hlm_bound_keeps(struct hlm_pattern_set *set, const struct hlm_bound_windows *windows,
                     int32_t stage, int32_t begin, int32_t end);

/* The threshold bound: a cutoff that hlm_bound_narrow refuses, so that no partition is below it,
 * and close (a part in 2,000) to one that it takes. low_s when it refuses none, INFINITY when it
 * refuses cutoff_s (which may be INFINITY). low_s > 0 must be a bound itself. Fills ends
 * [num_stages] with each stage taking all it can at the taken cutoff: often a partition, and then a
 * good one. */
double hlm_bound_threshold(struct hlm_arena *scratch, struct hlm_pattern_set *set, double low_s,
                           double cutoff_s, int32_t *ends);

/* The least bound of a completion of `label` (of stages stage .. p-1, which begin at layer begin).
 */
double hlm_bound_label_least(const struct hlm_placement *placement,
                             const struct hlm_bound_windows *windows, int32_t stage, int32_t begin,
                             const struct hlm_bound_label *label);

#endif
