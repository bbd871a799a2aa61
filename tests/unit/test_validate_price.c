#include "compare/validate_price.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/check.h"

/* A GPT of 16 layers on 8 A100, pipelined over all of them. */
#define TEXT                                                                                       \
    "[{\"id\":\"a\",\"family\":\"f\",\"use\":\"score\",\"family_weight\":1,"                       \
    "\"kind\":\"train_step\",\"model\":{\"name\":\"m\",\"layers\":16,\"hidden\":2048,"             \
    "\"heads\":16,\"kv_heads\":16,\"head_dim\":128,\"ffn_hidden\":8192,\"gated\":false,"           \
    "\"vocab\":50257,\"seq_len\":2048,\"tied_embeddings\":null,\"moe\":null},"                     \
    "\"hardware\":{\"gpu\":\"x\",\"gpu_family\":\"A100\",\"gpu_mem_gb\":80,\"gpus\":8,"            \
    "\"gpus_per_node\":8,\"interconnect\":\"NVLink\"},\"parallel\":{\"tp\":1,\"pp\":8,"            \
    "\"dp\":1,\"zero\":0,\"cp\":1,\"ep\":1,\"etp\":null,\"vpp\":null,\"sp\":null,"                 \
    "\"zero_group\":null},\"batch\":{\"global\":%d,\"micro\":1,\"num_microbatches\":%d},"          \
    "\"recompute\":\"%s\",\"precision\":\"fp16\",\"schedule\":\"%s\","                             \
    "\"software\":\"Megatron-LM, 2021\",\"target\":{\"metric\":\"m\",\"value\":1}}]"

struct scene {
    struct hlm_arena *arena;
    struct hlm_err err;
};

static int setup(void **state)
{
    struct scene *scene = calloc(1, sizeof *scene);
    scene->arena = hlm_arena_new();
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

static struct hlm_validate_problem problem_of(struct scene *scene, const char *schedule,
                                              const char *recompute, int microbatches)
{
    const char *json =
        hlm_arena_printf(scene->arena, TEXT, microbatches, microbatches, recompute, schedule);
    struct hlm_truth truth;
    struct hlm_validate_problem problem;
    check_ok(hlm_truth_read_text(scene->arena, "t", json, strlen(json), &truth, &scene->err),
             &scene->err);
    check_ok(hlm_validate_problem(scene->arena, truth.points, &problem, &scene->err), &scene->err);
    return problem;
}

static struct hlm_validate_price price_of(struct scene *scene, const char *schedule,
                                          int microbatches)
{
    const struct hlm_validate_problem problem = problem_of(scene, schedule, "none", microbatches);
    struct hlm_validate_price price;
    check_ok(hlm_validate_price(scene->arena, &problem, &price, &scene->err), &scene->err);
    assert_true(price.step_s > 0.0 && price.peak_bytes > 0.0);
    return price;
}

/* Bubbles, shortest first: ZB-2p, ZB-1p, 1F1B; chunks shorten 1F1B's and cost it memory. */
static void schedules_are_told_apart(void **state)
{
    struct scene *scene = *state;
    const struct hlm_validate_price plain = price_of(scene, "1f1b", 16);
    const struct hlm_validate_price chunks = price_of(scene, "interleaved-1f1b", 16);
    const struct hlm_validate_price one = price_of(scene, "zb-1p", 16);
    const struct hlm_validate_price two = price_of(scene, "zb-2p", 16);
    assert_true(chunks.step_s < plain.step_s);
    assert_true(one.step_s < plain.step_s);
    assert_true(two.step_s < one.step_s);
    assert_true(chunks.peak_bytes > plain.peak_bytes);
    assert_true(two.peak_bytes > one.peak_bytes);
    assert_true(price_of(scene, "zb-v", 16).step_s < plain.step_s);
}

/* Chunks are priced with the same blocks: twice the microbatches adds the same work. */
static void chunks_do_the_same_work(void **state)
{
    struct scene *scene = *state;
    const double plain = price_of(scene, "1f1b", 64).step_s - price_of(scene, "1f1b", 32).step_s;
    const double chunks = price_of(scene, "interleaved-1f1b", 64).step_s -
                          price_of(scene, "interleaved-1f1b", 32).step_s;
    check_close(chunks, plain, 0.1);
}

/* Where nothing is said of recompute, it is the least that fits: none on a device with room, at
 * the time of a stated "none". */
static void unstated_recompute_is_the_least(void **state)
{
    struct scene *scene = *state;
    struct hlm_validate_problem problem = problem_of(scene, "1f1b", "unstated", 16);
    assert_int_equal(problem.recompute, -1);
    struct hlm_validate_price price;
    check_ok(hlm_validate_price(scene->arena, &problem, &price, &scene->err), &scene->err);
    const struct hlm_validate_price none = price_of(scene, "1f1b", 16);
    check_close(price.step_s, none.step_s, 1e-12);

    struct hlm_cluster small = *problem.cluster;
    struct hlm_device_group group = problem.cluster->groups[0];
    group.device.memory_bytes = (int64_t)(0.6 * none.peak_bytes);
    small.groups = &group;
    problem.cluster = &small;
    struct hlm_validate_price tight;
    check_ok(hlm_validate_price(scene->arena, &problem, &tight, &scene->err), &scene->err);
    assert_true(tight.peak_bytes < none.peak_bytes);
    assert_true(tight.step_s > none.step_s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(schedules_are_told_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(chunks_do_the_same_work, setup, teardown),
        cmocka_unit_test_setup_teardown(unstated_recompute_is_the_least, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
