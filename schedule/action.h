/* action: what a rank does, one thing after another.
 *
 * A pipeline schedule is a list of actions per pipeline rank. Text form is PyTorch's:
 * `<stage><kind><microbatch>`, "0F3", "2B0", "1I4", "0SEND_F1" (stage 0 sends the output of
 * microbatch 1), "1RECV_F1" (stage 1 receives it), "1SEND_B0" (stage 1 sends the gradient of its
 * input), "0RECV_B0". B is a full backward, I and W its input-gradient and weight-gradient halves.
 * REDUCE_GRAD and OPTIMIZER close a step.
 */
#ifndef HLM_SCHEDULE_ACTION_H
#define HLM_SCHEDULE_ACTION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "costmodel/strategy.h"

#define HLM_ACTION_MAP(X)                                                                          \
    X(F, "F")                                                                                      \
    X(B, "B")                                                                                      \
    X(I, "I")                                                                                      \
    X(W, "W")                                                                                      \
    X(SEND_F, "SEND_F")                                                                            \
    X(RECV_F, "RECV_F") X(SEND_B, "SEND_B") X(RECV_B, "RECV_B") X(REDUCE_GRAD, "REDUCE_GRAD")      \
        X(OPTIMIZER, "OPTIMIZER")
enum hlm_action_kind {
#define X(name, text) HLM_ACTION_##name,
    HLM_ACTION_MAP(X)
#undef X
        HLM_NUM_ACTIONS
};
extern const char *const hlm_action_texts[]; /* ends with NULL */

struct hlm_action {
    enum hlm_action_kind kind;
    int32_t stage;
    int32_t microbatch; /* -1 for REDUCE_GRAD and OPTIMIZER */
};

/* "0F3" into out (at least 32 bytes); "0REDUCE_GRAD", "0OPTIMIZER" without a microbatch. */
void hlm_action_format(struct hlm_action action, char out[32]);
/* The reverse; HLM_INPUT with the text when it is none. */
HLM_MUST_CHECK enum hlm_status hlm_action_parse(const char *text, struct hlm_action *out,
                                                struct hlm_err *err);

static inline bool hlm_action_is_compute(enum hlm_action_kind kind)
{
    return kind <= HLM_ACTION_W;
}

struct hlm_rank_actions {
    const struct hlm_action *actions;
    int32_t num_actions;
};

/* num_stages = num_ranks * chunks; stage_rank[s] is the rank that owns stage s. */
struct hlm_schedule {
    enum hlm_schedule_kind kind;
    int32_t num_ranks, num_stages, num_microbatches;
    const int32_t *stage_rank;            /* [num_stages] */
    const struct hlm_rank_actions *ranks; /* [num_ranks] */
    bool lowered;                         /* sends and receives are in the lists */
};

/* The compute actions of a schedule (no sends yet). One row of a table per kind: builder, legality,
 * activations in flight. HLM_NO with the rule when (num_ranks, chunks, num_microbatches) is not
 * legal. */
HLM_MUST_CHECK enum hlm_status hlm_schedule_build(struct hlm_arena *arena,
                                                  enum hlm_schedule_kind kind, int32_t num_ranks,
                                                  int32_t chunks, int32_t num_microbatches,
                                                  const struct hlm_schedule **out,
                                                  struct hlm_err *err);

/* The first of the stages that a rank owns; its OPTIMIZER action bears it. */
int32_t hlm_schedule_first_stage(const struct hlm_schedule *schedule, int32_t rank);

/* Most microbatches whose activations stage s holds at once (closed form; equals what the actions
 * give: gpipe m; 1f1b min(m, num_stages - s)). */
int32_t hlm_schedule_in_flight(enum hlm_schedule_kind kind, int32_t num_stages,
                               int32_t num_microbatches, int32_t stage);

/* Adds sends and receives by the rule that gives a globally consistent order (PyTorch): walk all
 * ranks in time; when a producer runs, its send is appended behind it and, at that moment, the
 * matching receive to the consumer's list. Neighbouring stages on one rank exchange without
 * messages. Also appends REDUCE_GRAD per stage after its last backward and one OPTIMIZER per rank.
 * The schedule must not be lowered, and must make progress (hlm_simulate says HLM_OK). */
const struct hlm_schedule *hlm_schedule_lower(struct hlm_arena *arena,
                                              const struct hlm_schedule *schedule);

/* The invariants of any schedule: every stage on one rank; per stage exactly m F, and B or (I, W)
 * once per microbatch, F before B/I before W; lowered: sends and receives match one to one and in
 * the same order per channel (from one rank to another), what is received is received before its
 * use, one REDUCE_GRAD a stage behind its last backward, one OPTIMIZER at the end of each list.
 * HLM_INPUT names the rank, the action and the rule (for schedules read from files). That the lists
 * make progress together is what hlm_simulate and hlm_schedule_rendezvous find out. */
HLM_MUST_CHECK enum hlm_status hlm_schedule_verify(const struct hlm_schedule *schedule,
                                                   struct hlm_err *err);
/* Asserts them (for schedules that we made). */
void hlm_schedule_check(const struct hlm_schedule *schedule);

/* Dry run of a lowered schedule under strict rendezvous (a send blocks until its receive is
 * reached, one outstanding operation a rank): HLM_OK, or HLM_FAILED naming every blocked rank and
 * action. */
HLM_MUST_CHECK enum hlm_status hlm_schedule_rendezvous(struct hlm_arena *arena,
                                                       const struct hlm_schedule *schedule,
                                                       struct hlm_err *err);

#endif
