/* ilp: an integer linear program as rows and columns, and the one that places layers.
 *
 *     min sum_j cost_j x_j
 *     s.t. low_i <= sum_j a_ij x_j (<= high_i),  x_j >= 0,  binary where said
 *
 * Plain data, so that the formulation is apart from the solver (partition_glpk.h).
 *
 * The placement of one strategy column. x_p: 1 when stage s takes pattern p, of those that
 * hlm_bound_keeps under the cutoff. `y` is 1, or in the master the binary of the strategy column,
 * which then multiplies every constant, so that y = 0 leaves all of its variables at 0 (perspective
 * form).
 *   sum_{p of s} x_p = y                 for each stage s
 *   sum_p n_p x_p = L y                  when all layers are of one kind, else
 *   sum_{p of s ending at i} x_p = sum_{p of s+1 beginning at i} x_p   for each s, i
 * and the rows of bound.h, with variables S_s, M_s, N_s, O (1f1b) or F^, B^_s, A_s, H, O (gpipe):
 *   S_s - S_{s+1} - sum T_p x_p = 2 c_s y
 *   M_s >= row_s
 *   M_s >= M_{s+1} + T_s + 2 c_s y
 *   N_s >= M_s + sum D_p x_p
 *   N_s >= N_{s+1} + sum F_p x_p + c_s y
 *   O >= sum O_p x_p                     for each s
 *   minimise N_0 + O + Y y
 * T_s is written S_s - S_{s+1} - 2 c_s y, so that rows of M touch a few columns only. No big
 * constants and no memory rows: memory decided which patterns there are. Seconds are divided by
 * `unit_s`, chosen so that the objective is about 1,000: GLPK prunes within 1e-7 (1 + |objective|),
 * so an objective far below 1 would come out wrong and yet be called optimal.
 */
#ifndef HLM_PLANNER_ILP_H
#define HLM_PLANNER_ILP_H

#include "planner/bound.h"

struct hlm_ilp_column {
    double cost;
    bool is_binary;
};
struct hlm_ilp_row {
    double low, high; /* high INFINITY: none; low == high: an equation */
};
struct hlm_ilp_entry {
    int32_t row, column;
    double value;
};
struct hlm_ilp {
    struct hlm_arena *arena;
    struct hlm_ilp_column *columns;
    struct hlm_ilp_row *rows;
    struct hlm_ilp_entry *entries; /* no (row, column) twice */
    int32_t num_columns, num_rows, num_entries;
    int32_t max_columns, max_rows, max_entries;
};

void hlm_ilp_init(struct hlm_ilp *ilp, struct hlm_arena *arena);
int32_t hlm_ilp_add_column(struct hlm_ilp *ilp, double cost, bool is_binary);
int32_t hlm_ilp_add_row(struct hlm_ilp *ilp, double low, double high);
void hlm_ilp_add_entry(struct hlm_ilp *ilp, int32_t row, int32_t column, double value);

/* One strategy column inside a program. */
struct hlm_ilp_choice {
    int32_t stage, begin, end; /* uniform sets: begin 0, end the number of layers */
    int32_t column;
};
struct hlm_ilp_placement {
    struct hlm_pattern_set *set;
    int32_t y; /* column of its binary, -1: the constant 1 */
    const struct hlm_ilp_choice *choices;
    int32_t num_choices;
};

/* Adds variables and rows. False when the windows leave a stage without a pattern: then no
 * partition has a bound within the cutoff. */
bool hlm_ilp_add_placement(struct hlm_ilp *ilp, struct hlm_pattern_set *set,
                           const struct hlm_bound_windows *windows, int32_t y, double unit_s,
                           struct hlm_ilp_placement *out);

/* The partition that a solution picks: ends [num_stages]. */
void hlm_ilp_read_partition(const struct hlm_ilp_placement *placement, const double *values,
                            int32_t *ends);

#endif
