/* Reading a plan: what the table of fields can't check. */
#include "planner/plan.h"

#include "tests/support/check.h"
#include "tests/support/golden.h"

static const struct hlm_plan *make_plan(struct hlm_arena *arena, struct golden_layout layout)
{
    const struct golden *golden = golden_read(arena, "gpt2");
    const struct hlm_plan *plan =
        golden_plan(arena, &golden->model, golden->global_batch_size, golden->seq_len, &layout);
    assert_non_null(plan);
    return plan;
}

static enum hlm_status read_again(struct hlm_arena *arena, const struct hlm_plan *plan,
                                  const struct hlm_plan **out, struct hlm_err *err)
{
    const char *text = hlm_json_write(arena, &hlm_plan_table, plan, false);
    return hlm_plan_read_text(arena, "plan.json", text, strlen(text), out, err);
}

/* Stages go round the pipeline ranks or, in the schedules in the shape of a V, down and up. */
static void test_rank_groups(void **state)
{
    (void)state;
    static const struct {
        struct golden_layout layout;
        int32_t rank_groups[4];
    } cases[] = {
        {{.pp = 4, .schedule = HLM_SCHEDULE_ZB_H1}, {0, 1, 2, 3}},
        {{.pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_INTERLEAVED}, {0, 1, 0, 1}},
        {{.pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_ZB_V}, {0, 1, 1, 0}},
        {{.pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_DUALPIPE_V}, {0, 1, 1, 0}},
    };
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct hlm_err err;
        const struct hlm_plan *read = NULL;
        struct hlm_plan plan = *make_plan(arena, cases[i].layout);
        check_ok(read_again(arena, &plan, &read, &err), &err);
        for (int32_t s = 0; s < 4; s++) {
            assert_int_equal(read->stages[s].rank_group, cases[i].rank_groups[s]);
        }
        struct hlm_plan_stage stages[4];
        memcpy(stages, plan.stages, sizeof stages);
        stages[2].rank_group = 1 - cases[i].rank_groups[2] % 2;
        plan.stages = stages;
        check_fails(read_again(arena, &plan, &read, &err), HLM_INPUT, &err,
                    hlm_arena_printf(arena, "$.stages[2].rank_group: expected %d, found %d",
                                     cases[i].rank_groups[2], stages[2].rank_group));
    }
    hlm_arena_free(arena);
}

/* Each pipeline rank must be legal as its own ranks see it. */
static void test_tp_of_stages(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_model model = golden_read(arena, "gpt2")->model;
    struct hlm_err err;
    const struct hlm_plan *read = NULL;
    model.tied_embeddings = false;
    model.num_layers = 3;
    model.hidden_size = model.ffn_size = 24;
    model.num_heads = model.num_kv_heads = 6;
    model.head_dim = 4;
    const struct golden_layout layout = {.tp = 6, .pp = 3, .tp_at = {6, 2, 6}};
    struct hlm_plan plan = *golden_plan(arena, &model, 4, 12, &layout);
    check_ok(read_again(arena, &plan, &read, &err), &err);
    assert_int_equal(read->num_ranks, 14);
    assert_int_equal(read->strategy.places[2].first_rank, 8);
    struct hlm_plan_stage stages[3];
    memcpy(stages, plan.stages, sizeof stages);
    stages[2].tp = 4;
    plan.stages = stages;
    check_fails(read_again(arena, &plan, &read, &err), HLM_INPUT, &err,
                "tp = 4 does not divide num_heads = 6");
    hlm_arena_free(arena);
}

/* By its device, counted group by group, not by its number. */
static void test_rank_device(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_plan plan = *make_plan(arena, (struct golden_layout){.pp = 4});
    struct hlm_device_group groups[2] = {plan.cluster.groups[0], plan.cluster.groups[0]};
    static const int32_t rank_map[] = {3, 0, 2, 1};
    groups[0].num_nodes = 3;
    groups[0].devices_per_node = 1;
    groups[1].num_nodes = 1;
    groups[1].devices_per_node = 1;
    plan.cluster.groups = groups;
    plan.cluster.num_groups = 2;
    plan.rank_map = rank_map;
    assert_ptr_equal(hlm_plan_rank_device(&plan, 0), &groups[1].device);
    for (int32_t rank = 1; rank < 4; rank++) {
        assert_ptr_equal(hlm_plan_rank_device(&plan, rank), &groups[0].device);
    }
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rank_groups),
                                       cmocka_unit_test(test_tp_of_stages),
                                       cmocka_unit_test(test_rank_device)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
