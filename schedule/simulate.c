#include "schedule/simulate.h"

/* An end that is not known yet; all times are >= 0. */
#define UNKNOWN (-1.0)

enum { NUM_COMPUTE = HLM_ACTION_W + 1, NOBODY = -1 };

/* What one kind of action of one stage needs and gives. Ends of forwards and of gradients stand in
 * ends[2][num_stages][num_microbatches]; a base plus the microbatch is an index into it. */
struct step {
    double duration_s;
    double transfer_s; /* of what it needs, 0 on the same rank */
    int32_t need_base; /* NOBODY: needs no other action's end */
    int32_t give_base; /* NOBODY: nobody on any rank waits for it */
    int32_t taker;     /* the rank that may wait for what it gives */
    bool needs_both_sides;
};

struct progress {
    int32_t next;       /* position in the list */
    int32_t waits_for;  /* index into ends, NOBODY */
    int32_t num_events; /* compute actions done */
    double free_s;      /* end of its last compute action */
    double busy_s, first_start_s, wait_transfer_s;
};

struct run {
    const struct hlm_schedule *schedule;
    const struct hlm_sim_costs *costs;
    struct step *steps; /* [num_stages][NUM_COMPUTE] */
    double *ends;
    double *gradients_s; /* [num_stages]: end of its last B or W */
    struct progress *progress;
    int32_t *stack; /* ranks that may go on; each at most once: it is pushed when its wait ends */
    int32_t stack_size;
    struct hlm_sim_event **events; /* [num_ranks] or NULL */
};

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* ---- the table of steps ---- */

/* Adds what a step of `stage` needs from `giver` over the boundary between them. */
static void set_need(const struct run *run, struct step *step, int32_t stage, int32_t giver)
{
    const struct hlm_schedule *schedule = run->schedule;
    if (giver < 0 || giver >= schedule->num_stages) {
        return;
    }
    const bool forward = giver < stage;
    const int32_t row = giver + (forward ? 0 : schedule->num_stages);
    step->need_base = row * schedule->num_microbatches;
    if (schedule->stage_rank[giver] != schedule->stage_rank[stage]) {
        const struct hlm_sim_costs *costs = run->costs;
        step->transfer_s =
            hlm_sim_at(forward ? costs->send_forward_s : costs->send_backward_s, giver);
        step->needs_both_sides =
            costs->needs_both_sides != NULL && costs->needs_both_sides[forward ? giver : stage];
    }
}

static void set_give(const struct run *run, struct step *step, int32_t stage, int32_t taker)
{
    const struct hlm_schedule *schedule = run->schedule;
    if (taker < 0 || taker >= schedule->num_stages) {
        return;
    }
    const int32_t row = stage + (taker > stage ? 0 : schedule->num_stages);
    step->give_base = row * schedule->num_microbatches;
    step->taker = schedule->stage_rank[taker];
}

static void fill_steps(struct run *run)
{
    const struct hlm_sim_costs *costs = run->costs;
    const double *const durations[NUM_COMPUTE] = {
        [HLM_ACTION_F] = costs->forward_s,
        [HLM_ACTION_B] = costs->backward_s,
        [HLM_ACTION_I] = costs->input_grad_s,
        [HLM_ACTION_W] = costs->weight_grad_s,
    };
    static const int giver[NUM_COMPUTE] = {
        [HLM_ACTION_F] = -1, [HLM_ACTION_B] = 1, [HLM_ACTION_I] = 1};
    for (int32_t stage = 0; stage < run->schedule->num_stages; stage++) {
        for (int kind = 0; kind < NUM_COMPUTE; kind++) {
            struct step *step = &run->steps[stage * NUM_COMPUTE + kind];
            *step = (struct step){.duration_s = hlm_sim_at(durations[kind], stage),
                                  .need_base = NOBODY,
                                  .give_base = NOBODY};
            if (giver[kind] != 0) {
                set_need(run, step, stage, stage + giver[kind]);
                set_give(run, step, stage, stage - giver[kind]);
            }
        }
    }
}

/* ---- the walk ---- */

static void record(struct run *run, int32_t rank, struct hlm_action action, double start_s,
                   double end_s)
{
    run->events[rank][run->progress[rank].num_events] =
        (struct hlm_sim_event){.action = action,
                               .overlapped = {.kind = HLM_NUM_ACTIONS},
                               .start_s = start_s,
                               .end_s = end_s};
}

/* When the input of a step is there, given the end of what gives it. */
static double input_arrival(const struct step *step, double given_s, double free_s)
{
    return step->needs_both_sides ? larger(given_s, free_s) + step->transfer_s
                                  : given_s + step->transfer_s;
}

/* Tells who waits for the end of a step. */
static void give(struct run *run, const struct step *step, int32_t microbatch, double end_s)
{
    if (step->give_base == NOBODY) {
        return;
    }
    const int32_t index = step->give_base + microbatch;
    run->ends[index] = end_s;
    struct progress *taker = &run->progress[step->taker];
    if (taker->waits_for == index) {
        taker->waits_for = NOBODY;
        run->stack[run->stack_size++] = step->taker;
    }
}

/* Runs one compute action; false where its input is not known yet. */
static inline bool take(struct run *run, int32_t rank, struct progress *mine,
                        struct hlm_action action)
{
    const struct step *step = &run->steps[(size_t)action.stage * NUM_COMPUTE + (size_t)action.kind];
    double start_s = mine->free_s;
    if (step->need_base != NOBODY) {
        const int32_t index = step->need_base + action.microbatch;
        const double given_s = run->ends[index];
        if (given_s < 0) {
            mine->waits_for = index;
            return false;
        }
        start_s = larger(input_arrival(step, given_s, mine->free_s), mine->free_s);
        mine->wait_transfer_s += start_s - larger(mine->free_s, given_s);
    }
    const double *const *measured = run->costs->action_s;
    const double duration_s =
        measured == NULL ? step->duration_s : measured[rank][mine->num_events];
    HLM_ASSERT(duration_s >= 0); /* also: the schedule has I and W, the costs have not */
    const double end_s = start_s + duration_s;
    if (mine->num_events == 0) {
        mine->first_start_s = start_s;
    }
    if (run->events != NULL) {
        record(run, rank, action, start_s, end_s);
    }
    mine->busy_s += duration_s;
    mine->free_s = end_s;
    mine->num_events++;
    if (action.kind == HLM_ACTION_B || action.kind == HLM_ACTION_W) {
        run->gradients_s[action.stage] = end_s;
    }
    give(run, step, action.microbatch, end_s);
    return true;
}

/* When the input of an action is there; UNKNOWN, and the rank waits for it, when that is not known.
 * given_s: the end of what gives it, raised where it is later. */
static double arrival_of(const struct run *run, struct progress *mine, struct hlm_action action,
                         double *given_s)
{
    const struct step *step = &run->steps[(size_t)action.stage * NUM_COMPUTE + (size_t)action.kind];
    if (step->need_base == NOBODY) {
        return 0;
    }
    const int32_t index = step->need_base + action.microbatch;
    if (run->ends[index] < 0) {
        mine->waits_for = index;
        return UNKNOWN;
    }
    *given_s = larger(*given_s, run->ends[index]);
    return input_arrival(step, run->ends[index], mine->free_s);
}

static double pair_duration(const struct run *run, int32_t rank, const struct progress *mine,
                            const struct hlm_action *pair)
{
    const struct hlm_sim_costs *costs = run->costs;
    if (costs->action_s != NULL) {
        return costs->action_s[rank][mine->num_events];
    }
    return costs->overlap_s != NULL
               ? costs->overlap_s[pair[0].stage]
               : costs->forward_s[pair[0].stage] + costs->backward_s[pair[1].stage];
}

/* Runs a forward and a backward as one; false where an input is not known yet. */
static bool take_pair(struct run *run, int32_t rank, struct progress *mine,
                      const struct hlm_action *pair)
{
    double given_s = 0;
    const double forward_s = arrival_of(run, mine, pair[0], &given_s);
    const double backward_s = forward_s < 0 ? UNKNOWN : arrival_of(run, mine, pair[1], &given_s);
    if (backward_s < 0) {
        return false;
    }
    const double start_s = larger(larger(forward_s, backward_s), mine->free_s);
    const double duration_s = pair_duration(run, rank, mine, pair);
    HLM_ASSERT(duration_s >= 0);
    mine->wait_transfer_s += start_s - larger(mine->free_s, given_s);
    if (mine->num_events == 0) {
        mine->first_start_s = start_s;
    }
    if (run->events != NULL) {
        record(run, rank, pair[0], start_s, start_s + duration_s);
        run->events[rank][mine->num_events].overlapped = pair[1];
    }
    mine->busy_s += duration_s;
    mine->free_s = start_s + duration_s;
    mine->num_events++;
    run->gradients_s[pair[1].stage] = mine->free_s;
    for (int i = 0; i < 2; i++) {
        const struct step *step =
            &run->steps[(size_t)pair[i].stage * NUM_COMPUTE + (size_t)pair[i].kind];
        give(run, step, pair[i].microbatch, mine->free_s);
    }
    return true;
}

static void advance(struct run *run, int32_t rank)
{
    const struct hlm_rank_actions *list = &run->schedule->ranks[rank];
    struct progress *mine = &run->progress[rank];
    while (mine->next < list->num_actions) {
        const struct hlm_action action = list->actions[mine->next];
        if (action.kind == HLM_ACTION_OVERLAP_F_B) {
            if (!take_pair(run, rank, mine, &list->actions[mine->next + 1])) {
                return;
            }
            mine->next += 2;
        } else if (hlm_action_is_compute(action.kind) && !take(run, rank, mine, action)) {
            return;
        }
        mine->next++;
    }
}

static enum hlm_status check_done(struct hlm_arena *arena, const struct run *run,
                                  struct hlm_err *err)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    for (int32_t rank = 0; rank < run->schedule->num_ranks; rank++) {
        const struct hlm_rank_actions *list = &run->schedule->ranks[rank];
        if (run->progress[rank].next < list->num_actions) {
            char name[32];
            hlm_action_format(list->actions[run->progress[rank].next], name);
            hlm_text_printf(&text, "%srank %d before %s", text.length == 0 ? "" : ", ", rank, name);
        }
    }
    if (text.length == 0) {
        return HLM_OK;
    }
    return hlm_fail(err, HLM_FAILED, "the schedule makes no progress: %s", text.text);
}

/* ---- the end of the step ---- */

static void finish_event(struct run *run, int32_t rank, enum hlm_action_kind kind, int32_t stage,
                         double start_s, double end_s)
{
    if (run->events != NULL) {
        record(run, rank, (struct hlm_action){kind, stage, -1}, start_s, end_s);
        run->progress[rank].num_events++;
    }
}

static int32_t lowest(const int32_t *next_stage, int32_t stage)
{
    int32_t found = stage;
    for (; stage != NOBODY; stage = next_stage[stage]) {
        found = stage < found ? stage : found;
    }
    return found;
}

/* The stages of each rank, those whose last backward ended earlier first. next_stage[s] follows s.
 */
static void order_stages(const struct run *run, int32_t *first_stage, int32_t *next_stage)
{
    for (int32_t rank = 0; rank < run->schedule->num_ranks; rank++) {
        first_stage[rank] = NOBODY;
    }
    for (int32_t stage = 0; stage < run->schedule->num_stages; stage++) {
        int32_t *place = &first_stage[run->schedule->stage_rank[stage]];
        while (*place != NOBODY && run->gradients_s[*place] <= run->gradients_s[stage]) {
            place = &next_stage[*place];
        }
        next_stage[stage] = *place;
        *place = stage;
    }
}

/* Reductions of all ranks; returns when the last one ends. */
static double reduce_all(struct run *run, const int32_t *first_stage, const int32_t *next_stage)
{
    double last_s = 0;
    for (int32_t rank = 0; rank < run->schedule->num_ranks; rank++) {
        double free_s = run->costs->overlap_reduce ? 0.0 : run->progress[rank].free_s;
        for (int32_t stage = first_stage[rank]; stage != NOBODY; stage = next_stage[stage]) {
            const double start_s = larger(free_s, run->gradients_s[stage]);
            free_s = start_s + hlm_sim_at(run->costs->reduce_s, stage);
            finish_event(run, rank, HLM_ACTION_REDUCE_GRAD, stage, start_s, free_s);
        }
        last_s = larger(last_s, free_s);
    }
    return last_s;
}

/* All ranks update; returns when the last one ends. */
static double optimize_all(struct run *run, const int32_t *first_stage, const int32_t *next_stage,
                           double start_s)
{
    double last_s = start_s;
    for (int32_t rank = 0; rank < run->schedule->num_ranks; rank++) {
        double free_s = start_s;
        for (int32_t stage = first_stage[rank]; stage != NOBODY; stage = next_stage[stage]) {
            free_s += hlm_sim_at(run->costs->optimizer_s, stage);
        }
        finish_event(run, rank, HLM_ACTION_OPTIMIZER, lowest(next_stage, first_stage[rank]),
                     start_s, free_s);
        last_s = larger(last_s, free_s);
    }
    return last_s;
}

static void finish(struct hlm_arena *arena, struct run *run, struct hlm_sim_result *out)
{
    for (int32_t rank = 0; rank < run->schedule->num_ranks; rank++) {
        out->pipeline_s = larger(out->pipeline_s, run->progress[rank].free_s);
    }
    int32_t *first_stage = HLM_ARENA_ARRAY(arena, int32_t, run->schedule->num_ranks);
    int32_t *next_stage = HLM_ARENA_ARRAY(arena, int32_t, run->schedule->num_stages);
    order_stages(run, first_stage, next_stage);
    out->reduce_end_s = reduce_all(run, first_stage, next_stage);
    out->step_s =
        optimize_all(run, first_stage, next_stage, out->reduce_end_s + run->costs->sync_s);
}

/* ---- memory: depends on the order alone ---- */

/* What an action, or a pair, takes before it runs, needs while it runs, and frees behind it. */
struct need {
    int64_t takes, transient, frees;
};

static struct need need_of(const struct hlm_sim_memory *memory, struct hlm_action action)
{
    const int64_t activation = memory->activation_bytes[action.stage];
    const bool frees = action.kind == HLM_ACTION_B || action.kind == HLM_ACTION_W;
    return (struct need){action.kind == HLM_ACTION_F ? activation : 0,
                         memory->transient_bytes[action.stage], frees ? activation : 0};
}

/* The peak of one rank. Fills the bytes of its events, if there are any. */
static int64_t walk_memory(const struct hlm_schedule *schedule, const struct hlm_sim_memory *memory,
                           int32_t rank, struct hlm_sim_event *events, int32_t num_events)
{
    int64_t held = memory->static_bytes[rank];
    int64_t peak = held;
    int32_t count = 0;
    const struct hlm_rank_actions *list = &schedule->ranks[rank];
    for (int32_t i = 0; i < list->num_actions; i++) {
        const bool is_pair = list->actions[i].kind == HLM_ACTION_OVERLAP_F_B;
        if (!is_pair && !hlm_action_is_compute(list->actions[i].kind)) {
            continue;
        }
        i += is_pair;
        struct need need = need_of(memory, list->actions[i]);
        if (is_pair) {
            const struct need second = need_of(memory, list->actions[++i]);
            need.transient += second.transient;
            need.frees = second.frees;
        }
        held += need.takes;
        const int64_t running = held + need.transient;
        peak = running > peak ? running : peak;
        held -= need.frees;
        if (events != NULL) {
            events[count].bytes = running;
            events[count++].bytes_after = held;
        }
    }
    for (; events != NULL && count < num_events; count++) {
        events[count].bytes = held;
        events[count].bytes_after = held;
    }
    return peak;
}

/* ---- the whole ---- */

static void allocate_run(struct hlm_arena *arena, struct run *run)
{
    const struct hlm_schedule *schedule = run->schedule;
    const size_t num_ranks = (size_t)schedule->num_ranks;
    const size_t num_stages = (size_t)schedule->num_stages;
    const size_t num_ends = 2 * num_stages * (size_t)schedule->num_microbatches;
    HLM_ASSERT(num_ends <= INT32_MAX);
    run->steps = HLM_ARENA_ARRAY(arena, struct step, num_stages * NUM_COMPUTE);
    run->ends = HLM_ARENA_ARRAY(arena, double, num_ends);
    run->gradients_s = HLM_ARENA_ARRAY(arena, double, num_stages);
    run->progress = HLM_ARENA_ARRAY(arena, struct progress, num_ranks);
    run->stack = HLM_ARENA_ARRAY(arena, int32_t, num_ranks);
    for (size_t i = 0; i < num_ends; i++) {
        run->ends[i] = UNKNOWN;
    }
    for (int32_t rank = schedule->num_ranks - 1; rank >= 0; rank--) {
        run->progress[rank].waits_for = NOBODY;
        run->stack[run->stack_size++] = rank;
    }
}

static struct hlm_sim_event **allocate_events(struct hlm_arena *arena,
                                              const struct hlm_schedule *schedule)
{
    const size_t num_ranks = (size_t)schedule->num_ranks;
    size_t *counts = HLM_ARENA_ARRAY(arena, size_t, num_ranks);
    for (int32_t stage = 0; stage < schedule->num_stages; stage++) {
        counts[schedule->stage_rank[stage]]++; /* REDUCE_GRAD */
    }
    struct hlm_sim_event **events = HLM_ARENA_ARRAY(arena, struct hlm_sim_event *, num_ranks);
    for (size_t rank = 0; rank < num_ranks; rank++) {
        const struct hlm_rank_actions *list = &schedule->ranks[rank];
        for (int32_t i = 0; i < list->num_actions; i++) {
            counts[rank] += hlm_action_is_compute(list->actions[i].kind);
        }
        counts[rank]++; /* OPTIMIZER */
        events[rank] = HLM_ARENA_ARRAY(arena, struct hlm_sim_event, counts[rank]);
    }
    return events;
}

static void fill_ranks(const struct run *run, const struct hlm_sim_memory *memory,
                       struct hlm_sim_rank *ranks)
{
    for (int32_t rank = 0; rank < run->schedule->num_ranks; rank++) {
        const struct progress *progress = &run->progress[rank];
        struct hlm_sim_event *events = run->events == NULL ? NULL : run->events[rank];
        ranks[rank] = (struct hlm_sim_rank){
            .events = events,
            .num_events = events == NULL ? 0 : progress->num_events,
            .busy_s = progress->busy_s,
            .compute_end_s = progress->free_s,
            .first_start_s = progress->first_start_s,
            .wait_transfer_s = progress->wait_transfer_s,
        };
        if (memory != NULL) {
            ranks[rank].peak_bytes =
                walk_memory(run->schedule, memory, rank, events, progress->num_events);
        }
    }
}

enum hlm_status hlm_simulate(struct hlm_arena *arena, const struct hlm_schedule *schedule,
                             const struct hlm_sim_costs *costs, const struct hlm_sim_memory *memory,
                             bool want_events, struct hlm_sim_result *out, struct hlm_err *err)
{
    struct hlm_sim_rank *ranks = HLM_ARENA_ARRAY(arena, struct hlm_sim_rank, schedule->num_ranks);
    struct run run = {.schedule = schedule, .costs = costs};
    run.events = want_events ? allocate_events(arena, schedule) : NULL;
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    allocate_run(arena, &run);
    fill_steps(&run);
    while (run.stack_size > 0) {
        advance(&run, run.stack[--run.stack_size]);
    }
    const enum hlm_status status = check_done(arena, &run, err);
    if (status == HLM_OK) {
        struct hlm_sim_result result = {.ranks = ranks};
        finish(arena, &run, &result);
        fill_ranks(&run, memory, ranks);
        *out = result;
    }
    hlm_arena_rewind(arena, mark);
    return status;
}
