#include "cli/ranks.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "exec/launch.h"

const char *const hlm_run_backend_texts[] = {
#define X(name, text) text,
    HLM_RUN_BACKEND_MAP(X)
#undef X
        NULL};

const char *const hlm_transport_texts[] = {
#define X(name, text) text,
    HLM_TRANSPORT_MAP(X)
#undef X
        NULL};

#define RANK_PROGRAM "hlmplan-rank"

static bool is_program(const char *path)
{
    return access(path, X_OK) == 0;
}

static const char *beside_this_program(struct hlm_arena *arena)
{
    char self[4096];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (length <= 0) {
        return NULL;
    }
    self[length] = '\0';
    const char *slash = strrchr(self, '/');
    const char *path = hlm_arena_printf(arena, "%.*s/%s", (int)(slash - self), self, RANK_PROGRAM);
    return is_program(path) ? path : NULL;
}

static const char *in_path(struct hlm_arena *arena)
{
    const char *folders = getenv("PATH");
    while (folders != NULL && *folders != '\0') {
        const size_t length = strcspn(folders, ":");
        const char *path = hlm_arena_printf(arena, "%.*s/%s", (int)length, folders, RANK_PROGRAM);
        if (length > 0 && is_program(path)) {
            return path;
        }
        folders += length + (folders[length] == ':' ? 1 : 0);
    }
    return NULL;
}

enum hlm_status hlm_ranks_program(struct hlm_arena *arena, const char **out, struct hlm_err *err)
{
    const char *path = beside_this_program(arena);
    if (path == NULL) {
        path = in_path(arena);
    }
    if (path == NULL) {
        return hlm_fail(err, HLM_ENV,
                        "%s, which executes ranks, is neither beside this program nor in PATH",
                        RANK_PROGRAM);
    }
    *out = path;
    return HLM_OK;
}

/* Why there is no CUDA here. */
static const char *no_cuda_reason(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (driver == NULL) {
        return "no NVIDIA driver (libcuda.so.1) on this machine";
    }
    dlclose(driver);
    return "this version has no CUDA backend";
}

enum hlm_status hlm_ranks_choose(enum hlm_run_backend *backend, enum hlm_transport *transport,
                                 const char *hosts, bool quiet, struct hlm_err *err)
{
    if (*backend == HLM_RUN_BACKEND_CUDA) {
        return hlm_fail(err, HLM_ENV, "--backend cuda: %s", no_cuda_reason());
    }
    if (*transport == HLM_TRANSPORT_NCCL) {
        return hlm_fail(err, HLM_ENV, "--transport nccl: %s", no_cuda_reason());
    }
    if (*transport == HLM_TRANSPORT_THREAD && hosts != NULL) {
        return hlm_fail(err, HLM_USAGE, "--hosts needs --transport mpi: threads share one machine");
    }
    if (*backend == HLM_RUN_BACKEND_AUTO) {
        *backend = HLM_RUN_BACKEND_CPU;
        if (!quiet) {
            fprintf(stderr, "running on the CPU: %s\n", no_cuda_reason());
        }
    }
    if (*transport == HLM_TRANSPORT_AUTO) {
        *transport = hosts != NULL ? HLM_TRANSPORT_MPI : HLM_TRANSPORT_THREAD;
    }
    return HLM_OK;
}

static void on_progress(void *context, int32_t rank, const char *text)
{
    (void)context;
    (void)rank;
    fprintf(stderr, "%s\n", text);
}

static const char *const *with_transport(struct hlm_arena *arena, const struct hlm_ranks_job *job)
{
    int num_args = 0;
    while (job->args[num_args] != NULL) {
        num_args++;
    }
    const char **args = HLM_ARENA_ARRAY(arena, const char *, num_args + 3);
    args[0] = "--transport";
    args[1] = hlm_transport_texts[job->transport];
    memcpy(args + 2, job->args, (size_t)num_args * sizeof(*args));
    return args;
}

enum hlm_status hlm_ranks_run(struct hlm_arena *arena, const struct hlm_ranks_job *job,
                              struct hlm_err *err)
{
    struct hlm_launch_config config = {
        .kind = job->transport == HLM_TRANSPORT_MPI ? HLM_LAUNCH_MPI : HLM_LAUNCH_THREADS,
        .args = with_transport(arena, job),
        .num_ranks = job->num_ranks,
        .hosts = job->hosts,
        .watchdog_s = job->timeout_s,
        .on_progress = job->quiet ? NULL : on_progress};
    HLM_TRY(hlm_ranks_program(arena, &config.program, err));
    return hlm_launch_run(&config, err);
}
