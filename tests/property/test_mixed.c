/* Over several device groups: the order in which a cluster names its groups changes nothing, a
 * group whose devices are faster, or one group more, never makes the best plan slower. */
#include "tests/support/mixed_problem.h"
#include "tests/support/placement.h"

/* INFINITY: nothing fits. */
static double best_step_s(const struct hlm_search_problem *problem)
{
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    const enum hlm_status status = hlm_search(arena, problem, NULL, NULL, &plan, &err);
    assert_true(status == HLM_OK || status == HLM_NO);
    const double step_s = status == HLM_OK ? plan->prediction.step_time_s : (double)INFINITY;
    hlm_arena_free(arena);
    return step_s;
}

static int32_t swapped(int32_t group, int32_t last)
{
    return group == 0 ? last : group == last ? 0 : group;
}

/* The cluster names its first group last, and its last first. */
static void swap_ends(struct hlm_arena *arena, struct mixed_problem *mixed)
{
    const int32_t last = mixed->cluster.num_groups - 1;
    const struct hlm_device_group first = mixed->groups[0];
    mixed->groups[0] = mixed->groups[last];
    mixed->groups[last] = first;
    struct hlm_inter_link *links = hlm_arena_memdup(
        arena, mixed->cluster.links, (size_t)mixed->cluster.num_links * sizeof(*links));
    for (int32_t i = 0; i < mixed->cluster.num_links; i++) {
        links[i].from = swapped(links[i].from, last);
        links[i].to = swapped(links[i].to, last);
    }
    mixed->cluster.links = links;
}

static void order_of_groups_changes_nothing(void **state)
{
    (void)state;
    enum { NUM_PROBLEMS = 40 };
    struct hlm_rng rng = {placement_seed(21), 0};
    int32_t num_fit = 0;
    for (int i = 0; i < NUM_PROBLEMS; i++) {
        struct hlm_arena *arena = hlm_arena_new();
        struct mixed_problem mixed;
        mixed_problem_random(arena, &rng, &mixed);
        const double step_s = best_step_s(&mixed.problem);
        swap_ends(arena, &mixed);
        const double other_s = best_step_s(&mixed.problem);
        if (isfinite(step_s)) {
            check_close(other_s, step_s, 1e-12);
            num_fit++;
        } else {
            assert_true(isinf(other_s));
        }
        hlm_arena_free(arena);
    }
    assert_true(num_fit > NUM_PROBLEMS / 4);
}

/* Everything that a device computes, in a part of the time. */
static void speed_up(struct hlm_arena *arena, struct hlm_device *device, double factor)
{
    struct hlm_device_dtype *dtypes =
        hlm_arena_memdup(arena, device->dtypes, (size_t)device->num_dtypes * sizeof(*dtypes));
    for (int32_t i = 0; i < device->num_dtypes; i++) {
        dtypes[i].peak_flops_per_s *= factor;
    }
    device->dtypes = dtypes;
    device->memory.bytes_per_s *= factor;
}

static void faster_devices_never_hurt(void **state)
{
    (void)state;
    enum { NUM_PROBLEMS = 40 };
    struct hlm_rng rng = {placement_seed(22), 0};
    int32_t num_faster = 0;
    for (int i = 0; i < NUM_PROBLEMS; i++) {
        struct hlm_arena *arena = hlm_arena_new();
        struct mixed_problem mixed;
        mixed_problem_random(arena, &rng, &mixed);
        const double step_s = best_step_s(&mixed.problem);
        const int64_t group = hlm_rng_next_int(&rng, 0, mixed.cluster.num_groups - 1);
        speed_up(arena, &mixed.groups[group].device, random_between(&rng, 1.1, 3.0));
        const double faster_s = best_step_s(&mixed.problem);
        assert_true(faster_s <= step_s * (1 + 1e-9));
        num_faster += faster_s < step_s * 0.999 ? 1 : 0;
        hlm_arena_free(arena);
    }
    assert_true(num_faster > NUM_PROBLEMS / 10);
}

/* What is planned on one group alone is among what is planned on all. */
static void one_group_more_never_hurts(void **state)
{
    (void)state;
    enum { NUM_PROBLEMS = 20 };
    struct hlm_rng rng = {placement_seed(23), 0};
    int32_t num_better = 0;
    for (int i = 0; i < NUM_PROBLEMS; i++) {
        struct hlm_arena *arena = hlm_arena_new();
        struct mixed_problem mixed;
        mixed_problem_random(arena, &rng, &mixed);
        mixed.problem.require.schedule = -1;
        const double all_s = best_step_s(&mixed.problem);
        for (int32_t g = 0; g < mixed.cluster.num_groups; g++) {
            struct hlm_cluster alone = mixed.cluster;
            struct hlm_search_problem problem = mixed.problem;
            alone.groups = &mixed.groups[g];
            alone.num_groups = 1;
            problem.cluster = &alone;
            const double alone_s = best_step_s(&problem);
            assert_true(all_s <= alone_s * (1 + 1e-9));
            num_better += all_s < alone_s ? 1 : 0;
        }
        hlm_arena_free(arena);
    }
    assert_true(num_better > NUM_PROBLEMS / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_of_groups_changes_nothing),
        cmocka_unit_test(faster_devices_never_hurt),
        cmocka_unit_test(one_group_more_never_hurts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
