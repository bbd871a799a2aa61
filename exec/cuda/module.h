/* module: what libhlmplan_cuda.so offers to the program that loads it (exec/cuda_loader.h). No CUDA
 * or NCCL type appears here.
 *
 * The module exports one function, hlm_cuda_module; everything else is reached through its table.
 * Nothing in the module touches the driver before the first call of one of the table's functions.
 */
#ifndef HLM_EXEC_CUDA_MODULE_H
#define HLM_EXEC_CUDA_MODULE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "exec/backend.h"
#include "exec/comm.h"

/* Grows with every change of this header, of exec/backend.h, exec/comm.h or struct hlm_op. */
enum { HLM_CUDA_ABI_VERSION = 1 };

enum { HLM_CUDA_COMM_ID_BYTES = 128 };

/* As the runtime libraries number themselves: CUDA 1000 * major + 10 * minor, cuBLAS 10000 * major
 * + 100 * minor + patch, NCCL the same; driver 0 where there is none. */
struct hlm_cuda_versions {
    int64_t driver, runtime, cublas, nccl;
};

struct hlm_cuda_device {
    char name[256];
    int64_t memory_bytes, free_bytes;
    int32_t num_sms, major, minor; /* streaming multiprocessors; compute capability */
};

struct hlm_cuda_options {
    int32_t device;
    /* Take the fastest of several algorithms for each shape of a matrix product, by timing them at
     * its first use; else the library's first suggestion, which is the same in every run. */
    bool timed_products;
};

/* One rank of a job over NCCL. `id` comes from comm_id of one rank and is the same on all. */
struct hlm_cuda_comm_config {
    const struct hlm_comm_config *comm;
    int32_t rank;
    unsigned char id[HLM_CUDA_COMM_ID_BYTES];
};

struct hlm_cuda_module {
    int abi_version, backend_version;
    struct hlm_cuda_versions (*versions)(void);
    /* HLM_ENV with the runtime's words and number where there is no driver, no device, or a driver
     * that is too old. *out >= 1. */
    enum hlm_status (*num_devices)(int32_t *out, struct hlm_err *err);
    enum hlm_status (*device)(int32_t device, struct hlm_cuda_device *out, struct hlm_err *err);
    /* Opens and closes the matrix library: HLM_ENV where it can't work on this machine. */
    enum hlm_status (*check_library)(struct hlm_err *err);
    /* One per rank; it is used by the thread that makes it, whose current device it sets. */
    enum hlm_status (*backend_new)(const struct hlm_cuda_options *options, struct hlm_backend **out,
                                   struct hlm_err *err);

    /* NCCL. An id names one job; any rank may make it and hand it to the others. */
    enum hlm_status (*comm_id)(unsigned char id[HLM_CUDA_COMM_ID_BYTES], struct hlm_err *err);
    /* A transport (stream_ordered) for the device of `backend`, which must outlive it. collective
     * over all ranks. */
    enum hlm_status (*comm_new)(const struct hlm_cuda_comm_config *config,
                                struct hlm_backend *backend, struct hlm_comm **out,
                                struct hlm_err *err);
    /* The queue of the same backend on which the transport's operations are ordered from now on. A
     * sync of it also watches the transport. Needed before the first operation. */
    void (*comm_use_queue)(struct hlm_comm *comm, struct hlm_queue *queue);
};

/* NULL when the module was built for another abi_version. */
const struct hlm_cuda_module *hlm_cuda_module(int abi_version);

#endif
