/* Ranks as threads of one process. */
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "exec/comm/comm_thread_internal.h"

static struct hlm_thread_comm *of(struct hlm_comm *comm)
{
    return (struct hlm_thread_comm *)comm;
}

/* ---- small collectives ---- */

static unsigned char *place_in(const struct hlm_thread_cell *cell, uint64_t generation,
                               int32_t position)
{
    const size_t half = (size_t)(generation & 1) * (size_t)cell->size;
    return cell->data + (half + (size_t)position) * HLM_RING_MIN_BYTES;
}

static int32_t first_missing(const struct hlm_thread_cell *cell, uint64_t generation)
{
    for (int32_t i = 0; i < cell->size; i++) {
        if (cell->arrived[i] <= generation) {
            return i;
        }
    }
    return 0;
}

/* Until all have come; the last one wakes the others. Lock held. */
static enum hlm_status arrive(struct hlm_thread_comm *self, const struct hlm_comm_group *group,
                              struct hlm_thread_cell *cell, uint64_t generation,
                              struct hlm_err *err)
{
    const struct timespec deadline = hlm_crew_deadline(self->shared->crew.timeout_s);
    bool late = false;
    cell->arrived[group->position] = generation + 1;
    if (++cell->num_arrived == cell->size) {
        cell->num_arrived = 0;
        atomic_store_explicit(&cell->generation, generation + 1, memory_order_release);
        for (int32_t i = 0; i < cell->size; i++) {
            hlm_crew_wake(&self->shared->crew, group->members[i]);
        }
    }
    while (atomic_load_explicit(&cell->generation, memory_order_relaxed) == generation) {
        const int32_t missing = group->members[first_missing(cell, generation)];
        HLM_TRY(hlm_crew_check_peer(&self->shared->crew, self->base.rank, missing, "the arrival of",
                                    err));
        if (late) {
            return hlm_crew_fail_late(&self->shared->crew, self->base.rank, missing,
                                      "the arrival of", err);
        }
        late = !hlm_crew_sleep(&self->shared->crew, self->base.rank, &deadline);
    }
    return HLM_OK;
}

/* Shows `bytes` of this rank to the group; then everybody's are at place_in(cell, *out_generation,
 * ...) until the next meeting but one. */
static enum hlm_status meet(struct hlm_thread_comm *self, const struct hlm_comm_group *group,
                            const char *name, const void *data, int64_t bytes,
                            struct hlm_thread_cell **out_cell, uint64_t *out_generation,
                            struct hlm_err *err)
{
    struct hlm_thread_shared *shared = self->shared;
    struct hlm_thread_cell *cell =
        &shared->cells[(int32_t)group->kind * shared->crew.world_size + group->members[0]];
    const uint64_t generation = atomic_load_explicit(&cell->generation, memory_order_acquire);
    if (bytes > 0) {
        memcpy(place_in(cell, generation, group->position), data, (size_t)bytes);
    }
    pthread_mutex_lock(&shared->crew.lock);
    const enum hlm_status status = arrive(self, group, cell, generation, err);
    pthread_mutex_unlock(&shared->crew.lock);
    if (status != HLM_OK) {
        hlm_err_prefix(err, "%s over %s", name, hlm_group_texts[group->kind]);
        return status;
    }
    *out_cell = cell;
    *out_generation = generation;
    return HLM_OK;
}

/* Sums `count` elements from `offset` bytes on of all members, in group order. */
static void combine(const struct hlm_thread_cell *cell, uint64_t generation, int64_t offset,
                    void *out, int64_t count, enum hlm_wire type, enum hlm_reduce op)
{
    memcpy(out, place_in(cell, generation, 0) + offset, (size_t)(count * hlm_wire_bytes(type)));
    for (int32_t i = 1; i < cell->size; i++) {
        hlm_wire_reduce(out, out, place_in(cell, generation, i) + offset, count, type, op);
    }
}

/* ---- the operations ---- */

static enum hlm_status thread_all_reduce(struct hlm_comm *comm, enum hlm_group kind, void *data,
                                         int64_t count, enum hlm_wire type, enum hlm_reduce op,
                                         struct hlm_err *err)
{
    struct hlm_thread_comm *self = of(comm);
    const struct hlm_comm_group *group = &self->groups.of[kind];
    const int64_t bytes = count * hlm_wire_bytes(type);
    if (group->size == 1) {
        return HLM_OK;
    }
    if (bytes >= HLM_RING_MIN_BYTES) {
        return hlm_ring_all_reduce(&self->ring, comm, group, data, count, type, op, err);
    }
    struct hlm_thread_cell *cell = NULL;
    uint64_t generation = 0;
    HLM_TRY(meet(self, group, "all_reduce", data, bytes, &cell, &generation, err));
    combine(cell, generation, 0, data, count, type, op);
    return HLM_OK;
}

static enum hlm_status thread_all_gather(struct hlm_comm *comm, enum hlm_group kind, const void *in,
                                         void *out, int64_t count, enum hlm_wire type,
                                         struct hlm_err *err)
{
    struct hlm_thread_comm *self = of(comm);
    const struct hlm_comm_group *group = &self->groups.of[kind];
    const int64_t bytes = count * hlm_wire_bytes(type);
    if (group->size > 1 && bytes * group->size < HLM_RING_MIN_BYTES) {
        struct hlm_thread_cell *cell = NULL;
        uint64_t generation = 0;
        HLM_TRY(meet(self, group, "all_gather", in, bytes, &cell, &generation, err));
        for (int32_t i = 0; i < group->size; i++) {
            memcpy((unsigned char *)out + i * bytes, place_in(cell, generation, i), (size_t)bytes);
        }
        return HLM_OK;
    }
    return hlm_ring_all_gather(&self->ring, comm, group, in, out, count, type, err);
}

static enum hlm_status thread_reduce_scatter(struct hlm_comm *comm, enum hlm_group kind,
                                             const void *in, void *out, int64_t count,
                                             enum hlm_wire type, struct hlm_err *err)
{
    struct hlm_thread_comm *self = of(comm);
    const struct hlm_comm_group *group = &self->groups.of[kind];
    const int64_t bytes = count * hlm_wire_bytes(type);
    if (group->size == 1) {
        memmove(out, in, (size_t)bytes);
        return HLM_OK;
    }
    if (bytes * group->size >= HLM_RING_MIN_BYTES) {
        return hlm_ring_reduce_scatter(&self->ring, comm, group, in, out, count, type, err);
    }
    struct hlm_thread_cell *cell = NULL;
    uint64_t generation = 0;
    HLM_TRY(meet(self, group, "reduce_scatter", in, bytes * group->size, &cell, &generation, err));
    combine(cell, generation, group->position * bytes, out, count, type, HLM_REDUCE_SUM);
    return HLM_OK;
}

static enum hlm_status thread_all_to_all(struct hlm_comm *comm, enum hlm_group kind, const void *in,
                                         const int64_t *in_bytes, void *out,
                                         const int64_t *out_bytes, struct hlm_err *err)
{
    return hlm_pairwise_all_to_all(comm, &of(comm)->groups.of[kind], in, in_bytes, out, out_bytes,
                                   err);
}

static enum hlm_status thread_barrier(struct hlm_comm *comm, enum hlm_group kind,
                                      struct hlm_err *err)
{
    struct hlm_thread_comm *self = of(comm);
    const struct hlm_comm_group *group = &self->groups.of[kind];
    struct hlm_thread_cell *cell = NULL;
    uint64_t generation = 0;
    return group->size == 1 ? HLM_OK
                            : meet(self, group, "barrier", NULL, 0, &cell, &generation, err);
}

/* ---- life ---- */

static void thread_abort(struct hlm_comm *comm)
{
    hlm_crew_abort(&of(comm)->shared->crew, comm->rank);
}

static void shared_free(struct hlm_crew *crew)
{
    struct hlm_thread_shared *shared = (struct hlm_thread_shared *)crew;
    hlm_thread_requests_free(shared);
    for (int32_t i = 0; shared->cells != NULL && i < HLM_NUM_GROUPS * shared->crew.world_size;
         i++) {
        free(shared->cells[i].arrived);
        free(shared->cells[i].data);
    }
    hlm_crew_release(crew);
    free(shared->queues);
    free(shared->cells);
    free(shared);
}

static void thread_release(struct hlm_comm *comm)
{
    struct hlm_thread_comm *self = of(comm);
    struct hlm_thread_shared *shared = self->shared;
    pthread_mutex_lock(&shared->crew.lock);
    hlm_thread_withdraw(self);
    hlm_crew_leave(&shared->crew, comm->rank);
    const bool last = --shared->crew.num_open == 0;
    pthread_mutex_unlock(&shared->crew.lock);
    if (last) {
        shared_free(&shared->crew);
    }
    hlm_ring_release(&self->ring);
    hlm_comm_groups_release(&self->groups);
    free(self);
}

static const struct hlm_comm_ops thread_ops = {
    .name = "thread",
    .release = thread_release,
    .abort = thread_abort,
    .all_reduce = thread_all_reduce,
    .all_gather = thread_all_gather,
    .reduce_scatter = thread_reduce_scatter,
    .all_to_all = thread_all_to_all,
    .barrier = thread_barrier,
    .send = hlm_thread_send,
    .receive = hlm_thread_receive,
    .wait = hlm_thread_wait,
};

static bool have_core_each(int32_t world_size)
{
    cpu_set_t cores;
    return sched_getaffinity(0, sizeof cores, &cores) == 0 && CPU_COUNT(&cores) >= world_size;
}

static struct hlm_thread_shared *shared_new(const struct hlm_comm_config *config,
                                            int32_t world_size)
{
    struct hlm_thread_shared *shared = calloc(1, sizeof *shared);
    if (shared == NULL) {
        return NULL;
    }
    const bool ready = hlm_crew_init(&shared->crew, world_size, config->timeout_s);
    shared->spins = have_core_each(world_size);
    shared->queues = calloc((size_t)world_size, sizeof *shared->queues);
    shared->cells = calloc((size_t)HLM_NUM_GROUPS * (size_t)world_size, sizeof *shared->cells);
    if (!ready || shared->queues == NULL || shared->cells == NULL) {
        shared_free(&shared->crew);
        return NULL;
    }
    return shared;
}

/* The first member makes the meeting places of its groups. */
static bool make_cells(struct hlm_thread_shared *shared, const struct hlm_comm_groups *groups,
                       int32_t rank)
{
    for (int kind = 0; kind < HLM_NUM_GROUPS; kind++) {
        const struct hlm_comm_group *group = &groups->of[kind];
        if (group->size == 1 || group->members[0] != rank) {
            continue;
        }
        struct hlm_thread_cell *cell = &shared->cells[kind * shared->crew.world_size + rank];
        cell->size = group->size;
        cell->arrived = calloc((size_t)group->size, sizeof *cell->arrived);
        cell->data = calloc(2 * (size_t)group->size, HLM_RING_MIN_BYTES);
        if (cell->arrived == NULL || cell->data == NULL) {
            return false;
        }
    }
    return true;
}

static enum hlm_status rank_new(const struct hlm_comm_config *config, struct hlm_crew *crew,
                                int32_t rank, struct hlm_comm **out, struct hlm_err *err)
{
    struct hlm_thread_shared *shared = (struct hlm_thread_shared *)crew;
    struct hlm_thread_comm *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return hlm_fail(err, HLM_FAILED, "out of memory for rank %" PRId32, rank);
    }
    self->base = (struct hlm_comm){&thread_ops, rank, shared->crew.world_size};
    self->shared = shared;
    enum hlm_status status = hlm_comm_groups_init(&self->groups, config->strategy, rank, err);
    if (status == HLM_OK && !make_cells(shared, &self->groups, rank)) {
        status = hlm_fail(err, HLM_FAILED, "out of memory for the groups of rank %" PRId32, rank);
    }
    if (status == HLM_OK) {
        status = hlm_ring_init(&self->ring, config->max_bytes, err);
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

enum hlm_status hlm_comm_thread_new(const struct hlm_comm_config *config, struct hlm_comm **out,
                                    struct hlm_err *err)
{
    const int32_t world_size = hlm_layout_group_size(config->strategy, HLM_GROUP_WORLD);
    struct hlm_thread_shared *shared = shared_new(config, world_size);
    if (shared == NULL) {
        return hlm_fail(err, HLM_FAILED, "out of memory for %" PRId32 " ranks", world_size);
    }
    return hlm_crew_make(config, &shared->crew, rank_new, shared_free, out, err);
}
