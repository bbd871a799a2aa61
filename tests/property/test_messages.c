/* The runner's use of messages, played without data: for every schedule, messages between two ranks
 * in one direction are received in the order in which they are sent, and a run ends even where a
 * message is delivered no sooner than its receive is posted (no transport is slower than that). */
#include "schedule/action.h"
#include "tests/support/check.h"

enum { MAX_MESSAGES = 4096, MAX_SLOTS = 64 };

enum { FORWARD, BACKWARD };

struct message {
    int32_t stage, microbatch; /* of the sender */
};

/* Messages of one sender, receiver and direction in the order in which they were sent; the k-th
 * receive that is posted gets the k-th of them. */
struct channel {
    struct message messages[MAX_MESSAGES];
    int32_t num_sent, num_posted;
};

/* One end of a message; channel NULL: none. */
struct transfer {
    struct channel *channel;
    int32_t index;
};

/* A slot of a stage, as exec/runner/runner_slots.c has them. */
struct slot {
    int32_t microbatch;
    bool taken;
    struct transfer sends[2], receives[2];
};

struct play {
    struct hlm_arena *arena;
    const struct hlm_schedule *schedule;
    const int32_t *num_slots;                   /* [num_stages] */
    struct slot (*slots)[MAX_SLOTS];            /* [num_stages] */
    struct channel *channels;                   /* [2][num_ranks][num_ranks] */
    struct hlm_action (*waiting)[MAX_MESSAGES]; /* [num_ranks]: receives without a slot */
    int32_t *num_waiting;                       /* [num_ranks] */
    int32_t *next;                              /* [num_ranks] */
};

static struct channel *channel_of(struct play *play, int32_t from, int32_t to, int direction)
{
    const int32_t n = play->schedule->num_ranks;
    return &play->channels[(direction * n + play->schedule->stage_rank[from]) * n +
                           play->schedule->stage_rank[to]];
}

/* NULL: none. */
static struct slot *slot_of(struct play *play, int32_t stage, int32_t microbatch)
{
    for (int32_t i = 0; i < play->num_slots[stage]; i++) {
        if (play->slots[stage][i].microbatch == microbatch) {
            return &play->slots[stage][i];
        }
    }
    return NULL;
}

static struct slot *find_slot(struct play *play, int32_t stage, int32_t microbatch)
{
    struct slot *slot = slot_of(play, stage, microbatch);
    assert_non_null(slot);
    return slot;
}

static struct slot *unused_slot(struct play *play, int32_t stage)
{
    for (int32_t i = 0; i < play->num_slots[stage]; i++) {
        if (!play->slots[stage][i].taken) {
            return &play->slots[stage][i];
        }
    }
    return NULL;
}

static struct slot *take_slot(struct play *play, int32_t stage, int32_t microbatch)
{
    struct slot *slot = unused_slot(play, stage);
    if (slot == NULL) {
        fail_msg("stage %d: no slot for microbatch %d", stage, microbatch);
    }
    slot->taken = true;
    slot->microbatch = microbatch;
    return slot;
}

static struct transfer post(struct play *play, int32_t giver, int32_t taker, int direction)
{
    struct channel *channel = channel_of(play, giver, taker, direction);
    return (struct transfer){channel, channel->num_posted++};
}

static bool is_delivered(struct transfer send)
{
    return send.channel == NULL || send.index < send.channel->num_posted;
}

/* Whether a posted receive is through; it must have got the message that it is for. */
static bool has_come(struct transfer receive, int32_t stage, int32_t microbatch)
{
    if (receive.channel == NULL) {
        return true;
    }
    if (receive.index >= receive.channel->num_sent) {
        return false;
    }
    assert_int_equal(receive.channel->messages[receive.index].stage, stage);
    assert_int_equal(receive.channel->messages[receive.index].microbatch, microbatch);
    return true;
}

/* --- receives of activations, which need a slot --- */

static void post_forward(struct play *play, struct hlm_action action)
{
    struct slot *slot = take_slot(play, action.stage, action.microbatch);
    slot->receives[FORWARD] = post(play, action.stage - 1, action.stage, FORWARD);
}

static bool has_older(const struct play *play, int32_t rank, struct hlm_action action, int32_t end)
{
    const int32_t *stage_rank = play->schedule->stage_rank;
    for (int32_t i = 0; i < end; i++) {
        if (stage_rank[play->waiting[rank][i].stage - 1] == stage_rank[action.stage - 1]) {
            return true;
        }
    }
    return false;
}

static bool can_post(struct play *play, int32_t rank, struct hlm_action action, int32_t end)
{
    return unused_slot(play, action.stage) != NULL && !has_older(play, rank, action, end);
}

static void drop_waiting(struct play *play, int32_t rank, int32_t index)
{
    play->num_waiting[rank]--;
    memmove(&play->waiting[rank][index], &play->waiting[rank][index + 1],
            (size_t)(play->num_waiting[rank] - index) * sizeof(struct hlm_action));
}

static void post_waiting(struct play *play, int32_t rank)
{
    for (int32_t i = 0; i < play->num_waiting[rank];) {
        const struct hlm_action action = play->waiting[rank][i];
        if (can_post(play, rank, action, i)) {
            drop_waiting(play, rank, i);
            post_forward(play, action);
        } else {
            i++;
        }
    }
}

static bool receive_forward(struct play *play, int32_t rank, struct hlm_action action)
{
    if (can_post(play, rank, action, play->num_waiting[rank])) {
        post_forward(play, action);
    } else {
        play->waiting[rank][play->num_waiting[rank]++] = action;
    }
    return true;
}

/* --- actions --- */

/* The gradient comes to where the output stood. */
static bool receive_backward(struct play *play, struct hlm_action action)
{
    struct slot *slot = find_slot(play, action.stage, action.microbatch);
    if (!is_delivered(slot->sends[FORWARD])) {
        return false;
    }
    slot->receives[BACKWARD] = post(play, action.stage + 1, action.stage, BACKWARD);
    return true;
}

static bool run_forward(struct play *play, int32_t rank, struct hlm_action action)
{
    struct slot *slot = slot_of(play, action.stage, action.microbatch);
    for (int32_t i = 0; slot == NULL && i < play->num_waiting[rank]; i++) {
        const struct hlm_action waiting = play->waiting[rank][i];
        if (waiting.stage == action.stage && waiting.microbatch == action.microbatch) {
            assert_false(has_older(play, rank, action, i));
            drop_waiting(play, rank, i);
            post_forward(play, action);
            slot = slot_of(play, action.stage, action.microbatch);
        }
    }
    if (slot == NULL) {
        slot = take_slot(play, action.stage, action.microbatch);
    }
    return has_come(slot->receives[FORWARD], action.stage - 1, action.microbatch);
}

/* B and I write where earlier messages of the slot stood. */
static bool run_backward(struct play *play, struct hlm_action action)
{
    struct slot *slot = find_slot(play, action.stage, action.microbatch);
    const bool input_grads = action.kind != HLM_ACTION_W;
    if (input_grads &&
        !(is_delivered(slot->sends[FORWARD]) && is_delivered(slot->sends[BACKWARD]) &&
          has_come(slot->receives[BACKWARD], action.stage + 1, action.microbatch))) {
        return false;
    }
    if (action.kind != HLM_ACTION_I) {
        slot->taken = false;
        slot->receives[FORWARD].channel = slot->receives[BACKWARD].channel = NULL;
    }
    return true;
}

static bool send(struct play *play, struct hlm_action action)
{
    const int direction = action.kind == HLM_ACTION_SEND_F ? FORWARD : BACKWARD;
    const int32_t taker = action.stage + (direction == FORWARD ? 1 : -1);
    struct channel *channel = channel_of(play, action.stage, taker, direction);
    struct slot *slot = find_slot(play, action.stage, action.microbatch);
    assert_true(channel->num_sent < MAX_MESSAGES);
    slot->sends[direction] = (struct transfer){channel, channel->num_sent};
    channel->messages[channel->num_sent++] = (struct message){action.stage, action.microbatch};
    return true;
}

/* False: the action has to wait. */
static bool run_action(struct play *play, int32_t rank, struct hlm_action action)
{
    if (action.kind != HLM_ACTION_SEND_F && action.kind != HLM_ACTION_SEND_B) {
        post_waiting(play, rank);
    }
    switch (action.kind) {
    case HLM_ACTION_F:
        return run_forward(play, rank, action);
    case HLM_ACTION_B:
    case HLM_ACTION_I:
    case HLM_ACTION_W:
        return run_backward(play, action);
    case HLM_ACTION_SEND_F:
    case HLM_ACTION_SEND_B:
        return send(play, action);
    case HLM_ACTION_RECV_F:
        return receive_forward(play, rank, action);
    case HLM_ACTION_RECV_B:
        return receive_backward(play, action);
    default:
        return true;
    }
}

static void start(struct play *play)
{
    const struct hlm_schedule *schedule = play->schedule;
    const size_t n = (size_t)schedule->num_ranks, stages = (size_t)schedule->num_stages;
    play->num_slots = hlm_schedule_in_flights(play->arena, schedule);
    play->slots = hlm_arena_alloc(play->arena, stages, sizeof *play->slots);
    play->channels = HLM_ARENA_ARRAY(play->arena, struct channel, 2 * n * n);
    play->waiting = hlm_arena_alloc(play->arena, n, sizeof *play->waiting);
    play->num_waiting = HLM_ARENA_ARRAY(play->arena, int32_t, n);
    play->next = HLM_ARENA_ARRAY(play->arena, int32_t, n);
    for (size_t s = 0; s < stages; s++) {
        assert_in_range(play->num_slots[s], 1, MAX_SLOTS);
        for (int32_t i = 0; i < play->num_slots[s]; i++) {
            play->slots[s][i].microbatch = -1;
        }
    }
}

static void run_all(struct play *play)
{
    const struct hlm_schedule *schedule = play->schedule;
    for (bool progress = true; progress;) {
        progress = false;
        for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
            const struct hlm_rank_actions *list = &schedule->ranks[rank];
            while (play->next[rank] < list->num_actions &&
                   run_action(play, rank, list->actions[play->next[rank]])) {
                play->next[rank]++;
                progress = true;
            }
        }
    }
    for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
        if (play->next[rank] < schedule->ranks[rank].num_actions) {
            char text[32];
            hlm_action_format(schedule->ranks[rank].actions[play->next[rank]], text);
            fail_msg("%s of %d ranks, %d stages, %d microbatches: rank %d waits for ever at %s",
                     hlm_schedule_texts[schedule->kind], schedule->num_ranks, schedule->num_stages,
                     schedule->num_microbatches, rank, text);
        }
    }
}

static bool check(enum hlm_schedule_kind kind, int32_t pp, int32_t vpp, int32_t num_microbatches)
{
    struct hlm_err err;
    struct play play = {.arena = hlm_arena_new()};
    const bool legal = hlm_schedule_build(play.arena, kind, pp, vpp, num_microbatches,
                                          &play.schedule, &err) == HLM_OK;
    if (legal) {
        play.schedule = hlm_schedule_lower(play.arena, play.schedule);
        start(&play);
        run_all(&play);
        for (int32_t i = 0; i < 2 * pp * pp; i++) {
            assert_int_equal(play.channels[i].num_sent, play.channels[i].num_posted);
        }
    }
    hlm_arena_free(play.arena);
    return legal;
}

static void test_all(void **state)
{
    (void)state;
    int32_t num_checked = 0;
    for (int kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
        const struct hlm_schedule_chunks chunks = hlm_schedule_chunks((enum hlm_schedule_kind)kind);
        for (int32_t vpp = chunks.min; vpp <= chunks.max && vpp <= 4; vpp++) {
            for (int32_t pp = 1; pp <= 8; pp++) {
                for (int32_t m = 1; m <= 3 * pp + 1; m++) {
                    num_checked += check((enum hlm_schedule_kind)kind, pp, vpp, m) ? 1 : 0;
                }
            }
        }
    }
    assert_true(num_checked > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
