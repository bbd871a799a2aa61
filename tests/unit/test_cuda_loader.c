/* The gates in front of the CUDA module, as far as they can be shut without it. Where the module
 * was built, tests/gpu/test_cuda_module.c goes on. */
#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/support/check.h"

#include "exec/cuda_loader.h"

/* A library that every machine has, in place of one that it may lack. */
static const char any_library[] = "libm.so.6";

static void check_shut(const struct hlm_cuda_loader *loader, enum hlm_cuda_gate expected,
                       const char *text)
{
    struct hlm_err err = {0};
    struct hlm_cuda cuda = {.num_devices = 17};
    enum hlm_cuda_gate gate = HLM_NUM_CUDA_GATES;
    check_fails(hlm_cuda_open(loader, &cuda, &gate, &err), HLM_ENV, &err, text);
    assert_int_equal(gate, expected);
    assert_non_null(strstr(err.text, hlm_cuda_gate_texts[expected]));
    assert_null(cuda.module);
    assert_int_equal(cuda.num_devices, 17);
    check_fails(hlm_cuda_open(loader, &cuda, NULL, &err), HLM_ENV, &err, text);
}

/* Whether a library of that name is loaded in this process. */
static bool is_loaded(const char *name)
{
    char line[PATH_MAX + 128];
    bool found = false;
    FILE *maps = fopen("/proc/self/maps", "re");
    assert_non_null(maps);
    while (!found && fgets(line, sizeof line, maps) != NULL) {
        found = strstr(line, name) != NULL;
    }
    fclose(maps);
    return found;
}

/* Behind a shut first gate none of NVIDIA's large libraries is touched, though the module with them
 * may be there. */
static void test_nothing_is_loaded(void **state)
{
    (void)state;
    static const char *const libraries[] = {"libcudart", "libcublasLt", "libnccl",
                                            "libhlmplan_cuda"};
    const struct hlm_cuda_loader loader = {.driver = "libcuda-of-no-machine.so.1"};
    struct hlm_cuda cuda;
    struct hlm_err err;
    assert_true(is_loaded("libc"));
    assert_int_equal(hlm_cuda_open(&loader, &cuda, NULL, &err), HLM_ENV);
    for (size_t i = 0; i < sizeof libraries / sizeof libraries[0]; i++) {
        assert_false(is_loaded(libraries[i]));
    }
}

static void test_no_driver(void **state)
{
    (void)state;
    const struct hlm_cuda_loader loader = {.driver = "libcuda-of-no-machine.so.1",
                                           .module = any_library};
    check_shut(&loader, HLM_CUDA_GATE_DRIVER,
               "no CUDA: the NVIDIA driver's library: libcuda-of-no-machine.so.1: cannot open "
               "shared object file");
}

static void test_this_machine(void **state)
{
    (void)state;
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (driver != NULL) {
        dlclose(driver);
        skip();
    }
    const struct hlm_cuda_loader loader = {0};
    check_shut(&loader, HLM_CUDA_GATE_DRIVER, "libcuda.so.1: cannot open shared object file");
}

static void test_no_module(void **state)
{
    (void)state;
    const struct hlm_cuda_loader loader = {.driver = any_library,
                                           .module = "/nowhere/libhlmplan_cuda.so"};
    check_shut(&loader, HLM_CUDA_GATE_MODULE,
               "no CUDA: the CUDA module: /nowhere/libhlmplan_cuda.so: cannot open shared object "
               "file");
}

static bool module_is_beside_program(void)
{
    char path[PATH_MAX + sizeof "libhlmplan_cuda.so"];
    const ssize_t length = readlink("/proc/self/exe", path, PATH_MAX);
    assert_true(length > 0);
    path[length] = '\0';
    strcpy(strrchr(path, '/') + 1, "libhlmplan_cuda.so");
    return access(path, F_OK) == 0;
}

/* The build puts the module, where there is one, beside the programs: then these gates open. */
static void test_module_beside_program(void **state)
{
    (void)state;
    const struct hlm_cuda_loader loader = {.driver = any_library};
    struct hlm_err err = {0};
    struct hlm_cuda cuda = {0};
    enum hlm_cuda_gate gate = HLM_NUM_CUDA_GATES;
    if (!module_is_beside_program()) {
        check_shut(&loader, HLM_CUDA_GATE_MODULE, "libhlmplan_cuda.so: cannot open");
    } else if (hlm_cuda_open(&loader, &cuda, &gate, &err) != HLM_OK) {
        assert_true(gate > HLM_CUDA_GATE_VERSION);
    } else {
        assert_true(cuda.module != NULL && cuda.num_devices > 0);
    }
}

static void test_other_library(void **state)
{
    (void)state;
    const struct hlm_cuda_loader loader = {.driver = any_library, .module = any_library};
    check_shut(&loader, HLM_CUDA_GATE_VERSION,
               "no CUDA: the CUDA module's version: it has no function hlm_cuda_module");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_loaded),     cmocka_unit_test(test_no_driver),
        cmocka_unit_test(test_this_machine),          cmocka_unit_test(test_no_module),
        cmocka_unit_test(test_module_beside_program), cmocka_unit_test(test_other_library),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
