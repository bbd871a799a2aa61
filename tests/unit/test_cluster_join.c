/* Clusters joined to a mixed one. */
#include "profiles/cluster.h"
#include "tests/support/check.h"
#include "tests/support/golden.h"

static int setup(void **state)
{
    *state = hlm_arena_new();
    return 0;
}

static int teardown(void **state)
{
    hlm_arena_free(*state);
    return 0;
}

static const struct hlm_cluster *load(struct hlm_arena *arena, const char *text)
{
    struct hlm_err err;
    const struct hlm_cluster *cluster = NULL;
    check_ok(hlm_cluster_load(arena, text, &cluster, &err), &err);
    return cluster;
}

static const struct hlm_cluster *join(struct hlm_arena *arena, const struct hlm_cluster_part *parts,
                                      int32_t num_parts, const struct hlm_link *measured)
{
    struct hlm_err err;
    const struct hlm_cluster *joined = NULL;
    check_ok(hlm_cluster_join(arena, parts, num_parts, measured, &joined, &err), &err);
    return joined;
}

static void test_pairs(void **state)
{
    (void)state;
    int32_t expected = 0;
    for (int32_t a = 0; a < 5; a++) {
        for (int32_t b = a + 1; b < 5; b++) {
            assert_int_equal(hlm_cluster_pair(5, a, b), expected++);
        }
    }
    assert_int_equal(expected, 10);
}

/* Every pair of groups of two parts has the link of the parts; inside of a part nothing changes. */
static void test_measured(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_cluster *mixed = load(arena, "a100-sxm-80g:2x8+v100-sxm2-32g:1x8");
    const struct hlm_cluster *alone = golden_cluster(arena, 4);
    const struct hlm_cluster_part parts[] = {{"old", mixed}, {"cores", alone}, {"cores", alone}};
    struct hlm_link links[3];
    for (int i = 0; i < 3; i++) {
        links[i] = (struct hlm_link){.alpha_s = 1e-5 * (i + 1), .bandwidth_bytes_per_s = 1e9};
    }
    const struct hlm_cluster *joined = join(arena, parts, 3, links);
    static const char *const names[] = {"old-a100-sxm-80g", "old-v100-sxm2-32g", "cores",
                                        "cores-2"};
    assert_int_equal(joined->num_groups, 4);
    for (int i = 0; i < 4; i++) {
        assert_string_equal(joined->groups[i].name, names[i]);
    }
    assert_string_equal(joined->name, "old + cores + cores");
    assert_string_equal(joined->groups[3].device.name, alone->groups[0].device.name);
    for (int32_t old = 0; old < 2; old++) {
        check_close(hlm_cluster_inter_link(joined, old, 2)->alpha_s, 1e-5, 1e-12);
        check_close(hlm_cluster_inter_link(joined, old, 3)->alpha_s, 2e-5, 1e-12);
    }
    check_close(hlm_cluster_inter_link(joined, 2, 3)->alpha_s, 3e-5, 1e-12);
    check_close(hlm_cluster_inter_link(joined, 0, 0)->bandwidth_bytes_per_s,
                hlm_cluster_inter_link(mixed, 0, 0)->bandwidth_bytes_per_s, 0.0);
    check_close(hlm_cluster_inter_link(joined, 0, 1)->bandwidth_bytes_per_s,
                hlm_cluster_inter_link(mixed, 0, 1)->bandwidth_bytes_per_s, 0.0);
    assert_int_equal(hlm_cluster_num_devices(joined), 16 + 8 + 4 + 4);
}

/* As the one-line form has it. */
static void test_worse_of_two(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_cluster_part parts[] = {{"new", load(arena, "h100-sxm:2x8")},
                                             {"old", load(arena, "v100-sxm2-32g:4x8")}};
    const struct hlm_cluster *joined = join(arena, parts, 2, NULL);
    const struct hlm_cluster *same = load(arena, "h100-sxm:2x8+v100-sxm2-32g:4x8");
    check_close(hlm_cluster_inter_link(joined, 0, 1)->bandwidth_bytes_per_s,
                hlm_cluster_inter_link(same, 0, 1)->bandwidth_bytes_per_s, 0.0);
    check_close(hlm_cluster_inter_link(joined, 0, 1)->alpha_s,
                hlm_cluster_inter_link(same, 0, 1)->alpha_s, 0.0);
}

/* The profile of a CPU is of one node. */
static void test_unknown_network(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_cluster *joined = NULL;
    struct hlm_err err;
    const struct hlm_cluster_part parts[] = {{"new", load(arena, "h100-sxm:2x8")},
                                             {"cores", golden_cluster(arena, 2)}};
    check_fails(hlm_cluster_join(arena, parts, 2, NULL, &joined, &err), HLM_INPUT, &err,
                "group cores has one node, so that its profile knows no network");
}

static void test_parts(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_cluster_part *parts = NULL;
    int32_t num = 0;
    struct hlm_err err;
    check_ok(hlm_cluster_load_parts(
                 arena, "tests/faults/cluster.json,tests/faults/,profiles/clusters/dgx-a100.json",
                 &parts, &num, &err),
             &err);
    assert_int_equal(num, 3);
    assert_string_equal(parts[0].label, "faults");
    assert_string_equal(parts[1].label, "faults");
    assert_string_equal(parts[2].label, "dgx-a100");
    assert_string_equal(parts[2].cluster->name, "dgx-a100");
    check_fails(hlm_cluster_load_parts(arena, ",", &parts, &num, &err), HLM_INPUT, &err,
                "expected clusters, separated by commas");
    check_fails(hlm_cluster_load_parts(arena, "dgx-a100,nowhere/", &parts, &num, &err), HLM_INPUT,
                &err, "nowhere/");
}

/* A cluster by itself stays what it is, but for the names of its groups. */
static void test_one_part(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_cluster_part *parts = NULL;
    const struct hlm_cluster *joined = NULL;
    int32_t num = 0;
    struct hlm_err err;
    check_ok(hlm_cluster_load_parts(arena, "h100-sxm:2x8+a100-sxm-80g:4x8", &parts, &num, &err),
             &err);
    assert_int_equal(num, 1);
    check_ok(hlm_cluster_join(arena, parts, num, NULL, &joined, &err), &err);
    assert_int_equal(joined->num_groups, 2);
    assert_int_equal(joined->num_links, parts[0].cluster->num_links);
    assert_int_equal(joined->groups[1].num_nodes, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pairs),
        cmocka_unit_test_setup_teardown(test_measured, setup, teardown),
        cmocka_unit_test_setup_teardown(test_worse_of_two, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unknown_network, setup, teardown),
        cmocka_unit_test_setup_teardown(test_parts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_part, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
