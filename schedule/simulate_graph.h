/* simulate_graph: who waits for whom in a fixed order at given stage times, with the longest paths
 * before and behind each place. What simulate_paths.h picks its rows from.
 */
#ifndef HLM_SCHEDULE_SIMULATE_GRAPH_H
#define HLM_SCHEDULE_SIMULATE_GRAPH_H

#include "schedule/simulate_order.h"

enum { HLM_SIM_NOBODY = -1, HLM_SIM_MAX_INPUTS = 3 };

/* Paths whose lengths differ by less of the whole are taken as equal. */
static const double hlm_sim_tie_frac = 1e-9;

/* One way from an action to one that waits for it; link 0: no transfer, 2 boundary + 1: down over
 * it, 2 boundary + 2: up. */
struct hlm_sim_edge {
    int32_t from, link;
};

/* Where a longest path goes on behind a place. */
struct hlm_sim_way {
    int32_t to, link;
};

/* The graph with its longest paths: head_s up to the start of an action, tail_s from its end. */
struct hlm_sim_graph {
    const struct hlm_sim_order *order;
    double total_s;
    struct hlm_sim_edge (*inputs)[HLM_SIM_MAX_INPUTS]; /* [num_places]; from HLM_SIM_NOBODY: none */
    double *action_s;                                  /* [num_stages][HLM_SIM_NUM_KINDS] */
    double *transfer_s;                                /* of each link */
    double *duration_s, *head_s, *tail_s;
    int32_t *rank;    /* of each place */
    double *reduce_s; /* [num_ranks]: behind a rank's last place */
    int32_t *first,
        *next; /* [num_ranks] a rank's first place; [num_places] the one behind, HLM_SIM_NOBODY */
    int32_t *ways_begin;      /* [num_places + 1]: where a place's ways begin */
    struct hlm_sim_way *ways; /* along longest paths to the end, by the place they leave */
};

/* Of an action as simulate_order.h numbers them: stage * HLM_SIM_NUM_KINDS + kind. */
double hlm_sim_action_s(const struct hlm_sim_costs *costs, int32_t action);

/* All in the arena; links that need both sides are taken as buffered ones. */
struct hlm_sim_graph hlm_sim_graph_new(struct hlm_arena *arena, const struct hlm_sim_order *order,
                                       const struct hlm_sim_costs *costs);

#endif
