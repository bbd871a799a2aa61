/* runner: interprets a schedule on one rank.
 *
 * The lowered schedule of the plan says what this rank does; the runner launches the operator lists
 * of the blocks for F, B, I and W, moves boundary activations and gradients, reduces gradients and
 * updates parameters. It knows no layer and no backend: operators go through exec/backend.h, which
 * may run them late, and all that other ranks take part in through exec/comm/exchange.h, which
 * keeps the order of computing and communication over host transports and stream-ordered ones.
 * Stages that are neighbours on this rank exchange by a copy.
 *
 * A backend that takes lists is given all operators between two collectives at once, arranged by
 * exec/fusion.h; one that has graphs replays them from the third use of a slot on.
 *
 * Receives are posted where the schedule has them, as far as there is room: a gradient always (it
 * comes to where the stage's output stood), an activation when a slot is free; else where its
 * forward needs it. Between two ranks the messages of one direction are posted in the order in
 * which they are sent (tests/property/test_messages.c plays all schedules).
 *
 * Every action is measured. Over a host transport: wall clock from the start of the step, CPU time
 * of the computing thread without communication, and wall clock spent in communication; the queue
 * is empty between actions. Over a stream-ordered one the device's own times, by events; the host
 * runs ahead and no CPU time is known.
 */
#ifndef HLM_EXEC_RUNNER_H
#define HLM_EXEC_RUNNER_H

#include "base/arena.h"
#include "exec/comm/comm.h"
#include "exec/data.h"
#include "exec/runner/state.h"

struct hlm_optimizer {
    double learning_rate, beta1, beta2, eps, weight_decay;
    double max_norm; /* of the global gradient, 0: no clipping */
};
/* AdamW 1e-3, 0.9, 0.95, 1e-8, 0.1; clipping at 1. */
extern const struct hlm_optimizer hlm_optimizer_default;

/* One measured action of the step. Waiting for messages is part of the action that needs the data
 * or its place, posting them of the action in front. */
struct hlm_run_event {
    struct hlm_action action;
    double start_s, end_s; /* wall, from the step's start */
    double compute_wall_s, compute_cpu_s;
    double group_comm_s;  /* wall in collectives of the action */
    double expert_comm_s; /* of these, between experts */
    double
        message_s; /* wall in waiting for and moving boundary messages; OPTIMIZER: for the norm */
};

struct hlm_run_step {
    double wall_s;
    double loss;              /* mean over the global batch, equal on all ranks */
    double grad_norm;         /* before clipping */
    double availability_frac; /* CPU time over wall clock of this rank's computing */
    const struct hlm_run_event
        *events; /* [num_events] F, B, I, W, REDUCE_GRAD, OPTIMIZER in order */
    int32_t num_events;
};

struct hlm_runner;

/* timeout_s: of waits for other ranks over a stream-ordered transport (host transports have their
 * own). The arena outlives the transport: a peer may still read what this rank has staged. */
HLM_MUST_CHECK enum hlm_status hlm_runner_new(struct hlm_arena *arena, struct hlm_state *state,
                                              struct hlm_comm *comm, const struct hlm_data *data,
                                              const struct hlm_optimizer *optimizer,
                                              double timeout_s, struct hlm_runner **out,
                                              struct hlm_err *err);
/* Before the transport, the state and the backend; NULL accepted. */
void hlm_runner_free(struct hlm_runner *runner);

/* Whether passes are put on the queue as graphs (exec/backend.h) where the backend has them: so at
 * first. Before the first step. */
void hlm_runner_use_graphs(struct hlm_runner *runner, bool use);

/* One step. `events` are overwritten by the next step. HLM_FAILED: a peer or the backend failed, or
 * loss or gradient norm are not finite (names the step). collective over the world. */
HLM_MUST_CHECK enum hlm_status hlm_runner_step(struct hlm_runner *runner, int64_t step,
                                               struct hlm_run_step *out, struct hlm_err *err);

/* Told before every action and communication; arguments as hlm_heartbeat_set takes them. */
typedef void hlm_runner_watch_fn(void *context, int64_t step, const char *action,
                                 const char *operation, bool waiting);
void hlm_runner_watch(struct hlm_runner *runner, hlm_runner_watch_fn *watch, void *context);

#endif
