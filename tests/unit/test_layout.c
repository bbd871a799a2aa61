#include "tests/support/check.h"

#include <stdbool.h>
#include <stdlib.h>

#include "costmodel/layout.h"
#include "schedule/action.h"

enum { MAX_RANKS = 4096 };

static struct hlm_strategy degrees(int32_t tp, int32_t cp, int32_t dp, int32_t pp, int32_t ep,
                                   int32_t etp)
{
    return (struct hlm_strategy){
        .tp = tp, .cp = cp, .dp = dp, .pp = pp, .ep = ep, .etp = etp, .vpp = 1};
}

static int32_t world(const struct hlm_strategy *strategy)
{
    return strategy->tp * strategy->cp * strategy->dp * strategy->pp;
}

/* Strategies with every kind of divisibility, ep and etp carved out of the stage. */
static const struct {
    int32_t tp, cp, dp, pp, ep, etp;
} cases[] = {
    {1, 1, 1, 1, 1, 1},  {2, 1, 1, 1, 1, 2},  {1, 1, 6, 1, 3, 1},   {2, 1, 3, 4, 1, 1},
    {4, 1, 2, 3, 2, 2},  {3, 1, 2, 2, 2, 1},  {2, 2, 2, 2, 4, 1},   {8, 1, 4, 2, 8, 1},
    {8, 1, 3, 1, 4, 2},  {5, 1, 3, 2, 3, 5},  {1, 1, 7, 3, 7, 1},   {6, 1, 5, 2, 5, 2},
    {2, 3, 4, 2, 4, 3},  {1, 4, 9, 2, 6, 1},  {16, 1, 2, 2, 4, 2},  {4, 1, 16, 2, 8, 1},
    {3, 1, 10, 3, 5, 3}, {12, 1, 2, 2, 3, 4}, {1, 1, 64, 2, 16, 1}, {2, 1, 1, 12, 2, 1},
};
enum { NUM_CASES = sizeof cases / sizeof cases[0] };

static struct hlm_strategy case_at(size_t i)
{
    return degrees(cases[i].tp, cases[i].cp, cases[i].dp, cases[i].pp, cases[i].ep, cases[i].etp);
}

static void test_rank_order(void **state)
{
    (void)state;
    const struct hlm_strategy strategy = degrees(2, 3, 4, 5, 1, 1);
    const struct hlm_coords coords = hlm_layout_coords(&strategy, 1 + 2 * (2 + 3 * (3 + 4 * 4)));
    assert_int_equal(coords.tp, 1);
    assert_int_equal(coords.cp, 2);
    assert_int_equal(coords.dp, 3);
    assert_int_equal(coords.pp, 4);
    for (int32_t rank = 0; rank < world(&strategy); rank++) {
        assert_int_equal(hlm_layout_rank(&strategy, hlm_layout_coords(&strategy, rank)), rank);
    }
}

/* Coordinates that members of a group share, as one number: the definition of each kind. */
static int32_t shared_key(const struct hlm_strategy *s, enum hlm_group group, int32_t rank)
{
    const struct hlm_coords c = hlm_layout_coords(s, rank);
    const int32_t block = s->tp * s->cp * s->dp;
    const int32_t local = rank % block;
    switch (group) {
    case HLM_GROUP_NONE:
        return rank;
    case HLM_GROUP_TP:
        return (c.pp * s->dp + c.dp) * s->cp + c.cp;
    case HLM_GROUP_DP:
        return c.pp * s->tp + c.tp;
    case HLM_GROUP_CP:
        return (c.pp * s->dp + c.dp) * s->tp + c.tp;
    case HLM_GROUP_PP:
    case HLM_GROUP_EMBEDDING:
        return local;
    case HLM_GROUP_EP:
        return (c.pp * block + local / (s->etp * s->ep)) * s->etp + local % s->etp;
    case HLM_GROUP_EDP:
        return c.pp * block + local % (s->etp * s->ep);
    case HLM_GROUP_MODEL:
        return c.dp * s->cp + c.cp;
    default:
        return 0;
    }
}

static bool in_group(const struct hlm_strategy *s, enum hlm_group group, int32_t rank)
{
    const int32_t pp = hlm_layout_coords(s, rank).pp;
    return group != HLM_GROUP_EMBEDDING || pp == 0 || pp == s->pp - 1;
}

/* Every rank is in exactly one group of each kind: the ranks with its key, ascending. */
static void check_groups(const struct hlm_strategy *s, enum hlm_group group)
{
    static int32_t members[MAX_RANKS];
    const int32_t size = hlm_layout_group_size(s, group), total = world(s);
    for (int32_t rank = 0; rank < total; rank++) {
        int32_t position = -7, found = 0;
        hlm_layout_group(s, group, rank, members, &position);
        for (int32_t other = 0; other < total; other++) {
            if (in_group(s, group, other) &&
                shared_key(s, group, other) == shared_key(s, group, rank)) {
                assert_true(found < size);
                assert_int_equal(members[found], other);
                found++;
            }
        }
        assert_int_equal(found, size);
        if (in_group(s, group, rank)) {
            assert_int_equal(members[position], rank);
        } else {
            assert_int_equal(position, -1);
        }
    }
}

static void test_groups_partition_the_ranks(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_CASES; i++) {
        const struct hlm_strategy strategy = case_at(i);
        for (int group = 0; group < HLM_NUM_GROUPS; group++) {
            check_groups(&strategy, (enum hlm_group)group);
        }
    }
}

/* A cluster of up to three groups; links between all. */
struct scene {
    struct hlm_device_group groups[3];
    struct hlm_inter_link links[6];
    struct hlm_cluster cluster;
};

static void make_cluster(struct scene *scene, int32_t num_groups, const int32_t nodes[],
                         const int32_t per_node[])
{
    memset(scene, 0, sizeof *scene);
    int32_t links = 0;
    for (int32_t a = 0; a < num_groups; a++) {
        scene->groups[a].num_nodes = nodes[a];
        scene->groups[a].devices_per_node = per_node[a];
        for (int32_t b = a; b < num_groups; b++) {
            scene->links[links].from = a;
            scene->links[links++].to = b;
        }
    }
    scene->cluster.groups = scene->groups;
    scene->cluster.num_groups = num_groups;
    scene->cluster.links = scene->links;
    scene->cluster.num_links = links;
}

static int32_t node_of(const struct hlm_cluster *cluster, int32_t device)
{
    int32_t before = 0;
    for (int32_t i = 0; i < cluster->num_groups; i++) {
        const struct hlm_device_group *group = &cluster->groups[i];
        const int32_t domain = hlm_device_group_domain(group);
        const int32_t devices = group->num_nodes * group->devices_per_node;
        if (device < devices) {
            return before + device / domain;
        }
        device -= devices;
        before += (devices + domain - 1) / domain;
    }
    fail();
    return -1;
}

static int32_t count_nodes(const struct hlm_cluster *cluster, const int32_t *ranks, int32_t num)
{
    static bool seen[MAX_RANKS];
    memset(seen, 0, sizeof seen);
    int32_t nodes = 0;
    for (int32_t i = 0; i < num; i++) {
        const int32_t node = node_of(cluster, ranks[i]);
        nodes += seen[node] ? 0 : 1;
        seen[node] = true;
    }
    return nodes;
}

static bool spans_stages(enum hlm_group group)
{
    return group == HLM_GROUP_PP || group == HLM_GROUP_EMBEDDING || group == HLM_GROUP_MODEL ||
           group == HLM_GROUP_WORLD;
}

/* The shape by its definition: every group of the stage, rank by rank. */
static struct hlm_group_shape count_shape(const struct hlm_strategy *s, enum hlm_group group,
                                          const struct hlm_cluster *cluster, int32_t stage)
{
    static int32_t members[MAX_RANKS];
    static int32_t keys[MAX_RANKS];
    const int32_t block = s->tp * s->cp * s->dp, first = stage % s->pp * block;
    struct hlm_group_shape shape = {.num_ranks = hlm_layout_group_size(s, group)};
    int32_t position = 0;
    const int32_t last = spans_stages(group) ? first : first + block - 1;
    for (int32_t rank = first; rank <= last; rank++) {
        hlm_layout_group(s, group, rank, members, &position);
        const int32_t nodes = count_nodes(cluster, members, shape.num_ranks);
        shape.num_nodes = nodes > shape.num_nodes ? nodes : shape.num_nodes;
    }
    shape.ranks_per_node = (shape.num_ranks + shape.num_nodes - 1) / shape.num_nodes;
    for (int32_t start = first; start < first + block; start++) {
        int32_t num = 0;
        for (int32_t rank = first; rank < first + block; rank++) {
            const int32_t key = shared_key(s, group, rank);
            bool known = node_of(cluster, rank) != node_of(cluster, start);
            for (int32_t i = 0; i < num && !known; i++) {
                known = keys[i] == key;
            }
            if (!known) {
                keys[num++] = key;
            }
        }
        shape.groups_per_node = num > shape.groups_per_node ? num : shape.groups_per_node;
    }
    return shape;
}

static void check_shapes(const struct hlm_strategy *s, const struct hlm_cluster *cluster)
{
    for (int32_t stage = 0; stage < s->pp; stage++) {
        if (!hlm_layout_stage_fits(s, cluster, stage)) {
            continue;
        }
        for (int g = 0; g < HLM_NUM_GROUPS; g++) {
            const enum hlm_group group = (enum hlm_group)g;
            const struct hlm_group_shape got = hlm_layout_shape(s, group, cluster, stage);
            const struct hlm_group_shape want = count_shape(s, group, cluster, stage);
            if (memcmp(&got, &want, sizeof got) != 0) {
                fail_msg("tp %d cp %d dp %d pp %d ep %d etp %d, stage %d, %s, nodes of %d: got "
                         "%d %d %d %d, counted %d %d %d %d",
                         s->tp, s->cp, s->dp, s->pp, s->ep, s->etp, stage, hlm_group_texts[g],
                         cluster->groups[0].devices_per_node, got.num_ranks, got.num_nodes,
                         got.ranks_per_node, got.groups_per_node, want.num_ranks, want.num_nodes,
                         want.ranks_per_node, want.groups_per_node);
            }
        }
    }
}

static void test_shapes_match_counting(void **state)
{
    (void)state;
    static const int32_t sizes[] = {1, 2, 3, 4, 5, 6, 7, 8, 12, 16};
    for (size_t i = 0; i < NUM_CASES; i++) {
        const struct hlm_strategy strategy = case_at(i);
        for (size_t j = 0; j < sizeof sizes / sizeof sizes[0]; j++) {
            struct scene scene;
            const int32_t nodes = (world(&strategy) + sizes[j] - 1) / sizes[j];
            make_cluster(&scene, 1, &nodes, &sizes[j]);
            check_shapes(&strategy, &scene.cluster);
        }
    }
}

static void test_shapes_in_mixed_clusters(void **state)
{
    (void)state;
    static const int32_t nodes[] = {3, 5, 40}, per_node[] = {8, 3, 6};
    struct scene scene;
    make_cluster(&scene, 3, nodes, per_node);
    for (size_t i = 0; i < NUM_CASES; i++) {
        const struct hlm_strategy strategy = case_at(i);
        if (world(&strategy) <= hlm_cluster_num_devices(&scene.cluster)) {
            check_shapes(&strategy, &scene.cluster);
        }
    }
}

static void test_shapes_in_rack_scale_domains(void **state)
{
    (void)state;
    static const int32_t nodes = 64, per_node = 4;
    struct scene scene;
    make_cluster(&scene, 1, &nodes, &per_node);
    scene.groups[0].nvlink_domain = 72;
    const struct hlm_strategy strategy = degrees(8, 1, 16, 2, 8, 1);
    check_shapes(&strategy, &scene.cluster);
    const struct hlm_group_shape tp = hlm_layout_shape(&strategy, HLM_GROUP_TP, &scene.cluster, 0);
    assert_int_equal(tp.num_nodes, 1);
}

/* What the usual layout costs: 8 devices a node, tp 8, dp 16. */
static void test_known_shapes(void **state)
{
    (void)state;
    static const int32_t nodes = 64, per_node = 8;
    struct scene scene;
    make_cluster(&scene, 1, &nodes, &per_node);
    struct hlm_strategy strategy = degrees(8, 1, 16, 4, 8, 1);
    struct hlm_group_shape shape = hlm_layout_shape(&strategy, HLM_GROUP_DP, &scene.cluster, 1);
    assert_int_equal(shape.num_nodes, 16);
    assert_int_equal(shape.ranks_per_node, 1);
    assert_int_equal(shape.groups_per_node, 8);
    shape = hlm_layout_shape(&strategy, HLM_GROUP_TP, &scene.cluster, 1);
    assert_int_equal(shape.num_nodes, 1);
    assert_int_equal(shape.groups_per_node, 1);
    strategy = degrees(2, 1, 64, 4, 1, 1);
    shape = hlm_layout_shape(&strategy, HLM_GROUP_DP, &scene.cluster, 0);
    assert_int_equal(shape.num_nodes, 16);
    assert_int_equal(shape.ranks_per_node, 4);
    assert_int_equal(shape.groups_per_node, 2);
    shape = hlm_layout_shape(&strategy, HLM_GROUP_WORLD, &scene.cluster, 0);
    assert_int_equal(shape.num_ranks, 512);
    assert_int_equal(shape.num_nodes, 64);
}

/* Link and sharing by looking at every pair. */
static void check_stage_link(const struct hlm_strategy *s, struct scene *scene, int32_t stage)
{
    const struct hlm_cluster *cluster = &scene->cluster;
    const int32_t block = s->tp * s->cp * s->dp;
    const int32_t from = stage % s->pp * block, to = (stage + 1) % s->pp * block;
    static int32_t out[MAX_RANKS], in[MAX_RANKS];
    memset(out, 0, sizeof out);
    memset(in, 0, sizeof in);
    int32_t most = 0;
    for (int32_t i = 0; i < block; i++) {
        const int32_t a = node_of(cluster, from + i), b = node_of(cluster, to + i);
        if (a != b) {
            out[a]++;
            in[b]++;
            most = out[a] > most ? out[a] : most;
            most = in[b] > most ? in[b] : most;
        }
    }
    int32_t sharing = -1;
    const struct hlm_link *link = hlm_layout_stage_link(s, cluster, stage, &sharing);
    const int32_t a = hlm_layout_device_group(s, cluster, stage);
    const int32_t b = hlm_layout_device_group(s, cluster, stage + 1);
    assert_int_equal(sharing, most == 0 ? 1 : most);
    assert_ptr_equal(link, most == 0 ? &scene->groups[a].intra_node
                                     : hlm_cluster_inter_link(cluster, a, b));
}

static void test_stage_links(void **state)
{
    (void)state;
    static const int32_t sizes[] = {1, 2, 3, 6, 8, 16};
    for (size_t i = 0; i < NUM_CASES; i++) {
        struct hlm_strategy strategy = case_at(i);
        strategy.vpp = 2;
        for (size_t j = 0; j < sizeof sizes / sizeof sizes[0]; j++) {
            struct scene scene;
            const int32_t nodes = (world(&strategy) + sizes[j] - 1) / sizes[j];
            make_cluster(&scene, 1, &nodes, &sizes[j]);
            for (int32_t stage = 0; stage < 2 * strategy.pp - 1; stage++) {
                check_stage_link(&strategy, &scene, stage);
            }
        }
    }
}

static void test_stage_link_between_groups(void **state)
{
    (void)state;
    static const int32_t nodes[] = {2, 4}, per_node[] = {8, 4};
    struct scene scene;
    make_cluster(&scene, 2, nodes, per_node);
    const struct hlm_strategy strategy = degrees(4, 1, 2, 4, 1, 1);
    for (int32_t stage = 0; stage < 3; stage++) {
        check_stage_link(&strategy, &scene, stage);
    }
    int32_t sharing = 0;
    assert_ptr_equal(hlm_layout_stage_link(&strategy, &scene.cluster, 1, &sharing),
                     hlm_cluster_inter_link(&scene.cluster, 0, 1));
    assert_int_equal(sharing, 8);
}

static void test_device_group(void **state)
{
    (void)state;
    static const int32_t nodes[] = {1, 2}, per_node[] = {8, 8};
    struct scene scene;
    make_cluster(&scene, 2, nodes, per_node);
    const struct hlm_strategy fits = degrees(4, 1, 2, 3, 1, 1);
    assert_int_equal(hlm_layout_device_group(&fits, &scene.cluster, 0), 0);
    assert_int_equal(hlm_layout_device_group(&fits, &scene.cluster, 1), 1);
    assert_int_equal(hlm_layout_device_group(&fits, &scene.cluster, 3), 0);
    assert_true(hlm_layout_stage_fits(&fits, &scene.cluster, 0));
    const struct hlm_strategy straddles = degrees(4, 1, 3, 2, 1, 1);
    assert_false(hlm_layout_stage_fits(&straddles, &scene.cluster, 0));
    assert_true(hlm_layout_stage_fits(&straddles, &scene.cluster, 1));
}

/* --- places --- */

/* Three pipeline ranks of tp 4, 2 and 2; the first runs on the second device group. */
static const struct hlm_rank_place mixed_places[] = {{4, 0, 16}, {2, 16, 0}, {2, 24, 8}};

static struct hlm_strategy mixed(void)
{
    struct hlm_strategy strategy = degrees(4, 1, 4, 3, 1, 1);
    strategy.places = mixed_places;
    return strategy;
}

static void make_mixed_cluster(struct scene *scene)
{
    static const int32_t nodes[] = {2, 2}, per_node[] = {8, 8};
    make_cluster(scene, 2, nodes, per_node);
}

static void test_places_in_one_row_change_nothing(void **state)
{
    (void)state;
    static const int32_t nodes[] = {3}, per_node[] = {8};
    struct scene scene;
    make_cluster(&scene, 1, nodes, per_node);
    const struct hlm_strategy plain = degrees(2, 2, 2, 3, 2, 1);
    const struct hlm_rank_place row[] = {{2, 0, 0}, {2, 8, 8}, {2, 16, 16}};
    struct hlm_strategy placed = plain;
    placed.places = row;
    assert_int_equal(hlm_strategy_world_size(&placed), hlm_strategy_world_size(&plain));
    for (int g = 0; g < HLM_NUM_GROUPS; g++) {
        const enum hlm_group group = (enum hlm_group)g;
        for (int32_t rank = 0; rank < 24; rank++) {
            int32_t a[24], b[24], at_a = 0, at_b = 0;
            const int32_t size = hlm_layout_group_size(&plain, group);
            assert_int_equal(hlm_layout_group_size(&placed, group), size);
            hlm_layout_group(&plain, group, rank, a, &at_a);
            hlm_layout_group(&placed, group, rank, b, &at_b);
            assert_memory_equal(a, b, (size_t)size * sizeof a[0]);
            assert_int_equal(at_a, at_b);
        }
        assert_true(hlm_layout_group_is_mutual(&placed, group));
        for (int32_t stage = 0; stage < 3; stage++) {
            const struct hlm_group_shape a = hlm_layout_shape(&plain, group, &scene.cluster, stage);
            const struct hlm_group_shape b =
                hlm_layout_shape(&placed, group, &scene.cluster, stage);
            assert_memory_equal(&a, &b, sizeof a);
        }
    }
}

static void test_places_number_ranks_and_devices(void **state)
{
    (void)state;
    const struct hlm_strategy strategy = mixed();
    assert_int_equal(hlm_strategy_world_size(&strategy), 32);
    static bool taken[32];
    memset(taken, 0, sizeof taken);
    for (int32_t rank = 0; rank < 32; rank++) {
        const struct hlm_coords coords = hlm_layout_coords(&strategy, rank);
        assert_int_equal(hlm_layout_rank(&strategy, coords), rank);
        assert_int_equal(coords.pp, rank < 16 ? 0 : rank < 24 ? 1 : 2);
        assert_in_range(coords.tp, 0, mixed_places[coords.pp].tp - 1);
        const int64_t device = hlm_layout_device(&strategy, rank);
        assert_in_range(device, 0, 31);
        assert_false(taken[device]);
        taken[device] = true;
    }
    assert_int_equal(hlm_layout_device(&strategy, 0), 16);
    assert_int_equal(hlm_layout_device(&strategy, 25), 9);
}

/* Every group is seen alike by all of its members, and WORLD is everybody. Groups of neighbouring
 * stages with different tp overlap: PP and EMBEDDING are not partitions there. */
static void test_places_make_groups(void **state)
{
    (void)state;
    static const enum hlm_group groups[] = {HLM_GROUP_TP, HLM_GROUP_DP, HLM_GROUP_MODEL,
                                            HLM_GROUP_WORLD};
    static const int32_t first_sizes[] = {4, 4, 8, 32}, other_sizes[] = {2, 4, 8, 32};
    const struct hlm_strategy strategy = mixed();
    for (int g = 0; g < HLM_NUM_GROUPS; g++) {
        const bool crosses = g == HLM_GROUP_PP || g == HLM_GROUP_EMBEDDING;
        assert_int_equal(hlm_layout_group_is_mutual(&strategy, (enum hlm_group)g), !crosses);
    }
    for (size_t g = 0; g < 4; g++) {
        for (int32_t rank = 0; rank < 32; rank++) {
            int32_t members[32], theirs[32], position = 0, at = 0;
            const struct hlm_strategy seen =
                hlm_strategy_at(&strategy, hlm_layout_coords(&strategy, rank).pp);
            const int32_t size = hlm_layout_group_size(&seen, groups[g]);
            assert_int_equal(size, rank < 16 ? first_sizes[g] : other_sizes[g]);
            hlm_layout_group(&strategy, groups[g], rank, members, &position);
            assert_int_equal(members[position], rank);
            for (int32_t i = 0; i < size; i++) {
                hlm_layout_group(&strategy, groups[g], members[i], theirs, &at);
                assert_memory_equal(members, theirs, (size_t)size * sizeof members[0]);
                assert_int_equal(at, i);
            }
        }
    }
}

static void test_places_decide_links_and_device_groups(void **state)
{
    (void)state;
    struct scene scene;
    make_mixed_cluster(&scene);
    const struct hlm_strategy strategy = mixed();
    static const int32_t device_groups[] = {1, 0, 0};
    for (int32_t stage = 0; stage < 3; stage++) {
        assert_int_equal(hlm_layout_device_group(&strategy, &scene.cluster, stage),
                         device_groups[stage]);
        assert_true(hlm_layout_stage_fits(&strategy, &scene.cluster, stage));
    }
    int32_t sharing = 0;
    assert_ptr_equal(hlm_layout_stage_link(&strategy, &scene.cluster, 0, &sharing),
                     hlm_cluster_inter_link(&scene.cluster, 1, 0));
    assert_int_equal(sharing, 8);
    const struct hlm_group_shape dp = hlm_layout_shape(&strategy, HLM_GROUP_DP, &scene.cluster, 0);
    assert_int_equal(dp.num_nodes, 2);
    assert_int_equal(dp.groups_per_node, 4);
    const struct hlm_group_shape world =
        hlm_layout_shape(&strategy, HLM_GROUP_WORLD, &scene.cluster, 0);
    assert_int_equal(world.num_nodes, 4);
}

static void test_stages_lie_as_schedules_say(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    for (int kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
        const struct hlm_schedule *schedule = NULL;
        struct hlm_strategy strategy = degrees(1, 1, 1, 4, 1, 1);
        strategy.schedule = (enum hlm_schedule_kind)kind;
        strategy.vpp = hlm_schedule_chunks(strategy.schedule).min;
        struct hlm_err err;
        assert_int_equal(
            hlm_schedule_build(arena, strategy.schedule, 4, strategy.vpp, 16, &schedule, &err),
            HLM_OK);
        for (int32_t stage = 0; stage < schedule->num_stages; stage++) {
            assert_int_equal(hlm_layout_stage_rank(&strategy, stage), schedule->stage_rank[stage]);
        }
    }
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places_in_one_row_change_nothing),
        cmocka_unit_test(test_places_number_ranks_and_devices),
        cmocka_unit_test(test_places_make_groups),
        cmocka_unit_test(test_places_decide_links_and_device_groups),
        cmocka_unit_test(test_stages_lie_as_schedules_say),
        cmocka_unit_test(test_rank_order),
        cmocka_unit_test(test_groups_partition_the_ranks),
        cmocka_unit_test(test_shapes_match_counting),
        cmocka_unit_test(test_shapes_in_mixed_clusters),
        cmocka_unit_test(test_shapes_in_rack_scale_domains),
        cmocka_unit_test(test_known_shapes),
        cmocka_unit_test(test_stage_links),
        cmocka_unit_test(test_stage_link_between_groups),
        cmocka_unit_test(test_device_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
