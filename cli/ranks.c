#include "cli/ranks.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "exec/launch/launch.h"
#include "exec/launch/launch_env.h"

extern char **environ;

const char *const hlm_run_backend_texts[] = {
#define X(name, text) text,
    HLM_BACKEND_CHOICE_MAP(X)
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

/* ---- what there is ---- */

/* The cheapest question that tells a machine without GPUs; what else may be missing the rank
 * program finds out. */
static bool has_driver(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (driver != NULL) {
        dlclose(driver);
    }
    return driver != NULL;
}

/* Starts the rank program with its two streams in a pipe and reads what it says; -1: it can't. The
 * text is cut to its room. */
static int ask(const char *program, const char *option, char *text, size_t room)
{
    const char *argv[] = {program, option, NULL};
    posix_spawn_file_actions_t streams;
    int ends[2], ended = 0;
    pid_t child = 0;
    size_t used = 0;
    ssize_t n = 0;
    if (pipe2(ends, O_CLOEXEC) != 0 || posix_spawn_file_actions_init(&streams) != 0) {
        return -1;
    }
    posix_spawn_file_actions_adddup2(&streams, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&streams, ends[1], STDERR_FILENO);
    /* posix_spawn's arguments are not const for historical reasons; it writes to none. */
    const int failure =
        posix_spawn(&child, program, &streams, NULL, (char *const *)(void *)argv, environ);
    posix_spawn_file_actions_destroy(&streams);
    close(ends[1]);
    while (failure == 0 && used + 1 < room &&
           ((n = read(ends[0], text + used, room - 1 - used)) > 0 || (n < 0 && errno == EINTR))) {
        used += n > 0 ? (size_t)n : 0;
    }
    close(ends[0]);
    text[used] = '\0';
    while (failure == 0 && waitpid(child, &ended, 0) < 0 && errno == EINTR) {
    }
    return failure == 0 && WIFEXITED(ended) ? WEXITSTATUS(ended) : -1;
}

/* GPUs that ranks of this machine could compute on. HLM_ENV says why there are none. */
static enum hlm_status count_gpus(struct hlm_arena *arena, int32_t *out, struct hlm_err *err)
{
    static const char no_driver[] = "no NVIDIA driver (libcuda.so.1) on this machine";
    static const char prefix[] = RANK_PROGRAM ": ";
    const char *program = NULL;
    char text[sizeof err->text];
    if (!has_driver()) {
        return hlm_fail(err, HLM_ENV, "%s", no_driver);
    }
    HLM_TRY(hlm_ranks_program(arena, &program, err));
    const int code = ask(program, "--count-gpus", text, sizeof text);
    text[strcspn(text, "\n")] = '\0';
    if (code != 0) {
        const bool prefixed = strncmp(text, prefix, strlen(prefix)) == 0;
        return hlm_fail(err, HLM_ENV, "%s",
                        text[0] == '\0' ? "the rank program can't count the GPUs"
                        : prefixed      ? text + strlen(prefix)
                                        : text);
    }
    *out = (int32_t)strtol(text, NULL, 10);
    return HLM_OK;
}

/* ---- choosing ---- */

static enum hlm_status check_inside(const struct hlm_ranks_choice *choice,
                                    const struct hlm_rank_env *env, struct hlm_err *err)
{
    const char *launcher = hlm_launcher_texts[env->launcher];
    if (choice->hosts != NULL) {
        return hlm_fail(err, HLM_USAGE, "--hosts: %s has placed the ranks already", launcher);
    }
    if (choice->transport == HLM_TRANSPORT_THREAD && env->world_size > 1) {
        return hlm_fail(err, HLM_USAGE,
                        "--transport thread: all ranks are threads of one process, but %s started "
                        "%d processes",
                        launcher, env->world_size);
    }
    return HLM_OK;
}

static enum hlm_status check_wishes(const struct hlm_ranks_choice *choice, struct hlm_err *err)
{
    if (choice->transport == HLM_TRANSPORT_THREAD && choice->hosts != NULL) {
        return hlm_fail(err, HLM_USAGE, "--hosts needs --transport mpi: threads share one machine");
    }
    if (choice->transport == HLM_TRANSPORT_NCCL && choice->backend == HLM_BACKEND_CHOICE_CPU) {
        return hlm_fail(err, HLM_USAGE,
                        "--transport nccl needs a GPU for each rank, but --backend cpu uses none");
    }
    return HLM_OK;
}

/* *num_gpus and the backend. With other machines the ranks find out for themselves. */
static enum hlm_status choose_backend(struct hlm_arena *arena, struct hlm_ranks_choice *choice,
                                      int32_t *num_gpus, struct hlm_err *err)
{
    struct hlm_err none;
    *num_gpus = 0;
    if (choice->backend == HLM_BACKEND_CHOICE_CPU || count_gpus(arena, num_gpus, &none) == HLM_OK ||
        choice->hosts != NULL) {
        return HLM_OK;
    }
    if (choice->transport == HLM_TRANSPORT_NCCL || choice->backend == HLM_BACKEND_CHOICE_CUDA) {
        return hlm_fail(err, HLM_ENV, "%s: %s",
                        choice->transport == HLM_TRANSPORT_NCCL ? "--transport nccl"
                                                                : "--backend cuda",
                        none.text);
    }
    choice->backend = HLM_BACKEND_CHOICE_CPU;
    fprintf(stderr, "running on the CPU: %s\n", none.text);
    return HLM_OK;
}

static enum hlm_status choose_transport(struct hlm_ranks_choice *choice, int32_t num_gpus,
                                        struct hlm_err *err)
{
    const struct hlm_transport_question question = {
        .num_ranks = choice->num_ranks, .num_gpus = num_gpus, .one_machine = choice->hosts == NULL};
    const char *why = NULL;
    if (choice->transport == HLM_TRANSPORT_AUTO) {
        choice->transport = hlm_transport_choose(&question, &why);
    }
    if (why != NULL) {
        fprintf(stderr, "%s\n", why);
    }
    if (choice->transport == HLM_TRANSPORT_NCCL && choice->hosts == NULL &&
        num_gpus < choice->num_ranks) {
        return hlm_fail(err, HLM_ENV,
                        "--transport nccl: %d ranks need a GPU each, and this machine has %d",
                        choice->num_ranks, num_gpus);
    }
    return HLM_OK;
}

enum hlm_status hlm_ranks_choose(struct hlm_arena *arena, struct hlm_ranks_choice *choice,
                                 struct hlm_err *err)
{
    struct hlm_rank_env env;
    choice->num_gpus = 0;
    HLM_TRY(check_wishes(choice, err));
    HLM_TRY(hlm_rank_env_read(&env, err));
    if (env.launcher != HLM_LAUNCHER_NONE) {
        return check_inside(choice, &env, err);
    }
    HLM_TRY(choose_backend(arena, choice, &choice->num_gpus, err));
    return choose_transport(choice, choice->num_gpus, err);
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
    struct hlm_err ignored; /* hlm_ranks_choose tells */
    if (hlm_rank_env_read(&env, &ignored) != HLM_OK || env.launcher == HLM_LAUNCHER_NONE) {
        return false;
    }
    *out_rank = env.rank;
    return true;
}

/* The rank program says on stderr what went wrong; its exit code is the status. */
static enum hlm_status run_own_rank(struct hlm_arena *arena, const struct hlm_rank_env *env,
                                    const char *program, const struct hlm_ranks_job *job,
                                    struct hlm_err *err)
{
    if (env->world_size != job->num_ranks) {
        return hlm_fail(err, HLM_USAGE, "%s started %d rank%s, but the plan has %d",
                        hlm_launcher_texts[env->launcher], env->world_size,
                        env->world_size == 1 ? "" : "s", job->num_ranks);
    }
    const char *const *args = with_transport(arena, job);
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

static enum hlm_launch_kind launch_kind(const struct hlm_ranks_job *job)
{
    if (job->hosts != NULL || job->transport == HLM_TRANSPORT_MPI) {
        return HLM_LAUNCH_MPI;
    }
    return job->transport == HLM_TRANSPORT_NCCL ? HLM_LAUNCH_PROCESSES : HLM_LAUNCH_THREADS;
}

enum hlm_status hlm_ranks_run(struct hlm_arena *arena, const struct hlm_ranks_job *job,
                              struct hlm_err *err)
{
    struct hlm_rank_env env;
    struct hlm_launch_config config = {.kind = launch_kind(job),
                                       .args = with_transport(arena, job),
                                       .num_ranks = job->num_ranks,
                                       .hosts = job->hosts,
                                       .watchdog_s = job->timeout_s,
                                       .on_progress = job->quiet ? NULL : on_progress};
    HLM_TRY(hlm_ranks_program(arena, &config.program, err));
    HLM_TRY(hlm_rank_env_read(&env, err));
    if (env.launcher != HLM_LAUNCHER_NONE) {
        return run_own_rank(arena, &env, config.program, job, err);
    }
    return hlm_launch_run(&config, err);
}
