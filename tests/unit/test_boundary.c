#include "costmodel/boundary.h"

#include "costmodel/stage_cost.h"
#include "schedule/action.h"
#include "tests/support/check.h"
#include "tests/support/golden.h"

enum { MAX_PP = 4, MAX_RANKS = 64 };

/* Ways over the pipeline ranks; 0: no more. */
static const int32_t ways[][MAX_PP] = {{2, 2},       {1, 2},       {4, 1},       {2, 4},
                                       {6, 2, 6},    {1, 4, 2, 1}, {3, 6, 2, 4}, {4, 4, 1, 2},
                                       {1, 1, 1, 1}, {4, 2, 1, 4}};
enum { NUM_WAYS = sizeof(ways) / sizeof(ways[0]) };

struct world {
    struct hlm_strategy strategy;
    struct hlm_rank_place places[MAX_PP];
    int32_t num_ranks;
};

static void world_init(struct world *world, const int32_t way[MAX_PP], int32_t dp, bool sp)
{
    *world = (struct world){.strategy = {.dp = dp,
                                         .cp = 1,
                                         .ep = 1,
                                         .etp = 1,
                                         .vpp = 1,
                                         .zero_group = 1,
                                         .sp = sp,
                                         .places = world->places}};
    for (int32_t pp = 0; pp < MAX_PP && way[pp] > 0; pp++) {
        world->places[pp] = (struct hlm_rank_place){way[pp], world->num_ranks, world->num_ranks};
        world->num_ranks += dp * way[pp];
        world->strategy.pp = pp + 1;
        world->strategy.tp = way[pp] > world->strategy.tp ? way[pp] : world->strategy.tp;
    }
    HLM_ASSERT(world->num_ranks <= MAX_RANKS);
}

/* --- who gets what --- */

/* Rows are counted in twelfths of the activation, the least common part. */
enum { ROWS = 12 };

struct rows {
    int32_t first, count;
};

/* What a rank holds of the activation. */
static struct rows held(const struct world *world, int32_t rank)
{
    const struct hlm_coords coords = hlm_layout_coords(&world->strategy, rank);
    const struct hlm_strategy at = hlm_strategy_at(&world->strategy, coords.pp);
    const int32_t parts = at.sp ? at.tp : 1;
    return (struct rows){coords.tp % parts * ROWS / parts, ROWS / parts};
}

/* The i-th message's rows. */
static struct rows part(const struct world *world, const struct hlm_boundary *boundary,
                        int32_t rank, int32_t i)
{
    struct rows rows = held(world, rank);
    if (boundary->in_parts) {
        rows.count /= boundary->num_peers;
        rows.first += i * rows.count;
    }
    return rows;
}

/* The rows that the sender's boundary has for the receiver; count 0: no message. */
static struct rows sent_to(const struct world *world, int32_t sender, int32_t receiver)
{
    const int32_t pp = hlm_layout_coords(&world->strategy, receiver).pp;
    const struct hlm_boundary boundary = hlm_boundary_of(&world->strategy, sender, pp, true);
    const int32_t i = receiver - boundary.first_peer;
    return i >= 0 && i < boundary.num_peers ? part(world, &boundary, sender, i)
                                            : (struct rows){0, 0};
}

/* Every receive has a send of the same rows, there are no other sends, and all that the rank holds
 * comes once. */
static void check_receiver(const struct world *world, int32_t rank, int32_t from)
{
    const struct hlm_boundary boundary = hlm_boundary_of(&world->strategy, rank, from, false);
    const int32_t first = world->places[from].first_rank;
    const int32_t end = first + world->places[from].tp * world->strategy.dp;
    const struct rows whole = held(world, rank);
    int32_t next = whole.first;
    assert_in_range(boundary.num_peers, 1, hlm_boundary_max_peers(&world->strategy, rank));
    for (int32_t sender = first; sender < end; sender++) {
        const struct rows sent = sent_to(world, sender, rank);
        const int32_t i = sender - boundary.first_peer;
        if (i < 0 || i >= boundary.num_peers) {
            assert_int_equal(sent.count, 0);
            continue;
        }
        const struct rows wanted = part(world, &boundary, rank, i);
        assert_int_equal(hlm_layout_coords(&world->strategy, sender).dp,
                         hlm_layout_coords(&world->strategy, rank).dp);
        assert_int_equal(sent.first, wanted.first);
        assert_int_equal(sent.count, wanted.count);
        assert_int_equal(sent.first, next);
        next += sent.count;
    }
    assert_int_equal(next, whole.first + whole.count);
}

static void test_everything_comes_once(void **state)
{
    (void)state;
    for (int32_t i = 0; i < 2 * NUM_WAYS; i++) {
        struct world world;
        world_init(&world, ways[i / 2], 2, i % 2 == 1);
        for (int32_t rank = 0; rank < world.num_ranks; rank++) {
            const int32_t pp = hlm_layout_coords(&world.strategy, rank).pp;
            for (int32_t from = pp - 1; from <= pp + 1; from += 2) {
                if (from >= 0 && from < world.strategy.pp &&
                    (world.places[pp].tp % world.places[from].tp == 0 ||
                     world.places[from].tp % world.places[pp].tp == 0)) {
                    check_receiver(&world, rank, from);
                }
            }
        }
    }
}

/* --- what the cost model prices --- */

/* Bytes that one rank of either side moves for a message from `from` to `to`, the most of them. */
static int64_t most_bytes(const struct world *world, int32_t from, int32_t to, int64_t whole_bytes)
{
    int64_t most = 0;
    for (int32_t rank = 0; rank < world->num_ranks; rank++) {
        const int32_t pp = hlm_layout_coords(&world->strategy, rank).pp;
        if (pp != from && pp != to) {
            continue;
        }
        const struct hlm_boundary boundary =
            hlm_boundary_of(&world->strategy, rank, pp == from ? to : from, pp == from);
        const int64_t all = held(world, rank).count * whole_bytes / ROWS;
        const int64_t moved = boundary.in_parts ? all : boundary.num_peers * all;
        most = moved > most ? moved : most;
    }
    return most;
}

/* A link without latency: seconds are bytes. */
static int64_t priced_bytes(struct hlm_arena *arena, const struct hlm_model *model,
                            const struct hlm_strategy *strategy)
{
    struct hlm_err err;
    struct hlm_pricer pricer;
    struct hlm_cluster cluster = *golden_cluster(arena, MAX_RANKS);
    struct hlm_device_group group = cluster.groups[0];
    bool both_sides = false;
    group.intra_node = (struct hlm_link){.bandwidth_bytes_per_s = 1.0};
    cluster.groups = &group;
    const struct hlm_strategy at = hlm_strategy_at(strategy, 0);
    check_ok(hlm_pricer_init(arena, model, &at, &cluster, 0, &pricer, &err), &err);
    return (int64_t)(hlm_stage_send_s(&pricer, 0, &both_sides) + 0.5);
}

static void test_busier_side_moves_what_is_priced(void **state)
{
    (void)state;
    static const int32_t pairs[][MAX_PP] = {{2, 2}, {1, 2}, {4, 1}, {2, 4}, {4, 2}};
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_model model = golden_read(arena, "gpt2")->model;
    model.tied_embeddings = false;
    for (int32_t i = 0; i < 10; i++) {
        struct world world;
        world_init(&world, pairs[i / 2], 2, i % 2 == 1 && pairs[i / 2][0] + pairs[i / 2][1] > 2);
        struct hlm_strategy *strategy = &world.strategy;
        strategy->schedule = HLM_SCHEDULE_1F1B;
        strategy->microbatch_size = strategy->num_microbatches = 4;
        strategy->global_batch_size = 32;
        strategy->seq_len = 12;
        const int64_t whole = 4 * 12 * model.hidden_size * 4;
        const int64_t forward = most_bytes(&world, 0, 1, whole);
        const int64_t backward = most_bytes(&world, 1, 0, whole);
        const int64_t priced = priced_bytes(arena, &model, strategy);
        assert_int_equal(forward > backward ? forward : backward, priced);
        if (strategy->sp) {
            assert_int_equal(forward, backward);
        }
    }
    hlm_arena_free(arena);
}

/* --- no deadlock --- */

/* The messages of one rank in order, one at a time. */
struct message {
    int32_t peer, direction, microbatch;
    bool sends;
};

struct line {
    struct message *messages;
    int32_t num, next;
};

static void add_action(const struct world *world, int32_t rank, struct hlm_action action,
                       struct line *line)
{
    const bool sends = action.kind == HLM_ACTION_SEND_F || action.kind == HLM_ACTION_SEND_B;
    const bool forward = action.kind == HLM_ACTION_SEND_F || action.kind == HLM_ACTION_RECV_F;
    if (!sends && action.kind != HLM_ACTION_RECV_F && action.kind != HLM_ACTION_RECV_B) {
        return;
    }
    const int32_t other = action.stage + (forward == sends ? 1 : -1);
    const struct hlm_boundary boundary = hlm_boundary_of(&world->strategy, rank, other, sends);
    for (int32_t i = 0; i < boundary.num_peers; i++) {
        line->messages[line->num++] = (struct message){.peer = boundary.first_peer + i,
                                                       .direction = forward ? 1 : -1,
                                                       .microbatch = action.microbatch,
                                                       .sends = sends};
    }
}

/* Completes the message at which this rank stands, if its peer stands at it too. */
static bool meet(struct line *lines, int32_t rank)
{
    struct line *line = &lines[rank];
    if (line->next == line->num) {
        return false;
    }
    const struct message *mine = &line->messages[line->next];
    struct line *peer = &lines[mine->peer];
    if (peer->next == peer->num) {
        return false;
    }
    const struct message *theirs = &peer->messages[peer->next];
    if (theirs->peer != rank || theirs->sends == mine->sends ||
        theirs->direction != mine->direction || theirs->microbatch != mine->microbatch) {
        return false;
    }
    line->next++;
    peer->next++;
    return true;
}

static void check_rendezvous(struct hlm_arena *arena, const struct world *world,
                             const struct hlm_schedule *schedule)
{
    struct line *lines = HLM_ARENA_ARRAY(arena, struct line, world->num_ranks);
    for (int32_t rank = 0; rank < world->num_ranks; rank++) {
        const struct hlm_rank_actions *list =
            &schedule->ranks[hlm_layout_coords(&world->strategy, rank).pp];
        lines[rank].messages = HLM_ARENA_ARRAY(arena, struct message,
                                               (int64_t)list->num_actions *
                                                   hlm_boundary_max_peers(&world->strategy, rank));
        for (int32_t i = 0; i < list->num_actions; i++) {
            add_action(world, rank, list->actions[i], &lines[rank]);
        }
    }
    for (bool moves = true; moves;) {
        moves = false;
        for (int32_t rank = 0; rank < world->num_ranks; rank++) {
            moves = meet(lines, rank) || moves;
        }
    }
    for (int32_t rank = 0; rank < world->num_ranks; rank++) {
        assert_int_equal(lines[rank].next, lines[rank].num);
    }
}

/* Even where each message waits for both sides, and a rank does nothing else meanwhile. What the
 * dry run of pipeline ranks (schedule/rendezvous.c) shows is enough: their messages have one order
 * in time, and those of one boundary meet one after the other. */
static void test_no_deadlock(void **state)
{
    (void)state;
    static const int32_t lines[][MAX_PP] = {{1, 2}, {4, 1}, {2, 4, 2}, {1, 4, 2, 1}, {4, 2, 1, 4}};
    struct hlm_arena *arena = hlm_arena_new();
    int32_t num_checked = 0;
    for (int kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
        for (int32_t i = 0; i < 10 && hlm_schedule_chunks((enum hlm_schedule_kind)kind).min == 1;
             i++) {
            const struct hlm_schedule *schedule = NULL;
            struct hlm_err err;
            struct world world;
            world_init(&world, lines[i / 2], 1, i % 2 == 1);
            check_ok(hlm_schedule_build(arena, (enum hlm_schedule_kind)kind, world.strategy.pp, 1,
                                        9, &schedule, &err),
                     &err);
            check_rendezvous(arena, &world, hlm_schedule_lower(arena, schedule));
            num_checked++;
        }
    }
    assert_int_equal(num_checked, 50);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_everything_comes_once),
                                       cmocka_unit_test(test_busier_side_moves_what_is_priced),
                                       cmocka_unit_test(test_no_deadlock)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
