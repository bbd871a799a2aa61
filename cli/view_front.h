/* view_front: plans chosen by price, for people. */
#ifndef HLM_CLI_VIEW_FRONT_H
#define HLM_CLI_VIEW_FRONT_H

#include <stdio.h>

#include "planner/front.h"

/* What the plan was chosen from, by price: the proof, what it would cost to use the device groups
 * that it leaves out, and a row per subcluster whose best plan is known, cheapest first. Nothing
 * without an offer. */
void hlm_view_offer(FILE *out, struct hlm_arena *arena, const struct hlm_plan *plan);

/* A row per point, and the proof. */
void hlm_view_front(FILE *out, struct hlm_arena *arena, const struct hlm_front *front);

/* The answer of a command that made a front, as hlm_view_answer. */
HLM_MUST_CHECK enum hlm_status hlm_view_front_answer(struct hlm_arena *arena,
                                                     const struct hlm_front *front,
                                                     double search_cpu_s, const char *output,
                                                     bool json, struct hlm_err *err);

#endif
