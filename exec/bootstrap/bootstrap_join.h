/* bootstrap_join: all that happens between the start of a rank's process and its first step: the
 * ranks meet, compare what they are to run, check their places, choose backend and transport
 * together, and make them.
 *
 * Inside MPI the ranks meet over MPI, else over TCP (exec/bootstrap/bootstrap.h). Over TCP they can
 * only meet: training then needs NCCL, with a GPU for each rank.
 */
#ifndef HLM_EXEC_BOOTSTRAP_JOIN_H
#define HLM_EXEC_BOOTSTRAP_JOIN_H

#include "exec/backend_choice.h"
#include "exec/bootstrap/bootstrap.h"
#include "exec/bootstrap/bootstrap_placement.h"
#include "exec/launch/launch_transport.h"

struct hlm_join_config {
    const struct hlm_plan *plan; /* NULL: profile */
    const struct hlm_strategy *strategy;
    const char *settings; /* what else must be the same on all ranks */
    enum hlm_backend_choice backend;
    enum hlm_transport transport; /* AUTO, MPI or NCCL */
    double timeout_s;
    int64_t max_bytes; /* as in struct hlm_comm_config */
};

struct hlm_joined {
    struct hlm_comm *comm; /* to train over */
    struct hlm_chosen_backend chosen;
    enum hlm_transport transport; /* MPI or NCCL */
    struct hlm_placement placement;
    const char *why; /* a sentence about the choice of the transport; NULL: obvious */

    struct hlm_bootstrap *bootstrap;
    struct hlm_comm *mpi; /* under bootstrap, maybe the same as comm; NULL over TCP */
    bool all_know;        /* that it failed, and why: nobody needs to be stopped */
};

/* Fills *out, also where it fails: then with what there is, for abort and release. HLM_ENV: what a
 * backend or transport needs is not there, or a rank is in the wrong place; other statuses as
 * hlm_bootstrap_tcp_new. collective */
HLM_MUST_CHECK enum hlm_status hlm_join(struct hlm_arena *arena,
                                        const struct hlm_join_config *config,
                                        const struct hlm_rank_env *env, struct hlm_joined *out,
                                        struct hlm_err *err);

/* After a failure, of the joining or later: tells the others, or stops them. Over MPI it may not
 * return. */
void hlm_join_abort(struct hlm_joined *joined, const struct hlm_err *failure);
void hlm_join_release(struct hlm_joined *joined);

/* Which transport all ranks take, after what they gathered. has_mpi: they met over MPI. HLM_ENV
 * where there is none; *why as in struct hlm_joined. */
HLM_MUST_CHECK enum hlm_status hlm_join_transport(struct hlm_arena *arena,
                                                  const struct hlm_join_config *config,
                                                  const struct hlm_placement *placement,
                                                  bool has_mpi, enum hlm_transport *out,
                                                  const char **why, struct hlm_err *err);

#endif
