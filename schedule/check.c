/* The rules that every schedule obeys, whatever its kind (PyTorch's _validate_schedule asserts the
 * same ones): one pass over each list with a byte of "seen" bits per (stage, microbatch), a bit per
 * kind. */

#include "schedule/action.h"

#define BIT(name) (1U << HLM_ACTION_##name)

static const struct rule {
    unsigned forbids;   /* none of these may have been seen */
    unsigned after_any; /* one of these must have been seen */
    int neighbour;      /* messages: the stage that sends or receives it, relative to this stage */
    unsigned receives;  /* lowered compute: needs this bit where `giver` is on another rank */
    int giver;
} rules[] = {
    [HLM_ACTION_F] = {BIT(F), 0, 0, BIT(RECV_F), -1},
    [HLM_ACTION_B] = {BIT(B) | BIT(I) | BIT(W), BIT(F), 0, BIT(RECV_B), 1},
    [HLM_ACTION_I] = {BIT(B) | BIT(I), BIT(F), 0, BIT(RECV_B), 1},
    [HLM_ACTION_W] = {BIT(W), BIT(I), 0, 0, 0},
    [HLM_ACTION_SEND_F] = {BIT(SEND_F), BIT(F), 1, 0, 0},
    [HLM_ACTION_RECV_F] = {BIT(RECV_F) | BIT(F), 0, -1, 0, 0},
    [HLM_ACTION_SEND_B] = {BIT(SEND_B), BIT(B) | BIT(I), -1, 0, 0},
    [HLM_ACTION_RECV_B] = {BIT(RECV_B) | BIT(B) | BIT(I), 0, 1, 0, 0},
};

struct audit {
    const struct hlm_schedule *schedule;
    struct hlm_arena *arena;
    uint8_t *seen;          /* [num_stages][num_microbatches] bits */
    int32_t *num_gradients; /* per stage: microbatches whose weight gradient is there */
    bool *is_reduced;       /* per stage */
    int32_t rank, position; /* where the pass is, for messages */
    struct hlm_err *err;
};

static enum hlm_status fail_at(struct audit *audit, struct hlm_action action, const char *why)
{
    char text[32];
    hlm_action_format(action, text);
    return hlm_fail(audit->err, HLM_INPUT, "rank %d, action %d (%s): %s", audit->rank,
                    audit->position + 1, text, why);
}

static bool crosses_ranks(const struct hlm_schedule *schedule, int32_t stage, int neighbour)
{
    const int32_t other = stage + neighbour;
    return neighbour != 0 && other >= 0 && other < schedule->num_stages &&
           schedule->stage_rank[other] != schedule->stage_rank[stage];
}

static uint8_t *seen_at(struct audit *audit, int32_t stage, int32_t microbatch)
{
    return &audit->seen[(size_t)stage * (size_t)audit->schedule->num_microbatches +
                        (size_t)microbatch];
}

static enum hlm_status check_step(struct audit *audit, struct hlm_action action)
{
    const struct hlm_schedule *schedule = audit->schedule;
    const struct rule *rule = &rules[action.kind];
    if (action.microbatch < 0 || action.microbatch >= schedule->num_microbatches) {
        return fail_at(audit, action, "expected a microbatch of the schedule");
    }
    if (!hlm_action_is_compute(action.kind) &&
        (!schedule->lowered || !crosses_ranks(schedule, action.stage, rule->neighbour))) {
        return fail_at(audit, action, "expected no message here");
    }
    uint8_t *seen = seen_at(audit, action.stage, action.microbatch);
    if ((*seen & rule->forbids) != 0) {
        return fail_at(audit, action, "comes twice, or after what depends on it");
    }
    if (rule->after_any != 0 && (*seen & rule->after_any) == 0) {
        return fail_at(audit, action, "comes before what it depends on");
    }
    if (schedule->lowered && rule->receives != 0 && (*seen & rule->receives) == 0 &&
        crosses_ranks(schedule, action.stage, rule->giver)) {
        return fail_at(audit, action, "comes before its receive");
    }
    *seen |= (uint8_t)(1U << action.kind);
    if (action.kind == HLM_ACTION_B || action.kind == HLM_ACTION_W) {
        audit->num_gradients[action.stage]++;
    }
    return HLM_OK;
}

static enum hlm_status check_reduce(struct audit *audit, struct hlm_action action)
{
    if (!audit->schedule->lowered || audit->is_reduced[action.stage] ||
        audit->num_gradients[action.stage] != audit->schedule->num_microbatches) {
        return fail_at(audit, action, "expected once, behind the last backward of a lowered list");
    }
    audit->is_reduced[action.stage] = true;
    return HLM_OK;
}

/* Behind OVERLAP_F_B stand an F of its stage and a B that does not need it. */
static enum hlm_status check_pair(struct audit *audit, struct hlm_action action)
{
    const struct hlm_rank_actions *list = &audit->schedule->ranks[audit->rank];
    const struct hlm_action *next = &list->actions[audit->position + 1];
    if (list->num_actions - audit->position < 3 || next[0].kind != HLM_ACTION_F ||
        next[1].kind != HLM_ACTION_B || next[0].stage != action.stage ||
        (next[0].stage == next[1].stage && next[0].microbatch == next[1].microbatch)) {
        return fail_at(audit, action,
                       "expected the forward of its stage and the backward of another microbatch "
                       "or stage behind it");
    }
    return HLM_OK;
}

static enum hlm_status check_list(struct audit *audit)
{
    const struct hlm_schedule *schedule = audit->schedule;
    const struct hlm_rank_actions *list = &schedule->ranks[audit->rank];
    for (audit->position = 0; audit->position < list->num_actions; audit->position++) {
        const struct hlm_action action = list->actions[audit->position];
        if (action.stage < 0 || action.stage >= schedule->num_stages ||
            schedule->stage_rank[action.stage] != audit->rank) {
            return fail_at(audit, action, "expected a stage of this rank");
        }
        const bool is_last = audit->position == list->num_actions - 1;
        if ((schedule->lowered && is_last) != (action.kind == HLM_ACTION_OPTIMIZER)) {
            return fail_at(audit, action, "expected one OPTIMIZER at the end of a lowered list");
        }
        if (action.kind == HLM_ACTION_REDUCE_GRAD) {
            HLM_TRY(check_reduce(audit, action));
        } else if (action.kind == HLM_ACTION_OVERLAP_F_B) {
            HLM_TRY(check_pair(audit, action));
        } else if (action.kind != HLM_ACTION_OPTIMIZER) {
            HLM_TRY(check_step(audit, action));
        }
    }
    return HLM_OK;
}

/* What a stage must have seen for each microbatch, apart from B or I and W. */
static unsigned expected_bits(const struct hlm_schedule *schedule, int32_t stage)
{
    unsigned expected = BIT(F);
    for (enum hlm_action_kind kind = HLM_ACTION_SEND_F; kind <= HLM_ACTION_RECV_B; kind++) {
        if (schedule->lowered && crosses_ranks(schedule, stage, rules[kind].neighbour)) {
            expected |= 1U << kind;
        }
    }
    return expected;
}

static enum hlm_status check_complete(struct audit *audit)
{
    const struct hlm_schedule *schedule = audit->schedule;
    for (int32_t stage = 0; stage < schedule->num_stages; stage++) {
        const unsigned expected = expected_bits(schedule, stage);
        for (int32_t i = 0; i < schedule->num_microbatches; i++) {
            const unsigned seen = *seen_at(audit, stage, i);
            const unsigned halves = BIT(I) | BIT(W);
            if ((seen & expected) != expected ||
                ((seen & BIT(B)) == 0 && (seen & halves) != halves)) {
                return hlm_fail(audit->err, HLM_INPUT,
                                "stage %d, microbatch %d: an action is missing", stage, i);
            }
        }
        if (schedule->lowered && !audit->is_reduced[stage]) {
            return hlm_fail(audit->err, HLM_INPUT, "stage %d: REDUCE_GRAD is missing", stage);
        }
    }
    return HLM_OK;
}

/* ---- messages of a channel (from one rank to another) are received in the order of their sends
 * ---- */

struct message {
    int32_t from_rank, to_rank;
    size_t slot; /* of its sender: [2][num_stages][num_microbatches], forwards before gradients */
};

static struct message message_of(const struct hlm_schedule *schedule, struct hlm_action action)
{
    const int32_t other = action.stage + rules[action.kind].neighbour;
    const bool is_send = action.kind == HLM_ACTION_SEND_F || action.kind == HLM_ACTION_SEND_B;
    const bool is_forward = action.kind == HLM_ACTION_SEND_F || action.kind == HLM_ACTION_RECV_F;
    const int32_t sender = is_send ? action.stage : other;
    const int32_t receiver = is_send ? other : action.stage;
    const size_t row = (size_t)sender + (is_forward ? 0 : (size_t)schedule->num_stages);
    return (struct message){schedule->stage_rank[sender], schedule->stage_rank[receiver],
                            row * (size_t)schedule->num_microbatches + (size_t)action.microbatch};
}

static void number_sends(const struct hlm_schedule *schedule, const struct hlm_rank_actions *list,
                         int32_t *next_of_rank, int32_t *number)
{
    for (int32_t i = 0; i < list->num_actions; i++) {
        const enum hlm_action_kind kind = list->actions[i].kind;
        if (kind == HLM_ACTION_SEND_F || kind == HLM_ACTION_SEND_B) {
            const struct message message = message_of(schedule, list->actions[i]);
            number[message.slot] = next_of_rank[message.to_rank]++;
        }
    }
}

static enum hlm_status check_receives(struct audit *audit, int32_t *next_of_rank,
                                      const int32_t *number)
{
    const struct hlm_rank_actions *list = &audit->schedule->ranks[audit->rank];
    for (audit->position = 0; audit->position < list->num_actions; audit->position++) {
        const struct hlm_action action = list->actions[audit->position];
        if (action.kind != HLM_ACTION_RECV_F && action.kind != HLM_ACTION_RECV_B) {
            continue;
        }
        const struct message message = message_of(audit->schedule, action);
        if (number[message.slot] != next_of_rank[message.from_rank]++) {
            return fail_at(audit, action, "expected the order in which its rank sends");
        }
    }
    return HLM_OK;
}

static enum hlm_status check_channels(struct audit *audit)
{
    const struct hlm_schedule *schedule = audit->schedule;
    const size_t num_ranks = (size_t)schedule->num_ranks;
    int32_t *number =
        HLM_ARENA_ARRAY(audit->arena, int32_t,
                        2 * (size_t)schedule->num_stages * (size_t)schedule->num_microbatches);
    for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(audit->arena);
        number_sends(schedule, &schedule->ranks[rank],
                     HLM_ARENA_ARRAY(audit->arena, int32_t, num_ranks), number);
        hlm_arena_rewind(audit->arena, mark);
    }
    for (audit->rank = 0; audit->rank < schedule->num_ranks; audit->rank++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(audit->arena);
        HLM_TRY(check_receives(audit, HLM_ARENA_ARRAY(audit->arena, int32_t, num_ranks), number));
        hlm_arena_rewind(audit->arena, mark);
    }
    return HLM_OK;
}

static enum hlm_status check_all(struct audit *audit)
{
    const struct hlm_schedule *schedule = audit->schedule;
    for (int32_t stage = 0; stage < schedule->num_stages; stage++) {
        if (schedule->stage_rank[stage] < 0 || schedule->stage_rank[stage] >= schedule->num_ranks) {
            return hlm_fail(audit->err, HLM_INPUT, "stage %d: expected a rank below %d, found %d",
                            stage, schedule->num_ranks, schedule->stage_rank[stage]);
        }
    }
    for (audit->rank = 0; audit->rank < schedule->num_ranks; audit->rank++) {
        HLM_TRY(check_list(audit));
    }
    HLM_TRY(check_complete(audit));
    return schedule->lowered ? check_channels(audit) : HLM_OK;
}

enum hlm_status hlm_schedule_verify(const struct hlm_schedule *schedule, struct hlm_err *err)
{
    struct hlm_arena *arena = hlm_arena_new();
    const size_t num_stages = (size_t)schedule->num_stages;
    struct audit audit = {
        .schedule = schedule,
        .arena = arena,
        .seen = HLM_ARENA_ARRAY(arena, uint8_t, num_stages * (size_t)schedule->num_microbatches),
        .num_gradients = HLM_ARENA_ARRAY(arena, int32_t, num_stages),
        .is_reduced = HLM_ARENA_ARRAY(arena, bool, num_stages),
        .err = err,
    };
    const enum hlm_status status = check_all(&audit);
    hlm_arena_free(arena);
    return status;
}

void hlm_schedule_check(const struct hlm_schedule *schedule)
{
    struct hlm_err err = {0};
    const enum hlm_status status = hlm_schedule_verify(schedule, &err);
    if (status != HLM_OK) {
        hlm_assert_failed(err.text, __FILE__, __LINE__);
    }
}
