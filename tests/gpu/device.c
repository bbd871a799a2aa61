/* The device of the tests: the first GPU, behind the module. */
#include "tests/gpu/device.h"

#include <stdio.h>

#include "exec/cuda_loader.h"

static enum hlm_status open_module(struct hlm_cuda *out, struct hlm_err *err)
{
    const struct hlm_cuda_loader loader = {.module = HLM_CUDA_MODULE};
    return hlm_cuda_open(&loader, out, NULL, err);
}

enum hlm_status device_backend_new(bool timed, struct hlm_backend **out, struct hlm_err *err)
{
    struct hlm_cuda cuda = {0};
    const struct hlm_cuda_options options = {.device = 0, .timed_products = timed};
    HLM_TRY(open_module(&cuda, err));
    return cuda.module->backend_new(&options, out, err);
}

bool device_is_there(void)
{
    struct hlm_cuda cuda = {0};
    struct hlm_err err = {0};
    const bool there = open_module(&cuda, &err) == HLM_OK;
    if (!there) {
        fprintf(stderr, "skipped: %s\n", err.text);
    }
    return there;
}

bool device_is_emulated(void)
{
    return false;
}
