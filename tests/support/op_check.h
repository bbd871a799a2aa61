/* op_check: runs one operator on a backend and holds it against tests/support/op_reference.h.
 *
 * Inputs are random fp32 values; outputs are NaN before the launch; every operand stands between
 * sentinels. After it: written operands agree with the reference, read ones are untouched bit by
 * bit, sentinels stand. "Agree" means |actual - expected| <= tolerance * (1 + the operand's largest
 * expected magnitude). All failures end the test (cmocka).
 */
#ifndef HLM_TESTS_SUPPORT_OP_CHECK_H
#define HLM_TESTS_SUPPORT_OP_CHECK_H

#include "base/arena.h"
#include "base/rng.h"
#include "exec/backend.h"

struct op_check {
    struct hlm_backend *backend; /* the caller's */
    struct hlm_queue *queue;
    struct hlm_arena *arena;
    struct hlm_rng rng;
    double tolerance;
};

void op_check_init(struct op_check *check, struct hlm_backend *backend, double tolerance);
void op_check_release(struct op_check *check);

/* A forward operator. Bit i of `absent`: operand i is not given. */
void op_check_forward(struct op_check *check, const struct hlm_op *op, unsigned absent);

/* A backward operator `kind` with the dimensions of `forward`, against central differences of the
 * sum of dout * out over the reference of `forward` (h = 1e-4, error about 1e-8; all elements of
 * small operands, 64 of large ones). PERMUTE and UNPERMUTE, each other's, have m and k of the
 * other. `map` has a word per operand of the backward: v<i> the value of operand i of the forward,
 * d<i> the gradient of its output i, g<i> where the gradient of operand i goes (added to what
 * stands there if the operator accumulates), x<i> the same in place of the gradient of the output,
 * r a gradient added to g0, - absent. */
void op_check_backward(struct op_check *check, const struct hlm_op *forward, enum hlm_op_kind kind,
                       const char *map, unsigned absent_forward);

/* Memory of the backend between sentinels, filled from count doubles; NULL poisons it with NaN. */
enum op_check_type { OP_CHECK_FLOAT, OP_CHECK_DOUBLE, OP_CHECK_INT };
struct op_check_memory {
    enum op_check_type type;
    int64_t count;
    unsigned char *base, *host; /* base: the backend's, host: what was uploaded */
    void *data;                 /* behind the first sentinels */
};
void op_check_memory_new(struct op_check *check, struct op_check_memory *memory,
                         enum op_check_type type, int64_t count, const double *values);
/* Downloads, checks the sentinels (and, where read_only, every bit), and fills values[count]. */
void op_check_memory_read(struct op_check *check, const struct op_check_memory *memory,
                          bool read_only, double *values);
void op_check_memory_free(struct op_check *check, struct op_check_memory *memory);

/* count values of mean 0 and variance 1 that fp32 holds exactly; from the arena. */
double *op_check_random(struct op_check *check, int64_t count);

/* Fails unless actual[i] agrees with expected[i] for all i; where expected is NaN, actual is only
 * required to be finite. */
void op_check_agree(const struct op_check *check, const char *what, const double *actual,
                    const double *expected, int64_t count);

#endif
