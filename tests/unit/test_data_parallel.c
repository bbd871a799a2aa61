#include "costmodel/data_parallel.h"

#include <stdlib.h>

#include "costmodel/collective.h"
#include "tests/support/check.h"

struct scene {
    struct hlm_arena *arena;
    struct hlm_err err;
    const struct hlm_cluster *cluster;
};

static int setup(void **state)
{
    struct scene *scene = calloc(1, sizeof *scene);
    scene->arena = hlm_arena_new();
    check_ok(hlm_cluster_load(scene->arena, "a100-sxm-80g:4x8", &scene->cluster, &scene->err),
             &scene->err);
    *state = scene;
    return 0;
}

static int teardown(void **state)
{
    struct scene *scene = *state;
    hlm_arena_free(scene->arena);
    free(scene);
    return 0;
}

static struct hlm_strategy strategy_of(int32_t dp, int32_t tp, int32_t cp, int32_t zero,
                                       int32_t zero_group)
{
    struct hlm_strategy strategy = {.dp = dp,
                                    .tp = tp,
                                    .pp = 1,
                                    .cp = cp,
                                    .zero = zero,
                                    .zero_group = zero_group,
                                    .microbatch_size = 1,
                                    .global_batch_size = dp,
                                    .seq_len = 16,
                                    .dtype = HLM_DTYPE_FP8,
                                    .grad_dtype = HLM_DTYPE_FP32};
    hlm_strategy_complete(&strategy);
    return strategy;
}

static struct hlm_dp_slab slab_of(const struct scene *scene, const struct hlm_strategy *strategy)
{
    return (struct hlm_dp_slab){
        .strategy = strategy, .cluster = scene->cluster, .num_elements = 1000000};
}

static double seconds(const struct scene *scene, enum hlm_collective op, double bytes,
                      struct hlm_group_shape shape)
{
    return hlm_collective_seconds(scene->cluster, 0, op, bytes, shape);
}

static void stages_use_their_collectives(void **state)
{
    const struct scene *scene = *state;
    const struct hlm_group_shape all = {32, 4, 8, 1};
    struct hlm_strategy strategy = strategy_of(32, 1, 1, 0, 0);
    struct hlm_dp_slab slab = slab_of(scene, &strategy);
    check_close(hlm_dp_reduce_s(&slab), seconds(scene, HLM_ALL_REDUCE, 4e6, all), 1e-12);
    assert_true(hlm_dp_gather_s(&slab) == 0.0);
    for (int32_t zero = 1; zero <= 3; zero++) {
        strategy = strategy_of(32, 1, 1, zero, 0);
        slab = slab_of(scene, &strategy);
        check_close(hlm_dp_reduce_s(&slab), seconds(scene, HLM_REDUCE_SCATTER, 4e6, all), 1e-12);
        /* stored as bf16 */
        check_close(hlm_dp_gather_s(&slab), seconds(scene, HLM_ALL_GATHER, 2e6, all), 1e-12);
    }
}

/* Shards inside a node, and their sums across the four. */
static void hybrid_sharding_adds_a_reduction(void **state)
{
    const struct scene *scene = *state;
    const struct hlm_strategy strategy = strategy_of(32, 1, 1, 3, 8);
    const struct hlm_dp_slab slab = slab_of(scene, &strategy);
    const struct hlm_group_shape node = {8, 1, 8, 1}, across = {4, 4, 1, 8};
    assert_int_equal(hlm_dp_shards(&strategy, HLM_GROUP_DP), 8);
    check_close(hlm_dp_gather_s(&slab), seconds(scene, HLM_ALL_GATHER, 2e6, node), 1e-12);
    check_close(hlm_dp_reduce_s(&slab),
                seconds(scene, HLM_REDUCE_SCATTER, 4e6, node) +
                    seconds(scene, HLM_ALL_REDUCE, 5e5, across),
                1e-12);
}

/* Ranks with other parts of a sequence hold the same parameters. */
static void context_ranks_share_too(void **state)
{
    const struct scene *scene = *state;
    const struct hlm_strategy strategy = strategy_of(4, 2, 4, 1, 0);
    const struct hlm_dp_slab slab = slab_of(scene, &strategy);
    const struct hlm_group_shape shape = {16, 4, 4, 2};
    assert_int_equal(hlm_dp_shards(&strategy, HLM_GROUP_DP), 16);
    check_close(hlm_dp_gather_s(&slab), seconds(scene, HLM_ALL_GATHER, 2e6, shape), 1e-12);
}

static void what_compute_hides(void **state)
{
    (void)state;
    check_close(hlm_dp_exposed_s(10.0, 2.0), 0.378, 1e-12);
    check_close(hlm_dp_exposed_s(1.0, 5.0), 4.0, 1e-12);
    assert_true(hlm_dp_exposed_s(3.0, 0.0) == 0.0);
    check_close(hlm_dp_exposed_parts_s(10.0, 2.0, 1), 2.0, 1e-12); /* nothing to hide behind */
    check_close(hlm_dp_exposed_parts_s(10.0, 2.0, 4), 0.5 + 0.189 * 1.5, 1e-12);
    for (double comm_s = 0.0; comm_s < 30.0; comm_s += 0.7) {
        for (int32_t parts = 1; parts < 50; parts *= 3) {
            const double exposed_s = hlm_dp_exposed_parts_s(10.0, comm_s, parts);
            assert_true(exposed_s <= 1.19 * comm_s + 1e-12 && exposed_s >= comm_s - 10.0);
            assert_true(hlm_dp_exposed_parts_s(10.0, comm_s + 0.1, parts) >= exposed_s);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(stages_use_their_collectives, setup, teardown),
        cmocka_unit_test_setup_teardown(hybrid_sharding_adds_a_reduction, setup, teardown),
        cmocka_unit_test_setup_teardown(context_ranks_share_too, setup, teardown),
        cmocka_unit_test(what_compute_hides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
