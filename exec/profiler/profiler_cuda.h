/* profiler_cuda: the profile of GPUs behind the CUDA module: one device, the links of the world,
 * and what the driver and the libraries are. hlm_profiler_run (profiler.h) is the way in.
 */
#ifndef HLM_EXEC_PROFILER_CUDA_H
#define HLM_EXEC_PROFILER_CUDA_H

#include "exec/profiler/profiler.h"

/* As hlm_profiler_run, with config->cuda. collective over the world */
HLM_MUST_CHECK enum hlm_status
hlm_profiler_cuda_run(struct hlm_arena *arena, const struct hlm_profiler_config *config,
                      struct hlm_backend *backend, struct hlm_comm *comm,
                      struct hlm_heartbeat *heartbeat, struct hlm_err *err);

#endif
