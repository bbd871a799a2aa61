/* Messages of the queue transport. */
#include <inttypes.h>
#include <stdlib.h>

#include "exec/comm/comm_queue_internal.h"

enum request_state {
    REQUEST_ALONE,   /* the other side has not posted, or has left */
    REQUEST_COPYING, /* both are there, one is putting the copy on its queue */
    REQUEST_READY,   /* the copy is on the copier's queue, in front of its `done` */
    REQUEST_MISFIT   /* the sides disagree about the size */
};

/* The side that posts second copies. Its request is held until the other side has put its queue
 * behind `done`, even where its own wait came first. */
struct hlm_request {
    enum request_state state;
    bool is_send, copies;
    bool waited, held; /* by the owner; for the partner */
    int32_t owner, peer, channel;
    unsigned char *data;
    int64_t bytes;
    struct hlm_event *ready; /* the owner's queue has come to the message */
    struct hlm_event *done;  /* of the copier: the copy has run */
    struct hlm_request *partner;
    struct hlm_request *next;     /* among posted or unused ones */
    struct hlm_request *next_all; /* of the owner's */
};

static struct hlm_queue_comm *of(struct hlm_comm *comm)
{
    return (struct hlm_queue_comm *)comm;
}

/* --- requests --- */

static enum hlm_status make_request(struct hlm_queue_comm *self, struct hlm_request **out,
                                    struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = self->backend->ops;
    struct hlm_request *request = calloc(1, sizeof *request);
    if (request == NULL) {
        return hlm_fail(err, HLM_FAILED, "out of memory for a message");
    }
    pthread_mutex_lock(&self->shared->crew.lock);
    request->next_all = self->shared->members[self->base.rank].all;
    self->shared->members[self->base.rank].all = request;
    pthread_mutex_unlock(&self->shared->crew.lock);
    HLM_TRY(ops->event_new(self->backend, &request->ready, err));
    HLM_TRY(ops->event_new(self->backend, &request->done, err));
    *out = request;
    return HLM_OK;
}

static enum hlm_status take_request(struct hlm_queue_comm *self, struct hlm_request **out,
                                    struct hlm_err *err)
{
    struct hlm_queue_member *own = &self->shared->members[self->base.rank];
    pthread_mutex_lock(&self->shared->crew.lock);
    struct hlm_request *request = own->unused;
    if (request != NULL) {
        own->unused = request->next;
    }
    pthread_mutex_unlock(&self->shared->crew.lock);
    if (request == NULL) {
        return make_request(self, out, err);
    }
    *out = request;
    return HLM_OK;
}

/* Back to its owner when nobody needs it any more. Lock held. */
static void put_if_idle(struct hlm_queue_shared *shared, struct hlm_request *request)
{
    struct hlm_queue_member *owner = &shared->members[request->owner];
    if (request->waited && !request->held && !shared->crew.members[request->owner].left) {
        request->next = owner->unused;
        owner->unused = request;
    }
}

static struct hlm_queue_member *receiver_of(const struct hlm_queue_shared *shared,
                                            const struct hlm_request *request)
{
    return &shared->members[request->is_send ? request->peer : request->owner];
}

static void append_posted(struct hlm_queue_shared *shared, struct hlm_request *request)
{
    struct hlm_request **end = &receiver_of(shared, request)->posted;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    request->next = NULL;
    *end = request;
}

/* The oldest posted other side, taken out of the list; NULL: none. */
static struct hlm_request *take_partner(struct hlm_queue_shared *shared,
                                        const struct hlm_request *request)
{
    for (struct hlm_request **at = &receiver_of(shared, request)->posted; *at != NULL;
         at = &(*at)->next) {
        struct hlm_request *other = *at;
        if (other->is_send != request->is_send && other->owner == request->peer &&
            other->peer == request->owner && other->channel == request->channel) {
            *at = other->next;
            return other;
        }
    }
    return NULL;
}

/* --- posting --- */

/* The partner, or NULL after the request was put where the partner will find it. Lock held. */
static struct hlm_request *pair_up(struct hlm_queue_shared *shared, struct hlm_request *request)
{
    struct hlm_request *partner = take_partner(shared, request);
    if (partner == NULL) {
        append_posted(shared, request);
        return NULL;
    }
    const bool fits = partner->bytes == request->bytes;
    request->partner = partner;
    partner->partner = request;
    request->copies = request->held = fits;
    request->state = partner->state = fits ? REQUEST_COPYING : REQUEST_MISFIT;
    hlm_crew_wake_all(&shared->crew);
    return fits ? partner : NULL;
}

static enum hlm_status put_copy(struct hlm_queue_comm *self, const struct hlm_request *request,
                                const struct hlm_request *partner, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = self->backend->ops;
    const struct hlm_request *send = request->is_send ? request : partner;
    const struct hlm_request *receive = request->is_send ? partner : request;
    HLM_TRY(ops->event_wait(self->queue, partner->ready, err));
    HLM_TRY(ops->copy(self->queue, receive->data, send->data, send->bytes, err));
    return ops->event_record(self->queue, request->done, err);
}

static enum hlm_status post(struct hlm_queue_comm *self, struct hlm_request *request,
                            struct hlm_err *err)
{
    struct hlm_queue_shared *shared = self->shared;
    HLM_TRY(self->backend->ops->event_record(self->queue, request->ready, err));
    pthread_mutex_lock(&shared->crew.lock);
    struct hlm_request *partner = pair_up(shared, request);
    pthread_mutex_unlock(&shared->crew.lock);
    if (partner == NULL) {
        return HLM_OK;
    }
    const enum hlm_status status = put_copy(self, request, partner, err);
    pthread_mutex_lock(&shared->crew.lock);
    request->state = partner->state = status == HLM_OK ? REQUEST_READY : REQUEST_ALONE;
    request->held = status == HLM_OK;
    hlm_crew_wake_all(&shared->crew);
    pthread_mutex_unlock(&shared->crew.lock);
    return status;
}

static enum hlm_status new_message(struct hlm_comm *comm, bool is_send, int32_t peer,
                                   int32_t channel, void *data, int64_t bytes,
                                   struct hlm_request **out, struct hlm_err *err)
{
    struct hlm_queue_comm *self = of(comm);
    HLM_ASSERT(self->queue != NULL && peer >= 0 && peer < comm->world_size);
    struct hlm_request *request = NULL;
    HLM_TRY(take_request(self, &request, err));
    *request = (struct hlm_request){.is_send = is_send,
                                    .owner = comm->rank,
                                    .peer = peer,
                                    .channel = channel,
                                    .data = data,
                                    .bytes = bytes,
                                    .ready = request->ready,
                                    .done = request->done,
                                    .next_all = request->next_all};
    HLM_TRY(post(self, request, err));
    *out = request;
    return HLM_OK;
}

enum hlm_status hlm_queue_send(struct hlm_comm *comm, int32_t peer, int32_t channel,
                               const void *data, int64_t bytes, struct hlm_request **out,
                               struct hlm_err *err)
{
    return new_message(comm, true, peer, channel, (void *)(uintptr_t)data, bytes, out, err);
}

enum hlm_status hlm_queue_receive(struct hlm_comm *comm, int32_t peer, int32_t channel, void *data,
                                  int64_t bytes, struct hlm_request **out, struct hlm_err *err)
{
    return new_message(comm, false, peer, channel, data, bytes, out, err);
}

/* --- waiting --- */

/* Until the copy is on a queue. Lock held. */
static enum hlm_status await_copy(struct hlm_queue_comm *self, const struct hlm_request *request,
                                  struct hlm_err *err)
{
    const char *what = request->is_send ? "a message to be taken by" : "a message from";
    const struct timespec deadline = hlm_crew_deadline(self->shared->crew.timeout_s);
    bool late = false;
    while (request->state != REQUEST_READY) {
        if (request->state == REQUEST_MISFIT) {
            return hlm_fail(err, HLM_FAILED,
                            "rank %" PRId32 ": %s rank %" PRId32 " has %" PRId64
                            " bytes here, but %" PRId64 " on the other side",
                            request->owner, what, request->peer, request->bytes,
                            request->partner->bytes);
        }
        if (request->state == REQUEST_ALONE) {
            HLM_TRY(hlm_crew_check_peer(&self->shared->crew, self->base.rank, request->peer, what,
                                        err));
        }
        if (late) {
            return hlm_queue_fail_late(self, request->peer, what, err);
        }
        late = !hlm_crew_sleep(&self->shared->crew, self->base.rank, &deadline);
    }
    return HLM_OK;
}

static enum hlm_status await_peer(struct hlm_queue_comm *self, const struct hlm_request *request,
                                  struct hlm_err *err)
{
    struct hlm_queue_member *own = &self->shared->members[self->base.rank];
    pthread_mutex_lock(&self->shared->crew.lock);
    own->waits_in = request->is_send ? "send" : "receive";
    own->waits_over = HLM_GROUP_NONE;
    const enum hlm_status status = await_copy(self, request, err);
    own->waits_in = NULL;
    pthread_mutex_unlock(&self->shared->crew.lock);
    return status;
}

/* The event behind which the copy has run; NULL: it has, the copier has seen to it and left. */
static struct hlm_event *end_of(const struct hlm_request *request)
{
    return request->copies            ? request->done
           : request->partner != NULL ? request->partner->done
                                      : NULL;
}

/* Under the lock, so that a copier that leaves does not take its event away meanwhile. */
static enum hlm_status go_behind(struct hlm_queue_comm *self, struct hlm_request *request,
                                 struct hlm_err *err)
{
    struct hlm_event *end = end_of(request);
    return end == NULL ? HLM_OK : self->backend->ops->event_wait(self->queue, end, err);
}

enum hlm_status hlm_queue_wait(struct hlm_comm *comm, struct hlm_request *request,
                               struct hlm_err *err)
{
    struct hlm_queue_comm *self = of(comm);
    struct hlm_queue_shared *shared = self->shared;
    if (request == NULL) {
        return HLM_OK;
    }
    HLM_TRY(await_peer(self, request, err)); /* a failed one stays until the release */
    pthread_mutex_lock(&shared->crew.lock);
    const enum hlm_status status = go_behind(self, request, err);
    request->waited = true;
    if (!request->copies && request->partner != NULL) {
        request->partner->held = false;
        put_if_idle(shared, request->partner);
    }
    put_if_idle(shared, request);
    pthread_mutex_unlock(&shared->crew.lock);
    return status;
}

/* --- leaving --- */

static void withdraw_posted(struct hlm_queue_shared *shared, int32_t rank)
{
    for (int32_t i = 0; i < shared->crew.world_size; i++) {
        struct hlm_request **at = &shared->members[i].posted;
        while (*at != NULL) {
            if ((*at)->owner == rank) {
                *at = (*at)->next;
            } else {
                at = &(*at)->next;
            }
        }
    }
}

/* Whether a copy from or to this rank's buffers is on a queue, or is about to be. Lock held. */
static bool is_under_way(struct hlm_queue_comm *self, const struct hlm_request *request)
{
    struct hlm_err ignored;
    bool done = true;
    struct hlm_event *end = request->state == REQUEST_READY ? end_of(request) : NULL;
    if (request->state == REQUEST_COPYING) {
        return true;
    }
    if ((request->waited && !request->held) || end == NULL) {
        return false;
    }
    return self->backend->ops->event_done(end, &done, &ignored) == HLM_OK && !done;
}

static bool any_under_way(struct hlm_queue_comm *self)
{
    const struct hlm_queue_member *own = &self->shared->members[self->base.rank];
    for (struct hlm_request *request = own->all; request != NULL; request = request->next_all) {
        if (is_under_way(self, request)) {
            return true;
        }
    }
    return false;
}

/* The copies are over: partners need not wait for events that go away, nor look at this side. */
static void part(struct hlm_queue_comm *self)
{
    struct hlm_queue_member *own = &self->shared->members[self->base.rank];
    for (struct hlm_request *request = own->all; request != NULL; request = request->next_all) {
        if (request->held) {
            request->partner->partner = NULL;
        }
        if (!request->copies && !request->waited && request->state == REQUEST_READY &&
            request->partner != NULL) {
            request->partner->held = false;
            put_if_idle(self->shared, request->partner);
        }
    }
}

static void free_events(struct hlm_queue_comm *self, const struct timespec *deadline)
{
    struct hlm_queue_member *own = &self->shared->members[self->base.rank];
    for (struct hlm_request *request = own->all; request != NULL; request = request->next_all) {
        struct hlm_event *events[] = {request->ready, request->done};
        for (int i = 0; i < 2; i++) {
            /* What does not end stays: somebody may still wait for it. */
            if (events[i] != NULL && hlm_queue_settle(self, events[i], deadline)) {
                self->backend->ops->event_free(events[i]);
            }
        }
    }
}

void hlm_queue_messages_release(struct hlm_queue_comm *self)
{
    struct hlm_queue_shared *shared = self->shared;
    const struct timespec deadline = hlm_crew_deadline(shared->crew.timeout_s);
    pthread_mutex_lock(&shared->crew.lock);
    withdraw_posted(shared, self->base.rank);
    while (any_under_way(self) && !hlm_crew_passed(&deadline)) {
        const struct timespec look = hlm_crew_deadline(1e-3);
        (void)hlm_crew_sleep(&self->shared->crew, self->base.rank, &look);
    }
    part(self);
    pthread_mutex_unlock(&shared->crew.lock);
    free_events(self, &deadline);
}

void hlm_queue_requests_free(struct hlm_queue_shared *shared)
{
    for (int32_t i = 0; i < shared->crew.world_size; i++) {
        while (shared->members[i].all != NULL) {
            struct hlm_request *request = shared->members[i].all;
            shared->members[i].all = request->next_all;
            free(request);
        }
    }
}
