#include "planner/subcluster.h"

#include <string.h>

#include "tests/support/check.h"

static const struct hlm_cluster *load(struct hlm_arena *arena, const char *text,
                                      const double *prices)
{
    const struct hlm_cluster *loaded = NULL;
    struct hlm_err err;
    check_ok(hlm_cluster_load(arena, text, &loaded, &err), &err);
    struct hlm_cluster *cluster = hlm_arena_memdup(arena, loaded, sizeof(*loaded));
    struct hlm_device_group *groups =
        hlm_arena_memdup(arena, loaded->groups, (size_t)loaded->num_groups * sizeof(*groups));
    for (int32_t g = 0; g < loaded->num_groups; g++) {
        groups[g].price_per_device_hour = prices[g];
    }
    cluster->groups = groups;
    return cluster;
}

/* 6 nodes: 0, 1, 2, 3, 4, 6; 2 nodes: 0, 1, 2. */
static void divisors_and_powers_of_two(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const double prices[] = {3.0, 1.0};
    const struct hlm_cluster *cluster = load(arena, "h100-sxm:6x8+a100-sxm-80g:2x4", prices);
    const struct hlm_subcluster *some = NULL;
    int32_t num = 0;
    bool seen[7][3] = {{false}};
    struct hlm_err err;
    check_ok(hlm_subclusters_list(arena, cluster, &some, &num, &err), &err);
    assert_int_equal(num, 6 * 3 - 1);
    for (int32_t i = 0; i < num; i++) {
        const int32_t h = some[i].num_nodes[0], a = some[i].num_nodes[1];
        assert_true(h >= 0 && h <= 6 && h != 5 && a >= 0 && a <= 2 && !seen[h][a]);
        seen[h][a] = true;
        assert_int_equal(some[i].num_devices, 8 * h + 4 * a);
        assert_true(hlm_cluster_num_devices(some[i].cluster) == some[i].num_devices);
        check_close(some[i].price_per_hour, 24.0 * h + 4.0 * a, 1e-12);
        assert_true(i == 0 || some[i - 1].price_per_hour <= some[i].price_per_hour);
        check_ok(hlm_cluster_validate(some[i].cluster, "a subcluster", &err), &err);
    }
    assert_string_equal(some[0].cluster->name, "a100-sxm-80g:1x4");
    assert_ptr_equal(some[num - 1].cluster, cluster);
    hlm_arena_free(arena);
}

/* Devices, links and prices are those of the whole. */
static void a_subcluster_keeps_what_it_takes(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const double prices[] = {3.0, 2.0, 1.0};
    const struct hlm_cluster *cluster =
        load(arena, "h100-sxm:4x8+a100-sxm-80g:2x8+v100-sxm2-32g:8x8", prices);
    const int32_t num_nodes[] = {1, 0, 4};
    const struct hlm_cluster *some = hlm_subcluster_take(arena, cluster, num_nodes);
    assert_string_equal(some->name, "h100-sxm-80g:1x8+v100-sxm2-32g:4x8");
    assert_int_equal(some->num_groups, 2);
    assert_int_equal(some->num_links, 2); /* between both, and inside the second */
    assert_int_equal(some->groups[1].num_nodes, 4);
    check_close(some->groups[1].price_per_device_hour, 1.0, 0.0);
    const struct hlm_link *between = hlm_cluster_inter_link(some, 0, 1);
    const struct hlm_link *inside = hlm_cluster_inter_link(some, 1, 1);
    assert_memory_equal(between, hlm_cluster_inter_link(cluster, 0, 2), sizeof(*between));
    assert_memory_equal(inside, hlm_cluster_inter_link(cluster, 2, 2), sizeof(*inside));
    hlm_arena_free(arena);
}

static void a_missing_price_is_named_with_its_path(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const double prices[] = {3.0, 0.0}, all[] = {3.0, 0.5};
    struct hlm_err err;
    check_fails(hlm_subclusters_check_prices(load(arena, "h100-sxm:4x8+a100-sxm-80g:2x8", prices),
                                             "mine.json", &err),
                HLM_INPUT, &err, "mine.json: $.groups[1].price_per_device_hour");
    check_ok(hlm_subclusters_check_prices(load(arena, "h100-sxm:4x8+a100-sxm-80g:2x8", all),
                                          "mine.json", &err),
             &err);
    hlm_arena_free(arena);
}

static void too_many_are_refused(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const double prices[] = {4.0, 3.0, 2.0, 1.0};
    const struct hlm_subcluster *some = NULL;
    int32_t num = 0;
    struct hlm_err err;
    check_fails(
        hlm_subclusters_list(
            arena,
            load(arena, "h100-sxm:60x8+a100-sxm-80g:60x8+v100-sxm2-32g:60x8+h200-sxm:60x8", prices),
            &some, &num, &err),
        HLM_NO, &err, "more than 4096 subclusters");
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(divisors_and_powers_of_two),
        cmocka_unit_test(a_subcluster_keeps_what_it_takes),
        cmocka_unit_test(a_missing_price_is_named_with_its_path),
        cmocka_unit_test(too_many_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
