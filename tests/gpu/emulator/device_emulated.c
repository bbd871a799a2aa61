/* The device of the tests, emulated: no module is loaded. */
#include "exec/cuda/host.h"
#include "tests/gpu/device.h"

enum hlm_status device_backend_with(const struct hlm_cuda_options *options,
                                    struct hlm_backend **out, struct hlm_err *err)
{
    return hlm_cuda_backend_new(options, out, err);
}

enum hlm_status device_backend_new(bool timed, struct hlm_backend **out, struct hlm_err *err)
{
    const struct hlm_cuda_options options = {.timed_products = timed};
    return device_backend_with(&options, out, err);
}

void device_choices(struct hlm_backend *backend, struct hlm_arena *arena,
                    struct hlm_cuda_choices *out)
{
    hlm_cuda_choices(backend, arena, out);
}

enum hlm_status device_use_choices(struct hlm_backend *backend,
                                   const struct hlm_cuda_choices *choices, struct hlm_err *err)
{
    return hlm_cuda_use_choices(backend, choices, err);
}

bool device_is_there(void)
{
    return true;
}

bool device_is_emulated(void)
{
    return true;
}
