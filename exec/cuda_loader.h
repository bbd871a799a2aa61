/* cuda_loader: opens the CUDA module where this machine can use it, and says why where it can't.
 *
 * NVIDIA's libraries are large (cuBLASLt alone over 500 MB) and of no use without a driver, so the
 * cheap questions come first: is the driver's library there, is our module there, has the driver a
 * device, can the matrix library start. On a machine without a driver the first takes less than a
 * millisecond and loads nothing.
 */
#ifndef HLM_EXEC_CUDA_LOADER_H
#define HLM_EXEC_CUDA_LOADER_H

#include "base/err.h"
#include "exec/cuda/module.h"

/* Gates in the order in which they are tried: X(constant, text). */
#define HLM_CUDA_GATE_MAP(X)                                                                       \
    X(DRIVER, "the NVIDIA driver's library")                                                       \
    X(MODULE, "the CUDA module")                                                                   \
    X(VERSION, "the CUDA module's version")                                                        \
    X(DEVICE, "a device")                                                                          \
    X(LIBRARY, "the matrix library")
enum hlm_cuda_gate {
#define X(name, text) HLM_CUDA_GATE_##name,
    HLM_CUDA_GATE_MAP(X)
#undef X
        HLM_NUM_CUDA_GATES
};
extern const char *const hlm_cuda_gate_texts[];

/* Zeros mean: as usual. */
struct hlm_cuda_loader {
    const char *driver; /* the driver's library, "libcuda.so.1" */
    const char *module; /* path of the module; usually libhlmplan_cuda.so beside the running
                           program, then where the dynamic linker looks */
};

struct hlm_cuda {
    const struct hlm_cuda_module *module;
    int32_t num_devices;
};

/* Passes the gates and fills *out. HLM_ENV: one stayed shut; *gate (may be NULL) tells which, and
 * the message says why. What was loaded stays loaded to the end of the process. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_open(const struct hlm_cuda_loader *loader,
                                             struct hlm_cuda *out, enum hlm_cuda_gate *gate,
                                             struct hlm_err *err);

#endif
