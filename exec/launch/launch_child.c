#include "exec/launch/launch_child.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exec/launch/control.h"
#include "exec/launch/launch_meeting.h"

extern char **environ;

/* ---- environment and arguments ---- */

/* Set where the user has not: several ranks a core and as root, as tests and containers need it;
 * waits that yield; no binding, since several ranks would be bound to one core; one copy through
 * shared memory; and a malloc that keeps the large buffers of MPI's collectives mapped, which makes
 * them about twice as fast; no thread pool in OpenBLAS, since ranks are the parallelism. */
static const char *const mpi_environment[] = {
    "OMPI_ALLOW_RUN_AS_ROOT=1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
    "OMPI_MCA_rmaps_base_oversubscribe=1",
    "OMPI_MCA_hwloc_base_binding_policy=none",
    "OMPI_MCA_mpi_yield_when_idle=1",
    "OMPI_MCA_pml=ob1",
    "MALLOC_MMAP_THRESHOLD_=4294967296",
    "MALLOC_TRIM_THRESHOLD_=8589934592",
    "OPENBLAS_NUM_THREADS=1",
};
enum { NUM_MPI_ENVIRONMENT = sizeof mpi_environment / sizeof mpi_environment[0] };

static bool is_set(const char *assignment)
{
    char name[128];
    const size_t length = strcspn(assignment, "=");
    HLM_ASSERT(length < sizeof name);
    memcpy(name, assignment, length);
    name[length] = '\0';
    return getenv(name) != NULL;
}

/* The ranks find these as we set them, whatever the user has. */
static const char *const our_variables[] = {
    HLM_CONTROL_VARIABLE, HLM_MEETING_VARIABLE, "RANK",        "WORLD_SIZE",
    "LOCAL_RANK",         "LOCAL_WORLD_SIZE",   "MASTER_ADDR", "MASTER_PORT"};
enum { NUM_OUR_VARIABLES = sizeof our_variables / sizeof our_variables[0] };

/* Of those, HLM_CONTROL and HLM_MEETING alone are ours in every kind of launch. */
static bool is_ours(const char *assignment, enum hlm_launch_kind kind)
{
    const size_t count = kind == HLM_LAUNCH_PROCESSES ? NUM_OUR_VARIABLES : 2;
    const size_t length = strcspn(assignment, "=");
    for (size_t i = 0; i < count; i++) {
        if (strlen(our_variables[i]) == length &&
            strncmp(our_variables[i], assignment, length) == 0) {
            return true;
        }
    }
    return false;
}

/* With room for NUM_OUR_VARIABLES more behind *out_used. */
static char **make_environment(struct hlm_arena *arena, enum hlm_launch_kind kind,
                               const struct hlm_control *control,
                               const struct hlm_launch_hosts *hosts, size_t *out_used)
{
    const bool remote = hosts != NULL && hosts->remote;
    size_t count = 0;
    while (environ[count] != NULL) {
        count++;
    }
    char **list =
        HLM_ARENA_ARRAY(arena, char *, count + NUM_MPI_ENVIRONMENT + NUM_OUR_VARIABLES + 5);
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        if (!is_ours(environ[i], kind)) {
            list[used++] = environ[i];
        }
    }
    const char *extra[NUM_MPI_ENVIRONMENT + 3];
    size_t num_extra = NUM_MPI_ENVIRONMENT;
    memcpy(extra, mpi_environment, sizeof mpi_environment);
    extra[num_extra++] = remote ? "OMPI_MCA_btl=self,vader,tcp" : "OMPI_MCA_btl=self,vader";
    if (!remote) {
        /* MPI's own files go with our folders, also when mpirun dies without tidying up. */
        extra[num_extra++] =
            hlm_arena_printf(arena, "OMPI_MCA_orte_tmpdir_base=%s", control->folder);
        extra[num_extra++] =
            hlm_arena_printf(arena, "OMPI_MCA_btl_vader_backing_directory=%s",
                             control->shared != NULL ? control->shared : control->folder);
    }
    for (size_t i = 0; i < num_extra; i++) {
        if (!is_set(extra[i])) {
            list[used++] = hlm_arena_strdup(arena, extra[i]);
        }
    }
    list[used++] = hlm_arena_strdup(arena, control->variable);
    *out_used = used;
    return list;
}

/* The place of one of PROCESSES, in the variables of torchrun. */
static void add_place(struct hlm_arena *arena, int32_t rank, int32_t num_ranks, int meeting,
                      char **list, size_t used)
{
    const int32_t port = hlm_meeting_port(meeting) - HLM_MEETING_PORT_OFFSET;
    list[used++] = hlm_arena_printf(arena, "RANK=%" PRId32, rank);
    list[used++] = hlm_arena_printf(arena, "LOCAL_RANK=%" PRId32, rank);
    list[used++] = hlm_arena_printf(arena, "WORLD_SIZE=%" PRId32, num_ranks);
    list[used++] = hlm_arena_printf(arena, "LOCAL_WORLD_SIZE=%" PRId32, num_ranks);
    list[used++] = hlm_arena_printf(arena, "MASTER_ADDR=127.0.0.1");
    list[used++] = hlm_arena_printf(arena, "MASTER_PORT=%" PRId32, port);
    list[used++] = rank == 0 ? hlm_arena_printf(arena, HLM_MEETING_VARIABLE "=%d", meeting) : NULL;
    list[used] = NULL;
}

static enum hlm_status write_hostfile(const char *path, const char *text, struct hlm_err *err)
{
    FILE *file = fopen(path, "we");
    const bool opened = file != NULL;
    const bool written = opened && fputs(text, file) >= 0;
    if (!opened || fclose(file) != 0 || !written) {
        return hlm_fail(err, HLM_ENV, "cannot write %s: %s", path, strerror(errno));
    }
    return HLM_OK;
}

/* The words of a command line as they come together. */
struct words {
    const char **list;
    size_t used;
};

static void add_word(struct words *words, const char *word)
{
    words->list[words->used++] = word;
}

static const char *const exported[] = {HLM_CONTROL_VARIABLE, "MALLOC_MMAP_THRESHOLD_",
                                       "MALLOC_TRIM_THRESHOLD_", "OPENBLAS_NUM_THREADS"};
enum { NUM_EXPORTED = sizeof exported / sizeof exported[0] };

static void add_program(struct words *words, const struct hlm_launch_config *config)
{
    add_word(words, config->program);
    for (const char *const *arg = config->args; *arg != NULL; arg++) {
        add_word(words, *arg);
    }
}

static void add_ranks(struct hlm_arena *arena, struct words *words,
                      const struct hlm_launch_config *config, int32_t num_ranks)
{
    add_word(words, "-np");
    add_word(words, hlm_arena_printf(arena, "%" PRId32, num_ranks));
    for (size_t i = 0; i < NUM_EXPORTED; i++) {
        add_word(words, "-x");
        add_word(words, exported[i]);
    }
    add_program(words, config);
}

/* mpirun takes an IPv6 address in a file alone. */
static bool has_ipv6(const struct hlm_launch_hosts *hosts)
{
    for (int32_t i = 0; i < hosts->num; i++) {
        if (strchr(hosts->names[i], ':') != NULL) {
            return true;
        }
    }
    return false;
}

/* A program context for each host: with one for all, mpirun fills the machine on which it runs
 * first, wherever that stands in the file. */
static void add_contexts(struct hlm_arena *arena, struct words *words,
                         const struct hlm_launch_config *config,
                         const struct hlm_launch_hosts *hosts)
{
    if (hosts == NULL || hosts->num == 1 || has_ipv6(hosts)) {
        add_ranks(arena, words, config, config->num_ranks);
        return;
    }
    for (int32_t i = 0; i < hosts->num; i++) {
        if (i > 0) {
            add_word(words, ":");
        }
        add_word(words, "--host");
        add_word(words,
                 hlm_arena_printf(arena, "%s:%" PRId32, hosts->names[i], hosts->num_ranks[i]));
        add_ranks(arena, words, config, hosts->num_ranks[i]);
    }
}

static enum hlm_status make_arguments(struct hlm_arena *arena,
                                      const struct hlm_launch_config *config,
                                      const struct hlm_control *control,
                                      const struct hlm_launch_hosts *hosts, char ***out,
                                      struct hlm_err *err)
{
    size_t num_args = 0;
    while (config->args[num_args] != NULL) {
        num_args++;
    }
    const size_t num_contexts = hosts != NULL && hosts->num > 1 ? (size_t)hosts->num : 1;
    const size_t capacity = num_contexts * (num_args + 2 * NUM_EXPORTED + 6) + 8;
    struct words words = {.list = HLM_ARENA_ARRAY(arena, const char *, capacity), .used = 0};
    if (config->kind != HLM_LAUNCH_MPI) {
        add_program(&words, config);
    } else {
        add_word(&words, config->mpirun != NULL ? config->mpirun : "mpirun");
        if (hosts != NULL) {
            const char *path = hlm_arena_printf(arena, "%s/hosts", control->folder);
            HLM_TRY(write_hostfile(path, hosts->hostfile, err));
            add_word(&words, "--hostfile");
            add_word(&words, path);
            add_word(&words, "--map-by");
            add_word(&words, "slot"); /* one host after the other, as a cluster counts devices */
        }
        add_contexts(arena, &words, config, hosts);
    }
    /* execve's argument is not const for historical reasons; it writes to nothing. */
    *out = (char **)(void *)words.list;
    return HLM_OK;
}

/* ---- starting ---- */

struct start {
    char **args, **environment;
    int output;    /* where it writes */
    int inherited; /* a further descriptor that stays open in it; -1: none */
    bool is_mpirun;
    const sigset_t *mask;
};

/* Between fork and exec: only what is safe there. The number of an error goes back through
 * `report`. */
static _Noreturn void become(const struct start *start, int report, pid_t parent)
{
    setpgid(0, 0);
    /* mpirun ends its ranks when asked to; a rank program can be ended without being asked. */
    prctl(PR_SET_PDEATHSIG, start->is_mpirun ? SIGTERM : SIGKILL);
    const int null = open("/dev/null", O_RDONLY);
    if (getppid() != parent || null < 0 || dup2(null, STDIN_FILENO) < 0 ||
        dup2(start->output, STDOUT_FILENO) < 0 || dup2(start->output, STDERR_FILENO) < 0 ||
        (start->inherited >= 0 && fcntl(start->inherited, F_SETFD, 0) != 0)) {
        _exit(127);
    }
    if (null > STDERR_FILENO) {
        close(null);
    }
    sigprocmask(SIG_SETMASK, start->mask, NULL);
    execvpe(start->args[0], start->args, start->environment);
    const int failure = errno;
    if (write(report, &failure, sizeof failure) != sizeof failure) {
        _exit(126);
    }
    _exit(127);
}

/* 0: exec has closed the pipe, so the program runs. */
static int read_failure(int fd)
{
    int failure = 0;
    ssize_t n;
    do {
        n = read(fd, &failure, sizeof failure);
    } while (n < 0 && errno == EINTR);
    return n == sizeof failure ? failure : 0;
}

static enum hlm_status start_process(const struct start *start, pid_t *out, struct hlm_err *err)
{
    int report[2];
    if (pipe2(report, O_CLOEXEC) != 0) {
        return hlm_fail(err, HLM_ENV, "cannot make a pipe: %s", strerror(errno));
    }
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid == 0) {
        become(start, report[1], parent);
    }
    close(report[1]);
    const int failure = pid < 0 ? errno : read_failure(report[0]);
    close(report[0]);
    if (failure != 0) {
        if (pid > 0) {
            waitpid(pid, NULL, 0);
        }
        return hlm_fail(err, HLM_ENV, "cannot start %s: %s%s", start->args[0], strerror(failure),
                        start->is_mpirun ? " (ranks as processes need Open MPI; "
                                           "--transport thread does without)"
                                         : "");
    }
    setpgid(pid, pid); /* whoever comes first, so that it holds for both */
    *out = pid;
    return HLM_OK;
}

/* meeting: the listening socket of PROCESSES, else -1. */
static enum hlm_status start_all(struct hlm_child *child, struct hlm_arena *arena,
                                 struct start *start, size_t num_variables, int meeting,
                                 struct hlm_err *err)
{
    const int32_t wanted = child->num_processes;
    child->processes = HLM_ARENA_ARRAY(arena, struct hlm_child_process, wanted);
    for (child->num_processes = 0; child->num_processes < wanted; child->num_processes++) {
        const int32_t rank = child->num_processes;
        if (meeting >= 0) {
            add_place(arena, rank, wanted, meeting, start->environment, num_variables);
            start->inherited = rank == 0 ? meeting : -1;
        }
        HLM_TRY(start_process(start, &child->processes[rank].pid, err));
    }
    return HLM_OK;
}

static enum hlm_status start_with_output(struct hlm_child *child, struct hlm_arena *arena,
                                         struct start *start, size_t num_variables, int meeting,
                                         struct hlm_err *err)
{
    int output[2];
    if (pipe2(output, O_CLOEXEC) != 0) {
        return hlm_fail(err, HLM_ENV, "cannot make a pipe: %s", strerror(errno));
    }
    fcntl(output[0], F_SETFL, O_NONBLOCK);
    start->output = output[1];
    child->output = output[0];
    const enum hlm_status status = start_all(child, arena, start, num_variables, meeting, err);
    close(output[1]);
    if (status != HLM_OK) {
        hlm_child_stop(child);
    }
    return status;
}

enum hlm_status hlm_child_start(struct hlm_child *child, struct hlm_arena *arena,
                                const struct hlm_launch_config *config,
                                const struct hlm_control *control,
                                const struct hlm_launch_hosts *hosts, const sigset_t *mask,
                                struct hlm_err *err)
{
    const bool many = config->kind == HLM_LAUNCH_PROCESSES;
    struct start start = {
        .inherited = -1, .is_mpirun = config->kind == HLM_LAUNCH_MPI, .mask = mask};
    struct hlm_child started = {
        .num_processes = many ? config->num_ranks : 1,
        .name = start.is_mpirun ? "mpirun"
                : many          ? "a rank program"
                                : "the rank program",
        .word = control->word,
        .is_mpirun = start.is_mpirun,
    };
    size_t num_variables = 0;
    int meeting = -1;
    if (access(config->program, X_OK) != 0) {
        return hlm_fail(err, HLM_ENV, "cannot start %s: %s", config->program, strerror(errno));
    }
    HLM_TRY(make_arguments(arena, config, control, hosts, &start.args, err));
    start.environment = make_environment(arena, config->kind, control, hosts, &num_variables);
    if (many) {
        HLM_TRY(hlm_meeting_listen("127.0.0.1", 0, &meeting, err));
    }
    const enum hlm_status status =
        start_with_output(&started, arena, &start, num_variables, meeting, err);
    if (meeting >= 0) {
        close(meeting);
    }
    if (status == HLM_OK) {
        *child = started;
    }
    return status;
}
