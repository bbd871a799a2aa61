/* stage_pattern: what one stage can hold, and the inner problem of the search.
 *
 * A placement problem is one strategy column with the strategy taken out: stages in pipeline order,
 * a sequence of layers of at most two kinds (dense, moe), prices per stage, transfer times, memory
 * limits. It names no model and no cluster, so that it is filled from a pricer (search.c) or at
 * random (tests).
 *
 * Stage s holds the layers [begin, end) of the sequence, possibly none where `may_be_empty` says so
 * (the first stage, which has the embedding, and the last, which has the head). The first `full` of
 * them recompute fully, the next `selective` selectively, the rest not at all (plan.h). A pattern
 * is the choice of these two numbers with the least backward that fits:
 *
 *     forward_s  = base_forward_s + sum over layers of forward_s[kind]
 *     backward_s = base_backward_s + min over (full, selective) of sum of backward_s[kind][mode]
 *                  where static(counts) + in_flight (base_slot + sum of slot[kind][mode]) +
 *                  max(base_transient, largest transient[kind][mode] of any layer) <= limit
 *
 * The forward does not depend on the mode (recompute repeats operators in the backward), and
 * neither do static bytes, gradient reduction and optimizer. As a simulated step never gets shorter
 * when an action gets longer (longest path), the least backward is the best choice whatever the
 * other stages do: one pattern per stage and stretch of layers is enough, and no optimum is lost. A
 * part of a stretch that fits also fits, with no longer backward: its layers keep their modes,
 * static bytes do not grow.
 */
#ifndef HLM_PLANNER_STAGE_PATTERN_H
#define HLM_PLANNER_STAGE_PATTERN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "costmodel/strategy.h"

enum { HLM_NUM_LAYER_KINDS = 2 }; /* 0 dense, 1 moe */

/* Seconds and bytes of one layer by kind and recompute mode on one stage, for one microbatch.
 * `base` is what the stage has without any layer: embedding, head, boundary buffers, fixed memory
 * (transient). */
struct hlm_stage_prices {
    double forward_s[HLM_NUM_LAYER_KINDS];
    double backward_s[HLM_NUM_LAYER_KINDS][HLM_NUM_RECOMPUTES];
    int64_t slot_bytes[HLM_NUM_LAYER_KINDS][HLM_NUM_RECOMPUTES];
    int64_t transient_bytes[HLM_NUM_LAYER_KINDS][HLM_NUM_RECOMPUTES];
    double base_forward_s, base_backward_s;
    int64_t base_slot_bytes, base_transient_bytes;
    int64_t limit_bytes;
    int32_t in_flight; /* microbatches whose activations it holds at most */
    bool may_be_empty;
};

/* What depends on the counts of layers in a way that is not linear (padded slabs, collectives). */
struct hlm_stage_holding {
    int64_t static_bytes; /* parameters, gradients, optimizer states */
    double reduce_s, optimizer_s;
};

struct hlm_placement {
    enum hlm_schedule_kind schedule;
    int32_t num_stages, num_layers, num_microbatches;
    const uint8_t *layer_kinds;            /* [num_layers] */
    const struct hlm_stage_prices *stages; /* [num_stages] */
    const double *transfer_s;              /* [num_stages]: s to s + 1 and back; last: 0 */
    double sync_s;
    bool modes[HLM_NUM_RECOMPUTES]; /* recompute modes that may be used */
    void (*hold)(const void *context, int32_t stage, const int32_t counts[HLM_NUM_LAYER_KINDS],
                 struct hlm_stage_holding *out);
    const void *context;
};

struct hlm_pattern {
    int32_t recompute[HLM_NUM_RECOMPUTES]; /* layers of each mode */
    double forward_s, backward_s;
    double reduce_s, optimizer_s;
};

static inline double hlm_pattern_seconds(const struct hlm_pattern *pattern)
{
    return pattern->forward_s + pattern->backward_s;
}

/* All patterns of a placement problem, each computed when it is first asked for. Lives in the arena
 * it was made from, beside `placement`, which must outlive it. */
struct hlm_pattern_set;
struct hlm_pattern_set *hlm_pattern_set_new(struct hlm_arena *arena,
                                            const struct hlm_placement *placement);
const struct hlm_placement *hlm_pattern_set_placement(const struct hlm_pattern_set *set);

/* The pattern of layers [begin, end) on `stage`, or NULL when they do not fit (or when there are
 * none and the stage may not be empty). First call: O(n) for layers of one kind, O(n^2) for mixed
 * ones. */
const struct hlm_pattern *hlm_pattern_get(struct hlm_pattern_set *set, int32_t stage, int32_t begin,
                                          int32_t end);

/* Whether all layers are of one kind: then a pattern depends on its number of layers only. */
bool hlm_pattern_set_is_uniform(const struct hlm_pattern_set *set);

#endif
