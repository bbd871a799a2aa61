/* offload: optimizer states and activations in the host's memory, and what moving them costs.
 * Priced only; enum hlm_offload says what moves. The figures of the host are those of the device
 * group (struct hlm_host), and all devices of a node copy at once.
 *
 * Activations. What a layer keeps of a microbatch (its input, or all of it) goes to the host behind
 * its forward and comes back for its backward. Two layers at a time stay on the device: one that is
 * computed, one that is on its way (the two buffers of llm.q and of Transformer Engine). They count
 * as transient, so a stage of one layer with one microbatch in flight gains nothing. Embedding and
 * head keep what they have: the backward of the head follows its forward. The traffic runs beside
 * the pass, and the part by which it takes longer is exposed:
 *
 *     max(0, bytes / rate - forward) + max(0, bytes / rate - backward)
 *     rate = min(link, memory bandwidth / devices of a node)
 *
 * With offload_layers of the model's layers each layer moves that share of what it keeps: copies of
 * some layers run beside the passes of all (as Transformer Engine spreads them). The window stays,
 * so that few layers gain nothing.
 *
 * Both parts are charged to the backward: what a layer keeps depends on its recompute mode, and the
 * forward must not (planner/stage_pattern.h). With equal stages the step of gpipe and 1f1b depends
 * on the sum of the two passes only.
 *
 * Optimizer states. A rank's share (as ZeRO divides it) passes through three stations, piece by
 * piece, in as many pieces as the stage has blocks:
 *
 *     on the host     gradients to the host, update there, parameters to the device. The update
 *                     moves its own bytes (hlm_adamw_bytes_per_element) and those of the two copies
 *                     through a device's share of the host's memory bandwidth
 *     on the device   (updates_on_device) states to the device, update there, states to the host,
 *                     each copy at min(link, memory bandwidth / devices / 2)
 *
 * and takes as long as the slowest station, and one piece of the two others:
 *
 *     max + (sum - max) / pieces
 *
 * Pieces are where activations were, which are gone by then. Gradients and parameters stay on the
 * device as they are.
 */
#ifndef HLM_COSTMODEL_OFFLOAD_H
#define HLM_COSTMODEL_OFFLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "costmodel/strategy.h"
#include "profiles/cluster.h"

enum { HLM_OFFLOAD_WINDOW = 2 }; /* layers whose activations are on the device */

/* HLM_NO: the strategy offloads, and the host of the group is not known. */
HLM_MUST_CHECK enum hlm_status hlm_offload_check(const struct hlm_strategy *strategy,
                                                 const struct hlm_device_group *group,
                                                 struct hlm_err *err);

/* Seconds of a copy of activations, one way. */
double hlm_offload_copy_s(const struct hlm_device_group *group, double bytes);

/* What the three stations add to a step: they sum to all of it. All 0: nothing is offloaded. */
struct hlm_offload_update {
    double to_host_s, update_s, to_device_s;
};

/* Of num_elements parameters of a rank; device_update_s: its update takes that long on the device.
 * num_pieces >= 1. */
struct hlm_offload_update hlm_offload_update(const struct hlm_strategy *strategy,
                                             const struct hlm_device_group *group,
                                             double num_elements, double device_update_s,
                                             int32_t num_pieces);

static inline double hlm_offload_update_s(const struct hlm_offload_update *update)
{
    return update->to_host_s + update->update_s + update->to_device_s;
}

#endif
