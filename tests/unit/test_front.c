/* Plans chosen by price. That they are the best of all is oracle/test_front_brute_force.c. */
#include "planner/front.h"

#include "planner/verify.h"
#include "planner/verify_offer.h"
#include "tests/support/mixed_problem.h"

/* Two groups of two nodes of one device, the second slower and cheaper. */
struct scene {
    struct hlm_arena *arena;
    struct mixed_problem mixed;
    const struct hlm_front *found;
    const struct hlm_plan *const *plans;
    const struct hlm_plan *cheapest;
    /* Copies, to be falsified. */
    struct hlm_front front;
    struct hlm_plan plan;
    struct hlm_plan_certificate certificate;
    struct hlm_plan_offer offer;
    struct hlm_plan_subcluster *subclusters; /* of both */
    struct hlm_front_point *points;
    struct hlm_plan_kept *kept;
};

static void scene_init(struct scene *scene, double max_gap_frac)
{
    const int32_t devices[] = {1, 1};
    const struct hlm_cluster *linked = NULL;
    struct hlm_err err;
    struct mixed_problem *mixed = &scene->mixed;
    scene->arena = hlm_arena_new();
    mixed_problem_init(scene->arena, mixed, 2, devices, 4, 8);
    check_ok(hlm_cluster_load(scene->arena, "a100-sxm-80g:2x8+v100-sxm2-32g:2x8", &linked, &err),
             &err);
    mixed->cluster.links = linked->links;
    mixed->cluster.num_links = linked->num_links;
    mixed->groups[0].num_nodes = mixed->groups[1].num_nodes = 2;
    mixed->groups[0].price_per_device_hour = 1.5;
    mixed->groups[1].price_per_device_hour = 0.5;
    mixed->problem.max_gap_frac = max_gap_frac;
    mixed->problem.top_k = 2;
    mixed->problem.require.zero = 0; /* fewer strategies: a quicker test */
}

static void scene_search(struct scene *scene)
{
    const struct hlm_search_problem *problem = &scene->mixed.problem;
    struct hlm_err err;
    check_ok(
        hlm_front_search(scene->arena, problem, NULL, NULL, &scene->found, &scene->plans, &err),
        &err);
    check_ok(hlm_front_cheapest(scene->arena, problem, NULL, NULL, &scene->cheapest, &err), &err);
}

static void front_is_sorted_and_none_is_beaten_in_both(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, 0.01);
    scene_search(&scene);
    const struct hlm_front *front = scene.found;
    assert_int_equal(front->offer.num_subclusters, 8);
    assert_true(front->num_points >= 3);
    assert_true(front->gap_frac <= 0.01 + 1e-9);
    for (int32_t i = 0; i < front->num_points; i++) {
        const struct hlm_front_point *point = &front->points[i];
        const struct hlm_plan_prediction *prediction = &scene.plans[i]->prediction;
        const struct hlm_plan_subcluster *some = &front->offer.subclusters[point->subcluster];
        assert_true(i == 0 || (point->step_time_s > point[-1].step_time_s &&
                               point->cost_per_token < point[-1].cost_per_token));
        assert_true(point->gap_frac <= 0.01 + 1e-9);
        check_close(prediction->step_time_s, point->step_time_s, 0.0);
        check_close(prediction->cost_per_token, point->cost_per_token, 0.0);
        check_close(some->step_time_s, point->step_time_s, 0.0);
        check_close(hlm_plan_cost_per_token(some->price_per_hour, point->step_time_s, 8.0 * 512.0),
                    point->cost_per_token, 1e-12);
        assert_int_equal(scene.plans[i]->num_ranks, some->num_nodes[0] + some->num_nodes[1]);
    }
    hlm_arena_free(scene.arena);
}

/* The ends of the front are the answers of the other objectives. */
static void ends_are_the_fastest_and_the_cheapest(void **state)
{
    (void)state;
    struct scene scene;
    const struct hlm_plan *fastest = NULL;
    struct hlm_err err;
    scene_init(&scene, 0.0);
    scene.mixed.problem.require.zero = -1;
    scene_search(&scene);
    check_ok(hlm_search(scene.arena, &scene.mixed.problem, NULL, NULL, &fastest, &err), &err);
    const struct hlm_front *front = scene.found;
    check_close(front->points[0].step_time_s, fastest->prediction.step_time_s, 1e-9);
    check_close(front->points[front->num_points - 1].cost_per_token,
                scene.cheapest->prediction.cost_per_token, 1e-9);
    check_close(front->least_step_s, fastest->prediction.step_time_s, 1e-6);
    check_close(front->offer.least_cost_per_token, scene.cheapest->prediction.cost_per_token, 1e-6);
    hlm_arena_free(scene.arena);
}

/* Slow and dear devices: whatever uses them is given up by its bound, and what it would cost to use
 * them is said. */
static void a_group_that_does_not_pay_is_left_out(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, 0.01);
    scene.mixed.groups[1].price_per_device_hour = 40.0;
    scene_search(&scene);
    const struct hlm_plan_offer *offer = scene.cheapest->certificate->offer;
    assert_int_equal(offer->num_kept, 1);
    const struct hlm_plan_kept *kept = &offer->kept[0];
    const double cost = scene.cheapest->prediction.cost_per_token;
    assert_int_equal(kept->group, 1);
    assert_true(offer->subclusters[kept->subcluster].num_nodes[1] > 0);
    assert_true(kept->cost_per_token > 2 * cost);
    assert_true(kept->least_cost_per_token <= kept->cost_per_token &&
                kept->least_cost_per_token >= 0.99 * kept->cost_per_token * (1 - 1e-9));
    assert_true(offer->gap_frac <= 0.01 + 1e-9);
    int32_t num_beaten = 0;
    for (int32_t i = 0; i < offer->num_subclusters; i++) {
        const struct hlm_plan_subcluster *some = &offer->subclusters[i];
        num_beaten += some->outcome == HLM_SUBCLUSTER_BEATEN ? 1 : 0;
        /* What costs twice as much is not in doubt, what is the plan is; the rest is not planned.
         */
        const bool is_own = some->step_time_s == scene.cheapest->prediction.step_time_s;
        assert_true(!is_own || hlm_plan_may_be_cheaper(some, scene.cheapest));
        assert_true(some->num_nodes[1] == 0 || !hlm_plan_may_be_cheaper(some, scene.cheapest));
        assert_true(some->outcome != HLM_SUBCLUSTER_BEATEN ||
                    !hlm_plan_may_be_cheaper(some, scene.cheapest));
    }
    assert_true(num_beaten >= 3);
    /* It is not named where no runners-up are wanted. */
    scene.mixed.problem.top_k = 0;
    scene_search(&scene);
    assert_int_equal(scene.cheapest->certificate->offer->num_kept, 0);
    hlm_arena_free(scene.arena);
}

static void nothing_fits(void **state)
{
    (void)state;
    struct scene scene;
    struct hlm_err err;
    scene_init(&scene, 0.01);
    scene.mixed.groups[0].device.memory_bytes = scene.mixed.groups[1].device.memory_bytes = 96LL
                                                                                            << 20;
    check_fails(
        hlm_front_cheapest(scene.arena, &scene.mixed.problem, NULL, NULL, &scene.cheapest, &err),
        HLM_NO, &err, "misses");
    hlm_arena_free(scene.arena);
}

/* The hosts of the first group hold no optimizer states: its subclusters stay open, and the gap
 * says so. */
static void what_the_hosts_do_not_hold_stays_open(void **state)
{
    (void)state;
    struct scene scene;
    struct hlm_err err;
    scene_init(&scene, 0.01);
    struct mixed_problem *mixed = &scene.mixed;
    struct hlm_host ample = *mixed->groups[0].host, tight = ample;
    ample.memory_bytes = 1e12;
    tight.memory_bytes = 1e3;
    mixed->groups[0].host = &tight;
    mixed->groups[1].host = &ample;
    mixed->problem.require.offload = HLM_OFFLOAD_OPTIMIZER;
    scene_search(&scene);
    int32_t num_open = 0;
    for (int32_t i = 0; i < scene.found->offer.num_subclusters; i++) {
        const struct hlm_plan_subcluster *some = &scene.found->offer.subclusters[i];
        if (some->num_nodes[0] > 0 && some->outcome == HLM_SUBCLUSTER_OPEN) {
            assert_true(some->lower_bound_s > 0.0);
            num_open++;
        }
        assert_true(some->num_nodes[0] == 0 || some->outcome != HLM_SUBCLUSTER_PLANNED);
    }
    assert_true(num_open >= 2);
    assert_true(scene.found->gap_frac > 0.05);
    check_ok(hlm_verify_front(scene.arena, scene.found, &err), &err);
    check_ok(hlm_verify_offer(scene.arena, scene.cheapest, &err), &err);
    hlm_arena_free(scene.arena);
}

static void prices_are_needed(void **state)
{
    (void)state;
    struct scene scene;
    struct hlm_err err;
    scene_init(&scene, 0.01);
    scene.mixed.groups[1].price_per_device_hour = 0.0;
    check_fails(
        hlm_front_cheapest(scene.arena, &scene.mixed.problem, NULL, NULL, &scene.cheapest, &err),
        HLM_INPUT, &err, "$.groups[1].price_per_device_hour");
    hlm_arena_free(scene.arena);
}

static void a_front_is_read_as_it_was_written(void **state)
{
    (void)state;
    struct scene scene;
    struct hlm_err err;
    const struct hlm_front *again = NULL;
    scene_init(&scene, 0.01);
    scene_search(&scene);
    const char *text = hlm_json_write(scene.arena, &hlm_front_table, scene.found, false);
    check_ok(hlm_front_read_text(scene.arena, "front", text, strlen(text), &again, &err), &err);
    assert_string_equal(hlm_json_write(scene.arena, &hlm_front_table, again, false), text);
    check_ok(hlm_verify_front(scene.arena, again, &err), &err);
    const char *plan_text = hlm_json_write(scene.arena, &hlm_plan_table, scene.cheapest, false);
    const struct hlm_plan *plan = NULL;
    check_ok(hlm_plan_read_text(scene.arena, "plan", plan_text, strlen(plan_text), &plan, &err),
             &err);
    assert_string_equal(hlm_json_write(scene.arena, &hlm_plan_table, plan, false), plan_text);
    struct hlm_verify_report report;
    check_ok(hlm_verify(scene.arena, plan, &report, &err), &err);
    hlm_arena_free(scene.arena);
}

/* --- claims that do not hold --- */

static void copy_for_lies(struct scene *scene)
{
    const struct hlm_plan_offer *offer = &scene->found->offer;
    scene->front = *scene->found;
    scene->plan = *scene->cheapest;
    scene->certificate = *scene->cheapest->certificate;
    scene->offer = *scene->certificate.offer;
    scene->plan.certificate = &scene->certificate;
    scene->certificate.offer = &scene->offer;
    scene->points = hlm_arena_memdup(scene->arena, scene->found->points,
                                     (size_t)scene->found->num_points * sizeof(*scene->points));
    scene->subclusters =
        hlm_arena_memdup(scene->arena, offer->subclusters,
                         (size_t)offer->num_subclusters * sizeof(*scene->subclusters));
    scene->front.points = scene->points;
    scene->front.offer.subclusters = scene->subclusters;
}

/* Of the plan instead of the front. */
static struct hlm_plan_subcluster *lie_about_plan(struct scene *scene)
{
    scene->subclusters =
        hlm_arena_memdup(scene->arena, scene->offer.subclusters,
                         (size_t)scene->offer.num_subclusters * sizeof(*scene->subclusters));
    scene->offer.subclusters = scene->subclusters;
    return scene->subclusters;
}

/* Without the second. */
static void front_of_fewer_points(struct scene *scene)
{
    scene->front.num_points--;
    for (int32_t p = 1; p < scene->front.num_points; p++) {
        scene->points[p] = scene->found->points[p + 1];
    }
}

static void front_slower_point(struct scene *scene)
{
    scene->points[0].step_time_s *= 1.01;
}

static void front_cheaper_point(struct scene *scene)
{
    scene->points[1].cost_per_token *= 0.99;
}

static void front_smaller_gap(struct scene *scene)
{
    scene->front.gap_frac += 0.01;
}

static void front_higher_bound(struct scene *scene)
{
    scene->front.least_step_s *= 1.01;
}

static void front_unordered(struct scene *scene)
{
    scene->points[0] = scene->found->points[1];
    scene->points[1] = scene->found->points[0];
}

static void front_other_interval(struct scene *scene)
{
    scene->points[0].interval.high_s *= 1.1;
}

static void front_more_certain(struct scene *scene)
{
    scene->points[0].within_uncertainty = !scene->points[0].within_uncertainty;
}

static void front_other_layers(struct scene *scene)
{
    struct hlm_plan_stage *stages =
        hlm_arena_memdup(scene->arena, scene->points[0].stages,
                         (size_t)scene->points[0].num_stages * sizeof(*stages));
    stages[0].num_layers--;
    scene->points[0].stages = stages;
}

static void front_subcluster_twice(struct scene *scene)
{
    scene->subclusters[1] = scene->subclusters[0];
}

static void front_subcluster_missing(struct scene *scene)
{
    scene->front.offer.num_subclusters--;
}

static void front_cheap_subcluster(struct scene *scene)
{
    scene->subclusters[2].price_per_hour *= 0.9;
}

/* Both say that nothing fits where the best point is. */
static void front_nothing_fits(struct scene *scene)
{
    const int32_t last = scene->front.num_points - 1;
    const int32_t at = scene->points[last].subcluster;
    scene->subclusters[at].outcome = HLM_SUBCLUSTER_INFEASIBLE;
    scene->subclusters[at].lower_bound_s = 0.0;
    /* The dearest way to lie: all that follows from the bounds is made to agree. */
    scene->front.num_points = last;
    scene->front.offer.least_cost_per_token = scene->points[last - 1].cost_per_token;
    scene->front.offer.gap_frac = 0.0;
}

static void check_front_lies(const struct scene *scene, void (*lie)(struct scene *scene),
                             const char *part)
{
    struct scene liar = *scene;
    struct hlm_err err;
    copy_for_lies(&liar);
    lie(&liar);
    check_fails(hlm_verify_front(liar.arena, &liar.front, &err), HLM_NO, &err, part);
}

static void lies_about_a_front_are_found(void **state)
{
    (void)state;
    struct scene scene;
    struct hlm_err err;
    scene_init(&scene, 0.0);
    scene_search(&scene);
    check_ok(hlm_verify_front(scene.arena, scene.found, &err), &err);
    check_front_lies(&scene, front_of_fewer_points, "front.gap_frac");
    check_front_lies(&scene, front_slower_point, "points[0].step_time_s");
    check_front_lies(&scene, front_cheaper_point, "points[1].cost_per_token");
    check_front_lies(&scene, front_smaller_gap, "front.gap_frac");
    check_front_lies(&scene, front_higher_bound, "front.least_step_s");
    check_front_lies(&scene, front_unordered, "slower and cheaper");
    check_front_lies(&scene, front_other_interval, "points[0].interval.high_s");
    check_front_lies(&scene, front_more_certain, "points[0].within_uncertainty");
    check_front_lies(&scene, front_other_layers, "points[0]: $.stages");
    check_front_lies(&scene, front_subcluster_twice, "subclusters[1]");
    check_front_lies(&scene, front_subcluster_missing, "7 subclusters of 8");
    check_front_lies(&scene, front_cheap_subcluster, "subclusters[2].price_per_hour");
    check_front_lies(&scene, front_nothing_fits, "subclusters[");
    hlm_arena_free(scene.arena);
}

static void plan_cheaper_bound(struct scene *scene)
{
    scene->offer.least_cost_per_token *= 1.005;
}

static void plan_smaller_gap(struct scene *scene)
{
    scene->offer.gap_frac += 0.005;
}

static void plan_other_cost(struct scene *scene)
{
    scene->plan.prediction.cost_per_token *= 0.9;
}

static void plan_kept_cheaper(struct scene *scene)
{
    scene->kept = hlm_arena_memdup(scene->arena, scene->offer.kept, sizeof(*scene->kept));
    scene->offer.kept = scene->kept;
    scene->kept->cost_per_token *= 0.9;
}

/* A bound that is too high, of a subcluster that does not decide the least cost. */
static void plan_higher_bound(struct scene *scene)
{
    struct hlm_plan_subcluster *subclusters = lie_about_plan(scene);
    for (int32_t i = scene->offer.num_subclusters - 1; i >= 0; i--) {
        if (subclusters[i].outcome == HLM_SUBCLUSTER_PLANNED && subclusters[i].step_time_s > 0.0 &&
            subclusters[i].step_time_s != scene->plan.prediction.step_time_s) {
            subclusters[i].lower_bound_s = subclusters[i].step_time_s * 1.05;
            return;
        }
    }
    fail_msg("no subcluster to lie about");
}

static void lies_about_a_plan_are_found(void **state)
{
    (void)state;
    static const struct {
        void (*lie)(struct scene *scene);
        const char *part;
    } lies[] = {{plan_cheaper_bound, "offer.least_cost_per_token"},
                {plan_smaller_gap, "offer.gap_frac"},
                {plan_other_cost, "prediction.cost_per_token"},
                {plan_kept_cheaper, "kept[0].cost_per_token"},
                {plan_higher_bound, "but a partition simulates to"}};
    struct scene scene;
    struct hlm_err err;
    scene_init(&scene, 0.01);
    scene.mixed.groups[1].price_per_device_hour = 4.0;
    scene_search(&scene);
    check_ok(hlm_verify_offer(scene.arena, scene.cheapest, &err), &err);
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        struct scene liar = scene;
        copy_for_lies(&liar);
        lies[i].lie(&liar);
        check_fails(hlm_verify_offer(liar.arena, &liar.plan, &err), HLM_NO, &err, lies[i].part);
    }
    hlm_arena_free(scene.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(front_is_sorted_and_none_is_beaten_in_both),
        cmocka_unit_test(ends_are_the_fastest_and_the_cheapest),
        cmocka_unit_test(a_group_that_does_not_pay_is_left_out),
        cmocka_unit_test(nothing_fits),
        cmocka_unit_test(what_the_hosts_do_not_hold_stays_open),
        cmocka_unit_test(prices_are_needed),
        cmocka_unit_test(a_front_is_read_as_it_was_written),
        cmocka_unit_test(lies_about_a_front_are_found),
        cmocka_unit_test(lies_about_a_plan_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
