/* A process as a rank of MPI_COMM_WORLD. All waits poll with MPI_Test, so that they can end at a
 * deadline; MPI itself moves messages only inside its calls. MPI is called by one thread
 * (FUNNELED). */
#include "exec/comm.h"

#ifdef HLM_HAVE_MPI

#include <inttypes.h>
#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "exec/comm_internal.h"

/* TIGHT_POLLS: before the first sched_yield. Where ranks share cores, a wait of more than
 * NAP_AFTER_NS naps between polls, since yielding alone leaves little of a core to the ranks that
 * compute. */
enum { TIGHT_POLLS = 100, NAP_AFTER_NS = 300000, NAP_NS = 30000, TEXT_BYTES = 160 };

/* MPI counts bytes in an int: longer messages go in pieces, which arrive in order. */
static const int64_t piece_bytes = (int64_t)1 << 30;

struct hlm_request {
    struct hlm_request *next;     /* free list */
    struct hlm_request *next_all; /* all that were ever made */
    bool is_send;
    int32_t peer, channel;
    int64_t bytes;
    int num_pieces, capacity;
    MPI_Request *pieces; /* [capacity] */
};

struct mpi_comm {
    struct hlm_comm base;
    struct hlm_comm_groups groups;
    struct hlm_ring ring;
    unsigned char *scratch; /* [HLM_RING_MIN_BYTES]: small reduce_scatters whose ends overlap */
    MPI_Comm messages;
    MPI_Comm of_group[HLM_NUM_GROUPS]; /* MPI_COMM_NULL where the group is this rank alone */
    MPI_Op operations[2];              /* by enum hlm_reduce */
    struct hlm_request *all, *unused;
    double timeout_s;
    bool shares_cores;
    bool failed; /* then MPI_Finalize would wait for ranks that never come */
};

static struct mpi_comm *of(struct hlm_comm *comm)
{
    return (struct mpi_comm *)comm;
}

/* ---- errors and waiting ---- */

/* What a rank waits for, put into words only when it fails. */
struct awaited {
    const struct hlm_request *message; /* or */
    const struct hlm_comm_group *group;
    const char *operation;
};

static void describe(const struct awaited *awaited, char what[TEXT_BYTES])
{
    const struct hlm_request *message = awaited->message;
    if (message != NULL) {
        snprintf(what, TEXT_BYTES, "a message of %" PRId64 " bytes %s rank %" PRId32,
                 message->bytes, message->is_send ? "to be taken by" : "from", message->peer);
        return;
    }
    const struct hlm_comm_group *group = awaited->group;
    int length = snprintf(what, TEXT_BYTES, "%s over %s with rank", awaited->operation,
                          hlm_group_texts[group->kind]);
    for (int32_t i = 0; i < group->size && length < TEXT_BYTES; i++) {
        if (i != group->position) {
            length += snprintf(what + length, TEXT_BYTES - (size_t)length, " %" PRId32,
                               group->members[i]);
        }
    }
}

static enum hlm_status fail_mpi(struct mpi_comm *self, int code, const char *what,
                                struct hlm_err *err)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    self->failed = true;
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) {
        text[0] = '\0';
    }
    return hlm_fail(err, HLM_FAILED, "rank %" PRId32 ": %s: MPI error %d: %s", self->base.rank,
                    what, code, text);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void pause_poll(const struct mpi_comm *self, int64_t polls, int64_t waited_ns)
{
    const struct timespec nap = {0, NAP_NS};
    if (self->shares_cores && waited_ns > NAP_AFTER_NS) {
        nanosleep(&nap, NULL);
    } else if (polls > TIGHT_POLLS) {
        sched_yield();
    }
}

static enum hlm_status fail_wait(struct mpi_comm *self, int code, const struct awaited *awaited,
                                 struct hlm_err *err)
{
    char what[TEXT_BYTES];
    describe(awaited, what);
    if (code != MPI_SUCCESS) {
        return fail_mpi(self, code, what, err);
    }
    self->failed = true;
    return hlm_fail(err, HLM_FAILED, "rank %" PRId32 " has waited %g s for %s", self->base.rank,
                    self->timeout_s, what);
}

/* Polls until the request is complete. */
static enum hlm_status wait_one(struct mpi_comm *self, MPI_Request *request,
                                const struct awaited *awaited, MPI_Status *out_status,
                                struct hlm_err *err)
{
    const int64_t start_ns = now_ns();
    for (int64_t polls = 0;; polls++) {
        int done = 0;
        const int code = MPI_Test(request, &done, out_status);
        if (code == MPI_SUCCESS && done) {
            return HLM_OK;
        }
        const int64_t waited_ns = now_ns() - start_ns;
        if (code != MPI_SUCCESS || (double)waited_ns * 1e-9 > self->timeout_s) {
            return fail_wait(self, code, awaited, err);
        }
        pause_poll(self, polls, waited_ns);
    }
}

/* ---- messages ---- */

static struct hlm_request *request_new(struct mpi_comm *self, int num_pieces)
{
    struct hlm_request *request = self->unused;
    if (request != NULL) {
        self->unused = request->next;
    } else {
        request = calloc(1, sizeof *request);
        if (request == NULL) {
            return NULL;
        }
        request->next_all = self->all;
        self->all = request;
    }
    if (request->capacity < num_pieces) {
        MPI_Request *pieces =
            realloc(request->pieces, (size_t)num_pieces * sizeof *request->pieces);
        if (pieces == NULL) {
            request->next = self->unused;
            self->unused = request;
            return NULL;
        }
        request->pieces = pieces;
        request->capacity = num_pieces;
    }
    return request;
}

static int64_t piece_of(int64_t bytes, int i)
{
    const int64_t left = bytes - i * piece_bytes;
    return left < piece_bytes ? left : piece_bytes;
}

static int post_piece(const struct mpi_comm *self, const struct hlm_request *request, void *data,
                      int64_t bytes, MPI_Request *out)
{
    return request->is_send ? MPI_Isend(data, (int)bytes, MPI_BYTE, request->peer, request->channel,
                                        self->messages, out)
                            : MPI_Irecv(data, (int)bytes, MPI_BYTE, request->peer, request->channel,
                                        self->messages, out);
}

static enum hlm_status post(struct mpi_comm *self, bool is_send, int32_t peer, int32_t channel,
                            void *data, int64_t bytes, struct hlm_request **out,
                            struct hlm_err *err)
{
    HLM_ASSERT(peer >= 0 && peer < self->base.world_size && bytes >= 0);
    const int num_pieces = bytes == 0 ? 1 : (int)((bytes + piece_bytes - 1) / piece_bytes);
    struct hlm_request *request = request_new(self, num_pieces);
    if (request == NULL) {
        return hlm_fail(err, HLM_FAILED, "rank %" PRId32 " is out of memory for a message",
                        self->base.rank);
    }
    request->is_send = is_send;
    request->peer = peer;
    request->channel = channel;
    request->bytes = bytes;
    request->num_pieces = num_pieces;
    for (int i = 0; i < num_pieces; i++) {
        const int code = post_piece(self, request, (unsigned char *)data + i * piece_bytes,
                                    piece_of(bytes, i), &request->pieces[i]);
        if (code != MPI_SUCCESS) {
            return fail_mpi(self, code, is_send ? "send" : "receive", err);
        }
    }
    *out = request;
    return HLM_OK;
}

static enum hlm_status mpi_send(struct hlm_comm *comm, int32_t peer, int32_t channel,
                                const void *data, int64_t bytes, struct hlm_request **out,
                                struct hlm_err *err)
{
    /* The address goes through the path of receive, which writes; MPI_Isend does not. */
    return post(of(comm), true, peer, channel, (void *)(uintptr_t)data, bytes, out, err);
}

static enum hlm_status mpi_receive(struct hlm_comm *comm, int32_t peer, int32_t channel, void *data,
                                   int64_t bytes, struct hlm_request **out, struct hlm_err *err)
{
    return post(of(comm), false, peer, channel, data, bytes, out, err);
}

/* MPI gives no sign when less than the buffer has come. */
static enum hlm_status check_length(struct mpi_comm *self, const struct hlm_request *request,
                                    const MPI_Status *status, int64_t expected, struct hlm_err *err)
{
    int got = 0;
    if (request->is_send || MPI_Get_count(status, MPI_BYTE, &got) != MPI_SUCCESS ||
        got == expected) {
        return HLM_OK;
    }
    self->failed = true;
    return hlm_fail(err, HLM_FAILED,
                    "rank %" PRId32 ": a message from rank %" PRId32
                    " has %d bytes in place of %" PRId64,
                    self->base.rank, request->peer, got, expected);
}

static enum hlm_status mpi_wait(struct hlm_comm *comm, struct hlm_request *request,
                                struct hlm_err *err)
{
    if (request == NULL) {
        return HLM_OK;
    }
    struct mpi_comm *self = of(comm);
    const struct awaited awaited = {.message = request};
    for (int i = 0; i < request->num_pieces; i++) {
        MPI_Status status;
        HLM_TRY(wait_one(self, &request->pieces[i], &awaited, &status, err));
        HLM_TRY(check_length(self, request, &status, piece_of(request->bytes, i), err));
    }
    request->next = self->unused;
    self->unused = request;
    return HLM_OK;
}

/* ---- small collectives ---- */

/* Finishes what a non-blocking collective has begun. */
static enum hlm_status finish(struct mpi_comm *self, const struct hlm_comm_group *group,
                              const char *name, int code, MPI_Request *request, struct hlm_err *err)
{
    const struct awaited awaited = {.group = group, .operation = name};
    return code != MPI_SUCCESS ? fail_wait(self, code, &awaited, err)
                               : wait_one(self, request, &awaited, MPI_STATUS_IGNORE, err);
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
    HLM_ASSERT(!"one of the types above");
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
    struct mpi_comm *self = of(comm);
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
    struct mpi_comm *self = of(comm);
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
    struct mpi_comm *self = of(comm);
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

static enum hlm_status mpi_barrier(struct hlm_comm *comm, enum hlm_group kind, struct hlm_err *err)
{
    struct mpi_comm *self = of(comm);
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
    of(comm)->failed = true;
    MPI_Abort(MPI_COMM_WORLD, HLM_FAILED);
}

static void free_memory(struct mpi_comm *self)
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

static void free_mpi(struct mpi_comm *self)
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
    struct mpi_comm *self = of(comm);
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
    .barrier = mpi_barrier,
    .send = mpi_send,
    .receive = mpi_receive,
    .wait = mpi_wait,
};

/* Every rank makes every communicator here, at once and in one order: made when first needed, two
 * ranks could be at two different ones and wait for each other. */
static int make_communicators(struct mpi_comm *self)
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
static int find_sharing(struct mpi_comm *self)
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

static enum hlm_status setup(struct mpi_comm *self, const struct hlm_comm_config *config,
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
    return code == MPI_SUCCESS ? HLM_OK : fail_mpi(self, code, "making the groups", err);
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
    struct mpi_comm *self = calloc(1, sizeof *self);
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
