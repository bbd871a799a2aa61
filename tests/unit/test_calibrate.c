#include "compare/calibrate.h"

#include "tests/support/check.h"
#include "tests/support/golden.h"

struct fixture {
    struct hlm_arena *arena;
    const struct hlm_plan *plan;
    struct hlm_measurement measured;
    struct hlm_time_node parts[8];
    struct hlm_err err;
};

/* A plan of two tp ranks, and a measurement that is the prediction with some parts longer. */
static struct fixture setup(double compute, double optimizer, double tensor)
{
    struct fixture fixture = {.arena = hlm_arena_new()};
    const struct golden *golden = golden_read(fixture.arena, "gpt2");
    const struct golden_layout layout = {.tp = 2, .microbatch_size = 4};
    fixture.plan = golden_plan(fixture.arena, &golden->model, golden->global_batch_size,
                               golden->seq_len, &layout);
    const struct hlm_time_node *step = &fixture.plan->prediction.parts;
    assert_in_range(step->num_parts, 4, 8);
    double seconds = 0.0;
    for (int32_t i = 0; i < step->num_parts; i++) {
        const char *name = step->parts[i].name;
        const double times = strcmp(name, "tensor_parallel") == 0 ? tensor
                             : strcmp(name, "data_parallel") == 0 ? tensor
                             : strcmp(name, "optimizer") == 0     ? optimizer
                                                                  : compute;
        fixture.parts[i] =
            (struct hlm_time_node){.name = name, .seconds = times * step->parts[i].seconds};
        seconds += fixture.parts[i].seconds;
    }
    fixture.measured = (struct hlm_measurement){
        .digests = fixture.plan->digests,
        .num_ranks = 2,
        .num_clean_steps = 3,
        .emulated_rank = -1,
        .step_time_s = seconds,
        .backend = "cpu",
        .machine = {.cpu_model = "a core"},
        .parts = {.name = "step", .seconds = seconds, .num_parts = step->num_parts}};
    return fixture;
}

static enum hlm_status calibrate(struct fixture *fixture, struct hlm_calibration *out)
{
    fixture->measured.parts.parts = fixture->parts;
    return hlm_calibrate(fixture->arena, fixture->plan, &fixture->measured, "m.json", "2026-01-31",
                         out, &fixture->err);
}

static void finds_the_factors(void **state)
{
    (void)state;
    struct fixture fixture = setup(1.25, 1.25, 2.0);
    struct hlm_calibration calibration;
    check_ok(calibrate(&fixture, &calibration), &fixture.err);
    check_close(calibration.compute, 1.25, 1e-12);
    check_close(calibration.links, 2.0, 1e-12);
    /* Attention has no curve in this profile, so its share (a roofline of peaks) stays. */
    check_close(calibration.after_s, calibration.measured_s, 5e-3);
    const struct hlm_device *device = &calibration.cluster->groups[0].device;
    check_close(device->dtypes[0].gemm[0].flops_per_s,
                fixture.plan->cluster.groups[0].device.dtypes[0].gemm[0].flops_per_s / 1.25, 1e-12);
    assert_int_equal(device->dtypes[0].gemm[0].source.kind, HLM_SOURCE_MEASURED);
    assert_string_equal(device->dtypes[0].gemm[0].source.date, "2026-01-31");
    hlm_arena_free(fixture.arena);
}

/* The points of a fit lie as far apart as before, so predictions are no more certain. */
static void spread_stays(void **state)
{
    (void)state;
    struct fixture fixture = setup(1.25, 1.25, 2.0);
    struct hlm_plan plan = *fixture.plan;
    struct hlm_device_group group = plan.cluster.groups[0];
    struct hlm_device_dtype dtype = group.device.dtypes[0];
    struct hlm_gemm_curve *gemm =
        hlm_arena_memdup(fixture.arena, dtype.gemm, (size_t)dtype.num_gemm * sizeof(*gemm));
    gemm[0].source.spread_frac = 0.03;
    dtype.gemm = gemm;
    group.device.dtypes = &dtype;
    group.device.num_dtypes = 1;
    group.device.memory.source.spread_frac = 0.02;
    plan.cluster.groups = &group;
    fixture.plan = &plan;
    struct hlm_calibration calibration;
    check_ok(calibrate(&fixture, &calibration), &fixture.err);
    const struct hlm_device *device = &calibration.cluster->groups[0].device;
    check_close(device->dtypes[0].gemm[0].source.spread_frac, 0.03, 0.0);
    check_close(device->memory.source.spread_frac, 0.02, 0.0);
    hlm_arena_free(fixture.arena);
}

static void equal_changes_nothing(void **state)
{
    (void)state;
    struct fixture fixture = setup(1.0, 1.0, 1.0);
    struct hlm_calibration calibration;
    check_ok(calibrate(&fixture, &calibration), &fixture.err);
    check_close(calibration.compute, 1.0, 1e-12);
    check_close(calibration.after_s, calibration.before_s, 1e-12);
    hlm_arena_free(fixture.arena);
}

static void virtual_time_says_nothing_of_links(void **state)
{
    (void)state;
    struct fixture fixture = setup(1.1, 1.0, 3.0);
    struct hlm_calibration calibration;
    fixture.measured.virtual_time = true;
    fixture.measured.num_clean_steps = 0;
    check_ok(calibrate(&fixture, &calibration), &fixture.err);
    assert_true(calibration.links == 1.0);
    check_close(calibration.cluster->groups[0].intra_node.bandwidth_bytes_per_s,
                fixture.plan->cluster.groups[0].intra_node.bandwidth_bytes_per_s, 0.0);
    hlm_arena_free(fixture.arena);
}

/* A rank alone measures kernels; what its links seemed to do was the plan's. */
static void emulated_rank_says_nothing_of_links(void **state)
{
    (void)state;
    struct fixture fixture = setup(1.1, 1.1, 3.0);
    struct hlm_calibration calibration;
    fixture.measured.emulated_rank = 1;
    check_ok(calibrate(&fixture, &calibration), &fixture.err);
    assert_true(calibration.links_emulated);
    assert_true(calibration.links == 1.0);
    check_close(calibration.compute, 1.1, 1e-9);
    check_close(calibration.measured_s, 1.1 * calibration.before_s, 1e-9);
    /* Attention has no curve in this profile, so its share (a roofline of peaks) stays. */
    check_close(calibration.after_s, calibration.measured_s, 5e-3);
    check_close(calibration.cluster->groups[0].intra_node.bandwidth_bytes_per_s,
                fixture.plan->cluster.groups[0].intra_node.bandwidth_bytes_per_s, 0.0);
    assert_non_null(strstr(calibration.cluster->groups[0].device.dtypes[0].gemm[0].source.reference,
                           "rank 1 alone"));
    hlm_arena_free(fixture.arena);
}

static void refuses_what_it_cannot_explain(void **state)
{
    (void)state;
    struct hlm_calibration calibration;
    struct fixture busy = setup(1.0, 1.0, 1.0);
    busy.measured.num_clean_steps = 0;
    check_fails(calibrate(&busy, &calibration), HLM_INPUT, &busy.err, "m.json: $.num_clean_steps");
    hlm_arena_free(busy.arena);
    struct fixture far_off = setup(30.0, 1.0, 1.0);
    check_fails(calibrate(&far_off, &calibration), HLM_INPUT, &far_off.err, "30 times");
    hlm_arena_free(far_off.arena);
    struct fixture empty = setup(1.0, 1.0, 1.0);
    empty.measured.parts.num_parts = 0;
    check_fails(calibrate(&empty, &calibration), HLM_INPUT, &empty.err, "forward and backward");
    hlm_arena_free(empty.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(finds_the_factors),
                                       cmocka_unit_test(spread_stays),
                                       cmocka_unit_test(equal_changes_nothing),
                                       cmocka_unit_test(virtual_time_says_nothing_of_links),
                                       cmocka_unit_test(emulated_rank_says_nothing_of_links),
                                       cmocka_unit_test(refuses_what_it_cannot_explain)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
