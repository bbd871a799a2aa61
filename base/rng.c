#include "base/rng.h"

#include "base/err.h"

uint64_t hlm_hash(uint64_t start, const void *bytes, size_t length)
{
    const unsigned char *byte = bytes;
    uint64_t hash = start;
    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ byte[i]) * 1099511628211ULL;
    }
    return hash;
}

uint64_t hlm_rng_bits(uint64_t key, uint64_t index)
{
    uint64_t z = key + (index + 1) * 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

double hlm_rng_uniform(uint64_t key, uint64_t index)
{
    return (double)(hlm_rng_bits(key, index) >> 11) * 0x1p-53;
}

double hlm_rng_normal(uint64_t key, uint64_t index)
{
    const double sqrt_3 = 1.7320508075688772;
    double sum = 0;
    for (uint64_t i = 0; i < 4; i++) {
        sum += hlm_rng_uniform(key, 4 * index + i);
    }
    /* Four uniforms have mean 2 and variance 4 / 12. */
    return (sum - 2) * sqrt_3;
}

double hlm_rng_next_uniform(struct hlm_rng *rng)
{
    return hlm_rng_uniform(rng->key, rng->next++);
}

int64_t hlm_rng_next_int(struct hlm_rng *rng, int64_t min, int64_t max)
{
    HLM_ASSERT(min <= max);
    const uint64_t span = (uint64_t)max - (uint64_t)min + 1; /* 0: all 2^64 values */
    uint64_t bits = hlm_rng_bits(rng->key, rng->next++);
    if (span != 0) {
        /* The 2^64 mod span lowest values would make the first results likelier. */
        const uint64_t surplus = (0 - span) % span;
        while (bits < surplus) {
            bits = hlm_rng_bits(rng->key, rng->next++);
        }
        bits %= span;
    }
    return (int64_t)((uint64_t)min + bits);
}
