/* Replicas folded into one, as hlm_simulate has them, against a simulation of every rank of the
 * world on its own (tests/support/world.h): every action of every rank, to 1e-12 of the step. */
#include "planner/plan.h"
#include "tests/support/check.h"
#include "tests/support/world.h"

/* model NULL: gpt2-small, on as many V100 as it has ranks, eight a node. */
struct folding {
    const char *name, *model, *cluster;
    enum hlm_schedule_kind schedule;
    int32_t dp, tp, pp, cp, vpp, ep, zero;
    enum hlm_lowering lowering;
    bool both_sides;
};

static const struct folding foldings[] = {
    {.name = "gpipe", .schedule = HLM_SCHEDULE_GPIPE, .dp = 2, .tp = 2, .pp = 4},
    {.name = "1f1b", .schedule = HLM_SCHEDULE_1F1B, .dp = 2, .tp = 2, .pp = 4, .cp = 2, .zero = 1},
    {.name = "1f1b-overlap", .schedule = HLM_SCHEDULE_1F1B_OVERLAP, .dp = 4, .tp = 1, .pp = 4},
    {.name = "interleaved",
     .schedule = HLM_SCHEDULE_INTERLEAVED,
     .dp = 2,
     .tp = 2,
     .pp = 4,
     .vpp = 3},
    {.name = "zb-h1", .schedule = HLM_SCHEDULE_ZB_H1, .dp = 1, .tp = 4, .pp = 4, .cp = 2},
    {.name = "zb-h2", .schedule = HLM_SCHEDULE_ZB_H2, .dp = 2, .tp = 2, .pp = 4, .zero = 1},
    {.name = "zb-v", .schedule = HLM_SCHEDULE_ZB_V, .dp = 2, .tp = 2, .pp = 4, .vpp = 2},
    {.name = "v-half", .schedule = HLM_SCHEDULE_V_HALF, .dp = 2, .tp = 2, .pp = 4, .vpp = 2},
    {.name = "v-min", .schedule = HLM_SCHEDULE_V_MIN, .dp = 2, .tp = 2, .pp = 4, .vpp = 2},
    {.name = "dualpipe-v",
     .schedule = HLM_SCHEDULE_DUALPIPE_V,
     .dp = 2,
     .tp = 2,
     .pp = 4,
     .vpp = 2},
    {.name = "shards, exchanged inside passes",
     .schedule = HLM_SCHEDULE_1F1B,
     .dp = 4,
     .tp = 2,
     .pp = 2,
     .zero = 3},
    {.name = "the same of backwards in halves",
     .schedule = HLM_SCHEDULE_ZB_H1,
     .dp = 4,
     .tp = 2,
     .pp = 2,
     .zero = 2},
    {.name = "experts",
     .model = "mixtral-8x7b",
     .cluster = "h100-sxm:4x8",
     .schedule = HLM_SCHEDULE_1F1B,
     .dp = 8,
     .tp = 1,
     .pp = 4,
     .ep = 4,
     .zero = 1},
    {.name = "another framework",
     .schedule = HLM_SCHEDULE_1F1B,
     .dp = 2,
     .tp = 4,
     .pp = 4,
     .zero = 1,
     .lowering = HLM_LOWERING_MEGATRON},
    {.name = "links that need both sides",
     .schedule = HLM_SCHEDULE_1F1B,
     .dp = 2,
     .tp = 2,
     .pp = 4,
     .both_sides = true},
    {.name = "pairs over such links",
     .schedule = HLM_SCHEDULE_DUALPIPE_V,
     .dp = 2,
     .tp = 2,
     .pp = 4,
     .vpp = 2,
     .both_sides = true},
};

/* The plan of a folding, its layers as even as can be, and what hlm_simulate makes of it. */
static const struct hlm_plan *price(struct hlm_arena *arena, const struct folding *folding,
                                    struct hlm_plan_simulation *out)
{
    struct hlm_err err;
    const struct hlm_model *model = NULL;
    const struct hlm_cluster *loaded = NULL;
    const bool usual = folding->model == NULL;
    check_ok(hlm_model_load(arena, usual ? "gpt2-small" : folding->model, &model, &err), &err);
    check_ok(hlm_cluster_load(arena, usual ? "v100-sxm2-32g:4x8" : folding->cluster, &loaded, &err),
             &err);
    struct hlm_cluster cluster = *loaded;
    struct hlm_device_group group = cluster.groups[0];
    struct hlm_inter_link between = cluster.links[0];
    group.intra_node.needs_both_sides = folding->both_sides;
    between.link.needs_both_sides = folding->both_sides;
    cluster.groups = hlm_arena_memdup(arena, &group, sizeof(group));
    cluster.links = hlm_arena_memdup(arena, &between, sizeof(between));
    struct hlm_strategy strategy = {.dp = folding->dp,
                                    .tp = folding->tp,
                                    .pp = folding->pp,
                                    .cp = folding->cp,
                                    .vpp = folding->vpp,
                                    .ep = folding->ep,
                                    .sp = folding->tp > 1,
                                    .zero = folding->zero,
                                    .schedule = folding->schedule,
                                    .microbatch_size = 1,
                                    .global_batch_size = folding->dp * 8,
                                    .seq_len = 512,
                                    .dtype = hlm_cluster_best_dtype(&cluster),
                                    .lowering = folding->lowering};
    hlm_strategy_complete(&strategy);
    const struct hlm_plan_stage *stages = NULL;
    const struct hlm_plan *plan = NULL;
    int32_t num_stages = 0;
    check_ok(
        hlm_plan_even_stages(arena, model, &cluster, &strategy, -1, &stages, &num_stages, &err),
        &err);
    check_ok(
        hlm_plan_price(arena, model, &cluster, &strategy, stages, num_stages, &plan, NULL, &err),
        &err);
    check_ok(hlm_plan_simulate(arena, plan, out, &err), &err);
    return plan;
}

static void check_rank(const struct hlm_sim_rank *folded, const struct world_rank *rank,
                       double step_s)
{
    const double slack_s = 1e-12 * step_s;
    assert_true(rank->num_actions > 0 && rank->num_actions < folded->num_events);
    for (int32_t k = 0; k < rank->num_actions; k++) {
        check_near(rank->start_s[k], folded->events[k].start_s, slack_s);
        check_near(rank->end_s[k], folded->events[k].end_s, slack_s);
    }
    assert_int_equal(folded->events[folded->num_events - 1].action.kind, HLM_ACTION_OPTIMIZER);
    check_near(rank->reduced_s, folded->events[folded->num_events - 2].end_s, slack_s);
    check_near(rank->step_s, folded->events[folded->num_events - 1].end_s, slack_s);
}

static void check_world(struct hlm_arena *arena, const struct hlm_plan *plan,
                        const struct hlm_plan_simulation *simulation)
{
    const struct hlm_sim_result *folded = &simulation->result;
    const struct world world = world_simulate(arena, plan, simulation, -1, 1.0);
    assert_int_equal(world.num_ranks, plan->num_ranks);
    assert_true(world.num_meetings > 0);
    check_close(world.step_s, folded->step_s, 1e-12);
    for (int32_t r = 0; r < world.num_ranks; r++) {
        const int32_t pp = hlm_layout_coords(&plan->strategy, r).pp;
        check_rank(&folded->ranks[pp], &world.ranks[r], folded->step_s);
    }
    /* It does notice a rank that is not like the others: they wait for it. */
    const struct world slowed = world_simulate(arena, plan, simulation, world.num_ranks - 1, 1.5);
    assert_true(slowed.step_s > 1.05 * folded->step_s);
}

static void every_rank_does_what_its_pipeline_rank_does(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof foldings / sizeof foldings[0]; i++) {
        struct hlm_arena *arena = hlm_arena_new();
        struct hlm_plan_simulation simulation = {0};
        print_message("%s\n", foldings[i].name);
        const struct hlm_plan *plan = price(arena, &foldings[i], &simulation);
        check_world(arena, plan, &simulation);
        hlm_arena_free(arena);
    }
}

/* Over two device groups with another tp on each: a rank has several partners there. */
static void where_tensor_parallelism_differs_too(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_model *model = NULL;
    const struct hlm_cluster *cluster = NULL;
    check_ok(hlm_model_load(arena, "gpt2-medium", &model, &err), &err);
    struct hlm_model untied = *model;
    untied.tied_embeddings = false;
    check_ok(hlm_cluster_load(arena, "a100-sxm-80g:1x8+v100-sxm2-32g:2x8", &cluster, &err), &err);
    struct hlm_strategy strategy = {.dp = 2,
                                    .tp = 4,
                                    .pp = 5,
                                    .sp = true,
                                    .zero = 1,
                                    .schedule = HLM_SCHEDULE_1F1B,
                                    .microbatch_size = 1,
                                    .global_batch_size = 16,
                                    .seq_len = 512,
                                    .dtype = HLM_DTYPE_FP16};
    hlm_strategy_complete(&strategy);
    struct hlm_plan_stage stages[5] = {{0}};
    for (int32_t s = 0; s < 5; s++) {
        const bool fast = s == 0;
        const int32_t num_layers = fast ? 8 : 4;
        stages[s] = (struct hlm_plan_stage){.rank_group = s,
                                            .first_layer = fast ? 0 : 4 + 4 * s,
                                            .num_layers = num_layers,
                                            .device_group = fast ? 0 : 1,
                                            .tp = fast ? 4 : 2,
                                            .recompute = {.none = num_layers}};
    }
    const struct hlm_plan *plan = NULL;
    struct hlm_plan_simulation simulation = {0};
    check_ok(hlm_plan_price(arena, &untied, cluster, &strategy, stages, 5, &plan, NULL, &err),
             &err);
    assert_int_equal(plan->num_ranks, 8 + 16);
    check_ok(hlm_plan_simulate(arena, plan, &simulation, &err), &err);
    check_world(arena, plan, &simulation);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_does_what_its_pipeline_rank_does),
        cmocka_unit_test(where_tensor_parallelism_differs_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
