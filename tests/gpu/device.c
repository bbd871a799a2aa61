/* The device of the tests: the first GPU, behind the module. */
#include "tests/gpu/device.h"

#include <stdio.h>

#include "exec/cuda_loader.h"

static enum hlm_status open_module(struct hlm_cuda *out, struct hlm_err *err)
{
    const struct hlm_cuda_loader loader = {.module = HLM_CUDA_MODULE};
    return hlm_cuda_open(&loader, out, NULL, err);
}

enum hlm_status device_backend_with(const struct hlm_cuda_options *options,
                                    struct hlm_backend **out, struct hlm_err *err)
{
    struct hlm_cuda cuda = {0};
    HLM_TRY(open_module(&cuda, err));
    return cuda.module->backend_new(options, out, err);
}

enum hlm_status device_backend_new(bool timed, struct hlm_backend **out, struct hlm_err *err)
{
    const struct hlm_cuda_options options = {.timed_products = timed};
    return device_backend_with(&options, out, err);
}

/* The backend came from the module, so that it opens. */
static const struct hlm_cuda_module *module_of_backend(void)
{
    struct hlm_cuda cuda = {0};
    struct hlm_err err = {0};
    HLM_ASSERT(open_module(&cuda, &err) == HLM_OK);
    return cuda.module;
}

void device_choices(struct hlm_backend *backend, struct hlm_arena *arena,
                    struct hlm_cuda_choices *out)
{
    module_of_backend()->choices(backend, arena, out);
}

enum hlm_status device_use_choices(struct hlm_backend *backend,
                                   const struct hlm_cuda_choices *choices, struct hlm_err *err)
{
    return module_of_backend()->use_choices(backend, choices, err);
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
