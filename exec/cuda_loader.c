#include "exec/cuda_loader.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const char *const hlm_cuda_gate_texts[] = {
#define X(name, text) text,
    HLM_CUDA_GATE_MAP(X)
#undef X
};

static const char module_name[] = "libhlmplan_cuda.so";

/* What is open while the gates are tried. Nothing is closed again: NVIDIA's libraries, and the C++
 * library under them, keep memory and handlers that outlive a dlclose. */
struct attempt {
    void *driver, *library;
    const struct hlm_cuda_module *module;
    int32_t num_devices;
};

static enum hlm_status shut(enum hlm_cuda_gate gate, struct hlm_err *err)
{
    hlm_err_prefix(err, "no CUDA: %s", hlm_cuda_gate_texts[gate]);
    return HLM_ENV;
}

static enum hlm_status open_library(const char *path, void **out, struct hlm_err *err)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *why = dlerror();
        return hlm_fail(err, HLM_ENV, "%s", why != NULL ? why : path);
    }
    *out = library;
    return HLM_OK;
}

/* The module beside the running program; false when that has no path of its own. */
static bool path_beside_program(char path[PATH_MAX])
{
    const ssize_t length = readlink("/proc/self/exe", path, PATH_MAX - sizeof module_name - 1);
    if (length <= 0) {
        return false;
    }
    path[length] = '\0';
    char *slash = strrchr(path, '/');
    if (slash == NULL) {
        return false;
    }
    memcpy(slash + 1, module_name, sizeof module_name);
    return true;
}

static enum hlm_status open_module(const struct hlm_cuda_loader *loader, void **out,
                                   struct hlm_err *err)
{
    char path[PATH_MAX];
    if (loader->module != NULL) {
        return open_library(loader->module, out, err);
    }
    if (path_beside_program(path) && access(path, F_OK) == 0) {
        return open_library(path, out, err);
    }
    return open_library(module_name, out, err);
}

static enum hlm_status find_table(struct attempt *attempt, struct hlm_err *err)
{
    const struct hlm_cuda_module *(*table)(int abi_version) = NULL;
    void *symbol = dlsym(attempt->library, "hlm_cuda_module");
    memcpy(&table, &symbol, sizeof table); /* a function's address, as POSIX has it */
    if (table == NULL) {
        return hlm_fail(err, HLM_ENV, "it has no function hlm_cuda_module");
    }
    const struct hlm_cuda_module *module = table(HLM_CUDA_ABI_VERSION);
    if (module == NULL || module->backend_version != HLM_BACKEND_VERSION) {
        return hlm_fail(err, HLM_ENV, "it was built for another version of this program");
    }
    attempt->module = module;
    return HLM_OK;
}

static enum hlm_status try_gate(enum hlm_cuda_gate gate, const struct hlm_cuda_loader *loader,
                                struct attempt *attempt, struct hlm_err *err)
{
    switch (gate) {
    case HLM_CUDA_GATE_DRIVER:
        return open_library(loader->driver != NULL ? loader->driver : "libcuda.so.1",
                            &attempt->driver, err);
    case HLM_CUDA_GATE_MODULE:
        return open_module(loader, &attempt->library, err);
    case HLM_CUDA_GATE_VERSION:
        return find_table(attempt, err);
    case HLM_CUDA_GATE_DEVICE:
        return attempt->module->num_devices(&attempt->num_devices, err);
    case HLM_CUDA_GATE_LIBRARY:
        return attempt->module->check_library(err);
    case HLM_NUM_CUDA_GATES:
        break;
    }
    return HLM_OK;
}

enum hlm_status hlm_cuda_open(const struct hlm_cuda_loader *loader, struct hlm_cuda *out,
                              enum hlm_cuda_gate *gate, struct hlm_err *err)
{
    struct attempt attempt = {0};
    for (int i = 0; i < HLM_NUM_CUDA_GATES; i++) {
        const enum hlm_cuda_gate tried = (enum hlm_cuda_gate)i;
        if (try_gate(tried, loader, &attempt, err) != HLM_OK) {
            if (gate != NULL) {
                *gate = tried;
            }
            return shut(tried, err);
        }
    }
    *out = (struct hlm_cuda){.module = attempt.module, .num_devices = attempt.num_devices};
    return HLM_OK;
}
