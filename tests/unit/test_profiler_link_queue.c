#include "tests/support/check.h"

#include <pthread.h>
#include <stdlib.h>

#include "costmodel/collective.h"
#include "exec/comm/comm_queue.h"
#include "exec/profiler/profiler_link_queue.h"

enum { MAX_RANKS = 4 };

/* --- ranks as threads, each with a backend, over the transport on queues --- */

struct rank {
    pthread_t thread;
    struct hlm_arena *arena;
    struct hlm_comm *comm;
    struct hlm_profiler_queue_links_config config;
    struct hlm_profiler_queue_links links;
    bool in_pairs;
    struct hlm_link pairs[MAX_RANKS * (MAX_RANKS - 1) / 2];
    enum hlm_status status;
    struct hlm_err err;
};

static enum hlm_status run_rank(struct rank *rank, struct hlm_backend *backend)
{
    HLM_TRY(hlm_comm_queue_use_backend(rank->comm, backend, &rank->err));
    rank->config.comm = rank->comm;
    rank->config.backend = backend;
    return rank->in_pairs ? hlm_profiler_queue_pairs_measure(rank->arena, &rank->config,
                                                             rank->pairs, &rank->err)
                          : hlm_profiler_queue_links_measure(rank->arena, &rank->config,
                                                             &rank->links, &rank->err);
}

static void *rank_main(void *context)
{
    struct rank *rank = context;
    struct hlm_backend *backend = NULL;
    rank->status = hlm_backend_cpu_new(&backend, &rank->err);
    if (rank->status == HLM_OK) {
        rank->status = run_rank(rank, backend);
    }
    if (rank->status != HLM_OK) {
        rank->comm->ops->abort(rank->comm);
    }
    hlm_comm_free(rank->comm);
    hlm_backend_free(backend);
    return NULL;
}

static void run_ranks_as(struct rank *ranks, int32_t num, const int32_t *nodes, double budget_s,
                         int32_t num_ranks_per_node, bool in_pairs)
{
    const struct hlm_strategy strategy = hlm_profiler_world(num, num_ranks_per_node);
    const struct hlm_comm_config config = {
        .strategy = &strategy, .timeout_s = 60.0, .max_bytes = 1 << 20};
    struct hlm_comm *comms[MAX_RANKS];
    struct hlm_err err = {0};
    check_ok(hlm_comm_queue_new(&config, comms, &err), &err);
    for (int32_t i = 0; i < num; i++) {
        ranks[i] = (struct rank){.arena = hlm_arena_new(),
                                 .comm = comms[i],
                                 .in_pairs = in_pairs,
                                 .config = {.strategy = &strategy,
                                            .nodes = nodes,
                                            .max_bytes = 1 << 18,
                                            .quick = true,
                                            .budget_s = budget_s}};
        assert_int_equal(pthread_create(&ranks[i].thread, NULL, rank_main, &ranks[i]), 0);
    }
    for (int32_t i = 0; i < num; i++) {
        pthread_join(ranks[i].thread, NULL);
    }
    for (int32_t i = 0; i < num; i++) {
        check_ok(ranks[i].status, &ranks[i].err);
    }
}

static void run_ranks(struct rank *ranks, int32_t num, const int32_t *nodes, double budget_s,
                      int32_t num_ranks_per_node)
{
    run_ranks_as(ranks, num, nodes, budget_s, num_ranks_per_node, false);
}

static void free_ranks(struct rank *ranks, int32_t num)
{
    for (int32_t i = 0; i < num; i++) {
        hlm_arena_free(ranks[i].arena);
    }
}

static const struct hlm_collective_curve *find(const struct hlm_profiler_queue_links *links,
                                               enum hlm_collective op, int32_t num_ranks,
                                               int32_t num_nodes)
{
    for (int32_t i = 0; i < links->num_collectives; i++) {
        const struct hlm_collective_curve *curve = &links->collectives[i];
        if (curve->op == op && curve->num_ranks == num_ranks && curve->num_nodes == num_nodes) {
            return curve;
        }
    }
    fail_msg("no curve of %d ranks on %d nodes", (int)num_ranks, (int)num_nodes);
    return NULL;
}

static void check_link(const struct hlm_link *link)
{
    assert_true(link->bandwidth_bytes_per_s > 1e6 && isfinite(link->bandwidth_bytes_per_s));
    assert_true(link->alpha_s >= 0.0 && link->alpha_s < 1.0);
    assert_false(link->needs_both_sides);
    assert_int_equal(link->num_points, 0); /* points would mean transfers that wait */
    assert_true(link->source.num_samples > 0);
}

/* Two nodes of two: groups inside of a node, across, and all; alone or at once, as it says. */
static void measures_all_groups(void **state)
{
    (void)state;
    static const int32_t nodes[] = {0, 0, 1, 1};
    struct rank ranks[MAX_RANKS];
    run_ranks(ranks, 4, nodes, 60.0, 2);
    const struct hlm_profiler_queue_links *links = &ranks[0].links;
    assert_int_equal(links->num_nodes, 2);
    assert_int_equal(links->ranks_per_node, 2);
    assert_true(links->has_intra && links->has_inter);
    check_link(&links->intra);
    check_link(&links->inter);
    assert_int_equal(links->num_left_out, 0);
    assert_int_equal(links->num_collectives, 9);
    assert_string_equal(find(links, HLM_ALL_REDUCE, 2, 1)->source.reference,
                        "all groups of the kind at once");
    assert_string_equal(find(links, HLM_ALL_GATHER, 2, 2)->source.reference, "one group alone");
    assert_non_null(find(links, HLM_REDUCE_SCATTER, 4, 2));
    assert_in_range(links->nics_per_node, 1, 2);
    assert_true(links->nic_bandwidth_bytes_per_s > 0.0);
    free_ranks(ranks, 4);
}

/* Every rank knows the links of all pairs, as the one of the two that timed them told it. */
static void measures_pairs(void **state)
{
    (void)state;
    struct rank ranks[MAX_RANKS];
    run_ranks_as(ranks, 3, NULL, 0.0, 3, true);
    for (int pair = 0; pair < 3; pair++) {
        check_link(&ranks[0].pairs[pair]);
        for (int rank = 1; rank < 3; rank++) {
            check_near(ranks[rank].pairs[pair].bandwidth_bytes_per_s,
                       ranks[0].pairs[pair].bandwidth_bytes_per_s, 0.0);
            check_near(ranks[rank].pairs[pair].alpha_s, ranks[0].pairs[pair].alpha_s, 0.0);
        }
    }
    free_ranks(ranks, 3);
}

/* What was measured makes a cluster whose prices are those of the curves. */
static void prices_what_it_measured(void **state)
{
    (void)state;
    struct rank ranks[MAX_RANKS];
    run_ranks(ranks, 2, NULL, 60.0, 2); /* by host name: one node */
    const struct hlm_profiler_queue_links *links = &ranks[0].links;
    assert_int_equal(links->num_nodes, 1);
    assert_false(links->has_inter);
    assert_int_equal(links->num_collectives, 3);
    struct hlm_device_group group = {.num_nodes = 1,
                                     .devices_per_node = 2,
                                     .intra_node = links->intra,
                                     .collectives = links->collectives,
                                     .num_collectives = links->num_collectives};
    const struct hlm_cluster cluster = {.groups = &group, .num_groups = 1, .oversubscription = 1.0};
    const struct hlm_group_shape shape = {2, 1, 2, 1};
    double before = 0.0;
    for (double bytes = 1.0; bytes < 1e8; bytes *= 4.0) {
        const double seconds = hlm_collective_seconds(&cluster, 0, HLM_ALL_REDUCE, bytes, shape);
        assert_true(seconds > 0.0 && seconds >= before);
        before = seconds;
    }
    free_ranks(ranks, 2);
}

/* Rank 0's clock decides for all: they stop together, and say what was left out. */
static void stops_together(void **state)
{
    (void)state;
    struct rank ranks[MAX_RANKS];
    run_ranks(ranks, 2, NULL, 0.0, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ranks[i].links.num_left_out, 3);
    }
    assert_int_equal(ranks[0].links.num_collectives, 0);
    assert_string_equal(ranks[0].links.left_out[0],
                        "all_reduce of 2 ranks on 1 nodes: no time was left");
    check_link(&ranks[0].links.intra);
    free_ranks(ranks, 2);
}

static void worlds_have_telling_groups(void **state)
{
    (void)state;
    const struct {
        int32_t num_ranks, per_node, tp, dp, pp;
    } rows[] = {{1, 1, 1, 1, 1},  {2, 2, 1, 2, 1}, {4, 4, 2, 2, 1}, {8, 8, 2, 2, 2},
                {16, 8, 8, 2, 1}, {4, 1, 1, 4, 1}, {6, 4, 2, 3, 1}, {3, 3, 1, 3, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct hlm_strategy world = hlm_profiler_world(rows[i].num_ranks, rows[i].per_node);
        assert_int_equal(hlm_strategy_world_size(&world), rows[i].num_ranks);
        assert_int_equal(world.tp, rows[i].tp);
        assert_int_equal(world.dp, rows[i].dp);
        assert_int_equal(world.pp, rows[i].pp);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(worlds_have_telling_groups),
        cmocka_unit_test(measures_all_groups),
        cmocka_unit_test(measures_pairs),
        cmocka_unit_test(prices_what_it_measured),
        cmocka_unit_test(stops_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
