#include "tests/support/check.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "profiles/builtin.h"
#include "profiles/cluster.h"

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

static void test_node_types(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    int count = 0;
    for (const char *name = NULL; (name = hlm_cluster_builtin_name(count)) != NULL; count++) {
        const struct hlm_cluster *cluster = load(arena, name);
        assert_string_equal(cluster->name, name);
        assert_string_equal(hlm_json_write(arena, &hlm_cluster_table, cluster, false),
                            hlm_builtin_find("clusters", name)->text);
        /* The embedded device is the built-in one. */
        const struct hlm_device *device = NULL;
        check_ok(hlm_device_load(arena, cluster->groups[0].device.name, &device, &err), &err);
        assert_string_equal(hlm_json_digest(arena, &hlm_device_table, &cluster->groups[0].device),
                            hlm_json_digest(arena, &hlm_device_table, device));
        assert_int_equal(hlm_cluster_num_devices(cluster), cluster->groups[0].devices_per_node);
    }
    assert_int_equal(count, 14);
}

static void test_every_device_has_a_node_type(void **state)
{
    struct hlm_arena *arena = *state;
    for (int i = 0; hlm_device_builtin_name(i) != NULL; i++) {
        const char *name = hlm_device_builtin_name(i);
        const struct hlm_cluster *cluster = load(arena, hlm_arena_printf(arena, "%s:2x8", name));
        assert_string_equal(cluster->groups[0].device.name, name);
    }
}

static void test_one_line(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_cluster *cluster = load(arena, "h100-sxm:16x8");
    assert_string_equal(cluster->name, "h100-sxm:16x8");
    assert_int_equal(cluster->num_groups, 1);
    assert_int_equal(hlm_cluster_num_devices(cluster), 128);
    assert_string_equal(cluster->groups[0].name, "h100-sxm-80g");
    assert_int_equal(cluster->groups[0].nics_per_node, 8);
    assert_true(cluster->groups[0].num_collectives > 12);
    assert_ptr_equal(hlm_cluster_inter_link(cluster, 0, 0), &cluster->links[0].link);
    check_close(cluster->links[0].link.bandwidth_bytes_per_s, 36.4e9, 1e-12);
}

static void test_one_line_of_two(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_cluster *cluster = load(arena, "a100-sxm-80g:4x8+v100-sxm2-32g:1x8");
    assert_int_equal(cluster->num_groups, 2);
    assert_int_equal(hlm_cluster_num_devices(cluster), 40);
    /* V100s are one node, so their own link is not needed. */
    assert_int_equal(cluster->num_links, 2);
    const struct hlm_link *mixed = hlm_cluster_inter_link(cluster, 1, 0);
    assert_ptr_equal(mixed, hlm_cluster_inter_link(cluster, 0, 1));
    check_close(mixed->bandwidth_bytes_per_s, 10.5e9, 1e-12);
    assert_ptr_equal(hlm_cluster_inter_link(cluster, 1, 1), &cluster->groups[1].intra_node);
    assert_int_equal(hlm_cluster_best_dtype(cluster), HLM_DTYPE_FP16);
    assert_int_equal(hlm_cluster_best_dtype(load(arena, "a100-sxm-80g:4x8+h100:2x8")),
                     HLM_DTYPE_BF16);
}

static void test_same_device_twice_gets_two_names(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_cluster *cluster = load(arena, "h100:2x8+h100:1x4+dgx-h100:1x8");
    assert_string_equal(cluster->groups[0].name, "h100-sxm-80g");
    assert_string_equal(cluster->groups[1].name, "h100-sxm-80g-2");
    assert_string_equal(cluster->groups[2].name, "h100-sxm-80g-3");
}

static void test_other_node_sizes_scale_the_cards(void **state)
{
    struct hlm_arena *arena = *state;
    assert_int_equal(load(arena, "h100:16x4")->groups[0].nics_per_node, 4);
    assert_int_equal(load(arena, "h100:16x16")->groups[0].nics_per_node, 16);
    assert_int_equal(load(arena, "v100:4x1")->groups[0].nics_per_node, 1);
    assert_int_equal(load(arena, "v100:4x6")->groups[0].nics_per_node, 3);
    /* Curves over several nodes of 8 say nothing about nodes of 4. */
    const struct hlm_device_group *group = &load(arena, "h100:16x4")->groups[0];
    for (int32_t i = 0; i < group->num_collectives; i++) {
        assert_int_equal(group->collectives[i].num_nodes, 1);
    }
    assert_int_equal(hlm_device_group_domain(group), 4);
}

static void test_hosts_scale_with_the_devices(void **state)
{
    struct hlm_arena *arena = *state;
    for (int i = 0; hlm_cluster_builtin_name(i) != NULL; i++) {
        const struct hlm_host *host = load(arena, hlm_cluster_builtin_name(i))->groups[0].host;
        assert_non_null(host);
        assert_true(host->memory_bytes > 0.0 && host->source.reference != NULL);
    }
    const struct hlm_host *whole = load(arena, "h100:1x8")->groups[0].host;
    const struct hlm_host *part = load(arena, "h100:1x2")->groups[0].host;
    assert_true(part->memory_bytes == whole->memory_bytes / 4.0);
    assert_true(part->memory_bandwidth_bytes_per_s == whole->memory_bandwidth_bytes_per_s / 4.0);
    assert_true(part->link_bandwidth_bytes_per_s == whole->link_bandwidth_bytes_per_s);
}

static void test_bad_texts(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"h100:16", "expected <device>:<nodes>x<devices per node>"},
        {"h100:0x8", "found \"h100:0x8\""},
        {"h100:16x", "found \"h100:16x\""},
        {"h100:16x8x2", "found \"h100:16x8x2\""},
        {"h100:-1x8", "found \"h100:-1x8\""},
        {"h100:99999999999999999999x8", "found \"h100:99999999999999999999x8\""},
        {"h100:2x2048", "found \"h100:2x2048\""},
        {"h100:16x8+", "found \"\""},
        {":16x8", "found \":16x8\""},
        {"h100 :16x8", "no device \"h100 \""},
        {"a100:2x8", "device \"a100\" is ambiguous: a100-sxm-40g a100-sxm-80g"},
        {"mi300x:2x8", "no device \"mi300x\""},
        {"nowhere", "no cluster \"nowhere\""},
        {"no/such.json", "no/such.json"},
        {"", "no cluster \"\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct hlm_cluster *cluster = NULL;
        check_fails(hlm_cluster_load(arena, cases[i].text, &cluster, &err), HLM_INPUT, &err,
                    cases[i].message);
        assert_null(cluster);
    }
}

static void test_file_and_folder(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    char folder[] = P_tmpdir "/hlm_cluster_XXXXXX";
    assert_non_null(mkdtemp(folder));
    const struct hlm_cluster *made = load(arena, "a100-sxm-40g:3x8+h200:2x8");
    const char *text = hlm_json_write(arena, &hlm_cluster_table, made, false);
    const char *path = hlm_arena_printf(arena, "%s/cluster.json", folder);
    check_ok(hlm_file_write(path, text, strlen(text), &err), &err);
    assert_string_equal(hlm_json_write(arena, &hlm_cluster_table, load(arena, path), false), text);
    assert_string_equal(hlm_json_write(arena, &hlm_cluster_table, load(arena, folder), false),
                        text);
    remove(path);
    const struct hlm_cluster *none = NULL;
    check_fails(hlm_cluster_load(arena, folder, &none, &err), HLM_INPUT, &err, "cluster.json");
    rmdir(folder);
}

static void test_refusals(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    static const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"\"max_bytes\": 0,", "\"max_bytes\": 9e9,", "expected 0 (no limit) in the last piece"},
        {"\"to\": 0", "\"to\": 1", "expected group indices below 1"},
        {"\"nic_bandwidth_bytes_per_s\": 41500000000", "\"nic_bandwidth_bytes_per_s\": 0",
         "nic_bandwidth_bytes_per_s: expected at least"},
        {"\"num_nodes\": 1,\n      \"devices_per_node\": 8",
         "\"num_nodes\": 1,\n      \"devices_per_node\": 8,\n      \"nvlink_domain\": 12",
         "nvlink_domain: expected a multiple of devices_per_node (8), found 12"},
        {"\"oversubscription\": 1", "\"oversubscription\": 0.5", "oversubscription"},
        {"\"fabric\": \"rail\"", "\"fabric\": \"ring\"", "fabric"},
        {"\"power_p\": 3.47", "\"power_p\": 0.2", "$.groups[0]: tf32.gemm[0].power_p"},
    };
    const char *text = hlm_builtin_find("clusters", "dgx-h100")->text;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *at = strstr(text, cases[i].from);
        if (at == NULL) {
            fail_msg("the file has no %s", cases[i].from);
            return;
        }
        const char *broken = hlm_arena_printf(arena, "%.*s%s%s", (int)(at - text), text,
                                              cases[i].to, at + strlen(cases[i].from));
        struct hlm_cluster cluster;
        enum hlm_status status = hlm_json_read_text(arena, "c.json", broken, strlen(broken),
                                                    &hlm_cluster_table, &cluster, &err);
        if (status == HLM_OK) {
            status = hlm_cluster_validate(&cluster, "c.json", &err);
        }
        check_fails(status, HLM_INPUT, &err, cases[i].message);
    }
}

static void test_links_must_be_complete_and_single(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    struct hlm_cluster cluster = *load(arena, "h100:2x8+v100:2x8");
    assert_int_equal(cluster.num_links, 3);
    cluster.num_links = 2;
    check_fails(hlm_cluster_validate(&cluster, "c", &err), HLM_INPUT, &err,
                "expected a link between nodes of groups 1 and 1");
    struct hlm_inter_link twice[4];
    memcpy(twice, cluster.links, 3 * sizeof twice[0]);
    twice[3] = twice[1];
    twice[3].from = 1;
    twice[3].to = 0;
    cluster.links = twice;
    cluster.num_links = 4;
    check_fails(hlm_cluster_validate(&cluster, "c", &err), HLM_INPUT, &err, "a second link");
}

static void test_link_seconds(void **state)
{
    (void)state;
    const struct hlm_link eager = {.alpha_s = 1e-6,
                                   .alpha_rendezvous_s = 5e-6,
                                   .eager_limit_bytes = 1000,
                                   .bandwidth_bytes_per_s = 1e9};
    check_close(hlm_link_seconds(&eager, 1000.0), 2e-6, 1e-12);
    check_close(hlm_link_seconds(&eager, 1001.0), 5e-6 + 1001e-9, 1e-12);
    const struct hlm_link plain = {.alpha_s = 1e-6, .bandwidth_bytes_per_s = 1e9};
    check_close(hlm_link_seconds(&plain, 1e6), 1e-6 + 1e-3, 1e-12);
    const struct hlm_curve_point points[] = {{1e3, 1e-5}, {1e6, 1e-3}};
    const struct hlm_link table = {
        .alpha_s = 1.0, .bandwidth_bytes_per_s = 1.0, .points = points, .num_points = 2};
    check_close(hlm_link_seconds(&table, 1e6), 1e-3, 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_node_types, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_device_has_a_node_type, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_line, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_line_of_two, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_device_twice_gets_two_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_node_sizes_scale_the_cards, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hosts_scale_with_the_devices, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_texts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_and_folder, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_links_must_be_complete_and_single, setup, teardown),
        cmocka_unit_test(test_link_seconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
