/* The sum of squares of a slab, in double: blocks to partial sums in the scratch, one block to the
 * result. The number of blocks depends on the slab's size alone, so the order of additions does. */
#include "exec/cuda/device.cuh"

constexpr int64_t SUM_THREADS = 256, SUM_ELEMENTS = 16384, MOST_SUM_BLOCKS = 1024;

static int64_t num_blocks(int64_t count)
{
    const int64_t blocks = divide_up(count < 1 ? 1 : count, SUM_ELEMENTS);
    return blocks < MOST_SUM_BLOCKS ? blocks : MOST_SUM_BLOCKS;
}

template <class T, int V>
__global__ static void square_partials(const T *data, int64_t count, double *partial)
{
    double sum = 0.0;
    for (int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V; i < count;
         i += static_cast<int64_t>(gridDim.x) * blockDim.x * V) {
        float values[V];
        load<V>(data + i, values);
#pragma unroll
        for (int k = 0; k < V; k++) {
            sum += static_cast<double>(values[k]) * static_cast<double>(values[k]);
        }
    }
    sum = block_reduce(sum, add_op(), 0.0);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
    }
}

__global__ static void square_total(const double *partial, int64_t count, double *out)
{
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
        sum += partial[i];
    }
    sum = block_reduce(sum, add_op(), 0.0);
    if (threadIdx.x == 0) {
        out[0] += sum;
    }
}

extern "C" int64_t hlm_cuda_scratch_sum_squares(const hlm_op *op)
{
    return num_blocks(op->m) * static_cast<int64_t>(sizeof(double));
}

extern "C" cudaError_t hlm_cuda_sum_squares(const hlm_cuda_call *call)
{
    const int64_t count = call->op->m, blocks = num_blocks(count);
    double *partial = static_cast<double *>(call->scratch);
    return dispatch(call, count, {call->operands[0]}, [&](auto type, auto vector) {
        using T = typename decltype(type)::type;
        constexpr int V = decltype(vector)::value;
        start({static_cast<unsigned>(blocks), SUM_THREADS, 0, call->stream}, square_partials<T, V>,
              at<T>(call, 0), count, partial);
        start({1, 1024, 0, call->stream}, square_total, partial, blocks, at<double>(call, 1));
    });
}

extern "C" int64_t hlm_cuda_scratch_none(const hlm_op *op)
{
    static_cast<void>(op);
    return 0;
}
