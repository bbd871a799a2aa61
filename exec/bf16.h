/* bf16: the upper half of an fp32 number, as tensors of dtype bf16 hold it. */
#ifndef HLM_EXEC_BF16_H
#define HLM_EXEC_BF16_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* To nearest, ties to even; NaN stays one. */
static inline uint16_t hlm_bf16_round(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (isnan(value)) {
        return (uint16_t)(bits >> 16 | 0x40U);
    }
    return (uint16_t)((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

static inline float hlm_bf16_value(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#endif
