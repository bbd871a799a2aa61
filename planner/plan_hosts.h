/* plan_hosts: whether the hosts hold what ranks keep in their memory (costmodel/offload.h). */
#ifndef HLM_PLANNER_PLAN_HOSTS_H
#define HLM_PLANNER_PLAN_HOSTS_H

#include "planner/plan.h"

/* memory: [num_stages]. A node's host holds what the ranks on its devices keep. HLM_NO: a node has
 * less; the message says how much. Nothing is looked at where the strategy offloads nothing. */
HLM_MUST_CHECK enum hlm_status hlm_plan_check_hosts(const struct hlm_cluster *cluster,
                                                    const struct hlm_strategy *strategy,
                                                    const struct hlm_stage_memory *memory,
                                                    int32_t num_stages, struct hlm_err *err);

#endif
