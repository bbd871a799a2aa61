/* Sums and maxima of two buffers, for transports on queues (exec/comm/comm_queue.h); not an
 * operator. */
#include "exec/cuda/device.cuh"

/* As hlm_wire_reduce (exec/comm/wire.h): bf16 in fp32 and rounded, bytes modulo 256. */
template <class T> struct arithmetic {
    __device__ static T sum(T a, T b)
    {
        return static_cast<T>(a + b);
    }
    __device__ static T larger(T a, T b)
    {
        return a != a || a > b ? a : b;
    }
};

template <> struct arithmetic<bf16> {
    __device__ static bf16 sum(bf16 a, bf16 b)
    {
        return from_float<bf16>(to_float(a) + to_float(b));
    }
    __device__ static bf16 larger(bf16 a, bf16 b)
    {
        return from_float<bf16>(arithmetic<float>::larger(to_float(a), to_float(b)));
    }
};

/* Every thread reads its elements before it writes them, so that out may be a or b. */
template <class T, int V, bool IS_SUM>
__global__ static void combine_kernel(const pack<T, V> *a, const pack<T, V> *b, pack<T, V> *out,
                                      int64_t count)
{
    const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
         i += step) {
        const pack<T, V> x = a[i], y = b[i];
        pack<T, V> z;
#pragma unroll
        for (int k = 0; k < V; k++) {
            z.at[k] = IS_SUM ? arithmetic<T>::sum(x.at[k], y.at[k])
                             : arithmetic<T>::larger(x.at[k], y.at[k]);
        }
        out[i] = z;
    }
}

template <class T, int V>
static void start_packs(void *out, const void *a, const void *b, int64_t count, bool is_sum,
                        cudaStream_t stream)
{
    const auto *x = static_cast<const pack<T, V> *>(a), *y = static_cast<const pack<T, V> *>(b);
    auto *z = static_cast<pack<T, V> *>(out);
    const int64_t packs = count / V;
    const unsigned threads = threads_for(packs, 256);
    const int64_t blocks = divide_up(packs, threads);
    const launch_shape shape = {dim3(static_cast<unsigned>(blocks < 8192 ? blocks : 8192)), threads,
                                0, stream};
    if (is_sum) {
        start(shape, combine_kernel<T, V, true>, x, y, z, packs);
    } else {
        start(shape, combine_kernel<T, V, false>, x, y, z, packs);
    }
}

/* In accesses of 16 bytes where all three allow it. */
template <class T>
static void start_type(void *out, const void *a, const void *b, int64_t count, bool is_sum,
                       cudaStream_t stream)
{
    constexpr int V = 16 / static_cast<int>(sizeof(T));
    const uintptr_t bits = reinterpret_cast<uintptr_t>(out) | reinterpret_cast<uintptr_t>(a) |
                           reinterpret_cast<uintptr_t>(b);
    if (bits % 16 == 0 && count % V == 0) {
        start_packs<T, V>(out, a, b, count, is_sum, stream);
    } else {
        start_packs<T, 1>(out, a, b, count, is_sum, stream);
    }
}

extern "C" cudaError_t hlm_cuda_combine(void *out, const void *a, const void *b, int64_t count,
                                        hlm_wire type, hlm_reduce op, cudaStream_t stream)
{
    const bool is_sum = op == HLM_REDUCE_SUM;
    if (count == 0) {
        return cudaSuccess;
    }
    switch (type) {
    case HLM_WIRE_F32:
        start_type<float>(out, a, b, count, is_sum, stream);
        break;
    case HLM_WIRE_F64:
        start_type<double>(out, a, b, count, is_sum, stream);
        break;
    case HLM_WIRE_BF16:
        start_type<bf16>(out, a, b, count, is_sum, stream);
        break;
    case HLM_WIRE_BYTE:
        start_type<uint8_t>(out, a, b, count, is_sum, stream);
        break;
    }
    return cudaGetLastError();
}
