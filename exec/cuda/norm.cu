/* Layer norm and RMS norm. A block works on one row at a time, which stays in the caches between
 * its passes. */
#include "exec/cuda/columns.cuh"

struct norm_shape {
    int64_t rows, cols;
    float eps;
    bool centred; /* layer norm: about the mean */
};

static norm_shape shape_of(const hlm_op *op)
{
    HLM_ASSERT(op->n > 0 && op->head_dim == 0);
    return {op->m, op->n, static_cast<float>(op->eps), op->norm == HLM_NORM_LAYERNORM};
}

/* Calls body(col, values) for the packs of a row that belong to this thread. */
template <int V, class T, class Body>
__device__ static void for_row(const T *row, int64_t cols, Body body)
{
    for (int64_t col = static_cast<int64_t>(threadIdx.x) * V; col < cols;
         col += static_cast<int64_t>(blockDim.x) * V) {
        float values[V];
        load<V>(row + col, values);
        body(col, values);
    }
}

/* Mean (0 for RMS norm) and 1 / sqrt(variance + eps); the variance about the mean, in a second
 * pass, so that no digits are lost. */
template <int V, class T>
__device__ static void row_stats(const T *x, const norm_shape &shape, float *mean, float *rstd)
{
    const float n = static_cast<float>(shape.cols);
    float centre = 0.0f;
    if (shape.centred) {
        float sum = 0.0f;
        for_row<V>(x, shape.cols, [&](int64_t, const float(&values)[V]) {
#pragma unroll
            for (int i = 0; i < V; i++) {
                sum += values[i];
            }
        });
        centre = block_sum(sum) / n;
    }
    float squares = 0.0f;
    for_row<V>(x, shape.cols, [&](int64_t, const float(&values)[V]) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            squares += (values[i] - centre) * (values[i] - centre);
        }
    });
    *mean = centre;
    *rstd = 1.0f / sqrtf(block_sum(squares) / n + shape.eps);
}

template <class T, int V>
__global__ static void norm_fwd_kernel(norm_shape shape, const T *in, const T *weight,
                                       const T *bias, T *out, float *stats)
{
    for (int64_t row = blockIdx.x; row < shape.rows; row += gridDim.x) {
        const T *x = in + row * shape.cols;
        T *to = out + row * shape.cols;
        float mean, rstd;
        row_stats<V>(x, shape, &mean, &rstd);
        for_row<V>(x, shape.cols, [&](int64_t col, float(&values)[V]) {
            float factor[V], shift[V] = {};
            load<V>(weight + col, factor);
            if (bias != nullptr) {
                load<V>(bias + col, shift);
            }
#pragma unroll
            for (int i = 0; i < V; i++) {
                values[i] = (values[i] - mean) * rstd * factor[i] + shift[i];
            }
            store<V>(to + col, values);
        });
        if (threadIdx.x == 0 && shape.centred) {
            stats[2 * row] = mean;
            stats[2 * row + 1] = rstd;
        } else if (threadIdx.x == 0) {
            stats[row] = rstd;
        }
    }
}

struct row_stat {
    float mean, rstd;
};

__device__ static row_stat stat_at(const float *stats, int64_t row, bool centred)
{
    return centred ? row_stat{stats[2 * row], stats[2 * row + 1]} : row_stat{0.0f, stats[row]};
}

/* With y = (x - mean) rstd and g = dout weight: din = rstd (g - sum(g) / n - y sum(g y) / n)
 * [+ dresidual], without the first sum for RMS norm. */
template <class T, int V>
__global__ static void norm_bwd_kernel(norm_shape shape, const T *dout, const T *in,
                                       const T *weight, const float *stats, const T *dresidual,
                                       T *din)
{
    for (int64_t row = blockIdx.x; row < shape.rows; row += gridDim.x) {
        const int64_t first = row * shape.cols;
        const row_stat stat = stat_at(stats, row, shape.centred);
        float sum = 0.0f, dot = 0.0f;
        for_row<V>(in + first, shape.cols, [&](int64_t col, float(&x)[V]) {
            float d[V], factor[V];
            load<V>(dout + first + col, d);
            load<V>(weight + col, factor);
#pragma unroll
            for (int i = 0; i < V; i++) {
                const float g = d[i] * factor[i];
                sum += g;
                dot += g * (x[i] - stat.mean) * stat.rstd;
            }
        });
        const float n = static_cast<float>(shape.cols);
        const float slope = block_sum(dot) / n;
        const float shift = shape.centred ? block_sum(sum) / n : 0.0f;
        for_row<V>(in + first, shape.cols, [&](int64_t col, float(&x)[V]) {
            float d[V], factor[V], residual[V] = {};
            load<V>(dout + first + col, d);
            load<V>(weight + col, factor);
            if (dresidual != nullptr) {
                load<V>(dresidual + first + col, residual);
            }
#pragma unroll
            for (int i = 0; i < V; i++) {
                const float y = (x[i] - stat.mean) * stat.rstd;
                x[i] = stat.rstd * (d[i] * factor[i] - shift - y * slope) + residual[i];
            }
            store<V>(din + first + col, x);
        });
    }
}

/* Column sums of dout * y and of dout. */
template <class T> struct norm_columns {
    const T *dout, *in;
    const float *stats;
    int64_t cols;
    bool centred;
    __device__ void operator()(int64_t row, int64_t col, float (&sums)[2]) const
    {
        const row_stat stat = stat_at(stats, row, centred);
        const float d = to_float(dout[row * cols + col]);
        sums[0] += d * (to_float(in[row * cols + col]) - stat.mean) * stat.rstd;
        sums[1] += d;
    }
};

static unsigned blocks_for(int64_t rows)
{
    return static_cast<unsigned>(rows < 1 ? 1 : rows < 65536 ? rows : 65536);
}

extern "C" cudaError_t hlm_cuda_norm_fwd(const hlm_cuda_call *call)
{
    const norm_shape shape = shape_of(call->op);
    void *const *where = call->operands;
    return dispatch(
        call, shape.cols, {where[0], where[1], where[2], where[3]}, [&](auto type, auto vector) {
            using T = typename decltype(type)::type;
            constexpr int V = decltype(vector)::value;
            start({blocks_for(shape.rows), threads_for(shape.cols / V, 512), 0, call->stream},
                  norm_fwd_kernel<T, V>, shape, at<T>(call, 0), at<T>(call, 1), at<T>(call, 2),
                  at<T>(call, 3), at<float>(call, 4));
        });
}

extern "C" int64_t hlm_cuda_scratch_norm_bwd(const hlm_op *op)
{
    return column_scratch_bytes(op->m, op->n, 2);
}

/* The column sums first: din may stand where dout stood. */
extern "C" cudaError_t hlm_cuda_norm_bwd(const hlm_cuda_call *call)
{
    const norm_shape shape = shape_of(call->op);
    void *const *where = call->operands;
    return dispatch(
        call, shape.cols, {where[0], where[1], where[2], where[4], where[5]},
        [&](auto type, auto vector) {
            using T = typename decltype(type)::type;
            constexpr int V = decltype(vector)::value;
            add_column_sums<2>(call,
                               norm_columns<T>{at<T>(call, 0), at<T>(call, 1), at<float>(call, 3),
                                               shape.cols, shape.centred},
                               {{at<float>(call, 6), at<float>(call, 7)}});
            start({blocks_for(shape.rows), threads_for(shape.cols / V, 512), 0, call->stream},
                  norm_bwd_kernel<T, V>, shape, at<T>(call, 0), at<T>(call, 1), at<T>(call, 2),
                  at<float>(call, 3), at<T>(call, 4), at<T>(call, 5));
        });
}
