/* Names, order, sizes, decay and initial values of the parameters of all blocks against the files
 * that tests/reference/make_golden.py wrote. */
#include <stdlib.h>

#include "tests/support/blocks.h"
#include "tests/support/golden.h"

static void check_golden_block(struct hlm_arena *arena, const struct golden *golden,
                               enum hlm_block_kind kind, int32_t layer, int32_t *next)
{
    const struct hlm_strategy strategy =
        tiny_strategy(&golden->model, 1, false, HLM_LOWERING_HLMPLAN);
    const struct hlm_block *block =
        tiny_block(arena, &golden->model, &strategy, 0, kind, HLM_RECOMPUTE_NONE);
    for (int32_t p = 0; p < block->num_params; p++) {
        const struct hlm_param *param = &block->params[p];
        assert_true(*next < golden->num_params);
        const struct golden_param *expected = &golden->params[(*next)++];
        assert_string_equal(hlm_param_global_name(arena, kind, layer, param), expected->name);
        int64_t size = 1;
        for (int32_t d = 0; d < expected->num_dims; d++) {
            size *= expected->shape[d];
        }
        assert_int_equal(param->global_rows * param->global_cols, size);
        assert_int_equal(param->decay, expected->decay);
        const double mean =
            strstr(param->name, "norm") != NULL && strstr(param->name, "weight") != NULL;
        check_near(param->init_mean, mean, 0.0);
        const bool residual_out =
            strcmp(param->name, "out.weight") == 0 || strstr(param->name, "fc2.weight") != NULL;
        check_close(param->init_std,
                    residual_out ? 0.02 / sqrt(2.0 * golden->model.num_layers) : 0.02, 1e-15);
    }
}

static void parameters_are_those_of_the_golden_files(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt2", "llama", "moe", "bert", "vit"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct hlm_arena *arena = hlm_arena_new();
        const struct golden *golden = golden_read(arena, names[i]);
        int32_t next = 0;
        check_golden_block(arena, golden, HLM_BLOCK_EMBEDDING, 0, &next);
        for (int32_t layer = 0; layer < golden->model.num_layers; layer++) {
            const bool experts = hlm_model_is_moe_layer(&golden->model, layer);
            check_golden_block(arena, golden, experts ? HLM_BLOCK_MOE : HLM_BLOCK_DENSE, layer,
                               &next);
        }
        check_golden_block(arena, golden, HLM_BLOCK_HEAD, 0, &next);
        assert_int_equal(next, golden->num_params);
        hlm_arena_free(arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_are_those_of_the_golden_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
