/* simulate_order: one schedule, simulated for many stage times.
 *
 * Who waits for whom does not depend on the times, so it is found once: the compute actions of all
 * ranks in an order in which every input comes before its use, each with the places of what it
 * needs. A simulation is then one pass over arrays: a maximum and a sum an action, no lists, no
 * queue, nothing allocated but what is rewound.
 */
#ifndef HLM_SCHEDULE_SIMULATE_ORDER_H
#define HLM_SCHEDULE_SIMULATE_ORDER_H

#include "schedule/simulate.h"

/* What one kind of action of one stage is: index stage * HLM_SIM_NUM_KINDS + kind. */
enum { HLM_SIM_NUM_KINDS = HLM_ACTION_W + 1 };

/* A compute action, or a pair (OVERLAP_F_B) as one: `other` and `other_need` are those of its
 * backward. need: place in the order of the action whose end it waits for, -1: none. */
struct hlm_sim_place {
    int32_t action, need;
    int32_t other, other_need; /* other -1: no pair */
};

struct hlm_sim_order {
    enum hlm_schedule_kind kind;
    int32_t num_ranks, num_stages, num_microbatches;
    const int32_t *stage_rank; /* [num_stages] */
    bool splits_backward;      /* I and W in place of B, in some places at least */
    const struct hlm_sim_place *places;
    int32_t num_places;
};

/* HLM_FAILED: the lists make no progress. Takes O(actions); ranks take turns in the order, so that
 * neighbouring places seldom wait for each other. `schedule` is not needed afterwards. */
HLM_MUST_CHECK enum hlm_status hlm_sim_order_new(struct hlm_arena *arena,
                                                 const struct hlm_schedule *schedule,
                                                 const struct hlm_sim_order **out,
                                                 struct hlm_err *err);

/* The step time alone: the same semantics and bits as hlm_simulate, without measured durations
 * (costs->action_s NULL). Scratch memory is rewound. */
double hlm_sim_order_step(struct hlm_arena *scratch, const struct hlm_sim_order *order,
                          const struct hlm_sim_costs *costs);

#endif
