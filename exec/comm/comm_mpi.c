/* A process as a rank of MPI_COMM_WORLD: its collectives and its life. MPI is called by one thread
 * (FUNNELED). */
#include "exec/comm/comm.h"

#ifdef HLM_HAVE_MPI

#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "exec/comm/comm_mpi_internal.h"

/* ---- small collectives ---- */

/* Finishes what a non-blocking collective has begun. */
static enum hlm_status finish(struct hlm_mpi_comm *self, const struct hlm_comm_group *group,
                              const char *name, int code, MPI_Request *request, struct hlm_err *err)
{
    const struct hlm_mpi_awaited awaited = {.group = group, .operation = name};
    return code != MPI_SUCCESS ? hlm_mpi_fail_wait(self, code, &awaited, err)
                               : hlm_mpi_wait_one(self, request, &awaited, MPI_STATUS_IGNORE, err);
}

/* Bit patterns of bf16 travel as 16-bit integers; the operations below tell them by that. */
static MPI_Datatype mpi_type(enum hlm_wire type)
{
    switch (type) {
    case HLM_WIRE_F32:
        return MPI_FLOAT;
    case HLM_WIRE_F64:
        return MPI_DOUBLE;
    case HLM_WIRE_BF16:
        return MPI_UINT16_T;
    case HLM_WIRE_BYTE:
        return MPI_UINT8_T;
    }
    return MPI_DATATYPE_NULL;
}

static void reduce_by(void *in, void *inout, int count, MPI_Datatype type, enum hlm_reduce op)
{
    static const enum hlm_wire types[] = {HLM_WIRE_F32, HLM_WIRE_F64, HLM_WIRE_BF16, HLM_WIRE_BYTE};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (mpi_type(types[i]) == type) {
            hlm_wire_reduce(inout, inout, in, count, types[i], op);
            return;
        }
    }
    HLM_ASSERT(false); /* it is one of the types above */
}

/* Our own arithmetic, so that NaN and bf16 are what they are in the ring. */
static void reduce_sum(void *in, void *inout, int *count, MPI_Datatype *type)
{
    reduce_by(in, inout, *count, *type, HLM_REDUCE_SUM);
}

static void reduce_max(void *in, void *inout, int *count, MPI_Datatype *type)
{
    reduce_by(in, inout, *count, *type, HLM_REDUCE_MAX);
}

/* ---- the operations ---- */

static enum hlm_status mpi_all_reduce(struct hlm_comm *comm, enum hlm_group kind, void *data,
                                      int64_t count, enum hlm_wire type, enum hlm_reduce op,
                                      struct hlm_err *err)
{
    struct hlm_mpi_comm *self = hlm_mpi_of(comm);
    const struct hlm_comm_group *group = &self->groups.of[kind];
    enum hlm_status status = HLM_OK;
    if (group->size > 1 && count * hlm_wire_bytes(type) >= HLM_RING_MIN_BYTES) {
        status = hlm_ring_all_reduce(&self->ring, comm, group, data, count, type, op, err);
    } else if (group->size > 1) {
        MPI_Request request;
        const int code = MPI_Iallreduce(MPI_IN_PLACE, data, (int)count, mpi_type(type),
                                        self->operations[op], self->of_group[kind], &request);
        status = finish(self, group, "all_reduce", code, &request, err);
    }
    return status;
}

static enum hlm_status mpi_all_gather(struct hlm_comm *comm, enum hlm_group kind, const void *in,
                                      void *out, int64_t count, enum hlm_wire type,
                                      struct hlm_err *err)
{
    struct hlm_mpi_comm *self = hlm_mpi_of(comm);
    const struct hlm_comm_group *group = &self->groups.of[kind];
    const int64_t bytes = count * hlm_wire_bytes(type);
    if (group->size == 1 || bytes * group->size >= HLM_RING_MIN_BYTES) {
        return hlm_ring_all_gather(&self->ring, comm, group, in, out, count, type, err);
    }
    const bool in_place = in == (unsigned char *)out + group->position * bytes;
    MPI_Request request;
    const int code = MPI_Iallgather(in_place ? MPI_IN_PLACE : in, (int)bytes, MPI_BYTE, out,
                                    (int)bytes, MPI_BYTE, self->of_group[kind], &request);
    return finish(self, group, "all_gather", code, &request, err);
}

static enum hlm_status mpi_reduce_scatter(struct hlm_comm *comm, enum hlm_group kind,
                                          const void *in, void *out, int64_t count,
                                          enum hlm_wire type, struct hlm_err *err)
{
    struct hlm_mpi_comm *self = hlm_mpi_of(comm);
    const struct hlm_comm_group *group = &self->groups.of[kind];
    const int64_t bytes = count * hlm_wire_bytes(type);
    if (group->size == 1) {
        memmove(out, in, (size_t)bytes);
        return HLM_OK;
    }
    if (bytes * group->size >= HLM_RING_MIN_BYTES) {
        return hlm_ring_reduce_scatter(&self->ring, comm, group, in, out, count, type, err);
    }
    MPI_Request request;
    const int code =
        MPI_Ireduce_scatter_block(in, self->scratch, (int)count, mpi_type(type),
                                  self->operations[HLM_REDUCE_SUM], self->of_group[kind], &request);
    HLM_TRY(finish(self, group, "reduce_scatter", code, &request, err));
    memcpy(out, self->scratch, (size_t)bytes);
    return HLM_OK;
}

static enum hlm_status mpi_all_to_all(struct hlm_comm *comm, enum hlm_group kind, const void *in,
                                      const int64_t *in_bytes, void *out, const int64_t *out_bytes,
                                      struct hlm_err *err)
{
    return hlm_pairwise_all_to_all(comm, &hlm_mpi_of(comm)->groups.of[kind], in, in_bytes, out,
                                   out_bytes, err);
}

static enum hlm_status mpi_barrier(struct hlm_comm *comm, enum hlm_group kind, struct hlm_err *err)
{
    struct hlm_mpi_comm *self = hlm_mpi_of(comm);
    const struct hlm_comm_group *group = &self->groups.of[kind];
    if (group->size == 1) {
        return HLM_OK;
    }
    MPI_Request request;
    const int code = MPI_Ibarrier(self->of_group[kind], &request);
    return finish(self, group, "barrier", code, &request, err);
}

/* ---- life ---- */

/* Ends this process too, so the caller reports first. */
static void mpi_abort(struct hlm_comm *comm)
{
    hlm_mpi_of(comm)->failed = true;
    MPI_Abort(MPI_COMM_WORLD, HLM_FAILED);
}

static void free_memory(struct hlm_mpi_comm *self)
{
    while (self->all != NULL) {
        struct hlm_request *request = self->all;
        self->all = request->next_all;
        free(request->pieces);
        free(request);
    }
    hlm_ring_release(&self->ring);
    hlm_comm_groups_release(&self->groups);
    free(self->scratch);
    free(self);
}

static void free_mpi(struct hlm_mpi_comm *self)
{
    for (int kind = 0; kind < HLM_NUM_GROUPS; kind++) {
        if (self->of_group[kind] != MPI_COMM_NULL) {
            MPI_Comm_free(&self->of_group[kind]);
        }
    }
    for (int op = 0; op < 2; op++) {
        MPI_Op_free(&self->operations[op]);
    }
    MPI_Comm_free(&self->messages);
    MPI_Finalize();
}

/* After a failure the process is about to exit: without MPI_Finalize, which would wait for the
 * others. */
static void mpi_release(struct hlm_comm *comm)
{
    struct hlm_mpi_comm *self = hlm_mpi_of(comm);
    if (!self->failed) {
        free_mpi(self);
    }
    free_memory(self);
}

static const struct hlm_comm_ops mpi_ops = {
    .name = "mpi",
    .release = mpi_release,
    .abort = mpi_abort,
    .all_reduce = mpi_all_reduce,
    .all_gather = mpi_all_gather,
    .reduce_scatter = mpi_reduce_scatter,
    .all_to_all = mpi_all_to_all,
    .barrier = mpi_barrier,
    .send = hlm_mpi_send,
    .receive = hlm_mpi_receive,
    .wait = hlm_mpi_wait,
};

/* Every rank makes every communicator here, at once and in one order: made when first needed, two
 * ranks could be at two different ones and wait for each other. */
static int make_communicators(struct hlm_mpi_comm *self)
{
    int code = MPI_Comm_dup(MPI_COMM_WORLD, &self->messages);
    for (int kind = 0; kind < HLM_NUM_GROUPS && code == MPI_SUCCESS; kind++) {
        const struct hlm_comm_group *group = &self->groups.of[kind];
        code =
            MPI_Comm_split(MPI_COMM_WORLD, group->size > 1 ? (int)group->members[0] : MPI_UNDEFINED,
                           group->position, &self->of_group[kind]);
    }
    if (code == MPI_SUCCESS) {
        code = MPI_Op_create(reduce_sum, 1, &self->operations[HLM_REDUCE_SUM]);
    }
    return code == MPI_SUCCESS ? MPI_Op_create(reduce_max, 1, &self->operations[HLM_REDUCE_MAX])
                               : code;
}

/* Whether the ranks of this machine are more than the cores that they may use. */
static int find_sharing(struct hlm_mpi_comm *self)
{
    MPI_Comm node;
    int on_node = 1;
    int code = MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    if (code == MPI_SUCCESS) {
        code = MPI_Comm_size(node, &on_node);
        MPI_Comm_free(&node);
    }
    cpu_set_t cores;
    self->shares_cores =
        sched_getaffinity(0, sizeof cores, &cores) == 0 && CPU_COUNT(&cores) < on_node;
    return code;
}

static enum hlm_status setup(struct hlm_mpi_comm *self, const struct hlm_comm_config *config,
                             struct hlm_err *err)
{
    const int32_t wanted = hlm_layout_group_size(config->strategy, HLM_GROUP_WORLD);
    int rank = 0, size = 0;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    self->base = (struct hlm_comm){&mpi_ops, rank, size};
    if (size != wanted) {
        return hlm_fail(err, HLM_USAGE, "MPI started %d ranks, but the plan has %" PRId32, size,
                        wanted);
    }
    HLM_TRY(hlm_comm_groups_init(&self->groups, config->strategy, rank, err));
    HLM_TRY(hlm_ring_init(&self->ring, config->max_bytes, err));
    self->scratch = malloc(HLM_RING_MIN_BYTES);
    if (self->scratch == NULL) {
        return hlm_fail(err, HLM_FAILED, "rank %d is out of memory for its scratch", rank);
    }
    int code = make_communicators(self);
    if (code == MPI_SUCCESS) {
        code = find_sharing(self);
    }
    return code == MPI_SUCCESS ? HLM_OK : hlm_mpi_fail(self, code, "making the groups", err);
}

enum hlm_status hlm_comm_mpi_new(const struct hlm_comm_config *config, struct hlm_comm **out,
                                 struct hlm_err *err)
{
    int provided = 0;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS ||
        provided < MPI_THREAD_FUNNELED) {
        return hlm_fail(err, HLM_ENV, "MPI cannot be initialised with threads (level %d)",
                        provided);
    }
    struct hlm_mpi_comm *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return hlm_fail(err, HLM_FAILED, "out of memory for the MPI transport");
    }
    self->timeout_s = config->timeout_s;
    const enum hlm_status status = setup(self, config, err);
    if (status != HLM_OK) {
        if (status == HLM_USAGE) {
            MPI_Finalize(); /* all ranks see the same */
        }
        free_memory(self);
        return status;
    }
    *out = &self->base;
    return HLM_OK;
}

bool hlm_comm_mpi_available(void)
{
    return true;
}

#else

enum hlm_status hlm_comm_mpi_new(const struct hlm_comm_config *config, struct hlm_comm **out,
                                 struct hlm_err *err)
{
    (void)config;
    (void)out;
    return hlm_fail(err, HLM_ENV,
                    "this build has no MPI; ranks can run as threads (--transport thread)");
}

bool hlm_comm_mpi_available(void)
{
    return false;
}

#endif
