/* The device of the tests, emulated: no module is loaded. */
#include "exec/cuda/host.h"
#include "tests/gpu/device.h"

enum hlm_status device_backend_new(bool timed, struct hlm_backend **out, struct hlm_err *err)
{
    const struct hlm_cuda_options options = {.device = 0, .timed_products = timed};
    return hlm_cuda_backend_new(&options, out, err);
}

bool device_is_there(void)
{
    return true;
}

bool device_is_emulated(void)
{
    return true;
}
