/* The queue transport: collectives and life. */
#include "exec/comm/comm_queue.h"

#include <inttypes.h>
#include <stdlib.h>

#include "exec/comm/comm_queue_internal.h"

/* Sums go through two chunks of at most this size: large enough for full bandwidth. */
enum { MAX_CHUNK_BYTES = 4 << 20, CHUNK_UNIT_BYTES = 256 };

static struct hlm_queue_comm *of(struct hlm_comm *comm)
{
    return (struct hlm_queue_comm *)comm;
}

/* --- scratch --- */

/* Collectives on different queues may run at the same time, so each queue has chunks of its own;
 * they are made at its first sum. */
static enum hlm_status scratch_of(struct hlm_queue_comm *self, unsigned char **out,
                                  struct hlm_err *err)
{
    for (int32_t i = 0; i < self->num_scratch; i++) {
        if (self->scratch[i].queue == self->queue) {
            *out = self->scratch[i].memory;
            return HLM_OK;
        }
    }
    HLM_ASSERT(self->num_scratch < HLM_QUEUE_MAX_QUEUES);
    struct hlm_queue_scratch *scratch = &self->scratch[self->num_scratch];
    HLM_TRY(self->backend->ops->alloc(self->backend, 2 * self->shared->chunk_bytes,
                                      &scratch->memory, err));
    scratch->queue = self->queue;
    self->num_scratch++;
    *out = scratch->memory;
    return HLM_OK;
}

static void free_scratch(struct hlm_queue_comm *self)
{
    while (self->num_scratch > 0) {
        self->num_scratch--;
        self->backend->ops->free(self->backend, self->scratch[self->num_scratch].memory);
    }
}

/* --- parts of collectives; all members have shown their data --- */

/* A collective under way. */
struct pass {
    struct hlm_queue_comm *self;
    const struct hlm_comm_group *group;
    struct hlm_queue_call call;
    int64_t element_bytes;
    const struct hlm_queue_show *shows; /* of the first meeting, [group size] */
};

/* Elements of the whole buffer that a position adds: the same split on all members. */
struct range {
    int64_t begin, count;
};

static struct range segment_of(const struct pass *pass, int64_t total, int32_t position)
{
    const int64_t begin = position * total / pass->group->size;
    return (struct range){begin, (position + 1) * total / pass->group->size - begin};
}

/* One chunk: the members' elements in group order, added to the first's copy. */
static enum hlm_status sum_chunk(const struct pass *pass, unsigned char *scratch,
                                 struct range range, void *out, struct hlm_err *err)
{
    struct hlm_queue_comm *self = pass->self;
    const struct hlm_backend_ops *ops = self->backend->ops;
    const int64_t offset = range.begin * pass->element_bytes;
    const int64_t bytes = range.count * pass->element_bytes;
    unsigned char *fetched = scratch + self->shared->chunk_bytes;
    HLM_TRY(ops->copy(self->queue, scratch, pass->shows[0].data + offset, bytes, err));
    for (int32_t i = 1; i < pass->group->size; i++) {
        const unsigned char *theirs = pass->shows[i].data + offset;
        if (i != pass->group->position) {
            HLM_TRY(ops->copy(self->queue, fetched, theirs, bytes, err));
            theirs = fetched;
        }
        HLM_TRY(ops->combine(self->queue, scratch, scratch, theirs, range.count, pass->call.type,
                             pass->call.reduce, err));
    }
    return ops->copy(self->queue, out, scratch, bytes, err);
}

static enum hlm_status sum_range(const struct pass *pass, struct range range, unsigned char *out,
                                 struct hlm_err *err)
{
    unsigned char *scratch = NULL;
    HLM_TRY(scratch_of(pass->self, &scratch, err));
    const int64_t most = pass->self->shared->chunk_bytes / pass->element_bytes;
    for (int64_t i = 0; i < range.count; i += most) {
        const int64_t left = range.count - i;
        const struct range chunk = {range.begin + i, left < most ? left : most};
        HLM_TRY(sum_chunk(pass, scratch, chunk, out + i * pass->element_bytes, err));
    }
    return HLM_OK;
}

static enum hlm_status begin_pass(struct pass *pass, struct hlm_comm *comm, enum hlm_group group,
                                  const struct hlm_queue_call *call, const void *data,
                                  struct hlm_err *err)
{
    struct hlm_queue_comm *self = of(comm);
    HLM_ASSERT(self->queue != NULL);
    *pass = (struct pass){.self = self,
                          .group = &self->groups.of[group],
                          .call = *call,
                          .element_bytes = hlm_wire_bytes(call->type)};
    return hlm_queue_meet(self, pass->group, call, data, &pass->shows, err);
}

/* Behind it nobody reads this rank's data any more. */
static enum hlm_status end_pass(const struct pass *pass, struct hlm_err *err)
{
    const struct hlm_queue_show *shows = NULL;
    return hlm_queue_meet(pass->self, pass->group, &pass->call, NULL, &shows, err);
}

/* Nor after a failure. Without shows the members never met. */
static enum hlm_status leave_pass(const struct pass *pass, enum hlm_status status)
{
    if (status != HLM_OK && pass->shows != NULL) {
        hlm_queue_give_up(pass->self, pass->group);
    }
    return status;
}

static bool is_alone(struct hlm_comm *comm, enum hlm_group group)
{
    return of(comm)->groups.of[group].size == 1;
}

static enum hlm_status copy_alone(struct hlm_comm *comm, void *out, const void *in, int64_t bytes,
                                  struct hlm_err *err)
{
    return of(comm)->backend->ops->copy(of(comm)->queue, out, in, bytes, err);
}

/* --- the operations --- */

/* The others' segments, from where their sums stand. */
static enum hlm_status fetch_segments(const struct pass *pass, unsigned char *data,
                                      struct hlm_err *err)
{
    struct hlm_queue_comm *self = pass->self;
    for (int32_t i = 0; i < pass->group->size; i++) {
        const struct range range = segment_of(pass, pass->call.count, i);
        const int64_t offset = range.begin * pass->element_bytes;
        if (i != pass->group->position) {
            HLM_TRY(self->backend->ops->copy(self->queue, data + offset,
                                             pass->shows[i].data + offset,
                                             range.count * pass->element_bytes, err));
        }
    }
    return HLM_OK;
}

static enum hlm_status run_all_reduce(struct pass *pass, unsigned char *data, struct hlm_err *err)
{
    const struct range own = segment_of(pass, pass->call.count, pass->group->position);
    HLM_TRY(sum_range(pass, own, data + own.begin * pass->element_bytes, err));
    HLM_TRY(hlm_queue_meet(pass->self, pass->group, &pass->call, data, &pass->shows, err));
    HLM_TRY(fetch_segments(pass, data, err));
    return end_pass(pass, err);
}

static enum hlm_status queue_all_reduce(struct hlm_comm *comm, enum hlm_group group, void *data,
                                        int64_t count, enum hlm_wire type, enum hlm_reduce op,
                                        struct hlm_err *err)
{
    const struct hlm_queue_call call = {"all_reduce", count, type, op};
    struct pass pass;
    if (is_alone(comm, group)) {
        return HLM_OK;
    }
    enum hlm_status status = begin_pass(&pass, comm, group, &call, data, err);
    if (status == HLM_OK) {
        status = run_all_reduce(&pass, data, err);
    }
    return leave_pass(&pass, status);
}

static enum hlm_status run_all_gather(const struct pass *pass, unsigned char *out,
                                      struct hlm_err *err)
{
    struct hlm_queue_comm *self = pass->self;
    const int64_t bytes = pass->call.count * pass->element_bytes;
    for (int32_t i = 0; i < pass->group->size; i++) {
        HLM_TRY(self->backend->ops->copy(self->queue, out + i * bytes, pass->shows[i].data, bytes,
                                         err));
    }
    return end_pass(pass, err);
}

static enum hlm_status queue_all_gather(struct hlm_comm *comm, enum hlm_group group, const void *in,
                                        void *out, int64_t count, enum hlm_wire type,
                                        struct hlm_err *err)
{
    const struct hlm_queue_call call = {"all_gather", count, type, HLM_REDUCE_SUM};
    struct pass pass;
    if (is_alone(comm, group)) {
        return copy_alone(comm, out, in, count * hlm_wire_bytes(type), err);
    }
    enum hlm_status status = begin_pass(&pass, comm, group, &call, in, err);
    if (status == HLM_OK) {
        status = run_all_gather(&pass, out, err);
    }
    return leave_pass(&pass, status);
}

static enum hlm_status run_reduce_scatter(const struct pass *pass, unsigned char *out,
                                          struct hlm_err *err)
{
    const int64_t count = pass->call.count;
    HLM_TRY(sum_range(pass, (struct range){pass->group->position * count, count}, out, err));
    return end_pass(pass, err);
}

static enum hlm_status queue_reduce_scatter(struct hlm_comm *comm, enum hlm_group group,
                                            const void *in, void *out, int64_t count,
                                            enum hlm_wire type, struct hlm_err *err)
{
    const struct hlm_queue_call call = {"reduce_scatter", count, type, HLM_REDUCE_SUM};
    struct pass pass;
    if (is_alone(comm, group)) {
        return copy_alone(comm, out, in, count * hlm_wire_bytes(type), err);
    }
    enum hlm_status status = begin_pass(&pass, comm, group, &call, in, err);
    if (status == HLM_OK) {
        status = run_reduce_scatter(&pass, out, err);
    }
    return leave_pass(&pass, status);
}

static enum hlm_status queue_barrier(struct hlm_comm *comm, enum hlm_group group,
                                     struct hlm_err *err)
{
    struct hlm_queue_comm *self = of(comm);
    HLM_ASSERT(self->queue != NULL);
    HLM_TRY(self->backend->ops->queue_sync(self->queue, err));
    return is_alone(comm, group) ? HLM_OK
                                 : hlm_queue_meet_hosts(self, &self->groups.of[group], err);
}

/* --- life --- */

static void queue_use_queue(struct hlm_comm *comm, struct hlm_queue *queue)
{
    struct hlm_queue_comm *self = of(comm);
    HLM_ASSERT(queue == NULL || self->backend != NULL);
    self->queue = queue;
    if (queue == NULL) {
        free_scratch(self);
    }
}

static enum hlm_status queue_check(struct hlm_comm *comm, struct hlm_err *err)
{
    struct hlm_queue_shared *shared = of(comm)->shared;
    pthread_mutex_lock(&shared->crew.lock);
    const int32_t by = shared->crew.aborted_by;
    pthread_mutex_unlock(&shared->crew.lock);
    return by == HLM_CREW_NOBODY
               ? HLM_OK
               : hlm_fail(err, HLM_FAILED, "rank %" PRId32 ": rank %" PRId32 " has ended the run",
                          comm->rank, by);
}

static void queue_abort(struct hlm_comm *comm)
{
    hlm_crew_abort(&of(comm)->shared->crew, comm->rank);
}

static void shared_free(struct hlm_crew *crew)
{
    struct hlm_queue_shared *shared = (struct hlm_queue_shared *)crew;
    for (int32_t i = 0; shared->cells != NULL && i < HLM_NUM_GROUPS * shared->crew.world_size;
         i++) {
        free(shared->cells[i].arrived);
        free(shared->cells[i].shows);
    }
    if (shared->members != NULL) {
        hlm_queue_requests_free(shared);
    }
    hlm_crew_release(crew);
    free(shared->members);
    free(shared->cells);
    free(shared);
}

static void free_events(struct hlm_queue_comm *self)
{
    const struct timespec deadline = hlm_crew_deadline(self->shared->crew.timeout_s);
    for (int kind = 0; kind < HLM_NUM_GROUPS; kind++) {
        for (int half = 0; half < 2; half++) {
            struct hlm_event *event = self->events[kind][half];
            if (event != NULL && hlm_queue_settle(self, event, &deadline)) {
                self->backend->ops->event_free(event);
            }
        }
    }
}

static void queue_release(struct hlm_comm *comm)
{
    struct hlm_queue_comm *self = of(comm);
    struct hlm_queue_shared *shared = self->shared;
    pthread_mutex_lock(&shared->crew.lock);
    hlm_crew_leave(&shared->crew, comm->rank);
    pthread_mutex_unlock(&shared->crew.lock);
    if (self->backend != NULL) {
        free_scratch(self);
        hlm_queue_messages_release(self);
        free_events(self);
    }
    pthread_mutex_lock(&shared->crew.lock);
    const bool last = --shared->crew.num_open == 0;
    pthread_mutex_unlock(&shared->crew.lock);
    if (last) {
        shared_free(&shared->crew);
    }
    hlm_comm_groups_release(&self->groups);
    free(self);
}

static const struct hlm_comm_ops queue_ops = {
    .name = "queue",
    .stream_ordered = true,
    .release = queue_release,
    .abort = queue_abort,
    .all_reduce = queue_all_reduce,
    .all_gather = queue_all_gather,
    .reduce_scatter = queue_reduce_scatter,
    .barrier = queue_barrier,
    .send = hlm_queue_send,
    .receive = hlm_queue_receive,
    .wait = hlm_queue_wait,
    .use_queue = queue_use_queue,
    .check = queue_check,
};

static int64_t chunk_bytes(int64_t max_bytes)
{
    const int64_t wanted = max_bytes < MAX_CHUNK_BYTES ? max_bytes : MAX_CHUNK_BYTES;
    return (wanted / CHUNK_UNIT_BYTES + 1) * CHUNK_UNIT_BYTES;
}

static struct hlm_queue_shared *shared_new(const struct hlm_comm_config *config, int32_t world_size)
{
    struct hlm_queue_shared *shared = calloc(1, sizeof *shared);
    if (shared == NULL) {
        return NULL;
    }
    const bool ready = hlm_crew_init(&shared->crew, world_size, config->timeout_s);
    shared->chunk_bytes = chunk_bytes(config->max_bytes);
    shared->members = calloc((size_t)world_size, sizeof *shared->members);
    shared->cells = calloc((size_t)HLM_NUM_GROUPS * (size_t)world_size, sizeof *shared->cells);
    if (!ready || shared->members == NULL || shared->cells == NULL) {
        shared_free(&shared->crew);
        return NULL;
    }
    return shared;
}

/* The first member makes the meeting places of its groups. */
static bool make_cells(struct hlm_queue_shared *shared, const struct hlm_comm_groups *groups,
                       int32_t rank)
{
    for (int kind = 0; kind < HLM_NUM_GROUPS; kind++) {
        const struct hlm_comm_group *group = &groups->of[kind];
        if (group->size == 1 || group->members[0] != rank) {
            continue;
        }
        struct hlm_queue_cell *cell = &shared->cells[kind * shared->crew.world_size + rank];
        cell->size = group->size;
        cell->arrived = calloc((size_t)group->size, sizeof *cell->arrived);
        cell->shows = calloc(2 * (size_t)group->size, sizeof *cell->shows);
        if (cell->arrived == NULL || cell->shows == NULL) {
            return false;
        }
    }
    return true;
}

static enum hlm_status rank_new(const struct hlm_comm_config *config, struct hlm_crew *crew,
                                int32_t rank, struct hlm_comm **out, struct hlm_err *err)
{
    struct hlm_queue_shared *shared = (struct hlm_queue_shared *)crew;
    struct hlm_queue_comm *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return hlm_fail(err, HLM_FAILED, "out of memory for rank %" PRId32, rank);
    }
    self->base = (struct hlm_comm){&queue_ops, rank, shared->crew.world_size};
    self->shared = shared;
    enum hlm_status status = hlm_comm_groups_init(&self->groups, config->strategy, rank, err);
    if (status == HLM_OK && !make_cells(shared, &self->groups, rank)) {
        status = hlm_fail(err, HLM_FAILED, "out of memory for the groups of rank %" PRId32, rank);
    }
    if (status != HLM_OK) {
        hlm_comm_groups_release(&self->groups);
        free(self);
        return status;
    }
    shared->crew.num_open++;
    *out = &self->base;
    return HLM_OK;
}

enum hlm_status hlm_comm_queue_new(const struct hlm_comm_config *config, struct hlm_comm **out,
                                   struct hlm_err *err)
{
    const int32_t world_size = hlm_layout_group_size(config->strategy, HLM_GROUP_WORLD);
    struct hlm_queue_shared *shared = shared_new(config, world_size);
    if (shared == NULL) {
        return hlm_fail(err, HLM_FAILED, "out of memory for %" PRId32 " ranks", world_size);
    }
    return hlm_crew_make(config, &shared->crew, rank_new, shared_free, out, err);
}

enum hlm_status hlm_comm_queue_use_backend(struct hlm_comm *comm, struct hlm_backend *backend,
                                           struct hlm_err *err)
{
    struct hlm_queue_comm *self = of(comm);
    self->backend = backend;
    for (int kind = 0; kind < HLM_NUM_GROUPS; kind++) {
        for (int half = 0; half < 2 && self->groups.of[kind].size > 1; half++) {
            HLM_TRY(backend->ops->event_new(backend, &self->events[kind][half], err));
        }
    }
    return HLM_OK;
}
