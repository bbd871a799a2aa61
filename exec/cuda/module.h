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

#include "base/arena.h"
#include "base/err.h"
#include "exec/backend.h"
#include "exec/comm/comm.h"

/* Grows with every change of this header, of exec/backend.h, exec/comm/comm.h or struct hlm_op. */
enum { HLM_CUDA_ABI_VERSION = 2 };

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
    char pci_bus_id[32];           /* "00000000:1B:00.0", by which exec/profiler/nvml.h finds it */
};

/* When a matrix product does what follows it too (launch_list). BY_TIME: where that was faster than
 * apart when the shape was first used; apart when products are not timed. */
#define HLM_CUDA_FUSE_MAP(X) X(BY_TIME, "by-time") X(NEVER, "never") X(ALWAYS, "always")
enum hlm_cuda_fuse {
#define X(name, text) HLM_CUDA_FUSE_##name,
    HLM_CUDA_FUSE_MAP(X)
#undef X
};

/* Zeros are good for repeatable runs. */
struct hlm_cuda_options {
    int32_t device;
    /* Take the fastest of several algorithms for each shape of a matrix product, by timing them at
     * its first use; else the library's first suggestion, which is the same in every run. */
    bool timed_products;
    enum hlm_cuda_fuse fuse;
};

/* --- choices of algorithms ---
 *
 * What a backend has chosen for its matrix products, to be kept (beside the profile, as JSON: all
 * fields below but nothing else) and handed to a later backend, which then starts without timing.
 * The library promises that the bytes of an algorithm mean the same in every process with the same
 * version of it; on another device they may be refused or slow, so both are compared. */
enum { HLM_CUDA_CHOICES_VERSION = 1, HLM_CUDA_ALGORITHM_BYTES = 64 };

/* What follows a product in the same call. RESIDUAL adds a tensor; AUX: what goes into GELU is
 * kept; BGRAD: column sums of the first factor. */
#define HLM_CUDA_EPILOGUE_MAP(X)                                                                   \
    X(NONE, "none")                                                                                \
    X(BIAS, "bias")                                                                                \
    X(GELU, "gelu")                                                                                \
    X(GELU_BIAS, "gelu-bias")                                                                      \
    X(GELU_AUX, "gelu-aux")                                                                        \
    X(GELU_AUX_BIAS, "gelu-aux-bias")                                                              \
    X(RESIDUAL, "residual")                                                                        \
    X(RESIDUAL_BIAS, "residual-bias")                                                              \
    X(DGELU, "dgelu")                                                                              \
    X(BGRAD, "bgrad")
enum hlm_cuda_epilogue {
#define X(name, text) HLM_CUDA_EPILOGUE_##name,
    HLM_CUDA_EPILOGUE_MAP(X)
#undef X
        HLM_NUM_CUDA_EPILOGUES
};

/* What a choice depends on: a product of the list (HLM_OP_GEMM) with what follows it. Alignments:
 * the largest power of two up to 16 that divides the addresses of a, b, c. */
struct hlm_cuda_shape {
    enum hlm_cuda_epilogue epilogue;
    enum hlm_gemm_layout layout;
    enum hlm_dtype dtype; /* of the product: fp32, tf32 or bf16 */
    bool fp32_result;     /* c is fp32 (gradients of weights), else as dtype */
    bool accumulate;
    int64_t m, n, k;
    int32_t alignment[3];
};

/* time_s: the median when it was chosen, 0 where it was not timed. fused: false where the epilogue
 * lost against separate kernels (the algorithm then only says that it was tried). */
struct hlm_cuda_choice {
    struct hlm_cuda_shape shape;
    bool fused;
    double time_s;
    unsigned char algorithm[HLM_CUDA_ALGORITHM_BYTES];
};

struct hlm_cuda_choices {
    int32_t version; /* HLM_CUDA_CHOICES_VERSION */
    int64_t cublas;  /* as in struct hlm_cuda_versions */
    char device[256];
    int32_t major, minor, num_sms;
    const struct hlm_cuda_choice *list; /* [num], in the order of first use */
    int32_t num;
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
    /* The choices that `backend` has made or taken over so far; list lies in the arena. */
    void (*choices)(struct hlm_backend *backend, struct hlm_arena *arena,
                    struct hlm_cuda_choices *out);
    /* Takes over the choices, which are copied; those it has made stay. Products not among them are
     * timed as ever, and so are those whose algorithm the library refuses at first use. HLM_ENV,
     * and nothing changes: they are of another version, library or device, as the message says;
     * callers go on without them. */
    enum hlm_status (*use_choices)(struct hlm_backend *backend,
                                   const struct hlm_cuda_choices *choices, struct hlm_err *err);

    /* NCCL. An id names one job; any rank may make it and hand it to the others. */
    enum hlm_status (*comm_id)(unsigned char id[HLM_CUDA_COMM_ID_BYTES], struct hlm_err *err);
    /* A transport (stream_ordered) for the device of `backend`, which must outlive it. collective
     * over all ranks. */
    enum hlm_status (*comm_new)(const struct hlm_cuda_comm_config *config,
                                struct hlm_backend *backend, struct hlm_comm **out,
                                struct hlm_err *err);
};

/* NULL when the module was built for another abi_version. */
const struct hlm_cuda_module *hlm_cuda_module(int abi_version);

#endif
