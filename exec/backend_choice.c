#include "exec/backend_choice.h"

#include <cblas.h>

#include "exec/cuda_loader.h"
#include "exec/profiler/profiler_choices.h"

const char *const hlm_backend_choice_texts[] = {
#define X(name, text) text,
    HLM_BACKEND_CHOICE_MAP(X)
#undef X
        NULL};

static enum hlm_status choose_cuda(struct hlm_arena *arena, int32_t local_rank,
                                   struct hlm_chosen_backend *out, struct hlm_err *err)
{
    const struct hlm_cuda_loader as_usual = {0};
    struct hlm_cuda cuda;
    struct hlm_chosen_backend chosen = {.name = "cuda"};
    struct hlm_cuda_device device;
    HLM_TRY(hlm_cuda_open(&as_usual, &cuda, NULL, err));
    chosen.cuda = cuda.module;
    const struct hlm_cuda_options options = {.device = local_rank % cuda.num_devices,
                                             .timed_products = true};
    chosen.cuda_device = options.device;
    HLM_TRY(cuda.module->device(options.device, &device, err));
    HLM_TRY(cuda.module->backend_new(&options, &chosen.backend, err));
    const struct hlm_cuda_versions versions = cuda.module->versions();
    chosen.about = hlm_arena_printf(arena, "%s, driver %lld, CUDA %lld, cuBLAS %lld", device.name,
                                    (long long)versions.driver, (long long)versions.runtime,
                                    (long long)versions.cublas);
    *out = chosen;
    return HLM_OK;
}

static enum hlm_status choose_cpu(struct hlm_arena *arena, const char *why_not_cuda,
                                  struct hlm_chosen_backend *out, struct hlm_err *err)
{
    struct hlm_chosen_backend chosen = {.name = "cpu", .why_not_cuda = why_not_cuda};
    HLM_TRY(hlm_backend_cpu_new(&chosen.backend, err));
    chosen.about = hlm_arena_strdup(arena, openblas_get_config());
    *out = chosen;
    return HLM_OK;
}

enum hlm_status hlm_backend_choose(struct hlm_arena *arena, enum hlm_backend_choice choice,
                                   int32_t local_rank, struct hlm_chosen_backend *out,
                                   struct hlm_err *err)
{
    if (choice == HLM_BACKEND_CHOICE_CPU) {
        return choose_cpu(arena, NULL, out, err);
    }
    struct hlm_err closed = {0};
    const enum hlm_status status = choose_cuda(arena, local_rank, out, &closed);
    if (status == HLM_OK || choice == HLM_BACKEND_CHOICE_CUDA) {
        if (status != HLM_OK) {
            *err = closed;
        }
        return status;
    }
    return choose_cpu(arena, hlm_arena_strdup(arena, closed.text), out, err);
}

enum hlm_status hlm_backend_use_products(struct hlm_arena *arena,
                                         const struct hlm_chosen_backend *chosen, const char *path,
                                         const char **why_not, struct hlm_err *err)
{
    struct hlm_cuda_choices choices;
    struct hlm_err refused = {0};
    *why_not = NULL;
    HLM_TRY(hlm_profiler_choices_read(arena, path, &choices, err));
    if (chosen->cuda != NULL &&
        chosen->cuda->use_choices(chosen->backend, &choices, &refused) != HLM_OK) {
        *why_not = hlm_arena_strdup(arena, refused.text);
    }
    return HLM_OK;
}
