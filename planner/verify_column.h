/* verify_column: the verifier's own answer about one strategy column. Shares no code with the
 * search. */
#ifndef HLM_PLANNER_VERIFY_COLUMN_H
#define HLM_PLANNER_VERIFY_COLUMN_H

#include "planner/plan.h"

enum hlm_verdict {
    HLM_VERDICT_CLOSED_FORM, /* no partition is below goal_s, whatever memory says */
    HLM_VERDICT_INFEASIBLE,  /* no partition fits */
    HLM_VERDICT_BOUNDED,     /* no partition that fits has rows below goal_s */
    HLM_VERDICT_SIMULATED,   /* some have, and all of these simulate to goal_s or more */
    HLM_VERDICT_FASTER,      /* one simulates to less */
    HLM_VERDICT_TOO_MANY,    /* more than can be simulated */
};

/* pricers: [pp]. recompute: the only mode allowed, -1: all. *out_step_s: the least simulated step,
 * where any was; the first that is below goal_s ends the walk. */
enum hlm_verdict hlm_verify_column(const struct hlm_strategy *strategy,
                                   const struct hlm_pricer *const *pricers, int32_t recompute,
                                   double goal_s, double *out_step_s);

#endif
