/* Prices that spare work are what they stand for: those that are made from another strategy's have
 * the same bits as those from operators, and the floor of a layer is below every mode of it. */
#include "costmodel/stage_cost.h"
#include "tests/support/check.h"
#include "tests/support/share.h"

static const char *const models[] = {"gpt2-small", "llama2-7b", "llama2-70b", "mixtral-8x7b",
                                     "deepseek-v3"};
enum { NUM_MODELS = sizeof models / sizeof models[0] };

struct scene {
    struct hlm_arena *arena;
    const struct hlm_model *model;
    const struct hlm_cluster *cluster;
    int32_t num_degrees, num_floors, num_reused;
};

static double work_s(const struct hlm_block_cost *cost)
{
    const double halves_s = cost->input_grad.seconds + cost->weight_grad.seconds;
    return cost->forward.seconds +
           (cost->backward.seconds < halves_s ? cost->backward.seconds : halves_s);
}

static void check_floors(struct scene *scene, const struct hlm_strategy *strategy,
                         const struct hlm_pricer *pricer)
{
    for (enum hlm_block_kind kind = 0; kind < HLM_NUM_BLOCKS; kind++) {
        const bool layer = kind == HLM_BLOCK_DENSE || kind == HLM_BLOCK_MOE;
        struct hlm_err err;
        struct hlm_least_layer *least = NULL;
        if (!layer || !pricer->has_kind[kind]) {
            continue;
        }
        check_ok(hlm_least_layer_new(scene->arena, scene->model, strategy, scene->cluster, 0, kind,
                                     &least, &err),
                 &err);
        const double least_s = hlm_least_layer_s(least, strategy);
        assert_true(least_s > 0.0);
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            assert_true(least_s <= work_s(&pricer->blocks[kind][mode]) * (1 + 1e-12));
        }
        scene->num_floors++;
    }
}

/* All schedules and ZeRO stages from the prices of 1f1b without sharing. */
static void check_reuse(struct scene *scene, struct hlm_strategy strategy)
{
    const struct hlm_strategy plain = strategy;
    struct hlm_pricer priced, reused, anew;
    struct hlm_err err;
    if (hlm_pricer_init(scene->arena, scene->model, &plain, scene->cluster, 0, &priced, &err) !=
        HLM_OK) {
        return;
    }
    for (int32_t code = 0; code < 4 * HLM_NUM_SCHEDULES; code++) {
        strategy = plain;
        strategy.zero = code % 4;
        strategy.zero_group = 0;
        strategy.schedule = (enum hlm_schedule_kind)(code / 4);
        strategy.vpp = hlm_schedule_chunks(strategy.schedule).min;
        hlm_strategy_complete(&strategy);
        if (hlm_layout_ends_apart(&strategy) != hlm_layout_ends_apart(&plain) ||
            hlm_pricer_init(scene->arena, scene->model, &strategy, scene->cluster, 0, &anew,
                            &err) != HLM_OK) {
            continue;
        }
        hlm_pricer_reuse(&priced, &strategy, &reused);
        assert_memory_equal(reused.blocks, anew.blocks, sizeof anew.blocks);
        check_floors(scene, &strategy, &anew);
        scene->num_reused++;
    }
}

static void check_degrees(struct scene *scene, enum hlm_lowering lowering)
{
    for (int32_t code = 0; code < 36; code++) {
        struct hlm_strategy strategy = {.tp = 1 << code % 3,
                                        .pp = 2,
                                        .cp = 1 << code / 3 % 3,
                                        .ep = code / 9 % 2 == 1 ? 4 : 1,
                                        .sp = code / 18 == 1,
                                        .microbatch_size = 1,
                                        .global_batch_size = 64,
                                        .seq_len = scene->model->seq_len,
                                        .dtype = HLM_DTYPE_BF16,
                                        .lowering = lowering,
                                        .schedule = HLM_SCHEDULE_1F1B};
        strategy.dp = 64 / strategy.tp / strategy.cp;
        hlm_strategy_complete(&strategy);
        if (share_has(scene->num_degrees++)) {
            check_reuse(scene, strategy);
        }
    }
}

static void spared_work_changes_nothing(void **state)
{
    (void)state;
    struct scene scene = {.num_degrees = 0};
    for (int32_t m = 0; m < NUM_MODELS; m++) {
        struct hlm_err err;
        scene.arena = hlm_arena_new();
        check_ok(hlm_model_load(scene.arena, models[m], &scene.model, &err), &err);
        check_ok(hlm_cluster_load(scene.arena, "h100-sxm:16x8", &scene.cluster, &err), &err);
        for (enum hlm_lowering lowering = 0; lowering < HLM_NUM_LOWERINGS; lowering++) {
            check_degrees(&scene, lowering);
        }
        hlm_arena_free(scene.arena);
    }
    print_message("%d floors, %d prices made from others\n", scene.num_floors, scene.num_reused);
    assert_true(scene.num_floors > share_of(1000) && scene.num_reused > share_of(1000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(spared_work_changes_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
