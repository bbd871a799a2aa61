/* What was chosen, with what it holds for. */
#include <stdio.h>
#include <string.h>

#include "exec/cuda/gemm_lt.h"
#include "exec/cuda/host.h"

static const struct hlm_cuda_backend *of(const struct hlm_backend *backend)
{
    return (const struct hlm_cuda_backend *)backend;
}

static struct hlm_cuda_choices header_of(const struct hlm_backend *backend)
{
    struct hlm_cuda_choices header = {.version = HLM_CUDA_CHOICES_VERSION,
                                      .cublas = hlm_cuda_lt_version()};
    struct cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, of(backend)->device) == cudaSuccess) {
        snprintf(header.device, sizeof header.device, "%s", properties.name);
        header.major = properties.major;
        header.minor = properties.minor;
        header.num_sms = properties.multiProcessorCount;
    }
    return header;
}

void hlm_cuda_choices(struct hlm_backend *backend, struct hlm_arena *arena,
                      struct hlm_cuda_choices *out)
{
    *out = header_of(backend);
    hlm_cuda_lt_choices(of(backend)->lt, arena, out);
}

enum hlm_status hlm_cuda_use_choices(struct hlm_backend *backend,
                                     const struct hlm_cuda_choices *choices, struct hlm_err *err)
{
    const struct hlm_cuda_choices here = header_of(backend);
    if (choices->version != here.version) {
        return hlm_fail(err, HLM_ENV, "kept algorithms are of version %d, expected %d",
                        choices->version, here.version);
    }
    if (choices->cublas != here.cublas) {
        return hlm_fail(err, HLM_ENV, "kept algorithms are for cuBLAS %lld, here is %lld",
                        (long long)choices->cublas, (long long)here.cublas);
    }
    if (strcmp(choices->device, here.device) != 0 || choices->major != here.major ||
        choices->minor != here.minor || choices->num_sms != here.num_sms) {
        return hlm_fail(
            err, HLM_ENV,
            "kept algorithms are for %s (%d.%d, %d multiprocessors), here is %s (%d.%d, "
            "%d multiprocessors)",
            choices->device, choices->major, choices->minor, choices->num_sms, here.device,
            here.major, here.minor, here.num_sms);
    }
    return hlm_cuda_lt_use_choices(of(backend)->lt, choices, err);
}
