#include <stdlib.h>

#include "tests/support/blocks.h"

static struct hlm_strategy legal(const struct hlm_model *model)
{
    struct hlm_strategy strategy = {
        .dp = 2,
        .tp = 2,
        .pp = 3,
        .microbatch_size = 2,
        .global_batch_size = 16,
        .seq_len = model->seq_len,
        .dtype = HLM_DTYPE_BF16,
    };
    hlm_strategy_complete(&strategy);
    return strategy;
}

static void completes_from_zeros(void **state)
{
    (void)state;
    const struct hlm_model model = tiny_model(TINY_GPT);
    struct hlm_strategy strategy = legal(&model);
    assert_int_equal(strategy.cp, 1);
    assert_int_equal(strategy.ep, 1);
    assert_int_equal(strategy.etp, 2);
    assert_int_equal(strategy.vpp, 1);
    assert_int_equal(strategy.zero_group, 1);
    assert_int_equal(strategy.num_microbatches, 4);
    assert_int_equal(strategy.grad_dtype, HLM_DTYPE_FP32);
    assert_int_equal(strategy.master_dtype, HLM_DTYPE_FP32);
    assert_int_equal(hlm_strategy_world_size(&strategy), 12);
    strategy = (struct hlm_strategy){.dp = 4, .tp = 2, .pp = 1, .ep = 8, .zero = 1};
    hlm_strategy_complete(&strategy);
    assert_int_equal(strategy.etp, 1); /* ep needs the tp ranks too */
    assert_int_equal(strategy.zero_group, 4);
}

/* One field of a legal strategy (or model) changed, and what the message must say. */
struct mistake {
    enum tiny_kind kind;
    const char *key, *value;
    const char *message;
};

static void names_the_rule_that_fails(void **state)
{
    (void)state;
    static const struct mistake mistakes[] = {
        {TINY_GPT, "tp", "5", "tp = 5 does not divide num_heads = 12; nearest: 4, 6"},
        {TINY_GPT, "num_microbatches", "3",
         "dp * microbatch_size * num_microbatches = 2 * 2 * 3 = 12 is not global_batch_size = 16"},
        {TINY_GPT, "microbatch_size", "1073741824",
         "microbatch_size * seq_len = 17179869184 exceeds 4294967296"},
        {TINY_GPT, "num_microbatches", "2000000",
         "pp * num_microbatches = 6000000 exceeds 4194304"},
        {TINY_GPT, "seq_len", "17", "seq_len = 17 exceeds the 16 learned positions"},
        {TINY_VIT, "seq_len", "9", "seq_len = 9 is not the 10 patches and class token"},
        {TINY_GPT, "pp", "6", "pp = 6 exceeds the 5 blocks"},
        {TINY_GPT, "vpp", "2", "one model chunk per rank, found vpp = 2"},
        {TINY_GPT, "schedule", "zb-v", "zb-v has two model chunks per rank, found vpp = 1"},
        {TINY_GPT, "schedule", "interleaved", "two model chunks or more per rank, found vpp = 1"},
        {TINY_GPT, "ep", "2", "ep = 2 needs a model with experts"},
        {TINY_GPT, "zero_group", "2", "zero_group = 2 needs zero of at least 1"},
        {TINY_GPT, "cp", "3", "cp = 3 does not divide seq_len = 16; nearest: 2, 4"},
        {TINY_LLAMA, "tp", "4", "tp = 4 does not divide num_kv_heads = 6; nearest: 3, 6"},
        {TINY_QWEN, "ep", "3", "ep = 3 does not divide moe.num_experts = 8; nearest: 2, 4"},
        {TINY_QWEN, "tp", "2", "experts with tp = 2 need sp"},
        {TINY_GPT, "offload_layers", "1",
         "needs as many layers (tiny has 3) and an offload of their inputs or activations"},
    };
    for (size_t i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++) {
        const struct hlm_model model = tiny_model(mistakes[i].kind);
        struct hlm_strategy strategy = legal(&model);
        struct hlm_err err;
        check_ok(hlm_strategy_set(&strategy, mistakes[i].key, mistakes[i].value, &err), &err);
        check_fails(hlm_strategy_check(&strategy, &model, &err), HLM_NO, &err, mistakes[i].message);
    }
}

static void legal_strategies_pass(void **state)
{
    (void)state;
    struct hlm_err err;
    const struct hlm_model gpt = tiny_model(TINY_GPT);
    struct hlm_strategy strategy = legal(&gpt);
    check_ok(hlm_strategy_check(&strategy, &gpt, &err), &err);
    strategy.sp = true;
    check_ok(hlm_strategy_check(&strategy, &gpt, &err), &err);
    strategy.tp = 3; /* 12 heads, 48 columns: no power of two needed */
    strategy.sp = false;
    check_ok(hlm_strategy_check(&strategy, &gpt, &err), &err);
    const struct hlm_model llama = tiny_model(TINY_LLAMA);
    strategy = legal(&llama);
    strategy.tp = 12; /* more ranks than key heads: each on two ranks, priced only */
    check_ok(hlm_strategy_check(&strategy, &llama, &err), &err);
    assert_non_null(strstr(hlm_lowering_refusal(&llama, &strategy), "copied over tp"));
}

static void sp_needs_rows_for_every_rank(void **state)
{
    (void)state;
    const struct hlm_model model = tiny_model(TINY_VIT);
    struct hlm_strategy strategy = legal(&model);
    struct hlm_err err;
    strategy.sp = true;
    strategy.tp = 3; /* 20 rows */
    check_fails(hlm_strategy_check(&strategy, &model, &err), HLM_NO, &err,
                "tp = 3 does not divide microbatch_size * seq_len (with sp) = 20; nearest: 2, 4");
    strategy.tp = 1;
    check_fails(hlm_strategy_check(&strategy, &model, &err), HLM_NO, &err, "sp needs tp > 1");
}

/* Neighbours, and where chunks go round, the last and the first. */
static void tp_of_neighbours_divides(void **state)
{
    (void)state;
    struct hlm_model model = tiny_model(TINY_LLAMA);
    struct hlm_strategy strategy = legal(&model);
    struct hlm_err err;
    model.num_layers = 6;
    strategy.pp = 3;
    strategy.tp = 6;
    strategy.places = (const struct hlm_rank_place[]){{2, 0, 0}, {6, 4, 4}, {3, 16, 16}};
    check_ok(hlm_strategy_check(&strategy, &model, &err), &err);
    strategy.schedule = HLM_SCHEDULE_INTERLEAVED;
    strategy.vpp = 2;
    check_fails(hlm_strategy_check(&strategy, &model, &err), HLM_NO, &err,
                "tp = 3 of stage 2 and tp = 2 of stage 0: one must divide the other");
    strategy.schedule = HLM_SCHEDULE_ZB_V;
    check_ok(hlm_strategy_check(&strategy, &model, &err), &err);
    strategy.places = (const struct hlm_rank_place[]){{2, 0, 0}, {3, 4, 4}, {6, 16, 16}};
    check_fails(hlm_strategy_check(&strategy, &model, &err), HLM_NO, &err,
                "tp = 2 of stage 0 and tp = 3 of stage 1: one must divide the other");
}

/* Where some rank has more than one tensor parallel rank. */
static void sp_is_legal_beside_one_rank(void **state)
{
    (void)state;
    const struct hlm_model model = tiny_model(TINY_LLAMA);
    struct hlm_strategy strategy = legal(&model);
    struct hlm_err err;
    strategy.pp = 2;
    strategy.tp = 2;
    strategy.sp = true;
    strategy.places = (const struct hlm_rank_place[]){{2, 0, 0}, {1, 4, 4}};
    struct hlm_strategy at = hlm_strategy_at(&strategy, 1);
    assert_int_equal(at.tp, 1);
    check_ok(hlm_strategy_check(&at, &model, &err), &err);
    strategy.places = (const struct hlm_rank_place[]){{1, 0, 0}, {1, 4, 4}};
    at = hlm_strategy_at(&strategy, 1);
    check_fails(hlm_strategy_check(&at, &model, &err), HLM_NO, &err, "sp needs tp > 1");
}

static void sets_fields_by_name(void **state)
{
    (void)state;
    struct hlm_strategy strategy = {0};
    struct hlm_err err;
    check_ok(hlm_strategy_set(&strategy, "tp", "8", &err), &err);
    check_ok(hlm_strategy_set(&strategy, "sp", "true", &err), &err);
    check_ok(hlm_strategy_set(&strategy, "global_batch_size", "1536", &err), &err);
    check_ok(hlm_strategy_set(&strategy, "schedule", "gpipe", &err), &err);
    check_ok(hlm_strategy_set(&strategy, "dtype", "bf16", &err), &err);
    check_ok(hlm_strategy_set(&strategy, "lowering", "megatron", &err), &err);
    assert_int_equal(strategy.tp, 8);
    assert_true(strategy.sp);
    assert_int_equal(strategy.global_batch_size, 1536);
    assert_int_equal(strategy.schedule, HLM_SCHEDULE_GPIPE);
    assert_int_equal(strategy.dtype, HLM_DTYPE_BF16);
    assert_int_equal(strategy.lowering, HLM_LOWERING_MEGATRON);
}

static void refuses_values_that_do_not_parse(void **state)
{
    (void)state;
    static const char *const bad[][3] = {
        {"tp", "8x", "tp=8x: expected a whole number"},
        {"tp", "", "expected a whole number"},
        {"tp", "0", "expected a whole number in [1, 1048576]"},
        {"tp", "99999999999999999999", "expected a whole number"},
        {"sp", "maybe", "expected one of false, true"},
        {"schedule", "1f1c", "expected one of gpipe, 1f1b"},
        {"offload", "half", "expected one of none, optimizer, inputs, activations"},
        {"recompute", "full", "unknown strategy field \"recompute\""},
        {"microbatchsize", "1", "did you mean \"microbatch_size\"?"},
    };
    struct hlm_strategy strategy = {.tp = 4};
    struct hlm_err err;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        check_fails(hlm_strategy_set(&strategy, bad[i][0], bad[i][1], &err), HLM_USAGE, &err,
                    bad[i][2]);
        assert_int_equal(strategy.tp, 4);
    }
}

static void survives_a_round_trip_through_json(void **state)
{
    (void)state;
    const struct hlm_model model = tiny_model(TINY_GPT);
    struct hlm_strategy strategy = legal(&model), again;
    strategy.sp = true;
    strategy.zero = 1;
    strategy.zero_group = 2;
    strategy.lowering = HLM_LOWERING_MEGATRON;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const char *text = hlm_json_write(arena, &hlm_strategy_table, &strategy, false);
    check_ok(hlm_json_read_text(arena, "strategy", text, strlen(text), &hlm_strategy_table, &again,
                                &err),
             &err);
    assert_string_equal(hlm_json_write(arena, &hlm_strategy_table, &again, false), text);
    assert_int_equal(again.sp, true);
    assert_int_equal(again.lowering, HLM_LOWERING_MEGATRON);
    assert_int_equal(again.num_microbatches, 4);
    hlm_arena_free(arena);
}

static void offload_is_left_out_where_there_is_none(void **state)
{
    (void)state;
    const struct hlm_model model = tiny_model(TINY_GPT);
    struct hlm_strategy strategy = legal(&model), again;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const char *text = hlm_json_write(arena, &hlm_strategy_table, &strategy, false);
    assert_null(strstr(text, "offload"));
    check_ok(hlm_strategy_set(&strategy, "offload", "optimizer+inputs", &err), &err);
    text = hlm_json_write(arena, &hlm_strategy_table, &strategy, false);
    check_ok(hlm_json_read_text(arena, "strategy", text, strlen(text), &hlm_strategy_table, &again,
                                &err),
             &err);
    assert_int_equal(again.offload, HLM_OFFLOAD_OPTIMIZER_INPUTS);
    hlm_arena_free(arena);
}

/* I and W both read what a layer keeps; states are not read by either. */
static void activations_stay_where_the_backward_is_split(void **state)
{
    (void)state;
    const struct hlm_model model = tiny_model(TINY_GPT);
    struct hlm_err err;
    for (int offload = 0; offload < HLM_NUM_OFFLOADS; offload++) {
        struct hlm_strategy strategy = legal(&model);
        strategy.schedule = HLM_SCHEDULE_ZB_H1;
        strategy.offload = (enum hlm_offload)offload;
        if (hlm_offload_parts(strategy.offload).inputs) {
            check_fails(hlm_strategy_check(&strategy, &model, &err), HLM_NO, &err,
                        "needs a backward that is not split, found zb-h1");
            strategy.schedule = HLM_SCHEDULE_1F1B;
            strategy.offload_layers = model.num_layers;
        }
        check_ok(hlm_strategy_check(&strategy, &model, &err), &err);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(completes_from_zeros),
        cmocka_unit_test(names_the_rule_that_fails),
        cmocka_unit_test(legal_strategies_pass),
        cmocka_unit_test(sp_needs_rows_for_every_rank),
        cmocka_unit_test(tp_of_neighbours_divides),
        cmocka_unit_test(sp_is_legal_beside_one_rank),
        cmocka_unit_test(sets_fields_by_name),
        cmocka_unit_test(refuses_values_that_do_not_parse),
        cmocka_unit_test(survives_a_round_trip_through_json),
        cmocka_unit_test(offload_is_left_out_where_there_is_none),
        cmocka_unit_test(activations_stay_where_the_backward_is_split),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
