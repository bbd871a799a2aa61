#include "exec/cuda/module.h"

#include <stdio.h>

#include <nccl.h>

#include "exec/cuda/comm_nccl.h"
#include "exec/cuda/gemm_lt.h"
#include "exec/cuda/host.h"

static struct hlm_cuda_versions versions(void)
{
    int driver = 0, runtime = 0, nccl = 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    (void)ncclGetVersion(&nccl);
    return (struct hlm_cuda_versions){
        .driver = driver, .runtime = runtime, .cublas = hlm_cuda_lt_version(), .nccl = nccl};
}

static enum hlm_status num_devices(int32_t *out, struct hlm_err *err)
{
    int num = 0;
    HLM_TRY(hlm_cuda_check(cudaGetDeviceCount(&num), "counting devices", err));
    if (num < 1) {
        return hlm_fail(err, HLM_ENV, "CUDA: the driver knows no device");
    }
    *out = num;
    return HLM_OK;
}

static enum hlm_status device(int32_t index, struct hlm_cuda_device *out, struct hlm_err *err)
{
    struct cudaDeviceProp properties;
    size_t free_bytes = 0, all_bytes = 0;
    HLM_TRY(
        hlm_cuda_check(cudaGetDeviceProperties(&properties, index), "describing a device", err));
    HLM_TRY(hlm_cuda_check(cudaSetDevice(index), "choosing the device", err));
    HLM_TRY(hlm_cuda_check(cudaMemGetInfo(&free_bytes, &all_bytes), "asking for memory", err));
    *out = (struct hlm_cuda_device){.memory_bytes = (int64_t)all_bytes,
                                    .free_bytes = (int64_t)free_bytes,
                                    .num_sms = properties.multiProcessorCount,
                                    .major = properties.major,
                                    .minor = properties.minor};
    snprintf(out->name, sizeof out->name, "%s", properties.name);
    snprintf(out->pci_bus_id, sizeof out->pci_bus_id, "%08X:%02X:%02X.0",
             (unsigned)properties.pciDomainID, (unsigned)properties.pciBusID,
             (unsigned)properties.pciDeviceID);
    return HLM_OK;
}

static enum hlm_status check_library(struct hlm_err *err)
{
    struct hlm_cuda_lt *lt = NULL;
    HLM_TRY(hlm_cuda_lt_new(false, &lt, err));
    hlm_cuda_lt_free(lt);
    return HLM_OK;
}

__attribute__((visibility("default"))) const struct hlm_cuda_module *
hlm_cuda_module(int abi_version)
{
    static const struct hlm_cuda_module module = {
        .abi_version = HLM_CUDA_ABI_VERSION,
        .backend_version = HLM_BACKEND_VERSION,
        .versions = versions,
        .num_devices = num_devices,
        .device = device,
        .check_library = check_library,
        .backend_new = hlm_cuda_backend_new,
        .choices = hlm_cuda_choices,
        .use_choices = hlm_cuda_use_choices,
        .comm_id = hlm_cuda_comm_id,
        .comm_new = hlm_cuda_comm_new,
    };
    return abi_version == HLM_CUDA_ABI_VERSION ? &module : NULL;
}
