/* plan_places: where the pipeline ranks of a plan stand, from its stages.
 *
 * A stage says its device group and its tp; pipeline ranks take the devices of their group in
 * pipeline order, each dp * cp * tp of them in a row. Devices that are left over stay idle. A plan
 * of equal stages that fill the cluster from its first device on needs no places.
 */
#ifndef HLM_PLANNER_PLAN_PLACES_H
#define HLM_PLANNER_PLAN_PLACES_H

#include "planner/plan.h"

/* *out: [strategy->pp] in the arena, or NULL where none are needed. HLM_NO: a device group has too
 * few devices for its stages, or two stages of one rank differ in device group or tp; the message
 * names the stage. */
HLM_MUST_CHECK enum hlm_status
hlm_plan_places(struct hlm_arena *arena, const struct hlm_cluster *cluster,
                const struct hlm_strategy *strategy, const struct hlm_plan_stage *stages,
                int32_t num_stages, const struct hlm_rank_place **out, struct hlm_err *err);

/* Sets where the ranks of the strategy stand, in the arena: its places as above, or first_device of
 * its replicas, whose stages all have its tp and the device group of the first of them. */
HLM_MUST_CHECK enum hlm_status hlm_plan_locate(struct hlm_arena *arena,
                                               const struct hlm_cluster *cluster,
                                               struct hlm_strategy *strategy,
                                               const struct hlm_plan_stage *stages,
                                               int32_t num_stages, struct hlm_err *err);

#endif
