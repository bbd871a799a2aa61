/* comm_mpi <how> <dp> <tp> <pp>, under mpirun:
 *     body       what every transport must do
 *     late       rank 1 comes too late; the others must say so
 *     mismatch   the strategy has another number of ranks than mpirun
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exec/comm/comm.h"
#include "tests/support/comm_body.h"

static int run_body(struct hlm_comm *comm, const struct hlm_strategy *strategy)
{
    struct hlm_err err;
    if (comm_body_run(comm, strategy, &err) != HLM_OK) {
        fprintf(stderr, "%s\n", err.text);
        comm->ops->abort(comm);
    }
    hlm_comm_free(comm);
    return 0;
}

/* The message is what is tested; the run ends by abort, as a real one would. */
static int run_late(struct hlm_comm *comm, const struct hlm_strategy *strategy)
{
    (void)strategy;
    struct hlm_err err = {0};
    double values[4000] = {0};
    struct hlm_request *request = NULL;
    if (comm->rank == 1) {
        sleep(60);
        return 0;
    }
    const enum hlm_status small =
        comm->ops->all_reduce(comm, HLM_GROUP_WORLD, values, 1, HLM_WIRE_F64, HLM_REDUCE_SUM, &err);
    printf("small: %d %s\n", (int)small, err.text);
    const enum hlm_status large = comm->ops->all_reduce(comm, HLM_GROUP_WORLD, values, 4000,
                                                        HLM_WIRE_F64, HLM_REDUCE_SUM, &err);
    printf("large: %d %s\n", (int)large, err.text);
    if (comm->ops->receive(comm, 1, 0, values, 8, &request, &err) == HLM_OK) {
        const enum hlm_status message = comm->ops->wait(comm, request, &err);
        printf("message: %d %s\n", (int)message, err.text);
    }
    fflush(stdout);
    comm->ops->abort(comm);
    return HLM_FAILED;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        return HLM_USAGE;
    }
    const bool late = strcmp(argv[1], "late") == 0;
    const struct hlm_strategy strategy =
        comm_body_strategy((int32_t)strtol(argv[2], NULL, 10), (int32_t)strtol(argv[3], NULL, 10),
                           (int32_t)strtol(argv[4], NULL, 10));
    const struct hlm_comm_config config = {
        .strategy = &strategy, .timeout_s = late ? 0.5 : 120, .max_bytes = COMM_BODY_MAX_BYTES};
    struct hlm_comm *comm = NULL;
    struct hlm_err err;
    const enum hlm_status status = hlm_comm_mpi_new(&config, &comm, &err);
    if (status != HLM_OK) {
        fprintf(stderr, "%s\n", err.text);
        return (int)status;
    }
    return (late ? run_late : run_body)(comm, &strategy);
}
