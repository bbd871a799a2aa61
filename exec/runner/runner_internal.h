/* runner_internal: what the parts of the runner share. runner.c makes one and runs the step;
 * runner_measure.c times its actions; runner_pass.c runs forwards and backwards, runner_ops.c their
 * operators, as lists and graphs; runner_slots.c has the slots of the microbatches in flight and
 * their messages, runner_data.c the samples; runner_update.c reduces gradients and updates
 * parameters; runner_shards.c does what is shared block by block. */
#ifndef HLM_EXEC_RUNNER_INTERNAL_H
#define HLM_EXEC_RUNNER_INTERNAL_H

#include "costmodel/boundary.h"
#include "exec/comm/exchange.h"
#include "exec/compute_clock.h"
#include "exec/fusion.h"
#include "exec/runner/runner.h"

/* A pass is an action F, B, I or W. */
enum { HLM_RUNNER_NUM_PASSES = HLM_ACTION_W + 1 };

/* A pass of a slot as graphs, one for each stretch of operators between collectives: with the slot
 * all addresses are given. The first use launches, the second captures, later ones replay. */
struct hlm_runner_graphs {
    struct hlm_graph **of_stretch; /* [num_stretches] behind the first use, NULL before; of its
                                      members those not captured (yet) are NULL */
    int32_t num_stretches;
};

/* A slot of a stage holds one microbatch from its F, or the receive for it, to its B, or W where
 * the backward is split. The message with its output has been delivered when its gradient comes;
 * that with the gradient of its input may still be under way when the slot is taken again, and is
 * waited for before the next gradient is written. */
struct hlm_runner_slot {
    int32_t microbatch; /* of this step, that it holds or held last; -1: none */
    bool taken;
    /* Messages, [runner->max_peers] transfers each, NULL: none (left). */
    struct hlm_transfer **send_forward, **send_backward, **receive_forward, **receive_backward;
    struct hlm_runner_graphs graphs[HLM_RUNNER_NUM_PASSES];
};

/* Operators of a block; dies as in struct hlm_fusion, NULL: nothing is known to. */
struct hlm_runner_ops {
    const struct hlm_op *ops;
    const uint32_t *dies;
    int32_t num;
};
struct hlm_runner_block {
    struct hlm_runner_ops forward, backward;
};

struct hlm_runner_stage {
    const struct hlm_state_stage *state;
    struct hlm_runner_slot *slots;         /* [state->num_slots] */
    const struct hlm_runner_block *blocks; /* [state->num_blocks] */
};

/* The pass that runs: the stretch gathered so far, stretches before it. */
struct hlm_runner_pass {
    struct hlm_runner_graphs *graphs; /* NULL: launches only */
    struct hlm_launch *launches;      /* [max_launches] */
    int32_t num_launches, max_launches, num_stretches;
};

/* What an action took on the device, for stream-ordered transports. */
struct hlm_runner_mark {
    struct hlm_event *begin, *end;
};

struct hlm_runner {
    struct hlm_arena *arena;
    struct hlm_state *state;
    struct hlm_comm *comm;
    const struct hlm_data *data;
    struct hlm_optimizer optimizer;
    const struct hlm_rank_actions *actions;
    struct hlm_runner_stage *stages; /* [state->num_stages] */
    int32_t max_peers;               /* of one message (costmodel/boundary.h) */
    struct hlm_runner_pass pass;
    bool uses_graphs;
    struct hlm_exchange *exchange;
    struct hlm_compute_clock clock; /* host transports */
    struct hlm_runner_mark *marks;  /* stream-ordered ones: [num_actions] */
    struct hlm_run_event *events;
    int32_t num_events;
    /* Receives of activations that found no free slot, oldest first. */
    struct hlm_action *waiting; /* [num_actions] */
    int32_t num_waiting;
    int32_t *tokens, *targets; /* of all microbatches of the step */
    void *pixels;              /* in the dtype of the state */
    double loss_scale;
    int32_t num_reduced; /* stages in this step */
    int64_t step;
    double step_start_s, last_norm;
    const char *action_text;         /* of what runs, NULL: between actions */
    const char *const *action_texts; /* [num_actions] */
    hlm_runner_watch_fn *watch;
    void *watch_context;
};

/* Uploaded before a sum is made; outlives the queue's reading of it. */
extern const double hlm_runner_no_sum;

double hlm_runner_wall_s(void);

/* Ranks in a group of the plan. */
int32_t hlm_runner_group_size(const struct hlm_runner *runner, enum hlm_group group);

/* runner_measure.c: the watch is told of the action, what is exchanged belongs to it. */
HLM_MUST_CHECK enum hlm_status hlm_runner_begin_action(struct hlm_runner *runner, int32_t index,
                                                       struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_runner_end_action(struct hlm_runner *runner, int32_t index,
                                                     struct hlm_err *err);
/* Between actions. */
void hlm_runner_leave_actions(struct hlm_runner *runner);
/* Fills in what is known of the events only behind the step: all queues are empty. */
void hlm_runner_finish_events(struct hlm_runner *runner);
HLM_MUST_CHECK enum hlm_status hlm_runner_new_marks(struct hlm_arena *arena,
                                                    struct hlm_runner *runner, struct hlm_err *err);
void hlm_runner_free_marks(struct hlm_runner *runner);
/* hlm_exchange_tell_fn */
void hlm_runner_tell(void *context, const char *operation, bool waiting);

/* runner_data.c: buffers, and the samples of this replica for the step; those of one microbatch to
 * where a stage reads them. */
void hlm_runner_new_data(struct hlm_arena *arena, struct hlm_runner *runner);
void hlm_runner_make_data(struct hlm_runner *runner);
HLM_MUST_CHECK enum hlm_status hlm_runner_upload_data(struct hlm_runner *runner,
                                                      const struct hlm_state_binding *binding,
                                                      int32_t microbatch, struct hlm_err *err);

/* runner_slots.c: slots and messages of a stage. */
void hlm_runner_new_slots(struct hlm_arena *arena, struct hlm_runner *runner,
                          struct hlm_runner_stage *stage);
struct hlm_runner_stage *hlm_runner_stage_of(const struct hlm_runner *runner, int32_t stage);
int32_t hlm_runner_find_slot(const struct hlm_runner_stage *stage, int32_t microbatch);
/* The slot of a forward, taken now where no receive has; the message, if any, is posted. */
HLM_MUST_CHECK enum hlm_status hlm_runner_forward_slot(struct hlm_runner *runner,
                                                       struct hlm_action action, int32_t *out,
                                                       struct hlm_err *err);
/* What a freed slot held is sent before it is taken again. */
void hlm_runner_free_slot(struct hlm_runner_stage *stage, int32_t slot);
/* Posts receives that waited for a slot, as far as there are any now. */
HLM_MUST_CHECK enum hlm_status hlm_runner_post_waiting(struct hlm_runner *runner,
                                                       struct hlm_err *err);
/* The stage's output of a slot, in whose place its gradient comes back; the gradient of its input.
 */
char *hlm_runner_output_place(const struct hlm_runner_stage *stage, int32_t slot);
char *hlm_runner_input_grad_place(const struct hlm_runner_stage *stage, int32_t slot);
HLM_MUST_CHECK enum hlm_status hlm_runner_wait_message(struct hlm_runner *runner,
                                                       struct hlm_transfer **message,
                                                       struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status
hlm_runner_wait_sends(struct hlm_runner *runner, struct hlm_runner_slot *slot, struct hlm_err *err);

/* runner_ops.c: lists of the stages' blocks, and the graphs of their slots. Freeing waits for the
 * queue, which no peer may hold up then. */
void hlm_runner_new_lists(struct hlm_arena *arena, struct hlm_runner *runner);
void hlm_runner_free_graphs(struct hlm_runner *runner);
/* Around the operators of an action; what comes before begin and behind end is in no graph. */
void hlm_runner_begin_pass(struct hlm_runner *runner, struct hlm_runner_slot *slot,
                           enum hlm_action_kind kind);
HLM_MUST_CHECK enum hlm_status hlm_runner_end_pass(struct hlm_runner *runner, struct hlm_err *err);
/* The operators of a block whose part is in the mask (1 << enum hlm_op_part). They are on the queue
 * when the pass ends. */
HLM_MUST_CHECK enum hlm_status hlm_runner_ops(struct hlm_runner *runner, int32_t block,
                                              const struct hlm_runner_ops *list, unsigned parts,
                                              const struct hlm_state_binding *binding,
                                              struct hlm_err *err);

/* Puts the operators gathered so far on the queue, in front of what is no operator of the list. */
HLM_MUST_CHECK enum hlm_status hlm_runner_cut_pass(struct hlm_runner *runner, struct hlm_err *err);

/* runner_shards.c: in front of the operators of a block in the binding's pass and behind them.
 * Nothing before ZeRO-2. */
HLM_MUST_CHECK enum hlm_status hlm_runner_open_shards(struct hlm_runner *runner, int32_t block,
                                                      const struct hlm_state_binding *binding,
                                                      struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_runner_close_shards(struct hlm_runner *runner, int32_t block,
                                                       const struct hlm_state_binding *binding,
                                                       struct hlm_err *err);
/* At the end of a step from ZeRO-2 on: sums over tp and, where asked, of the shared table's copies;
 * gathers parameters that every rank has whole (ZeRO-2). */
HLM_MUST_CHECK enum hlm_status hlm_runner_reduce_shards(struct hlm_runner *runner,
                                                        const struct hlm_state_stage *stage,
                                                        bool copies, struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_runner_gather_shards(struct hlm_runner *runner,
                                                        const struct hlm_state_stage *stage,
                                                        struct hlm_err *err);

/* The actions. */
HLM_MUST_CHECK enum hlm_status hlm_runner_forward(struct hlm_runner *runner,
                                                  struct hlm_action action, struct hlm_err *err);
/* B, I and W. */
HLM_MUST_CHECK enum hlm_status hlm_runner_backward(struct hlm_runner *runner,
                                                   struct hlm_action action, struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_runner_send(struct hlm_runner *runner, struct hlm_action action,
                                               struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_runner_receive(struct hlm_runner *runner,
                                                  struct hlm_action action, struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_runner_reduce(struct hlm_runner *runner,
                                                 struct hlm_action action, struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_runner_optimize(struct hlm_runner *runner, struct hlm_err *err);

#endif
