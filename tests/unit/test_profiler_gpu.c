#include "tests/support/check.h"

#include <dlfcn.h>
#include <stdlib.h>

#include "base/rng.h"
#include "costmodel/kernel.h"
#include "exec/profiler/profiler_cases.h"
#include "exec/profiler/profiler_fit_shape.h"
#include "exec/profiler/profiler_gpu.h"

/* --- a device that computes nothing: times come from a known one, on clocks of its own --- */

struct analytic {
    struct hlm_backend base; /* first */
    const struct hlm_device *truth;
    double host_s, device_s; /* clocks */
    double launch_s, slowness, noise;
    char *next_address;
    const void *last_operand;
    uint64_t num_launches;
    int32_t num_refused;
    enum hlm_op_kind refused;
};

struct hlm_queue {
    struct analytic *device;
};
struct hlm_event {
    double wall_s;
};

static const double warm_frac = 0.8;

static struct analytic *of(struct hlm_backend *backend)
{
    return (struct analytic *)backend;
}

static double fake_now_s(void *context)
{
    return ((struct analytic *)context)->host_s;
}

static enum hlm_status fake_alloc(struct hlm_backend *backend, int64_t bytes, void **out,
                                  struct hlm_err *err)
{
    (void)err;
    *out = of(backend)->next_address;
    of(backend)->next_address += (bytes + 255) / 256 * 256;
    return HLM_OK;
}

static void fake_free(struct hlm_backend *backend, void *memory)
{
    (void)backend;
    (void)memory;
}

static enum hlm_status fake_queue_new(struct hlm_backend *backend, struct hlm_queue **out,
                                      struct hlm_err *err)
{
    (void)err;
    *out = calloc(1, sizeof **out);
    (*out)->device = of(backend);
    return HLM_OK;
}

static void fake_queue_free(struct hlm_queue *queue)
{
    free(queue);
}

static enum hlm_status fake_sync(struct hlm_queue *queue, struct hlm_err *err)
{
    (void)err;
    struct analytic *device = queue->device;
    device->host_s = fmax(device->host_s, device->device_s) + 5e-6;
    return HLM_OK;
}

/* The device begins when it is free and the host has asked. */
static void run(struct analytic *device, double seconds)
{
    device->host_s += device->launch_s;
    device->device_s = fmax(device->device_s, device->host_s) + seconds;
}

static enum hlm_status fake_upload(struct hlm_queue *queue, void *to, const void *host,
                                   int64_t bytes, struct hlm_err *err)
{
    (void)to;
    (void)host;
    (void)err;
    run(queue->device, (double)bytes / 2e10);
    return HLM_OK;
}

static enum hlm_status fake_copy(struct hlm_queue *queue, void *to, const void *from, int64_t bytes,
                                 struct hlm_err *err)
{
    (void)to;
    (void)from;
    (void)err;
    struct analytic *device = queue->device;
    device->last_operand = NULL;
    run(device,
        device->slowness * (2e-6 + 2.0 * (double)bytes / device->truth->memory.bytes_per_s));
    return HLM_OK;
}

static enum hlm_status fake_event_new(struct hlm_backend *backend, struct hlm_event **out,
                                      struct hlm_err *err)
{
    (void)backend;
    (void)err;
    *out = calloc(1, sizeof **out);
    return HLM_OK;
}

static void fake_event_free(struct hlm_event *event)
{
    free(event);
}

static enum hlm_status fake_record(struct hlm_queue *queue, struct hlm_event *event,
                                   struct hlm_err *err)
{
    (void)err;
    run(queue->device, 5e-7);
    event->wall_s = queue->device->device_s;
    return HLM_OK;
}

static struct hlm_event_time fake_time(struct hlm_event *event)
{
    return (struct hlm_event_time){.wall_s = event->wall_s};
}

/* Operands that the launch before had too are in the caches. */
static enum hlm_status fake_launch(struct hlm_queue *queue, const struct hlm_op *op,
                                   void *const operands[HLM_OP_MAX_OPERANDS],
                                   const struct hlm_op_scalars *scalars, struct hlm_err *err)
{
    (void)scalars;
    struct analytic *device = queue->device;
    if (device->refused == op->kind && device->num_refused >= 0) {
        device->num_refused++;
        return hlm_fail(err, HLM_ENV, "can't run %s", hlm_op_texts[op->kind]);
    }
    const int32_t kernels = hlm_kernel_launches(device->truth, op);
    const double noise = device->noise * hlm_rng_normal(3, device->num_launches++);
    const double near = operands[0] == device->last_operand ? warm_frac : 1.0;
    device->last_operand = operands[0];
    device->host_s += (double)(kernels - 1) * device->launch_s;
    run(device, device->slowness * near * (1.0 + noise) * hlm_kernel_seconds(device->truth, op));
    return HLM_OK;
}

static const struct hlm_backend_ops fake_ops = {
    .version = HLM_BACKEND_VERSION,
    .name = "analytic",
    .alloc = fake_alloc,
    .free = fake_free,
    .queue_new = fake_queue_new,
    .queue_free = fake_queue_free,
    .queue_sync = fake_sync,
    .upload = fake_upload,
    .copy = fake_copy,
    .event_new = fake_event_new,
    .event_free = fake_event_free,
    .event_record = fake_record,
    .event_time = fake_time,
    .launch = fake_launch,
};

struct fixture {
    struct hlm_arena *arena;
    struct hlm_device truth;
    struct analytic device;
    struct hlm_err err;
};

/* A built-in device, with attention in fp32 too, at a tenth of the rate. */
static bool make_truth(struct fixture *fixture)
{
    const struct hlm_device *builtin = NULL;
    if (hlm_device_load(fixture->arena, "h100-sxm-80g", &builtin, &fixture->err) != HLM_OK) {
        return false;
    }
    struct hlm_device_dtype *rows =
        HLM_ARENA_ARRAY(fixture->arena, struct hlm_device_dtype, builtin->num_dtypes);
    const struct hlm_device_dtype *bf16 = hlm_device_dtype(builtin, HLM_DTYPE_BF16);
    struct hlm_attention_curve *slow =
        HLM_ARENA_ARRAY(fixture->arena, struct hlm_attention_curve, bf16->num_attention);
    for (int32_t i = 0; i < bf16->num_attention; i++) {
        slow[i] = bf16->attention[i];
        slow[i].flops_per_s *= 0.1;
    }
    for (int32_t i = 0; i < builtin->num_dtypes; i++) {
        rows[i] = builtin->dtypes[i];
        if (rows[i].dtype == HLM_DTYPE_FP32) {
            rows[i].attention = slow;
            rows[i].num_attention = bf16->num_attention;
        }
    }
    fixture->truth = *builtin;
    fixture->truth.dtypes = rows;
    return true;
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    fixture->arena = hlm_arena_new();
    *state = fixture;
    if (!make_truth(fixture)) {
        return -1;
    }
    fixture->device = (struct analytic){.base = {&fake_ops},
                                        .truth = &fixture->truth,
                                        .host_s = 1000.0,
                                        .launch_s = 3e-6,
                                        .slowness = 1.0,
                                        .noise = 0.01,
                                        .next_address = (char *)(uintptr_t)(1 << 20),
                                        .num_refused = -1};
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    hlm_arena_free(fixture->arena);
    free(fixture);
    return 0;
}

static struct hlm_profiler_gpu_config config_for(struct fixture *fixture, double budget_s)
{
    struct hlm_profiler_gpu_config config = hlm_profiler_gpu_defaults(true);
    config.budget_s = budget_s;
    config.free_bytes = INT64_C(80) << 30;
    config.clock = (struct hlm_profiler_clock){fake_now_s, &fixture->device};
    config.source = (struct hlm_source){
        .kind = HLM_SOURCE_MEASURED, .reference = "an analytic device", .date = "2026-01-31"};
    return config;
}

static struct hlm_device new_device(const struct hlm_device *truth)
{
    return (struct hlm_device){.name = "analytic",
                               .backend = HLM_BACKEND_CUDA,
                               .memory_bytes = truth->memory_bytes,
                               .num_sms = truth->num_sms,
                               .fixed_memory_bytes = 1 << 20};
}

/* --- tests --- */

static const struct hlm_gemm_curve *gemm_of(const struct hlm_device *device, enum hlm_dtype dtype,
                                            enum hlm_gemm_layout layout)
{
    const struct hlm_device_dtype *row = hlm_device_dtype(device, dtype);
    assert_non_null(row);
    for (int32_t i = 0; i < row->num_gemm; i++) {
        if (row->gemm[i].layout == layout || row->gemm[i].layout == HLM_GEMM_ANY) {
            return &row->gemm[i];
        }
    }
    fail_msg("no curve");
    return NULL;
}

/* Mean error of the profile on products and attention that were not measured. */
static void check_other_shapes(const struct hlm_device *truth, const struct hlm_device *device)
{
    static const int64_t sizes[] = {896, 1280, 3456, 7168};
    double sum = 0.0, worst = 0.0;
    int num = 0;
    for (int i = 0; i < 4 * 4 * 4 * 3; i++) {
        const struct hlm_profiler_case what =
            hlm_profiler_product(HLM_DTYPE_BF16, (enum hlm_gemm_layout)(HLM_GEMM_TN + i % 3),
                                 sizes[i / 3 % 4], sizes[i / 12 % 4], sizes[i / 48], i % 3 == 2);
        const double error =
            fabs(hlm_kernel_seconds(device, &what.op) / hlm_kernel_seconds(truth, &what.op) - 1.0);
        sum += error;
        worst = fmax(worst, error);
        num++;
    }
    if (sum / num > 0.02 || worst > 0.08) {
        fail_msg("products: mean error %.3f, worst %.3f", sum / num, worst);
    }
}

static void check_attention(const struct hlm_device *truth, const struct hlm_device *device)
{
    for (int i = 0; i < 16; i++) {
        const struct hlm_profiler_attention shape = {.batch = 1 + i % 2,
                                                     .heads = 24,
                                                     .kv_heads = 8,
                                                     .seq_len = 768 << (i % 4),
                                                     .head_dim = i < 8 ? 64 : 128,
                                                     .causal = i / 4 % 2 == 0,
                                                     .backward = i / 8 % 2 == 0};
        const struct hlm_profiler_case what = hlm_profiler_attention(HLM_DTYPE_BF16, &shape);
        check_close(hlm_kernel_seconds(device, &what.op), hlm_kernel_seconds(truth, &what.op),
                    0.06);
    }
}

static void finds_the_device_again(void **state)
{
    struct fixture *fixture = *state;
    const struct hlm_device *truth = fixture->device.truth;
    struct hlm_device device = new_device(truth);
    struct hlm_device_meta meta = {0};
    struct hlm_profiler_gpu_config config = config_for(fixture, 600.0);
    config.quick = false;
    check_ok(hlm_profiler_gpu_measure(fixture->arena, &fixture->device.base, &config, &device,
                                      &meta, &fixture->err),
             &fixture->err);
    check_ok(hlm_device_validate(&device, "device", &fixture->err), &fixture->err);
    assert_int_equal(meta.num_left_out, 0);
    assert_int_equal(device.num_dtypes, 2);
    /* Peaks are those of the built-in device of this size. */
    check_close(hlm_device_dtype(&device, HLM_DTYPE_BF16)->peak_flops_per_s,
                hlm_device_dtype(truth, HLM_DTYPE_BF16)->peak_flops_per_s, 0.0);
    check_close(device.memory.bytes_per_s, truth->memory.bytes_per_s, 0.02);
    check_near(device.memory.t0_s, truth->memory.t0_s, 3e-7);
    check_close(device.launch_overhead_s, 3e-6, 0.05);
    for (int layout = HLM_GEMM_TN; layout <= HLM_GEMM_NT; layout++) {
        const struct hlm_gemm_curve *found =
            gemm_of(&device, HLM_DTYPE_BF16, (enum hlm_gemm_layout)layout);
        const struct hlm_gemm_curve *expected =
            gemm_of(truth, HLM_DTYPE_BF16, (enum hlm_gemm_layout)layout);
        assert_int_equal(found->form, HLM_GEMM_FORM_TILE);
        check_close(found->flops_per_s, expected->flops_per_s, 0.05);
        check_near(found->wave_frac, expected->wave_frac, 0.15);
        assert_true(found->source.num_samples > 20 && found->source.spread_frac < 0.02);
    }
    check_other_shapes(truth, &device);
    check_attention(truth, &device);
}

static const struct hlm_device_fit *fit_of(const struct hlm_device_meta *meta, const char *family)
{
    for (int32_t i = 0; i < meta->num_fits; i++) {
        if (strcmp(meta->fits[i].family, family) == 0) {
            return &meta->fits[i];
        }
    }
    fail_msg("no fit of %s", family);
    return NULL;
}

/* Kernels shorter than a launch are measured all the same, errors and warm times are told, and the
 * written file reads back. */
static void tells_how_well_it_fits(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_device device = new_device(fixture->device.truth);
    struct hlm_device_meta meta = {.host = "here", .driver = "1.2"};
    const struct hlm_profiler_gpu_config config = config_for(fixture, 120.0);
    check_ok(hlm_profiler_gpu_measure(fixture->arena, &fixture->device.base, &config, &device,
                                      &meta, &fixture->err),
             &fixture->err);
    for (int32_t i = 0; i < meta.num_fits; i++) {
        if (meta.fits[i].mean_error_frac > 0.05) {
            fail_msg("%s: mean error %.3f", meta.fits[i].family, meta.fits[i].mean_error_frac);
        }
        assert_true(meta.fits[i].worst_error_frac >= meta.fits[i].mean_error_frac);
    }
    const struct hlm_device_fit *products = fit_of(&meta, "bf16 products tn");
    assert_true(products->num_points > 50 && products->spread_frac > 0.0);
    check_close(fit_of(&meta, "norm_fwd.rmsnorm")->warm_frac, warm_frac, 0.02);
    check_near(meta.drift_frac, 0.0, 0.03);
    /* A vector of 4096 takes less than the host needs to launch it. */
    const struct hlm_op add = {.kind = HLM_OP_ADD, .dtype = HLM_DTYPE_FP32, .bytes = 49152.0};
    const double short_s = hlm_kernel_seconds(fixture->device.truth, &add);
    assert_true(short_s < 3e-6 && short_s > 0.0);
    check_close(hlm_kernel_seconds(&device, &add), short_s, 0.05);
    device.meta = &meta;
    const char *text = hlm_json_write(fixture->arena, &hlm_device_table, &device, false);
    struct hlm_device again;
    check_ok(hlm_json_read_text(fixture->arena, "again", text, strlen(text), &hlm_device_table,
                                &again, &fixture->err),
             &fixture->err);
    assert_int_equal(again.meta->num_fits, meta.num_fits);
    assert_string_equal(again.meta->host, "here");
    /* Equal measurements have equal bytes wherever they were made. */
    const char *bare = hlm_json_write(fixture->arena, &hlm_device_table, &device, true);
    assert_null(strstr(bare, "here"));
}

/* A hundred times slower: most cases can't be measured in time, and the profile says so. */
static void keeps_to_the_budget(void **state)
{
    struct fixture *fixture = *state;
    static const double budgets_s[] = {20.0, 100.0};
    int32_t num_before = 0;
    fixture->device.slowness = 100.0;
    for (size_t i = 0; i < 2; i++) {
        struct hlm_device device = new_device(fixture->device.truth);
        struct hlm_device_meta meta = {0};
        const struct hlm_profiler_gpu_config config = config_for(fixture, budgets_s[i]);
        const double start_s = fixture->device.host_s;
        check_ok(hlm_profiler_gpu_measure(fixture->arena, &fixture->device.base, &config, &device,
                                          &meta, &fixture->err),
                 &fixture->err);
        const double took_s = fixture->device.host_s - start_s;
        if (took_s > 1.1 * budgets_s[i]) {
            fail_msg("took %g s of %g", took_s, budgets_s[i]);
        }
        assert_true(meta.num_left_out > 0);
        assert_true(strstr(meta.left_out[0], "time") != NULL ||
                    strstr(meta.left_out[0], "too long") != NULL);
        int32_t num = 0;
        for (int32_t j = 0; j < meta.num_fits; j++) {
            num += meta.fits[j].num_points;
        }
        assert_true(num > num_before); /* more time, more shapes */
        num_before = num;
    }
}

/* What the backend can't run is left out by name; the rest is measured. */
static void leaves_out_what_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_device device = new_device(fixture->device.truth);
    struct hlm_device_meta meta = {0};
    const struct hlm_profiler_gpu_config config = config_for(fixture, 120.0);
    fixture->device.refused = HLM_OP_ROPE_FWD;
    fixture->device.num_refused = 0;
    check_ok(hlm_profiler_gpu_measure(fixture->arena, &fixture->device.base, &config, &device,
                                      &meta, &fixture->err),
             &fixture->err);
    assert_int_equal(meta.num_left_out, 1);
    assert_non_null(strstr(meta.left_out[0], "rope_fwd: the backend can't run them"));
    for (int32_t i = 0; i < device.num_ops; i++) {
        assert_string_not_equal(device.ops[i].op, "rope_fwd");
    }
}

/* tests/support/fake_nvml.c */
struct nvml_device {
    unsigned sm_mhz, memory_mhz, milliwatts, degrees;
    unsigned long long reasons;
};

/* A device that its power limit and heat hold back: the profile says so, and at which clocks. */
static void records_clocks_and_throttling(void **state)
{
    static const struct nvml_device hot = {1410, 2619, 699000, 87, 0x4 | 0x20};
    struct fixture *fixture = *state;
    struct hlm_device device = new_device(fixture->device.truth);
    struct hlm_device_meta meta = {0};
    struct hlm_profiler_gpu_config config = config_for(fixture, 120.0);
    void *library = dlopen(HLM_FAKE_NVML, RTLD_NOW | RTLD_LOCAL);
    assert_non_null(library);
    void *symbol = dlsym(library, "fake_nvml_set");
    void (*set)(const struct nvml_device *) = NULL;
    memcpy(&set, &symbol, sizeof symbol);
    set(&hot);
    check_ok(hlm_nvml_open(HLM_FAKE_NVML, NULL, 0, &config.nvml, &fixture->err), &fixture->err);
    check_ok(hlm_profiler_gpu_measure(fixture->arena, &fixture->device.base, &config, &device,
                                      &meta, &fixture->err),
             &fixture->err);
    hlm_nvml_close(config.nvml);
    dlclose(library);
    assert_int_equal(meta.num_states, 3);
    assert_string_equal(meta.states[1].when, "during");
    assert_string_equal(meta.states[1].throttle, "power cap, heat");
    check_close(meta.states[1].sm_clock_hz, 1.41e9, 1e-12);
    check_close(meta.states[1].temperature_c, 87.0, 1e-12);
}

/* (x - 3)^2 + (y - 0.2)^2 / 100 in [1, 10] x [0, 1]. */
static double bowl(const double *x, void *context)
{
    (void)context;
    return (x[0] - 3.0) * (x[0] - 3.0) + (x[1] - 0.2) * (x[1] - 0.2) / 100.0;
}

static void finds_a_minimum_inside_of_ranges(void **state)
{
    (void)state;
    const struct hlm_fit_range ranges[] = {{1.0, 10.0, true}, {0.0, 1.0, false}};
    double x[2] = {9.0, 0.9};
    assert_true(hlm_fit_minimise(ranges, 2, bowl, NULL, x) < 1e-8);
    check_near(x[0], 3.0, 1e-3);
    check_near(x[1], 0.2, 1e-2);
    /* The minimum lies outside: the nearest edge. */
    const struct hlm_fit_range narrow[] = {{4.0, 10.0, true}, {0.0, 0.1, false}};
    double y[2] = {9.0, 0.05};
    hlm_fit_minimise(narrow, 2, bowl, NULL, y);
    check_near(y[0], 4.0, 1e-3);
    check_near(y[1], 0.1, 1e-3);
}

/* Every case says what its operator moves, fits its own tensors and comes in order of worth. */
static void cases_are_complete(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_profiler_cases cases;
    check_ok(hlm_profiler_cases_make(fixture->arena, &cases, &fixture->err), &fixture->err);
    bool seen[HLM_NUM_OPS] = {false};
    for (int32_t i = 0; i < cases.num; i++) {
        const struct hlm_profiler_case *what = &cases.list[i];
        assert_true(i == 0 || what->tier >= cases.list[i - 1].tier);
        assert_true(what->op.bytes > 0.0);
        if (!what->is_copy) {
            check_close(what->op.bytes, hlm_op_bytes(&what->op, what->tensors), 1e-12);
            seen[what->op.kind] = true;
        }
    }
    static const enum hlm_op_kind needed[] = {
        HLM_OP_EMBED_FWD,     HLM_OP_EMBED_BWD,      HLM_OP_POSITION_FWD,   HLM_OP_POSITION_BWD,
        HLM_OP_NORM_FWD,      HLM_OP_NORM_BWD,       HLM_OP_GEMM,           HLM_OP_BIAS_ADD,
        HLM_OP_BIAS_GRAD,     HLM_OP_ROPE_FWD,       HLM_OP_ROPE_BWD,       HLM_OP_ATTENTION_FWD,
        HLM_OP_ATTENTION_BWD, HLM_OP_ACTIVATION_FWD, HLM_OP_ACTIVATION_BWD, HLM_OP_BIAS_RESIDUAL,
        HLM_OP_ADD,           HLM_OP_XENT_MAX,       HLM_OP_XENT_SUM,       HLM_OP_XENT_GRAD,
        HLM_OP_FILL_ZERO,     HLM_OP_SUM_SQUARES,    HLM_OP_ADAMW,          HLM_OP_PATCHIFY};
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        if (!seen[needed[i]]) {
            fail_msg("no case of %s", hlm_op_texts[needed[i]]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(finds_a_minimum_inside_of_ranges, setup, teardown),
        cmocka_unit_test_setup_teardown(cases_are_complete, setup, teardown),
        cmocka_unit_test_setup_teardown(finds_the_device_again, setup, teardown),
        cmocka_unit_test_setup_teardown(tells_how_well_it_fits, setup, teardown),
        cmocka_unit_test_setup_teardown(keeps_to_the_budget, setup, teardown),
        cmocka_unit_test_setup_teardown(leaves_out_what_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(records_clocks_and_throttling, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
