/* The star over TCP: rank 0 holds a connection to each other rank, each other rank one to rank 0.
 */
#include "exec/bootstrap/bootstrap_star.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const size_t max_frame = (size_t)1 << 30;
static const double last_words_s = 1; /* for telling others of a failure */

static struct hlm_star *of(struct hlm_bootstrap *bootstrap)
{
    return (struct hlm_star *)bootstrap;
}

int32_t hlm_star_num_peers(const struct hlm_star *self)
{
    return self->base.rank == 0 ? self->base.world_size : 1;
}

void hlm_star_close(struct hlm_star_peer *peer)
{
    hlm_frame_release(&peer->frame);
    if (peer->fd >= 0) {
        close(peer->fd);
        peer->fd = -1;
    }
}

/* ---- failures ---- */

/* All connections of the star; calls with each. */
static void for_each_open(struct hlm_star *self,
                          void (*act)(struct hlm_star_peer *peer, const void *context),
                          const void *context)
{
    for (int32_t i = 0; i < hlm_star_num_peers(self); i++) {
        if (self->peers[i].fd >= 0) {
            act(&self->peers[i], context);
        }
    }
    for (int i = 0; i < HLM_STAR_STRANGERS; i++) {
        if (self->strangers[i].fd >= 0) {
            act(&self->strangers[i], context);
        }
    }
}

static void say_failure(struct hlm_star_peer *peer, const void *failure)
{
    (void)hlm_frame_send_failure(peer->fd, failure, hlm_frame_clock_s() + last_words_s);
    shutdown(peer->fd, SHUT_WR);
}

/* A connection that is closed with something unread is reset, and the other side may lose what it
 * has not read either: our last words. */
static void drain(struct hlm_star_peer *peer, const void *deadline_s)
{
    char bytes[4096];
    for (;;) {
        struct pollfd readable = {.fd = peer->fd, .events = POLLIN};
        const int wait_ms = hlm_frame_wait_ms(*(const double *)deadline_s);
        if (poll(&readable, 1, wait_ms) != 1 || recv(peer->fd, bytes, sizeof bytes, 0) <= 0) {
            return;
        }
    }
}

void hlm_star_tell_all(struct hlm_star *self, const struct hlm_err *failure)
{
    const double deadline_s = hlm_frame_clock_s() + last_words_s;
    for_each_open(self, say_failure, failure);
    for_each_open(self, drain, &deadline_s);
}

/* Others are told by rank 0 alone; it tells them what it has heard. */
static enum hlm_status pass_on(struct hlm_star *self, struct hlm_err *err)
{
    if (self->base.rank == 0) {
        hlm_star_tell_all(self, err);
    }
    return err->status;
}

static enum hlm_status fail_left(struct hlm_star *self, const struct hlm_star_peer *peer,
                                 const char *before, struct hlm_err *err)
{
    if (self->base.rank == 0) {
        (void)hlm_fail(err, HLM_FAILED,
                       "rank %" PRId32 " on %s (process %" PRId32 ") left before %s",
                       peer->hello.rank, peer->hello.host, peer->hello.process, before);
        return pass_on(self, err);
    }
    return hlm_fail(err, HLM_FAILED, "rank 0 at %s left before %s", self->place, before);
}

void hlm_star_name(const struct hlm_star *self, bool (*is_one)(const struct hlm_star_peer *peer),
                   char *text, size_t size)
{
    size_t used = 0;
    int32_t count = 0;
    for (int32_t first = 1; first < self->base.world_size; first++) {
        int32_t last = first;
        if (!is_one(&self->peers[first])) {
            continue;
        }
        while (last + 1 < self->base.world_size && is_one(&self->peers[last + 1])) {
            last++;
        }
        const int written =
            first == last
                ? snprintf(text + used, size - used, "%s%" PRId32, count > 0 ? ", " : "", first)
                : snprintf(text + used, size - used, "%s%" PRId32 "-%" PRId32,
                           count > 0 ? ", " : "", first, last);
        used = used + (size_t)written < size - 1 ? used + (size_t)written : size - 1;
        count++;
        first = last;
    }
}

static bool is_silent(const struct hlm_star_peer *peer)
{
    return peer->frame.got < sizeof peer->frame.head ||
           peer->frame.got - sizeof peer->frame.head < peer->frame.bytes;
}

/* ---- traffic after the meeting ---- */

/* The frame of one peer has come: is it the data that is expected? */
static enum hlm_status check_frame(struct hlm_star *self, struct hlm_star_peer *peer, int64_t bytes,
                                   struct hlm_err *err)
{
    const struct hlm_frame *frame = &peer->frame;
    if (frame->kind == HLM_FRAME_FAILURE) {
        (void)hlm_frame_failure(frame, err);
        return pass_on(self, err);
    }
    if (frame->kind != HLM_FRAME_DATA || (int64_t)frame->bytes != bytes) {
        (void)hlm_fail(err, HLM_FAILED,
                       "rank %" PRId32 " got a frame of kind %d and %zu bytes from rank %" PRId32
                       "; expected data of %" PRId64,
                       self->base.rank, (int)frame->kind, frame->bytes, peer->hello.rank, bytes);
        return pass_on(self, err);
    }
    return HLM_OK;
}

/* Reads on from peers [first, end) that have not sent all; *open: how many are left. */
static enum hlm_status read_peers(struct hlm_star *self, int32_t first, int32_t end, int64_t bytes,
                                  double deadline_s, int32_t *open, struct hlm_err *err)
{
    int32_t count = 0;
    for (int32_t i = first; i < end; i++) {
        if (is_silent(&self->peers[i])) {
            self->polls[count++] = (struct pollfd){.fd = self->peers[i].fd, .events = POLLIN};
        }
    }
    poll(self->polls, (nfds_t)count, hlm_frame_wait_ms(deadline_s));
    *open = 0;
    for (int32_t i = first; i < end; i++) {
        struct hlm_star_peer *peer = &self->peers[i];
        if (!is_silent(peer)) {
            continue;
        }
        switch (hlm_frame_read(peer->fd, &peer->frame, max_frame)) {
        case HLM_FRAME_PARTIAL:
            (*open)++;
            break;
        case HLM_FRAME_WHOLE:
            HLM_TRY(check_frame(self, peer, bytes, err));
            break;
        case HLM_FRAME_BROKEN:
            return fail_left(self, peer, "the ranks had agreed on how to run", err);
        }
    }
    return HLM_OK;
}

/* Frames of all peers [first, end), complete. */
static enum hlm_status await_peers(struct hlm_star *self, int32_t first, int32_t end, int64_t bytes,
                                   double timeout_s, struct hlm_err *err)
{
    const double deadline_s = hlm_frame_clock_s() + timeout_s;
    int32_t open = end - first;
    while (open > 0) {
        HLM_TRY(read_peers(self, first, end, bytes, deadline_s, &open, err));
        if (open > 0 && hlm_frame_clock_s() > deadline_s) {
            char missing[200] = "0";
            if (self->base.rank == 0) {
                hlm_star_name(self, is_silent, missing, sizeof missing);
            }
            (void)hlm_fail(err, HLM_FAILED,
                           "rank %" PRId32 " has waited %g s for a word from rank %s",
                           self->base.rank, timeout_s, missing);
            return pass_on(self, err);
        }
    }
    return HLM_OK;
}

static enum hlm_status star_gather(struct hlm_bootstrap *bootstrap, const void *in, int64_t bytes,
                                   void *all, struct hlm_err *err)
{
    struct hlm_star *self = of(bootstrap);
    if (bootstrap->rank != 0) {
        const double deadline_s = hlm_frame_clock_s() + self->timeout_s;
        /* Where this fails, rank 0 may still have said why. */
        (void)hlm_frame_send(self->peers[0].fd, HLM_FRAME_DATA, in, (size_t)bytes, deadline_s);
        return HLM_OK;
    }
    HLM_TRY(await_peers(self, 1, bootstrap->world_size, bytes, self->timeout_s, err));
    memcpy(all, in, (size_t)bytes);
    for (int32_t rank = 1; rank < bootstrap->world_size; rank++) {
        memcpy((unsigned char *)all + rank * bytes, self->peers[rank].frame.data, (size_t)bytes);
        hlm_frame_release(&self->peers[rank].frame);
    }
    return HLM_OK;
}

static enum hlm_status star_broadcast(struct hlm_bootstrap *bootstrap, void *data, int64_t bytes,
                                      struct hlm_err *err)
{
    struct hlm_star *self = of(bootstrap);
    if (bootstrap->rank != 0) {
        HLM_TRY(await_peers(self, 0, 1, bytes, self->timeout_s + HLM_STAR_MARGIN_S, err));
        memcpy(data, self->peers[0].frame.data, (size_t)bytes);
        hlm_frame_release(&self->peers[0].frame);
        return HLM_OK;
    }
    const double deadline_s = hlm_frame_clock_s() + self->timeout_s;
    for (int32_t rank = 1; rank < bootstrap->world_size; rank++) {
        struct hlm_star_peer *peer = &self->peers[rank];
        if (!hlm_frame_send(peer->fd, HLM_FRAME_DATA, data, (size_t)bytes, deadline_s)) {
            return fail_left(self, peer, "the ranks had agreed on how to run", err);
        }
    }
    return HLM_OK;
}

static void star_abort(struct hlm_bootstrap *bootstrap, const struct hlm_err *failure)
{
    struct hlm_star *self = of(bootstrap);
    struct hlm_err named = *failure;
    hlm_err_prefix(&named, "rank %" PRId32 " on %s", self->hello.rank, self->hello.host);
    hlm_star_tell_all(self, &named);
}

static void star_release(struct hlm_bootstrap *bootstrap)
{
    struct hlm_star *self = of(bootstrap);
    for (int32_t i = 0; self->peers != NULL && i < hlm_star_num_peers(self); i++) {
        hlm_star_close(&self->peers[i]);
    }
    for (int i = 0; self->strangers != NULL && i < HLM_STAR_STRANGERS; i++) {
        hlm_star_close(&self->strangers[i]);
    }
    if (self->listener >= 0) {
        close(self->listener);
    }
    free(self->peers);
    free(self->strangers);
    free(self->polls);
    free(self);
}

static const struct hlm_bootstrap_ops star_ops = {.release = star_release,
                                                  .abort = star_abort,
                                                  .gather = star_gather,
                                                  .broadcast = star_broadcast};

/* ---- life ---- */

static struct hlm_star *star_new(const struct hlm_bootstrap_config *config,
                                 const struct hlm_meeting *meeting)
{
    struct hlm_star *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return NULL;
    }
    self->base = (struct hlm_bootstrap){&star_ops, config->rank, config->world_size};
    self->hello = hlm_hello_of(config);
    snprintf(self->hello.run, sizeof self->hello.run, "%s", meeting->run);
    self->timeout_s = config->timeout_s;
    self->listener = -1;
    snprintf(self->place, sizeof self->place, "%s port %" PRId32, meeting->address, meeting->port);
    self->peers = calloc((size_t)hlm_star_num_peers(self), sizeof *self->peers);
    self->strangers = calloc(HLM_STAR_STRANGERS, sizeof *self->strangers);
    self->polls =
        calloc((size_t)hlm_star_num_peers(self) + HLM_STAR_STRANGERS + 1, sizeof *self->polls);
    if (self->peers == NULL || self->strangers == NULL || self->polls == NULL) {
        free(self->peers);
        free(self->strangers);
        free(self->polls);
        free(self);
        return NULL;
    }
    for (int32_t i = 0; i < hlm_star_num_peers(self); i++) {
        self->peers[i].fd = -1;
    }
    for (int i = 0; i < HLM_STAR_STRANGERS; i++) {
        self->strangers[i].fd = -1;
    }
    return self;
}

enum hlm_status hlm_bootstrap_tcp_new(const struct hlm_bootstrap_config *config,
                                      const struct hlm_meeting *meeting, struct hlm_bootstrap **out,
                                      struct hlm_err *err)
{
    struct hlm_star *self = star_new(config, meeting);
    if (self == NULL) {
        return hlm_fail(err, HLM_FAILED, "out of memory for the meeting of the ranks");
    }
    const enum hlm_status status = hlm_star_meet(self, meeting, err);
    if (status != HLM_OK) {
        star_release(&self->base);
        return status;
    }
    *out = &self->base;
    return HLM_OK;
}
