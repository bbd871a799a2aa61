/* The attention operators: which kernels run. */
#include "exec/cuda/attention.cuh"

static attention_shape shape_of(const hlm_op *op)
{
    HLM_ASSERT(op->m == op->batch * op->seq_len && op->n == op->heads * op->head_dim);
    HLM_ASSERT(op->kv_heads > 0 && op->heads % op->kv_heads == 0 && op->window == 0);
    HLM_ASSERT(op->seq_len <= INT32_MAX / 2);
    return {static_cast<int>(op->seq_len),
            op->heads,
            op->kv_heads,
            op->heads / op->kv_heads,
            static_cast<int>(op->head_dim),
            op->batch,
            op->causal,
            static_cast<float>(1.0 / sqrt(static_cast<double>(op->head_dim)))};
}

/* The tensor-core kernels copy 16 bytes at a time. */
static bool fits_tensor_cores(const hlm_cuda_call *call, std::initializer_list<int> operands)
{
    uintptr_t bits = 0;
    for (int operand : operands) {
        bits |= reinterpret_cast<uintptr_t>(call->operands[operand]);
    }
    const int64_t d = call->op->head_dim;
    return is_bf16(call) && bits % 16 == 0 && (d == 64 || d == 80 || d == 96 || d == 128);
}

static bool is_supported(const attention_shape &shape)
{
    return shape.head_dim <= PLAIN_MAX_HEAD_DIM;
}

/* Probabilities are kept only where a test asks for them. */
extern "C" cudaError_t hlm_cuda_attention_fwd(const hlm_cuda_call *call)
{
    const attention_shape shape = shape_of(call->op);
    if (!is_supported(shape)) {
        return cudaErrorNotSupported;
    }
    if (call->op->m == 0) {
        return cudaSuccess;
    }
    if (call->operands[3] == nullptr && fits_tensor_cores(call, {0, 1})) {
        return attention_fwd_mma(shape, call->operands[0], call->operands[1], at<float>(call, 2),
                                 call->stream);
    }
    return dispatch_type(call, [&](auto type) {
        using T = typename decltype(type)::type;
        attention_fwd_plain<T>(shape, at<T>(call, 0), at<T>(call, 1), at<float>(call, 2),
                               at<T>(call, 3), call->stream);
    });
}

extern "C" int64_t hlm_cuda_scratch_attention_bwd(const hlm_op *op)
{
    return op->m * op->heads * static_cast<int64_t>(sizeof(float));
}

/* A warp per query and head. */
template <class T>
__global__ static void dots_kernel(attention_shape shape, const T *out, const T *dout, float *dots)
{
    const int query = static_cast<int>(blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP);
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int head = static_cast<int>(blockIdx.y), sequence = static_cast<int>(blockIdx.z);
    if (query >= shape.seq_len) {
        return;
    }
    const int64_t first = shape.out_at(sequence, head) + query * shape.out_stride();
    float sum = 0.0f;
    for (int i = lane; i < shape.head_dim; i += WARP) {
        sum += to_float(out[first + i]) * to_float(dout[first + i]);
    }
    sum = warp_reduce(sum, add_op());
    if (lane == 0) {
        dots[shape.stats_at(sequence, head) + query] = sum;
    }
}

/* With P the probabilities (made again from lse) and D the row sums of dout * out, dv = P^T dout,
 * dP = dout v^T, dS = P (dP - D) / sqrt(d), dq = dS k, dk = dS^T q (Dao et al. 2022, appendix B.4).
 * dk and dv are summed by blocks that own keys, dq by blocks that own queries: two passes make the
 * scores and dP twice, but nothing is added across blocks. Kept probabilities are not read. */
extern "C" cudaError_t hlm_cuda_attention_bwd(const hlm_cuda_call *call)
{
    const attention_shape shape = shape_of(call->op);
    if (!is_supported(shape)) {
        return cudaErrorNotSupported;
    }
    if (call->op->m == 0) {
        return cudaSuccess;
    }
    float *dots = static_cast<float *>(call->scratch);
    const attention_grad grad = {call->operands[0], call->operands[2], at<float>(call, 3), dots,
                                 call->operands[5]};
    const dim3 blocks(static_cast<unsigned>(divide_up(shape.seq_len, 4)),
                      static_cast<unsigned>(shape.heads), static_cast<unsigned>(shape.batch));
    const cudaError_t dotted = dispatch_type(call, [&](auto type) {
        using T = typename decltype(type)::type;
        start({blocks, 4 * WARP, 0, call->stream}, dots_kernel<T>, shape, at<T>(call, 1),
              at<T>(call, 2), dots);
    });
    if (dotted != cudaSuccess) {
        return dotted;
    }
    if (fits_tensor_cores(call, {0, 2, 5})) {
        return attention_bwd_mma(shape, grad, call->stream);
    }
    return dispatch_type(call, [&](auto type) {
        using T = typename decltype(type)::type;
        attention_bwd_plain<T>(shape, grad, call->stream);
    });
}
