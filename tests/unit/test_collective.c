#include "tests/support/check.h"

#include "costmodel/collective.h"

/* Nodes of 4 devices with 2 cards; links with round numbers. */
static const struct hlm_collective_piece pieces[] = {
    {1e6, 1e-5, 0.0}, {1e8, 1e-5, 1e11}, {0, 0, 4e11}};
static const struct hlm_collective_piece wide[] = {{0, 5e-5, 1e11}};
static const struct hlm_collective_curve curves[] = {
    {.op = HLM_ALL_GATHER, .num_ranks = 4, .num_nodes = 1, .pieces = pieces, .num_pieces = 3},
    {.op = HLM_ALL_GATHER, .num_ranks = 8, .num_nodes = 2, .pieces = wide, .num_pieces = 1},
};
static const struct hlm_device_group group = {
    .num_nodes = 16,
    .devices_per_node = 4,
    .intra_node = {.alpha_s = 5e-6, .hop_alpha_s = 1e-6, .bandwidth_bytes_per_s = 2e11},
    .nics_per_node = 2,
    .nic_bandwidth_bytes_per_s = 25e9,
    .collectives = curves,
    .num_collectives = 2};
static const struct hlm_inter_link links[] = {
    {0, 0, {.alpha_s = 2e-5, .hop_alpha_s = 1e-5, .bandwidth_bytes_per_s = 2e10}}};
static const struct hlm_cluster cluster = {
    .groups = &group, .num_groups = 1, .links = links, .num_links = 1, .oversubscription = 1.0};

static double seconds(const struct hlm_cluster *on, enum hlm_collective op, double bytes,
                      int32_t num_ranks, int32_t num_nodes, int32_t groups_per_node)
{
    const struct hlm_group_shape shape = {num_ranks, num_nodes,
                                          (num_ranks + num_nodes - 1) / num_nodes, groups_per_node};
    return hlm_collective_seconds(on, 0, op, bytes, shape);
}

static void test_factors(void **state)
{
    (void)state;
    check_close(hlm_collective_factor(HLM_ALL_REDUCE, 4), 1.5, 1e-15);
    check_close(hlm_collective_factor(HLM_ALL_GATHER, 4), 0.75, 1e-15);
    check_close(hlm_collective_factor(HLM_REDUCE_SCATTER, 2), 0.5, 1e-15);
    check_close(hlm_collective_factor(HLM_ALL_TO_ALL, 8), 0.875, 1e-15);
}

static void test_one_rank_is_free(void **state)
{
    (void)state;
    assert_true(seconds(&cluster, HLM_ALL_REDUCE, 1e9, 1, 1, 4) == 0.0);
}

static void test_measured_pieces(void **state)
{
    (void)state;
    check_close(seconds(&cluster, HLM_ALL_GATHER, 1e5, 4, 1, 1), 1e-5, 1e-12);
    check_close(seconds(&cluster, HLM_ALL_GATHER, 1e7, 4, 1, 1), 1e-5 + 7.5e6 / 1e11, 1e-12);
    check_close(seconds(&cluster, HLM_ALL_GATHER, 1e10, 4, 1, 1), 7.5e9 / 4e11, 1e-12);
    /* The last piece alone would be faster at 2e8 than the second at its end. */
    check_close(seconds(&cluster, HLM_ALL_GATHER, 2e8, 4, 1, 1), 1e-5 + 7.5e7 / 1e11, 1e-12);
}

static void test_nearest_size_scales_latency(void **state)
{
    (void)state;
    check_close(seconds(&cluster, HLM_ALL_GATHER, 1e7, 3, 1, 1),
                1e-5 * 2.0 / 3.0 + 1e7 * (2.0 / 3.0) / 1e11, 1e-12);
}

static void test_ring_without_curve(void **state)
{
    (void)state;
    check_close(seconds(&cluster, HLM_ALL_REDUCE, 1e8, 4, 1, 1), 5e-6 + 5e-6 + 1.5e8 / 2e11, 1e-12);
    check_close(seconds(&cluster, HLM_REDUCE_SCATTER, 1e8, 4, 1, 1), 5e-6 + 2e-6 + 0.75e8 / 2e11,
                1e-12);
}

static void test_measured_across_nodes_only_alone(void **state)
{
    (void)state;
    check_close(seconds(&cluster, HLM_ALL_GATHER, 1e8, 8, 2, 1), 5e-5 + 0.875e8 / 1e11, 1e-12);
    /* A second group at once: the model, with half of the network. */
    check_close(seconds(&cluster, HLM_ALL_GATHER, 1e8, 8, 2, 2),
                1e-5 + 6e-6 + 1e-5 + 0.875e8 / 25e9, 1e-12);
}

static void test_cards_of_a_group(void **state)
{
    (void)state;
    const double latency_s = 1e-5 + 15e-5;
    /* One rank a node, alone: one card; four groups share two cards. */
    check_close(seconds(&cluster, HLM_REDUCE_SCATTER, 1e9, 16, 16, 1),
                latency_s + 15.0 / 16.0 * 1e9 / 25e9, 1e-12);
    check_close(seconds(&cluster, HLM_REDUCE_SCATTER, 1e9, 16, 16, 4),
                latency_s + 15.0 / 16.0 * 1e9 / 12.5e9, 1e-12);
    struct hlm_cluster half = cluster;
    half.oversubscription = 2.0;
    check_close(seconds(&half, HLM_REDUCE_SCATTER, 1e9, 16, 16, 4),
                latency_s + 15.0 / 16.0 * 1e9 / 6.25e9, 1e-12);
}

static void test_all_reduce_takes_tree_or_ring(void **state)
{
    (void)state;
    /* Small: tree, 2 * 4 network hops; bytes at the tree's 0.5. */
    const double size = 1048576.0, wire = size * 2.0 * 15.0 / 16.0;
    check_close(seconds(&cluster, HLM_ALL_REDUCE, size, 16, 16, 1),
                1e-5 + 8e-5 + wire / (0.5 * 25e9), 1e-12);
    /* Large: the ring's full bandwidth outweighs its hops. */
    check_close(seconds(&cluster, HLM_ALL_REDUCE, 1e10, 16, 16, 1),
                1e-5 + 1.4 * 2.0 * 15e-5 + 1e10 * 2.0 * 15.0 / 16.0 / 25e9, 1e-12);
}

static void test_all_to_all_sends_inside_and_outside(void **state)
{
    (void)state;
    /* 8 ranks on 2 nodes: 4/8 of each buffer leave the node over 2 cards for 4 ranks. */
    check_close(seconds(&cluster, HLM_ALL_TO_ALL, 1e8, 8, 2, 1),
                1e-5 + 3e-6 + 4e-5 + 0.5e8 * 4.0 / 50e9, 1e-12);
}

/* MPI-like links: every step of the ring is a message that both wait for. */
static void test_waiting_ring(void **state)
{
    (void)state;
    struct hlm_device_group cpu = group;
    cpu.num_collectives = 0;
    cpu.intra_node = (struct hlm_link){.alpha_s = 1e-6,
                                       .alpha_rendezvous_s = 3e-6,
                                       .eager_limit_bytes = 1000,
                                       .bandwidth_bytes_per_s = 1e10,
                                       .needs_both_sides = true};
    cpu.nics_per_node = 0;
    struct hlm_inter_link wire = {0, 0, {.alpha_s = 1e-5, .bandwidth_bytes_per_s = 1e9}};
    wire.link.needs_both_sides = true;
    const struct hlm_cluster mpi = {
        .groups = &cpu, .num_groups = 1, .links = &wire, .num_links = 1, .oversubscription = 1.0};
    check_close(seconds(&mpi, HLM_ALL_REDUCE, 4000.0, 4, 1, 1), 6.0 * (1e-6 + 1e-7), 1e-12);
    check_close(seconds(&mpi, HLM_ALL_GATHER, 4e6, 4, 1, 1), 3.0 * (3e-6 + 1e-4), 1e-12);
    check_close(seconds(&mpi, HLM_ALL_GATHER, 8e6, 8, 2, 1), 7.0 * (1e-5 + 1e-3), 1e-12);
    check_close(seconds(&mpi, HLM_ALL_GATHER, 8e6, 8, 2, 2), 7.0 * (1e-5 + 2e-3), 1e-12);
}

static void test_measured_links(void **state)
{
    (void)state;
    const struct hlm_curve_point points[] = {{1e3, 1e-6}, {1e6, 1e-4}};
    struct hlm_device_group cpu = group;
    cpu.num_collectives = 0;
    cpu.intra_node.points = points;
    cpu.intra_node.num_points = 2;
    struct hlm_cluster table = cluster;
    table.groups = &cpu;
    check_close(seconds(&table, HLM_ALL_REDUCE, 2e6, 2, 1, 1), 2.0 * 1e-4, 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_factors),
        cmocka_unit_test(test_one_rank_is_free),
        cmocka_unit_test(test_measured_pieces),
        cmocka_unit_test(test_nearest_size_scales_latency),
        cmocka_unit_test(test_ring_without_curve),
        cmocka_unit_test(test_measured_across_nodes_only_alone),
        cmocka_unit_test(test_cards_of_a_group),
        cmocka_unit_test(test_all_reduce_takes_tree_or_ring),
        cmocka_unit_test(test_all_to_all_sends_inside_and_outside),
        cmocka_unit_test(test_waiting_ring),
        cmocka_unit_test(test_measured_links),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
