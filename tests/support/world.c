#include "tests/support/world.h"

#include "tests/support/check.h"

enum { NUM_KINDS = HLM_ACTION_W + 1, MAX_INPUTS = 2 };
static const double not_yet = -1.0;

enum item_kind {
    ITEM_BEGIN, /* an action may start: its messages are waited for */
    ITEM_COMPUTE,
    ITEM_MEET,
    ITEM_END,   /* of an action: what it gives is sent */
    ITEM_ORDER, /* all actions are done: the reductions follow, in the order of their backwards */
    ITEM_REDUCED,
};

struct message {
    int32_t from;    /* world rank */
    int32_t posting; /* which of its outputs */
    double transfer_s;
    bool both_sides;
};

struct item {
    enum item_kind kind;
    double seconds;
    enum hlm_group group;
    const struct message *inputs; /* of BEGIN */
    int32_t num_inputs;
    struct hlm_action actions[MAX_INPUTS]; /* of END */
    int32_t num_actions;
};

/* A group's ranks meet again and again. */
struct meeting {
    int32_t size, num_there, turn;
    double latest_s, end_s;
};

struct rank {
    struct hlm_coords coords;
    struct item *items;
    int32_t num_items, room, next;
    double now_s;
    bool is_waiting;
    int32_t turn;        /* of the meeting that it waits for */
    double *postings_s;  /* [2][num_stages][num_microbatches]: ends of what is sent on */
    double *gradients_s; /* [num_stages]: ends of last backwards */
    struct meeting *meetings[HLM_NUM_GROUPS];
    double factor;
    struct world_rank out;
};

struct run {
    struct hlm_arena *arena;
    const struct hlm_plan *plan;
    const struct hlm_plan_simulation *simulation;
    struct rank *ranks;
    int32_t num_ranks;
    int64_t num_meetings;
};

/* --- programs --- */

static struct item *add_item(struct run *run, struct rank *rank, enum item_kind kind)
{
    if (rank->num_items == rank->room) {
        rank->room = rank->room == 0 ? 256 : 2 * rank->room;
        struct item *more = HLM_ARENA_ARRAY(run->arena, struct item, rank->room);
        if (rank->num_items > 0) {
            memcpy(more, rank->items, (size_t)rank->num_items * sizeof(*more));
        }
        rank->items = more;
    }
    struct item *item = &rank->items[rank->num_items++];
    *item = (struct item){.kind = kind};
    return item;
}

static void add_seconds(struct run *run, struct rank *rank, enum item_kind kind,
                        enum hlm_group group, double seconds)
{
    if (seconds > 0.0) {
        struct item *item = add_item(run, rank, kind);
        item->seconds = kind == ITEM_COMPUTE ? seconds * rank->factor : seconds;
        item->group = group;
    }
}

static const struct hlm_pass_cost *pass_of(const struct run *run, struct hlm_action action)
{
    const struct hlm_stage_cost *stage = &run->simulation->stages[action.stage];
    const struct hlm_pass_cost *const passes[NUM_KINDS] = {[HLM_ACTION_F] = &stage->forward,
                                                           [HLM_ACTION_B] = &stage->backward,
                                                           [HLM_ACTION_I] = &stage->input_grad,
                                                           [HLM_ACTION_W] = &stage->weight_grad};
    return passes[action.kind];
}

static void add_pass(struct run *run, struct rank *rank, struct hlm_action action)
{
    static const struct {
        enum hlm_part part;
        enum hlm_group group;
    } exchanges[] = {{HLM_PART_TP_COMM, HLM_GROUP_TP},
                     {HLM_PART_CP_COMM, HLM_GROUP_CP},
                     {HLM_PART_EP_COMM, HLM_GROUP_EP},
                     {HLM_PART_DP_COMM, HLM_GROUP_DP}};
    const struct hlm_pass_cost *pass = pass_of(run, action);
    const int32_t layers = run->plan->stages[action.stage].num_layers;
    const int32_t num_pieces = layers > 0 ? layers : 1;
    double compute_s = pass->seconds;
    for (size_t i = 0; i < sizeof exchanges / sizeof exchanges[0]; i++) {
        compute_s -= pass->part[exchanges[i].part];
    }
    for (int32_t piece = 0; piece < num_pieces; piece++) {
        add_seconds(run, rank, ITEM_COMPUTE, HLM_GROUP_NONE, compute_s / num_pieces);
        for (size_t i = 0; i < sizeof exchanges / sizeof exchanges[0]; i++) {
            add_seconds(run, rank, ITEM_MEET, exchanges[i].group,
                        pass->part[exchanges[i].part] / num_pieces);
        }
    }
}

static int32_t posting_of(const struct run *run, bool forward, int32_t stage, int32_t microbatch)
{
    const struct hlm_schedule *schedule = run->simulation->schedule;
    return ((forward ? 0 : schedule->num_stages) + stage) * schedule->num_microbatches + microbatch;
}

static double seconds_at(const double *values, int32_t stage)
{
    return values == NULL ? 0.0 : values[stage];
}

/* What an action waits for: the ranks of its replica that have the stage before or behind it. Where
 * tp differs these may be several. Returns how many. */
static int32_t find_inputs(struct run *run, const struct rank *rank, struct hlm_action action,
                           struct message *out)
{
    const struct hlm_schedule *schedule = run->simulation->schedule;
    const struct hlm_sim_costs *costs = &run->simulation->costs;
    const bool forward = action.kind == HLM_ACTION_F;
    const int32_t giver = action.stage + (forward ? -1 : 1);
    if (action.kind == HLM_ACTION_W || giver < 0 || giver >= schedule->num_stages) {
        return 0;
    }
    struct hlm_coords coords = rank->coords;
    coords.pp = schedule->stage_rank[giver];
    const bool own = coords.pp == rank->coords.pp;
    const struct hlm_strategy *strategy = &run->plan->strategy;
    const int32_t here = hlm_strategy_at(strategy, rank->coords.pp).tp;
    const int32_t there = hlm_strategy_at(strategy, coords.pp).tp;
    const int32_t num = there > here ? there / here : 1;
    for (int32_t i = 0; i < num; i++) {
        coords.tp = there > here ? rank->coords.tp * num + i : rank->coords.tp * there / here;
        out[i] = (struct message){
            .from = hlm_layout_rank(strategy, coords),
            .posting = posting_of(run, forward, giver, action.microbatch),
            .transfer_s =
                own ? 0.0
                    : seconds_at(forward ? costs->send_forward_s : costs->send_backward_s, giver),
            .both_sides = !own && costs->needs_both_sides != NULL &&
                          costs->needs_both_sides[forward ? giver : action.stage]};
    }
    return num;
}

/* One action, or a forward and a backward as one. */
static void add_actions(struct run *run, struct rank *rank, const struct hlm_action *actions,
                        int32_t num_actions)
{
    struct message inputs[64];
    int32_t num_inputs = 0;
    for (int32_t i = 0; i < num_actions; i++) {
        num_inputs += find_inputs(run, rank, actions[i], &inputs[num_inputs]);
    }
    struct item *begin = add_item(run, rank, ITEM_BEGIN);
    begin->inputs =
        hlm_arena_memdup(run->arena, inputs, (size_t)num_inputs * sizeof(inputs[0]) + 1);
    begin->num_inputs = num_inputs;
    for (int32_t i = 0; i < num_actions; i++) {
        add_pass(run, rank, actions[i]);
    }
    struct item *end = add_item(run, rank, ITEM_END);
    memcpy(end->actions, actions, (size_t)num_actions * sizeof(*actions));
    end->num_actions = num_actions;
    rank->out.num_actions++;
}

static void write_program(struct run *run, struct rank *rank)
{
    const struct hlm_rank_actions *list = &run->simulation->schedule->ranks[rank->coords.pp];
    for (int32_t i = 0; i < list->num_actions; i++) {
        if (list->actions[i].kind == HLM_ACTION_OVERLAP_F_B) {
            add_actions(run, rank, &list->actions[i + 1], 2);
            i += 2;
        } else if (hlm_action_is_compute(list->actions[i].kind)) {
            add_actions(run, rank, &list->actions[i], 1);
        }
    }
    add_item(run, rank, ITEM_ORDER);
}

/* --- the end of a step --- */

static void add_exchange(struct run *run, struct rank *rank, double seconds)
{
    const bool experts = run->plan->model.moe.num_experts > 0;
    add_seconds(run, rank, ITEM_MEET, HLM_GROUP_DP, experts ? seconds / 2 : seconds);
    add_seconds(run, rank, ITEM_MEET, HLM_GROUP_EDP, experts ? seconds / 2 : 0.0);
}

static void add_end_of_step(struct run *run, struct rank *rank)
{
    const struct hlm_schedule *schedule = run->simulation->schedule;
    const struct hlm_sim_costs *costs = &run->simulation->costs;
    bool *is_reduced = HLM_ARENA_ARRAY(run->arena, bool, schedule->num_stages);
    for (;;) {
        int32_t first = -1;
        for (int32_t stage = 0; stage < schedule->num_stages; stage++) {
            if (schedule->stage_rank[stage] == rank->coords.pp && !is_reduced[stage] &&
                (first < 0 || rank->gradients_s[stage] < rank->gradients_s[first])) {
                first = stage;
            }
        }
        if (first < 0) {
            break;
        }
        is_reduced[first] = true;
        add_exchange(run, rank, seconds_at(costs->reduce_s, first));
    }
    add_item(run, rank, ITEM_REDUCED);
    struct item *all = add_item(run, rank, ITEM_MEET);
    *all = (struct item){.kind = ITEM_MEET, .group = HLM_GROUP_WORLD, .seconds = costs->sync_s};
    for (int32_t stage = 0; stage < schedule->num_stages; stage++) {
        if (schedule->stage_rank[stage] == rank->coords.pp) {
            const double gather_s = run->simulation->stages[stage].gather_s;
            add_seconds(run, rank, ITEM_COMPUTE, HLM_GROUP_NONE,
                        seconds_at(costs->optimizer_s, stage) - gather_s);
            add_exchange(run, rank, gather_s);
        }
    }
}

/* --- running --- */

/* False: some message is not sent yet. */
static bool begin(const struct run *run, struct rank *rank, const struct item *item)
{
    double start_s = rank->now_s;
    for (int32_t i = 0; i < item->num_inputs; i++) {
        const struct message *input = &item->inputs[i];
        const double sent_s = run->ranks[input->from].postings_s[input->posting];
        if (sent_s < 0) {
            return false;
        }
        const double leaves_s = input->both_sides ? fmax(sent_s, rank->now_s) : sent_s;
        start_s = fmax(start_s, leaves_s + input->transfer_s);
    }
    rank->now_s = start_s;
    rank->out.start_s[rank->out.num_actions] = start_s;
    return true;
}

static void end(const struct run *run, struct rank *rank, const struct item *item)
{
    for (int32_t i = 0; i < item->num_actions; i++) {
        const struct hlm_action action = item->actions[i];
        const bool forward = action.kind == HLM_ACTION_F;
        if (action.kind != HLM_ACTION_W) {
            rank->postings_s[posting_of(run, forward, action.stage, action.microbatch)] =
                rank->now_s;
        }
        if (action.kind == HLM_ACTION_B || action.kind == HLM_ACTION_W) {
            rank->gradients_s[action.stage] = rank->now_s;
        }
    }
    rank->out.end_s[rank->out.num_actions++] = rank->now_s;
}

/* False: others are not there yet. */
static bool meet(struct run *run, struct rank *rank, const struct item *item)
{
    struct meeting *meeting = rank->meetings[item->group];
    if (!rank->is_waiting) {
        rank->is_waiting = true;
        rank->turn = meeting->turn;
        meeting->latest_s = fmax(meeting->latest_s, rank->now_s);
        if (++meeting->num_there == meeting->size) {
            meeting->end_s = meeting->latest_s + item->seconds;
            meeting->latest_s = 0.0;
            meeting->num_there = 0;
            meeting->turn++;
            run->num_meetings++;
        }
    }
    if (meeting->turn == rank->turn) {
        return false;
    }
    rank->now_s = meeting->end_s;
    rank->is_waiting = false;
    return true;
}

static bool run_item(struct run *run, struct rank *rank)
{
    const struct item item = rank->items[rank->next];
    switch (item.kind) {
    case ITEM_BEGIN:
        return begin(run, rank, &item);
    case ITEM_COMPUTE:
        rank->now_s += item.seconds;
        return true;
    case ITEM_MEET:
        return meet(run, rank, &item);
    case ITEM_END:
        end(run, rank, &item);
        return true;
    case ITEM_ORDER:
        add_end_of_step(run, rank);
        return true;
    default:
        rank->out.reduced_s = rank->now_s;
        return true;
    }
}

static void run_all(struct run *run)
{
    bool some = true;
    while (some) {
        some = false;
        for (int32_t r = 0; r < run->num_ranks; r++) {
            struct rank *rank = &run->ranks[r];
            while (rank->next < rank->num_items && run_item(run, rank)) {
                rank->next++;
                some = true;
            }
        }
    }
    for (int32_t r = 0; r < run->num_ranks; r++) {
        if (run->ranks[r].next < run->ranks[r].num_items) {
            fail_msg("rank %d of the world makes no progress", r);
        }
    }
}

/* --- the whole --- */

/* Of the group's first member, shared by all. */
static struct meeting *meeting_of(struct run *run, enum hlm_group group, int32_t rank)
{
    const struct hlm_strategy *strategy = &run->plan->strategy;
    const struct hlm_strategy seen = hlm_strategy_at(strategy, run->ranks[rank].coords.pp);
    const int32_t size = hlm_layout_group_size(group == HLM_GROUP_WORLD ? strategy : &seen, group);
    int32_t *members = HLM_ARENA_ARRAY(run->arena, int32_t, size);
    int32_t position = 0;
    hlm_layout_group(strategy, group, rank, members, &position);
    int32_t first = members[0];
    for (int32_t i = 1; i < size; i++) {
        first = members[i] < first ? members[i] : first;
    }
    if (first == rank) {
        struct meeting *made = HLM_ARENA_NEW(run->arena, struct meeting);
        made->size = size;
        return made;
    }
    return run->ranks[first].meetings[group];
}

static void prepare(struct run *run, int32_t index, double factor)
{
    static const enum hlm_group groups[] = {HLM_GROUP_TP, HLM_GROUP_CP,  HLM_GROUP_DP,
                                            HLM_GROUP_EP, HLM_GROUP_EDP, HLM_GROUP_WORLD};
    const struct hlm_schedule *schedule = run->simulation->schedule;
    const int32_t num_postings = 2 * schedule->num_stages * schedule->num_microbatches;
    struct rank *rank = &run->ranks[index];
    rank->coords = hlm_layout_coords(&run->plan->strategy, index);
    rank->factor = factor;
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) {
        rank->meetings[groups[i]] = meeting_of(run, groups[i], index);
    }
    rank->postings_s = HLM_ARENA_ARRAY(run->arena, double, num_postings);
    for (int32_t i = 0; i < num_postings; i++) {
        rank->postings_s[i] = not_yet;
    }
    rank->gradients_s = HLM_ARENA_ARRAY(run->arena, double, schedule->num_stages);
    write_program(run, rank);
    rank->out.start_s = HLM_ARENA_ARRAY(run->arena, double, rank->out.num_actions);
    rank->out.end_s = HLM_ARENA_ARRAY(run->arena, double, rank->out.num_actions);
    rank->out.num_actions = 0;
}

struct world world_simulate(struct hlm_arena *arena, const struct hlm_plan *plan,
                            const struct hlm_plan_simulation *simulation, int32_t slow_rank,
                            double slow_factor)
{
    struct run run = {.arena = arena,
                      .plan = plan,
                      .simulation = simulation,
                      .num_ranks = (int32_t)hlm_strategy_world_size(&plan->strategy)};
    run.ranks = HLM_ARENA_ARRAY(arena, struct rank, run.num_ranks);
    for (int32_t r = 0; r < run.num_ranks; r++) {
        prepare(&run, r, r == slow_rank ? slow_factor : 1.0);
    }
    run_all(&run);
    struct world_rank *ranks = HLM_ARENA_ARRAY(arena, struct world_rank, run.num_ranks);
    struct world world = {
        .num_ranks = run.num_ranks, .ranks = ranks, .num_meetings = run.num_meetings};
    for (int32_t r = 0; r < run.num_ranks; r++) {
        ranks[r] = run.ranks[r].out;
        ranks[r].step_s = run.ranks[r].now_s;
        world.step_s = fmax(world.step_s, ranks[r].step_s);
    }
    return world;
}
