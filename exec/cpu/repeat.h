/* repeat: what an operator changes, so that it can run several times and leave the result of once.
 *
 * Inputs and outputs never alias (costmodel/op.h), so an operator that only reads and writes may
 * run as often as one likes. One that adds to an operand, or works in place, runs all times but the
 * last on a copy of what it changes.
 */
#ifndef HLM_EXEC_CPU_REPEAT_H
#define HLM_EXEC_CPU_REPEAT_H

#include "exec/cpu/cpu.h"

/* Floats of operand i that running the operator once more would change: of operands marked '+' in
 * HLM_OP_MAP, as far as the operator reaches into them. 0: running again leaves the same there. */
int64_t hlm_cpu_changed_floats(const struct hlm_op *op, int32_t operand);

/* Floats that copies of all of them need, those of absent operands not counted. */
int64_t hlm_cpu_copies_floats(const struct hlm_op *op, void *const *operands);

/* Runs the kernel `times` times, all but the last with copies, at `copies`
 * [hlm_cpu_copies_floats], in place of what it changes. */
void hlm_cpu_run_repeated(void (*run)(const struct hlm_cpu_call *call),
                          const struct hlm_cpu_call *call, int32_t times, float *copies);

#endif
