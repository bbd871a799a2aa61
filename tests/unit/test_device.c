#include "tests/support/check.h"

#include "profiles/builtin.h"
#include "profiles/device.h"

static int setup(void **state)
{
    *state = hlm_arena_new();
    return 0;
}

static int teardown(void **state)
{
    hlm_arena_free(*state);
    return 0;
}

static void test_all_builtin_load_and_are_canonical(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    int count = 0;
    for (const char *name = NULL; (name = hlm_device_builtin_name(count)) != NULL; count++) {
        const struct hlm_device *device = NULL;
        check_ok(hlm_device_load(arena, name, &device, &err), &err);
        assert_string_equal(device->name, name);
        assert_int_equal(device->backend, HLM_BACKEND_CUDA);
        assert_string_equal(hlm_json_write(arena, &hlm_device_table, device, false),
                            hlm_builtin_find("devices", name)->text);
    }
    assert_int_equal(count, 14);
    assert_null(hlm_device_builtin_name(-1));
}

/* Supported number formats and dense peaks, from the vendor's datasheets. */
static void test_dtypes_and_peaks(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    static const struct {
        const char *device;
        double peaks[HLM_NUM_DTYPES];
    } expected[] = {
        {"v100-sxm2-32g", {[HLM_DTYPE_FP32] = 15.7e12, [HLM_DTYPE_FP16] = 125e12}},
        {"a100-sxm-40g",
         {[HLM_DTYPE_FP32] = 19.5e12,
          [HLM_DTYPE_TF32] = 156e12,
          [HLM_DTYPE_FP16] = 312e12,
          [HLM_DTYPE_BF16] = 312e12}},
        {"a100-sxm-80g",
         {[HLM_DTYPE_FP32] = 19.5e12,
          [HLM_DTYPE_TF32] = 156e12,
          [HLM_DTYPE_FP16] = 312e12,
          [HLM_DTYPE_BF16] = 312e12}},
        {"h100-sxm-80g",
         {[HLM_DTYPE_FP32] = 67e12,
          [HLM_DTYPE_TF32] = 494.7e12,
          [HLM_DTYPE_FP16] = 989.4e12,
          [HLM_DTYPE_BF16] = 989.4e12,
          [HLM_DTYPE_FP8] = 1978.9e12}},
        {"h200-sxm-141g",
         {[HLM_DTYPE_FP32] = 67e12,
          [HLM_DTYPE_TF32] = 494.7e12,
          [HLM_DTYPE_FP16] = 989.4e12,
          [HLM_DTYPE_BF16] = 989.4e12,
          [HLM_DTYPE_FP8] = 1978.9e12}},
        {"grand-teton-h100-96g",
         {[HLM_DTYPE_FP32] = 67e12,
          [HLM_DTYPE_TF32] = 494.7e12,
          [HLM_DTYPE_FP16] = 989.4e12,
          [HLM_DTYPE_BF16] = 989.4e12,
          [HLM_DTYPE_FP8] = 1978.9e12}},
        {"gh200-96g",
         {[HLM_DTYPE_FP32] = 67e12,
          [HLM_DTYPE_TF32] = 494.7e12,
          [HLM_DTYPE_FP16] = 989.4e12,
          [HLM_DTYPE_BF16] = 989.4e12,
          [HLM_DTYPE_FP8] = 1978.9e12}},
        {"b200-sxm-180g",
         {[HLM_DTYPE_FP32] = 80e12,
          [HLM_DTYPE_TF32] = 1125e12,
          [HLM_DTYPE_FP16] = 2250e12,
          [HLM_DTYPE_BF16] = 2250e12,
          [HLM_DTYPE_FP8] = 4500e12,
          [HLM_DTYPE_MXFP8] = 4500e12,
          [HLM_DTYPE_NVFP4] = 9000e12}},
        {"b300-sxm-270g",
         {[HLM_DTYPE_FP32] = 80e12,
          [HLM_DTYPE_TF32] = 1125e12,
          [HLM_DTYPE_FP16] = 2250e12,
          [HLM_DTYPE_BF16] = 2250e12,
          [HLM_DTYPE_FP8] = 4500e12,
          [HLM_DTYPE_MXFP8] = 4500e12}},
        {"gb200-nvl-186g",
         {[HLM_DTYPE_FP32] = 80e12,
          [HLM_DTYPE_TF32] = 1250e12,
          [HLM_DTYPE_FP16] = 2500e12,
          [HLM_DTYPE_BF16] = 2500e12,
          [HLM_DTYPE_FP8] = 5000e12,
          [HLM_DTYPE_MXFP8] = 5000e12,
          [HLM_DTYPE_NVFP4] = 10e15}},
        {"gb300-nvl-284g",
         {[HLM_DTYPE_FP32] = 80e12,
          [HLM_DTYPE_TF32] = 1250e12,
          [HLM_DTYPE_FP16] = 2500e12,
          [HLM_DTYPE_BF16] = 2500e12,
          [HLM_DTYPE_FP8] = 5000e12,
          [HLM_DTYPE_MXFP8] = 5000e12,
          [HLM_DTYPE_NVFP4] = 15e15}},
        {"rtx-4090-24g",
         {[HLM_DTYPE_FP32] = 82.6e12,
          [HLM_DTYPE_FP16] = 165.2e12,
          [HLM_DTYPE_BF16] = 165.2e12,
          [HLM_DTYPE_FP8] = 330.3e12}},
        {"rtx-5090-32g",
         {[HLM_DTYPE_FP32] = 104.8e12,
          [HLM_DTYPE_FP16] = 209.5e12,
          [HLM_DTYPE_BF16] = 209.5e12,
          [HLM_DTYPE_FP8] = 419e12}},
        {"rtx-pro-6000-96g",
         {[HLM_DTYPE_FP32] = 125e12,
          [HLM_DTYPE_FP16] = 504e12,
          [HLM_DTYPE_BF16] = 504e12,
          [HLM_DTYPE_FP8] = 1008e12}},
    };
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        const struct hlm_device *device = NULL;
        check_ok(hlm_device_load(arena, expected[i].device, &device, &err), &err);
        for (int dtype = 0; dtype < HLM_NUM_DTYPES; dtype++) {
            const struct hlm_device_dtype *row = hlm_device_dtype(device, (enum hlm_dtype)dtype);
            assert_int_equal(row != NULL, expected[i].peaks[dtype] > 0.0);
            if (row != NULL) {
                check_close(row->peak_flops_per_s, expected[i].peaks[dtype], 1e-12);
            }
        }
    }
}

/* No curve may promise more than the peak, and every number says where it is from. */
static void test_curves_are_plausible(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    for (int i = 0; hlm_device_builtin_name(i) != NULL; i++) {
        const struct hlm_device *device = NULL;
        check_ok(hlm_device_load(arena, hlm_device_builtin_name(i), &device, &err), &err);
        assert_true(device->memory.bytes_per_s < device->memory.peak_bytes_per_s);
        for (int32_t d = 0; d < device->num_dtypes; d++) {
            const struct hlm_device_dtype *row = &device->dtypes[d];
            assert_true(row->num_gemm > 0);
            for (int32_t g = 0; g < row->num_gemm; g++) {
                assert_true(row->gemm[g].flops_per_s < row->peak_flops_per_s);
                assert_true(row->gemm[g].bytes_per_s <= device->memory.peak_bytes_per_s);
                assert_true(strlen(row->gemm[g].source.reference) > 10);
            }
            for (int32_t a = 0; a < row->num_attention; a++) {
                assert_true(row->attention[a].flops_per_s < row->peak_flops_per_s);
                assert_true(strlen(row->attention[a].source.reference) > 10);
            }
        }
    }
}

static void test_missing_file(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    const struct hlm_device *device = NULL;
    check_fails(hlm_device_load(arena, "no/such/device.json", &device, &err), HLM_INPUT, &err,
                "no/such/device.json");
    assert_null(device);
}

/* One built-in device with one text replaced must be refused with this message. */
static void test_refusals(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    static const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"\"power_p\": 2.37", "\"power_p\": 0.5", "power_p: expected at least 1 for form tile"},
        {"\"num_sms\": 108", "\"num_sms\": 0", "num_sms: expected at least 1"},
        {"\"layout\": \"nt\"", "\"layout\": \"any\"", "expected one curve a layout"},
        {"\"dtype\": \"tf32\"", "\"dtype\": \"fp32\"", "dtypes[1].dtype: \"fp32\" is there twice"},
        {"\"op\": \"norm_bwd\"", "\"op\": \"norm_fwd\"", "\"norm_fwd\" is there twice"},
        {"\"bytes\": 262144", "\"bytes\": 65536", "ops[0]: points[1].bytes: expected more than"},
        {"\"fixed_memory_bytes\": 3221225472", "\"fixed_memory_bytes\": 84986665369",
         "fixed_memory_bytes: expected less than memory_bytes"},
        {"\"name\": \"a100-sxm-80g\"", "\"name\": \"a:b\"", "expected a text without ':'"},
        {"\"causal\": false", "\"causal\": true", "a second curve for the same pass and mask"},
        {"\"wave_frac\": 0.116", "\"wave_frac\": 1.5", "wave_frac"},
        {"\"launch_overhead_s\": 1.5e-5", "\"launch_overhead_s\": -1", "launch_overhead_s"},
        {"\"backend\": \"cuda\"", "\"backend\": \"rocm\"", "backend"},
        {"\"num_sms\": 108", "\"num_sms\": 108, \"num_sms\": 108", "num_sms"},
        {"\"num_sms\": 108", "\"sms\": 108", "sms"},
    };
    const char *text = hlm_builtin_find("devices", "a100-sxm-80g")->text;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *at = strstr(text, cases[i].from);
        if (at == NULL) {
            fail_msg("the file has no %s", cases[i].from);
            return;
        }
        const char *broken = hlm_arena_printf(arena, "%.*s%s%s", (int)(at - text), text,
                                              cases[i].to, at + strlen(cases[i].from));
        struct hlm_device device;
        enum hlm_status status = hlm_json_read_text(arena, "d.json", broken, strlen(broken),
                                                    &hlm_device_table, &device, &err);
        if (status == HLM_OK) {
            status = hlm_device_validate(&device, "d.json", &err);
        }
        check_fails(status, HLM_INPUT, &err, cases[i].message);
        assert_non_null(strstr(err.text, "d.json"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_builtin_load_and_are_canonical, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dtypes_and_peaks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_curves_are_plausible, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
