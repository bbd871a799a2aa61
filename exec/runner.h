/* runner: interprets a schedule on one rank.
 *
 * The lowered schedule of the plan says what this rank does; the runner launches the operator lists
 * of the blocks for F, B, I and W, moves boundary activations and gradients, reduces gradients and
 * updates parameters. It knows no layer and no backend: operators go through exec/backend.h, which
 * may run them late, and communication through exec/comm.h. With a host transport, the queue is
 * synced before data leaves and data that the host can't reach is staged; a receive happens where
 * its action needs the data (an MPI without progress threads would not start earlier).
 *
 * Every action is measured: wall clock from the start of the step, CPU time of the computing thread
 * without communication, and wall clock spent in communication.
 */
#ifndef HLM_EXEC_RUNNER_H
#define HLM_EXEC_RUNNER_H

#include "base/arena.h"
#include "exec/comm.h"
#include "exec/data.h"
#include "exec/state.h"

struct hlm_optimizer {
    double learning_rate, beta1, beta2, eps, weight_decay;
    double max_norm; /* of the global gradient, 0: no clipping */
};
/* AdamW 1e-3, 0.9, 0.95, 1e-8, 0.1; clipping at 1. */
extern const struct hlm_optimizer hlm_optimizer_default;

/* One measured action of the step. Sends and receives are part of the action that needs or makes
 * the data. */
struct hlm_run_event {
    struct hlm_action action;
    double start_s, end_s; /* wall, from the step's start */
    double compute_wall_s, compute_cpu_s;
    double group_comm_s; /* wall in collectives of the action */
    double
        message_s; /* wall in waiting for and moving boundary messages; OPTIMIZER: for the norm */
};

struct hlm_run_step {
    double wall_s;
    double loss;                        /* mean over the global batch, equal on all ranks */
    double grad_norm;                   /* before clipping */
    double availability_frac;           /* CPU time over wall clock of this rank's computing */
    const struct hlm_run_event *events; /* [num_events] F, B, REDUCE_GRAD, OPTIMIZER in order */
    int32_t num_events;
};

struct hlm_runner;

HLM_MUST_CHECK enum hlm_status hlm_runner_new(struct hlm_arena *arena, struct hlm_state *state,
                                              struct hlm_comm *comm, const struct hlm_data *data,
                                              const struct hlm_optimizer *optimizer,
                                              struct hlm_runner **out, struct hlm_err *err);
void hlm_runner_free(struct hlm_runner *runner); /* NULL accepted */

/* One step. `events` are overwritten by the next step. HLM_FAILED: a peer or the backend failed, or
 * loss or gradient norm are not finite (names the step). collective over the world. */
HLM_MUST_CHECK enum hlm_status hlm_runner_step(struct hlm_runner *runner, int64_t step,
                                               struct hlm_run_step *out, struct hlm_err *err);

/* Told before every action and communication; arguments as hlm_heartbeat_set takes them. */
typedef void hlm_runner_watch_fn(void *context, int64_t step, const char *action,
                                 const char *operation, bool waiting);
void hlm_runner_watch(struct hlm_runner *runner, hlm_runner_watch_fn *watch, void *context);

#endif
