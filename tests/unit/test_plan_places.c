#include "tests/support/check.h"

#include "planner/plan_places.h"

/* Two device groups: 2 nodes of 8 and 1 node of 8. */
static const struct hlm_device_group groups[] = {
    {.name = "fast", .num_nodes = 2, .devices_per_node = 8},
    {.name = "slow", .num_nodes = 1, .devices_per_node = 8}};
static const struct hlm_cluster cluster = {.name = "mixed", .groups = groups, .num_groups = 2};

static struct hlm_strategy strategy_of(int32_t dp, int32_t tp, int32_t pp)
{
    return (struct hlm_strategy){.dp = dp, .tp = tp, .pp = pp, .cp = 1, .vpp = 1};
}

struct fixture {
    struct hlm_arena *arena;
    struct hlm_err err;
    const struct hlm_rank_place *places;
};

static enum hlm_status place(struct fixture *fixture, const struct hlm_strategy *strategy,
                             const struct hlm_plan_stage *stages, int32_t num_stages)
{
    fixture->arena = hlm_arena_new();
    return hlm_plan_places(fixture->arena, &cluster, strategy, stages, num_stages, &fixture->places,
                           &fixture->err);
}

static void test_equal_stages_in_device_order_need_none(void **state)
{
    (void)state;
    struct fixture fixture;
    const struct hlm_strategy strategy = strategy_of(2, 4, 3);
    const struct hlm_plan_stage stages[] = {{.rank_group = 0, .device_group = 0, .tp = 4},
                                            {.rank_group = 1, .device_group = 0, .tp = 4},
                                            {.rank_group = 2, .device_group = 1, .tp = 4}};
    assert_int_equal(place(&fixture, &strategy, stages, 3), HLM_OK);
    assert_null(fixture.places);
    hlm_arena_free(fixture.arena);
}

static void test_slow_group_first_and_tp_differs(void **state)
{
    (void)state;
    struct fixture fixture;
    const struct hlm_strategy strategy = strategy_of(2, 4, 3);
    const struct hlm_plan_stage stages[] = {{.rank_group = 0, .device_group = 1, .tp = 4},
                                            {.rank_group = 1, .device_group = 0, .tp = 2},
                                            {.rank_group = 2, .device_group = 0, .tp = 2}};
    assert_int_equal(place(&fixture, &strategy, stages, 3), HLM_OK);
    static const struct hlm_rank_place want[] = {{4, 0, 16}, {2, 8, 0}, {2, 12, 4}};
    assert_non_null(fixture.places);
    assert_memory_equal(fixture.places, want, sizeof want);
    hlm_arena_free(fixture.arena);
}

/* A group that is left out moves nobody; one that is left out in front moves everybody. */
static void test_groups_may_stay_idle(void **state)
{
    (void)state;
    struct fixture fixture;
    const struct hlm_strategy strategy = strategy_of(2, 4, 1);
    struct hlm_plan_stage stage = {.rank_group = 0, .device_group = 0, .tp = 4};
    assert_int_equal(place(&fixture, &strategy, &stage, 1), HLM_OK);
    assert_null(fixture.places);
    hlm_arena_free(fixture.arena);
    stage.device_group = 1;
    assert_int_equal(place(&fixture, &strategy, &stage, 1), HLM_OK);
    assert_non_null(fixture.places);
    assert_int_equal(fixture.places[0].first_device, 16);
    hlm_arena_free(fixture.arena);
}

static void test_too_few_devices_are_refused(void **state)
{
    (void)state;
    struct fixture fixture;
    const struct hlm_strategy strategy = strategy_of(2, 4, 2);
    const struct hlm_plan_stage stages[] = {{.rank_group = 0, .device_group = 1, .tp = 4},
                                            {.rank_group = 1, .device_group = 1, .tp = 4}};
    assert_int_equal(place(&fixture, &strategy, stages, 2), HLM_NO);
    assert_string_equal(fixture.err.text, "stage 1 needs 8 devices of group slow, which has 0 left "
                                          "of 8");
    hlm_arena_free(fixture.arena);
}

static void test_stages_of_one_rank_must_agree(void **state)
{
    (void)state;
    struct fixture fixture;
    struct hlm_strategy strategy = strategy_of(2, 4, 2);
    strategy.vpp = 2;
    const struct hlm_plan_stage stages[] = {{.rank_group = 0, .device_group = 0, .tp = 4},
                                            {.rank_group = 1, .device_group = 0, .tp = 4},
                                            {.rank_group = 1, .device_group = 0, .tp = 2},
                                            {.rank_group = 0, .device_group = 0, .tp = 4}};
    assert_int_equal(place(&fixture, &strategy, stages, 4), HLM_NO);
    assert_non_null(strstr(fixture.err.text, "stage 2 has tp = 2"));
    hlm_arena_free(fixture.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_stages_in_device_order_need_none),
        cmocka_unit_test(test_slow_group_first_and_tp_differs),
        cmocka_unit_test(test_groups_may_stay_idle),
        cmocka_unit_test(test_too_few_devices_are_refused),
        cmocka_unit_test(test_stages_of_one_rank_must_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
