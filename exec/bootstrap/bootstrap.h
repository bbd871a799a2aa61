/* bootstrap: how ranks of separate processes find each other, agree on what they run, and exchange
 * small data of the host: their places, the id of an NCCL job, the reason why one of them can't go
 * on.
 *
 * Inside MPI it works over the MPI transport. Else (torchrun's variables, Slurm, the processes that
 * our own launcher starts) it is a star over TCP: rank 0 listens where exec/launch/launch_env.h
 * says, the others come to it, trying again until the deadline, and all traffic goes through rank
 * 0. It is meant for kilobytes at the start and the end of a run; training goes over a struct
 * hlm_comm.
 *
 * Every wait ends at `timeout_s`. A failure of any rank reaches all of them: who waits gets the
 * status and the text of the rank that failed. After a failure only abort and free may be called.
 *
 * Nobody is authenticated: as with MPI and NCCL, the network between the ranks must be trusted.
 * What connects and is not a rank of hlmplan is dropped.
 */
#ifndef HLM_EXEC_BOOTSTRAP_H
#define HLM_EXEC_BOOTSTRAP_H

#include <stdint.h>

#include "base/err.h"
#include "exec/comm/comm.h"
#include "exec/launch/launch_env.h"

struct hlm_bootstrap;

enum { HLM_BOOTSTRAP_PLAN = 80, HLM_BOOTSTRAP_SETTINGS = 160 };

struct hlm_bootstrap_config {
    int32_t rank, world_size;
    /* What must be the same on all ranks; both are cut to the sizes above. */
    const char *plan;     /* digests of the plan */
    const char *settings; /* "10 steps, 2 of them warm-up, seed 1234" */
    double timeout_s;     /* of the meeting, and of each wait after it */
};

/* The meeting over TCP. collective. HLM_ENV: the port can't be had, another version of hlmplan or
 * another world size; HLM_INPUT: another plan; HLM_USAGE: other settings; HLM_FAILED: a rank came
 * twice, left, or did not come (all that are missing are named), or rank 0 can't be reached. */
HLM_MUST_CHECK enum hlm_status hlm_bootstrap_tcp_new(const struct hlm_bootstrap_config *config,
                                                     const struct hlm_meeting *meeting,
                                                     struct hlm_bootstrap **out,
                                                     struct hlm_err *err);
/* The same over the world of a host transport, which stays the caller's and must outlive it.
 * collective */
HLM_MUST_CHECK enum hlm_status hlm_bootstrap_comm_new(const struct hlm_bootstrap_config *config,
                                                      struct hlm_comm *comm,
                                                      struct hlm_bootstrap **out,
                                                      struct hlm_err *err);
void hlm_bootstrap_free(struct hlm_bootstrap *bootstrap); /* NULL accepted */

/* in: `bytes` of this rank; out: [world_size] of them, by rank. collective */
HLM_MUST_CHECK enum hlm_status hlm_bootstrap_all_gather(struct hlm_bootstrap *bootstrap,
                                                        const void *in, int64_t bytes, void *out,
                                                        struct hlm_err *err);
/* What rank 0 has at `data` replaces what the others have. collective */
HLM_MUST_CHECK enum hlm_status hlm_bootstrap_broadcast(struct hlm_bootstrap *bootstrap, void *data,
                                                       int64_t bytes, struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_bootstrap_barrier(struct hlm_bootstrap *bootstrap,
                                                     struct hlm_err *err);

/* Every rank says how it fares: `mine`, with err's text where it is not HLM_OK. HLM_OK when all are
 * well; else each rank that failed keeps its own failure, and the others get that of the lowest
 * rank that did, with its number and host before it. collective */
HLM_MUST_CHECK enum hlm_status hlm_bootstrap_agree(struct hlm_bootstrap *bootstrap,
                                                   enum hlm_status mine, struct hlm_err *err);

/* Tells the others why this rank goes, as far as they still listen; over a comm, whose own abort
 * does that, nothing. */
void hlm_bootstrap_abort(struct hlm_bootstrap *bootstrap, const struct hlm_err *failure);

#endif
