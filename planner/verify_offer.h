/* verify_offer: checks what is said of prices, of a plan's certificate and of a front.
 *
 * Everything follows from one lower bound per subcluster, each of which is checked as that of a
 * certificate is (hlm_verify_bound); subclusters are listed anew. Where nothing is said to fit on
 * one, it is shown that nothing there could change the answer: that no plan on it is cheaper than
 * the plan and those with kept groups, or covered by no point of the front. Plans are priced
 * again, and all sums made anew. Not checked, as there is no plan to price: the step times of the
 * best plans on other subclusters (hlm_plan_subcluster.step_time_s), from which nothing follows.
 */
#ifndef HLM_PLANNER_VERIFY_OFFER_H
#define HLM_PLANNER_VERIFY_OFFER_H

#include "planner/front.h"

/* certificate->offer of a plan whose own claims hold. HLM_NO with the first claim that does not
 * hold: which, and both numbers. */
HLM_MUST_CHECK enum hlm_status hlm_verify_offer(struct hlm_arena *arena,
                                                const struct hlm_plan *plan, struct hlm_err *err);

/* All points of a front, and its offer. */
HLM_MUST_CHECK enum hlm_status hlm_verify_front(struct hlm_arena *arena,
                                                const struct hlm_front *front, struct hlm_err *err);

#endif
