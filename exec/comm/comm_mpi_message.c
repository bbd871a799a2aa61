/* How a rank of the MPI transport waits, and its messages. All waits poll with MPI_Test, so that
 * they can end at a deadline; MPI itself moves messages only inside its calls. */
#include "exec/comm/comm.h"

#ifdef HLM_HAVE_MPI

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "exec/comm/comm_mpi_internal.h"

/* TIGHT_POLLS: before the first sched_yield. Where ranks share cores, a wait of more than
 * NAP_AFTER_NS naps between polls, since yielding alone leaves little of a core to the ranks that
 * compute. */
enum { TIGHT_POLLS = 100, NAP_AFTER_NS = 300000, NAP_NS = 30000, TEXT_BYTES = 160 };

/* MPI counts bytes in an int: longer messages go in pieces, which arrive in order. */
static const int64_t piece_bytes = (int64_t)1 << 30;

/* ---- errors and waiting ---- */

static void describe(const struct hlm_mpi_awaited *awaited, char what[TEXT_BYTES])
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

enum hlm_status hlm_mpi_fail(struct hlm_mpi_comm *self, int code, const char *what,
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

static void pause_poll(const struct hlm_mpi_comm *self, int64_t polls, int64_t waited_ns)
{
    const struct timespec nap = {0, NAP_NS};
    if (self->shares_cores && waited_ns > NAP_AFTER_NS) {
        nanosleep(&nap, NULL);
    } else if (polls > TIGHT_POLLS) {
        sched_yield();
    }
}

enum hlm_status hlm_mpi_fail_wait(struct hlm_mpi_comm *self, int code,
                                  const struct hlm_mpi_awaited *awaited, struct hlm_err *err)
{
    char what[TEXT_BYTES];
    describe(awaited, what);
    if (code != MPI_SUCCESS) {
        return hlm_mpi_fail(self, code, what, err);
    }
    self->failed = true;
    return hlm_fail(err, HLM_FAILED, "rank %" PRId32 " has waited %g s for %s", self->base.rank,
                    self->timeout_s, what);
}

enum hlm_status hlm_mpi_wait_one(struct hlm_mpi_comm *self, MPI_Request *request,
                                 const struct hlm_mpi_awaited *awaited, MPI_Status *out_status,
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
            return hlm_mpi_fail_wait(self, code, awaited, err);
        }
        pause_poll(self, polls, waited_ns);
    }
}

/* ---- messages ---- */

static struct hlm_request *request_new(struct hlm_mpi_comm *self, int num_pieces)
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

static int post_piece(const struct hlm_mpi_comm *self, const struct hlm_request *request,
                      void *data, int64_t bytes, MPI_Request *out)
{
    return request->is_send ? MPI_Isend(data, (int)bytes, MPI_BYTE, request->peer, request->channel,
                                        self->messages, out)
                            : MPI_Irecv(data, (int)bytes, MPI_BYTE, request->peer, request->channel,
                                        self->messages, out);
}

static enum hlm_status post(struct hlm_mpi_comm *self, bool is_send, int32_t peer, int32_t channel,
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
            return hlm_mpi_fail(self, code, is_send ? "send" : "receive", err);
        }
    }
    *out = request;
    return HLM_OK;
}

enum hlm_status hlm_mpi_send(struct hlm_comm *comm, int32_t peer, int32_t channel, const void *data,
                             int64_t bytes, struct hlm_request **out, struct hlm_err *err)
{
    /* The address goes through the path of receive, which writes; MPI_Isend does not. */
    return post(hlm_mpi_of(comm), true, peer, channel, (void *)(uintptr_t)data, bytes, out, err);
}

enum hlm_status hlm_mpi_receive(struct hlm_comm *comm, int32_t peer, int32_t channel, void *data,
                                int64_t bytes, struct hlm_request **out, struct hlm_err *err)
{
    return post(hlm_mpi_of(comm), false, peer, channel, data, bytes, out, err);
}

/* MPI gives no sign when less than the buffer has come. */
static enum hlm_status check_length(struct hlm_mpi_comm *self, const struct hlm_request *request,
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

enum hlm_status hlm_mpi_wait(struct hlm_comm *comm, struct hlm_request *request,
                             struct hlm_err *err)
{
    if (request == NULL) {
        return HLM_OK;
    }
    struct hlm_mpi_comm *self = hlm_mpi_of(comm);
    const struct hlm_mpi_awaited awaited = {.message = request};
    for (int i = 0; i < request->num_pieces; i++) {
        MPI_Status status;
        HLM_TRY(hlm_mpi_wait_one(self, &request->pieces[i], &awaited, &status, err));
        HLM_TRY(check_length(self, request, &status, piece_of(request->bytes, i), err));
    }
    request->next = self->unused;
    self->unused = request;
    return HLM_OK;
}

#endif
