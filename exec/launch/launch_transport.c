#include "exec/launch/launch_transport.h"

#include <stddef.h>

const char *const hlm_transport_texts[] = {
#define X(name, text) text,
    HLM_TRANSPORT_MAP(X)
#undef X
        NULL};

enum hlm_transport hlm_transport_choose(const struct hlm_transport_question *question,
                                        const char **why)
{
    *why = NULL;
    if (!question->one_machine) {
        return HLM_TRANSPORT_AUTO;
    }
    if (question->num_gpus == 0 || question->num_ranks == 1) {
        return HLM_TRANSPORT_THREAD;
    }
    if (question->num_gpus < question->num_ranks) {
        *why = "ranks are threads of one process, since there are fewer GPUs than ranks";
        return HLM_TRANSPORT_THREAD;
    }
    *why = "ranks talk over NCCL, each on a GPU of its own";
    return HLM_TRANSPORT_NCCL;
}
