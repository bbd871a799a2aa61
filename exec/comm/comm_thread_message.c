#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "exec/comm/comm_thread_internal.h"

/* Up to EAGER_BYTES a send keeps a copy and needs no wait. SPINS: looks at a request before
 * sleeping, some microseconds. */
enum { EAGER_BYTES = 4096, SPINS = 300 };

enum request_state {
    REQUEST_ALONE,   /* the other side has not posted, or has left */
    REQUEST_MATCHED, /* both are there, nobody copies */
    REQUEST_COPYING,
    REQUEST_DONE,
    REQUEST_MISFIT /* the sides disagree about the size */
};

struct message {
    bool is_send;
    int32_t owner, peer, channel;
    const void *from; /* send */
    void *to;         /* receive */
    int64_t bytes;
};

/* Large messages are copied once, from the sender's buffer to the receiver's, by whichever of the
 * two waits first after both are there; so a wait for any message moves it on, as in MPI. */
struct hlm_request {
    _Atomic(enum request_state) state; /* written under the lock */
    struct message message;
    bool eager; /* message.from is `copy`; nobody waits for it */
    struct hlm_request *partner;
    struct hlm_request *next;     /* in a queue or the free list */
    struct hlm_request *next_all; /* all that were ever made */
    unsigned char copy[EAGER_BYTES];
};

static struct hlm_thread_comm *of(struct hlm_comm *comm)
{
    return (struct hlm_thread_comm *)comm;
}

/* ---- waiting ---- */

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---- messages ---- */

static struct hlm_request *request_new(struct hlm_thread_shared *shared)
{
    struct hlm_request *request = shared->unused;
    if (request != NULL) {
        shared->unused = request->next;
        return request;
    }
    request = malloc(sizeof *request);
    if (request != NULL) {
        request->next_all = shared->all;
        shared->all = request;
    }
    return request;
}

static void request_free(struct hlm_thread_shared *shared, struct hlm_request *request)
{
    request->next = shared->unused;
    shared->unused = request;
}

static void set_state(struct hlm_request *request, enum request_state state)
{
    atomic_store_explicit(&request->state, state, memory_order_release);
}

static enum request_state state_of(const struct hlm_request *request)
{
    return atomic_load_explicit(&request->state, memory_order_acquire);
}

static int32_t receiver_of(const struct hlm_request *request)
{
    return request->message.is_send ? request->message.peer : request->message.owner;
}

static void enqueue(struct hlm_thread_shared *shared, struct hlm_request *request)
{
    struct hlm_thread_queue *queue = &shared->queues[receiver_of(request)];
    request->next = NULL;
    *(queue->last != NULL ? &queue->last->next : &queue->first) = request;
    queue->last = request;
}

static void unlink_after(struct hlm_thread_queue *queue, struct hlm_request *before,
                         const struct hlm_request *request)
{
    *(before != NULL ? &before->next : &queue->first) = request->next;
    if (queue->last == request) {
        queue->last = before;
    }
}

/* The oldest posted other side of `request`, taken out of its queue. */
static struct hlm_request *take_partner(struct hlm_thread_shared *shared,
                                        const struct hlm_request *request)
{
    struct hlm_thread_queue *queue = &shared->queues[receiver_of(request)];
    struct hlm_request *before = NULL;
    for (struct hlm_request *other = queue->first; other != NULL; other = other->next) {
        if (other->message.is_send != request->message.is_send &&
            other->message.owner == request->message.peer &&
            other->message.peer == request->message.owner &&
            other->message.channel == request->message.channel) {
            unlink_after(queue, before, other);
            return other;
        }
        before = other;
    }
    return NULL;
}

static void finish_pair(struct hlm_thread_shared *shared, struct hlm_request *send,
                        struct hlm_request *receive, enum request_state state)
{
    set_state(receive, state);
    hlm_crew_wake(&shared->crew, receive->message.owner);
    if (send->eager) {
        request_free(shared, send);
    } else {
        set_state(send, state);
        hlm_crew_wake(&shared->crew, send->message.owner);
    }
}

/* Both are there: small ones are copied at once, large ones by the first that waits. */
static void pair_up(struct hlm_thread_shared *shared, struct hlm_request *a, struct hlm_request *b)
{
    struct hlm_request *send = a->message.is_send ? a : b, *receive = a->message.is_send ? b : a;
    send->partner = receive;
    receive->partner = send;
    if (send->message.bytes != receive->message.bytes) {
        finish_pair(shared, send, receive, REQUEST_MISFIT);
    } else if (send->message.bytes <= EAGER_BYTES) {
        memcpy(receive->message.to, send->message.from, (size_t)send->message.bytes);
        finish_pair(shared, send, receive, REQUEST_DONE);
    } else {
        set_state(send, REQUEST_MATCHED);
        set_state(receive, REQUEST_MATCHED);
        hlm_crew_wake(&shared->crew, a->message.peer);
    }
}

/* Copies outside the lock, which is held before and after. */
static void copy_message(struct hlm_thread_shared *shared, struct hlm_request *request)
{
    struct hlm_request *send = request->message.is_send ? request : request->partner;
    struct hlm_request *receive = send->partner;
    set_state(send, REQUEST_COPYING);
    set_state(receive, REQUEST_COPYING);
    pthread_mutex_unlock(&shared->crew.lock);
    memcpy(receive->message.to, send->message.from, (size_t)send->message.bytes);
    pthread_mutex_lock(&shared->crew.lock);
    finish_pair(shared, send, receive, REQUEST_DONE);
}

static void keep_copy(struct hlm_request *send)
{
    memcpy(send->copy, send->message.from, (size_t)send->message.bytes);
    send->message.from = send->copy;
    send->eager = true;
}

static enum hlm_status fail_post(const struct hlm_thread_comm *self, int32_t peer,
                                 struct hlm_err *err)
{
    HLM_TRY(hlm_crew_check_peer(&self->shared->crew, self->base.rank, peer, "a message from or to",
                                err));
    return hlm_fail(err, HLM_FAILED, "rank %" PRId32 " is out of memory for a message",
                    self->base.rank);
}

/* Posts one side. *out is NULL when there is nothing to wait for. Lock held. */
static enum hlm_status post_locked(struct hlm_thread_comm *self, const struct message *message,
                                   struct hlm_request **out, struct hlm_err *err)
{
    struct hlm_thread_shared *shared = self->shared;
    struct hlm_request *request =
        shared->crew.aborted_by == HLM_CREW_NOBODY ? request_new(shared) : NULL;
    if (request == NULL) {
        return fail_post(self, message->peer, err);
    }
    request->message = *message;
    request->eager = false;
    request->partner = NULL;
    set_state(request, REQUEST_ALONE);
    if (message->is_send && message->bytes <= EAGER_BYTES) {
        keep_copy(request);
    }
    *out = request->eager ? NULL : request;
    struct hlm_request *partner = take_partner(shared, request);
    if (partner != NULL) {
        pair_up(shared, request, partner);
    } else {
        enqueue(shared, request);
    }
    return HLM_OK;
}

static enum hlm_status post(struct hlm_thread_comm *self, const struct message *message,
                            struct hlm_request **out, struct hlm_err *err)
{
    HLM_ASSERT(message->peer >= 0 && message->peer < self->base.world_size);
    HLM_ASSERT(message->bytes >= 0);
    pthread_mutex_lock(&self->shared->crew.lock);
    const enum hlm_status status = post_locked(self, message, out, err);
    pthread_mutex_unlock(&self->shared->crew.lock);
    return status;
}

enum hlm_status hlm_thread_send(struct hlm_comm *comm, int32_t peer, int32_t channel,
                                const void *data, int64_t bytes, struct hlm_request **out,
                                struct hlm_err *err)
{
    const struct message message = {.is_send = true,
                                    .owner = comm->rank,
                                    .peer = peer,
                                    .channel = channel,
                                    .from = data,
                                    .bytes = bytes};
    return post(of(comm), &message, out, err);
}

enum hlm_status hlm_thread_receive(struct hlm_comm *comm, int32_t peer, int32_t channel, void *data,
                                   int64_t bytes, struct hlm_request **out, struct hlm_err *err)
{
    const struct message message = {
        .owner = comm->rank, .peer = peer, .channel = channel, .to = data, .bytes = bytes};
    return post(of(comm), &message, out, err);
}

static void spin_for(const struct hlm_thread_shared *shared, const struct hlm_request *request)
{
    for (int i = 0; shared->spins && i < SPINS && state_of(request) == REQUEST_ALONE; i++) {
        relax();
    }
}

/* Until the request is at its end, the deadline passes or the peer has gone. Lock held. */
static enum hlm_status wait_locked(struct hlm_thread_comm *self, struct hlm_request *request,
                                   struct hlm_err *err)
{
    const char *what = request->message.is_send ? "a message to be taken by" : "a message from";
    const struct timespec deadline = hlm_crew_deadline(self->shared->crew.timeout_s);
    bool late = false;
    for (;;) {
        switch (state_of(request)) {
        case REQUEST_DONE:
            return HLM_OK;
        case REQUEST_MISFIT:
            return hlm_fail(err, HLM_FAILED,
                            "rank %" PRId32 ": %s rank %" PRId32 " has %" PRId64
                            " bytes here, but not on the other side",
                            request->message.owner, what, request->message.peer,
                            request->message.bytes);
        case REQUEST_MATCHED:
            copy_message(self->shared, request);
            break;
        case REQUEST_COPYING:
            (void)hlm_crew_sleep(&self->shared->crew, self->base.rank, &deadline);
            break;
        case REQUEST_ALONE:
            HLM_TRY(hlm_crew_check_peer(&self->shared->crew, self->base.rank, request->message.peer,
                                        what, err));
            if (late) {
                return hlm_crew_fail_late(&self->shared->crew, self->base.rank,
                                          request->message.peer, what, err);
            }
            late = !hlm_crew_sleep(&self->shared->crew, self->base.rank, &deadline);
            break;
        }
    }
}

enum hlm_status hlm_thread_wait(struct hlm_comm *comm, struct hlm_request *request,
                                struct hlm_err *err)
{
    if (request == NULL) {
        return HLM_OK;
    }
    struct hlm_thread_comm *self = of(comm);
    spin_for(self->shared, request);
    pthread_mutex_lock(&self->shared->crew.lock);
    const enum hlm_status status = wait_locked(self, request, err);
    if (status == HLM_OK) {
        request_free(self->shared, request); /* a failed one stays where it is until release */
    }
    pthread_mutex_unlock(&self->shared->crew.lock);
    return status;
}

/* ---- leaving ---- */

static void withdraw_alone(struct hlm_thread_queue *queue, int32_t rank)
{
    struct hlm_request *before = NULL;
    for (struct hlm_request *r = queue->first; r != NULL; r = r->next) {
        if (r->message.owner == rank && !r->eager) {
            unlink_after(queue, before, r);
        } else {
            before = r;
        }
    }
}

/* After a failure the rank's buffers may be part of messages on their way: a copy that runs is
 * waited for, the others do not take place. */
void hlm_thread_withdraw(struct hlm_thread_comm *self)
{
    struct hlm_thread_shared *shared = self->shared;
    for (int32_t i = 0; i < shared->crew.world_size; i++) {
        withdraw_alone(&shared->queues[i], self->base.rank);
    }
    for (struct hlm_request *r = shared->all; r != NULL; r = r->next_all) {
        while (r->message.owner == self->base.rank && state_of(r) == REQUEST_COPYING) {
            pthread_cond_wait(&shared->crew.members[self->base.rank].wake, &shared->crew.lock);
        }
        if (r->message.owner == self->base.rank && state_of(r) == REQUEST_MATCHED) {
            set_state(r, REQUEST_ALONE);
            set_state(r->partner, REQUEST_ALONE); /* and finds that this rank has left */
        }
    }
}

void hlm_thread_requests_free(struct hlm_thread_shared *shared)
{
    while (shared->all != NULL) {
        struct hlm_request *request = shared->all;
        shared->all = request->next_all;
        free(request);
    }
}
