#include "tests/support/check.h"

#include "planner/columns_places.h"

static const struct hlm_device_group groups[] = {
    {.name = "a", .num_nodes = 1, .devices_per_node = 8},
    {.name = "b", .num_nodes = 1, .devices_per_node = 4},
    {.name = "c", .num_nodes = 3, .devices_per_node = 2}};

static struct hlm_cluster cluster_of(int32_t num_groups)
{
    return (struct hlm_cluster){.groups = groups, .num_groups = num_groups};
}

struct seen {
    const struct hlm_cluster *cluster;
    int32_t replicas, max_pp;
    int32_t num_ways, num_by_groups[HLM_MAX_MIXED_GROUPS + 1];
};

/* Every way uses all devices of the groups it visits, each once. */
static void check_way(void *context, const struct hlm_group_run *runs, int32_t num_runs)
{
    struct seen *seen = context;
    bool used[HLM_MAX_MIXED_GROUPS] = {false};
    int32_t pp = 0;
    for (int32_t i = 0; i < num_runs; i++) {
        const struct hlm_device_group *group = &seen->cluster->groups[runs[i].group];
        assert_false(used[runs[i].group]);
        used[runs[i].group] = true;
        assert_int_equal(seen->replicas * runs[i].tp * runs[i].pp,
                         group->num_nodes * group->devices_per_node);
        pp += runs[i].pp;
        if (i > 0) {
            assert_true(runs[i].tp % runs[i - 1].tp == 0 || runs[i - 1].tp % runs[i].tp == 0);
        }
    }
    assert_in_range(pp, 1, seen->max_pp);
    seen->num_ways++;
    seen->num_by_groups[num_runs]++;
}

static struct seen count(const struct hlm_cluster *cluster, int32_t replicas, int32_t max_pp)
{
    struct seen seen = {.cluster = cluster, .replicas = replicas, .max_pp = max_pp};
    hlm_columns_each_way(cluster, replicas, max_pp, check_way, &seen);
    return seen;
}

static void test_one_group_has_its_divisors(void **state)
{
    (void)state;
    const struct hlm_cluster cluster = cluster_of(1);
    assert_int_equal(count(&cluster, 1, 100).num_ways, 4);
    assert_int_equal(count(&cluster, 2, 100).num_ways, 3);
    assert_int_equal(count(&cluster, 3, 100).num_ways, 0);
}

/* a: tp 1 2 4 8, b: 1 2 4 for one replica: all pairs divide one another, in both orders. */
static void test_two_groups_in_both_orders(void **state)
{
    (void)state;
    const struct hlm_cluster cluster = cluster_of(2);
    const struct seen seen = count(&cluster, 1, 100);
    assert_int_equal(seen.num_by_groups[1], 4 + 3);
    assert_int_equal(seen.num_by_groups[2], 2 * 4 * 3);
}

/* c has 6 devices: tp 1 2 3 6 for one replica. Counted by hand: with a, of 16 pairs (1|x: 4 + 4 -
 * 1, 2|2 2|6 4|2 8|2: 4) 11 divide; with b 4 x 1 + 3 - 1 + (2,2) (2,6) (4,2) = 9; three groups:
 * every order counts its two neighbouring pairs. */
static void test_tp_of_neighbours_divide(void **state)
{
    (void)state;
    const struct hlm_cluster cluster = cluster_of(3);
    const struct seen seen = count(&cluster, 1, 100);
    assert_int_equal(seen.num_by_groups[1], 4 + 3 + 4);
    assert_int_equal(seen.num_by_groups[2], 2 * (12 + 11 + 9));
    int32_t triples = 0;
    static const int32_t tps[3][4] = {{1, 2, 4, 8}, {1, 2, 4, 0}, {1, 2, 3, 6}};
    static const int32_t orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                         {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    for (int o = 0; o < 6; o++) {
        for (int i = 0; i < 64; i++) {
            const int32_t x = tps[orders[o][0]][i / 16], y = tps[orders[o][1]][i / 4 % 4],
                          z = tps[orders[o][2]][i % 4];
            const bool real = x > 0 && y > 0 && z > 0;
            triples += real && (x % y == 0 || y % x == 0) && (y % z == 0 || z % y == 0) ? 1 : 0;
        }
    }
    assert_int_equal(seen.num_by_groups[3], triples);
}

static void test_long_pipelines_are_left_out(void **state)
{
    (void)state;
    const struct hlm_cluster cluster = cluster_of(1);
    assert_int_equal(count(&cluster, 1, 4).num_ways, 3);
}

static void test_places_follow_the_runs(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_cluster cluster = cluster_of(2);
    const struct hlm_group_run slow_first[] = {{1, 2, 1}, {0, 2, 2}};
    const struct hlm_rank_place *places = hlm_columns_places(arena, &cluster, 2, slow_first, 2);
    static const struct hlm_rank_place want[] = {{2, 0, 8}, {2, 4, 0}, {2, 8, 4}};
    assert_non_null(places);
    assert_memory_equal(places, want, sizeof want);
    const struct hlm_group_run in_order[] = {{0, 2, 2}, {1, 2, 1}};
    assert_null(hlm_columns_places(arena, &cluster, 2, in_order, 2));
    const struct hlm_group_run wider[] = {{0, 4, 1}, {1, 2, 1}};
    assert_non_null(hlm_columns_places(arena, &cluster, 2, wider, 2));
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_group_has_its_divisors),
        cmocka_unit_test(test_two_groups_in_both_orders),
        cmocka_unit_test(test_tp_of_neighbours_divide),
        cmocka_unit_test(test_long_pipelines_are_left_out),
        cmocka_unit_test(test_places_follow_the_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
