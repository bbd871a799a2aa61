/* runner_internal: what the parts of the runner share. runner.c makes one and runs the step;
 * runner_pass.c runs forwards, backwards and their messages; runner_ops.c operators and
 * collectives; runner_update.c reduces gradients and updates parameters. */
#ifndef HLM_EXEC_RUNNER_INTERNAL_H
#define HLM_EXEC_RUNNER_INTERNAL_H

#include "exec/compute_clock.h"
#include "exec/hostcopy.h"
#include "exec/runner.h"

/* A slot holds one microbatch from its forward to its backward; its messages may still be under way
 * when it is taken again, so taking waits for them. */
struct hlm_runner_slot {
    int32_t microbatch; /* -1: free */
    struct hlm_request *send_forward, *send_backward;
    char *host_output, *host_dinput; /* staging, NULL where the host reaches device memory */
};

struct hlm_runner {
    struct hlm_state *state;
    struct hlm_comm *comm;
    const struct hlm_data *data;
    struct hlm_optimizer optimizer;
    const struct hlm_rank_actions *actions;
    struct hlm_runner_slot *slots;
    struct hlm_hostcopy host;
    struct hlm_compute_clock clock;
    struct hlm_run_event *events;
    int32_t num_events;
    struct hlm_run_event *event; /* of the action that runs */
    int32_t *tokens, *targets;   /* one microbatch */
    float *pixels;
    double loss_scale;
    int64_t step;
    double step_start_s, last_norm;
    const struct hlm_action *action; /* that runs */
    const char *const *action_texts; /* [num_actions] */
    hlm_runner_watch_fn *watch;
    void *watch_context;
};

/* Uploaded before a sum is made; outlives the queue's reading of it. */
extern const double hlm_runner_no_sum;

double hlm_runner_wall_s(void);

/* Tells the watch what the running action does now, or (between) what happens outside of actions.
 */
void hlm_runner_tell(const struct hlm_runner *runner, const char *operation, bool waiting);
void hlm_runner_tell_between(const struct hlm_runner *runner, const char *operation);

/* Communication: the computing clock stands still and the queue is empty meanwhile. `*seconds`
 * grows by its wall clock at the end. What follows it waits for nobody. */
HLM_MUST_CHECK enum hlm_status hlm_runner_comm_begin(struct hlm_runner *runner, double *start_s,
                                                     struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_runner_comm_end(struct hlm_runner *runner, double start_s,
                                                   double *seconds, struct hlm_err *err);

/* Ranks in a group of the plan. */
int32_t hlm_runner_group_size(const struct hlm_runner *runner, enum hlm_group group);

/* One collective over addresses {in, out}; out NULL: in place. */
HLM_MUST_CHECK enum hlm_status hlm_runner_collective(struct hlm_runner *runner,
                                                     const struct hlm_op *op, void *const *operands,
                                                     struct hlm_err *err);

/* The operators of a block whose part is in the mask (1 << enum hlm_op_part). */
HLM_MUST_CHECK enum hlm_status
hlm_runner_ops(struct hlm_runner *runner, int32_t block, const struct hlm_op *ops, int32_t num_ops,
               unsigned parts, const struct hlm_state_binding *binding, struct hlm_err *err);

/* Waits for the messages that still use the slot; the slot that holds a microbatch. */
HLM_MUST_CHECK enum hlm_status
hlm_runner_wait_slot(struct hlm_runner *runner, struct hlm_runner_slot *slot, struct hlm_err *err);
int32_t hlm_runner_find_slot(const struct hlm_runner *runner, int32_t microbatch);

/* The actions. */
HLM_MUST_CHECK enum hlm_status hlm_runner_forward(struct hlm_runner *runner,
                                                  struct hlm_action action, struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_runner_backward(struct hlm_runner *runner,
                                                   struct hlm_action action, struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_runner_send(struct hlm_runner *runner, struct hlm_action action,
                                               struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_runner_reduce(struct hlm_runner *runner, struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_runner_optimize(struct hlm_runner *runner, struct hlm_err *err);

#endif
