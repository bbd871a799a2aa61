/* launch_env: where the environment says that this process stands among the ranks of a run.
 *
 * Launchers, in the order in which they are asked, and their variables:
 *   Open MPI  OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK     (its mpirun, also the one that we start)
 *   MPICH     PMI_RANK, PMI_SIZE, MPI_LOCALRANKID          (its mpirun, Intel's, srun --mpi=pmi2)
 *   Slurm     SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID    (srun: a step with several tasks)
 *   torchrun  RANK, WORLD_SIZE, LOCAL_RANK                 (and whoever sets the same by hand)
 * The process of a batch script and an interactive shell of Slurm (one task) are no ranks of a
 * step.
 *
 * Several launchers may have left their variables. They must say the same, except that
 *   - a real torchrun (TORCHELASTIC_RUN_ID is there) was started by the others: it counts;
 *   - mpirun inside Slurm starts one Slurm task a node: MPI counts;
 *   - ranks that our own launcher started (HLM_CONTROL is there) take no notice of others.
 */
#ifndef HLM_EXEC_LAUNCH_ENV_H
#define HLM_EXEC_LAUNCH_ENV_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"

#define HLM_LAUNCHER_MAP(X)                                                                        \
    X(NONE, "no launcher")                                                                         \
    X(OPEN_MPI, "Open MPI") X(MPICH, "MPICH") X(SLURM, "Slurm") X(TORCHRUN, "torchrun")
enum hlm_launcher {
#define X(name, text) HLM_LAUNCHER_##name,
    HLM_LAUNCHER_MAP(X)
#undef X
};
extern const char *const hlm_launcher_texts[];

struct hlm_rank_env {
    enum hlm_launcher launcher;
    int32_t rank, world_size; /* NONE: 0 and 1 */
    int32_t local_rank;       /* among the ranks of this machine; -1: not said */
    bool has_mpi;             /* MPI joins the processes of this launcher */
    bool ours;                /* started by exec/launch/launch.h */
};

/* HLM_ENV names the variable that is missing or malformed, or the two that contradict each other.
 */
HLM_MUST_CHECK enum hlm_status hlm_rank_env_read(struct hlm_rank_env *out, struct hlm_err *err);

/* Where the ranks of Slurm and torchrun can meet (exec/launch/launch_meeting.h for the port):
 * MASTER_ADDR and MASTER_PORT; in Slurm, where they are missing, the first node of
 * SLURM_STEP_NODELIST (else SLURM_JOB_NODELIST, else SLURM_LAUNCH_NODE_IPADDR) and a port made of
 * SLURM_JOB_ID and SLURM_STEP_ID. */
struct hlm_meeting {
    const char *address; /* a name or a number */
    int32_t port;
    int listener; /* of rank 0, from our launcher; -1: it opens its own */
    /* Names the run among others that might use the same port: the secret word of our launcher, job
     * and step of Slurm, id and restarts of torchrun; "" where nothing does. */
    const char *run;
};
/* HLM_ENV: a variable is missing or malformed. */
HLM_MUST_CHECK enum hlm_status hlm_rank_env_meeting(struct hlm_arena *arena,
                                                    const struct hlm_rank_env *env,
                                                    struct hlm_meeting *out, struct hlm_err *err);

#endif
