/* Dry run under strict rendezvous. Whether it ends does not depend on the order in which ranks are
 * advanced: a send and its receive stay enabled until both take part (each rank has one outstanding
 * operation), so the run is confluent and one pass with a stack of ranks decides. */
#include "schedule/action.h"

struct run {
    const struct hlm_schedule *schedule;
    int32_t *next;  /* [num_ranks]: position in its list */
    int32_t *stack; /* [num_ranks]: ranks that may go on */
    bool *on_stack;
    int32_t stack_size;
};

static const struct {
    enum hlm_action_kind counterpart;
    int neighbour; /* stage of the counterpart, relative */
} messages[] = {
    [HLM_ACTION_SEND_F] = {HLM_ACTION_RECV_F, 1},
    [HLM_ACTION_RECV_F] = {HLM_ACTION_SEND_F, -1},
    [HLM_ACTION_SEND_B] = {HLM_ACTION_RECV_B, -1},
    [HLM_ACTION_RECV_B] = {HLM_ACTION_SEND_B, 1},
};

static bool is_message(enum hlm_action_kind kind)
{
    return kind >= HLM_ACTION_SEND_F && kind <= HLM_ACTION_RECV_B;
}

static void push(struct run *run, int32_t rank)
{
    if (!run->on_stack[rank]) {
        run->on_stack[rank] = true;
        run->stack[run->stack_size++] = rank;
    }
}

static const struct hlm_action *current(const struct run *run, int32_t rank)
{
    const struct hlm_rank_actions *list = &run->schedule->ranks[rank];
    return run->next[rank] == list->num_actions ? NULL : &list->actions[run->next[rank]];
}

/* Completes the message that this rank stands at if the other rank stands at its counterpart. */
static bool exchange(struct run *run, int32_t rank, struct hlm_action action)
{
    const int32_t stage = action.stage + messages[action.kind].neighbour;
    HLM_ASSERT(stage >= 0 && stage < run->schedule->num_stages);
    const int32_t other = run->schedule->stage_rank[stage];
    const struct hlm_action *there = current(run, other);
    if (there == NULL || there->kind != messages[action.kind].counterpart ||
        there->stage != stage || there->microbatch != action.microbatch) {
        return false;
    }
    run->next[rank]++;
    run->next[other]++;
    push(run, other);
    return true;
}

static void advance(struct run *run, int32_t rank)
{
    for (;;) {
        const struct hlm_action *action = current(run, rank);
        if (action == NULL) {
            return;
        }
        if (!is_message(action->kind)) {
            run->next[rank]++;
        } else if (!exchange(run, rank, *action)) {
            return;
        }
    }
}

static enum hlm_status judge(struct hlm_arena *arena, const struct run *run, struct hlm_err *err)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    for (int32_t rank = 0; rank < run->schedule->num_ranks; rank++) {
        const struct hlm_action *action = current(run, rank);
        if (action != NULL) {
            char name[32];
            hlm_action_format(*action, name);
            hlm_text_printf(&text, "%srank %d at %s", text.length == 0 ? "" : ", ", rank, name);
        }
    }
    if (text.length == 0) {
        return HLM_OK;
    }
    return hlm_fail(err, HLM_FAILED, "deadlock under strict rendezvous: %s", text.text);
}

enum hlm_status hlm_schedule_rendezvous(struct hlm_arena *arena,
                                        const struct hlm_schedule *schedule, struct hlm_err *err)
{
    HLM_ASSERT(schedule->lowered);
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    struct run run = {
        .schedule = schedule,
        .next = HLM_ARENA_ARRAY(arena, int32_t, schedule->num_ranks),
        .stack = HLM_ARENA_ARRAY(arena, int32_t, schedule->num_ranks),
        .on_stack = HLM_ARENA_ARRAY(arena, bool, schedule->num_ranks),
    };
    for (int32_t rank = schedule->num_ranks - 1; rank >= 0; rank--) {
        push(&run, rank);
    }
    while (run.stack_size > 0) {
        const int32_t rank = run.stack[--run.stack_size];
        run.on_stack[rank] = false;
        advance(&run, rank);
    }
    const enum hlm_status status = judge(arena, &run, err);
    hlm_arena_rewind(arena, mark);
    return status;
}
