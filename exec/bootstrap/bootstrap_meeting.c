/* How the ranks of a star come together: the others connect to rank 0 and say who they are; when
 * all are there, rank 0 welcomes them. */
#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "exec/bootstrap/bootstrap_star.h"
#include "exec/launch/launch_meeting.h"

enum { FIRST_PAUSE_MS = 20, LAST_PAUSE_MS = 500, CONNECT_MS = 2000 };
static const size_t max_hello = 4096; /* other versions may have a longer one */
static const double greeting_s = 5;   /* a connection that has not said hello by then is closed */

/* ---- at rank 0 ---- */

/* Frames are small and each is waited for: none shall wait for the one after it. */
static void send_at_once(int fd)
{
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void accept_strangers(struct hlm_star *self)
{
    for (int i = 0; i < HLM_STAR_STRANGERS; i++) {
        struct hlm_star_peer *stranger = &self->strangers[i];
        if (stranger->fd >= 0) {
            continue;
        }
        stranger->fd = accept4(self->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        stranger->since_s = hlm_frame_clock_s();
        if (stranger->fd < 0) {
            return;
        }
        send_at_once(stranger->fd);
    }
}

/* A rank has said hello: it takes its place, or the run fails with what is wrong with it. */
static enum hlm_status admit(struct hlm_star *self, struct hlm_star_peer *stranger,
                             struct hlm_err *err)
{
    struct hlm_hello hello = {0};
    const struct hlm_frame *frame = &stranger->frame;
    memcpy(&hello, frame->data, frame->bytes < sizeof hello ? frame->bytes : sizeof hello);
    if (hello.version != HLM_BOOTSTRAP_VERSION || frame->bytes != sizeof hello) {
        return hlm_fail(err, HLM_ENV,
                        "a rank is of another version of hlmplan than rank 0 on %s (it speaks "
                        "version %" PRId32 " of the meeting, here %d)",
                        self->hello.host, hello.version, HLM_BOOTSTRAP_VERSION);
    }
    hello.plan[sizeof hello.plan - 1] = hello.settings[sizeof hello.settings - 1] = '\0';
    hello.host[sizeof hello.host - 1] = '\0';
    hello.run[sizeof hello.run - 1] = '\0';
    if (strcmp(hello.run, self->hello.run) != 0) {
        hlm_star_close(stranger); /* a rank of another run, which does not concern this one */
        return HLM_OK;
    }
    HLM_TRY(hlm_hello_check(&self->hello, &hello, err));
    const bool is_first = hello.rank == 0;
    const struct hlm_hello *earlier = is_first ? &self->hello : &self->peers[hello.rank].hello;
    if (is_first || self->peers[hello.rank].fd >= 0) {
        return hlm_fail(err, HLM_FAILED,
                        "rank %" PRId32 " is there twice: on %s (process %" PRId32
                        ") and on %s (process %" PRId32 ")",
                        hello.rank, earlier->host, earlier->process, hello.host, hello.process);
    }
    self->peers[hello.rank] = (struct hlm_star_peer){.fd = stranger->fd, .hello = hello};
    stranger->fd = -1;
    hlm_star_close(stranger);
    return HLM_OK;
}

static enum hlm_status read_strangers(struct hlm_star *self, struct hlm_err *err)
{
    for (int i = 0; i < HLM_STAR_STRANGERS; i++) {
        struct hlm_star_peer *stranger = &self->strangers[i];
        if (stranger->fd < 0) {
            continue;
        }
        const enum hlm_frame_state state =
            hlm_frame_read(stranger->fd, &stranger->frame, max_hello);
        if (state == HLM_FRAME_WHOLE && stranger->frame.kind == HLM_FRAME_HELLO) {
            HLM_TRY(admit(self, stranger, err));
        } else if (state != HLM_FRAME_PARTIAL ||
                   hlm_frame_clock_s() - stranger->since_s > greeting_s) {
            hlm_star_close(stranger);
        }
    }
    return HLM_OK;
}

/* Those that have come say nothing until all are there, unless they fail. */
static enum hlm_status watch_early(struct hlm_star *self, int32_t *missing, struct hlm_err *err)
{
    *missing = 0;
    for (int32_t rank = 1; rank < self->base.world_size; rank++) {
        struct hlm_star_peer *peer = &self->peers[rank];
        if (peer->fd < 0) {
            (*missing)++;
            continue;
        }
        switch (hlm_frame_read(peer->fd, &peer->frame, max_hello)) {
        case HLM_FRAME_PARTIAL:
            break;
        case HLM_FRAME_WHOLE:
            return hlm_frame_failure(&peer->frame, err);
        case HLM_FRAME_BROKEN:
            return hlm_fail(err, HLM_FAILED,
                            "rank %" PRId32 " on %s (process %" PRId32
                            ") left before all ranks had come",
                            rank, peer->hello.host, peer->hello.process);
        }
    }
    return HLM_OK;
}

static void poll_meeting(struct hlm_star *self, double deadline_s)
{
    int32_t count = 0;
    self->polls[count++] = (struct pollfd){.fd = self->listener, .events = POLLIN};
    for (int32_t rank = 1; rank < self->base.world_size; rank++) {
        self->polls[count++] = (struct pollfd){.fd = self->peers[rank].fd, .events = POLLIN};
    }
    for (int i = 0; i < HLM_STAR_STRANGERS; i++) {
        self->polls[count++] = (struct pollfd){.fd = self->strangers[i].fd, .events = POLLIN};
    }
    poll(self->polls, (nfds_t)count, hlm_frame_wait_ms(deadline_s));
}

static bool is_absent(const struct hlm_star_peer *peer)
{
    return peer->fd < 0;
}

static enum hlm_status gather_ranks(struct hlm_star *self, struct hlm_err *err)
{
    const double deadline_s = hlm_frame_clock_s() + self->timeout_s;
    int32_t missing = self->base.world_size - 1;
    while (missing > 0) {
        if (hlm_frame_clock_s() > deadline_s) {
            char names[200] = "";
            hlm_star_name(self, is_absent, names, sizeof names);
            return hlm_fail(err, HLM_FAILED,
                            "rank%s %s of %" PRId32 " did not come to rank 0 at %s within %g s",
                            missing > 1 ? "s" : "", names, self->base.world_size, self->place,
                            self->timeout_s);
        }
        poll_meeting(self, deadline_s);
        accept_strangers(self);
        HLM_TRY(read_strangers(self, err));
        HLM_TRY(watch_early(self, &missing, err));
    }
    return HLM_OK;
}

static enum hlm_status welcome_all(struct hlm_star *self, struct hlm_err *err)
{
    const double deadline_s = hlm_frame_clock_s() + self->timeout_s;
    for (int32_t rank = 1; rank < self->base.world_size; rank++) {
        struct hlm_star_peer *peer = &self->peers[rank];
        if (!hlm_frame_send(peer->fd, HLM_FRAME_WELCOME, NULL, 0, deadline_s)) {
            return hlm_fail(err, HLM_FAILED, "rank %" PRId32 " on %s left before it was welcomed",
                            rank, peer->hello.host);
        }
    }
    return HLM_OK;
}

static enum hlm_status meet_others(struct hlm_star *self, const struct hlm_meeting *meeting,
                                   struct hlm_err *err)
{
    if (self->base.world_size == 1) {
        return HLM_OK;
    }
    self->listener = meeting->listener;
    if (self->listener < 0 &&
        hlm_meeting_listen(meeting->address, meeting->port, &self->listener, err) != HLM_OK) {
        hlm_err_prefix(err, "rank 0 cannot listen for the other ranks");
        return err->status;
    }
    enum hlm_status status = gather_ranks(self, err);
    if (status == HLM_OK) {
        status = welcome_all(self, err);
    }
    if (status != HLM_OK) {
        hlm_star_tell_all(self, err);
        return status;
    }
    for (int i = 0; i < HLM_STAR_STRANGERS; i++) {
        hlm_star_close(&self->strangers[i]);
    }
    close(self->listener);
    self->listener = -1;
    return HLM_OK;
}

/* ---- the way to rank 0 ---- */

/* -1, errno set, where nobody answers. */
static int connect_to(const struct addrinfo *address)
{
    const int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int failure = 0;
    if (fd < 0) {
        return -1;
    }
    if (connect(fd, address->ai_addr, address->ai_addrlen) != 0) {
        failure = errno;
        if (failure == EINPROGRESS) {
            struct pollfd writable = {.fd = fd, .events = POLLOUT};
            socklen_t size = sizeof failure;
            failure = ETIMEDOUT;
            if (poll(&writable, 1, CONNECT_MS) == 1) {
                getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &size);
            }
        }
    }
    if (failure != 0) {
        close(fd);
        errno = failure;
        return -1;
    }
    return fd;
}

/* Tries all addresses of the name; -1 and *why where none answers. */
static int try_addresses(const struct hlm_meeting *meeting, const char **why)
{
    char port[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    int fd = -1;
    snprintf(port, sizeof port, "%" PRId32, meeting->port);
    const int unknown = getaddrinfo(meeting->address, port, &hints, &list);
    if (unknown != 0) {
        *why = gai_strerror(unknown);
        return -1;
    }
    for (const struct addrinfo *i = list; i != NULL && fd < 0; i = i->ai_next) {
        fd = connect_to(i);
        *why = fd < 0 ? strerror(errno) : NULL;
    }
    freeaddrinfo(list);
    return fd;
}

/* Rank 0 may not have started yet. */
static enum hlm_status reach_first(struct hlm_star *self, const struct hlm_meeting *meeting,
                                   struct hlm_err *err)
{
    const double deadline_s = hlm_frame_clock_s() + self->timeout_s;
    const char *why = NULL;
    int pause_ms = FIRST_PAUSE_MS;
    for (;;) {
        self->peers[0].fd = try_addresses(meeting, &why);
        if (self->peers[0].fd >= 0) {
            send_at_once(self->peers[0].fd);
            return HLM_OK;
        }
        if (hlm_frame_clock_s() > deadline_s) {
            return hlm_fail(err, HLM_FAILED,
                            "rank %" PRId32 " could not reach rank 0 at %s within %g s: %s",
                            self->base.rank, self->place, self->timeout_s, why);
        }
        poll(NULL, 0, pause_ms);
        pause_ms = 2 * pause_ms < LAST_PAUSE_MS ? 2 * pause_ms : LAST_PAUSE_MS;
    }
}

static enum hlm_status await_welcome(struct hlm_star *self, struct hlm_err *err)
{
    struct hlm_star_peer *first = &self->peers[0];
    const double timeout_s = self->timeout_s + HLM_STAR_MARGIN_S;
    const double deadline_s = hlm_frame_clock_s() + timeout_s;
    enum hlm_frame_state state = HLM_FRAME_PARTIAL;
    while (state == HLM_FRAME_PARTIAL) {
        struct pollfd readable = {.fd = first->fd, .events = POLLIN};
        const int wait_ms = hlm_frame_wait_ms(deadline_s);
        if (wait_ms == 0) {
            return hlm_fail(err, HLM_FAILED,
                            "rank %" PRId32 " was not welcomed by rank 0 at %s "
                            "within %g s",
                            self->base.rank, self->place, timeout_s);
        }
        poll(&readable, 1, wait_ms);
        state = hlm_frame_read(first->fd, &first->frame, max_hello);
    }
    if (state == HLM_FRAME_BROKEN) {
        return hlm_fail(err, HLM_FAILED,
                        first->frame.got == 0
                            ? "what answers at %s closed the connection to rank %" PRId32
                              ": rank 0 left, or it is no rank of this run"
                            : "what answers at %s to rank %" PRId32 " is no rank of this run",
                        self->place, self->base.rank);
    }
    if (first->frame.kind == HLM_FRAME_FAILURE) {
        return hlm_frame_failure(&first->frame, err);
    }
    hlm_frame_release(&first->frame);
    return HLM_OK;
}

static enum hlm_status meet_first(struct hlm_star *self, const struct hlm_meeting *meeting,
                                  struct hlm_err *err)
{
    HLM_TRY(reach_first(self, meeting, err));
    const double deadline_s = hlm_frame_clock_s() + self->timeout_s;
    (void)hlm_frame_send(self->peers[0].fd, HLM_FRAME_HELLO, &self->hello, sizeof self->hello,
                         deadline_s); /* where it has left, the next read tells */
    return await_welcome(self, err);
}

enum hlm_status hlm_star_meet(struct hlm_star *self, const struct hlm_meeting *meeting,
                              struct hlm_err *err)
{
    return self->base.rank == 0 ? meet_others(self, meeting, err) : meet_first(self, meeting, err);
}
