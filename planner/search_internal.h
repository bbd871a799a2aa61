/* search_internal: the state of a search, between search.c (which columns to go on with) and
 * search_answer.c (master ILP, certificate, plan). */
#ifndef HLM_PLANNER_SEARCH_INTERNAL_H
#define HLM_PLANNER_SEARCH_INTERNAL_H

#include "planner/bound.h"
#include "planner/column_placement.h"
#include "planner/columns.h"
#include "planner/search.h"

/* What is known of a candidate. Each level costs more than the one before and raises the bound. */
enum hlm_search_level {
    HLM_LEVEL_UNPRICED,    /* all columns of a family, with its floor */
    HLM_LEVEL_FAMILY,      /* the same with its bound: not listed yet */
    HLM_LEVEL_LISTED_ONLY, /* a column with the bound of its family */
    HLM_LEVEL_CLOSED_FORM, /* microseconds */
    HLM_LEVEL_RAMPS,     /* exact memory and recompute; times by the ramps of the schedule alone */
    HLM_LEVEL_THRESHOLD, /* exact memory and recompute; a first partition was simulated */
    HLM_LEVEL_SOLVED,    /* the least bound of its partitions, by the ILP */
    HLM_LEVEL_LISTED,    /* all partitions that could close the gap were simulated */
    HLM_LEVEL_GIVEN_UP,  /* solved, but too many partitions to list */
};

/* A column that was looked into. Owns an arena for its patterns. */
struct hlm_search_column {
    struct hlm_arena *arena;
    struct hlm_column column;
    double threshold_s;                  /* bound at HLM_LEVEL_THRESHOLD */
    const struct hlm_plan_stage *stages; /* of best_step_s */
    double best_step_s;                  /* simulated; INFINITY: none yet */
    /* gpipe and 1f1b */
    struct hlm_pattern_set *set;
    int32_t *ends;       /* [pp]: of least bound among those seen */
    double ends_bound_s; /* INFINITY: none yet */
    double ilp_s;        /* least objective of its ILP; INFINITY: not solved */
    /* the others */
    struct hlm_rank_set *ranks;
};

struct hlm_search_candidate {
    int64_t index; /* of its family, then of the column in it: order of ties */
    const struct hlm_column_family *family;
    const struct hlm_strategy *strategy; /* NULL up to HLM_LEVEL_FAMILY */
    enum hlm_search_level level;
    double bound_s;
    struct hlm_search_column *expanded; /* NULL up to HLM_LEVEL_CLOSED_FORM */
};

/* What is known of replicas with shares of their own (share_columns.h). */
struct hlm_search_shares {
    double step_s; /* of the best plan; INFINITY: none */
    struct hlm_strategy strategy;
    const struct hlm_plan_stage *stages;
    double bound_s; /* no plan of them is faster; INFINITY: there are none */
    int64_t num_columns, num_infeasible;
    int64_t num_open; /* of these columns, looked into to the end, or open still */
};

struct hlm_search_state {
    const struct hlm_search_problem *problem;
    struct hlm_search_shares shares;
    double cutoff_s; /* see hlm_search_below; INFINITY: none */
    bool explains;   /* says why nothing fits, which takes longer than to see that nothing does */
    struct hlm_arena *kept, *scratch;
    struct hlm_pricer_cache *cache;
    struct hlm_search_candidate *heap; /* least bound first */
    int32_t heap_size, heap_room;
    int32_t num_families_left;           /* not listed yet */
    struct hlm_err refusal;              /* of the last family that the cost model refused */
    struct hlm_search_column **expanded; /* all that were looked into */
    int32_t num_expanded, expanded_room;
    struct hlm_search_column **planned; /* those with a simulated partition, best first */
    int32_t num_planned, planned_room;
    bool is_least_proved; /* every ILP was solved to its optimum */
    double work_left;     /* simulated actions that listing partitions may still take */
    struct hlm_plan_certificate certificate;
    void (*progress)(void *context, double done, double total, const char *detail);
    void *progress_context;
};

/* INFINITY before the first. */
double hlm_search_best_step_s(const struct hlm_search_state *search);

/* Nothing slower than this is wanted: neither as the plan nor as a runner-up. */
double hlm_search_limit_s(const struct hlm_search_state *search);

/* What the search need not go below: the best step less the gap that is allowed, or the cutoff. */
double hlm_search_goal_s(const struct hlm_search_state *search);

/* A partition of the column was simulated: keeps its stages if it is the column's best. `stages`
 * is copied. */
void hlm_search_take_plan(struct hlm_search_state *search, struct hlm_search_column *expanded,
                          const struct hlm_plan_stage *stages, double step_s);

/* The column whose ILP has the least objective; NULL: none is solved. */
struct hlm_search_column *hlm_search_least_ilp(const struct hlm_search_state *search);

/* --- search_ranks.c: ranked columns, level by level --- */

/* From the closed form to the ramps; false: the column is out (and its arena still there). */
bool hlm_search_expand_ranks(struct hlm_search_state *search, struct hlm_search_column *expanded,
                             double *bound_s, bool *out_feasible);
/* From the ramps to the threshold; false: the column is out. */
bool hlm_search_take_paths(struct hlm_search_state *search, struct hlm_search_column *expanded,
                           double *bound_s);
/* From the threshold to the ILP; false: nothing in the column is as good as the limit. */
bool hlm_search_solve_ranks(struct hlm_search_state *search, struct hlm_search_column *expanded,
                            double *bound_s);
/* From the ILP to the gap; false: too many partitions. */
bool hlm_search_list_ranks(struct hlm_search_state *search, struct hlm_search_column *expanded);

/* --- search_shares.c --- */

/* Fills search->shares: looks for plans that are faster than hlm_search_goal_s, which these change.
 * A column counts as a family member that hlm_family_bound takes. */
void hlm_search_find_shares(struct hlm_search_state *search);

/* Fills the certificate, prices the best column's plan once more and solves the master ILP. At
 * least one column is planned and solved. HLM_FAILED: the master ILP disagrees with the search. */
HLM_MUST_CHECK enum hlm_status hlm_search_answer(struct hlm_arena *arena,
                                                 struct hlm_search_state *search,
                                                 const struct hlm_plan **out, struct hlm_err *err);

#endif
