/* Over all subclusters of a small mixed cluster: the cheapest plan and the front are those of all
 * plans, each tried one by one. */
#include "planner/front.h"
#include "planner/verify_offer.h"
#include "tests/support/mixed_problem.h"
#include "tests/support/placement.h"

enum { MAX_CHOICES = 27 };

struct choice {
    double step_s, cost; /* of its best plan; INFINITY: none fits */
};

/* A random problem whose groups have one or two nodes and prices. */
static void init(struct hlm_arena *arena, struct hlm_rng *rng, struct mixed_problem *mixed)
{
    mixed_problem_random(arena, rng, mixed);
    const struct hlm_cluster *linked = NULL;
    const int32_t num_groups = mixed->cluster.num_groups;
    struct hlm_err err;
    check_ok(hlm_cluster_load(arena,
                              num_groups == 2 ? "a100-sxm-80g:2x8+v100-sxm2-32g:2x8"
                                              : "h100-sxm:2x8+a100-sxm-80g:2x8+v100-sxm2-32g:2x8",
                              &linked, &err),
             &err);
    mixed->cluster.links = linked->links;
    mixed->cluster.num_links = linked->num_links;
    for (int32_t g = 0; g < num_groups; g++) {
        const bool two = (num_groups == 2 || g == 0) && hlm_rng_next_int(rng, 0, 2) > 0;
        mixed->groups[g].num_nodes = two ? 2 : 1;
        mixed->groups[g].devices_per_node =
            num_groups == 2 ? (int32_t)hlm_rng_next_int(rng, 1, 2) : 1;
        mixed->groups[g].nvlink_domain = mixed->groups[g].devices_per_node;
        mixed->groups[g].price_per_device_hour = 0.25 * (double)hlm_rng_next_int(rng, 1, 16);
    }
}

/* The best of all plans that use all of a subcluster. */
static struct choice try_nodes(struct hlm_arena *arena, const struct mixed_problem *mixed,
                               const int32_t *num_nodes, int64_t *num_plans)
{
    struct mixed_problem part = *mixed;
    const struct hlm_cluster *cluster = hlm_subcluster_take(arena, &mixed->cluster, num_nodes);
    double price_per_hour = 0.0;
    part.cluster = *cluster;
    for (int32_t g = 0; g < cluster->num_groups; g++) {
        part.groups[g] = cluster->groups[g];
        price_per_hour += mixed_devices(&part, g) * part.groups[g].price_per_device_hour;
    }
    part.cluster.groups = part.groups;
    part.problem.model = &part.model;
    part.problem.cluster = &part.cluster;
    part.problem.all_groups = true;
    const struct mixed_exhaustive all = mixed_try_everything(arena, &part);
    const double tokens = (double)part.problem.global_batch_size * (double)part.problem.seq_len;
    *num_plans += all.num_plans;
    return (struct choice){all.best_s, price_per_hour * all.best_s / 3600.0 / tokens};
}

/* With one node or two of each group, all numbers of nodes are tried. */
static int32_t try_all(struct hlm_arena *arena, const struct mixed_problem *mixed,
                       struct choice choices[MAX_CHOICES], int64_t *num_plans)
{
    int32_t num = 0;
    for (int32_t code = 1; code < 27; code++) {
        const int32_t num_nodes[] = {code % 3, code / 3 % 3, code / 9};
        bool exists = mixed->cluster.num_groups == 3 || num_nodes[2] == 0;
        for (int32_t g = 0; g < mixed->cluster.num_groups; g++) {
            exists = exists && num_nodes[g] <= mixed->groups[g].num_nodes;
        }
        if (exists) {
            choices[num++] = try_nodes(arena, mixed, num_nodes, num_plans);
        }
    }
    return num;
}

static bool is_on_front(const struct choice *choices, int32_t num, const struct choice *choice)
{
    for (int32_t i = 0; i < num; i++) {
        if (choices[i].step_s <= choice->step_s && choices[i].cost <= choice->cost &&
            (choices[i].step_s < choice->step_s || choices[i].cost < choice->cost)) {
            return false;
        }
    }
    return isfinite(choice->step_s);
}

static int fastest_first(const void *left, const void *right)
{
    const struct choice *a = left, *b = right;
    return (a->step_s > b->step_s) - (a->step_s < b->step_s);
}

/* Returns how many points the front has. */
static int32_t check_problem(struct hlm_arena *arena, const struct mixed_problem *mixed,
                             int64_t *num_plans)
{
    struct choice choices[MAX_CHOICES], expected[MAX_CHOICES];
    const int32_t num = try_all(arena, mixed, choices, num_plans);
    int32_t num_points = 0;
    for (int32_t i = 0; i < num; i++) {
        if (is_on_front(choices, num, &choices[i])) {
            expected[num_points++] = choices[i];
        }
    }
    qsort(expected, (size_t)num_points, sizeof(*expected), fastest_first);
    const struct hlm_front *front = NULL;
    const struct hlm_plan *const *plans = NULL;
    const struct hlm_plan *cheapest = NULL;
    struct hlm_err err;
    if (num_points == 0) {
        assert_int_equal(hlm_front_search(arena, &mixed->problem, NULL, NULL, &front, &plans, &err),
                         HLM_NO);
        assert_int_equal(hlm_front_cheapest(arena, &mixed->problem, NULL, NULL, &cheapest, &err),
                         HLM_NO);
        return 0;
    }
    check_ok(hlm_front_search(arena, &mixed->problem, NULL, NULL, &front, &plans, &err), &err);
    assert_int_equal(front->num_points, num_points);
    assert_int_equal(front->offer.num_subclusters, num);
    for (int32_t i = 0; i < num_points; i++) {
        check_close(front->points[i].step_time_s, expected[i].step_s, 1e-9);
        check_close(front->points[i].cost_per_token, expected[i].cost, 1e-9);
        assert_true(front->points[i].gap_frac <= 1e-6);
    }
    check_ok(hlm_front_cheapest(arena, &mixed->problem, NULL, NULL, &cheapest, &err), &err);
    check_close(cheapest->prediction.cost_per_token, expected[num_points - 1].cost, 1e-9);
    check_ok(hlm_verify_front(arena, front, &err), &err);
    check_ok(hlm_verify_offer(arena, cheapest, &err), &err);
    return num_points;
}

static void gap_0_is_the_front_of_all_plans(void **state)
{
    (void)state;
    enum { NUM_PROBLEMS = 15 };
    struct hlm_rng rng = {placement_seed(21), 0};
    int32_t num_fit = 0, num_several = 0;
    int64_t num_plans = 0;
    for (int i = 0; i < NUM_PROBLEMS; i++) {
        struct hlm_arena *arena = hlm_arena_new();
        struct mixed_problem mixed;
        init(arena, &rng, &mixed);
        const int32_t num_points = check_problem(arena, &mixed, &num_plans);
        num_fit += num_points > 0 ? 1 : 0;
        num_several += num_points > 1 ? 1 : 0;
        hlm_arena_free(arena);
    }
    print_message("%lld plans; %d problems with a plan, %d with several points\n",
                  (long long)num_plans, num_fit, num_several);
    assert_true(num_fit >= 5 && num_several >= 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gap_0_is_the_front_of_all_plans)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
