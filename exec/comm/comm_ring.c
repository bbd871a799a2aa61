#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "exec/comm/comm_internal.h"

enum { MIN_CHUNK_BYTES = 128 << 10, PAGE_BYTES = 4096 };

enum hlm_status hlm_ring_init(struct hlm_ring *ring, int64_t max_bytes, struct hlm_err *err)
{
    const int64_t wanted = max_bytes < HLM_RING_CHUNK_BYTES ? max_bytes : HLM_RING_CHUNK_BYTES;
    const int64_t pages = wanted / PAGE_BYTES + 1;
    const size_t total = 2 * HLM_RING_WINDOW * (size_t)(pages * PAGE_BYTES);
    unsigned char *slots = aligned_alloc(PAGE_BYTES, total);
    if (slots == NULL) {
        return hlm_fail(err, HLM_FAILED, "out of memory for %zu bytes of collectives' scratch",
                        total);
    }
    memset(slots, 0, total); /* no page fault inside a collective */
    ring->slots = slots;
    ring->slot_bytes = pages * PAGE_BYTES;
    return HLM_OK;
}

void hlm_ring_release(struct hlm_ring *ring)
{
    free(ring->slots);
    ring->slots = NULL;
}

/* One collective. Messages are numbered j = 0, 1, ... in the order in which every rank sends and
 * receives them: block by block (window chunks of each segment), in a block step by step, in a step
 * chunk by chunk. What is sent as j + window is what was received as j, so `window` messages are
 * always on their way in both directions. */
struct pass {
    const struct hlm_ring *ring;
    struct hlm_comm *comm;
    const struct hlm_comm_group *group;
    const char *name;
    enum hlm_wire type;
    enum hlm_reduce op;
    int64_t element_bytes;
    const unsigned char *in; /* all segments; read while reducing */
    unsigned char *own;      /* where the sum of this position's segment goes */
    unsigned char *out;      /* all segments; where gathered ones go */
    int64_t count;           /* elements of the whole buffer */
    int64_t num_reduce, num_gather, window, chunk, num_messages;
    struct hlm_request *sends[2 * HLM_RING_WINDOW], *receives[HLM_RING_WINDOW];
};

/* Where message j stands. */
struct place {
    int64_t step, chunk;
    bool reduces;
};

static struct place place_of(const struct pass *pass, int64_t message)
{
    const int64_t steps = pass->num_reduce + pass->num_gather;
    const int64_t block = message / (steps * pass->window);
    const int64_t in_block = message % (steps * pass->window);
    const int64_t step = in_block / pass->window;
    return (struct place){.step = step,
                          .chunk = block * pass->window + in_block % pass->window,
                          .reduces = step < pass->num_reduce};
}

/* The segment that this position sends in a step; its predecessor sends the one before. */
static int64_t segment_sent(const struct pass *pass, struct place place)
{
    const int64_t n = pass->group->size;
    const int64_t back = place.reduces ? place.step + 1 : place.step - pass->num_reduce;
    return ((pass->group->position - back) % n + n) % n;
}

static int64_t segment_received(const struct pass *pass, struct place place)
{
    const int64_t n = pass->group->size;
    return (segment_sent(pass, place) - 1 + n) % n;
}

/* A range of elements of the whole buffer; empty ranges are never sent. */
struct range {
    int64_t begin, count, in_segment; /* in_segment: begin, counted from the segment's own */
};

static struct range range_of(const struct pass *pass, int64_t segment, int64_t chunk)
{
    const int64_t n = pass->group->size;
    const int64_t begin = segment * pass->count / n, end = (segment + 1) * pass->count / n;
    const int64_t first = begin + chunk * pass->chunk;
    const int64_t left = end - first;
    const int64_t count = left < pass->chunk ? left : pass->chunk;
    return (struct range){first, count > 0 ? count : 0, chunk * pass->chunk};
}

static unsigned char *slot_of(const struct pass *pass, int64_t message)
{
    return pass->ring->slots + message % (2 * pass->window) * pass->ring->slot_bytes;
}

static int32_t neighbour(const struct pass *pass, int32_t distance)
{
    const int32_t n = pass->group->size;
    return pass->group->members[(pass->group->position + distance + n) % n];
}

static enum hlm_status post_receive(struct pass *pass, int64_t message, struct hlm_err *err)
{
    if (message >= pass->num_messages) {
        return HLM_OK;
    }
    const struct place place = place_of(pass, message);
    const struct range range = range_of(pass, segment_received(pass, place), place.chunk);
    if (range.count == 0) {
        return HLM_OK;
    }
    void *to =
        place.reduces ? slot_of(pass, message) : pass->out + range.begin * pass->element_bytes;
    return pass->comm->ops->receive(
        pass->comm, neighbour(pass, -1), HLM_RING_CHANNEL + (int32_t)pass->group->kind, to,
        range.count * pass->element_bytes, &pass->receives[message % pass->window], err);
}

/* The first step of each phase sends what this rank has; later ones what has just come. */
static const void *data_sent(const struct pass *pass, int64_t message, struct place place,
                             struct range range)
{
    if (place.reduces && place.step == 0) {
        return pass->in + range.begin * pass->element_bytes;
    }
    return place.reduces ? slot_of(pass, message - pass->window)
                         : pass->out + range.begin * pass->element_bytes;
}

static enum hlm_status post_send(struct pass *pass, int64_t message, struct hlm_err *err)
{
    if (message >= pass->num_messages) {
        return HLM_OK;
    }
    const struct place place = place_of(pass, message);
    const struct range range = range_of(pass, segment_sent(pass, place), place.chunk);
    if (range.count == 0) {
        return HLM_OK;
    }
    return pass->comm->ops->send(
        pass->comm, neighbour(pass, 1), HLM_RING_CHANNEL + (int32_t)pass->group->kind,
        data_sent(pass, message, place, range), range.count * pass->element_bytes,
        &pass->sends[message % (2 * pass->window)], err);
}

static enum hlm_status wait_for(struct pass *pass, struct hlm_request **request,
                                struct hlm_err *err)
{
    struct hlm_request *waited = *request;
    *request = NULL;
    return pass->comm->ops->wait(pass->comm, waited, err);
}

/* Adds this rank's part to a partial sum; the last addition is this position's result. */
static void add_own_part(struct pass *pass, int64_t message)
{
    const struct place place = place_of(pass, message);
    if (!place.reduces) {
        return;
    }
    const struct range range = range_of(pass, segment_received(pass, place), place.chunk);
    const bool last = place.step == pass->num_reduce - 1;
    unsigned char *slot = slot_of(pass, message);
    hlm_wire_reduce(last ? pass->own + range.in_segment * pass->element_bytes : slot, slot,
                    pass->in + range.begin * pass->element_bytes, range.count, pass->type,
                    pass->op);
}

/* A slot is received into again two windows later, when its sum, sent one window later, has gone.
 */
static enum hlm_status run(struct pass *pass, struct hlm_err *err)
{
    for (int64_t i = 0; i < pass->window; i++) {
        HLM_TRY(post_receive(pass, i, err));
    }
    for (int64_t i = 0; i < pass->window; i++) {
        HLM_TRY(post_send(pass, i, err));
    }
    for (int64_t i = 0; i < pass->num_messages; i++) {
        HLM_TRY(wait_for(pass, &pass->receives[i % pass->window], err));
        add_own_part(pass, i);
        HLM_TRY(post_send(pass, i + pass->window, err));
        HLM_TRY(wait_for(pass, &pass->sends[i % (2 * pass->window)], err));
        HLM_TRY(post_receive(pass, i + pass->window, err));
    }
    return HLM_OK;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static enum hlm_status run_pass(struct pass *pass, struct hlm_err *err)
{
    pass->element_bytes = hlm_wire_bytes(pass->type);
    const int64_t segment = ceil_div(pass->count, pass->group->size);
    const int64_t bytes = segment * pass->element_bytes;
    const int64_t pieces = ceil_div(bytes, MIN_CHUNK_BYTES);
    pass->window = pieces < 1 ? 1 : pieces < HLM_RING_WINDOW ? pieces : HLM_RING_WINDOW;
    const int64_t most = pass->ring->slot_bytes / pass->element_bytes;
    const int64_t even = ceil_div(segment, pass->window);
    pass->chunk = even < 1 ? 1 : even < most ? even : most;
    const int64_t num_blocks = ceil_div(ceil_div(segment, pass->chunk), pass->window);
    pass->num_messages = num_blocks * (pass->num_reduce + pass->num_gather) * pass->window;
    const enum hlm_status status = run(pass, err);
    if (status != HLM_OK) {
        hlm_err_prefix(err, "%s over %s", pass->name, hlm_group_texts[pass->group->kind]);
    }
    return status;
}

enum hlm_status hlm_ring_all_reduce(const struct hlm_ring *ring, struct hlm_comm *comm,
                                    const struct hlm_comm_group *group, void *data, int64_t count,
                                    enum hlm_wire type, enum hlm_reduce op, struct hlm_err *err)
{
    const int64_t begin = group->position * count / group->size;
    struct pass pass = {
        .ring = ring,
        .comm = comm,
        .group = group,
        .name = "all_reduce",
        .type = type,
        .op = op,
        .in = data,
        .own = (unsigned char *)data + begin * hlm_wire_bytes(type),
        .out = data,
        .count = count,
        .num_reduce = group->size - 1,
        .num_gather = group->size - 1,
    };
    return run_pass(&pass, err);
}

enum hlm_status hlm_ring_all_gather(const struct hlm_ring *ring, struct hlm_comm *comm,
                                    const struct hlm_comm_group *group, const void *in, void *out,
                                    int64_t count, enum hlm_wire type, struct hlm_err *err)
{
    const int64_t bytes = count * hlm_wire_bytes(type);
    unsigned char *place = (unsigned char *)out + group->position * bytes;
    if (in != place) {
        memcpy(place, in, (size_t)bytes);
    }
    struct pass pass = {
        .ring = ring,
        .comm = comm,
        .group = group,
        .name = "all_gather",
        .type = type,
        .out = out,
        .count = count * group->size,
        .num_gather = group->size - 1,
    };
    return run_pass(&pass, err);
}

enum hlm_status hlm_ring_reduce_scatter(const struct hlm_ring *ring, struct hlm_comm *comm,
                                        const struct hlm_comm_group *group, const void *in,
                                        void *out, int64_t count, enum hlm_wire type,
                                        struct hlm_err *err)
{
    struct pass pass = {
        .ring = ring,
        .comm = comm,
        .group = group,
        .name = "reduce_scatter",
        .type = type,
        .op = HLM_REDUCE_SUM,
        .in = in,
        .own = out,
        .count = count * group->size,
        .num_reduce = group->size - 1,
    };
    return run_pass(&pass, err);
}

/* --- all to all --- */

static int64_t sum_before(const int64_t *bytes, int32_t position)
{
    int64_t sum = 0;
    for (int32_t i = 0; i < position; i++) {
        sum += bytes[i];
    }
    return sum;
}

/* One step: a message out, a message in. Nothing is sent where nothing is to be sent. */
struct swap {
    int32_t to, from; /* positions */
    const void *in;
    void *out;
    int64_t in_bytes, out_bytes;
};

static enum hlm_status run_swap(struct hlm_comm *comm, const struct hlm_comm_group *group,
                                const struct swap *swap, struct hlm_err *err)
{
    const int32_t channel = HLM_RING_CHANNEL + (int32_t)group->kind;
    struct hlm_request *send = NULL, *receive = NULL;
    if (swap->out_bytes > 0) {
        HLM_TRY(comm->ops->receive(comm, group->members[swap->from], channel, swap->out,
                                   swap->out_bytes, &receive, err));
    }
    if (swap->in_bytes > 0) {
        HLM_TRY(comm->ops->send(comm, group->members[swap->to], channel, swap->in, swap->in_bytes,
                                &send, err));
    }
    HLM_TRY(comm->ops->wait(comm, receive, err));
    return comm->ops->wait(comm, send, err);
}

enum hlm_status hlm_pairwise_all_to_all(struct hlm_comm *comm, const struct hlm_comm_group *group,
                                        const void *in, const int64_t *in_bytes, void *out,
                                        const int64_t *out_bytes, struct hlm_err *err)
{
    const int32_t n = group->size, own = group->position;
    const unsigned char *sent = in;
    unsigned char *received = out;
    HLM_ASSERT(in_bytes[own] == out_bytes[own]);
    if (in_bytes[own] > 0) {
        memcpy(received + sum_before(out_bytes, own), sent + sum_before(in_bytes, own),
               (size_t)in_bytes[own]);
    }
    for (int32_t step = 1; step < n; step++) {
        const int32_t to = (own + step) % n, from = (own - step + n) % n;
        const struct swap swap = {.to = to,
                                  .from = from,
                                  .in = sent + sum_before(in_bytes, to),
                                  .out = received + sum_before(out_bytes, from),
                                  .in_bytes = in_bytes[to],
                                  .out_bytes = out_bytes[from]};
        const enum hlm_status status = run_swap(comm, group, &swap, err);
        if (status != HLM_OK) {
            hlm_err_prefix(err, "all_to_all over %s", hlm_group_texts[group->kind]);
            return status;
        }
    }
    return HLM_OK;
}
