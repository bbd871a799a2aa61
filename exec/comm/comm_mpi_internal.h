/* comm_mpi_internal: the MPI transport's own parts: what a rank holds, how it waits and its
 * messages (comm_mpi_message.c), the collectives and its life (comm_mpi.c). For builds with MPI
 * alone. */
#ifndef HLM_EXEC_COMM_MPI_INTERNAL_H
#define HLM_EXEC_COMM_MPI_INTERNAL_H

#include <mpi.h>

#include "exec/comm/comm_internal.h"

struct hlm_request {
    struct hlm_request *next;     /* free list */
    struct hlm_request *next_all; /* all that were ever made */
    bool is_send;
    int32_t peer, channel;
    int64_t bytes;
    int num_pieces, capacity;
    MPI_Request *pieces; /* [capacity] */
};

struct hlm_mpi_comm {
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

static inline struct hlm_mpi_comm *hlm_mpi_of(struct hlm_comm *comm)
{
    return (struct hlm_mpi_comm *)comm;
}

/* What a rank waits for, put into words only when it fails. */
struct hlm_mpi_awaited {
    const struct hlm_request *message; /* or */
    const struct hlm_comm_group *group;
    const char *operation;
};

/* HLM_FAILED with MPI's words for its code. After these the transport counts as failed. */
HLM_MUST_CHECK enum hlm_status hlm_mpi_fail(struct hlm_mpi_comm *self, int code, const char *what,
                                            struct hlm_err *err);
/* The same; with MPI_SUCCESS: the time is up. */
HLM_MUST_CHECK enum hlm_status hlm_mpi_fail_wait(struct hlm_mpi_comm *self, int code,
                                                 const struct hlm_mpi_awaited *awaited,
                                                 struct hlm_err *err);

/* Polls until the request is complete, or the time is up. */
HLM_MUST_CHECK enum hlm_status hlm_mpi_wait_one(struct hlm_mpi_comm *self, MPI_Request *request,
                                                const struct hlm_mpi_awaited *awaited,
                                                MPI_Status *out_status, struct hlm_err *err);

/* As the functions of struct hlm_comm_ops. */
enum hlm_status hlm_mpi_send(struct hlm_comm *comm, int32_t peer, int32_t channel, const void *data,
                             int64_t bytes, struct hlm_request **out, struct hlm_err *err);
enum hlm_status hlm_mpi_receive(struct hlm_comm *comm, int32_t peer, int32_t channel, void *data,
                                int64_t bytes, struct hlm_request **out, struct hlm_err *err);
enum hlm_status hlm_mpi_wait(struct hlm_comm *comm, struct hlm_request *request,
                             struct hlm_err *err);

#endif
