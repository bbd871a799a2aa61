#include "planner/plan_program.h"

#include "tests/support/check.h"

struct scene {
    struct hlm_arena *arena;
    struct hlm_err err;
    const struct hlm_plan *plan;
    struct hlm_plan_simulation simulation;
    struct hlm_plan_programs programs;
};

static int enter(void **state)
{
    static struct scene scene;
    scene = (struct scene){.arena = hlm_arena_new()};
    *state = &scene;
    return 0;
}

static int leave(void **state)
{
    struct scene *scene = *state;
    hlm_arena_free(scene->arena);
    return 0;
}

static void make(struct scene *scene, struct hlm_strategy strategy)
{
    const struct hlm_model *model = NULL;
    const struct hlm_cluster *cluster = NULL;
    check_ok(hlm_model_load(scene->arena, "gpt2-small", &model, &scene->err), &scene->err);
    check_ok(hlm_cluster_load(scene->arena, "a100-sxm-80g:1x8", &cluster, &scene->err),
             &scene->err);
    strategy.ep = 1;
    strategy.microbatch_size = 1;
    strategy.global_batch_size = 8;
    strategy.seq_len = 256;
    strategy.dtype = HLM_DTYPE_BF16;
    hlm_strategy_complete(&strategy);
    const struct hlm_plan_stage *stages = NULL;
    int32_t num_stages = 0;
    check_ok(hlm_plan_even_stages(scene->arena, model, cluster, &strategy, HLM_RECOMPUTE_SELECTIVE,
                                  &stages, &num_stages, &scene->err),
             &scene->err);
    check_ok(hlm_plan_price(scene->arena, model, cluster, &strategy, stages, num_stages,
                            &scene->plan, NULL, &scene->err),
             &scene->err);
    check_ok(hlm_plan_simulate(scene->arena, scene->plan, &scene->simulation, &scene->err),
             &scene->err);
    check_ok(hlm_plan_programs(scene->arena, scene->plan, &scene->simulation, &scene->programs,
                               &scene->err),
             &scene->err);
}

static double compute_seconds(const struct hlm_simgrid_program *program)
{
    double seconds = 0.0;
    for (int32_t i = 0; i < program->num_items; i++) {
        seconds += program->items[i].kind == HLM_SIMGRID_COMPUTE ? program->items[i].seconds : 0.0;
    }
    return seconds;
}

static int32_t count_kind(const struct hlm_simgrid_program *program, enum hlm_simgrid_kind kind)
{
    int32_t count = 0;
    for (int32_t i = 0; i < program->num_items; i++) {
        count += program->items[i].kind == kind;
    }
    return count;
}

/* The receives of `rank` from `peer` in order are the sends of `peer` to `rank` in order. */
static void check_channel(const struct scene *scene, int32_t peer, int32_t rank)
{
    const struct hlm_simgrid_program *from = &scene->programs.programs[peer];
    const struct hlm_simgrid_program *to = &scene->programs.programs[rank];
    int32_t at = 0, num_messages = 0;
    for (int32_t i = 0; i < to->num_items; i++) {
        const struct hlm_simgrid_item *receive = &to->items[i];
        if (receive->kind != HLM_SIMGRID_RECV || receive->peer != peer) {
            continue;
        }
        while (at < from->num_items &&
               (from->items[at].kind != HLM_SIMGRID_SEND || from->items[at].peer != rank)) {
            at++;
        }
        assert_true(at < from->num_items);
        assert_int_equal(from->items[at].tag, receive->tag);
        assert_int_equal(from->items[at].bytes, receive->bytes);
        assert_true(receive->bytes > 0);
        num_messages++;
        at++;
    }
    for (; at < from->num_items; at++) {
        assert_false(from->items[at].kind == HLM_SIMGRID_SEND && from->items[at].peer == rank);
    }
    const struct hlm_coords a = hlm_layout_coords(&scene->plan->strategy, peer);
    const struct hlm_coords b = hlm_layout_coords(&scene->plan->strategy, rank);
    const bool neighbours = a.dp == b.dp && a.tp == b.tp && (a.pp == b.pp + 1 || b.pp == a.pp + 1);
    assert_int_equal(num_messages, neighbours ? scene->plan->strategy.num_microbatches : 0);
}

static void test_messages_match(void **state)
{
    struct scene *scene = *state;
    make(scene, (struct hlm_strategy){
                    .dp = 2, .tp = 2, .pp = 2, .sp = true, .schedule = HLM_SCHEDULE_1F1B});
    for (int32_t rank = 0; rank < 8; rank++) {
        for (int32_t peer = 0; peer < 8; peer++) {
            check_channel(scene, peer, rank);
        }
    }
}

/* All members of a tensor-parallel group run the same collectives in the same order. */
static void test_collectives_match(void **state)
{
    struct scene *scene = *state;
    make(scene, (struct hlm_strategy){.dp = 2, .tp = 2, .pp = 2, .schedule = HLM_SCHEDULE_1F1B});
    for (int32_t rank = 0; rank < 8; rank += 2) {
        const struct hlm_simgrid_program *first = &scene->programs.programs[rank];
        const struct hlm_simgrid_program *second = &scene->programs.programs[rank + 1];
        assert_int_equal(first->num_items, second->num_items);
        for (int32_t i = 0; i < first->num_items; i++) {
            assert_int_equal(first->items[i].kind, second->items[i].kind);
            assert_int_equal(first->items[i].bytes, second->items[i].bytes);
            assert_true(first->items[i].seconds == second->items[i].seconds);
        }
        /* Two all-reduces a layer, pass and microbatch (Megatron's f and g), and those of embedding
         * or head; one more for the gradients. */
        const int32_t layers = 2 * 2 * 6 * (int32_t)scene->plan->strategy.num_microbatches;
        assert_true(count_kind(first, HLM_SIMGRID_ALL_REDUCE) > layers);
        assert_int_equal(first->items[first->num_items - 1].num_members, 2);
        assert_int_equal(first->items[first->num_items - 1].kind, HLM_SIMGRID_ALL_REDUCE);
    }
}

static void test_sequence_parallel_kinds(void **state)
{
    struct scene *scene = *state;
    make(scene,
         (struct hlm_strategy){
             .dp = 4, .tp = 2, .pp = 1, .sp = true, .zero = 1, .schedule = HLM_SCHEDULE_1F1B});
    const struct hlm_simgrid_program *program = &scene->programs.programs[0];
    assert_true(count_kind(program, HLM_SIMGRID_ALL_GATHER) > 0);
    assert_true(count_kind(program, HLM_SIMGRID_REDUCE_SCATTER) > 0);
    /* zero 1 scatters the gradients' sum over the four replicas. */
    const struct hlm_simgrid_item *last = &program->items[program->num_items - 1];
    assert_int_equal(last->kind, HLM_SIMGRID_REDUCE_SCATTER);
    assert_int_equal(last->num_members, 4);
    assert_int_equal(last->bytes, 4 * scene->simulation.stages[0].num_elements);
}

/* Computing is what the plan's prices say without tensor-parallel time; alone on one rank there is
 * nothing else. */
static void test_compute_seconds(void **state)
{
    struct scene *scene = *state;
    make(scene, (struct hlm_strategy){.dp = 1, .tp = 1, .pp = 1, .schedule = HLM_SCHEDULE_GPIPE});
    assert_int_equal(scene->programs.cluster.num_ranks, 1);
    const double busy_s = scene->simulation.result.ranks[0].busy_s;
    check_close(compute_seconds(&scene->programs.programs[0]), busy_s, 1e-9);
    check_close(scene->programs.expected_s, busy_s, 1e-9);
    make(scene, (struct hlm_strategy){.dp = 1, .tp = 2, .pp = 4, .schedule = HLM_SCHEDULE_1F1B});
    for (int32_t rank = 0; rank < 8; rank++) {
        const int32_t stage = hlm_layout_coords(&scene->plan->strategy, rank).pp;
        const struct hlm_stage_cost *cost = &scene->simulation.stages[stage];
        const double tp_s =
            cost->forward.part[HLM_PART_TP_COMM] + cost->backward.part[HLM_PART_TP_COMM];
        assert_true(tp_s > 0.0);
        check_close(compute_seconds(&scene->programs.programs[rank]),
                    8.0 * (cost->forward.seconds + cost->backward.seconds - tp_s), 1e-9);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_messages_match, enter, leave),
        cmocka_unit_test_setup_teardown(test_collectives_match, enter, leave),
        cmocka_unit_test_setup_teardown(test_sequence_parallel_kinds, enter, leave),
        cmocka_unit_test_setup_teardown(test_compute_seconds, enter, leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
