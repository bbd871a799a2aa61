/* backend_choice: which backend a rank computes on. cpu is always there; cuda where the gates of
 * exec/cuda_loader.h open; auto: cuda where it is, else cpu with the reason. */
#ifndef HLM_EXEC_BACKEND_CHOICE_H
#define HLM_EXEC_BACKEND_CHOICE_H

#include "base/arena.h"
#include "exec/backend.h"
#include "exec/cuda/module.h"

#define HLM_BACKEND_CHOICE_MAP(X) X(AUTO, "auto") X(CPU, "cpu") X(CUDA, "cuda")
enum hlm_backend_choice {
#define X(name, text) HLM_BACKEND_CHOICE_##name,
    HLM_BACKEND_CHOICE_MAP(X)
#undef X
};
extern const char *const hlm_backend_choice_texts[]; /* ends with NULL */

struct hlm_chosen_backend {
    struct hlm_backend *backend;        /* the caller frees it */
    const char *name;                   /* "cpu" or "cuda" */
    const char *about;                  /* for the measurement */
    const char *why_not_cuda;           /* auto on the cpu: the reason; else NULL */
    const struct hlm_cuda_module *cuda; /* on cuda; else NULL */
    int32_t cuda_device;                /* on cuda: which, as the module numbers them */
};

/* Rank r of a machine takes its device r modulo their number. HLM_ENV: cuda was asked for and is
 * not there. */
HLM_MUST_CHECK enum hlm_status
hlm_backend_choose(struct hlm_arena *arena, enum hlm_backend_choice choice, int32_t local_rank,
                   struct hlm_chosen_backend *out, struct hlm_err *err);

/* Hands the algorithms that a profile has kept (exec/profiler/profiler_choices.h) to the backend,
 * so that it does not time them again; the CPU has none. *why_not: NULL, or why they are of no use
 * here; the backend then times as ever. HLM_INPUT: not such a file. */
HLM_MUST_CHECK enum hlm_status hlm_backend_use_products(struct hlm_arena *arena,
                                                        const struct hlm_chosen_backend *chosen,
                                                        const char *path, const char **why_not,
                                                        struct hlm_err *err);

#endif
