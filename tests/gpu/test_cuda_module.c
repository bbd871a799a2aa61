/* The module itself: its table, and on a machine without a driver the exact answers that it and the
 * loader give. */
#include <dlfcn.h>

#include "exec/cuda_loader.h"
#include "tests/support/check.h"

static bool machine_has_driver(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (driver != NULL) {
        dlclose(driver);
    }
    return driver != NULL;
}

/* Past the gate of the driver's library, which it may lack. */
static const struct hlm_cuda_module *module_table(int abi_version)
{
    const struct hlm_cuda_module *(*table)(int) = NULL;
    void *library = dlopen(HLM_CUDA_MODULE, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fail_msg("%s", dlerror());
    }
    void *symbol = dlsym(library, "hlm_cuda_module");
    memcpy(&table, &symbol, sizeof table);
    assert_non_null(symbol);
    return table(abi_version);
}

static void test_table(void **state)
{
    (void)state;
    const struct hlm_cuda_module *module = module_table(HLM_CUDA_ABI_VERSION);
    assert_non_null(module);
    assert_int_equal(module->abi_version, HLM_CUDA_ABI_VERSION);
    assert_int_equal(module->backend_version, HLM_BACKEND_VERSION);
    assert_non_null(module->choices);
    assert_non_null(module->use_choices);
    assert_null(module_table(HLM_CUDA_ABI_VERSION + 1));
    const struct hlm_cuda_versions versions = module->versions();
    assert_true(versions.runtime >= 12000);
    assert_true(versions.cublas >= 120000);
    assert_true(versions.nccl >= 21800);
    assert_int_equal(versions.driver > 0, machine_has_driver());
}

static void test_gate_without_driver(void **state)
{
    (void)state;
    if (machine_has_driver()) {
        skip();
    }
    struct hlm_err err = {0};
    struct hlm_cuda cuda = {0};
    enum hlm_cuda_gate gate = HLM_NUM_CUDA_GATES;
    const struct hlm_cuda_loader loader = {.driver = "libm.so.6", .module = HLM_CUDA_MODULE};
    check_fails(hlm_cuda_open(&loader, &cuda, &gate, &err), HLM_ENV, &err,
                "no CUDA: a device: CUDA: counting devices: CUDA driver version is insufficient "
                "for CUDA runtime version (cudaErrorInsufficientDriver, 35)");
    assert_int_equal(gate, HLM_CUDA_GATE_DEVICE);
}

static void test_answers_without_driver(void **state)
{
    (void)state;
    if (machine_has_driver()) {
        skip();
    }
    const struct hlm_cuda_module *module = module_table(HLM_CUDA_ABI_VERSION);
    struct hlm_err err = {0};
    struct hlm_backend *backend = NULL;
    struct hlm_cuda_device device;
    int32_t num = 0;
    unsigned char id[HLM_CUDA_COMM_ID_BYTES] = {0};
    const struct hlm_cuda_options options = {.timed_products = true};
    check_fails(module->num_devices(&num, &err), HLM_ENV, &err, "cudaErrorInsufficientDriver, 35");
    check_fails(module->device(0, &device, &err), HLM_ENV, &err, "cudaErrorInsufficientDriver, 35");
    check_fails(module->check_library(&err), HLM_ENV, &err,
                "cublasLtCreate: CUBLAS_STATUS_NOT_INITIALIZED (1)");
    check_fails(module->backend_new(&options, &backend, &err), HLM_ENV, &err,
                "cudaErrorInsufficientDriver, 35");
    assert_null(backend);
    check_ok(module->comm_id(id, &err), &err); /* an id needs no device */
}

static void test_device(void **state)
{
    (void)state;
    if (!machine_has_driver()) {
        skip();
    }
    struct hlm_err err;
    struct hlm_cuda_device device = {0};
    const struct hlm_cuda_module *module = module_table(HLM_CUDA_ABI_VERSION);
    check_ok(module->device(0, &device, &err), &err);
    assert_true(device.name[0] != '\0' && device.major >= 8 && device.num_sms > 0);
    assert_true(device.free_bytes > 0 && device.free_bytes <= device.memory_bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_gate_without_driver),
        cmocka_unit_test(test_answers_without_driver),
        cmocka_unit_test(test_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
