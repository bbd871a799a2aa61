/* Lowering by PyTorch's rule (_add_send_recv): in rounds over the ranks, each rank whose next
 * action has its input takes that one action; a send is put behind its producer and the matching
 * receive is put at the end of the consumer's list at the same moment. So there is one order of all
 * messages in time, of which every list is a part, and no set of ranks can wait for each other in a
 * circle. */
#include "schedule/action.h"

struct lowering {
    const struct hlm_schedule *schedule;
    struct hlm_rank_actions *ranks; /* [num_ranks]: what is written */
    struct hlm_action **actions;    /* [num_ranks]: the same lists, writable */
    int32_t *next;                  /* [num_ranks]: what is read */
    bool *has_output;               /* [2][num_stages][num_microbatches]: forward, gradient */
    int32_t *num_gradients;         /* [num_stages]: microbatches done */
};

static void append(struct lowering *lowering, int32_t rank, struct hlm_action action)
{
    lowering->actions[rank][lowering->ranks[rank].num_actions++] = action;
}

static bool *output_of(struct lowering *lowering, bool forward, int32_t stage, int32_t microbatch)
{
    const struct hlm_schedule *schedule = lowering->schedule;
    const size_t row = (size_t)stage + (forward ? 0 : (size_t)schedule->num_stages);
    return &lowering->has_output[row * (size_t)schedule->num_microbatches + (size_t)microbatch];
}

/* F takes the output of the stage before, B and I the gradient of the stage behind, W nothing. */
static bool is_ready(struct lowering *lowering, struct hlm_action action)
{
    const bool forward = action.kind == HLM_ACTION_F;
    const int32_t giver = action.stage + (forward ? -1 : 1);
    return action.kind == HLM_ACTION_W || giver < 0 || giver == lowering->schedule->num_stages ||
           *output_of(lowering, forward, giver, action.microbatch);
}

static void append_message(struct lowering *lowering, struct hlm_action action)
{
    const struct hlm_schedule *schedule = lowering->schedule;
    const bool forward = action.kind == HLM_ACTION_F;
    const int32_t taker = action.stage + (forward ? 1 : -1);
    *output_of(lowering, forward, action.stage, action.microbatch) = true;
    if (taker < 0 || taker == schedule->num_stages ||
        schedule->stage_rank[taker] == schedule->stage_rank[action.stage]) {
        return;
    }
    append(lowering, schedule->stage_rank[action.stage],
           (struct hlm_action){forward ? HLM_ACTION_SEND_F : HLM_ACTION_SEND_B, action.stage,
                               action.microbatch});
    append(lowering, schedule->stage_rank[taker],
           (struct hlm_action){forward ? HLM_ACTION_RECV_F : HLM_ACTION_RECV_B, taker,
                               action.microbatch});
}

/* Writes an action that runs; what it sends is left to the caller. */
static void append_compute(struct lowering *lowering, int32_t rank, struct hlm_action action)
{
    append(lowering, rank, action);
    lowering->num_gradients[action.stage] +=
        action.kind == HLM_ACTION_B || action.kind == HLM_ACTION_W;
}

static void append_consequences(struct lowering *lowering, int32_t rank, struct hlm_action action)
{
    if (action.kind != HLM_ACTION_W) {
        append_message(lowering, action);
    }
    if ((action.kind == HLM_ACTION_B || action.kind == HLM_ACTION_W) &&
        lowering->num_gradients[action.stage] == lowering->schedule->num_microbatches) {
        append(lowering, rank, (struct hlm_action){HLM_ACTION_REDUCE_GRAD, action.stage, -1});
    }
}

/* Takes the next action of a rank, or pair; false where it has none or its input is not there. */
static bool take(struct lowering *lowering, int32_t rank)
{
    const struct hlm_rank_actions *list = &lowering->schedule->ranks[rank];
    if (lowering->next[rank] == list->num_actions) {
        return false;
    }
    const struct hlm_action *actions = &list->actions[lowering->next[rank]];
    const bool is_pair = actions[0].kind == HLM_ACTION_OVERLAP_F_B;
    const struct hlm_action *first = is_pair ? actions + 1 : actions;
    const int num_actions = is_pair ? 2 : 1;
    HLM_ASSERT(hlm_action_is_compute(first->kind));
    if (!is_ready(lowering, first[0]) || !is_ready(lowering, first[num_actions - 1])) {
        return false;
    }
    if (is_pair) {
        append(lowering, rank, actions[0]);
    }
    for (int i = 0; i < num_actions; i++) {
        append_compute(lowering, rank, first[i]);
    }
    for (int i = 0; i < num_actions; i++) {
        append_consequences(lowering, rank, first[i]);
    }
    lowering->next[rank] += num_actions + is_pair;
    if (lowering->next[rank] == list->num_actions) {
        append(lowering, rank,
               (struct hlm_action){HLM_ACTION_OPTIMIZER,
                                   hlm_schedule_first_stage(lowering->schedule, rank), -1});
    }
    return true;
}

static void start(struct hlm_arena *arena, struct lowering *lowering)
{
    const struct hlm_schedule *schedule = lowering->schedule;
    const size_t num_ranks = (size_t)schedule->num_ranks;
    const size_t num_stages = (size_t)schedule->num_stages;
    lowering->ranks = HLM_ARENA_ARRAY(arena, struct hlm_rank_actions, num_ranks);
    lowering->actions = HLM_ARENA_ARRAY(arena, struct hlm_action *, num_ranks);
    lowering->next = HLM_ARENA_ARRAY(arena, int32_t, num_ranks);
    lowering->has_output =
        HLM_ARENA_ARRAY(arena, bool, 2 * num_stages * (size_t)schedule->num_microbatches);
    lowering->num_gradients = HLM_ARENA_ARRAY(arena, int32_t, num_stages);
    for (size_t rank = 0; rank < num_ranks; rank++) {
        /* Each action receives and sends at most once; REDUCE_GRAD per stage, OPTIMIZER. */
        const size_t room = 3 * (size_t)schedule->ranks[rank].num_actions + num_stages + 1;
        lowering->actions[rank] = HLM_ARENA_ARRAY(arena, struct hlm_action, room);
        lowering->ranks[rank].actions = lowering->actions[rank];
    }
}

const struct hlm_schedule *hlm_schedule_lower(struct hlm_arena *arena,
                                              const struct hlm_schedule *schedule)
{
    HLM_ASSERT(!schedule->lowered);
    struct lowering lowering = {.schedule = schedule};
    start(arena, &lowering);
    bool progress = true;
    while (progress) {
        progress = false;
        for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
            progress |= take(&lowering, rank);
        }
    }
    for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
        HLM_ASSERT(lowering.next[rank] == schedule->ranks[rank].num_actions);
    }
    struct hlm_schedule *lowered = HLM_ARENA_NEW(arena, struct hlm_schedule);
    *lowered = *schedule;
    lowered->ranks = lowering.ranks;
    lowered->lowered = true;
    return lowered;
}
