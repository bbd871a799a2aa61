/* search_internal: the state of a search, between search.c (which columns to go on with) and
 * search_answer.c (master ILP, certificate, plan). */
#ifndef HLM_PLANNER_SEARCH_INTERNAL_H
#define HLM_PLANNER_SEARCH_INTERNAL_H

#include "planner/bound.h"
#include "planner/column_placement.h"
#include "planner/search.h"

/* What is known of a column. Each level costs more than the one before and raises the bound. */
enum hlm_search_level {
    HLM_LEVEL_CLOSED_FORM, /* microseconds */
    HLM_LEVEL_THRESHOLD,   /* exact memory and recompute; a first partition was simulated */
    HLM_LEVEL_SOLVED,      /* the least bound of its partitions, by the ILP */
    HLM_LEVEL_LISTED,      /* all partitions that could close the gap were simulated */
    HLM_LEVEL_GIVEN_UP,    /* solved, but too many partitions to list */
};

/* A column that was looked into. Owns an arena for its patterns. */
struct hlm_search_column {
    struct hlm_arena *arena;
    struct hlm_column column;
    struct hlm_pattern_set *set;
    int32_t *ends;                       /* [pp]: of least bound among those seen */
    double ends_bound_s;                 /* INFINITY: none yet */
    double threshold_s;                  /* bound at HLM_LEVEL_THRESHOLD */
    const struct hlm_plan_stage *stages; /* of best_step_s */
    double best_step_s;                  /* simulated; INFINITY: none yet */
};

struct hlm_search_candidate {
    int32_t strategy;
    enum hlm_search_level level;
    double bound_s;
    struct hlm_search_column *expanded; /* NULL at HLM_LEVEL_CLOSED_FORM */
};

struct hlm_search_state {
    const struct hlm_search_problem *problem;
    struct hlm_arena *kept, *scratch;
    struct hlm_pricer_cache *cache;
    const struct hlm_strategy *strategies;
    struct hlm_search_candidate *heap; /* least bound first */
    int32_t heap_size;
    struct hlm_search_column **expanded; /* all that were looked into */
    int32_t num_expanded;
    struct hlm_search_column **planned; /* those with a simulated partition, best first */
    int32_t num_planned;
    double least_ilp_s;                  /* least objective of the columns' ILPs, */
    struct hlm_search_column *least_ilp; /* and the column that has it */
    double work_left; /* stages times microbatches that listing may still simulate */
    struct hlm_plan_certificate certificate;
    void (*progress)(void *context, double done, double total, const char *detail);
    void *progress_context;
};

/* INFINITY before the first. */
double hlm_search_best_step_s(const struct hlm_search_state *search);

/* Solves the master ILP, fills the certificate and prices the best column's plan once more. At
 * least one column is planned and solved. HLM_FAILED: the master ILP disagrees with the search. */
HLM_MUST_CHECK enum hlm_status hlm_search_answer(struct hlm_arena *arena,
                                                 struct hlm_search_state *search,
                                                 const struct hlm_plan **out, struct hlm_err *err);

#endif
