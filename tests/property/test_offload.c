/* What must hold whatever is offloaded, of random strategies over all built-in node types, seeded:
 * memory moves to the host and nothing is gained in time, a faster host is never slower, and parts
 * make up the whole. */
#include "tests/support/check.h"

#include <stdlib.h>

#include "base/rng.h"
#include "costmodel/stage_cost.h"
#include "planner/plan.h"

enum { NUM_TRIES = 150 };
static const double slack = 1.0 + 1e-12;

struct scene {
    struct hlm_arena *arena;
    struct hlm_rng rng;
    const struct hlm_model *model;
    struct hlm_cluster cluster;
    struct hlm_device_group group;
    struct hlm_host host;
    struct hlm_strategy strategy;
    int32_t num_layers, in_flight; /* of the stage; its layers share the modes */
};

static uint64_t seed_of_run(void)
{
    const char *text = getenv("SEED");
    const uint64_t seed = text != NULL ? strtoull(text, NULL, 10) : 7;
    print_message("SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

static int64_t pick(struct hlm_rng *rng, int64_t low, int64_t high)
{
    return hlm_rng_next_int(rng, low, high);
}

/* False: the strategy is not legal there. */
static bool draw(struct scene *scene)
{
    static const char *const models[] = {"gpt2-small", "llama2-7b", "llama3-70b", "mixtral-8x7b"};
    static const char *const clusters[] = {"dgx-v100", "dgx-a100", "dgx-h100", "gb200-nvl72",
                                           "rtx-4090-pcie"};
    struct hlm_err err;
    const struct hlm_cluster *cluster = NULL;
    check_ok(hlm_model_load(scene->arena, models[pick(&scene->rng, 0, 3)], &scene->model, &err),
             &err);
    check_ok(hlm_cluster_load(scene->arena, clusters[pick(&scene->rng, 0, 4)], &cluster, &err),
             &err);
    scene->cluster = *cluster;
    scene->group = cluster->groups[0];
    scene->host = *scene->group.host;
    scene->host.link_bandwidth_bytes_per_s *=
        pow(10.0, 2.0 * hlm_rng_next_uniform(&scene->rng) - 1);
    scene->group.host = &scene->host;
    scene->cluster.groups = &scene->group;
    const int32_t tp = 1 << pick(&scene->rng, 0, 1), pp = (int32_t)pick(&scene->rng, 1, 2);
    scene->strategy = (struct hlm_strategy){
        .dp = 4 / tp / pp,
        .tp = tp,
        .pp = pp,
        .sp = tp > 1,
        .zero = (int32_t)pick(&scene->rng, 0, 3),
        .schedule = HLM_SCHEDULE_1F1B,
        .microbatch_size = 1,
        .global_batch_size = 8,
        .seq_len = 512 << pick(&scene->rng, 0, 1),
        .dtype = HLM_DTYPE_FP16,
        .lowering = (enum hlm_lowering)pick(&scene->rng, 0, HLM_NUM_LOWERINGS - 1)};
    hlm_strategy_complete(&scene->strategy);
    scene->in_flight = (int32_t)pick(&scene->rng, 1, 4);
    scene->num_layers = (int32_t)pick(&scene->rng, 2, 12);
    return hlm_strategy_check(&scene->strategy, scene->model, &err) == HLM_OK;
}

struct stage {
    struct hlm_stage_cost cost;
    struct hlm_stage_memory memory;
    double step_s; /* of the stage by itself */
};

static struct stage price(struct scene *scene, enum hlm_offload offload, int32_t layers,
                          uint64_t modes)
{
    struct hlm_pricer pricer;
    struct hlm_err err;
    struct stage stage;
    scene->strategy.offload = offload;
    scene->strategy.offload_layers = layers;
    check_ok(hlm_pricer_init(scene->arena, scene->model, &scene->strategy, &scene->cluster, 0,
                             &pricer, &err),
             &err);
    struct hlm_stage_shape shape = {.num_stages = scene->strategy.pp};
    for (int32_t layer = 0; layer < scene->num_layers; layer++) {
        const int32_t kind = pricer.has_kind[HLM_BLOCK_MOE] ? HLM_BLOCK_MOE : HLM_BLOCK_DENSE;
        shape.layers[kind][(modes >> (2 * layer)) % HLM_NUM_RECOMPUTES]++;
    }
    hlm_stage_cost(&pricer, &shape, &stage.cost);
    hlm_stage_memory(&pricer, &shape, &stage.cost, scene->in_flight, &stage.memory);
    stage.step_s = 8.0 * (stage.cost.forward.seconds + stage.cost.backward.seconds) +
                   stage.cost.reduce_s + stage.cost.optimizer_s;
    return stage;
}

static void check_parts(const struct stage *stage)
{
    double sum_s = 0.0;
    int64_t sum_bytes = 0;
    for (int part = 0; part < HLM_NUM_PARTS; part++) {
        sum_s += stage->cost.backward.part[part];
    }
    for (int kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        sum_bytes += stage->memory.bytes[kind];
    }
    check_close(sum_s, stage->cost.backward.seconds, 1e-9);
    assert_int_equal(sum_bytes, stage->memory.peak_bytes);
}

/* The device holds no more, but for the window where all layers have the same mode and there are no
 * more of them in flight than it has; the whole is moved, not lost. */
static void check_offload(struct scene *scene, const struct stage *kept, enum hlm_offload offload,
                          uint64_t modes)
{
    const struct stage moved = price(scene, offload, 0, modes);
    check_parts(&moved);
    assert_true(moved.memory.host_bytes > 0);
    assert_true(moved.memory.peak_bytes <= kept->memory.peak_bytes);
    assert_true(moved.cost.forward.seconds == kept->cost.forward.seconds);
    assert_true(moved.cost.backward.seconds * slack >= kept->cost.backward.seconds);
    if (hlm_offload_parts(offload).inputs) {
        const struct stage some =
            price(scene, offload, (int32_t)pick(&scene->rng, 1, scene->model->num_layers), modes);
        assert_true(some.cost.backward.seconds <= moved.cost.backward.seconds * slack);
        assert_true(some.memory.host_bytes <= moved.memory.host_bytes);
    }
    scene->host.link_bandwidth_bytes_per_s *= 1.0 + hlm_rng_next_uniform(&scene->rng);
    const struct stage faster = price(scene, offload, 0, modes);
    assert_true(faster.step_s <= moved.step_s * slack);
    scene->host.memory_bandwidth_bytes_per_s *= 1.0 + hlm_rng_next_uniform(&scene->rng);
    assert_true(price(scene, offload, 0, modes).step_s <= faster.step_s * slack);
    assert_int_equal(faster.memory.peak_bytes, moved.memory.peak_bytes);
}

static void offload_moves_memory_and_gains_no_time(void **state)
{
    (void)state;
    struct scene scene = {.rng = {.key = seed_of_run()}};
    int32_t num_checked = 0;
    for (int32_t i = 0; i < NUM_TRIES; i++) {
        scene.arena = hlm_arena_new();
        if (draw(&scene)) {
            const uint64_t mode = (uint64_t)pick(&scene.rng, 0, HLM_NUM_RECOMPUTES - 1);
            uint64_t modes = 0;
            for (int32_t layer = 0; layer < scene.num_layers; layer++) {
                modes |= mode << (2 * layer);
            }
            const struct stage kept = price(&scene, HLM_OFFLOAD_NONE, 0, modes);
            check_offload(&scene, &kept,
                          (enum hlm_offload)pick(&scene.rng, 1, HLM_NUM_OFFLOADS - 1), modes);
            num_checked++;
        }
        hlm_arena_free(scene.arena);
    }
    assert_true(num_checked > NUM_TRIES / 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(offload_moves_memory_and_gains_no_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
