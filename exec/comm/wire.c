#include "exec/comm/wire.h"

#include <stdbool.h>
#include <string.h>

const char *const hlm_wire_texts[] = {
#define X(name, text, size) text,
    HLM_WIRE_MAP(X)
#undef X
};

int64_t hlm_wire_bytes(enum hlm_wire type)
{
    static const int64_t bytes[] = {
#define X(name, text, size) size,
        HLM_WIRE_MAP(X)
#undef X
    };
    return bytes[type];
}

static float bf16_value(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static uint16_t bf16_bits(float value)
{
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    if ((wide & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((wide >> 16) | 0x40u); /* rounding could turn a NaN into infinity */
    }
    return (uint16_t)((wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16);
}

/* One loop a type and operation, so that the compiler can make vectors of each. */
#define DEFINE_REDUCE(suffix, type, sum, max)                                                      \
    static void sum_##suffix(type *out, const type *a, const type *b, int64_t count)               \
    {                                                                                              \
        for (int64_t i = 0; i < count; i++) {                                                      \
            const type x = a[i], y = b[i];                                                         \
            out[i] = sum;                                                                          \
        }                                                                                          \
    }                                                                                              \
    static void max_##suffix(type *out, const type *a, const type *b, int64_t count)               \
    {                                                                                              \
        for (int64_t i = 0; i < count; i++) {                                                      \
            const type x = a[i], y = b[i];                                                         \
            out[i] = max;                                                                          \
        }                                                                                          \
    }

#define LARGER(x, y) ((x) > (y) || (x) != (x) ? (x) : (y))
DEFINE_REDUCE(f32, float, x + y, LARGER(x, y))
DEFINE_REDUCE(f64, double, x + y, LARGER(x, y))
DEFINE_REDUCE(bf16, uint16_t, bf16_bits(bf16_value(x) + bf16_value(y)),
              bf16_bits(LARGER(bf16_value(x), bf16_value(y))))
DEFINE_REDUCE(byte, uint8_t, (uint8_t)(x + y), x > y ? x : y)

void hlm_wire_reduce(void *out, const void *a, const void *b, int64_t count, enum hlm_wire type,
                     enum hlm_reduce op)
{
    const bool sum = op == HLM_REDUCE_SUM;
    switch (type) {
    case HLM_WIRE_F32:
        (sum ? sum_f32 : max_f32)(out, a, b, count);
        return;
    case HLM_WIRE_F64:
        (sum ? sum_f64 : max_f64)(out, a, b, count);
        return;
    case HLM_WIRE_BF16:
        (sum ? sum_bf16 : max_bf16)(out, a, b, count);
        return;
    case HLM_WIRE_BYTE:
        (sum ? sum_byte : max_byte)(out, a, b, count);
        return;
    }
}
