/* launch_transport: how ranks talk, and which way `auto` takes. */
#ifndef HLM_EXEC_LAUNCH_TRANSPORT_H
#define HLM_EXEC_LAUNCH_TRANSPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define HLM_TRANSPORT_MAP(X) X(AUTO, "auto") X(MPI, "mpi") X(NCCL, "nccl") X(THREAD, "thread")
enum hlm_transport {
#define X(name, text) HLM_TRANSPORT_##name,
    HLM_TRANSPORT_MAP(X)
#undef X
};
extern const char *const hlm_transport_texts[]; /* ends with NULL */

/* What the choice depends on. num_gpus: those of this machine that the ranks may compute on (0 with
 * --backend cpu). */
struct hlm_transport_question {
    int32_t num_ranks, num_gpus;
    bool one_machine; /* all ranks are on it, and started by us */
};

/* What auto means: one process with a thread for each rank, where all are on one machine and on its
 * CPU, or more than its GPUs; NCCL where each has a GPU of its own; MPI else. Over several machines
 * only the ranks together know their GPUs: AUTO, for them to choose (nccl or mpi).
 * *why: a sentence for the user, NULL where the choice is the obvious one. */
enum hlm_transport hlm_transport_choose(const struct hlm_transport_question *question,
                                        const char **why);

#endif
