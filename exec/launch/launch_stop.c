/* How the processes of a run are ended. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "exec/launch/launch_child.h"

enum { TERM_MS = 1000, MPIRUN_MS = 3000, GIVE_UP_MS = 6000, SWEEP_MS = 20 };

void hlm_child_reap(struct hlm_child *child)
{
    child->ended = true;
    for (int32_t i = 0; i < child->num_processes; i++) {
        struct hlm_child_process *process = &child->processes[i];
        if (!process->ended &&
            waitpid(process->pid, &process->wait_status, WNOHANG) == process->pid) {
            process->ended = true;
            child->wait_status =
                child->wait_status != 0 ? child->wait_status : process->wait_status;
        }
        child->ended = child->ended && process->ended;
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

/* mpirun itself, which is given more time than the ranks. */
static bool is_spared(const struct hlm_child *child, pid_t pid)
{
    return child->is_mpirun && !child->ended && pid == child->processes[0].pid;
}

/* Signals (0: only counts) every process of the run but the spared one, and returns how many were
 * there. */
static int sweep(const struct hlm_child *child, int number)
{
    DIR *folder = opendir("/proc");
    if (folder == NULL) {
        return 0;
    }
    int count = 0;
    for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        const pid_t pid =
            isdigit((unsigned char)entry->d_name[0]) ? (pid_t)strtol(entry->d_name, NULL, 10) : 0;
        if (pid <= 0 || pid == getpid() || is_spared(child, pid) ||
            !belongs_to_run(pid, child->word)) {
            continue;
        }
        count++;
        if (number != 0) {
            signal_if_ours(pid, child->word, number);
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

static void kill_groups(const struct hlm_child *child, int number)
{
    for (int32_t i = 0; i < child->num_processes; i++) {
        if (!child->processes[i].ended) {
            kill(-child->processes[i].pid, number);
        }
    }
}

void hlm_child_stop(struct hlm_child *child)
{
    const int64_t start = now_ms();
    kill_groups(child, SIGTERM);
    for (bool first = true;; first = false) {
        hlm_child_read(child);
        hlm_child_reap(child);
        const int64_t passed = now_ms() - start;
        const int64_t child_ms = child->is_mpirun ? MPIRUN_MS : TERM_MS;
        if (passed >= child_ms) {
            kill_groups(child, SIGKILL);
        }
        /* A rank that its mpirun will not end (a stopped one, an orphan) is ended here. */
        const int number = passed >= TERM_MS ? SIGKILL : first ? SIGTERM : 0;
        const int left = sweep(child, number);
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
