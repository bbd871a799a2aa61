/* Element-wise operators: activations, biases, sums of tensors. Every thread reads its elements
 * before it writes them, so that outputs may stand where inputs stood. */
#include "exec/cuda/columns.cuh"

/* gelu(x) = x / 2 * (1 + tanh(u)) = x * sigmoid(2 u), 2 u = x * (GELU_A + GELU_B * x^2), with
 * u = sqrt(2 / pi) * (x + 0.044715 x^3) (Hendrycks and Gimpel 2016). No difference of near numbers.
 */
#define GELU_A 1.5957691216057308f
#define GELU_B 0.07135481282552f

__device__ static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

__device__ static float gelu(float x)
{
    return x * sigmoid(x * (GELU_A + GELU_B * x * x));
}

__device__ static float gelu_derivative(float x)
{
    const float s = sigmoid(x * (GELU_A + GELU_B * x * x));
    return s + x * s * (1.0f - s) * (GELU_A + 3.0f * GELU_B * x * x);
}

/* Calls body(row, col) for every pack of V columns of this thread. */
template <int V, class Body> __device__ static void for_packs(int64_t rows, int64_t cols, Body body)
{
    const int64_t col = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
    if (col >= cols) {
        return;
    }
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        body(row, col);
    }
}

template <int V, class T> __device__ static void load_or_zero(const T *from, float (&to)[V])
{
    if (from != nullptr) {
        load<V>(from, to);
        return;
    }
#pragma unroll
    for (int i = 0; i < V; i++) {
        to[i] = 0.0f;
    }
}

/* out = a [+ bias] [+ b]; bias is a row, the others are whole tensors. */
template <class T, int V>
__global__ static void sum_kernel(const T *a, const T *bias, const T *b, T *out, int64_t rows,
                                  int64_t cols)
{
    for_packs<V>(rows, cols, [=](int64_t row, int64_t col) {
        float x[V], y[V], z[V];
        load<V>(a + row * cols + col, x);
        load_or_zero<V>(bias == nullptr ? nullptr : bias + col, y);
        load_or_zero<V>(b == nullptr ? nullptr : b + row * cols + col, z);
#pragma unroll
        for (int i = 0; i < V; i++) {
            x[i] = x[i] + y[i] + z[i];
        }
        store<V>(out + row * cols + col, x);
    });
}

static cudaError_t sum(const hlm_cuda_call *call, const void *a, const void *bias, const void *b,
                       void *out)
{
    const int64_t rows = call->op->m, cols = call->op->n;
    return dispatch(call, cols, {a, bias, b, out}, [&](auto type, auto vector) {
        using T = typename decltype(type)::type;
        constexpr int V = decltype(vector)::value;
        const row_grid grid = grid_over(rows, cols / V);
        start({grid.blocks, grid.threads, 0, call->stream}, sum_kernel<T, V>,
              static_cast<const T *>(a), static_cast<const T *>(bias), static_cast<const T *>(b),
              static_cast<T *>(out), rows, cols);
    });
}

template <class T, int V>
__global__ static void gelu_fwd_kernel(const T *in, const T *bias, T *out, int64_t rows,
                                       int64_t cols)
{
    for_packs<V>(rows, cols, [=](int64_t row, int64_t col) {
        float x[V], shift[V];
        load<V>(in + row * cols + col, x);
        load_or_zero<V>(bias == nullptr ? nullptr : bias + col, shift);
#pragma unroll
        for (int i = 0; i < V; i++) {
            x[i] = gelu(x[i] + shift[i]);
        }
        store<V>(out + row * cols + col, x);
    });
}

template <class T, int V>
__global__ static void gelu_bwd_kernel(const T *in, const T *bias, const T *dout, T *din,
                                       int64_t rows, int64_t cols)
{
    for_packs<V>(rows, cols, [=](int64_t row, int64_t col) {
        float x[V], shift[V], d[V];
        load<V>(in + row * cols + col, x);
        load<V>(dout + row * cols + col, d);
        load_or_zero<V>(bias == nullptr ? nullptr : bias + col, shift);
#pragma unroll
        for (int i = 0; i < V; i++) {
            d[i] *= gelu_derivative(x[i] + shift[i]);
        }
        store<V>(din + row * cols + col, d);
    });
}

/* A row of `in` holds the gates, then the ups. */
template <class T, int V>
__global__ static void swiglu_fwd_kernel(const T *in, T *out, int64_t rows, int64_t cols)
{
    for_packs<V>(rows, cols, [=](int64_t row, int64_t col) {
        float gate[V], up[V];
        load<V>(in + row * 2 * cols + col, gate);
        load<V>(in + row * 2 * cols + cols + col, up);
#pragma unroll
        for (int i = 0; i < V; i++) {
            gate[i] = gate[i] * sigmoid(gate[i]) * up[i];
        }
        store<V>(out + row * cols + col, gate);
    });
}

template <class T, int V>
__global__ static void swiglu_bwd_kernel(const T *in, const T *dout, T *din, int64_t rows,
                                         int64_t cols)
{
    for_packs<V>(rows, cols, [=](int64_t row, int64_t col) {
        float gate[V], up[V], d[V];
        load<V>(in + row * 2 * cols + col, gate);
        load<V>(in + row * 2 * cols + cols + col, up);
        load<V>(dout + row * cols + col, d);
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float g = gate[i], s = sigmoid(g);
            gate[i] = d[i] * up[i] * s * (1.0f + g * (1.0f - s));
            up[i] = d[i] * g * s;
        }
        store<V>(din + row * 2 * cols + col, gate);
        store<V>(din + row * 2 * cols + cols + col, up);
    });
}

extern "C" cudaError_t hlm_cuda_activation_fwd(const hlm_cuda_call *call)
{
    void *const *where = call->operands;
    const int64_t rows = call->op->m, cols = call->op->n;
    const bool is_gelu = call->op->activation == HLM_ACTIVATION_GELU;
    HLM_ASSERT(is_gelu || where[1] == nullptr);
    return dispatch(call, cols, {where[0], where[1], where[2]}, [&](auto type, auto vector) {
        using T = typename decltype(type)::type;
        constexpr int V = decltype(vector)::value;
        const row_grid grid = grid_over(rows, cols / V);
        if (is_gelu) {
            start({grid.blocks, grid.threads, 0, call->stream}, gelu_fwd_kernel<T, V>,
                  at<T>(call, 0), at<T>(call, 1), at<T>(call, 2), rows, cols);
        } else {
            start({grid.blocks, grid.threads, 0, call->stream}, swiglu_fwd_kernel<T, V>,
                  at<T>(call, 0), at<T>(call, 2), rows, cols);
        }
    });
}

extern "C" cudaError_t hlm_cuda_activation_bwd(const hlm_cuda_call *call)
{
    void *const *where = call->operands;
    const int64_t rows = call->op->m, cols = call->op->n;
    const bool is_gelu = call->op->activation == HLM_ACTIVATION_GELU;
    HLM_ASSERT(is_gelu || where[1] == nullptr);
    return dispatch(
        call, cols, {where[0], where[1], where[2], where[3]}, [&](auto type, auto vector) {
            using T = typename decltype(type)::type;
            constexpr int V = decltype(vector)::value;
            const row_grid grid = grid_over(rows, cols / V);
            if (is_gelu) {
                start({grid.blocks, grid.threads, 0, call->stream}, gelu_bwd_kernel<T, V>,
                      at<T>(call, 0), at<T>(call, 1), at<T>(call, 2), at<T>(call, 3), rows, cols);
            } else {
                start({grid.blocks, grid.threads, 0, call->stream}, swiglu_bwd_kernel<T, V>,
                      at<T>(call, 0), at<T>(call, 2), at<T>(call, 3), rows, cols);
            }
        });
}

extern "C" cudaError_t hlm_cuda_bias_add(const hlm_cuda_call *call)
{
    return sum(call, call->operands[1], call->operands[0], nullptr, call->operands[1]);
}

extern "C" cudaError_t hlm_cuda_add(const hlm_cuda_call *call)
{
    return sum(call, call->operands[0], nullptr, call->operands[1], call->operands[2]);
}

extern "C" cudaError_t hlm_cuda_bias_residual(const hlm_cuda_call *call)
{
    void *const *where = call->operands;
    return sum(call, where[0], where[1], where[2], where[3]);
}

extern "C" int64_t hlm_cuda_scratch_column_sums(const hlm_op *op)
{
    return column_scratch_bytes(op->m, op->n, 1);
}

extern "C" cudaError_t hlm_cuda_bias_grad(const hlm_cuda_call *call)
{
    return dispatch_type(call, [&](auto type) {
        using T = typename decltype(type)::type;
        add_column_sums<1>(call, plain_columns<T>{at<T>(call, 0), call->op->n},
                           {{at<float>(call, 1), nullptr}});
    });
}
