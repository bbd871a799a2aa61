#include "costmodel/offload.h"

#include <math.h>
#include <stdlib.h>

#include "costmodel/lowering.h"
#include "costmodel/stage_cost.h"
#include "tests/support/check.h"

/* llama2-7b on one node of eight devices, whose host each test makes to measure. */
struct scene {
    struct hlm_arena *arena;
    struct hlm_err err;
    const struct hlm_model *model;
    struct hlm_cluster cluster;
    struct hlm_device_group group;
    struct hlm_host host;
    struct hlm_strategy strategy;
    struct hlm_pricer pricer;
};

static int setup(void **state)
{
    struct scene *scene = calloc(1, sizeof *scene);
    const struct hlm_cluster *cluster = NULL;
    scene->arena = hlm_arena_new();
    check_ok(hlm_model_load(scene->arena, "llama2-7b", &scene->model, &scene->err), &scene->err);
    check_ok(hlm_cluster_load(scene->arena, "a100-sxm-80g:1x8", &cluster, &scene->err),
             &scene->err);
    scene->cluster = *cluster;
    scene->group = cluster->groups[0];
    scene->host = (struct hlm_host){.memory_bytes = 1e12,
                                    .memory_bandwidth_bytes_per_s = 320e9,
                                    .link_bandwidth_bytes_per_s = 20e9};
    scene->group.host = &scene->host;
    scene->cluster.groups = &scene->group;
    scene->strategy = (struct hlm_strategy){.dp = 4,
                                            .tp = 1,
                                            .pp = 2,
                                            .zero = 1,
                                            .schedule = HLM_SCHEDULE_1F1B,
                                            .microbatch_size = 1,
                                            .global_batch_size = 32,
                                            .seq_len = 4096,
                                            .dtype = HLM_DTYPE_BF16};
    hlm_strategy_complete(&scene->strategy);
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

static const struct hlm_block_cost *price(struct scene *scene, enum hlm_offload offload,
                                          enum hlm_recompute mode)
{
    scene->strategy.offload = offload;
    check_ok(hlm_pricer_init(scene->arena, scene->model, &scene->strategy, &scene->cluster, 0,
                             &scene->pricer, &scene->err),
             &scene->err);
    return hlm_arena_memdup(scene->arena, &scene->pricer.blocks[HLM_BLOCK_DENSE][mode],
                            sizeof(struct hlm_block_cost));
}

/* --- rates --- */

static void copies_take_the_slower_of_link_and_memory(void **state)
{
    struct scene *scene = *state;
    check_close(hlm_offload_copy_s(&scene->group, 4e9), 4e9 / 20e9, 1e-12);
    scene->host.memory_bandwidth_bytes_per_s = 80e9; /* 10 GB/s a device */
    check_close(hlm_offload_copy_s(&scene->group, 4e9), 4e9 / 10e9, 1e-12);
}

/* A billion parameters in bf16: gradients of 4 bytes go, parameters of 2 come back, and the host
 * moves the 30 bytes of its update and those 6. */
static void the_host_updates_in_a_pipeline(void **state)
{
    struct scene *scene = *state;
    scene->strategy.lowering = HLM_LOWERING_MEGATRON;
    const double host_s = 1e9 * 36.0 / 40e9, down_s = 1e9 * 4.0 / 20e9, up_s = 1e9 * 2.0 / 20e9;
    const struct hlm_offload_update update =
        hlm_offload_update(&scene->strategy, &scene->group, 1e9, 0.01, 10);
    check_close(update.update_s, host_s, 1e-12);
    check_close(update.to_host_s, down_s / 10.0, 1e-12);
    check_close(update.to_device_s, up_s / 10.0, 1e-12);
    check_close(hlm_offload_update_s(&update), host_s + (down_s + up_s) / 10.0, 1e-12);
    scene->host.memory_bandwidth_bytes_per_s = 8e12; /* then the link is slowest */
    const struct hlm_offload_update fast =
        hlm_offload_update(&scene->strategy, &scene->group, 1e9, 0.01, 10);
    check_close(fast.to_host_s, down_s, 1e-12);
    check_close(fast.update_s, 1e9 * 36.0 / 1e12 / 10.0, 1e-12);
}

/* Moments and a master copy, 12 bytes, each way; both ways at once share the host's memory. */
static void or_states_come_to_the_device(void **state)
{
    struct scene *scene = *state;
    const double copy_s = 1e9 * 12.0 / 20e9;
    const struct hlm_offload_update update =
        hlm_offload_update(&scene->strategy, &scene->group, 1e9, 0.02, 4);
    check_close(update.to_host_s + update.to_device_s, copy_s + copy_s / 4.0, 1e-12);
    check_close(update.update_s, 0.02 / 4.0, 1e-12);
    scene->host.memory_bandwidth_bytes_per_s = 160e9; /* 20 GB/s a device, 10 a direction */
    const struct hlm_offload_update slow =
        hlm_offload_update(&scene->strategy, &scene->group, 1e9, 0.02, 4);
    check_close(slow.to_host_s + slow.to_device_s, 2.0 * (copy_s + copy_s / 4.0), 1e-12);
}

static void one_piece_waits_for_all_stations(void **state)
{
    struct scene *scene = *state;
    const struct hlm_offload_update update =
        hlm_offload_update(&scene->strategy, &scene->group, 1e9, 0.02, 1);
    check_close(hlm_offload_update_s(&update), 2.0 * 0.6 + 0.02, 1e-12);
}

/* --- layers --- */

static void activations_leave_their_slots_for_a_window(void **state)
{
    struct scene *scene = *state;
    for (int mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        const enum hlm_recompute recompute = (enum hlm_recompute)mode;
        const struct hlm_block_cost *kept = price(scene, HLM_OFFLOAD_NONE, recompute);
        const struct hlm_block_cost *moved = price(scene, HLM_OFFLOAD_ACTIVATIONS, recompute);
        assert_int_equal(kept->host_slot_bytes, 0);
        assert_true(moved->host_slot_bytes > 0);
        assert_int_equal(moved->slot_bytes + moved->host_slot_bytes, kept->slot_bytes);
        assert_int_equal(moved->transient_bytes,
                         kept->transient_bytes + 2 * moved->host_slot_bytes);
    }
}

/* One row of hidden_size in bf16 for each token, whatever is recomputed. */
static void inputs_are_one_tensor_a_layer(void **state)
{
    struct scene *scene = *state;
    for (int mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        const struct hlm_block_cost *moved =
            price(scene, HLM_OFFLOAD_INPUTS, (enum hlm_recompute)mode);
        assert_int_equal(moved->host_slot_bytes, 4096LL * scene->model->hidden_size * 2);
    }
}

static void what_takes_longer_than_the_passes_is_exposed(void **state)
{
    struct scene *scene = *state;
    const struct hlm_block_cost *kept = price(scene, HLM_OFFLOAD_NONE, HLM_RECOMPUTE_NONE);
    const struct hlm_block_cost *slow = price(scene, HLM_OFFLOAD_ACTIVATIONS, HLM_RECOMPUTE_NONE);
    const double copy_s = (double)slow->host_slot_bytes / 20e9;
    assert_true(copy_s > kept->backward.seconds);
    const double exposed_s = 2.0 * copy_s - kept->forward.seconds - kept->backward.seconds;
    check_close(slow->backward.part[HLM_PART_OFFLOAD], exposed_s, 1e-12);
    check_close(slow->backward.seconds, kept->backward.seconds + exposed_s, 1e-12);
    check_near(slow->forward.seconds, kept->forward.seconds, 0.0);
    /* Beside the backward, but not beside the forward. */
    const double between_s = 0.5 * (kept->forward.seconds + kept->backward.seconds);
    scene->host.link_bandwidth_bytes_per_s = (double)slow->host_slot_bytes / between_s;
    scene->host.memory_bandwidth_bytes_per_s = 1e15;
    check_close(
        price(scene, HLM_OFFLOAD_ACTIVATIONS, HLM_RECOMPUTE_NONE)->backward.part[HLM_PART_OFFLOAD],
        between_s - kept->forward.seconds, 1e-9);
    scene->host.link_bandwidth_bytes_per_s = 1e15;
    check_near(price(scene, HLM_OFFLOAD_ACTIVATIONS, HLM_RECOMPUTE_NONE)->backward.seconds,
               kept->backward.seconds, 0.0);
}

static void some_layers_move_their_share(void **state)
{
    struct scene *scene = *state;
    const struct hlm_block_cost *all = price(scene, HLM_OFFLOAD_ACTIVATIONS, HLM_RECOMPUTE_NONE);
    scene->strategy.offload_layers = scene->model->num_layers / 4;
    const struct hlm_block_cost *some = price(scene, HLM_OFFLOAD_ACTIVATIONS, HLM_RECOMPUTE_NONE);
    assert_int_equal(4 * some->host_slot_bytes, all->host_slot_bytes);
    assert_int_equal(some->transient_bytes, all->transient_bytes);
    assert_int_equal(some->slot_bytes + some->host_slot_bytes,
                     all->slot_bytes + all->host_slot_bytes);
    assert_true(some->backward.seconds < all->backward.seconds);
}

/* --- stages --- */

static struct hlm_stage_cost stage_of(struct scene *scene, enum hlm_offload offload,
                                      struct hlm_stage_memory *memory)
{
    const struct hlm_stage_shape shape = {
        .num_stages = 2, .embedding = true, .layers = {[HLM_BLOCK_DENSE] = {16, 0, 0}}};
    struct hlm_stage_cost cost;
    (void)price(scene, offload, HLM_RECOMPUTE_NONE);
    hlm_stage_cost(&scene->pricer, &shape, &cost);
    hlm_stage_memory(&scene->pricer, &shape, &cost, 2, memory);
    return cost;
}

static void states_leave_the_device(void **state)
{
    struct scene *scene = *state;
    struct hlm_stage_memory kept, moved, all;
    const struct hlm_stage_cost before = stage_of(scene, HLM_OFFLOAD_NONE, &kept);
    const struct hlm_stage_cost after = stage_of(scene, HLM_OFFLOAD_OPTIMIZER, &moved);
    assert_int_equal(kept.host_bytes, 0);
    assert_int_equal(moved.bytes[HLM_MEMORY_OPTIMIZER], 0);
    assert_int_equal(moved.host_bytes, kept.bytes[HLM_MEMORY_OPTIMIZER]);
    assert_int_equal(moved.peak_bytes + moved.host_bytes, kept.peak_bytes);
    check_near(after.backward.seconds, before.backward.seconds, 0.0);
    const struct hlm_stage_cost both = stage_of(scene, HLM_OFFLOAD_ALL, &all);
    assert_int_equal(all.host_bytes, moved.host_bytes + 2 * both.host_slot_bytes);
    assert_int_equal(both.host_slot_bytes,
                     16 * scene->pricer.blocks[HLM_BLOCK_DENSE][0].host_slot_bytes);
}

/* 16 layers and the embedding: 17 pieces of what one of four ranks has of them. */
static void the_update_of_a_stage_is_the_closed_form(void **state)
{
    struct scene *scene = *state;
    struct hlm_stage_memory unused;
    scene->strategy.lowering = HLM_LOWERING_MEGATRON_2023;
    const struct hlm_stage_cost before = stage_of(scene, HLM_OFFLOAD_NONE, &unused);
    const struct hlm_stage_cost after = stage_of(scene, HLM_OFFLOAD_OPTIMIZER, &unused);
    const double own = (double)after.num_elements / 4.0;
    const double host_s = own * 36.0 / 40e9, link_s = own * 6.0 / 20e9;
    check_close(hlm_offload_update_s(&after.offload), host_s + link_s / 17.0, 1e-9);
    check_near(hlm_offload_update_s(&before.offload), 0.0, 0.0);
    /* The update on the device goes; the norm of gradients and their zeroing stay. */
    const struct hlm_op adamw = {.kind = HLM_OP_ADAMW,
                                 .dtype = HLM_DTYPE_BF16,
                                 .m = (int64_t)own,
                                 .n = 1,
                                 .bytes = own * 30.0,
                                 .flops = own * 11.0};
    check_close(after.optimizer_s - hlm_offload_update_s(&after.offload),
                before.optimizer_s - hlm_kernel_seconds(&scene->group.device, &adamw), 1e-9);
}

static void a_missing_host_is_named(void **state)
{
    struct scene *scene = *state;
    scene->group.host = NULL;
    (void)price(scene, HLM_OFFLOAD_NONE, HLM_RECOMPUTE_NONE);
    scene->strategy.offload = HLM_OFFLOAD_OPTIMIZER;
    check_fails(hlm_pricer_init(scene->arena, scene->model, &scene->strategy, &scene->cluster, 0,
                                &scene->pricer, &scene->err),
                HLM_NO, &scene->err,
                "offload = optimizer needs the host's memory and link, but device group "
                "a100-sxm-80g has no \"host\"");
}

static void the_executor_refuses_it(void **state)
{
    struct scene *scene = *state;
    assert_null(hlm_lowering_refusal(scene->model, &scene->strategy));
    scene->strategy.offload = HLM_OFFLOAD_INPUTS;
    assert_string_equal(hlm_lowering_refusal(scene->model, &scene->strategy),
                        "offload to the host's memory");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(copies_take_the_slower_of_link_and_memory),
        TEST(the_host_updates_in_a_pipeline),
        TEST(or_states_come_to_the_device),
        TEST(one_piece_waits_for_all_stations),
        TEST(activations_leave_their_slots_for_a_window),
        TEST(inputs_are_one_tensor_a_layer),
        TEST(what_takes_longer_than_the_passes_is_exposed),
        TEST(some_layers_move_their_share),
        TEST(states_leave_the_device),
        TEST(the_update_of_a_stage_is_the_closed_form),
        TEST(a_missing_host_is_named),
        TEST(the_executor_refuses_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
