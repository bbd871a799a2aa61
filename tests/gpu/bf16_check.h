/* bf16_check: runs one operator in bf16 on a device and in fp32 on the CPU backend, from the same
 * values (those that both formats hold), and compares.
 *
 * Outputs are NaN before the launch. After it, written operands agree within `tolerance` * (1 + the
 * operand's largest magnitude): a few roundings of bf16 (2^-8 each) for tensors. A second launch
 * from the same values gives the same bits. Failures end the test (cmocka).
 */
#ifndef HLM_TESTS_GPU_BF16_CHECK_H
#define HLM_TESTS_GPU_BF16_CHECK_H

#include "base/arena.h"
#include "base/rng.h"
#include "exec/backend.h"

struct bf16_check {
    struct hlm_backend *device, *cpu;
    struct hlm_queue *device_queue, *cpu_queue;
    struct hlm_arena *arena;
    struct hlm_rng rng;
};

void bf16_check_init(struct bf16_check *check, struct hlm_backend *device);
void bf16_check_release(struct bf16_check *check);

/* One operand. Types: 't' tensor (bf16 on the device), 'f' fp32 on both, 'd' double, 'i' int32, '-'
 * absent. values: what stands there before, NULL for random ones (tensors and 'f' only); the CPU's
 * results afterwards, to be the input of the next operator. */
struct bf16_operand {
    char type;
    int64_t count;
    double *values;
};

/* op->dtype is set here. operands: in the order of HLM_OP_MAP, one for each operand of the kind. */
void bf16_check_run(struct bf16_check *check, const struct hlm_op *op,
                    struct bf16_operand *operands, const struct hlm_op_scalars *scalars,
                    double tolerance);

/* count values of mean 0 and variance 1 that bf16 holds exactly; from the arena. */
double *bf16_check_random(struct bf16_check *check, int64_t count);

#endif
