#include <stdlib.h>
#include <unistd.h>

#include "exec/bootstrap/bootstrap_placement.h"
#include "tests/support/check.h"

enum { MAX_RANKS = 16 };

/* A cluster of nodes of two devices in one group, then nodes of four in another; of a plan only
 * what is looked at. */
struct fixture {
    struct hlm_device_group groups[2];
    int32_t rank_map[MAX_RANKS];
    struct hlm_plan plan;
    struct hlm_seat seats[MAX_RANKS];
};

/* machines: a letter for each rank. Local ranks follow. */
static void fixture_init(struct fixture *fixture, const char *machines)
{
    *fixture = (struct fixture){.groups = {{.num_nodes = 2, .devices_per_node = 2},
                                           {.num_nodes = 2, .devices_per_node = 4}}};
    const int32_t num_ranks = (int32_t)strlen(machines);
    for (int32_t rank = 0; rank < num_ranks; rank++) {
        struct hlm_seat *seat = &fixture->seats[rank];
        fixture->rank_map[rank] = rank;
        seat->machine[0] = machines[rank];
        snprintf(seat->host, sizeof seat->host, "host-%c", machines[rank]);
        for (int32_t other = 0; other < rank; other++) {
            seat->local_rank += machines[other] == machines[rank];
        }
    }
    fixture->plan = (struct hlm_plan){.cluster = {.groups = fixture->groups, .num_groups = 2},
                                      .rank_map = fixture->rank_map,
                                      .num_ranks = num_ranks};
}

static enum hlm_status check(struct fixture *fixture, struct hlm_arena *arena, int32_t rank,
                             bool by_user, struct hlm_placement *out, struct hlm_err *err)
{
    return hlm_placement_check(arena, &fixture->plan, fixture->seats, fixture->plan.num_ranks, rank,
                               by_user, out, err);
}

static void test_right_places(void **state)
{
    (void)state;
    static const struct {
        const char *machines;
        int32_t last_index, last_size;
    } cases[] = {
        {"aa", 1, 2}, {"aabb", 1, 2}, {"aabbcccc", 3, 4}, {"aabbccccdddd", 3, 4}, {"aab", 0, 1}};
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture fixture;
        struct hlm_placement placement;
        struct hlm_err err;
        fixture_init(&fixture, cases[i].machines);
        check_ok(check(&fixture, arena, fixture.plan.num_ranks - 1, false, &placement, &err), &err);
        assert_int_equal(placement.local_index, cases[i].last_index);
        assert_int_equal(placement.local_size, cases[i].last_size);
        assert_null(placement.warning);
    }
    hlm_arena_free(arena);
}

static void test_wrong_places(void **state)
{
    (void)state;
    static const struct {
        const char *machines, *part;
    } cases[] = {
        {"abab",
         "rank 1 belongs on node 0 of the plan, as rank 0 on host-a does, but runs on host-b; "
         "start the ranks one machine after the other"},
        {"aabc",
         "rank 3 belongs on node 1 of the plan, as rank 2 on host-b does, but runs on host-c"},
        {"aabbcccd", "rank 7 belongs on node 2 of the plan, as rank 4 on host-c does, but runs on "
                     "host-d"},
        {"aaaabbbb",
         "rank 0 belongs on node 0 of the plan, but runs on host-a, where rank 2 of node "
         "1 is"},
        {"aabbaaaa",
         "rank 0 belongs on node 0 of the plan, but runs on host-a, where rank 4 of node "
         "2 is"},
    };
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture fixture;
        struct hlm_placement placement;
        struct hlm_err err;
        fixture_init(&fixture, cases[i].machines);
        for (int32_t rank = 0; rank < fixture.plan.num_ranks;
             rank++) { /* all come to one verdict */
            check_fails(check(&fixture, arena, rank, false, &placement, &err), HLM_ENV, &err,
                        cases[i].part);
        }
    }
    hlm_arena_free(arena);
}

/* The user has put several nodes of the plan on one machine. */
static void test_shared_machine(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct fixture fixture;
    struct hlm_placement placement;
    struct hlm_err err;
    fixture_init(&fixture, "aaaa");
    check_ok(check(&fixture, arena, 3, false, &placement, &err), &err);
    assert_string_equal(placement.warning,
                        "nodes 0 and 1 of the plan are both on host-a: their link "
                        "is not the one that the plan counts on");
    assert_int_equal(placement.local_index, 3);
    assert_int_equal(placement.local_size, 4);
    fixture_init(&fixture, "aaaabbbb");
    check_ok(check(&fixture, arena, 0, true, &placement, &err), &err);
    assert_non_null(strstr(placement.warning, "nodes 0 and 1 of the plan are both on host-a"));
    /* Naming machines excuses no node that is torn apart. */
    fixture_init(&fixture, "aaab");
    check_fails(
        check(&fixture, arena, 0, true, &placement, &err), HLM_ENV, &err,
        "rank 3 belongs on node 1 of the plan, as rank 2 on host-a does, but runs on host-b");
    hlm_arena_free(arena);
}

static void test_rank_map(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct fixture fixture;
    struct hlm_placement placement;
    struct hlm_err err;
    /* Ranks 0 and 2 are neighbours, and rank 2 has the first device of the node. */
    static const int32_t map[] = {1, 2, 0, 3};
    fixture_init(&fixture, "abab");
    memcpy(fixture.rank_map, map, sizeof map);
    check_ok(check(&fixture, arena, 0, false, &placement, &err), &err);
    assert_int_equal(placement.local_index, 1);
    check_ok(check(&fixture, arena, 2, false, &placement, &err), &err);
    assert_int_equal(placement.local_index, 0);
    fixture_init(&fixture, "aabb");
    memcpy(fixture.rank_map, map, sizeof map);
    check_fails(
        check(&fixture, arena, 0, false, &placement, &err), HLM_ENV, &err,
        "rank 2 belongs on node 0 of the plan, as rank 0 on host-a does, but runs on host-b");
    hlm_arena_free(arena);
}

static void test_local_ranks(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct fixture fixture;
    struct hlm_placement placement;
    struct hlm_err err;
    fixture_init(&fixture, "aabb");
    fixture.seats[3].local_rank = 0;
    check_fails(check(&fixture, arena, 0, false, &placement, &err), HLM_ENV, &err,
                "ranks 2 and 3 on host-b both have the local rank 0");
    /* One machine under two names, each with a first rank. */
    check_ok(check(&fixture, arena, 3, true, &placement, &err), &err);
    assert_int_equal(placement.local_index, 1);
    fixture.seats[2].local_rank = fixture.seats[3].local_rank = -1; /* not said */
    check_ok(check(&fixture, arena, 0, false, &placement, &err), &err);
    hlm_arena_free(arena);
}

/* Without a plan ranks may stand anywhere. */
static void test_profile(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct fixture fixture;
    struct hlm_placement placement;
    struct hlm_err err;
    fixture_init(&fixture, "abab");
    check_ok(hlm_placement_check(arena, NULL, fixture.seats, 4, 3, false, &placement, &err), &err);
    assert_null(placement.warning);
    assert_int_equal(placement.local_index, 1);
    assert_int_equal(placement.local_size, 2);
    hlm_arena_free(arena);
}

static void test_gpus(void **state)
{
    (void)state;
    static const struct {
        const char *machines;
        int32_t num_gpus[4];
        const char *visible[4];
        const char *why_shared; /* NULL: each has its own */
        bool all_have;
    } cases[] = {
        {"aabb", {2, 2, 2, 2}, {"", "", "", ""}, NULL, true},
        {"aabb", {8, 8, 8, 8}, {"", "", "", ""}, NULL, true},
        {"aabb",
         {2, 2, 1, 1},
         {"", "", "", ""},
         "ranks 2 and 3 on host-b would share the GPU 0",
         true},
        {"aaaa",
         {2, 2, 2, 2},
         {"", "", "", ""},
         "ranks 0 and 2 on host-a would share the GPU 0",
         true},
        {"aabb", {2, 2, 2, 0}, {"", "", "", ""}, "rank 3 on host-b has no GPU: no driver", false},
        /* a GPU for each process, as srun --gpus-per-task gives them */
        {"aabb", {1, 1, 1, 1}, {"0", "1", "2", "3"}, NULL, true},
        {"aabb",
         {1, 1, 1, 1},
         {"0", "0", "2", "3"},
         "ranks 0 and 1 on host-a would share the GPU 0",
         true},
        {"aabb", {2, 2, 2, 2}, {"5,7", "5,7", "GPU-a,GPU-b", "GPU-a,GPU-b"}, NULL, true},
        {"aabb",
         {2, 2, 2, 2},
         {"5,7", "7,5", "0,1", "0,1"},
         "ranks 0 and 1 on host-a would share the GPU 5",
         true},
    };
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture fixture;
        struct hlm_placement placement;
        struct hlm_err err;
        fixture_init(&fixture, cases[i].machines);
        for (int32_t rank = 0; rank < 4; rank++) {
            struct hlm_seat *seat = &fixture.seats[rank];
            seat->num_gpus = cases[i].num_gpus[rank];
            snprintf(seat->visible, sizeof seat->visible, "%s", cases[i].visible[rank]);
            snprintf(seat->why_no_gpu, sizeof seat->why_no_gpu, "no driver");
        }
        check_ok(check(&fixture, arena, 0, false, &placement, &err), &err);
        assert_int_equal(placement.own_gpus, cases[i].why_shared == NULL);
        assert_int_equal(placement.all_have_gpus, cases[i].all_have);
        if (cases[i].why_shared != NULL) {
            assert_string_equal(placement.why_shared, cases[i].why_shared);
        }
    }
    hlm_arena_free(arena);
}

static void test_here(void **state)
{
    (void)state;
    const struct hlm_rank_env env = {.local_rank = 3};
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    unsetenv("CUDA_VISIBLE_DEVICES");
    struct hlm_seat seat = hlm_seat_here(&env);
    assert_int_equal(seat.local_rank, 3);
    assert_true(strncmp(seat.host, host, sizeof seat.host - 1) == 0 && seat.machine[0] != '\0');
    assert_string_equal(seat.visible, "");
    setenv("CUDA_VISIBLE_DEVICES", "2,0", 1);
    seat = hlm_seat_here(&env);
    assert_string_equal(seat.visible, "2,0");
    unsetenv("CUDA_VISIBLE_DEVICES");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right_places),   cmocka_unit_test(test_wrong_places),
        cmocka_unit_test(test_shared_machine), cmocka_unit_test(test_rank_map),
        cmocka_unit_test(test_local_ranks),    cmocka_unit_test(test_profile),
        cmocka_unit_test(test_gpus),           cmocka_unit_test(test_here),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
