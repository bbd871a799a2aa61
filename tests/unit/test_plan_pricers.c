#include "planner/plan_pricers.h"
#include "tests/support/mixed_problem.h"

static void ranks_share_a_pricer_by_group_and_tp(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct mixed_problem mixed;
    const int32_t devices[] = {4, 4};
    mixed_problem_init(arena, &mixed, 2, devices, 6, 8);
    mixed.model.tied_embeddings = false;
    const struct hlm_rank_place places[] = {{1, 0, 4}, {1, 2, 6}, {2, 4, 0}};
    struct hlm_strategy strategy = {.dp = 2,
                                    .tp = 2,
                                    .pp = 3,
                                    .microbatch_size = 1,
                                    .global_batch_size = 8,
                                    .seq_len = 512,
                                    .dtype = HLM_DTYPE_FP16,
                                    .places = places};
    hlm_strategy_complete(&strategy);
    const struct hlm_pricer *const *pricers = NULL;
    struct hlm_err err;
    check_ok(hlm_plan_pricers_new(arena, &mixed.model, &mixed.cluster, &strategy, &pricers, &err),
             &err);
    assert_ptr_equal(pricers[0], pricers[1]);
    assert_ptr_not_equal(pricers[0], pricers[2]);
    assert_int_equal(pricers[0]->device_group, 1);
    assert_int_equal(pricers[0]->strategy->tp, 1);
    assert_int_equal(pricers[2]->device_group, 0);
    assert_int_equal(pricers[2]->strategy->tp, 2);
    assert_int_equal(pricers[2]->stage, 2);
    assert_true(pricers[2]->limit_bytes == mixed.groups[0].device.memory_bytes);
    /* The slower device. */
    assert_true(pricers[0]->blocks[HLM_BLOCK_DENSE][0].forward.seconds >
                pricers[2]->blocks[HLM_BLOCK_DENSE][0].forward.seconds);
    hlm_arena_free(arena);
}

static void alike_ranks_of_two_groups_have_two(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct mixed_problem mixed;
    const int32_t devices[] = {2, 2};
    mixed_problem_init(arena, &mixed, 2, devices, 6, 8);
    struct hlm_strategy strategy = {.dp = 1,
                                    .tp = 1,
                                    .pp = 4,
                                    .microbatch_size = 1,
                                    .global_batch_size = 8,
                                    .seq_len = 512,
                                    .dtype = HLM_DTYPE_FP16};
    hlm_strategy_complete(&strategy);
    const struct hlm_pricer *const *pricers = NULL;
    struct hlm_err err;
    check_ok(hlm_plan_pricers_new(arena, &mixed.model, &mixed.cluster, &strategy, &pricers, &err),
             &err);
    assert_ptr_equal(pricers[0], pricers[1]);
    assert_ptr_equal(pricers[2], pricers[3]);
    assert_int_equal(pricers[2]->device_group, 1);
    assert_int_equal(pricers[2]->stage, 2);
    strategy.dtype = HLM_DTYPE_BF16;
    check_fails(
        hlm_plan_pricers_new(arena, &mixed.model, &mixed.cluster, &strategy, &pricers, &err),
        HLM_NO, &err, "v100-sxm2-32g has no bf16");
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_share_a_pricer_by_group_and_tp),
        cmocka_unit_test(alike_ranks_of_two_groups_have_two),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
