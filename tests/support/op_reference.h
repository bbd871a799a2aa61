/* op_reference: the forward operators once more, in double and as plainly as their definition
 * (costmodel/op.h) can be written: the yardstick of every backend. Gradients follow from it by
 * finite differences, so there is no second backward that could share a mistake.
 */
#ifndef HLM_TESTS_SUPPORT_OP_REFERENCE_H
#define HLM_TESTS_SUPPORT_OP_REFERENCE_H

#include <stdbool.h>

#include "costmodel/op.h"

/* Computes the operator in place of operands[], which are in the order of HLM_OP_MAP, all of them
 * doubles (tokens and targets too), NULL for absent ones. False when the kind has no reference:
 * only forward operators of a run have one. */
bool hlm_op_reference(const struct hlm_op *op, double *const operands[HLM_OP_MAX_OPERANDS]);

/* Elements of each operand of such an operator, 0 for what it does not have. Optional operands are
 * counted as if they were there. */
void hlm_op_reference_counts(const struct hlm_op *op, int64_t counts[HLM_OP_MAX_OPERANDS]);

#endif
