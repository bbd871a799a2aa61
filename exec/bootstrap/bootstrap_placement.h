/* bootstrap_placement: whether the ranks stand where the plan's rank map wants them.
 *
 * The plan numbers devices group by group, node by node (profiles/cluster.h); rank r belongs on
 * device rank_map[r]. The ranks of a node must be on one machine, and those of different nodes on
 * different ones: else links would not be what the plan was priced for. That several nodes share a
 * machine is let pass where the user has said so (one machine for all, or --hosts), with a warning.
 *
 * Which GPU of its machine a rank takes follows the plan, not the launcher's local rank: the ranks
 * of a machine in the order of their devices take its GPUs in order.
 */
#ifndef HLM_EXEC_BOOTSTRAP_PLACEMENT_H
#define HLM_EXEC_BOOTSTRAP_PLACEMENT_H

#include "base/arena.h"
#include "exec/launch/launch_env.h"
#include "planner/plan.h"

/* What a rank says of the place where it runs; all ranks gather them as bytes. */
struct hlm_seat {
    char machine[40], host[64]; /* machine: the same for all processes of one kernel */
    int32_t local_rank;         /* as the launcher says, -1: it does not */
    int32_t num_gpus;           /* that this process can use; 0: none, or not wanted */
    char visible[128];          /* CUDA_VISIBLE_DEVICES, "" where not set */
    char why_no_gpu[200];
};
/* This process's; num_gpus and why_no_gpu are the caller's to fill. */
struct hlm_seat hlm_seat_here(const struct hlm_rank_env *env);

struct hlm_placement {
    int32_t local_index, local_size; /* of this rank among those of its machine */
    const char *warning;             /* NULL: none */
    /* Whether every rank has a GPU that no other has; where not, why not. */
    bool own_gpus;
    const char *why_shared; /* NULL: own_gpus */
    bool all_have_gpus;     /* own or shared */
};

/* seats: [num_ranks]. plan NULL (profile): ranks may stand anywhere. by_user: the ranks were
 * started on machines that the user named for them. Every rank comes to the same verdict. HLM_ENV
 * names the rank, the node where it belongs and the machine where it is, or two ranks of a machine
 * with the same local rank (not by_user: a machine may have been named more than once). */
HLM_MUST_CHECK enum hlm_status hlm_placement_check(struct hlm_arena *arena,
                                                   const struct hlm_plan *plan,
                                                   const struct hlm_seat *seats, int32_t num_ranks,
                                                   int32_t rank, bool by_user,
                                                   struct hlm_placement *out, struct hlm_err *err);

#endif
