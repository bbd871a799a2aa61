#include "exec/launch/launch_internal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const double starved_factor =
    3; /* silence of a process that the kernel says is able to run */
static const double late_beat_s = 1.5; /* three beats; then nothing is said of progress */
static const double exit_s = 10;       /* from the last "done" to the end of the processes */

int64_t hlm_launch_real_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- what went wrong ---- */

/* The earliest cause wins; what a rank says of itself wins over what is only seen from outside in
 * the same moment. */
bool hlm_launch_is_first(const struct hlm_supervisor *s, enum hlm_launch_failure_kind kind,
                         int64_t time_ns)
{
    return s->failure.kind == HLM_LAUNCH_NO_FAILURE || time_ns < s->failure.time_ns ||
           (time_ns == s->failure.time_ns && kind < s->failure.kind);
}

void hlm_launch_note(struct hlm_supervisor *s, enum hlm_launch_failure_kind kind, int64_t time_ns,
                     enum hlm_status status, const char *format, ...)
{
    if (!hlm_launch_is_first(s, kind, time_ns)) {
        return;
    }
    const double noticed_s =
        s->failure.kind == HLM_LAUNCH_NO_FAILURE ? s->now_s : s->failure.noticed_s;
    s->failure =
        (struct hlm_launch_failure){.kind = kind, .time_ns = time_ns, .noticed_s = noticed_s};
    va_list args;
    va_start(args, format);
    hlm_fail_v(&s->failure.err, status, format, args);
    va_end(args);
}

/* "rank 2 on node5 (process 4711)"; threads of one process all end with it. */
static const char *rank_name(const struct hlm_supervisor *s, const struct hlm_peer *rank)
{
    const bool shared = s->config->kind == HLM_LAUNCH_THREADS && s->config->num_ranks > 1;
    return hlm_arena_printf(s->arena, "rank %" PRId32 " on %s (process %ld%s)", rank->rank,
                            rank->host, (long)rank->pid, shared ? " of all ranks" : "");
}

static const char *last_lines(const struct hlm_supervisor *s, bool of_mpirun_too)
{
    const char *lines = hlm_child_last_lines(&s->child, s->arena, of_mpirun_too);
    return lines[0] != '\0' ? hlm_arena_printf(s->arena, "; last output: %s", lines) : "";
}

/* A rank program ends with a status as its exit code. */
static enum hlm_status status_of(int exit_code, enum hlm_status otherwise)
{
    return exit_code >= HLM_USAGE && exit_code <= HLM_FAILED ? (enum hlm_status)exit_code
                                                             : otherwise;
}

/* How the rank ended, or another one whose end mpirun says came first: connections do not tell the
 * order of what happens within milliseconds. */
static const struct hlm_peer *find_end(const struct hlm_supervisor *s, const char **out_how,
                                       int *out_exit_code)
{
    const struct hlm_peer *rank = &s->ranks[s->failure.rank];
    *out_how = "ended";
    *out_exit_code = 0;
    if (!s->child.is_mpirun) {
        const bool many = s->config->kind == HLM_LAUNCH_PROCESSES;
        const struct hlm_child_process *process = &s->child.processes[many ? s->failure.rank : 0];
        if (process->ended) {
            *out_how = hlm_child_end_text(s->arena, process->wait_status);
            *out_exit_code =
                WIFEXITED(process->wait_status) ? WEXITSTATUS(process->wait_status) : 0;
        }
        return rank;
    }
    const int32_t culprit = hlm_child_culprit(&s->child, s->arena, out_how, out_exit_code);
    return culprit >= 0 && culprit < s->config->num_ranks ? &s->ranks[culprit] : rank;
}

void hlm_launch_explain_gone(struct hlm_supervisor *s)
{
    struct hlm_err *err = &s->failure.err;
    const char *how = NULL;
    int exit_code = 0;
    const struct hlm_peer *rank = find_end(s, &how, &exit_code);
    const enum hlm_status status = status_of(exit_code, HLM_FAILED);
    if (s->child.is_mpirun && s->child.ended && WIFSIGNALED(s->child.wait_status)) {
        hlm_fail(err, HLM_FAILED, "mpirun %s, which ended the ranks; %s was last seen at: %s",
                 hlm_child_end_text(s->arena, s->child.wait_status), rank_name(s, rank),
                 rank->what);
    } else if (rank->state == HLM_PEER_ABSENT) {
        hlm_fail(err, status, "rank %" PRId32 " %s before it had started%s", rank->rank, how,
                 last_lines(s, false));
    } else {
        hlm_fail(err, status, "%s %s without finishing; last seen at: %s%s", rank_name(s, rank),
                 how, rank->what, last_lines(s, false));
    }
}

/* ---- clocks ---- */

/* 'R', 'S', 'T', ... of a process on this machine; 0 where that can't be said. */
static char process_state(pid_t pid)
{
    char path[40], text[512];
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    if (fd >= 0) {
        close(fd);
    }
    text[n > 0 ? n : 0] = '\0';
    const char *after_name = strrchr(text, ')');
    return after_name != NULL && after_name[1] == ' ' ? after_name[2] : '\0';
}

static void check_silence(struct hlm_supervisor *s, const struct hlm_peer *rank)
{
    const double silent_s = s->now_s - rank->beat_s;
    if (silent_s <= s->silence_s) {
        return;
    }
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    const char state = strcmp(host, rank->host) == 0 ? process_state(rank->pid) : '\0';
    const bool stopped = state == 'T' || state == 't';
    if (stopped || silent_s > starved_factor * s->silence_s) {
        hlm_launch_note(s, HLM_LAUNCH_OTHER, hlm_launch_real_ns(), HLM_FAILED,
                        "%s gave no sign of life for %.1f s: %s; last seen at: %s",
                        rank_name(s, rank), silent_s,
                        stopped ? "its process is stopped"
                                : "its process or its machine is frozen, overloaded or cut off",
                        rank->what);
    }
}

/* The ranks that stand still, with what they do: "rank 0: ...; rank 1: ...". */
static const char *standing_ranks(const struct hlm_supervisor *s)
{
    struct hlm_text text;
    hlm_text_init(&text, s->arena);
    int count = 0;
    for (int32_t i = 0; i < s->config->num_ranks && count < 8; i++) {
        if (s->ranks[i].state == HLM_PEER_ALIVE) {
            hlm_text_printf(&text, "%srank %" PRId32 ": %s", count++ > 0 ? "; " : "", i,
                            s->ranks[i].what);
        }
    }
    return text.text;
}

/* A rank that waits for others is to blame only when nobody is left whom it could wait for. */
static void check_progress(struct hlm_supervisor *s)
{
    const struct hlm_peer *worst = NULL;
    bool all_stand = true, any = false;
    for (int32_t i = 0; i < s->config->num_ranks; i++) {
        const struct hlm_peer *rank = &s->ranks[i];
        if (rank->state == HLM_PEER_ALIVE && s->now_s - rank->beat_s > late_beat_s) {
            return; /* what it does now is not known: silence will be judged first */
        }
        if (rank->state == HLM_PEER_ALIVE) {
            const bool stands = s->now_s - rank->progress_s > s->watchdog_s;
            any = true;
            all_stand = all_stand && stands;
            if (stands && !rank->waiting &&
                (worst == NULL || rank->progress_s < worst->progress_s)) {
                worst = rank;
            }
        }
        all_stand = all_stand && rank->state != HLM_PEER_ABSENT;
    }
    if (worst != NULL) {
        hlm_launch_note(s, HLM_LAUNCH_OTHER, hlm_launch_real_ns(), HLM_FAILED,
                        "%s has made no progress for %.0f s; it is at: %s", rank_name(s, worst),
                        s->now_s - worst->progress_s, worst->what);
    } else if (any && all_stand) {
        hlm_launch_note(s, HLM_LAUNCH_OTHER, hlm_launch_real_ns(), HLM_FAILED,
                        "no rank has made progress for %.0f s, all wait for each other: %s",
                        s->watchdog_s, standing_ranks(s));
    }
}

static void check_start(struct hlm_supervisor *s)
{
    for (int32_t i = 0; i < s->config->num_ranks; i++) {
        if (s->ranks[i].state == HLM_PEER_ABSENT && s->now_s - s->start_s > s->start_limit_s) {
            hlm_launch_note(s, HLM_LAUNCH_OTHER, hlm_launch_real_ns(), HLM_FAILED,
                            "rank %" PRId32 " did not start within %.0f s", i, s->start_limit_s);
            return;
        }
    }
}

bool hlm_launch_all_done(const struct hlm_supervisor *s)
{
    for (int32_t i = 0; i < s->config->num_ranks; i++) {
        if (s->ranks[i].state != HLM_PEER_DONE) {
            return false;
        }
    }
    return true;
}

static void check_end_after_done(struct hlm_supervisor *s)
{
    s->done_s = s->done_s > 0 ? s->done_s : s->now_s;
    if (!s->child.ended && s->now_s - s->done_s > exit_s) {
        hlm_launch_note(s, HLM_LAUNCH_OTHER, hlm_launch_real_ns(), HLM_FAILED,
                        "all ranks were done, but %s did not end within %.0f s", s->child.name,
                        exit_s);
    } else if (s->child.ended && s->child.wait_status != 0) {
        hlm_launch_note(s, HLM_LAUNCH_OTHER, hlm_launch_real_ns(), HLM_FAILED,
                        "all ranks were done, but %s %s%s", s->child.name,
                        hlm_child_end_text(s->arena, s->child.wait_status), last_lines(s, true));
    }
}

/* "; rank 0 on node5 (process 4711) was last seen at: ..." of the first rank that had started. */
static const char *last_seen(const struct hlm_supervisor *s)
{
    for (int32_t i = 0; i < s->config->num_ranks; i++) {
        const struct hlm_peer *rank = &s->ranks[i];
        if (rank->state != HLM_PEER_ABSENT) {
            return hlm_arena_printf(s->arena, "; %s was last seen at: %s", rank_name(s, rank),
                                    rank->what);
        }
    }
    return "";
}

/* The child has ended before the ranks were done. */
static void note_early_end(struct hlm_supervisor *s, bool any_seen)
{
    const int status = s->child.wait_status;
    const char *how = NULL;
    /* mpirun hands on the code of the first rank that failed, also when it does not name it. */
    int exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    const int32_t culprit =
        s->child.is_mpirun ? hlm_child_culprit(&s->child, s->arena, &how, &exit_code) : -1;
    if (culprit >= 0 && culprit < s->config->num_ranks) {
        hlm_launch_note(s, HLM_LAUNCH_GONE, hlm_launch_real_ns(), HLM_FAILED, "rank %" PRId32 " %s",
                        culprit, how);
        s->failure.rank = culprit;
        return;
    }
    hlm_launch_note(s, HLM_LAUNCH_OTHER, hlm_launch_real_ns(),
                    status_of(exit_code, any_seen ? HLM_FAILED : HLM_ENV), "%s %s before %s%s%s",
                    s->child.name, hlm_child_end_text(s->arena, status),
                    any_seen ? "all ranks were done" : "any rank had started", last_seen(s),
                    last_lines(s, true));
}

/* A process of one rank that has ended before it said hello; the others would wait for it. */
static bool note_never_started(struct hlm_supervisor *s)
{
    for (int32_t i = 0; s->config->kind == HLM_LAUNCH_PROCESSES && i < s->config->num_ranks; i++) {
        if (s->child.processes[i].ended && s->ranks[i].state == HLM_PEER_ABSENT) {
            hlm_launch_note(s, HLM_LAUNCH_GONE, hlm_launch_real_ns(), HLM_FAILED,
                            "rank %" PRId32 " ended", i);
            s->failure.rank = i;
            return true;
        }
    }
    return false;
}

/* Everything that the child and its ranks had sent before its end has been read when this is
 * called. */
static void check_child(struct hlm_supervisor *s)
{
    if (hlm_launch_all_done(s)) {
        check_end_after_done(s);
        return;
    }
    if (note_never_started(s)) {
        return;
    }
    bool any_open = false, any_seen = false;
    for (int32_t i = 0; i < s->config->num_ranks; i++) {
        any_open = any_open || s->ranks[i].fd >= 0;
        any_seen = any_seen || s->ranks[i].state != HLM_PEER_ABSENT;
    }
    /* Threads end with the child, which their connections tell; ranks of a dead mpirun may live on.
     */
    if (s->child.ended && (!any_open || s->child.is_mpirun)) {
        note_early_end(s, any_seen);
    }
}

void hlm_launch_check(struct hlm_supervisor *s)
{
    if (s->failure.kind != HLM_LAUNCH_NO_FAILURE) {
        return;
    }
    check_child(s);
    check_start(s);
    for (int32_t i = 0; i < s->config->num_ranks; i++) {
        if (s->ranks[i].state == HLM_PEER_ALIVE) {
            check_silence(s, &s->ranks[i]);
        }
    }
    check_progress(s);
}
