/* profiler_choices: the algorithms that a CUDA backend has chosen for its matrix products, as a
 * file beside the profile (products.json), so that a later run starts without timing them again
 * (exec/cuda/module.h, choices and use_choices).
 */
#ifndef HLM_EXEC_PROFILER_CHOICES_H
#define HLM_EXEC_PROFILER_CHOICES_H

#include "base/arena.h"
#include "base/err.h"
#include "base/json.h"
#include "exec/cuda/module.h"

/* HLM_INPUT, HLM_FAILED: the file can't be written. */
HLM_MUST_CHECK enum hlm_status hlm_profiler_choices_write(struct hlm_arena *arena,
                                                          const struct hlm_cuda_choices *choices,
                                                          const char *path, struct hlm_err *err);

/* HLM_INPUT: not such a file; every field is then in the range of its enum. The list lies in the
 * arena. Whether it suits this device and library, use_choices says. */
HLM_MUST_CHECK enum hlm_status hlm_profiler_choices_read(struct hlm_arena *arena, const char *path,
                                                         struct hlm_cuda_choices *out,
                                                         struct hlm_err *err);

#endif
