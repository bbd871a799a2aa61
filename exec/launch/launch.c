#include "exec/launch/launch.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "exec/launch/launch_internal.h"

enum { TICK_MS = 100, NUM_OWN_FDS = 3 };

static const double default_watchdog_s = 60, default_silence_s = 3, default_start_s = 60;
/* How long after the first sign of a failure earlier or better explanations may arrive. */
static const double settle_report_s = 0.3, settle_gone_s = 3;
static const double greeting_s = 5; /* a connection that has not said hello by then is closed */

static double clock_s(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- lines from the ranks ---- */

static void close_peer(struct hlm_peer *peer)
{
    if (peer->fd >= 0) {
        close(peer->fd);
        peer->fd = -1;
    }
}

static void on_beat(struct hlm_supervisor *s, struct hlm_peer *rank,
                    const struct hlm_peer_line *line)
{
    if (line->counter != rank->counter) {
        rank->progress_s = s->now_s;
    }
    rank->counter = line->counter;
    rank->waiting = line->waiting;
    snprintf(rank->what, sizeof rank->what, "%s", line->text);
}

static void on_progress(struct hlm_supervisor *s, struct hlm_peer *rank,
                        const struct hlm_peer_line *line)
{
    rank->progress_s = s->now_s;
    if (s->config->on_progress != NULL) {
        s->config->on_progress(s->config->context, rank->rank, line->text);
    }
}

static void on_error(struct hlm_supervisor *s, struct hlm_peer *rank,
                     const struct hlm_peer_line *line)
{
    rank->state = HLM_PEER_REPORTED;
    hlm_launch_note(s, HLM_LAUNCH_REPORT, line->time_ns, line->status,
                    "rank %" PRId32 " on %s, at %s: %s", rank->rank, rank->host, rank->what,
                    line->text);
}

static void on_done(struct hlm_supervisor *s, struct hlm_peer *rank,
                    const struct hlm_peer_line *line)
{
    (void)s;
    (void)line;
    rank->state = HLM_PEER_DONE;
    close_peer(rank);
}

/* A second hello is a rank program's error, seen as the end of its connection. */
static void on_hello(struct hlm_supervisor *s, struct hlm_peer *rank,
                     const struct hlm_peer_line *line)
{
    (void)s;
    (void)line;
    close_peer(rank);
}

static void on_gone(struct hlm_supervisor *s, struct hlm_peer *rank)
{
    close_peer(rank);
    if (rank->state != HLM_PEER_ALIVE) {
        return;
    }
    rank->state = HLM_PEER_GONE;
    const int64_t time_ns = hlm_launch_real_ns();
    if (hlm_launch_is_first(s, HLM_LAUNCH_GONE, time_ns)) {
        hlm_launch_note(s, HLM_LAUNCH_GONE, time_ns, HLM_FAILED, "rank %" PRId32 " ended",
                        rank->rank);
        s->failure.rank = rank->rank;
    }
}

/* False when there was none. */
static bool take_lines(struct hlm_supervisor *s, struct hlm_peer *rank)
{
    static void (*const handlers[HLM_CONTROL_NUM_MESSAGES])(
        struct hlm_supervisor *, struct hlm_peer *, const struct hlm_peer_line *) = {
        [HLM_CONTROL_HELLO] = on_hello,       [HLM_CONTROL_BEAT] = on_beat,
        [HLM_CONTROL_PROGRESS] = on_progress, [HLM_CONTROL_ERROR] = on_error,
        [HLM_CONTROL_DONE] = on_done,
    };
    char storage[HLM_CONTROL_LINE];
    struct hlm_peer_line line;
    int taken = 0, count = 0;
    while (rank->fd >= 0 && (taken = hlm_peer_take(rank, storage, &line)) != 0) {
        count++;
        if (taken < 0) {
            close_peer(rank);
        } else {
            rank->beat_s = s->now_s;
            handlers[line.kind](s, rank, &line);
        }
    }
    return count > 0;
}

static void read_rank(struct hlm_supervisor *s, struct hlm_peer *rank)
{
    bool open = true, more = true;
    while (open && more && rank->fd >= 0) {
        open = hlm_peer_read(rank);
        more = take_lines(s, rank);
    }
    if (!open || rank->fd < 0) {
        on_gone(s, rank);
    }
}

/* ---- connections ---- */

static void accept_all(struct hlm_supervisor *s)
{
    for (int i = 0; i < HLM_LAUNCH_STRANGERS; i++) {
        struct hlm_peer *free_place = NULL;
        for (int k = 0; k < HLM_LAUNCH_STRANGERS && free_place == NULL; k++) {
            free_place = s->strangers[k].fd < 0 ? &s->strangers[k] : NULL;
        }
        const int fd = free_place != NULL
                           ? accept4(s->control.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)
                           : -1;
        if (fd < 0) {
            return;
        }
        *free_place = (struct hlm_peer){.fd = fd, .rank = -1, .connected_s = s->now_s};
    }
}

/* The stranger becomes the rank that it says it is, if it knows the word and the place is free. */
static void greet(struct hlm_supervisor *s, struct hlm_peer *stranger,
                  const struct hlm_peer_line *line)
{
    const bool valid =
        line->kind == HLM_CONTROL_HELLO && strcmp(line->word, s->control.word) == 0 &&
        line->rank < s->config->num_ranks && s->ranks[line->rank].state == HLM_PEER_ABSENT;
    const size_t length = strlen(HLM_CONTROL_WELCOME);
    if (!valid ||
        send(stranger->fd, HLM_CONTROL_WELCOME, length, MSG_NOSIGNAL) != (ssize_t)length) {
        close_peer(stranger);
        return;
    }
    struct hlm_peer *rank = &s->ranks[line->rank];
    *rank = *stranger;
    rank->state = HLM_PEER_ALIVE;
    rank->rank = line->rank;
    rank->pid = line->pid;
    rank->beat_s = rank->progress_s = s->now_s;
    snprintf(rank->host, sizeof rank->host, "%s", line->text);
    snprintf(rank->what, sizeof rank->what, "starting");
    stranger->fd = -1;
}

static void read_stranger(struct hlm_supervisor *s, struct hlm_peer *stranger)
{
    char storage[HLM_CONTROL_LINE];
    struct hlm_peer_line line;
    const bool open = hlm_peer_read(stranger);
    const int taken = hlm_peer_take(stranger, storage, &line);
    if (taken > 0) {
        greet(s, stranger, &line);
    } else if (taken < 0 || !open || s->now_s - stranger->connected_s > greeting_s) {
        close_peer(stranger);
    }
}

static void on_signal(struct hlm_supervisor *s)
{
    struct signalfd_siginfo info;
    while (read(s->signals, &info, sizeof info) == sizeof info) {
        const int number = (int)info.ssi_signo;
        /* time 0: nothing that follows from stopping may take its place */
        hlm_launch_note(s, HLM_LAUNCH_OTHER, 0, HLM_FAILED,
                        "interrupted by %s: all ranks were stopped",
                        number == SIGINT ? "Ctrl-C (SIGINT)" : strsignal(number));
    }
}

/* ---- the loop ---- */

/* Time in which this process itself did not run (Ctrl-Z, a suspended machine) is nobody's silence.
 */
static void forgive(struct hlm_supervisor *s, double lost_s)
{
    for (int32_t i = 0; i < s->config->num_ranks; i++) {
        s->ranks[i].beat_s += lost_s;
        s->ranks[i].progress_s += lost_s;
    }
    s->start_s += lost_s;
}

static void advance_clock(struct hlm_supervisor *s)
{
    const double now_s = clock_s(CLOCK_MONOTONIC), gap_s = now_s - s->now_s;
    if (gap_s > 1) {
        forgive(s, gap_s);
    }
    s->now_s = now_s;
}

static size_t fill_fds(const struct hlm_supervisor *s, struct pollfd *fds, struct hlm_peer **peers)
{
    fds[0] = (struct pollfd){.fd = s->signals, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = s->control.listener, .events = POLLIN};
    fds[2] = (struct pollfd){.fd = s->child.output, .events = POLLIN};
    size_t count = NUM_OWN_FDS;
    for (int32_t i = 0; i < s->config->num_ranks; i++) {
        peers[count] = &s->ranks[i];
        fds[count++] = (struct pollfd){.fd = s->ranks[i].fd, .events = POLLIN};
    }
    for (int i = 0; i < HLM_LAUNCH_STRANGERS; i++) {
        peers[count] = &s->strangers[i];
        fds[count++] = (struct pollfd){.fd = s->strangers[i].fd, .events = POLLIN};
    }
    return count;
}

static void turn(struct hlm_supervisor *s, struct pollfd *fds, struct hlm_peer **peers)
{
    /* Before the connections are looked at, so that all that came before the child's end is read by
     * the time that its end is judged. */
    hlm_child_reap(&s->child);
    const size_t count = fill_fds(s, fds, peers);
    if (poll(fds, count, TICK_MS) < 0) {
        for (size_t i = 0; i < count; i++) {
            fds[i].revents = 0;
        }
    }
    advance_clock(s);
    if (fds[0].revents != 0) {
        on_signal(s);
    }
    hlm_child_read(&s->child);
    for (size_t i = NUM_OWN_FDS; i < count; i++) {
        struct hlm_peer *peer = peers[i];
        const bool stranger = i >= NUM_OWN_FDS + (size_t)s->config->num_ranks;
        if (peer->fd >= 0 && (stranger || fds[i].revents != 0) && fds[i].fd == peer->fd) {
            (stranger ? read_stranger : read_rank)(s, peer);
        }
    }
    if (fds[1].revents != 0) {
        accept_all(s);
    }
    hlm_launch_check(s);
}

/* Whether nothing more can change the verdict. */
static bool is_settled(const struct hlm_supervisor *s)
{
    switch (s->failure.kind) {
    case HLM_LAUNCH_NO_FAILURE:
        return s->child.ended && s->child.output < 0 && hlm_launch_all_done(s);
    case HLM_LAUNCH_REPORT:
        return s->now_s - s->failure.noticed_s > settle_report_s;
    case HLM_LAUNCH_GONE:
        return (s->child.ended && s->child.output < 0) ||
               s->now_s - s->failure.noticed_s > settle_gone_s;
    case HLM_LAUNCH_OTHER:
        return true;
    }
    return true;
}

static void watch(struct hlm_supervisor *s)
{
    const size_t count = NUM_OWN_FDS + (size_t)s->config->num_ranks + HLM_LAUNCH_STRANGERS;
    struct pollfd *fds = HLM_ARENA_ARRAY(s->arena, struct pollfd, count);
    struct hlm_peer **peers = HLM_ARENA_ARRAY(s->arena, struct hlm_peer *, count);
    s->now_s = s->start_s = clock_s(CLOCK_MONOTONIC);
    do {
        turn(s, fds, peers);
    } while (!is_settled(s));
}

/* The connections are closed first: a rank that still runs leaves by itself. */
static void stop_all(struct hlm_supervisor *s)
{
    for (int32_t i = 0; i < s->config->num_ranks; i++) {
        close_peer(&s->ranks[i]);
    }
    for (int i = 0; i < HLM_LAUNCH_STRANGERS; i++) {
        close_peer(&s->strangers[i]);
    }
    hlm_child_stop(&s->child);
}

static enum hlm_status supervise(struct hlm_supervisor *s, const struct hlm_launch_hosts *hosts,
                                 const sigset_t *mask, struct hlm_err *err)
{
    HLM_TRY(hlm_child_start(&s->child, s->arena, s->config, &s->control, hosts, mask, err));
    watch(s);
    if (s->failure.kind == HLM_LAUNCH_GONE) {
        hlm_launch_explain_gone(s);
    }
    stop_all(s);
    if (s->failure.kind != HLM_LAUNCH_NO_FAILURE) {
        *err = s->failure.err;
        return err->status;
    }
    return HLM_OK;
}

/* ---- what the process lends to the run ---- */

/* Signals arrive on a descriptor, and processes whose mpirun dies become our children. */
struct loan {
    sigset_t mask;
    struct sigaction child_action;
    int subreaper, signals;
};

static enum hlm_status loan_take(struct loan *loan, struct hlm_err *err)
{
    sigset_t taken;
    sigemptyset(&taken);
    sigaddset(&taken, SIGINT);
    sigaddset(&taken, SIGTERM);
    sigaddset(&taken, SIGHUP);
    loan->signals = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
    if (loan->signals < 0) {
        return hlm_fail(err, HLM_ENV, "cannot watch for signals: %s", strerror(errno));
    }
    pthread_sigmask(SIG_BLOCK, &taken, &loan->mask);
    /* Ignored, it would make the kernel drop exit codes. */
    const struct sigaction standard = {.sa_handler = SIG_DFL};
    sigaction(SIGCHLD, &standard, &loan->child_action);
    prctl(PR_GET_CHILD_SUBREAPER, &loan->subreaper);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    return HLM_OK;
}

static void loan_return(const struct loan *loan)
{
    prctl(PR_SET_CHILD_SUBREAPER, loan->subreaper);
    sigaction(SIGCHLD, &loan->child_action, NULL);
    pthread_sigmask(SIG_SETMASK, &loan->mask, NULL);
    close(loan->signals);
}

static double or_default(double value, double standard)
{
    return value > 0 ? value : standard;
}

static void supervisor_init(struct hlm_supervisor *s, const struct hlm_launch_config *config,
                            struct hlm_arena *arena)
{
    *s = (struct hlm_supervisor){
        .config = config,
        .arena = arena,
        .watchdog_s = or_default(config->watchdog_s, default_watchdog_s),
        .silence_s = or_default(config->silence_s, default_silence_s),
        .start_limit_s = or_default(config->start_s, default_start_s),
        .ranks = HLM_ARENA_ARRAY(arena, struct hlm_peer, config->num_ranks),
        .strangers = HLM_ARENA_ARRAY(arena, struct hlm_peer, HLM_LAUNCH_STRANGERS),
    };
    for (int32_t i = 0; i < config->num_ranks; i++) {
        s->ranks[i] = (struct hlm_peer){.fd = -1, .rank = i};
    }
    for (int i = 0; i < HLM_LAUNCH_STRANGERS; i++) {
        s->strangers[i] = (struct hlm_peer){.fd = -1, .rank = -1};
    }
}

static enum hlm_status launch_in(struct hlm_arena *arena, const struct hlm_launch_config *config,
                                 struct hlm_err *err)
{
    struct hlm_launch_hosts hosts = {0};
    const bool has_hosts = config->hosts != NULL;
    if (has_hosts && config->kind != HLM_LAUNCH_MPI) {
        return hlm_fail(err, HLM_USAGE, "--hosts needs ranks as processes under MPI");
    }
    if (has_hosts) {
        HLM_TRY(hlm_launch_hosts_parse(&hosts, arena, config->hosts, config->num_ranks, err));
    }
    struct hlm_supervisor *s = HLM_ARENA_NEW(arena, struct hlm_supervisor);
    supervisor_init(s, config, arena);
    struct loan loan;
    HLM_TRY(loan_take(&loan, err));
    s->signals = loan.signals;
    enum hlm_status status =
        hlm_control_init(&s->control, arena, config->kind == HLM_LAUNCH_MPI, hosts.remote, err);
    if (status == HLM_OK) {
        status = supervise(s, has_hosts ? &hosts : NULL, &loan.mask, err);
        hlm_control_release(&s->control);
    }
    loan_return(&loan);
    return status;
}

enum hlm_status hlm_launch_run(const struct hlm_launch_config *config, struct hlm_err *err)
{
    HLM_ASSERT(config->num_ranks > 0);
    struct hlm_arena *arena = hlm_arena_new();
    const enum hlm_status status = launch_in(arena, config, err);
    hlm_arena_free(arena);
    return status;
}
