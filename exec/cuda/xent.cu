/* Vocabulary-parallel cross-entropy: a block works on one row of logits at a time. */
#include "exec/cuda/device.cuh"

struct xent_shape {
    int64_t rows, cols, valid, first_row; /* valid columns are real, the rest is padding */
};

static xent_shape shape_of(const hlm_op *op)
{
    HLM_ASSERT(op->valid_cols >= 0 && op->valid_cols <= op->n);
    return {op->m, op->n, op->valid_cols, op->first_row};
}

/* Calls body(col, values) for the packs of a row that belong to this thread, padding included. */
template <int V, class T, class Body>
__device__ static void for_logits(const T *row, int64_t cols, Body body)
{
    for (int64_t col = static_cast<int64_t>(threadIdx.x) * V; col < cols;
         col += static_cast<int64_t>(blockDim.x) * V) {
        float values[V];
        load<V>(row + col, values);
        body(col, values);
    }
}

/* The target's column in this shard, or -1: ignored, or another shard's. */
__device__ static int64_t target_col(const xent_shape &shape, int32_t target)
{
    const int64_t col = target - shape.first_row;
    return target >= 0 && col >= 0 && col < shape.valid ? col : -1;
}

template <class T, int V>
__global__ static void xent_max_kernel(xent_shape shape, const T *logits, float *maxima)
{
    for (int64_t row = blockIdx.x; row < shape.rows; row += gridDim.x) {
        float max = -INFINITY;
        for_logits<V>(logits + row * shape.cols, shape.cols, [&](int64_t col, float(&values)[V]) {
#pragma unroll
            for (int i = 0; i < V; i++) {
                max = col + i < shape.valid ? max_op()(max, values[i]) : max;
            }
        });
        max = block_reduce(max, max_op(), -INFINITY);
        if (threadIdx.x == 0) {
            maxima[row] = max;
        }
    }
}

/* sums: [2, rows] */
template <class T, int V>
__global__ static void xent_sum_kernel(xent_shape shape, const T *logits, const int32_t *targets,
                                       const float *maxima, float *sums)
{
    for (int64_t row = blockIdx.x; row < shape.rows; row += gridDim.x) {
        const T *x = logits + row * shape.cols;
        const float max = maxima[row];
        float sum = 0.0f;
        for_logits<V>(x, shape.cols, [&](int64_t col, float(&values)[V]) {
#pragma unroll
            for (int i = 0; i < V; i++) {
                sum += col + i < shape.valid ? expf(values[i] - max) : 0.0f;
            }
        });
        sum = block_sum(sum);
        if (threadIdx.x == 0) {
            const int64_t col = target_col(shape, targets[row]);
            sums[row] = sum;
            sums[shape.rows + row] = col < 0 ? 0.0f : to_float(x[col]) - max;
        }
    }
}

/* What the launch was given, or inside a graph what stands on the device. */
struct loss_scale {
    double given;
    const hlm_cuda_varying *varying;
    __device__ double value() const
    {
        return varying == nullptr ? given : varying->loss_scale;
    }
};

/* Replaces logits by softmax * scale, less scale at the target; rows of ignored targets and padding
 * become zero. */
template <class T, int V>
__global__ static void xent_grad_kernel(xent_shape shape, const int32_t *targets,
                                        const float *maxima, const float *sums, T *logits,
                                        loss_scale given)
{
    const double scale = given.value();
    for (int64_t row = blockIdx.x; row < shape.rows; row += gridDim.x) {
        T *x = logits + row * shape.cols;
        const bool ignored = targets[row] < 0;
        const int64_t target = target_col(shape, targets[row]);
        const float max = maxima[row];
        const float factor = static_cast<float>(scale / static_cast<double>(sums[row]));
        for_logits<V>(x, shape.cols, [&](int64_t col, float(&values)[V]) {
#pragma unroll
            for (int i = 0; i < V; i++) {
                const float hit = col + i == target ? static_cast<float>(scale) : 0.0f;
                values[i] =
                    ignored || col + i >= shape.valid ? 0.0f : expf(values[i] - max) * factor - hit;
            }
            store<V>(x + col, values);
        });
    }
}

/* One block, so that the order of additions is fixed. */
__global__ static void xent_loss_kernel(int64_t rows, const int32_t *targets, const float *sums,
                                        loss_scale scale, double *loss)
{
    double sum = 0.0;
    for (int64_t row = threadIdx.x; row < rows; row += blockDim.x) {
        if (targets[row] >= 0) {
            sum += log(static_cast<double>(sums[row])) - static_cast<double>(sums[rows + row]);
        }
    }
    sum = block_reduce(sum, add_op(), 0.0);
    if (threadIdx.x == 0) {
        loss[0] += sum * scale.value();
    }
}

static unsigned blocks_for(const xent_shape &shape)
{
    return static_cast<unsigned>(shape.rows < 1 ? 1 : shape.rows < 65536 ? shape.rows : 65536);
}

extern "C" cudaError_t hlm_cuda_xent_max(const hlm_cuda_call *call)
{
    const xent_shape shape = shape_of(call->op);
    return dispatch(call, shape.cols, {call->operands[0]}, [&](auto type, auto vector) {
        using T = typename decltype(type)::type;
        constexpr int V = decltype(vector)::value;
        start({blocks_for(shape), threads_for(shape.cols / V, 1024), 0, call->stream},
              xent_max_kernel<T, V>, shape, at<T>(call, 0), at<float>(call, 1));
    });
}

extern "C" cudaError_t hlm_cuda_xent_sum(const hlm_cuda_call *call)
{
    const xent_shape shape = shape_of(call->op);
    return dispatch(call, shape.cols, {call->operands[0]}, [&](auto type, auto vector) {
        using T = typename decltype(type)::type;
        constexpr int V = decltype(vector)::value;
        start({blocks_for(shape), threads_for(shape.cols / V, 1024), 0, call->stream},
              xent_sum_kernel<T, V>, shape, at<T>(call, 0), at<int32_t>(call, 1),
              at<float>(call, 2), at<float>(call, 3));
    });
}

extern "C" cudaError_t hlm_cuda_xent_grad(const hlm_cuda_call *call)
{
    HLM_ASSERT(call->scalars != nullptr);
    const xent_shape shape = shape_of(call->op);
    const loss_scale scale = {call->scalars->loss_scale, call->varying};
    return dispatch(call, shape.cols, {call->operands[3]}, [&](auto type, auto vector) {
        using T = typename decltype(type)::type;
        constexpr int V = decltype(vector)::value;
        if (call->op->counts_loss) {
            start({1, 1024, 0, call->stream}, xent_loss_kernel, shape.rows, at<int32_t>(call, 0),
                  at<float>(call, 2), scale, at<double>(call, 4));
        }
        start({blocks_for(shape), threads_for(shape.cols / V, 1024), 0, call->stream},
              xent_grad_kernel<T, V>, shape, at<int32_t>(call, 0), at<float>(call, 1),
              at<float>(call, 2), at<T>(call, 3), scale);
    });
}
