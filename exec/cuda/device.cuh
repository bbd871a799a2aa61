/* device: what the kernels share: loads and stores of 16 bytes, conversions, reductions inside a
 * warp and a block, and the choice of a kernel's instance by dtype and alignment. */
#ifndef HLM_EXEC_CUDA_DEVICE_CUH
#define HLM_EXEC_CUDA_DEVICE_CUH

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

/* The headers are C17. */
#define _Noreturn [[noreturn]]
extern "C" {
#include "exec/cuda/kernels.h"
}
#undef _Noreturn

using bf16 = __nv_bfloat16;

constexpr int WARP = 32;

/* --- numbers --- */

__device__ inline float to_float(float x)
{
    return x;
}

__device__ inline float to_float(bf16 x)
{
    return __bfloat162float(x);
}

template <class T> __device__ inline T from_float(float x)
{
    if constexpr (std::is_same_v<T, bf16>) {
        return __float2bfloat16_rn(x);
    } else {
        return x;
    }
}

/* V neighbouring elements, at most 16 bytes an access. */
template <class T, int V> struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) pack {
    T at[V];
};

template <int V, class T> __device__ inline void load(const T *from, float (&to)[V])
{
    const pack<T, V> values = *reinterpret_cast<const pack<T, V> *>(from);
#pragma unroll
    for (int i = 0; i < V; i++) {
        to[i] = to_float(values.at[i]);
    }
}

template <int V, class T> __device__ inline void store(T *to, const float (&from)[V])
{
    pack<T, V> values;
#pragma unroll
    for (int i = 0; i < V; i++) {
        values.at[i] = from_float<T>(from[i]);
    }
    *reinterpret_cast<pack<T, V> *>(to) = values;
}

/* --- reductions --- */

struct add_op {
    template <class N> __device__ N operator()(N a, N b) const
    {
        return a + b;
    }
};

/* The greater one, NaN where either is. */
struct max_op {
    __device__ float operator()(float a, float b) const
    {
        return a != a || a > b ? a : b;
    }
};

/* In every lane the reduction over the warp; pairs in an order that is the same in all lanes. */
template <class Op, class N> __device__ inline N warp_reduce(N x, Op op)
{
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        x = op(x, __shfl_xor_sync(0xffffffffu, x, offset));
    }
    return x;
}

/* In every thread the reduction over the block, whose size is a multiple of a warp. Threads without
 * data bring `neutral`. */
template <class Op, class N> __device__ inline N block_reduce(N x, Op op, N neutral)
{
    __shared__ N parts[WARP];
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int num_warps = static_cast<int>(blockDim.x) / WARP;
    x = warp_reduce(x, op);
    __syncthreads(); /* the last call's parts are read */
    if (lane == 0) {
        parts[warp] = x;
    }
    __syncthreads();
    return warp_reduce(lane < num_warps ? parts[lane] : neutral, op);
}

__device__ inline float block_sum(float x)
{
    return block_reduce(x, add_op(), 0.0f);
}

/* --- launches --- */

struct launch_shape {
    dim3 blocks;
    unsigned threads;
    size_t shared_bytes; /* of the array that DYNAMIC_SHARED names */
    cudaStream_t stream;
};

/* Puts a kernel on a stream; cudaGetLastError tells what came of it. Under another compiler than
 * NVIDIA's the kernel runs on the CPU (tests/gpu/emulator). */
template <class... Parameters, class... Arguments>
inline void start(const launch_shape &shape, void (*kernel)(Parameters...), Arguments... arguments)
{
#ifdef __CUDACC__
    kernel<<<shape.blocks, shape.threads, shape.shared_bytes, shape.stream>>>(
        static_cast<Parameters>(arguments)...);
#else
    emulate({shape.blocks, shape.threads, shape.shared_bytes}, shape.stream,
            reinterpret_cast<const void *>(kernel),
            [=] { kernel(static_cast<Parameters>(arguments)...); });
#endif
}

#ifdef __CUDACC__
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) bf16 name[]
#else
#define DYNAMIC_SHARED(name) bf16 *const name = static_cast<bf16 *>(emulated_shared())
#endif

template <class T> struct tag {
    using type = T;
};
template <int V> using width = std::integral_constant<int, V>;

inline bool is_bf16(const hlm_cuda_call *call)
{
    return call->op->dtype == HLM_DTYPE_BF16;
}

/* Calls launch(tag<T>, width<V>) with the operator's type T and V = the elements of 16 bytes of it
 * where `cols` is a multiple of that and all pointers (NULL ones apart) allow it, else 1. */
template <class Launch>
inline cudaError_t dispatch(const hlm_cuda_call *call, int64_t cols,
                            std::initializer_list<const void *> pointers, Launch launch)
{
    uintptr_t bits = 0;
    for (const void *pointer : pointers) {
        bits |= reinterpret_cast<uintptr_t>(pointer);
    }
    const bool aligned = bits % 16 == 0;
    if (is_bf16(call)) {
        aligned &&cols % 8 == 0 ? launch(tag<bf16>(), width<8>()) : launch(tag<bf16>(), width<1>());
    } else {
        aligned &&cols % 4 == 0 ? launch(tag<float>(), width<4>())
                                : launch(tag<float>(), width<1>());
    }
    return cudaGetLastError();
}

/* The same by type alone. */
template <class Launch> inline cudaError_t dispatch_type(const hlm_cuda_call *call, Launch launch)
{
    is_bf16(call) ? launch(tag<bf16>()) : launch(tag<float>());
    return cudaGetLastError();
}

template <class T> inline T *at(const hlm_cuda_call *call, int operand)
{
    return static_cast<T *>(call->operands[operand]);
}

inline int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Threads of a block for `work` items: whole warps, at most `most`. */
inline unsigned threads_for(int64_t work, int64_t most)
{
    const int64_t warps = divide_up(work < 1 ? 1 : work, WARP) * WARP;
    return static_cast<unsigned>(warps < most ? warps : most);
}

/* A grid over rows (y) and items of a row (x), of which each thread takes one; rows beyond the grid
 * follow in steps of it. Empty work still gets one block: a grid may not be empty. */
struct row_grid {
    dim3 blocks;
    unsigned threads;
};
inline row_grid grid_over(int64_t rows, int64_t items)
{
    const unsigned threads = threads_for(items, 256);
    const int64_t across = divide_up(items < 1 ? 1 : items, threads);
    const int64_t most = 8192 / across < 1 ? 1 : 8192 / across;
    const int64_t down = rows < 1 ? 1 : rows < most ? rows : most;
    return {dim3(static_cast<unsigned>(across), static_cast<unsigned>(down)), threads};
}

#endif
