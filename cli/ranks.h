/* ranks: starting hlmplan-rank from a command. */
#ifndef HLM_CLI_RANKS_H
#define HLM_CLI_RANKS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "exec/backend_choice.h"

/* Of enum hlm_backend_choice; this program does not link the library that holds exec's own copy of
 * them. */
extern const char *const hlm_run_backend_texts[];

#define HLM_TRANSPORT_MAP(X) X(AUTO, "auto") X(MPI, "mpi") X(NCCL, "nccl") X(THREAD, "thread")
enum hlm_transport {
#define X(name, text) HLM_TRANSPORT_##name,
    HLM_TRANSPORT_MAP(X)
#undef X
};
extern const char *const hlm_transport_texts[];

/* The program hlmplan-rank: beside this program, or in PATH. HLM_ENV when it is in neither. */
HLM_MUST_CHECK enum hlm_status hlm_ranks_program(struct hlm_arena *arena, const char **out,
                                                 struct hlm_err *err);

/* What of a wished backend and transport can be had. auto without a driver: cpu, saying so once on
 * stderr (unless quiet); with one it stays auto, and the ranks decide. Transport auto: threads, or
 * mpi where hosts are given. HLM_ENV: a wished one that is not there. */
HLM_MUST_CHECK enum hlm_status hlm_ranks_choose(enum hlm_backend_choice *backend,
                                                enum hlm_transport *transport, const char *hosts,
                                                bool quiet, struct hlm_err *err);

struct hlm_ranks_job {
    enum hlm_transport transport; /* thread or mpi */
    int32_t num_ranks;
    const char *hosts;       /* NULL: this machine */
    const char *const *args; /* of hlmplan-rank without --transport; ends with NULL */
    double timeout_s;        /* longest stand-still of a rank, 0: the launcher's */
    bool quiet;              /* progress lines of rank 0 are dropped */
};
/* Is this process one of several that mpirun, srun or torchrun started for one run, and which? Then
 * hlm_ranks_run starts this process's rank only, and only rank 0 has an answer to print. */
bool hlm_ranks_inside(int32_t *out_rank);

/* Runs to the end; errors as hlm_launch_run. HLM_ENV inside torchrun: the CPU transports can't meet
 * there. */
HLM_MUST_CHECK enum hlm_status hlm_ranks_run(struct hlm_arena *arena,
                                             const struct hlm_ranks_job *job, struct hlm_err *err);

#endif
