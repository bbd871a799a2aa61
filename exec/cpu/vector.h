/* vector: what the element-wise CPU kernels share: one build for every x86-64 level, and an
 * exponential that vectorises at all of them.
 *
 * HLM_CPU_CLONES before a function compiles it for x86-64-v4 (AVX-512), v3 (AVX2, FMA) and the
 * baseline; the dynamic linker picks one (GNU indirect functions). Elsewhere, under clang and under
 * sanitizers, whose runtime is not up when the linker picks, there is the baseline alone. Helpers
 * that such a function calls must be HLM_CPU_INLINE, or they stay at the baseline.
 *
 * HLM_CPU_INDEPENDENT before a loop promises that a turn touches nothing that another turn writes:
 * operands may be equal (in place) but not shifted against each other.
 */
#ifndef HLM_EXEC_CPU_VECTOR_H
#define HLM_EXEC_CPU_VECTOR_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) &&       \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define HLM_CPU_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define HLM_CPU_CLONES
#endif

#define HLM_CPU_INLINE static inline __attribute__((always_inline))

#if defined(__clang__)
#define HLM_CPU_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define HLM_CPU_INDEPENDENT _Pragma("GCC ivdep")
#endif

/* exp(x) within 2 units in the last place for x in [-87, 88]; x outside is moved to the nearer end,
 * so that the result is positive, normal and finite; NaN gives NaN. The method of Cephes' expf
 * (Moshier, 1989): n = round(x / ln 2), r = x - n ln 2 with ln 2 in two parts, a polynomial for
 * exp(r), and n added to the exponent.
 *
 * Under -ffast-math the compiler may put the two parts of ln 2 together again, which costs 2 to 20
 * units; it does not where each part is used twice, and so the leading 1 + r is written with the
 * parts. A test holds the accuracy. */
HLM_CPU_INLINE float hlm_cpu_exp(float x)
{
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float n = __builtin_rintf(x * 1.44269504f);
    const float high = x - n * 0.693359375f;
    const float low = n * 2.12194440e-4f;
    const float r = high + low;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r * r + low) + high + 1.0f;
    /* 1.5 * 2^23 + n holds n in its low bits, whatever x is; a conversion of NaN would be
     * undefined. */
    const float shifted = n + 12582912.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + (UINT32_C(127) << 23);
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

/* 1 / (1 + exp(-x)); NaN gives NaN. */
HLM_CPU_INLINE float hlm_cpu_sigmoid(float x)
{
    return 1.0f / (1.0f + hlm_cpu_exp(-x));
}

/* The bits of x as an integer of the same order; NaN with a clear sign is above all. Maxima of
 * integers vectorise; maxima of floats don't where NaN counts. The map is its own inverse. */
HLM_CPU_INLINE int32_t hlm_cpu_ordered(int32_t bits)
{
    return bits ^ ((bits >> 31) & INT32_MAX);
}

/* The greatest of x[0..n-1], n >= 0; -infinity of none. A NaN may or may not come out. */
HLM_CPU_INLINE float hlm_cpu_max(const float *x, int64_t n)
{
    const float lowest = -__builtin_inff();
    int32_t bits;
    memcpy(&bits, &lowest, sizeof bits);
    int32_t max = hlm_cpu_ordered(bits);
    for (int64_t i = 0; i < n; i++) {
        memcpy(&bits, x + i, sizeof bits);
        const int32_t key = hlm_cpu_ordered(bits);
        max = key > max ? key : max;
    }
    float result;
    bits = hlm_cpu_ordered(max);
    memcpy(&result, &bits, sizeof result);
    return result;
}

#endif
