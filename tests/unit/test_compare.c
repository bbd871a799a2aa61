#include "compare/compare.h"

#include "costmodel/layout.h"
#include "planner/plan_rank.h"
#include "tests/support/check.h"

/* A priced plan of two stages and a measurement of it that is the simulation with every duration
 * times `factor`. */
struct scene {
    struct hlm_arena *arena;
    struct hlm_err err;
    const struct hlm_plan *plan;
    struct hlm_plan_simulation simulation;
    struct hlm_measurement measurement;
};

static const struct hlm_plan *make_plan(struct scene *scene, enum hlm_schedule_kind schedule,
                                        int32_t vpp)
{
    const struct hlm_model *model = NULL;
    const struct hlm_cluster *cluster = NULL;
    check_ok(hlm_model_load(scene->arena, "gpt2-small", &model, &scene->err), &scene->err);
    check_ok(hlm_cluster_load(scene->arena, "a100-sxm-80g:1x4", &cluster, &scene->err),
             &scene->err);
    struct hlm_strategy strategy = {.dp = 2,
                                    .tp = 1,
                                    .pp = 2,
                                    .ep = 1,
                                    .vpp = vpp,
                                    .schedule = schedule,
                                    .microbatch_size = 1,
                                    .global_batch_size = 8,
                                    .seq_len = 256,
                                    .dtype = HLM_DTYPE_BF16,
                                    .grad_dtype = HLM_DTYPE_FP32,
                                    .master_dtype = HLM_DTYPE_FP32};
    hlm_strategy_complete(&strategy);
    const struct hlm_plan_stage *stages = NULL;
    int32_t num_stages = 0;
    check_ok(hlm_plan_even_stages(scene->arena, model, cluster, &strategy, 0, &stages, &num_stages,
                                  &scene->err),
             &scene->err);
    const struct hlm_plan *plan = NULL;
    check_ok(hlm_plan_price(scene->arena, model, cluster, &strategy, stages, num_stages, &plan,
                            NULL, &scene->err),
             &scene->err);
    check_ok(hlm_plan_simulate(scene->arena, plan, &scene->simulation, &scene->err), &scene->err);
    return plan;
}

static struct hlm_time_node scale(struct hlm_arena *arena, struct hlm_time_node node, double factor)
{
    struct hlm_time_node *parts = HLM_ARENA_ARRAY(arena, struct hlm_time_node, node.num_parts);
    for (int32_t i = 0; i < node.num_parts; i++) {
        parts[i] = scale(arena, node.parts[i], factor);
    }
    node.seconds *= factor;
    node.parts = parts;
    return node;
}

static struct hlm_timeline scale_timeline(struct hlm_arena *arena, struct hlm_timeline timeline,
                                          double factor)
{
    struct hlm_timeline_rank *ranks =
        hlm_arena_memdup(arena, timeline.ranks, (size_t)timeline.num_ranks * sizeof(*ranks));
    for (int32_t r = 0; r < timeline.num_ranks; r++) {
        struct hlm_timeline_event *events =
            hlm_arena_memdup(arena, ranks[r].events, (size_t)ranks[r].num_events * sizeof(*events));
        for (int32_t i = 0; i < ranks[r].num_events; i++) {
            events[i].start_s *= factor;
            events[i].end_s *= factor;
        }
        ranks[r].events = events;
    }
    timeline.ranks = ranks;
    timeline.source = "measured";
    return timeline;
}

static void measure(struct scene *scene, double factor)
{
    const struct hlm_plan *plan = scene->plan;
    struct hlm_measured_step *steps = HLM_ARENA_ARRAY(scene->arena, struct hlm_measured_step, 3);
    struct hlm_measured_memory *memory =
        HLM_ARENA_ARRAY(scene->arena, struct hlm_measured_memory, plan->num_ranks);
    for (int32_t i = 0; i < 3; i++) {
        steps[i] = (struct hlm_measured_step){.step = i,
                                              .wall_s = (i == 0 ? 10.0 : factor) *
                                                        plan->prediction.step_time_s,
                                              .loss = 11.0,
                                              .grad_norm = 1.0,
                                              .availability_frac = 1.0};
    }
    for (int32_t rank = 0; rank < plan->num_ranks; rank++) {
        const int32_t stage = hlm_layout_coords(&plan->strategy, rank).pp;
        const struct hlm_stage_memory *predicted = &plan->prediction.memory[stage];
        /* The second replica's ranks hold a byte more: the stage's peak is the larger. */
        memory[rank] = (struct hlm_measured_memory){
            .rank = rank,
            .stage = stage,
            .peak_bytes = predicted->peak_bytes - predicted->bytes[HLM_MEMORY_FIXED] +
                          hlm_layout_coords(&plan->strategy, rank).dp,
            .device_used_bytes = 1000 + rank};
    }
    scene->measurement = (struct hlm_measurement){
        .digests = plan->digests,
        .backend = "cpu",
        .transport = "thread",
        .num_ranks = plan->num_ranks,
        .num_cores = 4,
        .emulated_rank = -1,
        .steps = steps,
        .num_steps = 3,
        .num_warmup_steps = 1,
        .parts = scale(scene->arena, plan->prediction.parts, factor),
        .memory = memory,
        .num_memory = plan->num_ranks,
        .timeline =
            scale_timeline(scene->arena,
                           *hlm_timeline_from_simulation(scene->arena, scene->simulation.schedule,
                                                         &scene->simulation.result),
                           factor),
        .machine = {
            .host = "host", .cpu_model = "cpu", .kernel = "kernel", .backend_library = "b"}};
    scene->measurement.step_time_s = hlm_measurement_step_time(scene->arena, steps, 3, 1, false,
                                                               &scene->measurement.num_clean_steps);
}

static int enter(void **state)
{
    static struct scene scene;
    scene = (struct scene){.arena = hlm_arena_new()};
    scene.plan = make_plan(&scene, HLM_SCHEDULE_1F1B, 1);
    *state = &scene;
    return 0;
}

static int leave(void **state)
{
    struct scene *scene = *state;
    hlm_arena_free(scene->arena);
    return 0;
}

static void test_error_sign(void **state)
{
    (void)state;
    check_close(hlm_compare_error(1.1, 1.0), 0.1, 1e-12);
    check_close(hlm_compare_error(0.9, 1.0), -0.1, 1e-12);
    assert_true(isnan(hlm_compare_error(1.0, 0.0)));
}

static void check_parts(const struct hlm_compare_part *part, double factor)
{
    check_close(part->measured_s, factor * part->predicted_s, 1e-12);
    for (int32_t i = 0; i < part->num_parts; i++) {
        check_parts(&part->parts[i], factor);
    }
}

static void test_scaled_run(void **state)
{
    struct scene *scene = *state;
    const double factor = 1.25;
    measure(scene, factor);
    struct hlm_comparison comparison;
    check_ok(hlm_compare(scene->arena, scene->plan, &scene->measurement, "m", 0.2, &comparison,
                         &scene->err),
             &scene->err);
    check_close(comparison.error_frac, 1.0 / factor - 1.0, 1e-12);
    assert_true(comparison.within);
    assert_int_equal(comparison.num_clean_steps, 2);
    assert_string_equal(comparison.parts.name, "step");
    assert_int_equal(comparison.parts.num_parts, scene->plan->prediction.parts.num_parts);
    check_parts(&comparison.parts, factor);
    /* F, B, REDUCE_GRAD and OPTIMIZER of two stages. */
    assert_int_equal(comparison.num_actions, 8);
    for (int32_t i = 0; i < comparison.num_actions; i++) {
        const struct hlm_compare_action *action = &comparison.actions[i];
        assert_int_equal(action->num_measured, hlm_action_is_compute(action->kind) ? 4 : 1);
        check_near(action->measured_s, factor * action->predicted_s, 1e-12);
    }
    check_close(comparison.actions[0].predicted_s, scene->simulation.costs.forward_s[0], 1e-9);
    check_close(comparison.actions[5].predicted_s, scene->simulation.costs.backward_s[1], 1e-9);
    assert_int_equal(comparison.num_memory, 2);
    for (int32_t i = 0; i < 2; i++) {
        const struct hlm_compare_memory *memory = &comparison.memory[i];
        const int64_t fixed = scene->plan->prediction.memory[i].bytes[HLM_MEMORY_FIXED];
        assert_int_equal(memory->measured_bytes - memory->predicted_bytes, 1);
        assert_int_equal(memory->device_predicted_bytes - memory->predicted_bytes, fixed);
        assert_int_equal(memory->device_used_bytes, 1001 + 2 * i); /* of ranks 1 and 3 */
    }
}

static void test_tolerance(void **state)
{
    struct scene *scene = *state;
    struct hlm_comparison comparison;
    measure(scene, 1.0);
    check_ok(hlm_compare(scene->arena, scene->plan, &scene->measurement, "m", 0.0, &comparison,
                         &scene->err),
             &scene->err);
    assert_true(comparison.within);
    measure(scene, 0.5);
    check_ok(hlm_compare(scene->arena, scene->plan, &scene->measurement, "m", 0.99, &comparison,
                         &scene->err),
             &scene->err);
    assert_false(comparison.within);
    check_close(comparison.error_frac, 1.0, 1e-12);
}

static const struct hlm_compare_part *find(const struct hlm_compare_part *part, const char *name)
{
    for (int32_t i = 0; i < part->num_parts; i++) {
        if (strcmp(part->parts[i].name, name) == 0) {
            return &part->parts[i];
        }
    }
    return NULL;
}

static void test_parts_of_one_side(void **state)
{
    struct scene *scene = *state;
    measure(scene, 1.0);
    static const struct hlm_time_node inner = {.name = "inner", .seconds = 2.0};
    static const struct hlm_time_node only[] = {
        {.name = "waiting", .seconds = 2.0, .parts = &inner, .num_parts = 1}};
    scene->measurement.parts.parts = only;
    scene->measurement.parts.num_parts = 1;
    struct hlm_comparison comparison;
    check_ok(hlm_compare(scene->arena, scene->plan, &scene->measurement, "m", 0.2, &comparison,
                         &scene->err),
             &scene->err);
    const struct hlm_compare_part *forward = find(&comparison.parts, "forward");
    const struct hlm_compare_part *waiting = find(&comparison.parts, "waiting");
    assert_non_null(forward);
    assert_non_null(waiting);
    assert_true(forward->predicted_s > 0.0 && forward->measured_s == 0.0);
    assert_true(waiting->predicted_s == 0.0 && waiting->measured_s == 2.0);
    assert_int_equal(waiting->num_parts, 1);
    check_close(find(waiting, "inner")->measured_s, 2.0, 0.0);
}

static void test_bad_measurements(void **state)
{
    struct scene *scene = *state;
    struct hlm_comparison comparison;
    measure(scene, 1.0);
    scene->measurement.step_time_s = 0.0;
    check_fails(hlm_compare(scene->arena, scene->plan, &scene->measurement, "m.json", 0.2,
                            &comparison, &scene->err),
                HLM_INPUT, &scene->err, "m.json: $.step_time_s");
    measure(scene, 1.0);
    static const struct hlm_timeline_event event = {.action = "7F0", .start_s = 0.0, .end_s = 1.0};
    static const struct hlm_timeline_rank rank = {.events = &event, .num_events = 1};
    scene->measurement.timeline.ranks = &rank;
    scene->measurement.timeline.num_ranks = 1;
    check_fails(hlm_compare(scene->arena, scene->plan, &scene->measurement, "m.json", 0.2,
                            &comparison, &scene->err),
                HLM_INPUT, &scene->err, "m.json: $.timeline.ranks[0].events[0].action");
    measure(scene, 1.0);
    static const struct hlm_measured_memory memory = {.stage = 2, .peak_bytes = 1};
    scene->measurement.memory = &memory;
    scene->measurement.num_memory = 1;
    check_fails(hlm_compare(scene->arena, scene->plan, &scene->measurement, "m.json", 0.2,
                            &comparison, &scene->err),
                HLM_INPUT, &scene->err, "m.json: $.memory[0].stage");
}

static void test_json_round_trip(void **state)
{
    struct scene *scene = *state;
    measure(scene, 1.1);
    struct hlm_comparison comparison, again;
    check_ok(hlm_compare(scene->arena, scene->plan, &scene->measurement, "m", 0.2, &comparison,
                         &scene->err),
             &scene->err);
    const char *text = hlm_json_write(scene->arena, &hlm_comparison_table, &comparison, false);
    check_ok(hlm_json_read_text(scene->arena, "c", text, strlen(text), &hlm_comparison_table,
                                &again, &scene->err),
             &scene->err);
    assert_string_equal(hlm_json_write(scene->arena, &hlm_comparison_table, &again, false), text);
    const char *measured =
        hlm_json_write(scene->arena, &hlm_measurement_table, &scene->measurement, false);
    struct hlm_measurement read;
    check_ok(hlm_json_read_text(scene->arena, "m", measured, strlen(measured),
                                &hlm_measurement_table, &read, &scene->err),
             &scene->err);
    assert_string_equal(hlm_json_write(scene->arena, &hlm_measurement_table, &read, false),
                        measured);
}

/* Pairs, on both sides, count for the F and the B that they are; two stages of a rank are one row
 * of memory. */
static void test_pairs(void **state)
{
    struct scene *scene = *state;
    scene->plan = make_plan(scene, HLM_SCHEDULE_DUALPIPE_V, 2);
    measure(scene, 1.25);
    struct hlm_comparison comparison;
    check_ok(hlm_compare(scene->arena, scene->plan, &scene->measurement, "m", 0.2, &comparison,
                         &scene->err),
             &scene->err);
    int32_t num[HLM_NUM_ACTIONS] = {0};
    for (int32_t i = 0; i < comparison.num_actions; i++) {
        const struct hlm_compare_action *action = &comparison.actions[i];
        assert_int_not_equal(action->kind, HLM_ACTION_OVERLAP_F_B);
        check_near(action->measured_s, 1.25 * action->predicted_s, 1e-12);
        num[action->kind] += action->num_measured;
    }
    assert_int_equal(num[HLM_ACTION_F], 4 * 4); /* stages times microbatches */
    assert_int_equal(num[HLM_ACTION_B] + num[HLM_ACTION_I], 4 * 4);
    assert_int_equal(num[HLM_ACTION_I], num[HLM_ACTION_W]);
    assert_int_equal(comparison.num_memory, 2);
    for (int32_t i = 0; i < 2; i++) {
        const struct hlm_stage_memory *memory = scene->plan->prediction.memory;
        const int32_t other = 3 - i;
        assert_int_equal(comparison.memory[i].stage, i);
        assert_int_equal(comparison.memory[i].device_predicted_bytes,
                         memory[i].peak_bytes + memory[other].peak_bytes);
    }
}

/* World rank 3 (stage 1 of the second replica) alone: its actions computed `factor` times as long
 * as promised, and its step waited so that it took what was promised. */
enum { ALONE = 3 };

static void measure_alone(struct scene *scene, double factor)
{
    measure(scene, 1.0);
    const struct hlm_plan_simulation *simulation = &scene->simulation;
    const int32_t pp = hlm_layout_coords(&scene->plan->strategy, ALONE).pp;
    const struct hlm_stage_cost *cost = &simulation->stages[pp];
    struct hlm_measured_action *actions =
        HLM_ARENA_ARRAY(scene->arena, struct hlm_measured_action, 4);
    const int32_t m = (int32_t)scene->plan->strategy.num_microbatches;
    actions[0] = (struct hlm_measured_action){
        pp, HLM_ACTION_F, m,
        factor * (cost->forward.seconds - hlm_plan_pass_comm_s(&cost->forward)), 0.5};
    actions[1] = (struct hlm_measured_action){
        pp, HLM_ACTION_B, m,
        factor * (cost->backward.seconds - hlm_plan_pass_comm_s(&cost->backward)), 0.5};
    actions[2] = (struct hlm_measured_action){pp, HLM_ACTION_REDUCE_GRAD, 1, 0.0, 0.5};
    actions[3] = (struct hlm_measured_action){pp, HLM_ACTION_OPTIMIZER, 1,
                                              factor * (cost->optimizer_s - cost->gather_s), 0.5};
    struct hlm_time_node parts =
        hlm_plan_rank_parts(scene->arena, simulation, &simulation->result, pp, NULL,
                            hlm_plan_rank_end_s(&simulation->result, pp));
    scene->measurement.emulated_rank = ALONE;
    scene->measurement.actions = actions;
    scene->measurement.num_actions = 4;
    scene->measurement.parts = scale(scene->arena, parts, factor);
    scene->measurement.step_time_s = parts.seconds;
    scene->measurement.memory += ALONE;
    scene->measurement.num_memory = 1;
}

static void test_alone(void **state)
{
    struct scene *scene = *state;
    struct hlm_comparison comparison;
    measure_alone(scene, 1.25);
    check_ok(hlm_compare(scene->arena, scene->plan, &scene->measurement, "m", 0.1, &comparison,
                         &scene->err),
             &scene->err);
    assert_int_equal(comparison.emulated_rank, ALONE);
    check_near(comparison.error_frac, 0.0, 1e-12);
    /* The step waited as predicted and agrees; computing does not. */
    assert_false(comparison.within);
    check_close(comparison.compute_measured_s, 1.25 * comparison.compute_predicted_s, 1e-12);
    assert_int_equal(comparison.num_actions, 3); /* no reduction */
    for (int32_t i = 0; i < 3; i++) {
        const struct hlm_compare_action *action = &comparison.actions[i];
        assert_int_equal(action->stage, 1);
        assert_int_not_equal(action->kind, HLM_ACTION_REDUCE_GRAD);
        assert_int_equal(action->num_measured, action->kind == HLM_ACTION_OPTIMIZER ? 1 : 4);
        check_close(action->measured_s, 1.25 * action->predicted_s, 1e-12);
    }
    assert_int_equal(comparison.num_memory, 1);
    assert_int_equal(comparison.memory[0].stage, 1);
    assert_int_equal(comparison.memory[0].measured_bytes - comparison.memory[0].predicted_bytes, 1);
    /* A tolerance that covers both. */
    check_ok(hlm_compare(scene->arena, scene->plan, &scene->measurement, "m", 0.21, &comparison,
                         &scene->err),
             &scene->err);
    assert_true(comparison.within);
}

static void test_bad_alone(void **state)
{
    struct scene *scene = *state;
    struct hlm_comparison comparison;
    measure_alone(scene, 1.0);
    scene->measurement.emulated_rank = 4;
    check_fails(hlm_compare(scene->arena, scene->plan, &scene->measurement, "m.json", 0.2,
                            &comparison, &scene->err),
                HLM_INPUT, &scene->err, "m.json: $.emulated_rank: expected one of the plan's 4");
    scene->measurement.emulated_rank = 0; /* its actions are those of stage 1 */
    check_fails(hlm_compare(scene->arena, scene->plan, &scene->measurement, "m.json", 0.2,
                            &comparison, &scene->err),
                HLM_INPUT, &scene->err, "m.json: $.actions[0].stage: expected one of rank 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_error_sign, enter, leave),
        cmocka_unit_test_setup_teardown(test_scaled_run, enter, leave),
        cmocka_unit_test_setup_teardown(test_tolerance, enter, leave),
        cmocka_unit_test_setup_teardown(test_parts_of_one_side, enter, leave),
        cmocka_unit_test_setup_teardown(test_bad_measurements, enter, leave),
        cmocka_unit_test_setup_teardown(test_json_round_trip, enter, leave),
        cmocka_unit_test_setup_teardown(test_pairs, enter, leave),
        cmocka_unit_test_setup_teardown(test_alone, enter, leave),
        cmocka_unit_test_setup_teardown(test_bad_alone, enter, leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
