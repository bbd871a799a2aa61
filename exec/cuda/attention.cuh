/* attention: what the attention kernels share. A row of qkv holds the q heads, the k heads, then
 * the v heads, head_dim elements each; query head i reads kv head i / group. */
#ifndef HLM_EXEC_CUDA_ATTENTION_CUH
#define HLM_EXEC_CUDA_ATTENTION_CUH

#include "exec/cuda/device.cuh"

struct attention_shape {
    int seq_len, heads, kv_heads, group, head_dim, batch;
    bool causal;
    float scale; /* 1 / sqrt(head_dim) */

    __host__ __device__ int64_t qkv_stride() const
    {
        return static_cast<int64_t>(heads + 2 * kv_heads) * head_dim;
    }
    __host__ __device__ int64_t out_stride() const
    {
        return static_cast<int64_t>(heads) * head_dim;
    }
    /* The first element of a sequence's q, k or v head in qkv, and of a head in out. */
    __device__ int64_t q_at(int sequence, int head) const
    {
        return static_cast<int64_t>(sequence) * seq_len * qkv_stride() + head * head_dim;
    }
    __device__ int64_t k_at(int sequence, int kv_head) const
    {
        return q_at(sequence, heads + kv_head);
    }
    __device__ int64_t v_at(int sequence, int kv_head) const
    {
        return q_at(sequence, heads + kv_heads + kv_head);
    }
    __device__ int64_t out_at(int sequence, int head) const
    {
        return static_cast<int64_t>(sequence) * seq_len * out_stride() + head * head_dim;
    }
    /* The first of a head's numbers per query: lse, dots. */
    __device__ int64_t stats_at(int sequence, int head) const
    {
        return (static_cast<int64_t>(sequence) * heads + head) * seq_len;
    }
    __device__ bool sees(int query, int key) const
    {
        return query < seq_len && key < seq_len && (!causal || key <= query);
    }
};

/* Per (sequence, head, query): the sum over columns of dout * out. */
struct attention_grad {
    const void *qkv, *dout;
    const float *lse, *dots;
    void *dqkv;
};

/* Tensor cores (bf16, head_dim 64, 80, 96 or 128): attention_fwd.cu, attention_bwd.cu.
 * cudaErrorNotSupported for other shapes. */
cudaError_t attention_fwd_mma(const attention_shape &shape, const void *qkv, void *out, float *lse,
                              cudaStream_t stream);
cudaError_t attention_bwd_mma(const attention_shape &shape, const attention_grad &grad,
                              cudaStream_t stream);

/* fp32 arithmetic, any head_dim up to PLAIN_MAX_HEAD_DIM: attention_plain.cu. probs may be NULL. */
constexpr int PLAIN_MAX_HEAD_DIM = 128;
template <class T>
void attention_fwd_plain(const attention_shape &shape, const T *qkv, T *out, float *lse, T *probs,
                         cudaStream_t stream);
template <class T>
void attention_bwd_plain(const attention_shape &shape, const attention_grad &grad,
                         cudaStream_t stream);

#endif
