/* block_run: a layer of a small model on a device, every tensor in memory of its own, so that its
 * lists can be launched in several ways and the results compared. Failures end the test (cmocka).
 */
#ifndef HLM_TESTS_GPU_BLOCK_RUN_H
#define HLM_TESTS_GPU_BLOCK_RUN_H

#include "exec/fusion.h"
#include "tests/gpu/device.h"
#include "tests/support/blocks.h"

struct block_run {
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    struct hlm_arena *arena;
    const struct hlm_block *block;
    struct hlm_fusion fusion;
    void **memory; /* [num_tensors] on the device */
};

/* PLAIN: the block's own operators one by one; SINGLE: those of hlm_fusion one by one; LIST: these
 * by launch_list. */
enum block_way { BLOCK_PLAIN, BLOCK_SINGLE, BLOCK_LIST };

/* A dense layer of `kind` in fp32 or bf16 on a backend with these options. */
void block_run_init(struct block_run *run, enum tiny_kind kind, enum hlm_dtype dtype,
                    enum hlm_recompute recompute, const struct hlm_cuda_options *options);
void block_run_release(struct block_run *run);

/* Inputs, gradients of the output and parameters from the seed, zero sums, all else NaN. */
void block_run_fill(struct block_run *run, uint64_t seed);

/* Puts the forward, then the backward on the queue, in halves where asked for. */
void block_run_forward(struct block_run *run, enum block_way way);
void block_run_backward(struct block_run *run, enum block_way way, bool in_halves);

/* Output, gradient of the input, gradients of all parameters, one after the other. Waits. */
int64_t block_run_count(const struct block_run *run);
void block_run_results(struct block_run *run, double *results);

#endif
