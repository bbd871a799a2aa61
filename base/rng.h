/* rng: random numbers that depend on their index only, so that any rank can make its shard of a
 * global tensor, in any order, with the same values. SplitMix64 (Steele, Lea, Flood 2014) over a
 * key. */
#ifndef HLM_BASE_RNG_H
#define HLM_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

/* FNV-1a 64 of bytes; the start value for chaining is HLM_HASH_START. */
#define HLM_HASH_START 14695981039346656037ULL
uint64_t hlm_hash(uint64_t start, const void *bytes, size_t length);

/* Mixes (key, index) to 64 uniform bits: the SplitMix64 finalizer of
 * key + (index + 1) * 0x9E3779B97F4A7C15. */
uint64_t hlm_rng_bits(uint64_t key, uint64_t index);

/* Uniform in [0, 1): top 53 bits / 2^53. */
double hlm_rng_uniform(uint64_t key, uint64_t index);

/* Mean 0, variance 1: the sum of four uniforms (indices 4 i .. 4 i + 3 of the key), centred and
 * scaled (Irwin-Hall, |value| < 3.47), computed in double. Bounded, without special functions, so
 * that other languages reproduce it bit by bit. */
double hlm_rng_normal(uint64_t key, uint64_t index);

/* A running generator for tests and searches. */
struct hlm_rng {
    uint64_t key, next;
};
double hlm_rng_next_uniform(struct hlm_rng *rng);
int64_t hlm_rng_next_int(struct hlm_rng *rng, int64_t min, int64_t max); /* inclusive */

#endif
