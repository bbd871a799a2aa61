/* wire: element types and reductions of collectives, as transports (exec/comm/comm.h) and backends
 * (exec/backend.h) speak of them. */
#ifndef HLM_EXEC_WIRE_H
#define HLM_EXEC_WIRE_H

#include <stdint.h>

#define HLM_REDUCE_MAP(X) X(SUM, "sum") X(MAX, "max")
enum hlm_reduce {
#define X(name, text) HLM_REDUCE_##name,
    HLM_REDUCE_MAP(X)
#undef X
};

/* X(constant, text, bytes of an element) */
#define HLM_WIRE_MAP(X) X(F32, "f32", 4) X(F64, "f64", 8) X(BF16, "bf16", 2) X(BYTE, "byte", 1)
enum hlm_wire {
#define X(name, text, bytes) HLM_WIRE_##name,
    HLM_WIRE_MAP(X)
#undef X
};
extern const char *const hlm_wire_texts[];

int64_t hlm_wire_bytes(enum hlm_wire type);

/* out[i] = a[i] + b[i], or the larger one (NaN where either is). out may be a or b. bf16 is added
 * in fp32 and rounded to nearest even; bytes are added modulo 256. Host memory. */
void hlm_wire_reduce(void *out, const void *a, const void *b, int64_t count, enum hlm_wire type,
                     enum hlm_reduce op);

#endif
