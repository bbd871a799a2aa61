/* device: the device of the tests in this folder: a GPU behind the CUDA module, or the emulator. */
#ifndef HLM_TESTS_GPU_DEVICE_H
#define HLM_TESTS_GPU_DEVICE_H

#include <stdbool.h>

#include "exec/backend.h"
#include "exec/cuda/module.h"

/* A backend on the first device. timed: products choose their algorithm by timing; else results
 * repeat. */
HLM_MUST_CHECK enum hlm_status device_backend_new(bool timed, struct hlm_backend **out,
                                                  struct hlm_err *err);

/* The same with all options; the device is the first. */
HLM_MUST_CHECK enum hlm_status device_backend_with(const struct hlm_cuda_options *options,
                                                   struct hlm_backend **out, struct hlm_err *err);

/* Of struct hlm_cuda_module. */
void device_choices(struct hlm_backend *backend, struct hlm_arena *arena,
                    struct hlm_cuda_choices *out);
HLM_MUST_CHECK enum hlm_status device_use_choices(struct hlm_backend *backend,
                                                  const struct hlm_cuda_choices *choices,
                                                  struct hlm_err *err);

/* For main: whether there is a device; says on stderr why not. */
bool device_is_there(void);

/* Exit code of a test program that can't run here. */
enum { EXIT_SKIPPED = 77 };

/* Whether kernels run on the CPU: correct, and slow. */
bool device_is_emulated(void);

#endif
