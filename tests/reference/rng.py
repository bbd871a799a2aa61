"""The counter-based random numbers of base/rng.h, bit for bit.

hash_bytes is hlm_hash, bits is hlm_rng_bits, uniform is hlm_rng_uniform, normal is hlm_rng_normal.
The last three take an array of indices (uint64, wrapping as in C) and return an array.
"""

import numpy as np

HASH_START = 14695981039346656037
HASH_PRIME = 1099511628211
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX1 = np.uint64(0xBF58476D1CE4E5B9)
MIX2 = np.uint64(0x94D049BB133111EB)
SQRT3 = 1.7320508075688772


def hash_bytes(start, data):
    """FNV-1a 64 of the bytes, chained from start."""
    value = start
    for byte in data:
        value = ((value ^ byte) * HASH_PRIME) & 0xFFFFFFFFFFFFFFFF
    return value


def key(name, seed):
    """hlm_hash(HLM_HASH_START, name, strlen(name)) ^ seed."""
    return hash_bytes(HASH_START, name.encode("ascii")) ^ seed


def bits(key_value, index):
    """SplitMix64 finalizer of key + (index + 1) * golden ratio, modulo 2^64."""
    index = np.atleast_1d(np.asarray(index, dtype=np.uint64))
    z = np.uint64(key_value) + (index + np.uint64(1)) * GOLDEN
    z = (z ^ (z >> np.uint64(30))) * MIX1
    z = (z ^ (z >> np.uint64(27))) * MIX2
    return z ^ (z >> np.uint64(31))


def uniform(key_value, index):
    """Top 53 bits / 2^53, in [0, 1)."""
    return (bits(key_value, index) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(key_value, index):
    """(((u0 + u1) + u2) + u3 - 2) * sqrt(3), u_k = uniform(4 index + k), each operation rounded."""
    first = np.atleast_1d(np.asarray(index, dtype=np.uint64)) * np.uint64(4)
    u = [uniform(key_value, first + np.uint64(k)) for k in range(4)]
    return (((u[0] + u[1]) + u[2]) + u[3] - 2.0) * SQRT3
