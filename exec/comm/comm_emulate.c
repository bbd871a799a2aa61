#include "exec/comm/comm_emulate.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "costmodel/collective.h"
#include "exec/bf16.h"
#include "exec/comm/comm_internal.h"

enum { PATTERN_LENGTH = 65521 };            /* a prime: no width of a tensor divides it */
enum { FORWARD, BACKWARD, NUM_DIRECTIONS }; /* as the channels of messages */
static const double never_s = -1.0;
static const struct hlm_action between_actions = {.kind = HLM_NUM_ACTIONS, .microbatch = -1};

/* A receive: the forward or backward that it is for. */
struct hlm_request {
    struct hlm_action action;
};

struct emulate {
    struct hlm_comm base;
    const struct hlm_plan *plan;
    struct hlm_coords coords;
    struct hlm_comm_groups groups;
    struct hlm_group_shape *shapes; /* [num_stages][HLM_NUM_GROUPS], num_ranks 0: not known yet */
    enum hlm_emulate_delay delay;
    struct hlm_plan_simulation simulation;
    /* [num_stages][num_microbatches] of each direction, seconds from the step's start: ends of the
     * actions that make an activation or a gradient, as predicted; and when this rank sent them in
     * this step, never_s before. */
    double *ends_s[NUM_DIRECTIONS], *sent_s[NUM_DIRECTIONS];
    int32_t *cursors; /* of sends and receives, [2][NUM_DIRECTIONS][pp][max_tp] */
    int32_t max_tp;   /* of all stages */
    bool splits;      /* the schedule has I and W, if only for some backwards */
    unsigned char *patterns[NUM_DIRECTIONS]; /* [PATTERN_LENGTH] elements */
    int64_t element_bytes;
    uint64_t key, num_received;
    double step_start_s; /* CLOCK_MONOTONIC */
    const char *action_text;
    struct hlm_action action; /* that runs */
    hlm_emulate_alive_fn *alive;
    void *alive_context;
};

static struct emulate *of(struct hlm_comm *comm)
{
    return (struct emulate *)comm;
}

/* ---- time ---- */

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void sleep_until(double until_s)
{
    const struct timespec until = {.tv_sec = (time_t)until_s,
                                   .tv_nsec = (long)(1e9 * (until_s - (double)(time_t)until_s))};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL); /* interrupted: the loop comes */
}

/* Sleeps in slices, and watches the clock for the last moment: a sleep ends late by as much. */
static void wait_until(const struct emulate *self, double until_s)
{
    static const double slice_s = 0.2, spin_s = 1e-4;
    for (double now = now_s(); now < until_s; now = now_s()) {
        if (until_s - now > spin_s) {
            const double wake_s = until_s - spin_s;
            sleep_until(wake_s < now + slice_s ? wake_s : now + slice_s);
            if (self->alive != NULL) {
                self->alive(self->alive_context);
            }
        }
    }
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* ---- when a message comes ---- */

static int64_t cell(const struct emulate *self, int32_t stage, int32_t microbatch)
{
    return (int64_t)stage * self->simulation.schedule->num_microbatches + microbatch;
}

static bool is_own(const struct emulate *self, int32_t stage)
{
    return self->simulation.schedule->stage_rank[stage] == self->coords.pp;
}

static double transfer_s(const struct emulate *self, int32_t from, int32_t to)
{
    const struct hlm_schedule *schedule = self->simulation.schedule;
    const struct hlm_sim_costs *costs = &self->simulation.costs;
    if (schedule->stage_rank[from] == schedule->stage_rank[to]) {
        return 0.0;
    }
    return (from < to ? costs->send_forward_s : costs->send_backward_s)[from];
}

static double pass_s(const struct emulate *self, int32_t direction, int32_t stage)
{
    const struct hlm_sim_costs *costs = &self->simulation.costs;
    const double *const backward_s = self->splits ? costs->input_grad_s : costs->backward_s;
    return (direction == FORWARD ? costs->forward_s : backward_s)[stage];
}

/* The earliest that the input of this action can follow from what this rank itself sent of the
 * microbatch in this step: up the stages, and down again, to the nearest stage of this rank, each
 * taking one pass. Without one (the first stages wait for nobody), the step's start. */
static double echo_s(const struct emulate *self, int32_t direction, int32_t stage,
                     int32_t microbatch)
{
    const int32_t last = self->simulation.schedule->num_stages - 1;
    double way_s = 0.0;
    for (;;) {
        if (direction == BACKWARD && stage == last) {
            direction = FORWARD; /* a backward of the last stage waits for its forward */
            way_s += pass_s(self, FORWARD, stage);
        }
        const int32_t giver = stage + (direction == FORWARD ? -1 : 1);
        if (giver < 0) {
            return 0.0;
        }
        way_s += transfer_s(self, giver, stage);
        const double sent_s = self->sent_s[direction][cell(self, giver, microbatch)];
        if (is_own(self, giver)) {
            return sent_s == never_s ? 0.0 : sent_s + way_s;
        }
        way_s += pass_s(self, direction, giver);
        stage = giver;
    }
}

/* When the message for a forward or backward is here, for a rank that waits for it now;
 * CLOCK_MONOTONIC. */
static double arrival_s(const struct emulate *self, struct hlm_action action)
{
    const int32_t direction = action.kind == HLM_ACTION_F ? FORWARD : BACKWARD;
    const int32_t giver = action.stage + (direction == FORWARD ? -1 : 1);
    const bool both_sides =
        self->simulation.costs.needs_both_sides[direction == FORWARD ? giver : action.stage];
    const double asked_s = now_s() - self->step_start_s;
    const double made_s = self->ends_s[direction][cell(self, giver, action.microbatch)];
    const double start_s = both_sides ? larger(made_s, asked_s) : made_s;
    return self->step_start_s + larger(start_s + transfer_s(self, giver, action.stage),
                                       echo_s(self, direction, action.stage, action.microbatch));
}

/* ---- messages ---- */

/* Messages of one sender, receiver and direction are posted in the order of the sender's list, so
 * counting them says what each is for. */
static struct hlm_action next_message(struct emulate *self, int32_t from, int32_t to,
                                      int32_t direction, int32_t *cursor)
{
    const struct hlm_schedule *schedule = self->simulation.schedule;
    const struct hlm_rank_actions *list = &schedule->ranks[from];
    const enum hlm_action_kind sent = direction == FORWARD ? HLM_ACTION_SEND_F : HLM_ACTION_SEND_B;
    for (;;) {
        HLM_ASSERT(*cursor < list->num_actions);
        const struct hlm_action action = list->actions[(*cursor)++];
        const int32_t taker = action.stage + (direction == FORWARD ? 1 : -1);
        if (action.kind == sent && schedule->stage_rank[taker] == to) {
            return (struct hlm_action){direction == FORWARD ? HLM_ACTION_F : HLM_ACTION_B, taker,
                                       action.microbatch};
        }
    }
}

/* Where the next message to or from a peer stands in the sender's list. */
static int32_t *cursor_of(struct emulate *self, bool receives, int32_t direction,
                          struct hlm_coords peer)
{
    const int32_t row = (receives ? NUM_DIRECTIONS : 0) + direction;
    return &self->cursors[((int64_t)row * self->simulation.schedule->num_ranks + peer.pp) *
                              self->max_tp +
                          peer.tp];
}

/* The pattern from another place on for each message. */
static void fill(struct emulate *self, int32_t direction, unsigned char *data, int64_t bytes)
{
    const int64_t length = PATTERN_LENGTH * self->element_bytes;
    int64_t at = (int64_t)(hlm_rng_bits(self->key, self->num_received++) % PATTERN_LENGTH) *
                 self->element_bytes;
    while (bytes > 0) {
        const int64_t part = bytes < length - at ? bytes : length - at;
        memcpy(data, self->patterns[direction] + at, (size_t)part);
        data += part;
        bytes -= part;
        at = 0;
    }
}

static enum hlm_status emulate_send(struct hlm_comm *comm, int32_t peer, int32_t channel,
                                    const void *data, int64_t bytes, struct hlm_request **out,
                                    struct hlm_err *err)
{
    struct emulate *self = of(comm);
    const struct hlm_coords to = hlm_layout_coords(&self->plan->strategy, peer);
    const struct hlm_action taker =
        next_message(self, self->coords.pp, to.pp, channel, cursor_of(self, false, channel, to));
    const int32_t stage = taker.stage + (channel == FORWARD ? -1 : 1);
    (void)data, (void)bytes, (void)err;
    self->sent_s[channel][cell(self, stage, taker.microbatch)] = now_s() - self->step_start_s;
    *out = NULL;
    return HLM_OK;
}

static enum hlm_status emulate_receive(struct hlm_comm *comm, int32_t peer, int32_t channel,
                                       void *data, int64_t bytes, struct hlm_request **out,
                                       struct hlm_err *err)
{
    struct emulate *self = of(comm);
    const struct hlm_coords from = hlm_layout_coords(&self->plan->strategy, peer);
    struct hlm_request *request = malloc(sizeof *request);
    if (request == NULL) {
        return hlm_fail(err, HLM_FAILED, "out of memory for a message from rank %" PRId32, peer);
    }
    request->action =
        next_message(self, from.pp, self->coords.pp, channel, cursor_of(self, true, channel, from));
    fill(self, channel, data, bytes);
    *out = request;
    return HLM_OK;
}

static enum hlm_status emulate_wait(struct hlm_comm *comm, struct hlm_request *request,
                                    struct hlm_err *err)
{
    const struct emulate *self = of(comm);
    (void)err;
    if (request != NULL && self->delay == HLM_EMULATE_PREDICTED) {
        wait_until(self, arrival_s(self, request->action));
    }
    free(request);
    return HLM_OK;
}

/* ---- collectives ---- */

static int32_t own_stage(const struct emulate *self)
{
    return self->action.kind == HLM_NUM_ACTIONS
               ? hlm_schedule_first_stage(self->simulation.schedule, self->coords.pp)
               : self->action.stage;
}

/* How a group of a stage lies on the nodes; found once. */
static struct hlm_group_shape shape_of(struct emulate *self, enum hlm_group group, int32_t stage)
{
    struct hlm_group_shape *shape = &self->shapes[stage * HLM_NUM_GROUPS + (int32_t)group];
    if (shape->num_ranks == 0) {
        *shape = hlm_layout_shape(&self->plan->strategy, group, &self->plan->cluster, stage);
    }
    return *shape;
}

double hlm_comm_emulate_collective_s(struct hlm_comm *comm, enum hlm_collective op,
                                     enum hlm_group group, int64_t bytes)
{
    struct emulate *self = of(comm);
    const int32_t stage = own_stage(self);
    return self->groups.of[group].size == 1
               ? 0.0
               : hlm_collective_seconds(&self->plan->cluster,
                                        self->plan->stages[stage].device_group, op, (double)bytes,
                                        shape_of(self, group, stage));
}

/* Between actions (the loss, the barrier) no time passes: the simulation has none for it. */
static void delay(struct emulate *self, enum hlm_collective op, enum hlm_group group, int64_t bytes,
                  double began_s)
{
    if (self->delay == HLM_EMULATE_NONE || self->action.kind == HLM_NUM_ACTIONS) {
        return;
    }
    double until_s = began_s + hlm_comm_emulate_collective_s(&self->base, op, group, bytes);
    if (self->action.kind == HLM_ACTION_OPTIMIZER && op == HLM_ALL_REDUCE) {
        const struct hlm_plan_simulation *simulation = &self->simulation;
        until_s = larger(until_s, self->step_start_s + simulation->result.reduce_end_s +
                                      simulation->costs.sync_s);
    }
    wait_until(self, until_s);
}

static enum hlm_status emulate_all_reduce(struct hlm_comm *comm, enum hlm_group group, void *data,
                                          int64_t count, enum hlm_wire type, enum hlm_reduce op,
                                          struct hlm_err *err)
{
    (void)data, (void)op, (void)err;
    delay(of(comm), HLM_ALL_REDUCE, group, count * hlm_wire_bytes(type), now_s());
    return HLM_OK;
}

static bool is_data_parallel(enum hlm_group group)
{
    return group == HLM_GROUP_DP || group == HLM_GROUP_EDP;
}

static enum hlm_status emulate_all_gather(struct hlm_comm *comm, enum hlm_group kind,
                                          const void *in, void *out, int64_t count,
                                          enum hlm_wire type, struct hlm_err *err)
{
    struct emulate *self = of(comm);
    const struct hlm_comm_group *group = &self->groups.of[kind];
    const int64_t bytes = count * hlm_wire_bytes(type);
    const double began_s = now_s();
    unsigned char *places = out;
    (void)err;
    if (in != places + group->position * bytes || !is_data_parallel(kind)) {
        for (int32_t i = 0; i < group->size; i++) {
            memmove(places + i * bytes, in, (size_t)bytes);
        }
    }
    delay(self, HLM_ALL_GATHER, kind, bytes * group->size, began_s);
    return HLM_OK;
}

static enum hlm_status emulate_reduce_scatter(struct hlm_comm *comm, enum hlm_group kind,
                                              const void *in, void *out, int64_t count,
                                              enum hlm_wire type, struct hlm_err *err)
{
    struct emulate *self = of(comm);
    const struct hlm_comm_group *group = &self->groups.of[kind];
    const int64_t bytes = count * hlm_wire_bytes(type);
    const double began_s = now_s();
    (void)err;
    memmove(out, (const unsigned char *)in + group->position * bytes, (size_t)bytes);
    delay(self, HLM_REDUCE_SCATTER, kind, bytes * group->size, began_s);
    return HLM_OK;
}

/* `bytes` from a source that is as often repeated as is needed. */
static void repeat(unsigned char *to, int64_t bytes, const unsigned char *from, int64_t from_bytes)
{
    if (from_bytes == 0) {
        memset(to, 0, (size_t)bytes);
        return;
    }
    for (int64_t done = 0; done < bytes; done += from_bytes) {
        memcpy(to + done, from, (size_t)(bytes - done < from_bytes ? bytes - done : from_bytes));
    }
}

static enum hlm_status emulate_all_to_all(struct hlm_comm *comm, enum hlm_group kind,
                                          const void *in, const int64_t *in_bytes, void *out,
                                          const int64_t *out_bytes, struct hlm_err *err)
{
    struct emulate *self = of(comm);
    const struct hlm_comm_group *group = &self->groups.of[kind];
    const double began_s = now_s();
    const unsigned char *own = in;
    unsigned char *to = out;
    int64_t total = 0;
    (void)err;
    for (int32_t i = 0; i < group->size; i++) {
        own += i < group->position ? in_bytes[i] : 0;
        total += in_bytes[i];
    }
    for (int32_t i = 0; i < group->size; i++) {
        repeat(to, out_bytes[i], own, in_bytes[group->position]);
        to += out_bytes[i];
    }
    delay(self, HLM_ALL_TO_ALL, kind, total, began_s);
    return HLM_OK;
}

static int64_t num_cursors(const struct emulate *self)
{
    return (int64_t)2 * NUM_DIRECTIONS * self->simulation.schedule->num_ranks * self->max_tp;
}

/* Of the whole world: a step starts. */
static enum hlm_status emulate_barrier(struct hlm_comm *comm, enum hlm_group group,
                                       struct hlm_err *err)
{
    struct emulate *self = of(comm);
    (void)err;
    if (group == HLM_GROUP_WORLD) {
        const int64_t num = cell(self, self->simulation.schedule->num_stages, 0);
        for (int64_t i = 0; i < num; i++) {
            self->sent_s[FORWARD][i] = never_s;
            self->sent_s[BACKWARD][i] = never_s;
        }
        memset(self->cursors, 0, (size_t)num_cursors(self) * sizeof(*self->cursors));
        self->step_start_s = now_s();
    }
    return HLM_OK;
}

/* ---- life ---- */

static void emulate_abort(struct hlm_comm *comm)
{
    (void)comm; /* nobody waits for this rank */
}

static void emulate_release(struct hlm_comm *comm)
{
    struct emulate *self = of(comm);
    hlm_comm_groups_release(&self->groups);
}

static const struct hlm_comm_ops emulate_ops = {
    .name = "emulated",
    .release = emulate_release,
    .abort = emulate_abort,
    .all_reduce = emulate_all_reduce,
    .all_gather = emulate_all_gather,
    .reduce_scatter = emulate_reduce_scatter,
    .all_to_all = emulate_all_to_all,
    .barrier = emulate_barrier,
    .send = emulate_send,
    .receive = emulate_receive,
    .wait = emulate_wait,
};

/* fp32, or bf16: the executor runs no other dtype. */
static void put(const struct emulate *self, unsigned char *out, double number)
{
    const float value = (float)number;
    const uint16_t narrow = hlm_bf16_round(value);
    const bool is_narrow = self->element_bytes == (int64_t)sizeof narrow;
    memcpy(out, is_narrow ? (const void *)&narrow : &value, (size_t)self->element_bytes);
}

static void make_patterns(struct hlm_arena *arena, struct emulate *self, uint64_t seed)
{
    const struct hlm_strategy *strategy = &self->plan->strategy;
    const double tokens = (double)strategy->global_batch_size * (double)strategy->seq_len;
    const double deviations[NUM_DIRECTIONS] = {1.0, 0.02 / tokens};
    self->element_bytes = (int64_t)hlm_dtype_bytes(hlm_dtype_storage(strategy->dtype));
    self->key = hlm_hash(HLM_HASH_START, "received", strlen("received")) ^ seed;
    for (int32_t direction = 0; direction < NUM_DIRECTIONS; direction++) {
        unsigned char *pattern =
            HLM_ARENA_ARRAY(arena, unsigned char, PATTERN_LENGTH * self->element_bytes);
        for (int32_t i = 0; i < PATTERN_LENGTH; i++) {
            put(self, pattern + i * self->element_bytes,
                deviations[direction] * hlm_rng_normal(self->key, (uint64_t)i));
        }
        self->patterns[direction] = pattern;
    }
}

/* Ends of what each stage gives away: activations of F, gradients of B or I. */
static void note_end(struct emulate *self, struct hlm_action action, double end_s)
{
    const enum hlm_action_kind kind = action.kind;
    if (kind == HLM_ACTION_F || kind == HLM_ACTION_B || kind == HLM_ACTION_I) {
        const int32_t direction = kind == HLM_ACTION_F ? FORWARD : BACKWARD;
        self->ends_s[direction][cell(self, action.stage, action.microbatch)] = end_s;
        self->splits = self->splits || kind == HLM_ACTION_I;
    }
}

static void make_times(struct hlm_arena *arena, struct emulate *self)
{
    const struct hlm_schedule *schedule = self->simulation.schedule;
    const int64_t num = cell(self, schedule->num_stages, 0);
    for (int32_t direction = 0; direction < NUM_DIRECTIONS; direction++) {
        self->ends_s[direction] = HLM_ARENA_ARRAY(arena, double, num);
        self->sent_s[direction] = HLM_ARENA_ARRAY(arena, double, num);
        for (int64_t i = 0; i < num; i++) {
            self->sent_s[direction][i] = never_s;
        }
    }
    for (int32_t stage = 0; stage < schedule->num_stages; stage++) {
        const int32_t tp = self->plan->stages[stage].tp;
        self->max_tp = tp > self->max_tp ? tp : self->max_tp;
    }
    self->cursors = HLM_ARENA_ARRAY(arena, int32_t, num_cursors(self));
    for (int32_t r = 0; r < schedule->num_ranks; r++) {
        const struct hlm_sim_rank *rank = &self->simulation.result.ranks[r];
        for (int32_t i = 0; i < rank->num_events; i++) {
            note_end(self, rank->events[i].action, rank->events[i].end_s);
            note_end(self, rank->events[i].overlapped, rank->events[i].end_s);
        }
    }
}

enum hlm_status hlm_comm_emulate_new(struct hlm_arena *arena,
                                     const struct hlm_emulate_config *config, struct hlm_comm **out,
                                     struct hlm_err *err)
{
    const struct hlm_plan *plan = config->plan;
    if (config->rank < 0 || config->rank >= plan->num_ranks) {
        return hlm_fail(err, HLM_USAGE, "rank %" PRId32 " can't be emulated: the plan has 0 to %d",
                        config->rank, plan->num_ranks - 1);
    }
    if (plan->strategy.num_replicas > 0) {
        return hlm_fail(err, HLM_USAGE,
                        "a rank of a plan whose replicas have shares of their own can't be "
                        "emulated: run all ranks");
    }
    struct emulate *self = HLM_ARENA_NEW(arena, struct emulate);
    *self = (struct emulate){.base = {&emulate_ops, config->rank, plan->num_ranks},
                             .plan = plan,
                             .coords = hlm_layout_coords(&plan->strategy, config->rank),
                             .delay = config->delay,
                             .action = between_actions};
    HLM_TRY(hlm_plan_simulate(arena, plan, &self->simulation, err));
    self->shapes =
        HLM_ARENA_ARRAY(arena, struct hlm_group_shape, (int64_t)plan->num_stages * HLM_NUM_GROUPS);
    make_patterns(arena, self, config->seed);
    make_times(arena, self);
    HLM_TRY(hlm_comm_groups_init(&self->groups, &plan->strategy, config->rank, err));
    *out = &self->base;
    return HLM_OK;
}

void hlm_comm_emulate_action(struct hlm_comm *comm, const char *action)
{
    struct emulate *self = of(comm);
    if (action == self->action_text) {
        return; /* told again of the same action */
    }
    struct hlm_err none = {0};
    self->action_text = action;
    if (action == NULL || hlm_action_parse(action, &self->action, &none) != HLM_OK) {
        self->action = between_actions;
    }
}

void hlm_comm_emulate_alive(struct hlm_comm *comm, hlm_emulate_alive_fn *alive, void *context)
{
    of(comm)->alive = alive;
    of(comm)->alive_context = context;
}
