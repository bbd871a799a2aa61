/* ranks: starting hlmplan-rank from a command. */
#ifndef HLM_CLI_RANKS_H
#define HLM_CLI_RANKS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "exec/backend_choice.h"
#include "exec/launch/launch_transport.h"

/* Of enum hlm_backend_choice; this program does not link the library that holds exec's own copy of
 * them. */
extern const char *const hlm_run_backend_texts[];

/* The program hlmplan-rank: beside this program, or in PATH. HLM_ENV when it is in neither. */
HLM_MUST_CHECK enum hlm_status hlm_ranks_program(struct hlm_arena *arena, const char **out,
                                                 struct hlm_err *err);

/* What is wished, and then what can be had. */
struct hlm_ranks_choice {
    enum hlm_backend_choice backend;
    enum hlm_transport transport;
    int32_t num_ranks;
    const char *hosts; /* NULL: this machine */
    int32_t num_gpus;  /* set: of this machine that ranks may compute on; 0 inside a launcher */
};
/* Inside a launcher (mpirun, srun, torchrun) the wishes stay as they are: the ranks choose
 * together. Else backend auto becomes cpu where this machine has no GPU to compute on, and
 * transport auto what exec/launch/launch_transport.h says; both tell stderr in one line what is not
 * obvious. HLM_ENV: something wished is not there, or the environment of a launcher is broken;
 * HLM_USAGE: wishes that contradict each other or the launcher. */
HLM_MUST_CHECK enum hlm_status
hlm_ranks_choose(struct hlm_arena *arena, struct hlm_ranks_choice *choice, struct hlm_err *err);

struct hlm_ranks_job {
    enum hlm_transport transport; /* as chosen */
    int32_t num_ranks;
    const char *hosts;       /* NULL: this machine */
    const char *const *args; /* of hlmplan-rank without --transport; ends with NULL */
    double timeout_s;        /* longest stand-still of a rank, 0: the launcher's */
    bool quiet;              /* progress lines of rank 0 are dropped */
};
/* Is this process one of several that mpirun, srun or torchrun started for one run, and which? Then
 * hlm_ranks_run starts this process's rank only, and only rank 0 has an answer to print. */
bool hlm_ranks_inside(int32_t *out_rank);

/* Runs to the end; errors as hlm_launch_run. Inside a launcher only this process's rank, whose
 * words on stderr come before the error. */
HLM_MUST_CHECK enum hlm_status hlm_ranks_run(struct hlm_arena *arena,
                                             const struct hlm_ranks_job *job, struct hlm_err *err);

#endif
