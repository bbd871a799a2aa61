/* simulate: the judge. Exact start and end of every action of every pipeline rank, and memory over
 * time.
 *
 * Semantics. A rank runs its compute actions in list order, one at a time. F of stage s > 0 and B/I
 * of stage s < last wait for their message; stages on one rank exchange without one. Messages leave
 * when their producer ends and never block the sender (the executor sends asynchronously):
 * - buffered link: arrival = producer's end + c;
 * - needs_both_sides link: arrival = max(producer's end, moment the receiver is idle and waits for
 *   it) + c. An MPI without progress threads pulls when the receiver is inside MPI; this reproduces
 *   SimGrid's replay of isend + recv.
 *
 * A pair (OVERLAP_F_B) starts when both inputs are there and ends after overlap_s of its forward's
 * stage, or after F + B where that is not given; both outputs leave then.
 *
 * Messages on one directed channel arrive in order, because their producers end in order (buffered)
 * or because the receiver asks for one after the other (both sides).
 *
 * After its last action, rank r reduces the gradients of its stages (reduce_s, in the order their
 * last backwards ended), then all ranks meet (gradient norm: sync_s), then each runs its optimizer
 * (optimizer_s); the step ends with the last.
 *
 * REDUCE_GRAD of a stage starts behind the rank's last compute action unless overlap_reduce: then
 * it starts behind the stage's own last backward and runs beside compute. Lists need not be
 * lowered; sends and receives in them are ignored (their timing follows from the rules above).
 */
#ifndef HLM_SCHEDULE_SIMULATE_H
#define HLM_SCHEDULE_SIMULATE_H

#include "schedule/action.h"

/* All arrays are indexed by stage unless said; seconds, finite and >= 0. */
struct hlm_sim_costs {
    const double *forward_s, *backward_s;       /* backward_s: B */
    const double *input_grad_s, *weight_grad_s; /* I and W; NULL: schedule has none */
    const double *overlap_s;       /* F and a B as one, by the stage of the F; NULL: F + B */
    const double *send_forward_s;  /* [num_stages]: c from stage s to s + 1; last unused */
    const double *send_backward_s; /* [num_stages]: c from stage s to s - 1; first unused */
    const bool *needs_both_sides;  /* [num_stages]: boundary s | s + 1 */
    const double *reduce_s; /* gradient reduction of a stage, both sides of the optimizer apart */
    const double *optimizer_s; /* of a stage: update, ZeRO-1 parameter gather */
    /* The five arrays above may be NULL: zeros, false. */
    double sync_s; /* gradient norm across all ranks */
    bool overlap_reduce;
    /* Measured durations instead of those of F, B, I, W and pairs above; NULL: none.
     * action_s[rank][k] is that of the rank's k-th compute action (a pair is one; messages,
     * REDUCE_GRAD and OPTIMIZER in its list don't count). */
    const double *const *action_s;
};

/* Of costs that may be NULL. */
static inline double hlm_sim_at(const double *values, int32_t stage)
{
    return values == NULL ? 0.0 : values[stage];
}

struct hlm_sim_memory {
    const int64_t *static_bytes;     /* per rank: parameters, gradients, optimizer, fixed */
    const int64_t *activation_bytes; /* per stage and microbatch in flight: F takes, B or W frees */
    const int64_t *transient_bytes;  /* per stage, while one of its actions runs; a pair: of both */
};

struct hlm_sim_event {
    struct hlm_action action;
    struct hlm_action overlapped; /* of a pair the B, action is its F; else kind HLM_NUM_ACTIONS */
    double start_s, end_s;
    int64_t bytes, bytes_after; /* held by the rank while it runs and behind it; 0 without memory */
};

struct hlm_sim_rank {
    /* Compute in list order, then REDUCE_GRAD, then OPTIMIZER; NULL without want_events. */
    const struct hlm_sim_event *events;
    int32_t num_events;
    double busy_s;        /* compute */
    double compute_end_s; /* end of its last compute action */
    double first_start_s;
    double wait_transfer_s; /* idle time in which it waited for a message that was on its way */
    int64_t peak_bytes;     /* 0 without memory */
};

struct hlm_sim_result {
    double step_s;                    /* whole step */
    double pipeline_s;                /* last compute end of any rank */
    double reduce_end_s;              /* last reduction end */
    const struct hlm_sim_rank *ranks; /* [num_ranks] */
};

/* HLM_FAILED when the lists make no progress (a deadlock in the order of actions), naming every
 * rank that waits. The schedule obeys hlm_schedule_verify. O(actions) time: an action's times
 * depend on two others at most, so ranks are advanced as far as their inputs are known, in any
 * order, without a queue of events. Scratch memory is rewound; what out refers to stays in the
 * arena. */
HLM_MUST_CHECK enum hlm_status hlm_simulate(struct hlm_arena *arena,
                                            const struct hlm_schedule *schedule,
                                            const struct hlm_sim_costs *costs,
                                            const struct hlm_sim_memory *memory, bool want_events,
                                            struct hlm_sim_result *out, struct hlm_err *err);

/* The step time alone of gpipe or 1f1b (one chunk a rank), without building lists: the same
 * semantics and bits as hlm_simulate, in O(num_stages * num_microbatches) with no allocation beyond
 * a rewound mark. For the search. */
double hlm_simulate_step(struct hlm_arena *arena, enum hlm_schedule_kind kind, int32_t num_stages,
                         int32_t num_microbatches, const struct hlm_sim_costs *costs);

#endif
