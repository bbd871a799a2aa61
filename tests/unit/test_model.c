/* The field table, what a file may leave out, and the relations between fields. */
#include "tests/support/check.h"

#include "profiles/builtin.h"
#include "profiles/model.h"

static const char shortest[] =
    "\"name\": \"tiny\", \"seq_len\": 128, \"hidden_size\": 64, \"num_layers\": 2, "
    "\"num_heads\": 4, \"vocab_size\": 1000";

/* Reads a model of these fields behind the header, completes and validates it. */
static enum hlm_status load(struct hlm_arena *arena, const char *fields, struct hlm_model *out,
                            struct hlm_err *err)
{
    const char *text =
        hlm_arena_printf(arena, "{\"schema\": \"hlmplan.model\", \"version\": 1, %s}", fields);
    HLM_TRY(hlm_json_read_text(arena, "m.json", text, strlen(text), &hlm_model_table, out, err));
    hlm_model_complete(out);
    return hlm_model_validate(out, "m.json", err);
}

static void six_fields_make_a_gpt(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct hlm_model model;
    check_ok(load(arena, shortest, &model, &err), &err);
    assert_int_equal(model.kind, HLM_MODEL_DECODER);
    assert_int_equal(model.num_kv_heads, 4);
    assert_int_equal(model.head_dim, 16);
    assert_int_equal(model.ffn_size, 256);
    assert_int_equal(model.activation, HLM_ACTIVATION_GELU);
    assert_int_equal(model.norm, HLM_NORM_LAYERNORM);
    assert_int_equal(model.position, HLM_POSITION_LEARNED);
    assert_int_equal(model.vocab_pad_multiple, 128);
    assert_true(model.bias.qkv && model.bias.out && model.bias.mlp && model.tied_embeddings);
    assert_int_equal(model.moe.layer_period, 1);
    hlm_arena_free(arena);
}

static void mla_sets_the_head_dim(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct hlm_model model;
    const char *fields = hlm_arena_printf(
        arena,
        "%s, \"position\": \"rope\", \"mla\": {\"kv_lora_rank\": 32, \"qk_nope_head_dim\": 24, "
        "\"qk_rope_head_dim\": 8, \"v_head_dim\": 16}",
        shortest);
    check_ok(load(arena, fields, &model, &err), &err);
    assert_int_equal(model.head_dim, 32);
    assert_int_equal(model.mla.q_lora_rank, 0);
    hlm_arena_free(arena);
}

static void vit_sets_the_seq_len(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct hlm_model model;
    check_ok(load(arena,
                  "\"name\": \"v\", \"kind\": \"vit\", \"hidden_size\": 64, \"num_layers\": 2, "
                  "\"num_heads\": 4, \"vit\": {\"image_size\": 32, \"patch_size\": 8, "
                  "\"num_classes\": 10, \"num_channels\": 3}",
                  &model, &err),
             &err);
    assert_int_equal(model.seq_len, 17);
    assert_false(model.tied_embeddings);
    assert_false(hlm_model_is_causal(&model));
    hlm_arena_free(arena);
}

/* Fields of which each is wrong beside the others, and what the message names. */
static const struct {
    const char *fields, *message;
} wrong[] = {
    {"\"num_kv_heads\": 3", "$.num_kv_heads: expected a divisor of num_heads 4, found 3"},
    {"\"num_kv_heads\": 8", "$.num_kv_heads"},
    {"\"position\": \"rope\", \"rotary_frac\": 0.01", "$.rotary_frac"},
    {"\"moe\": {\"num_experts\": 4, \"ffn_size\": 8}",
     "$.moe.top_k: expected 1 to num_experts = 4"},
    {"\"moe\": {\"num_experts\": 4, \"top_k\": 5, \"ffn_size\": 8}", "$.moe.top_k"},
    {"\"moe\": {\"num_experts\": 4, \"top_k\": 2}", "$.moe"},
    {"\"moe\": {\"top_k\": 2}", "$.moe.num_experts"},
    {"\"moe\": {\"num_experts\": 4, \"top_k\": 2, \"ffn_size\": 8, \"num_dense_layers\": 2}",
     "$.moe.num_dense_layers"},
    {"\"mla\": {\"v_head_dim\": 8}", "$.mla.kv_lora_rank"},
    {"\"mla\": {\"kv_lora_rank\": 8}", "$.mla"},
    {"\"head_dim\": 8, \"position\": \"rope\", \"mla\": {\"kv_lora_rank\": 8, "
     "\"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 8, \"v_head_dim\": 8}",
     "$.head_dim"},
    {"\"mla\": {\"kv_lora_rank\": 8, \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 8, "
     "\"v_head_dim\": 8}",
     "position rope"},
    {"\"vit\": {\"image_size\": 32}", "$.vit"},
    {"\"kind\": \"vit\"", "$.vit"},
    {"\"kind\": \"vit\", \"vit\": {\"image_size\": 30, \"patch_size\": 8, \"num_classes\": 10, "
     "\"num_channels\": 3}",
     "$.vit.patch_size: expected a divisor of image_size 30"},
    {"\"kind\": \"vit\", \"vit\": {\"image_size\": 32, \"patch_size\": 8, \"num_classes\": 10, "
     "\"num_channels\": 3}",
     "$.seq_len: expected 16 patches and the class token, 17 in all, found 128"},
    {"\"kind\": \"encoder\", \"mtp_layers\": 1", "$.mtp_layers"},
    {"\"moe\": {\"layer_period\": 0}", "$.moe.layer_period"},
    {"\"dropout\": 1.5", "$.dropout"},
    {"\"activation\": \"relu\"", "$.activation"},
    {"\"heads\": 4", "\"heads\""},
};

static void wrong_relations_are_named(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct hlm_model model;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        const char *fields = hlm_arena_printf(arena, "%s, %s", shortest, wrong[i].fields);
        check_fails(load(arena, fields, &model, &err), HLM_INPUT, &err, wrong[i].message);
        assert_non_null(strstr(err.text, "m.json"));
    }
    hlm_arena_free(arena);
}

static void missing_sizes_are_named(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct hlm_model model;
    const char sizes[] = "\"name\": \"x\", \"hidden_size\": 60, \"num_layers\": 1";
    check_fails(load(arena, sizes, &model, &err), HLM_INPUT, &err, "num_heads");
    const char *indivisible =
        hlm_arena_printf(arena, "%s, \"num_heads\": 7, \"vocab_size\": 9, \"seq_len\": 8", sizes);
    check_fails(load(arena, indivisible, &model, &err), HLM_INPUT, &err,
                "hidden_size 60 is not divisible by num_heads 7");
    const char *no_tokens = hlm_arena_printf(arena, "%s, \"num_heads\": 6", sizes);
    check_fails(load(arena, no_tokens, &model, &err), HLM_INPUT, &err, "$.vocab_size");
    const char *no_length =
        hlm_arena_printf(arena, "%s, \"num_heads\": 6, \"vocab_size\": 9", sizes);
    check_fails(load(arena, no_length, &model, &err), HLM_INPUT, &err, "$.seq_len");
    const char too_large[] = "\"name\": \"x\", \"hidden_size\": 1048576, \"num_layers\": 1000, "
                             "\"num_heads\": 64, \"vocab_size\": 9, \"seq_len\": 8";
    check_fails(load(arena, too_large, &model, &err), HLM_INPUT, &err,
                "expected at most 1e+15 parameters, found 1.3");
    hlm_arena_free(arena);
}

static void built_in_files_are_canonical(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_builtin *file = NULL;
    for (int i = 0; (file = hlm_builtin_at("models", i)) != NULL; i++) {
        struct hlm_model model;
        check_ok(hlm_json_read_text(arena, file->name, file->text, file->length, &hlm_model_table,
                                    &model, &err),
                 &err);
        assert_string_equal(model.name, file->name);
        assert_string_equal(hlm_json_write(arena, &hlm_model_table, &model, false), file->text);
        const struct hlm_model as_read = model;
        hlm_model_complete(&model);
        check_ok(hlm_model_validate(&model, file->name, &err), &err);
        assert_int_equal(model.head_dim, as_read.head_dim);
        assert_int_equal(model.num_kv_heads, as_read.num_kv_heads);
    }
    hlm_arena_free(arena);
}

static void expert_layers_follow_the_rule(void **state)
{
    (void)state;
    struct hlm_model model = {.num_layers = 8,
                              .moe = {.num_experts = 4, .num_dense_layers = 1, .layer_period = 3}};
    const bool expected[] = {false, true, false, false, true, false, false, true};
    for (int32_t layer = 0; layer < model.num_layers; layer++) {
        assert_int_equal(hlm_model_is_moe_layer(&model, layer), expected[layer]);
    }
    model.moe.num_experts = 0;
    assert_false(hlm_model_is_moe_layer(&model, 1));
}

static void vocabulary_is_padded_for_tp(void **state)
{
    (void)state;
    struct hlm_model model = {.vocab_size = 50257, .vocab_pad_multiple = 128};
    assert_int_equal(hlm_model_padded_vocab(&model, 1), 50304);
    assert_int_equal(hlm_model_padded_vocab(&model, 8), 51200);
    model.vocab_pad_multiple = 1;
    assert_int_equal(hlm_model_padded_vocab(&model, 1), 50257);
    model.vocab_size = 51200;
    model.vocab_pad_multiple = 128;
    assert_int_equal(hlm_model_padded_vocab(&model, 8), 51200);
    model.vocab_size = 0;
    assert_int_equal(hlm_model_padded_vocab(&model, 8), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(six_fields_make_a_gpt),
        cmocka_unit_test(mla_sets_the_head_dim),
        cmocka_unit_test(vit_sets_the_seq_len),
        cmocka_unit_test(wrong_relations_are_named),
        cmocka_unit_test(missing_sizes_are_named),
        cmocka_unit_test(built_in_files_are_canonical),
        cmocka_unit_test(expert_layers_follow_the_rule),
        cmocka_unit_test(vocabulary_is_padded_for_tp),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
