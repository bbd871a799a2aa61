/* action: what a rank does, one thing after another.
 *
 * A pipeline schedule is a list of actions per pipeline rank. Text form is PyTorch's:
 * `<stage><kind><microbatch>`, "0F3", "2B0", "1I4", "0SEND_F1" (stage 0 sends the output of
 * microbatch 1), "1RECV_F1" (stage 1 receives it), "1SEND_B0" (stage 1 sends the gradient of its
 * input), "0RECV_B0". B is a full backward, I and W its input-gradient and weight-gradient halves.
 * REDUCE_GRAD and OPTIMIZER close a step.
 *
 * OVERLAP_F_B says that the F and the B behind it, of two stages of the rank, run as one: they
 * start when both have their inputs and end together. It has the stage of the F and no microbatch;
 * in the text of a schedule the three are one cell, "(0F3;3B1)OVERLAP_F_B". Who can't overlap them
 * may run them one after the other.
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
    X(RECV_F, "RECV_F")                                                                            \
    X(SEND_B, "SEND_B")                                                                            \
    X(RECV_B, "RECV_B")                                                                            \
    X(REDUCE_GRAD, "REDUCE_GRAD") X(OPTIMIZER, "OPTIMIZER") X(OVERLAP_F_B, "OVERLAP_F_B")
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
    int32_t microbatch; /* -1 for REDUCE_GRAD, OPTIMIZER and OVERLAP_F_B */
};

/* "0F3" into out (at least 32 bytes); "0REDUCE_GRAD", "0OPTIMIZER", "0OVERLAP_F_B" without a
 * microbatch. */
void hlm_action_format(struct hlm_action action, char out[32]);
/* The reverse; HLM_INPUT with the text when it is none. */
HLM_MUST_CHECK enum hlm_status hlm_action_parse(const char *text, struct hlm_action *out,
                                                struct hlm_err *err);

/* "(0F3;3B1)OVERLAP_F_B" into out (at least 64 bytes), and the reverse: false where the text is not
 * that of an F and a B. */
void hlm_action_format_pair(struct hlm_action forward, struct hlm_action backward, char out[64]);
bool hlm_action_parse_pair(const char *text, struct hlm_action *forward,
                           struct hlm_action *backward);

static inline bool hlm_action_is_compute(enum hlm_action_kind kind)
{
    return kind <= HLM_ACTION_W;
}

struct hlm_rank_actions {
    const struct hlm_action *actions;
    int32_t num_actions;
};

/* num_stages = num_ranks * chunks; stage_rank[s] is the rank that owns stage s: s modulo num_ranks,
 * but in zb-v, v-half, v-min and dualpipe-v (two chunks, down the ranks and up again) rank r owns
 * stages r and num_stages - 1 - r. */
struct hlm_schedule {
    enum hlm_schedule_kind kind;
    int32_t num_ranks, num_stages, num_microbatches;
    const int32_t *stage_rank;            /* [num_stages] */
    const struct hlm_rank_actions *ranks; /* [num_ranks] */
    bool lowered;                         /* sends and receives are in the lists */
};

/* The compute actions of a schedule (no sends yet). One row of a table per kind: builder, legality,
 * activations in flight. The orders are those of the publications, made for stages of equal times
 * (order.h finds some for others):
 *   gpipe         all forwards, then all backwards
 *   1f1b          num_ranks - 1 - r forwards ahead on rank r, then a forward and a backward in turn
 *   1f1b-overlap  twice as many forwards ahead
 *   interleaved   1f1b over chunks >= 2 a rank, in groups of microbatches
 *   zb-h1         1f1b with I and W apart, W put off by r microbatches
 *   zb-h2         1f1b-overlap with I and W apart, W put off by 2 r microbatches
 *   zb-v          two chunks, I and W apart, as much memory as 1f1b
 *   v-half, v-min the same with about 1/2 and 1/3 of the memory of 1f1b
 *   dualpipe-v    two chunks, a forward and a backward of two microbatches as one
 * HLM_NO with the rule when (num_ranks, chunks, num_microbatches) is not legal; chunks must be
 * within hlm_schedule_chunks. */
HLM_MUST_CHECK enum hlm_status hlm_schedule_build(struct hlm_arena *arena,
                                                  enum hlm_schedule_kind kind, int32_t num_ranks,
                                                  int32_t chunks, int32_t num_microbatches,
                                                  const struct hlm_schedule **out,
                                                  struct hlm_err *err);

/* The same with what only some kinds have. */
struct hlm_schedule_params {
    enum hlm_schedule_kind kind;
    int32_t num_ranks, chunks, num_microbatches;
    /* interleaved: microbatches that go through a chunk before the next chunk's turn (Megatron's
     * microbatch-group-size-per-virtual-pipeline-stage), num_ranks .. num_microbatches, and the
     * last group has at least num_ranks of them; 0: num_ranks. Others: 0. */
    int32_t group_size;
};
HLM_MUST_CHECK enum hlm_status hlm_schedule_build_with(struct hlm_arena *arena,
                                                       const struct hlm_schedule_params *params,
                                                       const struct hlm_schedule **out,
                                                       struct hlm_err *err);

/* Whether it would be built, without building it; HLM_NO with the rule; err may be NULL. */
HLM_MUST_CHECK enum hlm_status hlm_schedule_check_params(const struct hlm_schedule_params *params,
                                                         struct hlm_err *err);

/* The first of the stages that a rank owns; its OPTIMIZER action bears it. */
int32_t hlm_schedule_first_stage(const struct hlm_schedule *schedule, int32_t rank);

/* Most microbatches whose activations stage s holds at once, exactly what the actions give: from F
 * until B or W has run. Closed forms: gpipe m; 1f1b min(m, p - s); 1f1b-overlap min(m, 2 (p - s) -
 * 1); zb-h1 min(m, p); zb-h2 min(m, 2 p - 1). The kinds with chunks are built and counted
 * (hlm_schedule_in_flights, which a caller that needs all stages, or groups, keeps); interleaved
 * can't be asked, as num_stages does not say how many chunks there are. */
int32_t hlm_schedule_in_flight(enum hlm_schedule_kind kind, int32_t num_stages,
                               int32_t num_microbatches, int32_t stage);

/* The same for all stages of any schedule, from its lists: [num_stages]. */
const int32_t *hlm_schedule_in_flights(struct hlm_arena *arena,
                                       const struct hlm_schedule *schedule);

/* What a rank holds when it holds most: each row of counts says how many microbatches of each of
 * its stages it holds at some moment, and no moment has more of every stage. The peak of
 * activations is the largest of sum_c counts[c] * amount[c] over the rows, whatever the amounts. */
struct hlm_rank_held {
    const int32_t *stages; /* [num_chunks]: ascending */
    int32_t num_chunks;
    const int32_t *counts; /* [num_rows][num_chunks] */
    int32_t num_rows;
};
/* Of all ranks: [num_ranks]. */
const struct hlm_rank_held *hlm_schedule_held(struct hlm_arena *arena,
                                              const struct hlm_schedule *schedule);

/* The same where the stages of a rank don't lend each other memory: each has slots of its own for
 * the most microbatches it ever holds (hlm_schedule_in_flights), which is the one row. */
const struct hlm_rank_held *hlm_schedule_held_apart(struct hlm_arena *arena,
                                                    const struct hlm_schedule *schedule);

/* The row of `held` with the largest sum of counts[c] * amounts[stages[c]]. */
int32_t hlm_rank_held_most(const struct hlm_rank_held *held, const int64_t *amounts);

/* Memory over time, in any unit: what rank r holds while its k-th compute action runs (a pair
 * counts as one), and its peak. F takes amounts[stage], B or W frees it; a pair takes, then frees.
 * amounts NULL: one a stage and microbatch, so that the result counts chunk activations. Depends on
 * the order alone; hlm_simulate says when. */
struct hlm_rank_memory {
    const int64_t *held; /* [num_actions] */
    int32_t num_actions;
    int64_t peak;
};
const struct hlm_rank_memory *hlm_schedule_memory(struct hlm_arena *arena,
                                                  const struct hlm_schedule *schedule,
                                                  const int64_t *amounts);

/* Adds sends and receives by the rule that gives a globally consistent order (PyTorch): walk all
 * ranks in time; when a producer runs, its send is appended behind it and, at that moment, the
 * matching receive to the consumer's list. Neighbouring stages on one rank exchange without
 * messages. Also appends REDUCE_GRAD per stage after its last backward and one OPTIMIZER per rank.
 * The schedule must not be lowered, and must make progress (hlm_simulate says HLM_OK). */
const struct hlm_schedule *hlm_schedule_lower(struct hlm_arena *arena,
                                              const struct hlm_schedule *schedule);

/* The invariants of any schedule: every stage on one rank; per stage exactly m F, and B or (I, W)
 * once per microbatch, F before B/I before W; OVERLAP_F_B before an F and a B; lowered: sends and
 * receives match one to one and in the same order per channel (from one rank to another), what is
 * received is received before its use, one REDUCE_GRAD a stage behind its last backward, one
 * OPTIMIZER at the end of each list. HLM_INPUT names the rank, the action and the rule (for
 * schedules read from files). That the lists make progress together is what hlm_simulate and
 * hlm_schedule_rendezvous find out. */
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
