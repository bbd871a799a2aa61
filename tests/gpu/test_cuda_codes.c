/* What NVIDIA's own calls return on a machine without a driver: the codes that the gates of
 * exec/cuda_loader.h and the module's messages rest on. */
#include "tests/support/check.h"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <nccl.h>

/* Where a driver is, the calls work and say nothing about this. */
static void skip_with_driver(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (driver != NULL) {
        dlclose(driver);
        skip();
    }
}

static void runtime(void **state)
{
    (void)state;
    skip_with_driver();
    int version = -1, num = -1;
    void *memory = NULL;
    cudaStream_t stream = NULL;
    assert_int_equal(cudaDriverGetVersion(&version), cudaSuccess);
    assert_int_equal(version, 0);
    assert_int_equal(cudaErrorInsufficientDriver, 35);
    assert_int_equal(cudaGetDeviceCount(&num), cudaErrorInsufficientDriver);
    assert_int_equal(cudaSetDevice(0), cudaErrorInsufficientDriver);
    assert_int_equal(cudaMalloc(&memory, 16), cudaErrorInsufficientDriver);
    assert_int_equal(cudaStreamCreate(&stream), cudaErrorInsufficientDriver);
    assert_int_equal(cudaHostAlloc(&memory, 16, cudaHostAllocDefault), cudaErrorInsufficientDriver);
}

static void matrix_library(void **state)
{
    (void)state;
    skip_with_driver();
    cublasHandle_t handle = NULL;
    int major = 0;
    assert_int_equal(cublasCreate(&handle), CUBLAS_STATUS_NOT_INITIALIZED);
    assert_int_equal(CUBLAS_STATUS_NOT_INITIALIZED, 1);
    assert_int_equal(cublasGetProperty(MAJOR_VERSION, &major), CUBLAS_STATUS_SUCCESS);
    assert_true(major >= 12);
}

/* An id is made without a device; it is the communicator that fails. */
static void communication_library(void **state)
{
    (void)state;
    skip_with_driver();
    int version = 0;
    ncclUniqueId id;
    ncclComm_t comm = NULL;
    assert_int_equal(ncclGetVersion(&version), ncclSuccess);
    assert_true(version > 20000);
    assert_int_equal(ncclGetUniqueId(&id), ncclSuccess);
    assert_int_equal(ncclCommInitRank(&comm, 1, id, 0), ncclUnhandledCudaError);
    assert_int_equal(ncclUnhandledCudaError, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runtime),
        cmocka_unit_test(matrix_library),
        cmocka_unit_test(communication_library),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
