/* fuse: which neighbours of a list one matrix product can do along (the epilogues of
 * exec/cuda/module.h). Pure: looks at operators and addresses, launches nothing.
 *
 * What is found (gelu in its tanh form, biases optional where in brackets):
 *   gemm, bias_add                          BIAS
 *   gemm, [bias_add,] activation_fwd gelu   GELU, with AUX unless the product's result dies
 *   gemm, bias_residual                     RESIDUAL; the product's result dies
 *   gemm, activation_bwd gelu               DGELU; the product's result dies
 *   bias_grad, gemm of the same gradient    BGRAD
 * Other products, norms and element-wise operators may stand between where they touch nothing of
 * what moves past them. Nothing is found where addresses overlap in a way that one call could not
 * bear (a result that lies where a factor lay), or are not aligned to 16 bytes as the library wants
 * biases and auxiliary matrices.
 */
#ifndef HLM_EXEC_CUDA_FUSE_H
#define HLM_EXEC_CUDA_FUSE_H

#include <stdbool.h>
#include <stdint.h>

#include "exec/backend.h"
#include "exec/cuda/module.h"

/* How far a list is looked ahead, and the most members of a group. */
enum { HLM_CUDA_FUSE_WINDOW = 6, HLM_CUDA_FUSE_MEMBERS = 3 };

struct hlm_cuda_group {
    enum hlm_cuda_epilogue epilogue;
    const struct hlm_launch *product;
    const struct hlm_launch *others[HLM_CUDA_FUSE_MEMBERS - 1];
    int num_others;
    uint32_t members; /* bit k: list[k] is one */
    void *result, *bias, *aux;
    const void *residual;
};

/* Groups that begin with list[0]; bit k of taken: list[k] has run already. Returns how many were
 * found, 0 to 2, the largest first. */
int hlm_cuda_fuse_find(const struct hlm_launch *list, int32_t num, uint32_t taken,
                       struct hlm_cuda_group out[2]);

#endif
