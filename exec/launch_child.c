#include "exec/launch_child.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "exec/control.h"

enum { TERM_MS = 1000, MPIRUN_MS = 3000, GIVE_UP_MS = 6000, SWEEP_MS = 20, NUM_LAST_LINES = 4 };

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

/* Variables later in the list replace none of the user's, except HLM_CONTROL. */
static char **make_environment(struct hlm_arena *arena, const struct hlm_control *control,
                               const struct hlm_launch_hosts *hosts)
{
    const bool remote = hosts != NULL && hosts->remote;
    size_t count = 0;
    while (environ[count] != NULL) {
        count++;
    }
    char **list = HLM_ARENA_ARRAY(arena, char *, count + NUM_MPI_ENVIRONMENT + 5);
    size_t used = 0;
    const size_t name_length = strlen(HLM_CONTROL_VARIABLE "=");
    for (size_t i = 0; i < count; i++) {
        if (strncmp(environ[i], HLM_CONTROL_VARIABLE "=", name_length) != 0) {
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
    list[used] = NULL;
    return list;
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
    const char **list = HLM_ARENA_ARRAY(arena, const char *, num_args + 20);
    size_t used = 0;
    if (config->kind == HLM_LAUNCH_MPI) {
        list[used++] = config->mpirun != NULL ? config->mpirun : "mpirun";
        list[used++] = "-np";
        list[used++] = hlm_arena_printf(arena, "%" PRId32, config->num_ranks);
        if (hosts != NULL) {
            const char *path = hlm_arena_printf(arena, "%s/hosts", control->folder);
            HLM_TRY(write_hostfile(path, hosts->hostfile, err));
            list[used++] = "--hostfile";
            list[used++] = path;
            list[used++] = "--map-by";
            list[used++] = "slot"; /* one host after the other, as a cluster counts its devices */
        }
        static const char *const exported[] = {HLM_CONTROL_VARIABLE, "MALLOC_MMAP_THRESHOLD_",
                                               "MALLOC_TRIM_THRESHOLD_", "OPENBLAS_NUM_THREADS"};
        for (size_t i = 0; i < sizeof exported / sizeof exported[0]; i++) {
            list[used++] = "-x";
            list[used++] = exported[i];
        }
    }
    list[used++] = config->program;
    memcpy(list + used, config->args, num_args * sizeof list[0]);
    /* execve's argument is not const for historical reasons; it writes to nothing. */
    *out = (char **)(void *)list;
    return HLM_OK;
}

/* ---- starting ---- */

/* Between fork and exec: only what is safe there. The number of an error goes back through
 * `report`. */
static _Noreturn void become(char **args, char **environment, int output, int report,
                             int death_signal, pid_t parent, const sigset_t *mask)
{
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, death_signal);
    const int null = open("/dev/null", O_RDONLY);
    if (getppid() != parent || null < 0 || dup2(null, STDIN_FILENO) < 0 ||
        dup2(output, STDOUT_FILENO) < 0 || dup2(output, STDERR_FILENO) < 0) {
        _exit(127);
    }
    if (null > STDERR_FILENO) {
        close(null);
    }
    sigprocmask(SIG_SETMASK, mask, NULL);
    execvpe(args[0], args, environment);
    const int failure = errno;
    if (write(report, &failure, sizeof failure) != sizeof failure) {
        _exit(126);
    }
    _exit(127);
}

static enum hlm_status check_program(const struct hlm_launch_config *config, struct hlm_err *err)
{
    if (access(config->program, X_OK) != 0) {
        return hlm_fail(err, HLM_ENV, "cannot start %s: %s", config->program, strerror(errno));
    }
    return HLM_OK;
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

static void close_pipe(const int ends[2])
{
    close(ends[0]);
    close(ends[1]);
}

static enum hlm_status start_process(struct hlm_child *child, char **args, char **environment,
                                     const sigset_t *mask, struct hlm_err *err)
{
    int output[2], report[2];
    if (pipe2(output, O_CLOEXEC) != 0) {
        return hlm_fail(err, HLM_ENV, "cannot make a pipe: %s", strerror(errno));
    }
    if (pipe2(report, O_CLOEXEC) != 0) {
        close_pipe(output);
        return hlm_fail(err, HLM_ENV, "cannot make a pipe: %s", strerror(errno));
    }
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid == 0) {
        /* mpirun ends its ranks when asked to; a rank program can be ended without being asked. */
        become(args, environment, output[1], report[1], child->is_mpirun ? SIGTERM : SIGKILL,
               parent, mask);
    }
    close(output[1]);
    close(report[1]);
    const int failure = pid < 0 ? errno : read_failure(report[0]);
    close(report[0]);
    if (failure != 0) {
        if (pid > 0) {
            waitpid(pid, NULL, 0);
        }
        close(output[0]);
        return hlm_fail(err, HLM_ENV, "cannot start %s: %s%s", args[0], strerror(failure),
                        child->is_mpirun ? " (ranks as processes need Open MPI; "
                                           "--transport thread does without)"
                                         : "");
    }
    setpgid(pid, pid); /* whoever comes first, so that it holds for both */
    fcntl(output[0], F_SETFL, O_NONBLOCK);
    child->pid = pid;
    child->output = output[0];
    return HLM_OK;
}

enum hlm_status hlm_child_start(struct hlm_child *child, struct hlm_arena *arena,
                                const struct hlm_launch_config *config,
                                const struct hlm_control *control,
                                const struct hlm_launch_hosts *hosts, const sigset_t *mask,
                                struct hlm_err *err)
{
    char **args = NULL;
    HLM_TRY(check_program(config, err));
    HLM_TRY(make_arguments(arena, config, control, hosts, &args, err));
    struct hlm_child started = {
        .name = config->kind == HLM_LAUNCH_MPI ? "mpirun" : "the rank program",
        .word = control->word,
        .is_mpirun = config->kind == HLM_LAUNCH_MPI,
    };
    HLM_TRY(start_process(&started, args, make_environment(arena, control, hosts), mask, err));
    *child = started;
    return HLM_OK;
}

/* ---- output ---- */

static void keep_tail(struct hlm_child *child, const char *bytes, size_t length)
{
    if (length > HLM_CHILD_TAIL) {
        bytes += length - HLM_CHILD_TAIL;
        length = HLM_CHILD_TAIL;
    }
    const size_t room = HLM_CHILD_TAIL - child->tail_length;
    if (length > room) {
        const size_t dropped = length - room;
        memmove(child->tail, child->tail + dropped, child->tail_length - dropped);
        child->tail_length -= dropped;
    }
    memcpy(child->tail + child->tail_length, bytes, length);
    child->tail_length += length;
    child->tail[child->tail_length] = '\0';
}

void hlm_child_read(struct hlm_child *child)
{
    char bytes[4096];
    while (child->output >= 0) {
        const ssize_t n = read(child->output, bytes, sizeof bytes);
        if (n > 0) {
            keep_tail(child, bytes, (size_t)n);
        } else if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        } else {
            close(child->output);
            child->output = -1;
        }
    }
}

/* Whether text begins with what mpirun draws around its explanations. */
static bool is_frame(const char *line)
{
    return strncmp(line, "----------", 10) == 0 || strncmp(line, "==========", 10) == 0;
}

static bool is_blank(const char *line)
{
    return line[strspn(line, " \t\r")] == '\0';
}

static const char *join_lines(const char *const *lines, size_t first, size_t count,
                              struct hlm_arena *arena)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    for (size_t i = 0; i < count; i++) {
        hlm_text_printf(&text, "%s%s", i > 0 ? " | " : "", lines[(first + i) % NUM_LAST_LINES]);
    }
    return text.text;
}

const char *hlm_child_last_lines(const struct hlm_child *child, struct hlm_arena *arena,
                                 bool of_mpirun_too)
{
    const char *lines[NUM_LAST_LINES], *framed[NUM_LAST_LINES];
    size_t num_lines = 0, num_framed = 0;
    bool inside = false;
    char *state = NULL;
    for (char *line = strtok_r(hlm_arena_strdup(arena, child->tail), "\n", &state); line != NULL;
         line = strtok_r(NULL, "\n", &state)) {
        if (child->is_mpirun && is_frame(line)) {
            inside = !inside;
        } else if (is_blank(line)) {
            continue;
        } else if (!inside) {
            lines[num_lines++ % NUM_LAST_LINES] = line;
        } else if (num_framed < NUM_LAST_LINES) {
            framed[num_framed++] = line; /* the first ones: an explanation begins with its point */
        }
    }
    if (num_lines == 0) {
        return join_lines(framed, 0, of_mpirun_too ? num_framed : 0, arena);
    }
    const size_t count = num_lines < NUM_LAST_LINES ? num_lines : NUM_LAST_LINES;
    return join_lines(lines, (num_lines - count) % NUM_LAST_LINES, count, arena);
}

static const char *signal_text(struct hlm_arena *arena, int number)
{
    return hlm_arena_printf(arena, "was killed by signal %d (%s)", number, strsignal(number));
}

const char *hlm_child_end_text(struct hlm_arena *arena, int wait_status)
{
    return WIFSIGNALED(wait_status)
               ? signal_text(arena, WTERMSIG(wait_status))
               : hlm_arena_printf(arena, "ended with exit code %d", WEXITSTATUS(wait_status));
}

/* "mpirun noticed that process rank 1 with PID 0 on node x exited on signal 9 (Killed)." */
static int32_t signalled_rank(const char *tail, int *out_signal)
{
    static const char of_rank[] = "process rank ", on_signal[] = "exited on signal ";
    const char *rank = strstr(tail, of_rank);
    const char *number = rank != NULL ? strstr(rank, on_signal) : NULL;
    if (number == NULL) {
        return -1;
    }
    *out_signal = (int)strtol(number + sizeof on_signal - 1, NULL, 10);
    return (int32_t)strtol(rank + sizeof of_rank - 1, NULL, 10);
}

/* "Process name: [[13,1],2]" and, in the next line, "Exit code:    3". */
static int32_t exited_rank(const char *tail, int *out_code)
{
    static const char name[] = "Process name: [[", code[] = "Exit code:";
    const char *place = strstr(tail, name);
    const char *comma = place != NULL ? strstr(place, "],") : NULL;
    const char *number = comma != NULL ? strstr(comma, code) : NULL;
    if (number == NULL) {
        return -1;
    }
    *out_code = (int)strtol(number + sizeof code - 1, NULL, 10);
    return (int32_t)strtol(comma + 2, NULL, 10);
}

int32_t hlm_child_culprit(const struct hlm_child *child, struct hlm_arena *arena,
                          const char **out_how, int *out_exit_code)
{
    int number = 0;
    int32_t rank = signalled_rank(child->tail, &number);
    if (rank >= 0) {
        *out_how = signal_text(arena, number);
        *out_exit_code = 0;
        return rank;
    }
    rank = exited_rank(child->tail, &number);
    if (rank >= 0) {
        *out_how = hlm_arena_printf(arena, "ended with exit code %d", number);
        *out_exit_code = number;
    }
    return rank;
}

/* ---- ending ---- */

void hlm_child_reap(struct hlm_child *child)
{
    if (!child->ended && waitpid(child->pid, &child->wait_status, WNOHANG) == child->pid) {
        child->ended = true;
    }
}

/* The environment of a process is at /proc/<pid>/environ, for those who may look; of a zombie it is
 * empty. The word stands in nobody else's. */
static bool belongs_to_run(pid_t pid, const char *word)
{
    char path[40], bytes[16384];
    snprintf(path, sizeof path, "/proc/%ld/environ", (long)pid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    const size_t length = strlen(word);
    size_t kept = 0;
    bool found = false;
    ssize_t n;
    while (!found && (n = read(fd, bytes + kept, sizeof bytes - kept)) > 0) {
        kept += (size_t)n;
        found = memmem(bytes, kept, word, length) != NULL;
        if (kept >= length) { /* the word may lie across two reads */
            memmove(bytes, bytes + kept - length, length);
            kept = length;
        }
    }
    close(fd);
    return found;
}

/* A process id may be another process's by the time a signal is sent; a pidfd can't. */
static void signal_if_ours(pid_t pid, const char *word, int number)
{
    const int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0) {
        if (errno == ENOSYS && belongs_to_run(pid, word)) {
            kill(pid, number);
        }
        return;
    }
    if (belongs_to_run(pid, word)) {
        syscall(SYS_pidfd_send_signal, fd, number, NULL, 0);
    }
    close(fd);
}

/* Signals (0: only counts) every process of the run except `spared`, reaps those that are ours to
 * reap, and returns how many were there. */
static int sweep(const char *word, int number, pid_t spared)
{
    DIR *folder = opendir("/proc");
    if (folder == NULL) {
        return 0;
    }
    int count = 0;
    for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        const pid_t pid =
            isdigit((unsigned char)entry->d_name[0]) ? (pid_t)strtol(entry->d_name, NULL, 10) : 0;
        if (pid <= 0 || pid == spared || pid == getpid() || !belongs_to_run(pid, word)) {
            continue;
        }
        count++;
        if (number != 0) {
            signal_if_ours(pid, word, number);
        }
    }
    closedir(folder);
    return count;
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Ranks whose mpirun is gone have become our children (launch.c asks for that), and nothing else
 * is. True when there is none any more. */
static bool reap_all(const struct hlm_child *child)
{
    pid_t reaped = 0;
    while (child->ended && (reaped = waitpid(-1, NULL, WNOHANG)) > 0) {
    }
    return reaped < 0;
}

static void kill_group(const struct hlm_child *child, int number)
{
    if (!child->ended) {
        kill(-child->pid, number);
    }
}

void hlm_child_stop(struct hlm_child *child)
{
    const int64_t start = now_ms();
    kill_group(child, SIGTERM);
    for (bool first = true;; first = false) {
        hlm_child_read(child);
        hlm_child_reap(child);
        const int64_t passed = now_ms() - start;
        const int64_t child_ms = child->is_mpirun ? MPIRUN_MS : TERM_MS;
        if (passed >= child_ms) {
            kill_group(child, SIGKILL);
        }
        /* A rank that its mpirun will not end (a stopped one, an orphan) is ended here. */
        const int number = passed >= TERM_MS ? SIGKILL : first ? SIGTERM : 0;
        const int left = sweep(child->word, number, child->ended ? 0 : child->pid);
        if ((left == 0 && reap_all(child)) || passed >= GIVE_UP_MS) {
            break;
        }
        poll(NULL, 0, SWEEP_MS);
    }
    hlm_child_read(child);
    if (child->output >= 0) {
        close(child->output);
        child->output = -1;
    }
}
