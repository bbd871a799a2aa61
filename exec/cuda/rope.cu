/* Rotary position embeddings. */
#include "exec/cuda/device.cuh"

__global__ static void rotation_kernel(float *table, int64_t seq_len, int64_t pairs, double theta)
{
    const int64_t count = seq_len * pairs;
    for (int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; item < count;
         item += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        const int64_t position = item / pairs, i = item % pairs;
        const double exponent = -static_cast<double>(i) / static_cast<double>(pairs);
        const double angle = static_cast<double>(position) * pow(theta, exponent);
        double sine, cosine;
        sincos(angle, &sine, &cosine);
        table[position * 2 * pairs + i] = static_cast<float>(cosine);
        table[position * 2 * pairs + pairs + i] = static_cast<float>(sine);
    }
}

extern "C" cudaError_t hlm_cuda_rotation_fill(float *table, int64_t seq_len, int64_t rotary,
                                              double theta, cudaStream_t stream)
{
    const int64_t pairs = rotary / 2;
    const int64_t blocks = divide_up(seq_len * pairs, 256);
    start({static_cast<unsigned>(blocks < 4096 ? blocks : 4096), 256, 0, stream}, rotation_kernel,
          table, seq_len, pairs, theta);
    return cudaGetLastError();
}

struct rope_shape {
    int64_t rows, seq_len, head_dim, pairs, heads, row_stride; /* heads: those of q and k */
    float direction;                                           /* -1: rotates back */
};

/* Pairs (i, i + pairs) of each head; a thread has V pairs. */
template <class T, int V>
__global__ static void rope_kernel(rope_shape shape, T *qkv, const float *table)
{
    const int64_t item = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
    if (item >= shape.heads * shape.pairs) {
        return;
    }
    const int64_t head = item / shape.pairs, i = item % shape.pairs;
    for (int64_t row = blockIdx.y; row < shape.rows; row += gridDim.y) {
        T *low = qkv + row * shape.row_stride + head * shape.head_dim + i;
        T *high = low + shape.pairs;
        const float *cosines = table + row % shape.seq_len * 2 * shape.pairs + i;
        float a[V], b[V], cosine[V], sine[V];
        load<V>(low, a);
        load<V>(high, b);
        load<V>(cosines, cosine);
        load<V>(cosines + shape.pairs, sine);
#pragma unroll
        for (int k = 0; k < V; k++) {
            const float x = a[k], y = b[k], s = shape.direction * sine[k];
            a[k] = x * cosine[k] - y * s;
            b[k] = y * cosine[k] + x * s;
        }
        store<V>(low, a);
        store<V>(high, b);
    }
}

static cudaError_t rope(const hlm_cuda_call *call, float direction)
{
    const hlm_op *op = call->op;
    const int64_t heads = op->heads + op->kv_heads;
    const rope_shape shape = {op->m,          op->seq_len, op->head_dim,
                              op->rotary / 2, heads,       (heads + op->kv_heads) * op->head_dim,
                              direction};
    /* Packs lie inside half a head and start at multiples of their size when both sizes are. */
    const int64_t unit = shape.pairs % 8 == 0 && shape.head_dim % 8 == 0   ? 8
                         : shape.pairs % 4 == 0 && shape.head_dim % 4 == 0 ? 4
                                                                           : 1;
    return dispatch(call, unit, {call->operands[0]}, [&](auto type, auto vector) {
        using T = typename decltype(type)::type;
        constexpr int V = decltype(vector)::value;
        const row_grid grid = grid_over(shape.rows, heads * shape.pairs / V);
        start({grid.blocks, grid.threads, 0, call->stream}, rope_kernel<T, V>, shape,
              at<T>(call, 0), call->rotation);
    });
}

extern "C" cudaError_t hlm_cuda_rope_fwd(const hlm_cuda_call *call)
{
    return rope(call, 1.0f);
}

extern "C" cudaError_t hlm_cuda_rope_bwd(const hlm_cuda_call *call)
{
    return rope(call, -1.0f);
}
