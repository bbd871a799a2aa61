/* Import of Hugging Face config.json texts. The texts are those of the model hub (the ViT's labels
 * cut to three); what they must give are the parameter counts of the released weights. */
#include "tests/support/check.h"

#include "profiles/model.h"

static const char gpt2_config[] =
    "{\"activation_function\": \"gelu_new\", \"architectures\": [\"GPT2LMHeadModel\"], "
    "\"attn_pdrop\": 0.1, \"bos_token_id\": 50256, \"embd_pdrop\": 0.1, "
    "\"eos_token_id\": 50256, \"initializer_range\": 0.02, \"layer_norm_epsilon\": 1e-05, "
    "\"model_type\": \"gpt2\", \"n_ctx\": 1024, \"n_embd\": 768, \"n_head\": 12, "
    "\"n_layer\": 12, \"n_positions\": 1024, \"resid_pdrop\": 0.1, "
    "\"summary_activation\": null, \"summary_first_dropout\": 0.1, "
    "\"summary_proj_to_labels\": true, \"summary_type\": \"cls_index\", "
    "\"summary_use_proj\": true, "
    "\"task_specific_params\": {\"text-generation\": {\"do_sample\": true, "
    "\"max_length\": 50}}, \"vocab_size\": 50257}";

static const char gpt_neox_config[] =
    "{\"architectures\": [\"GPTNeoXForCausalLM\"], \"attention_probs_dropout_prob\": 0, "
    "\"bos_token_id\": 0, \"eos_token_id\": 0, \"hidden_act\": \"gelu_fast\", "
    "\"hidden_dropout_prob\": 0, \"hidden_size\": 6144, \"initializer_range\": 0.02, "
    "\"intermediate_size\": 24576, \"layer_norm_eps\": 1e-05, "
    "\"max_position_embeddings\": 2048, \"model_type\": \"gpt_neox\", "
    "\"num_attention_heads\": 64, \"num_hidden_layers\": 44, \"rotary_emb_base\": 10000, "
    "\"rotary_pct\": 0.25, \"tie_word_embeddings\": false, \"torch_dtype\": \"float16\", "
    "\"transformers_version\": \"4.19.0.dev0\", \"use_cache\": true, \"vocab_size\": 50432}";

static const char llama_config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"attention_bias\": false, "
    "\"attention_dropout\": 0.0, \"bos_token_id\": 128000, \"eos_token_id\": 128001, "
    "\"hidden_act\": \"silu\", \"hidden_size\": 8192, \"initializer_range\": 0.02, "
    "\"intermediate_size\": 28672, \"max_position_embeddings\": 8192, "
    "\"model_type\": \"llama\", \"num_attention_heads\": 64, \"num_hidden_layers\": 80, "
    "\"num_key_value_heads\": 8, \"pretraining_tp\": 1, \"rms_norm_eps\": 1e-05, "
    "\"rope_scaling\": null, \"rope_theta\": 500000.0, \"tie_word_embeddings\": false, "
    "\"torch_dtype\": \"bfloat16\", \"transformers_version\": \"4.40.0.dev0\", "
    "\"use_cache\": true, \"vocab_size\": 128256}";

static const char mistral_config[] =
    "{\"architectures\": [\"MistralForCausalLM\"], \"bos_token_id\": 1, \"eos_token_id\": 2, "
    "\"hidden_act\": \"silu\", \"hidden_size\": 4096, \"initializer_range\": 0.02, "
    "\"intermediate_size\": 14336, \"max_position_embeddings\": 32768, "
    "\"model_type\": \"mistral\", \"num_attention_heads\": 32, \"num_hidden_layers\": 32, "
    "\"num_key_value_heads\": 8, \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, "
    "\"sliding_window\": 4096, \"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\", "
    "\"transformers_version\": \"4.34.0.dev0\", \"use_cache\": true, \"vocab_size\": 32000}";

static const char mixtral_config[] =
    "{\"architectures\": [\"MixtralForCausalLM\"], \"attention_dropout\": 0.0, "
    "\"bos_token_id\": 1, \"eos_token_id\": 2, \"hidden_act\": \"silu\", "
    "\"hidden_size\": 4096, \"initializer_range\": 0.02, \"intermediate_size\": 14336, "
    "\"max_position_embeddings\": 32768, \"model_type\": \"mixtral\", "
    "\"num_attention_heads\": 32, \"num_experts_per_tok\": 2, \"num_hidden_layers\": 32, "
    "\"num_key_value_heads\": 8, \"num_local_experts\": 8, \"output_router_logits\": false, "
    "\"rms_norm_eps\": 1e-05, \"rope_theta\": 1000000.0, \"router_aux_loss_coef\": 0.02, "
    "\"sliding_window\": null, \"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\", "
    "\"transformers_version\": \"4.36.0.dev0\", \"use_cache\": true, \"vocab_size\": 32000}";

static const char qwen2_config[] =
    "{\"architectures\": [\"Qwen2ForCausalLM\"], \"attention_dropout\": 0.0, "
    "\"bos_token_id\": 151643, \"eos_token_id\": 151643, \"hidden_act\": \"silu\", "
    "\"hidden_size\": 3584, \"initializer_range\": 0.02, \"intermediate_size\": 18944, "
    "\"max_position_embeddings\": 131072, \"max_window_layers\": 28, "
    "\"model_type\": \"qwen2\", \"num_attention_heads\": 28, \"num_hidden_layers\": 28, "
    "\"num_key_value_heads\": 4, \"rms_norm_eps\": 1e-06, \"rope_theta\": 1000000.0, "
    "\"sliding_window\": 131072, \"tie_word_embeddings\": false, "
    "\"torch_dtype\": \"bfloat16\", \"transformers_version\": \"4.40.1\", \"use_cache\": true, "
    "\"use_mrope\": false, \"use_sliding_window\": false, \"vocab_size\": 152064}";

static const char qwen3_config[] =
    "{\"architectures\": [\"Qwen3ForCausalLM\"], \"attention_bias\": false, "
    "\"attention_dropout\": 0.0, \"bos_token_id\": 151643, \"eos_token_id\": 151645, "
    "\"head_dim\": 128, \"hidden_act\": \"silu\", \"hidden_size\": 1024, "
    "\"initializer_range\": 0.02, \"intermediate_size\": 3072, "
    "\"max_position_embeddings\": 40960, \"max_window_layers\": 28, \"model_type\": \"qwen3\", "
    "\"num_attention_heads\": 16, \"num_hidden_layers\": 28, \"num_key_value_heads\": 8, "
    "\"rms_norm_eps\": 1e-06, \"rope_scaling\": null, \"rope_theta\": 1000000, "
    "\"sliding_window\": null, \"tie_word_embeddings\": true, \"torch_dtype\": \"bfloat16\", "
    "\"transformers_version\": \"4.51.0\", \"use_cache\": true, \"use_sliding_window\": false, "
    "\"vocab_size\": 151936}";

static const char qwen3_moe_config[] =
    "{\"architectures\": [\"Qwen3MoeForCausalLM\"], \"attention_bias\": false, "
    "\"attention_dropout\": 0.0, \"bos_token_id\": 151643, \"decoder_sparse_step\": 1, "
    "\"eos_token_id\": 151645, \"head_dim\": 128, \"hidden_act\": \"silu\", "
    "\"hidden_size\": 2048, \"initializer_range\": 0.02, \"intermediate_size\": 6144, "
    "\"max_position_embeddings\": 40960, \"max_window_layers\": 48, \"mlp_only_layers\": [], "
    "\"model_type\": \"qwen3_moe\", \"moe_intermediate_size\": 768, \"norm_topk_prob\": true, "
    "\"num_attention_heads\": 32, \"num_experts\": 128, \"num_experts_per_tok\": 8, "
    "\"num_hidden_layers\": 48, \"num_key_value_heads\": 4, \"output_router_logits\": false, "
    "\"rms_norm_eps\": 1e-06, \"rope_scaling\": null, \"rope_theta\": 1000000.0, "
    "\"router_aux_loss_coef\": 0.001, \"sliding_window\": null, "
    "\"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\", "
    "\"transformers_version\": \"4.51.0\", \"use_cache\": true, \"use_sliding_window\": false, "
    "\"vocab_size\": 151936}";

static const char deepseek_v3_config[] =
    "{\"architectures\": [\"DeepseekV3ForCausalLM\"], \"attention_bias\": false, "
    "\"attention_dropout\": 0.0, \"aux_loss_alpha\": 0.001, \"bos_token_id\": 0, "
    "\"eos_token_id\": 1, \"ep_size\": 1, \"first_k_dense_replace\": 3, "
    "\"hidden_act\": \"silu\", \"hidden_size\": 7168, \"initializer_range\": 0.02, "
    "\"intermediate_size\": 18432, \"kv_lora_rank\": 512, \"max_position_embeddings\": 163840, "
    "\"model_type\": \"deepseek_v3\", \"moe_intermediate_size\": 2048, \"moe_layer_freq\": 1, "
    "\"n_group\": 8, \"n_routed_experts\": 256, \"n_shared_experts\": 1, "
    "\"norm_topk_prob\": true, \"num_attention_heads\": 128, \"num_experts_per_tok\": 8, "
    "\"num_hidden_layers\": 61, \"num_key_value_heads\": 128, \"num_nextn_predict_layers\": 1, "
    "\"pretraining_tp\": 1, \"q_lora_rank\": 1536, \"qk_nope_head_dim\": 128, "
    "\"qk_rope_head_dim\": 64, \"quantization_config\": {\"activation_scheme\": \"dynamic\", "
    "\"fmt\": \"e4m3\", \"quant_method\": \"fp8\", \"weight_block_size\": [128, 128]}, "
    "\"rms_norm_eps\": 1e-06, \"rope_scaling\": {\"beta_fast\": 32, \"beta_slow\": 1, "
    "\"factor\": 40, \"mscale\": 1.0, \"mscale_all_dim\": 1.0, "
    "\"original_max_position_embeddings\": 4096, \"type\": \"yarn\"}, \"rope_theta\": 10000, "
    "\"routed_scaling_factor\": 2.5, \"scoring_func\": \"sigmoid\", \"seq_aux\": true, "
    "\"tie_word_embeddings\": false, \"topk_group\": 4, \"topk_method\": \"noaux_tc\", "
    "\"torch_dtype\": \"bfloat16\", \"transformers_version\": \"4.33.1\", \"use_cache\": true, "
    "\"v_head_dim\": 128, \"vocab_size\": 129280}";

static const char bert_config[] =
    "{\"architectures\": [\"BertForMaskedLM\"], \"attention_probs_dropout_prob\": 0.1, "
    "\"gradient_checkpointing\": false, \"hidden_act\": \"gelu\", "
    "\"hidden_dropout_prob\": 0.1, \"hidden_size\": 768, \"initializer_range\": 0.02, "
    "\"intermediate_size\": 3072, \"layer_norm_eps\": 1e-12, \"max_position_embeddings\": 512, "
    "\"model_type\": \"bert\", \"num_attention_heads\": 12, \"num_hidden_layers\": 12, "
    "\"pad_token_id\": 0, \"position_embedding_type\": \"absolute\", "
    "\"transformers_version\": \"4.6.0.dev0\", \"type_vocab_size\": 2, \"use_cache\": true, "
    "\"vocab_size\": 30522}";

static const char vit_config[] =
    "{\"architectures\": [\"ViTForImageClassification\"], "
    "\"attention_probs_dropout_prob\": 0.0, \"encoder_stride\": 16, \"hidden_act\": \"gelu\", "
    "\"hidden_dropout_prob\": 0.0, \"hidden_size\": 768, \"id2label\": {\"0\": \"tench\", "
    "\"1\": \"goldfish\", \"2\": \"great white shark\"}, \"image_size\": 224, "
    "\"initializer_range\": 0.02, \"intermediate_size\": 3072, \"label2id\": {\"tench\": 0, "
    "\"goldfish\": 1, \"great white shark\": 2}, \"layer_norm_eps\": 1e-12, "
    "\"model_type\": \"vit\", \"num_attention_heads\": 12, \"num_channels\": 3, "
    "\"num_hidden_layers\": 12, \"patch_size\": 16, \"qkv_bias\": true, "
    "\"transformers_version\": \"4.13.0.dev0\"}";

static enum hlm_status import(struct hlm_arena *arena, const char *text,
                              const struct hlm_model **out, struct hlm_err *err)
{
    return hlm_model_import_hf(arena, "hub/some-model/config.json", text, strlen(text), out, err);
}

static const struct hlm_model *must_import(struct hlm_arena *arena, const char *text)
{
    struct hlm_err err;
    const struct hlm_model *model = NULL;
    check_ok(import(arena, text, &model, &err), &err);
    return model;
}

static const struct {
    const char *config;
    double num_params; /* exact */
} released[] = {
    {gpt2_config, 124439808},
    {gpt_neox_config, 20554567680},
    {llama_config, 70553706496},
    {mistral_config, 7241732096},
    {mixtral_config, 46702792704},
    {qwen2_config, 7615616512},
    {qwen3_config, 596049920},
    {qwen3_moe_config, 30532122624},
    {deepseek_v3_config, 671026404352},           /* 58 layers' correction bias of 256 left out */
    {bert_config, 109482240 - (768 * 768 + 768)}, /* pooler left out */
    {vit_config, 86567656 - 997 * (768 + 1)},     /* ViT-B/16 with 1000 classes */
};

static void counts_match_the_released_weights(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t i = 0; i < sizeof released / sizeof released[0]; i++) {
        const struct hlm_model *model = must_import(arena, released[i].config);
        check_near(hlm_model_num_params(model), released[i].num_params, 0);
        assert_string_equal(model->name, "some-model");
    }
    hlm_arena_free(arena);
}

/* An imported model is a model of ours: written and read back it is the same. */
static void imports_round_trip(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    for (size_t i = 0; i < sizeof released / sizeof released[0]; i++) {
        const struct hlm_model *model = must_import(arena, released[i].config);
        const char *text = hlm_json_write(arena, &hlm_model_table, model, false);
        struct hlm_model again;
        check_ok(
            hlm_json_read_text(arena, "again", text, strlen(text), &hlm_model_table, &again, &err),
            &err);
        assert_string_equal(hlm_json_write(arena, &hlm_model_table, &again, false), text);
    }
    hlm_arena_free(arena);
}

/* Built-in and imported model differ in the length they are for, the name, and nothing else. */
static void imports_equal_the_built_in(void **state)
{
    (void)state;
    static const struct {
        const char *name, *config;
    } pairs[] = {
        {"gpt2-small", gpt2_config},    {"llama3-70b", llama_config},
        {"mistral-7b", mistral_config}, {"mixtral-8x7b", mixtral_config},
        {"bert-base", bert_config},     {"deepseek-v3", deepseek_v3_config},
    };
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        const struct hlm_model *builtin = NULL;
        check_ok(hlm_model_load(arena, pairs[i].name, &builtin, &err), &err);
        struct hlm_model imported = *must_import(arena, pairs[i].config);
        imported.name = builtin->name;
        imported.seq_len = builtin->seq_len;
        assert_string_equal(hlm_json_write(arena, &hlm_model_table, &imported, false),
                            hlm_json_write(arena, &hlm_model_table, builtin, false));
    }
    hlm_arena_free(arena);
}

static void shapes_that_counts_dont_show(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_model *neox = must_import(arena, gpt_neox_config);
    assert_int_equal(neox->residual, HLM_RESIDUAL_PARALLEL);
    assert_int_equal(neox->position, HLM_POSITION_ROPE);
    check_near(neox->rotary_frac, 0.25, 0);
    const struct hlm_model *qwen = must_import(arena, qwen2_config);
    assert_true(qwen->bias.qkv && !qwen->bias.out && !qwen->bias.mlp);
    assert_int_equal(qwen->attention_window, 0);
    check_near(qwen->rope_theta, 1e6, 0);
    const struct hlm_model *vit = must_import(arena, vit_config);
    assert_int_equal(vit->seq_len, 197);
    assert_int_equal(vit->vit.num_classes, 3);
    assert_int_equal(must_import(arena, mistral_config)->attention_window, 4096);
    assert_int_equal(must_import(arena, deepseek_v3_config)->seq_len, 163840);
    assert_int_equal(must_import(arena, deepseek_v3_config)->head_dim, 192);
    hlm_arena_free(arena);
}

/* With the type alone, the model is the configuration class's default. */
static void missing_keys_take_the_class_default(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    check_near(hlm_model_num_params(must_import(arena, "{\"model_type\": \"gpt2\"}")), 124439808,
               0);
    check_near(hlm_model_num_params(must_import(arena, "{\"model_type\": \"llama\"}")), 6738415616,
               0);
    check_near(hlm_model_num_params(must_import(arena, "{\"model_type\": \"gpt_neox\"}")),
               20554567680, 0);
    check_near(hlm_model_num_params(must_import(arena, "{\"model_type\": \"mixtral\"}")),
               46702792704, 0);
    const struct hlm_model *deepseek = must_import(arena, "{\"model_type\": \"deepseek_v3\"}");
    check_near(hlm_model_num_params(deepseek), 671026404352, 0);
    assert_int_equal(deepseek->mtp_layers, 0);
    assert_int_equal(must_import(arena, "{\"model_type\": \"vit\"}")->vit.num_classes, 2);
    static const char *const others[] = {"mistral", "qwen2", "qwen3", "qwen3_moe", "bert"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        const struct hlm_model *model =
            must_import(arena, hlm_arena_printf(arena, "{\"model_type\": \"%s\"}", others[i]));
        assert_true(hlm_model_num_params(model) > 1e8);
    }
    hlm_arena_free(arena);
}

/* null is not the same as absent: it asks for none, or for the derived value. */
static void null_means_none_or_derived(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    assert_int_equal(must_import(arena, "{\"model_type\": \"mistral\"}")->attention_window, 4096);
    const struct hlm_model *mistral = must_import(
        arena, "{\"model_type\": \"mistral\", \"sliding_window\": null, \"head_dim\": null, "
               "\"num_key_value_heads\": null}");
    assert_int_equal(mistral->attention_window, 0);
    assert_int_equal(mistral->num_kv_heads, 32);
    assert_int_equal(mistral->head_dim, 128);
    const struct hlm_model *gpt2 =
        must_import(arena, "{\"model_type\": \"gpt2\", \"n_embd\": 96, \"n_inner\": null}");
    assert_int_equal(gpt2->ffn_size, 384);
    hlm_arena_free(arena);
}

static void younger_files_nest_the_rope(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_model *llama =
        must_import(arena, "{\"model_type\": \"llama\", \"rope_parameters\": {\"rope_theta\": 5e5, "
                           "\"rope_type\": \"default\"}}");
    check_near(llama->rope_theta, 5e5, 0);
    const struct hlm_model *neox =
        must_import(arena, "{\"model_type\": \"gpt_neox\", \"rope_parameters\": "
                           "{\"rope_theta\": 2e4, \"partial_rotary_factor\": 0.5}}");
    check_near(neox->rope_theta, 2e4, 0);
    check_near(neox->rotary_frac, 0.5, 0);
    hlm_arena_free(arena);
}

static void sparse_steps_become_periods(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_model *model =
        must_import(arena, "{\"model_type\": \"qwen3_moe\", \"decoder_sparse_step\": 3}");
    for (int32_t layer = 0; layer < model->num_layers; layer++) {
        assert_int_equal(hlm_model_is_moe_layer(model, layer), (layer + 1) % 3 == 0);
    }
    hlm_arena_free(arena);
}

static const struct {
    const char *fields, *message;
} wrong[] = {
    {"\"model_type\": \"t5\"", "$.model_type: expected one of gpt2, gpt_neox, llama, mistral, "
                               "mixtral, qwen2, qwen3, qwen3_moe, deepseek_v3, bert, vit, found "
                               "\"t5\""},
    {"\"hidden_size\": 8", "\"model_type\""},
    {"\"model_type\": 4", "$.model_type"},
    {"\"model_type\": \"llama\", \"hidden_act\": \"gelu\"",
     "$.hidden_act: expected one of silu, swish, found \"gelu\""},
    {"\"model_type\": \"gpt2\", \"activation_function\": \"relu\"", "$.activation_function"},
    {"\"model_type\": \"llama\", \"hidden_size\": \"big\"", "$.hidden_size"},
    {"\"model_type\": \"llama\", \"hidden_size\": 12.5", "$.hidden_size"},
    {"\"model_type\": \"llama\", \"hidden_size\": null", "hidden_size"},
    {"\"model_type\": \"llama\", \"num_hidden_layers\": -2", "$.num_hidden_layers"},
    {"\"model_type\": \"llama\", \"num_hidden_layers\": 1e300", "$.num_hidden_layers"},
    {"\"model_type\": \"llama\", \"rms_norm_eps\": -1", "$.rms_norm_eps"},
    {"\"model_type\": \"llama\", \"num_key_value_heads\": 5", "$.num_kv_heads"},
    {"\"model_type\": \"llama\", \"rope_parameters\": 5", "$.rope_parameters: expected an object"},
    {"\"model_type\": \"llama\", \"rope_parameters\": {\"rope_theta\": \"x\"}",
     "$.rope_parameters.rope_theta"},
    {"\"model_type\": \"qwen2\", \"use_sliding_window\": true",
     "$.use_sliding_window: expected false"},
    {"\"model_type\": \"qwen3_moe\", \"mlp_only_layers\": [0, 1]", "$.mlp_only_layers"},
    {"\"model_type\": \"qwen3_moe\", \"decoder_sparse_step\": null", "$.decoder_sparse_step"},
    {"\"model_type\": \"deepseek_v3\", \"moe_layer_freq\": 2", "$.moe_layer_freq: expected 1"},
    {"\"model_type\": \"deepseek_v3\", \"n_shared_experts\": 16777216", "$.n_shared_experts"},
    {"\"model_type\": \"bert\", \"position_embedding_type\": \"relative_key\"",
     "$.position_embedding_type"},
    {"\"model_type\": \"bert\", \"is_decoder\": true", "$.is_decoder"},
    {"\"model_type\": \"vit\", \"id2label\": 3", "$.id2label"},
    {"\"model_type\": \"vit\", \"patch_size\": 15", "patch_size"},
    {"\"model_type\": \"gpt2\", \"n_head\": 12, \"n_head\": 12", "n_head"},
};

static void wrong_values_are_named(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_model *model = NULL;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        const char *text = hlm_arena_printf(arena, "{%s}", wrong[i].fields);
        check_fails(import(arena, text, &model, &err), HLM_INPUT, &err, wrong[i].message);
        assert_non_null(strstr(err.text, "hub/some-model/config.json"));
        assert_null(model);
    }
    hlm_arena_free(arena);
}

static void names_come_from_the_path(void **state)
{
    (void)state;
    static const struct {
        const char *path, *name;
    } cases[] = {
        {"hub/Llama-2-7b-hf/config.json", "Llama-2-7b-hf"},
        {"/config.json", "gpt2"},
        {"config.json", "gpt2"},
        {"./config.json", "gpt2"},
        {"-", "gpt2"},
        {"a/b.c/my-model.json", "my-model"},
        {"plain", "plain"},
    };
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct hlm_model *model = NULL;
        check_ok(hlm_model_import_hf(arena, cases[i].path, gpt2_config, strlen(gpt2_config), &model,
                                     &err),
                 &err);
        assert_string_equal(model->name, cases[i].name);
    }
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_match_the_released_weights),
        cmocka_unit_test(imports_round_trip),
        cmocka_unit_test(imports_equal_the_built_in),
        cmocka_unit_test(shapes_that_counts_dont_show),
        cmocka_unit_test(missing_keys_take_the_class_default),
        cmocka_unit_test(null_means_none_or_derived),
        cmocka_unit_test(younger_files_nest_the_rope),
        cmocka_unit_test(sparse_steps_become_periods),
        cmocka_unit_test(wrong_values_are_named),
        cmocka_unit_test(names_come_from_the_path),
    };
    return cmocka_run_group_tests_name("model_hf", tests, NULL, NULL);
}
