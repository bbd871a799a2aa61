#include "cli/ranks.h"

#include <dlfcn.h>
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "exec/heartbeat.h"
#include "exec/launch.h"

extern char **environ;

const char *const hlm_run_backend_texts[] = {
#define X(name, text) text,
    HLM_BACKEND_CHOICE_MAP(X)
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

/* The cheapest question that tells a machine without GPUs; what else may be missing the ranks find
 * out. */
static bool has_driver(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (driver != NULL) {
        dlclose(driver);
    }
    return driver != NULL;
}

enum hlm_status hlm_ranks_choose(enum hlm_backend_choice *backend, enum hlm_transport *transport,
                                 const char *hosts, bool quiet, struct hlm_err *err)
{
    static const char no_driver[] = "no NVIDIA driver (libcuda.so.1) on this machine";
    const bool driver = has_driver();
    if (*backend == HLM_BACKEND_CHOICE_CUDA && !driver) {
        return hlm_fail(err, HLM_ENV, "--backend cuda: %s", no_driver);
    }
    if (*transport == HLM_TRANSPORT_NCCL) {
        return hlm_fail(err, HLM_ENV, "--transport nccl: %s",
                        driver ? "the runner of this version talks over threads and MPI only"
                               : no_driver);
    }
    if (*transport == HLM_TRANSPORT_THREAD && hosts != NULL) {
        return hlm_fail(err, HLM_USAGE, "--hosts needs --transport mpi: threads share one machine");
    }
    if (*backend == HLM_BACKEND_CHOICE_AUTO && !driver) {
        *backend = HLM_BACKEND_CHOICE_CPU;
        if (!quiet) {
            fprintf(stderr, "running on the CPU: %s\n", no_driver);
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

/* --- as one of the processes of a launcher --- */

bool hlm_ranks_inside(int32_t *out_rank)
{
    struct hlm_rank_env env;
    if (!hlm_rank_env_read(&env)) {
        return false;
    }
    *out_rank = env.rank;
    return true;
}

static enum hlm_status check_world(const struct hlm_rank_env *env, const struct hlm_ranks_job *job,
                                   struct hlm_err *err)
{
    if (strcmp(env->source, "torchrun") == 0) {
        return hlm_fail(err, HLM_ENV,
                        "inside torchrun ranks can only meet over NCCL; start CPU ranks with "
                        "mpirun or srun, or let this command start them");
    }
    if (env->world_size != job->num_ranks) {
        return hlm_fail(err, HLM_USAGE, "%s started %d ranks, but the plan has %d", env->source,
                        env->world_size, job->num_ranks);
    }
    return HLM_OK;
}

/* The rank program says on stderr what went wrong; its exit code is the status. */
static enum hlm_status run_own_rank(struct hlm_arena *arena, const struct hlm_rank_env *env,
                                    const char *program, const struct hlm_ranks_job *job,
                                    struct hlm_err *err)
{
    HLM_TRY(check_world(env, job, err));
    struct hlm_ranks_job over_mpi = *job;
    over_mpi.transport = HLM_TRANSPORT_MPI;
    const char *const *args = with_transport(arena, &over_mpi);
    int num_args = 0;
    while (args[num_args] != NULL) {
        num_args++;
    }
    const char **argv = HLM_ARENA_ARRAY(arena, const char *, num_args + 2);
    argv[0] = program;
    memcpy(argv + 1, args, (size_t)num_args * sizeof(*argv));
    pid_t child = 0;
    /* posix_spawn's arguments are not const for historical reasons; it writes to none. */
    const int failure =
        posix_spawn(&child, program, NULL, NULL, (char *const *)(void *)argv, environ);
    if (failure != 0) {
        return hlm_fail(err, HLM_ENV, "cannot start %s: %s", program, strerror(failure));
    }
    int ended = 0;
    while (waitpid(child, &ended, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(ended) && WEXITSTATUS(ended) == 0) {
        return HLM_OK;
    }
    const bool known = WIFEXITED(ended) && WEXITSTATUS(ended) <= (int)HLM_FAILED;
    return hlm_fail(err, known ? (enum hlm_status)WEXITSTATUS(ended) : HLM_FAILED,
                    "rank %d of %d did not end well", env->rank, env->world_size);
}

enum hlm_status hlm_ranks_run(struct hlm_arena *arena, const struct hlm_ranks_job *job,
                              struct hlm_err *err)
{
    struct hlm_rank_env env;
    struct hlm_launch_config config = {
        .kind = job->transport == HLM_TRANSPORT_MPI ? HLM_LAUNCH_MPI : HLM_LAUNCH_THREADS,
        .args = with_transport(arena, job),
        .num_ranks = job->num_ranks,
        .hosts = job->hosts,
        .watchdog_s = job->timeout_s,
        .on_progress = job->quiet ? NULL : on_progress};
    HLM_TRY(hlm_ranks_program(arena, &config.program, err));
    if (hlm_rank_env_read(&env)) {
        return run_own_rank(arena, &env, config.program, job, err);
    }
    return hlm_launch_run(&config, err);
}
