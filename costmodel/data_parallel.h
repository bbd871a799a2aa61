/* data_parallel: what it costs that replicas share gradients, states and parameters.
 *
 * ZeRO (Rajbhandari et al. 2020): 0 all-reduces gradients once a step; 1 reduce-scatters them over
 * zero_group ranks and gathers the parameters behind the update; 2 also keeps gradients sharded, so
 * that each microbatch reduces; 3 also keeps parameters sharded, so that each pass of each block
 * gathers them (FSDP). Where zero_group is a part of dp, shards are then summed over the dp /
 * zero_group groups (hybrid sharding). Expert parameters do all this over edp.
 *
 * Unlike replicas (strategy.h) do it over all of them: a ring through the ranks of one of
 * replicas[] after the other and back to the first, so what it takes is the most of what its parts
 * inside of device groups and its links between them would let it take.
 *
 * A collective beside compute slows it down: the two together take
 *   max(comm, compute + slowdown * min(comm, compute)),  slowdown 0.189
 * (mean of GPT and LLaMA layers on 4 x A100 and H100, arXiv 2507.03114).
 */
#ifndef HLM_COSTMODEL_DATA_PARALLEL_H
#define HLM_COSTMODEL_DATA_PARALLEL_H

#include "costmodel/layout.h"
#include "costmodel/strategy.h"

/* Ranks that share the shards of dense (DP) or expert (EDP) parameters: zero_group where that is a
 * part of dp, else all that hold the same parameters: dp * cp ranks, or edp. */
int32_t hlm_dp_shards(const struct hlm_strategy *strategy, enum hlm_group group);

/* Whose parameters: all collectives are of the groups of `stage`. num_elements: of one rank,
 * unsharded; num_expert_elements of them belong to experts. */
struct hlm_dp_slab {
    const struct hlm_strategy *strategy;
    const struct hlm_cluster *cluster;
    int32_t device_group, stage;
    int64_t num_elements, num_expert_elements;
};

/* Seconds to reduce the slab's gradients (in grad_dtype), and to gather its parameters; 0 with one
 * replica, and without sharded parameters for the gather. */
double hlm_dp_reduce_s(const struct hlm_dp_slab *slab);
double hlm_dp_gather_s(const struct hlm_dp_slab *slab);

/* Seconds that comm_s of communication add to compute_s of compute beside it. */
double hlm_dp_exposed_s(double compute_s, double comm_s);

/* The same where the work comes in num_parts equal parts, and the communication of a part waits for
 * its compute (gradients) or the compute for it (parameters). */
double hlm_dp_exposed_parts_s(double compute_s, double comm_s, int32_t num_parts);

#endif
