/* search: the best plan, and how close to the best it is. See ARCHITECTURE.md, idea 3.
 *
 * Columns (legal strategies) are expanded best bound first: the floor of their family, then its
 * bound, the closed-form bound, the bound with exact memory and recompute, then the ILP over stage
 * patterns; every incumbent is simulated. Where what an ILP finds simulates slower than its bound,
 * all partitions of the column that may be good enough are listed by branch and bound, each
 * simulation above the goal leaving its longest paths as further bounds (rank_list.h). It stops
 * when (best simulated - least open bound) / best simulated <= max_gap_frac; the winner's own
 * column stays open until its next-best partitions are bounded too. The master ILP picks among all
 * surviving columns at once; its status and objective stand in the certificate.
 *
 * Over several device groups, replicas with shares of their own (share_columns.h) are searched
 * behind that, against the best plan found: their columns are refused group by group
 * (share_column.h); those that are not give plans and, as far as that is not too much work, all
 * their plans are simulated. The certificate's bound and counts are of both; the master ILP is of
 * the columns whose replicas are alike.
 */
#ifndef HLM_PLANNER_SEARCH_H
#define HLM_PLANNER_SEARCH_H

#include "planner/plan.h"

/* What the user asks; require: plan.h. */
struct hlm_search_problem {
    const struct hlm_model *model;
    const struct hlm_cluster *cluster;
    int64_t global_batch_size, seq_len;
    enum hlm_dtype dtype;
    enum hlm_lowering lowering;
    bool runnable_only; /* leave out what our executor refuses */
    bool all_groups;    /* leave out what lets a device group idle */
    struct hlm_search_require require;
    double max_gap_frac; /* 0: proven optimum */
    int32_t top_k; /* runners-up (other columns): one that is not shown is faster than the last
                      of them by three times the gap at most */
};

/* Where the best plan lets a device group idle and runners-up are wanted, the last of them is the
 * best plan that uses all groups, if there is one: one more than top_k.
 * Offload (none unless it is required): the search bounds plans as if hosts had any amount of
 * memory, which proves no less of those that fit. Where the best plan fits, it is the answer; where
 * not, the search ends with HLM_NO and says by how much, though a slower plan might need less of
 * the hosts. HLM_NO when nothing fits: the message names the constraint that fails and by how much
 * for the column that comes closest (stage, bytes missing, which memory kind is largest). progress
 * may be NULL. HLM_ENV: this build has no solver of integer programs (ilp_solve.h). */
HLM_MUST_CHECK enum hlm_status
hlm_search(struct hlm_arena *arena, const struct hlm_search_problem *problem,
           void (*progress)(void *context, double done, double total, const char *detail),
           void *context, const struct hlm_plan **out, struct hlm_err *err);

/* What is known when a search ends. */
struct hlm_search_result {
    /* NULL: none is below the cutoff; or the fastest needs more of the hosts than they have. */
    const struct hlm_plan *plan;
    double lower_bound_s; /* no plan is faster */
};

/* The same search, but one that goes on only while some plan may be faster than cutoff_s seconds
 * (INFINITY: no cutoff); without the comparison to all groups, and without an explanation in err
 * where nothing fits. A plan that is slower than the cutoff is given where it is within
 * max_gap_frac of it. */
HLM_MUST_CHECK enum hlm_status
hlm_search_below(struct hlm_arena *arena, const struct hlm_search_problem *problem, double cutoff_s,
                 void (*progress)(void *context, double done, double total, const char *detail),
                 void *context, struct hlm_search_result *out, struct hlm_err *err);

#endif
