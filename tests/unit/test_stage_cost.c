#include "costmodel/stage_cost.h"

#include <math.h>
#include <stdlib.h>

#include "costmodel/lowering.h"
#include "tests/support/check.h"

struct scene {
    struct hlm_arena *arena;
    struct hlm_err err;
    const struct hlm_model *model;
    const struct hlm_cluster *cluster;
};

static int setup(void **state)
{
    struct scene *scene = calloc(1, sizeof *scene);
    scene->arena = hlm_arena_new();
    check_ok(hlm_model_load(scene->arena, "gpt2-xl", &scene->model, &scene->err), &scene->err);
    check_ok(hlm_cluster_load(scene->arena, "a100-sxm-80g:4x8", &scene->cluster, &scene->err),
             &scene->err);
    *state = scene;
    return 0;
}

static int teardown(void **state)
{
    struct scene *scene = *state;
    hlm_arena_free(scene->arena);
    free(scene);
    return 0;
}

/* A dense layer without recompute of a job of dp ranks. */
static struct hlm_block_cost shared_layer_of(struct scene *scene, enum hlm_lowering lowering,
                                             int32_t dp, int32_t zero)
{
    struct hlm_strategy strategy = {.dp = dp,
                                    .zero = zero,
                                    .tp = 1,
                                    .pp = 1,
                                    .microbatch_size = 2,
                                    .global_batch_size = 2 * dp,
                                    .seq_len = 1024,
                                    .dtype = HLM_DTYPE_BF16,
                                    .grad_dtype = HLM_DTYPE_FP32,
                                    .master_dtype = HLM_DTYPE_FP32,
                                    .lowering = lowering};
    hlm_strategy_complete(&strategy);
    struct hlm_pricer pricer;
    check_ok(hlm_pricer_init(scene->arena, scene->model, &strategy, scene->cluster, 0, &pricer,
                             &scene->err),
             &scene->err);
    return pricer.blocks[HLM_BLOCK_DENSE][HLM_RECOMPUTE_NONE];
}

static struct hlm_block_cost layer_of(struct scene *scene, enum hlm_lowering lowering, int32_t dp)
{
    return shared_layer_of(scene, lowering, dp, 0);
}

/* One rank waits for nobody; n wait for the slowest: a deviation times sqrt(2 ln n). */
static void many_ranks_wait_for_the_slowest(void **state)
{
    struct scene *scene = *state;
    const double frac = hlm_lowering_framework(HLM_LOWERING_MEGATRON_2021)->jitter_frac;
    const struct hlm_block_cost one = layer_of(scene, HLM_LOWERING_MEGATRON_2021, 1);
    const struct hlm_block_cost all = layer_of(scene, HLM_LOWERING_MEGATRON_2021, 32);
    assert_true(frac > 0.0);
    check_near(one.forward.part[HLM_PART_JITTER], 0.0, 0.0);
    check_close(all.forward.seconds, one.forward.seconds * (1.0 + frac * sqrt(2.0 * log(32.0))),
                1e-12);
    check_close(all.weight_grad.part[HLM_PART_JITTER],
                all.weight_grad.seconds - one.weight_grad.seconds, 1e-9);
    check_near(layer_of(scene, HLM_LOWERING_HLMPLAN, 32).backward.part[HLM_PART_JITTER], 0.0, 0.0);
}

/* The seconds of a pass are those of its parts. */
static void parts_make_up_a_pass(void **state)
{
    struct scene *scene = *state;
    for (int set = 0; set < HLM_NUM_LOWERINGS; set++) {
        const struct hlm_block_cost cost = layer_of(scene, (enum hlm_lowering)set, 32);
        double sum = 0.0;
        for (int part = 0; part < HLM_NUM_PARTS; part++) {
            sum += cost.backward.part[part];
        }
        check_close(sum, cost.backward.seconds, 1e-9);
    }
}

/* Set hlmplan gathers and reduces in turn with its passes, the others beside them. */
static void sharing_hides_where_frameworks_hide_it(void **state)
{
    struct scene *scene = *state;
    const double whole_gather_s =
        shared_layer_of(scene, HLM_LOWERING_HLMPLAN, 8, 3).forward.part[HLM_PART_DP_COMM];
    for (int set = 0; set < HLM_NUM_LOWERINGS; set++) {
        const enum hlm_lowering lowering = (enum hlm_lowering)set;
        const struct hlm_block_cost two = shared_layer_of(scene, lowering, 8, 2);
        const struct hlm_block_cost three = shared_layer_of(scene, lowering, 8, 3);
        const double gather_s = three.forward.part[HLM_PART_DP_COMM];
        const double reduce_s = two.backward.part[HLM_PART_DP_COMM];
        assert_true(gather_s > 0.0 && reduce_s > 0.0);
        check_near(two.forward.part[HLM_PART_DP_COMM], 0.0, 0.0);
        if (lowering == HLM_LOWERING_HLMPLAN) {
            const struct hlm_block_cost none = layer_of(scene, lowering, 8);
            check_close(three.backward.part[HLM_PART_DP_COMM], gather_s + reduce_s, 1e-12);
            assert_true(reduce_s > gather_s); /* fp32, not bf16 */
            /* what is cleared and added to the shard */
            assert_true(two.backward.part[HLM_PART_MEMORY_BOUND] >
                        none.backward.part[HLM_PART_MEMORY_BOUND]);
        } else {
            assert_true(gather_s < whole_gather_s);
        }
    }
}

/* PyTorch's allocator holds more than the tensors; ours exactly the tensors. */
static void allocators_differ(void **state)
{
    struct scene *scene = *state;
    const struct hlm_strategy strategy = {.dp = 1,
                                          .tp = 1,
                                          .pp = 1,
                                          .cp = 1,
                                          .ep = 1,
                                          .etp = 1,
                                          .vpp = 1,
                                          .microbatch_size = 2,
                                          .global_batch_size = 2,
                                          .num_microbatches = 1,
                                          .seq_len = 1024,
                                          .dtype = HLM_DTYPE_BF16,
                                          .lowering = HLM_LOWERING_PYTORCH};
    const struct hlm_lowering_input input = {
        .model = scene->model, .strategy = &strategy, .backend = HLM_BACKEND_CUDA};
    const struct hlm_block *block = NULL;
    check_ok(hlm_lowering_block(scene->arena, &input, HLM_BLOCK_DENSE, HLM_RECOMPUTE_NONE, &block,
                                &scene->err),
             &scene->err);
    struct hlm_block_memory memory;
    hlm_block_memory(scene->arena, block, &memory);
    const double tensors = (double)hlm_block_slot_bytes(block, &memory);
    const double frac = hlm_lowering_framework(HLM_LOWERING_PYTORCH)->fragments_frac;
    assert_true(frac > 0.0);
    check_close((double)layer_of(scene, HLM_LOWERING_PYTORCH, 1).slot_bytes, tensors * (1.0 + frac),
                1e-4);
    check_near(hlm_lowering_framework(HLM_LOWERING_HLMPLAN)->fragments_frac, 0.0, 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(many_ranks_wait_for_the_slowest, setup, teardown),
        cmocka_unit_test_setup_teardown(parts_make_up_a_pass, setup, teardown),
        cmocka_unit_test_setup_teardown(sharing_hides_where_frameworks_hide_it, setup, teardown),
        cmocka_unit_test_setup_teardown(allocators_differ, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
