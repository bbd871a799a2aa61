/* The executor against PyTorch: loss, every gradient, five steps of AdamW, for one tiny model each
 * of GPT-2, Llama, mixture-of-experts, BERT and ViT kind, on one rank and in sharded layouts. The
 * files say how they were made. */
#include "tests/support/check.h"
#include "tests/support/train.h"

/* fp32 against fp64: PyTorch's own fp32 differs by less than 1e-6 of a tensor's largest gradient,
 * the mildest wrong formula (erf instead of tanh GELU) by more than 1.3e-5. */
static const double grad_tolerance = 1e-5, loss_tolerance = 2e-6, update_tolerance = 5e-5;

static double largest(const double *values, int32_t count)
{
    double most = 0.0;
    for (int32_t i = 0; i < count; i++) {
        most = fmax(most, fabs(values[i]));
    }
    return most;
}

static void check_grad(const struct golden_param *param, const double *grad, const char *where)
{
    /* The key part of qkv.bias has no gradient in theory; its noise is measured by the tensor's
     * largest entry. */
    const double scale = largest(param->grad, param->num_grad);
    for (int32_t i = 0; i < param->num_grad; i++) {
        if (!(fabs(grad[i] - param->grad[i]) <= grad_tolerance * scale)) {
            fail_msg("%s: gradient of %s[%d] is %.9g, expected %.9g (largest %.3g)", where,
                     param->name, i, grad[i], param->grad[i], scale);
        }
    }
}

static void check_layout(struct hlm_arena *arena, const char *name, const struct golden *golden,
                         const struct golden_layout *layout)
{
    const struct hlm_plan *plan =
        golden_plan(arena, &golden->model, golden->global_batch_size, golden->seq_len, layout);
    assert_non_null(plan);
    const char *where = hlm_arena_printf(arena, "%s %s", name, golden_layout_text(arena, layout));
    const struct train_result result =
        train_run(arena, plan, (uint64_t)golden->seed, 5, hlm_backend_cpu_new, golden);
    for (int32_t i = 0; i < golden->num_params; i++) {
        check_grad(&golden->params[i], result.grads[i], where);
    }
    for (int32_t step = 0; step < golden->num_losses; step++) {
        check_close(result.losses[step], golden->losses[step], loss_tolerance);
        check_close(result.grad_norms[step], golden->grad_norms[step], 1e-5);
    }
    for (int32_t i = 0; i < golden->num_params; i++) {
        if (golden->params[i].update_norm > 0.0) {
            check_close(result.update_norms[i], golden->params[i].update_norm, update_tolerance);
        }
    }
}

static void check_layouts(const char *name, const struct golden_layout *layouts, size_t num_layouts)
{
    struct hlm_arena *arena = hlm_arena_new();
    const struct golden *golden = golden_read(arena, name);
    for (size_t i = 0; i < num_layouts; i++) {
        check_layout(arena, name, golden, &layouts[i]);
    }
    hlm_arena_free(arena);
}

static void check_model(const char *name, bool sp)
{
    const struct golden_layout layouts[] = {
        {.microbatch_size = 4},
        {.microbatch_size = 2, .recompute = HLM_RECOMPUTE_SELECTIVE},
        {.recompute = HLM_RECOMPUTE_FULL},
        {.dp = 2, .microbatch_size = 2},
        {.tp = 2, .microbatch_size = 4},
        {.pp = 4, .schedule = HLM_SCHEDULE_1F1B},
        {.pp = 4, .schedule = HLM_SCHEDULE_1F1B_OVERLAP},
        {.dp = 2, .tp = 2, .pp = 2, .schedule = HLM_SCHEDULE_1F1B},
        {.tp = 2, .sp = sp, .microbatch_size = 4},
        {.tp = 2, .pp = 2, .sp = sp, .microbatch_size = 2, .recompute = HLM_RECOMPUTE_SELECTIVE},
        {.dp = 2, .zero = 2, .recompute = HLM_RECOMPUTE_SELECTIVE},
        {.dp = 2,
         .tp = 2,
         .pp = 2,
         .sp = sp,
         .zero = 3,
         .microbatch_size = 2,
         .schedule = HLM_SCHEDULE_1F1B},
        {.dp = 2, .pp = 2, .zero = 3, .schedule = HLM_SCHEDULE_ZB_H1}};
    check_layouts(name, layouts, sizeof(layouts) / sizeof(layouts[0]));
}

static void gpt2(void **state)
{
    (void)state;
    check_model("gpt2", true);
}

static void llama(void **state)
{
    (void)state;
    check_model("llama", true);
}

/* Four experts of which each row has two, a shared one, and a dense layer below them. */
static void moe(void **state)
{
    (void)state;
    static const struct golden_layout layouts[] = {
        {.microbatch_size = 4},
        {.microbatch_size = 2, .recompute = HLM_RECOMPUTE_SELECTIVE},
        {.recompute = HLM_RECOMPUTE_FULL},
        {.dp = 2, .ep = 2, .microbatch_size = 2},
        {.dp = 4, .ep = 4, .recompute = HLM_RECOMPUTE_FULL},
        {.dp = 4, .ep = 2},
        {.pp = 4, .schedule = HLM_SCHEDULE_1F1B},
        {.dp = 2, .ep = 2, .tp = 2, .sp = true, .pp = 2, .schedule = HLM_SCHEDULE_1F1B},
        {.tp = 2, .ep = 2, .sp = true, .microbatch_size = 4},
        {.tp = 2, .sp = true, .microbatch_size = 4, .recompute = HLM_RECOMPUTE_SELECTIVE}};
    check_layouts("moe", layouts, sizeof(layouts) / sizeof(layouts[0]));
}

static void bert(void **state)
{
    (void)state;
    check_model("bert", true);
}

static void vit(void **state)
{
    (void)state;
    check_model("vit", true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gpt2), cmocka_unit_test(llama),
                                       cmocka_unit_test(moe), cmocka_unit_test(bert),
                                       cmocka_unit_test(vit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
