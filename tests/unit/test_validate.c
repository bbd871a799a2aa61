#include "compare/validate.h"

#include <stdlib.h>

#include "tests/support/check.h"

/* Points as a file has them; each test fills in what it is about. */
#define MODEL                                                                                      \
    "\"model\":{\"name\":\"m\",\"layers\":8,\"hidden\":1024,\"heads\":16,\"kv_heads\":16,"         \
    "\"head_dim\":64,\"ffn_hidden\":4096,\"gated\":false,\"vocab\":50257,\"seq_len\":1024,"        \
    "\"tied_embeddings\":null,\"moe\":null}"
#define HARDWARE(family, gpus)                                                                     \
    "\"hardware\":{\"gpu\":\"x\",\"gpu_family\":\"" family "\",\"gpu_mem_gb\":80,\"gpus\":" gpus   \
    ",\"gpus_per_node\":8,\"interconnect\":\"4x HDR200 per node\",\"colour\":1}"
#define POINT(id, kind, hardware, parallel, value)                                                 \
    "{\"id\":\"" id "\",\"family\":\"f\",\"use\":\"score\",\"family_weight\":0.5,\"kind\":\"" kind \
    "\"," MODEL "," hardware ",\"parallel\":{" parallel                                            \
    ",\"cp\":1,\"ep\":1,\"etp\":null,\"vpp\":null,\"sp\":null,\"zero_group\":null},"               \
    "\"batch\":{\"global\":16,\"micro\":1,\"num_microbatches\":8.0},\"recompute\":\"full\","       \
    "\"precision\":\"fp16\",\"schedule\":\"1f1b\",\"software\":\"Megatron-LM, 2021\","             \
    "\"notes\":\"x\",\"target\":{\"metric\":\"m\",\"value\":" value "}}"
#define TWO "\"tp\":1,\"pp\":1,\"dp\":2,\"zero\":0"

struct scene {
    struct hlm_arena *arena;
    struct hlm_err err;
    struct hlm_truth truth;
    struct hlm_validation validation;
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

static void read(struct scene *scene, const char *text)
{
    check_ok(hlm_truth_read_text(scene->arena, "t", text, strlen(text), &scene->truth, &scene->err),
             &scene->err);
}

static void validate(struct scene *scene, const char *text)
{
    read(scene, text);
    check_ok(hlm_validate(scene->arena, &scene->truth, NULL, NULL, &scene->validation, &scene->err),
             &scene->err);
}

static void a_bad_point_does_not_spoil_the_file(void **state)
{
    struct scene *scene = *state;
    read(
        scene,
        "[" POINT("a", "train_step", HARDWARE("A100", "2"), TWO,
                  "1") ",{\"id\":\"b\"},"
                       "{\"id\":\"c\",\"family\":\"f\",\"model\":{\"name\":\"m\",\"wings\":2}},7]");
    assert_int_equal(scene->truth.num_points, 4);
    assert_null(scene->truth.points[0].unreadable);
    assert_int_equal(scene->truth.points[0].parallel.vpp, 0);
    assert_false(scene->truth.points[0].model.tied_embeddings);
    assert_string_equal(scene->truth.points[1].id, "b");
    assert_non_null(strstr(scene->truth.points[1].unreadable, "t: $[1]: the key \"family\""));
    assert_string_equal(scene->truth.points[2].family, "f");
    assert_non_null(strstr(scene->truth.points[2].unreadable, "$[2].model: unknown key \"wings\""));
    assert_string_equal(scene->truth.points[3].id, "[3]");
    check_fails(hlm_truth_read_text(scene->arena, "t", "{}", 2, &scene->truth, &scene->err),
                HLM_INPUT, &scene->err, "t: $: expected an array, found an object");
}

static void networks_are_read_from_sentences(void **state)
{
    static const struct {
        const char *text;
        int32_t nics;
        double gbit;
    } sentences[] = {
        {"DGX H100: NVLink/NVSwitch 900 GB/s; 8x 400 Gb/s InfiniBand HCAs per node", 8, 400},
        {"Selene DGX A100: NVLink inside; 8x HDR200 InfiniBand per node", 8, 200},
        {"8x A100-80GB per node with NVLink; 4 Omni-Path links (100 Gb/s each, x) per node", 4,
         100},
        {"1600 Gb/s node-to-node RoCE (stated)", 8, 200},
        {"400 Gb/s per node (stated)", 8, 50},
        {"96 GB HBM2e 2.4 TB/s, NVLink; 400 Gb/s RDMA per GPU (stated)", 8, 400},
        {"NVLink4; InfiniBand 8x 50 GB/s per node (stated)", 8, 400},
        {"Alps: 4 GH200 per node; Slingshot-11 (200 Gb/s per GPU, product data)", 8, 200},
        {"not stated", 0, 0},
        {NULL, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof sentences / sizeof sentences[0]; i++) {
        const struct hlm_validate_network network = hlm_validate_network(sentences[i].text, 8);
        assert_int_equal(network.nics_per_node, sentences[i].nics);
        check_near(network.line_bytes_per_s, sentences[i].gbit * 1e9 / 8.0, 1.0);
    }
}

static void a_point_becomes_a_problem(void **state)
{
    struct scene *scene = *state;
    read(scene, "[" POINT("a", "train_step", HARDWARE("A100", "16"),
                          "\"tp\":2,\"pp\":2,\"dp\":4,\"zero\":2", "1") "]");
    struct hlm_validate_problem problem;
    check_ok(hlm_validate_problem(scene->arena, scene->truth.points, &problem, &scene->err),
             &scene->err);
    const struct hlm_strategy *strategy = &problem.strategy;
    assert_int_equal(hlm_strategy_world_size(strategy), 16);
    assert_int_equal(strategy->num_microbatches, 4);
    assert_int_equal(strategy->zero, 1);
    assert_int_equal(strategy->dtype, HLM_DTYPE_FP16);
    assert_int_equal(strategy->grad_dtype, HLM_DTYPE_FP16);
    assert_int_equal(strategy->lowering, HLM_LOWERING_MEGATRON_2021);
    assert_int_equal(problem.recompute, HLM_RECOMPUTE_FULL);
    assert_int_equal(problem.model->activation, HLM_ACTIVATION_GELU);
    assert_int_equal(problem.cluster->groups[0].num_nodes, 2);
    assert_int_equal(problem.cluster->groups[0].nics_per_node, 4);
    assert_string_equal(problem.cluster->groups[0].device.name, "a100-sxm-80g");
}

#define OFFLOADING(offload)                                                                        \
    "[" POINT("a", "train_step", HARDWARE("A100", "2") ",\"offload\":" offload, TWO, "1") "]"

static void what_is_offloaded_is_read_from_words(void **state)
{
    struct scene *scene = *state;
    static const struct {
        const char *text;
        enum hlm_offload offload;
        int32_t layers;
        const char *refusal;
    } cases[] = {
        {OFFLOADING("[]"), HLM_OFFLOAD_NONE, 0, NULL},
        {OFFLOADING("[\"offload-opt-m\"]"), HLM_OFFLOAD_OPTIMIZER, 0, NULL},
        {OFFLOADING("[\"offload-master\",\"offload-residual\"]"), HLM_OFFLOAD_OPTIMIZER_INPUTS, 0,
         NULL},
        {OFFLOADING("[\"offload-residual\"]"), HLM_OFFLOAD_INPUTS, 0, NULL},
        {OFFLOADING("\"activation CPU offload of 3 layers (weights not offloaded)\""),
         HLM_OFFLOAD_ACTIVATIONS, 3, NULL},
        {OFFLOADING("\"activation offload (expert_fc1, moe_act)\""), HLM_OFFLOAD_NONE, 0,
         "offload of some activations of a layer"},
        {OFFLOADING("[\"offload-opt-m\",\"offload-gradients\"]"), HLM_OFFLOAD_NONE, 0,
         "offload of gradients"},
        {OFFLOADING("[\"offload-quants\"]"), HLM_OFFLOAD_NONE, 0, "offload of parameters"},
        {OFFLOADING("[\"to the moon\"]"), HLM_OFFLOAD_NONE, 0, "offload \"to the moon\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct hlm_validate_problem problem;
        read(scene, cases[i].text);
        const enum hlm_status status =
            hlm_validate_problem(scene->arena, scene->truth.points, &problem, &scene->err);
        if (cases[i].refusal != NULL) {
            check_fails(status, HLM_NO, &scene->err, cases[i].refusal);
            continue;
        }
        check_ok(status, &scene->err);
        assert_int_equal(problem.strategy.offload, cases[i].offload);
        assert_int_equal(problem.strategy.offload_layers, cases[i].layers);
    }
}

/* The same point twice with targets that make errors of +100 % and -50 %. */
static void errors_are_gathered_by_family(void **state)
{
    struct scene *scene = *state;
    validate(scene, "[" POINT("a", "train_step", HARDWARE("A100", "2"), TWO, "1") "]");
    const double step_s = scene->validation.results[0].predicted;
    assert_true(step_s > 0.0);
    const char *text = hlm_arena_printf(
        scene->arena,
        "[" POINT("a", "train_step", HARDWARE("A100", "2"), TWO, "%.17g") "," POINT(
            "b", "train_step", HARDWARE("A100", "2"), TWO,
            "%.17g") "," POINT("c", "train_step", HARDWARE("Abacus", "2"), TWO, "1") "]",
        0.5 * step_s, 2.0 * step_s);
    validate(scene, text);
    const struct hlm_validate_family *family = scene->validation.families;
    assert_int_equal(scene->validation.num_families, 1);
    assert_int_equal(family->num_points, 3);
    assert_int_equal(family->num_predicted, 2);
    check_close(family->mean_error_frac, 0.25, 1e-9);
    check_close(family->mean_abs_error_frac, 0.75, 1e-9);
    check_close(family->worst_error_frac, 1.0, 1e-9);
    assert_string_equal(family->worst_id, "a");
    check_close(scene->validation.weight_predicted, 1.0, 1e-12);
    check_close(scene->validation.weight_all, 1.5, 1e-12);
    check_close(scene->validation.all.mean_abs_error_frac, 0.75, 1e-9);
    assert_int_equal(scene->validation.num_reasons, 1);
    assert_string_equal(scene->validation.reasons[0].reason, "device Abacus");
    assert_string_equal(scene->validation.results[2].reason, "device Abacus");
}

static void fits_and_layers_are_predicted_too(void **state)
{
    struct scene *scene = *state;
    validate(scene, "[" POINT("a", "oom", HARDWARE("A100", "2"), TWO, "false") "," POINT(
                        "b", "oom", HARDWARE("A100", "2"), TWO,
                        "true") "," POINT("c", "layer_time", HARDWARE("A100", "2"), TWO,
                                          "3") "," POINT("d", "memory", HARDWARE("A100", "2"), TWO,
                                                         "8") "]");
    const struct hlm_validate_family *family = scene->validation.families;
    assert_int_equal(family->num_fits, 2);
    assert_int_equal(family->num_fits_right, 1);
    assert_int_equal(family->num_predicted, 1);
    assert_int_equal(family->num_memory, 1);
    const struct hlm_validate_result *layer = &scene->validation.results[2];
    assert_true(layer->predicted > 0.1 && layer->predicted < 100.0);
    const struct hlm_validate_result *memory = &scene->validation.results[3];
    check_close(memory->memory_predicted, 1e9 * memory->predicted, 1e-12);
    check_close(memory->memory_error_frac, memory->predicted / 8.0 - 1.0, 1e-9);
}

static void filters_choose(void **state)
{
    struct scene *scene = *state;
    read(scene, "[" POINT("a", "train_step", HARDWARE("A100", "2"), TWO,
                          "1") "," POINT("b", "train_step", HARDWARE("H100", "2"), TWO, "1") "]");
    check_ok(hlm_validate(scene->arena, &scene->truth, "f", "b", &scene->validation, &scene->err),
             &scene->err);
    assert_int_equal(scene->validation.num_results, 1);
    assert_string_equal(scene->validation.results[0].id, "b");
    check_fails(
        hlm_validate(scene->arena, &scene->truth, "f", "z", &scene->validation, &scene->err),
        HLM_NO, &scene->err, "no point has family f and id z");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_bad_point_does_not_spoil_the_file, setup, teardown),
        cmocka_unit_test(networks_are_read_from_sentences),
        cmocka_unit_test_setup_teardown(a_point_becomes_a_problem, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_offloaded_is_read_from_words, setup, teardown),
        cmocka_unit_test_setup_teardown(errors_are_gathered_by_family, setup, teardown),
        cmocka_unit_test_setup_teardown(fits_and_layers_are_predicted_too, setup, teardown),
        cmocka_unit_test_setup_teardown(filters_choose, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
