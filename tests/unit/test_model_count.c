/* Parameters against published counts, FLOPs against published formulas. */
#include "tests/support/check.h"

#include "profiles/model.h"

static const struct hlm_model *builtin(struct hlm_arena *arena, const char *name)
{
    struct hlm_err err;
    const struct hlm_model *model = NULL;
    check_ok(hlm_model_load(arena, name, &model, &err), &err);
    return model;
}

/* tolerance 0: the count of the released weights, exactly; else the figure that the paper prints.
 */
static const struct {
    const char *name;
    double num_params, tolerance;
} published[] = {
    {"gpt2-small", 124439808, 0},       {"gpt2-medium", 354823168, 0},
    {"gpt2-large", 774030080, 0},       {"gpt2-xl", 1557611200, 0},
    {"gpt3-1.3b", 1.3e9, 0.02},         {"gpt3-6.7b", 6.7e9, 0.01},
    {"gpt3-13b", 13.0e9, 0.015},        {"gpt3-175b", 174.6e9, 0.0005},
    {"megatron-22b", 22.0e9, 0.005},    {"megatron-530b", 529.6e9, 0.0005},
    {"megatron-1t", 1.008e12, 0.0005},  {"llama2-7b", 6738415616, 0},
    {"llama2-13b", 13015864320, 0},     {"llama2-70b", 68976648192, 0},
    {"llama3-8b", 8030261248, 0},       {"llama3-70b", 70553706496, 0},
    {"llama3.1-405b", 405853388800, 0}, {"mistral-7b", 7241732096, 0},
    {"mixtral-8x7b", 46702792704, 0},   {"qwen3-235b-a22b", 235093634560, 0},
    {"deepseek-v3", 671e9, 0.0005},     {"vit-l-16", 304326632, 0},
    {"vit-h-14", 632045800, 0},
};

static void parameters_match_the_published(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t i = 0; i < sizeof published / sizeof published[0]; i++) {
        const double actual = hlm_model_num_params(builtin(arena, published[i].name));
        if (fabs(actual - published[i].num_params) >
            published[i].tolerance * published[i].num_params) {
            fail_msg("%s has %.0f parameters, published are %.0f", published[i].name, actual,
                     published[i].num_params);
        }
    }
    hlm_arena_free(arena);
}

/* The released encoder has a pooler of h^2 + h behind it, which ours leaves out. */
static void bert_lacks_only_the_pooler(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    check_near(hlm_model_num_params(builtin(arena, "bert-base")) + 768 * 768 + 768, 109482240, 0);
    check_near(hlm_model_num_params(builtin(arena, "bert-large")) + 1024 * 1024 + 1024, 335141888,
               0);
    hlm_arena_free(arena);
}

static void experts_count_by_what_a_token_meets(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    check_near(hlm_model_num_active_params(builtin(arena, "mixtral-8x7b")), 12879925248, 0);
    check_close(hlm_model_num_active_params(builtin(arena, "deepseek-v3")), 37e9, 0.02);
    check_close(hlm_model_num_active_params(builtin(arena, "qwen3-235b-a22b")), 22e9, 0.01);
    const struct hlm_model *dense = builtin(arena, "llama3-8b");
    check_near(hlm_model_num_active_params(dense), hlm_model_num_params(dense), 0);
    hlm_arena_free(arena);
}

/* Its authors give 11.5 billion for the layer without embedding and head. */
static void prediction_layers_stand_apart(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_model model = *builtin(arena, "deepseek-v3");
    check_close(hlm_model_num_mtp_params(&model), 11.5e9, 0.01);
    const double main_params = hlm_model_num_params(&model);
    model.mtp_layers = 0;
    check_near(hlm_model_num_mtp_params(&model), 0, 0);
    check_near(hlm_model_num_params(&model), main_params, 0);
    hlm_arena_free(arena);
}

static void gpt_flops_follow_the_formula(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt2-small", "gpt3-175b", "megatron-22b", "megatron-1t"};
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const struct hlm_model *model = builtin(arena, names[i]);
        for (int64_t seq_len = 512; seq_len <= 8192; seq_len *= 4) {
            const double s = (double)seq_len, h = (double)model->hidden_size,
                         layers = model->num_layers, vocab = (double)model->vocab_size;
            const double base = 72.0 * s * layers * h * h;
            const double head = vocab / (12.0 * h * layers);
            check_close(hlm_model_flops_per_sequence(model, seq_len, false),
                        base * (1.0 + s / (6.0 * h) + head), 1e-14);
            check_close(hlm_model_flops_per_sequence(model, seq_len, true),
                        base * (1.0 + s / (12.0 * h) + head), 1e-14);
        }
    }
    hlm_arena_free(arena);
}

/* 6 FLOPs per parameter of a matrix that a token meets, and 6 s a d (full) times two products. */
static void llama_flops_are_six_per_weight(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_model *model = builtin(arena, "llama3-8b");
    const double norms = (2 * 32 + 1) * 4096.0, embedding = 128256 * 4096.0;
    const double weights = hlm_model_num_params(model) - norms - embedding;
    check_close(hlm_model_flops_per_sequence(model, 8192, false),
                6.0 * 8192 * weights + 12.0 * 32 * 8192.0 * 8192.0 * 4096.0, 1e-14);
    hlm_arena_free(arena);
}

static void a_window_limits_the_keys(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_model model = *builtin(arena, "mistral-7b");
    const double windowed = hlm_model_flops_per_sequence(&model, 8192, false);
    const double windowed_half = hlm_model_flops_per_sequence(&model, 8192, true);
    const double in_window = hlm_model_flops_per_sequence(&model, 4096, true);
    model.attention_window = 0;
    const double per_key = 12.0 * 32 * 4096.0 * 8192.0;
    check_close(hlm_model_flops_per_sequence(&model, 8192, false) - windowed, per_key * 4096, 1e-9);
    /* Halves: 4096 keys on average without the window; 4096 - 4096^2 / 16384 = 3072 with it. */
    check_close(hlm_model_flops_per_sequence(&model, 8192, true) - windowed_half, per_key * 1024,
                1e-9);
    check_near(hlm_model_flops_per_sequence(&model, 4096, true), in_window, 0);
    hlm_arena_free(arena);
}

static void encoders_see_every_key(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_model *bert = builtin(arena, "bert-large");
    check_near(hlm_model_flops_per_sequence(bert, 512, true),
               hlm_model_flops_per_sequence(bert, 512, false), 0);
    /* torchvision prints 61.55 GMAC for the forward pass of vit_l_16, which is a third of ours. */
    const struct hlm_model *vit = builtin(arena, "vit-l-16");
    check_close(hlm_model_flops_per_sequence(vit, 197, false) / 6.0, 61.55e9, 0.002);
    hlm_arena_free(arena);
}

static void prediction_layers_cost_like_layers(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_model model = *builtin(arena, "deepseek-v3");
    const double with = hlm_model_flops_per_sequence(&model, 4096, false);
    model.mtp_layers = 0;
    const double without = hlm_model_flops_per_sequence(&model, 4096, false);
    model.num_layers = 62;
    const double one_more = hlm_model_flops_per_sequence(&model, 4096, false);
    /* The projection of 2 h to h and one more pass of the head. */
    const double around = 6.0 * 4096 * (2.0 * 7168 * 7168 + 7168.0 * 129280);
    check_close(with - without, one_more - without + around, 1e-9);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_match_the_published),
        cmocka_unit_test(bert_lacks_only_the_pooler),
        cmocka_unit_test(experts_count_by_what_a_token_meets),
        cmocka_unit_test(prediction_layers_stand_apart),
        cmocka_unit_test(gpt_flops_follow_the_formula),
        cmocka_unit_test(llama_flops_are_six_per_weight),
        cmocka_unit_test(a_window_limits_the_keys),
        cmocka_unit_test(encoders_see_every_key),
        cmocka_unit_test(prediction_layers_cost_like_layers),
    };
    return cmocka_run_group_tests_name("model_count", tests, NULL, NULL);
}
