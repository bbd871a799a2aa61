/* share_column: one column of replicas with shares of their own (share_columns.h): its bounds, and
 * plans of it.
 *
 * Let T be the step of a plan of shares m_g and a split of layers. By plan.h it is the most over g
 * of the simulation of replicas g, with what all do together as on the slowest of them, so no less
 * than the simulated step of the strategy on group g alone with its own times, which hlm_bound_*
 * bound from below (bound.h). That step does not fall with m_g: the lists of gpipe and 1f1b of
 * fewer microbatches are those of more without the others, and memory held grows with m_g. So where
 * a bound shows that no split at all is below T on group g with m microbatches, none is with more,
 * and with M_g(T) the most that are not refused every plan of the column below T has m_g <= M_g(T)
 * for all g: there is none where sum_g dp_g M_g(T) < total. Which bound refuses does not matter:
 * that of the family (linear in m), the closed form, or rows with exact memory (hlm_bound_narrow).
 * The split is chosen for each group by itself in this, which only takes away from T.
 */
#ifndef HLM_PLANNER_SHARE_COLUMN_H
#define HLM_PLANNER_SHARE_COLUMN_H

#include "planner/bound.h"
#include "planner/column_placement.h"
#include "planner/share_columns.h"

/* Whether the bound of the family's columns refuses all of them below goal_s. HLM_NO: the cost
 * model refuses the family. */
HLM_MUST_CHECK enum hlm_status hlm_share_family_refuses(struct hlm_pricer_cache *cache,
                                                        const struct hlm_share_family *family,
                                                        double goal_s, bool *out_refuses,
                                                        struct hlm_err *err);

struct hlm_share_column;

/* A member of the family, in the arena; NULL: the states of the model do not fit on some group. */
struct hlm_share_column *hlm_share_column_new(struct hlm_arena *arena,
                                              struct hlm_pricer_cache *cache,
                                              const struct hlm_share_family *family,
                                              const struct hlm_strategy *strategy);
/* Frees what its exact bounds keep. */
void hlm_share_column_free(struct hlm_share_column *column);

/* Whether the closed form, or rows with exact memory, refuse all plans below goal_s. */
bool hlm_share_closed_form_refuses(struct hlm_share_column *column, double goal_s);
bool hlm_share_rows_refuse(struct hlm_share_column *column, double goal_s);

/* The largest seconds, to a part in 2,000, that the closed form (rows: exact memory) refuses, from
 * low_s (refused, or 0) to high_s. */
double hlm_share_bound_s(struct hlm_share_column *column, double low_s, double high_s, bool rows);

/* A plan of the column. */
struct hlm_share_plan {
    int64_t shares[HLM_MAX_MIXED_GROUPS];
    struct hlm_plan_stage *stages; /* [pp] in the arena of the column */
    double step_s;                 /* INFINITY: none */
};

/* Looks for a good plan: shares that the closed form makes even, the split of the replicas that
 * then take longest, and single microbatches and layers moved while that helps. Adds to
 * *num_simulated; improves *best. */
void hlm_share_guess(struct hlm_share_column *column, struct hlm_share_plan *best,
                     int64_t *num_simulated);

/* All shares, and for each of them all splits whose rows are below goal_s on every group,
 * simulated. Returns what no plan of the column is below: the goal, less where a plan is or where
 * groups would recompute in too many different ways; 0 when there are too many plans for *work_left
 * simulated actions. */
double hlm_share_list(struct hlm_share_column *column, double goal_s, double max_gap_frac,
                      struct hlm_share_plan *best, double *work_left, int64_t *num_simulated);

/* The column's strategy with these shares, in the arena. */
struct hlm_strategy hlm_share_strategy(struct hlm_arena *arena,
                                       const struct hlm_share_column *column,
                                       const int64_t *shares);

#endif
