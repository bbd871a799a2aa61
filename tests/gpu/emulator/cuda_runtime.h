/* The part of NVIDIA's header of this name that exec/cuda uses, for the emulator (emulator.h). */
#ifndef HLM_TESTS_GPU_EMULATOR_CUDA_RUNTIME_H
#define HLM_TESTS_GPU_EMULATOR_CUDA_RUNTIME_H

#include "cuda_runtime_api.h"
#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __shared__ static thread_local
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)

#define threadIdx (emulated_thread()->thread)
#define blockIdx (emulated_thread()->block)
#define blockDim (emulated_thread()->threads)
#define gridDim (emulated_thread()->blocks)

inline void __syncthreads()
{
    emulated_block_or(false);
}

inline int __syncthreads_or(bool mine)
{
    return emulated_block_or(mine);
}

template <class N> inline N __shfl_xor_sync(unsigned, N x, int mask)
{
    return emulated_exchange("shfl_xor", x).of(emulated_lane() ^ mask);
}

template <class N> inline N __shfl_sync(unsigned, N x, int lane)
{
    return emulated_exchange("shfl", x).of(lane);
}

inline unsigned __ballot_sync(unsigned, bool mine)
{
    const auto all = emulated_exchange("ballot", mine);
    unsigned bits = 0;
    for (int lane = 0; lane < 32; lane++) {
        bits |= static_cast<unsigned>(all.of(lane)) << lane;
    }
    return bits;
}

inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

template <class Kernel>
inline cudaError_t cudaFuncSetAttribute(Kernel *kernel, cudaFuncAttribute, int bytes)
{
    return emulated_allow_shared(reinterpret_cast<const void *>(kernel), bytes)
               ? cudaSuccess
               : cudaErrorInvalidValue;
}

#endif
